//! Which program may write on while memory is scarce, before its bytes are in the kernel's page
//! cache.
//!
//! A write acknowledged late holds back whoever the kernel chooses: what is dirty counts for all
//! programs of a mount together, and the one that runs takes the room that others wait for. Here
//! programs ask one by one before each write, and pass in an order that is fair by bytes (start-time
//! fair queueing: of those that wait, the one that has had the least), at the rate of [`Pace`].
//! Nobody is held for longer than [`HOLD_MS`]: the gate makes a queue, and the bound of memory is
//! elsewhere. How many bytes a write will have is not asked; it is learned from what arrives.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::FileId;
use super::pace::Pace;

/// A stall that is hardly noticed; and the next write may have to wait for more than the gate.
const HOLD_MS: u64 = 150;
/// A write of a file of which nothing is known, in bytes: a page.
const FIRST_COST_BYTES: u64 = 4 << 10;
/// It opens when nobody had to wait for so long: with many streams more may be held for ever than
/// where it shuts for those that are too fast.
const OPENS_MS: u64 = 1000;
/// What is known of it from the start counts as much as so many writes.
const FIRST_WRITES: f64 = 64.0;
/// What arrives so soon was written before anybody was asked.
const HOARD_MS: u64 = 500;
/// After so long, what was learned counts half: the kernel sends bytes long after they were written,
/// and those of many writes at once.
const HALVED_MS: f64 = 5000.0;

/// What is known of a file that is written while the gate is shut.
#[derive(Debug)]
struct Meter {
    /// Its place in the order: the bytes it has had.
    had_bytes: u64,
    /// Writes that passed and bytes that arrived, older ones for less.
    passed: f64,
    arrived_bytes: f64,
    since_ms: u64,
    learned_ms: u64,
}

impl Meter {
    fn new(had_bytes: u64, now_ms: u64) -> Meter {
        Meter {
            had_bytes,
            passed: FIRST_WRITES,
            arrived_bytes: FIRST_WRITES * FIRST_COST_BYTES as f64,
            since_ms: now_ms,
            learned_ms: now_ms,
        }
    }

    fn learn(&mut self, passed: u64, arrived_bytes: u64, now_ms: u64) {
        if now_ms.saturating_sub(self.since_ms) < HOARD_MS {
            return;
        }
        let aged_ms = now_ms.saturating_sub(std::mem::replace(&mut self.learned_ms, now_ms));
        let left = (-(aged_ms as f64) / HALVED_MS).exp2();
        self.passed = self.passed * left + passed as f64;
        self.arrived_bytes = self.arrived_bytes * left + arrived_bytes as f64;
    }

    /// Bytes of one write.
    fn cost_bytes(&self) -> u64 {
        (self.arrived_bytes / self.passed.max(1.0)).max(1.0) as u64
    }

    /// The same, but of all files where this one is hardly different: programs that do the same are
    /// to get the same, and bytes arrive in large lumps.
    fn cost_beside(&self, mean_bytes: u64) -> u64 {
        let own_bytes = self.cost_bytes();
        let is_alike = own_bytes * 2 <= mean_bytes * 3 && mean_bytes * 2 <= own_bytes * 3;
        if is_alike { mean_bytes } else { own_bytes }
    }
}

/// Place in the order, and a number of its own.
type Place = (u64, u64);

#[derive(Debug)]
struct Waiting<T> {
    cost_bytes: u64,
    since_ms: u64,
    ticket: T,
}

/// How long a program may write on without asking again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// As long as it would without a gate.
    Open,
    /// For one write.
    Once,
}

/// Holds programs back while memory is scarce. Every ticket comes out exactly once.
#[derive(Debug)]
pub struct Gate<T> {
    from_bytes: u64,
    pace: Pace,
    is_shut: bool,
    files: HashMap<FileId, Meter>,
    /// Of all files together.
    all: Meter,
    waiting: BTreeMap<Place, Waiting<T>>,
    by_age: BTreeSet<(u64, Place)>,
    /// Where the order is: the place of the last that passed.
    at_bytes: u64,
    next_number: u64,
    /// When somebody had to wait, or it was shut.
    waited_ms: u64,
}

impl<T> Gate<T> {
    /// Open. It is shut above `from_bytes` held; at `limit_bytes` nobody passes but for age.
    pub fn new(from_bytes: u64, limit_bytes: u64) -> Self {
        Self {
            from_bytes,
            pace: Pace::new(from_bytes, limit_bytes),
            is_shut: false,
            files: HashMap::new(),
            all: Meter::new(0, 0),
            waiting: BTreeMap::new(),
            by_age: BTreeSet::new(),
            at_bytes: 0,
            next_number: 0,
            waited_ms: 0,
        }
    }

    /// Shuts it above `from_bytes`; opens it below, when nobody had to wait for a while, or well below
    /// at once. Whether it is shut. When it opens, call [`Gate::grant`].
    pub fn note_held(&mut self, held_bytes: u64, now_ms: u64) -> bool {
        let is_wanted = now_ms.saturating_sub(self.waited_ms) < OPENS_MS;
        let stays_shut = self.is_shut && is_wanted && held_bytes > self.from_bytes / 4 * 3;
        let is_shut = held_bytes > self.from_bytes || stays_shut;
        let was_shut = std::mem::replace(&mut self.is_shut, is_shut);
        if was_shut && !self.is_shut {
            self.files.clear();
        }
        if self.is_shut && !was_shut {
            self.all = Meter::new(0, now_ms);
            self.waited_ms = now_ms;
        }
        self.is_shut
    }

    /// Bytes of a file came while the gate is shut. Whether it is the first time: its programs do
    /// not know yet that they have to ask.
    pub fn note_arrived(&mut self, file: FileId, bytes: u64, now_ms: u64) -> bool {
        let known = self.files.len();
        self.all.learn(0, bytes, now_ms);
        self.meter(file, now_ms).learn(0, bytes, now_ms);
        self.files.len() > known
    }

    /// Memory came back, and `held_bytes` are held now.
    pub fn note_freed(&mut self, bytes: u64, held_bytes: u64, now_ms: u64) {
        self.pace.note_freed(bytes, held_bytes, now_ms);
    }

    /// Asks to write to a file. `Some`: it may, now. `None`: held.
    pub fn ask(&mut self, file: FileId, held_bytes: u64, now_ms: u64, ticket: T) -> Option<T> {
        if !self.is_shut {
            return Some(ticket);
        }
        self.all.learn(1, 0, now_ms);
        let (at_bytes, mean_bytes) = (self.at_bytes, self.all.cost_bytes());
        let meter = self.meter(file, now_ms);
        let cost_bytes = meter.cost_beside(mean_bytes);
        let place_bytes = meter.had_bytes.max(at_bytes);
        meter.had_bytes = place_bytes + cost_bytes;
        meter.learn(1, 0, now_ms);
        if self.waiting.is_empty() && self.pace.room_bytes(held_bytes, now_ms) > 0 {
            self.pace.spend(cost_bytes);
            self.at_bytes = place_bytes;
            return Some(ticket);
        }
        self.waited_ms = now_ms;
        let place = (place_bytes, self.next_number);
        self.next_number += 1;
        self.by_age.insert((now_ms, place));
        self.waiting.insert(place, Waiting { cost_bytes, since_ms: now_ms, ticket });
        None
    }

    /// Appends those that may pass: at the rate of the pace, whoever waited too long, and all when
    /// the gate is open. To be called every few milliseconds while any wait.
    pub fn grant(&mut self, held_bytes: u64, now_ms: u64, out: &mut Vec<T>) {
        while let Some(&(since_ms, place)) = self.by_age.first()
            && (!self.is_shut || now_ms.saturating_sub(since_ms) >= HOLD_MS)
        {
            self.release(place, out);
        }
        let mut room_bytes = self.pace.room_bytes(held_bytes, now_ms);
        while room_bytes > 0
            && let Some((&place, waiting)) = self.waiting.first_key_value()
        {
            room_bytes = room_bytes.saturating_sub(waiting.cost_bytes);
            self.at_bytes = place.0;
            self.release(place, out);
        }
    }

    /// How long a program that passes need not ask again.
    pub fn pass(&self) -> Pass {
        if self.is_shut { Pass::Once } else { Pass::Open }
    }

    /// Programs held.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// How long the one held longest has been.
    pub fn oldest_wait_ms(&self, now_ms: u64) -> Option<u64> {
        self.by_age.first().map(|(since_ms, _)| now_ms.saturating_sub(*since_ms))
    }

    fn meter(&mut self, file: FileId, now_ms: u64) -> &mut Meter {
        let at_bytes = self.at_bytes;
        self.files.entry(file).or_insert_with(|| Meter::new(at_bytes, now_ms))
    }

    fn release(&mut self, place: Place, out: &mut Vec<T>) {
        let waiting = self.waiting.remove(&place).expect("found there");
        self.by_age.remove(&(waiting.since_ms, place));
        self.pace.spend(waiting.cost_bytes);
        out.push(waiting.ticket);
    }
}
