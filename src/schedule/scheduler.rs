//! Whose turn it is on one backing device.
//!
//! `fs` reports each change of a file's load, `drain` takes turns and ends them; both under the
//! caller's lock. Several turns may be out at once (one a lane), never two of one file.
//!
//! Order: Demanded, Age, WholeChunk, Closed, Pressure, Everything. Within each, a file that had
//! its turn goes behind all that wait, so that no file keeps another of the same rank waiting.
//! Whole chunks of files of high priority go before those of others. Three limits keep those who
//! come later from starving:
//! 1. After [`AGE_RUN`] over-age turns in a row one whole chunk goes, when there is one.
//! 2. After [`DEMANDED_RUN`] demanded turns in a row one over-age file or whole chunk goes: a
//!    file that is written all the time may never become clean, and so be demanded for ever.
//!
//! Closed, Pressure and Everything need no limit: what waits there becomes over-age.
//!
//! Where a filesystem gives out blocks at several places ([`Zones`]), turns go in *visits*: while the
//! disk is at a zone, files there go before others of the same rank, each once; then those of another
//! zone, the one where somebody waits longest. So each file has a turn before anybody has his second,
//! as without zones. Of a file whose place is not known it may be found out when its turn comes
//! ([`Outcome::Elsewhere`]), so such files come before the disk goes elsewhere. Closed and
//! over-age files go so among the first [`NEAR_FILES`] only, and under pressure those whose turns
//! give back about as much.

use std::cmp::Reverse;
use std::collections::{BTreeMap, btree_map};

use super::FileId;
use super::entry::{Entry, InTurn};
use super::queues::{Queue, Queues, Stamp, Stamps};
use super::zones::{Zone, Zones};

/// Over-age turns in a row while a whole chunk waits. Such turns are mostly small, four of them
/// cost a disk about 40 ms, next to the 200 ms of a chunk of 20 MB; or they take whole chunks
/// themselves.
const AGE_RUN: u32 = 4;

/// Demanded turns in a row while an over-age file or a whole chunk waits: an fsync of many
/// chunks loses at most a sixteenth of its speed.
const DEMANDED_RUN: u32 = 16;

/// Whole chunks of high priority in a row while one of another file waits: the others keep a fifth
/// of the disk, however much the first want.
const HIGH_RUN: u32 = 4;

/// Where files are not in the order of their zones, so many are looked at for one of the zone where
/// the disk is.
const NEAR_FILES: usize = 8;

/// Delays, fixed for the lifetime of a mount.
#[derive(Clone, Copy, Debug)]
pub struct Policy {
    /// No byte should wait longer. A file is over-age at half of it: the other half is for
    /// waiting in the queue.
    pub max_age_ms: u64,
    /// A closed file is written this long after, so that a temporary file may vanish first.
    pub closed_delay_ms: u64,
}

/// Whose whole chunk goes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Priority {
    /// One of many.
    #[default]
    Normal,
    /// Before files of normal priority, as far as that lets them have a share.
    High,
}

/// What a file has to write.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Load {
    /// Bytes not yet in the backing file.
    pub dirty_bytes: u64,
    /// Whether a chunk is complete, so that waiting would not make its write larger.
    pub has_whole_chunk: bool,
    /// When the oldest of the bytes arrived. `None` with dirty bytes: what was said before, else
    /// the time of the call.
    pub oldest_ms: Option<u64>,
    /// Whether a program has the file open.
    pub open: bool,
    /// Where on the device its last turn ended, if that is known.
    pub place: Option<u64>,
    /// Whose whole chunk goes first.
    pub priority: Priority,
    /// The file's own; `None`: [`Policy::max_age_ms`].
    pub max_age_ms: Option<u64>,
}

/// What beyond the files' own reasons makes them be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Urgency {
    /// Nothing.
    Normal,
    /// Memory fills faster than the disk takes, and is not short yet: the fullest file goes, unless it
    /// will have a whole chunk in a moment.
    Filling(Filling),
    /// Memory is above its high-water mark.
    Pressure,
    /// Unmounting: write all.
    Everything,
}

/// When a part of a chunk is worth a turn while memory fills.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filling {
    /// A whole chunk.
    pub chunk_bytes: u64,
    /// A turn of less never is.
    pub least_bytes: u64,
    /// So many bytes, of all files, will come while the disk may well wait for a whole chunk.
    pub soon_bytes: u64,
}

/// Why a file got its turn: the first that applied, in the order of precedence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Somebody waits for it.
    Demanded,
    /// Its oldest byte waited for half the maximum age.
    Age,
    /// It has a whole chunk.
    WholeChunk,
    /// It was closed, and the delay is over.
    Closed,
    /// [`Urgency::Pressure`] or [`Urgency::Filling`], and its turn is expected to free the most.
    Pressure,
    /// [`Urgency::Everything`].
    Everything,
}

/// One chunk of one file is to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// The file.
    pub file: FileId,
    /// Why.
    pub reason: Reason,
}

/// How many of so many whole chunks in a row a turn takes, at least one: under overload the largest
/// power of two, since filesystems with buddy allocators leave gaps behind other sizes. Turns for
/// age are no shorter: on a disk that is behind every file is over-age, and turns of one chunk
/// would be the smallest at the moment when they are to be the largest. Who is waited for, was
/// closed or is to make room gets one: others wait as well.
pub fn turn_chunks(reason: Reason, whole_chunks: u64) -> u64 {
    match reason {
        Reason::WholeChunk | Reason::Age => 1 << whole_chunks.max(1).ilog2(),
        Reason::Demanded | Reason::Closed | Reason::Pressure | Reason::Everything => 1,
    }
}

/// How a turn ended.
#[derive(Clone, Copy, Debug)]
pub enum Outcome {
    /// Its chunk is in the backing file.
    Written,
    /// It failed; no turn for the file before this time in milliseconds.
    RetryAt(u64),
    /// Nothing was written: it was found to be far from where the disk is, which goes on there first.
    /// The file keeps its place in the order.
    Elsewhere,
}

/// Sums over all files, also those that may get no turn.
#[derive(Debug, Default)]
struct Totals {
    streams: usize,
    open_streams: usize,
    dirty_bytes: u64,
    oldest: Queue<u64>,
}

impl Totals {
    fn shift(&mut self, file: FileId, old: &Load, new: &Load) {
        self.streams -= usize::from(old.dirty_bytes > 0);
        self.streams += usize::from(new.dirty_bytes > 0);
        self.open_streams -= usize::from(old.dirty_bytes > 0 && old.open);
        self.open_streams += usize::from(new.dirty_bytes > 0 && new.open);
        self.dirty_bytes -= old.dirty_bytes;
        self.dirty_bytes += new.dirty_bytes;
        self.oldest.shift(file, old.oldest_ms, new.oldest_ms);
    }
}

/// How far whoever goes before others has got.
#[derive(Clone, Copy, Debug, Default)]
struct Runs {
    /// When the disk came to the zone where it is: who had a turn since has had the one of this visit.
    visit: Stamp,
    /// Over-age turns in a row that went before a whole chunk.
    age: u32,
    /// Demanded turns in a row that went before an over-age file or a whole chunk.
    demanded: u32,
    /// Whole chunks of high priority in a row that went before another file's.
    high: u32,
}

/// Decides whose turn it is on one backing device. See the module's head for the order.
#[derive(Debug)]
pub struct Scheduler {
    policy: Policy,
    urgency: Urgency,
    /// A tree, since a hash table that grows moves all files in one call, under the lock.
    files: BTreeMap<FileId, Entry>,
    queues: Queues,
    totals: Totals,
    stamps: Stamps,
    zones: Zones,
    /// Where the disk will be after the turns that are out, if that is known.
    zone: Option<Zone>,
    last_taken: Option<FileId>,
    runs: Runs,
}

impl Scheduler {
    /// A scheduler that knows no files.
    pub fn new(policy: Policy) -> Self {
        Self {
            policy,
            urgency: Urgency::Normal,
            files: BTreeMap::new(),
            queues: Queues::default(),
            totals: Totals::default(),
            stamps: Stamps::default(),
            zones: Zones::default(),
            zone: None,
            last_taken: None,
            runs: Runs::default(),
        }
    }

    /// Notes what a file has to write now. To be called after each write, truncate, open and
    /// close. A file without dirty bytes leaves all queues, and is no longer demanded; during a
    /// turn the load is only stored.
    pub fn update(&mut self, file: FileId, load: Load, now_ms: u64) {
        let entry = match self.files.entry(file) {
            btree_map::Entry::Vacant(_) if load.dirty_bytes == 0 => return,
            place => place.or_default(),
        };
        if let Some(turn) = &mut entry.turn {
            turn.arrived_bytes += load.dirty_bytes.saturating_sub(entry.load.dirty_bytes);
            turn.removed &= load.dirty_bytes == 0;
        }
        let old = entry.load;
        entry.set_load(load, now_ms, &self.policy, &mut self.stamps);
        entry.zone = entry.zone.or_else(|| self.zones.near(load.place?));
        self.totals.shift(file, &old, &entry.load);
        self.settle(file);
    }

    /// The file's data is gone and is never to be written. A turn that is out must still be
    /// ended, and the load it ends with is ignored; holds are still to be given back.
    pub fn remove(&mut self, file: FileId) {
        let Some(entry) = self.files.get_mut(&file) else { return };
        self.totals.shift(file, &entry.load, &Load::default());
        let turn = entry.turn.take().map(|turn| InTurn {
            start_bytes: 0,
            arrived_bytes: 0,
            removed: true,
            ..turn
        });
        *entry = Entry { holds: entry.holds, turn, standing: entry.standing, ..Entry::default() };
        self.settle(file);
    }

    /// Somebody waits until the file is clean: it goes before files that nobody waits for. Has
    /// no effect on a clean file; a second demand keeps the place of the first.
    pub fn demand(&mut self, file: FileId) {
        let Some(entry) = self.files.get_mut(&file) else { return };
        if entry.demanded.is_none() {
            entry.demanded = Some(self.stamps.next());
        }
        self.settle(file);
    }

    /// No turn for the file until as many [`Scheduler::unhold`] as holds. A turn that is out
    /// goes on.
    pub fn hold(&mut self, file: FileId) {
        self.files.entry(file).or_default().holds += 1;
        self.settle(file);
    }

    /// Gives one hold back.
    pub fn unhold(&mut self, file: FileId) {
        let entry = self.files.get_mut(&file).filter(|entry| entry.holds > 0);
        debug_assert!(entry.is_some(), "unhold of {file:?}, which is not held");
        if let Some(entry) = entry {
            entry.holds -= 1;
            self.settle(file);
        }
    }

    /// Sets what makes files be written beyond their own reasons, from now on.
    pub fn set_urgency(&mut self, urgency: Urgency) {
        self.urgency = urgency;
    }

    /// Takes the next file out; it gets no other turn until [`Scheduler::end_turn`]. `None`:
    /// nothing to write before [`Scheduler::wake_at_ms`].
    pub fn next_turn(&mut self, now_ms: u64) -> Option<Turn> {
        self.end_delays(now_ms);
        let turn = self.pick(now_ms)?;
        Some(self.take(turn))
    }

    fn take(&mut self, turn: Turn) -> Turn {
        let entry = self.files.get_mut(&turn.file).expect("a queued file is known");
        if entry.zone.is_some_and(|zone| self.zone != Some(zone) || entry.ring > self.runs.visit) {
            self.zone = entry.zone;
            self.runs.visit = self.stamps.next();
        }
        self.last_taken = Some(turn.file);
        entry.turn = Some(InTurn {
            reason: turn.reason,
            start_bytes: entry.load.dirty_bytes,
            arrived_bytes: 0,
            removed: false,
        });
        self.settle(turn.file);
        turn
    }

    /// Whether it is known where the file's next turn will be.
    pub fn knows_place(&self, file: FileId) -> bool {
        self.files.get(&file).is_some_and(|entry| entry.zone.is_some())
    }

    /// Puts a file back behind all that wait for the same reason, with what it has to write
    /// now. Ignored for a file that is not in turn.
    pub fn end_turn(&mut self, file: FileId, load: Load, outcome: Outcome, now_ms: u64) {
        let Some(entry) = self.files.get_mut(&file) else { return };
        let Some(turn) = entry.turn.take() else { return };
        let load = if turn.removed { Load::default() } else { load };
        if let Outcome::Elsewhere = outcome {
            entry.zone = load.place.map(|place| self.zones.note(place)).or(entry.zone);
            self.last_taken = self.last_taken.filter(|last| *last != file);
        } else {
            if self.zone.is_none() {
                // It comes to a zone now, perhaps: this turn is one of the visit, those before are not.
                self.runs.visit = self.stamps.next();
            }
            entry.note_turn(&turn, load.dirty_bytes, outcome, now_ms, &mut self.stamps);
            if let Some(place) = load.place.filter(|_| load.place != entry.load.place) {
                entry.zone = Some(self.zones.note(place));
            }
            if self.last_taken.is_none_or(|last| last == file) {
                self.zone = entry.zone.or(self.zone);
            }
        }
        let old = entry.load;
        entry.set_load(load, now_ms, &self.policy, &mut self.stamps);
        self.totals.shift(file, &old, &entry.load);
        self.settle(file);
    }

    /// The earliest time at which [`Scheduler::next_turn`] may give a turn without another call
    /// before; a time that has passed (0 among them) is now. `None`: not without another call.
    pub fn wake_at_ms(&self) -> Option<u64> {
        let queues = &self.queues;
        let urgent = queues.ring.first().is_some()
            && match self.urgency {
                Urgency::Normal => false,
                Urgency::Filling(filling) => self.is_worth(filling),
                Urgency::Pressure | Urgency::Everything => true,
            };
        let has_whole = queues.whole.first().is_some() || queues.high.first().is_some();
        if urgent || queues.demanded.first().is_some() || has_whole {
            return Some(0);
        }
        let delayed_ms = queues.delayed.first().map(|(at_ms, _)| at_ms);
        [queues.age.first_due_ms(), queues.closed.first_due_ms(), delayed_ms]
            .into_iter()
            .flatten()
            .min()
    }

    /// Files with dirty bytes; those in turn, held or waiting for a retry count.
    pub fn streams(&self) -> usize {
        self.totals.streams
    }

    /// Those of them that a program has open: they go on filling.
    pub fn open_streams(&self) -> usize {
        self.totals.open_streams
    }

    /// When the oldest dirty byte of all files arrived.
    pub fn oldest_ms(&self) -> Option<u64> {
        self.totals.oldest.first().map(|(oldest_ms, _)| oldest_ms)
    }

    /// Dirty bytes of all files.
    pub fn dirty_bytes(&self) -> u64 {
        self.totals.dirty_bytes
    }

    /// Chooses by precedence and counts the runs that limit it.
    fn pick(&mut self, now_ms: u64) -> Option<Turn> {
        let whole = self.next_whole();
        let queues = &self.queues;
        let old = self.near_due(&queues.age, now_ms);
        let due = match (old, whole) {
            (Some(_), Some(file)) if self.runs.age >= AGE_RUN => Some((file, Reason::WholeChunk)),
            (Some(file), _) => Some((file, Reason::Age)),
            (None, Some(file)) => Some((file, Reason::WholeChunk)),
            (None, None) => None,
        };
        let demanded = self.near_demanded();
        if let Some(file) = demanded.filter(|_| due.is_none() || self.runs.demanded < DEMANDED_RUN)
        {
            self.runs.demanded = if due.is_some() { self.runs.demanded + 1 } else { 0 };
            return Some(Turn { file, reason: Reason::Demanded });
        }
        self.runs.demanded = 0;
        if let Some((file, reason)) = due {
            let before_whole = reason == Reason::Age && whole.is_some();
            self.runs.age = if before_whole { self.runs.age + 1 } else { 0 };
            if reason == Reason::WholeChunk {
                self.count_high(file);
            }
            return Some(Turn { file, reason });
        }
        self.runs.age = 0;
        if let Some(file) = self.near_due(&queues.closed, now_ms) {
            return Some(Turn { file, reason: Reason::Closed });
        }
        match self.urgency {
            Urgency::Filling(filling) if !self.is_worth(filling) => None,
            Urgency::Normal => None,
            Urgency::Filling(_) | Urgency::Pressure => {
                self.near_fullest().map(|file| Turn { file, reason: Reason::Pressure })
            }
            Urgency::Everything => {
                self.near_ring().map(|file| Turn { file, reason: Reason::Everything })
            }
        }
    }

    /// The whole chunk that goes next.
    fn next_whole(&mut self) -> Option<FileId> {
        let high = self.queues.high.first_file();
        let other = self.near_whole();
        high.filter(|_| other.is_none() || self.runs.high < HIGH_RUN).or(other)
    }

    /// Of a whole chunk that goes now.
    fn count_high(&mut self, file: FileId) {
        let is_high = self.queues.high.first_file() == Some(file);
        let before_other = is_high && self.queues.whole.first().is_some();
        self.runs.high = if before_other { self.runs.high + 1 } else { 0 };
    }

    /// Of those of normal priority.
    fn near_whole(&self) -> Option<FileId> {
        let near = self.of_visit(&self.queues.near_whole);
        near.or_else(|| self.unplaced_whole()).or_else(|| self.queues.whole.first_file())
    }

    /// One that may be near: nothing is known of its place. Each once in a visit.
    fn unplaced_whole(&self) -> Option<FileId> {
        self.zone?;
        let (ring, file) = self.queues.unplaced_whole.first()?;
        (ring < self.runs.visit).then_some(file)
    }

    /// Of those that somebody waits for.
    fn near_demanded(&self) -> Option<FileId> {
        let near = self.of_visit(&self.queues.near_demanded);
        near.or_else(|| self.queues.demanded.first_file())
    }

    /// Of all.
    fn near_ring(&self) -> Option<FileId> {
        self.of_visit(&self.queues.near_ring).or_else(|| self.queues.ring.first_file())
    }

    /// Of those that are due, in the order of the time at which they became so.
    fn near_due(&self, queue: &Queue<(u64, Stamp)>, now_ms: u64) -> Option<FileId> {
        let due = queue.iter().take_while(|((due_ms, _), _)| *due_ms <= now_ms);
        self.of_first(due.map(|((_, ring), file)| (ring, file)))
    }

    /// Whether a part of a chunk is to go while memory fills: it is not a whole one soon, if all files
    /// go on as they did.
    fn is_worth(&self, filling: Filling) -> bool {
        let Some(((Reverse(most_bytes), _), _)) = self.queues.fullest.first() else { return false };
        let missing_bytes = u128::from(filling.chunk_bytes.saturating_sub(most_bytes));
        let till_whole = missing_bytes * u128::from(self.totals.dirty_bytes);
        let soon = u128::from(filling.soon_bytes) * u128::from(most_bytes);
        // A file with a larger chunk of its own may have more than a chunk, and none that is whole.
        let is_soon_whole = till_whole <= soon && most_bytes < filling.chunk_bytes;
        most_bytes >= filling.least_bytes && !is_soon_whole
    }

    /// Of those whose turn gives back about the most memory. Who is passed over again and again has
    /// soon more than the others.
    fn near_fullest(&self) -> Option<FileId> {
        let fullest = &self.queues.fullest;
        let ((Reverse(most_bytes), _), _) = fullest.first()?;
        let alike =
            fullest.iter().take_while(|((Reverse(bytes), _), _)| *bytes >= most_bytes / 4 * 3);
        self.of_first(alike.map(|((_, ring), file)| (ring, file)))
    }

    /// The one that waits longest of those in the zone where the disk is, unless it had its turn of
    /// this visit.
    fn of_visit(&self, queue: &Queue<(Zone, Stamp)>) -> Option<FileId> {
        let ((_, ring), file) = queue.first_from((self.zone?, Stamp::default()))?;
        self.is_in_visit(ring, file).then_some(file)
    }

    /// The first few looked at for one of this visit, or else for one of which nothing is known; without
    /// one the first.
    fn of_first(&self, mut files: impl Iterator<Item = (Stamp, FileId)>) -> Option<FileId> {
        let first = files.next()?;
        let few = std::iter::once(first).chain(files.take(NEAR_FILES - 1));
        let mut unplaced = None;
        for (ring, file) in few {
            if self.is_in_visit(ring, file) {
                return Some(file);
            }
            let may_be_near = self.zone.is_some() && !self.knows_place(file);
            unplaced = unplaced.or(Some(file).filter(|_| may_be_near && ring < self.runs.visit));
        }
        unplaced.or(Some(first.1))
    }

    fn is_in_visit(&self, ring: Stamp, file: FileId) -> bool {
        let zone = self.files.get(&file).and_then(|entry| entry.zone);
        ring < self.runs.visit && zone.is_some() && zone == self.zone
    }

    /// No file waits for its time of retry any longer.
    pub fn end_all_delays(&mut self) {
        self.end_delays(u64::MAX);
    }

    /// A file that waits for its time of retry does so no longer.
    pub fn end_delay(&mut self, file: FileId) {
        if let Some(entry) = self.files.get_mut(&file) {
            entry.retry_at_ms = None;
            self.settle(file);
        }
    }

    /// Puts the files whose time of retry has come back into the queues.
    fn end_delays(&mut self, now_ms: u64) {
        while let Some((_, file)) =
            self.queues.delayed.first().filter(|(at_ms, _)| *at_ms <= now_ms)
        {
            self.files.get_mut(&file).expect("a delayed file is known").retry_at_ms = None;
            self.settle(file);
        }
    }

    /// The last step of each change: moves the file where it now belongs. A clean file is
    /// forgotten, but for its holds.
    fn settle(&mut self, file: FileId) {
        let Some(entry) = self.files.get_mut(&file) else { return };
        let standing = entry.wanted_standing(&self.policy);
        self.queues.shift(file, entry.standing, standing);
        entry.standing = standing;
        if entry.is_clean() && entry.turn.is_none() {
            if entry.holds == 0 {
                self.files.remove(&file);
            } else {
                *entry = Entry { holds: entry.holds, ..Entry::default() };
            }
        }
    }
}
