//! A lane: one thread that gives one file after another its turn on a backing device.

use std::cell::Cell;
use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::rate::Rate;
use super::width::Width;
use super::{Plan, Run, RunSize, Source, Throttle, Written, write_run};
use crate::arena::Arena;
use crate::backing::{Storage, errno};
use crate::clock::boottime_ms;
use crate::isolation::Isolation;
use crate::priority;
use crate::schedule::{FileId, Lanes, Outcome, Policy, Scheduler, Turn};

/// A run has at most such a part of the memory.
const RUN_PART: u64 = 16;

/// What a lane has in hand: for a user whose disk hangs.
#[derive(Clone, Debug)]
pub struct Work {
    /// The file whose turn it is.
    pub file: FileId,
    /// What of it is being written; empty while that is looked up.
    pub range: Range<u64>,
    /// Since when, in milliseconds of CLOCK_BOOTTIME.
    pub since_ms: u64,
    /// What the lane wrote in the last second.
    pub bytes_per_s: u64,
}

/// What is known of a lane.
#[derive(Debug, Default)]
struct Known {
    work: Option<Work>,
    rate: Rate,
}

/// The scheduler of one backing device and the lanes that wait for it.
#[derive(Debug)]
pub struct LaneQueue {
    scheduler: Mutex<Scheduler>,
    changed: Condvar,
    width: Width,
    /// By the number of the lane.
    lanes: Mutex<Vec<Known>>,
}

impl LaneQueue {
    /// An empty queue, for so many lanes.
    pub fn new(policy: Policy, lanes: Lanes) -> LaneQueue {
        let scheduler = Mutex::new(Scheduler::new(policy));
        let width = Width::new(lanes);
        LaneQueue { scheduler, changed: Condvar::new(), width, lanes: Mutex::default() }
    }

    /// How many lanes may be at work now.
    pub fn lanes(&self) -> u32 {
        self.width.count()
    }

    /// What each lane has in hand.
    pub fn at_work(&self) -> Vec<Option<Work>> {
        let now_ms = boottime_ms();
        let lanes = self.lanes.lock().expect("no panics under this lock");
        let work = |known: &Known| {
            let work = known.work.clone()?;
            Some(Work { bytes_per_s: known.rate.per_second(now_ms), ..work })
        };
        lanes.iter().map(work).collect()
    }

    fn note(&self, lane: usize, note: impl FnOnce(&mut Known)) {
        let mut lanes = self.lanes.lock().expect("no panics under this lock");
        if lanes.len() <= lane {
            lanes.resize_with(lane + 1, Known::default);
        }
        note(&mut lanes[lane]);
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
            if !self.width.has_room() {
                // Those at work look again when they are done; who raises the count wakes us.
                scheduler = self.changed.wait(scheduler).expect("the scheduler does not panic");
                continue;
            }
            let now_ms = boottime_ms();
            if let Some(turn) = scheduler.next_turn(now_ms) {
                self.width.begin();
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
    number: usize,
    queue: Arc<LaneQueue>,
    source: Arc<dyn Source>,
    storage: Arc<dyn Storage>,
    throttle: Arc<Throttle>,
    arena: Arena,
    isolation: Arc<Isolation>,
    run_size: Cell<RunSize>,
}

/// Starts the lanes of a queue. They run as long as the process.
pub fn spawn_lanes(
    queue: &Arc<LaneQueue>,
    source: &Arc<dyn Source>,
    storage: &Arc<dyn Storage>,
    throttle: &Arc<Throttle>,
    arena: Arena,
    isolation: &Arc<Isolation>,
) -> std::io::Result<()> {
    let memory_bytes = u64::from(arena.segments()) * u64::from(arena.segment_bytes());
    let lane = Lane {
        number: 0,
        queue: queue.clone(),
        source: source.clone(),
        storage: storage.clone(),
        throttle: throttle.clone(),
        arena,
        isolation: isolation.clone(),
        run_size: Cell::new(RunSize::new(throttle.run_bytes_max(memory_bytes / RUN_PART))),
    };
    for number in 0..queue.width.threads() as usize {
        let lane = Lane { number, ..lane.clone() };
        std::thread::Builder::new().name(format!("lane-{number}")).spawn(move || {
            priority::run_soon();
            loop {
                lane.take_turn();
                lane.queue.width.end();
            }
        })?;
    }
    Ok(())
}

impl Lane {
    fn take_turn(&self) {
        let turn = self.queue.wait_turn();
        let end = |load, outcome| {
            let now_ms = boottime_ms();
            self.queue.with(|scheduler| scheduler.end_turn(turn.file, load, outcome, now_ms));
        };
        let Some(_in_hand) = self.isolation.begin_writing(turn.file.0) else {
            let put_off = &mut |load, at_ms| end(load, Outcome::RetryAt(at_ms));
            return self.source.turn_refused(turn.file, put_off);
        };
        self.note_work(turn.file, 0..0);
        let (bytes, outcome) = self.write_turn(&turn);
        self.source.turn_ended(turn.file, turn.reason, bytes, &mut |load| end(load, outcome));
        self.queue.note(self.number, |known| known.work = None);
    }

    fn note_work(&self, file: FileId, range: Range<u64>) {
        let work = Work { file, range, since_ms: boottime_ms(), bytes_per_s: 0 };
        self.queue.note(self.number, |known| known.work = Some(work));
    }

    fn note_written(&self, bytes: u64, took: Duration, at_work: u32) {
        if self.queue.width.note_run(bytes, took, at_work) {
            self.queue.wake_all();
        }
        let now_ms = boottime_ms();
        let begun_ms = now_ms.saturating_sub(took.as_millis() as u64);
        self.queue.note(self.number, |known| known.rate.note(bytes, begun_ms, now_ms));
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
            let run =
                match self.source.take_run(turn.file, range.clone(), self.run_size.get().bytes()) {
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
            self.note_work(run.file, run.offset..range.start);
            let (begun, at_work) = (Instant::now(), self.queue.width.at_work());
            match self.write(&run) {
                Ok(written) => {
                    bytes += run.len;
                    let (mut size, took) = (self.run_size.get(), begun.elapsed());
                    size.note(run.len, took);
                    self.note_written(run.len, took, at_work);
                    self.run_size.set(size);
                    self.source.stored(run, written, took);
                }
                Err(error) => {
                    let retry_at_ms = self.source.failed(turn.file, Some(run), error);
                    return (bytes, Outcome::RetryAt(retry_at_ms));
                }
            }
        }
    }
}
