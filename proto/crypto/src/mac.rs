//! Hashes, HMAC with a prepared key, and the pseudo-random functions of IKEv2 built on it.

use std::fmt;

use aws_lc_rs::{digest as lc_digest, hmac as lc_hmac};

use crate::{HashAlgorithm, Integrity, Prf, Secret, constant_time_eq};

/// The hash of the parts in order. [`HashAlgorithm::Identity`] gives the parts themselves.
#[must_use]
pub fn digest(hash: HashAlgorithm, parts: &[&[u8]]) -> Vec<u8> {
    let algorithm = match hash {
        HashAlgorithm::Sha1 => &lc_digest::SHA1_FOR_LEGACY_USE_ONLY,
        HashAlgorithm::Sha256 => &lc_digest::SHA256,
        HashAlgorithm::Sha384 => &lc_digest::SHA384,
        HashAlgorithm::Sha512 => &lc_digest::SHA512,
        HashAlgorithm::Identity => return parts.concat(),
    };
    let mut context = lc_digest::Context::new(algorithm);
    for part in parts {
        context.update(part);
    }
    context.finish().as_ref().to_vec()
}

/// HMAC of the parts in order (RFC 2104), untruncated; `None` for [`HashAlgorithm::Identity`].
#[must_use]
pub fn hmac(hash: HashAlgorithm, key: &[u8], parts: &[&[u8]]) -> Option<Vec<u8>> {
    let mut context = lc_hmac::Context::with_key(&lc_hmac::Key::new(algorithm(hash)?, key));
    for part in parts {
        context.update(part);
    }
    Some(context.sign().as_ref().to_vec())
}

fn algorithm(hash: HashAlgorithm) -> Option<lc_hmac::Algorithm> {
    match hash {
        HashAlgorithm::Sha1 => Some(lc_hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY),
        HashAlgorithm::Sha256 => Some(lc_hmac::HMAC_SHA256),
        HashAlgorithm::Sha384 => Some(lc_hmac::HMAC_SHA384),
        HashAlgorithm::Sha512 => Some(lc_hmac::HMAC_SHA512),
        HashAlgorithm::Identity => None,
    }
}

/// An integrity algorithm with its key, the padded key already hashed. Signing and verifying allocate nothing.
pub struct MacKey {
    key: lc_hmac::Key,
    icv_len: usize,
}

impl MacKey {
    /// Prepares a key of any length; packets take one of [`Integrity::key_len`] octets.
    #[must_use]
    pub fn new(integrity: Integrity, key: &[u8]) -> Self {
        let algorithm = match integrity {
            Integrity::HmacSha1_96 => lc_hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
            Integrity::HmacSha256_128 => lc_hmac::HMAC_SHA256,
            Integrity::HmacSha384_192 => lc_hmac::HMAC_SHA384,
            Integrity::HmacSha512_256 => lc_hmac::HMAC_SHA512,
        };
        Self {
            key: lc_hmac::Key::new(algorithm, key),
            icv_len: integrity.icv_len(),
        }
    }

    /// Writes the truncated tag of the parts to `icv`; false if `icv` has another length than the algorithm's.
    #[must_use]
    pub fn sign(&self, parts: &[&[u8]], icv: &mut [u8]) -> bool {
        let tag = self.tag(parts);
        match tag.as_ref().get(..self.icv_len) {
            Some(tag) if icv.len() == tag.len() => {
                icv.copy_from_slice(tag);
                true
            }
            _ => false,
        }
    }

    /// Compares the truncated tag of the parts with `icv` in constant time.
    #[must_use]
    pub fn verify(&self, parts: &[&[u8]], icv: &[u8]) -> bool {
        self.tag(parts)
            .as_ref()
            .get(..self.icv_len)
            .is_some_and(|tag| constant_time_eq(tag, icv))
    }

    fn tag(&self, parts: &[&[u8]]) -> lc_hmac::Tag {
        let mut context = lc_hmac::Context::with_key(&self.key);
        for part in parts {
            context.update(part);
        }
        context.sign()
    }
}

impl fmt::Debug for MacKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MacKey({:?}, ..)", self.key.algorithm())
    }
}

impl Prf {
    fn algorithm(self) -> lc_hmac::Algorithm {
        match self {
            Prf::HmacSha1 => lc_hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
            Prf::HmacSha256 => lc_hmac::HMAC_SHA256,
            Prf::HmacSha384 => lc_hmac::HMAC_SHA384,
            Prf::HmacSha512 => lc_hmac::HMAC_SHA512,
        }
    }

    /// `prf(key, part 1 | part 2 | ...)`.
    #[must_use]
    pub fn compute(self, key: &[u8], parts: &[&[u8]]) -> Secret {
        prf_once(&lc_hmac::Key::new(self.algorithm(), key), parts)
    }

    /// `prf+(key, seed)`, the first `len` octets (RFC 7296 section 2.13).
    ///
    /// The function is defined for at most 255 outputs: a larger `len` gives those 255 outputs and no more, which
    /// [`Secret::split`] then refuses to cut.
    #[must_use]
    pub fn plus(self, key: &[u8], seed: &[u8], len: usize) -> Secret {
        let key = lc_hmac::Key::new(self.algorithm(), key);
        let len = len.min(255 * self.output_len());
        let mut stream = Vec::with_capacity(len + self.output_len());
        let mut previous = Secret::default();
        for round in 1..=u8::MAX {
            if stream.len() >= len {
                break;
            }
            //= rfc7296#section-2.13
            //# prf+ (K,S) = T1 | T2 | T3 | T4 | ...
            previous = prf_once(&key, &[previous.expose(), seed, &[round]]);
            stream.extend_from_slice(previous.expose());
        }
        // What is cut off stays within the capacity, and all of that is wiped on drop.
        stream.truncate(len);
        Secret::from(stream)
    }
}

fn prf_once(key: &lc_hmac::Key, parts: &[&[u8]]) -> Secret {
    let mut context = lc_hmac::Context::with_key(key);
    for part in parts {
        context.update(part);
    }
    Secret::from(context.sign().as_ref())
}
