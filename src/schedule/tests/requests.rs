//! Requests before an engine that fails or hangs: each rule by itself. Times are given.

use crate::schedule::requests::{Due, Requests, Verdict};

const EIO: i32 = 5;
const PATIENCE_MS: u64 = 60_000;
/// Nothing waits as long.
const LATER_MS: u64 = 1_000_000;

fn requests() -> Requests<u8> {
    Requests::new(PATIENCE_MS)
}

fn retries(requests: &mut Requests<u8>, now_ms: u64) -> Vec<u64> {
    requests.due(now_ms).retries
}

/// Does what is due at each time until then; what is over.
fn run_until(requests: &mut Requests<u8>, end_ms: u64) -> Vec<(u64, Option<i32>)> {
    let mut over = Vec::new();
    while let Some(now_ms) = requests.next_ms().filter(|at_ms| *at_ms <= end_ms) {
        over.extend(requests.due(now_ms).over);
    }
    over
}

/// Goal: a request that fails is tried again, after pauses that grow and not in between, and when it
/// is answered nothing is left of it.
#[test]
fn what_fails_is_tried_again() {
    let mut requests = requests();
    let number = requests.begin(0, false, 0);
    let (mut now_ms, mut tries) = (0, 0);
    while now_ms < PATIENCE_MS / 2 {
        assert_eq!(requests.failed(number, EIO, now_ms), Verdict::Parked);
        let next_ms = requests.next_ms().unwrap();
        assert!(next_ms > now_ms, "no pause at {now_ms}");
        assert_eq!(requests.due(next_ms - 1), Due::default());
        assert_eq!(retries(&mut requests, next_ms), [number]);
        (now_ms, tries) = (next_ms, tries + 1);
    }
    assert!((5..20).contains(&tries), "{tries} tries in half a minute");
    assert_eq!(requests.waiting().next().unwrap().tries, tries + 1);
    requests.answered(number, now_ms);
    assert_eq!((requests.next_ms(), requests.waiting().count()), (None, 0));
}

/// Goal: patience ends for a request that is parked, with the error; for a later one that begins in
/// the same outage at once, until the engine has answered anybody.
#[test]
fn patience_is_that_of_the_outage() {
    let mut requests = requests();
    let first = requests.begin(0, false, 1000);
    assert_eq!(requests.failed(first, EIO, 1000), Verdict::Parked);
    let late = requests.begin(0, false, 50_000);
    assert_eq!(requests.failed(late, EIO, 50_000), Verdict::Parked);
    assert_eq!(requests.due(1000 + PATIENCE_MS - 1).over, []);
    let mut over = requests.due(1000 + PATIENCE_MS).over;
    over.sort_unstable();
    assert_eq!(over, [(first, Some(EIO)), (late, Some(EIO))]);
    for number in [first, late] {
        assert!(!requests.is_wanted(number));
        requests.dropped(number, 70_000);
    }
    let next = requests.begin(0, false, 80_000);
    assert_eq!(requests.failed(next, EIO, 80_000), Verdict::Over);
    let other_line = requests.begin(1, false, 80_000);
    assert_eq!(requests.failed(other_line, EIO, 80_000), Verdict::Parked);
    let answered = requests.begin(0, false, 90_000);
    requests.answered(answered, 90_000);
    let next = requests.begin(0, false, 90_001);
    assert_eq!(requests.failed(next, EIO, 90_001), Verdict::Parked);
}

/// Goal: of many that wait for an engine which is away one at a time is tried; when that is answered
/// all are, though their own pauses are not over.
#[test]
fn one_of_many_asks_whether_it_is_back() {
    let mut requests = requests();
    let all: Vec<u64> = (0..100).map(|_| requests.begin(0, false, 0)).collect();
    for number in &all {
        assert_eq!(requests.failed(*number, EIO, 0), Verdict::Parked);
    }
    for _ in 0..5 {
        let now_ms = requests.next_ms().unwrap();
        let due = requests.due(now_ms);
        assert_eq!((due.retries.len(), due.over.len()), (1, 0), "at {now_ms}");
        assert!(retries(&mut requests, now_ms).is_empty(), "while it is out");
        assert_eq!(requests.failed(due.retries[0], EIO, now_ms), Verdict::Parked);
    }
    let now_ms = requests.next_ms().unwrap();
    let probe = retries(&mut requests, now_ms);
    requests.answered(probe[0], now_ms);
    assert_eq!(retries(&mut requests, now_ms).len(), all.len() - 1);
}

/// Goal: a request that is new is tried though the circuit is open, and its answer lets a parked one
/// go at once.
#[test]
fn the_answer_to_a_new_one_ends_the_pause() {
    let mut requests = requests();
    for number in (0..4).map(|_| requests.begin(0, false, 0)).collect::<Vec<_>>() {
        requests.failed(number, EIO, 0);
    }
    let new = requests.begin(0, false, 1);
    assert!(retries(&mut requests, 1).is_empty());
    requests.answered(new, 1);
    assert_eq!(retries(&mut requests, 1).len(), 1);
}

/// Goal: what hangs is given up when patience is over, and its thread's late answer changes nothing
/// but that the engine is back.
#[test]
fn what_hangs_is_left() {
    let mut requests = requests();
    let (hanging, other) = (requests.begin(0, false, 0), requests.begin(0, false, 0));
    requests.answered(other, 1);
    assert_eq!(run_until(&mut requests, PATIENCE_MS - 1), []);
    assert_eq!(run_until(&mut requests, PATIENCE_MS), [(hanging, None)]);
    assert!(!requests.is_wanted(hanging) && requests.waiting().next().is_none());
    let next = requests.begin(0, false, PATIENCE_MS + 1);
    assert_eq!(run_until(&mut requests, PATIENCE_MS + 5000), [], "not at once");
    assert_eq!(run_until(&mut requests, PATIENCE_MS + 20_000), [(next, None)], "but soon");
    requests.answered(hanging, LATER_MS);
    requests.answered(next, LATER_MS);
    assert_eq!(requests.next_ms(), None);
    let after = requests.begin(0, false, LATER_MS);
    assert_eq!(run_until(&mut requests, LATER_MS + PATIENCE_MS - 1), []);
    assert_eq!(run_until(&mut requests, LATER_MS + PATIENCE_MS), [(after, None)]);
}

/// Goal: one that hangs by itself, while others are answered, takes no patience from those that fail
/// later.
#[test]
fn one_that_hangs_alone_is_its_own_affair() {
    let mut requests = requests();
    let hanging = requests.begin(0, false, 0);
    let other = requests.begin(0, false, PATIENCE_MS - 2);
    requests.answered(other, PATIENCE_MS - 1);
    assert_eq!(run_until(&mut requests, PATIENCE_MS), [(hanging, None)]);
    let next = requests.begin(0, false, PATIENCE_MS + 1);
    assert_eq!(requests.failed(next, EIO, PATIENCE_MS + 1), Verdict::Parked);
}

/// Goal: one that may be answered from memory is named once, soon, whether it hangs or is parked, and
/// not when it was answered.
#[test]
fn what_is_slow_may_be_answered_from_memory() {
    let mut requests = requests();
    let [answered, hanging, parked, other] =
        [true, true, true, false].map(|may_be_known| requests.begin(0, may_be_known, 0));
    requests.answered(answered, 10);
    requests.failed(parked, EIO, 10);
    requests.failed(other, EIO, 10);
    let at_ms = 2000;
    let mut slow = Vec::new();
    for now_ms in 11..=at_ms {
        let due = requests.due(now_ms);
        for number in due.retries {
            requests.failed(number, EIO, now_ms);
        }
        slow.extend(due.slow.into_iter().map(|number| (now_ms, number)));
    }
    assert_eq!(slow, [(at_ms, hanging), (at_ms, parked)]);
    requests.leave(hanging);
    requests.leave(parked);
    let waiting: Vec<u64> = requests.waiting().map(|waiting| waiting.number).collect();
    assert_eq!(waiting, [other]);
    let due = requests.due(LATER_MS);
    assert_eq!((due.slow, due.over), (vec![], vec![(other, Some(EIO))]));
}

/// Goal: without patience a program hears of an error at once, and waits for an answer all the same.
#[test]
fn without_patience_errors_are_told_at_once() {
    let mut requests: Requests<u8> = Requests::new(0);
    let (failing, slow) = (requests.begin(0, false, 0), requests.begin(0, false, 0));
    assert_eq!(requests.failed(failing, EIO, 5), Verdict::Over);
    assert_eq!(requests.due(5000).over, []);
    assert!(requests.is_wanted(slow));
}
