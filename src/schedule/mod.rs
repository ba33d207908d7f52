//! Pure: whose turn it is on one backing device ([`Scheduler`]), when a WRITE may be acknowledged
//! ([`Admission`]), which program may write on before that ([`Gate`]), whether an engine that
//! hangs is to be asked again ([`circuit::Circuit`]) and with which requests ([`requests::Requests`]),
//! how many lanes a device has ([`Lanes`]), and when a disk is left to those who read from it
//! ([`Sharing`]).
//!
//! A ring of files: a turn writes one chunk of one file and passes on, and that file falls to
//! the bottom while the others go on filling. With equal rates the fill levels form a ramp: the
//! next file is the fullest, no two are due at once, and files x (chunk + alignment) / 2 of
//! memory are enough, alignment being what the ends of chunks are rounded to. So align chunks to
//! a stripe or segment: aligned to their own size, those of equal writers complete together.
//! Rejected: *the fullest first* (slow files would wait for ever), and *room for a file's next
//! chunk when its last one has left* (each writer would stall for a whole round).
//!
//! Not here: I/O, clocks, threads, which bytes a turn writes. Callers hold one lock around both;
//! nothing blocks. Times are milliseconds of a clock that never goes back, the gate's microseconds. A decision costs
//! O(log files).

mod admission;
mod chunk_size;
pub mod circuit;
mod entry;
mod gate;
mod lanes;
mod pace;
mod queues;
pub mod requests;
mod scheduler;
mod sharing;
#[cfg(test)]
mod tests;
mod zones;

pub use admission::{Admission, Granted};
pub use chunk_size::{ChunkSize, RunTime, ServiceTime};
pub use gate::{Gate, PASS_US_MAX, Pass, Seen};
pub use lanes::{LANES_MAX, LaneRun, Lanes};
pub use scheduler::{
    Filling, Load, Outcome, Policy, Priority, Reason, Scheduler, Turn, Urgency, turn_chunks,
};
pub use sharing::{Reads, Sharing};

/// A file, by a number that the caller chooses and does not reuse while the file is known here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[cfg_attr(not(test), derive(Hash, PartialOrd, Ord))] // Tests count the look-ups.
pub struct FileId(pub u64);
