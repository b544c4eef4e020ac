//! The packets that users send through their tunnels: echo requests with a stamp, built and checked octet by octet.
//! Performs no I/O.
//!
//! ```text
//!   IP ─ UDP or ICMP echo ─ stamp: magic 8 │ user 4 │ number 8 │ sent 8 ─ filling: the number's lowest octet
//! ```

use std::net::IpAddr;

use ip::{checksum, packet, protocol};

use crate::plan::Traffic;

const MAGIC: &[u8; 8] = b"vpnprobe";
/// Octets of a [`Stamp`] on the wire.
pub const STAMP: usize = 8 + 4 + 8 + 8;
/// Octets of the ICMP and of the UDP header.
const HEADER: usize = 8;
/// UDP port that requests come from.
const SOURCE_PORT: u16 = 40_007;

/// What answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Service {
    /// ICMP or ICMPv6 echo.
    Icmp,
    /// A UDP echo service at this port.
    Udp(u16),
}

impl Service {
    /// Octets of the smallest inner packet.
    #[must_use]
    pub fn least_size(self, target: IpAddr) -> usize {
        ip_header(target) + HEADER + STAMP
    }
}

/// What tells one request from all others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Stamp {
    /// Whose it is.
    pub user: u32,
    /// Which of that user's.
    pub number: u64,
    /// When it was sent, on a clock that the sender alone knows.
    pub sent_at: u64,
}

impl Stamp {
    /// Fills a payload of at least [`STAMP`] octets; a shorter one stays without a stamp.
    pub fn write(&self, payload: &mut [u8]) {
        payload.fill(self.number as u8);
        if let Some(stamp) = payload.first_chunk_mut::<STAMP>() {
            let octets = MAGIC
                .iter()
                .copied()
                .chain(self.user.to_be_bytes())
                .chain(self.number.to_be_bytes())
                .chain(self.sent_at.to_be_bytes());
            for (to, from) in stamp.iter_mut().zip(octets) {
                *to = from;
            }
        }
    }

    /// The stamp of a payload; None unless every octet is as [`Stamp::write`] leaves it.
    #[must_use]
    pub fn read(payload: &[u8]) -> Option<Self> {
        let (stamp, filling) = payload.split_first_chunk::<STAMP>()?;
        let (magic, rest) = stamp.split_first_chunk::<8>()?;
        let (user, rest) = rest.split_first_chunk::<4>()?;
        let (number, rest) = rest.split_first_chunk::<8>()?;
        let stamp = Self {
            user: u32::from_be_bytes(*user),
            number: u64::from_be_bytes(*number),
            sent_at: u64::from_be_bytes(rest.try_into().ok()?),
        };
        let whole = magic == MAGIC && filling.iter().all(|octet| *octet == stamp.number as u8);
        whole.then_some(stamp)
    }
}

fn ip_header(address: IpAddr) -> usize {
    match address {
        IpAddr::V4(_) => packet::IPV4_HEADER,
        IpAddr::V6(_) => packet::IPV6_HEADER,
    }
}

/// The stamp of an inner packet that is the answer to a request from `source`; None for anything else.
#[must_use]
pub fn read_answer(inner: &[u8], traffic: &Traffic, source: IpAddr) -> Option<Stamp> {
    let summary = packet::summarize(inner).ok()?;
    let segment = inner.get(summary.header_len..summary.total_len)?;
    if summary.src != traffic.target || summary.dst != source || inner.len() != traffic.size {
        return None;
    }
    let (first, _) = segment.split_first_chunk::<2>()?;
    let right = match (traffic.service, source) {
        (Service::Icmp, IpAddr::V4(_)) => {
            summary.protocol == protocol::ICMP && *first == [0, 0] && checksum::checksum(segment) == 0
        }
        (Service::Icmp, IpAddr::V6(_)) => {
            summary.protocol == protocol::ICMPV6
                && *first == [129, 0]
                && checksum::transport(summary.src, summary.dst, protocol::ICMPV6, segment) == 0
        }
        (Service::Udp(port), _) => {
            summary.protocol == protocol::UDP
                && summary.ports == Some((port, SOURCE_PORT))
                && checksum::transport(summary.src, summary.dst, protocol::UDP, segment) == 0
        }
    };
    Stamp::read(segment.get(HEADER..)?).filter(|_| right)
}

/// Fills `request` with an echo request; its length is that of the packet.
pub fn write_request(request: &mut [u8], traffic: &Traffic, source: IpAddr, stamp: Stamp) {
    let Stamp { user, number, .. } = stamp;
    let length = request.len();
    let next = match (traffic.service, source) {
        (Service::Icmp, IpAddr::V4(_)) => protocol::ICMP,
        (Service::Icmp, IpAddr::V6(_)) => protocol::ICMPV6,
        (Service::Udp(_), _) => protocol::UDP,
    };
    let Some((header, segment)) = request.split_at_mut_checked(ip_header(source)) else {
        return;
    };
    write_ip(header, length, next, source, traffic.target);
    let segment_len = segment.len();
    if let Some((head, rest)) = segment.split_first_chunk_mut::<HEADER>() {
        *head = match traffic.service {
            Service::Icmp => {
                let [u0, u1] = (user as u16).to_be_bytes();
                let [n0, n1] = (number as u16).to_be_bytes();
                let kind = if source.is_ipv4() { 8 } else { 128 };
                [kind, 0, 0, 0, u0, u1, n0, n1]
            }
            Service::Udp(port) => {
                let ([s0, s1], [d0, d1]) = (SOURCE_PORT.to_be_bytes(), port.to_be_bytes());
                let [l0, l1] = (segment_len as u16).to_be_bytes();
                [s0, s1, d0, d1, l0, l1, 0, 0]
            }
        };
        stamp.write(rest);
    }
    let sum = match (traffic.service, source) {
        (Service::Icmp, IpAddr::V4(_)) => checksum::checksum(segment),
        _ => checksum::transport(source, traffic.target, next, segment),
    };
    let at = if matches!(traffic.service, Service::Icmp) {
        2
    } else {
        6
    };
    // A UDP checksum of zero would mean "none"; its other form is all ones.
    let sum = if sum == 0 && next == protocol::UDP {
        0xffff
    } else {
        sum
    };
    if let Some(field) = segment.get_mut(at..at + 2) {
        field.copy_from_slice(&sum.to_be_bytes());
    }
}

fn write_ip(header: &mut [u8], length: usize, next: u8, source: IpAddr, target: IpAddr) {
    match (source, target) {
        (IpAddr::V4(source), IpAddr::V4(target)) => {
            let [l0, l1] = (length as u16).to_be_bytes();
            let start = [0x45, 0, l0, l1, 0, 0, 0x40, 0, 64, next, 0, 0];
            let octets = start.into_iter().chain(source.octets()).chain(target.octets());
            for (to, from) in header.iter_mut().zip(octets) {
                *to = from;
            }
            let [c0, c1] = checksum::checksum(header).to_be_bytes();
            if let Some([a, b]) = header.get_mut(10..12) {
                (*a, *b) = (c0, c1);
            }
        }
        (IpAddr::V6(source), IpAddr::V6(target)) => {
            let [l0, l1] = ((length - packet::IPV6_HEADER) as u16).to_be_bytes();
            let start = [0x60, 0, 0, 0, l0, l1, next, 64];
            let octets = start.into_iter().chain(source.octets()).chain(target.octets());
            for (to, from) in header.iter_mut().zip(octets) {
                *to = from;
            }
        }
        _ => {}
    }
}

/// What a host at the target would answer to `request`; for tests.
#[must_use]
pub fn echo(request: &[u8]) -> Option<Vec<u8>> {
    let summary = packet::summarize(request).ok()?;
    let mut answer = request.to_vec();
    let (header, segment) = answer.split_at_mut_checked(summary.header_len)?;
    let len = header.len() + segment.len();
    write_ip(header, len, summary.protocol, summary.dst, summary.src);
    let sum_at = match (summary.protocol, summary.ports?) {
        (protocol::ICMP, (0x0800, _)) | (protocol::ICMPV6, (0x8000, _)) => {
            *segment.first_mut()? = if summary.version == 4 { 0 } else { 129 };
            2
        }
        (protocol::UDP, (source, target)) => {
            let ([s0, s1], [t0, t1]) = (source.to_be_bytes(), target.to_be_bytes());
            *segment.first_chunk_mut::<4>()? = [t0, t1, s0, s1];
            6
        }
        _ => return None,
    };
    segment.get_mut(sum_at..sum_at + 2)?.fill(0);
    let sum = if summary.protocol == protocol::ICMP {
        checksum::checksum(segment)
    } else {
        checksum::transport(summary.dst, summary.src, summary.protocol, segment)
    };
    segment
        .get_mut(sum_at..sum_at + 2)?
        .copy_from_slice(&sum.to_be_bytes());
    Some(answer)
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_survives_and_every_changed_octet_shows() {
        let stamp = Stamp {
            user: 7,
            number: 0x0102_0304_0506,
            sent_at: 99,
        };
        let mut payload = [0; 60];
        stamp.write(&mut payload);
        assert_eq!(Stamp::read(&payload), Some(stamp));
        for at in 0..payload.len() {
            let mut bad = payload;
            bad[at] ^= 1;
            assert_ne!(Stamp::read(&bad), Some(stamp), "octet {at}");
        }
        assert_eq!(Stamp::read(&payload[..STAMP - 1]), None);
        let mut short = [0; STAMP - 1];
        stamp.write(&mut short);
        assert_eq!(Stamp::read(&short), None);
    }
}
