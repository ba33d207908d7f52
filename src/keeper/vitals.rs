//! What the service manager is told while a mount lives (sd_notify(3)): the backlog, that the keeper
//! is alive, and at the end that more time is needed. Decides only; `supervise` sends and kills.
//!
//! The manager's watchdog watches the keeper. The keeper watches the worker: one that shows no sign
//! of life for as long as `WatchdogSec=` says is replaced, which programs do not notice; were it the
//! manager who did something about it, the service would be started anew. Without `WatchdogSec=` a
//! worker that is stopped, by a debugger for instance, is waited for.

use std::fmt::Write;
use std::time::{Duration, Instant};

/// How long the manager waits for the next sign of the keeper, in microseconds.
pub(super) const WATCHDOG_VARIABLE: &str = "WATCHDOG_USEC";
/// How often the backlog is told, at least.
const TELL_EVERY: Duration = Duration::from_secs(2);
/// A sign that is late by two must not be the last one.
const SIGNS_PER_LIMIT: u32 = 4;
/// No watchdog is so short that more than this pays.
const SHORTEST_PAUSE: Duration = Duration::from_millis(50);
/// What each message at the end adds to `TimeoutStopSec=`: as long as they come, nothing hangs.
const MORE_TIME: Duration = Duration::from_secs(30);

/// Silent looks after which an end is given no more time: the manager then does what its unit says.
const SILENT_LOOKS_AT_END: u32 = 5;

/// What the keeper sees of the mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Signs {
    /// Of the worker: see [`crate::arena::ControlPage::beats`].
    pub(super) beats: u64,
    pub(super) backlog_bytes: u64,
    /// Whether there is a worker that answers requests: only then it has to beat.
    pub(super) is_serving: bool,
    /// Whether the mount is to end, or just ends.
    pub(super) is_ending: bool,
}

/// What is to be done about it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Advice {
    /// For the manager; empty when there is nothing to say.
    pub(super) lines: String,
    /// The worker hangs.
    pub(super) replace_worker: bool,
}

/// Keeps the intervals.
#[derive(Debug)]
pub(super) struct Vitals {
    /// Silent looks at which a worker counts as hanging; `None` without a watchdog.
    limit: Option<u32>,
    pause: Duration,
    next: Instant,
    beats: u64,
    /// Looks in a row at which the worker had not beaten. Looks are counted and not time: a machine
    /// or a container that stood still as a whole blames nobody.
    silent_looks: u32,
    told: String,
}

impl Vitals {
    pub(super) fn from_environment(now: Instant) -> Vitals {
        let micros = std::env::var(WATCHDOG_VARIABLE).ok().and_then(|text| text.parse().ok());
        Vitals::new(micros.filter(|micros| *micros > 0).map(Duration::from_micros), now)
    }

    fn new(watchdog: Option<Duration>, now: Instant) -> Vitals {
        let pause = watchdog.map_or(TELL_EVERY, |limit| limit / SIGNS_PER_LIMIT);
        let pause = pause.clamp(SHORTEST_PAUSE, TELL_EVERY);
        let looks = |limit: Duration| limit.as_micros().div_ceil(pause.as_micros());
        Vitals {
            limit: watchdog.map(|limit| u32::try_from(looks(limit)).unwrap_or(u32::MAX)),
            pause,
            next: now,
            beats: 0,
            silent_looks: 0,
            told: String::new(),
        }
    }

    /// When to look again.
    pub(super) fn next(&self) -> Instant {
        self.next
    }

    /// Looks, when it is time; before that it advises nothing.
    pub(super) fn look(&mut self, now: Instant, signs: Signs) -> Advice {
        if now < self.next {
            return Advice::default();
        }
        self.next = now + self.pause;
        let is_silent = signs.is_serving && signs.beats == self.beats;
        self.beats = signs.beats;
        self.silent_looks = if is_silent { self.silent_looks + 1 } else { 0 };
        let lines = self.lines(signs);
        let replace_worker = self.limit.is_some_and(|limit| self.silent_looks >= limit);
        if replace_worker {
            self.silent_looks = 0;
        }
        Advice { lines, replace_worker }
    }

    fn lines(&mut self, signs: Signs) -> String {
        let mut lines = String::new();
        if self.limit.is_some() {
            lines.push_str("WATCHDOG=1\n");
        }
        if signs.is_ending && self.silent_looks < SILENT_LOOKS_AT_END {
            // Writing to a String cannot fail.
            let _ = writeln!(lines, "EXTEND_TIMEOUT_USEC={}", MORE_TIME.as_micros());
        }
        let status = status(signs);
        if status != self.told {
            lines.push_str(&status);
            self.told = status;
        }
        lines
    }
}

fn status(signs: Signs) -> String {
    let mib = signs.backlog_bytes as f64 / f64::from(1 << 20);
    match signs.is_ending {
        true => format!("STATUS=ending: {mib:.1} MiB still to be written\n"),
        false => format!("STATUS={mib:.1} MiB to be written\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIGNS: Signs =
        Signs { beats: 1, backlog_bytes: 3 << 19, is_serving: true, is_ending: false };

    fn watched(now: Instant) -> Vitals {
        Vitals::new(Some(Duration::from_secs(4)), now)
    }

    #[test]
    fn each_look_is_a_sign_of_life_and_news_are_told_once() {
        let begun = Instant::now();
        let mut vitals = watched(begun);
        let first = vitals.look(begun, SIGNS).lines;
        assert_eq!(first, "WATCHDOG=1\nSTATUS=1.5 MiB to be written\n");
        assert_eq!(vitals.look(begun, SIGNS), Advice::default(), "it is not due");
        let second = vitals.look(vitals.next(), Signs { beats: 2, ..SIGNS }).lines;
        assert_eq!(second, "WATCHDOG=1\n");
        let mut unwatched = Vitals::new(None, begun);
        assert!(unwatched.look(begun, SIGNS).lines.starts_with("STATUS="));
    }

    /// Goal: a worker that does not beat for the watchdog's time is to be replaced, once; not one
    /// that starts or ends, and not before its time because everything stood still.
    #[test]
    fn a_silent_worker_is_replaced_after_the_limit() {
        let begun = Instant::now();
        let replaced = |signs: Signs, step: Duration| {
            let mut vitals = watched(begun);
            let mut looks = (0..9u32).map(|n| vitals.look(begun + step * n, signs));
            looks.by_ref().position(|advice| advice.replace_worker)
        };
        assert_eq!(replaced(SIGNS, Duration::from_secs(1)), Some(4));
        assert_eq!(replaced(SIGNS, Duration::from_secs(600)), Some(4), "late looks blame nobody");
        assert_eq!(replaced(Signs { is_serving: false, ..SIGNS }, Duration::from_secs(1)), None);
        let mut unwatched = Vitals::new(None, begun);
        assert!((0..99).all(|n| !unwatched.look(begun + TELL_EVERY * n, SIGNS).replace_worker));
    }

    /// Goal: any sign of life, and a new worker, begins the count anew.
    #[test]
    fn a_sign_of_life_counts_anew() {
        let begun = Instant::now();
        let mut vitals = watched(begun);
        let mut beats = [1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3, 3].into_iter();
        let replaced: Vec<bool> = std::iter::from_fn(|| {
            let signs = Signs { beats: beats.next()?, ..SIGNS };
            Some(vitals.look(vitals.next(), signs).replace_worker)
        })
        .collect();
        let at: Vec<_> = (0..replaced.len()).filter(|look| replaced[*look]).collect();
        assert_eq!(at, [12, 16]);
    }

    /// Goal: the end gets more time as long as there is life, and no longer.
    #[test]
    fn an_end_is_given_time_while_the_worker_lives() {
        let begun = Instant::now();
        let mut vitals = Vitals::new(None, begun);
        let mut extended = |n: u32, beats| {
            let signs = Signs { beats, is_ending: true, ..SIGNS };
            vitals
                .look(begun + TELL_EVERY * n, signs)
                .lines
                .contains("EXTEND_TIMEOUT_USEC=30000000")
        };
        assert!((0..20).all(|n| extended(n, u64::from(n) + 1)));
        let silent: Vec<_> = (20..30).map(|n| extended(n, 20)).collect();
        assert_eq!(silent.iter().filter(|extended| **extended).count(), 4, "{silent:?}");
    }
}
