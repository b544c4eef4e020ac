//! etcd: its leader, its quorum, its data, its space, its watches and its leases.

use std::time::Duration;

use anyhow::Context as _;
use rustix::process::Signal;

use super::{Class, Fault, Hit, Random, victim};
use crate::Result;
use crate::cluster::scene::Scene;
use crate::cluster::world::node_name;

pub(super) const FAULTS: &[Fault] = &[
    Fault {
        name: "etcd-leader-killed",
        expected: "nobody notices: slots stay, ESP flows, rekeys wait or go on unreplicated",
        class: Class::Unnoticed,
        run: |scene, _| leader(scene, Signal::KILL),
        long: false,
    },
    Fault {
        name: "etcd-leader-stopped",
        expected: "the same with a leader that hangs for 5 s",
        class: Class::Unnoticed,
        run: |scene, _| leader(scene, Signal::STOP),
        long: false,
    },
    Fault {
        name: "etcd-slow",
        expected: "a leader that hangs three quarters of the time for 6 s (a slow disk): nobody notices",
        class: Class::Unnoticed,
        run: slow,
        long: false,
    },
    Fault {
        name: "quorum-lost-15s",
        expected: "fail-static: owners go on, slots stay where they are",
        class: Class::Unnoticed,
        run: |scene, _| quorum_lost(scene, 15),
        long: false,
    },
    Fault {
        name: "quorum-lost-10min",
        expected: "as quorum-lost-15s",
        class: Class::Unnoticed,
        run: |scene, _| quorum_lost(scene, 600),
        long: true,
    },
    Fault {
        name: "etcd-restored",
        expected: "a new epoch: generations rise by 256 and more, live sessions go on and are written again",
        class: Class::Recovers,
        run: |scene, _| restored(scene, true),
        long: false,
    },
    Fault {
        name: "etcd-wiped",
        expected: "a new epoch from what the nodes know; live sessions go on and are written again",
        class: Class::Recovers,
        run: |scene, _| restored(scene, false),
        long: false,
    },
    Fault {
        name: "nospace",
        expected: "etcd takes no writes: sessions go on; after the alarm is disarmed all is written",
        class: Class::Unnoticed,
        run: nospace,
        long: false,
    },
    Fault {
        name: "watch-cut",
        expected: "every connection to etcd is reset: lists again, nothing moves",
        class: Class::Unnoticed,
        run: |scene, _| watch_cut(scene, false),
        long: false,
    },
    Fault {
        name: "watch-compacted",
        expected: "the same, and the history in between is compacted away",
        class: Class::Unnoticed,
        run: |scene, _| watch_cut(scene, true),
        long: false,
    },
    Fault {
        name: "lease-revoked",
        expected: "the owner's lease is revoked under it: it takes a new one or the slots move, within 1 s",
        class: Class::Died,
        run: lease_revoked,
        long: false,
    },
];

/// How long an operator has to try until a wiped store takes the configuration.
const AGAIN: Duration = Duration::from_secs(5);

fn leader(scene: &mut Scene, signal: Signal) -> Result<Hit> {
    let leader = scene.etcd.leader()?;
    if signal == Signal::KILL {
        scene.etcd.kill(leader);
    } else {
        scene.etcd.signal(leader, signal);
    }
    std::thread::sleep(Duration::from_secs(5));
    scene.etcd.heal()?;
    Ok(Hit::all(scene, format!("leader e{leader}: {signal:?} for 5 s")))
}

fn slow(scene: &mut Scene, _: &mut Random) -> Result<Hit> {
    let leader = scene.etcd.leader()?;
    for _ in 0..30 {
        scene.etcd.signal(leader, Signal::STOP);
        std::thread::sleep(Duration::from_millis(150));
        scene.etcd.signal(leader, Signal::CONT);
        std::thread::sleep(Duration::from_millis(50));
    }
    scene.etcd.heal()?;
    Ok(Hit::all(
        scene,
        format!("e{leader} hangs 150 ms of every 200 ms for 6 s"),
    ))
}

fn quorum_lost(scene: &mut Scene, seconds: u64) -> Result<Hit> {
    let before = scene.world.eyes().all_holders();
    let members = scene.etcd.len();
    for index in 0..members.div_ceil(2) {
        scene.etcd.kill(index);
    }
    std::thread::sleep(Duration::from_secs(seconds));
    let during = scene.world.eyes().all_holders();
    scene.etcd.heal()?;
    let mut hit = Hit::all(scene, format!("no quorum for {seconds} s"));
    if before != during {
        hit.wrong.push(format!(
            "slots were on {before:?} and, without a store, on {during:?}"
        ));
    }
    Ok(hit)
}

fn restored(scene: &mut Scene, backup: bool) -> Result<Hit> {
    let before = generations(scene)?;
    let file = scene.folder.join("older.snapshot");
    if backup {
        scene.etcd.save(&file)?;
        std::thread::sleep(Duration::from_secs(1));
    }
    scene.etcd.restore(backup.then_some(file.as_path()))?;
    let mut after = Vec::new();
    let risen = crate::process::wait_for(
        "generations above those from before",
        Duration::from_secs(20),
        || {
            after = generations(scene)?;
            Ok(after.len() == before.len() && after.iter().zip(&before).all(|(a, b)| a >= &(b + 256)))
        },
    );
    let what = if backup {
        "restored from a snapshot"
    } else {
        "wiped"
    };
    let mut hit = Hit::all(scene, format!("etcd {what}; generations {before:?} → {after:?}"));
    if let Err(error) = risen {
        hit.wrong.push(format!("{error}: {before:?} → {after:?}"));
    }
    if !backup {
        // The configuration is gone with the store; an operator writes it again.
        let resources = scene.authority.resources()?;
        let daemon = scene.node(0)?;
        // While the node still learns what is gone, it says that somebody else has changed things: to be tried again.
        let written = crate::process::wait_for("the configuration to be written again", AGAIN, || {
            daemon.apply("tenants.yaml", &resources).map(|_| true)
        });
        if let Err(error) = written {
            hit.wrong.push(error.to_string());
        }
    }
    Ok(hit)
}

/// The generation of every slot, as etcd has it.
pub fn generations(scene: &Scene) -> Result<Vec<u64>> {
    (0..scene.world.plan.slots)
        .map(|slot| {
            let text = scene.etcd.get(&format!("vpn/slot/{slot:03}/gen"))?;
            text.with_context(|| format!("slot {slot} has no generation"))?
                .parse()
                .context("a number")
        })
        .collect()
}

fn nospace(scene: &mut Scene, _: &mut Random) -> Result<Hit> {
    let filling = "x".repeat(120 * 1024);
    let mut full = false;
    for index in 0..2000 {
        let key = format!("rig/fill/{}", index % 4);
        match scene.etcd.control(&["put", &key, &filling]) {
            Ok(_) => {}
            Err(error) if error.to_string().contains("space exceeded") => {
                full = true;
                break;
            }
            Err(_) => {}
        }
    }
    anyhow::ensure!(full, "etcd could not be filled up");
    std::thread::sleep(Duration::from_secs(4));
    scene.etcd.make_space()?;
    Ok(Hit::all(scene, "NOSPACE alarm for 4 s".to_owned()))
}

fn watch_cut(scene: &mut Scene, compacted: bool) -> Result<Hit> {
    for host in &scene.world.nodes {
        host.run(&[
            "nft",
            "add table inet cut; add chain inet cut out { type filter hook output priority 0 ; }; \
             add rule inet cut out tcp dport 2379 reject with tcp reset",
        ])?;
    }
    std::thread::sleep(Duration::from_millis(300));
    if compacted {
        for value in 0..5 {
            scene
                .etcd
                .control(&["put", "vpn/rig-noise", &value.to_string()])?;
        }
        let revision = scene.etcd.revision()?.to_string();
        scene.etcd.control(&["compaction", &revision])?;
    }
    for host in &scene.world.nodes {
        host.run(&["nft", "delete table inet cut"])?;
    }
    std::thread::sleep(Duration::from_secs(3));
    let what = if compacted {
        " and the history compacted"
    } else {
        ""
    };
    Ok(Hit::all(scene, format!("connections to etcd reset{what}")))
}

fn lease_revoked(scene: &mut Scene, random: &mut Random) -> Result<Hit> {
    let (node, slots) = victim(scene, random)?;
    let key = format!("vpn/node/{}", node_name(node));
    let text = scene.etcd.control(&["get", &key, "-w", "json"])?;
    let value: serde_json::Value = serde_json::from_str(&text)?;
    let lease = value["kvs"][0]["lease"]
        .as_i64()
        .context("the node's key has no lease")?;
    scene.etcd.control(&["lease", "revoke", &format!("{lease:x}")])?;
    std::thread::sleep(Duration::from_secs(5));
    Ok(Hit::slots(slots, format!("lease of {} revoked", node_name(node))))
}
