//! Sealing and opening one packet in place, whatever the suite: AEADs, and cipher + HMAC (encrypt, then authenticate).
//!
//! ```text
//!          mac_head        iv      body             icv    mac_tail (not sent)
//!   ┌────────────────────┬────┬──────────────────┬───────┐ ┌──────────────┐
//!   │ SPI ‖ seq, or IKE  │ IV │ text + padding   │  ICV  │ │ ESN high 32  │
//!   └────────────────────┴────┴──────────────────┴───────┘ └──────────────┘
//!   └───────── authenticated by an HMAC ─────────┘         └──── too ─────┘
//! ```
//! An AEAD authenticates `aad` in place of `mac_head` and `mac_tail`. Nothing here allocates once the key is made.

use std::fmt;

use aws_lc_rs::cipher as lc;
use aws_lc_rs::iv::FixedLength;

use crate::aead::{AeadKey, AnyKey};
use crate::{Cipher, MacKey, Provider, Suite, SuiteError};

/// One packet, cut into the parts that a suite treats differently.
#[derive(Debug)]
pub struct Packet<'a> {
    /// Associated data as an AEAD authenticates it: for ESP SPI ‖ sequence number, or SPI ‖ high ‖ low with extended
    /// sequence numbers; for IKE everything from the header to the SK payload's header.
    pub aad: &'a [u8],
    /// For the other suites: the octets on the wire before the IV.
    pub mac_head: &'a [u8],
    /// For the other suites: what is authenticated after the text without being sent, or nothing.
    pub mac_tail: &'a [u8],
    /// The IV on the wire, [`Suite::iv_len`] octets. When sealing the caller has filled it: counter modes need one that
    /// never repeats under the key, CBC needs random octets.
    pub iv: &'a mut [u8],
    /// The text with its padding; a multiple of [`Suite::block`] octets.
    pub body: &'a mut [u8],
    /// Room for the integrity check value, [`Suite::icv_len`] octets.
    pub icv: &'a mut [u8],
}

/// Why keys were not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The suite is not a valid one.
    #[error(transparent)]
    Suite(#[from] SuiteError),
    /// The encryption key material has the wrong length.
    #[error("encryption key material of {given} octets, {wanted} needed")]
    EncryptionKeyLength {
        /// Octets that the cipher takes.
        wanted: usize,
        /// Octets that were given.
        given: usize,
    },
    /// The integrity key has the wrong length.
    #[error("integrity key of {given} octets, {wanted} needed")]
    IntegrityKeyLength {
        /// Octets that the algorithm takes.
        wanted: usize,
        /// Octets that were given.
        given: usize,
    },
    /// Batches are for AEADs alone.
    #[error("{0} is no AEAD")]
    NotAnAead(Cipher),
    /// The library refused the key.
    #[error("the key was refused")]
    Rejected,
}

/// Why a packet was not sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The IV has another length than the suite's.
    #[error("IV of the wrong length")]
    IvLength,
    /// The text is no multiple of the cipher's block, or there is no room for a tag.
    #[error("text of the wrong length")]
    BodyLength,
    /// The room for the integrity check value has another length than the suite's.
    #[error("ICV of the wrong length")]
    IcvLength,
    /// The library refused, for instance a text that is too long for one nonce.
    #[error("the cipher refused the text")]
    Rejected,
}

/// Why a packet was not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The IV has another length than the suite's.
    #[error("IV of the wrong length")]
    IvLength,
    /// The text is no multiple of the cipher's block.
    #[error("text of the wrong length")]
    BodyLength,
    /// The integrity check value has another length than the suite's.
    #[error("ICV of the wrong length")]
    IcvLength,
    /// The integrity check failed: a wrong key, or a packet that was changed on its way.
    #[error("integrity check failed")]
    NotAuthentic,
}

/// Seals packets under one key.
pub struct Sealer {
    suite: Suite,
    keys: Keys<lc::EncryptingKey>,
}

/// Opens packets under one key.
pub struct Opener {
    suite: Suite,
    keys: Keys<lc::DecryptingKey>,
}

/// What a suite computes with. `K` is the direction's key for cipher-only modes.
enum Keys<K> {
    Aead {
        key: AnyKey,
        salt: [u8; 4],
    },
    Cbc {
        key: Box<K>,
        mac: Box<MacKey>,
    },
    Ctr {
        key: Box<K>,
        nonce: [u8; 4],
        mac: Box<MacKey>,
    },
}

impl Sealer {
    /// A sealer by the preferred provider. `enc_key` holds [`Suite::enc_key_len`] octets, salt or nonce last;
    /// `integ_key` holds [`Suite::integ_key_len`] octets.
    ///
    /// # Errors
    /// [`KeyError`] if a key has the wrong length.
    pub fn new(suite: Suite, enc_key: &[u8], integ_key: &[u8]) -> Result<Self, KeyError> {
        Self::with_provider(Provider::preferred(suite.cipher), suite, enc_key, integ_key)
    }

    /// A sealer whose AEAD is done by the given provider.
    ///
    /// # Errors
    /// As [`Sealer::new`].
    pub fn with_provider(
        provider: Provider,
        suite: Suite,
        enc_key: &[u8],
        integ_key: &[u8],
    ) -> Result<Self, KeyError> {
        let keys = Keys::new(
            provider,
            suite,
            enc_key,
            integ_key,
            lc::EncryptingKey::cbc,
            lc::EncryptingKey::ctr,
        )?;
        Ok(Self { suite, keys })
    }

    /// The suite of the keys.
    #[must_use]
    pub fn suite(&self) -> Suite {
        self.suite
    }

    /// Encrypts `body` in place and writes `icv`.
    ///
    /// # Errors
    /// [`SealError`] if a part has the wrong length; then nothing was encrypted.
    pub fn seal(&self, packet: Packet<'_>) -> Result<(), SealError> {
        let Packet {
            aad,
            mac_head,
            mac_tail,
            iv,
            body,
            icv,
        } = packet;
        if icv.len() != self.suite.icv_len() {
            return Err(SealError::IcvLength);
        }
        match &self.keys {
            Keys::Aead { key, salt } => {
                let nonce = join_nonce(*salt, iv).ok_or(SealError::IvLength)?;
                key.seal(nonce, aad, body, icv)
            }
            Keys::Cbc { key, mac } => {
                if !body.len().is_multiple_of(16) {
                    return Err(SealError::BodyLength);
                }
                let block: [u8; 16] = (&*iv).try_into().map_err(|_| SealError::IvLength)?;
                encrypt(key, block, body)?;
                sign(mac, &[mac_head, iv, body, mac_tail], icv)
            }
            Keys::Ctr { key, nonce, mac } => {
                let block = counter_block(*nonce, iv).ok_or(SealError::IvLength)?;
                encrypt(key, block, body)?;
                sign(mac, &[mac_head, iv, body, mac_tail], icv)
            }
        }
    }
}

impl Opener {
    /// An opener by the preferred provider; keys as for [`Sealer::new`].
    ///
    /// # Errors
    /// [`KeyError`] if a key has the wrong length.
    pub fn new(suite: Suite, enc_key: &[u8], integ_key: &[u8]) -> Result<Self, KeyError> {
        Self::with_provider(Provider::preferred(suite.cipher), suite, enc_key, integ_key)
    }

    /// An opener whose AEAD is done by the given provider.
    ///
    /// # Errors
    /// As [`Opener::new`].
    pub fn with_provider(
        provider: Provider,
        suite: Suite,
        enc_key: &[u8],
        integ_key: &[u8],
    ) -> Result<Self, KeyError> {
        let keys = Keys::new(
            provider,
            suite,
            enc_key,
            integ_key,
            lc::DecryptingKey::cbc,
            lc::DecryptingKey::ctr,
        )?;
        Ok(Self { suite, keys })
    }

    /// The suite of the keys.
    #[must_use]
    pub fn suite(&self) -> Suite {
        self.suite
    }

    /// Checks `icv` in constant time, then decrypts `body` in place.
    ///
    /// # Errors
    /// [`OpenError`] if a part has the wrong length or the check fails. After a failed check the octets of `body` are
    /// unspecified (AEADs check while they decrypt) and must not be used.
    pub fn open(&self, packet: Packet<'_>) -> Result<(), OpenError> {
        let Packet {
            aad,
            mac_head,
            mac_tail,
            iv,
            body,
            icv,
        } = packet;
        if icv.len() != self.suite.icv_len() {
            return Err(OpenError::IcvLength);
        }
        match &self.keys {
            Keys::Aead { key, salt } => {
                let nonce = join_nonce(*salt, iv).ok_or(OpenError::IvLength)?;
                key.open(nonce, aad, body, icv)
            }
            Keys::Cbc { key, mac } => {
                if !body.len().is_multiple_of(16) {
                    return Err(OpenError::BodyLength);
                }
                let block: [u8; 16] = (&*iv).try_into().map_err(|_| OpenError::IvLength)?;
                verify(mac, &[mac_head, iv, body, mac_tail], icv)?;
                decrypt(key, block, body)
            }
            Keys::Ctr { key, nonce, mac } => {
                let block = counter_block(*nonce, iv).ok_or(OpenError::IvLength)?;
                verify(mac, &[mac_head, iv, body, mac_tail], icv)?;
                decrypt(key, block, body)
            }
        }
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealer({}, ..)", self.suite)
    }
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Opener({}, ..)", self.suite)
    }
}

/// Makes the library's key for one mode.
type MakeKey<K> = fn(lc::UnboundCipherKey) -> Result<K, aws_lc_rs::error::Unspecified>;

impl<K> Keys<K> {
    fn new(
        provider: Provider,
        suite: Suite,
        enc_key: &[u8],
        integ_key: &[u8],
        cbc: MakeKey<K>,
        ctr: MakeKey<K>,
    ) -> Result<Self, KeyError> {
        let suite = Suite::new(suite.cipher, suite.integrity)?;
        let wanted = suite.enc_key_len();
        let lengths = KeyError::EncryptionKeyLength {
            wanted,
            given: enc_key.len(),
        };
        if enc_key.len() != wanted {
            return Err(lengths);
        }
        if integ_key.len() != suite.integ_key_len() {
            return Err(KeyError::IntegrityKeyLength {
                wanted: suite.integ_key_len(),
                given: integ_key.len(),
            });
        }
        let mac = || {
            suite
                .integrity
                .map(|integrity| Box::new(MacKey::new(integrity, integ_key)))
                .ok_or(KeyError::Rejected)
        };
        match suite.cipher {
            Cipher::AesGcm16 { .. } | Cipher::ChaCha20Poly1305 => {
                let (key, salt) = enc_key.split_last_chunk().ok_or(lengths)?;
                Ok(Self::Aead {
                    key: AnyKey::new(provider, suite.cipher, key)?,
                    salt: *salt,
                })
            }
            Cipher::AesCbc { .. } => Ok(Self::Cbc {
                key: Box::new(aes(enc_key, cbc)?),
                mac: mac()?,
            }),
            Cipher::AesCtr { .. } => {
                let (key, nonce) = enc_key.split_last_chunk().ok_or(lengths)?;
                Ok(Self::Ctr {
                    key: Box::new(aes(key, ctr)?),
                    nonce: *nonce,
                    mac: mac()?,
                })
            }
        }
    }
}

fn aes<K>(key: &[u8], make: MakeKey<K>) -> Result<K, KeyError> {
    let algorithm = match key.len() {
        16 => &lc::AES_128,
        24 => &lc::AES_192,
        32 => &lc::AES_256,
        _ => return Err(KeyError::Rejected),
    };
    lc::UnboundCipherKey::new(algorithm, key)
        .and_then(make)
        .map_err(|_| KeyError::Rejected)
}

/// Salt ‖ IV (RFC 4106 section 4, RFC 7634 section 2).
fn join_nonce([s0, s1, s2, s3]: [u8; 4], iv: &[u8]) -> Option<[u8; 12]> {
    let [i0, i1, i2, i3, i4, i5, i6, i7] = *<&[u8; 8]>::try_from(iv).ok()?;
    Some([s0, s1, s2, s3, i0, i1, i2, i3, i4, i5, i6, i7])
}

/// Nonce ‖ IV ‖ block counter, which begins at one (RFC 3686 section 4).
fn counter_block([n0, n1, n2, n3]: [u8; 4], iv: &[u8]) -> Option<[u8; 16]> {
    let [i0, i1, i2, i3, i4, i5, i6, i7] = *<&[u8; 8]>::try_from(iv).ok()?;
    Some([n0, n1, n2, n3, i0, i1, i2, i3, i4, i5, i6, i7, 0, 0, 0, 1])
}

fn encrypt(key: &lc::EncryptingKey, iv: [u8; 16], body: &mut [u8]) -> Result<(), SealError> {
    key.less_safe_encrypt(body, lc::EncryptionContext::Iv128(FixedLength::from(iv)))
        .map(|_| ())
        .map_err(|_| SealError::Rejected)
}

fn decrypt(key: &lc::DecryptingKey, iv: [u8; 16], body: &mut [u8]) -> Result<(), OpenError> {
    key.decrypt(body, lc::DecryptionContext::Iv128(FixedLength::from(iv)))
        .map(|_| ())
        .map_err(|_| OpenError::BodyLength)
}

fn sign(mac: &MacKey, parts: &[&[u8]], icv: &mut [u8]) -> Result<(), SealError> {
    if mac.sign(parts, icv) {
        Ok(())
    } else {
        Err(SealError::IcvLength)
    }
}

fn verify(mac: &MacKey, parts: &[&[u8]], icv: &[u8]) -> Result<(), OpenError> {
    if mac.verify(parts, icv) {
        Ok(())
    } else {
        Err(OpenError::NotAuthentic)
    }
}
