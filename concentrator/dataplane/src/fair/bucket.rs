//! Rates: token buckets that several workers draw from without a lock.
//!
//! A rate is one [`Bucket`] for all workers, a single atomic word. Dividing a tenant's rate by the number of workers would
//! give a tenant with one user on one worker a fraction of what it pays for, and exchanging shares would be right only a
//! round later. So each worker holds a [`Lease`] instead: it draws a millisecond's worth at a time and spends it alone. The
//! word is written once for each draw, never for each packet, and the sum over all workers is exact.
//!
//! Admission comes before the work, the charge after it: a packet that turns out to be forged costs its victim nothing. What
//! is admitted may therefore overdraw a lease, by one burst of a peer; the next draw pays it back first.

use std::sync::atomic::{AtomicU64, Ordering};

/// What a lease is filled with at least, as a part of a second.
const DRAW: u64 = 1_000;
/// How much may be saved up, in nanoseconds at the full rate: a pause of this long may be caught up with.
const DEPTH: u64 = 50_000_000;
const SECOND: u64 = 1_000_000_000;

/// Units (octets or packets) of a rate, shared by all workers. The rate is told with each call, and may change.
#[derive(Debug, Default)]
pub(crate) struct Bucket {
    /// When everything drawn so far is paid for, in nanoseconds.
    due: AtomicU64,
}

impl Bucket {
    /// Takes `units` at `now` (nanoseconds) if everything drawn before is paid for, however many they are.
    fn draw(&self, units: u64, rate: u64, now: u64) -> bool {
        let price = u128::from(units) * u128::from(SECOND) / u128::from(rate.max(1));
        let price = u64::try_from(price).unwrap_or(u64::MAX);
        let mut due = self.due.load(Ordering::Relaxed);
        loop {
            if due > now {
                return false;
            }
            let next = due.max(now.saturating_sub(DEPTH)).saturating_add(price);
            match self
                .due
                .compare_exchange_weak(due, next, Ordering::Relaxed, Ordering::Relaxed)
            {
                Ok(_) => return true,
                Err(other) => due = other,
            }
        }
    }
}

/// A worker's part of a bucket.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Lease {
    /// Below zero: spent before it was drawn.
    left: i64,
}

impl Lease {
    /// Whether something may be done at `now` (nanoseconds) with `rate` units a second, 0 for any number. Draws if nothing
    /// is left.
    pub(crate) fn admits(&mut self, bucket: &Bucket, rate: u64, now: u64) -> bool {
        if rate == 0 || self.left > 0 {
            return true;
        }
        let units = self.left.unsigned_abs().saturating_add((rate / DRAW).max(1));
        if !bucket.draw(units, rate, now) {
            return false;
        }
        self.left = self.left.saturating_add(i64::try_from(units).unwrap_or(i64::MAX));
        true
    }

    /// What was done.
    pub(crate) fn charge(&mut self, rate: u64, units: u64) {
        if rate > 0 {
            self.left = self.left.saturating_sub(i64::try_from(units).unwrap_or(i64::MAX));
        }
    }
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]
mod tests {
    use super::*;

    /// Offers `size` units every `gap` nanoseconds for `time`, at the workers in turn; gives what was admitted.
    fn offer(shop: (&Bucket, u64), leases: &mut [Lease], size: u64, gap: u64, start: u64, time: u64) -> u64 {
        let ((bucket, rate), mut admitted, workers) = (shop, 0, leases.len());
        for (turn, now) in (start..start + time)
            .step_by(usize::try_from(gap).unwrap())
            .enumerate()
        {
            let lease = &mut leases[turn % workers];
            if lease.admits(bucket, rate, now) {
                lease.charge(rate, size);
                admitted += size;
            }
        }
        admitted
    }

    #[test]
    fn no_rate_admits_everything_and_remembers_nothing() {
        let bucket = Bucket::default();
        let mut leases = [Lease::default()];
        assert_eq!(
            offer((&bucket, 0), &mut leases, 1400, 1_000, 0, SECOND / 100),
            14_000_000
        );
        assert!(leases[0].admits(&bucket, 1_000, SECOND));
    }

    #[test]
    fn a_rate_holds_over_any_number_of_workers() {
        let start = 10 * SECOND;
        for rate in [2_000, 125_000, 12_500_000, 1_250_000_000_u64] {
            for workers in [1, 2, 8] {
                let bucket = Bucket::default();
                let mut leases = vec![Lease::default(); workers];
                // Three times the rate, in packets of 1,400 octets.
                let gap = (1_400 * SECOND / rate / 3).max(1);
                let time = (SECOND * 2).min(gap * 200_000).max(gap * 3_000);
                let got = offer((&bucket, rate), &mut leases, 1_400, gap, start, time);
                let fair = u128::from(rate) * u128::from(time) / u128::from(SECOND);
                let saved = u128::from(rate) * u128::from(DEPTH) / u128::from(SECOND);
                let slack =
                    1_400 * (workers as u128 + 1) + workers as u128 * u128::from(rate / DRAW) + fair / 200;
                let got = u128::from(got);
                assert!(
                    got <= fair + saved + slack && got + slack >= fair,
                    "rate {rate}, {workers} workers: {got} of {fair}"
                );
            }
        }
    }

    #[test]
    fn what_stays_below_the_rate_is_never_refused() {
        let bucket = Bucket::default();
        let mut leases = [Lease::default(); 2];
        // 0.7 of the rate.
        let (size, gap) = (1_400, 2_000_000);
        let sent = SECOND.div_ceil(gap) * size;
        assert_eq!(
            offer((&bucket, 1_000_000), &mut leases, size, gap, 5 * SECOND, SECOND),
            sent
        );
    }

    #[test]
    fn a_pause_is_caught_up_with_only_so_far() {
        let bucket = Bucket::default();
        let mut leases = [Lease::default()];
        offer((&bucket, 1_000_000), &mut leases, 1_000, 100_000, 0, SECOND);
        // An hour later: the depth and no more at once.
        let got = offer((&bucket, 1_000_000), &mut leases, 1_000, 1, 3_600 * SECOND, 200);
        assert!((50_000..=52_000).contains(&got), "{got}");
    }

    #[test]
    fn a_burst_larger_than_the_rate_is_paid_back() {
        let bucket = Bucket::default();
        let mut leases = [Lease::default()];
        // 60,000 octets once a second, six times the rate: one in six passes, whole.
        let passed = offer(
            (&bucket, 10_000),
            &mut leases,
            60_000,
            SECOND,
            100 * SECOND,
            60 * SECOND,
        ) / 60_000;
        assert!((9..=11).contains(&passed), "{passed}");
    }

    #[test]
    fn a_new_rate_counts_from_now() {
        let bucket = Bucket::default();
        let mut leases = [Lease::default()];
        assert!(offer((&bucket, 1_000), &mut leases, 100, 1_000_000, 0, SECOND) < 1_300);
        assert_eq!(
            offer((&bucket, 0), &mut leases, 100, 1_000_000, SECOND, SECOND),
            100_000
        );
    }
}
