//! What all processes know: for each slot what was begun and what was acknowledged. Memory shared
//! by mapping a file outside the mount.
//!
//! Who changes a slot holds its lock, notes what it begins, does it, and notes that it was
//! acknowledged. A reader that finds acknowledged and begun the same, before and after, knows what
//! it has to see to the byte.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::record::Content;

pub const FILES: usize = 4;
pub const SLOTS: usize = 1024;

/// A lock is held during one call of the mount: longer means that it hangs.
pub const HANGS: Duration = Duration::from_secs(60);

/// All zeros at first: empty files.
#[repr(C)]
pub struct Slot {
    lock: AtomicU32,
    /// Truncations that took bytes of it, begun and ended: odd while one is under way.
    cuts: AtomicU32,
    begun: AtomicU64,
    acknowledged: AtomicU64,
}

/// What a reader may see.
#[derive(Clone, Copy, Debug)]
pub struct View {
    pub content: Content,
    pub cuts: u32,
}

impl Slot {
    pub fn try_lock(&self) -> bool {
        self.lock.compare_exchange(0, 1, Ordering::Acquire, Ordering::Relaxed).is_ok()
    }

    pub fn lock(&self) {
        let since = Instant::now();
        while !self.try_lock() {
            assert!(since.elapsed() < HANGS, "a call on the mount takes more than {HANGS:?}");
            std::thread::yield_now();
        }
    }

    pub fn unlock(&self) {
        self.lock.store(0, Ordering::Release);
    }

    pub fn begin(&self, content: Content) {
        self.begun.store(content.pack(), Ordering::SeqCst);
    }

    pub fn begin_cut(&self, content: Content) {
        self.cuts.fetch_add(1, Ordering::SeqCst);
        self.begin(content);
    }

    pub fn acknowledge_cut(&self) {
        self.acknowledge();
        self.cuts.fetch_add(1, Ordering::SeqCst);
    }

    pub fn acknowledge(&self) {
        self.acknowledged.store(self.begun.load(Ordering::SeqCst), Ordering::SeqCst);
    }

    /// At least this new is what a read from now on sees.
    pub fn acknowledged(&self) -> View {
        // First the cuts, here, and last, below: a cut between the two loads must show.
        let cuts = self.cuts.load(Ordering::SeqCst);
        View { content: Content::unpack(self.acknowledged.load(Ordering::SeqCst)), cuts }
    }

    /// At most this new is what a read until now has seen.
    pub fn begun(&self) -> View {
        let content = Content::unpack(self.begun.load(Ordering::SeqCst));
        View { content, cuts: self.cuts.load(Ordering::SeqCst) }
    }
}

/// One file of the mount.
#[repr(C)]
pub struct Shelf {
    /// Which name it has now.
    pub name: AtomicU64,
    pub slots: [Slot; SLOTS],
}

/// The shared memory.
#[repr(C)]
pub struct Board {
    pub files: [Shelf; FILES],
    /// Operations done, to tell a test that tests nothing.
    pub writes: AtomicU64,
    pub exact_reads: AtomicU64,
    pub raced_reads: AtomicU64,
    pub cuts: AtomicU64,
    pub renames: AtomicU64,
}

impl Board {
    /// Maps the board that `path` holds; made where it is not yet.
    pub fn open(path: &Path) -> &'static Board {
        let mut options = File::options();
        let file = options.read(true).write(true).create(true).truncate(false).open(path).unwrap();
        file.set_len(size_of::<Board>() as u64).unwrap();
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a fresh shared mapping, never unmapped, of a file of that size.
        let map = unsafe {
            let len = size_of::<Board>();
            libc::mmap(std::ptr::null_mut(), len, access, libc::MAP_SHARED, file.as_raw_fd(), 0)
        };
        assert_ne!(map, libc::MAP_FAILED);
        // SAFETY: only atomics, for which any bytes are valid, in page-aligned memory.
        unsafe { &*map.cast::<Board>() }
    }
}
