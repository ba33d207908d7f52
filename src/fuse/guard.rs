//! Stands before the adapter: notes which request each thread has in hand, and keeps those away
//! of which workers died again and again.
//!
//! The one that three workers died of is answered EIO. See [`Isolation`].

use std::ffi::OsStr;
use std::fmt::{self, Debug, Write};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, INodeNo, IoctlFlags, KernelConfig,
    LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs,
    ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use super::answering::Adapter;
use super::convert::caller;
use super::linger::Linger;
use crate::isolation::{InHand, Isolation};
use crate::killpoint::{self, Point};

/// Of an argument, in the log.
const ARGUMENT_BYTES_MAX: usize = 80;

/// The type of arguments that users' bytes come in.
const CONTENTS: &str = "&[u8]";

/// The adapter behind the guard.
pub(super) struct Guard {
    adapter: Adapter,
    isolation: Arc<Isolation>,
    linger: Linger,
}

impl Guard {
    pub(super) fn new(adapter: Adapter, isolation: Arc<Isolation>, linger: Linger) -> Guard {
        Guard { adapter, isolation, linger }
    }

    /// `None` for a request that is not to be touched.
    fn begin(&self, unique: u64) -> Option<InHand<'_>> {
        let in_hand = self.isolation.begin_request(unique)?;
        killpoint::pass(Point::RequestBegun);
        Some(in_hand)
    }

    fn complain(&self, request: &Request, ino: INodeNo, name: &str, arguments: &[Argument<'_>]) {
        let arguments: String = arguments.iter().map(Argument::in_words).collect();
        log::error!(
            "workers died of a request again and again; it is answered EIO: {name} of node {ino} \
             ({}){arguments}; of process {}, user {}",
            self.adapter.path(ino),
            request.pid(),
            request.uid()
        );
    }
}

/// What came with a request.
struct Argument<'a> {
    name: &'a str,
    type_name: &'a str,
    value: &'a dyn Debug,
}

impl Argument<'_> {
    /// For the log, in which nothing of what users write has a place.
    fn in_words(&self) -> String {
        let value =
            if self.type_name == CONTENTS { "...".to_owned() } else { shortened(self.value) };
        format!(" {}={value}", self.name)
    }
}

/// The start of what an argument looks like: names may be long.
fn shortened(argument: &dyn Debug) -> String {
    struct Shortened(String);
    impl Write for Shortened {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            self.0.push_str(text);
            if self.0.len() < ARGUMENT_BYTES_MAX { Ok(()) } else { Err(fmt::Error) }
        }
    }
    let mut text = Shortened(String::new());
    // An error only says that there is more.
    let _ = write!(text, "{argument:?}");
    text.0
}

/// The operations that are answered: each passes the guard, then goes on to the adapter.
macro_rules! guarded {
    ($($name:ident(ino $(, $arg:ident: $type:ty)*) -> $reply:ty;)*) => {$(
        fn $name(&self, request: &Request, ino: INodeNo $(, $arg: $type)*, reply: $reply) {
            let Some(in_hand) = self.begin(caller(request).unique) else {
                self.complain(request, ino, stringify!($name), &[$(Argument {
                    name: stringify!($arg),
                    type_name: stringify!($type),
                    value: &$arg,
                }),*]);
                return reply.error(Errno::EIO);
            };
            self.adapter.$name(request, ino $(, $arg)*, reply);
            drop(in_hand);
            self.linger.linger();
        }
    )*};
}

impl fuser::Filesystem for Guard {
    fn init(&mut self, request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        self.adapter.init(request, config)
    }

    fn forget(&self, request: &Request, ino: INodeNo, nlookup: u64) {
        self.adapter.forget(request, ino, nlookup);
    }

    guarded! {
        lookup(ino, name: &OsStr) -> ReplyEntry;
        getattr(ino, fh: Option<FileHandle>) -> ReplyAttr;
        setattr(ino, mode: Option<u32>, uid: Option<u32>, gid: Option<u32>, size: Option<u64>,
            atime: Option<TimeOrNow>, mtime: Option<TimeOrNow>, ctime: Option<SystemTime>,
            fh: Option<FileHandle>, crtime: Option<SystemTime>, chgtime: Option<SystemTime>,
            bkuptime: Option<SystemTime>, flags: Option<BsdFileFlags>) -> ReplyAttr;
        readlink(ino) -> ReplyData;
        mknod(ino, name: &OsStr, mode: u32, umask: u32, rdev: u32) -> ReplyEntry;
        mkdir(ino, name: &OsStr, mode: u32, umask: u32) -> ReplyEntry;
        unlink(ino, name: &OsStr) -> ReplyEmpty;
        rmdir(ino, name: &OsStr) -> ReplyEmpty;
        symlink(ino, link_name: &OsStr, target: &Path) -> ReplyEntry;
        rename(ino, name: &OsStr, newparent: INodeNo, newname: &OsStr, flags: RenameFlags)
            -> ReplyEmpty;
        link(ino, newparent: INodeNo, newname: &OsStr) -> ReplyEntry;
        open(ino, flags: OpenFlags) -> ReplyOpen;
        create(ino, name: &OsStr, mode: u32, umask: u32, flags: i32) -> ReplyCreate;
        read(ino, fh: FileHandle, offset: u64, size: u32, flags: OpenFlags,
            lock_owner: Option<LockOwner>) -> ReplyData;
        write(ino, fh: FileHandle, offset: u64, data: &[u8], write_flags: WriteFlags,
            flags: OpenFlags, lock_owner: Option<LockOwner>) -> ReplyWrite;
        flush(ino, fh: FileHandle, lock_owner: LockOwner) -> ReplyEmpty;
        release(ino, fh: FileHandle, flags: OpenFlags, lock_owner: Option<LockOwner>, flush: bool)
            -> ReplyEmpty;
        fsync(ino, fh: FileHandle, datasync: bool) -> ReplyEmpty;
        opendir(ino, flags: OpenFlags) -> ReplyOpen;
        readdir(ino, fh: FileHandle, offset: u64) -> ReplyDirectory;
        readdirplus(ino, fh: FileHandle, offset: u64) -> ReplyDirectoryPlus;
        releasedir(ino, fh: FileHandle, flags: OpenFlags) -> ReplyEmpty;
        fsyncdir(ino, fh: FileHandle, datasync: bool) -> ReplyEmpty;
        statfs(ino) -> ReplyStatfs;
        setxattr(ino, name: &OsStr, value: &[u8], flags: i32, position: u32) -> ReplyEmpty;
        getxattr(ino, name: &OsStr, size: u32) -> ReplyXattr;
        listxattr(ino, size: u32) -> ReplyXattr;
        removexattr(ino, name: &OsStr) -> ReplyEmpty;
        fallocate(ino, fh: FileHandle, offset: u64, length: u64, mode: i32) -> ReplyEmpty;
        ioctl(ino, fh: FileHandle, flags: IoctlFlags, command: u32, input: &[u8],
            output_bytes: u32) -> ReplyIoctl;
        lseek(ino, fh: FileHandle, offset: i64, whence: i32) -> ReplyLseek;
        copy_file_range(ino, fh: FileHandle, offset: u64, ino_out: INodeNo, fh_out: FileHandle,
            offset_out: u64, len: u64, flags: CopyFileRangeFlags) -> ReplyWrite;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    macro_rules! name_of {
        ($type:ty) => {
            stringify!($type)
        };
    }

    /// Goal: the log names what a request was about, and holds no byte of a user's file.
    #[test]
    fn what_users_write_is_not_logged() {
        let bytes: &[u8] = b"secret";
        let data = Argument { name: "data", type_name: name_of!(&[u8]), value: &bytes };
        assert_eq!(data.in_words(), " data=...");
        let name = Argument { name: "name", type_name: name_of!(&OsStr), value: &OsStr::new("f") };
        assert_eq!(name.in_words(), " name=\"f\"");
    }
}
