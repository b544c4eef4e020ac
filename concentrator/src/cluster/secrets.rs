//! The cluster's secrets: the key file, the vaults of the slots, and what seals the configuration that all nodes share.
//!
//! ```text
//!  key file ─► cluster keys ─┬─► wrap the data keys of every slot   slot/NNN/keys ─► SlotSealer ─► records
//!                            └─► wrap the root secret               root ─┬─► ConfigSealer ─► config/…
//!                                                                         └─► heartbeats, cookies
//! ```

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use cluster::keys::ROOT;
use cluster::vault::{ClusterKeys, KeyFileError, Root, Vault, VaultError};
use crypto::{Secret, SystemRandom};
use store::{Expect, Store, StoreError, Txn};

use crate::seal::SealError;
use crate::slot::RecordSealer;

/// The largest key file.
const FILE_MAX: u64 = 64 << 10;

/// Why there are no secrets.
#[derive(Debug, thiserror::Error)]
pub enum SecretsError {
    /// The file cannot be read.
    #[error("cluster.key_file {path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Others than its owner can read the keys.
    #[error("cluster.key_file {path} has mode {mode:03o}, it must be 600 or 400")]
    Mode {
        /// Which.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file is no key file.
    #[error("cluster.key_file {path}: {source}")]
    Keys {
        /// Which.
        path: PathBuf,
        /// Why not.
        source: KeyFileError,
    },
    /// The stored keys are of another cluster key, or damaged.
    #[error("{what}: {source}")]
    Vault {
        /// What was opened.
        what: String,
        /// Why not.
        source: VaultError,
    },
    /// The store refuses.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Somebody else owns the slot meanwhile.
    #[error("the slot is another node's")]
    Fenced,
}

/// Reads the key file.
///
/// # Errors
/// It cannot be read, others can read it, or it holds no keys.
pub fn read_keys(path: &Path) -> Result<ClusterKeys, SecretsError> {
    let file_error = |source| SecretsError::File {
        path: path.to_owned(),
        source,
    };
    let metadata = std::fs::metadata(path).map_err(file_error)?;
    let mode = metadata.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(SecretsError::Mode {
            path: path.to_owned(),
            mode,
        });
    }
    if metadata.len() > FILE_MAX {
        return Err(file_error(std::io::Error::other("it is too large")));
    }
    let octets = Secret::from(std::fs::read(path).map_err(file_error)?);
    ClusterKeys::parse(&octets).map_err(|source| SecretsError::Keys {
        path: path.to_owned(),
        source,
    })
}

/// Seals one slot's records.
pub struct SlotSealer {
    vault: RwLock<Vault>,
}

impl SlotSealer {
    /// Over a slot's data keys.
    #[must_use]
    pub fn new(vault: Vault) -> Arc<Self> {
        Arc::new(Self {
            vault: RwLock::new(vault),
        })
    }

    /// Looks at the data keys.
    pub fn with<T>(&self, look: impl FnOnce(&Vault) -> T) -> T {
        look(&self.vault.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes the data keys.
    pub fn change<T>(&self, change: impl FnOnce(&mut Vault) -> T) -> T {
        change(&mut self.vault.write().unwrap_or_else(PoisonError::into_inner))
    }
}

impl RecordSealer for SlotSealer {
    fn seal(&self, name: &str, record: &[u8]) -> Result<Vec<u8>, SealError> {
        self.with(|vault| vault.seal(name, record))
            .map_err(|_| SealError::Seal)
    }

    fn open(&self, name: &str, blob: &[u8]) -> Result<Secret, SealError> {
        self.with(|vault| vault.open(name, blob))
            .map_err(|_| SealError::Open)
    }
}

/// Reads a slot's data keys, or makes them when the slot has none. `fence` is applied to the write.
///
/// # Errors
/// They are of another cluster key, the store refuses, or the slot is another node's.
pub async fn slot_vault(
    store: &dyn Store,
    keys: &ClusterKeys,
    slot: u8,
    fence: &cluster::Fence,
) -> Result<Vault, SecretsError> {
    let name = cluster::keys::data_keys(slot);
    if let Some(entry) = store.get(&name).await? {
        return Vault::unwrap(keys, &entry.value, slot).map_err(|source| damaged(&name, source));
    }
    let vault = Vault::create(slot, &mut SystemRandom);
    let wrapped = vault.wrap(keys).map_err(|source| damaged(&name, source))?;
    let txn = fence
        .apply(Txn::new().when(name.as_str(), Expect::Absent))
        .put(name.as_str(), wrapped);
    if store.txn(txn).await?.committed {
        Ok(vault)
    } else {
        Err(SecretsError::Fenced)
    }
}

fn damaged(what: &str, source: VaultError) -> SecretsError {
    SecretsError::Vault {
        what: what.to_owned(),
        source,
    }
}

/// Reads the cluster's root secret, or makes it when this node is the first.
///
/// # Errors
/// It is of another cluster key, or the store refuses.
pub async fn root(store: &dyn Store, keys: &ClusterKeys) -> Result<Root, SecretsError> {
    loop {
        if let Some(wrapped) = store.get(ROOT).await? {
            return Root::unwrap(keys, &wrapped.value).map_err(|source| damaged(ROOT, source));
        }
        let wrapped = Root::create(&mut SystemRandom)
            .wrap(keys)
            .map_err(|source| damaged(ROOT, source))?;
        // Another node may be as new as this one: then its root is read.
        store
            .txn(Txn::new().when(ROOT, Expect::Absent).put(ROOT, wrapped))
            .await?;
    }
}

/// Writes the root secret again when the store has lost it.
///
/// # Errors
/// The store refuses.
pub async fn keep_root(store: &dyn Store, root: &Root, keys: &ClusterKeys) -> Result<(), SecretsError> {
    let wrapped = root.wrap(keys).map_err(|source| damaged(ROOT, source))?;
    store
        .txn(Txn::new().when(ROOT, Expect::Absent).put(ROOT, wrapped))
        .await?;
    Ok(())
}

/// Seals the configuration that all nodes share.
pub struct ConfigSealer {
    key: Secret,
    digests: Secret,
}

impl ConfigSealer {
    /// Under the cluster's root secret.
    #[must_use]
    pub fn new(root: &Root) -> Self {
        Self {
            key: root.derive("configuration"),
            digests: root.derive("digests"),
        }
    }
}

impl tenants::Sealer for ConfigSealer {
    fn seal(&self, context: &str, plaintext: &[u8]) -> Result<Vec<u8>, tenants::SealError> {
        crypto::seal_blob(&self.key, context.as_bytes(), plaintext, &mut SystemRandom).map_err(|error| {
            tenants::SealError::Seal {
                context: context.to_owned(),
                reason: error.to_string(),
            }
        })
    }

    fn open(&self, context: &str, sealed: &[u8]) -> Result<Secret, tenants::SealError> {
        crypto::open_blob(&self.key, context.as_bytes(), sealed).map_err(|_| tenants::SealError::Open {
            context: context.to_owned(),
        })
    }

    fn digest(&self, context: &str, secret: &[u8]) -> Vec<u8> {
        let length = (context.len() as u64).to_be_bytes();
        let parts: [&[u8]; 3] = [&length, context.as_bytes(), secret];
        crypto::hmac(crypto::HashAlgorithm::Sha256, self.digests.expose(), &parts).unwrap_or_default()
    }
}
