//! Space on the disk for what is written: reserved before the acknowledgement, given back after.
//!
//! A write that `space` covers is acknowledged at once. One that it does not waits for the thread
//! here, which holds more, or reserves the file's own blocks, or answers `ENOSPC`. What a turn is
//! about to store is allocated at once before (fallocate(2) with FALLOC_FL_KEEP_SIZE, so that the
//! size never shows it); what is left of that is given back when the file is closed and stored.

use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};

use super::data::{FileData, FileState, Took, Write};
use super::nodes::{Node, ROOT_ID};
use super::space::{BLOCK_BYTES, whole_blocks};
use super::stable::Unsynced;
use super::{Filesystem, errno};
use crate::backing::{self, Ballast, SetTime};
use crate::buffer::Piece;
use crate::config::Layout;
use crate::drain::{DataFile, is_of_connection};

/// Less is allocated by writing it: small files cost no call more.
const GROWTH_BYTES_MIN: u64 = 1 << 20;
/// But what ends within a block, and is written around the page cache up to there: XFS gives that block
/// to the page cache with as much again behind it, and the next file lies behind that.
const CUT_BYTES_MIN: u64 = 256 << 10;

/// What the thread is asked for.
pub(super) enum Job {
    /// To find space for a write, or to refuse it.
    Place(Write),
    /// To give back what a closed file does not need.
    Trim(Arc<Node>),
    /// To look whether more or less should be held for the filesystem of this file.
    Look(Arc<Node>),
}

/// What the thread has to do.
pub(super) struct Jobs {
    sender: Sender<Job>,
    receiver: Receiver<Job>,
    /// Writes among them.
    writes: AtomicU64,
}

impl Jobs {
    pub(super) fn new() -> Jobs {
        let (sender, receiver) = unbounded();
        Jobs { sender, receiver, writes: AtomicU64::new(0) }
    }

    /// The queue is bounded by what the kernel has in flight, and two entries for each file.
    pub(super) fn add(&self, job: Job) {
        if let Job::Place(_) = &job {
            self.writes.fetch_add(1, Ordering::Relaxed);
        }
        self.sender.send(job).expect("the filesystem keeps a receiver");
    }

    /// Writes that wait for space.
    pub(super) fn waiting(&self) -> u64 {
        self.writes.load(Ordering::Relaxed)
    }
}

/// Blocks of a file that are allocated already.
#[derive(Clone, Debug, Default)]
pub(super) struct Reserved {
    range: Range<u64>,
    /// How often what is allocated was given back.
    cuts: u64,
    /// What the filesystem's figures count of it as allocated ahead.
    counted_bytes: u64,
    /// Some were allocated, to be given back; after a restart it is not known which.
    pub(super) is_any: bool,
    /// All were given back, but once fallocate(2) was used on a file, XFS keeps what it allocates
    /// itself for bytes that come through the page cache, so the file is cut again when it is closed.
    is_cut_at_close: bool,
    /// Blocks are being allocated, which moves the modification time of the backing file.
    pub(super) is_allocating: bool,
    /// The program allocates itself: nothing is to be given back.
    pub(super) is_programs: bool,
}

impl Reserved {
    pub(super) fn covers(&self, range: &Range<u64>) -> bool {
        self.range.start <= range.start && range.end <= self.range.end
    }

    pub(super) fn add(&mut self, range: Range<u64>) {
        self.is_any = true;
        let joins = range.start <= self.range.end && self.range.start <= range.start;
        let start = if joins { self.range.start } else { range.start };
        self.range = start..range.end.max(if joins { self.range.end } else { 0 });
    }

    fn uncover(&mut self) {
        self.cuts += 1;
        self.range = 0..0;
    }

    fn clear(&mut self, is_closed: bool) {
        self.uncover();
        self.is_any = false;
        self.is_cut_at_close = !is_closed && !self.is_programs;
    }

    /// The file is to be cut at its end when it is closed and stored.
    pub(super) fn wants_cut(&self) -> bool {
        self.is_any || self.is_cut_at_close
    }

    /// Some are allocated, or will be in a moment.
    pub(super) fn may_be_any(&self) -> bool {
        self.is_any || self.is_allocating
    }

    /// Blocks allocated beyond `end`, in bytes.
    pub(super) fn bytes_past(&self, end: u64) -> u64 {
        self.range.end.saturating_sub(self.range.start.max(end.next_multiple_of(BLOCK_BYTES)))
    }
}

impl Filesystem {
    /// Starts the thread. It lives as long as the process.
    pub(super) fn start_reserving(&self) -> io::Result<()> {
        let (me, jobs) = (self.me.clone(), self.space_jobs.receiver.clone());
        std::thread::Builder::new().name("space".into()).spawn(move || {
            for job in jobs {
                let Some(me) = me.upgrade() else { return };
                me.do_job(job);
            }
        })?;
        Ok(())
    }

    fn do_job(&self, job: Job) {
        let is_trim = matches!(job, Job::Trim(_));
        let (node, act): (_, fn(&Filesystem, &Arc<Node>)) = match job {
            Job::Place(write) => {
                let _in_hand = self.isolation.resume(write.handed);
                self.place(write);
                self.space_jobs.writes.fetch_sub(1, Ordering::Relaxed);
                return;
            }
            Job::Trim(node) => (node, Filesystem::trim_closed),
            Job::Look(node) => (node, |me, node| {
                // Whoever needs more will ask again, and hear of it.
                if let Err(error) = me.look_at_space(node, 0) {
                    log::debug!("cannot hold more space: {error}");
                }
            }),
        };
        let me = self.arc();
        let act = move || {
            if let Some(_in_hand) = me.isolation.begin_writing(node.id()) {
                act(&me, &node);
            }
        };
        // Writes that want room are not to wait behind what an engine is asked for.
        if is_trim && self.may_hang() { self.pool.run(act) } else { act() }
    }

    /// Takes a write for which no space was held, or refuses it.
    fn place(&self, write: Write) {
        let range = write.offset..write.offset + write.bytes.len() as u64;
        let node = write.node.clone();
        let need_bytes = range.end - range.start + 2 * BLOCK_BYTES;
        let ways: [&dyn Fn() -> io::Result<()>; 4] = [
            &|| self.look_at_space(&node, need_bytes),
            &|| self.reserve_blocks(&node, &range),
            &|| {
                self.trim_idle();
                self.wait_for_windows();
                self.look_at_space(&node, need_bytes)
            },
            &|| self.reserve_blocks(&node, &range),
        ];
        let mut refusal = errno(libc::ENOSPC);
        for find_space in ways {
            if let Err(error) = find_space() {
                refusal = error;
            }
            match self.try_write(&write.node, write.offset, &write.bytes, write.mtime) {
                Took::All => {
                    self.note_stall(write.since.elapsed());
                    return self.acknowledge(&write.node, write.bytes.len(), write.reply);
                }
                Took::NoMemory => return self.starve(write),
                Took::NoSpace => {}
            }
        }
        if backing::errno(&refusal) == libc::EOPNOTSUPP {
            refusal = errno(libc::ENOSPC);
        }
        let is_news = node.data_if_any().is_none_or(|data| data.space.is_news_of_refusal());
        let level = if is_news { log::Level::Warn } else { log::Level::Debug };
        log::log!(level, "no space for {}: {refusal}", self.display_path(&node));
        self.note_stall(write.since.elapsed());
        (write.reply)(Err(refusal));
    }

    /// Something to begin with, so that the first writes need not wait for it.
    pub(super) fn hold_first_space(&self) -> io::Result<()> {
        let root = self.node(ROOT_ID)?;
        // Makes the device known.
        self.device(root.identity.dev)?;
        self.space_jobs.add(Job::Look(root));
        Ok(())
    }

    /// Whether space is held, or counted, where the backing directory is.
    #[cfg(test)]
    pub(super) fn holds_space(&self) -> bool {
        self.root_dev()
            .and_then(|dev| self.device(dev))
            .is_ok_and(|device| device.space.holds_any())
    }

    /// An engine has some seconds to say. What it does not tell is taken for room: writes are not to
    /// wait for it, and what it refuses later is kept, as where space is only counted.
    fn look_at_space(&self, node: &Arc<Node>, need_bytes: u64) -> io::Result<()> {
        const LIMIT: Duration = Duration::from_secs(5);
        let device = self.device(node.identity.dev)?;
        if !device.queue.is_elsewhere() {
            return self.look_for_space(node, need_bytes);
        }
        if !device.space.begin_asking() {
            return Ok(());
        }
        let (me, (tell, told)) = (self.arc(), bounded(1));
        let (space, of) = (device.space.clone(), node.clone());
        self.pool.run(move || {
            let result = me.look_for_space(&of, need_bytes);
            space.end_asking();
            // Nobody listens after the limit.
            let _ = tell.send(result);
        });
        let looked = told.recv_timeout(LIMIT);
        if looked.is_err() && !device.space.assume_room() {
            // It answered in that moment.
            self.space_jobs.add(Job::Look(node.clone()));
        }
        match looked {
            Ok(Err(error)) if is_of_connection(backing::errno(&error)) => {
                device.space.assume_room_for(need_bytes);
                Ok(())
            }
            Ok(looked) => looked,
            Err(_) => Ok(()),
        }
    }

    fn look_for_space(&self, node: &Arc<Node>, need_bytes: u64) -> io::Result<()> {
        let (dev, root_dev) = (node.identity.dev, self.root_dev()?);
        let space = self.device(dev)?.space;
        let dir = if dev == root_dev {
            self.root().try_clone_to_owned()?
        } else {
            let (parent, _) = self.arena.nodes().place(node.slot);
            self.path_fd(&self.node(parent)?)?.try_clone()?
        };
        let result = space.look(need_bytes, dir.as_fd());
        if dev == root_dev {
            self.arena.control().set_ballast_fd(space.ballast_descriptor());
        }
        result
    }

    /// Allocates the blocks of a range: they may be there already, as those of bytes that are
    /// written again. Not where every write takes new blocks.
    fn reserve_blocks(&self, node: &Arc<Node>, range: &Range<u64>) -> io::Result<()> {
        let data = self.data(node)?;
        let file = self.writable_file(node)?;
        let blocks = whole_blocks(range);
        let bytes = blocks.end - blocks.start;
        if backing::copies_on_write((*file).as_fd()) {
            return Err(errno(libc::ENOSPC));
        }
        let is_data = backing::seek((*file).as_fd(), blocks.start as i64, libc::SEEK_HOLE)
            .is_ok_and(|hole| hole as u64 >= range.end);
        if !is_data && !data.space.leaves_free((*file).as_fd(), bytes) {
            return Err(errno(libc::ENOSPC));
        }
        self.allocate_ahead(node, (*file).as_fd(), &blocks)
    }

    /// The modification time is noted before, and set right after. What is cut off meanwhile does
    /// not count as allocated.
    fn allocate_ahead(
        &self,
        node: &Arc<Node>,
        file: BorrowedFd,
        blocks: &Range<u64>,
    ) -> io::Result<()> {
        if self.is_shared() {
            // It is given back by cutting the file at its end, which another node may be moving.
            return Err(errno(libc::EOPNOTSUPP));
        }
        let (table, data) = (self.arena.nodes(), self.data(node)?);
        table.set_reserved(node.slot, true);
        let mut state = data.lock();
        if table.mtime(node.slot).is_none() {
            let mtime = backing::attr(file)?.mtime;
            table.set_mtime(node.slot, Some((mtime.secs, mtime.nanos)));
        }
        state.reserved.is_allocating = true;
        let cuts = state.reserved.cuts;
        drop(state);
        let mode = libc::FALLOC_FL_KEEP_SIZE;
        let allocated = self.storage.allocate(file, mode, blocks.start, blocks.end - blocks.start);
        let mut state = data.lock();
        state.reserved.is_allocating = false;
        // What was allocated before it failed is to be given back, too.
        state.reserved.is_any = true;
        if allocated.is_ok() && state.reserved.cuts == cuts {
            state.reserved.add(blocks.clone());
            self.charge_again(data, &mut state);
        }
        self.restore_times(node, &mut state);
        allocated
    }

    /// Whether more space should be held; asked with each write.
    pub(super) fn ask_for_more(&self, node: &Arc<Node>, data: &FileData) {
        if data.space.wants_look() {
            self.space_jobs.add(Job::Look(node.clone()));
        }
    }

    /// Allocates what a turn is about to store beyond the end of the file, all at once: the
    /// filesystem puts it behind what the turn before got, and the head goes on from there. Left to
    /// the writes, ext4 would put each file's next bytes beside its last ones. With `--layout file`
    /// much more than that, see `ahead`. Best effort: the space itself is held already.
    pub(super) fn allocate_growth(&self, node: &Arc<Node>, growth: Range<u64>) {
        let Ok(data) = self.data(node) else { return };
        let blocks = whole_blocks(&growth);
        let bytes = blocks.end.saturating_sub(blocks.start);
        let is_wanted = {
            let state = data.lock();
            state.barriers == 0 && !state.reserved.is_programs && !state.reserved.covers(&growth)
        };
        let is_cut = !growth.end.is_multiple_of(BLOCK_BYTES);
        let long_bytes = if is_cut { CUT_BYTES_MIN } else { GROWTH_BYTES_MIN };
        let bytes_min = if self.config.layout == Layout::File { 1 } else { long_bytes };
        // GlusterFS with sharding does not answer fallocate(2) for a shard whose former ones are missing.
        if bytes < bytes_min || !is_wanted || self.is_shared() || self.config.adds_sizes() {
            return;
        }
        let allocated = self.writable_file(node).and_then(|file| {
            let file = (*file).as_fd();
            let window = self.window(node, data, file, &blocks);
            let is_long = window.end - window.start >= long_bytes;
            let has_places = !backing::copies_on_write(file) && !backing::is_in_memory(file);
            if !is_long || !has_places || !data.space.leaves_free(file, bytes) {
                return Ok(());
            }
            match self.allocate_ahead(node, file, &window) {
                // A quota.
                Err(_) if window != blocks => self.allocate_ahead(node, file, &blocks),
                allocated => allocated,
            }
        });
        if let Err(error) = allocated {
            log::debug!("a turn's blocks are not allocated at once: {error}");
        }
    }

    /// Gives back what closed files do not need.
    fn trim_closed(&self, node: &Arc<Node>) {
        if let Some(data) = node.data_if_any() {
            let mut state = data.lock();
            if self.arena.nodes().open(node.slot) == 0 {
                self.trim(node, &mut state);
            }
            self.give_back_of_deleted(node, &mut state);
            drop(state);
            self.drop_if_unused(node);
        }
    }

    /// The disk is short: gives back what nothing buffered needs.
    fn trim_idle(&self) {
        let nodes: Vec<Arc<Node>> = self.nodes.read().values().cloned().collect();
        for node in nodes {
            if let Some(data) = node.data_if_any() {
                self.trim(&node, &mut data.lock());
            }
        }
    }

    /// Gives back what is allocated beyond the end of a file with nothing buffered. Its
    /// modification time stays.
    pub(super) fn trim(&self, node: &Arc<Node>, state: &mut FileState) {
        let is_closed = self.arena.nodes().open(node.slot) == 0;
        let is_wanted = state.reserved.is_any || is_closed && state.reserved.is_cut_at_close;
        if !is_wanted || !state.buffer.is_clean() || state.barriers > 0 {
            return;
        }
        let cut = || {
            if state.deleted && is_closed || state.reserved.is_programs {
                return Ok(());
            }
            let file = self.writable_file(node)?;
            self.cut_at_end(&file)
        };
        if let Err(error) = cut() {
            log::warn!("space beyond the end of {} stays: {error}", self.display_path(node));
        }
        state.stability.note(Unsynced::Attributes);
        self.unreserve(node, state);
    }

    /// Cutting a file at its own end frees what is allocated beyond. It makes the size durable, so
    /// the bytes before it go first. And it clears the rest of the last block, which then has to be
    /// written once more, at the place where each file ends: so not where there is nothing to free.
    fn cut_at_end(&self, file: &DataFile) -> io::Result<()> {
        let attr = backing::attr(file.as_fd())?;
        let has_none = backing::keeps_extents(file.as_fd())
            && !backing::may_have_blocks_past(file.as_fd(), attr.size);
        if has_none {
            return Ok(());
        }
        file.settle_before(&*self.storage, attr.size)?;
        self.storage.set_size(file.as_fd(), attr.size)?;
        backing::set_times(file.as_fd(), SetTime::Omit, SetTime::At(attr.mtime))
    }

    /// Before the backing file gets longer by other means than storing the stream's next bytes:
    /// what is allocated would become part of it, where a plain file has a hole. Only while nothing
    /// is being stored, which the cut would take off again.
    pub(super) fn unreserve_before_jump(&self, node: &Arc<Node>, state: &mut FileState) {
        if !state.reserved.is_any || state.reserved.is_programs {
            return state.reserved.uncover();
        }
        let cut = self.writable_file(node).and_then(|file| self.cut_at_end(&file));
        if let Err(error) = cut {
            log::warn!("space beyond the end of {} stays: {error}", self.display_path(node));
        }
        self.unreserve(node, state);
    }

    /// What is buffered is charged again.
    fn unreserve(&self, node: &Arc<Node>, state: &mut FileState) {
        state.reserved.clear(self.arena.nodes().open(node.slot) == 0);
        self.arena.nodes().set_reserved(node.slot, state.reserved.wants_cut());
        let Some(data) = node.data_if_any() else { return };
        self.charge_again(data, state);
        self.space_jobs.add(Job::Look(node.clone()));
    }

    /// What is reserved of a file has changed: what is buffered is charged for blocks that it does
    /// not cover, and for no others, so that no room is held twice.
    pub(super) fn charge_again(&self, data: &FileData, state: &mut FileState) {
        let mut pieces: Vec<Piece> = Vec::new();
        state.buffer.overlay(0, state.buffer.end() as usize, &mut pieces);
        for piece in pieces {
            let range = piece.offset..piece.offset + u64::from(piece.len);
            let blocks = whole_blocks(&range);
            let is_reserved = state.reserved.covers(&range);
            let bytes = if is_reserved { 0 } else { blocks.end - blocks.start };
            self.charges.set(&data.space, piece.slot, bytes);
        }
        self.note_ahead(data, state);
    }

    /// Tells the filesystem's figures what is allocated beyond all that is buffered.
    pub(super) fn note_ahead(&self, data: &FileData, state: &mut FileState) {
        let bytes = state.reserved.bytes_past(state.end());
        data.space.note_ahead(std::mem::replace(&mut state.reserved.counted_bytes, bytes), bytes);
    }

    /// The space that a former worker held for what is buffered.
    pub(super) fn adopt_ballast(&self) -> io::Result<()> {
        let Some(fd) = self.arena.control().ballast_fd() else { return Ok(()) };
        let dev = self.root_dev()?;
        // SAFETY: its owner, the former worker, is dead.
        match unsafe { Ballast::adopt(fd, dev) } {
            Some(ballast) => self.device(dev)?.space.adopt(ballast),
            None => self.arena.control().set_ballast_fd(None),
        }
        Ok(())
    }

    /// Everything is stored and the mount ends: nothing is held any more.
    pub fn release_space(&self) {
        self.trim_idle();
        for (_, device) in self.devices.read().expect("no panics under this lock").iter() {
            device.space.give_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reservations_grow_and_are_replaced() {
        let mut reserved = Reserved::default();
        assert!(!reserved.covers(&(0..1)));
        reserved.add(0..8192);
        reserved.add(8192..16384);
        assert!(reserved.covers(&(0..16384)));
        assert_eq!(reserved.bytes_past(100), 12288);
        reserved.add(4096..8192);
        assert!(reserved.covers(&(0..16384)), "a part of it");
        reserved.add(40960..45056);
        assert!(!reserved.covers(&(0..10)) && reserved.covers(&(40960..45056)));
        reserved.clear(false);
        assert!(!reserved.is_any && reserved.bytes_past(0) == 0);
        assert!(reserved.wants_cut(), "XFS may still allocate by itself");
        reserved.clear(true);
        assert!(!reserved.wants_cut());
    }
}
