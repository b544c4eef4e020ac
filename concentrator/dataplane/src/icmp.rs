//! ICMP errors for inner packets that are too big for the tunnel, made to go back to their senders.

use std::net::IpAddr;

use ip::packet::Summary;

use crate::segment::pseudo;
use crate::vnet::{fold, sum};

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
/// Octets of the offending packet that an ICMPv4 error repeats: RFC 1812 section 4.3.2.3 allows a total of 576.
const QUOTE_V4: usize = 576 - 28;
/// The same for ICMPv6: the minimum MTU (RFC 4443 section 2.4).
const QUOTE_V6: usize = 1280 - 48;

/// "Fragmentation needed" (RFC 1191) or "packet too big" (RFC 4443 section 3.2) for `packet`, from the packet's
/// destination: an address of our own, which comes in by a device, is what a kernel takes for forged. `None` for what must
/// not be answered (RFC 1812 section 4.3.2.7, RFC 4443 section 2.4 (e)): errors and redirects, fragments but the first,
/// senders that are no single host, and over IPv4 packets to many. To an IPv6 multicast packet that is too big the RFC
/// wants an answer: from `gateway`.
pub(crate) fn too_big(
    packet: &[u8],
    summary: &Summary,
    mtu: u16,
    gateway: Option<IpAddr>,
) -> Option<Vec<u8>> {
    let is_later = summary.fragment == ip::packet::Fragment::Later;
    if ip::icmp::is_error(summary) || is_later || !is_host(summary.src) || is_many_v4(summary.dst) {
        return None;
    }
    let from = if summary.dst.is_multicast() {
        gateway.filter(|g| g.is_ipv4() == summary.src.is_ipv4())?
    } else {
        summary.dst
    };
    match (from, summary.src) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            let quote = packet.get(..QUOTE_V4).unwrap_or(packet);
            let total = (28 + quote.len()) as u16;
            let mut header = [0u8; 28];
            let [t0, t1] = total.to_be_bytes();
            let fixed = [0x45, 0xc0, t0, t1, 0, 0, 0x40, 0, 64, ICMP, 0, 0];
            copy(
                &mut header,
                fixed.into_iter().chain(from.octets()).chain(to.octets()),
            );
            let [m0, m1] = mtu.to_be_bytes();
            copy(header.get_mut(20..)?, [3, 4, 0, 0, 0, 0, m0, m1]);
            let ip = (!fold(sum(header.get(..20)?))).to_be_bytes();
            copy(header.get_mut(10..)?, ip);
            let icmp = (!fold(sum(header.get(20..)?) + sum(quote))).to_be_bytes();
            copy(header.get_mut(22..)?, icmp);
            Some([&header[..], quote].concat())
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            let quote = packet.get(..QUOTE_V6).unwrap_or(packet);
            let len = 8 + quote.len();
            let mut header = [0u8; 48];
            let [l0, l1] = (len as u16).to_be_bytes();
            let fixed = [0x60, 0, 0, 0, l0, l1, ICMPV6, 64];
            copy(
                &mut header,
                fixed.into_iter().chain(from.octets()).chain(to.octets()),
            );
            let [m0, m1] = mtu.to_be_bytes();
            copy(header.get_mut(40..)?, [2, 0, 0, 0, 0, 0, m0, m1]);
            let total = pseudo(&header, ICMPV6, len)? + sum(header.get(40..)?) + sum(quote);
            copy(header.get_mut(42..)?, (!fold(total)).to_be_bytes());
            Some([&header[..], quote].concat())
        }
        _ => None,
    }
}

/// Whether an address is that of one host, to which an answer may go.
fn is_host(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !v4.is_unspecified() && !v4.is_loopback() && v4.octets()[0] < 224,
        IpAddr::V6(v6) => !v6.is_unspecified() && !v6.is_loopback() && !v6.is_multicast(),
    }
}

fn is_many_v4(address: IpAddr) -> bool {
    matches!(address, IpAddr::V4(v4) if v4.octets()[0] >= 224)
}

fn copy(to: &mut [u8], from: impl IntoIterator<Item = u8>) {
    for (slot, octet) in to.iter_mut().zip(from) {
        *slot = octet;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;

    fn packet(v4: bool, protocol: u8, kind: u8) -> Vec<u8> {
        let mut p = if v4 { vec![0u8; 20] } else { vec![0u8; 40] };
        if v4 {
            p[0] = 0x45;
            p[2..4].copy_from_slice(&1500u16.to_be_bytes());
            p[6] = 0x40;
            p[8..10].copy_from_slice(&[64, protocol]);
            p[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
        } else {
            p[0] = 0x60;
            p[4..6].copy_from_slice(&1460u16.to_be_bytes());
            p[6..8].copy_from_slice(&[protocol, 64]);
            p[8] = 0xfd;
            p[24] = 0xfe;
        }
        p.push(kind);
        p.resize(1500, 3);
        p
    }

    #[test]
    fn errors_are_whole_packets_to_the_sender_with_right_checksums() {
        for v4 in [true, false] {
            let packet = packet(v4, 17, 0);
            let summary = ip::packet::summarize(&packet).unwrap();
            let error = too_big(&packet, &summary, 1400, None).unwrap();
            let parsed = ip::packet::summarize(&error).unwrap();
            assert_eq!((parsed.src, parsed.dst), (summary.dst, summary.src));
            assert_eq!(parsed.total_len, error.len());
            let (start, whole) = if v4 {
                (20, sum(&error[20..]))
            } else {
                (40, sum(&error[40..]))
            };
            let extra = if v4 {
                0
            } else {
                pseudo(&error, ICMPV6, error.len() - 40).unwrap()
            };
            assert_eq!(fold(whole + extra), 0xffff);
            assert_eq!(&error[start + 6..start + 8], &1400u16.to_be_bytes());
            assert_eq!(&error[start + 8..], &packet[..error.len() - start - 8]);
            assert!(error.len() <= if v4 { 576 } else { 1280 });
            if v4 {
                assert_eq!(fold(sum(&error[..20])), 0xffff);
            }
        }
    }

    #[test]
    fn only_packets_from_one_host_are_answered_and_to_one_unless_of_ipv6() {
        let answered = |v4, src: &[u8], dst: &[u8], gateway: Option<IpAddr>| {
            let mut packet = packet(v4, 17, 0);
            let (from, to) = if v4 { (12, 16) } else { (8, 24) };
            packet[from..from + src.len()].copy_from_slice(src);
            packet[to..to + dst.len()].copy_from_slice(dst);
            let summary = ip::packet::summarize(&packet).unwrap();
            too_big(&packet, &summary, 1400, gateway).is_some()
        };
        let to = [10, 0, 0, 2];
        assert!(answered(true, &[10, 0, 0, 1], &to, None));
        for nobody in [[0; 4], [127, 0, 0, 1], [224, 0, 0, 1], [240, 0, 0, 1], [255; 4]] {
            assert!(!answered(true, &nobody, &to, None), "{nobody:?}");
        }
        for many in [[224, 0, 0, 5], [255; 4]] {
            assert!(!answered(true, &[10, 0, 0, 1], &many, None), "{many:?}");
        }
        let gateway = Some("fd00::1".parse().unwrap());
        assert!(answered(false, &[0xfd], &[0xff, 2], gateway));
        assert!(
            !answered(false, &[0xfd], &[0xff, 2], None),
            "nobody could have sent it"
        );
        assert!(!answered(false, &[0xff, 2], &[0xfd], gateway));
    }

    #[test]
    fn errors_are_not_answered_but_echoes_are() {
        for (v4, protocol, kind, answered) in [
            (true, 1, 3, false),
            (true, 1, 8, true),
            (false, 58, 1, false),
            (false, 58, 128, true),
        ] {
            let packet = packet(v4, protocol, kind);
            let summary = ip::packet::summarize(&packet).unwrap();
            assert_eq!(
                too_big(&packet, &summary, 1400, None).is_some(),
                answered,
                "{protocol} {kind}"
            );
        }
    }
}
