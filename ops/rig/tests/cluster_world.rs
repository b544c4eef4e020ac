//! The world of the cluster tests itself: what it breaks is broken, and nothing else; what it restores is whole.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use std::time::Duration;

use rig::cluster::etcd::Etcd;
use rig::cluster::world::{Net, Plan, World, cluster_address, service_address};
use rig::net::Folder;
use rig::process::wait_for;

#[test]
fn cables_rules_and_addresses() -> rig::Result<()> {
    let folder = Folder::new("world")?;
    let world = World::new(&Plan::default(), &folder)?;
    let reaches =
        |from: usize, to: &str| -> rig::Result<bool> { Ok(world.nodes[from].ping(to, 1, "0.2")? == 1) };
    for node in [1, 2] {
        for net in ["192.0.2", "10.97.0", "10.98.0"] {
            assert!(reaches(0, &format!("{net}.{}", node + 1))?, "{net} {node}");
        }
    }
    assert_eq!(
        world.clients[0].ping("192.0.2.1", 1, "0.2")?,
        1,
        "through the NAT"
    );
    assert_eq!(world.load.ping("192.0.2.3", 1, "0.2")?, 1);
    assert_eq!(world.inside.ping("10.97.0.2", 1, "0.2")?, 1);

    // One direction only: an echo needs both, an ARP entry that is there already needs none.
    world.block("clu-a", "clu-b")?;
    assert!(!reaches(0, &cluster_address(1))?);
    assert!(reaches(0, &cluster_address(2))?);
    assert!(reaches(0, "192.0.2.2")?);
    world.heal()?;
    assert!(reaches(0, &cluster_address(1))?);

    world.cable(Net::Service, 0, false)?;
    assert!(!reaches(0, "192.0.2.2")?);
    let state = world.nodes[0].run(&["cat", "/sys/class/net/eth0/operstate"])?;
    assert_ne!(state.trim(), "up", "the node sees that its cable is pulled");
    world.heal()?;
    assert!(reaches(0, "192.0.2.2")?);

    let eyes = world.eyes();
    assert!(eyes.holders_of(3).is_empty());
    for node in [0, 2] {
        world.nodes[node].address("eth0", &format!("{}/24", service_address(3)))?;
    }
    assert_eq!(eyes.holders_of(3), [0, 2]);
    assert_eq!(eyes.all_holders()[3], [0, 2]);
    assert!(eyes.all_holders()[2].is_empty());
    Ok(())
}

#[test]
fn etcd_is_killed_stopped_saved_and_restored() -> rig::Result<()> {
    let folder = Folder::new("etcd")?;
    for together in [false, true] {
        let plan = Plan {
            together,
            clients: 0,
            ..Plan::default()
        };
        let world = World::new(&plan, &folder)?;
        let folder = Folder::new("etcd")?;
        let mut etcd = Etcd::start(&world, &folder, &[])?;
        etcd.control(&["put", "vpn/a", "1"])?;
        let file = folder.join("snapshot");
        etcd.save(&file)?;
        let saved = etcd.revision()?;
        etcd.control(&["put", "vpn/b", "2"])?;

        let leader = etcd.leader()?;
        let begin = std::time::Instant::now();
        etcd.kill(leader);
        let next = etcd.expect_leader(Duration::from_secs(5))?;
        assert_ne!(next, leader);
        // The bar of a node that dies with the leader is 3 s; half of it may go into the election and these questions.
        assert!(
            begin.elapsed() < Duration::from_millis(2500),
            "{:?}",
            begin.elapsed()
        );
        etcd.heal()?;
        assert_eq!(etcd.get("vpn/b")?.as_deref(), Some("2"));

        etcd.restore(Some(&file))?;
        assert!(etcd.revision()? < saved + 5, "the store has gone back");
        assert_eq!(etcd.get("vpn/a")?.as_deref(), Some("1"));
        assert_eq!(etcd.get("vpn/b")?, None);
        etcd.restore(None)?;
        assert!(etcd.keys("vpn/")?.is_empty());

        let log = folder.join("watch.log");
        let mut watch = etcd.watch(&world.nodes[0], &log)?;
        wait_for("the watch to tell", Duration::from_secs(5), || {
            etcd.control(&["put", "vpn/seen", "there"])?;
            Ok(watch.output().contains("vpn/seen\nthere"))
        })?;
        assert!(watch.is_running());
    }
    Ok(())
}
