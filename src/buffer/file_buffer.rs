//! [`FileBuffer`]: what of one file is dirty, where it is, and what happens to it.
//!
//! Two sets of entries: fresh ones, which take new bytes, and those in flight, which are frozen
//! until `drain` says how it went. The invariants are numbered in the module's head. Called under
//! the lock of the file by `fs` (write, overlay, truncate) and `drain` (runs, completions).

use std::ops::Range;

use super::chunks::{Fill, State};
use super::entries::{Entries, Entry};
use super::merge::merge;
use super::{Geometry, Piece, Published, Slot, Step};

/// The dirty data of one file. Decides; the [`Step`]s it gives do.
///
/// Every call that gives steps appends to `steps`, and takes for granted that they are carried
/// out before the next call. A change costs O(log entries) for each segment it touches.
#[derive(Debug)]
pub struct FileBuffer {
    geometry: Geometry,
    fresh: Entries,
    in_flight: Entries,
    /// Counts what is in the two sets.
    fill: Fill,
    /// Highest seq given to an entry so far.
    last_seq: u64,
}

impl FileBuffer {
    /// A buffer with nothing in it.
    ///
    /// # Panics
    /// When the segment is no power of two or the chunk no multiple of it.
    pub fn new(geometry: Geometry) -> Self {
        geometry.check();
        let Geometry { chunk_bytes, .. } = geometry;
        FileBuffer {
            geometry,
            fresh: Entries::default(),
            in_flight: Entries::default(),
            fill: Fill::new(chunk_bytes),
            last_seq: 0,
        }
    }

    /// Whether nothing is held: neither fresh nor in flight.
    pub fn is_clean(&self) -> bool {
        self.fresh.is_empty() && self.in_flight.is_empty()
    }

    /// Bytes of a chunk.
    pub fn chunk_bytes(&self) -> u64 {
        self.geometry.chunk_bytes
    }

    /// Divides the file in other chunks from now on; what is held and in flight stays as it is.
    /// Looks at every entry when it is a change.
    ///
    /// # Panics
    /// When the chunk is no multiple of the segment.
    pub fn set_chunk_bytes(&mut self, chunk_bytes: u64) {
        if chunk_bytes == self.geometry.chunk_bytes {
            return;
        }
        self.geometry.chunk_bytes = chunk_bytes;
        self.geometry.check();
        self.fill = Fill::new(chunk_bytes);
        for (state, entries) in [(State::Fresh, &self.fresh), (State::InFlight, &self.in_flight)] {
            entries.inside(&(0..u64::MAX)).for_each(|entry| self.fill.add(state, entry));
        }
    }

    /// Fresh bytes: acknowledged and not yet being written. A byte that is in flight and was
    /// written again counts here and in [`FileBuffer::in_flight_bytes`].
    pub fn dirty_bytes(&self) -> u64 {
        self.fill.fresh_bytes()
    }

    /// Bytes taken by [`FileBuffer::take_run`], neither completed nor failed.
    pub fn in_flight_bytes(&self) -> u64 {
        self.fill.in_flight_bytes()
    }

    /// Slots this file occupies.
    pub fn held_slots(&self) -> usize {
        self.fresh.len() + self.in_flight.len()
    }

    /// One past the last buffered byte, fresh or in flight; 0 when there is none.
    pub fn end(&self) -> u64 {
        self.fresh.end().max(self.in_flight.end())
    }

    /// Birth of the oldest fresh byte. May be earlier than that, never later: an entry keeps the
    /// birth of its first byte, also when that byte is overwritten.
    pub fn oldest_ms(&self) -> Option<u64> {
        self.fill.oldest_ms()
    }

    /// Number of the lowest chunk that is fresh from end to end, with nothing in flight.
    pub fn whole_chunk(&self) -> Option<u64> {
        self.fill.first_whole()
    }

    /// Number of the lowest chunk with a fresh byte.
    pub fn first_chunk(&self) -> Option<u64> {
        self.fresh.first().map(|entry| entry.start / self.geometry.chunk_bytes)
    }

    /// Number of the lowest chunk with a fresh byte that is not below `chunk`.
    pub fn first_chunk_from(&self, chunk: u64) -> Option<u64> {
        let start = chunk.checked_mul(self.geometry.chunk_bytes)?;
        Some(self.first_fresh_from(start)? / self.geometry.chunk_bytes)
    }

    /// Where the first fresh bytes begin, of those that do not begin before `offset`.
    pub fn first_fresh_from(&self, offset: u64) -> Option<u64> {
        self.fresh.inside(&(offset..u64::MAX)).next().map(|entry| entry.start)
    }

    /// Exactly how many slots [`FileBuffer::write`] of this range takes.
    pub fn slots_needed(&self, offset: u64, len: usize) -> usize {
        self.parts(offset, len)
            .filter(|part| {
                self.fresh.last_touching(part, &self.geometry.segment(part.start)).is_none()
            })
            .count()
    }

    /// Takes a write of `len` bytes at `offset`, received at `now_ms`; pops
    /// [`FileBuffer::slots_needed`] slots from `slots`. Once the steps are done the write may be
    /// acknowledged.
    ///
    /// `seq` should be higher than in every earlier call for this file, also those of a worker
    /// that died. Where it is not, the next free one is taken, so that this write wins all the
    /// same.
    ///
    /// # Panics
    /// When `slots` has too few.
    pub fn write(
        &mut self,
        offset: u64,
        len: usize,
        seq: u64,
        now_ms: u64,
        slots: &mut Vec<Slot>,
        steps: &mut Vec<Step>,
    ) {
        self.last_seq = seq.max(self.last_seq + 1);
        for part in self.parts(offset, len) {
            let from = (part.start - offset) as usize;
            self.write_part(part, from, now_ms, slots, steps);
        }
    }

    /// Gives the pieces that hold bytes of the range, clipped to it, older first: laid down in
    /// this order over what the backing file has, they show the file. Appends to `out`.
    pub fn overlay(&self, offset: u64, len: usize, out: &mut Vec<Piece>) {
        let range = offset..offset.saturating_add(len as u64);
        for entries in [&self.in_flight, &self.fresh] {
            let pieces = entries.intersecting(&range);
            out.extend(pieces.map(|entry| entry.clipped(&range, &self.geometry)));
        }
    }

    /// Whether a fresh byte is in the range.
    pub fn has_fresh_in(&self, range: &Range<u64>) -> bool {
        self.fresh.overlaps(range)
    }

    /// Where the fresh bytes that begin at or before `from` end, without a gap; at most about `to`,
    /// and `from` where there are none.
    pub fn filled_to(&self, from: u64, to: u64) -> u64 {
        let mut end = from;
        for entry in self.fresh.intersecting(&(from..to)) {
            if entry.start > end {
                break;
            }
            end = end.max(entry.end());
        }
        end
    }

    /// Takes the lowest contiguous run of fresh bytes inside `[from, to)` to be written, at most
    /// `max_bytes`, but at least one entry; appends its pieces, ascending, to `out` and returns
    /// its bytes, 0 when there is nothing to take.
    ///
    /// Entries are taken whole: one that crosses `from` or `to` is left, so bounds are multiples
    /// of the segment (or 0 and `u64::MAX`) where everything between them is meant. An entry that
    /// overlaps one in flight is left as well, so that the older bytes cannot reach the backing
    /// file after the newer.
    ///
    /// Each piece is later given, as it is, to [`FileBuffer::complete`] or
    /// [`FileBuffer::fail`], once. Until then the bytes in its slot do not change.
    pub fn take_run(&mut self, from: u64, to: u64, max_bytes: u64, out: &mut Vec<Piece>) -> u64 {
        let first = out.len();
        let mut bytes = 0;
        let mut end = from;
        for entry in self.fresh.inside(&(from..to)) {
            let blocked = self.in_flight.overlaps(&entry.range());
            let len = u64::from(entry.len);
            if bytes == 0 {
                if blocked {
                    continue;
                }
            } else if blocked || entry.start != end || bytes + len > max_bytes {
                break;
            }
            out.push(entry.piece(&self.geometry));
            bytes += len;
            end = entry.end();
        }
        for piece in &out[first..] {
            let entry = self.take_fresh(piece.offset).expect("the run was just found here");
            self.fill.add(State::InFlight, &entry);
            self.in_flight.insert(entry);
        }
        bytes
    }

    /// The pieces of a run, or some of them, are in the backing file: their slots are freed.
    ///
    /// # Panics
    /// When a piece is not in flight.
    pub fn complete(&mut self, run: &[Piece], steps: &mut Vec<Step>) {
        for piece in run {
            let entry = self.land(piece);
            steps.push(Step::Free { slot: entry.slot });
        }
    }

    /// The pieces of a run, or some of them, could not be stored, or not for certain: they are
    /// fresh again, except where newer bytes are.
    ///
    /// # Panics
    /// When a piece is not in flight.
    pub fn fail(&mut self, run: &[Piece], steps: &mut Vec<Step>) {
        for piece in run {
            let entry = self.land(piece);
            let mut cluster = self.take_touching(&entry.range());
            cluster.push(entry);
            // Invariant 3 lets the seqs decide: what overlaps `entry` is newer.
            let merged = merge(&mut cluster, &self.geometry, steps);
            self.insert_fresh(merged);
        }
    }

    /// Whether something in flight reaches past `offset`.
    pub fn has_in_flight_from(&self, offset: u64) -> bool {
        self.in_flight.end() > offset
    }

    /// Drops the fresh bytes at or past `size`.
    ///
    /// Must not be called while [`FileBuffer::has_in_flight_from`]`(size)`: the write under way
    /// would make the backing file longer again after the caller has cut it. Wait for it first.
    pub fn truncate(&mut self, size: u64, steps: &mut Vec<Step>) {
        debug_assert!(!self.has_in_flight_from(size), "truncate waits for what is in flight");
        while let Some(entry) = self.fresh.take_last_from(size) {
            self.fill.remove(State::Fresh, &entry);
            steps.push(Step::Free { slot: entry.slot });
        }
        if let Some(mut entry) = self.fresh.take_across(size) {
            self.fill.remove(State::Fresh, &entry);
            entry.len = (size - entry.start) as u32;
            steps.push(entry.publish(&self.geometry));
            self.insert_fresh(entry);
        }
    }

    /// Rebuilds from what a worker that died had published of this file, in any order. All of it
    /// is fresh, also what was in flight: how that went is not known, and its bytes are no older
    /// than those in the backing file. The steps merge what overlaps or touches, the higher seq
    /// winning; a worker that dies among them leaves what can be restored again.
    ///
    /// # Panics
    /// When the buffer is not clean.
    pub fn restore(&mut self, mut found: Vec<Published>, steps: &mut Vec<Step>) {
        assert!(self.is_clean(), "only a new buffer is restored");
        found.sort_unstable_by_key(|published| (published.index, published.start));
        let mut cluster: Vec<Entry> = Vec::new();
        let mut cluster_range = 0..0;
        for published in found {
            let entry = self.entry_of(&published);
            self.last_seq = self.last_seq.max(entry.seq);
            let segment = self.geometry.segment(entry.start);
            let touches =
                entry.start <= cluster_range.end && segment.contains(&cluster_range.start);
            if !cluster.is_empty() && !touches {
                let merged = merge(&mut cluster, &self.geometry, steps);
                self.insert_fresh(merged);
                cluster.clear();
            }
            if cluster.is_empty() {
                cluster_range = entry.range();
            }
            cluster_range.end = cluster_range.end.max(entry.end());
            cluster.push(entry);
        }
        if !cluster.is_empty() {
            let merged = merge(&mut cluster, &self.geometry, steps);
            self.insert_fresh(merged);
        }
    }

    /// The range cut at the borders of segments, ascending.
    fn parts(&self, offset: u64, len: usize) -> impl Iterator<Item = Range<u64>> + use<> {
        let geometry = self.geometry;
        let end = offset + len as u64;
        let mut start = offset;
        std::iter::from_fn(move || {
            let part = start..geometry.segment(start).end.min(end);
            start = part.end;
            (!part.is_empty()).then_some(part)
        })
    }

    /// Writes `part`, inside one segment, under `last_seq`. `from` is its place in the request.
    fn write_part(
        &mut self,
        part: Range<u64>,
        from: usize,
        now_ms: u64,
        slots: &mut Vec<Slot>,
        steps: &mut Vec<Step>,
    ) {
        let touched = self.take_touching(&part);
        let (slot, range) = match (touched.first(), touched.last()) {
            (Some(first), Some(last)) => {
                let range = first.start.min(part.start)..last.end().max(part.end);
                (self.unite(first, last, &part, steps), range)
            }
            _ => (slots.pop().expect("the caller brings the slots needed"), part.clone()),
        };
        let at = self.geometry.at(part.start);
        steps.push(Step::Copy { slot, at, from, len: (part.end - part.start) as u32 });
        let merged = Entry {
            start: range.start,
            len: (range.end - range.start) as u32,
            slot,
            seq: self.last_seq,
            born_ms: touched.iter().map(|entry| entry.born_ms).fold(now_ms, u64::min),
        };
        steps.push(merged.publish(&self.geometry));
        let absorbed = touched.iter().filter(|entry| entry.slot != slot);
        steps.extend(absorbed.map(|entry| Step::Free { slot: entry.slot }));
        self.insert_fresh(merged);
    }

    /// Brings what stays of the entries that `part` touches into one slot, and returns it.
    /// `first` and `last` of them, maybe the same: those between are overwritten whole, so only
    /// these two can have bytes that stay, and the one with more of them keeps its place.
    fn unite(&self, first: &Entry, last: &Entry, part: &Range<u64>, steps: &mut Vec<Step>) -> Slot {
        let before = first.start.min(part.start)..part.start;
        let after = part.end..last.end().max(part.end);
        let (survivor, other, moved) = if before.end - before.start >= after.end - after.start {
            (first, last, after)
        } else {
            (last, first, before)
        };
        if survivor.slot != other.slot && !moved.is_empty() {
            steps.push(Step::Move {
                from: other.slot,
                to: survivor.slot,
                at: self.geometry.at(moved.start),
                len: (moved.end - moved.start) as u32,
            });
        }
        survivor.slot
    }

    /// Removes the fresh entries of one segment that overlap or touch `range`, inside it;
    /// ascending.
    fn take_touching(&mut self, range: &Range<u64>) -> Vec<Entry> {
        let segment = self.geometry.segment(range.start);
        let mut touched = Vec::new();
        while let Some(start) = self.fresh.last_touching(range, &segment).map(|e| e.start) {
            touched.extend(self.take_fresh(start));
        }
        touched.reverse();
        touched
    }

    fn take_fresh(&mut self, start: u64) -> Option<Entry> {
        let entry = self.fresh.take(start)?;
        self.fill.remove(State::Fresh, &entry);
        Some(entry)
    }

    fn insert_fresh(&mut self, entry: Entry) {
        self.fill.add(State::Fresh, &entry);
        self.fresh.insert(entry);
    }

    /// Removes from the entries in flight the one that was taken as `piece`.
    fn land(&mut self, piece: &Piece) -> Entry {
        let entry = self.in_flight.take(piece.offset);
        let entry = entry.filter(|entry| entry.piece(&self.geometry) == *piece);
        let entry = entry.expect("a piece lands once, as it was taken");
        self.fill.remove(State::InFlight, &entry);
        entry
    }

    fn entry_of(&self, published: &Published) -> Entry {
        let Published { slot, index, start, end, seq, born_ms } = *published;
        debug_assert!(start < end && end <= self.geometry.segment_bytes, "{published:?}");
        let segment_bytes = u64::from(self.geometry.segment_bytes);
        let start_offset = index * segment_bytes + u64::from(start);
        Entry { start: start_offset, len: end - start, slot, seq, born_ms }
    }
}
