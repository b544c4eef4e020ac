//! The hosts of a cluster and the three networks between them.
//!
//! ```text
//!   client0, client1 ── nat ──┐
//!   client2, client3, … ──────┤ service 192.0.2.0/24, 2001:db8:2::/64 ── eth0 ─┐
//!   load ─────────────────────┘                     (addresses .100 + slot)    ├ node a (.1), b (.2), c (.3)
//!   inside server .10 ────────── inside 10.97.0.0/24 ──────────────── eth1 ─┤
//!                                  (next hops .100 + slot)                     │
//!   etcd e0, e1, e2 (.11, …) ─── cluster 10.98.0.0/24 ─────────────── eth2 ─┘
//! ```
//!
//! All three networks are bridges in one namespace, the switch: that is where cables are pulled and packets dropped, and
//! where captures see what a node sends whatever has become of the node.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::Result;
use crate::net::{Folder, Host};
use crate::process::Process;

/// The server behind the cluster.
pub const SERVER: &str = "10.97.0.10";
/// See [`SERVER`].
pub const SERVER_V6: &str = "fd97::10";
/// The pool of tenant `acme`; each slot has a block of it.
pub const POOL: &str = "10.64.0.0/16";
/// See [`POOL`].
pub const POOL_V6: &str = "fd64::/112";
/// The pool of tenant `globex`.
pub const POOL_GLOBEX: &str = "10.65.0.0/16";
/// Public address of the NAT.
pub const NAT: &str = "192.0.2.10";
/// Addresses of the load generator on the service network.
pub const LOAD: [&str; 4] = ["192.0.2.30", "192.0.2.31", "192.0.2.32", "192.0.2.33"];

/// What is to be built.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Nodes: 2 or 3 (or more).
    pub nodes: usize,
    /// Slots.
    pub slots: u8,
    /// Members of etcd.
    pub members: usize,
    /// Whether member i lives in the namespace of node i, so that one fault hits both.
    pub together: bool,
    /// Namespaces for real clients; the first two are behind the NAT.
    pub clients: usize,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            nodes: 3,
            slots: 6,
            members: 3,
            together: false,
            clients: 5,
        }
    }
}

/// One of the three networks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Net {
    /// Towards the clients.
    Service,
    /// Towards the server.
    Inside,
    /// Between the nodes and etcd.
    Cluster,
}

impl Net {
    fn bridge(self) -> &'static str {
        match self {
            Self::Service => "svc",
            Self::Inside => "ins",
            Self::Cluster => "clu",
        }
    }
}

/// All hosts.
#[derive(Debug)]
pub struct World {
    /// Processes that only hold a node's namespace open, so that it can be looked into by `/proc`.
    holders: Vec<Process>,
    /// What it was built from.
    pub plan: Plan,
    /// The nodes.
    pub nodes: Vec<Host>,
    /// Members of etcd that have a namespace of their own.
    pub members: Vec<Host>,
    /// The real clients.
    pub clients: Vec<Host>,
    /// In front of the first two clients.
    pub nat: Host,
    /// The load generator.
    pub load: Host,
    /// The server inside.
    pub inside: Host,
    bystander: Host,
    /// Holds the three bridges.
    pub switch: Host,
}

/// The name of node `index`.
pub fn node_name(index: usize) -> String {
    let letters = ["a", "b", "c", "d", "e"];
    letters
        .get(index)
        .map_or_else(|| format!("n{index}"), |l| (*l).to_owned())
}

/// The service address of a slot.
pub fn service_address(slot: u8) -> String {
    format!("192.0.2.{}", 100 + u16::from(slot))
}

/// The service address of slot 0 in IPv6; the other slots have none.
pub const SERVICE_V6: &str = "2001:db8:2::100";

/// The cluster address of a node.
pub fn cluster_address(node: usize) -> String {
    format!("10.98.0.{}", node + 1)
}

/// The address of a member of etcd.
pub fn member_address(member: usize) -> String {
    format!("10.98.0.{}", member + 11)
}

/// Into how many shares pools are cut: a power of two that is enough for the slots.
pub fn shares(slots: u8) -> u16 {
    u16::from(slots).next_power_of_two()
}

/// The blocks of tenant `acme`'s and `globex`'s pools that belong to a slot, and of the pool in IPv6.
pub fn blocks(slot: u8, slots: u8) -> [String; 3] {
    let count = shares(slots);
    let size = 65_536 / u32::from(count);
    let start = u32::from(slot) * size;
    let (bits, high, low) = (16 + count.trailing_zeros(), start >> 8, start & 255);
    [
        format!("10.64.{high}.{low}/{bits}"),
        format!("10.65.{high}.{low}/{bits}"),
        format!("fd64::{start:x}/{}", 112 + count.trailing_zeros()),
    ]
}

impl World {
    /// Builds it.
    pub fn new(plan: &Plan, folder: &Folder) -> Result<Self> {
        crate::cleanup::sweep();
        let switch = Host::new("switch")?;
        for net in [Net::Service, Net::Inside, Net::Cluster] {
            switch.run(&[
                "ip",
                "link",
                "add",
                net.bridge(),
                "type",
                "bridge",
                "mcast_snooping",
                "0",
            ])?;
            switch.run(&["ip", "link", "set", net.bridge(), "up"])?;
        }
        switch.run(&[
            "nft",
            "add table bridge rig; add chain bridge rig forward { type filter hook forward priority 0 ; }",
        ])?;
        let mut nodes = Vec::new();
        let mut holders = Vec::new();
        for index in 0..plan.nodes {
            let host = node(&switch, index, plan)?;
            holders.push(host.start("holder", &["sleep", "infinity"], &[], &folder.join("holder.log"))?);
            nodes.push(host);
        }
        let mut members = Vec::new();
        if !plan.together {
            for index in 0..plan.members {
                let host = Host::new(&format!("e{index}"))?;
                plug(&switch, &host, "eth0", Net::Cluster, &format!("e{index}"))?;
                host.address("eth0", &format!("{}/24", member_address(index)))?;
                members.push(host);
            }
        }
        let nat = nat(&switch)?;
        let clients = (0..plan.clients)
            .map(|index| client(&switch, &nat, index))
            .collect::<Result<Vec<_>>>()?;
        let bystander = Host::new("bystander")?;
        plug(&switch, &bystander, "eth0", Net::Cluster, "by")?;
        bystander.address("eth0", "10.98.0.200/24")?;
        plug(&switch, &bystander, "eth1", Net::Inside, "by")?;
        bystander.address("eth1", "10.97.0.200/24")?;
        let load = Host::new("load")?;
        plug(&switch, &load, "eth0", Net::Service, "load")?;
        for address in LOAD {
            load.address("eth0", &format!("{address}/24"))?;
        }
        Ok(Self {
            holders,
            plan: plan.clone(),
            nodes,
            members,
            clients,
            nat,
            load,
            inside: inside(&switch, plan)?,
            bystander,
            switch,
        })
    }

    /// The service addresses of all slots.
    pub fn service_addresses(&self) -> Vec<IpAddr> {
        let v4 = (0..self.plan.slots).map(service_address);
        v4.chain([SERVICE_V6.to_owned()])
            .filter_map(|a| a.parse().ok())
            .collect()
    }

    /// Where a member of etcd lives.
    pub fn member_host(&self, member: usize) -> Option<&Host> {
        if self.plan.together {
            self.nodes.get(member)
        } else {
            self.members.get(member)
        }
    }

    /// A host on the cluster's and the inside network that no fault touches: for those who watch the store, and for the
    /// flow that shows how late the machine itself is.
    pub fn bystander(&self) -> &Host {
        &self.bystander
    }

    /// The switch's port of a node.
    pub fn port(net: Net, node: usize) -> String {
        format!("{}-{}", net.bridge(), node_name(node))
    }

    /// Pulls the cable of a node out of a network, or plugs it in again: both ends see it.
    pub fn cable(&self, net: Net, node: usize, plugged: bool) -> Result<()> {
        let port = Self::port(net, node);
        let state = if plugged { "up" } else { "down" };
        self.switch.run(&["ip", "link", "set", &port, state]).map(drop)
    }

    /// Adds a rule to the switch, as nftables' bridge family writes it: `iifname "svc-a" drop`.
    pub fn rule(&self, rule: &str) -> Result<()> {
        self.switch
            .run(&["nft", &format!("add rule bridge rig forward {rule}")])
            .map(drop)
    }

    /// Lets nothing through from one port to another, in this direction only; nobody sees a cable pulled.
    pub fn block(&self, from: &str, to: &str) -> Result<()> {
        self.rule(&format!("iifname \"{from}\" oifname \"{to}\" drop"))
    }

    /// Takes all rules away and plugs all cables in.
    pub fn heal(&self) -> Result<()> {
        self.switch.run(&["nft", "flush chain bridge rig forward"])?;
        for node in 0..self.nodes.len() {
            for net in [Net::Service, Net::Inside, Net::Cluster] {
                self.cable(net, node, true)?;
            }
        }
        Ok(())
    }

    /// Looks at the nodes' addresses.
    pub fn eyes(&self) -> Eyes {
        Eyes {
            holders: self.holders.iter().map(Process::id).collect(),
            slots: self.plan.slots,
        }
    }

    /// The nodes that have the service address of a slot at present.
    pub fn holders_of(&self, slot: u8) -> Vec<usize> {
        self.eyes().holders_of(slot)
    }

    /// Waits until each slot's address is on exactly one node.
    pub fn expect_served(&self, limit: Duration) -> Result<()> {
        crate::process::wait_for("every slot to be served by one node", limit, || {
            let holders = self.eyes().all_holders();
            anyhow::ensure!(holders.iter().all(|h| h.len() == 1), "slots are on {holders:?}");
            Ok(true)
        })
    }
}

/// Reads the addresses of nodes from `/proc`, without starting a program.
#[derive(Debug, Clone)]
pub struct Eyes {
    holders: Vec<u32>,
    slots: u8,
}

impl Eyes {
    /// All addresses of a node's interfaces.
    pub fn addresses(&self, node: usize) -> Vec<IpAddr> {
        let Some(holder) = self.holders.get(node) else {
            return Vec::new();
        };
        let net = PathBuf::from(format!("/proc/{holder}/net"));
        let mut found = Vec::new();
        let trie = std::fs::read_to_string(net.join("fib_trie")).unwrap_or_default();
        let mut last: Option<IpAddr> = None;
        for line in trie.lines().map(str::trim) {
            if let Some(address) = line.strip_prefix("|-- ") {
                last = address.parse().ok();
            } else if line == "/32 host LOCAL" {
                found.extend(last);
            }
        }
        let v6 = std::fs::read_to_string(net.join("if_inet6")).unwrap_or_default();
        for line in v6.lines() {
            let digits = line.split(' ').next().unwrap_or_default();
            if let Ok(bits) = u128::from_str_radix(digits, 16) {
                found.push(IpAddr::V6(bits.into()));
            }
        }
        found.sort_unstable();
        found.dedup();
        found
    }

    /// The nodes that have the service address of a slot at present.
    pub fn holders_of(&self, slot: u8) -> Vec<usize> {
        let Ok(address) = service_address(slot).parse() else {
            return Vec::new();
        };
        (0..self.holders.len())
            .filter(|&node| self.addresses(node).contains(&address))
            .collect()
    }

    /// For each slot the nodes that have its service address at present.
    pub fn all_holders(&self) -> Vec<Vec<usize>> {
        let nodes: Vec<_> = (0..self.holders.len()).map(|node| self.addresses(node)).collect();
        let holders = |slot| {
            let address: Option<IpAddr> = service_address(slot).parse().ok();
            let has = |addresses: &&Vec<IpAddr>| address.is_some_and(|a| addresses.contains(&a));
            (0..nodes.len())
                .filter(|&n| nodes.get(n).as_ref().is_some_and(has))
                .collect()
        };
        (0..self.slots).map(holders).collect()
    }
}

/// Joins a host to one of the switch's networks.
pub fn plug(switch: &Host, host: &Host, device: &str, net: Net, label: &str) -> Result<()> {
    let port = format!("{}-{label}", net.bridge());
    host.link(device, switch, &port)?;
    switch.run(&["ip", "link", "set", &port, "master", net.bridge()])?;
    // A NIC puts packets on its wire, not bursts: what is captured and counted has to be what was sealed.
    for feature in ["tso", "gso", "tx-udp-segmentation"] {
        host.run(&["ethtool", "-K", device, feature, "off"])?;
    }
    Ok(())
}

fn node(switch: &Host, index: usize, plan: &Plan) -> Result<Host> {
    let name = node_name(index);
    let host = Host::new(&name)?;
    host.forward()?;
    for (device, net) in [
        ("eth0", Net::Service),
        ("eth1", Net::Inside),
        ("eth2", Net::Cluster),
    ] {
        plug(switch, &host, device, net, &name)?;
    }
    host.address("eth0", &format!("192.0.2.{}/24", index + 1))?;
    host.address("eth0", &format!("2001:db8:2::{}/64", index + 1))?;
    host.address("eth1", &format!("10.97.0.{}/24", index + 1))?;
    host.address("eth1", &format!("fd97::{}/64", index + 1))?;
    host.address("eth2", &format!("{}/24", cluster_address(index)))?;
    if plan.together {
        host.address("eth2", &format!("{}/24", member_address(index)))?;
    }
    Ok(host)
}

fn nat(switch: &Host) -> Result<Host> {
    let host = Host::new("nat")?;
    host.forward()?;
    plug(switch, &host, "out", Net::Service, "nat")?;
    host.address("out", &format!("{NAT}/24"))?;
    host.run(&["nft", "add table ip nat; add chain ip nat post { type nat hook postrouting priority 100 ; }; add rule ip nat post oifname out masquerade"])?;
    Ok(host)
}

fn client(switch: &Host, nat: &Host, index: usize) -> Result<Host> {
    let host = Host::new(&format!("client{index}"))?;
    if index < 2 {
        let inner = format!("in{index}");
        host.link("eth0", nat, &inner)?;
        nat.address(&inner, &format!("10.99.{index}.1/24"))?;
        host.address("eth0", &format!("10.99.{index}.2/24"))?;
        host.route("default", &format!("10.99.{index}.1"))?;
    } else {
        plug(switch, &host, "eth0", Net::Service, &format!("k{index}"))?;
        host.address("eth0", &format!("192.0.2.{}/24", 20 + index))?;
        host.address("eth0", &format!("2001:db8:2::{}/64", 20 + index))?;
    }
    Ok(host)
}

fn inside(switch: &Host, plan: &Plan) -> Result<Host> {
    let host = Host::new("inside")?;
    plug(switch, &host, "eth0", Net::Inside, "server")?;
    host.address("eth0", &format!("{SERVER}/24"))?;
    host.address("eth0", &format!("{SERVER_V6}/64"))?;
    for slot in 0..plan.slots {
        let [acme, globex, v6] = blocks(slot, plan.slots);
        let next = format!("10.97.0.{}", 100 + u16::from(slot));
        host.route(&acme, &next)?;
        host.route(&globex, &next)?;
        if slot == 0 {
            host.route(&v6, "fd97::100")?;
        }
    }
    Ok(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_blocks_of_the_slots_do_not_overlap() {
        assert_eq!(shares(6), 8);
        assert_eq!(blocks(0, 6), ["10.64.0.0/19", "10.65.0.0/19", "fd64::0/115"]);
        assert_eq!(
            blocks(5, 6),
            ["10.64.160.0/19", "10.65.160.0/19", "fd64::a000/115"]
        );
        assert_eq!(blocks(1, 2)[0], "10.64.128.0/17");
        assert_eq!(blocks(0, 1)[0], "10.64.0.0/16");
    }
}
