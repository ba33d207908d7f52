//! What the disk takes: sequential writes of several sizes into several files in turn, as the lanes
//! of a mount make them.
//!
//! A batch is as many turns of one size as make a fixed number of bytes, each turn to the next file,
//! and then one fdatasync, so that what a cache of the disk has taken is waited for. Single turns
//! are not timed: such a cache makes the first ones fast and the later ones slow. What a sync costs
//! in any case is measured by itself and taken off. Sizes alternate over some rounds, and the lower
//! quartile of a size counts: what others do meanwhile only ever makes a batch slower.
//!
//! One thread, blocks; looks for Ctrl-C before each turn.

use std::fs::File;
use std::io::{self, IoSlice, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::fit::Sample;
use crate::backing::{self, DirectIo};
use crate::cli::trial::TrialError;
use crate::cli::trial::measure::ms;
use crate::cli::trial::process::check_interrupted;

/// Sizes of turns: from where positioning is nearly all to where it is nearly nothing.
const TURN_BYTES: [u64; 3] = [128 << 10, 1 << 20, 8 << 20];
/// Each size has so many batches.
const ROUNDS: u64 = 5;
/// On a slow disk fewer; one there is in any case.
const TIME_LIMIT: Duration = Duration::from_secs(60);
/// As many files as make going to another one what it is with many.
const FILES: u64 = 8;
/// Syncs of one block that are timed.
const SYNCS: usize = 5;
/// Of memory and of offsets: what any disk wants at most.
const ALIGNMENT: usize = 4096;

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub struct Device {
    /// Whether with O_DIRECT; else each turn was written back from the page cache and waited for.
    pub direct: bool,
    /// Of writing one block and waiting for it with fdatasync, in milliseconds.
    pub sync_ms: f64,
    /// By size.
    pub turns: Vec<Turns>,
    /// In all.
    pub written_bytes: u64,
}

/// All turns of one size.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Turns {
    /// Of one.
    pub bytes: u64,
    /// How many were made.
    pub count: u64,
    /// Of one, in milliseconds: the lower quartile of the batches.
    pub ms: f64,
    /// In the fastest batch.
    pub fastest_ms: f64,
    /// In the slowest batch.
    pub slowest_ms: f64,
}

impl Device {
    /// What is to be fitted.
    pub fn samples(&self) -> Vec<Sample> {
        let sample = |turns: &Turns| Sample { bytes: turns.bytes, seconds: turns.ms / 1e3 };
        self.turns.iter().map(sample).collect()
    }

    /// How many times longer the slowest batch of a size took than the fastest; of the size where
    /// that is most.
    pub fn spread(&self) -> f64 {
        let of_one = |turns: &Turns| turns.slowest_ms / turns.fastest_ms.max(f64::MIN_POSITIVE);
        self.turns.iter().map(of_one).fold(1.0, f64::max)
    }
}

/// Writes `bytes` at most into files of its own in `dir`, and removes them.
pub fn measure(dir: &Path, bytes: u64) -> Result<Device, TrialError> {
    let batch_bytes = bytes / (ROUNDS * TURN_BYTES.len() as u64);
    let sizes: Vec<u64> = TURN_BYTES.into_iter().filter(|size| *size <= batch_bytes).collect();
    let mut ground = Ground::make(dir, bytes / FILES)?;
    let sync = ground.measure_sync()?;
    let mut batches: Vec<Vec<f64>> = vec![Vec::new(); sizes.len()];
    let start = Instant::now();
    for _ in 0..ROUNDS {
        for (size, times) in sizes.iter().zip(&mut batches) {
            let took = ground.batch(*size, batch_bytes / size)?;
            // More than half of a batch is never taken off: the rest would be noise.
            let writing = took.saturating_sub(sync).max(took / 2);
            times.push(ms(writing) / (batch_bytes / size) as f64);
        }
        if start.elapsed() > TIME_LIMIT {
            break;
        }
    }
    let of_size = |(size, mut times): (&u64, Vec<f64>)| Turns {
        bytes: *size,
        count: batch_bytes / size * times.len() as u64,
        ms: lower_quartile(&mut times),
        fastest_ms: times[0],
        slowest_ms: times[times.len() - 1],
    };
    let turns = sizes.iter().zip(batches).map(of_size).collect();
    ground.remove()?;
    let (direct, written_bytes) = (ground.is_direct, ground.written_bytes);
    Ok(Device { direct, sync_ms: ms(sync), turns, written_bytes })
}

/// Sorts them; of few the lower one.
fn lower_quartile<T: PartialOrd + Copy>(values: &mut [T]) -> T {
    values.sort_by(|a, b| a.partial_cmp(b).expect("times are numbers"));
    values[(values.len() - 1) / 4]
}

/// The files, and where each goes on.
struct Ground {
    files: Vec<TurnFile>,
    file_bytes: u64,
    next: usize,
    is_direct: bool,
    written_bytes: u64,
    /// Of random bytes, which no filesystem can make shorter.
    buffer: Vec<u8>,
    aligned_from: usize,
}

struct TurnFile {
    path: PathBuf,
    cached: File,
    /// The same, with O_DIRECT.
    direct: Option<OwnedFd>,
    at: u64,
}

impl TurnFile {
    fn make(path: PathBuf, bytes: u64) -> io::Result<TurnFile> {
        let cached = File::options().read(true).write(true).create_new(true).open(&path)?;
        match backing::allocate(cached.as_fd(), 0, 0, bytes) {
            Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                cached.set_len(bytes)?
            }
            result => result?,
        }
        let direct = match backing::probe_direct(cached.as_fd()) {
            (DirectIo::Aligned { memory, offset }, direct)
                if memory.max(offset) as usize <= ALIGNMENT =>
            {
                direct
            }
            _ => None,
        };
        Ok(TurnFile { path, cached, direct, at: 0 })
    }
}

impl Ground {
    fn make(dir: &Path, file_bytes: u64) -> Result<Ground, TrialError> {
        let most = TURN_BYTES[TURN_BYTES.len() - 1] as usize;
        let mut buffer = vec![0; most + ALIGNMENT];
        File::open("/dev/urandom")
            .and_then(|mut random| random.read_exact(&mut buffer))
            .map_err(|error| TrialError::io("read", "/dev/urandom", error))?;
        let aligned_from = buffer.as_ptr().align_offset(ALIGNMENT);
        let file_bytes = file_bytes.next_multiple_of(ALIGNMENT as u64);
        let mut files = Vec::new();
        for number in 0..FILES {
            check_interrupted()?;
            let path = dir.join(format!("turns{number}"));
            let file = TurnFile::make(path.clone(), file_bytes)
                .map_err(|error| TrialError::io("reserve", path.display(), error))?;
            files.push(file);
        }
        let is_direct = files.iter().all(|file| file.direct.is_some());
        let written_bytes = 0;
        let next = 0;
        Ok(Ground { files, file_bytes, next, is_direct, written_bytes, buffer, aligned_from })
    }

    /// One block and its sync; the first one may find out that O_DIRECT is refused.
    fn measure_sync(&mut self) -> Result<Duration, TrialError> {
        let mut times = Vec::new();
        // The first one also does what was left to be done for the new files.
        for _ in 0..=SYNCS {
            times.push(self.batch(ALIGNMENT as u64, 1)?);
        }
        Ok(lower_quartile(&mut times[1..]))
    }

    /// `count` turns and a sync of each file that had one.
    fn batch(&mut self, bytes: u64, count: u64) -> Result<Duration, TrialError> {
        let first = self.next;
        let start = Instant::now();
        for _ in 0..count {
            check_interrupted()?;
            self.turn(bytes)?;
        }
        for offset in 0..count.min(FILES) as usize {
            let file = &self.files[(first + offset) % self.files.len()];
            backing::sync_data(file.cached.as_fd())
                .map_err(|error| TrialError::io("sync", file.path.display(), error))?;
        }
        Ok(start.elapsed())
    }

    /// The next file gets `bytes` behind what it got before, or from its start again.
    fn turn(&mut self, bytes: u64) -> Result<(), TrialError> {
        let index = self.next;
        self.next = (index + 1) % self.files.len();
        // Aligned to its size, as the turns of a mount are.
        let at = self.files[index].at.next_multiple_of(bytes);
        self.files[index].at = if at + bytes > self.file_bytes { 0 } else { at };
        let file = &self.files[index];
        let bytes_of_turn = &self.buffer[self.aligned_from..][..bytes as usize];
        let write = |direct: bool| match file.direct.as_ref().filter(|_| direct) {
            Some(direct) => write_all_at(direct.as_fd(), bytes_of_turn, file.at),
            None => write_all_at(file.cached.as_fd(), bytes_of_turn, file.at)
                .and_then(|()| backing::settle_range(file.cached.as_fd(), file.at, bytes)),
        };
        let mut written = write(self.is_direct);
        let is_refused =
            written.as_ref().is_err_and(|error| error.raw_os_error() == Some(libc::EINVAL));
        if self.is_direct && is_refused {
            self.is_direct = false;
            written = write(false);
        }
        written.map_err(|error| TrialError::io("write", file.path.display(), error))?;
        self.files[index].at += bytes;
        self.written_bytes += bytes;
        Ok(())
    }

    fn remove(&self) -> Result<(), TrialError> {
        self.files.iter().try_for_each(|file| {
            std::fs::remove_file(&file.path)
                .map_err(|error| TrialError::io("remove", file.path.display(), error))
        })
    }
}

fn write_all_at(fd: BorrowedFd, bytes: &[u8], offset: u64) -> io::Result<()> {
    let mut done = 0;
    while done < bytes.len() {
        match backing::write_at(fd, &[IoSlice::new(&bytes[done..])], offset + done as u64)? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            count => done += count,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: what is said to be written is, and no more than allowed; nothing is left.
    #[test]
    fn a_small_measurement_is_complete_and_bounded() {
        for bytes in [16 << 20, 32 << 20] {
            let dir = tempfile::tempdir().unwrap();
            let device = measure(dir.path(), bytes).unwrap();
            let of_turns: u64 = device.turns.iter().map(|turns| turns.bytes * turns.count).sum();
            let of_syncs = (SYNCS as u64 + 1) * ALIGNMENT as u64;
            assert_eq!(device.written_bytes, of_turns + of_syncs);
            assert!(of_turns <= bytes && of_turns > bytes / 4, "{device:?}");
            let sizes: Vec<u64> = device.turns.iter().map(|turns| turns.bytes).collect();
            assert_eq!(sizes, TURN_BYTES[..2]);
            for turns in &device.turns {
                assert!(0.0 < turns.fastest_ms && turns.fastest_ms <= turns.ms, "{turns:?}");
                assert!(turns.ms <= turns.slowest_ms, "{turns:?}");
            }
            assert!(device.spread() >= 1.0);
            assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        }
    }

    #[test]
    fn what_is_slower_than_a_quarter_does_not_count() {
        assert_eq!(lower_quartile(&mut [9.0, 3.0, 1.0, 2.0, 80.0]), 2.0);
        assert_eq!(lower_quartile(&mut [4, 1, 7]), 1);
        assert_eq!(lower_quartile(&mut [4]), 4);
    }
}
