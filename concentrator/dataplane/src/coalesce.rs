//! Joining the decrypted packets of one flow into one burst, so that a TUN device takes them with one write; what the
//! kernel does for GRO, on inner packets.
//!
//! Joined are TCP segments with contiguous sequence numbers, and UDP datagrams of one size, whose headers are otherwise
//! the same and whose checksums are right (a wrong one must reach its destination wrong). Packets of one flow never
//! overtake each other. A pushed segment may be followed by others, which are delivered with it: the burst is pushed then,
//! since a push is no mark of a record's end. Nothing is copied: a burst is written from where its packets were decrypted.

use std::io::IoSlice;
use std::ops::Range;

use crate::config::Offloads;
use crate::segment::pseudo;
use crate::vnet::{Gso, LEN, VnetHeader, fold, sum};

/// Flows kept open; with more, the oldest is written.
const MAX_FLOWS: usize = 16;
/// Packets in one burst.
const MAX_PARTS: usize = 64;
/// Octets in one burst, headers included.
const MAX_OCTETS: usize = 65_535;

const TCP: u8 = 6;
const UDP: u8 = 17;
const ACK: u8 = 0x10;
const PSH: u8 = 0x08;

/// Where finished packets go. The first part is a `virtio_net_hdr`; `packets` counts those joined in it.
pub(crate) trait Sink {
    fn write(&mut self, domain: usize, parts: &[IoSlice<'_>], packets: usize);
}

/// The flows being joined. Ranges are into the arena that each call is given, the same until [`Coalescer::flush`].
#[derive(Debug)]
pub(crate) struct Coalescer {
    flows: Vec<Flow>,
    /// Emptied flows, kept for their allocations.
    spare: Vec<Flow>,
}

#[derive(Debug, Default)]
struct Flow {
    domain: usize,
    shape: Shape,
    /// The first packet in the arena, headers and all.
    first: Range<usize>,
    /// Payloads of the further packets.
    rest: Vec<Range<usize>>,
    /// Sequence number that would continue it (TCP).
    next: u32,
    /// Octets of the burst so far.
    octets: usize,
    /// The checksum of the first packet has been seen to be right.
    is_verified: bool,
    /// A short segment ends a burst.
    is_closed: bool,
    has_push: bool,
}

/// Where the parts of a packet are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Shape {
    is_tcp: bool,
    is_v4: bool,
    transport: usize,
    headers: usize,
    payload: usize,
}

impl Coalescer {
    pub(crate) fn new() -> Self {
        Self {
            flows: Vec::with_capacity(MAX_FLOWS),
            spare: Vec::with_capacity(MAX_FLOWS),
        }
    }

    /// Takes the packet at `range` of the arena, to be written at once or joined with others.
    pub(crate) fn add(
        &mut self,
        arena: &mut [u8],
        range: Range<usize>,
        domain: usize,
        offloads: Offloads,
        sink: &mut impl Sink,
    ) {
        let Some(packet) = arena.get(range.clone()) else {
            return;
        };
        let shape = Shape::of(packet).filter(|s| if s.is_tcp { offloads.tcp } else { offloads.udp });
        let Some(shape) = shape else {
            // Anything else of the same flow (a SYN, a FIN, a bare ACK) must not overtake what is waiting.
            if let Some(at) = self
                .flows
                .iter()
                .position(|f| f.domain == domain && f.is_same_pair(arena, packet))
            {
                self.emit(at, arena, sink);
            }
            write_one(domain, arena, range, sink);
            return;
        };
        if let Some(at) = self
            .flows
            .iter()
            .position(|f| f.domain == domain && f.is_same_flow(arena, packet, shape))
        {
            if self
                .flows
                .get_mut(at)
                .is_some_and(|flow| flow.join(arena, range.clone(), shape))
            {
                return;
            }
            self.emit(at, arena, sink);
        } else if self.flows.len() == MAX_FLOWS {
            self.emit(0, arena, sink);
        }
        let mut flow = self.spare.pop().unwrap_or_default();
        flow.begin(arena, range, shape, domain);
        self.flows.push(flow);
    }

    /// Writes everything that waits; the arena may be reused afterwards.
    pub(crate) fn flush(&mut self, arena: &mut [u8], sink: &mut impl Sink) {
        for flow in self.flows.iter_mut() {
            flow.write(arena, sink);
        }
        self.spare.append(&mut self.flows);
    }

    fn emit(&mut self, at: usize, arena: &mut [u8], sink: &mut impl Sink) {
        let mut flow = self.flows.remove(at);
        flow.write(arena, sink);
        self.spare.push(flow);
    }
}

impl Shape {
    /// The shape of a packet that may be joined; `None` for any other.
    fn of(packet: &[u8]) -> Option<Self> {
        let is_v4 = match packet.first()? {
            0x45 => true,
            b if b >> 4 == 6 => false,
            _ => return None,
        };
        let (protocol, transport) = if is_v4 {
            (*packet.get(9)?, 20)
        } else {
            (*packet.get(6)?, 40)
        };
        let claimed = if is_v4 {
            usize::from(word(packet, 2)?)
        } else {
            usize::from(word(packet, 4)?) + 40
        };
        // More fragments, or a fragment offset.
        if claimed != packet.len() || (is_v4 && word(packet, 6)? & 0x3fff != 0) {
            return None;
        }
        let headers = match protocol {
            TCP => {
                let offset = usize::from(packet.get(transport + 12)? >> 4) * 4;
                if offset < 20 || packet.get(transport + 13)? & !PSH != ACK {
                    return None;
                }
                transport + offset
            }
            UDP => {
                let is_whole = usize::from(word(packet, transport + 4)?) == packet.len() - transport;
                if !is_whole || word(packet, transport + 6)? == 0 {
                    return None;
                }
                transport + 8
            }
            _ => return None,
        };
        let payload = packet.len().checked_sub(headers).filter(|p| *p > 0)?;
        Some(Self {
            is_tcp: protocol == TCP,
            is_v4,
            transport,
            headers,
            payload,
        })
    }
}

impl Flow {
    fn begin(&mut self, arena: &[u8], range: Range<usize>, shape: Shape, domain: usize) {
        let packet = arena.get(range.clone()).unwrap_or_default();
        self.rest.clear();
        self.next = sequence(packet, shape).wrapping_add(shape.payload as u32);
        self.octets = packet.len();
        self.is_verified = false;
        self.has_push = pushes(packet, shape);
        self.is_closed = false;
        self.first = range;
        self.shape = shape;
        self.domain = domain;
    }

    /// Whether the packet has the same addresses, ports and protocol.
    fn is_same_flow(&self, arena: &[u8], packet: &[u8], shape: Shape) -> bool {
        self.shape.is_v4 == shape.is_v4
            && self.shape.is_tcp == shape.is_tcp
            && self.is_same_pair(arena, packet)
    }

    /// Whether addresses and the octets where ports would be are the same.
    fn is_same_pair(&self, arena: &[u8], packet: &[u8]) -> bool {
        let first = arena.get(self.first.clone()).unwrap_or_default();
        let (from, to) = if self.shape.is_v4 { (12, 24) } else { (8, 44) };
        first.first().map(|b| b >> 4) == packet.first().map(|b| b >> 4)
            && first.get(from..to) == packet.get(from..to)
    }

    /// Adds a packet of the same flow if it continues the burst.
    fn join(&mut self, arena: &[u8], range: Range<usize>, shape: Shape) -> bool {
        let (Some(first), Some(packet)) = (arena.get(self.first.clone()), arena.get(range.clone())) else {
            return false;
        };
        let fits = !self.is_closed
            && shape.headers == self.shape.headers
            && shape.payload <= self.shape.payload
            && self.rest.len() + 1 < MAX_PARTS
            && self.octets + shape.payload <= MAX_OCTETS;
        if !fits || !self.headers_agree(first, packet) {
            return false;
        }
        if !self.is_verified {
            if !checksum_is_right(first, self.shape) {
                return false;
            }
            self.is_verified = true;
        }
        if !checksum_is_right(packet, shape) {
            return false;
        }
        self.has_push |= pushes(packet, shape);
        self.is_closed = shape.payload < self.shape.payload;
        self.next = self.next.wrapping_add(shape.payload as u32);
        self.octets += shape.payload;
        self.rest.push(range.start + shape.headers..range.end);
        true
    }

    /// Whether the headers differ only in what a segment's must.
    fn headers_agree(&self, first: &[u8], packet: &[u8]) -> bool {
        let same = |range: Range<usize>| first.get(range.clone()) == packet.get(range);
        let t = self.shape.transport;
        let network = if self.shape.is_v4 {
            let dont_fragment = word(packet, 6).unwrap_or(0) & 0x4000 != 0;
            let expected = word(first, 4)
                .unwrap_or(0)
                .wrapping_add(self.rest.len() as u16 + 1);
            same(0..2) && same(6..10) && (dont_fragment || word(packet, 4) == Some(expected))
        } else {
            same(0..4) && same(6..8)
        };
        // TCP: acknowledgement, offset, window, urgent pointer and options are the same and the sequence continues.
        let transport = !self.shape.is_tcp
            || (sequence(packet, self.shape) == self.next
                && same(t + 8..t + 13)
                && same(t + 14..t + 16)
                && same(t + 18..self.shape.headers));
        network && transport
    }

    /// Writes the burst and empties the flow.
    fn write(&mut self, arena: &mut [u8], sink: &mut impl Sink) {
        if self.rest.is_empty() {
            write_one(self.domain, arena, self.first.clone(), sink);
            return;
        }
        let Some(header) = self.prepare(arena) else { return };
        let header = header.octets();
        let mut parts = [IoSlice::new(&[]); MAX_PARTS + 1];
        let slices = [&header[..], arena.get(self.first.clone()).unwrap_or_default()].into_iter();
        let slices = slices.chain(self.rest.iter().map(|r| arena.get(r.clone()).unwrap_or_default()));
        let mut used = 0;
        for (part, slice) in parts.iter_mut().zip(slices) {
            *part = IoSlice::new(slice);
            used += 1;
        }
        sink.write(
            self.domain,
            parts.get(..used).unwrap_or_default(),
            self.rest.len() + 1,
        );
        self.rest.clear();
    }

    /// Makes the first packet's headers those of the burst.
    fn prepare(&self, arena: &mut [u8]) -> Option<VnetHeader> {
        let Shape {
            is_tcp,
            is_v4,
            transport,
            headers,
            payload,
        } = self.shape;
        let first = arena.get_mut(self.first.clone())?;
        let length = self.octets - transport;
        if is_v4 {
            put(first, 2, self.octets as u16)?;
            put(first, 10, 0)?;
            let value = !fold(sum(first.get(..20)?));
            put(first, 10, value)?;
        } else {
            put(first, 4, length as u16)?;
        }
        if is_tcp {
            if self.has_push {
                *first.get_mut(transport + 13)? |= PSH;
            }
        } else {
            put(first, transport + 4, length as u16)?;
        }
        let (protocol, csum_offset) = if is_tcp { (TCP, 16) } else { (UDP, 6) };
        // With the checksum left to do, its field holds the sum of the pseudo header.
        let value = fold(pseudo(first, protocol, length)?);
        put(first, transport + usize::from(csum_offset), value)?;
        Some(VnetHeader {
            needs_checksum: true,
            gso: match (is_tcp, is_v4) {
                (true, true) => Gso::Tcp4,
                (true, false) => Gso::Tcp6,
                (false, _) => Gso::Udp,
            },
            header_len: headers as u16,
            gso_size: payload as u16,
            csum_start: transport as u16,
            csum_offset,
        })
    }
}

fn write_one(domain: usize, arena: &[u8], range: Range<usize>, sink: &mut impl Sink) {
    let packet = arena.get(range).unwrap_or_default();
    sink.write(domain, &[IoSlice::new(&[0; LEN]), IoSlice::new(packet)], 1);
}

fn checksum_is_right(packet: &[u8], shape: Shape) -> bool {
    let transport = packet.get(shape.transport..).unwrap_or_default();
    let protocol = if shape.is_tcp { TCP } else { UDP };
    pseudo(packet, protocol, transport.len()).is_some_and(|p| fold(p + sum(transport)) == 0xffff)
}

fn pushes(packet: &[u8], shape: Shape) -> bool {
    shape.is_tcp
        && packet
            .get(shape.transport + 13)
            .is_some_and(|flags| flags & PSH != 0)
}

fn sequence(packet: &[u8], shape: Shape) -> u32 {
    let at = shape.transport + 4;
    packet
        .get(at..at + 4)
        .and_then(|s| s.first_chunk::<4>())
        .map_or(0, |s| u32::from_be_bytes(*s))
}

fn word(octets: &[u8], at: usize) -> Option<u16> {
    octets
        .get(at..at + 2)?
        .first_chunk::<2>()
        .map(|w| u16::from_be_bytes(*w))
}

fn put(octets: &mut [u8], at: usize, value: u16) -> Option<()> {
    octets.get_mut(at..at + 2)?.copy_from_slice(&value.to_be_bytes());
    Some(())
}

#[cfg(test)]
#[path = "burst_tests.rs"]
mod tests;
