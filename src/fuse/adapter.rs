//! From fuser's requests to the filesystem's calls and back. Decides nothing.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::time::SystemTime;

use fuser::{
    CopyFileRangeFlags, FileHandle, FopenFlags, INodeNo, InitFlags, IoctlFlags, KernelConfig,
    LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs,
    ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use super::answering::{About, Adapter};
use super::convert::{
    as_told_by_close, caller, code, kind_of_entry, reply_attr, reply_created, reply_empty,
    reply_entry, reply_ioctl, reply_opened, reply_written, reply_xattr, set_time, sync_kind,
};
use crate::fs::{Change, Mode, Mtime, is_virtual};
use crate::killpoint::{self, Point};

/// Asked for where the kernel has them. Without KILLPRIV_V2 the kernel looks an attribute up on
/// every write().
const WANTED: [InitFlags; 6] = [
    InitFlags::FUSE_HANDLE_KILLPRIV_V2,
    // The umask comes with the request: a default ACL stands above it.
    InitFlags::FUSE_DONT_MASK,
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_CACHE_SYMLINKS,
    InitFlags::FUSE_ASYNC_DIO,
    InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
];

/// Entries with their attributes: not where names are looked up each time all the same.
const PLUS: [InitFlags; 2] = [InitFlags::FUSE_DO_READDIRPLUS, InitFlags::FUSE_READDIRPLUS_AUTO];

impl fuser::Filesystem for Adapter {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let limits = self.fs.limits();
        let mut wanted = WANTED.to_vec();
        if !self.fs.is_shared() {
            wanted.extend(PLUS);
        }
        if self.fs.uses_writeback_cache() {
            wanted.push(InitFlags::FUSE_WRITEBACK_CACHE);
        }
        if self.fs.has_acls() {
            wanted.push(InitFlags::FUSE_POSIX_ACL);
        }
        for flag in wanted {
            if config.add_capabilities(flag).is_err() {
                log::warn!("this kernel does not offer {flag:?}");
            }
        }
        // Within the kernel's bounds by construction; it lowers what it cannot do.
        let _ = config.set_max_write(limits.max_write_bytes);
        let _ = config.set_max_background(limits.max_background);
        Ok(())
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (caller, name) = (caller(request), name.to_owned());
        if self.fs.is_at_hand(parent.0, &name) {
            return reply_entry(reply, self.fs.lookup(caller, parent.0, &name));
        }
        self.answer(parent, About::Names, move |me| {
            reply_entry(reply, me.fs.lookup(caller, parent.0, &name));
        });
    }

    fn forget(&self, _request: &Request, ino: INodeNo, nlookup: u64) {
        self.answer(ino, About::Names, move |me| me.fs.forget(ino.0, nlookup));
    }

    fn getattr(&self, _: &Request, ino: INodeNo, fh: Option<FileHandle>, reply: ReplyAttr) {
        let answer = move |result| reply_attr(reply, result);
        self.answer(ino, About::Names, move |me| match fh {
            Some(_) => me.fs.getattr_before_write(ino.0, Box::new(answer)),
            None => answer(me.fs.getattr(ino.0)),
        });
    }

    fn setattr(
        &self,
        request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let change =
            Change { mode, uid, gid, size, atime: set_time(atime), mtime: set_time(mtime) };
        let caller = caller(request);
        self.answer(ino, About::Names, move |me| {
            let answer = Box::new(move |result| reply_attr(reply, result));
            me.fs.setattr(caller, ino.0, change, answer);
        });
    }

    fn readlink(&self, _request: &Request, ino: INodeNo, reply: ReplyData) {
        self.answer(ino, About::Names, move |me| match me.fs.read_link(ino.0) {
            Ok(target) => reply.data(target.as_encoded_bytes()),
            Err(error) => reply.error(code(&error)),
        });
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let mode = Mode { bits: mode, umask };
        let (caller, name) = (caller(request), name.to_owned());
        self.answer(parent, About::Names, move |me| {
            reply_entry(reply, me.fs.mknod(caller, parent.0, &name, mode, rdev));
        });
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        killpoint::pass(Point::MkdirBegun);
        let mode = Mode { bits: mode, umask };
        let (caller, name) = (caller(request), name.to_owned());
        self.answer(parent, About::Names, move |me| {
            reply_entry(reply, me.fs.mkdir(caller, parent.0, &name, mode));
        });
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (caller, name) = (caller(request), name.to_owned());
        self.answer(parent, About::Names, move |me| {
            reply_empty(reply, me.fs.unlink(caller, parent.0, &name));
        });
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (caller, name) = (caller(request), name.to_owned());
        self.answer(parent, About::Names, move |me| {
            reply_empty(reply, me.fs.rmdir(caller, parent.0, &name));
        });
    }

    fn symlink(
        &self,
        request: &Request,
        parent: INodeNo,
        link_name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let (caller, name, target) = (caller(request), link_name.to_owned(), target.to_owned());
        self.answer(parent, About::Names, move |me| {
            reply_entry(reply, me.fs.symlink(caller, parent.0, &name, &target));
        });
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (caller, name, newname) = (caller(request), name.to_owned(), newname.to_owned());
        self.answer(parent, About::Names, move |me| {
            let (from, to) = ((parent.0, name.as_os_str()), (newparent.0, newname.as_os_str()));
            reply_empty(reply, me.fs.rename(caller, from, to, flags.bits()));
        });
    }

    fn link(
        &self,
        request: &Request,
        ino: INodeNo,
        newparent: INodeNo,
        newname: &OsStr,
        reply: ReplyEntry,
    ) {
        let (caller, name) = (caller(request), newname.to_owned());
        self.answer(ino, About::Names, move |me| {
            reply_entry(reply, me.fs.link(caller, ino.0, newparent.0, &name));
        });
    }

    fn open(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let caller = caller(request);
        self.answer(ino, About::Names, move |me| {
            let opened = me.fs.open(caller, ino.0, flags.0);
            reply_opened(reply, opened, me.cache_of(ino.0));
        });
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let mode = Mode { bits: mode, umask };
        let (caller, name) = (caller(request), name.to_owned());
        self.answer(parent, About::Names, move |me| {
            let created = me.fs.create(caller, parent.0, &name, mode, flags);
            reply_created(reply, created, |id| me.cache_of(id));
        });
    }

    fn read(
        &self,
        _request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let answer = move |result: io::Result<Vec<u8>>| match result {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(code(&error)),
        };
        self.answer(ino, About::Bytes, move |me| match is_virtual(ino.0) {
            true => answer(me.fs.virtual_read(ino.0, fh.0, offset, size)),
            false => me.fs.read(ino.0, offset, size, Box::new(answer)),
        });
    }

    fn write(
        &self,
        request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let caller = caller(request);
        let write = move |me: &Adapter, data: &[u8]| {
            let is_cached = write_flags.contains(WriteFlags::FUSE_WRITE_CACHE);
            let has_cache = me.fs.uses_writeback_cache();
            let mtime = if has_cache { Mtime::OfKernel } else { Mtime::OfNow };
            // A handle is only guessed for writes from the page cache: errors wait for flush then.
            let checked = if is_cached { Ok(()) } else { me.fs.check(ino.0, fh.0) };
            let checked = checked.and_then(|()| {
                if write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID) {
                    me.privileges_killed(ino, me.fs.kill_privileges(caller, ino.0))?;
                }
                Ok(())
            });
            if let Err(error) = checked {
                return reply.error(code(&error));
            }
            let answer = move |result: io::Result<u32>| match is_cached {
                true => reply_written(reply, result.map_err(as_told_by_close)),
                false => reply_written(reply, result),
            };
            me.fs.write(ino.0, offset, data, mtime, Box::new(answer));
        };
        // The copy only where the thread could not wait.
        if !self.fs.may_hang() {
            self.fs.count_request();
            return write(self, data);
        }
        let data = data.to_vec();
        self.answer(ino, About::Bytes, move |me| write(me, &data));
    }

    fn flush(
        &self,
        _: &Request,
        ino: INodeNo,
        fh: FileHandle,
        lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        self.answer(ino, About::Bytes, move |me| {
            // The owner of locks stands for the closer's table of descriptors.
            let answer = Box::new(move |result| reply_empty(reply, result));
            me.fs.close(ino.0, fh.0, lock_owner.0, answer);
        });
    }

    fn release(
        &self,
        request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let caller = caller(request);
        self.answer(ino, About::Bytes, move |me| {
            me.fs.release(caller, ino.0, fh.0);
            reply.ok();
        });
    }

    fn fsync(
        &self,
        _request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        datasync: bool,
        reply: ReplyEmpty,
    ) {
        self.answer(ino, About::Bytes, move |me| {
            let fs = me.fs.clone();
            let answer = move |result: io::Result<()>| {
                // The handle has been told; an error that came before is told now, too.
                let told = fs.check(ino.0, fh.0);
                reply_empty(reply, result.and(told));
            };
            me.fs.fsync(ino.0, sync_kind(datasync), Box::new(answer));
        });
    }

    fn opendir(&self, _request: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        self.answer(ino, About::Names, move |me| {
            reply_opened(reply, me.fs.open_directory(ino.0), FopenFlags::empty());
        });
    }

    fn readdir(
        &self,
        _request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        self.answer(ino, About::Names, move |me| {
            let read = me.fs.read_directory(ino.0, fh.0, offset, |entry| {
                let kind = kind_of_entry(entry.kind);
                !reply.add(INodeNo(entry.ino), entry.next_offset, kind, &entry.name)
            });
            match read {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(code(&error)),
            }
        });
    }

    fn readdirplus(
        &self,
        request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let caller = caller(request);
        self.answer(ino, About::Names, move |me| {
            let read = me.fs.read_directory(ino.0, fh.0, offset, |entry| {
                me.add_plus(caller, ino, entry, &mut reply)
            });
            match read {
                Ok(()) => reply.ok(),
                Err(error) => reply.error(code(&error)),
            }
        });
    }

    fn releasedir(
        &self,
        _request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.answer(ino, About::Names, move |me| {
            me.fs.release_directory(fh.0);
            reply.ok();
        });
    }

    fn fsyncdir(
        &self,
        _request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        datasync: bool,
        reply: ReplyEmpty,
    ) {
        self.answer(ino, About::Bytes, move |me| {
            let answer = Box::new(move |result| reply_empty(reply, result));
            me.fs.fsync_directory(ino.0, sync_kind(datasync), answer);
        });
    }

    fn statfs(&self, _request: &Request, ino: INodeNo, reply: ReplyStatfs) {
        self.answer(INodeNo::ROOT, About::Names, move |me| match me.fs.statfs(ino.0) {
            Ok(s) => reply.statfs(
                s.blocks, s.bfree, s.bavail, s.files, s.ffree, s.bsize, s.namelen, s.frsize,
            ),
            Err(error) => reply.error(code(&error)),
        });
    }

    fn setxattr(
        &self,
        request: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let (caller, name, value) = (caller(request), name.to_owned(), value.to_vec());
        self.answer(ino, About::Names, move |me| {
            reply_empty(reply, me.fs.set_xattr(caller, ino.0, &name, &value, flags));
        });
    }

    fn getxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let name = name.to_owned();
        self.answer(ino, About::Names, move |me| {
            let mut value = vec![0; size as usize];
            match me.fs.get_xattr(ino.0, &name, &mut value) {
                Ok(len) if size == 0 => reply.size(len as u32),
                Ok(len) => reply.data(&value[..len]),
                Err(error) => reply.error(code(&error)),
            }
        });
    }

    fn listxattr(&self, request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let caller = caller(request);
        self.answer(ino, About::Names, move |me| match me.fs.list_xattr(caller, ino.0) {
            Ok(names) => reply_xattr(reply, size, &names),
            Err(error) => reply.error(code(&error)),
        });
    }

    fn removexattr(&self, request: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (caller, name) = (caller(request), name.to_owned());
        self.answer(ino, About::Names, move |me| {
            reply_empty(reply, me.fs.remove_xattr(caller, ino.0, &name));
        });
    }

    fn fallocate(
        &self,
        request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let caller = caller(request);
        self.answer(ino, About::Bytes, move |me| {
            let killed = me.fs.kill_privileges_unless_kept(caller, ino.0);
            if let Err(error) = me.privileges_killed(ino, killed) {
                return reply.error(code(&error));
            }
            let answer = Box::new(move |result| reply_empty(reply, result));
            me.fs.allocate(ino.0, mode, offset, length, answer);
        });
    }

    fn ioctl(
        &self,
        request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        command: u32,
        input: &[u8],
        output_bytes: u32,
        reply: ReplyIoctl,
    ) {
        let (caller, input) = (caller(request), input.to_vec());
        self.answer(ino, About::Names, move |me| {
            let answer = Box::new(move |result| reply_ioctl(reply, result));
            me.fs.ioctl(caller, ino.0, command, &input, output_bytes, answer);
        });
    }

    fn lseek(
        &self,
        _request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let answer = move |result: io::Result<i64>| match result {
            Ok(offset) => reply.offset(offset),
            Err(error) => reply.error(code(&error)),
        };
        self.answer(ino, About::Bytes, move |me| {
            let fs = me.fs.clone();
            if !fs.uses_writeback_cache() {
                return fs.seek(ino.0, offset, whence, Box::new(answer));
            }
            let notifier = me.notifier.clone();
            me.fs.on_pool(move || {
                // The kernel asks before it has handed over what was just written. Told to let go
                // of the file's pages, it writes them out first, and waits until other threads of
                // ours have answered.
                if let Some(notifier) = notifier.get()
                    && let Err(error) = notifier.inval_inode(ino, 0, 0)
                {
                    log::debug!("cannot have node {ino} written out: {error}");
                }
                fs.seek(ino.0, offset, whence, Box::new(answer));
            });
        });
    }

    fn copy_file_range(
        &self,
        request: &Request,
        ino_in: INodeNo,
        _fh_in: FileHandle,
        offset_in: u64,
        ino_out: INodeNo,
        _fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let caller = caller(request);
        self.answer(ino_out, About::Bytes, move |me| {
            let killed = me.fs.kill_privileges_unless_kept(caller, ino_out.0);
            if let Err(error) = me.privileges_killed(ino_out, killed) {
                return reply.error(code(&error));
            }
            let answer = move |result| reply_written(reply, result);
            let (from, to) = ((ino_in.0, offset_in), (ino_out.0, offset_out));
            me.fs.copy_range(from, to, len, Box::new(answer));
        });
    }
}
