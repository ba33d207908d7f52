//! Many writers, a memory smaller than files x chunk, and a disk slower than the input.
//!
//! All writers start at the same moment with empty buffers, the worst start for plain buffers.
//! A writer sends a request, waits for the acknowledgement, and sends the next one no earlier
//! than its rate allows. A turn writes up to a chunk from where the file's data begins, and gives
//! memory back in four pieces. Time is simulated in microseconds.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use crate::schedule::{Admission, FileId, Load, Outcome, Policy, Reason, Scheduler, Turn, Urgency};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// What is simulated.
struct Setup {
    chunk_bytes: u64,
    /// Turns end at multiples of this.
    align_bytes: u64,
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
    age_turns: u64,
    /// From a turn of a file to its next, in turns: fewest and most, over all files.
    gaps: Option<(u64, u64)>,
    most_held_bytes: u64,
    /// Age of the oldest byte when its turn began.
    oldest_ms: u64,
    longest_wait_ms: u64,
    acknowledged_bytes: Vec<u64>,
}

impl Report {
    fn whole_share(&self) -> f64 {
        self.whole_bytes as f64 / self.bytes as f64
    }

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
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    busy: Option<Busy>,
    held_bytes: u64,
    now_us: u64,
    turns: u64,
    caused: u64,
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
            events: (0..n).map(|i| Reverse((0, 0, Event::Write(i)))).collect(),
            busy: None,
            held_bytes: 0,
            now_us: 0,
            turns: 0,
            caused: 0,
            report: Report { acknowledged_bytes: vec![0; n], ..Report::default() },
            setup,
        };
        while sim.now_us < sim.setup.end_us {
            let Reverse((now_us, _, event)) =
                sim.events.pop().expect("everybody waits for nothing");
            sim.now_us = now_us;
            match event {
                Event::Write(i) => sim.write(i),
                Event::Piece => sim.piece_done(),
            }
            sim.start_turn();
        }
        sim.report
    }

    fn align(&self, offset: u64) -> u64 {
        offset / self.setup.align_bytes * self.setup.align_bytes
    }

    fn chunk_end(&self, stream: &Stream) -> u64 {
        self.align(stream.tail + self.setup.chunk_bytes)
    }

    fn turn_end(&self, stream: &Stream) -> u64 {
        let end = self.chunk_end(stream).min(self.align(stream.head));
        if end > stream.tail { end } else { stream.head }
    }

    fn warm(&self) -> bool {
        self.now_us >= self.setup.warm_up_us
    }

    fn load(&self, i: usize) -> Load {
        let stream = &self.streams[i];
        Load {
            dirty_bytes: stream.head - stream.tail,
            has_whole_chunk: stream.head >= self.chunk_end(stream),
            oldest_ms: stream.arrivals.front().map(|(_, at_us)| at_us / 1_000),
            open: true,
            place: None,
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
        self.schedule(next_us, Event::Write(i));
    }

    /// Events of the same microsecond come in the order in which they were caused.
    fn schedule(&mut self, at_us: u64, event: Event) {
        self.caused += 1;
        self.events.push(Reverse((at_us, self.caused, event)));
    }

    fn start_turn(&mut self) {
        if self.busy.is_some() {
            return;
        }
        let high = self.held_bytes > self.setup.memory_bytes / 10 * 9;
        self.scheduler.set_urgency(if high { Urgency::Pressure } else { Urgency::Normal });
        let Some(turn) = self.scheduler.next_turn(self.now_us / 1_000) else { return };
        let stream = turn.file.0 as usize;
        let (tail, end) = (self.streams[stream].tail, self.turn_end(&self.streams[stream]));
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
        let arrivals = &self.streams[turn.file.0 as usize].arrivals;
        let age_us = arrivals.front().map_or(0, |(_, at_us)| self.now_us - at_us);
        let report = &mut self.report;
        report.oldest_ms = report.oldest_ms.max(age_us / 1_000);
        report.turns += 1;
        report.bytes += bytes;
        report.whole_bytes += if bytes == self.setup.chunk_bytes { bytes } else { 0 };
        report.age_turns += u64::from(turn.reason == Reason::Age);
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
        self.schedule(at_us, Event::Piece);
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

/// Writers that together want half as much again as the disk could take without positioning.
fn equal(writers: u64, chunk_bytes: u64, request_bytes: u64) -> Setup {
    Setup {
        chunk_bytes,
        align_bytes: request_bytes,
        request_bytes,
        memory_bytes: writers * chunk_bytes / 100 * 60,
        position_us: 10_000,
        bytes_per_us: 100,
        max_age_ms: 30_000,
        periods_us: vec![request_bytes * writers / 150; writers as usize],
        warm_up_us: 10_000_000,
        end_us: 60_000_000,
    }
}

fn forty() -> Setup {
    equal(40, 4 * MIB, 128 * KIB)
}

/// Runs, and checks what holds for any writers: the bytes held, and the age of what is written.
fn run(setup: Setup) -> Report {
    let reserve_bytes = setup.periods_us.len() as u64 * setup.request_bytes;
    let (most_bytes, max_age_ms) = (setup.memory_bytes + reserve_bytes, setup.max_age_ms);
    let report = Simulation::run(setup);
    assert!(report.most_held_bytes <= most_bytes, "held {}", report.most_held_bytes);
    assert!(report.oldest_ms <= max_age_ms, "waited {} ms", report.oldest_ms);
    report
}

#[test]
fn forty_equal_writers() {
    let report = run(forty());
    assert!(report.turns > 900, "{}", report.turns);
    assert!(report.whole_share() >= 0.95, "{}", report.whole_share());
    assert_eq!(report.gaps, Some((40, 40)), "strictly one after another");
    assert!(report.spread(0..40) <= 1.05, "{}", report.spread(0..40));
    assert!(report.longest_wait_ms < 250, "{} ms", report.longest_wait_ms);
    assert_eq!(report.age_turns, 0, "a round is much shorter than the age");
}

/// The same when a round takes longer than half the maximum age: age and ring agree.
#[test]
fn forty_equal_writers_that_are_always_over_age() {
    let report = run(Setup { max_age_ms: 4_000, ..forty() });
    assert!(report.age_turns * 2 > report.turns, "{} of {}", report.age_turns, report.turns);
    assert!(report.whole_share() >= 0.95, "{}", report.whole_share());
    assert_eq!(report.gaps, Some((40, 40)));
    assert!(report.spread(0..40) <= 1.05, "{}", report.spread(0..40));
}

/// The formula in the module's head: the ramp needs files x (chunk + alignment) / 2. Equal
/// writers pass a multiple of the alignment at the same moment; with chunks aligned to their own
/// size all become ready together, and no ramp forms.
#[test]
fn the_memory_that_is_needed_grows_with_the_alignment() {
    for align_bytes in [MIB, 2 * MIB, 4 * MIB] {
        let whole_share = |percent| {
            let memory_bytes = 40 * (4 * MIB + align_bytes) / 2 / 100 * percent;
            run(Setup { align_bytes, memory_bytes, ..forty() }).whole_share()
        };
        let (enough, too_little) = (whole_share(104), whole_share(85));
        assert!(enough >= 0.95, "align {align_bytes}: {enough}");
        assert!(too_little < 0.90, "align {align_bytes}: {too_little}");
    }
}

/// 30 writers far below a fair share get what they ask for; 10 that want far more than there is
/// share the rest equally.
fn unequal(slow_period_us: u64) -> Report {
    let mut setup = Setup {
        memory_bytes: 40 * 4 * MIB / 100 * 75,
        periods_us: vec![5_000; 40],
        warm_up_us: 60_000_000,
        end_us: 160_000_000,
        ..forty()
    };
    setup.periods_us[..30].fill(slow_period_us);
    let wanted_bytes = 100_000_000 / slow_period_us * setup.request_bytes;
    let report = run(setup);
    for (i, bytes) in report.acknowledged_bytes[..30].iter().enumerate() {
        assert!(*bytes as f64 >= wanted_bytes as f64 * 0.97, "writer {i}: {bytes}");
    }
    assert!(report.spread(30..40) <= 1.05, "{}", report.spread(30..40));
    assert!(report.longest_wait_ms < 250, "{} ms", report.longest_wait_ms);
    report
}

#[test]
fn forty_unequal_writers() {
    let report = unequal(250_000);
    assert!(report.whole_share() >= 0.95, "{}", report.whole_share());
    assert_eq!(report.age_turns, 0);
}

/// The slow ones' chunks do not fill within the age: theirs leave early, the others' whole.
#[test]
fn forty_unequal_writers_of_which_some_become_over_age() {
    let report = unequal(640_000);
    assert!(report.age_turns >= 30 * 6, "{}", report.age_turns);
    assert!(report.whole_share() >= 0.90, "{}", report.whole_share());
    assert!(report.oldest_ms < 16_000, "served within a second of being due");
}

fn ten_thousand() -> Setup {
    Setup {
        position_us: 1_000,
        warm_up_us: 80_000_000,
        end_us: 200_000_000,
        max_age_ms: 120_000,
        memory_bytes: 10_000 * 256 * KIB / 100 * 75,
        ..equal(10_000, 256 * KIB, 32 * KIB)
    }
}

/// A decision that looked at every file would make this take minutes.
#[test]
fn ten_thousand_equal_writers() {
    let report = run(ten_thousand());
    assert!(report.turns > 30_000, "{}", report.turns);
    assert!(report.whole_share() >= 0.95, "{}", report.whole_share());
    assert_eq!(report.gaps, Some((10_000, 10_000)));
    assert!(report.spread(0..10_000) <= 1.05, "{}", report.spread(0..10_000));
}

/// Rates from 1 to 10, of which the upper ones are above the fair share.
#[test]
fn ten_thousand_unequal_writers() {
    let mut setup = ten_thousand();
    for (i, period_us) in setup.periods_us.iter_mut().enumerate() {
        *period_us = *period_us * 5 / (1 + i as u64 / 1_000);
    }
    let report = run(setup);
    assert!(report.whole_share() >= 0.95, "{}", report.whole_share());
    assert!(report.spread(8_000..10_000) <= 1.05, "{}", report.spread(8_000..10_000));
}
