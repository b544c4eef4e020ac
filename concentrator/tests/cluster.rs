//! A cluster of three real daemons over a real etcd: slots are claimed, move and are taken over, and live sessions go
//! with them.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "tests"
)]

mod common;

use std::time::{Duration, Instant};

use api::v1;
use common::nodes::{NODES, World, in_world};
use common::{Client, block_on};

const SECOND: Duration = Duration::from_secs(1);

/// Three nodes, one tenant, one user logged in at slot 0; the user, and the index of the node that serves it.
fn three_nodes(slots: u8) -> (World, Client, usize) {
    let mut world = World::new(slots);
    for node in 0..NODES.len() {
        world.start(node);
    }
    let owners = block_on(async {
        world
            .until(0, "three nodes are heard", |status| {
                let alive = |node: &&v1::ClusterNode| node.state() == v1::ClusterNodeState::Alive;
                status.nodes.iter().filter(alive).count() == NODES.len()
            })
            .await;
        let users = [("alice@acme.example", "one"), ("bob@acme.example", "two")];
        world.provision(0, "acme", "10.77.0.0/16", &users).await;
        world.served(0).await
    });
    let owner = NODES.iter().position(|name| *name == owners[0]).unwrap();
    let mut alice = Client::calling(
        &World::address(0),
        "192.0.2.201",
        "alice@acme.example",
        "acme.gw.example",
        "one",
    );
    alice.login();
    (world, alice, owner)
}

/// Moves slot 0 to the node `to`, as asked of the node `asked`.
fn move_slot(world: &World, asked: usize, to: usize) {
    block_on(async {
        let channel = world.api(asked).await;
        v1::cluster_service_client::ClusterServiceClient::new(channel)
            .r#move(v1::MoveRequest {
                slot: 0,
                to: NODES[to].to_owned(),
                wait: true,
                timeout_secs: 20,
            })
            .await
            .unwrap_or_else(|error| panic!("{error}\n{}", world.logs()));
    });
}

/// The owner of slot 0 is killed: another node has it, its address and alice's session within a second.
#[test]
fn a_killed_nodes_sessions_go_on_elsewhere() {
    if !in_world("a_killed_nodes_sessions_go_on_elsewhere") {
        return;
    }
    let (mut world, mut alice, owner) = three_nodes(4);
    assert!(alice.alive(2 * SECOND));
    world.kill(owner);
    let begun = Instant::now();
    assert!(alice.alive(5 * SECOND), "{}", world.logs());
    let silence = begun.elapsed();
    println!("the answer came after {silence:?}");
    assert!(
        !World::has_address(owner, &World::address(0)),
        "the witness took it away"
    );
    let other = (owner + 1) % NODES.len();
    let owners = block_on(world.served(other));
    assert!(!owners.contains(&NODES[owner].to_owned()), "{owners:?}");
    assert!(silence < 3 * SECOND, "{silence:?}");
    alice.command(ike::Command::RekeyIke);
    assert!(
        alice.run(5 * SECOND, |alice| alice.rekeyed > 0),
        "the next owner rekeys"
    );
    // The address is still alice's: bob gets another one.
    let mut bob = Client::calling(
        &World::address(0),
        "192.0.2.202",
        "bob@acme.example",
        "acme.gw.example",
        "two",
    );
    bob.login();
    assert_ne!(bob.children[0].ts_local, alice.children[0].ts_local);
}

/// Without etcd a node waits and says that it does not serve; it serves when etcd is there, goes on when that is gone, and
/// says what it cannot do then; and it takes nobody once it is drained.
#[test]
fn health_follows_the_store_and_the_operator() {
    if !in_world("health_follows_the_store_and_the_operator") {
        return;
    }
    let mut world = World::new(1);
    world.stop_etcd();
    world.start(0);
    let all = ["", "vpn.tunnels", "vpn.store", "vpn.logins", "vpn.v1.NodeService"];
    block_on(async {
        world.healthy(0, &all.map(|service| (service, false))).await;
        assert_eq!(world.health(0, "vpn.unheard").await, None);
        // Longer than every time-out of a call.
        tokio::time::sleep(6 * SECOND).await;
        world.healthy(0, &[("", false)]).await;
    });
    assert!(world.runs(0), "it waits:\n{}", world.logs());
    assert!(
        world.logs().contains("etcd does not answer yet"),
        "{}",
        world.logs()
    );
    world.start_etcd();
    block_on(async {
        world.healthy(0, &all.map(|service| (service, true))).await;
        world.served(0).await;
    });
    world.stop_etcd();
    let held = [
        ("vpn.store", false),
        ("vpn.logins", false),
        ("vpn.tunnels", true),
        ("", true),
    ];
    block_on(world.healthy(0, &held));
    world.start_etcd();
    block_on(async {
        world.healthy(0, &all.map(|service| (service, true))).await;
        let channel = world.api(0).await;
        // Nobody is there to take the slot: the order waits, the node is draining all the same.
        v1::cluster_service_client::ClusterServiceClient::new(channel)
            .drain(v1::DrainRequest::default())
            .await
            .unwrap();
        let drained = [
            ("", false),
            ("vpn.logins", false),
            ("vpn.tunnels", true),
            ("vpn.store", true),
        ];
        world.healthy(0, &drained).await;
    });
}

/// An operator moves a slot there and back: no answer takes longer than a moment.
#[test]
fn a_slot_moves_on_request() {
    if !in_world("a_slot_moves_on_request") {
        return;
    }
    let (world, mut alice, owner) = three_nodes(2);
    for to in [(owner + 1) % 3, (owner + 2) % 3, owner] {
        move_slot(&world, to, to);
        let begun = Instant::now();
        assert!(alice.alive(5 * SECOND), "{}", world.logs());
        println!("the answer came after {:?}", begun.elapsed());
        let owners = block_on(world.served(to));
        assert_eq!(owners[0], NODES[to]);
        assert!(World::has_address(to, &World::address(0)));
    }
    drop(world);
}

/// A node that is told to stop hands everything over and ends; alice does not notice.
#[test]
fn a_node_that_stops_hands_its_slots_over() {
    if !in_world("a_node_that_stops_hands_its_slots_over") {
        return;
    }
    let (mut world, mut alice, owner) = three_nodes(3);
    world.signal(owner, "TERM");
    assert!(alice.alive(5 * SECOND), "{}", world.logs());
    assert!(world.wait(owner), "it ends well");
    assert!(alice.alive(5 * SECOND), "{}", world.logs());
    assert!(!World::has_address(owner, &World::address(0)));
    let owners = block_on(world.served((owner + 1) % 3));
    assert!(!owners.contains(&NODES[owner].to_owned()), "{owners:?}");
}

/// A node that stood still wakes up after its slots were taken: it notices before it says anything.
#[test]
fn a_node_that_was_paused_gives_way() {
    if !in_world("a_node_that_was_paused_gives_way") {
        return;
    }
    let (world, mut alice, owner) = three_nodes(2);
    world.signal(owner, "STOP");
    assert!(alice.alive(10 * SECOND), "{}", world.logs());
    common::eventually(
        "the witness takes the address of a node that stands still",
        || !World::has_address(owner, &World::address(0)),
    );
    world.signal(owner, "CONT");
    let status = block_on(world.until(owner, "it knows better", |status| {
        status.slots[0].owner != NODES[owner] || !status.slots[0].owner.is_empty()
    }));
    drop(status);
    assert!(alice.alive(5 * SECOND), "{}", world.logs());
    let owners = block_on(world.served(owner));
    assert_eq!(owners.len(), 2);
}

/// A node that is cut off and goes on believing that it owns a slot: another one takes it, alice goes with it, and when
/// the first one hears again, the store has refused its records: it gives way.
#[test]
fn a_node_that_only_believes_is_fenced() {
    if !in_world("a_node_that_only_believes_is_fenced") {
        return;
    }
    let (world, mut alice, liar) = three_nodes(2);
    block_on(async {
        let channel = world.api(liar).await;
        v1::node_service_client::NodeServiceClient::new(channel)
            .inject_fault(v1::InjectFaultRequest {
                target: "own_slot".to_owned(),
                selector: "0".to_owned(),
                ..Default::default()
            })
            .await
            .unwrap_or_else(|error| panic!("{error}\n{}", world.logs()));
    });
    World::cut_off(liar, true);
    let other = (liar + 1) % 3;
    block_on(world.until(other, "another node serves it", |status| {
        let slot = &status.slots[0];
        slot.state() == v1::ClusterSlotState::Serving && slot.owner != NODES[liar]
    }));
    assert!(World::has_address(liar, &World::address(0)), "it still believes");
    alice.command(ike::Command::RekeyIke);
    assert!(
        alice.run(10 * SECOND, |alice| alice.rekeyed > 0),
        "the new owner may change things\n{}",
        world.logs()
    );
    World::cut_off(liar, false);
    common::eventually("it gives way", || !World::has_address(liar, &World::address(0)));
    assert!(alice.alive(5 * SECOND), "{}", world.logs());
}

/// etcd loses everything while the nodes live: a new epoch begins, no generation is used again, alice goes on.
#[test]
fn a_wiped_etcd_is_a_new_epoch() {
    if !in_world("a_wiped_etcd_is_a_new_epoch") {
        return;
    }
    let (mut world, mut alice, _) = three_nodes(2);
    let before = block_on(world.status(0));
    world.wipe_etcd();
    let after = block_on(world.until(0, "a new epoch", |status| {
        status.epoch > before.epoch
            && status.slots.iter().all(|slot| {
                slot.state() == v1::ClusterSlotState::Serving && slot.generation > before.slots[0].generation
            })
    }));
    assert!(after.slots.iter().all(|slot| slot.generation >= 256), "{after:?}");
    assert!(alice.alive(10 * SECOND), "{}", world.logs());
    alice.command(ike::Command::RekeyIke);
    assert!(
        alice.run(10 * SECOND, |alice| alice.rekeyed > 0),
        "changes are durable again\n{}",
        world.logs()
    );
    assert_eq!(alice.closed, None);
}

/// A router that spreads packets over all nodes brings everything to the wrong one: sessions live and begin all the same.
#[test]
fn what_comes_to_the_wrong_node_is_sent_on_to_the_right_one() {
    if !in_world("what_comes_to_the_wrong_node_is_sent_on_to_the_right_one") {
        return;
    }
    let (world, mut alice, owner) = three_nodes(2);
    let wrong = (owner + 1) % NODES.len();
    World::misdirect(wrong, &World::address(0));
    assert!(alice.alive(5 * SECOND), "{}", world.logs());
    let mut bob = Client::calling(
        &World::address(0),
        "192.0.2.202",
        "bob@acme.example",
        "acme.gw.example",
        "two",
    );
    bob.login();
    assert!(bob.alive(5 * SECOND), "{}", world.logs());
    // And when the slot has moved, to its next owner.
    let next = (owner + 2) % NODES.len();
    move_slot(&world, next, next);
    assert!(alice.alive(5 * SECOND), "{}", world.logs());
    assert!(bob.alive(5 * SECOND), "{}", world.logs());
}

/// New data keys and a new cluster key while alice is connected: whoever takes the slot over reads her record.
#[test]
fn keys_are_rotated_under_live_sessions() {
    if !in_world("keys_are_rotated_under_live_sessions") {
        return;
    }
    let (mut world, mut alice, owner) = three_nodes(2);
    let rotate = |node: usize| {
        block_on(async {
            let channel = world.api(node).await;
            v1::cluster_service_client::ClusterServiceClient::new(channel)
                .rotate_keys(v1::RotateKeysRequest::default())
                .await
                .unwrap_or_else(|error| panic!("{error}\n{}", world.logs()))
                .into_inner()
        })
    };
    let key_of = |answer: &v1::RotateKeysResponse| {
        let slot = answer.slots.iter().find(|slot| slot.slot == 0).unwrap();
        (slot.data_key, slot.records)
    };
    let first = rotate(owner);
    let second = rotate(owner);
    assert!(key_of(&second).0 > key_of(&first).0, "{first:?} {second:?}");
    assert_eq!(key_of(&second).1, 1, "alice's record was written anew");
    world.add_key();
    let third = rotate(owner);
    assert_ne!(third.cluster_key, second.cluster_key);
    // The others read the key file again, as on SIGHUP.
    for node in (0..3).filter(|node| *node != owner) {
        world.signal(node, "HUP");
        assert_eq!(rotate(node).cluster_key, third.cluster_key);
    }
    world.kill(owner);
    assert!(alice.alive(5 * SECOND), "{}", world.logs());
    alice.command(ike::Command::RekeyIke);
    assert!(
        alice.run(5 * SECOND, |alice| alice.rekeyed > 0),
        "{}",
        world.logs()
    );
}
