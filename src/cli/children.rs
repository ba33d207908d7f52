//! Waiting for a child process while signals are passed on to it.
//!
//! Signals are blocked and taken from a descriptor: no handlers, and nothing changes that a child
//! would inherit but the mask, which it is given back.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, ExitStatus};

use crate::keeper::sys::{self, Signals};

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

    /// Waits for the child to end; passes those of the signals on that are in `passed_on`.
    pub fn wait(&self, child: &mut Child, passed_on: &[libc::c_int]) -> io::Result<ExitStatus> {
        loop {
            // First, as it may have ended before the signals were blocked.
            if let Some(status) = child.try_wait()? {
                return Ok(status);
            }
            sys::poll([Some(self.signals.as_fd())], None);
            while let Some(signal) = sys::take_signal(self.signals.as_fd()) {
                if passed_on.contains(&signal) {
                    sys::kill(child.id() as libc::pid_t, signal);
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
