//! Why a store could not do something, and whether trying again can help.

use crate::types::{LeaseId, Revision};

/// Why a store could not do something.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// A key is not as expected: somebody else has written it.
    #[error("{key} is not as expected (found revision {found:?})")]
    Conflict {
        /// The key.
        key: String,
        /// Its revision; `None` when it is absent.
        found: Option<Revision>,
    },
    /// Revisions that were asked for are no longer kept: list again, then watch from the list's revision.
    #[error("revisions before {oldest} are no longer kept")]
    Compacted {
        /// The oldest that is kept.
        oldest: Revision,
    },
    /// The reader of a watch was too slow: list again, then watch from the list's revision.
    #[error("the watch fell {missed} events behind")]
    Lagged {
        /// Events that were lost.
        missed: u64,
    },
    /// The lease has expired or never was.
    #[error("lease {0:?} does not exist")]
    LeaseNotFound(LeaseId),
    /// A key, value, transaction or queue passes its limit.
    #[error("{what} is {size}, the limit is {limit}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// How large it is.
        size: usize,
        /// How large it may be.
        limit: usize,
    },
    /// The database file is damaged or not ours.
    #[error(
        "the database {path} is damaged or not of this program: {reason}; restore it from a backup or remove it to begin anew"
    )]
    Corrupt {
        /// The file.
        path: String,
        /// What SQLite says.
        reason: String,
    },
    /// The disk is full, or the file cannot be written.
    #[error("the database cannot be written: {reason}")]
    Io {
        /// What the system says.
        reason: String,
    },
    /// The cluster's quota is used up and its alarm is raised: an operator has to compact, defragment and disarm.
    #[error("the store is full: {reason}")]
    NoSpace {
        /// What it says.
        reason: String,
    },
    /// Not allowed, or not understood: a wrong password, a missing permission, a certificate.
    #[error("the store refuses: {reason}")]
    Refused {
        /// What it says.
        reason: String,
    },
    /// A write may have happened or not, and will not happen from now on: read before writing again.
    #[error("it is not known whether the write happened: {reason}")]
    Indeterminate {
        /// Why.
        reason: String,
    },
    /// The store is older than what it has said before, or another one: restored from a backup, or wiped.
    #[error("the store is not what it was: {reason}")]
    WentBack {
        /// What does not fit.
        reason: String,
    },
    /// Busy, stopping or out of reach; a write did not happen.
    #[error("the store is not available: {reason}")]
    Unavailable {
        /// Why.
        reason: String,
    },
}

impl StoreError {
    /// Whether the same call can succeed later without anybody doing something first.
    pub fn is_retryable(&self) -> bool {
        match self {
            StoreError::Unavailable { .. } | StoreError::Io { .. } => true,
            StoreError::Conflict { .. }
            | StoreError::Compacted { .. }
            | StoreError::Lagged { .. }
            | StoreError::LeaseNotFound(_)
            | StoreError::TooLarge { .. }
            | StoreError::Corrupt { .. }
            | StoreError::NoSpace { .. }
            | StoreError::Refused { .. }
            | StoreError::Indeterminate { .. }
            | StoreError::WentBack { .. } => false,
        }
    }

    /// Whether a watch that ended so goes on after listing again.
    pub fn wants_list(&self) -> bool {
        matches!(self, StoreError::Compacted { .. } | StoreError::Lagged { .. })
    }

    /// Whether a key was not as expected.
    pub fn is_conflict(&self) -> bool {
        matches!(self, StoreError::Conflict { .. })
    }
}
