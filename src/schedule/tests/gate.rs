//! Who may write while memory is scarce: order, fairness by bytes, bounded waits.

use std::collections::VecDeque;

use super::Random;
use crate::schedule::{FileId, Gate, Pass, Seen};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const FROM: u64 = 40 * MIB;
const LIMIT: u64 = 100 * MIB;
const MS: u64 = 1000;

fn shut() -> Gate<usize> {
    let mut gate = Gate::new(FROM, LIMIT);
    assert!(gate.note_held(FROM + 1, 0));
    gate
}

fn grant(gate: &mut Gate<usize>, held_bytes: u64, now_us: u64) -> Vec<usize> {
    let mut out = Vec::new();
    gate.grant(held_bytes, now_us, &mut out);
    out.into_iter().map(|(ticket, _)| ticket).collect()
}

fn ended(gate: &mut Gate<usize>, now_us: u64) -> Vec<FileId> {
    let mut out = Vec::new();
    gate.end_passes(now_us, &mut out);
    out
}

#[test]
fn nobody_is_asked_while_there_is_room() {
    let mut gate = Gate::new(FROM, LIMIT);
    assert!(!gate.note_held(FROM, 0));
    assert!(gate.ask(FileId(1), Seen::default(), FROM, 0, 1).is_some());
    assert_eq!(gate.next_end_us(), None, "and nobody is stopped");
}

#[test]
fn opens_well_below_where_it_shuts() {
    let mut gate = shut();
    assert!((1..70).all(|at_ms| gate.note_held(FROM + 1, at_ms * 10 * MS)), "memory stays full");
    assert!(gate.note_held(FROM - MIB, 700 * MS));
    assert_eq!(gate.ask(FileId(1), Seen::default(), LIMIT, 700 * MS, 7), None);
    assert!(!gate.note_held(FROM / 4 * 3, 701 * MS));
    let passing = grant(&mut gate, FROM / 4 * 3, 701 * MS);
    assert_eq!(passing, [7], "who was held passes when it opens");
    assert_eq!(gate.waiting(), 0);
}

/// What fills memory is asked before it is full, so that the kernel need not stop it; who ends a burst
/// before that is not held.
#[test]
fn who_fills_memory_is_asked_before_it_is_full() {
    let fill = |per_ms: u64| {
        let mut gate: Gate<usize> = Gate::new(FROM, LIMIT);
        let shut_ms = (0..60_000).find(|ms| gate.note_held(ms * per_ms, (1000 + ms) * MS));
        (shut_ms.expect("it is") * per_ms, gate)
    };
    assert_eq!(fill(MIB).0, 10 * MIB, "at the first measurement");
    assert!(fill(MIB / 10).0 < FROM / 16);
    let slow = fill(KIB).0;
    assert!(slow <= FROM && slow > FROM - MIB, "{slow}: it has half a minute");
    let (held_bytes, mut gate) = fill(MIB);
    assert!(gate.ask(FileId(1), Seen::default(), held_bytes, 1011 * MS, 1).is_some());
    assert!(gate.note_held(held_bytes, 1100 * MS), "not to and fro");
    assert!(!gate.note_held(held_bytes, 2000 * MS));
}

/// What comes faster than the disk takes fills memory: the disk is to begin before that is full, and
/// not for what it takes as it comes, nor for a burst that ends.
#[test]
fn memory_fills_when_more_comes_than_goes() {
    let begins = |per_ms: u64, rate: u64| {
        let mut gate: Gate<usize> = Gate::new(FROM, LIMIT);
        for at_ms in 1..=20 * rate.min(1) {
            gate.note_freed(rate * 50, FROM + MIB, at_ms * 50 * MS);
        }
        let at = |ms: u64| (ms * per_ms).min(FROM / 2);
        let fills = |ms: &u64| {
            gate.note_held(at(*ms), (2000 + ms) * MS);
            gate.filling_bytes().is_some()
        };
        (0..2000).find(fills).map(at)
    };
    let begun = begins(200 * KIB, 100 * KIB).expect("it is filling");
    assert!(begun > FROM / 32 && begun < FROM / 2, "{begun}");
    assert_eq!(begins(90 * KIB, 100 * KIB), None);
    assert!(begins(90 * KIB, 0).is_some(), "nobody knows what the disk takes");
    let mut gate: Gate<usize> = Gate::new(FROM, LIMIT);
    for ms in 0..700 {
        gate.note_held((ms * MIB).min(FROM / 2), (2000 + ms) * MS);
    }
    assert_eq!(gate.filling_bytes(), None, "it has ended");
}

/// The kernel hands pages over in bursts, a quarter of a second apart: memory fills between them, too.
#[test]
fn memory_fills_between_bursts() {
    let mut gate: Gate<usize> = Gate::new(1024 * MIB, 2048 * MIB);
    let mut held = 0;
    for (burst, ms) in (0..15).flat_map(|burst| (0..=30).map(move |ms| (burst, ms))) {
        held += if ms > 0 { MIB } else { 0 };
        gate.note_held(held, (2000 + burst * 250 + ms) * MS);
        assert!(burst < 3 || gate.filling_bytes().is_some(), "burst {burst}, {ms} ms");
    }
    gate.note_held(held, (2000 + 15 * 250 + 1000) * MS);
    assert_eq!(gate.filling_bytes(), None, "it has ended");
}

#[test]
fn opens_when_nobody_waits() {
    let mut gate = shut();
    assert_eq!(gate.ask(FileId(1), Seen::default(), LIMIT, 500 * MS, 7), None);
    assert_eq!(grant(&mut gate, FROM - MIB, 501 * MS), [7]);
    assert!(gate.note_held(FROM - MIB, 1499 * MS));
    assert!(gate.note_held(FROM + 1, 5000 * MS), "not as long as too much is held");
    assert!(!gate.note_held(FROM, 5000 * MS));
}

#[test]
fn a_file_is_new_once() {
    let mut gate = shut();
    assert!(gate.note_arrived(FileId(1), 1, 0));
    assert!(!gate.note_arrived(FileId(1), 1, 0));
    assert!(gate.note_arrived(FileId(2), 1, 0));
    assert!(!gate.note_held(0, 200 * MS));
    assert!(gate.note_held(LIMIT, 200 * MS));
    assert!(gate.note_arrived(FileId(1), 1, 0), "and again when it was open meanwhile");
}

/// Nothing comes back and memory is full: everybody passes after the same while all the same, for
/// one write.
#[test]
fn nobody_is_held_for_long() {
    let mut gate = shut();
    for (at_ms, file) in [(0, 1), (100, 2)] {
        assert_eq!(gate.ask(FileId(file as u64), Seen::default(), LIMIT, at_ms * MS, file), None);
    }
    assert_eq!(gate.oldest_wait_us(120 * MS), Some(120 * MS));
    assert_eq!(grant(&mut gate, LIMIT, 149 * MS), [0; 0]);
    assert_eq!(grant(&mut gate, LIMIT, 150 * MS), [1]);
    assert_eq!(grant(&mut gate, LIMIT, 249 * MS), [0; 0]);
    assert_eq!(grant(&mut gate, LIMIT, 250 * MS), [2]);
    assert_eq!(gate.next_end_us(), None);
}

/// Memory comes back fast: a pass is for a time, ends when it is to, and once.
#[test]
fn a_pass_of_a_large_share_ends() {
    let mut gate = shut();
    for at_ms in 1..=20 {
        gate.note_freed(20 * MIB, FROM + MIB, at_ms * 50 * MS);
    }
    let now_us = 1000 * MS;
    let passed = gate.ask(FileId(3), Seen::default(), FROM - MIB, now_us, 3);
    assert_eq!(passed, Some((3, Pass::Timed)));
    let end_us = gate.next_end_us().expect("it has one");
    assert!(end_us > now_us && end_us <= now_us + 4 * MS, "{end_us}");
    assert_eq!(ended(&mut gate, end_us - 1), []);
    assert_eq!(ended(&mut gate, end_us), [FileId(3)]);
    assert_eq!(ended(&mut gate, end_us + MS), []);
}

/// Who took most of the memory before anybody was asked waits for the others.
#[test]
fn what_was_taken_counts() {
    let mut gate = shut();
    for (file, taken_bytes) in [(1, 5 * MIB), (2, 0), (3, MIB)] {
        let seen = Seen { taken_bytes, ..Seen::default() };
        assert_eq!(gate.ask(FileId(file as u64), seen, LIMIT, 0, file), None);
    }
    assert_eq!(grant(&mut gate, 0, MS), [2, 3, 1]);
}

/// Memory is not scarce yet, but soon: a few pass, and the next when their passes are over.
#[test]
fn few_pass_at_once_while_memory_fills() {
    let mut gate = shut();
    let asked: Vec<usize> = (0..20)
        .filter(|file| gate.ask(FileId(*file as u64), Seen::default(), MIB, 0, *file).is_some())
        .collect();
    assert!((2..=6).contains(&asked.len()), "{asked:?}");
    assert_eq!(grant(&mut gate, MIB, 100), [0; 0]);
    let over = ended(&mut gate, 5 * MS);
    assert_eq!(over.len(), asked.len());
    let next = grant(&mut gate, MIB, 5 * MS);
    assert!((2..=6).contains(&next.len()), "{next:?}");
}

/// A pass of a file whose other program passes, too, goes on.
#[test]
fn a_pass_is_made_longer() {
    let mut gate = shut();
    for at_ms in 1..=20 {
        gate.note_freed(20 * MIB, FROM + MIB, at_ms * 50 * MS);
    }
    let now_us = 1000 * MS;
    assert!(gate.ask(FileId(3), Seen::default(), FROM - MIB, now_us, 3).is_some());
    let first_end_us = gate.next_end_us().expect("it has one");
    assert!(gate.ask(FileId(3), Seen::default(), FROM - MIB, now_us + 10, 4).is_some());
    assert!(gate.next_end_us().expect("it has one") > first_end_us);
    assert_eq!(ended(&mut gate, first_end_us), []);
    assert_eq!(ended(&mut gate, first_end_us + 4 * MS), [FileId(3)]);
}

/// Programs that write as soon as they may, a disk, and a kernel that hands bytes over late.
struct Machine {
    gate: Gate<usize>,
    /// Bytes of a write, which takes a microsecond a KiB.
    records: Vec<u64>,
    written: Vec<u64>,
    /// When what was written arrives.
    late: VecDeque<(u64, usize, u64)>,
    held_bytes: u64,
    now_us: u64,
    longest_us: u64,
    asked_us: Vec<u64>,
    /// Whether the sizes of files are known.
    tells_sizes: bool,
    /// Who writes, and from when on.
    writing: Vec<Option<u64>>,
    /// Who wrote, and asks again.
    asking: Vec<usize>,
    passes: u64,
}

impl Machine {
    /// Full speed until memory is scarce: what was written before arrives with the rest.
    fn new(records: Vec<u64>, hoard_bytes: u64) -> Machine {
        let count = records.len();
        let hoard = |file| (0, file, hoard_bytes / count as u64);
        let mut machine = Machine {
            gate: shut(),
            written: vec![0; count],
            late: (0..count).map(hoard).collect(),
            held_bytes: FROM + 1,
            now_us: 0,
            longest_us: 0,
            asked_us: vec![0; count],
            tells_sizes: count.is_multiple_of(2),
            writing: vec![None; count],
            asking: Vec::new(),
            records,
            passes: 0,
        };
        (0..count).for_each(|file| machine.ask(file));
        machine
    }

    fn ask(&mut self, file: usize) {
        self.asked_us[file] = self.now_us;
        let size_bytes = self.tells_sizes.then_some(self.written[file]);
        let seen = Seen { size_bytes, ..Seen::default() };
        let id = FileId(file as u64);
        let passing = self.gate.ask(id, seen, self.held_bytes, self.now_us, file);
        if let Some((file, pass)) = passing {
            self.let_write(file, pass);
        }
    }

    /// A program that passed for one write asks again in the next millisecond.
    fn let_write(&mut self, file: usize, pass: Pass) {
        self.passes += 1;
        self.longest_us = self.longest_us.max(self.now_us - self.asked_us[file]);
        match pass {
            Pass::Once => {
                self.write(file, self.records[file]);
                self.asking.push(file);
            }
            _ => self.writing[file] = Some(self.now_us),
        }
    }

    fn write(&mut self, file: usize, bytes: u64) {
        self.written[file] += bytes;
        self.late.push_back((self.now_us + 100 * MS, file, bytes));
    }

    fn end_passes(&mut self) {
        for FileId(file) in ended(&mut self.gate, self.now_us) {
            let file = file as usize;
            let since_us = self.writing[file].take().expect("it passed");
            let writes = (self.now_us - since_us) * KIB / self.records[file] + 1;
            self.write(file, writes * self.records[file]);
            self.asking.push(file);
        }
    }

    /// While the gate is open all write, and when it is shut they are to ask.
    fn note_held(&mut self) {
        let was_shut = self.gate.is_shut();
        let is_shut = self.gate.note_held(self.held_bytes, self.now_us);
        if is_shut && !was_shut {
            let writing = self.writing.iter_mut().enumerate();
            self.asking.extend(writing.filter_map(|(file, since)| since.take().map(|_| file)));
        }
        if !is_shut {
            let writing: Vec<_> =
                (0..self.writing.len()).filter(|file| self.writing[*file].is_some()).collect();
            writing.into_iter().for_each(|file| self.write(file, MIB));
        }
    }

    /// Steps of a millisecond, but for passes that end within.
    fn run(&mut self, for_ms: u64, rate: u64) {
        for _ in 0..for_ms {
            let next_us = self.now_us + MS;
            while let Some(end_us) = self.gate.next_end_us().filter(|end_us| *end_us < next_us) {
                self.now_us = end_us.max(self.now_us);
                self.end_passes();
            }
            self.now_us = next_us;
            self.end_passes();
            while let Some(&(at_us, file, bytes)) = self.late.front()
                && at_us <= self.now_us
            {
                self.late.pop_front();
                self.held_bytes += bytes;
                self.gate.note_arrived(FileId(file as u64), bytes, self.now_us);
            }
            if (self.now_us / MS).is_multiple_of(50) {
                let freed = (rate * 50).min(self.held_bytes);
                self.held_bytes -= freed;
                self.gate.note_freed(freed, self.held_bytes, self.now_us);
            }
            self.note_held();
            let asking = std::mem::take(&mut self.asking);
            let mut passing = Vec::new();
            self.gate.grant(self.held_bytes, self.now_us, &mut passing);
            passing.into_iter().for_each(|(file, pass)| self.let_write(file, pass));
            asking.into_iter().for_each(|file| self.ask(file));
        }
    }
}

/// Programs with records of all sizes, from 2 to 32 KiB, get about the same bytes, on slow disks and
/// on fast ones, and none waits for longer than the bound; memory stays within the limit, but for
/// what was on its way when it became scarce.
#[test]
fn equal_bytes_whatever_the_records() {
    let mut compared = 0;
    for seed in 0..40 {
        let mut random = Random(seed);
        let count = 20 + random.below(40) as usize;
        let records: Vec<u64> = (0..count).map(|_| (2 * KIB) << random.below(5)).collect();
        let rate = (20 * KIB) << random.below(3);
        let mut machine = Machine::new(records.clone(), 20 * MIB);
        machine.run(10_000, rate);
        let before = machine.written.clone();
        machine.run(20_000, rate);
        let had: Vec<u64> = machine.written.iter().zip(&before).map(|(a, b)| a - b).collect();
        // One write a millisecond is all that a program does here.
        let fair = rate * 20_000 / count as u64;
        let (least, most) = (*had.iter().min().unwrap(), *had.iter().max().unwrap());
        let able = records.iter().all(|record| record * 20_000 > 2 * fair);
        assert!(machine.longest_us <= 151 * MS, "seed {seed}: {} us", machine.longest_us);
        // Where a write of each in the longest wait is much of what the disk takes, that is what counts.
        if records.iter().sum::<u64>() / 150 > rate / 4 {
            continue;
        }
        assert!(machine.held_bytes <= LIMIT + 20 * MIB, "seed {seed}: {}", machine.held_bytes);
        if able {
            compared += 1;
            assert!(most * 10 <= least * 12, "seed {seed}: {least} to {most}, {records:?}");
        }
    }
    assert!(compared > 5, "{compared}");
}

/// Programs that write little at a time are let write for a time from the first moments on: when a
/// file has grown by single writes it is known at once what those were.
#[test]
fn small_writes_ask_a_few_times() {
    let count = 20;
    let mut machine = Machine::new(vec![10; count], 20 * MIB);
    assert!(machine.tells_sizes);
    machine.run(400, 10 * KIB);
    assert!(machine.passes < 20 * count as u64, "{} passes", machine.passes);
}

/// A file whose size is not told any more goes on to be counted, by what arrives: nobody gets
/// everything.
#[test]
fn sizes_may_become_unknown() {
    let count = 20;
    let mut machine = Machine::new(vec![4 * KIB; count], 20 * MIB);
    machine.run(5_000, 40 * KIB);
    machine.tells_sizes = false;
    machine.run(2_000, 40 * KIB);
    let before = machine.written.clone();
    machine.run(20_000, 40 * KIB);
    let had: Vec<u64> = machine.written.iter().zip(&before).map(|(a, b)| a - b).collect();
    let (least, most) = (*had.iter().min().unwrap(), *had.iter().max().unwrap());
    assert!(most * 10 <= least * 12, "{least} to {most}");
}

/// On a disk that takes much, a pass is for many writes, and shares are equal all the same.
#[test]
fn few_ask_often_where_the_disk_is_fast() {
    for seed in 0..20 {
        let mut random = Random(seed);
        let count = 2 + random.below(30) as usize;
        let records: Vec<u64> = (0..count).map(|_| (2 * KIB) << random.below(4)).collect();
        // More than a MiB for each in a round.
        let rate = count as u64 * 16 * KIB;
        let mut machine = Machine::new(records, 20 * MIB);
        machine.run(5_000, rate);
        let (before, passes) = (machine.written.clone(), machine.passes);
        machine.run(20_000, rate);
        let had: Vec<u64> = machine.written.iter().zip(&before).map(|(a, b)| a - b).collect();
        let (least, most) = (*had.iter().min().unwrap(), *had.iter().max().unwrap());
        assert!(machine.longest_us <= 151 * MS, "seed {seed}: {} us", machine.longest_us);
        assert!(most * 10 <= least * 12, "seed {seed}: {least} to {most}");
        let mean = had.iter().sum::<u64>() / (machine.passes - passes);
        assert!(mean > 256 * KIB, "seed {seed}: {mean} bytes a pass");
    }
}

/// Who was idle does not get what others had meanwhile: only its part of the memory, first.
#[test]
fn idleness_is_no_claim() {
    let count = 20;
    let mut machine = Machine::new(vec![4 * KIB; count], 20 * MIB);
    let rate = 40 * KIB;
    machine.run(2_000, rate);
    // The last one pauses.
    let idle = count - 1;
    let mut paused = 0;
    for _ in 0..5_000 {
        machine.asking.retain(|file| *file != idle);
        machine.run(1, rate);
        paused = machine.written[idle];
    }
    machine.ask(idle);
    let before: u64 = machine.written[0];
    machine.run(5_000, rate);
    let (had, other) = (machine.written[idle] - paused, machine.written[0] - before);
    assert!(had < other + 2 * LIMIT / count as u64, "{had} beside {other}");
    assert!(had >= other, "{had} beside {other}");
}
