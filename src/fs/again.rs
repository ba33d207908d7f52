//! An engine's client that died. To what was opened through it the kernel answers `ENOTCONN` for ever,
//! and another client, mounted for the same engine, is another filesystem. The backing directory is
//! looked for in it, and the descriptor that everything starts from becomes one of that: what is
//! buffered goes where it would have gone.
//!
//! Looked for in the mount table, by type, source and directory, so that nothing else is taken for
//! it; and only when the client that was is dead. What is done through the daemon's names can be done
//! again; a file without a name is gone with its client.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::Filesystem;
use super::nodes::{Node, ROOT_ID};
use crate::backing;
use crate::clock::boottime_ms;

/// Between two looks.
const PAUSE_MS: u64 = 1000;

/// So many files are looked for before a directory is taken for another one.
const WITNESSES_MAX: usize = 64;

/// One look at a time.
#[derive(Default)]
pub(super) struct Again {
    is_looking: AtomicBool,
    /// On the clock of `boottime_ms`.
    next_ms: AtomicU64,
    /// Descriptors of the former client may have been opened while they were forgotten.
    may_be_left: AtomicBool,
}

impl Filesystem {
    /// An engine's client answered with this error: has it looked for if that means that it is dead,
    /// on a thread that may wait.
    pub(super) fn look_again_after(&self, code: i32) {
        let is_due = || boottime_ms() >= self.again.next_ms.load(Ordering::Relaxed);
        if code != libc::ENOTCONN || !is_due() {
            return;
        }
        if self.again.is_looking.swap(true, Ordering::AcqRel) {
            return;
        }
        let me = self.arc();
        self.on_askers(move || {
            if let Err(error) = me.look_again() {
                log::warn!("the backing directory cannot be used again: {error}");
            }
            me.again.next_ms.store(boottime_ms() + PAUSE_MS, Ordering::Relaxed);
            me.again.is_looking.store(false, Ordering::Release);
        });
    }

    /// Waits for the engine.
    fn look_again(&self) -> io::Result<()> {
        match backing::attr(self.root()) {
            // The client lives, and cannot reach its servers.
            Ok(_) => {
                if self.again.may_be_left.swap(false, Ordering::AcqRel) {
                    self.forget_all_descriptors();
                }
                return Ok(());
            }
            Err(error) if backing::errno(&error) == libc::ENOTCONN => {}
            Err(_) => return Ok(()),
        }
        let (lost, root) = (backing::cached_attr(self.root())?.dev, self.node(ROOT_ID)?);
        let is_it = |dir: BorrowedFd| self.is_backing(&root, dir).unwrap_or(false);
        let Some(found) = self.engines.open_again(lost, &is_it) else { return Ok(()) };
        if !self.nodes.numbers.are_of_names() {
            let now = backing::attr(found.as_fd())?.dev;
            self.nodes.numbers.device_became(root.identity.dev, now);
        }
        replace(self.root, found)?;
        self.again.may_be_left.store(true, Ordering::Release);
        self.forget_all_descriptors();
        self.forget_all_looks();
        log::warn!(
            "the client of {} died, and another one of the same engine is mounted: going on there",
            self.config.backing.display()
        );
        Ok(())
    }

    /// Whether a directory is the backing directory, by inode numbers. Every root of FUSE has the first
    /// one: there a file that is known has to be at its place. Where numbers are of names, the source
    /// that they were mounted from is all there is. Waits for the engine.
    fn is_backing(&self, root: &Node, dir: BorrowedFd) -> io::Result<bool> {
        if self.nodes.numbers.are_of_names() {
            return Ok(true);
        }
        let ino = backing::attr(dir)?.ino;
        if ino != root.identity.ino || ino != ROOT_ID {
            return Ok(ino == root.identity.ino);
        }
        let nodes: Vec<Arc<Node>> = self.nodes.read().values().cloned().collect();
        let named = nodes.iter().filter(|node| node.is_regular() && node.pinned().is_none());
        Ok(named.take(WITNESSES_MAX).any(|node| {
            inode_at(dir, &self.path_of(node)).is_ok_and(|ino| ino == node.identity.ino)
        }))
    }

    fn forget_all_descriptors(&self) {
        self.paths.clear();
        self.files.clear();
    }
}

/// Of what is at a path below, links not followed.
fn inode_at(root: BorrowedFd, path: &Path) -> io::Result<u64> {
    let mut at = root.try_clone_to_owned()?;
    for name in path {
        at = backing::open_path_at(at.as_fd(), name)?;
    }
    Ok(backing::attr(at.as_fd())?.ino)
}

/// Has a descriptor of the keeper's lead elsewhere, at once for all threads and for later workers.
///
/// What it led to stays open: as long as it is, its device number is given to nothing else.
fn replace(descriptor: RawFd, found: OwnedFd) -> io::Result<()> {
    // SAFETY: open as long as the process.
    let former = unsafe { BorrowedFd::borrow_raw(descriptor) };
    // SAFETY: reads the flags of a valid descriptor.
    let flags = unsafe { libc::fcntl(descriptor, libc::F_GETFD) };
    let closes = if flags & libc::FD_CLOEXEC != 0 { libc::O_CLOEXEC } else { 0 };
    std::mem::forget(former.try_clone_to_owned()?);
    // SAFETY: both are ours; whoever uses the former one meanwhile has the open file itself.
    match unsafe { libc::dup3(found.as_raw_fd(), descriptor, closes) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
