//! Registries over a store that is exchanged under them for an older one, or for an empty one.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use api::v1::resource::Resource;
use async_trait::async_trait;
use futures::StreamExt;
use store::{
    Durability, Embedded, Entry, LeaseId, Revision, Store, StoreError, Txn, TxnOutcome, WatchStream,
};
use tokio::sync::watch;

use crate::pool::Share;
use crate::proposal::SyntaxCheck;
use crate::registry::Registry;
use crate::testing::{TestSealer, actor, change, pool, tenant};

const SHARE: Share = Share { index: 0, of: 1 };

/// A store that can be exchanged; watches of the one before end with that.
struct Exchanged {
    present: Mutex<Arc<Embedded>>,
    turn: watch::Sender<u32>,
    directory: tempfile::TempDir,
}

impl Exchanged {
    fn new() -> Arc<Self> {
        let directory = tempfile::tempdir().unwrap();
        Arc::new(Self {
            present: Mutex::new(Self::open(&directory, 0)),
            turn: watch::Sender::new(0),
            directory,
        })
    }

    fn open(directory: &tempfile::TempDir, number: u32) -> Arc<Embedded> {
        let path = directory.path().join(format!("{number}.db"));
        Arc::new(Embedded::open(&path, Durability::Normal).unwrap())
    }

    fn present(&self) -> Arc<Embedded> {
        Arc::clone(&self.present.lock().unwrap())
    }

    /// Everything that is there, at one moment.
    async fn copy(&self) -> Vec<(String, Entry)> {
        self.present().range("", None, 10_000).await.unwrap().0
    }

    /// An empty store, or one with a copy.
    async fn exchange(&self, copy: Vec<(String, Entry)>) {
        let number = *self.turn.borrow() + 1;
        let store = Self::open(&self.directory, number);
        let all = copy
            .into_iter()
            .fold(Txn::new(), |txn, (key, entry)| txn.put(key, entry.value));
        if !all.then.is_empty() {
            store.txn(all).await.unwrap();
        }
        *self.present.lock().unwrap() = store;
        self.turn.send_replace(number);
    }
}

#[async_trait]
impl Store for Exchanged {
    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        self.present().get(key).await
    }

    async fn range(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<(Vec<(String, Entry)>, Revision), StoreError> {
        self.present().range(prefix, after, limit).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, StoreError> {
        self.present().txn(txn).await
    }

    async fn watch(&self, prefix: &str, from: Option<Revision>) -> Result<WatchStream, StoreError> {
        let mut turns = self.turn.subscribe();
        turns.mark_unchanged();
        let stream = self.present().watch(prefix, from).await?;
        let turned = async move {
            let _ = turns.changed().await;
        };
        let went_back = StoreError::WentBack {
            reason: "exchanged".into(),
        };
        let end = futures::stream::iter([Err(went_back)]);
        Ok(stream.take_until(Box::pin(turned)).chain(end).boxed())
    }

    async fn lease_grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.present().lease_grant(ttl).await
    }

    async fn lease_keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.present().lease_keep_alive(lease).await
    }

    async fn lease_revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.present().lease_revoke(lease).await
    }
}

async fn node(store: &Arc<Exchanged>) -> Arc<Registry> {
    Registry::open_shared(
        Arc::clone(store) as Arc<dyn Store>,
        Arc::new(TestSealer),
        Arc::new(SyntaxCheck),
    )
    .await
    .unwrap()
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waiting)
        .await
        .unwrap_or_else(|_| panic!("{what}"));
}

fn site(name: &str) -> Vec<Resource> {
    vec![
        Resource::Tenant(tenant(name)),
        Resource::AddressPool(pool(name, "10.0.0.0/28")),
    ]
}

#[tokio::test]
async fn an_older_configuration_is_taken_and_followed() {
    let store = Exchanged::new();
    let (a, b) = (node(&store).await, node(&store).await);
    change(&a, site("acme")).await.unwrap();
    let backup = store.copy().await;
    for name in ["globex", "initech"] {
        change(&a, site(name)).await.unwrap();
    }
    until("b follows a", || b.tenant("initech").is_some()).await;
    let leases = a.pool("acme", "v4").unwrap();
    let held = leases
        .allocate_in("alice", None, Some(SHARE), &Txn::new())
        .await
        .unwrap();

    store.exchange(backup).await;
    for node in [&a, &b] {
        until("the older state is taken", || node.tenant("globex").is_none()).await;
        assert!(node.tenant("acme").is_some());
    }
    // Changes go on, and are seen by the other.
    change(&b, site("umbrella")).await.unwrap();
    until("a follows b", || a.tenant("umbrella").is_some()).await;
    // The store has forgotten the lease; the node that has the session has not.
    let other = leases
        .allocate_in("bob", Some(held), Some(SHARE), &Txn::new())
        .await
        .unwrap();
    assert_ne!(other, held);
    leases
        .release_in("alice", held, Some(SHARE), &Txn::new())
        .await
        .unwrap();
    let again = leases
        .allocate_in("carol", Some(held), Some(SHARE), &Txn::new())
        .await;
    assert!(again.is_ok());
}

#[tokio::test]
async fn a_wiped_store_gets_the_configuration_back() {
    let store = Exchanged::new();
    let (a, b) = (node(&store).await, node(&store).await);
    for name in ["acme", "globex", "initech"] {
        change(&a, site(name)).await.unwrap();
    }
    until("b follows a", || b.tenant("initech").is_some()).await;
    let before = store.copy().await;
    let config = |entries: &[(String, Entry)]| -> Vec<(String, Vec<u8>)> {
        entries
            .iter()
            .filter(|(key, _)| key.starts_with("config/"))
            .map(|(key, entry)| (key.clone(), entry.value.clone()))
            .collect()
    };
    let mut changes = b.changes();
    store.exchange(Vec::new()).await;
    until("a change succeeds again", || {
        futures::executor::block_on(store.present().get("config/.fence"))
            .unwrap()
            .is_some()
    })
    .await;
    let text = |entries: Vec<(String, Vec<u8>)>| -> Vec<String> {
        let line = |(key, value): (String, Vec<u8>)| format!("{key} {}", String::from_utf8_lossy(&value));
        entries.into_iter().map(line).collect()
    };
    assert_eq!(text(config(&store.copy().await)), text(config(&before)));
    for node in [&a, &b] {
        for name in ["acme", "globex", "initech"] {
            assert!(node.tenant(name).is_some(), "{name} was never gone");
        }
    }
    // A change waits until its node knows the store as it is now.
    change(&b, site("new")).await.unwrap();
    until("a follows b", || a.tenant("new").is_some()).await;
    while let Ok(change) = changes.try_recv() {
        let gone = change
            .ids
            .iter()
            .any(|id| id.name == "acme" && b.get(id).is_none());
        assert!(!gone);
    }
    // Commands of both are in the trail of both again.
    a.record_command(
        &actor(),
        api::v1::Change {
            name: "after".into(),
            ..Default::default()
        },
    )
    .await
    .unwrap();
    until("the trail is followed", || {
        !b.audit(None, 10, |record| record.change.name == "after")
            .is_empty()
    })
    .await;
}
