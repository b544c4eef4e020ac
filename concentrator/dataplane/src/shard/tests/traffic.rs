//! Packets: through, changed as they must be, or dropped and counted.

use super::*;

#[test]
fn a_burst_crosses_as_one_send_and_one_write() {
    let suites = [
        gcm(),
        Suite::new(Cipher::ChaCha20Poly1305, None).unwrap(),
        Suite::new(Cipher::AesCbc { key_bits: 256 }, Some(Integrity::HmacSha256_128)).unwrap(),
        Suite::new(Cipher::AesCtr { key_bits: 128 }, Some(Integrity::HmacSha1_96)).unwrap(),
    ];
    for suite in suites {
        let (mut left, mut right) = ends();
        left.install(pair(true, suite, 0x1005, 0x2006));
        right.install(pair(false, suite, 0x2006, 0x1005));
        for (src, dst) in [("10.7.1.9", "10.7.2.9"), ("fd07:1::9", "fd07:2::9")] {
            for (protocol, flags) in [(6, 0x18), (17, 0)] {
                let (header, packet) = transport(src, dst, 0, protocol, flags, 50_000, 1300);
                left.send_burst(&header, &packet);
                assert_eq!(deliver(&mut left, &mut right), 1);
                let (domain, out, octets) = right.io.written.remove(0);
                assert!(right.io.written.is_empty());
                assert_eq!((domain, out), (1, header));
                assert!(octets == packet);
            }
        }
    }
}

#[test]
fn a_burst_too_large_for_one_datagram_leaves_as_two() {
    let (mut left, mut right) = ends();
    let (header, packet) = transport("10.7.1.9", "10.7.2.9", 0, 6, 0x10, 65_000, 1300);
    left.send_burst(&header, &packet);
    assert_eq!(deliver(&mut left, &mut right), 2);
    let (_, out, octets) = right.io.written.remove(0);
    assert_eq!(out, header);
    assert!(octets == packet, "joined again: both arrived in one turn");
}

#[test]
fn packets_of_one_size_share_a_send_and_others_do_not() {
    let (mut left, mut right) = ends();
    for size in [100, 100, 100, 60, 100, 200, 200] {
        let packet = udp("10.7.1.9", "10.7.2.9", 0, size);
        left.io
            .inner
            .push_back((1, [&[0; vnet::LEN][..], &packet].concat()));
    }
    left.turn();
    let sends: Vec<usize> = left
        .io
        .sent
        .iter()
        .map(|s| s.data.len().div_ceil(s.segment))
        .collect();
    assert_eq!(sends, [4, 1, 2]);
    deliver(&mut left, &mut right);
    assert_eq!(right.shard.counters().inner_out, 7);
    assert_eq!(right.shard.counters().drops.total(), 0);
}

#[test]
fn traffic_class_goes_out_and_congestion_comes_in() {
    let (mut left, mut right) = ends();
    left.send(&udp("10.7.1.9", "10.7.2.9", 0xb8 | 2, 10));
    assert_eq!(left.io.sent[0].tos, 0xb8 | 2);
    left.io.sent[0].tos |= 3;
    deliver(&mut left, &mut right);
    let packet = right.written().remove(0);
    assert_eq!(packet[1], 0xb8 | 3);
    assert_eq!(fold(sum(&packet[..20])), 0xffff);
    left.send(&udp("10.7.1.9", "10.7.2.9", 0, 10));
    left.io.sent[0].tos = 3;
    deliver(&mut left, &mut right);
    assert_eq!(right.drops(DropReason::EcnIllegal), 1);
}

#[test]
fn replayed_unknown_broken_and_tiny_packets_are_counted_drops() {
    let (mut left, mut right) = ends();
    left.send(&udp("10.7.1.9", "10.7.2.9", 0, 10));
    let good = left.io.sent[0].data.clone();
    deliver(&mut left, &mut right);
    assert_eq!(right.written().len(), 1);
    let from: SocketAddr = LEFT.parse().unwrap();
    let mut throw = |data: Vec<u8>| {
        let segment = data.len();
        right.io.arrivals.push_back((data, segment, from, UDP_PORT, 0));
        right.turn();
    };
    throw(good.clone());
    let mut bad = good.clone();
    bad[7] = 99;
    throw(bad);
    let mut unknown = good;
    unknown[2] ^= 1;
    throw(unknown);
    throw(vec![0xff]);
    throw(vec![1]);
    throw(vec![]);
    throw(vec![0, 0, 0x20, 2, 0, 0]);
    assert!(right.io.written.is_empty());
    for (reason, count) in [
        (DropReason::ReplayDuplicate, 1),
        (DropReason::NotAuthentic, 1),
        (DropReason::UnknownSpi, 1),
        (DropReason::Runt, 2),
        (DropReason::TooShort, 1),
    ] {
        assert_eq!(right.drops(reason), count, "{reason}");
    }
}

//= rfc4301#section-5.2
//= type=test
//# If an IPsec system receives an inbound packet on an SA and the packet's header fields are not consistent
//# with the selectors for the SA, it MUST discard the packet.
#[test]
fn inner_addresses_outside_the_selectors_do_not_get_through() {
    let (mut left, mut right) = ends();
    // The left end's own policy is wide; the right end's is not.
    let mut wide = pair(true, gcm(), 0x1001, 0x2002);
    wide.ts_local = selectors(&["0.0.0.0/0"]);
    wide.ts_remote = selectors(&["0.0.0.0/0"]);
    left.install(wide);
    for (src, dst) in [
        ("10.9.9.9", "10.7.2.9"),
        ("10.7.1.9", "10.9.9.9"),
        ("10.7.2.1", "10.7.1.1"),
    ] {
        left.send(&udp(src, dst, 0, 10));
        assert_eq!(deliver(&mut left, &mut right), 1);
    }
    assert_eq!(right.drops(DropReason::SelectorMismatch), 3);
    assert!(right.io.written.is_empty());
}

#[test]
fn outbound_packets_outside_the_selectors_ask_for_an_sa() {
    let (mut left, _) = ends();
    for _ in 0..200 {
        left.send(&udp("10.9.9.9", "10.7.2.9", 0, 10));
        left.send(&udp("10.7.1.9", "10.9.9.9", 0, 10));
    }
    assert!(left.io.sent.is_empty());
    assert_eq!(left.drops(DropReason::NoSa), 400);
    let acquires = left
        .io
        .events
        .iter()
        .filter(|e| matches!(e, WorkerEvent::Acquire { domain: 1, .. }))
        .count();
    assert_eq!(acquires, ACQUIRES as usize, "rate-limited");
}

#[test]
fn only_an_authentic_packet_that_advances_the_window_moves_the_peer() {
    let (mut left, mut right) = ends();
    let elsewhere: SocketAddr = "198.51.100.7:61000".parse().unwrap();
    let packet = udp("10.7.1.9", "10.7.2.9", 0, 10);
    left.send(&packet);
    left.send(&packet);
    let old = left.io.sent.remove(0);
    deliver(&mut left, &mut right);
    right.io.events.clear();
    // An older one from elsewhere is accepted, and moves nothing.
    left.io.sent.push(old);
    deliver_from(&mut left, &mut right, elsewhere);
    assert_eq!(right.written().len(), 2);
    assert!(right.io.events.is_empty());
    // Nor does a forgery.
    left.send(&packet);
    left.io.sent[0].data[20] ^= 1;
    deliver_from(&mut left, &mut right, elsewhere);
    assert!(right.io.events.is_empty());
    // A new one does.
    left.send(&packet);
    deliver_from(&mut left, &mut right, elsewhere);
    assert!(
        matches!(right.io.events[..], [WorkerEvent::PeerMoved { session: 9, spi_in: 0x2002, remote }]
        if remote == elsewhere)
    );
    right.send(&udp("10.7.2.9", "10.7.1.9", 0, 10));
    assert_eq!(right.io.sent[0].to, elsewhere);
    // The control plane may decide otherwise.
    right.command(WorkerCommand::UpdatePeer {
        spi_in: 0x2002,
        remote: LEFT.parse().unwrap(),
        local: None,
    });
    right.send(&udp("10.7.2.9", "10.7.1.9", 0, 10));
    assert_eq!(right.io.sent[1].to, LEFT.parse().unwrap());
}

#[test]
fn a_peer_with_raw_esp_does_not_move() {
    let (mut left, mut right) = ends();
    for (end, is_left, spis) in [
        (&mut left, true, (0x1001, 0x2002)),
        (&mut right, false, (0x2002, 0x1001)),
    ] {
        end.install(SaPair {
            encap: Encap::Raw,
            ..pair(is_left, gcm(), spis.0, spis.1)
        });
    }
    left.send(&udp("10.7.1.9", "10.7.2.9", 0, 10));
    assert_eq!(left.io.sent[0].port, RAW_PORT);
    deliver_from(&mut left, &mut right, "198.51.100.7:0".parse().unwrap());
    assert_eq!(right.written().len(), 1);
    assert!(
        !right
            .io
            .events
            .iter()
            .any(|e| matches!(e, WorkerEvent::PeerMoved { .. }))
    );
}

#[test]
fn what_is_too_big_for_the_path_is_answered_with_icmp() {
    let (mut left, _) = ends();
    left.install(SaPair {
        path_mtu: Some(1300),
        ..pair(true, gcm(), 0x1001, 0x2002)
    });
    left.send(&udp("10.7.1.9", "10.7.2.9", 0, 1300));
    left.send(&udp("fd07:1::9", "fd07:2::9", 0, 1300));
    assert!(left.io.sent.is_empty());
    assert_eq!(left.drops(DropReason::PathMtu), 2);
    let errors = left.written();
    let v4 = ip::packet::summarize(&errors[0]).unwrap();
    assert_eq!(
        (v4.src, v4.dst),
        ("10.7.2.9".parse().unwrap(), "10.7.1.9".parse().unwrap()),
        "a kernel takes nothing from its own address"
    );
    assert_eq!(&errors[0][20..22], &[3, 4]);
    assert_eq!(&errors[0][26..28], &1300u16.to_be_bytes());
    assert_eq!(&errors[1][40..42], &[2, 0]);
    assert_eq!(&errors[1][44..48], &1300u32.to_be_bytes());
}

#[test]
fn the_mss_of_a_syn_is_lowered_in_both_directions() {
    let (mut left, mut right) = ends();
    right.shard.attach_domain(DomainFacts {
        mtu: 1200,
        ..right.shard.domains.get(&1).unwrap().clone()
    });
    for (src, dst, headers) in [("10.7.1.9", "10.7.2.9", 40), ("fd07:1::9", "fd07:2::9", 60)] {
        let (header, packet) = transport(src, dst, 0, 6, 0x02, 0, 0);
        left.send_burst(&header, &packet);
        deliver(&mut left, &mut right);
        let out = right.written().remove(0);
        let mss = u16::from_be_bytes(out[out.len() - 2..].try_into().unwrap());
        assert_eq!(mss, 1200 - headers);
        let start = usize::from(header.csum_start);
        let total = pseudo(&out, 6, out.len() - start).unwrap() + sum(&out[start..]);
        assert_eq!(fold(total), 0xffff);
    }
}

#[test]
fn an_ike_message_glued_to_esp_goes_to_the_control_plane() {
    let (mut left, mut right) = ends();
    left.send(&udp("10.7.1.9", "10.7.2.9", 0, 100));
    let sent = &mut left.io.sent[0];
    sent.data.extend_from_slice(&[0, 0, 0, 0, 9, 9, 9, 9, 9, 9, 9, 9]);
    deliver(&mut left, &mut right);
    assert_eq!(right.written().len(), 1);
    let is_it = |e: &WorkerEvent| matches!(e, WorkerEvent::StrayIke { bytes, .. } if bytes[..] == [9; 8]);
    assert!(right.io.events.iter().any(is_it));
}

#[test]
fn segments_of_two_sas_in_one_burst_are_told_apart() {
    let (mut left, mut right) = ends();
    left.send(&udp("10.7.1.9", "10.7.2.9", 0, 100));
    left.install(pair(true, gcm(), 0x1101, 0x2102));
    right.install(pair(false, gcm(), 0x2102, 0x1101));
    left.send(&udp("10.7.1.9", "10.7.2.9", 0, 100));
    let second = left.io.sent.remove(1);
    left.io.sent[0].data.extend_from_slice(&second.data);
    assert_eq!(deliver(&mut left, &mut right), 1);
    assert_eq!(right.shard.counters().inner_out, 2);
    let stats = right.shard.stats(right.now);
    assert_eq!(
        stats.iter().map(|s| (s.spi_in, s.packets_in)).collect::<Vec<_>>(),
        [(0x2002, 1), (0x2102, 1)]
    );
}

#[test]
fn full_queues_are_counted() {
    let (mut left, mut right) = ends();
    left.io.refuse = Some(Refused::Full);
    left.send(&udp("10.7.1.9", "10.7.2.9", 0, 10));
    assert_eq!(left.drops(DropReason::SocketFull), 1);
    left.io.refuse = None;
    left.send(&udp("10.7.1.9", "10.7.2.9", 0, 10));
    right.io.refuse = Some(Refused::Failed);
    deliver(&mut left, &mut right);
    assert_eq!(right.drops(DropReason::DeviceFailed), 1);
    assert_eq!(right.shard.counters().inner_out, 0);
}

#[test]
fn garbage_from_the_device_is_a_counted_drop() {
    let (mut left, _) = ends();
    for data in [
        &[][..],
        &[0; 9],
        &[0; 10],
        &[0; 60],
        &[0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0x45],
    ] {
        left.io.inner.push_back((1, data.to_vec()));
        left.turn();
    }
    left.io
        .inner
        .push_back((77, [&[0; 10][..], &udp("10.7.1.9", "10.7.2.9", 0, 1)].concat()));
    left.turn();
    assert!(left.io.sent.is_empty());
    assert_eq!(left.shard.counters().drops.total(), 6);
}

proptest::proptest! {
    #[test]
    fn no_datagram_makes_it_panic_or_get_through(
        datagrams in proptest::collection::vec(
            (proptest::collection::vec(proptest::num::u8::ANY, 0..120), 1usize..200, proptest::bool::ANY), 1..20)
    ) {
        let (_, mut right) = ends();
        for (mut data, segment, known) in datagrams {
            if known && data.len() >= 4 {
                data[..4].copy_from_slice(&0x2002u32.to_be_bytes());
            }
            right.io.arrivals.push_back((data, segment, LEFT.parse().unwrap(), UDP_PORT, 0));
        }
        right.turn();
        proptest::prop_assert!(right.io.written.is_empty() && right.io.sent.is_empty());
        let is_stray = |e: &WorkerEvent| matches!(e, WorkerEvent::StrayIke { .. });
        proptest::prop_assert!(right.io.events.iter().all(is_stray));
    }
}
