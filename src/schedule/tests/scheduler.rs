//! Each rule of the scheduler by itself, in a few calls.

use super::{Random, closed, some, whole};
use crate::schedule::{
    FileId, Filling, Load, Outcome, Policy, Priority, Reason, Scheduler, Turn, Urgency,
};

/// Over-age after 5 000 ms, closed files due after 100 ms.
pub(super) const POLICY: Policy = Policy { max_age_ms: 10_000, closed_delay_ms: 100 };
pub(super) const CLEAN: Load = Load {
    dirty_bytes: 0,
    has_whole_chunk: false,
    oldest_ms: None,
    open: true,
    place: None,
    priority: Priority::Normal,
    max_age_ms: None,
};

fn scheduler(loads: &[(u64, Load)]) -> Scheduler {
    let mut scheduler = Scheduler::new(POLICY);
    for (file, load) in loads {
        scheduler.update(FileId(*file), *load, 0);
    }
    scheduler
}

/// Takes turns until there is none, each ending clean; who and why.
fn drain(scheduler: &mut Scheduler, now_ms: u64) -> Vec<(u64, Reason)> {
    let mut turns = Vec::new();
    while let Some(Turn { file, reason }) = scheduler.next_turn(now_ms) {
        turns.push((file.0, reason));
        scheduler.end_turn(file, CLEAN, Outcome::Written, now_ms);
    }
    turns
}

/// Takes `count` turns, each leaving the file as `left` says; who.
pub(super) fn take(
    scheduler: &mut Scheduler,
    count: usize,
    now_ms: u64,
    left: impl Fn(FileId) -> Load,
) -> Vec<u64> {
    let mut files = Vec::new();
    for _ in 0..count {
        let Some(turn) = scheduler.next_turn(now_ms) else { break };
        files.push(turn.file.0);
        scheduler.end_turn(turn.file, left(turn.file), Outcome::Written, now_ms);
    }
    files
}

#[test]
fn precedence() {
    let mut s = scheduler(&[
        (1, some(10, 4_000)),
        (2, closed(10, 4_000)),
        (3, whole(10, 4_000)),
        (4, some(10, 0)),
        (5, some(10, 4_000)),
    ]);
    s.demand(FileId(5));
    s.set_urgency(Urgency::Everything);
    let expected = [
        (5, Reason::Demanded),
        (4, Reason::Age),
        (3, Reason::WholeChunk),
        (2, Reason::Closed),
        (1, Reason::Everything),
    ];
    assert_eq!(drain(&mut s, 5_000), expected);
}

#[test]
fn pressure_comes_after_closed_and_whole_chunks() {
    let mut s = scheduler(&[(1, some(99, 0)), (2, closed(1, 0)), (3, whole(50, 0))]);
    s.set_urgency(Urgency::Pressure);
    let expected = [(3, Reason::WholeChunk), (2, Reason::Closed), (1, Reason::Pressure)];
    assert_eq!(drain(&mut s, 100), expected);
}

#[test]
fn a_small_young_open_file_waits() {
    let mut s = scheduler(&[(1, some(10, 0))]);
    assert_eq!(s.wake_at_ms(), Some(5_000));
    assert_eq!(s.next_turn(4_999), None);
    assert_eq!(drain(&mut s, 5_000), [(1, Reason::Age)]);
    assert_eq!(s.wake_at_ms(), None);
}

#[test]
fn age_goes_by_deadline_not_by_arrival() {
    let mut s = scheduler(&[(1, some(10, 30)), (2, some(10, 10)), (3, some(10, 20))]);
    assert_eq!(drain(&mut s, 9_000).iter().map(|t| t.0).collect::<Vec<_>>(), [2, 3, 1]);
}

#[test]
fn an_old_file_that_never_gets_younger_lets_other_old_files_pass() {
    let mut s = scheduler(&[(1, some(10, 10)), (2, some(10, 20)), (3, some(10, 30))]);
    let files = take(&mut s, 6, 9_000, |file| some(10, 10 * file.0));
    assert_eq!(files, [1, 2, 3, 1, 2, 3]);
}

#[test]
fn a_turn_for_a_whole_chunk_does_not_count_as_one_for_age() {
    // File 1 keeps an old byte that turns for whole chunks do not reach.
    let mut s = scheduler(&[(1, whole(10, 10))]);
    assert_eq!(s.next_turn(1_000).unwrap().reason, Reason::WholeChunk);
    s.end_turn(FileId(1), some(5, 10), Outcome::Written, 6_000);
    s.update(FileId(2), some(10, 500), 6_000);
    assert_eq!(drain(&mut s, 6_000)[0], (1, Reason::Age));
}

#[test]
fn whole_chunks_go_round_in_the_order_they_became_ready() {
    let mut s = scheduler(&[(1, some(1, 0)), (2, some(1, 0)), (3, some(1, 0))]);
    for file in [2, 3, 1] {
        s.update(FileId(file), whole(10, 0), 1);
    }
    s.update(FileId(2), whole(99, 0), 2);
    assert_eq!(take(&mut s, 7, 2, |_| whole(20, 0)), [2, 3, 1, 2, 3, 1, 2]);
}

#[test]
fn a_file_ready_during_anothers_turn_goes_before_it() {
    let mut s = scheduler(&[(1, whole(10, 0))]);
    assert_eq!(s.next_turn(0).unwrap().file, FileId(1));
    s.update(FileId(1), whole(20, 0), 0);
    s.update(FileId(2), whole(10, 0), 0);
    s.end_turn(FileId(1), whole(10, 0), Outcome::Written, 0);
    assert_eq!(take(&mut s, 2, 0, |_| CLEAN), [2, 1]);
}

#[test]
fn truncation_takes_a_whole_chunk_back() {
    let mut s = scheduler(&[(1, whole(10, 0))]);
    s.update(FileId(1), some(3, 0), 1);
    assert_eq!(s.next_turn(1), None);
}

#[test]
fn age_and_whole_chunks_do_not_starve_each_other() {
    // 20 files always over-age, 20 with always a whole chunk: all get turns, in the share 4 : 1.
    let mut s = Scheduler::new(POLICY);
    let left = |file: FileId| if file.0 < 20 { some(10, 0) } else { whole(10, 9_000) };
    for file in (0..40).map(FileId) {
        s.update(file, left(file), 9_000);
    }
    let files = take(&mut s, 500, 9_000, left);
    for file in 0..40 {
        let turns = files.iter().filter(|f| **f == file).count();
        assert_eq!(turns, if file < 20 { 20 } else { 5 }, "file {file}");
    }
    assert_eq!(files.iter().position(|f| *f >= 20), Some(4), "age goes first");
}

#[test]
fn demanded_files_take_turns_and_keep_their_place() {
    let mut s = scheduler(&[(1, some(9, 0)), (2, some(9, 0)), (3, some(9, 0)), (4, whole(9, 0))]);
    for file in [3, 1, 3, 2, 3] {
        s.demand(FileId(file));
    }
    assert_eq!(take(&mut s, 6, 0, |_| some(5, 0)), [3, 1, 2, 3, 1, 2]);
}

#[test]
fn a_demand_ends_when_the_file_is_clean() {
    let mut s = scheduler(&[(1, some(9, 0)), (2, some(9, 0))]);
    s.demand(FileId(1));
    s.demand(FileId(2));
    s.update(FileId(1), CLEAN, 0);
    s.update(FileId(1), some(9, 0), 0);
    assert_eq!(take(&mut s, 1, 0, |_| CLEAN), [2]);
    s.update(FileId(2), some(9, 0), 0);
    assert_eq!(s.next_turn(0), None);
    s.demand(FileId(7));
    s.update(FileId(7), some(9, 0), 0);
    assert_eq!(s.next_turn(0), None, "a clean file cannot be demanded");
}

#[test]
fn a_demand_during_a_turn_counts_for_what_the_turn_leaves() {
    let mut s = scheduler(&[(1, whole(20, 0)), (2, whole(10, 0))]);
    assert_eq!(s.next_turn(0).unwrap().file, FileId(1));
    s.demand(FileId(1));
    s.end_turn(FileId(1), some(10, 0), Outcome::Written, 0);
    assert_eq!(s.next_turn(0), Some(Turn { file: FileId(1), reason: Reason::Demanded }));
}

#[test]
fn demands_without_end_do_not_starve_the_rest() {
    // Two files are demanded and never become clean: one turn in 17 goes to others that are due.
    let mut s = scheduler(&[(1, some(9, 0)), (2, some(9, 0)), (3, whole(9, 0)), (4, whole(9, 0))]);
    s.demand(FileId(1));
    s.demand(FileId(2));
    let left = |file: FileId| if file.0 < 3 { some(9, 0) } else { whole(9, 0) };
    let files = take(&mut s, 170, 0, left);
    let turns = |file| files.iter().filter(|f| **f == file).count();
    assert_eq!([turns(1), turns(2), turns(3), turns(4)], [80, 80, 5, 5]);
}

/// Files that are always demanded, over-age, or have a whole chunk, or several of these, and
/// never become clean: the time between two turns of any is bounded by its class's share.
#[test]
fn every_due_file_gets_its_turn() {
    for seed in 0..50 {
        let mut random = Random(seed);
        let mut s = Scheduler::new(POLICY);
        let n = 2 + random.below(40);
        let classes: Vec<u64> = (0..n).map(|_| 1 + random.below(7)).collect();
        let left = |file: FileId, dirty_bytes| {
            let class = classes[file.0 as usize];
            let oldest_ms = if class & 1 > 0 { random_age(file) } else { 100_000 };
            Load { has_whole_chunk: class & 2 > 0, ..some(dirty_bytes, oldest_ms) }
        };
        for file in (0..n).map(FileId) {
            s.update(file, left(file, 1 + random.below(9)), 0);
            if classes[file.0 as usize] & 4 > 0 {
                s.demand(file);
            }
        }
        let due = |file: u64| classes[file as usize] > 0;
        let mut last = vec![0; n as usize];
        for number in 0..n * 85 * 3 {
            let now_ms = 100_000 + number / 7;
            let turn = s.next_turn(now_ms).unwrap();
            last[turn.file.0 as usize] = number;
            s.end_turn(turn.file, left(turn.file, 1 + random.below(9)), Outcome::Written, now_ms);
            for file in (0..n).filter(|file| due(*file)) {
                let waited = number - last[file as usize];
                assert!(waited <= n * 85, "seed {seed}: file {file} waits {waited} turns of {n}");
            }
        }
    }
}

fn random_age(file: FileId) -> u64 {
    Random(file.0).below(10_000)
}

#[test]
fn closed_files_wait_for_the_delay_and_go_in_order() {
    let mut s = scheduler(&[(1, some(10, 0)), (2, some(10, 0))]);
    s.update(FileId(2), closed(10, 0), 10);
    s.update(FileId(1), closed(10, 0), 20);
    // A late write does not start the delay again.
    s.update(FileId(2), closed(15, 0), 90);
    assert_eq!(s.wake_at_ms(), Some(110));
    assert_eq!(s.next_turn(109), None);
    assert_eq!(drain(&mut s, 110), [(2, Reason::Closed)]);
    assert_eq!(drain(&mut s, 120), [(1, Reason::Closed)]);
}

#[test]
fn closed_files_with_several_chunks_take_turns() {
    let mut s = scheduler(&[(1, closed(10, 0))]);
    s.update(FileId(2), closed(10, 0), 50);
    assert_eq!(take(&mut s, 4, 500, |_| closed(5, 0)), [1, 2, 1, 2]);
}

#[test]
fn a_reopened_file_is_not_closed() {
    let mut s = scheduler(&[(1, closed(10, 0))]);
    s.update(FileId(1), some(10, 0), 50);
    assert_eq!(s.next_turn(200), None);
    s.update(FileId(1), closed(10, 0), 200);
    assert_eq!(s.wake_at_ms(), Some(300), "the delay starts again");
}

#[test]
fn a_temporary_file_vanishes_unwritten() {
    let mut s = scheduler(&[(1, closed(10, 0)), (2, closed(10, 0))]);
    s.update(FileId(1), CLEAN, 50);
    s.remove(FileId(2));
    assert_eq!(s.next_turn(20_000), None);
    assert_eq!((s.streams(), s.dirty_bytes(), s.oldest_ms()), (0, 0, None));
}

#[test]
fn pressure_takes_the_fullest_then_equals_in_turn() {
    let mut s = scheduler(&[(1, some(50, 0)), (2, some(70, 0)), (3, some(50, 0))]);
    assert_eq!(s.next_turn(0), None);
    s.set_urgency(Urgency::Pressure);
    assert_eq!(s.wake_at_ms(), Some(0));
    assert_eq!(take(&mut s, 1, 0, |_| some(50, 0)), [2]);
    s.set_urgency(Urgency::Normal);
    assert_eq!(s.next_turn(0), None);
    s.set_urgency(Urgency::Pressure);
    assert_eq!(take(&mut s, 3, 0, |_| some(0, 0)), [1, 3, 2]);
}

#[test]
fn while_memory_fills_parts_go_that_are_not_whole_soon() {
    let filling = Filling { chunk_bytes: 400, least_bytes: 10, soon_bytes: 300 };
    let mut s = scheduler(&[(1, some(9, 0)), (2, some(8, 0)), (3, some(7, 0))]);
    s.set_urgency(Urgency::Filling(filling));
    assert_eq!((s.next_turn(0), s.wake_at_ms()), (None, Some(5_000)), "all are small");
    (1..4).for_each(|file| s.update(FileId(file), some(200 + file, 0), 0));
    // A third of the 300 for each, or half of them when one has gone, is no whole chunk.
    assert_eq!(s.wake_at_ms(), Some(0));
    assert_eq!(take(&mut s, 2, 0, |_| CLEAN), [3, 2]);
    // All of the 300 for the one that is left is.
    assert_eq!((s.next_turn(0), s.wake_at_ms()), (None, Some(5_000)));
    // Its chunks are larger than others'.
    s.update(FileId(1), some(400, 0), 0);
    assert_eq!(s.wake_at_ms(), Some(0));
    s.update(FileId(1), whole(400, 0), 0);
    assert_eq!(s.next_turn(0).unwrap().reason, Reason::WholeChunk);
}

#[test]
fn pressure_does_not_choose_a_scattered_file_again_and_again() {
    // File 1 has 1 000 bytes and gives 4 in a turn; files 2 to 4 have 100 each in one piece.
    let mut s = scheduler(&[(1, some(1_000, 0))]);
    for file in 2..5 {
        s.update(FileId(file), some(100, 0), 0);
    }
    s.set_urgency(Urgency::Pressure);
    let left = |file: FileId| if file.0 == 1 { some(996, 0) } else { CLEAN };
    assert_eq!(take(&mut s, 5, 0, left), [1, 2, 3, 4, 1]);
    // What comes in counts in full, also during its turn.
    s.update(FileId(2), some(100, 0), 0);
    s.update(FileId(1), some(1_097, 0), 0);
    assert_eq!(s.next_turn(0).unwrap().file, FileId(1));
    s.update(FileId(1), some(1_197, 0), 0);
    s.end_turn(FileId(1), some(1_193, 0), Outcome::Written, 0);
    assert_eq!(s.next_turn(0).unwrap().file, FileId(1), "4 + 100 bytes go before 100");
}

#[test]
fn everything_goes_round() {
    let mut s = scheduler(&[(3, some(1, 0)), (1, some(9, 0)), (2, closed(5, 0))]);
    s.set_urgency(Urgency::Everything);
    assert_eq!(take(&mut s, 6, 0, |_| some(4, 0)), [3, 1, 2, 3, 1, 2]);
}

#[test]
fn a_failed_file_waits_whatever_the_urgency() {
    let mut s = scheduler(&[(1, whole(10, 0)), (2, some(10, 0))]);
    assert_eq!(s.next_turn(0).unwrap().file, FileId(1));
    s.end_turn(FileId(1), whole(10, 0), Outcome::RetryAt(7_000), 0);
    s.demand(FileId(1));
    s.set_urgency(Urgency::Everything);
    s.update(FileId(1), whole(20, 0), 1);
    assert_eq!(drain(&mut s, 1), [(2, Reason::Everything)]);
    assert_eq!(s.wake_at_ms(), Some(7_000));
    assert_eq!(s.next_turn(6_999), None);
    assert_eq!(drain(&mut s, 7_000), [(1, Reason::Demanded)]);
}

#[test]
fn holds_are_counted() {
    let mut s = scheduler(&[(1, whole(10, 0))]);
    s.hold(FileId(1));
    s.hold(FileId(1));
    s.demand(FileId(1));
    s.set_urgency(Urgency::Everything);
    s.unhold(FileId(1));
    assert_eq!((s.next_turn(9_000), s.wake_at_ms()), (None, None));
    s.unhold(FileId(1));
    assert_eq!(drain(&mut s, 0), [(1, Reason::Demanded)]);
}

#[test]
fn a_hold_outlives_cleanness_removal_and_turns() {
    let mut s = Scheduler::new(POLICY);
    s.hold(FileId(1));
    s.update(FileId(1), whole(10, 0), 0);
    s.update(FileId(1), CLEAN, 0);
    s.update(FileId(1), whole(10, 0), 0);
    s.remove(FileId(1));
    s.update(FileId(1), whole(10, 0), 0);
    assert_eq!(s.next_turn(0), None);
    s.unhold(FileId(1));
    assert_eq!(s.next_turn(0).unwrap().file, FileId(1));
    s.hold(FileId(1));
    s.end_turn(FileId(1), whole(10, 0), Outcome::Written, 0);
    assert_eq!(s.next_turn(0), None);
}

#[test]
fn a_file_in_turn_gets_no_other_turn() {
    let mut s = scheduler(&[(1, whole(30, 0)), (2, whole(30, 0))]);
    assert_eq!(s.next_turn(0).unwrap().file, FileId(1));
    s.update(FileId(1), whole(40, 0), 0);
    s.update(FileId(1), CLEAN, 0);
    s.update(FileId(1), whole(40, 0), 0);
    s.demand(FileId(1));
    s.remove(FileId(1));
    s.update(FileId(1), whole(40, 0), 0);
    assert_eq!(s.next_turn(0).unwrap().file, FileId(2), "a second lane");
    assert_eq!(s.next_turn(0), None);
    assert_eq!((s.streams(), s.dirty_bytes()), (2, 70), "files in turn count");
    s.end_turn(FileId(1), whole(40, 0), Outcome::Written, 0);
    assert_eq!(s.next_turn(0).unwrap().file, FileId(1));
}

#[test]
fn the_turn_of_a_removed_file_leaves_nothing() {
    let mut s = scheduler(&[(1, whole(30, 0))]);
    assert_eq!(s.next_turn(0).unwrap().file, FileId(1));
    s.remove(FileId(1));
    s.update(FileId(1), CLEAN, 0);
    s.end_turn(FileId(1), whole(10, 0), Outcome::Written, 0);
    assert_eq!((s.next_turn(0), s.streams(), s.dirty_bytes()), (None, 0, 0));
}

#[test]
fn dirty_bytes_of_unknown_age_do_not_wait_for_ever() {
    let mut s = Scheduler::new(POLICY);
    for now_ms in [100, 200, 5_000] {
        s.update(FileId(1), Load { oldest_ms: None, ..some(now_ms, 0) }, now_ms);
    }
    assert_eq!((s.oldest_ms(), s.wake_at_ms()), (Some(100), Some(5_100)));
    assert_eq!(drain(&mut s, 5_100), [(1, Reason::Age)]);
}

#[test]
fn totals() {
    let mut s = scheduler(&[(1, some(10, 7)), (2, some(20, 5)), (3, CLEAN)]);
    assert_eq!((s.streams(), s.dirty_bytes(), s.oldest_ms()), (2, 30, Some(5)));
    s.update(FileId(2), some(5, 9), 0);
    assert_eq!((s.streams(), s.dirty_bytes(), s.oldest_ms()), (2, 15, Some(7)));
}

/// Goal: whole chunks of high priority go first, in turn among themselves, and the others get every
/// fifth turn all the same. Method: two files of each kind that always have the next chunk.
#[test]
fn high_priority_goes_first_and_starves_nobody() {
    let load = |file: u64| {
        let priority = if file < 3 { Priority::High } else { Priority::Normal };
        Load { priority, ..whole(10, 0) }
    };
    let mut s = scheduler(&[(3, load(3)), (4, load(4)), (1, load(1)), (2, load(2))]);
    let mut order = Vec::new();
    for _ in 0..10 {
        let turn = s.next_turn(0).unwrap();
        assert_eq!(turn.reason, Reason::WholeChunk);
        order.push(turn.file.0);
        s.end_turn(turn.file, load(turn.file.0), Outcome::Written, 0);
    }
    assert_eq!(order, [1, 2, 1, 2, 3, 1, 2, 1, 2, 4]);
}

/// Goal: a file's own age counts instead of the mount's, shorter or longer.
#[test]
fn a_file_may_have_its_own_age() {
    let short = Load { max_age_ms: Some(100), ..some(10, 0) };
    let long = Load { max_age_ms: Some(100_000), ..some(10, 0) };
    let mut s = scheduler(&[(1, long), (2, some(10, 0)), (3, short)]);
    assert_eq!(s.wake_at_ms(), Some(50));
    assert_eq!(s.next_turn(49), None);
    for (now_ms, file) in [(50, 3), (5_000, 2), (50_000, 1)] {
        assert_eq!(s.next_turn(now_ms - 1), None);
        let turn = s.next_turn(now_ms).unwrap();
        assert_eq!(turn, Turn { file: FileId(file), reason: Reason::Age });
        s.end_turn(turn.file, CLEAN, Outcome::Written, now_ms);
    }
}
