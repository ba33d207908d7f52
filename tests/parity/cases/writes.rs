//! Ways to write and read: append, direct I/O, vectors with flags, advice, synchronising.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use libc::*;

use crate::log::Log;
use crate::sys::{self, Child, brief, open, pattern, sys};

pub fn append_by_several_processes(log: &Log) {
    drop(sys::file("file", b"head\n"));
    let children: Vec<Child> = (0..4)
        .map(|who| {
            Child::spawn(move || {
                let fd = open("file", O_WRONLY | O_APPEND, 0).unwrap();
                for at in 0..500 {
                    let record = format!("{who} {at:04} {}\n", "x".repeat(at % 50));
                    assert_eq!(sys::write(&fd, record.as_bytes()).unwrap() as usize, record.len());
                }
            })
        })
        .collect();
    children.into_iter().for_each(|child| log.line("writer", child.wait()));
    let text = std::fs::read_to_string("file").unwrap();
    let mut lines: Vec<&str> = text.lines().collect();
    lines.sort_unstable();
    log.line("records", brief(lines.join("\n").as_bytes()));
    // Whose record is where is nobody's promise.
    std::fs::remove_file("file").unwrap();
}

pub fn append_and_positions(log: &Log) {
    let fd = sys::file("file", b"0123456789");
    let append = open("file", O_RDWR | O_APPEND, 0).unwrap();
    let position = |fd: &OwnedFd| sys!(lseek(fd.as_raw_fd(), 0, SEEK_CUR));
    log.value("position", position(&append));
    log.value("write", sys::write(&append, b"abc"));
    log.value("position", position(&append));
    log.value("pwrite goes to the end", sys::pwrite(&append, b"def", 2));
    log.value("position", position(&append));
    log.value("the other writes in the middle", sys::pwrite(&fd, b"X", 30));
    log.value("write", sys::write(&append, b"ghi"));
    log.value("read at the end", sys::read(&append, 5));
    sys!(lseek(append.as_raw_fd(), 5, SEEK_SET)).unwrap();
    log.value("read", sys::read(&append, 3));
    log.value("write", sys::write(&append, b"jkl"));
    log.value("position", position(&append));
    sys!(ftruncate(fd.as_raw_fd(), 4)).unwrap();
    log.value("write after a cut", sys::write(&append, b"mno"));
    log.ok("append no more", sys!(fcntl(append.as_raw_fd(), F_SETFL, 0)));
    log.value("pwrite in place", sys::pwrite(&append, b"Y", 0));
    log.ok("append", sys!(fcntl(fd.as_raw_fd(), F_SETFL, O_APPEND)));
    log.value("pwrite at the end", sys::pwrite(&fd, b"Z", 0));
    sys::log_file(log, "file");
}

/// Memory at an address that is a multiple of 4096.
fn aligned(len: usize) -> (Vec<u8>, usize) {
    let mut memory = vec![0u8; len + 8192];
    let at = memory.as_ptr().align_offset(4096);
    memory[at..at + len].copy_from_slice(&pattern(len));
    (memory, at)
}

fn direct(log: &Log, cases: &[(&str, i64, usize, usize)]) {
    let (mut memory, at) = aligned(1 << 20);
    for state in ["buffered before", "clean before"] {
        let buffered = sys::file("file", &pattern(100_000));
        if state == "clean before" {
            sys!(fsync(buffered.as_raw_fd())).unwrap();
        }
        let fd = open("file", O_RDWR | O_DIRECT, 0).unwrap();
        for (what, offset, len, skew) in cases {
            let (from, raw) = (memory[at + skew..].as_mut_ptr().cast::<c_void>(), fd.as_raw_fd());
            let call = format!("{state}: {what} {offset}+{len}");
            log.value(format_args!("{call}: write"), sys!(pwrite(raw, from, *len, *offset)));
            log.value(format_args!("{call}: seen"), sys::pread(&buffered, 1 << 21, 0));
            let read = sys!(pread(raw, from, *len, *offset));
            log.value(format_args!("{call}: read"), read);
            log.value(
                format_args!("{call}: buffered write"),
                sys::pwrite(&buffered, b"!", *offset),
            );
            let read = sys!(pread(raw, from, *len, *offset));
            if let Some(count) = log.value(format_args!("{call}: read"), read) {
                let to = at + skew + count.max(0) as usize;
                log.line(format_args!("{call}: bytes"), brief(&memory[at + skew..to]));
            }
        }
        log.ok("fsync", sys!(fsync(fd.as_raw_fd())));
        sys::log_file(log, "file");
    }
}

pub fn direct_aligned(log: &Log) {
    direct(
        log,
        &[
            ("one", 0, 4096, 0),
            ("in the middle", 40_960, 8192, 0),
            ("across the end", 98_304, 65_536, 0),
            ("far past the end", 1 << 20, 4096, 0),
            ("large", 0, 1 << 20, 0),
        ],
    );
}

/// Direct I/O that is not aligned.
pub fn direct_unaligned(log: &Log) {
    let (mut memory, at) = aligned(16_384);
    drop(sys::file("file", &pattern(100_000)));
    let fd = open("file", O_RDWR | O_DIRECT, 0).unwrap();
    for (what, offset, len, skew) in
        [("offset", 100, 4096, 0), ("length", 0, 100, 0), ("memory", 0, 4096, 1)]
    {
        let (from, raw) = (memory[at + skew..].as_mut_ptr().cast::<c_void>(), fd.as_raw_fd());
        log.value(format_args!("unaligned {what}: write"), sys!(pwrite(raw, from, len, offset)));
        log.value(format_args!("unaligned {what}: read"), sys!(pread(raw, from, len, offset)));
    }
    log.ok("direct no more", sys!(fcntl(fd.as_raw_fd(), F_SETFL, 0)));
    // What was written depends on what was refused.
    log.ok("remove", std::fs::remove_file("file"));
}

fn writev(fd: &OwnedFd, bytes: &[u8], offset: i64, flags: i32) -> io::Result<i64> {
    let iov = iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    sys!(pwritev2(fd.as_raw_fd(), &iov, 1, offset, flags))
}

fn readv(fd: &OwnedFd, offset: i64, flags: i32) -> io::Result<String> {
    let mut bytes = [0u8; 100];
    let iov = iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    let len = sys!(preadv2(fd.as_raw_fd(), &iov, 1, offset, flags))?;
    Ok(brief(&bytes[..len as usize]))
}

const PLAIN_FLAGS: [(&str, i32); 8] = [
    ("0", 0),
    ("HIPRI", RWF_HIPRI),
    ("DSYNC", RWF_DSYNC),
    ("SYNC", RWF_SYNC),
    ("APPEND", RWF_APPEND),
    ("NOAPPEND", RWF_NOAPPEND),
    ("bad", 1 << 30),
    ("APPEND|NOAPPEND", RWF_APPEND | RWF_NOAPPEND),
];

fn flags_of_vectors(log: &Log, flags: &[(&str, i32)]) {
    let fd = sys::file("file", &pattern(500));
    let append = open("file", O_RDWR | O_APPEND, 0).unwrap();
    for (flags_name, flags) in flags {
        for (name, fd) in [("plain", &fd), ("append", &append)] {
            for offset in [-1, 0, 100, -2] {
                let call = format!("{name} {flags_name} {offset}");
                log.value(format_args!("{call}: pwritev2"), writev(fd, b"bytes", offset, *flags));
                log.value(format_args!("{call}: preadv2"), readv(fd, offset, *flags));
                let at = sys!(lseek(fd.as_raw_fd(), 0, SEEK_CUR));
                log.value(format_args!("{call}: position"), at);
            }
        }
    }
    sys::log_file(log, "file");
}

pub fn vectors_with_flags(log: &Log) {
    flags_of_vectors(log, &PLAIN_FLAGS);
}

/// Flags that say how, not what: whether they are taken differs from filesystem to filesystem.
pub fn vectors_with_hints(log: &Log) {
    for (name, flags) in
        [("NOWAIT", RWF_NOWAIT), ("DONTCACHE", RWF_DONTCACHE), ("ATOMIC", RWF_ATOMIC)]
    {
        let fd = sys::file("file", &pattern(500));
        log.ok(format_args!("{name}: pwritev2"), writev(&fd, b"bytes", 0, flags));
        log.ok(format_args!("{name}: preadv2"), readv(&fd, 0, flags));
        drop(sys::file("file", b""));
    }
}

pub fn bad_arguments(log: &Log) {
    let fd = sys::file("file", &pattern(10_000));
    let raw = fd.as_raw_fd();
    let bad = std::ptr::without_provenance_mut::<c_void>(8);
    let read_only = open("file", O_RDONLY, 0).unwrap();
    let write_only = open("file", O_WRONLY, 0).unwrap();
    let directory = open(".", O_RDONLY, 0).unwrap();
    log.value("write to a read-only one", sys::write(&read_only, b"x"));
    log.value("write nothing to a read-only one", sys::write(&read_only, b""));
    log.value("read from a write-only one", sys::read(&write_only, 5));
    log.value("read a directory", sys::read(&directory, 5));
    log.value("pread a directory", sys::pread(&directory, 5, 0));
    log.value("write at -1", sys::pwrite(&fd, b"x", -1));
    log.value("read at -1", sys::pread(&fd, 1, -1));
    log.value("write from nowhere", sys!(pwrite(raw, bad, 100, 0)));
    log.value("read to nowhere", sys!(pread(raw, bad, 100, 0)));
    log.value("read to nowhere past the end", sys!(pread(raw, bad, 100, 1 << 20)));
    log.value("write 2^63", sys!(pwrite(raw, bad, 1 << 63, 0)));
    let iov = iovec { iov_base: bad, iov_len: 0 };
    let many = vec![iov; 1025];
    log.value("1024 vectors of nothing", sys!(writev(raw, many.as_ptr(), 1024)));
    log.value("1025 vectors", sys!(writev(raw, many.as_ptr(), 1025)));
    log.value("-1 vectors", sys!(writev(raw, many.as_ptr(), -1)));
    sys::log_file(log, "file");
}

/// Memory of which the second page is not there.
pub fn half_a_buffer(log: &Log) {
    let fd = sys::file("file", &pattern(10_000));
    let raw = fd.as_raw_fd();
    // SAFETY: two pages of our own, the second taken away; nobody but the kernel looks at them.
    let pages = unsafe {
        let flags = MAP_PRIVATE | MAP_ANONYMOUS;
        let pages = mmap(std::ptr::null_mut(), 8192, PROT_READ | PROT_WRITE, flags, -1, 0);
        assert_ne!(pages, MAP_FAILED);
        assert_eq!(munmap(pages.add(4096), 4096), 0);
        pages
    };
    log.value("read", sys!(pread(raw, pages, 8192, 0)));
    log.value("write", sys!(pwrite(raw, pages, 8192, 5000)));
    // How much was written depends on the filesystem.
    drop(sys::file("file", b""));
}

pub fn advice_and_sync(log: &Log) {
    let fd = sys::file("file", &pattern(100_000));
    sys::make_fifo("fifo", 0o600);
    for (name, fd) in [
        ("file", fd),
        ("read-only", open("file", O_RDONLY, 0).unwrap()),
        ("path", open("file", O_PATH, 0).unwrap()),
        ("directory", open(".", O_RDONLY, 0).unwrap()),
    ]
    .into_iter()
    .chain(sys::both_ways("fifo"))
    {
        let raw = fd.as_raw_fd();
        for advice in [0, 1, 2, 3, 4, 5, 99] {
            for (offset, len) in [(0, 0), (100, 50_000), (1 << 40, 1), (0, -1)] {
                // SAFETY: no pointers. Answers an errno.
                let answer = unsafe { posix_fadvise(raw, offset, len, advice) };
                log.line(format_args!("{name}: advice {advice} {offset}+{len}"), answer);
            }
        }
        log.value(format_args!("{name}: readahead"), sys!(readahead(raw, 0, 100_000)));
        log.ok(format_args!("{name}: fsync"), sys!(fsync(raw)));
        log.ok(format_args!("{name}: fdatasync"), sys!(fdatasync(raw)));
        log.ok(format_args!("{name}: syncfs"), sys!(syncfs(raw)));
        for (flags, offset, len) in [(0, 0, 0), (7, 0, 4096), (8, 0, 1), (2, -1, 1), (2, 0, -1)] {
            let done = sys!(sync_file_range(raw, offset, len, flags));
            log.ok(format_args!("{name}: sync_file_range {flags} {offset}+{len}"), done);
        }
        log.value(format_args!("{name}: read"), sys::pread(&fd, 10, 0));
        // fadvise may have thrown pages away: the bytes must still be there.
        let mut poll_fd = pollfd { fd: raw, events: POLLIN | POLLOUT, revents: 0 };
        log.value(format_args!("{name}: poll"), sys!(poll(&mut poll_fd, 1, 0)));
        log.line(format_args!("{name}: revents"), poll_fd.revents);
        let epoll = sys!(epoll_create1(EPOLL_CLOEXEC)).unwrap() as i32;
        let mut event = epoll_event { events: EPOLLIN as u32, u64: 0 };
        let added = sys!(epoll_ctl(epoll, EPOLL_CTL_ADD, raw, &mut event));
        log.ok(format_args!("{name}: epoll"), added);
        log.ok(format_args!("{name}: O_ASYNC"), sys!(fcntl(raw, F_SETFL, O_ASYNC)));
        log.ok(format_args!("{name}: F_SETOWN"), sys!(fcntl(raw, F_SETOWN, 0)));
        log.value(format_args!("{name}: F_GETPIPE_SZ"), sys!(fcntl(raw, F_GETPIPE_SZ)));
        log.value(format_args!("{name}: F_GET_SEALS"), sys!(fcntl(raw, F_GET_SEALS)));
        let mut hint = 0u64;
        let got = sys!(fcntl(raw, 1024 + 11, &mut hint));
        log.value(format_args!("{name}: F_GET_RW_HINT"), got.map(|_| hint));
        hint = 2;
        log.ok(format_args!("{name}: F_SET_RW_HINT"), sys!(fcntl(raw, 1024 + 12, &hint)));
    }
    sys::log_file(log, "file");
}
