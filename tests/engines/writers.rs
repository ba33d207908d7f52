//! Programs that append records to a file each, until they are told to end.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::IntoRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::support::{SOON, record, records};

/// Between so many records there is a pause: outages of half a minute are not to fill the memory.
const RECORDS_IN_A_ROW: usize = 50;
const PAUSE: Duration = Duration::from_millis(5);

/// Running ones.
pub struct Writers {
    dir: PathBuf,
    is_over: Arc<AtomicBool>,
    written: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<io::Result<usize>>>,
}

/// What they wrote.
pub struct Outputs {
    counts: Vec<usize>,
}

impl Writers {
    /// Starts `count` of them, in `dir`.
    pub fn start(dir: &Path, count: usize) -> Writers {
        let (is_over, written) = <(Arc<AtomicBool>, Arc<AtomicUsize>)>::default();
        let start = |number: usize| {
            let (is_over, written) = (is_over.clone(), written.clone());
            let path = output(dir, number);
            std::thread::spawn(move || write(&path, number, &is_over, &written))
        };
        let threads = (0..count).map(start).collect();
        Writers { dir: dir.to_owned(), is_over, written, threads }
    }

    /// Waits until they have written `count` records more: they are not blocked.
    pub fn wait_for_records(&self, count: usize) {
        let (from, until) =
            (self.written.load(Ordering::Relaxed), std::time::Instant::now() + SOON);
        while self.written.load(Ordering::Relaxed) < from + count {
            assert!(std::time::Instant::now() < until, "the writers are blocked");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends them, whatever they were told.
    pub fn abandon(self) {
        self.is_over.store(true, Ordering::Relaxed);
        for thread in self.threads {
            let _ = thread.join().unwrap();
        }
    }

    /// Ends them; no call of theirs may have failed, close(2) included. What they wrote is what is
    /// to be read in their directory.
    pub fn end(self) -> Outputs {
        self.is_over.store(true, Ordering::Relaxed);
        let ends = self.threads.into_iter().map(|thread| thread.join().unwrap());
        let counts = ends.map(|end| end.expect("a program saw an error")).collect();
        let outputs = Outputs { counts };
        outputs.assert_in(&self.dir);
        outputs
    }
}

impl Outputs {
    /// Every record is in its file, and nothing else.
    pub fn assert_in(&self, dir: &Path) {
        for (number, count) in self.counts.iter().enumerate() {
            let path = output(dir, number);
            let (found, wanted) = (fs::read(&path).unwrap(), records(number, *count));
            assert_eq!(found.len(), wanted.len(), "length of {}", path.display());
            let at = found.iter().zip(&wanted).position(|(found, wanted)| found != wanted);
            assert_eq!(at, None, "first wrong byte of {}", path.display());
        }
    }
}

fn output(dir: &Path, number: usize) -> PathBuf {
    dir.join(format!("OUTPUT{number}"))
}

fn write(
    path: &Path,
    number: usize,
    is_over: &AtomicBool,
    written: &AtomicUsize,
) -> io::Result<usize> {
    let mut file = File::create(path)?;
    let mut count = 0;
    while !is_over.load(Ordering::Relaxed) {
        for _ in 0..RECORDS_IN_A_ROW {
            file.write_all(record(number, count).as_bytes())?;
            count += 1;
        }
        written.fetch_add(RECORDS_IN_A_ROW, Ordering::Relaxed);
        std::thread::sleep(PAUSE);
    }
    // SAFETY: the descriptor is ours and not used afterwards.
    if unsafe { libc::close(file.into_raw_fd()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(count)
}
