//! Medians and quantiles.

/// The middle value; the mean of the two in the middle of an even number. NaN of nothing.
pub(super) fn median(values: &[f64]) -> f64 {
    (quantile(values, 0.5, f64::floor) + quantile(values, 0.5, f64::ceil)) / 2.0
}

/// The value that the fraction `part` of all are at most.
pub(super) fn at(values: &[f64], part: f64) -> f64 {
    quantile(values, part, f64::ceil)
}

fn quantile(values: &[f64], part: f64, round: fn(f64) -> f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1) as f64;
    sorted
        .get(round(last * part) as usize)
        .copied()
        .unwrap_or(f64::NAN)
}

/// Smallest and largest.
pub(super) fn range(values: &[f64]) -> (f64, f64) {
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    (least, values.iter().copied().fold(f64::NEG_INFINITY, f64::max))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_were_measured() {
        let values = [5.0, 1.0, 3.0, 2.0, 4.0];
        assert_eq!(median(&values), 3.0);
        assert_eq!(median(&[1.0, 2.0]), 1.5);
        assert!(median(&[]).is_nan());
        assert_eq!(at(&values, 0.99), 5.0);
        assert_eq!(at(&values, 0.5), 3.0);
        assert_eq!(range(&values), (1.0, 5.0));
    }
}
