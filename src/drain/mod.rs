//! Lanes: a turn of one file becomes large sequential writes to its backing file.
//!
//! A *lane* is a thread; all lanes of a backing device share one [`LaneQueue`] and with it one
//! scheduler. A lane takes a turn, asks its [`Source`] (the filesystem) for one run of contiguous
//! bytes after another, writes each ([`write_run`]), and reports it stored or failed at once, so
//! that memory is given back every few MiB while the turn goes on.
//!
//! Locks: the queue's lock is held for a decision only, never during a system call. The source
//! takes a file's lock and then the queue's; a lane never holds the queue's lock when it calls the
//! source.

mod data_file;
mod ending;
mod engine;
mod lane;
mod rate;
mod run_size;
mod throttle;
mod writer;

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

pub use data_file::{Access, DataFile, Need};
pub use engine::{Crew, EngineState, Outage, PATIENCE, is_of_connection};
pub use lane::{LaneQueue, Look, LookAtReads, Work, spawn_lanes};
pub use run_size::{RunSize, whole_stripes};
pub use throttle::Throttle;
pub use writer::{Written, write_run};

use crate::buffer::Piece;
use crate::schedule::{FileId, Load, Reason};

/// Contiguous bytes of one file, frozen until they are reported stored or failed.
#[derive(Debug)]
pub struct Run {
    /// Whose bytes.
    pub file: FileId,
    /// Where in the file they begin.
    pub offset: u64,
    /// How many.
    pub len: u64,
    /// Where they are in the arena, in the order of the file.
    pub pieces: Vec<Piece>,
    /// What to write to.
    pub data_file: Arc<DataFile>,
    /// The file is to be as long as the run makes it before several writes go to it.
    pub is_end_first: bool,
}

/// What a turn is to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// The dirty bytes of this range: one aligned chunk as a rule.
    Write(Range<u64>),
    /// Nothing is left.
    Nothing,
    /// Nothing before this time, in milliseconds of CLOCK_BOOTTIME: bytes that are to go first are
    /// about to come.
    NotBefore(u64),
}

/// Where lanes get bytes from. Implemented by `fs`.
pub trait Source: Send + Sync {
    /// What a turn of `file` is to write.
    fn plan_turn(&self, file: FileId, reason: Reason) -> Plan;

    /// Where on the device the first dirty byte from `offset` on is to lie, if that is known already;
    /// [`Load::place`] is that from now on. May wait for the disk.
    fn find_place(&self, _file: FileId, _offset: u64) -> Option<u64> {
        None
    }

    /// Takes the first run of dirty bytes within `range`, about `max_bytes` at most.
    /// `Err` when the backing file cannot be opened.
    fn take_run(&self, file: FileId, range: Range<u64>, max_bytes: u64) -> io::Result<Option<Run>>;

    /// The run is in the backing file, which took that long.
    fn stored(&self, run: Run, written: Written, took: Duration);

    /// The disk is full: lets go of some of the space that is held for such runs. `false` when there
    /// is none.
    fn give_space(&self, run: &Run) -> bool;

    /// The run could not be written, or not even taken; its bytes are dirty again. Returns when
    /// to try again, in milliseconds of CLOCK_BOOTTIME.
    fn failed(&self, file: FileId, run: Option<Run>, error: io::Error) -> u64;

    /// The turn is over after `bytes` in all. Calls `end` once with the file's load, while that
    /// cannot change: the scheduler hears of a write meanwhile after it, never before.
    fn turn_ended(&self, file: FileId, reason: Reason, bytes: u64, end: &mut dyn FnMut(Load));

    /// The turn is not begun: workers died of this file. Calls `end` as above, with when to try
    /// again.
    fn turn_refused(&self, file: FileId, end: &mut dyn FnMut(Load, u64));
}

#[cfg(test)]
mod tests;
