//! The descriptors through which one backing file's bytes go: one buffered, one with O_DIRECT.
//!
//! The second is opened when the first large run is written; whether it works is probed once.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};

use crate::backing::{self, DirectIo, Storage};

/// What a descriptor may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// The normal case.
    ReadWrite,
    /// The file's mode or the mount forbids writing.
    ReadOnly,
    /// The file's mode forbids reading.
    WriteOnly,
}

/// What a descriptor is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Reading; writing if it can be had.
    Read,
    /// Writing; reading if it can be had.
    Write,
}

/// An open backing file.
#[derive(Debug)]
pub struct DataFile {
    fd: OwnedFd,
    access: Access,
    direct: OnceLock<Option<(OwnedFd, u64)>>,
    direct_refused: AtomicBool,
    is_elsewhere: OnceLock<bool>,
    /// Bytes may wait in the page cache of the backing filesystem. True at first: other descriptors
    /// may have brought some.
    has_cached: AtomicBool,
    /// The last error of settling them, until it is taken; 0 for none.
    lost_errno: AtomicI32,
}

impl DataFile {
    /// Wraps a descriptor of a regular file opened for `access`.
    pub fn new(fd: OwnedFd, access: Access) -> DataFile {
        DataFile {
            fd,
            access,
            direct: OnceLock::new(),
            direct_refused: AtomicBool::new(false),
            is_elsewhere: OnceLock::new(),
            has_cached: AtomicBool::new(true),
            lost_errno: AtomicI32::new(0),
        }
    }

    /// Opens the file that `path_fd` (O_PATH or not) stands for: for reading and writing where that
    /// is allowed, else for what `need` says, else for what is left. Works for unlinked files. A
    /// file whose mode forbids its own owner what is needed (he opened it before, or made it so) is
    /// opened by way of another mode. May wait for the disk. Errors: open(2).
    pub fn open(path_fd: BorrowedFd, need: Need) -> io::Result<DataFile> {
        let by_owner = || backing::reopen_as_owner(path_fd, libc::O_RDWR);
        let ways: [(&dyn Fn() -> io::Result<OwnedFd>, Access); 4] = match need {
            Need::Read => [
                (&|| backing::reopen(path_fd, libc::O_RDWR), Access::ReadWrite),
                (&|| backing::reopen(path_fd, libc::O_RDONLY), Access::ReadOnly),
                (&by_owner, Access::ReadWrite),
                (&|| backing::reopen(path_fd, libc::O_WRONLY), Access::WriteOnly),
            ],
            Need::Write => [
                (&|| backing::reopen(path_fd, libc::O_RDWR), Access::ReadWrite),
                (&by_owner, Access::ReadWrite),
                (&|| backing::reopen(path_fd, libc::O_WRONLY), Access::WriteOnly),
                (&|| backing::reopen(path_fd, libc::O_RDONLY), Access::ReadOnly),
            ],
        };
        let mut refusal = None;
        for (open, access) in ways {
            match open() {
                Ok(fd) => return Ok(DataFile::new(fd, access)),
                Err(error) if is_refusal(&error) => refusal = refusal.or(Some(error)),
                Err(error) => return Err(error),
            }
        }
        Err(refusal.unwrap_or_else(|| io::Error::from_raw_os_error(libc::EACCES)))
    }

    /// What it may be used for.
    pub fn access(&self) -> Access {
        self.access
    }

    /// Whether what keeps the file may die or be cut off without this machine: see
    /// [`backing::is_elsewhere`]. Asked once, and may wait then.
    pub fn is_elsewhere(&self, storage: &dyn Storage) -> bool {
        *self.is_elsewhere.get_or_init(|| storage.is_elsewhere(self.as_fd()))
    }

    /// The descriptor for O_DIRECT and the alignment it needs (of offset, length and memory), when
    /// the filesystem can do it.
    pub fn direct(&self) -> Option<(BorrowedFd<'_>, u64)> {
        if self.direct_refused.load(Ordering::Relaxed) || self.access != Access::ReadWrite {
            return None;
        }
        let probed = self.direct.get_or_init(|| match backing::probe_direct(self.fd.as_fd()) {
            (DirectIo::Aligned { memory, offset }, Some(fd)) => {
                Some((fd, u64::from(memory.max(offset))))
            }
            _ => None,
        });
        probed.as_ref().map(|(fd, align)| (fd.as_fd(), *align))
    }

    /// Something was changed by way of the backing filesystem's page cache.
    pub fn note_cached(&self) {
        self.has_cached.store(true, Ordering::Relaxed);
    }

    /// Whether bytes may wait in the page cache of the backing filesystem.
    pub fn has_cached(&self) -> bool {
        self.has_cached.load(Ordering::Relaxed)
    }

    /// Has the disk take what waits in the page cache before `end`. Waits for the disk. `Err` is
    /// the error of writing bytes that were reported stored before, see
    /// [`DataFile::take_lost`]: the backing filesystem gives them up.
    pub fn settle_before(&self, storage: &dyn Storage, end: u64) -> io::Result<()> {
        // Cleared first: what comes into the cache meanwhile is to be settled the next time.
        if end == 0 || !self.has_cached.swap(false, Ordering::Relaxed) {
            return Ok(());
        }
        storage.settle_range(self.as_fd(), 0, end).inspect_err(|error| {
            self.note_cached();
            self.lost_errno.store(backing::errno(error), Ordering::Relaxed);
        })
    }

    /// The error with which bytes were lost that had been reported stored, once.
    pub fn take_lost(&self) -> Option<i32> {
        Some(self.lost_errno.swap(0, Ordering::Relaxed)).filter(|errno| *errno != 0)
    }

    /// The filesystem refused a direct write after all: do without from now on.
    pub fn refuse_direct(&self) {
        self.direct_refused.store(true, Ordering::Relaxed);
    }
}

impl AsFd for DataFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// An error for which another way of opening may work.
fn is_refusal(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EACCES | libc::EPERM | libc::EROFS | libc::ETXTBSY))
}
