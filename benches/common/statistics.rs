//! Few numbers of many.

/// The least, the median and the most of one value or more.
pub struct Spread {
    /// None is smaller.
    pub least: f64,
    /// Half of them are no larger.
    pub median: f64,
    /// None is larger.
    pub most: f64,
}

/// `None` when there are no values.
pub fn spread(values: impl IntoIterator<Item = f64>) -> Option<Spread> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let (least, most) = (*values.first()?, *values.last()?);
    let middle = values.len() / 2;
    let median = match values.len() % 2 {
        0 => f64::midpoint(values[middle - 1], values[middle]),
        _ => values[middle],
    };
    Some(Spread { least, median, most })
}
