//! Words of the store: revisions, expectations, transactions, events, limits.

use futures::stream::BoxStream;

use crate::error::StoreError;

/// The number of a write: rises by one with every transaction that writes, and never goes back.
pub type Revision = u64;

/// The number of a lease; never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LeaseId(pub u64);

/// A value and the revision that wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The value.
    pub value: Vec<u8>,
    /// The revision of its last write.
    pub revision: Revision,
}

/// What a key has to be like for a write to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Expect {
    /// Anything.
    Any,
    /// Not there.
    Absent,
    /// There, whatever its revision.
    Present,
    /// Last written by this revision.
    Revision(Revision),
}

impl Expect {
    /// Whether a key with this revision (`None`: absent) is as expected.
    pub fn holds(self, found: Option<Revision>) -> bool {
        match self {
            Expect::Any => true,
            Expect::Absent => found.is_none(),
            Expect::Present => found.is_some(),
            Expect::Revision(revision) => found == Some(revision),
        }
    }
}

/// One comparison of a transaction.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Compare {
    /// The key.
    pub key: String,
    /// What it has to be like.
    pub expect: Expect,
}

/// One comparison of a value, for callers that know what a key has to say but not which write said it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CompareValue {
    /// The key.
    pub key: String,
    /// What its value has to be; an absent key has none.
    pub value: Vec<u8>,
}

/// One step of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Writes a value, bound to a lease when one is given.
    Put {
        /// The key.
        key: String,
        /// The value.
        value: Vec<u8>,
        /// The lease it vanishes with.
        lease: Option<LeaseId>,
    },
    /// Deletes a key; nothing happens when it is absent.
    Delete {
        /// The key.
        key: String,
    },
    /// Deletes every key under a prefix.
    DeletePrefix {
        /// The prefix; not empty.
        prefix: String,
    },
}

/// A transaction: comparisons, what happens when all hold, and what happens otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Txn {
    /// All have to hold.
    pub compares: Vec<Compare>,
    /// All have to hold, too.
    pub values: Vec<CompareValue>,
    /// When they do.
    pub then: Vec<Op>,
    /// When one does not.
    pub otherwise: Vec<Op>,
}

impl Txn {
    /// An empty transaction.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a comparison.
    #[must_use]
    pub fn when(mut self, key: impl Into<String>, expect: Expect) -> Self {
        self.compares.push(Compare {
            key: key.into(),
            expect,
        });
        self
    }

    /// Adds a comparison with a value: a slot's generation, the name of its owner.
    #[must_use]
    pub fn when_value(mut self, key: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        self.values.push(CompareValue {
            key: key.into(),
            value: value.into(),
        });
        self
    }

    /// Adds a write to `then`.
    #[must_use]
    pub fn put(mut self, key: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        self.then.push(Op::Put {
            key: key.into(),
            value: value.into(),
            lease: None,
        });
        self
    }

    /// Adds a write that vanishes with a lease to `then`.
    #[must_use]
    pub fn put_with_lease(
        mut self,
        key: impl Into<String>,
        value: impl Into<Vec<u8>>,
        lease: LeaseId,
    ) -> Self {
        self.then.push(Op::Put {
            key: key.into(),
            value: value.into(),
            lease: Some(lease),
        });
        self
    }

    /// Adds a deletion to `then`.
    #[must_use]
    pub fn delete(mut self, key: impl Into<String>) -> Self {
        self.then.push(Op::Delete { key: key.into() });
        self
    }

    /// Adds a step to `otherwise`.
    #[must_use]
    pub fn or_else(mut self, op: Op) -> Self {
        self.otherwise.push(op);
        self
    }

    /// Checks the limits.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`] naming what passes its limit.
    pub fn check(&self) -> Result<(), StoreError> {
        let limit = |what, size, limit| {
            if size > limit {
                Err(StoreError::TooLarge { what, size, limit })
            } else {
                Ok(())
            }
        };
        limit(
            "transaction",
            self.compares.len() + self.values.len() + self.then.len() + self.otherwise.len(),
            Limits::TXN_STEPS,
        )?;
        for compare in &self.compares {
            limit("key", compare.key.len(), Limits::KEY)?;
        }
        for compare in &self.values {
            limit("key", compare.key.len(), Limits::KEY)?;
            limit("value", compare.value.len(), Limits::VALUE)?;
        }
        for op in self.then.iter().chain(&self.otherwise) {
            match op {
                Op::Put { key, value, .. } => {
                    limit("key", key.len(), Limits::KEY)?;
                    limit("value", value.len(), Limits::VALUE)?;
                }
                Op::Delete { key } | Op::DeletePrefix { prefix: key } => {
                    limit("key", key.len(), Limits::KEY)?
                }
            }
        }
        Ok(())
    }
}

/// What came of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TxnOutcome {
    /// Whether every comparison held, so that `then` happened.
    pub committed: bool,
    /// The revision of its writes; the store's present one when it wrote nothing.
    pub revision: Revision,
    /// When a comparison did not hold: the revision found at the first such key, values last.
    pub found: Option<Revision>,
}

/// One write, as a watch sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchEvent {
    /// The revision of the write.
    pub revision: Revision,
    /// The key.
    pub key: String,
    /// The new value; `None`: deleted.
    pub value: Option<Vec<u8>>,
}

/// Events in order of their revisions; ends after an error.
pub type WatchStream = BoxStream<'static, Result<WatchEvent, StoreError>>;

/// The limits of every back end.
pub struct Limits;

impl Limits {
    /// Octets of a key.
    pub const KEY: usize = 1_024;
    /// Octets of a value.
    pub const VALUE: usize = 1 << 20;
    /// Comparisons and steps of a transaction. A cluster's servers may allow fewer.
    pub const TXN_STEPS: usize = 4_096;
    /// Entries of one range answer.
    pub const RANGE: usize = 10_000;
    /// Events that a watch may fall behind; older ones of the back end may be compacted.
    pub const WATCH_BACKLOG: usize = 16_384;
    /// Requests that wait for the writer.
    pub const QUEUE: usize = 8_192;
    /// Requests that are committed together.
    pub const GROUP: usize = 64;
}

/// End of the keys that begin with a prefix: the smallest text above all of them; `None` when there is none.
pub(crate) fn prefix_end(prefix: &str) -> Option<String> {
    let mut characters: Vec<char> = prefix.chars().collect();
    while let Some(last) = characters.pop() {
        let next = match u32::from(last) {
            0xD7FF => Some('\u{E000}'),
            code => char::from_u32(code + 1),
        };
        if let Some(next) = next {
            characters.push(next);
            return Some(characters.into_iter().collect());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

    use super::*;

    #[test]
    fn prefix_ends_lie_above_all_keys_of_the_prefix() {
        assert_eq!(prefix_end("a/"), Some("a0".into()));
        assert_eq!(prefix_end(""), None);
        assert_eq!(prefix_end("a\u{10FFFF}"), Some("b".into()));
        assert_eq!(prefix_end("\u{D7FF}"), Some("\u{E000}".into()));
    }

    #[test]
    fn limits_are_named() {
        let error = Txn::new()
            .put("k", vec![0; Limits::VALUE + 1])
            .check()
            .unwrap_err();
        assert!(error.to_string().contains("value is 1048577"), "{error}");
        assert!(!error.is_retryable());
    }
}
