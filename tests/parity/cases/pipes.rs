//! splice, sendfile, tee, vmsplice; FIFOs and sockets by name; notifications.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};

use libc::*;

use crate::log::Log;
use crate::sys::{self, c, open, pattern, sys};

fn move_bytes(
    from: &OwnedFd,
    from_at: i64,
    to: &OwnedFd,
    to_at: i64,
    len: usize,
) -> io::Result<i64> {
    let (mut from_at, mut to_at) = (from_at, to_at);
    // -1: by the descriptor's own position, as pipes need it.
    let place = |at: &mut i64| if *at < 0 { std::ptr::null_mut() } else { &raw mut *at };
    let (from_place, to_place) = (place(&mut from_at), place(&mut to_at));
    let flags = SPLICE_F_NONBLOCK;
    sys!(splice(from.as_raw_fd(), from_place, to.as_raw_fd(), to_place, len, flags))
}

pub fn splice_both_ways(log: &Log) {
    let source = sys::file("source", &pattern(50_000));
    let target = sys::file("target", b"there before");
    let (reader, writer) = sys::pipe();
    for (what, from_at, to_at, len) in [
        ("start", 0, 0, 10_000),
        ("odd", 12_345, 54_321, 777),
        ("past the end", 49_990, 60_000, 100),
        ("at the end", 50_000, 0, 100),
        ("nothing", 0, 0, 0),
        ("by position", -1, -1, 5000),
    ] {
        log.value(
            format_args!("{what}: out of a file"),
            move_bytes(&source, from_at, &writer, -1, len),
        );
        log.value(
            format_args!("{what}: into a file"),
            move_bytes(&reader, -1, &target, to_at, len),
        );
        sys::log_file(log, "target");
    }
    log.value("file to file", move_bytes(&source, 0, &target, 0, 10));
    log.value("from an empty pipe", move_bytes(&reader, -1, &target, 0, 10));
    let append = open("target", O_WRONLY | O_APPEND, 0).unwrap();
    sys::write(&writer, b"in the pipe").unwrap();
    log.value("to append", move_bytes(&reader, -1, &append, -1, 5));
    let read_only = open("target", O_RDONLY, 0).unwrap();
    log.value("to read-only", move_bytes(&reader, -1, &read_only, -1, 5));
    log.value("at a place in a pipe", move_bytes(&reader, 5, &target, 0, 5));
    let (second, second_writer) = sys::pipe();
    let teed = sys!(tee(reader.as_raw_fd(), second_writer.as_raw_fd(), 4, SPLICE_F_NONBLOCK));
    log.value("tee", teed);
    log.value("tee to a file", sys!(tee(reader.as_raw_fd(), target.as_raw_fd(), 4, 0)));
    log.value("the copy into a file", move_bytes(&second, -1, &target, 100, 4));
    let bytes = pattern(3000);
    let iov = iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    log.value("vmsplice", sys!(vmsplice(writer.as_raw_fd(), &iov, 1, 0)));
    log.value("into a file", move_bytes(&reader, -1, &target, 200, 5000));
    log.value("vmsplice to a file", sys!(vmsplice(target.as_raw_fd(), &iov, 1, 0)));
    // Pages in a pipe stay what they were when the file changes only if they were copied: not
    // looked at. What comes out is as long as what went in.
    sys::log_file(log, "target");
}

pub fn sendfile_all_ways(log: &Log) {
    let source = sys::file("source", &pattern(100_000));
    let target = sys::file("target", b"");
    let append = open("target", O_WRONLY | O_APPEND, 0).unwrap();
    let (reader, writer) = sys::pipe();
    let memory = sys!(memfd_create(c("m").as_ptr(), MFD_CLOEXEC)).unwrap() as i32;
    // SAFETY: a fresh descriptor.
    let memory = unsafe { OwnedFd::from_raw_fd(memory) };
    for (name, to) in
        [("file", &target), ("append", &append), ("pipe", &writer), ("memory", &memory)]
    {
        for (offset, len) in [(0, 50_000), (99_000, 5000), (200_000, 10), (-1, 10), (77, 0)] {
            let (mut at, to) = (offset, to.as_raw_fd());
            let sent = sys!(sendfile(to, source.as_raw_fd(), &mut at, len));
            log.value(format_args!("to {name} {offset}+{len}"), sent.map(|sent| (sent, at)));
        }
        if name == "pipe" {
            log.value("out of the pipe", sys::read(&reader, 100_000));
        }
    }
    sys::log_file(log, "target");
    let mut at = 0;
    let sent = sys!(sendfile(target.as_raw_fd(), memory.as_raw_fd(), &mut at, 60_000));
    log.value("from memory", sent);
    let null = std::ptr::null_mut();
    log.value("by position", sys!(sendfile(target.as_raw_fd(), source.as_raw_fd(), null, 10)));
    log.value("from a pipe", sys!(sendfile(target.as_raw_fd(), reader.as_raw_fd(), null, 10)));
    sys::log_file(log, "target");
}

pub fn fifos_and_sockets(log: &Log) {
    if log.ok("mkfifo", sys!(mkfifo(c("fifo").as_ptr(), 0o600))).is_some() {
        through_a_fifo(log);
    }
    sockets(log);
}

fn through_a_fifo(log: &Log) {
    log.ok("write without a reader", open("fifo", O_WRONLY | O_NONBLOCK, 0));
    sys::in_child(log, "through a fifo", || {
        let child = sys::Child::spawn(|| fs::write("fifo", pattern(200_000)).unwrap());
        sys::log_file(log, "fifo");
        log.line("writer", child.wait());
    });
    sys::in_child(log, "without a reader any more", || {
        let reader = open("fifo", O_RDONLY | O_NONBLOCK, 0).unwrap();
        let writer = open("fifo", O_WRONLY, 0).unwrap();
        drop(reader);
        // SAFETY: no pointers.
        unsafe { signal(SIGPIPE, SIG_DFL) };
        let _ = sys::write(&writer, b"x");
    });
}

fn sockets(log: &Log) {
    let listener = UnixListener::bind("socket");
    sys::log_stat(log, "socket");
    if let Some(listener) = log.ok("bind", listener) {
        log.ok("bind again", UnixListener::bind("socket"));
        log.ok("connect", UnixStream::connect("socket"));
        fs::rename("socket", "moved").unwrap();
        log.ok("connect to the moved", UnixStream::connect("moved"));
        log.ok("connect to the old name", UnixStream::connect("socket"));
        drop(listener);
        log.ok("connect to nobody", UnixStream::connect("moved"));
    }
}

/// The events of inotify(7), and which.
pub fn inotify(log: &Log) {
    fs::create_dir("d").unwrap();
    drop(sys::file("d/old", b"old"));
    let watch = sys!(inotify_init1(IN_NONBLOCK | IN_CLOEXEC)).unwrap() as i32;
    // SAFETY: a fresh descriptor.
    let watch = unsafe { OwnedFd::from_raw_fd(watch) };
    let add =
        |name: &str| sys!(inotify_add_watch(watch.as_raw_fd(), c(name).as_ptr(), IN_ALL_EVENTS));
    log.ok("watch a directory", add("d"));
    log.ok("watch a file", add("d/old"));
    log.ok("watch nothing", add("missing"));
    let events = |what: &str| {
        let mut bytes = vec![0u8; 1 << 16];
        let mut seen = Vec::new();
        while let Ok(len) = sys!(read(watch.as_raw_fd(), bytes.as_mut_ptr().cast(), bytes.len())) {
            let mut at = 0;
            while at < len as usize {
                let word =
                    |from: usize| u32::from_ne_bytes(bytes[from..from + 4].try_into().unwrap());
                let (id, mask, room) = (word(at), word(at + 4), word(at + 12) as usize);
                let name = bytes[at + 16..at + 16 + room].split(|byte| *byte == 0).next();
                let name = name.unwrap_or_default().escape_ascii();
                seen.push(format!("{id}:{mask:x}:{name}"));
                at += 16 + room;
            }
        }
        log.line(format_args!("events of {what}"), seen.join(" "));
    };
    let file = sys::file("d/new", b"bytes");
    events("create and write");
    sys::pwrite(&file, &pattern(100_000), 0).unwrap();
    sys::pread(&file, 10, 0).unwrap();
    events("write and read");
    sys!(ftruncate(file.as_raw_fd(), 10)).unwrap();
    sys!(fchmod(file.as_raw_fd(), 0o600)).unwrap();
    log.ok("fallocate", sys!(fallocate(file.as_raw_fd(), 0, 0, 5000)));
    events("truncate, chmod, fallocate");
    drop(file);
    events("close");
    fs::rename("d/new", "d/old").unwrap();
    events("rename over");
    fs::hard_link("d/old", "d/link").unwrap();
    fs::create_dir("d/below").unwrap();
    fs::rename("d/below", "away").unwrap();
    events("link, mkdir, move away");
    fs::remove_file("d/link").unwrap();
    fs::remove_file("d/old").unwrap();
    fs::remove_dir("d").unwrap();
    events("remove");
}
