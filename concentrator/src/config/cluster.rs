//! `[cluster]`: which cluster the node belongs to, how its nodes hear each other, and the table of slots.
//!
//! ```toml
//! [cluster]
//! etcd = ["http://10.98.0.11:2379"]
//! key_file = "/etc/concentrator/cluster.key"
//! listen = ["10.98.0.1:4600", "192.0.2.1:4600"]
//!
//! [[cluster.slots]]
//! id = 0
//! addresses = ["192.0.2.100/24@eth0", "10.97.0.100/24@eth1"]
//! ```
//!
//! The table of slots is the same on every node, but for the names of the interfaces: nodes whose tables differ never
//! take each other's slots.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// An address on an interface: `192.0.2.100/24@eth0`.
pub use dataplane::Address as SlotAddress;

/// Slots of a cluster: seven bits of every SPI name one.
pub const SLOTS_MAX: usize = 128;
/// Octets of a node's name.
const NAME_MAX: usize = 32;
/// Heartbeat addresses of one node.
const PATHS_MAX: usize = 4;
/// Addresses of one slot.
const ADDRESSES_MAX: usize = 16;

/// The section.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Cluster {
    /// The name under which the cluster's keys lie in etcd. A word without a slash. Default: `vpn`.
    pub namespace: String,
    /// The members of etcd, `http://HOST:PORT` or `https://HOST:PORT`.
    pub etcd: Vec<String>,
    /// The name of a user of etcd. Default: none.
    pub etcd_user: Option<String>,
    /// A file with the user's password, mode 0600.
    pub etcd_password_file: Option<PathBuf>,
    /// The authorities of etcd's certificates, PEM; needed for `https`.
    pub etcd_ca: Option<PathBuf>,
    /// Our certificate towards etcd, PEM.
    pub etcd_cert: Option<PathBuf>,
    /// Its key, PEM.
    pub etcd_key: Option<PathBuf>,
    /// The cluster's keys: one line of 64 hexadecimal digits a key, newest first; mode 0600, the same on every node.
    pub key_file: PathBuf,
    /// Where heartbeats are heard: one local address and port for each path to the other nodes, 1 to 4.
    pub listen: Vec<SocketAddr>,
    /// A program that is called as `HOOK acquire|release SLOT GENERATION` when a slot comes or goes. Default: none.
    pub hook: Option<PathBuf>,
    /// Where what came to another node is taken, when a router spreads packets over all nodes: an address of this node on
    /// a network that all nodes have an address of `listen` in, and a port that is the same at every node. Each node needs
    /// the service addresses of all slots then, on `lo` for example. Default: none.
    pub forward: Option<SocketAddr>,
    /// Milliseconds between two heartbeats, 10 to 1,000.
    pub heartbeat_ms: u32,
    /// Heartbeats missed on all paths after which a node is suspected, 2 to 50.
    pub missed: u32,
    /// Life of a node's lease in milliseconds, 1,000 to 60,000; etcd counts in whole seconds.
    pub lease_ttl_ms: u32,
    /// How long before its lease may end a node stops carrying packets, in milliseconds; less than half of the lease.
    pub margin_ms: u32,
    /// A slot moves at most once in so many seconds, unless its owner's process is known dead. 0 to 3,600.
    pub damping_secs: u32,
    /// Milliseconds after which a node that has joined is given slots, 0 to 600,000.
    pub settle_ms: u32,
    /// Give a node that has joined its share of the slots. Default: true.
    pub rebalance: bool,
    /// What the members' `--max-txn-ops` says, 8 to 65,536: how much of the configuration changes in one go.
    pub etcd_max_txn_ops: u32,
    /// What happens to new logins while etcd is out of reach: `refuse` or `admit`.
    pub logins_without_store: LoginsWithoutStore,
    /// Child SAs a second that this node replaces after takeovers: those that carried packets, since what came just before
    /// the takeover could be replayed once. 0 to 10,000; 0: none.
    pub takeover_rekeys_per_sec: u32,
    /// MiB of other nodes' sealed records that are kept in memory for a quick takeover; what does not fit is
    /// read when it is needed. 0 to 65,536.
    pub replica_mib: u32,
    /// The table of slots, 1 to 128.
    pub slots: Vec<SlotTable>,
}

/// What happens to new logins while etcd is out of reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LoginsWithoutStore {
    /// They are told to try again.
    Refuse,
    /// They come in; their tunnels do not outlive the node until etcd is back.
    Admit,
}

/// One slot: the unit that moves between nodes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SlotTable {
    /// Its number, 0 to 127.
    pub id: u8,
    /// Addresses that its owner has, `ADDRESS/LENGTH@INTERFACE`.
    pub addresses: Vec<SlotAddress>,
    /// Which of them clients call. Default: those on the interface of the first.
    #[serde(default)]
    pub service: Vec<IpAddr>,
}

impl SlotTable {
    /// The addresses that clients call.
    #[must_use]
    pub fn service_addresses(&self) -> Vec<IpAddr> {
        if !self.service.is_empty() {
            return self.service.clone();
        }
        let first = self.addresses.first().map(|address| address.interface.as_str());
        self.addresses
            .iter()
            .filter(|address| Some(address.interface.as_str()) == first)
            .map(|address| address.net.addr())
            .collect()
    }
}

impl Default for Cluster {
    fn default() -> Self {
        Self {
            namespace: "vpn".to_owned(),
            etcd: Vec::new(),
            etcd_user: None,
            etcd_password_file: None,
            etcd_ca: None,
            etcd_cert: None,
            etcd_key: None,
            key_file: PathBuf::from("/etc/concentrator/cluster.key"),
            listen: Vec::new(),
            hook: None,
            forward: None,
            heartbeat_ms: 100,
            missed: 3,
            lease_ttl_ms: 2_000,
            margin_ms: 500,
            damping_secs: 10,
            settle_ms: 3_000,
            rebalance: true,
            logins_without_store: LoginsWithoutStore::Refuse,
            etcd_max_txn_ops: 128,
            takeover_rekeys_per_sec: 100,
            replica_mib: 512,
            slots: Vec::new(),
        }
    }
}

impl Cluster {
    /// Between two heartbeats.
    #[must_use]
    pub fn heartbeat(&self) -> Duration {
        Duration::from_millis(self.heartbeat_ms.into())
    }

    /// Every address that clients call, each once, in the order of the table.
    #[must_use]
    pub fn listen_addresses(&self) -> Vec<IpAddr> {
        let mut seen = BTreeSet::new();
        self.slots
            .iter()
            .flat_map(SlotTable::service_addresses)
            .filter(|address| seen.insert(*address))
            .collect()
    }

    /// The highest number of a slot: pools are cut into as many blocks as it asks for.
    #[must_use]
    pub fn highest_slot(&self) -> u8 {
        self.slots.iter().map(|slot| slot.id).max().unwrap_or(0)
    }

    /// A number that two tables have in common only when they are the same, but for the names of the interfaces.
    #[must_use]
    pub fn table(&self) -> u64 {
        let mut slots: Vec<&SlotTable> = self.slots.iter().collect();
        slots.sort_by_key(|slot| slot.id);
        let mut text = String::new();
        for slot in slots {
            let mut addresses: Vec<String> = slot
                .addresses
                .iter()
                .map(|address| address.net.to_string())
                .collect();
            addresses.sort();
            let mut service = slot.service_addresses();
            service.sort();
            text.push_str(&format!("{} {addresses:?} {service:?}\n", slot.id));
        }
        let digest = crypto::digest(crypto::HashAlgorithm::Sha256, &[text.as_bytes()]);
        let octets = digest.first_chunk::<8>().copied();
        u64::from_be_bytes(octets.unwrap_or_default())
    }

    /// One sentence for each thing that is wrong with the section or with the node's name.
    #[must_use]
    pub fn problems(&self, node_name: &str) -> Vec<String> {
        let mut problems = Vec::new();
        let mut wrong = |is: bool, text: String| {
            if is {
                problems.push(text);
            }
        };
        let word = |text: &str| {
            !text.is_empty()
                && text
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
        };
        wrong(
            !word(node_name) || node_name.len() > NAME_MAX,
            format!(
                "node_name is {node_name:?}, in a cluster it must be 1 to {NAME_MAX} letters, digits, '-', '_', '.'"
            ),
        );
        wrong(
            !word(&self.namespace),
            format!("cluster.namespace is {:?}, it must be a word", self.namespace),
        );
        wrong(self.etcd.is_empty(), "cluster.etcd names no member".to_owned());
        for endpoint in &self.etcd {
            let secure = endpoint.starts_with("https://");
            wrong(
                !secure && !endpoint.starts_with("http://"),
                format!("cluster.etcd: {endpoint} must begin with http:// or https://"),
            );
            wrong(
                secure != self.etcd_ca.is_some(),
                format!("cluster.etcd: {endpoint}: https:// and cluster.etcd_ca go together"),
            );
        }
        wrong(
            self.etcd_cert.is_some() != self.etcd_key.is_some(),
            "cluster.etcd_cert and cluster.etcd_key go together".to_owned(),
        );
        wrong(
            self.etcd_user.is_some() != self.etcd_password_file.is_some(),
            "cluster.etcd_user and cluster.etcd_password_file go together".to_owned(),
        );
        wrong(
            self.key_file.as_os_str().is_empty(),
            "cluster.key_file is empty".to_owned(),
        );
        wrong(
            self.hook.as_ref().is_some_and(|hook| !hook.is_absolute()),
            "cluster.hook must be an absolute path".to_owned(),
        );
        for (name, value, least, most) in [
            ("listen (how many)", self.listen.len() as u64, 1, PATHS_MAX as u64),
            ("heartbeat_ms", self.heartbeat_ms.into(), 10, 1_000),
            ("missed", self.missed.into(), 2, 50),
            ("lease_ttl_ms", self.lease_ttl_ms.into(), 1_000, 60_000),
            (
                "margin_ms",
                self.margin_ms.into(),
                50,
                u64::from(self.lease_ttl_ms) / 2,
            ),
            ("damping_secs", self.damping_secs.into(), 0, 3_600),
            ("settle_ms", self.settle_ms.into(), 0, 600_000),
            ("etcd_max_txn_ops", self.etcd_max_txn_ops.into(), 8, 65_536),
            (
                "takeover_rekeys_per_sec",
                self.takeover_rekeys_per_sec.into(),
                0,
                10_000,
            ),
            ("replica_mib", self.replica_mib.into(), 0, 65_536),
            ("slots (how many)", self.slots.len() as u64, 1, SLOTS_MAX as u64),
        ] {
            wrong(
                !(least..=most).contains(&value),
                format!("cluster.{name} is {value}, it must be {least} to {most}"),
            );
        }
        let unique: BTreeSet<&SocketAddr> = self.listen.iter().collect();
        wrong(
            unique.len() != self.listen.len(),
            "cluster.listen names an address twice".to_owned(),
        );
        for address in &self.listen {
            wrong(
                address.ip().is_unspecified() || address.port() == 0,
                format!("cluster.listen: {address} must be one address and one port"),
            );
        }
        problems.extend(self.slot_problems());
        problems
    }

    fn slot_problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let (mut ids, mut taken) = (BTreeSet::new(), BTreeSet::new());
        for slot in &self.slots {
            let id = slot.id;
            if usize::from(id) >= SLOTS_MAX {
                problems.push(format!(
                    "cluster.slots: id {id}, it must be 0 to {}",
                    SLOTS_MAX - 1
                ));
            }
            if !ids.insert(id) {
                problems.push(format!("cluster.slots: id {id} is there twice"));
            }
            if !(1..=ADDRESSES_MAX).contains(&slot.addresses.len()) {
                problems.push(format!(
                    "cluster.slots: {id} has {} addresses, it must have 1 to {ADDRESSES_MAX}",
                    slot.addresses.len()
                ));
            }
            for address in &slot.addresses {
                if !taken.insert(address.net.addr()) {
                    problems.push(format!("cluster.slots: {} is there twice", address.net.addr()));
                }
            }
            for address in &slot.service {
                if !slot.addresses.iter().any(|has| has.net.addr() == *address) {
                    problems.push(format!(
                        "cluster.slots: {id} is called at {address}, which is none of its addresses"
                    ));
                }
            }
        }
        problems
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
mod tests {
    use super::*;

    const GOOD: &str = r#"
        etcd = ["http://10.98.0.11:2379"]
        listen = ["10.98.0.1:4600", "192.0.2.1:4600"]
        [[slots]]
        id = 0
        addresses = ["192.0.2.100/24@eth0", "2001:db8:2::100/64@eth0", "10.97.0.100/24@eth1"]
        [[slots]]
        id = 5
        addresses = ["192.0.2.105/24@eth0"]
    "#;

    #[test]
    fn a_small_section_is_enough() {
        let cluster: Cluster = toml::from_str(GOOD).unwrap();
        assert_eq!(cluster.problems("a"), Vec::<String>::new());
        let listen: Vec<String> = cluster
            .listen_addresses()
            .iter()
            .map(ToString::to_string)
            .collect();
        assert_eq!(listen, ["192.0.2.100", "2001:db8:2::100", "192.0.2.105"]);
        assert_eq!(cluster.highest_slot(), 5);
        assert_eq!(cluster.slots[0].addresses[2].to_string(), "10.97.0.100/24@eth1");
        let again: Cluster = toml::from_str(&toml::to_string(&cluster).unwrap()).unwrap();
        assert_eq!(again, cluster);
    }

    #[test]
    fn everything_wrong_is_named() {
        for (change, expected) in [
            ("[\"http://10.98.0.11:2379\"]=>[]", "names no member"),
            ("http://=>tcp://", "must begin with"),
            ("http://=>https://", "etcd_ca go together"),
            ("10.98.0.1:4600=>0.0.0.0:4600", "must be one address"),
            ("10.98.0.1:4600=>192.0.2.1:4600", "names an address twice"),
            ("id = 5=>id = 0", "id 0 is there twice"),
            ("id = 5=>id = 128", "must be 0 to 127"),
            ("192.0.2.105/24=>192.0.2.100/24", "192.0.2.100 is there twice"),
            (
                "id = 5=>id = 5\nservice = [\"192.0.2.9\"]",
                "none of its addresses",
            ),
        ] {
            let (from, to) = change.split_once("=>").unwrap();
            assert!(GOOD.contains(from), "{from}");
            let cluster: Cluster = toml::from_str(&GOOD.replace(from, to)).unwrap();
            let problems = cluster.problems("a").join("; ");
            assert!(problems.contains(expected), "{change}: {problems}");
        }
        let cluster: Cluster = toml::from_str(GOOD).unwrap();
        for name in ["", "a/b", "a#b", &"x".repeat(33)] {
            assert_eq!(cluster.problems(name).len(), 1, "{name}");
        }
    }

    #[test]
    fn addresses_need_an_interface_and_unknown_fields_are_refused() {
        for text in [
            "[[slots]]\nid = 0\naddresses = [\"192.0.2.1/24\"]",
            "[[slots]]\nid = 0\naddresses = [\"192.0.2.1@eth0\"]",
            "[[slots]]\nid = 0\naddresses = [\"192.0.2.1/24@\"]",
            "[[slots]]\nid = 0\naddresses = [\"192.0.2.1/24@abcdefghijklmnop\"]",
            "[[slots]]\nid = 0\naddresses = []\nnode = \"a\"",
            "colour = 1",
        ] {
            assert!(toml::from_str::<Cluster>(text).is_err(), "{text}");
        }
    }
}
