//! Pure: whose turn it is on one backing device ([`Scheduler`]), and when a WRITE may be
//! acknowledged ([`Admission`]).
//!
//! The model: a ring of files. A turn writes one chunk of one file and passes on. A file that
//! gets its turn falls to the bottom while all others go on filling, so that with equal rates
//! the fill levels form a ramp: the next file to be written is the fullest, no two are due at
//! the same moment, and the steady state needs files x (chunk + alignment) / 2 of memory, where
//! alignment is what the ends of chunks are rounded to. So align chunks to a stripe or a
//! segment, not to their own size: equal writers would all complete a chunk at the same moment.
//! Rejected: *write the fullest first* as the only rule, because with unequal rates slow files
//! would wait for ever; *admit a file's next chunk when its last one has left*, because each
//! writer would then stall for a whole round.
//!
//! Not done here: I/O, clocks, threads, the choice of the bytes of a turn (`buffer`, `drain`).
//! Callers hold one lock around both types; nothing here blocks. Times are milliseconds of any
//! clock that does not go backwards, sizes are bytes. Each decision costs O(log files).

mod admission;
mod queues;
mod scheduler;
#[cfg(test)]
mod tests;

pub use admission::{Admission, Granted};
pub use scheduler::{Load, Outcome, Policy, Reason, Scheduler, Turn, Urgency};

/// A file, by a number that the caller chooses and does not reuse while the file is known here.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct FileId(pub u64);
