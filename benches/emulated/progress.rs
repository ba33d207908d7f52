//! How far each writer has come at every moment: a counter each, in memory that the benchmark and
//! the writers share, so that looking costs the writers nothing.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::fairness::Moment;

/// Where a file is memory.
const MEMORY: &str = "/dev/shm";

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
