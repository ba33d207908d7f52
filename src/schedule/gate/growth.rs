//! How fast memory fills.

/// A measurement. Bytes come in requests of up to a MiB, several of which are to be in it.
const WINDOW_US: u64 = 10_000;
/// After so long without any, nothing is known of the moment.
const FORGOTTEN_US: u64 = 10 * WINDOW_US;

/// What it was for so long, and up to twice that, says whether it goes on: the kernel hands pages over in bursts,
/// with some tenths of a second between them.
const LASTING_US: u64 = 250_000;
/// What lasts shorter counts as if it were spread over so long.
const SURE_US: u64 = 100_000;

/// The growth of what is held, of late.
#[derive(Debug, Default)]
pub(super) struct Growth {
    since_us: u64,
    from_bytes: u64,
    /// Nothing while it shrinks.
    bytes_per_us: f64,
    /// In the mean of some tenths of a second; below nothing while it shrinks.
    lasting: f64,
    /// Where that is counted from, and will be next.
    marks: [Mark; 2],
}

#[derive(Clone, Copy, Debug, Default)]
struct Mark {
    at_us: u64,
    held_bytes: u64,
}

impl Growth {
    /// So much is held now.
    pub(super) fn note(&mut self, held_bytes: u64, now_us: u64) {
        let took_us = now_us.saturating_sub(self.since_us);
        if took_us < WINDOW_US {
            return;
        }
        let per_us = (held_bytes as f64 - self.from_bytes as f64) / took_us as f64;
        self.bytes_per_us = if took_us < FORGOTTEN_US { per_us.max(0.0) } else { 0.0 };
        self.lasting = self.since_mark(Mark { at_us: now_us, held_bytes });
        (self.since_us, self.from_bytes) = (now_us, held_bytes);
    }

    /// Bytes in a microsecond, as far as they last.
    fn since_mark(&mut self, now: Mark) -> f64 {
        let [_, next] = self.marks;
        let age_us = now.at_us.saturating_sub(next.at_us);
        if age_us >= LASTING_US {
            self.marks = [if age_us < 2 * LASTING_US { next } else { now }, now];
        }
        let from = self.marks[0];
        let took_us = now.at_us.saturating_sub(from.at_us).max(SURE_US);
        (now.held_bytes as f64 - from.held_bytes as f64) / took_us as f64
    }

    /// Bytes in a microsecond, as long as it lasts.
    pub(super) fn lasting(&self) -> f64 {
        self.lasting
    }

    /// What comes on top in so long, if it goes on.
    pub(super) fn bytes_in(&self, time_us: u64) -> u64 {
        (self.bytes_per_us * time_us as f64) as u64
    }
}
