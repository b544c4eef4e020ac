//! A backup of the configuration is written and comes back, while sessions live.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;

use super::store::generations;
use super::{Class, Fault, Hit, Random};
use crate::Result;
use crate::cluster::scene::Scene;
use crate::cluster::world::node_name;
use crate::process::wait_for;

pub(super) const FAULTS: &[Fault] = &[Fault {
    name: "backup-restored",
    expected: "what was configured since the backup is gone again; a new epoch; live sessions go on and are written again",
    class: Class::Recovers,
    run: restored,
    long: false,
}];

/// A tenant that the backup does not know.
const LATER: &str = "kind: Tenant\nname: later\nrouting_domain: { device: vpn-later, mtu: 1400 }\ngateway_ids: [ later.vpn.example ]\n";

/// How long the cluster may take until all nodes have the configuration and the generations of the new epoch.
const RESTORED: Duration = Duration::from_secs(20);

/// Every flow sends something in this time, and every worker tells of it.
const BUSY: Duration = Duration::from_millis(2_500);

fn restored(scene: &mut Scene, random: &mut Random) -> Result<Hit> {
    let count = scene.nodes.len();
    let (writer, reader) = (random.below(count), random.below(count));
    let before = generations(scene)?;
    let busy = busy(scene)?;
    let file = scene.folder.join("vpn.backup");
    let name = file.display().to_string();
    match std::fs::remove_file(&file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    scene.vpnctl(writer, &["cluster", "backup", &name])?;
    scene.node(writer)?.apply("later.yaml", LATER)?;
    wait_for("the tenant on every node", RESTORED, || {
        (0..count).try_fold(true, |all, node| Ok(all && knows(scene, node)?))
    })?;
    let mut hit = Hit::all(
        scene,
        format!(
            "backup by {}, restored by {}",
            node_name(writer),
            node_name(reader)
        ),
    );
    // A configuration that is there is not overwritten by accident.
    if scene.vpnctl(reader, &["cluster", "restore", &name]).is_ok() {
        hit.wrong
            .push("restored over a configuration without --replace".to_owned());
    }
    scene.vpnctl(reader, &["cluster", "restore", &name, "--dry-run", "--replace"])?;
    scene.vpnctl(reader, &["cluster", "restore", &name, "--replace"])?;
    let gone = wait_for("what came after the backup to be gone", RESTORED, || {
        (0..count).try_fold(true, |all, node| Ok(all && !knows(scene, node)?))
    });
    let mut after = Vec::new();
    let risen = wait_for("generations above those from before", RESTORED, || {
        after = generations(scene)?;
        Ok(after.len() == before.len() && after.iter().zip(&before).all(|(a, b)| a >= &(b + 256)))
    });
    hit.note = format!("{}; generations {before:?} → {after:?}", hit.note);
    hit.wrong.extend(
        [gone, risen]
            .into_iter()
            .filter_map(|r| r.err().map(|e| e.to_string())),
    );
    let now = packets(scene)?;
    let gone: Vec<_> = busy.iter().filter(|id| !now.contains_key(*id)).collect();
    if !gone.is_empty() {
        hit.wrong.push(format!(
            "{} of {} sessions with traffic are gone: {gone:?}",
            gone.len(),
            busy.len()
        ));
    }
    Ok(hit)
}

/// Whether a node has the tenant of after the backup.
fn knows(scene: &Scene, node: usize) -> Result<bool> {
    Ok(scene.vpnctl(node, &["get", "tenant"])?.contains("later"))
}

/// Sessions of all nodes whose peers send something. Others may be about to end: those of clients that were restarted last.
fn busy(scene: &Scene) -> Result<Vec<String>> {
    let first = packets(scene)?;
    std::thread::sleep(BUSY);
    let mut now = packets(scene)?;
    now.retain(|id, packets| first.get(id).is_some_and(|before| *packets > *before));
    anyhow::ensure!(!now.is_empty(), "no session has traffic");
    Ok(now.into_keys().collect())
}

/// What each session has brought, on all nodes.
fn packets(scene: &Scene) -> Result<BTreeMap<String, u64>> {
    let mut all = BTreeMap::new();
    for daemon in &scene.nodes {
        for session in crate::cluster::node::sessions(daemon)? {
            let id = session["id"].as_str().context("a session without a number")?;
            // 64-bit numbers are strings in JSON.
            let packets = &session["packets_in"];
            let text = packets.as_str().map(str::parse).transpose()?;
            all.insert(id.to_owned(), text.or_else(|| packets.as_u64()).unwrap_or(0));
        }
    }
    Ok(all)
}
