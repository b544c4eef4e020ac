//! How often something may be restarted: at most N times within a window.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// A restart budget.
#[derive(Clone, Debug)]
pub struct Budget {
    most: usize,
    window: Duration,
    spent: VecDeque<Instant>,
}

impl Budget {
    /// At most `most` restarts within `window`.
    #[must_use]
    pub fn new(most: u32, window: Duration) -> Self {
        Self {
            most: most as usize,
            window,
            spent: VecDeque::new(),
        }
    }

    /// Spends one restart; false when there is none left.
    pub fn spend(&mut self, now: Instant) -> bool {
        while self
            .spent
            .front()
            .is_some_and(|then| now.saturating_duration_since(*then) >= self.window)
        {
            self.spent.pop_front();
        }
        if self.spent.len() >= self.most {
            return false;
        }
        self.spent.push_back(now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_refills_as_the_window_moves() {
        let start = Instant::now();
        let mut budget = Budget::new(2, Duration::from_secs(10));
        assert!(budget.spend(start));
        assert!(budget.spend(start + Duration::from_secs(5)));
        assert!(!budget.spend(start + Duration::from_secs(9)));
        assert!(budget.spend(start + Duration::from_secs(10)));
        assert!(!budget.spend(start + Duration::from_secs(11)));
    }
}
