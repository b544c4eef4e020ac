//! Collisions about a child SA (RFC 7296 sections 2.8.1 and 2.25.1). In the pictures A is on the left.

use super::child_rekey::other_groups;
use super::*;

/// First octets of the nonces Ni(A), Ni(B), Nr(B), Nr(A), and whether A's exchange is the one with the lowest.
const FOUR: [([u8; 4], bool); 4] = [
    ([0x00, 0xff, 0xff, 0xff], true),
    ([0xff, 0x00, 0xff, 0xff], false),
    ([0xff, 0xff, 0x00, 0xff], true),
    ([0xff, 0xff, 0xff, 0x00], false),
];

/// Both start to rekey, and each answers the other's request. The answers are on their way.
fn both_answered(nonces: [u8; 4]) -> (Pair, u32, u32) {
    let mut pair = Pair::new();
    let (old_a, old_b) = (pair.a.only(), pair.b.only());
    pair.nonce(nonces[0]);
    pair.rekey_a();
    pair.nonce(nonces[1]);
    pair.rekey_b();
    pair.nonce(nonces[2]);
    pair.reach_b();
    //= rfc7296#section-2.25.1
    //= type=test
    //# If a peer receives a request to rekey a Child SA that it is currently rekeying, it SHOULD reply as usual, and SHOULD prepare to close redundant SAs later based on the nonces (see Section 2.8.1).
    assert_eq!(pair.b.state(old_b), Some(State::Rekeying));
    assert_eq!(pair.b.rekeyed.len(), 1);
    pair.nonce(nonces[3]);
    pair.reach_a();
    assert_eq!(pair.a.state(old_a), Some(State::Rekeying));
    assert_eq!(pair.a.rekeyed.len(), 1);
    (pair, old_a, old_b)
}

#[test]
fn of_two_simultaneous_rekeys_the_one_with_the_lowest_nonce_gives_way() {
    //= rfc7296#section-2.8.1
    //= type=test
    //# The node that initiated the surviving rekeyed SA should delete the replaced SA after the new one is established.
    for (nonces, a_loses) in FOUR {
        let (mut pair, old_a, old_b) = both_answered(nonces);
        // Inbound SPIs of the child of A's exchange and of B's, at A.
        let theirs_a = pair.a.rekeyed[0].1;
        let theirs_b = pair.b.rekeyed[0].1;
        pair.reach_a();
        pair.reach_b();
        let ours_a = pair.a.rekeyed[1].1;
        let ours_b = pair.b.rekeyed[1].1;
        //= rfc7296#section-2.8.1
        //= type=test
        //# When there are two SAs eligible to receive packets, a node MUST accept incoming packets through either SA.
        assert_eq!((pair.a.installed.len(), pair.b.installed.len()), (3, 3));
        let (delete_a, delete_b) = if a_loses { (ours_a, old_b) } else { (old_a, ours_b) };
        assert_eq!(pair.a.state(delete_a), Some(State::Deleting));
        assert_eq!(pair.b.state(delete_b), Some(State::Deleting));
        // What the other side is to delete, and what stays.
        let (kept_a, kept_b) = if a_loses {
            (theirs_a, ours_b)
        } else {
            (ours_a, theirs_b)
        };
        let (left_a, left_b) = if a_loses {
            (old_a, theirs_b)
        } else {
            (theirs_a, old_b)
        };
        assert_eq!(pair.a.state(left_a), Some(State::Replaced));
        assert_eq!(pair.b.state(left_b), Some(State::Replaced));
        assert_eq!((pair.a.only(), pair.b.only()), (kept_a, kept_b));
        assert_eq!(pair.reach_b().deleted(), vec![delete_a]);
        assert_eq!(pair.reach_a().deleted(), vec![delete_b]);
        assert!(pair.reach_a().deleted().len() == 1 && pair.reach_b().deleted().len() == 1);
        pair.check_one_child();
        assert_eq!((pair.a.only(), pair.b.only()), (kept_a, kept_b));
        assert_eq!(pair.a.core.counters().collisions, 1);
        assert!(
            pair.a
                .ended
                .iter()
                .chain(&pair.b.ended)
                .all(|(_, end)| *end == ChildEnd::Rekeyed)
        );
    }
}

#[test]
fn the_winner_or_loser_may_delete_before_the_other_has_its_answer() {
    for (nonces, a_loses) in FOUR {
        let (mut pair, old_a, old_b) = both_answered(nonces);
        let delayed = pair.hold_b();
        pair.reach_b();
        let delete = pair.reach_a();
        let ours_b = pair.b.rekeyed[1].1;
        assert_eq!(delete.deleted(), vec![if a_loses { old_b } else { ours_b }]);
        pair.reach_b();
        pair.give_a(&delayed);
        let ours_a = pair.a.rekeyed[1].1;
        assert_eq!(
            pair.reach_b().deleted(),
            vec![if a_loses { ours_a } else { old_a }]
        );
        pair.check_one_child();
        assert_eq!(pair.a.only() == ours_a, !a_loses);
    }
}

#[test]
fn a_survivor_that_is_deleted_before_the_other_has_its_answer_does_not_come_back() {
    for (nonces, _) in FOUR {
        let (mut pair, _, _) = both_answered(nonces);
        let delayed = pair.hold_b();
        pair.reach_b();
        pair.reach_a();
        pair.reach_b();
        let kept_b = pair.b.only();
        pair.command_b(Command::DeleteChild { spi_in: kept_b });
        pair.reach_a();
        pair.reach_b();
        pair.give_a(&delayed);
        pair.linger();
        pair.check();
        assert!(pair.a.installed.is_empty(), "{:x?}", pair.a.in_use());
    }
}

/// ```text
///            rekey ----\       /---- rekey
/// detect collision <-----\---/
///                  -------\-------->
///                          \   /---- delete old SA
///                           \-/----> TEMPORARY_FAILURE
/// ```
#[test]
fn a_request_that_arrives_when_the_old_child_is_being_deleted_meets_temporary_failure() {
    //= rfc7296#section-2.25.1
    //= type=test
    //# If a peer receives a request to rekey a Child SA that it is currently trying to close, it SHOULD reply with TEMPORARY_FAILURE.
    for refusal_first in [false, true] {
        for nonces in [[0x00, 0xff, 0xff], [0xff, 0x00, 0xff], [0xff, 0xff, 0x00]] {
            let mut pair = Pair::new();
            let (old_a, old_b) = (pair.a.only(), pair.b.only());
            pair.nonce(nonces[0]);
            pair.rekey_a();
            pair.nonce(nonces[1]);
            pair.rekey_b();
            let delayed = pair.hold_a();
            pair.nonce(nonces[2]);
            pair.reach_a();
            pair.reach_b();
            assert_eq!(pair.b.state(old_b), Some(State::Deleting));
            pair.give_b(&delayed);
            let delete = pair.hold_b();
            let refusal = pair.hold_b();
            assert!(
                refusal
                    .seen
                    .as_ref()
                    .unwrap()
                    .is_only(NotifyType::TEMPORARY_FAILURE)
            );
            if refusal_first {
                pair.give_a(&refusal);
                assert_eq!(pair.a.state(old_a), Some(State::Replaced));
                pair.give_a(&delete);
            } else {
                pair.give_a(&delete);
                assert_eq!(pair.a.state(old_a), None);
                pair.give_a(&refusal);
            }
            assert!(
                pair.a.core.queue.iter().next().is_none(),
                "nothing is tried again"
            );
            pair.check_one_child();
            assert_eq!(pair.a.only(), pair.a.rekeyed[0].1);
        }
    }
}

/// ```text
///            rekey ----\       /---- rekey
/// detect collision <-----\---/
///                  -------\-------->
///                  <-------\-------- delete old SA
///                  ---------\------>
///                            \-----> CHILD_SA_NOT_FOUND
/// ```
#[test]
fn a_request_that_arrives_after_the_old_child_is_gone_meets_child_sa_not_found() {
    //= rfc7296#section-2.25.1
    //= type=test
    //# If a peer receives a request to rekey a Child SA that does not exist, it SHOULD reply with CHILD_SA_NOT_FOUND.
    //= rfc7296#section-2.8.1
    //= type=test
    //# When A receives this error, it already knows there was simultaneous rekeying, so it can ignore the error message.
    for nonces in [[0x00, 0xff, 0xff], [0xff, 0x00, 0xff], [0xff, 0xff, 0x00]] {
        for also_new in [false, true] {
            let mut pair = Pair::new();
            pair.nonce(nonces[0]);
            pair.rekey_a();
            pair.nonce(nonces[1]);
            pair.rekey_b();
            let delayed = pair.hold_a();
            pair.nonce(nonces[2]);
            pair.reach_a();
            pair.reach_b();
            pair.reach_a();
            pair.reach_b();
            if also_new {
                // B even deletes the successor before A's request arrives.
                let spi_in = pair.b.only();
                pair.command_b(Command::DeleteChild { spi_in });
                pair.reach_a();
                pair.reach_b();
            }
            pair.give_b(&delayed);
            assert!(pair.reach_a().is_only(NotifyType::CHILD_SA_NOT_FOUND));
            assert!(pair.a.out.is_empty(), "nothing is made from scratch");
            if also_new {
                pair.linger();
                pair.check();
                assert!(pair.a.installed.is_empty());
            } else {
                pair.check_one_child();
            }
        }
    }
}

#[test]
fn simultaneous_rekeys_with_unwanted_groups_collide_in_their_second_try() {
    for (nonces, a_loses) in FOUR {
        let mut pair = Pair::with(&other_groups());
        pair.nonce(nonces[1]);
        pair.rekey_a();
        pair.nonce(nonces[0]);
        pair.rekey_b();
        pair.reach_b();
        pair.reach_a();
        assert!(pair.a.rekeyed.is_empty() && pair.b.rekeyed.is_empty());
        pair.nonce(nonces[0]);
        assert!(pair.reach_a().is_only(NotifyType::INVALID_KE_PAYLOAD));
        pair.nonce(nonces[1]);
        assert!(pair.reach_b().is_only(NotifyType::INVALID_KE_PAYLOAD));
        pair.nonce(nonces[2]);
        pair.reach_b();
        pair.nonce(nonces[3]);
        pair.reach_a();
        pair.reach_a();
        pair.reach_b();
        let ours_a = pair.a.rekeyed[1].1;
        pair.check_one_child();
        assert_eq!(pair.a.only() == ours_a, !a_loses);
    }
}

#[test]
fn a_delayed_second_try_is_given_up_when_the_peer_has_finished() {
    for nonces in [[0x00, 0xff, 0xff], [0xff, 0x00, 0xff], [0xff, 0xff, 0x00]] {
        let mut pair = Pair::with(&other_groups());
        let old_b = pair.b.only();
        pair.rekey_a();
        pair.rekey_b();
        pair.reach_b();
        pair.reach_a();
        pair.nonce(nonces[0]);
        pair.reach_a();
        pair.nonce(nonces[1]);
        pair.reach_b();
        let delayed = pair.hold_a();
        pair.nonce(nonces[2]);
        pair.reach_a();
        pair.reach_b();
        assert_eq!(pair.b.state(old_b), Some(State::Deleting));
        pair.give_b(&delayed);
        pair.reach_a();
        assert!(pair.reach_a().is_only(NotifyType::TEMPORARY_FAILURE));
        pair.check_one_child();
        assert_eq!(pair.a.only(), pair.a.rekeyed[0].1);
    }
}

#[test]
fn an_unwanted_group_is_not_tried_again_once_the_peer_has_rekeyed() {
    // Only A's first group is unwanted; B's rekey is fine, and is answered before A learns of it.
    let setup = Setup {
        groups: (vec![Group::Curve25519, Group::Ecp384], vec![Group::Ecp384]),
        ..Setup::default()
    };
    let mut pair = Pair::with(&setup);
    pair.rekey_a();
    pair.rekey_b();
    pair.reach_b();
    pair.reach_a();
    assert!(pair.reach_a().is_only(NotifyType::INVALID_KE_PAYLOAD));
    assert!(
        !pair
            .a
            .out
            .iter()
            .any(|l| l.seen.as_ref().unwrap().has_notify(NotifyType::REKEY_SA))
    );
    pair.check_one_child();
    assert_eq!(pair.a.rekeyed.len(), 1);
}

#[test]
fn a_needless_delete_of_the_old_child_during_a_collision_disturbs_nothing() {
    for (nonces, _) in FOUR {
        let (mut pair, _, old_b) = both_answered(nonces);
        let delayed = pair.hold_b();
        // B deletes the old child although the nonces would not have it do so.
        pair.reach_b();
        let rightful = pair.hold_b();
        let seen = rightful.seen.clone().unwrap();
        let spis = vec![seen.deleted()[0], old_b];
        let protocol = ProtocolId::ESP;
        let forged = pair.b.reseal(&rightful, &[Payload::Delete { protocol, spis }]);
        pair.give_a(&forged);
        pair.reach_b();
        pair.give_a(&delayed);
        pair.settle();
        pair.b.core.drop_child(old_b, ChildEnd::Rekeyed);
        pair.b.drain();
        pair.check_one_child();
    }
}

#[test]
fn a_delete_beats_a_rekey_of_the_same_child() {
    //= rfc7296#section-2.25.1
    //= type=test
    //# If a peer receives a request to close a Child SA that it is currently rekeying, it SHOULD reply as usual, with a Delete payload.
    for swap in [false, true] {
        let mut pair = Pair::either(&Setup::default(), swap);
        let (old_a, old_b) = (pair.a.only(), pair.b.only());
        pair.rekey_a();
        pair.command_b(Command::DeleteChild { spi_in: old_b });
        pair.reach_b();
        assert_eq!(pair.b.state(old_b), Some(State::Deleting));
        assert_eq!(pair.reach_a().deleted(), vec![old_b]);
        assert!(pair.reach_a().is_only(NotifyType::TEMPORARY_FAILURE));
        assert_eq!(pair.reach_b().deleted(), vec![old_a]);
        assert!(pair.a.is_idle(), "no retry of a rekey of a child that is gone");
        pair.linger();
        pair.check();
        assert!(pair.a.installed.is_empty());
        assert_eq!(pair.a.ended, vec![(old_a, ChildEnd::DeletedByPeer)]);
        assert_eq!(pair.b.ended, vec![(old_b, ChildEnd::DeletedByUs)]);
    }
}

#[test]
fn a_delete_that_arrives_late_ends_the_retry_of_the_rekey() {
    for swap in [false, true] {
        let mut pair = Pair::either(&Setup::default(), swap);
        let (old_a, old_b) = (pair.a.only(), pair.b.only());
        pair.rekey_a();
        pair.command_b(Command::DeleteChild { spi_in: old_b });
        pair.reach_b();
        let delete = pair.hold_b();
        assert!(pair.reach_a().is_only(NotifyType::TEMPORARY_FAILURE));
        assert_eq!(pair.a.state(old_a), Some(State::Installed));
        //= rfc7296#section-2.25
        //= type=test
        //# When a peer receives a TEMPORARY_FAILURE notification, it MUST NOT immediately retry the operation; it MUST wait so that the sender may complete whatever operation caused the temporary condition.
        assert!(pair.a.out.is_empty());
        assert!(
            pair.a
                .core
                .deadline()
                .is_some_and(|(at, _)| at - pair.now >= Duration::from_secs(5))
        );
        pair.give_a(&delete);
        pair.reach_b();
        pair.pass(Duration::from_secs(60));
        pair.check();
        assert!(pair.a.is_idle() && pair.a.installed.is_empty());
    }
}

#[test]
fn a_rekey_that_arrives_after_the_delete_is_not_found_and_not_made_anew() {
    for swap in [false, true] {
        let mut pair = Pair::either(&Setup::default(), swap);
        let (old_a, old_b) = (pair.a.only(), pair.b.only());
        pair.rekey_a();
        pair.command_b(Command::DeleteChild { spi_in: old_b });
        let rekey = pair.hold_a();
        pair.reach_a();
        assert_eq!(pair.reach_b().deleted(), vec![old_a]);
        pair.give_b(&rekey);
        assert!(pair.reach_a().is_only(NotifyType::CHILD_SA_NOT_FOUND));
        pair.linger();
        pair.check();
        assert!(pair.a.is_idle() && pair.a.installed.is_empty());
    }
}

#[test]
fn a_successor_deleted_before_its_answer_arrived_takes_the_old_child_with_it() {
    for swap in [false, true] {
        let mut pair = Pair::either(&Setup::default(), swap);
        let old_a = pair.a.only();
        pair.rekey_a();
        pair.reach_b();
        let answer = pair.hold_b();
        let spi_in = pair.b.only();
        pair.command_b(Command::DeleteChild { spi_in });
        assert_eq!(pair.reach_a().deleted(), vec![spi_in]);
        //= rfc7296#section-1.4.1
        //= type=test
        //# Normally, the response in the INFORMATIONAL exchange will contain Delete payloads for the paired SAs going in the other direction.
        assert!(pair.reach_b().is_empty(), "A knows of no such child");
        pair.give_a(&answer);
        assert!(pair.a.rekeyed.is_empty());
        assert_eq!(pair.reach_b().deleted(), vec![old_a]);
        pair.linger();
        pair.check();
        assert!(pair.a.installed.is_empty());
    }
}

#[test]
fn a_child_rekey_and_an_ike_rekey_that_cross_both_meet_temporary_failure_and_both_succeed_later() {
    //= rfc7296#section-2.25.1
    //= type=test
    //# If a peer receives a request to rekey the IKE SA, and it is currently creating, rekeying, or closing a Child SA of that IKE SA, it SHOULD reply with TEMPORARY_FAILURE.
    //= rfc7296#section-2.25.2
    //= type=test
    //# If a peer receives a request to create or rekey a Child SA when it is currently rekeying the IKE SA, it SHOULD reply with TEMPORARY_FAILURE.
    for swap in [false, true] {
        let mut pair = Pair::either(&Setup::default(), swap);
        let old_a = pair.a.only();
        pair.rekey_a();
        pair.command_b(Command::RekeyIke);
        pair.reach_b();
        pair.reach_a();
        assert_eq!(pair.a.state(old_a), Some(State::Rekeying));
        assert!(pair.reach_a().is_only(NotifyType::TEMPORARY_FAILURE));
        assert!(pair.reach_b().is_only(NotifyType::TEMPORARY_FAILURE));
        assert_eq!(pair.a.state(old_a), Some(State::Installed));
        assert!(pair.a.out.is_empty() && pair.b.out.is_empty());
        pair.pass(Duration::from_secs(60));
        pair.check_one_child();
        assert_ne!(pair.a.only(), old_a);
        assert_eq!(pair.a.core.counters().ike_rekeys, 1);
    }
}

#[test]
fn a_child_rekey_during_the_end_of_the_ike_sa_meets_temporary_failure() {
    for swap in [false, true] {
        let mut pair = Pair::either(&Setup::default(), swap);
        pair.rekey_a();
        pair.command_b(Command::Close);
        pair.reach_b();
        assert!(pair.reach_a().deletes_ike());
        assert_eq!(pair.a.closed, Some(CloseReason::DeletedByPeer));
        let refusal = pair.hold_b();
        assert!(refusal.seen.unwrap().is_only(NotifyType::TEMPORARY_FAILURE));
        assert!(pair.reach_b().is_empty());
        assert_eq!(pair.b.closed, Some(CloseReason::Requested));
        for side in [&pair.a, &pair.b] {
            assert!(side.spis.taken.lock().unwrap().is_empty(), "SPIs leaked");
        }
    }
}

#[test]
fn creating_a_child_crosses_an_ike_rekey() {
    let mut pair = Pair::new();
    let (ts_local, ts_remote) = (
        pair.a.core.policy.ts_local.clone(),
        pair.a.core.policy.ts_remote.clone(),
    );
    pair.command_a(Command::CreateChild { ts_local, ts_remote });
    pair.command_b(Command::RekeyIke);
    pair.reach_b();
    pair.reach_a();
    assert!(pair.reach_a().is_only(NotifyType::TEMPORARY_FAILURE));
    assert!(pair.reach_b().is_only(NotifyType::TEMPORARY_FAILURE));
    pair.pass(Duration::from_secs(60));
    pair.linger();
    pair.check();
    assert_eq!(pair.a.installed.len(), 2);
}

#[test]
fn a_peer_that_says_temporary_failure_for_minutes_is_left() {
    //= rfc7296#section-2.25
    //= type=test
    //# If a peer continues to receive TEMPORARY_FAILURE on the same IKE SA after several minutes, it SHOULD conclude that the state information is out of sync and close the IKE SA.
    let mut pair = Pair::new();
    let old_b = pair.b.only();
    // B takes the child for replaced, A does not.
    pair.b.core.children.by_in_mut(old_b).unwrap().state = State::Replaced;
    pair.rekey_a();
    pair.pass(Duration::from_secs(170));
    assert!(pair.a.closed.is_none());
    pair.pass(Duration::from_secs(30));
    assert!(
        matches!(pair.a.closed, Some(CloseReason::Protocol(_))),
        "{:?}",
        pair.a.closed
    );
    assert_eq!(pair.b.closed, Some(CloseReason::DeletedByPeer));
}

#[test]
fn a_successor_that_the_peer_rekeys_before_its_answer_arrived_is_not_called_unknown() {
    for swap in [false, true] {
        let mut pair = Pair::either(&Setup::default(), swap);
        pair.rekey_a();
        pair.reach_b();
        let answer = pair.hold_b();
        pair.rekey_b();
        pair.reach_a();
        assert!(pair.reach_b().is_only(NotifyType::TEMPORARY_FAILURE));
        pair.give_a(&answer);
        pair.pass(Duration::from_secs(20));
        pair.check_one_child();
        assert_eq!((pair.a.rekeyed.len(), pair.b.rekeyed.len()), (2, 2));
    }
}
