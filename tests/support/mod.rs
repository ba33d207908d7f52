//! What mount tests share: a mount of the built binary on directories of its own, with nothing
//! left behind whatever happens.
//!
//! Every test makes its own temporary directory, so tests run in parallel. `Drop` unmounts lazily
//! and kills keeper and worker, also when a test panics.

#![allow(dead_code)]

pub mod deeds;
pub mod image;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_coalescefs");

/// Longest wait for something that should come soon; a bound against hanging, not a measurement.
pub const SOON: Duration = Duration::from_secs(60);

/// Why mount tests cannot run here, if they cannot.
pub fn cannot_mount() -> Option<String> {
    if fs::OpenOptions::new().read(true).write(true).open("/dev/fuse").is_err() {
        return Some("/dev/fuse cannot be opened".into());
    }
    // SAFETY: reads the effective user id.
    let is_root = unsafe { libc::geteuid() } == 0;
    (!is_root && !has_helper()).then(|| "neither root nor fusermount3".into())
}

fn has_helper() -> bool {
    let mut command = Command::new("fusermount3");
    command.arg("-V").stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Why tests of the setuid helper cannot run here, if they cannot.
pub fn cannot_use_helper() -> Option<String> {
    (!has_helper()).then(|| "no fusermount3".into())
}

/// Why tests that need root cannot run here, if they cannot.
pub fn cannot_be_root() -> Option<String> {
    // SAFETY: reads the effective user id.
    (unsafe { libc::geteuid() } != 0).then(|| "needs root".into())
}

/// Why tests in a user namespace cannot run here, if they cannot.
pub fn cannot_unshare() -> Option<String> {
    let tried = Command::new("unshare").args(["-Urm", "true"]).stderr(Stdio::null()).status();
    let works = tried.is_ok_and(|status| status.success());
    (!works).then(|| "no user namespaces, or no unshare(1)".into())
}

/// A mount on a temporary directory.
pub struct Mount {
    dir: TempDir,
    backing: PathBuf,
    mountpoint: PathBuf,
}

impl Mount {
    /// Mounts over the backing directory itself.
    pub fn over(options: &[&str]) -> Mount {
        Self::make(options, "warn", "out", "out")
    }

    /// As [`Mount::over`], for a backing directory that `prepare` (a shell script run in it) has
    /// filled or mounted things on, by a daemon that is started under `prefix`: a command that runs
    /// another.
    pub fn over_prepared(prepare: &str, prefix: &[&str]) -> Mount {
        let mount = Self::unmounted(&std::env::temp_dir(), "out", "out");
        sh(&mount.backing, prepare);
        mount.start(prefix, &[], "warn")
    }

    /// As [`Mount::over_prepared`], beside the backing directory.
    pub fn beside_prepared(prepare: &str, prefix: &[&str]) -> Mount {
        let mount = Self::unmounted(&std::env::temp_dir(), "below", "out");
        sh(&mount.backing, prepare);
        mount.start(prefix, &[], "warn")
    }

    /// As [`Mount::over`], by a daemon whose environment has one more variable.
    pub fn over_with_variable(name: &str, value: &str, options: &[&str]) -> Mount {
        let variable = format!("{name}={value}");
        let mount = Self::unmounted(&std::env::temp_dir(), "out", "out");
        mount.start(&["env", &variable], options, "warn")
    }

    /// As [`Mount::beside`], on what `prepare` has mounted at the backing directory.
    pub fn beside_made(prepare: impl FnOnce(&Path), options: &[&str]) -> Mount {
        let mount = Self::unmounted(&std::env::temp_dir(), "below", "out");
        prepare(&mount.backing);
        mount.start(&[], options, "warn")
    }

    /// Mounts a directory that is there beside it, in a directory of its own.
    pub fn beside_of(backing: &Path, options: &[&str]) -> Mount {
        let mut mount = Self::unmounted(&std::env::temp_dir(), "out", "out");
        mount.backing = backing.to_owned();
        mount.start(&[], options, "warn")
    }

    /// Lets other users walk to the mount and what is beside it; returns the directory of both.
    pub fn open_to_all(&self) -> &Path {
        let dir = self.dir.path();
        let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(dir, everybody).unwrap();
        dir
    }

    /// As [`Mount::over`], with what the daemon is to log, as `RUST_LOG` has it.
    pub fn over_with_log(options: &[&str], log: &str) -> Mount {
        Self::make(options, log, "out", "out")
    }

    /// Mounts beside the backing directory, so that a test can look below.
    pub fn beside(options: &[&str]) -> Mount {
        Self::make(options, "warn", "below", "out")
    }

    /// As [`Mount::over`], on a directory of its own below `parent`.
    pub fn over_in(parent: &Path, options: &[&str]) -> Mount {
        Self::unmounted(parent, "out", "out").start(&[], options, "warn")
    }

    /// As [`Mount::beside`], on directories of its own below `parent`.
    pub fn beside_in(parent: &Path, options: &[&str]) -> Mount {
        Self::unmounted(parent, "below", "out").start(&[], options, "warn")
    }

    fn make(options: &[&str], log_filter: &str, backing: &str, mountpoint: &str) -> Mount {
        Self::unmounted(&std::env::temp_dir(), backing, mountpoint).start(&[], options, log_filter)
    }

    fn unmounted(parent: &Path, backing: &str, mountpoint: &str) -> Mount {
        let dir = tempfile::Builder::new().prefix("coalescefs-test-").tempdir_in(parent).unwrap();
        let (backing, mountpoint) = (dir.path().join(backing), dir.path().join(mountpoint));
        fs::create_dir_all(&backing).unwrap();
        fs::create_dir_all(&mountpoint).unwrap();
        Mount { dir, backing, mountpoint }
    }

    fn start(self, prefix: &[&str], options: &[&str], log_filter: &str) -> Mount {
        let words: Vec<&str> = prefix.iter().copied().chain([PROGRAM, "mount"]).collect();
        let mut command = Command::new(words[0]);
        command.env("RUST_LOG", log_filter).args(&words[1..]).args(options);
        command.arg("--log-file").arg(self.log_path()).arg(&self.backing);
        if self.backing != self.mountpoint {
            command.arg(&self.mountpoint);
        }
        succeed(&mut command);
        self
    }

    /// Where programs write.
    pub fn path(&self) -> &Path {
        &self.mountpoint
    }

    /// The directory below.
    pub fn backing(&self) -> &Path {
        &self.backing
    }

    /// A directory on the same filesystem that is not mounted over.
    pub fn plain(&self) -> PathBuf {
        let plain = self.dir.path().join("plain");
        fs::create_dir_all(&plain).unwrap();
        plain
    }

    /// The daemon's log.
    pub fn log_path(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    /// What `status --json` says.
    pub fn status(&self) -> Value {
        let output = succeed(Command::new(PROGRAM).args(["status", "--json"]).arg(self.path()));
        let value: Value = serde_json::from_slice(&output.stdout).unwrap();
        match value {
            Value::Array(mut all) => all.remove(0),
            one => one,
        }
    }

    /// One of the numbers of `status`.
    pub fn figure(&self, name: &str) -> u64 {
        self.status()[name].as_u64().unwrap_or_else(|| panic!("no figure {name}"))
    }

    /// The process that serves the mount now.
    pub fn worker_pid(&self) -> i32 {
        pid(&self.status(), "worker_pid")
    }

    /// The process that holds the mount.
    pub fn keeper_pid(&self) -> i32 {
        pid(&self.status(), "keeper_pid")
    }

    /// Keeper and worker, and what they started, without asking them.
    pub fn processes(&self) -> Vec<i32> {
        processes_of(self.path())
    }

    /// Unmounts as a user would.
    pub fn umount(&self) -> Output {
        Command::new(PROGRAM).arg("umount").arg(self.path()).output().unwrap()
    }

    /// Unmounts, which must succeed and leave nothing.
    pub fn umount_clean(&self) {
        let output = self.umount();
        assert!(output.status.success(), "umount: {}", text(&output));
        assert!(!is_mounted(self.path()));
        let left = self.processes();
        assert!(left.is_empty(), "processes {left:?} are still there");
    }

    /// Waits until a figure of `status` is as wanted.
    pub fn wait_for(&self, what: &str, mut holds: impl FnMut(&Value) -> bool) -> Value {
        let until = Instant::now() + SOON;
        loop {
            let status = self.status();
            if holds(&status) {
                return status;
            }
            assert!(Instant::now() < until, "waited in vain for {what}: {status:#}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(self.log_path()).unwrap_or_default();
            let tail: Vec<&str> = log.lines().rev().take(20).collect();
            eprintln!(
                "the daemon's log ends with:\n{}",
                tail.into_iter().rev().collect::<Vec<_>>().join("\n")
            );
        }
        // The backing directory may hold mounts of the test's own.
        for mounted in mounts_below(self.dir.path()) {
            let lazily = Command::new("umount").arg("-l").arg(&mounted).status();
            if !lazily.is_ok_and(|status| status.success()) {
                let helper = ["-u", "-z"];
                let _ = Command::new("fusermount3").args(helper).arg(&mounted).status();
            }
        }
        // Stopped first: a worker whose keeper is gone becomes one. Twice: it may have just done so.
        for signal in [libc::SIGSTOP, libc::SIGKILL, libc::SIGKILL] {
            for pid in self.processes() {
                // SAFETY: a process of ours.
                unsafe { libc::kill(pid, signal) };
            }
        }
    }
}

/// The processes that hold and serve the mount at `path`.
pub fn processes_of(path: &Path) -> Vec<i32> {
    let pids = fs::read_dir("/proc").unwrap().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let is_ours = |pid: &i32| {
        let arguments = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut words = arguments.split(|byte| *byte == 0);
        words.next() == Some(b"coalescefs")
            && matches!(words.next(), Some(b"keeper" | b"worker"))
            && words.next() == Some(path.as_os_str().as_encoded_bytes())
    };
    pids.filter(is_ours).collect()
}

fn pid(status: &Value, key: &str) -> i32 {
    i32::try_from(status[key].as_i64().expect("a process id")).unwrap()
}

/// Whether a process of ours is there and not just waiting to be reaped.
pub fn is_running(pid: i32) -> bool {
    let cmdline = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    cmdline.starts_with(b"coalescefs\0")
}

/// Everything mounted at or below `path`, what was mounted last first.
fn mounts_below(path: &Path) -> Vec<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    let mut below: Vec<PathBuf> = points.filter(|point| point.starts_with(path)).collect();
    below.reverse();
    below
}

/// Whether a mount of ours is at `path`.
pub fn is_mounted(path: &Path) -> bool {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mut ours = table.lines().filter(|line| line.contains(" - fuse.coalescefs "));
    ours.any(|line| line.split(' ').nth(4) == path.to_str())
}

/// Runs a command that must succeed.
pub fn succeed(command: &mut Command) -> Output {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", text(&output));
    output
}

/// Runs a shell script that must succeed.
pub fn sh(dir: &Path, script: &str) -> String {
    let output = succeed(Command::new("bash").args(["-euc", script]).current_dir(dir));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What a command said.
pub fn text(output: &Output) -> String {
    format!(
        "{}\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// The `number`th record of a stream: about 10 bytes, different for each.
pub fn record(stream: usize, number: usize) -> String {
    format!("{stream:02}.{number:06}\n")
}

/// A whole stream of records.
pub fn records(stream: usize, count: usize) -> Vec<u8> {
    (0..count).flat_map(|number| record(stream, number).into_bytes()).collect()
}
