//! What the demo measures, without touching the programs it measures.
//!
//! - write() calls: the kernel adds a reaped child's `/proc/PID/io` to its parent's. [`watch`]
//!   therefore reads the shell's when it has ended and is not yet reaped: the sum over all
//!   programs of the script, exact.
//! - the disk: `/sys/dev/block/MAJOR:MINOR/stat` of the device the directory is on, with all that
//!   others write there meanwhile; nothing where the directory has no such device (btrfs, tmpfs).
//! - layout: extents by FIEMAP.
//!
//! Times are milliseconds, sizes bytes. Called by the demo and by its hidden helper processes.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use serde::{Deserialize, Serialize};

/// Of the stream that times its own write() calls.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct ProbeReport {
    /// Records written, a write() each.
    pub records: u64,
    /// The longest of these calls.
    pub longest_write_ms: f64,
    /// The longest of those that slept. The others lost the processor at most, to one of the many
    /// programs: no fault of a filesystem.
    pub longest_sleep_ms: f64,
    /// write() calls of the process, this report included; `None` when not counted here.
    pub write_calls: Option<u64>,
}

/// Of the splitter.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct SplitReport {
    /// The longest time in which one full FIFO held up all streams.
    pub longest_wait_ms: f64,
    /// write() calls of the process, this report included; `None` when not counted here.
    pub write_calls: Option<u64>,
}

/// Of a script as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct WatchReport {
    /// From its start to its end.
    pub script_ms: f64,
    /// write() calls of the shell and all it waited for; `None` when not counted here.
    pub write_calls: Option<u64>,
    /// Exit status; 128 + signal when it was killed.
    pub exit_code: i32,
}

/// Runs `command` to its end, with standard input empty, and measures it.
pub fn watch(command: &mut Command) -> io::Result<WatchReport> {
    use std::os::unix::process::ExitStatusExt as _;
    let start = Instant::now();
    let mut child = command.stdin(Stdio::null()).spawn()?;
    wait_unreaped(child.id())?;
    let script_ms = start.elapsed().as_secs_f64() * 1e3;
    let write_calls = write_calls_of(&child.id().to_string());
    let status = child.wait()?;
    let exit_code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
    Ok(WatchReport { script_ms, write_calls, exit_code })
}

/// Waits until the child has ended, and leaves it to be reaped.
pub fn wait_unreaped(pid: u32) -> io::Result<()> {
    loop {
        // SAFETY: `info` is plain data for which zeroes are valid, and outlives the call.
        let result = unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            libc::waitid(libc::P_PID, pid, &mut info, libc::WEXITED | libc::WNOWAIT)
        };
        if result == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// write() calls of a process (a number or `self`) and of the children it has reaped; `None`
/// where the kernel does not count them or does not tell us.
pub fn write_calls_of(pid: &str) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/io")).ok()?;
    text.lines().find_map(|line| line.strip_prefix("syscw: "))?.trim().parse().ok()
}

/// Counters of a block device, or the difference of two readings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeviceWrites {
    /// Requests completed.
    pub requests: u64,
    /// Bytes written by them.
    pub bytes: u64,
}

impl DeviceWrites {
    /// Of the device below `dir` since it appeared; `None` when there is none to be seen.
    pub fn read(dir: &Path) -> Option<DeviceWrites> {
        let device = fs::metadata(dir).ok()?.dev();
        let (major, minor) = (libc::major(device), libc::minor(device));
        parse_block_stat(&fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/stat")).ok()?)
    }

    /// What was written since `before`.
    pub fn since(self, before: DeviceWrites) -> DeviceWrites {
        DeviceWrites {
            requests: self.requests.saturating_sub(before.requests),
            bytes: self.bytes.saturating_sub(before.bytes),
        }
    }
}

/// Documentation/block/stat.rst: the fifth number is write requests, the seventh sectors written,
/// of 512 bytes whatever the device.
fn parse_block_stat(text: &str) -> Option<DeviceWrites> {
    let mut numbers = text.split_ascii_whitespace().skip(4).map(str::parse::<u64>);
    let requests = numbers.next()?.ok()?;
    let sectors = numbers.nth(1)?.ok()?;
    Some(DeviceWrites { requests, bytes: sectors * 512 })
}

/// Extents of the file's data; an error where the filesystem cannot tell (EOPNOTSUPP).
pub fn extents_of(path: &Path) -> io::Result<u32> {
    crate::backing::extents(File::open(path)?.as_fd())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_statistics_are_requests_and_sectors() {
        let text = "  1  2  3  4  500  6  1024  8  0  9  10  11 12 13 14\n";
        let expected = DeviceWrites { requests: 500, bytes: 1024 * 512 };
        assert_eq!(parse_block_stat(text), Some(expected));
        assert_eq!(parse_block_stat("1 2 3 4 5 6"), None);
        assert_eq!(parse_block_stat(""), None);
    }

    /// Goal: the calls of grandchildren are in the count. Method: a shell whose background jobs
    /// write a known number of lines with a write() each.
    #[test]
    fn the_watch_counts_what_the_children_of_the_shell_wrote() {
        let script = "yes | head -n 700 | sed -u '' | wc -l >&2 & wait; exit 3";
        let report = watch(Command::new("sh").args(["-c", script])).unwrap();
        assert_eq!(report.exit_code, 3);
        let Some(calls) = report.write_calls else {
            eprintln!("skipped: the kernel does not count write() calls");
            return;
        };
        // `yes` and `head` write in blocks, at most a few dozen.
        assert!((700..800).contains(&calls), "{calls}");
    }
}
