//! `--drain-rate`: leaves disk bandwidth to others by spacing the runs of all lanes.

use std::sync::Mutex;
use std::time::{Duration, Instant};

/// What was not used of the rate is kept for so long: the time that a write itself takes, and that
/// by which a sleep is late.
const KEPT: Duration = Duration::from_millis(100);

/// A limit of bytes per second shared by all lanes.
#[derive(Debug)]
pub struct Throttle {
    bytes_per_second: Option<u64>,
    free_at: Mutex<Option<Instant>>,
}

impl Throttle {
    /// `None` is no limit.
    pub fn new(bytes_per_second: Option<u64>) -> Throttle {
        Throttle { bytes_per_second, free_at: Mutex::new(None) }
    }

    /// Most bytes a run should have, so that the limit shows in small steps: a tenth of a second.
    pub fn run_bytes_max(&self, otherwise: u64) -> u64 {
        self.bytes_per_second.map_or(otherwise, |rate| (rate / 10).clamp(1, otherwise))
    }

    /// Sleeps until `bytes` more may be written. Only lanes wait here.
    pub fn wait_turn(&self, bytes: u64) {
        let Some(rate) = self.bytes_per_second else { return };
        let cost = Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64);
        let now = Instant::now();
        let start = {
            let mut free_at = self.free_at.lock().expect("no panics under this lock");
            let kept_from = now.checked_sub(KEPT).unwrap_or(now);
            let start = free_at.unwrap_or(now).max(kept_from);
            *free_at = Some(start + cost);
            start
        };
        std::thread::sleep((start + cost).saturating_duration_since(now));
    }
}
