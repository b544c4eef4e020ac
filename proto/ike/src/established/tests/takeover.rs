//! Message IDs after a takeover: synchronized, skipped, tried; replays and lost messages in between.

use super::*;
use crate::established::takeover::SyncData;
use crate::types::MessageIds;
use crate::wire::Notify;

impl Side {
    /// Another node goes on from a record.
    pub(super) fn take_over(
        &mut self,
        now: Instant,
        (record, at): (CoreSnapshot, Instant),
        newer: Option<MessageIds>,
        generation: u16,
        timing: Timing,
    ) {
        self.spis.taken.lock().unwrap().clear();
        let context = Context {
            random: Box::new(Dice {
                seeded: SeededRandom::from_seed(u64::from(generation) * 1000 + u64::from(self.spis.side)),
                nonce: self.nonce.clone(),
            }),
            spis: self.spis.clone(),
            generation: 0,
            key_log: false,
            timing,
        };
        self.core = Core::restore(now, context, record, now - at, generation).unwrap();
        self.core.taken_over(now, newer);
        assert!(!self.drain(), "nothing is said before the first deadline");
        self.installed = self.core.children().map(|sa| (sa.spi_in, sa.clone())).collect();
        self.dispatch = self.core.spis().collect();
    }
}

fn setup(message_id_sync: bool) -> Setup {
    Setup {
        message_id_sync,
        ..Setup::default()
    }
}

fn ids(side: &Side) -> (u32, u32) {
    let ids = side.core.message_ids();
    (ids.send, ids.receive)
}

/// A gateway (B) and its client after exchanges of liveness that no record knows of; the record is of the beginning.
fn lagging(message_id_sync: bool, from_a: u32, from_b: u32) -> (Pair, (CoreSnapshot, Instant)) {
    let mut pair = Pair::with(&setup(message_id_sync));
    let record = pair.b.core.snapshot(pair.now).unwrap();
    let at = pair.now;
    for _ in 0..from_a {
        pair.command_a(Command::CheckLiveness);
        pair.settle();
    }
    for _ in 0..from_b {
        pair.command_b(Command::CheckLiveness);
        pair.settle();
    }
    pair.now += Duration::from_secs(100);
    (pair, (record, at))
}

/// Both ends can ask each other.
fn check_both_ways(pair: &mut Pair) {
    for _ in 0..2 {
        pair.rekey_a();
        pair.linger();
        pair.rekey_b();
        pair.linger();
    }
    pair.command_b(Command::RekeyIke);
    pair.linger();
    pair.check_one_child();
    assert_eq!((&pair.a.closed, &pair.b.closed), (&None, &None));
}

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
fn liveness_is_neither_durable_nor_a_change() {
    let mut pair = Pair::new();
    let before = (pair.a.writes, pair.b.writes);
    for _ in 0..5 {
        pair.command_a(Command::CheckLiveness);
        let request = pair.hold_a();
        assert!(!request.durable);
        pair.give_b(&request);
        let answer = pair.hold_b();
        assert!(!answer.durable);
        // A retransmission still gets the same octets.
        pair.give_b(&request);
        assert_eq!(pair.hold_b().bytes, answer.bytes);
        pair.give_a(&answer);
    }
    assert_eq!((pair.a.writes, pair.b.writes), before);
    assert_eq!(ids(&pair.a), (7, 0));
    assert_eq!(ids(&pair.b), (0, 7));
    // The answer to a DELETE is empty as well, and durable.
    pair.command_a(Command::Close);
    let request = pair.hold_a();
    assert!(request.durable);
    pair.give_b(&request);
    assert!(pair.hold_b().durable);
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
        let mut pair = Pair::new();
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
fn without_synchronization_the_peers_requests_may_skip_but_never_go_back() {
    let (mut pair, record) = lagging(false, 9, 0);
    let mut replays = Vec::new();
    // What an eavesdropper has: the last requests to the former owner.
    for _ in 0..3 {
        pair.command_a(Command::CheckLiveness);
        replays.push(pair.hold_a());
        pair.give_b(&replays[replays.len() - 1]);
        pair.settle();
    }
    pair.b.take_over(pair.now, record, None, 2, Timing::default());
    assert_eq!(ids(&pair.b), (0, 2));
    // A replay is answered, and shuts nobody out.
    pair.give_b(&replays[1]);
    assert_eq!(ids(&pair.b).1, 13);
    pair.give_b(&replays[0]);
    assert_eq!(ids(&pair.b).1, 13);
    pair.b.out.clear();
    // The peer's own next request.
    pair.rekey_a();
    let request = pair.hold_a();
    pair.give_b(&request);
    let answer = pair.hold_b();
    assert_eq!(ids(&pair.b).1, 15);
    for old in &replays {
        pair.give_b(old);
        assert!(pair.b.out.is_empty());
    }
    pair.give_b(&request);
    assert_eq!(pair.hold_b().bytes, answer.bytes);
    pair.give_a(&answer);
    pair.settle();
    assert_eq!(pair.b.core.counters().message_id_gaps, 2);
    check_both_ways(&mut pair);
}

#[test]
fn a_replay_in_the_gap_does_not_move_the_peer() {
    let behind = NatFindings {
        supported: true,
        local: true,
        remote: false,
    };
    let facing = NatFindings {
        supported: true,
        local: false,
        remote: true,
    };
    let mut pair = Pair::with(&Setup {
        nat: (behind, facing),
        ..setup(false)
    });
    let record = (pair.b.core.snapshot(pair.now).unwrap(), pair.now);
    pair.command_a(Command::CheckLiveness);
    let mut replay = pair.hold_a();
    pair.give_b(&replay);
    pair.settle();
    pair.b.take_over(pair.now, record, None, 2, Timing::default());
    let known = pair.b.core.remote();
    replay.from = "203.0.113.66:666".parse().unwrap();
    pair.give_b(&replay);
    assert_eq!((pair.b.core.remote(), pair.b.address), (known, None));
    // Authentic ESP still tells.
    let moved = "203.0.113.9:61000".parse().unwrap();
    pair.command_b(Command::PeerMoved { remote: moved });
    assert_eq!(pair.b.core.remote(), moved);
}

#[test]
fn our_requests_find_the_peers_window_by_trying() {
    for lag in [0, 1, 2, 7, 16] {
        let (mut pair, record) = lagging(false, 0, lag);
        pair.b.take_over(pair.now, record, None, 2, Timing::default());
        pair.command_b(Command::RekeyIke);
        assert!(pair.b.out.is_empty(), "it waits");
        let began = pair.now;
        pair.pass(Duration::from_secs(60));
        assert_eq!(pair.b.closed, None, "{lag}");
        assert_eq!(pair.b.ike_rekeyed.len(), 1, "{lag}");
        assert!(pair.a.core.counters().unexpected <= u64::from(lag) * 2);
        assert!(pair.now - began <= Duration::from_secs(60));
        check_both_ways(&mut pair);
    }
}

#[test]
fn a_probe_that_is_answered_late_is_followed_to_the_end() {
    let (mut pair, record) = lagging(false, 0, 1);
    pair.b.take_over(pair.now, record, None, 2, Timing::default());
    let mut late = Vec::new();
    for _ in 0..7 {
        pair.now = pair.b.core.deadline().unwrap().0;
        pair.fire();
        late.push(pair.hold_b());
    }
    let probed: Vec<u32> = late
        .iter()
        .map(|l| l.seen.as_ref().unwrap().header.message_id)
        .collect();
    assert_eq!(probed, [0, 0, 1, 1, 2, 2, 3]);
    assert_eq!(late[0].bytes, late[1].bytes);
    // The peer gets them all at once, in order, and its answers come in order as well.
    for letter in &late {
        pair.give_a(letter);
    }
    assert_eq!(pair.a.out.len(), 7);
    pair.settle();
    assert!(pair.b.core.takeover.is_none());
    assert_eq!(ids(&pair.b).0, ids(&pair.a).1);
    check_both_ways(&mut pair);
}

#[test]
fn a_peer_that_is_gone_is_found_out() {
    for sync in [false, true] {
        let (mut pair, record) = lagging(sync, 1, 1);
        pair.b.take_over(pair.now, record, None, 2, Timing::default());
        let began = pair.now;
        while pair.b.closed.is_none() {
            pair.now = pair.b.core.deadline().unwrap().0;
            pair.b.handle(pair.now, Input::Timeout);
        }
        assert_eq!(pair.b.closed, Some(CloseReason::PeerDead));
        assert!(pair.now - began < Duration::from_secs(120));
        assert!(pair.b.out.len() < 80);
    }
}

#[test]
fn a_checkpoint_shortens_the_search_and_is_not_believed_to_the_last_exchange() {
    let (mut pair, record) = lagging(false, 40, 40);
    let newer = pair.b.core.message_ids();
    assert_eq!((newer.send, newer.receive), (40, 42));
    // The answer to the peer's last request never left the former owner.
    pair.command_a(Command::CheckLiveness);
    let request = pair.hold_a();
    let newer = MessageIds {
        receive: newer.receive + 1,
        ..newer
    };
    pair.b
        .take_over(pair.now, record.clone(), Some(newer), 2, Timing::default());
    assert_eq!(ids(&pair.b), (39, 42));
    pair.give_b(&request);
    assert!(pair.hold_b().seen.unwrap().is_empty());
    pair.a.core.current.window.pending = None;
    pair.pass(Duration::from_secs(5));
    check_both_ways(&mut pair);
    // One of another pair of SPIs says nothing.
    let (mut pair, record) = lagging(false, 3, 3);
    let other = MessageIds {
        link: newer.link ^ 1,
        ..newer
    };
    pair.b
        .take_over(pair.now, record, Some(other), 2, Timing::default());
    assert_eq!(ids(&pair.b), (0, 2));
}

#[test]
fn an_answer_that_the_peer_may_be_waiting_for_comes_before_a_synchronization() {
    let mut pair = Pair::new();
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
fn a_request_of_the_former_owner_is_answered_first_or_given_up() {
    for lost in [false, true] {
        for sync in [false, true] {
            let mut pair = Pair::with(&setup(sync));
            pair.rekey_b();
            let record = pair.b.record.clone().unwrap();
            if lost {
                // The record never learned of the answer, nor of what followed.
                pair.settle();
                pair.linger();
                for _ in 0..3 {
                    pair.command_b(Command::CheckLiveness);
                    pair.settle();
                }
            }
            pair.b.take_over(pair.now, record, None, 2, Timing::default());
            pair.pass(Duration::from_secs(120));
            assert_eq!((&pair.a.closed, &pair.b.closed), (&None, &None), "{lost} {sync}");
            assert!(
                pair.b.is_idle() && pair.b.core.takeover.is_none(),
                "{lost} {sync}"
            );
            if !lost {
                check_both_ways(&mut pair);
            }
        }
    }
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
