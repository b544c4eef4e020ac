//! The AlgorithmIdentifier that precedes a signature in RFC 7427, encoded as in its Appendix A and decoded leniently
//! where encodings differ in practice (parameters NULL or absent).

use super::{Curve, IdentifierError, KeyKind, SignatureScheme};
use crate::HashAlgorithm;
use crate::der::{self, Reader, tag};

const RSA_PKCS1: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01];
const RSA_PSS: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0a];
const MGF1: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x08];
const ECDSA_SHA1: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x01];
const ECDSA_SHA2: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03];
const ED25519: &[u8] = &[0x2b, 0x65, 0x70];
const SHA1: &[u8] = &[0x2b, 0x0e, 0x03, 0x02, 0x1a];
const SHA2: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02];
const NULL: &[u8] = &[tag::NULL, 0];

/// The hashes whose object identifiers are those of SHA-2 with one more octet: for RSA, for ECDSA, for the hash itself.
const SHA2_ARCS: [(HashAlgorithm, u8, u8, u8); 3] = [
    (HashAlgorithm::Sha256, 11, 2, 1),
    (HashAlgorithm::Sha384, 12, 3, 2),
    (HashAlgorithm::Sha512, 13, 4, 3),
];

impl SignatureScheme {
    /// The DER octets of the AlgorithmIdentifier; `None` for [`SignatureScheme::EcdsaRaw`], which has none, and for
    /// schemes with a hash that they do not take.
    #[must_use]
    pub fn algorithm_identifier(self) -> Option<Vec<u8>> {
        let identifier = |oid: &[u8], parameters: &[u8]| {
            der::encode(tag::SEQUENCE, &[&der::encode(tag::OID, &[oid]), parameters])
        };
        match self {
            SignatureScheme::RsaPkcs1(HashAlgorithm::Sha1) => {
                Some(identifier(&[RSA_PKCS1, &[5]].concat(), NULL))
            }
            SignatureScheme::RsaPkcs1(hash) => {
                let (_, rsa, ..) = arcs(hash)?;
                Some(identifier(&[RSA_PKCS1, &[rsa]].concat(), NULL))
            }
            SignatureScheme::RsaPss(HashAlgorithm::Sha1) => {
                Some(identifier(RSA_PSS, &der::encode(tag::SEQUENCE, &[])))
            }
            SignatureScheme::RsaPss(hash) => {
                let (.., itself) = arcs(hash)?;
                let digest = identifier(&[SHA2, &[itself]].concat(), NULL);
                let salt = u8::try_from(hash.output_len()).ok()?;
                let parameters = der::encode(
                    tag::SEQUENCE,
                    &[
                        &der::encode(tag::explicit(0), &[&digest]),
                        &der::encode(tag::explicit(1), &[&identifier(MGF1, &digest)]),
                        &der::encode(tag::explicit(2), &[&der::encode(tag::INTEGER, &[&[salt]])]),
                    ],
                );
                Some(identifier(RSA_PSS, &parameters))
            }
            SignatureScheme::Ecdsa(_, HashAlgorithm::Sha1) => Some(identifier(ECDSA_SHA1, &[])),
            SignatureScheme::Ecdsa(_, hash) => {
                let (_, _, ecdsa, _) = arcs(hash)?;
                Some(identifier(&[ECDSA_SHA2, &[ecdsa]].concat(), &[]))
            }
            SignatureScheme::EcdsaRaw(_) => None,
            SignatureScheme::Ed25519 => Some(identifier(ED25519, &[])),
        }
    }

    /// Understands the AlgorithmIdentifier of a peer. The curve of ECDSA is not in it: it is taken from the peer's key.
    ///
    /// # Errors
    /// [`IdentifierError`]; [`IdentifierError::Unknown`] also if the algorithm does not fit the key.
    pub fn from_algorithm_identifier(der: &[u8], kind: KeyKind) -> Result<Self, IdentifierError> {
        let scheme = decode(der, kind.curve())?;
        if scheme.fits(kind) {
            Ok(scheme)
        } else {
            Err(IdentifierError::Unknown)
        }
    }
}

fn arcs(hash: HashAlgorithm) -> Option<(HashAlgorithm, u8, u8, u8)> {
    SHA2_ARCS.into_iter().find(|row| row.0 == hash)
}

/// Splits an AlgorithmIdentifier into its object identifier and whatever parameters follow.
fn split(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut inside = Reader::new(der::single(tag::SEQUENCE, der)?);
    let oid = inside.expect(tag::OID)?;
    let parameters = if inside.is_empty() {
        &[]
    } else {
        inside.element()?.whole
    };
    inside.is_empty().then_some((oid, parameters))
}

fn decode(der: &[u8], curve: Option<Curve>) -> Result<SignatureScheme, IdentifierError> {
    let (oid, parameters) = split(der).ok_or(IdentifierError::Malformed)?;
    if oid == RSA_PSS {
        return pss(parameters).map(SignatureScheme::RsaPss);
    }
    if !parameters.is_empty() && parameters != NULL {
        return Err(IdentifierError::Parameters);
    }
    if oid == ED25519 {
        return Ok(SignatureScheme::Ed25519);
    }
    let last = |prefix: &[u8]| match oid.strip_prefix(prefix) {
        Some([last]) => Some(*last),
        _ => None,
    };
    if let Some(last) = last(RSA_PKCS1) {
        let hash = SHA2_ARCS.iter().find(|row| row.1 == last).map(|row| row.0);
        let hash = if last == 5 {
            Some(HashAlgorithm::Sha1)
        } else {
            hash
        };
        return hash
            .map(SignatureScheme::RsaPkcs1)
            .ok_or(IdentifierError::Unknown);
    }
    let hash = match last(ECDSA_SHA2) {
        _ if oid == ECDSA_SHA1 => Some(HashAlgorithm::Sha1),
        Some(last) => SHA2_ARCS.iter().find(|row| row.2 == last).map(|row| row.0),
        None => None,
    };
    match (curve, hash) {
        (Some(curve), Some(hash)) => Ok(SignatureScheme::Ecdsa(curve, hash)),
        _ => Err(IdentifierError::Unknown),
    }
}

/// RSASSA-PSS-params of RFC 4055 section 3.1; everything that is absent means SHA-1.
fn pss(parameters: &[u8]) -> Result<HashAlgorithm, IdentifierError> {
    let malformed = IdentifierError::Malformed;
    let mut inside = Reader::new(der::single(tag::SEQUENCE, parameters).ok_or(malformed)?);
    let hash = match inside.optional(tag::explicit(0)).ok_or(malformed)? {
        None => HashAlgorithm::Sha1,
        Some(digest) => hash_of(digest)?,
    };
    let mask_hash = match inside.optional(tag::explicit(1)).ok_or(malformed)? {
        None => HashAlgorithm::Sha1,
        Some(mask) => match split(mask).ok_or(malformed)? {
            (oid, digest) if oid == MGF1 => hash_of(digest)?,
            _ => return Err(IdentifierError::Parameters),
        },
    };
    let small = |field: Option<&[u8]>, default: usize| match field {
        None => Ok(default),
        Some(field) => match der::single(tag::INTEGER, field) {
            Some([number]) if *number < 0x80 => Ok(usize::from(*number)),
            Some(_) => Err(IdentifierError::Parameters),
            None => Err(malformed),
        },
    };
    let salt_len = small(inside.optional(tag::explicit(2)).ok_or(malformed)?, 20)?;
    let trailer = small(inside.optional(tag::explicit(3)).ok_or(malformed)?, 1)?;
    if !inside.is_empty() {
        return Err(malformed);
    }
    if mask_hash == hash && salt_len == hash.output_len() && trailer == 1 {
        Ok(hash)
    } else {
        Err(IdentifierError::Parameters)
    }
}

fn hash_of(der: &[u8]) -> Result<HashAlgorithm, IdentifierError> {
    let (oid, parameters) = split(der).ok_or(IdentifierError::Malformed)?;
    if !parameters.is_empty() && parameters != NULL {
        return Err(IdentifierError::Parameters);
    }
    if oid == SHA1 {
        return Ok(HashAlgorithm::Sha1);
    }
    match oid.strip_prefix(SHA2) {
        Some([last]) => SHA2_ARCS
            .iter()
            .find(|row| row.3 == *last)
            .map(|row| row.0)
            .ok_or(IdentifierError::Parameters),
        _ => Err(IdentifierError::Parameters),
    }
}

/// Whether the signature algorithm of a certificate rests on MD2, MD4, MD5 or SHA-1.
pub(crate) fn is_weak_certificate_algorithm(der: &[u8]) -> bool {
    let Some((oid, parameters)) = split(der) else {
        return true;
    };
    match oid.strip_prefix(RSA_PKCS1) {
        Some([2..=5]) => return true,
        Some([10]) => return pss(parameters) == Ok(HashAlgorithm::Sha1),
        _ => {}
    }
    const SHA1_OIW_RSA: &[u8] = &[0x2b, 0x0e, 0x03, 0x02, 0x1d];
    const MD5_OIW_RSA: &[u8] = &[0x2b, 0x0e, 0x03, 0x02, 0x03];
    const DSA_SHA1: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x38, 0x04, 0x03];
    oid == ECDSA_SHA1 || oid == SHA1_OIW_RSA || oid == MD5_OIW_RSA || oid == DSA_SHA1
}
