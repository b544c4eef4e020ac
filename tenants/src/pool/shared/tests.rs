//! Two nodes with one store: shares, takeovers, owners that are deposed.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use api::v1;
use api::v1::resource::Resource;
use proptest::prelude::*;
use store::{Durability, Embedded, Expect, Store};

use super::*;
use crate::proposal::SyntaxCheck;
use crate::registry::Registry;
use crate::testing::{TestSealer, change, pool as external, tenant};

const LEFT: Share = Share { index: 0, of: 2 };
const RIGHT: Share = Share { index: 1, of: 2 };

/// A store with a tenant and a pool, and what nodes do with it.
struct Rig {
    store: Arc<Embedded>,
    _directory: tempfile::TempDir,
}

impl Rig {
    async fn new(range: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cluster.db");
        let rig = Self {
            store: Arc::new(Embedded::open(&path, Durability::Normal).unwrap()),
            _directory: directory,
        };
        let node = rig.node().await;
        let pool = Resource::AddressPool(external("acme", range));
        change(&node, vec![Resource::Tenant(tenant("acme")), pool])
            .await
            .unwrap();
        rig
    }

    async fn node(&self) -> Arc<Registry> {
        Registry::open_shared(self.store.clone(), Arc::new(TestSealer), Arc::new(SyntaxCheck))
            .await
            .unwrap()
    }

    /// Makes a node the owner of a slot; what it has to compare with each write.
    async fn own(&self, share: Share, node: &str) -> Txn {
        let key = format!("slot/{:03}/owner", share.index);
        let put = self
            .store
            .put_if(&key, node.as_bytes().to_vec(), Expect::Any)
            .await;
        put.unwrap();
        // The epoch is not there as long as it is 0.
        Txn::new().when("epoch", Expect::Absent).when_value(key, node)
    }

    async fn record(&self, address: &str) -> Option<Record> {
        let entry = self.store.get(&key("acme", ip(address))).await.unwrap()?;
        Some(serde_json::from_slice(&entry.value).unwrap())
    }
}

fn of(node: &Registry) -> Arc<Pool> {
    node.pool("acme", "v4").unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn keys_are_in_the_order_of_the_addresses() {
    let addresses = [
        "9.255.0.1",
        "10.0.0.2",
        "10.0.0.10",
        "100.0.0.1",
        "10::",
        "2001:db8::9",
        "2001:db8::10",
    ];
    let keys: Vec<String> = addresses.iter().map(|text| key("acme", ip(text))).collect();
    let (v4, v6) = keys.split_at(4);
    assert!(v4.is_sorted() && v6.is_sorted(), "{keys:?}");
    assert_eq!(v4[2], "pool/acme/010.000.000.010");
    for (text, key) in addresses.iter().zip(&keys) {
        let (_, last) = key.rsplit_once('/').unwrap();
        assert_eq!(parse_address(last), Some(ip(text)));
    }
    assert_eq!(parse_address("10.0.0.7"), Some(ip("10.0.0.7")));
    for wrong in ["", "010.000.000", "010.000.000.256", "010.000.000.001.1", "ten"] {
        assert_eq!(parse_address(wrong), None, "{wrong}");
    }
}

#[tokio::test]
async fn each_slot_hands_out_its_own_block() {
    let rig = Rig::new("10.0.0.0/28").await;
    let (a, b) = (rig.node().await, rig.node().await);
    let (left, right) = (rig.own(LEFT, "a").await, rig.own(RIGHT, "b").await);
    let first = of(&a)
        .allocate_in("alice", None, Some(LEFT), &left)
        .await
        .unwrap();
    let second = of(&b)
        .allocate_in("bob", None, Some(RIGHT), &right)
        .await
        .unwrap();
    assert_eq!((first, second), (ip("10.0.0.1"), ip("10.0.0.8")));
    // A wish outside of the share is not granted.
    let wish = Some(ip("10.0.0.9"));
    let third = of(&a)
        .allocate_in("carol", wish, Some(LEFT), &left)
        .await
        .unwrap();
    assert_eq!(third, ip("10.0.0.2"));
    for n in 0..5 {
        let user = format!("user{n}");
        of(&a).allocate_in(&user, None, Some(LEFT), &left).await.unwrap();
    }
    let error = of(&a)
        .allocate_in("late", None, Some(LEFT), &left)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("all 7 are in use"), "{error}");
    assert_eq!(rig.record("10.0.0.1").await.unwrap().slot, Some(0));
    let block = &a.blocks(RIGHT)[0];
    assert_eq!(block.range.to_string(), "10.0.0.8-10.0.0.14");
    assert_eq!(block.prefixes[0].to_string(), "10.0.0.8/29");
}

#[tokio::test]
async fn a_deposed_owner_leases_nothing_and_frees_nothing() {
    let rig = Rig::new("10.0.0.0/28").await;
    let (a, b) = (rig.node().await, rig.node().await);
    let old = rig.own(LEFT, "a").await;
    let held = of(&a).allocate_in("alice", None, Some(LEFT), &old).await.unwrap();
    let new = rig.own(LEFT, "b").await;
    let refused = of(&a).allocate_in("bob", None, Some(LEFT), &old).await;
    assert!(matches!(refused, Err(PoolError::Fenced { .. })), "{refused:?}");
    assert_eq!(of(&a).in_use(), 1, "nothing is taken");
    of(&a).release_in("alice", held, Some(LEFT), &old).await.unwrap();
    assert!(
        rig.record("10.0.0.1").await.unwrap().in_use,
        "the session lives on at b"
    );
    assert_eq!(a.sweep_share(LEFT, &old).await.unwrap(), 0);

    // The new owner carries the session on without asking anybody, then learns the rest.
    b.forget_share(LEFT);
    of(&b).claim("alice", held).await.unwrap();
    let given = of(&b).allocate_in("bob", None, Some(LEFT), &new).await.unwrap();
    assert_eq!(given, ip("10.0.0.2"));
    of(&b).release_in("alice", held, Some(LEFT), &new).await.unwrap();
    assert!(!rig.record("10.0.0.1").await.unwrap().in_use);
    let again = of(&b).allocate_in("alice", None, Some(LEFT), &new).await.unwrap();
    assert_eq!(again, held, "sticky within the share");
}

#[tokio::test]
async fn a_new_owner_knows_what_the_old_one_did() {
    let rig = Rig::new("10.0.0.0/28").await;
    let (a, b) = (rig.node().await, rig.node().await);
    // b had the share before, and knows things that are no longer true.
    let fence = rig.own(LEFT, "b").await;
    let old = of(&b).allocate_in("old", None, Some(LEFT), &fence).await.unwrap();
    let fence = rig.own(LEFT, "a").await;
    b.forget_share(LEFT);
    of(&a).claim("old", old).await.unwrap();
    let mut given = Vec::new();
    for user in ["u1", "u2", "u3", "u4"] {
        given.push(of(&a).allocate_in(user, None, Some(LEFT), &fence).await.unwrap());
    }
    of(&a).release_in("old", old, Some(LEFT), &fence).await.unwrap();
    of(&a)
        .release_in("u2", given[1], Some(LEFT), &fence)
        .await
        .unwrap();

    let fence = rig.own(LEFT, "b").await;
    // u4's session was lost before its record was written; u1's and u3's are carried on.
    of(&b).claim("u1", given[0]).await.unwrap();
    assert_eq!(b.refresh_share(LEFT).await.unwrap(), 5);
    of(&b).claim("u3", given[2]).await.unwrap();
    assert_eq!(of(&b).in_use(), 3);
    assert_eq!(b.sweep_share(LEFT, &fence).await.unwrap(), 1);
    assert_eq!(of(&b).in_use(), 2);
    assert!(!rig.record(&given[3].to_string()).await.unwrap().in_use);
    for (user, address) in [("u2", given[1]), ("u4", given[3]), ("old", old)] {
        let again = of(&b).allocate_in(user, None, Some(LEFT), &fence).await.unwrap();
        assert_eq!(again, address, "{user} comes back to it");
    }
    let fresh = of(&b).allocate_in("new", None, Some(LEFT), &fence).await.unwrap();
    assert_eq!(fresh, ip("10.0.0.6"));
}

#[tokio::test]
async fn a_sweep_by_a_deposed_owner_changes_nothing() {
    let rig = Rig::new("10.0.0.0/28").await;
    let (a, b) = (rig.node().await, rig.node().await);
    let first = rig.own(LEFT, "a").await;
    of(&a)
        .allocate_in("alice", None, Some(LEFT), &first)
        .await
        .unwrap();
    let second = rig.own(LEFT, "b").await;
    b.refresh_share(LEFT).await.unwrap();
    let _third = rig.own(LEFT, "a").await;
    b.sweep_share(LEFT, &second).await.unwrap();
    assert!(rig.record("10.0.0.1").await.unwrap().in_use);
}

#[tokio::test]
async fn an_address_of_another_slots_session_is_left_alone() {
    let rig = Rig::new("10.0.0.0/28").await;
    let (a, b) = (rig.node().await, rig.node().await);
    let (left, right) = (rig.own(LEFT, "a").await, rig.own(RIGHT, "b").await);
    let held = of(&a)
        .allocate_in("alice", None, Some(LEFT), &left)
        .await
        .unwrap();
    // The pool is moved such that the address lies in the other block.
    let moved = Resource::AddressPool(external("acme", "9.255.255.240-10.0.0.1"));
    change(&a, vec![moved]).await.unwrap();
    for node in [&a, &b] {
        while of(node).block(LEFT).unwrap().contains(held) || !of(node).block(RIGHT).unwrap().contains(held) {
            tokio::task::yield_now().await;
        }
    }
    b.refresh_share(RIGHT).await.unwrap();
    assert_eq!(
        b.sweep_share(RIGHT, &right).await.unwrap(),
        0,
        "it is not b's to free"
    );
    let block = of(&b).block(RIGHT).unwrap();
    for _ in 1..block.size() {
        let given = of(&b)
            .allocate_in("many", None, Some(RIGHT), &right)
            .await
            .unwrap();
        assert!(given != held && block.contains(given));
    }
    // Its own slot gives it back; then it is the other's.
    of(&a).release_in("alice", held, Some(LEFT), &left).await.unwrap();
    assert!(rig.record("10.0.0.1").await.is_none());
    let last = of(&b)
        .allocate_in("last", None, Some(RIGHT), &right)
        .await
        .unwrap();
    assert_eq!(last, held);
}

#[tokio::test]
async fn a_share_is_forgotten_whatever_happened_to_its_pool() {
    let rig = Rig::new("10.0.0.0/28").await;
    let a = rig.node().await;
    let fence = rig.own(LEFT, "a").await;
    let moved = || Resource::AddressPool(external("acme", "10.0.0.0/27"));
    for what in ["nothing", "another range", "the store went back"] {
        let given = of(&a)
            .allocate_in("alice", None, Some(LEFT), &fence)
            .await
            .unwrap();
        match what {
            "another range" => drop(change(&a, vec![moved()]).await.unwrap()),
            "the store went back" => of(&a).store_went_back(),
            _ => {}
        }
        assert!(of(&a).in_use() > 0, "{what}");
        a.forget_share(LEFT);
        assert_eq!(of(&a).in_use(), 0, "{what}");
        // Whoever has it by now may claim it.
        of(&a).claim("bob", given).await.unwrap();
        a.forget_share(LEFT);
    }
}

#[tokio::test]
async fn more_leases_than_a_page_are_read() {
    let rig = Rig::new("10.0.0.0/16").await;
    let a = rig.node().await;
    let fence = rig.own(RIGHT, "a").await;
    let count = u32::try_from(Limits::RANGE).unwrap() + 7;
    let record = of(&a).record("x", true, Some(RIGHT)).encode().unwrap();
    let block = of(&a).block(RIGHT).unwrap();
    let leases: Vec<u32> = (0..count).collect();
    for chunk in leases.chunks(1_000) {
        let txn = chunk.iter().fold(store::Txn::new(), |txn, n| {
            txn.put(key("acme", block.at(u128::from(*n)).unwrap()), record.clone())
        });
        rig.store.txn(txn).await.unwrap();
    }
    // What lies before and behind the block is not read.
    for beside in ["10.0.127.255", "10.1.0.0"] {
        let put = rig
            .store
            .put_if(&key("acme", ip(beside)), record.clone(), Expect::Absent)
            .await;
        put.unwrap();
    }
    assert_eq!(
        a.refresh_share(RIGHT).await.unwrap(),
        usize::try_from(count).unwrap()
    );
    assert_eq!(of(&a).in_use(), u64::from(count));
    let next = of(&a).allocate_in("y", None, Some(RIGHT), &fence).await.unwrap();
    assert_eq!(block.offset(next), Some(u128::from(count)));
}

#[tokio::test]
async fn audit_records_of_other_nodes_are_seen() {
    let rig = Rig::new("10.0.0.0/28").await;
    let (a, b) = (rig.node().await, rig.node().await);
    for (node, name) in [(&a, "one"), (&b, "two"), (&a, "three")] {
        let note = v1::Change {
            name: name.into(),
            kind: "Cluster".into(),
            ..Default::default()
        };
        node.record_command(&crate::testing::actor(), note).await.unwrap();
    }
    for node in [&a, &b] {
        let names = || -> Vec<String> {
            let found = node.audit(None, 10, |record| record.change.kind == "Cluster");
            found
                .iter()
                .rev()
                .map(|record| record.change.name.clone())
                .collect()
        };
        while names().len() < 3 {
            tokio::task::yield_now().await;
        }
        assert_eq!(names(), ["one", "two", "three"]);
    }
}

/// What happens to a slot of two in a history.
#[derive(Clone, Debug)]
enum Step {
    Login(u8, u8),
    Logout(u8),
    /// Another node takes the slot; of the sessions that are there one may be lost.
    Take(u8, u8, Option<u8>),
    /// The node that lost a slot last goes on as if it had not.
    Stale(u8, u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..2_u8, 0..5_u8).prop_map(|(slot, user)| Step::Login(slot, user)),
        4 => (0..64_u8).prop_map(Step::Logout),
        3 => (0..2_u8, 0..3_u8, prop::option::of(0..64_u8)).prop_map(|(slot, node, lost)| Step::Take(slot, node, lost)),
        2 => (0..2_u8, 0..5_u8).prop_map(|(slot, user)| Step::Stale(slot, user)),
    ]
}

/// A session, as its record has it.
#[derive(Clone, Debug)]
struct Session {
    slot: usize,
    user: String,
    address: IpAddr,
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Over any history of logins, ends, takeovers and stale owners no two live sessions have one address.
    #[test]
    fn no_address_is_anybodys_twice(steps in prop::collection::vec(step(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(history(steps))?;
    }
}

async fn history(steps: Vec<Step>) -> Result<(), TestCaseError> {
    let rig = Rig::new("10.0.0.0/28").await;
    let nodes = [rig.node().await, rig.node().await, rig.node().await];
    let shares = [LEFT, RIGHT];
    let mut generation = 0;
    let mut owner = [0, 1];
    let mut stale: [Option<(usize, Txn)>; 2] = [None, None];
    let mut fences = [rig.own(LEFT, "g0").await, rig.own(RIGHT, "g0").await];
    let mut live: BTreeMap<IpAddr, Session> = BTreeMap::new();
    // What each node has taken back and not written down.
    let mut waiting: BTreeSet<(usize, IpAddr)> = BTreeSet::new();
    for step in steps {
        match step {
            Step::Login(slot, user) => {
                let slot = usize::from(slot);
                let user = format!("user{user}");
                let pool = of(&nodes[owner[slot]]);
                let used = live.values().filter(|session| session.slot == slot).count();
                match pool
                    .allocate_in(&user, None, Some(shares[slot]), &fences[slot])
                    .await
                {
                    Ok(address) => {
                        prop_assert!(pool.block(shares[slot]).unwrap().contains(address));
                        let session = Session { slot, user, address };
                        prop_assert!(live.insert(address, session).is_none(), "{} twice", address);
                    }
                    Err(PoolError::Exhausted { .. }) => prop_assert_eq!(used, 7),
                    Err(error) => prop_assert!(false, "{}", error),
                }
            }
            Step::Logout(n) => {
                let Some(session) = live.values().nth(usize::from(n) % live.len().max(1)).cloned() else {
                    continue;
                };
                let (slot, pool) = (session.slot, of(&nodes[owner[session.slot]]));
                let (user, address, share) = (&session.user, session.address, Some(shares[slot]));
                live.remove(&address);
                // Written at once, after others, or not before the slot moves on.
                match n % 3 {
                    0 => pool
                        .release_in(user, address, share, &fences[slot])
                        .await
                        .unwrap(),
                    how => {
                        pool.give_back_in(user, address, share, &fences[slot])
                            .await
                            .unwrap();
                        if how == 1 {
                            waiting.insert((owner[slot], address));
                            continue;
                        }
                        pool.write_returned(Duration::ZERO).await;
                        waiting.retain(|(node, _)| *node != owner[slot]);
                    }
                }
                prop_assert!(!rig.record(&address.to_string()).await.unwrap().in_use);
            }
            Step::Take(slot, node, lost) => {
                let (slot, node) = (usize::from(slot), usize::from(node));
                if owner[slot] == node {
                    continue;
                }
                stale[slot] = Some((owner[slot], fences[slot].clone()));
                owner[slot] = node;
                generation += 1;
                fences[slot] = rig.own(shares[slot], &format!("g{generation}")).await;
                let mut sessions: Vec<Session> = live
                    .values()
                    .filter(|session| session.slot == slot)
                    .cloned()
                    .collect();
                if let Some(lost) = lost.filter(|_| !sessions.is_empty()) {
                    let gone = sessions.remove(usize::from(lost) % sessions.len());
                    live.remove(&gone.address);
                }
                nodes[node].forget_share(shares[slot]);
                for session in &sessions {
                    of(&nodes[node])
                        .claim(&session.user, session.address)
                        .await
                        .unwrap();
                }
                nodes[node].refresh_share(shares[slot]).await.unwrap();
                nodes[node]
                    .sweep_share(shares[slot], &fences[slot])
                    .await
                    .unwrap();
            }
            Step::Stale(slot, user) => {
                let slot = usize::from(slot);
                let Some((node, fence)) = stale[slot].clone().filter(|(node, _)| *node != owner[slot]) else {
                    continue;
                };
                let pool = of(&nodes[node]);
                let outcome = pool
                    .allocate_in(&format!("user{user}"), None, Some(shares[slot]), &fence)
                    .await;
                // Who comes back to a deposed owner costs it no write: it is the session's record that is refused then.
                let kept = outcome
                    .as_ref()
                    .is_ok_and(|address| waiting.contains(&(node, *address)));
                prop_assert!(outcome.is_err() || kept, "a deposed owner leased {:?}", outcome);
            }
        }
        // The store agrees with the sessions, but for what has been given back a moment ago.
        let (leases, _) = rig.store.range("pool/", None, 100).await.unwrap();
        let in_use: BTreeSet<IpAddr> = leases
            .iter()
            .filter(|(_, entry)| serde_json::from_slice::<Record>(&entry.value).unwrap().in_use)
            .map(|(key, _)| parse_address(key.rsplit_once('/').unwrap().1).unwrap())
            .collect();
        prop_assert!(live.keys().all(|address| in_use.contains(address)));
        for address in in_use.iter().filter(|address| !live.contains_key(address)) {
            prop_assert!(waiting.iter().any(|(_, waits)| waits == address), "{}", address);
        }
    }
    Ok(())
}

#[test]
fn a_note_of_the_slot_is_only_in_clusters() {
    let record = Record {
        pool: "v4".into(),
        owner: "alice".into(),
        in_use: true,
        slot: None,
    };
    let text = String::from_utf8(record.encode().unwrap()).unwrap();
    assert!(!text.contains("slot"), "{text}");
    assert_eq!(serde_json::from_str::<Record>(&text).unwrap(), record);
}

#[tokio::test]
async fn who_comes_back_in_time_costs_no_write() {
    let rig = Rig::new("10.0.0.0/28").await;
    let (a, fence) = (rig.node().await, rig.own(LEFT, "a").await);
    let pool = of(&a);
    let held = pool.allocate_in("alice", None, Some(LEFT), &fence).await.unwrap();
    let revision = async || rig.store.get(&key("acme", held)).await.unwrap().unwrap().revision;
    let written = revision().await;
    for _ in 0..3 {
        pool.give_back_in("alice", held, Some(LEFT), &fence)
            .await
            .unwrap();
        assert_eq!(pool.in_use(), 0);
        let again = pool.allocate_in("alice", None, Some(LEFT), &fence).await.unwrap();
        assert_eq!((again, pool.in_use()), (held, 1));
    }
    // What was given back three times is in use: nothing is written down of it.
    pool.write_returned(Duration::ZERO).await;
    assert_eq!(revision().await, written);
    pool.give_back_in("alice", held, Some(LEFT), &fence)
        .await
        .unwrap();
    assert!(rig.record("10.0.0.1").await.unwrap().in_use, "it waits");
    pool.write_returned(Duration::ZERO).await;
    let record = rig.record("10.0.0.1").await.unwrap();
    assert!(!record.in_use && record.owner == "alice");
    let again = pool.allocate_in("alice", None, Some(LEFT), &fence).await.unwrap();
    assert_eq!(again, held);
    assert!(
        rig.record("10.0.0.1").await.unwrap().in_use,
        "it was written again"
    );
}

#[tokio::test]
async fn what_was_given_back_is_written_together() {
    let rig = Rig::new("10.0.0.0/24").await;
    let (a, fence) = (rig.node().await, rig.own(LEFT, "a").await);
    let pool = of(&a);
    let mut held = Vec::new();
    for user in 0..30 {
        let owner = format!("user{user}");
        let address = pool.allocate_in(&owner, None, Some(LEFT), &fence).await.unwrap();
        held.push((owner, address));
    }
    for (owner, address) in &held {
        pool.give_back_in(owner, *address, Some(LEFT), &fence)
            .await
            .unwrap();
    }
    // One of them is another's meanwhile, as far as the store says: the rest is written all the same.
    let odd = key("acme", held[7].1);
    let foreign = rig.store.get(&odd).await.unwrap().unwrap().value;
    rig.store.put_if(&odd, foreign, Expect::Present).await.unwrap();
    let before = rig.store.get(&odd).await.unwrap().unwrap().revision;
    pool.write_returned(Duration::ZERO).await;
    for (number, (_, address)) in held.iter().enumerate() {
        let record = rig.record(&address.to_string()).await.unwrap();
        assert_eq!(record.in_use, number == 7, "{number}");
    }
    assert_eq!(rig.store.get(&odd).await.unwrap().unwrap().revision, before);
}

#[tokio::test]
async fn an_address_that_waits_is_anothers_when_it_is_needed_and_the_next_owners_to_sweep() {
    let rig = Rig::new("10.0.0.0/28").await;
    let (a, first) = (rig.node().await, rig.own(LEFT, "a").await);
    let pool = of(&a);
    for user in 0..7 {
        pool.allocate_in(&format!("user{user}"), None, Some(LEFT), &first)
            .await
            .unwrap();
    }
    for (user, address) in [("user2", "10.0.0.3"), ("user4", "10.0.0.5")] {
        pool.give_back_in(user, ip(address), Some(LEFT), &first)
            .await
            .unwrap();
    }
    let given = pool.allocate_in("late", None, Some(LEFT), &first).await.unwrap();
    assert_eq!(given, ip("10.0.0.3"), "the one that is idle for longest");
    let late = rig.record("10.0.0.3").await.unwrap();
    assert!(late.in_use && late.owner == "late");
    // The node loses the slot before it has written the other one down.
    let (b, second) = (rig.node().await, rig.own(LEFT, "b").await);
    pool.write_returned(Duration::ZERO).await;
    assert_eq!(rig.record("10.0.0.3").await.unwrap(), late);
    assert!(
        rig.record("10.0.0.5").await.unwrap().in_use,
        "it may not write any more"
    );
    b.refresh_share(LEFT).await.unwrap();
    for user in [0, 1, 3, 5, 6] {
        let address = ip(&format!("10.0.0.{}", user + 1));
        of(&b).claim(&format!("user{user}"), address).await.unwrap();
    }
    of(&b).claim("late", ip("10.0.0.3")).await.unwrap();
    assert_eq!(b.sweep_share(LEFT, &second).await.unwrap(), 1);
    assert!(!rig.record("10.0.0.5").await.unwrap().in_use);
    let back = of(&b)
        .allocate_in("user4", None, Some(LEFT), &second)
        .await
        .unwrap();
    assert_eq!(back, ip("10.0.0.5"), "still user4's");
}
