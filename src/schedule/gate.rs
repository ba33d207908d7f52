//! Which program may write on while memory is scarce, or fills so that it will be, before its bytes
//! are in the kernel's page cache.
//!
//! A write acknowledged late holds back whoever the kernel chooses: what is dirty counts for all
//! programs of a mount together, and the one that runs takes the room that others wait for. It does so
//! long before memory is scarce, where programs write faster than we take their bytes. Here programs
//! ask before they write, and pass in an order that is fair by bytes (start-time fair queueing: of
//! those that wait, the one that has had the least), at the rate of [`Pace`]. A pass is for one write
//! where that asks of a processor little beside what it writes ([`ASKING_MAX`]), which is exact; else
//! for a time: as long as a share takes, and several times what threads wake late by
//! ([`PASS_US_MIN`]). How much was written in a time is seen when a program asks again: by how much the
//! file has grown, as the kernel has it, or else by what arrives. So whatever a pass came to, programs
//! have the same in the end.
//! Nobody is held for longer than [`HOLD_US`]: the gate makes a queue, and the bound of memory is
//! elsewhere. Times are microseconds of a clock that never goes back.

mod growth;
mod meter;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::FileId;
use super::pace::Pace;
use growth::Growth;
use meter::Meter;

/// A stall that is hardly noticed; and the next write may have to wait for more than the gate.
const HOLD_US: u64 = 150_000;
/// All that wait are to have had a pass after so long: less would be more asking, more a longer wait.
const ROUND_US: u64 = 80_000;
/// The longest pass, in microseconds. A program that was slow may have become fast.
pub const PASS_US_MAX: u64 = 4_000;
/// The shortest: threads wake late by a tenth to a half of it, in the mean.
const PASS_US_MIN: u64 = 600;
/// To ask before a write takes so much of a processor's time.
const ASK_US: f64 = 50.0;
/// As much of a processor is worth that shares are exact.
const ASKING_MAX: f64 = 0.25;
/// So many passes a program may be behind others: who was idle has no claim to more.
const BEHIND_PASSES: f64 = 4.0;
/// So many it may be ahead, by passes that ended late, or what it gets in so long: who has more need
/// not wait until all have it.
const AHEAD_PASSES: f64 = 16.0;
const AHEAD_US: u64 = 4_000_000;
/// While memory fills, so many pass at once, those first that have taken the least: as many as
/// processors run, or a few more.
const FILLING_PASSES: f64 = 4.0;
/// How late passes end is a mean of as many.
const LATE_PARTS: f64 = 64.0;
/// It opens when nobody had to wait for so long. Sooner would let programs that are too fast run away
/// again and again.
const OPENS_US: u64 = 1_000_000;
/// Memory that is scarce so soon, if it goes on filling as fast, is taken to be. To have programs ask
/// takes a while, what the kernel has of them comes on top, and once memory is full the kernel
/// stops whom it likes.
const SOON_US: u64 = 150_000;
/// Memory that fills faster than it comes back, so that it is scarce so soon, is filling, when a
/// thirty-second part is full; and as long as it fills at an eighth of that rate.
const FILLING_US: u64 = 16_000_000;
const FILLING_PART: u64 = 32;
const STILL_FILLING: f64 = 0.125;
/// A disk may well wait so long for a whole chunk.
const MOMENT_US: f64 = 100_000.0;
/// How many want to write is counted anew so often.
const PEAK_US: u64 = 500_000;

/// For how long programs are let write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// For one write.
    Once,
    /// Until [`Gate::end_passes`] names the file, [`PASS_US_MAX`] at most.
    Timed,
    /// Until memory is scarce.
    Free,
}

/// What is known of a file whose programs ask.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    /// As long as the kernel has it, if that is known.
    pub size_bytes: Option<u64>,
    /// Memory that it takes, here and in the kernel.
    pub taken_bytes: u64,
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
    is_filling: bool,
    /// When it was.
    shut_us: u64,
    growth: Growth,
    files: HashMap<FileId, Meter>,
    /// Of all files together.
    all: Meter,
    waiting: BTreeMap<Place, Waiting<T>>,
    by_age: BTreeSet<(u64, Place)>,
    passing: HashMap<FileId, Passing>,
    /// What was counted for those.
    passing_bytes: f64,
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
            is_filling: false,
            shut_us: 0,
            growth: Growth::default(),
            files: HashMap::new(),
            all: Meter::new(0),
            waiting: BTreeMap::new(),
            by_age: BTreeSet::new(),
            passing: HashMap::new(),
            passing_bytes: 0.0,
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

    /// Shuts it above `from_bytes`, or before, while memory fills; opens it below, when nobody had to
    /// wait for a while, or well below at once. Whether it is shut. When it opens, call
    /// [`Gate::grant`].
    pub fn note_held(&mut self, held_bytes: u64, now_us: u64) -> bool {
        self.growth.note(held_bytes, now_us);
        self.note_filling(held_bytes);
        let is_soon =
            self.is_filling || held_bytes + self.growth.bytes_in(SOON_US) > self.from_bytes;
        let is_wanted = now_us.saturating_sub(self.waited_us) < OPENS_US;
        let is_fresh = now_us.saturating_sub(self.shut_us) < SOON_US;
        let is_near = is_wanted && held_bytes > self.from_bytes / 4 * 3;
        let is_shut = is_soon || self.is_shut && (is_near || is_fresh);
        let was_shut = std::mem::replace(&mut self.is_shut, is_shut);
        if was_shut && !self.is_shut {
            self.files.clear();
            self.passing.clear();
            self.passing_bytes = 0.0;
            self.by_end.clear();
        }
        if self.is_shut && !was_shut {
            self.all = self.all.like(0, now_us);
            self.waited_us = now_us;
            self.shut_us = now_us;
        }
        self.is_shut
    }

    /// When more comes than the disk takes, so that memory will be scarce soon: what comes in the time
    /// that a disk may wait for a whole chunk. It is to begin then: what it does not write now, programs
    /// will wait for.
    pub fn filling_bytes(&self) -> Option<u64> {
        let bytes = (self.growth.lasting() * MOMENT_US) as u64;
        self.is_filling.then_some(bytes.max(1))
    }

    /// What the disk takes does not fill memory when it has begun, and nobody knows how much that is
    /// before: then it is enough that memory will be scarce.
    fn note_filling(&mut self, held_bytes: u64) {
        let growth = self.growth.lasting();
        let part = if self.is_filling { STILL_FILLING } else { 1.0 };
        let slowly = self.from_bytes as f64 / FILLING_US as f64;
        let least = slowly.max(self.pace.seen_bytes_in(1)) * part;
        let then_bytes = held_bytes as f64 + growth * FILLING_US as f64;
        let is_soon = self.is_filling || then_bytes > self.from_bytes as f64;
        self.is_filling = is_soon && growth > least && held_bytes > self.from_bytes / FILLING_PART;
    }

    /// Bytes of a file came while the gate is shut. Whether it is the first time: its programs do
    /// not know yet that they have to ask.
    pub fn note_arrived(&mut self, file: FileId, bytes: u64, now_us: u64) -> bool {
        let known = self.files.len();
        let meter = self.meter(file, now_us);
        let kind = meter.kind();
        if meter.note_arrived(bytes, now_us) {
            self.all.learn(kind, 0.0, bytes as f64, now_us);
        }
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
        seen: Seen,
        held_bytes: u64,
        now_us: u64,
        ticket: T,
    ) -> Option<(T, Pass)> {
        if !self.is_shut {
            return Some((ticket, Pass::Free));
        }
        self.count_programs(now_us);
        self.note_size(file, seen.size_bytes, now_us);
        self.meter(file, now_us).note_taken(seen.taken_bytes);
        let place_bytes = self.place_bytes(file, now_us);
        if self.waiting.is_empty() && self.room_bytes(held_bytes, now_us) > 0 {
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
            let pass = if self.is_shut { self.let_once(file, now_us).0 } else { Pass::Free };
            out.push((ticket, pass));
        }
        let mut room_bytes = self.room_bytes(held_bytes, now_us);
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
            self.passing_bytes -= pass.charged_bytes;
            let passed_us = now_us - pass.since_us;
            self.late_us += ((now_us - until_us) as f64 - self.late_us) / LATE_PARTS;
            let more_bytes =
                self.cost_bytes(file, Pass::Timed, passed_us as f64) - pass.charged_bytes;
            // What was not written is not known: a thread that was late may have kept others waiting.
            self.charge(file, more_bytes.clamp(0.0, pass.charged_bytes), now_us);
            self.all.learn(Pass::Timed, passed_us as f64, 0.0, now_us);
            self.meter(file, now_us).learn(Pass::Timed, passed_us as f64, 0.0, now_us);
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
        let (all, at_bytes) = (&self.all, self.at_bytes);
        self.files.entry(file).or_insert_with(|| all.like(at_bytes, now_us))
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

    /// What the file has grown by since it was asked for last was written, and not what was taken to
    /// be.
    fn note_size(&mut self, file: FileId, size_bytes: Option<u64>, now_us: u64) {
        let meter = self.meter(file, now_us);
        let (kind, written) = (meter.kind(), meter.note_size(size_bytes, now_us));
        self.all.learn_written(kind, &written, now_us);
        self.pace.spend(written.bytes - written.charged_bytes);
    }

    fn charge(&mut self, file: FileId, bytes: f64, now_us: u64) {
        self.pace.spend(bytes);
        self.meter(file, now_us).note_written(bytes, now_us);
    }

    /// Lets the programs of a file write, in their turn. Returns the bytes that are taken to be
    /// written, too.
    fn begin_pass(&mut self, file: FileId, now_us: u64) -> (Pass, u64) {
        let kind = self.kind_of(file);
        self.meter(file, now_us).set_kind(kind, now_us);
        if kind == Pass::Once {
            return self.let_once(file, now_us);
        }
        let pass_us = self.share_bytes() / self.speed(file, Pass::Timed) - self.late_us;
        let pass_us = (pass_us as u64).clamp(PASS_US_MIN, PASS_US_MAX);
        (kind, self.begin_timed(file, pass_us, now_us))
    }

    /// What a pass comes to that is as short as one can be, or as a share takes.
    fn pass_bytes(&self, kind: Pass) -> f64 {
        let shortest_bytes = match kind {
            Pass::Once => self.all.speed(Pass::Once),
            _ => self.all.speed(Pass::Timed) * PASS_US_MIN as f64,
        };
        self.share_bytes().max(shortest_bytes)
    }

    /// Its place in the order, which is near that of others.
    fn place_bytes(&mut self, file: FileId, now_us: u64) -> u64 {
        let pass_bytes = self.pass_bytes(self.kind_of(file));
        let ahead_bytes = self.pace.bytes_in(AHEAD_US) / self.programs() as f64;
        let ahead_bytes = ahead_bytes.max(pass_bytes * AHEAD_PASSES);
        let first_bytes = self.at_bytes.saturating_sub((pass_bytes * BEHIND_PASSES) as u64);
        let last_bytes = self.at_bytes + ahead_bytes as u64;
        self.meter(file, now_us).place_bytes(first_bytes, last_bytes, now_us)
    }

    /// Bytes that may be written now. Where memory is not scarce yet those who get a processor would
    /// have it all before others have written anything.
    fn room_bytes(&mut self, held_bytes: u64, now_us: u64) -> u64 {
        let room_bytes = self.pace.room_bytes(held_bytes, now_us / 1000);
        if held_bytes > self.from_bytes {
            return room_bytes;
        }
        let at_once_bytes = self.pass_bytes(Pass::Timed) * FILLING_PASSES;
        room_bytes.min((at_once_bytes - self.passing_bytes).max(0.0) as u64)
    }

    fn kind_of(&self, file: FileId) -> Pass {
        let asking = self.pace.bytes_in(1) / self.speed(file, Pass::Once) * ASK_US;
        let asking_max = match self.files.get(&file).map(Meter::kind) {
            Some(Pass::Timed) => ASKING_MAX / 2.0,
            _ => ASKING_MAX,
        };
        if asking > asking_max { Pass::Timed } else { Pass::Once }
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
        self.charge(file, charged_bytes, now_us);
        let meter = self.meter(file, now_us);
        if meter.kind() == Pass::Once {
            meter.note_single();
        }
        (Pass::Once, charged_bytes as u64)
    }

    fn begin_timed(&mut self, file: FileId, pass_us: u64, now_us: u64) -> u64 {
        let charged_bytes = self.cost_bytes(file, Pass::Timed, pass_us as f64);
        self.charge(file, charged_bytes, now_us);
        let fresh = Passing { since_us: now_us, until_us: now_us, charged_bytes: 0.0 };
        let pass = self.passing.entry(file).or_insert(fresh);
        self.by_end.remove(&(pass.until_us, file.0));
        pass.until_us = now_us + pass_us;
        pass.charged_bytes += charged_bytes;
        self.passing_bytes += charged_bytes;
        self.by_end.insert((pass.until_us, file.0));
        charged_bytes as u64
    }

    fn take_waiting(&mut self, place: Place) -> (FileId, T) {
        let waiting = self.waiting.remove(&place).expect("found there");
        self.by_age.remove(&(waiting.since_us, place));
        (waiting.file, waiting.ticket)
    }
}
