//! What a gateway must know of an inner packet: checked once by [`summarize`], afterwards plain fields.
//!
//! IPv6 extension headers are skipped as RFC 4301 section 4.4.1.1 lists them (hop-by-hop, routing, fragment, destination
//! options), at most [`MAX_EXTENSIONS`]; AH and ESP are next-layer protocols to a selector.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::{Selector, Usual, checksum, protocol};

/// Most IPv6 extension headers that are walked; a longer chain is an error.
pub const MAX_EXTENSIONS: usize = 8;

/// Octets of an IPv4 header without options.
pub const IPV4_HEADER: usize = 20;
/// Octets of the fixed IPv6 header.
pub const IPV6_HEADER: usize = 40;

/// Which part of a fragmented packet this is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fragment {
    /// A whole packet.
    No,
    /// The fragment at offset 0: ports are readable.
    First,
    /// A fragment at another offset: no ports.
    Later,
}

/// The facts of one inner packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Summary {
    /// 4 or 6.
    pub version: u8,
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// Next-layer protocol behind the extension headers.
    pub protocol: u8,
    /// Source and destination port of TCP, UDP, SCTP. For ICMP and ICMPv6 `type << 8 | code`, for a mobility header
    /// `type << 8`, in both. None where the packet shows none.
    pub ports: Option<(u16, u16)>,
    /// Fragmentation.
    pub fragment: Fragment,
    /// Octets up to the next-layer header, extension headers included.
    pub header_len: usize,
    /// Octets of the whole packet as its header says; never more than were given, maybe fewer (padding follows).
    pub total_len: usize,
    /// DSCP (upper six bits) and ECN (lower two).
    pub traffic_class: u8,
    /// Whether routers may not fragment it: DF of IPv4, always of IPv6.
    pub dont_fragment: bool,
    /// TTL or hop limit.
    pub hop_limit: u8,
}

/// Why octets are not an IP packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PacketError {
    /// No octets at all, or a version other than 4 and 6.
    #[error("not an IP version")]
    Version,
    /// Ends within a header.
    #[error("truncated header")]
    Truncated,
    /// An IPv4 header length below 20 octets, or above the total length.
    #[error("header length out of range")]
    HeaderLength,
    /// The length field exceeds the octets that there are.
    #[error("length field exceeds the packet")]
    Length,
    /// More extension headers than [`MAX_EXTENSIONS`].
    #[error("too many extension headers")]
    Extensions,
}

impl Summary {
    /// The port at the source end, if known.
    #[must_use]
    #[inline]
    pub fn src_port(&self) -> Option<u16> {
        self.ports.map(|p| p.0)
    }

    /// The port at the destination end, if known.
    #[must_use]
    #[inline]
    pub fn dst_port(&self) -> Option<u16> {
        self.ports.map(|p| p.1)
    }

    /// Whether the packet belongs to an SA: its source to one of `from`, its destination to one of `to`.
    #[must_use]
    #[inline]
    pub fn belongs(&self, from: &[Selector], to: &[Selector]) -> bool {
        from.iter()
            .any(|s| s.matches(self.src, self.protocol, self.src_port()))
            && to
                .iter()
                .any(|s| s.matches(self.dst, self.protocol, self.dst_port()))
    }

    /// ECN codepoint, 0..=3.
    #[must_use]
    pub fn ecn(&self) -> u8 {
        self.traffic_class & 3
    }
}

#[inline(always)]
fn be16(packet: &[u8], at: usize) -> Option<u16> {
    packet
        .get(at..at.checked_add(2)?)
        .and_then(|b| b.try_into().ok())
        .map(u16::from_be_bytes)
}

#[inline(always)]
fn be32(packet: &[u8], at: usize) -> Option<u32> {
    packet
        .get(at..)
        .and_then(<[u8]>::first_chunk)
        .map(|word| u32::from_be_bytes(*word))
}

/// Checks the headers of an inner packet and says what it is.
///
/// # Errors
/// When the octets are not a whole IPv4 or IPv6 packet. Octets beyond the packet's own length are allowed.
#[inline]
pub fn summarize(packet: &[u8]) -> Result<Summary, PacketError> {
    match packet.first().map(|b| b >> 4) {
        Some(4) => summarize_v4::<true>(packet),
        Some(6) => summarize_v6::<true>(packet),
        _ => Err(PacketError::Version),
    }
}

/// As [`summarize`] for the beginning of a packet, as an ICMP error quotes it: what [`Summary::total_len`] counts may be
/// missing.
///
/// # Errors
/// When the octets end within the headers, or are not those of an IP packet.
pub fn summarize_quoted(start: &[u8]) -> Result<Summary, PacketError> {
    match start.first().map(|b| b >> 4) {
        Some(4) => summarize_v4::<false>(start),
        Some(6) => summarize_v6::<false>(start),
        _ => Err(PacketError::Version),
    }
}

/// [`summarize`] and [`Summary::belongs`] in one: what each received packet is asked. `usual` is that of the same
/// selectors, or none.
///
/// # Errors
/// As [`summarize`].
#[inline(always)]
pub fn summarize_among(
    packet: &[u8],
    usual: Option<&Usual>,
    from: &[Selector],
    to: &[Selector],
) -> Result<(Summary, bool), PacketError> {
    match packet.first().map(|b| b >> 4) {
        Some(4) => {
            let summary = summarize_v4::<true>(packet)?;
            let (Some(src), Some(dst)) = (be32(packet, 12), be32(packet, 16)) else {
                return Err(PacketError::Truncated);
            };
            let belongs = usual.is_some_and(|usual| usual.takes(src, dst))
                || (from
                    .iter()
                    .any(|s| s.matches_v4(src, summary.protocol, || summary.src_port()))
                    && to
                        .iter()
                        .any(|s| s.matches_v4(dst, summary.protocol, || summary.dst_port())));
            Ok((summary, belongs))
        }
        Some(6) => {
            let summary = summarize_v6::<true>(packet)?;
            Ok((summary, summary.belongs(from, to)))
        }
        _ => Err(PacketError::Version),
    }
}

#[inline(always)]
fn summarize_v4<const WHOLE: bool>(packet: &[u8]) -> Result<Summary, PacketError> {
    let header: &[u8; IPV4_HEADER] = packet.first_chunk().ok_or(PacketError::Truncated)?;
    // By words: addresses that were put together octet by octet would be slow to read again as a whole.
    let (words, _) = header.as_chunks::<4>();
    let [
        [vihl, tos, l0, l1],
        [_, _, f0, f1],
        [ttl, protocol, _, _],
        src,
        dst,
    ] = *words
    else {
        return Err(PacketError::Truncated);
    };
    let header_len = usize::from(vihl & 0x0f) * 4;
    let total_len = usize::from(u16::from_be_bytes([l0, l1]));
    if header_len < IPV4_HEADER || header_len > total_len {
        return Err(PacketError::HeaderLength);
    }
    if WHOLE && total_len > packet.len() {
        return Err(PacketError::Length);
    }
    let flags = u16::from_be_bytes([f0, f1]);
    let fragment = match (flags & 0x1fff, flags & 0x2000) {
        (0, 0) => Fragment::No,
        (0, _) => Fragment::First,
        _ => Fragment::Later,
    };
    Ok(Summary {
        version: 4,
        src: IpAddr::V4(Ipv4Addr::from(src)),
        dst: IpAddr::V4(Ipv4Addr::from(dst)),
        protocol,
        ports: ports(
            packet,
            header_len,
            total_len.min(packet.len()),
            protocol,
            fragment,
        ),
        fragment,
        header_len,
        total_len,
        traffic_class: tos,
        dont_fragment: flags & 0x4000 != 0,
        hop_limit: ttl,
    })
}

fn summarize_v6<const WHOLE: bool>(packet: &[u8]) -> Result<Summary, PacketError> {
    let header: &[u8; IPV6_HEADER] = packet.first_chunk().ok_or(PacketError::Truncated)?;
    let [v, c, _, _, l0, l1, next, hop_limit, addresses @ ..] = *header;
    let total_len = IPV6_HEADER + usize::from(u16::from_be_bytes([l0, l1]));
    if WHOLE && total_len > packet.len() {
        return Err(PacketError::Length);
    }
    let end = total_len.min(packet.len());
    let (addresses, _) = addresses.as_chunks::<16>();
    let [src, dst] = *addresses else {
        return Err(PacketError::Truncated);
    };
    let chain = walk_extensions(packet, end, next)?;
    Ok(Summary {
        version: 6,
        src: IpAddr::V6(Ipv6Addr::from(src)),
        dst: IpAddr::V6(Ipv6Addr::from(dst)),
        protocol: chain.protocol,
        ports: ports(packet, chain.offset, end, chain.protocol, chain.fragment),
        fragment: chain.fragment,
        header_len: chain.offset,
        total_len,
        traffic_class: (v << 4) | (c >> 4),
        dont_fragment: true,
        hop_limit,
    })
}

struct Chain {
    protocol: u8,
    offset: usize,
    fragment: Fragment,
}

fn walk_extensions(packet: &[u8], total_len: usize, first: u8) -> Result<Chain, PacketError> {
    let body = packet.get(..total_len).ok_or(PacketError::Length)?;
    let mut chain = Chain {
        protocol: first,
        offset: IPV6_HEADER,
        fragment: Fragment::No,
    };
    for _ in 0..=MAX_EXTENSIONS {
        let is_fragment = chain.protocol == protocol::IPV6_FRAGMENT;
        if !is_fragment
            && ![protocol::ANY, protocol::IPV6_ROUTE, protocol::IPV6_OPTIONS].contains(&chain.protocol)
        {
            return Ok(chain);
        }
        let rest = body.get(chain.offset..).ok_or(PacketError::Truncated)?;
        let [next, len, offset_high, offset_low, ..] = *rest else {
            return Err(PacketError::Truncated);
        };
        let size = if is_fragment {
            8
        } else {
            (usize::from(len) + 1) * 8
        };
        if size > rest.len() {
            return Err(PacketError::Truncated);
        }
        chain.protocol = next;
        chain.offset += size;
        if is_fragment {
            let field = u16::from_be_bytes([offset_high, offset_low]);
            if field & 0xfff8 != 0 {
                // What follows is the middle of a packet and not a header.
                chain.fragment = Fragment::Later;
                return Ok(chain);
            }
            // Offset 0 and no more fragments is an atomic fragment: a whole packet (RFC 6946).
            if field & 1 != 0 {
                chain.fragment = Fragment::First;
            }
        }
    }
    Err(PacketError::Extensions)
}

#[inline(always)]
fn ports(packet: &[u8], at: usize, end: usize, protocol: u8, fragment: Fragment) -> Option<(u16, u16)> {
    if fragment == Fragment::Later {
        return None;
    }
    let body = packet.get(at..end)?;
    match protocol {
        protocol::TCP | protocol::UDP | protocol::SCTP => Some((be16(body, 0)?, be16(body, 2)?)),
        protocol::ICMP | protocol::ICMPV6 => be16(body, 0).map(|p| (p, p)),
        protocol::MOBILITY => body
            .get(2)
            .map(|kind| (u16::from(*kind) << 8, u16::from(*kind) << 8)),
        _ => None,
    }
}

/// Sets the ECN bits of an inner packet in place and keeps an IPv4 header checksum right. Octets that are no IP packet
/// stay as they are.
pub fn set_ecn(packet: &mut [u8], ecn: u8) {
    match packet {
        [first, tos, rest @ ..] if *first >> 4 == 4 => {
            let old = u16::from_be_bytes([*first, *tos]);
            *tos = (*tos & !3) | (ecn & 3);
            let new = u16::from_be_bytes([*first, *tos]);
            if let Some([a, b]) = rest.get_mut(8..10) {
                [*a, *b] = checksum::update(u16::from_be_bytes([*a, *b]), old, new).to_be_bytes();
            }
        }
        [first, second, ..] if *first >> 4 == 6 => *second = (*second & !0x30) | ((ecn & 3) << 4),
        _ => {}
    }
}

#[cfg(test)]
#[path = "packet_tests.rs"]
mod tests;
