//! Secrets at rest are sealed by the daemon: this crate never stores one in clear.

use crypto::Secret;

/// Seals and opens secrets, with a context that a sealed value is bound to.
///
/// The daemon implements it with AES-256-GCM under its key file; the context is the associated data, so that a
/// value moved to another record does not open.
pub trait Sealer: Send + Sync {
    /// Seals a secret.
    ///
    /// # Errors
    /// When the sealing key is not usable.
    fn seal(&self, context: &str, plaintext: &[u8]) -> Result<Vec<u8>, SealError>;

    /// Opens a sealed secret.
    ///
    /// # Errors
    /// When the value was sealed under another key or context, or was changed.
    fn open(&self, context: &str, sealed: &[u8]) -> Result<Secret, SealError>;

    /// A keyed one-way digest of a secret (any pseudo-random function under a key of this installation), at least
    /// 16 octets. It shows that a secret has changed, and makes decoy keys.
    fn digest(&self, context: &str, secret: &[u8]) -> Vec<u8>;
}

/// A secret could not be sealed or opened. Local trouble: the sealing key or the record is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The value does not open under this key and context.
    #[error("the sealed value of {context} does not open: it was sealed under another key, or changed")]
    Open {
        /// What was to be opened.
        context: String,
    },
    /// The sealing key is not usable.
    #[error("sealing {context} failed: {reason}")]
    Seal {
        /// What was to be sealed.
        context: String,
        /// Why.
        reason: String,
    },
}
