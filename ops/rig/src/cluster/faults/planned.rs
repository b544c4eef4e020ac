//! What an operator does: drain, move, restart, upgrade, rotate keys.

use std::time::Duration;

use anyhow::Context as _;

use super::{Class, Fault, Hit, Random, victim};
use crate::Result;
use crate::cluster::scene::Scene;
use crate::cluster::world::node_name;
use crate::process::wait_for;

pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "move",
        expected: "one slot moves to another node within 0.1 s of silence",
        class: Class::Planned,
        run: move_slot,
        long: false,
    },
    Fault {
        name: "drain",
        expected: "all slots of a node move away, each within 0.1 s of silence; none comes back until it is undrained",
        class: Class::Planned,
        run: drain,
        long: false,
    },
    Fault {
        name: "leave-join",
        expected: "a node leaves the membership and joins again",
        class: Class::Planned,
        run: leave,
        long: false,
    },
    Fault {
        name: "rolling-restart",
        expected: "each node ends in order and starts again; its slots are handed over",
        class: Class::Planned,
        run: |scene, _| rolling(scene, false),
        long: false,
    },
    Fault {
        name: "rolling-upgrade",
        expected: "the same with another program file",
        class: Class::Planned,
        run: |scene, _| rolling(scene, true),
        long: false,
    },
    Fault {
        name: "rotate-keys",
        expected: "new data keys under a new cluster key, on every node, without a pause",
        class: Class::Unnoticed,
        run: rotate_keys,
        long: false,
    },
];

fn move_slot(scene: &mut Scene, random: &mut Random) -> Result<Hit> {
    let slot = u8::try_from(random.below(usize::from(scene.world.plan.slots)))?;
    let from = scene.owner(slot)?;
    let to = (from + 1 + random.below(scene.nodes.len() - 1)) % scene.nodes.len();
    scene.vpnctl(from, &["cluster", "move", &slot.to_string(), &node_name(to)])?;
    wait_for("the slot to be there", Duration::from_secs(5), || {
        Ok(scene.world.holders_of(slot) == [to])
    })?;
    std::thread::sleep(Duration::from_millis(1500));
    Ok(Hit::slots(
        vec![slot],
        format!("slot {slot} from {} to {}", node_name(from), node_name(to)),
    ))
}

fn drain(scene: &mut Scene, random: &mut Random) -> Result<Hit> {
    let (node, slots) = victim(scene, random)?;
    scene.vpnctl(node, &["cluster", "drain"])?;
    let mut hit = Hit::slots(
        slots.clone(),
        format!("drain {} ({} slots)", node_name(node), slots.len()),
    );
    wait_for("the node to be empty", Duration::from_secs(10), || {
        Ok(scene.slots_of(node).is_empty())
    })?;
    scene.world.expect_served(Duration::from_secs(5))?;
    std::thread::sleep(Duration::from_millis(1500));
    if !scene.slots_of(node).is_empty() {
        hit.wrong.push("a slot came back to a drained node".to_owned());
    }
    scene.vpnctl(node, &["cluster", "undrain"])?;
    Ok(hit)
}

fn leave(scene: &mut Scene, random: &mut Random) -> Result<Hit> {
    let (node, slots) = victim(scene, random)?;
    scene.vpnctl(node, &["cluster", "leave"])?;
    wait_for("the node to be empty", Duration::from_secs(10), || {
        Ok(scene.slots_of(node).is_empty())
    })?;
    scene.vpnctl(node, &["cluster", "join"])?;
    std::thread::sleep(Duration::from_secs(1));
    Ok(Hit::slots(slots, format!("{} left and joined", node_name(node))))
}

fn rolling(scene: &mut Scene, upgrade: bool) -> Result<Hit> {
    let program = if upgrade {
        // The nodes may still run the program of the last upgrade: that file is busy.
        let upgrades = (0..).map(|count| scene.folder.join(&format!("concentrator-{count}")));
        let copy = upgrades
            .into_iter()
            .find(|path| !path.exists())
            .context("a name")?;
        std::fs::copy(crate::daemon::program("concentrator")?, &copy)?;
        Some(copy)
    } else {
        None
    };
    for index in 0..scene.nodes.len() {
        let daemon = scene.node(index)?;
        daemon.stop()?;
        if let Some(program) = &program {
            daemon.replace_program(program.clone());
        }
        daemon.launch()?;
        scene.world.expect_served(Duration::from_secs(10))?;
        std::thread::sleep(Duration::from_millis(1500));
    }
    let what = if upgrade { "upgraded" } else { "restarted" };
    Ok(Hit::all(scene, format!("all nodes {what}, one after the other")))
}

fn rotate_keys(scene: &mut Scene, _: &mut Random) -> Result<Hit> {
    use std::os::unix::fs::PermissionsExt as _;
    let path = scene.folder.join("cluster.key");
    let old = std::fs::read_to_string(&path)?;
    let newest = old.lines().next().context("a key")?;
    let mut key = [0_u8; 32];
    std::io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, &mut key)?;
    let hex: String = key.iter().map(|o| format!("{o:02x}")).collect();
    // First every node knows the new key, then it becomes the first: a node never meets a key that it does not know.
    for text in [format!("{newest}\n{hex}\n"), format!("{hex}\n{newest}\n")] {
        std::fs::write(&path, text)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
        for node in 0..scene.nodes.len() {
            scene.vpnctl(node, &["cluster", "rotate-keys"])?;
        }
        std::thread::sleep(Duration::from_secs(1));
    }
    Ok(Hit::all(
        scene,
        "cluster key and data keys rotated on every node".to_owned(),
    ))
}
