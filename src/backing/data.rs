//! Bytes of open files.

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd};

use super::{errno, retry};

/// pwritev(2): may write less than given.
pub fn write_at(fd: BorrowedFd, bytes: &[IoSlice], offset: u64) -> io::Result<usize> {
    let (iov, count) = (bytes.as_ptr().cast(), bytes.len() as libc::c_int);
    // SAFETY: IoSlice has the layout of iovec, and the buffers outlive the call.
    let call = || unsafe { libc::pwritev(fd.as_raw_fd(), iov, count, offset as libc::off_t) };
    Ok(retry(call)? as usize)
}

/// Reads until `bytes` is full or the file ends; returns how many. Errors: pread(2).
pub fn read_at(fd: BorrowedFd, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < bytes.len() {
        let rest = &mut bytes[done..];
        let at = (offset + done as u64) as libc::off_t;
        // SAFETY: writes at most the rest's length.
        let call =
            || unsafe { libc::pread(fd.as_raw_fd(), rest.as_mut_ptr().cast(), rest.len(), at) };
        match retry(call)? {
            0 => break,
            count => done += count as usize,
        }
    }
    Ok(done)
}

/// As [`read_at`], but `None` where it would wait for the disk (RWF_NOWAIT, preadv2(2)), or where
/// the filesystem cannot tell.
pub fn try_read_at(fd: BorrowedFd, bytes: &mut [u8], offset: u64) -> io::Result<Option<usize>> {
    let mut done = 0;
    while done < bytes.len() {
        let rest = &mut bytes[done..];
        let iov = libc::iovec { iov_base: rest.as_mut_ptr().cast(), iov_len: rest.len() };
        let at = (offset + done as u64) as libc::off_t;
        // SAFETY: writes at most the rest's length.
        let call = || unsafe { libc::preadv2(fd.as_raw_fd(), &iov, 1, at, libc::RWF_NOWAIT) };
        match retry(call) {
            Ok(0) => break,
            Ok(count) => done += count as usize,
            Err(error) if matches!(errno(&error), libc::EAGAIN | libc::EOPNOTSUPP) => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(Some(done))
}

/// Cuts or extends a file open for writing. Errors: ftruncate(2).
pub fn set_size(fd: BorrowedFd, size: u64) -> io::Result<()> {
    // SAFETY: valid descriptor.
    retry(|| unsafe { libc::ftruncate(fd.as_raw_fd(), size as libc::off_t) }).map(drop)
}

/// fallocate(2), all its modes.
pub fn allocate(fd: BorrowedFd, mode: i32, offset: u64, len: u64) -> io::Result<()> {
    let (offset, len) = (offset as libc::off_t, len as libc::off_t);
    // SAFETY: valid descriptor.
    retry(|| unsafe { libc::fallocate(fd.as_raw_fd(), mode, offset, len) }).map(drop)
}

/// lseek(2), for SEEK_DATA and SEEK_HOLE: moves the descriptor's position, which nobody uses.
pub fn seek(fd: BorrowedFd, offset: i64, whence: i32) -> io::Result<i64> {
    // SAFETY: valid descriptor.
    retry(|| unsafe { libc::lseek(fd.as_raw_fd(), offset, whence) })
}

/// copy_file_range(2): may copy less than asked.
pub fn copy_range(
    from: BorrowedFd,
    from_offset: u64,
    to: BorrowedFd,
    to_offset: u64,
    len: usize,
    flags: u32,
) -> io::Result<usize> {
    let (mut from_at, mut to_at) = (from_offset as libc::loff_t, to_offset as libc::loff_t);
    let (from, to) = (from.as_raw_fd(), to.as_raw_fd());
    // SAFETY: valid descriptors and offsets of ours.
    let call =
        || unsafe { libc::copy_file_range(from, &raw mut from_at, to, &raw mut to_at, len, flags) };
    Ok(retry(call)? as usize)
}

/// fdatasync(2).
pub fn sync_data(fd: BorrowedFd) -> io::Result<()> {
    // SAFETY: valid descriptor.
    retry(|| unsafe { libc::fdatasync(fd.as_raw_fd()) }).map(drop)
}

/// fsync(2).
pub fn sync_all(fd: BorrowedFd) -> io::Result<()> {
    // SAFETY: valid descriptor.
    retry(|| unsafe { libc::fsync(fd.as_raw_fd()) }).map(drop)
}

/// syncfs(2): the whole filesystem a descriptor is on.
pub fn sync_filesystem(fd: BorrowedFd) -> io::Result<()> {
    // SAFETY: valid descriptor.
    retry(|| unsafe { libc::syncfs(fd.as_raw_fd()) }).map(drop)
}

/// Starts writing a range of dirty pages out, without promise: sync_file_range(2).
pub fn flush_range(fd: BorrowedFd, offset: u64, len: u64) -> io::Result<()> {
    sync_range(fd, offset, len, libc::SYNC_FILE_RANGE_WRITE)
}

/// Writes a range of dirty pages out and waits for it; not for the disk's own cache.
pub fn settle_range(fd: BorrowedFd, offset: u64, len: u64) -> io::Result<()> {
    let wait = libc::SYNC_FILE_RANGE_WAIT_BEFORE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    sync_range(fd, offset, len, wait | libc::SYNC_FILE_RANGE_WRITE)
}

fn sync_range(fd: BorrowedFd, offset: u64, len: u64, flags: libc::c_uint) -> io::Result<()> {
    let (offset, len) = (offset as libc::off64_t, len as libc::off64_t);
    // SAFETY: valid descriptor.
    retry(|| unsafe { libc::sync_file_range(fd.as_raw_fd(), offset, len, flags) }).map(drop)
}

const FS_IOC_FIEMAP: libc::c_ulong = 0xC020_660B;
const FIEMAP_FLAG_SYNC: u32 = 1;
/// The place is not known, or not yet.
const FIEMAP_EXTENT_UNKNOWN: u32 = 2;

/// The argument of FIEMAP, with room for one extent. See Documentation/filesystems/fiemap.rst.
#[repr(C)]
#[derive(Default)]
struct Fiemap {
    start: u64,
    length: u64,
    flags: u32,
    mapped_extents: u32,
    extent_count: u32,
    reserved: u32,
    extent: FiemapExtent,
}

#[repr(C)]
#[derive(Default)]
struct FiemapExtent {
    logical: u64,
    physical: u64,
    length: u64,
    reserved64: [u64; 2],
    flags: u32,
    reserved: [u32; 3],
}

fn fiemap(fd: BorrowedFd, mut map: Fiemap) -> io::Result<Fiemap> {
    // SAFETY: the structure the kernel expects, with room for as many extents as it says, or more.
    retry(|| unsafe { libc::ioctl(fd.as_raw_fd(), FS_IOC_FIEMAP as _, &raw mut map) })?;
    Ok(map)
}

/// Number of extents of a file, as FIEMAP counts them after syncing it. `EOPNOTSUPP` where the
/// filesystem has no such map (tmpfs).
pub fn extents(fd: BorrowedFd) -> io::Result<u32> {
    let whole = Fiemap { length: u64::MAX, flags: FIEMAP_FLAG_SYNC, ..Fiemap::default() };
    Ok(fiemap(fd, whole)?.mapped_extents)
}

/// Whether blocks may be allocated to a file beyond that of its last byte: it has them, or the
/// filesystem does not say.
pub fn may_have_blocks_past(fd: BorrowedFd, size: u64) -> bool {
    const BLOCK_BYTES: u64 = 4096;
    let start = size.next_multiple_of(BLOCK_BYTES);
    let rest = Fiemap { start, length: u64::MAX - start, ..Fiemap::default() };
    !fiemap(fd, rest).is_ok_and(|map| map.mapped_extents == 0)
}

/// Where on its device the byte at `offset` lies, in bytes, as far as the filesystem knows and says.
pub fn place_on_device(fd: BorrowedFd, offset: u64) -> Option<u64> {
    let one = Fiemap { start: offset, length: 1, extent_count: 1, ..Fiemap::default() };
    let map = fiemap(fd, one).ok()?;
    let extent = &map.extent;
    let is_known = map.mapped_extents == 1 && extent.flags & FIEMAP_EXTENT_UNKNOWN == 0;
    let within = offset.checked_sub(extent.logical)?;
    is_known.then(|| extent.physical + within)
}
