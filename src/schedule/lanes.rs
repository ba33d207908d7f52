//! How many lanes a device is to have: as many as make it faster.
//!
//! With `n` lanes at work a device that takes `t` for a run of `x` bytes takes `n·x/t` in all. That
//! is known from the runs alone, whether or not the device is busy all the time, as long as only runs
//! count during which all lanes were at work. So a level is measured, one lane more is tried, and
//! kept if it brings [`GAIN`]; else it is tried again after a while, and so is one less, which is kept
//! if hardly anything is lost. Between the two is a band in which nothing moves. Waits between tries
//! double while they bring nothing.
//!
//! Rejected: bytes in a time, which are the programs' when those are slower than the device; and to
//! follow the run times of one lane only, which do not tell a device that queues from one that works
//! on several at a time.

/// Most lanes.
pub const LANES_MAX: u32 = 8;
/// Runs at a level before it is judged.
const RUNS_MIN: u32 = 16;
/// Of more runs at a level the older half is forgotten.
const RUNS_REMEMBERED: u32 = 4 * RUNS_MIN;
/// At least so long at a level.
const LEVEL_MS: u64 = 2_000;
/// A try is over after so long, also when it was not measured: nobody writes as much.
const TRY_MS: u64 = 30_000;
/// One lane more is to bring this part.
const GAIN: f64 = 0.10;
/// One lane less may cost this part.
const LOSS: f64 = 0.03;
/// Between two tries that brought nothing, at first and at most.
const PAUSE_MS: std::ops::RangeInclusive<u64> = 30_000..=600_000;
/// Smaller runs say more of what a call costs than of the device.
const RUN_BYTES_MIN: u64 = 1 << 20;

/// What a lane saw of one run.
#[derive(Clone, Copy, Debug)]
pub struct LaneRun {
    /// Bytes written.
    pub bytes: u64,
    /// What that took, in microseconds.
    pub took_us: u64,
    /// Lanes that were at work when it began, this one among them.
    pub at_work: u32,
}

/// What was measured at a level.
#[derive(Clone, Copy, Debug, Default)]
struct Level {
    runs: u32,
    bytes: u64,
    took_us: u64,
    since_ms: u64,
}

impl Level {
    /// Older runs count less and less: devices change while nothing is tried.
    fn note(&mut self, run: LaneRun) {
        if self.runs >= RUNS_REMEMBERED {
            (self.runs, self.bytes) = (self.runs / 2, self.bytes / 2);
            self.took_us /= 2;
        }
        self.runs += 1;
        self.bytes = self.bytes.saturating_add(run.bytes);
        self.took_us = self.took_us.saturating_add(run.took_us.max(1));
    }
}

/// The level that a try came from, and how fast that was.
#[derive(Clone, Copy, Debug)]
struct Try {
    from: u32,
    bytes_per_s: f64,
}

/// The number of lanes of one device. See the module's head.
#[derive(Clone, Copy, Debug)]
pub struct Lanes {
    count: u32,
    least: u32,
    most: u32,
    level: Level,
    attempt: Option<Try>,
    /// The next try is one less.
    is_down_next: bool,
    next_try_ms: u64,
    pause_ms: u64,
}

impl Lanes {
    /// Always so many.
    pub fn fixed(count: u32) -> Lanes {
        Lanes::within(count, count)
    }

    /// From one on, up to `most`.
    pub fn measured(most: u32) -> Lanes {
        Lanes::within(1, most)
    }

    fn within(least: u32, most: u32) -> Lanes {
        Lanes {
            count: least,
            least,
            most,
            level: Level::default(),
            attempt: None,
            is_down_next: false,
            next_try_ms: 0,
            pause_ms: *PAUSE_MS.start(),
        }
    }

    /// In force.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// There are never more.
    pub fn most(&self) -> u32 {
        self.most
    }

    /// A run is stored: how many lanes there are to be from now on.
    pub fn note_run(&mut self, run: LaneRun, now_ms: u64) -> u32 {
        if self.level.runs == 0 && self.attempt.is_none() {
            self.level.since_ms = now_ms;
        }
        if run.at_work == self.count && run.bytes >= RUN_BYTES_MIN {
            self.level.note(run);
        }
        let passed_ms = now_ms.saturating_sub(self.level.since_ms);
        let is_measured = self.level.runs >= RUNS_MIN && passed_ms >= LEVEL_MS;
        match self.attempt {
            Some(attempt) if is_measured => self.judge(attempt, now_ms),
            Some(attempt) if passed_ms >= TRY_MS => self.give_up(attempt, now_ms),
            None if is_measured && now_ms >= self.next_try_ms => self.try_another(now_ms),
            _ => {}
        }
        self.count
    }

    fn bytes_per_s(&self) -> f64 {
        f64::from(self.count) * self.level.bytes as f64 * 1e6 / self.level.took_us.max(1) as f64
    }

    fn judge(&mut self, attempt: Try, now_ms: u64) {
        let part = self.bytes_per_s() / attempt.bytes_per_s.max(1.0);
        let is_more = self.count > attempt.from;
        let is_kept = if is_more { part >= 1.0 + GAIN } else { part >= 1.0 - LOSS };
        if !is_kept {
            return self.give_up(attempt, now_ms);
        }
        self.attempt = None;
        self.pause_ms = *PAUSE_MS.start();
        // On in the same direction, from what was just measured.
        self.is_down_next = !is_more;
        self.try_another(now_ms);
    }

    fn give_up(&mut self, attempt: Try, now_ms: u64) {
        self.is_down_next = self.count > attempt.from;
        self.attempt = None;
        self.move_to(attempt.from, now_ms);
        self.next_try_ms = now_ms.saturating_add(self.pause_ms);
        self.pause_ms = (self.pause_ms * 2).min(*PAUSE_MS.end());
    }

    fn try_another(&mut self, now_ms: u64) {
        let (from, bytes_per_s) = (self.count, self.bytes_per_s());
        let (is_lowest, is_highest) = (from <= self.least, from >= self.most);
        let to = match (is_lowest, is_highest) {
            (true, true) => return,
            (true, false) => from + 1,
            (false, true) => from - 1,
            (false, false) if self.is_down_next => from - 1,
            (false, false) => from + 1,
        };
        self.attempt = Some(Try { from, bytes_per_s });
        self.move_to(to, now_ms);
    }

    fn move_to(&mut self, count: u32, now_ms: u64) {
        self.count = count;
        self.level = Level { since_ms: now_ms, ..Level::default() };
    }
}
