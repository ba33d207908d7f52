//! Disk space: what acknowledged bytes will take, and what is held for them.
//!
//! Every buffered block that may need one on the disk is *charged*; a write is acknowledged only
//! when what is *held* covers it. Held is a [`Ballast`]: blocks of an unlinked file on the same
//! filesystem, let go when a drain finds the disk full. Where there can be none, the filesystem's
//! own figure of free space is counted against, which another program may eat in between.
//!
//! What lies in a file's own reservation (`reserve`) is not charged.

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use crate::backing::{Ballast, copies_on_write, errno, fs_stats, sync_filesystem};
use crate::buffer::Slot;

/// Space is taken in units of this; no common filesystem has larger blocks by default.
pub(super) const BLOCK_BYTES: u64 = 4096;
/// Held ahead of need, so that hardly any write has to wait for the reservation of its space.
const AHEAD_BYTES: Range<u64> = 1 << 20..64 << 20;
/// At most such a part of what is free is held ahead.
const AHEAD_PART: u64 = 64;
/// Storing bytes takes blocks for lists of extents, too, and XFS starts a write only when the
/// longest path through its trees would find blocks.
const LISTS_BYTES: u64 = 512 << 10;
/// Each is told when all who asked before have been told, or served.
const REFUSALS_BEFORE_GIVING: u32 = 4;
const LISTS_PART: u64 = 64;

/// What the disk must have for so many bytes in whole blocks.
fn with_lists(bytes: u64) -> u64 {
    bytes + bytes / LISTS_PART + LISTS_BYTES
}

/// The blocks that a range of bytes touches, in bytes.
pub(super) fn whole_blocks(range: &Range<u64>) -> Range<u64> {
    range.start / BLOCK_BYTES * BLOCK_BYTES..range.end.next_multiple_of(BLOCK_BYTES)
}

/// What each slot of the arena is charged with.
pub(super) struct Charges(Box<[AtomicU32]>);

impl Charges {
    pub(super) fn new(slots: u32) -> Charges {
        Charges((0..slots).map(|_| AtomicU32::new(0)).collect())
    }

    /// Sets the charge of a slot, under the lock of the file whose bytes it holds.
    pub(super) fn set(&self, space: &Space, slot: Slot, bytes: u64) {
        let before = u64::from(self.0[slot.0 as usize].swap(bytes as u32, Ordering::Relaxed));
        if bytes > before {
            space.charged.fetch_add(bytes - before, Ordering::AcqRel);
        } else {
            space.uncharge(before - bytes);
        }
    }
}

enum Means {
    /// Not needed so far.
    Unknown,
    Ballast(Ballast),
    /// The filesystem cannot hold space for us: its figure of free space when it was last asked.
    Counted,
}

/// One backing filesystem.
pub(super) struct Space {
    charged: AtomicU64,
    held: AtomicU64,
    /// Stored since `held` was last compared with what is free, where that matters: where space is
    /// only counted, and where some is to stay free, which what is stored takes before the ballast.
    spent: AtomicU64,
    /// Stored since a sync made the filesystem's figures true.
    unseen: AtomicU64,
    /// What of `held` is in a ballast; mirrored for those who may not wait for the disk.
    ballast_bytes: AtomicU64,
    /// Allocated ahead in files, beyond all that is buffered of them.
    ahead_bytes: AtomicU64,
    /// Somebody is about to look whether more should be held.
    look_asked: AtomicBool,
    /// A write was refused since space was found last.
    is_full: AtomicBool,
    /// How often a run was refused since then, while nothing was let go.
    refusals: AtomicU32,
    /// The filesystem was asked and has not answered.
    is_asked: AtomicBool,
    min_free_bytes: u64,
    means: Mutex<Means>,
}

impl Space {
    pub(super) fn new(min_free_bytes: u64) -> Space {
        Space {
            charged: AtomicU64::new(0),
            held: AtomicU64::new(0),
            spent: AtomicU64::new(0),
            unseen: AtomicU64::new(0),
            ballast_bytes: AtomicU64::new(0),
            ahead_bytes: AtomicU64::new(0),
            look_asked: AtomicBool::new(false),
            is_full: AtomicBool::new(false),
            refusals: AtomicU32::new(0),
            is_asked: AtomicBool::new(false),
            min_free_bytes,
            means: Mutex::new(Means::Unknown),
        }
    }

    /// Takes over what a former worker held.
    pub(super) fn adopt(&self, ballast: Ballast) {
        self.note_ballast(&ballast);
        *self.means.lock().expect("no panics under this lock") = Means::Ballast(ballast);
    }

    fn note_ballast(&self, ballast: &Ballast) {
        self.held.store(ballast.held_bytes(), Ordering::Release);
        self.ballast_bytes.store(ballast.held_bytes(), Ordering::Relaxed);
    }

    /// Whether the filesystem may be asked: not while it has not answered. To be told its end.
    pub(super) fn begin_asking(&self) -> bool {
        !self.is_asked.swap(true, Ordering::AcqRel)
    }

    pub(super) fn end_asking(&self) {
        self.is_asked.store(false, Ordering::Release);
    }

    /// The filesystem does not say how much room there is: it counts as enough until it does. Whether
    /// it has not said meanwhile.
    pub(super) fn assume_room(&self) -> bool {
        self.held.store(ENDLESS, Ordering::Release);
        self.is_asked.load(Ordering::Acquire)
    }

    /// The filesystem cannot be reached, so that it does not say: there is enough for `bytes` more.
    pub(super) fn assume_room_for(&self, bytes: u64) {
        let spent = self.spent.load(Ordering::Acquire);
        let charged = self.charged.load(Ordering::Acquire);
        self.held.fetch_max(with_lists(charged + bytes) + spent, Ordering::AcqRel);
    }

    /// Charges `bytes` if what is held covers them.
    pub(super) fn try_charge(&self, bytes: u64) -> bool {
        let held = self.left();
        let is_held = |charged: &u64| with_lists(*charged) <= held;
        let charge = |charged: u64| Some(charged + bytes).filter(is_held);
        bytes == 0 || self.charged.fetch_update(Ordering::AcqRel, Ordering::Acquire, charge).is_ok()
    }

    /// What may still be charged, and what is.
    fn left(&self) -> u64 {
        let spent = self.spent.load(Ordering::Acquire);
        self.held.load(Ordering::Acquire).saturating_sub(spent)
    }

    /// A write is refused: whether that is to be told loudly, or was for the last one already.
    pub(super) fn is_news_of_refusal(&self) -> bool {
        !self.is_full.swap(true, Ordering::Relaxed)
    }

    pub(super) fn uncharge(&self, bytes: u64) {
        let before = self.charged.fetch_sub(bytes, Ordering::AcqRel);
        debug_assert!(before >= bytes, "{before} bytes are charged, {bytes} are taken off");
    }

    /// Whether it is time to hold more, or less; says so once until [`Space::look`] is called.
    pub(super) fn wants_look(&self) -> bool {
        let (charged, held) = (self.charged.load(Ordering::Relaxed), self.left());
        let is_low = held < with_lists(charged) + AHEAD_BYTES.start / 2;
        let ballast_bytes = self.ballast_bytes.load(Ordering::Relaxed);
        let is_high = ballast_bytes > 4 * (charged + AHEAD_BYTES.end);
        (is_low || is_high) && !self.look_asked.swap(true, Ordering::AcqRel)
    }

    /// Holds what is charged, `need_bytes` that are about to be, and somewhat more, as far as the
    /// disk has it. `dir` is a directory of the filesystem. Waits for the disk.
    pub(super) fn look(&self, need_bytes: u64, dir: BorrowedFd) -> io::Result<()> {
        self.look_asked.store(false, Ordering::Release);
        let mut means = self.means.lock().expect("no panics under this lock");
        let counted = |error: io::Error| {
            log::info!("disk space cannot be held, only counted: {error}");
            Means::Counted
        };
        if let Means::Unknown = *means {
            *means = Ballast::create(dir).map_or_else(counted, Means::Ballast);
        }
        // First: what is stored from here on may be counted twice, which is on the safe side.
        let spent = self.spent.swap(0, Ordering::AcqRel);
        self.make_free_bytes_true(spent, dir)?;
        if let Means::Ballast(ballast) = &mut *means {
            let charged = self.charged.load(Ordering::Acquire) + need_bytes;
            match self.resize(ballast, charged) {
                Err(error) if errno(&error) == libc::EOPNOTSUPP => *means = counted(error),
                result => {
                    self.note_ballast(ballast);
                    return result;
                }
            }
        }
        let free = free_bytes(dir)?.saturating_sub(self.min_free_bytes);
        self.held.store(free, Ordering::Release);
        Ok(())
    }

    /// btrfs counts what was taken when it commits; that matters where some is to stay free and
    /// that is near.
    fn make_free_bytes_true(&self, spent: u64, dir: BorrowedFd) -> io::Result<()> {
        if self.min_free_bytes == 0 || !copies_on_write(dir) {
            return Ok(());
        }
        let unseen = self.unseen.fetch_add(spent, Ordering::Relaxed) + spent;
        if unseen > 0 && free_bytes(dir)? < self.min_free_bytes + unseen + AHEAD_BYTES.end {
            sync_filesystem(dir)?;
            self.unseen.store(0, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Bytes were stored.
    pub(super) fn stored(&self, bytes: u64) {
        if self.min_free_bytes > 0 || self.ballast_bytes.load(Ordering::Relaxed) == 0 {
            self.spent.fetch_add(bytes, Ordering::AcqRel);
        }
    }

    /// As near as possible to what is charged and something ahead.
    fn resize(&self, ballast: &mut Ballast, charged: u64) -> io::Result<()> {
        let free = free_bytes(ballast.as_fd())?;
        let missing = self.min_free_bytes.saturating_sub(free);
        if missing > 0 {
            // What was stored took what is to stay free. Never what acknowledged bytes need.
            let owed = with_lists(self.charged.load(Ordering::Acquire));
            ballast.resize(
                ballast.held_bytes().saturating_sub(missing).max(owed.min(ballast.held_bytes())),
            )?;
        }
        let free = free.saturating_sub(self.min_free_bytes);
        let ahead =
            ((free + ballast.held_bytes()) / AHEAD_PART).clamp(AHEAD_BYTES.start, AHEAD_BYTES.end);
        let least = with_lists(charged);
        for len in [least + ahead, least] {
            if len <= ballast.held_bytes() {
                // Less only when it is much less: it may be needed again in a moment.
                return if ballast.held_bytes() / 4 > len { ballast.resize(len) } else { Ok(()) };
            }
            if len - ballast.held_bytes() > free {
                continue;
            }
            match ballast.resize(len) {
                Ok(()) => {
                    self.is_full.store(false, Ordering::Relaxed);
                    self.refusals.store(0, Ordering::Relaxed);
                    return Ok(());
                }
                Err(error) if matches!(errno(&error), libc::ENOSPC | libc::EDQUOT) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Whether `bytes` more may be taken from the disk.
    pub(super) fn leaves_free(&self, file: BorrowedFd, bytes: u64) -> bool {
        self.room_bytes(file) >= bytes
    }

    /// What may be taken from the disk without going below what is to stay free, and without taking
    /// what was let go for bytes that are being stored; 0 when it is not known.
    pub(super) fn room_bytes(&self, file: BorrowedFd) -> u64 {
        let charged = self.charged.load(Ordering::Acquire);
        let owed = with_lists(charged).saturating_sub(self.left());
        free_bytes(file).map_or(0, |free| free.saturating_sub(self.min_free_bytes + owed))
    }

    /// Whether a write was refused since space was found last.
    pub(super) fn is_full(&self) -> bool {
        self.is_full.load(Ordering::Relaxed)
    }

    /// Blocks allocated ahead of all that is buffered: `before` of one file become `now`.
    pub(super) fn note_ahead(&self, before: u64, now: u64) {
        self.ahead_bytes.fetch_add(now.wrapping_sub(before), Ordering::Relaxed);
    }

    /// The disk is full, which a write to `file` was told: whether somebody else may be about to be
    /// told, so that the write is to be tried again before anything is let go. Where blocks are copied
    /// on write, what is let go can be used only after a commit, and goes to who waits for that first:
    /// a program that has not met the end yet would take it all.
    pub(super) fn may_be_taken(&self, file: BorrowedFd) -> bool {
        copies_on_write(file)
            && self.refusals.fetch_add(1, Ordering::Relaxed) < REFUSALS_BEFORE_GIVING
    }

    /// The disk is full: lets `bytes` of what is held go. `false` when nothing is held.
    pub(super) fn give(&self, bytes: u64) -> bool {
        let mut means = self.means.lock().expect("no panics under this lock");
        let Means::Ballast(ballast) = &mut *means else { return false };
        if ballast.held_bytes() == 0 {
            return false;
        }
        let resized = ballast.resize(ballast.held_bytes().saturating_sub(bytes));
        self.note_ballast(ballast);
        if let Err(error) = &resized {
            log::warn!("cannot let go of held space: {error}");
        }
        resized.is_ok()
    }

    /// Lets everything go: the mount ends.
    pub(super) fn give_all(&self) {
        self.give(u64::MAX);
    }

    /// Descriptor of the ballast, for a later worker.
    pub(super) fn ballast_descriptor(&self) -> Option<i32> {
        match &*self.means.lock().expect("no panics under this lock") {
            Means::Ballast(ballast) => Some(ballast.as_fd().as_raw_fd()),
            _ => None,
        }
    }

    #[cfg(test)]
    pub(super) fn holds_any(&self) -> bool {
        self.held.load(Ordering::Acquire) > 0
    }

    /// Bytes that the disk shows as used and that nothing is to be stored in.
    pub(super) fn unused_bytes(&self) -> u64 {
        let charged = self.charged.load(Ordering::Relaxed);
        let ballast_bytes = self.ballast_bytes.load(Ordering::Relaxed).saturating_sub(charged);
        ballast_bytes + self.ahead_bytes.load(Ordering::Relaxed)
    }
}

/// More than there is, and far from an overflow.
const ENDLESS: u64 = u64::MAX / 4;

fn free_bytes(fd: BorrowedFd) -> io::Result<u64> {
    let stats = fs_stats(fd)?;
    // Some filesystems in userspace and on networks do not say.
    let says_nothing = stats.blocks == 0;
    Ok(if says_nothing { ENDLESS } else { stats.bavail * u64::from(stats.frsize) })
}
