//! The way to the peer: DF, and what does not fit.

use esp::tunnel::DfRule;

use super::*;
use crate::pmtu::PathEvent;

/// Two ends whose left one builds outer headers by the rule.
fn ends_with(df: DfRule) -> (End, End) {
    let (mut left, right) = ends();
    left.install(SaPair {
        df,
        ..pair(true, gcm(), 0x1001, 0x2002)
    });
    (left, right)
}

//= rfc4301#section-8.1
//= type=test
//# This means that it MUST be possible to configure the implementation's treatment of the DF bit (set, clear, copy from
//# inner header) for each SA.
#[test]
fn the_outer_df_bit_follows_the_rule_of_the_sa() {
    for (rule, with_df, without) in [
        (DfRule::Clear, false, false),
        (DfRule::Set, true, true),
        (DfRule::Copy, true, false),
    ] {
        let (mut left, _) = ends_with(rule);
        for (df, expected) in [(0x40, with_df), (0, without)] {
            let mut packet = udp("10.7.1.5", "10.7.2.5", 0, 100);
            packet[6] = df;
            left.send(&packet);
            let sent = left.io.sent.pop().unwrap();
            assert_eq!(sent.dont_fragment, expected, "{rule:?}, inner {df:#x}");
        }
    }
}

/// What a router says of an ESP packet of the left end that it cannot pass on.
fn too_big(sent: &Sent, mtu: u16) -> Vec<u8> {
    let (local, to): (SocketAddr, SocketAddr) = (LEFT.parse().unwrap(), sent.to);
    let (IpAddr::V4(from), IpAddr::V4(peer)) = (local.ip(), to.ip()) else {
        panic!("IPv4 here");
    };
    let mut outer = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 60, 17, 0, 0];
    let total = 28 + sent.segment.min(sent.data.len());
    outer[2..4].copy_from_slice(&(total as u16).to_be_bytes());
    outer.extend([from.octets(), peer.octets()].concat());
    for port in [local.port(), to.port(), 0, 0] {
        outer.extend(port.to_be_bytes());
    }
    outer.extend(&sent.data[..64]);
    let [m0, m1] = mtu.to_be_bytes();
    let mut message = [&[3, 4, 0, 0, 0, 0, m0, m1][..], &outer].concat();
    let sum = ip::checksum::checksum(&message).to_be_bytes();
    message[2..4].copy_from_slice(&sum);
    message
}

fn happened(end: &End, event: PathEvent) -> u64 {
    end.shard.counters().paths.get(event)
}

/// Sends a packet with DF and lets a router say that it was too big.
fn learn(left: &mut End, mtu: u16) {
    let mut packet = udp("10.7.1.5", "10.7.2.5", 0, 1300);
    packet[6] = 0x40;
    left.send(&packet);
    let message = too_big(&left.io.sent.pop().unwrap(), mtu);
    left.io.path_errors.push_back((true, message));
    left.turn();
}

fn mtu_of(left: &End) -> Option<u16> {
    left.shard.stats(left.now).first().unwrap().path_mtu
}

//= rfc4301#section-8.2.1
//= type=test
//# When an IPsec implementation receives an unauthenticated PMTU message, and it is configured to process (vs. ignore) such
//# messages, it maps the message to the SA to which it corresponds.
#[test]
fn what_a_router_says_limits_the_inner_packets_of_the_session() {
    let (mut left, mut right) = ends_with(DfRule::Copy);
    learn(&mut left, 1300);
    assert_eq!(mtu_of(&left), Some(1300));
    assert_eq!(happened(&left, PathEvent::Learned), 1);
    // AES-GCM in UDP over IPv4: 28 outside, 8 of header, 8 of IV, 16 of ICV, two behind the payload, aligned to four.
    let limit = left.shard.stats(left.now)[0].inner_mtu.unwrap();
    assert_eq!(limit, 1238);
    for (len, passes) in [(1238, true), (1239, false)] {
        let mut packet = udp("10.7.1.5", "10.7.2.5", 0, len - 28);
        packet[6] = 0x40;
        left.send(&packet);
        assert_eq!(left.io.sent.len() == 1, passes, "{len}");
        assert_eq!(deliver(&mut left, &mut right) == 1, passes);
        let answer = left.written();
        assert_eq!(answer.is_empty(), passes);
        if let Some(answer) = answer.first() {
            assert_eq!(answer[20..22], [3, 4]);
            assert_eq!(answer[26..28], limit.to_be_bytes());
        }
    }
    // A pair that follows on the same way knows it; one of a peer that has moved does not.
    left.install(SaPair {
        df: DfRule::Copy,
        ..pair(true, gcm(), 0x1003, 0x2004)
    });
    let stats = left.shard.stats(left.now);
    assert!(stats.iter().all(|s| s.path_mtu == Some(1300)), "{stats:?}");
    left.command(WorkerCommand::UpdatePeer {
        spi_in: 0x1003,
        remote: "198.51.100.9:4500".parse().unwrap(),
        local: None,
    });
    let stats = left.shard.stats(left.now);
    let known: Vec<_> = stats.iter().map(|s| (s.spi_in, s.path_mtu)).collect();
    assert_eq!(known, [(0x1001, Some(1300)), (0x1003, None)]);
}

#[test]
fn what_nobody_sent_is_counted_and_changes_nothing() {
    let (mut left, _) = ends_with(DfRule::Copy);
    let mut packet = udp("10.7.1.5", "10.7.2.5", 0, 1300);
    packet[6] = 0x40;
    left.send(&packet);
    let sent = left.io.sent.pop().unwrap();
    let changed = |at: usize| {
        let mut sent = Sent {
            data: sent.data.clone(),
            ..sent
        };
        sent.data[at] ^= 0x10;
        too_big(&sent, 1300)
    };
    let good = too_big(&sent, 1300);
    let mut broken = good.clone();
    broken[40] ^= 1;
    for (message, event) in [
        (changed(0), PathEvent::Unknown),
        (changed(7), PathEvent::Stale),
        (
            too_big(
                &Sent {
                    to: "192.0.2.3:4500".parse().unwrap(),
                    data: sent.data.clone(),
                    ..sent
                },
                1300,
            ),
            PathEvent::Forged,
        ),
        (
            too_big(
                &Sent {
                    data: sent.data.clone(),
                    ..sent
                },
                1500,
            ),
            PathEvent::Absurd,
        ),
        (broken, PathEvent::Malformed),
        (good[..40].to_vec(), PathEvent::Malformed),
    ] {
        let before = happened(&left, event);
        left.io.path_errors.push_back((true, message));
        left.turn();
        assert_eq!(
            (happened(&left, event), mtu_of(&left)),
            (before + 1, None),
            "{event:?}"
        );
    }
    left.io.path_errors.push_back((true, good));
    left.turn();
    assert_eq!(mtu_of(&left), Some(1300));
}

#[test]
fn a_message_is_passed_from_worker_to_worker_until_one_has_the_sa() {
    let mut first = End::new(LEFT, 0, 2, Arc::default());
    let (mut owner, _) = ends_with(DfRule::Copy);
    let mut packet = udp("10.7.1.5", "10.7.2.5", 0, 1300);
    packet[6] = 0x40;
    owner.send(&packet);
    let message = too_big(&owner.io.sent.pop().unwrap(), 1300);
    first.io.path_errors.push_back((true, message));
    first.turn();
    let (worker, batch) = first.io.handed.pop().unwrap();
    assert_eq!((worker, happened(&first, PathEvent::Unknown)), (1, 0));
    owner.shard.accept(&batch, &mut owner.io, owner.now);
    assert_eq!(mtu_of(&owner), Some(1300));
}

#[test]
fn what_was_learned_is_forgotten_in_time_and_reported() {
    let (mut left, _) = ends_with(DfRule::Set);
    learn(&mut left, 1300);
    left.now += Duration::from_secs(599);
    left.turn();
    assert_eq!(mtu_of(&left), Some(1300));
    left.io.events.clear();
    left.now += Duration::from_secs(2);
    left.turn();
    assert_eq!((mtu_of(&left), happened(&left, PathEvent::Aged)), (None, 1));
    let is_news =
        |e: &WorkerEvent| matches!(e, WorkerEvent::Stats(s) if s.iter().all(|s| s.path_mtu.is_none()));
    assert!(left.io.events.iter().any(is_news));
}

//= rfc4301#section-8.2.1
//= type=test
//# Case 2: Original (cleartext) packet is IPv4 and has the DF bit clear.  The implementation SHOULD fragment (before or after
//# encryption per its configuration) and then forward the fragments.  It SHOULD NOT send a PMTU ICMP message.
#[test]
fn a_packet_that_may_be_cut_is_cut_before_encryption() {
    let (mut left, mut right) = ends_with(DfRule::Copy);
    learn(&mut left, 900);
    let mut packet = udp("10.7.1.5", "10.7.2.5", 0, 1372);
    packet[6] = 0;
    left.send(&packet);
    assert!(left.written().is_empty(), "no ICMP");
    assert!(
        left.io
            .sent
            .iter()
            .all(|s| s.segment + 28 <= 900 && !s.dont_fragment)
    );
    deliver(&mut left, &mut right);
    let pieces = right.written();
    assert_eq!((pieces.len(), happened(&left, PathEvent::CutInside)), (2, 1));
    let payload: Vec<u8> = pieces.iter().flat_map(|p| p[20..].to_vec()).collect();
    assert_eq!(payload, packet[20..]);
    // A burst of datagrams that are each too long, and a last one that is not.
    let (header, mut burst) = transport("10.7.1.5", "10.7.2.5", 0, 17, 0, 3000, 1200);
    burst[6] = 0;
    left.send_burst(&header, &burst);
    deliver(&mut left, &mut right);
    let pieces = right.written();
    assert_eq!(pieces.len(), 5, "two of each, and the last");
    assert!(pieces.iter().all(|p| p.len() <= 838));
}

#[test]
fn a_burst_whose_segments_do_not_fit_is_answered_and_tcp_adapts() {
    let (mut left, _) = ends_with(DfRule::Copy);
    learn(&mut left, 1300);
    let (header, mut burst) = transport("10.7.1.5", "10.7.2.5", 0, 6, 0x10, 20_000, 1300);
    burst[6] = 0x40;
    left.send_burst(&header, &burst);
    assert!(left.io.sent.is_empty());
    let answer = left.written();
    assert_eq!(
        (answer.len(), &answer[0][26..28]),
        (1, &1238u16.to_be_bytes()[..])
    );
    let (header, mut burst) = transport("10.7.1.5", "10.7.2.5", 0, 6, 0x10, 20_000, 1238 - 44);
    burst[6] = 0x40;
    left.send_burst(&header, &burst);
    assert_eq!((left.io.sent.len(), left.io.sent[0].segment), (1, 1300 - 28));
}

#[test]
fn the_smallest_ipv6_packets_pass_whole_below_1280_and_larger_ones_are_answered() {
    let (mut left, mut right) = ends_with(DfRule::Set);
    learn(&mut left, 1000);
    left.send(&udp("fd07:1::5", "fd07:2::5", 0, 1280 - 48));
    assert!(!left.io.sent[0].dont_fragment, "to be fragmented outside");
    assert_eq!(deliver(&mut left, &mut right), 1);
    assert_eq!(right.written()[0].len(), 1280);
    assert_eq!(happened(&left, PathEvent::CutOutside), 1);
    left.send(&udp("fd07:1::5", "fd07:2::5", 0, 1281 - 48));
    assert!(left.io.sent.is_empty());
    // Nobody has an IPv6 address there: the answer comes from the destination.
    let answer = &left.written()[0];
    assert_eq!((answer[40], &answer[44..48]), (2, &1280u32.to_be_bytes()[..]));
    left.send(&udp("fd07:1::5", "fd07:2::5", 0, 500));
    assert!(left.io.sent[0].dont_fragment);
}

#[test]
fn our_own_narrow_link_is_learned_from_the_refusal() {
    let (mut left, _) = ends_with(DfRule::Set);
    (left.io.refuse, left.io.link_mtu) = (Some(Refused::TooBig), Some(1200));
    left.send(&udp("10.7.1.5", "10.7.2.5", 0, 1300));
    assert_eq!((mtu_of(&left), left.drops(DropReason::PathMtu)), (Some(1200), 1));
}

#[test]
fn answers_are_limited_by_domain() {
    let (mut left, _) = ends_with(DfRule::Copy);
    learn(&mut left, 1000);
    let mut packet = udp("10.7.1.5", "10.7.2.5", 0, 1300);
    packet[6] = 0x40;
    for _ in 0..300 {
        left.send(&packet);
    }
    assert_eq!(left.written().len(), 100);
    assert_eq!(happened(&left, PathEvent::Limited), 200);
    left.now += Duration::from_millis(100);
    for _ in 0..50 {
        left.send(&packet);
    }
    assert_eq!(left.written().len(), 10);
}

#[test]
fn the_mss_follows_the_path_in_both_directions() {
    let (mut left, mut right) = ends_with(DfRule::Copy);
    learn(&mut left, 1300);
    let mss = |packet: &[u8]| u16::from_be_bytes([packet[42], packet[43]]);
    let syn = |src, dst| {
        let (header, mut packet) = transport(src, dst, 0, 6, 2, 0, 0);
        packet[40..44].copy_from_slice(&[2, 4, 5, 180]);
        (header, packet)
    };
    let (header, packet) = syn("10.7.1.5", "10.7.2.5");
    left.send_burst(&header, &packet);
    deliver(&mut left, &mut right);
    assert_eq!(mss(&right.written()[0]), 1238 - 40);
    let (header, packet) = syn("10.7.2.5", "10.7.1.5");
    right.send_burst(&header, &packet);
    deliver(&mut right, &mut left);
    assert_eq!(mss(&left.written()[0]), 1238 - 40);
}
