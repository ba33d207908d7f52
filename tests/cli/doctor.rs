//! Goal: `doctor` names what is wrong, in a line for each check, changes nothing, and ends whatever
//! state a mount is in. Method: the states are made, dead, stopped and failing ones too; each run
//! has a limit.

use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use super::*;

/// More than the doctor's own limits, and less than a wait for a daemon that is stopped.
const LIMIT_S: &str = "25";

/// What it says, and its exit code.
fn doctor(arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new("timeout");
    let output = command.args(["-s", "KILL", LIMIT_S, PROGRAM, "doctor"]).args(arguments).output();
    let output = output.unwrap();
    assert_eq!(stderr(&output), "", "{arguments:?}");
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}

/// Checks the exit code, and that one line begins with the verdict and has the words.
#[track_caller]
fn assert_said((code, text): (Option<i32>, String), expected: i32, verdict: &str, words: &str) {
    assert_eq!(code, Some(expected), "{text}");
    let mut lines = text.lines();
    let is_said = lines.any(|line| line.starts_with(verdict) && line.contains(words));
    assert!(is_said, "no {verdict} with '{words}' in:\n{text}");
}

pub fn a_directory() {
    let scene = Scene::new(&["b"]);
    fs::write(scene.at("file"), "x").unwrap();
    std::os::unix::fs::symlink("b", scene.at("link")).unwrap();
    let before = scene.contents();
    for path in ["b", "link", "b/../b/."] {
        let (code, text) = doctor(&[&scene.at(path)]);
        assert_eq!(code, Some(0), "{text}");
        for check in ["filesystem", "space", "stripe", "writing", "direct I/O", "longest file"] {
            let count = text.lines().filter(|line| line.contains(&format!("  {check}: "))).count();
            assert_eq!(count, 1, "{check} in:\n{text}");
        }
    }
    assert_said(doctor(&[&scene.at("no")]), 1, "problem", "No such file");
    assert_said(doctor(&[&scene.at("file")]), 1, "problem", "is not a directory");
    assert_said(doctor(&["/sys"]), 1, "problem", "no file can be made");
    assert_eq!(scene.contents(), before);
    let (_, text) = doctor(&["--json", &scene.at("file")]);
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["verdict"], "problem", "{text}");
    assert!(value["checks"].as_array().unwrap().iter().all(|check| check["text"].is_string()));
}

pub fn a_mount_alive_stopped_and_dead() {
    let scene = Scene::new(&["b"]);
    let b = &scene.at("b");
    std::os::unix::fs::symlink("b", scene.at("link")).unwrap();
    succeed(&["mount", "--max-age", "1h", b]);
    let here = &format!("mount {b}: alive");
    assert_said(doctor(&[b]), 0, "ok", here);
    assert_said(doctor(&[&scene.at("link")]), 0, "ok", here);
    assert_said(doctor(&[&scene.at("b/in/it")]), 0, "warning", "lies in a coalescefs mount");
    assert_said(doctor(&[&scene.at("")]), 0, "warning", &format!("is at {b}, in this directory"));

    let worker = scene.processes("worker")[0];
    kill(worker, libc::SIGKILL);
    while scene.processes("worker").iter().all(|pid| *pid == worker) {
        std::thread::sleep(Duration::from_millis(1));
    }
    let told = format!("the worker (process {}) is", scene.processes("worker")[0]);
    assert_said(doctor(&[b]), 0, "warning", &told);

    fs::write(scene.at("b/f"), "x").unwrap();
    let pids = [scene.processes("keeper"), scene.processes("worker")].concat();
    pids.iter().for_each(|pid| kill(*pid, libc::SIGSTOP));
    // A request that is under way makes whoever touches the mount wait.
    let waits = Command::new("stat").args(["-f", b]).stdout(Stdio::null()).spawn().unwrap();
    for path in [b, &scene.at("link"), &scene.at("b/f")] {
        assert_said(doctor(&[path]), 1, "problem", "does not answer within");
    }
    pids.iter().for_each(|pid| kill(*pid, libc::SIGCONT));
    assert_eq!(wait(waits), Some(0));
    assert_said(doctor(&[b]), 0, "ok", here);

    for signal in [libc::SIGSTOP, libc::SIGKILL] {
        pids.iter().for_each(|pid| kill(*pid, signal));
    }
    while !scene.processes("worker").is_empty() || !scene.processes("keeper").is_empty() {
        std::thread::sleep(Duration::from_millis(10));
    }
    let told = &format!("the daemon of {b} is gone, with what it had not stored yet");
    assert_said(doctor(&[b]), 1, "problem", told);
    assert_said(doctor(&[]), 1, "problem", told);
    assert_eq!(scene.mounts().len(), 1, "it was cleared");
}

/// Method: without a free inode there is no file that could hold room, and another program takes
/// what was counted on.
pub fn a_mount_that_cannot_store() {
    let scene = Scene::new(&["b", "m"]);
    let (b, m) = (&scene.at("b"), &scene.at("m"));
    let tmpfs = ["-t", "tmpfs", "-o", "size=4M,nr_inodes=3", "none", b];
    assert!(Command::new("mount").args(tmpfs).status().unwrap().success());
    let [large, eater] =
        ["b/large", "b/eater"].map(|name| fs::File::create(scene.at(name)).unwrap());
    drop(large);
    succeed(&["mount", "--max-age", "1h", b, m]);
    let file = fs::File::options().write(true).open(scene.at("m/large")).unwrap();
    file.write_all_at(&vec![1; 2 << 20], 0).unwrap();
    let whole = libc::SYNC_FILE_RANGE_WRITE | libc::SYNC_FILE_RANGE_WAIT_AFTER;
    // SAFETY: an open descriptor.
    assert_eq!(unsafe { libc::sync_file_range(file.as_raw_fd(), 0, 0, whole) }, 0);
    let eaten = eater.write_all_at(&vec![2; 8 << 20], 0);
    assert_eq!(eaten.unwrap_err().raw_os_error(), Some(libc::ENOSPC));
    assert_eq!(file.sync_all().unwrap_err().raw_os_error(), Some(libc::ENOSPC));
    assert_said(doctor(&[m]), 1, "problem", "cannot be stored: large");
    drop(file);
    fs::remove_file(scene.at("m/large")).unwrap();
    assert_said(doctor(&[m]), 0, "ok", "alive");
    succeed(&["umount", m]);
}

pub fn as_an_ordinary_user() {
    let scene = Scene::new(&["b", "m"]);
    succeed(&["mount", &scene.at("m")]);
    let doctor = |arguments: &[&str]| {
        let output = scene.as_nobody(&[&["doctor"], arguments].concat());
        assert_eq!(stderr(&output), "");
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    };
    let is_open = fs::metadata("/dev/fuse").unwrap().mode() & 0o006 == 0o006;
    let (code, text) = doctor(&[]);
    assert_eq!(text.contains("chmod 666 /dev/fuse"), !is_open, "{text}");
    assert_eq!(code == Some(1), text.contains("problem"), "{text}");
    // There is no helper in the PATH that it is given.
    assert!(text.contains("install the fuse3 package"), "{text}");
    assert!(text.contains("other users: "), "{text}");
    assert_said(doctor(&[&scene.at("m")]), 0, "ok", "alive; it is of user 0: only root");
    assert_said(doctor(&[&scene.at("b")]), 1, "problem", "no file can be made: Permission denied");
    fs::set_permissions(scene.at("b"), fs::Permissions::from_mode(0o700)).unwrap();
    assert_said(doctor(&[&scene.at("b")]), 1, "problem", "readable and searchable");
    succeed(&["umount", &scene.at("m")]);
}
