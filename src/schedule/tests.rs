//! Tests of the scheduler and of admission: each rule by itself, random calls against a naive
//! model, and simulated disks with up to 100 000 writers. Only `std`, as the module itself; a failing
//! random test names its seed.

mod admission;
mod chunk_size;
mod circuit;
mod gate;
mod lanes;
mod model;
mod pace;
mod random;
mod requests;
mod scheduler;
mod sharing;
mod simulation;
pub(super) mod steps;
mod visits;

use super::Load;
use random::Random;

/// An open file without a whole chunk.
fn some(dirty_bytes: u64, oldest_ms: u64) -> Load {
    Load { dirty_bytes, oldest_ms: Some(oldest_ms), open: true, ..Load::default() }
}

/// An open file with a whole chunk.
fn whole(dirty_bytes: u64, oldest_ms: u64) -> Load {
    Load { has_whole_chunk: true, ..some(dirty_bytes, oldest_ms) }
}

/// A closed file without a whole chunk.
fn closed(dirty_bytes: u64, oldest_ms: u64) -> Load {
    Load { open: false, ..some(dirty_bytes, oldest_ms) }
}
