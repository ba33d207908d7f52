//! A lane: one thread that gives one file after another its turn on a backing device.

use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use super::{Plan, Run, Source, Throttle, Written, write_run};
use crate::arena::Arena;
use crate::backing::{Storage, errno};
use crate::clock::boottime_ms;
use crate::schedule::{Outcome, Policy, Scheduler, Turn};

/// Largest run of one write, so that memory comes back in steps that are small against the stall
/// that writers may see, and large against the cost of a system call.
const RUN_BYTES_MAX: u64 = 4 << 20;

/// The scheduler of one backing device and the lanes that wait for it.
#[derive(Debug)]
pub struct LaneQueue {
    scheduler: Mutex<Scheduler>,
    changed: Condvar,
}

impl LaneQueue {
    /// An empty queue.
    pub fn new(policy: Policy) -> LaneQueue {
        LaneQueue { scheduler: Mutex::new(Scheduler::new(policy)), changed: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Scheduler> {
        self.scheduler.lock().expect("the scheduler does not panic")
    }

    /// Tells the scheduler something, and wakes a lane in case there is work now. Does no I/O.
    pub fn with<R>(&self, tell: impl FnOnce(&mut Scheduler) -> R) -> R {
        let mut scheduler = self.lock();
        let before = scheduler.wake_at_ms();
        let result = tell(&mut scheduler);
        let after = scheduler.wake_at_ms();
        drop(scheduler);
        if after.is_some_and(|after| before.is_none_or(|before| after < before)) {
            self.changed.notify_one();
        }
        result
    }

    /// Makes every waiting lane look again.
    pub fn wake_all(&self) {
        self.changed.notify_all();
    }

    /// Waits until some file has a turn.
    fn wait_turn(&self) -> Turn {
        let mut scheduler = self.lock();
        loop {
            let now_ms = boottime_ms();
            if let Some(turn) = scheduler.next_turn(now_ms) {
                return turn;
            }
            scheduler = match scheduler.wake_at_ms() {
                Some(at_ms) => {
                    let wait = Duration::from_millis(at_ms.saturating_sub(now_ms).max(1));
                    let waited = self.changed.wait_timeout(scheduler, wait);
                    waited.expect("the scheduler does not panic").0
                }
                None => self.changed.wait(scheduler).expect("the scheduler does not panic"),
            };
        }
    }
}

/// What a lane works with.
#[derive(Clone)]
struct Lane {
    queue: Arc<LaneQueue>,
    source: Arc<dyn Source>,
    storage: Arc<dyn Storage>,
    throttle: Arc<Throttle>,
    arena: Arena,
    run_bytes_max: u64,
}

/// Starts `count` lanes on a queue. They run as long as the process.
pub fn spawn_lanes(
    count: u32,
    queue: &Arc<LaneQueue>,
    source: &Arc<dyn Source>,
    storage: &Arc<dyn Storage>,
    throttle: &Arc<Throttle>,
    arena: Arena,
) -> std::io::Result<()> {
    let memory_bytes = u64::from(arena.segments()) * u64::from(arena.segment_bytes());
    let run_bytes_max = RUN_BYTES_MAX.min(memory_bytes / 16);
    let lane = Lane {
        queue: queue.clone(),
        source: source.clone(),
        storage: storage.clone(),
        throttle: throttle.clone(),
        arena,
        run_bytes_max: throttle.run_bytes_max(run_bytes_max),
    };
    for number in 0..count {
        let lane = lane.clone();
        std::thread::Builder::new().name(format!("lane-{number}")).spawn(move || {
            loop {
                lane.take_turn();
            }
        })?;
    }
    Ok(())
}

impl Lane {
    fn take_turn(&self) {
        let turn = self.queue.wait_turn();
        let (bytes, outcome) = self.write_turn(&turn);
        self.source.turn_ended(turn.file, turn.reason, bytes, &mut |load| {
            let now_ms = boottime_ms();
            self.queue.with(|scheduler| scheduler.end_turn(turn.file, load, outcome, now_ms));
        });
    }

    /// Writes a run, into the space that is held for it where the disk has no other.
    fn write(&self, run: &Run) -> std::io::Result<Written> {
        loop {
            match write_run(&*self.storage, &self.arena, run) {
                Err(error) if errno(&error) == libc::ENOSPC && self.source.give_space(run) => {}
                result => return result,
            }
        }
    }

    fn write_turn(&self, turn: &Turn) -> (u64, Outcome) {
        let mut range = match self.source.plan_turn(turn.file, turn.reason) {
            Plan::Write(range) => range,
            Plan::Nothing => return (0, Outcome::Written),
            Plan::NotBefore(at_ms) => return (0, Outcome::RetryAt(at_ms)),
        };
        let mut bytes = 0;
        loop {
            let run = match self.source.take_run(turn.file, range.clone(), self.run_bytes_max) {
                Ok(Some(run)) => run,
                Ok(None) => return (bytes, Outcome::Written),
                Err(error) => {
                    let retry_at_ms = self.source.failed(turn.file, None, error);
                    return (bytes, Outcome::RetryAt(retry_at_ms));
                }
            };
            self.throttle.wait_turn(run.len);
            log::trace!("write file={} offset={} len={}", run.file.0, run.offset, run.len);
            // Behind the run's start nothing is taken again in this turn: it ends.
            range.start = run.offset + run.len;
            match self.write(&run) {
                Ok(written) => {
                    bytes += run.len;
                    self.source.stored(run, written);
                }
                Err(error) => {
                    let retry_at_ms = self.source.failed(turn.file, Some(run), error);
                    return (bytes, Outcome::RetryAt(retry_at_ms));
                }
            }
        }
    }
}
