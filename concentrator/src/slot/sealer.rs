//! Who seals a slot's records: the key file of a single node, or the slot's data key in a cluster.

use crypto::Secret;

use crate::seal::{SealError, Sealer};

/// Seals records under their names.
pub trait RecordSealer: Send + Sync {
    /// Seals `record` under the name it is stored by.
    ///
    /// # Errors
    /// Only when the cipher refuses.
    fn seal(&self, name: &str, record: &[u8]) -> Result<Vec<u8>, SealError>;

    /// Opens what was sealed under the same name.
    ///
    /// # Errors
    /// Another key, another name, or damaged.
    fn open(&self, name: &str, blob: &[u8]) -> Result<Secret, SealError>;
}

impl RecordSealer for Sealer {
    fn seal(&self, name: &str, record: &[u8]) -> Result<Vec<u8>, SealError> {
        Self::seal(self, name, record)
    }

    fn open(&self, name: &str, blob: &[u8]) -> Result<Secret, SealError> {
        Self::open(self, name, blob)
    }
}
