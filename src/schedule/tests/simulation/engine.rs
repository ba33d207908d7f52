//! Writers, a kernel, memory, schedulers and model disks, in one thread and simulated time.
//!
//! A writer sends a request, waits for the acknowledgement, and sends the next one no earlier
//! than its rate allows. The kernel has a bounded number of requests in flight; the others wait
//! for theirs in order. Each disk has a scheduler and one lane: a turn writes up to a chunk from
//! where the file's data begins, or several whole ones, and gives memory back in four pieces.
//! Buffers, schedulers and admission are the real ones, called as `fs` and `drain` call them.
//! Times are microseconds.
//!
//! Every call to them goes through a [`Meter`]: tests count steps with it, the benchmark time.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use crate::buffer::{FileBuffer, Geometry, Piece, Slot, Step};
use crate::schedule::{
    Admission, FileId, Load, Outcome, Policy, Reason, Scheduler, Turn, Urgency, turn_chunks,
};

use super::report::{Report, Waits};

/// What a meter tells apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Call {
    Update,
    /// With a turn, and without.
    NextTurn,
    NoTurn,
    EndTurn,
    Admission,
    Buffer,
}

/// Measures calls to what is simulated.
pub trait Meter {
    /// Makes the call, and notes it as what `kind` says of its result.
    fn measure<R>(&mut self, call: impl FnOnce() -> R, kind: impl FnOnce(&R) -> Call) -> R;
}

/// Measures nothing.
impl Meter for () {
    fn measure<R>(&mut self, call: impl FnOnce() -> R, _kind: impl FnOnce(&R) -> Call) -> R {
        call()
    }
}

/// A program that appends to a file of its own.
#[derive(Clone, Copy, Debug)]
pub struct Writer {
    pub request_bytes: u64,
    /// Between two requests, at least.
    pub period_us: u64,
    /// When the first one comes.
    pub start_us: u64,
    pub disk: usize,
}

/// Time to position for a turn, then bytes per microsecond.
#[derive(Clone, Copy, Debug)]
pub struct Disk {
    pub position_us: u64,
    pub bytes_per_us: u64,
}

/// Who shares a limit of memory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sharing {
    /// All disks, as it is built.
    All,
    /// The files of one disk: each disk has an equal part of the memory. Not built; shows what
    /// sharing costs.
    Disk,
}

/// What is simulated.
#[derive(Clone, Debug)]
pub struct Setup {
    pub chunk_bytes: u64,
    /// Turns end at multiples of this; a multiple of the segment.
    pub align_bytes: u64,
    pub segment_bytes: u64,
    /// Most whole chunks that one turn takes.
    pub turn_chunks: u64,
    pub memory_bytes: u64,
    pub sharing: Sharing,
    /// What one file is granted before the next one's turn.
    pub share_bytes: u64,
    /// Requests that the kernel sends before it waits for a reply.
    pub in_flight_max: usize,
    pub max_age_ms: u64,
    pub disks: Vec<Disk>,
    pub writers: Vec<Writer>,
    pub warm_up_us: u64,
    pub end_us: u64,
}

impl Setup {
    /// Most that is held: the limit, and what the kernel may have in flight beyond it.
    pub fn held_bytes_max(&self) -> u64 {
        let largest = self.writers.iter().map(|writer| writer.request_bytes).max().unwrap_or(0);
        // A request that does not begin at a segment touches one more.
        let request_bytes = largest.next_multiple_of(self.segment_bytes) + self.segment_bytes;
        let is_whole = |w: &Writer| w.request_bytes.is_multiple_of(self.segment_bytes);
        let unaligned = !self.writers.iter().all(is_whole);
        let request_bytes = if unaligned { request_bytes } else { largest };
        self.memory_bytes + self.in_flight_max as u64 * request_bytes
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Piece(usize),
    Wake(usize),
    /// A program wants to write; the kernel sends its request.
    Write(usize),
    Send(usize),
}

struct Stream {
    buffer: FileBuffer,
    /// Where the bytes begin that no turn has taken.
    tail: u64,
    head: u64,
    /// When the program wrote what the kernel sends now.
    wanted_us: u64,
    waits: Waits,
}

/// The turn on a disk.
struct Busy {
    turn: Turn,
    /// No piece begins here or later.
    end: u64,
    piece_bytes: u64,
    piece: Vec<Piece>,
    bytes: u64,
    oldest_ms: u64,
}

struct Lane {
    disk: Disk,
    scheduler: Scheduler,
    busy: Option<Busy>,
    /// The next time at which it looks by itself.
    wake_us: Option<u64>,
    /// When each turn began.
    turns_us: Vec<u64>,
}

/// A limit of memory, and who waits for it.
struct Memory {
    limit_bytes: u64,
    held_bytes: u64,
    admission: Admission<usize>,
    /// The lanes that give it back.
    lanes: std::ops::Range<usize>,
    pressed: bool,
}

/// Slots by number, as the arena gives them out.
#[derive(Default)]
struct Slots {
    free: Vec<Slot>,
    made: u32,
}

impl Slots {
    fn provide(&mut self, count: usize) {
        while self.free.len() < count {
            self.free.push(Slot(self.made));
            self.made += 1;
        }
    }
}

pub struct Simulation<M> {
    setup: Setup,
    meter: M,
    lanes: Vec<Lane>,
    memories: Vec<Memory>,
    streams: Vec<Stream>,
    slots: Slots,
    steps: Vec<Step>,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    in_flight: usize,
    kernel_queue: VecDeque<usize>,
    now_us: u64,
    caused: u64,
    report: Report,
}

impl<M: Meter> Simulation<M> {
    /// Runs to the end; what happened, and what was measured. `warm` is told when the warm-up is
    /// over.
    pub fn run(setup: Setup, meter: M, warm: impl FnOnce(&mut M)) -> (Report, M) {
        let mut sim = Self::new(setup, meter);
        sim.run_to(sim.setup.warm_up_us);
        warm(&mut sim.meter);
        sim.report = Report::new(sim.streams.len(), sim.lanes.len());
        sim.run_to(sim.setup.end_us);
        sim.note_left();
        (sim.report, sim.meter)
    }

    fn new(setup: Setup, meter: M) -> Self {
        let policy = Policy { max_age_ms: setup.max_age_ms, closed_delay_ms: 1_000 };
        let (n, disks) = (setup.writers.len(), setup.disks.len());
        let lane = |disk: &Disk| Lane {
            disk: *disk,
            scheduler: Scheduler::new(policy),
            busy: None,
            wake_us: None,
            turns_us: Vec::new(),
        };
        let disks_each = match setup.sharing {
            Sharing::All => disks,
            Sharing::Disk => 1,
        };
        let limit_bytes = setup.memory_bytes * disks_each as u64 / disks as u64;
        let memory = |first| Memory {
            limit_bytes,
            held_bytes: 0,
            admission: Admission::new(limit_bytes, setup.share_bytes),
            lanes: first..first + disks_each,
            pressed: false,
        };
        let segment_bytes = setup.segment_bytes as u32;
        let geometry = Geometry { segment_bytes, chunk_bytes: setup.chunk_bytes };
        let stream = || Stream {
            buffer: FileBuffer::new(geometry),
            tail: 0,
            head: 0,
            wanted_us: 0,
            waits: Waits::default(),
        };
        let first = |(i, writer): (usize, &Writer)| Reverse((writer.start_us, 0, Event::Write(i)));
        Self {
            meter,
            lanes: setup.disks.iter().map(lane).collect(),
            memories: (0..disks).step_by(disks_each).map(memory).collect(),
            streams: (0..n).map(|_| stream()).collect(),
            slots: Slots::default(),
            steps: Vec::new(),
            events: setup.writers.iter().enumerate().map(first).collect(),
            in_flight: 0,
            kernel_queue: VecDeque::new(),
            now_us: 0,
            caused: 0,
            report: Report::new(n, disks),
            setup,
        }
    }

    fn run_to(&mut self, end_us: u64) {
        while self.now_us < end_us {
            let Reverse((now_us, _, event)) =
                self.events.pop().expect("everybody waits for nothing");
            self.now_us = now_us;
            match event {
                Event::Write(i) => self.write(i),
                Event::Send(i) => self.send(i),
                Event::Piece(lane) => self.piece_done(lane),
                Event::Wake(lane) => {
                    self.lanes[lane].wake_us = None;
                    self.start_turn(lane);
                }
            }
        }
    }

    /// Who never had a turn is not to be forgotten.
    fn note_left(&mut self) {
        for lane in &self.lanes {
            let oldest_ms = lane.scheduler.oldest_ms().unwrap_or(self.now_us / 1_000);
            self.report.oldest_ms = self.report.oldest_ms.max(self.now_us / 1_000 - oldest_ms);
            self.report.streams_held += lane.scheduler.streams();
        }
    }

    fn now_ms(&self) -> u64 {
        self.now_us / 1_000
    }

    fn align(&self, offset: u64) -> u64 {
        offset / self.setup.align_bytes * self.setup.align_bytes
    }

    fn chunk_end(&self, stream: &Stream) -> u64 {
        self.align(stream.tail + self.setup.chunk_bytes)
    }

    /// Which limit the files of a disk fall under.
    fn memory_of(&self, disk: usize) -> usize {
        match self.setup.sharing {
            Sharing::All => 0,
            Sharing::Disk => disk,
        }
    }

    /// Events of the same microsecond come in the order in which they were caused.
    fn schedule(&mut self, at_us: u64, event: Event) {
        self.caused += 1;
        self.events.push(Reverse((at_us, self.caused, event)));
    }

    fn load(&self, i: usize) -> Load {
        let stream = &self.streams[i];
        Load {
            dirty_bytes: stream.buffer.dirty_bytes(),
            has_whole_chunk: stream.head >= self.chunk_end(stream),
            oldest_ms: stream.buffer.oldest_ms(),
            open: true,
            ..Load::default()
        }
    }

    fn write(&mut self, i: usize) {
        self.streams[i].wanted_us = self.now_us;
        if self.in_flight == self.setup.in_flight_max {
            self.kernel_queue.push_back(i);
        } else {
            self.in_flight += 1;
            self.send(i);
        }
    }

    fn send(&mut self, i: usize) {
        let writer = self.setup.writers[i];
        self.fill(i, writer);
        let (now_ms, load) = (self.now_ms(), self.load(i));
        let turns = self.lanes[writer.disk].turns_us.len();
        self.streams[i].waits.note_load(&load, turns);
        let lane = &mut self.lanes[writer.disk];
        let file = FileId(i as u64);
        self.meter.measure(|| lane.scheduler.update(file, load, now_ms), |()| Call::Update);
        let memory = self.memory_of(writer.disk);
        let memory = &mut self.memories[memory];
        let (bytes, held_bytes) = (writer.request_bytes, memory.held_bytes);
        let offer = || memory.admission.offer(file, bytes, held_bytes, now_ms, i);
        if let Some(i) = self.meter.measure(offer, |_| Call::Admission) {
            self.acknowledge(i);
        }
        self.note_pressure(writer.disk);
        self.start_turn(writer.disk);
    }

    /// Takes the bytes of a request into memory.
    fn fill(&mut self, i: usize, writer: Writer) {
        let now_ms = self.now_ms();
        let (slots, steps) = (&mut self.slots, &mut self.steps);
        let stream = &mut self.streams[i];
        let (offset, len) = (stream.head, writer.request_bytes as usize);
        stream.head += writer.request_bytes;
        let buffer = &mut stream.buffer;
        let before = buffer.held_slots();
        let write = || {
            slots.provide(buffer.slots_needed(offset, len));
            buffer.write(offset, len, 0, now_ms, &mut slots.free, steps);
        };
        self.meter.measure(write, |()| Call::Buffer);
        let slots = (buffer.held_slots() - before) as u64;
        self.steps.clear();
        let segment_bytes = self.setup.segment_bytes;
        let memory = self.memory_of(writer.disk);
        self.memories[memory].held_bytes += slots * segment_bytes;
        let held_bytes = self.memories.iter().map(|memory| memory.held_bytes).sum();
        self.report.most_held_bytes = self.report.most_held_bytes.max(held_bytes);
    }

    fn acknowledge(&mut self, i: usize) {
        let writer = self.setup.writers[i];
        self.report.acknowledged_bytes[i] += writer.request_bytes;
        match self.kernel_queue.pop_front() {
            Some(next) => self.schedule(self.now_us, Event::Send(next)),
            None => self.in_flight -= 1,
        }
        let next_us = self.now_us.max(self.streams[i].wanted_us + writer.period_us);
        self.schedule(next_us, Event::Write(i));
    }

    /// Above nine tenths of the memory, lanes write what is not whole, too.
    fn note_pressure(&mut self, lane: usize) {
        let memory = self.memory_of(lane);
        let memory = &mut self.memories[memory];
        let pressed = memory.held_bytes > memory.limit_bytes / 10 * 9;
        if memory.pressed == pressed {
            return;
        }
        memory.pressed = pressed;
        let urgency = if pressed { Urgency::Pressure } else { Urgency::Normal };
        for lane in memory.lanes.clone() {
            self.lanes[lane].scheduler.set_urgency(urgency);
            if self.lanes[lane].busy.is_none() {
                self.schedule(self.now_us, Event::Wake(lane));
            }
        }
    }

    fn start_turn(&mut self, lane: usize) {
        let now_ms = self.now_ms();
        let Lane { scheduler, busy: None, .. } = &mut self.lanes[lane] else { return };
        let kind = |turn: &Option<_>| turn.map_or(Call::NoTurn, |_: Turn| Call::NextTurn);
        let Some(turn) = self.meter.measure(|| scheduler.next_turn(now_ms), kind) else {
            return self.sleep(lane);
        };
        let i = turn.file.0 as usize;
        let oldest_ms = self.streams[i].buffer.oldest_ms().expect("who has a turn has bytes");
        let due_us = (oldest_ms + self.setup.max_age_ms / 2) * 1_000;
        let turns_us = &mut self.lanes[lane].turns_us;
        self.streams[i].waits.note_turn(turn.reason, due_us, turns_us, &mut self.report);
        turns_us.push(self.now_us);
        let (tail, end) = (self.streams[i].tail, self.turn_end(&self.streams[i], turn.reason));
        let busy = Busy {
            turn,
            end: end.next_multiple_of(self.setup.segment_bytes),
            piece_bytes: (end - tail).div_ceil(4),
            piece: Vec::new(),
            bytes: 0,
            oldest_ms,
        };
        self.lanes[lane].busy = Some(busy);
        let position_us = self.lanes[lane].disk.position_us;
        assert!(self.start_piece(lane, position_us), "who has a turn has bytes");
    }

    fn turn_end(&self, stream: &Stream, reason: Reason) -> u64 {
        let (chunk_end, filled) = (self.chunk_end(stream), self.align(stream.head));
        let end = if filled > chunk_end {
            let more = (filled - chunk_end) / self.setup.chunk_bytes;
            let chunks = turn_chunks(reason, (1 + more).min(self.setup.turn_chunks));
            chunk_end + (chunks - 1) * self.setup.chunk_bytes
        } else {
            chunk_end.min(filled)
        };
        if end > stream.tail { end } else { stream.head }
    }

    /// No turn: the lane looks again when the scheduler says.
    fn sleep(&mut self, lane: usize) {
        let now_ms = self.now_ms();
        let Lane { scheduler, wake_us, .. } = &mut self.lanes[lane];
        let Some(wake_ms) = scheduler.wake_at_ms() else { return };
        assert!(wake_ms > now_ms, "would spin");
        if wake_us.is_none_or(|at_us| at_us > wake_ms * 1_000) {
            *wake_us = Some(wake_ms * 1_000);
            self.schedule(wake_ms * 1_000, Event::Wake(lane));
        }
    }

    /// Takes the next piece of the turn to the disk. `false` when there is none.
    fn start_piece(&mut self, lane: usize, extra_us: u64) -> bool {
        let Lane { busy: Some(busy), disk, .. } = &mut self.lanes[lane] else { return false };
        let stream = &mut self.streams[busy.turn.file.0 as usize];
        busy.piece.clear();
        let (buffer, tail) = (&mut stream.buffer, stream.tail);
        let (end, most_bytes, out) = (busy.end, busy.piece_bytes, &mut busy.piece);
        let take = || if tail < end { buffer.take_run(tail, end, most_bytes, out) } else { 0 };
        let bytes = self.meter.measure(take, |_| Call::Buffer);
        stream.tail += bytes;
        busy.bytes += bytes;
        let disk_us = extra_us + bytes / disk.bytes_per_us;
        if bytes > 0 {
            self.report.disks[lane].busy_us += disk_us;
            self.schedule(self.now_us + disk_us, Event::Piece(lane));
        }
        bytes > 0
    }

    fn piece_done(&mut self, lane: usize) {
        let busy = self.lanes[lane].busy.as_mut().expect("a turn is on the disk");
        let (steps, buffer) =
            (&mut self.steps, &mut self.streams[busy.turn.file.0 as usize].buffer);
        self.meter.measure(|| buffer.complete(&busy.piece, steps), |()| Call::Buffer);
        let freed_bytes = busy.piece.len() as u64 * self.setup.segment_bytes;
        let slots = steps.drain(..).map(|step| {
            let Step::Free { slot } = step else { unreachable!("a landing frees") };
            slot
        });
        self.slots.free.extend(slots);
        let memory = self.memory_of(lane);
        self.memories[memory].held_bytes -= freed_bytes;
        if !self.start_piece(lane, 0) {
            self.end_turn(lane);
        }
        self.grant(lane);
        self.note_pressure(lane);
        self.start_turn(lane);
    }

    fn end_turn(&mut self, lane: usize) {
        let busy = self.lanes[lane].busy.take().expect("a turn is on the disk");
        let (i, now_ms) = (busy.turn.file.0 as usize, self.now_ms());
        let is_whole = busy.bytes > 0 && busy.bytes.is_multiple_of(self.setup.chunk_bytes);
        self.report.note_written(lane, busy.bytes, is_whole, now_ms - busy.oldest_ms);
        let load = self.load(i);
        let Lane { scheduler, turns_us, .. } = &mut self.lanes[lane];
        let waits = &mut self.streams[i].waits;
        waits.note_end(busy.turn.reason, &load, turns_us.len(), now_ms * 1_000);
        let end = || scheduler.end_turn(busy.turn.file, load, Outcome::Written, now_ms);
        self.meter.measure(end, |()| Call::EndTurn);
    }

    fn grant(&mut self, lane: usize) {
        let now_ms = self.now_ms();
        let memory = self.memory_of(lane);
        let memory = &mut self.memories[memory];
        let mut out = Vec::new();
        let held_bytes = memory.held_bytes;
        let grant = || memory.admission.grant(held_bytes, now_ms, &mut out);
        self.meter.measure(grant, |()| Call::Admission);
        for granted in out {
            self.report.longest_wait_ms = self.report.longest_wait_ms.max(granted.waited_ms);
            self.acknowledge(granted.ticket);
        }
    }
}
