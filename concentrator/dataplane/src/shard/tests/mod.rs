//! Two workers back to back, without a kernel: bursts in, the same octets out; and everything that must not get through.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod cluster;
mod control;
mod exceptions;
mod groups;
mod path;
mod traffic;

use std::collections::VecDeque;
use std::io::IoSlice;
use std::net::{IpAddr, SocketAddr};

use crypto::{Cipher, Integrity, Secret, Suite};
use esp::DropReason;
use ip::Selector;

use super::*;
use crate::handover::Parcel;
use crate::io::{Arrival, PortId, Refused};
use crate::message::{Activate, Encap, Limits};
use crate::segment::{Burst, pseudo};
use crate::vnet::{self, Gso, VnetHeader, fold, sum};

const LEFT: &str = "192.0.2.1:4500";
const RIGHT: &str = "192.0.2.2:4500";
const UDP_PORT: PortId = PortId(0);
const RAW_PORT: PortId = PortId(1);

struct Sent {
    port: PortId,
    data: Vec<u8>,
    segment: usize,
    to: SocketAddr,
    tos: u8,
    dont_fragment: bool,
}

/// A kernel of queues.
#[derive(Default)]
struct Fake {
    local: Option<SocketAddr>,
    arrivals: VecDeque<(Vec<u8>, usize, SocketAddr, PortId, u8)>,
    sent: Vec<Sent>,
    inner: VecDeque<(u32, Vec<u8>)>,
    written: Vec<(u32, VnetHeader, Vec<u8>)>,
    handed: Vec<(u8, Batch)>,
    events: Vec<WorkerEvent>,
    refuse: Option<Refused>,
    /// The permission is over; with a number, after so many questions.
    not_owner: Option<usize>,
    /// What arrives was sent on by another node.
    forwarded: bool,
    steered: Vec<(u32, Vec<(IpNet, u32)>)>,
    sent_on: Vec<(SocketAddr, Arrival, Vec<u8>)>,
    /// ICMP messages that wait; of IPv4 or not.
    path_errors: VecDeque<(bool, Vec<u8>)>,
    link_mtu: Option<u16>,
}

impl Fake {
    /// As the kernel's side does: asks for permission right before it sends.
    fn refused(&mut self) -> Option<Refused> {
        self.refuse.or((!self.may_carry()).then_some(Refused::NotOwner))
    }
}

impl PacketIo for Fake {
    fn receive(&mut self, buffer: &mut [u8]) -> Option<Arrival> {
        let (data, segment, from, port, tos) = self.arrivals.pop_front()?;
        buffer[..data.len()].copy_from_slice(&data);
        Some(Arrival {
            len: data.len(),
            segment,
            from,
            port,
            tos,
            forwarded: self.forwarded,
            gated: false,
        })
    }

    fn transmit(
        &mut self,
        port: PortId,
        data: &[u8],
        segment: usize,
        to: SocketAddr,
        outer: esp::tunnel::Outer,
    ) -> Result<(), Refused> {
        if let Some(refused) = self.refused() {
            return Err(refused);
        }
        assert!(data.len() <= 65_507 && data.len().div_ceil(segment) <= 64);
        self.sent.push(Sent {
            port,
            data: data.to_vec(),
            segment,
            to,
            tos: outer.traffic_class,
            dont_fragment: outer.dont_fragment,
        });
        Ok(())
    }

    fn forward(&mut self, to: SocketAddr, arrival: &Arrival, data: &[u8]) -> Result<u64, Refused> {
        if let Some(refused) = self.refuse {
            return Err(refused);
        }
        self.sent_on.push((to, *arrival, data.to_vec()));
        Ok(data.len().div_ceil(arrival.segment) as u64)
    }

    fn may_carry(&mut self) -> bool {
        match &mut self.not_owner {
            None => true,
            Some(0) => false,
            Some(left) => {
                *left -= 1;
                true
            }
        }
    }

    fn read_inner(&mut self, buffer: &mut [u8]) -> Option<(u32, usize)> {
        let (domain, data) = self.inner.pop_front()?;
        buffer[..data.len()].copy_from_slice(&data);
        Some((domain, data.len()))
    }

    fn write_inner(&mut self, domain: u32, parts: &[IoSlice<'_>]) -> Result<(), Refused> {
        if let Some(refused) = self.refused() {
            return Err(refused);
        }
        let data = parts[1..].iter().flat_map(|p| p.iter().copied()).collect();
        self.written
            .push((domain, VnetHeader::read(&parts[0]).unwrap(), data));
        Ok(())
    }

    fn hand_over(&mut self, worker: u8, parcel: Parcel<'_>) -> bool {
        let mut batch = Batch::default();
        batch.push(parcel);
        self.handed.push((worker, batch));
        self.refuse.is_none()
    }

    fn steer(&mut self, domain: u32, spread: &[(IpNet, u32)]) {
        self.steered.push((domain, spread.to_vec()));
    }

    fn path_error(&mut self, buffer: &mut [u8]) -> Option<crate::io::PathError> {
        let (is_v4, message) = self.path_errors.pop_front()?;
        buffer[..message.len()].copy_from_slice(&message);
        let len = message.len();
        Some(crate::io::PathError { len, is_v4 })
    }

    fn link_mtu(&mut self, _: IpAddr) -> Option<u16> {
        self.link_mtu
    }

    fn event(&mut self, event: WorkerEvent) {
        self.events.push(event);
    }

    fn port(&self, local: SocketAddr, encap: Encap) -> Option<PortId> {
        (Some(local) == self.local).then_some(if encap == Encap::Udp { UDP_PORT } else { RAW_PORT })
    }

    fn describe(&self, port: PortId) -> Option<(SocketAddr, Encap)> {
        Some((
            self.local?,
            if port == UDP_PORT { Encap::Udp } else { Encap::Raw },
        ))
    }
}

/// One end: a worker and its kernel.
struct End {
    shard: Shard,
    io: Fake,
    now: Instant,
}

impl End {
    fn new(local: &str, worker: u8, workers: u8, owners: Arc<Owners>) -> Self {
        let now = Instant::now();
        let mut shard = Shard::new(worker, workers, owners, now);
        shard.attach_domain(DomainFacts {
            id: 1,
            mtu: 1400,
            offloads: Offloads {
                checksum: true,
                tcp: true,
                udp: true,
            },
            mss_clamp: MssClamp::ToMtu,
            addresses: vec!["10.7.1.1/24".parse().unwrap()],
            rates: Arc::default(),
        });
        Self {
            shard,
            io: Fake {
                local: Some(local.parse().unwrap()),
                ..Fake::default()
            },
            now,
        }
    }

    fn turn(&mut self) {
        while self.shard.turn(&mut self.io, self.now) > 0 {}
    }

    fn command(&mut self, command: WorkerCommand) {
        assert_eq!(
            self.shard.command(command, &mut self.io, self.now),
            Flow::Continue
        );
    }

    fn install(&mut self, pair: SaPair) {
        self.command(WorkerCommand::Install(Box::new(pair)));
    }

    /// Lets the kernel hand in an inner packet that is whole.
    fn send(&mut self, packet: &[u8]) {
        self.send_burst(&VnetHeader::default(), packet);
    }

    fn send_burst(&mut self, header: &VnetHeader, packet: &[u8]) {
        self.io
            .inner
            .push_back((1, [&header.octets()[..], packet].concat()));
        self.turn();
    }

    fn drops(&self, reason: DropReason) -> u64 {
        self.shard.counters().drops.get(reason)
    }

    fn written(&mut self) -> Vec<Vec<u8>> {
        self.io.written.drain(..).map(|(_, _, packet)| packet).collect()
    }
}

/// Everything that one end sent arrives at the other, from `from`.
fn deliver_from(a: &mut End, b: &mut End, from: SocketAddr) -> usize {
    let sent: Vec<Sent> = a.io.sent.drain(..).collect();
    for sent in &sent {
        b.io.arrivals
            .push_back((sent.data.clone(), sent.segment, from, sent.port, sent.tos));
    }
    b.turn();
    sent.len()
}

fn deliver(a: &mut End, b: &mut End) -> usize {
    let from = a.io.local.unwrap();
    deliver_from(a, b, from)
}

fn gcm() -> Suite {
    Suite::new(Cipher::AesGcm16 { key_bits: 128 }, None).unwrap()
}

fn selectors(list: &[&str]) -> Vec<Selector> {
    list.iter().map(|s| s.parse().unwrap()).collect()
}

const NET_LEFT: &[&str] = &["10.7.1.0/24", "fd07:1::/64"];
const NET_RIGHT: &[&str] = &["10.7.2.0/24", "fd07:2::/64"];

/// The pair of an end for `spi_in` and `spi_out`; keys follow from the SPIs.
fn pair(is_left: bool, suite: Suite, spi_in: u32, spi_out: u32) -> SaPair {
    let key = |spi: u32, len: usize| Secret::from(vec![spi as u8; len]);
    let (local, peer) = if is_left { (LEFT, RIGHT) } else { (RIGHT, LEFT) };
    let (here, there) = if is_left {
        (NET_LEFT, NET_RIGHT)
    } else {
        (NET_RIGHT, NET_LEFT)
    };
    SaPair {
        session: 9,
        slot: 0,
        domain: 1,
        inbound: esp::InboundParams {
            spi: spi_in,
            suite,
            enc_key: key(spi_in, suite.enc_key_len()),
            integ_key: key(spi_in, suite.integ_key_len()),
            esn: true,
            window: 128,
            checkpoint: 0,
        },
        outbound: esp::OutboundParams {
            spi: spi_out,
            suite,
            enc_key: key(spi_out, suite.enc_key_len()),
            integ_key: key(spi_out, suite.integ_key_len()),
            esn: true,
            generation: 1,
            first_seq: 1,
            ceiling: u64::MAX,
            tfc_pad_to: 0,
        },
        ts_local: selectors(here),
        ts_remote: selectors(there),
        peer: peer.parse().unwrap(),
        local: local.parse().unwrap(),
        encap: Encap::Udp,
        activate: Activate::Now,
        limits: Limits::default(),
        resource: crate::message::Resource::None,
        path_mtu: None,
        df: esp::tunnel::DfRule::Clear,
        fragments_too: true,
    }
}

fn ends() -> (End, End) {
    let mut left = End::new(LEFT, 0, 1, Arc::default());
    let mut right = End::new(RIGHT, 0, 1, Arc::default());
    left.install(pair(true, gcm(), 0x1001, 0x2002));
    right.install(pair(false, gcm(), 0x2002, 0x1001));
    (left, right)
}

/// A UDP packet from `src` to `dst` with its checksum.
fn udp(src: &str, dst: &str, tos: u8, payload: usize) -> Vec<u8> {
    let (header, packet) = transport(src, dst, tos, 17, 0, payload, 0);
    let mut out = vec![0; packet.len()];
    Burst::new(&header, &packet).unwrap().write(0, &mut out).unwrap();
    out
}

/// A packet as the kernel hands it over: checksum to do, and a burst if `size` is not zero.
fn transport(
    src: &str,
    dst: &str,
    tos: u8,
    protocol: u8,
    flags: u8,
    payload: usize,
    size: u16,
) -> (VnetHeader, Vec<u8>) {
    let (src, dst): (IpAddr, IpAddr) = (src.parse().unwrap(), dst.parse().unwrap());
    let head = if protocol == 6 { 24 } else { 8 };
    let len = head + payload;
    let mut p = match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let total = ((20 + len) as u16).to_be_bytes();
            let mut p = vec![0x45, tos, total[0], total[1], 0, 7, 0x40, 0, 64, protocol, 0, 0];
            p.extend(src.octets());
            p.extend(dst.octets());
            let c = (!fold(sum(&p))).to_be_bytes();
            p[10..12].copy_from_slice(&c);
            p
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let total = (len as u16).to_be_bytes();
            let mut p = vec![0x60 | tos >> 4, tos << 4, 0, 0, total[0], total[1], protocol, 64];
            p.extend(src.octets());
            p.extend(dst.octets());
            p
        }
        _ => panic!("mixed families"),
    };
    let start = p.len();
    let csum_offset = if protocol == 6 { 16 } else { 6 };
    let mut t = vec![0u8; head];
    t[..4].copy_from_slice(&[0x13, 0x88, 0, 53]);
    if protocol == 6 {
        t[4..8].copy_from_slice(&0xffff_f000u32.to_be_bytes());
        t[12] = 0x60;
        t[13] = flags;
        t[20..24].copy_from_slice(&[2, 4, 5, 0xb4]);
    } else {
        t[4..6].copy_from_slice(&(len as u16).to_be_bytes());
    }
    p.extend(t);
    p.extend((0..payload).map(|i| (i % 253) as u8));
    let partial = fold(pseudo(&p, protocol, len).unwrap()).to_be_bytes();
    p[start + csum_offset..start + csum_offset + 2].copy_from_slice(&partial);
    let gso = match (size, protocol, src.is_ipv4()) {
        (0, ..) => Gso::None,
        (_, 6, true) => Gso::Tcp4,
        (_, 6, false) => Gso::Tcp6,
        _ => Gso::Udp,
    };
    let header = VnetHeader {
        needs_checksum: true,
        gso,
        header_len: (start + head) as u16,
        gso_size: size,
        csum_start: start as u16,
        csum_offset: csum_offset as u16,
    };
    (header, p)
}

fn spi_of(sent: &Sent) -> u32 {
    u32::from_be_bytes(sent.data[..4].try_into().unwrap())
}

impl End {
    fn by_spi(&self) -> usize {
        self.shard.by_spi.len()
    }
}
