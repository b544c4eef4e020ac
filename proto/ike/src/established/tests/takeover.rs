//! Message IDs after a takeover from a peer that does not synchronize: skipped, tried; replays and lost messages in between.

use super::*;
use crate::types::MessageIds;

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

pub(super) fn setup(message_id_sync: bool) -> Setup {
    Setup {
        message_id_sync,
        random_ivs: message_id_sync,
        ..Setup::default()
    }
}

pub(super) fn ids(side: &Side) -> (u32, u32) {
    let ids = side.core.message_ids();
    (ids.send, ids.receive)
}

/// A gateway (B) and its client after exchanges of liveness that no record knows of; the record is of the beginning.
pub(super) fn lagging(message_id_sync: bool, from_a: u32, from_b: u32) -> (Pair, (CoreSnapshot, Instant)) {
    lagging_of(&setup(message_id_sync), from_a, from_b)
}

/// As [`lagging`], of any pair.
pub(super) fn lagging_of(setup: &Setup, from_a: u32, from_b: u32) -> (Pair, (CoreSnapshot, Instant)) {
    let mut pair = Pair::with(setup);
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
pub(super) fn check_both_ways(pair: &mut Pair) {
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
