//! Cutting a burst read from a TUN device (up to 64 KiB with one set of headers) into packets, with lengths, identifiers,
//! sequence numbers and checksums put right; what a network card does for TSO.

use std::ops::Range;

use crate::vnet::{Gso, VnetHeader, copy_and_sum, fold, sum};

const TCP: u8 = 6;
const UDP: u8 = 17;
const FIN_PSH: u8 = 0x01 | 0x08;
const CWR: u8 = 0x80;

/// Why a burst cannot be cut.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SegmentError {
    /// Shorter than its headers say, or headers that contradict each other.
    #[error("malformed burst")]
    Malformed,
    /// A kind of burst that was never asked for.
    #[error("unsupported kind of burst")]
    Unsupported,
}

/// A packet or burst with its header understood.
#[derive(Clone, Copy, Debug)]
pub struct Burst<'a> {
    packet: &'a [u8],
    kind: Kind,
    /// Octets before the payload of the burst.
    headers: usize,
    /// Where the transport header begins.
    transport: usize,
    /// Where the transport checksum is.
    checksum: usize,
    size: usize,
    /// Sums of what the headers of all packets have in common: of the IPv4 header without length, identifier and checksum,
    network_sum: u64,
    /// and of the pseudo header and the transport header without length, sequence number, flags and checksum.
    transport_sum: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Whole { needs_checksum: bool },
    Tcp,
    Udp,
}

impl<'a> Burst<'a> {
    /// Understands a packet and the header in front of it.
    pub fn new(header: &VnetHeader, packet: &'a [u8]) -> Result<Self, SegmentError> {
        let transport = usize::from(header.csum_start);
        let checksum = transport + usize::from(header.csum_offset);
        let kind = match header.gso {
            Gso::None => Kind::Whole {
                needs_checksum: header.needs_checksum,
            },
            Gso::Tcp4 | Gso::Tcp6 => Kind::Tcp,
            Gso::Udp => Kind::Udp,
            Gso::Other(_) => return Err(SegmentError::Unsupported),
        };
        let mut burst = Self {
            packet,
            kind,
            headers: 0,
            transport,
            checksum,
            size: packet.len(),
            network_sum: 0,
            transport_sum: 0,
        };
        match kind {
            Kind::Whole { needs_checksum } => {
                if needs_checksum && checksum + 2 > packet.len() {
                    return Err(SegmentError::Malformed);
                }
            }
            Kind::Tcp => {
                burst.checksum = transport + 16;
                let offset = packet.get(transport + 12).ok_or(SegmentError::Malformed)?;
                burst.set_headers(usize::from(offset >> 4) * 4, 20, header)?;
            }
            Kind::Udp => {
                burst.checksum = transport + 6;
                burst.set_headers(8, 8, header)?;
            }
        }
        Ok(burst)
    }

    fn set_headers(
        &mut self,
        transport_len: usize,
        least: usize,
        header: &VnetHeader,
    ) -> Result<(), SegmentError> {
        self.headers = self.transport + transport_len;
        self.size = usize::from(header.gso_size);
        let network = match (self.packet.first().map(|b| b >> 4), header.gso) {
            (Some(4), Gso::Tcp4 | Gso::Udp) => 20,
            (Some(6), Gso::Tcp6 | Gso::Udp) => 40,
            _ => return Err(SegmentError::Malformed),
        };
        let sane = transport_len >= least
            && self.transport >= network
            && self.headers < self.packet.len()
            && self.size > 0
            && header.needs_checksum;
        if sane {
            self.set_sums().ok_or(SegmentError::Malformed)
        } else {
            Err(SegmentError::Malformed)
        }
    }

    fn set_sums(&mut self) -> Option<()> {
        let parts = |of: &[u8], ranges: &[Range<usize>]| {
            let mut ranges = ranges.iter();
            ranges.try_fold(0, |total, range| Some(total + sum(of.get(range.clone())?)))
        };
        let first = *self.packet.first()?;
        if first >> 4 == 4 {
            let header_len = usize::from(first & 15) * 4;
            self.network_sum = parts(self.packet, &[0..2, 6..10, 12..header_len.max(12)])?;
        }
        let transport = self.packet.get(self.transport..self.headers)?;
        let (protocol, ranges) = if self.kind == Kind::Tcp {
            (TCP, &[0..4, 8..12, 14..16, 18..transport.len()][..])
        } else {
            // The ports.
            (UDP, &[0..2, 2..4][..])
        };
        self.transport_sum = pseudo(self.packet, protocol, 0)? + parts(transport, ranges)?;
        Some(())
    }

    /// How many packets it makes.
    pub fn count(&self) -> usize {
        match self.kind {
            Kind::Whole { .. } => 1,
            Kind::Tcp | Kind::Udp => (self.packet.len() - self.headers).div_ceil(self.size),
        }
    }

    /// Octets of packet `index`, headers and all; 0 if there is no such packet.
    pub fn len_of(&self, index: usize) -> usize {
        match self.kind {
            Kind::Whole { .. } => self.packet.len(),
            Kind::Tcp | Kind::Udp => {
                let payload = (self.packet.len() - self.headers)
                    .saturating_sub(index * self.size)
                    .min(self.size);
                if payload == 0 { 0 } else { self.headers + payload }
            }
        }
    }

    /// Writes packet `index` to `out`, which has exactly [`Burst::len_of`] octets.
    pub fn write(&self, index: usize, out: &mut [u8]) -> Result<(), SegmentError> {
        if let Kind::Whole { needs_checksum } = self.kind {
            let out = out.get_mut(..self.packet.len()).ok_or(SegmentError::Malformed)?;
            if !needs_checksum {
                out.copy_from_slice(self.packet);
                return Ok(());
            }
            let (head, covered) = self
                .packet
                .split_at_checked(self.transport)
                .ok_or(SegmentError::Malformed)?;
            let (out_head, out_covered) = out
                .split_at_mut_checked(self.transport)
                .ok_or(SegmentError::Malformed)?;
            out_head.copy_from_slice(head);
            let value = !fold(copy_and_sum(covered, out_covered));
            // RFC 768: a computed checksum of zero is sent as all ones. Of the two, its field alone is the seventh octet.
            let is_none = value == 0 && self.checksum.checked_sub(self.transport) == Some(6);
            return put(out, self.checksum, if is_none { 0xffff } else { value });
        }
        let start = self.headers + index * self.size;
        let payload = self.packet.get(start..).map(|p| p.get(..self.size).unwrap_or(p));
        let payload = payload.ok_or(SegmentError::Malformed)?;
        let (head, body) = out
            .split_at_mut_checked(self.headers)
            .ok_or(SegmentError::Malformed)?;
        head.copy_from_slice(self.packet.get(..self.headers).ok_or(SegmentError::Malformed)?);
        if body.len() < payload.len() {
            return Err(SegmentError::Malformed);
        }
        let payload_sum = copy_and_sum(payload, body);
        let is_last = start + payload.len() == self.packet.len();
        self.fix_network(index, payload.len(), head)?;
        self.fix_transport(index, is_last, payload.len(), payload_sum, head)
    }

    fn fix_network(&self, index: usize, payload: usize, head: &mut [u8]) -> Result<(), SegmentError> {
        let total = self.headers + payload;
        if head.first().is_some_and(|b| b >> 4 == 4) {
            let id = get(head, 4)?.wrapping_add(index as u16);
            let total = u16::try_from(total).map_err(|_| SegmentError::Malformed)?;
            put(head, 2, total)?;
            put(head, 4, id)?;
            let value = !fold(self.network_sum + u64::from(total) + u64::from(id));
            put(head, 10, value)
        } else {
            let len = u16::try_from(total - 40).map_err(|_| SegmentError::Malformed)?;
            put(head, 4, len)
        }
    }

    /// `payload_sum` is the sum of the payload's `payload` octets.
    fn fix_transport(
        &self,
        index: usize,
        is_last: bool,
        payload: usize,
        payload_sum: u64,
        head: &mut [u8],
    ) -> Result<(), SegmentError> {
        let transport = head.get_mut(self.transport..).ok_or(SegmentError::Malformed)?;
        let len = transport.len() + payload;
        // The length in the pseudo header.
        let mut total = self.transport_sum + payload_sum + len as u64;
        if self.kind == Kind::Tcp {
            let sequence = transport.get_mut(4..8).and_then(|s| s.first_chunk_mut::<4>());
            let sequence = sequence.ok_or(SegmentError::Malformed)?;
            let advanced = u32::from_be_bytes(*sequence).wrapping_add((index * self.size) as u32);
            *sequence = advanced.to_be_bytes();
            let flags = transport.get_mut(13).ok_or(SegmentError::Malformed)?;
            if !is_last {
                *flags &= !FIN_PSH;
            }
            if index > 0 {
                *flags &= !CWR;
            }
            total += u64::from(advanced) + u64::from(get(transport, 12)?);
        } else {
            put(transport, 4, len as u16)?;
            total += len as u64;
        }
        let value = !fold(total);
        let is_none = value == 0 && self.kind == Kind::Udp;
        put(head, self.checksum, if is_none { 0xffff } else { value })
    }
}

/// The sum of the pseudo header of a packet, for a transport header and payload of `len` octets.
pub(crate) fn pseudo(packet: &[u8], protocol: u8, len: usize) -> Option<u64> {
    let addresses = if packet.first()? >> 4 == 4 {
        packet.get(12..20)?
    } else {
        packet.get(8..40)?
    };
    Some(sum(addresses) + u64::from(protocol) + len as u64)
}

fn get(octets: &[u8], at: usize) -> Result<u16, SegmentError> {
    let pair = octets.get(at..at + 2).and_then(|p| p.first_chunk::<2>());
    pair.map(|p| u16::from_be_bytes(*p))
        .ok_or(SegmentError::Malformed)
}

fn put(octets: &mut [u8], at: usize, value: u16) -> Result<(), SegmentError> {
    let pair = octets.get_mut(at..at + 2).ok_or(SegmentError::Malformed)?;
    pair.copy_from_slice(&value.to_be_bytes());
    Ok(())
}
