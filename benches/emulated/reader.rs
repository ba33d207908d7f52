//! Somebody who reads a big file on the disk while others write.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::check::lay_out;
use super::watch::Watch;
use super::{Disk, Pace};

/// Of the disk; the reader begins anew at the end.
const PART: u64 = 8;
/// Bytes of one read().
const PIECE: usize = 1 << 20;

/// What it got.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Reading {
    /// Until all that was written was on the disk.
    pub bytes: u64,
    /// In that time.
    pub took_s: f64,
    /// One read() of 1 MiB.
    pub longest_s: f64,
}

/// The file, which is made without taking time.
pub fn prepare(disk: &mut Disk, capacity_bytes: u64) -> Result<PathBuf, String> {
    let path = disk.path().join("read");
    disk.set_pace(Pace::Instant)?;
    lay_out(&path, capacity_bytes / PART)
        .map_err(|error| format!("{}: {error}", path.display()))?;
    disk.set_pace(Pace::Modelled)?;
    Ok(path)
}

/// Reads it from its start, again and again, as `cat` does, and never from the page cache.
pub fn begin(path: &Path) -> Result<Watch<io::Result<Reading>>, String> {
    let failed = |error: io::Error| format!("{}: {error}", path.display());
    let file = File::open(path).map_err(failed)?;
    let bytes = file.metadata().map_err(failed)?.len();
    forget(&file);
    let (begun, mut piece) = (Instant::now(), vec![0; PIECE]);
    let look = move |got: &mut io::Result<Reading>| {
        let Ok(reading) = got else { return };
        let at = reading.bytes % bytes;
        if at == 0 {
            forget(&file);
        }
        let before = Instant::now();
        match file.read_at(&mut piece, at) {
            Ok(count) => {
                reading.bytes += count as u64;
                reading.longest_s = reading.longest_s.max(before.elapsed().as_secs_f64());
                reading.took_s = begun.elapsed().as_secs_f64();
            }
            Err(error) => *got = Err(error),
        }
    };
    Ok(Watch::begin(Duration::ZERO, Ok(Reading::default()), look))
}

fn forget(file: &File) {
    // SAFETY: a descriptor that lives as long as the call.
    unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
}
