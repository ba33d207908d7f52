//! Counts what a decision looks at: comparisons in the queues, steps along them, and look-ups of
//! files. The counter is the thread's, so that tests do not count each other's.

use std::cell::Cell;
use std::cmp::Ordering;
use std::hash::{Hash, Hasher};

use crate::schedule::FileId;

thread_local! {
    static STEPS: Cell<u64> = const { Cell::new(0) };
}

/// One more step.
pub(in crate::schedule) fn note() {
    STEPS.set(STEPS.get() + 1);
}

/// Steps of this thread so far.
pub(super) fn taken() -> u64 {
    STEPS.get()
}

/// What is looked up in a hash table, or moved to a larger one.
impl Hash for FileId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        note();
        self.0.hash(state);
    }
}

/// What is looked up in a tree.
impl Ord for FileId {
    fn cmp(&self, other: &Self) -> Ordering {
        note();
        self.0.cmp(&other.0)
    }
}

impl PartialOrd for FileId {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
