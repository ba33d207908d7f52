//! Stable storage: what of a file is not known to be on it, and who waits for that.
//!
//! A file counts as not synced from the moment this worker meets it: what a former worker, or this
//! one before the kernel forgot the file, left in the page cache of the backing filesystem is not
//! known. A change is noted *after* it was made, so that a sync that began before cannot clear it.
//!
//! One sync of a file runs at a time. Who comes while it runs cannot tell whether it covers him,
//! and shares the next one with all the others who came.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use super::data::FileState;
use super::nodes::Node;
use super::quiet::Until;
use super::{Filesystem, Reply, errno};
use crate::arena::Counters;
use crate::backing::{self, SyncKind};
use crate::clock::boottime_ms;
use crate::config::FsyncPolicy;
use crate::killpoint::{self, Point};

/// What may have changed in the backing file since it was last synced; each includes those before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Unsynced {
    Nothing,
    /// What fdatasync(2) may leave out: mode, owner, times, extended attributes, names.
    Attributes,
    /// Bytes, or what is needed to read them.
    Data,
}

impl Unsynced {
    fn needs(self, kind: SyncKind) -> bool {
        self > Unsynced::left_by(kind)
    }

    fn left_by(kind: SyncKind) -> Unsynced {
        match kind {
            SyncKind::Data => Unsynced::Attributes,
            SyncKind::All => Unsynced::Nothing,
        }
    }
}

/// A sync that failed: the backing filesystem gives bytes up that it could not write, and says so
/// once. Which ones they are is not known, and they are not in memory any more.
#[derive(Clone, Copy, Debug)]
pub(super) struct Loss {
    pub(super) errno: i32,
    /// Which of the file's failures it was: handles that have seen fewer are told.
    pub(super) number: u64,
    pub(super) since_ms: u64,
    /// Still to be shown to the user: not when he gave the bytes up himself.
    pub(super) is_listed: bool,
}

type Waiting = (SyncKind, Reply<()>);

/// A file's part of it, under the file's lock.
pub(super) struct Stability {
    pub(super) unsynced: Unsynced,
    running: bool,
    waiting: Vec<Waiting>,
    pub(super) loss: Option<Loss>,
}

impl Stability {
    pub(super) fn new() -> Stability {
        Stability { unsynced: Unsynced::Data, running: false, waiting: Vec::new(), loss: None }
    }

    /// Whether bytes are lost that the user has to be told of.
    pub(super) fn has_listed_loss(&self) -> bool {
        self.loss.is_some_and(|loss| loss.is_listed)
    }

    pub(super) fn note(&mut self, what: Unsynced) {
        self.unsynced = self.unsynced.max(what);
    }
}

impl FileState {
    pub(super) fn note_loss(&mut self, errno: i32) {
        self.lose(errno, true);
    }

    /// The user gave bytes up: handles are told, he needs not be.
    pub(super) fn note_given_up(&mut self, errno: i32) {
        self.lose(errno, false);
    }

    fn lose(&mut self, errno: i32, is_listed: bool) {
        self.failures += 1;
        let (number, since_ms) = (self.failures, boottime_ms());
        self.stability.loss = Some(Loss { errno, number, since_ms, is_listed });
    }
}

impl Filesystem {
    /// FSYNC: on `Ok` everything acknowledged before is on stable storage, as the backing
    /// filesystem promises. Costs nothing when nothing changed since the last time. With
    /// [`FsyncPolicy::Lazy`] it is in the arena only, and the reply comes at once. Errors: those of
    /// writing the file and of fsync(2).
    pub fn fsync(&self, id: u64, kind: SyncKind, reply: Reply<()>) {
        let node = match self.node(id).and_then(|node| self.data(&node).map(|_| node.clone())) {
            Ok(node) => node,
            Err(error) => return reply(Err(error)),
        };
        if self.config.fsync == FsyncPolicy::Lazy {
            return reply(Ok(()));
        }
        let me = self.arc();
        let clean = node.clone();
        self.when_quiet(&node, Until::Clean, move |result| match result {
            Err(code) => reply(Err(errno(code))),
            Ok(()) => me.sync_clean(&clean, kind, reply),
        });
    }

    /// Syncs what is in the backing file now; joins others who want the same.
    pub(super) fn sync_clean(&self, node: &Arc<Node>, kind: SyncKind, reply: Reply<()>) {
        let Some(data) = node.data_if_any() else { return reply(Ok(())) };
        let mut state = data.lock();
        if state.stability.running {
            return state.stability.waiting.push((kind, reply));
        }
        if !state.stability.unsynced.needs(kind) {
            drop(state);
            return reply(Ok(()));
        }
        state.stability.running = true;
        drop(state);
        let (me, node) = (self.arc(), node.clone());
        self.pool.run(move || me.sync_rounds(&node, vec![(kind, reply)]));
    }

    /// Syncs until nobody waits any more. On the pool.
    fn sync_rounds(&self, node: &Arc<Node>, mut round: Vec<Waiting>) {
        let Some(data) = node.data_if_any() else { return };
        while !round.is_empty() {
            let wants_all = round.iter().any(|(kind, _)| *kind == SyncKind::All);
            let kind = if wants_all { SyncKind::All } else { SyncKind::Data };
            let result = self.sync_once(node, kind).map_err(|error| backing::errno(&error));
            let mut state = data.lock();
            let unsynced = state.stability.unsynced;
            let waiting = std::mem::take(&mut state.stability.waiting);
            let (next, done): (Vec<_>, Vec<_>) =
                waiting.into_iter().partition(|(kind, _)| unsynced.needs(*kind));
            state.stability.running = !next.is_empty();
            drop(state);
            round.into_iter().for_each(|(_, reply)| reply(result.map_err(errno)));
            done.into_iter().for_each(|(_, reply)| reply(Ok(())));
            round = next;
        }
    }

    fn sync_once(&self, node: &Arc<Node>, kind: SyncKind) -> io::Result<()> {
        let (data, file) = (self.data(node)?, self.data_file(node)?);
        let before = {
            let mut state = data.lock();
            // The time is to be on stable storage, too, and as the program made it.
            self.restore_times(node, &mut state);
            let before = state.stability.unsynced;
            // Before the sync: what changes during it must be synced again.
            state.stability.unsynced = before.min(Unsynced::left_by(kind));
            before
        };
        Counters::add(&self.counters().syncs, 1);
        killpoint::pass(Point::SyncBegun);
        let mut synced = self.storage.sync((*file).as_fd(), kind);
        // What was written is safe then: another descriptor knows of nothing less.
        if let Err(error) = &synced
            && before < Unsynced::Data
        {
            let mut code = backing::errno(error);
            synced = self.through_outage(&data.queue, || {
                let file = self.reopened(node, code).ok_or_else(|| errno(code))?;
                let synced = self.storage.sync((*file).as_fd(), kind);
                synced.inspect_err(|error| code = backing::errno(error))
            });
        }
        if let Err(error) = &synced {
            let mut state = data.lock();
            state.stability.note(before);
            state.note_loss(backing::errno(error));
            drop(state);
            self.note_failing(node);
            let path = self.display_path(node);
            log::error!("cannot sync {path}: {error}; bytes written before may be lost");
        }
        synced
    }

    /// FSYNCDIR. Waits for the disk on the pool; with [`FsyncPolicy::Lazy`] not at all. Errors:
    /// open(2) and fsync(2) on the directory.
    pub fn fsync_directory(&self, id: u64, kind: SyncKind, reply: Reply<()>) {
        if self.config.fsync == FsyncPolicy::Lazy {
            return reply(self.node(id).map(drop));
        }
        let me = self.arc();
        self.pool.run(move || {
            let sync = || {
                let path = me.path_fd(&me.node(id)?)?;
                let dir = backing::reopen(path.as_fd(), libc::O_RDONLY | libc::O_DIRECTORY)?;
                Counters::add(&me.counters().syncs, 1);
                me.storage.sync(dir.as_fd(), kind)
            };
            reply(sync());
        });
    }

    /// Notes that the backing file was changed, after it was: the next fsync is to cover it.
    pub(super) fn note_changed(&self, node: &Arc<Node>, what: Unsynced) {
        node.note_seen(None);
        self.note_attributes_changed(node);
        if let Some(data) = node.data_if_any() {
            data.lock().stability.note(what);
        }
    }
}
