//! What several transactions compare in common: written by one owner of a slot, all of them compare the same fence, which
//! the members then look at once instead of once for each. And whether they can be one without parts.

use std::collections::HashSet;

use super::plan;
use crate::types::{Compare, CompareValue, Txn};

/// How several transactions are sent as one of etcd's.
#[derive(Debug)]
pub(super) enum Shape {
    /// All or none, under everything that any of them compares: they mostly hold, and members look at each comparison
    /// and each step once.
    Flat(Shared),
    /// Each a part that holds or does not, under what all of them compare.
    Parts(Shared),
}

impl Shape {
    /// The shape to begin with. `most`: comparisons, and steps, of a transaction.
    pub(super) fn of(txns: &[Txn], most: usize) -> Self {
        // One alone is sent so that a refusal, which is a common answer, says at once what was found.
        let several = txns.len() > 1;
        if several && txns.iter().all(|txn| txn.otherwise.is_empty()) {
            let all = Shared::any_of(txns);
            let steps: usize = txns.iter().map(plan::steps_of_then).sum();
            if steps <= most && all.compares.len() + all.values.len() <= most {
                return Self::Flat(all);
            }
        }
        Self::Parts(Shared::of(txns))
    }

    /// Whether more than the marker is compared before any part.
    pub(super) fn compares(&self) -> bool {
        let (Self::Flat(shared) | Self::Parts(shared)) = self;
        !shared.is_empty()
    }
}

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

    /// What any of them compares, each once.
    fn any_of(txns: &[Txn]) -> Self {
        let (mut compares, mut values) = (HashSet::new(), HashSet::new());
        Self {
            compares: txns
                .iter()
                .flat_map(|txn| &txn.compares)
                .filter(|compare| compares.insert(*compare))
                .cloned()
                .collect(),
            values: txns
                .iter()
                .flat_map(|txn| &txn.values)
                .filter(|compare| values.insert(*compare))
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
    fn what_does_nothing_unless_it_holds_needs_no_parts() {
        let txns = [fenced("1"), fenced("2")];
        let Shape::Flat(all) = Shape::of(&txns, 4) else {
            unreachable!("two writes and four comparisons");
        };
        assert_eq!((all.compares.len(), all.values.len()), (3, 1), "the fence once");
    }

    #[test]
    fn too_many_comparisons_another_branch_or_one_alone_are_parts() {
        let txns = [fenced("1"), fenced("2")];
        let parts = |txns: &[Txn], most| matches!(Shape::of(txns, most), Shape::Parts(_));
        assert!(parts(&txns, 3), "four comparisons");
        assert!(!parts(&txns, 4));
        assert!(parts(&txns[..1], 4));
        let otherwise = Txn {
            otherwise: vec![crate::types::Op::Delete { key: "3".into() }],
            ..fenced("3")
        };
        assert!(parts(&[fenced("1"), otherwise], 9));
        let many = fenced("4").put("5", "x").put("6", "x").put("7", "x");
        assert!(parts(&[fenced("1"), many], 4), "five writes");
    }

    #[test]
    fn another_expectation_of_the_same_key_is_not_shared() {
        let later = Txn::new().when_value("owner", "b").put("2", "x");
        assert!(Shared::of(&[fenced("1"), later.clone()]).is_empty());
        assert!(!Shared::default().rest_of(&later).is_empty());
    }
}
