//! From fuser's requests to the filesystem's calls and back. Decides nothing.

use std::ffi::OsStr;
use std::io;
use std::path::Path;
use std::time::SystemTime;

use fuser::{
    CopyFileRangeFlags, FileHandle, FopenFlags, INodeNo, IoctlFlags, KernelConfig, LockOwner,
    OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus,
    ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr,
    Request, TimeOrNow, WriteFlags,
};

use super::answering::Adapter;
use super::convert::{
    as_told_by_close, caller, code, kind_of_entry, reply_attr, reply_created, reply_empty,
    reply_entry, reply_ioctl, reply_opened, reply_value, reply_written, reply_xattr, set_time,
    sync_kind,
};
use crate::fs::{
    About, CAPABILITIES, Capabilities, Change, Filesystem, Looked, Mode, Mtime, OpenDirectory,
    OpenFile, Question, Reply, is_virtual,
};
use crate::killpoint::{self, Point};

impl fuser::Filesystem for Adapter {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        self.negotiate(config);
        Ok(())
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (caller, name) = (caller(request), name.to_owned());
        if self.fs.is_at_hand(parent.0, &name) {
            return reply_entry(reply, self.fs.lookup(caller, parent.0, &name));
        }
        let question = Question::of("lookup", parent.0, caller).at(parent.0, &name);
        let look = move |fs: &Filesystem, caller| fs.lookup(caller, parent.0, &name);
        self.ask_now(question, look, |result| reply_entry(reply, result));
    }

    fn forget(&self, _request: &Request, ino: INodeNo, nlookup: u64) {
        self.answer(ino, About::Names, move |me| me.fs.forget(ino.0, nlookup));
    }

    fn getattr(&self, request: &Request, ino: INodeNo, fh: Option<FileHandle>, reply: ReplyAttr) {
        let question = Question::of("stat", ino.0, caller(request));
        let look = move |fs: &Filesystem, _| fs.getattr(ino.0).map(Looked);
        let fs = self.fs.clone();
        self.ask_now(question, look, move |looked| {
            let (found, answer) =
                (looked.map(|Looked(attr)| attr), |found| reply_attr(reply, found));
            match fh {
                Some(_) => fs.hold_before_write(found, Box::new(answer)),
                None => answer(found),
            }
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
        let question = Question::of("change of attributes", ino.0, caller(request));
        let set = move |fs: &Filesystem, caller, done| fs.setattr(caller, ino.0, change, done);
        self.ask(question, set, move |result| reply_attr(reply, result));
    }

    fn readlink(&self, request: &Request, ino: INodeNo, reply: ReplyData) {
        let question = Question::of("readlink", ino.0, caller(request));
        let read = move |fs: &Filesystem, _| fs.read_link(ino.0);
        self.ask_now(question, read, |target| match target {
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
        let question = Question::of("mknod", parent.0, caller(request)).at(parent.0, name);
        let name = name.to_owned();
        let make = move |fs: &Filesystem, caller| fs.mknod(caller, parent.0, &name, mode, rdev);
        self.ask_now(question, make, |result| reply_entry(reply, result));
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
        let question = Question::of("mkdir", parent.0, caller(request)).at(parent.0, name);
        let name = name.to_owned();
        let make = move |fs: &Filesystem, caller| fs.mkdir(caller, parent.0, &name, mode);
        self.ask_now(question, make, |result| reply_entry(reply, result));
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let question = Question::of("unlink", parent.0, caller(request)).at(parent.0, name);
        let name = name.to_owned();
        let remove = move |fs: &Filesystem, caller| fs.unlink(caller, parent.0, &name);
        self.ask_now(question, remove, |result| reply_empty(reply, result));
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let question = Question::of("rmdir", parent.0, caller(request)).at(parent.0, name);
        let name = name.to_owned();
        let remove = move |fs: &Filesystem, caller| fs.rmdir(caller, parent.0, &name);
        self.ask_now(question, remove, |result| reply_empty(reply, result));
    }

    fn symlink(
        &self,
        request: &Request,
        parent: INodeNo,
        link_name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let question = Question::of("symlink", parent.0, caller(request)).at(parent.0, link_name);
        let (name, target) = (link_name.to_owned(), target.to_owned());
        let make = move |fs: &Filesystem, caller| fs.symlink(caller, parent.0, &name, &target);
        self.ask_now(question, make, |result| reply_entry(reply, result));
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
        let question = Question::of("rename", parent.0, caller(request));
        let question = question.at(parent.0, name).at(newparent.0, newname);
        let (name, newname) = (name.to_owned(), newname.to_owned());
        let rename = move |fs: &Filesystem, caller| {
            let (from, to) = ((parent.0, name.as_os_str()), (newparent.0, newname.as_os_str()));
            fs.rename(caller, from, to, flags.bits())
        };
        self.ask_now(question, rename, |result| reply_empty(reply, result));
    }

    fn link(
        &self,
        request: &Request,
        ino: INodeNo,
        newparent: INodeNo,
        newname: &OsStr,
        reply: ReplyEntry,
    ) {
        let question = Question::of("link", ino.0, caller(request)).at(newparent.0, newname);
        let name = newname.to_owned();
        let link = move |fs: &Filesystem, caller| fs.link(caller, ino.0, newparent.0, &name);
        self.ask_now(question, link, |result| reply_entry(reply, result));
    }

    fn open(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let question = Question::of("open", ino.0, caller(request));
        let open = move |fs: &Filesystem, caller| fs.open(caller, ino.0, flags.0);
        let me = self.clone();
        self.ask_now(question, open, move |opened| {
            let handle = opened.map(|OpenFile { handle, .. }| handle);
            reply_opened(reply, handle, me.cache_of(ino.0));
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
        let question = Question::of("create", parent.0, caller(request)).at(parent.0, name);
        let name = name.to_owned();
        let create = move |fs: &Filesystem, caller| fs.create(caller, parent.0, &name, mode, flags);
        let me = self.clone();
        self.ask_now(question, create, move |created| {
            reply_created(reply, created, |id| me.cache_of(id));
        });
    }

    fn read(
        &self,
        request: &Request,
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
        let question = Question::of("read", ino.0, caller(request)).of_bytes();
        let read = move |fs: &Filesystem, _, done: Reply<Vec<u8>>| match is_virtual(ino.0) {
            true => done(fs.virtual_read(ino.0, fh.0, offset, size)),
            false if fs.may_hang() => done(fs.read_waiting(ino.0, offset, size)),
            false => fs.read(ino.0, offset, size, done),
        };
        self.ask(question, read, answer);
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
        request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        let caller = caller(request);
        self.answer(ino, About::Bytes, move |me| {
            // The owner of locks stands for the closer's table of descriptors.
            let answer = Box::new(move |result| reply_empty(reply, result));
            me.fs.close(caller, (ino.0, fh.0), lock_owner.0, answer);
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

    fn opendir(&self, request: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let question = Question::of("opendir", ino.0, caller(request));
        let open = move |fs: &Filesystem, _| fs.open_directory(ino.0);
        self.ask_now(question, open, |opened| {
            let handle = opened.map(|OpenDirectory(handle)| handle);
            reply_opened(reply, handle, FopenFlags::empty());
        });
    }

    fn readdir(
        &self,
        request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let question = Question::of("readdir", ino.0, caller(request));
        let list = move |fs: &Filesystem, _| fs.list(ino.0, fh.0, offset);
        self.ask_now(question, list, move |listed| match listed {
            Ok(entries) => {
                let _is_full = entries.iter().any(|entry| {
                    let kind = kind_of_entry(entry.kind);
                    reply.add(INodeNo(entry.ino), entry.next_offset, kind, &entry.name)
                });
                reply.ok();
            }
            Err(error) => reply.error(code(&error)),
        });
    }

    fn readdirplus(
        &self,
        request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        let question = Question::of("readdir", ino.0, caller(request));
        let plus = self.plus.clone();
        let list =
            move |fs: &Filesystem, caller| fs.list_plus(caller, (ino.0, fh.0), offset, plus.get());
        let me = self.clone();
        self.ask_now(question, list, move |listed| match listed {
            Ok(listed) => me.reply_plus(listed, reply),
            Err(error) => reply.error(code(&error)),
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
        request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        datasync: bool,
        reply: ReplyEmpty,
    ) {
        let question = Question::of("fsync", ino.0, caller(request)).of_bytes();
        let kind = sync_kind(datasync);
        let sync = move |fs: &Filesystem, _, done| fs.fsync_directory(ino.0, kind, done);
        self.ask(question, sync, |result| reply_empty(reply, result));
    }

    fn statfs(&self, request: &Request, ino: INodeNo, reply: ReplyStatfs) {
        let question = Question::of("statfs", INodeNo::ROOT.0, caller(request));
        self.ask_now(
            question,
            move |fs, _| fs.statfs(ino.0),
            |stats| match stats {
                Ok(s) => reply.statfs(
                    s.blocks, s.bfree, s.bavail, s.files, s.ffree, s.bsize, s.namelen, s.frsize,
                ),
                Err(error) => reply.error(code(&error)),
            },
        );
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
        let question = Question::of("setxattr", ino.0, caller(request));
        let (name, value) = (name.to_owned(), value.to_vec());
        let set = move |fs: &Filesystem, caller| fs.set_xattr(caller, ino.0, &name, &value, flags);
        self.ask_now(question, set, |result| reply_empty(reply, result));
    }

    fn getxattr(
        &self,
        request: &Request,
        ino: INodeNo,
        name: &OsStr,
        size: u32,
        reply: ReplyXattr,
    ) {
        let question = Question::of("getxattr", ino.0, caller(request));
        let len = size as usize;
        if name == CAPABILITIES {
            let get = move |fs: &Filesystem, _| fs.capabilities(ino.0, len);
            let answer = move |got: io::Result<Capabilities>| {
                reply_value(reply, size, got.map(|Capabilities(value, len)| (value, len)));
            };
            return self.ask_now(question, get, answer);
        }
        let name = name.to_owned();
        let get = move |fs: &Filesystem, _| {
            let mut value = vec![0; len];
            let len = fs.get_xattr(ino.0, &name, &mut value)?;
            value.truncate(len);
            Ok((value, len))
        };
        self.ask_now(question, get, move |got| reply_value(reply, size, got));
    }

    fn listxattr(&self, request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let question = Question::of("listxattr", ino.0, caller(request));
        let list = move |fs: &Filesystem, caller| fs.list_xattr(caller, ino.0);
        self.ask_now(question, list, move |names| match names {
            Ok(names) => reply_xattr(reply, size, &names),
            Err(error) => reply.error(code(&error)),
        });
    }

    fn removexattr(&self, request: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let question = Question::of("removexattr", ino.0, caller(request));
        let name = name.to_owned();
        let remove = move |fs: &Filesystem, caller| fs.remove_xattr(caller, ino.0, &name);
        self.ask_now(question, remove, |result| reply_empty(reply, result));
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
