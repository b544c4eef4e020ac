//! The worker's part of path MTU: believes what routers say or not, cuts inner packets that are too long, and tells their
//! senders.

use std::io::IoSlice;
use std::net::IpAddr;
use std::time::Instant;

use esp::DropReason;
use ip::fragment::Cut;
use ip::packet::Summary;

use super::outbound::Key;
use super::pair::Pair;
use super::{DomainFacts, Shard};
use crate::handover::{Origin, Parcel};
use crate::icmp;
use crate::io::{PacketIo, PathError};
use crate::pmtu::{self, PathEvent, PathMtu, Quote};
use crate::segment::Burst;
use crate::vnet;

/// ICMP messages read in one turn: a flood of forged ones costs no more.
const MESSAGES: usize = 16;

impl Shard {
    /// Says what is believed of the way to peers, from now on.
    pub fn set_path_mtu(&mut self, config: PathMtu) {
        self.paths.config = config;
    }

    /// Reads what routers say. Between turns: the arena is free.
    pub(super) fn learn(&mut self, io: &mut impl PacketIo, now: Instant) -> usize {
        let mut handled = 0;
        for _ in 0..MESSAGES {
            let Some(PathError { len, is_v4 }) = io.path_error(&mut self.arena) else {
                break;
            };
            handled += 1;
            let arena = std::mem::take(&mut self.arena);
            self.weigh(arena.get(..len).unwrap_or_default(), is_v4, io, now);
            self.arena = arena;
        }
        handled
    }

    /// Acts on an ICMP message if it is about a packet that an SA here has just sent; else the next worker looks.
    //= rfc4301#section-8.2.1
    //# When an IPsec implementation receives an unauthenticated PMTU message, and it is configured to process (vs. ignore)
    //# such messages, it maps the message to the SA to which it corresponds.
    pub(super) fn weigh(&mut self, message: &[u8], is_v4: bool, io: &mut impl PacketIo, now: Instant) {
        let Some(quote) = Quote::read(message, is_v4) else {
            return self.counters.paths.count(PathEvent::Malformed);
        };
        let places = self.paths.by_outbound.get(quote.spi);
        if places.is_empty() {
            let origin = Origin::PathError { is_v4 };
            let next = self.worker + 1;
            let data = message;
            if next >= self.workers || !io.hand_over(next, Parcel { origin, data }) {
                self.counters.paths.count(PathEvent::Unknown);
            }
            return;
        }
        let mut why = PathEvent::Forged;
        for place in places {
            let Some(pair) = self.pairs.get(*place as usize).and_then(Option::as_deref) else {
                continue;
            };
            let Some((local, encap)) = io.describe(pair.port) else {
                continue;
            };
            match pmtu::judge(&quote, &pair.expected(local, encap)) {
                Ok(mtu) => {
                    let spi_in = pair.spi_in;
                    return self.believe(spi_in, mtu, now);
                }
                Err(reason) => why = reason,
            }
        }
        self.counters.paths.count(why);
    }

    /// The way of a pair has this MTU, hence that of every pair of its session that goes to the same place.
    fn believe(&mut self, spi_in: u32, mtu: u16, now: Instant) {
        let pair_of = |spi: &u32| {
            let place = self.by_spi.get(spi).copied()?;
            Some((place, self.pairs.get(place as usize)?.as_deref()?))
        };
        let Some((_, pair)) = pair_of(&spi_in) else { return };
        let peer = pair.peer;
        let of_session = self.by_session.get(&pair.session).map_or(&[][..], Vec::as_slice);
        let mut is_news = false;
        for spi in of_session {
            let place = self.by_spi.get(spi).copied().unwrap_or(super::Place::MAX);
            let pair = self.pairs.get_mut(place as usize).and_then(Option::as_deref_mut);
            if let Some(pair) = pair.filter(|pair| pair.peer == peer) {
                is_news |= pair.learn_mtu(mtu, &self.paths.config, now);
            }
        }
        self.counters.paths.count(if is_news {
            PathEvent::Learned
        } else {
            PathEvent::Confirmed
        });
    }

    /// A packet with DF did not fit our own first link.
    pub(super) fn learn_link(&mut self, spi_in: u32, io: &mut impl PacketIo, now: Instant) {
        let place = self.by_spi.get(&spi_in).copied().unwrap_or(super::Place::MAX);
        let pair = self.pairs.get(place as usize).and_then(Option::as_deref);
        if let Some(mtu) = pair.and_then(|pair| io.link_mtu(pair.peer.ip())) {
            self.believe(spi_in, mtu, now);
        }
    }

    /// A new pair knows what others of its session have learned of the same way.
    pub(super) fn inherit_path(&self, pair: &mut Pair) {
        let of_session = self.by_session.get(&pair.session).map_or(&[][..], Vec::as_slice);
        let sibling = of_session.iter().rev().find_map(|spi| {
            let place = self.by_spi.get(spi).copied()?;
            let sibling = self.pairs.get(place as usize)?.as_deref()?;
            (sibling.peer == pair.peer && sibling.path.mtu().is_some()).then_some(sibling)
        });
        if let Some(sibling) = sibling {
            pair.path.inherit(&sibling.path);
        }
    }

    /// Sends packets that are too long for `limit`: in pieces if they may be cut, else whole, to be fragmented outside.
    pub(super) fn send_long(
        &mut self,
        burst: &Burst<'_>,
        key: Key,
        limit: u16,
        io: &mut impl PacketIo,
        now: Instant,
    ) {
        let mut room = std::mem::take(&mut self.paths.room);
        for index in 0..burst.count() {
            room.resize(burst.len_of(index), 0);
            let summary = burst
                .write(index, &mut room)
                .ok()
                .and_then(|()| ip::packet::summarize(&room).ok());
            let Some(summary) = summary else {
                self.counters.drops.count(DropReason::InnerMalformed);
                continue;
            };
            let Some(cut) = Cut::new(&room, &summary, limit.into()) else {
                if room.len() > usize::from(limit) {
                    self.counters.paths.count(PathEvent::CutOutside);
                }
                self.send_piece(key, room.len(), io, now, |out| {
                    out.copy_from_slice(&room);
                    Some(())
                });
                continue;
            };
            self.counters.paths.count(PathEvent::CutInside);
            for piece in 0..cut.count() {
                self.send_piece(key, cut.len_of(piece), io, now, |out| cut.write(piece, out));
            }
        }
        self.paths.room = room;
    }

    fn send_piece(
        &mut self,
        key: Key,
        len: usize,
        io: &mut impl PacketIo,
        now: Instant,
        write: impl FnOnce(&mut [u8]) -> Option<()>,
    ) {
        let Some(pair) = self.pairs.get(key.slot as usize).and_then(Option::as_deref) else {
            return;
        };
        let (head, sealed) = (pair.outbound.layout().head(), pair.outbound.sealed_len(len));
        if !self.outbox.takes(key, len, sealed) {
            self.flush_outbox(io, now);
        }
        let room = self.outbox.slot(key, len, sealed, head);
        if room.and_then(write).is_none() {
            self.outbox.unslot(len, sealed);
            self.counters.drops.count(DropReason::TooLong);
        }
    }

    /// Tells the sender of an inner packet that it is too big, within the rate of its domain.
    pub(super) fn answer_too_big(
        &mut self,
        domain: u32,
        packet: &[u8],
        summary: &Summary,
        mtu: u16,
        io: &mut impl PacketIo,
        now: Instant,
    ) {
        let gateway = self.domains.get(&domain).and_then(|facts: &DomainFacts| {
            let mut addresses = facts.addresses.iter().map(ipnet::IpNet::addr);
            addresses.find(|a: &IpAddr| a.is_ipv4() == summary.dst.is_ipv4())
        });
        let Some(error) = icmp::too_big(packet, summary, mtu, gateway) else {
            return;
        };
        if !self.paths.may_answer(domain, now) {
            return self.counters.paths.count(PathEvent::Limited);
        }
        let parts = [IoSlice::new(&[0; vnet::LEN]), IoSlice::new(&error)];
        // An error that cannot be delivered is not worth another.
        if io.write_inner(domain, &parts).is_ok() {
            self.counters.paths.count(PathEvent::Answered);
        }
    }
}
