//! What the control plane and the workers say to each other. Packets never travel this way.

use std::net::SocketAddr;
use std::time::Duration;

use esp::tunnel::DfRule;
use ip::Selector;
use ip::packet::Summary;
use rustc_hash::FxHashMap;

use crate::pmtu::PathCounters;

/// A pair of SAs, one in each direction, that one worker owns.
///
/// The worker that it is installed at must be the one that its inbound SPI names ([`crate::worker_of_spi`]).
#[derive(Debug)]
pub struct SaPair {
    /// The control plane's number for the session; comes back in events.
    pub session: u64,
    /// The slot of the cluster that it belongs to; 0 in a single node.
    pub slot: u8,
    /// The routing domain of the inner packets.
    pub domain: u32,
    /// The SA of packets from the peer. Its SPI is the key of the pair in commands and events.
    pub inbound: esp::InboundParams,
    /// The SA of packets to the peer.
    pub outbound: esp::OutboundParams,
    /// Inner addresses on our side.
    pub ts_local: Vec<Selector>,
    /// Inner addresses on the peer's side.
    pub ts_remote: Vec<Selector>,
    /// Outer address of the peer; the port counts for [`Encap::Udp`].
    pub peer: SocketAddr,
    /// Outer address of ours, one of those listened on.
    pub local: SocketAddr,
    /// What carries the ESP packets.
    pub encap: Encap,
    /// When the outbound SA may be used.
    pub activate: Activate,
    /// When the worker reports that the pair should be or is used up.
    pub limits: Limits,
    /// Its place among the pairs of the session for the same traffic.
    pub resource: Resource,
    /// Largest inner packet in octets on this path; the domain's MTU if `None`.
    pub path_mtu: Option<u16>,
    /// The DF bit of outer IPv4 headers (RFC 4301 section 8.1).
    pub df: DfRule,
    /// Later fragments were agreed upon (NON_FIRST_FRAGMENTS_ALSO, RFC 7296 section 3.10.1). It matters where selectors name
    /// ports: without, none of them is sent or taken.
    pub fragments_too: bool,
}

/// The place of a pair among those of its session for the same traffic (RFC 9611). Flows to the peer are spread over the
/// workers that have a pair with a place.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Resource {
    /// None: a newer pair for the same traffic takes over what is sent.
    #[default]
    None,
    /// The first of a group: its worker sends by it what it has no other pair of the group for.
    Fallback,
    /// Bound to a resource of this side by its number. Several may be at one worker. One that waits for its first packet
    /// ([`Activate::OnFirstInbound`]) waits ten seconds at most: a peer may never send by it.
    Bound(u8),
}

/// What carries ESP packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Encap {
    /// UDP port 4500 (RFC 3948).
    Udp,
    /// IP protocol 50.
    Raw,
}

/// When an outbound SA may be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Activate {
    /// At once.
    Now,
    /// When its inbound SA has received a packet, or no older pair for the same destinations is left: the peer of a
    /// rekeying that we answered may not have installed it yet (RFC 7296 section 2.8).
    OnFirstInbound,
}

/// Usage at which a pair is reported, counted over both directions together. `None` means no limit.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Limits {
    /// Octets of inner packets after which [`WorkerEvent::SoftLimit`] is sent, once.
    pub soft_octets: Option<u64>,
    /// Octets of inner packets after which the pair carries nothing more and [`WorkerEvent::HardLimit`] is sent, once.
    pub hard_octets: Option<u64>,
    /// As `soft_octets`, in packets.
    pub soft_packets: Option<u64>,
    /// As `hard_octets`, in packets.
    pub hard_packets: Option<u64>,
    /// After this long without a packet in either direction [`WorkerEvent::Idle`] is sent, once for each silence.
    pub idle: Option<Duration>,
}

/// Where an answer goes: called on the worker's thread, so it must not block.
pub type Reply<T> = Box<dyn FnOnce(T) + Send>;

/// To a worker.
pub enum WorkerCommand {
    /// Adds a pair, replacing one with the same inbound SPI.
    Install(Box<SaPair>),
    /// Adds many pairs, a share in each turn of the worker so that packets of others go on meanwhile. Later commands are
    /// obeyed when all are in.
    InstallMany(Vec<SaPair>),
    /// Removes a pair; others of the session stay.
    Remove {
        /// Inbound SPI.
        spi_in: u32,
    },
    /// Sends nothing by a pair any more, as long as there is another one for the same traffic; what still arrives on it is
    /// taken. The peer has deleted it.
    StopSending {
        /// Inbound SPI.
        spi_in: u32,
    },
    /// Removes every pair of a slot at once. When a later [`WorkerCommand::ReadCounters`] is answered, none of them carries
    /// anything any more.
    RemoveSlot {
        /// The slot, as in [`SaPair::slot`].
        slot: u8,
    },
    /// Says where ESP packets of a slot that this node does not serve are sent on to, by the slot in their SPI; the
    /// node needs [`crate::Config::forward`]. A worker that starts again has forgotten it: [`crate::Holder::forward_slot`]
    /// tells it again.
    Forward {
        /// The slot, as [`crate::slot_of_spi`] tells it.
        slot: u8,
        /// [`crate::Forward::listen`] of the slot's owner; `None` ends it.
        to: Option<SocketAddr>,
    },
    /// The peer is elsewhere now, or reached from another address of ours.
    UpdatePeer {
        /// Inbound SPI.
        spi_in: u32,
        /// Outer address of the peer.
        remote: SocketAddr,
        /// Outer address of ours; as before if `None`.
        local: Option<SocketAddr>,
    },
    /// Sequence numbers up to and including `ceiling` are durably reserved.
    RaiseCeiling {
        /// Inbound SPI of the pair.
        spi_in: u32,
        /// Highest outbound sequence number that may be used.
        ceiling: u64,
    },
    /// Asks for the counters of every pair.
    ReadStats(Reply<Vec<SaStats>>),
    /// Asks for the same after everything received so far has been worked through.
    Checkpoint(Reply<Vec<SaStats>>),
    /// Asks for the worker's drops by reason, and its packet counters.
    ReadCounters(Reply<WorkerCounters>),
    /// Makes the worker panic: fault injection for tests.
    Panic,
    /// Ends the worker.
    Shutdown,
}

/// From a worker.
#[derive(Clone, Debug)]
pub enum WorkerEvent {
    /// Half of the reserved outbound sequence numbers are used.
    CeilingNeeded {
        /// Session of the pair.
        session: u64,
        /// Inbound SPI of the pair.
        spi_in: u32,
        /// Highest sequence number used.
        used: u64,
    },
    /// The first packet of a pair was received and authenticated.
    FirstInbound {
        /// Session of the pair.
        session: u64,
        /// Inbound SPI of the pair.
        spi_in: u32,
    },
    /// An authenticated packet that advanced the replay window came from a new address; packets go there already.
    PeerMoved {
        /// Session of the pair.
        session: u64,
        /// Inbound SPI of the pair.
        spi_in: u32,
        /// The new address.
        remote: SocketAddr,
    },
    /// A soft limit was reached: time to rekey.
    SoftLimit {
        /// Session of the pair.
        session: u64,
        /// Inbound SPI of the pair.
        spi_in: u32,
    },
    /// A hard limit was reached: the pair carries nothing more.
    HardLimit {
        /// Session of the pair.
        session: u64,
        /// Inbound SPI of the pair.
        spi_in: u32,
    },
    /// A pair could not be installed.
    InstallFailed {
        /// Session of the pair.
        session: u64,
        /// Inbound SPI of the pair.
        spi_in: u32,
        /// Why, in words.
        reason: String,
    },
    /// Nothing was carried for the pair's idle time.
    Idle {
        /// Session of the pair.
        session: u64,
        /// Inbound SPI of the pair.
        spi_in: u32,
    },
    /// An inner packet has nowhere to go; rate-limited.
    Acquire {
        /// Routing domain it came from.
        domain: u32,
        /// Its addresses, protocol and ports.
        summary: Summary,
    },
    /// The worker's thread has ended by a panic. Its sockets and queues are back with the holder; its SAs are gone.
    Died {
        /// Index of the worker.
        worker: u8,
        /// What the panic said.
        message: String,
    },
    /// The device of a routing domain was deleted by somebody else: detach the domain and attach it again.
    DeviceLost {
        /// The routing domain.
        domain: u32,
        /// The system's reason.
        reason: String,
    },
    /// An interface that was used by AF_XDP is gone; its packets, should it come back, go by the sockets.
    OuterLost {
        /// Its name.
        interface: String,
    },
    /// An IKE message that the kernel joined to a burst of ESP packets of the same flow.
    StrayIke {
        /// Our address and port.
        local: SocketAddr,
        /// The peer's.
        remote: SocketAddr,
        /// The message without the non-ESP marker.
        bytes: Vec<u8>,
    },
    /// An IKE message that came to another node of the cluster, sent on by [`crate::Holder::forward_ike`]. It must not be
    /// sent on again.
    ForwardedIke {
        /// The address and port that the peer sent it to, one of those listened on.
        local: SocketAddr,
        /// The peer's.
        remote: SocketAddr,
        /// The message without the non-ESP marker.
        bytes: Vec<u8>,
    },
    /// Counters of the pairs that carried something, about once a second.
    Stats(Vec<SaStats>),
}

/// Counters of one pair.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SaStats {
    /// Session of the pair.
    pub session: u64,
    /// Inbound SPI of the pair.
    pub spi_in: u32,
    /// Inner packets received.
    pub packets_in: u64,
    /// Inner packets sent.
    pub packets_out: u64,
    /// Octets of inner packets received.
    pub octets_in: u64,
    /// Octets of inner packets sent.
    pub octets_out: u64,
    /// How long ago the last packet was received; `None` if none was.
    pub last_in: Option<Duration>,
    /// Highest authenticated inbound sequence number.
    pub highest_in_seq: u64,
    /// Outbound sequence number of the next packet.
    pub next_out_seq: u64,
    /// The MTU in octets that was learned of the way to the peer.
    pub path_mtu: Option<u16>,
    /// The largest inner packet in octets that fits it; `None` while nothing is known of it.
    pub inner_mtu: Option<u16>,
    /// Packets of it that were dropped.
    pub drops: SaDrops,
}

/// Packets of one pair that were dropped, by what an operator would do about it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SaDrops {
    /// Above the session's rate.
    pub session_rate: u64,
    /// Above the tenant's rate, which the session shares with others.
    pub tenant_rate: u64,
    /// More arrived than the worker could carry, and the session or its tenant asked for more than its share. Those that
    /// never left the kernel are counted for the tenant alone.
    pub overload: u64,
    /// Older than the replay window, or received before.
    pub replay: u64,
    /// Not authentic.
    pub forged: u64,
    /// For any other reason.
    pub other: u64,
}

impl SaDrops {
    /// Counts packets.
    pub fn add(&mut self, reason: esp::DropReason, packets: u64) {
        use esp::DropReason as R;
        #[allow(clippy::wildcard_enum_match_arm, reason = "all others are `other`")]
        let cell = match reason {
            R::SessionRate => &mut self.session_rate,
            R::TenantRate => &mut self.tenant_rate,
            R::Overload => &mut self.overload,
            R::ReplayOld | R::ReplayDuplicate => &mut self.replay,
            R::NotAuthentic => &mut self.forged,
            _ => &mut self.other,
        };
        *cell = cell.saturating_add(packets);
    }

    /// Each with its name, in a fixed order.
    #[must_use]
    pub fn named(&self) -> [(&'static str, u64); 6] {
        [
            ("session_rate", self.session_rate),
            ("tenant_rate", self.tenant_rate),
            ("overload", self.overload),
            ("replay", self.replay),
            ("forged", self.forged),
            ("other", self.other),
        ]
    }
}

/// Counters of one worker since it started.
#[derive(Clone, Debug, Default)]
pub struct WorkerCounters {
    /// Packets discarded, by reason.
    pub drops: esp::DropCounters,
    /// What happened to paths and fragments.
    pub paths: PathCounters,
    /// Those of them that belong to a routing domain, by domain. One that is detached is forgotten.
    pub domains: FxHashMap<u32, esp::DropCounters>,
    /// Time in which more arrived than the worker could carry, so that a choice was made, in nanoseconds.
    pub overload_nanos: u64,
    /// Inner packets read from TUN devices, bursts counted by their segments.
    pub inner_in: u64,
    /// Inner packets written to TUN devices.
    pub inner_out: u64,
    /// Writes that they took.
    pub inner_writes: u64,
    /// ESP packets received.
    pub outer_in: u64,
    /// Receive calls that they took.
    pub outer_reads: u64,
    /// ESP packets sent.
    pub outer_out: u64,
    /// Send calls that they took.
    pub outer_writes: u64,
    /// Packets and bursts handed to other workers.
    pub handed_over: u64,
    /// ESP packets sent on to the node that owns them.
    pub forwarded_out: u64,
    /// ESP packets that another node sent on to this one.
    pub forwarded_in: u64,
    /// Packets that the kernel refused to take, on either side.
    pub refused: u64,
    /// ESP packets received by AF_XDP; among `outer_in`.
    pub fast_in: u64,
    /// ESP packets sent by AF_XDP; among `outer_out`.
    pub fast_out: u64,
    /// ESP packets that the sockets sent though AF_XDP is used: no neighbour known, too long, or many at once.
    pub fast_left: u64,
    /// Packets that the kernel dropped because AF_XDP's ring was full.
    pub fast_lost: u64,
}

impl WorkerCounters {
    /// Counts packets discarded, of a routing domain where it is known.
    pub(crate) fn dropped(&mut self, domain: Option<u32>, reason: esp::DropReason, packets: u64) {
        self.drops.add(reason, packets);
        if let Some(domain) = domain {
            self.domains.entry(domain).or_default().add(reason, packets);
        }
    }
}
