//! Signatures: the vectors of the RFCs, every scheme with every kind of key, the identifiers of RFC 7427, key files.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use crypto::HashAlgorithm;
use crypto::sign::{
    Curve, IdentifierError, KeyKind, LoadError, PrivateKey, PublicKey, SignError, SignatureScheme,
    VerifyError, Weakness,
};
use openssl::bn::{BigNum, BigNumContext};
use openssl::ec::{EcGroup, EcKey, EcPoint};
use openssl::nid::Nid;
use openssl::pkey::{Id, PKey, Private};
use openssl::rsa::Rsa;
use openssl::symm;

const SHA: [HashAlgorithm; 4] = [
    HashAlgorithm::Sha1,
    HashAlgorithm::Sha256,
    HashAlgorithm::Sha384,
    HashAlgorithm::Sha512,
];

fn hex(text: &str) -> Vec<u8> {
    hex::decode(text).unwrap()
}

fn nid(curve: Curve) -> Nid {
    match curve {
        Curve::P256 => Nid::X9_62_PRIME256V1,
        Curve::P384 => Nid::SECP384R1,
        Curve::P521 => Nid::SECP521R1,
    }
}

fn load(key: &PKey<Private>) -> PrivateKey {
    PrivateKey::from_der(&key.private_key_to_pkcs8().unwrap()).unwrap()
}

#[test]
fn ecdsa_of_rfc_4754() {
    for (curve, [private, public, signature]) in ECDSA {
        let group = EcGroup::from_curve_name(nid(curve)).unwrap();
        let mut context = BigNumContext::new().unwrap();
        let point = EcPoint::from_bytes(&group, &hex(&format!("04{public}")), &mut context).unwrap();
        let scalar = BigNum::from_slice(&hex(private)).unwrap();
        let key = EcKey::from_private_components(&group, &scalar, &point).unwrap();
        key.check_key().unwrap();
        let private = load(&PKey::from_ec_key(key).unwrap());
        let public = private.public_key().unwrap();
        let scheme = SignatureScheme::EcdsaRaw(curve);
        public.verify(scheme, b"abc", &hex(signature)).unwrap();
        assert_eq!(
            public.verify(scheme, b"abd", &hex(signature)),
            Err(VerifyError::BadSignature)
        );
        let ours = private.sign(scheme, b"abc").unwrap();
        assert_eq!(ours.len(), 2 * curve.scalar_len());
        public.verify(scheme, b"abc", &ours).unwrap();
        // Halves of the wrong length, and zeros, which are no signature of anything.
        for bad in [&ours[1..], &[&ours[..], &[0]].concat(), &[], &vec![0; ours.len()]] {
            assert_eq!(public.verify(scheme, b"abc", bad), Err(VerifyError::BadSignature));
        }
    }
}

/// RFC 8032 section 7.1, test 3.
#[test]
fn ed25519_of_rfc_8032() {
    let seed = hex("c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7");
    let key = PKey::private_key_from_raw_bytes(&seed, Id::ED25519).unwrap();
    let private = load(&key);
    assert_eq!(private.kind(), KeyKind::Ed25519);
    let signature = private.sign(SignatureScheme::Ed25519, &[0xaf, 0x82]).unwrap();
    assert_eq!(
        hex::encode(&signature),
        "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9\
         716ed28dc027beceea1ec40a"
    );
    let spki =
        hex("302a300506032b6570032100fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025");
    let public = PublicKey::from_spki_der(&spki).unwrap();
    assert_eq!(public, private.public_key().unwrap());
    public
        .verify(SignatureScheme::Ed25519, &[0xaf, 0x82], &signature)
        .unwrap();
    assert!(
        public
            .verify(SignatureScheme::Ed25519, &[0xaf, 0x83], &signature)
            .is_err()
    );
}

#[test]
fn every_scheme_with_every_kind_of_key() {
    let keys = [
        PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap(),
        PKey::ec_gen("P-256").unwrap(),
        PKey::ec_gen("P-384").unwrap(),
        PKey::ec_gen("P-521").unwrap(),
        PKey::generate_ed25519().unwrap(),
    ];
    let curves = [Curve::P256, Curve::P384, Curve::P521];
    let mut schemes = vec![SignatureScheme::Ed25519];
    schemes.extend(curves.map(SignatureScheme::EcdsaRaw));
    for hash in HashAlgorithm::ALL {
        schemes.extend([SignatureScheme::RsaPkcs1(hash), SignatureScheme::RsaPss(hash)]);
        schemes.extend(curves.map(|curve| SignatureScheme::Ecdsa(curve, hash)));
    }
    for key in &keys {
        let private = load(key);
        let public = private.public_key().unwrap();
        let kind = private.kind();
        assert_eq!(public.kind(), kind);
        let mut fitting = 0;
        for scheme in &schemes {
            if !scheme.fits(kind) {
                assert_eq!(
                    private.sign(*scheme, b"m"),
                    Err(SignError::Mismatch {
                        kind,
                        scheme: *scheme
                    })
                );
                let mismatch = Err(VerifyError::Mismatch {
                    kind,
                    scheme: *scheme,
                });
                assert_eq!(public.verify(*scheme, b"m", &[0; 64]), mismatch);
                continue;
            }
            fitting += 1;
            let mut signature = private.sign(*scheme, b"message").unwrap();
            public.verify(*scheme, b"message", &signature).unwrap();
            assert_eq!(
                public.verify(*scheme, b"massage", &signature),
                Err(VerifyError::BadSignature)
            );
            let last = signature.len() - 1;
            signature[last] ^= 1;
            assert_eq!(
                public.verify(*scheme, b"message", &signature),
                Err(VerifyError::BadSignature),
                "{scheme}"
            );
            assert_eq!(
                public.verify(*scheme, b"message", &[]),
                Err(VerifyError::BadSignature)
            );
        }
        assert_eq!(
            fitting,
            match kind {
                KeyKind::Rsa { .. } => 8,
                KeyKind::Ed25519 => 1,
                KeyKind::EcdsaP256 | KeyKind::EcdsaP384 | KeyKind::EcdsaP521 => 5,
            }
        );
        assert_eq!(format!("{private:?}"), format!("PrivateKey({kind}, ..)"));
    }
}

/// Some schemes are AWS-LC's and the others OpenSSL's: they must understand each other.
#[test]
fn an_independent_verifier_agrees() {
    use openssl::hash::MessageDigest;
    use openssl::rsa::Padding;
    use openssl::sign::{RsaPssSaltlen, Signer, Verifier};
    let digests = [
        MessageDigest::sha1(),
        MessageDigest::sha256(),
        MessageDigest::sha384(),
        MessageDigest::sha512(),
    ];
    let rsa = |bits| PKey::from_rsa(Rsa::generate(bits).unwrap()).unwrap();
    let keys = [
        rsa(2048),
        rsa(3072),
        PKey::ec_gen("P-256").unwrap(),
        PKey::ec_gen("P-384").unwrap(),
    ];
    for key in keys {
        let ours = load(&key);
        let public = ours.public_key().unwrap();
        for (hash, digest) in SHA.into_iter().zip(digests) {
            let schemes = match ours.kind().curve() {
                Some(curve) => vec![SignatureScheme::Ecdsa(curve, hash)],
                None => vec![SignatureScheme::RsaPkcs1(hash), SignatureScheme::RsaPss(hash)],
            };
            for scheme in schemes {
                let mut signer = Signer::new(digest, &key).unwrap();
                let mut verifier = Verifier::new(digest, &key).unwrap();
                if let SignatureScheme::RsaPss(_) = scheme {
                    signer.set_rsa_padding(Padding::PKCS1_PSS).unwrap();
                    signer.set_rsa_pss_saltlen(RsaPssSaltlen::DIGEST_LENGTH).unwrap();
                    verifier.set_rsa_padding(Padding::PKCS1_PSS).unwrap();
                    verifier
                        .set_rsa_pss_saltlen(RsaPssSaltlen::DIGEST_LENGTH)
                        .unwrap();
                }
                let signature = ours.sign(scheme, b"message").unwrap();
                assert!(
                    verifier.verify_oneshot(&signature, b"message").unwrap(),
                    "{scheme}"
                );
                public
                    .verify(
                        scheme,
                        b"message",
                        &signer.sign_oneshot_to_vec(b"message").unwrap(),
                    )
                    .unwrap();
            }
        }
    }
}

#[test]
fn rsa_signatures_bind_their_padding_and_hash() {
    let private = load(&PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap());
    let public = private.public_key().unwrap();
    let signature = private
        .sign(SignatureScheme::RsaPss(HashAlgorithm::Sha256), b"m")
        .unwrap();
    for other in [
        SignatureScheme::RsaPkcs1(HashAlgorithm::Sha256),
        SignatureScheme::RsaPss(HashAlgorithm::Sha384),
    ] {
        assert_eq!(
            public.verify(other, b"m", &signature),
            Err(VerifyError::BadSignature)
        );
    }
}

const RSA: KeyKind = KeyKind::Rsa { bits: 2048 };

/// RFC 7427 appendix A; the first column is what we send.
#[test]
fn identifiers_of_rfc_7427() {
    let p256 = |hash| (SignatureScheme::Ecdsa(Curve::P256, hash), KeyKind::EcdsaP256);
    let vectors = [
        (
            (SignatureScheme::RsaPkcs1(HashAlgorithm::Sha1), RSA),
            "300d06092a864886f70d0101050500",
        ),
        (
            (SignatureScheme::RsaPkcs1(HashAlgorithm::Sha256), RSA),
            "300d06092a864886f70d01010b0500",
        ),
        (
            (SignatureScheme::RsaPkcs1(HashAlgorithm::Sha384), RSA),
            "300d06092a864886f70d01010c0500",
        ),
        (
            (SignatureScheme::RsaPkcs1(HashAlgorithm::Sha512), RSA),
            "300d06092a864886f70d01010d0500",
        ),
        (p256(HashAlgorithm::Sha1), "300906072a8648ce3d0401"),
        (p256(HashAlgorithm::Sha256), "300a06082a8648ce3d040302"),
        (p256(HashAlgorithm::Sha384), "300a06082a8648ce3d040303"),
        (p256(HashAlgorithm::Sha512), "300a06082a8648ce3d040304"),
        (
            (SignatureScheme::RsaPss(HashAlgorithm::Sha1), RSA),
            "300d06092a864886f70d01010a3000",
        ),
        // RFC 8420 appendix A.
        ((SignatureScheme::Ed25519, KeyKind::Ed25519), "300506032b6570"),
        // Without the trailer field, whose default DER leaves out; this is what other implementations send.
        (
            (SignatureScheme::RsaPss(HashAlgorithm::Sha256), RSA),
            "304106092a864886f70d01010a3034a00f300d06096086480165030402010500a11c301a06092a864886f70d010108300d0609\
             6086480165030402010500a203020120",
        ),
    ];
    for ((scheme, kind), der) in vectors {
        assert_eq!(
            hex::encode(scheme.algorithm_identifier().unwrap()),
            der,
            "{scheme}"
        );
        assert_eq!(
            SignatureScheme::from_algorithm_identifier(&hex(der), kind),
            Ok(scheme)
        );
    }
    // Encodings that peers use besides: defaults written out, parameters left out or NULL.
    let accepted = [
        (
            (SignatureScheme::RsaPss(HashAlgorithm::Sha1), RSA),
            "303e06092a864886f70d01010a3031a00b300906052b0e03021a0500a118301606092a864886f70d010108300906052b0e0302\
             1a0500a203020114a303020101",
        ),
        (
            (SignatureScheme::RsaPss(HashAlgorithm::Sha256), RSA),
            "304606092a864886f70d01010a3039a00f300d06096086480165030402010500a11c301a06092a864886f70d010108300d0609\
             6086480165030402010500a203020120a303020101",
        ),
        (
            (SignatureScheme::RsaPkcs1(HashAlgorithm::Sha256), RSA),
            "300b06092a864886f70d01010b",
        ),
        (p256(HashAlgorithm::Sha256), "300c06082a8648ce3d0403020500"),
    ];
    for ((scheme, kind), der) in accepted {
        assert_eq!(
            SignatureScheme::from_algorithm_identifier(&hex(der), kind),
            Ok(scheme)
        );
    }
    assert_eq!(
        SignatureScheme::EcdsaRaw(Curve::P256).algorithm_identifier(),
        None
    );
    assert_eq!(
        SignatureScheme::RsaPkcs1(HashAlgorithm::Identity).algorithm_identifier(),
        None
    );
}

#[test]
fn identifiers_survive_the_round_trip_and_cannot_be_cut() {
    for hash in SHA {
        let schemes = [
            (SignatureScheme::RsaPkcs1(hash), RSA),
            (SignatureScheme::RsaPss(hash), RSA),
            (SignatureScheme::Ecdsa(Curve::P521, hash), KeyKind::EcdsaP521),
        ];
        for (scheme, kind) in schemes {
            let der = scheme.algorithm_identifier().unwrap();
            assert_eq!(SignatureScheme::from_algorithm_identifier(&der, kind), Ok(scheme));
            for len in 0..der.len() {
                let cut = SignatureScheme::from_algorithm_identifier(&der[..len], kind);
                assert_eq!(cut, Err(IdentifierError::Malformed));
            }
            for at in 0..der.len() {
                for bit in 0..8 {
                    let mut changed = der.clone();
                    changed[at] ^= 1 << bit;
                    let decoded = SignatureScheme::from_algorithm_identifier(&changed, kind);
                    assert_ne!(decoded, Ok(scheme), "octet {at} bit {bit} of {scheme}");
                }
            }
        }
    }
}

#[test]
fn identifiers_must_fit_the_key_and_be_known() {
    let ecdsa = SignatureScheme::Ecdsa(Curve::P256, HashAlgorithm::Sha256)
        .algorithm_identifier()
        .unwrap();
    assert_eq!(
        SignatureScheme::from_algorithm_identifier(&ecdsa, RSA),
        Err(IdentifierError::Unknown)
    );
    let p384 = SignatureScheme::from_algorithm_identifier(&ecdsa, KeyKind::EcdsaP384);
    assert_eq!(
        p384,
        Ok(SignatureScheme::Ecdsa(Curve::P384, HashAlgorithm::Sha256))
    );
    // MD5 with RSA, and PSS with a salt of 0 octets.
    let md5 = hex("300d06092a864886f70d0101040500");
    assert_eq!(
        SignatureScheme::from_algorithm_identifier(&md5, RSA),
        Err(IdentifierError::Unknown)
    );
    let no_salt = hex("301206092a864886f70d01010a3005a203020100");
    assert_eq!(
        SignatureScheme::from_algorithm_identifier(&no_salt, RSA),
        Err(IdentifierError::Parameters)
    );
}

#[test]
fn the_best_scheme_that_the_peer_knows() {
    use HashAlgorithm::{Identity, Sha1, Sha256, Sha384, Sha512};
    let cases = [
        (
            RSA,
            vec![Sha1, Sha512, Sha256],
            Some(SignatureScheme::RsaPss(Sha256)),
        ),
        (RSA, vec![Sha512], Some(SignatureScheme::RsaPss(Sha512))),
        (RSA, vec![Sha1, Identity], None),
        (
            KeyKind::EcdsaP384,
            vec![Sha256, Sha384],
            Some(SignatureScheme::Ecdsa(Curve::P384, Sha384)),
        ),
        (
            KeyKind::EcdsaP384,
            vec![Sha256, Sha512],
            Some(SignatureScheme::Ecdsa(Curve::P384, Sha512)),
        ),
        (
            KeyKind::Ed25519,
            vec![Sha256, Identity],
            Some(SignatureScheme::Ed25519),
        ),
        (KeyKind::Ed25519, vec![Sha256], None),
    ];
    for (kind, hashes, scheme) in cases {
        assert_eq!(
            SignatureScheme::choose(kind, &hashes),
            scheme,
            "{kind} {hashes:?}"
        );
    }
}

#[test]
fn key_files_in_every_format() {
    let rsa = PKey::from_rsa(Rsa::generate(2048).unwrap()).unwrap();
    let ec = PKey::ec_gen("P-384").unwrap();
    let ed = PKey::generate_ed25519().unwrap();
    let sec1 = ec.ec_key().unwrap().private_key_to_pem().unwrap();
    let parameters = b"-----BEGIN EC PARAMETERS-----\nBgUrgQQAIg==\n-----END EC PARAMETERS-----\n";
    let files = [
        (RSA, rsa.private_key_to_pem_pkcs8().unwrap()),
        (RSA, rsa.rsa().unwrap().private_key_to_pem().unwrap()),
        (KeyKind::EcdsaP384, ec.private_key_to_pem_pkcs8().unwrap()),
        (KeyKind::EcdsaP384, [parameters, &sec1[..]].concat()),
        (KeyKind::Ed25519, ed.private_key_to_pem_pkcs8().unwrap()),
    ];
    for (kind, pem) in files {
        assert_eq!(
            PrivateKey::from_pem(&pem).unwrap().kind(),
            kind,
            "{}",
            String::from_utf8_lossy(&pem)
        );
    }
    let encrypted = ed
        .private_key_to_pem_pkcs8_passphrase(symm::Cipher::aes_256_cbc(), b"open sesame")
        .unwrap();
    let key = PrivateKey::from_pem_with_password(&encrypted, Some(b"open sesame")).unwrap();
    assert_eq!(key.kind(), KeyKind::Ed25519);
    assert_eq!(PrivateKey::from_pem(&encrypted).unwrap_err(), LoadError::Password);
    let wrong = PrivateKey::from_pem_with_password(&encrypted, Some(b"wrong"));
    assert_eq!(wrong.unwrap_err(), LoadError::Password);

    let pem = ed.private_key_to_pem_pkcs8().unwrap();
    assert_eq!(
        PrivateKey::from_pem(&[&pem[..], &pem].concat()).unwrap_err(),
        LoadError::SeveralKeys
    );
    assert_eq!(
        PrivateKey::from_pem(&ed.public_key_to_pem().unwrap()).unwrap_err(),
        LoadError::NoKey
    );
}

#[test]
fn keys_are_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<PrivateKey>();
    shared::<PublicKey>();
    shared::<crypto::cert::Certificate>();
    shared::<crypto::cert::TrustAnchors>();
    shared::<crypto::dh::KeyPair>();
    shared::<crypto::Sealer>();
    shared::<crypto::Opener>();
    shared::<crypto::MacKey>();
    shared::<crypto::Secret>();
}

#[test]
fn keys_that_are_not_accepted() {
    let short = PKey::from_rsa(Rsa::generate(1024).unwrap()).unwrap();
    let der = short.private_key_to_pkcs8().unwrap();
    assert_eq!(
        PrivateKey::from_der(&der).unwrap_err(),
        LoadError::Weak(Weakness::TooShort(1024))
    );
    // A weak public key loads, so that it can be named, and verifies nothing.
    let public = PublicKey::from_spki_der(&short.public_key_to_der().unwrap()).unwrap();
    assert_eq!(public.weakness(), Some(Weakness::TooShort(1024)));
    let mut signer = openssl::sign::Signer::new(openssl::hash::MessageDigest::sha256(), &short).unwrap();
    let signature = signer.sign_oneshot_to_vec(b"m").unwrap();
    let scheme = SignatureScheme::RsaPkcs1(HashAlgorithm::Sha256);
    assert_eq!(
        public.verify(scheme, b"m", &signature),
        Err(VerifyError::BadSignature)
    );

    for unsupported in [
        PKey::ec_gen("secp256k1").unwrap(),
        PKey::generate_x25519().unwrap(),
    ] {
        let der = unsupported.private_key_to_pkcs8().unwrap();
        assert_eq!(PrivateKey::from_der(&der).unwrap_err(), LoadError::Unsupported);
        let spki = unsupported.public_key_to_der().unwrap();
        assert_eq!(
            PublicKey::from_spki_der(&spki).unwrap_err(),
            LoadError::Unsupported
        );
    }

    // P-256 with its parameters written out.
    let mut group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    group.set_asn1_flag(openssl::ec::Asn1Flag::EXPLICIT_CURVE);
    let explicit = PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap();
    let spki = explicit.public_key_to_der().unwrap();
    assert_eq!(
        PublicKey::from_spki_der(&spki).unwrap_err(),
        LoadError::Unsupported
    );

    // A point off the curve, and octets after the key.
    let mut spki = PKey::ec_gen("P-256").unwrap().public_key_to_der().unwrap();
    let last = spki.len() - 1;
    spki[last] ^= 1;
    assert_eq!(PublicKey::from_spki_der(&spki).unwrap_err(), LoadError::Malformed);
    spki[last] ^= 1;
    assert!(PublicKey::from_spki_der(&spki).is_ok());
    spki.push(0);
    assert_eq!(PublicKey::from_spki_der(&spki).unwrap_err(), LoadError::Malformed);
}

/// Curve, private key, public point and signature of "abc": RFC 4754 section 8.
const ECDSA: [(Curve, [&str; 3]); 3] = [
    (
        Curve::P256,
        [
            "dc51d3866a15bacde33d96f992fca99da7e6ef0934e7097559c27f1614c88a7f",
            "2442a5cc0ecd015fa3ca31dc8e2bbc70bf42d60cbca20085e0822cb04235e9706fc98bd7e50211a4a27102fa3549df79\
             ebcb4bf246b80945cddfe7d509bbfd7d",
            "cb28e0999b9c7715fd0a80d8e47a77079716cbbf917dd72e97566ea1c066957c86fa3bb4e26cad5bf90b7f81899256ce\
             7594bb1ea0c89212748bff3b3d5b0315",
        ],
    ),
    (
        Curve::P384,
        [
            "0beb646634ba87735d77ae4809a0ebea865535de4c1e1dcb692e84708e81a5af62e528c38b2a81b35309668d73524d9f",
            "96281bf8dd5e0525ca049c048d345d3082968d10fedf5c5aca0c64e6465a97ea5ce10c9dfec21797415710721f437922\
             447688ba94708eb6e2e4d59f6ab6d7edff9301d249fe49c33096655f5d502fad3d383b91c5e7edaa2b714cc99d5743ca",
            "fb017b914e29149432d8bac29a514640b46f53ddab2c69948084e2930f1c8f7e08e07c9c63f2d21a07dcb56a6af56eb3\
             b263a1305e057f984d38726a1b46874109f417bca112674c528262a40a629af1cbb9f516ce0fa7d2ff630863a00e8b9f",
        ],
    ),
    (
        Curve::P521,
        [
            "0065fda3409451dcab0a0ead45495112a3d813c17bfd34bdf8c1209d7df5849120597779060a7ff9d704adf78b570ffa\
             d6f062e95c7e0c5d5481c5b153b48b375fa1",
            "0151518f1af0f563517edd5485190df95a4bf57b5cba4cf2a9a3f6474725a35f7afe0a6ddeb8bedbcd6a197e592d4018\
             8901cecd650699c9b5e456aea5add19052a8006f3b142ea1bfff7e2837ad44c9e4ff6d2d34c73184bbad90026dd5e6e8\
             5317d9df45cad7803c6c20035b2f3ff63aff4e1ba64d1c077577da3f4286c58f0aeae643",
            "0154fd3836af92d0dca57dd5341d3053988534fde8318fc6aaaab68e2e6f4339b19f2f281a7e0b22c269d93cf8794a92\
             78880ed7dbb8d9362caeacee544320552251017705a7030290d1ceb605a9a1bb03ff9cdd521e87a696ec926c8c10c836\
             2df4975367101f67d1cf9bccbf2f3d239534fa509e70aac851ae01aac68d62f866472660",
        ],
    ),
];
