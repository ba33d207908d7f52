//! The segment table: which file's bytes each slot holds, and the pool of free slots.
//!
//! An entry is written by the thread that holds the file's lock. The pool is the worker's own and
//! is rebuilt from the table; it hands out the slots used last first, so that a mount with little
//! to do touches little memory.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};

use super::Arena;
use crate::buffer::{Published, Slot};

const FREE: u32 = 0;
const USED: u32 = 1;

/// One line of the table.
#[repr(C, align(64))]
pub(super) struct SegmentEntry {
    node: AtomicU64,
    index: AtomicU64,
    seq: AtomicU64,
    born_ms: AtomicU64,
    /// `start << 32 | end`, in one word so that it is never half changed.
    range: AtomicU64,
    state: AtomicU32,
}

impl SegmentEntry {
    /// A new entry becomes visible by its state, a change of a visible one by its range: a merge
    /// keeps node and index, and `seq` only grows.
    pub(super) fn publish(&self, node: u64, published: &Published) {
        let range = u64::from(published.start) << 32 | u64::from(published.end);
        self.node.store(node, Ordering::Relaxed);
        self.index.store(published.index, Ordering::Relaxed);
        self.seq.store(published.seq, Ordering::Relaxed);
        self.born_ms.store(published.born_ms, Ordering::Relaxed);
        self.range.store(range, Ordering::Release);
        self.state.store(USED, Ordering::Release);
    }

    pub(super) fn unpublish(&self) {
        self.state.store(FREE, Ordering::Release);
    }

    pub(super) fn read(&self, slot: Slot) -> Option<(u64, Published)> {
        if self.state.load(Ordering::Acquire) != USED {
            return None;
        }
        let range = self.range.load(Ordering::Acquire);
        let published = Published {
            slot,
            index: self.index.load(Ordering::Relaxed),
            start: (range >> 32) as u32,
            end: range as u32,
            seq: self.seq.load(Ordering::Relaxed),
            born_ms: self.born_ms.load(Ordering::Relaxed),
        };
        Some((self.node.load(Ordering::Relaxed), published))
    }
}

/// The free slots.
#[derive(Debug)]
pub struct SlotPool {
    free: Mutex<Vec<Slot>>,
    held: AtomicUsize,
    total: usize,
}

/// What a former worker left, a node and its segments at a time.
pub type Held = std::collections::HashMap<u64, Vec<Published>>;

impl SlotPool {
    /// Reads the segment table: what is not held by a node is free.
    pub fn rebuild(arena: &Arena) -> (SlotPool, Held) {
        let mut free = Vec::with_capacity(arena.segments() as usize);
        let mut held = Held::new();
        for slot in (0..arena.segments()).rev().map(Slot) {
            match arena.published(slot) {
                Some((node, published)) => held.entry(node).or_default().push(published),
                None => free.push(slot),
            }
        }
        let total = arena.segments() as usize;
        let taken = total - free.len();
        (SlotPool { free: Mutex::new(free), held: AtomicUsize::new(taken), total }, held)
    }

    /// Takes `count` slots, or none when there are not enough. Never waits.
    pub fn try_take(&self, count: usize) -> Option<Vec<Slot>> {
        if count == 0 {
            return Some(Vec::new());
        }
        let mut free = self.free.lock().expect("no panics under this lock");
        let keep = free.len().checked_sub(count)?;
        let taken = free.split_off(keep);
        self.held.store(self.total - keep, Ordering::Relaxed);
        Some(taken)
    }

    /// Gives slots back.
    pub fn give_back(&self, slots: impl IntoIterator<Item = Slot>) {
        let mut free = self.free.lock().expect("no panics under this lock");
        free.extend(slots);
        self.held.store(self.total - free.len(), Ordering::Relaxed);
    }

    /// Slots that hold data.
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }
}
