//! How many bytes one run of a lane has: what the disk takes in a tenth of a second.
//!
//! Between two runs the disk waits for us, for a few milliseconds on a busy machine: runs must be
//! long against that. Memory comes back at the end of each: they must be short against a stall.

use std::ops::Range;
use std::time::Duration;

/// What a run should take.
const RUN_TIME: Duration = Duration::from_millis(100);
/// Bounds, in bytes. Below, the cost of a call is no longer small; what is above is more than any
/// disk needs to be busy.
const RUN_BYTES: Range<u64> = 1 << 20..32 << 20;
/// Before anything is known of the disk.
const FIRST_BYTES: u64 = 4 << 20;
/// The largest step between two runs: one that took long for a reason of its own, or hardly any
/// time because a cache took it, does not decide alone.
const STEP: u64 = 2;

/// How much of `max_bytes` from `offset` on is taken for a run to end with a stripe: all of it where
/// it reaches the end of none. The next run then begins with one.
pub fn whole_stripes(offset: u64, max_bytes: u64, stripe_bytes: Option<u64>) -> u64 {
    let end = offset.saturating_add(max_bytes);
    let past = stripe_bytes.filter(|bytes| *bytes > 0).map_or(0, |bytes| end % bytes);
    if past < max_bytes { max_bytes - past } else { max_bytes }
}

/// The size of the next run, learned from those before.
#[derive(Clone, Copy, Debug)]
pub struct RunSize {
    bytes: u64,
    most: u64,
}

impl RunSize {
    /// Never more than `most`.
    pub fn new(most: u64) -> RunSize {
        RunSize { bytes: FIRST_BYTES.min(most), most }
    }

    /// In bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether something is learned from a run of `bytes`. Small ones say little of how fast a disk is.
    pub fn learns_from(bytes: u64) -> bool {
        bytes >= RUN_BYTES.start
    }

    /// Learns from a run of `bytes`, unless it is small.
    pub fn note(&mut self, bytes: u64, took: Duration) {
        if !Self::learns_from(bytes) {
            return;
        }
        let wanted = (bytes as f64 * RUN_TIME.as_secs_f64() / took.as_secs_f64().max(1e-6)) as u64;
        let step = wanted.clamp(self.bytes / STEP, self.bytes * STEP);
        self.bytes = step.clamp(RUN_BYTES.start, RUN_BYTES.end).min(self.most);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is reached after some runs on a disk that takes so many bytes a second, and as much
    /// more time for each.
    fn settled(rate: f64, most: u64) -> u64 {
        let mut size = RunSize::new(most);
        for _ in 0..20 {
            size.note(size.bytes(), Duration::from_secs_f64(size.bytes() as f64 / rate));
        }
        size.bytes()
    }

    #[test]
    fn a_tenth_of_a_second() {
        assert!((9_900_000..10_100_000).contains(&settled(100e6, u64::MAX)));
        assert!((1_990_000..2_010_000).contains(&settled(20e6, u64::MAX)));
    }

    #[test]
    fn runs_end_with_a_stripe_where_they_reach_one() {
        assert_eq!(whole_stripes(0, 1000, Some(300)), 900);
        assert_eq!(whole_stripes(100, 1000, Some(300)), 800, "1100 is past 900");
        assert_eq!(whole_stripes(100, 100, Some(300)), 100, "reaches none");
        assert_eq!(whole_stripes(100, 200, Some(300)), 200);
        assert_eq!(whole_stripes(100, 201, Some(300)), 200);
        assert_eq!(whole_stripes(100, 1000, None), 1000);
    }

    #[test]
    fn within_bounds() {
        assert_eq!(settled(1e6, u64::MAX), RUN_BYTES.start);
        assert_eq!(settled(10e9, u64::MAX), RUN_BYTES.end);
        assert_eq!(settled(10e9, 5 << 20), 5 << 20);
        assert_eq!(settled(100e6, 1000), 1000, "a small memory");
    }

    #[test]
    fn one_run_does_not_decide() {
        let mut size = RunSize::new(u64::MAX);
        size.note(4 << 20, Duration::from_secs(5));
        assert_eq!(size.bytes(), 2 << 20);
        size.note(1000, Duration::ZERO);
        assert_eq!(size.bytes(), 2 << 20);
    }
}
