//! Engines that do not answer: another process or another machine keeps the backing files, and may
//! hang, be cut off, and come back.
//!
//! While an outage is shorter than `--patience` no program hears of it: close(2) says yes, since the
//! bytes are kept and tried again, and fsync(2) waits. After that it is a failure of every file
//! that has bytes which the engine was asked to take in vain, and `failing` says what that means.
//!
//! A thread that asks such an engine may never come back. So requests are answered by threads of two
//! pools that grow, names and attributes by one, bytes by the other: writes go on while lookups hang.
//! Rejected: to do so only while the circuit is open. The request that finds out is the one that hangs.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use super::Filesystem;
use super::data::FileState;
use super::nodes::Node;
use crate::clock::boottime_ms;
use crate::drain::{Crew, LaneQueue, Outage, PATIENCE};
use crate::schedule::FileId;
use crate::schedule::circuit::Backoff;

/// Between two tries of a file while the engine answers others.
const FIRST_PAUSE_MS: u64 = 250;
const LONGEST_PAUSE_MS: u64 = 10_000;

/// Which filesystems are another process's or another machine's. Asked on threads that must not wait.
pub trait Engines: Send + Sync {
    /// Of the files on this device.
    fn is_elsewhere(&self, dev: u64) -> bool;

    /// The backing directory's, or one that is mounted below it.
    fn is_any_below(&self) -> bool;

    /// Whether inode numbers in the backing directory are those of names, and not of files: another one
    /// for the same file when its engine's client has forgotten the name.
    fn number_names(&self) -> bool;

    /// What may be the backing directory in another mount of its engine than that on the device `lost`,
    /// the first one that `is_it` takes for it. May wait for the engine.
    fn open_again(&self, lost: u64, is_it: &dyn Fn(BorrowedFd) -> bool) -> Option<OwnedFd>;
}

/// Pauses between tries of one file, or of one sync.
pub(super) fn pauses(seed: u64) -> Backoff {
    Backoff::new(FIRST_PAUSE_MS, LONGEST_PAUSE_MS, seed)
}

impl Filesystem {
    /// Whether what is below may hang while this machine works.
    pub fn may_hang(&self) -> bool {
        self.may_hang.load(Ordering::Relaxed)
    }

    /// Runs `job`, which asks what is below for names or attributes, on a thread that may wait for it.
    pub fn on_askers(&self, job: impl FnOnce() + Send + 'static) {
        self.askers.run(job);
    }

    pub(super) fn note_may_hang(&self) {
        self.may_hang.store(true, Ordering::Relaxed);
        self.pool.may_grow();
        self.askers.may_grow();
    }

    /// Who writes to a device.
    pub(super) fn crew(&self, dev: u64) -> Crew {
        let is_elsewhere = self.engines.is_elsewhere(dev);
        if is_elsewhere {
            self.note_may_hang();
        }
        Crew { lanes: self.lanes_of(dev), patience: is_elsewhere.then_some(PATIENCE) }
    }

    /// Lets other threads write in the place of those whose writes are late, and tells who waits of
    /// an outage that lasts. To be called every now and then; waits for no disk.
    pub fn look_at_engines(&self) {
        let now_ms = boottime_ms();
        let devices = self.devices.read().expect("no panics under this lock").clone();
        for (_, device) in devices {
            device.queue.expire(now_ms);
            self.fail_hanging(&device.queue, now_ms);
            let Some(outage) = device.queue.engine().outage else { continue };
            self.look_again_after(outage.errno);
            let is_over = outage.last_ms - outage.since_ms >= self.config.patience_ms;
            if is_over || self.is_finishing() {
                self.fail_unstored(&device.queue, &outage);
            }
        }
    }

    /// A write that does not come back is a failure of its file when patience is over, whatever the
    /// engine does with others; while the mount ends as soon as it is late. Without patience it is
    /// waited for, as for a disk.
    fn fail_hanging(&self, queue: &Arc<LaneQueue>, now_ms: u64) {
        let patience_ms = self.config.patience_ms;
        if patience_ms == 0 || queue.engine().late == 0 {
            return;
        }
        let late_ms = if self.is_finishing() { 0 } else { patience_ms };
        let bound_ms = late_ms.max(PATIENCE.deadline_ms);
        for work in queue.at_work().into_iter().flatten() {
            let Ok(node) = self.node(work.file.0) else { continue };
            let Some(data) = node.data_if_any() else { continue };
            let is_hanging = now_ms.saturating_sub(work.since_ms) >= bound_ms;
            // Held by somebody who waits for the engine: the next time.
            let Some(mut state) = data.try_lock().ok().filter(|_| is_hanging) else { continue };
            match &mut state.failure {
                // It is the same try.
                Some(failure) if failure.since_ms <= work.since_ms => failure.last_ms = now_ms,
                _ => {
                    let (since_ms, errno) = (work.since_ms, libc::ETIMEDOUT);
                    let outage = Outage { since_ms, last_ms: now_ms, errno, next_try_ms: None };
                    state.note_outage(&outage, patience_ms);
                }
            }
            self.tell_of_outage(&node, state);
        }
    }

    /// What the engine was asked to take in vain counts as refused, file by file.
    fn fail_unstored(&self, queue: &Arc<LaneQueue>, outage: &Outage) {
        let nodes: Vec<Arc<Node>> = self.nodes.read().values().cloned().collect();
        for node in nodes {
            let Some(data) = node.data_if_any() else { continue };
            // Held by somebody who waits for the engine: the next time.
            let Ok(mut state) = data.try_lock() else { continue };
            let is_meant = Arc::ptr_eq(&data.queue, queue)
                && state.buffer.oldest_ms().is_some_and(|born_ms| born_ms <= outage.last_ms)
                && state.failure.as_ref().is_none_or(|failure| failure.last_ms < outage.last_ms);
            if !is_meant {
                continue;
            }
            state.note_outage(outage, self.config.patience_ms);
            self.tell_of_outage(&node, state);
        }
    }

    /// Those who wait for the file hear of its failure, if it is to be told.
    fn tell_of_outage(&self, node: &Node, mut state: MutexGuard<'_, FileState>) {
        let Some(failure) = &state.failure else { return };
        let errno = failure.errno;
        let (is_told, is_lasting) = (failure.is_told(), failure.is_lasting());
        self.note_failing(node);
        self.release_waiters(&mut state, is_told.then_some(errno));
        drop(state);
        self.refuse_waiting(FileId(node.id()), is_lasting.then_some(errno));
    }

    /// Tries again what failed for an outage, as long as patience lasts. Waits; on the pool.
    pub(super) fn through_outage(
        &self,
        queue: &LaneQueue,
        mut attempt: impl FnMut() -> std::io::Result<()>,
    ) -> std::io::Result<()> {
        let begun_ms = boottime_ms();
        let mut pauses = pauses(begun_ms);
        loop {
            let result = attempt();
            let Err(error) = &result else { return result };
            let is_outage = queue.is_outage(crate::backing::errno(error));
            if !is_outage || boottime_ms() - begun_ms >= self.config.patience_ms {
                return result;
            }
            std::thread::sleep(Duration::from_millis(pauses.next_pause_ms()));
        }
    }
}

#[cfg(test)]
/// Everything is on this machine, or nothing is.
pub(super) struct Elsewhere(pub(super) bool);

#[cfg(test)]
impl Engines for Elsewhere {
    fn is_elsewhere(&self, _: u64) -> bool {
        self.0
    }

    fn is_any_below(&self) -> bool {
        self.0
    }

    fn number_names(&self) -> bool {
        false
    }

    fn open_again(&self, _: u64, _: &dyn Fn(BorrowedFd) -> bool) -> Option<OwnedFd> {
        None
    }
}
