//! What a decision looks at, counted: it grows with the logarithm of the number of files.

use super::engine::{Call, Meter, Setup, Simulation};
use super::loads::{KIB, skewed};
use super::{Random, seed};
use crate::schedule::tests::steps;

/// Steps of the calls to the scheduler, from the start.
#[derive(Debug, Default)]
struct Work {
    calls: u64,
    steps: u64,
    /// Of one call, and which.
    most: Option<(u64, Call)>,
}

impl Meter for Work {
    fn measure<R>(&mut self, call: impl FnOnce() -> R, kind: impl FnOnce(&R) -> Call) -> R {
        let before = steps::taken();
        let result = call();
        let taken = steps::taken() - before;
        let kind = kind(&result);
        if !matches!(kind, Call::Admission | Call::Buffer) {
            self.calls += 1;
            self.steps += taken;
            if self.most.is_none_or(|(most, _)| most < taken) {
                self.most = Some((taken, kind));
            }
        }
        result
    }
}

/// Overload with little memory: files come and go, become whole, over-age, or wait for room.
fn crowded(writers: usize) -> Setup {
    Setup {
        memory_bytes: writers as u64 * 80 * KIB,
        max_age_ms: 4_000,
        warm_up_us: 1_000_000,
        end_us: 5_000_000,
        ..skewed(writers, 2.0, &mut Random(seed(1)))
    }
}

/// A step of a search is a comparison, and a node of a tree has up to eleven keys.
#[test]
fn a_decision_costs_the_logarithm_of_the_number_of_files() {
    for writers in [1_000, 10_000, 100_000] {
        let (report, work) = Simulation::run(crowded(writers), Work::default(), |_| {});
        let log = (writers as f64).log2();
        let mean = work.steps as f64 / work.calls as f64;
        let (most, call) = work.most.expect("there were calls");
        println!("{writers} files: {mean:.0} steps a call, {most} in one {call:?}");
        assert!(report.turns as usize > writers / 3, "only {} turns", report.turns);
        assert!(mean <= 8.0 * log, "{mean} steps a call of {writers} files");
        assert!(most as f64 <= 25.0 * log, "{most} steps in one {call:?} of {writers} files");
    }
}
