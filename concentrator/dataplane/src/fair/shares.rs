//! Max-min fair shares: whoever asks for less than an equal part gets all of it, and what it leaves is divided among the
//! others, until nothing is left or nobody wants more.

/// One who asks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Claim {
    /// How much it asks for.
    pub(crate) demand: f64,
    /// How many it speaks for, more than 0.
    pub(crate) weight: f64,
    /// What it gets.
    pub(crate) share: f64,
}

impl Claim {
    pub(crate) fn new(demand: f64, weight: f64) -> Self {
        Self {
            demand,
            weight,
            share: 0.0,
        }
    }
}

/// Divides `total` among `claims`. Each round satisfies at least one claim or ends, so there are at most as many as claims;
/// usually three or four.
pub(crate) fn divide(total: f64, claims: &mut [Claim]) {
    let mut left = total.max(0.0);
    let mut weight: f64 = claims.iter().map(|claim| claim.weight).sum();
    for claim in &mut *claims {
        claim.share = -1.0;
    }
    loop {
        let level = if weight > 0.0 { left / weight } else { 0.0 };
        let mut is_settled = true;
        for claim in claims.iter_mut().filter(|claim| claim.share < 0.0) {
            if claim.demand <= level * claim.weight {
                claim.share = claim.demand.max(0.0);
                left = (left - claim.share).max(0.0);
                weight -= claim.weight;
                is_settled = false;
            }
        }
        if is_settled {
            for claim in claims.iter_mut().filter(|claim| claim.share < 0.0) {
                claim.share = level * claim.weight;
            }
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing, reason = "tests")]
    use super::*;
    use proptest::prelude::*;

    fn shares(total: f64, demands: &[(f64, f64)]) -> Vec<f64> {
        let mut claims: Vec<Claim> = demands.iter().map(|(d, w)| Claim::new(*d, *w)).collect();
        divide(total, &mut claims);
        claims.iter().map(|claim| claim.share).collect()
    }

    /// The slow model: pours a drop at a time into every vessel that is not full.
    fn pour(total: f64, demands: &[(f64, f64)]) -> Vec<f64> {
        let mut got = vec![0.0; demands.len()];
        let mut left = total;
        let all: f64 = demands.iter().map(|(_, w)| w).sum();
        let drop = total / all / 20_000.0;
        loop {
            let mut is_full = true;
            for (has, (demand, weight)) in got.iter_mut().zip(demands) {
                let add = (drop * weight).min(demand - *has).min(left);
                if add > 0.0 {
                    *has += add;
                    left -= add;
                    is_full = false;
                }
            }
            if is_full || left <= 0.0 {
                return got;
            }
        }
    }

    #[test]
    fn the_small_get_all_and_the_large_the_rest() {
        assert_eq!(shares(10.0, &[(1.0, 1.0), (30.0, 1.0)]), [1.0, 9.0]);
        assert_eq!(
            shares(9.0, &[(5.0, 1.0), (30.0, 1.0), (7.0, 1.0)]),
            [3.0, 3.0, 3.0]
        );
        assert_eq!(shares(9.0, &[(50.0, 1.0), (30.0, 2.0)]), [3.0, 6.0]);
        assert_eq!(shares(100.0, &[(50.0, 1.0), (30.0, 2.0)]), [50.0, 30.0]);
        assert_eq!(shares(0.0, &[(50.0, 1.0), (0.0, 1.0)]), [0.0, 0.0]);
        assert!(shares(1.0, &[]).is_empty());
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn as_the_slow_model_and_nothing_is_left_over(
            total in 1.0f64..1e6,
            demands in prop::collection::vec((0.0f64..2e5, 1u8..5), 1..20),
        ) {
            let demands: Vec<(f64, f64)> = demands.iter().map(|(d, w)| (*d, f64::from(*w))).collect();
            let fast = shares(total, &demands);
            let slow = pour(total, &demands);
            let tolerance = total * 0.001;
            for (a, b) in fast.iter().zip(&slow) {
                prop_assert!((a - b).abs() <= tolerance, "{fast:?} {slow:?}");
            }
            // Work conserving: all is given, or everybody has what it asked for.
            let wanted: f64 = demands.iter().map(|(d, _)| d).sum();
            let given: f64 = fast.iter().sum();
            prop_assert!((given - wanted.min(total)).abs() <= 1e-6 * total.max(wanted));
        }
    }
}
