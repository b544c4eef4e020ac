//! Messages that no honest client sends: the gateway refuses each, and learns nothing wrong from it.

use crypto::{Group, Secret};
use ike::auth::{AuthFailure, PeerCredential, verify};
use ike::wire::{
    AuthMethod, ExchangeType, Flags, Header, IdType, KeyExchange, Message, NotifyType, Payload, PayloadType,
    SaPayload, Spi,
};
use ike::{FailureKind, InitPolicy, Phase};

use crate::pair::{PSK, Setup, cert, ike, in_validity, psk};
use crate::script::{Script, any_v4, enc, error, esp_offer, identity, proposal, t};

pub fn script() -> Script {
    Script::new(
        InitPolicy::new(ike("aes256-sha256-x25519")),
        psk("gw.example.org"),
        Group::Curve25519,
    )
}

pub fn offer() -> Vec<ike::wire::Proposal> {
    vec![proposal(
        1,
        ike::wire::ProtocolId::IKE,
        &[],
        vec![enc(12, 256), t(2, 5), t(3, 12), t(4, 31)],
    )]
}

pub fn alice() -> ike::wire::Identification {
    identity(IdType::RFC822_ADDR, b"alice@example.org")
}

/// Public values that no honest peer has are refused before anything is derived from them.
#[test]
fn hostile_key_exchange_values() {
    let sa = || Payload::Sa(SaPayload { proposals: offer() });
    for data in [vec![], vec![0; 32], vec![1; 31], vec![1; 33], vec![0xff; 4096]] {
        let mut script = script();
        let group = ike::wire::KeId::CURVE25519;
        let nonce = Payload::Nonce(vec![1; 32]);
        let answers = script.init_with(vec![sa(), Payload::Ke(KeyExchange { group, data }), nonce]);
        let answer = Message::decode(&answers[0]).unwrap();
        assert_eq!(answer.error().unwrap().kind, NotifyType::INVALID_SYNTAX);
        assert_eq!(script.gateway.sa.phase(), Phase::Closed);
    }
}

#[test]
fn a_peer_that_never_learns_the_group_is_dropped() {
    let mut script = Script::new(
        InitPolicy::new(ike("aes256-sha256-x25519")),
        psk("gw.example.org"),
        Group::Modp2048,
    );
    let both = || {
        let transforms = vec![enc(12, 256), t(2, 5), t(3, 12), t(4, 14), t(4, 31)];
        vec![proposal(1, ike::wire::ProtocolId::IKE, &[], transforms)]
    };
    for round in 0..5u8 {
        script.nonce = vec![round; 32];
        assert!(
            script
                .init(both(), Vec::new())
                .notify(NotifyType::INVALID_KE_PAYLOAD)
                .is_some()
        );
    }
    assert_eq!(script.gateway.failure().kind, FailureKind::KeyExchange);
}

/// What is no first message of an IKE SA ends the attempt with at most one short answer.
#[test]
fn hostile_first_messages() {
    let header = |exchange, flags, id| Header::new(Spi(1), Spi::ZERO, exchange, flags, id);
    let fine = header(ExchangeType::IKE_SA_INIT, Flags::request(true), 0);
    let mut version = Message::new(fine, Vec::new()).encode().unwrap();
    version[17] = 0x30;
    let odd = [
        Vec::new(),
        vec![0; 27],
        vec![0xff; 28],
        version,
        Message::new(
            header(ExchangeType::IKE_AUTH, Flags::request(true), 1),
            Vec::new(),
        )
        .encode()
        .unwrap(),
        Message::new(
            header(ExchangeType::IKE_SA_INIT, Flags::response(false), 0),
            Vec::new(),
        )
        .encode()
        .unwrap(),
        Message::new(
            header(ExchangeType::IKE_SA_INIT, Flags::request(false), 0),
            Vec::new(),
        )
        .encode()
        .unwrap(),
        Message::new(
            header(ExchangeType::IKE_SA_INIT, Flags::request(true), 1),
            Vec::new(),
        )
        .encode()
        .unwrap(),
        Message::new(fine, Vec::new()).encode().unwrap(),
        Message::new(
            fine,
            vec![Payload::Unknown {
                kind: PayloadType(200),
                critical: true,
                data: vec![],
            }],
        )
        .encode()
        .unwrap(),
    ];
    for bytes in odd {
        let mut script = script();
        let answers = script.deliver(bytes.clone());
        assert!(answers.iter().map(Vec::len).sum::<usize>() <= 40, "{bytes:?}");
        assert_eq!(script.gateway.sa.phase(), Phase::Closed, "{bytes:?}");
        assert_eq!(script.gateway.failure().kind, FailureKind::Protocol);
    }
}

/// Anything but IKE_AUTH with message ID 1 is ignored before the peer is authenticated, however well it is sealed.
#[test]
fn exchanges_before_their_time() {
    let mut script = script();
    script.init(offer(), Vec::new());
    let exchanges = [
        ExchangeType::INFORMATIONAL,
        ExchangeType::CREATE_CHILD_SA,
        ExchangeType::IKE_INTERMEDIATE,
        ExchangeType::IKE_SA_INIT,
        ExchangeType(200),
    ];
    for exchange in exchanges {
        let bytes = script.sealed(exchange, 1, &[]);
        assert!(script.deliver(bytes).is_empty(), "{exchange}");
    }
    for message_id in [0, 2, u32::MAX] {
        let bytes = script.sealed(ExchangeType::IKE_AUTH, message_id, &[]);
        assert!(script.deliver(bytes).is_empty());
    }
    assert_eq!(script.gateway.sa.counters().unexpected, 8);
    let mut forged = script.sealed(ExchangeType::IKE_AUTH, 1, &[]);
    *forged.last_mut().unwrap() ^= 1;
    assert!(script.deliver(forged).is_empty());
    assert_eq!(script.gateway.sa.counters().integrity_failures, 1);
    let answer = script.psk_login(&alice(), PSK, Vec::new());
    assert_eq!(error(&answer), None);
}

/// Requests that are malformed inside get the notify that the RFC names, in a protected answer.
#[test]
fn hostile_authentication_requests() {
    type Make = fn(&mut Script) -> Vec<Payload>;
    let cases: [(Make, NotifyType); 6] = [
        (|_| vec![], NotifyType::INVALID_SYNTAX),
        (|s| vec![s.psk_auth(&alice(), PSK)], NotifyType::INVALID_SYNTAX),
        (
            |_| vec![Payload::IdI(alice()), Payload::Eap(vec![3, 1, 0, 4])],
            NotifyType::INVALID_SYNTAX,
        ),
        (
            |_| vec![Payload::IdI(identity(IdType::FQDN, &[b'a'; 60_000]))],
            NotifyType::INVALID_SYNTAX,
        ),
        (
            |s| {
                vec![
                    Payload::IdI(alice()),
                    s.psk_auth(&alice(), PSK),
                    Payload::Sa(esp_offer()),
                ]
            },
            NotifyType::INVALID_SYNTAX,
        ),
        (
            |s| {
                let odd = Payload::Unknown {
                    kind: PayloadType(201),
                    critical: true,
                    data: vec![1],
                };
                vec![Payload::IdI(alice()), odd, s.psk_auth(&alice(), PSK)]
            },
            NotifyType::UNSUPPORTED_CRITICAL_PAYLOAD,
        ),
    ];
    for (make, wanted) in cases {
        let mut script = script();
        script.init(offer(), Vec::new());
        let payloads = make(&mut script);
        let answer = script.auth(&payloads);
        assert_eq!(error(&answer), Some(wanted), "{payloads:?}");
        assert!(script.gateway.jobs.is_empty());
        assert_eq!(script.gateway.failure().kind, FailureKind::Protocol);
    }
}

/// AUTH payloads that are nearly right.
#[test]
fn hostile_auth_payloads() {
    let good = {
        let mut script = script();
        script.init(offer(), Vec::new());
        let Payload::Auth { data, .. } = script.psk_auth(&alice(), PSK) else {
            panic!("no AUTH")
        };
        data
    };
    let (mut long, mut short, mut wrong) = (good.clone(), good.clone(), good.clone());
    long.push(0);
    short.pop();
    wrong[0] ^= 1;
    let methods = [0, 1, 3, 9, 10, 11, 12, 13, 14, 200].map(AuthMethod);
    let cases = [long, short, wrong, vec![]]
        .map(|data| (AuthMethod::SHARED_KEY, data))
        .into_iter();
    for (method, data) in cases.chain(methods.map(|method| (method, good.clone()))) {
        let mut script = script();
        script.init(offer(), Vec::new());
        let payloads = [
            Payload::IdI(alice()),
            Payload::Auth { method, data },
            Payload::Sa(esp_offer()),
            Payload::TsI(vec![any_v4()]),
            Payload::TsR(vec![any_v4()]),
        ];
        assert_eq!(
            error(&script.auth(&payloads)),
            Some(NotifyType::AUTHENTICATION_FAILED),
            "{method}"
        );
    }
}

/// No AUTH means that the peer wants EAP, which nobody here has: never a way in.
#[test]
fn no_auth_payload_is_no_login() {
    let mut script = script();
    script.init(offer(), Vec::new());
    let payloads = [
        Payload::IdI(alice()),
        Payload::Sa(esp_offer()),
        Payload::TsI(vec![any_v4()]),
        Payload::TsR(vec![any_v4()]),
    ];
    assert_eq!(
        error(&script.auth(&payloads)),
        Some(NotifyType::AUTHENTICATION_FAILED)
    );
    let job = &script.gateway.jobs[0];
    assert_eq!(job.peer_auth, None);
    assert_eq!(
        verify(job, &PeerCredential::Psk(Secret::from(PSK))),
        Err(AuthFailure::EapWanted)
    );
}

/// Signatures with hashes that we did not announce, or with lengths that lie.
#[test]
fn hostile_signatures() {
    let pair = Setup::new(
        cert("alice@example.org", "rsa2048"),
        cert("gw.example.org", "rsa2048"),
    )
    .run();
    let job = &pair.responder.jobs[0];
    let credential = &pair.responder.proof.peer;
    assert!(verify(job, credential).is_ok());
    let (_, data) = job.peer_auth.clone().unwrap();
    let with = |data: Vec<u8>| {
        let mut job = job.clone();
        job.peer_auth = Some((AuthMethod::DIGITAL_SIGNATURE, data));
        verify(&job, credential).unwrap_err()
    };
    assert_eq!(with(vec![]), AuthFailure::Truncated);
    assert_eq!(with(vec![200, 1, 2]), AuthFailure::Truncated);
    assert!(matches!(
        with([vec![0], data[1..].to_vec()].concat()),
        AuthFailure::Algorithm(_)
    ));
    assert!(matches!(
        with([data.clone(), vec![0]].concat()),
        AuthFailure::Signature(_)
    ));
    let mut unannounced = job.clone();
    unannounced.our_hashes = vec![crypto::HashAlgorithm::Sha512];
    assert!(matches!(
        verify(&unannounced, credential),
        Err(AuthFailure::HashNotOffered(_))
    ));
    let mut bare = job.clone();
    bare.peer_certs.clear();
    assert_eq!(verify(&bare, credential), Err(AuthFailure::NoCertificate));
    let mut garbage = job.clone();
    garbage.peer_certs[0].truncate(40);
    assert!(matches!(
        verify(&garbage, credential),
        Err(AuthFailure::BadCertificate { position: 1, .. })
    ));
    let mut swapped = job.clone();
    swapped.peer_certs = crate::pair::chain("p256");
    assert!(verify(&swapped, credential).is_err());
    assert!(in_validity() > 0);
}
