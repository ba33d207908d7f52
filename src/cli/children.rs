//! Waiting for children while signals are passed on to one of them.
//!
//! Signals are blocked and taken from a descriptor: no handlers, and nothing changes that a child
//! would inherit but the mask, which it is given back.
//!
//! A keeper that dies is followed by its worker, which is then a child of this process, since it is
//! a subreaper (see `keeper::start`). So are what the command of `run` leaves behind when it ends:
//! every child is reaped, whoever it is.

use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::time::Duration;

use crate::keeper::Running;
use crate::keeper::sys::{self, Signals};

/// Between two looks at a process that is in the middle of an exec.
const EXEC_PAUSE: Duration = Duration::from_millis(1);
/// A path and some words.
const ARGUMENT_BYTES_MAX: usize = libc::PATH_MAX as usize + 256;

/// Signals taken away from their default action, until dropped.
pub struct Watch {
    signals: OwnedFd,
    before: Signals,
}

impl Watch {
    /// From here on `signals` are only seen by [`Watch::wait`].
    pub fn begin(signals: &[libc::c_int]) -> io::Result<Watch> {
        let mut all = signals.to_vec();
        all.push(libc::SIGCHLD);
        let before = Signals::of(&all).set_as_mask();
        match sys::block_into_signalfd(&all) {
            Ok(signals) => Ok(Watch { signals, before }),
            Err(error) => {
                before.set_as_mask();
                Err(error)
            }
        }
    }

    /// What was blocked before: for a child to set between fork and exec.
    pub fn mask_before(&self) -> Signals {
        self.before
    }

    /// Waits for one of the children to end; passes those of the signals on to it that are in
    /// `passed_on`.
    pub fn wait(&self, family: &mut Family, who: Who, passed_on: &[libc::c_int]) -> ExitStatus {
        loop {
            // First, as it may have ended before the signals were blocked.
            if let Some(status) = family.ended(who) {
                return status;
            }
            sys::poll([Some(self.signals.as_fd())], None);
            while let Some(signal) = sys::take_signal(self.signals.as_fd()) {
                if passed_on.contains(&signal) {
                    family.kill(who, signal);
                }
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.before.set_as_mask();
    }
}

/// One of a [`Family`].
#[derive(Clone, Copy, Debug)]
pub struct Who(usize);

#[derive(Debug)]
struct Member {
    pid: libc::pid_t,
    /// Of a keeper.
    mountpoint: Option<PathBuf>,
    ended: Option<ExitStatus>,
}

/// The children of this process. Once one was added, nobody else may wait for any.
#[derive(Debug, Default)]
pub struct Family(Vec<Member>);

impl Family {
    /// Adds a keeper; who takes its place when it is killed is the same member.
    pub fn add_keeper(&mut self, keeper: &Running, mountpoint: &Path) -> Who {
        self.push(&keeper.process, Some(mountpoint.to_owned()))
    }

    /// Adds any other child.
    pub fn add(&mut self, child: &Child) -> Who {
        self.push(child, None)
    }

    fn push(&mut self, child: &Child, mountpoint: Option<PathBuf>) -> Who {
        self.0.push(Member { pid: child.id() as libc::pid_t, mountpoint, ended: None });
        Who(self.0.len() - 1)
    }

    /// The process it is now.
    pub fn pid(&self, who: Who) -> libc::pid_t {
        self.0[who.0].pid
    }

    /// How it ended, if it did.
    pub fn ended(&mut self, who: Who) -> Option<ExitStatus> {
        while let Some((pid, status)) = sys::take_ended_child() {
            self.note(pid, status);
        }
        self.0[who.0].ended
    }

    /// Waits for it to end.
    pub fn wait(&mut self, who: Who) -> ExitStatus {
        loop {
            if let Some(status) = self.0[who.0].ended {
                return status;
            }
            match sys::wait_for_child() {
                Some((pid, status)) => self.note(pid, status),
                // Not while it is a child of ours.
                None => return ExitStatus::from_raw(libc::SIGKILL),
            }
        }
    }

    /// Sends a signal, if it is still there.
    pub fn kill(&mut self, who: Who, signal: libc::c_int) {
        if self.ended(who).is_none() {
            sys::kill(self.pid(who), signal);
        }
    }

    /// Others than members are what the command left behind.
    fn note(&mut self, pid: libc::pid_t, status: ExitStatus) {
        let Some(member) = self.0.iter_mut().find(|member| member.pid == pid) else { return };
        let mountpoint = member.mountpoint.as_deref().filter(|_| status.signal().is_some());
        match mountpoint.and_then(successor) {
            Some(successor) => member.pid = successor,
            None => member.ended = Some(status),
        }
    }
}

/// The child of this process that is, or is about to be, the keeper of that mount after the first
/// one died. It is a child of ours as soon as the first one can be reaped.
fn successor(mountpoint: &Path) -> Option<libc::pid_t> {
    loop {
        let children = own_children();
        let seen: Vec<Option<bool>> =
            children.iter().map(|pid| is_successor(*pid, mountpoint)).collect();
        if let Some(at) = seen.iter().position(|is_it| *is_it == Some(true)) {
            return Some(children[at]);
        }
        // One that ended just now has left its own children to us.
        if seen.iter().all(Option::is_some) && own_children() == children {
            return None;
        }
        std::thread::sleep(EXEC_PAUSE);
    }
}

/// Those that have not ended. As the kernel lists them: a look at every process may hang on one
/// that has nothing to do with us.
fn own_children() -> Vec<libc::pid_t> {
    let own_pid = std::process::id();
    match fs::read_to_string(format!("/proc/self/task/{own_pid}/children")) {
        Ok(list) => list.split(' ').filter_map(|pid| pid.parse().ok()).collect(),
        // Not every kernel is built with it.
        Err(_) => own_children_of_all(),
    }
}

fn own_children_of_all() -> Vec<libc::pid_t> {
    let own_pid = std::process::id().to_string();
    let is_own = |pid: &libc::pid_t| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        // After the name in parentheses: state, parent.
        let mut fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields).split(' ');
        fields.next().is_some_and(|state| state != "Z") && fields.next() == Some(&own_pid)
    };
    let pids = fs::read_dir("/proc").into_iter().flatten().flatten();
    pids.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(is_own).collect()
}

/// By one read(2), which sees them before an exec or after it, and never some of both.
fn arguments(pid: libc::pid_t) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; ARGUMENT_BYTES_MAX];
    let len = fs::File::open(format!("/proc/{pid}/cmdline"))?.read(&mut bytes)?;
    bytes.truncate(len);
    Ok(bytes)
}

/// `None` while it cannot be seen: a process has no arguments in the middle of an exec, and if
/// another thread than the first one does that, it looks like a zombie for a moment.
fn is_successor(pid: libc::pid_t, mountpoint: &Path) -> Option<bool> {
    let arguments = arguments(pid).unwrap_or_default();
    if arguments.is_empty() {
        return sys::is_child_ended(pid).then_some(false);
    }
    let mut words = arguments.split(|byte| *byte == 0).skip(1);
    let role = words.next();
    let is_this_mount = words.next() == Some(mountpoint.as_os_str().as_bytes());
    // A keeper without the option is a copy of the dead one that only unmounts.
    let can_be = role == Some(b"worker") || words.next() == Some(b"--adopt");
    Some(is_this_mount && can_be)
}
