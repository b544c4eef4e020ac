//! The contract on SQLite, and what is this back end's own: damage, locks, groups, compaction.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use futures::StreamExt;
use proptest::prelude::*;

use super::*;
use crate::contract::{self, Factory};
use crate::{Expect, Op};

/// A store in a temporary directory, with a clock that the test moves.
struct Temporary {
    _directory: tempfile::TempDir,
    path: PathBuf,
    durability: Durability,
    clock: Arc<Mutex<Instant>>,
}

impl Temporary {
    fn new(durability: Durability) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store.db");
        Self {
            _directory: directory,
            path,
            durability,
            clock: Arc::new(Mutex::new(Instant::now())),
        }
    }

    fn store(&self) -> Embedded {
        let clock = Arc::clone(&self.clock);
        Embedded::open_with_clock(
            &self.path,
            self.durability,
            Arc::new(move || *clock.lock().unwrap()),
        )
        .unwrap()
    }
}

#[async_trait]
impl Factory for Temporary {
    async fn open(&self) -> Arc<dyn Store> {
        Arc::new(self.store())
    }

    async fn advance(&self, time: Duration) {
        *self.clock.lock().unwrap() += time;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_the_contract_with_full_durability() {
    contract::run(&Temporary::new(Durability::Full)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keeps_the_contract_with_normal_durability() {
    contract::run(&Temporary::new(Durability::Normal)).await;
}

#[tokio::test]
async fn a_second_opener_is_refused() {
    let temporary = Temporary::new(Durability::Full);
    let store = temporary.store();
    let error = Embedded::open(&temporary.path, Durability::Full).unwrap_err();
    assert!(
        error.is_retryable() && error.to_string().contains("in use by another process"),
        "{error}"
    );
    drop(store);
    Embedded::open(&temporary.path, Durability::Full).unwrap();
}

#[tokio::test]
async fn a_damaged_file_is_a_clear_error() {
    let temporary = Temporary::new(Durability::Full);
    let store = temporary.store();
    for n in 0..200_u32 {
        store
            .put_if(&format!("key/{n}"), vec![7; 500], Expect::Any)
            .await
            .unwrap();
    }
    drop(store);
    let mut octets = std::fs::read(&temporary.path).unwrap();
    let middle = octets.len() / 2;
    octets[middle..middle + 4096].fill(0xA5);
    std::fs::write(&temporary.path, octets).unwrap();
    let error = Embedded::open(&temporary.path, Durability::Full).unwrap_err();
    assert!(
        matches!(error, StoreError::Corrupt { .. }) && !error.is_retryable(),
        "{error}"
    );
    assert!(
        error.to_string().contains("store.db") && error.to_string().contains("restore it"),
        "{error}"
    );
}

#[tokio::test]
async fn a_file_of_another_kind_is_refused() {
    let temporary = Temporary::new(Durability::Full);
    std::fs::write(
        &temporary.path,
        "this is no database, however long it may be, and it is long enough now to be one",
    )
    .unwrap();
    assert!(matches!(
        Embedded::open(&temporary.path, Durability::Full),
        Err(StoreError::Corrupt { .. })
    ));
    std::fs::remove_file(&temporary.path).unwrap();
    let foreign = rusqlite::Connection::open(&temporary.path).unwrap();
    foreign.execute_batch("CREATE TABLE theirs (x)").unwrap();
    drop(foreign);
    let error = Embedded::open(&temporary.path, Durability::Full).unwrap_err();
    assert!(error.to_string().contains("another program"), "{error}");
}

#[tokio::test]
async fn leases_outlive_a_restart_and_then_expire() {
    let temporary = Temporary::new(Durability::Full);
    let store = temporary.store();
    let lease = store.lease_grant(Duration::from_secs(10)).await.unwrap();
    store
        .txn(Txn::new().put_with_lease("a", "1", lease))
        .await
        .unwrap();
    drop(store);
    let store = temporary.store();
    assert!(store.get("a").await.unwrap().is_some());
    temporary.advance(Duration::from_secs(11)).await;
    assert!(store.get("a").await.unwrap().is_none());
    let next = store.lease_grant(Duration::from_secs(10)).await.unwrap();
    assert!(next > lease, "lease numbers are not used again");
}

#[tokio::test]
async fn history_before_the_start_is_compacted() {
    let temporary = Temporary::new(Durability::Full);
    let store = temporary.store();
    let first = store.put_if("a", b"1".to_vec(), Expect::Any).await.unwrap();
    drop(store);
    let store = temporary.store();
    let refused = store.watch("a", Some(first)).await.err().unwrap();
    assert_eq!(refused, StoreError::Compacted { oldest: first + 1 });
    let mut watch = store.watch("a", Some(first + 1)).await.unwrap();
    store.put_if("a", b"2".to_vec(), Expect::Any).await.unwrap();
    assert_eq!(watch.next().await.unwrap().unwrap().value, Some(b"2".to_vec()));
}

#[tokio::test]
async fn a_slow_watch_is_told_and_ends() {
    let temporary = Temporary::new(Durability::Normal);
    let store = temporary.store();
    let mut watch = store.watch("", None).await.unwrap();
    for n in 0..5_000_u32 {
        store
            .put_if("a", n.to_be_bytes().to_vec(), Expect::Any)
            .await
            .unwrap();
    }
    assert!(matches!(
        watch.next().await,
        Some(Err(StoreError::Lagged { missed: 1.. }))
    ));
    assert!(watch.next().await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn many_writers_share_commits_and_keep_their_order() {
    let temporary = Temporary::new(Durability::Full);
    let store = Arc::new(temporary.store());
    let mut watch = store.watch("", None).await.unwrap();
    let writers: Vec<_> = (0..50_u8)
        .map(|writer| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                for n in 0..20_u8 {
                    store
                        .put_if(&format!("{writer}"), vec![n], Expect::Any)
                        .await
                        .unwrap();
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let (mut last, mut seen) = (0, BTreeMap::<String, u8>::new());
    for _ in 0..1000 {
        let event = watch.next().await.unwrap().unwrap();
        assert_eq!(event.revision, last + 1);
        last = event.revision;
        let value = event.value.unwrap()[0];
        let before = seen.insert(event.key, value);
        assert_eq!(
            value,
            before.map_or(0, |before| before + 1),
            "the writes of one writer stay in order"
        );
    }
}

/// One step of the reference model.
#[derive(Clone, Debug)]
enum Step {
    PutIf(u8, u8, Choice),
    DeleteIf(u8, Choice),
    DeleteAll,
}

#[derive(Clone, Copy, Debug)]
enum Choice {
    Any,
    Absent,
    Present,
    Current,
    Stale,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let choice = prop_oneof![
        Just(Choice::Any),
        Just(Choice::Absent),
        Just(Choice::Present),
        Just(Choice::Current),
        Just(Choice::Stale)
    ];
    let step = prop_oneof![
        8 => (0..4_u8, any::<u8>(), choice.clone()).prop_map(|(key, value, choice)| Step::PutIf(key, value, choice)),
        4 => (0..4_u8, choice).prop_map(|(key, choice)| Step::DeleteIf(key, choice)),
        1 => Just(Step::DeleteAll),
    ];
    prop::collection::vec(step, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn behaves_like_a_map(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let temporary = Temporary::new(Durability::Normal);
            let store = temporary.store();
            let mut model = BTreeMap::<String, (Vec<u8>, u64)>::new();
            let expect = |model: &BTreeMap<String, (Vec<u8>, u64)>, key: &str, choice| {
                let found = model.get(key).map(|(_, revision)| *revision);
                match choice {
                    Choice::Any => (Expect::Any, true),
                    Choice::Absent => (Expect::Absent, found.is_none()),
                    Choice::Present => (Expect::Present, found.is_some()),
                    Choice::Current => (Expect::Revision(found.unwrap_or(u64::from(u32::MAX))), found.is_some()),
                    Choice::Stale => (Expect::Revision(u64::from(u32::MAX)), false),
                }
            };
            for step in steps {
                match step {
                    Step::PutIf(key, value, choice) => {
                        let key = format!("k/{key}");
                        let (expect, holds) = expect(&model, &key, choice);
                        match store.put_if(&key, vec![value], expect).await {
                            Ok(revision) => {
                                assert!(holds);
                                assert!(model.values().all(|(_, old)| *old < revision));
                                model.insert(key, (vec![value], revision));
                            }
                            Err(error) => assert!(!holds && error.is_conflict()),
                        }
                    }
                    Step::DeleteIf(key, choice) => {
                        let key = format!("k/{key}");
                        let (expect, holds) = expect(&model, &key, choice);
                        assert_eq!(store.delete_if(&key, expect).await.is_ok(), holds);
                        if holds {
                            model.remove(&key);
                        }
                    }
                    Step::DeleteAll => {
                        let txn = Txn { then: vec![Op::DeletePrefix { prefix: "k/".into() }], ..Txn::new() };
                        store.txn(txn).await.unwrap();
                        model.clear();
                    }
                }
                let (found, _) = store.range("k/", None, 100).await.unwrap();
                let found: BTreeMap<_, _> =
                    found.into_iter().map(|(key, entry)| (key, (entry.value, entry.revision))).collect();
                assert_eq!(found, model);
            }
        });
    }
}
