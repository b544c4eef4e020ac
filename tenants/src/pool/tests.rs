//! Pools over a real store, and their book against a simple model.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use std::collections::{BTreeMap, BTreeSet};

use api::v1;
use api::v1::resource::Resource;
use proptest::prelude::*;

use super::*;
use crate::testing::{World, pool as external, strings, tenant};

async fn world(range: &str, exclusions: &[&str], not_sticky: bool) -> World {
    let world = World::new().await;
    let pool = v1::AddressPool {
        exclusions: strings(exclusions),
        not_sticky,
        ..external("acme", range)
    };
    world
        .apply(vec![
            Resource::Tenant(tenant("acme")),
            Resource::AddressPool(pool),
        ])
        .await
        .unwrap();
    world
}

fn of(world: &World) -> Arc<Pool> {
    world.registry.pool("acme", "v4").unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[tokio::test]
async fn addresses_come_in_order_and_run_out() {
    let world = world("10.0.0.0/29", &["10.0.0.2-10.0.0.4"], false).await;
    let pool = of(&world);
    let mut given = Vec::new();
    for user in ["a", "b", "c"] {
        given.push(pool.allocate(user, None).await.unwrap());
    }
    assert_eq!(given, [ip("10.0.0.1"), ip("10.0.0.5"), ip("10.0.0.6")]);
    assert_eq!(pool.in_use(), 3);
    let error = pool.allocate("d", None).await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("acme/v4 has no free address: all 3 are in use"),
        "{error}"
    );
}

#[tokio::test]
async fn an_owner_comes_back_to_the_last_address() {
    let world = world("10.0.0.0/24", &[], false).await;
    let pool = of(&world);
    let first = pool.allocate("alice", None).await.unwrap();
    pool.release("alice", first).await.unwrap();
    let other = pool.allocate("bob", None).await.unwrap();
    assert_ne!(other, first, "fresh addresses go before idle ones");
    assert_eq!(pool.allocate("alice", None).await.unwrap(), first);
    assert_ne!(
        pool.allocate("alice", None).await.unwrap(),
        first,
        "a second session has another address"
    );
}

#[tokio::test]
async fn a_pool_that_is_not_sticky_gives_others() {
    let world = world("10.0.0.0/24", &[], true).await;
    let pool = of(&world);
    let first = pool.allocate("alice", None).await.unwrap();
    pool.release("alice", first).await.unwrap();
    assert_ne!(pool.allocate("alice", None).await.unwrap(), first);
}

#[tokio::test]
async fn the_longest_idle_address_goes_first_when_none_is_fresh() {
    let world = world("10.0.0.1-10.0.0.2", &[], false).await;
    let pool = of(&world);
    let (a, b) = (
        pool.allocate("a", None).await.unwrap(),
        pool.allocate("b", None).await.unwrap(),
    );
    pool.release("b", b).await.unwrap();
    pool.release("a", a).await.unwrap();
    assert_eq!(pool.allocate("c", None).await.unwrap(), b);
    assert_eq!(pool.allocate("a", None).await.unwrap(), a);
    assert!(pool.allocate("b", None).await.is_err());
}

#[tokio::test]
async fn wishes_are_granted_when_nobody_else_is_hurt() {
    let world = world("10.0.0.0/24", &["10.0.0.9"], false).await;
    let pool = of(&world);
    assert_eq!(
        pool.allocate("alice", Some(ip("10.0.0.77"))).await.unwrap(),
        ip("10.0.0.77")
    );
    assert_ne!(
        pool.allocate("bob", Some(ip("10.0.0.77"))).await.unwrap(),
        ip("10.0.0.77")
    );
    pool.release("alice", ip("10.0.0.77")).await.unwrap();
    assert_ne!(
        pool.allocate("bob", Some(ip("10.0.0.77"))).await.unwrap(),
        ip("10.0.0.77"),
        "idle, but alice's"
    );
    assert_ne!(
        pool.allocate("carol", Some(ip("10.0.0.9"))).await.unwrap(),
        ip("10.0.0.9"),
        "excluded"
    );
    assert!(
        pool.allocate("carol", Some(ip("192.0.2.1")))
            .await
            .unwrap()
            .to_string()
            .starts_with("10.0.0.")
    );
}

#[tokio::test]
async fn only_the_owner_gives_back() {
    let world = world("10.0.0.0/24", &[], false).await;
    let pool = of(&world);
    let address = pool.allocate("alice", None).await.unwrap();
    pool.release("mallory", address).await.unwrap();
    assert_eq!(pool.in_use(), 1);
    pool.release("alice", address).await.unwrap();
    pool.release("alice", address).await.unwrap();
    assert_eq!(pool.in_use(), 0);
}

#[tokio::test]
async fn leases_survive_a_restart_until_they_are_swept() {
    let world = world("10.0.0.0/24", &[], false).await;
    let (alice, bob) = {
        let pool = of(&world);
        (
            pool.allocate("alice", None).await.unwrap(),
            pool.allocate("bob", None).await.unwrap(),
        )
    };
    let world = world.restart().await;
    let pool = of(&world);
    assert_eq!(
        pool.in_use(),
        2,
        "what was in use is kept until it is known whether its session lives"
    );
    pool.claim("alice", alice).await.unwrap();
    assert_eq!(
        pool.claim("alice", bob).await,
        Err(PoolError::Taken { address: bob })
    );
    assert_eq!(world.registry.sweep_unclaimed().await.unwrap(), 1);
    assert_eq!(pool.in_use(), 1);
    assert_eq!(
        pool.allocate("bob", None).await.unwrap(),
        bob,
        "a swept lease is still sticky"
    );
    drop(pool);
    let world = world.restart().await;
    of(&world).claim("alice", alice).await.unwrap();
    of(&world).claim("bob", bob).await.unwrap();
    assert_eq!(world.registry.sweep_unclaimed().await.unwrap(), 0);
}

#[tokio::test]
async fn a_store_that_knows_better_is_believed() {
    let world = world("10.0.0.0/29", &[], false).await;
    let pool = of(&world);
    // Another node has given the first address out.
    let record = Record {
        pool: "v4".into(),
        owner: "far".into(),
        in_use: true,
        slot: None,
    };
    let key = key("acme", ip("10.0.0.1"));
    world
        .store
        .put_if(&key, record.encode().unwrap(), Expect::Absent)
        .await
        .unwrap();
    assert_eq!(pool.allocate("near", None).await.unwrap(), ip("10.0.0.2"));
    assert_eq!(pool.in_use(), 2);
}

#[tokio::test]
async fn a_failed_write_takes_nothing() {
    struct Broken;
    #[async_trait::async_trait]
    impl Store for Broken {
        async fn get(&self, _: &str) -> Result<Option<store::Entry>, StoreError> {
            Ok(None)
        }
        async fn range(
            &self,
            _: &str,
            _: Option<&str>,
            _: usize,
        ) -> Result<(Vec<(String, store::Entry)>, Revision), StoreError> {
            Ok((Vec::new(), 0))
        }
        async fn txn(&self, _: Txn) -> Result<store::TxnOutcome, StoreError> {
            Err(StoreError::Io {
                reason: "disk full".into(),
            })
        }
        async fn watch(&self, _: &str, _: Option<Revision>) -> Result<store::WatchStream, StoreError> {
            Err(StoreError::Io {
                reason: "disk full".into(),
            })
        }
        async fn lease_grant(&self, _: std::time::Duration) -> Result<store::LeaseId, StoreError> {
            Err(StoreError::Io {
                reason: "disk full".into(),
            })
        }
        async fn lease_keep_alive(&self, _: store::LeaseId) -> Result<(), StoreError> {
            Ok(())
        }
        async fn lease_revoke(&self, _: store::LeaseId) -> Result<(), StoreError> {
            Ok(())
        }
    }
    let config = crate::validate::pool(&external("acme", "10.0.0.0/29")).unwrap();
    let pool = Pool::new(&Arc::new(config), Arc::new(Broken), false);
    for _ in 0..20 {
        assert!(matches!(
            pool.allocate("a", None).await,
            Err(PoolError::Store(StoreError::Io { .. }))
        ));
    }
    assert_eq!(pool.in_use(), 0);
}

#[tokio::test]
async fn a_changed_range_keeps_who_is_there() {
    let world = world("10.0.0.0/29", &[], false).await;
    let pool = of(&world);
    let old = pool.allocate("alice", None).await.unwrap();
    let idle = pool.allocate("bob", None).await.unwrap();
    pool.release("bob", idle).await.unwrap();
    world
        .apply(vec![Resource::AddressPool(external("acme", "10.0.1.0/29"))])
        .await
        .unwrap();
    assert_eq!(pool.in_use(), 1);
    assert_eq!(
        pool.allocate("bob", None).await.unwrap(),
        ip("10.0.1.1"),
        "an idle lease outside is gone"
    );
    pool.release("alice", old).await.unwrap();
    assert_eq!(pool.allocate("alice", None).await.unwrap(), ip("10.0.1.2"));
}

#[derive(Clone, Debug)]
enum Step {
    Allocate(u8, Option<u8>),
    Release(u8, u8),
}

proptest! {
    #[test]
    fn no_address_is_given_twice(steps in prop::collection::vec(
        prop_oneof![
            3 => (0..6_u8, prop::option::of(0..20_u8)).prop_map(|(owner, wanted)| Step::Allocate(owner, wanted)),
            2 => (0..6_u8, 0..20_u8).prop_map(|(owner, address)| Step::Release(owner, address)),
        ],
        1..120,
    )) {
        let external = v1::AddressPool { exclusions: strings(&["10.0.0.4", "10.0.0.10-10.0.0.11"]), ..external("acme", "10.0.0.0/28") };
        let config = Arc::new(crate::validate::pool(&external).unwrap());
        let capacity = config.capacity();
        let mut book = Book::new(Arc::clone(&config), false);
        let mut held: BTreeMap<IpAddr, String> = BTreeMap::new();
        let mut last: BTreeMap<String, IpAddr> = BTreeMap::new();
        let address = |n: u8| ip(&format!("10.0.0.{n}"));
        for (revision, step) in (1..).zip(steps) {
            match step {
                Step::Allocate(owner, wanted) => {
                    let owner = format!("user{owner}");
                    match book.choose(&owner, wanted.map(address), None) {
                        Some(chosen) => {
                            let given = chosen.address;
                            prop_assert!(config.range.contains(given));
                            prop_assert!(!config.exclusions.iter().any(|gap| gap.contains(given)));
                            prop_assert!(held.insert(given, owner.clone()).is_none(), "{} was in use", given);
                            book.written(&chosen, revision);
                            last.remove(&owner);
                        }
                        None => prop_assert_eq!(held.len() as u64, capacity),
                    }
                }
                Step::Release(owner, n) => {
                    let owner = format!("user{owner}");
                    let released = book.release(&owner, address(n), None);
                    let mine = held.get(&address(n)) == Some(&owner);
                    prop_assert_eq!(released.is_some(), mine);
                    if mine {
                        held.remove(&address(n));
                        last.insert(owner, address(n));
                    }
                }
            }
            prop_assert_eq!(book.in_use(), held.len() as u64);
        }
        // Whoever comes back gets a last address, unless somebody needed it in the meantime.
        let owners: BTreeSet<String> = last.keys().cloned().collect();
        for owner in owners {
            if held.len() as u64 == capacity {
                break;
            }
            let given = book.choose(&owner, None, None).unwrap().address;
            prop_assert!(held.insert(given, owner).is_none());
        }
    }
}
