//! The descriptors through which one backing file's bytes go: one buffered, one with O_DIRECT.
//!
//! The second is opened when the first large run is written; whether it works is probed once.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::backing::{self, DirectIo};

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

/// An open backing file.
#[derive(Debug)]
pub struct DataFile {
    fd: OwnedFd,
    access: Access,
    direct: OnceLock<Option<(OwnedFd, u64)>>,
    direct_refused: AtomicBool,
}

impl DataFile {
    /// Wraps a descriptor of a regular file opened for `access`.
    pub fn new(fd: OwnedFd, access: Access) -> DataFile {
        DataFile { fd, access, direct: OnceLock::new(), direct_refused: AtomicBool::new(false) }
    }

    /// Opens the file that `path_fd` (O_PATH or not) stands for, read-write where that is allowed,
    /// else for what is. Works for unlinked files. May wait for the disk. Errors: open(2).
    pub fn open(path_fd: BorrowedFd) -> io::Result<DataFile> {
        let refused = |error: &io::Error| {
            matches!(
                error.raw_os_error(),
                Some(libc::EACCES | libc::EPERM | libc::EROFS | libc::ETXTBSY)
            )
        };
        match backing::reopen(path_fd, libc::O_RDWR) {
            Ok(fd) => return Ok(DataFile::new(fd, Access::ReadWrite)),
            Err(error) if refused(&error) => {}
            Err(error) => return Err(error),
        }
        match backing::reopen(path_fd, libc::O_RDONLY) {
            Ok(fd) => Ok(DataFile::new(fd, Access::ReadOnly)),
            Err(error) if refused(&error) => {
                let fd = backing::reopen(path_fd, libc::O_WRONLY)?;
                Ok(DataFile::new(fd, Access::WriteOnly))
            }
            Err(error) => Err(error),
        }
    }

    /// A second descriptor of a file that is already open for reading and writing; `None` when
    /// `fd` is not.
    pub fn from_open(fd: BorrowedFd) -> Option<DataFile> {
        let is_read_write = backing::open_flags(fd)
            .is_ok_and(|flags| flags & (libc::O_ACCMODE | libc::O_PATH) == libc::O_RDWR);
        let fd = is_read_write.then(|| fd.try_clone_to_owned().ok()).flatten()?;
        Some(DataFile::new(fd, Access::ReadWrite))
    }

    /// What it may be used for.
    pub fn access(&self) -> Access {
        self.access
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
