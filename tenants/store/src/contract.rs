//! The contract that every back end keeps, as tests: a back end's own test hands in a [`Factory`] and calls [`run`].
//!
//! Each case works under a prefix of its own, so that all can share one cluster. A case that fails panics with
//! what it saw.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test suite, called by tests alone"
)]

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;

use crate::{Change, Expect, Op, Store, StoreError, Txn, WatchEvent, WatchStream, follow};

/// Makes stores for the contract.
#[async_trait]
pub trait Factory: Send + Sync {
    /// Opens the store; called again after every handle has been dropped, it opens the same one with its contents.
    async fn open(&self) -> Arc<dyn Store>;

    /// Lets time pass for leases: moves a clock, or sleeps.
    async fn advance(&self, time: Duration);
}

/// Runs every case.
///
/// # Panics
/// When the back end breaks the contract.
pub async fn run(factory: &dyn Factory) {
    let store = factory.open().await;
    put_if_compares_revisions(&*store).await;
    fenced_transactions(&*store).await;
    values_are_compared(&*store).await;
    transactions_are_atomic(&*store).await;
    ranges_page(&*store).await;
    keys_are_ranges_without_values(&*store).await;
    prefixes_are_deleted(&*store).await;
    watches_are_ordered_and_resume(&*store).await;
    events_of_a_transaction_keep_its_order(&*store).await;
    watches_see_only_their_prefix(&*store).await;
    following_lists_and_watches(Arc::clone(&store)).await;
    leases_expire(&*store, factory).await;
    leases_are_revoked(&*store).await;
    limits_are_kept(&*store).await;
    concurrent_increments_all_count(Arc::clone(&store)).await;
    acknowledged_writes_survive(factory, store).await;
}

async fn value(store: &dyn Store, key: &str) -> Option<Vec<u8>> {
    store.get(key).await.unwrap().map(|entry| entry.value)
}

async fn put(store: &dyn Store, key: &str, value: &[u8]) -> u64 {
    store.put_if(key, value.to_vec(), Expect::Any).await.unwrap()
}

async fn put_if_compares_revisions(store: &dyn Store) {
    let key = "contract/put_if/a";
    let first = store.put_if(key, b"1".to_vec(), Expect::Absent).await.unwrap();
    assert_eq!(
        store.get(key).await.unwrap().unwrap().revision,
        first,
        "an entry has the revision of its write"
    );
    let refused = store
        .put_if(key, b"2".to_vec(), Expect::Absent)
        .await
        .unwrap_err();
    assert_eq!(
        refused,
        StoreError::Conflict {
            key: key.into(),
            found: Some(first)
        }
    );
    let second = store
        .put_if(key, b"2".to_vec(), Expect::Revision(first))
        .await
        .unwrap();
    assert!(second > first, "revisions rise");
    assert!(
        store
            .put_if(key, b"3".to_vec(), Expect::Revision(first))
            .await
            .unwrap_err()
            .is_conflict()
    );
    assert_eq!(
        value(store, key).await.unwrap(),
        b"2",
        "a refused write changes nothing"
    );
    store.put_if(key, b"4".to_vec(), Expect::Present).await.unwrap();
    assert!(
        store
            .delete_if(key, Expect::Revision(second))
            .await
            .unwrap_err()
            .is_conflict()
    );
    store.delete_if(key, Expect::Present).await.unwrap();
    assert_eq!(value(store, key).await, None);
    assert!(
        store
            .put_if(key, b"5".to_vec(), Expect::Present)
            .await
            .unwrap_err()
            .is_conflict()
    );
    store.delete_if(key, Expect::Any).await.unwrap();
    let again = store.put_if(key, b"6".to_vec(), Expect::Absent).await.unwrap();
    assert!(
        again > second,
        "revisions never come again, not even after a deletion"
    );
}

/// The rule of clusters: every write compares the generation.
async fn fenced_transactions(store: &dyn Store) {
    let (fence, key) = ("contract/fence/gen", "contract/fence/sa");
    let old = put(store, fence, b"1").await;
    let write = |expected, text: &[u8]| Txn::new().when(fence, Expect::Revision(expected)).put(key, text);
    assert!(store.txn(write(old, b"old owner")).await.unwrap().committed);
    let new = put(store, fence, b"2").await;
    let refused = store.txn(write(old, b"old owner again")).await.unwrap();
    assert!(!refused.committed, "a writer of an old generation is fenced");
    assert_eq!(refused.found, Some(new));
    assert_eq!(value(store, key).await.unwrap(), b"old owner");
    assert!(store.txn(write(new, b"new owner")).await.unwrap().committed);
}

/// Slots: the generation and the owner are compared by what they say.
async fn values_are_compared(store: &dyn Store) {
    let (generation, owner, key) = ("contract/slot/gen", "contract/slot/owner", "contract/slot/sa");
    let first = put(store, generation, b"7").await;
    let write = || {
        Txn::new()
            .when_value(generation, "7")
            .when_value(owner, "a")
            .put(key, "x")
    };
    let refused = store.txn(write()).await.unwrap();
    assert_eq!(
        (refused.committed, refused.found),
        (false, None),
        "an absent key has no value"
    );
    let claimed = put(store, owner, b"a").await;
    assert!(store.txn(write()).await.unwrap().committed);
    // Written again with the same text: the value holds, the revision does not.
    put(store, generation, b"7").await;
    assert!(store.txn(write()).await.unwrap().committed);
    let both = write().when(generation, Expect::Revision(first));
    assert!(!store.txn(both).await.unwrap().committed);
    let next = Txn::new()
        .when_value(generation, "7")
        .put(generation, "8")
        .put(owner, "b");
    let taken = store.txn(next).await.unwrap();
    assert!(taken.committed && taken.revision > claimed);
    let fenced = store.txn(write()).await.unwrap();
    assert_eq!(
        (fenced.committed, fenced.found),
        (false, Some(taken.revision)),
        "the old owner is fenced"
    );
    let reads_only = Txn::new().when_value(owner, "b");
    assert!(
        store.txn(reads_only).await.unwrap().committed,
        "a comparison alone is a transaction too"
    );
}

async fn transactions_are_atomic(store: &dyn Store) {
    let key = |name: &str| format!("contract/txn/{name}");
    put(store, &key("gone"), b"x").await;
    let outcome = store
        .txn(
            Txn::new()
                .when(key("a"), Expect::Absent)
                .put(key("a"), "1")
                .put(key("b"), "2")
                .delete(key("gone")),
        )
        .await
        .unwrap();
    assert!(outcome.committed);
    for name in ["a", "b"] {
        let entry = store.get(&key(name)).await.unwrap().unwrap();
        assert_eq!(
            entry.revision, outcome.revision,
            "the writes of a transaction share a revision"
        );
    }
    assert_eq!(value(store, &key("gone")).await, None);

    let failing = Txn::new()
        .when(key("a"), Expect::Present)
        .when(key("b"), Expect::Absent)
        .put(key("a"), "changed")
        .or_else(Op::Put {
            key: key("otherwise"),
            value: b"3".to_vec(),
            lease: None,
        });
    let outcome = store.txn(failing).await.unwrap();
    assert!(!outcome.committed, "one comparison that does not hold is enough");
    assert_eq!(value(store, &key("a")).await.unwrap(), b"1");
    assert_eq!(
        value(store, &key("otherwise")).await.unwrap(),
        b"3",
        "the other branch happened"
    );

    let idle = store
        .txn(Txn::new().when(key("a"), Expect::Present))
        .await
        .unwrap();
    assert!(
        idle.committed && idle.revision == outcome.revision,
        "without a write no revision is used"
    );
}

async fn ranges_page(store: &dyn Store) {
    let key = |n: u32| format!("contract/range/{n:03}");
    for n in 0..25 {
        put(store, &key(n), &n.to_be_bytes()).await;
    }
    put(store, "contract/range0", b"beside the prefix").await;
    put(store, "contract/rangd", b"beside the prefix").await;
    let (mut seen, mut after) = (Vec::new(), None::<String>);
    loop {
        let (page, revision) = store
            .range("contract/range/", after.as_deref(), 10)
            .await
            .unwrap();
        assert!(page.len() <= 10 && page.iter().all(|(_, entry)| entry.revision <= revision));
        let Some((last, _)) = page.last() else { break };
        after = Some(last.clone());
        seen.extend(page.into_iter().map(|(key, _)| key));
    }
    assert_eq!(
        seen,
        (0..25).map(key).collect::<Vec<_>>(),
        "pages are in key order, without gap or repetition"
    );
    let (none, _) = store.range("contract/range/nothing", None, 10).await.unwrap();
    assert!(none.is_empty());
}

async fn keys_are_ranges_without_values(store: &dyn Store) {
    let key = |n: u32| format!("contract/keys/{n:03}");
    let mut written = Vec::new();
    for n in 0..25 {
        written.push((key(n), put(store, &key(n), &n.to_be_bytes()).await));
    }
    written[7].1 = put(store, &key(7), b"again").await;
    put(store, "contract/keys0", b"beside the prefix").await;
    let (mut seen, mut after) = (Vec::new(), None::<String>);
    loop {
        let (page, revision) = store.keys("contract/keys/", after.as_deref(), 10).await.unwrap();
        assert!(page.len() <= 10 && page.iter().all(|(_, written)| *written <= revision));
        assert!(revision >= written[7].1, "the answer says when it was true");
        let Some((last, _)) = page.last() else { break };
        after = Some(last.clone());
        seen.extend(page);
    }
    assert_eq!(
        seen, written,
        "pages are in key order, without gap or repetition, each with the revision of its last write"
    );
    store.delete_if(&key(3), Expect::Present).await.unwrap();
    let (left, _) = store.keys("contract/keys/", None, 100).await.unwrap();
    assert_eq!(left.len(), 24);
    assert!(left.iter().all(|(name, _)| *name != key(3)));
}

async fn prefixes_are_deleted(store: &dyn Store) {
    for name in ["contract/prefix/a", "contract/prefix/b", "contract/prefix0"] {
        put(store, name, b"x").await;
    }
    let txn = Txn {
        then: vec![Op::DeletePrefix {
            prefix: "contract/prefix/".into(),
        }],
        ..Txn::new()
    };
    store.txn(txn).await.unwrap();
    assert_eq!(value(store, "contract/prefix/a").await, None);
    assert_eq!(value(store, "contract/prefix/b").await, None);
    assert!(value(store, "contract/prefix0").await.is_some());
}

async fn take(watch: &mut WatchStream, count: usize) -> Vec<WatchEvent> {
    let mut events = Vec::new();
    while events.len() < count {
        let next = tokio::time::timeout(Duration::from_secs(20), watch.next()).await;
        events.push(
            next.expect("an event in time")
                .expect("an open watch")
                .expect("an event"),
        );
    }
    events
}

async fn watches_are_ordered_and_resume(store: &dyn Store) {
    let prefix = "contract/watch/";
    let mut live = store.watch(prefix, None).await.unwrap();
    let mut revisions = Vec::new();
    for n in 0..20_u8 {
        revisions.push(put(store, &format!("{prefix}{}", n % 3), &[n]).await);
    }
    revisions.push(store.delete_if(&format!("{prefix}0"), Expect::Any).await.unwrap());
    let events = take(&mut live, 21).await;
    assert_eq!(
        events.iter().map(|event| event.revision).collect::<Vec<_>>(),
        revisions,
        "in order, none lost"
    );
    assert_eq!(events.last().unwrap().value, None, "a deletion has no value");
    assert_eq!(events.first().unwrap().value, Some(vec![0]));

    let middle = *revisions.get(10).unwrap();
    let mut resumed = store.watch(prefix, Some(middle)).await.unwrap();
    let mut again = take(&mut resumed, 11).await;
    assert_eq!(again, events[10..], "a watch resumes at a revision");
    let later = put(store, &format!("{prefix}later"), b"x").await;
    again = take(&mut resumed, 1).await;
    assert_eq!(
        again.first().unwrap().revision,
        later,
        "and goes on with what happens"
    );
}

/// Who writes a fence last tells with it that all the rest has been told.
async fn events_of_a_transaction_keep_its_order(store: &dyn Store) {
    let prefix = "contract/order/";
    let mut watch = store.watch(prefix, None).await.unwrap();
    let key = |name: &str| format!("{prefix}{name}");
    put(store, &key("b"), b"there").await;
    let txn = Txn::new()
        .put(key("z"), "1")
        .put(key("a"), "1")
        .delete(key("b"))
        .put(key("m"), "1")
        .put(key(".fence"), "1");
    store.txn(txn).await.unwrap();
    let events = take(&mut watch, 6).await;
    let told: Vec<&String> = events.iter().skip(1).map(|event| &event.key).collect();
    let expected = ["z", "a", "b", "m", ".fence"].map(key);
    assert_eq!(told, expected.iter().collect::<Vec<_>>());
}

async fn watches_see_only_their_prefix(store: &dyn Store) {
    let mut watch = store.watch("contract/scope/", None).await.unwrap();
    put(store, "contract/scope0", b"beside").await;
    let txn = Txn::new()
        .put("contract/other", "x")
        .put("contract/scope/b", "1")
        .put("contract/scope/a", "2");
    let revision = store.txn(txn).await.unwrap().revision;
    let events = take(&mut watch, 2).await;
    let seen: Vec<_> = events
        .iter()
        .map(|event| (event.key.as_str(), event.revision))
        .collect();
    assert_eq!(seen.len(), 2);
    for key in ["contract/scope/a", "contract/scope/b"] {
        assert!(seen.contains(&(key, revision)), "{seen:?}");
    }
}

/// The next change, or its like after listing again.
async fn change(changes: &mut BoxStream<'static, Change>) -> Change {
    let next = tokio::time::timeout(Duration::from_secs(20), changes.next()).await;
    next.expect("a change in time").expect("an open stream")
}

async fn following_lists_and_watches(store: Arc<dyn Store>) {
    let prefix = "contract/follow/";
    let key = |name: &str| format!("{prefix}{name}");
    put(&*store, &key("a"), b"1").await;
    put(&*store, &key("b"), b"2").await;
    let mut changes = follow(Arc::clone(&store), prefix, Some(Duration::from_millis(200)));
    for name in ["a", "b"] {
        assert!(matches!(change(&mut changes).await, Change::Event(event) if event.key == key(name)));
    }
    assert!(matches!(change(&mut changes).await, Change::Synced(_)));
    let written = put(&*store, &key("c"), b"3").await;
    store.delete_if(&key("a"), Expect::Present).await.unwrap();
    let (mut seen, mut synced) = (Vec::new(), 0);
    // Lists that find nothing new say only that all is told.
    while seen.len() < 2 || synced < 2 {
        match change(&mut changes).await {
            Change::Event(event) => seen.push((event.key, event.value)),
            Change::Synced(revision) => synced += u32::from(revision >= written),
            Change::Stale(error) => panic!("{error}"),
        }
    }
    assert_eq!(seen, [(key("c"), Some(b"3".to_vec())), (key("a"), None)]);
}

async fn leases_expire(store: &dyn Store, factory: &dyn Factory) {
    let ttl = Duration::from_secs(2);
    let lease = store.lease_grant(ttl).await.unwrap();
    let kept = store.lease_grant(ttl).await.unwrap();
    let mut watch = store.watch("contract/lease/", None).await.unwrap();
    let txn = Txn::new()
        .put_with_lease("contract/lease/gone", "1", lease)
        .put_with_lease("contract/lease/kept", "2", kept)
        .put_with_lease("contract/lease/freed", "3", lease);
    store.txn(txn).await.unwrap();
    put(store, "contract/lease/freed", b"no longer of the lease").await;
    take(&mut watch, 4).await;
    factory.advance(ttl / 2).await;
    store.lease_keep_alive(kept).await.unwrap();
    factory.advance(ttl * 3 / 4).await;
    store.lease_keep_alive(kept).await.unwrap();
    // Back ends may be late by a while (etcd: one more interval), never early.
    for _ in 0..20 {
        if value(store, "contract/lease/gone").await.is_none() {
            break;
        }
        factory.advance(ttl / 2).await;
        store.lease_keep_alive(kept).await.unwrap();
    }
    assert_eq!(
        value(store, "contract/lease/gone").await,
        None,
        "keys vanish with their lease"
    );
    assert!(
        value(store, "contract/lease/kept").await.is_some(),
        "a lease that is kept alive lives"
    );
    assert!(
        value(store, "contract/lease/freed").await.is_some(),
        "a later write without the lease frees a key"
    );
    let events = take(&mut watch, 1).await;
    assert_eq!(events.first().unwrap().key, "contract/lease/gone");
    assert_eq!(
        store.lease_keep_alive(lease).await,
        Err(StoreError::LeaseNotFound(lease))
    );
    let late = store
        .txn(Txn::new().put_with_lease("contract/lease/late", "x", lease))
        .await;
    assert_eq!(
        late,
        Err(StoreError::LeaseNotFound(lease)),
        "nothing is bound to a lease that is gone"
    );
    store.lease_revoke(kept).await.unwrap();
}

async fn leases_are_revoked(store: &dyn Store) {
    let lease = store.lease_grant(Duration::from_secs(3600)).await.unwrap();
    store
        .txn(Txn::new().put_with_lease("contract/revoke/a", "1", lease))
        .await
        .unwrap();
    store.lease_revoke(lease).await.unwrap();
    assert_eq!(value(store, "contract/revoke/a").await, None);
    assert_eq!(
        store.lease_revoke(lease).await,
        Err(StoreError::LeaseNotFound(lease))
    );
}

async fn limits_are_kept(store: &dyn Store) {
    let key = "k".repeat(crate::Limits::KEY + 1);
    let refused = store.put_if(&key, Vec::new(), Expect::Any).await.unwrap_err();
    assert!(
        matches!(refused, StoreError::TooLarge { .. }) && !refused.is_retryable(),
        "{refused}"
    );
}

async fn concurrent_increments_all_count(store: Arc<dyn Store>) {
    const TASKS: u64 = 8;
    const EACH: u64 = 25;
    let key = "contract/counter";
    store
        .put_if(key, 0_u64.to_be_bytes().to_vec(), Expect::Any)
        .await
        .unwrap();
    let increment = |store: Arc<dyn Store>| async move {
        for _ in 0..EACH {
            loop {
                let entry = store.get(key).await.unwrap().unwrap();
                let count = u64::from_be_bytes(entry.value.as_slice().try_into().unwrap()) + 1;
                match store
                    .put_if(
                        key,
                        count.to_be_bytes().to_vec(),
                        Expect::Revision(entry.revision),
                    )
                    .await
                {
                    Ok(_) => break,
                    Err(error) => assert!(error.is_conflict(), "{error}"),
                }
            }
        }
    };
    let tasks: Vec<_> = (0..TASKS)
        .map(|_| tokio::spawn(increment(Arc::clone(&store))))
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let total = value(&*store, key).await.unwrap();
    assert_eq!(total, (TASKS * EACH).to_be_bytes(), "no increment is lost");
}

async fn acknowledged_writes_survive(factory: &dyn Factory, store: Arc<dyn Store>) {
    let before = put(&*store, "contract/durable", b"here").await;
    drop(store);
    let store = factory.open().await;
    let entry = store.get("contract/durable").await.unwrap().unwrap();
    assert_eq!(
        (entry.value.as_slice(), entry.revision),
        (b"here".as_slice(), before)
    );
    let after = put(&*store, "contract/durable", b"again").await;
    assert!(after > before, "revisions go on where they were");
    let (all, _) = store.range("contract/range/", None, 100).await.unwrap();
    assert_eq!(all.len(), 25);
}
