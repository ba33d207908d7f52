//! coalescefs on one node: a kernel that hands over what programs wrote, the real buffers, scheduler,
//! admission and circuit, and lanes that write to the engine.
//!
//! The kernel is a page cache with a fifth of the memory. A run is cut into the requests that the
//! client below would make of one large direct write, all of them sent at once; it is stored when all
//! have been answered. When one is refused, the whole run is tried again, later.

use std::ops::Range;
use std::time::Duration;

use coalescefs::buffer::{FileBuffer, Geometry, Piece, Slot, Step};
use coalescefs::drain::RunSize;
use coalescefs::schedule::circuit::{Attempt, Backoff, Circuit, Patience, Refused};
use coalescefs::schedule::{
    Admission, FileId, Load, Outcome, Policy, Reason, Scheduler, Turn, Urgency,
};

use crate::page_cache::{Limits, PageCache, Part};
use crate::sim::Client;
use crate::world::{Alarm, Request, TICK_US, World};

const MIB: u64 = 1 << 20;
/// Linux: files are written back when they are so old, and looked for so often.
const KERNEL_AGE_US: u64 = 30_000_000;
const KERNEL_LOOK_US: u64 = 5_000_000;
/// As the filesystem has it: what one file is granted before the next, and parts of the memory.
const SHARE_BYTES: u64 = 256 << 10;
const RESERVE_BYTES_MAX: u64 = 64 * MIB;
const RUN_PART: u64 = 16;
const TURN_PART: u64 = 8;
const TURN_BYTES_MAX: u64 = 64 * MIB;
/// A run of 12 MiB takes a tenth of a second where nobody else is served.
const PATIENCE: Patience = Patience {
    deadline_ms: 5_000,
    failures_max: 3,
    late_max: 4,
    first_pause_ms: 250,
    longest_pause_ms: 30_000,
};

/// One file's turn.
struct Work {
    turn: Turn,
    /// What of the plan is left.
    range: Range<u64>,
    run: Range<u64>,
    pieces: Vec<Piece>,
    /// Requests of the run that are not answered.
    out: usize,
    taken_bytes: u64,
    is_refused: bool,
    begun_us: u64,
    attempt: Option<Attempt>,
    is_late: bool,
}

pub struct Coalesce {
    node: usize,
    kernel: PageCache,
    request_bytes: u64,
    segment_bytes: u64,
    limit_bytes: u64,
    chunk_bytes: u64,
    files: Vec<FileBuffer>,
    backoffs: Vec<Backoff>,
    scheduler: Scheduler,
    admission: Admission<Part>,
    circuit: Option<Circuit>,
    lanes: Vec<Option<Work>>,
    lanes_wake_us: Option<u64>,
    run_size: RunSize,
    held_bytes: u64,
    free: Vec<Slot>,
    slots: u32,
    steps: Vec<Step>,
    is_over: bool,
}

impl Coalesce {
    pub fn new(node: usize, has_circuit: bool, world: &mut World) -> Coalesce {
        let setup = &world.setup;
        let memory_bytes = setup.memory_bytes / 5 * 4;
        let segment_bytes = (1 << (memory_bytes / 4096).max(1).ilog2()).clamp(4 << 10, 64 << 10);
        let reserve_bytes = (memory_bytes / 4).min(RESERVE_BYTES_MAX);
        let request_bytes = 1 << (reserve_bytes / 16).clamp(64 << 10, MIB).ilog2();
        let window = (reserve_bytes / (request_bytes + 2 * segment_bytes)).clamp(2, 64);
        let limit_bytes = memory_bytes - window * (request_bytes + 2 * segment_bytes);
        let geometry =
            Geometry { segment_bytes: segment_bytes as u32, chunk_bytes: setup.chunk_bytes };
        let kernel = Limits {
            bytes: setup.memory_bytes / 5,
            age_us: KERNEL_AGE_US,
            look_us: KERNEL_LOOK_US,
            window: window as usize,
        };
        let seed = (setup.seed ^ node as u64) * setup.streams as u64;
        let backoff = |file| {
            let Patience { first_pause_ms, longest_pause_ms, .. } = PATIENCE;
            Backoff::new(first_pause_ms, longest_pause_ms, seed + file as u64)
        };
        let policy = Policy { max_age_ms: setup.max_age_us / 1000, closed_delay_ms: 1000 };
        let lanes = if has_circuit { 1 + PATIENCE.late_max } else { 1 };
        let (streams, chunk_bytes) = (setup.streams, setup.chunk_bytes);
        let first_look_us = world.below(KERNEL_LOOK_US);
        let tick_us = world.below(TICK_US);
        world.wake(node, tick_us, Alarm::Tick);
        Coalesce {
            node,
            kernel: PageCache::new(kernel, streams, 1, first_look_us),
            request_bytes,
            segment_bytes,
            limit_bytes,
            chunk_bytes,
            files: (0..streams).map(|_| FileBuffer::new(geometry)).collect(),
            backoffs: (0..streams).map(backoff).collect(),
            scheduler: Scheduler::new(policy),
            admission: Admission::new(limit_bytes, SHARE_BYTES.min(limit_bytes / 16)),
            circuit: has_circuit.then(|| Circuit::new(PATIENCE, seed)),
            lanes: (0..lanes).map(|_| None).collect(),
            lanes_wake_us: None,
            run_size: RunSize::new(memory_bytes / RUN_PART),
            held_bytes: 0,
            free: Vec::new(),
            slots: 0,
            steps: Vec::new(),
            is_over: false,
        }
    }

    fn load(&self, file: usize) -> Load {
        let buffer = &self.files[file];
        Load {
            dirty_bytes: buffer.dirty_bytes(),
            has_whole_chunk: buffer.whole_chunk().is_some(),
            oldest_ms: buffer.oldest_ms(),
            open: true,
            ..Load::default()
        }
    }

    /// Takes what the kernel hands over.
    fn receive(&mut self, world: &mut World) {
        let request_bytes = self.request_bytes;
        let cut = |file, range: Range<u64>, parts: &mut Vec<Part>| {
            let mut from = range.start;
            while from < range.end {
                let end = range.end.min((from / request_bytes + 1) * request_bytes);
                parts.push(Part { file, range: from..end, place: 0 });
                from = end;
            }
        };
        let now_ms = world.now_us() / 1000;
        while let Some(part) = self.kernel.next_part(cut) {
            self.fill(&part, now_ms);
            self.scheduler.update(FileId(part.file as u64), self.load(part.file), now_ms);
            let (file, bytes) = (FileId(part.file as u64), part.range.end - part.range.start);
            if let Some(part) = self.admission.offer(file, bytes, self.held_bytes, now_ms, part) {
                self.kernel.note_done(&part);
            }
        }
        world.figures.most_held_bytes = world.figures.most_held_bytes.max(self.held_bytes);
        self.note_pressure();
    }

    /// Into the arena.
    fn fill(&mut self, part: &Part, now_ms: u64) {
        let buffer = &mut self.files[part.file];
        let len = (part.range.end - part.range.start) as usize;
        let before = buffer.held_slots();
        while self.free.len() < buffer.slots_needed(part.range.start, len) {
            self.free.push(Slot(self.slots));
            self.slots += 1;
        }
        buffer.write(part.range.start, len, 0, now_ms, &mut self.free, &mut self.steps);
        self.steps.clear();
        self.held_bytes += (buffer.held_slots() - before) as u64 * self.segment_bytes;
    }

    fn note_pressure(&mut self) {
        let is_pressed = self.held_bytes > self.limit_bytes / 4 * 3;
        self.scheduler.set_urgency(match (self.is_over, is_pressed) {
            (true, _) => Urgency::Everything,
            (false, true) => Urgency::Pressure,
            (false, false) => Urgency::Normal,
        });
    }

    /// Begins turns while a lane has none, not counting those that hang.
    fn begin_turns(&mut self, world: &mut World) {
        loop {
            let working = self.lanes.iter().flatten().filter(|work| !work.is_late).count();
            let idle = self.lanes.iter().position(Option::is_none);
            let Some(lane) = idle.filter(|_| working == 0) else { return };
            let now_ms = world.now_us() / 1000;
            let attempt = match self.try_begin(world) {
                Ok(attempt) => attempt,
                Err(Refused::Until(at_ms)) => return self.wake_lanes(at_ms * 1000, world),
                Err(Refused::WhileOut) => return,
            };
            let Some(turn) = self.scheduler.next_turn(now_ms) else {
                self.cancel(attempt, now_ms);
                if let Some(at_ms) = self.scheduler.wake_at_ms() {
                    self.wake_lanes(at_ms * 1000, world);
                }
                return;
            };
            let range = self.plan(turn);
            self.begin_run(lane, turn, range, attempt, world);
        }
    }

    fn wake_lanes(&mut self, at_us: u64, world: &mut World) {
        if self.lanes_wake_us.is_none_or(|before_us| at_us < before_us) {
            self.lanes_wake_us = Some(at_us);
            world.wake(self.node, at_us, Alarm::Lanes);
        }
    }

    /// Asks the circuit, if there is one.
    fn try_begin(&mut self, world: &mut World) -> Result<Option<Attempt>, Refused> {
        let Some(circuit) = &mut self.circuit else { return Ok(None) };
        let attempt = circuit.try_begin(world.now_us() / 1000)?;
        let late_us = (world.now_us() / 1000 + PATIENCE.deadline_ms) * 1000;
        world.wake(self.node, late_us, Alarm::Deadline);
        Ok(Some(attempt))
    }

    fn cancel(&mut self, attempt: Option<Attempt>, now_ms: u64) {
        if let (Some(circuit), Some(attempt)) = (&mut self.circuit, attempt) {
            circuit.cancel(attempt, now_ms);
        }
    }

    /// The chunks that a turn takes, as the filesystem plans them for a file that grows.
    fn plan(&self, turn: Turn) -> Range<u64> {
        let (buffer, chunk_bytes) = (&self.files[turn.file.0 as usize], self.chunk_bytes);
        let first = buffer.first_chunk().expect("who has a turn has bytes");
        let whole = buffer.whole_chunk().filter(|_| turn.reason == Reason::WholeChunk);
        let end = whole.map_or(first + 1, |whole| {
            let start = whole * chunk_bytes;
            let most = (self.limit_bytes / TURN_PART).min(TURN_BYTES_MAX).max(chunk_bytes);
            let chunks = (buffer.filled_to(start, start + most) - start) / chunk_bytes;
            whole + (1 << chunks.max(1).ilog2())
        });
        first * chunk_bytes..end * chunk_bytes
    }

    /// Sends the next run of a turn, or ends the turn when there is none.
    fn begin_run(
        &mut self,
        lane: usize,
        turn: Turn,
        range: Range<u64>,
        attempt: Option<Attempt>,
        world: &mut World,
    ) {
        let (file, now_us) = (turn.file.0 as usize, world.now_us());
        let mut pieces = Vec::new();
        let most_bytes = self.run_size.bytes();
        let bytes = self.files[file].take_run(range.start, range.end, most_bytes, &mut pieces);
        let Some(first) = pieces.first() else {
            self.cancel(attempt, now_us / 1000);
            return self.end_turn(turn, Outcome::Written, now_us / 1000);
        };
        let run = first.offset..first.offset + bytes;
        let requests: Vec<_> = world.setup.cut(run.clone()).collect();
        self.lanes[lane] = Some(Work {
            turn,
            range: run.end..range.end,
            run,
            pieces,
            out: requests.len(),
            taken_bytes: 0,
            is_refused: false,
            begun_us: now_us,
            attempt,
            is_late: false,
        });
        for request in requests {
            world.send(self.node, file, request, lane as u32);
        }
    }

    fn end_turn(&mut self, turn: Turn, outcome: Outcome, now_ms: u64) {
        let load = self.load(turn.file.0 as usize);
        self.scheduler.end_turn(turn.file, load, outcome, now_ms);
    }

    /// All requests of a lane's run were answered.
    fn end_run(&mut self, lane: usize, work: Work, world: &mut World) {
        let (turn, now_ms) = (work.turn, world.now_us() / 1000);
        if work.is_refused {
            world.figures.repeated_bytes += work.taken_bytes;
            return self.fail_run(work, now_ms);
        }
        self.store_run(&work, world);
        if let (Some(circuit), Some(attempt)) = (&mut self.circuit, work.attempt) {
            circuit.succeed(attempt, now_ms);
        }
        // Another lane works in place of one that was late.
        let next = if work.is_late { Err(Refused::WhileOut) } else { self.try_begin(world) };
        match next {
            Ok(attempt) => self.begin_run(lane, turn, work.range, attempt, world),
            Err(_) => self.end_turn(turn, Outcome::Written, now_ms),
        }
    }

    fn store_run(&mut self, work: &Work, world: &mut World) {
        let file = work.turn.file.0 as usize;
        let bytes = work.run.end - work.run.start;
        self.backoffs[file].reset();
        self.run_size.note(bytes, Duration::from_micros(world.now_us() - work.begun_us));
        self.files[file].complete(&work.pieces, &mut self.steps);
        for step in self.steps.drain(..) {
            let Step::Free { slot } = step else { unreachable!("a landing frees") };
            self.free.push(slot);
            self.held_bytes -= self.segment_bytes;
        }
        world.note_stored(self.node, file, work.run.clone());
        let mut granted = Vec::new();
        self.admission.grant(self.held_bytes, world.now_us() / 1000, &mut granted);
        granted.iter().for_each(|granted| self.kernel.note_done(&granted.ticket));
        self.receive(world);
    }

    fn fail_run(&mut self, work: Work, now_ms: u64) {
        let file = work.turn.file.0 as usize;
        let before = self.files[file].held_slots();
        self.files[file].fail(&work.pieces, &mut self.steps);
        for step in self.steps.drain(..) {
            if let Step::Free { slot } = step {
                self.free.push(slot);
            }
        }
        let freed = before - self.files[file].held_slots();
        self.held_bytes -= freed as u64 * self.segment_bytes;
        if let (Some(circuit), Some(attempt)) = (&mut self.circuit, work.attempt) {
            circuit.fail(attempt, now_ms);
        }
        let retry_at_ms = now_ms + self.backoffs[file].next_pause_ms();
        self.end_turn(work.turn, Outcome::RetryAt(retry_at_ms), now_ms);
    }

    /// Runs that are past their deadline: other lanes stand in.
    fn expire(&mut self, now_us: u64) {
        if let Some(circuit) = &mut self.circuit {
            circuit.expire(now_us / 1000);
        }
        for work in self.lanes.iter_mut().flatten() {
            work.is_late = now_us / 1000 >= work.begun_us / 1000 + PATIENCE.deadline_ms;
        }
    }
}

impl Client for Coalesce {
    fn wake(&mut self, world: &mut World, alarm: Alarm) {
        let (node, now_us) = (self.node, world.now_us());
        match alarm {
            Alarm::Lanes => self.lanes_wake_us = None,
            Alarm::Deadline => self.expire(now_us),
            _ => {
                let room_bytes = self.kernel.room_bytes();
                world.write(node, room_bytes, |file, bytes| self.kernel.note_written(file, bytes));
                if world.is_over() {
                    self.is_over = true;
                    self.kernel.write_all();
                }
                self.kernel.look(now_us, |file, from| world.stream(node, file).written_us(from));
                world.figures.note_held(self.kernel.held_bytes() + self.held_bytes);
                self.receive(world);
                if !world.is_done() {
                    world.wake(node, now_us + TICK_US, Alarm::Tick);
                }
            }
        }
        self.begin_turns(world);
    }

    fn answered(&mut self, world: &mut World, request: Request, is_taken: bool) {
        let lane = request.tag as usize;
        let work = self.lanes[lane].as_mut().expect("a lane that waits has work");
        work.out -= 1;
        work.is_refused |= !is_taken;
        work.taken_bytes += if is_taken { request.range.end - request.range.start } else { 0 };
        if work.out == 0
            && let Some(work) = self.lanes[lane].take()
        {
            self.end_run(lane, work, world);
        }
        self.begin_turns(world);
    }
}
