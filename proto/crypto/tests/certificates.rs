//! Certificates and chains, over a PKI made for each test.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use crypto::cert::{
    CertError, Certificate, ChainError, MAX_CHAIN, Path, Purpose, TrustAnchors, verify_chain,
};
use crypto::sign::{KeyKind, PrivateKey, SignatureScheme, Weakness};
use crypto::{HashAlgorithm, digest};
use openssl::asn1::{Asn1Object, Asn1OctetString, Asn1Time};
use openssl::bn::BigNum;
use openssl::hash::MessageDigest;
use openssl::pkey::{Id, PKey, Private};
use openssl::rsa::Rsa;
use openssl::x509::extension::{BasicConstraints, ExtendedKeyUsage, KeyUsage, SubjectAlternativeName};
use openssl::x509::{X509, X509Builder, X509Extension, X509Name, X509NameBuilder};
use proptest::prelude::*;

/// The moment that the tests verify at, and the usual span of validity around it.
const NOW: i64 = 1_800_000_000;
const DAY: i64 = 86_400;

fn p256() -> PKey<Private> {
    PKey::ec_gen("P-256").unwrap()
}

fn rsa(bits: u32) -> PKey<Private> {
    PKey::from_rsa(Rsa::generate(bits).unwrap()).unwrap()
}

fn name(common_name: &str) -> X509Name {
    let mut name = X509NameBuilder::new().unwrap();
    name.append_entry_by_text("C", "DE").unwrap();
    name.append_entry_by_text("O", "Example").unwrap();
    name.append_entry_by_text("CN", common_name).unwrap();
    name.build()
}

/// Everything about one certificate of a test, with usual values to start from.
struct Plan {
    name: &'static str,
    key: PKey<Private>,
    from: i64,
    to: i64,
    ca: Option<Option<u32>>,
    eku: Vec<&'static str>,
    dns: Vec<&'static str>,
    key_usage: Option<KeyUsage>,
    hash: MessageDigest,
    extra: Vec<X509Extension>,
}

struct Issued {
    x509: X509,
    key: PKey<Private>,
}

impl Issued {
    fn cert(&self) -> Certificate {
        Certificate::from_der(&self.x509.to_der().unwrap()).unwrap()
    }
}

impl Plan {
    fn new(name: &'static str) -> Self {
        Self {
            name,
            key: p256(),
            from: NOW - DAY,
            to: NOW + DAY,
            ca: None,
            eku: vec![],
            dns: vec![],
            key_usage: None,
            hash: MessageDigest::sha256(),
            extra: vec![],
        }
    }

    fn ca(name: &'static str) -> Self {
        Self {
            ca: Some(None),
            ..Self::new(name)
        }
    }

    fn sign(self, issuer: Option<&Issued>) -> Issued {
        let mut builder = X509Builder::new().unwrap();
        builder.set_version(2).unwrap();
        let serial = BigNum::from_u32(0x1234).unwrap().to_asn1_integer().unwrap();
        builder.set_serial_number(&serial).unwrap();
        let subject = name(self.name);
        builder.set_subject_name(&subject).unwrap();
        builder
            .set_issuer_name(issuer.map_or(&*subject, |issuer| issuer.x509.subject_name()))
            .unwrap();
        builder
            .set_not_before(&Asn1Time::from_unix(self.from).unwrap())
            .unwrap();
        builder
            .set_not_after(&Asn1Time::from_unix(self.to).unwrap())
            .unwrap();
        builder.set_pubkey(&self.key).unwrap();
        if let Some(path_len) = self.ca {
            let mut constraints = BasicConstraints::new();
            constraints.critical().ca();
            if let Some(len) = path_len {
                constraints.pathlen(len);
            }
            builder.append_extension(constraints.build().unwrap()).unwrap();
        }
        if !self.eku.is_empty() {
            let mut usage = ExtendedKeyUsage::new();
            for purpose in &self.eku {
                usage.other(purpose);
            }
            builder.append_extension(usage.build().unwrap()).unwrap();
        }
        if let Some(usage) = &self.key_usage {
            builder.append_extension(usage.build().unwrap()).unwrap();
        }
        if !self.dns.is_empty() {
            let mut names = SubjectAlternativeName::new();
            for dns in &self.dns {
                names.dns(dns);
            }
            names.ip("192.0.2.1").ip("2001:db8::1").email("admin@example.org");
            let names = names.build(&builder.x509v3_context(None, None)).unwrap();
            builder.append_extension(names).unwrap();
        }
        for extension in self.extra {
            builder.append_extension(extension).unwrap();
        }
        let key = issuer.map_or(&self.key, |issuer| &issuer.key);
        let hash = if key.id() == Id::ED25519 {
            MessageDigest::null()
        } else {
            self.hash
        };
        builder.sign(key, hash).unwrap();
        Issued {
            x509: builder.build(),
            key: self.key,
        }
    }
}

fn verify(anchors: &[&Issued], leaf: &Issued, between: &[&Issued]) -> Result<Path, ChainError> {
    verify_as(anchors, leaf, between, Purpose::Any)
}

fn verify_as(
    anchors: &[&Issued],
    leaf: &Issued,
    between: &[&Issued],
    purpose: Purpose,
) -> Result<Path, ChainError> {
    let anchors = TrustAnchors::new(anchors.iter().map(|one| one.cert()).collect());
    let between: Vec<_> = between.iter().map(|one| one.cert()).collect();
    verify_chain(&anchors, &leaf.cert(), &between, NOW, purpose)
}

fn subject(common_name: &str) -> String {
    format!("C=DE, O=Example, CN={common_name}")
}

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
fn paths_through_intermediates_in_any_order() {
    let root = Plan::ca("root").sign(None);
    let one = Plan::ca("one").sign(Some(&root));
    let two = Plan::ca("two").sign(Some(&one));
    let stranger = Plan::ca("stranger").sign(None);
    let leaf = Plan::new("leaf").sign(Some(&two));
    let path = verify(&[&stranger, &root], &leaf, &[&stranger, &two, &one]).unwrap();
    let subjects: Vec<_> = path.certificates.iter().map(Certificate::subject_text).collect();
    assert_eq!(
        subjects,
        [subject("leaf"), subject("two"), subject("one"), subject("root")]
    );
    // An intermediate authority may be an anchor, and so may the peer's own certificate.
    assert_eq!(verify(&[&two], &leaf, &[]).unwrap().certificates.len(), 2);
    assert_eq!(verify(&[&leaf], &leaf, &[]).unwrap().certificates.len(), 1);
}

#[test]
fn every_kind_of_key_signs_and_verifies_in_a_chain() {
    let kinds: [(PKey<Private>, KeyKind, SignatureScheme); 6] = [
        (
            rsa(2048),
            KeyKind::Rsa { bits: 2048 },
            SignatureScheme::RsaPss(HashAlgorithm::Sha256),
        ),
        (
            rsa(4096),
            KeyKind::Rsa { bits: 4096 },
            SignatureScheme::RsaPkcs1(HashAlgorithm::Sha512),
        ),
        (
            p256(),
            KeyKind::EcdsaP256,
            SignatureScheme::EcdsaRaw(crypto::sign::Curve::P256),
        ),
        (
            PKey::ec_gen("P-384").unwrap(),
            KeyKind::EcdsaP384,
            SignatureScheme::Ecdsa(crypto::sign::Curve::P384, HashAlgorithm::Sha384),
        ),
        (
            PKey::ec_gen("P-521").unwrap(),
            KeyKind::EcdsaP521,
            SignatureScheme::EcdsaRaw(crypto::sign::Curve::P521),
        ),
        (
            PKey::generate_ed25519().unwrap(),
            KeyKind::Ed25519,
            SignatureScheme::Ed25519,
        ),
    ];
    for (key, kind, scheme) in kinds {
        let root = Plan {
            key: key.clone(),
            ..Plan::ca("root")
        }
        .sign(None);
        let leaf = Plan {
            key: key.clone(),
            ..Plan::new("leaf")
        }
        .sign(Some(&root));
        verify(&[&root], &leaf, &[]).unwrap_or_else(|error| panic!("{kind}: {error}"));
        let private = PrivateKey::from_der(&key.private_key_to_pkcs8().unwrap()).unwrap();
        assert_eq!(private.kind(), kind);
        let signature = private.sign(scheme, b"octets").unwrap();
        let cert = leaf.cert();
        assert_eq!(private.public_key().unwrap(), *cert.public_key().unwrap());
        cert.public_key()
            .unwrap()
            .verify(scheme, b"octets", &signature)
            .unwrap();
        assert!(
            cert.public_key()
                .unwrap()
                .verify(scheme, b"octetz", &signature)
                .is_err()
        );
    }
}

#[test]
fn expired_and_not_yet_valid_say_when() {
    let root = Plan::ca("root").sign(None);
    let old = Plan {
        to: NOW - 60,
        ..Plan::new("old")
    }
    .sign(Some(&root));
    assert_eq!(
        verify(&[&root], &old, &[]),
        Err(ChainError::Expired {
            subject: subject("old"),
            not_after: NOW - 60
        })
    );
    let new = Plan {
        from: NOW + 60,
        ..Plan::new("new")
    }
    .sign(Some(&root));
    assert_eq!(
        verify(&[&root], &new, &[]),
        Err(ChainError::NotYetValid {
            subject: subject("new"),
            not_before: NOW + 60
        })
    );
    let old_ca = Plan {
        to: NOW - 60,
        ..Plan::ca("old ca")
    }
    .sign(Some(&root));
    let leaf = Plan::new("leaf").sign(Some(&old_ca));
    assert_eq!(
        verify(&[&root], &leaf, &[&old_ca]),
        Err(ChainError::Expired {
            subject: subject("old ca"),
            not_after: NOW - 60
        })
    );
    let old_root = Plan {
        to: NOW - 60,
        ..Plan::ca("old root")
    }
    .sign(None);
    let leaf = Plan::new("leaf").sign(Some(&old_root));
    assert!(matches!(
        verify(&[&old_root], &leaf, &[]),
        Err(ChainError::Expired { .. })
    ));
    // The first and the last second count.
    let brief = Plan {
        from: NOW,
        to: NOW,
        ..Plan::new("brief")
    }
    .sign(Some(&root));
    verify(&[&root], &brief, &[]).unwrap();
}

#[test]
fn a_renewed_authority_wins_over_its_expired_certificate() {
    let key = p256();
    let old = Plan {
        key: key.clone(),
        to: NOW - 60,
        ..Plan::ca("root")
    }
    .sign(None);
    let new = Plan {
        key,
        ..Plan::ca("root")
    }
    .sign(None);
    let leaf = Plan::new("leaf").sign(Some(&old));
    verify(&[&old, &new], &leaf, &[]).unwrap();
    verify(&[&new, &old], &leaf, &[]).unwrap();
}

#[test]
fn unknown_issuers_are_named() {
    let root = Plan::ca("root").sign(None);
    let other = Plan::ca("other").sign(None);
    let between = Plan::ca("between").sign(Some(&root));
    let leaf = Plan::new("leaf").sign(Some(&between));
    let unknown = |name: &str, issuer: &str| {
        Err(ChainError::UnknownIssuer {
            subject: subject(name),
            issuer: subject(issuer),
        })
    };
    assert_eq!(verify(&[&other], &leaf, &[&between]), unknown("between", "root"));
    assert_eq!(verify(&[&root], &leaf, &[]), unknown("leaf", "between"));
    assert_eq!(verify(&[], &leaf, &[&between, &root]), unknown("root", "root"));
    let alone = Plan::new("alone").sign(None);
    assert_eq!(verify(&[&root], &alone, &[]), unknown("alone", "alone"));
}

#[test]
fn a_changed_certificate_has_a_bad_signature() {
    let root = Plan::ca("root").sign(None);
    let leaf = Plan {
        dns: vec!["a.example.org"],
        ..Plan::new("leaf")
    }
    .sign(Some(&root));
    let mut der = leaf.x509.to_der().unwrap();
    let at = der
        .windows(13)
        .position(|window| window == b"a.example.org")
        .unwrap();
    der[at] = b'b';
    let anchors = TrustAnchors::new(vec![root.cert()]);
    let forged = Certificate::from_der(&der).unwrap();
    assert_eq!(
        verify_chain(&anchors, &forged, &[], NOW, Purpose::Any),
        Err(ChainError::BadSignature {
            subject: subject("leaf")
        })
    );
    // Another authority of the same name.
    let twin = Plan::ca("root").sign(None);
    let result = verify(&[&twin], &leaf, &[]);
    assert_eq!(
        result,
        Err(ChainError::BadSignature {
            subject: subject("leaf")
        })
    );
}

#[test]
fn only_authorities_issue() {
    let root = Plan::ca("root").sign(None);
    let user = Plan::new("user").sign(Some(&root));
    let leaf = Plan::new("leaf").sign(Some(&user));
    assert_eq!(
        verify(&[&root], &leaf, &[&user]),
        Err(ChainError::NotACa {
            subject: subject("user")
        })
    );
    assert_eq!(
        verify(&[&user], &leaf, &[]),
        Err(ChainError::NotACa {
            subject: subject("user")
        })
    );
    let mut usage = KeyUsage::new();
    usage.digital_signature();
    let odd = Plan {
        key_usage: Some(usage),
        ..Plan::ca("odd")
    }
    .sign(Some(&root));
    let leaf = Plan::new("leaf").sign(Some(&odd));
    assert_eq!(
        verify(&[&root], &leaf, &[&odd]),
        Err(ChainError::NotACa {
            subject: subject("odd")
        })
    );
}

#[test]
fn paths_have_limits() {
    let root = Plan {
        ca: Some(Some(0)),
        ..Plan::ca("root")
    }
    .sign(None);
    let one = Plan::ca("one").sign(Some(&root));
    let leaf = Plan::new("leaf").sign(Some(&one));
    assert_eq!(verify(&[&root], &leaf, &[&one]), Err(ChainError::PathTooLong));
    verify(&[&root], &Plan::new("direct").sign(Some(&root)), &[]).unwrap();

    let names = ["c0", "c1", "c2", "c3", "c4", "c5", "c6", "c7", "c8", "c9"];
    let mut chain = vec![Plan::ca("root").sign(None)];
    for name in names {
        let next = Plan::ca(name).sign(chain.last());
        chain.push(next);
    }
    // Ten certificates in all still pass; eleven do not.
    let path_of = |count: usize| {
        let leaf = Plan::new("leaf").sign(Some(&chain[count]));
        let between: Vec<&Issued> = chain[1..=count].iter().collect();
        verify(&[&chain[0]], &leaf, &between)
    };
    assert_eq!(path_of(8).unwrap().certificates.len(), MAX_CHAIN);
    assert_eq!(path_of(9), Err(ChainError::PathTooLong));
    assert_eq!(path_of(10), Err(ChainError::PathTooLong));
}

#[test]
fn weak_keys_are_named() {
    let root = Plan::ca("root").sign(None);
    let weak = |subject_name: &str, weakness| {
        Err(ChainError::WeakKey {
            subject: subject(subject_name),
            weakness,
        })
    };
    let short = Plan {
        key: rsa(1024),
        ..Plan::new("short")
    }
    .sign(Some(&root));
    assert_eq!(
        verify(&[&root], &short, &[]),
        weak("short", Weakness::TooShort(1024))
    );
    let short_ca = Plan {
        key: rsa(1024),
        ..Plan::ca("short ca")
    }
    .sign(Some(&root));
    let leaf = Plan::new("leaf").sign(Some(&short_ca));
    assert_eq!(
        verify(&[&root], &leaf, &[&short_ca]),
        weak("short ca", Weakness::TooShort(1024))
    );
    assert_eq!(
        verify(&[&short_ca], &leaf, &[]),
        weak("short ca", Weakness::TooShort(1024))
    );

    // Public keys that nobody can have generated, but a peer can send.
    let public = |modulus_bits: i32, exponent: &BigNum| {
        let mut modulus = BigNum::new().unwrap();
        modulus.set_bit(modulus_bits - 1).unwrap();
        modulus.set_bit(0).unwrap();
        let key = Rsa::from_public_components(modulus, (**exponent).to_owned().unwrap()).unwrap();
        let spki = PKey::from_rsa(key).unwrap().public_key_to_der().unwrap();
        crypto::sign::PublicKey::from_spki_der(&spki).unwrap().weakness()
    };
    let mut wide = BigNum::new().unwrap();
    wide.set_bit(64).unwrap();
    wide.set_bit(0).unwrap();
    let common = BigNum::from_u32(65_537).unwrap();
    assert_eq!(public(2048, &common), None);
    assert_eq!(public(8192, &common), None);
    assert_eq!(public(8193, &common), Some(Weakness::TooLong(8193)));
    assert_eq!(
        public(2048, &BigNum::from_u32(4).unwrap()),
        Some(Weakness::Exponent)
    );
    assert_eq!(
        public(2048, &BigNum::from_u32(1).unwrap()),
        Some(Weakness::Exponent)
    );
    assert_eq!(public(2048, &wide), Some(Weakness::Exponent));
}

#[test]
fn weak_hashes_are_refused_except_under_an_anchor() {
    let root = Plan {
        hash: MessageDigest::sha1(),
        ..Plan::ca("root")
    }
    .sign(None);
    verify(&[&root], &Plan::new("leaf").sign(Some(&root)), &[]).unwrap();
    let leaf = Plan {
        hash: MessageDigest::sha1(),
        ..Plan::new("leaf")
    }
    .sign(Some(&root));
    assert_eq!(
        verify(&[&root], &leaf, &[]),
        Err(ChainError::WeakSignature {
            subject: subject("leaf")
        })
    );
    let rsa_root = Plan {
        key: rsa(2048),
        ..Plan::ca("root")
    }
    .sign(None);
    for hash in [MessageDigest::sha1(), MessageDigest::md5()] {
        let leaf = Plan {
            hash,
            ..Plan::new("leaf")
        }
        .sign(Some(&rsa_root));
        assert_eq!(
            verify(&[&rsa_root], &leaf, &[]),
            Err(ChainError::WeakSignature {
                subject: subject("leaf")
            })
        );
    }
}

#[test]
fn purposes_follow_the_extended_key_usage() {
    let root = Plan::ca("root").sign(None);
    let cases: [(&[&'static str], [bool; 3]); 7] = [
        (&[], [true, true, true]),
        (&["serverAuth"], [true, false, true]),
        (&["clientAuth"], [false, true, true]),
        (&["emailProtection"], [false, false, false]),
        (&["anyExtendedKeyUsage"], [true, true, true]),
        (&["1.3.6.1.5.5.7.3.17"], [true, true, true]),
        (&["emailProtection", "1.3.6.1.5.5.8.2.2"], [true, true, true]),
    ];
    for (eku, allowed) in cases {
        let leaf = Plan {
            eku: eku.to_vec(),
            ..Plan::new("leaf")
        }
        .sign(Some(&root));
        for (purpose, allowed) in [Purpose::Server, Purpose::Client, Purpose::Any]
            .into_iter()
            .zip(allowed)
        {
            let missing = Err(ChainError::MissingEku {
                subject: subject("leaf"),
                purpose,
            });
            let result = verify_as(&[&root], &leaf, &[], purpose).map(|_| ());
            assert_eq!(
                result,
                if allowed { Ok(()) } else { missing },
                "{eku:?} {purpose:?}"
            );
        }
    }
    let mut usage = KeyUsage::new();
    usage.key_encipherment();
    let leaf = Plan {
        key_usage: Some(usage),
        ..Plan::new("leaf")
    }
    .sign(Some(&root));
    assert_eq!(
        verify(&[&root], &leaf, &[]),
        Err(ChainError::KeyUsage {
            subject: subject("leaf")
        })
    );
}

/// An extension from its object identifier and DER value.
fn extension(oid: &str, critical: bool, value: &[u8]) -> X509Extension {
    let value = Asn1OctetString::new_from_bytes(value).unwrap();
    X509Extension::new_from_der(&Asn1Object::from_str(oid).unwrap(), critical, &value).unwrap()
}

#[test]
fn name_constraints_bind() {
    // Permitted subtrees: dNSName "example.org".
    let constraint = [
        &[0x30, 0x11, 0xa0, 0x0f, 0x30, 0x0d, 0x82, 0x0b][..],
        b"example.org",
    ]
    .concat();
    let root = Plan {
        extra: vec![extension("2.5.29.30", true, &constraint)],
        ..Plan::ca("root")
    }
    .sign(None);
    let inside = Plan {
        dns: vec!["gw.example.org"],
        ..Plan::new("inside")
    }
    .sign(Some(&root));
    verify(&[&root], &inside, &[]).unwrap();
    let outside = Plan {
        dns: vec!["gw.example.com"],
        ..Plan::new("outside")
    }
    .sign(Some(&root));
    assert_eq!(
        verify(&[&root], &outside, &[]),
        Err(ChainError::NameConstraint {
            subject: subject("outside")
        })
    );
}

#[test]
fn unknown_critical_extensions_are_refused() {
    let root = Plan::ca("root").sign(None);
    let leaf = |critical| {
        Plan {
            extra: vec![extension("1.2.3.4", critical, &[5, 0])],
            ..Plan::new("leaf")
        }
        .sign(Some(&root))
    };
    verify(&[&root], &leaf(false), &[]).unwrap();
    assert_eq!(
        verify(&[&root], &leaf(true), &[]),
        Err(ChainError::CriticalExtension {
            subject: subject("leaf")
        })
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
