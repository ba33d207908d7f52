//! The circuit: each rule by itself, and random engines against what must hold for any.

use super::Random;
use super::random::seed;
use crate::schedule::circuit::{Attempt, Backoff, Circuit, CircuitState, Patience, Refused};

const PATIENCE: Patience = Patience {
    deadline_ms: 1000,
    failures_max: 3,
    late_max: 4,
    first_pause_ms: 100,
    longest_pause_ms: 1600,
};

fn begin(circuit: &mut Circuit, now_ms: u64) -> Attempt {
    circuit.try_begin(now_ms).expect("may begin")
}

/// Opens it at `now_ms`; until when.
fn open(circuit: &mut Circuit, now_ms: u64) -> u64 {
    for _ in 0..PATIENCE.failures_max {
        let attempt = begin(circuit, now_ms);
        circuit.fail(attempt, now_ms);
    }
    let CircuitState::Open { until_ms } = circuit.state() else { panic!("{:?}", circuit.state()) };
    until_ms
}

#[test]
fn failures_in_a_row_open_it_and_a_success_between_does_not() {
    let mut circuit = Circuit::new(PATIENCE, 1);
    for _ in 0..10 {
        for _ in 0..2 {
            let attempt = begin(&mut circuit, 0);
            circuit.fail(attempt, 0);
        }
        let attempt = begin(&mut circuit, 0);
        circuit.succeed(attempt, 0);
        assert_eq!(circuit.state(), CircuitState::Closed);
    }
    let until_ms = open(&mut circuit, 5000);
    assert!((5050..=5100).contains(&until_ms), "{until_ms}");
    assert_eq!(circuit.try_begin(until_ms - 1), Err(Refused::Until(until_ms)));
}

#[test]
fn one_probe_decides() {
    let mut circuit = Circuit::new(PATIENCE, 1);
    let until_ms = open(&mut circuit, 0);
    let probe = begin(&mut circuit, until_ms);
    assert_eq!(circuit.state(), CircuitState::HalfOpen);
    assert_eq!(circuit.try_begin(until_ms + 500), Err(Refused::WhileOut), "one at a time");
    circuit.fail(probe, 500);
    let CircuitState::Open { until_ms } = circuit.state() else { panic!("the probe failed") };
    assert!((600..=700).contains(&until_ms), "twice the pause: {until_ms}");
    let probe = begin(&mut circuit, until_ms);
    circuit.succeed(probe, until_ms);
    assert_eq!(circuit.state(), CircuitState::Closed);
    let until_ms = open(&mut circuit, 10_000);
    assert!(until_ms <= 10_100, "the first pause again: {until_ms}");
}

#[test]
fn attempts_that_hang_open_it_and_their_late_answer_lets_a_probe_go() {
    let mut circuit = Circuit::new(PATIENCE, 1);
    let hung: Vec<_> = (0..3).map(|i| begin(&mut circuit, i)).collect();
    assert_eq!(circuit.next_deadline_ms(), Some(1000));
    assert_eq!((circuit.expire(999), circuit.expire(1001), circuit.expire(1001)), (0, 2, 0));
    assert_eq!(circuit.state(), CircuitState::Closed);
    assert_eq!((circuit.expire(1002), circuit.late()), (1, 3));
    assert!(matches!(circuit.state(), CircuitState::Open { .. }));
    let mut hung = hung.into_iter();
    circuit.fail(hung.next().unwrap(), 1003);
    assert!(circuit.try_begin(1003).is_err(), "an error that comes late says nothing good");
    circuit.succeed(hung.next().unwrap(), 1004);
    let probe = begin(&mut circuit, 1004);
    assert_eq!(circuit.state(), CircuitState::HalfOpen, "it was slow: one only");
    circuit.succeed(probe, 1005);
    assert_eq!((circuit.state(), circuit.late()), (CircuitState::Closed, 1));
}

#[test]
fn a_late_attempt_counts_once() {
    let mut circuit = Circuit::new(PATIENCE, 1);
    let hung = begin(&mut circuit, 0);
    assert_eq!(circuit.expire(1000), 1);
    circuit.fail(hung, 1000);
    let attempt = begin(&mut circuit, 1000);
    circuit.fail(attempt, 1000);
    assert_eq!(circuit.state(), CircuitState::Closed, "two failures");
}

/// Each hung attempt binds a thread: there is a most of them, however many pauses pass.
#[test]
fn hung_attempts_are_bounded() {
    let mut circuit = Circuit::new(PATIENCE, 1);
    let mut hung = Vec::new();
    for now_ms in (0..1_000_000).step_by(100) {
        hung.extend(circuit.try_begin(now_ms));
        circuit.expire(now_ms + 1);
    }
    assert!(circuit.late() >= PATIENCE.late_max, "{}", circuit.late());
    assert_eq!(circuit.try_begin(2_000_000), Err(Refused::WhileOut));
    while let Some(attempt) = hung.pop() {
        circuit.succeed(attempt, 2_000_000);
    }
    assert!(circuit.try_begin(2_000_000).is_ok());
}

#[test]
fn a_probe_with_nothing_to_write_leaves_the_next_one_free() {
    let mut circuit = Circuit::new(PATIENCE, 1);
    let until_ms = open(&mut circuit, 0);
    let probe = begin(&mut circuit, until_ms);
    circuit.cancel(probe, until_ms);
    assert!(circuit.try_begin(until_ms).is_ok());
}

/// What a rate limit takes is not the engine's; and a pause ends when somebody asks.
#[test]
fn an_attempt_that_begins_anew_has_all_of_its_time() {
    let mut circuit = Circuit::new(PATIENCE, 1);
    let attempt = begin(&mut circuit, 0);
    circuit.restart(&attempt, 700);
    assert_eq!((circuit.next_deadline_ms(), circuit.expire(1699)), (Some(1700), 0));
    assert_eq!((circuit.expire(1700), circuit.in_time(), circuit.late()), (1, 0, 1));
    circuit.restart(&attempt, 1800);
    assert_eq!((circuit.in_time(), circuit.late()), (0, 1), "late is late");
    circuit.succeed(attempt, 1900);
    let attempt = begin(&mut circuit, 1900);
    circuit.succeed(attempt, 1900);
    let until_ms = open(&mut circuit, 2000);
    assert!(circuit.try_begin(2001).is_err() && until_ms > 2001);
    circuit.end_pause(2001);
    assert!(circuit.try_begin(2001).is_ok());
}

#[test]
fn pauses_double_to_the_longest_and_are_shortened_by_half_at_most() {
    for seed in 0..1000 {
        let mut backoff = Backoff::new(250, 30_000, seed);
        let mut whole_ms = 250;
        for _ in 0..20 {
            let pause_ms = backoff.next_pause_ms();
            assert!((whole_ms / 2..=whole_ms).contains(&pause_ms), "{pause_ms} of {whole_ms}");
            whole_ms = (whole_ms * 2).min(30_000);
        }
        backoff.reset();
        assert!(backoff.next_pause_ms() <= 250);
    }
}

/// A thousand nodes that wait for one engine do not come back together.
#[test]
fn seeds_that_follow_each_other_are_spread_evenly() {
    let mut first: Vec<_> =
        (0..1000).map(|seed| Backoff::new(10_000, 10_000, seed).next_pause_ms()).collect();
    first.sort_unstable();
    let most_apart_ms = first.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
    assert!(most_apart_ms <= 3 * 5000 / 1000, "{most_apart_ms} ms without anybody");
    assert!(first[0] < 5020 && first[999] > 9980, "from {} to {}", first[0], first[999]);
}

proptest::proptest! {
    /// Goal: no pause is zero or longer than the longest, and nothing overflows.
    #[test]
    fn any_pauses_are_bounded(first_ms: u64, longest_ms: u64, seed: u64) {
        let mut backoff = Backoff::new(first_ms, longest_ms, seed);
        for _ in 0..70 {
            let pause_ms = backoff.next_pause_ms();
            proptest::prop_assert!(pause_ms >= 1 && pause_ms <= first_ms.max(longest_ms).max(1));
        }
    }
}

/// An attempt that is out, as the test sees it.
struct Out {
    attempt: Attempt,
    begun_ms: u64,
    is_late: bool,
}

/// Any calls in any order: an open circuit begins nothing, a half-open one one thing, nothing is late
/// twice, and when the engine works again the circuit closes.
#[test]
fn whatever_happens_it_is_never_stuck() {
    let mut random = Random(seed(1));
    for _ in 0..300 {
        let mut circuit = Circuit::new(PATIENCE, random.next());
        let (mut out, mut now_ms) = (Vec::<Out>::new(), 0);
        for _ in 0..500 {
            now_ms += random.below(200);
            step(&mut circuit, &mut out, now_ms, &mut random);
            let late = out.iter().filter(|it| it.is_late).count();
            assert_eq!(circuit.late(), late);
        }
        for it in out.drain(..) {
            circuit.succeed(it.attempt, now_ms);
        }
        let begun = circuit.try_begin(now_ms + PATIENCE.longest_pause_ms);
        circuit.succeed(begun.expect("all ended, and the pause is over"), now_ms);
        assert_eq!(circuit.state(), CircuitState::Closed);
    }
}

fn step(circuit: &mut Circuit, out: &mut Vec<Out>, now_ms: u64, random: &mut Random) {
    let before = circuit.state();
    match random.below(4) {
        0 | 1 => match (circuit.try_begin(now_ms), before) {
            (Ok(attempt), before) => {
                let may = match before {
                    CircuitState::Closed => true,
                    CircuitState::Open { until_ms } => until_ms <= now_ms,
                    CircuitState::HalfOpen => false,
                };
                assert!(may, "begun while {before:?} at {now_ms}");
                out.push(Out { attempt, begun_ms: now_ms, is_late: false });
            }
            (Err(Refused::Until(until_ms)), _) => {
                assert!(until_ms > now_ms && until_ms <= now_ms + PATIENCE.longest_pause_ms);
            }
            (Err(Refused::WhileOut), _) => assert!(!out.is_empty(), "waits for nothing"),
        },
        2 => {
            let is_past = |it: &Out| now_ms - it.begun_ms >= PATIENCE.deadline_ms;
            let fresh = out.iter_mut().filter(|it| !it.is_late && is_past(it));
            assert_eq!(circuit.expire(now_ms), fresh.map(|it| it.is_late = true).count());
        }
        _ if out.is_empty() => {}
        _ => {
            let it = out.swap_remove(random.below(out.len() as u64) as usize);
            match random.below(5) {
                0 => {
                    circuit.succeed(it.attempt, now_ms);
                    assert!(it.is_late || circuit.state() == CircuitState::Closed);
                }
                1 => circuit.cancel(it.attempt, now_ms),
                _ => circuit.fail(it.attempt, now_ms),
            }
        }
    }
}
