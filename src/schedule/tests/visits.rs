//! In which order files at several places have turns.

use super::scheduler::{CLEAN, POLICY, take};
use super::{closed, some, whole};
use crate::schedule::{FileId, Load, Outcome, Scheduler, Urgency};

/// A whole chunk of a file whose last turn ended at `place`.
fn whole_at(place: u64) -> Load {
    Load { place: Some(place), ..whole(10, 0) }
}

/// Two places that are far from each other, by whether a file's number is even.
fn one_of_two(file: FileId) -> Option<u64> {
    Some(file.0 % 2 * (1 << 40))
}

/// A scheduler that has met so many files at two places, in the order of their numbers, all of which
/// have a whole chunk again.
fn at_two_places(files: u64) -> Scheduler {
    let mut s = Scheduler::new(POLICY);
    for file in (0..files).map(FileId) {
        s.update(file, whole(10, 0), 0);
    }
    take(&mut s, files as usize, 0, |file| Load { place: one_of_two(file), ..whole(10, 0) });
    s
}

/// Takes turns until there is none; who. The next one begins before the last one ends.
fn drain_overlapping(s: &mut Scheduler, now_ms: u64) -> Vec<u64> {
    let mut order = Vec::new();
    let mut out = s.next_turn(now_ms);
    while let Some(turn) = out {
        order.push(turn.file.0);
        out = s.next_turn(now_ms);
        let place = one_of_two(turn.file);
        s.end_turn(turn.file, Load { place, ..CLEAN }, Outcome::Written, now_ms);
    }
    order
}

/// Goal: where a filesystem gives out blocks at two places, the disk goes from one to the other once
/// in a round of all files, whether or not turns overlap, and each file has a turn in each round.
#[test]
fn turns_at_one_place_follow_each_other() {
    let left = |file: FileId| Load { place: one_of_two(file), ..whole(10, 0) };
    let mut s = at_two_places(20);
    let order = take(&mut s, 100, 0, left);
    for round in order.chunks(20) {
        let ways = round.windows(2).filter(|pair| pair[0] % 2 != pair[1] % 2).count();
        assert_eq!(ways, 1, "{round:?}");
        let mut files = round.to_vec();
        files.sort_unstable();
        assert_eq!(files, Vec::from_iter(0..20));
    }
    let order = drain_overlapping(&mut s, 0);
    let ways = order.windows(2).filter(|pair| pair[0] % 2 != pair[1] % 2).count();
    assert_eq!((order.len(), ways), (20, 1), "{order:?}");
}

/// Goal: the same for whoever is waited for, for all when the mount ends, and for the few first of
/// those that are closed or over-age.
#[test]
fn turns_of_other_ranks_stay_at_one_place_too() {
    let loads = |load: Load| {
        let mut s = at_two_places(8);
        for file in (0..8).map(FileId) {
            s.update(file, Load { place: one_of_two(file), ..load }, 0);
        }
        s
    };
    let mut demanded = loads(some(10, 0));
    (0..8).for_each(|file| demanded.demand(FileId(file)));
    let mut everything = loads(some(10, 0));
    everything.set_urgency(Urgency::Everything);
    let mut pressure = loads(some(10, 0));
    pressure.set_urgency(Urgency::Pressure);
    let cases = [
        (demanded, 0, "demanded"),
        (everything, 0, "everything"),
        (pressure, 0, "pressure"),
        (loads(some(10, 0)), 9_000, "age"),
        (loads(closed(10, 0)), 1_000, "closed"),
    ];
    for (mut s, now_ms, case) in cases {
        let order = drain_overlapping(&mut s, now_ms);
        let ways = order.windows(2).filter(|pair| pair[0] % 2 != pair[1] % 2).count();
        assert_eq!((order.len(), ways), (8, 1), "{case}: {order:?}");
    }
}

/// Goal: who has much less under pressure waits, though he is near.
#[test]
fn under_pressure_near_files_go_before_others_that_have_about_as_much() {
    let mut s = at_two_places(8);
    s.set_urgency(Urgency::Pressure);
    for file in 0..8 {
        let dirty_bytes = if file == 6 { 50 } else { 100 - file };
        s.update(FileId(file), Load { place: one_of_two(FileId(file)), ..some(dirty_bytes, 0) }, 0);
    }
    let order = drain_overlapping(&mut s, 0);
    assert_eq!(order.last(), Some(&6), "{order:?}");
}

/// Goal: files of which it is found out at their turns that they are far away wait until the disk has
/// been at all near ones, also those of which nothing was known; then they go in their order.
#[test]
fn files_that_are_found_elsewhere_go_together() {
    let mut chunks = Scheduler::new(POLICY);
    (0..12).for_each(|file| chunks.update(FileId(file), whole(10, 0), 0));
    assert_eq!(drain_finding(&mut chunks, whole(10, 0), 0), [0, 2, 4, 6, 8, 10, 1, 3, 5, 7, 9, 11]);
    // Of those that are not chunks, among the first few.
    let mut pressed = Scheduler::new(POLICY);
    pressed.set_urgency(Urgency::Pressure);
    (0..12).for_each(|file| pressed.update(FileId(file), some(10, 0), 0));
    assert_eq!(drain_finding(&mut pressed, some(10, 0), 0), [0, 2, 4, 6, 8, 10, 1, 3, 5, 7, 9, 11]);
    let mut old = Scheduler::new(POLICY);
    (0..8).for_each(|file| old.update(FileId(file), some(10, 0), 0));
    assert_eq!(drain_finding(&mut old, some(10, 0), 9_000), [0, 2, 4, 6, 1, 3, 5, 7]);
}

/// Takes turns until there is none; who. At the turn of a file of which nothing is known it is found
/// out where it is.
fn drain_finding(s: &mut Scheduler, load: Load, now_ms: u64) -> Vec<u64> {
    let mut order = Vec::new();
    let mut at = None;
    while let Some(turn) = s.next_turn(now_ms) {
        let place = one_of_two(turn.file);
        if !s.knows_place(turn.file) && at.is_some_and(|at| place != Some(at)) {
            s.end_turn(turn.file, Load { place, ..load }, Outcome::Elsewhere, now_ms);
            continue;
        }
        at = place;
        order.push(turn.file.0);
        s.end_turn(turn.file, Load { place, ..CLEAN }, Outcome::Written, now_ms);
    }
    order
}

/// Goal: a zone stays one while its files go on writing behind each other, however far that is.
#[test]
fn files_of_a_place_stay_together_as_it_moves() {
    const TURN_BYTES: u64 = 64 << 20;
    let mut s = at_two_places(10);
    let mut ends = [0, 1 << 40];
    let mut order = Vec::new();
    for _ in 0..200 {
        let turn = s.next_turn(0).unwrap();
        let end = &mut ends[turn.file.0 as usize % 2];
        *end += TURN_BYTES;
        order.push(turn.file.0);
        s.end_turn(turn.file, whole_at(*end), Outcome::Written, 0);
    }
    let ways = order.windows(2).filter(|pair| pair[0] % 2 != pair[1] % 2).count();
    assert!(ways <= 2 * 200 / 10, "{ways}: {order:?}");
}

/// Goal: a file far away has its turn all the same, however many near ones there are: after one of
/// each of those that were there before.
#[test]
fn nobody_far_away_waits_for_ever() {
    let mut s = at_two_places(2);
    s.update(FileId(1), Load { place: one_of_two(FileId(1)), ..CLEAN }, 0);
    take(&mut s, 1, 0, |_| whole_at(0));
    s.update(FileId(1), Load { place: one_of_two(FileId(1)), ..whole(10, 0) }, 0);
    let mut passed_over = 0;
    loop {
        for near in [0, 2, 4] {
            s.update(FileId(near), whole_at(0), 0);
        }
        let turn = s.next_turn(0).unwrap();
        let place = one_of_two(turn.file);
        s.end_turn(turn.file, Load { place, ..CLEAN }, Outcome::Written, 0);
        if turn.file == FileId(1) {
            break;
        }
        passed_over += 1;
    }
    assert!(passed_over <= 3, "{passed_over}");
}

/// Goal: files with several whole chunks take strict turns, whatever is near.
#[test]
fn near_files_take_turns() {
    let mut s = Scheduler::new(POLICY);
    for file in 0..3 {
        s.update(FileId(file), whole_at(file << 40), 0);
    }
    assert_eq!(take(&mut s, 9, 0, |file| whole_at(file.0 << 40)), [0, 1, 2, 0, 1, 2, 0, 1, 2]);
}
