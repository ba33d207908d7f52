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
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::Filesystem;
use super::nodes::ROOT_ID;
use crate::backing;
use crate::clock::boottime_ms;

/// Between two looks.
const PAUSE_MS: u64 = 1000;

/// One look at a time.
#[derive(Default)]
pub(super) struct Again {
    is_looking: AtomicBool,
    /// On the clock of `boottime_ms`.
    next_ms: AtomicU64,
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
            // Something else below was meant, or what was opened before: that is opened anew.
            Ok(_) => return Ok(self.forget_all_descriptors()),
            Err(error) if backing::errno(&error) == libc::ENOTCONN => {}
            Err(_) => return Ok(()),
        }
        let lost = backing::cached_attr(self.root())?.dev;
        let Some(found) = self.engines.open_again(lost) else { return Ok(()) };
        let (now, met) = (backing::attr(found.as_fd())?, self.node(ROOT_ID)?);
        if !self.nodes.numbers.are_of_names() {
            if now.ino != met.identity.ino {
                log::warn!(
                    "the engine of {} is mounted again, but another directory is there now",
                    self.config.backing.display()
                );
                return Ok(());
            }
            self.nodes.numbers.device_became(met.identity.dev, now.dev);
        }
        replace(self.root, found)?;
        self.forget_all_descriptors();
        self.forget_all_looks();
        log::warn!(
            "the client of {} died, and another one of the same engine is mounted: going on there",
            self.config.backing.display()
        );
        Ok(())
    }

    fn forget_all_descriptors(&self) {
        self.paths.clear();
        self.files.clear();
    }
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
