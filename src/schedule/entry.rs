//! What the scheduler knows of one file, and where that puts it.

use std::cmp::Reverse;

use super::queues::{Places, Stamp, Stamps, Standing};
use super::scheduler::{Load, Outcome, Policy, Priority, Reason};
use super::zones::Zone;

/// A turn that is out.
#[derive(Debug)]
pub(super) struct InTurn {
    pub(super) reason: Reason,
    /// Dirty bytes when it began, and what came in since.
    pub(super) start_bytes: u64,
    pub(super) arrived_bytes: u64,
    /// The file was removed meanwhile and not written since: the load the turn ends with is void.
    pub(super) removed: bool,
}

/// What is known of one file. Kept while it has dirty bytes, is in turn, or is held.
#[derive(Debug, Default)]
pub(super) struct Entry {
    pub(super) load: Load,
    pub(super) holds: u32,
    pub(super) turn: Option<InTurn>,
    pub(super) retry_at_ms: Option<u64>,
    pub(super) demanded: Option<Stamp>,
    /// Since it has a whole chunk, or had its last turn.
    pub(super) whole: Option<Stamp>,
    /// When the delay of a closed file ends; later once it had its turn for that.
    pub(super) closed_due_ms: Option<u64>,
    /// Since it became dirty, or had its last turn.
    pub(super) ring: Stamp,
    /// End of the last turn for age: a file that is still over-age goes behind those that
    /// became so before. Turns for other reasons do not count, they may leave the oldest byte.
    pub(super) age_floor_ms: u64,
    /// Dirty bytes out of reach of the next turn; see [`Entry::note_reach`].
    pub(super) scattered_bytes: u64,
    /// Where its next turn will be, if that is known.
    pub(super) zone: Option<Zone>,
    /// Where the queues have it.
    pub(super) standing: Standing,
}

impl Entry {
    pub(super) fn is_clean(&self) -> bool {
        self.load.dirty_bytes == 0
    }

    pub(super) fn set_load(
        &mut self,
        load: Load,
        now_ms: u64,
        policy: &Policy,
        stamps: &mut Stamps,
    ) {
        if self.is_clean() && self.turn.is_none() && load.dirty_bytes > 0 {
            self.ring = stamps.next();
        }
        self.closed_due_ms = match (load.open, self.closed_due_ms) {
            (true, _) => None,
            (false, None) => Some(now_ms.saturating_add(policy.closed_delay_ms)),
            (false, due_ms) => due_ms,
        };
        self.whole = match (load.has_whole_chunk, self.whole) {
            (false, _) => None,
            (true, None) => Some(stamps.next()),
            (true, stamp) => stamp,
        };
        let oldest_ms = load.oldest_ms.or(self.load.oldest_ms).unwrap_or(now_ms);
        self.load = Load { oldest_ms: (load.dirty_bytes > 0).then_some(oldest_ms), ..load };
    }

    /// After a turn that left so many bytes: the file goes behind all that wait for the same reason.
    pub(super) fn note_turn(
        &mut self,
        turn: &InTurn,
        dirty_bytes: u64,
        outcome: Outcome,
        now_ms: u64,
        stamps: &mut Stamps,
    ) {
        self.note_reach(turn, dirty_bytes);
        self.ring = stamps.next();
        self.whole = None;
        self.demanded = self.demanded.map(|_| stamps.next());
        self.retry_at_ms = match outcome {
            Outcome::RetryAt(at_ms) => Some(at_ms),
            Outcome::Written | Outcome::Elsewhere => None,
        };
        match turn.reason {
            Reason::Age => self.age_floor_ms = now_ms,
            Reason::Closed => self.closed_due_ms = self.closed_due_ms.map(|_| now_ms),
            _ => {}
        }
    }

    /// After a turn: guesses how much of what is left the next one can reach, for
    /// [`Reason::Pressure`]. A file whose dirty bytes lie in many chunks has many of them and
    /// gives back few in a turn; by their number alone it would be chosen again and again. So of
    /// the bytes left over, as many count as the turn took; what came in since counts in full.
    fn note_reach(&mut self, turn: &InTurn, dirty_bytes: u64) {
        let taken_bytes = (turn.start_bytes + turn.arrived_bytes).saturating_sub(dirty_bytes);
        let left_bytes = turn.start_bytes.saturating_sub(taken_bytes);
        self.scattered_bytes = left_bytes.saturating_sub(taken_bytes);
    }

    pub(super) fn wanted_standing(&self, policy: &Policy) -> Standing {
        if self.is_clean() || self.holds > 0 || self.turn.is_some() {
            return Standing::Out;
        }
        if let Some(at_ms) = self.retry_at_ms {
            return Standing::Delayed(at_ms);
        }
        let oldest_ms = self.load.oldest_ms.expect("set_load gives each dirty file an age");
        let max_age_ms = self.load.max_age_ms.unwrap_or(policy.max_age_ms);
        let over_age_ms = oldest_ms.saturating_add(max_age_ms / 2);
        let reach_bytes = self.load.dirty_bytes.saturating_sub(self.scattered_bytes);
        let is_high = self.load.priority == Priority::High;
        Standing::Queued(Places {
            demanded: self.demanded,
            age: (over_age_ms.max(self.age_floor_ms), self.ring),
            whole: self.whole.filter(|_| !is_high),
            high: self.whole.filter(|_| is_high),
            closed: self.closed_due_ms.map(|due_ms| (due_ms, self.ring)),
            fullest: (Reverse(reach_bytes), self.ring),
            ring: self.ring,
            zone: self.zone,
        })
    }
}
