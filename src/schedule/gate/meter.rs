//! What is known of how a file is written: what it has had, and how fast its programs are.

use super::Pass;

/// What is taken to be written in a microsecond by a program of which nothing is known: it copies
/// pages. What was not seen counts as much as so long a pass.
const FIRST_SPEED: f64 = 1000.0;
const FIRST_US: f64 = 1000.0;
/// The same for one write: a page, and as much as so many.
const FIRST_WRITE_BYTES: f64 = 4096.0;
/// The kernel does not always tell how long a file is, without meaning anything by it.
const UNKNOWN_MAX: u8 = 4;
/// A write(2) takes no less.
const WRITE_US_MIN: f64 = 0.5;
const FIRST_WRITES: f64 = 64.0;
/// Single writes of which it is known what they wrote count as so many others.
const EXACT: f64 = 16.0;
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
    /// Whether that has what it took before anybody was asked.
    has_taken: bool,
    /// How its programs pass now.
    kind: Pass,
    /// Taken to be written, and not arrived.
    on_their_way_bytes: f64,
    doubted_us: u64,
    /// What arrives before was not passed for.
    asked_us: u64,
    /// The same, of passes of the kind that there is now.
    kind_us: u64,
    timed: Rate,
    single: Rate,
    /// Writes it was let do one by one, of which it is not known yet what they wrote.
    singles: f64,
    /// As the kernel had it when its programs asked last.
    size_bytes: Option<u64>,
    /// So often in a row it did not say.
    unknown: u8,
    /// What they wrote then made it longer, so that its size says what is written.
    grows: bool,
}

/// What was written for passes, and what was taken to be.
#[derive(Debug, Default)]
pub(super) struct Written {
    /// Writes that were let pass one by one.
    pub(super) units: f64,
    pub(super) bytes: f64,
    pub(super) charged_bytes: f64,
}

impl Meter {
    pub(super) fn new(now_us: u64) -> Meter {
        let timed = Rate::new(FIRST_US, FIRST_SPEED, now_us);
        let single = Rate::new(FIRST_WRITES, FIRST_WRITE_BYTES, now_us);
        Meter::with(timed, single, now_us)
    }

    /// Of a file that is taken to be written as `self` is, and has had so much.
    pub(super) fn like(&self, had_bytes: u64, now_us: u64) -> Meter {
        let timed = Rate::new(FIRST_US, self.speed(Pass::Timed), now_us);
        let single = Rate::new(FIRST_WRITES, self.speed(Pass::Once), now_us);
        Meter { had_bytes: had_bytes as f64, ..Meter::with(timed, single, now_us) }
    }

    fn with(timed: Rate, single: Rate, now_us: u64) -> Meter {
        Meter {
            had_bytes: 0.0,
            has_taken: false,
            kind: Pass::Once,
            on_their_way_bytes: 0.0,
            doubted_us: now_us,
            asked_us: now_us + HOARD_US,
            kind_us: now_us + HOARD_US,
            timed,
            single,
            singles: 0.0,
            size_bytes: None,
            unknown: 0,
            grows: false,
        }
    }

    pub(super) fn kind(&self) -> Pass {
        self.kind
    }

    /// From now on passes are of that kind. Where it is another, what was written before is still to
    /// come.
    pub(super) fn set_kind(&mut self, kind: Pass, now_us: u64) {
        if self.kind == kind {
            return;
        }
        if kind == Pass::Timed {
            self.timed = Rate::new(FIRST_US, self.speed(Pass::Timed), now_us);
        }
        self.kind = kind;
        self.kind_us = now_us + HOARD_US;
    }

    /// It was let write for so many microseconds, or writes, or so many bytes of such passes came.
    pub(super) fn learn(&mut self, pass: Pass, units: f64, bytes: f64, now_us: u64) {
        if now_us >= self.kind_us {
            let rate = match pass {
                Pass::Once => &mut self.single,
                _ => &mut self.timed,
            };
            rate.learn(units, bytes, now_us);
        }
    }

    /// So many bytes are taken to be written. What is had is known when they arrive.
    pub(super) fn note_written(&mut self, bytes: f64, now_us: u64) {
        self.doubt(now_us);
        self.on_their_way_bytes += bytes;
    }

    /// Its programs ask, and it takes so much memory. Before they did they took that without asking.
    pub(super) fn note_taken(&mut self, taken_bytes: u64) {
        if !std::mem::replace(&mut self.has_taken, true) {
            self.had_bytes += taken_bytes as f64;
        }
    }

    /// It was let do one write.
    pub(super) fn note_single(&mut self) {
        self.singles += 1.0;
    }

    /// Its programs ask again, and the kernel has it that long, if that is known. What they wrote
    /// meanwhile, if that made it longer.
    pub(super) fn note_size(&mut self, size_bytes: Option<u64>, now_us: u64) -> Written {
        let mut written =
            Written { units: std::mem::take(&mut self.singles), ..Written::default() };
        self.note_known(size_bytes.is_some());
        let former_bytes = size_bytes.and_then(|bytes| self.size_bytes.replace(bytes));
        if let (Some(former_bytes), Some(size_bytes)) = (former_bytes, size_bytes) {
            written.bytes = size_bytes.saturating_sub(former_bytes) as f64;
            self.grows = written.bytes > 0.0;
        }
        if written.bytes > 0.0 {
            self.had_bytes += written.bytes;
            written.charged_bytes = std::mem::take(&mut self.on_their_way_bytes);
        }
        self.learn_written(self.kind, &written, now_us);
        written
    }

    /// Where its size is not known again and again, what arrives has to do.
    fn note_known(&mut self, is_known: bool) {
        self.unknown = if is_known { 0 } else { self.unknown.saturating_add(1) };
        if self.unknown >= UNKNOWN_MAX {
            (self.size_bytes, self.grows) = (None, false);
        }
    }

    /// What was written for single passes is known exactly where the file grew; else it arrives some
    /// time, and what arrives soon was written before anybody was asked.
    pub(super) fn learn_written(&mut self, pass: Pass, written: &Written, now_us: u64) {
        if pass == Pass::Once && written.bytes > 0.0 && written.units > 0.0 {
            self.single.learn(written.units * EXACT, written.bytes * EXACT, now_us);
        } else {
            self.learn(pass, written.units, written.bytes, now_us);
        }
    }

    /// Bytes came. Whether that was news.
    pub(super) fn note_arrived(&mut self, bytes: u64, now_us: u64) -> bool {
        if self.grows {
            return false;
        }
        self.learn(self.kind, 0.0, bytes as f64, now_us);
        self.doubt(now_us);
        if now_us >= self.asked_us {
            self.had_bytes += bytes as f64;
        }
        self.on_their_way_bytes = (self.on_their_way_bytes - bytes as f64).max(0.0);
        true
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
        let single = self.single.per_unit();
        let timed = self.timed.per_unit();
        match (pass, self.kind) {
            (Pass::Once, _) => single,
            // Where every write is small, no program can be fast.
            (_, Pass::Once) => timed.min(single / WRITE_US_MIN),
            _ => timed,
        }
    }

    fn doubt(&mut self, now_us: u64) {
        self.on_their_way_bytes *= halvings(&mut self.doubted_us, now_us, DOUBTED_US);
    }
}
