//! Writes one run: the aligned middle with O_DIRECT straight from the arena, what is left at either
//! end, and everything small, through the page cache.
//!
//! Short writes go on where they stopped. A run is written again as a whole after an error, which
//! is harmless: the bytes are the same.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd};

use super::{DataFile, Run};
use crate::arena::Arena;
use crate::backing::{Storage, errno};

/// Below this, O_DIRECT costs more in waiting for the device than the copy it saves.
const DIRECT_MIN_BYTES: u64 = 256 << 10;
/// Most buffers in one pwritev(2): IOV_MAX on Linux.
const IOV_MAX: usize = 1024;

/// What it took to write a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// System calls that wrote.
    pub calls: u64,
    /// Bytes written with O_DIRECT.
    pub direct_bytes: u64,
}

/// Writes `run`. Waits for the disk. `Err` is the first error of pwritev(2); `EIO` when the
/// backing file takes no bytes without saying why.
pub fn write_run(storage: &dyn Storage, arena: &Arena, run: &Run) -> io::Result<Written> {
    let slices: Vec<&[u8]> =
        run.pieces.iter().map(|piece| arena.in_flight(piece.slot, piece.at, piece.len)).collect();
    let mut written = Written::default();
    let end = run.offset + run.len;
    let (direct_from, direct_to) = direct_part(&run.data_file, run.offset, end);
    let buffered = run.data_file.as_fd();
    let mut writer = Writer { storage, slices: &slices, start: run.offset, written: &mut written };
    if direct_from < direct_to {
        writer.write(buffered, run.offset, direct_from)?;
        writer.write_direct(&run.data_file, direct_from, direct_to)?;
        writer.write(buffered, direct_to, end)?;
    } else {
        writer.write(buffered, run.offset, end)?;
        if run.len >= DIRECT_MIN_BYTES {
            // Keeps dirty pages of the backing filesystem from piling up behind our back.
            storage.flush_range(buffered, run.offset, run.len)?;
        }
    }
    Ok(written)
}

/// The part of `[from, to)` to be written with O_DIRECT; empty when there is none.
fn direct_part(file: &DataFile, from: u64, to: u64) -> (u64, u64) {
    if to - from < DIRECT_MIN_BYTES {
        return (to, to);
    }
    let Some((_, align)) = file.direct() else {
        return (to, to);
    };
    let (first, last) = (from.next_multiple_of(align), to - to % align);
    if first < last { (first, last) } else { (to, to) }
}

struct Writer<'a> {
    storage: &'a dyn Storage,
    slices: &'a [&'a [u8]],
    start: u64,
    written: &'a mut Written,
}

impl Writer<'_> {
    fn write(&mut self, fd: BorrowedFd, from: u64, to: u64) -> io::Result<()> {
        let mut at = from;
        while at < to {
            let iov = slices_of(self.slices, at - self.start, to - at);
            match self.storage.write_at(fd, &iov, at) {
                Ok(0) => return Err(io::Error::from_raw_os_error(libc::EIO)),
                Ok(count) => {
                    self.written.calls += 1;
                    at += count as u64;
                }
                Err(error) if matches!(errno(&error), libc::EINTR | libc::EAGAIN) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Falls back to the page cache when the filesystem refuses the direct write.
    fn write_direct(&mut self, file: &DataFile, from: u64, to: u64) -> io::Result<()> {
        let Some((fd, align)) = file.direct() else {
            return self.write(file.as_fd(), from, to);
        };
        let mut at = from;
        while at < to {
            let iov = slices_of(self.slices, at - self.start, to - at);
            match self.storage.write_at(fd, &iov, at) {
                Ok(count) if count > 0 && (count as u64).is_multiple_of(align) => {
                    self.written.calls += 1;
                    self.written.direct_bytes += count as u64;
                    at += count as u64;
                }
                // A short direct write that is not aligned cannot be continued directly.
                Ok(_) => break,
                Err(error) if matches!(errno(&error), libc::EINTR | libc::EAGAIN) => {}
                Err(error) if matches!(errno(&error), libc::EINVAL | libc::EOPNOTSUPP) => {
                    file.refuse_direct();
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        self.write(file.as_fd(), at, to)
    }
}

/// The buffers that make up `len` bytes from `skip` on.
fn slices_of<'a>(slices: &[&'a [u8]], mut skip: u64, mut len: u64) -> Vec<IoSlice<'a>> {
    let mut out = Vec::with_capacity(slices.len().min(IOV_MAX));
    for slice in slices {
        let slice_len = slice.len() as u64;
        if skip >= slice_len {
            skip -= slice_len;
            continue;
        }
        let take = (slice_len - skip).min(len);
        out.push(IoSlice::new(&slice[skip as usize..(skip + take) as usize]));
        skip = 0;
        len -= take;
        if len == 0 || out.len() == IOV_MAX {
            break;
        }
    }
    out
}
