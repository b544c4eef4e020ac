//! What a cluster does to its clients: members killed and stopped, quorum lost, answers lost, history gone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures::StreamExt;
use store::etcd::EtcdSettings;
use store::{Etcd, Expect, Op, Store, StoreError, Txn, WatchStream};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use crate::proxy::{Mode, Proxy};
use crate::rig::{Cluster, isolated};

/// Writers of one key each, who repeat nothing themselves.
struct Writers {
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<(u64, Duration)>>,
    written: Arc<AtomicU64>,
}

impl Writers {
    fn start(store: &Arc<Etcd>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let written = Arc::new(AtomicU64::new(0));
        let tasks = (0..4)
            .map(|writer| {
                let (store, stop, written) = (Arc::clone(store), Arc::clone(&stop), Arc::clone(&written));
                tokio::spawn(async move {
                    let (mut count, mut longest) = (0, Duration::ZERO);
                    while !stop.load(Ordering::Relaxed) {
                        let begun = Instant::now();
                        let value = u64::to_be_bytes(count).to_vec();
                        store
                            .put_if(&format!("run/{writer}"), value, Expect::Any)
                            .await
                            .unwrap();
                        longest = longest.max(begun.elapsed());
                        count += 1;
                        written.fetch_add(1, Ordering::Relaxed);
                        tokio::time::sleep(Duration::from_millis(1)).await;
                    }
                    (count, longest)
                })
            })
            .collect();
        Self { stop, tasks, written }
    }

    /// Waits for so many more writes.
    async fn more(&self, count: u64) {
        let until = self.written.load(Ordering::Relaxed) + count;
        while self.written.load(Ordering::Relaxed) < until {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Writes of each, and the longest that one took.
    async fn stop(self) -> (Vec<u64>, Duration) {
        self.stop.store(true, Ordering::Relaxed);
        let (mut counts, mut longest) = (Vec::new(), Duration::ZERO);
        for task in self.tasks {
            let (count, slowest) = task.await.unwrap();
            counts.push(count);
            longest = longest.max(slowest);
        }
        (counts, longest)
    }
}

/// The watch has every write once and in order, and etcd counts as many as were acknowledged.
async fn all_once(cluster: &Cluster, member: usize, watch: &mut WatchStream, counts: &[u64]) {
    let mut next = vec![0; counts.len()];
    for _ in 0..counts.iter().sum() {
        let event = timeout(Duration::from_secs(20), watch.next())
            .await
            .expect("an event")
            .unwrap()
            .unwrap();
        let writer: usize = event.key.strip_prefix("run/").unwrap().parse().unwrap();
        let value = u64::from_be_bytes(event.value.unwrap().try_into().unwrap());
        assert_eq!(value, next[writer], "events of {} in order, none lost", event.key);
        next[writer] += 1;
    }
    assert_eq!(next, counts);
    let mut client = cluster.client(member).await;
    for (writer, count) in counts.iter().enumerate() {
        let got = client.get(format!("vpn/run/{writer}"), None).await.unwrap();
        let version = got.kvs().first().unwrap().version().unsigned_abs();
        assert_eq!(version, *count, "every acknowledged write happened exactly once");
    }
}

/// Kills a member in the middle of everything, and lets it come back.
async fn survives_the_kill_of(leader: bool, bound: Duration) {
    let mut cluster = Cluster::start(3).await;
    let mut settings = cluster.settings();
    let first = cluster.leader().await;
    // The store talks to the leader, or to another member.
    let talk = if leader { first } else { (first + 1) % 3 };
    settings.endpoints.rotate_left(talk);
    let store = Arc::new(Etcd::open(settings).await.unwrap());
    assert_eq!(cluster.index_of(&store), talk);
    let mut watch = store.watch("run/", None).await.unwrap();
    let lease = store.lease_grant(Duration::from_secs(4)).await.unwrap();
    let txn = Txn::new().put_with_lease("node/me", "alive", lease);
    store.txn(txn).await.unwrap();
    let keeping = {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            for _ in 0..25 {
                store.lease_keep_alive(lease).await.unwrap();
                tokio::time::sleep(Duration::from_millis(250)).await;
            }
        })
    };
    let writers = Writers::start(&store);
    writers.more(200).await;
    cluster.kill(talk);
    writers.more(400).await;
    assert_ne!(cluster.index_of(&store), talk);
    cluster.restart(talk);
    writers.more(400).await;
    let (counts, longest) = writers.stop().await;
    eprintln!("longest write {longest:?}, {:?}", store.counters());
    assert!(longest < bound, "a write took {longest:?}");
    all_once(&cluster, (talk + 1) % 3, &mut watch, &counts).await;
    keeping.await.unwrap();
    assert!(
        store.get("node/me").await.unwrap().is_some(),
        "the lease was kept alive throughout"
    );
    let counters = store.counters();
    assert!(counters.moves >= 1 && counters.watches_reopened >= 1 && counters.keep_alives_reopened >= 1);
    assert_eq!(
        (counters.indeterminate, counters.events_lost),
        (0, 0),
        "{counters:?}"
    );
}

#[test]
fn survives_the_kill_of_the_member_it_talks_to() {
    isolated("faults::survives_the_kill_of_the_member_it_talks_to", || {
        survives_the_kill_of(false, Duration::from_secs(2))
    });
}

#[test]
fn survives_the_kill_of_the_leader() {
    isolated("faults::survives_the_kill_of_the_leader", || {
        survives_the_kill_of(true, Duration::from_secs(5))
    });
}

#[test]
fn leaves_a_member_that_hangs() {
    isolated("faults::leaves_a_member_that_hangs", || async {
        let cluster = Cluster::start(3).await;
        let mut settings = cluster.settings();
        let talk = (cluster.leader().await + 1) % 3;
        settings.endpoints.rotate_left(talk);
        let store = Arc::new(Etcd::open(settings).await.unwrap());
        let mut watch = store.watch("run/", None).await.unwrap();
        let writers = Writers::start(&store);
        writers.more(100).await;
        cluster.signal(talk, "-STOP");
        writers.more(200).await;
        // Nothing is asked of the member any more, and what it held back comes when it goes on.
        cluster.signal(talk, "-CONT");
        writers.more(200).await;
        let (counts, longest) = writers.stop().await;
        assert!(longest < Duration::from_secs(3), "a write took {longest:?}");
        all_once(&cluster, (talk + 1) % 3, &mut watch, &counts).await;
    });
}

#[test]
fn loses_the_quorum_and_gets_it_back() {
    isolated("faults::loses_the_quorum_and_gets_it_back", || async {
        let mut cluster = Cluster::start(3).await;
        let mut settings = cluster.settings();
        settings.call_timeout = Duration::from_secs(2);
        let store = Arc::new(Etcd::open(settings).await.unwrap());
        let mut watch = store.watch("q/", None).await.unwrap();
        let first = store.put_if("q/a", b"1".to_vec(), Expect::Absent).await.unwrap();
        assert_eq!(watch.next().await.unwrap().unwrap().revision, first);
        cluster.kill(0);
        cluster.kill(1);
        let begun = Instant::now();
        let (read, write, other, lease) = tokio::join!(
            store.get("q/a"),
            store.put_if("q/a", b"2".to_vec(), Expect::Revision(first)),
            store.put_if("q/b", b"2".to_vec(), Expect::Any),
            store.lease_grant(Duration::from_secs(5)),
        );
        assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        assert!(read.unwrap_err().is_retryable() && lease.unwrap_err().is_retryable());
        for error in [write.unwrap_err(), other.unwrap_err()] {
            assert!(
                error.is_retryable() || matches!(error, StoreError::Indeterminate { .. }),
                "{error}"
            );
        }
        // What has been given up must not happen behind the back of what follows, nor take its place.
        let mut again = Box::pin(store.put_if("q/b", b"3".to_vec(), Expect::Any));
        assert!(
            timeout(Duration::from_secs(1), &mut again).await.is_err(),
            "no quorum, no write"
        );
        cluster.restart(0);
        let written = match again.await {
            Ok(revision) => revision,
            Err(error) => {
                assert!(error.is_retryable(), "{error}");
                cluster.ready().await;
                loop {
                    match store.put_if("q/b", b"3".to_vec(), Expect::Any).await {
                        Ok(revision) => break revision,
                        Err(error) => assert!(error.is_retryable(), "{error}"),
                    }
                }
            }
        };
        cluster.restart(1);
        cluster.ready().await;
        tokio::time::sleep(Duration::from_secs(2)).await;
        let entry = store.get("q/b").await.unwrap().unwrap();
        assert_eq!(
            (entry.value.as_slice(), entry.revision),
            (b"3".as_slice(), written)
        );
        // The watch was silent and goes on.
        let last = store.put_if("q/end", b"x".to_vec(), Expect::Any).await.unwrap();
        loop {
            let event = timeout(Duration::from_secs(10), watch.next())
                .await
                .expect("an event")
                .unwrap()
                .unwrap();
            assert!(event.revision > first);
            if event.key == "q/end" {
                assert_eq!(event.revision, last);
                break;
            }
        }
    });
}

/// One member behind a proxy.
pub(crate) async fn proxied(cluster: &Cluster, call_timeout: Duration) -> (Proxy, EtcdSettings) {
    let proxy = Proxy::start(&cluster.endpoints()[0]).await;
    let mut settings = EtcdSettings::new([proxy.endpoint()]);
    settings.call_timeout = call_timeout;
    settings.attempt_timeout = Duration::from_millis(400);
    settings.probe_interval = Duration::from_millis(300);
    (proxy, settings)
}

#[test]
fn writes_happen_once_although_answers_are_lost() {
    isolated("faults::writes_happen_once_although_answers_are_lost", || async {
        let cluster = Cluster::start(1).await;
        let (proxy, settings) = proxied(&cluster, Duration::from_secs(10)).await;
        let store = Arc::new(Etcd::open(settings).await.unwrap());
        let fence = store.put_if("gen", b"7".to_vec(), Expect::Any).await.unwrap();
        let mut watch = store.watch("run/", None).await.unwrap();
        let writers = Writers::start(&store);
        for round in 0..6 {
            writers.more(50).await;
            proxy.set(Mode::NoAnswers);
            tokio::time::sleep(Duration::from_millis(60)).await;
            proxy.set(if round % 2 == 0 { Mode::Cut } else { Mode::Silent });
            tokio::time::sleep(Duration::from_millis(40)).await;
            // Connections that lost octets are of no use any more.
            proxy.set(Mode::Cut);
            tokio::time::sleep(Duration::from_millis(10)).await;
            proxy.set(Mode::Open);
        }
        writers.more(50).await;
        let (counts, _) = writers.stop().await;
        let mut recovered = store.counters().recovered;
        assert!(recovered > 0, "the test lost no answer: {:?}", store.counters());
        all_once(&cluster, 0, &mut watch, &counts).await;

        // So do those that are sent as one, all or none.
        proxy.set(Mode::NoAnswers);
        let calls = ["a", "b", "c"].map(|name| {
            let store = Arc::clone(&store);
            let txn = Txn::new().when_value("gen", "7").put(format!("y/{name}"), "1");
            tokio::spawn(async move { store.txn(txn).await.unwrap() })
        });
        tokio::time::sleep(Duration::from_millis(100)).await;
        proxy.set(Mode::Cut);
        tokio::time::sleep(Duration::from_millis(10)).await;
        proxy.set(Mode::Open);
        for call in calls {
            assert!(call.await.unwrap().committed);
        }
        let before = std::mem::replace(&mut recovered, store.counters().recovered);
        assert!(recovered > before, "{:?}", store.counters());

        // Outcomes are recovered as well: of comparisons that held, and of such that did not. Each has something to do
        // otherwise, so that it is a part of its own whoever it is sent with.
        proxy.set(Mode::NoAnswers);
        let texts = [
            (
                "held",
                Txn::new()
                    .when("gen", Expect::Revision(fence))
                    .when_value("gen", "7")
                    .put("x/held", "1"),
            ),
            (
                "stale",
                Txn::new()
                    .when("gen", Expect::Revision(fence + 1))
                    .put("x/stale", "1"),
            ),
            ("value", Txn::new().when_value("gen", "8").put("x/value", "1")),
            (
                "absent",
                Txn::new().when("x/absent", Expect::Absent).put("x/absent", "1"),
            ),
            (
                "present",
                Txn::new().when("x/none", Expect::Present).put("x/none", "1"),
            ),
        ];
        let calls = texts.map(|(name, txn)| {
            let store = Arc::clone(&store);
            let nothing = Op::Delete {
                key: format!("z/{name}"),
            };
            tokio::spawn(async move { (name, store.txn(txn.or_else(nothing)).await.unwrap()) })
        });
        tokio::time::sleep(Duration::from_millis(100)).await;
        proxy.set(Mode::Cut);
        tokio::time::sleep(Duration::from_millis(10)).await;
        proxy.set(Mode::Open);
        for call in calls {
            let (name, outcome) = call.await.unwrap();
            let committed = name == "held" || name == "absent";
            assert_eq!(outcome.committed, committed, "{name}");
            let found = if name == "stale" || name == "value" {
                Some(fence)
            } else {
                None
            };
            assert_eq!(outcome.found, found, "{name}");
            assert_eq!(
                store.get(&format!("x/{name}")).await.unwrap().is_some(),
                committed,
                "{name}"
            );
        }
        assert!(store.counters().recovered > recovered, "{:?}", store.counters());

        // A lease that was granted although nobody heard of it.
        proxy.set(Mode::NoAnswers);
        let granted = {
            let store = Arc::clone(&store);
            tokio::spawn(async move { store.lease_grant(Duration::from_secs(60)).await })
        };
        tokio::time::sleep(Duration::from_millis(100)).await;
        proxy.set(Mode::Cut);
        tokio::time::sleep(Duration::from_millis(10)).await;
        proxy.set(Mode::Open);
        let lease = granted.await.unwrap().unwrap();
        let leases = cluster.client(0).await.leases().await.unwrap();
        assert_eq!(
            leases.leases().len(),
            1,
            "one lease, however often it was asked for"
        );
        store.lease_revoke(lease).await.unwrap();
    });
}

#[test]
fn what_was_given_up_does_not_happen_later() {
    isolated("faults::what_was_given_up_does_not_happen_later", || async {
        let cluster = Cluster::start(1).await;
        let (proxy, settings) = proxied(&cluster, Duration::from_secs(1)).await;
        let store = Arc::new(Etcd::open(settings).await.unwrap());
        store.put_if("k", b"before".to_vec(), Expect::Any).await.unwrap();
        // The link dies with the request on its way.
        proxy.set(Mode::Silent);
        let begun = Instant::now();
        let lost = store
            .put_if("k", b"lost".to_vec(), Expect::Any)
            .await
            .unwrap_err();
        assert!(matches!(lost, StoreError::Indeterminate { .. }), "{lost}");
        assert!(begun.elapsed() < Duration::from_secs(3));
        // What conflicts waits until that is settled; it does not get its turn.
        let next = store
            .put_if("k", b"next".to_vec(), Expect::Any)
            .await
            .unwrap_err();
        assert!(
            matches!(next, StoreError::Unavailable { .. }) && next.is_retryable(),
            "{next}"
        );
        proxy.set(Mode::Cut);
        tokio::time::sleep(Duration::from_millis(10)).await;
        proxy.set(Mode::Open);
        let after = loop {
            match store.put_if("k", b"after".to_vec(), Expect::Any).await {
                Ok(revision) => break revision,
                Err(error) => assert!(error.is_retryable(), "{error}"),
            }
        };
        tokio::time::sleep(Duration::from_secs(2)).await;
        let entry = store.get("k").await.unwrap().unwrap();
        assert_eq!(
            (entry.value.as_slice(), entry.revision),
            (b"after".as_slice(), after)
        );
    });
}

#[test]
fn a_queue_that_does_not_move_refuses_in_time() {
    isolated("faults::a_queue_that_does_not_move_refuses_in_time", || async {
        let mut cluster = Cluster::start(1).await;
        let mut settings = cluster.settings();
        settings.call_timeout = Duration::from_secs(1);
        let store = Arc::new(Etcd::open(settings).await.unwrap());
        cluster.kill(0);
        let begun = Instant::now();
        let writes = (0..12_000_u32).map(|n| {
            let store = Arc::clone(&store);
            async move { store.put_if(&format!("{n}"), vec![0; 100], Expect::Any).await }
        });
        let mut unknown = 0;
        for outcome in futures::future::join_all(writes).await {
            let error = outcome.unwrap_err();
            if matches!(error, StoreError::Indeterminate { .. }) {
                unknown += 1;
            } else {
                assert!(error.is_retryable(), "{error}");
            }
        }
        assert!(begun.elapsed() < Duration::from_secs(6), "{:?}", begun.elapsed());
        assert!(
            unknown <= 4 * 64,
            "only what was under way can have happened: {unknown}"
        );
        cluster.restart(0);
        cluster.ready().await;
        loop {
            match store.put_if("after", b"x".to_vec(), Expect::Any).await {
                Ok(_) => break,
                Err(error) => assert!(error.is_retryable(), "{error}"),
            }
        }
    });
}
