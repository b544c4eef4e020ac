//! Rekeying the IKE SA without collisions.

use super::*;

#[test]
fn the_ike_sa_goes_on_under_new_keys_and_the_old_one_is_deleted() {
    //= rfc7296#section-2.8
    //= type=test
    //# After the new equivalent IKE SA is created, the initiator deletes the old IKE SA, and the Delete payload to delete itself MUST be the last request sent over the old IKE SA.
    for swap in [false, true] {
        let mut pair = Pair::either(&Setup::default(), swap);
        let (old, child) = (pair.a.current().id, pair.a.only());
        let role = pair.a.core.role();
        pair.command_a(Command::RekeyIke);
        let request = pair.reach_b();
        //= rfc7296#section-1.3.2
        //= type=test
        //# The KEi payload MUST be included.
        assert!(Payloads(&request.payloads).ke().is_some() && Payloads(&request.payloads).ts_i().is_none());
        //= rfc7296#section-1.3.2
        //= type=test
        //# The new IKE SA also has its window size reset to 1, and the initiator in this rekey exchange is the new "original initiator" of the new IKE SA.
        assert_eq!(pair.b.core.role(), Role::Responder);
        assert_eq!(pair.b.ike_rekeyed.len(), 1);
        pair.reach_a();
        assert_eq!(pair.a.core.role(), Role::Initiator);
        assert_ne!(pair.a.current().id, old);
        let delete = pair.reach_b();
        assert!(delete.deletes_ike());
        assert_eq!((delete.header.spi_i, delete.header.spi_r), (old.0, old.1));
        let answer = pair.reach_a();
        assert!(answer.is_empty());
        assert!(pair.a.closed.is_none() && pair.b.closed.is_none());
        assert_eq!(pair.a.dispatch.len(), 1);
        pair.check_one_child();
        assert_eq!(pair.a.only(), child, "children move over");
        assert!(pair.a.ended.is_empty());
        // Either end may go on from here, and either may rekey again.
        //= rfc7296#section-2.18
        //= type=test
        //# The new IKE SA MUST reset its message counters to 0.
        assert_eq!(
            (
                pair.a.current().window.next_send,
                pair.a.current().window.next_recv
            ),
            (0, 0)
        );
        pair.rekey_b();
        pair.settle();
        pair.command_b(Command::RekeyIke);
        pair.check_one_child();
        assert_eq!(pair.a.core.counters().ike_rekeys, 2);
        assert_eq!(pair.b.core.role(), Role::Initiator);
        let _ = role;
    }
}

#[test]
fn a_group_that_the_peer_does_not_want_is_changed_for_the_one_it_names() {
    for swap in [false, true] {
        let mut pair = Pair::either(&super::child_rekey::other_groups(), swap);
        let old = pair.a.current().id;
        pair.command_a(Command::RekeyIke);
        pair.reach_b();
        assert_eq!(pair.b.current().id, old);
        assert!(pair.reach_a().is_only(NotifyType::INVALID_KE_PAYLOAD));
        assert_eq!(pair.a.current().id, old);
        let again = pair.reach_b();
        assert_eq!(
            Payloads(&again.payloads).ke().unwrap().group.0,
            Group::Ecp384.id()
        );
        pair.settle();
        pair.check_one_child();
        assert_eq!(pair.a.core.suite().group, Group::Ecp384);
    }
}

#[test]
fn without_a_common_group_the_old_ike_sa_stays() {
    let setup = Setup {
        ike_groups: (vec![Group::Curve25519], vec![Group::Ecp256]),
        ..Setup::default()
    };
    let mut pair = Pair::with(&setup);
    pair.command_a(Command::RekeyIke);
    pair.reach_b();
    assert!(pair.reach_a().is_only(NotifyType::NO_PROPOSAL_CHOSEN));
    pair.check();
    assert!(pair.b.warnings[0].contains("IKE rekey refused"));
}

#[test]
fn the_answer_to_a_rekey_is_repeated_on_the_old_link_after_the_switch() {
    let mut pair = Pair::new();
    pair.command_a(Command::RekeyIke);
    let request = pair.a.out[0].clone();
    pair.reach_b();
    let first = pair.hold_b();
    pair.give_b(&request);
    let second = pair.hold_b();
    assert_eq!(first.bytes, second.bytes);
    assert_eq!((first.durable, second.durable), (true, false));
    pair.give_a(&second);
    pair.give_a(&first);
    pair.check_one_child();
    assert_eq!(pair.a.core.counters().unexpected, 1);
}

#[test]
fn a_repeated_delete_of_the_old_link_is_answered_for_a_while() {
    let mut pair = Pair::new();
    pair.command_a(Command::RekeyIke);
    pair.reach_b();
    pair.reach_a();
    let delete = pair.a.out[0].clone();
    pair.reach_b();
    let answer = pair.hold_b();
    pair.give_b(&delete);
    assert_eq!(pair.hold_b().bytes, answer.bytes);
    assert_eq!(pair.b.dispatch.len(), 2);
    pair.pass(Duration::from_secs(60));
    pair.settle();
    assert_eq!(pair.b.dispatch.len(), 1);
    assert!(pair.a.closed.is_none());
    pair.check_one_child();
}

#[test]
fn a_delete_of_the_old_link_that_is_never_answered_does_not_end_the_new_one() {
    let mut pair = Pair::new();
    pair.command_a(Command::RekeyIke);
    pair.reach_b();
    pair.reach_a();
    let lost = pair.hold_a();
    while pair.a.old_links() > 0 {
        pair.now = pair.a.core.deadline().unwrap().0;
        pair.fire();
        pair.a.out.retain(|letter| letter.bytes != lost.bytes);
    }
    assert!(pair.a.closed.is_none());
    // B forgets its side after some patience.
    pair.pass(Duration::from_secs(310));
    pair.check_one_child();
}

#[test]
fn children_are_refused_on_a_replaced_link_and_deletes_are_answered() {
    let mut pair = Pair::new();
    let spi_in = pair.b.only();
    pair.command_a(Command::RekeyIke);
    let rekey = pair.hold_a();
    // B asks to delete its child at the same time, on the old link.
    pair.command_b(Command::DeleteChild { spi_in });
    pair.give_b(&rekey);
    pair.reach_a();
    assert!(
        pair.reach_a().is_only(NotifyType::TEMPORARY_FAILURE),
        "B is closing a child"
    );
    pair.settle();
    pair.pass(Duration::from_secs(30));
    pair.linger();
    pair.check();
    assert!(pair.a.installed.is_empty());
    assert_eq!(pair.a.core.counters().ike_rekeys, 1);
}

#[test]
fn liveness_under_way_does_not_hinder_the_peers_rekey() {
    let mut pair = Pair::new();
    pair.command_b(Command::CheckLiveness);
    let probe = pair.hold_b();
    pair.command_a(Command::RekeyIke);
    pair.reach_b();
    pair.reach_a();
    // The probe arrives on the old link after A has replaced it.
    pair.give_a(&probe);
    pair.settle();
    pair.check_one_child();
    assert!(pair.b.is_idle());
}
