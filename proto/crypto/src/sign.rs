//! Signatures: private keys from PEM or DER, public keys from SubjectPublicKeyInfo, and the schemes of IKE
//! authentication (RFC 7296 section 3.8, RFC 4754, RFC 7427, RFC 8420).

mod fast;
mod identifier;
mod key;

use std::fmt;

pub(crate) use identifier::is_weak_certificate_algorithm;
pub(crate) use key::has_explicit_curve;
pub use key::{PrivateKey, PublicKey};

use crate::HashAlgorithm;
use crate::pem::PemError;

/// The elliptic curves of ECDSA.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Curve {
    /// NIST P-256.
    P256,
    /// NIST P-384.
    P384,
    /// NIST P-521.
    P521,
}

impl Curve {
    /// Octets of a coordinate, and of each half of an `r ‖ s` signature.
    #[must_use]
    pub fn scalar_len(self) -> usize {
        match self {
            Curve::P256 => 32,
            Curve::P384 => 48,
            Curve::P521 => 66,
        }
    }

    /// The hash that RFC 4754 section 3 ties to the curve.
    #[must_use]
    pub fn hash(self) -> HashAlgorithm {
        match self {
            Curve::P256 => HashAlgorithm::Sha256,
            Curve::P384 => HashAlgorithm::Sha384,
            Curve::P521 => HashAlgorithm::Sha512,
        }
    }
}

/// What a key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum KeyKind {
    /// RSA with a modulus of that many bits.
    Rsa {
        /// Length of the modulus in bits.
        bits: u32,
    },
    /// ECDSA on NIST P-256.
    EcdsaP256,
    /// ECDSA on NIST P-384.
    EcdsaP384,
    /// ECDSA on NIST P-521.
    EcdsaP521,
    /// Ed25519.
    Ed25519,
}

impl KeyKind {
    /// The curve of an ECDSA key.
    #[must_use]
    pub fn curve(self) -> Option<Curve> {
        match self {
            KeyKind::EcdsaP256 => Some(Curve::P256),
            KeyKind::EcdsaP384 => Some(Curve::P384),
            KeyKind::EcdsaP521 => Some(Curve::P521),
            KeyKind::Rsa { .. } | KeyKind::Ed25519 => None,
        }
    }
}

impl fmt::Display for KeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyKind::Rsa { bits } => write!(f, "RSA-{bits}"),
            KeyKind::EcdsaP256 => f.write_str("ECDSA P-256"),
            KeyKind::EcdsaP384 => f.write_str("ECDSA P-384"),
            KeyKind::EcdsaP521 => f.write_str("ECDSA P-521"),
            KeyKind::Ed25519 => f.write_str("Ed25519"),
        }
    }
}

/// How a signature is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SignatureScheme {
    /// RSASSA-PKCS1-v1_5.
    RsaPkcs1(HashAlgorithm),
    /// RSASSA-PSS with MGF1 of the same hash and a salt as long as its output.
    RsaPss(HashAlgorithm),
    /// ECDSA with the signature as a DER sequence of r and s.
    Ecdsa(Curve, HashAlgorithm),
    /// ECDSA with the signature as r ‖ s and the curve's own hash (RFC 4754).
    EcdsaRaw(Curve),
    /// Ed25519, which signs the message itself.
    Ed25519,
}

impl SignatureScheme {
    /// The hash of the message.
    #[must_use]
    pub fn hash(self) -> HashAlgorithm {
        match self {
            SignatureScheme::RsaPkcs1(hash)
            | SignatureScheme::RsaPss(hash)
            | SignatureScheme::Ecdsa(_, hash) => hash,
            SignatureScheme::EcdsaRaw(curve) => curve.hash(),
            SignatureScheme::Ed25519 => HashAlgorithm::Identity,
        }
    }

    /// True if a key of that kind can make such signatures.
    #[must_use]
    pub fn fits(self, kind: KeyKind) -> bool {
        let hashes = self.hash() != HashAlgorithm::Identity;
        match self {
            SignatureScheme::RsaPkcs1(_) | SignatureScheme::RsaPss(_) => {
                hashes && matches!(kind, KeyKind::Rsa { .. })
            }
            SignatureScheme::Ecdsa(curve, _) | SignatureScheme::EcdsaRaw(curve) => {
                hashes && kind.curve() == Some(curve)
            }
            SignatureScheme::Ed25519 => kind == KeyKind::Ed25519,
        }
    }

    /// The best scheme of RFC 7427 for a key, out of the hashes that the peer announced: PSS for RSA, the curve's own
    /// hash for ECDSA, then longer hashes before shorter; never SHA-1. `None` if the peer can verify none.
    #[must_use]
    pub fn choose(kind: KeyKind, peer_hashes: &[HashAlgorithm]) -> Option<Self> {
        let best = |wanted: &[HashAlgorithm]| wanted.iter().copied().find(|hash| peer_hashes.contains(hash));
        const SHA2: [HashAlgorithm; 3] = [
            HashAlgorithm::Sha256,
            HashAlgorithm::Sha384,
            HashAlgorithm::Sha512,
        ];
        match (kind, kind.curve()) {
            (KeyKind::Rsa { .. }, _) => best(&SHA2).map(SignatureScheme::RsaPss),
            (_, Some(curve)) => {
                let [short, middle, long] = SHA2;
                best(&[curve.hash(), long, middle, short]).map(|hash| SignatureScheme::Ecdsa(curve, hash))
            }
            (_, None) => best(&[HashAlgorithm::Identity]).map(|_| SignatureScheme::Ed25519),
        }
    }
}

impl fmt::Display for SignatureScheme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SignatureScheme::RsaPkcs1(hash) => write!(f, "RSA_PKCS1-{hash}"),
            SignatureScheme::RsaPss(hash) => write!(f, "RSA_PSS-{hash}"),
            SignatureScheme::Ecdsa(curve, hash) => write!(f, "ECDSA_{curve:?}-{hash}"),
            SignatureScheme::EcdsaRaw(curve) => write!(f, "ECDSA_{curve:?} (RFC 4754)"),
            SignatureScheme::Ed25519 => f.write_str("ED25519"),
        }
    }
}

/// Why a key is too weak, or too costly to be safe, to verify with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Weakness {
    /// RSA below [`RSA_MIN_BITS`].
    #[error("RSA key of {0} bits, at least {RSA_MIN_BITS} needed")]
    TooShort(u32),
    /// RSA above [`RSA_MAX_BITS`].
    #[error("RSA key of {0} bits, at most {RSA_MAX_BITS} accepted")]
    TooLong(u32),
    /// An RSA public exponent that is even, below 3 or longer than 64 bits.
    #[error("RSA key with an unusual public exponent")]
    Exponent,
}

/// The shortest RSA modulus accepted, in bits (RFC 8247 section 4.1.1).
pub const RSA_MIN_BITS: u32 = 2048;
/// The longest RSA modulus accepted, in bits: longer ones only cost the verifier time.
pub const RSA_MAX_BITS: u32 = 8192;

/// Why a key was not loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// Not PEM.
    #[error(transparent)]
    Pem(#[from] PemError),
    /// PEM, but without a private key in it.
    #[error("no private key in the PEM input")]
    NoKey,
    /// PEM with more than one private key.
    #[error("more than one private key in the PEM input")]
    SeveralKeys,
    /// Encrypted, and no password was given or it is wrong.
    #[error("the private key is encrypted: a password is missing or wrong")]
    Password,
    /// Not the encoding of a key.
    #[error("malformed key")]
    Malformed,
    /// A kind of key that is not supported.
    #[error("keys of this kind are not supported")]
    Unsupported,
    /// Too weak or too costly.
    #[error(transparent)]
    Weak(#[from] Weakness),
}

/// Why a signature was not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// The key cannot make such signatures.
    #[error("a key of kind {kind} cannot sign with {scheme}")]
    Mismatch {
        /// The key.
        kind: KeyKind,
        /// The scheme asked for.
        scheme: SignatureScheme,
    },
    /// The library failed.
    #[error("signing failed")]
    Failed,
}

/// Why a signature was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// The key cannot have made such signatures.
    #[error("a key of kind {kind} does not sign with {scheme}")]
    Mismatch {
        /// The key.
        kind: KeyKind,
        /// The scheme claimed.
        scheme: SignatureScheme,
    },
    /// The signature is not the key's over this message.
    #[error("the signature does not verify")]
    BadSignature,
}

/// Why the AlgorithmIdentifier of an AUTH payload was not understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentifierError {
    /// Not DER, or not an AlgorithmIdentifier.
    #[error("malformed AlgorithmIdentifier")]
    Malformed,
    /// An algorithm that is not known.
    #[error("unknown signature algorithm")]
    Unknown,
    /// PSS with different hashes, or a salt of another length than the hash's.
    #[error("RSASSA-PSS parameters that are not supported")]
    Parameters,
}
