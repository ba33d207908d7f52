//! Disk space that is held by an unlinked file, to be let go when acknowledged bytes need it.
//!
//! The file has no name, so that nothing of it is left when the last process that has it open
//! ends, and after a crash the backing filesystem's own recovery frees it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use super::{allocate, cached_attr, retry, set_size};

/// It is allocated in pieces: btrfs frees only whole extents.
const PIECE_BYTES: u64 = 1 << 20;

/// An unlinked file with allocated blocks.
#[derive(Debug)]
pub struct Ballast {
    file: OwnedFd,
    len: u64,
}

impl Ballast {
    /// An empty one on the filesystem of `dir`. Errors: open(2) with O_TMPFILE; `EOPNOTSUPP` where
    /// the filesystem has no such files.
    pub fn create(dir: BorrowedFd) -> io::Result<Ballast> {
        let flags = libc::O_TMPFILE | libc::O_RDWR | libc::O_CLOEXEC;
        // SAFETY: valid descriptor and C string.
        let fd = retry(|| unsafe { libc::openat(dir.as_raw_fd(), c".".as_ptr(), flags, 0o600) })?;
        // SAFETY: a fresh descriptor of ours.
        Ok(Ballast { file: unsafe { OwnedFd::from_raw_fd(fd) }, len: 0 })
    }

    /// Takes over that of a former worker. `None` when the descriptor is something else.
    ///
    /// # Safety
    /// Nobody else may own the descriptor.
    pub unsafe fn adopt(fd: RawFd, dev: u64) -> Option<Ballast> {
        // SAFETY: only looked at; a closed or foreign descriptor fails the check.
        let found = cached_attr(unsafe { BorrowedFd::borrow_raw(fd) }).ok()?;
        let is_ballast =
            found.mode & libc::S_IFMT == libc::S_IFREG && found.nlink == 0 && found.dev == dev;
        // SAFETY: by the contract of this function.
        is_ballast.then(|| Ballast { file: unsafe { OwnedFd::from_raw_fd(fd) }, len: found.size })
    }

    /// Bytes held.
    pub fn held_bytes(&self) -> u64 {
        self.len
    }

    /// Holds more or less; less in whole MiB, rounded down. Takes up to most of a second on a full disk. When it grows, all of it or
    /// nothing. Errors: fallocate(2), ftruncate(2).
    pub fn resize(&mut self, len: u64) -> io::Result<()> {
        if len > self.len {
            self.grow(len).inspect_err(|_| {
                // What was allocated before it failed.
                let _ = set_size(self.file.as_fd(), self.len);
            })?;
            self.len = len;
        } else if len < self.len {
            let len = len / PIECE_BYTES * PIECE_BYTES;
            set_size(self.file.as_fd(), len)?;
            self.len = len;
        }
        Ok(())
    }

    fn grow(&self, len: u64) -> io::Result<()> {
        let mut at = self.len;
        while at < len {
            let end = ((at / PIECE_BYTES + 1) * PIECE_BYTES).min(len);
            allocate(self.file.as_fd(), 0, at, end - at)?;
            at = end;
        }
        Ok(())
    }
}

impl AsFd for Ballast {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
