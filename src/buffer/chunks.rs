//! How full each chunk of a file is, kept up to date so that no decision has to scan.

use std::collections::{BTreeMap, BTreeSet};

/// Bytes of one chunk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Fill {
    fresh_bytes: u64,
    in_flight_bytes: u64,
}

/// Which of a chunk's bytes are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Fresh,
    InFlight,
}

/// The chunks that hold something.
#[derive(Debug)]
pub(super) struct Chunks {
    chunk_bytes: u64,
    fills: BTreeMap<u64, Fill>,
    /// Chunks with fresh bytes.
    fresh: BTreeSet<u64>,
    /// Chunks all of whose bytes are fresh and none in flight.
    whole: BTreeSet<u64>,
}

impl Chunks {
    pub(super) fn new(chunk_bytes: u64) -> Chunks {
        let (fills, fresh, whole) = Default::default();
        Chunks { chunk_bytes, fills, fresh, whole }
    }

    pub(super) fn first_fresh(&self) -> Option<u64> {
        self.fresh.first().copied()
    }

    pub(super) fn first_whole(&self) -> Option<u64> {
        self.whole.first().copied()
    }

    pub(super) fn add(&mut self, chunk: u64, kind: Kind, bytes: u64) {
        self.change(chunk, kind, |count| *count += bytes);
    }

    pub(super) fn sub(&mut self, chunk: u64, kind: Kind, bytes: u64) {
        self.change(chunk, kind, |count| *count -= bytes);
    }

    fn change(&mut self, chunk: u64, kind: Kind, change: impl FnOnce(&mut u64)) {
        let fill = self.fills.entry(chunk).or_default();
        match kind {
            Kind::Fresh => change(&mut fill.fresh_bytes),
            Kind::InFlight => change(&mut fill.in_flight_bytes),
        }
        let fill = *fill;
        let is_whole = fill.fresh_bytes == self.chunk_bytes && fill.in_flight_bytes == 0;
        set(&mut self.fresh, chunk, fill.fresh_bytes > 0);
        set(&mut self.whole, chunk, is_whole);
        if fill == Fill::default() {
            self.fills.remove(&chunk);
        }
    }
}

fn set(chunks: &mut BTreeSet<u64>, chunk: u64, is_member: bool) {
    if is_member {
        chunks.insert(chunk);
    } else {
        chunks.remove(&chunk);
    }
}
