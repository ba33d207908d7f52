//! What lanes write through: the kernel, or a test's stand-in for it.

use std::io::{self, IoSlice};
use std::os::fd::BorrowedFd;

use super::{flush_range, sync_all, sync_data, write_at};

/// How much of a file is to reach stable storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncKind {
    /// The bytes, and what is needed to read them: fdatasync(2).
    Data,
    /// Times and the like, too: fsync(2).
    All,
}

/// Writing to backing files. May wait for the disk.
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

    /// Starts writing dirty pages out. Errors: sync_file_range(2).
    fn flush_range(&self, file: BorrowedFd, offset: u64, len: u64) -> io::Result<()> {
        flush_range(file, offset, len)
    }
}

/// The kernel's, unchanged.
#[derive(Clone, Copy, Debug, Default)]
pub struct KernelStorage;

impl Storage for KernelStorage {}
