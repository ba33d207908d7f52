//! Descriptors that outlive what they lead to. A network filesystem that lost its connection, or
//! whose server began anew, may refuse for ever what was opened before (sshfs: EIO, NFS: ESTALE), and
//! take the same calls on a descriptor that is opened now.
//!
//! Nothing is hidden by it: what was written through the old descriptor and not synced is still in
//! memory (`drain::writer`).

use std::os::fd::AsFd;
use std::sync::Arc;

use super::Filesystem;
use super::nodes::Node;
use crate::drain::{Access, DataFile, Need};

/// Whether an error may be that of the descriptor and not of the file.
pub(super) fn may_be_of_descriptor(code: i32) -> bool {
    matches!(code, libc::EIO | libc::ESTALE | libc::ENOTCONN | libc::EBADF | libc::ECONNABORTED)
}

impl Filesystem {
    /// Opens the file anew after an error of a descriptor, where that may help. `None` when it does
    /// not, or cannot be opened now: what is open stays then. Waits for the backing filesystem.
    pub(super) fn reopened(&self, node: &Arc<Node>, code: i32) -> Option<Arc<DataFile>> {
        let old = self.data_file(node).ok()?;
        if !may_be_of_descriptor(code) || !old.is_elsewhere(&*self.storage) {
            return None;
        }
        let path = self.path_fd(node).ok()?;
        let file = DataFile::open(path.as_fd(), Need::Write).ok()?;
        // A right that was given up meanwhile is kept by what is open.
        if file.access() == Access::ReadOnly && old.access() != Access::ReadOnly {
            return None;
        }
        self.files.remove(node.id());
        Some(self.files.insert(node.id(), file))
    }
}
