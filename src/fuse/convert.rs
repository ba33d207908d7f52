//! Between the filesystem's types and fuser's, and the replies that go with each.

use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    Errno, FileAttr, FileHandle, FileType, FopenFlags, Generation, INodeNo, ReplyAttr, ReplyCreate,
    ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyOpen, ReplyWrite, ReplyXattr, Request, TimeOrNow,
};

use crate::backing::{SetTime, SyncKind, Time, errno};
use crate::fs::{Caller, Entry, Lasts, NodeAttr, OpenFile, PASS_US_MAX};

/// How long the kernel may keep names and attributes where nobody else changes them: the backing
/// directory belongs to the mount.
const TTL: Duration = Duration::from_secs(3600);
/// The kernel counts in ticks: a few milliseconds more.
const PASSING_TTL: Duration = Duration::from_micros(PASS_US_MAX);

/// `FUSE_UNIQUE_RESEND` of `<linux/fuse.h>`: marks the number of a request that is sent again.
const RESENT: u64 = 1 << 63;

pub(super) fn ttl(attr: &NodeAttr) -> Duration {
    time_of(attr.lasts)
}

fn time_of(lasts: Lasts) -> Duration {
    match lasts {
        Lasts::Settled => TTL,
        Lasts::Moving { seconds } => Duration::from_secs(seconds.into()),
        Lasts::Passing => PASSING_TTL,
        Lasts::Once => Duration::ZERO,
    }
}

/// Bits of `mode` that are permissions.
const PERMISSIONS: u32 = 0o7777;

pub(super) fn code(error: &io::Error) -> Errno {
    Errno::from_i32(errno(error))
}

/// What a write from the page cache is refused with: close(2) tells of ENOSPC, and makes EIO of
/// everything else, see `filemap_check_errors` of the kernel.
pub(super) fn as_told_by_close(error: io::Error) -> io::Error {
    match errno(&error) {
        libc::EDQUOT => io::Error::from_raw_os_error(libc::ENOSPC),
        _ => error,
    }
}

fn kind_of(mode: u32) -> FileType {
    match mode & libc::S_IFMT {
        libc::S_IFDIR => FileType::Directory,
        libc::S_IFLNK => FileType::Symlink,
        libc::S_IFIFO => FileType::NamedPipe,
        libc::S_IFSOCK => FileType::Socket,
        libc::S_IFCHR => FileType::CharDevice,
        libc::S_IFBLK => FileType::BlockDevice,
        _ => FileType::RegularFile,
    }
}

/// From `d_type` of getdents64(2).
pub(super) fn kind_of_entry(kind: u8) -> FileType {
    kind_of(u32::from(kind) << 12)
}

/// For an answer that makes a node known: its inode number is taken for the node id.
fn entry_attr(node: &NodeAttr) -> FileAttr {
    FileAttr { ino: INodeNo(node.id), ..file_attr(node) }
}

pub(super) fn file_attr(node: &NodeAttr) -> FileAttr {
    let attr = &node.attr;
    FileAttr {
        ino: INodeNo(node.ino),
        size: attr.size,
        blocks: attr.blocks,
        atime: attr.atime.into(),
        mtime: attr.mtime.into(),
        ctime: attr.ctime.into(),
        crtime: SystemTime::UNIX_EPOCH,
        kind: kind_of(attr.mode),
        perm: (attr.mode & PERMISSIONS) as u16,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        blksize: attr.blksize,
        flags: 0,
    }
}

pub(super) fn caller(request: &Request) -> Caller {
    let unique = u64::from(request.unique());
    Caller {
        uid: request.uid(),
        gid: request.gid(),
        pid: request.pid(),
        unique: unique & !RESENT,
        is_repeated: unique & RESENT != 0,
    }
}

pub(super) fn set_time(time: Option<TimeOrNow>) -> SetTime {
    match time {
        None => SetTime::Omit,
        Some(TimeOrNow::Now) => SetTime::Now,
        Some(TimeOrNow::SpecificTime(time)) => SetTime::At(received_time(time)),
    }
}

/// fuser takes the nanoseconds of a time before 1970 as if they counted backwards, as the seconds
/// do; here they count forwards again.
fn received_time(time: SystemTime) -> Time {
    match time.duration_since(UNIX_EPOCH) {
        Ok(_) => Time::from(time),
        Err(error) => {
            let before = error.duration();
            Time { secs: -(before.as_secs() as i64), nanos: before.subsec_nanos() }
        }
    }
}

pub(super) fn sync_kind(data_only: bool) -> SyncKind {
    if data_only { SyncKind::Data } else { SyncKind::All }
}

pub(super) fn reply_entry(reply: ReplyEntry, entry: io::Result<Entry>) {
    match entry {
        Ok(Entry { attr, generation, lasts }) => {
            let generation = Generation(u64::from(generation));
            reply.entry_with_ttls(&ttl(&attr), &time_of(lasts), &entry_attr(&attr), generation);
        }
        Err(error) => reply.error(code(&error)),
    }
}

/// CREATE: its reply has one time for name and attributes.
pub(super) fn reply_created(
    reply: ReplyCreate,
    created: io::Result<(Entry, OpenFile)>,
    cache_of: impl FnOnce(u64) -> FopenFlags,
) {
    match created {
        Ok((Entry { attr, generation, lasts }, OpenFile { handle, .. })) => reply.created(
            &ttl(&attr).min(time_of(lasts)),
            &entry_attr(&attr),
            Generation(u64::from(generation)),
            FileHandle(handle),
            cache_of(attr.id),
        ),
        Err(error) => reply.error(code(&error)),
    }
}

pub(super) fn reply_empty(reply: ReplyEmpty, result: io::Result<()>) {
    match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(code(&error)),
    }
}

pub(super) fn reply_written(reply: ReplyWrite, result: io::Result<u32>) {
    match result {
        Ok(bytes) => reply.written(bytes),
        Err(error) => reply.error(code(&error)),
    }
}

pub(super) fn reply_attr(reply: ReplyAttr, result: io::Result<NodeAttr>) {
    match result {
        Ok(attr) => reply.attr(&ttl(&attr), &file_attr(&attr)),
        Err(error) => reply.error(code(&error)),
    }
}

pub(super) fn reply_opened(reply: ReplyOpen, handle: io::Result<u64>, flags: FopenFlags) {
    match handle {
        Ok(handle) => reply.opened(FileHandle(handle), flags),
        Err(error) => reply.error(code(&error)),
    }
}

pub(super) fn reply_ioctl(reply: ReplyIoctl, result: io::Result<(i32, Vec<u8>)>) {
    match result {
        Ok((value, data)) => reply.ioctl(value, &data),
        Err(error) => reply.error(code(&error)),
    }
}

/// A value and its length, or the length when the caller only asks for that (`size` 0).
pub(super) fn reply_value(reply: ReplyXattr, size: u32, got: io::Result<(Vec<u8>, usize)>) {
    match got {
        Ok((_, len)) if size == 0 => reply.size(len as u32),
        Ok((value, _)) => reply.data(&value),
        Err(error) => reply.error(code(&error)),
    }
}

/// A list of names, or its length when the caller only asks for that (`size` 0).
pub(super) fn reply_xattr(reply: ReplyXattr, size: u32, names: &[u8]) {
    match names.len() {
        len if size == 0 => reply.size(len as u32),
        len if len > size as usize => reply.error(Errno::ERANGE),
        _ => reply.data(names),
    }
}
