//! Writes one run: whole blocks with O_DIRECT straight from the arena where that pays or the file
//! grows, the rest through the page cache.
//!
//! A file grows in the order of its bytes: before bytes of another block are written past its end,
//! those before them have been taken by the disk. A filesystem with a journal makes a new size
//! durable only after the disk has flushed what it took before, so after a power loss the file ends
//! somewhere in what was written, and nothing is missing before that. Two facts of ext4 and XFS
//! decide how: a direct write moves the size when the disk has taken the bytes, while the page
//! cache is written out in any order, and ext4 moves the size when it *begins* to write a page out
//! (mpage_map_and_submit_extent) or even when the bytes come into the last block
//! (ext4_da_should_update_i_disksize). So no more than a block at a time grows through the page
//! cache.
//!
//! Where what keeps the file is another process or another machine (network filesystems, FUSE), a
//! write that succeeded says little: the bytes may wait in a client that dies, or is cut off. There
//! a run is stored when it is synced; until then its bytes stay in memory, and are written again.
//! One that adds up sizes from writes gets the last byte of a run first ([`Run::is_end_first`]), against
//! the order: its own sizes would be wrong otherwise, and for good.
//!
//! Short writes go on where they stopped. A run is written again as a whole after an error, which
//! is harmless: the bytes are the same.

use std::io::{self, IoSlice};
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};

use super::{DataFile, Run};
use crate::arena::Arena;
use crate::backing::{self, Attr, Storage, SyncKind, copies_on_write, errno};

/// Below this, O_DIRECT costs more in waiting for the device than the copy it saves.
const DIRECT_MIN_BYTES: u64 = 256 << 10;
/// What blocks of filesystems have at least and at most.
const BLOCK_BYTES: Range<u64> = 4 << 10..64 << 10;
/// What an engine's client sends as one write, beside which there is none.
const ONE_WRITE_BYTES: u64 = 128 << 10;
/// Most buffers in one pwritev(2): IOV_MAX on Linux.
const IOV_MAX: usize = 1024;

/// What it took to write a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// System calls that wrote.
    pub calls: u64,
    /// Bytes written with O_DIRECT.
    pub direct_bytes: u64,
    /// The bytes are on stable storage, as fdatasync(2) has it.
    pub is_synced: bool,
}

/// Writes `run`. Waits for the disk. `Err` is the first error of pwritev(2) or fdatasync(2); `EIO`
/// when the backing file takes no bytes without saying why.
pub fn write_run(storage: &dyn Storage, arena: &Arena, run: &Run) -> io::Result<Written> {
    let slices: Vec<&[u8]> =
        run.pieces.iter().map(|piece| arena.in_flight(piece.slot, piece.at, piece.len)).collect();
    let mut written = Written::default();
    let (file, end) = (&*run.data_file, run.offset + run.len);
    let mut writer =
        Writer { storage, file, slices: &slices, start: run.offset, written: &mut written };
    let attr = backing::attr(file.as_fd())?;
    if end > attr.size {
        if run.is_end_first && end - attr.size > ONE_WRITE_BYTES {
            writer.reach(end)?;
        }
        writer.grow(run.offset, end, block_bytes(&attr))?;
    } else {
        writer.replace(run.offset, end)?;
    }
    if file.is_elsewhere(storage) {
        storage.sync(file.as_fd(), SyncKind::Data)?;
        written.is_synced = true;
    }
    Ok(written)
}

/// Bytes that the backing filesystem writes as one.
fn block_bytes(attr: &Attr) -> u64 {
    let told = u64::from(attr.blksize);
    if told.is_power_of_two() {
        told.clamp(BLOCK_BYTES.start, BLOCK_BYTES.end)
    } else {
        BLOCK_BYTES.start
    }
}

/// Where the whole units of `[from, to)` begin and end; both `to` where there is none to begin.
fn whole_units(from: u64, to: u64, unit: u64) -> (u64, u64) {
    let first = from.next_multiple_of(unit).min(to);
    (first, first.max(to - to % unit))
}

/// Whether a run of so many bytes up to `end` ends with a part of a block, which makes its way to the
/// disk by itself when the bytes before it are there. That of a small run waits in the page cache; so
/// does any where blocks are copied on write, as it would take another block when it is filled up.
pub(super) fn writes_tail(file: &DataFile, end: u64, len: u64) -> bool {
    len >= DIRECT_MIN_BYTES
        && !end.is_multiple_of(BLOCK_BYTES.start)
        && !copies_on_write(file.as_fd())
}

struct Writer<'a> {
    storage: &'a dyn Storage,
    file: &'a DataFile,
    slices: &'a [&'a [u8]],
    start: u64,
    written: &'a mut Written,
}

impl Writer<'_> {
    /// Writes within the file as it is.
    fn replace(&mut self, from: u64, to: u64) -> io::Result<()> {
        // Small writes do without a second descriptor.
        let is_large = to - from >= DIRECT_MIN_BYTES;
        let Some((_, align)) = is_large.then(|| self.file.direct()).flatten() else {
            self.write_cached(from, to)?;
            return self.flush(from, to);
        };
        let (first, last) = whole_units(from, to, align);
        self.write_cached(from, first)?;
        self.write_direct(first, last)?;
        self.write_cached(last, to)
    }

    /// Makes the file so long by its last byte. Rejected: ftruncate(2), which would cut off what
    /// another node appends in this moment; fallocate(2), which GlusterFS does not answer for a shard
    /// whose former ones are missing.
    fn reach(&mut self, end: u64) -> io::Result<()> {
        self.write_cached(end - 1, end)?;
        self.storage.sync(self.file.as_fd(), SyncKind::Data)
    }

    /// Writes past the end of the file, in the order of the bytes.
    fn grow(&mut self, from: u64, to: u64, block_bytes: u64) -> io::Result<()> {
        let (first, last) = whole_units(from, to, block_bytes);
        // Small files do without a second descriptor.
        let direct = if first < last { self.file.direct() } else { None };
        let align = direct.map_or(block_bytes, |(_, align)| align.max(block_bytes));
        let (first, last) = whole_units(from, to, align);
        self.file.settle_before(self.storage, from - from % align)?;
        self.write_cached(from, first)?;
        if first == to {
            return self.storage.flush_range(self.file.as_fd(), from, to - from);
        }
        self.file.settle_before(self.storage, first)?;
        self.write_direct(first, last)?;
        self.flush(first, last)?;
        if last < to {
            self.file.settle_before(self.storage, last)?;
        }
        self.write_cached(last, to)?;
        if last < to && writes_tail(self.file, to, to - from) {
            // While the disk is there: it would have to come back for it, for each file.
            self.storage.flush_range(self.file.as_fd(), last, to - last)?;
        }
        Ok(())
    }

    /// Keeps dirty pages of the backing filesystem from piling up behind our back, when there are
    /// many.
    fn flush(&self, from: u64, to: u64) -> io::Result<()> {
        if to - from < DIRECT_MIN_BYTES || !self.file.has_cached() {
            return Ok(());
        }
        self.storage.flush_range(self.file.as_fd(), from, to - from)
    }

    fn write_cached(&mut self, from: u64, to: u64) -> io::Result<()> {
        if from == to {
            return Ok(());
        }
        let written = self.write(self.file.as_fd(), from, to);
        self.file.note_cached();
        written
    }

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

    /// Falls back to the page cache when the filesystem refuses the direct write, or has none.
    fn write_direct(&mut self, from: u64, to: u64) -> io::Result<()> {
        if from == to {
            return Ok(());
        }
        let Some((fd, align)) = self.file.direct() else {
            return self.write_cached(from, to);
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
                    self.file.refuse_direct();
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        self.write_cached(at, to)
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
