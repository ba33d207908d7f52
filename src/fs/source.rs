//! What lanes take from the filesystem, and what they report back.

use std::io;
use std::ops::Range;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Filesystem;
use super::data::FileState;
use super::failing::Failure;
use super::nodes::Node;
use super::reserve::Job;
use super::shared::Change;
use super::stable::Unsynced;
use crate::arena::Counters;
use crate::backing;
use crate::clock::boottime_ms;
use crate::drain::{DataFile, Plan, Run, Source, Written, whole_stripes};
use crate::killpoint::{self, Point};
use crate::schedule::{FileId, Load, Reason, turn_chunks};

/// How long bytes behind a gap wait for it to be filled: long against a request that another thread
/// has, short against a stall.
const GAP_WAIT_MS: u64 = 1000;
/// The same when the gap is the rest of a page that is there from the next one on: the kernel writes
/// from where it stopped the last time, and comes back for a page that was added to when it likes.
/// Not while memory is above its limit, when it may be unable to send it.
const PAGE_WAIT_MS: u64 = 8000;
const PAGE_BYTES: u64 = 4096;
/// A turn takes so much at most, unless a chunk is larger: others wait that long for theirs.
const TURN_BYTES_MAX: u64 = 64 << 20;
/// And such a part of the memory, so that the others can fill what is left.
const TURN_PART: u64 = 8;
/// How often a gap is looked at.
const GAP_LOOK_MS: u64 = 10;

/// Between a refusal for want of room and the next try, while others may be taking it.
const REFUSAL_PAUSE: Duration = Duration::from_millis(50);

/// To ask where less than that went costs more than it is worth.
const PLACED_BYTES_MIN: u64 = 1 << 20;

impl Source for Filesystem {
    fn plan_turn(&self, file: FileId, reason: Reason) -> Plan {
        let Ok(node) = self.node(file.0) else { return Plan::Nothing };
        let Some(data) = node.data_if_any() else { return Plan::Nothing };
        let moment = self.moment();
        // Asked before the lock is taken: it may wait for the disk.
        let attr = self.backing_attr(&node).ok();
        let backing_end = attr.map_or(0, |attr| attr.size);
        if let Some(attr) = attr {
            self.look_below(&node, &attr, moment);
        }
        let mut state = data.lock();
        let chunk_bytes = data.update_chunk(&mut state);
        let (turn_bytes, end) = (self.turn_bytes_max(chunk_bytes), backing_end);
        let Some(chunks) = state.plan_chunks(reason, turn_bytes, end) else {
            return Plan::Nothing;
        };
        let range = chunks.start * chunk_bytes..chunks.end.saturating_mul(chunk_bytes);
        let is_over = self.held_bytes() > self.limits.limit_bytes;
        let page_wait_ms = if is_over { GAP_WAIT_MS } else { PAGE_WAIT_MS };
        let cuts = Cuts { stripe_bytes: self.config.stripe_bytes, page_wait_ms };
        let plan = state.keep_order(range, reason, backing_end, cuts);
        if let Plan::Write(range) = &plan {
            let growth = backing_end..state.buffer.filled_to(backing_end, range.end);
            drop(state);
            self.allocate_growth(&node, growth);
        }
        plan
    }

    fn find_place(&self, file: FileId, offset: u64) -> Option<u64> {
        let node = self.node(file.0).ok()?;
        let data = node.data_if_any()?;
        let first = data.lock().buffer.first_fresh_from(offset)?;
        let place = backing::place_on_device((*self.writable_file(&node).ok()?).as_fd(), first)?;
        data.lock().place = Some(place);
        Some(place)
    }

    fn take_run(&self, file: FileId, range: Range<u64>, max_bytes: u64) -> io::Result<Option<Run>> {
        let Ok(node) = self.node(file.0) else { return Ok(None) };
        let Some(data) = node.data_if_any() else { return Ok(None) };
        // Opened before the lock is taken: it may wait for the disk.
        let refused = data.lock().failure.as_ref().map(|failure| failure.errno);
        let reopened = refused.and_then(|errno| self.reopened(&node, errno));
        let data_file = reopened.map_or_else(|| self.writable_file(&node), Ok)?;
        let mut state = data.lock();
        if state.barriers > 0 {
            return Ok(None);
        }
        let mut pieces = Vec::new();
        let start = state.buffer.first_fresh_from(range.start).unwrap_or(range.start);
        let max_bytes = whole_stripes(start, max_bytes, self.config.stripe_bytes);
        let len = state.buffer.take_run(range.start, range.end, max_bytes, &mut pieces);
        let Some(first) = pieces.first() else { return Ok(None) };
        if first.offset > state.stored_end && !reaches(&data_file, first.offset) {
            self.unreserve_before_jump(&node, &mut state);
        }
        self.begin_change(&node);
        killpoint::pass(Point::DrainTaken);
        let is_end_first = self.config.adds_sizes();
        Ok(Some(Run { file, offset: first.offset, len, pieces, data_file, is_end_first }))
    }

    fn stored(&self, run: Run, written: Written, took: Duration) {
        killpoint::pass(Point::DrainWritten);
        self.end_run(run.file, Change::Reaches(run.offset + run.len));
        let counters = self.counters();
        Counters::add(&counters.bytes_out, run.len);
        Counters::add(&counters.drain_writes, written.calls);
        Counters::add(&counters.direct_bytes, written.direct_bytes);
        self.stats.note_run(run.len, took);
        self.with_state(run.file, |node, state| {
            let mut steps = Vec::new();
            state.buffer.complete(&run.pieces, &mut steps);
            state.stored_end = state.stored_end.max(run.offset + run.len);
            let is_synced = written.is_synced;
            let unsynced = if is_synced { Unsynced::Attributes } else { Unsynced::Data };
            state.stability.note(unsynced);
            self.carry_out(node, state, &steps, &[]);
            self.backlog_bytes.fetch_sub(run.len, Ordering::Relaxed);
            if let Some(data) = node.data_if_any() {
                data.space.stored(run.len);
                data.chunk.note_run(run.file, run.len, written.direct_bytes, took);
                data.recent().note_run(run.len, took, boottime_ms());
                self.note_ahead(data, state);
                if data.space.wants_look() {
                    self.space_jobs.add(Job::Look(node.clone()));
                }
            }
            self.note_settled(node, state, run.offset..run.offset + run.len);
            self.release_waiters(state, None);
        });
        killpoint::pass(Point::DrainCompleted);
        self.room_made(run.len);
    }

    fn give_space(&self, run: &Run) -> bool {
        let node = self.node(run.file.0);
        node.is_ok_and(|node| {
            node.data_if_any().is_some_and(|data| {
                if data.space.may_be_taken(run.data_file.as_fd()) {
                    std::thread::sleep(REFUSAL_PAUSE);
                    return true;
                }
                data.space.give(run.len + run.len / 64 + (64 << 10))
            })
        }) || self.give_windows_back()
    }

    fn failed(&self, file: FileId, run: Option<Run>, error: io::Error) -> u64 {
        if run.is_some() {
            self.end_run(file, Change::Any);
        }
        let errno = crate::backing::errno(&error);
        let (mut retry_at_ms, mut lasting) = (boottime_ms(), None);
        self.with_state(file, |node, state| {
            if let Some(run) = &run {
                let mut steps = Vec::new();
                let before = state.buffer.dirty_bytes();
                state.buffer.fail(&run.pieces, &mut steps);
                self.carry_out(node, state, &steps, &[]);
                // What newer bytes replaced need not be written any more.
                let lost = (before + run.len).saturating_sub(state.buffer.dirty_bytes());
                self.backlog_bytes.fetch_sub(lost, Ordering::Relaxed);
            }
            let queue = node.data_if_any().map(|data| data.queue.clone());
            let is_elsewhere = queue.as_ref().is_some_and(|queue| queue.is_elsewhere());
            let is_outage = queue.is_some_and(|queue| queue.is_outage(errno));
            // What is stored elsewhere is synced: nothing that waits in a page cache is missed.
            if let Some(errno) = run.as_ref().and_then(|run| run.data_file.take_lost())
                && !is_elsewhere
            {
                state.note_loss(errno);
            }
            if state.failure.is_none() {
                let path = self.display_path(node);
                log::error!("cannot write to {path}: {error}; the data is kept and tried again");
            }
            let refused = run.as_ref().map(|run| run.offset..run.offset + run.len);
            retry_at_ms = match is_outage {
                true => state.note_unreached(errno, refused, self.config.patience_ms),
                false => state.note_failure(errno, refused),
            };
            let failure = state.failure.as_ref();
            lasting = failure.filter(|failure| failure.is_lasting()).map(|_| errno);
            let is_told = failure.is_some_and(Failure::is_told);
            self.note_failing(node);
            self.release_waiters(state, is_told.then_some(errno));
        });
        if matches!(errno, libc::ENOSPC | libc::EDQUOT) {
            // Before it is tried again; a quota counts what is allocated ahead.
            self.give_windows_back();
        }
        self.refuse_waiting(file, lasting);
        self.next_try_ms(retry_at_ms)
    }

    fn turn_ended(&self, file: FileId, reason: Reason, bytes: u64, end: &mut dyn FnMut(Load)) {
        let counters = self.counters();
        if bytes > 0 {
            Counters::add(&counters.drain_turns, 1);
        }
        let mut is_known = false;
        let mut settled = None;
        // Asked before the lock is taken: it may wait for the disk.
        let place = self.place_after(file, bytes);
        self.step_chunk(file);
        self.with_state(file, |node, state| {
            state.place = place.or(state.place);
            if let Some(data) = node.data_if_any().filter(|_| bytes > 0) {
                data.recent().note_turn(boottime_ms());
            }
            if reason == Reason::WholeChunk {
                let chunk_bytes = state.buffer.chunk_bytes();
                Counters::add(&counters.whole_chunk_bytes, bytes / chunk_bytes * chunk_bytes);
            }
            if self.arena.nodes().open(node.slot) == 0 {
                self.trim(node, state);
            }
            self.give_back_of_deleted(node, state);
            self.restore_times(node, state);
            end(self.load(node, state));
            is_known = true;
            settled = state.is_settled().then(|| node.clone());
        });
        if !is_known {
            end(Load::default());
        }
        if let Some(node) = settled {
            self.drop_if_unused(&node);
        }
    }

    fn turn_refused(&self, file: FileId, end: &mut dyn FnMut(Load, u64)) {
        let is_news =
            |node: &Arc<Node>| node.data_if_any().is_some_and(|data| data.lock().failure.is_none());
        if let Ok(node) = self.node(file.0)
            && is_news(&node)
        {
            let path = self.display_path(&node);
            log::error!("workers died of writing {path} again and again; this is left for a while");
        }
        let retry_at_ms = self.failed(file, None, io::Error::from_raw_os_error(libc::EIO));
        let mut is_known = false;
        self.with_state(file, |node, state| {
            end(self.load(node, state), retry_at_ms);
            is_known = true;
        });
        if !is_known {
            end(Load::default(), retry_at_ms);
        }
    }
}

/// Whether the backing file is so long: of one that was there before, nothing may be stored yet.
fn reaches(file: &DataFile, offset: u64) -> bool {
    backing::attr(file.as_fd()).is_ok_and(|attr| attr.size >= offset)
}

/// Where a turn may be cut before bytes that are missing.
struct Cuts {
    /// Turns of whole chunks only at such multiples, where chunks are.
    stripe_bytes: Option<u64>,
    /// How long the rest of a page is waited for.
    page_wait_ms: u64,
}

impl FileState {
    /// The chunks whose bytes a turn takes: one, or as many whole ones in a row as
    /// [`turn_chunks`] allows while many have come, and with them what is left of the one before;
    /// where the file grows, all up to there. A stream then leaves in the order in which it was
    /// written. Of a file that cannot be written one chunk: what can be stored must not wait
    /// behind what cannot.
    pub(super) fn plan_chunks(
        &mut self,
        reason: Reason,
        turn_bytes_max: u64,
        backing_end: u64,
    ) -> Option<Range<u64>> {
        let chunk_bytes = self.buffer.chunk_bytes();
        let first = self.buffer.first_chunk()?;
        let is_failing = self.failure.is_some();
        let reason = if is_failing { Reason::Age } else { reason };
        let grows = |chunk: u64| chunk.saturating_add(1).saturating_mul(chunk_bytes) > backing_end;
        match reason {
            Reason::WholeChunk => {
                let whole = self.buffer.whole_chunk().unwrap_or(first);
                let is_next = first + 1 == whole;
                let from = if is_next || grows(whole) { first } else { whole };
                let chunks = self.whole_from(whole, turn_bytes_max);
                Some(from..whole + turn_chunks(reason, chunks))
            }
            Reason::Age => {
                let cursor = self.age_cursor / chunk_bytes;
                let chunk = self.buffer.first_chunk_from(cursor).unwrap_or(first);
                let from = if grows(chunk) { first } else { chunk };
                let most = if is_failing { 0 } else { turn_bytes_max };
                let end = self.age_end(chunk, most);
                self.age_cursor = end.saturating_mul(chunk_bytes);
                Some(from..end)
            }
            _ => Some(first..first + 1),
        }
    }

    /// Where a turn for age ends that begins with `chunk`: whole chunks that lie behind one that is
    /// not go with it, since the next turn would begin there.
    fn age_end(&self, chunk: u64, bytes_max: u64) -> u64 {
        let chunks = self.whole_from(chunk, bytes_max);
        if chunks > 0 {
            return chunk + turn_chunks(Reason::Age, chunks);
        }
        match self.whole_from(chunk + 1, bytes_max) {
            0 => chunk + 1,
            chunks => chunk + 1 + turn_chunks(Reason::Age, chunks),
        }
    }

    /// Whole chunks in a row from `chunk` on, as far as a turn reaches.
    fn whole_from(&self, chunk: u64, bytes_max: u64) -> u64 {
        let chunk_bytes = self.buffer.chunk_bytes();
        let start = chunk.saturating_mul(chunk_bytes);
        let filled = self.buffer.filled_to(start, start.saturating_add(bytes_max));
        (filled.min(start.saturating_add(bytes_max)) - start) / chunk_bytes
    }

    /// Cuts the range where bytes are missing past the end of the backing file, or puts the turn
    /// off when nothing is left of it: the kernel's requests are served side by side, and the
    /// missing bytes may be in one that was sent before. Not when somebody waits, nor after a close:
    /// the kernel has handed over everything then. And not for long: the file may have a hole there.
    /// A turn of whole chunks ends with a stripe also then, so that the next one begins with one; and
    /// one that is to make room, where it has a stripe.
    fn keep_order(
        &mut self,
        range: Range<u64>,
        reason: Reason,
        backing_end: u64,
        cuts: Cuts,
    ) -> Plan {
        let may_wait = matches!(reason, Reason::Age | Reason::WholeChunk | Reason::Pressure);
        let filled = self.buffer.filled_to(backing_end, range.end);
        if !may_wait || filled >= range.end.min(self.buffer.end()) {
            self.gap_since_ms = None;
            // What arrives while the turn is under way may be behind a gap.
            let end = if may_wait { range.end.min(filled) } else { range.end };
            return Plan::Write(range.start..self.room_end(range.start, end, reason, &cuts));
        }
        let now_ms = boottime_ms();
        let page_end = filled.next_multiple_of(PAGE_BYTES);
        let is_in_page = filled < page_end && self.buffer.has_fresh_in(&(page_end..page_end + 1));
        let wait_ms = if is_in_page { cuts.page_wait_ms } else { GAP_WAIT_MS };
        if now_ms > *self.gap_since_ms.get_or_insert(now_ms) + wait_ms {
            return Plan::Write(range);
        }
        let end = match cuts.stripe_bytes {
            Some(bytes) if reason == Reason::WholeChunk && range.end.is_multiple_of(bytes) => {
                filled / bytes * bytes
            }
            _ => self.room_end(range.start, filled, reason, &cuts),
        };
        if range.start < end && self.buffer.has_fresh_in(&(range.start..end)) {
            return Plan::Write(range.start..end);
        }
        Plan::NotBefore(now_ms + GAP_LOOK_MS)
    }

    /// Where a turn ends that is to make room: with a stripe where it has one, as what is left of the
    /// next one would cost as much as all of it. Other turns at `end`.
    fn room_end(&self, start: u64, end: u64, reason: Reason, cuts: &Cuts) -> u64 {
        let whole = cuts.stripe_bytes.map_or(end, |bytes| end - end % bytes.max(1));
        let has_stripe = start < whole && self.buffer.has_fresh_in(&(start..whole));
        if reason == Reason::Pressure && has_stripe { whole } else { end }
    }
}

impl Filesystem {
    /// Where the file ends on the device, after a turn of so many bytes: a small one tells little of
    /// where the next will be.
    fn place_after(&self, file: FileId, bytes: u64) -> Option<u64> {
        let node = self.node(file.0).ok()?;
        if bytes < PLACED_BYTES_MIN {
            return None;
        }
        let end = node.data_if_any()?.lock().stored_end;
        let data_file = self.writable_file(&node).ok()?;
        backing::place_on_device((*data_file).as_fd(), end.checked_sub(1)?)
    }

    /// The most bytes of whole chunks that one turn takes: when writers are faster than the disk,
    /// the turns are as long as memory lets them be, with as few seeks between them.
    fn turn_bytes_max(&self, chunk_bytes: u64) -> u64 {
        (self.limits.limit_bytes / TURN_PART).min(TURN_BYTES_MAX).max(chunk_bytes)
    }

    /// The chunks of a device may change after a turn: never while one is planned.
    fn step_chunk(&self, file: FileId) {
        let mut streams = 0;
        self.each_queue(|queue| {
            streams += queue.with(|scheduler| scheduler.open_streams()) as u64;
        });
        if let Ok(node) = self.node(file.0)
            && let Some(data) = node.data_if_any()
            && data.chunk.step(streams)
        {
            self.set_urgency();
        }
    }

    /// What [`Source::take_run`] began is over.
    fn end_run(&self, file: FileId, change: Change) {
        if let Ok(node) = self.node(file.0) {
            self.end_change(&node, change);
        }
    }

    fn with_state(&self, file: FileId, act: impl FnOnce(&Arc<Node>, &mut FileState)) {
        if let Ok(node) = self.node(file.0)
            && let Some(data) = node.data_if_any()
        {
            act(&node, &mut data.lock());
        }
    }
}
