//! Packets that came to the wrong node of a cluster, on their way to the right one: the datagram around them. Performs no
//! I/O.
//!
//! ```text
//!    0  SPI of the ESP packet, by which the kernel of the owner chooses the worker; 0 for IKE
//!    4  version │ kind │ outer type of service │ 4 or 6, the version of IP
//!    8  source: address and port            IPv4: 4 + 2 octets, IPv6: 16 + 2
//!  14, 26  destination, alike
//!  20, 44  authenticator: HMAC-SHA-256, 16 octets
//!  36, 60  the packet
//! ```
//! Over IPv4 an inner packet of 1400 octets fits a link of 1500 with it. Packets of one length are sent as one burst, which
//! the kernel of the owner may join again with those of others.
//!
//! The authenticator binds the addresses to the packet: it covers the octets before it and of IKE the whole message,
//! of ESP the length, SPI, sequence number and integrity check value, which the SA's keys bind to the rest.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::ops::Range;

use crypto::{Integrity, MacKey, Secret};

use crate::message::Encap;

/// Octets before the addresses.
const FIXED: usize = 8;
const AUTHENTICATOR: usize = 16;
const VERSION: u8 = 1;
/// The version of IP of both addresses.
const V4: u8 = 4;
const V6: u8 = 6;
/// SPI and sequence number.
const ESP_HEAD: usize = 8;
/// The shortest integrity check value is 12 octets, the usual one 16.
const ESP_TAIL: usize = 16;

/// What a forwarded packet is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Esp(Encap),
    Ike,
}

impl Kind {
    fn number(self) -> u8 {
        match self {
            Self::Esp(Encap::Udp) => 1,
            Self::Esp(Encap::Raw) => 2,
            Self::Ike => 3,
        }
    }

    fn from_number(number: u8) -> Option<Self> {
        [Self::Esp(Encap::Udp), Self::Esp(Encap::Raw), Self::Ike]
            .into_iter()
            .find(|kind| kind.number() == number)
    }
}

/// Where a forwarded packet came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Envelope {
    pub(crate) kind: Kind,
    pub(crate) tos: u8,
    /// The peer.
    pub(crate) source: SocketAddr,
    /// Our address that the peer sent it to.
    pub(crate) destination: SocketAddr,
}

/// Wraps and unwraps with the cluster's key.
#[derive(Debug)]
pub(crate) struct Wrapper(MacKey);

impl Wrapper {
    pub(crate) fn new(key: &Secret) -> Self {
        Self(MacKey::new(Integrity::HmacSha256_128, key.expose()))
    }

    /// Appends a packet with its envelope to `out`.
    pub(crate) fn wrap(&self, envelope: &Envelope, packet: &[u8], out: &mut Vec<u8>) {
        let start = out.len();
        let spi = match envelope.kind {
            Kind::Ike => [0; 4],
            Kind::Esp(_) => packet.first_chunk::<4>().copied().unwrap_or_default(),
        };
        let addresses = [envelope.source, envelope.destination];
        let is_v4 = addresses.iter().all(SocketAddr::is_ipv4);
        out.extend_from_slice(&spi);
        out.extend_from_slice(&[
            VERSION,
            envelope.kind.number(),
            envelope.tos,
            if is_v4 { V4 } else { V6 },
        ]);
        for address in addresses {
            match address.ip() {
                IpAddr::V4(v4) if is_v4 => out.extend_from_slice(&v4.octets()),
                IpAddr::V4(v4) => out.extend_from_slice(&v4.to_ipv6_mapped().octets()),
                IpAddr::V6(v6) => out.extend_from_slice(&v6.octets()),
            }
            out.extend_from_slice(&address.port().to_be_bytes());
        }
        let mut icv = [0; AUTHENTICATOR];
        let len = (packet.len() as u32).to_be_bytes();
        let head = out.get(start..).unwrap_or_default();
        // Only a wrong length of the value can fail; then the receiver refuses the zeros.
        let _ = self.0.sign(&covered(head, &len, envelope.kind, packet), &mut icv);
        out.extend_from_slice(&icv);
        out.extend_from_slice(packet);
    }

    /// The envelope of a datagram, and where in it the packet is; `None` if it is not authentic or not whole.
    pub(crate) fn unwrap(&self, datagram: &[u8]) -> Option<(Envelope, Range<usize>)> {
        let [s0, s1, s2, s3, version, kind, tos, family] = *datagram.first_chunk::<FIXED>()?;
        let address_len = match family {
            V4 => 6,
            V6 => 18,
            _ => return None,
        };
        let (head, rest) = datagram.split_at_checked(FIXED + 2 * address_len)?;
        let (icv, packet) = rest.split_first_chunk::<AUTHENTICATOR>()?;
        let kind = Kind::from_number(kind).filter(|_| version == VERSION)?;
        let spi = [s0, s1, s2, s3];
        let is_whole = match kind {
            Kind::Ike => spi == [0; 4],
            Kind::Esp(_) => spi != [0; 4] && packet.len() >= ESP_HEAD + ESP_TAIL && packet.starts_with(&spi),
        };
        let len = (packet.len() as u32).to_be_bytes();
        if !is_whole || !self.0.verify(&covered(head, &len, kind, packet), icv) {
            return None;
        }
        let (source, destination) = head.get(FIXED..)?.split_at_checked(address_len)?;
        let envelope = Envelope {
            kind,
            tos,
            source: address(source)?,
            destination: address(destination)?,
        };
        Some((envelope, datagram.len() - packet.len()..datagram.len()))
    }
}

/// The parts that the authenticator covers.
fn covered<'a>(head: &'a [u8], len: &'a [u8; 4], kind: Kind, packet: &'a [u8]) -> [&'a [u8]; 4] {
    match kind {
        Kind::Ike => [head, len, packet, &[]],
        Kind::Esp(_) => [
            head,
            len,
            packet.get(..ESP_HEAD).unwrap_or(packet),
            packet
                .get(packet.len().saturating_sub(ESP_TAIL)..)
                .unwrap_or_default(),
        ],
    }
}

fn address(octets: &[u8]) -> Option<SocketAddr> {
    let (ip, port) = octets.split_last_chunk::<2>()?;
    let ip = match ip.first_chunk::<16>() {
        Some(v6) => Ipv6Addr::from(*v6).to_canonical(),
        None => IpAddr::from(*ip.first_chunk::<4>()?),
    };
    Some(SocketAddr::new(ip, u16::from_be_bytes(*port)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;
    use proptest::prelude::*;

    fn envelope(kind: Kind, is_v4: bool) -> Envelope {
        let destination = if is_v4 {
            "192.0.2.100:4500"
        } else {
            "[2001:db8::1]:4500"
        };
        Envelope {
            kind,
            tos: 0xb8,
            source: "198.51.100.7:31337".parse().unwrap(),
            destination: destination.parse().unwrap(),
        }
    }

    fn envelopes() -> impl Strategy<Value = Envelope> {
        let kinds = [Kind::Esp(Encap::Udp), Kind::Esp(Encap::Raw), Kind::Ike];
        (proptest::sample::select(kinds.to_vec()), any::<bool>())
            .prop_map(|(kind, is_v4)| envelope(kind, is_v4))
    }

    fn wrapper(key: u8) -> Wrapper {
        Wrapper::new(&Secret::from(vec![key; 32]))
    }

    proptest! {
        #[test]
        fn what_is_wrapped_is_unwrapped(
            envelope in envelopes(),
            packet in proptest::collection::vec(1u8.., 24..200),
        ) {
            let mut out = vec![1, 2, 3];
            wrapper(7).wrap(&envelope, &packet, &mut out);
            prop_assert_eq!(&out[..3], &[1, 2, 3], "appended");
            let (found, range) = wrapper(7).unwrap(&out[3..]).unwrap();
            prop_assert_eq!(found, envelope);
            prop_assert_eq!(&out[3..][range], &packet[..]);
        }

        #[test]
        fn a_change_of_any_octet_that_counts_is_noticed(
            envelope in envelopes(),
            len in 24usize..200,
            at: prop::sample::Index,
        ) {
            let mut out = Vec::new();
            wrapper(7).wrap(&envelope, &vec![9; len], &mut out);
            let at = at.index(out.len());
            out[at] ^= 0x10;
            // The middle of an ESP packet is the SA's to check.
            let head = out.len() - len + ESP_HEAD;
            let is_covered = envelope.kind == Kind::Ike || at < head || at >= out.len() - ESP_TAIL;
            prop_assert_eq!(wrapper(7).unwrap(&out).is_none(), is_covered);
        }

        #[test]
        fn noise_is_refused(noise in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(wrapper(7).unwrap(&noise).is_none());
        }
    }

    #[test]
    fn another_key_and_a_shorter_packet_are_refused() {
        let mut out = Vec::new();
        wrapper(7).wrap(&envelope(Kind::Esp(Encap::Udp), true), &[9; 100], &mut out);
        assert!(wrapper(8).unwrap(&out).is_none());
        for len in 0..out.len() {
            // An ESP packet of equal octets keeps its tail when it loses some: the length counts.
            assert!(wrapper(7).unwrap(&out[..len]).is_none(), "{len}");
        }
    }

    #[test]
    fn an_inner_packet_of_1400_octets_fits_a_link_of_1500() {
        let mut out = Vec::new();
        // SPI, number, IV; padding to 4 with its length and the next header; integrity check value.
        let esp = 16 + 1404 + 16;
        wrapper(7).wrap(&envelope(Kind::Esp(Encap::Udp), true), &vec![9; esp], &mut out);
        assert!(20 + 8 + out.len() <= 1500, "{}", out.len());
    }
}
