//! What is measured while a mount is served, and what can be said of it.
//!
//! | file | what |
//! |---|---|
//! | `histogram` | distributions in fixed buckets |
//! | `recent` | what the lanes of a disk wrote in the last seconds |
//! | `metrics` | pure: the text that Prometheus reads |
//! | `slow` | pure: why programs are slow, from the state of a mount |
//!
//! `fs` notes, the virtual files and the command line show. Nothing here does I/O. What is noted
//! for a WRITE is noted only when it was held back, so that the others pay nothing. The figures
//! begin anew with a worker; those of [`Counters`](crate::arena::Counters) do not.

pub mod histogram;
pub mod metrics;
pub mod recent;
pub mod slow;

use std::time::Duration;

use histogram::Histogram;

/// What one worker has measured.
#[derive(Debug)]
pub struct Stats {
    /// How long WRITEs, and programs about to write, were held back: of those that were.
    pub write_stall_us: Histogram,
    /// Bytes of each run that a lane wrote.
    pub drain_write_bytes: Histogram,
    /// How long the backing filesystem took for each.
    pub drain_write_us: Histogram,
}

impl Default for Stats {
    fn default() -> Stats {
        Stats {
            write_stall_us: Histogram::new(&STALL_BOUNDS_US),
            drain_write_bytes: Histogram::new(&SIZE_BOUNDS_BYTES),
            drain_write_us: Histogram::new(&SERVICE_BOUNDS_US),
        }
    }
}

/// Around the 150 ms for which the gate holds a program at most.
const STALL_BOUNDS_US: [u64; 12] = [
    1_000, 5_000, 10_000, 25_000, 50_000, 100_000, 150_000, 250_000, 500_000, 1_000_000, 5_000_000,
    30_000_000,
];
/// From a block to the longest turn.
const SIZE_BOUNDS_BYTES: [u64; 10] = [
    4 << 10,
    16 << 10,
    64 << 10,
    256 << 10,
    1 << 20,
    2 << 20,
    4 << 20,
    8 << 20,
    16 << 20,
    32 << 20,
];
/// A run is as long as the disk takes in about a tenth of a second.
const SERVICE_BOUNDS_US: [u64; 12] = [
    1_000, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    10_000_000, 30_000_000,
];

impl Stats {
    /// A run of `bytes` was written in `took`.
    pub fn note_run(&self, bytes: u64, took: Duration) {
        self.drain_write_bytes.note(bytes);
        self.drain_write_us.note(took.as_micros() as u64);
    }

    /// A WRITE, or a program about to write, was held back so long. Less than a millisecond is no
    /// stall.
    pub fn note_stall(&self, waited: Duration) {
        if waited >= Duration::from_millis(1) {
            self.write_stall_us.note(waited.as_micros() as u64);
        }
    }
}
