//! How far each writer has come at every moment: a counter each, in memory that the benchmark and
//! the writers share, so that looking costs the writers nothing.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Where a file is memory.
const MEMORY: &str = "/dev/shm";
/// Moments that are kept of a run.
const KEPT: usize = 60;

/// Bytes written by one writer, alone in its cache line.
#[repr(C, align(64))]
struct Counter(AtomicU64);

/// The counters of all writers.
pub struct Board {
    file: File,
    counters: NonNull<Counter>,
    writers: usize,
}

// SAFETY: atomics in memory that lives as long as this.
unsafe impl Send for Board {}
// SAFETY: as above.
unsafe impl Sync for Board {}

impl Board {
    /// All at zero.
    pub fn new(writers: u64) -> io::Result<Board> {
        let file = tempfile::tempfile_in(MEMORY)?;
        file.set_len(writers * size_of::<Counter>() as u64)?;
        Board::map(file, writers as usize)
    }

    /// That of another process.
    pub fn open(path: &Path) -> io::Result<Board> {
        let file = File::options().read(true).write(true).open(path)?;
        let writers = file.metadata()?.len() as usize / size_of::<Counter>();
        Board::map(file, writers)
    }

    /// Where other processes find it while this one has it.
    pub fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd()).into()
    }

    fn map(file: File, writers: usize) -> io::Result<Board> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let (bytes, fd) = (writers * size_of::<Counter>(), file.as_raw_fd());
        // SAFETY: a new mapping of a file of that length.
        let address =
            unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, libc::MAP_SHARED, fd, 0) };
        match NonNull::new(address.cast()) {
            Some(counters) if address != libc::MAP_FAILED => Ok(Board { file, counters, writers }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn counters(&self) -> &[Counter] {
        // SAFETY: mapped with that length, zeros are counters, and all access is atomic.
        unsafe { std::slice::from_raw_parts(self.counters.as_ptr(), self.writers) }
    }

    /// What the writer of that number has written.
    pub fn set(&self, number: u64, bytes: u64) {
        self.counters()[number as usize].0.store(bytes, Ordering::Relaxed);
    }

    fn get(&self) -> Vec<u64> {
        self.counters().iter().map(|counter| counter.0.load(Ordering::Relaxed)).collect()
    }

    /// How far all of them are.
    pub fn moment(&self, since_start: Duration) -> Moment {
        Moment { at_s: since_start.as_secs_f64(), bytes: self.get() }
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        // SAFETY: mapped with that length; nobody has a reference any more.
        unsafe { libc::munmap(self.counters.as_ptr().cast(), self.writers * size_of::<Counter>()) };
    }
}

/// Bytes written by each writer at a time.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Moment {
    /// Since they began.
    pub at_s: f64,
    /// By their numbers.
    pub bytes: Vec<u64>,
}

/// How the slowest writer did, of what the fastest did that wants as much: 1 is fair.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Fairness {
    /// By what they had written when the first one had written everything.
    pub at_first_end: f64,
    /// By what they wrote in the middle half of the time before that.
    pub middle_half: f64,
}

impl Fairness {
    /// `wanted`: what each writer is to write. Moments in their order.
    pub fn of(moments: &[Moment], wanted: &[u64]) -> Fairness {
        let has_ended =
            |moment: &Moment| moment.bytes.iter().zip(wanted).any(|(has, all)| has >= all);
        let first_end = moments.iter().position(has_ended).unwrap_or(moments.len().max(1) - 1);
        let Some(end) = moments.get(first_end) else {
            return Fairness { at_first_end: 0.0, middle_half: 0.0 };
        };
        let at = |part: f64| {
            let later = moments.iter().position(|moment| moment.at_s >= end.at_s * part);
            &moments[later.unwrap_or(first_end)]
        };
        let between: Vec<u64> =
            at(0.75).bytes.iter().zip(&at(0.25).bytes).map(|(late, early)| late - early).collect();
        Fairness { at_first_end: ratio(&end.bytes, wanted), middle_half: ratio(&between, wanted) }
    }
}

/// Of the least to the most among those who want the same; the worst of these.
fn ratio(bytes: &[u64], wanted: &[u64]) -> f64 {
    let alike = |&want: &u64| {
        let its = || bytes.iter().zip(wanted).filter(|(_, all)| **all == want).map(|(got, _)| *got);
        let (least, most) = (its().min().unwrap_or(0), its().max().unwrap_or(0));
        if most == 0 { 0.0 } else { least as f64 / most as f64 }
    };
    wanted.iter().map(alike).reduce(f64::min).unwrap_or(0.0)
}

/// Few enough to be kept in a file: evenly spread, the last one included.
pub fn thin(moments: Vec<Moment>) -> Vec<Moment> {
    let step = moments.len().div_ceil(KEPT).max(1);
    let last = moments.len().saturating_sub(1);
    let is_kept = |at: &usize| at.is_multiple_of(step) || *at == last;
    moments
        .into_iter()
        .enumerate()
        .filter(|(at, _)| is_kept(at))
        .map(|(_, moment)| moment)
        .collect()
}
