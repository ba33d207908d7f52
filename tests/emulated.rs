//! The model of the disk that the benchmarks run on: does it cost what a disk costs? And what they
//! compute of what they saw.
//!
//! Pure computation; requests come from fixed lists or from proptest, which prints what failed.

#![allow(clippy::unwrap_used)]

#[path = "../benches/emulated/fairness.rs"]
mod fairness;
#[path = "../benches/emulated/model.rs"]
#[allow(dead_code)] // the benchmarks use the rest
mod model;
#[path = "../benches/emulated/scatter.rs"]
mod scatter;

use std::time::Duration;

use fairness::{Fairness, Moment, thin};
use model::{Counters, Direction, Drive, Model, Request, Stripe};
use proptest::prelude::*;

const CAPACITY: u64 = 4 << 30;
const MIB: u64 = 1 << 20;

fn write(id: u64, start: u64, bytes: u64) -> Request {
    Request { id, direction: Direction::Write, start, bytes }
}

/// Serves everything; when each request was done, by id, and the counters.
fn run(drive: Drive, requests: &[(Duration, Request)]) -> (Vec<Duration>, Counters) {
    let mut model = Model::new(drive);
    let mut ends = vec![Duration::ZERO; requests.len()];
    let mut coming = requests.iter().peekable();
    loop {
        let next = coming.peek().map(|(at, _)| *at);
        match (model.busy_until(), next) {
            (Some(until), next) if next.is_none_or(|next| until <= next) => {
                while let Some(id) = model.next_done(until) {
                    ends[id as usize] = until;
                }
            }
            (_, Some(_)) => {
                let (at, request) = coming.next().unwrap();
                model.submit(*at, *request);
            }
            (_, None) => return (ends, model.counters()),
        }
    }
}

fn at_once(requests: Vec<Request>) -> Vec<(Duration, Request)> {
    requests.into_iter().map(|request| (Duration::ZERO, request)).collect()
}

fn last(ends: &[Duration]) -> Duration {
    ends.iter().copied().max().unwrap()
}

/// Places of 4 KiB all over the disk, always the same.
fn scattered(count: u64) -> Vec<Request> {
    let place = |id| scatter::scatter(id) % (CAPACITY / 4096);
    (0..count).map(|id| write(id, place(id) * 4096, 4096)).collect()
}

/// Goal: a stream costs its bytes and nothing else, also when each request waits for the one before.
#[test]
fn stream_runs_at_the_nominal_rate() {
    let drive = Drive::sata(CAPACITY);
    let stream = (0..100).map(|id| write(id, id * MIB, MIB)).collect();
    let (ends, counters) = run(drive, &at_once(stream));
    let took = last(&ends).as_secs_f64();
    let wanted = 100.0 * MIB as f64 / drive.rate as f64;
    assert!((took - wanted).abs() < 1e-6, "{took} s, not {wanted} s");
    assert_eq!(counters.seeks, 0);
    assert_eq!(counters.written_bytes, 100 * MIB);

    let gap = Duration::from_millis(20);
    let slow = (0..100).map(|id| (gap * id, write(id.into(), MIB * u64::from(id), MIB)));
    let slow: Vec<_> = slow.collect();
    let (ends, counters) = run(drive, &slow);
    assert_eq!(counters.seek_time, Duration::ZERO);
    assert_eq!(ends[99], gap * 99 + drive.transfer(MIB));
}

/// Goal: one random request at a time is bound by the average seek and half a turn.
#[test]
fn random_requests_run_at_the_rate_of_seeks() {
    let drive = Drive { queue: 1, ..Drive::sata(CAPACITY) };
    let (ends, counters) = run(drive, &at_once(scattered(4000)));
    // The mean of the root of the distance of two random places is 8/15.
    let seek = 0.001 + 0.015 * 8.0 / 15.0;
    let each = seek + drive.rotation.as_secs_f64() / 2.0 + 4096.0 / drive.rate as f64;
    let took = last(&ends).as_secs_f64() / 4000.0;
    assert!((took / each - 1.0).abs() < 0.02, "{took} s each, not {each} s");
    assert!(counters.seeks > 3900);
}

/// Goal: choosing among 32 makes the head travel less than serving in order.
#[test]
fn cheapest_first_beats_first_come() {
    let patient = Drive { age_limit: Duration::MAX, ..Drive::sata(CAPACITY) };
    let took = |queue| last(&run(Drive { queue, ..patient }, &at_once(scattered(2000))).0);
    assert!(took(32).mul_f64(1.5) < took(1), "{:?}, {:?}", took(32), took(1));
}

/// Goal: a short way ahead is passed over, the same way back is a seek.
#[test]
fn small_gaps_ahead_are_passed_over() {
    let drive = Drive::sata(CAPACITY);
    let ahead = at_once(vec![write(0, 0, MIB), write(1, MIB + 65536, MIB)]);
    let (ends, counters) = run(drive, &ahead);
    assert_eq!(
        (counters.seeks, ends[1] - ends[0]),
        (0, drive.transfer(65536) + drive.transfer(MIB))
    );
    let back = at_once(vec![write(0, 0, MIB), write(1, MIB - 65536, 4096)]);
    assert_eq!(run(drive, &back).1.seeks, 1);
}

/// Goal: what lies in one piece is served from its start, from wherever the head comes; its end is
/// not nearer only because the head is behind it.
#[test]
fn what_lies_in_one_piece_is_served_from_its_start() {
    let drive = Drive::sata(CAPACITY);
    for far_away in [0, CAPACITY - MIB] {
        let stream = (1..21).map(|id| write(id, CAPACITY / 2 + MIB * id, MIB));
        let requests = std::iter::once(write(0, far_away, MIB)).chain(stream).collect();
        let (ends, counters) = run(drive, &at_once(requests));
        assert!(ends.is_sorted(), "{ends:?}");
        assert_eq!(counters.seeks, if far_away == 0 { 1 } else { 2 });
    }
}

/// Goal: whole aligned stripes cost nothing extra, in whatever pieces they come one after another;
/// any other write reads each stripe that it changes in part, once.
#[test]
fn partial_stripes_cost_more() {
    let stripe = Stripe { data_disks: 4, unit_bytes: 128 << 10 };
    let drive = Drive { stripe: Some(stripe), ..Drive::sata(CAPACITY) };
    let size = stripe.bytes();
    let rewrites = |pieces: &[(u64, u64)]| {
        let requests = (0..).zip(pieces).map(|(id, (start, bytes))| write(id, *start, *bytes));
        // One after another: the queue must not choose.
        let second = Duration::from_secs(1);
        let requests: Vec<_> = (0..).zip(requests).map(|(at, each)| (second * at, each)).collect();
        let (ends, counters) = run(drive, &requests);
        assert_eq!(
            counters.rewrite_time,
            (drive.rotation + drive.transfer(size)) * counters.rewrites as u32
        );
        assert!(ends.iter().all(|end| !end.is_zero()));
        counters.rewrites
    };
    assert_eq!(rewrites(&[(0, 3 * size)]), 0);
    assert_eq!(rewrites(&[(0, 4096), (4096, size - 4096), (size, size)]), 0);
    assert_eq!(rewrites(&[(4096, size)]), 1, "and the second stripe is not left yet");
    assert_eq!(rewrites(&[(4096, size), (10 * size, size)]), 2);
    assert_eq!(rewrites(&[(4096, 4096), (8192, 4096), (10 * size, size)]), 1);
    assert_eq!(rewrites(&[(0, 4096), (10 * size, size), (4096, 4096)]), 2);
}

proptest! {
    /// Goal: nobody waits longer than the age limit and one round of the queue, with the queue
    /// always full and most requests next to each other, the others far away.
    #[test]
    fn age_limit_bounds_waiting(
        places in prop::collection::vec(prop_oneof![9 => 0..64u64, 1 => 0..CAPACITY / MIB], 64..400),
        limit_ms in 10..2000u64,
    ) {
        let drive = Drive { age_limit: Duration::from_millis(limit_ms), ..Drive::sata(CAPACITY) };
        let longest = drive.full_stroke + drive.rotation / 2 + drive.transfer(MIB);
        let bound = drive.age_limit + longest * (drive.queue as u32 + 1);
        let mut model = Model::new(drive);
        let mut issued = Vec::new();
        let mut now = Duration::ZERO;
        let mut ended = 0;
        while ended < places.len() {
            while issued.len() < places.len().min(ended + drive.queue) {
                model.submit(now, write(issued.len() as u64, places[issued.len()] * MIB, MIB));
                issued.push(now);
            }
            now = model.busy_until().unwrap();
            while let Some(id) = model.next_done(now) {
                let waited = now - issued[id as usize];
                prop_assert!(waited <= bound, "{:?} > {:?}", waited, bound);
                ended += 1;
            }
        }
    }

    /// Goal: every request is done once, none before the disk could have moved its bytes, and the
    /// times add up whatever the order.
    #[test]
    fn time_is_accounted_for(
        places in prop::collection::vec((0..CAPACITY / 4096, 1..256u64, any::<bool>()), 1..200),
        has_parity: bool,
    ) {
        let stripe = Stripe { data_disks: 8, unit_bytes: 64 << 10 };
        let stripe = has_parity.then_some(stripe);
        let drive = Drive { stripe, ..Drive::sata(CAPACITY) };
        let requests = (0..).zip(&places).map(|(id, (place, blocks, reads))| Request {
            id,
            direction: if *reads { Direction::Read } else { Direction::Write },
            start: place * 4096,
            bytes: blocks * 4096,
        });
        let (ends, counters) = run(drive, &at_once(requests.collect()));
        prop_assert_eq!(counters.requests, places.len() as u64);
        let bytes: u64 = places.iter().map(|(_, blocks, _)| blocks * 4096).sum();
        prop_assert_eq!(counters.read_bytes + counters.written_bytes, bytes);
        prop_assert_eq!(last(&ends), counters.busy());
        let mut sorted = ends.clone();
        sorted.sort();
        sorted.dedup();
        prop_assert_eq!(sorted.len(), ends.len(), "one after another");
    }
}

fn moments(of_writers: &[&[u64]]) -> Vec<Moment> {
    let each = of_writers.iter().enumerate();
    each.map(|(at, bytes)| Moment { at_s: at as f64, bytes: bytes.to_vec() }).collect()
}

/// Goal: fairness looks only at the time in which all are active, and only at its middle half.
#[test]
fn fairness_is_of_the_time_in_which_all_write() {
    // The second starts late and is half as fast; what comes after the end of the first is left out.
    let seen = moments(&[&[0, 0], &[40, 0], &[60, 10], &[80, 20], &[100, 20], &[100, 100]]);
    let fairness = Fairness::of(&seen, &[100, 100]);
    assert_eq!(fairness.at_first_end, 0.2);
    assert_eq!(fairness.middle_half, 0.5);
}

/// Goal: who wants less is not compared with who wants more.
#[test]
fn fairness_is_among_those_who_want_the_same() {
    let seen = moments(&[&[0, 0, 0, 0], &[50, 5, 50, 4], &[100, 10, 100, 8]]);
    assert_eq!(Fairness::of(&seen, &[100, 10, 100, 10]).at_first_end, 0.8);
    assert_eq!(Fairness::of(&[], &[100]).middle_half, 0.0);
}

/// Goal: what is kept of many moments are few, from the first to the last.
#[test]
fn thinned_moments_keep_both_ends() {
    let many: Vec<Moment> =
        (0..1000).map(|at| Moment { at_s: f64::from(at), bytes: vec![] }).collect();
    let kept = thin(many);
    assert!(kept.len() <= 61, "{}", kept.len());
    assert_eq!((kept[0].at_s, kept[kept.len() - 1].at_s), (0.0, 999.0));
}
