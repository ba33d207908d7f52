//! What the lanes wrote in the last seconds: enough to say what the disk takes now.

use std::time::Duration;

use crate::control::protocol::RecentDrain;

/// So many slots of a second each. Long against one write, short against the patience of who asks.
const SLOTS: usize = 10;
const SLOT_MS: u64 = 1000;

/// Sums by second; the time is an argument.
#[derive(Debug, Default)]
pub struct Recent {
    slots: [Slot; SLOTS],
    /// When the first figure came.
    since_ms: Option<u64>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    /// Which second it holds.
    number: u64,
    bytes: u64,
    busy_us: u64,
    runs: u64,
    turns: u64,
}

impl Recent {
    fn slot(&mut self, now_ms: u64) -> &mut Slot {
        self.since_ms.get_or_insert(now_ms);
        let number = now_ms / SLOT_MS;
        let slot = &mut self.slots[number as usize % SLOTS];
        if slot.number != number {
            *slot = Slot { number, ..Slot::default() };
        }
        slot
    }

    /// A lane wrote a run, which ended now.
    pub fn note_run(&mut self, bytes: u64, took: Duration, now_ms: u64) {
        let slot = self.slot(now_ms);
        slot.bytes += bytes;
        slot.busy_us += took.as_micros() as u64;
        slot.runs += 1;
    }

    /// A lane's turn with a file ended now.
    pub fn note_turn(&mut self, now_ms: u64) {
        self.slot(now_ms).turns += 1;
    }

    /// The last ten seconds, or what there was of them.
    pub fn sum(&self, now_ms: u64) -> RecentDrain {
        let now = now_ms / SLOT_MS;
        let oldest = (now + 1).saturating_sub(SLOTS as u64);
        let Some(since_ms) = self.since_ms else { return RecentDrain::default() };
        let begun_ms = since_ms.max(oldest * SLOT_MS);
        let mut sum =
            RecentDrain { window_ms: now_ms.saturating_sub(begun_ms), ..RecentDrain::default() };
        let mut busy_us = 0;
        for slot in self.slots.iter().filter(|slot| (oldest..=now).contains(&slot.number)) {
            sum.bytes += slot.bytes;
            sum.writes += slot.runs;
            sum.turns += slot.turns;
            busy_us += slot.busy_us;
        }
        sum.busy_ms = busy_us / 1000;
        sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: what is older than the window counts no more, also when nothing came since.
    #[test]
    fn what_is_old_is_forgotten() {
        let mut recent = Recent::default();
        assert_eq!(recent.sum(5_000), RecentDrain::default());
        recent.note_run(100, Duration::from_millis(20), 100_000);
        recent.note_turn(100_000);
        recent.note_run(50, Duration::from_millis(10), 108_500);
        let both = recent.sum(109_000);
        assert_eq!((both.bytes, both.busy_ms, both.writes, both.turns), (150, 30, 2, 1));
        assert_eq!(both.window_ms, 9_000);
        let later = recent.sum(110_000);
        assert_eq!((later.bytes, later.writes, later.window_ms), (50, 1, 9_000));
        assert_eq!(recent.sum(200_000).bytes, 0);
        // The same slot, a round later.
        recent.note_run(7, Duration::ZERO, 208_100);
        assert_eq!(recent.sum(208_200).bytes, 7);
    }
}
