//! Reading directories: raw getdents64(2), so that the backing filesystem's own offsets reach the
//! programs and stay good after a restart.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use super::{retry, seek};

/// Fixed part of `struct linux_dirent64`: d_ino, d_off, d_reclen, d_type.
const HEADER_BYTES: usize = 19;

/// One entry, borrowed from the buffer it was read into.
#[derive(Clone, Copy, Debug)]
pub struct DirEntry<'a> {
    /// Inode number.
    pub ino: u64,
    /// Where to go on after it.
    pub next_offset: u64,
    /// `d_type`.
    pub kind: u8,
    /// Its name.
    pub name: &'a OsStr,
}

/// An open directory that is being read.
#[derive(Debug)]
pub struct DirReader {
    fd: OwnedFd,
    offset: u64,
}

impl DirReader {
    /// Reads from a descriptor opened with O_RDONLY.
    pub fn new(fd: OwnedFd) -> DirReader {
        DirReader { fd, offset: 0 }
    }

    /// Entries from `offset` on (0, or the `next_offset` of one read before), as many as fit into
    /// `buf`; none at the end. The position afterwards is that of the last entry *of the batch*:
    /// a caller that used fewer says so by the next offset it asks for. Errors: getdents64(2).
    pub fn next_batch<'a>(
        &mut self,
        offset: u64,
        buf: &'a mut [u8],
    ) -> io::Result<impl Iterator<Item = DirEntry<'a>> + use<'a>> {
        if offset != self.offset {
            seek(self.fd.as_fd(), offset as i64, libc::SEEK_SET)?;
            self.offset = offset;
        }
        let fd = self.fd.as_raw_fd();
        let (at, len) = (buf.as_mut_ptr(), buf.len());
        // SAFETY: writes at most the buffer's length.
        let len = retry(|| unsafe { libc::syscall(libc::SYS_getdents64, fd, at, len) })? as usize;
        let batch = &buf[..len];
        if let Some(last) = entries(batch).last() {
            self.offset = last.next_offset;
        }
        Ok(entries(batch))
    }
}

fn entries(batch: &[u8]) -> impl Iterator<Item = DirEntry<'_>> + use<'_> {
    let mut rest = batch;
    std::iter::from_fn(move || {
        let header = rest.get(..HEADER_BYTES)?;
        let word = |at: usize| header[at..at + 8].try_into().map(u64::from_ne_bytes).ok();
        let record_bytes = usize::from(u16::from_ne_bytes([header[16], header[17]]));
        let name = rest.get(HEADER_BYTES..record_bytes)?;
        let name = name.split(|byte| *byte == 0).next()?;
        let entry = DirEntry {
            ino: word(0)?,
            next_offset: word(8)?,
            kind: header[18],
            name: OsStr::from_bytes(name),
        };
        rest = &rest[record_bytes..];
        Some(entry)
    })
}
