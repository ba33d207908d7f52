//! Memory: who may fill it, and who waits.
//!
//! The arena has a *reserve* as large as what the kernel may have in flight. The bytes of a WRITE
//! always go into the arena at once; when more than `limit` is held, only its *reply* waits, and
//! replies are handed out in small equal shares as lanes give memory back ([`Admission`]).
//!
//! Writes that are not bounded by the kernel (O_DIRECT, or a mount without its writeback cache)
//! can use the reserve up. Their bytes then wait on the heap, up to [`STARVED_BYTES_MAX`]; beyond
//! that the FUSE thread waits, which is the one place where it does.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use super::data::{Took, Write};
use super::nodes::Node;
use super::reserve::Job;
use super::{Filesystem, Reply, errno};
use crate::arena::{Arena, Counters};
use crate::clock::boottime_ms;
use crate::schedule::{Admission, FileId, Filling, Granted, Urgency};

/// A turn of less, before memory is short, is not worth its seek.
const FILLING_BYTES_MIN: u64 = 256 << 10;
/// Bytes of writes that wait outside the arena.
const STARVED_BYTES_MAX: usize = 16 << 20;
/// A share of room for one file: small against memory and a stall, large against a request.
const SHARE_BYTES: u64 = 256 << 10;
/// Most bytes the kernel may have in flight: enough for it to work ahead while we copy.
const RESERVE_BYTES_MAX: u64 = 64 << 20;
/// Largest WRITE: what the kernel sends at most without `fs.fuse.max_pages_limit` raised.
pub const WRITE_BYTES_MAX: u64 = 1 << 20;

/// Bounds agreed with the kernel, and the limit that follows from them.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Largest WRITE request.
    pub max_write_bytes: u32,
    /// Background requests (writeback) the kernel may have in flight.
    pub max_background: u16,
    /// Bytes held above which replies wait.
    pub limit_bytes: u64,
    /// Bytes held above which programs ask before they write. More than `high_water_bytes`: nobody is
    /// held back while lanes could write and do not.
    pub gate_bytes: u64,
    /// Bytes held above which partial chunks are written, too.
    pub high_water_bytes: u64,
}

impl Limits {
    /// A quarter of the memory at most is the reserve.
    pub fn new(arena: &Arena) -> Limits {
        let segment_bytes = u64::from(arena.segment_bytes());
        let held_max = u64::from(arena.segments()) * segment_bytes;
        let reserve_bytes = (held_max / 4).min(RESERVE_BYTES_MAX);
        let max_write_bytes = (reserve_bytes / 16).clamp(64 << 10, WRITE_BYTES_MAX);
        let max_write_bytes = 1u64 << (63 - max_write_bytes.leading_zeros());
        // An unaligned request touches one more segment at either end.
        let request_bytes = max_write_bytes + 2 * segment_bytes;
        let max_background = (reserve_bytes / request_bytes).clamp(2, 64) as u16;
        let limit_bytes = held_max - u64::from(max_background) * request_bytes;
        let gate_bytes = limit_bytes / 5 * 3;
        let high_water_bytes = limit_bytes / 2;
        Limits {
            max_write_bytes: max_write_bytes as u32,
            max_background,
            limit_bytes,
            gate_bytes,
            high_water_bytes,
        }
    }
}

/// Who waits for memory.
pub(super) struct Room {
    admission: Mutex<Admission<Reply<u32>>>,
    starved: Mutex<Starved>,
    /// Mirrors whether `starved` has writes, for the fast path.
    any_starved: AtomicBool,
    served: Condvar,
    pressed: AtomicBool,
    /// What comes in a moment, when memory fills so fast that it will be scarce soon; else 0.
    soon_bytes: AtomicU64,
    finishing: AtomicBool,
}

#[derive(Default)]
struct Starved {
    writes: VecDeque<Write>,
    bytes: usize,
}

impl Room {
    pub(super) fn new(limits: &Limits) -> Room {
        let share_bytes = SHARE_BYTES.min(limits.limit_bytes / 16);
        Room {
            admission: Mutex::new(Admission::new(limits.limit_bytes, share_bytes)),
            starved: Mutex::default(),
            any_starved: AtomicBool::new(false),
            served: Condvar::new(),
            pressed: AtomicBool::new(false),
            soon_bytes: AtomicU64::new(0),
            finishing: AtomicBool::new(false),
        }
    }

    pub(super) fn is_starved(&self) -> bool {
        self.any_starved.load(Ordering::Acquire)
    }

    pub(super) fn is_pressed(&self) -> bool {
        self.pressed.load(Ordering::Relaxed)
    }

    pub(super) fn waiting(&self) -> u64 {
        let starved = self.starved.lock().expect("no panics under this lock").writes.len();
        let parked = self.admission.lock().expect("no panics under this lock").waiting();
        (starved + parked) as u64
    }

    pub(super) fn oldest_wait_ms(&self) -> Option<u64> {
        let admission = self.admission.lock().expect("no panics under this lock");
        admission.oldest_wait_ms(boottime_ms())
    }
}

impl Filesystem {
    /// Bytes of the arena in use.
    pub(super) fn held_bytes(&self) -> u64 {
        self.slots.held() as u64 * u64::from(self.arena.segment_bytes())
    }

    /// Replies to a write whose bytes are in the arena: now, or when there is room again.
    pub(super) fn acknowledge(&self, node: &Node, len: usize, reply: Reply<u32>) {
        let held_bytes = self.held_bytes();
        self.note_held(held_bytes, 0);
        self.note_pressure(held_bytes);
        let (file, bytes) = (FileId(node.id()), len as u64);
        let ticket: Reply<u32> = Box::new(move |result| reply(result.map(|_: u32| len as u32)));
        let mut admission = self.room.admission.lock().expect("no panics under this lock");
        let admitted = admission.offer(file, bytes, held_bytes, boottime_ms(), ticket);
        drop(admission);
        match admitted {
            Some(reply) => reply(Ok(0)),
            // Memory may have come back between the look at it and the parking.
            None => self.grant(),
        }
    }

    /// Parks a write that found no segment.
    pub(super) fn starve(&self, write: Write) {
        let mut starved = self.room.starved.lock().expect("no panics under this lock");
        while starved.bytes > 0 && starved.bytes + write.bytes.len() > STARVED_BYTES_MAX {
            starved = self.room.served.wait(starved).expect("no panics under this lock");
        }
        starved.bytes += write.bytes.len();
        starved.writes.push_back(write);
        self.room.any_starved.store(true, Ordering::Release);
        drop(starved);
        self.note_pressure(self.held_bytes());
        self.feed_starved();
        self.refuse_starved();
    }

    /// Memory came back, of `bytes` that were stored: those who wait get it.
    pub(super) fn room_made(&self, bytes: u64) {
        if self.room.is_starved() {
            self.feed_starved();
        }
        let held_bytes = self.held_bytes();
        self.note_held(held_bytes, bytes);
        self.note_pressure(held_bytes);
        self.grant();
    }

    fn feed_starved(&self) {
        loop {
            let mut starved = self.room.starved.lock().expect("no panics under this lock");
            let Some(write) = starved.writes.pop_front() else {
                self.room.any_starved.store(false, Ordering::Release);
                return;
            };
            // Under the lock, so that writes of one file go in in their order.
            let took = self.try_write(&write.node, write.offset, &write.bytes, write.mtime);
            if took == Took::NoMemory {
                starved.writes.push_front(write);
                return;
            }
            starved.bytes -= write.bytes.len();
            drop(starved);
            self.room.served.notify_all();
            self.note_stall(write.since.elapsed());
            match took {
                Took::NoSpace => self.space_jobs.add(Job::Place(write)),
                _ => self.acknowledge(&write.node, write.bytes.len(), write.reply),
            }
        }
    }

    /// Answers the writes of one file that wait for room; their bytes stay in the arena.
    pub(super) fn refuse_parked(&self, file: FileId, code: i32) {
        let mut refused: Vec<Granted<Reply<u32>>> = Vec::new();
        let mut admission = self.room.admission.lock().expect("no panics under this lock");
        admission.refuse(file, boottime_ms(), &mut refused);
        drop(admission);
        refused.into_iter().for_each(|refused| (refused.ticket)(Err(errno(code))));
    }

    /// Answers the writes that found no segment, when none can come free: their bytes are not
    /// taken.
    pub(super) fn refuse_starved(&self) {
        let Some(code) = self.undrainable() else { return };
        let mut starved = self.room.starved.lock().expect("no panics under this lock");
        let refused = std::mem::take(&mut starved.writes);
        starved.bytes = 0;
        self.room.any_starved.store(false, Ordering::Release);
        drop(starved);
        self.room.served.notify_all();
        refused.into_iter().for_each(|write| (write.reply)(Err(errno(code))));
    }

    fn grant(&self) {
        let mut granted: Vec<Granted<Reply<u32>>> = Vec::new();
        let mut admission = self.room.admission.lock().expect("no panics under this lock");
        if admission.waiting() == 0 {
            return;
        }
        admission.grant(self.held_bytes(), boottime_ms(), &mut granted);
        drop(admission);
        for grant in granted {
            self.note_stall(Duration::from_millis(grant.waited_ms));
            (grant.ticket)(Ok(0));
        }
    }

    /// A WRITE, or a program about to write, was held back so long.
    pub(super) fn note_stall(&self, waited: Duration) {
        let longest = &self.counters().longest_wait_ms;
        longest.fetch_max(waited.as_millis() as u64, Ordering::Relaxed);
        self.stats.note_stall(waited);
    }

    /// Whether memory fills faster than it comes back, from now on, and what comes in a moment. A disk
    /// that waits for whole chunks while all files fill alike loses the time until they are whole.
    pub(super) fn note_filling(&self, soon_bytes: Option<u64>) {
        let soon_bytes = soon_bytes.unwrap_or(0);
        let is_news = |was_bytes| (was_bytes > 0) != (soon_bytes > 0);
        if is_news(self.room.soon_bytes.load(Ordering::Relaxed))
            && is_news(self.room.soon_bytes.swap(soon_bytes, Ordering::Relaxed))
        {
            self.set_urgency();
        }
    }

    /// Above the high-water mark partial chunks are written too, until memory is well below it.
    pub(super) fn note_pressure(&self, held_bytes: u64) {
        let high = self.limits.high_water_bytes;
        let was = self.room.pressed.load(Ordering::Relaxed);
        let is = held_bytes > if was { high / 8 * 7 } else { high };
        if was != is && self.room.pressed.swap(is, Ordering::Relaxed) != is {
            self.set_urgency();
        }
    }

    /// From now on everything is written as soon as possible: the mount is to end.
    pub fn finish(&self) {
        self.room.finishing.store(true, Ordering::Relaxed);
        self.set_urgency();
    }

    /// Whether the mount is to end.
    pub(super) fn is_finishing(&self) -> bool {
        self.room.finishing.load(Ordering::Relaxed)
    }

    /// The mount stays after all.
    pub fn resume(&self) {
        self.room.finishing.store(false, Ordering::Relaxed);
        self.set_urgency();
    }

    /// Tells the schedulers what makes files be written, and what a whole chunk is.
    pub(super) fn set_urgency(&self) {
        let stripe_bytes = self.config.stripe_bytes.unwrap_or(0);
        let soon_bytes = self.room.soon_bytes.load(Ordering::Relaxed);
        for (_, device) in self.devices.read().expect("no panics under this lock").iter() {
            let urgency = if self.room.finishing.load(Ordering::Relaxed) {
                Urgency::Everything
            } else if self.room.pressed.load(Ordering::Relaxed) {
                Urgency::Pressure
            } else if soon_bytes > 0 {
                Urgency::Filling(Filling {
                    chunk_bytes: device.chunk.bytes(),
                    least_bytes: stripe_bytes.max(FILLING_BYTES_MIN),
                    soon_bytes,
                })
            } else {
                Urgency::Normal
            };
            device.queue.with(|scheduler| scheduler.set_urgency(urgency));
            device.queue.wake_all();
        }
    }

    /// Counts a request of the kernel.
    pub fn count_request(&self) {
        Counters::add(&self.counters().requests, 1);
    }
}
