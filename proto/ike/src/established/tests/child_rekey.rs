//! Rekeying a child SA without collisions: both ends, with and without a key exchange, and peers with habits.

use super::*;

#[test]
fn a_rekey_makes_a_successor_and_deletes_the_old_child() {
    //= rfc7296#section-1.3.3
    //= type=test
    //# The REKEY_SA notification MUST be included in a CREATE_CHILD_SA exchange if the purpose of the exchange is to replace an existing ESP or AH SA.
    for swap in [false, true] {
        let mut pair = Pair::either(&Setup::default(), swap);
        let (old_a, old_b) = (pair.a.only(), pair.b.only());
        pair.rekey_a();
        assert_eq!(pair.a.state(old_a), Some(State::Rekeying));

        let request = pair.reach_b();
        let rekey = Payloads(&request.payloads)
            .notify(NotifyType::REKEY_SA)
            .unwrap()
            .clone();
        //= rfc7296#section-1.3.3
        //= type=test
        //# The SA being rekeyed is identified by the SPI field in the Notify payload; this is the SPI the exchange initiator would expect in inbound ESP or AH packets.
        assert_eq!((rekey.spi_u32(), rekey.protocol), (Some(old_a), ProtocolId::ESP));
        assert_eq!(pair.b.state(old_b), Some(State::Replaced));
        let new_b = pair.b.only();
        assert_eq!(pair.b.rekeyed, vec![(old_b, new_b)]);
        assert_eq!(pair.b.installed[&new_b].activate, Activate::OnFirstInbound);

        let answer = pair.reach_a();
        assert!(!answer.has_notify(NotifyType::REKEY_SA));
        let new_a = pair.a.only();
        assert_eq!(pair.a.rekeyed, vec![(old_a, new_a)]);
        assert_eq!(pair.a.installed[&new_a].activate, Activate::Now);
        assert_eq!(pair.a.state(old_a), Some(State::Deleting));

        assert_eq!(pair.reach_b().deleted(), vec![old_a]);
        assert_eq!(pair.b.state(old_b), Some(State::Leaving));
        assert_eq!(pair.b.leaving, vec![old_b], "nothing is sent by it");
        assert!(pair.b.ended.is_empty(), "late packets are still taken");
        assert_eq!(pair.reach_a().deleted(), vec![old_b]);
        assert_eq!(pair.a.state(old_a), Some(State::Leaving));
        assert!(pair.a.ended.is_empty(), "here as well");
        pair.check_one_child();
        assert_eq!(pair.a.ended, vec![(old_a, ChildEnd::Rekeyed)]);
        assert_eq!(pair.b.ended, vec![(old_b, ChildEnd::Rekeyed)]);
        assert_eq!(pair.a.core.counters().child_rekeys, 1);
    }
}

#[test]
fn a_peer_that_rekeys_without_end_gets_no_time_for_late_packets() {
    let mut pair = Pair::new();
    for round in 0..30 {
        pair.rekey_a();
        pair.settle();
        let leaving = pair.b.installed.len() - pair.b.in_use().len();
        assert!(leaving <= 4, "{leaving} in round {round}");
        // Its own end waits in any case.
        pair.pass(std::time::Duration::from_millis(500));
    }
    pair.check_one_child();
}

#[test]
fn keys_of_a_rekeyed_child_are_new_with_and_without_key_exchange() {
    for groups in [vec![], vec![Group::Ecp256], vec![Group::Modp2048]] {
        let setup = Setup {
            groups: (groups.clone(), groups.clone()),
            ..Setup::default()
        };
        let mut pair = Pair::with(&setup);
        let before = pair.a.installed[&pair.a.only()].keys_in.clone();
        pair.rekey_a();
        let request = pair.reach_b();
        assert_eq!(Payloads(&request.payloads).ke().is_some(), !groups.is_empty());
        let answer = pair.reach_a();
        assert_eq!(Payloads(&answer.payloads).ke().is_some(), !groups.is_empty());
        pair.settle();
        assert_ne!(pair.a.installed[&pair.a.only()].keys_in, before);
        pair.check_one_child();
    }
}

#[test]
fn a_peer_without_key_exchange_is_mirrored_by_a_policy_with_one() {
    let setup = Setup {
        groups: (Vec::new(), vec![Group::Curve25519]),
        ..Setup::default()
    };
    let mut pair = Pair::with(&setup);
    pair.rekey_a();
    pair.reach_b();
    assert!(Payloads(&pair.reach_a().payloads).ke().is_none());
    pair.check_one_child();
    // What the peer did last, we do next.
    pair.rekey_b();
    assert!(Payloads(&pair.reach_a().payloads).ke().is_none());
    pair.check_one_child();
}

#[test]
fn a_peer_with_key_exchange_is_mirrored_by_a_policy_without_one() {
    let setup = Setup {
        groups: (vec![Group::Ecp384], Vec::new()),
        ..Setup::default()
    };
    let mut pair = Pair::with(&setup);
    pair.rekey_a();
    pair.reach_b();
    assert_eq!(
        Payloads(&pair.reach_a().payloads).ke().unwrap().group.0,
        Group::Ecp384.id()
    );
    pair.check_one_child();
    pair.rekey_b();
    assert_eq!(
        Payloads(&pair.reach_a().payloads).ke().unwrap().group.0,
        Group::Ecp384.id()
    );
    pair.check_one_child();
}

#[test]
fn a_group_that_the_peer_does_not_want_is_changed_for_the_one_it_names() {
    //= rfc7296#section-1.3
    //= type=test
    //# If the responder selects a proposal using a different Diffie-Hellman group (other than NONE), the responder MUST reject the request and indicate its preferred Diffie-Hellman group in the INVALID_KE_PAYLOAD Notify payload.
    for swap in [false, true] {
        let setup = other_groups();
        let mut pair = Pair::either(&setup, swap);
        let (old_a, old_b) = (pair.a.only(), pair.b.only());
        pair.rekey_a();
        pair.reach_b();
        assert_eq!(pair.b.state(old_b), Some(State::Installed));
        let refusal = pair.reach_a();
        assert!(refusal.is_only(NotifyType::INVALID_KE_PAYLOAD));
        assert_eq!(pair.a.state(old_a), Some(State::Rekeying));
        let again = pair.reach_b();
        assert!(again.has_notify(NotifyType::REKEY_SA));
        assert_eq!(
            Payloads(&again.payloads).ke().unwrap().group.0,
            Group::Ecp384.id()
        );
        pair.settle();
        pair.check_one_child();
        assert_ne!(pair.a.only(), old_a);
    }
}

/// Both ends prefer a group that the other does not have, and share a third.
pub(super) fn other_groups() -> Setup {
    let groups = (
        vec![Group::Curve25519, Group::Ecp384],
        vec![Group::Ecp256, Group::Ecp384],
    );
    Setup {
        groups: groups.clone(),
        ike_groups: groups,
        ..Setup::default()
    }
}

#[test]
fn without_a_common_group_the_rekey_is_refused_and_the_old_child_stays() {
    let setup = Setup {
        groups: (vec![Group::Curve25519], vec![Group::Ecp256]),
        ..Setup::default()
    };
    let mut pair = Pair::with(&setup);
    let old = pair.a.only();
    pair.rekey_a();
    pair.reach_b();
    assert!(pair.reach_a().is_only(NotifyType::NO_PROPOSAL_CHOSEN));
    assert_eq!(pair.a.state(old), Some(State::Installed));
    assert!(
        pair.a.warnings[0].contains("NO_PROPOSAL_CHOSEN"),
        "{:?}",
        pair.a.warnings
    );
    pair.check();
    // It tries again, but not at once.
    assert!(pair.a.out.is_empty());
    pair.pass(Duration::from_secs(29));
    assert_eq!(pair.b.warnings.len(), 1);
    pair.pass(Duration::from_secs(20));
    assert_eq!(pair.b.warnings.len(), 2);
}

#[test]
fn selectors_that_a_client_widens_in_a_rekey_are_narrowed_to_the_old_ones() {
    let mut pair = Pair::new();
    let old_a = pair.a.only();
    // A behaves like the built-in clients of Windows and iOS: everything to everywhere.
    let wide = vec![Selector::ANY_V4, Selector::ANY_V6];
    let child = pair.a.core.children.by_in_mut(old_a).unwrap();
    (child.sa.ts_local, child.sa.ts_remote) = (wide.clone(), wide);
    pair.rekey_a();
    pair.reach_b();
    let answer = pair.reach_a();
    let ts =
        |ts: Option<&[crate::wire::TrafficSelector]>| crate::wire::TrafficSelector::to_selectors(ts.unwrap());
    assert_eq!(ts(Payloads(&answer.payloads).ts_i()), vec![net("10.1.0.0/24")]);
    assert_eq!(ts(Payloads(&answer.payloads).ts_r()), vec![net("10.2.0.0/24")]);
    pair.check_one_child();
}

#[test]
fn an_answer_that_widens_the_selectors_is_deleted_and_made_anew() {
    let mut pair = Pair::new();
    let old_a = pair.a.only();
    pair.rekey_a();
    pair.reach_b();
    let answer = pair.hold_b();
    let seen = answer.seen.clone().unwrap();
    let wide = vec![crate::wire::TrafficSelector::from(&Selector::ANY_V4)];
    let payloads = seen.payloads.iter().cloned().map(|payload| match payload {
        Payload::TsR(_) => Payload::TsR(wide.clone()),
        other => other,
    });
    let forged = pair.b.reseal(&answer, &payloads.collect::<Vec<_>>());
    pair.give_a(&forged);
    assert!(pair.a.rekeyed.is_empty());
    assert_eq!(pair.a.ended, vec![(old_a, ChildEnd::Failed)]);
    assert_eq!(pair.reach_b().deleted().len(), 1, "the successor that only B has");
    pair.settle();
    assert_eq!(
        pair.a.installed[&pair.a.only()].ts_remote,
        vec![net("10.2.0.0/24")]
    );
    pair.pass(Duration::from_secs(310));
    pair.check_one_child();
}

#[test]
fn a_responder_waiting_for_the_delete_ignores_its_own_soft_limit() {
    let mut pair = Pair::new();
    let old_b = pair.b.only();
    pair.rekey_a();
    pair.reach_b();
    pair.reach_a();
    pair.command_b(Command::RekeyChild {
        spi_in: old_b,
        group: None,
    });
    assert_eq!(pair.b.state(old_b), Some(State::Replaced));
    assert_eq!(pair.b.out.len(), 0);
    pair.check_one_child();
}

#[test]
fn a_responder_waiting_for_the_delete_lets_its_hard_limit_pass_in_silence() {
    let mut pair = Pair::new();
    let (old_a, old_b) = (pair.a.only(), pair.b.only());
    pair.rekey_a();
    pair.reach_b();
    let answer = pair.hold_b();
    pair.command_b(Command::DeleteChild { spi_in: old_b });
    assert!(pair.b.out.is_empty(), "the peer may not have the answer yet");
    assert_eq!(pair.b.ended, vec![(old_b, ChildEnd::Rekeyed)]);
    pair.give_a(&answer);
    assert_eq!(pair.reach_b().deleted(), vec![old_a]);
    assert!(pair.reach_a().is_empty());
    pair.check_one_child();
}

#[test]
fn a_responder_may_delete_the_successor_before_the_old_child_is_gone() {
    let mut pair = Pair::new();
    pair.rekey_a();
    pair.reach_b();
    pair.reach_a();
    let new_b = pair.b.only();
    pair.command_b(Command::DeleteChild { spi_in: new_b });
    pair.linger();
    pair.check();
    assert!(pair.a.installed.is_empty());
    assert!(pair.a.closed.is_none());
    assert!(
        pair.a
            .ended
            .iter()
            .any(|(_, end)| *end == ChildEnd::DeletedByPeer)
    );
}

#[test]
fn a_child_that_the_responder_lost_is_made_from_scratch() {
    //= rfc7296#section-2.25
    //= type=test
    //# A peer that receives a CHILD_SA_NOT_FOUND notification SHOULD silently delete the Child SA (if it still exists) and send a request to create a new Child SA from scratch (if the Child SA does not yet exist).
    let mut pair = Pair::new();
    let (old_a, old_b) = (pair.a.only(), pair.b.only());
    pair.rekey_a();
    pair.b.core.drop_child(old_b, ChildEnd::Failed);
    pair.reach_b();
    let answer = pair.reach_a();
    assert!(answer.is_only(NotifyType::CHILD_SA_NOT_FOUND));
    //= rfc7296#section-2.25
    //= type=test
    //# The SA that the initiator attempted to rekey is indicated by the SPI field in the Notify payload, which is copied from the SPI field in the REKEY_SA notification.
    let notify = Payloads(&answer.payloads)
        .notify(NotifyType::CHILD_SA_NOT_FOUND)
        .unwrap();
    assert_eq!(notify.spi_u32(), Some(old_a));
    assert_eq!(pair.a.ended, vec![(old_a, ChildEnd::Failed)]);
    let request = pair.reach_b();
    assert!(!request.has_notify(NotifyType::REKEY_SA));
    pair.settle();
    pair.check_one_child();
}

#[test]
fn a_responder_that_deletes_the_old_child_itself_disturbs_nothing() {
    let mut pair = Pair::new();
    let (old_a, old_b) = (pair.a.only(), pair.b.only());
    pair.rekey_a();
    pair.reach_b();
    let answer = pair.hold_b();
    // Against the rules, the responder deletes the old child, and its DELETE overtakes the answer.
    pair.b.core.children.by_in_mut(old_b).unwrap().state = State::Installed;
    pair.command_b(Command::DeleteChild { spi_in: old_b });
    assert_eq!(pair.reach_a().deleted(), vec![old_b]);
    assert_eq!(pair.a.ended, vec![(old_a, ChildEnd::DeletedByPeer)]);
    pair.give_a(&answer);
    pair.settle();
    pair.check_one_child();
    assert_eq!(pair.a.rekeyed.len(), 1);
}

#[test]
fn a_delete_that_is_never_answered_takes_the_old_child_down_once() {
    let mut pair = Pair::new();
    let old_a = pair.a.only();
    pair.rekey_a();
    pair.reach_b();
    pair.reach_a();
    // Everything is lost from here on.
    for _ in 0..20 {
        pair.a.out.clear();
        let Some((at, _)) = pair.a.core.deadline() else {
            break;
        };
        pair.now = at;
        pair.a.handle(at, Input::Timeout);
    }
    assert_eq!(pair.a.closed, Some(CloseReason::PeerDead));
    let downs: Vec<_> = pair.a.ended.iter().filter(|(spi, _)| *spi == old_a).collect();
    assert_eq!(downs.len(), 1);
    assert!(pair.a.spis.taken.lock().unwrap().is_empty());
}

#[test]
fn a_peer_that_never_deletes_what_it_replaced_is_helped_after_a_while() {
    let mut pair = Pair::new();
    let old_b = pair.b.only();
    pair.rekey_a();
    pair.reach_b();
    pair.reach_a();
    // A forgets its DELETE.
    pair.a.out.clear();
    pair.a.core.current.window.pending = None;
    pair.a.core.current.window.next_send -= 1;
    let old_a = pair.a.rekeyed[0].0;
    pair.a.core.children.by_in_mut(old_a).unwrap().state = State::Replaced;
    pair.pass(Duration::from_secs(310));
    assert_eq!(pair.b.ended, vec![(old_b, ChildEnd::Rekeyed)]);
    pair.check_one_child();
}

#[test]
fn a_peer_that_rekeys_and_never_deletes_is_stopped() {
    for ike in [false, true] {
        let setup = Setup {
            max_children: 1,
            ..Setup::default()
        };
        let mut pair = Pair::with(&setup);
        let mut refused = 0;
        for _ in 0..50 {
            if ike {
                pair.command_a(Command::RekeyIke);
            } else {
                pair.rekey_a();
            }
            pair.reach_b();
            refused += usize::from(pair.reach_a().payloads.len() == 1);
            // A keeps its DELETE to itself.
            pair.a.out.clear();
            if ike {
                pair.a.core.others.clear();
            } else {
                pair.a.core.current.window.pending = None;
                pair.a.core.current.window.next_send = pair.b.core.current.window.next_recv;
            }
        }
        assert!(refused > 30, "{refused}");
        assert!(pair.b.core.children().count() <= 11);
        assert!(pair.b.core.spis().count() <= 9);
    }
}

#[test]
fn further_children_are_made_within_policy_and_limit() {
    //= rfc7296#section-1.3
    //= type=test
    //# The responder sends a NO_ADDITIONAL_SAS notification to indicate that a CREATE_CHILD_SA request is unacceptable because the responder is unwilling to accept any more Child SAs on this IKE SA.
    let setup = Setup {
        max_children: 2,
        ..Setup::default()
    };
    for swap in [false, true] {
        let mut pair = Pair::either(&setup, swap);
        let (ts_local, ts_remote) = (pair.a.core.policy.ts_local.clone(), vec![Selector::ANY_V4]);
        let command = Command::CreateChild { ts_local, ts_remote };
        pair.command_a(command.clone());
        pair.settle();
        pair.check();
        assert_eq!(pair.a.installed.len(), 2);
        let second = pair.a.installed.values().last().unwrap();
        assert_eq!(second.ts_remote, pair.b.core.policy.ts_local);
        assert_eq!(pair.b.installed.values().last().unwrap().activate, Activate::Now);
        pair.command_a(command);
        pair.reach_b();
        assert!(pair.reach_a().is_only(NotifyType::NO_ADDITIONAL_SAS));
        pair.check();
    }
}

#[test]
fn selectors_outside_the_policy_are_unacceptable() {
    //= rfc7296#section-2.9
    //= type=test
    //# If the responder's policy does not allow it to accept any part of the proposed Traffic Selectors, it responds with a TS_UNACCEPTABLE Notify message.
    let mut pair = Pair::new();
    let (ts_local, ts_remote) = (vec![net("10.1.0.0/24")], vec![net("172.16.0.0/12")]);
    let command = Command::CreateChild { ts_local, ts_remote };
    // Ours are not even asked for.
    pair.command_a(command.clone());
    assert!(pair.a.out.is_empty() && pair.a.warnings[0].contains("outside the policy"));
    // A peer that asks is refused.
    pair.a.core.policy.ts_remote = vec![Selector::ANY_V4];
    pair.command_a(command);
    pair.reach_b();
    assert!(pair.reach_a().is_only(NotifyType::TS_UNACCEPTABLE));
    pair.check();
    assert_eq!(pair.a.installed.len(), 1);
}

#[test]
fn a_wide_wish_is_narrowed_to_our_own_policy() {
    let mut pair = Pair::new();
    pair.b.core.policy.ts_local = vec![Selector::ANY_V4];
    pair.b.core.policy.ts_remote = vec![Selector::ANY_V4];
    let (ts_local, ts_remote) = (vec![Selector::ANY_V4], vec![Selector::ANY_V4]);
    pair.command_a(Command::CreateChild { ts_local, ts_remote });
    pair.settle();
    pair.check();
    let second = pair.a.installed.values().last().unwrap();
    assert_eq!(second.ts_local, vec![net("10.1.0.0/24")]);
    assert_eq!(second.ts_remote, vec![net("10.2.0.0/24")]);
}
