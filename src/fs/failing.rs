//! Files whose bytes the backing filesystem refuses: what is known of that, when it is tried again,
//! and what writers hear while memory is full of such bytes.
//!
//! A failure lasts from the first refusal until everything that was refused is stored, cut off or
//! given up. Each handle hears of it once, by close or by a write that is not cached; fsync fails
//! as long as it lasts. That of an engine which cannot be reached is nobody's business before
//! `--patience` is over (`outage`). The bytes stay in memory, so what is answered with an error may be stored
//! all the same: nobody is told less than is true.
//!
//! Memory full of refused bytes must not hold writers for ever, since they wait in the kernel where
//! no signal reaches them. Once a failure has outlasted [`PATIENCE_MS`], the file's parked writes are
//! answered with its errno, and while memory is above its limit newer ones are refused untaken.
//! Rejected: to answer at the first failure. Room that is made within seconds would come too late
//! for a program that takes an error for the end.

use std::ops::Range;

use super::Filesystem;
use super::data::FileState;
use super::nodes::Node;
use super::outage::pauses;
use crate::clock::boottime_ms;
use crate::drain::Outage;
use crate::schedule::FileId;
use crate::schedule::circuit::Backoff;

/// How long a writer waits for a file's failure to pass.
const PATIENCE_MS: u64 = 3000;
/// Between the first failure and the next try; the pauses then grow with the time it lasts.
const FIRST_PAUSE_MS: u64 = 250;
const LONGEST_PAUSE_MS: u64 = 30_000;
/// For want of room: somebody may make it at any time, and a try costs little.
const LONGEST_ROOM_PAUSE_MS: u64 = 4000;
/// And while memory is full.
const FULL_PAUSE_MS: u64 = 2000;
/// Refused ranges told apart; more become one.
const RANGES_MAX: usize = 64;

/// Bytes of a file that could not be written.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    /// Of the last try.
    pub(super) errno: i32,
    pub(super) attempts: u32,
    pub(super) since_ms: u64,
    pub(super) last_ms: u64,
    /// What was refused and is not stored since; none when the file could not even be opened.
    refused: Vec<Range<u64>>,
    /// When the last try failed because the engine cannot be reached.
    outage: Option<Bridged>,
}

/// An outage that programs do not hear of at first.
#[derive(Clone, Debug)]
struct Bridged {
    patience_ms: u64,
    pauses: Backoff,
}

impl Failure {
    /// Doubles the time since the first failure. Not counted in attempts, since each fsync is one.
    fn next_try_ms(&self) -> u64 {
        let longest_ms = match self.errno {
            libc::ENOSPC | libc::EDQUOT => LONGEST_ROOM_PAUSE_MS,
            _ => LONGEST_PAUSE_MS,
        };
        self.last_ms + (self.last_ms - self.since_ms).clamp(FIRST_PAUSE_MS, longest_ms)
    }

    fn bridge(&mut self, patience_ms: u64) -> &mut Bridged {
        let seed = self.last_ms;
        self.outage.get_or_insert_with(|| Bridged { patience_ms, pauses: pauses(seed) })
    }

    fn outlasted(&self, patience_ms: u64) -> bool {
        self.last_ms.saturating_sub(self.since_ms) >= patience_ms
    }

    /// Whether close(2) and fsync(2) tell of it.
    pub(super) fn is_told(&self) -> bool {
        self.outage.as_ref().is_none_or(|outage| self.outlasted(outage.patience_ms))
    }

    /// Whether writers do not wait for it any more.
    pub(super) fn is_lasting(&self) -> bool {
        self.is_told() && self.outlasted(PATIENCE_MS)
    }
}

impl FileState {
    /// The failure of a try that ended now; returns when to try again.
    pub(super) fn note_failure(&mut self, errno: i32, refused: Option<Range<u64>>) -> u64 {
        let now_ms = boottime_ms();
        let failure = self.failed_at(errno, now_ms, now_ms, refused);
        failure.outage = None;
        failure.next_try_ms()
    }

    /// The same, of an engine that cannot be reached.
    pub(super) fn note_unreached(
        &mut self,
        errno: i32,
        refused: Option<Range<u64>>,
        patience_ms: u64,
    ) -> u64 {
        let now_ms = boottime_ms();
        let outage = self.failed_at(errno, now_ms, now_ms, refused).bridge(patience_ms);
        now_ms + outage.pauses.next_pause_ms()
    }

    /// The file waits for an engine that was tried with another one.
    pub(super) fn note_outage(&mut self, outage: &Outage, patience_ms: u64) -> &Failure {
        let failure = self.failed_at(outage.errno, outage.since_ms, outage.last_ms, None);
        failure.bridge(patience_ms);
        failure
    }

    fn failed_at(
        &mut self,
        errno: i32,
        since_ms: u64,
        now_ms: u64,
        refused: Option<Range<u64>>,
    ) -> &mut Failure {
        if self.failure.is_none() {
            self.failures += 1;
        }
        let failure = self.failure.get_or_insert_with(|| Failure {
            errno,
            attempts: 0,
            since_ms,
            last_ms: now_ms,
            refused: Vec::new(),
            outage: None,
        });
        failure.errno = errno;
        failure.attempts = failure.attempts.saturating_add(1);
        failure.last_ms = now_ms;
        if let Some(range) = refused {
            subtract(&mut failure.refused, &range);
            failure.refused.push(range);
            if failure.refused.len() > RANGES_MAX {
                let start = failure.refused.iter().map(|range| range.start).min().unwrap_or(0);
                let end = failure.refused.iter().map(|range| range.end).max().unwrap_or(0);
                failure.refused.clear();
                failure.refused.push(start..end);
            }
        }
        failure
    }

    /// What of the file is not in the backing file: ascending, apart.
    pub(super) fn unstored(&self) -> Vec<Range<u64>> {
        let mut pieces = Vec::new();
        self.buffer.overlay(0, usize::MAX, &mut pieces);
        pieces.sort_unstable_by_key(|piece| piece.offset);
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for piece in pieces {
            let end = piece.offset + u64::from(piece.len);
            match ranges.last_mut() {
                Some(last) if piece.offset <= last.end => last.end = last.end.max(end),
                _ => ranges.push(piece.offset..end),
            }
        }
        ranges
    }
}

/// Takes `cut` out of ranges that do not overlap.
fn subtract(ranges: &mut Vec<Range<u64>>, cut: &Range<u64>) {
    let left = |range: &Range<u64>| {
        let before = range.start..range.end.min(cut.start);
        let after = range.start.max(cut.end)..range.end;
        [before, after].into_iter().filter(|rest| !rest.is_empty())
    };
    *ranges = ranges.iter().flat_map(left).collect();
}

impl Filesystem {
    pub(super) fn note_failing(&self, node: &Node) {
        self.failing.lock().expect("no panics under this lock").insert(node.id());
    }

    /// This range is stored, or need not be any more.
    pub(super) fn note_settled(&self, node: &Node, state: &mut FileState, range: Range<u64>) {
        let Some(failure) = &mut state.failure else { return };
        subtract(&mut failure.refused, &range);
        if failure.refused.is_empty() || state.buffer.is_clean() {
            state.failure = None;
            log::info!("writing to {} works again", self.display_path(node));
            self.forget_failing(node, state);
        }
    }

    /// Takes the file off the list when nothing of it is wrong any more.
    pub(super) fn forget_failing(&self, node: &Node, state: &FileState) {
        if state.failure.is_none() && !state.stability.has_listed_loss() {
            self.failing.lock().expect("no panics under this lock").remove(&node.id());
        }
    }

    /// The errno with which a write to the file is to be refused now, if it is.
    pub(super) fn refusal(&self, node: &Node) -> Option<i32> {
        let is_full = self.room.is_starved() || self.held_bytes() > self.limits.limit_bytes;
        if !is_full {
            return None;
        }
        let state = node.data_if_any()?.lock();
        state.failure.as_ref().filter(|failure| failure.is_lasting()).map(|failure| failure.errno)
    }

    /// When the next try is due that a file's failure asks for: sooner while memory is full, since
    /// writers are refused until one succeeds.
    pub(super) fn next_try_ms(&self, wanted_ms: u64) -> u64 {
        if self.room.is_pressed() {
            wanted_ms.min(boottime_ms() + FULL_PAUSE_MS)
        } else {
            wanted_ms
        }
    }

    /// After a failure: answers those who would wait for memory that does not come back.
    pub(super) fn refuse_waiting(&self, file: FileId, lasting: Option<i32>) {
        if let Some(errno) = lasting {
            self.refuse_parked(file, errno);
        }
        if lasting.is_some() && self.room.is_starved() {
            self.refuse_starved();
        }
    }

    /// The errno of one of the lasting failures, when everything buffered belongs to such.
    pub(super) fn undrainable(&self) -> Option<i32> {
        let mut found = None;
        let bytes = self.failing_bytes(|failure| {
            found = found.or(Some(failure.errno));
            failure.is_lasting()
        });
        found.filter(|_| bytes > 0 && bytes >= self.backlog_bytes())
    }

    /// Whether all that is left to be written belongs to files that could not be written at or
    /// after `since_ms`, the last time that they were tried.
    pub fn only_failing_left(&self, since_ms: u64) -> bool {
        let bytes = self.failing_bytes(|failure| failure.last_ms >= since_ms);
        bytes > 0 && bytes >= self.backlog_bytes()
    }

    /// Bytes of the files whose failure is as asked.
    fn failing_bytes(&self, mut counts: impl FnMut(&super::failing::Failure) -> bool) -> u64 {
        let failing = self.failing.lock().expect("no panics under this lock").clone();
        let bytes_of = |id| {
            let node = self.node(id).ok()?;
            let state = node.data_if_any()?.lock();
            let failure = state.failure.as_ref()?;
            counts(failure).then(|| state.buffer.dirty_bytes() + state.buffer.in_flight_bytes())
        };
        failing.into_iter().filter_map(bytes_of).sum()
    }

    /// Files that wait for their next try are tried now.
    pub fn retry_now(&self) {
        self.each_queue(crate::drain::LaneQueue::end_pauses);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_cut_at_either_end_and_in_the_middle() {
        let mut ranges = vec![10..20, 30..40];
        subtract(&mut ranges, &(15..35));
        assert_eq!(ranges, [10..15, 35..40]);
        subtract(&mut ranges, &(11..12));
        assert_eq!(ranges, [10..11, 12..15, 35..40]);
        subtract(&mut ranges, &(0..u64::MAX));
        assert!(ranges.is_empty());
    }

    #[test]
    fn pauses_grow_with_the_time_that_a_failure_lasts() {
        let mut failure = Failure {
            errno: 5,
            attempts: 1,
            since_ms: 0,
            last_ms: 0,
            refused: Vec::new(),
            outage: None,
        };
        let mut pauses = Vec::new();
        for _ in 0..10 {
            let next_ms = failure.next_try_ms();
            pauses.push(next_ms - failure.last_ms);
            failure.last_ms = next_ms;
        }
        let wanted = [250, 250, 500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000];
        assert_eq!(pauses, wanted);
    }
}
