//! What several transactions compare in common: written by one owner of a slot, all of them compare the same fence, which
//! the members then look at once instead of once for each.

use crate::types::{Compare, CompareValue, Txn};

/// What every one of several transactions compares.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Shared {
    pub(super) compares: Vec<Compare>,
    pub(super) values: Vec<CompareValue>,
}

impl Shared {
    /// Nothing for one alone: it would be sent twice for a refusal that is a common answer.
    pub(super) fn of(txns: &[Txn]) -> Self {
        let Some((first, rest)) = txns.split_first().filter(|(_, rest)| !rest.is_empty()) else {
            return Self::default();
        };
        Self {
            compares: first
                .compares
                .iter()
                .filter(|compare| rest.iter().all(|txn| txn.compares.contains(compare)))
                .cloned()
                .collect(),
            values: first
                .values
                .iter()
                .filter(|compare| rest.iter().all(|txn| txn.values.contains(compare)))
                .cloned()
                .collect(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.compares.is_empty() && self.values.is_empty()
    }

    /// What a transaction compares besides.
    pub(super) fn rest_of(&self, txn: &Txn) -> Self {
        let compares = txn
            .compares
            .iter()
            .filter(|own| !self.compares.contains(own))
            .cloned();
        let values = txn
            .values
            .iter()
            .filter(|own| !self.values.contains(own))
            .cloned();
        Self {
            compares: compares.collect(),
            values: values.collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Expect;

    fn fenced(key: &str) -> Txn {
        Txn::new()
            .when(key, Expect::Absent)
            .when("epoch", Expect::Absent)
            .when_value("owner", "a")
            .put(key, "x")
    }

    #[test]
    fn the_fence_is_shared_and_the_rest_is_not() {
        let (first, second) = (fenced("1"), fenced("2"));
        let shared = Shared::of(&[first.clone(), second]);
        assert_eq!(
            Shared::of(&[Txn::new().when("epoch", Expect::Absent).when_value("owner", "a")]),
            Shared::default(),
            "one alone shares nothing"
        );
        assert_eq!((shared.compares.len(), shared.values.len()), (1, 1));
        let own = shared.rest_of(&first);
        assert_eq!((own.compares.len(), own.values.len()), (1, 0));
        assert_eq!(own.compares.first().map(|own| own.key.as_str()), Some("1"));
    }

    #[test]
    fn another_expectation_of_the_same_key_is_not_shared() {
        let later = Txn::new().when_value("owner", "b").put("2", "x");
        assert!(Shared::of(&[fenced("1"), later.clone()]).is_empty());
        assert!(!Shared::default().rest_of(&later).is_empty());
    }
}
