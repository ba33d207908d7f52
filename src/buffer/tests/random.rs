//! Random histories. The seed is printed; `COALESCEFS_TEST_SEED=N` runs one again.

use super::super::*;
use super::world::{Arena, FILE_BYTES, GEOMETRY, Op, Oracle, SEGMENT, World};

const SEED_VARIABLE: &str = "COALESCEFS_TEST_SEED";
const HISTORIES: u64 = 40;
const STEPS: u64 = 600;

/// xorshift64*.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn shuffle<T>(&mut self, items: &mut [T]) {
        for n in (1..items.len()).rev() {
            items.swap(n, self.below(n as u64 + 1) as usize);
        }
    }
}

/// Runs `history` with many seeds.
fn with_seeds(histories: u64, history: impl Fn(&mut Random)) {
    let given = std::env::var(SEED_VARIABLE).ok();
    let (first, histories) = match given {
        Some(seed) => (seed.parse().expect("a seed is a number"), 1),
        None => {
            let now = std::time::UNIX_EPOCH.elapsed().expect("the clock is past 1970");
            (now.as_micros() as u64, histories)
        }
    };
    for seed in first..first + histories {
        println!("{SEED_VARIABLE}={seed}");
        history(&mut Random::new(seed));
    }
}

fn random_write(random: &mut Random, last_end: u64) -> Op {
    let segment = u64::from(SEGMENT);
    let len = 1 + match random.below(4) {
        0 => random.below(3 * segment),
        1 => segment - 1,
        _ => random.below(12),
    };
    let room = FILE_BYTES as u64 - len;
    let offset = match random.below(4) {
        0 => last_end,
        1 => random.below(FILE_BYTES as u64) / segment * segment,
        2 => random.below(2 * segment),
        _ => random.below(FILE_BYTES as u64),
    };
    let data = (0..len).map(|_| (random.next() as u8).max(1)).collect();
    Op::Write { offset: offset.min(room), data }
}

/// A part of a run, or all of it, comes back; what is left stays in flight.
fn random_landing(world: &mut World, random: &mut Random) -> Option<Op> {
    if world.runs.is_empty() {
        return None;
    }
    let run = random.below(world.runs.len() as u64) as usize;
    assert!(world.is_frozen(run), "what is in flight changed");
    let pieces = if random.one_in(3) {
        let run = &mut world.runs[run];
        run.split_off(random.below(run.pieces.len() as u64) as usize)
    } else {
        world.runs.swap_remove(run).pieces
    };
    world.runs.retain(|run| !run.pieces.is_empty());
    Some(if random.one_in(2) { Op::Fail { pieces } } else { Op::Complete { pieces } })
}

fn random_take(world: &mut World, random: &mut Random) {
    let (from, to) = match random.below(3) {
        0 => (0, u64::MAX),
        1 => {
            let chunk = random.below(6) * GEOMETRY.chunk_bytes;
            (chunk, chunk + GEOMETRY.chunk_bytes)
        }
        _ => {
            let from = random.below(FILE_BYTES as u64);
            (from, from + random.below(FILE_BYTES as u64 / 2))
        }
    };
    let max_bytes = random.below(2 * GEOMETRY.chunk_bytes);
    if let Some(run) = world.take_run(from, to, max_bytes) {
        // Part of it reaches the disk long before we hear of it.
        let pieces = &world.runs[run].pieces;
        for piece in &pieces[..random.below(pieces.len() as u64 + 1) as usize] {
            let bytes = world.arena.contents[piece.slot.0 as usize].clone();
            for n in 0..piece.len as usize {
                world.oracle.disk[piece.offset as usize + n] = bytes[piece.at as usize + n];
            }
        }
    }
}

/// The next operation that gives steps; takes runs on the way to it.
fn random_op(world: &mut World, random: &mut Random, last_end: u64) -> Op {
    loop {
        match random.below(20) {
            0..4 => random_take(world, random),
            4..8 => {
                if let Some(op) = random_landing(world, random) {
                    return op;
                }
            }
            8 => {
                let size = random.below(FILE_BYTES as u64 + 1);
                if !world.buffer.has_in_flight_from(size) {
                    return Op::Truncate { size };
                }
            }
            // At any time, also with runs on their way.
            9 => world.buffer.set_chunk_bytes(u64::from(SEGMENT) << random.below(3)),
            _ => {
                let op = random_write(random, last_end);
                let Op::Write { offset, data } = &op else { unreachable!() };
                if world.buffer.slots_needed(*offset, data.len()) <= world.free.len() {
                    return op;
                }
            }
        }
        world.check();
    }
}

/// A new worker, after the old one left `arena`; it may die several times in `restore`.
fn recover(arena: &mut Arena, random: &mut Random) -> FileBuffer {
    loop {
        let mut found = arena.published();
        random.shuffle(&mut found);
        let mut buffer = FileBuffer::new(GEOMETRY);
        let mut steps = Vec::new();
        buffer.restore(found, &mut steps);
        let done = random.below(2 * steps.len() as u64 + 1) as usize;
        for step in steps.iter().take(done) {
            arena.carry_out(step, &[]);
        }
        if done >= steps.len() {
            return buffer;
        }
        arena.carry_out_half(&steps[done], random.next());
    }
}

/// What every reader of a recovered file may rely on, `op` having been under way and not
/// answered. Returns what the file shows.
fn check_recovered(arena: &Arena, buffer: &FileBuffer, oracle: &Oracle, op: &Op) -> Vec<u8> {
    let view = arena.view(buffer, &oracle.disk, 0, FILE_BYTES);
    let mut pieces = Vec::new();
    buffer.overlay(0, FILE_BYTES, &mut pieces);
    let mut fresh = vec![false; FILE_BYTES];
    for piece in &pieces {
        fresh[piece.offset as usize..][..piece.len as usize].fill(true);
    }
    for byte in 0..FILE_BYTES {
        let kept = view[byte] == oracle.logical[byte];
        let held = fresh[byte] == oracle.is_dirty(byte);
        match op {
            Op::Write { offset, data }
                if (*offset..*offset + data.len() as u64).contains(&(byte as u64)) =>
            {
                let new = view[byte] == data[byte - *offset as usize];
                assert!(kept || new, "byte {byte} is neither old nor new");
                assert!(fresh[byte] || !oracle.is_dirty(byte), "byte {byte} was dropped");
            }
            Op::Truncate { size } if byte as u64 >= *size => {}
            Op::Complete { .. } => {
                assert!(kept, "byte {byte} was lost");
                assert!(fresh[byte] || !oracle.fresh[byte], "byte {byte} was dropped");
            }
            _ => {
                assert!(kept, "byte {byte} was lost");
                assert!(held, "byte {byte} was dropped, or found though it is stored");
            }
        }
    }
    view
}

/// The worker dies in `op` after `done` steps; the next one goes on with this world. What the
/// kernel had no answer for it asks again.
fn die_in(world: &mut World, op: &Op, steps: &[Step], done: usize, random: &mut Random) {
    steps[..done].iter().for_each(|step| world.arena.carry_out(step, op.data()));
    if let Some(step) = steps.get(done) {
        world.arena.carry_out_half(step, random.next());
    }
    world.buffer = recover(&mut world.arena, random);
    world.oracle.logical = check_recovered(&world.arena, &world.buffer, &world.oracle, op);
    world.start_again();
    let mut pieces = Vec::new();
    world.buffer.overlay(0, FILE_BYTES, &mut pieces);
    world.oracle.fresh.fill(false);
    for piece in &pieces {
        world.oracle.fresh[piece.offset as usize..][..piece.len as usize].fill(true);
        let born_ms = world.arena.table[piece.slot.0 as usize].expect("published").born_ms;
        // A byte of an unanswered write has no time; it is no younger than its entry.
        for written in &mut world.oracle.written_ms[piece.offset as usize..][..piece.len as usize] {
            *written = (*written).max(born_ms);
        }
    }
    world.check();
    let Op::Write { offset, data } = op else {
        if let Op::Truncate { .. } = op {
            world.carry_out(op);
        }
        return;
    };
    if world.buffer.slots_needed(*offset, data.len()) <= world.free.len() {
        world.carry_out(op);
    }
}

/// A read of a part of the file.
fn check_part(world: &World, random: &mut Random) {
    let offset = random.below(FILE_BYTES as u64) as usize;
    let len = random.below((FILE_BYTES - offset) as u64 + 1) as usize;
    let shown = &world.oracle.logical[offset..offset + len];
    assert_eq!(world.read(offset as u64, len), shown, "read of {len} at {offset}");
}

fn drain(world: &mut World, random: &mut Random) {
    while !world.buffer.is_clean() {
        world.take_run(0, u64::MAX, random.below(3 * GEOMETRY.chunk_bytes));
        if (world.runs.len() > 3 || world.buffer.dirty_bytes() == 0 || random.one_in(2))
            && let Some(op) = random_landing(world, random)
        {
            world.carry_out(&op);
            world.check();
        }
    }
    world.check_clean();
}

#[test]
fn random_histories_show_every_write_and_store_it() {
    with_seeds(HISTORIES, |random| {
        let mut world = World::new();
        let mut last_end = 0;
        for _ in 0..STEPS {
            world.now_ms += random.below(3);
            let op = random_op(&mut world, random, last_end);
            if let Op::Write { offset, data } = &op {
                last_end = offset + data.len() as u64;
            }
            if random.one_in(60) {
                let steps = world.decide(&op);
                let done = random.below(steps.len() as u64 + 1) as usize;
                die_in(&mut world, &op, &steps, done, random);
            } else {
                world.carry_out(&op);
            }
            world.check();
            check_part(&world, random);
            if random.one_in(200) {
                drain(&mut world, random);
            }
        }
        drain(&mut world, random);
    });
}

/// After every prefix of the steps of every operation, and with every part of a `Publish`
/// stored, a new worker finds each acknowledged byte.
#[test]
fn a_death_between_any_two_steps_loses_no_acknowledged_byte() {
    with_seeds(HISTORIES / 4, |random| {
        let mut world = World::new();
        let mut last_end = 0;
        for _ in 0..STEPS {
            let op = random_op(&mut world, random, last_end);
            if let Op::Write { offset, data } = &op {
                last_end = offset + data.len() as u64;
            }
            let mut arena = world.arena.clone();
            let steps = world.decide(&op);
            for next in steps.iter().map(Some).chain([None]) {
                let mut left = arena.clone();
                if let Some(step) = next {
                    left.carry_out_half(step, random.next());
                }
                let buffer = recover(&mut left, random);
                check_recovered(&left, &buffer, &world.oracle, &op);
                if let Some(step) = next {
                    arena.carry_out(step, op.data());
                }
            }
            world.finish(&op, &steps);
            world.check();
        }
    });
}
