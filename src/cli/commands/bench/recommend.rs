//! From what a disk takes to `--chunk` and `--memory`. Pure.

use serde::Serialize;

use super::fit::ServiceTime;
use crate::config::MIN_MEMORY_BYTES;

const MIB: u64 = 1 << 20;
/// Positioning is to cost this part of a turn's time at most.
pub const POSITIONING_SHARE: f64 = 0.05;
/// Bounds of the chunk: below a turn is not worth it; no turn of the drain is longer.
pub const CHUNK_BYTES: (u64, u64) = (256 << 10, 64 * MIB);
/// One chunk of each file fills while another one waits for its turn.
const CHUNKS_PER_WRITER: u64 = 2;
/// Memory is recommended in multiples of this where there is so much.
const MEMORY_STEP: u64 = 64 * MIB;

/// What is to be served, and on what.
#[derive(Clone, Copy, Debug)]
pub struct Demand {
    /// Files written at the same time.
    pub writers: u32,
    /// For so many seconds the writers may be twice as fast as the disk.
    pub overload_s: f64,
    /// Of the machine's memory, what may be taken.
    pub usable_memory_bytes: u64,
}

/// Why it is so much memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Because {
    /// Two chunks of each writer.
    Chunks,
    /// The overload.
    Overload,
    /// More is wanted, and not there.
    Machine,
}

/// What to give to `mount`.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Recommendation {
    /// `--chunk`: a power of two.
    pub chunk_bytes: u64,
    /// `--memory`: four chunks at least.
    pub memory_bytes: u64,
    /// What of the time positioning takes then.
    pub positioning_share: f64,
    /// Why so much.
    pub memory_because: Because,
    /// How long writers that are twice as fast as the disk fill the memory.
    pub overload_s: f64,
}

/// The smallest chunk with which positioning costs no more than [`POSITIONING_SHARE`], and the
/// memory that it and the overload need, within what the machine has.
pub fn recommend(service: &ServiceTime, demand: &Demand) -> Recommendation {
    let most = usable(demand.usable_memory_bytes);
    let for_chunks = |chunk: u64| chunk * CHUNKS_PER_WRITER * u64::from(demand.writers).max(2);
    let sequential = (1.0 / POSITIONING_SHARE - 1.0) * service.positioning_s * service.bytes_per_s;
    // A float that is too large becomes the largest number.
    let wanted = (sequential as u64).clamp(CHUNK_BYTES.0, CHUNK_BYTES.1).next_power_of_two();
    let mut chunk_bytes = wanted;
    while chunk_bytes > CHUNK_BYTES.0 && for_chunks(chunk_bytes) > most {
        chunk_bytes /= 2;
    }
    let for_overload = (service.bytes_per_s * demand.overload_s) as u64;
    let needed = for_chunks(chunk_bytes).max(for_overload).max(MEMORY_STEP);
    let memory_bytes = needed.checked_next_multiple_of(MEMORY_STEP).unwrap_or(most).min(most);
    let memory_because = if chunk_bytes < wanted || needed > most {
        Because::Machine
    } else if for_overload > for_chunks(chunk_bytes) {
        Because::Overload
    } else {
        Because::Chunks
    };
    Recommendation {
        chunk_bytes,
        memory_bytes,
        positioning_share: service.positioning_share(chunk_bytes),
        memory_because,
        overload_s: memory_bytes as f64 / service.bytes_per_s,
    }
}

/// Rounded down to what is easy to read, and never less than a mount needs.
fn usable(bytes: u64) -> u64 {
    let step = if bytes >= MEMORY_STEP { MEMORY_STEP } else { MIB };
    (bytes / step * step).max(MIN_MEMORY_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const DEMAND: Demand = Demand { writers: 40, overload_s: 10.0, usable_memory_bytes: 8 << 30 };

    fn disk(positioning_s: f64, bytes_per_s: f64) -> ServiceTime {
        ServiceTime { positioning_s, bytes_per_s }
    }

    #[test]
    fn a_disk_with_seeks_gets_long_turns() {
        // 19 * 8 ms * 100 MB/s = 15.2 MB.
        let got = recommend(&disk(0.008, 100e6), &DEMAND);
        assert_eq!((got.chunk_bytes, got.memory_bytes), (16 * MIB, 1280 * MIB));
        assert_eq!(got.memory_because, Because::Chunks);
        assert!(got.positioning_share <= POSITIONING_SHARE);
    }

    #[test]
    fn flash_gets_short_ones_and_memory_for_the_overload() {
        let got = recommend(&disk(10e-6, 500e6), &DEMAND);
        assert_eq!((got.chunk_bytes, got.memory_bytes), (256 << 10, 4800 * MIB));
        assert_eq!(got.memory_because, Because::Overload);
        assert!(got.overload_s >= 10.0);
    }

    #[test]
    fn what_the_machine_has_not_is_not_recommended() {
        let small = Demand { usable_memory_bytes: 700 * MIB, ..DEMAND };
        let got = recommend(&disk(0.008, 100e6), &small);
        assert_eq!((got.chunk_bytes, got.memory_bytes), (8 * MIB, 640 * MIB));
        assert_eq!(got.memory_because, Because::Machine);
        let none = recommend(&disk(0.008, 100e6), &Demand { usable_memory_bytes: 0, ..DEMAND });
        assert_eq!((none.chunk_bytes, none.memory_bytes), (256 << 10, 4 * MIB));
    }

    proptest! {
        /// Goal: what is recommended is accepted, and keeps the promises of its fields.
        #[test]
        fn every_recommendation_is_sound(
            positioning_s in 0.0..10.0f64, log_rate in 3.0..12.0f64, writers in 1u32..=1000,
            overload_s in 0.0..3600.0f64, usable_memory_bytes in any::<u64>(), shift in 0u32..60,
        ) {
            let usable_memory_bytes = usable_memory_bytes >> shift;
            let service = disk(positioning_s, 10f64.powf(log_rate));
            let demand = Demand { writers, overload_s, usable_memory_bytes };
            let got = recommend(&service, &demand);
            prop_assert!(got.chunk_bytes.is_power_of_two());
            prop_assert!((CHUNK_BYTES.0..=CHUNK_BYTES.1).contains(&got.chunk_bytes));
            prop_assert!(got.chunk_bytes * 4 <= got.memory_bytes);
            prop_assert!(got.memory_bytes <= usable_memory_bytes.max(MIN_MEMORY_BYTES));
            if got.memory_because != Because::Machine {
                prop_assert!(u64::from(writers) * 2 * got.chunk_bytes <= got.memory_bytes);
                prop_assert!(got.overload_s >= overload_s * 0.999_999 - 1e-6);
                let is_least = got.chunk_bytes == CHUNK_BYTES.0
                    || service.positioning_share(got.chunk_bytes / 2) > POSITIONING_SHARE * 0.999;
                prop_assert!(is_least, "{:?}", got);
                prop_assert!(got.chunk_bytes == CHUNK_BYTES.1
                    || got.positioning_share <= POSITIONING_SHARE * 1.001);
            }
        }
    }
}
