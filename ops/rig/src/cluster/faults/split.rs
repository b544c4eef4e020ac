//! Two nodes that both serve a slot, because one of them is made to: what no lease and no deadline stops.

use std::time::Duration;

use anyhow::Context as _;

use super::{Class, Fault, Hit, Random, victim};
use crate::Result;
use crate::cluster::node::sessions;
use crate::cluster::scene::Scene;
use crate::cluster::world::{Net, World, node_name};
use crate::process::wait_for;

pub(super) const FAULTS: &[Fault] = &[Fault {
    name: "split-brain",
    expected: "a cut-off node is forced to go on with its slots and both owners seal the same flows: no IV twice; it gives way",
    class: Class::Recovers,
    run: split_brain,
    long: false,
}];

/// How often the inside turns from one owner to the other, and how long it stays there.
const TURNS: usize = 4;
const TURN: Duration = Duration::from_millis(400);

fn split_brain(scene: &mut Scene, random: &mut Random) -> Result<Hit> {
    let (liar, slots) = victim(scene, random)?;
    for slot in &slots {
        scene.vpnctl(liar, &["fault", "own_slot", &slot.to_string()])?;
    }
    for other in (0..scene.nodes.len()).filter(|&other| other != liar) {
        for net in [Net::Service, Net::Cluster] {
            let (own, its) = (World::port(net, liar), World::port(net, other));
            scene.world.block(&own, &its)?;
            scene.world.block(&its, &own)?;
        }
    }
    // Nor does etcd hear it, or it etcd.
    let port = World::port(Net::Cluster, liar);
    scene.world.rule(&format!("iifname \"{port}\" drop"))?;
    scene.world.rule(&format!("oifname \"{port}\" drop"))?;
    let eyes = scene.world.eyes();
    wait_for("both nodes to serve", Duration::from_secs(5), || {
        Ok(slots.iter().all(|&slot| eyes.holders_of(slot).len() == 2))
    })?;
    let before = sealed(scene, liar)?;
    for _ in 0..TURNS {
        for turn in [true, false] {
            for &slot in &slots {
                let owner = eyes.holders_of(slot).into_iter().find(|&node| node != liar);
                let node = if turn { Some(liar) } else { owner };
                inside_goes_to(scene, slot, node.context("the other owner")?)?;
            }
            std::thread::sleep(TURN);
        }
    }
    let packets = sealed(scene, liar)?.saturating_sub(before);
    for &slot in &slots {
        let device = ["dev", "eth0"];
        let address = next_hop(slot);
        let delete = ["ip", "neigh", "del", &address];
        scene.world.inside.run(&[&delete[..], &device[..]].concat())?;
    }
    scene.world.heal()?;
    let mut hit = Hit::slots(
        slots.clone(),
        format!(
            "{} cut off and forced to keep slots {slots:?}: it sealed {packets} packets beside their new owners",
            node_name(liar)
        ),
    );
    if packets == 0 {
        hit.wrong
            .push("the node that was forced sealed nothing: the fault proved nothing".to_owned());
    }
    let gives_way = wait_for("the forced node to give way", Duration::from_secs(5), || {
        Ok(slots.iter().all(|&slot| eyes.holders_of(slot).len() == 1))
    });
    if let Err(error) = gives_way {
        hit.wrong.push(error.to_string());
    }
    Ok(hit)
}

/// The inside's next hop for the addresses of a slot.
fn next_hop(slot: u8) -> String {
    format!("10.97.0.{}", 100 + u16::from(slot))
}

/// Makes the inside send what belongs to a slot to a node, whatever the nodes announce.
fn inside_goes_to(scene: &Scene, slot: u8, node: usize) -> Result<()> {
    let host = scene.world.nodes.get(node).context("a host")?;
    let mac = host.run(&["cat", "/sys/class/net/eth1/address"])?;
    let (address, mac) = (next_hop(slot), mac.trim());
    let add = ["ip", "neigh", "replace", &address, "lladdr", mac];
    let place = ["dev", "eth0", "nud", "permanent"];
    scene.world.inside.run(&[&add[..], &place[..]].concat()).map(drop)
}

/// Packets that a node has sealed for the sessions it has.
fn sealed(scene: &Scene, node: usize) -> Result<u64> {
    let daemon = scene.nodes.get(node).context("a node")?;
    // 64-bit numbers are strings in JSON.
    let count = |session: &serde_json::Value| -> u64 {
        let packets = &session["packets_out"];
        let text = packets.as_str().and_then(|text| text.parse().ok());
        text.or_else(|| packets.as_u64()).unwrap_or(0)
    };
    Ok(sessions(daemon)?.iter().map(count).sum())
}
