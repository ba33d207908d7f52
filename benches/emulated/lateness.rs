//! How late the machine itself is: a thread at real-time priority that is to wake every millisecond.
//! What delays it delays everybody, and is no contender's doing: mostly another machine on the same
//! processors.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::place::run_first;
use super::watch::Watch;

const EVERY: Duration = Duration::from_millis(1);
/// Several of the shortest times for which programs are let write.
const LATE: Duration = Duration::from_millis(2);

/// What the thread saw.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Lateness {
    /// How often it was to wake.
    pub wakes: u64,
    /// How often it did so more than two milliseconds late.
    pub late: u64,
    /// The latest.
    pub longest_s: f64,
}

impl Lateness {
    /// Until it is ended.
    pub fn watch() -> Watch<Lateness> {
        let mut last = None;
        Watch::begin(EVERY, Lateness::default(), move |seen| {
            let now = Instant::now();
            match last.replace(now) {
                Some(last) => seen.note((now - last).saturating_sub(EVERY)),
                None => run_first(1),
            }
        })
    }

    fn note(&mut self, late: Duration) {
        self.wakes += 1;
        self.late += u64::from(late > LATE);
        self.longest_s = self.longest_s.max(late.as_secs_f64());
    }

    /// Of a thousand.
    pub fn late_per_thousand(&self) -> f64 {
        self.late as f64 * 1e3 / self.wakes.max(1) as f64
    }
}
