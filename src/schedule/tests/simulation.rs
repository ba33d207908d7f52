//! Many writers, a memory smaller than files x chunk, and a disk slower than the input.
//!
//! All writers start at the same moment with empty buffers, the worst start for plain buffers.
//! A writer sends a request, waits for the acknowledgement, and sends the next one no earlier
//! than its rate allows. A turn writes from where the file's data begins to the end of that
//! chunk (aligned, so that a partial turn has to be made good by the next), and gives memory
//! back in four pieces. Time is simulated in microseconds.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use crate::schedule::{
    Admission, FileId, Load, Outcome, Policy, Reason, Scheduler, Turn, Urgency,
};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// What is simulated.
struct Setup {
    chunk_bytes: u64,
    request_bytes: u64,
    memory_bytes: u64,
    /// Disk: time to position for a turn, then bytes per microsecond.
    position_us: u64,
    bytes_per_us: u64,
    max_age_ms: u64,
    /// Each writer's time between two requests, at least.
    periods_us: Vec<u64>,
    warm_up_us: u64,
    end_us: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Piece,
    Write(usize),
}

#[derive(Default)]
struct Stream {
    /// Data from `tail` to `head` is in memory.
    tail: u64,
    head: u64,
    /// End and time of the requests in memory.
    arrivals: VecDeque<(u64, u64)>,
    sent_us: u64,
    acknowledged_bytes: u64,
    last_turn: Option<u64>,
}

/// The turn on the disk.
struct Busy {
    stream: usize,
    end: u64,
    bytes: u64,
}

/// What happened after the warm-up.
#[derive(Default)]
struct Report {
    turns: u64,
    bytes: u64,
    whole_bytes: u64,
    reasons: [u64; 2],
    /// Turns of others between two turns of a file: fewest and most, over all files.
    gaps: Option<(u64, u64)>,
    most_held_bytes: u64,
    longest_wait_ms: u64,
    acknowledged_bytes: Vec<u64>,
}

impl Report {
    /// Largest over smallest of the acknowledged bytes of some streams.
    fn spread(&self, streams: std::ops::Range<usize>) -> f64 {
        let bytes = &self.acknowledged_bytes[streams];
        *bytes.iter().max().unwrap() as f64 / *bytes.iter().min().unwrap() as f64
    }
}

struct Simulation {
    setup: Setup,
    scheduler: Scheduler,
    admission: Admission<usize>,
    streams: Vec<Stream>,
    events: BinaryHeap<Reverse<(u64, Event)>>,
    busy: Option<Busy>,
    held_bytes: u64,
    now_us: u64,
    turns: u64,
    report: Report,
}

impl Simulation {
    fn run(setup: Setup) -> Report {
        let n = setup.periods_us.len();
        let policy = Policy { max_age_ms: setup.max_age_ms, closed_delay_ms: 1_000 };
        let mut sim = Self {
            scheduler: Scheduler::new(policy),
            admission: Admission::new(setup.memory_bytes, setup.request_bytes),
            streams: (0..n).map(|_| Stream::default()).collect(),
            events: (0..n).map(|i| Reverse((0, Event::Write(i)))).collect(),
            busy: None,
            held_bytes: 0,
            now_us: 0,
            turns: 0,
            report: Report { acknowledged_bytes: vec![0; n], ..Report::default() },
            setup,
        };
        while sim.now_us < sim.setup.end_us {
            let Reverse((now_us, event)) = sim.events.pop().expect("everybody waits for nothing");
            sim.now_us = now_us;
            match event {
                Event::Write(i) => sim.write(i),
                Event::Piece => sim.piece_done(),
            }
            sim.start_turn();
        }
        sim.report
    }

    fn warm(&self) -> bool {
        self.now_us >= self.setup.warm_up_us
    }

    fn load(&self, i: usize) -> Load {
        let stream = &self.streams[i];
        Load {
            dirty_bytes: stream.head - stream.tail,
            has_whole_chunk: stream.head / self.setup.chunk_bytes
                > stream.tail / self.setup.chunk_bytes,
            oldest_ms: stream.arrivals.front().map(|(_, at_us)| at_us / 1_000),
            open: true,
        }
    }

    fn write(&mut self, i: usize) {
        let bytes = self.setup.request_bytes;
        let stream = &mut self.streams[i];
        stream.head += bytes;
        stream.sent_us = self.now_us;
        stream.arrivals.push_back((stream.head, self.now_us));
        self.held_bytes += bytes;
        self.report.most_held_bytes = self.report.most_held_bytes.max(self.held_bytes);
        let now_ms = self.now_us / 1_000;
        self.scheduler.update(FileId(i as u64), self.load(i), now_ms);
        if let Some(i) = self.admission.offer(FileId(i as u64), bytes, self.held_bytes, now_ms, i) {
            self.acknowledge(i);
        }
    }

    fn acknowledge(&mut self, i: usize) {
        if self.warm() {
            self.report.acknowledged_bytes[i] += self.setup.request_bytes;
        }
        let next_us = self.now_us.max(self.streams[i].sent_us + self.setup.periods_us[i]);
        self.events.push(Reverse((next_us, Event::Write(i))));
    }

    fn start_turn(&mut self) {
        if self.busy.is_some() {
            return;
        }
        let high = self.held_bytes > self.setup.memory_bytes / 10 * 9;
        self.scheduler.set_urgency(if high { Urgency::Pressure } else { Urgency::Normal });
        let Some(turn) = self.scheduler.next_turn(self.now_us / 1_000) else { return };
        let stream = turn.file.0 as usize;
        let Stream { tail, head, .. } = self.streams[stream];
        let end = head.min((tail / self.setup.chunk_bytes + 1) * self.setup.chunk_bytes);
        self.note_turn(turn, end - tail);
        self.busy = Some(Busy { stream, end, bytes: end - tail });
        self.schedule_piece(self.setup.position_us);
    }

    fn note_turn(&mut self, turn: Turn, bytes: u64) {
        self.turns += 1;
        let last_turn = self.streams[turn.file.0 as usize].last_turn.replace(self.turns);
        if !self.warm() {
            return;
        }
        let report = &mut self.report;
        report.turns += 1;
        report.bytes += bytes;
        report.whole_bytes += if bytes == self.setup.chunk_bytes { bytes } else { 0 };
        report.reasons[0] += u64::from(turn.reason == Reason::WholeChunk);
        report.reasons[1] += u64::from(turn.reason == Reason::Age);
        if let Some(last_turn) = last_turn {
            let gap = self.turns - last_turn;
            let (fewest, most) = report.gaps.unwrap_or((gap, gap));
            report.gaps = Some((fewest.min(gap), most.max(gap)));
        }
    }

    fn piece_end(&self, busy: &Busy) -> u64 {
        busy.end.min(self.streams[busy.stream].tail + busy.bytes.div_ceil(4))
    }

    fn schedule_piece(&mut self, extra_us: u64) {
        let busy = self.busy.as_ref().expect("a turn is on the disk");
        let bytes = self.piece_end(busy) - self.streams[busy.stream].tail;
        let at_us = self.now_us + extra_us + bytes / self.setup.bytes_per_us;
        self.events.push(Reverse((at_us, Event::Piece)));
    }

    fn piece_done(&mut self) {
        let busy = self.busy.take().expect("a turn is on the disk");
        let piece_end = self.piece_end(&busy);
        let stream = &mut self.streams[busy.stream];
        self.held_bytes -= piece_end - stream.tail;
        stream.tail = piece_end;
        while stream.arrivals.front().is_some_and(|(end, _)| *end <= piece_end) {
            stream.arrivals.pop_front();
        }
        let (file, load) = (FileId(busy.stream as u64), self.load(busy.stream));
        let now_ms = self.now_us / 1_000;
        if piece_end == busy.end {
            self.scheduler.end_turn(file, load, Outcome::Written, now_ms);
        } else {
            self.scheduler.update(file, load, now_ms);
            self.busy = Some(busy);
            self.schedule_piece(0);
        }
        let mut out = Vec::new();
        self.admission.grant(self.held_bytes, now_ms, &mut out);
        for granted in out {
            if self.warm() {
                self.report.longest_wait_ms = self.report.longest_wait_ms.max(granted.waited_ms);
            }
            self.acknowledge(granted.ticket);
        }
    }
}
#[test]
fn explore() {
    for share in [55, 60, 75, 90] {
        for max_age_ms in [3_000, 30_000] {
        let n = 40u64;
        let setup = Setup {
            chunk_bytes: 4 * MIB,
            request_bytes: 128 * KIB,
            memory_bytes: n * 4 * MIB * share / 100,
            position_us: 10_000,
            bytes_per_us: 100,
            max_age_ms,
            periods_us: vec![128 * KIB * n / 150; n as usize],
            warm_up_us: 10_000_000,
            end_us: 60_000_000,
        };
        let limit = setup.memory_bytes;
        let r = Simulation::run(setup);
        eprintln!("{share}% age {max_age_ms} turns {} whole {:.3} reasons {:?} gaps {:?} over {} wait {} spread {:.3}", r.turns, r.whole_bytes as f64 / r.bytes as f64, r.reasons, r.gaps, r.most_held_bytes as i64 - limit as i64, r.longest_wait_ms, r.spread(0..40));
        }
    }
}
#[test]
fn explore_large() {
    for age in [30_000, 300_000] {
        let n = 10_000u64;
        let t = std::time::Instant::now();
        let setup = Setup {
            chunk_bytes: 256 * KIB,
            request_bytes: 64 * KIB,
            memory_bytes: n * 256 * KIB * 3 / 4,
            position_us: 1_000,
            bytes_per_us: 100,
            max_age_ms: age,
            periods_us: vec![64 * KIB * n / 150; n as usize],
            warm_up_us: 80_000_000,
            end_us: 200_000_000,
        };
        let limit = setup.memory_bytes;
        let r = Simulation::run(setup);
        eprintln!("age {age} turns {} whole {:.3} reasons {:?} gaps {:?} over {} wait {} spread {:.3} {:?}", r.turns, r.whole_bytes as f64 / r.bytes as f64, r.reasons, r.gaps, r.most_held_bytes as i64 - limit as i64, r.longest_wait_ms, r.spread(0..10000), t.elapsed());
    }
}
