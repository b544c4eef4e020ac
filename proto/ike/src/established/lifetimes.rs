//! When SAs are replaced and when they end.

use std::time::{Duration, Instant};

use crypto::Random;

use crate::types::{Lifetime, RekeyPolicy};

/// Soft limits are brought forward by up to this part of themselves, so that two ends with the same policy do not start at
/// once.
//= rfc7296#section-2.8.1
//# To reduce the probability of this happening, the timing of rekeying requests SHOULD be jittered (delayed by a random amount of time after the need for rekeying is noticed).
const JITTER_PARTS: u32 = 10;

/// A rekey that waits for the hard limit starts this part of the lifetime before it, but not earlier than [`MAX_MARGIN`].
const MARGIN_PARTS: u32 = 10;

/// The most time between a rekey that waits for the hard limit and that limit.
const MAX_MARGIN: Duration = Duration::from_secs(120);

/// Deadlines of one SA.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Clock {
    /// When to replace it.
    pub(super) soft_at: Option<Instant>,
    /// When it ends.
    pub(super) hard_at: Option<Instant>,
}

impl Clock {
    /// The deadlines of an SA that begins now.
    pub(super) fn start(now: Instant, life: &Lifetime, rekey: RekeyPolicy, random: &mut dyn Random) -> Self {
        let late = life
            .hard
            .map(|hard| hard.saturating_sub((hard / MARGIN_PARTS).min(MAX_MARGIN)));
        let soft = match rekey {
            RekeyPolicy::AtSoftLimit => match life.soft {
                Some(soft) => Some(soft.saturating_sub(jitter(soft / JITTER_PARTS, random))),
                None => late,
            },
            RekeyPolicy::BeforeHardLimit => late,
            RekeyPolicy::Never => None,
        };
        Self {
            soft_at: soft.map(|soft| now + soft),
            hard_at: life.hard.map(|hard| now + hard),
        }
    }
}

/// A random part of `most`.
pub(super) fn jitter(most: Duration, random: &mut dyn Random) -> Duration {
    most.mul_f64(f64::from(random.u32()) / f64::from(u32::MAX))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crypto::SeededRandom;

    const LIFE: Lifetime = Lifetime {
        soft: Some(Duration::from_secs(3000)),
        hard: Some(Duration::from_secs(3600)),
        soft_octets: None,
        hard_octets: None,
    };

    #[test]
    fn soft_limits_are_jittered_and_come_before_hard_ones() {
        //= rfc7296#section-2.8.1
        //= type=test
        //# To reduce the probability of this happening, the timing of rekeying requests SHOULD be jittered (delayed by a random amount of time after the need for rekeying is noticed).
        let now = crate::established::tests::epoch();
        let mut random = SeededRandom::from_seed(3);
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..50 {
            let clock = Clock::start(now, &LIFE, RekeyPolicy::AtSoftLimit, &mut random);
            let soft = clock.soft_at.unwrap() - now;
            assert!((2700..=3000).contains(&soft.as_secs()), "{soft:?}");
            assert_eq!(clock.hard_at.unwrap() - now, Duration::from_secs(3600));
            seen.insert(soft);
        }
        assert!(seen.len() > 40);
    }

    #[test]
    fn clients_that_refuse_rekeys_are_left_alone_until_just_before_the_hard_limit() {
        let now = crate::established::tests::epoch();
        let mut random = SeededRandom::from_seed(3);
        let late = Clock::start(now, &LIFE, RekeyPolicy::BeforeHardLimit, &mut random);
        assert_eq!(late.soft_at.unwrap() - now, Duration::from_secs(3480));
        let never = Clock::start(now, &LIFE, RekeyPolicy::Never, &mut random);
        assert_eq!(never.soft_at, None);
        assert!(never.hard_at.is_some());
    }
}
