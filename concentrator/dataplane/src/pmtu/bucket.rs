//! A token bucket, for the ICMP errors that packets cause.

use std::time::Instant;

/// Tokens that come back steadily: at most a second's worth is kept.
#[derive(Debug)]
pub(crate) struct Bucket {
    /// Millionths of a token.
    level: u64,
    per_second: u64,
    filled: Instant,
}

const TOKEN: u64 = 1_000_000;

impl Bucket {
    pub(crate) fn new(per_second: u32, now: Instant) -> Self {
        Self {
            level: u64::from(per_second) * TOKEN,
            per_second: per_second.into(),
            filled: now,
        }
    }

    /// Takes a token if there is one. A bucket is what RFC 4443 section 2.4 (f) asks for, and RFC 1812 section 4.3.2.8.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let micros = now.saturating_duration_since(self.filled).as_micros();
        let micros = u64::try_from(micros).unwrap_or(u64::MAX).min(1_000_000);
        self.filled = now;
        self.level = (self.level + micros * self.per_second).min(self.per_second * TOKEN);
        let has_one = self.level >= TOKEN;
        if has_one {
            self.level -= TOKEN;
        }
        has_one
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_burst_passes_and_then_only_the_rate() {
        let start = Instant::now();
        let mut bucket = Bucket::new(100, start);
        let taken = |bucket: &mut Bucket, now| (0..1000).filter(|_| bucket.take(now)).count();
        assert_eq!(taken(&mut bucket, start), 100);
        assert_eq!(taken(&mut bucket, start + Duration::from_millis(50)), 5);
        assert_eq!(taken(&mut bucket, start + Duration::from_millis(51)), 0);
        assert_eq!(taken(&mut bucket, start + Duration::from_secs(3600)), 100);
        let steady =
            (1..=1000).filter(|i| bucket.take(start + Duration::from_secs(3600) + Duration::from_millis(*i)));
        assert_eq!(steady.count(), 100, "a hundred in a second");
    }
}
