//! Many writers, limited memory, and disks slower than the input.
//!
//! One engine for all: buffers, schedulers and admission are the real ones, disks and the kernel
//! are models. Nothing is timed; what is random prints its seed.

mod array;
mod engine;
mod few;
mod loads;
mod many;
mod report;
mod work;

use super::random::{Random, seed};
use engine::{Setup, Simulation};
use report::Report;

/// Runs, and checks what holds for any writers: the bytes held.
fn run_bounded(setup: Setup) -> Report {
    let most_bytes = setup.held_bytes_max();
    let (report, ()) = Simulation::run(setup, (), |_| {});
    assert!(report.most_held_bytes <= most_bytes, "held {}", report.most_held_bytes);
    report
}

/// The same for disks that can take all within the maximum age.
fn run(setup: Setup) -> Report {
    let max_age_ms = setup.max_age_ms;
    let report = run_bounded(setup);
    assert!(report.oldest_ms <= max_age_ms, "waited {} ms", report.oldest_ms);
    report
}
