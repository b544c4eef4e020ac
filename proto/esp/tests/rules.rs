//! The rules of RFC 4303 one by one, and hostile packets from a peer that holds the keys.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod common;

use common::*;
use crypto::aead::{Aad, AeadJob, BatchAead as _};
use crypto::{Cipher, Provider};
use esp::{Burst, DropReason, OutboundSa, PacketBuf, Usage, last_sequence};

/// Seals a plaintext as it is, trailer included, as a peer with evil intent could.
fn forge(sequence: u64, esn: bool, plaintext: &[u8]) -> Vec<u8> {
    let (params, _) = params(gcm(), esn);
    let (key, salt) = params.enc_key.expose().split_at(32);
    let key = crypto::aead::batch(Provider::AwsLc, Cipher::AesGcm16 { key_bits: 256 }, key).unwrap();
    let iv = [9u8; 8];
    let nonce: [u8; 12] = [salt, &iv].concat().try_into().unwrap();
    let full = [&SPI.to_be_bytes()[..], &sequence.to_be_bytes()].concat();
    let short = [&SPI.to_be_bytes()[..], &(sequence as u32).to_be_bytes()].concat();
    let aad = Aad::new(if esn { &full } else { &short }).unwrap();
    let mut data = [plaintext, &[0; 16]].concat();
    key.seal_batch(&mut [AeadJob {
        nonce,
        aad,
        data: &mut data,
    }])
    .unwrap();
    [&short[..], &iv, &data].concat()
}

//= rfc4303#section-3.3.3
//= type=test
//# Thus, the first packet sent using a given SA will contain a sequence number of 1.
#[test]
fn numbers_start_at_one_and_the_iv_is_generation_and_counter() {
    let (mut tx, _) = pair(gcm(), false);
    for n in 1..=3u8 {
        let wire = seal(&mut tx, &inner(4, 60, 1), 4);
        assert_eq!(wire[..4], SPI.to_be_bytes());
        assert_eq!(wire[4..8], [0, 0, 0, n]);
        assert_eq!(wire[8..16], [0, 7, 0, 0, 0, 0, 0, n]);
    }
}

#[test]
fn two_generations_never_share_an_iv() {
    let (mut outbound, inbound) = params(gcm(), false);
    let (mut old, _) = sas(&outbound, &inbound);
    outbound.generation = 8;
    let (mut new, _) = sas(&outbound, &inbound);
    let packet = inner(4, 60, 1);
    assert_ne!(
        seal(&mut old, &packet, 4)[8..16],
        seal(&mut new, &packet, 4)[8..16]
    );
}

//= rfc3602#section-3
//= type=test
//# The IV MUST be chosen at random, and MUST be unpredictable.
#[test]
fn cbc_takes_its_ivs_from_the_source() {
    let (mut tx, _) = pair(cbc(), false);
    let packet = inner(4, 60, 1);
    let ivs: std::collections::HashSet<Vec<u8>> = (0..50)
        .map(|_| seal(&mut tx, &packet, 4)[8..24].to_vec())
        .collect();
    assert_eq!(ivs.len(), 50);
    let (params, _) = params(cbc(), false);
    let mut own = OutboundSa::new(&params).unwrap();
    assert!(!ivs.contains(&seal(&mut own, &packet, 4)[8..24]));
}

//= rfc4303#section-3.3.3
//= type=test
//# In other words, the sender MUST NOT send a packet on an SA if doing so would cause the sequence number to cycle.
#[test]
fn the_last_number_is_used_once() {
    for esn in [false, true] {
        let (mut outbound, inbound) = params(gcm(), esn);
        outbound.first_seq = last_sequence(esn) - 1;
        let (mut tx, _) = sas(&outbound, &inbound);
        assert_eq!((tx.usage(), tx.remaining()), (Usage::Soft, 2));
        let mut buf = vec![0; 200];
        assert!(tx.seal(&mut buf, 40..100, 4).is_ok());
        assert!(tx.seal(&mut buf, 40..100, 4).is_ok());
        assert_eq!(buf[28..32], (last_sequence(esn) as u32).to_be_bytes());
        for _ in 0..3 {
            assert_eq!(tx.seal(&mut buf, 40..100, 4), Err(DropReason::SequenceExhausted));
        }
        assert_eq!((tx.usage(), tx.remaining()), (Usage::Exhausted, 0));
    }
}

#[test]
fn soft_exhaustion_comes_before_the_end() {
    let (mut outbound, inbound) = params(gcm(), false);
    assert_eq!(sas(&outbound, &inbound).0.usage(), Usage::Fine);
    outbound.first_seq = last_sequence(false) - last_sequence(false) / 8;
    let (mut tx, _) = sas(&outbound, &inbound);
    assert_eq!(tx.usage(), Usage::Fine);
    seal(&mut tx, &inner(4, 60, 1), 4);
    assert_eq!(tx.usage(), Usage::Soft);
}

#[test]
fn the_ceiling_holds_and_rises() {
    let (mut outbound, inbound) = params(gcm(), true);
    (outbound.first_seq, outbound.ceiling) = (1000, 1002);
    let (mut tx, _) = sas(&outbound, &inbound);
    let mut slab = vec![0; 4000];
    let burst = Burst {
        offset: 0,
        segments: 4,
        inner_len: 100,
        last_len: 100,
    };
    // A burst that does not fit under the ceiling leaves every number unused.
    assert_eq!(
        tx.seal_burst(&mut slab, burst, 4),
        Err(DropReason::SequenceCeiling)
    );
    assert_eq!((tx.next_sequence(), tx.remaining()), (1000, 3));
    for _ in 0..3 {
        assert!(tx.seal(&mut slab, 40..100, 4).is_ok());
    }
    assert_eq!(tx.seal(&mut slab, 40..100, 4), Err(DropReason::SequenceCeiling));
    tx.raise_ceiling(900);
    assert_eq!(tx.ceiling(), 1002);
    tx.raise_ceiling(1006);
    assert!(tx.seal_burst(&mut slab, burst, 4).is_ok());
    assert_eq!(tx.next_sequence(), 1007);
}

#[test]
fn room_is_checked_before_a_number_is_spent() {
    let (mut tx, _) = pair(gcm(), false);
    let mut buf = vec![0; 200];
    assert_eq!(tx.seal(&mut buf, 15..100, 4), Err(DropReason::HeadRoom));
    assert_eq!(tx.seal(&mut buf, 16..183, 4), Err(DropReason::TailRoom));
    let backwards = std::ops::Range { start: 100, end: 16 };
    assert_eq!(tx.seal(&mut buf, backwards, 4), Err(DropReason::TooLong));
    assert_eq!(tx.seal(&mut buf, 16..usize::MAX, 4), Err(DropReason::TooLong));
    assert_eq!(
        tx.seal(&mut vec![0; 70_000], 16..65_530, 4),
        Err(DropReason::TooLong)
    );
    for burst in [
        Burst {
            offset: 0,
            segments: 0,
            inner_len: 50,
            last_len: 50,
        },
        Burst {
            offset: 0,
            segments: 9,
            inner_len: 50,
            last_len: 50,
        },
        Burst {
            offset: usize::MAX,
            segments: 2,
            inner_len: 50,
            last_len: 50,
        },
        Burst {
            offset: 0,
            segments: usize::MAX,
            inner_len: 50,
            last_len: 50,
        },
        Burst {
            offset: 0,
            segments: 1,
            inner_len: 50,
            last_len: 51,
        },
        Burst {
            offset: 0,
            segments: 1,
            inner_len: usize::MAX / 2,
            last_len: 1,
        },
    ] {
        assert!(tx.seal_burst(&mut buf, burst, 4).is_err(), "{burst:?}");
    }
    assert_eq!(tx.next_sequence(), 1);
}

#[test]
fn a_full_datagram_of_64_kib_goes_through() {
    for suite in [gcm(), cbc()] {
        let (mut tx, mut rx) = pair(suite, false);
        let packet = inner(6, 65_400, 5);
        let wire = seal(&mut tx, &packet, 41);
        assert_eq!(open(&mut rx, &wire).unwrap(), packet);
    }
}

//= rfc4303#section-2.4
//= type=test
//# When this padding scheme is employed, the receiver SHOULD inspect the Padding field.
#[test]
fn lying_padding_is_refused_and_the_window_moves_all_the_same() {
    let (_, mut rx) = pair(gcm(), false);
    let packet = inner(4, 20, 1);
    let with = |tail: &[u8]| [&packet[..], tail].concat();
    assert!(open(&mut rx, &forge(1, false, &with(&[1, 2, 2, 4]))).is_ok());
    assert_eq!(
        open(&mut rx, &forge(2, false, &with(&[1, 3, 2, 4]))),
        Err(DropReason::PadContent)
    );
    assert_eq!(
        open(&mut rx, &forge(3, false, &with(&[0, 0, 2, 4]))),
        Err(DropReason::PadContent)
    );
    assert_eq!(
        open(&mut rx, &forge(4, false, &with(&[1, 2, 23, 4]))),
        Err(DropReason::PadLength)
    );
    assert_eq!(
        open(&mut rx, &forge(5, false, &with(&[1, 2, 255, 4]))),
        Err(DropReason::PadLength)
    );
    assert_eq!(
        open(&mut rx, &forge(6, false, &[2, 4, 255, 4])),
        Err(DropReason::PadLength)
    );
    assert_eq!(rx.highest_seq(), 6);
    // The longest padding there is, and more than alignment needs.
    let pad: Vec<u8> = (1..=254).collect();
    assert_eq!(
        open(&mut rx, &forge(7, false, &with(&[&pad[..], &[254, 4]].concat()))).unwrap(),
        packet
    );
    // Padding that eats the packet.
    let pad: Vec<u8> = (1..=22).collect();
    assert_eq!(
        open(&mut rx, &forge(8, false, &[&pad[..], &[22, 4]].concat())),
        Err(DropReason::InnerMalformed)
    );
}

#[test]
fn each_octet_of_padding_is_looked_at() {
    let (_, mut rx) = pair(gcm(), false);
    let mut sequence = 0;
    for octets in [2_u8, 6, 10, 250] {
        let packet = inner(4, 28, 1);
        let sealed: Vec<u8> = [&packet[..], &(1..=octets).collect::<Vec<u8>>(), &[octets, 4]].concat();
        for wrong in 0..=usize::from(octets) {
            let mut sealed = sealed.clone();
            if wrong < usize::from(octets) {
                sealed[packet.len() + wrong] ^= 0x40;
            }
            sequence += 1;
            let opened = open(&mut rx, &forge(sequence, false, &sealed));
            if wrong < usize::from(octets) {
                assert_eq!(opened, Err(DropReason::PadContent), "{wrong} of {octets}");
            } else {
                assert_eq!(opened.unwrap(), packet, "{octets}");
            }
        }
    }
}

//= rfc4303#section-2.6
//= type=test
//# A transmitter MUST be capable of generating dummy packets marked with this value in the next protocol field, and a
//# receiver MUST be prepared to discard such packets, without indicating an error.
#[test]
fn dummies_are_made_and_discarded() {
    for suite in [gcm(), cbc()] {
        let (mut tx, mut rx) = pair(suite, true);
        let mut buf = vec![0x5a; 200];
        for payload in [0, 1, 77] {
            let esp = tx.seal_dummy(&mut buf, 40..40 + payload).unwrap();
            assert_eq!(rx.open(&mut buf, esp), Err(DropReason::Dummy));
        }
        assert_eq!(rx.highest_seq(), 3);
        assert!(DropReason::Dummy.is_authentic());
    }
}

#[test]
fn only_whole_ip_packets_come_out() {
    let (_, mut rx) = pair(gcm(), false);
    let mut sequence = 0;
    let mut try_open = |payload: &[u8], next_header: u8| {
        sequence += 1;
        let pad: Vec<u8> = (1..=((4 - (payload.len() + 2) % 4) % 4) as u8).collect();
        let plain = [payload, &pad, &[pad.len() as u8, next_header]].concat();
        open(&mut rx, &forge(sequence, false, &plain))
    };
    for next_header in [0, 1, 6, 17, 50, 51, 58, 60, 255] {
        assert_eq!(
            try_open(&inner(4, 40, 1), next_header),
            Err(DropReason::NextHeader)
        );
    }
    let (v4, v6) = (inner(4, 40, 1), inner(6, 60, 1));
    assert_eq!(try_open(&v4, 41), Err(DropReason::InnerMalformed));
    assert_eq!(try_open(&v6, 4), Err(DropReason::InnerMalformed));
    assert_eq!(try_open(&[], 4), Err(DropReason::InnerMalformed));
    assert_eq!(try_open(&v4[..39], 4), Err(DropReason::InnerMalformed));
    assert_eq!(try_open(&v6[..59], 41), Err(DropReason::InnerMalformed));
    let mut short = v4.clone();
    short[3] = 19;
    assert_eq!(try_open(&short, 4), Err(DropReason::InnerMalformed));
    // What follows the packet is TFC padding, whatever it contains.
    assert_eq!(try_open(&[&v4[..], &[7; 100]].concat(), 4).unwrap(), v4);
    assert_eq!(try_open(&[&v6[..], &[7; 100]].concat(), 41).unwrap(), v6);
}

#[test]
fn runts_and_crooked_lengths() {
    for suite in suites() {
        let (mut tx, mut rx) = pair(suite, false);
        let wire = seal(&mut tx, &inner(4, 60, 1), 4);
        let layout = tx.layout();
        for len in 0..wire.len() {
            let reason = open(&mut rx, &wire[..len]).unwrap_err();
            let body = len.saturating_sub(layout.head() + layout.icv);
            let expect = match body {
                0 | 1 => DropReason::TooShort,
                n if n % layout.align != 0 => DropReason::Misaligned,
                _ => DropReason::NotAuthentic,
            };
            assert_eq!(reason, expect, "{suite} {len}");
        }
        assert!(open(&mut rx, &wire).is_ok());
    }
}

//= rfc4303#section-2.2.1
//= type=test
//# If a separate integrity algorithm is employed, the high order bits are included in the implicit ESP trailer, but are
//# not transmitted, analogous to integrity algorithm padding bits.
#[test]
fn extended_numbers_cross_into_the_next_subspace_out_of_order() {
    for suite in suites() {
        let (mut outbound, mut inbound) = params(suite, true);
        outbound.first_seq = (1 << 32) - 20;
        inbound.checkpoint = (1 << 32) - 40;
        let (mut tx, mut rx) = sas(&outbound, &inbound);
        let packet = inner(6, 80, 1);
        let mut wires: Vec<Vec<u8>> = (0..40).map(|_| seal(&mut tx, &packet, 41)).collect();
        for chunk in wires.chunks_mut(7) {
            chunk.reverse();
        }
        for wire in &wires {
            assert_eq!(open(&mut rx, wire).unwrap(), packet, "{suite}");
            assert_eq!(open(&mut rx, wire), Err(DropReason::ReplayDuplicate));
        }
        assert_eq!(rx.highest_seq(), (1 << 32) + 19);
        // The same octets under another high half are a forgery.
        inbound.checkpoint = 0;
        assert_eq!(
            open(&mut sas(&outbound, &inbound).1, &wires[39]),
            Err(DropReason::NotAuthentic)
        );
    }
}

#[test]
fn without_extension_number_zero_and_wrapping_are_refused() {
    let (_, mut rx) = pair(gcm(), false);
    let plain = [&inner(4, 20, 1)[..], &[1, 2, 2, 4]].concat();
    assert_eq!(
        open(&mut rx, &forge(0, false, &plain)),
        Err(DropReason::SequenceZero)
    );
    assert!(open(&mut rx, &forge(u64::from(u32::MAX), false, &plain)).is_ok());
    assert_eq!(
        open(&mut rx, &forge(1, false, &plain)),
        Err(DropReason::ReplayOld)
    );
    // A leap of 2^31 is a leap and nothing worse.
    let (_, mut rx) = pair(gcm(), true);
    assert!(open(&mut rx, &forge(1 << 31, true, &plain)).is_ok());
    assert!(open(&mut rx, &forge(1 << 32, true, &plain)).is_ok());
    assert!(open(&mut rx, &forge((1 << 32) + (1 << 31), true, &plain)).is_ok());
}

//= rfc4303#appendix-A3.2
//= type=test
//# These values are generated by incrementing by one for each retry.
#[test]
fn an_sa_finds_its_peer_again_after_losing_more_than_2_to_the_32_packets() {
    for suite in [gcm(), cbc()] {
        for spaces in 1..=3u64 {
            let (mut outbound, inbound) = params(suite, true);
            let (mut tx, mut rx) = sas(&outbound, &inbound);
            let packet = inner(4, 60, 1);
            assert!(open(&mut rx, &seal(&mut tx, &packet, 4)).is_ok());
            outbound.first_seq = (spaces << 32) + 500;
            let (mut tx, _) = sas(&outbound, &inbound);
            let mut lost = 0u32;
            while open(&mut rx, &seal(&mut tx, &packet, 4)).is_err() {
                lost += 1;
                assert!(lost < 1024 + 64, "{spaces}");
            }
            assert_eq!((lost >= 1024, rx.consecutive_failures()), (true, 0));
            assert!(open(&mut rx, &seal(&mut tx, &packet, 4)).is_ok());
        }
    }
}

//= rfc4303#appendix-A3.1
//= type=test
//# Receipt of a valid packet on the SA resets the counter to zero.
#[test]
fn a_flood_of_forgeries_does_not_lock_the_peer_out() {
    let (mut tx, mut rx) = pair(gcm(), true);
    let good = inner(4, 60, 1);
    let mut bad = seal(&mut tx, &good, 4);
    bad[40] ^= 1;
    bad[4..8].copy_from_slice(&[0, 0, 0x20, 0]);
    let (mut through, mut sent) = (0, 0);
    for _ in 0..100 {
        for _ in 0..1100 {
            assert_eq!(open(&mut rx, &bad), Err(DropReason::NotAuthentic));
        }
        sent += 1;
        through += u32::from(open(&mut rx, &seal(&mut tx, &good, 4)).is_ok());
    }
    assert!(through * 10 >= sent * 8, "{through} of {sent}");
}

//= rfc4303#section-3.4.3
//= type=test
//# For each received packet, the receiver MUST verify that the packet contains a Sequence Number that does not duplicate
//# the Sequence Number of any other packets received during the life of this SA.
#[test]
fn a_packet_twice_in_one_batch_comes_out_once() {
    for suite in [gcm(), cbc()] {
        let (mut tx, mut rx) = pair(suite, false);
        let wire = seal(&mut tx, &inner(4, 60, 1), 4);
        let mut copies = vec![wire; 40];
        let mut batch: Vec<PacketBuf<'_>> = copies
            .iter_mut()
            .map(|c| {
                let end = c.len();
                PacketBuf::inbound(c, 0, end)
            })
            .collect();
        rx.open_batch(&mut batch);
        assert_eq!(batch[0].result, Ok(()));
        assert!(
            batch[1..]
                .iter()
                .all(|p| p.result == Err(DropReason::ReplayDuplicate))
        );
    }
}

#[test]
fn a_restored_sa_refuses_everything_before_its_checkpoint() {
    let (outbound, mut inbound) = params(gcm(), false);
    let (mut tx, _) = sas(&outbound, &inbound);
    let wires: Vec<Vec<u8>> = (0..20).map(|_| seal(&mut tx, &inner(4, 60, 1), 4)).collect();
    inbound.checkpoint = 15;
    let (_, mut rx) = sas(&outbound, &inbound);
    for (i, wire) in wires.iter().enumerate() {
        assert_eq!(open(&mut rx, wire).is_ok(), i >= 15);
    }
}

#[test]
fn only_an_advancing_packet_says_so() {
    let (mut tx, mut rx) = pair(gcm(), false);
    let mut wires: Vec<Vec<u8>> = (0..3).map(|_| seal(&mut tx, &inner(4, 60, 1), 4)).collect();
    let mut advanced = |i: usize| {
        let end = wires[i].len();
        rx.open(&mut wires[i], 0..end).unwrap().advanced
    };
    assert_eq!((advanced(0), advanced(2), advanced(1)), (true, true, false));
}

#[test]
fn keys_of_the_wrong_length_are_refused() {
    for suite in suites() {
        let (mut outbound, mut inbound) = params(suite, false);
        outbound.enc_key = crypto::Secret::from(&outbound.enc_key.expose()[1..]);
        inbound.enc_key = outbound.enc_key.clone();
        assert!(OutboundSa::new(&outbound).is_err() && esp::InboundSa::new(&inbound).is_err());
        outbound.enc_key = crypto::Secret::from(&b""[..]);
        assert!(OutboundSa::new(&outbound).is_err());
    }
}
