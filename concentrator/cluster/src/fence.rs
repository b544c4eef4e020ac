//! What every write of a slot's records compares.

use store::Txn;

use crate::keys;

/// The right to write a slot's records: holds as long as epoch, generation and owner in the store are these.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fence {
    /// The slot.
    pub slot: u8,
    /// Its generation.
    pub generation: u64,
    /// The epoch.
    pub epoch: u64,
    /// The value of its owner key.
    pub owner: String,
}

impl Fence {
    /// Adds the comparisons to a transaction.
    #[must_use]
    pub fn apply(&self, txn: Txn) -> Txn {
        when_epoch(txn, self.epoch)
            .when_value(keys::generation(self.slot), decimal(self.generation))
            .when_value(keys::owner(self.slot), self.owner.as_bytes())
    }
}

/// Compares the epoch; epoch 0 is the absent key.
pub(crate) fn when_epoch(txn: Txn, epoch: u64) -> Txn {
    when_number(txn, keys::EPOCH.to_owned(), epoch)
}

/// Compares a number that is absent while it is 0.
pub(crate) fn when_number(txn: Txn, key: String, number: u64) -> Txn {
    match number {
        0 => txn.when(key, store::Expect::Absent),
        _ => txn.when_value(key, decimal(number)),
    }
}

/// A number as it stands in the store.
pub(crate) fn decimal(number: u64) -> Vec<u8> {
    number.to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_three_are_compared() {
        let fence = Fence {
            slot: 3,
            generation: 7,
            epoch: 0,
            owner: "a#0000000000000001".into(),
        };
        let txn = fence.apply(Txn::new());
        assert_eq!((txn.compares.len(), txn.values.len()), (1, 2));
        let later = Fence { epoch: 2, ..fence };
        assert_eq!(later.apply(Txn::new()).values.len(), 3);
    }
}
