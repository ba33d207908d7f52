//! Whether an engine that hangs or refuses is to be asked again ([`Circuit`]), and how long to wait
//! in between ([`Backoff`]).
//!
//! An *attempt* is one run on its way to the engine. It fails when the engine says so, or when it is
//! past its deadline: a write(2) that hangs cannot be taken back, so it stays out, its bytes frozen,
//! and is called *late*. Failures in a row open the circuit; then nothing is begun until a pause is
//! over, and after that one attempt, the probe, decides: half-open. Pauses double while probes fail.
//! An answer in time closes the circuit, whoever gets it; a late one lets a probe go at once.
//! Rejected: to count a share of failures in a time. With one lane there are too few attempts for a
//! share to mean anything, and an engine of which one server is down answers the others all the time.
//!
//! `drain` begins, ends and expires attempts under the lock of its queue; see there for which errors
//! are the engine's and not a file's own. Times are milliseconds of a clock that never goes back.

use std::collections::{BTreeMap, BTreeSet};

/// How a circuit judges; fixed for its lifetime.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// An attempt that takes longer has failed.
    pub deadline_ms: u64,
    /// So many failures in a row open the circuit; at least 1.
    pub failures_max: u32,
    /// Late attempts that may be out: each binds a thread and its bytes. At least 1.
    pub late_max: usize,
    /// The pause after the circuit opened, before jitter.
    pub first_pause_ms: u64,
    /// The longest, before jitter.
    pub longest_pause_ms: u64,
}

/// Pauses that double, each shortened by up to a half so that many who wait for the same engine do
/// not come back together.
#[derive(Clone, Debug)]
pub struct Backoff {
    first_ms: u64,
    longest_ms: u64,
    next_ms: u64,
    /// Goes round in steps of the golden ratio: seeds that follow each other, and the pauses of one
    /// seed, fall evenly over the range.
    phase: u64,
}

/// 2^64 over the golden ratio.
const GOLDEN_STEP: u64 = 0x9e37_79b9_7f4a_7c15;

impl Backoff {
    /// The first pause is `first_ms` (raised to 1), none is longer than `longest_ms`. The same seed
    /// gives the same pauses.
    pub fn new(first_ms: u64, longest_ms: u64, seed: u64) -> Backoff {
        let first_ms = first_ms.max(1);
        let phase = seed.wrapping_mul(GOLDEN_STEP);
        Backoff { first_ms, longest_ms: longest_ms.max(first_ms), next_ms: first_ms, phase }
    }

    /// How long to wait now: from half of the pause to all of it, at least 1. The next is twice as
    /// long.
    pub fn next_pause_ms(&mut self) -> u64 {
        let pause_ms = self.next_ms;
        self.next_ms = pause_ms.saturating_mul(2).min(self.longest_ms);
        self.phase = self.phase.wrapping_add(GOLDEN_STEP);
        let jitter_ms = (u128::from(self.phase) * u128::from(pause_ms / 2 + 1)) >> 64;
        pause_ms - jitter_ms as u64
    }

    /// It works again: the next pause is the first.
    pub fn reset(&mut self) {
        self.next_ms = self.first_ms;
    }
}

/// One run on its way; given back to the circuit that gave it.
#[derive(Debug, PartialEq, Eq)]
pub struct Attempt(u64);

/// Nothing may be begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Not before this time.
    Until(u64),
    /// Not before an attempt that is out ends or is late.
    WhileOut,
}

/// For those who look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CircuitState {
    /// The engine answers.
    Closed,
    /// Nothing is begun before this time.
    Open {
        /// In milliseconds.
        until_ms: u64,
    },
    /// A probe is out.
    HalfOpen,
}

#[derive(Debug)]
enum State {
    Closed { failures: u32 },
    Open { until_ms: u64 },
    HalfOpen { probe: u64 },
}

/// Decides whether a run may go to an engine. See the module's head.
#[derive(Debug)]
pub struct Circuit {
    patience: Patience,
    backoff: Backoff,
    state: State,
    next_attempt: u64,
    /// Attempts that are out and not late, and when they will be.
    out: BTreeMap<u64, u64>,
    /// The same in the order in which they will be.
    by_deadline: BTreeSet<(u64, u64)>,
    /// Attempts that are out and late.
    late: BTreeSet<u64>,
}

impl Circuit {
    /// Closed. The seed decides how pauses are shortened.
    pub fn new(patience: Patience, seed: u64) -> Circuit {
        let Patience { first_pause_ms, longest_pause_ms, .. } = patience;
        Circuit {
            patience: Patience {
                failures_max: patience.failures_max.max(1),
                late_max: patience.late_max.max(1),
                ..patience
            },
            backoff: Backoff::new(first_pause_ms, longest_pause_ms, seed),
            state: State::Closed { failures: 0 },
            next_attempt: 0,
            out: BTreeMap::new(),
            by_deadline: BTreeSet::new(),
            late: BTreeSet::new(),
        }
    }

    /// Asks to begin an attempt. `Ok` must be ended, once, by [`Circuit::succeed`],
    /// [`Circuit::fail`] or [`Circuit::cancel`].
    pub fn try_begin(&mut self, now_ms: u64) -> Result<Attempt, Refused> {
        if self.late.len() >= self.patience.late_max {
            return Err(Refused::WhileOut);
        }
        let attempt = self.next_attempt;
        match self.state {
            State::Closed { .. } => {}
            State::Open { until_ms } if now_ms < until_ms => return Err(Refused::Until(until_ms)),
            State::Open { .. } => self.state = State::HalfOpen { probe: attempt },
            State::HalfOpen { .. } => return Err(Refused::WhileOut),
        }
        self.next_attempt += 1;
        let deadline_ms = now_ms.saturating_add(self.patience.deadline_ms);
        self.out.insert(attempt, deadline_ms);
        self.by_deadline.insert((deadline_ms, attempt));
        Ok(Attempt(attempt))
    }

    /// The engine took it, or refused it for a reason that is the file's alone: it answers.
    pub fn succeed(&mut self, attempt: Attempt, now_ms: u64) {
        if self.end(&attempt) {
            self.backoff.reset();
            self.state = State::Closed { failures: 0 };
        } else {
            self.end_pause(now_ms);
        }
    }

    /// The engine refused it. One that is late was counted when it became so.
    pub fn fail(&mut self, attempt: Attempt, now_ms: u64) {
        if self.end(&attempt) {
            self.note_failure(attempt.0, now_ms);
        }
    }

    /// There was nothing to write after all: says nothing of the engine.
    pub fn cancel(&mut self, attempt: Attempt, now_ms: u64) {
        let was_probe = matches!(self.state, State::HalfOpen { probe } if probe == attempt.0);
        self.end(&attempt);
        if was_probe {
            self.state = State::Open { until_ms: now_ms };
        }
    }

    /// Notes which attempts are past their deadline; how many became so since the last call. To be
    /// called at [`Circuit::next_deadline_ms`], or every now and then.
    pub fn expire(&mut self, now_ms: u64) -> usize {
        let before = self.late.len();
        while let Some(&(deadline_ms, attempt)) = self.by_deadline.first()
            && deadline_ms <= now_ms
        {
            self.by_deadline.pop_first();
            self.out.remove(&attempt);
            self.late.insert(attempt);
            self.note_failure(attempt, now_ms);
        }
        self.late.len() - before
    }

    /// When the next attempt becomes late.
    pub fn next_deadline_ms(&self) -> Option<u64> {
        self.by_deadline.first().map(|(deadline_ms, _)| *deadline_ms)
    }

    /// The time until now was none that the engine took: the attempt has all of it again. One that is
    /// late stays so.
    pub fn restart(&mut self, attempt: &Attempt, now_ms: u64) {
        if let Some(deadline_ms) = self.out.get_mut(&attempt.0) {
            self.by_deadline.remove(&(*deadline_ms, attempt.0));
            *deadline_ms = now_ms.saturating_add(self.patience.deadline_ms);
            self.by_deadline.insert((*deadline_ms, attempt.0));
        }
    }

    /// Somebody asks for a try: no pause is waited for.
    pub fn end_pause(&mut self, now_ms: u64) {
        if let State::Open { until_ms } = &mut self.state {
            *until_ms = now_ms.min(*until_ms);
        }
    }

    /// Attempts that are out and not late.
    pub fn in_time(&self) -> usize {
        self.out.len()
    }

    /// Attempts that are out and late.
    pub fn late(&self) -> usize {
        self.late.len()
    }

    /// What it is now.
    pub fn state(&self) -> CircuitState {
        match self.state {
            State::Closed { .. } => CircuitState::Closed,
            State::Open { until_ms } => CircuitState::Open { until_ms },
            State::HalfOpen { .. } => CircuitState::HalfOpen,
        }
    }

    /// Forgets an attempt; whether it was in time.
    fn end(&mut self, attempt: &Attempt) -> bool {
        if let Some(deadline_ms) = self.out.remove(&attempt.0) {
            self.by_deadline.remove(&(deadline_ms, attempt.0));
            return true;
        }
        let was_late = self.late.remove(&attempt.0);
        debug_assert!(was_late, "{attempt:?} is another circuit's");
        false
    }

    fn note_failure(&mut self, attempt: u64, now_ms: u64) {
        match &mut self.state {
            State::Closed { failures } => {
                *failures += 1;
                if *failures >= self.patience.failures_max {
                    self.open(now_ms);
                }
            }
            State::HalfOpen { probe } if *probe == attempt => self.open(now_ms),
            // Begun before the circuit opened.
            State::Open { .. } | State::HalfOpen { .. } => {}
        }
    }

    fn open(&mut self, now_ms: u64) {
        let pause_ms = self.backoff.next_pause_ms();
        self.state = State::Open { until_ms: now_ms.saturating_add(pause_ms) };
    }
}
