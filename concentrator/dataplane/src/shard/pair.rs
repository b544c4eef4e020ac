//! A pair of SAs as its worker keeps it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crypto::KeyError;
use esp::tunnel::DfRule;
use esp::{DropReason, InboundSa, OutboundSa};
use ip::packet::Summary;
use ip::{Selector, Usual};

use crate::fair::PairState;
use crate::groups;
use crate::io::{PacketIo, PortId};
use crate::message::{Activate, Encap, Limits, Resource, SaDrops, SaPair, SaStats, WorkerEvent};
use crate::pmtu::{Expected, Path, PathMtu};
use crate::routes::Membership;

/// Index of a pair in its worker's table.
pub(crate) type Place = u32;

pub(crate) struct Pair {
    pub(crate) session: u64,
    /// Of the cluster.
    pub(crate) slot: u8,
    pub(crate) domain: u32,
    pub(crate) spi_in: u32,
    pub(crate) inbound: InboundSa,
    pub(crate) outbound: OutboundSa,
    pub(crate) ts_local: Vec<Selector>,
    pub(crate) ts_remote: Vec<Selector>,
    /// Of what the peer sends.
    pub(crate) usual: Option<Usual>,
    pub(crate) peer: SocketAddr,
    pub(crate) port: PortId,
    /// The peer may move: its packets come in UDP.
    pub(crate) may_move: bool,
    pub(crate) resource: Resource,
    /// With others at several workers, if it has a place.
    pub(crate) membership: Option<Membership>,
    /// Where the peer was before the control plane told of its move, and when that was: packets that were under way then
    /// do not move it back. Other workers may have seen the move first.
    left: Option<Box<(SocketAddr, Instant)>>,
    pub(crate) path: Path,
    /// Some of its selectors name ports: later fragments need to be known.
    pub(crate) has_ports: bool,
    /// With ports, later fragments were agreed upon.
    pub(crate) fragments_too: bool,
    /// The DF bit of outer headers.
    pub(crate) df: DfRule,
    /// The outbound SA may be used although older ones are left.
    pub(crate) active: bool,
    /// A newer pair of the session for the same traffic has become active, or the peer has deleted this one: it is not sent
    /// by any more, whatever still arrives on it.
    pub(crate) superseded: bool,
    /// The hard limit was reached.
    pub(crate) expired: bool,
    limits: Limits,
    soft_reported: bool,
    idle_reported: bool,
    seen_inbound: bool,
    /// Sequence number at which more are asked for; `u64::MAX` once they have been.
    ask_at: u64,
    packets: [u64; 2],
    octets: [u64; 2],
    last_in: Option<Instant>,
    last_any: Instant,
    /// Something was carried since the last report.
    dirty: bool,
    /// Of rates and overload.
    pub(crate) fair: PairState,
    drops: SaDrops,
}

/// How long a pair bound to a resource waits for its first packet before it is sent by: longer than the answer that brings
/// it to the peer takes when it is lost.
const WAIT: Duration = Duration::from_secs(10);
/// How long packets of a peer that has moved may be under way.
const SETTLING: Duration = Duration::from_secs(1);

/// Index of the counters of each direction.
const IN: usize = 0;
const OUT: usize = 1;

impl Pair {
    pub(crate) fn new(pair: SaPair, port: PortId, now: Instant) -> Result<Self, KeyError> {
        let has_ports = [&pair.ts_local, &pair.ts_remote]
            .into_iter()
            .flatten()
            .any(|ts| !ts.is_any_port() && !ts.is_opaque_port());
        Ok(Self {
            session: pair.session,
            slot: pair.slot,
            domain: pair.domain,
            spi_in: pair.inbound.spi,
            inbound: InboundSa::new(&pair.inbound)?,
            outbound: OutboundSa::new(&pair.outbound)?,
            usual: Usual::of(&pair.ts_remote, &pair.ts_local),
            ts_local: pair.ts_local,
            ts_remote: pair.ts_remote,
            peer: pair.peer,
            port,
            may_move: pair.encap == Encap::Udp,
            resource: pair.resource,
            membership: None,
            left: None,
            path: Path::new(
                esp::Layout::of(pair.outbound.suite),
                encapsulation(pair.encap, pair.peer),
                pair.path_mtu,
            ),
            has_ports,
            fragments_too: has_ports && pair.fragments_too,
            df: pair.df,
            active: pair.activate == Activate::Now,
            superseded: false,
            expired: false,
            limits: pair.limits,
            soft_reported: false,
            idle_reported: false,
            seen_inbound: false,
            ask_at: half_way(pair.outbound.first_seq, pair.outbound.ceiling),
            packets: [0; 2],
            octets: [0; 2],
            last_in: None,
            last_any: now,
            dirty: false,
            fair: PairState::default(),
            drops: SaDrops::default(),
        })
    }

    /// Counts packets of it that were dropped.
    pub(crate) fn dropped(&mut self, reason: DropReason, packets: u64) {
        self.drops.add(reason, packets);
        self.dirty = true;
    }

    /// Whether an outbound inner packet belongs to the pair.
    pub(crate) fn carries(&self, summary: &Summary) -> bool {
        summary.belongs(&self.ts_local, &self.ts_remote)
    }

    pub(crate) fn raise_ceiling(&mut self, ceiling: u64) {
        self.outbound.raise_ceiling(ceiling);
        self.ask_at = half_way(self.outbound.next_sequence(), self.outbound.ceiling());
    }

    /// Whether the other one is of the same session and for the same traffic.
    pub(crate) fn is_sibling(&self, other: &Self) -> bool {
        self.session == other.session
            && self.domain == other.domain
            && self.ts_local == other.ts_local
            && self.ts_remote == other.ts_remote
            && match (self.resource, other.resource) {
                (Resource::Bound(one), Resource::Bound(other)) => one == other,
                (Resource::Bound(_), _) | (_, Resource::Bound(_)) => false,
                (Resource::None | Resource::Fallback, Resource::None | Resource::Fallback) => true,
            }
    }

    /// Whether it is to be sent by.
    pub(crate) fn can_send(&self) -> bool {
        self.active && !self.superseded && !self.expired
    }

    /// What prefers it to others of its group at the same worker.
    pub(crate) fn rank(&self, flow: u32) -> u32 {
        match self.resource {
            Resource::None | Resource::Fallback => 0,
            Resource::Bound(number) => groups::rank(flow, number).max(1),
        }
    }

    /// Uses a pair that has waited long enough for a peer that sends nothing by it. Whether it has become active.
    pub(crate) fn tire_of_waiting(&mut self, now: Instant) -> bool {
        let is_over = !self.active
            && matches!(self.resource, Resource::Bound(_))
            && now.saturating_duration_since(self.last_any) >= WAIT;
        self.active |= is_over;
        is_over
    }

    /// The control plane has found the peer elsewhere.
    pub(crate) fn move_to(&mut self, remote: SocketAddr, now: Instant) {
        if remote != self.peer {
            self.left = Some(Box::new((self.peer, now)));
            self.peer = remote;
        }
    }

    /// Counts authenticated packets from the peer, some of which may have been dropped later. Whether the pair has become
    /// active by them.
    pub(crate) fn received(
        &mut self,
        packets: u64,
        octets: u64,
        now: Instant,
        io: &mut impl PacketIo,
    ) -> bool {
        self.count(IN, packets, octets, now, io);
        self.last_in = Some(now);
        let was_active = std::mem::replace(&mut self.active, true);
        if !self.seen_inbound {
            self.seen_inbound = true;
            io.event(WorkerEvent::FirstInbound {
                session: self.session,
                spi_in: self.spi_in,
            });
        }
        !was_active
    }

    /// Counts packets to the peer, and asks for more sequence numbers in time.
    pub(crate) fn sent(&mut self, packets: u64, octets: u64, now: Instant, io: &mut impl PacketIo) {
        self.count(OUT, packets, octets, now, io);
        self.ask_for_more(io);
    }

    /// Asks for a higher ceiling once half of the block is used.
    pub(crate) fn ask_for_more(&mut self, io: &mut impl PacketIo) {
        let used = self.outbound.next_sequence().saturating_sub(1);
        if used >= self.ask_at {
            self.ask_at = u64::MAX;
            io.event(WorkerEvent::CeilingNeeded {
                session: self.session,
                spi_in: self.spi_in,
                used,
            });
        }
    }

    /// The address moved by an authenticated packet that advanced the window.
    pub(crate) fn moved(&mut self, from: SocketAddr, now: Instant, io: &mut impl PacketIo) {
        if from != self.peer {
            if let Some((left, at)) = self.left.as_deref()
                && *left == from
                && now.saturating_duration_since(*at) < SETTLING
            {
                return;
            }
            self.left = None;
            self.peer = from;
            self.path.forget();
            io.event(WorkerEvent::PeerMoved {
                session: self.session,
                spi_in: self.spi_in,
                remote: from,
            });
        }
    }

    /// The session's way has this MTU. Whether that is news.
    pub(crate) fn learn_mtu(&mut self, mtu: u16, config: &PathMtu, now: Instant) -> bool {
        let is_news = self.path.learn(mtu, config, now);
        self.dirty |= is_news;
        is_news
    }

    /// What an ICMP message about a packet of this pair must agree with.
    pub(crate) fn expected(&self, local: SocketAddr, encap: Encap) -> Expected {
        Expected {
            local,
            peer: self.peer,
            encap,
            next_sequence: self.outbound.next_sequence(),
        }
    }

    /// Forgets what was learned of the way if that is long ago. Whether it did.
    pub(crate) fn grow_old(&mut self, age: Duration, now: Instant) -> bool {
        let is_over = self.path.grow_old(age, now);
        self.dirty |= is_over;
        is_over
    }

    fn count(&mut self, direction: usize, packets: u64, octets: u64, now: Instant, io: &mut impl PacketIo) {
        if let (Some(p), Some(o)) = (self.packets.get_mut(direction), self.octets.get_mut(direction)) {
            *p += packets;
            *o += octets;
        }
        self.last_any = now;
        self.idle_reported = false;
        self.dirty = true;
        let (session, spi_in) = (self.session, self.spi_in);
        let reached = |packets: Option<u64>, octets: Option<u64>, pair: &Self| {
            packets.is_some_and(|limit| pair.packets.iter().sum::<u64>() >= limit)
                || octets.is_some_and(|limit| pair.octets.iter().sum::<u64>() >= limit)
        };
        if !self.soft_reported && reached(self.limits.soft_packets, self.limits.soft_octets, self) {
            self.soft_reported = true;
            io.event(WorkerEvent::SoftLimit { session, spi_in });
        }
        if !self.expired && reached(self.limits.hard_packets, self.limits.hard_octets, self) {
            self.expired = true;
            io.event(WorkerEvent::HardLimit { session, spi_in });
        }
    }

    /// Once a second: asks again for sequence numbers if there are none left, reports silence, and gives the counters if they have changed.
    pub(crate) fn tick(&mut self, now: Instant, io: &mut impl PacketIo) -> Option<SaStats> {
        let silence = now.saturating_duration_since(self.last_any);
        if !self.idle_reported && self.limits.idle.is_some_and(|limit| silence >= limit) {
            self.idle_reported = true;
            io.event(WorkerEvent::Idle {
                session: self.session,
                spi_in: self.spi_in,
            });
        }
        if self.ask_at == u64::MAX && self.outbound.ceiling() != u64::MAX && self.outbound.remaining() == 0 {
            self.ask_at = 0;
            self.ask_for_more(io);
        }
        std::mem::take(&mut self.dirty).then(|| self.stats(now))
    }

    pub(crate) fn stats(&self, now: Instant) -> SaStats {
        let [packets_in, packets_out] = self.packets;
        let [octets_in, octets_out] = self.octets;
        SaStats {
            session: self.session,
            spi_in: self.spi_in,
            packets_in,
            packets_out,
            octets_in,
            octets_out,
            last_in: self.last_in.map(|at| now.saturating_duration_since(at)),
            highest_in_seq: self.inbound.highest_seq(),
            next_out_seq: self.outbound.next_sequence(),
            path_mtu: self.path.mtu(),
            inner_mtu: self.path.mtu().map(|_| self.path.limit()),
            drops: self.drops,
        }
    }
}

/// What carries the ESP packets of a pair, by its overhead.
pub(super) fn encapsulation(encap: Encap, peer: SocketAddr) -> esp::Encapsulation {
    match (encap, peer.is_ipv4()) {
        (Encap::Udp, true) => esp::Encapsulation::UdpV4,
        (Encap::Udp, false) => esp::Encapsulation::UdpV6,
        (Encap::Raw, true) => esp::Encapsulation::RawV4,
        (Encap::Raw, false) => esp::Encapsulation::RawV6,
    }
}

/// Half way through the numbers from `next` to `ceiling`; never if there is no ceiling.
fn half_way(next: u64, ceiling: u64) -> u64 {
    if ceiling == u64::MAX {
        u64::MAX
    } else {
        next.saturating_sub(1) + ceiling.saturating_sub(next) / 2
    }
}

/// A bucket of `per_second` tokens, for what must not be caused too often by packets.
#[derive(Debug)]
pub(crate) struct Allowance {
    left: u32,
    per_second: u32,
    refilled: Instant,
}

impl Allowance {
    pub(crate) fn new(per_second: u32, now: Instant) -> Self {
        Self {
            left: per_second,
            per_second,
            refilled: now,
        }
    }

    pub(crate) fn take(&mut self, now: Instant) -> bool {
        if now.saturating_duration_since(self.refilled) >= Duration::from_secs(1) {
            self.left = self.per_second;
            self.refilled = now;
        }
        let is_left = self.left > 0;
        self.left = self.left.saturating_sub(1);
        is_left
    }
}
