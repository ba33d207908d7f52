//! What is known of how a file is written: what it has had, and how fast its programs are.

use super::Pass;

/// What is taken to be written in a microsecond by a program of which nothing is known: it copies
/// pages. This counts as much as so long a pass.
const FIRST_SPEED: f64 = 1000.0;
const FIRST_US: f64 = 1000.0;
/// The same for one write: a page, and as much as so many.
const FIRST_WRITE_BYTES: f64 = 4096.0;
const FIRST_WRITES: f64 = 64.0;
/// What arrives so soon was written before anybody was asked.
const HOARD_US: u64 = 500_000;
/// After so long, what was learned counts half: the kernel sends bytes long after they were written,
/// and those of many writes at once.
const HALVED_US: f64 = 5_000_000.0;
/// After so long, half of what was taken to be written, and has not arrived, is taken not to be.
const DOUBTED_US: f64 = 500_000.0;

/// Bytes in a unit, which is a microsecond or a write.
#[derive(Debug)]
struct Rate {
    units: f64,
    bytes: f64,
    learned_us: u64,
}

impl Rate {
    fn new(units: f64, per_unit: f64, now_us: u64) -> Rate {
        Rate { units, bytes: units * per_unit, learned_us: now_us }
    }

    fn learn(&mut self, units: f64, bytes: f64, now_us: u64) {
        let left = halvings(&mut self.learned_us, now_us, HALVED_US);
        self.units = self.units * left + units;
        self.bytes = self.bytes * left + bytes;
    }

    fn per_unit(&self) -> f64 {
        // Less than a byte in the longest pass is nothing to divide by.
        (self.bytes / self.units.max(1.0)).max(1e-3)
    }
}

/// What is left of something that halves, since it was looked at last.
fn halvings(at_us: &mut u64, now_us: u64, halved_us: f64) -> f64 {
    let aged_us = now_us.saturating_sub(std::mem::replace(at_us, now_us));
    (-(aged_us as f64) / halved_us).exp2()
}

/// A file that is written while the gate is shut.
#[derive(Debug)]
pub(super) struct Meter {
    /// Its place in the order: the bytes that it had, and more when it has been idle.
    had_bytes: f64,
    /// Taken to be written, and not arrived.
    on_their_way_bytes: f64,
    doubted_us: u64,
    /// What arrives before was not passed for.
    asked_us: u64,
    /// The same, of passes of the kind that there is now.
    kind_us: u64,
    timed: Rate,
    single: Rate,
}

impl Meter {
    pub(super) fn new(had_bytes: u64, now_us: u64) -> Meter {
        Meter {
            had_bytes: had_bytes as f64,
            on_their_way_bytes: 0.0,
            doubted_us: now_us,
            asked_us: now_us + HOARD_US,
            kind_us: now_us + HOARD_US,
            timed: Rate::new(FIRST_US, FIRST_SPEED, now_us),
            single: Rate::new(FIRST_WRITES, FIRST_WRITE_BYTES, now_us),
        }
    }

    /// From now on passes are of another kind: what was written before is still to come.
    pub(super) fn begin(&mut self, now_us: u64) {
        self.kind_us = now_us + HOARD_US;
    }

    fn learn(&mut self, pass: Pass, units: f64, bytes: f64, now_us: u64) {
        if now_us >= self.kind_us {
            let rate = match pass {
                Pass::Once => &mut self.single,
                Pass::Timed => &mut self.timed,
            };
            rate.learn(units, bytes, now_us);
        }
    }

    /// It was let write for so many microseconds, or writes.
    pub(super) fn note_passed(&mut self, pass: Pass, units: f64, now_us: u64) {
        self.learn(pass, units, 0.0, now_us);
    }

    /// So many bytes are taken to be written. One write is as large as the next, so that it is had;
    /// what is written in a time is not known before it arrives.
    pub(super) fn note_written(&mut self, pass: Pass, bytes: f64, now_us: u64) {
        self.doubt(now_us);
        match pass {
            Pass::Once => self.had_bytes += bytes,
            Pass::Timed => self.on_their_way_bytes += bytes,
        }
    }

    /// Bytes came, of passes of that kind.
    pub(super) fn note_arrived(&mut self, pass: Pass, bytes: u64, now_us: u64) {
        self.learn(pass, 0.0, bytes as f64, now_us);
        self.doubt(now_us);
        if pass == Pass::Timed {
            if now_us >= self.asked_us {
                self.had_bytes += bytes as f64;
            }
            self.on_their_way_bytes = (self.on_their_way_bytes - bytes as f64).max(0.0);
        }
    }

    /// Its place in an order in which nobody is before `first_bytes`, since who was idle has no claim
    /// to all that others had meanwhile, nor behind `last_bytes`, so that nobody has to wait until
    /// others had all that it had.
    pub(super) fn place_bytes(&mut self, first_bytes: u64, last_bytes: u64, now_us: u64) -> u64 {
        self.doubt(now_us);
        let place_bytes = self.had_bytes + self.on_their_way_bytes;
        let bounded_bytes = place_bytes.clamp(first_bytes as f64, last_bytes as f64);
        self.had_bytes += bounded_bytes - place_bytes;
        bounded_bytes as u64
    }

    /// Bytes that are written in a microsecond, or in one write.
    pub(super) fn speed(&self, pass: Pass) -> f64 {
        match pass {
            Pass::Once => self.single.per_unit(),
            Pass::Timed => self.timed.per_unit(),
        }
    }

    fn doubt(&mut self, now_us: u64) {
        self.on_their_way_bytes *= halvings(&mut self.doubted_us, now_us, DOUBTED_US);
    }
}
