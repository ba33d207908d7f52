//! ioctl(2) on files and directories.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};

use libc::*;

use crate::log::Log;
use crate::sys::{self, open, pattern, sys};

// From linux/fs.h and linux/fiemap.h, which libc has not.
const FS_IOC_GETFSLABEL: Ioctl = 0x8100_9431;
const FS_IOC_GETFSUUID: Ioctl = 0x8011_1500;
const FS_IOC_FSGETXATTR: Ioctl = 0x801c_581f;
const FS_IOC_FSSETXATTR: Ioctl = 0x401c_5820;
const FS_IOC_FIEMAP: Ioctl = 0xc020_660b;
const FIDEDUPERANGE: Ioctl = 0xc018_9436;
const FIBMAP: Ioctl = 1;
const FIGETBSZ: Ioctl = 2;

fn directory() -> OwnedFd {
    fs::create_dir("directory").unwrap();
    open("directory", O_RDONLY, 0).unwrap()
}

pub fn file_flags(log: &Log) {
    let (file, directory) = (sys::file("file", b"bytes"), directory());
    for (name, fd) in [("file", &file), ("directory", &directory)] {
        let get = || {
            let mut flags: c_int = 0;
            sys!(ioctl(fd.as_raw_fd(), FS_IOC_GETFLAGS, &mut flags)).map(|_| format!("{flags:x}"))
        };
        let set = |flags: c_int| sys!(ioctl(fd.as_raw_fd(), FS_IOC_SETFLAGS, &flags));
        log.value(format_args!("{name} GETFLAGS"), get());
        for (flag_name, flag) in
            [("NODUMP", 0x40), ("NOATIME", 0x80), ("SYNC", 8), ("none", 0), ("bad", 1 << 31)]
        {
            log.ok(format_args!("{name} SETFLAGS {flag_name}"), set(flag));
            log.value(format_args!("{name} GETFLAGS"), get());
        }
        sys::as_user(log, sys::NOBODY, sys::NOBODY, &[], || {
            log.ok(format_args!("{name} SETFLAGS as nobody"), set(0x40));
        });
        let _ = set(0);
    }
}

/// Append-only and immutable files.
pub fn forbidding_flags(log: &Log) {
    for (flag_name, flag) in [("APPEND", 0x20), ("IMMUTABLE", 0x10)] {
        let fd = sys::file("file", b"bytes");
        let mut before: c_int = 0;
        let _ = sys!(ioctl(fd.as_raw_fd(), FS_IOC_GETFLAGS, &mut before));
        let set = |flag: c_int| {
            let flags = before | flag;
            sys!(ioctl(fd.as_raw_fd(), FS_IOC_SETFLAGS, &flags))
        };
        log.ok(format_args!("SETFLAGS {flag_name}"), set(flag));
        log.ok(format_args!("{flag_name}: open to write"), open("file", O_WRONLY, 0));
        log.ok(format_args!("{flag_name}: to append"), open("file", O_WRONLY | O_APPEND, 0));
        log.ok(format_args!("{flag_name}: unlink"), fs::remove_file("file"));
        log.ok(format_args!("{flag_name}: chmod"), sys!(fchmod(fd.as_raw_fd(), 0o600)));
        log.ok(format_args!("{flag_name}: truncate"), sys!(ftruncate(fd.as_raw_fd(), 1)));
        log.ok(format_args!("{flag_name}: link"), fs::hard_link("file", "other"));
        let _ = set(0);
        let _ = fs::remove_file("other");
        let _ = fs::remove_file("file");
    }
}

pub fn extended_flags(log: &Log) {
    let (file, directory) = (sys::file("file", b"bytes"), directory());
    for (name, fd) in [("file", &file), ("directory", &directory)] {
        // struct fsxattr: flags, extent size, extents, project, copy-on-write extent size.
        let mut extended = [0u32; 7];
        let got = sys!(ioctl(fd.as_raw_fd(), FS_IOC_FSGETXATTR, extended.as_mut_ptr()));
        log.value(format_args!("{name} FSGETXATTR"), got.map(|_| (extended[0], extended[3])));
        extended[0] = 0x80;
        let set = sys!(ioctl(fd.as_raw_fd(), FS_IOC_FSSETXATTR, extended.as_ptr()));
        log.ok(format_args!("{name} FSSETXATTR"), set);
    }
}

pub fn clones(log: &Log) {
    let source = sys::file("source", &pattern(200_000));
    let target = sys::file("target", b"before");
    let (from, to) = (source.as_raw_fd(), target.as_raw_fd());
    log.ok("FICLONE", sys!(ioctl(to, FICLONE, from)));
    log.value("FICLONE: bytes", fs::read("target").map(|bytes| sys::brief(&bytes)));
    sys!(ftruncate(to, 0)).unwrap();
    let range = file_clone_range { src_fd: 0, src_offset: 0, src_length: 65_536, dest_offset: 0 };
    let range = file_clone_range { src_fd: from.into(), ..range };
    log.ok("FICLONERANGE", sys!(ioctl(to, FICLONERANGE, &range)));
    log.value("FICLONERANGE: bytes", fs::read("target").map(|bytes| sys::brief(&bytes)));
    let odd = file_clone_range { src_offset: 1, ..range };
    log.ok("FICLONERANGE odd", sys!(ioctl(to, FICLONERANGE, &odd)));
    // struct file_dedupe_range with one target.
    let mut dedupe = [0u64, 65_536, 1, to as u64, 0, 0, 0];
    log.ok("FIDEDUPERANGE", sys!(ioctl(from, FIDEDUPERANGE, dedupe.as_mut_ptr())));
    sys!(ftruncate(to, 0)).unwrap();
    log.ok("FICLONE of a bad descriptor", sys!(ioctl(to, FICLONE, -1)));
}

pub fn extents(log: &Log) {
    let fd = sys::file("file", &pattern(200_000));
    sys!(fsync(fd.as_raw_fd())).unwrap();
    // struct fiemap without room for extents: start, length, flags and mapped, count.
    let mut map = [0u64, u64::MAX, 1, 0];
    let mapped = sys!(ioctl(fd.as_raw_fd(), FS_IOC_FIEMAP, map.as_mut_ptr()));
    log.ok("FIEMAP", mapped);
    let mut block: c_int = 0;
    log.ok("FIBMAP", sys!(ioctl(fd.as_raw_fd(), FIBMAP, &mut block)));
}

pub fn generic(log: &Log) {
    let (file, directory) = (sys::file("file", &pattern(1000)), directory());
    sys::make_fifo("fifo", 0o600);
    let fifo = sys::both_ways("fifo");
    if let Some((_, fifo)) = &fifo {
        sys::write(fifo, b"in the fifo").unwrap();
    }
    sys!(lseek(file.as_raw_fd(), 100, SEEK_SET)).unwrap();
    let fifo = fifo.as_ref().map(|(name, fd)| (*name, fd));
    for (name, fd) in [("file", &file), ("directory", &directory)].into_iter().chain(fifo) {
        let fd = fd.as_raw_fd();
        let mut value: c_int = 0;
        let left = sys!(ioctl(fd, FIONREAD, &mut value));
        log.value(format_args!("{name} FIONREAD"), left.map(|_| value));
        log.ok(format_args!("{name} FIONBIO"), sys!(ioctl(fd, FIONBIO, &1)));
        log.ok(format_args!("{name} FIOCLEX"), sys!(ioctl(fd, FIOCLEX)));
        let mut value: c_int = 0;
        let size = sys!(ioctl(fd, FIGETBSZ, &mut value));
        log.value(format_args!("{name} FIGETBSZ"), size.map(|_| value));
        let mut space = [0u8; 256];
        let at = space.as_mut_ptr();
        log.ok(format_args!("{name} TCGETS"), sys!(ioctl(fd, TCGETS, at)));
        log.ok(format_args!("{name} unknown 0x1234"), sys!(ioctl(fd, 0x1234, at)));
        log.ok(format_args!("{name} unknown 0xc0081234"), sys!(ioctl(fd, 0xc008_1234, at)));
        log.ok(format_args!("{name} GETFSLABEL"), sys!(ioctl(fd, FS_IOC_GETFSLABEL, at)));
        log.ok(format_args!("{name} GETFSUUID"), sys!(ioctl(fd, FS_IOC_GETFSUUID, at)));
        log.ok(format_args!("{name} GETVERSION"), sys!(ioctl(fd, FS_IOC_GETVERSION, at)));
    }
    let path = open("file", O_PATH, 0).unwrap();
    log.ok("path FIONREAD", sys!(ioctl(path.as_raw_fd(), FIONREAD, &mut 0)));
    log.ok("bad address", sys!(ioctl(file.as_raw_fd(), FS_IOC_GETFLAGS, 8usize)));
}
