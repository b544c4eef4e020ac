//! The cluster's root secret: drawn once, wrapped by the cluster key in the store, the same for every node for ever.

use crypto::{Random, Secret};

use super::{ClusterKeys, KEY, VaultError};

const CONTEXT: &[u8] = b"root\0";

/// What every node derives the common secrets from: of heartbeats, cookies, tickets, of the configuration's sealing.
/// Replacing the cluster key only wraps it anew, so that nothing that is derived changes with that.
#[derive(Clone)]
pub struct Root(pub(super) Secret);

impl std::fmt::Debug for Root {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Root(..)")
    }
}

impl Root {
    /// A new one. Write it under [`crate::keys::ROOT`] on the condition that there is none, and read the other one when
    /// that is refused.
    pub fn create(random: &mut dyn Random) -> Self {
        Self(Secret::random(random, KEY))
    }

    /// As it stands in the store, wrapped by the newest cluster key.
    ///
    /// # Errors
    /// [`VaultError::Seal`].
    pub fn wrap(&self, keys: &ClusterKeys) -> Result<Vec<u8>, VaultError> {
        keys.wrap(CONTEXT, self.0.clone())
    }

    /// Reads it.
    ///
    /// # Errors
    /// [`VaultError::UnknownClusterKey`], or those of damaged and foreign blobs.
    pub fn unwrap(keys: &ClusterKeys, wrapped: &[u8]) -> Result<Self, VaultError> {
        let root = keys.unwrap(CONTEXT, wrapped)?;
        if root.len() == KEY {
            Ok(Self(root))
        } else {
            Err(VaultError::Malformed)
        }
    }

    /// The secret of a purpose, 32 octets; different labels give independent secrets.
    pub fn derive(&self, label: &str) -> Secret {
        crypto::Prf::HmacSha256.compute(self.0.expose(), &[b"derived\0", label.as_bytes()])
    }
}
