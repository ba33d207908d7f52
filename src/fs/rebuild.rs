//! A new worker takes over what the former one left in the arena and in the descriptor table.
//!
//! Order: moves that were under way are settled, nodes are adopted with the descriptors that keep
//! them, then the segments. For a fresh mount all of it is empty.
//!
//! Nothing here waits for an engine that may hang: programs wait meanwhile.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Filesystem;
use super::nodes::Node;
use crate::arena::{Held, NodeSlot};
use crate::backing;
use crate::buffer::Slot;

impl Filesystem {
    pub(super) fn rebuild(&self, held: Held) -> io::Result<()> {
        self.arena.attempts().forget_old();
        let table = *self.arena.nodes();
        for slot in (0..table.high_water()).map(NodeSlot) {
            match table.identity(slot) {
                Some(identity) => {
                    let node = self.nodes.adopt(identity, slot);
                    self.adopt_descriptor(&node);
                }
                None => self.nodes.adopt_free(slot),
            }
        }
        self.remember_root()?;
        self.adopt_ballast()?;
        self.count_children();
        for (id, parent, name) in table.take_unfinished_moves() {
            self.settle_move(id, parent, name);
        }
        self.adopt_reservations();
        for (id, published) in held {
            let Ok(node) = self.node(id) else {
                log::error!("node {id} has buffered data but is not in the table; data dropped");
                let lost: Vec<Slot> = published.iter().map(|published| published.slot).collect();
                lost.iter().for_each(|slot| self.arena.unpublish(*slot));
                self.slots.give_back(lost);
                continue;
            };
            let data = self.data(&node)?;
            // What loses its last name is pinned first.
            let is_gone =
                |fd: Arc<OwnedFd>| backing::cached_attr(fd.as_fd()).map(|attr| attr.nlink == 0);
            let is_deleted = node.pinned().is_some_and(|fd| is_gone(fd).unwrap_or(false));
            let mut state = data.lock();
            state.deleted = is_deleted;
            published.iter().for_each(|published| self.charge(data, &state, published));
            let mut steps = Vec::new();
            state.buffer.restore(published, &mut steps);
            self.carry_out(&node, &state, &steps, &[]);
            self.backlog_bytes.fetch_add(state.buffer.dirty_bytes(), Ordering::Relaxed);
            self.tell_queue(&node, data, &state);
        }
        self.note_pressure(self.held_bytes());
        self.give_back_left();
        if !self.may_hang() {
            self.settle();
            return Ok(());
        }
        let me = self.arc();
        self.pool.run(move || me.settle());
        Ok(())
    }

    /// The former worker kept a descriptor for this node; it is still open, because keeper and
    /// workers share one descriptor table.
    fn adopt_descriptor(&self, node: &Arc<Node>) {
        let Some(raw) = self.arena.nodes().kept_fd(node.slot) else { return };
        // SAFETY: only looked at; a closed or foreign descriptor fails the check below.
        let borrowed = unsafe { BorrowedFd::borrow_raw(raw) };
        let is_ours = backing::cached_attr(borrowed)
            .is_ok_and(|attr| attr.dev == node.identity.dev && attr.ino == node.identity.ino);
        if is_ours {
            // SAFETY: the former worker owned it and is dead; nobody else owns it now.
            self.adopt_pin(node, unsafe { OwnedFd::from_raw_fd(raw) });
        } else {
            self.arena.nodes().set_kept_fd(node.slot, None);
        }
    }

    /// Blocks that a former worker allocated ahead are given back like its own.
    fn adopt_reservations(&self) {
        let nodes: Vec<Arc<Node>> = self.nodes.read().values().cloned().collect();
        for node in nodes {
            if self.arena.nodes().is_reserved(node.slot)
                && let Ok(data) = self.data(&node)
            {
                data.lock().reserved.is_any = true;
            }
        }
    }

    /// The former worker died while moving a node: it is at the new place if it is there. Where that
    /// cannot be asked without waiting, the request tells, which comes again.
    fn settle_move(&self, id: u64, parent: u64, name: OsString) {
        let Ok(node) = self.node(id) else { return };
        if self.engines.is_elsewhere(node.identity.dev) {
            return;
        }
        let there = self.directory(parent).and_then(|dir| self.identity_at(&dir, (parent, &name)));
        if there.is_ok_and(|mark| mark == Some((node.identity.dev, node.identity.ino))) {
            self.move_node(&node, parent, &name);
        }
    }

    /// Gives files their time whose last bytes are stored but whose time is not yet restored: at
    /// the end of the mount, and when a former worker died in between.
    pub fn settle(&self) {
        let nodes: Vec<Arc<Node>> = self.nodes.read().values().cloned().collect();
        for node in nodes {
            let table = self.arena.nodes();
            if node.is_regular()
                && (table.mtime(node.slot).is_some() || table.is_reserved(node.slot))
                && let Ok(data) = self.data(&node)
            {
                let mut state = data.lock();
                if table.open(node.slot) == 0 {
                    self.trim(&node, &mut state);
                }
                self.restore_times(&node, &mut state);
            }
        }
    }
}
