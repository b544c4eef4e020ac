//! What is written to the store, counted by kind: what a login, a rekey or an idle hour costs stands in these numbers.
//!
//! A transaction is of the kind of its most urgent record, or of its first key. The back end of a cluster puts several
//! transactions into one of etcd's, which `vpn.cluster.etcd.commits` counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use opentelemetry::KeyValue;
use opentelemetry::metrics::Meter;
use store::{Entry, LeaseId, Op, Revision, Store, StoreError, Txn, TxnOutcome, WatchStream};

use crate::records::{Change, Group, Priority};
use crate::sa_record::{CEILING_PREFIX, CHECKPOINT_PREFIX, SA_PREFIX};

/// What a write is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Kind {
    /// The record of a new session.
    Login,
    /// The record of a live session for which an answer waits: rekeys, moves.
    Rekey,
    /// The end of a session or of a child SA.
    Delete,
    /// The record of a session for which nothing waits.
    Session,
    /// Reserved sequence numbers.
    Ceiling,
    /// How far windows and message IDs have come.
    Checkpoint,
    /// Leases of virtual addresses.
    Address,
    /// Tenants and what belongs to them.
    Config,
    /// The audit trail.
    Audit,
    /// Who owns which slot under which generation, its keys, the epoch.
    Slot,
    /// Nodes and members of the cluster.
    Node,
    /// A node's lease was kept alive: no key, and no entry of etcd's log.
    KeepAlive,
}

impl Kind {
    const ALL: [(Self, &'static str); 12] = [
        (Self::Login, "login"),
        (Self::Rekey, "rekey"),
        (Self::Delete, "delete"),
        (Self::Session, "session"),
        (Self::Ceiling, "ceiling"),
        (Self::Checkpoint, "checkpoint"),
        (Self::Address, "address"),
        (Self::Config, "config"),
        (Self::Audit, "audit"),
        (Self::Slot, "slot"),
        (Self::Node, "node"),
        (Self::KeepAlive, "keep_alive"),
    ];

    /// That of a record, by its name behind the slot's prefix.
    fn of_record(name: &str, change: &Change, priority: Priority) -> Self {
        match (change, priority) {
            _ if name.starts_with(CHECKPOINT_PREFIX) => Self::Checkpoint,
            (Change::Delete, _) => Self::Delete,
            _ if name.starts_with(CEILING_PREFIX) => Self::Ceiling,
            (_, Priority::Login) => Self::Login,
            (_, Priority::Rekey) => Self::Rekey,
            (_, Priority::Delete | Priority::Bookkeeping) => Self::Session,
        }
    }

    /// That of a key; `None`: a record, which its writer counts.
    fn of_key(key: &str) -> Option<Self> {
        let kinds = [
            ("pool/", Self::Address),
            ("config/", Self::Config),
            ("audit/", Self::Audit),
            ("node/", Self::Node),
            ("member/", Self::Node),
        ];
        if let Some((_, kind)) = kinds.into_iter().find(|(prefix, _)| key.starts_with(prefix)) {
            return Some(kind);
        }
        // Of a slot: its number, then its record's name.
        let name = key
            .strip_prefix(cluster::keys::SLOTS)
            .and_then(|rest| rest.split_once('/'))
            .map_or(key, |(_, name)| name);
        let record = [SA_PREFIX, CEILING_PREFIX, CHECKPOINT_PREFIX];
        (!record.iter().any(|prefix| name.starts_with(prefix))).then_some(Self::Slot)
    }
}

#[derive(Debug, Default)]
struct Count {
    transactions: AtomicU64,
    keys: AtomicU64,
}

/// The counts. Shared by everything that writes.
#[derive(Debug, Default)]
pub struct Writes {
    counts: [Count; Kind::ALL.len()],
}

impl Writes {
    /// A transaction of one kind that was carried out.
    fn count(&self, kind: Kind, transactions: u64, keys: u64) {
        if let Some(count) = self.counts.get(kind as usize) {
            count.transactions.fetch_add(transactions, Ordering::Relaxed);
            count.keys.fetch_add(keys, Ordering::Relaxed);
        }
    }

    /// A group of records was stored; their names begin with `prefix`.
    pub(crate) fn group(&self, group: &Group, prefix: &str) {
        let mut first = true;
        for (name, change, priority) in group.written() {
            let name = name.strip_prefix(prefix).unwrap_or(name);
            let kind = Kind::of_record(name, change, priority);
            // They come most urgent first.
            self.count(kind, u64::from(std::mem::take(&mut first)), 1);
        }
    }

    /// A transaction was answered.
    pub(crate) fn transaction(&self, asked: &Asked, committed: bool) {
        let mut first = true;
        for kind in if committed { &asked.then } else { &asked.otherwise } {
            self.count(*kind, u64::from(std::mem::take(&mut first)), 1);
        }
    }

    /// A lease was kept alive.
    pub(crate) fn kept_alive(&self) {
        self.count(Kind::KeepAlive, 1, 0);
    }

    /// Shows the counts as instruments of `meter`.
    pub fn show(self: &Arc<Self>, meter: &Meter) {
        type Read = fn(&Count) -> &AtomicU64;
        let instruments: [(&'static str, &'static str, Read); 2] = [
            (
                "vpn.store.transactions",
                "Transactions asked of the store, by what they are for",
                |count| &count.transactions,
            ),
            (
                "vpn.store.keys",
                "Keys that were put or deleted in the store, by what they are for",
                |count| &count.keys,
            ),
        ];
        for (name, text, read) in instruments {
            let writes = Arc::clone(self);
            meter
                .u64_observable_counter(name)
                .with_description(text)
                .with_callback(move |observer| {
                    for (kind, label) in Kind::ALL {
                        if let Some(count) = writes.counts.get(kind as usize) {
                            let value = read(count).load(Ordering::Relaxed);
                            observer.observe(value, &[KeyValue::new("kind", label)]);
                        }
                    }
                })
                .build();
        }
    }

    /// Transactions and keys of a kind so far, by its label.
    #[must_use]
    pub fn of(&self, label: &str) -> Option<(u64, u64)> {
        let (kind, _) = Kind::ALL.into_iter().find(|(_, name)| *name == label)?;
        let count = self.counts.get(kind as usize)?;
        Some((
            count.transactions.load(Ordering::Relaxed),
            count.keys.load(Ordering::Relaxed),
        ))
    }
}

/// What a transaction writes, but for records, which their writer counts.
#[derive(Debug)]
pub(crate) struct Asked {
    then: Vec<Kind>,
    otherwise: Vec<Kind>,
}

impl Asked {
    pub(crate) fn of(txn: &Txn) -> Self {
        let kinds = |ops: &[Op]| {
            ops.iter()
                .filter_map(|op| match op {
                    Op::Put { key, .. } | Op::Delete { key } | Op::DeletePrefix { prefix: key } => {
                        Kind::of_key(key)
                    }
                })
                .collect()
        };
        Self {
            then: kinds(&txn.then),
            otherwise: kinds(&txn.otherwise),
        }
    }
}

/// A store whose writes are counted.
pub struct Counting {
    inner: Arc<dyn Store>,
    writes: Arc<Writes>,
}

impl Counting {
    /// Over `inner`.
    #[must_use]
    pub fn over(inner: Arc<dyn Store>, writes: &Arc<Writes>) -> Arc<Self> {
        Arc::new(Self {
            inner,
            writes: Arc::clone(writes),
        })
    }
}

#[async_trait]
impl Store for Counting {
    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        self.inner.get(key).await
    }

    async fn range(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<(Vec<(String, Entry)>, Revision), StoreError> {
        self.inner.range(prefix, after, limit).await
    }

    async fn keys(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<(Vec<(String, Revision)>, Revision), StoreError> {
        self.inner.keys(prefix, after, limit).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, StoreError> {
        let asked = Asked::of(&txn);
        let outcome = self.inner.txn(txn).await?;
        self.writes.transaction(&asked, outcome.committed);
        Ok(outcome)
    }

    async fn watch(&self, prefix: &str, from: Option<Revision>) -> Result<WatchStream, StoreError> {
        self.inner.watch(prefix, from).await
    }

    async fn lease_grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.inner.lease_grant(ttl).await
    }

    async fn lease_keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.inner.lease_keep_alive(lease).await?;
        self.writes.kept_alive();
        Ok(())
    }

    async fn lease_revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.inner.lease_revoke(lease).await
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn every_kind_has_its_place() {
        for (place, (kind, _)) in Kind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, place);
        }
    }

    #[test]
    fn keys_are_told_apart() {
        let kind = Kind::of_key;
        assert_eq!(kind("pool/acme/010.001.000.002"), Some(Kind::Address));
        assert_eq!(kind("config/.fence"), Some(Kind::Config));
        assert_eq!(kind(&cluster::keys::owner(3)), Some(Kind::Slot));
        assert_eq!(kind(cluster::keys::EPOCH), Some(Kind::Slot));
        assert_eq!(kind(&cluster::keys::node("a")), Some(Kind::Node));
        for record in [
            cluster::keys::record(3, 7),
            cluster::keys::ceiling(3, 7),
            cluster::keys::checkpoint(3, 7),
            "sa/0000000000000001".to_owned(),
        ] {
            assert_eq!(kind(&record), None, "{record}");
        }
    }

    #[test]
    fn groups_and_transactions_are_counted() {
        let writes = Writes::default();
        let records = crate::records::Records::new(10);
        let put = |text: &str| Change::Put(text.into());
        let submit = |name: &str, change, priority| {
            records
                .submit(format!("slot/003/{name}"), change, priority, None)
                .unwrap();
        };
        submit("sa/1", put("new"), Priority::Login);
        submit("sa/2", put("rekeyed"), Priority::Rekey);
        submit("seq/3", put("ceiling"), Priority::Rekey);
        submit("seq/4", Change::Delete, Priority::Delete);
        submit("cp/00", put("marks"), Priority::Bookkeeping);
        let group = records.take();
        writes.group(&group, "slot/003/");
        group.committed();
        assert_eq!(writes.of("login"), Some((0, 1)));
        assert_eq!(writes.of("rekey"), Some((1, 1)), "the most urgent");
        assert_eq!(writes.of("ceiling"), Some((0, 1)));
        assert_eq!(writes.of("delete"), Some((0, 1)));
        assert_eq!(writes.of("checkpoint"), Some((0, 1)));
        let applied = Txn::new()
            .put("config/acme/tenant", "")
            .put("audit/1", "")
            .put("sa/1", "");
        writes.transaction(&Asked::of(&applied), true);
        writes.transaction(&Asked::of(&applied), false);
        writes.kept_alive();
        assert_eq!(writes.of("config"), Some((1, 1)));
        assert_eq!(writes.of("audit"), Some((0, 1)));
        assert_eq!(
            writes.of("session"),
            Some((0, 0)),
            "counted by the group's writer"
        );
        assert_eq!(writes.of("keep_alive"), Some((1, 0)));
        assert_eq!(writes.of("unheard"), None);
    }
}
