//! Sealed records at rest: AES-256-GCM under a 32-octet key with a random 96-bit nonce.
//!
//! A blob is `nonce (12) ‖ ciphertext ‖ tag (16)`. Random nonces keep one key good for 2³² records (NIST SP 800-38D).

use crate::aead::{AeadKey, AnyKey, TAG_LEN};
use crate::{Cipher, Provider, Random, Secret};

const NONCE_LEN: usize = 12;
const CIPHER: Cipher = Cipher::AesGcm16 { key_bits: 256 };

/// Octets that a blob is longer than its text.
pub const BLOB_OVERHEAD: usize = NONCE_LEN + TAG_LEN;

/// Why a blob was not sealed or opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BlobError {
    /// The key does not have 32 octets.
    #[error("the key of sealed records must have 32 octets")]
    Key,
    /// The blob is shorter than its overhead.
    #[error("sealed record too short")]
    TooShort,
    /// Wrong key, wrong associated data, or a changed blob.
    #[error("sealed record is not authentic")]
    NotAuthentic,
    /// The text is too long for one record.
    #[error("record too long")]
    TooLong,
}

/// Seals `text`. `associated` (the record's name, for instance) is authenticated but not stored: opening needs the same.
///
/// # Errors
/// [`BlobError::Key`] or [`BlobError::TooLong`].
pub fn seal_blob(
    key: &Secret,
    associated: &[u8],
    text: &[u8],
    random: &mut dyn Random,
) -> Result<Vec<u8>, BlobError> {
    let key = AnyKey::new(Provider::AwsLc, CIPHER, key.expose()).map_err(|_| BlobError::Key)?;
    let mut nonce = [0; NONCE_LEN];
    random.fill(&mut nonce);
    let mut blob = Vec::with_capacity(text.len() + BLOB_OVERHEAD);
    blob.extend_from_slice(&nonce);
    blob.extend_from_slice(text);
    let mut tag = [0; TAG_LEN];
    let body = blob.get_mut(NONCE_LEN..).ok_or(BlobError::TooLong)?;
    key.seal(nonce, associated, body, &mut tag)
        .map_err(|_| BlobError::TooLong)?;
    blob.extend_from_slice(&tag);
    Ok(blob)
}

/// Opens a blob of [`seal_blob`].
///
/// # Errors
/// [`BlobError`] if the key, the blob or the associated data is not the one of sealing.
pub fn open_blob(key: &Secret, associated: &[u8], blob: &[u8]) -> Result<Secret, BlobError> {
    let key = AnyKey::new(Provider::AwsLc, CIPHER, key.expose()).map_err(|_| BlobError::Key)?;
    let (nonce, rest) = blob.split_first_chunk().ok_or(BlobError::TooShort)?;
    let (body, tag) = rest.split_last_chunk::<TAG_LEN>().ok_or(BlobError::TooShort)?;
    let mut text = body.to_vec();
    key.open(*nonce, associated, &mut text, tag)
        .map_err(|_| BlobError::NotAuthentic)?;
    Ok(Secret::from(text))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
mod tests {
    use super::*;
    use crate::SeededRandom;

    #[test]
    fn opens_under_the_same_key_and_name_alone() {
        let mut random = SeededRandom::from_seed(1);
        let key = Secret::random(&mut random, 32);
        let blob = seal_blob(&key, b"sa/1", b"state", &mut random).unwrap();
        assert_eq!(blob.len(), 5 + BLOB_OVERHEAD);
        assert_eq!(open_blob(&key, b"sa/1", &blob).unwrap().expose(), b"state");
        assert_eq!(open_blob(&key, b"sa/2", &blob), Err(BlobError::NotAuthentic));
        assert_eq!(
            open_blob(&Secret::from([0; 32]), b"sa/1", &blob),
            Err(BlobError::NotAuthentic)
        );
        assert_eq!(
            open_blob(&Secret::from([0; 16]), b"sa/1", &blob),
            Err(BlobError::Key)
        );
        assert_eq!(open_blob(&key, b"sa/1", &blob[..27]), Err(BlobError::TooShort));
        for bit in 0..blob.len() * 8 {
            let mut changed = blob.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(open_blob(&key, b"sa/1", &changed), Err(BlobError::NotAuthentic));
        }
        assert_ne!(blob, seal_blob(&key, b"sa/1", b"state", &mut random).unwrap());
    }
}
