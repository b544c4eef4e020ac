//! Paths of the cluster's keys in the store, and what stands under them.
//!
//! ```text
//!   epoch                     decimal; absent = 0
//!   root                      the root secret, wrapped
//!   node/{name}               NodeCard, bound to the node's lease
//!   member/{name}             Member: the node may own slots
//!   slot/{s:03}/gen           decimal generation, for ever
//!   slot/{s:03}/owner         {name}#{incarnation:016x}, bound to the owner's lease
//!   slot/{s:03}/wish          the node that the operator wants
//!   slot/{s:03}/keys          wrapped data keys
//!   slot/{s:03}/sa/{id:016x}  sealed records     …/seq/{spi:08x}  ceilings     …/cp/{chunk:02}  checkpoint
//! ```

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// The epoch's key.
pub const EPOCH: &str = "epoch";
/// Key of the cluster's root secret, wrapped.
pub const ROOT: &str = "root";
/// Prefix of the nodes' cards.
pub const NODES: &str = "node/";
/// Prefix of the members.
pub const MEMBERS: &str = "member/";
/// Prefix of the slots.
pub const SLOTS: &str = "slot/";
/// Largest slot number.
pub const MAX_SLOT: u8 = 127;
/// Largest generation and epoch that are believed: none that is counted to gets there.
pub const MAX_NUMBER: u64 = 1 << 62;
/// Octets of a node's name.
pub const MAX_NAME: usize = 32;
/// Addresses of a node that heartbeats go to.
pub const MAX_ADDRESSES: usize = 4;

/// Whether a node may be called so: 1 to 32 of `a-z A-Z 0-9 . _ -`.
pub fn is_name(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len())
        && name
            .bytes()
            .all(|octet| octet.is_ascii_alphanumeric() || matches!(octet, b'.' | b'_' | b'-'))
}

/// Key of a node's card.
pub fn node(name: &str) -> String {
    format!("{NODES}{name}")
}

/// Key that says that a node is a member.
pub fn member(name: &str) -> String {
    format!("{MEMBERS}{name}")
}

/// Prefix of everything of a slot, with its slash.
pub fn slot(slot: u8) -> String {
    format!("{SLOTS}{slot:03}/")
}

/// Key of a slot's generation.
pub fn generation(slot: u8) -> String {
    format!("{SLOTS}{slot:03}/gen")
}

/// Key of a slot's owner.
pub fn owner(slot: u8) -> String {
    format!("{SLOTS}{slot:03}/owner")
}

/// Key of the operator's wish for a slot.
pub fn wish(slot: u8) -> String {
    format!("{SLOTS}{slot:03}/wish")
}

/// Key of a slot's wrapped data keys.
pub fn data_keys(slot: u8) -> String {
    format!("{SLOTS}{slot:03}/keys")
}

/// Prefix of a slot's SA records.
pub fn records(slot: u8) -> String {
    format!("{SLOTS}{slot:03}/sa/")
}

/// Key of the SA record of a session.
pub fn record(slot: u8, id: u64) -> String {
    format!("{SLOTS}{slot:03}/sa/{id:016x}")
}

/// Prefix of a slot's sequence ceilings.
pub fn ceilings(slot: u8) -> String {
    format!("{SLOTS}{slot:03}/seq/")
}

/// Key of the sequence ceiling of an inbound SPI.
pub fn ceiling(slot: u8, spi: u32) -> String {
    format!("{SLOTS}{slot:03}/seq/{spi:08x}")
}

/// Prefix of a slot's checkpoint.
pub fn checkpoints(slot: u8) -> String {
    format!("{SLOTS}{slot:03}/cp/")
}

/// Key of a piece of a slot's checkpoint.
pub fn checkpoint(slot: u8, chunk: u8) -> String {
    format!("{SLOTS}{slot:03}/cp/{chunk:02}")
}

/// Prefixes of everything that is written of a slot's sessions.
pub fn of_sessions(slot: u8) -> [String; 3] {
    [records(slot), ceilings(slot), checkpoints(slot)]
}

/// What a key that the core follows is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path<'a> {
    /// The epoch.
    Epoch,
    /// The card of the named node.
    Node(&'a str),
    /// The membership of the named node.
    Member(&'a str),
    /// A slot's generation.
    Generation(u8),
    /// A slot's owner.
    Owner(u8),
    /// The operator's wish for a slot.
    Wish(u8),
}

impl<'a> Path<'a> {
    /// Reads a key; `None` for those that the core does not follow.
    pub fn parse(key: &'a str) -> Option<Self> {
        if key == EPOCH {
            return Some(Path::Epoch);
        }
        if let Some(name) = key.strip_prefix(NODES) {
            return is_name(name).then_some(Path::Node(name));
        }
        if let Some(name) = key.strip_prefix(MEMBERS) {
            return is_name(name).then_some(Path::Member(name));
        }
        let (slot, what) = key.strip_prefix(SLOTS)?.split_once('/')?;
        let number = slot.parse::<u8>().ok().filter(|number| *number <= MAX_SLOT)?;
        match what {
            _ if slot.len() != 3 => None,
            "gen" => Some(Path::Generation(number)),
            "owner" => Some(Path::Owner(number)),
            "wish" => Some(Path::Wish(number)),
            _ => None,
        }
    }
}

/// A start of a node: the value of an owner key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Process {
    /// The node.
    pub name: String,
    /// Which start of it.
    pub incarnation: u64,
}

impl Process {
    /// Reads the value of an owner key.
    pub fn parse(text: &str) -> Option<Self> {
        let (name, incarnation) = text.rsplit_once('#')?;
        let known = is_name(name) && incarnation.len() == 16;
        let incarnation = u64::from_str_radix(incarnation, 16).ok()?;
        known.then(|| Self {
            name: name.to_owned(),
            incarnation,
        })
    }
}

impl std::fmt::Display for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}#{:016x}", self.name, self.incarnation)
    }
}

/// What a node says of itself in the store, as JSON: bound to its lease, so that it vanishes with the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeCard {
    /// The start of the node.
    pub incarnation: u64,
    /// Its lease: who hands it a slot binds the owner key to this.
    pub lease: u64,
    /// Where its heartbeats are received.
    pub addresses: Vec<SocketAddr>,
    /// Hash of its slot table.
    pub table: u64,
    /// Rises whenever the node shows that the store hears it (see the rule for two nodes).
    #[serde(default)]
    pub probe: u64,
}

/// What stands under `member/{name}`, as JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The incarnation that joined.
    #[serde(default)]
    pub joined: u64,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn paths_are_read_back() {
        for slot in [0, 7, 127] {
            assert_eq!(Path::parse(&generation(slot)), Some(Path::Generation(slot)));
            assert_eq!(Path::parse(&owner(slot)), Some(Path::Owner(slot)));
            assert_eq!(Path::parse(&wish(slot)), Some(Path::Wish(slot)));
        }
        assert_eq!(Path::parse(&node("a")), Some(Path::Node("a")));
        assert_eq!(Path::parse(&member("a")), Some(Path::Member("a")));
        assert_eq!(Path::parse("epoch"), Some(Path::Epoch));
        for other in [
            "slot/1/gen",
            "slot/128/gen",
            "slot/001/sa/1",
            "node/",
            "node/a/b",
            "pool/x",
        ] {
            assert_eq!(Path::parse(other), None, "{other}");
        }
    }

    #[test]
    fn owners_are_read_back() {
        let process = Process {
            name: "node-a".into(),
            incarnation: 0xabc,
        };
        assert_eq!(process.to_string(), "node-a#0000000000000abc");
        assert_eq!(Process::parse(&process.to_string()).unwrap(), process);
        for wrong in [
            "a",
            "a#1",
            "#0000000000000001",
            "a b#0000000000000001",
            "a#000000000000000g",
        ] {
            assert_eq!(Process::parse(wrong), None, "{wrong}");
        }
    }
}
