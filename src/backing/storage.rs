//! What lanes write through: the kernel, or a test's stand-in for it.

use std::io::{self, IoSlice};
use std::os::fd::BorrowedFd;

use super::{
    allocate, copy_range, flush_range, is_elsewhere, set_size, settle_range, sync_all, sync_data,
    write_at,
};

/// How much of a file is to reach stable storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncKind {
    /// The bytes, and what is needed to read them: fdatasync(2).
    Data,
    /// Times and the like, too: fsync(2).
    All,
}

/// Everything that changes bytes of backing files or brings them to stable storage. May wait for
/// the disk.
pub trait Storage: Send + Sync {
    /// Writes bytes at an offset; may write less than given. Errors: pwritev(2).
    fn write_at(&self, file: BorrowedFd, bytes: &[IoSlice], offset: u64) -> io::Result<usize> {
        write_at(file, bytes, offset)
    }

    /// Brings a file to stable storage. Errors: fsync(2).
    fn sync(&self, file: BorrowedFd, kind: SyncKind) -> io::Result<()> {
        match kind {
            SyncKind::Data => sync_data(file),
            SyncKind::All => sync_all(file),
        }
    }

    /// Whether what keeps the file is no part of this machine: see [`is_elsewhere`].
    fn is_elsewhere(&self, file: BorrowedFd) -> bool {
        is_elsewhere(file)
    }

    /// Starts writing dirty pages out. Errors: sync_file_range(2).
    fn flush_range(&self, file: BorrowedFd, offset: u64, len: u64) -> io::Result<()> {
        flush_range(file, offset, len)
    }

    /// Writes dirty pages out and waits until the disk has taken them. They are not on stable
    /// storage then, but what is written later cannot get there before them: a filesystem with a
    /// journal flushes the disk's cache before it makes a new size durable. Errors:
    /// sync_file_range(2).
    fn settle_range(&self, file: BorrowedFd, offset: u64, len: u64) -> io::Result<()> {
        settle_range(file, offset, len)
    }

    /// Cuts or extends a file. Errors: ftruncate(2).
    fn set_size(&self, file: BorrowedFd, size: u64) -> io::Result<()> {
        set_size(file, size)
    }

    /// Allocates, zeroes or punches. Errors: fallocate(2).
    fn allocate(&self, file: BorrowedFd, mode: i32, offset: u64, len: u64) -> io::Result<()> {
        allocate(file, mode, offset, len)
    }

    /// Copies between files; may copy less. Errors: copy_file_range(2).
    fn copy_range(
        &self,
        (from, from_offset): (BorrowedFd, u64),
        (to, to_offset): (BorrowedFd, u64),
        len: usize,
    ) -> io::Result<usize> {
        copy_range(from, from_offset, to, to_offset, len, 0)
    }
}

/// The kernel's, unchanged.
#[derive(Clone, Copy, Debug, Default)]
pub struct KernelStorage;

impl Storage for KernelStorage {}
