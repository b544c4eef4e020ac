//! Fragments of IPv4 packets: cutting a packet into those that fit (RFC 791 section 3.2), and what of a fragment decides
//! whether it may be let through a check that looks at ports (RFC 1858, RFC 3128, RFC 8200).

use std::net::IpAddr;

use crate::packet::{self, Fragment, IPV4_HEADER, IPV6_HEADER, Summary};
use crate::{checksum, protocol};

/// Octets that the offset of a fragment counts in.
const UNIT: usize = 8;
const MORE: u16 = 0x2000;
const OFFSET: u16 = 0x1fff;
/// The bit of an option's type that says that every fragment has it.
const COPIED: u8 = 0x80;

/// An IPv4 packet, whole or itself a fragment, to be cut into pieces of at most so many octets.
#[derive(Clone, Copy, Debug)]
pub struct Cut<'a> {
    packet: &'a [u8],
    /// Octets of the first header, and of those after it, which lack the options that are not copied.
    headers: [usize; 2],
    /// Octets of payload in the first piece and in the further ones but the last: multiples of eight.
    payloads: [usize; 2],
}

impl<'a> Cut<'a> {
    /// Cuts a packet with pieces of at most `mtu` octets. `None` for what is not IPv4, has DF set, fits already, or cannot be
    /// cut that small.
    #[must_use]
    pub fn new(packet: &'a [u8], summary: &Summary, mtu: usize) -> Option<Self> {
        let packet = packet.get(..summary.total_len)?;
        if summary.version != 4 || summary.dont_fragment || packet.len() <= mtu {
            return None;
        }
        let headers = [
            summary.header_len,
            IPV4_HEADER
                + copied_options(packet, summary.header_len)
                    .count()
                    .next_multiple_of(4),
        ];
        let room = |header: usize| mtu.checked_sub(header).map(|room| room - room % UNIT);
        let [first, later] = headers;
        let payloads = [room(first)?, room(later)?];
        let highest = usize::from(field(packet)? & OFFSET) * UNIT + packet.len() - first;
        (payloads.iter().all(|octets| *octets > 0) && highest <= usize::from(u16::MAX)).then_some(Self {
            packet,
            headers,
            payloads,
        })
    }

    fn payload(&self) -> usize {
        self.packet.len() - self.headers[0]
    }

    /// How many pieces there are: at least two.
    #[must_use]
    pub fn count(&self) -> usize {
        let [first, later] = self.payloads;
        1 + self.payload().saturating_sub(first).div_ceil(later)
    }

    /// Where piece `index` begins in the payload, and its octets of header and payload.
    fn piece(&self, index: usize) -> (usize, usize, usize) {
        let ([first_header, later_header], [first, later]) = (self.headers, self.payloads);
        let (start, header, most) = match index.checked_sub(1) {
            None => (0, first_header, first),
            Some(further) => (first + further * later, later_header, later),
        };
        (start, header, self.payload().saturating_sub(start).min(most))
    }

    /// Octets of piece `index`, header and all; 0 if there is no such piece.
    #[must_use]
    pub fn len_of(&self, index: usize) -> usize {
        match self.piece(index) {
            (_, _, 0) => 0,
            (_, header, payload) => header + payload,
        }
    }

    /// Writes piece `index` to `out`, which has exactly [`Cut::len_of`] octets; `None` if it has not.
    pub fn write(&self, index: usize, out: &mut [u8]) -> Option<()> {
        let (start, header_len, len) = self.piece(index);
        if len == 0 || out.len() != header_len + len {
            return None;
        }
        let first = self.headers[0];
        let (header, body) = out.split_at_mut_checked(header_len)?;
        body.copy_from_slice(self.packet.get(first + start..first + start + len)?);
        if index == 0 {
            header.copy_from_slice(self.packet.get(..header_len)?);
        } else {
            let (fixed, options) = header.split_at_mut_checked(IPV4_HEADER)?;
            fixed.copy_from_slice(self.packet.get(..IPV4_HEADER)?);
            let mut copied = copied_options(self.packet, first);
            // Zero ends the list.
            options.fill_with(|| copied.next().unwrap_or(0));
            *fixed.first_mut()? = 0x40 | (header_len / 4) as u8;
        }
        let was = field(self.packet)?;
        let is_last = start + len == self.payload();
        let more = if is_last { was & MORE } else { MORE };
        let offset = (was & OFFSET) + (start / UNIT) as u16;
        header
            .get_mut(2..4)?
            .copy_from_slice(&((header_len + len) as u16).to_be_bytes());
        header
            .get_mut(6..8)?
            .copy_from_slice(&(more | offset).to_be_bytes());
        header.get_mut(10..12)?.fill(0);
        let value = checksum::checksum(header);
        header.get_mut(10..12)?.copy_from_slice(&value.to_be_bytes());
        Some(())
    }
}

/// Flags and offset of an IPv4 header.
fn field(packet: &[u8]) -> Option<u16> {
    packet.get(6..8)?.first_chunk().map(|f| u16::from_be_bytes(*f))
}

/// The octets of the options that belong into every fragment.
fn copied_options(packet: &[u8], header_len: usize) -> impl Iterator<Item = u8> + '_ {
    let mut rest = packet.get(IPV4_HEADER..header_len).unwrap_or_default();
    std::iter::from_fn(move || {
        loop {
            let (kind, len) = match *rest {
                [] | [0, ..] => return None,
                // No operation: alignment, which is lost with what it aligned.
                [1, ..] => (1, 1),
                [kind, len, ..] if len >= 2 => (kind, usize::from(len)),
                _ => return None,
            };
            let (option, behind) = rest.split_at_checked(len)?;
            rest = behind;
            if kind & COPIED != 0 {
                return Some(option);
            }
        }
    })
    .flatten()
    .copied()
}

/// What a fragment is of, and which octets of it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Piece {
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// IPv4: the protocol, which is part of what tells packets apart. IPv6: 0, for the next header of later fragments
    /// need not be that of the first (RFC 8200 section 4.5).
    pub protocol: u8,
    /// The identification.
    pub id: u32,
    /// Where in the packet's payload it begins, in octets.
    pub start: usize,
    /// Where it ends.
    pub end: usize,
    /// It is not the last.
    pub more: bool,
}

/// Reads the fields of a fragment; `None` for a whole packet and for octets that are none.
#[must_use]
pub fn piece(packet: &[u8], summary: &Summary) -> Option<Piece> {
    if summary.fragment == Fragment::No {
        return None;
    }
    let (id, units, more, body, protocol) = if summary.version == 4 {
        let id = packet
            .get(4..6)?
            .first_chunk()
            .map(|id| u16::from_be_bytes(*id))?;
        let field = field(packet)?;
        (
            id.into(),
            field & OFFSET,
            field & MORE != 0,
            summary.header_len,
            summary.protocol,
        )
    } else {
        let header = fragment_header(packet)?;
        let [_, _, o0, o1, id @ ..] = *packet.get(header..)?.first_chunk::<8>()?;
        let field = u16::from_be_bytes([o0, o1]);
        (u32::from_be_bytes(id), field >> 3, field & 1 != 0, header + 8, 0)
    };
    let start = usize::from(units) * UNIT;
    Some(Piece {
        src: summary.src,
        dst: summary.dst,
        protocol,
        id,
        start,
        end: start + summary.total_len.checked_sub(body)?,
        more,
    })
}

/// Where the fragment header of an IPv6 packet is.
fn fragment_header(packet: &[u8]) -> Option<usize> {
    let (mut next, mut at) = (*packet.get(6)?, IPV6_HEADER);
    for _ in 0..=packet::MAX_EXTENSIONS {
        match next {
            protocol::IPV6_FRAGMENT => return Some(at),
            protocol::ANY | protocol::IPV6_ROUTE | protocol::IPV6_OPTIONS => {}
            _ => return None,
        }
        let [following, len, ..] = *packet.get(at..)? else {
            return None;
        };
        (next, at) = (following, at + (usize::from(len) + 1) * UNIT);
    }
    None
}

/// Whether a fragment is one that no honest host makes, and that serves to slip past checks of ports and flags.
///
/// * A first fragment of TCP with fewer octets than flags and ports need, or one of UDP without its ports; the fragment of
///   TCP at offset 1, which overwrites flags (RFC 1858 section 3.2.2, RFC 3128).
/// * A first IPv6 fragment without its whole chain of headers: senders MUST NOT make one (RFC 8200 section 4.5).
/// * One in the middle that does not end on a multiple of eight, and one that ends beyond 65,535.
#[must_use]
pub fn is_malicious(piece: &Piece, summary: &Summary) -> bool {
    let (least, is_tcp) = match summary.protocol {
        protocol::TCP => (if summary.version == 4 { 16 } else { 20 }, true),
        protocol::UDP | protocol::ICMPV6 => (8, false),
        protocol::SCTP => (12, false),
        _ => (0, false),
    };
    let transport = summary.total_len.saturating_sub(summary.header_len);
    let is_tiny = summary.fragment == Fragment::First && transport < least;
    let is_behind_first = summary.version == 4 && is_tcp && piece.start == UNIT;
    let is_odd = piece.more && !(piece.end - piece.start).is_multiple_of(UNIT);
    is_tiny || is_behind_first || is_odd || piece.end > usize::from(u16::MAX) || piece.end == piece.start
}

#[cfg(test)]
#[path = "fragment_tests.rs"]
mod tests;
