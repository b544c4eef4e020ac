//! The highest epoch and generations that this node has seen, in a file of its own: a store that is older than they
//! are went back in time.
//!
//! Written beside, synced and renamed, so that a crash never leaves half a file; the file outlives the store.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The file, in the state directory.
const FILE: &str = "cluster-marks.json";

/// What was seen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marks {
    /// The highest epoch.
    pub epoch: u64,
    /// The highest generation of each slot.
    pub generations: BTreeMap<u8, u64>,
}

/// Why the marks cannot be kept. The daemon must not start then.
#[derive(Debug, thiserror::Error)]
#[error("the cluster's marks {path}: {source}")]
pub struct MarksError {
    path: PathBuf,
    source: std::io::Error,
}

impl Marks {
    /// Reads them; none are kept yet when the file is missing.
    ///
    /// # Errors
    /// The file cannot be read or understood.
    pub fn read(state_directory: &Path) -> Result<Self, MarksError> {
        let path = state_directory.join(FILE);
        let octets = match std::fs::read(&path) {
            Ok(octets) => octets,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(source) => return Err(MarksError { path, source }),
        };
        serde_json::from_slice(&octets).map_err(|error| MarksError {
            path,
            source: std::io::Error::new(std::io::ErrorKind::InvalidData, error),
        })
    }

    /// Writes them; they are on the disk when this returns. Waits for it.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, state_directory: &Path) -> Result<(), MarksError> {
        let path = state_directory.join(FILE);
        let written = serde_json::to_vec(self)
            .map_err(std::io::Error::other)
            .and_then(|octets| {
                let beside = path.with_extension("new");
                let mut file = std::fs::File::create(&beside)?;
                file.write_all(&octets)?;
                file.sync_all()?;
                std::fs::rename(&beside, &path)?;
                std::fs::File::open(state_directory)?.sync_all()
            });
        written.map_err(|source| MarksError { path, source })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn marks_are_read_back_and_damage_is_no_fresh_start() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(Marks::read(directory.path()).unwrap(), Marks::default());
        let marks = Marks {
            epoch: 3,
            generations: BTreeMap::from([(0, 7), (127, u64::MAX)]),
        };
        marks.write(directory.path()).unwrap();
        assert_eq!(Marks::read(directory.path()).unwrap(), marks);
        std::fs::write(directory.path().join(FILE), b"{").unwrap();
        assert!(Marks::read(directory.path()).is_err());
    }
}
