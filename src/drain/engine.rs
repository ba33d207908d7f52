//! What a lane queue knows of the engine behind it: whether it answers ([`Circuit`]), and of an
//! outage since when and why.
//!
//! An engine that is *elsewhere*, another process or another machine, may hang and come back, and
//! may hang for one file alone. There an attempt that is late no longer counts as one of the lanes,
//! so that another thread goes on with other files. A disk of this machine that is slow is slow for
//! all: another thread would only make it seek, and an error of its is a file's own. So its attempts
//! are never late, and its circuit stays closed.

use crate::schedule::circuit::{Attempt, Circuit, CircuitState, Patience, Refused};
use crate::schedule::{LaneRun, Lanes};

/// Of an engine that is elsewhere. A run is what the engine takes in a tenth of a second: the deadline
/// is fifty times that. It is the one that was simulated with a thousand nodes, which in an outage
/// ask between a hundred and two hundred times a second.
pub const PATIENCE: Patience = Patience {
    deadline_ms: 5_000,
    failures_max: 3,
    late_max: 4,
    first_pause_ms: 250,
    longest_pause_ms: 10_000,
};

/// Whether an error of an engine that is elsewhere says that it cannot be reached, or not all of it.
/// Others are answers: of full disks, and `ESTALE` of a file that is not there any more.
pub fn is_of_connection(errno: i32) -> bool {
    matches!(
        errno,
        libc::EIO
            | libc::ENXIO
            | libc::ENODEV
            | libc::EPIPE
            | libc::ENOLINK
            | libc::ECOMM
            | libc::EREMOTEIO
            | libc::ENETDOWN
            | libc::ENETUNREACH
            | libc::ENETRESET
            | libc::ECONNABORTED
            | libc::ECONNRESET
            | libc::ENOTCONN
            | libc::ESHUTDOWN
            | libc::ETIMEDOUT
            | libc::ECONNREFUSED
            | libc::EHOSTDOWN
            | libc::EHOSTUNREACH
    )
}

/// What writes to an engine, and where that is.
#[derive(Clone, Copy, Debug)]
pub struct Crew {
    /// Files written at the same time.
    pub lanes: Lanes,
    /// `None` for one of this machine.
    pub patience: Option<Patience>,
}

/// An engine that is not asked as often as there is something to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outage {
    /// When the first of the failures in a row was.
    pub since_ms: u64,
    /// And the last one.
    pub last_ms: u64,
    /// Of that; `ETIMEDOUT` when it did not answer.
    pub errno: i32,
    /// When it is tried again; `None` while a try is out.
    pub next_try_ms: Option<u64>,
}

/// What is known of an engine now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EngineState {
    /// It is another process or another machine, and may hang.
    pub is_elsewhere: bool,
    /// While it is not asked as usual.
    pub outage: Option<Outage>,
    /// Writes that do not come back.
    pub late: usize,
    /// How many outages there were.
    pub outages: u64,
}

/// Failures in a row.
#[derive(Clone, Copy, Debug)]
struct Failures {
    since_ms: u64,
    last_ms: u64,
    errno: i32,
}

/// Under the queue's lock.
#[derive(Debug)]
pub(super) struct Engine {
    crew: Crew,
    circuit: Circuit,
    failures: Option<Failures>,
    outages: u64,
}

impl Engine {
    pub(super) fn new(crew: Crew, seed: u64) -> Engine {
        let never = Patience { deadline_ms: u64::MAX, ..PATIENCE };
        let circuit = Circuit::new(crew.patience.unwrap_or(never), seed);
        Engine { crew, circuit, failures: None, outages: 0 }
    }

    pub(super) fn is_elsewhere(&self) -> bool {
        self.crew.patience.is_some()
    }

    pub(super) fn is_closed(&self) -> bool {
        self.circuit.state() == CircuitState::Closed
    }

    /// How many there may be now.
    pub(super) fn lanes(&self) -> u32 {
        self.crew.lanes.count()
    }

    /// How many are at work.
    pub(super) fn at_work(&self) -> u32 {
        self.lanes().min(self.circuit.in_time() as u32)
    }

    /// A run is stored. Whether there may be more lanes now.
    pub(super) fn note_run(&mut self, run: LaneRun, now_ms: u64) -> bool {
        let before = self.lanes();
        self.crew.lanes.note_run(run, now_ms) > before
    }

    /// Threads that it takes: one lane of a disk has two, and late attempts bind some.
    pub(super) fn threads(&self) -> usize {
        let beside = usize::from(self.takes_beside());
        let late_max = self.crew.patience.map_or(0, |patience| patience.late_max);
        self.crew.lanes.most().max(1) as usize + beside.max(late_max)
    }

    /// Every lane has a turn.
    pub(super) fn is_full(&self) -> bool {
        self.circuit.in_time() >= self.lanes() as usize
    }

    /// Whether the next turn may be handed to the disk while the last one ends. Several lanes need
    /// no such thing, and of an engine that may hang as little as possible is to be on its way.
    pub(super) fn takes_beside(&self) -> bool {
        self.lanes() == 1 && !self.is_elsewhere()
    }

    /// Asks for one of the lanes, or, where the turn of the only one ends (`is_ending`), for the turn
    /// beside that; and to begin. See [`Circuit::try_begin`].
    pub(super) fn try_begin(&mut self, is_ending: bool, now_ms: u64) -> Result<Attempt, Refused> {
        let beside = usize::from(is_ending && self.takes_beside());
        if self.circuit.in_time() >= self.lanes() as usize + beside {
            return Err(Refused::WhileOut);
        }
        self.circuit.try_begin(now_ms)
    }

    pub(super) fn restart(&mut self, attempt: &Attempt, now_ms: u64) {
        self.circuit.restart(attempt, now_ms);
    }

    pub(super) fn cancel(&mut self, attempt: Attempt, now_ms: u64) {
        self.circuit.cancel(attempt, now_ms);
    }

    pub(super) fn succeed(&mut self, attempt: Attempt, now_ms: u64) {
        self.circuit.succeed(attempt, now_ms);
        if self.is_closed() {
            self.failures = None;
        }
    }

    /// The attempt ended with an error, which may be the file's own.
    pub(super) fn refuse(&mut self, attempt: Attempt, errno: i32, now_ms: u64) {
        if !self.is_at_fault(errno) {
            return self.succeed(attempt, now_ms);
        }
        let was_closed = self.is_closed();
        self.circuit.fail(attempt, now_ms);
        self.note_failure(errno, now_ms, was_closed);
    }

    /// Notes which attempts are late; whether any became so.
    pub(super) fn expire(&mut self, now_ms: u64) -> bool {
        let was_closed = self.is_closed();
        let is_news = self.circuit.expire(now_ms) > 0;
        if is_news {
            self.note_failure(libc::ETIMEDOUT, now_ms, was_closed);
        }
        is_news
    }

    pub(super) fn end_pause(&mut self, now_ms: u64) {
        self.circuit.end_pause(now_ms);
    }

    /// Whether an error is the engine's and not the file's.
    pub(super) fn is_at_fault(&self, errno: i32) -> bool {
        self.is_elsewhere() && is_of_connection(errno)
    }

    pub(super) fn state(&self) -> EngineState {
        let next_try_ms = match self.circuit.state() {
            CircuitState::Open { until_ms } => Some(until_ms),
            CircuitState::Closed | CircuitState::HalfOpen => None,
        };
        let outage = self.failures.filter(|_| !self.is_closed()).map(|failures| {
            let Failures { since_ms, last_ms, errno } = failures;
            Outage { since_ms, last_ms, errno, next_try_ms }
        });
        EngineState {
            is_elsewhere: self.is_elsewhere(),
            outage,
            late: self.circuit.late(),
            outages: self.outages,
        }
    }

    fn note_failure(&mut self, errno: i32, now_ms: u64, was_closed: bool) {
        let since_ms = self.failures.map_or(now_ms, |failures| failures.since_ms);
        self.failures = Some(Failures { since_ms, last_ms: now_ms, errno });
        self.outages += u64::from(was_closed && !self.is_closed());
    }
}
