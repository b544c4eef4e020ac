//! Records at rest are sealed: the key file, and a [`Sealer`] that turns a record into a blob and back.
//!
//! The key is 32 octets in a file of mode 0600 that is made at the first start. The name of a record is authenticated
//! with its content, so that records cannot be exchanged behind the daemon's back.

use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crypto::{Random as _, Secret, SystemRandom};

/// Octets of the key.
pub const KEY_LEN: usize = 32;

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The system refused.
    #[error("seal key file {path}: {source}")]
    File {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Not [`KEY_LEN`] octets.
    #[error("seal key file {path} has {length} octets, it must have {KEY_LEN}")]
    Length {
        /// Which file.
        path: PathBuf,
        /// How many octets it has.
        length: usize,
    },
    /// Others than its owner can read the key.
    #[error("seal key file {path} has mode {mode:03o}, it must be 600 or 400")]
    Mode {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A blob that does not open: another key, another name, or damaged.
    #[error("a sealed record does not open (another key, or damaged)")]
    Open,
    /// The key was refused by the cipher.
    #[error("the record could not be sealed")]
    Seal,
}

/// Seals and opens records. Cheap to clone.
#[derive(Clone)]
pub struct Sealer {
    key: Arc<Secret>,
}

impl std::fmt::Debug for Sealer {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Sealer(..)")
    }
}

impl Sealer {
    /// Reads the key, or makes one when the file is missing.
    ///
    /// # Errors
    /// The file cannot be read or made, has another length, or is readable by others.
    pub fn open_or_create(path: &Path) -> Result<Self, SealError> {
        let file_error = |source| SealError::File {
            path: path.to_owned(),
            source,
        };
        let key = match std::fs::File::open(path) {
            Ok(mut file) => {
                let mode = file.metadata().map_err(file_error)?.mode() & 0o777;
                if mode & 0o077 != 0 {
                    return Err(SealError::Mode {
                        path: path.to_owned(),
                        mode,
                    });
                }
                let mut octets = Vec::with_capacity(KEY_LEN + 1);
                std::io::Read::by_ref(&mut file)
                    .take(KEY_LEN as u64 + 1)
                    .read_to_end(&mut octets)
                    .map_err(file_error)?;
                Secret::from(octets)
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => create(path).map_err(file_error)?,
            Err(error) => return Err(file_error(error)),
        };
        if key.expose().len() == KEY_LEN {
            Ok(Self { key: Arc::new(key) })
        } else {
            Err(SealError::Length {
                path: path.to_owned(),
                length: key.expose().len(),
            })
        }
    }

    /// A sealer under a key that is given, for tests and for credentials that come from elsewhere.
    #[must_use]
    pub fn with_key(key: [u8; KEY_LEN]) -> Self {
        Self {
            key: Arc::new(Secret::from(key.as_slice())),
        }
    }

    /// The key itself, for the crates that seal records of their own (credentials).
    #[must_use]
    pub fn key(&self) -> &Secret {
        &self.key
    }

    /// Seals `record` under the name it is stored by.
    ///
    /// # Errors
    /// Only when the cipher refuses.
    pub fn seal(&self, name: &str, record: &[u8]) -> Result<Vec<u8>, SealError> {
        crypto::seal_blob(&self.key, name.as_bytes(), record, &mut SystemRandom).map_err(|_| SealError::Seal)
    }

    /// Opens what [`Sealer::seal`] made under the same name.
    ///
    /// # Errors
    /// Another key, another name, or damaged.
    pub fn open(&self, name: &str, blob: &[u8]) -> Result<Secret, SealError> {
        crypto::open_blob(&self.key, name.as_bytes(), blob).map_err(|_| SealError::Open)
    }
}

impl tenants::Sealer for Sealer {
    fn seal(&self, context: &str, plaintext: &[u8]) -> Result<Vec<u8>, tenants::SealError> {
        Self::seal(self, context, plaintext).map_err(|error| tenants::SealError::Seal {
            context: context.to_owned(),
            reason: error.to_string(),
        })
    }

    fn open(&self, context: &str, sealed: &[u8]) -> Result<Secret, tenants::SealError> {
        Self::open(self, context, sealed).map_err(|_| tenants::SealError::Open {
            context: context.to_owned(),
        })
    }

    fn digest(&self, context: &str, secret: &[u8]) -> Vec<u8> {
        // The label keeps digests apart from everything else that is made with the key.
        let label = b"concentrator digest";
        let length = (context.len() as u64).to_be_bytes();
        let parts: [&[u8]; 4] = [label, &length, context.as_bytes(), secret];
        crypto::hmac(crypto::HashAlgorithm::Sha256, self.key.expose(), &parts).unwrap_or_default()
    }
}

/// Makes the key file: written beside, synced and renamed, so that a crash never leaves half a key.
fn create(path: &Path) -> std::io::Result<Secret> {
    let mut octets = vec![0; KEY_LEN];
    SystemRandom.fill(&mut octets);
    let key = Secret::from(octets);
    let beside = path.with_extension("new");
    match std::fs::remove_file(&beside) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&beside)?;
    file.write_all(key.expose())?;
    file.sync_all()?;
    std::fs::rename(&beside, path)?;
    if let Some(parent) = path.parent() {
        std::fs::File::open(parent)?.sync_all()?;
    }
    Ok(key)
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_key_is_made_once_with_mode_0600_and_read_again() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("seal.key");
        let first = Sealer::open_or_create(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let blob = first.seal("sa/1", b"record").unwrap();
        let second = Sealer::open_or_create(&path).unwrap();
        assert_eq!(second.open("sa/1", &blob).unwrap().expose(), b"record");
        assert!(second.open("sa/2", &blob).is_err(), "the name is authenticated");
    }

    #[test]
    fn sealed_records_do_not_show_their_content_and_never_repeat() {
        let sealer = Sealer::with_key([7; KEY_LEN]);
        let one = sealer.seal("n", b"sixteen octets!!").unwrap();
        let two = sealer.seal("n", b"sixteen octets!!").unwrap();
        assert_ne!(one, two);
        assert!(!one.windows(7).any(|window| window == b"sixteen"));
        let mut damaged = one.clone();
        *damaged.last_mut().unwrap() ^= 1;
        assert!(sealer.open("n", &damaged).is_err());
        assert!(Sealer::with_key([8; KEY_LEN]).open("n", &one).is_err());
    }

    #[test]
    fn a_key_that_others_can_read_or_of_another_length_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("seal.key");
        std::fs::write(&path, [0; KEY_LEN]).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(
            Sealer::open_or_create(&path),
            Err(SealError::Mode { mode: 0o644, .. })
        ));
        std::fs::write(&path, [0; 5]).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert!(matches!(
            Sealer::open_or_create(&path),
            Err(SealError::Length { length: 5, .. })
        ));
    }

    #[test]
    fn debug_shows_nothing() {
        assert_eq!(format!("{:?}", Sealer::with_key([1; KEY_LEN])), "Sealer(..)");
    }
}
