//! AEADs behind one small trait that takes batches, with one implementation for each provider.
//!
//! The caller makes the nonces: salt ‖ IV (RFC 4106 section 4, RFC 7634 section 2). A nonce must never repeat under a
//! key when sealing.

use aws_lc_rs::aead as lc;
use ring::aead as rg;

use crate::{Cipher, KeyError, OpenError, Provider, SealError};

/// Length of an authentication tag in octets.
pub const TAG_LEN: usize = 16;

/// Associated data of an ESP packet, kept inline: SPI ‖ sequence number (8 octets) or, with extended sequence numbers,
/// SPI ‖ high ‖ low (12 octets).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Aad {
    octets: [u8; 12],
    len: usize,
}

impl Aad {
    /// Copies up to 12 octets; `None` for more.
    #[must_use]
    pub fn new(data: &[u8]) -> Option<Self> {
        let mut octets = [0; 12];
        octets.get_mut(..data.len())?.copy_from_slice(data);
        Some(Self {
            octets,
            len: data.len(),
        })
    }
}

impl Aad {
    /// SPI ‖ sequence number: its lower half, or all of it with extended sequence numbers (RFC 4106 section 5).
    ///
    /// Both are written in the same three words. Where they are not, the processor waits when it reads them again.
    #[must_use]
    #[inline(always)]
    pub fn of_esp(spi: u32, sequence: u64, extended: bool) -> Self {
        let (high, low) = ((sequence >> 32) as u32, sequence as u32);
        let (second, third, len) = if extended { (high, low, 12) } else { (low, 0, 8) };
        let [a, b, c, d] = spi.to_be_bytes();
        let [e, f, g, h] = second.to_be_bytes();
        let [i, j, k, l] = third.to_be_bytes();
        Self {
            octets: [a, b, c, d, e, f, g, h, i, j, k, l],
            len,
        }
    }
}

impl From<[u8; 8]> for Aad {
    fn from(data: [u8; 8]) -> Self {
        let mut octets = [0; 12];
        for (to, from) in octets.iter_mut().zip(data) {
            *to = from;
        }
        Self { octets, len: 8 }
    }
}

impl From<[u8; 12]> for Aad {
    fn from(octets: [u8; 12]) -> Self {
        Self { octets, len: 12 }
    }
}

impl AsRef<[u8]> for Aad {
    fn as_ref(&self) -> &[u8] {
        self.octets.get(..self.len).unwrap_or(&self.octets)
    }
}

/// One packet of a batch, sealed or opened in place.
#[derive(Debug)]
pub struct AeadJob<'a> {
    /// Salt ‖ IV.
    pub nonce: [u8; 12],
    /// Authenticated, not encrypted.
    pub aad: Aad,
    /// Text ‖ tag; the last [`TAG_LEN`] octets are the tag's room.
    pub data: &'a mut [u8],
}

/// A key that seals and opens batches of packets.
pub trait BatchAead: Send + Sync {
    /// Encrypts every text and writes every tag.
    ///
    /// # Errors
    /// [`SealError::BodyLength`] if a job has no room for a tag: then no job was touched. [`SealError::Rejected`] if
    /// the library refuses a text for its size (2³⁶ octets): then nothing of the batch may be sent.
    fn seal_batch(&self, jobs: &mut [AeadJob<'_>]) -> Result<(), SealError>;

    /// Checks every tag and decrypts in place; `ok[i]` says whether `jobs[i]` was authentic. The text of a job that was
    /// not is unspecified and must not be used. Jobs beyond the length of `ok` are left alone.
    fn open_batch(&self, jobs: &mut [AeadJob<'_>], ok: &mut [bool]);
}

/// One AEAD key of one provider; both the packet interface and the batches stand on it.
pub(crate) trait AeadKey: Send + Sync {
    fn seal(&self, nonce: [u8; 12], aad: &[u8], text: &mut [u8], tag: &mut [u8]) -> Result<(), SealError>;
    fn open(&self, nonce: [u8; 12], aad: &[u8], text: &mut [u8], tag: &[u8]) -> Result<(), OpenError>;
}

/// A key for batches, by the given provider. `key` is the cipher's own key, without the salt.
/// 192-bit AES-GCM is always AWS-LC's.
///
/// # Errors
/// [`KeyError`] if the cipher is no AEAD or the key has the wrong length.
pub fn batch(provider: Provider, cipher: Cipher, key: &[u8]) -> Result<BatchKey, KeyError> {
    AnyKey::new(provider, cipher, key).map(BatchKey)
}

/// A key for batches, whoever provides it. An enum inside, so that the packets of many SAs cost no further indirection.
pub struct BatchKey(AnyKey);

impl BatchAead for BatchKey {
    #[inline]
    fn seal_batch(&self, jobs: &mut [AeadJob<'_>]) -> Result<(), SealError> {
        match &self.0 {
            AnyKey::Ring(key) => seal_each(key.as_ref(), jobs),
            AnyKey::AwsLc(key) => seal_each(key, jobs),
            #[cfg(feature = "ipsec-mb")]
            AnyKey::IpsecMb(key) => key.seal_batch(jobs),
        }
    }

    #[inline]
    fn open_batch(&self, jobs: &mut [AeadJob<'_>], ok: &mut [bool]) {
        match &self.0 {
            AnyKey::Ring(key) => open_each(key.as_ref(), jobs, ok),
            AnyKey::AwsLc(key) => open_each(key, jobs, ok),
            #[cfg(feature = "ipsec-mb")]
            AnyKey::IpsecMb(key) => key.open_batch(jobs, ok),
        }
    }
}

impl BatchKey {
    /// Opens one packet; whether it was authentic. As a batch of one, without its preparations.
    #[inline]
    #[must_use]
    pub fn open_one(&self, job: &mut AeadJob<'_>) -> bool {
        let Some((text, tag)) = job.data.split_last_chunk_mut::<TAG_LEN>() else {
            return false;
        };
        let aad = job.aad.as_ref();
        match &self.0 {
            AnyKey::Ring(key) => AeadKey::open(key.as_ref(), job.nonce, aad, text, tag).is_ok(),
            AnyKey::AwsLc(key) => AeadKey::open(key, job.nonce, aad, text, tag).is_ok(),
            #[cfg(feature = "ipsec-mb")]
            AnyKey::IpsecMb(key) => key.open_one(ipsec_mb::Job {
                nonce: &job.nonce,
                aad,
                text,
                tag,
            }),
        }
    }

    /// Asks the processor for the key's memory, for a batch that comes soon. Does nothing where the library keeps it out
    /// of reach.
    #[inline]
    pub fn prefetch(&self) {
        #[cfg(feature = "ipsec-mb")]
        if let AnyKey::IpsecMb(key) = &self.0 {
            key.prefetch();
        }
    }
}

impl std::fmt::Debug for BatchKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("BatchKey(..)")
    }
}

/// A key of either provider.
pub(crate) enum AnyKey {
    Ring(Box<rg::LessSafeKey>),
    AwsLc(lc::LessSafeKey),
    #[cfg(feature = "ipsec-mb")]
    IpsecMb(ipsec_mb::GcmKey),
}

impl AnyKey {
    pub(crate) fn new(provider: Provider, cipher: Cipher, key: &[u8]) -> Result<Self, KeyError> {
        let wanted = cipher.key_len();
        if key.len() != wanted {
            return Err(KeyError::EncryptionKeyLength {
                wanted,
                given: key.len(),
            });
        }
        let (ring, aws_lc) = match cipher {
            Cipher::AesGcm16 { key_bits: 128 } => (Some(&rg::AES_128_GCM), &lc::AES_128_GCM),
            Cipher::AesGcm16 { key_bits: 192 } => (None, &lc::AES_192_GCM),
            Cipher::AesGcm16 { key_bits: 256 } => (Some(&rg::AES_256_GCM), &lc::AES_256_GCM),
            Cipher::ChaCha20Poly1305 => (Some(&rg::CHACHA20_POLY1305), &lc::CHACHA20_POLY1305),
            Cipher::AesGcm16 { .. } | Cipher::AesCbc { .. } | Cipher::AesCtr { .. } => {
                return Err(KeyError::NotAnAead(cipher));
            }
        };
        #[cfg(feature = "ipsec-mb")]
        if provider == Provider::IpsecMb && matches!(cipher, Cipher::AesGcm16 { .. }) {
            return ipsec_mb::GcmKey::new(key)
                .map(Self::IpsecMb)
                .ok_or(KeyError::Rejected);
        }
        match (provider, ring) {
            (Provider::Ring, Some(algorithm)) => {
                let key = rg::UnboundKey::new(algorithm, key).map_err(|_| KeyError::Rejected)?;
                Ok(Self::Ring(Box::new(rg::LessSafeKey::new(key))))
            }
            // ring has no 192-bit keys; what is not listed is AWS-LC's.
            _ => {
                let key = lc::UnboundKey::new(aws_lc, key).map_err(|_| KeyError::Rejected)?;
                Ok(Self::AwsLc(lc::LessSafeKey::new(key)))
            }
        }
    }
}

impl AeadKey for AnyKey {
    fn seal(&self, nonce: [u8; 12], aad: &[u8], text: &mut [u8], tag: &mut [u8]) -> Result<(), SealError> {
        match self {
            Self::Ring(key) => key.seal(nonce, aad, text, tag),
            Self::AwsLc(key) => key.seal(nonce, aad, text, tag),
            #[cfg(feature = "ipsec-mb")]
            Self::IpsecMb(key) => key.seal(nonce, aad, text, tag),
        }
    }

    fn open(&self, nonce: [u8; 12], aad: &[u8], text: &mut [u8], tag: &[u8]) -> Result<(), OpenError> {
        match self {
            Self::Ring(key) => key.open(nonce, aad, text, tag),
            Self::AwsLc(key) => key.open(nonce, aad, text, tag),
            #[cfg(feature = "ipsec-mb")]
            Self::IpsecMb(key) => key.open(nonce, aad, text, tag),
        }
    }
}

impl AeadKey for rg::LessSafeKey {
    fn seal(&self, nonce: [u8; 12], aad: &[u8], text: &mut [u8], tag: &mut [u8]) -> Result<(), SealError> {
        if tag.len() != TAG_LEN {
            return Err(SealError::IcvLength);
        }
        let nonce = rg::Nonce::assume_unique_for_key(nonce);
        let made = self
            .seal_in_place_separate_tag(nonce, rg::Aad::from(aad), text)
            .map_err(|_| SealError::Rejected)?;
        tag.copy_from_slice(made.as_ref());
        Ok(())
    }

    fn open(&self, nonce: [u8; 12], aad: &[u8], text: &mut [u8], tag: &[u8]) -> Result<(), OpenError> {
        let tag: [u8; TAG_LEN] = tag.try_into().map_err(|_| OpenError::IcvLength)?;
        let nonce = rg::Nonce::assume_unique_for_key(nonce);
        self.open_in_place_separate_tag(nonce, rg::Aad::from(aad), tag.into(), text, 0..)
            .map(|_| ())
            .map_err(|_| OpenError::NotAuthentic)
    }
}

impl AeadKey for lc::LessSafeKey {
    fn seal(&self, nonce: [u8; 12], aad: &[u8], text: &mut [u8], tag: &mut [u8]) -> Result<(), SealError> {
        if tag.len() != TAG_LEN {
            return Err(SealError::IcvLength);
        }
        let nonce = lc::Nonce::assume_unique_for_key(nonce);
        let made = self
            .seal_in_place_separate_tag(nonce, lc::Aad::from(aad), text)
            .map_err(|_| SealError::Rejected)?;
        tag.copy_from_slice(made.as_ref());
        Ok(())
    }

    fn open(&self, nonce: [u8; 12], aad: &[u8], text: &mut [u8], tag: &[u8]) -> Result<(), OpenError> {
        if tag.len() != TAG_LEN {
            return Err(OpenError::IcvLength);
        }
        let nonce = lc::Nonce::assume_unique_for_key(nonce);
        self.open_in_place_separate_tag(nonce, lc::Aad::from(aad), tag, text)
            .map(|_| ())
            .map_err(|_| OpenError::NotAuthentic)
    }
}

/// Seals one by one: neither ring nor AWS-LC interleaves packets.
fn seal_each(key: &impl AeadKey, jobs: &mut [AeadJob<'_>]) -> Result<(), SealError> {
    if jobs.iter().any(|job| job.data.len() < TAG_LEN) {
        return Err(SealError::BodyLength);
    }
    for job in jobs {
        let (text, tag) = job
            .data
            .split_last_chunk_mut::<TAG_LEN>()
            .ok_or(SealError::BodyLength)?;
        key.seal(job.nonce, job.aad.as_ref(), text, tag)?;
    }
    Ok(())
}

/// Opens one by one.
fn open_each(key: &impl AeadKey, jobs: &mut [AeadJob<'_>], ok: &mut [bool]) {
    ok.fill(false);
    for (job, ok) in jobs.iter_mut().zip(ok) {
        if let Some((text, tag)) = job.data.split_last_chunk_mut::<TAG_LEN>() {
            *ok = key.open(job.nonce, job.aad.as_ref(), text, tag).is_ok();
        }
    }
}
