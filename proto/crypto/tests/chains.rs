//! Chains: paths that are found, and every named reason why one is not.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod pki;

use crypto::HashAlgorithm;
use crypto::cert::{Certificate, ChainError, MAX_CHAIN, Purpose, TrustAnchors, verify_chain};
use crypto::sign::{KeyKind, LoadError, PrivateKey, SignatureScheme, Weakness};
use openssl::bn::BigNum;
use openssl::hash::MessageDigest;
use openssl::pkey::{PKey, Private};
use openssl::rsa::Rsa;
use openssl::x509::extension::KeyUsage;
use pki::{Issued, NOW, Plan, extension, p256, rsa, subject, verify, verify_as};

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
fn keys_that_cannot_be_used_are_named() {
    let root = Plan::ca("root").sign(None);
    let key = PKey::ec_gen("secp256k1").unwrap();
    let leaf = Plan {
        key,
        ..Plan::new("leaf")
    }
    .sign(Some(&root));
    let reason = LoadError::Unsupported;
    let refused = Err(ChainError::UnsupportedKey {
        subject: subject("leaf"),
        reason,
    });
    assert_eq!(verify(&[&root], &leaf, &[]), refused);
    // A point off its curve.
    let leaf = Plan::new("leaf").sign(Some(&root));
    let mut der = leaf.x509.to_der().unwrap();
    let spki = leaf.key.public_key_to_der().unwrap();
    let at = der.windows(spki.len()).position(|window| window == spki).unwrap();
    der[at + spki.len() - 1] ^= 1;
    let broken = Certificate::from_der(&der).unwrap();
    assert_eq!(broken.public_key().unwrap_err(), LoadError::Malformed);
    let anchors = TrustAnchors::new(vec![root.cert()]);
    let reason = LoadError::Malformed;
    let refused = Err(ChainError::UnsupportedKey {
        subject: subject("leaf"),
        reason,
    });
    assert_eq!(verify_chain(&anchors, &broken, &[], NOW, Purpose::Any), refused);
}
