//! What has to hold in the store for a write of a slot's records: so that only its owner can write them.

use store::{Compare, CompareValue, Txn};

/// What keys must be like. A transaction that carries it happens only if all of it holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fence {
    compares: Vec<Compare>,
    values: Vec<CompareValue>,
}

impl Fence {
    /// One that asks for nothing.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a key and the value that it must have.
    #[must_use]
    pub fn when(mut self, key: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        self.values.push(CompareValue {
            key: key.into(),
            value: value.into(),
        });
        self
    }

    /// The transaction under this fence.
    #[must_use]
    pub fn apply(&self, mut txn: Txn) -> Txn {
        txn.compares.extend(self.compares.iter().cloned());
        txn.values.extend(self.values.iter().cloned());
        txn
    }
}

/// The comparisons of a transaction as a fence.
impl From<Txn> for Fence {
    fn from(txn: Txn) -> Self {
        Self {
            compares: txn.compares,
            values: txn.values,
        }
    }
}
