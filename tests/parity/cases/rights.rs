//! What ordinary users may do, and the bits that go when they write.

use std::fs;
use std::os::fd::AsRawFd;

use libc::*;

use crate::log::Log;
use crate::sys::{self, NOBODY, SOMEBODY, as_user, c, open, sys};

/// A group that [`NOBODY`] is in besides its own, in some cases.
const TEAM: u32 = 777;

fn chmod(name: &str, mode: u32) {
    sys!(chmod(c(name).as_ptr(), mode)).unwrap();
}

fn chown(name: &str, uid: u32, gid: u32) {
    sys!(lchown(c(name).as_ptr(), uid, gid)).unwrap();
}

/// A directory where everybody may do everything, as the current one.
fn enter_open_directory() {
    fs::create_dir("open").unwrap();
    chmod("open", 0o777);
    std::env::set_current_dir("open").unwrap();
}

pub fn set_id_bits_go(log: &Log) {
    enter_open_directory();
    for mode in [0o6777, 0o6767, 0o4777, 0o2777, 0o2767, 0o1777] {
        for (owner_name, owner) in [("own", NOBODY), ("other", SOMEBODY)] {
            for what in [
                "write",
                "append",
                "pwrite",
                "truncate",
                "ftruncate",
                "O_TRUNC",
                "fallocate",
                "mmap",
                "chown",
                "chmod",
                "direct",
            ] {
                let fd = sys::file("file", &[b'x'; 5000]);
                chown("file", owner, owner);
                chmod("file", mode);
                let call = format!("{what} {mode:o} {owner_name}");
                as_user(log, NOBODY, NOBODY, &[], || {
                    let again = |flags| open("file", O_RDWR | flags, 0).unwrap();
                    match what {
                        "write" => drop(log.value(&call, sys::write(&again(0), b"new"))),
                        "append" => drop(log.value(&call, sys::write(&again(O_APPEND), b"new"))),
                        "pwrite" => drop(log.value(&call, sys::pwrite(&again(0), b"new", 100_000))),
                        "truncate" => drop(log.ok(&call, sys!(truncate(c("file").as_ptr(), 10)))),
                        "ftruncate" => {
                            log.ok(&call, sys!(ftruncate(again(0).as_raw_fd(), 10)));
                        }
                        "O_TRUNC" => drop(log.ok(&call, open("file", O_RDWR | O_TRUNC, 0))),
                        "fallocate" => {
                            let fd = again(0);
                            log.ok(&call, sys!(fallocate(fd.as_raw_fd(), 0, 0, 9000)));
                        }
                        "mmap" => {
                            let fd = again(0);
                            // SAFETY: a mapping of a file of more than a page.
                            unsafe {
                                let prot = PROT_READ | PROT_WRITE;
                                let map = mmap(
                                    std::ptr::null_mut(),
                                    4096,
                                    prot,
                                    MAP_SHARED,
                                    fd.as_raw_fd(),
                                    0,
                                );
                                assert_ne!(map, MAP_FAILED);
                                *map.cast::<u8>() = b'm';
                            }
                        }
                        "chown" => {
                            let done = sys!(chown(c("file").as_ptr(), u32::MAX, NOBODY));
                            log.ok(&call, done);
                        }
                        "chmod" => drop(log.ok(&call, sys!(chmod(c("file").as_ptr(), 0o6755)))),
                        _ => {
                            let fd = again(O_DIRECT);
                            let bytes = vec![b'd'; 8192];
                            let from = bytes[bytes.as_ptr().align_offset(4096)..].as_ptr();
                            log.value(&call, sys!(pwrite(fd.as_raw_fd(), from.cast(), 4096, 0)));
                        }
                    }
                });
                sys::log_stat_after(log, &call, "file");
                log.ok("fsync", sys!(fsync(fd.as_raw_fd())));
                sys::log_stat_after(log, &format!("{call}, synced"), "file");
                fs::remove_file("file").unwrap();
            }
        }
    }
}

/// root keeps the bits where an ordinary user would not.
pub fn set_id_bits_of_root(log: &Log) {
    let fd = sys::file("file", b"bytes");
    for (what, act) in [("write", 0), ("truncate", 1), ("chown", 2)] {
        chmod("file", 0o6755);
        let done = match act {
            0 => sys::pwrite(&fd, b"new", 0),
            1 => sys!(ftruncate(fd.as_raw_fd(), 2)),
            _ => sys!(fchown(fd.as_raw_fd(), 5, 5)),
        };
        log.value(what, done);
        sys::log_stat(log, "file");
    }
}

pub fn chmod_and_chown(log: &Log) {
    enter_open_directory();
    for (name, uid, gid) in [
        ("mine", NOBODY, NOBODY),
        ("of-the-team", NOBODY, TEAM),
        ("of-others", SOMEBODY, SOMEBODY),
        ("of-my-group", SOMEBODY, NOBODY),
    ] {
        for groups in [&[][..], &[TEAM]] {
            drop(sys::file(name, b"x"));
            chown(name, uid, gid);
            as_user(log, NOBODY, NOBODY, groups, || {
                for mode in [0o644, 0o2755, 0o4755, 0o1777, 0o7777] {
                    let call = format!("chmod {mode:o} {name} {groups:?}");
                    log.ok(call, sys!(chmod(c(name).as_ptr(), mode)));
                    sys::log_stat(log, name);
                }
                for (uid, gid) in [
                    (NOBODY, u32::MAX),
                    (SOMEBODY, u32::MAX),
                    (0, u32::MAX),
                    (u32::MAX, TEAM),
                    (u32::MAX, NOBODY),
                    (u32::MAX, 0),
                    (u32::MAX, u32::MAX),
                ] {
                    let call = format!("chown {uid}:{gid} {name} {groups:?}");
                    log.ok(call, sys!(lchown(c(name).as_ptr(), uid, gid)));
                    sys::log_stat(log, name);
                }
            });
            fs::remove_file(name).unwrap();
        }
    }
}

pub fn directories_with_set_group_id(log: &Log) {
    for (dir, gid) in [("team", TEAM), ("mine", NOBODY), ("others", 888)] {
        for groups in [&[][..], &[TEAM]] {
            fs::create_dir(dir).unwrap();
            chown(dir, 0, gid);
            chmod(dir, 0o2777);
            as_user(log, NOBODY, NOBODY, groups, || {
                sys::umask(0);
                for mode in [0o644, 0o2755, 0o2745, 0o6777] {
                    let name = |kind: &str| format!("{dir}/{kind}-{mode:o}-{groups:?}");
                    let (file, below, fifo) = (name("file"), name("directory"), name("fifo"));
                    log.ok(&file, open(&file, O_RDWR | O_CREAT, mode));
                    log.ok(&below, sys!(mkdir(c(&below).as_ptr(), mode)));
                    log.ok(&fifo, sys!(mkfifo(c(&fifo).as_ptr(), mode)));
                    [&file, &below, &fifo].iter().for_each(|name| sys::log_stat(log, name));
                    let link = name("link");
                    log.ok(&link, std::os::unix::fs::symlink("x", &link));
                    sys::log_stat(log, &link);
                    log.ok(&file, sys!(chmod(c(&file).as_ptr(), mode)));
                    sys::log_stat(log, &file);
                }
            });
            fs::remove_dir_all(dir).unwrap();
        }
    }
}

pub fn sticky_directories(log: &Log) {
    fs::create_dir("sticky").unwrap();
    chmod("sticky", 0o1777);
    for (name, uid) in [("mine", NOBODY), ("his", SOMEBODY)] {
        drop(sys::file(&format!("sticky/{name}"), b"x"));
        fs::create_dir(format!("sticky/{name}-directory")).unwrap();
        for made in [name.to_owned(), format!("{name}-directory")] {
            chown(&format!("sticky/{made}"), uid, uid);
            chmod(&format!("sticky/{made}"), 0o777);
        }
    }
    as_user(log, NOBODY, NOBODY, &[], || {
        std::env::set_current_dir("sticky").unwrap();
        log.ok("write his", open("his", O_RDWR, 0));
        log.ok("create his", open("his", O_RDWR | O_CREAT, 0));
        log.ok("rename his", fs::rename("his", "other"));
        log.ok("rename over his", fs::rename("mine", "his"));
        log.ok("rename his directory", fs::rename("his-directory", "other"));
        log.ok("unlink his", fs::remove_file("his"));
        log.ok("rmdir his", fs::remove_dir("his-directory"));
        log.ok("link his", fs::hard_link("his", "link"));
        log.ok("rename mine", fs::rename("mine", "other"));
        log.ok("unlink mine", fs::remove_file("other"));
        log.ok("rmdir mine", fs::remove_dir("mine-directory"));
    });
}

pub fn denials(log: &Log) {
    fs::create_dir("closed").unwrap();
    fs::create_dir("listed").unwrap();
    fs::create_dir("searched").unwrap();
    for (dir, mode) in [("closed", 0o700), ("listed", 0o744), ("searched", 0o711)] {
        drop(sys::file(&format!("{dir}/file"), b"bytes"));
        fs::create_dir(format!("{dir}/below")).unwrap();
        chmod(dir, mode);
    }
    for mode in [0, 0o004, 0o002, 0o006, 0o001, 0o040, 0o440, 0o644] {
        let name = format!("file-{mode:o}");
        drop(sys::file(&name, b"bytes"));
        chmod(&name, mode);
    }
    let mine = ["mine-0", "mine-400", "mine-200", "mine-077"];
    for (name, mode) in mine.iter().zip([0, 0o400, 0o200, 0o077]) {
        drop(sys::file(name, b"bytes"));
        chown(name, NOBODY, NOBODY);
        chmod(name, mode);
    }
    let mut names: Vec<String> = fs::read_dir(".")
        .unwrap()
        .map(|at| at.unwrap().file_name().into_string().unwrap())
        .collect();
    for dir in ["closed", "listed", "searched"] {
        names.extend(["file", "below", "missing"].map(|name| format!("{dir}/{name}")));
    }
    names.sort();
    for (uid, groups) in [(NOBODY, &[][..]), (NOBODY, &[0]), (SOMEBODY, &[])] {
        as_user(log, uid, uid, groups, || {
            for name in &names {
                let path = c(name);
                let call = |call: &str| format!("{call} {name} as {uid} {groups:?}");
                for (what, mode) in [("F", F_OK), ("R", R_OK), ("W", W_OK), ("X", X_OK), ("bad", 8)]
                {
                    log.ok(call(&format!("access {what}")), sys!(access(path.as_ptr(), mode)));
                    let flags = AT_EACCESS | AT_SYMLINK_NOFOLLOW;
                    let found = sys!(faccessat(AT_FDCWD, path.as_ptr(), mode, flags));
                    log.ok(call(&format!("faccessat {what}")), found);
                }
                for (what, flags) in [
                    ("R", O_RDONLY),
                    ("W", O_WRONLY),
                    ("RW", O_RDWR),
                    ("PATH", O_PATH),
                    ("NOATIME", O_NOATIME),
                    ("TRUNC", O_TRUNC),
                ] {
                    log.ok(call(&format!("open {what}")), open(name, flags, 0));
                }
                log.ok(call("stat"), sys::lstat(name));
                log.ok(call("list"), fs::read_dir(name));
                log.ok(call("truncate"), sys!(truncate(path.as_ptr(), 3)));
                log.ok(
                    call("chdir"),
                    std::env::set_current_dir(name).map(|()| std::env::set_current_dir("..")),
                );
                log.ok(call("create below"), open(format!("{name}/new"), O_RDWR | O_CREAT, 0o600));
                log.ok(call("mkdir below"), fs::create_dir(format!("{name}/newdir")));
                log.ok(call("unlink"), fs::remove_file(name));
                log.ok(call("rename"), fs::rename(name, "renamed"));
                log.ok(call("link"), fs::hard_link(name, "linked"));
                log.ok(call("run"), std::process::Command::new(format!("./{name}")).status());
            }
            let device = sys!(mknod(c("/tmp/../dev/null").as_ptr(), S_IFCHR, 1));
            log.ok("mknod over a device", device);
            log.ok("mknod", sys!(mknod(c("device").as_ptr(), S_IFCHR | 0o600, makedev(1, 3))));
        });
    }
}

/// Who opened a file keeps what he may do with it.
pub fn rights_are_of_the_moment_of_opening(log: &Log) {
    enter_open_directory();
    as_user(log, NOBODY, NOBODY, &[], || {
        let fd = open("file", O_RDWR | O_CREAT | O_EXCL, 0o400);
        if let Some(fd) = log.ok("create with mode 400", fd) {
            log.value("write", sys::write(&fd, b"bytes"));
            log.ok("chmod 0", sys!(fchmod(fd.as_raw_fd(), 0)));
            log.value("write", sys::write(&fd, b"more"));
            log.value("read", sys::pread(&fd, 10, 0));
            log.ok("open again", open("file", O_RDONLY, 0));
            log.ok("truncate by name", sys!(truncate(c("file").as_ptr(), 1)));
            log.ok("truncate", sys!(ftruncate(fd.as_raw_fd(), 2)));
            log.ok("fallocate", sys!(fallocate(fd.as_raw_fd(), 0, 0, 5000)));
            log.ok("fsync", sys!(fsync(fd.as_raw_fd())));
        }
    });
    sys::log_stat(log, "file");
    sys::log_file(log, "file");
    let fd = sys::file("root", b"bytes");
    chmod("root", 0o600);
    as_user(log, NOBODY, NOBODY, &[], || {
        log.value("write by what was inherited", sys::pwrite(&fd, b"nobody", 0));
        log.ok("fchmod", sys!(fchmod(fd.as_raw_fd(), 0o666)));
        log.ok("ftruncate", sys!(ftruncate(fd.as_raw_fd(), 3)));
        let magic = c(format!("/proc/self/fd/{}", fd.as_raw_fd()));
        log.ok("open by proc", open(magic.as_bytes(), O_RDWR, 0));
    });
    sys::log_file(log, "root");
}
