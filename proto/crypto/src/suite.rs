//! A cipher with its integrity algorithm, and every length that follows from the pair.

use std::fmt;

use crate::{Cipher, Integrity};

/// What protects packets: an AEAD alone, or a cipher with an integrity algorithm (encrypt, then authenticate).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(try_from = "Pair", into = "Pair"))]
#[non_exhaustive]
pub struct Suite {
    /// The cipher.
    pub cipher: Cipher,
    /// The integrity algorithm; `None` exactly if the cipher is an AEAD.
    pub integrity: Option<Integrity>,
}

/// Two algorithms that do not go together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SuiteError {
    /// The cipher has no keys of that length.
    #[error("{0} has no such key length")]
    KeyLength(Cipher),
    /// The cipher does not authenticate, and nothing else would.
    #[error("{0} needs an integrity algorithm")]
    IntegrityMissing(Cipher),
    /// The cipher authenticates by itself (RFC 7296 section 3.3.3).
    #[error("{0} authenticates by itself and takes no integrity algorithm")]
    IntegrityExtra(Cipher),
}

impl Suite {
    /// Joins a cipher and an integrity algorithm if they go together.
    ///
    /// # Errors
    /// [`SuiteError`] if they do not.
    pub fn new(cipher: Cipher, integrity: Option<Integrity>) -> Result<Self, SuiteError> {
        if !cipher.is_valid() {
            return Err(SuiteError::KeyLength(cipher));
        }
        match (cipher.is_aead(), integrity) {
            (true, Some(_)) => Err(SuiteError::IntegrityExtra(cipher)),
            (false, None) => Err(SuiteError::IntegrityMissing(cipher)),
            (true, None) | (false, Some(_)) => Ok(Self { cipher, integrity }),
        }
    }

    /// Octets of encryption key material, including the salt or nonce of counter modes.
    #[must_use]
    pub fn enc_key_len(&self) -> usize {
        self.cipher.key_len() + self.cipher.salt_len()
    }

    /// Octets of integrity key material; 0 for an AEAD.
    #[must_use]
    pub fn integ_key_len(&self) -> usize {
        self.integrity.map_or(0, Integrity::key_len)
    }

    /// Octets of initialization vector on the wire: 16 for CBC, 8 for counter modes.
    #[must_use]
    pub fn iv_len(&self) -> usize {
        if self.is_counter_mode() { 8 } else { 16 }
    }

    /// Octets of integrity check value on the wire.
    #[must_use]
    pub fn icv_len(&self) -> usize {
        self.integrity.map_or(16, Integrity::icv_len)
    }

    /// The cipher's block in octets: 16 for CBC, else 1. ESP aligns to the larger of this and 4.
    #[must_use]
    pub fn block(&self) -> usize {
        if self.is_counter_mode() { 1 } else { 16 }
    }

    /// True if the cipher authenticates by itself.
    #[must_use]
    pub fn is_aead(&self) -> bool {
        self.cipher.is_aead()
    }

    /// True if an IV must never repeat under a key (all but CBC, whose IVs must be unpredictable).
    #[must_use]
    pub fn is_counter_mode(&self) -> bool {
        !matches!(self.cipher, Cipher::AesCbc { .. })
    }
}

impl fmt::Display for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.integrity {
            None => self.cipher.fmt(f),
            Some(integrity) => write!(f, "{}/{integrity}", self.cipher),
        }
    }
}

#[cfg(feature = "serde")]
#[derive(serde::Serialize, serde::Deserialize)]
struct Pair {
    cipher: Cipher,
    integrity: Option<Integrity>,
}

#[cfg(feature = "serde")]
impl From<Suite> for Pair {
    fn from(suite: Suite) -> Self {
        Self {
            cipher: suite.cipher,
            integrity: suite.integrity,
        }
    }
}

#[cfg(feature = "serde")]
impl TryFrom<Pair> for Suite {
    type Error = SuiteError;

    fn try_from(pair: Pair) -> Result<Self, SuiteError> {
        Self::new(pair.cipher, pair.integrity)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const GCM: Cipher = Cipher::AesGcm16 { key_bits: 256 };
    const CBC: Cipher = Cipher::AesCbc { key_bits: 128 };

    #[test]
    fn only_pairs_that_authenticate_exactly_once() {
        let sha = Some(Integrity::HmacSha256_128);
        assert_eq!(Suite::new(GCM, sha), Err(SuiteError::IntegrityExtra(GCM)));
        assert_eq!(Suite::new(CBC, None), Err(SuiteError::IntegrityMissing(CBC)));
        let odd = Cipher::AesGcm16 { key_bits: 100 };
        assert_eq!(Suite::new(odd, None), Err(SuiteError::KeyLength(odd)));
    }

    #[test]
    fn lengths() {
        let gcm = Suite::new(GCM, None).unwrap();
        assert_eq!(
            (
                gcm.enc_key_len(),
                gcm.integ_key_len(),
                gcm.iv_len(),
                gcm.icv_len(),
                gcm.block()
            ),
            (36, 0, 8, 16, 1)
        );
        let cbc = Suite::new(CBC, Some(Integrity::HmacSha384_192)).unwrap();
        assert_eq!(
            (
                cbc.enc_key_len(),
                cbc.integ_key_len(),
                cbc.iv_len(),
                cbc.icv_len(),
                cbc.block()
            ),
            (16, 48, 16, 24, 16)
        );
        assert_eq!(cbc.to_string(), "AES_CBC-128/HMAC_SHA2_384_192");
    }

    #[cfg(feature = "serde")]
    #[test]
    fn serde_refuses_what_new_refuses() {
        let text = serde_json::to_string(&Suite::new(GCM, None).unwrap()).unwrap();
        assert_eq!(serde_json::from_str::<Suite>(&text).unwrap().cipher, GCM);
        assert!(serde_json::from_str::<Suite>(&text.replace("256", "257")).is_err());
    }
}
