//! Properties: nothing on the side opens a door, and no input is too odd.

use crypto::{Group, HashAlgorithm};
use ike::wire::{ExchangeType, IdType, Identification, Notify, NotifyType, Payload, PayloadType};
use ike::{Command, InitPolicy, Input, Phase};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::pair::{PSK, Pair, Setup, ike, psk};
use crate::script::{Script, enc, error, identity, proposal, t};

fn script() -> Script {
    let mut init = InitPolicy::new(ike("aes256-sha256-x25519"));
    init.hashes = vec![HashAlgorithm::Sha256];
    Script::new(init, psk("gw.example.org"), Group::Curve25519)
}

fn offer() -> Vec<ike::wire::Proposal> {
    vec![proposal(
        1,
        ike::wire::ProtocolId::IKE,
        &[],
        vec![enc(12, 256), t(2, 5), t(3, 12), t(4, 31)],
    )]
}

fn alice() -> Identification {
    identity(IdType::RFC822_ADDR, b"alice@example.org")
}

/// Vendor IDs and notifies of any kind, known ones more often than others.
fn trimming() -> impl Strategy<Value = Vec<Payload>> {
    let kind = prop_oneof![0u16..100, 16384u16..16450, any::<u16>()];
    let notify = (kind, vec(any::<u8>(), 0..40))
        .prop_map(|(kind, data)| Payload::Notify(Notify::with_data(NotifyType(kind), data)));
    let vendor = vec(any::<u8>(), 0..40).prop_map(Payload::VendorId);
    let unknown = (60u8..=255, vec(any::<u8>(), 0..20)).prop_map(|(kind, data)| Payload::Unknown {
        kind: PayloadType(kind),
        critical: false,
        data,
    });
    vec(prop_oneof![4 => notify, 2 => vendor, 1 => unknown], 0..12)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// No vendor ID and no notify changes who gets in.
    #[test]
    fn trimmings_never_change_the_result(init in trimming(), auth in trimming(), right in any::<bool>()) {
        let mut script = script();
        script.init(offer(), init);
        prop_assert!(script.keyed.is_some());
        let key: &[u8] = if right { PSK } else { b"wrong" };
        let answer = script.psk_login(&alice(), key, auth);
        let wanted = if right { None } else { Some(NotifyType::AUTHENTICATION_FAILED) };
        prop_assert_eq!(error(&answer), wanted);
        prop_assert_eq!(script.gateway.is_established(), right);
    }

    /// Octets from anybody, at any moment: no panic, no end, no change of what comes of an honest login.
    #[test]
    fn noise_never_disturbs_a_login(noise in vec((0usize..5, any::<bool>(), vec(any::<u8>(), 0..200)), 1..8)) {
        let mut pair = Setup::psk().pair();
        pair.start();
        for step in 0..5 {
            for (when, to_client, bytes) in &noise {
                if *when == step && (*to_client || step > 0) {
                    disturb(&mut pair, *to_client, bytes.clone());
                }
            }
            pair.deliver();
        }
        pair.run();
        pair.assert_up();
    }

    /// Honest messages with one octet changed get nobody in, and nobody out.
    #[test]
    fn a_changed_octet_is_noticed(which in 0usize..4, at in any::<prop::sample::Index>(), with in 1u8..) {
        let mut pair = Setup::psk().pair();
        pair.start();
        for _ in 0..which {
            pair.deliver();
        }
        let Some((_, transmit)) = pair.wire.front_mut() else { return Ok(()) };
        let index = at.index(transmit.bytes.len());
        transmit.bytes[index] ^= with;
        pair.run();
        let both = pair.initiator.is_established() && pair.responder.is_established();
        if both {
            let same = pair.initiator.child().keys_in == pair.responder.child().keys_out;
            prop_assert!(same);
        }
        prop_assert!(!pair.initiator.is_established() || pair.responder.is_established());
    }

    /// What is inside a well sealed IKE_AUTH may be anything.
    #[test]
    fn any_interior_is_answered_or_ignored(first in any::<u8>(), interior in vec(any::<u8>(), 0..300)) {
        let mut script = script();
        script.init(offer(), Vec::new());
        let bytes = script.sealed_octets(ExchangeType::IKE_AUTH, 1, PayloadType(first), &interior);
        let answers = script.deliver(bytes);
        prop_assert!(answers.len() <= 1);
        prop_assert!(!script.gateway.is_established());
    }
}

fn disturb(pair: &mut Pair, to_client: bool, bytes: Vec<u8>) {
    let now = pair.now;
    let stranger = "203.0.113.9:500".parse().unwrap();
    let side = if to_client {
        &mut pair.initiator
    } else {
        &mut pair.responder
    };
    let local = side.sa.local();
    side.handle(
        now,
        Input::Datagram {
            local,
            remote: stranger,
            bytes,
        },
    );
}

/// A live SA is written down, read back, and goes on: both ends, several times, across a rekey and a close.
#[test]
fn snapshots_go_on() {
    let mut pair = Setup::psk().run();
    pair.assert_up();
    for round in 0..3u16 {
        let (now, context) = (pair.now, Setup::psk());
        for side in [&mut pair.initiator, &mut pair.responder] {
            let text = serde_json::to_string(&side.sa.snapshot(now).expect("established")).unwrap();
            let snapshot = serde_json::from_str(&text).unwrap();
            for child in side.sa.children() {
                assert!(side.spis.taken.lock().unwrap().remove(&child.spi_in));
            }
            let ctx = context.context(&side.spis, 50 + u64::from(round));
            let elapsed = std::time::Duration::from_secs(1);
            let before: Vec<u32> = side.sa.children().map(|child| child.spi_in).collect();
            side.sa = ike::IkeSa::restore(now, ctx, snapshot, elapsed, 100 + round).unwrap();
            let after: Vec<u32> = side.sa.children().map(|child| child.spi_in).collect();
            assert_eq!(before, after);
            assert_eq!(side.sa.phase(), Phase::Established);
        }
        let command = if round == 1 {
            Command::RekeyIke
        } else {
            Command::CheckLiveness
        };
        let now = pair.now;
        let sent = pair.initiator.handle(now, Input::Command(command));
        assert!(!sent.is_empty());
        pair.post(ike::Role::Initiator, sent);
        pair.run();
        assert_eq!(pair.initiator.sa.spi_i(), pair.responder.sa.spi_i());
    }
    let now = pair.now;
    let sent = pair.initiator.handle(now, Input::Command(Command::Close));
    pair.post(ike::Role::Initiator, sent);
    pair.run();
    assert_eq!(
        (pair.initiator.sa.phase(), pair.responder.sa.phase()),
        (Phase::Closed, Phase::Closed)
    );
}

/// Only an established SA can be written down.
#[test]
fn no_snapshot_before_it_is_up() {
    let mut pair = Setup::psk().pair();
    pair.start();
    for _ in 0..3 {
        assert!(pair.initiator.sa.snapshot(pair.now).is_none());
        pair.deliver();
    }
}
