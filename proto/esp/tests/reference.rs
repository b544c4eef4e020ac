//! Whole SAs against a model that is slow and obvious: RFC 4303 section 3.4.3 for what is received, RFC 4301 section 5.2
//! for whose it is. The model remembers everything, tries every number, and parses nothing.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod common;

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use common::*;
use esp::{DropReason, InboundSa, PacketBuf, tunnel};
use ip::{Selector, Usual};
use proptest::prelude::*;

const WINDOW: u64 = 64;
const LEN: usize = 80;

/// Which numbers were received, all of them.
#[derive(Default)]
struct Receiver {
    esn: bool,
    seen: BTreeSet<u64>,
}

impl Receiver {
    fn top(&self) -> u64 {
        self.seen.last().copied().unwrap_or(0)
    }

    /// The number that 32 bits stand for: the only one with them in the 2^32 that begin with the window.
    fn number(&self, low: u32) -> Option<u64> {
        if !self.esn {
            return Some(u64::from(low));
        }
        let first = i128::from(self.top()) - i128::from(WINDOW) + 1;
        let number = (0..=i128::from(self.top() >> 32) + 1)
            .map(|high| (high << 32) + i128::from(low))
            .find(|number| (first..first + (1 << 32)).contains(number))?;
        u64::try_from(number).ok()
    }

    fn accept(&mut self, sequence: u64, is_whole: bool) -> bool {
        let fresh = is_whole
            && self.number(sequence as u32) == Some(sequence)
            && sequence != 0
            && sequence + WINDOW > self.top()
            && !self.seen.contains(&sequence);
        if fresh {
            self.seen.insert(sequence);
        }
        fresh
    }
}

/// A packet with any number, as a peer that holds the keys would send it.
fn wire(esn: bool, sequence: u64) -> Vec<u8> {
    let (mut outbound, inbound) = params(gcm(), esn);
    outbound.first_seq = sequence;
    let (mut tx, _) = sas(&outbound, &inbound);
    seal(&mut tx, &inner(4, LEN, sequence), 4)
}

/// How packets are given to the SA.
#[derive(Clone, Copy, Debug)]
enum Way {
    Single,
    Batch,
    Burst,
}

/// One packet: its number relative to the highest so far, and the bit that the network turns over, if any.
#[derive(Clone, Debug)]
struct Step {
    by: i64,
    flip: Option<usize>,
}

fn near() -> impl Strategy<Value = Step> {
    (
        prop_oneof![8 => -70i64..12, 1 => 0i64..3000],
        prop::option::weighted(0.2, 0usize..LEN * 8),
    )
        .prop_map(|(by, flip)| Step { by, flip })
}

/// Groups of near packets, given together, and single packets from far away.
fn groups() -> impl Strategy<Value = Vec<(Way, Vec<Step>)>> {
    let way = || prop_oneof![Just(Way::Single), Just(Way::Batch), Just(Way::Burst)];
    let together = (way(), prop::collection::vec(near(), 1..45));
    // The numbers that follow the top without a gap, maybe with others among them.
    let odd = prop::collection::vec((any::<prop::sample::Index>(), near()), 0..2);
    let row = (way(), 1i64..70, odd).prop_map(|(way, count, odd)| {
        let mut steps: Vec<Step> = (1..=count).map(|by| Step { by, flip: None }).collect();
        for (at, step) in odd {
            let at = at.index(steps.len());
            steps[at] = step;
        }
        (way, steps)
    });
    let far = (-(1i64 << 33)..1 << 33).prop_map(|by| (Way::Single, vec![Step { by, flip: None }]));
    prop::collection::vec(prop_oneof![6 => together, 4 => row, 1 => far], 1..8)
}

/// Opens the packets in one of the ways: the inner octets of each that came out.
fn open_all(sa: &mut InboundSa, way: Way, packets: &mut [Vec<u8>]) -> Vec<Result<Vec<u8>, DropReason>> {
    match way {
        Way::Single => packets.iter().map(|packet| open(sa, packet)).collect(),
        Way::Batch => {
            let mut batch: Vec<PacketBuf<'_>> = packets
                .iter_mut()
                .map(|packet| {
                    let end = packet.len();
                    PacketBuf::inbound(packet, 0, end)
                })
                .collect();
            sa.open_batch(&mut batch);
            let result = |packet: &PacketBuf<'_>| packet.result.map(|()| packet.packet().to_vec());
            batch.iter().map(result).collect()
        }
        Way::Burst => {
            let segment = packets[0].len();
            let mut slab = packets.concat();
            let end = slab.len();
            let mut opened = Vec::new();
            sa.open_burst(&mut slab, 0..end, segment, |_, result| opened.push(result));
            let inner = |result: Result<esp::Opened, _>| result.map(|opened| slab[opened.inner].to_vec());
            opened.into_iter().map(inner).collect()
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(120))]

    //= rfc4303#section-3.4.3
    //= type=test
    //# For each received packet, the receiver MUST verify that the packet contains a Sequence Number that does not
    //# duplicate the Sequence Number of any other packets received during the life of this SA.
    #[test]
    fn an_sa_receives_what_the_model_receives(esn in any::<bool>(), start in prop_oneof![Just(1u64), Just((1 << 32) - 60), 1u64..1 << 31], groups in groups()) {
        let (_, inbound) = params(gcm(), esn);
        let mut sa = InboundSa::new(&inbound).unwrap();
        let mut model = Receiver { esn, ..Receiver::default() };
        let first = wire(esn, start);
        prop_assert_eq!(open(&mut sa, &first).is_ok(), model.accept(start, true));
        for (way, steps) in groups {
            let most = if esn { (1 << 48) - 1 } else { u64::from(u32::MAX) };
            let numbers: Vec<u64> = steps.iter().map(|step| model.top().saturating_add_signed(step.by).clamp(1, most)).collect();
            let mut packets: Vec<Vec<u8>> = numbers.iter().zip(&steps).map(|(number, step)| {
                let mut packet = wire(esn, *number);
                if let Some(bit) = step.flip {
                    let bit = bit % (packet.len() * 8);
                    packet[bit / 8] ^= 1 << (bit % 8);
                }
                packet
            }).collect();
            let opened = open_all(&mut sa, way, &mut packets);
            prop_assert_eq!(opened.len(), numbers.len());
            for ((number, step), opened) in numbers.iter().zip(&steps).zip(&opened) {
                let wanted = model.accept(*number, step.flip.is_none());
                prop_assert_eq!(opened.is_ok(), wanted, "{:?} number {} of top {}: {:?}", way, number, model.top(), opened.as_ref().err());
                if let Ok(octets) = opened {
                    prop_assert_eq!(octets, &inner(4, LEN, *number));
                }
            }
            prop_assert_eq!(sa.highest_seq(), model.top());
        }
    }
}

/// What a packet is, before it is one.
#[derive(Clone, Debug)]
struct Facts {
    is_v4: bool,
    src: u8,
    dst: u8,
    protocol: u8,
    ports: (u16, u16),
    /// Of a fragment: its offset in units of 8 octets, and whether more follow.
    fragment: Option<(u16, bool)>,
    /// Words of IPv4 options, or destination options in front of an IPv6 payload.
    extra: u8,
    payload: usize,
}

fn address(is_v4: bool, n: u8) -> IpAddr {
    if is_v4 {
        Ipv4Addr::new(10, 0, 0, n).into()
    } else {
        Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, n.into()).into()
    }
}

const PROTOCOLS: [u8; 5] = [6, 17, 132, 1, 47];

fn facts() -> impl Strategy<Value = Facts> {
    (
        (any::<bool>(), 0u8..8, 0u8..8),
        prop::sample::select(PROTOCOLS.to_vec()),
        (0u16..6, 0u16..6),
        prop::option::weighted(0.3, (0u16..3, any::<bool>())),
        (0u8..3, 0usize..40),
    )
        .prop_map(
            |((is_v4, src, dst), protocol, ports, fragment, (extra, payload))| Facts {
                is_v4,
                src,
                dst,
                protocol,
                ports,
                fragment,
                extra,
                payload: payload + 8,
            },
        )
}

impl Facts {
    fn packet(&self) -> Vec<u8> {
        let mut body = [self.ports.0.to_be_bytes(), self.ports.1.to_be_bytes()].concat();
        body.resize(self.payload, 7);
        let (src, dst) = (address(self.is_v4, self.src), address(self.is_v4, self.dst));
        if self.is_v4 {
            let header = 20 + usize::from(self.extra) * 4;
            let (offset, more) = self.fragment.unwrap_or_default();
            let mut packet = vec![0x40 | (header / 4) as u8, 0];
            packet.extend(((header + body.len()) as u16).to_be_bytes());
            packet.extend([0, 9]);
            packet.extend((offset | u16::from(more) << 13).to_be_bytes());
            packet.extend([64, self.protocol, 0, 0]);
            for addr in [src, dst] {
                let IpAddr::V4(addr) = addr else { panic!() };
                packet.extend(addr.octets());
            }
            packet.resize(header, 1);
            packet.extend(body);
            return packet;
        }
        // Destination options first, then the fragment header, then the payload.
        let mut chain = Vec::new();
        let mut next = self.protocol;
        if let Some((offset, more)) = self.fragment {
            chain.splice(
                0..0,
                [
                    next,
                    0,
                    (offset >> 5) as u8,
                    (offset << 3) as u8 | u8::from(more),
                    0,
                    0,
                    0,
                    1,
                ],
            );
            next = 44;
        }
        for _ in 0..self.extra {
            chain.splice(0..0, [next, 0, 1, 4, 0, 0, 0, 0]);
            next = 60;
        }
        let mut packet = vec![0x60, 0, 0, 0];
        packet.extend(((chain.len() + body.len()) as u16).to_be_bytes());
        packet.extend([next, 64]);
        for addr in [src, dst] {
            let IpAddr::V6(addr) = addr else { panic!() };
            packet.extend(addr.octets());
        }
        packet.extend(chain);
        packet.extend(body);
        packet
    }

    /// The port of an end as a selector sees it: unknown in later fragments and for protocols without ports.
    fn port(&self, is_source: bool) -> Option<u16> {
        if self.fragment.is_some_and(|(offset, _)| offset != 0) {
            return None;
        }
        match self.protocol {
            6 | 17 | 132 if is_source => Some(self.ports.0),
            6 | 17 | 132 => Some(self.ports.1),
            // Type and code stand where the source port of others does.
            1 => Some(self.ports.0),
            _ => None,
        }
    }
}

fn is_in(selectors: &[Selector], addr: IpAddr, protocol: u8, port: Option<u16>) -> bool {
    let number = |addr: IpAddr| match addr {
        IpAddr::V4(addr) => (4, u128::from(addr.to_bits())),
        IpAddr::V6(addr) => (6, addr.to_bits()),
    };
    selectors.iter().any(|selector| {
        let (low, high) = selector.ports();
        let ports = match port {
            _ if (low, high) == (0, 65_535) => true,
            None => (low, high) == (65_535, 0),
            Some(port) => (low..=high).any(|of| of == port),
        };
        let is_between = number(selector.start()) <= number(addr) && number(addr) <= number(selector.end());
        is_between && [0, protocol].contains(&selector.protocol()) && ports
    })
}

fn selector() -> impl Strategy<Value = Selector> {
    let protocols = prop_oneof![2 => Just(0u8), 3 => prop::sample::select(PROTOCOLS.to_vec())];
    let ports = prop_oneof![
        Just((0u16, u16::MAX)),
        Just((u16::MAX, 0)),
        (0u16..6, 0u16..6).prop_map(|(a, b)| (a.min(b), a.max(b))),
    ];
    (any::<bool>(), 0u8..8, 0u8..8, protocols, ports).prop_map(|(is_v4, a, b, protocol, ports)| {
        let ports = if protocol == 0 { (0, u16::MAX) } else { ports };
        Selector::new(
            protocol,
            ports,
            address(is_v4, a.min(b)),
            address(is_v4, a.max(b)),
        )
        .unwrap()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    //= rfc4301#section-5.2
    //= type=test
    //# If an IPsec system receives an inbound packet on an SA and the packet's header fields are not consistent
    //# with the selectors for the SA, it MUST discard the packet.
    #[test]
    fn whose_a_packet_is_the_model_knows_too(
        facts in facts(),
        remote in prop::collection::vec(selector(), 0..4),
        local in prop::collection::vec(selector(), 0..4),
        cut in prop::option::weighted(0.1, 0usize..100),
    ) {
        let mut packet = facts.packet();
        let usual = Usual::of(&remote, &local);
        if let Some(cut) = cut.filter(|cut| *cut < packet.len()) {
            packet.truncate(cut);
            prop_assert_eq!(tunnel::check_inner(&packet, usual.as_ref(), &remote, &local).map(drop), Err(DropReason::InnerMalformed));
            return Ok(());
        }
        let belongs = is_in(&remote, address(facts.is_v4, facts.src), facts.protocol, facts.port(true))
            && is_in(&local, address(facts.is_v4, facts.dst), facts.protocol, facts.port(false));
        let checked = tunnel::check_inner(&packet, usual.as_ref(), &remote, &local);
        prop_assert_eq!(checked.map(drop), if belongs { Ok(()) } else { Err(DropReason::SelectorMismatch) }, "{:?}", facts);
        // The quick ways and the plain one see the same packet.
        prop_assert_eq!(tunnel::check_inner(&packet, None, &remote, &local), checked);
        let summary = ip::packet::summarize(&packet).unwrap();
        prop_assert_eq!(summary.belongs(&remote, &local), belongs);
        if let Ok(checked) = checked {
            prop_assert_eq!(checked, summary);
        }
    }
}
