//! Writes to files that are not coalesced: they go to the backing file within the request, and the
//! reply has the backing filesystem's own result.
//!
//! A thread of the pool waits for the disk. What was buffered of the file before its rule changed is
//! stored first, so that it cannot come after newer bytes.

use std::io::{self, IoSlice};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::nodes::Node;
use super::shared::Change;
use super::stable::Unsynced;
use super::{Filesystem, Reply, errno};
use crate::backing;

impl Filesystem {
    /// Writes at once. Replies with the bytes written: fewer than given only when an error came
    /// after them. Errors: pwrite(2); `ENOSPC` also for what `--min-free` or room held for buffered
    /// bytes leaves no space for.
    pub(super) fn write_through(
        &self,
        node: &Node,
        offset: u64,
        bytes: Vec<u8>,
        reply: Reply<u32>,
    ) {
        self.on_clean_file(node.id(), reply, move |me, node| me.store_now(node, offset, &bytes));
    }

    fn store_now(&self, node: &Arc<Node>, offset: u64, bytes: &[u8]) -> io::Result<u32> {
        let file = self.writable_file(node)?;
        let data = self.data(node)?;
        let end = offset.saturating_add(bytes.len() as u64);
        let size = backing::attr((*file).as_fd())?.size;
        // No more than is written: what is before may be a hole.
        let growth_bytes = end.saturating_sub(size).min(bytes.len() as u64);
        if growth_bytes > 0 && !data.space.leaves_free((*file).as_fd(), growth_bytes) {
            return Err(errno(libc::ENOSPC));
        }
        // A time that was noted before would be set after these bytes.
        self.settle_times(node);
        self.begin_change(node);
        let mut written = 0;
        let result = loop {
            if written == bytes.len() {
                break Ok(());
            }
            let rest = [IoSlice::new(&bytes[written..])];
            match self.storage.write_at((*file).as_fd(), &rest, offset + written as u64) {
                Ok(0) => break Err(errno(libc::EIO)),
                Ok(count) => written += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Err(error),
            }
        };
        self.end_change(node, Change::Any);
        if written > 0 {
            file.note_cached();
            node.note_seen(None);
            if self.uses_writeback_cache() {
                data.was_written_through.store(true, Ordering::Relaxed);
            }
            let mut state = data.lock();
            state.stored_end = state.stored_end.max(offset + written as u64);
            state.stability.note(Unsynced::Data);
        }
        match result {
            Err(error) if written == 0 => Err(error),
            _ => Ok(written as u32),
        }
    }
}
