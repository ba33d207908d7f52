//! How a mount begins and ends, and what is left afterwards: nothing.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::support::{Mount, PROGRAM, SOON, is_mounted, is_running, records, sh, succeed, text};

/// Goal: after `umount` everything is below, and neither mount nor process is left.
pub fn umount_leaves_nothing() {
    let mount = Mount::over(&["--max-age", "1h"]);
    for stream in 0..5 {
        fs::write(mount.path().join(format!("OUTPUT{stream}")), records(stream, 5000)).unwrap();
    }
    assert!(mount.figure("backlog_bytes") > 0);
    mount.umount_clean();
    for stream in 0..5 {
        let path = mount.path().join(format!("OUTPUT{stream}"));
        assert_eq!(fs::read(path).unwrap(), records(stream, 5000));
    }
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + SOON;
    while !holds() {
        assert!(Instant::now() < until, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Goal: SIGTERM and SIGINT to the keeper drain and unmount; a file that is still open goes on
/// until it is closed, and loses nothing.
pub fn signals_end_the_mount_in_order() {
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let mount = Mount::over(&["--max-age", "1h"]);
        let path = mount.path().join("f");
        let mut open = File::create(&path).unwrap();
        open.write_all(&records(1, 1000)).unwrap();
        let keeper = mount.keeper_pid();
        // SAFETY: the keeper of this mount.
        unsafe { libc::kill(keeper, signal) };
        wait_until("the name to go", || !is_mounted(mount.path()));
        open.write_all(&records(2, 1000)).unwrap();
        drop(open);
        wait_until("the keeper to end", || !is_running(keeper));
        assert_eq!(fs::read(&path).unwrap(), [records(1, 1000), records(2, 1000)].concat());
    }
}

/// Goal: somebody who uses umount(8) loses nothing: the daemon drains after it.
pub fn plain_umount_loses_nothing() {
    let mount = Mount::over(&["--max-age", "1h"]);
    fs::write(mount.path().join("f"), records(1, 20_000)).unwrap();
    // SAFETY: reads the effective user id.
    let command = if unsafe { libc::geteuid() } == 0 { "umount ." } else { "fusermount3 -u ." };
    sh(mount.path().parent().unwrap(), &command.replace('.', mount.path().to_str().unwrap()));
    wait_until("the keeper to end", || mount.processes().is_empty());
    assert_eq!(fs::read(mount.path().join("f")).unwrap(), records(1, 20_000));
}

/// Goal: `umount` of a mount in use says so, names who uses it, and changes nothing.
pub fn a_mount_in_use_is_not_unmounted() {
    let mount = Mount::over(&[]);
    let mut open = File::create(mount.path().join("f")).unwrap();
    let output = mount.umount();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(message.contains("in use") || message.contains("busy"), "{message}");
    open.write_all(b"still here").unwrap();
    drop(open);
    mount.umount_clean();
    assert_eq!(fs::read(mount.path().join("f")).unwrap(), b"still here");
}

/// Goal: a use that is over in a moment, as by a program that is about to end, is waited for.
pub fn a_moment_of_use_does_not_refuse_umount() {
    let mount = Mount::over(&[]);
    let hold = "exec 3>f; echo ready; sleep 0.1";
    let mut holder = Command::new("sh")
        .args(["-c", hold])
        .current_dir(mount.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    holder.stdout.take().unwrap().read_exact(&mut [0; 6]).unwrap();
    mount.umount_clean();
    assert!(holder.wait().unwrap().success());
}

/// Goal: `ps` shows which process is which, and for which mount.
pub fn processes_are_told_apart() {
    let mount = Mount::over(&[]);
    for (pid, role) in [(mount.keeper_pid(), "keeper"), (mount.worker_pid(), "worker")] {
        let output =
            succeed(Command::new("ps").args(["-o", "comm=,args=", "-p", &pid.to_string()]));
        let line = String::from_utf8_lossy(&output.stdout);
        let wanted = format!("coalescefs {role} {}", mount.path().display());
        assert!(line.contains(&wanted), "{line}");
        assert!(line.starts_with("coalescefs "), "{line}");
    }
    mount.umount_clean();
}

/// Goal: a foreground mount is usable, and Ctrl-C ends it with everything stored.
pub fn foreground_ends_on_ctrl_c() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    fs::create_dir(&out).unwrap();
    let mut child = Command::new(PROGRAM)
        .args(["mount", "--foreground", "--max-age", "1h"])
        .arg(&out)
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    wait_until("the mount", || is_mounted(&out));
    fs::write(out.join("f"), records(1, 1000)).unwrap();
    // SAFETY: the child is ours and not reaped yet.
    unsafe { libc::kill(child.id() as i32, libc::SIGINT) };
    let status = child.wait().unwrap();
    assert!(status.success(), "{status}");
    assert!(!is_mounted(&out));
    assert_eq!(fs::read(out.join("f")).unwrap(), records(1, 1000));
}

/// Goal: `run` mounts for one command only, in a namespace of its own, and gives its exit code.
pub fn run_covers_a_directory_for_one_command() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    fs::create_dir(&out).unwrap();
    let script = "cd out; grep -c \" $PWD .*fuse.coalescefs\" /proc/self/mountinfo >mounts; seq 1 5000 >numbers; exit 7";
    let output = Command::new(PROGRAM)
        .args(["run", "--over", "out", "--", "sh", "-c", script])
        .current_dir(dir.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(7), "{}", text(&output));
    assert!(!is_mounted(&out));
    assert_eq!(fs::read_to_string(out.join("numbers")).unwrap().lines().count(), 5000);
    assert_eq!(fs::read_to_string(out.join("mounts")).unwrap().trim(), "1");
    let left = succeed(Command::new("ps").args(["-eo", "args"]));
    let left = String::from_utf8_lossy(&left.stdout).into_owned();
    assert!(!left.contains(out.to_str().unwrap()), "{left}");
}

/// Goal: the tests' own promise: a test that panics leaves no mount and no process.
pub fn a_panicking_test_leaves_nothing() {
    let (mut keeper, mut path) = (0, std::path::PathBuf::new());
    let hook = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let mount = Mount::over(&[]);
        (keeper, path) = (mount.keeper_pid(), mount.path().to_path_buf());
        let _open = File::create(mount.path().join("f")).unwrap();
        panic!("this panic is part of a test");
    }));
    assert!(hook.is_err());
    assert!(!is_mounted(&path));
    wait_until("the keeper to go", || !is_running(keeper));
    assert!(!path.exists());
}

/// Goal: the mount(8) helper turns its options into those of `mount`, and refuses what it does not
/// know.
pub fn the_mount_helper_mounts() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    fs::create_dir(&out).unwrap();
    let helper = |options: &str| {
        Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/mount-scripts/mount.coalescefs"))
            .args([&out, &out])
            .args(["-o", options])
            .env("COALESCEFS", PROGRAM)
            .output()
            .unwrap()
    };
    let refused = helper("rw,nonsense");
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused).contains("'nonsense' is not supported"), "{}", text(&refused));
    assert!(!is_mounted(&out));
    let mounted = helper("defaults,_netdev,memory=64M,chunk=2M,max_age=7s");
    assert!(mounted.status.success(), "{}", text(&mounted));
    let status = succeed(Command::new(PROGRAM).args(["status", "--json"]).arg(&out));
    succeed(Command::new(PROGRAM).arg("umount").arg(&out));
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    let config = &status["config"];
    assert_eq!(config["memory_bytes"], 64 << 20);
    assert_eq!(config["chunk_bytes"], 2 << 20);
    assert_eq!(config["max_age_ms"], 7000);
}

/// Goal: in a user namespace, where root is an ordinary user outside, mounting works by mount(2)
/// alone, and the worker's death is survived as anywhere.
pub fn works_in_a_user_namespace() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("out")).unwrap();
    let script = r#"
        PATH=/usr/bin:/bin "$0" mount --max-age 1h out
        seq 1 1000 >out/numbers
        worker=$("$0" status --json out | sed -n 's/.*"worker_pid": \([0-9]*\).*/\1/p')
        kill -9 $worker
        seq 1001 2000 >>out/numbers
        cat out/numbers | wc -l
        "$0" umount out; wc -l <out/numbers"#;
    let output = Command::new("unshare")
        .args(["-Urm", "--propagation", "private", "sh", "-ec", script, PROGRAM])
        .current_dir(dir.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output));
    assert_eq!(String::from_utf8_lossy(&output.stdout), "2000\n2000\n", "{}", text(&output));
}
