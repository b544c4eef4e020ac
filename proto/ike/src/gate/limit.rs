//! Token buckets of fixed size: one for all error answers, and a table of them for sources.

use std::hash::{DefaultHasher, Hasher};
use std::net::IpAddr;
use std::time::Instant;

/// Buckets for sources. Sources that share one share its rate.
const SOURCES: usize = 4096;

/// How fast a bucket fills, and how much it holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rate {
    /// Tokens a second.
    pub(super) per_sec: u32,
    /// Tokens of a full bucket.
    pub(super) burst: u32,
}

/// A bucket of tokens.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bucket {
    /// Thousandths of a token.
    tokens: u64,
    at: Instant,
}

impl Bucket {
    pub(super) fn full(now: Instant, rate: Rate) -> Self {
        Self {
            tokens: u64::from(rate.burst) * 1000,
            at: now,
        }
    }

    /// Takes a token if there is one.
    pub(super) fn take(&mut self, now: Instant, rate: Rate) -> bool {
        let millis = now.saturating_duration_since(self.at).as_millis();
        if millis > 0 {
            let earned = u64::try_from(millis)
                .unwrap_or(u64::MAX)
                .saturating_mul(u64::from(rate.per_sec));
            let full = u64::from(rate.burst) * 1000;
            self.tokens = self.tokens.saturating_add(earned).min(full);
            self.at = now;
        }
        match self.tokens.checked_sub(1000) {
            Some(left) => {
                self.tokens = left;
                true
            }
            None => false,
        }
    }
}

/// Buckets chosen by a keyed hash of the source: an IPv4 address, or the /64 of an IPv6 one.
pub(super) struct SourceLimits {
    buckets: Box<[Option<Bucket>]>,
    key: u64,
}

impl SourceLimits {
    /// `key` is secret, so that nobody can aim at the bucket of another source.
    pub(super) fn new(key: u64) -> Self {
        Self {
            buckets: vec![None; SOURCES].into_boxed_slice(),
            key,
        }
    }

    /// Takes a token of the source if there is one.
    pub(super) fn take(&mut self, now: Instant, source: IpAddr, rate: Rate) -> bool {
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(self.key);
        match source {
            IpAddr::V4(v4) => hasher.write_u32(v4.to_bits()),
            IpAddr::V6(v6) => hasher.write_u128(v6.to_bits() >> 64),
        }
        let hash = usize::try_from(hasher.finish() % (SOURCES as u64)).unwrap_or(0);
        self.buckets.get_mut(hash).is_some_and(|slot| {
            slot.get_or_insert_with(|| Bucket::full(now, rate))
                .take(now, rate)
        })
    }
}
