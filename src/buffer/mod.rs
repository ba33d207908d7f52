//! Pure: the dirty data of one file, as ranges of arena segments.
//!
//! Decides where bytes go and which may leave; moves none itself. Every change comes as a list of
//! [`Step`]s that the caller (`fs`) carries out, in order, on the shared arena under the file's
//! lock. No I/O, no threads, no clock: time and sequence numbers are arguments.
//!
//! The file is divided into aligned segments. At one segment's index there may be several
//! *entries*, each a contiguous dirty range in a slot of its own:
//!
//! 1. *Fresh* entries (to be written) neither overlap nor touch: they are merged.
//! 2. *In flight* entries (being written) are frozen: a newer write over one takes a slot of its
//!    own, and wins.
//! 3. A fresh entry that overlaps one in flight is not taken before that one is through, so a
//!    place has at most one generation in flight.
//! 4. Where entries overlap, the one with the higher sequence number holds the newer bytes.
//!
//! From 2 to 4 follows: **a write issued after a reply wins over everything answered before it**,
//! merged or not, in flight or not.
//!
//! Steps are ordered for a process that may be killed between any two: bytes, then the range that
//! makes them visible, then the slots that are not needed any more.

mod chunks;
mod file_buffer;

pub use file_buffer::FileBuffer;

/// A place for one segment in the arena.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct Slot(pub u32);

/// Sizes that all files of a mount share.
#[derive(Clone, Copy, Debug)]
pub struct Geometry {
    /// Bytes of a segment; a power of two.
    pub segment_bytes: u32,
    /// Bytes of a chunk, what a file writes in one turn; a multiple of the segment.
    pub chunk_bytes: u64,
}

/// What to do on the arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Copy `len` bytes of the request, from `from` on, to `at` in a slot.
    Copy {
        /// Where to.
        slot: Slot,
        /// Offset in the segment.
        at: u32,
        /// Offset in the request's bytes.
        from: usize,
        /// Bytes.
        len: u32,
    },
    /// Copy the same range of a segment from one slot to another.
    Move {
        /// Where from.
        from: Slot,
        /// Where to.
        to: Slot,
        /// Offset in both.
        at: u32,
        /// Bytes.
        len: u32,
    },
    /// Make a slot's range visible to a later worker, or change it.
    Publish {
        /// Which slot.
        slot: Slot,
        /// Segment of the file.
        index: u64,
        /// First dirty byte in the segment.
        start: u32,
        /// One past the last.
        end: u32,
        /// Orders it among overlapping ones.
        seq: u64,
        /// When its oldest byte came.
        born_ms: u64,
    },
    /// Take a slot out of sight and give it back.
    Free {
        /// Which slot.
        slot: Slot,
    },
}

/// Bytes of a file that lie in one slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Which slot.
    pub slot: Slot,
    /// Offset in the segment.
    pub at: u32,
    /// Offset in the file.
    pub offset: u64,
    /// Bytes.
    pub len: u32,
}

/// An entry as a later worker finds it in the arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// Which slot.
    pub slot: Slot,
    /// Segment of the file.
    pub index: u64,
    /// First dirty byte in the segment.
    pub start: u32,
    /// One past the last.
    pub end: u32,
    /// Orders it among overlapping ones.
    pub seq: u64,
    /// When its oldest byte came.
    pub born_ms: u64,
}

#[cfg(test)]
mod tests;
