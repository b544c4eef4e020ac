//! Cutting bursts and joining packets, against slow models and each other.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use super::*;
use crate::segment::Burst;
use proptest::prelude::*;

const ALL: Offloads = Offloads {
    checksum: true,
    tcp: true,
    udp: true,
};

#[derive(Default)]
struct Written(Vec<(VnetHeader, Vec<u8>, usize)>);

impl Sink for Written {
    fn write(&mut self, _domain: usize, parts: &[IoSlice<'_>], packets: usize) {
        let header = VnetHeader::read(&parts[0]).unwrap();
        self.0.push((
            header,
            parts[1..].iter().flat_map(|p| p.iter().copied()).collect(),
            packets,
        ));
    }
}

/// RFC 1071, word by word.
fn slow_sum(parts: &[&[u8]]) -> u16 {
    let octets: Vec<u8> = parts.concat();
    let mut total = 0u32;
    for pair in octets.chunks(2) {
        total += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
    }
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}

fn slow_transport_is_right(packet: &[u8]) -> bool {
    let v4 = packet[0] >> 4 == 4;
    let (start, protocol) = if v4 { (20, packet[9]) } else { (40, packet[6]) };
    let len = (packet.len() - start) as u16;
    let addresses = if v4 { &packet[12..20] } else { &packet[8..40] };
    slow_sum(&[addresses, &[0, protocol], &len.to_be_bytes(), &packet[start..]]) == 0xffff
}

#[derive(Clone, Debug)]
struct Made {
    v4: bool,
    tcp: bool,
    options: usize,
    flags: u8,
    id: u16,
    sequence: u32,
    size: u16,
    payload: Vec<u8>,
    port: u16,
}

/// A burst as the kernel hands it over: lengths of the whole, pseudo header sum in the checksum field.
fn burst(made: &Made) -> (VnetHeader, Vec<u8>) {
    let transport = if made.v4 { 20 } else { 40 };
    let header = if made.tcp { 20 + made.options * 4 } else { 8 };
    let total = transport + header + made.payload.len();
    let mut p = vec![0u8; transport];
    if made.v4 {
        p[0] = 0x45;
        p[1] = 0x28;
        p[2..4].copy_from_slice(&(total as u16).to_be_bytes());
        p[4..6].copy_from_slice(&made.id.to_be_bytes());
        p[6] = 0x40;
        p[8] = 64;
        p[9] = if made.tcp { 6 } else { 17 };
        p[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 9, 8, 7]);
        let c = !slow_sum(&[&p]);
        p[10..12].copy_from_slice(&c.to_be_bytes());
    } else {
        p[0] = 0x60;
        p[1] = 5;
        p[4..6].copy_from_slice(&((total - 40) as u16).to_be_bytes());
        p[6] = if made.tcp { 6 } else { 17 };
        p[7] = 60;
        p[8..40].copy_from_slice(&std::array::from_fn::<u8, 32, _>(|i| i as u8 * 7));
    }
    let mut t = vec![0u8; header];
    t[..2].copy_from_slice(&made.port.to_be_bytes());
    t[2..4].copy_from_slice(&443u16.to_be_bytes());
    let csum_offset = if made.tcp {
        t[4..8].copy_from_slice(&made.sequence.to_be_bytes());
        t[8..12].copy_from_slice(&77u32.to_be_bytes());
        t[12] = (header as u8 / 4) << 4;
        t[13] = made.flags;
        t[14..16].copy_from_slice(&501u16.to_be_bytes());
        t[20..].fill(1);
        16
    } else {
        t[4..6].copy_from_slice(&((total - transport) as u16).to_be_bytes());
        6
    };
    let addresses = if made.v4 { &p[12..20] } else { &p[8..40] };
    let protocol = if made.tcp { 6 } else { 17 };
    let partial = slow_sum(&[
        addresses,
        &[0, protocol],
        &((total - transport) as u16).to_be_bytes(),
    ]);
    t[csum_offset..csum_offset + 2].copy_from_slice(&partial.to_be_bytes());
    p.extend_from_slice(&t);
    p.extend_from_slice(&made.payload);
    let is_burst = made.payload.len() > usize::from(made.size);
    let gso = match (is_burst, made.tcp, made.v4) {
        (false, ..) => Gso::None,
        (_, true, true) => Gso::Tcp4,
        (_, true, false) => Gso::Tcp6,
        (_, false, _) => Gso::Udp,
    };
    let header = VnetHeader {
        needs_checksum: true,
        gso,
        header_len: (transport + header) as u16,
        gso_size: if is_burst { made.size } else { 0 },
        csum_start: transport as u16,
        csum_offset: csum_offset as u16,
    };
    (header, p)
}

fn cut(header: &VnetHeader, packet: &[u8]) -> Vec<Vec<u8>> {
    let burst = Burst::new(header, packet).unwrap();
    (0..burst.count())
        .map(|i| {
            let mut out = vec![0xee; burst.len_of(i)];
            burst.write(i, &mut out).unwrap();
            out
        })
        .collect()
}

fn joined(packets: &[Vec<u8>]) -> Written {
    let mut arena: Vec<u8> = Vec::new();
    let mut ranges = Vec::new();
    for packet in packets {
        arena.extend_from_slice(&[0xaa; 13]);
        ranges.push(arena.len()..arena.len() + packet.len());
        arena.extend_from_slice(packet);
    }
    let (mut coalescer, mut written) = (Coalescer::new(), Written::default());
    for range in ranges {
        coalescer.add(&mut arena, range, 0, ALL, &mut written);
    }
    coalescer.flush(&mut arena, &mut written);
    written
}

fn made() -> impl Strategy<Value = Made> {
    (
        any::<bool>(),
        any::<bool>(),
        0usize..=10,
        any::<bool>(),
        any::<u16>(),
        any::<u32>(),
        200u16..1500,
        1usize..12_000,
    )
        .prop_map(|(v4, tcp, options, push, id, sequence, size, len)| Made {
            v4,
            tcp,
            options,
            flags: if push { ACK | PSH } else { ACK },
            id,
            sequence,
            size,
            payload: (0..len).map(|i| (i * 31 % 251) as u8).collect(),
            port: 5000,
        })
}

proptest! {
    #[test]
    fn a_cut_burst_has_right_checksums_lengths_and_sequence_numbers(made in made()) {
        let (header, packet) = burst(&made);
        let packets = cut(&header, &packet);
        prop_assert_eq!(packets.len(), made.payload.len().div_ceil(usize::from(made.size)));
        let transport = usize::from(header.csum_start);
        let mut payload = Vec::new();
        for (i, p) in packets.iter().enumerate() {
            prop_assert!(slow_transport_is_right(p));
            if made.v4 {
                prop_assert_eq!(slow_sum(&[&p[..20]]), 0xffff);
                prop_assert_eq!(word(p, 4), Some(made.id.wrapping_add(i as u16)));
                prop_assert_eq!(word(p, 2), Some(p.len() as u16));
            } else {
                prop_assert_eq!(word(p, 4), Some((p.len() - 40) as u16));
            }
            if made.tcp {
                let expected = made.sequence.wrapping_add(payload.len() as u32).to_be_bytes();
                prop_assert_eq!(&p[transport + 4..transport + 8], &expected[..]);
                let push = p[transport + 13] & PSH != 0;
                prop_assert_eq!(push, made.flags & PSH != 0 && i + 1 == packets.len());
            }
            payload.extend_from_slice(&p[usize::from(header.header_len)..]);
        }
        prop_assert_eq!(payload, made.payload);
    }

    #[test]
    fn cutting_then_joining_is_the_identity(made in made()) {
        let (header, packet) = burst(&made);
        let packets = cut(&header, &packet);
        let written = joined(&packets);
        prop_assume!(packets.len() <= MAX_PARTS);
        prop_assert_eq!(written.0.len(), 1);
        let (out, octets, count) = &written.0[0];
        prop_assert_eq!(*count, packets.len());
        if packets.len() == 1 {
            prop_assert_eq!(*out, VnetHeader::default());
            prop_assert_eq!(octets, &packets[0]);
        } else {
            prop_assert_eq!(out, &header);
            prop_assert_eq!(octets, &packet);
        }
    }

    #[test]
    fn whatever_is_joined_cuts_into_what_came_in(
        pieces in proptest::collection::vec((0u16..3, 1usize..600, any::<bool>(), any::<bool>(), 0u8..20), 1..60)
    ) {
        // Three flows with gaps, odd sizes, FINs and broken checksums, interleaved.
        let mut next = [1000u32; 3];
        let mut sent: Vec<Vec<u8>> = Vec::new();
        for (flow, len, regular, push, odd) in pieces {
            let f = usize::from(flow);
            if odd == 0 { next[f] = next[f].wrapping_add(5); }
            let len = if regular { 500 } else { len };
            let flags = if odd == 1 { ACK | 1 } else if push { ACK | PSH } else { ACK };
            let made = Made { v4: flow != 1, tcp: true, options: 3, flags, id: sent.len() as u16,
                sequence: next[f], size: 1500, payload: vec![odd; len], port: 6000 + flow };
            next[f] = next[f].wrapping_add(len as u32);
            let (header, packet) = burst(&made);
            let mut packet = cut(&header, &packet).remove(0);
            if odd == 2 { let at = packet.len() - 1; packet[at] ^= 1; }
            sent.push(packet);
        }
        let written = joined(&sent);
        let mut got: Vec<Vec<u8>> = written.0.iter().flat_map(|(h, p, n)| {
            if *n == 1 { vec![p.clone()] } else { cut(h, p) }
        }).collect();
        prop_assert_eq!(got.len(), sent.len());
        for flow in 0..3u16 {
            let of = |list: &[Vec<u8>]| -> Vec<Vec<u8>> {
                list.iter().filter(|p| { let t = if p[0] >> 4 == 4 { 20 } else { 40 };
                    word(p, t) == Some(6000 + flow) }).map(|p| { let mut p = p.clone();
                    // DF is set: identifiers carry no meaning (RFC 6864) and a burst renumbers them.
                    if p[0] >> 4 == 4 { p[4..6].fill(0); p[10..12].fill(0); }
                    // A push moves to the end of its burst, which is looked at below.
                    let t = if p[0] >> 4 == 4 { 20 } else { 40 };
                    p[t + 13] &= !PSH;
                    p[t + 16..t + 18].fill(0);
                    p }).collect()
            };
            prop_assert_eq!(of(&got), of(&sent));
            let is_pushed = |p: &Vec<u8>| p[if p[0] >> 4 == 4 { 33 } else { 53 }] & PSH != 0;
            let is_ours = |p: &&Vec<u8>| word(p, if p[0] >> 4 == 4 { 20 } else { 40 }) == Some(6000 + flow);
            let mut of_flow = sent.iter().filter(is_ours);
            for (header, packet, count) in written.0.iter().filter(|(_, packet, _)| is_ours(&packet)) {
                let was_pushed = of_flow.by_ref().take(*count).filter(|p| is_pushed(p)).count() > 0;
                let parts = if *count == 1 { vec![packet.clone()] } else { cut(header, packet) };
                let (last, others) = parts.split_last().unwrap();
                prop_assert_eq!(is_pushed(last), was_pushed);
                prop_assert!(!others.iter().any(is_pushed));
            }
        }
        got.clear();
    }

    #[test]
    fn no_header_and_packet_make_it_panic(header: [u8; LEN], packet in proptest::collection::vec(any::<u8>(), 0..200)) {
        let header = VnetHeader::read(&header).unwrap();
        if let Ok(burst) = Burst::new(&header, &packet) {
            for i in 0..burst.count().min(70) {
                let mut out = vec![0; burst.len_of(i)];
                let _ = burst.write(i, &mut out);
            }
        }
        let mut arena = packet.clone();
        let (mut coalescer, mut written) = (Coalescer::new(), Written::default());
        for _ in 0..3 {
            coalescer.add(&mut arena, 0..packet.len(), 0, ALL, &mut written);
        }
        coalescer.flush(&mut arena, &mut written);
        prop_assert_eq!(written.0.iter().map(|w| w.2).sum::<usize>(), 3);
    }
}

#[test]
fn more_flows_than_are_kept_open_lose_nothing() {
    let packets: Vec<Vec<u8>> = (0..40)
        .map(|i| {
            let made = Made {
                v4: true,
                tcp: true,
                options: 0,
                flags: ACK,
                id: i,
                sequence: 1,
                size: 1500,
                payload: vec![i as u8; 100],
                port: i,
            };
            let (header, packet) = burst(&made);
            cut(&header, &packet).remove(0)
        })
        .collect();
    let written = joined(&packets);
    assert_eq!(written.0.into_iter().map(|w| w.1).collect::<Vec<_>>(), packets);
}
