//! Transactions in etcd's terms, and which of them can go together.
//!
//! etcd refuses a transaction that writes a key twice, and compares everything with the state before the first step.
//! So a branch is first reduced to its net effect, and only transactions that do not touch each other share one.

use std::collections::BTreeMap;

use etcd_client::{Compare, CompareOp, DeleteOptions, GetOptions, PutOptions, TxnOp};

use crate::types::{CompareValue, Expect, LeaseId, Op, Txn};

/// Octets that a step costs besides its key and value.
const STEP_OCTETS: usize = 48;

/// What a transaction touches.
#[derive(Clone, Debug, Default)]
pub(super) struct Footprint {
    reads: Vec<String>,
    writes: Vec<String>,
    prefixes: Vec<String>,
}

impl Footprint {
    pub(super) fn of(txn: &Txn) -> Self {
        let mut footprint = Self {
            reads: txn.compares.iter().map(|compare| compare.key.clone()).collect(),
            ..Self::default()
        };
        footprint
            .reads
            .extend(txn.values.iter().map(|compare| compare.key.clone()));
        for op in txn.then.iter().chain(&txn.otherwise) {
            match op {
                Op::Put { key, .. } | Op::Delete { key } => footprint.writes.push(key.clone()),
                Op::DeletePrefix { prefix } => footprint.prefixes.push(prefix.clone()),
            }
        }
        footprint
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Uses {
    reads: usize,
    writes: usize,
}

/// What several transactions touch.
#[derive(Debug, Default)]
pub(super) struct Footprints {
    keys: BTreeMap<String, Uses>,
    prefixes: Vec<String>,
}

impl Footprints {
    /// Whether the order of this one and those inside matters.
    pub(super) fn conflict(&self, with: &Footprint) -> bool {
        let uses = |key: &String| self.keys.get(key).copied().unwrap_or_default();
        let deleted = |key: &String| {
            self.prefixes
                .iter()
                .any(|prefix| key.starts_with(prefix.as_str()))
        };
        with.writes.iter().any(|key| {
            let uses = uses(key);
            uses.reads + uses.writes > 0 || deleted(key)
        }) || with.reads.iter().any(|key| uses(key).writes > 0 || deleted(key))
            || with.prefixes.iter().any(|prefix| {
                self.keys
                    .range(prefix.clone()..)
                    .next()
                    .is_some_and(|(key, _)| key.starts_with(prefix.as_str()))
                    || self
                        .prefixes
                        .iter()
                        .any(|other| other.starts_with(prefix.as_str()) || prefix.starts_with(other.as_str()))
            })
    }

    pub(super) fn add(&mut self, footprint: &Footprint) {
        for key in &footprint.reads {
            self.keys.entry(key.clone()).or_default().reads += 1;
        }
        for key in &footprint.writes {
            self.keys.entry(key.clone()).or_default().writes += 1;
        }
        self.prefixes.extend(footprint.prefixes.iter().cloned());
    }

    pub(super) fn remove(&mut self, footprint: &Footprint) {
        let mut lower = |key: &String, write: bool| {
            if let Some(uses) = self.keys.get_mut(key) {
                let count = if write { &mut uses.writes } else { &mut uses.reads };
                *count = count.saturating_sub(1);
                if uses.reads + uses.writes == 0 {
                    self.keys.remove(key);
                }
            }
        };
        footprint.reads.iter().for_each(|key| lower(key, false));
        footprint.writes.iter().for_each(|key| lower(key, true));
        for prefix in &footprint.prefixes {
            if let Some(place) = self.prefixes.iter().position(|other| other == prefix) {
                self.prefixes.swap_remove(place);
            }
        }
    }
}

/// A value and the lease it vanishes with.
type Value<'a> = (&'a [u8], Option<LeaseId>);

/// The net effect of a branch: each key at most once, in the order of their last writes, so that a watch tells them in
/// that order.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Effect<'a> {
    points: BTreeMap<&'a str, Option<Value<'a>>>,
    /// The place of each point's step.
    order: BTreeMap<&'a str, usize>,
    /// Begin and end of what is deleted, ends excluded.
    ranges: Vec<(Vec<u8>, Vec<u8>)>,
}

impl<'a> Effect<'a> {
    pub(super) fn of(ops: &'a [Op]) -> Self {
        let (mut points, mut order) = (BTreeMap::new(), BTreeMap::new());
        let mut prefixes = Vec::new();
        for (place, op) in ops.iter().enumerate() {
            match op {
                Op::Put { key, .. } | Op::Delete { key } => drop(order.insert(key.as_str(), place)),
                Op::DeletePrefix { .. } => {}
            }
            match op {
                Op::Put { key, value, lease } => {
                    points.insert(key.as_str(), Some((value.as_slice(), *lease)));
                }
                Op::Delete { key } => {
                    points.insert(key.as_str(), None);
                }
                Op::DeletePrefix { prefix } => {
                    points.retain(|key: &&str, _| !key.starts_with(prefix.as_str()));
                    prefixes.push(prefix.as_str());
                }
            }
        }
        let mut ranges = Vec::new();
        for prefix in prefixes {
            // A deletion under a deleted prefix says nothing more; a later write is left out of it.
            points.retain(|key, value| value.is_some() || !key.starts_with(prefix));
            let mut begin = prefix.as_bytes().to_vec();
            for key in points.keys().filter(|key| key.starts_with(prefix)) {
                let mut behind = key.as_bytes().to_vec();
                if begin.as_slice() < key.as_bytes() {
                    ranges.push((begin, key.as_bytes().to_vec()));
                }
                behind.push(0);
                begin = behind;
            }
            ranges.push((begin, octets_behind(prefix.as_bytes())));
        }
        Self {
            points,
            order,
            ranges,
        }
    }

    pub(super) fn steps(&self) -> usize {
        self.points.len() + self.ranges.len()
    }

    /// The steps, below a root.
    pub(super) fn ops(self, root: &str) -> Vec<TxnOp> {
        let below = |key: &[u8]| [root.as_bytes(), key].concat();
        let mut ops = Vec::with_capacity(self.steps());
        for (begin, end) in self.ranges {
            // Without an end: everything below the root.
            let end = if end.is_empty() {
                octets_behind(root.as_bytes())
            } else {
                below(&end)
            };
            ops.push(TxnOp::delete(
                below(&begin),
                Some(DeleteOptions::new().with_range(end)),
            ));
        }
        let mut points: Vec<_> = self.points.into_iter().collect();
        points.sort_by_key(|(key, _)| self.order.get(key).copied());
        for (key, value) in points {
            let key = below(key.as_bytes());
            ops.push(match value {
                Some((value, lease)) => {
                    let options = lease.map(|lease| PutOptions::new().with_lease(signed(lease.0)));
                    TxnOp::put(key, value, options)
                }
                None => TxnOp::delete(key, None),
            });
        }
        ops
    }
}

/// Where the keys of a prefix end; empty: nowhere. Prefixes are UTF-8, whose octets never are 255.
pub(super) fn octets_behind(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    if let Some(last) = end.last_mut() {
        *last = last.saturating_add(1);
    }
    end
}

/// etcd's numbers are signed; revisions and lease ids of ours stay below 2^63.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Octets of a transaction on the wire, about.
pub(super) fn octets(txn: &Txn) -> usize {
    let compares = txn.compares.iter().map(|compare| 2 * compare.key.len());
    let values = txn
        .values
        .iter()
        .map(|compare| 2 * compare.key.len() + compare.value.len());
    let ops = txn.then.iter().chain(&txn.otherwise).map(|op| match op {
        Op::Put { key, value, .. } => key.len() + value.len(),
        Op::Delete { key } | Op::DeletePrefix { prefix: key } => 2 * key.len(),
    });
    compares
        .chain(values)
        .chain(ops)
        .map(|octets| octets + STEP_OCTETS)
        .sum()
}

/// The steps of the longest of the transaction's lists, which etcd limits; at least one.
pub(super) fn steps(txn: &Txn) -> usize {
    let compares = txn.compares.len() + txn.values.len();
    compares
        .max(Effect::of(&txn.then).steps())
        .max(compares + Effect::of(&txn.otherwise).steps())
        .max(1)
}

/// The steps that a transaction takes if what it compares holds.
pub(super) fn steps_of_then(txn: &Txn) -> usize {
    Effect::of(&txn.then).steps()
}

/// Whether a transaction can write at all.
pub(super) fn writes(txn: &Txn) -> bool {
    !(txn.then.is_empty() && txn.otherwise.is_empty())
}

/// Whether it binds a key to a lease: it then goes alone, since a missing lease fails all that go with it.
pub(super) fn names_lease(txn: &Txn) -> bool {
    txn.then
        .iter()
        .chain(&txn.otherwise)
        .any(|op| matches!(op, Op::Put { lease: Some(_), .. }))
}

/// Comparisons of revisions, then of values.
pub(super) fn compares(
    revisions: &[crate::types::Compare],
    values: &[CompareValue],
    root: &str,
) -> Vec<Compare> {
    let mut compares = Vec::with_capacity(revisions.len() + values.len());
    for compare in revisions {
        let key = format!("{root}{}", compare.key);
        match compare.expect {
            Expect::Any => {}
            // A key that is not there has version 0.
            Expect::Absent => compares.push(Compare::version(key, CompareOp::Equal, 0)),
            Expect::Present => compares.push(Compare::version(key, CompareOp::Greater, 0)),
            // No key has revision 0, but an absent one compares as if.
            Expect::Revision(0) => compares.push(Compare::version(key, CompareOp::Less, 0)),
            Expect::Revision(revision) => {
                compares.push(Compare::mod_revision(key, CompareOp::Equal, signed(revision)));
            }
        }
    }
    for compare in values {
        let key = format!("{root}{}", compare.key);
        compares.push(Compare::value(key, CompareOp::Equal, compare.value.clone()));
    }
    compares
}

/// Reads of everything that was compared, in order: revisions, then values.
pub(super) fn reads(txn: &Txn, root: &str) -> Vec<TxnOp> {
    let keys_only = || Some(GetOptions::new().with_keys_only());
    let revisions = txn
        .compares
        .iter()
        .map(|compare| TxnOp::get(format!("{root}{}", compare.key), keys_only()));
    let values = txn
        .values
        .iter()
        .map(|compare| TxnOp::get(format!("{root}{}", compare.key), None));
    revisions.chain(values).collect()
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        reason = "tests"
    )]

    use proptest::prelude::*;

    use super::*;

    fn put(key: &str, value: &str) -> Op {
        Op::Put {
            key: key.into(),
            value: value.into(),
            lease: None,
        }
    }

    #[test]
    fn the_last_write_of_a_key_counts() {
        let ops = [
            put("a", "1"),
            Op::Delete { key: "b".into() },
            put("a", "2"),
            put("b", "3"),
        ];
        let effect = Effect::of(&ops);
        assert_eq!(effect.steps(), 2);
        assert_eq!(effect.points["a"], Some((b"2".as_slice(), None)));
        assert_eq!(effect.points["b"], Some((b"3".as_slice(), None)));
    }

    #[test]
    fn steps_keep_the_order_of_the_last_writes() {
        let ops = [
            put("z", "1"),
            put("a", "1"),
            Op::Delete { key: "m".into() },
            put("z", "2"),
            put(".fence", ""),
        ];
        let effect = Effect::of(&ops);
        let expected = vec![
            TxnOp::put("r/a", "1", None),
            TxnOp::delete("r/m", None),
            TxnOp::put("r/z", "2", None),
            TxnOp::put("r/.fence", "", None),
        ];
        assert_eq!(format!("{:?}", effect.ops("r/")), format!("{expected:?}"));
    }

    #[test]
    fn a_write_after_a_prefix_deletion_survives_it() {
        let delete = Op::DeletePrefix { prefix: "p/".into() };
        let ops = [put("p/a", "1"), delete, put("p/b", "2")];
        let effect = Effect::of(&ops);
        assert_eq!(
            effect.points.keys().copied().collect::<Vec<_>>(),
            ["p/b"],
            "the earlier write is gone"
        );
        assert_eq!(
            effect.ranges,
            [
                (b"p/".to_vec(), b"p/b".to_vec()),
                (b"p/b\0".to_vec(), b"p0".to_vec())
            ]
        );
    }

    #[derive(Clone, Debug)]
    enum Step {
        Put(String, u8),
        Delete(String),
        Prefix(String),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            4 => ("[ab]{1,3}", any::<u8>()).prop_map(|(key, value)| Step::Put(key, value)),
            2 => "[ab]{1,3}".prop_map(Step::Delete),
            1 => "[ab]{1,2}".prop_map(Step::Prefix),
        ];
        prop::collection::vec(step, 0..12)
    }

    proptest! {
        /// Running the steps one by one, and the net effect in any order, leave the same.
        #[test]
        fn the_net_effect_is_that_of_the_steps(before in prop::collection::btree_map("[ab]{1,3}", any::<u8>(), 0..8), steps in steps()) {
            let mut model = before.clone();
            let ops: Vec<Op> = steps.into_iter().map(|step| match step {
                Step::Put(key, value) => {
                    model.insert(key.clone(), value);
                    Op::Put { key, value: vec![value], lease: None }
                }
                Step::Delete(key) => {
                    model.remove(&key);
                    Op::Delete { key }
                }
                Step::Prefix(prefix) => {
                    model.retain(|key, _| !key.starts_with(&prefix));
                    Op::DeletePrefix { prefix }
                }
            }).collect();
            let effect = Effect::of(&ops);
            let mut found = before;
            for (begin, end) in &effect.ranges {
                for key in effect.points.iter().filter(|(_, value)| value.is_some()).map(|(key, _)| key.as_bytes()) {
                    prop_assert!(key < begin.as_slice() || key >= end.as_slice(), "etcd would refuse it");
                }
                found.retain(|key, _| key.as_bytes() < begin.as_slice() || key.as_bytes() >= end.as_slice());
            }
            for (key, value) in effect.points {
                match value {
                    Some((value, _)) => found.insert(key.to_owned(), value[0]),
                    None => found.remove(key),
                };
            }
            prop_assert_eq!(found, model);
        }
    }

    #[test]
    fn conflicts_are_those_whose_order_matters() {
        let fenced = |key: &str| Txn::new().when("gen", Expect::Revision(7)).put(key, "x");
        let mut all = Footprints::default();
        let first = Footprint::of(&fenced("a"));
        all.add(&first);
        assert!(
            !all.conflict(&Footprint::of(&fenced("b"))),
            "both compare the generation, nobody writes it"
        );
        assert!(all.conflict(&Footprint::of(&fenced("a"))), "both write a");
        assert!(
            all.conflict(&Footprint::of(&Txn::new().put("gen", "8"))),
            "one compares what the other writes"
        );
        assert!(all.conflict(&Footprint::of(
            &Txn::new().when("a", Expect::Absent).put("c", "x")
        )));
        assert!(
            all.conflict(&Footprint::of(&Txn::new().when_value("a", "x").put("c", "x"))),
            "values are comparisons too"
        );
        let prefix = |prefix: &str| {
            Footprint::of(&Txn {
                then: vec![Op::DeletePrefix {
                    prefix: prefix.into(),
                }],
                ..Txn::new()
            })
        };
        assert!(all.conflict(&prefix("ge")) && !all.conflict(&prefix("b")));
        all.add(&prefix("b/"));
        assert!(all.conflict(&Footprint::of(&Txn::new().put("b/1", "x"))) && all.conflict(&prefix("b/1")));
        all.remove(&prefix("b/"));
        all.remove(&first);
        assert!(all.keys.is_empty() && all.prefixes.is_empty());
    }
}
