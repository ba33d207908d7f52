//! What the kernel holds of files: told to drop it, and asked how much it is.

use std::ffi::OsStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use fuser::{INodeNo, Notifier};

use crate::backing;
use crate::fs::KernelPages;

/// By notifications, and by the names that the kernel has cached.
pub(super) struct Pages {
    pub(super) notifier: Arc<OnceLock<Notifier>>,
    pub(super) mountpoint: PathBuf,
}

impl KernelPages for Pages {
    fn drop_pages(&self, id: u64) {
        self.invalidate(id, 0);
    }

    fn forget_attributes(&self, id: u64) {
        // A negative offset: no pages.
        self.invalidate(id, -1);
    }

    fn forget_name(&self, parent: u64, name: &OsStr) {
        if let Some(notifier) = self.notifier.get()
            && let Err(error) = notifier.inval_entry(INodeNo(parent), name)
        {
            // ENOENT: it has forgotten the name.
            log::debug!("a name in node {parent}: {error}");
        }
    }

    fn size_bytes(&self, numbers: [u64; 3], path: &Path) -> Option<u64> {
        let file = open_by_name(&self.mountpoint.join(path), libc::RESOLVE_CACHED).ok()?;
        size_of_cached(&file, numbers)
    }

    fn look_up(&self, path: &Path) {
        if let Err(error) = open_by_name(&self.mountpoint.join(path), 0) {
            log::debug!("{}: its size in the kernel: {error}", path.display());
        }
    }
}

impl Pages {
    fn invalidate(&self, id: u64, offset: i64) {
        if let Some(notifier) = self.notifier.get()
            && let Err(error) = notifier.inval_inode(INodeNo(id), offset, 0)
        {
            // ENOENT: the kernel has forgotten the file.
            log::debug!("node {id}: what the kernel holds of it: {error}");
        }
    }
}

/// Opens, but not for its data. With `RESOLVE_CACHED` only what the kernel finds without asking
/// anybody, us least of all.
fn open_by_name(path: &Path, resolve: u64) -> io::Result<OwnedFd> {
    backing::open_without_links(path, libc::O_PATH | libc::O_NOFOLLOW, resolve)
}

/// The size that the kernel has of it, which it does not ask us for. `None`: it is another file,
/// since the name has a new one, or nothing is mounted there any more.
fn size_of_cached(file: &OwnedFd, numbers: [u64; 3]) -> Option<u64> {
    let mut buf = MaybeUninit::<libc::statx>::zeroed();
    let flags = libc::AT_EMPTY_PATH | libc::AT_STATX_DONT_SYNC;
    let mask = libc::STATX_SIZE | libc::STATX_INO;
    let (fd, at) = (file.as_raw_fd(), buf.as_mut_ptr());
    // SAFETY: writes one statx.
    let result = unsafe { libc::statx(fd, c"".as_ptr(), flags, mask, at) };
    // SAFETY: zeros, overwritten by the kernel.
    let found = unsafe { buf.assume_init() };
    (result == 0 && numbers.contains(&found.stx_ino)).then_some(found.stx_size)
}
