//! Storing what was written so far, for somebody who asks: `drain`.

use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, unbounded};

use super::nodes::Node;
use super::quiet::Until;
use super::{Filesystem, Reply};
use crate::backing::{self, SyncKind};
use crate::clock::boottime_ms;
use crate::schedule::FileId;

/// Files that are to be stored, up to what had arrived when it was asked for. What comes later need
/// not be waited for: a file that is written all the time is never clean.
pub struct Draining {
    asked_ms: u64,
    /// With how often each was refused until then.
    pending: Vec<(Arc<Node>, u32)>,
    /// How many are being synced, and where they say that they are.
    syncing: usize,
    synced: (Sender<bool>, Receiver<bool>),
    /// Of one file only: nothing else is synced at the end.
    is_one_file: bool,
    failed: Vec<u64>,
}

impl Draining {
    /// Whether nothing is left to wait for.
    pub fn is_over(&self) -> bool {
        self.pending.is_empty() && self.syncing == 0
    }

    /// The files that could not be stored or synced, by node id.
    pub fn failed(&self) -> &[u64] {
        &self.failed
    }
}

impl Filesystem {
    /// Begins to store one file, or all that have bytes to be stored. `Err(ESTALE)` for a file that
    /// is not known, `EINVAL` for what is no regular file.
    pub fn begin_draining(&self, id: Option<u64>) -> std::io::Result<Draining> {
        let nodes = match id {
            Some(id) => {
                let node = self.node(id)?;
                self.data(&node)?;
                vec![node]
            }
            None => self.nodes.read().values().cloned().collect(),
        };
        let mut draining = Draining {
            asked_ms: boottime_ms(),
            pending: Vec::new(),
            syncing: 0,
            synced: unbounded(),
            is_one_file: id.is_some(),
            failed: Vec::new(),
        };
        for node in nodes {
            let Some(data) = node.data_if_any() else { continue };
            let attempts = match data.lock_soon() {
                Some(state) if state.buffer.is_clean() && id.is_none() => continue,
                Some(state) => state.failure.as_ref().map_or(0, |failure| failure.attempts),
                // It is busy with something.
                None => 0,
            };
            data.queue.with(|scheduler| {
                scheduler.demand(FileId(node.id()));
                scheduler.end_delay(FileId(node.id()));
            });
            data.queue.wake_all();
            draining.pending.push((node, attempts));
        }
        Ok(draining)
    }

    /// Has the kernel hand over what programs have written to files that are open, and says when it
    /// has. Its own syncfs(2) begins with all of it, and waits for none where the filesystem is FUSE
    /// (`AS_NO_DATA_INTEGRITY` of Linux 6.18); what is made invalid is waited for.
    pub fn hand_over(&self) -> Receiver<()> {
        let (handed, over) = unbounded();
        let me = self.arc();
        self.pool.run(move || {
            me.open_for_data().into_iter().for_each(|id| me.drop_pages(id));
            // Whoever asked may have gone.
            let _ = handed.send(());
        });
        over
    }

    /// Has the kernel forget what it has cached of closed files while there is something to be written:
    /// a mount is gone when all its pages are free, which takes a processor a second for a few GB.
    pub fn free_cache(&self) {
        let me = self.arc();
        self.pool.run(move || {
            let closed = |node: &&Arc<Node>| me.arena.nodes().open(node.slot) == 0;
            let nodes: Vec<_> = me.nodes.read().values().filter(closed).cloned().collect();
            let is_wanted = || me.is_finishing() && me.backlog_bytes() > 0;
            let files = nodes.iter().filter(|node| node.is_regular()).take_while(|_| is_wanted());
            files.for_each(|node| me.drop_pages(node.id()));
        });
    }

    /// Looks how far it got; to be called until [`Draining::is_over`]. Does not wait.
    pub fn go_on_draining(&self, draining: &mut Draining) {
        let asked_ms = draining.asked_ms;
        let mut pending = std::mem::take(&mut draining.pending);
        pending.retain(|(node, attempts)| {
            let Some(data) = node.data_if_any() else { return false };
            let Some(state) = data.lock_soon() else { return true };
            if state.was_refused_since(*attempts) {
                draining.failed.push(node.id());
                return false;
            }
            if state.buffer.oldest_ms().is_some_and(|born_ms| born_ms <= asked_ms) {
                return true;
            }
            drop(state);
            draining.syncing += 1;
            self.sync_when_idle(node, *attempts, draining.synced.0.clone());
            false
        });
        draining.pending = pending;
        for is_synced in draining.synced.1.clone().try_iter() {
            draining.syncing -= 1;
            if !is_synced {
                // Which one it was is listed with the mount's failing files.
                draining.failed.extend(self.failing_files().iter().map(|file| file.id));
            }
        }
    }

    /// What is left of the bytes asked for is in flight: it is synced when they are there, unless they
    /// were refused. Whatever `--fsync` says.
    fn sync_when_idle(&self, node: &Arc<Node>, attempts: u32, synced: Sender<bool>) {
        let (me, file) = (self.arc(), node.clone());
        self.when_quiet(node, Until::Idle, move |_| {
            if file.data_if_any().is_some_and(|data| data.lock().was_refused_since(attempts)) {
                let _ = synced.send(false);
                return;
            }
            let reply: Reply<()> = Box::new(move |result| {
                // Whoever asked may have gone.
                let _ = synced.send(result.is_ok());
            });
            me.sync_clean(&file, SyncKind::All, reply);
        });
    }

    /// The end of it: what was stored before, and names, are synced, too. Waits for the disk.
    pub fn end_draining(&self, draining: &Draining) -> std::io::Result<()> {
        if draining.is_one_file { Ok(()) } else { backing::sync_filesystem(self.root()) }
    }
}
