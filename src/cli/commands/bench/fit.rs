//! How long a disk takes for a turn, as a function of its size. Pure.
//!
//! The model: time(bytes) = a + b * bytes, where a is what going to another file costs and 1/b the
//! rate of a long sequential write.

use serde::Serialize;

/// A fitted rate is above what any turn reached, as positioning is taken out of it; by more than
/// this, it is noise.
const BEST_FACTOR: f64 = 4.0;

/// A size of turn, and how long one took.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// Of one turn.
    pub bytes: u64,
    /// Of one turn, in seconds.
    pub seconds: f64,
}

/// The line.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ServiceTime {
    /// a, in seconds; not negative.
    pub positioning_s: f64,
    /// 1/b; above zero and finite.
    pub bytes_per_s: f64,
}

impl ServiceTime {
    /// Of a turn, in seconds.
    pub fn of(&self, bytes: u64) -> f64 {
        self.positioning_s + bytes as f64 / self.bytes_per_s
    }

    /// The part of a turn's time that goes into positioning, from 0 to 1.
    pub fn positioning_share(&self, bytes: u64) -> f64 {
        self.positioning_s / self.of(bytes)
    }
}

/// Least squares of the relative error: a turn of 8 MiB that is 5% off weighs as much as one of
/// 128 KiB. With absolute errors the largest turns alone would decide, and `a` would be noise.
///
/// `None` without a sample whose size and time are above zero; others are left out. What noise
/// makes impossible is taken to the next that is possible: a < 0 to a = 0, and a time that hardly
/// grows with the size to a rate of [`BEST_FACTOR`] times the best that was seen.
pub fn fit(samples: &[Sample]) -> Option<ServiceTime> {
    // With x = 1/t and y = bytes/t the relative error is a*x + b*y - 1.
    let is_sound =
        |sample: &&Sample| sample.bytes > 0 && sample.seconds.is_normal() && sample.seconds > 0.0;
    let points: Vec<(f64, f64)> = samples
        .iter()
        .filter(is_sound)
        .map(|sample| (1.0 / sample.seconds, sample.bytes as f64 / sample.seconds))
        .collect();
    let sum =
        |term: &dyn Fn(f64, f64) -> f64| points.iter().map(|(x, y)| term(*x, *y)).sum::<f64>();
    let best_rate = points.iter().map(|(_, y)| *y).fold(0.0, f64::max);
    let (x, y) = (sum(&|x, _| x), sum(&|_, y| y));
    let (xx, xy, yy) = (sum(&|x, _| x * x), sum(&|x, y| x * y), sum(&|_, y| y * y));
    let through_origin = ServiceTime { positioning_s: 0.0, bytes_per_s: yy / y };
    let determinant = xx * yy - xy * xy;
    let line = if determinant <= xx * yy * f64::EPSILON.sqrt() {
        // One size only: what of it is positioning cannot be told.
        through_origin
    } else {
        let (a, b) = ((x * yy - y * xy) / determinant, (y * xx - x * xy) / determinant);
        if a < 0.0 {
            through_origin
        } else {
            let b = b.max(1.0 / (BEST_FACTOR * best_rate));
            ServiceTime { positioning_s: ((x - xy * b) / xx).max(0.0), bytes_per_s: 1.0 / b }
        }
    };
    (line.positioning_s.is_finite() && line.bytes_per_s.is_normal()).then_some(line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SIZES: [u64; 4] = [128 << 10, 512 << 10, 2 << 20, 8 << 20];

    fn samples(a: f64, rate: f64, noise: [f64; 4]) -> Vec<Sample> {
        let truth = ServiceTime { positioning_s: a, bytes_per_s: rate };
        let sample = |(bytes, factor)| Sample { bytes, seconds: truth.of(bytes) * factor };
        SIZES.into_iter().zip(noise).map(sample).collect()
    }

    fn is_near(found: f64, wanted: f64, share: f64) -> bool {
        (found - wanted).abs() <= wanted * share
    }

    #[test]
    fn a_disk_with_seeks() {
        let found = fit(&samples(0.010, 150e6, [1.02, 0.97, 1.03, 0.99])).unwrap();
        assert!(is_near(found.positioning_s, 0.010, 0.1), "{found:?}");
        assert!(is_near(found.bytes_per_s, 150e6, 0.1), "{found:?}");
        // 19 times the positioning: 28.5 MB.
        assert!(is_near(found.positioning_share(28_500_000), 0.05, 0.15), "{found:?}");
    }

    #[test]
    fn what_noise_makes_impossible_is_not_believed() {
        // Small turns are faster than in proportion: a would be negative.
        let found = fit(&samples(0.0, 1e9, [0.5, 0.9, 1.0, 1.1])).unwrap();
        assert_eq!(found.positioning_s, 0.0);
        // All take the same time, and even less the larger they are: b would be zero or less.
        for last in [0.010, 0.005] {
            let times = [0.010, 0.010, 0.010, last];
            let samples = SIZES.into_iter().zip(times);
            let samples = samples.map(|(bytes, seconds)| Sample { bytes, seconds });
            let found = fit(&samples.collect::<Vec<_>>()).unwrap();
            assert!(is_near(found.bytes_per_s, BEST_FACTOR * SIZES[3] as f64 / last, 1e-9));
            assert!(found.positioning_s > 0.0, "{found:?}");
        }
    }

    #[test]
    fn one_size_gives_a_rate_and_nothing_gives_nothing() {
        let one = Sample { bytes: 1 << 20, seconds: 0.01 };
        let found = fit(&[one, one]).unwrap();
        assert_eq!(found.positioning_s, 0.0);
        assert!(is_near(found.bytes_per_s, 1048576e2, 1e-9), "{found:?}");
        assert_eq!(fit(&[]), None);
        for seconds in [0.0, -1.0, f64::NAN, f64::INFINITY] {
            assert_eq!(fit(&[Sample { bytes: 1, seconds }]), None);
        }
        assert_eq!(fit(&[Sample { bytes: 0, seconds: 1.0 }]), None);
    }

    proptest! {
        /// Goal: what lies on a line gives that line, from a tape to memory.
        #[test]
        fn a_line_is_found_again(log_a in -6.0..0.0f64, log_rate in 5.0..10.0f64) {
            let (a, rate) = (10f64.powf(log_a), 10f64.powf(log_rate));
            let found = fit(&samples(a, rate, [1.0; 4])).unwrap();
            // Where positioning hides the rate, only the times are known.
            for bytes in SIZES {
                let truth = ServiceTime { positioning_s: a, bytes_per_s: rate };
                prop_assert!(is_near(found.of(bytes), truth.of(bytes), 0.2), "{:?}", found);
            }
            if a * rate < 24e6 {
                prop_assert!(is_near(found.positioning_s, a, 1e-3), "{:?}", found);
                prop_assert!(is_near(found.bytes_per_s, rate, 1e-3), "{:?}", found);
            }
        }

        /// Goal: noise of 10% moves no time of a measured size by more than the noise of all.
        #[test]
        fn noise_is_not_made_larger(
            log_a in -5.0..-2.0f64, log_rate in 7.0..9.5f64,
            noise in proptest::array::uniform4(0.9..1.1f64),
        ) {
            let (a, rate) = (10f64.powf(log_a), 10f64.powf(log_rate));
            let given = samples(a, rate, noise);
            let found = fit(&given).unwrap();
            for sample in given {
                prop_assert!(is_near(found.of(sample.bytes), sample.seconds, 0.2), "{:?}", found);
            }
        }

        /// Goal: whatever was measured, the result is one to go on with.
        #[test]
        fn any_times_give_a_sound_line(
            given in proptest::collection::vec((1u64..1 << 32, 1e-7..1e4f64), 1..12),
        ) {
            let samples: Vec<_> =
                given.into_iter().map(|(bytes, seconds)| Sample { bytes, seconds }).collect();
            let found = fit(&samples).unwrap();
            prop_assert!(found.positioning_s >= 0.0 && found.positioning_s.is_finite());
            prop_assert!(found.bytes_per_s > 0.0 && found.bytes_per_s.is_finite());
            prop_assert!((0.0..=1.0).contains(&found.positioning_share(1 << 20)));
        }
    }
}
