//! Pure: the dirty data of one file, as ranges of arena segments.
//!
//! A file is divided in aligned segments; what is dirty in one is held in segment-sized places
//! of the arena ([`Slot`]). This module touches no byte: [`FileBuffer`] decides, and gives
//! [`Step`]s that the caller (`fs`, `drain`) carries out in order, under the lock of the file.
//! No I/O, clock, threads or locks. Offsets and lengths are bytes, times milliseconds.
//!
//! **The rule.** A write issued after a reply wins over everything answered before it, merged or
//! not, in flight or not. It follows from the invariants, which the code cites by number:
//!
//! 1. Fresh entries never overlap; two of one segment do not even touch.
//! 2. In-flight entries never overlap each other, and neither they nor their slots change.
//! 3. Where a fresh entry overlaps one in flight, the fresh one is newer and has the higher seq.
//! 4. An entry is one range inside one segment, and so inside one chunk.
//! 5. **Kill safety.** After any number of steps, the published ranges, the highest seq winning
//!    where they overlap, show every acknowledged byte. So bytes arrive (`Copy`, `Move`) before
//!    the range that shows them (`Publish`), and a slot goes (`Free`) after its bytes are shown
//!    elsewhere under a seq at least as high. Of a write not yet answered, a part may show.

mod chunks;
mod entries;
mod file_buffer;
mod merge;
#[cfg(test)]
mod tests;

pub use file_buffer::FileBuffer;

/// A segment-sized place in the arena.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct Slot(pub u32);

/// How a file is divided.
#[derive(Clone, Copy, Debug)]
pub struct Geometry {
    /// Bytes of a segment; a power of two.
    pub segment_bytes: u32,
    /// Bytes of a chunk; a multiple of the segment.
    pub chunk_bytes: u64,
}

impl Geometry {
    /// Panics when it cannot be.
    fn check(&self) {
        assert!(self.segment_bytes.is_power_of_two(), "a segment is a power of two");
        assert!(
            self.chunk_bytes > 0 && self.chunk_bytes.is_multiple_of(u64::from(self.segment_bytes)),
            "a chunk is a multiple of the segment"
        );
    }

    /// Number of the segment that holds `offset`.
    fn index(&self, offset: u64) -> u64 {
        offset / u64::from(self.segment_bytes)
    }

    /// Place of `offset` inside its segment.
    fn at(&self, offset: u64) -> u32 {
        (offset % u64::from(self.segment_bytes)) as u32
    }

    /// The file range of the segment that holds `offset`.
    fn segment(&self, offset: u64) -> std::ops::Range<u64> {
        let start = offset - u64::from(self.at(offset));
        start..start + u64::from(self.segment_bytes)
    }
}

/// What the caller does to the arena. The steps of one call are carried out in their order, and
/// before those of the next call for the same file; the process may die between any two.
///
/// To publish a slot anew, `start`, `end`, `seq` and `born_ms` may be stored one after another,
/// in any order, each atomically: all mixtures of old and new are safe. A slot that was not
/// published must become visible whole.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// The request's `data[from..from + len]` goes into the slot at `at`.
    Copy {
        /// Destination.
        slot: Slot,
        /// Place in the segment.
        at: u32,
        /// Place in the request's data.
        from: usize,
        /// Bytes.
        len: u32,
    },
    /// The same range of the segment goes from one slot to another.
    Move {
        /// Source.
        from: Slot,
        /// Destination.
        to: Slot,
        /// Place in the segment, in both.
        at: u32,
        /// Bytes.
        len: u32,
    },
    /// The segment table shows exactly this range of the slot, whatever it showed before.
    Publish {
        /// The slot.
        slot: Slot,
        /// File offset of the segment divided by its size.
        index: u64,
        /// First dirty byte, in the segment.
        start: u32,
        /// One past the last dirty byte, in the segment.
        end: u32,
        /// Of the newest write in the range; decides where ranges overlap.
        seq: u64,
        /// When the first of the bytes became dirty.
        born_ms: u64,
    },
    /// The slot leaves the segment table and is given back.
    Free {
        /// The slot.
        slot: Slot,
    },
}

/// A range of the file and the slot that holds its bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Piece {
    /// The slot.
    pub slot: Slot,
    /// Place in the segment.
    pub at: u32,
    /// Offset in the file.
    pub offset: u64,
    /// Bytes.
    pub len: u32,
}

/// One slot as a new worker finds it in the segment table; fields as in [`Step::Publish`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Published {
    /// The slot.
    pub slot: Slot,
    /// File offset of the segment divided by its size.
    pub index: u64,
    /// First dirty byte, in the segment.
    pub start: u32,
    /// One past the last dirty byte, in the segment.
    pub end: u32,
    /// Of the newest write in the range.
    pub seq: u64,
    /// When the first of the bytes became dirty.
    pub born_ms: u64,
}
