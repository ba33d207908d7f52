//! How fast a lane writes: bytes of the last second. Pure; the time is an argument.

/// A second, in slots that are short against what people see.
const SLOTS: u64 = 10;
const SLOT_MS: u64 = 100;

/// Bytes by the tenth of a second in which they were written.
#[derive(Debug, Default)]
pub struct Rate {
    /// By slot number, modulo one more than are looked at: the newest is not over yet.
    slots: [(u64, u64); SLOTS as usize + 1],
    since_ms: Option<u64>,
}

impl Rate {
    /// `bytes` were written from `from_ms` to `to_ms`, evenly.
    pub fn note(&mut self, bytes: u64, from_ms: u64, to_ms: u64) {
        self.since_ms.get_or_insert(from_ms);
        // A moment at least, so that there is something to divide by.
        let to_ms = to_ms.max(from_ms + 1);
        let length_ms = to_ms - from_ms;
        let (first, last) = (from_ms / SLOT_MS, (to_ms - 1) / SLOT_MS);
        for number in first.max(last.saturating_sub(SLOTS))..=last {
            let begun_ms = from_ms.max(number * SLOT_MS);
            let ended_ms = to_ms.min((number + 1) * SLOT_MS);
            let part = u128::from(bytes) * u128::from(ended_ms - begun_ms) / u128::from(length_ms);
            let slot = &mut self.slots[(number % (SLOTS + 1)) as usize];
            if slot.0 != number {
                *slot = (number, 0);
            }
            slot.1 += part as u64;
        }
    }

    /// Bytes per second of the last second that is over, or of what there was of it.
    pub fn per_second(&self, now_ms: u64) -> u64 {
        let Some(since_ms) = self.since_ms else { return 0 };
        let end = now_ms / SLOT_MS;
        let oldest = end.saturating_sub(SLOTS);
        if since_ms >= end * SLOT_MS {
            // It has just begun: no slot is over.
            return self.sum(end..=end) * 1000 / (now_ms - since_ms.min(now_ms)).max(1);
        }
        let window_ms = (end - oldest) * SLOT_MS;
        let known_ms = (end * SLOT_MS - since_ms).min(window_ms);
        self.sum(oldest..=end.saturating_sub(1)) * 1000 / known_ms.max(1)
    }

    fn sum(&self, numbers: std::ops::RangeInclusive<u64>) -> u64 {
        self.slots.iter().filter(|slot| numbers.contains(&slot.0)).map(|slot| slot.1).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a steady stream has its rate, whatever the pieces; what is older than a second does not
    /// count, and a lane that stands still comes to nothing.
    #[test]
    fn the_last_second_counts() {
        for piece_ms in [1, 7, 100, 130, 3000] {
            let mut rate = Rate::default();
            let mut now_ms = 10_000;
            while now_ms + piece_ms <= 13_000 {
                rate.note(piece_ms * 1000, now_ms, now_ms + piece_ms);
                now_ms += piece_ms;
            }
            let found = rate.per_second(now_ms);
            assert!((990_000..=1_000_000).contains(&found), "{found} in pieces of {piece_ms}");
            assert_eq!(rate.per_second(15_000), 0);
        }
    }

    #[test]
    fn a_change_shows_after_a_second() {
        let mut rate = Rate::default();
        rate.note(5_000_000, 0, 5_000);
        assert_eq!(rate.per_second(5_000), 1_000_000);
        rate.note(50_000, 5_000, 5_500);
        assert_eq!(rate.per_second(5_500), 550_000);
        rate.note(50_000, 5_500, 6_000);
        assert_eq!(rate.per_second(6_000), 100_000);
    }

    #[test]
    fn the_first_moments_have_a_rate() {
        let mut rate = Rate::default();
        assert_eq!(rate.per_second(500), 0);
        rate.note(1_000, 510, 520);
        assert_eq!(rate.per_second(520), 100_000);
        rate.note(1_000, 530, 530);
        assert_eq!(rate.per_second(600), 2_000 * 1000 / 90);
    }
}
