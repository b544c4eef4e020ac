//! What the core is told and what it answers.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use crypto::Secret;
use store::{LeaseId, Revision, StoreError, Txn, TxnOutcome, WatchEvent};

use crate::event::Event;

/// Time since the machine was booted (CLOCK_BOOTTIME: goes on while the machine is suspended).
pub type Boot = Duration;

/// What a node is, and how patient it is.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The node's name: at most 32 of `a-z A-Z 0-9 . _ -`; no two nodes have the same.
    pub name: String,
    /// Which start of the node this is. Should be higher at every start; never 0.
    pub incarnation: u64,
    /// Authenticates heartbeats; derived from the cluster's key.
    pub key: Secret,
    /// Every slot of the cluster, 0 to 127.
    pub slots: Vec<u8>,
    /// Hash of the slots' configuration: nodes that differ never take each other's slots.
    pub table: u64,
    /// Where heartbeats are received, one address a path; at most four.
    pub addresses: Vec<SocketAddr>,
    /// Between two heartbeats.
    pub heartbeat: Duration,
    /// Heartbeats that have to be missed on all paths.
    pub missed: u32,
    /// Time to live of the node's lease.
    pub lease_ttl: Duration,
    /// How long before the lease's end forwarding stops.
    pub margin: Duration,
    /// At most one unplanned move of a slot in this time, unless its owner's process is known dead.
    pub damping: Duration,
    /// Whether slots are spread evenly when nodes come.
    pub rebalance: bool,
    /// A node that came, or whose service link came, is given slots after this.
    pub settle: Duration,
    /// Unplanned claims of slots without any owner wait so long after the start, for other nodes to be heard.
    pub patience: Duration,
    /// How long a planned hand-over may take in each of its steps.
    pub handover: Duration,
    /// Highest epoch that was seen, from [`Output::Marks`].
    pub seen_epoch: u64,
    /// Highest generations that were seen, from [`Output::Marks`].
    pub seen_generations: BTreeMap<u8, u64>,
    /// Rules that are switched off; for tests that show that a checker sees it.
    #[doc(hidden)]
    pub broken: Broken,
}

/// Rules that can be switched off, each of which a checker has to notice.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Broken {
    /// All rules are kept.
    #[default]
    Nothing,
    /// A claim does not compare the generation and the owner.
    BlindClaim,
    /// Generations are not raised after the store went back.
    NoRaise,
    /// The node goes on past its deadline.
    NoDeadline,
    /// One node's suspicion suffices, and the store is not asked either.
    LoneSuspicion,
    /// A claim keeps the generation.
    SameGeneration,
    /// A node keeps what another has taken.
    Stubborn,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            name: String::new(),
            incarnation: 0,
            key: Secret::default(),
            slots: Vec::new(),
            table: 0,
            addresses: Vec::new(),
            heartbeat: Duration::from_millis(100),
            missed: 3,
            lease_ttl: Duration::from_secs(2),
            margin: Duration::from_millis(500),
            damping: Duration::from_secs(10),
            rebalance: true,
            settle: Duration::from_secs(10),
            patience: Duration::from_secs(1),
            handover: Duration::from_secs(2),
            seen_epoch: 0,
            seen_generations: BTreeMap::new(),
            broken: Broken::Nothing,
        }
    }
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Input {
    /// A heartbeat or a death notice came.
    Datagram {
        /// Who sent it.
        from: SocketAddr,
        /// The datagram.
        bytes: Vec<u8>,
    },
    /// The time of [`crate::Core::deadline`] has come.
    Timeout,
    /// The followed keys (`epoch`, `node/`, `member/`, `slot/*/gen`, `owner`, `wish`) are told from the beginning:
    /// what is not told until the next [`Input::Synced`] is not there. Comes before the first key of every follower
    /// that begins anew (after [`Output::Relist`], after the store went back).
    Listing,
    /// A key changed.
    Changed(WatchEvent),
    /// Everything up to this revision has been told, of all followed keys.
    Synced(Revision),
    /// The store cannot be followed for now.
    Stale,
    /// An answer to [`Output::Txn`]; comes exactly once for each.
    TxnDone {
        /// Which.
        ticket: u64,
        /// What came of it.
        outcome: Result<TxnOutcome, StoreError>,
    },
    /// An answer to [`Output::GrantLease`]. When granting failed: [`Input::LeaseLost`].
    LeaseGranted {
        /// The lease.
        lease: LeaseId,
        /// When it was asked for.
        sent: Boot,
    },
    /// The lease was kept alive.
    LeaseAlive {
        /// When that was asked for.
        sent: Boot,
    },
    /// The lease has expired, or could not be granted. A keep-alive that got no answer is not told.
    LeaseLost,
    /// A batch of records was refused at its fence.
    Fenced {
        /// The slot.
        slot: u8,
        /// The generation of the batch.
        generation: u64,
    },
    /// The store says that it is older than it was, or another one.
    WentBack,
    /// An answer to [`Output::Serve`]: the SAs are installed and the addresses are up.
    Ready {
        /// The slot.
        slot: u8,
        /// Its generation.
        generation: u64,
    },
    /// An answer to [`Output::Freeze`]: IKE stands still, records and the last checkpoint are durable.
    Frozen {
        /// The slot.
        slot: u8,
        /// Its generation.
        generation: u64,
    },
    /// An answer to [`Output::Drop`]: addresses and SAs are down.
    Stopped {
        /// The slot.
        slot: u8,
        /// Its generation.
        generation: u64,
    },
    /// The slot cannot be served here.
    Failed {
        /// The slot.
        slot: u8,
        /// Its generation.
        generation: u64,
        /// Why, for the operator.
        reason: String,
    },
    /// The owner's own new generation (an actor was restarted) is durable. Where the answer to its transaction was lost:
    /// once the store says so.
    Raised {
        /// The slot.
        slot: u8,
        /// The new generation.
        generation: u64,
    },
    /// The link of the service addresses went up or down; it counts as up until this says otherwise.
    Service {
        /// Whether it is up.
        up: bool,
    },
    /// An operator asks for something; [`Output::Done`] answers.
    Order {
        /// Comes back in the answer.
        id: u64,
        /// What is asked for.
        order: Order,
    },
}

/// What an operator can ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// Hand over all slots and take none.
    Drain,
    /// Take slots again.
    Undrain,
    /// Hand a slot to a node; any node can be asked.
    Move {
        /// The slot.
        slot: u8,
        /// The node.
        to: String,
    },
    /// Hand over all slots and be a member no more, until [`Order::Join`] or the next start.
    Leave,
    /// Be a member again.
    Join,
    /// Take a node that is gone for good off the members.
    Forget {
        /// The node.
        name: String,
    },
    /// Fault injection: go on with a slot that is held, whatever the store, other nodes and the own deadline say, until its
    /// records are refused.
    ForceOwn {
        /// The slot.
        slot: u8,
    },
}

/// What is to be done. Outputs are carried out in order.
#[derive(Clone, Debug)]
pub enum Output {
    /// Send a datagram, from the own heartbeat socket that fits the address.
    Send {
        /// To whom.
        to: SocketAddr,
        /// The datagram.
        bytes: Vec<u8>,
    },
    /// Run a transaction; [`Input::TxnDone`] answers.
    Txn {
        /// Comes back in the answer.
        ticket: u64,
        /// The transaction.
        txn: Txn,
    },
    /// Ask for a lease; forget the one before.
    GrantLease {
        /// Its time to live.
        ttl: Duration,
    },
    /// Keep the lease alive.
    KeepAlive,
    /// End the lease.
    RevokeLease,
    /// Follow the keys anew: send [`Input::Listing`], then everything.
    Relist,
    /// Take the slot: list its records (unless `keep_records` is false: delete them), restore, bring its addresses
    /// up; then [`Input::Ready`] or [`Input::Failed`].
    Serve {
        /// The slot.
        slot: u8,
        /// Its generation.
        generation: u64,
        /// The epoch.
        epoch: u64,
        /// Whether the records in the store are good.
        keep_records: bool,
        /// Whether the owner before handed it over and serves until we are ready.
        planned: bool,
    },
    /// A planned hand-over begins: no new IKE, write everything; ESP goes on. Then [`Input::Frozen`].
    Freeze {
        /// The slot.
        slot: u8,
        /// Its generation.
        generation: u64,
    },
    /// The hand-over was given up: carry on with IKE.
    Thaw {
        /// The slot.
        slot: u8,
        /// Its generation.
        generation: u64,
    },
    /// Addresses down at once, then SAs; then [`Input::Stopped`].
    Drop {
        /// The slot.
        slot: u8,
        /// Its generation.
        generation: u64,
        /// Why, for the log.
        why: &'static str,
    },
    /// The store went back: the slot goes on with its live SAs under this generation and epoch. Delete its records
    /// and write all of them again.
    Refence {
        /// The slot.
        slot: u8,
        /// Its new generation.
        generation: u64,
        /// The new epoch.
        epoch: u64,
    },
    /// Workers may forward up to here; `None`: not at all. Sent when it changes.
    Until(Option<Boot>),
    /// Fail-static begins or ends: answers need not be durable.
    Static(bool),
    /// Write to the disk: the highest epoch and generations seen. Given back in [`Settings`] at the next start.
    Marks {
        /// The epoch.
        epoch: u64,
        /// The generations by slot.
        generations: BTreeMap<u8, u64>,
    },
    /// What came of an order.
    Done {
        /// The order.
        id: u64,
        /// In words for the operator.
        result: Result<String, String>,
    },
    /// Something that an operator may want to know.
    Event(Event),
}
