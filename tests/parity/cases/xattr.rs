//! Extended attributes and POSIX ACLs.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::symlink;

use libc::*;

use crate::log::Log;
use crate::sys::{self, brief, c, open, pattern, sys};

const FILES: [&str; 6] = ["file", "directory", "link", "dangling", "fifo", "missing"];

fn make_files() {
    drop(sys::file("file", b"bytes"));
    fs::create_dir("directory").unwrap();
    symlink("file", "link").unwrap();
    symlink("absent", "dangling").unwrap();
    sys::make_fifo("fifo", 0o600);
}

fn set(path: &str, name: &str, value: &[u8], flags: i32) -> io::Result<i64> {
    let (path, name) = (c(path), c(name));
    sys!(lsetxattr(path.as_ptr(), name.as_ptr(), value.as_ptr().cast(), value.len(), flags))
}

fn get(path: &str, name: &str, room: usize) -> io::Result<String> {
    let (path, name, mut value) = (c(path), c(name), vec![0u8; room]);
    let len = sys!(lgetxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), room))?;
    Ok(if room == 0 { format!("{len} bytes") } else { brief(&value[..len as usize]) })
}

fn list(path: &str, room: usize) -> io::Result<String> {
    let (path, mut names) = (c(path), vec![0u8; room]);
    let len = sys!(llistxattr(path.as_ptr(), names.as_mut_ptr().cast(), room))? as usize;
    if room == 0 {
        return Ok(format!("{len} bytes"));
    }
    let mut names: Vec<&[u8]> = names[..len].split(|byte| *byte == 0).collect();
    names.sort();
    Ok(brief(&names.join(&b' ')))
}

fn remove(path: &str, name: &str) -> io::Result<i64> {
    let (path, name) = (c(path), c(name));
    sys!(lremovexattr(path.as_ptr(), name.as_ptr()))
}

pub fn each_namespace(log: &Log) {
    make_files();
    for file in FILES {
        for name in [
            "user.name",
            "trusted.name",
            "security.name",
            "system.name",
            "nowhere.name",
            "name",
            "user.",
            "user",
            "",
            "btrfs.compression",
        ] {
            let call = |what: &str| format!("{what} {file} {name:?}");
            log.ok(call("get nothing"), get(file, name, 100));
            log.ok(call("replace nothing"), set(file, name, b"x", XATTR_REPLACE));
            log.ok(call("create"), set(file, name, b"value", XATTR_CREATE));
            log.ok(call("create again"), set(file, name, b"x", XATTR_CREATE));
            log.value(call("get"), get(file, name, 100));
            log.value(call("get the size"), get(file, name, 0));
            log.value(call("get into 4 bytes"), get(file, name, 4));
            log.value(call("list"), list(file, 1000));
            log.value(call("list into 3 bytes"), list(file, 3));
            log.ok(call("replace"), set(file, name, b"other", XATTR_REPLACE));
            log.ok(call("both flags"), set(file, name, b"x", XATTR_CREATE | XATTR_REPLACE));
            log.ok(call("bad flags"), set(file, name, b"x", 4));
            log.ok(call("empty"), set(file, name, b"", 0));
            log.value(call("get"), get(file, name, 100));
            log.ok(call("remove"), remove(file, name));
            log.ok(call("remove again"), remove(file, name));
        }
    }
}

pub fn as_an_ordinary_user(log: &Log) {
    make_files();
    for file in ["file", "directory", "link"] {
        for name in ["user.a", "trusted.a", "security.a"] {
            let _ = set(file, name, b"of root", 0);
        }
    }
    drop(sys::file("mine", b""));
    sys!(chown(c("mine").as_ptr(), sys::NOBODY, sys::NOBODY)).unwrap();
    fs::create_dir("sticky").unwrap();
    sys!(chmod(c("sticky").as_ptr(), 0o1777)).unwrap();
    sys::as_user(log, sys::NOBODY, sys::NOBODY, &[], || {
        for file in ["file", "directory", "link", "mine", "sticky"] {
            for name in ["user.a", "trusted.a", "security.a", "security.capability"] {
                log.value(format_args!("get {file} {name}"), get(file, name, 100));
                log.ok(format_args!("set {file} {name}"), set(file, name, b"mine", 0));
                log.ok(format_args!("remove {file} {name}"), remove(file, name));
            }
            log.value(format_args!("list {file}"), list(file, 1000));
        }
    });
}

pub fn sizes_at_the_limits(log: &Log) {
    drop(sys::file("file", b""));
    for len in [0, 1, 255, 1000, 2000, 4000, 4096, 16_000, 65_535, 65_536, 65_537, 1 << 20] {
        log.ok(format_args!("set {len}"), set("file", "user.big", &pattern(len), 0));
        log.value(format_args!("get {len}"), get("file", "user.big", 1 << 17));
        log.value(format_args!("get size {len}"), get("file", "user.big", 0));
        if len > 1 {
            log.value(format_args!("get {len} into less"), get("file", "user.big", len - 1));
        }
        let _ = remove("file", "user.big");
    }
    for len in [5, 6, 100, 249, 250, 251, 255, 256, 1000] {
        let name = format!("user.{}", "n".repeat(len));
        log.ok(format_args!("name of {}", name.len()), set("file", &name, b"v", 0));
        log.value(format_args!("get name of {}", name.len()), get("file", &name, 10));
    }
    for at in 0..40 {
        log.ok(
            format_args!("set one more, {at}"),
            set("file", &format!("user.n{at}"), b"value", 0),
        );
    }
    log.value("list", list("file", 1 << 16));
    log.value("list the size", list("file", 0));
    log.value("list into 10 bytes", list("file", 10));
    log.value("list into 100 KiB", list("file", 100 << 10));
}

pub fn of_open_files(log: &Log) {
    let fd = sys::file("file", &pattern(100_000));
    let name = c("user.open");
    let set_open = |fd: i32| sys!(fsetxattr(fd, name.as_ptr(), c("value").as_ptr().cast(), 5, 0));
    log.ok("fsetxattr", set_open(fd.as_raw_fd()));
    let path = open("file", O_PATH, 0).unwrap();
    log.ok("fsetxattr of a path descriptor", set_open(path.as_raw_fd()));
    let read_only = open("file", O_RDONLY, 0).unwrap();
    log.ok("fsetxattr of a read-only one", set_open(read_only.as_raw_fd()));
    fs::remove_file("file").unwrap();
    let mut value = [0u8; 10];
    let room = value.as_mut_ptr().cast();
    log.value("fgetxattr", sys!(fgetxattr(fd.as_raw_fd(), name.as_ptr(), room, 10)));
    log.ok("fremovexattr", sys!(fremovexattr(fd.as_raw_fd(), name.as_ptr())));
    log.value("fgetxattr", sys!(fgetxattr(fd.as_raw_fd(), name.as_ptr(), room, 10)));
    log.value("flistxattr", sys!(flistxattr(fd.as_raw_fd(), value.as_mut_ptr().cast(), 10)));
}

/// File capabilities: set, and gone after a write.
pub fn capabilities(log: &Log) {
    let fd = sys::file("file", b"bytes");
    // struct vfs_cap_data of revision 2 with CAP_NET_RAW, permitted and effective.
    let mut value = [0u8; 20];
    value[..4].copy_from_slice(&0x0200_0001u32.to_le_bytes());
    value[4..8].copy_from_slice(&(1u32 << 13).to_le_bytes());
    log.ok("bad", set("file", "security.capability", b"nonsense", 0));
    for what in ["write", "truncate", "chown", "allocate"] {
        log.ok("set", set("file", "security.capability", &value, 0));
        log.value("get", get("file", "security.capability", 100));
        match what {
            "write" => drop(sys::pwrite(&fd, b"new", 0)),
            "truncate" => drop(sys!(ftruncate(fd.as_raw_fd(), 2))),
            "chown" => drop(sys!(fchown(fd.as_raw_fd(), 5, 5))),
            _ => drop(sys!(fallocate(fd.as_raw_fd(), 0, 0, 9000))),
        }
        log.value(format_args!("get after {what}"), get("file", "security.capability", 100));
    }
}

const ACCESS: &str = "system.posix_acl_access";
const DEFAULT: &str = "system.posix_acl_default";

/// An ACL as its attribute has it: tag, permissions, id.
fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut bytes = 2u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(permissions.to_le_bytes());
        bytes.extend(id.to_le_bytes());
    }
    bytes
}

const OWNER: u16 = 1;
const USER: u16 = 2;
const GROUP_OF_FILE: u16 = 4;
const GROUP: u16 = 8;
const MASK: u16 = 16;
const OTHER: u16 = 32;
const NO_ID: u32 = u32::MAX;

/// Owner rwx, one user rw, group r, another group rx, mask as given, others nothing.
fn full_acl(mask: u16) -> Vec<u8> {
    acl(&[
        (OWNER, 7, NO_ID),
        (USER, 6, sys::NOBODY),
        (GROUP_OF_FILE, 4, NO_ID),
        (GROUP, 5, 777),
        (MASK, mask, NO_ID),
        (OTHER, 0, NO_ID),
    ])
}

fn log_acl(log: &Log, name: &str) {
    sys::log_stat_after(log, "ACL", name);
    log.value(format_args!("access ACL of {name}"), get(name, ACCESS, 1000));
    log.value(format_args!("default ACL of {name}"), get(name, DEFAULT, 1000));
}

pub fn acl_values(log: &Log) {
    make_files();
    let minimal = acl(&[(OWNER, 6, NO_ID), (GROUP_OF_FILE, 4, NO_ID), (OTHER, 1, NO_ID)]);
    for file in FILES {
        for (what, value) in [
            ("empty", vec![]),
            ("short", vec![2, 0, 0]),
            ("no entries", acl(&[])),
            ("bad version", vec![9, 0, 0, 0]),
            ("no owner", acl(&[(OTHER, 1, NO_ID)])),
            (
                "no mask",
                acl(&[
                    (OWNER, 6, NO_ID),
                    (USER, 6, 5),
                    (GROUP_OF_FILE, 4, NO_ID),
                    (OTHER, 1, NO_ID),
                ]),
            ),
            (
                "bad permissions",
                acl(&[(OWNER, 8, NO_ID), (GROUP_OF_FILE, 4, NO_ID), (OTHER, 1, NO_ID)]),
            ),
            ("minimal", minimal.clone()),
            ("full", full_acl(7)),
            ("masked", full_acl(4)),
        ] {
            for name in [ACCESS, DEFAULT] {
                log.ok(format_args!("set {what} {name} of {file}"), set(file, name, &value, 0));
                log_acl(log, file);
                log.value(format_args!("list {file}"), list(file, 1000));
            }
        }
        for mode in [0o600, 0o777, 0o750] {
            if file != "missing" && file != "dangling" {
                log.ok(format_args!("chmod {file}"), sys!(chmod(c(file).as_ptr(), mode)));
                log_acl(log, file);
            }
        }
        for name in [ACCESS, DEFAULT] {
            log.ok(format_args!("remove {name} of {file}"), remove(file, name));
            log_acl(log, file);
        }
    }
}

pub fn acl_inheritance(log: &Log) {
    for (at, mask) in [0, 0o022, 0o077, 0o777].into_iter().enumerate() {
        sys::umask(mask);
        let dir = format!("directory{at}");
        fs::create_dir(&dir).unwrap();
        sys!(chmod(c(&dir).as_ptr(), 0o2775)).unwrap();
        log.ok("set the default", set(&dir, DEFAULT, &full_acl(7), 0));
        for mode in [0o666u32, 0o640, 0o777, 0o4711, 0] {
            let name = |kind: &str| format!("{dir}/{kind}-{mode:o}");
            let (file, below, fifo) = (name("file"), name("directory"), name("fifo"));
            log.ok(format_args!("create {file}"), open(&file, O_RDWR | O_CREAT, mode));
            log.ok(format_args!("mkdir {below}"), sys!(mkdir(c(&below).as_ptr(), mode)));
            log.ok(format_args!("mkfifo {fifo}"), sys!(mkfifo(c(&fifo).as_ptr(), mode)));
            [file, below, fifo].iter().for_each(|name| log_acl(log, name));
        }
        symlink("x", format!("{dir}/link")).unwrap();
        log_acl(log, &format!("{dir}/link"));
    }
}

pub fn acl_permissions(log: &Log) {
    let fd = sys::file("file", b"secret");
    sys!(fchmod(fd.as_raw_fd(), 0o600)).unwrap();
    fs::create_dir("directory").unwrap();
    sys!(chmod(c("directory").as_ptr(), 0o700)).unwrap();
    drop(sys::file("directory/inside", b"inside"));
    for (what, mask) in [("mask rwx", 7), ("mask r", 4), ("mask nothing", 0)] {
        log.ok(format_args!("set, {what}"), set("file", ACCESS, &full_acl(mask), 0));
        log.ok(format_args!("set, {what}"), set("directory", ACCESS, &full_acl(mask), 0));
        for (who, uid, groups) in [
            ("the user", sys::NOBODY, &[][..]),
            ("the group", sys::SOMEBODY, &[777][..]),
            ("the other group", sys::SOMEBODY, &[0][..]),
            ("others", sys::SOMEBODY, &[][..]),
        ] {
            sys::as_user(log, uid, uid, groups, || {
                let call = |call: &str| format!("{what}: {call} as {who}");
                log.ok(call("read"), open("file", O_RDONLY, 0));
                log.ok(call("write"), open("file", O_WRONLY, 0));
                log.ok(call("list"), open("directory", O_RDONLY, 0));
                log.ok(call("search"), sys::lstat("directory/inside"));
                log.ok(call("create"), open("directory/new", O_RDWR | O_CREAT, 0o600));
                log.ok(call("access W"), sys!(access(c("file").as_ptr(), W_OK)));
                log.ok(call("set an ACL"), set("file", ACCESS, &full_acl(7), 0));
            });
        }
    }
}
