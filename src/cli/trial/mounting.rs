//! A mount over a directory of a trial, made with the commands a user would type.
//!
//! Two ways: `coalescefs mount` and `umount` around what is tried, for root and where fusermount3 is
//! installed; else `coalescefs run --over`, which needs neither but has no status to ask for.
//! [`choose`] tries them on an empty directory, so that a machine without FUSE is known before
//! anything is measured. Blocks; one thread.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::TrialError;
use super::measure::Place;
use super::process::{Group, OnInterrupt};
use crate::control::protocol::Status;
use crate::mount::mountinfo::MountTable;
use crate::worker::EXIT_NOT_STORED;

/// A mount is made or refused at once; more than this is a hang.
const MOUNT_LIMIT: Duration = Duration::from_secs(30);
/// What a slow disk gets to take what is in memory.
const UMOUNT_LIMIT: Duration = Duration::from_secs(1800);
/// The same when the data is thrown away anyway.
const CLEANUP_LIMIT: Duration = Duration::from_secs(60);

/// How the directory gets mounted over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// `coalescefs mount`, command, `coalescefs umount`.
    MountCommand,
    /// `coalescefs run --over DIR -- COMMAND`.
    RunCommand,
}

/// What all mounts of a trial have in common.
#[derive(Clone, Debug)]
pub struct Mounter {
    /// This executable.
    pub executable: PathBuf,
    /// `--memory`
    pub memory_bytes: u64,
    /// `--chunk`
    pub chunk_bytes: u64,
    /// Where the output of the commands goes: not into a pipe, since what goes to the background
    /// would keep it open.
    pub log_dir: PathBuf,
}

impl Mounter {
    /// `coalescefs NAME` with the options of a mount.
    fn with_options(&self, name: &str) -> Command {
        let mut command = Command::new(&self.executable);
        command.arg(name).arg("--memory").arg(self.memory_bytes.to_string());
        command.arg("--chunk").arg(self.chunk_bytes.to_string());
        command
    }

    /// `coalescefs run --over TARGET -- COMMAND...`, to be started by the caller.
    pub fn run_over(&self, target: &Path, command: &[impl AsRef<OsStr>]) -> Command {
        let mut run = self.with_options("run");
        run.arg("--over").arg(target).arg("--").args(command);
        run
    }

    /// Mounts over `target`, an absolute path without symbolic links.
    pub fn mount<'a>(&'a self, target: &Path) -> Result<Mounted<'a>, TrialError> {
        // Made before the command runs: whatever it leaves behind is unmounted.
        let mounted = Mounted { mounter: self, target: target.to_owned() };
        self.call("mount", self.with_options("mount").arg(target), MOUNT_LIMIT)?;
        if !is_mountpoint(target) {
            return Err(TrialError::command("mount", "it succeeded, but nothing is mounted"));
        }
        Ok(mounted)
    }

    /// Runs a command to its end; gives its standard output.
    fn call(
        &self,
        name: &str,
        command: &mut Command,
        limit: Duration,
    ) -> Result<String, TrialError> {
        self.call_with(name, command, limit, OnInterrupt::Stop)
    }

    fn call_with(
        &self,
        name: &str,
        command: &mut Command,
        limit: Duration,
        on_interrupt: OnInterrupt,
    ) -> Result<String, TrialError> {
        let log = self.log_dir.join(format!("{name}.log"));
        let out = self.log_dir.join(format!("{name}.out"));
        let create = |path: &Path| {
            File::create(path).map_err(|error| TrialError::io("create", path.display(), error))
        };
        command.stderr(create(&log)?).stdout(create(&out)?);
        let mut group =
            Group::spawn(command).map_err(|error| TrialError::io("start", name, error))?;
        let Some(status) = group.wait(limit, on_interrupt)? else {
            let reason = format!("no answer within {} s", limit.as_secs());
            return Err(TrialError::command(name, reason));
        };
        match status.code() {
            Some(0) => Ok(fs::read_to_string(&out).unwrap_or_default()),
            Some(EXIT_NOT_STORED) => Err(TrialError::NotStored { reason: last_lines(&log) }),
            Some(_) => Err(TrialError::command(name, last_lines(&log))),
            None => Err(TrialError::command(name, status)),
        }
    }
}

/// A mount that ends with this value.
#[derive(Debug)]
pub struct Mounted<'a> {
    mounter: &'a Mounter,
    target: PathBuf,
}

impl Mounted<'_> {
    /// Returns when all is on disk and nothing is mounted any more, with the last status if the
    /// command printed one.
    pub fn unmount(self) -> Result<Option<Status>, TrialError> {
        let printed = self.mounter.call("umount", &mut self.umount_command(), UMOUNT_LIMIT)?;
        if is_mountpoint(&self.target) {
            return Err(TrialError::command(
                "umount",
                "it succeeded, but the mount is still there",
            ));
        }
        Ok(parse_status(&printed))
    }

    fn umount_command(&self) -> Command {
        let mut command = Command::new(&self.mounter.executable);
        command.arg("umount").arg("--json").arg(&self.target);
        command
    }
}

impl Drop for Mounted<'_> {
    /// For the ways out that did not get as far as [`Mounted::unmount`].
    fn drop(&mut self) {
        if !is_mountpoint(&self.target) {
            return;
        }
        let umount = &mut self.umount_command();
        let _ = self.mounter.call_with("umount", umount, CLEANUP_LIMIT, OnInterrupt::GoOn);
        if is_mountpoint(&self.target) {
            detach(&self.target);
        }
    }
}

/// Takes the name away from a mount that cannot be ended: MNT_DETACH, or what does it for users.
fn detach(target: &Path) {
    let Ok(path) = std::ffi::CString::new(target.as_os_str().as_bytes()) else {
        return;
    };
    // SAFETY: `path` outlives the call.
    if unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) } != 0 {
        let _ = Command::new("fusermount3").arg("-uz").arg(target).status();
    }
}

/// The document may be alone, or the last line after others.
fn parse_status(printed: &str) -> Option<Status> {
    serde_json::from_str(printed)
        .ok()
        .or_else(|| serde_json::from_str(printed.lines().next_back()?).ok())
}

/// Which way works here, tried on an empty directory below `log_dir`.
///
/// The error is of the way that should have worked, and says what to do.
pub fn choose(mounter: &Mounter) -> Result<Way, TrialError> {
    // SAFETY: geteuid(2) always succeeds.
    let root = unsafe { libc::geteuid() } == 0;
    let helper = find_in_path("fusermount3");
    check_device(!root && helper)?;
    let trial = mounter.log_dir.join("trial");
    fs::create_dir(&trial).map_err(|error| TrialError::io("create", trial.display(), error))?;
    let run = || {
        let mut command = mounter.run_over(&trial, &["true"]);
        mounter.call("run", &mut command, MOUNT_LIMIT).map(|_| Way::RunCommand)
    };
    if !root && !helper {
        return run();
    }
    match mounter.mount(&trial).and_then(Mounted::unmount) {
        Ok(_) => Ok(Way::MountCommand),
        Err(TrialError::Interrupted) => Err(TrialError::Interrupted),
        // Root of a container may not mount, but have a namespace of its own.
        Err(error) => run().map_err(|_| error),
    }
}

/// Whether /dev/fuse is there and may be opened, unless `opened_by_helper`, whose business the
/// permission is then.
fn check_device(opened_by_helper: bool) -> Result<(), TrialError> {
    match OpenOptions::new().read(true).write(true).open("/dev/fuse") {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied && opened_by_helper => Ok(()),
        Err(error) => Err(no_fuse(error)),
    }
}

fn no_fuse(error: io::Error) -> TrialError {
    const IN_A_CONTAINER: &str =
        "in a container, start it with `--device /dev/fuse --cap-add SYS_ADMIN`";
    let remedy = match error.raw_os_error() {
        Some(libc::EACCES) => "as root: `chmod 666 /dev/fuse`, or install fuse3".to_owned(),
        Some(libc::EPERM) => IN_A_CONTAINER.to_owned(),
        _ => format!("as root: `modprobe fuse`; {IN_A_CONTAINER}"),
    };
    TrialError::NoFuse { error, remedy }
}

fn find_in_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

/// Whether something is mounted at exactly `path`, absolute and without symbolic links. Does not
/// touch the mount, which may hang.
pub fn is_mountpoint(path: &Path) -> bool {
    MountTable::read().is_ok_and(|table| table.top_at(path).is_some())
}

/// What a command said last, in one line and without its name; a remark when it said nothing.
pub fn last_lines(log: &Path) -> String {
    const LINES: usize = 3;
    let text = String::from_utf8_lossy(&fs::read(log).unwrap_or_default()).into_owned();
    let lines: Vec<&str> = text
        .lines()
        .map(|line| line.trim().trim_start_matches("coalescefs: "))
        .filter(|line| !line.is_empty())
        .collect();
    match lines.len() {
        0 => reason_without_log(log),
        count => lines[count.saturating_sub(LINES)..].join("; "),
    }
}

/// On a full disk there is no room for a complaint either.
fn reason_without_log(log: &Path) -> String {
    const FULL_BELOW_BYTES: u64 = 64 << 10;
    let dir = log.parent().unwrap_or(log);
    match Place::of(dir) {
        Ok(place) if place.free_bytes < FULL_BELOW_BYTES => {
            format!("no space is left in {}: make room, or write less", dir.display())
        }
        _ => "it gave no reason".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_place_itself_is_a_mountpoint() {
        assert!(is_mountpoint(Path::new("/proc")));
        assert!(!is_mountpoint(Path::new("/proc/self")));
    }

    #[test]
    fn every_refusal_of_the_device_says_what_to_do() {
        for (errno, remedy) in [
            (libc::ENOENT, "modprobe fuse"),
            (libc::ENODEV, "modprobe fuse"),
            (libc::EACCES, "chmod 666 /dev/fuse"),
            (libc::EPERM, "--device /dev/fuse"),
        ] {
            let message = no_fuse(io::Error::from_raw_os_error(errno)).to_string();
            assert!(message.contains(remedy), "{message}");
            assert!(!message.contains('\n'));
        }
    }

    #[test]
    fn the_reason_is_what_was_said_last() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("log");
        assert_eq!(last_lines(&log), "it gave no reason");
        fs::write(&log, "a\ncoalescefs: b\n\n  c \nd\n").unwrap();
        assert_eq!(last_lines(&log), "b; c; d");
    }

    #[test]
    fn a_status_that_is_none_is_none() {
        assert!(parse_status("").is_none());
        assert!(parse_status("done\n").is_none());
        assert!(parse_status("{}\n").is_none());
    }
}
