//! The rules of admission: limit, order, fairness, and that every ticket comes out once.

use std::collections::BTreeMap;

use super::Random;
use crate::schedule::{Admission, FileId, Granted};

const KIB: u64 = 1 << 10;

fn grant<T>(admission: &mut Admission<T>, held_bytes: u64, now_ms: u64) -> Vec<T> {
    let mut out = Vec::new();
    admission.grant(held_bytes, now_ms, &mut out);
    out.into_iter().map(|granted| granted.ticket).collect()
}

#[test]
fn at_once_up_to_the_limit() {
    let mut a = Admission::new(100, 0);
    assert_eq!(a.offer(FileId(1), 10, 100, 0, "at the limit"), Some("at the limit"));
    assert_eq!(a.offer(FileId(1), 10, 101, 0, "above"), None);
    assert_eq!((a.waiting(), a.waiting_bytes()), (1, 10));
}

#[test]
fn nobody_overtakes() {
    let mut a = Admission::new(100, 0);
    assert_eq!(a.offer(FileId(1), 10, 110, 0, 1), None);
    assert_eq!(a.offer(FileId(2), 10, 50, 0, 2), None, "room, but somebody waits");
    assert_eq!(grant(&mut a, 50, 0), [1, 2]);
    assert_eq!(a.offer(FileId(2), 10, 60, 0, 3), Some(3));
}

#[test]
fn grants_up_to_the_room_left() {
    let mut a = Admission::new(100, 0);
    for ticket in 0..10 {
        assert_eq!(a.offer(FileId(1), 10, 101, 0, ticket), None);
    }
    assert_eq!(grant(&mut a, 101, 0), [0; 0]);
    assert_eq!(grant(&mut a, 100, 0), [0; 0]);
    assert_eq!(grant(&mut a, 65, 0), [0, 1, 2], "35 bytes of room");
    assert_eq!(grant(&mut a, 99, 0), [3], "any room is enough for one");
    assert_eq!(grant(&mut a, 0, 0), [4, 5, 6, 7, 8, 9], "nothing held: everything");
}

#[test]
fn an_empty_buffer_admits_more_than_the_limit() {
    let mut a = Admission::new(100, 0);
    assert_eq!(a.offer(FileId(1), 5_000, 5_000, 0, 1), None);
    assert_eq!(a.offer(FileId(1), 5_000, 10_000, 0, 2), None);
    assert_eq!(grant(&mut a, 0, 0), [1, 2]);
}

#[test]
fn shares_go_round() {
    // File 1 has many small requests parked, file 2 large ones; shares are 8 KiB.
    let mut a = Admission::new(1_000 * KIB, 8 * KIB);
    for ticket in 0..6 {
        assert_eq!(a.offer(FileId(1), 4 * KIB, u64::MAX, 0, ticket), None);
    }
    for ticket in 10..12 {
        assert_eq!(a.offer(FileId(2), 16 * KIB, u64::MAX, 0, ticket), None);
    }
    // Two shares of file 1 for one request of file 2, also when the room comes in pieces.
    assert_eq!(grant(&mut a, 992 * KIB, 0), [0, 1]);
    assert_eq!(grant(&mut a, 996 * KIB, 0), [2]);
    assert_eq!(grant(&mut a, 980 * KIB, 0), [3, 10]);
    assert_eq!(grant(&mut a, 1, 0), [4, 5, 11]);
}

#[test]
fn waits_are_measured() {
    let mut a = Admission::new(100, 0);
    assert_eq!(a.oldest_wait_ms(9), None);
    assert_eq!(a.offer(FileId(1), 10, 101, 10, 'a'), None);
    assert_eq!(a.offer(FileId(2), 10, 101, 30, 'b'), None);
    assert_eq!(a.oldest_wait_ms(50), Some(40));
    let mut out = Vec::new();
    a.grant(99, 60, &mut out);
    assert_eq!(out, [Granted { ticket: 'a', waited_ms: 50 }]);
    assert_eq!(a.oldest_wait_ms(60), Some(30));
    a.drain_all(70, &mut out);
    assert_eq!(out[1], Granted { ticket: 'b', waited_ms: 40 });
    assert_eq!((a.waiting(), a.waiting_bytes(), a.oldest_wait_ms(70)), (0, 0, None));
}

/// Files that always have requests parked get the same bytes, whatever the size of their
/// requests: they never differ by more than a share and the largest request.
#[test]
fn backlogged_files_get_equal_bytes() {
    const SHARE: u64 = 64 * KIB;
    let sizes = [4 * KIB, 64 * KIB, 100 * KIB, 1024 * KIB];
    let mut a = Admission::new(1 << 30, SHARE);
    let mut random = Random(1);
    let offer = |a: &mut Admission<usize>, file: usize| {
        assert_eq!(a.offer(FileId(file as u64), sizes[file], u64::MAX, 0, file), None);
    };
    // More parked than one call can grant.
    for (file, bytes) in sizes.iter().enumerate() {
        (0..(4 << 20) / bytes).for_each(|_| offer(&mut a, file));
    }
    let mut granted = [0u64; 4];
    while granted[0] < 100 << 20 {
        for file in grant(&mut a, (1 << 30) - random.below(4 << 20) - 1, 0) {
            granted[file] += sizes[file];
            offer(&mut a, file);
        }
        // A share not yet given in this round on either side, and a request saved up for.
        let (least, most) = (granted.iter().min().unwrap(), granted.iter().max().unwrap());
        assert!(most - least <= 2 * SHARE + 1024 * KIB, "{granted:?}");
    }
}

/// Random calls: every ticket comes out once and in order within its file; grants keep to the
/// room but for the first; with room somebody is let go.
#[test]
fn random_calls() {
    for seed in 0..100 {
        let mut random = Random(seed);
        let limit = 1 + random.below(64 * KIB);
        let mut a = Admission::new(limit, random.below(16 * KIB));
        let mut parked: BTreeMap<u64, Vec<(u64, u64)>> = BTreeMap::new();
        for number in 0..1_000 {
            let held = random.below(2 * limit);
            if random.below(3) > 0 {
                let (file, bytes) = (random.below(8), random.below(8 * KIB));
                let idle = parked.values().all(Vec::is_empty);
                let ticket = (file, number, bytes);
                let at_once = a.offer(FileId(file), bytes, held, 0, ticket);
                assert_eq!(at_once.is_some(), idle && held <= limit, "seed {seed}");
                if at_once.is_none() {
                    parked.entry(file).or_default().push((number, bytes));
                }
                continue;
            }
            let waited = a.waiting();
            let granted = grant(&mut a, held, 0);
            let total: u64 = granted.iter().skip(1).map(|ticket| ticket.2).sum();
            let first = granted.first().map_or(0, |ticket| ticket.2);
            assert!(held == 0 || total == 0 || total + first <= limit - held, "seed {seed}");
            assert!(waited == 0 || held >= limit || !granted.is_empty(), "seed {seed}");
            for (file, number, bytes) in granted {
                assert_eq!(parked.get_mut(&file).unwrap().remove(0), (number, bytes));
            }
            let left: Vec<u64> = parked.values().flatten().map(|p| p.1).collect();
            assert_eq!(
                (a.waiting(), a.waiting_bytes()),
                (left.len(), left.iter().sum()),
                "seed {seed}"
            );
        }
    }
}
