//! A kernel in memory, and pairs to carry between two workers: what the examples have in common.

#![allow(dead_code, reason = "no example uses all of it")]

use std::collections::VecDeque;
use std::io::IoSlice;
use std::net::{Ipv4Addr, SocketAddr};

use crypto::{Secret, Suite};
use dataplane::{
    Activate, Arrival, DomainFacts, Encap, Gso, Limits, MssClamp, Offloads, PacketIo, Parcel, PortId,
    Refused, SaPair, VnetHeader, WorkerEvent,
};
use ip::Selector;

/// Inner address of user 0.
const FIRST_USER: u32 = 0x0a01_0000;
/// Where a burst has its destination: behind the `virtio_net_hdr`, in the IPv4 header.
const DESTINATION: std::ops::Range<usize> = 10 + 16..10 + 20;

/// Queues of buffers that are used again and again.
#[derive(Default)]
pub(crate) struct Memory {
    /// Numbers of the users for whom a burst waits.
    pub(crate) inner: VecDeque<u32>,
    /// The burst of user 0.
    pub(crate) burst: Vec<u8>,
    pub(crate) outer: VecDeque<(Vec<u8>, usize)>,
    pub(crate) spare: Vec<Vec<u8>>,
    pub(crate) written: usize,
}

impl PacketIo for Memory {
    fn receive(&mut self, buffer: &mut [u8]) -> Option<Arrival> {
        let (data, segment) = self.outer.pop_front()?;
        buffer.get_mut(..data.len())?.copy_from_slice(&data);
        let from = SocketAddr::from((Ipv4Addr::LOCALHOST, 4500));
        let arrival = Arrival {
            len: data.len(),
            segment,
            from,
            port: PortId(0),
            tos: 0,
            forwarded: false,
            gated: false,
        };
        self.spare.push(data);
        Some(arrival)
    }

    fn transmit(
        &mut self,
        _: PortId,
        data: &[u8],
        segment: usize,
        _: SocketAddr,
        _: esp::tunnel::Outer,
    ) -> Result<(), Refused> {
        let mut copy = self.spare.pop().unwrap_or_default();
        copy.clear();
        copy.extend_from_slice(data);
        self.outer.push_back((copy, segment));
        Ok(())
    }

    fn forward(&mut self, _: SocketAddr, _: &Arrival, _: &[u8]) -> Result<u64, Refused> {
        Err(Refused::Failed)
    }

    fn may_carry(&mut self) -> bool {
        true
    }

    fn read_inner(&mut self, buffer: &mut [u8]) -> Option<(u32, usize)> {
        let user = Ipv4Addr::from(FIRST_USER + self.inner.pop_front()?);
        let len = self.burst.len();
        buffer.get_mut(..len)?.copy_from_slice(&self.burst);
        buffer.get_mut(DESTINATION)?.copy_from_slice(&user.octets());
        Some((1, len))
    }

    fn write_inner(&mut self, _: u32, parts: &[IoSlice<'_>]) -> Result<(), Refused> {
        self.written += parts.iter().map(|part| part.len()).sum::<usize>();
        Ok(())
    }

    fn hand_over(&mut self, _: u8, _: Parcel<'_>) -> bool {
        false
    }

    fn event(&mut self, _: WorkerEvent) {}

    fn port(&self, _: SocketAddr, _: Encap) -> Option<PortId> {
        Some(PortId(0))
    }

    fn describe(&self, _: PortId) -> Option<(SocketAddr, Encap)> {
        Some((SocketAddr::from((Ipv4Addr::LOCALHOST, 4500)), Encap::Udp))
    }
}

pub(crate) fn pair(number: u32, is_sender: bool, suite: Suite) -> SaPair {
    let key = |spi: u32, len: usize| Secret::from(vec![spi as u8; len]);
    let (a, b) = (0x1000 + number, 0x100_0000 + number);
    let (spi_in, spi_out) = if is_sender { (a, b) } else { (b, a) };
    let here = vec![Selector::host([10, 0, 0, 1].into())];
    let user = Ipv4Addr::from(FIRST_USER + number);
    let there = vec![Selector::host(user.into())];
    let (ts_local, ts_remote) = if is_sender { (here, there) } else { (there, here) };
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 4500));
    SaPair {
        session: u64::from(number),
        slot: 0,
        domain: 1,
        inbound: esp::InboundParams {
            spi: spi_in,
            suite,
            enc_key: key(spi_in, suite.enc_key_len()),
            integ_key: key(spi_in, suite.integ_key_len()),
            esn: true,
            window: 1024,
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
        ts_local,
        ts_remote,
        peer: address,
        local: address,
        encap: Encap::Udp,
        activate: Activate::Now,
        limits: Limits::default(),
        resource: dataplane::Resource::None,
        path_mtu: None,
        df: esp::tunnel::DfRule::Clear,
        fragments_too: true,
    }
}

/// The domain of the pairs.
pub(crate) fn domain() -> DomainFacts {
    DomainFacts {
        id: 1,
        mtu: 9000,
        offloads: Offloads {
            checksum: true,
            tcp: true,
            udp: true,
        },
        mss_clamp: MssClamp::Off,
        addresses: Vec::new(),
        rates: Default::default(),
    }
}

/// Segments of a long burst.
pub(crate) const SEGMENTS: usize = 40;

/// A TCP burst for user 0 as a TUN device gives it.
pub(crate) fn burst(size: usize, segments: usize) -> Vec<u8> {
    let header = VnetHeader {
        needs_checksum: true,
        gso: Gso::Tcp4,
        header_len: 40,
        gso_size: size as u16,
        csum_start: 20,
        csum_offset: 16,
    };
    let total = (40 + size * segments) as u16;
    let mut data = header.octets().to_vec();
    data.extend([0x45, 0]);
    data.extend(total.to_be_bytes());
    data.extend([0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1]);
    data.extend(FIRST_USER.to_be_bytes());
    data.extend([1, 1, 2, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0x10, 1, 1, 0, 0, 0, 0]);
    data.resize(data.len() + size * segments, 7);
    data
}
