#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use proptest::prelude::*;

use super::*;
use crate::packet::summarize;

fn v4(options: &[u8], field: u16, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let header = 20 + options.len();
    let mut p = vec![0u8; 20];
    p[0] = 0x40 | (header / 4) as u8;
    p[2..4].copy_from_slice(&((header + payload.len()) as u16).to_be_bytes());
    p[4..6].copy_from_slice(&77u16.to_be_bytes());
    p[6..8].copy_from_slice(&field.to_be_bytes());
    p[8..10].copy_from_slice(&[64, protocol]);
    p[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
    p.extend_from_slice(options);
    let sum = checksum::checksum(&p).to_be_bytes();
    p[10..12].copy_from_slice(&sum);
    p.extend_from_slice(payload);
    p
}

fn v6(chain: &[u8], first: u8) -> Vec<u8> {
    let mut p = vec![0u8; 40];
    p[0] = 0x60;
    p[4..6].copy_from_slice(&(chain.len() as u16).to_be_bytes());
    (p[6], p[7]) = (first, 64);
    (p[8], p[24]) = (0xfd, 0xfe);
    p.extend_from_slice(chain);
    p
}

fn cut(packet: &[u8], mtu: usize) -> Option<Vec<Vec<u8>>> {
    let summary = summarize(packet).unwrap();
    let cut = Cut::new(packet, &summary, mtu)?;
    let pieces = (0..cut.count()).map(|index| {
        let mut out = vec![0xee; cut.len_of(index)];
        cut.write(index, &mut out).unwrap();
        out
    });
    Some(pieces.collect())
}

proptest! {
    /// Put together again, the pieces are the packet; each fits, and as few as possible are made.
    #[test]
    fn pieces_make_the_packet_again(
        payload in proptest::collection::vec(any::<u8>(), 1..4000),
        mtu in 68usize..1500,
        offset in 0u16..1000,
        more: bool,
    ) {
        let packet = v4(&[], if more { MORE } else { 0 } | offset, 17, &payload);
        let Some(pieces) = cut(&packet, mtu) else {
            prop_assert!(packet.len() <= mtu);
            return Ok(());
        };
        prop_assert!(pieces.len() >= 2);
        prop_assert_eq!(pieces.len(), payload.len().div_ceil((mtu - 20) / 8 * 8));
        let mut back = Vec::new();
        for (number, piece) in pieces.iter().enumerate() {
            prop_assert!(piece.len() <= mtu);
            let summary = summarize(piece).unwrap();
            prop_assert_eq!(summary.total_len, piece.len());
            prop_assert_eq!(checksum::checksum(&piece[..20]), 0);
            let last = number + 1 == pieces.len();
            let is_fragment = super::piece(piece, &summary);
            let facts = is_fragment.unwrap();
            prop_assert_eq!((facts.id, facts.protocol), (77, 17));
            prop_assert_eq!(facts.start, usize::from(offset) * 8 + back.len());
            prop_assert_eq!(facts.more, !last || more);
            back.extend_from_slice(&piece[20..]);
            prop_assert_eq!(facts.end, usize::from(offset) * 8 + back.len());
        }
        prop_assert_eq!(back, payload);
    }

    #[test]
    fn no_octets_are_too_strange(octets in proptest::collection::vec(any::<u8>(), 0..200), mtu in 0usize..200) {
        if let Ok(summary) = summarize(&octets) {
            let _ = Cut::new(&octets, &summary, mtu).map(|cut| cut.count());
            if let Some(piece) = piece(&octets, &summary) {
                let _ = is_malicious(&piece, &summary);
            }
        }
    }
}

#[test]
fn what_must_not_be_cut_is_not() {
    assert!(cut(&v4(&[], 0x4000, 17, &[0; 1400]), 1300).is_none(), "DF");
    assert!(cut(&v4(&[], 0, 17, &[0; 1280]), 1300).is_none(), "it fits");
    assert!(
        cut(&v4(&[], 0, 17, &[0; 100]), 27).is_none(),
        "no room for payload"
    );
    assert!(cut(&v6(&[0; 1400], 17), 1300).is_none(), "IPv6");
}

#[test]
fn only_options_that_are_to_be_copied_are_in_later_fragments() {
    // Record route (not copied), no operation, loose source route (copied), end.
    let options = [7, 3, 4, 1, 0x83, 7, 4, 9, 9, 9, 9, 0];
    let packet = v4(&options, 0, 17, &[5; 200]);
    let pieces = cut(&packet, 100).unwrap();
    assert_eq!(pieces[0][20..32], options);
    assert_eq!(pieces[1][0], 0x47);
    assert_eq!(pieces[1][20..28], [0x83, 7, 4, 9, 9, 9, 9, 0]);
    assert_eq!(checksum::checksum(&pieces[1][..28]), 0);
    let payload: usize = pieces.iter().map(|p| p.len() - usize::from(p[0] & 15) * 4).sum();
    assert_eq!(payload, 200);
}

#[test]
fn ipv6_fragments_are_found_behind_other_headers() {
    // Hop-by-hop, then a fragment at 1480 of packet 0x01020304, more to come.
    let chain = [
        &[44, 0, 0, 0, 0, 0, 0, 0][..],
        &[17, 0, 5, 0xc9, 1, 2, 3, 4],
        &[7; 24],
    ]
    .concat();
    let packet = v6(&chain, 0);
    let facts = piece(&packet, &summarize(&packet).unwrap()).unwrap();
    assert_eq!((facts.start, facts.end, facts.more), (1480, 1504, true));
    assert_eq!(facts.id, 0x0102_0304);
    assert_eq!(
        piece(&v6(&[0; 8], 17), &summarize(&v6(&[0; 8], 17)).unwrap()),
        None
    );
}

#[test]
fn tiny_and_odd_fragments_are_malicious() {
    let judge = |packet: &[u8]| {
        let summary = summarize(packet).unwrap();
        is_malicious(&piece(packet, &summary).unwrap(), &summary)
    };
    assert!(judge(&v4(&[], MORE, 6, &[0; 8])), "TCP flags are in the next one");
    assert!(!judge(&v4(&[], MORE, 6, &[0; 16])));
    assert!(judge(&v4(&[], MORE | 1, 6, &[0; 16])), "overwrites TCP flags");
    assert!(!judge(&v4(&[], MORE | 1, 17, &[0; 16])));
    assert!(judge(&v4(&[], MORE, 17, &[0; 4])), "UDP without its header");
    assert!(
        judge(&v4(&[], MORE | 9, 17, &[0; 12])),
        "the middle is no multiple of eight"
    );
    assert!(!judge(&v4(&[], 9, 17, &[0; 12])), "the end may be any");
    assert!(judge(&v4(&[], 0x1fff, 17, &[0; 12])), "beyond the largest packet");
    let first = |payload: &[u8]| v6(&[&[6, 0, 0, 1, 0, 0, 0, 1][..], payload].concat(), 44);
    assert!(judge(&first(&[0; 16])));
    assert!(!judge(&first(&[0; 24])));
}
