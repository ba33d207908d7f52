//! Giving up what of a file is not stored, because the user says so: the file is then what the
//! backing filesystem has.
//!
//! What the kernel has not handed over yet is fetched first, so that it goes, too, and its pages
//! are dropped afterwards, so that readers see the disk. Who waits for the bytes (fsync, parked
//! writes) is answered with the error, and each open handle hears of it once. What a program writes
//! meanwhile is new, and stays.
//!
//! With its writeback cache on the kernel believes no size but its own. So the command line cuts
//! the file, through the mount, to the size that it is told; that request changes nothing below.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::data::FileState;
use super::nodes::Node;
use super::quiet::Until;
use super::report::in_bytes;
use super::stable::Unsynced;
use super::{Filesystem, Reply, errno};
use crate::control::protocol::GivenUp;
use crate::schedule::FileId;

/// The kernel's copy of a file's pages.
pub trait KernelPages: Send + Sync {
    /// Has the kernel hand over what was written, and forget the pages. Waits until other threads
    /// have answered its requests.
    fn drop_pages(&self, id: u64);

    /// Has the kernel ask for the file's attributes before the next write(2). May wait as above.
    fn forget_attributes(&self, id: u64);

    /// The file's size as the kernel has it, with what was written and has not been handed over.
    /// `None` where that cannot be known without waiting; after [`KernelPages::look_up`] it may be.
    /// Never waits. `path` is below the mountpoint; `numbers` are the inode numbers that it may show.
    fn size_bytes(&self, numbers: [u64; 3], path: &Path) -> Option<u64>;

    /// Has the kernel look the path up, and remember what it finds. Waits until other threads have
    /// answered its requests.
    fn look_up(&self, path: &Path);

    /// Has the kernel look the name up before it uses it again, and forget a file that nobody has
    /// open. Waits until the directory's other requests have been answered.
    fn forget_name(&self, parent: u64, name: &OsStr);
}

/// Which files may be given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GiveUp {
    /// Those that cannot be written.
    Failing,
    /// Also those with which nothing is wrong.
    Any,
}

impl Filesystem {
    /// Who is to be told to drop pages. Without, there are none.
    pub fn set_kernel_pages(&self, pages: Box<dyn KernelPages>) {
        // The first one is the only one.
        let _ = self.kernel_pages.set(pages);
    }

    /// Gives up what of the file is not stored. Waits for the kernel, so not on a thread that
    /// answers requests; the reply waits for bytes that are on their way to the disk, for as long
    /// as the disk hangs. Errors: `ESTALE` and `EINVAL` for what is no known regular file, `ENODATA`
    /// when nothing is wrong with it and `how` asks for that.
    pub fn give_up(&self, id: u64, how: GiveUp, reply: Reply<GivenUp>) {
        let found = self.node(id).and_then(|node| {
            let is_wrong =
                |state: &FileState| state.failure.is_some() || state.stability.has_listed_loss();
            if how == GiveUp::Failing && !is_wrong(&self.data(&node)?.lock()) {
                return Err(errno(libc::ENODATA));
            }
            self.data(&node)?;
            Ok(node)
        });
        let node = match found {
            Ok(node) => node,
            Err(error) => return reply(Err(error)),
        };
        self.drop_pages(id);
        let Some(data) = node.data_if_any() else { return reply(Err(errno(libc::EINVAL))) };
        self.raise_barrier(&node, data, &mut data.lock());
        let me = self.arc();
        let file = node.clone();
        self.when_quiet(&node, Until::Idle, move |_| {
            let given_up = me.drop_bytes(&file);
            // On the pool: the kernel may have to ask other threads of ours.
            let filesystem = me.clone();
            me.pool.run(move || {
                filesystem.drop_pages(file.id());
                reply(given_up);
            });
        });
    }

    pub(super) fn drop_pages(&self, id: u64) {
        if let (Some(pages), Ok(node)) = (self.kernel_pages.get(), self.node(id)) {
            pages.drop_pages(self.kernel_id(&node));
        }
    }

    /// Drops what is buffered. Behind a barrier, with nothing in flight; lowers the barrier.
    fn drop_bytes(&self, node: &Arc<Node>) -> std::io::Result<GivenUp> {
        let data = self.data(node)?;
        // Asked before the lock is taken: it may wait for the disk.
        let attr = self.backing_attr(node);
        let mut state = data.lock();
        let ranges = state.unstored();
        let bytes = state.buffer.dirty_bytes();
        let former = state.stability.loss.map(|loss| loss.errno);
        let code = state.failure.as_ref().map(|f| f.errno).or(former).unwrap_or(libc::EIO);
        let mut steps = Vec::new();
        state.buffer.truncate(0, &mut steps);
        self.carry_out(node, &state, &steps, &[]);
        self.backlog_bytes.fetch_sub(bytes, Ordering::Relaxed);
        let size = attr.as_ref().map_or(0, |attr| attr.size);
        state.stored_end = 0;
        state.cut_to = Some(size);
        state.failure = None;
        state.note_given_up(code);
        state.stability.note(Unsynced::Data);
        self.forget_failing(node, &state);
        let path = self.display_path(node);
        log::warn!("{bytes} bytes of {path} are given up: {}", errno(code));
        self.release_waiters(&mut state, Some(code));
        self.lower_barrier(node, data, &mut state);
        drop(state);
        self.refuse_parked(FileId(node.id()), code);
        data.queue.wake_all();
        self.room_made(0);
        attr.map(|_| GivenUp {
            path: self.path_of(node),
            bytes,
            ranges: ranges.iter().map(in_bytes).collect(),
            size,
            errno: code,
        })
    }

    /// Whether a request to cut the file only has the kernel take over the size that is left after
    /// its bytes were given up. `EBUSY` when the file was written meanwhile: those bytes are to stay.
    pub(super) fn is_cut_already(&self, node: &Node, size: u64) -> std::io::Result<bool> {
        let Some(data) = node.data_if_any() else { return Ok(false) };
        let mut state = data.lock();
        if state.cut_to != Some(size) {
            return Ok(false);
        }
        if state.end() > size {
            return Err(errno(libc::EBUSY));
        }
        state.cut_to = None;
        Ok(true)
    }
}
