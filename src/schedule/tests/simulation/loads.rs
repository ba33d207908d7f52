//! Who writes how much: equal writers, and skewed ones.

use super::Random;
use super::engine::{Disk, Setup, Sharing, Writer};

pub const KIB: u64 = 1 << 10;
pub const MIB: u64 = 1 << 20;

/// The kernel looks every five seconds for dirty pages to write.
const KERNEL_PERIOD_US: u64 = 5_000_000;
const PAGE_BYTES: u64 = 4 << 10;

/// Writers that together want half as much again as the disk could take without positioning. All
/// start at the same moment.
pub fn equal(writers: u64, chunk_bytes: u64, request_bytes: u64) -> Setup {
    let writer =
        Writer { request_bytes, period_us: request_bytes * writers / 150, start_us: 0, disk: 0 };
    Setup {
        chunk_bytes,
        align_bytes: request_bytes,
        segment_bytes: request_bytes.min(64 * KIB),
        turn_chunks: 1,
        memory_bytes: writers * chunk_bytes / 100 * 60,
        sharing: Sharing::All,
        share_bytes: request_bytes,
        in_flight_max: writers as usize,
        max_age_ms: 30_000,
        disks: vec![Disk { position_us: 10_000, bytes_per_us: 100 }],
        writers: vec![writer; writers as usize],
        warm_up_us: 10_000_000,
        end_us: 60_000_000,
    }
}

/// Writers whose rates fall with their rank, the second having half of the first and so on, which
/// want `bytes_per_us` together. The kernel sends what a slow one has every five seconds, pages at
/// least, and `request_bytes` at most. Disks and beginnings are random.
pub fn zipf(
    writers: usize,
    disks: usize,
    bytes_per_us: f64,
    request_bytes: u64,
    random: &mut Random,
) -> Vec<Writer> {
    let harmonic: f64 = (1..=writers).map(|rank| 1.0 / rank as f64).sum();
    let writer = |rank: usize| {
        let rate = bytes_per_us / harmonic / rank as f64;
        let collected_bytes = (rate * KERNEL_PERIOD_US as f64) as u64 / PAGE_BYTES * PAGE_BYTES;
        let request_bytes = collected_bytes.clamp(PAGE_BYTES, request_bytes);
        let period_us = (request_bytes as f64 / rate) as u64;
        let start_us = random.below(period_us);
        let disk = random.below(disks as u64) as usize;
        Writer { request_bytes, period_us, start_us, disk }
    };
    (1..=writers).map(writer).collect()
}

/// `share` of the bytes that the disk could take without positioning are wanted. The disk is as
/// fast as there are writers: it positions for each of them within two seconds.
pub fn skewed(writers: usize, share: f64, random: &mut Random) -> Setup {
    let n = writers as u64;
    Setup {
        disks: vec![Disk { position_us: 2_000_000 / n, bytes_per_us: n / 20 }],
        writers: zipf(writers, 1, share * n as f64 / 20.0, 64 * KIB, random),
        turn_chunks: 256,
        memory_bytes: n * 256 * KIB / 4 * 3,
        share_bytes: 256 * KIB,
        in_flight_max: 64,
        max_age_ms: 12_000,
        warm_up_us: 15_000_000,
        end_us: 40_000_000,
        ..equal(n, 256 * KIB, 64 * KIB)
    }
}
