//! What an operator should read, and what is counted.

use std::fmt;

/// Why a slot was claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// It had no owner.
    Unowned,
    /// The owner's process is known to have ended.
    ProcessEnded,
    /// The owner is silent on all paths.
    Silent,
    /// The owner said that it does not serve it.
    GivenUp,
    /// It was owned by an earlier start of this node.
    OwnEarlierStart,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Cause::Unowned => "it had no owner",
            Cause::ProcessEnded => "its owner's process has ended",
            Cause::Silent => "its owner is silent",
            Cause::GivenUp => "its owner does not serve it",
            Cause::OwnEarlierStart => "this node owned it before it was restarted",
        })
    }
}

/// Something that an operator may want to know; its `Display` is a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[allow(missing_docs, reason = "fields are what their names and the sentence say")]
pub enum Event {
    /// A node was heard for the first time, or again.
    NodeUp { name: String },
    /// A node is silent.
    NodeSuspected { name: String, silent_ms: u64 },
    /// A node's process ended.
    NodeDied { name: String },
    /// A node speaks although its process was said to have ended.
    NodeNotDead { name: String },
    /// A node has another slot table.
    TableDiffers { name: String },
    /// Somebody else uses this node's name.
    NameTaken { incarnation: u64 },
    /// This node claims a slot.
    Claiming { slot: u8, generation: u64, cause: Cause },
    /// A claim came too late, or from an old view.
    ClaimLost { slot: u8 },
    /// A claim waits for the damping.
    Damped { slot: u8, for_ms: u64 },
    /// This node takes a slot.
    Taking {
        slot: u8,
        generation: u64,
        planned: bool,
        keep_records: bool,
    },
    /// This node serves a slot.
    Serving {
        slot: u8,
        generation: u64,
        after_ms: u64,
    },
    /// A planned hand-over begins.
    HandoverBegun { slot: u8, to: String },
    /// The other node owns the slot; this one serves until that is ready.
    HandedOver { slot: u8, to: String, generation: u64 },
    /// A planned hand-over was given up.
    HandoverFailed { slot: u8, to: String, why: &'static str },
    /// This node stops to serve a slot.
    Dropped {
        slot: u8,
        generation: u64,
        why: &'static str,
    },
    /// The shell could not serve a slot.
    ServeFailed { slot: u8, reason: String },
    /// The shell takes long.
    Slow { slot: u8, what: &'static str },
    /// The lease was lost.
    LeaseLost,
    /// The deadline passed: the node was paused, or the store was out of reach for it alone.
    DeadlinePassed { late_ms: u64 },
    /// The store answers, or does not.
    Store { reachable: bool },
    /// Fail-static begins or ends.
    Static { on: bool },
    /// The store is older than it was.
    StoreWentBack { sign: &'static str },
    /// A new epoch.
    NewEpoch { epoch: u64 },
    /// A slot was kept over a new epoch.
    Refenced { slot: u8, generation: u64, epoch: u64 },
    /// The link of the service addresses.
    ServiceLink { up: bool },
    /// The node gives its slots away or takes slots again.
    Draining { on: bool },
    /// Clients that follow are sent to other gateways, or no longer.
    Redirecting { to: Option<String> },
    /// The node is a member, or no more.
    Membership { name: String, member: bool },
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Event::NodeUp { name } => write!(f, "node {name} is heard"),
            Event::NodeSuspected { name, silent_ms } => {
                write!(f, "node {name} has been silent on all paths for {silent_ms} ms")
            }
            Event::NodeDied { name } => write!(f, "the process of node {name} has ended"),
            Event::NodeNotDead { name } => {
                write!(f, "node {name} speaks although its process was said to have ended")
            }
            Event::TableDiffers { name } => write!(
                f,
                "node {name} has other slots configured; neither takes slots of the other until they are the same"
            ),
            Event::NameTaken { incarnation } => write!(
                f,
                "another process (start {incarnation:016x}) uses this node's name; give every node its own name"
            ),
            Event::Claiming { slot, generation, cause } => {
                write!(f, "claiming slot {slot} with generation {generation}: {cause}")
            }
            Event::ClaimLost { slot } => write!(f, "slot {slot} changed while it was claimed"),
            Event::Damped { slot, for_ms } => write!(
                f,
                "slot {slot} moved a short while ago; it is claimed in {for_ms} ms at the earliest"
            ),
            Event::Taking { slot, generation, planned, keep_records } => {
                let how = if *planned { "handed over" } else { "claimed" };
                let records = if *keep_records { "" } else { "; its records are of before a restore and are discarded" };
                write!(f, "slot {slot} is ours with generation {generation} ({how}{records})")
            }
            Event::Serving { slot, generation, after_ms } => write!(
                f,
                "serving slot {slot} with generation {generation}, ready after {after_ms} ms"
            ),
            Event::HandoverBegun { slot, to } => write!(f, "handing slot {slot} to node {to}"),
            Event::HandedOver { slot, to, generation } => {
                write!(f, "slot {slot} belongs to node {to} with generation {generation}")
            }
            Event::HandoverFailed { slot, to, why } => {
                write!(f, "slot {slot} was not handed to node {to}: {why}")
            }
            Event::Dropped { slot, generation, why } => {
                write!(f, "slot {slot} with generation {generation} is put down: {why}")
            }
            Event::ServeFailed { slot, reason } => write!(f, "slot {slot} cannot be served here: {reason}"),
            Event::Slow { slot, what } => write!(f, "slot {slot}: {what} takes long"),
            Event::LeaseLost => f.write_str("the node's lease has ended; asking for another"),
            Event::DeadlinePassed { late_ms } => write!(
                f,
                "the node's deadline passed {late_ms} ms ago: it was paused, or only it does not reach the store; nothing is forwarded"
            ),
            Event::Store { reachable: true } => f.write_str("the store answers"),
            Event::Store { reachable: false } => f.write_str("the store does not answer"),
            Event::Static { on: true } => f.write_str(
                "no node reaches the store: slots stay where they are, tunnels go on, changes are not replicated",
            ),
            Event::Static { on: false } => f.write_str("the store is back: changes are replicated again"),
            Event::StoreWentBack { sign } => {
                write!(f, "the store is older than it was, or another one ({sign}): a new epoch is needed")
            }
            Event::NewEpoch { epoch } => write!(f, "epoch {epoch} has begun"),
            Event::Refenced { slot, generation, epoch } => write!(
                f,
                "slot {slot} goes on with generation {generation} in epoch {epoch}; its records are written again"
            ),
            Event::ServiceLink { up: true } => f.write_str("the service link is up"),
            Event::ServiceLink { up: false } => f.write_str("the service link is down; giving all slots away"),
            Event::Draining { on: true } => f.write_str("draining: giving all slots away"),
            Event::Draining { on: false } => f.write_str("not draining: taking slots again"),
            Event::Redirecting { to: Some(to) } => write!(f, "clients that follow are sent to {to}"),
            Event::Redirecting { to: None } => f.write_str("clients are not sent away any more"),
            Event::Membership { name, member: true } => write!(f, "node {name} is a member"),
            Event::Membership { name, member: false } => write!(f, "node {name} is a member no more"),
        }
    }
}

/// What has happened since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Datagrams that were sent.
    pub sent: u64,
    /// Heartbeats that were accepted.
    pub heard: u64,
    /// Heartbeats that came again on another path, or late.
    pub repeated: u64,
    /// Datagrams that did not authenticate or were not understood.
    pub refused: u64,
    /// Nodes beyond the limit that were not listened to.
    pub strangers: u64,
    /// Death notices that were believed.
    pub deaths: u64,
    /// Times that a node became suspected.
    pub suspicions: u64,
    /// Claims that were sent.
    pub claims: u64,
    /// Claims that succeeded.
    pub claims_won: u64,
    /// Claims that were refused by the store.
    pub claims_lost: u64,
    /// Claims that waited for the damping.
    pub damped: u64,
    /// Planned hand-overs that were begun.
    pub handovers: u64,
    /// Planned hand-overs after which the other node owned the slot.
    pub handed_over: u64,
    /// Planned hand-overs that were given up.
    pub handovers_failed: u64,
    /// Slots that were put down.
    pub drops: u64,
    /// Times that the deadline passed with slots held.
    pub deadlines: u64,
    /// Leases that were lost.
    pub leases_lost: u64,
    /// Times that fail-static began.
    pub statics: u64,
    /// New epochs that were begun by this node.
    pub epochs_raised: u64,
    /// Slots that were kept over a new epoch.
    pub refences: u64,
    /// Transactions whose outcome is not known.
    pub indeterminate: u64,
    /// Answers to transactions that nobody waits for.
    pub stray_answers: u64,
    /// Orders that were refused because too many wait.
    pub orders_refused: u64,
}
