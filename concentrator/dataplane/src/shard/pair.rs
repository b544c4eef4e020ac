//! A pair of SAs as its worker keeps it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crypto::KeyError;
use esp::tunnel::DfRule;
use esp::{InboundSa, OutboundSa};
use ip::Selector;
use ip::packet::Summary;

use crate::io::{PacketIo, PortId};
use crate::message::{Activate, Encap, Limits, SaPair, SaStats, WorkerEvent};

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
    pub(crate) peer: SocketAddr,
    pub(crate) port: PortId,
    /// The peer may move: its packets come in UDP.
    pub(crate) may_move: bool,
    pub(crate) path_mtu: Option<u16>,
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
}

/// Index of the counters of each direction.
const IN: usize = 0;
const OUT: usize = 1;

impl Pair {
    pub(crate) fn new(pair: SaPair, port: PortId, now: Instant) -> Result<Self, KeyError> {
        Ok(Self {
            session: pair.session,
            slot: pair.slot,
            domain: pair.domain,
            spi_in: pair.inbound.spi,
            inbound: InboundSa::new(&pair.inbound)?,
            outbound: OutboundSa::new(&pair.outbound)?,
            ts_local: pair.ts_local,
            ts_remote: pair.ts_remote,
            peer: pair.peer,
            port,
            may_move: pair.encap == Encap::Udp,
            path_mtu: pair.path_mtu,
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
        })
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
    pub(crate) fn moved(&mut self, from: SocketAddr, io: &mut impl PacketIo) {
        if from != self.peer {
            self.peer = from;
            io.event(WorkerEvent::PeerMoved {
                session: self.session,
                spi_in: self.spi_in,
                remote: from,
            });
        }
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
        }
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
