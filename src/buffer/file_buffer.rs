//! The dirty data of one file. See the module's head for the rules, which are cited by number.

use std::collections::{BTreeMap, BTreeSet};

use super::chunks::{Chunks, Kind};
use super::{Geometry, Piece, Published, Slot, Step};

/// A contiguous dirty range within one segment of the file.
#[derive(Clone, Copy, Debug)]
struct Entry {
    slot: Slot,
    start: u32,
    end: u32,
    seq: u64,
    born_ms: u64,
    kind: Kind,
}

impl Entry {
    fn bytes(&self) -> u64 {
        u64::from(self.end - self.start)
    }

    fn overlaps(&self, start: u32, end: u32) -> bool {
        self.start < end && start < self.end
    }

    fn touches(&self, start: u32, end: u32) -> bool {
        self.start <= end && start <= self.end
    }

    fn is_fresh(&self) -> bool {
        self.kind == Kind::Fresh
    }
}

/// What of a file is in the arena.
#[derive(Debug)]
pub struct FileBuffer {
    geometry: Geometry,
    segments: BTreeMap<u64, Vec<Entry>>,
    chunks: Chunks,
    births: BTreeSet<(u64, Slot)>,
    dirty_bytes: u64,
    in_flight_bytes: u64,
    held_slots: usize,
}

/// The part of a file range that lies in one segment.
struct Part {
    index: u64,
    start: u32,
    end: u32,
    /// Where it begins in the range.
    from: usize,
}

impl FileBuffer {
    /// An empty buffer.
    pub fn new(geometry: Geometry) -> FileBuffer {
        FileBuffer {
            geometry,
            segments: BTreeMap::new(),
            chunks: Chunks::new(geometry.chunk_bytes),
            births: BTreeSet::new(),
            dirty_bytes: 0,
            in_flight_bytes: 0,
            held_slots: 0,
        }
    }

    /// Neither fresh bytes nor bytes in flight.
    pub fn is_clean(&self) -> bool {
        self.segments.is_empty()
    }

    /// Bytes to be written that are not in flight.
    pub fn dirty_bytes(&self) -> u64 {
        self.dirty_bytes
    }

    /// Bytes being written.
    pub fn in_flight_bytes(&self) -> u64 {
        self.in_flight_bytes
    }

    /// Slots in use.
    pub fn held_slots(&self) -> usize {
        self.held_slots
    }

    /// One past the last buffered byte; 0 when there is none.
    pub fn end(&self) -> u64 {
        self.segments.last_key_value().map_or(0, |(index, entries)| {
            let end = entries.iter().map(|entry| entry.end).max().unwrap_or(0);
            self.offset_of(*index) + u64::from(end)
        })
    }

    /// When the oldest buffered byte came.
    pub fn oldest_ms(&self) -> Option<u64> {
        self.births.first().map(|(born_ms, _)| *born_ms)
    }

    /// The lowest chunk all of whose bytes are fresh, and none in flight.
    pub fn whole_chunk(&self) -> Option<u64> {
        self.chunks.first_whole()
    }

    /// The lowest chunk with fresh bytes.
    pub fn first_chunk(&self) -> Option<u64> {
        self.chunks.first_fresh()
    }

    fn offset_of(&self, index: u64) -> u64 {
        index * u64::from(self.geometry.segment_bytes)
    }

    fn parts(&self, offset: u64, len: usize) -> impl Iterator<Item = Part> + use<> {
        let segment = u64::from(self.geometry.segment_bytes);
        let end = offset + len as u64;
        let mut at = offset;
        std::iter::from_fn(move || {
            (at < end).then(|| {
                let (index, start) = (at / segment, at % segment);
                let stop = (start + (end - at)).min(segment);
                let part = Part {
                    index,
                    start: start as u32,
                    end: stop as u32,
                    from: (at - offset) as usize,
                };
                at += stop - start;
                part
            })
        })
    }

    /// Number of new slots that [`FileBuffer::write`] will take.
    pub fn slots_needed(&self, offset: u64, len: usize) -> usize {
        self.parts(offset, len)
            .filter(|part| {
                let entries = self.segments.get(&part.index).map_or(&[][..], Vec::as_slice);
                !entries.iter().any(|entry| entry.is_fresh() && entry.touches(part.start, part.end))
            })
            .count()
    }

    /// Takes bytes in. Pops exactly [`FileBuffer::slots_needed`] from `slots`. `seq` is higher than
    /// that of every write before it.
    pub fn write(
        &mut self,
        offset: u64,
        len: usize,
        seq: u64,
        now_ms: u64,
        slots: &mut Vec<Slot>,
        steps: &mut Vec<Step>,
    ) {
        for part in self.parts(offset, len) {
            let Part { index, start, end, from } = part;
            let touched = self.take_touching(index, start, end);
            // The largest keeps its slot: the fewest bytes are moved.
            let Some(mut entry) = touched.iter().copied().max_by_key(Entry::bytes) else {
                let slot = slots.pop().expect("the caller took slots_needed slots");
                let entry = Entry { slot, start, end, seq, born_ms: now_ms, kind: Kind::Fresh };
                steps.push(Step::Copy { slot, at: start, from, len: end - start });
                self.put(index, entry, steps);
                continue;
            };
            let others = || touched.iter().filter(|other| other.slot != entry.slot);
            for other in others() {
                move_range(other, entry.slot, other.start, other.end.min(start), steps);
                move_range(other, entry.slot, other.start.max(end), other.end, steps);
            }
            steps.push(Step::Copy { slot: entry.slot, at: start, from, len: end - start });
            let freed: Vec<Slot> = others().map(|other| other.slot).collect();
            entry.start = touched.iter().map(|entry| entry.start).fold(start, u32::min);
            entry.end = touched.iter().map(|entry| entry.end).fold(end, u32::max);
            entry.born_ms = touched.iter().map(|entry| entry.born_ms).fold(now_ms, u64::min);
            entry.seq = seq;
            self.put(index, entry, steps);
            steps.extend(freed.into_iter().map(|slot| Step::Free { slot }));
        }
    }

    /// What is buffered of a range, older pieces first: laid down in this order they give the
    /// newest bytes (4).
    pub fn overlay(&self, offset: u64, len: usize, out: &mut Vec<Piece>) {
        for part in self.parts(offset, len) {
            let Some(entries) = self.segments.get(&part.index) else { continue };
            let base = self.offset_of(part.index);
            let (in_flight, fresh): (Vec<&Entry>, Vec<&Entry>) =
                entries.iter().partition(|entry| !entry.is_fresh());
            for entry in in_flight.into_iter().chain(fresh) {
                let (start, end) = (entry.start.max(part.start), entry.end.min(part.end));
                if start < end {
                    let offset = base + u64::from(start);
                    out.push(Piece { slot: entry.slot, at: start, offset, len: end - start });
                }
            }
        }
    }

    /// Takes the lowest contiguous run of fresh bytes that lies within `[from, to)` and freezes it
    /// (2). Whole entries, about `max_bytes` at most but at least one; none that overlaps bytes in
    /// flight (3). Returns its bytes; 0 when there is nothing to take.
    pub fn take_run(&mut self, from: u64, to: u64, max_bytes: u64, out: &mut Vec<Piece>) -> u64 {
        let segment = u64::from(self.geometry.segment_bytes);
        let mut run: Vec<(u64, Slot)> = Vec::new();
        let (mut next, mut bytes) = (None, 0);
        'search: for (&index, entries) in self.segments.range(from / segment..) {
            let base = index * segment;
            if base >= to {
                break;
            }
            let mut fresh: Vec<&Entry> = entries.iter().filter(|entry| entry.is_fresh()).collect();
            fresh.sort_unstable_by_key(|entry| entry.start);
            for entry in fresh {
                let (start, end) = (base + u64::from(entry.start), base + u64::from(entry.end));
                let busy = entries
                    .iter()
                    .any(|other| !other.is_fresh() && other.overlaps(entry.start, entry.end));
                let usable = !busy && start >= from && end <= to;
                let fits = next.is_none_or(|next| start == next)
                    && (bytes == 0 || bytes + entry.bytes() <= max_bytes);
                if !usable || !fits {
                    if run.is_empty() {
                        continue;
                    }
                    break 'search;
                }
                out.push(Piece {
                    slot: entry.slot,
                    at: entry.start,
                    offset: start,
                    len: entry.end - entry.start,
                });
                run.push((index, entry.slot));
                next = Some(end);
                bytes += entry.bytes();
            }
        }
        for (index, slot) in run {
            self.change_kind(index, slot, Kind::InFlight);
        }
        bytes
    }

    /// The run is stored: its slots are free.
    pub fn complete(&mut self, run: &[Piece], steps: &mut Vec<Step>) {
        for piece in run {
            let index = piece.offset / u64::from(self.geometry.segment_bytes);
            self.take(index, piece.slot);
            steps.push(Step::Free { slot: piece.slot });
        }
    }

    /// The run is not stored: its bytes are fresh again, except where newer ones have come (4).
    pub fn fail(&mut self, run: &[Piece], steps: &mut Vec<Step>) {
        for piece in run {
            let index = piece.offset / u64::from(self.geometry.segment_bytes);
            let mut merged = self.take(index, piece.slot);
            merged.kind = Kind::Fresh;
            for newer in self.take_touching(index, merged.start, merged.end) {
                merged = self.merge(index, merged, newer, steps);
            }
            self.insert(index, merged);
        }
    }

    /// Whether bytes at or past `offset` are in flight.
    pub fn has_in_flight_from(&self, offset: u64) -> bool {
        if self.in_flight_bytes == 0 {
            return false;
        }
        let segment = u64::from(self.geometry.segment_bytes);
        self.segments.range(offset / segment..).any(|(index, entries)| {
            entries
                .iter()
                .any(|entry| !entry.is_fresh() && index * segment + u64::from(entry.end) > offset)
        })
    }

    /// Drops what is at or past `size`. Nothing there may be in flight.
    pub fn truncate(&mut self, size: u64, steps: &mut Vec<Step>) {
        debug_assert!(!self.has_in_flight_from(size), "bytes past the cut are being written");
        let segment = u64::from(self.geometry.segment_bytes);
        let indexes: Vec<u64> = self.segments.range(size / segment..).map(|(i, _)| *i).collect();
        for index in indexes {
            let cut = size.saturating_sub(index * segment) as u32;
            let entries = self.segments.get(&index).map_or(&[][..], Vec::as_slice);
            let past: Vec<Entry> = entries
                .iter()
                .filter(|entry| entry.is_fresh() && entry.end > cut)
                .copied()
                .collect();
            for mut entry in past {
                self.take(index, entry.slot);
                if entry.start < cut {
                    entry.end = cut;
                    self.put(index, entry, steps);
                } else {
                    steps.push(Step::Free { slot: entry.slot });
                }
            }
        }
    }

    /// Rebuilds from what a former worker published for this file, in any order.
    pub fn restore(&mut self, mut found: Vec<Published>, steps: &mut Vec<Step>) {
        found.sort_unstable_by_key(|published| published.seq);
        for published in found {
            let Published { slot, index, start, end, seq, born_ms } = published;
            let mut merged = Entry { slot, start, end, seq, born_ms, kind: Kind::Fresh };
            for older in self.take_touching(index, start, end) {
                merged = self.merge(index, older, merged, steps);
            }
            self.insert(index, merged);
        }
    }

    /// Makes one entry of two that are in no list; bytes of `newer` win. The one with more bytes
    /// keeps its slot.
    fn merge(&self, index: u64, older: Entry, newer: Entry, steps: &mut Vec<Step>) -> Entry {
        let (kept, freed) =
            if older.bytes() >= newer.bytes() { (older, newer) } else { (newer, older) };
        if kept.slot == newer.slot {
            move_range(&older, newer.slot, older.start, older.end.min(newer.start), steps);
            move_range(&older, newer.slot, older.start.max(newer.end), older.end, steps);
        } else {
            move_range(&newer, older.slot, newer.start, newer.end, steps);
        }
        let merged = Entry {
            slot: kept.slot,
            start: older.start.min(newer.start),
            end: older.end.max(newer.end),
            seq: older.seq.max(newer.seq),
            born_ms: older.born_ms.min(newer.born_ms),
            kind: Kind::Fresh,
        };
        steps.push(publish(index, &merged));
        steps.push(Step::Free { slot: freed.slot });
        merged
    }

    /// Takes the fresh entries out that a range overlaps or touches.
    fn take_touching(&mut self, index: u64, start: u32, end: u32) -> Vec<Entry> {
        let entries = self.segments.get(&index).map_or(&[][..], Vec::as_slice);
        let touching = |entry: &&Entry| entry.is_fresh() && entry.touches(start, end);
        let slots: Vec<Slot> = entries.iter().filter(touching).map(|entry| entry.slot).collect();
        slots.into_iter().map(|slot| self.take(index, slot)).collect()
    }

    /// Inserts a fresh entry and publishes it.
    fn put(&mut self, index: u64, entry: Entry, steps: &mut Vec<Step>) {
        steps.push(publish(index, &entry));
        self.insert(index, entry);
    }

    fn chunk_of(&self, index: u64) -> u64 {
        self.offset_of(index) / self.geometry.chunk_bytes
    }

    fn insert(&mut self, index: u64, entry: Entry) {
        self.segments.entry(index).or_default().push(entry);
        self.births.insert((entry.born_ms, entry.slot));
        self.chunks.add(self.chunk_of(index), entry.kind, entry.bytes());
        *self.count(entry.kind) += entry.bytes();
        self.held_slots += 1;
    }

    fn take(&mut self, index: u64, slot: Slot) -> Entry {
        let entries = self.segments.get_mut(&index).expect("the segment has an entry");
        let at = entries.iter().position(|entry| entry.slot == slot).expect("the slot is there");
        let entry = entries.swap_remove(at);
        if entries.is_empty() {
            self.segments.remove(&index);
        }
        self.births.remove(&(entry.born_ms, entry.slot));
        self.chunks.sub(self.chunk_of(index), entry.kind, entry.bytes());
        *self.count(entry.kind) -= entry.bytes();
        self.held_slots -= 1;
        entry
    }

    fn change_kind(&mut self, index: u64, slot: Slot, kind: Kind) {
        let mut entry = self.take(index, slot);
        entry.kind = kind;
        self.insert(index, entry);
    }

    fn count(&mut self, kind: Kind) -> &mut u64 {
        match kind {
            Kind::Fresh => &mut self.dirty_bytes,
            Kind::InFlight => &mut self.in_flight_bytes,
        }
    }
}

fn publish(index: u64, entry: &Entry) -> Step {
    Step::Publish {
        slot: entry.slot,
        index,
        start: entry.start,
        end: entry.end,
        seq: entry.seq,
        born_ms: entry.born_ms,
    }
}

/// Moves `[start, end)` of an entry, if there is such a part, to another slot.
fn move_range(entry: &Entry, to: Slot, start: u32, end: u32, steps: &mut Vec<Step>) {
    if start < end {
        steps.push(Step::Move { from: entry.slot, to, at: start, len: end - start });
    }
}
