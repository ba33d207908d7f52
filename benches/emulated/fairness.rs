//! Whether writers that want the same get the same. Pure: called with what was seen.

use serde::{Deserialize, Serialize};

/// Moments that are kept of a run.
const KEPT: usize = 60;

/// Bytes written by each writer at a time.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Moment {
    /// Since they began.
    pub at_s: f64,
    /// By their numbers.
    pub bytes: Vec<u64>,
}

/// How the slowest writer did, of what the fastest did that wants as much: 1 is fair.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Fairness {
    /// By what they had written when the first one had written everything.
    pub at_first_end: f64,
    /// By what they wrote in the middle half of the time before that.
    pub middle_half: f64,
}

impl Fairness {
    /// `wanted`: what each writer is to write. Moments in their order.
    pub fn of(moments: &[Moment], wanted: &[u64]) -> Fairness {
        let has_ended =
            |moment: &Moment| moment.bytes.iter().zip(wanted).any(|(has, all)| has >= all);
        let first_end = moments.iter().position(has_ended).unwrap_or(moments.len().max(1) - 1);
        let Some(end) = moments.get(first_end) else {
            return Fairness { at_first_end: 0.0, middle_half: 0.0 };
        };
        let at = |part: f64| {
            let later = moments.iter().position(|moment| moment.at_s >= end.at_s * part);
            &moments[later.unwrap_or(first_end)]
        };
        let between: Vec<u64> =
            at(0.75).bytes.iter().zip(&at(0.25).bytes).map(|(late, early)| late - early).collect();
        Fairness { at_first_end: ratio(&end.bytes, wanted), middle_half: ratio(&between, wanted) }
    }
}

/// Of the least to the most among those who want the same; the worst of these.
fn ratio(bytes: &[u64], wanted: &[u64]) -> f64 {
    let alike = |&want: &u64| {
        let its = || bytes.iter().zip(wanted).filter(|(_, all)| **all == want).map(|(got, _)| *got);
        let (least, most) = (its().min().unwrap_or(0), its().max().unwrap_or(0));
        if most == 0 { 0.0 } else { least as f64 / most as f64 }
    };
    wanted.iter().map(alike).reduce(f64::min).unwrap_or(0.0)
}

/// Few enough to be kept in a file: evenly spread, the last one included.
pub fn thin(moments: Vec<Moment>) -> Vec<Moment> {
    let step = moments.len().div_ceil(KEPT).max(1);
    let last = moments.len().saturating_sub(1);
    let is_kept = |at: &usize| at.is_multiple_of(step) || *at == last;
    moments
        .into_iter()
        .enumerate()
        .filter(|(at, _)| is_kept(at))
        .map(|(_, moment)| moment)
        .collect()
}
