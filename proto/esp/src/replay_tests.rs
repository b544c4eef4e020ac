//! The replay window against a set of every number ever received, and against RFC 4303's pseudo code.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

/// Remembers everything.
struct Model {
    window: u64,
    floor: u64,
    seen: BTreeSet<u64>,
}

impl Model {
    fn top(&self) -> u64 {
        self.seen.last().copied().unwrap_or(0).max(self.floor)
    }

    fn accept(&mut self, seq: u64) -> bool {
        let fresh = seq > self.floor && seq + self.window > self.top() && !self.seen.contains(&seq);
        if fresh {
            self.seen.insert(seq);
        }
        fresh
    }
}

/// Steps relative to the top: mostly near it, now and then a leap.
fn step() -> impl Strategy<Value = i64> {
    prop_oneof![
        6 => -80i64..80,
        3 => -5000i64..5000,
        1 => -(1i64 << 33)..(1i64 << 33),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn window_equals_the_model(window in prop_oneof![Just(32u32), Just(64), Just(65), Just(128), Just(1000), Just(4096), 1u32..5000],
        checkpoint in prop_oneof![Just(0u64), 0u64..10_000, Just(u64::from(u32::MAX))],
        steps in prop::collection::vec(step(), 1..300)) {
        let mut real = ReplayWindow::new(window, checkpoint);
        let mut model = Model { window: u64::from(real.width()), floor: checkpoint, seen: BTreeSet::new() };
        prop_assert_eq!(real.width(), window.clamp(32, 4096));
        for step in steps {
            let seq = real.top().saturating_add_signed(step);
            let checked = real.check(seq);
            let accepted = real.accept(seq);
            prop_assert_eq!(checked, accepted);
            prop_assert_eq!(accepted.is_ok(), model.accept(seq), "seq {} top {}", seq, real.top());
            prop_assert_eq!(real.top(), model.top());
            if let Err(reason) = accepted {
                let old = seq + model.window <= model.top();
                let expect = match (seq, old) {
                    (0, _) => DropReason::SequenceZero,
                    (_, true) => DropReason::ReplayOld,
                    (_, false) => DropReason::ReplayDuplicate,
                };
                prop_assert_eq!(reason, expect);
            }
        }
    }

    /// The next numbers at once, or one after the other: whatever had been received before, and whatever comes after.
    #[test]
    fn the_next_at_once_are_the_next_one_by_one(window in prop_oneof![Just(32u32), Just(64), Just(65), 1u32..5000],
        checkpoint in prop_oneof![Just(0u64), 0u64..10_000], steps in prop::collection::vec((-80i64..80, 0u64..=64), 1..40)) {
        let mut at_once = ReplayWindow::new(window, checkpoint);
        let mut one_by_one = at_once.clone();
        for (step, count) in steps {
            let seq = at_once.top().saturating_add_signed(step);
            prop_assert_eq!(at_once.accept(seq), one_by_one.accept(seq));
            at_once.accept_next(count);
            for _ in 0..count {
                one_by_one.accept(one_by_one.top() + 1).unwrap();
            }
            prop_assert_eq!(at_once.top(), one_by_one.top());
            for seq in at_once.top().saturating_sub(u64::from(window) + 70)..=at_once.top() + 1 {
                prop_assert_eq!(at_once.check(seq), one_by_one.check(seq), "seq {} top {}", seq, at_once.top());
            }
        }
    }

    /// Whatever lies within the window or less than 2^32 - W above it is recognised by its low half.
    #[test]
    fn extension_inverts_truncation(window in 32u32..=4096, top in prop_oneof![0u64..10_000, (1u64 << 32) - 5000..(1 << 32) + 5000, any::<u32>().prop_map(|n| u64::from(n) << 20)],
        ahead in prop_oneof![0u64..10_000, 0u64..(1 << 32) - 5000], behind in 0u64..4096) {
        let real = ReplayWindow::new(window, top);
        let above = top + ahead;
        prop_assert_eq!(real.extend(above as u32), Some(above));
        let below = behind.min(u64::from(window) - 1);
        if let Some(seq) = top.checked_sub(below) {
            prop_assert_eq!(real.extend(seq as u32), Some(seq));
        }
    }

    /// RFC 4303 appendix A2.3, word for word in 32-bit arithmetic.
    #[test]
    fn extension_equals_the_pseudo_code(window in 32u32..=4096, th in 1u32..u32::MAX, tl in prop_oneof![0u32..10_000, any::<u32>()], seql in prop_oneof![0u32..10_000, any::<u32>()]) {
        let real = ReplayWindow::new(window, u64::from(th) << 32 | u64::from(tl));
        let bl = tl.wrapping_sub(window).wrapping_add(1);
        let seqh = if tl >= window - 1 {
            if seql >= bl { th } else { th.wrapping_add(1) }
        } else if seql >= bl { th.wrapping_sub(1) } else { th };
        prop_assert_eq!(real.extend(seql), Some(u64::from(seqh) << 32 | u64::from(seql)));
    }
}

//= rfc4303#section-3.4.3
//= type=test
//# The receive window is updated only if the integrity verification succeeds.
#[test]
fn checking_changes_nothing() {
    let window = ReplayWindow::new(64, 0);
    for seq in [1, 5, 1 << 40] {
        assert_eq!(window.check(seq), Ok(()));
    }
    assert_eq!(window.top(), 0);
}

#[test]
fn the_edges_of_the_window() {
    let mut w = ReplayWindow::new(64, 0);
    assert_eq!(w.accept(0), Err(DropReason::SequenceZero));
    w.accept(100).unwrap();
    assert_eq!(w.accept(100), Err(DropReason::ReplayDuplicate));
    assert_eq!(w.accept(36), Err(DropReason::ReplayOld));
    assert_eq!(w.accept(37), Ok(()));
    assert_eq!(w.accept(37), Err(DropReason::ReplayDuplicate));
    // A leap of 2^31 empties the window.
    w.accept(100 + (1 << 31)).unwrap();
    assert_eq!(w.accept(101), Err(DropReason::ReplayOld));
    assert_eq!(w.accept(100 + (1 << 31) - 63), Ok(()));
}

#[test]
fn numbers_below_zero_do_not_exist() {
    let w = ReplayWindow::new(64, 3);
    assert_eq!(w.extend(u32::MAX), None);
    assert_eq!(w.extend(4), Some(4));
    let last = ReplayWindow::new(64, u64::MAX);
    assert_eq!(last.extend(5), None);
    assert_eq!(last.extend(u32::MAX - 3), Some(u64::MAX - 3));
}

#[test]
fn a_checkpoint_refuses_what_came_before_it() {
    let mut w = ReplayWindow::new(128, 1000);
    assert_eq!(w.accept(1000), Err(DropReason::ReplayDuplicate));
    assert_eq!(w.accept(990), Err(DropReason::ReplayDuplicate));
    assert_eq!(w.accept(872), Err(DropReason::ReplayOld));
    assert_eq!(w.accept(1002), Ok(()));
    assert_eq!(w.accept(1001), Ok(()));
    assert_eq!(w.accept(1000), Err(DropReason::ReplayDuplicate));
}
