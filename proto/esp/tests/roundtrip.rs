//! Properties of sealing and opening over every suite: what goes in comes out, alone, in batches and in bursts.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod common;

use common::*;
use crypto::Suite;
use esp::{Burst, DropReason, PacketBuf};
use proptest::prelude::*;

fn suite() -> impl Strategy<Value = Suite> {
    prop::sample::select(suites())
}

fn version() -> impl Strategy<Value = u8> {
    prop_oneof![Just(4u8), Just(6)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn what_is_sealed_opens_again(suite in suite(), esn: bool, version in version(), len in 20usize..1500, tfc in prop_oneof![Just(0u16), 0u16..1500], seed: u64) {
        let (mut outbound, inbound) = params(suite, esn);
        outbound.tfc_pad_to = tfc;
        let (mut tx, mut rx) = sas(&outbound, &inbound);
        let packet = inner(version, len, seed);
        for _ in 0..3 {
            let wire = seal(&mut tx, &packet, next_header(version));
            prop_assert_eq!(wire.len(), tx.sealed_len(packet.len()));
            prop_assert_eq!(wire.len() % 4, 0);
            prop_assert!(wire.len() >= usize::from(tfc));
            prop_assert_eq!(open(&mut rx, &wire).unwrap(), &packet[..]);
            prop_assert_eq!(open(&mut rx, &wire), Err(DropReason::ReplayDuplicate));
        }
    }

    /// Whatever bit changes, nothing comes out, and the window does not move.
    #[test]
    fn a_changed_bit_is_noticed(suite in suite(), esn: bool, len in 20usize..200, at: prop::sample::Index, bit in 0u8..8) {
        let (mut tx, mut rx) = pair(suite, esn);
        let good = seal(&mut tx, &inner(4, len, 3), 4);
        let mut bad = good.clone();
        *at.get_mut(&mut bad) ^= 1 << bit;
        let reason = open(&mut rx, &bad).unwrap_err();
        prop_assert!([DropReason::NotAuthentic, DropReason::UnknownSpi, DropReason::SequenceZero, DropReason::ReplayOld].contains(&reason), "{}", reason);
        prop_assert_eq!(rx.highest_seq(), 0);
        prop_assert!(open(&mut rx, &good).is_ok());
    }

    #[test]
    fn any_octets_are_answered(suite in suite(), esn: bool, mut octets in prop::collection::vec(any::<u8>(), 0..160), ours: bool, a in 0usize..200, b in 0usize..200) {
        let (_, mut rx) = pair(suite, esn);
        if ours && octets.len() >= 4 {
            octets[..4].copy_from_slice(&SPI.to_be_bytes());
        }
        let end = octets.len();
        prop_assert!(rx.open(&mut octets, 0..end).is_err());
        // Ranges that do not lie in the buffer are no reason to panic either.
        prop_assert!(rx.open(&mut octets, a..b).is_err());
        let mut seen = 0;
        rx.open_burst(&mut octets, 0..end, a % 50, |index, result| {
            assert_eq!(index, seen);
            assert!(result.is_err());
            seen += 1;
        });
        prop_assert_eq!(seen, end.div_ceil((a % 50).max(1)));
        rx.open_burst(&mut octets, a..b, 7, |_, result| assert!(result.is_err()));
    }

    /// Batches and bursts give the octets that single packets give. (CBC draws its IVs in another order within a batch
    /// only if the order of packets differed, which it must not.)
    #[test]
    fn batches_and_bursts_equal_single_packets(suite in suite(), esn: bool, count in 1usize..80, len in 40usize..300, last in 20usize..300, seed: u64) {
        let last = last.min(len);
        let packets: Vec<Vec<u8>> = (0..count).map(|i| inner(4, if i + 1 == count { last } else { len }, seed ^ i as u64)).collect();
        let (mut one, mut rx) = pair(suite, esn);
        let single: Vec<Vec<u8>> = packets.iter().map(|p| seal(&mut one, p, 4)).collect();

        let (mut many, mut rx_batch) = pair(suite, esn);
        let mut buffers: Vec<Vec<u8>> = packets.iter().map(|p| [&[0; 30][..], p, &[0; 60]].concat()).collect();
        let mut batch: Vec<PacketBuf<'_>> = buffers.iter_mut().map(|b| { let end = b.len() - 60; PacketBuf::outbound(b, 30, end, 4) }).collect();
        many.seal_batch(&mut batch);
        for (packet, expect) in batch.iter().zip(&single) {
            prop_assert_eq!(packet.result, Ok(()));
            prop_assert_eq!(packet.packet(), &expect[..]);
        }

        let (mut burst, mut rx_burst) = pair(suite, esn);
        let stride = burst.sealed_len(len);
        let mut slab = vec![0u8; 100 + count * stride];
        for (i, p) in packets.iter().enumerate() {
            let at = 10 + i * stride + burst.layout().head();
            slab[at..at + p.len()].copy_from_slice(p);
        }
        let sent = burst.seal_burst(&mut slab, Burst { offset: 10, segments: count, inner_len: len, last_len: packets[count - 1].len() }, 4).unwrap();
        prop_assert_eq!(&slab[sent.clone()], &single.concat()[..]);

        // And all three open.
        rx_batch.open_batch(&mut batch);
        for (packet, expect) in batch.iter().zip(&packets) {
            prop_assert_eq!((packet.result, packet.next_header), (Ok(()), 4));
            prop_assert_eq!(packet.packet(), &expect[..]);
        }
        let mut ranges = Vec::new();
        rx_burst.open_burst(&mut slab, sent, stride, |_, result| ranges.push(result.unwrap().inner));
        prop_assert_eq!(ranges.len(), count);
        for (range, expect) in ranges.into_iter().zip(&packets) {
            prop_assert_eq!(&slab[range], &expect[..]);
        }
        for (wire, expect) in single.iter().zip(&packets) {
            prop_assert_eq!(&open(&mut rx, wire).unwrap(), expect);
        }
        prop_assert_eq!((rx.highest_seq(), rx_batch.highest_seq(), rx_burst.highest_seq()), (count as u64, count as u64, count as u64));
    }

    /// A burst with forgeries, replays and foreign packets in it: the good segments come out, each once.
    #[test]
    fn bad_segments_do_not_harm_their_neighbours(suite in suite(), faults in prop::collection::vec(0u8..4, 1..70)) {
        let (mut tx, mut rx) = pair(suite, false);
        let mut slab = Vec::new();
        let mut expect = Vec::new();
        let mut last_good: Option<Vec<u8>> = None;
        for (i, fault) in faults.iter().enumerate() {
            let packet = inner(4, 100, i as u64);
            let mut wire = seal(&mut tx, &packet, 4);
            let outcome = match (fault, &last_good) {
                (1, _) => { let n = wire.len(); wire[n - 1] ^= 1; Err(DropReason::NotAuthentic) }
                (2, _) => { wire[0] ^= 1; Err(DropReason::UnknownSpi) }
                (3, Some(old)) => { wire = old.clone(); Err(DropReason::ReplayDuplicate) }
                _ => { last_good = Some(wire.clone()); Ok(packet) }
            };
            expect.push(outcome);
            slab.extend_from_slice(&wire);
        }
        let (stride, end) = (tx.sealed_len(100), slab.len());
        let mut copy = slab.clone();
        let mut results = Vec::new();
        rx.open_burst(&mut slab, 0..end, stride, |_, r| results.push(r));
        let results: Vec<_> = results.into_iter().map(|r| r.map(|o| slab[o.inner].to_vec())).collect();
        prop_assert_eq!(&results, &expect);

        let (_, mut rx) = pair(suite, false);
        let mut batch: Vec<PacketBuf<'_>> = copy.chunks_mut(stride).map(|b| { let n = b.len(); PacketBuf::inbound(b, 0, n) }).collect();
        rx.open_batch(&mut batch);
        let results: Vec<_> = batch.iter().map(|p| p.result.map(|()| p.packet().to_vec())).collect();
        prop_assert_eq!(&results, &expect);
    }
}
