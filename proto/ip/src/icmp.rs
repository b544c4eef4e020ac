//! ICMP and ICMPv6 error messages: what they are, and what they say of the packets that they quote. Nothing of it is
//! authenticated: who acts on a quotation compares it with what was sent.

use crate::packet::{self, Fragment, Summary};
use crate::{checksum, protocol};

/// Octets of the ICMP header of an error, before the quoted packet.
pub const HEADER: usize = 8;

const UNREACHABLE: u8 = 3;
const FRAGMENTATION_NEEDED: u8 = 4;
const PACKET_TOO_BIG: u8 = 2;
/// ICMPv6 messages with a type below this are errors (RFC 4443 section 2.1).
const V6_INFORMATIONAL: u8 = 128;
const V6_REDIRECT: u8 = 137;

/// Whether a packet is an ICMP error message or a redirect. A later fragment of ICMP may be one: true as well.
#[must_use]
pub fn is_error(summary: &Summary) -> bool {
    let Some((kind, _)) = summary.ports else {
        return [protocol::ICMP, protocol::ICMPV6].contains(&summary.protocol);
    };
    match (summary.protocol, (kind >> 8) as u8) {
        // Destination unreachable, source quench, redirect, time exceeded, parameter problem (RFC 1122 section 3.2.2).
        (protocol::ICMP, kind) => matches!(kind, 3 | 4 | 5 | 11 | 12),
        (protocol::ICMPV6, kind) => kind < V6_INFORMATIONAL || kind == V6_REDIRECT,
        _ => false,
    }
}

/// The packet that an ICMP error quotes, as far as it is quoted; `None` for what is no error, a redirect (which quotes
/// nothing that a router decides on), or a fragment.
#[must_use]
pub fn quoted(error: &[u8], summary: &Summary) -> Option<Summary> {
    let (kind, _) = summary.ports?;
    let is_redirect = matches!(
        (summary.protocol, (kind >> 8) as u8),
        (protocol::ICMP, 5) | (protocol::ICMPV6, V6_REDIRECT)
    );
    if summary.fragment != Fragment::No || is_redirect || !is_error(summary) {
        return None;
    }
    let quote = error.get(summary.header_len + HEADER..summary.total_len)?;
    let quoted = packet::summarize_quoted(quote).ok()?;
    (quoted.version == summary.version).then_some(quoted)
}

/// A message that says that a packet was too big for a link on its way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TooBig<'a> {
    /// The MTU of that link in octets; 0 from routers that are older than RFC 1191.
    pub mtu: u32,
    /// The beginning of the packet.
    pub quote: &'a [u8],
}

/// Reads an ICMP message (type first): "fragmentation needed" with a right checksum, else `None`.
#[must_use]
pub fn too_big_v4(message: &[u8]) -> Option<TooBig<'_>> {
    let (header, quote) = message.split_first_chunk::<HEADER>()?;
    let [UNREACHABLE, FRAGMENTATION_NEEDED, _, _, _, _, m0, m1] = *header else {
        return None;
    };
    (checksum::checksum(message) == 0).then_some(TooBig {
        mtu: u16::from_be_bytes([m0, m1]).into(),
        quote,
    })
}

/// Reads an ICMPv6 message (type first), whose checksum has been verified: "packet too big", else `None`.
#[must_use]
pub fn too_big_v6(message: &[u8]) -> Option<TooBig<'_>> {
    let (header, quote) = message.split_first_chunk::<HEADER>()?;
    let [PACKET_TOO_BIG, _, _, _, mtu @ ..] = *header else {
        return None;
    };
    Some(TooBig {
        mtu: u32::from_be_bytes(mtu),
        quote,
    })
}

/// The next lower of the MTUs that links have, for a packet of `total_len` octets that did not fit a link whose router
/// did not say its MTU (RFC 1191 section 7.1).
#[must_use]
pub fn plateau(total_len: usize) -> u16 {
    const PLATEAUS: [u16; 10] = [32_000, 17_914, 8_166, 4_352, 2_002, 1_492, 1_006, 508, 296, 68];
    PLATEAUS
        .into_iter()
        .find(|mtu| usize::from(*mtu) < total_len)
        .unwrap_or(68)
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
    use proptest::prelude::*;

    fn v4(protocol: u8, payload: &[u8]) -> Vec<u8> {
        let mut p = vec![
            0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
        ];
        p[2..4].copy_from_slice(&(20 + payload.len() as u16).to_be_bytes());
        p.extend_from_slice(payload);
        p
    }

    fn v6(protocol: u8, payload: &[u8]) -> Vec<u8> {
        let mut p = vec![0u8; 40];
        p[0] = 0x60;
        p[4..6].copy_from_slice(&(payload.len() as u16).to_be_bytes());
        p[6..8].copy_from_slice(&[protocol, 64]);
        (p[8], p[24]) = (0xfd, 0xfe);
        p.extend_from_slice(payload);
        p
    }

    #[test]
    fn errors_and_redirects_are_told_from_questions_and_answers() {
        for (packet, expected) in [
            (v4(1, &[3, 0, 0, 0]), true),
            (v4(1, &[5, 0, 0, 0]), true),
            (v4(1, &[8, 0, 0, 0]), false),
            (v4(1, &[0, 0, 0, 0]), false),
            (v4(1, &[13, 0, 0, 0]), false),
            (v4(17, &[3, 0, 0, 0]), false),
            (v6(58, &[1, 0, 0, 0]), true),
            (v6(58, &[137, 0, 0, 0]), true),
            (v6(58, &[128, 0, 0, 0]), false),
            // As far as anybody can tell.
            (v4(1, &[]), true),
        ] {
            assert_eq!(
                is_error(&packet::summarize(&packet).unwrap()),
                expected,
                "{packet:?}"
            );
        }
    }

    #[test]
    fn an_error_tells_the_packet_that_it_quotes_though_it_is_cut() {
        let mut original = v4(17, &[0, 53, 0, 99, 0, 0, 0, 0]);
        original.resize(1400, 1);
        original[2..4].copy_from_slice(&1400u16.to_be_bytes());
        for quote in [28, 100] {
            let message = [&[3, 4, 0, 0, 0, 0, 5, 0][..], &original[..quote]].concat();
            let error = v4(1, &message);
            let summary = packet::summarize(&error).unwrap();
            let quoted = quoted(&error, &summary).unwrap();
            assert_eq!((quoted.ports, quoted.total_len), (Some((53, 99)), 1400));
        }
        let message = [&[2, 0, 0, 0, 0, 0, 5, 0][..], &v6(6, &[1, 187, 4, 0])].concat();
        let error = v6(58, &message);
        let summary = packet::summarize(&error).unwrap();
        assert_eq!(quoted(&error, &summary).unwrap().ports, Some((443, 1024)));
        // A question, a redirect and an error about another family quote nothing.
        for (kind, inner) in [(128, v6(6, &[0; 4])), (137, v6(6, &[0; 4])), (1, v4(6, &[0; 4]))] {
            let error = v6(58, &[&[kind, 0, 0, 0, 0, 0, 0, 0][..], &inner].concat());
            assert_eq!(quoted(&error, &packet::summarize(&error).unwrap()), None);
        }
    }

    #[test]
    fn only_whole_messages_of_the_kind_are_read() {
        let mut message = vec![3, 4, 0, 0, 0, 0, 5, 20, 0x45, 0, 1];
        let sum = checksum::checksum(&message).to_be_bytes();
        message[2..4].copy_from_slice(&sum);
        let read = too_big_v4(&message).unwrap();
        assert_eq!((read.mtu, read.quote), (1300, &[0x45, 0, 1][..]));
        message[9] ^= 1;
        assert_eq!(too_big_v4(&message), None);
        assert_eq!(too_big_v4(&[3, 4, 0, 0]), None);
        let read = too_big_v6(&[2, 0, 9, 9, 0, 1, 0, 0, 7]).unwrap();
        assert_eq!((read.mtu, read.quote), (65_536, &[7][..]));
        assert_eq!(too_big_v6(&[1, 0, 9, 9, 0, 0, 5, 0, 7]), None);
    }

    #[test]
    fn plateaus_go_down() {
        assert_eq!(plateau(1500), 1492);
        assert_eq!(plateau(1492), 1006);
        assert_eq!(plateau(70_000), 32_000);
        assert_eq!(plateau(10), 68);
    }

    proptest! {
        #[test]
        fn no_octets_are_too_strange(octets in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(summary) = packet::summarize(&octets) {
                let _ = quoted(&octets, &summary);
            }
            let _ = (too_big_v4(&octets), too_big_v6(&octets), packet::summarize_quoted(&octets).is_ok());
        }
    }
}
