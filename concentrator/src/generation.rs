//! Every start of the daemon is a new generation, durable before the first packet leaves.
//!
//! The generation is the upper 16 bits of every counter-mode IV, so that a daemon which carries SAs on after a crash
//! can never repeat a nonce, whatever it had sent beyond its last record. It comes from a count of starts that is
//! kept twice: in the configuration store and in a file beside it. When the two disagree the store was put back to an
//! older state (a backup, a cloned disk), and SA records from it must not be carried on.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use store::{Expect, Store, StoreError};
use tokio::sync::Mutex;

use crate::slot::Fence;

/// Where the count lies in the configuration store.
const KEY: &str = "node/starts";
/// The name of the mark in the state directory.
const MARK: &str = "generation.mark";

/// What this start may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// How often the daemon was started with this state directory, this one included.
    pub count: u64,
    /// The upper 16 bits of every counter-mode IV.
    pub generation: u16,
    /// Whether SA records of earlier starts may be carried on.
    pub records: Records,
}

/// Whether SA records of earlier starts may be carried on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Records {
    /// They may.
    Keep,
    /// The 16 bits started again from 0: SAs older than this start could meet a generation they have used.
    DropAfterWrap,
    /// The store is older than the mark beside it.
    DropStoreWentBack,
}

/// Why no generation could be taken. The daemon must not start then.
#[derive(Debug, thiserror::Error)]
pub enum GenerationError {
    /// The store refused.
    #[error("generation: {0}")]
    Store(#[from] StoreError),
    /// The mark could not be read or written.
    #[error("generation mark {path}: {source}")]
    Mark {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// What was made under earlier generations must not be carried on.
    #[error("the generations have started again")]
    Spent,
    /// They are another node's to take.
    #[error("the generations are another node's to take")]
    Lost,
}

/// Takes the next generation; it is durable in both places when this returns.
///
/// # Errors
/// Either place cannot be read or written.
pub async fn start(store: &dyn Store, state_directory: &Path) -> Result<Start, GenerationError> {
    let mark_path = state_directory.join(MARK);
    let marked = read_mark(&mark_path).map_err(|source| GenerationError::Mark {
        path: mark_path.clone(),
        source,
    })?;
    let stored = store.get(KEY).await?.and_then(|entry| parse(&entry.value));
    let next = decide(stored, marked);
    write_mark(&mark_path, next.count).map_err(|source| GenerationError::Mark {
        path: mark_path.clone(),
        source,
    })?;
    store
        .put_if(KEY, next.count.to_string().into_bytes(), Expect::Any)
        .await?;
    Ok(next)
}

/// A generation that was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Raised {
    /// The number.
    pub generation: u64,
    /// What has to hold for a write under it; `None`: as before.
    pub fence: Option<Fence>,
}

/// Takes further generations during a run: for an actor that panicked, whose record may be older than its last message.
#[async_trait]
pub trait Generations: Send + Sync {
    /// The next generation of a slot, durable when this returns.
    ///
    /// # Errors
    /// It cannot be had; what was made before must not be carried on without it.
    async fn next(&self, slot: u8) -> Result<Raised, GenerationError>;
}

/// Those of a single node: the same two places as [`start`].
pub struct NodeGenerations {
    store: Arc<dyn Store>,
    state_directory: PathBuf,
    one_at_a_time: Mutex<()>,
}

impl NodeGenerations {
    /// Over the same two places as [`start`].
    #[must_use]
    pub fn new(store: Arc<dyn Store>, state_directory: &Path) -> Self {
        Self {
            store,
            state_directory: state_directory.to_owned(),
            one_at_a_time: Mutex::new(()),
        }
    }
}

#[async_trait]
impl Generations for NodeGenerations {
    async fn next(&self, _: u8) -> Result<Raised, GenerationError> {
        let _turn = self.one_at_a_time.lock().await;
        let next = start(self.store.as_ref(), &self.state_directory).await?;
        match next.records {
            Records::Keep => Ok(Raised {
                generation: next.count,
                fence: None,
            }),
            Records::DropAfterWrap | Records::DropStoreWentBack => Err(GenerationError::Spent),
        }
    }
}

/// The decision alone, from the two counts.
fn decide(stored: Option<u64>, marked: Option<u64>) -> Start {
    let count = stored.unwrap_or(0).max(marked.unwrap_or(0)).saturating_add(1);
    let [.., high, low] = count.to_be_bytes();
    let generation = u16::from_be_bytes([high, low]);
    let records = if stored.unwrap_or(0) < marked.unwrap_or(0).saturating_sub(1) {
        // A crash between the mark and the store leaves them one apart: that start sent nothing.
        Records::DropStoreWentBack
    } else if generation == 0 {
        Records::DropAfterWrap
    } else {
        Records::Keep
    };
    Start {
        count,
        generation,
        records,
    }
}

fn parse(octets: &[u8]) -> Option<u64> {
    std::str::from_utf8(octets).ok()?.trim().parse().ok()
}

fn read_mark(path: &Path) -> std::io::Result<Option<u64>> {
    match std::fs::read(path) {
        Ok(octets) => parse(&octets)
            .map(Some)
            .ok_or_else(|| std::io::Error::new(std::io::ErrorKind::InvalidData, "not a number")),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn write_mark(path: &Path, count: u64) -> std::io::Result<()> {
    let beside = path.with_extension("new");
    let mut file = std::fs::File::create(&beside)?;
    file.write_all(count.to_string().as_bytes())?;
    file.sync_all()?;
    std::fs::rename(&beside, path)?;
    match path.parent() {
        Some(parent) => std::fs::File::open(parent)?.sync_all(),
        None => Ok(()),
    }
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
    use super::*;

    #[test]
    fn the_first_start_is_generation_1() {
        assert_eq!(
            decide(None, None),
            Start {
                count: 1,
                generation: 1,
                records: Records::Keep
            }
        );
    }

    #[test]
    fn each_start_is_one_more() {
        assert_eq!(
            decide(Some(41), Some(41)),
            Start {
                count: 42,
                generation: 42,
                records: Records::Keep
            }
        );
    }

    #[test]
    fn a_crash_between_mark_and_store_is_no_step_back() {
        assert_eq!(
            decide(Some(41), Some(42)),
            Start {
                count: 43,
                generation: 43,
                records: Records::Keep
            }
        );
    }

    #[test]
    fn a_store_from_a_backup_is_noticed_and_never_reuses_a_generation() {
        assert_eq!(
            decide(Some(30), Some(42)),
            Start {
                count: 43,
                generation: 43,
                records: Records::DropStoreWentBack
            }
        );
        assert_eq!(
            decide(None, Some(42)),
            Start {
                count: 43,
                generation: 43,
                records: Records::DropStoreWentBack
            }
        );
    }

    #[test]
    fn a_lost_mark_is_written_again() {
        assert_eq!(
            decide(Some(42), None),
            Start {
                count: 43,
                generation: 43,
                records: Records::Keep
            }
        );
    }

    #[test]
    fn the_wrap_drops_the_records() {
        let wrapped = decide(Some(0xffff), Some(0xffff));
        assert_eq!(
            wrapped,
            Start {
                count: 0x1_0000,
                generation: 0,
                records: Records::DropAfterWrap
            }
        );
        assert_eq!(decide(Some(0x1_0000), Some(0x1_0000)).generation, 1);
    }

    #[tokio::test]
    async fn generations_grow_over_starts_and_outlive_the_store() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("configuration.db");
        for expected in 1..=3 {
            let store = store::Embedded::open(&path, store::Durability::Full).unwrap();
            assert_eq!(
                start(&store, directory.path()).await.unwrap().generation,
                expected
            );
        }
        std::fs::remove_file(directory.path().join("configuration.db")).unwrap();
        let _ = std::fs::remove_file(directory.path().join("configuration.db-wal"));
        let store = store::Embedded::open(&path, store::Durability::Full).unwrap();
        let after = start(&store, directory.path()).await.unwrap();
        assert_eq!(after.generation, 4);
        assert_eq!(after.records, Records::DropStoreWentBack);
    }
}
