//! What a mount shows of itself: virtual files, attributes of files, metrics, `top`.

use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::Value;

use crate::support::{Mount, PROGRAM, SOON, records, sh, succeed, text};

const HELD: &[&str] = &["--max-age", "1h"];

/// Why the test with Prometheus' own tool cannot run here, if it cannot.
pub fn cannot_check_metrics() -> Option<String> {
    let tried = Command::new("promtool").arg("--version").stdout(Stdio::null()).status();
    let works = tried.is_ok_and(|status| status.success());
    (!works).then(|| "no promtool (Debian package prometheus)".into())
}

/// A file with bytes that stay in memory.
fn with_backlog(mount: &Mount, name: &str) -> File {
    let mut file = File::create(mount.path().join(name)).unwrap();
    file.write_all(&records(1, 1000)).unwrap();
    // Hands the pages over to the daemon.
    sh(mount.path(), &format!("sync -f . && test -e {name}"));
    mount.wait_for("the bytes to come", |status| status["backlog_bytes"].as_u64() > Some(0));
    file
}

fn errno<T: std::fmt::Debug>(result: std::io::Result<T>) -> Option<i32> {
    result.unwrap_err().raw_os_error()
}

/// getxattr(2).
fn attribute(path: &Path, name: &str) -> std::io::Result<String> {
    let (path, name) =
        (CString::new(path.as_os_str().as_bytes()).unwrap(), CString::new(name).unwrap());
    let mut value = vec![0u8; 4096];
    // SAFETY: valid C strings, a buffer of the given length.
    let len = unsafe {
        libc::getxattr(path.as_ptr(), name.as_ptr(), value.as_mut_ptr().cast(), value.len())
    };
    if len < 0 {
        return Err(std::io::Error::last_os_error());
    }
    value.truncate(len as usize);
    Ok(String::from_utf8(value).unwrap())
}

/// Goal: the hidden directory is found by its name only, shows the state of the moment at which a
/// file of it was opened, and lets nobody change anything.
pub fn the_hidden_directory_shows_the_state() {
    let mount = Mount::over(HELD);
    let file = with_backlog(&mount, "f");
    let names: Vec<_> =
        fs::read_dir(mount.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["f"]);
    let hidden = mount.path().join(".coalescefs");
    let mut names: Vec<_> =
        fs::read_dir(&hidden).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["files", "metrics", "status"]);

    let status: Value = serde_json::from_slice(&fs::read(hidden.join("status")).unwrap()).unwrap();
    assert!(status["backlog_bytes"].as_u64().unwrap() >= 10_000, "{status:#}");
    assert!(status["why_slow"].is_string());
    let files: Value = serde_json::from_slice(&fs::read(hidden.join("files")).unwrap()).unwrap();
    assert_eq!(files[0]["path"], "f");
    assert_eq!(files[0]["id"], fs::metadata(mount.path().join("f")).unwrap().ino());

    // The same from beginning to end, whatever happens meanwhile.
    let mut open = File::open(hidden.join("files")).unwrap();
    let mut first = String::new();
    open.read_to_string(&mut first).unwrap();
    succeed(Command::new(PROGRAM).arg("drain").arg(mount.path()));
    open.rewind().unwrap();
    let mut second = String::new();
    open.read_to_string(&mut second).unwrap();
    assert_eq!(first, second);
    assert_eq!(fs::read_to_string(hidden.join("files")).unwrap().trim(), "[]");

    for name in [".coalescefs", ".coalescefs/x"] {
        let path = mount.path().join(name);
        assert!(fs::create_dir(&path).is_err(), "{name}");
        assert!(fs::rename(mount.path().join("f"), &path).is_err(), "{name}");
    }
    assert_eq!(errno(fs::remove_dir(&hidden)), Some(libc::EPERM));
    assert_eq!(errno(fs::remove_file(hidden.join("status"))), Some(libc::EPERM));
    assert_eq!(errno(fs::rename(&hidden, mount.path().join("g"))), Some(libc::EPERM));
    assert_eq!(errno(File::create(hidden.join("new"))), Some(libc::EPERM));
    assert!(OpenOptions::new().write(true).open(hidden.join("status")).is_err());
    assert_eq!(
        errno(fs::hard_link(hidden.join("status"), mount.path().join("l"))),
        Some(libc::EPERM)
    );
    drop((file, open));
    mount.umount_clean();
    assert!(!hidden.exists());
}

/// Goal: what names files is for the mount's owner and root; figures are for all who may use the
/// mount.
pub fn names_of_files_are_for_the_owner() {
    let mount = Mount::over(&["--allow-other"]);
    mount.open_to_all();
    sh(mount.path(), "chmod 755 .");
    let as_other = |name: &str| {
        let mut command = Command::new("cat");
        command.arg(mount.path().join(".coalescefs").join(name)).uid(65_534).gid(65_534);
        command.output().unwrap()
    };
    for name in ["status", "files"] {
        let output = as_other(name);
        assert!(!output.status.success(), "{name}");
        assert!(text(&output).contains("Permission denied"), "{}", text(&output));
    }
    let metrics = as_other("metrics");
    assert!(text(&metrics).contains("coalescefs_backlog_bytes{"), "{}", text(&metrics));
}

/// Goal: something of that name below stays what it is, and the virtual files are then not there.
pub fn a_real_directory_of_that_name_is_left_alone() {
    let mount = Mount::over_prepared("mkdir .coalescefs; echo mine >.coalescefs/status", &[]);
    let hidden = mount.path().join(".coalescefs");
    assert_eq!(fs::read_to_string(hidden.join("status")).unwrap(), "mine\n");
    assert!(!hidden.join("metrics").exists());
    fs::write(hidden.join("other"), "x").unwrap();
    fs::rename(&hidden, mount.path().join("moved")).unwrap();
    assert!(hidden.join("metrics").exists());
    // Its name cannot be had back.
    assert!(fs::rename(mount.path().join("moved"), &hidden).is_err());
    mount.umount_clean();
    assert_eq!(fs::read_to_string(mount.path().join("moved/status")).unwrap(), "mine\n");
}

/// Goal: a file tells its backlog when it is asked by name, lists it to who names it, and nobody
/// copies that or sets it.
pub fn a_file_tells_its_backlog() {
    let mount = Mount::over(HELD);
    let mut file = with_backlog(&mount, "f");
    let path = mount.path().join("f");
    sh(mount.path(), "setfattr -n user.kept -v yes f");
    let number = |name: &str| attribute(&path, name).unwrap().parse::<u64>().unwrap();
    assert_eq!(number("user.coalescefs.backlog_bytes"), 10_000);
    let age_ms = number("user.coalescefs.oldest_age_ms");
    assert!(number("user.coalescefs.oldest_age_ms") >= age_ms);
    assert_eq!(attribute(&path, "user.coalescefs.error").unwrap(), "");
    assert!(attribute(&path, "user.coalescefs").unwrap().starts_with("backlog_bytes=10000 "));
    assert_eq!(errno(attribute(&path, "user.coalescefs.other")), Some(libc::ENODATA));
    assert_eq!(errno(attribute(mount.path(), "user.coalescefs.error")), Some(libc::ENODATA));

    for pattern in ["user.coalescefs", "'^user\\.coalescefs'"] {
        let lines =
            ["backlog_bytes=\"10000\"", "oldest_age_ms=\"", "error=\"\"", "changed_below=\"0\""];
        let until = Instant::now() + SOON;
        loop {
            let dump = sh(mount.path(), &format!("getfattr -R -d -m {pattern} ."));
            let has = |line: &&str| dump.contains(&format!("\nuser.coalescefs.{line}"));
            if lines.iter().all(has) {
                break;
            }
            // A daemon that gets no processor does not wait to read the command line.
            assert!(Instant::now() < until, "{pattern}: {dump}");
        }
    }
    let refused = sh(mount.path(), "setfattr -n user.coalescefs.error -v x f 2>&1 || true");
    assert!(refused.contains("Operation not permitted"), "{refused}");
    let refused = sh(mount.path(), "setfattr -x user.coalescefs.error f 2>&1 || true");
    assert!(refused.contains("Operation not permitted"), "{refused}");

    nobody_copies_it(&mount, &mount.plain());
    // Also not to where such names mean something, though they are not listed there.
    let other = Mount::over(HELD);
    let held = with_backlog(&other, "g");
    let listed = sh(other.path(), "getfattr -d -m - g");
    assert_eq!(listed, "");
    nobody_copies_it(&mount, other.path());
    drop(held);
    other.umount_clean();
    assert_eq!(number("user.coalescefs.backlog_bytes"), 10_000, "copying has stored it");

    file.write_all(b"more").unwrap();
    file.sync_all().unwrap();
    assert_eq!(number("user.coalescefs.backlog_bytes"), 0);
    assert_eq!(number("user.coalescefs.oldest_age_ms"), 0);
    drop(file);
    mount.umount_clean();
    assert_eq!(sh(mount.path(), "getfattr -d -m - f | grep -c coalescefs || true").trim(), "0");
}

/// What copies attributes copies those of programs, in silence, and none of ours.
fn nobody_copies_it(mount: &Mount, to: &Path) {
    let mut copies = vec![
        ("cp", "cp -a f \"$0\"/cp"),
        ("xattr", "cp --preserve=xattr f \"$0\"/xattr"),
        ("f", "tar --xattrs --xattrs-include='*' -cf - f | tar --xattrs -C \"$0\" -xf -"),
        ("py", "python3 -c 'import shutil, sys; shutil.copy2(*sys.argv[1:])' f \"$0\"/py"),
    ];
    if Command::new("rsync").arg("--version").stdout(Stdio::null()).status().is_ok() {
        copies.push(("rsync", "rsync -aX f \"$0\"/rsync"));
    }
    for (name, script) in copies {
        let mut copy = Command::new("bash");
        copy.args(["-euo", "pipefail", "-c", script]).arg(to).current_dir(mount.path());
        let said = succeed(&mut copy);
        assert!(said.stderr.is_empty(), "{name}: {}", text(&said));
        let dump = sh(to, &format!("sync {name}; getfattr -d -m - {name}"));
        assert!(dump.contains("user.kept") && !dump.contains("coalescefs"), "{name}: {dump}");
    }
}

/// Goal: after a file that passes through was closed, stat(2) shows when it was written, although the
/// kernel keeps times of its own; while it is open, it is not taken from who has it open.
pub fn the_time_of_a_file_that_passes_through() {
    let mount = Mount::beside(&["--rule", "*.log:coalesce=off"]);
    let (path, below) = (mount.path().join("a.log"), mount.backing().join("a.log"));
    let time = |path: &Path| {
        let meta = fs::metadata(path).unwrap();
        (meta.mtime(), meta.mtime_nsec())
    };
    fs::write(&path, "").unwrap();
    sh(mount.path(), "touch -d @1000000000 a.log");
    for round in 1..=3 {
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"line\n").unwrap();
        let ino = file.metadata().unwrap().ino();
        drop(file);
        mount.wait_for("the time below", |_| time(&path) == time(&below));
        assert_ne!(time(&path).0, 1_000_000_000);
        assert_eq!(fs::metadata(&path).unwrap().ino(), ino);
        assert_eq!(fs::read(&path).unwrap().len(), 5 * round);
    }
    // So it is with several names, all of which the kernel knows.
    fs::create_dir(mount.path().join("dir")).unwrap();
    let names = ["a.log", "b.log", "dir/c.log", "d.log"].map(|name| mount.path().join(name));
    names[1..].iter().for_each(|name| fs::hard_link(&path, name).unwrap());
    fs::rename(&names[3], mount.path().join("e.log")).unwrap();
    for written in &names[..3] {
        sh(mount.path(), "touch -d @1000000000 a.log; stat b.log dir/c.log e.log");
        let mut file = OpenOptions::new().append(true).open(written).unwrap();
        file.write_all(b"line\n").unwrap();
        drop(file);
        mount.wait_for("the time below", |_| time(&path) == time(&below));
        assert_ne!(time(&path).0, 1_000_000_000);
        names[..3].iter().for_each(|name| assert_eq!(time(name), time(&below)));
    }
    mount.umount_clean();
}

/// Goal: the log tells an operator of the mount and not of requests, and whatever its level, not what
/// programs write.
pub fn the_log_has_neither_requests_nor_contents() {
    const SECRET: &str = "the cat is in the sack";
    let lines = |mount: &Mount| fs::read_to_string(mount.log_path()).unwrap();
    let work = |mount: &Mount| {
        let script = format!(
            "for n in $(seq 100); do echo '{SECRET}' >f$n; cat f$n >/dev/null; mv f$n g$n; done; \
             setfattr -n user.a -v '{SECRET}' g1; ln -s '{SECRET}' l; readlink l; rm g2"
        );
        sh(mount.path(), &script);
        succeed(Command::new(PROGRAM).arg("drain").arg(mount.path()));
    };
    let mount = Mount::over_with_log(HELD, "info");
    let before = lines(&mount);
    work(&mount);
    assert_eq!(lines(&mount), before);
    mount.umount_clean();
    assert!(lines(&mount).contains("ended, all is stored"), "{}", lines(&mount));

    let mount = Mount::over_with_log(HELD, "trace");
    work(&mount);
    mount.umount_clean();
    let log = lines(&mount);
    assert!(log.contains("write file=") && !log.contains("sack"), "{log}");
}

/// Goal: Prometheus' own tool has nothing to say against the metrics.
pub fn promtool_takes_the_metrics() {
    let mount = Mount::over(HELD);
    let _file = with_backlog(&mount, "f");
    let metrics = File::open(mount.path().join(".coalescefs/metrics")).unwrap();
    let output =
        Command::new("promtool").args(["check", "metrics"]).stdin(metrics).output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
    assert!(output.stdout.is_empty() && output.stderr.is_empty(), "{}", text(&output));
}

/// Goal: the longest that a program was held back is not forgotten when it goes on. Method: a writer
/// that is faster than the disk may be.
pub fn the_longest_stall_is_kept() {
    let options = ["--memory", "16M", "--chunk", "1M", "--drain-rate", "8M"];
    let mount = Mount::over(&options);
    let mut writer = Command::new("dd");
    writer.args(["if=/dev/zero", "of=f", "bs=64k", "count=512", "status=none"]);
    let mut writer = writer.current_dir(mount.path()).spawn().unwrap();
    let mut longest_ms = 0;
    while writer.try_wait().unwrap().is_none() {
        let now_ms = mount.figure("longest_wait_ms");
        assert!(now_ms >= longest_ms, "{now_ms} ms after {longest_ms} ms");
        longest_ms = now_ms;
    }
    mount.wait_for("nobody to wait", |status| status["waiting_writes"] == 0);
    assert!(mount.figure("longest_wait_ms") > 0);
    mount.umount_clean();
}

/// Goal: where standard output is no terminal `top` prints blocks of lines, and ends with the count,
/// with a reader that goes away, and with the mount.
pub fn top_prints_lines_into_a_pipe() {
    let mount = Mount::over(HELD);
    let _file = with_backlog(&mount, "f");
    let top = |more: &[&str]| {
        let mut command = Command::new(PROGRAM);
        command.args(["top", "--interval", "50ms"]).args(more).arg(mount.path());
        command.stdout(Stdio::piped());
        command
    };
    let output = succeed(&mut top(&["--count", "2"]));
    let blocks = String::from_utf8(output.stdout).unwrap();
    assert_eq!(blocks.matches("backlog 9.77 KiB in 1 files").count(), 2, "{blocks}");
    assert!(!blocks.contains('\u{1b}'), "{blocks}");
    let mut deaf = top(&[]).spawn().unwrap();
    drop(deaf.stdout.take());
    assert!(deaf.wait().unwrap().success());
    let mut last = top(&[]).stdout(Stdio::null()).spawn().unwrap();
    drop(_file);
    mount.umount_clean();
    assert!(last.wait().unwrap().success());
}

/// Goal: the examples of docs/seeing.md slow themselves down, and are what is printed there.
pub fn examples_slow_themselves_down() {
    let repository = Path::new(env!("CARGO_MANIFEST_DIR"));
    let document = fs::read_to_string(repository.join("docs/seeing.md")).unwrap();
    let example = |language: &str| {
        let (_, rest) = document.split_once(&format!("```{language}\n")).unwrap();
        rest.split_once("```").unwrap().0.to_owned()
    };
    let mount = Mount::over(&["--max-age", "1s"]);
    let plain = mount.plain();
    fs::write(plain.join("slow.c"), example("c")).unwrap();
    fs::write(plain.join("slow.py"), example("python")).unwrap();
    sh(&plain, "cc -Wall -Werror -o slow slow.c");
    for (name, program) in [("c", "\"$0\"/slow"), ("py", "python3 \"$0\"/slow.py")] {
        let script = format!("{program} {name}");
        let run = |limit: &str| {
            let mut command = Command::new("bash");
            command.args(["-euc", &format!("{script} {limit}")]).arg(&plain);
            succeed(command.current_dir(mount.path()))
        };
        // Room for everything: it never waits. No room: it waits, and ends all the same.
        let free = run("1000000000");
        assert_eq!(String::from_utf8_lossy(&free.stdout), "waited 0 times\n");
        let held = run("0");
        assert_ne!(String::from_utf8_lossy(&held.stdout), "waited 0 times\n");
        let lines = fs::read_to_string(mount.path().join(name)).unwrap().lines().count();
        assert_eq!(lines, 2 * 20_000, "{name}");
    }
    mount.umount_clean();
}
