//! How long to wait before a worker is started again: not at all, unless workers die in a row.
//!
//! Pure; the time is an argument.

use std::time::Duration;

/// So many deaths are answered at once ...
const DEATHS_AT_ONCE: usize = 5;
/// ... within this time. A worker that dies more often would only burn the processor.
const WINDOW: Duration = Duration::from_secs(10);
/// First wait, doubled with each further death.
const FIRST_WAIT: Duration = Duration::from_millis(10);
/// Longest wait: programs wait for it, and starting a worker ten times a second costs little.
const LONGEST_WAIT: Duration = Duration::from_millis(100);

/// Remembers the last deaths.
#[derive(Debug, Default)]
pub struct Backoff {
    /// Times of the last deaths, oldest first.
    deaths: [Option<Duration>; DEATHS_AT_ONCE],
    last_wait: Duration,
}

impl Backoff {
    /// Notes a death at `now`, a time since any fixed moment; returns how long to wait.
    pub fn wait_after_death(&mut self, now: Duration) -> Duration {
        let oldest = self.deaths[0];
        self.deaths.rotate_left(1);
        self.deaths[DEATHS_AT_ONCE - 1] = Some(now);
        self.last_wait = match oldest {
            Some(oldest) if now.saturating_sub(oldest) < WINDOW => {
                (self.last_wait * 2).clamp(FIRST_WAIT, LONGEST_WAIT)
            }
            _ => Duration::ZERO,
        };
        self.last_wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn single_deaths_are_answered_at_once() {
        let mut backoff = Backoff::default();
        for second in (0..100).step_by(3) {
            assert_eq!(backoff.wait_after_death(Duration::from_secs(second)), Duration::ZERO);
        }
    }

    /// Goal: a crash loop is slowed down, never beyond a tenth of a second, and forgotten afterwards.
    #[test]
    fn deaths_in_a_row_wait_longer_and_longer() {
        let mut backoff = Backoff::default();
        let mut now = Duration::from_secs(1);
        let mut waits = Vec::new();
        for _ in 0..14 {
            let wait = backoff.wait_after_death(now);
            waits.push(wait.as_millis());
            now += wait;
        }
        assert_eq!(waits[..5], [0; 5]);
        assert_eq!(waits[5..9], [10, 20, 40, 80]);
        assert_eq!(waits[9..], [100; 5]);
        assert_eq!(backoff.wait_after_death(now + WINDOW), Duration::ZERO);
    }
}
