//! Requests that ask an engine for names or bytes ([`Requests`]): which are tried again, when, and
//! for how long a program waits.
//!
//! Every request is tried once, also while the engine does not answer: it may be about a part of it
//! that does. (Where an answer from memory will do, that is given instead while the circuit is open:
//! see [`Requests::is_held_back`].) One that the engine cannot answer is *parked*: tried again after a pause of its own,
//! and while its *line*'s circuit is open not before that lets a probe go, of all that are parked
//! one. So what an engine is asked in an outage does not grow with those who wait. When the line
//! works again all are tried at once.
//!
//! A request ends with its last error when patience is over: its own, or that of the line, which
//! began with the first failure since the last answer. One that hangs ends, too, and as it cannot be
//! taken back it stays known as *left* until its thread returns.
//!
//! `fs` asks under one lock, and does what is decided. A line is what fails together: a device, and
//! names or bytes. Times are milliseconds of a clock that never goes back.

use std::collections::{BTreeMap, BTreeSet};

use super::circuit::{Attempt, Backoff, Circuit, CircuitState, Patience};

/// No program waits less for a request that hangs: an engine may take its time, and there is none
/// after which one that works has always answered.
const HANGING_MS: u64 = 10_000;
/// When an answer from memory will do, and the engine has not given one.
const KNOWN_AFTER_MS: u64 = 2_000;

/// As the lanes are (`drain::PATIENCE`), but for threads: there are more for requests.
const LINE: Patience = Patience {
    deadline_ms: 5_000,
    failures_max: 3,
    late_max: 32,
    first_pause_ms: 250,
    longest_pause_ms: 10_000,
};

/// How far a request is.
#[derive(Debug, PartialEq, Eq)]
enum State {
    /// On its way. With an attempt where the circuit lets it go.
    Out(Option<Attempt>),
    Parked {
        from_ms: u64,
    },
    /// Answered without the engine, which has it still.
    Left(Option<Attempt>),
}

#[derive(Debug)]
struct Request<L> {
    line: L,
    since_ms: u64,
    /// When a program is told that the engine does not answer.
    until_ms: u64,
    tries: u32,
    last_errno: Option<i32>,
    pauses: Backoff,
    state: State,
}

#[derive(Debug)]
struct Line {
    circuit: Circuit,
    answered_ms: u64,
    /// First failure since then.
    failing_since_ms: Option<u64>,
    /// By when they are tried again.
    parked: BTreeSet<(u64, u64)>,
}

impl Line {
    /// What was asked at this time was in vain.
    fn note_failing(&mut self, asked_ms: u64) {
        self.failing_since_ms.get_or_insert(asked_ms.max(self.answered_ms));
    }
}

/// What is to be done now, by number of the request.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Due {
    /// To be tried again.
    pub retries: Vec<u64>,
    /// To be answered with this errno; `None`: there was no answer.
    pub over: Vec<(u64, Option<i32>)>,
    /// To be answered with what is known, where that is enough.
    pub slow: Vec<u64>,
}

/// What follows from a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is tried again.
    Parked,
    /// The program is to hear of it.
    Over,
}

/// One that waits, for those who look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiting {
    /// Which.
    pub number: u64,
    /// Since when.
    pub since_ms: u64,
    /// How often it was tried.
    pub tries: u32,
    /// Of the last try that came back.
    pub last_errno: Option<i32>,
    /// Nothing of it is on its way.
    pub is_parked: bool,
}

/// All that are not answered. See the module's head.
#[derive(Debug)]
pub struct Requests<L> {
    patience_ms: u64,
    next_number: u64,
    known: BTreeMap<u64, Request<L>>,
    lines: BTreeMap<L, Line>,
    by_end: BTreeSet<(u64, u64)>,
    slow_from: BTreeSet<(u64, u64)>,
}

impl<L: Ord + Copy> Requests<L> {
    /// None so far.
    pub fn new(patience_ms: u64) -> Requests<L> {
        Requests {
            patience_ms,
            next_number: 0,
            known: BTreeMap::new(),
            lines: BTreeMap::new(),
            by_end: BTreeSet::new(),
            slow_from: BTreeSet::new(),
        }
    }

    /// A new one, which is tried now; its number. `may_be_known`: an answer from memory will do.
    pub fn begin(&mut self, line: L, may_be_known: bool, now_ms: u64) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        let place = self.lines.entry(line).or_insert_with(|| Line {
            circuit: Circuit::new(LINE, number),
            answered_ms: 0,
            failing_since_ms: None,
            parked: BTreeSet::new(),
        });
        let left_ms = patience_left_ms(self.patience_ms, place, now_ms, now_ms);
        let until_ms = now_ms.saturating_add(left_ms.max(HANGING_MS));
        let request = Request {
            line,
            since_ms: now_ms,
            until_ms,
            tries: 1,
            last_errno: None,
            pauses: Backoff::new(LINE.first_pause_ms, LINE.longest_pause_ms, number),
            state: State::Out(place.circuit.try_begin(now_ms).ok()),
        };
        self.known.insert(number, request);
        self.by_end.insert((until_ms, number));
        if may_be_known {
            self.slow_from.insert((now_ms + KNOWN_AFTER_MS, number));
        }
        number
    }

    /// Whether the line's circuit holds it back, on its way though it is: an answer from memory is then
    /// better than one more that waits.
    pub fn is_held_back(&self, number: u64) -> bool {
        self.known.get(&number).is_some_and(|request| request.state == State::Out(None))
    }

    /// Whether a program still waits for it.
    pub fn is_wanted(&self, number: u64) -> bool {
        self.known.get(&number).is_some_and(|request| !matches!(request.state, State::Left(_)))
    }

    /// The engine answered, if only that there is no such file. It is not known any more.
    pub fn answered(&mut self, number: u64, now_ms: u64) {
        let Some(request) = self.remove(number) else { return };
        let Some(line) = self.lines.get_mut(&request.line) else { return };
        (line.answered_ms, line.failing_since_ms) = (now_ms, None);
        let was_closed = line.circuit.state() == CircuitState::Closed;
        match attempt_of(request.state) {
            Some(attempt) => line.circuit.succeed(attempt, now_ms),
            None => line.circuit.end_pause(now_ms),
        }
        if !was_closed {
            // The line's pause is over, or a probe is to tell: those of requests were pauses enough.
            self.end_pauses_of(request.line, now_ms);
        }
    }

    /// It was not tried: nobody wants it any more. Says nothing of the engine.
    pub fn dropped(&mut self, number: u64, now_ms: u64) {
        let Some(request) = self.remove(number) else { return };
        if let (Some(line), Some(attempt)) =
            (self.lines.get_mut(&request.line), attempt_of(request.state))
        {
            line.circuit.cancel(attempt, now_ms);
        }
    }

    /// A try failed, as when the engine cannot be reached.
    pub fn failed(&mut self, number: u64, errno: i32, now_ms: u64) -> Verdict {
        let Some(request) = self.known.get_mut(&number) else { return Verdict::Over };
        let Some(line) = self.lines.get_mut(&request.line) else { return Verdict::Over };
        let is_left = matches!(request.state, State::Left(_));
        let state = std::mem::replace(&mut request.state, State::Out(None));
        if let Some(attempt) = attempt_of(state) {
            line.circuit.fail(attempt, now_ms);
        }
        line.note_failing(now_ms);
        let left_ms = patience_left_ms(self.patience_ms, line, request.since_ms, now_ms);
        if is_left || left_ms == 0 {
            self.remove(number);
            return Verdict::Over;
        }
        request.last_errno = Some(errno);
        let from_ms = now_ms + request.pauses.next_pause_ms();
        request.state = State::Parked { from_ms };
        line.parked.insert((from_ms, number));
        // Not later than patience; a hanging one may have had longer.
        self.by_end.remove(&(request.until_ms, number));
        request.until_ms = request.until_ms.min(now_ms + left_ms);
        self.by_end.insert((request.until_ms, number));
        Verdict::Parked
    }

    /// A program was answered without the engine.
    pub fn leave(&mut self, number: u64) {
        self.unpark(number);
        let Some(request) = self.known.get_mut(&number) else { return };
        self.by_end.remove(&(request.until_ms, number));
        match std::mem::replace(&mut request.state, State::Left(None)) {
            State::Parked { .. } => {
                self.remove(number);
            }
            State::Out(attempt) | State::Left(attempt) => request.state = State::Left(attempt),
        }
    }

    /// What is to be done by now. To be called at [`Requests::next_ms`].
    pub fn due(&mut self, now_ms: u64) -> Due {
        let mut due = Due::default();
        while let Some((_, number)) = pop_until(&mut self.by_end, now_ms) {
            let Some(request) = self.known.get(&number) else { continue };
            due.over.push((number, request.last_errno));
            if let Some(line) = self.lines.get_mut(&request.line) {
                line.note_failing(request.since_ms);
            }
            self.leave(number);
        }
        while let Some((_, number)) = pop_until(&mut self.slow_from, now_ms) {
            due.slow.extend(Some(number).filter(|number| self.is_wanted(*number)));
        }
        for line in self.lines.values_mut() {
            if line.circuit.expire(now_ms) > 0 {
                line.note_failing(now_ms.saturating_sub(LINE.deadline_ms));
            }
            while line.parked.first().is_some_and(|(from_ms, _)| *from_ms <= now_ms)
                && let Ok(attempt) = line.circuit.try_begin(now_ms)
                && let Some((_, number)) = line.parked.pop_first()
                && let Some(request) = self.known.get_mut(&number)
            {
                request.state = State::Out(Some(attempt));
                request.tries += 1;
                due.retries.push(number);
            }
        }
        due
    }

    /// When there may be something to do next.
    pub fn next_ms(&self) -> Option<u64> {
        let ends = self.by_end.first().into_iter().chain(self.slow_from.first());
        let lines = self.lines.values().flat_map(|line| {
            let parked = line.parked.first().and_then(|(from_ms, _)| match line.circuit.state() {
                CircuitState::Closed => Some(*from_ms),
                CircuitState::Open { until_ms } => Some(until_ms.max(*from_ms)),
                // Until the probe ends or is late.
                CircuitState::HalfOpen => None,
            });
            [parked, line.circuit.next_deadline_ms()].into_iter().flatten()
        });
        ends.map(|(at_ms, _)| *at_ms).chain(lines).min()
    }

    /// Whether its thread may come back, or a program waits for it.
    pub fn is_known(&self, number: u64) -> bool {
        self.known.contains_key(&number)
    }

    /// Those that programs wait for, the oldest first.
    pub fn waiting(&self) -> impl Iterator<Item = Waiting> {
        let is_wanted =
            |(_, request): &(&u64, &Request<L>)| !matches!(request.state, State::Left(_));
        self.known.iter().filter(is_wanted).map(|(number, request)| Waiting {
            number: *number,
            since_ms: request.since_ms,
            tries: request.tries,
            last_errno: request.last_errno,
            is_parked: matches!(request.state, State::Parked { .. }),
        })
    }

    fn end_pauses_of(&mut self, of: L, now_ms: u64) {
        let Some(line) = self.lines.get_mut(&of) else { return };
        for (_, number) in std::mem::take(&mut line.parked) {
            if let Some(request) = self.known.get_mut(&number) {
                request.state = State::Parked { from_ms: now_ms };
                request.pauses.reset();
                line.parked.insert((now_ms, number));
            }
        }
    }

    fn unpark(&mut self, number: u64) {
        if let Some(request) = self.known.get(&number)
            && let State::Parked { from_ms } = request.state
            && let Some(line) = self.lines.get_mut(&request.line)
        {
            line.parked.remove(&(from_ms, number));
        }
    }

    fn remove(&mut self, number: u64) -> Option<Request<L>> {
        self.unpark(number);
        let request = self.known.remove(&number)?;
        self.by_end.remove(&(request.until_ms, number));
        self.slow_from.remove(&(request.since_ms + KNOWN_AFTER_MS, number));
        Some(request)
    }
}

fn attempt_of(state: State) -> Option<Attempt> {
    match state {
        State::Out(attempt) | State::Left(attempt) => attempt,
        State::Parked { .. } => None,
    }
}

/// How long a request from `since_ms` may go on to wait for its line.
fn patience_left_ms(patience_ms: u64, line: &Line, since_ms: u64, now_ms: u64) -> u64 {
    let failing_ms = line.failing_since_ms.map_or(since_ms, |at_ms| at_ms.min(since_ms));
    (failing_ms.saturating_add(patience_ms)).saturating_sub(now_ms)
}

fn pop_until(set: &mut BTreeSet<(u64, u64)>, now_ms: u64) -> Option<(u64, u64)> {
    set.first().is_some_and(|(at_ms, _)| *at_ms <= now_ms).then(|| set.pop_first()).flatten()
}
