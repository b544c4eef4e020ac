//! Ethernet, IP and UDP headers around ESP packets, in both directions.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ip::checksum;

use crate::message::Encap;

/// Octets of the longest header: Ethernet, IPv6, UDP.
pub(crate) const HEAD: usize = ETHERNET + IPV6 + UDP_HEADER;
pub(crate) const ETHERNET: usize = 14;
const IPV4: usize = 20;
const IPV6: usize = 40;
const UDP_HEADER: usize = 8;
const UDP: u8 = 17;
const ESP: u8 = 50;
const TTL: u8 = 64;
/// RFC 8200 section 5.
const IPV6_MIN_MTU: usize = 1280;

/// The outer header of packets to one peer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Around {
    /// Ours; the port counts with UDP only.
    pub(crate) from: SocketAddr,
    /// The peer.
    pub(crate) to: SocketAddr,
    pub(crate) encap: Encap,
    /// Type of service or traffic class.
    pub(crate) tos: u8,
    /// The DF bit over IPv4; over IPv6 without it packets leave in fragments of at most 1280 octets.
    pub(crate) dont_fragment: bool,
}

impl Around {
    /// Octets of the largest IP packet that may go in one piece where the link takes `mtu`.
    pub(crate) fn in_one_piece(&self, mtu: usize) -> usize {
        if self.to.is_ipv6() && !self.dont_fragment {
            mtu.min(IPV6_MIN_MTU)
        } else {
            mtu
        }
    }

    /// Octets of IP and UDP header.
    pub(crate) fn overhead(&self) -> usize {
        let udp = if self.encap == Encap::Udp { UDP_HEADER } else { 0 };
        udp + if self.to.is_ipv4() { IPV4 } else { IPV6 }
    }
}

/// Headers that are ready.
pub(crate) struct Head {
    octets: [u8; HEAD],
    len: usize,
}

impl Head {
    pub(crate) fn octets(&self) -> &[u8] {
        self.octets.get(..self.len).unwrap_or_default()
    }

    fn push<const N: usize>(&mut self, part: [u8; N]) {
        if let Some(room) = self.octets.get_mut(self.len..self.len + N) {
            room.copy_from_slice(&part);
            self.len += N;
        }
    }

    fn set(&mut self, at: usize, value: u16) {
        if let Some(room) = self.octets.get_mut(at..at + 2) {
            room.copy_from_slice(&value.to_be_bytes());
        }
    }
}

/// The header of a packet; `None` if the addresses are of different families or the packet is too long for IP.
/// `identification` is to differ between the packets of a pair of addresses: routers may fragment them.
///
/// The UDP checksum is that of a socket. RFC 3948 section 2.1 would rather have zero over IPv4, but a NAT64 may drop such
/// packets (RFC 7915 section 4.5), and mobile networks have those.
pub(crate) fn head(ethernet: &[u8; 12], outer: &Around, identification: u16, payload: &[u8]) -> Option<Head> {
    let is_udp = outer.encap == Encap::Udp;
    let protocol = if is_udp { UDP } else { ESP };
    let transport = u16::try_from(payload.len() + if is_udp { UDP_HEADER } else { 0 }).ok()?;
    let mut head = Head {
        octets: [0; HEAD],
        len: 0,
    };
    head.push(*ethernet);
    match (outer.from.ip(), outer.to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let total = transport.checked_add(IPV4 as u16)?;
            head.push([0x08, 0x00, 0x45, outer.tos]);
            head.push(total.to_be_bytes());
            head.push(identification.to_be_bytes());
            let flags = if outer.dont_fragment { 0x40 } else { 0 };
            head.push([flags, 0, TTL, protocol, 0, 0]);
            head.push(from.octets());
            head.push(to.octets());
            let sum = checksum::checksum(head.octets().get(ETHERNET..)?);
            head.set(ETHERNET + 10, sum);
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let [class_high, class_low] = [outer.tos >> 4, outer.tos << 4];
            let [_, l1, l2, l3] = flow_label(outer).to_be_bytes();
            head.push([0x86, 0xdd, 0x60 | class_high, class_low | l1, l2, l3]);
            head.push(transport.to_be_bytes());
            head.push([protocol, TTL]);
            head.push(from.octets());
            head.push(to.octets());
        }
        _ => return None,
    }
    if is_udp {
        let at = head.len;
        head.push(outer.from.port().to_be_bytes());
        head.push(outer.to.port().to_be_bytes());
        head.push(transport.to_be_bytes());
        head.push([0; 2]);
        let pseudo = checksum::pseudo_header(outer.from.ip(), outer.to.ip(), UDP, transport.into());
        let own = checksum::sum(head.octets().get(at..)?);
        // Zero would say that there is none (RFC 768).
        let sum = match !checksum::fold(pseudo + own + checksum::sum(payload)) {
            0 => 0xffff,
            sum => sum,
        };
        head.set(at + 6, sum);
    }
    Some(head)
}

/// The same for all packets of a flow, and not zero (RFC 6437 section 3).
fn flow_label(outer: &Around) -> u32 {
    let ports = u32::from(outer.from.port()) << 16 | u32::from(outer.to.port());
    let addresses = checksum::pseudo_header(outer.from.ip(), outer.to.ip(), 0, 0);
    let mixed = (addresses ^ u64::from(ports) << 20).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 44) as u32 | 1
}

/// Where the ESP packet lies in a frame, and what is around it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Parsed {
    /// Where it begins.
    pub(crate) at: usize,
    /// Its octets.
    pub(crate) len: usize,
    pub(crate) from: SocketAddr,
    pub(crate) to: IpAddr,
    pub(crate) encap: Encap,
    pub(crate) tos: u8,
    udp: Option<Udp>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Udp {
    /// Sum of the pseudo header.
    pseudo: u64,
    /// Sum of the UDP header.
    own: u64,
    checksum: u16,
}

/// Reads the header of a frame of `len` octets that begins with `head` (as much of it as there is, up to [`HEAD`]). `None`
/// for what the program would not have let through, and for a wrong IPv4 header checksum.
pub(crate) fn parse(head: &[u8], len: usize) -> Option<Parsed> {
    let word = |at: usize| Some(u16::from_be_bytes(*head.get(at..)?.first_chunk::<2>()?));
    let octet = |at: usize| head.get(at).copied();
    let version = octet(ETHERNET)? >> 4;
    let (end, transport, protocol, from, to, tos) = match version {
        4 => {
            let header = head.get(ETHERNET..ETHERNET + IPV4)?;
            if octet(ETHERNET)? != 0x45 || checksum::checksum(header) != 0 {
                return None;
            }
            let v4 = |at| Some(IpAddr::from(Ipv4Addr::from(*head.get(at..)?.first_chunk::<4>()?)));
            let total = usize::from(word(ETHERNET + 2)?);
            let (from, to) = (v4(ETHERNET + 12)?, v4(ETHERNET + 16)?);
            let protocol = octet(ETHERNET + 9)?;
            (total, ETHERNET + IPV4, protocol, from, to, octet(ETHERNET + 1)?)
        }
        6 => {
            let v6 = |at| {
                Some(IpAddr::from(Ipv6Addr::from(
                    *head.get(at..)?.first_chunk::<16>()?,
                )))
            };
            let total = IPV6 + usize::from(word(ETHERNET + 4)?);
            let (from, to) = (v6(ETHERNET + 8)?, v6(ETHERNET + 24)?);
            let tos = (word(ETHERNET)? >> 4) as u8;
            (total, ETHERNET + IPV6, octet(ETHERNET + 6)?, from, to, tos)
        }
        _ => return None,
    };
    // Behind it there may be what the wire pads short frames with.
    let end = ETHERNET + end;
    let length = end.checked_sub(transport).filter(|_| end <= len)?;
    let (header, encap, port, udp) = match protocol {
        UDP => {
            let own = head.get(transport..transport + UDP_HEADER)?;
            if usize::from(word(transport + 4)?) != length {
                return None;
            }
            let udp = Udp {
                pseudo: checksum::pseudo_header(from, to, UDP, u32::try_from(length).ok()?),
                own: checksum::sum(own),
                checksum: word(transport + 6)?,
            };
            (UDP_HEADER, Encap::Udp, word(transport)?, Some(udp))
        }
        ESP => (0, Encap::Raw, 0, None),
        _ => return None,
    };
    Some(Parsed {
        at: transport + header,
        len: length.checked_sub(header)?,
        from: SocketAddr::new(from, port),
        to,
        encap,
        tos,
        udp,
    })
}

impl Parsed {
    /// Whether the UDP checksum fits the payload, if there is one.
    ///
    /// A sender on this machine leaves the checksum to a device that never comes (on a veth pair): then the field holds the
    /// sum of the pseudo header, not complemented, and nothing is wrong.
    pub(crate) fn is_sound(&self, payload: &[u8]) -> bool {
        let Some(udp) = self.udp else { return true };
        //= rfc3948#section-2.1
        //# receivers MUST NOT depend on the UDP checksum being a zero value.
        if udp.checksum == 0 {
            // Over IPv6 zero is no checksum (RFC 8200 section 8.1).
            return self.to.is_ipv4();
        }
        checksum::fold(udp.pseudo + udp.own + checksum::sum(payload)) == 0xffff
            || checksum::fold(udp.pseudo) == udp.checksum
    }
}

#[cfg(test)]
#[path = "frame_tests.rs"]
mod tests;
