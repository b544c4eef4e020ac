//! Records in the store are sealed: whoever sees the store, its backups or its watchers sees no keys.
//!
//! ```text
//!   key file ──► ClusterKeys ──wrap──► Root (one a cluster: heartbeats, cookies, configuration)      `root`
//!                     └────────wrap──► Vault (data keys of a slot) ──seal──► records                `slot/NNN/keys`
//! ```
//! A record is `version (1) ‖ data key (4) ‖ salt (16) ‖ nonce (12) ‖ ciphertext ‖ tag (16)`: AES-256-GCM under a key made
//! from the data key and the salt, with the record's name and slot authenticated. Every holder of a vault draws its own
//! salts, so that random nonces of any number of owners, over any time, do not meet.

mod cluster_keys;
mod root;

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use crypto::{BLOB_OVERHEAD, Random, Secret, SystemRandom, open_blob, seal_blob};

pub use cluster_keys::{ClusterKeyId, ClusterKeys, KeyFileError, MAX_CLUSTER_KEYS};
pub use root::Root;

/// Version of sealed records.
const VERSION: u8 = 1;
/// Octets of a key.
const KEY: usize = 32;
const SALT: usize = 16;
/// Octets before the nonce.
const HEAD: usize = 1 + 4 + SALT;
/// Octets that a sealed record is longer than its text.
pub const RECORD_OVERHEAD: usize = HEAD + BLOB_OVERHEAD;
/// Records of one salt: random nonces are good for 2^32 (NIST SP 800-38D).
const SEALS: u32 = 1 << 31;
/// Data keys of a slot: one is in use, the others are being retired.
pub const MAX_DATA_KEYS: usize = 8;
/// Derived keys that are remembered for opening.
const REMEMBERED: usize = 16;

/// Why something was not sealed or opened.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VaultError {
    /// Shorter than anything that was sealed.
    #[error("a sealed record is too short")]
    TooShort,
    /// Written by another version of the program.
    #[error("a sealed record has version {0}, which is not known here")]
    Version(u8),
    /// Sealed with a data key that this vault does not have.
    #[error("a record is sealed with data key {0}, which is not there any more")]
    UnknownDataKey(u32),
    /// Wrapped by a cluster key that is not in the key file.
    #[error("keys are wrapped by the cluster key {0}, which is not in this node's key file")]
    UnknownClusterKey(ClusterKeyId),
    /// Another key, another name, another slot, or changed.
    #[error("a sealed record does not open: another key, another name, or damaged")]
    NotAuthentic,
    /// What was opened is not what it should be.
    #[error("wrapped keys make no sense")]
    Malformed,
    /// The cipher refused.
    #[error("a record could not be sealed")]
    Seal,
    /// Rotated more often than retired.
    #[error("the slot has {MAX_DATA_KEYS} data keys already: retire the old ones first")]
    TooManyKeys,
}

/// A data key and what is being sealed with it.
struct DataKey {
    id: u32,
    key: Secret,
}

/// The present salt with its key.
struct Salted {
    id: u32,
    salt: [u8; SALT],
    key: Secret,
    left: u32,
}

/// Derived keys, the newest first, and the one that seals.
#[derive(Default)]
struct Derived {
    sealing: Option<Salted>,
    opening: VecDeque<(u32, [u8; SALT], Secret)>,
}

/// The data keys of a slot. Seals and opens its records.
pub struct Vault {
    slot: u8,
    /// The newest first; never empty.
    keys: Vec<DataKey>,
    derived: Mutex<Derived>,
}

impl std::fmt::Debug for Vault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ids: Vec<u32> = self.keys.iter().map(|key| key.id).collect();
        f.debug_struct("Vault")
            .field("slot", &self.slot)
            .field("keys", &ids)
            .finish_non_exhaustive()
    }
}

impl Vault {
    /// A vault with one new data key. Write what [`Vault::wrap`] gives before anything that it sealed.
    pub fn create(slot: u8, random: &mut dyn Random) -> Self {
        Self::of(
            slot,
            vec![DataKey {
                id: 1,
                key: Secret::random(random, KEY),
            }],
        )
    }

    fn of(slot: u8, keys: Vec<DataKey>) -> Self {
        Self {
            slot,
            keys,
            derived: Mutex::default(),
        }
    }

    /// The data keys, wrapped by the newest cluster key: what stands under `slot/NNN/keys`.
    ///
    /// # Errors
    /// [`VaultError::Seal`].
    pub fn wrap(&self, keys: &ClusterKeys) -> Result<Vec<u8>, VaultError> {
        let mut plain = Vec::with_capacity(1 + self.keys.len() * (4 + KEY));
        plain.push(self.slot);
        for key in &self.keys {
            plain.extend_from_slice(&key.id.to_be_bytes());
            plain.extend_from_slice(key.key.expose());
        }
        keys.wrap(&context(self.slot), Secret::from(plain))
    }

    /// Reads wrapped data keys of a slot.
    ///
    /// # Errors
    /// [`VaultError::UnknownClusterKey`], or those of damaged and foreign blobs.
    pub fn unwrap(keys: &ClusterKeys, wrapped: &[u8], slot: u8) -> Result<Self, VaultError> {
        let plain = keys.unwrap(&context(slot), wrapped)?;
        let (found, rest) = plain.expose().split_first().ok_or(VaultError::Malformed)?;
        let (entries, remainder) = rest.as_chunks::<{ 4 + KEY }>();
        let known = (1..=MAX_DATA_KEYS).contains(&entries.len());
        if *found != slot || !remainder.is_empty() || !known {
            return Err(VaultError::Malformed);
        }
        let data_key = |entry: &[u8; 4 + KEY]| {
            let (id, key) = entry.split_first_chunk::<4>()?;
            Some(DataKey {
                id: u32::from_be_bytes(*id),
                key: Secret::from(key.to_vec()),
            })
        };
        let keys: Option<Vec<DataKey>> = entries.iter().map(data_key).collect();
        let keys = keys.ok_or(VaultError::Malformed)?;
        // The newest has the highest number.
        if !keys.is_sorted_by(|a, b| a.id > b.id) {
            return Err(VaultError::Malformed);
        }
        Ok(Self::of(slot, keys))
    }

    /// The slot.
    pub fn slot(&self) -> u8 {
        self.slot
    }

    /// The number of the data key that seals.
    pub fn newest(&self) -> u32 {
        self.keys.first().map_or(0, |key| key.id)
    }

    /// The number of the data key that a record is sealed with.
    pub fn key_of(blob: &[u8]) -> Option<u32> {
        let (version, rest) = blob.split_first()?;
        let (id, _) = rest.split_first_chunk::<4>()?;
        (*version == VERSION && blob.len() >= RECORD_OVERHEAD).then(|| u32::from_be_bytes(*id))
    }

    /// Seals a record under its name: the whole path of its key, which for an SA record has its generation of birth.
    ///
    /// # Errors
    /// [`VaultError::Seal`] when the record is too long for the cipher.
    pub fn seal(&self, name: &str, record: &[u8]) -> Result<Vec<u8>, VaultError> {
        let mut derived = self.derived.lock().unwrap_or_else(PoisonError::into_inner);
        let newest = self.keys.first().ok_or(VaultError::Seal)?;
        let usable = |salted: &Salted| salted.id == newest.id && salted.left > 0;
        if !derived.sealing.as_ref().is_some_and(usable) {
            let mut salt = [0; SALT];
            SystemRandom.fill(&mut salt);
            derived.sealing = Some(Salted {
                id: newest.id,
                salt,
                key: derive(&newest.key, &salt),
                left: SEALS,
            });
        }
        let salted = derived.sealing.as_mut().ok_or(VaultError::Seal)?;
        salted.left -= 1;
        let mut blob = Vec::with_capacity(RECORD_OVERHEAD + record.len());
        blob.push(VERSION);
        blob.extend_from_slice(&salted.id.to_be_bytes());
        blob.extend_from_slice(&salted.salt);
        let associated = self.associated(&blob, name);
        let key = salted.key.clone();
        drop(derived);
        let sealed = seal_blob(&key, &associated, record, &mut SystemRandom).map_err(|_| VaultError::Seal)?;
        blob.extend_from_slice(&sealed);
        Ok(blob)
    }

    /// Opens a record of the same name.
    ///
    /// # Errors
    /// Why it is not opened.
    pub fn open(&self, name: &str, blob: &[u8]) -> Result<Secret, VaultError> {
        let (head, sealed) = blob.split_at_checked(HEAD).ok_or(VaultError::TooShort)?;
        let (version, rest) = head.split_first().ok_or(VaultError::TooShort)?;
        if *version != VERSION {
            return Err(VaultError::Version(*version));
        }
        let (id, salt) = rest.split_first_chunk::<4>().ok_or(VaultError::TooShort)?;
        let salt = <[u8; SALT]>::try_from(salt).map_err(|_| VaultError::TooShort)?;
        let key = self.opening(u32::from_be_bytes(*id), salt)?;
        open_blob(&key, &self.associated(head, name), sealed).map_err(|error| match error {
            crypto::BlobError::TooShort => VaultError::TooShort,
            crypto::BlobError::Key | crypto::BlobError::NotAuthentic | crypto::BlobError::TooLong => {
                VaultError::NotAuthentic
            }
        })
    }

    /// The derived key of a record, remembered: records of one owner have one salt.
    fn opening(&self, id: u32, salt: [u8; SALT]) -> Result<Secret, VaultError> {
        let data_key = self.keys.iter().find(|key| key.id == id);
        let data_key = data_key.ok_or(VaultError::UnknownDataKey(id))?;
        let mut derived = self.derived.lock().unwrap_or_else(PoisonError::into_inner);
        let known = derived
            .opening
            .iter()
            .find(|(of, with, _)| (*of, *with) == (id, salt));
        if let Some((_, _, key)) = known {
            return Ok(key.clone());
        }
        let key = derive(&data_key.key, &salt);
        derived.opening.truncate(REMEMBERED - 1);
        derived.opening.push_front((id, salt, key.clone()));
        Ok(key)
    }

    /// What is authenticated with a record beside its text.
    fn associated(&self, head: &[u8], name: &str) -> Vec<u8> {
        [b"record\0".as_slice(), &[self.slot], head, name.as_bytes()].concat()
    }

    /// Makes a new data key that seals from here on; what was sealed before stays readable. Returns its number.
    /// Write what [`Vault::wrap`] gives before anything that it seals.
    ///
    /// # Errors
    /// [`VaultError::TooManyKeys`] when there are [`MAX_DATA_KEYS`].
    pub fn rotate(&mut self, random: &mut dyn Random) -> Result<u32, VaultError> {
        if self.keys.len() >= MAX_DATA_KEYS {
            return Err(VaultError::TooManyKeys);
        }
        let id = self.newest().checked_add(1).ok_or(VaultError::TooManyKeys)?;
        let key = Secret::random(random, KEY);
        self.keys.insert(0, DataKey { id, key });
        Ok(id)
    }

    /// Forgets all data keys but the newest: to be called once every record is sealed with that. Returns how many.
    pub fn retire_old(&mut self) -> usize {
        let retired = self.keys.len().saturating_sub(1);
        self.keys.truncate(1);
        let newest = self.newest();
        let derived = self.derived.get_mut().unwrap_or_else(PoisonError::into_inner);
        derived.opening.retain(|(id, _, _)| *id == newest);
        retired
    }
}

/// The context of a slot's wrapped keys.
fn context(slot: u8) -> Vec<u8> {
    [b"data keys\0".as_slice(), &[slot]].concat()
}

/// The key of a salt.
fn derive(data_key: &Secret, salt: &[u8; SALT]) -> Secret {
    crypto::Prf::HmacSha256.compute(data_key.expose(), &[b"records\0", salt])
}

#[cfg(test)]
mod tests;
