//! Logins that fail, and what everybody is told about it.

use std::time::Duration;

use crypto::cert::TrustAnchors;
use crypto::{Group, Secret};
use ike::auth::{AuthVerdict, PeerCredential, Rejection};
use ike::config::ConfigRequest;
use ike::wire::{ExchangeType, NotifyType, Payloads};
use ike::{Event, FailureKind, InitPolicy, Input, Phase};

use crate::hostile::{alice, offer, script};
use crate::pair::{PSK, Pair, Proof, Setup, cert, certificate, esp, id, ike, policy, psk};
use crate::script::{Script, error};

fn with_key(mut proof: Proof, key: &[u8]) -> Proof {
    proof.peer = PeerCredential::Psk(Secret::from(key));
    proof
}

fn at(mut proof: Proof, time: i64) -> Proof {
    if let PeerCredential::Certificates { now_unix, .. } = &mut proof.peer {
        *now_unix = time;
    }
    proof
}

fn trusting(mut proof: Proof, authority: &str) -> Proof {
    if let PeerCredential::Certificates { anchors, .. } = &mut proof.peer {
        *anchors = std::sync::Arc::new(TrustAnchors::new(vec![certificate(authority)]));
    }
    proof
}

/// Runs to the refusal by the gateway, and checks that the peer learns nothing but the fact.
fn refused(setup: Setup) -> Pair {
    let mut pair = setup.run();
    let failure = pair.initiator.failure();
    assert_eq!(
        (failure.kind, failure.notify),
        (
            FailureKind::RefusedByPeer,
            Some(NotifyType::AUTHENTICATION_FAILED)
        )
    );
    assert_eq!(pair.responder.failure().kind, FailureKind::PeerRefused);
    assert!(!pair.responder.is_established());
    pair.pass(Duration::from_secs(40));
    assert_eq!(
        (pair.initiator.sa.phase(), pair.responder.sa.phase()),
        (Phase::Closed, Phase::Closed)
    );
    assert!(pair.initiator.spis.taken.lock().unwrap().is_empty());
    assert!(pair.responder.spis.taken.lock().unwrap().is_empty());
    pair
}

fn ec() -> (Proof, Proof) {
    (cert("alice@example.org", "p256"), cert("gw.example.org", "p256"))
}

//= rfc7296#section-2.21.2
//= type=test
//# causing the
//# authentication to fail for whatever reason (invalid shared secret,
//# invalid ID, untrusted certificate issuer, revoked or expired
//# certificate, etc.) SHOULD result in an AUTHENTICATION_FAILED
//# notification.
#[test]
fn every_reason_in_words_for_the_operator_and_one_notify_for_the_peer() {
    let reason = |setup| refused(setup).responder.failure().reason.clone();
    let setup = Setup::new(
        psk("alice@example.org"),
        with_key(psk("gw.example.org"), b"other"),
    );
    assert_eq!(
        reason(setup),
        "the pre-shared key does not match for alice@example.org"
    );

    let (client, gateway) = ec();
    let late = certificate("p256").not_after() + 3 * 86_400;
    let text = reason(Setup::new(client, at(gateway, late)));
    assert!(text.contains("expired 3 days ago"), "{text}");

    let (client, gateway) = ec();
    let early = certificate("p256").not_before() - 3 * 3600;
    let text = reason(Setup::new(client, at(gateway, early)));
    assert!(text.contains("not valid for another 3 hours"), "{text}");

    let (client, gateway) = ec();
    let text = reason(Setup::new(client, trusting(gateway, "other")));
    assert!(text.contains("Root") && text.contains("unknown"), "{text}");

    let (_, gateway) = ec();
    let text = reason(Setup::new(cert("bob@example.org", "p256"), gateway));
    assert!(
        text.starts_with("identity bob@example.org is not in the certificate"),
        "{text}"
    );
    assert!(text.contains("alice@example.org"), "{text}");

    let (_, gateway) = ec();
    let text = reason(Setup::new(psk("alice@example.org"), gateway));
    assert_eq!(
        text,
        "the peer authenticates by shared key, this connection wants a certificate"
    );

    let (client, _) = ec();
    let text = reason(Setup::new(client, psk("gw.example.org")));
    assert!(text.contains("this connection wants a pre-shared key"), "{text}");
}

/// An unknown name and a wrong key look the same on the wire: same length, same number of datagrams.
#[test]
fn unknown_and_wrong_are_answered_alike() {
    let wrong = Setup::new(
        psk("alice@example.org"),
        with_key(psk("gw.example.org"), b"other"),
    );
    let wrong = refused(wrong);
    let mut unknown = Setup::psk().pair();
    unknown.responder.grant = Box::new(|_, _| {
        let reason = "nobody of that name".to_owned();
        AuthVerdict::Reject(Rejection {
            notify: NotifyType::AUTHENTICATION_FAILED,
            reason,
        })
    });
    unknown.run();
    let lengths = |pair: &Pair| {
        pair.responder
            .sent
            .iter()
            .map(|t| t.bytes.len())
            .collect::<Vec<_>>()
    };
    assert_eq!(lengths(&wrong), lengths(&unknown));
    assert_eq!(unknown.responder.failure().reason, "nobody of that name");
}

/// The refusal may be lost: the request again gets it again, octet by octet.
#[test]
fn a_refusal_is_repeated() {
    let mut pair = Setup::new(
        psk("alice@example.org"),
        with_key(psk("gw.example.org"), b"other"),
    )
    .pair();
    pair.fate = Box::new(|_, number| {
        if number == 3 {
            crate::pair::Fate::Drop
        } else {
            crate::pair::Fate::Deliver
        }
    });
    pair.run();
    assert!(pair.responder.has_failed() && !pair.initiator.has_failed());
    pair.tick();
    assert_eq!(
        pair.initiator.failure().notify,
        Some(NotifyType::AUTHENTICATION_FAILED)
    );
    assert_eq!(pair.responder.sent[1].bytes, pair.responder.sent[2].bytes);
}

/// The initiator does not believe the gateway: it says so, and ends.
#[test]
fn a_gateway_that_is_not_believed() {
    let (client, gateway) = ec();
    let setups = [
        Setup::new(trusting(client.clone(), "other"), gateway.clone()),
        Setup::new(client.clone(), cert("evil.example.org", "p256")),
        {
            let mut setup = Setup::new(client, gateway);
            setup.config.remote_id = Some(id("elsewhere.example.org"));
            setup.config.require_remote_id = true;
            setup
        },
    ];
    for setup in setups {
        let pair = setup.run();
        let failure = pair.initiator.failure();
        assert_eq!(failure.kind, FailureKind::Authentication, "{failure}");
        let last = pair.initiator.sent.last().unwrap();
        assert_eq!(last.bytes[18], ExchangeType::INFORMATIONAL.0);
        assert_eq!(pair.initiator.sa.phase(), Phase::Closed);
        assert_eq!(
            pair.responder.sa.phase(),
            Phase::Closed,
            "{:#?}",
            pair.responder.events
        );
        assert!(pair.initiator.spis.taken.lock().unwrap().is_empty());
    }
}

//= rfc7296#section-1.2
//= type=test
//# If creating the Child SA during the IKE_AUTH exchange fails for some
//# reason, the IKE SA is still created as usual.
#[test]
fn a_child_that_fails_leaves_the_ike_sa_up() {
    let mut ts = Setup::psk();
    ts.gateway_policy = policy(&["10.0.0.0/8"], &["172.16.0.1/32"]);
    let mut algorithms = Setup::psk();
    algorithms.gateway_policy.proposals = esp("chacha20poly1305");
    for (setup, words) in [(ts, "172.16.0.1"), (algorithms, "encryption")] {
        let pair = setup.run();
        assert!(pair.initiator.is_established() && pair.responder.is_established());
        assert!(
            pair.responder.child_failed().contains(words),
            "{}",
            pair.responder.child_failed()
        );
        assert_eq!(pair.initiator.sa.phase(), Phase::Established);
        assert!(pair.initiator.sa.children().next().is_none());
        assert!(pair.initiator.spis.taken.lock().unwrap().is_empty());
        assert!(pair.responder.spis.taken.lock().unwrap().is_empty());
        let answer = pair.initiator.child_failed();
        assert!(
            answer.contains("TS_UNACCEPTABLE") || answer.contains("NO_PROPOSAL_CHOSEN"),
            "{answer}"
        );
    }
    for notify in [
        NotifyType::INTERNAL_ADDRESS_FAILURE,
        NotifyType::FAILED_CP_REQUIRED,
    ] {
        let mut setup = Setup::psk();
        setup.config.config_request = Some(ConfigRequest::ipv4());
        let mut pair = setup.pair();
        pair.responder.grant = Box::new(move |_, mut grant| {
            grant.child_refused = Some(Rejection {
                notify,
                reason: "the pool is empty".to_owned(),
            });
            AuthVerdict::Accept(Box::new(grant))
        });
        pair.run();
        assert!(pair.initiator.is_established());
        assert!(pair.initiator.child_failed().contains(&notify.to_string()));
        assert_eq!(pair.responder.child_failed(), "the pool is empty");
    }
}

#[test]
fn no_common_proposal_says_the_first_difference() {
    let mut setup = Setup::psk();
    setup.config.proposals = ike("aes128-sha256-modp2048");
    setup.init.proposals = ike("aes256gcm16-prfsha384-ecp384");
    let mut pair = setup.run();
    let failure = pair.responder.failure();
    assert_eq!(
        (failure.kind, failure.notify),
        (FailureKind::NoProposal, Some(NotifyType::NO_PROPOSAL_CHOSEN))
    );
    assert!(
        failure.difference.as_ref().unwrap().contains("encryption"),
        "{failure:?}"
    );
    assert_eq!(failure.accepted.len(), 1);
    pair.pass(Duration::from_secs(6));
    assert_eq!(pair.initiator.failure().kind, FailureKind::NoProposal);
}

/// A key that is empty opens nothing, not even for those who know that it is.
#[test]
fn an_empty_key_is_no_key() {
    let mut script = Script::new(
        InitPolicy::new(ike("aes256-sha256-x25519")),
        with_key(psk("gw.example.org"), b""),
        Group::Curve25519,
    );
    script.init(offer(), Vec::new());
    let answer = script.psk_login(&alice(), b"", Vec::new());
    assert_eq!(error(&answer), Some(NotifyType::AUTHENTICATION_FAILED));
}

/// Closing before it is up leaves nothing behind.
#[test]
fn closed_by_our_side_halfway() {
    for steps in 0..4 {
        let mut pair = Setup::psk().pair();
        pair.start();
        for _ in 0..steps {
            pair.deliver();
        }
        let now = pair.now;
        let established = [pair.initiator.is_established(), pair.responder.is_established()];
        for (side, up) in [&mut pair.initiator, &mut pair.responder]
            .into_iter()
            .zip(established)
        {
            if !up {
                side.handle(now, Input::Command(ike::Command::Close));
                assert_eq!(side.sa.phase(), Phase::Closed);
                assert!(matches!(side.events.last(), Some(Event::Closed { .. })));
                assert!(side.spis.taken.lock().unwrap().is_empty());
            }
        }
    }
}

/// Tickets of other jobs decide nothing.
#[test]
fn a_stale_verdict_is_ignored() {
    let mut script = script();
    script.init(offer(), Vec::new());
    let reason = String::new();
    let reject = || {
        AuthVerdict::Reject(Rejection {
            notify: NotifyType::AUTHENTICATION_FAILED,
            reason: reason.clone(),
        })
    };
    let now = script.now;
    for ticket in [0, 1, 7] {
        assert!(
            script
                .gateway
                .handle(
                    now,
                    Input::AuthResult {
                        ticket,
                        verdict: Box::new(reject())
                    }
                )
                .is_empty()
        );
    }
    let answer = script.psk_login(&alice(), PSK, Vec::new());
    assert!(Payloads(&answer).auth().is_some());
}
