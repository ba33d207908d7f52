//! One file's buffered bytes: the state under its lock, writes into the arena, reads over it.

use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, TryLockResult};
use std::time::Instant;

use super::chunk::Chunk;
use super::failing::Failure;
use super::nodes::Node;
use super::quiet::Waiter;
use super::reserve::{Job, Reserved};
use super::space::{BLOCK_BYTES, Space, whole_blocks};
use super::stable::Stability;
use super::treatment::passes_through;
use super::{Device, Filesystem, Reply, errno};
use crate::arena::Counters;
use crate::backing;
use crate::buffer::{FileBuffer, Geometry, Piece, Published, Slot, Step};
use crate::clock::{boottime_ms, realtime};
use crate::config::rules::Treatment;
use crate::drain::{DataFile, LaneQueue};
use crate::isolation::HandedOver;
use crate::killpoint::{self, Point};
use crate::schedule::{FileId, Load};
use crate::stats::recent::Recent;

/// What a file's lock guards.
pub(super) struct FileState {
    pub(super) buffer: FileBuffer,
    /// What the rules said of its path.
    pub(super) treatment: Treatment,
    /// One past the last byte that was stored and not cut off since: the backing file is at least
    /// that long.
    pub(super) stored_end: u64,
    /// Offset from which the next turn by age looks for bytes: one chunk after the other, so that
    /// none waits for ever behind one that is written again and again.
    pub(super) age_cursor: u64,
    /// Where on the device the last long turn ended.
    pub(super) place: Option<u64>,
    /// Operations under way that forbid taking bytes to the backing file.
    pub(super) barriers: u32,
    /// Requests that wait for the file to become clean or idle.
    pub(super) waiters: Vec<Waiter>,
    pub(super) stability: Stability,
    /// Since when bytes are missing before others that would make the file grow.
    pub(super) gap_since_ms: Option<u64>,
    pub(super) failure: Option<Failure>,
    /// How many failures and losses there were: a handle that has seen fewer reports an error.
    pub(super) failures: u64,
    /// Blocks that are allocated for what is to come.
    pub(super) reserved: Reserved,
    /// The size that was left when bytes were given up, until the kernel has taken it over.
    pub(super) cut_to: Option<u64>,
    /// The last name is gone: what is buffered need not be written once it is closed.
    pub(super) deleted: bool,
}

impl FileState {
    /// The file is at least that long. Not less while bytes go from the buffer to the backing file,
    /// so that it mends a size that was asked of the backing file before.
    pub(super) fn end(&self) -> u64 {
        self.buffer.end().max(self.stored_end)
    }

    /// The disk refused bytes after it had done so as many times.
    pub(super) fn was_refused_since(&self, attempts: u32) -> bool {
        self.failure.as_ref().is_some_and(|failure| failure.attempts > attempts)
    }

    /// Nothing is buffered, nothing waits, nothing is to be given back, and there is no loss to be
    /// shown: the node may be forgotten.
    pub(super) fn is_settled(&self) -> bool {
        let has_loss = self.stability.has_listed_loss() && !self.deleted;
        self.buffer.is_clean()
            && self.waiters.is_empty()
            && self.barriers == 0
            && !self.reserved.wants_cut()
            && !has_loss
    }
}

/// A regular file's part of a node.
pub(super) struct FileData {
    state: Mutex<FileState>,
    /// The file is known to have no capabilities (the extended attribute).
    pub(super) without_capabilities: AtomicBool,
    /// Mirrors [`Treatment::coalesce`], for the fast path.
    pub(super) passes_through: AtomicBool,
    /// It was written since the kernel looked it up, and the kernel does not know when.
    pub(super) was_written_through: AtomicBool,
    pub(super) queue: Arc<LaneQueue>,
    pub(super) space: Arc<Space>,
    pub(super) chunk: Arc<Chunk>,
    recent: Arc<Mutex<Recent>>,
}

impl FileData {
    pub(super) fn new(segment_bytes: u32, treatment: Treatment, device: Device) -> FileData {
        let chunk_bytes = treatment.chunk_bytes.unwrap_or_else(|| device.chunk.bytes());
        let geometry = Geometry { segment_bytes, chunk_bytes };
        let state = FileState {
            treatment,
            buffer: FileBuffer::new(geometry),
            stored_end: 0,
            age_cursor: 0,
            place: None,
            barriers: 0,
            waiters: Vec::new(),
            stability: Stability::new(),
            gap_since_ms: None,
            failure: None,
            failures: 0,
            reserved: Reserved::default(),
            cut_to: None,
            deleted: false,
        };
        FileData {
            state: Mutex::new(state),
            without_capabilities: AtomicBool::new(false),
            passes_through: AtomicBool::new(!treatment.coalesce),
            was_written_through: AtomicBool::new(false),
            queue: device.queue,
            space: device.space,
            chunk: device.chunk,
            recent: device.recent,
        }
    }

    /// What the lanes of its device did lately. A leaf: nothing else is locked under it.
    pub(super) fn recent(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().expect("no panics under this lock")
    }

    /// Divides the file as its rule says, or as is in force on its device by now; the chunk.
    pub(super) fn update_chunk(&self, state: &mut FileState) -> u64 {
        let chunk_bytes = state.treatment.chunk_bytes.unwrap_or_else(|| self.chunk.bytes());
        state.buffer.set_chunk_bytes(chunk_bytes);
        chunk_bytes
    }

    pub(super) fn try_lock(&self) -> TryLockResult<MutexGuard<'_, FileState>> {
        self.state.try_lock()
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, FileState> {
        self.state.lock().expect("no panics under this lock")
    }
}

/// The modification time of a file that is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mtime {
    /// It is now: this is the program's write().
    OfNow,
    /// With its writeback cache the kernel keeps the time, also of writes that pass the cache by,
    /// and sends it by SETATTR, before or after the bytes.
    OfKernel,
}

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Took {
    /// Its bytes are in the arena.
    All,
    /// There are not enough free segments.
    NoMemory,
    /// No disk space is held for it.
    NoSpace,
}

/// A write that finds no room: its bytes wait outside the arena.
pub(super) struct Write {
    pub(super) node: Arc<Node>,
    pub(super) offset: u64,
    pub(super) bytes: Vec<u8>,
    pub(super) mtime: Mtime,
    pub(super) since: Instant,
    pub(super) handed: HandedOver,
    pub(super) reply: Reply<u32>,
}

impl Filesystem {
    /// WRITE: takes all of `bytes` or none. The reply comes at once while there is room, later
    /// when not; on `Ok` the bytes outlive the death of the worker. Of a file that is not coalesced
    /// they are in the backing file then, and the result is that of pwrite(2). Errors: `ESTALE`, `EINVAL`,
    /// `EFBIG` for what the backing filesystem could never take, and the file's own error of writing
    /// while memory is full and that lasts.
    pub fn write(&self, id: u64, offset: u64, bytes: &[u8], mtime: Mtime, reply: Reply<u32>) {
        let counters = self.counters();
        Counters::add(&counters.write_requests, 1);
        let node = match self.node(id).and_then(|node| self.data(&node).map(|_| node.clone())) {
            Ok(node) => node,
            Err(error) => return reply(Err(error)),
        };
        if let Err(error) = self.check_end(&node, offset.saturating_add(bytes.len() as u64)) {
            return reply(Err(error));
        }
        if passes_through(&node) {
            self.kill_capabilities(&node);
            return self.write_through(&node, offset, bytes.to_vec(), reply);
        }
        Counters::add(&counters.bytes_in, bytes.len() as u64);
        if let Some(code) = self.refusal(&node) {
            return reply(Err(errno(code)));
        }
        self.kill_capabilities(&node);
        self.gate_arrived(&node, bytes.len());
        let took = match self.room.is_starved() {
            true => Took::NoMemory,
            false => self.try_write(&node, offset, bytes, mtime),
        };
        if took == Took::All {
            killpoint::pass(Point::WriteDone);
            return self.acknowledge(&node, bytes.len(), reply);
        }
        let handed = self.isolation.hand_over();
        let since = Instant::now();
        let write = Write { node, offset, bytes: bytes.to_vec(), mtime, since, handed, reply };
        match took {
            Took::NoSpace => self.space_jobs.add(Job::Place(write)),
            _ => self.starve(write),
        }
    }

    /// `EFBIG` when no file of the backing filesystem can be so long: once taken, the bytes could
    /// never be stored.
    fn check_end(&self, node: &Arc<Node>, end: u64) -> io::Result<()> {
        /// Every filesystem has files of this length.
        const ALWAYS_FITS: u64 = (2 << 30) - 1;
        if end <= ALWAYS_FITS {
            return Ok(());
        }
        let dev = node.identity.dev;
        let known = self.longest_files.read().expect("no panics under this lock");
        let found = known.iter().find(|(of, _)| *of == dev).map(|(_, longest)| *longest);
        drop(known);
        let is_root = || self.root_dev().is_ok_and(|root| root == dev);
        let told = || self.config.abilities.file_bytes_max.filter(|_| is_root());
        let found = found.or_else(told);
        let longest = match found {
            Some(longest) => longest,
            None => {
                let longest = backing::longest_file_bytes((*self.data_file(node)?).as_fd());
                let mut known = self.longest_files.write().expect("no panics under this lock");
                known.push((dev, longest));
                longest
            }
        };
        if end > longest { Err(errno(libc::EFBIG)) } else { Ok(()) }
    }

    /// Puts bytes into the arena, if there are segments and disk space for them.
    pub(super) fn try_write(
        &self,
        node: &Arc<Node>,
        offset: u64,
        bytes: &[u8],
        mtime: Mtime,
    ) -> Took {
        let Some(data) = node.data_if_any() else { return Took::NoMemory };
        let range = offset..offset + bytes.len() as u64;
        let mut steps = Vec::new();
        // Asked before the lock is taken: it may wait for an engine.
        let time = self.time_to_note(node, mtime);
        let mut state = data.lock();
        data.update_chunk(&mut state);
        let needed = state.buffer.slots_needed(offset, bytes.len());
        // At least what the slots will be charged with; then they are, and this is taken off.
        let charge_bytes = match state.reserved.covers(&range) {
            true => 0,
            false => bytes.len() as u64 + 2 * BLOCK_BYTES,
        };
        if !data.space.try_charge(charge_bytes) {
            return Took::NoSpace;
        }
        let Some(mut slots) = self.slots.try_take(needed) else {
            data.space.uncharge(charge_bytes);
            return Took::NoMemory;
        };
        let (seq, now_ms) = (self.arena.next_seq(), boottime_ms());
        let before = state.buffer.dirty_bytes();
        state.buffer.write(offset, bytes.len(), seq, now_ms, &mut slots, &mut steps);
        debug_assert!(slots.is_empty(), "slots_needed is exact");
        self.carry_out(node, &state, &steps, bytes);
        data.space.uncharge(charge_bytes);
        self.note_time(node, mtime, time);
        self.backlog_bytes.fetch_add(state.buffer.dirty_bytes() - before, Ordering::Relaxed);
        self.tell_queue(node, data, &state);
        self.ask_for_more(node, data);
        Took::All
    }

    /// The modification time to restore when the bytes are stored. The kernel's is what it said last:
    /// noted already, or set on the backing file while it was clean. An engine is not asked for what
    /// it said before.
    fn time_to_note(&self, node: &Arc<Node>, mtime: Mtime) -> Option<(i64, u32)> {
        if mtime == Mtime::OfNow {
            return Some(realtime());
        }
        if self.arena.nodes().mtime(node.slot).is_some() {
            return None;
        }
        let seen = node.seen().filter(|_| self.may_hang());
        let found = seen.or_else(|| self.backing_attr(node).ok());
        Some(found.map_or_else(realtime, |attr| (attr.mtime.secs, attr.mtime.nanos)))
    }

    /// Under the file's lock. What the kernel said in between stays; what was noted before may have
    /// been restored since.
    fn note_time(&self, node: &Arc<Node>, mtime: Mtime, time: Option<(i64, u32)>) {
        let table = self.arena.nodes();
        if mtime == Mtime::OfNow || table.mtime(node.slot).is_none() {
            table.set_mtime(node.slot, time.or_else(|| self.time_to_note(node, mtime)));
        }
    }

    /// Does to the arena what the buffer decided.
    pub(super) fn carry_out(&self, node: &Node, state: &FileState, steps: &[Step], bytes: &[u8]) {
        let Some(data) = node.data_if_any() else { return };
        let mut freed: Vec<Slot> = Vec::new();
        for step in steps {
            match *step {
                Step::Copy { slot, at, from, len } => {
                    self.arena.copy_in(slot, at, &bytes[from..from + len as usize]);
                    killpoint::pass(Point::WriteCopied);
                }
                Step::Move { from, to, at, len } => self.arena.copy_between(from, to, at, len),
                Step::Publish { slot, index, start, end, seq, born_ms } => {
                    let published = Published { slot, index, start, end, seq, born_ms };
                    self.arena.publish(node.id(), &published);
                    killpoint::pass(Point::WritePublished);
                    self.charge(data, state, &published);
                }
                Step::Free { slot } => {
                    self.arena.unpublish(slot);
                    self.charges.set(&data.space, slot, 0);
                    freed.push(slot);
                }
            }
        }
        if !freed.is_empty() {
            self.slots.give_back(freed);
        }
    }

    /// Charges the blocks that a slot's bytes may take on the disk.
    pub(super) fn charge(&self, data: &FileData, state: &FileState, published: &Published) {
        let from = published.index * u64::from(self.segment_bytes);
        let range = from + u64::from(published.start)..from + u64::from(published.end);
        let blocks = whole_blocks(&range);
        let is_reserved = state.reserved.covers(&range);
        let bytes = if is_reserved { 0 } else { blocks.end - blocks.start };
        self.charges.set(&data.space, published.slot, bytes);
    }

    /// What the scheduler has to know of a file.
    pub(super) fn load(&self, node: &Node, state: &FileState) -> Load {
        Load {
            dirty_bytes: state.buffer.dirty_bytes(),
            has_whole_chunk: state.buffer.whole_chunk().is_some(),
            oldest_ms: state.buffer.oldest_ms(),
            open: self.arena.nodes().open(node.slot) > 0,
            place: state.place,
            priority: state.priority(),
            max_age_ms: Some(state.treatment.max_age_ms),
        }
    }

    /// Tells the scheduler; under the file's lock, so that it hears of changes in their order.
    pub(super) fn tell_queue(&self, node: &Node, data: &FileData, state: &FileState) {
        let load = self.load(node, state);
        let file = FileId(node.id());
        data.queue.with(|scheduler| scheduler.update(file, load, boottime_ms()));
    }

    /// READ: the backing file's bytes with what is buffered laid over them. Short only at the end
    /// of the file. Bytes that the page cache of the backing filesystem has are read here; for
    /// others the pool waits for the disk. Errors: `ESTALE`, `EINVAL`, those of pread(2).
    pub fn read(&self, id: u64, offset: u64, len: u32, reply: Reply<Vec<u8>>) {
        let opened = self.node(id).and_then(|node| {
            self.data(&node)?;
            Ok(node)
        });
        let node = match opened {
            Ok(node) => node,
            Err(error) => return reply(Err(error)),
        };
        let overlay = self.snapshot(&node, offset, len as usize);
        if overlay.covers(len as usize) {
            return reply(Ok(overlay.bytes));
        }
        let file = match self.data_file(&node) {
            Ok(file) => file,
            Err(error) => return reply(Err(error)),
        };
        let mut bytes = vec![0; len as usize];
        match backing::try_read_at((*file).as_fd(), &mut bytes, offset) {
            Ok(Some(count)) => reply(Ok(overlay.lay_over(bytes, count))),
            Ok(None) | Err(_) => {
                let me = self.arc();
                self.pool.run(move || {
                    reply(me.read_below(&node, &file, len, offset, &overlay));
                });
            }
        }
    }

    /// As [`Filesystem::read`], on a thread that may wait.
    pub fn read_waiting(&self, id: u64, offset: u64, len: u32) -> io::Result<Vec<u8>> {
        let node = self.node(id)?;
        self.data(&node)?;
        let overlay = self.snapshot(&node, offset, len as usize);
        if overlay.covers(len as usize) {
            return Ok(overlay.bytes);
        }
        let file = self.data_file(&node)?;
        self.read_below(&node, &file, len, offset, &overlay)
    }

    /// What a dead descriptor does not give another one may.
    fn read_below(
        &self,
        node: &Arc<Node>,
        file: &DataFile,
        len: u32,
        offset: u64,
        overlay: &Overlay,
    ) -> io::Result<Vec<u8>> {
        read_and_lay(file, len, offset, overlay).or_else(|error| {
            let other = self.reopened(node, backing::errno(&error)).ok_or(error)?;
            read_and_lay(&other, len, offset, overlay)
        })
    }

    /// Copies what is buffered of a range. Taken before the backing file is read: a chunk that is
    /// stored in between is then still in the copy.
    fn snapshot(&self, node: &Node, offset: u64, len: usize) -> Overlay {
        let mut overlay = Overlay::default();
        let Some(data) = node.data_if_any() else { return overlay };
        let mut pieces: Vec<Piece> = Vec::new();
        let state = data.lock();
        state.buffer.overlay(offset, len, &mut pieces);
        overlay.file_len = state.buffer.end().saturating_sub(offset).min(len as u64) as usize;
        if pieces.is_empty() {
            return overlay;
        }
        overlay.bytes = vec![0; len];
        for piece in &pieces {
            let from = (piece.offset - offset) as usize;
            let to = from + piece.len as usize;
            self.arena.copy_out(piece.slot, piece.at, &mut overlay.bytes[from..to]);
            overlay.ranges.push((from, to));
        }
        drop(state);
        overlay.merge_ranges();
        overlay
    }
}

fn read_and_lay(file: &DataFile, len: u32, offset: u64, overlay: &Overlay) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; len as usize];
    let count = backing::read_at(file.as_fd(), &mut bytes, offset)?;
    Ok(overlay.lay_over(bytes, count))
}

/// Buffered bytes of a range, copied.
#[derive(Default)]
struct Overlay {
    bytes: Vec<u8>,
    /// Which of them are set: sorted, apart.
    ranges: Vec<(usize, usize)>,
    /// How much of the range is before the last buffered byte of the file, wherever that is.
    file_len: usize,
}

impl Overlay {
    fn merge_ranges(&mut self) {
        self.ranges.sort_unstable();
        let mut merged: Vec<(usize, usize)> = Vec::with_capacity(self.ranges.len());
        for &(from, to) in &self.ranges {
            match merged.last_mut() {
                Some((_, end)) if from <= *end => *end = to.max(*end),
                _ => merged.push((from, to)),
            }
        }
        self.ranges = merged;
    }

    fn covers(&self, len: usize) -> bool {
        self.ranges == [(0, len)]
    }

    /// Lays the copy over `bytes`, of which `count` came from the backing file; what is between
    /// its end and buffered bytes are zeros, as they will be when those are stored.
    fn lay_over(&self, mut bytes: Vec<u8>, count: usize) -> Vec<u8> {
        let end = self.file_len.max(count);
        if count < end {
            bytes[count..end].fill(0);
        }
        bytes.truncate(end);
        for &(from, to) in &self.ranges {
            bytes[from..to].copy_from_slice(&self.bytes[from..to]);
        }
        bytes
    }
}
