//! Cables pulled, packets dropped, doubled and held back.

use std::time::Duration;

use super::{Class, Fault, Hit, Random, victim};
use crate::Result;
use crate::cluster::scene::Scene;
use crate::cluster::world::{Net, World, member_address, node_name};

pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "service-down",
        expected: "the node sees its link go and gives its slots away at once",
        class: Class::Died,
        run: |scene, random| cable(scene, random, Net::Service),
        long: false,
    },
    Fault {
        name: "cluster-down",
        expected: "the node is without etcd, stops at its deadline at the latest, and the others take over",
        class: Class::Died,
        run: |scene, random| cable(scene, random, Net::Cluster),
        long: false,
    },
    Fault {
        name: "host-death",
        expected: "no process is left to say that it died: three missed heartbeats, then others serve",
        class: Class::Died,
        run: |scene, random| host_death(scene, random, false),
        long: false,
    },
    Fault {
        name: "host-with-leader",
        expected: "the same with the leader of etcd, whose successor must be elected first",
        class: Class::WithLeader,
        run: |scene, random| host_death(scene, random, true),
        long: false,
    },
    Fault {
        name: "asymmetric-pair",
        expected: "one node does not hear one other: one suspicion of three is not enough, nothing moves",
        class: Class::Unnoticed,
        run: asymmetric_pair,
        long: false,
    },
    Fault {
        name: "asymmetric-out",
        expected: "the node hears and is not heard on the service network: others may take over; all is well after it",
        class: Class::Recovers,
        run: asymmetric_out,
        long: false,
    },
    Fault {
        name: "silent-cut",
        expected: "as host-death, though the node's link stays up and its process lives: it stops by itself",
        class: Class::Died,
        run: silent_cut,
        long: false,
    },
    Fault {
        name: "flapping",
        expected: "ten times down and up: damping keeps the slots from moving each time",
        class: Class::Recovers,
        run: flapping,
        long: false,
    },
    Fault {
        name: "loss-20",
        expected: "a fifth of all packets of the service network is lost for 8 s: no session ends",
        class: Class::Recovers,
        run: |scene, random| lossy(scene, random, false),
        long: false,
    },
    Fault {
        name: "loss-20-kill",
        expected: "the same, and a node is killed meanwhile",
        class: Class::Recovers,
        run: |scene, random| lossy(scene, random, true),
        long: false,
    },
    Fault {
        name: "cluster-loss-20",
        expected: "a fifth of heartbeats and of etcd's own packets is lost for 8 s: two paths keep suspicion away",
        class: Class::Recovers,
        run: cluster_loss,
        long: false,
    },
];

/// How long a cable stays out.
const OUT: Duration = Duration::from_secs(4);

fn cable(scene: &mut Scene, random: &mut Random, net: Net) -> Result<Hit> {
    let (node, slots) = victim(scene, random)?;
    scene.world.cable(net, node, false)?;
    std::thread::sleep(OUT);
    let mut hit = Hit::slots(
        slots.clone(),
        format!("{net:?} cable of {} out for {OUT:?}", node_name(node)),
    );
    let kept: Vec<_> = slots
        .iter()
        .filter(|&&slot| scene.world.holders_of(slot).contains(&node))
        .collect();
    if !kept.is_empty() {
        hit.wrong.push(format!(
            "{} kept the addresses of slots {kept:?}",
            node_name(node)
        ));
    }
    scene.world.cable(net, node, true)?;
    Ok(hit)
}

fn host_death(scene: &mut Scene, random: &mut Random, with_leader: bool) -> Result<Hit> {
    let (node, slots) = victim(scene, random)?;
    let together = scene.world.plan.together;
    let leader = scene.etcd.leader()?;
    let mut also = None;
    if with_leader && together && leader != node {
        scene.etcd.move_leader(node)?;
        std::thread::sleep(Duration::from_millis(300));
    } else if !with_leader && together && leader == node {
        scene.etcd.move_leader((node + 1) % scene.etcd.len())?;
        std::thread::sleep(Duration::from_millis(300));
    }
    if with_leader && !together {
        also = Some(leader);
        scene
            .world
            .switch
            .run(&["ip", "link", "set", &format!("clu-e{leader}"), "down"])?;
    }
    for net in [Net::Service, Net::Cluster, Net::Inside] {
        scene.world.cable(net, node, false)?;
    }
    // The machine is dead: what it still thinks is not to be seen later.
    scene.node(node)?.kill();
    if together {
        scene.etcd.kill(node);
    } else if let Some(leader) = also {
        scene.etcd.kill(leader);
    }
    std::thread::sleep(OUT);
    if let Some(leader) = also {
        scene
            .world
            .switch
            .run(&["ip", "link", "set", &format!("clu-e{leader}"), "up"])?;
    }
    scene.world.heal()?;
    scene.etcd.heal()?;
    scene.node(node)?.launch()?;
    let note = format!(
        "machine of {} gone{}",
        node_name(node),
        if with_leader {
            " with the leader of etcd"
        } else {
            ""
        }
    );
    Ok(Hit::slots(slots, note))
}

fn asymmetric_pair(scene: &mut Scene, random: &mut Random) -> Result<Hit> {
    let (node, slots) = victim(scene, random)?;
    let other = (node + 1) % scene.nodes.len();
    for net in [Net::Service, Net::Cluster] {
        scene
            .world
            .block(&World::port(net, node), &World::port(net, other))?;
    }
    std::thread::sleep(OUT);
    scene.world.heal()?;
    let mut hit = Hit::all(
        scene,
        format!(
            "{} is not heard by {} for {OUT:?}",
            node_name(node),
            node_name(other)
        ),
    );
    if scene.slots_of(node) != slots {
        hit.wrong.push("a slot moved for one node's suspicion".to_owned());
    }
    Ok(hit)
}

fn asymmetric_out(scene: &mut Scene, random: &mut Random) -> Result<Hit> {
    let (node, slots) = victim(scene, random)?;
    scene
        .world
        .rule(&format!("iifname \"{}\" drop", World::port(Net::Service, node)))?;
    std::thread::sleep(OUT);
    scene.world.heal()?;
    Ok(Hit::slots(
        slots,
        format!(
            "{} is not heard on the service network for {OUT:?}",
            node_name(node)
        ),
    ))
}

fn silent_cut(scene: &mut Scene, random: &mut Random) -> Result<Hit> {
    let (node, slots) = victim(scene, random)?;
    for net in [Net::Service, Net::Cluster, Net::Inside] {
        let port = World::port(net, node);
        scene.world.rule(&format!("iifname \"{port}\" drop"))?;
        scene.world.rule(&format!("oifname \"{port}\" drop"))?;
    }
    std::thread::sleep(OUT);
    let mut hit = Hit::slots(
        slots.clone(),
        format!("{} cut off silently for {OUT:?}", node_name(node)),
    );
    let kept: Vec<_> = slots
        .iter()
        .filter(|&&slot| scene.world.holders_of(slot).contains(&node))
        .collect();
    if !kept.is_empty() {
        hit.wrong.push(format!(
            "{} kept the addresses of slots {kept:?}",
            node_name(node)
        ));
    }
    scene.world.heal()?;
    Ok(hit)
}

fn flapping(scene: &mut Scene, random: &mut Random) -> Result<Hit> {
    let (node, slots) = victim(scene, random)?;
    let _ = scene.watcher.take();
    for _ in 0..10 {
        scene.world.cable(Net::Service, node, false)?;
        std::thread::sleep(Duration::from_millis(300));
        scene.world.cable(Net::Service, node, true)?;
        std::thread::sleep(Duration::from_millis(300));
    }
    let (_, moves) = scene.watcher.take();
    let mut hit = Hit::slots(
        slots.clone(),
        format!(
            "service cable of {} out and in ten times: {moves} moves",
            node_name(node)
        ),
    );
    if moves > slots.len() * 3 {
        hit.wrong.push(format!(
            "{moves} moves of {} slots: damping does not hold",
            slots.len()
        ));
    }
    Ok(hit)
}

fn lossy(scene: &mut Scene, random: &mut Random, kill: bool) -> Result<Hit> {
    scene
        .world
        .rule("ether type ip oifname \"svc-*\" numgen random mod 100 < 20 drop")?;
    std::thread::sleep(Duration::from_secs(3));
    let mut note = "a fifth of the service network's packets lost for 8 s".to_owned();
    if kill {
        let (node, _) = victim(scene, random)?;
        scene.node(node)?.kill();
        std::thread::sleep(Duration::from_secs(5));
        scene.world.heal()?;
        scene.node(node)?.launch()?;
        note += &format!(", {} killed", node_name(node));
    } else {
        std::thread::sleep(Duration::from_secs(5));
        scene.world.heal()?;
    }
    Ok(Hit::all(scene, note))
}

fn cluster_loss(scene: &mut Scene, _: &mut Random) -> Result<Hit> {
    scene
        .world
        .rule("ether type ip oifname \"clu-*\" numgen random mod 100 < 20 drop")?;
    std::thread::sleep(Duration::from_secs(8));
    scene.world.heal()?;
    let first = member_address(0);
    Ok(Hit::all(
        scene,
        format!("a fifth of the cluster network's packets lost for 8 s ({first} and all others)"),
    ))
}
