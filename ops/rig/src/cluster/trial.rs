//! One fault, measured: who was silent for how long, and whether every invariant that can be seen from outside holds.

use std::collections::BTreeMap;
use std::time::Duration;

use super::faults::store::generations;
use super::faults::{Class, Fault, Random};
use super::node::sessions;
use super::scene::Scene;
use crate::Result;
use crate::process::wait_for;

/// S15: after a fault and so long, every client that kept trying has a working tunnel.
const WELL_AGAIN: Duration = Duration::from_secs(30);
/// After so long without a fault every node has its share of the slots.
const CALM: Duration = Duration::from_secs(60);
/// Milliseconds that flows may be silent that a fault has nothing to do with.
const OTHERS_MAX: f64 = 250.0;
/// S13: after so long the records equal the sessions.
const REPLICATED: Duration = Duration::from_secs(5);
/// Memory that a node of the tests may have: all queues and caches stay far below it (S14).
const MEMORY_MAX: u64 = 768 << 20;

/// What came of a fault.
#[derive(Debug, Clone)]
pub struct Trial {
    /// The fault's name.
    pub fault: &'static str,
    /// Its bar.
    pub class: Class,
    /// What was done, in words.
    pub note: String,
    /// Milliseconds of the longest silence of each flow that was hit, longest first; 0 for none.
    pub hit: Vec<f64>,
    /// Milliseconds of the longest silence of all flows that were to be spared.
    pub others: f64,
    /// Logins that nobody should have needed.
    pub new_logins: u64,
    /// Milliseconds that the machine itself was late: silences below that are nobody's.
    pub own_stall: f64,
    /// Milliseconds that an address was on two nodes at worst.
    pub double: f64,
    /// Addresses that changed hands.
    pub moves: usize,
    /// What does not hold.
    pub wrong: Vec<String>,
}

impl Trial {
    /// The silence that so many percent of the flows do not exceed.
    pub fn percentile(&self, percent: f64) -> f64 {
        percentile(&self.hit, percent)
    }
}

/// The value that `percent` of a list (sorted, longest first) do not exceed; 0 for an empty one.
pub fn percentile(descending: &[f64], percent: f64) -> f64 {
    let above = (descending.len() as f64 * (1.0 - percent / 100.0)).floor();
    // A list is never as long as a float can count exactly.
    let index = (above.max(0.0) as usize).min(descending.len().saturating_sub(1));
    descending.get(index).copied().unwrap_or(0.0)
}

/// Lets a fault happen and looks at everything afterwards. An error means that the rig itself failed.
pub fn run(scene: &mut Scene, fault: &Fault, random: &mut Random) -> Result<Trial> {
    let mut wrong = Vec::new();
    let mut lost = false;
    scene.expect_flows(WELL_AGAIN)?;
    if let Err(error) = scene.expect_calm(CALM) {
        wrong.push(format!("before the fault: {error}"));
    }
    let before = generations(scene)?;
    let _ = scene.watcher.take();
    scene.mark("fault")?;
    let begin = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs_f64()
        * 1e3;
    let hit = match (fault.run)(scene, random) {
        Ok(hit) => hit,
        Err(error) => {
            // What the fault waited for did not come: that is a finding, and the world is put in order for the next one.
            wrong.push(format!("{error:#}"));
            scene.heal()?;
            super::faults::Hit::all(scene, "broken off".to_owned())
        }
    };
    wrong.extend(hit.wrong);
    if let Err(error) = scene.expect_flows(WELL_AGAIN) {
        wrong.push(format!("S15: {error:#}"));
        lost = true;
    }
    std::thread::sleep(Duration::from_millis(300));
    let silences = scene.since("fault")?;
    let (double, moves) = scene.watcher.take();
    let spared: Vec<u8> = (0..scene.world.plan.slots)
        .filter(|s| !hit.slots.contains(s))
        .collect();
    let trial = Trial {
        fault: fault.name,
        class: fault.class,
        note: hit.note,
        hit: silences.of(&hit.slots),
        others: if hit.spares_others {
            silences.of(&spared).first().copied().unwrap_or(0.0)
        } else {
            0.0
        },
        new_logins: silences.new_logins,
        own_stall: silences.own_stall_ms,
        double,
        moves,
        wrong,
    };
    let mut trial = judge(scene, trial, &before)?;
    if trial.new_logins > 0 {
        let told = scene.sources.iter().flat_map(|s| s.reasons(begin));
        trial.wrong.extend(told.take(5));
    }
    if lost {
        trial.wrong.extend(scene.revive()?);
    }
    Ok(trial)
}

fn judge(scene: &mut Scene, mut trial: Trial, before: &[u64]) -> Result<Trial> {
    if let Some(bar) = trial.class.bar_ms() {
        let p99 = trial.percentile(99.0);
        if p99 > bar + trial.own_stall {
            trial
                .wrong
                .push(format!("silence of {p99:.0} ms, the bar is {bar:.0} ms"));
        }
    }
    if trial.others > OTHERS_MAX + trial.own_stall {
        trial
            .wrong
            .push(format!("others were silent for {:.0} ms", trial.others));
    }
    if trial.new_logins > 0 {
        trial.wrong.push(format!("{} new logins", trial.new_logins));
    }
    let mut after = Vec::new();
    let asked = wait_for("the generations", Duration::from_secs(5), || {
        after = generations(scene)?;
        Ok(true)
    });
    match asked {
        Ok(()) if before.iter().zip(&after).any(|(b, a)| a < b) => {
            trial
                .wrong
                .push(format!("S3: generations fell: {before:?} → {after:?}"));
        }
        Ok(()) => {}
        Err(error) => trial.wrong.push(format!("S3: {error:#}")),
    }
    for finding in [unique_addresses(scene), replicated(scene), within_memory(scene)] {
        if let Err(error) = finding {
            trial.wrong.push(format!("{error:#}"));
        }
    }
    Ok(trial)
}

/// S7: a virtual address belongs to at most one live SA of a tenant, over all nodes.
fn unique_addresses(scene: &Scene) -> Result<()> {
    // A hand-over in progress is told twice for a moment; what stays is a fault.
    wait_for(
        "S7: every virtual address to have one session",
        Duration::from_secs(3),
        || {
            let mut holders: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
            for daemon in &scene.nodes {
                for session in sessions(daemon)? {
                    let tenant = session["tenant"].as_str().unwrap_or_default().to_owned();
                    let text = format!("{}@{}", session["id"], session["node"]);
                    for address in session["virtual_addresses"].as_array().into_iter().flatten() {
                        let key = (tenant.clone(), address.as_str().unwrap_or_default().to_owned());
                        holders.entry(key).or_default().push(text.clone());
                    }
                }
            }
            match holders.iter().find(|(_, list)| list.len() > 1) {
                Some((address, list)) => anyhow::bail!("{address:?} belongs to {list:?}"),
                None => Ok(true),
            }
        },
    )
}

/// S13: the records in etcd are those of the live sessions.
fn replicated(scene: &Scene) -> Result<()> {
    wait_for("S13: as many records as sessions", REPLICATED, || {
        let mut live = 0;
        for daemon in &scene.nodes {
            live += sessions(daemon)?.len();
        }
        let keys = scene.etcd.keys("vpn/slot/")?;
        let records = keys.iter().filter(|k| k.contains("/sa/")).count();
        anyhow::ensure!(live == records, "{live} sessions, {records} records");
        Ok(true)
    })
}

fn within_memory(scene: &Scene) -> Result<()> {
    for daemon in &scene.nodes {
        let octets = daemon.memory()?;
        anyhow::ensure!(octets < MEMORY_MAX, "S14: a node has {} MiB", octets >> 20);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::percentile;

    #[test]
    fn percentiles_of_few_and_of_many() {
        assert!((percentile(&[], 99.0) - 0.0).abs() < f64::EPSILON);
        assert!((percentile(&[5.0, 1.0], 99.0) - 5.0).abs() < f64::EPSILON);
        let many: Vec<f64> = (0..1000).rev().map(f64::from).collect();
        assert!((percentile(&many, 99.0) - 989.0).abs() < f64::EPSILON);
        assert!((percentile(&many, 50.0) - 499.0).abs() < f64::EPSILON);
    }
}
