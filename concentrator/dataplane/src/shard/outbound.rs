//! To the peers: inner packets and bursts cut into equal slots of one buffer, sealed there, and sent with one call.

use std::time::Instant;

use esp::DropReason;
use esp::tunnel::{self, Outer};
use ip::packet::{Fragment, Summary};

use super::exceptions::{guard, needs_state};
use super::pair::{Pair, Place};
use super::{MAX_READS, Shard};
use crate::groups;
use crate::handover::{Origin, Parcel};
use crate::io::{PacketIo, Refused};
use crate::message::WorkerEvent;
use crate::mss;
use crate::pmtu::{Fit, Way, fit};
use crate::segment::Burst;
use crate::vnet::{self, VnetHeader};

const TCP: u8 = 6;
/// UDP_MAX_SEGMENTS of older kernels; newer ones allow 128.
const MAX_SEGMENTS: usize = 64;
/// The largest UDP payload over IPv4.
const MAX_DATAGRAM: usize = 65_507;
/// Octets of the buffer: a full datagram and the room that sealing wants behind the last slot.
const OUTBOX: usize = MAX_DATAGRAM + 2048;

/// Packets of one SA and one size that wait to be sealed and sent together.
pub(super) struct Outbox {
    buffer: Vec<u8>,
    key: Key,
    segments: usize,
    /// Octets of the slots taken.
    used: usize,
    inner_len: usize,
    last_len: usize,
    /// Octets of inner packets.
    octets: u64,
}

/// What the packets of one send have in common.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Key {
    pub(super) slot: Place,
    next_header: u8,
    outer: Outer,
}

impl Outbox {
    pub(super) fn new() -> Self {
        Self {
            buffer: vec![0; OUTBOX],
            key: Key::default(),
            segments: 0,
            used: 0,
            inner_len: 0,
            last_len: 0,
            octets: 0,
        }
    }

    /// Whether a packet of `len` octets, `sealed` when sealed, may follow what waits. Only the last may be shorter.
    pub(super) fn takes(&self, key: Key, len: usize, sealed: usize) -> bool {
        self.segments == 0
            || (self.key == key
                && len <= self.inner_len
                && self.last_len == self.inner_len
                && self.segments < MAX_SEGMENTS
                && self.used + sealed <= MAX_DATAGRAM)
    }

    /// The place for the next packet, `head` octets into its slot.
    pub(super) fn slot(&mut self, key: Key, len: usize, sealed: usize, head: usize) -> Option<&mut [u8]> {
        if self.segments == 0 {
            (self.key, self.inner_len, self.octets, self.used) = (key, len, 0, 0);
        }
        let start = self.used + head;
        self.segments += 1;
        self.used += sealed;
        self.last_len = len;
        self.octets += len as u64;
        self.buffer.get_mut(start..start + len)
    }

    /// Takes back the place given last.
    pub(super) fn unslot(&mut self, len: usize, sealed: usize) {
        self.segments -= 1;
        self.used -= sealed;
        self.octets -= len as u64;
        self.last_len = self.inner_len;
    }
}

impl Shard {
    /// Reads inner packets until nothing waits or the turn's share is done.
    pub(super) fn read(&mut self, io: &mut impl PacketIo, now: Instant) -> usize {
        let mut handled = 0;
        let mut inner = std::mem::take(&mut self.inner);
        for _ in 0..MAX_READS {
            let Some((domain, len)) = io.read_inner(&mut inner) else {
                break;
            };
            handled += 1;
            self.send_inner(domain, inner.get(..len).unwrap_or_default(), false, io, now);
        }
        self.inner = inner;
        self.flush_outbox(io, now);
        handled
    }

    /// Takes a `virtio_net_hdr` and an inner packet or burst. `is_final`: it has been handed over once and is not again.
    pub(super) fn send_inner(
        &mut self,
        domain: u32,
        data: &[u8],
        is_final: bool,
        io: &mut impl PacketIo,
        now: Instant,
    ) {
        let Some((header, packet)) = VnetHeader::read(data).zip(data.get(vnet::LEN..)) else {
            return self.counters.drops.count(DropReason::NotIp);
        };
        let Ok(burst) = Burst::new(&header, packet) else {
            return self.counters.drops.count(DropReason::InnerMalformed);
        };
        let count = burst.count();
        self.counters.inner_in += count as u64;
        let Ok(summary) = ip::packet::summarize(packet) else {
            return self.counters.drops.add(DropReason::NotIp, count as u64);
        };
        let slot = match self.choose(domain, &summary, is_final) {
            Ok(slot) => slot,
            Err(owner) => match self.choose_again(domain, packet, &summary, is_final) {
                Some(slot) => slot,
                None => return self.send_elsewhere(domain, data, &summary, count, owner, io, now),
            },
        };
        let Some(facts) = self.domains.get(&domain) else {
            return;
        };
        let Some(pair) = self.pairs.get_mut(slot as usize).and_then(Option::as_deref_mut) else {
            return;
        };
        if pair.expired {
            return self
                .counters
                .dropped(Some(domain), DropReason::Expired, count as u64);
        }
        let octets = burst.len_of(0) * (count - 1) + burst.len_of(count - 1);
        let units = [octets as u64, count as u64];
        if let Err(reason) = self
            .fair
            .admit_out(facts, pair.session, &mut pair.fair, units, now)
        {
            pair.dropped(reason, count as u64);
            return self.counters.dropped(Some(domain), reason, count as u64);
        }
        if summary.fragment != Fragment::No {
            let (fragments, events) = (&mut self.paths.fragments, &mut self.counters.paths);
            let way = (
                slot,
                needs_state(pair, &summary, pair.carries(&summary)),
                Way::Out,
            );
            if let Err(reason) = guard(fragments, events, way, packet, &summary, now) {
                pair.dropped(reason, count as u64);
                return self.counters.dropped(Some(domain), reason, count as u64);
            }
        }
        let mtu = pair.path.limit().min(facts.mtu);
        let fits = fit(&summary, burst.len_of(0), mtu);
        if let Fit::Answer(mtu) = fits {
            self.counters
                .dropped(Some(domain), DropReason::PathMtu, count as u64);
            return self.answer_too_big(domain, packet, &summary, mtu, io, now);
        }
        let is_syn = summary.protocol == TCP
            && summary.fragment == Fragment::No
            && mss::is_syn(packet, summary.header_len);
        let clamp = if is_syn {
            mss::limit(facts.mss_clamp, mtu, summary.version == 4)
        } else {
            None
        };
        let rules = tunnel::TunnelRules {
            df: pair.df,
            ..Default::default()
        };
        let mut outer = tunnel::encapsulate(&rules, summary.traffic_class, summary.dont_fragment);
        outer.dont_fragment =
            (outer.dont_fragment || pair.peer.is_ipv6()) && pair.path.allows_df() && fits != Fit::Outside;
        let next_header = if summary.version == 4 {
            ip::protocol::IPV4
        } else {
            ip::protocol::IPV6
        };
        let key = Key {
            slot,
            next_header,
            outer,
        };
        let (head, outbound) = (pair.outbound.layout().head(), &pair.outbound);
        if matches!(fits, Fit::Inside | Fit::Outside) {
            return self.send_long(&burst, key, mtu, io, now);
        }
        let lengths = [burst.len_of(0), burst.len_of(count - 1)].map(|len| (len, outbound.sealed_len(len)));
        for index in 0..count {
            let [whole, last] = lengths;
            let (len, sealed) = if index + 1 == count { last } else { whole };
            if !self.outbox.takes(key, len, sealed) {
                self.flush_outbox(io, now);
            }
            let Some(room) = self.outbox.slot(key, len, sealed, head) else {
                self.outbox.unslot(len, sealed);
                self.counters.drops.count(DropReason::TooLong);
                continue;
            };
            if burst.write(index, room).is_err() {
                self.outbox.unslot(len, sealed);
                self.counters.drops.count(DropReason::InnerMalformed);
            } else if let Some(limit) = clamp {
                mss::clamp(room, summary.header_len, limit);
            }
        }
    }

    /// The pair for an outbound packet: of those whose selectors match the newest that can be sent by, else the newest; of
    /// a group the one that the flow goes to. Without `is_final` a worker among several answers only for what is its own by
    /// the most specific entry of all; otherwise it names the worker that has it, if there is one.
    pub(super) fn choose(&self, domain: u32, summary: &Summary, is_final: bool) -> Result<Place, Option<u8>> {
        let is_shared = self.workers > 1 && !is_final;
        let flow = || groups::flow_of(summary);
        let among = |slots: &[Place]| {
            let mut fallback = None;
            let mut best: Option<(Place, &Pair, u32)> = None;
            for slot in slots.iter().rev() {
                let Some(pair) = self.pairs.get(*slot as usize).and_then(Option::as_deref) else {
                    continue;
                };
                if !pair.carries(summary) {
                    continue;
                }
                if !pair.can_send() {
                    fallback = fallback.or(Some((*slot, pair)));
                } else if pair.membership.is_none() {
                    return best.map(|(slot, pair, _)| (slot, pair)).or(Some((*slot, pair)));
                } else {
                    let rank = pair.rank(flow());
                    if best.is_none_or(|(_, one, highest)| rank > highest && pair.session == one.session) {
                        best = Some((*slot, pair, rank));
                    }
                }
            }
            best.map(|(slot, pair, _)| (slot, pair)).or(fallback)
        };
        let routes = self.routes.get(&domain);
        if is_shared {
            if let Some((place, pair)) = routes.and_then(|routes| among(routes.host(summary.dst))) {
                let group = pair.membership.as_ref().map(|membership| &membership.group);
                let owner = group.and_then(|group| group.worker_of(flow()));
                return match owner.filter(|owner| *owner != self.worker) {
                    None => Ok(place),
                    elsewhere => Err(elsewhere),
                };
            }
            let owner = self.owners.of(domain, summary.dst, self.worker, flow);
            if owner != Some(self.worker) {
                return Err(owner);
            }
        }
        let found = routes.and_then(|routes| routes.find(summary.dst, among));
        if is_final && self.workers > 1 && !found.is_some_and(|(_, pair)| pair.can_send()) {
            // The pair went while the packet was under way to it; a worker that is left of its group has one.
            let owner = self.owners.of_group(domain, summary.dst, flow);
            if let Some(owner) = owner.filter(|owner| *owner != self.worker) {
                return Err(Some(owner));
            }
        }
        found.map(|(place, _)| place).ok_or(None)
    }

    /// What no SA here carries: to the worker that has one, or else the control plane may bring one up.
    #[allow(clippy::too_many_arguments, reason = "the facts of one packet, already found")]
    fn send_elsewhere(
        &mut self,
        domain: u32,
        data: &[u8],
        summary: &Summary,
        count: usize,
        owner: Option<u8>,
        io: &mut impl PacketIo,
        now: Instant,
    ) {
        if let Some(owner) = owner {
            if io.hand_over(
                owner,
                Parcel {
                    origin: Origin::Inner { domain },
                    data,
                },
            ) {
                self.counters.handed_over += 1;
            } else {
                self.counters.drops.add(DropReason::QueueFull, count as u64);
            }
            return;
        }
        self.counters
            .dropped(Some(domain), DropReason::NoSa, count as u64);
        if !summary.dst.is_multicast() && self.acquires.take(now) {
            io.event(WorkerEvent::Acquire {
                domain,
                summary: *summary,
            });
        }
    }

    /// Seals and sends what waits.
    pub(super) fn flush_outbox(&mut self, io: &mut impl PacketIo, now: Instant) {
        let outbox = &mut self.outbox;
        let segments = std::mem::take(&mut outbox.segments);
        if segments == 0 {
            return;
        }
        let Some(pair) = self
            .pairs
            .get_mut(outbox.key.slot as usize)
            .and_then(Option::as_deref_mut)
        else {
            return;
        };
        let burst = esp::Burst {
            offset: 0,
            segments,
            inner_len: outbox.inner_len,
            last_len: outbox.last_len,
        };
        let sealed = match pair
            .outbound
            .seal_burst(&mut outbox.buffer, burst, outbox.key.next_header)
        {
            Ok(range) => range,
            Err(reason) => {
                pair.dropped(reason, segments as u64);
                self.counters.dropped(Some(pair.domain), reason, segments as u64);
                pair.ask_for_more(io);
                return;
            }
        };
        let stride = pair.outbound.sealed_len(outbox.inner_len);
        let data = outbox.buffer.get(sealed).unwrap_or_default();
        self.counters.outer_writes += 1;
        match send(io, pair, data, stride, outbox.key.outer) {
            Ok(()) => {
                self.counters.outer_out += segments as u64;
                pair.sent(segments as u64, outbox.octets, now, io);
            }
            Err(refused) => {
                let reason = refused.reason(DropReason::SocketFull, DropReason::SendFailed);
                self.counters.refused += segments as u64;
                pair.dropped(reason, segments as u64);
                self.counters.dropped(Some(pair.domain), reason, segments as u64);
                pair.ask_for_more(io);
                if refused == Refused::TooBig {
                    let spi_in = pair.spi_in;
                    self.learn_link(spi_in, io, now);
                }
            }
        }
    }
}

fn send(
    io: &mut impl PacketIo,
    pair: &Pair,
    data: &[u8],
    segment: usize,
    outer: Outer,
) -> Result<(), Refused> {
    io.transmit(pair.port, data, segment, pair.peer, outer)
}
