//! The writers of the user's case: a file each, one write() a record, each call timed.
//!
//! A process of its own under hidden arguments, so that Ctrl-C can end it while it waits for a disk,
//! and so that `coalescefs run` can run it. Its writers are threads: what the kernel holds back is
//! threads, too.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::backing;
use crate::cli::trial::measure::{LongestCalls, ms};
use crate::cli::trial::record::{RECORD_BYTES, fill_records};

/// Bytes after which a writer begins again with what it writes.
const PERIOD_BYTES: usize = 1000 * RECORD_BYTES;

/// What is written.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Files.
    pub writers: u32,
    /// Of one write().
    pub record_bytes: u32,
    /// Of one file.
    pub bytes_each: u64,
}

/// What the writers say at their end.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct WritersReport {
    /// Until the last one has closed its file.
    pub ms: f64,
    /// The longest write() of all.
    pub longest_write_ms: f64,
    /// Of those that slept.
    pub longest_sleep_ms: f64,
}

impl Load {
    /// Of all files.
    pub fn bytes(&self) -> u64 {
        self.bytes_each * u64::from(self.writers)
    }

    /// The file of a writer.
    pub fn output(dir: &Path, writer: u32) -> PathBuf {
        dir.join(format!("OUTPUT{writer}"))
    }

    /// Writes everything. `Err` names the file.
    pub fn write(&self, dir: &Path) -> io::Result<WritersReport> {
        backing::raise_descriptor_limit();
        let mut files = Vec::new();
        for writer in 1..=self.writers {
            let path = Load::output(dir, writer);
            files.push((writer, File::create_new(&path).map_err(|error| named(&path, error))?));
        }
        let barrier = Barrier::new(files.len());
        let written: io::Result<Vec<_>> = std::thread::scope(|scope| {
            let start = |(writer, file)| {
                let barrier = &barrier;
                scope.spawn(move || {
                    self.write_one(writer, file, barrier)
                        .map_err(|error| named(&Load::output(dir, writer), error))
                })
            };
            let threads: Vec<_> = files.into_iter().map(start).collect();
            threads.into_iter().map(|thread| thread.join().expect("no writer panics")).collect()
        });
        let mut report = WritersReport { ms: 0.0, longest_write_ms: 0.0, longest_sleep_ms: 0.0 };
        for (took_ms, calls) in written? {
            report.ms = report.ms.max(took_ms);
            report.longest_write_ms = report.longest_write_ms.max(ms(calls.longest));
            report.longest_sleep_ms = report.longest_sleep_ms.max(ms(calls.longest_sleep));
        }
        Ok(report)
    }

    fn write_one(
        &self,
        writer: u32,
        mut file: File,
        barrier: &Barrier,
    ) -> io::Result<(f64, LongestCalls)> {
        let record_bytes = self.record_bytes as usize;
        let mut text = vec![0; (PERIOD_BYTES + record_bytes).next_multiple_of(RECORD_BYTES)];
        fill_records(&mut text, writer, 0);
        let mut calls = LongestCalls::default();
        barrier.wait();
        let start = Instant::now();
        calls.begin();
        let mut written = 0;
        while written < self.bytes_each {
            let from = (written % PERIOD_BYTES as u64) as usize;
            let record = &text[from..from + record_bytes];
            calls.time(|| file.write_all(record))?;
            written += record_bytes as u64;
        }
        backing::close(file.into())?;
        Ok((ms(start.elapsed()), calls))
    }
}

fn named(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::trial::record::first_difference;

    /// Goal: every file gets all of its records, of any size, in order.
    #[test]
    fn every_writer_writes_its_records() {
        for record_bytes in [10, 4096] {
            let dir = tempfile::tempdir().unwrap();
            let load = Load { writers: 3, record_bytes, bytes_each: u64::from(record_bytes) * 700 };
            let report = load.write(dir.path()).unwrap();
            assert!(report.longest_write_ms >= report.longest_sleep_ms);
            assert!(report.ms >= report.longest_write_ms);
            for writer in 1..=3 {
                let mut file = File::open(Load::output(dir.path(), writer)).unwrap();
                assert_eq!(file.metadata().unwrap().len(), load.bytes_each);
                if record_bytes == 10 {
                    assert_eq!(first_difference(&mut file, writer, 700).unwrap(), None);
                }
            }
            let again = load.write(dir.path()).unwrap_err();
            assert!(again.to_string().contains("OUTPUT1"), "{again}");
        }
    }
}
