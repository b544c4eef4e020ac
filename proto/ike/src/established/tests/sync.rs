//! Message IDs after a takeover, synchronized: both roles, what is lost, repeated, forgotten on the way.

use super::takeover::{check_both_ways, ids, lagging, lagging_of};
use super::*;
use crate::established::sync::SyncData;
use crate::wire::Notify;

fn sync_of(seen: &Seen) -> (u32, u32, u32, [u8; 4]) {
    assert_eq!(seen.header.message_id, 0);
    assert_eq!(seen.header.exchange, ExchangeType::INFORMATIONAL);
    assert!(seen.is_only(NotifyType::IKEV2_MESSAGE_ID_SYNC));
    let Payload::Notify(notify) = &seen.payloads[0] else {
        panic!("{seen:?}");
    };
    let data = &notify.data;
    assert_eq!(data.len(), 12);
    let word = |at: usize| u32::from_be_bytes(data[at..at + 4].try_into().unwrap());
    (word(0), word(4), word(8), data[..4].try_into().unwrap())
}

fn sync_payload(send: u32, receive: u32) -> Payload {
    let mut data = vec![7; 4];
    data.extend(send.to_be_bytes());
    data.extend(receive.to_be_bytes());
    Payload::Notify(Notify::with_data(NotifyType::IKEV2_MESSAGE_ID_SYNC, data))
}

/// A request of B with message ID zero.
fn zero_request(pair: &mut Pair, payloads: &[Payload]) -> Letter {
    pair.command_b(Command::CheckLiveness);
    let mut letter = pair.hold_b();
    pair.b.core.current.window.pending = None;
    letter.seen.as_mut().unwrap().header.message_id = 0;
    pair.b.reseal(&letter, payloads)
}

#[test]
fn the_newly_active_member_synchronizes_and_both_ways_work() {
    //= rfc6311#section-5.1
    //= type=test
    //# The request and the response MUST both be sent with a Message ID value of zero.
    //= rfc6311#section-5.1
    //= type=test
    //# M1 MUST be chosen so that it is larger than any value known to have been used.
    //= rfc6311#section-5.1
    //= type=test
    //# P2 MUST be the higher of the received P1 value, and one more than the highest sender value used by the peer.
    let (mut pair, record) = lagging(true, 5, 3);
    pair.b.take_over(pair.now, record, None, 2, Timing::default());
    assert_eq!(ids(&pair.b), (0, 2));
    pair.now = pair.b.core.deadline().unwrap().0;
    assert_eq!(pair.b.core.deadline().unwrap().1, "takeover");
    pair.fire();
    let asked = pair.reach_a();
    let (nonce, m1, p1, _) = sync_of(&asked);
    assert!(m1 > 3 && p1 == 2, "{m1} {p1}");
    let answer = pair.reach_b();
    let (back, p2, m2, _) = sync_of(&answer);
    assert_eq!((back, p2, m2), (nonce, 7, m1));
    assert_eq!(ids(&pair.b), (m1 + 1, 7), "an ordinary exchange follows at once");
    assert_eq!(ids(&pair.a), (7, m1));
    pair.settle();
    assert_eq!(pair.b.core.counters().message_id_syncs, 1);
    assert_eq!(pair.a.core.counters().message_id_syncs, 1);
    assert!(pair.b.core.takeover.is_none());
    check_both_ways(&mut pair);
}

#[test]
fn a_synchronization_without_an_answer_is_never_repeated_as_it_was() {
    //= rfc6311#section-5.1
    //= type=test
    //# The peer MUST silently drop any received synchronization message if M1 is lower than or equal to the highest value it has seen from the cluster.
    let (mut pair, record) = lagging(true, 2, 2);
    pair.b.take_over(pair.now, record, None, 2, Timing::default());
    pair.now = pair.b.core.deadline().unwrap().0;
    pair.fire();
    let first = pair.hold_b();
    pair.give_a(&first);
    let lost = pair.hold_a();
    // The request again, from the network: dropped in silence.
    let unexpected = pair.a.core.counters().unexpected;
    pair.give_a(&first);
    assert!(pair.a.out.is_empty());
    assert_eq!(pair.a.core.counters().unexpected, unexpected + 1);
    pair.now = pair.b.core.deadline().unwrap().0;
    pair.fire();
    let second = pair.hold_b();
    let (a, b) = (
        sync_of(first.seen.as_ref().unwrap()),
        sync_of(second.seen.as_ref().unwrap()),
    );
    assert!(b.1 > a.1 && b.0 != a.0, "{a:?} {b:?}");
    //= rfc6311#section-5.1
    //= type=test
    //# A response MUST be silently dropped if the received nonce does not match the one that was sent.
    pair.give_b(&lost);
    assert!(pair.b.out.is_empty() && pair.b.core.takeover.is_some());
    pair.give_a(&second);
    pair.give_a(&first);
    let answer = pair.hold_a();
    pair.give_b(&answer);
    let after = ids(&pair.b);
    pair.give_b(&answer);
    assert_eq!(ids(&pair.b), after, "the same response is not processed again");
    pair.settle();
    check_both_ways(&mut pair);
}

#[test]
fn a_peer_keeps_to_the_rules_of_a_synchronization() {
    //= rfc6311#section-5.1
    //= type=test
    //# Both the request and the response MUST NOT contain any additional payloads, other than an optional IPSEC_REPLAY_COUNTER_SYNC notification in the request.
    let (mut pair, _) = lagging(true, 4, 5);
    assert_eq!(ids(&pair.a), (6, 5));
    let noise = Payload::Notify(Notify::new(NotifyType::INITIAL_CONTACT));
    let short = Payload::Notify(Notify::with_data(NotifyType::IKEV2_MESSAGE_ID_SYNC, vec![1; 11]));
    for payloads in [
        vec![sync_payload(90, 6), noise.clone()],
        vec![noise, sync_payload(90, 6)],
        vec![short],
        // Lower than what was seen, and equal to it.
        vec![sync_payload(3, 90)],
        vec![sync_payload(4, 90)],
    ] {
        let letter = zero_request(&mut pair, &payloads);
        pair.give_a(&letter);
        assert!(pair.a.out.is_empty(), "{payloads:?}");
        assert_eq!(ids(&pair.a), (6, 5));
    }
    // Higher values are taken over, our own where it is higher.
    for (asked, expected) in [((5, 6), (6, 5)), ((6, 2), (6, 6)), ((20, 30), (30, 20))] {
        let letter = zero_request(&mut pair, &[sync_payload(asked.0, asked.1)]);
        pair.give_a(&letter);
        let answer = pair.hold_a();
        assert!(answer.durable, "it moves a window for good");
        let (_, send, receive, nonce) = sync_of(answer.seen.as_ref().unwrap());
        assert_eq!(((send, receive), nonce), (expected, [7; 4]));
        assert_eq!(ids(&pair.a), expected);
    }
    // The same one again.
    let letter = zero_request(&mut pair, &[sync_payload(20, 40)]);
    pair.give_a(&letter);
    assert!(pair.a.out.is_empty());
}

#[test]
fn what_was_not_agreed_upon_is_not_done() {
    //= rfc6311#section-5
    //= type=test
    //# Only a capability whose support was asserted by both parties can be used during the lifetime of the SA.
    let (mut pair, record) = lagging(false, 4, 5);
    let letter = zero_request(&mut pair, &[sync_payload(90, 90)]);
    pair.give_a(&letter);
    assert!(pair.a.out.is_empty());
    assert_eq!(ids(&pair.a), (6, 5));
    pair.b.take_over(pair.now, record, None, 2, Timing::default());
    pair.now = pair.b.core.deadline().unwrap().0;
    pair.fire();
    assert!(pair.hold_b().seen.unwrap().is_empty());
}

#[test]
fn a_request_under_way_is_forgotten_and_made_again() {
    //= rfc6311#section-9
    //= type=test
    //# The peer should not wait for any pending responses while responding with the new Message ID values.
    let (mut pair, record) = lagging(true, 3, 3);
    pair.b.take_over(pair.now, record, None, 2, Timing::default());
    pair.now = pair.b.core.deadline().unwrap().0;
    pair.fire();
    let sync = pair.hold_b();
    pair.rekey_a();
    let lost = pair.hold_a();
    assert_eq!(ids(&pair.a), (6, 3));
    pair.give_a(&sync);
    let (_, p2, _, _) = sync_of(pair.a.out[0].seen.as_ref().unwrap());
    assert_eq!(p2, 6, "not the one of the request under way");
    //= rfc6311#section-8.1
    //= type=test
    //# After sending its "receive" counter, the cluster member MUST reject (silently drop) any incoming IKE messages that are outside its declared window.
    pair.give_b(&lost);
    assert!(pair.b.out.is_empty());
    pair.settle();
    pair.pass(Duration::from_secs(30));
    assert_eq!(pair.a.rekeyed.len(), 1, "it was made again");
    check_both_ways(&mut pair);
}

#[test]
fn simultaneous_failover_ends_with_the_higher_values() {
    for (a_lives, b_lives) in [(4, 5), (0, 9), (7, 0)] {
        let (mut pair, record) = lagging(true, a_lives, b_lives);
        let own = pair.a.core.snapshot(pair.now).unwrap();
        pair.a.take_over(
            pair.now,
            (own, pair.now - Duration::from_secs(99)),
            None,
            2,
            Timing::default(),
        );
        pair.b.take_over(pair.now, record, None, 2, Timing::default());
        for _ in 0..2 {
            pair.now = pair
                .now
                .max(pair.a.core.deadline().unwrap().0)
                .max(pair.b.core.deadline().unwrap().0);
            pair.fire();
        }
        let (from_a, from_b) = (pair.hold_a(), pair.hold_b());
        sync_of(from_a.seen.as_ref().unwrap());
        sync_of(from_b.seen.as_ref().unwrap());
        pair.give_b(&from_a);
        pair.give_a(&from_b);
        pair.settle();
        pair.pass(Duration::from_secs(10));
        let ((a_send, a_receive), (b_send, b_receive)) = (ids(&pair.a), ids(&pair.b));
        assert_eq!((a_send, a_receive), (b_receive, b_send));
        check_both_ways(&mut pair);
    }
}

#[test]
fn the_examples_of_the_rfc() {
    // Appendix A: (send, receive) of the request, of the peer, of the response.
    for (asked, peer, answered) in [
        ((0, 5), (5, 0), (5, 0)),
        ((2, 3), (4, 5), (4, 5)),
        ((2, 5), (2, 4), (5, 4)),
    ] {
        let mut pair = Pair::with(&Setup {
            random_ivs: true,
            ..Setup::default()
        });
        let window = &mut pair.a.core.current.window;
        (window.next_send, window.next_recv) = peer;
        let letter = zero_request(&mut pair, &[sync_payload(asked.0, asked.1)]);
        pair.give_a(&letter);
        let got = pair.a.out.pop_front().map(|answer| {
            let (_, send, receive, _) = sync_of(answer.seen.as_ref().unwrap());
            (send, receive)
        });
        // The second and third contradict section 5.1, which has a request dropped that is not ahead of what was seen.
        let dropped = asked.0 < peer.1;
        assert_eq!(got, (!dropped).then_some(answered));
    }
}

#[test]
fn an_answer_that_the_peer_may_be_waiting_for_comes_before_a_synchronization() {
    let mut pair = Pair::with(&Setup {
        random_ivs: true,
        ..Setup::default()
    });
    pair.rekey_a();
    let request = pair.hold_a();
    pair.give_b(&request);
    let answer = pair.hold_b();
    let record = pair.b.record.clone().unwrap();
    pair.b.take_over(pair.now, record, None, 2, Timing::default());
    pair.pass(Duration::from_secs(8));
    assert_eq!(pair.a.rekeyed.len(), 1, "by the retransmission");
    assert_eq!(pair.b.core.counters().message_id_syncs, 0);
    assert_eq!(pair.b.installed.len(), pair.a.installed.len());
    pair.pass(Duration::from_secs(8));
    assert_eq!(pair.b.core.counters().message_id_syncs, 1);
    drop(answer);
    check_both_ways(&mut pair);
}

#[test]
fn a_copy_of_the_synchronization_does_not_wedge_a_lenient_peer() {
    // Some peers take a request whose M1 equals what they expect, and expect one more afterwards.
    let (mut pair, record) = lagging(true, 1, 1);
    pair.b.take_over(pair.now, record, None, 2, Timing::default());
    pair.now = pair.b.core.deadline().unwrap().0;
    pair.fire();
    pair.reach_a();
    pair.a.core.current.window.next_recv += 1;
    pair.reach_b();
    pair.pass(Duration::from_secs(60));
    assert_eq!((&pair.a.closed, &pair.b.closed), (&None, &None));
    assert_eq!(pair.b.core.counters().message_id_syncs, 2);
    check_both_ways(&mut pair);
}

#[test]
fn the_data_has_exactly_three_words() {
    let data = |octets: Vec<u8>| Notify::with_data(NotifyType::IKEV2_MESSAGE_ID_SYNC, octets);
    for length in (0..32).filter(|length| *length != 12) {
        assert_eq!(SyncData::of(&data(vec![1; length])), None);
    }
    assert!(SyncData::of(&data(vec![1; 12])).is_some());
}

/// The gateway executes a rekey, and the client forgets it because of a synchronization that was on its way.
fn forgotten(command: Option<Command>) -> Pair {
    let (mut pair, record) = lagging(true, 2, 2);
    pair.b.take_over(pair.now, record, None, 2, Timing::default());
    pair.now = pair.b.core.deadline().unwrap().0;
    pair.fire();
    let sync = pair.hold_b();
    match command {
        None => pair.rekey_a(),
        Some(command) => pair.command_a(command),
    }
    let request = pair.hold_a();
    pair.now = pair.b.core.deadline().unwrap().0;
    pair.b.handle(pair.now, Input::Timeout);
    drop(pair.hold_b());
    // In the second attempt the gateway no longer holds back what lies in its window.
    pair.b.core.current.window.next_recv = request.seen.as_ref().unwrap().header.message_id;
    pair.give_b(&request);
    drop(pair.hold_b());
    pair.give_a(&sync);
    pair
}

#[test]
fn a_child_rekey_that_the_peer_forgot_leaves_no_orphan() {
    let mut pair = forgotten(None);
    assert_eq!(pair.b.installed.len(), 2);
    pair.pass(Duration::from_secs(60));
    assert_eq!(pair.a.rekeyed.len(), 1);
    assert_eq!(pair.b.rekeyed.len(), 2);
    check_both_ways(&mut pair);
}

#[test]
fn an_ike_rekey_that_the_peer_forgot_is_taken_back() {
    let mut pair = forgotten(Some(Command::RekeyIke));
    assert_ne!(pair.a.core.spi_i(), pair.b.core.spi_i());
    pair.pass(Duration::from_secs(60));
    assert_eq!(pair.a.core.spi_i(), pair.b.core.spi_i());
    assert_eq!(pair.a.ike_rekeyed.len(), 1);
    check_both_ways(&mut pair);
}

#[test]
fn with_a_counter_mode_cipher_the_ids_are_tried_although_a_synchronization_was_agreed() {
    for (from_a, from_b) in [(0, 0), (1, 0), (0, 1), (3, 2), (2, 5)] {
        let (mut pair, record) = lagging_of(&Setup::default(), from_a, from_b);
        assert!(pair.b.core.supports_message_id_sync());
        pair.b.take_over(pair.now, record, None, 2, Timing::default());
        pair.pass(Duration::from_secs(30));
        assert_eq!(pair.b.core.counters().message_id_syncs, 0);
        assert_eq!(pair.a.core.counters().message_id_syncs, 0);
        assert!(pair.b.core.takeover.is_none(), "{from_a} {from_b}");
        check_both_ways(&mut pair);
    }
}
