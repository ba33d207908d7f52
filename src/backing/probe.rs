//! What the backing filesystem can do.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use serde::{Deserialize, Serialize};

use super::{reopen, retry, seek};

/// Taken where the filesystem opens a file with O_DIRECT but does not say what it needs.
const ALIGNMENT_ASSUMED: u32 = 4096;

/// Whether O_DIRECT works for a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DirectIo {
    /// With these alignments, in bytes, of memory, and of offset and length.
    Aligned {
        /// Of addresses.
        memory: u32,
        /// Of file offsets and lengths.
        offset: u32,
    },
    /// Not at all.
    Unsupported,
}

/// Finds out whether a regular file that is open for reading and writing can be written with
/// O_DIRECT, and opens it so. statx(2) tells the alignment since Linux 6.1 on some filesystems;
/// on others 4096 is taken, and a write may still be refused with `EINVAL`.
pub fn probe_direct(fd: BorrowedFd) -> (DirectIo, Option<OwnedFd>) {
    let (memory, offset) = match reported_alignment(fd) {
        Ok(Some((0, _) | (_, 0))) => return (DirectIo::Unsupported, None),
        Ok(Some(alignments)) => alignments,
        Ok(None) | Err(_) => (ALIGNMENT_ASSUMED, ALIGNMENT_ASSUMED),
    };
    match reopen(fd, libc::O_RDWR | libc::O_DIRECT) {
        Ok(direct) => (DirectIo::Aligned { memory, offset }, Some(direct)),
        Err(_) => (DirectIo::Unsupported, None),
    }
}

/// `None` when the filesystem does not say; zeros when it says that it cannot.
fn reported_alignment(fd: BorrowedFd) -> io::Result<Option<(u32, u32)>> {
    let mut buf = MaybeUninit::<libc::statx>::zeroed();
    let (at, mask) = (buf.as_mut_ptr(), libc::STATX_DIOALIGN);
    // SAFETY: writes one statx.
    let call =
        || unsafe { libc::statx(fd.as_raw_fd(), c"".as_ptr(), libc::AT_EMPTY_PATH, mask, at) };
    retry(call)?;
    // SAFETY: filled by the call, and zeroed before.
    let statx = unsafe { buf.assume_init() };
    let is_reported = statx.stx_mask & libc::STATX_DIOALIGN != 0;
    Ok(is_reported.then_some((statx.stx_dio_mem_align, statx.stx_dio_offset_align)))
}

/// Filesystems of another process or another machine, by what statfs(2) calls them: FUSE, NFS, SMB,
/// CIFS, 9p, Ceph, AFS.
const ELSEWHERE: [u32; 7] =
    [0x6573_5546, 0x0000_6969, 0xFE53_4D42, 0xFF53_4D42, 0x0102_1997, 0x00C3_6400, 0x5346_414F];

/// Whether bytes that were written can be lost before fsync(2) without this machine failing, and a
/// descriptor can become useless while the file is there: what keeps both is elsewhere, and may die
/// or be cut off. So when it cannot be told: filesystems of this machine tell. May wait for them.
pub fn is_elsewhere(fd: BorrowedFd) -> bool {
    let mut buf = MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: writes one statfs; filled when the call succeeds.
    retry(|| unsafe { libc::fstatfs(fd.as_raw_fd(), buf.as_mut_ptr()) })
        .map_or(true, |_| ELSEWHERE.contains(&(unsafe { buf.assume_init() }.f_type as u32)))
}

/// The length that no file of the filesystem can exceed, asked with one of its regular files.
/// lseek(2) refuses positions past it with `EINVAL`; moves the descriptor's position, which nobody
/// uses. Does not wait.
pub fn longest_file_bytes(fd: BorrowedFd) -> u64 {
    let is_allowed = |length: u64| seek(fd, length as i64, libc::SEEK_SET).is_ok();
    let (mut allowed, mut refused) = (0, 1 << 63);
    while refused - allowed > 1 {
        let middle = allowed + (refused - allowed) / 2;
        if is_allowed(middle) { allowed = middle } else { refused = middle }
    }
    allowed
}
