//! When to leave a disk with heads to those who read from it.
//!
//! A drive that has requests of a reader and of a writer in hand goes to and fro between them, and
//! most of the time is the way: neither has a third of what the disk could do. So a lane writes for
//! a *visit*, then leaves the disk alone until others have read [`THEIRS`] times as much. That is what
//! they have beside a kernel that writes back; but both get more bytes, since the head moves twice in
//! a visit instead of twice a request.
//! Nobody waits for a reader who has gone: a pause ends when little is read. One that is in vain
//! costs [`LOOK_MS`], and others follow only when somebody reads.
//! Times are those of the caller.

/// A visit writes so much at least: moving the head there and back is a tenth of it.
const VISIT_BYTES: u64 = 16 << 20;
/// And takes as long at least, in microseconds: fast arrays write more.
const VISIT_US: u64 = 100_000;
/// For each byte of a visit others may read so many.
const THEIRS: u64 = 4;
/// No pause is longer: readers on slow links read all the time, and little.
const PAUSE_MS_MAX: u64 = 800;
/// In a pause it is seen so often whether anybody reads.
const LOOK_MS: u64 = 10;
/// Somebody does who has read so much in that time.
const LOOK_BYTES: u64 = 128 << 10;

/// What everybody has read from the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reads {
    /// In all; only differences count.
    pub bytes: u64,
    /// Some read is waiting for the disk now.
    pub under_way: bool,
}

#[derive(Clone, Copy, Debug)]
struct Pause {
    until_ms: u64,
    looked_ms: u64,
    looked_bytes: u64,
}

/// Visits and pauses of the lane of one disk.
#[derive(Debug, Default)]
pub struct Sharing {
    visit_bytes: u64,
    visit_us: u64,
    /// What had been read when the visit began.
    before_bytes: Option<u64>,
    pause: Option<Pause>,
}

impl Sharing {
    /// So much was written, which took the disk so long.
    pub fn note_run(&mut self, bytes: u64, took_us: u64) {
        self.visit_bytes += bytes;
        self.visit_us += took_us;
    }

    /// Whether a turn may begin. `Err`: not before that time, or, with `None`, not before the turns end
    /// that are under way (`any_out`).
    pub fn may_begin(
        &mut self,
        any_out: bool,
        reads: Reads,
        now_ms: u64,
    ) -> Result<(), Option<u64>> {
        self.before_bytes.get_or_insert(reads.bytes);
        if self.visit_bytes >= VISIT_BYTES && self.visit_us >= VISIT_US {
            self.leave(any_out, reads, now_ms)?;
            *self = Sharing { before_bytes: Some(reads.bytes), ..Sharing::default() };
        }
        Ok(())
    }

    /// A visit is over: `Ok` when the next one may begin.
    fn leave(&mut self, any_out: bool, reads: Reads, now_ms: u64) -> Result<(), Option<u64>> {
        let theirs = reads.bytes.saturating_sub(self.before_bytes.unwrap_or(reads.bytes));
        let had_theirs = theirs >= self.visit_bytes * THEIRS;
        let goes_on = match self.pause {
            None => reads.under_way || theirs >= self.visit_bytes / 16,
            Some(pause) => pause.goes_on(reads, now_ms),
        };
        if had_theirs || !goes_on {
            return Ok(());
        }
        if any_out {
            return Err(None);
        }
        let longest_ms = (self.visit_us / 1000 * THEIRS).min(PAUSE_MS_MAX);
        let pause = self.pause.get_or_insert(Pause {
            until_ms: now_ms + longest_ms,
            looked_ms: now_ms,
            looked_bytes: reads.bytes,
        });
        pause.note(reads, now_ms);
        Err(Some(pause.until_ms.min(pause.looked_ms + LOOK_MS)))
    }
}

impl Pause {
    fn goes_on(&self, reads: Reads, now_ms: u64) -> bool {
        let is_early = now_ms < self.looked_ms + LOOK_MS;
        let is_read = reads.under_way || reads.bytes >= self.looked_bytes + LOOK_BYTES;
        now_ms < self.until_ms && (is_early || is_read)
    }

    fn note(&mut self, reads: Reads, now_ms: u64) {
        if now_ms >= self.looked_ms + LOOK_MS {
            (self.looked_ms, self.looked_bytes) = (now_ms, reads.bytes);
        }
    }
}
