//! A process that does not outlive the benchmark, however that ends.

use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Between being asked to end and being killed.
const PATIENCE: Duration = Duration::from_secs(5);

/// Has the kernel send SIGTERM to this process when the one that started it is gone.
pub fn end_with_parent() {
    // SAFETY: no memory is involved.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) };
}

/// Ended by `Drop`.
pub struct Helper {
    name: String,
    child: Option<Child>,
}

impl Helper {
    /// Starts it.
    pub fn start(command: &mut Command) -> Result<Helper, String> {
        let name = command.get_program().to_string_lossy().into_owned();
        // SAFETY: one system call, nothing of this process's memory.
        unsafe {
            command.pre_exec(|| {
                end_with_parent();
                Ok(())
            })
        };
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let child = command.spawn().map_err(|error| format!("{name}: {error}"))?;
        Ok(Helper { name, child: Some(child) })
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    /// Whether it is gone, for whatever reason.
    pub fn has_ended(&mut self) -> bool {
        self.child.as_mut().is_none_or(|child| !matches!(child.try_wait(), Ok(None)))
    }

    /// Waits for it. `Err` is what it said when it failed.
    pub fn end(mut self) -> Result<(), String> {
        let Some(child) = self.child.take() else { return Ok(()) };
        let output = child.wait_with_output().map_err(|error| format!("{}: {error}", self.name))?;
        let said = String::from_utf8_lossy(&output.stderr);
        match output.status.success() {
            true => Ok(()),
            false => Err(format!("{}: {}: {}", self.name, output.status, said.trim())),
        }
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        // In order, if it can: filesystems unmount, `buffer` ends its other process and gives its
        // memory back.
        // SAFETY: no memory is involved; a child that was not waited for keeps its number.
        unsafe { libc::kill(child.id() as libc::pid_t, libc::SIGTERM) };
        let begun = Instant::now();
        while matches!(child.try_wait(), Ok(None)) && begun.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = child.kill();
        let _ = child.wait();
    }
}
