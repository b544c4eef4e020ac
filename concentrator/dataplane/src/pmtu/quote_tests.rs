#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use proptest::prelude::*;

use super::*;

const SPI: u32 = 0xcafe_0001;

/// The beginning of an ESP packet of ours with 1400 octets, as a router quotes it.
fn packet(encap: Encap, v4: bool, sequence: u32, quoted: usize) -> Vec<u8> {
    let mut p = vec![0u8; if v4 { 20 } else { 40 }];
    let protocol = if encap == Encap::Udp { 17 } else { 50 };
    if v4 {
        p[0] = 0x45;
        p[2..4].copy_from_slice(&1400u16.to_be_bytes());
        p[6] = 0x40;
        p[8..10].copy_from_slice(&[60, protocol]);
        p[12..20].copy_from_slice(&[192, 0, 2, 1, 198, 51, 100, 7]);
    } else {
        p[0] = 0x60;
        p[4..6].copy_from_slice(&1360u16.to_be_bytes());
        p[6..8].copy_from_slice(&[protocol, 60]);
        p[8..40].copy_from_slice(&[0x20; 32]);
        p[39] = 7;
    }
    if encap == Encap::Udp {
        p.extend_from_slice(&4500u16.to_be_bytes());
        p.extend_from_slice(&61_000u16.to_be_bytes());
        p.extend_from_slice(&[0; 4]);
    }
    p.extend_from_slice(&SPI.to_be_bytes());
    p.extend_from_slice(&sequence.to_be_bytes());
    p.resize(1400, 9);
    p.truncate(quoted);
    p
}

fn message(v4: bool, mtu: u16, quote: &[u8]) -> Vec<u8> {
    let [m0, m1] = mtu.to_be_bytes();
    let mut m = vec![if v4 { 3 } else { 2 }, if v4 { 4 } else { 0 }, 0, 0, 0, 0, m0, m1];
    m.extend_from_slice(quote);
    if v4 {
        let sum = ip::checksum::checksum(&m).to_be_bytes();
        m[2..4].copy_from_slice(&sum);
    }
    m
}

fn expected(encap: Encap, v4: bool) -> Expected {
    let (local, peer) = if v4 {
        ("192.0.2.1".parse().unwrap(), "198.51.100.7".parse().unwrap())
    } else {
        let of = |last| {
            let mut octets = [0x20; 16];
            octets[15] = last;
            std::net::IpAddr::from(octets)
        };
        (of(0x20), of(7))
    };
    let ports = if encap == Encap::Udp {
        [4500, 61_000]
    } else {
        [0, 0]
    };
    Expected {
        local: SocketAddr::new(local, ports[0]),
        peer: SocketAddr::new(peer, ports[1]),
        encap,
        next_sequence: 1000,
    }
}

fn verdict(encap: Encap, v4: bool, mtu: u16, quote: &[u8]) -> Option<Result<u16, PathEvent>> {
    let quote = Quote::read(&message(v4, mtu, quote), v4)?;
    assert_eq!(quote.spi, SPI);
    Some(judge(&quote, &expected(encap, v4)))
}

#[test]
fn a_message_about_a_packet_just_sent_is_believed() {
    for (encap, v4) in [
        (Encap::Udp, true),
        (Encap::Udp, false),
        (Encap::Raw, true),
        (Encap::Raw, false),
    ] {
        for quoted in [56, 548, 1232] {
            let quote = packet(encap, v4, 999, quoted);
            assert_eq!(verdict(encap, v4, 1300, &quote), Some(Ok(1300)), "{encap:?} {v4}");
        }
        assert_eq!(
            verdict(encap, v4, 1300, &packet(encap, v4, 1, 100)),
            Some(Ok(1300))
        );
    }
    // Eight octets behind the IP header are enough of raw ESP, and too little of ESP in UDP.
    let short = |encap| verdict(encap, true, 1300, &packet(encap, true, 999, 28));
    assert_eq!(short(Encap::Raw), Some(Ok(1300)));
    assert_eq!(short(Encap::Udp), None);
    // A router older than RFC 1191 says no MTU.
    let quote = packet(Encap::Udp, true, 999, 100);
    assert_eq!(verdict(Encap::Udp, true, 0, &quote), Some(Ok(1006)));
}

#[test]
fn what_is_not_as_it_was_sent_is_not_believed() {
    let good = packet(Encap::Udp, true, 999, 100);
    let changed = |at: usize, to: u8| {
        let mut quote = good.clone();
        quote[at] = to;
        verdict(Encap::Udp, true, 1300, &quote)
    };
    let forged = Some(Err(PathEvent::Forged));
    assert_eq!(changed(15, 9), forged, "another source");
    assert_eq!(changed(19, 9), forged, "another destination");
    assert_eq!(changed(21, 9), forged, "another source port");
    assert_eq!(changed(23, 9), forged, "another destination port");
    assert_eq!(changed(6, 0), forged, "without DF");
    assert_eq!(changed(7, 9), None, "a later fragment");
    assert_eq!(changed(9, 6), None, "not ESP");
    let at = |sequence| verdict(Encap::Udp, true, 1300, &packet(Encap::Udp, true, sequence, 100));
    for never in [0, 1000, 1001, u32::MAX] {
        assert_eq!(at(never), Some(Err(PathEvent::Stale)), "{never}");
    }
    for mtu in [1400, 1500] {
        assert_eq!(
            verdict(Encap::Udp, true, mtu, &good),
            Some(Err(PathEvent::Absurd))
        );
    }
}

#[test]
fn old_packets_are_too_old_over_the_wrap_of_the_lower_half() {
    let quote = |sequence| {
        Quote::read(
            &message(true, 1300, &packet(Encap::Raw, true, sequence, 60)),
            true,
        )
    };
    let expected = Expected {
        next_sequence: (1 << 32) + 10,
        ..expected(Encap::Raw, true)
    };
    let judged = |sequence: u32| judge(&quote(sequence).unwrap(), &expected);
    assert_eq!(judged(9), Ok(1300));
    assert_eq!(judged(u32::MAX - 5), Ok(1300));
    assert_eq!(judged(10), Err(PathEvent::Stale));
    assert_eq!(judged(9u32.wrapping_sub(WINDOW)), Err(PathEvent::Stale));
    assert_eq!(judged(10u32.wrapping_sub(WINDOW)), Ok(1300));
}

proptest! {
    #[test]
    fn no_message_is_too_strange(octets in proptest::collection::vec(any::<u8>(), 0..120), v4: bool) {
        if let Some(quote) = Quote::read(&octets, v4) {
            prop_assert!(judge(&quote, &expected(Encap::Udp, v4)).is_err());
        }
    }
}
