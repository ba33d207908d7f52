//! How fast memory fills.

/// A measurement. Bytes come in requests of up to a MiB, several of which are to be in it.
const WINDOW_US: u64 = 10_000;
/// After so long without any, nothing is known.
const FORGOTTEN_US: u64 = 10 * WINDOW_US;

/// A mean of so many measurements says whether it goes on.
const LASTING: f64 = 10.0;

/// The growth of what is held, of late.
#[derive(Debug, Default)]
pub(super) struct Growth {
    since_us: u64,
    from_bytes: u64,
    /// Nothing while it shrinks.
    bytes_per_us: f64,
    /// In the mean of the last tenth of a second; below nothing while it shrinks.
    lasting: f64,
}

impl Growth {
    /// So much is held now.
    pub(super) fn note(&mut self, held_bytes: u64, now_us: u64) {
        let took_us = now_us.saturating_sub(self.since_us);
        if took_us < WINDOW_US {
            return;
        }
        let is_known = took_us < FORGOTTEN_US;
        let grown_bytes = if is_known { held_bytes as f64 - self.from_bytes as f64 } else { 0.0 };
        let per_us = grown_bytes / took_us as f64;
        self.bytes_per_us = per_us.max(0.0);
        let mean = self.lasting + (per_us - self.lasting) / LASTING;
        self.lasting = if is_known { mean } else { 0.0 };
        (self.since_us, self.from_bytes) = (now_us, held_bytes);
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
