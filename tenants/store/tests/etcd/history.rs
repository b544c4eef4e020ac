//! What followers are told of a history that is cut, lost, late or another one, and what becomes of leases.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use store::{Change, Etcd, Expect, Store, StoreError, Txn, WatchEvent, follow};
use tokio::time::{Instant, timeout};

use crate::faults::proxied;
use crate::proxy::Mode;
use crate::rig::{Cluster, isolated};

/// Applies changes until the store is in step.
async fn synced(
    changes: &mut futures::stream::BoxStream<'static, Change>,
    map: &mut std::collections::BTreeMap<String, Vec<u8>>,
) -> u64 {
    loop {
        let change = timeout(Duration::from_secs(20), changes.next())
            .await
            .expect("a change")
            .unwrap();
        match change {
            Change::Event(WatchEvent { key, value, .. }) => {
                match value {
                    Some(value) => map.insert(key, value),
                    None => map.remove(&key),
                };
            }
            Change::Synced(revision) => return revision,
            Change::Stale(error) => assert!(error.is_retryable(), "{error}"),
        }
    }
}

#[test]
fn compaction_during_a_watch_means_list_again() {
    isolated("history::compaction_during_a_watch_means_list_again", || async {
        let cluster = Cluster::start(1).await;
        let direct = cluster.open().await;
        let (proxy, settings) = proxied(&cluster, Duration::from_secs(2)).await;
        let store = Arc::new(Etcd::open(settings).await.unwrap());
        for key in ["c/stays", "c/goes", "c/changes"] {
            direct.put_if(key, b"1".to_vec(), Expect::Any).await.unwrap();
        }
        let mut watch = store.watch("c/", None).await.unwrap();
        let mut changes = follow(Arc::clone(&store) as Arc<dyn Store>, "c/", None);
        let mut map = std::collections::BTreeMap::new();
        synced(&mut changes, &mut map).await;
        assert_eq!(map.len(), 3);

        proxy.set(Mode::Cut);
        direct.delete_if("c/goes", Expect::Any).await.unwrap();
        direct
            .put_if("c/changes", b"2".to_vec(), Expect::Any)
            .await
            .unwrap();
        let last = direct.put_if("c/new", b"3".to_vec(), Expect::Any).await.unwrap();
        let mut client = cluster.client(0).await;
        client.compact(i64::try_from(last).unwrap(), None).await.unwrap();
        proxy.set(Mode::Open);

        let ended = timeout(Duration::from_secs(20), watch.next())
            .await
            .expect("the end")
            .unwrap();
        assert_eq!(ended, Err(StoreError::Compacted { oldest: last }));
        assert!(watch.next().await.is_none());
        let early = store.watch("c/", Some(last - 1)).await.err().unwrap();
        assert_eq!(early, StoreError::Compacted { oldest: last });
        let mut past = store.watch("c/", Some(last)).await.unwrap();
        assert_eq!(
            past.next().await.unwrap().unwrap().key,
            "c/new",
            "the oldest that is kept can be watched from"
        );

        synced(&mut changes, &mut map).await;
        let found: Vec<_> = map
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_slice()))
            .collect();
        assert_eq!(
            found,
            [
                ("c/changes", b"2".as_slice()),
                ("c/new", b"3".as_slice()),
                ("c/stays", b"1".as_slice())
            ]
        );
        direct.put_if("c/live", b"4".to_vec(), Expect::Any).await.unwrap();
        let live = timeout(Duration::from_secs(10), changes.next())
            .await
            .unwrap()
            .unwrap();
        assert!(
            matches!(&live, Change::Event(event) if event.key == "c/live"),
            "{live:?}"
        );
    });
}

#[test]
fn an_event_that_was_lost_is_noticed() {
    isolated("history::an_event_that_was_lost_is_noticed", || async {
        let cluster = Cluster::start(1).await;
        let direct = cluster.open().await;
        let (proxy, mut settings) = proxied(&cluster, Duration::from_secs(2)).await;
        // Nothing else goes over the link while answers are lost.
        settings.probe_interval = Duration::from_secs(5);
        let store = Arc::new(Etcd::open(settings).await.unwrap());
        let mut watch = store.watch("l/", None).await.unwrap();
        let mut changes = follow(Arc::clone(&store) as Arc<dyn Store>, "l/", None);
        let mut map = std::collections::BTreeMap::new();
        synced(&mut changes, &mut map).await;
        direct.put_if("l/a", b"1".to_vec(), Expect::Any).await.unwrap();
        assert_eq!(watch.next().await.unwrap().unwrap().value, Some(b"1".to_vec()));
        assert!(matches!(changes.next().await, Some(Change::Event(_))));
        proxy.set(Mode::NoAnswers);
        direct.put_if("l/a", b"2".to_vec(), Expect::Any).await.unwrap();
        direct.put_if("l/b", b"2".to_vec(), Expect::Any).await.unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
        proxy.set(Mode::Open);
        direct.put_if("l/a", b"3".to_vec(), Expect::Any).await.unwrap();
        let ended = timeout(Duration::from_secs(10), watch.next())
            .await
            .expect("the end")
            .unwrap();
        assert_eq!(ended, Err(StoreError::Lagged { missed: 1 }));
        synced(&mut changes, &mut map).await;
        assert_eq!(map["l/a"], b"3");
        assert_eq!(map["l/b"], b"2", "the list has what the watch has lost");
        assert_eq!(store.counters().events_lost, 2, "of either watch");
    });
}

#[test]
fn a_slow_reader_is_told_and_others_are_not_held_up() {
    isolated(
        "history::a_slow_reader_is_told_and_others_are_not_held_up",
        || async {
            let cluster = Cluster::start(1).await;
            let store = Arc::new(cluster.open().await);
            let mut slow = store.watch("slow/", None).await.unwrap();
            let big = vec![0; 1 << 20];
            for n in 0..80_u8 {
                store
                    .put_if(&format!("slow/{}", n % 4), big.clone(), Expect::Any)
                    .await
                    .unwrap();
            }
            let mut events = 0;
            let ended = loop {
                match timeout(Duration::from_secs(20), slow.next())
                    .await
                    .expect("the end")
                    .unwrap()
                {
                    Ok(_) => events += 1,
                    Err(error) => break error,
                }
            };
            assert!(matches!(ended, StoreError::Lagged { missed: 1.. }), "{ended}");
            assert!((60..=65).contains(&events), "64 MiB were kept: {events}");
            assert!(slow.next().await.is_none());
        },
    );
}

#[test]
fn a_lease_ends_when_nobody_keeps_it() {
    isolated("history::a_lease_ends_when_nobody_keeps_it", || async {
        let mut cluster = Cluster::start(3).await;
        let store = Arc::new(cluster.open().await);
        let lease = store.lease_grant(Duration::from_millis(1_500)).await.unwrap();
        let owner = Txn::new()
            .when("slot/1/owner", Expect::Absent)
            .put_with_lease("slot/1/owner", "a", lease)
            .put("slot/1/gen", "1");
        assert!(store.txn(owner).await.unwrap().committed);
        // Kept over a stream that breaks, many times its own time.
        for round in 0..20 {
            store.lease_keep_alive(lease).await.unwrap();
            if round == 5 {
                cluster.kill(cluster.index_of(&store));
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let fenced = |txn: Txn| {
            txn.when_value("slot/1/owner", "a")
                .when_value("slot/1/gen", "1")
                .put("slot/1/sa/7", "x")
        };
        assert!(store.txn(fenced(Txn::new())).await.unwrap().committed);
        let mut watch = store.watch("slot/1/owner", None).await.unwrap();
        let begun = Instant::now();
        let gone = timeout(Duration::from_secs(15), watch.next())
            .await
            .expect("the end of the lease")
            .unwrap()
            .unwrap();
        assert_eq!((gone.key.as_str(), gone.value), ("slot/1/owner", None));
        assert!(
            begun.elapsed() > Duration::from_millis(1_000),
            "never early: {:?}",
            begun.elapsed()
        );
        assert_eq!(
            store.lease_keep_alive(lease).await,
            Err(StoreError::LeaseNotFound(lease))
        );
        let outcome = store.txn(fenced(Txn::new())).await.unwrap();
        assert_eq!(
            (outcome.committed, outcome.found),
            (false, None),
            "the owner is fenced"
        );
        let taken = Txn::new()
            .when("slot/1/owner", Expect::Absent)
            .when_value("slot/1/gen", "1")
            .put("slot/1/gen", "2");
        assert!(store.txn(taken).await.unwrap().committed);
    });
}

#[test]
fn a_restored_cluster_is_noticed() {
    isolated("history::a_restored_cluster_is_noticed", || async {
        let mut cluster = Cluster::start(1).await;
        let mut settings = cluster.settings();
        settings.call_timeout = Duration::from_secs(3);
        let store = Arc::new(Etcd::open(settings.clone()).await.unwrap());
        store.put_if("a", b"1".to_vec(), Expect::Any).await.unwrap();
        cluster.kill(0);
        let backup = tempfile::tempdir().unwrap();
        let copy = |from: std::path::PathBuf, to: std::path::PathBuf| {
            let _ = std::fs::remove_dir_all(&to);
            let copied = std::process::Command::new("cp")
                .arg("-a")
                .arg(from)
                .arg(to)
                .status();
            assert!(copied.unwrap().success());
        };
        copy(cluster.data(0), backup.path().join("data"));
        cluster.restart(0);
        cluster.ready().await;
        let mut watch = store.watch("", None).await.unwrap();
        for n in 0..20_u8 {
            store.put_if("a", vec![n], Expect::Any).await.unwrap();
            watch.next().await.unwrap().unwrap();
        }
        cluster.kill(0);
        copy(backup.path().join("data"), cluster.data(0));
        cluster.restart(0);
        let ended = timeout(Duration::from_secs(20), watch.next())
            .await
            .expect("the end")
            .unwrap();
        assert!(matches!(ended, Err(StoreError::WentBack { .. })), "{ended:?}");
        let refused = store.get("a").await.unwrap_err();
        assert!(
            matches!(refused, StoreError::WentBack { .. }) && !refused.is_retryable(),
            "{refused}"
        );
        assert!(matches!(
            store.put_if("b", b"x".to_vec(), Expect::Any).await,
            Err(StoreError::WentBack { .. })
        ));
        // Whoever opens it anew begins an epoch of his own.
        let fresh = Etcd::open(settings).await.unwrap();
        assert_eq!(fresh.get("a").await.unwrap().unwrap().value, b"1");
    });
}
