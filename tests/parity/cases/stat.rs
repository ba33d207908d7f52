//! What stat, statx and statfs show, and times.

use std::fs;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;
use std::os::unix::fs::symlink;

use libc::*;

use crate::log::Log;
use crate::sys::{self, c, open, pattern, sys};

const NAMES: [&str; 6] = ["file", "directory", "link", "fifo", "socket", "missing"];

fn make_files() {
    drop(sys::file("file", &pattern(10_000)));
    fs::create_dir_all("directory/below").unwrap();
    fs::create_dir("directory/other").unwrap();
    symlink("file", "link").unwrap();
    sys::make_fifo("fifo", 0o600);
    sys::make_socket("socket", 0o600);
}

fn statx(name: &str, flags: i32, mask: u32) -> io::Result<libc::statx> {
    let (path, mut buf) = (c(name), MaybeUninit::<libc::statx>::zeroed());
    sys!(statx(AT_FDCWD, path.as_ptr(), flags | AT_SYMLINK_NOFOLLOW, mask, buf.as_mut_ptr()))?;
    // SAFETY: plain old data, zeroed before the call.
    Ok(unsafe { buf.assume_init() })
}

pub fn fields(log: &Log) {
    make_files();
    for name in NAMES {
        let stat = sys::lstat(name);
        log.value(format_args!("stat {name}"), stat.map(|stat| sys::shown(&stat)));
        log.value(format_args!("{name}: blksize"), sys::lstat(name).map(|stat| stat.st_blksize));
        for (flags_name, flags) in
            [("0", 0), ("FORCE_SYNC", 0x2000), ("DONT_SYNC", 0x4000), ("bad", 0x6000)]
        {
            let call = format!("statx {name} {flags_name}");
            let found = statx(name, flags, STATX_BASIC_STATS);
            let shown = found.map(|x| {
                (x.stx_mask & STATX_BASIC_STATS, x.stx_mode, x.stx_nlink, x.stx_uid, x.stx_gid)
            });
            log.value(call, shown);
        }
        let mount_id = statx(name, 0, STATX_MNT_ID).map(|x| x.stx_mask & STATX_MNT_ID);
        log.value(format_args!("statx {name} MNT_ID"), mount_id);
        log.ok(format_args!("statx {name} reserved"), statx(name, 0, 1 << 31));
        let attributes = statx(name, 0, STATX_BASIC_STATS).map(|x| x.stx_attributes);
        log.value(format_args!("statx {name}: attributes"), attributes);
    }
    let fd = open("file", O_RDONLY, 0).unwrap();
    sys!(fsync(fd.as_raw_fd())).unwrap();
    log.value("blocks, synced", sys::fstat(&fd).map(|stat| stat.st_blocks));
    sys!(truncate(c("file").as_ptr(), 1 << 30)).unwrap();
    log.value("blocks, sparse", sys::fstat(&fd).map(|stat| stat.st_blocks));
    sys!(truncate(c("file").as_ptr(), 0)).unwrap();
    log.value("blocks, empty", sys::fstat(&fd).map(|stat| stat.st_blocks));
    let same = sys::lstat("file").unwrap().st_ino == sys::fstat(&fd).unwrap().st_ino;
    log.line("inode numbers agree", same);
    let listed: Vec<bool> = fs::read_dir(".")
        .unwrap()
        .map(|entry| entry.unwrap())
        .map(|entry| {
            let ino = std::os::unix::fs::DirEntryExt::ino(&entry);
            ino == std::os::unix::fs::MetadataExt::ino(&entry.metadata().unwrap())
        })
        .collect();
    log.line("listed inode numbers agree", format_args!("{listed:?}"));
}

pub fn birth_and_direct_io(log: &Log) {
    make_files();
    let birth = statx("file", 0, STATX_BTIME).map(|x| x.stx_mask & STATX_BTIME != 0);
    log.value("BTIME", birth);
    let direct = statx("file", 0, STATX_DIOALIGN).map(|x| x.stx_mask & STATX_DIOALIGN != 0);
    log.value("DIOALIGN", direct);
    let mask = statx("file", 0, STATX_BASIC_STATS).map(|x| x.stx_attributes_mask);
    log.value("attributes mask", mask);
}

pub fn of_the_filesystem(log: &Log) {
    // SAFETY: plain old data.
    let mut stats: libc::statfs = unsafe { std::mem::zeroed() };
    let path = c(".");
    log.ok("statfs", sys!(statfs(path.as_ptr(), &mut stats)));
    log.line("type", stats.f_type);
    log.line("sizes", format_args!("{} {} {}", stats.f_bsize, stats.f_frsize, stats.f_namelen));
    log.line("blocks", stats.f_blocks);
    let parent = c("../../plain");
    // SAFETY: as above.
    let mut plain: libc::statfs = unsafe { std::mem::zeroed() };
    log.ok("statfs of the plain directory", sys!(statfs(parent.as_ptr(), &mut plain)));
    // Others use the filesystem, too.
    let near = |a: u64, b: u64| a.abs_diff(b) < 65_536;
    log.line("free", near(stats.f_bfree, plain.f_bfree) && near(stats.f_bavail, plain.f_bavail));
    log.line("inodes", stats.f_files == plain.f_files && near(stats.f_ffree, plain.f_ffree));
    log.ok("missing", sys!(statfs(c("missing").as_ptr(), &mut stats)));
}

const OMIT: timespec = timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
const NOW: timespec = timespec { tv_sec: 0, tv_nsec: UTIME_NOW };

fn at(tv_sec: i64, tv_nsec: i64) -> timespec {
    timespec { tv_sec, tv_nsec }
}

fn utimensat(name: &str, atime: timespec, mtime: timespec) -> io::Result<i64> {
    let (path, times) = (c(name), [atime, mtime]);
    sys!(utimensat(AT_FDCWD, path.as_ptr(), times.as_ptr(), AT_SYMLINK_NOFOLLOW))
}

fn log_times(log: &Log, what: &str, name: &str) {
    let recent = |secs: i64, nanos: i64| {
        if secs > 1_700_000_000 && secs < 4_000_000_000 {
            "now".into()
        } else {
            format!("{secs}.{nanos:09}")
        }
    };
    let shown = sys::lstat(name).map(|stat| {
        let mtime = recent(stat.st_mtime, stat.st_mtime_nsec);
        let ctime = recent(stat.st_ctime, stat.st_ctime_nsec);
        format!("atime {} mtime {mtime} ctime {ctime}", recent(stat.st_atime, stat.st_atime_nsec))
    });
    log.value(format_args!("{what}: times of {name}"), shown);
}

pub fn set_times(log: &Log) {
    make_files();
    for name in NAMES {
        for (what, atime, mtime) in [
            ("exact", at(1_000_000_000, 123_456_789), at(1_100_000_000, 987_654_321)),
            ("omit atime", OMIT, at(1_200_000_000, 1)),
            ("omit mtime", at(1_200_000_001, 2), OMIT),
            ("omit both", OMIT, OMIT),
            ("now, omit", NOW, OMIT),
            ("omit, now", OMIT, NOW),
            ("bad nanoseconds", at(0, 1_000_000_000), at(0, 0)),
            ("negative nanoseconds", at(0, -1), at(0, 0)),
            ("before 1970", at(-1, 999_999_999), at(-1_000_000, 5)),
            ("before 1901", at(-3_000_000_000, 1), at(-3_000_000_000, 1)),
            ("after 2038", at(3_000_000_000, 7), at(4_200_000_000, 8)),
            ("after 2446", at(16_000_000_000, 7), at(17_000_000_000, 8)),
            ("far", at(i64::MAX, 0), at(i64::MAX, 0)),
            ("zero", at(0, 0), at(0, 0)),
        ] {
            log.ok(format_args!("set {what} of {name}"), utimensat(name, atime, mtime));
            log_times(log, what, name);
        }
    }
    let null = std::ptr::null();
    log.ok("null", sys!(utimensat(AT_FDCWD, c("file").as_ptr(), null, 0)));
    log_times(log, "null", "file");
    log.ok("bad flags", sys!(utimensat(AT_FDCWD, c("file").as_ptr(), null, 1)));
    let fd = sys::file("buffered", b"");
    sys::pwrite(&fd, &pattern(500_000), 0).unwrap();
    let times = [at(1000, 1), at(2000, 2)];
    log.ok("futimens", sys!(futimens(fd.as_raw_fd(), times.as_ptr())));
    log_times(log, "futimens", "buffered");
    log.ok("fsync", sys!(fsync(fd.as_raw_fd())));
    log_times(log, "synced", "buffered");
    sys::pwrite(&fd, b"x", 0).unwrap();
    log_times(log, "written", "buffered");
    log.ok("futimens", sys!(futimens(fd.as_raw_fd(), times.as_ptr())));
    drop(fd);
    log_times(log, "closed", "buffered");
}

pub fn times_of_others(log: &Log) {
    drop(sys::file("file", b""));
    drop(sys::file("writable", b""));
    sys!(chmod(c("writable").as_ptr(), 0o666)).unwrap();
    for uid in [sys::NOBODY, sys::SOMEBODY] {
        sys::as_user(log, uid, uid, &[], || {
            for name in ["file", "writable"] {
                log.ok(format_args!("exact {name}"), utimensat(name, at(5, 5), at(5, 5)));
                log.ok(format_args!("now {name}"), utimensat(name, NOW, NOW));
                log.ok(format_args!("now, omit {name}"), utimensat(name, NOW, OMIT));
                log.ok(format_args!("omit {name}"), utimensat(name, OMIT, OMIT));
            }
        });
    }
}

/// Which times a call moves on.
pub fn what_moves_times(log: &Log) {
    fs::create_dir("d").unwrap();
    let fd = sys::file("d/file", &pattern(10_000));
    let act = |log: &Log, what: &str, act: &dyn Fn()| {
        for name in ["d", "d/file"] {
            if sys::lstat(name).is_ok() {
                utimensat(name, at(1000, 0), at(1000, 0)).unwrap();
            }
        }
        let before = ["d", "d/file"].map(|name| sys::lstat(name).ok());
        std::thread::sleep(std::time::Duration::from_millis(12));
        act();
        let after = ["d", "d/file"].map(|name| sys::lstat(name).ok());
        for ((name, before), after) in ["d", "d/file"].iter().zip(before).zip(after) {
            let (Some(a), Some(b)) = (before, after) else { continue };
            let moved = [
                ("atime", (a.st_atime, a.st_atime_nsec) != (b.st_atime, b.st_atime_nsec)),
                ("mtime", (a.st_mtime, a.st_mtime_nsec) != (b.st_mtime, b.st_mtime_nsec)),
                ("ctime", (a.st_ctime, a.st_ctime_nsec) != (b.st_ctime, b.st_ctime_nsec)),
            ];
            let moved: Vec<&str> = moved.iter().filter(|one| one.1).map(|one| one.0).collect();
            log.line(format_args!("{what} moves of {name}"), format_args!("{moved:?}"));
        }
    };
    let raw = fd.as_raw_fd();
    act(log, "nothing", &|| {});
    act(log, "a read", &|| drop(sys::pread(&fd, 100, 0)));
    act(log, "a read of nothing", &|| drop(sys::pread(&fd, 100, 1 << 30)));
    act(log, "a write", &|| drop(sys::pwrite(&fd, b"x", 0)));
    act(log, "a write of nothing", &|| drop(sys::pwrite(&fd, b"", 0)));
    act(log, "a longer write", &|| drop(sys::pwrite(&fd, &pattern(100_000), 0)));
    act(log, "ftruncate", &|| drop(sys!(ftruncate(raw, 500))));
    act(log, "ftruncate to the same", &|| drop(sys!(ftruncate(raw, 500))));
    act(log, "truncate to the same", &|| drop(sys!(truncate(c("d/file").as_ptr(), 500))));
    act(log, "O_TRUNC", &|| drop(open("d/file", O_WRONLY | O_TRUNC, 0)));
    act(log, "O_TRUNC of an empty one", &|| drop(open("d/file", O_WRONLY | O_TRUNC, 0)));
    act(log, "fallocate", &|| drop(sys!(fallocate(raw, 0, 0, 10_000))));
    act(log, "fallocate, keeping", &|| drop(sys!(fallocate(raw, 1, 0, 50_000))));
    act(log, "chmod", &|| drop(sys!(fchmod(raw, 0o640))));
    act(log, "chmod to the same", &|| drop(sys!(fchmod(raw, 0o640))));
    act(log, "chown", &|| drop(sys!(fchown(raw, 7, 7))));
    act(log, "link", &|| drop(fs::hard_link("d/file", "d/link")));
    act(log, "unlink", &|| drop(fs::remove_file("d/link")));
    act(log, "rename", &|| drop(fs::rename("d/file", "d/file")));
    act(log, "rename away and back", &|| {
        drop(fs::rename("d/file", "d/other").and_then(|()| fs::rename("d/other", "d/file")));
    });
    act(log, "setxattr", &|| {
        drop(sys!(fsetxattr(raw, c("user.a").as_ptr(), c("v").as_ptr().cast(), 1, 0)));
    });
    act(log, "create", &|| drop(sys::file("d/new", b"")));
    act(log, "open", &|| drop(open("d/file", O_RDWR, 0)));
    act(log, "mkdir", &|| drop(fs::create_dir("d/below")));
    act(log, "rmdir", &|| drop(fs::remove_dir("d/below")));
    act(log, "symlink", &|| drop(symlink("x", "d/symlink")));
    act(log, "readdir", &|| drop(fs::read_dir("d").map(Iterator::count)));
    act(log, "fsync", &|| drop(sys!(fsync(raw))));
    // Without fallocate it is shorter than a page.
    sys!(ftruncate(raw, 10_000)).unwrap();
    act(log, "mmap write", &|| {
        let len = 4096;
        // SAFETY: a mapping of a file of at least one page, gone before the descriptor.
        unsafe {
            let map = mmap(std::ptr::null_mut(), len, PROT_READ | PROT_WRITE, MAP_SHARED, raw, 0);
            assert_ne!(map, MAP_FAILED);
            *map.cast::<u8>() = b'm';
            msync(map, len, MS_SYNC);
            munmap(map, len);
        }
    });
}

/// relatime: a read moves atime when that is older than mtime or than a day.
pub fn relatime(log: &Log) {
    let fd = sys::file("file", &pattern(10_000));
    let now = sys::fstat(&fd).unwrap().st_mtime;
    for (what, atime, mtime) in [
        ("older than mtime", now - 1000, now - 500),
        ("newer than mtime", now - 500, now - 1000),
        ("older than a day", now - 200_000, now - 300_000),
    ] {
        for synced in [false, true] {
            if synced {
                sys!(fsync(fd.as_raw_fd())).unwrap();
            }
            utimensat("file", at(atime, 0), at(mtime, 0)).unwrap();
            let opened = open("file", O_RDONLY, 0).unwrap();
            sys::read(&opened, 100).unwrap();
            drop(opened);
            let moved = sys::lstat("file").map(|stat| stat.st_atime != atime);
            let state = if synced { "synced" } else { "buffered" };
            log.value(format_args!("{state}, {what}: a read moves atime"), moved);
        }
    }
    fs::create_dir("d").unwrap();
    drop(sys::file("d/file", b""));
    symlink("target", "link").unwrap();
    for name in ["d", "link"] {
        log.ok(format_args!("{name}: set times"), utimensat(name, at(1000, 0), at(2000, 0)));
        let _ = fs::read_dir(name).map(Iterator::count);
        let _ = fs::read_link(name);
        let moved = sys::lstat(name).map(|stat| stat.st_atime != 1000);
        log.value(format_args!("{name}: a read moves atime"), moved);
    }
}
