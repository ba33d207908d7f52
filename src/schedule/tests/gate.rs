//! Who may write while memory is scarce: order, fairness by bytes, bounded waits.

use std::collections::VecDeque;

use super::Random;
use crate::schedule::{FileId, Gate, Pass};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const FROM: u64 = 40 * MIB;
const LIMIT: u64 = 100 * MIB;

fn shut() -> Gate<usize> {
    let mut gate = Gate::new(FROM, LIMIT);
    assert!(gate.note_held(FROM + 1, 0));
    gate
}

fn grant(gate: &mut Gate<usize>, held_bytes: u64, now_ms: u64) -> Vec<usize> {
    let mut out = Vec::new();
    gate.grant(held_bytes, now_ms, &mut out);
    out
}

#[test]
fn nobody_is_asked_while_there_is_room() {
    let mut gate = Gate::new(FROM, LIMIT);
    assert!(!gate.note_held(FROM, 0));
    assert_eq!(gate.ask(FileId(1), FROM, 0, 1), Some(1));
    assert_eq!(gate.pass(), Pass::Open);
}

#[test]
fn opens_well_below_where_it_shuts() {
    let mut gate = shut();
    assert_eq!(gate.pass(), Pass::Once);
    assert!(gate.note_held(FROM - MIB, 10));
    assert_eq!(gate.ask(FileId(1), LIMIT, 10, 7), None);
    assert!(!gate.note_held(FROM / 4 * 3, 11));
    assert_eq!(grant(&mut gate, FROM / 4 * 3, 11), [7], "who was held passes when it opens");
    assert_eq!(gate.waiting(), 0);
}

#[test]
fn opens_when_nobody_waits() {
    let mut gate = shut();
    assert_eq!(gate.ask(FileId(1), LIMIT, 500, 7), None);
    assert_eq!(grant(&mut gate, FROM - MIB, 501), [7]);
    assert!(gate.note_held(FROM - MIB, 1499));
    assert!(gate.note_held(FROM + 1, 5000), "not as long as too much is held");
    assert!(!gate.note_held(FROM, 5000));
}

#[test]
fn a_file_is_new_once() {
    let mut gate = shut();
    assert!(gate.note_arrived(FileId(1), 1, 0));
    assert!(!gate.note_arrived(FileId(1), 1, 0));
    assert!(gate.note_arrived(FileId(2), 1, 0));
    gate.note_held(0, 0);
    gate.note_held(LIMIT, 0);
    assert!(gate.note_arrived(FileId(1), 1, 0), "and again when it was open meanwhile");
}

/// Nothing comes back and memory is full: everybody passes after the same while all the same.
#[test]
fn nobody_is_held_for_long() {
    let mut gate = shut();
    for (at_ms, file) in [(0, 1), (100, 2)] {
        assert_eq!(gate.ask(FileId(file as u64), LIMIT, at_ms, file), None);
    }
    assert_eq!(gate.oldest_wait_ms(120), Some(120));
    assert_eq!(grant(&mut gate, LIMIT, 149), [0; 0]);
    assert_eq!(grant(&mut gate, LIMIT, 150), [1]);
    assert_eq!(grant(&mut gate, LIMIT, 249), [0; 0]);
    assert_eq!(grant(&mut gate, LIMIT, 250), [2]);
}

/// Programs that write as soon as they may, a disk, and a kernel that hands bytes over late.
struct Machine {
    gate: Gate<usize>,
    records: Vec<u64>,
    written: Vec<u64>,
    /// When what was written arrives.
    late: VecDeque<(u64, usize, u64)>,
    held_bytes: u64,
    now_ms: u64,
    longest_ms: u64,
    asked_ms: Vec<u64>,
    /// Who wrote, and asks again.
    asking: Vec<usize>,
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
            now_ms: 0,
            longest_ms: 0,
            asked_ms: vec![0; count],
            asking: Vec::new(),
            records,
        };
        (0..count).for_each(|file| machine.ask(file));
        machine
    }

    fn ask(&mut self, file: usize) {
        self.asked_ms[file] = self.now_ms;
        let passing = self.gate.ask(FileId(file as u64), self.held_bytes, self.now_ms, file);
        if let Some(file) = passing {
            self.write(file);
        }
    }

    /// A program that passed asks again in the next millisecond.
    fn write(&mut self, file: usize) {
        self.longest_ms = self.longest_ms.max(self.now_ms - self.asked_ms[file]);
        self.written[file] += self.records[file];
        self.late.push_back((self.now_ms + 100, file, self.records[file]));
        self.asking.push(file);
    }

    fn run(&mut self, for_ms: u64, rate: u64) {
        for _ in 0..for_ms {
            self.now_ms += 1;
            while let Some(&(at_ms, file, bytes)) = self.late.front()
                && at_ms <= self.now_ms
            {
                self.late.pop_front();
                self.held_bytes += bytes;
                self.gate.note_arrived(FileId(file as u64), bytes, self.now_ms);
            }
            if self.now_ms.is_multiple_of(50) {
                let freed = (rate * 50).min(self.held_bytes);
                self.held_bytes -= freed;
                self.gate.note_freed(freed, self.held_bytes, self.now_ms);
            }
            self.gate.note_held(self.held_bytes, self.now_ms);
            let asking = std::mem::take(&mut self.asking);
            for file in grant(&mut self.gate, self.held_bytes, self.now_ms) {
                self.write(file);
            }
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
        assert!(machine.longest_ms <= 151, "seed {seed}: {} ms", machine.longest_ms);
        // Where a write of each in the longest wait is much of what the disk takes, that is what counts.
        if records.iter().sum::<u64>() / 150 > rate / 4 {
            continue;
        }
        assert!(machine.held_bytes <= LIMIT + 20 * MIB, "seed {seed}: {}", machine.held_bytes);
        if able {
            compared += 1;
            assert!(most <= least * 3, "seed {seed}: {least} to {most}, {records:?}");
        }
    }
    assert!(compared > 5, "{compared}");
}
