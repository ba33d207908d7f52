//! Forty writers, a memory smaller than files x chunk, and a disk slower than the input.
//!
//! All writers start at the same moment with empty buffers, the worst start for plain buffers.

use super::engine::Setup;
use super::loads::{KIB, MIB, equal};
use super::report::Report;
use super::{run, run_bounded};

fn forty() -> Setup {
    equal(40, 4 * MIB, 128 * KIB)
}

#[test]
fn forty_equal_writers() {
    let report = run(forty());
    assert!(report.turns > 900, "{}", report.turns);
    assert!(report.whole_share() >= 0.95, "{}", report.whole_share());
    assert_eq!(report.gaps, Some((40, 40)), "strictly one after another");
    assert!(report.spread(0..40) <= 1.05, "{}", report.spread(0..40));
    assert!(report.longest_wait_ms < 250, "{} ms", report.longest_wait_ms);
    assert_eq!(report.age_turns, 0, "a round is much shorter than the age");
}

/// The same when a round takes longer than half the maximum age: age and ring agree.
#[test]
fn forty_equal_writers_that_are_always_over_age() {
    let report = run(Setup { max_age_ms: 4_000, ..forty() });
    assert!(report.age_turns * 2 > report.turns, "{} of {}", report.age_turns, report.turns);
    assert!(report.whole_share() >= 0.95, "{}", report.whole_share());
    assert_eq!(report.gaps, Some((40, 40)));
    assert!(report.spread(0..40) <= 1.05, "{}", report.spread(0..40));
}

/// The formula in the module's head: the ramp needs files x (chunk + alignment) / 2. Equal
/// writers pass a multiple of the alignment at the same moment; with chunks aligned to their own
/// size all become ready together, and no ramp forms.
#[test]
fn the_memory_that_is_needed_grows_with_the_alignment() {
    for align_bytes in [MIB, 2 * MIB, 4 * MIB] {
        let whole_share = |percent| {
            let memory_bytes = 40 * (4 * MIB + align_bytes) / 2 / 100 * percent;
            run(Setup { align_bytes, memory_bytes, ..forty() }).whole_share()
        };
        let (enough, too_little) = (whole_share(104), whole_share(85));
        assert!(enough >= 0.95, "align {align_bytes}: {enough}");
        assert!(too_little < 0.90, "align {align_bytes}: {too_little}");
    }
}

/// 30 writers far below a fair share get what they ask for; 10 that want far more than there is
/// share the rest equally.
fn unequal(slow_period_us: u64) -> Report {
    let mut setup = Setup {
        memory_bytes: 40 * 4 * MIB / 100 * 75,
        warm_up_us: 60_000_000,
        end_us: 160_000_000,
        ..forty()
    };
    for (i, writer) in setup.writers.iter_mut().enumerate() {
        writer.period_us = if i < 30 { slow_period_us } else { 5_000 };
    }
    let wanted_bytes = 100_000_000 / slow_period_us * 128 * KIB;
    let report = run(setup);
    for (i, bytes) in report.acknowledged_bytes[..30].iter().enumerate() {
        assert!(*bytes as f64 >= wanted_bytes as f64 * 0.97, "writer {i}: {bytes}");
    }
    assert!(report.spread(30..40) <= 1.05, "{}", report.spread(30..40));
    assert!(report.longest_wait_ms < 250, "{} ms", report.longest_wait_ms);
    report
}

#[test]
fn forty_unequal_writers() {
    let report = unequal(250_000);
    assert!(report.whole_share() >= 0.95, "{}", report.whole_share());
    assert_eq!(report.age_turns, 0);
}

/// The slow ones' chunks do not fill within the age: theirs leave early, the others' whole.
#[test]
fn forty_unequal_writers_of_which_some_become_over_age() {
    let report = unequal(640_000);
    assert!(report.age_turns >= 30 * 6, "{}", report.age_turns);
    assert!(report.whole_share() >= 0.90, "{}", report.whole_share());
    assert!(report.oldest_ms < 16_000, "served within a second of being due");
}

/// Goal: on a disk that is behind so far that everybody is over-age, turns are as long as they are
/// without a maximum age: positioning costs no more of its time.
#[test]
fn turns_are_as_long_when_everybody_is_over_age() {
    let turn_bytes = |max_age_ms| {
        let (warm_up_us, end_us) = (60_000_000, 160_000_000);
        let setup = Setup { turn_chunks: 64, max_age_ms, warm_up_us, end_us, ..forty() };
        let memory_bytes = 40 * 16 * MIB;
        let report = run_bounded(Setup { memory_bytes, ..setup });
        (report.bytes / report.turns, report.age_turns * 2 > report.turns)
    };
    let (long, is_age) = turn_bytes(1_000_000);
    let (aged, all_age) = turn_bytes(4_000);
    assert!(!is_age && all_age);
    assert!(long > 8 * MIB, "overload: {long}");
    assert!(aged * 10 > long * 9, "{aged} bytes a turn, {long} without a maximum age");
}
