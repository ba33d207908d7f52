//! Requests that must not be done twice, written down before they are begun.
//!
//! The kernel sends a request again whose worker died before it answered. The next worker finds
//! here what the request's names stood for before the first attempt, and so can tell whether that
//! attempt was carried out. An entry belongs to the thread that made it, which overwrites it with
//! its next attempt: by then the former one is answered.

use std::cell::Cell;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Entries: those of the threads of one worker, and [`KEPT`] of former ones.
pub(super) const ATTEMPTS: usize = 768;
/// Entries of former workers that are kept: more than one worker has threads. Numbers of requests
/// grow, so the highest are the last.
const KEPT: usize = 384;

/// What a name stood for, or a property was: device and inode number, or whatever two numbers the
/// operation compares. `None` when there was nothing.
pub type Mark = Option<(u64, u64)>;

const FREE: u32 = 0;
/// A thread has it and is writing to it.
const TAKEN: u32 = 1;
const WRITTEN: u32 = 2;

#[repr(C)]
pub(super) struct Attempt {
    state: AtomicU32,
    /// Bit n: mark n is there.
    marked: AtomicU32,
    unique: AtomicU64,
    marks: [[AtomicU64; 2]; 2],
}

impl Attempt {
    fn marks(&self) -> [Mark; 2] {
        let marked = self.marked.load(Ordering::Relaxed);
        std::array::from_fn(|at| {
            let [first, second] = &self.marks[at];
            (marked & 1 << at != 0)
                .then(|| (first.load(Ordering::Relaxed), second.load(Ordering::Relaxed)))
        })
    }

    fn write(&self, unique: u64, marks: [Mark; 2]) {
        self.state.store(TAKEN, Ordering::Release);
        let mut marked = 0;
        for (at, mark) in marks.into_iter().enumerate() {
            let Some((first, second)) = mark else { continue };
            marked |= 1 << at;
            self.marks[at][0].store(first, Ordering::Relaxed);
            self.marks[at][1].store(second, Ordering::Relaxed);
        }
        self.marked.store(marked, Ordering::Relaxed);
        self.unique.store(unique, Ordering::Relaxed);
        self.state.store(WRITTEN, Ordering::Release);
    }
}

thread_local! {
    static OWN: Cell<Option<usize>> = const { Cell::new(None) };
}

/// An entry of a request that no thread has in hand.
#[derive(Debug)]
pub struct Kept(usize);

/// The table.
#[derive(Clone, Copy)]
pub struct Attempts<'a>(pub(super) &'a [Attempt; ATTEMPTS]);

impl Attempts<'_> {
    /// Notes that this thread begins with request `unique`. `false` when there is no entry left:
    /// the request then is not protected against the worker's death.
    pub fn begin(&self, unique: u64, marks: [Mark; 2]) -> bool {
        if OWN.get().is_none() {
            OWN.set(self.take());
        }
        match OWN.get() {
            Some(own) => self.0[own].write(unique, marks),
            None => log::warn!("no entry left to note an attempt"),
        }
        OWN.get().is_some()
    }

    /// Takes what this thread noted of `unique` away from it, since the request is to be tried again
    /// later, and perhaps by another thread. To be given to [`Attempts::go_on`] or
    /// [`Attempts::let_go`].
    pub fn keep(&self, unique: u64) -> Option<Kept> {
        let own = OWN.get()?;
        let is_its = self.0[own].unique.load(Ordering::Relaxed) == unique;
        is_its.then(|| OWN.take()).flatten().map(Kept)
    }

    /// This thread goes on with the request; what it noted of the one before is not needed any more.
    pub fn go_on(&self, kept: Kept) {
        if let Some(former) = OWN.replace(Some(kept.0)) {
            self.0[former].state.store(FREE, Ordering::Release);
        }
    }

    /// The request is answered.
    pub fn let_go(&self, kept: Kept) {
        self.0[kept.0].state.store(FREE, Ordering::Release);
    }

    fn take(&self) -> Option<usize> {
        self.0.iter().position(|attempt| {
            let taken =
                attempt.state.compare_exchange(FREE, TAKEN, Ordering::AcqRel, Ordering::Relaxed);
            taken.is_ok()
        })
    }

    /// What was noted when `unique` was begun; `None` when it was not.
    pub fn find(&self, unique: u64) -> Option<[Mark; 2]> {
        let is_it = |attempt: &&Attempt| {
            attempt.state.load(Ordering::Acquire) == WRITTEN
                && attempt.unique.load(Ordering::Relaxed) == unique
        };
        self.0.iter().find(is_it).map(Attempt::marks)
    }

    /// Frees the entries of former workers, except the last. Called before any thread of this
    /// worker uses the table.
    pub fn forget_old(&self) {
        let written = |attempt: &Attempt| attempt.state.load(Ordering::Acquire) == WRITTEN;
        let number = |attempt: &Attempt| attempt.unique.load(Ordering::Relaxed);
        let mut uniques: Vec<u64> =
            self.0.iter().filter(|attempt| written(attempt)).map(number).collect();
        uniques.sort_unstable();
        let first_kept = uniques.len().checked_sub(KEPT).map_or(0, |at| uniques[at]);
        for attempt in self.0 {
            if !written(attempt) || number(attempt) < first_kept {
                attempt.state.store(FREE, Ordering::Release);
            }
        }
    }
}
