//! flock, fcntl and OFD locks between processes; leases.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use libc::*;

use crate::log::Log;
use crate::sys::{self, Child, open, sys};

/// Longer than a lock that is free takes, shorter than anybody minds.
const WHILE: Duration = Duration::from_millis(60);

fn again() -> OwnedFd {
    open("file", O_RDWR, 0).unwrap()
}

/// fcntl(2) with a lock; what is left in it afterwards.
fn lock(fd: &OwnedFd, how: i32, kind: i32, start: i64, len: i64) -> io::Result<String> {
    lock_from(fd, how, kind, SEEK_SET, start, len)
}

fn lock_from(
    fd: &OwnedFd,
    how: i32,
    kind: i32,
    whence: i32,
    start: i64,
    len: i64,
) -> io::Result<String> {
    let mut lock = flock {
        l_type: kind as i16,
        l_whence: whence as i16,
        l_start: start,
        l_len: len,
        l_pid: 0,
    };
    sys!(fcntl(fd.as_raw_fd(), how, &mut lock))?;
    Ok(format!("type {} start {} len {}", lock.l_type, lock.l_start, lock.l_len))
}

pub fn flock_conflicts(log: &Log) {
    let first = sys::file("file", b"bytes");
    for (held_name, held) in [("SH", LOCK_SH), ("EX", LOCK_EX), ("UN", LOCK_UN)] {
        log.ok(format_args!("flock {held_name}"), sys!(flock(first.as_raw_fd(), held)));
        for (name, how) in [("SH", LOCK_SH), ("EX", LOCK_EX), ("UN", LOCK_UN)] {
            let call = format!("{name} while {held_name}");
            let second = again();
            log.ok(&call, sys!(flock(second.as_raw_fd(), how | LOCK_NB)));
            sys::in_child(log, &call, || {
                let third = again();
                log.ok("child", sys!(flock(third.as_raw_fd(), how | LOCK_NB)));
                log.ok("inherited", sys!(flock(first.as_raw_fd(), held | LOCK_NB)));
            });
        }
    }
    log.ok("bad", sys!(flock(first.as_raw_fd(), 99)));
    let path = open("file", O_PATH, 0).unwrap();
    log.ok("path", sys!(flock(path.as_raw_fd(), LOCK_SH)));
    let directory = open(".", O_RDONLY, 0).unwrap();
    log.ok("directory", sys!(flock(directory.as_raw_fd(), LOCK_EX | LOCK_NB)));
    let other = open(".", O_RDONLY, 0).unwrap();
    log.ok("directory again", sys!(flock(other.as_raw_fd(), LOCK_EX | LOCK_NB)));
}

/// A child waits for a lock and gets it when it is given up.
fn waits(log: &Log, what: &str, give_up: impl FnOnce(), take: impl FnOnce()) {
    let (reader, writer) = sys::pipe();
    let child = Child::spawn(|| {
        take();
        sys::write(&writer, b"taken").unwrap();
    });
    std::thread::sleep(WHILE);
    let mut poll_fd = pollfd { fd: reader.as_raw_fd(), events: POLLIN, revents: 0 };
    log.value(format_args!("{what}: taken early"), sys!(poll(&mut poll_fd, 1, 0)));
    give_up();
    log.value(format_args!("{what}: taken"), sys::read(&reader, 10));
    log.line(what, child.wait());
}

pub fn blocking(log: &Log) {
    let fd = sys::file("file", b"bytes");
    let raw = fd.as_raw_fd();
    sys!(flock(raw, LOCK_EX)).unwrap();
    let unlock = || {
        sys!(flock(raw, LOCK_UN)).unwrap();
    };
    waits(log, "flock", unlock, || {
        log.ok("flock", sys!(flock(again().as_raw_fd(), LOCK_EX)));
    });
    lock(&fd, F_SETLK, F_WRLCK, 0, 100).unwrap();
    let unlock = || drop(lock(&fd, F_SETLK, F_UNLCK, 0, 100).unwrap());
    waits(log, "fcntl", unlock, || {
        log.ok("fcntl", lock(&again(), F_SETLKW, F_RDLCK, 50, 1));
    });
    lock(&fd, F_OFD_SETLK, F_WRLCK, 0, 0).unwrap();
    let unlock = || drop(lock(&fd, F_OFD_SETLK, F_UNLCK, 0, 0).unwrap());
    waits(log, "OFD", unlock, || {
        log.ok("OFD", lock(&again(), F_OFD_SETLKW, F_WRLCK, 5, 5));
    });
    lock(&fd, F_SETLK, F_WRLCK, 0, 100).unwrap();
    // Any descriptor of the file that is closed gives the process's locks up.
    waits(
        log,
        "close of another",
        || drop(again()),
        || {
            log.ok("fcntl", lock(&again(), F_SETLKW, F_WRLCK, 0, 1));
        },
    );
}

pub fn a_wait_is_interrupted(log: &Log) {
    let fd = sys::file("file", b"bytes");
    sys!(flock(fd.as_raw_fd(), LOCK_EX)).unwrap();
    lock(&fd, F_SETLK, F_WRLCK, 0, 0).unwrap();
    extern "C" fn nothing(_: i32) {}
    for what in ["flock", "fcntl"] {
        let child = Child::spawn(|| {
            let handler: extern "C" fn(i32) = nothing;
            // SAFETY: plain old data, with a handler that does nothing.
            let mut action: sigaction = unsafe { std::mem::zeroed() };
            action.sa_sigaction = handler as usize;
            sys!(sigaction(SIGUSR1, &action, std::ptr::null_mut())).unwrap();
            let fd = again();
            match what {
                "flock" => drop(log.ok(what, sys!(flock(fd.as_raw_fd(), LOCK_EX)))),
                _ => drop(log.ok(what, lock(&fd, F_SETLKW, F_WRLCK, 0, 1))),
            }
        });
        std::thread::sleep(WHILE);
        sys!(kill(child.pid(), SIGUSR1)).unwrap();
        log.line(what, child.wait());
        let child = Child::spawn(|| match what {
            "flock" => drop(sys!(flock(again().as_raw_fd(), LOCK_EX))),
            _ => drop(lock(&again(), F_SETLKW, F_WRLCK, 0, 1)),
        });
        std::thread::sleep(WHILE);
        sys!(kill(child.pid(), SIGKILL)).unwrap();
        log.line(format_args!("{what} killed"), child.wait());
    }
}

pub fn fcntl_ranges(log: &Log) {
    let fd = sys::file("file", &[b'x'; 1000]);
    for (name, kind, start, len) in [
        ("write", F_WRLCK, 0, 100),
        ("read", F_RDLCK, 200, 100),
        ("split", F_UNLCK, 40, 20),
        ("change", F_RDLCK, 0, 10),
        ("to the end", F_WRLCK, 500, 0),
        ("backwards", F_WRLCK, 450, -50),
        ("before the start", F_WRLCK, -1, 1),
        ("past the start", F_WRLCK, 10, -20),
        ("overflow", F_WRLCK, i64::MAX, 2),
        ("far", F_WRLCK, i64::MAX, 1),
        ("bad", 99, 0, 1),
    ] {
        log.ok(name, lock(&fd, F_SETLK, kind, start, len));
        sys::in_child(log, "seen by a child", || {
            let fd = again();
            for start in [0, 20, 45, 70, 150, 250, 420, 600] {
                for (kind_name, kind) in [("read", F_RDLCK), ("write", F_WRLCK)] {
                    let found = lock(&fd, F_GETLK, kind, start, 1);
                    log.value(format_args!("{kind_name} at {start}"), found);
                }
            }
            log.ok("set", lock(&fd, F_SETLK, F_WRLCK, 20, 1));
            log.value("OFD", lock(&fd, F_OFD_GETLK, F_WRLCK, 0, 0));
        });
    }
    for (name, whence) in [("CUR", SEEK_CUR), ("END", SEEK_END), ("bad", 7)] {
        log.ok(name, lock_from(&fd, F_SETLK, F_WRLCK, whence, -5, 3));
    }
    let read_only = open("file", O_RDONLY, 0).unwrap();
    log.ok("write lock of a read-only one", lock(&read_only, F_SETLK, F_WRLCK, 0, 1));
    log.ok("read lock of a read-only one", lock(&read_only, F_SETLK, F_RDLCK, 0, 1));
    let write_only = open("file", O_WRONLY, 0).unwrap();
    log.ok("read lock of a write-only one", lock(&write_only, F_SETLK, F_RDLCK, 0, 1));
    let mut with_pid =
        flock { l_type: F_WRLCK as i16, l_whence: 0, l_start: 0, l_len: 1, l_pid: 5 };
    log.ok("OFD with a pid", sys!(fcntl(fd.as_raw_fd(), F_OFD_SETLK, &mut with_pid)));
    log.ok("OFD against the process's own", lock(&fd, F_OFD_SETLK, F_WRLCK, 0, 1));
}

/// Two processes that wait for each other: one is told.
pub fn deadlock(log: &Log) {
    let fd = sys::file("file", b"bytes");
    let (ready, tell) = sys::pipe();
    lock(&fd, F_SETLK, F_WRLCK, 0, 1).unwrap();
    let child = Child::spawn(|| {
        let fd = again();
        log.ok("child takes 1", lock(&fd, F_SETLK, F_WRLCK, 1, 1));
        sys::write(&tell, b"x").unwrap();
        // Waits until the parent gives 0 up.
        lock(&fd, F_SETLKW, F_WRLCK, 0, 1).unwrap();
    });
    sys::read(&ready, 1).unwrap();
    std::thread::sleep(WHILE);
    log.ok("parent waits for 1", lock(&fd, F_SETLKW, F_WRLCK, 1, 1));
    lock(&fd, F_SETLK, F_UNLCK, 0, 0).unwrap();
    log.line("child", child.wait());
}

pub fn leases(log: &Log) {
    let fd = sys::file("file", b"bytes");
    let get = |fd: &OwnedFd| sys!(fcntl(fd.as_raw_fd(), F_GETLEASE));
    let set = |fd: &OwnedFd, kind: i32| sys!(fcntl(fd.as_raw_fd(), F_SETLEASE, kind));
    log.value("none", get(&fd));
    log.ok("read lease of a writer", set(&fd, F_RDLCK));
    log.ok("write lease", set(&fd, F_WRLCK));
    log.value("held", get(&fd));
    // The lease breaks: the holder would get SIGIO.
    // SAFETY: no pointers.
    unsafe { signal(SIGIO, SIG_IGN) };
    log.ok("open", open("file", O_RDONLY | O_NONBLOCK, 0));
    log.value("breaking", get(&fd));
    log.ok("give up", set(&fd, F_UNLCK));
    log.ok("open", open("file", O_RDONLY | O_NONBLOCK, 0));
    drop(fd);
    let reader = open("file", O_RDONLY, 0).unwrap();
    log.ok("read lease", set(&reader, F_RDLCK));
    log.ok("open to read", open("file", O_RDONLY | O_NONBLOCK, 0));
    log.ok("open to write", open("file", O_WRONLY | O_NONBLOCK, 0));
    log.ok("give up", set(&reader, F_UNLCK));
    let directory = open(".", O_RDONLY, 0).unwrap();
    log.ok("of a directory", set(&directory, F_RDLCK));
    sys::as_user(log, sys::NOBODY, sys::NOBODY, &[], || {
        let reader = open("file", O_RDONLY, 0).unwrap();
        log.ok("of another's file", set(&reader, F_RDLCK));
    });
}
