//! How each file is treated, by its path: [`Rules`](crate::config::rules::Rules) are asked when a
//! file is opened, and when it or a directory above it is renamed.
//!
//! Nothing of it has to survive a worker: the next one asks the same rules about the same path.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Filesystem;
use super::data::FileState;
use super::nodes::Node;
use crate::config::rules::{self, Treatment};
use crate::schedule::{FileId, Priority};

impl FileState {
    /// As the scheduler has it.
    pub(super) fn priority(&self) -> Priority {
        match self.treatment.priority {
            rules::Priority::Normal => Priority::Normal,
            rules::Priority::High => Priority::High,
        }
    }
}

impl Filesystem {
    /// Of the path by which the file was last found.
    pub(super) fn treatment(&self, node: &Node) -> Treatment {
        match self.rules.is_any() {
            true => self.rules.of(&self.path_of(node)),
            false => self.rules.others(),
        }
    }

    /// Whether an open file is not to be kept in the kernel's page cache: it cannot be read, or its
    /// writes are to reach the backing file at once.
    pub fn is_uncached(&self, id: u64) -> bool {
        self.is_write_only(id) || self.node(id).is_ok_and(|node| passes_through(&node))
    }

    /// Asks the rules about the path that the file has now. What is buffered of a file that is to be
    /// coalesced no more is written soon.
    pub(super) fn treat_anew(&self, node: &Node) {
        let Some(data) = node.data_if_any().filter(|_| self.rules.is_any()) else { return };
        let treatment = self.treatment(node);
        let mut state = data.lock();
        if state.treatment == treatment {
            return;
        }
        state.treatment = treatment;
        data.update_chunk(&mut state);
        data.passes_through.store(!treatment.coalesce, Ordering::Relaxed);
        self.tell_queue(node, data, &state);
        if !treatment.coalesce {
            data.queue.with(|scheduler| scheduler.demand(FileId(node.id())));
        }
    }

    /// After a rename: of the node, or of what is below it, which may be much.
    pub(super) fn treat_moved(&self, node: &Node) {
        if !self.rules.is_any() {
            return;
        }
        if node.is_regular() {
            return self.treat_anew(node);
        }
        let me = self.arc();
        self.pool.run(move || {
            let nodes: Vec<Arc<Node>> = me.nodes.read().values().cloned().collect();
            nodes.iter().for_each(|node| me.treat_anew(node));
        });
    }
}

/// Whether writes go to the backing file at once.
pub(super) fn passes_through(node: &Node) -> bool {
    node.data_if_any().is_some_and(|data| data.passes_through.load(Ordering::Relaxed))
}
