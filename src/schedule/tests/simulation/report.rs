//! What happened in a simulation after its warm-up.

use std::ops::Range;

use crate::schedule::{Load, Reason};

/// What one disk did.
#[derive(Clone, Debug, Default)]
pub struct DiskReport {
    pub bytes: u64,
    pub busy_us: u64,
}

/// What happened.
#[derive(Debug)]
pub struct Report {
    pub turns: u64,
    pub bytes: u64,
    pub whole_bytes: u64,
    pub age_turns: u64,
    /// From a turn of a file to its next, in turns of its disk: fewest and most, over all files.
    pub gaps: Option<(usize, usize)>,
    /// Most turns of others on its disk from when a file had a whole chunk, and no turn since, to
    /// its turn.
    pub whole_wait_turns: usize,
    /// The same from when it was over-age, and no turn for its age since.
    pub age_wait_turns: usize,
    pub most_held_bytes: u64,
    /// Age of the oldest byte when its turn ended.
    pub oldest_ms: u64,
    pub longest_wait_ms: u64,
    pub acknowledged_bytes: Vec<u64>,
    pub disks: Vec<DiskReport>,
    /// Streams with dirty bytes at the end.
    pub streams_held: usize,
}

impl Report {
    pub fn new(streams: usize, disks: usize) -> Self {
        Self {
            turns: 0,
            bytes: 0,
            whole_bytes: 0,
            age_turns: 0,
            gaps: None,
            whole_wait_turns: 0,
            age_wait_turns: 0,
            most_held_bytes: 0,
            oldest_ms: 0,
            longest_wait_ms: 0,
            acknowledged_bytes: vec![0; streams],
            disks: vec![DiskReport::default(); disks],
            streams_held: 0,
        }
    }

    pub fn whole_share(&self) -> f64 {
        self.whole_bytes as f64 / self.bytes as f64
    }

    /// Largest over smallest of the acknowledged bytes of some streams.
    pub fn spread(&self, streams: Range<usize>) -> f64 {
        let bytes = &self.acknowledged_bytes[streams];
        *bytes.iter().max().unwrap() as f64 / *bytes.iter().min().unwrap() as f64
    }

    pub fn note_written(&mut self, disk: usize, bytes: u64, is_whole: bool, age_ms: u64) {
        self.bytes += bytes;
        self.disks[disk].bytes += bytes;
        self.whole_bytes += if is_whole { bytes } else { 0 };
        self.oldest_ms = self.oldest_ms.max(age_ms);
    }
}

/// How many turns of its disk a file waits. Kept over the warm-up.
#[derive(Debug, Default)]
pub struct Waits {
    last_turn: Option<usize>,
    whole_since: Option<usize>,
    age_floor_us: u64,
}

impl Waits {
    /// The file's load changed after so many turns of the disk.
    pub fn note_load(&mut self, load: &Load, turns: usize) {
        if load.has_whole_chunk {
            self.whole_since.get_or_insert(turns);
        }
    }

    /// It has the next turn after those, and would be over-age at `due_us`.
    pub fn note_turn(
        &mut self,
        reason: Reason,
        due_us: u64,
        turns_us: &[u64],
        report: &mut Report,
    ) {
        let turn = turns_us.len();
        report.turns += 1;
        report.age_turns += u64::from(reason == Reason::Age);
        if let Some(since) = self.whole_since {
            report.whole_wait_turns = report.whole_wait_turns.max(turn - since);
        }
        let due_us = due_us.max(self.age_floor_us);
        let due_turn = turns_us.partition_point(|at_us| *at_us < due_us);
        report.age_wait_turns = report.age_wait_turns.max(turn - due_turn);
        if let Some(last_turn) = self.last_turn.replace(turn) {
            let gap = turn - last_turn;
            let (fewest, most) = report.gaps.unwrap_or((gap, gap));
            report.gaps = Some((fewest.min(gap), most.max(gap)));
        }
    }

    /// Its turn is over.
    pub fn note_end(&mut self, reason: Reason, load: &Load, turns: usize, now_us: u64) {
        if reason == Reason::Age {
            self.age_floor_us = now_us;
        }
        self.whole_since = None;
        self.note_load(load, turns);
    }
}
