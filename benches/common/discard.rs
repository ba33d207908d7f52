//! A FUSE filesystem that keeps names and throws bytes away: what no daemon can be faster than, since
//! it does nothing. The kernel promises and caches as much as it does for coalescefs.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::Path;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{
    BackgroundSession, BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem,
    FopenFlags, Generation, INodeNo, InitFlags, KernelConfig, LockOwner, OpenFlags, ReplyAttr,
    ReplyCreate, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, ReplyXattr, Request, TimeOrNow,
    WriteFlags,
};

const TTL: Duration = Duration::from_secs(86400);
const WRITE_BYTES: u32 = 1 << 20;
/// As many as coalescefs has at most.
const BACKGROUND: u16 = 64;

/// Mounts it, until what is returned is dropped.
pub fn mount(over: &Path) -> io::Result<BackgroundSession> {
    let mut config = Config::default();
    config.n_threads = Some(2);
    fuser::spawn_mount(Discard::default(), over, &config)
}

#[derive(Default)]
struct Discard {
    names: Mutex<HashMap<OsString, u64>>,
}

impl Discard {
    fn names(&self) -> MutexGuard<'_, HashMap<OsString, u64>> {
        self.names.lock().expect("no panics under this lock")
    }
}

fn attr(ino: INodeNo, size: u64) -> FileAttr {
    let is_root = ino == INodeNo::ROOT;
    FileAttr {
        ino,
        size,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: if is_root { FileType::Directory } else { FileType::RegularFile },
        perm: if is_root { 0o755 } else { 0o644 },
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

impl Filesystem for Discard {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let wanted = InitFlags::FUSE_WRITEBACK_CACHE | InitFlags::FUSE_HANDLE_KILLPRIV_V2;
        let lacking = |_| io::Error::other("no writeback cache");
        config.add_capabilities(wanted).map_err(lacking)?;
        let refused = |_| io::Error::other("a limit was refused");
        config.set_max_write(WRITE_BYTES).map_err(refused)?;
        config.set_max_background(BACKGROUND).map_err(|_| io::Error::other("refused")).map(drop)
    }

    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.names().get(name) {
            Some(ino) => reply.entry(&TTL, &attr(INodeNo(*ino), 0), Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn create(
        &self,
        _: &Request,
        _: INodeNo,
        name: &OsStr,
        _: u32,
        _: u32,
        _: i32,
        reply: ReplyCreate,
    ) {
        let mut names = self.names();
        let next = names.len() as u64 + 2;
        let ino = *names.entry(name.to_owned()).or_insert(next);
        let flags = FopenFlags::empty();
        reply.created(&TTL, &attr(INodeNo(ino), 0), Generation(0), FileHandle(0), flags);
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&TTL, &attr(ino, 0));
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        reply.attr(&TTL, &attr(ino, size.unwrap_or(0)));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::empty());
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        reply.written(data.len() as u32);
    }

    fn getxattr(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, reply: ReplyXattr) {
        reply.error(Errno::ENOSYS);
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }
}
