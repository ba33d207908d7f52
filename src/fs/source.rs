//! What lanes take from the filesystem, and what they report back.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::Filesystem;
use super::data::{Failure, FileState};
use super::nodes::Node;
use super::reserve::Job;
use crate::arena::Counters;
use crate::drain::{Run, Source, Written};
use crate::schedule::{FileId, Load, Reason};

impl Source for Filesystem {
    fn turn_range(&self, file: FileId, reason: Reason) -> Option<Range<u64>> {
        let node = self.node(file.0).ok()?;
        let mut state = node.data_if_any()?.lock();
        let chunks = state.plan_turn(reason)?;
        let chunk_bytes = self.geometry.chunk_bytes;
        Some(chunks.start * chunk_bytes..chunks.end.saturating_mul(chunk_bytes))
    }

    fn take_run(&self, file: FileId, range: Range<u64>, max_bytes: u64) -> io::Result<Option<Run>> {
        let Ok(node) = self.node(file.0) else { return Ok(None) };
        let Some(data) = node.data_if_any() else { return Ok(None) };
        // Opened before the lock is taken: it may wait for the disk.
        let data_file = self.writable_file(&node)?;
        let mut state = data.lock();
        if state.barriers > 0 {
            return Ok(None);
        }
        let mut pieces = Vec::new();
        let len = state.buffer.take_run(range.start, range.end, max_bytes, &mut pieces);
        let Some(first) = pieces.first() else { return Ok(None) };
        if first.offset > state.stored_end {
            self.unreserve_before_jump(&node, &mut state);
        }
        state.unsynced = true;
        Ok(Some(Run { file, offset: first.offset, len, pieces, data_file }))
    }

    fn stored(&self, run: Run, written: Written) {
        let counters = self.counters();
        Counters::add(&counters.bytes_out, run.len);
        Counters::add(&counters.drain_writes, written.calls);
        Counters::add(&counters.direct_bytes, written.direct_bytes);
        self.with_state(run.file, |node, state| {
            let mut steps = Vec::new();
            state.buffer.complete(&run.pieces, &mut steps);
            state.stored_end = state.stored_end.max(run.offset + run.len);
            self.carry_out(node, state, &steps, &[]);
            self.backlog_bytes.fetch_sub(run.len, Ordering::Relaxed);
            if let Some(data) = node.data_if_any() {
                data.space.stored(run.len);
                if data.space.wants_look() {
                    self.space_jobs.add(Job::Look(node.clone()));
                }
            }
            if state.failure.take().is_some() {
                log::info!("writing to {} works again", self.display_path(node));
                self.failing.lock().expect("no panics under this lock").remove(&node.id());
            }
            self.release_waiters(state, None);
        });
        self.room_made();
    }

    fn give_space(&self, run: &Run) -> bool {
        let node = self.node(run.file.0);
        node.is_ok_and(|node| {
            let data = node.data_if_any();
            data.is_some_and(|data| data.space.give(run.len + run.len / 64 + (64 << 10)))
        })
    }

    fn failed(&self, file: FileId, run: Option<Run>, error: io::Error) -> u64 {
        let errno = crate::backing::errno(&error);
        let mut attempts = 0;
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
            attempts = state.failure.map_or(0, |failure| failure.attempts);
            if attempts == 0 {
                let path = self.display_path(node);
                log::error!("cannot write to {path}: {error}; the data is kept and tried again");
            }
            state.failure = Some(Failure { errno, attempts: attempts.saturating_add(1) });
            state.failures += 1;
            self.failing.lock().expect("no panics under this lock").insert(node.id());
            self.release_waiters(state, Some(errno));
        });
        Self::retry_at_ms(attempts, errno)
    }

    fn turn_ended(&self, file: FileId, reason: Reason, bytes: u64, end: &mut dyn FnMut(Load)) {
        let counters = self.counters();
        if bytes > 0 {
            Counters::add(&counters.drain_turns, 1);
        }
        if reason == Reason::WholeChunk && bytes >= self.geometry.chunk_bytes {
            Counters::add(&counters.whole_chunk_bytes, self.geometry.chunk_bytes);
        }
        let mut is_known = false;
        let mut settled = None;
        self.with_state(file, |node, state| {
            if self.arena.nodes().open(node.slot) == 0 {
                self.trim(node, state);
            }
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
}

impl FileState {
    /// The chunks whose bytes a turn takes: one, or two where something is left of the one before a
    /// whole chunk. A stream then leaves in the order in which it was written.
    fn plan_turn(&mut self, reason: Reason) -> Option<Range<u64>> {
        let first = self.buffer.first_chunk()?;
        match reason {
            Reason::WholeChunk => {
                let whole = self.buffer.whole_chunk().unwrap_or(first);
                let from = if first + 1 == whole { first } else { whole };
                Some(from..whole + 1)
            }
            Reason::Age => {
                let chunk = self.buffer.first_chunk_from(self.age_cursor).unwrap_or(first);
                self.age_cursor = chunk + 1;
                Some(chunk..chunk + 1)
            }
            _ => Some(first..first + 1),
        }
    }
}

impl Filesystem {
    fn with_state(&self, file: FileId, act: impl FnOnce(&Arc<Node>, &mut FileState)) {
        if let Ok(node) = self.node(file.0)
            && let Some(data) = node.data_if_any()
        {
            act(&node, &mut data.lock());
        }
    }
}
