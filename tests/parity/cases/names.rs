//! Names: rename, link, unlink, mkdir, symlink, mknod, and the limits of names and paths.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;

use libc::*;

use crate::log::Log;
use crate::sys::{self, c, open, sys};

/// What can be at a name.
const KINDS: [&str; 11] = [
    "missing",
    "file",
    "other",
    "same",
    "empty",
    "full",
    "full/inside",
    "link",
    "dangling",
    "fifo",
    "dirlink",
];

/// One of each in a fresh directory, and into it.
fn enter_fresh(at: &str) {
    fs::create_dir(at).unwrap();
    std::env::set_current_dir(at).unwrap();
    drop(sys::file("file", b"file"));
    drop(sys::file("other", b"another file"));
    fs::hard_link("file", "same").unwrap();
    fs::create_dir("empty").unwrap();
    fs::create_dir("full").unwrap();
    drop(sys::file("full/inside", b"inside"));
    symlink("file", "link").unwrap();
    symlink("absent", "dangling").unwrap();
    symlink("full", "dirlink").unwrap();
    sys::make_fifo("fifo", 0o600);
}

fn renameat2(from: &str, to: &str, flags: u32) -> io::Result<i64> {
    let (from, to) = (c(from), c(to));
    sys!(syscall(SYS_renameat2, AT_FDCWD, from.as_ptr(), AT_FDCWD, to.as_ptr(), flags))
}

/// Everything over everything, in one directory, then what is left.
fn rename_all(log: &Log, flags_name: &str, flags: u32) {
    for from in KINDS {
        for to in KINDS {
            enter_fresh("t");
            log.ok(format_args!("rename {from} {to} {flags_name}"), renameat2(from, to, flags));
            let left = KINDS.map(|name| {
                let stat = sys::lstat(name).map_or(0, |stat| stat.st_mode & S_IFMT);
                let bytes =
                    if stat == S_IFREG { fs::read(name).unwrap_or_default() } else { vec![] };
                format!("{stat:o}{}", bytes.escape_ascii())
            });
            log.line("left", left.join(" "));
            std::env::set_current_dir("..").unwrap();
            fs::remove_dir_all("t").unwrap();
        }
    }
}

pub fn rename_plain(log: &Log) {
    rename_all(log, "0", 0);
}

pub fn rename_noreplace(log: &Log) {
    rename_all(log, "NOREPLACE", RENAME_NOREPLACE);
}

pub fn rename_exchange(log: &Log) {
    rename_all(log, "EXCHANGE", RENAME_EXCHANGE);
}

pub fn rename_whiteout(log: &Log) {
    rename_all(log, "WHITEOUT", RENAME_WHITEOUT);
}

pub fn rename_odd(log: &Log) {
    enter_fresh("t");
    for (flags_name, flags) in [
        ("0", 0),
        ("NOREPLACE|EXCHANGE", RENAME_NOREPLACE | RENAME_EXCHANGE),
        ("WHITEOUT|EXCHANGE", RENAME_WHITEOUT | RENAME_EXCHANGE),
        ("bad", 8),
        ("EXCHANGE", RENAME_EXCHANGE),
        ("NOREPLACE", RENAME_NOREPLACE),
    ] {
        for (from, to) in [
            ("full", "full/below"),
            ("full/.", "x"),
            ("full/..", "x"),
            (".", "x"),
            ("full", "."),
            ("full", "full/.."),
            ("full/inside", "full"),
            ("full", "full/inside"),
            ("file/", "x"),
            ("file", "x/"),
            ("full/", "moved/"),
            ("moved", "full"),
            ("file", "nowhere/x"),
            ("nowhere/x", "file"),
            ("file/x", "y"),
            ("file", "fifo/x"),
            ("", "x"),
            ("file", ""),
            ("file", "/proc/self/x"),
            ("file", "file"),
            ("same", "file"),
            ("dirlink/inside", "dirlink/moved"),
            ("full/moved", "full/inside"),
        ] {
            log.ok(format_args!("rename {from} {to} {flags_name}"), renameat2(from, to, flags));
        }
    }
}

/// Open files keep what they are, whatever happens to their names.
pub fn rename_of_open_files(log: &Log) {
    let (first, second) = (sys::file("first", b"first"), sys::file("second", b"second"));
    log.ok("rename over an open file", renameat2("first", "second", 0));
    log.value("write the replaced", sys::pwrite(&second, b"SECOND", 0));
    log.value("read the moved", sys::pread(&first, 10, 0));
    log.value("stat the replaced", sys::fstat(&second).map(|stat| sys::shown(&stat)));
    sys::log_file(log, "second");
    let third = sys::file("third", &sys::pattern(300_000));
    log.ok("exchange open files", renameat2("second", "third", RENAME_EXCHANGE));
    log.value("write one", sys::pwrite(&first, b"1", 0));
    log.value("write the other", sys::pwrite(&third, b"3", 0));
    sys::log_file(log, "second");
    sys::log_file(log, "third");
    fs::create_dir_all("a/b/c").unwrap();
    let deep = sys::file("a/b/c/file", b"deep");
    log.ok("rename a parent", renameat2("a", "moved", 0));
    log.value("write below it", sys::pwrite(&deep, b"DEEP", 0));
    sys::log_file(log, "moved/b/c/file");
    log.ok("the old path", fs::metadata("a"));
}

pub fn link_and_linkat(log: &Log) {
    enter_fresh("t");
    let link = |from: &str, to: &str, flags| {
        let (from, to) = (c(from), c(to));
        sys!(linkat(AT_FDCWD, from.as_ptr(), AT_FDCWD, to.as_ptr(), flags))
    };
    let flags = [("0", 0), ("FOLLOW", AT_SYMLINK_FOLLOW), ("EMPTY", AT_EMPTY_PATH), ("bad", 1)];
    for (flags_name, flags) in flags {
        for name in KINDS.into_iter().chain(["", "file/", "link/", ".", "nowhere/x"]) {
            for to in ["new", "file", "empty", "nowhere/x", "empty/in", "new/", "dangling", ""] {
                log.ok(format_args!("link {name} {to} {flags_name}"), link(name, to, flags));
                let made = if to == "empty/in" { to } else { "new" };
                if let Ok(stat) = sys::lstat(made) {
                    log.line("made", sys::shown(&stat));
                    fs::remove_file(made).unwrap();
                }
            }
        }
    }
    let empty = |fd: i32, to: &str| {
        let to = c(to);
        sys!(linkat(fd, c("").as_ptr(), AT_FDCWD, to.as_ptr(), AT_EMPTY_PATH))
    };
    let file = open("file", O_RDONLY, 0).unwrap();
    log.ok("link an open file", empty(file.as_raw_fd(), "by-fd"));
    let path = open("link", O_PATH | O_NOFOLLOW, 0).unwrap();
    log.ok("link an open symlink", empty(path.as_raw_fd(), "link-by-fd"));
    let dir = open("empty", O_RDONLY, 0).unwrap();
    log.ok("link an open directory", empty(dir.as_raw_fd(), "dir-by-fd"));
    let gone = sys::file("gone", b"gone");
    fs::remove_file("gone").unwrap();
    log.ok("link a deleted file", empty(gone.as_raw_fd(), "back"));
    log.ok(
        "link a deleted file by proc",
        link(&format!("/proc/self/fd/{}", gone.as_raw_fd()), "back", AT_SYMLINK_FOLLOW),
    );
    sys::log_stat(log, "link-by-fd");
    sys::log_stat(log, "file");
}

pub fn unlink_and_rmdir(log: &Log) {
    for (flags_name, flags) in [("0", 0), ("REMOVEDIR", AT_REMOVEDIR), ("bad", 1 << 20)] {
        for name in KINDS.into_iter().chain([
            "",
            ".",
            "..",
            "empty/.",
            "empty/..",
            "empty/",
            "file/",
            "link/",
            "dirlink/",
            "full/",
            "file/x",
            "nowhere/x",
            "/proc/self/stat",
            "fifo/",
        ]) {
            enter_fresh("t");
            let removed = sys!(unlinkat(AT_FDCWD, c(name).as_ptr(), flags));
            log.ok(format_args!("unlinkat {name:?} {flags_name}"), removed);
            std::env::set_current_dir("..").unwrap();
            fs::remove_dir_all("t").unwrap();
        }
    }
}

/// A directory that is removed while it is somebody's current one.
pub fn a_removed_current_directory(log: &Log) {
    fs::create_dir("gone").unwrap();
    let fd = open("gone", O_RDONLY, 0).unwrap();
    std::env::set_current_dir("gone").unwrap();
    log.ok("rmdir", sys!(rmdir(c("../gone").as_ptr())));
    log.ok("getcwd", std::env::current_dir());
    log.ok("create", open("x", O_RDWR | O_CREAT, 0o600));
    log.ok("mkdir", sys!(mkdir(c("x").as_ptr(), 0o700)));
    log.ok("symlink", symlink("a", "x"));
    log.ok("mkfifo", sys!(mkfifo(c("x").as_ptr(), 0o600)));
    log.ok("rename into it", renameat2("/proc/self/x", "x", 0));
    log.ok("open it", open(".", O_RDONLY, 0));
    log.ok("open its parent", open("..", O_RDONLY, 0).map(|_| 0));
    let mut bytes = [0u8; 4096];
    let entries = sys!(syscall(SYS_getdents64, fd.as_raw_fd(), bytes.as_mut_ptr(), bytes.len()));
    log.value("list", entries);
    log.value("stat", sys::fstat(&fd).map(|stat| stat.st_nlink));
    log.ok("chmod", sys!(fchmod(fd.as_raw_fd(), 0o700)));
}

pub fn mkdir_mknod_symlink(log: &Log) {
    enter_fresh("t");
    for name in KINDS.into_iter().chain([
        "",
        ".",
        "..",
        "new/",
        "new/x",
        "file/x",
        "nowhere/x",
        "dangling/",
        "new/.",
        "n/..",
        "/",
    ]) {
        log.ok(format_args!("mkdir {name:?}"), sys!(mkdir(c(name).as_ptr(), 0o755)));
        log.ok(format_args!("mkfifo {name:?}"), sys!(mkfifo(c(name).as_ptr(), 0o644)));
        log.ok(format_args!("symlink {name:?}"), symlink("to", name));
        let _ = fs::remove_dir(name);
        let _ = fs::remove_file("missing");
    }
    for (kind_name, kind) in [
        ("none", 0),
        ("REG", S_IFREG),
        ("DIR", S_IFDIR),
        ("LNK", S_IFLNK),
        ("CHR", S_IFCHR),
        ("BLK", S_IFBLK),
        ("FIFO", S_IFIFO),
        ("SOCK", S_IFSOCK),
        ("bad", 0o130_000),
    ] {
        for dev in [0, makedev(1, 3), makedev(0xfff, 0xfffff), makedev(259, 70_000)] {
            let name = format!("node-{kind_name}-{dev:x}");
            log.ok(&name, sys!(mknod(c(&name).as_ptr(), kind | 0o644, dev)));
            sys::log_stat(log, &name);
        }
    }
    for mode in [0o1777, 0o2755, 0o4755, 0o7777] {
        let name = format!("mode-{mode:o}");
        log.ok(&name, sys!(mkdir(c(&name).as_ptr(), mode)));
        sys::log_stat(log, &name);
        fs::create_dir(format!("{name}/below")).unwrap();
        sys::log_stat(log, &format!("{name}/below"));
    }
    for len in [0, 1, 59, 60, 255, 256, 1000, 1023, 1024, 4000, 4095, 4096] {
        let name = format!("link-{len}");
        log.ok(&name, sys!(symlink(c("t".repeat(len)).as_ptr(), c(&name).as_ptr())));
        sys::log_stat(log, &name);
        log.value("readlink", fs::read_link(&name).map(|target| target.as_os_str().len()));
    }
    let mut short = [0u8; 3];
    let to = short.as_mut_ptr().cast();
    log.value("readlink, 3 bytes", sys!(readlink(c("link").as_ptr(), to, 3)));
    log.value("what was read", Ok(short));
    log.value("readlink, 0 bytes", sys!(readlink(c("link").as_ptr(), to, 0)));
    log.value("readlink a file", sys!(readlink(c("file").as_ptr(), to, 3)));
    let odd: Vec<u8> = (1..=255).collect();
    log.ok("symlink to any byte", symlink(std::ffi::OsStr::from_bytes(&odd), "odd"));
    log.value("readlink", fs::read_link("odd").map(|to| to.as_os_str().as_bytes() == odd));
}

pub fn long_names_and_any_byte(log: &Log) {
    for len in [254, 255, 256, 4095, 4096] {
        let name = "n".repeat(len);
        log.ok(format_args!("create {len}"), open(&name, O_RDWR | O_CREAT, 0o600));
        log.ok(format_args!("stat {len}"), sys::lstat(&name));
        log.ok(format_args!("rename {len}"), renameat2(&name, &format!("{}m", &name[1..]), 0));
        log.ok(format_args!("unlink {len}"), fs::remove_file(&name));
        log.ok(format_args!("mkdir {len}"), fs::create_dir(&name));
        log.ok(format_args!("symlink {len}"), symlink("to", format!("s{}", &name[1..])));
        log.ok(
            format_args!("below {len}"),
            open(format!("{name}/{name}"), O_RDWR | O_CREAT, 0o600),
        );
    }
    // Bytes of several units at the limit: 85 times 3 bytes.
    log.ok("create 255 in threes", open("\u{20ac}".repeat(85), O_RDWR | O_CREAT, 0o600));
    log.ok("create 256 in threes", open("\u{20ac}".repeat(85) + "x", O_RDWR | O_CREAT, 0o600));
    fs::create_dir("bytes").unwrap();
    std::env::set_current_dir("bytes").unwrap();
    for byte in 1..=255u8 {
        let name = [byte, b'x', byte];
        log.ok(format_args!("create {byte}"), open(name, O_RDWR | O_CREAT, 0o600));
    }
    let mut names: Vec<_> = fs::read_dir(".").unwrap().map(|at| at.unwrap().file_name()).collect();
    names.sort();
    log.line("listed", format_args!("{names:?}"));
}

pub fn loops_and_depth(log: &Log) {
    drop(sys::file("file0", b"at the end"));
    for at in 1..=42 {
        let last = if at == 1 { "file0".to_owned() } else { format!("file{}", at - 1) };
        symlink(last, format!("file{at}")).unwrap();
    }
    for at in [1, 39, 40, 41, 42] {
        log.ok(format_args!("open through {at}"), open(format!("file{at}"), O_RDONLY, 0));
    }
    symlink("b", "a").unwrap();
    symlink("a", "b").unwrap();
    log.ok("stat a loop", fs::metadata("a"));
    log.ok("truncate a loop", sys!(truncate(c("a").as_ptr(), 0)));
    let top = open(".", O_RDONLY, 0).unwrap();
    let mut made = 0;
    for at in 0..200 {
        let name = format!("a directory with a long name {at:03}");
        if fs::create_dir(&name).and_then(|()| std::env::set_current_dir(&name)).is_err() {
            break;
        }
        made += 1;
    }
    log.line("levels", made);
    log.value(
        "create",
        open("deep", O_RDWR | O_CREAT, 0o600).and_then(|fd| sys::write(&fd, b"deep")),
    );
    let path = "../".repeat(200) + "file0";
    log.value("read up", fs::read(path));
    log.ok("getcwd", std::env::current_dir());
    sys!(fchdir(top.as_raw_fd())).unwrap();
    log.ok("remove", fs::remove_dir_all("a directory with a long name 000"));
}

/// A name that goes away, comes back, changes its type: nothing of the old may be remembered.
pub fn names_come_back(log: &Log) {
    for round in 0..20 {
        log.ok("missing", sys::lstat("name"));
        drop(sys::file("name", format!("round {round}").as_bytes()));
        sys::log_file(log, "name");
        fs::remove_file("name").unwrap();
        log.ok("missing", sys::lstat("name"));
        fs::create_dir("name").unwrap();
        log.ok("create below", open("name/below", O_CREAT | O_RDWR, 0o600));
        log.ok("rmdir", fs::remove_dir("name"));
        fs::remove_file("name/below").unwrap();
        fs::remove_dir("name").unwrap();
        symlink(format!("target {round}"), "name").unwrap();
        log.value("readlink", fs::read_link("name"));
        fs::remove_file("name").unwrap();
        fs::write("a", "a").unwrap();
        log.ok("rename", fs::rename("a", "name"));
        log.ok("the old name", sys::lstat("a"));
        log.ok("link", fs::hard_link("name", "a"));
        log.value("links", sys::lstat("name").map(|stat| stat.st_nlink));
        fs::remove_file("name").unwrap();
        log.value("links", sys::lstat("a").map(|stat| stat.st_nlink));
    }
}
