//! Certificates: their fields, files and limits, and malformed ones.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod pki;

use crypto::cert::{CertError, Certificate, Purpose, TrustAnchors, verify_chain};
use crypto::sign::{KeyKind, PrivateKey};
use crypto::{HashAlgorithm, digest};
use openssl::hash::MessageDigest;
use openssl::pkey::PKey;
use pki::{DAY, NOW, Plan, subject};
use proptest::prelude::*;

#[test]
fn fields_are_read() {
    let root = Plan::ca("root").sign(None);
    let leaf = Plan {
        dns: vec!["gw.example.org", "*.example.org"],
        eku: vec!["serverAuth", "1.3.6.1.5.5.8.2.2"],
        ..Plan::new("gw, \u{1}x")
    }
    .sign(Some(&root));
    let cert = leaf.cert();
    assert_eq!(cert.der(), leaf.x509.to_der().unwrap());
    assert_eq!(cert.subject_text(), "C=DE, O=Example, CN=gw\\, \\u{1}x");
    assert_eq!(cert.issuer_text(), subject("root"));
    assert_eq!(cert.subject_dn_der(), leaf.x509.subject_name().to_der().unwrap());
    assert_eq!(cert.issuer_dn_der(), root.cert().subject_dn_der());
    assert_eq!(cert.serial(), [0x12, 0x34]);
    assert_eq!((cert.not_before(), cert.not_after()), (NOW - DAY, NOW + DAY));
    assert_eq!(cert.san_dns(), ["gw.example.org", "*.example.org"]);
    assert_eq!(cert.san_email(), ["admin@example.org"]);
    assert_eq!(
        cert.san_ip(),
        [
            "192.0.2.1".parse::<std::net::IpAddr>().unwrap(),
            "2001:db8::1".parse().unwrap()
        ]
    );
    assert!(cert.has_eku() && cert.has_server_auth() && cert.has_ike_eku());
    assert!(!cert.has_client_auth() && !cert.has_any_eku() && !cert.is_ca() && !cert.is_self_issued());
    assert!(root.cert().is_ca() && root.cert().is_self_issued());
    assert_eq!(cert.public_key().unwrap().kind(), KeyKind::EcdsaP256);
    let spki = leaf.key.public_key_to_der().unwrap();
    assert_eq!(cert.spki_sha1().to_vec(), digest(HashAlgorithm::Sha1, &[&spki]));
    assert_eq!(
        cert.fingerprint(),
        leaf.x509.digest(MessageDigest::sha256()).unwrap().to_vec()
    );
}

#[test]
fn limits_and_pem() {
    let root = Plan::ca("root").sign(None);
    let other = Plan::ca("other").sign(None);
    let bundle = [
        b"# bundle\n".to_vec(),
        root.x509.to_pem().unwrap(),
        other.x509.to_pem().unwrap(),
    ]
    .concat();
    assert_eq!(
        Certificate::from_pem(&bundle).unwrap(),
        [root.cert(), other.cert()]
    );
    assert_eq!(Certificate::from_pem(b""), Err(CertError::NoCertificate));
    assert_eq!(
        Certificate::from_der(&vec![0x30; 16 * 1024 + 1]),
        Err(CertError::TooLong(16 * 1024 + 1))
    );
    let mut group = openssl::ec::EcGroup::from_curve_name(openssl::nid::Nid::X9_62_PRIME256V1).unwrap();
    group.set_asn1_flag(openssl::ec::Asn1Flag::EXPLICIT_CURVE);
    let key = PKey::from_ec_key(openssl::ec::EcKey::generate(&group).unwrap()).unwrap();
    let odd = Plan {
        key,
        ..Plan::new("odd")
    }
    .sign(None)
    .x509
    .to_der()
    .unwrap();
    assert_eq!(Certificate::from_der(&odd), Err(CertError::ExplicitCurve));
    let mut der = root.x509.to_der().unwrap();
    der.push(0);
    assert_eq!(Certificate::from_der(&der), Err(CertError::Malformed));
    let anchors = TrustAnchors::new(vec![root.cert(), other.cert()]);
    assert_eq!(
        anchors.spki_sha1s(),
        [root.cert().spki_sha1(), other.cert().spki_sha1()]
    );
}

fn sample() -> &'static [u8] {
    static SAMPLE: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
    SAMPLE.get_or_init(|| {
        let root = Plan::ca("root").sign(None);
        let plan = Plan {
            dns: vec!["gw.example.org"],
            eku: vec!["serverAuth"],
            ..Plan::new("leaf")
        };
        plan.sign(Some(&root)).x509.to_der().unwrap()
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// Whatever is changed, cut or put in: an error or a certificate, never a panic.
    #[test]
    fn malformed_certificates_never_panic(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut der = sample().to_vec();
        for (at, octet) in edits {
            let at = at.index(der.len());
            der[at] = octet;
        }
        if let Some(cut) = cut {
            let cut = cut.index(der.len());
            der.truncate(cut);
        }
        if let Ok(cert) = Certificate::from_der(&der) {
            let _ = (cert.subject_text(), cert.issuer_text(), cert.spki_sha1(), cert.has_weak_signature());
            let anchors = TrustAnchors::new(vec![]);
            prop_assert!(verify_chain(&anchors, &cert, &[], NOW, Purpose::Any).is_err());
        }
    }

    #[test]
    fn arbitrary_octets_are_no_certificate(octets in prop::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(Certificate::from_der(&octets).is_err());
        let _ = Certificate::from_pem(&octets);
        prop_assert!(PrivateKey::from_der(&octets).is_err());
        let _ = PrivateKey::from_pem(&octets);
        prop_assert!(crypto::sign::PublicKey::from_spki_der(&octets).is_err());
    }
}
