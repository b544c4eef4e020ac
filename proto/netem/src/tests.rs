//! A link does what its profile says, and the same again for the same seed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]
#![allow(
    clippy::disallowed_methods,
    reason = "an instant can only be had from the clock; no test depends on its value"
)]

use super::*;
use proptest::prelude::*;

const MS: Duration = Duration::from_millis(1);

/// Sends `count` packets a millisecond apart and collects (number, milliseconds from the start).
fn run(profile: Profile, seed: u64, count: u32) -> (Vec<(u32, u128)>, Counters) {
    let start = Instant::now();
    let mut link = Link::new(profile, seed).unwrap();
    let mut out = Vec::new();
    for tick in 0..count + 10_000 {
        let now = start + MS * tick;
        if tick < count {
            link.send(now, 100, tick);
        }
        while let Some(n) = link.poll(now) {
            out.push((n, (now - start).as_millis()));
        }
    }
    assert_eq!((link.in_flight(), link.deadline()), (0, None));
    (out, link.counters())
}

#[test]
fn a_perfect_link_is_a_queue() {
    let (out, counters) = run(Profile::default(), 1, 50);
    assert_eq!(out, (0..50).map(|n| (n, u128::from(n))).collect::<Vec<_>>());
    assert_eq!(
        counters,
        Counters {
            sent: 50,
            delivered: 50,
            ..Counters::default()
        }
    );
}

#[test]
fn probabilities_are_met_and_seeds_repeat() {
    let profile = Profile {
        delay: MS * 5,
        jitter: MS * 20,
        loss: 0.1,
        duplicate: 0.05,
        reorder: 0.2,
        ..Profile::default()
    };
    let (out, counters) = run(profile, 42, 10_000);
    assert!((900..1100).contains(&counters.lost), "{counters:?}");
    assert!((400..550).contains(&counters.duplicated), "{counters:?}");
    assert!((1700..2000).contains(&counters.reordered), "{counters:?}");
    assert_eq!(counters.delivered, 10_000 - counters.lost + counters.duplicated);
    assert_eq!(out.len() as u64, counters.delivered);
    assert!(out.windows(2).any(|w| w[0].0 > w[1].0));
    assert_eq!(run(profile, 42, 10_000).0, out);
    assert_ne!(run(profile, 43, 10_000).0, out);
}

#[test]
fn rate_spaces_packets_and_the_queue_overflows() {
    let profile = Profile {
        rate: 10_000,
        queue: 5,
        ..Profile::default()
    };
    let start = Instant::now();
    let mut link = Link::new(profile, 1).unwrap();
    let fates: Vec<Fate> = (0..8).map(|n| link.send(start, 100, n)).collect();
    assert_eq!(fates[..5], [Fate::Queued; 5]);
    assert_eq!(fates[5..], [Fate::QueueFull; 3]);
    for n in 0..5 {
        let due = link.deadline().unwrap();
        assert_eq!(due - start, MS * 10 * (n as u32 + 1));
        assert_eq!(link.poll(due), Some(n));
    }
}

#[test]
fn size_and_nonsense_are_refused() {
    let mut link = Link::new(
        Profile {
            mtu: 1000,
            ..Profile::default()
        },
        1,
    )
    .unwrap();
    let now = Instant::now();
    assert_eq!(link.send(now, 1001, ()), Fate::TooLarge);
    assert_eq!(link.send(now, 1000, ()), Fate::Queued);
    assert!(
        Link::<()>::new(
            Profile {
                loss: 1.1,
                ..Profile::default()
            },
            1
        )
        .is_err()
    );
    assert!(
        link.set_profile(Profile {
            reorder: f64::NAN,
            ..Profile::default()
        })
        .is_err()
    );
    link.set_profile(Profile {
        loss: 1.0,
        ..Profile::default()
    })
    .unwrap();
    assert_eq!(link.send(now, 1, ()), Fate::Lost);
}

proptest! {
    #[test]
    fn order_is_kept_without_reordering(jitter in 0u32..50, loss in 0.0f64..0.9, seed: u64) {
        let profile = Profile { delay: MS * 3, jitter: MS * jitter, loss, ..Profile::default() };
        let (out, counters) = run(profile, seed, 200);
        prop_assert!(out.windows(2).all(|w| w[0].0 < w[1].0 && w[0].1 <= w[1].1));
        prop_assert!(out.iter().all(|(n, at)| *at >= u128::from(*n) + 3));
        prop_assert_eq!(counters.delivered + counters.lost, 200);
    }
}
