//! The words that keeper and worker exchange. Each is written by one side only; a write to one
//! of the two eventfds follows each store, so that the other side looks.

use std::sync::atomic::{AtomicI32, AtomicU32, AtomicU64, Ordering};

/// What the worker is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Phase {
    /// Attaching to the kernel, rebuilding from the arena.
    Starting = 0,
    /// Requests are answered.
    Serving = 1,
    /// The mount is gone; the last bytes are being stored.
    Ending = 2,
}

/// How the worker asks the keeper to unmount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum UnmountMode {
    /// As umount(2): EBUSY while files are open.
    Plain = 1,
    /// MNT_DETACH: the name goes at once, open files go on until they are closed.
    Lazy = 2,
}

/// No answer in [`ControlPage::unmount_result`]; answers are an errno plus one, so that a fresh
/// page holds none.
const PENDING: i32 = 0;

/// First page of the arena.
#[repr(C)]
#[derive(Debug)]
pub struct ControlPage {
    phase: AtomicU32,
    finish: AtomicU32,
    finish_ordered: AtomicU32,
    reported: AtomicU32,
    unmount: AtomicU32,
    unmount_result: AtomicI32,
    keeper_pid: AtomicI32,
    worker_pid: AtomicI32,
    worker_restarts: AtomicU64,
    mounted_at_ms: AtomicU64,
    bdi_tuned: AtomicU32,
    ballast_fd_plus_one: AtomicI32,
    beats: AtomicU64,
    backlog_bytes: AtomicU64,
}

impl ControlPage {
    /// What the worker is doing.
    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            1 => Phase::Serving,
            2 => Phase::Ending,
            _ => Phase::Starting,
        }
    }

    /// Worker: says what it is doing.
    pub fn set_phase(&self, phase: Phase) {
        self.phase.store(phase as u32, Ordering::Release);
    }

    /// Keeper: asks the worker to drain and end the mount.
    pub fn request_finish(&self) {
        self.finish_ordered.store(1, Ordering::Release);
        self.finish.store(1, Ordering::Release);
    }

    /// Keeper: whether it, or one before it, asked for the end. Every worker is to be told, as
    /// each takes the request once.
    pub fn finish_ordered(&self) -> bool {
        self.finish_ordered.load(Ordering::Acquire) != 0
    }

    /// Keeper: notes that whoever started the mount was told that it is there.
    pub fn set_reported(&self) {
        self.reported.store(1, Ordering::Release);
    }

    /// Whether anybody knows that the mount is there.
    pub fn is_reported(&self) -> bool {
        self.reported.load(Ordering::Acquire) != 0
    }

    /// Worker: takes the keeper's request for the end, once.
    pub fn take_finish_request(&self) -> bool {
        self.finish.swap(0, Ordering::AcqRel) != 0
    }

    /// Worker: asks the keeper to unmount.
    pub fn request_unmount(&self, mode: UnmountMode) {
        self.unmount_result.store(PENDING, Ordering::Relaxed);
        self.unmount.store(mode as u32, Ordering::Release);
    }

    /// Keeper: takes the worker's request, once.
    pub fn take_unmount_request(&self) -> Option<UnmountMode> {
        match self.unmount.swap(0, Ordering::AcqRel) {
            1 => Some(UnmountMode::Plain),
            2 => Some(UnmountMode::Lazy),
            _ => None,
        }
    }

    /// Keeper: answers the request; `errno` is 0 for success.
    pub fn answer_unmount(&self, errno: i32) {
        self.unmount_result.store(errno + 1, Ordering::Release);
    }

    /// Worker: takes the keeper's answer to its request, once; 0 is success, else an errno.
    pub fn take_unmount_result(&self) -> Option<i32> {
        match self.unmount_result.swap(PENDING, Ordering::AcqRel) {
            PENDING => None,
            answer => Some(answer - 1),
        }
    }

    /// Keeper: notes its process.
    pub fn set_keeper_pid(&self, pid: i32) {
        self.keeper_pid.store(pid, Ordering::Relaxed);
    }

    /// Worker: notes its process, before it answers anybody.
    pub fn set_worker_pid(&self, pid: i32) {
        self.worker_pid.store(pid, Ordering::Relaxed);
    }

    /// Process ids of keeper and worker.
    pub fn pids(&self) -> (i32, i32) {
        (self.keeper_pid.load(Ordering::Relaxed), self.worker_pid.load(Ordering::Relaxed))
    }

    /// Keeper: counts a start after a death.
    pub fn count_restart(&self) -> u64 {
        self.worker_restarts.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Starts after a death.
    pub fn worker_restarts(&self) -> u64 {
        self.worker_restarts.load(Ordering::Relaxed)
    }

    /// Keeper: CLOCK_BOOTTIME in milliseconds when the mount was made.
    pub fn set_mounted_at_ms(&self, now_ms: u64) {
        self.mounted_at_ms.store(now_ms, Ordering::Relaxed);
    }

    /// CLOCK_BOOTTIME in milliseconds when the mount was made.
    pub fn mounted_at_ms(&self) -> u64 {
        self.mounted_at_ms.load(Ordering::Relaxed)
    }

    /// Worker: notes the descriptor that holds disk space for what is buffered, for later workers.
    pub fn set_ballast_fd(&self, fd: Option<i32>) {
        self.ballast_fd_plus_one.store(fd.map_or(0, |fd| fd + 1), Ordering::Release);
    }

    /// The descriptor noted by [`ControlPage::set_ballast_fd`].
    pub fn ballast_fd(&self) -> Option<i32> {
        Some(self.ballast_fd_plus_one.load(Ordering::Acquire) - 1).filter(|fd| *fd >= 0)
    }

    /// Worker: a sign of life, with the acknowledged bytes that are not stored.
    pub fn beat(&self, backlog_bytes: u64) {
        self.backlog_bytes.store(backlog_bytes, Ordering::Relaxed);
        self.beats.fetch_add(1, Ordering::Relaxed);
    }

    /// Keeper: the number of signs of life so far, and the backlog that came with the last one.
    pub fn beats(&self) -> (u64, u64) {
        (self.beats.load(Ordering::Relaxed), self.backlog_bytes.load(Ordering::Relaxed))
    }

    /// Keeper: notes whether the kernel's dirty limits of the mount were tuned: 0, or the errno.
    pub fn set_bdi_errno(&self, errno: u32) {
        self.bdi_tuned.store(errno, Ordering::Relaxed);
    }

    /// 0 when the kernel's dirty limits of the mount were tuned, else the errno of trying.
    pub fn bdi_errno(&self) -> u32 {
        self.bdi_tuned.load(Ordering::Relaxed)
    }
}
