//! A simulated arena and disk around one [`FileBuffer`], with oracles that know nothing of
//! entries: what the file shows, byte by byte, and which bytes are fresh or in flight.

use std::collections::BTreeSet;

use super::super::*;

pub const SEGMENT: u32 = 32;
pub const GEOMETRY: Geometry = Geometry { segment_bytes: SEGMENT, chunk_bytes: 4 * 32 };
pub const FILE_BYTES: usize = 6 * 4 * 32;
const SLOTS: u32 = 64;

/// What outlives the worker.
#[derive(Clone)]
pub struct Arena {
    pub contents: Vec<Vec<u8>>,
    pub table: Vec<Option<Published>>,
}

impl Arena {
    pub fn carry_out(&mut self, step: &Step, data: &[u8]) {
        match *step {
            Step::Copy { slot, at, from, len } => {
                let (at, len) = (at as usize, len as usize);
                self.contents[slot.0 as usize][at..at + len]
                    .copy_from_slice(&data[from..from + len]);
            }
            Step::Move { from, to, at, len } => {
                assert_ne!(from, to);
                let range = at as usize..(at + len) as usize;
                let bytes = self.contents[from.0 as usize][range.clone()].to_vec();
                self.contents[to.0 as usize][range].copy_from_slice(&bytes);
            }
            Step::Publish { slot, index, start, end, seq, born_ms } => {
                assert!(start < end && end <= SEGMENT);
                let entry = &mut self.table[slot.0 as usize];
                assert!(entry.is_none_or(|entry| entry.index == index), "slot used twice");
                *entry = Some(Published { slot, index, start, end, seq, born_ms });
            }
            Step::Free { slot } => {
                assert!(self.table[slot.0 as usize].take().is_some(), "slot freed twice");
            }
        }
    }

    /// Some of the words of a `Publish` of a slot that is published already.
    pub fn carry_out_half(&mut self, step: &Step, words: u64) {
        let Step::Publish { slot, start, end, seq, born_ms, .. } = *step else { return };
        let Some(entry) = &mut self.table[slot.0 as usize] else { return };
        let [a, b, c, d] = [1, 2, 4, 8].map(|bit| words & bit != 0);
        entry.start = if a { start } else { entry.start };
        entry.end = if b { end } else { entry.end };
        entry.seq = if c { seq } else { entry.seq };
        entry.born_ms = if d { born_ms } else { entry.born_ms };
    }

    pub fn published(&self) -> Vec<Published> {
        self.table.iter().flatten().copied().collect()
    }

    pub fn free_slots(&self) -> Vec<Slot> {
        (0..SLOTS).rev().filter(|&n| self.table[n as usize].is_none()).map(Slot).collect()
    }

    fn piece(&self, piece: &Piece) -> &[u8] {
        &self.contents[piece.slot.0 as usize][piece.at as usize..(piece.at + piece.len) as usize]
    }

    /// What a reader sees: the overlay over the disk.
    pub fn view(&self, buffer: &FileBuffer, disk: &[u8], offset: u64, len: usize) -> Vec<u8> {
        let mut view = disk[offset as usize..offset as usize + len].to_vec();
        let mut pieces = Vec::new();
        buffer.overlay(offset, len, &mut pieces);
        for piece in &pieces {
            let at = (piece.offset - offset) as usize;
            view[at..at + piece.len as usize].copy_from_slice(self.piece(piece));
        }
        view
    }
}

/// What must be so, byte by byte.
#[derive(Clone)]
pub struct Oracle {
    pub logical: Vec<u8>,
    pub disk: Vec<u8>,
    pub fresh: Vec<bool>,
    pub in_flight: Vec<bool>,
    /// When the byte was last written.
    pub written_ms: Vec<u64>,
}

impl Oracle {
    pub fn is_dirty(&self, byte: usize) -> bool {
        self.fresh[byte] || self.in_flight[byte]
    }
}

pub struct Run {
    pub pieces: Vec<Piece>,
    /// The bytes of the pieces when they were taken.
    taken: Vec<Vec<u8>>,
}

impl Run {
    /// Takes the pieces from `at` on out of the run.
    pub fn split_off(&mut self, at: usize) -> Vec<Piece> {
        self.taken.truncate(at);
        self.pieces.split_off(at)
    }
}

/// One operation that gives steps.
#[derive(Clone, Debug)]
pub enum Op {
    Write { offset: u64, data: Vec<u8> },
    Complete { pieces: Vec<Piece> },
    Fail { pieces: Vec<Piece> },
    Truncate { size: u64 },
}

pub struct World {
    pub buffer: FileBuffer,
    pub arena: Arena,
    pub oracle: Oracle,
    pub free: Vec<Slot>,
    pub runs: Vec<Run>,
    pub seq: u64,
    pub now_ms: u64,
}

impl World {
    pub fn new() -> Self {
        let arena = Arena {
            contents: vec![vec![0xEE; SEGMENT as usize]; SLOTS as usize],
            table: vec![None; SLOTS as usize],
        };
        World {
            buffer: FileBuffer::new(GEOMETRY),
            free: arena.free_slots(),
            arena,
            oracle: Oracle {
                logical: vec![0; FILE_BYTES],
                disk: vec![0; FILE_BYTES],
                fresh: vec![false; FILE_BYTES],
                in_flight: vec![false; FILE_BYTES],
                written_ms: vec![0; FILE_BYTES],
            },
            runs: Vec::new(),
            seq: 0,
            now_ms: 1,
        }
    }

    pub fn write(&mut self, offset: u64, len: u32, byte: u8) -> Vec<Step> {
        self.carry_out(&Op::Write { offset, data: vec![byte; len as usize] })
    }

    pub fn complete(&mut self, run: usize) -> Vec<Step> {
        assert!(self.is_frozen(run), "what is in flight changed");
        let pieces = self.runs.swap_remove(run).pieces;
        self.carry_out(&Op::Complete { pieces })
    }

    pub fn fail(&mut self, run: usize) -> Vec<Step> {
        let pieces = self.runs.swap_remove(run).pieces;
        self.carry_out(&Op::Fail { pieces })
    }

    pub fn truncate(&mut self, size: u64) -> Vec<Step> {
        self.carry_out(&Op::Truncate { size })
    }

    pub fn carry_out(&mut self, op: &Op) -> Vec<Step> {
        let steps = self.decide(op);
        self.finish(op, &steps);
        steps
    }

    /// Does what was decided.
    pub fn finish(&mut self, op: &Op, steps: &[Step]) {
        for step in steps {
            self.arena.carry_out(step, op.data());
            if let Step::Free { slot } = step {
                self.free.push(*slot);
            }
        }
        self.acknowledge(op);
    }

    /// The decision alone: nothing is done to the arena yet.
    pub fn decide(&mut self, op: &Op) -> Vec<Step> {
        let mut steps = Vec::new();
        match op {
            Op::Write { offset, data } => {
                self.seq += 1;
                let needed = self.buffer.slots_needed(*offset, data.len());
                let before = self.free.len();
                let (seq, now_ms) = (self.seq, self.now_ms);
                let free = &mut self.free;
                self.buffer.write(*offset, data.len(), seq, now_ms, free, &mut steps);
                assert_eq!(before - self.free.len(), needed, "slots_needed is exact");
            }
            Op::Complete { pieces } => {
                for piece in pieces {
                    let at = piece.offset as usize;
                    self.oracle.disk[at..at + piece.len as usize]
                        .copy_from_slice(self.arena.piece(piece));
                }
                self.buffer.complete(pieces, &mut steps);
            }
            Op::Fail { pieces } => self.buffer.fail(pieces, &mut steps),
            Op::Truncate { size } => self.buffer.truncate(*size, &mut steps),
        }
        steps
    }

    /// The steps are done: what the program was told is what must be so.
    fn acknowledge(&mut self, op: &Op) {
        let oracle = &mut self.oracle;
        match op {
            Op::Write { offset, data } => {
                let range = *offset as usize..*offset as usize + data.len();
                oracle.logical[range.clone()].copy_from_slice(data);
                oracle.fresh[range.clone()].fill(true);
                oracle.written_ms[range].fill(self.now_ms);
            }
            Op::Complete { pieces } | Op::Fail { pieces } => {
                for piece in pieces {
                    let range = piece.offset as usize..piece.offset as usize + piece.len as usize;
                    oracle.in_flight[range.clone()].fill(false);
                    if let Op::Fail { .. } = op {
                        oracle.fresh[range].fill(true);
                    }
                }
            }
            Op::Truncate { size } => {
                oracle.logical[*size as usize..].fill(0);
                oracle.disk[*size as usize..].fill(0);
                oracle.fresh[*size as usize..].fill(false);
            }
        }
    }

    /// Takes a run, compares it with one found by looking at everything, and returns its place
    /// in `runs`.
    pub fn take_run(&mut self, from: u64, to: u64, max_bytes: u64) -> Option<usize> {
        let wanted = self.wanted_run(from, to, max_bytes);
        let mut pieces = Vec::new();
        let bytes = self.buffer.take_run(from, to, max_bytes, &mut pieces);
        assert_eq!(pieces, wanted, "run in {from}..{to}, at most {max_bytes}");
        assert_eq!(bytes, pieces.iter().map(|piece| u64::from(piece.len)).sum::<u64>());
        for piece in &pieces {
            for byte in piece.offset as usize..piece.offset as usize + piece.len as usize {
                assert!(self.oracle.fresh[byte] && !self.oracle.in_flight[byte]);
                self.oracle.fresh[byte] = false;
                self.oracle.in_flight[byte] = true;
            }
        }
        let taken = pieces.iter().map(|piece| self.arena.piece(piece).to_vec()).collect();
        (bytes > 0).then(|| {
            self.runs.push(Run { pieces, taken });
            self.runs.len() - 1
        })
    }

    fn wanted_run(&self, from: u64, to: u64, max_bytes: u64) -> Vec<Piece> {
        let end = |piece: &Piece| piece.offset + u64::from(piece.len);
        let (in_flight, fresh) = self.pieces_by_state();
        let mut run: Vec<Piece> = Vec::new();
        for piece in fresh.iter().filter(|piece| piece.offset >= from && end(piece) <= to) {
            let overlaps = |f: &Piece| f.offset < end(piece) && piece.offset < end(f);
            let blocked = in_flight.iter().any(overlaps);
            let Some(last) = run.last() else {
                run.extend((!blocked).then_some(*piece));
                continue;
            };
            let bytes: u64 = run.iter().chain([piece]).map(|piece| u64::from(piece.len)).sum();
            if blocked || end(last) != piece.offset || bytes > max_bytes {
                break;
            }
            run.push(*piece);
        }
        run
    }

    pub fn is_frozen(&self, run: usize) -> bool {
        let Run { pieces, taken } = &self.runs[run];
        pieces.iter().zip(taken).all(|(piece, bytes)| self.arena.piece(piece) == bytes)
    }

    /// The worker dies and the next one rebuilds; both at rest.
    pub fn restart(&mut self) {
        self.buffer = FileBuffer::new(GEOMETRY);
        let mut steps = Vec::new();
        self.buffer.restore(self.arena.published(), &mut steps);
        steps.iter().for_each(|step| self.arena.carry_out(step, &[]));
        self.start_again();
    }

    /// What a new worker knows: all that was dirty is fresh.
    pub fn start_again(&mut self) {
        self.runs.clear();
        self.free = self.arena.free_slots();
        for byte in 0..FILE_BYTES {
            self.oracle.fresh[byte] |= self.oracle.in_flight[byte];
            self.oracle.in_flight[byte] = false;
        }
    }

    pub fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        self.arena.view(&self.buffer, &self.oracle.disk, offset, len)
    }

    pub fn disk(&self, offset: u64, len: usize) -> Vec<u8> {
        self.oracle.disk[offset as usize..offset as usize + len].to_vec()
    }

    /// Published pieces, in flight and fresh, each by offset.
    fn pieces_by_state(&self) -> (Vec<Piece>, Vec<Piece>) {
        let taken = self.runs.iter().flat_map(|run| &run.pieces).map(|piece| piece.slot);
        let taken: BTreeSet<Slot> = taken.collect();
        let pieces = self.arena.published().into_iter().map(|p| Piece {
            slot: p.slot,
            at: p.start,
            offset: p.index * u64::from(SEGMENT) + u64::from(p.start),
            len: p.end - p.start,
        });
        let mut pieces: Vec<Piece> = pieces.collect();
        pieces.sort_by_key(|piece| piece.offset);
        pieces.into_iter().partition(|piece| taken.contains(&piece.slot))
    }

    pub fn check(&self) {
        assert_eq!(self.read(0, FILE_BYTES), self.oracle.logical, "the file as it is read");
        self.check_counters();
        self.check_entries();
    }

    fn check_counters(&self) {
        let Oracle { fresh, in_flight, .. } = &self.oracle;
        let buffer = &self.buffer;
        let count = |set: &[bool]| set.iter().filter(|&&is| is).count() as u64;
        assert_eq!(buffer.dirty_bytes(), count(fresh));
        assert_eq!(buffer.in_flight_bytes(), count(in_flight));
        let dirty = |byte: &usize| self.oracle.is_dirty(*byte);
        let end = (0..FILE_BYTES).rev().find(dirty).map_or(0, |byte| byte + 1);
        assert_eq!(buffer.end(), end as u64);
        assert_eq!(buffer.is_clean(), end == 0);

        let chunk_bytes = buffer.chunk_bytes() as usize;
        let chunks = || fresh.chunks(chunk_bytes).zip(in_flight.chunks(chunk_bytes));
        let whole = chunks()
            .position(|(fresh, flying)| fresh.iter().all(|&is| is) && !flying.iter().any(|&is| is));
        assert_eq!(buffer.whole_chunk(), whole.map(|chunk| chunk as u64));
        let first = chunks().position(|(fresh, _)| fresh.iter().any(|&is| is));
        assert_eq!(buffer.first_chunk(), first.map(|chunk| chunk as u64));
        let reach = in_flight.iter().rposition(|&is| is).map_or(0, |byte| byte as u64 + 1);
        assert!(!buffer.has_in_flight_from(reach));
        assert!(reach == 0 || buffer.has_in_flight_from(reach - 1));

        let (_, fresh_pieces) = self.pieces_by_state();
        let births = fresh_pieces
            .iter()
            .map(|piece| self.arena.table[piece.slot.0 as usize].expect("published").born_ms);
        assert_eq!(buffer.oldest_ms(), births.min());
        let written = (0..FILE_BYTES).filter(|&byte| fresh[byte]);
        let written = written.map(|byte| self.oracle.written_ms[byte]).min();
        assert!(buffer.oldest_ms().zip(written).is_none_or(|(born, written)| born <= written));
    }

    fn check_entries(&self) {
        let (in_flight, fresh) = self.pieces_by_state();
        let mut overlay = Vec::new();
        self.buffer.overlay(0, FILE_BYTES, &mut overlay);
        let held: Vec<Piece> = in_flight.iter().chain(&fresh).copied().collect();
        assert_eq!(overlay, held, "the buffer holds what is published, in flight first");
        assert_eq!(self.buffer.held_slots(), held.len());
        let slots: BTreeSet<Slot> = self.free.iter().copied().collect();
        assert_eq!(slots.len() + held.len(), SLOTS as usize, "a slot leaked");
        assert!(held.iter().all(|piece| !slots.contains(&piece.slot)), "a slot is used twice");

        let end = |piece: &Piece| piece.offset + u64::from(piece.len);
        let index = |piece: &Piece| GEOMETRY.index(piece.offset);
        assert!(in_flight.is_sorted_by(|a, b| end(a) <= b.offset), "invariant 2");
        let apart =
            |a: &Piece, b: &Piece| end(a) < b.offset || end(a) == b.offset && index(a) != index(b);
        assert!(fresh.is_sorted_by(apart), "invariant 1");
        assert!((0..self.runs.len()).all(|run| self.is_frozen(run)), "invariant 2");
        let seq = |piece: &Piece| self.arena.table[piece.slot.0 as usize].map(|entry| entry.seq);
        for older in &in_flight {
            for newer in &fresh {
                let overlap = older.offset < end(newer) && newer.offset < end(older);
                assert!(!overlap || seq(newer) > seq(older), "invariant 3");
            }
        }
    }

    pub fn check_clean(&self) {
        self.check();
        assert!(self.buffer.is_clean());
        assert_eq!(self.free.len(), SLOTS as usize);
        assert_eq!(self.oracle.disk, self.oracle.logical, "everything is on the disk");
    }
}

impl Op {
    pub fn data(&self) -> &[u8] {
        match self {
            Op::Write { data, .. } => data,
            _ => &[],
        }
    }
}
