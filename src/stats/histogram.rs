//! How often a figure was how large, in fixed buckets: counted by many threads without a lock.

use std::sync::atomic::{AtomicU64, Ordering};

/// A distribution. Figures are whole numbers of whatever unit its owner says.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [u64],
    /// One for each bound, and one for what is above all of them.
    counts: Vec<AtomicU64>,
    sum: AtomicU64,
}

/// A histogram at some moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counted {
    /// Upper bounds, ascending, with how many figures were at most that large.
    pub up_to: Vec<(u64, u64)>,
    /// How many there were.
    pub count: u64,
    /// What they come to.
    pub sum: u64,
}

impl Histogram {
    /// An empty one; `bounds` ascend.
    pub fn new(bounds: &'static [u64]) -> Histogram {
        debug_assert!(bounds.is_sorted());
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Histogram { bounds, counts, sum: AtomicU64::new(0) }
    }

    /// Counts one figure.
    pub fn note(&self, figure: u64) {
        let bucket = self.bounds.partition_point(|bound| *bound < figure);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(figure, Ordering::Relaxed);
    }

    /// What was counted so far. The sum may be ahead of the counts by figures noted meanwhile.
    pub fn counted(&self) -> Counted {
        let mut count = 0;
        let mut up_to = Vec::with_capacity(self.bounds.len());
        for (at, bucket) in self.counts.iter().enumerate() {
            count += bucket.load(Ordering::Relaxed);
            up_to.extend(self.bounds.get(at).map(|bound| (*bound, count)));
        }
        Counted { up_to, count, sum: self.sum.load(Ordering::Relaxed) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a figure is counted in every bucket whose bound it does not exceed, as Prometheus
    /// wants it.
    #[test]
    fn buckets_are_cumulative_and_bounds_belong_to_them() {
        let histogram = Histogram::new(&[10, 20]);
        for figure in [0, 10, 11, 20, 21, 1000] {
            histogram.note(figure);
        }
        let expected = Counted { up_to: vec![(10, 2), (20, 4)], count: 6, sum: 1062 };
        assert_eq!(histogram.counted(), expected);
    }
}
