//! Deleting child SAs and the IKE SA, liveness, and the end that silence brings.

use super::*;

#[test]
fn a_delete_closes_both_halves_and_is_answered_with_the_other_spi() {
    for swap in [false, true] {
        let mut pair = Pair::either(&Setup::default(), swap);
        let (spi_a, spi_b) = (pair.a.only(), pair.b.only());
        pair.command_a(Command::DeleteChild { spi_in: spi_a });
        //= rfc7296#section-1.4.1
        //= type=test
        //# To delete an SA, an INFORMATIONAL exchange with one or more Delete payloads is sent listing the SPIs (as they would be expected in the headers of inbound packets) of the SAs to be deleted.
        assert_eq!(pair.reach_b().deleted(), vec![spi_a]);
        assert_eq!(pair.b.ended, vec![(spi_b, ChildEnd::DeletedByPeer)]);
        assert_eq!(pair.reach_a().deleted(), vec![spi_b]);
        assert_eq!(pair.a.ended, vec![(spi_a, ChildEnd::DeletedByUs)]);
        pair.check();
        assert!(pair.a.closed.is_none(), "the IKE SA stays");
    }
}

#[test]
fn two_deletes_of_one_child_cross_without_delete_payloads_in_the_answers() {
    //= rfc7296#section-2.25.1
    //= type=test
    //# If a peer receives a request to close a Child SA that it is currently trying to close, it SHOULD reply without a Delete payload (see Section 1.4.1).
    let mut pair = Pair::new();
    let (spi_a, spi_b) = (pair.a.only(), pair.b.only());
    pair.command_a(Command::DeleteChild { spi_in: spi_a });
    pair.command_b(Command::DeleteChild { spi_in: spi_b });
    pair.reach_b();
    pair.reach_a();
    assert!(pair.reach_a().is_empty());
    assert!(pair.reach_b().is_empty());
    pair.check();
    assert_eq!((pair.a.ended.len(), pair.b.ended.len()), (1, 1));
}

#[test]
fn one_message_may_delete_several_children_known_and_unknown_and_twice() {
    //= rfc7296#section-1.4.1
    //= type=test
    //# The recipient MUST close the designated SAs.
    let mut pair = Pair::new();
    let (ts_local, ts_remote) = (
        pair.a.core.policy.ts_local.clone(),
        pair.a.core.policy.ts_remote.clone(),
    );
    pair.command_a(Command::CreateChild { ts_local, ts_remote });
    pair.settle();
    let (all_a, all_b) = (pair.a.in_use(), pair.b.in_use());
    assert_eq!(all_a.len(), 2);
    pair.command_a(Command::CheckLiveness);
    let probe = pair.hold_a();
    let protocol = ProtocolId::ESP;
    let spis = vec![0xdead_beef, all_a[0], all_a[1], all_a[0]];
    let ah = Payload::Delete {
        protocol: ProtocolId::AH,
        spis: vec![all_a[0]],
    };
    let forged = pair.a.reseal(&probe, &[Payload::Delete { protocol, spis }, ah]);
    pair.give_b(&forged);
    assert_eq!(pair.b.out[0].seen.as_ref().unwrap().deleted(), all_b);
    assert!(pair.b.installed.is_empty());
    assert!(pair.b.closed.is_none());
}

#[test]
fn an_end_is_answered_and_takes_all_children_along() {
    //= rfc7296#section-1.4.1
    //= type=test
    //# Deleting an IKE SA implicitly closes any remaining Child SAs negotiated under it.
    //= rfc7296#section-1.4.1
    //= type=test
    //# The response to a request that deletes the IKE SA is an empty INFORMATIONAL response.
    for swap in [false, true] {
        let mut pair = Pair::either(&Setup::default(), swap);
        pair.command_a(Command::Close);
        assert!(pair.reach_b().deletes_ike());
        assert_eq!(pair.b.closed, Some(CloseReason::DeletedByPeer));
        assert_eq!(pair.b.ended[0].1, ChildEnd::IkeGone);
        assert!(pair.reach_a().is_empty());
        assert_eq!(pair.a.closed, Some(CloseReason::Requested));
        assert!(pair.a.core.deadline().is_none() && pair.a.core.snapshot(pair.now).is_none());
        assert!(pair.a.spis.taken.lock().unwrap().is_empty());
        assert!(pair.b.spis.taken.lock().unwrap().is_empty());
    }
}

#[test]
fn an_end_waits_for_the_request_under_way_and_forgets_what_was_planned() {
    let mut pair = Pair::new();
    pair.command_a(Command::CheckLiveness);
    pair.rekey_a();
    pair.command_a(Command::Close);
    assert_eq!(pair.a.out.len(), 1);
    pair.reach_b();
    pair.reach_a();
    assert!(pair.reach_b().deletes_ike());
    pair.settle();
    assert_eq!(pair.a.closed, Some(CloseReason::Requested));
    assert!(pair.a.rekeyed.is_empty());
}

#[test]
fn an_end_that_nobody_answers_ends_all_the_same() {
    let mut pair = Pair::new();
    pair.command_a(Command::Close);
    while pair.a.closed.is_none() {
        pair.a.out.clear();
        pair.now = pair.a.core.deadline().unwrap().0;
        pair.a.handle(pair.now, Input::Timeout);
    }
    assert_eq!(pair.a.closed, Some(CloseReason::Requested));
}

#[test]
fn silence_is_probed_and_a_dead_peer_is_left() {
    //= rfc7296#section-2.4
    //= type=test
    //# If no cryptographically protected messages have been received on an IKE SA or any of its Child SAs recently, the system needs to perform a liveness check in order to prevent sending messages to a dead peer.
    let setup = Setup {
        liveness: Some(Duration::from_secs(30)),
        ..Setup::default()
    };
    let mut pair = Pair::with(&setup);
    assert_eq!(
        pair.a.core.deadline(),
        Some((pair.now + Duration::from_secs(30), "liveness"))
    );
    pair.pass(Duration::from_secs(300));
    assert!(pair.a.closed.is_none());
    // Each probe is a sign of life for both, so one side's probes spare the other's.
    let probes = pair.a.core.counters().liveness_checks + pair.b.core.counters().liveness_checks;
    assert!((10..=20).contains(&probes), "{probes}");
    // B is gone.
    let start = pair.now;
    while pair.a.closed.is_none() {
        pair.a.out.clear();
        pair.now = pair.a.core.deadline().unwrap().0;
        pair.a.handle(pair.now, Input::Timeout);
    }
    assert_eq!(pair.a.closed, Some(CloseReason::PeerDead));
    assert!(
        pair.now - start < Duration::from_secs(160),
        "{:?}",
        pair.now - start
    );
    assert_eq!(pair.a.core.counters().retransmits_out, 5);
    assert_eq!(pair.a.ended, vec![(0x0001_0100, ChildEnd::IkeGone)]);
}

#[test]
fn traffic_counts_as_a_sign_of_life() {
    let setup = Setup {
        liveness: Some(Duration::from_secs(30)),
        ..Setup::default()
    };
    let mut pair = Pair::with(&setup);
    for _ in 0..20 {
        pair.now += Duration::from_secs(20);
        let at = pair.now;
        pair.command_a(Command::InboundSeen { at });
        pair.fire();
    }
    assert_eq!(pair.a.core.counters().liveness_checks, 0);
    assert_eq!(
        pair.a.core.deadline().unwrap().0,
        pair.now + Duration::from_secs(30)
    );
}

#[test]
fn a_probe_is_an_empty_request_and_gets_an_empty_response() {
    //= rfc7296#section-2.4
    //= type=test
    //# To check whether the other side is alive, IKE specifies an empty INFORMATIONAL request that (like all IKE requests) requires an acknowledgement (note that within the context of an IKE SA, an "empty" message consists of an IKE header followed by an Encrypted payload that contains no payloads).
    //= rfc7296#section-1.4
    //= type=test
    //# The recipient of an INFORMATIONAL exchange request MUST send some response; otherwise, the sender will assume the message was lost in the network and will retransmit it.
    let mut pair = Pair::new();
    pair.command_a(Command::CheckLiveness);
    let probe = pair.reach_b();
    assert!(probe.is_empty() && probe.header.exchange == ExchangeType::INFORMATIONAL);
    assert!(pair.reach_a().is_empty());
    assert!(pair.a.is_idle());
}
