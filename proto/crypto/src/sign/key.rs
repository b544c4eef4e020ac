//! Private and public keys over OpenSSL, with a second form in AWS-LC where that is faster.

use std::fmt;

use openssl::bn::BigNum;
use openssl::ecdsa::EcdsaSig;
use openssl::error::ErrorStack;
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::{HasPublic, Id, PKey, PKeyRef, Private, Public};
use openssl::rsa::Padding;
use openssl::sign::{RsaPssSaltlen, Signer, Verifier};
use zeroize::Zeroizing;

use super::fast::{FastSigner, FastVerifier};
use super::{
    Curve, KeyKind, LoadError, RSA_MAX_BITS, RSA_MIN_BITS, SignError, SignatureScheme, VerifyError, Weakness,
};
use crate::der::{self, Reader, tag};
use crate::{HashAlgorithm, pem};

/// The longest encoding of a key that is read, in octets.
const MAX_DER: usize = 16 * 1024;

/// A private key. Shared between threads by `Arc`; wiped when dropped.
pub struct PrivateKey {
    key: PKey<Private>,
    kind: KeyKind,
    fast: Option<FastSigner>,
}

impl PrivateKey {
    /// The one unencrypted private key of a PEM input, which may hold certificates besides: PKCS#8, PKCS#1 or SEC 1.
    ///
    /// # Errors
    /// [`LoadError`].
    pub fn from_pem(input: &[u8]) -> Result<Self, LoadError> {
        Self::from_pem_with_password(input, None)
    }

    /// As [`PrivateKey::from_pem`], with a password for encrypted PKCS#8.
    ///
    /// # Errors
    /// [`LoadError`].
    pub fn from_pem_with_password(input: &[u8], password: Option<&[u8]>) -> Result<Self, LoadError> {
        let mut found = None;
        for block in pem::read(input)? {
            let der = block.der.expose();
            let key = match block.label.as_str() {
                "PRIVATE KEY" | "RSA PRIVATE KEY" | "EC PRIVATE KEY" => Self::from_der(der)?,
                "ENCRYPTED PRIVATE KEY" => Self::from_encrypted(der, password.ok_or(LoadError::Password)?)?,
                _ => continue,
            };
            if found.replace(key).is_some() {
                return Err(LoadError::SeveralKeys);
            }
        }
        found.ok_or(LoadError::NoKey)
    }

    /// A key in DER: PKCS#8 (RFC 5208), PKCS#1 or SEC 1.
    ///
    /// # Errors
    /// [`LoadError`].
    pub fn from_der(input: &[u8]) -> Result<Self, LoadError> {
        check_extent(input)?;
        let key = PKey::private_key_from_pkcs8(input).or_else(|_| PKey::private_key_from_der(input));
        Self::from_key(key.map_err(|_| LoadError::Malformed)?)
    }

    fn from_encrypted(input: &[u8], password: &[u8]) -> Result<Self, LoadError> {
        check_extent(input)?;
        let key =
            PKey::private_key_from_pkcs8_passphrase(input, password).map_err(|_| LoadError::Password)?;
        Self::from_key(key)
    }

    fn from_key(key: PKey<Private>) -> Result<Self, LoadError> {
        let kind = kind_of(&key)?;
        if let Some(weakness) = weakness_of(&key) {
            return Err(weakness.into());
        }
        let pkcs8 = key
            .private_key_to_pkcs8()
            .map(Zeroizing::new)
            .map_err(|_| LoadError::Malformed)?;
        Ok(Self {
            fast: FastSigner::new(kind, &pkcs8),
            key,
            kind,
        })
    }

    /// What the key is.
    #[must_use]
    pub fn kind(&self) -> KeyKind {
        self.kind
    }

    /// The public half.
    ///
    /// # Errors
    /// [`LoadError::Malformed`] if the library cannot encode it.
    pub fn public_key(&self) -> Result<PublicKey, LoadError> {
        PublicKey::from_spki_der(&self.key.public_key_to_der().map_err(|_| LoadError::Malformed)?)
    }

    /// Signs a message. RSA and ECDSA take 0.1 to 5 milliseconds: not for a thread that must not block.
    ///
    /// # Errors
    /// [`SignError`].
    pub fn sign(&self, scheme: SignatureScheme, message: &[u8]) -> Result<Vec<u8>, SignError> {
        if !scheme.fits(self.kind) {
            return Err(SignError::Mismatch {
                kind: self.kind,
                scheme,
            });
        }
        let fast = self.fast.as_ref().and_then(|fast| fast.sign(scheme, message));
        let signature = match fast {
            Some(signature) => signature,
            None => self.sign_with(scheme, message).map_err(|_| SignError::Failed)?,
        };
        match scheme {
            SignatureScheme::EcdsaRaw(curve) => {
                raw_from_der(curve, &signature).map_err(|_| SignError::Failed)
            }
            SignatureScheme::RsaPkcs1(_)
            | SignatureScheme::RsaPss(_)
            | SignatureScheme::Ecdsa(..)
            | SignatureScheme::Ed25519 => Ok(signature),
        }
    }

    fn sign_with(&self, scheme: SignatureScheme, message: &[u8]) -> Result<Vec<u8>, ErrorStack> {
        let Some(digest) = message_digest(scheme.hash()) else {
            return Signer::new_without_digest(&self.key)?.sign_oneshot_to_vec(message);
        };
        let mut signer = Signer::new(digest, &self.key)?;
        if let SignatureScheme::RsaPss(_) = scheme {
            signer.set_rsa_padding(Padding::PKCS1_PSS)?;
            signer.set_rsa_mgf1_md(digest)?;
            signer.set_rsa_pss_saltlen(RsaPssSaltlen::DIGEST_LENGTH)?;
        }
        signer.sign_oneshot_to_vec(message)
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey({}, ..)", self.kind)
    }
}

/// A public key that verifies signatures.
#[derive(Clone)]
pub struct PublicKey {
    key: PKey<Public>,
    kind: KeyKind,
    weakness: Option<Weakness>,
    spki: Vec<u8>,
    fast: Option<FastVerifier>,
}

impl PublicKey {
    /// A key from a DER SubjectPublicKeyInfo (RFC 5280 section 4.1). Points off their curve are refused.
    /// A weak key is loaded, so that it can be named; it verifies nothing.
    ///
    /// # Errors
    /// [`LoadError::Malformed`] or [`LoadError::Unsupported`].
    pub fn from_spki_der(input: &[u8]) -> Result<Self, LoadError> {
        check_extent(input)?;
        if has_explicit_curve(input) {
            return Err(LoadError::Unsupported);
        }
        Self::from_key(
            PKey::public_key_from_der(input).map_err(|_| LoadError::Malformed)?,
            input,
        )
    }

    /// A key that the library has decoded, with its encoding.
    pub(crate) fn from_key(key: PKey<Public>, spki: &[u8]) -> Result<Self, LoadError> {
        let kind = kind_of(&key)?;
        let fast = FastVerifier::new(kind, spki);
        Ok(Self {
            kind,
            weakness: weakness_of(&key),
            key,
            spki: spki.to_vec(),
            fast,
        })
    }

    /// What the key is.
    #[must_use]
    pub fn kind(&self) -> KeyKind {
        self.kind
    }

    /// Why the key is not accepted, if it is not.
    #[must_use]
    pub fn weakness(&self) -> Option<Weakness> {
        self.weakness
    }

    /// The DER SubjectPublicKeyInfo.
    #[must_use]
    pub fn spki_der(&self) -> &[u8] {
        &self.spki
    }

    /// Verifies a signature of a message.
    ///
    /// # Errors
    /// [`VerifyError`].
    pub fn verify(
        &self,
        scheme: SignatureScheme,
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), VerifyError> {
        if !scheme.fits(self.kind) {
            return Err(VerifyError::Mismatch {
                kind: self.kind,
                scheme,
            });
        }
        if self.weakness.is_some() {
            return Err(VerifyError::BadSignature);
        }
        let verdict = match self
            .fast
            .as_ref()
            .and_then(|fast| fast.verify(scheme, message, signature))
        {
            Some(verdict) => verdict,
            // OpenSSL reports a malformed signature as an error.
            None => self.verify_with(scheme, message, signature).unwrap_or(false),
        };
        if verdict {
            Ok(())
        } else {
            Err(VerifyError::BadSignature)
        }
    }

    fn verify_with(
        &self,
        scheme: SignatureScheme,
        message: &[u8],
        signature: &[u8],
    ) -> Result<bool, ErrorStack> {
        let Some(digest) = message_digest(scheme.hash()) else {
            return Verifier::new_without_digest(&self.key)?.verify_oneshot(signature, message);
        };
        let mut verifier = Verifier::new(digest, &self.key)?;
        match scheme {
            SignatureScheme::RsaPss(_) => {
                verifier.set_rsa_padding(Padding::PKCS1_PSS)?;
                verifier.set_rsa_mgf1_md(digest)?;
                verifier.set_rsa_pss_saltlen(RsaPssSaltlen::DIGEST_LENGTH)?;
            }
            SignatureScheme::EcdsaRaw(curve) => {
                return match der_from_raw(curve, signature) {
                    Some(signature) => verifier.verify_oneshot(&signature?, message),
                    None => Ok(false),
                };
            }
            SignatureScheme::RsaPkcs1(_) | SignatureScheme::Ecdsa(..) | SignatureScheme::Ed25519 => {}
        }
        verifier.verify_oneshot(signature, message)
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.kind)
    }
}

impl PartialEq for PublicKey {
    fn eq(&self, other: &Self) -> bool {
        self.key.public_eq(&other.key)
    }
}

/// True for an elliptic curve key that brings its own curve in place of a name. None of ours do, and a library should not
/// get to see them (CVE-2020-0601 and CVE-2022-0778 were made of such keys).
pub(crate) fn has_explicit_curve(spki: &[u8]) -> bool {
    const EC_PUBLIC_KEY: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
    let Some(inside) = der::single(tag::SEQUENCE, spki) else {
        return false;
    };
    let Some(algorithm) = Reader::new(inside).expect(tag::SEQUENCE) else {
        return false;
    };
    let mut algorithm = Reader::new(algorithm);
    algorithm.expect(tag::OID) == Some(EC_PUBLIC_KEY) && algorithm.peek() != Some(tag::OID)
}

/// The input must be one element and nothing after it, and not too long.
fn check_extent(input: &[u8]) -> Result<(), LoadError> {
    match der::single(tag::SEQUENCE, input) {
        Some(_) if input.len() <= MAX_DER => Ok(()),
        _ => Err(LoadError::Malformed),
    }
}

fn kind_of<T: HasPublic>(key: &PKeyRef<T>) -> Result<KeyKind, LoadError> {
    match key.id() {
        Id::RSA | Id::RSA_PSS => Ok(KeyKind::Rsa { bits: key.bits() }),
        Id::ED25519 => Ok(KeyKind::Ed25519),
        Id::EC => {
            let key = key.ec_key().map_err(|_| LoadError::Malformed)?;
            match key.group().curve_name() {
                Some(Nid::X9_62_PRIME256V1) => Ok(KeyKind::EcdsaP256),
                Some(Nid::SECP384R1) => Ok(KeyKind::EcdsaP384),
                Some(Nid::SECP521R1) => Ok(KeyKind::EcdsaP521),
                _ => Err(LoadError::Unsupported),
            }
        }
        _ => Err(LoadError::Unsupported),
    }
}

fn weakness_of<T: HasPublic>(key: &PKeyRef<T>) -> Option<Weakness> {
    let rsa = key.rsa().ok()?;
    let bits = key.bits();
    let exponent = rsa.e();
    let at_least_three = exponent.num_bits() > 1;
    if bits < RSA_MIN_BITS {
        Some(Weakness::TooShort(bits))
    } else if bits > RSA_MAX_BITS {
        Some(Weakness::TooLong(bits))
    } else if !exponent.is_bit_set(0) || !at_least_three || exponent.num_bits() > 64 {
        Some(Weakness::Exponent)
    } else {
        None
    }
}

fn message_digest(hash: HashAlgorithm) -> Option<MessageDigest> {
    match hash {
        HashAlgorithm::Sha1 => Some(MessageDigest::sha1()),
        HashAlgorithm::Sha256 => Some(MessageDigest::sha256()),
        HashAlgorithm::Sha384 => Some(MessageDigest::sha384()),
        HashAlgorithm::Sha512 => Some(MessageDigest::sha512()),
        HashAlgorithm::Identity => None,
    }
}

fn raw_from_der(curve: Curve, der: &[u8]) -> Result<Vec<u8>, ErrorStack> {
    let signature = EcdsaSig::from_der(der)?;
    let len = i32::try_from(curve.scalar_len()).unwrap_or(i32::MAX);
    Ok([
        signature.r().to_vec_padded(len)?,
        signature.s().to_vec_padded(len)?,
    ]
    .concat())
}

fn der_from_raw(curve: Curve, raw: &[u8]) -> Option<Result<Vec<u8>, ErrorStack>> {
    let (r, s) = raw.split_at_checked(curve.scalar_len())?;
    if s.len() != r.len() {
        return None;
    }
    let encode =
        || EcdsaSig::from_private_components(BigNum::from_slice(r)?, BigNum::from_slice(s)?)?.to_der();
    Some(encode())
}
