//! Attributes of files and of the filesystem.

use std::ffi::{CStr, OsStr};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::{entry_name, errno, magic_link, retry};

/// A point in time: seconds and nanoseconds since 1970; negative seconds before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Time {
    /// Whole seconds.
    pub secs: i64,
    /// Nanoseconds, below one second, to be added.
    pub nanos: u32,
}

impl From<SystemTime> for Time {
    fn from(time: SystemTime) -> Time {
        match time.duration_since(UNIX_EPOCH) {
            Ok(since) => Time { secs: since.as_secs() as i64, nanos: since.subsec_nanos() },
            Err(before) => {
                let before = before.duration();
                match before.subsec_nanos() {
                    0 => Time { secs: -(before.as_secs() as i64), nanos: 0 },
                    nanos => {
                        Time { secs: -(before.as_secs() as i64) - 1, nanos: 1_000_000_000 - nanos }
                    }
                }
            }
        }
    }
}

impl From<Time> for SystemTime {
    fn from(time: Time) -> SystemTime {
        let nanos = Duration::from_nanos(u64::from(time.nanos));
        let whole = Duration::from_secs(time.secs.unsigned_abs());
        let base = if time.secs >= 0 {
            UNIX_EPOCH.checked_add(whole)
        } else {
            UNIX_EPOCH.checked_sub(whole)
        };
        base.unwrap_or(UNIX_EPOCH) + nanos
    }
}

/// What to do with a file's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    /// Leave it.
    Omit,
    /// The time of now, as the kernel has it.
    Now,
    /// This one.
    At(Time),
}

/// Attributes as of stat(2).
#[derive(Clone, Copy, Debug)]
pub struct Attr {
    /// Device, as makedev(3) combines it.
    pub dev: u64,
    /// Inode number.
    pub ino: u64,
    /// Type and permissions.
    pub mode: u32,
    /// Hard links.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device of a device file, in the kernel's 32-bit encoding.
    pub rdev: u32,
    /// Bytes.
    pub size: u64,
    /// Blocks of 512 bytes.
    pub blocks: u64,
    /// Bytes that reads and writes should be a multiple of.
    pub blksize: u32,
    /// Last access.
    pub atime: Time,
    /// Last modification of the bytes.
    pub mtime: Time,
    /// Last change of anything.
    pub ctime: Time,
}

/// How old attributes may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// As old as what stat(2) tells: clients of network filesystems keep some for a while.
    Cached,
    /// Of now, as far as the filesystem can: AT_STATX_FORCE_SYNC of statx(2).
    Now,
}

impl Freshness {
    fn flags(self) -> i32 {
        match self {
            Freshness::Cached => libc::AT_STATX_SYNC_AS_STAT,
            Freshness::Now => libc::AT_STATX_FORCE_SYNC,
        }
    }
}

fn stat(dir: libc::c_int, name: &CStr, flags: i32) -> io::Result<Attr> {
    stat_some(dir, name, flags, libc::STATX_BASIC_STATS)
}

fn stat_some(dir: libc::c_int, name: &CStr, flags: i32, mask: u32) -> io::Result<Attr> {
    let mut buf = MaybeUninit::<libc::statx>::zeroed();
    let flags = flags | libc::AT_NO_AUTOMOUNT;
    // SAFETY: valid C string; writes one statx.
    retry(|| unsafe { libc::statx(dir, name.as_ptr(), flags, mask, buf.as_mut_ptr()) })?;
    // SAFETY: filled by the call, and zeroed before.
    let x = unsafe { buf.assume_init() };
    let time = |t: libc::statx_timestamp| Time { secs: t.tv_sec, nanos: t.tv_nsec };
    let (major, minor) = (x.stx_rdev_major, x.stx_rdev_minor);
    Ok(Attr {
        dev: libc::makedev(x.stx_dev_major, x.stx_dev_minor),
        ino: x.stx_ino,
        mode: u32::from(x.stx_mode),
        nlink: x.stx_nlink,
        uid: x.stx_uid,
        gid: x.stx_gid,
        rdev: minor & 0xff | major << 8 | (minor & !0xff) << 12,
        size: x.stx_size,
        blocks: x.stx_blocks,
        blksize: x.stx_blksize,
        atime: time(x.stx_atime),
        mtime: time(x.stx_mtime),
        ctime: time(x.stx_ctime),
    })
}

/// Attributes of an open file; O_PATH will do. Errors: statx(2).
pub fn attr(fd: BorrowedFd) -> io::Result<Attr> {
    attr_as(fd, Freshness::Cached)
}

/// The same, not older than asked. May wait for the filesystem.
pub fn attr_as(fd: BorrowedFd, freshness: Freshness) -> io::Result<Attr> {
    stat(fd.as_raw_fd(), c"", libc::AT_EMPTY_PATH | freshness.flags())
}

/// The same as the kernel has them, without asking a filesystem that is another process's or machine's:
/// device, inode number and type are right, the rest as of the last time it asked. Does not wait.
pub fn cached_attr(fd: BorrowedFd) -> io::Result<Attr> {
    let flags = libc::AT_EMPTY_PATH | libc::AT_STATX_DONT_SYNC;
    // FUSE asks all the same for what is wanted and not up to date.
    stat_some(fd.as_raw_fd(), c"", flags, 0)
}

/// Attributes of what is at `name`; of a symlink itself. Errors: statx(2).
pub fn attr_at(dir: BorrowedFd, name: &OsStr) -> io::Result<Attr> {
    attr_at_as(dir, name, Freshness::Cached)
}

/// The same, not older than asked. May wait for the filesystem.
pub fn attr_at_as(dir: BorrowedFd, name: &OsStr, freshness: Freshness) -> io::Result<Attr> {
    let flags = libc::AT_SYMLINK_NOFOLLOW | freshness.flags();
    stat(dir.as_raw_fd(), &entry_name(name)?, flags)
}

/// Changes permissions; O_PATH will do, except for symlinks, which have none. Errors: chmod(2).
pub fn set_mode(fd: BorrowedFd, mode: u32) -> io::Result<()> {
    let link = magic_link(fd);
    // SAFETY: valid C string.
    retry(|| unsafe { libc::fchmodat(libc::AT_FDCWD, link.as_ptr(), mode, 0) }).map(drop)
}

/// Changes owner and group; O_PATH will do. Errors: chown(2).
pub fn set_owner(fd: BorrowedFd, uid: Option<u32>, gid: Option<u32>) -> io::Result<()> {
    let keep = u32::MAX;
    let (uid, gid) = (uid.unwrap_or(keep), gid.unwrap_or(keep));
    // SAFETY: valid C string.
    let call =
        || unsafe { libc::fchownat(fd.as_raw_fd(), c"".as_ptr(), uid, gid, libc::AT_EMPTY_PATH) };
    retry(call).map(drop)
}

/// Changes the times; O_PATH and symlinks will do (AT_EMPTY_PATH since Linux 5.8, the magic link
/// before). Errors: utimensat(2).
pub fn set_times(fd: BorrowedFd, atime: SetTime, mtime: SetTime) -> io::Result<()> {
    let spec = |time: SetTime| match time {
        SetTime::Omit => libc::timespec { tv_sec: 0, tv_nsec: libc::UTIME_OMIT },
        SetTime::Now => libc::timespec { tv_sec: 0, tv_nsec: libc::UTIME_NOW },
        SetTime::At(time) => {
            libc::timespec { tv_sec: time.secs, tv_nsec: libc::c_long::from(time.nanos) }
        }
    };
    let times = [spec(atime), spec(mtime)];
    let set = |dir: libc::c_int, path: &CStr, flags| {
        // SAFETY: valid C string and an array of two.
        let call = || unsafe { libc::utimensat(dir, path.as_ptr(), times.as_ptr(), flags) };
        retry(call).map(drop)
    };
    match set(fd.as_raw_fd(), c"", libc::AT_EMPTY_PATH) {
        Err(error) if matches!(errno(&error), libc::EINVAL | libc::ENOENT) => {
            set(libc::AT_FDCWD, &magic_link(fd), 0)
        }
        result => result,
    }
}

/// Figures of a filesystem, as of statvfs(3).
#[derive(Clone, Copy, Debug)]
pub struct FsStats {
    /// Blocks of `frsize` bytes.
    pub blocks: u64,
    /// Free blocks.
    pub bfree: u64,
    /// Free blocks for ordinary users.
    pub bavail: u64,
    /// Inodes.
    pub files: u64,
    /// Free inodes.
    pub ffree: u64,
    /// Block size.
    pub bsize: u32,
    /// Fragment size.
    pub frsize: u32,
    /// Longest name.
    pub namelen: u32,
}

/// Whether bytes that are written again take new blocks: on filesystems that copy on write.
pub fn copies_on_write(fd: BorrowedFd) -> bool {
    is_of_kind(fd, &[0x9123_683E, 0xCA45_1A4E, 0x2FC1_2FC1]) // btrfs, bcachefs, zfs
}

/// Whether files lie in memory, where blocks are the same everywhere.
pub fn is_in_memory(fd: BorrowedFd) -> bool {
    is_of_kind(fd, &[0x0102_1994, 0x8584_58F6]) // tmpfs, ramfs
}

/// Whether blocks that are allocated ahead in one piece stay one extent when they are written, and
/// cutting the file gives them back: known of XFS and ext4.
pub fn keeps_extents(fd: BorrowedFd) -> bool {
    is_xfs(fd) || is_of_kind(fd, &[0xEF53])
}

/// Whether a descriptor is on an XFS.
pub fn is_xfs(fd: BorrowedFd) -> bool {
    is_of_kind(fd, &[0x5846_5342])
}

/// Whether the filesystem is one of those with such magic numbers, see statfs(2).
fn is_of_kind(fd: BorrowedFd, kinds: &[libc::c_long]) -> bool {
    let mut buf = MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: writes one statfs; filled when the call succeeds.
    retry(|| unsafe { libc::fstatfs(fd.as_raw_fd(), buf.as_mut_ptr()) })
        .is_ok_and(|_| kinds.contains(&(unsafe { buf.assume_init() }.f_type as libc::c_long)))
}

/// Figures of the filesystem a descriptor is on. Errors: statvfs(3).
pub fn fs_stats(fd: BorrowedFd) -> io::Result<FsStats> {
    let mut buf = MaybeUninit::<libc::statvfs>::zeroed();
    // SAFETY: writes one statvfs.
    retry(|| unsafe { libc::fstatvfs(fd.as_raw_fd(), buf.as_mut_ptr()) })?;
    // SAFETY: filled by the call.
    let s = unsafe { buf.assume_init() };
    Ok(FsStats {
        blocks: s.f_blocks,
        bfree: s.f_bfree,
        bavail: s.f_bavail,
        files: s.f_files,
        ffree: s.f_ffree,
        bsize: s.f_bsize as u32,
        frsize: s.f_frsize as u32,
        namelen: s.f_namemax as u32,
    })
}
