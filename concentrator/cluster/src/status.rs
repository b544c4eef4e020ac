//! What the node knows, for operators.

use std::net::SocketAddr;
use std::time::Duration;

use store::LeaseId;

use crate::api::Boot;
use crate::event::Counters;

/// Everything that the node knows of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The node.
    pub name: String,
    /// Its start.
    pub incarnation: u64,
    /// The epoch of the store.
    pub epoch: u64,
    /// Whether the store answers this node.
    pub etcd: bool,
    /// Age of the last acknowledged keep-alive; `None`: never.
    pub etcd_age: Option<Duration>,
    /// Whether what the store says has been read completely and is followed.
    pub synced: bool,
    /// The node's lease.
    pub lease: Option<LeaseId>,
    /// Up to when packets may be forwarded.
    pub until: Option<Boot>,
    /// Whether slots are held without a store.
    pub fail_static: bool,
    /// Whether the node gives its slots away.
    pub draining: bool,
    /// Whether the node has left, or is leaving.
    pub leaving: bool,
    /// Whether the link of the service addresses is up.
    pub service: bool,
    /// All nodes, this one too, by name.
    pub nodes: Vec<NodeStatus>,
    /// All slots, by number.
    pub slots: Vec<SlotStatus>,
    /// What has happened.
    pub counters: Counters,
}

/// How a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeState {
    /// Heard, or this node.
    Alive,
    /// Silent on all paths.
    Suspected,
    /// Its process is known to have ended.
    Dead,
    /// A member that has not been heard since this node started.
    Unknown,
}

impl std::fmt::Display for NodeState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            NodeState::Alive => "alive",
            NodeState::Suspected => "suspected",
            NodeState::Dead => "dead",
            NodeState::Unknown => "unknown",
        })
    }
}

/// What is known of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeStatus {
    /// Its name.
    pub name: String,
    /// Its start; 0: not known.
    pub incarnation: u64,
    /// Whether it is this node.
    pub this: bool,
    /// How it is.
    pub state: NodeState,
    /// Whether it is a member.
    pub member: bool,
    /// Whether it gives its slots away.
    pub draining: bool,
    /// Whether it leaves or has left.
    pub leaving: bool,
    /// Whether its service link is up.
    pub service: bool,
    /// Whether the store answers it.
    pub etcd: bool,
    /// Whether it holds slots without a store.
    pub fail_static: bool,
    /// Whether its slot table is ours.
    pub same_table: bool,
    /// Since when it has been silent; `None`: never heard.
    pub silent: Option<Duration>,
    /// By the sender's address: since when it has been silent there.
    pub paths: Vec<(SocketAddr, Duration)>,
    /// Nodes that suspect it.
    pub suspected_by: Vec<String>,
}

/// What this node does with a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotState {
    /// Nothing.
    Elsewhere,
    /// A claim is under way.
    Claiming,
    /// Its SAs are being installed.
    Starting,
    /// It is served.
    Serving,
    /// It is served and about to be handed over.
    Freezing,
    /// It belongs to another node, and is served until that is ready.
    HandedOver,
    /// It is being put down.
    Stopping,
}

impl std::fmt::Display for SlotState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            SlotState::Elsewhere => "elsewhere",
            SlotState::Claiming => "claiming",
            SlotState::Starting => "starting",
            SlotState::Serving => "serving",
            SlotState::Freezing => "freezing",
            SlotState::HandedOver => "handed over",
            SlotState::Stopping => "stopping",
        })
    }
}

/// What is known of a slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotStatus {
    /// Its number.
    pub slot: u8,
    /// Its owner, as the store said last.
    pub owner: Option<String>,
    /// Its generation, as the store said last; the own one where this node serves it.
    pub generation: u64,
    /// What this node does with it.
    pub state: SlotState,
    /// What its owner says of it in heartbeats; of this node its own state.
    pub serving: bool,
    /// The operator's wish.
    pub wish: Option<String>,
    /// How long ago its generation changed, as far as this node has seen.
    pub moved: Option<Duration>,
    /// How long claims by suspicion wait for the damping.
    pub damped: Option<Duration>,
}
