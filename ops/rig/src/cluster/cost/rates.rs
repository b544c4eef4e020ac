//! How quickly users come in when all of them do at once: with the embedded store, and with three members of etcd.

use std::fmt;
use std::time::Duration;

use anyhow::Context as _;

use super::Writes;
use crate::Result;
use crate::cluster::clients::{Authority, secret};
use crate::cluster::node::{self, Options};
use crate::cluster::scene::Scene;
use crate::cluster::world::{LOAD, Plan, World, service_address};
use crate::daemon::{Daemon, program};
use crate::net::Folder;
use crate::process::run;

/// Waves of logins that a daemon is given.
const WAVES: u32 = 3;

/// What runs where while logins are timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// The node, all members and all users on all processors.
    Together,
    /// The node on the first processor alone; the members, which have machines of their own where they serve somebody, and the
    /// users on the others.
    Apart,
}

impl Placement {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Together, Self::Apart];

    /// Numbers of the processors of the node, and of everything else; `None`: wherever there is room.
    fn processors(self) -> Option<(String, String)> {
        let last = std::thread::available_parallelism().map_or(1, usize::from) - 1;
        (self == Self::Apart && last > 0).then(|| ("0".to_owned(), format!("1-{last}")))
    }
}

impl fmt::Display for Placement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Together => "all on the same processors",
            Self::Apart => "the node on a processor of its own",
        })
    }
}

/// How quickly users come in when all of them do at once, and what a login costs.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rate {
    /// Logins a second.
    pub per_second: f64,
    /// Time of the processor that the concentrator takes for a login, in microseconds.
    pub node_micros: f64,
    /// The same of all members of etcd together.
    pub etcd_micros: f64,
    /// What is written to etcd for a login.
    pub writes: Writes,
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.0} a second, {:.0} µs of the node",
            self.per_second, self.node_micros
        )?;
        if self.etcd_micros > 0.0 {
            write!(f, ", {:.0} µs of etcd ({})", self.etcd_micros, self.writes)?;
        }
        Ok(())
    }
}

/// Lets a process with all its threads run on some processors only.
fn pin(process: u32, processors: &str) -> Result<()> {
    run(&["taskset", "-apc", processors, &process.to_string()]).map(drop)
}

/// The logins of one node with the embedded store, then of one with three members of etcd.
pub fn login_rates(users: u32, placement: Placement) -> Result<(Rate, Rate)> {
    let processors = placement.processors();
    let (ours, rest) = match &processors {
        Some((own, rest)) => (Some(own.as_str()), Some(rest.as_str())),
        None => (None, None),
    };
    let folder = Folder::new("single")?;
    let plan = Plan {
        nodes: 1,
        slots: 1,
        members: 0,
        clients: 0,
        ..Plan::default()
    };
    let embedded = {
        let world = World::new(&plan, &folder)?;
        let host = world.nodes.first().context("a node")?;
        host.address("eth0", &format!("{}/24", service_address(0)))?;
        let own = Folder::new("node-single")?;
        let text = node::single_configuration(&own);
        let mut daemon = Daemon::prepare(host, own, &text)?;
        daemon.launch()?;
        if let Some(ours) = ours {
            pin(daemon.id().context("no process")?, ours)?;
        }
        daemon.apply("tenants.yaml", &Authority::new()?.resources()?)?;
        median(waves(users, |first| {
            let before = daemon.processor_time()?;
            let per_second = rate(&world, &folder, users, first, rest)?;
            Ok(Rate {
                per_second,
                node_micros: micros(daemon.processor_time()?, before, users),
                ..Rate::default()
            })
        })?)
    };
    let scene = Scene::start(&Plan { members: 3, ..plan }, &Options::default())?;
    let daemon = scene.nodes.first().context("a node")?;
    if let (Some(ours), Some(rest)) = (ours, rest) {
        pin(daemon.id().context("no process")?, ours)?;
        for process in scene.etcd.processes() {
            pin(process, rest)?;
        }
    }
    let etcd = median(waves(users, |first| {
        let writes = Writes::of(&scene)?;
        let before = (daemon.processor_time()?, scene.etcd.processor_time()?);
        let per_second = rate(&scene.world, &scene.folder, users, first, rest)?;
        Ok(Rate {
            per_second,
            node_micros: micros(daemon.processor_time()?, before.0, users),
            etcd_micros: micros(scene.etcd.processor_time()?, before.1, users),
            writes: Writes::of(&scene)?.since(writes, Writes::default(), 0.0, f64::from(users.max(1))),
        })
    })?);
    Ok((embedded, etcd))
}

/// Several waves of users, each of whom comes for the first time and leaves at once. The first wave is slower: the memory of
/// programs that have just been started is touched for the first time.
fn waves(users: u32, mut wave: impl FnMut(u32) -> Result<Rate>) -> Result<Vec<Rate>> {
    (0..WAVES)
        .map(|number| {
            let rate = wave(number * users)?;
            eprintln!("{users} users, wave {}: {rate}", number + 1);
            // Until the last ones are gone.
            std::thread::sleep(Duration::from_secs(2));
            Ok(rate)
        })
        .collect()
}

fn median(mut waves: Vec<Rate>) -> Rate {
    waves.sort_by(|one, other| one.per_second.total_cmp(&other.per_second));
    waves.get(waves.len() / 2).copied().unwrap_or_default()
}

fn micros(now: Duration, before: Duration, users: u32) -> f64 {
    now.saturating_sub(before).as_secs_f64() * 1e6 / f64::from(users.max(1))
}

/// Logins a second, all users at once.
fn rate(world: &World, folder: &Folder, users: u32, first: u32, processors: Option<&str>) -> Result<f64> {
    let program = program("loadtest")?.display().to_string();
    let report = folder.join("rate.json");
    let pinned = processors.map_or_else(String::new, |list| format!("taskset -c {list} "));
    let script = format!(
        "exec {pinned}{program} connect --gateway {} --users {users} --first {first} --rate 0 --domain load.example --remote-id acme.vpn.example --psk '{}' \
         --local {} --remote-ts 10.97.0.0/24 --output json >{}",
        service_address(0),
        secret("acme"),
        LOAD.join(","),
        report.display()
    );
    let mut load = world
        .load
        .start("loadtest", &["sh", "-c", &script], &[], &folder.join("rate.log"))?;
    let status = load.wait(Duration::from_secs(180))?;
    let text = std::fs::read_to_string(&report)?;
    anyhow::ensure!(status.success(), "{status}: {text}{}", load.output());
    let value: serde_json::Value = serde_json::from_str(&text)?;
    value["logins_per_sec"].as_f64().context("no rate")
}
