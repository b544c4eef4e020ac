//! A whole run: a quiet start, faults, healing, and what has to be true then.

use std::time::Duration;

use cluster::SlotState;

use crate::check::Report;
use crate::world::{Options, World};

/// Until when faults begin.
const FAULTS_FROM: Duration = Duration::from_secs(5);
const FAULTS_TO: Duration = Duration::from_secs(20);
/// After healing everything has to be well within this.
const QUIET: Duration = Duration::from_secs(30);

/// Runs a seed.
///
/// # Errors
/// What was violated, with the faults that led there.
pub fn run(options: Options, faults: usize) -> Result<Report, String> {
    let mut world = World::new(options);
    world.plan(faults, FAULTS_FROM, FAULTS_TO);
    let last = world
        .faults
        .iter()
        .map(|fault| fault.at + fault.lasts.min(Duration::from_secs(10)))
        .max()
        .unwrap_or(FAULTS_TO);
    world.run_until(last.max(FAULTS_TO));
    if world.checker.violation.is_some() {
        return world.finish();
    }
    world.heal();
    let healed = world.now;
    let mut well_since = None;
    let mut why = None;
    while world.checker.violation.is_none() && world.now < healed + QUIET {
        let next = world.now + Duration::from_millis(250);
        world.run_until(next);
        why = world.unwell();
        match why {
            None => {
                let since = *well_since.get_or_insert(world.now);
                world.report.healed_after = since - healed;
                if world.now >= since + Duration::from_secs(3) {
                    break;
                }
            }
            Some(_) => well_since = None,
        }
    }
    if let Some(why) = why {
        let now = world.now;
        world.checker.fail(now, format!("S15: 30 s after healing {why}"));
    }
    world.finish()
}

impl World {
    /// What is not as it should be in a quiet cluster.
    pub fn unwell(&self) -> Option<String> {
        for slot in 0..self.options.slots {
            let servers: Vec<String> = self
                .nodes
                .iter()
                .filter(|node| node.slots.get(&slot).is_some_and(|serving| serving.up))
                .map(|node| node.name.clone())
                .collect();
            if servers.len() != 1 {
                return Some(format!("slot {slot} is served by {servers:?}"));
            }
        }
        for (index, node) in self.nodes.iter().enumerate() {
            let Some(core) = &node.core else {
                return Some(format!("{} does not run", node.name));
            };
            let boot = self.boot(index);
            let status = core.status(boot);
            if status.until.is_none_or(|until| until <= boot) || !status.synced || status.fail_static {
                return Some(format!("{} may not forward or does not follow", node.name));
            }
            for slot in &status.slots {
                // S13: what it knows is what the store has.
                let generation = self.etcd.number(&cluster::keys::generation(slot.slot));
                let owner = self
                    .etcd
                    .text(&cluster::keys::owner(slot.slot))
                    .unwrap_or_default();
                let known = slot.owner.clone().unwrap_or_default();
                if generation != slot.generation || !owner.starts_with(&format!("{known}#")) {
                    return Some(format!(
                        "S13: {} believes slot {} to be at {known} ({}), it is at {owner} ({generation})",
                        node.name, slot.slot, slot.generation
                    ));
                }
                let held = node.slots.contains_key(&slot.slot);
                if held != (slot.state != SlotState::Elsewhere) {
                    return Some(format!("{}: slot {} is {}", node.name, slot.slot, slot.state));
                }
            }
        }
        self.clients.iter().enumerate().find_map(|(index, client)| {
            let lately = |at: Duration, within: u64| self.now <= at + Duration::from_millis(within);
            (!client.logged_in || !lately(client.answered, 2_500) || !lately(client.received, 500))
                .then(|| format!("client {index} of slot {} has no working tunnel", client.slot))
        })
    }

    /// What the run has shown.
    ///
    /// # Errors
    /// What was violated.
    pub fn finish(mut self) -> Result<Report, String> {
        for node in &self.nodes {
            let Some(core) = &node.core else { continue };
            let counters = core.status(self.now + node.offset).counters;
            self.report.claims += counters.claims;
            self.report.handed_over += counters.handed_over;
            self.report.epochs += counters.epochs_raised;
            self.report.deadlines += counters.deadlines;
            self.report.statics += counters.statics;
            self.report.damped += counters.damped;
        }
        match self.checker.violation.take() {
            None => Ok(self.report),
            Some(violation) => Err(format!(
                "seed {} ({} nodes): {violation}\n  {}",
                self.options.seed,
                self.options.nodes,
                self.report.faults.join("\n  ")
            )),
        }
    }
}

/// The options of a seed of the general campaign: sizes and noise vary with it.
pub fn options_of(seed: u64) -> (Options, usize) {
    let mut options = Options::new(seed);
    options.nodes = match seed % 8 {
        0 => 2,
        1 => 5,
        _ => 3,
    };
    options.noise = seed.is_multiple_of(3);
    (options, 1 + (seed % 7) as usize)
}
