#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
use proptest::prelude::*;

use super::*;

const ETHERNET_HEADER: [u8; 12] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];

fn outer(v6: bool, encap: Encap, tos: u8) -> Around {
    let (from, to) = if v6 {
        ("[2001:db8::1]:4500", "[2001:db8:9::2]:33333")
    } else {
        ("192.0.2.1:4500", "203.0.113.9:33333")
    };
    Around {
        from: from.parse().unwrap(),
        to: to.parse().unwrap(),
        encap,
        tos,
        dont_fragment: tos & 1 != 0,
    }
}

fn frame(outer: &Around, identification: u16, payload: &[u8]) -> Vec<u8> {
    let head = head(&ETHERNET_HEADER, outer, identification, payload).unwrap();
    [head.octets(), payload].concat()
}

fn read(frame: &[u8]) -> Option<Parsed> {
    parse(&frame[..frame.len().min(HEAD)], frame.len())
}

proptest! {
    /// What is built is an IP packet to whoever else reads it, and is read back as it was, whatever the wire adds behind.
    #[test]
    fn what_is_built_is_valid_and_read_back(
        payload in prop::collection::vec(any::<u8>(), 0..1400), v6: bool, udp: bool, tos: u8, identification: u16,
        padding in 0usize..40,
    ) {
        let encap = if udp { Encap::Udp } else { Encap::Raw };
        let outer = outer(v6, encap, tos);
        let mut octets = frame(&outer, identification, &payload);
        let packet = &octets[ETHERNET..];
        prop_assert_eq!(&octets[..12], &ETHERNET_HEADER);
        prop_assert_eq!(packet.len(), payload.len() + outer.overhead());
        let summary = ip::packet::summarize(packet).unwrap();
        prop_assert_eq!((summary.src, summary.dst), (outer.from.ip(), outer.to.ip()));
        prop_assert_eq!((summary.traffic_class, summary.total_len), (tos, packet.len()));
        prop_assert_eq!(summary.protocol, if udp { 17 } else { 50 });
        prop_assert_eq!(summary.dont_fragment, tos & 1 != 0 || v6);
        let transport = &packet[summary.header_len..];
        if udp {
            prop_assert_eq!(checksum::transport(outer.from.ip(), outer.to.ip(), 17, transport), 0);
            prop_assert_ne!(&transport[6..8], &[0, 0]);
        }
        if !v6 {
            prop_assert_eq!(checksum::checksum(&packet[..20]), 0);
            prop_assert_eq!(&packet[4..6], &identification.to_be_bytes());
        }
        octets.resize(octets.len() + padding, 0xee);
        let parsed = read(&octets).unwrap();
        let body = &octets[parsed.at..parsed.at + parsed.len];
        prop_assert_eq!(body, &payload[..]);
        prop_assert_eq!((parsed.from.ip(), parsed.to), (outer.from.ip(), outer.to.ip()));
        prop_assert_eq!(parsed.from.port(), if udp { 4500 } else { 0 });
        prop_assert_eq!((parsed.encap, parsed.tos), (encap, tos));
        prop_assert!(parsed.is_sound(body));
    }

    #[test]
    fn nothing_that_arrives_makes_it_fail(octets in prop::collection::vec(any::<u8>(), 0..HEAD), len in 0usize..2000, v4: bool) {
        let mut octets = octets;
        if let Some(version) = octets.get_mut(ETHERNET) {
            *version = if v4 { 0x45 } else { 0x60 };
        }
        if let Some(parsed) = parse(&octets, len) {
            prop_assert!(parsed.at + parsed.len <= len);
        }
    }
}

//= rfc3948#section-2.1
//= type=test
//# receivers MUST NOT depend on the UDP checksum being a zero value.
#[test]
fn checksums_may_be_right_absent_or_left_to_a_device_but_not_wrong() {
    for v6 in [false, true] {
        let (outer, payload) = (outer(v6, Encap::Udp, 0), [7u8; 101]);
        let mut octets = frame(&outer, 1, &payload);
        let field = octets.len() - payload.len() - 2;
        let is_sound = |octets: &[u8]| read(octets).unwrap().is_sound(&octets[field + 2..]);
        assert!(is_sound(&octets));
        octets[field + 2] ^= 1;
        assert!(!is_sound(&octets), "another payload");
        octets[field..field + 2].copy_from_slice(&[0, 0]);
        assert_eq!(is_sound(&octets), !v6, "no checksum");
        // As the kernel leaves it to a device: the sum of the pseudo header.
        let length = 8 + payload.len() as u32;
        let pseudo = checksum::fold(checksum::pseudo_header(
            outer.from.ip(),
            outer.to.ip(),
            17,
            length,
        ));
        octets[field..field + 2].copy_from_slice(&pseudo.to_be_bytes());
        assert!(is_sound(&octets));
    }
}

#[test]
fn without_leave_to_send_more_packets_over_ipv6_have_1280_octets() {
    let outer = |v6, dont_fragment| Around {
        dont_fragment,
        ..outer(v6, Encap::Udp, 0)
    };
    assert_eq!(outer(true, false).in_one_piece(1500), 1280);
    for (v6, dont_fragment) in [(true, true), (false, true), (false, false)] {
        assert_eq!(outer(v6, dont_fragment).in_one_piece(1500), 1500);
    }
}

#[test]
fn lengths_and_header_checksums_that_do_not_fit_are_refused() {
    let good = frame(&outer(false, Encap::Udp, 0), 1, &[9; 60]);
    assert!(read(&good).is_some());
    assert!(read(&good[..good.len() - 1]).is_none(), "cut off");
    let changed = |at: usize, octet: u8| {
        let mut octets = good.clone();
        octets[at] = octet;
        // All but the checksum itself are made right again, so that one thing is wrong at a time.
        if at != ETHERNET + 10 {
            octets[ETHERNET + 10..ETHERNET + 12].copy_from_slice(&[0, 0]);
            let sum = checksum::checksum(&octets[ETHERNET..ETHERNET + 20]);
            octets[ETHERNET + 10..ETHERNET + 12].copy_from_slice(&sum.to_be_bytes());
        }
        read(&octets)
    };
    assert!(changed(ETHERNET + 8, 63).is_some());
    assert!(
        changed(ETHERNET + 10, good[ETHERNET + 10] ^ 1).is_none(),
        "header checksum"
    );
    assert!(changed(ETHERNET + 3, 5).is_none(), "shorter than its headers");
    assert!(changed(ETHERNET + 25, 99).is_none(), "UDP length");
    assert!(changed(ETHERNET + 9, 6).is_none(), "another protocol");
    assert!(changed(ETHERNET, 0x46).is_none(), "options");
}
