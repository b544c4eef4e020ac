//! Messages that are repeated, late, forged, broken, fragmented, or from elsewhere.

use super::*;
use crate::wire::{KeId, KeyExchange, PayloadType, Proposal, SaPayload, Transform, TransformType};

/// A request of A with these payloads in the place of the one that A is about to send.
fn forged(pair: &mut Pair, exchange: ExchangeType, payloads: &[Payload]) -> Letter {
    pair.command_a(Command::CheckLiveness);
    let mut letter = pair.hold_a();
    letter.seen.as_mut().unwrap().header.exchange = exchange;
    pair.a.reseal(&letter, payloads)
}

#[test]
fn a_repeated_request_gets_the_same_octets_and_does_nothing_twice() {
    //= rfc7296#section-2.1
    //= type=test
    //# If the responder receives a retransmitted request for which it has already forgotten the response, it MUST ignore the request (and not, for example, attempt constructing a new response).
    let mut pair = Pair::new();
    pair.rekey_a();
    let request = pair.hold_a();
    pair.give_b(&request);
    pair.give_b(&request);
    let (first, second) = (pair.hold_b(), pair.hold_b());
    assert_eq!(first.bytes, second.bytes);
    assert_eq!((first.durable, second.durable), (true, false));
    assert_eq!(pair.b.installed.len(), 2);
    assert_eq!(pair.b.core.counters().retransmits_in, 1);
    pair.give_a(&first);
    pair.give_a(&second);
    pair.check_one_child();
    // The old request is outside the window.
    pair.command_a(Command::CheckLiveness);
    pair.settle();
    pair.give_b(&request);
    assert!(pair.b.out.is_empty());
    assert_eq!(pair.a.core.counters().unexpected, 1);
}

#[test]
fn a_request_from_a_new_port_is_answered_there() {
    //= rfc7296#section-2.11
    //= type=test
    //# An implementation MUST accept incoming requests even if the source port is not 500 or 4500, and MUST respond to the address and port from which the request was received.
    let mut pair = Pair::new();
    pair.command_a(Command::CheckLiveness);
    let mut letter = pair.hold_a();
    let known = pair.b.core.remote();
    letter.from = "203.0.113.9:61000".parse().unwrap();
    pair.give_b(&letter);
    assert_eq!(pair.hold_b().to, letter.from);
    // Nobody is behind NAT: the address is not taken over.
    assert_eq!((pair.b.core.remote(), pair.b.address), (known, None));
}

#[test]
fn a_peer_behind_nat_may_change_its_address_but_not_by_a_replay() {
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
    let setup = Setup {
        nat: (behind, facing),
        ..Setup::default()
    };
    let mut pair = Pair::with(&setup);
    let moved = "203.0.113.9:61000".parse().unwrap();
    pair.command_a(Command::CheckLiveness);
    let mut letter = pair.hold_a();
    letter.from = moved;
    pair.give_b(&letter);
    assert_eq!((pair.b.core.remote(), pair.b.address), (moved, Some(moved)));
    assert!(pair.b.core.children().all(|sa| sa.remote == moved));
    letter.from = "203.0.113.66:666".parse().unwrap();
    pair.give_b(&letter);
    assert_eq!(pair.b.core.remote(), moved);
    // The one behind NAT does not follow a peer that seems to move.
    pair.command_b(Command::CheckLiveness);
    pair.b.out.clear();
    pair.now += Duration::from_secs(3);
    pair.fire();
    let mut letter = pair.b.out.pop_back().unwrap();
    assert_eq!(letter.to, moved);
    letter.from = "203.0.113.77:4500".parse().unwrap();
    pair.give_a(&letter);
    assert_eq!(pair.a.address, None);
    // Authentic ESP may tell as well.
    let again = "203.0.113.10:62000".parse().unwrap();
    pair.command_b(Command::PeerMoved { remote: again });
    assert_eq!(pair.b.core.remote(), again);
}

#[test]
fn what_is_not_authentic_changes_nothing_and_is_counted() {
    //= rfc7296#section-2.4
    //= type=test
    //# Since IKE is designed to operate in spite of DoS attacks from the network, an endpoint MUST NOT conclude that the other endpoint has failed based on any routing information (e.g., ICMP messages) or IKE messages that arrive without cryptographic protection (e.g., Notify messages complaining about unknown SPIs).
    let mut pair = Pair::new();
    pair.command_a(Command::Close);
    let letter = pair.hold_a();
    let before = format!("{:?}", pair.b.core.snapshot(pair.now).unwrap());
    let strip = |text: String| text.split(", counters:").next().unwrap().to_owned();
    for bit in 0..letter.bytes.len() * 8 {
        let mut bad = letter.clone();
        bad.bytes[bit / 8] ^= 1 << (bit % 8);
        pair.give_b(&bad);
    }
    for length in 0..letter.bytes.len() {
        let mut bad = letter.clone();
        bad.bytes.truncate(length);
        pair.give_b(&bad);
    }
    assert!(pair.b.out.is_empty() && pair.b.closed.is_none());
    assert_eq!(
        strip(format!("{:?}", pair.b.core.snapshot(pair.now).unwrap())),
        strip(before)
    );
    let counters = *pair.b.core.counters();
    assert!(counters.integrity_failures > 300, "{counters:?}");
    assert!(
        counters.unexpected > 100 && counters.malformed > 50,
        "{counters:?}"
    );
    // A forged error in the clear is nothing either.
    let header = Header::new(
        pair.b.core.spi_i(),
        pair.b.core.spi_r(),
        ExchangeType::INFORMATIONAL,
        crate::wire::Flags::response(true),
        0,
    );
    let notify = Payload::Notify(crate::wire::Notify::new(NotifyType::INVALID_IKE_SPI));
    let bytes = crate::wire::Message::new(header, vec![notify]).encode().unwrap();
    pair.give_b(&Letter {
        bytes,
        ..letter.clone()
    });
    assert!(pair.b.closed.is_none());
    pair.give_b(&letter);
    assert_eq!(pair.b.closed, Some(CloseReason::DeletedByPeer));
}

#[test]
fn a_message_of_ours_that_is_reflected_is_dropped() {
    let mut pair = Pair::new();
    pair.command_a(Command::Close);
    let mut letter = pair.hold_a();
    std::mem::swap(&mut letter.from, &mut letter.to);
    pair.give_a(&letter);
    assert!(pair.a.closed.is_none());
    assert_eq!(pair.a.core.counters().unexpected, 1);
}

#[test]
fn responses_that_nobody_asked_for_are_dropped() {
    let mut pair = Pair::new();
    pair.command_b(Command::CheckLiveness);
    pair.reach_a();
    let answer = pair.hold_a();
    pair.give_b(&answer);
    pair.give_b(&answer);
    // The right message ID, but another exchange.
    pair.command_b(Command::CheckLiveness);
    pair.reach_a();
    let mut wrong = pair.hold_a();
    let seen = wrong.seen.as_mut().unwrap();
    seen.header.exchange = ExchangeType::CREATE_CHILD_SA;
    let forged = pair.a.reseal(&wrong, &[]);
    pair.give_b(&forged);
    assert_eq!(pair.b.core.counters().unexpected, 2);
    assert!(!pair.b.is_idle() && pair.b.closed.is_none());
}

#[test]
fn a_request_ahead_of_the_window_is_not_answered_but_reported_now_and_then() {
    //= rfc7296#section-2.3
    //= type=test
    //# Sending this notification is OPTIONAL, and notifications of this type MUST be rate limited.
    let mut pair = Pair::new();
    pair.command_a(Command::CheckLiveness);
    let mut letter = pair.hold_a();
    letter.seen.as_mut().unwrap().header.message_id += 5;
    let id = letter.seen.as_ref().unwrap().header.message_id;
    let ahead = pair.a.reseal(&letter, &[]);
    for _ in 0..50 {
        pair.give_b(&ahead);
    }
    assert_eq!(pair.b.out.len(), 1);
    //= rfc7296#section-2.3
    //= type=test
    //# Instead, inform the other side by initiating an INFORMATIONAL exchange with Notification Data containing the four-octet invalid Message ID.
    let report = pair.reach_a();
    assert!(report.is_only(NotifyType::INVALID_MESSAGE_ID) && !report.header.flags.response);
    let notify = Payloads(&report.payloads)
        .notify(NotifyType::INVALID_MESSAGE_ID)
        .unwrap();
    assert_eq!(notify.data, id.to_be_bytes());
    //= rfc7296#section-2.21.4
    //= type=test
    //# The recipient MUST NOT change the state of any SAs as a result, but may wish to audit the event to aid in diagnosing malfunctions.
    assert!(pair.a.warnings[0].contains("INVALID_MESSAGE_ID"));
    pair.settle();
    pair.now += Duration::from_secs(61);
    pair.give_b(&ahead);
    assert_eq!(pair.b.out.len(), 1);
}

#[test]
fn a_broken_request_is_answered_and_ends_the_ike_sa() {
    //= rfc7296#section-2.21.3
    //= type=test
    //# If a peer parsing a request notices that it is badly formatted (after it has passed the message authentication code checks and window checks) and it returns an INVALID_SYNTAX notification, then this error notification is considered fatal in both peers, meaning that the IKE SA is deleted without needing an explicit Delete payload.
    let cases: [(ExchangeType, Vec<Payload>); 4] = [
        (ExchangeType::CREATE_CHILD_SA, Vec::new()),
        (ExchangeType::IKE_AUTH, Vec::new()),
        (ExchangeType::INFORMATIONAL, vec![Payload::Nonce(vec![1; 32])]),
        (ExchangeType(99), Vec::new()),
    ];
    for (exchange, payloads) in cases {
        let mut pair = Pair::new();
        let letter = forged(&mut pair, exchange, &payloads);
        pair.give_b(&letter);
        assert!(
            pair.b.out[0]
                .seen
                .as_ref()
                .is_some_and(|seen| seen.is_only(NotifyType::INVALID_SYNTAX))
        );
        assert!(matches!(pair.b.closed, Some(CloseReason::Protocol(_))));
    }
}

#[test]
fn an_unknown_critical_payload_is_refused_and_an_uncritical_one_skipped() {
    for critical in [true, false] {
        let mut pair = Pair::new();
        let unknown = Payload::Unknown {
            kind: PayloadType(200),
            critical,
            data: vec![1, 2, 3],
        };
        let letter = forged(&mut pair, ExchangeType::INFORMATIONAL, &[unknown]);
        pair.give_b(&letter);
        let answer = pair.b.out[0].seen.clone().unwrap();
        assert_eq!(answer.is_only(NotifyType::UNSUPPORTED_CRITICAL_PAYLOAD), critical);
        assert_eq!(answer.is_empty(), !critical);
        assert!(pair.b.closed.is_none());
    }
}

#[test]
fn an_unreadable_answer_closes_the_ike_sa_in_order() {
    //= rfc7296#section-2.21
    //= type=test
    //# Such errors in parsing or processing response packets should still cause the recipient to clean up the IKE state (for example, by sending a Delete for a bad SA).
    let mut pair = Pair::new();
    pair.rekey_a();
    pair.reach_b();
    let answer = pair.hold_b();
    let broken = pair.b.reseal(&answer, &[Payload::Nonce(vec![1; 32])]);
    pair.give_a(&broken);
    assert!(pair.reach_b().deletes_ike());
    pair.settle();
    assert!(matches!(pair.a.closed, Some(CloseReason::Protocol(_))));
    assert!(pair.a.spis.taken.lock().unwrap().is_empty());
}

#[test]
fn nonces_are_long_enough_and_never_the_same() {
    //= rfc7296#section-2.10
    //= type=test
    //# Nonces used in IKEv2 MUST be randomly chosen, MUST be at least 128 bits in size, and MUST be at least half the key size of the negotiated pseudorandom function (PRF).
    let mut pair = Pair::new();
    let mut seen = BTreeSet::new();
    for _ in 0..10 {
        pair.rekey_a();
        let request = pair.reach_b();
        let nonce = Payloads(&request.payloads).nonce().unwrap().to_vec();
        assert_eq!(nonce.len(), 32);
        assert!(seen.insert(nonce));
        let answer = pair.reach_a();
        assert!(seen.insert(Payloads(&answer.payloads).nonce().unwrap().to_vec()));
        pair.linger();
    }
}

#[test]
fn large_messages_travel_in_fragments_and_the_cached_answer_is_repeated_for_the_first_one() {
    //= rfc7383#section-2.6.1
    //= type=test
    //# If the responder receives a retransmitted fragment of a request when it has already processed that request and has sent back a response, that event MUST only trigger a retransmission of the response message (fragmented or not) if the Fragment Number field in the received fragment is set to 1; otherwise, it MUST be ignored.
    let setup = Setup {
        groups: (vec![Group::Modp3072], vec![Group::Modp3072]),
        fragment_size: Some(200),
        ..Setup::default()
    };
    let mut pair = Pair::with(&setup);
    pair.rekey_a();
    let request: Vec<Letter> = pair.a.out.drain(..).collect();
    assert!(request.len() > 2);
    for letter in request.iter().rev() {
        deliver(&mut pair.b, pair.now, letter);
    }
    let answer: Vec<Letter> = pair.b.out.drain(..).collect();
    assert!(answer.len() > 2);
    for letter in request.iter().rev() {
        deliver(&mut pair.b, pair.now, letter);
    }
    let again: Vec<Letter> = pair.b.out.drain(..).collect();
    let octets = |letters: &[Letter]| {
        letters
            .iter()
            .map(|letter| letter.bytes.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(octets(&again), octets(&answer));
    assert_eq!(pair.b.core.counters().retransmits_in, 1);
    for letter in answer.iter().chain(&again) {
        deliver(&mut pair.a, pair.now, letter);
    }
    pair.check_one_child();
    assert_eq!(pair.a.rekeyed.len(), 1);
    assert!(pair.a.core.counters().fragments_in as usize >= answer.len());
}

#[test]
fn fragments_are_dropped_where_none_were_agreed_and_forgotten_after_a_while() {
    let setup = Setup {
        groups: (vec![Group::Modp3072], vec![Group::Modp3072]),
        fragment_size: Some(200),
        ..Setup::default()
    };
    let mut pair = Pair::with(&setup);
    pair.rekey_a();
    let first = pair.hold_a();
    deliver(&mut pair.b, pair.now, &first);
    assert_eq!(
        pair.b.core.deadline(),
        Some((pair.now + Duration::from_secs(30), "fragments"))
    );
    pair.now += Duration::from_secs(30);
    pair.b.handle(pair.now, Input::Timeout);
    assert_eq!(pair.b.core.deadline(), None);
    pair.b.core.fragment_size = None;
    deliver(&mut pair.b, pair.now, &first);
    assert_eq!(pair.b.core.counters().fragments_dropped, 1);
}

#[test]
fn a_peer_that_says_authentication_failed_is_believed() {
    let mut pair = Pair::new();
    let notify = Payload::Notify(crate::wire::Notify::new(NotifyType::AUTHENTICATION_FAILED));
    let letter = forged(&mut pair, ExchangeType::INFORMATIONAL, &[notify]);
    pair.give_b(&letter);
    assert!(matches!(pair.b.closed, Some(CloseReason::RefusedByPeer(_))));
}

#[test]
fn the_error_code_of_a_windows_client_is_told() {
    let mut pair = Pair::new();
    let data = 13801u32.to_be_bytes().to_vec();
    let notify = Payload::Notify(crate::wire::Notify::with_data(NotifyType::MICROSOFT_STATUS, data));
    let letter = forged(&mut pair, ExchangeType::INFORMATIONAL, &[notify]);
    pair.give_b(&letter);
    assert_eq!(pair.b.warnings, vec!["the client reports Windows error 13801"]);
    assert!(pair.b.closed.is_none());
}

#[test]
fn an_ike_rekey_with_an_additional_key_exchange_is_refused_unless_it_may_be_left_out() {
    for optional in [false, true] {
        let mut pair = Pair::new();
        pair.command_a(Command::RekeyIke);
        let request = pair.hold_a();
        let mut payloads = request.seen.clone().unwrap().payloads;
        if let Some(Payload::Sa(SaPayload { proposals })) = payloads.first_mut() {
            let Proposal { transforms, .. } = &mut proposals[0];
            transforms.push(Transform::new(TransformType(6), 36));
            if optional {
                transforms.push(Transform::new(TransformType(6), 0));
            }
        }
        let asked = pair.a.reseal(&request, &payloads);
        pair.give_b(&asked);
        let refused = pair.b.out[0]
            .seen
            .as_ref()
            .unwrap()
            .is_only(NotifyType::NO_PROPOSAL_CHOSEN);
        assert_eq!(refused, !optional);
    }
}

#[test]
fn a_bad_public_value_refuses_the_exchange_and_nothing_else() {
    let setup = Setup {
        groups: (vec![Group::Ecp256], vec![Group::Ecp256]),
        ..Setup::default()
    };
    for length in [0, 1, 63, 64, 65] {
        let mut pair = Pair::with(&setup);
        pair.rekey_a();
        let request = pair.hold_a();
        let mut payloads = request.seen.clone().unwrap().payloads;
        for payload in &mut payloads {
            if let Payload::Ke(ke) = payload {
                *ke = KeyExchange {
                    group: KeId(Group::Ecp256.id()),
                    data: vec![0; length],
                };
            }
        }
        let bad = pair.a.reseal(&request, &payloads);
        pair.give_b(&bad);
        assert!(pair.b.closed.is_none());
        assert_eq!(pair.b.installed.len(), 1);
        assert!(
            pair.b.out[0]
                .seen
                .as_ref()
                .unwrap()
                .is_only(NotifyType::NO_PROPOSAL_CHOSEN)
        );
    }
}
