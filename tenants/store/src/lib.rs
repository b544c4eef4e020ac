//! Durable state: one object-safe [`Store`] trait, the [`Embedded`] back end on SQLite, the one of clusters on etcd
//! (cargo feature `etcd`), and the [`contract`] that every back end keeps.
//!
//! Keys are paths of UTF-8 text in octet order, values are octets. Every write gets a revision larger than
//! that of any write acknowledged before; a transaction's writes share one. Watches deliver every write under a prefix
//! in the order of revisions, also past ones as far as they are kept.
//!
//! ```
//! use store::{Durability, Embedded, Expect, Store};
//! # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
//! # runtime.block_on(async {
//! # let directory = tempfile::tempdir().unwrap();
//! let store = Embedded::open(&directory.path().join("config.db"), Durability::Full).unwrap();
//! let revision = store.put_if("config/acme/tenant", b"{}".to_vec(), Expect::Absent).await.unwrap();
//! let refused = store.put_if("config/acme/tenant", b"{}".to_vec(), Expect::Absent).await;
//! assert!(refused.unwrap_err().is_conflict());
//! store.put_if("config/acme/tenant", b"{1}".to_vec(), Expect::Revision(revision)).await.unwrap();
//! # });
//! ```
//!
//! The feature `etcd` is off by default: it builds etcd's protocol with `protoc` (Debian: `protobuf-compiler` and
//! `libprotobuf-dev`), and its tests start members of `etcd-server`.

pub mod contract;
mod embedded;
mod error;
#[cfg(feature = "etcd")]
pub mod etcd;
mod follow;
mod types;

pub use embedded::{Clock, Durability, Embedded};
pub use error::StoreError;
#[cfg(feature = "etcd")]
pub use etcd::Etcd;
pub use follow::{Change, follow};
pub use types::{
    Compare, CompareValue, Entry, Expect, LeaseId, Limits, Op, Revision, Txn, TxnOutcome, WatchEvent,
    WatchStream,
};

use std::time::Duration;

use async_trait::async_trait;

/// Key-value storage with revisions, transactions, watches and leases.
///
/// An acknowledged write is durable to the degree that the back end was opened with. Calls may be made from any
/// task; a call whose future is dropped may still take effect.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// The entry of a key.
    ///
    /// # Errors
    /// When the back end cannot answer.
    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError>;

    /// Entries whose keys begin with `prefix` and lie behind `after`, in key order, at most `limit` (and at most
    /// [`Limits::RANGE`]); with the revision that the answer is true at.
    ///
    /// # Errors
    /// When the back end cannot answer.
    async fn range(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<(Vec<(String, Entry)>, Revision), StoreError>;

    /// Like [`Store::range`] without the values: names and the revisions of their last writes.
    ///
    /// # Errors
    /// When the back end cannot answer.
    async fn keys(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<(Vec<(String, Revision)>, Revision), StoreError> {
        let (entries, revision) = self.range(prefix, after, limit).await?;
        let keys = entries.into_iter().map(|(key, entry)| (key, entry.revision));
        Ok((keys.collect(), revision))
    }

    /// Writes a value if the key is as expected.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when it is not.
    async fn put_if(&self, key: &str, value: Vec<u8>, expect: Expect) -> Result<Revision, StoreError> {
        let txn = Txn::new().when(key, expect).put(key, value);
        self.commit_or_conflict(txn, key).await
    }

    /// Deletes a key if it is as expected. Deleting an absent key with [`Expect::Any`] is no error.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when it is not.
    async fn delete_if(&self, key: &str, expect: Expect) -> Result<Revision, StoreError> {
        let txn = Txn::new().when(key, expect).delete(key);
        self.commit_or_conflict(txn, key).await
    }

    /// Runs a transaction: `then` when every comparison holds, else `otherwise`. All of it happens or nothing.
    ///
    /// # Errors
    /// When the transaction passes a limit, names a lease that is not there, or the back end cannot answer.
    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, StoreError>;

    /// Every write under a prefix with a revision of at least `from`, in order; `None`: from the next write on.
    /// The stream ends with [`StoreError::Lagged`] when its reader is too slow or the back end lost events, and with
    /// [`StoreError::Compacted`]; the reader then lists again, as [`follow`] does. While the back end is out of
    /// reach the stream is silent.
    ///
    /// # Errors
    /// [`StoreError::Compacted`] when revisions from `from` on are no longer kept.
    async fn watch(&self, prefix: &str, from: Option<Revision>) -> Result<WatchStream, StoreError>;

    /// A new lease: keys put with it vanish when it expires or is revoked.
    ///
    /// # Errors
    /// When the back end cannot answer.
    async fn lease_grant(&self, ttl: Duration) -> Result<LeaseId, StoreError>;

    /// Lets a lease live for its whole time again.
    ///
    /// # Errors
    /// [`StoreError::LeaseNotFound`] when it has expired.
    async fn lease_keep_alive(&self, lease: LeaseId) -> Result<(), StoreError>;

    /// Ends a lease and deletes its keys.
    ///
    /// # Errors
    /// [`StoreError::LeaseNotFound`] when it has expired.
    async fn lease_revoke(&self, lease: LeaseId) -> Result<(), StoreError>;

    /// Runs a transaction without an `otherwise` and makes a conflict of a comparison that does not hold.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] naming `key`, and those of [`Store::txn`].
    async fn commit_or_conflict(&self, txn: Txn, key: &str) -> Result<Revision, StoreError> {
        let outcome = self.txn(txn).await?;
        if outcome.committed {
            Ok(outcome.revision)
        } else {
            Err(StoreError::Conflict {
                key: key.to_owned(),
                found: outcome.found,
            })
        }
    }
}
