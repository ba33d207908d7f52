//! How many lanes of a queue may be at work, and how many are.
//!
//! The count is given, or learned from the runs ([`Lanes`]). There are threads for the most; those
//! that are too many wait. The lock is a leaf.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use crate::clock::boottime_ms;
use crate::schedule::{LaneRun, Lanes};

/// Of one backing device.
#[derive(Debug)]
pub struct Width {
    lanes: Mutex<Lanes>,
    /// Mirrors what `lanes` says.
    count: AtomicU32,
    at_work: AtomicU32,
}

impl Width {
    /// As many as `lanes` says.
    pub fn new(lanes: Lanes) -> Width {
        let count = AtomicU32::new(lanes.count());
        Width { lanes: Mutex::new(lanes), count, at_work: AtomicU32::new(0) }
    }

    /// In force.
    pub fn count(&self) -> u32 {
        self.count.load(Ordering::Relaxed)
    }

    /// Threads that are needed.
    pub fn threads(&self) -> u32 {
        self.lock().most()
    }

    fn lock(&self) -> MutexGuard<'_, Lanes> {
        self.lanes.lock().expect("no panics under this lock")
    }

    /// Whether one more may begin a turn. Called under the queue's lock, as is [`Width::begin`].
    pub fn has_room(&self) -> bool {
        self.at_work.load(Ordering::Relaxed) < self.count()
    }

    /// One more is at work.
    pub fn begin(&self) {
        self.at_work.fetch_add(1, Ordering::Relaxed);
    }

    /// One less is. Whoever waits for room is to be woken.
    pub fn end(&self) {
        self.at_work.fetch_sub(1, Ordering::Relaxed);
    }

    /// Lanes at work.
    pub fn at_work(&self) -> u32 {
        self.at_work.load(Ordering::Relaxed)
    }

    /// A run is stored, in whose beginning so many were at work. Whether there may be more lanes now:
    /// they are to be woken.
    pub fn note_run(&self, bytes: u64, took: Duration, at_work: u32) -> bool {
        let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let run = LaneRun { bytes, took_us, at_work };
        let count = self.lock().note_run(run, boottime_ms());
        self.count.swap(count, Ordering::Relaxed) < count
    }
}
