//! open(2) with every flag on every type of file.

use std::fs;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use libc::*;

use crate::log::Log;
use crate::sys::{self, c, open, openat, sys};

const FLAGS: [(&str, i32); 22] = [
    ("0", 0),
    ("CREAT", O_CREAT),
    ("CREAT|EXCL", O_CREAT | O_EXCL),
    ("EXCL", O_EXCL),
    ("TRUNC", O_TRUNC),
    ("CREAT|TRUNC", O_CREAT | O_TRUNC),
    ("APPEND", O_APPEND),
    ("APPEND|TRUNC", O_APPEND | O_TRUNC),
    ("DIRECTORY", O_DIRECTORY),
    ("CREAT|DIRECTORY", O_CREAT | O_DIRECTORY),
    ("DIRECTORY|NOFOLLOW", O_DIRECTORY | O_NOFOLLOW),
    ("NOFOLLOW", O_NOFOLLOW),
    ("CREAT|NOFOLLOW", O_CREAT | O_NOFOLLOW),
    ("PATH", O_PATH),
    ("PATH|NOFOLLOW", O_PATH | O_NOFOLLOW),
    ("PATH|DIRECTORY", O_PATH | O_DIRECTORY),
    ("NOATIME", O_NOATIME),
    ("DIRECT", O_DIRECT),
    ("SYNC", O_SYNC),
    ("DSYNC", O_DSYNC),
    ("NONBLOCK", O_NONBLOCK),
    ("NOCTTY|LARGEFILE", O_NOCTTY | O_LARGEFILE),
];

const NAMES: [&str; 20] = [
    "regular",
    "regular/",
    "regular/below",
    "directory",
    "directory/",
    "directory/.",
    ".",
    "..",
    "link",
    "link/",
    "dirlink",
    "dirlink/",
    "dangling",
    "loop",
    "fifo",
    "socket",
    "null",
    "nodev",
    "missing",
    "missing/",
];

fn make_one_of_each() {
    drop(sys::file("regular", b"some bytes"));
    fs::create_dir("directory").unwrap();
    for (target, name) in
        [("regular", "link"), ("directory", "dirlink"), ("absent", "dangling"), ("loop", "loop")]
    {
        std::os::unix::fs::symlink(target, name).unwrap();
    }
    sys::make_fifo("fifo", 0o644);
    sys::make_socket("socket", 0o644);
    // Without root there are no devices: then the names are just absent.
    let _ = sys!(mknod(c("null").as_ptr(), S_IFCHR | 0o644, makedev(1, 3)));
    let _ = sys!(mknod(c("nodev").as_ptr(), S_IFBLK | 0o644, makedev(4000, 1)));
}

pub fn every_flag_on_every_type(log: &Log) {
    make_one_of_each();
    for name in NAMES.into_iter().chain([""]) {
        for (access_name, access) in [("R", O_RDONLY), ("W", O_WRONLY), ("RW", O_RDWR), ("3", 3)] {
            for (flags_name, flags) in FLAGS {
                // A FIFO without its other end would wait.
                let wait = if name == "fifo" { O_NONBLOCK } else { 0 };
                let opened = open(name, access | flags | wait, 0o640);
                let shown = opened.and_then(|fd| {
                    let flags = sys!(fcntl(fd.as_raw_fd(), F_GETFL))?;
                    let stat = sys::fstat(&fd)?;
                    let size = if stat.st_mode & S_IFMT == S_IFREG { stat.st_size } else { 0 };
                    Ok(format!("flags {flags:o} mode {:o} size {size}", stat.st_mode))
                });
                log.value(format_args!("open {name:?} {access_name} {flags_name}"), shown);
                for made in ["absent", "missing"] {
                    let _ = fs::remove_file(made);
                }
                if flags & O_TRUNC != 0 {
                    drop(sys::file("regular", b"some bytes"));
                }
            }
        }
    }
}

pub fn bad_descriptors_and_resolve_flags(log: &Log) {
    make_one_of_each();
    let regular = open("regular", O_RDONLY, 0).unwrap();
    let directory = open("directory", O_RDONLY, 0).unwrap();
    log.ok("openat of -1", openat(-1, "x", O_RDONLY, 0));
    log.ok("openat of a file", openat(regular.as_raw_fd(), "x", O_RDONLY, 0));
    log.ok("openat of a directory", openat(directory.as_raw_fd(), "x", O_RDONLY, 0));
    log.ok("a bad address", sys!(open(std::ptr::without_provenance(8), O_RDONLY)));
    log.ok("a long path", open("a/".repeat(2048), O_RDONLY, 0));
    let resolves = [
        ("NO_XDEV", 1),
        ("NO_MAGICLINKS", 2),
        ("NO_SYMLINKS", 4),
        ("BENEATH", 8),
        ("IN_ROOT", 16),
        ("CACHED", 32),
        ("bad", 1 << 30),
    ];
    for name in ["regular", "link", "dirlink", "..", "directory/../regular", "loop"] {
        for (resolve_name, resolve) in resolves {
            // struct open_how: flags, mode, resolve.
            let how = [O_RDONLY as u64, 0, resolve];
            let path = c(name);
            let opened = sys!(syscall(
                SYS_openat2,
                AT_FDCWD,
                path.as_ptr(),
                how.as_ptr(),
                size_of_val(&how)
            ));
            // Whether a name is cached is nobody's promise.
            if resolve_name != "CACHED" {
                log.ok(format_args!("openat2 {name} {resolve_name}"), opened);
            }
        }
    }
}

pub fn temporary_files(log: &Log) {
    for (name, flags) in
        [("W", O_WRONLY), ("RW", O_RDWR), ("RW|EXCL", O_RDWR | O_EXCL), ("R", O_RDONLY)]
    {
        let used = open(".", O_TMPFILE | flags, 0o600).and_then(|fd| {
            let written = sys::write(&fd, b"no name")?;
            let stat = sys::shown(&sys::fstat(&fd)?);
            let (from, to) = (c(format!("/proc/self/fd/{}", fd.as_raw_fd())), c("linked"));
            let follow = AT_SYMLINK_FOLLOW;
            let linked = sys!(linkat(AT_FDCWD, from.as_ptr(), AT_FDCWD, to.as_ptr(), follow));
            let contents = fs::read("linked").map_err(|error| error.kind());
            let _ = fs::remove_file("linked");
            Ok((written, stat, linked.map_err(|error| error.kind()), contents))
        });
        log.value(format_args!("O_TMPFILE {name}"), used);
    }
    drop(sys::file("regular", b""));
    log.ok("O_TMPFILE of a file", open("regular", O_TMPFILE | O_RDWR, 0o600));
    log.ok("O_TMPFILE of nothing", open("missing", O_TMPFILE | O_RDWR, 0o600));
}

pub fn path_descriptors(log: &Log) {
    make_one_of_each();
    for name in ["regular", "directory", "link", "fifo", "socket", "null"] {
        let Ok(fd) = open(name, O_PATH | O_NOFOLLOW, 0) else { continue };
        let raw = fd.as_raw_fd();
        log.value(format_args!("{name} fstat"), sys::fstat(&fd).map(|stat| stat.st_mode));
        log.value(format_args!("{name} read"), sys::read(&fd, 1));
        log.value(format_args!("{name} write"), sys::write(&fd, b"x"));
        log.ok(format_args!("{name} fchmod"), sys!(fchmod(raw, 0o600)));
        log.ok(format_args!("{name} fchown"), sys!(fchown(raw, 0, 0)));
        log.ok(format_args!("{name} ftruncate"), sys!(ftruncate(raw, 0)));
        log.ok(format_args!("{name} fsync"), sys!(fsync(raw)));
        log.ok(format_args!("{name} lseek"), sys!(lseek(raw, 0, SEEK_SET)));
        log.ok(format_args!("{name} ioctl"), sys!(ioctl(raw, FIONREAD, &mut 0)));
        log.ok(
            format_args!("{name} fchdir"),
            sys!(fchdir(raw)).map(|_| std::env::set_current_dir("..")),
        );
        let magic = format!("/proc/self/fd/{raw}");
        if name != "fifo" {
            log.ok(format_args!("{name} open again"), open(&magic, O_RDONLY, 0));
        }
        log.ok(format_args!("{name} chmod by proc"), sys!(chmod(c(&magic).as_ptr(), 0o604)));
        let empty = c("");
        let times = [timespec { tv_sec: 1000, tv_nsec: 5 }; 2];
        log.ok(
            format_args!("{name} utimensat empty path"),
            sys!(utimensat(raw, empty.as_ptr(), times.as_ptr(), AT_EMPTY_PATH)),
        );
        log.ok(
            format_args!("{name} fchownat empty path"),
            sys!(fchownat(raw, empty.as_ptr(), 3, 4, AT_EMPTY_PATH)),
        );
    }
}

pub fn deleted_files_again(log: &Log) {
    let first = sys::file("gone", b"first bytes");
    fs::remove_file("gone").unwrap();
    let magic = format!("/proc/self/fd/{}", first.as_raw_fd());
    let again = log.ok("open again", open(&magic, O_RDWR, 0));
    log.value("stat", sys::fstat(&first).map(|stat| sys::shown(&stat)));
    if let Some(again) = again {
        log.value("write", sys::pwrite(&again, b"FIRST", 0));
        log.value("append", sys::pwrite(&again, &sys::pattern(100_000), 200_000));
    }
    log.value("read", sys::pread(&first, 400_000, 0));
    log.ok("truncate again", open(&magic, O_RDWR | O_TRUNC, 0));
    log.value("read", sys::pread(&first, 400_000, 0));
    log.ok("chmod", sys!(fchmod(first.as_raw_fd(), 0o123)));
    log.ok("chown", sys!(fchown(first.as_raw_fd(), 12, 13)));
    let value = c("user.x");
    log.ok(
        "fsetxattr",
        sys!(fsetxattr(first.as_raw_fd(), value.as_ptr(), c("v").as_ptr().cast(), 1, 0)),
    );
    log.value("stat", sys::fstat(&first).map(|stat| sys::shown(&stat)));
    log.value("readlink", fs::read_link(&magic).map(|path| path.ends_with("gone (deleted)")));
    log.ok("the name", open("gone", O_RDONLY, 0));
    drop(sys::file("gone", b"second"));
    log.value("read the first", sys::pread(&first, 10, 0));
    sys::log_file(log, "gone");
}

pub fn modes_and_umask(log: &Log) {
    for mask in [0, 0o022, 0o077, 0o777] {
        sys::umask(mask);
        for mode in [0, 0o644, 0o666, 0o777, 0o7777, 0o170_644] {
            let name = format!("f-{mask:o}-{mode:o}");
            let made = open(&name, O_RDWR | O_CREAT | O_EXCL, mode);
            if let Some(fd) = log.ok(format_args!("creat {name}"), made) {
                log.value("write", sys::write(&fd, b"x"));
            }
            sys::log_stat(log, &name);
            let name = format!("d-{mask:o}-{mode:o}");
            log.ok(format_args!("mkdir {name}"), sys!(mkdir(c(&name).as_ptr(), mode)));
            sys::log_stat(log, &name);
            let name = format!("n-{mask:o}-{mode:o}");
            log.ok(format_args!("mkfifo {name}"), sys!(mkfifo(c(&name).as_ptr(), mode)));
            sys::log_stat(log, &name);
        }
    }
}

pub fn running_programs_are_not_written(log: &Log) {
    fs::copy("/bin/sleep", "program").unwrap();
    let running = std::process::Command::new("./program").arg("60").spawn();
    let Some(mut running) = log.ok("run", running) else { return };
    log.ok("write a running program", open("program", O_WRONLY, 0));
    log.ok("read a running program", open("program", O_RDONLY, 0));
    log.ok("truncate a running program", sys!(truncate(c("program").as_ptr(), 0)));
    running.kill().unwrap();
    running.wait().unwrap();
    let writing = log.ok("write it now", open("program", O_WRONLY, 0));
    log.ok("run while written", std::process::Command::new("./program").arg("0").status());
    drop(writing);
    log.value("run", std::process::Command::new("./program").arg("0").status());
    fs::write("script", "#!/bin/sh\nexit 3\n").unwrap();
    log.ok("chmod", sys!(chmod(c("script").as_ptr(), 0o755)));
    log.value("run a script", std::process::Command::new("./script").status());
    log.ok("chmod", sys!(chmod(c("script").as_ptr(), 0o644)));
    log.value("run without x", std::process::Command::new("./script").status());
    let bad = open("script", O_RDONLY, 0).unwrap();
    // SAFETY: a descriptor of ours, given up.
    drop(unsafe { OwnedFd::from_raw_fd(std::os::fd::IntoRawFd::into_raw_fd(bad)) });
}
