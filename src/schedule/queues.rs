//! The ordered queues of the scheduler: for each reason to write, the files in the order of
//! their turns.
//!
//! Called by `scheduler` only, which computes where a file has to stand; this module moves it
//! there. A file's [`Standing`] is the record of all its places, so that it can be taken out of
//! every queue exactly, and stands in none twice. No time and no policy here.

use std::cmp::{Ordering, Reverse};
use std::collections::BTreeSet;

use super::FileId;
use super::zones::Zone;

/// Position in a first-in-first-out order. Never used twice, so it decides between equals.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Stamp(u64);

/// Gives out stamps in rising order.
#[derive(Debug, Default)]
pub(super) struct Stamps(u64);

impl Stamps {
    /// A stamp behind all others.
    pub(super) fn next(&mut self) -> Stamp {
        self.0 += 1;
        Stamp(self.0)
    }
}

/// A file's key in each queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Places {
    /// Somebody waits for it.
    pub(super) demanded: Option<Stamp>,
    /// When it is over-age: every file that may get a turn.
    pub(super) age: (u64, Stamp),
    /// It has a whole chunk, and normal priority.
    pub(super) whole: Option<Stamp>,
    /// It has a whole chunk, and high priority.
    pub(super) high: Option<Stamp>,
    /// It is closed, and when its delay ends.
    pub(super) closed: Option<(u64, Stamp)>,
    /// Bytes its turn would write: every file that may get a turn.
    pub(super) fullest: (Reverse<u64>, Stamp),
    /// Since its last turn: every file that may get a turn.
    pub(super) ring: Stamp,
    /// Where its next turn will be: a key beside `ring` in the queues of a zone's files.
    pub(super) zone: Option<Zone>,
}

impl Places {
    fn near(&self) -> Option<(Zone, Stamp)> {
        self.zone.map(|zone| (zone, self.ring))
    }

    fn near_whole(&self) -> Option<(Zone, Stamp)> {
        self.near().filter(|_| self.whole.is_some())
    }

    fn unplaced_whole(&self) -> Option<Stamp> {
        Some(self.ring).filter(|_| self.whole.is_some() && self.zone.is_none())
    }

    fn near_demanded(&self) -> Option<(Zone, Stamp)> {
        self.near().filter(|_| self.demanded.is_some())
    }
}

/// Whether and when a file may get a turn.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(super) enum Standing {
    /// Not until an event: clean, held or in turn.
    #[default]
    Out,
    /// Not before this time.
    Delayed(u64),
    /// Now, in these places.
    Queued(Places),
}

impl Standing {
    fn delayed(self) -> Option<u64> {
        if let Self::Delayed(at_ms) = self { Some(at_ms) } else { None }
    }

    fn places(self) -> Option<Places> {
        if let Self::Queued(places) = self { Some(places) } else { None }
    }
}

/// A file in a queue. A type of its own, so that tests can count the comparisons.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Place<K>(K, FileId);

impl<K: Ord> Ord for Place<K> {
    fn cmp(&self, other: &Self) -> Ordering {
        #[cfg(test)]
        super::tests::steps::note();
        self.0.cmp(&other.0).then_with(|| self.1.cmp(&other.1))
    }
}

impl<K: Ord> PartialOrd for Place<K> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Files in the order of a key.
#[derive(Debug)]
pub(super) struct Queue<K>(BTreeSet<Place<K>>);

impl<K> Default for Queue<K> {
    fn default() -> Self {
        Self(BTreeSet::new())
    }
}

impl<K: Copy + Ord> Queue<K> {
    /// The file whose turn is next, and its key.
    pub(super) fn first(&self) -> Option<(K, FileId)> {
        self.0.first().map(|Place(key, file)| (*key, *file))
    }

    /// The file whose turn is next.
    pub(super) fn first_file(&self) -> Option<FileId> {
        self.first().map(|(_, file)| file)
    }

    /// The first file whose key is not below `key`, and its own.
    pub(super) fn first_from(&self, key: K) -> Option<(K, FileId)> {
        self.0.range(Place(key, FileId(0))..).next().map(|Place(key, file)| (*key, *file))
    }

    /// All files with their keys, the next one first.
    pub(super) fn iter(&self) -> impl Iterator<Item = (K, FileId)> {
        self.0.iter().map(|Place(key, file)| {
            #[cfg(test)]
            super::tests::steps::note();
            (*key, *file)
        })
    }

    /// Moves a file; `None` is "not in this queue".
    pub(super) fn shift(&mut self, file: FileId, old: Option<K>, new: Option<K>) {
        if old == new {
            return;
        }
        if let Some(key) = old {
            self.0.remove(&Place(key, file));
        }
        if let Some(key) = new {
            self.0.insert(Place(key, file));
        }
    }
}

impl Queue<(u64, Stamp)> {
    /// Time at which the first file becomes due.
    pub(super) fn first_due_ms(&self) -> Option<u64> {
        self.first().map(|((due_ms, _), _)| due_ms)
    }
}

/// All queues. A file is in `delayed`, or in those that its places name, or in none.
#[derive(Debug, Default)]
pub(super) struct Queues {
    pub(super) delayed: Queue<u64>,
    pub(super) demanded: Queue<Stamp>,
    pub(super) age: Queue<(u64, Stamp)>,
    pub(super) whole: Queue<Stamp>,
    pub(super) high: Queue<Stamp>,
    pub(super) closed: Queue<(u64, Stamp)>,
    pub(super) fullest: Queue<(Reverse<u64>, Stamp)>,
    pub(super) ring: Queue<Stamp>,
    /// Those of `whole`, `demanded` and `ring` whose zone is known, by that and then since their last
    /// turn.
    pub(super) near_whole: Queue<(Zone, Stamp)>,
    pub(super) near_demanded: Queue<(Zone, Stamp)>,
    pub(super) near_ring: Queue<(Zone, Stamp)>,
    /// Those of `whole` whose zone is not known, since their last turn.
    pub(super) unplaced_whole: Queue<Stamp>,
}

impl Queues {
    /// Moves a file from one standing to another.
    pub(super) fn shift(&mut self, file: FileId, old: Standing, new: Standing) {
        self.delayed.shift(file, old.delayed(), new.delayed());
        let (old, new) = (old.places(), new.places());
        let (was, is) = (old.as_ref(), new.as_ref());
        self.demanded.shift(file, was.and_then(|p| p.demanded), is.and_then(|p| p.demanded));
        self.age.shift(file, was.map(|p| p.age), is.map(|p| p.age));
        self.whole.shift(file, was.and_then(|p| p.whole), is.and_then(|p| p.whole));
        self.high.shift(file, was.and_then(|p| p.high), is.and_then(|p| p.high));
        self.closed.shift(file, was.and_then(|p| p.closed), is.and_then(|p| p.closed));
        self.fullest.shift(file, was.map(|p| p.fullest), is.map(|p| p.fullest));
        self.ring.shift(file, was.map(|p| p.ring), is.map(|p| p.ring));
        let (old, new) = (was.map(Places::unplaced_whole), is.map(Places::unplaced_whole));
        self.unplaced_whole.shift(file, old.flatten(), new.flatten());
        let near = [Places::near_whole, Places::near_demanded, Places::near];
        let queues = [&mut self.near_whole, &mut self.near_demanded, &mut self.near_ring];
        for (queue, key) in queues.into_iter().zip(near) {
            queue.shift(file, was.and_then(key), is.and_then(key));
        }
    }
}
