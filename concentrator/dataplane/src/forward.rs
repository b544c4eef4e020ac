//! Packets that came to the wrong node of a cluster, on their way to the right one: the datagram around them. Performs no
//! I/O.
//!
//! ```text
//!   0  SPI of the ESP packet, by which the kernel of the owner chooses the worker; 0 for IKE
//!   4  version │ kind │ outer type of service │ 0
//!   8  source: 16 octets of address (IPv4 mapped), 2 of port
//!  26  destination, alike
//!  44  authenticator: HMAC-SHA-256, 16 octets
//!  60  the packet
//! ```
//! The authenticator binds the addresses to the packet: it covers the 44 octets before it and of IKE the whole message,
//! of ESP the length, SPI, sequence number and integrity check value, which the SA's keys bind to the rest.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::ops::Range;

use crypto::{Integrity, MacKey, Secret};

use crate::message::Encap;

/// Octets in front of the packet.
pub(crate) const HEADER: usize = 60;
const AUTHENTICATED: usize = 44;
const AUTHENTICATOR: usize = HEADER - AUTHENTICATED;
const VERSION: u8 = 1;
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

    /// Puts a packet with its envelope in `out`, replacing what is there.
    pub(crate) fn wrap(&self, envelope: &Envelope, packet: &[u8], out: &mut Vec<u8>) {
        let spi = match envelope.kind {
            Kind::Ike => [0; 4],
            Kind::Esp(_) => packet.first_chunk::<4>().copied().unwrap_or_default(),
        };
        out.clear();
        out.extend_from_slice(&spi);
        out.extend_from_slice(&[VERSION, envelope.kind.number(), envelope.tos, 0]);
        for address in [envelope.source, envelope.destination] {
            let ip = match address.ip() {
                IpAddr::V4(v4) => v4.to_ipv6_mapped(),
                IpAddr::V6(v6) => v6,
            };
            out.extend_from_slice(&ip.octets());
            out.extend_from_slice(&address.port().to_be_bytes());
        }
        let mut icv = [0; AUTHENTICATOR];
        let len = (packet.len() as u32).to_be_bytes();
        // Only a wrong length of the value can fail; then the receiver refuses the zeros.
        let _ = self.0.sign(&covered(out, &len, envelope.kind, packet), &mut icv);
        out.extend_from_slice(&icv);
        out.extend_from_slice(packet);
    }

    /// The envelope of a datagram, and where in it the packet is; `None` if it is not authentic or not whole.
    pub(crate) fn unwrap(&self, datagram: &[u8]) -> Option<(Envelope, Range<usize>)> {
        let (head, rest) = datagram.split_first_chunk::<AUTHENTICATED>()?;
        let (icv, packet) = rest.split_first_chunk::<AUTHENTICATOR>()?;
        let [s0, s1, s2, s3, version, kind, tos, _, addresses @ ..] = *head;
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
        let (source, destination) = addresses.split_at_checked(addresses.len() / 2)?;
        let envelope = Envelope {
            kind,
            tos,
            source: address(source)?,
            destination: address(destination)?,
        };
        Some((envelope, HEADER..datagram.len()))
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
    let (ip, port) = octets.split_first_chunk::<16>()?;
    let port = u16::from_be_bytes(*port.first_chunk::<2>()?);
    Some(SocketAddr::new(Ipv6Addr::from(*ip).to_canonical(), port))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;
    use proptest::prelude::*;

    fn envelope(kind: Kind) -> Envelope {
        Envelope {
            kind,
            tos: 0xb8,
            source: "198.51.100.7:31337".parse().unwrap(),
            destination: "[2001:db8::1]:4500".parse().unwrap(),
        }
    }

    fn kinds() -> impl Strategy<Value = Kind> {
        prop_oneof![
            Just(Kind::Esp(Encap::Udp)),
            Just(Kind::Esp(Encap::Raw)),
            Just(Kind::Ike)
        ]
    }

    proptest! {
        #[test]
        fn what_is_wrapped_is_unwrapped(kind in kinds(), packet in proptest::collection::vec(1u8.., 24..200)) {
            let wrapper = Wrapper::new(&Secret::from(vec![7; 32]));
            let mut out = vec![1, 2, 3];
            wrapper.wrap(&envelope(kind), &packet, &mut out);
            let (found, range) = wrapper.unwrap(&out).unwrap();
            prop_assert_eq!(found, envelope(kind));
            prop_assert_eq!(&out[range], &packet[..]);
        }

        #[test]
        fn a_change_of_any_octet_that_counts_is_noticed(kind in kinds(), len in 24usize..200, at: prop::sample::Index) {
            let wrapper = Wrapper::new(&Secret::from(vec![7; 32]));
            let mut out = Vec::new();
            wrapper.wrap(&envelope(kind), &vec![9; len], &mut out);
            let at = at.index(out.len());
            out[at] ^= 0x10;
            // The middle of an ESP packet is the SA's to check.
            let is_covered = kind == Kind::Ike || at < HEADER + ESP_HEAD || at >= out.len() - ESP_TAIL;
            prop_assert_eq!(wrapper.unwrap(&out).is_none(), is_covered);
        }

        #[test]
        fn noise_is_refused(noise in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(Wrapper::new(&Secret::from(vec![7; 32])).unwrap(&noise).is_none());
        }
    }

    #[test]
    fn another_key_and_a_shorter_packet_are_refused() {
        let [ours, theirs] = [7, 8].map(|k| Wrapper::new(&Secret::from(vec![k; 32])));
        let mut out = Vec::new();
        ours.wrap(&envelope(Kind::Esp(Encap::Udp)), &[9; 100], &mut out);
        assert!(theirs.unwrap(&out).is_none());
        for len in 0..out.len() {
            // An ESP packet of equal octets keeps its tail when it loses some: the length counts.
            assert!(ours.unwrap(&out[..len]).is_none(), "{len}");
        }
    }
}
