//! Tests of packet summaries: each shape of header by hand, then properties.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use super::*;
use proptest::prelude::*;

fn v4(protocol: u8, flags: u16, payload: &[u8]) -> Vec<u8> {
    let total = (IPV4_HEADER + payload.len()) as u16;
    let mut p = vec![0x45, 0xb9];
    p.extend_from_slice(&total.to_be_bytes());
    p.extend_from_slice(&[0, 1]);
    p.extend_from_slice(&flags.to_be_bytes());
    p.extend_from_slice(&[64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    let c = checksum::checksum(&p);
    p[10..12].copy_from_slice(&c.to_be_bytes());
    p.extend_from_slice(payload);
    p
}

fn v6(next: u8, payload: &[u8]) -> Vec<u8> {
    let mut p = vec![0x6b, 0x90, 0, 0];
    p.extend_from_slice(&(payload.len() as u16).to_be_bytes());
    p.extend_from_slice(&[next, 63]);
    p.extend_from_slice(&"fd00::1".parse::<Ipv6Addr>().unwrap().octets());
    p.extend_from_slice(&"fd00::2".parse::<Ipv6Addr>().unwrap().octets());
    p.extend_from_slice(payload);
    p
}

#[test]
fn whole_ipv4_udp() {
    let s = summarize(&v4(17, 0x4000, &[0, 53, 1, 0, 0, 8, 0, 0])).unwrap();
    assert_eq!((s.version, s.protocol, s.ports), (4, 17, Some((53, 256))));
    assert_eq!(
        (s.header_len, s.total_len, s.traffic_class, s.hop_limit),
        (20, 28, 0xb9, 64)
    );
    assert!(s.dont_fragment && s.fragment == Fragment::No && s.ecn() == 1);
    assert_eq!(
        (s.src.to_string(), s.dst.to_string()),
        ("10.0.0.1".into(), "10.0.0.2".into())
    );
}

#[test]
fn ipv4_fragments() {
    let first = summarize(&v4(17, 0x2000, &[0, 53, 1, 0])).unwrap();
    assert_eq!((first.fragment, first.ports), (Fragment::First, Some((53, 256))));
    let later = summarize(&v4(17, 0x2001, &[0, 53, 1, 0])).unwrap();
    assert_eq!((later.fragment, later.ports), (Fragment::Later, None));
    let last = summarize(&v4(17, 0x0001, &[0, 53, 1, 0])).unwrap();
    assert_eq!(last.fragment, Fragment::Later);
}

#[test]
fn a_tiny_first_fragment_shows_no_ports() {
    assert_eq!(summarize(&v4(6, 0x2000, &[0, 53])).unwrap().ports, None);
}

#[test]
fn icmp_type_and_code_stand_for_both_ports() {
    assert_eq!(
        summarize(&v4(1, 0, &[8, 3, 0, 0])).unwrap().ports,
        Some((0x0803, 0x0803))
    );
    assert_eq!(
        summarize(&v6(58, &[128, 0, 0, 0])).unwrap().ports,
        Some((0x8000, 0x8000))
    );
    assert_eq!(
        summarize(&v6(135, &[59, 0, 5, 0, 0, 0, 0, 0])).unwrap().ports,
        Some((0x0500, 0x0500))
    );
    assert_eq!(summarize(&v4(47, 0, &[8, 3, 0, 0])).unwrap().ports, None);
}

#[test]
fn ipv6_extension_headers_are_walked() {
    let hop = [60u8, 0, 0, 0, 0, 0, 0, 0];
    let options = [17u8, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let mut payload = [&hop[..], &options[..]].concat();
    payload.extend_from_slice(&[0, 9, 0, 10, 0, 8, 0, 0]);
    let s = summarize(&v6(0, &payload)).unwrap();
    assert_eq!((s.protocol, s.ports, s.header_len), (17, Some((9, 10)), 64));
    assert_eq!((s.traffic_class, s.hop_limit, s.dont_fragment), (0xb9, 63, true));
}

#[test]
fn ipv6_fragment_header() {
    let more = [17u8, 0, 0, 1, 0, 0, 0, 7, 0, 9, 0, 10];
    let s = summarize(&v6(44, &more)).unwrap();
    assert_eq!((s.fragment, s.ports), (Fragment::First, Some((9, 10))));
    let later = [60u8, 0, 0, 8, 0, 0, 0, 7, 0, 9, 0, 10];
    let s = summarize(&v6(44, &later)).unwrap();
    assert_eq!((s.fragment, s.protocol, s.ports), (Fragment::Later, 60, None));
    let atomic = [17u8, 0, 0, 0, 0, 0, 0, 7, 0, 9, 0, 10];
    assert_eq!(summarize(&v6(44, &atomic)).unwrap().fragment, Fragment::No);
}

#[test]
fn esp_and_ah_are_next_layer_protocols() {
    assert_eq!(summarize(&v6(50, &[0; 8])).unwrap().protocol, 50);
    assert_eq!(summarize(&v6(51, &[0; 12])).unwrap().protocol, 51);
}

#[test]
fn lies_are_refused() {
    assert_eq!(summarize(&[]), Err(PacketError::Version));
    assert_eq!(summarize(&[0x50; 60]), Err(PacketError::Version));
    assert_eq!(summarize(&[0x45; 19]), Err(PacketError::Truncated));
    assert_eq!(summarize(&[0x60; 39]), Err(PacketError::Truncated));
    let mut p = v4(17, 0, &[0; 8]);
    p[0] = 0x44;
    assert_eq!(summarize(&p), Err(PacketError::HeaderLength));
    p[0] = 0x4f;
    assert_eq!(summarize(&p), Err(PacketError::HeaderLength));
    let mut p = v4(17, 0, &[0; 8]);
    p[3] += 1;
    assert_eq!(summarize(&p), Err(PacketError::Length));
    let mut p = v6(17, &[0; 8]);
    p[5] += 1;
    assert_eq!(summarize(&p), Err(PacketError::Length));
    assert_eq!(
        summarize(&v6(0, &[17, 1, 0, 0, 0, 0, 0, 0])),
        Err(PacketError::Truncated)
    );
    assert_eq!(summarize(&v6(0, &[])), Err(PacketError::Truncated));
    assert_eq!(
        summarize(&v6(60, &[60, 0, 0, 0, 0, 0, 0, 0].repeat(9))),
        Err(PacketError::Extensions)
    );
    let mut eight = [60, 0, 0, 0, 0, 0, 0, 0].repeat(8);
    eight[56] = 59;
    assert_eq!(summarize(&v6(60, &eight)).unwrap().protocol, 59);
}

#[test]
fn padding_behind_the_packet_is_not_part_of_it() {
    let mut p = v4(17, 0, &[0; 8]);
    p.resize(1400, 0);
    assert_eq!(summarize(&p).unwrap().total_len, 28);
}

#[test]
fn membership_asks_both_ends() {
    let s = summarize(&v4(17, 0, &[0, 53, 1, 0, 0, 8, 0, 0])).unwrap();
    let sel = |t: &str| vec![t.parse::<Selector>().unwrap()];
    assert!(s.belongs(&sel("10.0.0.1"), &sel("10.0.0.0/24[udp/256]")));
    assert!(!s.belongs(&sel("10.0.0.2"), &sel("10.0.0.0/24")));
    assert!(!s.belongs(&sel("10.0.0.1"), &sel("10.0.0.0/24[udp/53]")));
    assert!(!s.belongs(&[], &sel("0.0.0.0/0")));
}

proptest! {
    #[test]
    fn any_octets_give_an_answer_within_them(mut p in prop::collection::vec(any::<u8>(), 0..200), six: bool, short: bool) {
        if let Some(b) = p.first_mut() {
            *b = if six { 0x60 | (*b & 15) } else { 0x40 | (*b & 15) };
        }
        if short && p.len() > 60 {
            // Make the length fields plausible, so that the walk behind them is reached.
            let len = p.len();
            if six { p[4] = 0; p[5] = (len - 40) as u8; } else { p[2] = 0; p[3] = len as u8; }
        }
        if let Ok(s) = summarize(&p) {
            prop_assert!(s.header_len <= s.total_len && s.total_len <= p.len());
            prop_assert!(s.fragment != Fragment::Later || s.ports.is_none());
        }
    }

    #[test]
    fn setting_ecn_keeps_the_checksum_right(payload in prop::collection::vec(any::<u8>(), 0..40), ecn in 0u8..4) {
        let mut p = v4(17, 0, &payload);
        set_ecn(&mut p, ecn);
        prop_assert_eq!(summarize(&p).unwrap().traffic_class, 0xb8 | ecn);
        prop_assert_eq!(checksum::checksum(&p[..20]), 0);
        let mut p = v6(17, &payload);
        set_ecn(&mut p, ecn);
        prop_assert_eq!(summarize(&p).unwrap().traffic_class, 0xb8 | ecn);
    }
}
