//! Tests of the scheduler and of admission: each rule by itself, random calls against a naive
//! model, and a simulated disk with many writers. Only `std`, as the module itself; a failing
//! random test names its seed.

mod admission;
mod gate;
mod model;
mod pace;
mod scheduler;
mod simulation;

use super::Load;

/// SplitMix64: the same numbers for the same seed on every machine.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// An open file without a whole chunk.
fn some(dirty_bytes: u64, oldest_ms: u64) -> Load {
    Load {
        dirty_bytes,
        has_whole_chunk: false,
        oldest_ms: Some(oldest_ms),
        open: true,
        place: None,
    }
}

/// An open file with a whole chunk.
fn whole(dirty_bytes: u64, oldest_ms: u64) -> Load {
    Load { has_whole_chunk: true, ..some(dirty_bytes, oldest_ms) }
}

/// A closed file without a whole chunk.
fn closed(dirty_bytes: u64, oldest_ms: u64) -> Load {
    Load { open: false, ..some(dirty_bytes, oldest_ms) }
}
