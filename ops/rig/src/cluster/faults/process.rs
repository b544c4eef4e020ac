//! Processes that die, stop, or panic in a part.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::process::Signal;

use super::{Class, Fault, Hit, Random, victim};
use crate::Result;
use crate::cluster::node::sessions;
use crate::cluster::scene::Scene;
use crate::cluster::world::node_name;
use crate::process::wait_for;

/// How long a dead node stays dead.
const DEAD: Duration = Duration::from_millis(2500);

pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "kill",
        expected: "another node serves the slots within 0.7 s; nobody logs in again",
        class: Class::Killed,
        run: kill,
        long: false,
    },
    Fault {
        name: "two-failovers",
        expected: "the slot survives the death of its owner and, within a second, of the next one",
        class: Class::Recovers,
        run: two_failovers,
        long: false,
    },
    Fault {
        name: "stop-1s",
        expected: "the slots move or not; the node that comes back carries nothing that it does not own",
        class: Class::Recovers,
        run: |scene, random| stop(scene, random, 1),
        long: false,
    },
    Fault {
        name: "stop-5s",
        expected: "the slots move within 1 s; the node that comes back drops its addresses before it asks",
        class: Class::Died,
        run: |scene, random| stop(scene, random, 5),
        long: false,
    },
    Fault {
        name: "stop-60s",
        expected: "as stop-5s",
        class: Class::Died,
        run: |scene, random| stop(scene, random, 60),
        long: true,
    },
    Fault {
        name: "panic-ike-sa",
        expected: "the actor comes back from its record in place; no slot moves",
        class: Class::Died,
        run: |scene, random| panic(scene, random, "ike_sa"),
        long: false,
    },
    Fault {
        name: "panic-worker",
        expected: "the worker comes back in place; no slot moves",
        class: Class::Died,
        run: |scene, random| panic(scene, random, "worker"),
        long: false,
    },
    Fault {
        name: "panic-tenant",
        expected: "the tenant's supervisor comes back in place; no slot moves",
        class: Class::Died,
        run: |scene, random| panic(scene, random, "tenant"),
        long: false,
    },
    Fault {
        name: "power-cut",
        expected: "after kill -9 of all nodes and all members, all tunnels come back from the records",
        class: Class::Recovers,
        run: power_cut,
        long: false,
    },
];

fn kill(scene: &mut Scene, random: &mut Random) -> Result<Hit> {
    let (node, slots) = victim(scene, random)?;
    scene.node(node)?.kill();
    std::thread::sleep(DEAD);
    scene.node(node)?.launch()?;
    Ok(Hit::slots(slots, format!("kill -9 {}", node_name(node))))
}

fn two_failovers(scene: &mut Scene, random: &mut Random) -> Result<Hit> {
    let (first, slots) = victim(scene, random)?;
    let slot = *slots.first().context("a slot")?;
    let eyes = scene.world.eyes();
    scene.node(first)?.kill();
    let begin = Instant::now();
    let mut second = first;
    // The second one is to die within a second, whether it has shown its address by then or not.
    while second == first && begin.elapsed() < Duration::from_millis(900) {
        second = eyes
            .holders_of(slot)
            .into_iter()
            .find(|&n| n != first)
            .unwrap_or(first);
        std::thread::sleep(Duration::from_millis(5));
    }
    if second == first {
        second = (first + 1) % scene.nodes.len();
    }
    scene.node(second)?.kill();
    let between = begin.elapsed();
    std::thread::sleep(DEAD);
    scene.node(first)?.launch()?;
    scene.node(second)?.launch()?;
    let mut hit = Hit::all(
        scene,
        format!(
            "kill -9 {}, {} ms later {}",
            node_name(first),
            between.as_millis(),
            node_name(second)
        ),
    );
    hit.slots = slots;
    Ok(hit)
}

fn stop(scene: &mut Scene, random: &mut Random, seconds: u64) -> Result<Hit> {
    let (node, slots) = victim(scene, random)?;
    scene.node(node)?.signal(Signal::STOP);
    std::thread::sleep(Duration::from_secs(seconds));
    let moved: Vec<u8> = slots
        .iter()
        .copied()
        .filter(|&slot| scene.world.holders_of(slot).iter().any(|&n| n != node))
        .collect();
    scene.node(node)?.signal(Signal::CONT);
    let begin = Instant::now();
    let mut hit = Hit::slots(slots, format!("SIGSTOP {} for {seconds} s", node_name(node)));
    let dropped = wait_for(
        "the node that was stopped to drop what it lost",
        Duration::from_secs(2),
        || Ok(moved.iter().all(|&slot| scene.world.holders_of(slot).len() <= 1)),
    );
    hit.note += &format!(
        ", {} slots moved, addresses dropped {} ms after CONT",
        moved.len(),
        begin.elapsed().as_millis()
    );
    if let Err(error) = dropped {
        hit.wrong.push(error.to_string());
    }
    Ok(hit)
}

fn panic(scene: &mut Scene, random: &mut Random, target: &str) -> Result<Hit> {
    let (node, slots) = victim(scene, random)?;
    let daemon = scene.node(node)?;
    let list = sessions(daemon)?;
    let session = random.choose(&list).context("no session at the node")?;
    let selector = match target {
        "ike_sa" => session["id"].as_str().context("an id")?.to_owned(),
        "worker" => session["worker"].as_u64().unwrap_or(0).to_string(),
        _ => "acme".to_owned(),
    };
    let before = daemon.log().matches("panicked").count();
    daemon.vpnctl(&["fault", target, &selector])?;
    wait_for("the panic", Duration::from_secs(3), || {
        Ok(daemon.log().matches("panicked").count() > before)
    })?;
    std::thread::sleep(Duration::from_millis(1500));
    let mut hit = Hit::slots(
        slots.clone(),
        format!("panic of {target} {selector} at {}", node_name(node)),
    );
    if scene.slots_of(node) != slots {
        hit.wrong
            .push("a slot moved for the panic of one part".to_owned());
    }
    Ok(hit)
}

fn power_cut(scene: &mut Scene, _: &mut Random) -> Result<Hit> {
    for daemon in &scene.nodes {
        daemon.signal(Signal::KILL);
    }
    scene.etcd.kill_all();
    for daemon in &mut scene.nodes {
        daemon.kill();
    }
    std::thread::sleep(Duration::from_secs(1));
    let begin = Instant::now();
    scene.etcd.heal()?;
    for daemon in &mut scene.nodes {
        daemon.spawn()?;
    }
    for daemon in &mut scene.nodes {
        daemon.expect_served(Duration::from_secs(30))?;
    }
    let apis = begin.elapsed();
    scene.world.expect_served(Duration::from_secs(30))?;
    let note = format!(
        "kill -9 of everything; APIs after {:.1} s, all slots served after {:.1} s",
        apis.as_secs_f64(),
        begin.elapsed().as_secs_f64()
    );
    Ok(Hit::all(scene, note))
}
