//! What the requests have in common, and on which thread each is answered: on that which has read it
//! from the kernel, or, where what is below may hang, on one that may wait for it.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use fuser::{
    FopenFlags, Generation, INodeNo, InitFlags, KernelConfig, Notifier, ReplyDirectoryPlus,
};

use super::convert::{file_attr, ttl};
use crate::fs::{About, Answer, Caller, Filesystem, Listed, Question, Reply, is_virtual};

/// What every kernel takes of a READDIRPLUS: a page.
const PLUS_BYTES_MIN: usize = 4096;
/// No kernel takes more.
const PLUS_BYTES_MAX: usize = 1 << 20;

/// Asked for where the kernel has them. Without KILLPRIV_V2 the kernel looks an attribute up on
/// every write().
const WANTED: [InitFlags; 6] = [
    InitFlags::FUSE_HANDLE_KILLPRIV_V2,
    // The umask comes with the request: a default ACL stands above it.
    InitFlags::FUSE_DONT_MASK,
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_CACHE_SYMLINKS,
    InitFlags::FUSE_ASYNC_DIO,
    InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
];

/// Entries with their attributes: not where names are looked up each time all the same.
const PLUS: [InitFlags; 2] = [InitFlags::FUSE_DO_READDIRPLUS, InitFlags::FUSE_READDIRPLUS_AUTO];

#[derive(Clone)]
pub(super) struct Adapter {
    pub(super) fs: Arc<Filesystem>,
    pub(super) plus: Arc<PlusBytes>,
    /// There once the session is.
    pub(super) notifier: Arc<OnceLock<Notifier>>,
}

impl Adapter {
    pub(super) fn new(fs: Arc<Filesystem>, notifier: Arc<OnceLock<Notifier>>) -> Adapter {
        Adapter { fs, plus: Arc::new(PlusBytes::new()), notifier }
    }

    /// What INIT is answered.
    pub(super) fn negotiate(&self, config: &mut KernelConfig) {
        let limits = self.fs.limits();
        let mut wanted = WANTED.to_vec();
        if !self.fs.is_shared() {
            wanted.extend(PLUS);
        }
        if self.fs.uses_writeback_cache() {
            wanted.push(InitFlags::FUSE_WRITEBACK_CACHE);
        }
        if self.fs.has_acls() {
            wanted.push(InitFlags::FUSE_POSIX_ACL);
        }
        for flag in wanted {
            if config.add_capabilities(flag).is_err() {
                log::warn!("this kernel does not offer {flag:?}");
            }
        }
        // Within the kernel's bounds by construction; it lowers what it cannot do.
        let _ = config.set_max_write(limits.max_write_bytes);
        let _ = config.set_max_background(limits.max_background);
        // The kernel keeps the times of files that it caches: programs are not to see them change
        // when they are asked for below. A second is the most that it can do.
        let _ = config.set_time_granularity(self.fs.time_step().min(Duration::from_secs(1)));
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

    /// Answers a question: on this thread, or, where that may hang, as [`Filesystem::ask`] does. The
    /// virtual files need nothing of what is below.
    pub(super) fn ask<T: Answer>(
        &self,
        question: Question,
        attempt: impl Fn(&Filesystem, Caller, Reply<T>) + Send + Sync + 'static,
        reply: impl FnOnce(io::Result<T>) + Send + 'static,
    ) {
        self.fs.count_request();
        if !self.fs.may_hang() || is_virtual(question.id) {
            return attempt(&self.fs, question.caller, Box::new(reply));
        }
        let fs = self.fs.clone();
        self.fs.ask(question, move |caller, reply| attempt(&fs, caller, reply), reply);
    }

    /// The same, of an attempt that is over when it returns.
    pub(super) fn ask_now<T: Answer>(
        &self,
        question: Question,
        attempt: impl Fn(&Filesystem, Caller) -> io::Result<T> + Send + Sync + 'static,
        reply: impl FnOnce(io::Result<T>) + Send + 'static,
    ) {
        self.fs.count_request();
        if !self.fs.may_hang() || is_virtual(question.id) {
            return reply(attempt(&self.fs, question.caller));
        }
        let fs = self.fs.clone();
        self.fs.ask(question, move |caller, reply| reply(attempt(&fs, caller)), reply);
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

    /// Answers with as many entries as the reply takes.
    pub(super) fn reply_plus(&self, listed: Vec<Listed>, mut reply: ReplyDirectoryPlus) {
        let (mut taken, mut is_full) = (0, false);
        for one in listed {
            let attr = one.found.attr;
            is_full = is_full
                || reply.add(
                    INodeNo(attr.id),
                    one.entry.next_offset,
                    &one.entry.name,
                    &ttl(&attr),
                    &file_attr(&attr),
                    Generation(u64::from(one.found.generation)),
                );
            match is_full {
                true => self.fs.forget_listed(&one),
                false => taken += one.bytes(),
            }
        }
        self.plus.note(taken, is_full);
        reply.ok();
    }
}

/// How much the kernel takes of a READDIRPLUS, which the request does not tell: learned, since what
/// is looked up in vain costs a question each.
pub(super) struct PlusBytes {
    bytes: AtomicUsize,
    /// More was refused.
    is_most: AtomicBool,
}

impl PlusBytes {
    fn new() -> PlusBytes {
        PlusBytes { bytes: AtomicUsize::new(PLUS_BYTES_MIN), is_most: AtomicBool::new(false) }
    }

    /// What to look up for one.
    pub(super) fn get(&self) -> usize {
        self.bytes.load(Ordering::Relaxed)
    }

    fn note(&self, taken: usize, is_full: bool) {
        let bytes = self.get();
        let wanted = match is_full {
            true => taken,
            // It could have been more.
            false if taken > bytes / 4 * 3 && !self.is_most.load(Ordering::Relaxed) => bytes * 2,
            false => return,
        };
        self.is_most.fetch_or(is_full, Ordering::Relaxed);
        self.bytes.store(wanted.clamp(PLUS_BYTES_MIN, PLUS_BYTES_MAX), Ordering::Relaxed);
    }
}
