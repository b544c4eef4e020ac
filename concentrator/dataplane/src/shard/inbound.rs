//! From the peers: ESP bursts opened segment by segment, checked, joined and written to TUN devices.

use std::io::IoSlice;
use std::net::SocketAddr;
use std::ops::Range;
use std::time::Instant;

use esp::{DropReason, tunnel};
use ip::packet::Fragment;

use super::exceptions::{belongs_anyway, guard, needs_state};
use super::{LARGEST, MAX_RECEIVES, Shard};
use crate::coalesce::Sink;
use crate::fair::{Direction, Run};
use crate::handover::{Origin, Parcel};
use crate::io::{Arrival, PacketIo};
use crate::message::{WorkerCounters, WorkerEvent};
use crate::mss;
use crate::pmtu::Way;

const TCP: u8 = 6;
/// A datagram of one octet 0xFF keeps a NAT's mapping (RFC 3948 section 2.3).
const KEEPALIVE: u8 = 0xff;

impl Shard {
    /// Receives until nothing waits or the turn's share is done. What was received is opened once the next has been: until
    /// then the processor fetches the key.
    pub(super) fn receive(&mut self, io: &mut impl PacketIo, now: Instant) -> usize {
        let (mut at, mut handled) = (0, 0);
        let mut waiting = None::<(usize, Arrival)>;
        for _ in 0..MAX_RECEIVES {
            if at + LARGEST > self.arena.len() {
                if let Some((start, arrival)) = waiting.take() {
                    handled += self.open_arrival(start, &arrival, false, io, now);
                }
                self.flush_inner(io);
                at = 0;
            }
            let Some(arrival) = self.arena.get_mut(at..).and_then(|room| io.receive(room)) else {
                self.fair.ran_dry();
                break;
            };
            self.counters.outer_reads += 1;
            if arrival.forwarded {
                let packets = arrival.len.div_ceil(arrival.segment.max(1));
                self.counters.forwarded_in += packets as u64;
            }
            self.prefetch(at, &arrival);
            if let Some((start, arrival)) = waiting.replace((at, arrival)) {
                handled += self.open_arrival(start, &arrival, false, io, now);
            }
            at = (at + arrival.len).next_multiple_of(64);
        }
        if let Some((start, arrival)) = waiting {
            handled += self.open_arrival(start, &arrival, false, io, now);
        }
        if at > 0 {
            self.flush_inner(io);
        }
        handled
    }

    /// Asks the processor for the key that what was received at `at` begins with.
    fn prefetch(&self, at: usize, arrival: &Arrival) {
        let pair = self
            .spi_at(at, at + arrival.len)
            .and_then(|spi| self.by_spi.get(&spi))
            .and_then(|slot| self.pairs.get(*slot as usize)?.as_deref());
        if let Some(pair) = pair {
            pair.inbound.prefetch();
        }
    }

    /// Writes what waits to be joined; the arena is free afterwards.
    pub(super) fn flush_inner(&mut self, io: &mut impl PacketIo) {
        let mut sink = InnerSink {
            io,
            counters: &mut self.counters,
        };
        self.coalescer.flush(&mut self.arena, &mut sink);
    }

    /// Opens what was received at `at` in the arena: runs of segments with the same SPI together. `is_final`: it has
    /// been handed over once and is not again.
    pub(super) fn open_arrival(
        &mut self,
        at: usize,
        arrival: &Arrival,
        is_final: bool,
        io: &mut impl PacketIo,
        now: Instant,
    ) -> usize {
        let (segment, end) = (arrival.segment.max(1), at + arrival.len);
        let (mut start, mut count) = (at, 0);
        if arrival.len == 0 {
            self.counters.drops.count(DropReason::Runt);
        }
        while start < end {
            let Some(spi) = self.spi_at(start, end) else {
                if self.arena.get(start..end) != Some(&[KEEPALIVE]) {
                    self.counters.drops.count(DropReason::Runt);
                }
                start += segment;
                count += 1;
                continue;
            };
            let mut next = start + segment;
            // The segments of one run share an SPI: GRO joins by addresses and ports alone.
            while spi != 0 && next < end && self.spi_at(next, end) == Some(spi) {
                next += segment;
            }
            let run = start..next.min(end);
            let packets = run.len().div_ceil(segment);
            self.counters.outer_in += packets as u64;
            count += packets;
            if spi == 0 {
                self.pass_to_ike(run, arrival, io);
            } else {
                self.open_run(spi, run, arrival, is_final, io, now);
            }
            start = next;
        }
        count.max(1)
    }

    fn spi_at(&self, start: usize, end: usize) -> Option<u32> {
        let word = self.arena.get(start..end)?.first_chunk::<4>()?;
        Some(u32::from_be_bytes(*word))
    }

    /// A first word of zero is the non-ESP marker: an IKE message that GRO joined to ESP packets.
    fn pass_to_ike(&mut self, run: Range<usize>, arrival: &Arrival, io: &mut impl PacketIo) {
        let local = io.describe(arrival.port).map(|(local, _)| local);
        if let (Some(local), Some(bytes)) = (local, self.arena.get(run.start + 4..run.end)) {
            io.event(WorkerEvent::StrayIke {
                local,
                remote: arrival.from,
                bytes: bytes.to_vec(),
            });
        }
    }

    /// What no SA here opens: to the node that owns its slot, if it came to this one by mistake.
    fn send_on(
        &mut self,
        spi: u32,
        run: Range<usize>,
        arrival: &Arrival,
        packets: u64,
        io: &mut impl PacketIo,
    ) {
        let slot = usize::from(crate::slot_of_spi(spi));
        let to = self.forwards.get(slot).copied().flatten();
        let Some(to) = to.filter(|_| !arrival.forwarded) else {
            return self.counters.drops.add(DropReason::UnknownSpi, packets);
        };
        match io.forward(to, arrival, self.arena.get(run).unwrap_or_default()) {
            Ok(sent) => {
                self.counters.forwarded_out += sent;
                self.counters
                    .drops
                    .add(DropReason::SocketFull, packets.saturating_sub(sent));
            }
            Err(refused) => {
                let reason = refused.reason(DropReason::SocketFull, DropReason::SendFailed);
                self.counters.drops.add(reason, packets);
            }
        }
    }

    fn open_run(
        &mut self,
        spi: u32,
        run: Range<usize>,
        arrival: &Arrival,
        is_final: bool,
        io: &mut impl PacketIo,
        now: Instant,
    ) {
        let packets = run.len().div_ceil(arrival.segment.max(1)) as u64;
        let place = self.by_spi.get(&spi).copied().unwrap_or(super::Place::MAX);
        let pair = self.pairs.get_mut(place as usize).and_then(Option::as_deref_mut);
        let Some(pair) = pair else {
            let owner = crate::serving_worker(spi, self.workers);
            if owner == self.worker || is_final {
                if let Err(reason) = self.fair.admit_stranger(run.len(), arrival.gated) {
                    return self.counters.drops.add(reason, packets);
                }
                return self.send_on(spi, run, arrival, packets, io);
            }
            let Arrival {
                segment,
                from,
                port,
                tos,
                forwarded,
                ..
            } = *arrival;
            let data = self.arena.get(run).unwrap_or_default();
            let origin = Origin::Outer {
                from,
                port,
                segment,
                tos,
                forwarded,
            };
            if io.hand_over(owner, Parcel { origin, data }) {
                self.counters.handed_over += 1;
            } else {
                self.counters.drops.add(DropReason::QueueFull, packets);
            }
            return;
        };
        let id = Some(pair.domain);
        if pair.expired {
            return self.counters.dropped(id, DropReason::Expired, packets);
        }
        let Some(domain) = self.domains.get(&pair.domain) else {
            return self.counters.drops.add(DropReason::WrongOwner, packets);
        };
        let asked = Run {
            spi,
            domain: pair.domain,
            packets,
            octets: run.len() as u64,
            is_gated: arrival.gated,
        };
        let admitted = self
            .fair
            .admit_in(domain, pair.session, asked, &mut pair.fair, io, now);
        if let Err(reason) = admitted {
            pair.dropped(reason, packets);
            return self.counters.dropped(id, reason, packets);
        }
        self.opened.clear();
        let opened = &mut self.opened;
        pair.inbound
            .open_burst(&mut self.arena, run, arrival.segment, |_, result| {
                opened.push(result)
            });

        let mtu = domain.mtu.min(pair.path.limit());
        let limits = [true, false].map(|is_v4| mss::limit(domain.mss_clamp, mtu, is_v4));
        let (mut authentic, mut octets, mut moved) = (0, 0, None::<SocketAddr>);
        let mut sink = InnerSink {
            io,
            counters: &mut self.counters,
        };
        for result in self.opened.drain(..) {
            let opened = match result {
                Ok(opened) => opened,
                Err(reason) => {
                    authentic += u64::from(reason.is_authentic());
                    pair.dropped(reason, 1);
                    sink.counters.dropped(id, reason, 1);
                    continue;
                }
            };
            authentic += 1;
            octets += opened.inner.len() as u64;
            if opened.advanced {
                moved = Some(arrival.from);
            }
            let inner = self.arena.get_mut(opened.inner.clone()).unwrap_or_default();
            //= rfc4301#section-5.2
            //# If an IPsec system receives an inbound packet on an SA and the packet's header fields are not consistent
            //# with the selectors for the SA, it MUST discard the packet.
            let checked = tunnel::check_inner(inner, pair.usual.as_ref(), &pair.ts_remote, &pair.ts_local);
            let is_by_selectors = checked.is_ok();
            let checked = if checked == Err(DropReason::SelectorMismatch) {
                belongs_anyway(&mut sink.counters.paths, pair, inner)
            } else {
                checked
            };
            let checked = checked.and_then(|summary| {
                if summary.fragment != Fragment::No {
                    let way = (place, needs_state(pair, &summary, is_by_selectors), Way::In);
                    let (fragments, events) = (&mut self.paths.fragments, &mut sink.counters.paths);
                    guard(fragments, events, way, inner, &summary, now)?;
                }
                let announced = if summary.version == 4 {
                    ip::protocol::IPV4
                } else {
                    ip::protocol::IPV6
                };
                if announced != opened.next_header {
                    return Err(DropReason::InnerMalformed);
                }
                tunnel::apply_ecn(inner, &summary, arrival.tos)?;
                Ok(summary)
            });
            let summary = match checked {
                Ok(summary) => summary,
                Err(reason) => {
                    pair.dropped(reason, 1);
                    sink.counters.dropped(id, reason, 1);
                    continue;
                }
            };
            if summary.protocol == TCP
                && summary.fragment == Fragment::No
                && mss::is_syn(inner, summary.header_len)
            {
                let [v4, v6] = limits;
                if let Some(limit) = if summary.version == 4 { v4 } else { v6 } {
                    mss::clamp(inner, summary.header_len, limit);
                }
            }
            let packet = opened.inner.start..opened.inner.start + summary.total_len.min(opened.inner.len());
            self.coalescer.add(
                &mut self.arena,
                packet,
                pair.domain as usize,
                domain.offloads,
                &mut sink,
            );
        }
        self.fair
            .charge(Direction::In, domain, &mut pair.fair, [octets, authentic]);
        let is_now_active = authentic > 0 && pair.received(authentic, octets, now, io);
        if let Some(from) = moved.filter(|_| pair.may_move && pair.port == arrival.port) {
            pair.moved(from, now, io);
        }
        if is_now_active {
            self.supersede(spi);
            self.tell_group(spi);
        }
    }
}

/// Where joined packets go: the TUN device of their domain.
struct InnerSink<'a, I> {
    io: &'a mut I,
    counters: &'a mut WorkerCounters,
}

impl<I: PacketIo> Sink for InnerSink<'_, I> {
    fn write(&mut self, domain: usize, parts: &[IoSlice<'_>], packets: usize) {
        self.counters.inner_writes += 1;
        match self.io.write_inner(domain as u32, parts) {
            Ok(()) => self.counters.inner_out += packets as u64,
            Err(refused) => {
                let reason = refused.reason(DropReason::DeviceFull, DropReason::DeviceFailed);
                self.counters.refused += packets as u64;
                self.counters.dropped(Some(domain as u32), reason, packets as u64);
            }
        }
    }
}
