//! A lane: one thread that gives one file after another its turn on a backing device.
//!
//! A turn is begun when the [`Engine`] is to be asked. There are threads to spare for writes that do
//! not come back; what is neither late nor waiting is never more than the lanes that were asked for.

use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use super::ending::Ending;
use super::engine::{Crew, Engine, EngineState};
use super::rate::Rate;
use super::{Plan, Run, RunSize, Source, Throttle, Written, write_run};
use crate::arena::Arena;
use crate::backing::{Storage, errno, place_on_device};
use crate::clock::{boottime_ms, boottime_us};
use crate::isolation::Isolation;
use crate::priority;
use crate::schedule::circuit::{Attempt, Refused};
use crate::schedule::{FileId, LaneRun, Outcome, Policy, Reads, Scheduler, Sharing, Turn};

/// A run has at most such a part of the memory.
const RUN_PART: u64 = 16;

/// The turn beside another is not taken sooner, so that the requests of that one are at the disk
/// first: whoever is woken may well run before who woke him.
const BESIDE_AFTER_MS: u64 = 3;

/// Where smaller runs lie is not asked.
const PLACED_BYTES_MIN: u64 = 1 << 20;

/// How much later than it might a lane wakes for what becomes due by time: what becomes due shortly
/// after it needs no waking of its own then, of the many small files that a program leaves behind.
const COMPANY_MS: u64 = 10;

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

/// Whose turn it is, and whether there is to be one.
#[derive(Debug)]
struct Turns {
    scheduler: Scheduler,
    engine: Engine,
    sharing: Sharing,
    /// Lanes whose turn is being written to its end: nothing else of it is to come.
    ending: usize,
    /// The last of them that began to.
    last: Option<Ending>,
    /// When a turn beside such a one may be taken.
    beside_from_ms: u64,
    /// When the last of them ended.
    ended: Option<Instant>,
}

impl Turns {
    /// `Err`: when to look again; `None` when somebody will wake us.
    fn next(&mut self, look: Option<Look>, now_ms: u64) -> Result<(Turn, Attempt), Option<u64>> {
        if let Some(look) = look.filter(|look| !look.is_urgent) {
            self.sharing.may_begin(self.engine.at_work() > 0, look.reads, now_ms)?;
        }
        let was_closed = self.engine.is_closed();
        let is_beside = self.engine.is_full();
        if is_beside && self.ending > 0 && now_ms < self.beside_from_ms {
            return Err(Some(self.beside_from_ms));
        }
        let attempt = match self.engine.try_begin(self.ending > 0, now_ms) {
            Ok(attempt) => attempt,
            Err(Refused::Until(at_ms)) => return Err(Some(at_ms)),
            Err(Refused::WhileOut) => return Err(None),
        };
        if !was_closed {
            // The engine's pause is over: those of its files have been pauses enough.
            self.scheduler.end_all_delays();
        }
        match self.scheduler.next_turn(now_ms) {
            Some(turn) => Ok((turn, attempt)),
            None => {
                self.engine.cancel(attempt, now_ms);
                // Whoever ends a turn looks for the next one.
                let due_ms = self.scheduler.wake_at_ms().filter(|_| !is_beside);
                Err(due_ms.map(|due_ms| due_ms.saturating_add(COMPANY_MS)))
            }
        }
    }
}

/// How an attempt ended.
enum Ended {
    /// The engine was not asked for anything that it has to answer.
    Unasked,
    Stored,
    Refused(i32),
}

/// What lanes are told of their disk.
#[derive(Clone, Copy, Debug)]
pub struct Look {
    /// By whomever.
    pub reads: Reads,
    /// It cannot be left to others now.
    pub is_urgent: bool,
}

/// Looks at a disk. Does not wait for it.
pub type LookAtReads = Box<dyn Fn() -> Look + Send + Sync>;

/// The scheduler of one backing device and the lanes that wait for it.
pub struct LaneQueue {
    turns: Mutex<Turns>,
    changed: Condvar,
    /// Of a disk that is left to those who read from it, now and then.
    reads: Option<LookAtReads>,
    /// By the number of the lane.
    lanes: Mutex<Vec<Known>>,
}

impl LaneQueue {
    /// An empty queue.
    pub fn new(policy: Policy, crew: Crew, reads: Option<LookAtReads>) -> LaneQueue {
        let seed = u64::from(std::process::id()) << 32 ^ boottime_us();
        let turns = Turns {
            scheduler: Scheduler::new(policy),
            engine: Engine::new(crew, seed),
            sharing: Sharing::default(),
            ending: 0,
            last: None,
            beside_from_ms: 0,
            ended: None,
        };
        let (turns, lanes) = (Mutex::new(turns), Mutex::default());
        LaneQueue { turns, changed: Condvar::new(), reads, lanes }
    }

    /// How many lanes there may be now.
    pub fn lanes(&self) -> u32 {
        self.lock().engine.lanes()
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

    fn lock(&self) -> MutexGuard<'_, Turns> {
        self.turns.lock().expect("the scheduler does not panic")
    }

    /// Tells the scheduler something, and wakes a lane in case there is work now. Does no I/O.
    pub fn with<R>(&self, tell: impl FnOnce(&mut Scheduler) -> R) -> R {
        let mut turns = self.lock();
        let before = turns.scheduler.wake_at_ms();
        let result = tell(&mut turns.scheduler);
        let after = turns.scheduler.wake_at_ms();
        drop(turns);
        if after.is_some_and(|after| before.is_none_or(|before| after < before)) {
            self.changed.notify_one();
        }
        result
    }

    /// How many open files have something to write.
    pub fn open_streams(&self) -> usize {
        self.lock().scheduler.open_streams()
    }

    /// Makes every waiting lane look again.
    pub fn wake_all(&self) {
        self.changed.notify_all();
    }

    /// Whether the engine is another process or another machine.
    pub fn is_elsewhere(&self) -> bool {
        self.lock().engine.is_elsewhere()
    }

    /// Whether it is worth asking where a turn is to be written: nothing is known of it.
    fn wants_place(&self, file: FileId) -> bool {
        let turns = self.lock();
        turns.engine.takes_beside() && !turns.scheduler.knows_place(file)
    }

    /// Whether what begins at `place` is far from where the disk is, as far as is known.
    fn is_far(&self, place: Option<u64>) -> bool {
        self.lock().last.is_some_and(|last| !last.is_near(place))
    }

    /// Whether the next turn may be prepared while the last one ends.
    fn takes_beside(&self) -> bool {
        self.lock().engine.takes_beside()
    }

    /// Whether an error of writing says that the engine cannot be reached, and nothing of the file.
    pub fn is_outage(&self, errno: i32) -> bool {
        self.lock().engine.is_at_fault(errno)
    }

    /// What is known of the engine.
    pub fn engine(&self) -> EngineState {
        self.lock().engine.state()
    }

    /// Notes which writes are late; other threads then go on in their place. To be called every now
    /// and then. Does no I/O.
    pub fn expire(&self, now_ms: u64) {
        if self.lock().engine.expire(now_ms) {
            self.changed.notify_all();
        }
    }

    /// Nobody waits for the end of a pause any longer, neither an engine's nor a file's.
    pub fn end_pauses(&self) {
        let mut turns = self.lock();
        turns.engine.end_pause(boottime_ms());
        turns.scheduler.end_all_delays();
        drop(turns);
        self.changed.notify_all();
    }

    /// Waits until some file has a turn.
    fn wait_turn(&self) -> (Turn, Attempt) {
        loop {
            // Before the lock is taken: it is held for decisions only.
            let reads = self.look_at_reads();
            let mut turns = self.lock();
            let now_ms = boottime_ms();
            match turns.next(reads, now_ms) {
                Ok(begun) => return begun,
                Err(Some(at_ms)) => {
                    let wait = Duration::from_millis(at_ms.saturating_sub(now_ms).max(1));
                    drop(self.changed.wait_timeout(turns, wait));
                }
                Err(None) => drop(self.changed.wait(turns)),
            }
        }
    }

    fn look_at_reads(&self) -> Option<Look> {
        self.reads.as_ref().map(|look| look())
    }

    /// Whether a run of so many bytes, handed to the disk at `before`, was all that it had to do.
    fn was_alone(&self, run_bytes: u64, before: Option<Look>) -> bool {
        let (Some(before), Some(now)) = (before, self.look_at_reads()) else { return true };
        let read_bytes = now.reads.bytes.saturating_sub(before.reads.bytes);
        !now.reads.under_way && read_bytes < run_bytes / 16
    }

    /// The time of the attempt begins.
    fn restart(&self, attempt: Option<&Attempt>) {
        if let Some(attempt) = attempt {
            self.lock().engine.restart(attempt, boottime_ms());
        }
    }

    /// Waits until the disk may have what begins at `place` in hand.
    fn wait_to_follow(&self, place: Option<u64>) {
        let mut turns = self.lock();
        let goes_first = |last: Ending| !last.may_be_followed(place);
        while turns.ending > 0 && turns.engine.takes_beside() && turns.last.is_some_and(goes_first)
        {
            turns = self.changed.wait(turns).expect("the scheduler does not panic");
        }
    }

    /// All of a turn is on its way to the disk: so that it need not wait for us between two turns,
    /// another lane may prepare the next one and have it wait at the disk.
    fn begin_last_run(&self, ending: Ending) {
        let mut turns = self.lock();
        turns.ending += 1;
        turns.last = Some(ending);
        turns.beside_from_ms = boottime_ms() + BESIDE_AFTER_MS;
        drop(turns);
        self.changed.notify_one();
    }

    /// How long the disk had the end of a turn in hand, which was handed to it at `begun`: what was
    /// there before went first.
    fn end_last_run(&self, begun: Instant) -> Duration {
        let mut turns = self.lock();
        turns.ending -= 1;
        let now = Instant::now();
        let before = turns.ended.replace(now).filter(|_| turns.engine.takes_beside());
        drop(turns);
        // Who waits to follow.
        self.changed.notify_all();
        now - before.map_or(begun, |before| before.max(begun))
    }

    /// Ends an attempt, if there is one.
    fn end(&self, attempt: Option<Attempt>, ended: Ended) {
        if let Some(attempt) = attempt {
            self.end_in(&mut self.lock().engine, attempt, ended);
        }
    }

    /// The next attempt of a turn whose last one went well. `None` when it is not to go on.
    fn go_on(&self, attempt: Option<Attempt>) -> Option<Attempt> {
        let mut turns = self.lock();
        self.end_in(&mut turns.engine, attempt?, Ended::Stored);
        let is_ending = turns.ending > 0;
        turns.engine.try_begin(is_ending, boottime_ms()).ok()
    }

    fn end_in(&self, engine: &mut Engine, attempt: Attempt, ended: Ended) {
        let (was_closed, now_ms) = (engine.is_closed(), boottime_ms());
        match ended {
            Ended::Unasked => engine.cancel(attempt, now_ms),
            Ended::Stored => engine.succeed(attempt, now_ms),
            Ended::Refused(errno) => engine.refuse(attempt, errno, now_ms),
        }
        if !was_closed {
            // Others may go on.
            self.changed.notify_all();
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
    run_size: Arc<Mutex<RunSize>>,
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
    let run_bytes_max = throttle.run_bytes_max(memory_bytes / RUN_PART);
    let lane = Lane {
        number: 0,
        queue: queue.clone(),
        source: source.clone(),
        storage: storage.clone(),
        throttle: throttle.clone(),
        arena,
        isolation: isolation.clone(),
        run_size: Arc::new(Mutex::new(RunSize::new(run_bytes_max))),
    };
    for number in 0..queue.lock().engine.threads() {
        let lane = Lane { number, ..lane.clone() };
        std::thread::Builder::new().name(format!("lane-{number}")).spawn(move || {
            priority::run_soon();
            loop {
                lane.take_turn();
            }
        })?;
    }
    Ok(())
}

impl Lane {
    fn take_turn(&self) {
        let (turn, attempt) = self.queue.wait_turn();
        let mut attempt = Some(attempt);
        let end = |load, outcome| {
            let now_ms = boottime_ms();
            self.queue.with(|scheduler| scheduler.end_turn(turn.file, load, outcome, now_ms));
        };
        match self.isolation.begin_writing(turn.file.0) {
            None => {
                let put_off = &mut |load, at_ms| end(load, Outcome::RetryAt(at_ms));
                self.source.turn_refused(turn.file, put_off);
            }
            Some(_in_hand) => {
                self.note_work(turn.file, 0..0);
                let (bytes, outcome) = self.write_turn(&turn, &mut attempt);
                let end = &mut |load| end(load, outcome);
                self.source.turn_ended(turn.file, turn.reason, bytes, end);
                self.queue.note(self.number, |known| known.work = None);
            }
        }
        self.queue.end(attempt, Ended::Unasked);
    }

    fn note_work(&self, file: FileId, range: Range<u64>) {
        let work = Work { file, range, since_ms: boottime_ms(), bytes_per_s: 0 };
        self.queue.note(self.number, |known| known.work = Some(work));
    }

    fn note_written(&self, bytes: u64, took: Duration, at_work: u32) {
        let (now_ms, took_us) = (boottime_ms(), took.as_micros() as u64);
        let mut turns = self.queue.lock();
        turns.sharing.note_run(bytes, took_us);
        let is_more = turns.engine.note_run(LaneRun { bytes, took_us, at_work }, now_ms);
        drop(turns);
        if is_more {
            self.queue.wake_all();
        }
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

    /// The same, and how long the disk took for it.
    fn write_timed(&self, run: &Run, is_last: bool) -> (std::io::Result<Written>, Duration) {
        let is_placed = run.len >= PLACED_BYTES_MIN && self.queue.takes_beside();
        let place =
            if is_placed { place_on_device(run.data_file.as_fd(), run.offset) } else { None };
        self.queue.wait_to_follow(place);
        let begun = Instant::now();
        if !is_last {
            return (self.write(run), begun.elapsed());
        }
        self.queue.begin_last_run(Ending::of(run, place));
        let written = self.write(run);
        (written, self.queue.end_last_run(begun))
    }

    fn run_size(&self) -> MutexGuard<'_, RunSize> {
        self.run_size.lock().expect("no panics under this lock")
    }

    /// `attempt` is left with what the turn's end needs, if anything.
    fn write_turn(&self, turn: &Turn, attempt: &mut Option<Attempt>) -> (u64, Outcome) {
        let mut range = match self.source.plan_turn(turn.file, turn.reason) {
            Plan::Write(range) => range,
            Plan::Nothing => return (0, Outcome::Written),
            Plan::NotBefore(at_ms) => return (0, Outcome::RetryAt(at_ms)),
        };
        // It is allocated by now. Files of a new place are left until the disk goes there.
        if self.queue.wants_place(turn.file)
            && self.queue.is_far(self.source.find_place(turn.file, range.start))
        {
            return (0, Outcome::Elsewhere);
        }
        let mut bytes = 0;
        loop {
            let run_bytes = self.run_size().bytes();
            let run = match self.source.take_run(turn.file, range.clone(), run_bytes) {
                Ok(Some(run)) => run,
                Ok(None) => return (bytes, Outcome::Written),
                Err(error) => return (bytes, self.put_off(turn.file, None, error, attempt)),
            };
            self.throttle.wait_turn(run.len);
            self.queue.restart(attempt.as_ref());
            log::trace!("write file={} offset={} len={}", run.file.0, run.offset, run.len);
            // Behind the run's start nothing is taken again in this turn: it ends.
            range.start = run.offset + run.len;
            self.note_work(run.file, run.offset..range.start);
            let at_work = self.queue.lock().engine.at_work();
            // Two system calls a look: nothing for what is as small.
            let tells = RunSize::learns_from(run.len);
            let reads = tells.then(|| self.queue.look_at_reads()).flatten();
            let (written, took) = self.write_timed(&run, range.is_empty());
            match written {
                Ok(written) => {
                    bytes += run.len;
                    *attempt = self.queue.go_on(attempt.take());
                    if tells && self.queue.was_alone(run.len, reads) {
                        self.run_size().note(run.len, took);
                    }
                    self.note_written(run.len, took, at_work);
                    self.source.stored(run, written, took);
                    if attempt.is_none() {
                        return (bytes, Outcome::Written);
                    }
                }
                Err(error) => return (bytes, self.put_off(turn.file, Some(run), error, attempt)),
            }
        }
    }

    fn put_off(
        &self,
        file: FileId,
        run: Option<Run>,
        error: std::io::Error,
        attempt: &mut Option<Attempt>,
    ) -> Outcome {
        self.queue.end(attempt.take(), Ended::Refused(errno(&error)));
        Outcome::RetryAt(self.source.failed(file, run, error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schedule::{Lanes, Load};

    /// Goal: a lane wakes once for files that were closed shortly after each other.
    #[test]
    fn what_is_due_soon_is_waited_for() {
        let policy = Policy { max_age_ms: 30_000, closed_delay_ms: 100 };
        let crew = Crew { lanes: Lanes::fixed(1), patience: None };
        let queue = LaneQueue::new(policy, crew, None);
        let load = Load { dirty_bytes: 10, oldest_ms: Some(1000), ..Load::default() };
        for (file, closed_ms) in [(1, 1000), (2, 1000 + COMPANY_MS)] {
            queue.with(|scheduler| scheduler.update(FileId(file), load, closed_ms));
        }
        let mut turns = queue.lock();
        let wakes_at_ms = 1100 + COMPANY_MS;
        assert_eq!(turns.next(None, 1050).unwrap_err(), Some(wakes_at_ms));
        for file in [1, 2] {
            let (turn, attempt) = turns.next(None, wakes_at_ms).unwrap();
            assert_eq!(turn.file, FileId(file));
            turns.engine.succeed(attempt, wakes_at_ms);
        }
    }

    /// Goal: what is far from the end of a turn that is being written is handed to the disk when that is
    /// over; what is near, or anywhere when nothing ends, at once.
    #[test]
    fn what_is_far_away_follows_when_the_disk_is_done() {
        let near = Ending { place: Some(1 << 40), is_tailed: false };
        let policy = Policy { max_age_ms: 30_000, closed_delay_ms: 100 };
        let crew = Crew { lanes: Lanes::fixed(1), patience: None };
        let queue = LaneQueue::new(policy, crew, None);
        queue.wait_to_follow(Some(0));
        queue.begin_last_run(near);
        queue.wait_to_follow(Some(1 << 40));
        assert!(queue.is_far(Some(0)));
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                queue.wait_to_follow(Some(0));
                tell.send(()).unwrap();
            });
            std::thread::sleep(Duration::from_millis(20));
            assert!(told.try_recv().is_err(), "it is still being written");
            queue.end_last_run(Instant::now());
            told.recv_timeout(Duration::from_secs(60)).unwrap();
        });
    }
}
