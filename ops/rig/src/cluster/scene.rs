//! The whole scene: nodes, etcd, clients, users, captures; and what every fault and every checker asks of it.

use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::clients::{Authority, Client, Setting};
use super::etcd::Etcd;
use super::load::{Interval, Source, Users};
use super::node::{self, Options};
use super::watcher::Watcher;
use super::world::{Net, Plan, World, node_name};
use crate::Result;
use crate::capture::Capture;
use crate::daemon::Daemon;
use crate::net::Folder;
use crate::process::{Process, wait_for};

/// Octets that a member of etcd may store: little enough to be filled up within a test.
const QUOTA: &str = "67108864";

/// Where each node's collector of telemetry listens.
pub const COLLECTOR: &str = "127.0.0.1:4317";

/// Everything that runs.
#[derive(Debug)]
pub struct Scene {
    /// Traffic; first, so that it ends first.
    pub sources: Vec<Source>,
    /// Real clients.
    pub clients: Vec<Client>,
    /// A flow that no concentrator carries: its silences are those of the machine.
    pub control: Source,
    /// Who has the service addresses.
    pub watcher: Watcher,
    /// The concentrators.
    pub nodes: Vec<Daemon>,
    /// Captures that run.
    pub captures: Vec<Capture>,
    /// The echo server inside.
    pub echo: Process,
    /// The store.
    pub etcd: Etcd,
    /// Certificates and tenants.
    pub authority: Authority,
    /// The hosts.
    pub world: World,
    /// Files.
    pub folder: Folder,
    /// Of captures that would have the same name.
    folders: Vec<Folder>,
    /// Logins of real clients at the last mark.
    logins_before: usize,
    marked: String,
}

/// The longest silence of every flow in an interval, over all sources.
#[derive(Debug, Clone, Default)]
pub struct Silences {
    /// Flows that had one.
    pub list: Vec<super::load::Silence>,
    /// Flows of each slot.
    pub flows: Vec<u64>,
    /// Logins that nobody should have needed.
    pub new_logins: u64,
    /// How late the machine was, in milliseconds: the generators, or a flow that no concentrator carries.
    pub own_stall_ms: f64,
}

impl Silences {
    /// Milliseconds of every flow of these slots, longest first; flows that were never silent count as 0.
    pub fn of(&self, slots: &[u8]) -> Vec<f64> {
        let mut millis: Vec<f64> = self
            .list
            .iter()
            .filter(|s| slots.contains(&s.slot))
            .map(|s| s.millis)
            .collect();
        let all: u64 = slots
            .iter()
            .filter_map(|&slot| self.flows.get(usize::from(slot)))
            .sum();
        millis.resize(millis.len().max(usize::try_from(all).unwrap_or(0)), 0.0);
        millis.sort_by(|a, b| b.total_cmp(a));
        millis
    }
}

impl Scene {
    /// Builds the world, starts etcd, the nodes and the tenants, and waits until every slot is served.
    pub fn start(plan: &Plan, options: &Options) -> Result<Self> {
        let folder = Folder::new("cluster")?;
        let world = World::new(plan, &folder)?;
        let etcd = Etcd::start(
            &world,
            &folder,
            &["--quota-backend-bytes", QUOTA, "--max-txn-ops", "4096"],
        )?;
        let key = node::write_key(&folder)?;
        let authority = Authority::new()?;
        let mut nodes = Vec::new();
        for (index, host) in world.nodes.iter().enumerate() {
            let own = Folder::new(&format!("node-{}", node_name(index)))?;
            let text = node::configuration(&world, index, &own, &key, &etcd.endpoints(), options);
            nodes.push(Daemon::prepare(host, own, &text)?);
        }
        if options.otlp {
            for host in &world.nodes {
                crate::collector::serve_inside(host.name(), COLLECTOR.parse()?)?;
            }
        }
        for daemon in &mut nodes {
            daemon.spawn()?;
        }
        for daemon in &mut nodes {
            daemon.expect_served(Duration::from_secs(20))?;
        }
        let resources = authority.resources()?;
        let first = nodes.first().context("a node")?;
        wait_for("the tenants to be taken", Duration::from_secs(15), || {
            first.apply("tenants.yaml", &resources).map(|_| true)
        })
        .with_context(|| first.log())?;
        let echo = super::load::echo(&world, &folder)?;
        let control = Source::client(world.bystander(), &folder, "control", 0)?;
        let scene = Self {
            sources: Vec::new(),
            control,
            clients: Vec::new(),
            watcher: Watcher::start(world.eyes()),
            nodes,
            captures: Vec::new(),
            echo,
            etcd,
            authority,
            world,
            folder,
            folders: Vec::new(),
            logins_before: 0,
            marked: String::new(),
        };
        scene
            .world
            .expect_served(Duration::from_secs(20))
            .with_context(|| scene.logs())?;
        // The first node to start takes all, then they share: a login in the middle of that would have to be repeated.
        scene
            .expect_calm(Duration::from_secs(60))
            .with_context(|| scene.logs())?;
        Ok(scene)
    }

    /// Starts captures of everything on the service ports of all nodes; and, for the search of keys, on the cluster's
    /// ports and of the telemetry that the nodes send.
    pub fn capture(&mut self, for_keys: bool) -> Result<()> {
        for index in 0..self.nodes.len() {
            let mut nets = vec![Net::Service];
            if for_keys {
                nets.push(Net::Cluster);
                let host = self.world.nodes.get(index).context("a host")?;
                let folder = Folder::new(&format!("telemetry-{}", node_name(index)))?;
                let capture = Capture::filtered(host, "lo", &folder, "tcp port 4317", false)?;
                self.captures.push(capture);
                self.folders.push(folder);
            }
            for net in nets {
                let port = World::port(net, index);
                let capture = Capture::filtered(&self.world.switch, &port, &self.folder, "", false)?;
                self.captures.push(capture);
            }
        }
        Ok(())
    }

    /// Logs a real client in at a slot and starts its traffic.
    pub fn client(&mut self, index: usize, slot: u8, setting: &Setting) -> Result<()> {
        let client = Client::start(&self.world, &self.authority, index, slot, setting)?;
        client.login().with_context(|| self.logs())?;
        let host = self.world.clients.get(index).context("no such client")?;
        let source = Source::client(host, &self.folder, &format!("client{index}"), slot)
            .with_context(|| self.logs())?;
        self.sources.push(source);
        self.clients.push(client);
        Ok(())
    }

    /// Logs the usual real clients in, one at each slot: with certificates and with pre-shared keys, behind the NAT and
    /// before it.
    pub fn usual_clients(&mut self) -> Result<()> {
        (0..self.world.clients.len()).try_for_each(|index| self.usual_client(index))
    }

    /// Logs one of them in.
    pub fn usual_client(&mut self, index: usize) -> Result<()> {
        let slot = u8::try_from(index % usize::from(self.world.plan.slots))?;
        let setting = Setting {
            certificate: (index % 2 == 1).then_some(crate::pki::Key::Ecdsa(256)),
            ..Setting::default()
        };
        self.client(index, slot, &setting)
    }

    /// Logs simulated users in and starts their traffic.
    pub fn users(&mut self, name: &str, users: &Users) -> Result<()> {
        let source = Source::users(&self.world, &self.folder, name, users).with_context(|| self.logs())?;
        self.sources.push(source);
        Ok(())
    }

    /// The node that has a slot's address.
    pub fn owner(&self, slot: u8) -> Result<usize> {
        let holders = self.world.holders_of(slot);
        match holders.as_slice() {
            [one] => Ok(*one),
            other => anyhow::bail!("slot {slot} is on {other:?}"),
        }
    }

    /// The slots that a node has the addresses of.
    pub fn slots_of(&self, node: usize) -> Vec<u8> {
        let holders = self.world.eyes().all_holders();
        (0_u8..)
            .zip(&holders)
            .filter(|(_, nodes)| nodes.contains(&node))
            .map(|(slot, _)| slot)
            .collect()
    }

    /// A node's daemon.
    pub fn node(&mut self, index: usize) -> Result<&mut Daemon> {
        self.nodes.get_mut(index).context("no such node")
    }

    /// Runs `vpnctl` at a node.
    pub fn vpnctl(&self, node: usize, arguments: &[&str]) -> Result<String> {
        self.nodes.get(node).context("no such node")?.vpnctl(arguments)
    }

    /// Opens an interval at all sources.
    pub fn mark(&mut self, name: &str) -> Result<()> {
        self.logins_before = self.logins();
        self.marked = name.to_owned();
        self.control.mark(name)?;
        self.sources.iter().try_for_each(|source| source.mark(name))
    }

    /// Tells a source that began after the last mark of it, and forgets logins that the rig itself has caused.
    pub fn mark_again(&mut self) -> Result<()> {
        self.logins_before = self.logins();
        let name = self.marked.clone();
        match self.sources.last() {
            Some(source) if !name.is_empty() => source.mark(&name),
            _ => Ok(()),
        }
    }

    /// Moves a slot to a node that has none.
    pub fn give_slot(&mut self, node: usize) -> Result<()> {
        if !self.slots_of(node).is_empty() {
            return Ok(());
        }
        // A node that has just started is given slots by the others, or may take one when it has settled.
        wait_for("the node to have a slot", Duration::from_secs(20), || {
            if self.slots_of(node).is_empty() {
                let from = self.owner(0)?;
                self.vpnctl(from, &["cluster", "move", "0", &node_name(node)])?;
            }
            Ok(!self.slots_of(node).is_empty())
        })
    }

    /// Logs real clients in anew whose tunnel is gone for good, so that one loss is not counted again with every fault
    /// that follows; says whose.
    pub fn revive(&mut self) -> Result<Vec<String>> {
        let mut revived = Vec::new();
        let indices: Vec<usize> = self.clients.iter().map(|c| c.index).collect();
        for index in indices {
            let name = format!("client{index}");
            let well = |s: &Source| s.name != name || s.expect_up(Duration::from_secs(1)).is_ok();
            if self.sources.iter().all(well) {
                continue;
            }
            let state = self.clients.iter().find(|c| c.index == index).map(|c| {
                let log = c.swan.log();
                let lines: Vec<&str> = log.lines().collect();
                lines[lines.len().saturating_sub(12)..].join("\n      ")
            });
            self.clients.retain(|c| c.index != index);
            self.sources.retain(|s| s.name != name);
            self.usual_client(index)?;
            revived.push(format!(
                "{name} had to be logged in anew; its log ended with\n      {}",
                state.unwrap_or_default()
            ));
        }
        Ok(revived)
    }

    /// What all sources tell since a mark.
    pub fn since(&self, name: &str) -> Result<Silences> {
        let mut all = Silences {
            flows: vec![0; usize::from(self.world.plan.slots)],
            ..Silences::default()
        };
        for source in &self.sources {
            let interval: Interval = source.since(name)?;
            for (slot, flows) in source.flows_by_slot(interval.flows) {
                if let Some(count) = all.flows.get_mut(usize::from(slot)) {
                    *count += flows;
                }
            }
            all.list.extend(interval.silences);
            all.new_logins += interval.new_logins;
            all.own_stall_ms = all.own_stall_ms.max(interval.own_stall_ms);
        }
        let control = self.control.since(name)?;
        let noise = control.silences.iter().map(|s| s.millis);
        all.own_stall_ms = noise
            .chain([control.own_stall_ms, all.own_stall_ms])
            .fold(0.0, f64::max);
        let logins = self.logins().saturating_sub(self.logins_before);
        all.new_logins += u64::try_from(logins).unwrap_or(u64::MAX);
        Ok(all)
    }

    /// Logins that the real clients have begun.
    fn logins(&self) -> usize {
        self.clients.iter().map(Client::logins).sum()
    }

    /// S15: waits until every flow is answered again.
    pub fn expect_flows(&self, limit: Duration) -> Result<()> {
        self.sources.iter().try_for_each(|source| source.expect_up(limit))
    }

    /// Waits until slots are spread over all nodes and none has moved for a while: what moves from then on moves for a
    /// reason.
    pub fn expect_calm(&self, limit: Duration) -> Result<()> {
        let most = usize::from(self.world.plan.slots).div_ceil(self.nodes.len().max(1));
        let end = Instant::now() + limit;
        let mut last = (self.world.eyes().all_holders(), Instant::now());
        loop {
            let holders = self.world.eyes().all_holders();
            if holders != last.0 {
                last = (holders, Instant::now());
            }
            let single = last.0.iter().all(|h| h.len() == 1);
            let spread =
                (0..self.nodes.len()).all(|n| last.0.iter().filter(|h| h.contains(&n)).count() <= most);
            // Where the spread is not even, the cluster may have its reasons: it is left alone after a longer silence.
            let quiet = Duration::from_secs(if spread { 2 } else { 12 });
            if single && last.1.elapsed() >= quiet {
                return Ok(());
            }
            anyhow::ensure!(Instant::now() < end, "slots do not come to rest: {:?}", last.0);
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Puts everything back: links, rules, etcd, nodes that do not run.
    pub fn heal(&mut self) -> Result<()> {
        self.world.heal()?;
        self.etcd.heal()?;
        for index in 0..self.nodes.len() {
            let daemon = self.node(index)?;
            daemon.signal(rustix::process::Signal::CONT);
            if !daemon.is_running() {
                daemon.launch()?;
            }
        }
        Ok(())
    }

    /// Ends the captures and returns their files.
    pub fn finish_captures(&mut self) -> Vec<std::path::PathBuf> {
        self.captures.drain(..).map(Capture::finish).collect()
    }

    /// The ends of the nodes' logs.
    pub fn logs(&self) -> String {
        let mut text = String::new();
        for (index, daemon) in self.nodes.iter().enumerate() {
            let log = daemon.log();
            let lines: Vec<&str> = log.lines().collect();
            let end = lines[lines.len().saturating_sub(40)..].join("\n");
            text += &format!("--- node {}\n{end}\n", node_name(index));
        }
        text
    }
}
