//! Operations that need a file to be quiet first: *idle* (nothing in flight to the backing file)
//! or *clean* (nothing buffered either).
//!
//! A request that must wait leaves a [`Waiter`] with the file; the lane that makes the condition
//! true hands it to the pool. A file somebody waits for to be clean jumps the scheduler's queue.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::attrs::set_times;
use super::caller::Caller;
use super::data::{FileData, FileState};
use super::nodes::Node;
use super::shared::Change;
use super::stable::Unsynced;
use super::{Filesystem, Reply, errno};
use crate::backing::{self, Attr, SetTime, Time};
use crate::isolation::HandedOver;
use crate::killpoint::{self, Point};
use crate::schedule::FileId;

/// What a request waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Until {
    /// Nothing in particular.
    Any,
    /// Nothing is being written to the backing file.
    Idle,
    /// And nothing is to be written.
    Clean,
    /// Nothing that came until then, in milliseconds of CLOCK_BOOTTIME, is to be written any more: a
    /// file that is written all the time is never clean.
    StoredBefore(u64),
}

impl Until {
    /// Whether it takes a turn of the file, so that its failure is an answer.
    fn is_of_storing(self) -> bool {
        matches!(self, Until::Clean | Until::StoredBefore(_))
    }
}

/// A request that waits. Called with the errno of writing when that failed.
pub(super) struct Waiter {
    until: Until,
    handed: HandedOver,
    job: Box<dyn FnOnce(Result<(), i32>) + Send>,
}

impl FileState {
    fn is_quiet(&self, until: Until) -> bool {
        match until {
            Until::Any => true,
            Until::Idle => self.buffer.in_flight_bytes() == 0,
            Until::Clean => self.buffer.is_clean(),
            Until::StoredBefore(at_ms) => {
                let is_later = self.buffer.oldest_ms().is_none_or(|born_ms| born_ms > at_ms);
                self.buffer.in_flight_bytes() == 0 && is_later
            }
        }
    }
}

impl Filesystem {
    /// Runs `job` when the file is quiet: on this thread if it is now, else later on the pool.
    pub(super) fn when_quiet(
        &self,
        node: &Arc<Node>,
        until: Until,
        job: impl FnOnce(Result<(), i32>) + Send + 'static,
    ) {
        let Some(data) = node.data_if_any() else { return job(Ok(())) };
        let mut state = data.lock();
        if state.is_quiet(until) {
            drop(state);
            return job(Ok(()));
        }
        let handed = self.isolation.hand_over();
        state.waiters.push(Waiter { until, handed, job: Box::new(job) });
        if until.is_of_storing() {
            data.queue.with(|scheduler| {
                scheduler.demand(FileId(node.id()));
                // Also a file that could not be written: the answer is to be of now.
                scheduler.end_delay(FileId(node.id()));
            });
            data.queue.wake_all();
        }
    }

    /// Hands those over to the pool whose condition holds, or all that wait for a clean file when
    /// writing failed.
    pub(super) fn release_waiters(&self, state: &mut FileState, failed: Option<i32>) {
        if state.waiters.is_empty() {
            return;
        }
        let waiters = std::mem::take(&mut state.waiters);
        for waiter in waiters {
            let result = match failed {
                Some(code) if waiter.until.is_of_storing() => Err(code),
                _ if state.is_quiet(waiter.until) => Ok(()),
                _ => {
                    state.waiters.push(waiter);
                    continue;
                }
            };
            let job = waiter.job;
            self.pool.run_handed(waiter.handed, move || job(result));
        }
    }

    /// Cuts or extends the file. Bytes past the new end are never written any more. The reply
    /// comes at once unless such bytes are just on their way to the disk, or any where blocks are
    /// allocated ahead. Of a caller who was told meanwhile that there is no answer nothing buffered is
    /// cut: newer bytes may be among it.
    pub(super) fn set_size(&self, caller: Caller, node: &Arc<Node>, size: u64, reply: Reply<()>) {
        let data = match self.data(node) {
            Ok(data) => data,
            Err(error) => return reply(Err(error)),
        };
        self.kill_capabilities(node);
        let mut state = data.lock();
        self.raise_barrier(node, data, &mut state);
        let must_wait = state.buffer.has_in_flight_from(size) || state.reserved.may_be_any();
        let until = if must_wait { Until::Idle } else { Until::Any };
        drop(state);
        let me = self.arc();
        let cut = node.clone();
        let job = move |_: Result<(), i32>| {
            if let Some(data) = cut.data_if_any() {
                me.unreserve_before_jump(&cut, &mut data.lock());
            }
            let file = match me.is_given_up(caller) {
                true => Err(errno(libc::ETIMEDOUT)),
                false => me.writable_file(&cut),
            };
            cut.note_seen(None);
            let result = file.and_then(|file| {
                let resized = me.changing(&cut, Change::Cut(size), || {
                    me.storage.set_size((*file).as_fd(), size)
                });
                file.note_cached();
                resized
            });
            killpoint::pass(Point::TruncateStored);
            if let Some(data) = cut.data_if_any().filter(|_| result.is_ok()) {
                let mut state = data.lock();
                state.stored_end = state.stored_end.min(size);
            }
            me.drop_bytes_past(&cut, size, result.is_ok() && !me.is_given_up(caller));
            killpoint::pass(Point::TruncateDone);
            reply(result);
        };
        self.when_quiet(node, until, job);
    }

    /// Throws buffered bytes of a deleted file away.
    pub(super) fn discard(&self, node: &Arc<Node>) {
        let Some(data) = node.data_if_any() else { return };
        let mut state = data.lock();
        if state.buffer.is_clean() {
            return;
        }
        self.raise_barrier(node, data, &mut state);
        drop(state);
        let me = self.arc();
        let cut = node.clone();
        self.when_quiet(node, Until::Idle, move |_| {
            me.drop_bytes_past(&cut, 0, true);
            me.drop_if_unused(&cut);
        });
    }

    pub(super) fn raise_barrier(&self, node: &Node, data: &FileData, state: &mut FileState) {
        state.barriers += 1;
        data.queue.with(|scheduler| scheduler.hold(FileId(node.id())));
    }

    /// Ends what [`Filesystem::raise_barrier`] began; `cut` says whether bytes are to go.
    fn drop_bytes_past(&self, node: &Node, size: u64, cut: bool) {
        let Some(data) = node.data_if_any() else { return };
        let mut state = data.lock();
        if cut {
            let before = state.buffer.dirty_bytes();
            let mut steps = Vec::new();
            state.buffer.truncate(size, &mut steps);
            state.stored_end = state.stored_end.min(size);
            self.carry_out(node, &state, &steps, &[]);
            if size == 0 {
                // Nothing is left that could be missing.
                state.stability.loss = None;
                self.forget_failing(node, &state);
            }
            self.note_settled(node, &mut state, size..u64::MAX);
            let dropped = before - state.buffer.dirty_bytes();
            self.backlog_bytes.fetch_sub(dropped, Ordering::Relaxed);
        }
        state.stability.note(Unsynced::Data);
        self.lower_barrier(node, data, &mut state);
        self.release_waiters(&mut state, None);
        drop(state);
        data.queue.wake_all();
        self.room_made(0);
    }

    pub(super) fn lower_barrier(&self, node: &Node, data: &FileData, state: &mut FileState) {
        state.barriers -= 1;
        data.queue.with(|scheduler| scheduler.unhold(FileId(node.id())));
        self.tell_queue(node, data, state);
    }

    /// FALLOCATE: the backing filesystem's own, on a clean file. The kernel's FUSE refuses modes that
    /// move what follows, so that it does no harm when it is done twice.
    pub fn allocate(&self, id: u64, mode: i32, offset: u64, len: u64, reply: Reply<()>) {
        self.on_clean_file(id, reply, move |me, node| {
            let file = me.writable_file(node)?;
            me.settle_times(node);
            me.data(node)?.lock().reserved.is_programs = true;
            let allocate = || me.storage.allocate((*file).as_fd(), mode, offset, len);
            let allocated = me.changing(node, Change::Any, allocate);
            file.note_cached();
            me.note_changed(node, Unsynced::Data);
            allocated
        });
    }

    /// LSEEK for data and holes, on a clean file: what is buffered is data.
    pub fn seek(&self, id: u64, offset: i64, whence: i32, reply: Reply<i64>) {
        self.on_clean_file(id, reply, move |me, node| {
            let file = me.data_file(node)?;
            backing::seek((*file).as_fd(), offset, whence)
        });
    }

    /// COPY_FILE_RANGE between two clean files. Returns the bytes copied.
    pub fn copy_range(&self, from: (u64, u64), to: (u64, u64), len: u64, reply: Reply<u32>) {
        let ((from_id, from_offset), (to_id, to_offset)) = (from, to);
        // One WRITE reply cannot say more.
        let len = len.min(1 << 30) as usize;
        let me = self.arc();
        let source = match self.node(from_id) {
            Ok(source) => source,
            Err(error) => return reply(Err(error)),
        };
        let from_node = source.clone();
        self.when_quiet(&source, Until::Clean, move |result| {
            if let Err(code) = result {
                return reply(Err(errno(code)));
            }
            me.on_clean_file(to_id, reply, move |me, node| {
                let (from, to) = (me.data_file(&from_node)?, me.writable_file(node)?);
                me.settle_times(node);
                let (source, target) = ((*from).as_fd(), (*to).as_fd());
                let (source, target) = ((source, from_offset), (target, to_offset));
                let copied =
                    me.changing(node, Change::Any, || me.storage.copy_range(source, target, len));
                to.note_cached();
                me.note_changed(node, Unsynced::Data);
                Ok(copied? as u32)
            });
        });
    }

    /// Nothing of the file is stored until [`Filesystem::end_alone`], nor cut off with what is
    /// allocated ahead.
    fn begin_alone(&self, node: &Arc<Node>) {
        if let Some(data) = node.data_if_any() {
            let mut state = data.lock();
            self.trim(node, &mut state);
            self.raise_barrier(node, data, &mut state);
        }
    }

    fn end_alone(&self, node: &Arc<Node>) {
        if let Some(data) = node.data_if_any() {
            let mut state = data.lock();
            self.lower_barrier(node, data, &mut state);
            self.release_waiters(&mut state, None);
            drop(state);
            data.queue.wake_all();
        }
    }

    /// Runs `act` on the pool when the file is clean, with nothing stored meanwhile.
    pub(super) fn on_clean_file<T: Send + 'static>(
        &self,
        id: u64,
        reply: Reply<T>,
        act: impl FnOnce(&Filesystem, &Arc<Node>) -> io::Result<T> + Send + 'static,
    ) {
        let node = match self.node(id).and_then(|node| self.data(&node).map(|_| node.clone())) {
            Ok(node) => node,
            Err(error) => return reply(Err(error)),
        };
        let me = self.arc();
        let clean = node.clone();
        self.when_quiet(&node, Until::Clean, move |result| match result {
            Err(code) => reply(Err(errno(code))),
            Ok(()) => {
                let filesystem = me.clone();
                me.pool.run(move || {
                    filesystem.begin_alone(&clean);
                    let result = act(&filesystem, &clean);
                    filesystem.end_alone(&clean);
                    reply(result);
                });
            }
        });
    }

    /// Gives the backing file the modification time that the program made, which the drain has
    /// moved on. Under the file's lock, so that no write comes in between.
    pub(super) fn restore_times(&self, node: &Arc<Node>, state: &mut FileState) {
        let table = self.arena.nodes();
        let Some((secs, nanos)) = table.mtime(node.slot) else { return };
        if !state.buffer.is_clean() || state.reserved.is_allocating || state.deleted {
            return;
        }
        let set = self.data_file(node).and_then(|file| {
            let mtime = SetTime::At(Time { secs, nanos });
            self.changing(node, Change::Times, || set_times((*file).as_fd(), SetTime::Omit, mtime))
        });
        killpoint::pass(Point::DrainTimed);
        let seen = node.seen().filter(|_| set.is_ok());
        node.note_seen(seen.map(|attr| Attr { mtime: Time { secs, nanos }, ..attr }));
        match set {
            Ok(()) => {
                table.set_mtime(node.slot, None);
                state.stability.note(Unsynced::Attributes);
            }
            Err(error) => log::warn!("cannot set the time of node {}: {error}", node.id()),
        }
    }

    /// As [`Filesystem::restore_times`], before a change that sets the time itself: it must not be
    /// set back afterwards.
    pub(super) fn settle_times(&self, node: &Arc<Node>) {
        if let Some(data) = node.data_if_any() {
            self.restore_times(node, &mut data.lock());
        }
    }
}
