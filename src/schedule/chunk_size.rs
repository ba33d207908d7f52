//! How large a chunk is to be on one device: learned from what its runs took.
//!
//! A run of `x` bytes takes `a + b·x` when the head was at another file, `b·x` when it goes on where
//! the last run ended. Both are fitted by least squares with two unknowns, in which newer runs count
//! more ([`HALVED_MS`]), and a run that took much longer than expected counts less: disks stop for
//! other reasons now and then. How far a run is off is taken as a part of its time, and short runs
//! count more, by the root of their time: else a stall that comes before anything is expected would
//! decide alone for minutes. Rejected: to let them count by the square, as the noise does; what was
//! learned from small chunks then outlives the disk that it was learned from. Runs of one size, all
//! of other files, say nothing of `a` and `b` apart; the chunk then stays.
//!
//! The chunk is the smallest with which positioning costs [`POSITIONING_SHARE`] of a turn, but not
//! smaller than the first one, and so small that the chunks of all streams, half full as they are on
//! average, take half of the memory. It changes by a factor of two at a time, which is a step that
//! files take at their next write or turn: none is cut short, and the ramp bends but does not break.
//! Times are those of the caller.

/// Positioning is to cost this part of a turn's time at most.
const POSITIONING_SHARE: f64 = 0.03;
/// No turn is longer than this.
const CHUNK_BYTES_MAX: u64 = 64 << 20;
/// Below, a turn is not worth it.
const CHUNK_BYTES_MIN: u64 = 256 << 10;
/// A chunk has at most such a part of the memory, so that runs and turns of others have theirs.
const MEMORY_PART: u64 = 16;
/// After so long a run counts half: disks change with where on them is written.
const HALVED_MS: f64 = 60_000.0;
/// A pause ages what is known by no more: nothing is learned while nothing is written.
const PAUSE_MS: u64 = 5_000;
/// So many runs, with those that positioned counted by themselves, before anything is said.
const RUNS_MIN: f64 = 12.0;
/// How different the runs must be: 0 when all are alike, 1 when the two unknowns have nothing to do
/// with each other.
const VARIETY_MIN: f64 = 0.02;
/// A run that is off by more than so many times the usual counts less, as in Huber's estimator.
const OFF_MAX: f64 = 2.0;
/// The part by which runs are off until it is known.
const USUAL_FIRST: f64 = 0.125;
/// No disk is more regular.
const OFF_LIMIT_MIN: f64 = 0.001;
/// How fast what is usual is learned.
const USUAL_PART: f64 = 0.05;
/// At least so long between two steps: files are to come by and take them.
const STEP_MS: u64 = 2_000;
/// The fit has bytes in this unit, so that its numbers have about the same size.
const UNIT: f64 = (1 << 20) as f64;

/// What a lane saw of one run.
#[derive(Clone, Copy, Debug)]
pub struct RunTime {
    /// Bytes written.
    pub bytes: u64,
    /// What that took, in microseconds.
    pub took_us: u64,
    /// Whether the run before was one of another file.
    pub has_moved: bool,
}

/// What a device needs for a run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ServiceTime {
    /// To go to another file, in microseconds: `a`.
    pub positioning_us: f64,
    /// Bytes a second from there on: 1/`b`.
    pub bytes_per_s: f64,
}

impl ServiceTime {
    /// With so many bytes a turn, positioning costs [`POSITIONING_SHARE`].
    fn least_bytes(&self) -> f64 {
        (1.0 / POSITIONING_SHARE - 1.0) * self.positioning_us * self.bytes_per_s / 1e6
    }
}

/// Sums of weighted least squares: `m` is 1 for a run that positioned, else 0; `x` its bytes; `t` its
/// time.
#[derive(Clone, Copy, Debug, Default)]
struct Fit {
    /// Runs, and those that positioned, without weights.
    runs: f64,
    moved: f64,
    mm: f64,
    mx: f64,
    xx: f64,
    mt: f64,
    xt: f64,
    /// The part by which runs usually are off what is expected.
    usual: f64,
    at_ms: u64,
}

impl Fit {
    fn new() -> Fit {
        Fit { usual: USUAL_FIRST, ..Fit::default() }
    }

    fn note(&mut self, run: RunTime, now_ms: u64) {
        let passed_ms = now_ms.saturating_sub(self.at_ms).min(PAUSE_MS);
        self.at_ms = now_ms;
        self.age((-(passed_ms as f64) / HALVED_MS).exp2());
        let (m, x) = (f64::from(u8::from(run.has_moved)), run.bytes as f64 / UNIT);
        let t = run.took_us.max(1) as f64;
        let w = self.weight(m, x, t);
        self.runs += 1.0;
        self.moved += m;
        self.mm += w * m * m;
        self.mx += w * m * x;
        self.xx += w * x * x;
        self.mt += w * m * t;
        self.xt += w * x * t;
    }

    fn age(&mut self, left: f64) {
        let counts = [&mut self.runs, &mut self.moved];
        let sums = [&mut self.mm, &mut self.mx, &mut self.xx, &mut self.mt, &mut self.xt];
        counts.into_iter().chain(sums).for_each(|sum| *sum *= left);
    }

    /// What a run counts, and learns what is usual: of one that is far off only as much as the limit,
    /// so that a disk that has become another is believed after some dozens.
    fn weight(&mut self, m: f64, x: f64, t: f64) -> f64 {
        let expected_us = self.solve().map_or(0.0, |(a, b)| a * m + b * x);
        if expected_us < 1.0 {
            return t.powf(-0.5);
        }
        let off = (t - expected_us).abs() / expected_us;
        let limit = (OFF_MAX * self.usual).max(OFF_LIMIT_MIN);
        self.usual += (off.min(2.0 * limit) - self.usual) * USUAL_PART;
        (limit / off.max(limit)).powi(2) * expected_us.powf(-0.5)
    }

    /// `a` in microseconds, `b` in microseconds for a unit. `None` while the runs do not tell.
    fn solve(&self) -> Option<(f64, f64)> {
        let determinant = self.mm * self.xx - self.mx * self.mx;
        let is_told = self.runs >= RUNS_MIN
            && self.moved >= RUNS_MIN / 4.0
            && determinant > VARIETY_MIN * self.mm * self.xx;
        if !is_told {
            return None;
        }
        let a = (self.mt * self.xx - self.xt * self.mx) / determinant;
        // No disk positions in less than no time: all of it is then for the bytes.
        let (a, b) = match a < 0.0 {
            true => (0.0, self.xt / self.xx),
            false => (a, (self.xt * self.mm - self.mt * self.mx) / determinant),
        };
        (b > 0.0).then_some((a, b))
    }
}

/// The chunk of one device. See the module's head.
#[derive(Clone, Copy, Debug)]
pub struct ChunkSize {
    unit_bytes: u64,
    first_bytes: u64,
    memory_bytes: u64,
    bytes: u64,
    fit: Fit,
    stepped_ms: u64,
}

impl ChunkSize {
    /// Begins with `first_bytes`, a multiple of `unit_bytes`, of which chunks are multiples; all
    /// streams share `memory_bytes`.
    pub fn new(first_bytes: u64, unit_bytes: u64, memory_bytes: u64) -> ChunkSize {
        let (bytes, fit, stepped_ms) = (first_bytes, Fit::new(), 0);
        ChunkSize { unit_bytes, first_bytes, memory_bytes, bytes, fit, stepped_ms }
    }

    /// In force.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// What is known of the device, if the runs tell.
    pub fn service(&self) -> Option<ServiceTime> {
        let (a, b) = self.fit.solve()?;
        Some(ServiceTime { positioning_us: a, bytes_per_s: 1e6 * UNIT / b })
    }

    /// A run is stored.
    pub fn note_run(&mut self, run: RunTime, now_ms: u64) {
        self.fit.note(run, now_ms);
    }

    /// A turn is over, with so many streams that share the memory: what is in force from now on.
    pub fn step(&mut self, streams: u64, now_ms: u64) -> u64 {
        if now_ms.saturating_sub(self.stepped_ms) < STEP_MS {
            return self.bytes;
        }
        let before = self.bytes;
        let (most, wanted) = (self.most_bytes(streams), self.wanted_bytes());
        let (half, double) = (self.bytes / 2, self.bytes.saturating_mul(2));
        let is_divisible = half >= CHUNK_BYTES_MIN && half.is_multiple_of(self.unit_bytes);
        if self.bytes < wanted && double <= most {
            self.bytes = double;
        } else if is_divisible && (self.bytes > most || wanted <= half / 5 * 4) {
            // Only well below the half: between two sizes it would go to and fro.
            self.bytes = half;
        }
        if self.bytes != before {
            self.stepped_ms = now_ms;
        }
        self.bytes
    }

    /// Streams x chunk / 2 is half of the memory at most.
    fn most_bytes(&self, streams: u64) -> u64 {
        let part = self.memory_bytes / MEMORY_PART;
        (self.memory_bytes / streams.max(1)).min(part).min(CHUNK_BYTES_MAX)
    }

    fn wanted_bytes(&self) -> u64 {
        let least = self.service().map_or(0, |service| service.least_bytes() as u64);
        least.max(self.first_bytes)
    }
}
