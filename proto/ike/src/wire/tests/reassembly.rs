//! Fragments in every order, twice, from several sets, too many, too long, too late.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use crate::wire::protect::Fragment;
use crate::wire::*;

fn fragment(number: u16, total: u16, text: &[u8]) -> Fragment {
    Fragment {
        number,
        total,
        first: if number == 1 {
            PayloadType::IDI
        } else {
            PayloadType::NONE
        },
        plaintext: text.to_vec(),
    }
}

fn complete(text: &[u8]) -> Progress {
    Progress::Complete {
        first: PayloadType::IDI,
        plaintext: text.to_vec(),
    }
}

#[test]
fn fragments_out_of_order_and_twice() {
    let (now, mut queue) = (Instant::now(), Reassembler::new());
    assert_eq!(
        queue.add(now, 1, fragment(3, 3, b"c")),
        Progress::Waiting { have: 1, total: 3 }
    );
    //= rfc7383#section-2.6
    //= type=test
    //# If an IKE Fragment message with the same Message ID, Fragment Number, and Total Fragments fields is already present in the reassembling queue, this message is considered a replay and MUST be silently discarded.
    let again = queue.add(now, 1, fragment(3, 3, b"other"));
    assert_eq!(again, Progress::Ignored(Ignored::Duplicate));
    assert_eq!(
        queue.add(now, 1, fragment(1, 3, b"a")),
        Progress::Waiting { have: 2, total: 3 }
    );
    assert_eq!(queue.add(now, 1, fragment(2, 3, b"b")), complete(b"abc"));
    assert_eq!((queue.octets(), queue.deadline()), (0, None));
}

#[test]
fn a_single_fragment_is_a_message() {
    let mut queue = Reassembler::new();
    assert_eq!(queue.add(Instant::now(), 1, fragment(1, 1, b"a")), complete(b"a"));
}

#[test]
fn a_larger_total_starts_over_and_a_smaller_one_is_old() {
    //= rfc7383#section-2.6
    //= type=test
    //# If reassembling is not finished yet and the Total Fragments field in the received fragment is greater than the Total Fragments field in those fragments that are in the reassembling queue, the receiver MUST discard all received fragments and start the reassembly process over with just the received IKE Fragment message.
    let (now, mut queue) = (Instant::now(), Reassembler::new());
    queue.add(now, 1, fragment(1, 2, b"xx"));
    assert_eq!(
        queue.add(now, 1, fragment(2, 3, b"b")),
        Progress::Waiting { have: 1, total: 3 }
    );
    assert_eq!(queue.octets(), 1);
    let old = queue.add(now, 1, fragment(2, 2, b"yy"));
    assert_eq!(old, Progress::Ignored(Ignored::OlderSet));
    queue.add(now, 1, fragment(1, 3, b"a"));
    assert_eq!(queue.add(now, 1, fragment(3, 3, b"c")), complete(b"abc"));
}

#[test]
fn another_message_starts_over() {
    let (now, mut queue) = (Instant::now(), Reassembler::new());
    queue.add(now, 1, fragment(1, 2, b"old"));
    queue.add(now, 2, fragment(2, 2, b"b"));
    assert_eq!(queue.add(now, 2, fragment(1, 2, b"a")), complete(b"ab"));
}

#[test]
fn numbers_and_totals_are_bounded() {
    let (now, mut queue) = (Instant::now(), Reassembler::new());
    for (number, total) in [(0, 0), (0, 1), (2, 1), (1, limits::FRAGMENTS + 1), (1, u16::MAX)] {
        let ignored = queue.add(now, 1, fragment(number, total, b"a"));
        assert_eq!(ignored, Progress::Ignored(Ignored::Number));
    }
    assert_eq!(queue.octets(), 0);
}

#[test]
fn more_than_a_message_can_hold_is_forgotten() {
    let (now, mut queue) = (Instant::now(), Reassembler::new());
    let big = vec![0; limits::MESSAGE_OCTETS / 2];
    queue.add(now, 1, fragment(1, 3, &big));
    queue.add(now, 1, fragment(2, 3, &big));
    assert_eq!(queue.octets(), limits::MESSAGE_OCTETS);
    let ignored = queue.add(now, 1, fragment(2, 3, &big));
    assert_eq!(
        ignored,
        Progress::Ignored(Ignored::Duplicate),
        "a copy costs nothing"
    );
    let ignored = queue.add(now, 1, fragment(3, 3, b"x"));
    assert_eq!(ignored, Progress::Ignored(Ignored::TooLong));
    assert_eq!(queue.octets(), 0);
}

#[test]
fn what_is_never_finished_is_forgotten_in_time() {
    let (mut now, mut queue) = (Instant::now(), Reassembler::new());
    queue.add(now, 1, fragment(1, 2, b"a"));
    assert_eq!(queue.deadline(), Some(now + REASSEMBLY_TIME));
    now += REASSEMBLY_TIME - Duration::from_millis(1);
    assert!(!queue.expire(now));
    now += Duration::from_millis(1);
    assert!(queue.expire(now) && !queue.expire(now));
    assert_eq!(queue.octets(), 0);

    queue.add(now, 1, fragment(1, 2, b"a"));
    now += REASSEMBLY_TIME;
    let late = queue.add(now, 1, fragment(2, 2, b"b"));
    assert_eq!(
        late,
        Progress::Waiting { have: 1, total: 2 },
        "the first part was too old"
    );
    queue.clear();
    assert_eq!(queue.octets(), 0);
}

proptest! {
    #[test]
    fn any_order_with_any_copies_gives_the_text(
        text in prop::collection::vec(any::<u8>(), 1..300),
        size in 5..50_usize,
        order in prop::collection::vec(any::<prop::sample::Index>(), 0..100),
        seed in any::<u64>(),
    ) {
        let total = u16::try_from(text.len().div_ceil(size)).unwrap();
        let pieces: Vec<_> = (1..).zip(text.chunks(size)).map(|(number, chunk)| fragment(number, total, chunk)).collect();
        let mut queue = Reassembler::new();
        let now = Instant::now();
        let rotation = usize::try_from(seed % u64::from(total)).unwrap();
        let rest = (0..pieces.len()).map(|index| (index + rotation) % pieces.len());
        let mut done = None;
        for index in order.iter().map(|index| index.index(pieces.len())).chain(rest) {
            prop_assert!(queue.octets() <= text.len());
            if let Progress::Complete { first, plaintext } = queue.add(now, 7, pieces[index].clone()) {
                done = Some((first, plaintext));
                break;
            }
        }
        prop_assert_eq!(done, Some((PayloadType::IDI, text)));
    }
}
