//! Fill accounting of one file: how much of each chunk is dirty, which chunks are whole, how old
//! the oldest fresh byte is.
//!
//! Told by `FileBuffer` of each entry that comes or goes, so that the scheduler's questions are
//! answered without a look at the entries. Every update is O(log chunks) plus O(log births).

use std::collections::{BTreeMap, BTreeSet};

use super::entries::Entry;

/// What an entry is.
#[derive(Clone, Copy, Debug)]
pub(super) enum State {
    /// Not yet being written to the backing file.
    Fresh,
    /// Being written to it.
    InFlight,
}

/// Dirty bytes of one chunk, or of the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct DirtyBytes {
    fresh: u64,
    in_flight: u64,
}

impl DirtyBytes {
    fn of(&mut self, state: State) -> &mut u64 {
        match state {
            State::Fresh => &mut self.fresh,
            State::InFlight => &mut self.in_flight,
        }
    }
}

/// The counters of one file.
#[derive(Debug)]
pub(super) struct Fill {
    chunk_bytes: u64,
    total: DirtyBytes,
    /// Chunks with a dirty byte.
    chunks: BTreeMap<u64, DirtyBytes>,
    /// Chunks that are fresh from end to end, with nothing in flight.
    whole: BTreeSet<u64>,
    /// Birth of each fresh entry, counted: many share a millisecond.
    births: BTreeMap<u64, u32>,
}

impl Fill {
    pub fn new(chunk_bytes: u64) -> Self {
        Fill {
            chunk_bytes,
            total: DirtyBytes::default(),
            chunks: BTreeMap::new(),
            whole: BTreeSet::new(),
            births: BTreeMap::new(),
        }
    }

    /// Bytes of all fresh entries.
    pub fn fresh_bytes(&self) -> u64 {
        self.total.fresh
    }

    /// Bytes of all entries in flight.
    pub fn in_flight_bytes(&self) -> u64 {
        self.total.in_flight
    }

    /// Lowest whole chunk.
    pub fn first_whole(&self) -> Option<u64> {
        self.whole.first().copied()
    }

    /// Earliest birth of a fresh entry.
    pub fn oldest_ms(&self) -> Option<u64> {
        self.births.first_key_value().map(|(&born_ms, _)| born_ms)
    }

    /// An entry came.
    pub fn add(&mut self, state: State, entry: &Entry) {
        let len = u64::from(entry.len);
        *self.total.of(state) += len;
        let chunk = entry.start / self.chunk_bytes;
        *self.chunks.entry(chunk).or_default().of(state) += len;
        if let State::Fresh = state {
            *self.births.entry(entry.born_ms).or_default() += 1;
        }
        self.update_whole(chunk);
    }

    /// An entry goes that came as it is.
    pub fn remove(&mut self, state: State, entry: &Entry) {
        let len = u64::from(entry.len);
        *self.total.of(state) -= len;
        let chunk = entry.start / self.chunk_bytes;
        let fill = self.chunks.get_mut(&chunk).expect("a chunk with an entry is counted");
        *fill.of(state) -= len;
        if *fill == DirtyBytes::default() {
            self.chunks.remove(&chunk);
        }
        if let State::Fresh = state {
            let births = self.births.get_mut(&entry.born_ms).expect("a fresh entry is counted");
            *births -= 1;
            if *births == 0 {
                self.births.remove(&entry.born_ms);
            }
        }
        self.update_whole(chunk);
    }

    fn update_whole(&mut self, chunk: u64) {
        let whole = DirtyBytes { fresh: self.chunk_bytes, in_flight: 0 };
        if self.chunks.get(&chunk) == Some(&whole) {
            self.whole.insert(chunk);
        } else {
            self.whole.remove(&chunk);
        }
    }
}
