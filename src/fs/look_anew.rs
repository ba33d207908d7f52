//! Has the kernel look files up anew whose modification time it does not know.
//!
//! With its writeback cache on, the kernel believes of a regular file no time but its own, whatever
//! it is told by GETATTR, and does not move it for writes that pass its cache by. It asks again only
//! for an inode that it has dropped. So, when a file that passes through was written and is closed
//! by all, the kernel is told to forget the name, and with it the inode.
//! Rejected: to do so while a program has the file open, as the inode then stays; and to set the
//! time through the own mount, as the daemon would wait for itself.
//!
//! Forgetting a name waits for the directory's lock, which a program holds while it waits for an
//! answer of ours: so on a thread of its own, for which nobody waits.

use std::io;
use std::sync::atomic::Ordering;

use crossbeam_channel::{Receiver, Sender, unbounded};

use super::Filesystem;
use super::nodes::Node;

/// Files to be looked up anew, by node id: each as often as it was closed after writes, so fewer
/// than requests were answered.
pub(super) struct LookAnew {
    sender: Sender<u64>,
    receiver: Receiver<u64>,
}

impl LookAnew {
    pub(super) fn new() -> LookAnew {
        let (sender, receiver) = unbounded();
        LookAnew { sender, receiver }
    }
}

impl Filesystem {
    /// Starts the thread; it lives as long as the process.
    pub(super) fn start_looking_anew(&self) -> io::Result<()> {
        let (me, ids) = (self.me.clone(), self.look_anew.receiver.clone());
        std::thread::Builder::new().name("names".into()).spawn(move || {
            for id in ids {
                let Some(filesystem) = me.upgrade() else { return };
                filesystem.forget_name(id);
            }
        })?;
        Ok(())
    }

    /// After RELEASE. The name is forgotten when nobody has the file open, soon.
    pub(super) fn look_anew_if_written(&self, node: &Node) {
        let Some(data) = node.data_if_any() else { return };
        if self.is_open(node) || !data.was_written_through.swap(false, Ordering::SeqCst) {
            return;
        }
        // The other end is here, too.
        let _ = self.look_anew.sender.send(node.id());
    }

    fn is_open(&self, node: &Node) -> bool {
        self.arena.nodes().open(node.slot) > 0
    }

    fn forget_name(&self, id: u64) {
        let Some(pages) = self.kernel_pages.get() else { return };
        let Ok(node) = self.node(id) else { return };
        let Some(data) = node.data_if_any() else { return };
        // Set before the look: who closes it after that sees it.
        data.was_written_through.store(true, Ordering::SeqCst);
        if self.is_open(&node) {
            return;
        }
        data.was_written_through.store(false, Ordering::SeqCst);
        let (parent, name) = self.arena.nodes().place(node.slot);
        pages.forget_name(parent, &name);
    }
}
