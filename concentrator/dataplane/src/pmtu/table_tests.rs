#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use proptest::prelude::*;

use super::*;

fn piece(id: u32, start: usize, end: usize) -> Piece {
    Piece {
        src: [10, 0, 0, 1].into(),
        dst: [10, 0, 0, 2].into(),
        protocol: 17,
        id,
        start,
        end,
        more: true,
    }
}

#[test]
fn later_fragments_follow_their_first_on_its_sa_and_way_alone() {
    let (mut table, now) = (Fragments::new(), Instant::now());
    assert_eq!(table.later(1, Way::In, &piece(5, 800, 1600), now), Pass::Unknown);
    table.first(1, Way::In, &piece(5, 0, 800), now);
    assert_eq!(table.later(2, Way::In, &piece(5, 800, 1600), now), Pass::Unknown);
    assert_eq!(table.later(1, Way::Out, &piece(5, 800, 1600), now), Pass::Unknown);
    assert_eq!(table.later(1, Way::In, &piece(6, 800, 1600), now), Pass::Unknown);
    assert_eq!(
        table.later(1, Way::In, &piece(5, 1600, 2000), now),
        Pass::Yes,
        "a gap"
    );
    assert_eq!(table.later(1, Way::In, &piece(5, 800, 1600), now), Pass::Yes);
}

#[test]
fn an_overlap_ends_the_packet() {
    let (mut table, now) = (Fragments::new(), Instant::now());
    for (start, end) in [(792, 1000), (0, 8), (400, 408)] {
        table.first(1, Way::In, &piece(5, 0, 800), now);
        assert_eq!(
            table.later(1, Way::In, &piece(5, start, end), now),
            Pass::Overlaps
        );
        assert_eq!(table.later(1, Way::In, &piece(5, 800, 1600), now), Pass::Unknown);
    }
    assert!(table.packets.is_empty() && table.of_place.is_empty());
    // A second first fragment begins anew: numbers come again.
    table.first(1, Way::In, &piece(5, 0, 800), now);
    assert_eq!(table.later(1, Way::In, &piece(5, 800, 1600), now), Pass::Yes);
    table.first(1, Way::In, &piece(5, 0, 800), now);
    assert_eq!(table.later(1, Way::In, &piece(5, 800, 1600), now), Pass::Yes);
}

#[test]
fn a_whole_packet_leaves_nothing_behind() {
    let (mut table, now) = (Fragments::new(), Instant::now());
    table.first(1, Way::In, &piece(5, 0, 800), now);
    let end = Piece {
        more: false,
        ..piece(5, 1600, 1700)
    };
    assert_eq!(table.later(1, Way::In, &end, now), Pass::Yes);
    assert!(table.knows(1, Way::In, &piece(5, 0, 0)));
    assert_eq!(table.later(1, Way::In, &piece(5, 800, 1600), now), Pass::Yes);
    assert!(table.packets.is_empty() && table.of_place.is_empty());
}

#[test]
fn fragments_that_come_too_late_are_unknown() {
    let (mut table, now) = (Fragments::new(), Instant::now());
    table.first(1, Way::In, &piece(5, 0, 800), now);
    let just = now + PATIENCE - Duration::from_millis(1);
    assert_eq!(table.later(1, Way::In, &piece(5, 800, 1600), just), Pass::Yes);
    assert_eq!(
        table.later(1, Way::In, &piece(5, 1600, 1800), now + PATIENCE),
        Pass::Unknown
    );
    assert!(table.packets.is_empty() && table.order.is_empty());
}

#[test]
fn memory_is_bounded_for_one_sa_and_for_all() {
    let (mut table, now) = (Fragments::new(), Instant::now());
    for id in 0..1000 {
        table.first(7, Way::In, &piece(id, 0, 800), now);
    }
    assert_eq!(table.packets.len(), usize::from(PACKETS_OF_ONE));
    assert_eq!(
        table.later(7, Way::In, &piece(3, 800, 808), now),
        Pass::Yes,
        "the first ones stay"
    );
    for place in 0..200 {
        for id in 0..64 {
            table.first(place, Way::Out, &piece(id, 0, 800), now);
        }
    }
    assert!(table.packets.len() <= PACKETS && table.order.len() <= 2 * PACKETS);
    // The newest are there, the oldest have made room.
    assert_eq!(table.later(199, Way::Out, &piece(63, 800, 808), now), Pass::Yes);
    assert_eq!(table.later(0, Way::Out, &piece(0, 800, 808), now), Pass::Unknown);
    // Many that end by an overlap leave nothing behind either.
    for id in 0..100_000u32 {
        table.first(1, Way::In, &piece(id, 0, 800), now);
        table.later(1, Way::In, &piece(id, 0, 800), now);
    }
    assert!(table.order.len() <= 2 * PACKETS);
    let counted: usize = table.of_place.values().map(|count| usize::from(*count)).sum();
    assert_eq!(counted, table.packets.len());
}

proptest! {
    /// Against a model that marks every octet.
    #[test]
    fn ranges_are_those_of_a_bitmap(parts in proptest::collection::vec((1usize..40, 1usize..6), 1..30)) {
        let mut seen = Seen { since: Instant::now(), ranges: vec![(0, 8)], last: None };
        let mut marks = vec![false; 400];
        marks[..8].fill(true);
        for (start, len) in parts {
            let (start, end) = (start * 8, (start + len) * 8);
            let is_free = marks[start..end].iter().all(|mark| !mark);
            let islands = |marks: &[bool]| marks.windows(2).filter(|w| !w[0] && w[1]).count() + usize::from(marks[0]);
            let mut after = marks.clone();
            after[start..end].fill(true);
            let fits = islands(&after) <= RANGES;
            prop_assert_eq!(seen.add(start, end), is_free && fits);
            if is_free && fits {
                marks = after;
            }
            prop_assert_eq!(seen.ranges.len(), islands(&marks));
        }
    }
}
