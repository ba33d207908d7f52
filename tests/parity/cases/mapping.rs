//! mmap(2): shared and private, past the end, while others write and truncate.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use libc::*;

use crate::log::Log;
use crate::sys::{self, brief, c, open, pattern, sys};

const PAGE: usize = 4096;

/// A mapping, unmapped when dropped.
struct Map {
    at: *mut c_void,
    len: usize,
}

impl Map {
    fn new(fd: &OwnedFd, len: usize, prot: i32, flags: i32, offset: i64) -> io::Result<Map> {
        // SAFETY: the kernel chooses a place that is free.
        let at = unsafe { mmap(std::ptr::null_mut(), len, prot, flags, fd.as_raw_fd(), offset) };
        if at == MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(Map { at, len }) }
    }

    fn shared(fd: &OwnedFd, len: usize) -> Map {
        Map::new(fd, len, PROT_READ | PROT_WRITE, MAP_SHARED, 0).unwrap()
    }

    /// Kills the process with SIGBUS past the file's end.
    fn read(&self, at: usize, len: usize) -> String {
        assert!(at + len <= self.len);
        // The file may change below: bytes are read one by one, as volatile.
        let byte = |at| {
            // SAFETY: within the mapping.
            unsafe { self.at.cast::<u8>().add(at).read_volatile() }
        };
        brief(&(at..at + len).map(byte).collect::<Vec<u8>>())
    }

    fn write(&self, at: usize, bytes: &[u8]) {
        assert!(at + bytes.len() <= self.len);
        for (to, byte) in bytes.iter().enumerate() {
            // SAFETY: within the mapping.
            unsafe { self.at.cast::<u8>().add(at + to).write_volatile(*byte) };
        }
    }

    fn sync(&self, flags: i32) -> io::Result<i64> {
        sys!(msync(self.at, self.len, flags))
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: our own mapping, not used any more.
        unsafe { munmap(self.at, self.len) };
    }
}

pub fn shared_and_private(log: &Log) {
    let fd = sys::file("file", &pattern(10_000));
    let (shared, again) = (Map::shared(&fd, 10_000), Map::shared(&fd, 10_000));
    let flags = PROT_READ | PROT_WRITE;
    let private = Map::new(&fd, 10_000, flags, MAP_PRIVATE, 0).unwrap();
    log.line("read", shared.read(0, 10_000));
    shared.write(100, b"by the mapping");
    log.value("pread sees it", sys::pread(&fd, 10_000, 0));
    log.line("the other mapping sees it", again.read(95, 25));
    log.line("the private one sees it", private.read(95, 25));
    log.value("write", sys::pwrite(&fd, b"by pwrite", 5000));
    log.line("the mapping sees it", shared.read(4995, 20));
    private.write(200, b"private");
    log.line("the mapping does not see it", shared.read(195, 20));
    log.value("pwrite under it", sys::pwrite(&fd, b"under", 300));
    log.line("the private one has its own page", private.read(295, 20));
    sys::in_child(log, "a child writes", || {
        let fd = open("file", O_RDWR, 0).unwrap();
        Map::shared(&fd, 10_000).write(7000, b"child");
    });
    log.line("seen", shared.read(6995, 20));
    log.ok("msync", shared.sync(MS_SYNC));
    log.ok("fsync", sys!(fsync(fd.as_raw_fd())));
    shared.write(9990, b"last bytes");
    drop((shared, again, private, fd));
    sys::log_file(log, "file");
}

pub fn past_the_end(log: &Log) {
    let fd = sys::file("file", &pattern(5000));
    let map = Map::shared(&fd, 4 * PAGE);
    log.line("the rest of the last page", map.read(4990, 100));
    map.write(6000, b"past the end");
    log.line("kept in memory", map.read(6000, 12));
    sys::log_file(log, "file");
    log.ok("msync", map.sync(MS_SYNC));
    sys::log_file(log, "file");
    sys::in_child(log, "read past the last page", || drop(map.read(2 * PAGE, 1)));
    sys::in_child(log, "write past the last page", || map.write(2 * PAGE, b"x"));
    log.ok("grow", sys!(ftruncate(fd.as_raw_fd(), 3 * PAGE as i64)));
    sys::in_child(log, "read what is there now", || log.line("bytes", map.read(2 * PAGE, 4)));
    log.line("what was past the end", map.read(6000, 12));
    log.ok("cut", sys!(ftruncate(fd.as_raw_fd(), 100)));
    sys::in_child(log, "read what is gone", || drop(map.read(PAGE, 1)));
    log.line("what is left", map.read(90, 20));
    log.ok("grow", sys!(ftruncate(fd.as_raw_fd(), 2 * PAGE as i64)));
    log.line("zeros", map.read(90, PAGE));
    let other = open("file", O_WRONLY | O_TRUNC, 0).unwrap();
    sys::in_child(log, "read after O_TRUNC", || drop(map.read(0, 1)));
    log.value("write", sys::write(&other, b"new bytes"));
    log.line("seen", map.read(0, 20));
    let empty = sys::file("empty", b"");
    let none = Map::new(&empty, PAGE, PROT_READ, MAP_SHARED, 0).unwrap();
    sys::in_child(log, "read of an empty file", || drop(none.read(0, 1)));
}

pub fn arguments(log: &Log) {
    drop(sys::file("file", &pattern(10_000)));
    for (fd_name, flags) in [
        ("RDONLY", O_RDONLY),
        ("WRONLY", O_WRONLY),
        ("RDWR", O_RDWR),
        ("APPEND", O_RDWR | O_APPEND),
        ("DIRECT", O_RDWR | O_DIRECT),
        ("PATH", O_PATH),
    ] {
        let fd = open("file", flags, 0).unwrap();
        for (prot_name, prot) in
            [("NONE", 0), ("R", 1), ("W", 2), ("RW", 3), ("X", 4), ("RX", 5), ("RWX", 7)]
        {
            for (flags_name, flags) in [
                ("SHARED", MAP_SHARED),
                ("PRIVATE", MAP_PRIVATE),
                ("SHARED_VALIDATE", MAP_SHARED_VALIDATE),
                ("SHARED_VALIDATE|SYNC", MAP_SHARED_VALIDATE | MAP_SYNC),
                ("POPULATE", MAP_SHARED | MAP_POPULATE),
                ("LOCKED", MAP_PRIVATE | MAP_LOCKED),
                ("neither", 0),
            ] {
                // Which error comes first where there are two is nobody's promise.
                if flags & MAP_SYNC != 0 && fd_name != "RDWR" {
                    continue;
                }
                let call = format!("{fd_name} {prot_name} {flags_name}");
                log.ok(call, Map::new(&fd, 5000, prot, flags, 0));
            }
        }
        log.ok(format_args!("{fd_name} offset 1"), Map::new(&fd, 10, PROT_READ, MAP_PRIVATE, 1));
        log.ok(format_args!("{fd_name} nothing"), Map::new(&fd, 0, PROT_READ, MAP_PRIVATE, 0));
        let far = Map::new(&fd, PAGE, PROT_READ, MAP_SHARED, 1 << 40);
        log.ok(format_args!("{fd_name} far"), far);
    }
    let directory = open(".", O_RDONLY, 0).unwrap();
    log.ok("directory", Map::new(&directory, PAGE, PROT_READ, MAP_SHARED, 0));
}

pub fn advice_on_mappings(log: &Log) {
    let fd = sys::file("file", &pattern(20 * PAGE));
    let map = Map::shared(&fd, 20 * PAGE);
    for (name, flags) in
        [("ASYNC", MS_ASYNC), ("INVALIDATE", MS_INVALIDATE | MS_SYNC), ("both", MS_ASYNC | MS_SYNC)]
    {
        map.write(10, name.as_bytes());
        log.ok(format_args!("msync {name}"), map.sync(flags));
    }
    for (name, advice) in [
        ("DONTNEED", MADV_DONTNEED),
        ("WILLNEED", MADV_WILLNEED),
        ("SEQUENTIAL", MADV_SEQUENTIAL),
        ("REMOVE", MADV_REMOVE),
        ("FREE", MADV_FREE),
        ("COLD", MADV_COLD),
        ("PAGEOUT", MADV_PAGEOUT),
        ("POPULATE_WRITE", MADV_POPULATE_WRITE),
        ("bad", 999),
    ] {
        map.write(5 * PAGE, b"dirty");
        // SAFETY: pages in the middle of our mapping.
        let at = unsafe { map.at.add(4 * PAGE) };
        log.ok(format_args!("madvise {name}"), sys!(madvise(at, 4 * PAGE, advice)));
        log.line(format_args!("{name}: bytes"), map.read(0, 20 * PAGE));
        log.value(format_args!("{name}: pread"), sys::pread(&fd, 20 * PAGE, 0));
    }
    log.ok("mlock", sys!(mlock(map.at, map.len)));
    log.ok("fsync", sys!(fsync(fd.as_raw_fd())));
    sys::log_file(log, "file");
}

/// write() whose bytes are a mapping of the same file: the page it reads is the one it changes.
pub fn written_from_its_own_mapping(log: &Log) {
    let fd = sys::file("file", &pattern(10 * PAGE));
    let map = Map::shared(&fd, 10 * PAGE);
    // Pages that are not in memory yet have to be read while the file is being written.
    let advice = POSIX_FADV_DONTNEED;
    sys!(fsync(fd.as_raw_fd())).unwrap();
    // SAFETY: no pointers.
    unsafe { posix_fadvise(fd.as_raw_fd(), 0, 0, advice) };
    log.value("to the same place", sys!(pwrite(fd.as_raw_fd(), map.at, 2 * PAGE, 0)));
    log.value("to the next page", sys!(pwrite(fd.as_raw_fd(), map.at, PAGE, PAGE as i64)));
    // SAFETY: within the mapping.
    let inside = unsafe { map.at.add(4 * PAGE) };
    log.value("to the end", sys!(pwrite(fd.as_raw_fd(), inside, PAGE, 10 * PAGE as i64)));
    log.value("read into it", sys!(pread(fd.as_raw_fd(), inside, PAGE, 0)));
    sys::log_file(log, "file");
}

/// A mapping outlives descriptor and name.
pub fn without_descriptor_and_name(log: &Log) {
    let fd = sys::file("file", &pattern(10_000));
    std::fs::hard_link("file", "second").unwrap();
    let map = Map::shared(&fd, 10_000);
    drop(fd);
    map.write(0, b"without a descriptor");
    sys::log_file(log, "file");
    log.ok("unlink", sys!(unlink(c("file").as_ptr())));
    map.write(50, b"without this name");
    sys::log_file(log, "second");
    log.ok("unlink", sys!(unlink(c("second").as_ptr())));
    map.write(100, b"without any");
    log.line("bytes", map.read(0, 10_000));
    log.ok("msync", map.sync(MS_SYNC));
}
