//! Collisions about the IKE SA (RFC 7296 sections 2.8.2 and 2.25.2). In the pictures A is on the left.

use super::*;

/// First octets of the nonces Ni(A), Ni(B), Nr(B), Nr(A), and whether A's exchange is the one with the lowest.
const FOUR: [([u8; 4], bool); 4] = [
    ([0x00, 0xff, 0xff, 0xff], true),
    ([0xff, 0x00, 0xff, 0xff], false),
    ([0xff, 0xff, 0x00, 0xff], true),
    ([0xff, 0xff, 0xff, 0x00], false),
];

/// Both start to rekey, and each answers the other's request. The answers are on their way.
fn both_answered(nonces: [u8; 4]) -> Pair {
    let mut pair = Pair::new();
    let old = pair.a.current().id;
    pair.nonce(nonces[0]);
    pair.command_a(Command::RekeyIke);
    pair.nonce(nonces[1]);
    pair.command_b(Command::RekeyIke);
    pair.nonce(nonces[2]);
    pair.reach_b();
    pair.nonce(nonces[3]);
    pair.reach_a();
    //= rfc7296#section-2.25.2
    //= type=test
    //# If a peer receives a request to rekey an IKE SA that it is currently rekeying, it SHOULD reply as usual, and SHOULD prepare to close redundant SAs and move inherited Child SAs later based on the nonces (see Section 2.8.2).
    assert_eq!((pair.a.current().id, pair.b.current().id), (old, old));
    assert_eq!((pair.a.dispatch.len(), pair.b.dispatch.len()), (2, 2));
    pair
}

/// Which exchange made the surviving link: the new link's initiator started it.
fn check_survivor(pair: &mut Pair, a_loses: bool) {
    pair.check_one_child();
    let winner = if a_loses { Role::Responder } else { Role::Initiator };
    assert_eq!(pair.a.core.role(), winner);
    assert!(
        pair.a.ended.is_empty() && pair.b.ended.is_empty(),
        "no child is touched"
    );
    assert_eq!(
        pair.a.ike_rekeyed.last(),
        Some(&(pair.a.core.spi_i(), pair.a.core.spi_r()))
    );
    assert_eq!(
        pair.b.ike_rekeyed.last(),
        Some(&(pair.b.core.spi_i(), pair.b.core.spi_r()))
    );
    assert_eq!((pair.a.dispatch.len(), pair.b.dispatch.len()), (1, 1));
    // And it works, in both directions.
    pair.any_nonce();
    pair.rekey_a();
    pair.check_one_child();
    pair.rekey_b();
    pair.check_one_child();
}

#[test]
fn of_two_simultaneous_rekeys_the_one_with_the_lowest_nonce_gives_way() {
    //= rfc7296#section-2.8.2
    //= type=test
    //# The new IKE SA containing the lowest nonce SHOULD be deleted by the node that created it, and the other surviving new IKE SA MUST inherit all the Child SAs.
    for (nonces, a_loses) in FOUR {
        let mut pair = both_answered(nonces);
        let old = pair.a.current().id;
        pair.reach_a();
        pair.reach_b();
        assert_eq!(pair.a.current().id, pair.b.current().id);
        let delete_a = pair.reach_b();
        let delete_b = pair.reach_a();
        assert!(delete_a.deletes_ike() && delete_b.deletes_ike());
        let spis = |seen: &Seen| (seen.header.spi_i, seen.header.spi_r);
        let (of_old, of_redundant) = if a_loses {
            (delete_b, delete_a)
        } else {
            (delete_a, delete_b)
        };
        assert_eq!(spis(&of_old), (old.0, old.1));
        let current = pair.a.current().id;
        assert!(spis(&of_redundant) != (old.0, old.1) && spis(&of_redundant) != (current.0, current.1));
        assert_eq!(pair.a.core.counters().collisions, 1);
        check_survivor(&mut pair, a_loses);
    }
}

#[test]
fn simultaneous_rekeys_with_unwanted_groups_collide_in_their_second_try() {
    for (nonces, a_loses) in FOUR {
        let mut pair = Pair::with(&super::child_rekey::other_groups());
        pair.command_a(Command::RekeyIke);
        pair.command_b(Command::RekeyIke);
        pair.reach_b();
        pair.reach_a();
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
        check_survivor(&mut pair, a_loses);
    }
}

#[test]
fn a_delayed_second_try_is_given_up_when_the_peer_has_finished() {
    for nonces in [[0x00, 0xff, 0xff], [0xff, 0x00, 0xff], [0xff, 0xff, 0x00]] {
        let mut pair = Pair::with(&super::child_rekey::other_groups());
        pair.command_a(Command::RekeyIke);
        pair.command_b(Command::RekeyIke);
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
        pair.give_b(&delayed);
        pair.settle();
        check_survivor(&mut pair, true);
    }
}

#[test]
fn the_winner_or_loser_may_delete_before_the_other_has_its_answer() {
    for (nonces, a_loses) in FOUR {
        let mut pair = both_answered(nonces);
        let delayed = pair.hold_b();
        pair.reach_b();
        // B deletes the old link, or its own redundant one, before A has B's answer.
        assert!(pair.reach_a().deletes_ike());
        assert!(pair.a.closed.is_none());
        pair.reach_b();
        let before = pair.a.current().id;
        pair.give_a(&delayed);
        if a_loses {
            // A forgot its request when the old link was deleted.
            assert_eq!(pair.a.current().id, before);
            assert_eq!(pair.a.core.counters().unexpected, 1);
        }
        pair.settle();
        // Then B waits in vain for A to delete what A never knew.
        pair.pass(Duration::from_secs(310));
        check_survivor(&mut pair, a_loses);
    }
}

/// ```text
///            rekey ----\(lost) /---- rekey
/// detect collision <----------/
///                  ---------------->
///                  <---------------- delete old IKE SA
/// ```
#[test]
fn a_request_that_was_lost_is_forgotten_when_the_peer_deletes_the_old_link() {
    //= rfc7296#section-2.8.2
    //= type=test
    //# If the peer that did notice the simultaneous rekey gets the delete request from the other peer for the old IKE SA, it knows that the other peer did not detect the simultaneous rekey, and the first peer can forget its own rekey attempt.
    for nonces in [[0x00, 0xff, 0xff], [0xff, 0x00, 0xff], [0xff, 0xff, 0x00]] {
        let mut pair = Pair::new();
        pair.nonce(nonces[0]);
        pair.command_a(Command::RekeyIke);
        pair.nonce(nonces[1]);
        pair.command_b(Command::RekeyIke);
        let _lost = pair.hold_a();
        pair.nonce(nonces[2]);
        pair.reach_a();
        pair.reach_b();
        assert!(pair.reach_a().deletes_ike());
        assert!(pair.a.is_idle());
        assert!(pair.reach_b().is_empty());
        check_survivor(&mut pair, true);
    }
}

/// As above, but the request arrives after the peer has finished, before or after its DELETE is answered.
#[test]
fn a_request_that_arrives_when_the_old_link_is_being_deleted_meets_temporary_failure() {
    //= rfc7296#section-2.25.2
    //= type=test
    //# If a peer receives a request to rekey an IKE SA that it is currently trying to close, it SHOULD reply with TEMPORARY_FAILURE.
    for refusal_first in [false, true] {
        for nonces in [[0x00, 0xff, 0xff], [0xff, 0x00, 0xff], [0xff, 0xff, 0x00]] {
            let mut pair = Pair::new();
            pair.nonce(nonces[0]);
            pair.command_a(Command::RekeyIke);
            pair.nonce(nonces[1]);
            pair.command_b(Command::RekeyIke);
            let delayed = pair.hold_a();
            pair.nonce(nonces[2]);
            pair.reach_a();
            pair.reach_b();
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
                pair.give_a(&delete);
            } else {
                pair.give_a(&delete);
                pair.give_a(&refusal);
            }
            check_survivor(&mut pair, true);
        }
    }
}

#[test]
fn a_request_that_arrives_after_the_old_link_is_gone_changes_nothing() {
    for nonces in [[0x00, 0xff, 0xff], [0xff, 0x00, 0xff], [0xff, 0xff, 0x00]] {
        let mut pair = Pair::new();
        pair.nonce(nonces[0]);
        pair.command_a(Command::RekeyIke);
        pair.nonce(nonces[1]);
        pair.command_b(Command::RekeyIke);
        let delayed = pair.hold_a();
        pair.nonce(nonces[2]);
        pair.reach_a();
        pair.reach_b();
        pair.reach_a();
        pair.reach_b();
        pair.give_b(&delayed);
        assert!(pair.b.out.is_empty());
        assert_eq!(pair.b.core.counters().unexpected, 1);
        check_survivor(&mut pair, true);
    }
}

#[test]
fn a_peer_that_uses_its_new_link_has_not_noticed_the_collision() {
    let mut pair = Pair::new();
    pair.command_a(Command::RekeyIke);
    pair.command_b(Command::RekeyIke);
    let lost = pair.hold_a();
    pair.reach_a();
    pair.reach_b();
    // B's DELETE of the old link is late, its next request on the new one is not.
    let delete = pair.hold_b();
    pair.command_b(Command::CheckLiveness);
    pair.reach_a();
    assert_eq!(pair.a.current().id, pair.b.current().id);
    pair.settle();
    pair.give_b(&lost);
    pair.give_a(&delete);
    check_survivor(&mut pair, true);
}

#[test]
fn a_delete_of_the_old_link_that_was_lost_for_good_does_not_end_a_collision_badly() {
    let mut pair = Pair::new();
    pair.command_a(Command::RekeyIke);
    pair.command_b(Command::RekeyIke);
    let lost = pair.hold_a();
    pair.reach_a();
    pair.reach_b();
    let delete = pair.hold_b();
    for _ in 0..40 {
        let Some((at, _)) = pair
            .a
            .core
            .deadline()
            .into_iter()
            .chain(pair.b.core.deadline())
            .min()
        else {
            break;
        };
        pair.now = at;
        pair.fire();
        pair.a.out.retain(|letter| letter.bytes != lost.bytes);
        pair.b.out.retain(|letter| letter.bytes != delete.bytes);
    }
    check_survivor(&mut pair, true);
}

#[test]
fn the_end_of_the_ike_sa_beats_its_rekey() {
    //= rfc7296#section-2.25.2
    //= type=test
    //# If a peer receives a request to close an IKE SA that it is currently rekeying, it SHOULD reply as usual, and forget about its own rekeying request.
    for swap in [false, true] {
        let mut pair = Pair::either(&Setup::default(), swap);
        pair.command_a(Command::RekeyIke);
        pair.command_b(Command::Close);
        pair.reach_b();
        assert!(pair.b.closed.is_none());
        assert!(pair.reach_a().deletes_ike());
        assert_eq!(pair.a.closed, Some(CloseReason::DeletedByPeer));
        assert!(pair.hold_b().seen.unwrap().is_only(NotifyType::TEMPORARY_FAILURE));
        assert!(pair.reach_b().is_empty());
        assert_eq!(pair.b.closed, Some(CloseReason::Requested));
        assert!(pair.a.ike_rekeyed.is_empty() && pair.b.ike_rekeyed.is_empty());
    }
}

#[test]
fn an_end_that_arrives_late_ends_the_retry_of_the_rekey() {
    for swap in [false, true] {
        let mut pair = Pair::either(&Setup::default(), swap);
        pair.command_a(Command::RekeyIke);
        pair.command_b(Command::Close);
        pair.reach_b();
        let delete = pair.hold_b();
        assert!(pair.reach_a().is_only(NotifyType::TEMPORARY_FAILURE));
        assert!(pair.a.closed.is_none() && pair.a.out.is_empty());
        assert_eq!(pair.a.core.deadline().map(|(_, why)| why), Some("request"));
        pair.give_a(&delete);
        assert_eq!(pair.a.closed, Some(CloseReason::DeletedByPeer));
        pair.settle();
        assert_eq!(pair.b.closed, Some(CloseReason::Requested));
    }
}

#[test]
fn two_ends_that_close_at_once_both_end() {
    //= rfc7296#section-2.25.2
    //= type=test
    //# If a peer receives a request to close an IKE SA that it is currently trying to close, it SHOULD reply as usual, and forget about its own close request.
    let mut pair = Pair::new();
    pair.command_a(Command::Close);
    pair.command_b(Command::Close);
    pair.reach_b();
    pair.reach_a();
    assert_eq!(pair.a.closed, Some(CloseReason::Requested));
    assert_eq!(pair.b.closed, Some(CloseReason::Requested));
    assert_eq!(pair.a.out.len(), 1);
    assert!(pair.a.out[0].seen.as_ref().unwrap().is_empty());
}
