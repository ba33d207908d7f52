//! Sizes, holes and space: fallocate, SEEK_DATA, copy_file_range, truncate, limits.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use libc::*;

use crate::log::Log;
use crate::sys::{self, c, open, pattern, sys};

const BLOCK: i64 = 4096;

const MODES: [(&str, i32); 12] = [
    ("0", 0),
    ("KEEP_SIZE", FALLOC_FL_KEEP_SIZE),
    ("PUNCH_HOLE|KEEP_SIZE", FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE),
    ("PUNCH_HOLE", FALLOC_FL_PUNCH_HOLE),
    ("ZERO_RANGE", FALLOC_FL_ZERO_RANGE),
    ("ZERO_RANGE|KEEP_SIZE", FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE),
    ("COLLAPSE_RANGE", FALLOC_FL_COLLAPSE_RANGE),
    ("COLLAPSE_RANGE|KEEP_SIZE", FALLOC_FL_COLLAPSE_RANGE | FALLOC_FL_KEEP_SIZE),
    ("INSERT_RANGE", FALLOC_FL_INSERT_RANGE),
    ("UNSHARE_RANGE", FALLOC_FL_UNSHARE_RANGE),
    ("UNSHARE_RANGE|KEEP_SIZE", FALLOC_FL_UNSHARE_RANGE | FALLOC_FL_KEEP_SIZE),
    ("bad", 1 << 20),
];

fn fallocate_all(log: &Log, modes: &[(&str, i32)]) {
    let ranges = [
        (0, BLOCK),
        (BLOCK, 2 * BLOCK),
        (100, 5000),
        (90_000, 50_000),
        (200_000, BLOCK),
        (0, 0),
        (-1, BLOCK),
        (0, -1),
        (0, 1 << 20),
        (i64::MAX - 10, 100),
        (24 * BLOCK, BLOCK),
    ];
    for (mode_name, mode) in modes {
        for (offset, len) in ranges {
            for size in [0, 100_000] {
                let fd = sys::file("file", &pattern(size));
                let call = format!("fallocate {mode_name} {offset}+{len} of {size}");
                let done = sys!(fallocate(fd.as_raw_fd(), *mode, offset, len));
                log.ok(&call, done);
                log.value(format_args!("{call}: size"), sys::fstat(&fd).map(|stat| stat.st_size));
                log.value(format_args!("{call}: bytes"), sys::pread(&fd, 2 << 20, 0));
                log.value(format_args!("{call}: write"), sys::pwrite(&fd, b"after", 3000));
                log.value(format_args!("{call}: bytes"), sys::pread(&fd, 2 << 20, 0));
            }
        }
    }
    // What the last call left is in the log.
    drop(sys::file("file", b""));
}

pub fn fallocate_allocating(log: &Log) {
    fallocate_all(log, &MODES[..2]);
}

pub fn fallocate_zeroing(log: &Log) {
    fallocate_all(log, &MODES[2..6]);
}

pub fn fallocate_moving(log: &Log) {
    fallocate_all(log, &MODES[6..9]);
}

pub fn fallocate_odd(log: &Log) {
    fallocate_all(log, &MODES[9..]);
    drop(sys::file("file", b"x"));
    sys::make_fifo("fifo", 0o600);
    let (reader, writer) = sys::pipe();
    for (name, fd) in [
        ("read-only", open("file", O_RDONLY, 0).unwrap()),
        ("directory", open(".", O_RDONLY, 0).unwrap()),
        ("path", open("file", O_PATH, 0).unwrap()),
        ("append", open("file", O_WRONLY | O_APPEND, 0).unwrap()),
        ("reader", reader),
        ("writer", writer),
    ]
    .into_iter()
    .chain(sys::both_ways("fifo"))
    {
        for (mode_name, mode) in [MODES[0], MODES[2]] {
            let done = sys!(fallocate(fd.as_raw_fd(), mode, 0, BLOCK));
            log.ok(format_args!("fallocate {mode_name} of {name}"), done);
        }
        // SAFETY: no pointers. Answers an errno.
        let answer = unsafe { posix_fallocate(fd.as_raw_fd(), 0, 9000) };
        log.line(format_args!("posix_fallocate of {name}"), answer);
    }
    sys::log_file(log, "file");
}

/// Where data and holes are.
fn seeks(log: &Log, what: &str, fd: &OwnedFd) {
    for (how_name, how) in [("DATA", SEEK_DATA), ("HOLE", SEEK_HOLE)] {
        for offset in [0, 1, 4096, 70_000, 1 << 20, 3 << 20, 5 << 20, -1, i64::MAX] {
            let found = sys!(lseek(fd.as_raw_fd(), offset, how));
            log.value(format_args!("{what}: SEEK_{how_name} {offset}"), found);
        }
    }
}

pub fn data_and_holes(log: &Log) {
    let fd = sys::file("file", b"");
    seeks(log, "empty", &fd);
    sys::pwrite(&fd, &pattern(65_536), 0).unwrap();
    sys::pwrite(&fd, &pattern(131_072), 2 << 20).unwrap();
    sys::pwrite(&fd, &pattern(65_536), 4 << 20).unwrap();
    seeks(log, "written", &fd);
    log.ok("fsync", sys!(fsync(fd.as_raw_fd())));
    seeks(log, "synced", &fd);
    let punch = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    log.ok("punch", sys!(fallocate(fd.as_raw_fd(), punch, 0, 65_536)));
    seeks(log, "punched", &fd);
    sys::pwrite(&fd, &pattern(65_536), 1 << 20).unwrap();
    sys!(ftruncate(fd.as_raw_fd(), 8 << 20)).unwrap();
    seeks(log, "grown", &fd);
    let again = open("file", O_RDONLY, 0).unwrap();
    seeks(log, "read-only", &again);
}

pub fn lseek_values(log: &Log) {
    let fd = sys::file("file", &pattern(1000));
    for (how_name, how) in [("SET", SEEK_SET), ("CUR", SEEK_CUR), ("END", SEEK_END), ("bad", 9)] {
        for offset in [0, 10, -10, -2000, 5000, i64::MAX, i64::MIN] {
            let call = format!("lseek {how_name} {offset}");
            log.value(call, sys!(lseek(fd.as_raw_fd(), offset, how)));
        }
        sys!(lseek(fd.as_raw_fd(), 100, SEEK_SET)).unwrap();
    }
    // Another program makes it longer: the end is where it is now.
    sys::in_child(log, "append", || {
        let fd = open("file", O_WRONLY | O_APPEND, 0).unwrap();
        sys::write(&fd, &pattern(500)).unwrap();
    });
    log.value("the end", sys!(lseek(fd.as_raw_fd(), 0, SEEK_END)));
    sys::make_fifo("fifo", 0o600);
    if let Some((name, fifo)) = sys::both_ways("fifo") {
        log.value(name, sys!(lseek(fifo.as_raw_fd(), 0, SEEK_CUR)));
    }
}

fn copy_range(
    from: &OwnedFd,
    from_offset: i64,
    to: &OwnedFd,
    to_offset: i64,
    len: usize,
    flags: u32,
) -> io::Result<i64> {
    let (mut from_offset, mut to_offset) = (from_offset, to_offset);
    let (from, to) = (from.as_raw_fd(), to.as_raw_fd());
    sys!(copy_file_range(from, &mut from_offset, to, &mut to_offset, len, flags))
}

pub fn copy_file_range(log: &Log) {
    let source = sys::file("source", &pattern(1_000_000));
    for (from, to, len) in [
        (0, 0, 1_000_000),
        (0, 500_000, 200_000),
        (12_345, 54_321, 77_777),
        (999_990, 10, 100),
        (1_000_000, 0, 10),
        (2_000_000, 0, 10),
        (0, 3_000_000, 5),
        (0, 0, 0),
        (-1, 0, 1),
        (0, -1, 1),
        (4096, 8192, 4096),
    ] {
        let target = sys::file("target", b"there before");
        let copied = copy_range(&source, from, &target, to, len, 0);
        log.value(format_args!("copy {from} {to} {len}"), copied);
        sys::log_file(log, "target");
        log.value("size", sys::fstat(&target).map(|stat| stat.st_size));
    }
    for (from, to, len) in [(0, 500_000, 100_000), (0, 50, 100), (100, 50, 100), (0, 0, 10)] {
        let copied = copy_range(&source, from, &source, to, len, 0);
        log.value(format_args!("within {from} {to} {len}"), copied);
    }
    sys::log_file(log, "source");
    let target = sys::file("target", b"");
    let read_only = open("target", O_RDONLY, 0).unwrap();
    let append = open("target", O_WRONLY | O_APPEND, 0).unwrap();
    let directory = open(".", O_RDONLY, 0).unwrap();
    let (reader, _writer) = sys::pipe();
    log.value("bad flags", copy_range(&source, 0, &target, 0, 10, 1));
    log.value("to read-only", copy_range(&source, 0, &read_only, 0, 10, 0));
    log.value("from write-only", copy_range(&append, 0, &target, 0, 10, 0));
    log.value("to append", copy_range(&source, 0, &append, 0, 10, 0));
    log.value("from a directory", copy_range(&directory, 0, &target, 0, 10, 0));
    log.value("to a pipe", copy_range(&source, 0, &reader, 0, 10, 0));
    let memory = sys!(memfd_create(c("m").as_ptr(), MFD_CLOEXEC)).unwrap() as i32;
    let (mut from, mut to) = (0, 0);
    let outside = sys!(copy_file_range(memory, &mut from, target.as_raw_fd(), &mut to, 10, 0));
    log.value("from another filesystem, empty", outside);
    sys!(ftruncate(memory, 100)).unwrap();
    let outside = sys!(copy_file_range(memory, &mut from, target.as_raw_fd(), &mut to, 10, 0));
    log.value("from another filesystem", outside);
    // By the descriptors' own positions.
    let null = std::ptr::null_mut();
    sys!(lseek(source.as_raw_fd(), 100, SEEK_SET)).unwrap();
    let moved = sys!(copy_file_range(source.as_raw_fd(), null, target.as_raw_fd(), null, 5000, 0));
    log.value("by position", moved);
    log.value("source at", sys!(lseek(source.as_raw_fd(), 0, SEEK_CUR)));
    log.value("target at", sys!(lseek(target.as_raw_fd(), 0, SEEK_CUR)));
    sys::log_file(log, "target");
}

pub fn truncate(log: &Log) {
    sys::make_fifo("fifo", 0o600);
    fs::create_dir("directory").unwrap();
    drop(sys::file("file", &pattern(100_000)));
    std::os::unix::fs::symlink("file", "link").unwrap();
    for name in ["missing", "directory", "fifo", "file/x", "", "link", "file"] {
        for len in [-1, 0, 5000, i64::MAX, 1 << 62] {
            let done = sys!(truncate(c(name).as_ptr(), len));
            log.ok(format_args!("truncate {name:?} {len}"), done);
            if name == "file" || name == "link" {
                log.value("size", sys::lstat("file").map(|stat| stat.st_size));
            }
        }
    }
    sys!(truncate(c("file").as_ptr(), 1000)).unwrap();
    for (name, flags) in [
        ("RDONLY", O_RDONLY),
        ("WRONLY", O_WRONLY),
        ("APPEND", O_WRONLY | O_APPEND),
        ("PATH", O_PATH),
    ] {
        let fd = open("file", flags, 0).unwrap();
        for len in [0, 3000, -1] {
            log.ok(format_args!("ftruncate {name} {len}"), sys!(ftruncate(fd.as_raw_fd(), len)));
        }
    }
    let fd = sys::file("cut", &pattern(300_000));
    for len in [299_999, 100_001, 100_000, 250_000, 4097, 4096, 4095, 1, 0, 70_000] {
        log.ok(format_args!("cut to {len}"), sys!(ftruncate(fd.as_raw_fd(), len)));
        sys::log_file(log, "cut");
        log.value("write", sys::pwrite(&fd, b"mark", 80_000));
        sys::log_file(log, "cut");
    }
}

/// Writes and sizes past what the filesystem can hold.
pub fn too_big(log: &Log) {
    let fd = sys::file("file", b"small");
    for offset in [i64::MAX, i64::MAX - 1, i64::MAX - 4095] {
        log.value(format_args!("pwrite at {offset}"), sys::pwrite(&fd, b"xx", offset));
        log.value(format_args!("pread at {offset}"), sys::pread(&fd, 2, offset));
        log.ok(format_args!("ftruncate {offset}"), sys!(ftruncate(fd.as_raw_fd(), offset)));
        log.ok("ftruncate back", sys!(ftruncate(fd.as_raw_fd(), 5)));
    }
    log.value("size", sys::fstat(&fd).map(|stat| stat.st_size));
    sys::log_file(log, "file");
}

/// Past what ext4 can hold with 4 KiB blocks, and far below what others can.
pub fn past_sixteen_tebibytes(log: &Log) {
    let fd = sys::file("file", b"small");
    log.value("pwrite", sys::pwrite(&fd, b"xx", 1 << 45));
    log.ok("fsync", sys!(fsync(fd.as_raw_fd())));
    log.ok("ftruncate", sys!(ftruncate(fd.as_raw_fd(), 1 << 45)));
    log.ok("ftruncate back", sys!(ftruncate(fd.as_raw_fd(), 5)));
    log.ok("fsync", sys!(fsync(fd.as_raw_fd())));
    sys::log_file(log, "file");
}

/// RLIMIT_FSIZE, with its signal ignored and not.
pub fn limit_of_the_file_size(log: &Log) {
    for ignored in [true, false] {
        sys::in_child(log, if ignored { "ignored" } else { "not ignored" }, || {
            if ignored {
                // SAFETY: no pointers.
                unsafe { signal(SIGXFSZ, SIG_IGN) };
            }
            let limit = rlimit { rlim_cur: 65_536, rlim_max: RLIM_INFINITY };
            sys!(setrlimit(RLIMIT_FSIZE, &limit)).unwrap();
            let fd = sys::file("file", b"");
            log.value("up to it", sys::pwrite(&fd, &pattern(65_536), 0));
            log.value("the last byte", sys::pwrite(&fd, b"x", 65_535));
            if ignored {
                log.value("across it", sys::pwrite(&fd, &pattern(10), 65_530));
                log.value("past it", sys::pwrite(&fd, b"x", 65_536));
                log.ok("truncate past it", sys!(ftruncate(fd.as_raw_fd(), 65_537)));
                log.ok("allocate past it", sys!(fallocate(fd.as_raw_fd(), 0, 0, 70_000)));
                log.ok("allocate, keeping", sys!(fallocate(fd.as_raw_fd(), 1, 0, 70_000)));
                log.value("copy across it", copy_range(&fd, 0, &fd, 60_000, 10_000, 0));
                log.value("copy past it", copy_range(&fd, 0, &fd, 65_536, 10, 0));
                log.value("size", sys::fstat(&fd).map(|stat| stat.st_size));
            } else {
                log.value("past it", sys::pwrite(&fd, b"x", 65_536));
            }
        });
        sys::log_file(log, "file");
    }
}
