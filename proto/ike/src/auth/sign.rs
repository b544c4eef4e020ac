//! Our own proof of identity.

use std::sync::Arc;

use crypto::sign::{Curve, KeyKind, PrivateKey, SignatureScheme};
use crypto::{HashAlgorithm, Secret};

use super::{AuthFailure, AuthJob, LocalAuth};
use crate::keys::shared_key_auth;
use crate::types::Identity;
use crate::wire::AuthMethod;

/// What we are and prove it with.
#[derive(Clone, Debug)]
pub struct LocalCredential {
    /// Who we are.
    pub id: Identity,
    /// The proof.
    pub kind: LocalKind,
}

/// The kinds of proof.
#[derive(Clone)]
pub enum LocalKind {
    /// A pre-shared key.
    Psk(Secret),
    /// A certificate.
    Key {
        /// Its private key.
        key: Arc<PrivateKey>,
        /// The certificate and those that lead to the authority, in DER.
        chain: Vec<Vec<u8>>,
    },
}

impl std::fmt::Debug for LocalKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Psk(_) => f.write_str("Psk(..)"),
            Self::Key { key, chain } => write!(f, "Key({}, {} certificates)", key.kind(), chain.len()),
        }
    }
}

impl LocalCredential {
    /// A pre-shared key.
    #[must_use]
    pub fn psk(id: Identity, key: Secret) -> Self {
        Self {
            id,
            kind: LocalKind::Psk(key),
        }
    }

    /// A certificate with its private key; `chain` in DER, our own first.
    #[must_use]
    pub fn certificate(id: Identity, key: Arc<PrivateKey>, chain: Vec<Vec<u8>>) -> Self {
        Self {
            id,
            kind: LocalKind::Key { key, chain },
        }
    }
}

/// Makes our AUTH payload, with the certificates to go along: always the whole chain, whether or not the peer asked
/// (Apple's clients often do not). May take some milliseconds.
///
/// The method is the best that the peer can verify: digital signatures (RFC 7427) if it announced hashes, otherwise
/// methods 1 and 9 to 11. RSA-PSS goes only to peers that used it themselves: Android's and older clients announce
/// SHA-2 and yet verify PKCS #1 alone.
///
/// # Errors
/// [`AuthFailure`], if no method fits key and peer, or signing fails.
pub fn sign(job: &AuthJob, credential: &LocalCredential) -> Result<LocalAuth, AuthFailure> {
    let octets = job.local_octets.octets(&credential.id);
    let id = credential.id.clone();
    match &credential.kind {
        LocalKind::Psk(key) if key.is_empty() => Err(AuthFailure::EmptyKey),
        LocalKind::Psk(key) => {
            let data = shared_key_auth(job.local_octets.prf, key, &octets)
                .expose()
                .to_vec();
            Ok(LocalAuth {
                id,
                certs: Vec::new(),
                method: AuthMethod::SHARED_KEY,
                data,
            })
        }
        LocalKind::Key { key, chain } => {
            let (method, scheme) = choose(key.kind(), job)?;
            let signature = key.sign(scheme, &octets)?;
            let data = match method {
                AuthMethod::DIGITAL_SIGNATURE => prefixed(scheme, &signature, key.kind())?,
                _ => signature,
            };
            Ok(LocalAuth {
                id,
                certs: chain.clone(),
                method,
                data,
            })
        }
    }
}

fn choose(kind: KeyKind, job: &AuthJob) -> Result<(AuthMethod, SignatureScheme), AuthFailure> {
    let announced = job.peer_hashes.as_deref().unwrap_or_default();
    if let Some(best) = SignatureScheme::choose(kind, announced) {
        let scheme = if let SignatureScheme::RsaPss(hash) = best
            && !peer_used_pss(job)
        {
            SignatureScheme::RsaPkcs1(hash)
        } else {
            best
        };
        return Ok((AuthMethod::DIGITAL_SIGNATURE, scheme));
    }
    match kind {
        KeyKind::Rsa { .. } => Ok((
            AuthMethod::RSA_SIGNATURE,
            SignatureScheme::RsaPkcs1(HashAlgorithm::Sha1),
        )),
        KeyKind::EcdsaP256 => Ok((AuthMethod::ECDSA_P256, SignatureScheme::EcdsaRaw(Curve::P256))),
        KeyKind::EcdsaP384 => Ok((AuthMethod::ECDSA_P384, SignatureScheme::EcdsaRaw(Curve::P384))),
        KeyKind::EcdsaP521 => Ok((AuthMethod::ECDSA_P521, SignatureScheme::EcdsaRaw(Curve::P521))),
        KeyKind::Ed25519 => Err(AuthFailure::NoCommonHash(kind)),
    }
}

fn peer_used_pss(job: &AuthJob) -> bool {
    let Some((AuthMethod::DIGITAL_SIGNATURE, data)) = &job.peer_auth else {
        return false;
    };
    let identifier = data
        .split_first()
        .and_then(|(length, rest)| rest.get(..usize::from(*length)))
        .unwrap_or_default();
    // The kind only matters for the curve of ECDSA.
    let rsa = KeyKind::Rsa { bits: 2048 };
    matches!(
        SignatureScheme::from_algorithm_identifier(identifier, rsa),
        Ok(SignatureScheme::RsaPss(_))
    )
}

/// Length, AlgorithmIdentifier, signature (RFC 7427 section 3).
fn prefixed(scheme: SignatureScheme, signature: &[u8], kind: KeyKind) -> Result<Vec<u8>, AuthFailure> {
    let identifier = scheme
        .algorithm_identifier()
        .ok_or(AuthFailure::NoCommonHash(kind))?;
    let length = u8::try_from(identifier.len()).map_err(|_| AuthFailure::NoCommonHash(kind))?;
    let mut data = Vec::with_capacity(1 + identifier.len() + signature.len());
    data.push(length);
    data.extend(identifier);
    data.extend_from_slice(signature);
    Ok(data)
}
