//! Ten thousand writers and more on one disk.

use super::engine::{Disk, Setup, Writer};
use super::loads::{KIB, equal, skewed};
use super::report::Report;
use super::{Random, run, run_bounded, seed};

fn ten_thousand() -> Setup {
    Setup {
        disks: vec![Disk { position_us: 1_000, bytes_per_us: 100 }],
        warm_up_us: 80_000_000,
        end_us: 200_000_000,
        max_age_ms: 120_000,
        memory_bytes: 10_000 * 256 * KIB / 100 * 75,
        ..equal(10_000, 256 * KIB, 32 * KIB)
    }
}

/// A decision that looked at every file would make this take minutes.
#[test]
fn ten_thousand_equal_writers() {
    let report = run(ten_thousand());
    assert!(report.turns > 30_000, "{}", report.turns);
    assert!(report.whole_share() >= 0.95, "{}", report.whole_share());
    assert_eq!(report.gaps, Some((10_000, 10_000)));
    assert!(report.spread(0..10_000) <= 1.05, "{}", report.spread(0..10_000));
}

/// Rates from 1 to 10, of which the upper ones are above the fair share.
#[test]
fn ten_thousand_unequal_writers() {
    let mut setup = ten_thousand();
    for (i, writer) in setup.writers.iter_mut().enumerate() {
        writer.period_us = writer.period_us * 5 / (1 + i as u64 / 1_000);
    }
    let report = run(setup);
    assert!(report.whole_share() >= 0.95, "{}", report.whole_share());
    assert!(report.spread(8_000..10_000) <= 1.05, "{}", report.spread(8_000..10_000));
}

/// A file that is due waits for a round of all at most, and, if it is over-age, for a whole chunk
/// after each four for age.
fn assert_everybody_has_turns(report: &Report, files: usize) {
    let round = files + files / 4 + 1;
    assert!(report.age_wait_turns <= round, "over-age for {} turns", report.age_wait_turns);
    assert!(report.whole_wait_turns <= round, "whole for {} turns", report.whole_wait_turns);
}

/// What the writer asks for in the measured time.
fn wanted_bytes(setup: &Setup, writer: usize) -> u64 {
    let Writer { request_bytes, period_us, .. } = setup.writers[writer];
    (setup.end_us - setup.warm_up_us) / period_us * request_bytes
}

/// Most files leave by age, each byte in time, and nobody's reply is held back.
fn assert_all_is_carried(setup: Setup) {
    let report = run(setup.clone());
    assert!(report.age_turns * 2 > report.turns, "{} of {}", report.age_turns, report.turns);
    assert!(report.whole_bytes * 2 > report.bytes, "{}", report.whole_share());
    assert_eq!(report.longest_wait_ms, 0, "there is room");
    assert_everybody_has_turns(&report, setup.writers.len());
    for (i, bytes) in report.acknowledged_bytes.iter().enumerate() {
        assert!(*bytes >= wanted_bytes(&setup, i), "writer {i}: {bytes}");
    }
}

#[test]
fn ten_thousand_skewed_writers() {
    assert_all_is_carried(skewed(10_000, 0.4, &mut Random(seed(1))));
}

/// On an array that takes 5 GB/s: four seconds of it.
#[test]
fn a_hundred_thousand_skewed_writers() {
    assert_all_is_carried(Setup {
        max_age_ms: 8_000,
        warm_up_us: 4_000_000,
        end_us: 8_000_000,
        ..skewed(100_000, 0.2, &mut Random(seed(1)))
    });
}

/// Twice of what the disk takes. Everybody has turns all the same; who wants less than a fair
/// share gets it, and the others equal parts of the rest.
#[test]
fn ten_thousand_skewed_writers_that_want_too_much() {
    let setup = skewed(10_000, 2.0, &mut Random(seed(1)));
    let report = run_bounded(setup.clone());
    assert_everybody_has_turns(&report, 10_000);
    let fair = *report.acknowledged_bytes.iter().max().unwrap();
    for (i, bytes) in report.acknowledged_bytes.iter().enumerate() {
        let wanted = wanted_bytes(&setup, i).saturating_sub(setup.writers[i].request_bytes);
        assert!(*bytes >= wanted.min(fair / 10 * 9), "writer {i}: {bytes} of {wanted}, {fair}");
    }
}
