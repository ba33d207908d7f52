//! What is counted while a simulation runs. But for the bytes that are lost and the time at which all
//! is stored, figures are of the time from the end of the warm-up to the end of the programs.

use hdrhistogram::Histogram;

use crate::engine::Engine;
use crate::setup::Setup;
use crate::stream::Stream;

/// Parts into which a stored range is divided: ages within are taken to grow evenly.
const AGE_PARTS: u64 = 4;
/// More than any figure.
const LARGEST: u64 = 1 << 40;

/// Counts of a run.
pub struct Figures {
    from_us: u64,
    end_us: u64,
    now_us: u64,
    pub requests: u64,
    pub request_bytes: u64,
    /// Bytes of each, so that the median is that of requests.
    pub sizes: Histogram<u64>,
    /// Requests in each server's queue, looked at regularly.
    pub queued: Histogram<u64>,
    /// What requests waited before they were served.
    pub waits_us: Histogram<u64>,
    /// Age of each KiB when it was stored, over the whole run.
    pub ages_ms: Histogram<u64>,
    /// Of each node, looked at regularly.
    pub held_kib: Histogram<u64>,
    /// What coalescefs' memory held at most on any node.
    pub most_held_bytes: u64,
    /// Work of the servers when it was begun to measure, and at the end.
    busy_us: (u64, u64),
    pub lost_bytes: u64,
    /// Taken by the engine more than once, since a part of the run was refused.
    pub repeated_bytes: u64,
    pub stored_bytes: u64,
    /// Times at which it is to be noted what streams have written, and that.
    snapshots: Vec<(u64, Vec<u64>)>,
    taken: usize,
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LARGEST, 3).expect("three digits are allowed")
}

impl Figures {
    pub fn new(setup: &Setup) -> Figures {
        let trouble = setup.trouble.map(|trouble| [trouble.from_us, trouble.to_us]);
        let mut times: Vec<u64> = trouble.into_iter().flatten().collect();
        times.extend([setup.warm_up_us, setup.end_us]);
        times.sort_unstable();
        Figures {
            from_us: setup.warm_up_us,
            end_us: setup.end_us,
            now_us: 0,
            requests: 0,
            request_bytes: 0,
            sizes: histogram(),
            queued: histogram(),
            waits_us: histogram(),
            ages_ms: histogram(),
            held_kib: histogram(),
            most_held_bytes: 0,
            busy_us: (0, 0),
            lost_bytes: 0,
            repeated_bytes: 0,
            stored_bytes: 0,
            snapshots: times.into_iter().map(|at_us| (at_us, Vec::new())).collect(),
            taken: 0,
        }
    }

    /// Time goes on, after which things are as given.
    pub fn note_time(&mut self, now_us: u64, streams: &[Stream], engine: &Engine) {
        self.now_us = now_us;
        while let Some((at_us, heads)) = self.snapshots.get_mut(self.taken)
            && *at_us <= now_us
        {
            heads.extend(streams.iter().map(Stream::head));
            self.taken += 1;
            if *at_us == self.from_us {
                self.busy_us.0 = engine.busy_us();
            }
            if *at_us == self.end_us {
                self.busy_us.1 = engine.busy_us();
            }
        }
    }

    /// What each stream wrote between two of the times that are noted.
    pub fn progress(&self, from_us: u64, to_us: u64) -> Vec<u64> {
        let at = |wanted_us| self.snapshots.iter().find(|(at_us, _)| *at_us == wanted_us);
        let (Some((_, before)), Some((_, after))) = (at(from_us), at(to_us)) else {
            unreachable!("these times are not noted");
        };
        after.iter().zip(before).map(|(after, before)| after - before).collect()
    }

    /// Work that the servers were given while it was measured.
    pub fn busy_us(&self) -> u64 {
        self.busy_us.1 - self.busy_us.0
    }

    pub fn note_arrival(&mut self, bytes: u64, wait_us: u64) {
        if self.is_measured() {
            self.requests += 1;
            self.request_bytes += bytes;
            self.sizes.saturating_record(bytes);
            self.waits_us.saturating_record(wait_us);
        }
    }

    pub fn note_queue(&mut self, queued: usize) {
        if self.is_measured() {
            self.queued.saturating_record(queued as u64);
        }
    }

    pub fn note_held(&mut self, bytes: u64) {
        if self.is_measured() {
            self.held_kib.saturating_record(bytes >> 10);
        }
    }

    /// Bytes are stored, of which the last was written so long ago, and the first.
    pub fn note_stored(&mut self, bytes: u64, least_us: u64, most_us: u64) {
        self.stored_bytes += bytes;
        let weight = (bytes / AGE_PARTS).max(1);
        for part in 0..AGE_PARTS {
            let age_us = least_us + (most_us - least_us) * part / (AGE_PARTS - 1);
            self.ages_ms.saturating_record_n(age_us / 1000, weight);
        }
    }

    fn is_measured(&self) -> bool {
        (self.from_us..self.end_us).contains(&self.now_us)
    }
}
