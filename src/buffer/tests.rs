//! Goal: no acknowledged byte is lost, none is shown in an older version than the last, whatever
//! the order of writes, runs, completions, failures and deaths of the worker.
//!
//! Method: here the cases worth a name, on a simulated arena ([`world`]); in [`random`] long
//! random histories against plain byte vectors. No kernel, no threads.

mod random;
mod world;

use super::*;
use world::{FILE_BYTES, GEOMETRY, SEGMENT, World};

const S: u64 = SEGMENT as u64;

/// Takes everything that may be taken at once.
fn take_all(world: &mut World) -> Vec<usize> {
    let mut runs = Vec::new();
    while let Some(run) = world.take_run(0, u64::MAX, u64::MAX) {
        runs.push(run);
    }
    runs
}

/// The gluster write-behind defect: two writes are merged, the second is answered, a third
/// overwrites it and is sent first, then the merged pair overwrites the newer bytes.
#[test]
fn newer_write_wins_over_merged_older_ones_in_flight() {
    let mut world = World::new();
    world.write(0, 10, b'1');
    world.write(10, 10, b'2');
    assert_eq!(take_all(&mut world).len(), 1, "merged into one run");
    world.write(5, 10, b'3');
    world.check();
    assert_eq!(world.read(0, 20), *b"11111333333333322222");

    assert_eq!(world.take_run(0, u64::MAX, u64::MAX), None, "the newer is not sent first");
    assert!(world.is_frozen(0), "the merged pair goes out as it was taken");
    world.complete(0);
    world.check();
    assert_eq!(world.disk(0, 20), *b"11111111112222222222");
    assert_eq!(world.read(0, 20), *b"11111333333333322222");
    take_all(&mut world);
    world.complete(0);
    assert_eq!(world.disk(0, 20), *b"11111333333333322222");
    world.check_clean();
}

#[test]
fn newer_write_wins_over_merged_older_ones_that_failed_and_are_retried() {
    let mut world = World::new();
    world.write(0, 10, b'1');
    world.write(10, 10, b'2');
    take_all(&mut world);
    world.write(5, 10, b'3');
    world.fail(0);
    world.check();
    assert_eq!(world.read(0, 20), *b"11111333333333322222");
    assert_eq!(world.buffer.held_slots(), 1);

    // The retry fails as well, with a write in the middle and one at its end.
    take_all(&mut world);
    world.write(8, 4, b'4');
    world.write(20, 4, b'5');
    world.fail(0);
    world.check();
    take_all(&mut world);
    world.complete(0);
    assert_eq!(world.disk(0, 24), *b"111113334444333222225555");
    world.check_clean();
}

#[test]
fn newer_write_wins_when_the_worker_dies_with_the_older_in_flight() {
    let mut world = World::new();
    world.write(0, 10, b'1');
    world.write(10, 10, b'2');
    take_all(&mut world);
    world.write(5, 10, b'3');
    world.restart();
    world.check();
    assert_eq!(world.read(0, 20), *b"11111333333333322222");
    assert_eq!(world.buffer.held_slots(), 1);
}

/// What failed merges with newer bytes that also lie over a second run: were the merged entry
/// published with the old seq of its slot, the second run would win when the worker dies.
#[test]
fn newer_write_over_two_runs_wins_after_one_fails_and_the_worker_dies() {
    let mut world = World::new();
    world.write(0, 16, b'1');
    world.write(18, 4, b'2');
    let runs = take_all(&mut world);
    assert_eq!(runs.len(), 2);
    world.write(15, 5, b'3');
    world.fail(0);
    world.check();
    world.restart();
    world.check();
    assert_eq!(world.read(0, 22), *b"1111111111111113333322");
}

#[test]
fn appends_share_a_slot_and_move_nothing() {
    let mut world = World::new();
    for n in 0..S {
        let steps = world.write(n, 1, n as u8);
        assert_eq!(steps.len(), 2, "{steps:?}");
    }
    assert_eq!(world.buffer.held_slots(), 1);
    world.check();
}

#[test]
fn a_write_that_joins_two_entries_moves_the_smaller_remainder_before_the_copy() {
    let mut world = World::new();
    world.write(0, 4, b'a');
    world.write(20, 12, b'b');
    let steps = world.write(3, 18, b'c');
    let [first, last] = [Slot(0), Slot(1)];
    assert_eq!(
        steps,
        [
            Step::Move { from: first, to: last, at: 0, len: 3 },
            Step::Copy { slot: last, at: 3, from: 0, len: 18 },
            Step::Publish { slot: last, index: 0, start: 0, end: 32, seq: 3, born_ms: 1 },
            Step::Free { slot: first },
        ]
    );
    world.check();
}

#[test]
fn a_failed_run_merges_into_the_slot_that_moves_least_under_the_highest_seq() {
    let mut world = World::new();
    world.write(0, 20, b'a');
    take_all(&mut world);
    world.write(2, 2, b'b');
    world.write(18, 4, b'c');
    let steps = world.fail(0);
    let [a, b, c] = [Slot(0), Slot(1), Slot(2)];
    assert_eq!(
        steps,
        [
            Step::Move { from: b, to: a, at: 2, len: 2 },
            Step::Move { from: c, to: a, at: 18, len: 4 },
            Step::Publish { slot: a, index: 0, start: 0, end: 22, seq: 3, born_ms: 1 },
            Step::Free { slot: c },
            Step::Free { slot: b },
        ]
    );
    world.check();
}

#[test]
fn entries_of_neighbouring_segments_stay_apart_and_run_together() {
    let mut world = World::new();
    world.write(S - 4, 8, b'a');
    assert_eq!(world.buffer.held_slots(), 2);
    assert_eq!(world.buffer.slots_needed(0, 3 * SEGMENT as usize), 1);
    let mut run = Vec::new();
    assert_eq!(world.buffer.take_run(0, u64::MAX, u64::MAX, &mut run), 8);
    assert_eq!(run.len(), 2);
}

#[test]
fn a_run_is_bounded_by_bytes_gaps_and_limits_but_takes_at_least_one_entry() {
    let mut world = World::new();
    world.write(0, 3 * SEGMENT, b'a');
    world.write(4 * S, SEGMENT, b'b');
    let mut taken = |from, to, max| {
        let run = world.take_run(from, to, max)?;
        Some(world.runs[run].pieces.iter().map(|piece| piece.offset / S).collect::<Vec<_>>())
    };
    assert_eq!(taken(1, S, 100), None, "no entry is cut");
    assert_eq!(taken(S, 2 * S, 1), Some(vec![1]));
    assert_eq!(taken(0, u64::MAX, u64::MAX), Some(vec![0]), "contiguous only");
    assert_eq!(taken(0, 4 * S, u64::MAX), Some(vec![2]));
    assert_eq!(taken(0, u64::MAX, 2 * S), Some(vec![4]));
    assert_eq!(taken(0, u64::MAX, 2 * S), None);
}

#[test]
fn whole_chunk_wants_every_byte_fresh_and_none_in_flight() {
    let mut world = World::new();
    let chunk = GEOMETRY.chunk_bytes;
    world.write(chunk + 1, chunk as u32 - 1, b'a');
    assert_eq!(world.buffer.whole_chunk(), None);
    world.write(chunk, 1, b'b');
    assert_eq!(world.buffer.whole_chunk(), Some(1));
    world.write(0, 1, b'c');
    assert_eq!((world.buffer.first_chunk(), world.buffer.whole_chunk()), (Some(0), Some(1)));
    world.take_run(chunk, chunk + S, u64::MAX);
    assert_eq!(world.buffer.whole_chunk(), None);
    world.write(chunk, SEGMENT, b'd');
    assert_eq!(world.buffer.whole_chunk(), None, "all fresh, but some in flight below");
    world.complete(0);
    assert_eq!(world.buffer.whole_chunk(), Some(1));
    world.check();
}

#[test]
fn birth_is_that_of_the_first_dirty_byte() {
    let mut world = World::new();
    world.now_ms = 10;
    world.write(0, 4, b'a');
    world.now_ms = 20;
    world.write(0, 8, b'b');
    world.write(100, 4, b'c');
    assert_eq!(world.buffer.oldest_ms(), Some(10));
    world.take_run(0, S, u64::MAX);
    assert_eq!(world.buffer.oldest_ms(), Some(20), "what is in flight does not age");
    world.fail(0);
    assert_eq!(world.buffer.oldest_ms(), Some(10));
    world.truncate(0);
    assert_eq!(world.buffer.oldest_ms(), None);
}

#[test]
fn a_write_with_a_late_seq_wins_all_the_same() {
    let mut world = World::new();
    world.write(0, 8, b'a');
    take_all(&mut world);
    world.seq = 0;
    world.write(0, 4, b'b');
    world.restart();
    assert_eq!(world.read(0, 8), *b"bbbbaaaa");
    world.seq = 0;
    take_all(&mut world);
    world.write(0, 2, b'c');
    world.restart();
    assert_eq!(world.read(0, 8), *b"ccbbaaaa");
}

#[test]
fn truncate_cuts_frees_and_leaves_what_is_below() {
    let mut world = World::new();
    world.write(0, 4 * SEGMENT, b'a');
    world.truncate(S + 3);
    world.check();
    assert_eq!((world.buffer.end(), world.buffer.dirty_bytes()), (S + 3, S + 3));
    assert_eq!(world.buffer.held_slots(), 2);
    world.write(S + 10, 1, b'b');
    world.check();
    assert_eq!(world.read(S + 2, 9), *b"a\0\0\0\0\0\0\0b");
}

#[test]
#[should_panic(expected = "truncate waits")]
fn truncate_below_what_is_in_flight_is_a_defect() {
    let mut world = World::new();
    world.write(0, 8, b'a');
    take_all(&mut world);
    world.buffer.truncate(7, &mut Vec::new());
}

#[test]
#[should_panic(expected = "lands once")]
fn completing_twice_is_a_defect() {
    let mut world = World::new();
    world.write(0, 8, b'a');
    take_all(&mut world);
    let run = world.runs[0].pieces.clone();
    world.buffer.complete(&run, &mut Vec::new());
    world.buffer.complete(&run, &mut Vec::new());
}

#[test]
fn empty_ranges_are_nothing() {
    let mut world = World::new();
    world.write(0, FILE_BYTES as u32 / 2, b'a');
    let mut pieces = Vec::new();
    world.buffer.overlay(5, 0, &mut pieces);
    assert!(pieces.is_empty());
    assert_eq!(world.buffer.slots_needed(FILE_BYTES as u64, 0), 0);
    assert!(world.write(7, 0, b'b').is_empty());
}

/// Goal: chunks of another size are counted as if they had been of that size from the start, with
/// what is in flight. Method: after each change the counts are those of a buffer that was made so.
#[test]
fn a_file_may_be_divided_anew() {
    let mut world = World::new();
    let chunk = GEOMETRY.chunk_bytes;
    world.write(0, 2 * chunk as u32, b'1');
    world.take_run(0, S, u64::MAX);
    assert_eq!(world.buffer.whole_chunk(), Some(1));
    for (chunk_bytes, whole) in [(2 * chunk, None), (S, Some(1)), (chunk, Some(1))] {
        world.buffer.set_chunk_bytes(chunk_bytes);
        assert_eq!(world.buffer.whole_chunk(), whole, "{chunk_bytes}");
        assert_eq!(world.buffer.first_chunk(), Some(S / chunk_bytes));
        assert_eq!((world.buffer.dirty_bytes(), world.buffer.in_flight_bytes()), (7 * S, S));
    }
    world.complete(0);
    world.write(0, SEGMENT, b'2');
    assert_eq!(world.buffer.whole_chunk(), Some(0));
    world.check();
}
