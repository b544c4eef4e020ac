//! A bound on log lines that strangers can cause: at most N a second, the rest is counted and told once.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// A budget of lines for each second.
pub struct LogLimit {
    epoch: Instant,
    most: u64,
    /// The second (upper 32 bits) and the lines written in it (lower 32 bits).
    state: AtomicU64,
    suppressed: AtomicU64,
}

impl LogLimit {
    /// At most `most` lines a second.
    #[must_use]
    pub fn new(most: u32) -> Self {
        Self {
            epoch: Instant::now(),
            most: u64::from(most),
            state: AtomicU64::new(0),
            suppressed: AtomicU64::new(0),
        }
    }

    /// Writes a line, if there is room in this second.
    pub fn run(&self, write: impl FnOnce()) {
        let second = self.epoch.elapsed().as_secs() & 0xffff_ffff;
        let taken = self
            .state
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |state| {
                let lines = if state >> 32 == second {
                    state & 0xffff_ffff
                } else {
                    0
                };
                (lines < self.most).then_some((second << 32) | (lines + 1))
            });
        match taken {
            Ok(before) => {
                if before >> 32 != second {
                    let suppressed = self.suppressed.swap(0, Ordering::AcqRel);
                    if suppressed > 0 {
                        tracing::warn!(suppressed, "log lines were left out");
                    }
                }
                write();
            }
            Err(_) => {
                self.suppressed.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_writes_no_more_than_its_budget() {
        let limit = LogLimit::new(5);
        let mut written = 0;
        for _ in 0..1_000 {
            limit.run(|| written += 1);
        }
        // The second may change once during the test.
        assert!((5..=10).contains(&written), "{written}");
    }
}
