//! The offers of real clients against the policies that gateways have.

use crypto::{Cipher, Group, Integrity, Prf};

use super::proposals::{child, ike};
use crate::wire::proposal::*;
use crate::wire::*;

type Row = (TransformType, u16, Option<u16>);

const ENCR: TransformType = TransformType::ENCR;
const PRF: TransformType = TransformType::PRF;
const INTEG: TransformType = TransformType::INTEG;
const KE: TransformType = TransformType::KE;
const ESN: TransformType = TransformType::ESN;

fn proposal(number: u8, protocol: ProtocolId, spi: &[u8], rows: &[Row]) -> Proposal {
    let transforms = rows.iter().map(|(kind, id, key_bits)| Transform {
        key_bits: *key_bits,
        ..Transform::new(*kind, *id)
    });
    Proposal {
        number,
        protocol,
        spi: spi.to_vec(),
        transforms: transforms.collect(),
    }
}

/// Windows sends one proposal for each combination.
fn windows_ike(ciphers: &[(u16, Option<u16>)], group: u16) -> SaPayload {
    let mut proposals = Vec::new();
    for (id, bits) in ciphers {
        for (integ, prf) in [(2, 2), (12, 5), (13, 6)] {
            let number = u8::try_from(proposals.len() + 1).unwrap();
            let rows = [
                (ENCR, *id, *bits),
                (INTEG, integ, None),
                (PRF, prf, None),
                (KE, group, None),
            ];
            proposals.push(proposal(number, ProtocolId::IKE, &[], &rows));
        }
    }
    SaPayload { proposals }
}

const WINDOWS_10: [(u16, Option<u16>); 4] = [(3, None), (12, Some(128)), (12, Some(192)), (12, Some(256))];

#[test]
fn windows_with_its_defaults_is_told_about_its_powershell_setting() {
    let offer = windows_ike(&WINDOWS_10, 2);
    let refused = select_ike(&offer, &IkeProposal::defaults(), Some(KeId::MODP_1024)).unwrap_err();
    let closest = refused.closest().unwrap();
    assert_eq!(
        closest.to_string(),
        "key exchange group: client offers MODP-1024; accepted are Curve25519, ECP-256, ECP-384, ECP-521, MODP-3072, \
         MODP-4096, MODP-2048"
    );
    assert!(refused.only_modp1024());
    assert!(
        refused
            .hint()
            .unwrap()
            .contains("Set-VpnConnectionIPsecConfiguration")
    );
    let text = refused.to_string();
    assert!(
        text.starts_with(
            "encryption: client offers 3DES, AES-CBC-128, AES-CBC-192, AES-CBC-256; accepted are AES-GCM-256"
        ),
        "{text}"
    );
}

#[test]
fn windows_with_its_defaults_connects_where_the_tenant_allows_it() {
    let offer = windows_ike(&WINDOWS_10, 2);
    let policy = ike("default,aes256-aes128-sha256-sha1-modp1024");
    let chosen = select_ike(&offer, &policy, Some(KeId::MODP_1024)).unwrap();
    assert_eq!(chosen.group, Group::Modp1024);
    assert_eq!(chosen.suite.cipher, Cipher::AesCbc { key_bits: 256 });
    assert_eq!(chosen.suite.integrity, Some(Integrity::HmacSha256_128));
    let answered = chosen.to_payload(None).proposals.remove(0);
    assert!(
        offer
            .proposals
            .iter()
            .any(|p| p.number == answered.number
                && answered.transforms.iter().all(|t| p.transforms.contains(t)))
    );
}

#[test]
fn windows_after_its_powershell_setting_connects() {
    let offer = windows_ike(&[(12, Some(256))], 20);
    let chosen = select_ike(&offer, &IkeProposal::defaults(), Some(KeId::ECP_384)).unwrap();
    assert_eq!((chosen.group, chosen.prf), (Group::Ecp384, Prf::HmacSha256));
    // Windows 11 puts integrity algorithms beside AES-GCM.
    let offer = windows_ike(&[(20, Some(256))], 20);
    let chosen = select_ike(&offer, &IkeProposal::defaults(), Some(KeId::ECP_384)).unwrap();
    assert_eq!(chosen.suite.cipher, Cipher::AesGcm16 { key_bits: 256 });
    assert_eq!(chosen.to_payload(None).proposals[0].of_kind(INTEG).count(), 0);
}

#[test]
fn windows_esp_defaults_need_sha1_allowed() {
    let spi = [0x12, 0x34, 0x56, 0x78];
    let esp = ProtocolId::ESP;
    let offer = SaPayload {
        proposals: vec![
            proposal(
                1,
                esp,
                &spi,
                &[(ENCR, 12, Some(256)), (INTEG, 2, None), (ESN, 0, None)],
            ),
            proposal(
                2,
                esp,
                &spi,
                &[(ENCR, 12, Some(128)), (INTEG, 2, None), (ESN, 0, None)],
            ),
            proposal(3, esp, &spi, &[(ENCR, 3, None), (INTEG, 2, None), (ESN, 0, None)]),
            proposal(4, esp, &spi, &[(ENCR, 2, None), (INTEG, 2, None), (ESN, 0, None)]),
            proposal(
                5,
                esp,
                &spi,
                &[(ENCR, 11, None), (INTEG, 2, None), (ESN, 0, None)],
            ),
        ],
    };
    let refused = select_child(&offer, &ChildProposal::defaults(), KeRule::Ignore).unwrap_err();
    assert_eq!(
        refused.closest().unwrap().to_string(),
        "integrity: client offers HMAC-SHA1-96; accepted are HMAC-SHA2-256-128, HMAC-SHA2-384-192, HMAC-SHA2-512-256"
    );
    let chosen = select_child(&offer, &child("default,aes256-sha1"), KeRule::Ignore).unwrap();
    assert_eq!((chosen.number, chosen.spi), (1, 0x1234_5678));
}

#[test]
fn apple_profiles_carry_one_proposal() {
    let offer = SaPayload {
        proposals: vec![proposal(
            1,
            ProtocolId::IKE,
            &[],
            &[
                (ENCR, 12, Some(256)),
                (INTEG, 12, None),
                (PRF, 5, None),
                (KE, 14, None),
            ],
        )],
    };
    let chosen = select_ike(&offer, &IkeProposal::defaults(), Some(KeId::MODP_2048)).unwrap();
    assert_eq!(chosen.group, Group::Modp2048);
    let esp = [(ENCR, 12, Some(256)), (INTEG, 12, None), (ESN, 0, None)];
    let offer = SaPayload {
        proposals: vec![proposal(1, ProtocolId::ESP, &[1, 2, 3, 4], &esp)],
    };
    assert!(select_child(&offer, &ChildProposal::defaults(), KeRule::Ignore).is_ok());
}

#[test]
fn macos_14_numbers_the_proposals_of_a_rekey_from_anywhere() {
    for start in [0, 2, 5, 254] {
        let rows = [(ENCR, 20, Some(256)), (PRF, 5, None), (KE, 19, None)];
        let weak = [(ENCR, 3, None), (INTEG, 2, None), (PRF, 2, None), (KE, 2, None)];
        let offer = SaPayload {
            proposals: vec![
                proposal(start, ProtocolId::IKE, &[9; 8], &weak),
                proposal(start + 1, ProtocolId::IKE, &[8; 8], &rows),
            ],
        };
        let chosen = select_ike(&offer, &IkeProposal::defaults(), Some(KeId::ECP_256)).unwrap();
        assert_eq!(chosen.number, start + 1);
        assert_eq!(chosen.spi, Some(Spi(0x0808_0808_0808_0808)));
        assert_eq!(chosen.to_payload(Some(Spi(1))).proposals[0].number, start + 1);
    }
}

#[test]
fn android_sends_modp4096_first() {
    let mut rows = vec![];
    for cipher in [12, 13] {
        rows.extend([256, 192, 128].map(|bits| (ENCR, cipher, Some(bits))));
    }
    rows.extend([14, 13, 12].map(|id| (INTEG, id, None)));
    let groups = [16, 31, 15, 14].map(|id| (KE, id, None));
    let prfs = [7, 6, 5, 4, 8].map(|id| (PRF, id, None));
    rows.extend(groups.iter().chain(&prfs).copied());
    let mut aead = vec![(ENCR, 28, None)];
    for cipher in [20, 19, 18] {
        aead.extend([256, 192, 128].map(|bits| (ENCR, cipher, Some(bits))));
    }
    aead.extend(groups.iter().chain(&prfs).copied());
    let offer = SaPayload {
        proposals: vec![
            proposal(1, ProtocolId::IKE, &[], &rows),
            proposal(2, ProtocolId::IKE, &[], &aead),
        ],
    };
    let sent = Some(KeId::MODP_4096);
    let chosen = select_ike(&offer, &IkeProposal::defaults(), sent).unwrap();
    assert_eq!(
        (chosen.number, chosen.group),
        (2, Group::Modp4096),
        "no second round trip"
    );
    let chosen = select_ike(&offer, &ike("aes256gcm16-prfsha256-x25519"), sent).unwrap();
    assert_eq!(
        chosen.group,
        Group::Curve25519,
        "to be asked for by INVALID_KE_PAYLOAD"
    );

    // Children come without key exchange, ciphers and AEADs in proposals of their own.
    let esp = [(ENCR, 28, None), (ENCR, 20, Some(256)), (ESN, 0, None)];
    let offer = SaPayload {
        proposals: vec![proposal(1, ProtocolId::ESP, &[0, 0, 9, 9], &esp)],
    };
    let chosen = select_child(&offer, &child("aes256gcm16-ecp256"), KeRule::Mirror(None)).unwrap();
    assert_eq!(chosen.group, None);
}

#[test]
fn strongswan_offers_everything_at_once() {
    let mut rows = vec![];
    for cipher in [12, 13, 23] {
        rows.extend([128, 192, 256].map(|bits| (ENCR, cipher, Some(bits))));
    }
    rows.push((ENCR, 3, None));
    rows.extend([12, 13, 14, 2, 5, 8].map(|id| (INTEG, id, None)));
    let prfs = [5, 6, 7, 4, 8, 2].map(|id| (PRF, id, None));
    let groups = [19, 20, 21, 28, 29, 30, 31, 32, 15, 16, 17, 18, 14].map(|id| (KE, id, None));
    rows.extend(prfs.iter().chain(&groups).copied());
    let mut aead = vec![];
    for cipher in [20, 16, 19, 18, 15, 14] {
        aead.extend([128, 192, 256].map(|bits| (ENCR, cipher, Some(bits))));
    }
    aead.push((ENCR, 28, None));
    aead.extend(prfs.iter().chain(&groups).copied());
    let offer = SaPayload {
        proposals: vec![
            proposal(1, ProtocolId::IKE, &[], &rows),
            proposal(2, ProtocolId::IKE, &[], &aead),
        ],
    };
    let chosen = select_ike(&offer, &IkeProposal::defaults(), Some(KeId::ECP_256)).unwrap();
    assert_eq!((chosen.number, chosen.group), (2, Group::Ecp256));
    let line = &offered(&offer)[0];
    assert!(
        line.starts_with("IKE: AES-CBC-128, AES-CBC-192, AES-CBC-256, AES-CTR-128"),
        "{line}"
    );

    // strongSwan 6 with ML-KEM as an additional key exchange that may be left out.
    let mut hybrid = offer.clone();
    for number in 0..2 {
        let transforms = &mut hybrid.proposals[number].transforms;
        transforms.push(Transform::new(TransformType::ADDKE1, KeId::ML_KEM_768.0));
        transforms.push(Transform::new(TransformType::ADDKE1, KeId::NONE.0));
    }
    assert!(select_ike(&hybrid, &IkeProposal::defaults(), Some(KeId::ECP_256)).is_ok());
}
