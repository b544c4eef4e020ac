//! Cutting a burst read from a TUN device (up to 64 KiB with one set of headers) into packets, with lengths, identifiers,
//! sequence numbers and checksums put right; what a network card does for TSO.

use crate::vnet::{Gso, VnetHeader, fold, sum};

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
            Ok(())
        } else {
            Err(SegmentError::Malformed)
        }
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
            out.get_mut(..self.packet.len())
                .ok_or(SegmentError::Malformed)?
                .copy_from_slice(self.packet);
            if needs_checksum {
                let covered = out.get(self.transport..).ok_or(SegmentError::Malformed)?;
                let value = !fold(sum(covered));
                // RFC 768: a computed checksum of zero is sent as all ones; for TCP both mean the same.
                put(out, self.checksum, if value == 0 { 0xffff } else { value })?;
            }
            return Ok(());
        }
        let start = self.headers + index * self.size;
        let payload = self.packet.get(start..).map(|p| p.get(..self.size).unwrap_or(p));
        let payload = payload.ok_or(SegmentError::Malformed)?;
        let (head, body) = out
            .split_at_mut_checked(self.headers)
            .ok_or(SegmentError::Malformed)?;
        head.copy_from_slice(self.packet.get(..self.headers).ok_or(SegmentError::Malformed)?);
        body.get_mut(..payload.len())
            .ok_or(SegmentError::Malformed)?
            .copy_from_slice(payload);
        let is_last = start + payload.len() == self.packet.len();
        self.fix_network(index, payload.len(), out)?;
        self.fix_transport(index, is_last, payload.len(), out)
    }

    fn fix_network(&self, index: usize, payload: usize, out: &mut [u8]) -> Result<(), SegmentError> {
        let total = self.headers + payload;
        if out.first().is_some_and(|b| b >> 4 == 4) {
            let id = get(out, 4)?.wrapping_add(index as u16);
            put(out, 2, u16::try_from(total).map_err(|_| SegmentError::Malformed)?)?;
            put(out, 4, id)?;
            put(out, 10, 0)?;
            let header_len = usize::from(out.first().map_or(0, |b| b & 15)) * 4;
            let value = !fold(sum(out.get(..header_len).ok_or(SegmentError::Malformed)?));
            put(out, 10, value)
        } else {
            put(
                out,
                4,
                u16::try_from(total - 40).map_err(|_| SegmentError::Malformed)?,
            )
        }
    }

    fn fix_transport(
        &self,
        index: usize,
        is_last: bool,
        payload: usize,
        out: &mut [u8],
    ) -> Result<(), SegmentError> {
        let transport = out.get_mut(self.transport..).ok_or(SegmentError::Malformed)?;
        let len = self.headers - self.transport + payload;
        let protocol = if self.kind == Kind::Tcp {
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
            TCP
        } else {
            put(transport, 4, len as u16)?;
            UDP
        };
        put(out, self.checksum, 0)?;
        let total = pseudo(out, protocol, len).ok_or(SegmentError::Malformed)?
            + sum(out.get(self.transport..).ok_or(SegmentError::Malformed)?);
        let value = !fold(total);
        put(
            out,
            self.checksum,
            if value == 0 && protocol == UDP {
                0xffff
            } else {
                value
            },
        )
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
