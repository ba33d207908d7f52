//! A set of disjoint dirty ranges of a file, searched by offset.
//!
//! Used twice by `FileBuffer`: for fresh entries and for those in flight. Knows nothing of what
//! the two mean. Every search is O(log entries).

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::ops::Range;

use super::{Geometry, Piece, Slot, Step};

/// One dirty range inside one segment. Ordered, and equal, by `start` alone: a set holds one
/// entry a start, and is searched by offset without keeping the offset twice.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    /// File offset of the first byte.
    pub start: u64,
    /// Bytes, at least 1.
    pub len: u32,
    /// Where the bytes are.
    pub slot: Slot,
    /// Of the newest write in the range.
    pub seq: u64,
    /// When the first of the bytes became dirty, or before.
    pub born_ms: u64,
}

impl Entry {
    /// One past the last byte.
    pub fn end(&self) -> u64 {
        self.start + u64::from(self.len)
    }

    /// The range as file offsets.
    pub fn range(&self) -> Range<u64> {
        self.start..self.end()
    }

    /// The whole entry.
    pub fn piece(&self, geometry: &Geometry) -> Piece {
        let at = geometry.at(self.start);
        Piece { slot: self.slot, at, offset: self.start, len: self.len }
    }

    /// The part of the entry inside `range`, which it overlaps.
    pub fn clipped(&self, range: &Range<u64>, geometry: &Geometry) -> Piece {
        let offset = self.start.max(range.start);
        let len = (self.end().min(range.end) - offset) as u32;
        Piece { slot: self.slot, at: geometry.at(offset), offset, len }
    }

    /// The step that shows the entry as it is now.
    pub fn publish(&self, geometry: &Geometry) -> Step {
        let start = geometry.at(self.start);
        Step::Publish {
            slot: self.slot,
            index: geometry.index(self.start),
            start,
            end: start + self.len,
            seq: self.seq,
            born_ms: self.born_ms,
        }
    }
}

impl Borrow<u64> for Entry {
    fn borrow(&self) -> &u64 {
        &self.start
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        self.start.cmp(&other.start)
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.start == other.start
    }
}

impl Eq for Entry {}

/// Entries that do not overlap.
#[derive(Debug, Default)]
pub(super) struct Entries(BTreeSet<Entry>);

impl Entries {
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn first(&self) -> Option<&Entry> {
        self.0.first()
    }

    /// One past the last byte of all, 0 if there is none.
    pub fn end(&self) -> u64 {
        self.0.last().map_or(0, Entry::end)
    }

    pub fn insert(&mut self, entry: Entry) {
        debug_assert!(!self.overlaps(&entry.range()), "entries of a set never overlap");
        self.0.insert(entry);
    }

    /// Removes the entry that starts at `start`.
    pub fn take(&mut self, start: u64) -> Option<Entry> {
        self.0.take(&start)
    }

    /// Removes the last entry, if it starts at `offset` or later.
    pub fn take_last_from(&mut self, offset: u64) -> Option<Entry> {
        let start = self.0.last().filter(|entry| entry.start >= offset)?.start;
        self.take(start)
    }

    /// Removes the entry that holds both `offset` and the byte before it.
    pub fn take_across(&mut self, offset: u64) -> Option<Entry> {
        let start = self.0.range(..offset).next_back().filter(|entry| entry.end() > offset)?.start;
        self.take(start)
    }

    /// Whether an entry has a byte in `range`.
    pub fn overlaps(&self, range: &Range<u64>) -> bool {
        self.0.range(..range.end).next_back().is_some_and(|entry| entry.end() > range.start)
    }

    /// Entries with a byte in `range`, ascending.
    pub fn intersecting(&self, range: &Range<u64>) -> impl Iterator<Item = &Entry> + use<'_> {
        let before = self.0.range(..range.start).next_back();
        let from = before.filter(|entry| entry.end() > range.start && !range.is_empty());
        let from = from.map_or(range.start, |entry| entry.start);
        self.0.range(from..range.end.max(from))
    }

    /// Entries that lie inside `range` with all their bytes, ascending.
    pub fn inside(&self, range: &Range<u64>) -> impl Iterator<Item = &Entry> + use<'_> {
        let end = range.end;
        let starting = self.0.range(range.start..end.max(range.start));
        starting.take_while(move |entry| entry.end() <= end)
    }

    /// The last entry of `segment` that overlaps or touches `range`, which is part of it.
    pub fn last_touching(&self, range: &Range<u64>, segment: &Range<u64>) -> Option<&Entry> {
        let starts = segment.start..segment.end.min(range.end + 1);
        self.0.range(starts).next_back().filter(|entry| entry.end() >= range.start)
    }
}
