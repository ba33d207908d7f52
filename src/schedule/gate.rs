//! Which program may write on while memory is scarce, before its bytes are in the kernel's page
//! cache.
//!
//! A write acknowledged late holds back whoever the kernel chooses: what is dirty counts for all
//! programs of a mount together, and the one that runs takes the room that others wait for. Here
//! programs ask before they write, and pass in an order that is fair by bytes (start-time fair
//! queueing: of those that wait, the one that has had the least), at the rate of [`Pace`]. A pass is
//! for a time, since nobody counts the bytes meanwhile: as long as it takes to write a share. Where
//! shares are so small that waking a thread may take as long ([`TIMED_BYTES_MIN`]), it is for one
//! write, which is exact, and asking costs many times what writing costs. How fast a program writes is
//! learned from what arrives; of timed passes that is also what decides the order, so wrong guesses
//! make up for themselves.
//! Nobody is held for longer than [`HOLD_US`]: the gate makes a queue, and the bound of memory is
//! elsewhere. Times are microseconds of a clock that never goes back.

mod meter;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::FileId;
use super::pace::Pace;
use meter::Meter;

/// A stall that is hardly noticed; and the next write may have to wait for more than the gate.
const HOLD_US: u64 = 150_000;
/// All that wait are to have had a pass after so long: less would be more asking, more a longer wait.
const ROUND_US: u64 = 80_000;
/// The longest pass. A program that was slow may have become fast.
const PASS_US_MAX: u64 = 4_000;
/// The shortest: programs wake late by as much.
const PASS_US_MIN: u64 = 30;
/// The least share for which a pass is timed. With smaller ones, whose time is some hundred
/// microseconds, threads that wake late make programs unequal by as much.
const TIMED_BYTES_MIN: f64 = (1 << 20) as f64;
/// How late passes end is a mean of as many.
const LATE_PARTS: f64 = 64.0;
/// It opens when nobody had to wait for so long: with many streams more may be held for ever than
/// where it shuts for those that are too fast.
const OPENS_US: u64 = 1_000_000;
/// How many want to write is counted anew so often.
const PEAK_US: u64 = 500_000;

/// For how long programs are let write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// For one write.
    Once,
    /// Until [`Gate::end_passes`] names the file.
    Timed,
}

/// Place in the order, and a number of its own.
type Place = (u64, u64);

#[derive(Debug)]
struct Waiting<T> {
    file: FileId,
    since_us: u64,
    ticket: T,
}

/// A file whose programs may write.
#[derive(Debug)]
struct Passing {
    since_us: u64,
    until_us: u64,
    /// What was counted for it beforehand.
    charged_bytes: f64,
}

/// Holds programs back while memory is scarce. Every ticket comes out exactly once.
#[derive(Debug)]
pub struct Gate<T> {
    from_bytes: u64,
    pace: Pace,
    is_shut: bool,
    /// For how long programs pass now.
    kind: Pass,
    files: HashMap<FileId, Meter>,
    /// Of all files together.
    all: Meter,
    waiting: BTreeMap<Place, Waiting<T>>,
    by_age: BTreeSet<(u64, Place)>,
    passing: HashMap<FileId, Passing>,
    by_end: BTreeSet<(u64, u64)>,
    /// Where the order is: the place of the last that passed.
    at_bytes: u64,
    next_number: u64,
    /// How much longer than meant passes are, in the mean.
    late_us: f64,
    /// Most that waited or passed at once, in the time since `peak_us` and in the one before.
    peak: usize,
    last_peak: usize,
    peak_us: u64,
    /// When somebody had to wait, or it was shut.
    waited_us: u64,
}

impl<T> Gate<T> {
    /// Open. It is shut above `from_bytes` held; at `limit_bytes` nobody passes but for age.
    pub fn new(from_bytes: u64, limit_bytes: u64) -> Self {
        Self {
            from_bytes,
            pace: Pace::new(from_bytes, limit_bytes),
            is_shut: false,
            kind: Pass::Once,
            files: HashMap::new(),
            all: Meter::new(0, 0),
            waiting: BTreeMap::new(),
            by_age: BTreeSet::new(),
            passing: HashMap::new(),
            by_end: BTreeSet::new(),
            at_bytes: 0,
            next_number: 0,
            late_us: 0.0,
            peak: 0,
            last_peak: 0,
            peak_us: 0,
            waited_us: 0,
        }
    }

    /// Shuts it above `from_bytes`; opens it below, when nobody had to wait for a while, or well below
    /// at once. Whether it is shut. When it opens, call [`Gate::grant`].
    pub fn note_held(&mut self, held_bytes: u64, now_us: u64) -> bool {
        let is_wanted = now_us.saturating_sub(self.waited_us) < OPENS_US;
        let stays_shut = self.is_shut && is_wanted && held_bytes > self.from_bytes / 4 * 3;
        let is_shut = held_bytes > self.from_bytes || stays_shut;
        let was_shut = std::mem::replace(&mut self.is_shut, is_shut);
        if was_shut && !self.is_shut {
            self.files.clear();
            self.passing.clear();
            self.by_end.clear();
        }
        if self.is_shut && !was_shut {
            self.all = Meter::new(0, now_us);
            self.waited_us = now_us;
        }
        self.is_shut
    }

    /// Bytes of a file came while the gate is shut. Whether it is the first time: its programs do
    /// not know yet that they have to ask.
    pub fn note_arrived(&mut self, file: FileId, bytes: u64, now_us: u64) -> bool {
        let known = self.files.len();
        let kind = self.kind;
        self.all.note_arrived(kind, bytes, now_us);
        self.meter(file, now_us).note_arrived(kind, bytes, now_us);
        self.files.len() > known
    }

    /// Memory came back, and `held_bytes` are held now.
    pub fn note_freed(&mut self, bytes: u64, held_bytes: u64, now_us: u64) {
        self.pace.note_freed(bytes, held_bytes, now_us / 1000);
    }

    /// Asks to write to a file. `Some`: it may, as long as is said. `None`: held.
    pub fn ask(
        &mut self,
        file: FileId,
        held_bytes: u64,
        now_us: u64,
        ticket: T,
    ) -> Option<(T, Pass)> {
        if !self.is_shut {
            return Some((ticket, Pass::Timed));
        }
        self.count_programs(now_us);
        // What it may have been late with: its part of a round.
        let claim_bytes = self.share_bytes() as u64;
        let (first_bytes, last_bytes) =
            (self.at_bytes.saturating_sub(claim_bytes), self.at_bytes + claim_bytes);
        let place_bytes = self.meter(file, now_us).place_bytes(first_bytes, last_bytes, now_us);
        if self.waiting.is_empty() && self.pace.room_bytes(held_bytes, now_us / 1000) > 0 {
            self.at_bytes = self.at_bytes.max(place_bytes);
            let (pass, _) = self.begin_pass(file, now_us);
            return Some((ticket, pass));
        }
        self.waited_us = now_us;
        let place = (place_bytes, self.next_number);
        self.next_number += 1;
        self.by_age.insert((now_us, place));
        self.waiting.insert(place, Waiting { file, since_us: now_us, ticket });
        None
    }

    /// Appends those that may pass: at the rate of the pace, whoever waited too long, and all when
    /// the gate is open. To be called every few milliseconds while any wait.
    pub fn grant(&mut self, held_bytes: u64, now_us: u64, out: &mut Vec<(T, Pass)>) {
        while let Some(&(since_us, place)) = self.by_age.first()
            && (!self.is_shut || now_us.saturating_sub(since_us) >= HOLD_US)
        {
            let (file, ticket) = self.take_waiting(place);
            // Not in its turn: as little as possible.
            let pass = if self.is_shut { self.let_once(file, now_us).0 } else { Pass::Timed };
            out.push((ticket, pass));
        }
        let mut room_bytes = self.pace.room_bytes(held_bytes, now_us / 1000);
        while room_bytes > 0
            && let Some((&place, _)) = self.waiting.first_key_value()
        {
            self.at_bytes = self.at_bytes.max(place.0);
            let (file, ticket) = self.take_waiting(place);
            let (pass, charged_bytes) = self.begin_pass(file, now_us);
            room_bytes = room_bytes.saturating_sub(charged_bytes);
            out.push((ticket, pass));
        }
    }

    /// Appends the files whose pass is over: their programs are to ask again.
    pub fn end_passes(&mut self, now_us: u64, out: &mut Vec<FileId>) {
        while let Some(&(until_us, file)) = self.by_end.first()
            && until_us <= now_us
        {
            self.by_end.remove(&(until_us, file));
            let file = FileId(file);
            let pass = self.passing.remove(&file).expect("both have it");
            let passed_us = now_us - pass.since_us;
            self.late_us += ((now_us - until_us) as f64 - self.late_us) / LATE_PARTS;
            let more_bytes =
                self.cost_bytes(file, Pass::Timed, passed_us as f64) - pass.charged_bytes;
            // What was not written is not known: a thread that was late may have kept others waiting.
            self.charge(file, Pass::Timed, more_bytes.clamp(0.0, pass.charged_bytes), now_us);
            self.all.note_passed(Pass::Timed, passed_us as f64, now_us);
            self.meter(file, now_us).note_passed(Pass::Timed, passed_us as f64, now_us);
            out.push(file);
        }
    }

    /// When the next pass ends.
    pub fn next_end_us(&self) -> Option<u64> {
        self.by_end.first().map(|(until_us, _)| *until_us)
    }

    /// Whether it is shut.
    pub fn is_shut(&self) -> bool {
        self.is_shut
    }

    /// Programs held.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// How long the one held longest has been.
    pub fn oldest_wait_us(&self, now_us: u64) -> Option<u64> {
        self.by_age.first().map(|(since_us, _)| now_us.saturating_sub(*since_us))
    }

    fn meter(&mut self, file: FileId, now_us: u64) -> &mut Meter {
        let at_bytes = self.at_bytes;
        self.files.entry(file).or_insert_with(|| Meter::new(at_bytes, now_us))
    }

    /// Bytes that a file is written in a microsecond, or in one write. Where it is hardly different
    /// from all others, as much as those: programs that do the same are to get the same, and bytes
    /// arrive in large lumps.
    fn speed(&self, file: FileId, pass: Pass) -> f64 {
        let mean = self.all.speed(pass);
        let own = self.files.get(&file).map_or(mean, |meter| meter.speed(pass));
        let is_alike = own * 2.0 <= mean * 3.0 && mean * 2.0 <= own * 3.0;
        if is_alike { mean } else { own }
    }

    fn cost_bytes(&self, file: FileId, pass: Pass, units: f64) -> f64 {
        self.speed(file, pass) * units
    }

    fn charge(&mut self, file: FileId, pass: Pass, bytes: f64, now_us: u64) {
        self.pace.spend(bytes as u64);
        self.meter(file, now_us).note_written(pass, bytes, now_us);
    }

    /// Lets the programs of a file write, in their turn. Returns the bytes that are taken to be
    /// written, too.
    fn begin_pass(&mut self, file: FileId, now_us: u64) -> (Pass, u64) {
        let share_bytes = self.share_bytes();
        let timed_from =
            if self.kind == Pass::Timed { TIMED_BYTES_MIN / 2.0 } else { TIMED_BYTES_MIN };
        let kind = if share_bytes < timed_from { Pass::Once } else { Pass::Timed };
        if std::mem::replace(&mut self.kind, kind) != kind {
            self.files.values_mut().chain([&mut self.all]).for_each(|meter| meter.begin(now_us));
        }
        if self.kind == Pass::Once {
            return self.let_once(file, now_us);
        }
        let pass_us = (share_bytes / self.speed(file, Pass::Timed) - self.late_us) as u64;
        (Pass::Timed, self.begin_timed(file, pass_us.clamp(PASS_US_MIN, PASS_US_MAX), now_us))
    }

    /// How many want to write: the most that waited or passed together, of late.
    fn programs(&self) -> u64 {
        self.peak.max(self.last_peak).max(1) as u64
    }

    /// What each of them may have in a round.
    fn share_bytes(&self) -> f64 {
        self.pace.bytes_in(ROUND_US) / self.programs() as f64
    }

    fn count_programs(&mut self, now_us: u64) {
        if now_us.saturating_sub(self.peak_us) >= PEAK_US {
            self.last_peak = std::mem::take(&mut self.peak);
            self.peak_us = now_us;
        }
        self.peak = self.peak.max(self.waiting.len() + self.passing.len());
    }

    fn let_once(&mut self, file: FileId, now_us: u64) -> (Pass, u64) {
        let charged_bytes = self.cost_bytes(file, Pass::Once, 1.0);
        self.charge(file, Pass::Once, charged_bytes, now_us);
        if self.kind == Pass::Once {
            self.all.note_passed(Pass::Once, 1.0, now_us);
            self.meter(file, now_us).note_passed(Pass::Once, 1.0, now_us);
        }
        (Pass::Once, charged_bytes as u64)
    }

    fn begin_timed(&mut self, file: FileId, pass_us: u64, now_us: u64) -> u64 {
        let charged_bytes = self.cost_bytes(file, Pass::Timed, pass_us as f64);
        self.charge(file, Pass::Timed, charged_bytes, now_us);
        let fresh = Passing { since_us: now_us, until_us: now_us, charged_bytes: 0.0 };
        let pass = self.passing.entry(file).or_insert(fresh);
        self.by_end.remove(&(pass.until_us, file.0));
        pass.until_us = now_us + pass_us;
        pass.charged_bytes += charged_bytes;
        self.by_end.insert((pass.until_us, file.0));
        charged_bytes as u64
    }

    fn take_waiting(&mut self, place: Place) -> (FileId, T) {
        let waiting = self.waiting.remove(&place).expect("found there");
        self.by_age.remove(&(waiting.since_us, place));
        (waiting.file, waiting.ticket)
    }
}
