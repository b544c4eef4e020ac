//! Fragments of inner packets, and ICMP errors that quote some.

use super::*;
use crate::pmtu::PathEvent;

/// Two ends whose selectors are those.
fn ends_of(left_net: &[&str], right_net: &[&str], fragments_too: bool) -> (End, End) {
    let (mut left, mut right) = ends();
    left.install(SaPair {
        ts_local: selectors(left_net),
        ts_remote: selectors(right_net),
        fragments_too,
        ..pair(true, gcm(), 0x1001, 0x2002)
    });
    right.install(SaPair {
        ts_local: selectors(right_net),
        ts_remote: selectors(left_net),
        fragments_too,
        ..pair(false, gcm(), 0x2002, 0x1001)
    });
    (left, right)
}

fn happened(end: &End, event: PathEvent) -> u64 {
    end.shard.counters().paths.get(event)
}

/// A UDP packet in fragments of at most `mtu` octets.
fn fragments(src: &str, dst: &str, payload: usize, mtu: usize) -> Vec<Vec<u8>> {
    let mut packet = udp(src, dst, 0, payload);
    packet[6] = 0;
    let summary = ip::packet::summarize(&packet).unwrap();
    let cut = ip::fragment::Cut::new(&packet, &summary, mtu).unwrap();
    let pieces = (0..cut.count()).map(|index| {
        let mut out = vec![0; cut.len_of(index)];
        cut.write(index, &mut out).unwrap();
        out
    });
    pieces.collect()
}

//= rfc4301#section-7.1
//= type=test
//# An SA defined in this fashion will carry all traffic including initial and non-initial fragments for the indicated
//# Local/Remote addresses and specified Next Layer protocol(s).
#[test]
fn fragments_pass_an_sa_without_ports_in_any_order() {
    for net in ["10.7.1.0/24", "10.7.1.0/24[udp]"] {
        let (mut left, mut right) = ends_of(&[net], &["10.7.2.0/24"], false);
        let mut pieces = fragments("10.7.1.5", "10.7.2.5", 1200, 500);
        pieces.reverse();
        for piece in &pieces {
            left.send(piece);
        }
        deliver(&mut left, &mut right);
        assert_eq!(right.written(), pieces, "{net}");
    }
}

//= rfc4301#section-7.3
//= type=test
//# Also, the receiver MUST discard non-initial fragments that do not comply with the security policy applied to the overall
//# packet.
#[test]
fn with_ports_later_fragments_follow_their_first_and_no_other() {
    let port = |net: &str| format!("{net}[udp/0-6000]");
    let (here, there) = (port("10.7.1.0/24"), port("10.7.2.0/24"));
    let (mut left, mut right) = ends_of(&[&here], &[&there], true);
    let pieces = fragments("10.7.1.5", "10.7.2.5", 1200, 500);
    assert_eq!(pieces.len(), 3);
    // Without its first, a later one finds no SA.
    left.send(&pieces[1]);
    assert_eq!((left.io.sent.len(), left.drops(DropReason::NoSa)), (0, 1));
    for piece in &pieces {
        left.send(piece);
    }
    deliver(&mut left, &mut right);
    assert_eq!(right.written(), pieces);
    assert_eq!(happened(&right, PathEvent::FragmentPassed), 2);
    // A sender that does not check: nothing but what follows a first one passes.
    let (mut left, _) = ends();
    let (_, mut right) = ends_of(&[&here], &[&there], true);
    left.send(&pieces[1]);
    deliver(&mut left, &mut right);
    assert!(right.written().is_empty());
    assert_eq!(happened(&right, PathEvent::FragmentUnknown), 1);
    assert_eq!(right.drops(DropReason::Fragment), 1);
}

//= rfc4301#section-7.3
//= type=test
//# However, a receiver MUST discard non-initial fragments that arrive on an SA with non-trivial port (or ICMP type/code or MH
//# type) selector values unless this feature has been negotiated.
#[test]
fn with_ports_and_without_agreement_no_later_fragment_passes() {
    let (_, mut right) = ends_of(&["10.7.1.0/24[udp/0-6000]"], &["10.7.2.0/24"], false);
    let (mut left, _) = ends();
    for piece in fragments("10.7.1.5", "10.7.2.5", 1200, 500) {
        left.send(&piece);
    }
    deliver(&mut left, &mut right);
    assert_eq!(right.written().len(), 1, "the first has ports");
    assert_eq!(right.drops(DropReason::Fragment), 2);
}

#[test]
fn tiny_and_overlapping_fragments_are_refused_on_both_sides() {
    let (mut left, mut right) = ends();
    let mut tiny = udp("10.7.1.5", "10.7.2.5", 0, 100);
    // The first eight octets of TCP, without its flags.
    (tiny[3], tiny[6], tiny[9]) = (28, 0x20, 6);
    left.send(&tiny);
    assert_eq!((left.drops(DropReason::Fragment), left.io.sent.len()), (1, 0));
    assert_eq!(happened(&left, PathEvent::FragmentMalicious), 1);
    let with_ports = ["10.7.1.0/24[udp/0-6000]"];
    let (_, mut strict) = ends_of(&with_ports, &["10.7.2.0/24"], true);
    let pieces = fragments("10.7.1.5", "10.7.2.5", 1200, 500);
    let mut overlapping = pieces[1].clone();
    // At 472 instead of 480.
    overlapping[7] -= 1;
    for piece in [&pieces[0], &overlapping, &pieces[2]] {
        left.send(piece);
    }
    deliver(&mut left, &mut strict);
    assert_eq!(strict.written(), [pieces[0].clone()]);
    assert_eq!(happened(&strict, PathEvent::FragmentOverlaps), 1);
    assert_eq!(happened(&strict, PathEvent::FragmentUnknown), 1, "the rest of it");
    right.turn();
}

/// An ICMP error from `src` about `packet`.
fn unreachable(src: [u8; 4], packet: &[u8]) -> Vec<u8> {
    let to = &packet[12..16];
    let mut error = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 1, 0, 0];
    error.extend_from_slice(&src);
    error.extend_from_slice(to);
    error.extend_from_slice(&[3, 1, 0, 0, 0, 0, 0, 0]);
    error.extend_from_slice(&packet[..28]);
    let total = (error.len() as u16).to_be_bytes();
    error[2..4].copy_from_slice(&total);
    error
}

//= rfc4301#section-6.2
//= type=test
//# If no SA exists that would carry the outbound ICMP message in question, and if no SPD entry would allow carriage of this
//# outbound ICMP error message, then an IPsec implementation MUST map the message to the SA that would carry the return
//# traffic associated with the packet that triggered the ICMP error message.
#[test]
fn an_error_of_a_router_goes_to_whom_it_is_about() {
    let (mut left, mut right) = ends();
    // A packet came from the right; a router on the left, of no selector, cannot deliver it.
    let packet = udp("10.7.2.5", "10.7.1.5", 0, 100);
    let error = unreachable([172, 16, 0, 1], &packet);
    left.send(&error);
    deliver(&mut left, &mut right);
    assert_eq!(right.written(), [error]);
    assert_eq!(happened(&left, PathEvent::ErrorPassed), 1);
    assert_eq!(happened(&right, PathEvent::ErrorPassed), 1);
}

//= rfc4301#section-6.2
//= type=test
//# Specifically, the receiver must extract the header of the triggering packet from the ICMP payload, and reverse fields as
//# described above to determine if the packet is consistent with the selectors for the SA via which the ICMP error message
//# was received.  If the packet fails this check, the IPsec implementation MUST NOT forwarded the ICMP message to the
//# destination.
#[test]
fn an_error_about_the_traffic_of_others_does_not_pass() {
    let (_, mut right) = ends();
    let mut left = End::new(LEFT, 0, 1, Arc::default());
    left.install(SaPair {
        ts_local: selectors(&["0.0.0.0/0"]),
        ..pair(true, gcm(), 0x1001, 0x2002)
    });
    let router = [172, 16, 0, 1];
    for packet in [
        // About a packet to a third party, and about one that somebody else sent.
        udp("10.7.2.5", "10.9.9.9", 0, 100),
        udp("10.9.9.9", "10.7.1.5", 0, 100),
    ] {
        let mut error = unreachable(router, &packet);
        error[16..20].copy_from_slice(&[10, 7, 2, 5]);
        left.send(&error);
    }
    // No error, and one from an address that is no router's.
    let mut question = unreachable(router, &udp("10.7.2.5", "10.7.1.5", 0, 100));
    question[20] = 8;
    left.send(&question);
    left.send(&unreachable([224, 0, 0, 1], &udp("10.7.2.5", "10.7.1.5", 0, 100)));
    assert_eq!(deliver(&mut left, &mut right), 4);
    assert!(right.written().is_empty());
    assert_eq!(right.drops(DropReason::SelectorMismatch), 4);
}
