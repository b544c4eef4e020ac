//! Identities, certificates, AlgorithmIdentifiers and keys as a peer sends them.

#![no_main]

use crypto::cert::{Certificate, Purpose, TrustAnchors, verify_chain};
use crypto::sign::{Curve, KeyKind, PublicKey, SignatureScheme};
use ike::Identity;
use ike::wire::{IdType, Identification};
use libfuzzer_sys::fuzz_target;
use proto_fuzz::Input;

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let what = input.u8();
    match what % 4 {
        0 => {
            let id = Identification {
                kind: IdType(input.u8()),
                data: input.0.to_vec(),
            };
            let identity = Identity::from(&id);
            assert_eq!(Identification::from(&identity), id);
            assert!(identity.same(&identity));
            let text = identity.to_string();
            assert!(
                !text.chars().any(char::is_control),
                "control characters in {text:?}"
            );
            let _ = (identity.as_address(), identity.as_text(), identity.is_none());
        }
        1 => {
            let Ok(certificate) = Certificate::from_der(input.0) else {
                return;
            };
            let texts = [certificate.subject_text(), certificate.issuer_text()];
            assert!(!texts.iter().any(|text| text.chars().any(char::is_control)));
            let _ = (
                certificate.san_dns(),
                certificate.san_ip(),
                certificate.san_email(),
            );
            let _ = (
                certificate.spki_sha1(),
                certificate.key_weakness(),
                certificate.public_key(),
            );
            let anchors = TrustAnchors::new(vec![certificate.clone()]);
            let at = certificate.not_before();
            let _ = verify_chain(&anchors, &certificate, &[], at, Purpose::Any);
            let _ = verify_chain(
                &TrustAnchors::new(Vec::new()),
                &certificate,
                &[],
                at,
                Purpose::Server,
            );
        }
        2 => {
            let kinds = [
                KeyKind::Rsa { bits: 2048 },
                KeyKind::EcdsaP256,
                KeyKind::EcdsaP384,
                KeyKind::Ed25519,
            ];
            for kind in kinds {
                if let Ok(scheme) = SignatureScheme::from_algorithm_identifier(input.0, kind) {
                    assert!(scheme.fits(kind));
                }
            }
        }
        _ => {
            let signature = input.part();
            if let Ok(key) = PublicKey::from_spki_der(input.0) {
                for scheme in [SignatureScheme::Ed25519, SignatureScheme::EcdsaRaw(Curve::P256)] {
                    let _ = key.verify(scheme, b"message", signature);
                }
                if let Some(scheme) = SignatureScheme::choose(key.kind(), &crypto::HashAlgorithm::ALL) {
                    assert!(key.verify(scheme, b"message", signature).is_err() || !signature.is_empty());
                }
            }
        }
    }
});
