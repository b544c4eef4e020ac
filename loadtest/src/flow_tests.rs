//! The flow's bookkeeping against a model that remembers everything.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

const INTERVAL: u64 = 50_000;
const GAP: u64 = 60_000;

/// What the network does to one packet.
#[derive(Clone, Copy, Debug)]
struct Fate {
    delay: u64,
    lost: bool,
    again: Option<u64>,
}

fn fate() -> impl Strategy<Value = Fate> {
    // Mostly quick, sometimes slow, sometimes later than late.
    let delay = prop_oneof![8 => 100u64..30_000, 2 => 30_000u64..400_000, 1 => LATE - 1000..LATE + 200_000];
    let again = prop_oneof![5 => Just(None), 1 => (100u64..900_000).prop_map(Some)];
    let lost = prop_oneof![3 => Just(false), 1 => Just(true)];
    (delay, lost, again).prop_map(|(delay, lost, again)| Fate { delay, lost, again })
}

proptest! {
    #[test]
    fn every_packet_ends_in_one_count_and_every_gap_is_seen(fates in proptest::collection::vec(fate(), 1..300)) {
        let mut arrivals: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        for (number, fate) in fates.iter().enumerate() {
            let sent = number as u64 * INTERVAL;
            if !fate.lost {
                arrivals.entry(sent + fate.delay).or_default().push(number as u64);
                if let Some(again) = fate.again {
                    arrivals.entry(sent + fate.delay + again).or_default().push(number as u64);
                }
            }
        }
        let sends: BTreeSet<u64> = (0..fates.len() as u64).map(|number| number * INTERVAL).collect();
        let times: BTreeSet<u64> = sends.iter().chain(arrivals.keys()).copied().collect();
        let end = times.last().unwrap() + 1;

        let mut flow = Flow::new(INTERVAL, GAP);
        let (mut answered, mut counted, mut highest, mut reordered) = (BTreeSet::new(), Vec::new(), 0, 0);
        let (mut duplicates, mut late) = (0, 0);
        for at in &times {
            if sends.contains(at) {
                prop_assert_eq!(flow.sent(*at), at / INTERVAL);
            }
            flow.settle(*at);
            for number in arrivals.get(at).into_iter().flatten() {
                let verdict = flow.received(*at, *number);
                if number * INTERVAL + LATE <= *at {
                    late += 1;
                    prop_assert_eq!(verdict, Verdict::Late);
                } else if answered.insert(*number) {
                    prop_assert_eq!(verdict, Verdict::Counted { round_trip: at - number * INTERVAL });
                    reordered += u64::from(*number < highest);
                    highest = highest.max(*number);
                    counted.push(*at);
                } else {
                    duplicates += 1;
                    prop_assert_eq!(verdict, Verdict::Duplicate);
                }
            }
        }
        flow.close(end);

        let tally = flow.tally();
        let lost = fates.len() as u64 - answered.len() as u64;
        prop_assert_eq!((tally.sent, tally.received, tally.lost), (fates.len() as u64, answered.len() as u64, lost));
        prop_assert_eq!((tally.duplicated, tally.late, tally.reordered), (duplicates, late, reordered));
        prop_assert_eq!(flow.losses().iter().map(|loss| loss.packets).sum::<u64>(), lost);
        for (loss, next) in flow.losses().iter().zip(flow.losses().iter().skip(1)) {
            prop_assert!(loss.to + INTERVAL < next.from, "{:?} and {:?} touch", loss, next);
        }
        let points: Vec<u64> = std::iter::once(0).chain(counted).chain([end]).collect();
        let gaps: Vec<Silence> = points
            .windows(2)
            .map(|pair| Silence { from: pair[0], to: pair[1] })
            .filter(|gap| gap.length() > GAP)
            .collect();
        prop_assert_eq!(flow.silences(), &gaps[..]);
    }
}

#[test]
fn lists_are_bounded_and_the_longest_silence_stays() {
    let mut flow = Flow::new(INTERVAL, GAP);
    let mut at = 0;
    for round in 0..(MAX_SILENCES as u64 + 500) {
        let number = flow.sent(at);
        at += if round == 10 {
            9_000_000
        } else {
            100_000 + round % 7
        };
        // Number 10 is given up before its answer comes.
        flow.received(at, number);
        flow.sent(at);
        flow.settle(at);
    }
    assert_eq!(flow.silences().len(), MAX_SILENCES);
    assert!(flow.tally().silences_dropped >= 499);
    let longest = flow.silences().iter().map(Silence::length).max();
    assert_eq!(longest, Some(9_000_000));
    let mut busy = Flow::new(1, GAP);
    for _ in 0..MAX_PENDING + 10 {
        busy.sent(1);
    }
    assert_eq!(busy.tally().lost, 10);
}

#[test]
fn nothing_is_silent_before_the_first_packet_or_after_the_end() {
    let mut flow = Flow::new(INTERVAL, GAP);
    assert_eq!(flow.open_silence(1_000_000), None);
    let number = flow.sent(2_000_000);
    assert_eq!(flow.open_silence(2_500_000).unwrap().length(), 500_000);
    assert_eq!(
        flow.received(2_001_000, number),
        Verdict::Counted { round_trip: 1000 }
    );
    flow.stop(2_030_000);
    assert_eq!(flow.open_silence(9_000_000).unwrap().length(), 29_000);
    flow.close(9_000_000);
    assert_eq!((flow.silences(), flow.losses()), (&[][..], &[][..]));
    assert_eq!(flow.received(9_000_001, 77), Verdict::Unknown);
    assert_eq!(flow.tally().damaged, 1);
}
