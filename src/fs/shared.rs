//! A backing directory that other nodes change, too: `--consistency close-to-open`.
//!
//! A file is stored when it is closed (`close`), and each lookup compares the backing file with what
//! was last seen of it ([`Watch`]). With its writeback cache the kernel believes no size and no time
//! but its own for an inode that it has. So a file that another node changed gets another *node id*:
//! the kernel then drops the name, and fills a new inode with what is below now; who has the file open
//! keeps the old one. The id is made of the node's place in the table and its *epoch*, so that the next
//! worker knows all that were given out. Names of files are looked up each time they are used.
//!
//! Not while a program has the file open for writing, or bytes of it are to be stored: these have to
//! be in one inode. That is a conflict, which is counted and told; the bytes are stored where they
//! were written.
//!
//! Our own changes are seen below, too. Each is made between [`Filesystem::begin_change`] and
//! [`Filesystem::end_change`], which takes over what is there then; nothing is concluded meanwhile, nor
//! from attributes that were asked for before. What another node changes in that moment is not noticed.
//!
//! Rejected: FUSE_NOTIFY_INVAL_INODE, which drops pages and not the size; FUSE_NOTIFY_INVAL_ENTRY,
//! which waits for the directory's lock, held by the very lookup that finds out; another *generation*
//! of the same id, which makes reads fail for who has the old inode open; to cut the file through the
//! own mount, since the daemon would wait for itself; and to do without the writeback cache, with which
//! tiny writes cost a request each. The kernel's change cookie (STATX_CHANGE_COOKIE) is not shown to
//! programs, so size and times have to do.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use super::asking::{Answer, Question};
use super::caller::Caller;
use super::nodes::Node;
use super::quiet::Until;
use super::treatment::passes_through;
use super::virtual_files::is_virtual;
use super::{Filesystem, Reply, errno};
use crate::arena::{Counters, NodeSlot};
use crate::backing::{Attr, Freshness, SyncKind, Time};
use crate::clock::{boottime_ms, realtime};
use crate::config::{Consistency, FsyncPolicy};
use crate::control::protocol::ChangedBelow;

/// Ids above this one, and below those of the virtual files: a place of the table and an epoch.
const ALIASES: u64 = 0xFFFE << 48;
const ALIASES_END: u64 = 0xFFFF << 48;
/// The table has no more places than these bits tell apart.
const SLOT_BITS: u32 = 24;
const EPOCHS: u32 = 1 << 24;
/// A file that changes faster than it can be looked at is taken as it was found the last time.
const LOOKS_MAX: usize = 8;
/// Steps of the clock by which a kernel sets times, and some more.
const CLOCK_STEP_NS: u64 = 20_000_000;
/// Where times are told in whole seconds, clocks of machines may be so far apart.
const SKEW_NS: u64 = 1_000_000_000;
/// Files that others changed while they were written here: the last of them are named.
const NAMED_MAX: usize = 100;

/// What of a backing file tells that it was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    size: u64,
    mtime: Time,
    ctime: Time,
}

impl Seen {
    fn of(attr: &Attr) -> Seen {
        Seen { size: attr.size, mtime: attr.mtime, ctime: attr.ctime }
    }

    /// How its bytes became others, in words. `None` when they did not: modes and names change, too.
    fn difference(&self, now: &Seen) -> Option<String> {
        if self.size != now.size {
            return Some(size_difference(self.size, now.size));
        }
        (self.mtime != now.mtime).then(|| "its modification time".to_owned())
    }
}

fn size_difference(from: u64, to: u64) -> String {
    format!("its size from {from} to {to}")
}

/// What is known of a node's backing file.
#[derive(Debug, Default)]
pub(super) struct Watch {
    seen: Option<Seen>,
    /// It was changed so shortly before it was looked at that another change may show the same time.
    is_fresh: bool,
    /// Its epoch began by a look, and nobody has opened it since: the kernel has no pages of it.
    is_unopened: bool,
    /// When it was taken over, or a change of ours began or ended: see [`Shared::clock`].
    stamp: u64,
    /// Changes of ours that are under way.
    changing: u32,
    /// Others changed it while it was written here, and the kernel's view of it is from before.
    is_outdated: bool,
    /// The size that it has after what is under way, as far as that is known.
    expected: Option<u64>,
}

/// What a change of ours does to a file's size.
#[derive(Clone, Copy, Debug)]
pub(super) enum Change {
    /// Nothing.
    Times,
    /// The file is at least so long.
    Reaches(u64),
    /// It is so long.
    Cut(u64),
    /// That is not known.
    Any,
}

/// What the nodes' watches have in common.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// Orders looks at backing files and changes of watches.
    clock: AtomicU64,
    conflicts: Mutex<Conflicts>,
}

/// By node id, with the path at that time; the last one first.
type Conflicts = VecDeque<(u64, PathBuf, Conflict)>;

#[derive(Debug)]
struct Conflict {
    times: u64,
    what: String,
    at_ms: u64,
}

fn times_of(all: &Conflicts, node: &Node) -> u64 {
    all.iter().find(|(id, ..)| *id == node.id()).map_or(0, |(.., conflict)| conflict.times)
}

/// What a look at a backing file told.
enum Look {
    /// A change of ours is under way, or it is as it was, or that has been dealt with.
    Done,
    /// It is from before something that is known.
    Outdated,
}

pub(super) fn is_alias(id: u64) -> bool {
    (ALIASES..ALIASES_END).contains(&id)
}

fn alias(slot: NodeSlot, epoch: u32) -> u64 {
    ALIASES | u64::from(epoch) << SLOT_BITS | u64::from(slot.0)
}

impl Filesystem {
    /// Whether other nodes may change the backing directory.
    pub fn is_shared(&self) -> bool {
        self.config.consistency == Consistency::CloseToOpen
    }

    /// How attributes are asked for: an engine's client may keep them for a while.
    pub(super) fn freshness(&self) -> Freshness {
        if self.is_shared() { Freshness::Now } else { Freshness::Cached }
    }

    /// The node id by which the kernel knows a file now.
    pub(super) fn kernel_id(&self, node: &Node) -> u64 {
        match self.arena.nodes().epoch(node.slot) {
            epoch if epoch > 0 && node.is_regular() && self.is_shared() => alias(node.slot, epoch),
            _ => node.id(),
        }
    }

    /// The one of all ids of a node under which it is kept.
    pub(super) fn own_id(&self, id: u64) -> u64 {
        let slot = NodeSlot(id as u32 & ((1 << SLOT_BITS) - 1));
        if !is_alias(id) || slot.0 >= self.arena.nodes().high_water() {
            return id;
        }
        self.arena.nodes().identity(slot).map_or(id, |identity| identity.id)
    }

    /// Whether a change of now could leave the time that was found.
    fn is_fresh(&self, seen: &Seen) -> bool {
        let step_ns = self.config.abilities.time_step_ns.unwrap_or(0);
        let skew_ns = if step_ns >= SKEW_NS { SKEW_NS } else { 0 };
        let ns = |secs: i64, nanos: u32| i128::from(secs) * 1_000_000_000 + i128::from(nanos);
        let (secs, nanos) = realtime();
        let since_ns = ns(secs, nanos) - ns(seen.mtime.secs, seen.mtime.nanos);
        since_ns.unsigned_abs() <= u128::from(step_ns.max(CLOCK_STEP_NS) + skew_ns)
    }

    fn see(&self, watch: &mut Watch, seen: Option<Seen>) -> Option<Seen> {
        watch.is_fresh = seen.is_some_and(|seen| self.is_fresh(&seen));
        watch.stamp = self.tick();
        std::mem::replace(&mut watch.seen, seen)
    }

    fn watch<'a>(&self, node: &'a Node) -> MutexGuard<'a, Watch> {
        node.watch.lock().expect("no panics under this lock")
    }

    fn tick(&self) -> u64 {
        self.shared.clock.fetch_add(1, Ordering::SeqCst) + 1
    }

    /// To be taken before a backing file is looked at.
    pub(super) fn moment(&self) -> u64 {
        self.shared.clock.load(Ordering::SeqCst)
    }

    /// We are about to change the backing file's size or times.
    pub(super) fn begin_change(&self, node: &Node) {
        if self.is_shared() {
            let mut watch = self.watch(node);
            if watch.changing == 0 {
                watch.expected = watch.seen.map(|seen| seen.size);
            }
            watch.changing += 1;
            watch.stamp = self.tick();
        }
    }

    /// We have; what is there now is known. Asks the backing filesystem. A size that is not of our
    /// making is another node's.
    pub(super) fn end_change(&self, node: &Arc<Node>, change: Change) {
        if !self.is_shared() {
            return;
        }
        let mut watch = self.watch(node);
        watch.changing -= 1;
        watch.stamp = self.tick();
        watch.expected = match change {
            Change::Times => watch.expected,
            Change::Reaches(end) => watch.expected.map(|size| size.max(end)),
            Change::Cut(size) => Some(size),
            Change::Any => None,
        };
        if watch.changing > 0 {
            return;
        }
        let moment = watch.stamp;
        drop(watch);
        let seen = self.backing_attr(node).ok().map(|attr| Seen::of(&attr));
        let mut watch = self.watch(node);
        if watch.changing > 0 || watch.stamp > moment {
            return;
        }
        self.see(&mut watch, seen);
        let (found, expected) = (seen.map(|seen| seen.size), watch.expected);
        if let (Some(found), Some(expected)) = (found, expected)
            && found != expected
        {
            self.note_conflict(node, watch, size_difference(expected, found));
        }
    }

    /// What was seen of backing files is of a time that is over, and is no evidence of changes.
    pub(super) fn forget_all_looks(&self) {
        let nodes: Vec<Arc<Node>> = self.nodes.read().values().cloned().collect();
        for node in nodes {
            let mut watch = self.watch(&node);
            (watch.seen, watch.expected) = (None, None);
            watch.stamp = self.tick();
        }
    }

    /// We changed something that shows in no more than the time of the last change.
    pub(super) fn note_attributes_changed(&self, node: &Arc<Node>) {
        if !self.is_shared() || !node.is_regular() {
            return;
        }
        let moment = self.moment();
        let Ok(attr) = self.backing_attr(node) else { return };
        let mut watch = self.watch(node);
        let now = Seen::of(&attr);
        if watch.stamp <= moment && watch.seen.is_some_and(|seen| seen.difference(&now).is_none()) {
            self.see(&mut watch, Some(now));
        }
    }

    /// Makes a change of the backing file's size or times.
    pub(super) fn changing<T>(
        &self,
        node: &Arc<Node>,
        change: Change,
        make: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        self.begin_change(node);
        let result = make();
        self.end_change(node, if result.is_ok() { change } else { Change::Any });
        result
    }

    /// After a lookup that found `attr` at `moment`: the attributes to be told, and from now on those
    /// of the node's own id, see [`Filesystem::kernel_id`].
    pub(super) fn revalidated(&self, node: &Arc<Node>, attr: &Attr, moment: u64) -> Attr {
        let (mut attr, mut moment) = (*attr, moment);
        if !self.is_shared() || !node.is_regular() {
            return attr;
        }
        for _ in 0..LOOKS_MAX {
            if !matches!(self.compare(node, &attr, moment), Look::Outdated) {
                break;
            }
            moment = self.moment();
            match self.backing_attr(node) {
                Ok(now) => attr = now,
                Err(_) => break,
            }
        }
        attr
    }

    /// The same where somebody writes the file; `attr` is of `moment`.
    pub(super) fn look_below(&self, node: &Arc<Node>, attr: &Attr, moment: u64) {
        if self.is_shared() {
            self.compare(node, attr, moment);
        }
    }

    fn compare(&self, node: &Arc<Node>, attr: &Attr, moment: u64) -> Look {
        let data = node.data_if_any();
        // In this order: see the head of `fs`.
        let mut state = data.map(|data| data.lock());
        let mut watch = self.watch(node);
        if watch.changing > 0 {
            return Look::Done;
        }
        if watch.stamp > moment {
            return Look::Outdated;
        }
        let (table, now) = (self.arena.nodes(), Seen::of(attr));
        // Not while somebody has it open: what is done here is to be seen here. Nor while nobody has
        // opened it: of many who look it up at the same time each would make the others' id stale.
        let may_differ = watch.is_fresh && !watch.is_unopened && table.open(node.slot) == 0;
        if watch.seen == Some(now) && !watch.is_outdated && !may_differ {
            return Look::Done;
        }
        let former = self.see(&mut watch, Some(now));
        if former.is_none() && table.lookups(node.slot) <= 1 {
            return Look::Done;
        }
        let is_settled = state.as_ref().is_none_or(|state| {
            state.is_settled() && state.failure.is_none() && !state.reserved.is_allocating
        });
        if table.writers(node.slot) == 0 && is_settled && table.mtime(node.slot).is_none() {
            let epoch = table.epoch(node.slot) % (EPOCHS - 1) + 1;
            table.set_epoch(node.slot, epoch);
            watch.is_unopened = true;
            watch.is_outdated = false;
            if let Some(state) = &mut state {
                state.stored_end = 0;
            }
            if let Some(data) = data {
                data.without_capabilities.store(false, Ordering::Release);
            }
            drop((watch, state));
            // Opened anew, as what keeps the file may promise something for that only.
            self.files.remove(node.id());
        } else if let Some(what) = former.and_then(|former| former.difference(&now)) {
            drop(state);
            self.note_conflict(node, watch, what);
        }
        Look::Done
    }

    /// Not of files that pass through: what was written of them may still be on its way.
    fn note_conflict(&self, node: &Node, mut watch: MutexGuard<Watch>, what: String) {
        watch.is_outdated = true;
        if passes_through(node) {
            return;
        }
        drop(watch);
        let path = self.path_of(node);
        log::warn!(
            "{} was changed below by somebody else while it is written here: {what}; bytes written \
             here are stored at their offsets, over what is there",
            path.display()
        );
        Counters::add(&self.counters().changed_below, 1);
        // Kept here, as the kernel may forget the file.
        let mut all = self.shared.conflicts.lock().expect("no panics under this lock");
        let times = times_of(&all, node) + 1;
        let conflict = Conflict { times, what, at_ms: boottime_ms() };
        all.retain(|(id, ..)| *id != node.id());
        all.push_front((node.id(), path, conflict));
        all.truncate(NAMED_MAX);
    }

    /// How often others changed the file while it was written here.
    pub(super) fn conflicts(&self, node: &Node) -> u64 {
        times_of(&self.shared.conflicts.lock().expect("no panics under this lock"), node)
    }

    /// Files that were changed below while they were written here, the last one first.
    pub(super) fn changed_below(&self) -> Vec<ChangedBelow> {
        let all = self.shared.conflicts.lock().expect("no panics under this lock");
        let now_ms = boottime_ms();
        let tell = |(_, path, conflict): &(u64, PathBuf, Conflict)| ChangedBelow {
            path: path.clone(),
            times: conflict.times,
            what: conflict.what.clone(),
            ago_ms: now_ms.saturating_sub(conflict.at_ms),
        };
        all.iter().map(tell).collect()
    }

    /// Counts an open handle. `ESTALE` for an inode of which the kernel does not know yet that another
    /// one took its place: it looks the name up again.
    pub(super) fn count_open(&self, node: &Node, id: u64, is_writer: bool) -> io::Result<()> {
        // No other epoch begins meanwhile.
        let mut watch = self.watch(node);
        if self.is_shared() && id != self.kernel_id(node) {
            return Err(errno(libc::ESTALE));
        }
        watch.is_unopened = false;
        let table = self.arena.nodes();
        table.add_open(node.slot);
        if is_writer {
            table.add_writer(node.slot);
        }
        Ok(())
    }

    /// Whether the pages that the kernel has of a file are to be kept when it is opened.
    pub fn keeps_pages(&self, id: u64) -> bool {
        !self.is_shared() || self.node(id).is_ok_and(|node| !self.watch(&node).is_outdated)
    }

    /// FLUSH: where others may open the file next, the reply comes when what was written of it until
    /// now is stored, and synced on an engine, with the time that it was written. Of a handle that
    /// cannot write it comes at once. Errors: those of writing the file, once for each who closes.
    pub fn close(&self, caller: Caller, (id, handle): (u64, u64), closer: u64, reply: Reply<()>) {
        let me = self.arc();
        let told = move |result: io::Result<()>| {
            // The closer has been told then.
            let untold = me.flush(id, handle, closer);
            reply(result.and(untold));
        };
        if !self.is_shared() || is_virtual(id) || !is_writer(handle) {
            return told(Ok(()));
        }
        let node = match self.node(id) {
            Ok(node) => node,
            Err(error) => return told(Err(error)),
        };
        let (me, file, until) = (self.arc(), node.clone(), Until::StoredBefore(boottime_ms()));
        let store = move || {
            let fs = me.clone();
            me.when_quiet(&file.clone(), until, move |result| match result {
                Err(code) => told(Err(errno(code))),
                Ok(()) => fs.publish(&file, Box::new(told)),
            });
        };
        self.compare_before_close(caller, id, &node, store);
    }

    /// A look at the file before what is left of it is stored, and then `store`. Does not wait long for
    /// an engine that hangs: nothing depends on it but that a conflict is told.
    fn compare_before_close(
        &self,
        caller: Caller,
        id: u64,
        node: &Arc<Node>,
        store: impl FnOnce() + Send + 'static,
    ) {
        let file = node.clone();
        let look = move |fs: &Filesystem| {
            let moment = fs.moment();
            let attr = fs.backing_attr(&file)?;
            fs.look_below(&file, &attr, moment);
            Ok(Compared)
        };
        if !self.may_hang() {
            let _: io::Result<Compared> = look(self);
            return store();
        }
        let (fs, me) = (self.arc(), self.arc());
        let question = Question::of("close", id, caller).of_bytes();
        self.ask(
            question,
            move |_, done| done(look(&fs)),
            // Who answers may be the thread that sees to patience, which waits for no file's lock.
            move |_| me.pool.run(store),
        );
    }

    /// What is stored of a file becomes what others see.
    fn publish(&self, node: &Arc<Node>, reply: Reply<()>) {
        let Some(data) = node.data_if_any() else { return reply(Ok(())) };
        self.restore_times(node, &mut data.lock());
        if data.queue.is_elsewhere() && self.config.fsync == FsyncPolicy::Strict {
            return self.sync_clean(node, SyncKind::All, reply);
        }
        reply(Ok(()));
    }
}

/// The look before a close. What comes late of it is no news: see [`Filesystem::moment`].
struct Compared;

impl Answer for Compared {
    fn take_back(self, _: &Filesystem, _: &Question) {}

    fn from_memory(_: &Filesystem, _: &Question) -> Option<io::Result<Compared>> {
        Some(Ok(Compared))
    }

    const MAY_BE_KNOWN: bool = true;
}

/// Handles tell by their number whether they may write, so that the next worker knows.
pub(super) fn handle_of(number: u64, is_writer: bool) -> u64 {
    number << 1 | u64::from(is_writer)
}

pub(super) fn is_writer(handle: u64) -> bool {
    handle & 1 == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aliases_are_ids_of_nothing_else() {
        let (last_slot, last_epoch) = (NodeSlot((1 << SLOT_BITS) - 1), EPOCHS - 1);
        for id in [alias(NodeSlot(0), 1), alias(last_slot, last_epoch)] {
            assert!(is_alias(id) && !is_virtual(id));
        }
        assert!(!is_alias(u64::MAX) && !is_alias(1) && !is_alias(ALIASES_END));
    }
}
