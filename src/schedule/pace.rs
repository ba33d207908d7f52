//! How many bytes may be written now, as memory fills.
//!
//! Below `from` all, at the limit none until memory comes back. Between the two, at a rate: a few
//! times that at which memory comes back at first, less than it at the end, so that the level
//! settles below the limit. Programs then slow down within a second instead of at once. Rejected:
//! as much as came back, times a factor. While a disk does nothing for a second, memory is there
//! for that.

/// Written for each byte that comes back, where pacing begins and at the limit. Further apart, the
/// level swings: what is written arrives some tenths of a second later.
const FACTORS: (f64, f64) = (2.0, 0.5);
/// A measurement of the rate. Memory comes back at the end of a run, of which several must be in it.
const WINDOW_MS: u64 = 300;
/// What is not used of the rate is kept for so long: ticks come late.
const KEPT_MS: f64 = 30.0;

/// Meters what may be written. The clock is the caller's, in milliseconds.
#[derive(Debug)]
pub struct Pace {
    from_bytes: u64,
    limit_bytes: u64,
    /// At which memory comes back while all lanes are busy, in bytes per millisecond.
    rate: f64,
    is_measured: bool,
    /// The part of it that is no guess.
    seen: f64,
    freed_bytes: u64,
    window_ms: u64,
    /// Whether lanes were busy in it.
    is_window_busy: bool,
    /// Below zero after a request that was larger than what there was.
    credit_bytes: f64,
    credited_ms: u64,
    is_pacing: bool,
}

impl Pace {
    /// Until it is known how fast memory comes back, it is taken to do so within three seconds.
    pub fn new(from_bytes: u64, limit_bytes: u64) -> Pace {
        let from_bytes = from_bytes.min(limit_bytes);
        Pace {
            from_bytes,
            limit_bytes,
            rate: ((limit_bytes - from_bytes) / 3000).max(1) as f64,
            is_measured: false,
            seen: 0.0,
            freed_bytes: 0,
            window_ms: 0,
            is_window_busy: false,
            credit_bytes: 0.0,
            credited_ms: 0,
            is_pacing: false,
        }
    }

    /// Memory came back, after which `held_bytes` are held.
    pub fn note_freed(&mut self, bytes: u64, held_bytes: u64, now_ms: u64) {
        // Where nobody is held back, lanes wait for something to do.
        let is_busy = held_bytes + bytes > self.from_bytes;
        if is_busy != self.is_window_busy {
            (self.is_window_busy, self.freed_bytes, self.window_ms) = (is_busy, 0, now_ms);
            return;
        }
        self.freed_bytes += bytes;
        let took_ms = now_ms.saturating_sub(self.window_ms);
        if took_ms < WINDOW_MS {
            return;
        }
        // A disk that others use may give nothing back for seconds.
        if took_ms < 12 * WINDOW_MS {
            self.measured(self.freed_bytes as f64 / took_ms as f64, is_busy);
        }
        self.freed_bytes = 0;
        self.window_ms = now_ms;
    }

    /// What came back while lanes waited for something is the least that they can.
    fn measured(&mut self, found: f64, is_busy: bool) {
        self.rate = match (is_busy, self.is_measured) {
            (true, true) => (self.rate + found) / 2.0,
            (true, false) => found,
            (false, true) => self.rate,
            (false, false) => self.rate.max(found),
        };
        self.rate = self.rate.max(1.0);
        self.is_measured |= is_busy;
        self.seen = if self.is_measured { self.rate } else { self.seen.max(found) };
    }

    /// Bytes that may be written while `held_bytes` are held.
    pub fn room_bytes(&mut self, held_bytes: u64, now_ms: u64) -> u64 {
        if held_bytes <= self.from_bytes {
            self.credit_bytes = self.credit_bytes.max(0.0);
            self.credited_ms = now_ms;
            self.is_pacing = false;
            return self.from_bytes - held_bytes;
        }
        self.is_pacing = true;
        let free_bytes = self.limit_bytes.saturating_sub(held_bytes);
        let rate = self.rate * self.factor(free_bytes);
        let passed_ms = now_ms.saturating_sub(self.credited_ms) as f64;
        self.credited_ms = now_ms;
        let credit_bytes = self.credit_bytes + passed_ms * rate;
        self.credit_bytes = credit_bytes.min(KEPT_MS * rate);
        free_bytes.min(self.credit_bytes.max(0.0) as u64)
    }

    /// So many are written; below zero, so many fewer than was said before.
    pub fn spend(&mut self, bytes: f64) {
        if self.is_pacing {
            let owed_bytes = KEPT_MS * self.rate;
            self.credit_bytes = (self.credit_bytes - bytes).max(-owed_bytes);
        }
    }

    /// Bytes that come back in so long.
    pub fn bytes_in(&self, time_us: u64) -> f64 {
        self.rate * time_us as f64 / 1000.0
    }

    /// The same as far as it was seen: nothing before memory came back.
    pub fn seen_bytes_in(&self, time_us: u64) -> f64 {
        self.seen * time_us as f64 / 1000.0
    }

    fn factor(&self, free_bytes: u64) -> f64 {
        let paced_bytes = (self.limit_bytes - self.from_bytes).max(1) as f64;
        let free = (free_bytes as f64 / paced_bytes).min(1.0);
        FACTORS.1 + (FACTORS.0 - FACTORS.1) * free
    }
}
