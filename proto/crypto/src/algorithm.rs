//! Names of algorithms, with the IANA transform numbers of IKEv2 and the lengths that depend on nothing else.

use std::fmt;

/// Encryption algorithms (IANA transform type 1). `key_bits` is 128, 192 or 256.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Cipher {
    /// AES-GCM with an ICV of 16 octets (RFC 4106, RFC 5282).
    AesGcm16 {
        /// Key length in bits, without the salt.
        key_bits: u16,
    },
    /// ChaCha20-Poly1305 (RFC 7634).
    ChaCha20Poly1305,
    /// AES-CBC (RFC 3602); needs an integrity algorithm.
    AesCbc {
        /// Key length in bits.
        key_bits: u16,
    },
    /// AES-CTR (RFC 3686, RFC 5930); needs an integrity algorithm.
    AesCtr {
        /// Key length in bits, without the nonce.
        key_bits: u16,
    },
}

impl Cipher {
    /// Every cipher that there is.
    pub const ALL: [Cipher; 10] = [
        Cipher::AesGcm16 { key_bits: 128 },
        Cipher::AesGcm16 { key_bits: 192 },
        Cipher::AesGcm16 { key_bits: 256 },
        Cipher::ChaCha20Poly1305,
        Cipher::AesCbc { key_bits: 128 },
        Cipher::AesCbc { key_bits: 192 },
        Cipher::AesCbc { key_bits: 256 },
        Cipher::AesCtr { key_bits: 128 },
        Cipher::AesCtr { key_bits: 192 },
        Cipher::AesCtr { key_bits: 256 },
    ];

    /// The IANA transform ID and the Key Length attribute, if the transform takes one.
    #[must_use]
    pub fn transform(self) -> (u16, Option<u16>) {
        match self {
            Cipher::AesCbc { key_bits } => (12, Some(key_bits)),
            Cipher::AesCtr { key_bits } => (13, Some(key_bits)),
            Cipher::AesGcm16 { key_bits } => (20, Some(key_bits)),
            Cipher::ChaCha20Poly1305 => (28, None),
        }
    }

    /// The cipher of a transform; `None` if it is not known or the key length is missing, extra or wrong.
    #[must_use]
    pub fn from_transform(id: u16, key_bits: Option<u16>) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|cipher| cipher.transform() == (id, key_bits))
    }

    /// Length of the cipher's own key in octets, without salt or nonce.
    #[must_use]
    pub fn key_len(self) -> usize {
        match self {
            Cipher::AesGcm16 { key_bits } | Cipher::AesCbc { key_bits } | Cipher::AesCtr { key_bits } => {
                usize::from(key_bits / 8)
            }
            Cipher::ChaCha20Poly1305 => 32,
        }
    }

    /// Octets of key material that follow the key: the salt of GCM and ChaCha20, the nonce of CTR.
    #[must_use]
    pub fn salt_len(self) -> usize {
        match self {
            Cipher::AesGcm16 { .. } | Cipher::ChaCha20Poly1305 | Cipher::AesCtr { .. } => 4,
            Cipher::AesCbc { .. } => 0,
        }
    }

    /// True if the cipher authenticates by itself.
    #[must_use]
    pub fn is_aead(self) -> bool {
        matches!(self, Cipher::AesGcm16 { .. } | Cipher::ChaCha20Poly1305)
    }

    /// True if the key length is one that the cipher has.
    #[must_use]
    pub fn is_valid(self) -> bool {
        Self::ALL.contains(&self)
    }
}

impl fmt::Display for Cipher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cipher::AesGcm16 { key_bits } => write!(f, "AES_GCM_16-{key_bits}"),
            Cipher::ChaCha20Poly1305 => f.write_str("CHACHA20_POLY1305"),
            Cipher::AesCbc { key_bits } => write!(f, "AES_CBC-{key_bits}"),
            Cipher::AesCtr { key_bits } => write!(f, "AES_CTR-{key_bits}"),
        }
    }
}

/// Hash functions; the numbers are those of RFC 7427 section 7 (Identity: RFC 8420).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum HashAlgorithm {
    /// SHA-1: legacy, for NAT detection and old peers.
    Sha1,
    /// SHA2-256.
    Sha256,
    /// SHA2-384.
    Sha384,
    /// SHA2-512.
    Sha512,
    /// No hash: Ed25519 signs the message itself (RFC 8420).
    Identity,
}

impl HashAlgorithm {
    /// Every hash that there is.
    pub const ALL: [HashAlgorithm; 5] = [
        HashAlgorithm::Sha1,
        HashAlgorithm::Sha256,
        HashAlgorithm::Sha384,
        HashAlgorithm::Sha512,
        HashAlgorithm::Identity,
    ];

    /// Output length in octets; 0 for the identity.
    #[must_use]
    pub fn output_len(self) -> usize {
        match self {
            HashAlgorithm::Sha1 => 20,
            HashAlgorithm::Sha256 => 32,
            HashAlgorithm::Sha384 => 48,
            HashAlgorithm::Sha512 => 64,
            HashAlgorithm::Identity => 0,
        }
    }

    /// The number in SIGNATURE_HASH_ALGORITHMS (RFC 7427 section 4).
    #[must_use]
    pub fn id(self) -> u16 {
        match self {
            HashAlgorithm::Sha1 => 1,
            HashAlgorithm::Sha256 => 2,
            HashAlgorithm::Sha384 => 3,
            HashAlgorithm::Sha512 => 4,
            HashAlgorithm::Identity => 5,
        }
    }

    /// The hash with that number, if it is known.
    #[must_use]
    pub fn from_id(id: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|hash| hash.id() == id)
    }
}

impl fmt::Display for HashAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            HashAlgorithm::Sha1 => "SHA1",
            HashAlgorithm::Sha256 => "SHA2_256",
            HashAlgorithm::Sha384 => "SHA2_384",
            HashAlgorithm::Sha512 => "SHA2_512",
            HashAlgorithm::Identity => "IDENTITY",
        })
    }
}

/// Integrity algorithms (IANA transform type 3), named with the length of the truncated tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[allow(non_camel_case_types, reason = "the registry's own names")]
pub enum Integrity {
    /// HMAC-SHA1-96 (RFC 2404): legacy.
    HmacSha1_96,
    /// HMAC-SHA2-256-128 (RFC 4868).
    HmacSha256_128,
    /// HMAC-SHA2-384-192 (RFC 4868).
    HmacSha384_192,
    /// HMAC-SHA2-512-256 (RFC 4868).
    HmacSha512_256,
}

impl Integrity {
    /// Every integrity algorithm that there is.
    pub const ALL: [Integrity; 4] = [
        Integrity::HmacSha1_96,
        Integrity::HmacSha256_128,
        Integrity::HmacSha384_192,
        Integrity::HmacSha512_256,
    ];

    /// The hash underneath.
    #[must_use]
    pub fn hash(self) -> HashAlgorithm {
        match self {
            Integrity::HmacSha1_96 => HashAlgorithm::Sha1,
            Integrity::HmacSha256_128 => HashAlgorithm::Sha256,
            Integrity::HmacSha384_192 => HashAlgorithm::Sha384,
            Integrity::HmacSha512_256 => HashAlgorithm::Sha512,
        }
    }

    /// Key length in octets: always the hash's output length (RFC 4868 section 2.1.1, RFC 2404 section 3).
    #[must_use]
    pub fn key_len(self) -> usize {
        self.hash().output_len()
    }

    /// Length of the integrity check value on the wire, in octets.
    #[must_use]
    pub fn icv_len(self) -> usize {
        match self {
            Integrity::HmacSha1_96 => 12,
            Integrity::HmacSha256_128 => 16,
            Integrity::HmacSha384_192 => 24,
            Integrity::HmacSha512_256 => 32,
        }
    }

    /// The IANA transform ID.
    #[must_use]
    pub fn id(self) -> u16 {
        match self {
            Integrity::HmacSha1_96 => 2,
            Integrity::HmacSha256_128 => 12,
            Integrity::HmacSha384_192 => 13,
            Integrity::HmacSha512_256 => 14,
        }
    }

    /// The algorithm of a transform, if it is known.
    #[must_use]
    pub fn from_id(id: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|integrity| integrity.id() == id)
    }
}

impl fmt::Display for Integrity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Integrity::HmacSha1_96 => "HMAC_SHA1_96",
            Integrity::HmacSha256_128 => "HMAC_SHA2_256_128",
            Integrity::HmacSha384_192 => "HMAC_SHA2_384_192",
            Integrity::HmacSha512_256 => "HMAC_SHA2_512_256",
        })
    }
}

/// Pseudo-random functions (IANA transform type 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Prf {
    /// PRF_HMAC_SHA1: legacy.
    HmacSha1,
    /// PRF_HMAC_SHA2_256 (RFC 4868).
    HmacSha256,
    /// PRF_HMAC_SHA2_384 (RFC 4868).
    HmacSha384,
    /// PRF_HMAC_SHA2_512 (RFC 4868).
    HmacSha512,
}

impl Prf {
    /// Every pseudo-random function that there is.
    pub const ALL: [Prf; 4] = [Prf::HmacSha1, Prf::HmacSha256, Prf::HmacSha384, Prf::HmacSha512];

    /// The hash underneath.
    #[must_use]
    pub fn hash(self) -> HashAlgorithm {
        match self {
            Prf::HmacSha1 => HashAlgorithm::Sha1,
            Prf::HmacSha256 => HashAlgorithm::Sha256,
            Prf::HmacSha384 => HashAlgorithm::Sha384,
            Prf::HmacSha512 => HashAlgorithm::Sha512,
        }
    }

    /// Output length in octets; also the preferred key length (RFC 7296 section 2.13).
    #[must_use]
    pub fn output_len(self) -> usize {
        self.hash().output_len()
    }

    /// The IANA transform ID.
    #[must_use]
    pub fn id(self) -> u16 {
        match self {
            Prf::HmacSha1 => 2,
            Prf::HmacSha256 => 5,
            Prf::HmacSha384 => 6,
            Prf::HmacSha512 => 7,
        }
    }

    /// The function of a transform, if it is known.
    #[must_use]
    pub fn from_id(id: u16) -> Option<Self> {
        Self::ALL.into_iter().find(|prf| prf.id() == id)
    }
}

impl fmt::Display for Prf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Prf::HmacSha1 => "PRF_HMAC_SHA1",
            Prf::HmacSha256 => "PRF_HMAC_SHA2_256",
            Prf::HmacSha384 => "PRF_HMAC_SHA2_384",
            Prf::HmacSha512 => "PRF_HMAC_SHA2_512",
        })
    }
}

/// Key exchange groups (IANA transform type 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Group {
    /// Group 2, 1024-bit MODP: legacy, broken by well-funded attackers; for old clients by explicit policy alone.
    Modp1024,
    /// Group 14, 2048-bit MODP (RFC 3526).
    Modp2048,
    /// Group 15, 3072-bit MODP (RFC 3526).
    Modp3072,
    /// Group 16, 4096-bit MODP (RFC 3526).
    Modp4096,
    /// Group 19, NIST P-256 (RFC 5903).
    Ecp256,
    /// Group 20, NIST P-384 (RFC 5903).
    Ecp384,
    /// Group 21, NIST P-521 (RFC 5903).
    Ecp521,
    /// Group 31, Curve25519 (RFC 8031).
    Curve25519,
}

impl Group {
    /// Every group that there is.
    pub const ALL: [Group; 8] = [
        Group::Modp1024,
        Group::Modp2048,
        Group::Modp3072,
        Group::Modp4096,
        Group::Ecp256,
        Group::Ecp384,
        Group::Ecp521,
        Group::Curve25519,
    ];

    /// Length in octets of a public value in the KE payload.
    #[must_use]
    pub fn public_len(self) -> usize {
        match self {
            Group::Modp1024 => 128,
            Group::Modp2048 => 256,
            Group::Modp3072 => 384,
            Group::Modp4096 => 512,
            Group::Ecp256 => 64,
            Group::Ecp384 => 96,
            Group::Ecp521 => 132,
            Group::Curve25519 => 32,
        }
    }

    /// Length in octets of the shared secret.
    #[must_use]
    pub fn secret_len(self) -> usize {
        match self {
            Group::Ecp256 | Group::Ecp384 | Group::Ecp521 => self.public_len() / 2,
            Group::Modp1024 | Group::Modp2048 | Group::Modp3072 | Group::Modp4096 | Group::Curve25519 => {
                self.public_len()
            }
        }
    }

    /// True for groups that RFC 8247 section 2.4 advises against: to be offered by explicit policy alone.
    #[must_use]
    pub fn is_legacy(self) -> bool {
        matches!(self, Group::Modp1024)
    }

    /// The IANA transform ID, as in the KE payload.
    #[must_use]
    pub fn id(self) -> u16 {
        match self {
            Group::Modp1024 => 2,
            Group::Modp2048 => 14,
            Group::Modp3072 => 15,
            Group::Modp4096 => 16,
            Group::Ecp256 => 19,
            Group::Ecp384 => 20,
            Group::Ecp521 => 21,
            Group::Curve25519 => 31,
        }
    }
}

/// The number of a key exchange group that is not known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("key exchange group {0} is not supported")]
pub struct UnknownGroup(pub u16);

impl TryFrom<u16> for Group {
    type Error = UnknownGroup;

    fn try_from(id: u16) -> Result<Self, UnknownGroup> {
        Self::ALL
            .into_iter()
            .find(|group| group.id() == id)
            .ok_or(UnknownGroup(id))
    }
}

impl From<Group> for u16 {
    fn from(group: Group) -> u16 {
        group.id()
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Group::Modp1024 => "MODP_1024",
            Group::Modp2048 => "MODP_2048",
            Group::Modp3072 => "MODP_3072",
            Group::Modp4096 => "MODP_4096",
            Group::Ecp256 => "ECP_256",
            Group::Ecp384 => "ECP_384",
            Group::Ecp521 => "ECP_521",
            Group::Curve25519 => "CURVE_25519",
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn numbers_survive_the_round_trip() {
        for group in Group::ALL {
            assert_eq!(Group::try_from(u16::from(group)), Ok(group));
        }
        assert_eq!(Group::try_from(5), Err(UnknownGroup(5)));
        for prf in Prf::ALL {
            assert_eq!(Prf::from_id(prf.id()), Some(prf));
        }
        for integrity in Integrity::ALL {
            assert_eq!(Integrity::from_id(integrity.id()), Some(integrity));
        }
        for hash in HashAlgorithm::ALL {
            assert_eq!(HashAlgorithm::from_id(hash.id()), Some(hash));
        }
        for cipher in Cipher::ALL {
            let (id, key_bits) = cipher.transform();
            assert_eq!(Cipher::from_transform(id, key_bits), Some(cipher));
        }
        assert_eq!(Cipher::from_transform(20, None), None);
        assert_eq!(Cipher::from_transform(20, Some(512)), None);
        assert_eq!(Cipher::from_transform(28, Some(256)), None);
    }

    #[test]
    fn names_are_the_registrys() {
        assert_eq!(Cipher::AesGcm16 { key_bits: 256 }.to_string(), "AES_GCM_16-256");
        assert_eq!(Integrity::HmacSha256_128.to_string(), "HMAC_SHA2_256_128");
        assert_eq!(Group::Curve25519.to_string(), "CURVE_25519");
    }
}
