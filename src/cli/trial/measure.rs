//! What trials measure on their own side: the place, the calls of a writer, and how reports come
//! from a child.
//!
//! Times are milliseconds, sizes bytes.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// A shorter write() is no stall.
const LONG_WRITE: Duration = Duration::from_millis(1);

/// Writes a report as JSON with a single write().
pub fn save_report(path: &Path, report: &impl Serialize) -> io::Result<()> {
    fs::write(path, serde_json::to_vec(report)?)
}

/// Reads a report that [`save_report`] wrote.
pub fn load_report<T: for<'a> Deserialize<'a>>(path: &Path) -> io::Result<T> {
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

/// How often the calling thread has slept: getrusage(2), voluntary context switches.
fn sleeps() -> i64 {
    // SAFETY: `usage` is plain data for which zeroes are valid, and outlives the call.
    unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_THREAD, &mut usage);
        usage.ru_nvcsw as i64
    }
}

/// The longest of the calls of one thread.
///
/// Whether a call slept is asked only after the long ones: asking costs as much as a write().
#[derive(Clone, Copy, Debug, Default)]
pub struct LongestCalls {
    /// Of all.
    pub longest: Duration,
    /// Of those that slept. The others lost the processor at most: no fault of a filesystem.
    pub longest_sleep: Duration,
    sleeps: i64,
}

impl LongestCalls {
    /// What the thread has slept until now does not count: waiting for input is sleeping too.
    pub fn begin(&mut self) {
        self.sleeps = sleeps();
    }

    /// Times one call. Between [`LongestCalls::begin`] and it the thread has slept in calls only.
    pub fn time(&mut self, call: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        let start = Instant::now();
        call()?;
        let took = start.elapsed();
        self.longest = self.longest.max(took);
        if took >= LONG_WRITE {
            let before = std::mem::replace(&mut self.sleeps, sleeps());
            if self.sleeps > before {
                self.longest_sleep = self.longest_sleep.max(took);
            }
        }
        Ok(())
    }
}

/// In milliseconds.
pub fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

/// Returns when all that was written to the filesystem of `dir` is on disk, or the error of that.
pub fn sync_filesystem(dir: &Path) -> io::Result<()> {
    crate::backing::sync_filesystem(File::open(dir)?.as_fd())
}

/// Where a directory lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Bytes an ordinary user may still write there.
    pub free_bytes: u64,
    /// Whether it is memory and not a disk.
    pub in_memory: bool,
}

impl Place {
    /// Asks the filesystem of `dir`.
    pub fn of(dir: &Path) -> io::Result<Place> {
        use std::os::unix::ffi::OsStrExt as _;
        let path = std::ffi::CString::new(dir.as_os_str().as_bytes())?;
        // SAFETY: `stat` is plain data for which zeroes are valid; both it and `path` outlive
        // the call.
        let stat = unsafe {
            let mut stat: libc::statfs = std::mem::zeroed();
            if libc::statfs(path.as_ptr(), &mut stat) != 0 {
                return Err(io::Error::last_os_error());
            }
            stat
        };
        Ok(Place {
            free_bytes: stat.f_bavail.saturating_mul(stat.f_bsize as u64),
            in_memory: MEMORY_FILESYSTEMS.contains(&(stat.f_type as i64)),
        })
    }
}

/// tmpfs and ramfs, as in linux/magic.h.
const MEMORY_FILESYSTEMS: [i64; 2] = [0x0102_1994, 0x8584_58f6];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_comes_back_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let report = vec![12.5, 0.0];
        save_report(&dir.path().join("r"), &report).unwrap();
        assert_eq!(load_report::<Vec<f64>>(&dir.path().join("r")).unwrap(), report);
    }
}
