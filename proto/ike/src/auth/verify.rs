//! Is the peer who it says it is?

use std::sync::Arc;

use crypto::cert::{Certificate, Purpose, TrustAnchors, verify_chain};
use crypto::sign::{Curve, PublicKey, SignatureScheme};
use crypto::{HashAlgorithm, Secret};

use super::{AuthFailure, AuthJob, VerifiedPeer};
use crate::keys::shared_key_auth;
use crate::types::Identity;
use crate::wire::{AuthMethod, IdType};

/// What the peer has to prove.
#[derive(Clone, Debug)]
pub enum PeerCredential {
    /// Knowledge of a pre-shared key.
    Psk(Secret),
    /// Possession of the key of a certificate that leads to an anchor.
    Certificates {
        /// Who is believed.
        anchors: Arc<TrustAnchors>,
        /// The time, seconds since 1970.
        now_unix: i64,
        /// What the peer's certificate must be for.
        purpose: Purpose,
    },
}

/// Hashes tried for method 1, which does not say its hash; SHA-1 first, as RFC 7296 section 3.8 has it.
const METHOD_1_HASHES: [HashAlgorithm; 4] = [
    HashAlgorithm::Sha1,
    HashAlgorithm::Sha256,
    HashAlgorithm::Sha384,
    HashAlgorithm::Sha512,
];

/// Verifies the peer's AUTH payload, and that its identity is the credential's. May take some milliseconds.
///
/// # Errors
/// [`AuthFailure`]; its `Display` is for the operator only.
//= rfc7296#section-1.2
//# Both parties in the IKE_AUTH exchange MUST verify that all signatures
//# and Message Authentication Codes (MACs) are computed correctly.
pub fn verify(job: &AuthJob, credential: &PeerCredential) -> Result<VerifiedPeer, AuthFailure> {
    let (method, data) = job.peer_auth.as_ref().ok_or(AuthFailure::EapWanted)?;
    match credential {
        PeerCredential::Psk(key) => verify_psk(job, *method, data, key),
        PeerCredential::Certificates {
            anchors,
            now_unix,
            purpose,
        } => verify_certificate(job, *method, data, anchors, *now_unix, *purpose),
    }
}

fn verify_psk(
    job: &AuthJob,
    method: AuthMethod,
    data: &[u8],
    key: &Secret,
) -> Result<VerifiedPeer, AuthFailure> {
    if method != AuthMethod::SHARED_KEY {
        return Err(AuthFailure::Method {
            method,
            wanted: "a pre-shared key",
        });
    }
    if key.is_empty() {
        return Err(AuthFailure::EmptyKey);
    }
    let octets = job.peer_octets.octets(&job.peer_id);
    let wanted = shared_key_auth(job.peer_octets.prf, key, &octets);
    if !crypto::constant_time_eq(wanted.expose(), data) {
        return Err(AuthFailure::WrongKey(job.peer_id.clone()));
    }
    Ok(VerifiedPeer {
        id: job.peer_id.clone(),
        how: "pre-shared key".to_owned(),
        certificate: None,
    })
}

fn verify_certificate(
    job: &AuthJob,
    method: AuthMethod,
    data: &[u8],
    anchors: &TrustAnchors,
    now_unix: i64,
    purpose: Purpose,
) -> Result<VerifiedPeer, AuthFailure> {
    let known = [
        AuthMethod::RSA_SIGNATURE,
        AuthMethod::ECDSA_P256,
        AuthMethod::ECDSA_P384,
        AuthMethod::ECDSA_P521,
        AuthMethod::DIGITAL_SIGNATURE,
    ];
    if !known.contains(&method) {
        return Err(AuthFailure::Method {
            method,
            wanted: "a certificate",
        });
    }
    //= rfc7296#section-1.2
    //# If
    //# any CERT payloads are included, the first certificate provided MUST
    //# contain the public key used to verify the AUTH field.
    let mut certificates = Vec::with_capacity(job.peer_certs.len());
    for (position, der) in (1..).zip(&job.peer_certs) {
        let certificate =
            Certificate::from_der(der).map_err(|reason| AuthFailure::BadCertificate { position, reason })?;
        certificates.push(certificate);
    }
    let (leaf, intermediates) = certificates.split_first().ok_or(AuthFailure::NoCertificate)?;
    let path = verify_chain(anchors, leaf, intermediates, now_unix, purpose)
        .map_err(|error| AuthFailure::Chain { error, now_unix })?;
    if !names(leaf, &job.peer_id) {
        return Err(AuthFailure::NameMismatch {
            id: job.peer_id.clone(),
            names: all_names(leaf),
        });
    }
    let key = leaf
        .public_key()
        .map_err(|_| AuthFailure::Signature(leaf.subject_text()))?;
    let octets = job.peer_octets.octets(&job.peer_id);
    let scheme = verify_signature(key, method, data, &octets, &job.our_hashes, leaf)?;
    let issuer = path
        .certificates
        .last()
        .map_or_else(|| leaf.issuer_text(), Certificate::subject_text);
    Ok(VerifiedPeer {
        id: job.peer_id.clone(),
        how: format!(
            "{scheme}, certificate {:?}, authority {issuer:?}",
            leaf.subject_text()
        ),
        certificate: Some(leaf.subject_text()),
    })
}

fn verify_signature(
    key: &PublicKey,
    method: AuthMethod,
    data: &[u8],
    octets: &[u8],
    our_hashes: &[HashAlgorithm],
    leaf: &Certificate,
) -> Result<SignatureScheme, AuthFailure> {
    let bad = || AuthFailure::Signature(leaf.subject_text());
    let kind = key.kind();
    let fits = |scheme: SignatureScheme| {
        if scheme.fits(kind) {
            Ok(scheme)
        } else {
            Err(AuthFailure::KeyKind { method, key: kind })
        }
    };
    let (scheme, signature) = match method {
        AuthMethod::RSA_SIGNATURE => {
            fits(SignatureScheme::RsaPkcs1(HashAlgorithm::Sha1))?;
            return METHOD_1_HASHES
                .into_iter()
                .map(SignatureScheme::RsaPkcs1)
                .find(|scheme| key.verify(*scheme, octets, data).is_ok())
                .ok_or_else(bad);
        }
        AuthMethod::ECDSA_P256 => (fits(SignatureScheme::EcdsaRaw(Curve::P256))?, data),
        AuthMethod::ECDSA_P384 => (fits(SignatureScheme::EcdsaRaw(Curve::P384))?, data),
        AuthMethod::ECDSA_P521 => (fits(SignatureScheme::EcdsaRaw(Curve::P521))?, data),
        _ => {
            // RFC 7427 section 3: one octet of length, the AlgorithmIdentifier, the signature.
            let (length, rest) = data.split_first().ok_or(AuthFailure::Truncated)?;
            let (identifier, signature) = rest
                .split_at_checked(usize::from(*length))
                .ok_or(AuthFailure::Truncated)?;
            let scheme = SignatureScheme::from_algorithm_identifier(identifier, kind)?;
            if !our_hashes.contains(&scheme.hash()) {
                return Err(AuthFailure::HashNotOffered(scheme.hash()));
            }
            (scheme, signature)
        }
    };
    key.verify(scheme, octets, signature).map_err(|_| bad())?;
    Ok(scheme)
}

/// Whether a certificate names an identity: in subjectAltName for host names, mail addresses and addresses, as the subject
/// for distinguished names (RFC 4945 section 3.1). The common name is no host name, and nothing is a wildcard.
#[must_use]
pub fn names(certificate: &Certificate, id: &Identity) -> bool {
    match id.kind {
        IdType::FQDN => id.as_text().is_some_and(|name| {
            certificate
                .san_dns()
                .iter()
                .any(|san| san.eq_ignore_ascii_case(name))
        }),
        IdType::RFC822_ADDR => id.as_text().is_some_and(|address| {
            certificate
                .san_email()
                .iter()
                .any(|san| same_mailbox(san, address))
        }),
        IdType::IPV4_ADDR | IdType::IPV6_ADDR => id
            .as_address()
            .is_some_and(|address| certificate.san_ip().contains(&address)),
        IdType::DER_ASN1_DN => Identity::dn(certificate.subject_dn_der()).same(id),
        _ => false,
    }
}

/// The local part is the mailbox owner's affair and compared exactly, the host without case (RFC 5280 section 7.5).
fn same_mailbox(a: &str, b: &str) -> bool {
    match (a.rsplit_once('@'), b.rsplit_once('@')) {
        (Some((user_a, host_a)), Some((user_b, host_b))) => {
            user_a == user_b && host_a.eq_ignore_ascii_case(host_b)
        }
        _ => false,
    }
}

fn all_names(certificate: &Certificate) -> String {
    let mut all = vec![format!("{:?}", certificate.subject_text())];
    all.extend(
        certificate
            .san_dns()
            .iter()
            .chain(certificate.san_email())
            .map(|name| format!("{name:?}")),
    );
    all.extend(certificate.san_ip().iter().map(ToString::to_string));
    all.join(", ")
}
