//! The chunk in force on each backing device: as `--chunk` says, or learned from the lanes' runs.
//!
//! A file takes a change over at its next write or turn, under its own lock; what a turn takes is
//! fixed in bytes before. The lock here is a leaf: nothing else is taken under it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use crate::clock::boottime_ms;
use crate::config::MountConfig;
use crate::schedule::{ChunkSize, FileId, RunTime, ServiceTime};

/// No file has this number.
const NO_FILE: u64 = u64::MAX;

/// What a device's files are divided into.
pub(super) struct Chunk {
    is_auto: bool,
    /// Mirrors what `size` says, for each write.
    bytes: AtomicU64,
    size: Mutex<ChunkSize>,
    /// The file of the last run: the head is there.
    last_file: AtomicU64,
}

impl Chunk {
    pub(super) fn new(config: &MountConfig) -> Chunk {
        let (first_bytes, unit_bytes) = (config.chunk_bytes, config.chunk_unit_bytes());
        Chunk {
            is_auto: config.chunk_auto,
            bytes: AtomicU64::new(first_bytes),
            size: Mutex::new(ChunkSize::new(first_bytes, unit_bytes, config.memory_bytes)),
            last_file: AtomicU64::new(NO_FILE),
        }
    }

    fn size(&self) -> MutexGuard<'_, ChunkSize> {
        self.size.lock().expect("no panics under this lock")
    }

    /// In force.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// What is known of the device.
    pub(super) fn service(&self) -> Option<ServiceTime> {
        self.size().service()
    }

    /// A run is stored. What a page cache took says nothing of the disk.
    pub(super) fn note_run(&self, file: FileId, bytes: u64, direct_bytes: u64, took: Duration) {
        let has_moved = self.last_file.swap(file.0, Ordering::Relaxed) != file.0;
        if direct_bytes * 2 > bytes {
            let took_us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
            self.size().note_run(RunTime { bytes, took_us, has_moved }, boottime_ms());
        }
    }

    /// A turn is over, with so many streams that share the memory. Whether another chunk is in force
    /// now.
    pub(super) fn step(&self, streams: u64) -> bool {
        if !self.is_auto {
            return false;
        }
        let bytes = self.size().step(streams, boottime_ms());
        self.bytes.swap(bytes, Ordering::Relaxed) != bytes
    }
}
