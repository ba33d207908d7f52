//! The buffer against a model: a logical file, a disk, and an arena that are plain vectors.
//!
//! Method: random writes, truncations, runs taken, completed, failed and left in flight, and the
//! worker's death after any number of steps. After each, what the overlay shows over the disk must
//! be the logical file, and every count must equal a recount. The seed is printed; `SEED` repeats.

use std::collections::BTreeMap;

use super::*;

const SEGMENT: u32 = 64;
const CHUNK: u64 = 256;
const FILE_MAX: u64 = 2048;
const SLOTS: u32 = 512;

const GEOMETRY: Geometry = Geometry { segment_bytes: SEGMENT, chunk_bytes: CHUNK };

struct Random(u64);

impl Random {
    fn seeded(name: &str) -> Random {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = seed.unwrap_or(now.as_nanos() as u64 | 1);
        println!("{name}: SEED={seed}");
        Random(seed)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// What the worker's death leaves: bytes and the published table.
#[derive(Clone)]
struct Arena {
    bytes: Vec<[u8; SEGMENT as usize]>,
    table: BTreeMap<Slot, Published>,
    free: Vec<Slot>,
}

impl Arena {
    fn new() -> Arena {
        Arena {
            bytes: vec![[0; SEGMENT as usize]; SLOTS as usize],
            table: BTreeMap::new(),
            free: (0..SLOTS).map(Slot).collect(),
        }
    }

    fn carry_out(&mut self, step: Step, request: &[u8]) {
        match step {
            Step::Copy { slot, at, from, len } => {
                let to = &mut self.bytes[slot.0 as usize][at as usize..(at + len) as usize];
                to.copy_from_slice(&request[from..from + len as usize]);
            }
            Step::Move { from, to, at, len } => {
                let range = at as usize..(at + len) as usize;
                let moved = self.bytes[from.0 as usize][range.clone()].to_vec();
                self.bytes[to.0 as usize][range].copy_from_slice(&moved);
            }
            Step::Publish { slot, index, start, end, seq, born_ms } => {
                assert!(start < end && end <= SEGMENT, "an empty or overlong range");
                self.table.insert(slot, Published { slot, index, start, end, seq, born_ms });
            }
            Step::Free { slot } => {
                assert!(self.table.remove(&slot).is_some(), "{slot:?} freed twice");
                self.free.push(slot);
            }
        }
    }
}

struct Model {
    buffer: FileBuffer,
    arena: Arena,
    logical: Vec<u8>,
    disk: Vec<u8>,
    in_flight: Vec<Vec<Piece>>,
    seq: u64,
    now_ms: u64,
    /// How many steps of each operation are carried out before the worker dies.
    dies_after: Option<usize>,
}

impl Model {
    fn new() -> Model {
        Model {
            buffer: FileBuffer::new(GEOMETRY),
            arena: Arena::new(),
            logical: Vec::new(),
            disk: Vec::new(),
            in_flight: Vec::new(),
            seq: 0,
            now_ms: 0,
            dies_after: None,
        }
    }

    /// Carries steps out, or only the first of them; `false` when the worker died.
    fn carry_out(&mut self, steps: Vec<Step>, request: &[u8]) -> bool {
        let keep = self.dies_after.take().map(|after| after % (steps.len() + 1));
        let count = keep.unwrap_or(steps.len());
        for step in steps.into_iter().take(count) {
            self.arena.carry_out(step, request);
        }
        if keep.is_some() {
            self.restart();
        }
        keep.is_none()
    }

    fn restart(&mut self) {
        self.buffer = FileBuffer::new(GEOMETRY);
        self.in_flight.clear();
        let found: Vec<Published> = self.arena.table.values().copied().collect();
        self.arena.free =
            (0..SLOTS).map(Slot).filter(|slot| !self.arena.table.contains_key(slot)).collect();
        let mut steps = Vec::new();
        self.buffer.restore(found, &mut steps);
        for step in steps {
            self.arena.carry_out(step, &[]);
        }
    }

    fn write(&mut self, offset: u64, bytes: &[u8]) {
        (self.seq, self.now_ms) = (self.seq + 1, self.now_ms + 1);
        let needed = self.buffer.slots_needed(offset, bytes.len());
        let at = self.arena.free.len() - needed;
        let mut slots = self.arena.free.split_off(at);
        let mut steps = Vec::new();
        self.buffer.write(offset, bytes.len(), self.seq, self.now_ms, &mut slots, &mut steps);
        assert!(slots.is_empty(), "slots_needed is exact");
        if !self.carry_out(steps, bytes) {
            // Not acknowledged: the kernel sends it again.
            return self.write(offset, bytes);
        }
        let end = offset as usize + bytes.len();
        if self.logical.len() < end {
            self.logical.resize(end, 0);
        }
        self.logical[offset as usize..end].copy_from_slice(bytes);
    }

    fn truncate(&mut self, size: u64) {
        if self.buffer.has_in_flight_from(size) {
            return;
        }
        self.disk.resize(size as usize, 0);
        let mut steps = Vec::new();
        self.buffer.truncate(size, &mut steps);
        if !self.carry_out(steps, &[]) {
            return self.truncate(size);
        }
        self.logical.resize(size as usize, 0);
    }

    fn take_run(&mut self, from: u64, to: u64, max_bytes: u64) -> u64 {
        let mut run = Vec::new();
        let bytes = self.buffer.take_run(from, to, max_bytes, &mut run);
        assert_eq!(bytes, run.iter().map(|piece| u64::from(piece.len)).sum::<u64>());
        let mut at = run.first().map_or(from, |piece| piece.offset);
        for piece in &run {
            assert!(piece.offset == at && at >= from, "a run is contiguous and in its range");
            assert_eq!(piece.offset % u64::from(SEGMENT), u64::from(piece.at));
            at += u64::from(piece.len);
        }
        assert!(at <= to.max(from));
        assert!(run.len() <= 1 || bytes <= max_bytes);
        if bytes > 0 {
            self.in_flight.push(run);
        }
        bytes
    }

    fn store(&mut self, run: &[Piece]) {
        for piece in run {
            let (from, to) =
                (piece.offset as usize, (piece.offset + u64::from(piece.len)) as usize);
            if self.disk.len() < to {
                self.disk.resize(to, 0);
            }
            let at = piece.at as usize..(piece.at + piece.len) as usize;
            self.disk[from..to].copy_from_slice(&self.arena.bytes[piece.slot.0 as usize][at]);
        }
    }

    fn complete(&mut self, which: usize) {
        let run = self.in_flight.swap_remove(which);
        self.store(&run);
        let mut steps = Vec::new();
        self.buffer.complete(&run, &mut steps);
        self.carry_out(steps, &[]);
    }

    fn fail(&mut self, which: usize) {
        let run = self.in_flight.swap_remove(which);
        // Some of it may have arrived.
        self.store(&run[..run.len() / 2]);
        let mut steps = Vec::new();
        self.buffer.fail(&run, &mut steps);
        self.carry_out(steps, &[]);
    }

    fn drain(&mut self) {
        while !self.in_flight.is_empty() {
            self.complete(0);
        }
        while self.take_run(0, u64::MAX, u64::MAX) > 0 {
            self.complete(0);
        }
        assert!(self.buffer.is_clean());
        assert_eq!(self.arena.free.len(), SLOTS as usize, "slots leaked");
    }

    fn seen(&self) -> Vec<u8> {
        let mut seen = self.disk.clone();
        let end = self.buffer.end() as usize;
        seen.resize(seen.len().max(end), 0);
        let mut pieces = Vec::new();
        self.buffer.overlay(0, seen.len(), &mut pieces);
        for piece in pieces {
            let from = piece.offset as usize;
            let at = piece.at as usize..(piece.at + piece.len) as usize;
            seen[from..from + piece.len as usize]
                .copy_from_slice(&self.arena.bytes[piece.slot.0 as usize][at]);
        }
        seen
    }

    /// Overlay over disk is the logical file, and the counts are those of a recount.
    fn check(&self) {
        assert!(self.seen() == self.logical, "what is seen is not what was written");
        let in_flight: Vec<Slot> =
            self.in_flight.iter().flatten().map(|piece| piece.slot).collect();
        let (mut dirty, mut flying) = (0, 0);
        let mut fresh_in_chunk: BTreeMap<u64, u64> = BTreeMap::new();
        let mut flying_in_chunk: BTreeMap<u64, u64> = BTreeMap::new();
        for published in self.arena.table.values() {
            let bytes = u64::from(published.end - published.start);
            let chunk = published.index * u64::from(SEGMENT) / CHUNK;
            if in_flight.contains(&published.slot) {
                flying += bytes;
                *flying_in_chunk.entry(chunk).or_default() += bytes;
            } else {
                dirty += bytes;
                *fresh_in_chunk.entry(chunk).or_default() += bytes;
            }
        }
        assert_eq!(self.buffer.dirty_bytes(), dirty);
        assert_eq!(self.buffer.in_flight_bytes(), flying);
        assert_eq!(self.buffer.held_slots(), self.arena.table.len());
        assert_eq!(self.arena.free.len() + self.arena.table.len(), SLOTS as usize);
        assert_eq!(self.buffer.first_chunk(), fresh_in_chunk.keys().next().copied());
        let is_whole = |(chunk, bytes): &(&u64, &u64)| {
            **bytes == CHUNK && !flying_in_chunk.contains_key(chunk)
        };
        let whole = fresh_in_chunk.iter().find(is_whole).map(|(chunk, _)| *chunk);
        assert_eq!(self.buffer.whole_chunk(), whole);
        let oldest = self.arena.table.values().map(|published| published.born_ms).min();
        assert_eq!(self.buffer.oldest_ms(), oldest);
        // Fresh entries of a segment neither overlap nor touch.
        let fresh: Vec<&Published> =
            self.arena.table.values().filter(|p| !in_flight.contains(&p.slot)).collect();
        for (n, a) in fresh.iter().enumerate() {
            for b in &fresh[n + 1..] {
                assert!(a.index != b.index || a.end < b.start || b.end < a.start, "{a:?} {b:?}");
            }
        }
    }
}

fn random_history(name: &str, steps: u64, deaths: bool) {
    let mut random = Random::seeded(name);
    let mut model = Model::new();
    for step in 0..steps {
        if deaths && random.below(8) == 0 {
            model.dies_after = Some(random.below(16) as usize);
        }
        match random.below(12) {
            0..=5 => {
                let offset = random.below(FILE_MAX);
                let longest = if random.below(4) == 0 { 3 * u64::from(SEGMENT) } else { 20 };
                let byte = (step % 255) as u8 + 1;
                model.write(offset, &vec![byte; 1 + random.below(longest) as usize]);
            }
            6 | 7 => {
                let from = random.below(FILE_MAX);
                let max_bytes = 1 + random.below(4 * CHUNK);
                model.take_run(from, from + random.below(FILE_MAX), max_bytes);
            }
            8 if !model.in_flight.is_empty() => {
                let which = random.below(model.in_flight.len() as u64) as usize;
                model.complete(which);
            }
            9 if !model.in_flight.is_empty() => {
                let which = random.below(model.in_flight.len() as u64) as usize;
                model.fail(which);
            }
            10 if random.below(4) == 0 => model.truncate(random.below(FILE_MAX)),
            11 if random.below(10) == 0 => model.drain(),
            _ => {}
        }
        model.dies_after = None;
        model.check();
    }
    model.drain();
    assert!(model.disk == model.logical, "the disk has what was written");
}

/// Goal: any history shows at every moment, and leaves on the disk, what was written last.
#[test]
fn any_history_ends_as_written() {
    random_history("any_history", 20_000, false);
}

/// Goal: the same when the worker dies after any number of steps of any operation.
#[test]
fn any_history_with_deaths_ends_as_written() {
    random_history("any_history_with_deaths", 20_000, true);
}

/// Goal: sequential streams fill whole chunks, whatever order their requests arrive in.
#[test]
fn requests_out_of_order_fill_whole_chunks() {
    let mut model = Model::new();
    for offset in [128, 0, 192, 64] {
        assert_eq!(model.buffer.whole_chunk(), None);
        model.write(offset, &[7; 64]);
    }
    assert_eq!(model.buffer.whole_chunk(), Some(0));
    assert_eq!(model.take_run(0, CHUNK, CHUNK), CHUNK);
    assert_eq!(model.buffer.whole_chunk(), None);
}

/// Goal: the rule of a lying write. Two writes are merged and answered, and are in flight when a
/// third overwrites the second: whatever completes or fails when, the third's bytes win.
#[test]
fn newer_write_wins_over_merged_older_ones_in_flight() {
    type Event = fn(&mut Model);
    let endings: [&[Event]; 4] = [
        // The merged pair is stored, then the third.
        &[|m| m.complete(0), |m| m.drain()],
        // The merged pair fails and is tried again.
        &[|m| m.fail(0), |m| m.drain()],
        // It fails, a fourth write comes, and both go out together.
        &[|m| m.fail(0), |m| m.write(30, &[4; 10]), |m| m.drain()],
        // The worker dies with it in flight.
        &[|m| m.restart(), |m| m.drain()],
    ];
    for ending in endings {
        let mut model = Model::new();
        model.write(0, &[1; 20]);
        model.write(20, &[2; 20]);
        assert_eq!(model.take_run(0, CHUNK, CHUNK), 40);
        model.write(10, &[3; 20]);
        // Nothing of the third may leave while the pair is on its way: it could be overtaken.
        assert_eq!(model.take_run(0, CHUNK, CHUNK), 0);
        for event in ending {
            event(&mut model);
            model.check();
        }
        assert_eq!(model.disk[..10], [1; 10]);
        assert_eq!(model.disk[10..30], [3; 20]);
    }
}

/// Goal: a write next to bytes in flight takes a place of its own, and both arrive.
#[test]
fn a_write_beside_bytes_in_flight_waits_for_nobody() {
    let mut model = Model::new();
    model.write(0, &[1; 32]);
    model.take_run(0, CHUNK, CHUNK);
    model.write(32, &[2; 32]);
    assert_eq!(model.take_run(0, CHUNK, CHUNK), 32, "they do not overlap");
    model.complete(1);
    model.complete(0);
    model.check();
    assert!(model.buffer.is_clean());
}

/// Goal: a cut in the middle of a segment keeps what is before it.
#[test]
fn truncation_keeps_what_is_before_the_cut() {
    let mut model = Model::new();
    model.write(10, &[1; 300]);
    model.truncate(100);
    model.check();
    assert_eq!(model.buffer.end(), 100);
    model.drain();
    assert_eq!(model.disk.len(), 100);
}
