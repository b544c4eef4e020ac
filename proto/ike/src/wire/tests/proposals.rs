//! Proposals as texts, on the wire, chosen, and refused with the reason.

use crypto::{Cipher, Group, Prf};

use crate::wire::proposal::*;
use crate::wire::*;

pub(super) fn ike(text: &str) -> Vec<IkeProposal> {
    parse_ike_list(text).unwrap()
}

pub(super) fn child(text: &str) -> Vec<ChildProposal> {
    parse_child_list(text).unwrap()
}

#[test]
fn texts_survive_the_round_trip() {
    for text in [
        "aes256gcm16-prfsha384-ecp384",
        "aes256-sha256-prfsha256-modp2048",
        "aes256gcm16-aes128gcm16-chacha20poly1305-prfsha256-prfsha384-curve25519-ecp256-modp3072",
        "aes128-aes192-aes256ctr-sha1-sha512-prfsha1-modp1024",
    ] {
        let proposal: IkeProposal = text.parse().unwrap();
        assert_eq!(proposal.to_string(), text);
    }
    for text in [
        "aes256gcm16",
        "aes128-sha256",
        "aes256-sha1-esn-noesn",
        "aes256gcm16-ecp384-esn",
    ] {
        let proposal: ChildProposal = text.parse().unwrap();
        assert_eq!(proposal.to_string(), text);
    }
    for proposal in IkeProposal::defaults() {
        assert_eq!(proposal.to_string().parse(), Ok(proposal));
    }
    for proposal in ChildProposal::defaults() {
        assert_eq!(proposal.to_string().parse(), Ok(proposal));
    }
}

#[test]
fn texts_are_read_as_strongswan_reads_them() {
    let short: IkeProposal = "AES256-sha256-modp2048".parse().unwrap();
    assert_eq!(
        short.to_string(),
        "aes256-sha256-prfsha256-modp2048",
        "the PRF follows"
    );
    let aead: IkeProposal = "aes256gcm-sha384-ecp384".parse().unwrap();
    assert_eq!(
        aead.to_string(),
        "aes256gcm16-prfsha384-ecp384",
        "integrity means the PRF"
    );
    assert_eq!(ike("aes128gcm-prfsha256-x25519, default").len(), 3);
    assert_eq!(child("default")[0].esn, [false, true]);
    assert_eq!(child("aes128gcm16")[0].esn, [false]);
}

#[test]
fn texts_with_faults_say_which() {
    let ike = |text: &str| text.parse::<IkeProposal>().unwrap_err().to_string();
    let esp = |text: &str| text.parse::<ChildProposal>().unwrap_err().to_string();
    assert_eq!(ike(""), "the proposal is empty");
    assert_eq!(
        ike("aes257-sha1-modp2048"),
        "\"aes257\" is no algorithm that is known here"
    );
    assert_eq!(
        ike("3des-sha1-modp1024"),
        "\"3des\" cannot be used: too weak (RFC 8221, RFC 8247)"
    );
    assert_eq!(
        ike("aes256-aes256-sha1-modp2048"),
        "\"aes256\" stands there twice"
    );
    assert_eq!(
        ike("aes256-aes256gcm16-sha256-modp2048"),
        "AEAD and other ciphers need proposals of their own"
    );
    assert_eq!(ike("sha256-modp2048"), "no encryption");
    assert_eq!(ike("aes256-prfsha256-modp2048"), "no integrity");
    assert_eq!(ike("aes256gcm16-modp2048"), "no PRF");
    assert_eq!(ike("aes256-sha256"), "no key exchange group");
    assert!(ike("aes256-sha256-modp2048-esn").contains("\"esn\""));
    assert_eq!(esp("aes256"), "no integrity");
    assert!(esp("aes256gcm16-sha256").contains("AEAD brings its own"));
    assert!(esp("aes256-sha256-prfsha256").contains("\"prfsha256\""));
    assert!(parse_ike_list("default,").is_err());
    assert_eq!(
        ike(&"aes256-".repeat(100)),
        "\"aes256\" stands there twice",
        "long texts end early"
    );
    let many = vec!["default"; 40].join(",");
    assert_eq!(
        parse_child_list(&many).unwrap_err().to_string(),
        "more than 32 proposals"
    );
}

#[test]
fn what_we_offer_we_also_accept() {
    //= rfc7296#section-3.3
    //= type=test
    //# The first Proposal in the initiator's SA payload MUST have a Proposal Num of one (1).
    let policy = IkeProposal::defaults();
    let offer = offer_ike(&policy, Some(Spi(7)));
    let numbers: Vec<_> = offer.proposals.iter().map(|p| p.number).collect();
    assert_eq!(numbers, [1, 2]);
    let chosen = select_ike(&offer, &policy, None).unwrap();
    assert_eq!((chosen.number, chosen.spi), (1, Some(Spi(7))));
    assert_eq!(chosen.suite.cipher, Cipher::AesGcm16 { key_bits: 256 });
    let answer = chosen.to_payload(Some(Spi(8)));
    let accepted = accept_ike(&answer, &policy, None).unwrap();
    assert_eq!(accepted.spi, Some(Spi(8)));
    assert_eq!(
        (accepted.suite, accepted.prf, accepted.group),
        (chosen.suite, chosen.prf, chosen.group)
    );

    let policy = ChildProposal::defaults();
    let offer = offer_child(&policy, 0x1000, false);
    let chosen = select_child(&offer, &policy, KeRule::Ignore).unwrap();
    assert_eq!((chosen.spi, chosen.group, chosen.esn), (0x1000, None, false));
    let accepted = accept_child(&chosen.to_payload(0x2000), &policy, KeRule::Ignore).unwrap();
    assert_eq!((accepted.spi, accepted.suite), (0x2000, chosen.suite));
}

#[test]
fn our_order_decides_and_a_key_exchange_already_made_is_used() {
    let policy = ike("aes256gcm16-prfsha384-prfsha256-ecp384-ecp256-modp1024");
    let offer = offer_ike(
        &ike("aes256gcm16-prfsha256-prfsha384-modp1024-ecp256-ecp384"),
        None,
    );
    let chosen = select_ike(&offer, &policy, None).unwrap();
    assert_eq!((chosen.prf, chosen.group), (Prf::HmacSha384, Group::Ecp384));
    let chosen = select_ike(&offer, &policy, Some(KeId::ECP_256)).unwrap();
    assert_eq!(chosen.group, Group::Ecp256, "saves a round trip");
    let chosen = select_ike(&offer, &policy, Some(KeId::MODP_1024)).unwrap();
    assert_eq!(chosen.group, Group::Ecp384, "but not into a weak group");
    let chosen = select_ike(&offer, &policy, Some(KeId::CURVE25519)).unwrap();
    assert_eq!(chosen.group, Group::Ecp384, "nor into one that was not offered");
    let weak = offer_ike(&ike("aes256gcm16-prfsha256-modp1024"), None);
    let chosen = select_ike(&weak, &policy, Some(KeId::MODP_1024)).unwrap();
    assert_eq!(
        chosen.group,
        Group::Modp1024,
        "unless the policy allows it and nothing else is shared"
    );
}

#[test]
fn answers_that_are_no_choice_are_refused() {
    //= rfc7296#section-3.3.6
    //= type=test
    //# The initiator of an exchange MUST check that the accepted offer is consistent with one of its proposals, and if not MUST terminate the exchange.
    let policy = ike("aes256gcm16-prfsha256-ecp256");
    let good = select_ike(&offer_ike(&policy, None), &policy, None)
        .unwrap()
        .to_payload(None);
    assert!(accept_ike(&good, &policy, None).is_ok());

    let mut two = good.clone();
    two.proposals.push(two.proposals[0].clone());
    let refused = accept_ike(&two, &policy, None).unwrap_err();
    assert_eq!(refused.differences[0].subject, Subject::Choice);
    let mut twice = good.clone();
    let transform = twice.proposals[0].transforms[0].clone();
    twice.proposals[0].transforms.push(transform);
    assert!(accept_ike(&twice, &policy, None).is_err());
    let other = offer_ike(&ike("aes128gcm16-prfsha256-ecp256"), None);
    let refused = accept_ike(&other, &policy, None).unwrap_err();
    assert_eq!(refused.differences[0].subject, Subject::Encryption);
    assert!(accept_ike(&SaPayload::default(), &policy, None).is_err());
}

#[test]
fn what_is_not_understood_spoils_itself_alone() {
    let policy = child("aes256gcm16");
    let good = offer_child(&policy, 0x1000, false).proposals.remove(0);

    //= rfc7296#section-3.3.6
    //= type=test
    //# If the responder receives a proposal that contains a Transform Type it does not understand, or a proposal that is missing a mandatory Transform Type, it MUST consider this proposal unacceptable; however, other proposals in the same SA payload are processed as usual.
    let mut foreign = good.clone();
    foreign.number = 9;
    foreign.transforms.push(Transform::new(TransformType(200), 1));
    let sa = SaPayload {
        proposals: vec![foreign.clone(), good.clone()],
    };
    assert_eq!(select_child(&sa, &policy, KeRule::Ignore).unwrap().number, 1);
    let sa = SaPayload {
        proposals: vec![foreign],
    };
    let refused = select_child(&sa, &policy, KeRule::Ignore).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "transform type: client offers TransformType(200); accepted is the known types"
    );
    for missing in 0..good.transforms.len() {
        let mut partial = good.clone();
        partial.transforms.remove(missing);
        let sa = SaPayload {
            proposals: vec![partial],
        };
        assert!(select_child(&sa, &policy, KeRule::Ignore).is_err());
    }

    //= rfc7296#section-3.3.6
    //= type=test
    //# Similarly, if the responder receives a transform that it does not understand, or one that contains a Transform Attribute it does not understand, it MUST consider this transform unacceptable; other transforms with the same Transform Type are processed as usual.
    let mut dressed = good.clone();
    let mut strange = Transform::with_key(TransformType::ENCR, 20, 256);
    strange.unknown_attributes.push(TransformAttribute {
        kind: 99,
        value: AttributeValue::Short(1),
    });
    dressed.transforms[0] = strange.clone();
    let sa = SaPayload {
        proposals: vec![dressed.clone()],
    };
    let refused = select_child(&sa, &policy, KeRule::Ignore).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "encryption: client offers AES-GCM-256 with unknown attributes; accepted is AES-GCM-256"
    );
    dressed
        .transforms
        .push(Transform::with_key(TransformType::ENCR, 20, 256));
    let sa = SaPayload {
        proposals: vec![dressed],
    };
    assert!(select_child(&sa, &policy, KeRule::Ignore).is_ok());
}

#[test]
fn key_lengths_missing_or_odd_make_a_transform_unacceptable() {
    let policy = ike("aes256-sha256-modp2048");
    for key_bits in [None, Some(0), Some(64), Some(65535)] {
        let mut offer = offer_ike(&policy, None);
        offer.proposals[0].transforms[0].key_bits = key_bits;
        let refused = select_ike(&offer, &policy, None).unwrap_err();
        assert_eq!(
            refused.differences[0].subject,
            Subject::Encryption,
            "{key_bits:?}"
        );
        if key_bits.is_none() {
            assert_eq!(refused.differences[0].offered, ["AES-CBC without key length"]);
        }
    }
}

#[test]
fn spis_of_the_wrong_size_or_value() {
    let policy = child("aes256gcm16");
    for spi in [
        vec![],
        vec![1; 3],
        vec![1; 8],
        vec![0, 0, 0, 0],
        vec![0, 0, 0, 255],
    ] {
        let mut offer = offer_child(&policy, 0x1000, false);
        offer.proposals[0].spi = spi;
        let refused = select_child(&offer, &policy, KeRule::Ignore).unwrap_err();
        assert_eq!(refused.differences[0].subject, Subject::Spi);
    }
    let policy = ike("aes256gcm16-prfsha256-ecp256");
    for spi in [vec![1; 4], vec![1; 9], vec![0; 8]] {
        let mut offer = offer_ike(&policy, None);
        offer.proposals[0].spi = spi;
        let refused = select_ike(&offer, &policy, None).unwrap_err();
        assert_eq!(refused.differences[0].subject, Subject::Spi);
    }
}

#[test]
fn an_empty_offer_is_a_mismatch() {
    let refused = select_ike(&SaPayload::default(), &IkeProposal::defaults(), None).unwrap_err();
    assert!(refused.to_string().contains("client offers nothing"));
    let offer = offer_ike(&IkeProposal::defaults(), None);
    let refused = select_ike(&offer, &[], None).unwrap_err();
    assert_eq!(refused.to_string(), "no proposal is configured");
}

#[test]
fn the_child_of_an_aead_may_name_integrity_none() {
    let policy = child("aes256gcm16");
    let mut offer = offer_child(&policy, 0x1000, false);
    offer.proposals[0]
        .transforms
        .push(Transform::new(TransformType::INTEG, 0));
    let chosen = select_child(&offer, &policy, KeRule::Ignore).unwrap();
    let answer = chosen.to_payload(0x2000);
    assert_eq!(
        answer.proposals[0].of_kind(TransformType::INTEG).count(),
        1,
        "repeated"
    );
}

#[test]
fn the_peer_decides_about_a_key_exchange_of_the_childs_own() {
    let with = child("aes256gcm16-ecp384-ecp256");
    let without = child("aes256gcm16");
    let mirror = |ke: Option<KeId>| KeRule::Mirror(ke);
    let pfs = offer_child(&with, 0x1000, true);
    let plain = offer_child(&without, 0x1000, true);

    let chosen = select_child(&pfs, &with, mirror(Some(KeId::ECP_256))).unwrap();
    assert_eq!(chosen.group, Some(Group::Ecp256));
    let chosen = select_child(&pfs, &without, mirror(Some(KeId::ECP_384))).unwrap();
    assert_eq!(
        chosen.group,
        Some(Group::Ecp384),
        "mirrored though not configured"
    );
    let chosen = select_child(&plain, &with, mirror(None)).unwrap();
    assert_eq!(chosen.group, None, "none though configured");
    let chosen = select_child(&pfs, &without, KeRule::Ignore).unwrap();
    assert_eq!(chosen.group, None, "IKE_AUTH has no KE payload");

    let mut either = pfs.clone();
    either.proposals[0]
        .transforms
        .push(Transform::new(TransformType::KE, 0));
    let chosen = select_child(&either, &without, mirror(Some(KeId::ECP_384))).unwrap();
    assert_eq!(chosen.group, None, "NONE was offered and is what we want");
    assert_eq!(
        chosen.to_payload(1000).proposals[0]
            .of_kind(TransformType::KE)
            .count(),
        1
    );
    let chosen = select_child(&either, &with, mirror(Some(KeId::ECP_384))).unwrap();
    assert_eq!(chosen.group, Some(Group::Ecp384));

    let weak = offer_child(&child("aes256gcm16-modp1024"), 0x1000, true);
    let refused = select_child(&weak, &without, mirror(Some(KeId::MODP_1024))).unwrap_err();
    assert_eq!(refused.differences[0].subject, Subject::Group);
}

#[test]
fn additional_key_exchanges_are_declined_where_that_is_allowed() {
    let policy = ike("aes256gcm16-prfsha256-curve25519");
    let mut offer = offer_ike(&policy, None);
    let kem = Transform::new(TransformType::ADDKE1, KeId::ML_KEM_768.0);
    offer.proposals[0].transforms.push(kem);
    let refused = select_ike(&offer, &policy, None).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "additional key exchange: client offers ML-KEM-768; accepted is none"
    );
    let none = Transform::new(TransformType::ADDKE1, 0);
    offer.proposals[0].transforms.push(none.clone());
    let chosen = select_ike(&offer, &policy, None).unwrap();
    assert!(chosen.to_payload(None).proposals[0].transforms.contains(&none));
}

#[test]
fn the_closest_difference_is_told_apart() {
    let policy = ike("aes256gcm16-prfsha384-ecp384,aes256-sha256-modp2048");
    let offer = offer_ike(&ike("aes256-sha256-modp3072,aes128-sha256-modp2048"), None);
    let refused = select_ike(&offer, &policy, None).unwrap_err();
    assert_eq!(refused.differences.len(), 2);
    assert_eq!(refused.differences[0].subject, Subject::Encryption);
    let closest = refused.closest().unwrap();
    assert_eq!(closest.policy, "aes256-sha256-prfsha256-modp2048");
    assert_eq!(
        closest.to_string(),
        "key exchange group: client offers MODP-3072; accepted is MODP-2048"
    );
    assert_eq!(refused.hint(), None);
}
