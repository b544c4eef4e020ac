//! NAT detection (RFC 7296 section 2.23) and the move to port 4500.

use std::net::{IpAddr, SocketAddr};

use crypto::{HashAlgorithm, Random};

use crate::types::NatFindings;
use crate::wire::{Notify, NotifyType, Payloads, Spi};

/// Port of IKE without NAT traversal.
pub const IKE_PORT: u16 = 500;
/// Port of IKE and ESP in UDP (RFC 3948).
pub const NAT_PORT: u16 = 4500;

/// SHA-1 of `SPIi | SPIr | address | port`: the data of NAT_DETECTION_SOURCE_IP and NAT_DETECTION_DESTINATION_IP.
#[must_use]
pub fn detection_hash(spi_i: Spi, spi_r: Spi, address: SocketAddr) -> Vec<u8> {
    let port = address.port().to_be_bytes();
    let (spi_i, spi_r) = (spi_i.to_bytes(), spi_r.to_bytes());
    match address.ip() {
        IpAddr::V4(v4) => crypto::digest(HashAlgorithm::Sha1, &[&spi_i, &spi_r, &v4.octets(), &port]),
        IpAddr::V6(v6) => crypto::digest(HashAlgorithm::Sha1, &[&spi_i, &spi_r, &v6.octets(), &port]),
    }
}

/// A source hash that matches no address.
#[must_use]
pub fn false_source(random: &mut dyn Random) -> [u8; 20] {
    let mut hash = [0; 20];
    random.fill(&mut hash);
    hash
}

/// The two notifies of an IKE_SA_INIT message with these SPIs in its header.
///
/// A `false_source` makes the peer see a NAT in front of us, so that ESP goes in UDP.
#[must_use]
pub fn notifies(
    spi_i: Spi,
    spi_r: Spi,
    local: SocketAddr,
    remote: SocketAddr,
    false_source: Option<[u8; 20]>,
) -> [Notify; 2] {
    let source = false_source.map_or_else(|| detection_hash(spi_i, spi_r, local), Vec::from);
    [
        Notify::with_data(NotifyType::NAT_DETECTION_SOURCE_IP, source),
        Notify::with_data(
            NotifyType::NAT_DETECTION_DESTINATION_IP,
            detection_hash(spi_i, spi_r, remote),
        ),
    ]
}

/// What the peer's message says about NATs, given the SPIs of its header and the addresses it came with.
///
/// `forced`: we claimed a NAT ourselves. Hashes of odd lengths match nothing, which is a NAT: the safe side.
//= rfc7296#section-2.23
//# If none of the NAT_DETECTION_SOURCE_IP payload(s) received matches
//# the expected value of the source IP and port found from the IP
//# header of the packet containing the payload, it means that the
//# system sending those payloads is behind a NAT
#[must_use]
pub fn findings(
    payloads: Payloads<'_>,
    spi_i: Spi,
    spi_r: Spi,
    local: SocketAddr,
    remote: SocketAddr,
    forced: bool,
) -> NatFindings {
    let of = |kind| payloads.notifies().filter(move |notify| notify.kind == kind);
    let mut sources = of(NotifyType::NAT_DETECTION_SOURCE_IP).peekable();
    let mut destinations = of(NotifyType::NAT_DETECTION_DESTINATION_IP).peekable();
    if sources.peek().is_none() || destinations.peek().is_none() {
        return NatFindings::default();
    }
    let remote_hash = detection_hash(spi_i, spi_r, remote);
    let local_hash = detection_hash(spi_i, spi_r, local);
    NatFindings {
        supported: true,
        local: forced || !destinations.any(|notify| notify.data == local_hash),
        remote: !sources.any(|notify| notify.data == remote_hash),
    }
}

/// Where an initiator goes on once it found a NAT: 500 becomes 4500, other ports stay.
#[must_use]
pub const fn floated(address: SocketAddr) -> SocketAddr {
    let mut address = address;
    if address.port() == IKE_PORT {
        address.set_port(NAT_PORT);
    }
    address
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::wire::Payload;
    use crypto::SeededRandom;

    const I: Spi = Spi(1);
    const R: Spi = Spi(2);

    fn found(notifies: [Notify; 2], local: &str, remote: &str) -> NatFindings {
        let payloads: Vec<Payload> = notifies.into_iter().map(Payload::Notify).collect();
        findings(
            Payloads(&payloads),
            I,
            R,
            local.parse().unwrap(),
            remote.parse().unwrap(),
            false,
        )
    }

    #[test]
    fn a_translated_source_is_seen_and_a_clear_path_is_not_accused() {
        let (a, b) = ("192.0.2.1:500", "198.51.100.1:500");
        let sent = || notifies(I, R, a.parse().unwrap(), b.parse().unwrap(), None);
        assert_eq!(
            found(sent(), b, a),
            NatFindings {
                supported: true,
                local: false,
                remote: false
            }
        );
        assert!(found(sent(), b, "203.0.113.9:1024").remote);
        assert!(found(sent(), "10.0.0.1:500", a).local);
    }

    #[test]
    fn forcing_looks_like_a_nat_and_only_on_one_side() {
        let (a, b) = ("[2001:db8::1]:500", "[2001:db8::2]:500");
        let mut random = SeededRandom::from_seed(1);
        let sent = notifies(
            I,
            R,
            a.parse().unwrap(),
            b.parse().unwrap(),
            Some(false_source(&mut random)),
        );
        assert_eq!(
            found(sent, b, a),
            NatFindings {
                supported: true,
                local: false,
                remote: true
            }
        );
    }

    #[test]
    fn odd_lengths_and_missing_halves() {
        let a = "192.0.2.1:500";
        let odd = |kind| Notify::with_data(kind, vec![0; 7]);
        let both = [
            NotifyType::NAT_DETECTION_SOURCE_IP,
            NotifyType::NAT_DETECTION_DESTINATION_IP,
        ]
        .map(odd);
        assert!(found(both, a, a).encap());
        let half = [NotifyType::NAT_DETECTION_SOURCE_IP, NotifyType::COOKIE].map(odd);
        assert!(!found(half, a, a).supported);
    }
}
