//! What the requests have in common, and on which thread each is answered: on that which has read it
//! from the kernel, or, where what is below may hang, on one that may wait for it.

use std::io;
use std::sync::{Arc, OnceLock};

use fuser::{FopenFlags, Generation, INodeNo, Notifier, ReplyDirectoryPlus};

use super::convert::{file_attr, ttl};
use crate::fs::{Caller, DirectoryEntry, Filesystem, is_virtual};

/// What a request needs of what is below, where that may hang.
pub(super) enum About {
    Names,
    Bytes,
}

#[derive(Clone)]
pub(super) struct Adapter {
    pub(super) fs: Arc<Filesystem>,
    /// There once the session is.
    pub(super) notifier: Arc<OnceLock<Notifier>>,
}

impl Adapter {
    pub(super) fn new(fs: Arc<Filesystem>, notifier: Arc<OnceLock<Notifier>>) -> Adapter {
        Adapter { fs, notifier }
    }

    /// Where a node was last found, for messages.
    pub(super) fn path(&self, ino: INodeNo) -> String {
        self.fs.path_of_id(ino.0)
    }

    /// Set-id bits go with the write of somebody who may not keep them. The kernel leaves that to
    /// us, and would go on showing the mode it has.
    pub(super) fn privileges_killed(
        &self,
        ino: INodeNo,
        changed: io::Result<bool>,
    ) -> io::Result<()> {
        let changed = changed?;
        if let Some(notifier) = self.notifier.get().filter(|_| changed) {
            // A negative offset: attributes only.
            notifier.inval_inode(ino, -1, 0)?;
        }
        Ok(())
    }

    /// Answers a request: on this thread, or on one that may wait for what is below where that may
    /// hang. The virtual files need nothing of it.
    pub(super) fn answer(
        &self,
        ino: INodeNo,
        about: About,
        act: impl FnOnce(&Adapter) + Send + 'static,
    ) {
        self.fs.count_request();
        if !self.fs.may_hang() || is_virtual(ino.0) {
            return act(self);
        }
        let me = self.clone();
        match about {
            About::Names => self.fs.on_askers(move || act(&me)),
            About::Bytes => self.fs.on_pool(move || act(&me)),
        }
    }

    /// Whether the kernel is to keep pages of an open file.
    pub(super) fn cache_of(&self, id: u64) -> FopenFlags {
        if is_virtual(id) || self.fs.is_uncached(id) {
            return FopenFlags::FOPEN_DIRECT_IO;
        }
        match self.fs.keeps_pages(id) {
            true => FopenFlags::FOPEN_KEEP_CACHE,
            false => FopenFlags::empty(),
        }
    }

    /// Adds an entry with its attributes; `false` when the reply is full. The dot entries are not
    /// looked up: the kernel does not count them.
    pub(super) fn add_plus(
        &self,
        caller: Caller,
        dir: INodeNo,
        entry: &DirectoryEntry,
        reply: &mut ReplyDirectoryPlus,
    ) -> bool {
        let name = entry.name.as_os_str();
        let looked_up = match name.as_encoded_bytes() {
            b"." | b".." => self.fs.getattr(dir.0).ok().map(|attr| (attr, 0, false)),
            _ => {
                // Each entry is counted, also when the request comes again.
                let caller = Caller { is_repeated: false, ..caller };
                let entry = self.fs.lookup(caller, dir.0, name).ok();
                entry.map(|entry| (entry.attr, entry.generation, true))
            }
        };
        // Gone since the directory was read: left out, as a later read would.
        let Some((attr, generation, counted)) = looked_up else { return true };
        let generation = Generation(u64::from(generation));
        let full = reply.add(
            INodeNo(attr.id),
            entry.next_offset,
            name,
            ttl(&attr),
            &file_attr(&attr),
            generation,
        );
        if full && counted {
            self.fs.forget(attr.id, 1);
        }
        !full
    }
}
