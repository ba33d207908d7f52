//! Children of a trial in process groups of their own, and Ctrl-C.
//!
//! A signal only sets a flag; every wait here looks at it, so that the way out is the ordinary
//! one: values are dropped, and dropping ends children, unmounts and removes the directory.
//! One thread. Waits look every few milliseconds, which is the error of times taken with them.

use std::io;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::TrialError;

/// How often a wait looks.
const LOOK_EVERY: Duration = Duration::from_millis(4);
/// What a group gets to end by itself after SIGTERM: `run` unmounts in it.
const TERM_GRACE: Duration = Duration::from_secs(10);
/// How long to wait for killed processes to go.
const KILL_GRACE: Duration = Duration::from_secs(5);

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

extern "C" fn note_signal(_signal: libc::c_int) {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

/// From now on SIGINT, SIGTERM and SIGHUP set the flag; those ignored so far (nohup) stay so.
pub fn catch_signals() {
    for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
        // SAFETY: both structs are plain data for which zeroes are valid, and outlive the calls;
        // the handler only stores to an atomic, which is async-signal-safe.
        unsafe {
            let mut old: libc::sigaction = std::mem::zeroed();
            libc::sigaction(signal, std::ptr::null(), &mut old);
            if old.sa_sigaction == libc::SIG_IGN {
                continue;
            }
            let mut new: libc::sigaction = std::mem::zeroed();
            new.sa_sigaction = note_signal as extern "C" fn(libc::c_int) as libc::sighandler_t;
            new.sa_flags = libc::SA_RESTART;
            libc::sigaction(signal, &new, std::ptr::null_mut());
        }
    }
}

/// An error once a signal has come.
pub fn check_interrupted() -> Result<(), TrialError> {
    match INTERRUPTED.load(Ordering::Relaxed) {
        true => Err(TrialError::Interrupted),
        false => Ok(()),
    }
}

/// Whether a wait ends early because of Ctrl-C.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnInterrupt {
    /// It gives [`TrialError::Interrupted`].
    Stop,
    /// It goes on: this is the cleaning up itself.
    GoOn,
}

/// A child that leads a process group. Dropped before its end has been waited for, the whole
/// group is ended.
#[derive(Debug)]
pub struct Group {
    child: Child,
    running: bool,
}

impl Group {
    /// Starts `command` without standard input, so that a Ctrl-C at the terminal reaches only us.
    pub fn spawn(command: &mut Command) -> io::Result<Group> {
        use std::os::unix::process::CommandExt as _;
        let child = command.stdin(Stdio::null()).process_group(0).spawn()?;
        Ok(Group { child, running: true })
    }

    /// Waits for the child, at most `limit`: `None` when it has not ended by then.
    pub fn wait(
        &mut self,
        limit: Duration,
        on_interrupt: OnInterrupt,
    ) -> Result<Option<ExitStatus>, TrialError> {
        let start = Instant::now();
        loop {
            let ended = self
                .child
                .try_wait()
                .map_err(|error| TrialError::io("wait for", "a child", error))?;
            if let Some(status) = ended {
                self.running = false;
                return Ok(Some(status));
            }
            if on_interrupt == OnInterrupt::Stop {
                check_interrupted()?;
            }
            if start.elapsed() >= limit {
                return Ok(None);
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Ends what is left of the group: SIGTERM, then SIGKILL. Waits until it has gone.
    pub fn end(&mut self) {
        self.signal(libc::SIGTERM);
        if self.running {
            let _ = self.wait(TERM_GRACE, OnInterrupt::GoOn);
        }
        self.signal(libc::SIGKILL);
        if self.running {
            let _ = self.wait(KILL_GRACE, OnInterrupt::GoOn);
        }
        let start = Instant::now();
        while self.signal(0) && start.elapsed() < KILL_GRACE {
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Whether there was somebody to send `signal` to.
    fn signal(&self, signal: libc::c_int) -> bool {
        // SAFETY: kill(2) reads no memory of ours.
        unsafe { libc::kill(-(self.child.id() as libc::pid_t), signal) == 0 }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if self.running {
            self.end();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: dropping a group leaves no process of it. Method: a shell that has children; the
    /// group is looked up before and afterwards.
    #[test]
    fn a_dropped_group_leaves_nobody() {
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 1000 & sleep 1000; wait"]).stdout(Stdio::null());
        let group = Group::spawn(&mut command).unwrap();
        let pgid = group.child.id() as libc::pid_t;
        std::thread::sleep(Duration::from_millis(50));
        assert!(group.signal(0));
        drop(group);
        // SAFETY: kill(2) reads no memory of ours.
        assert_eq!(unsafe { libc::kill(-pgid, 0) }, -1);
    }

    #[test]
    fn a_wait_ends_at_its_limit() {
        let mut group = Group::spawn(Command::new("sleep").arg("1000")).unwrap();
        let ended = group.wait(Duration::from_millis(20), OnInterrupt::Stop).unwrap();
        assert!(ended.is_none());
        let mut group = Group::spawn(Command::new("sh").args(["-c", "exit 3"])).unwrap();
        let ended = group.wait(Duration::from_secs(10), OnInterrupt::Stop).unwrap();
        assert_eq!(ended.unwrap().code(), Some(3));
    }
}
