//! The packets' way in and out, as the worker's loop sees it: system calls in production, queues in tests.

use std::io::IoSlice;
use std::net::{IpAddr, SocketAddr};

use esp::DropReason;
use esp::tunnel::Outer;
use ipnet::IpNet;

use crate::handover::Parcel;
use crate::message::{Encap, WorkerEvent};

/// A socket of the worker: one local address with one encapsulation. Numbers are the implementation's.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PortId(pub u16);

/// One datagram, or a burst of equal datagrams (the last may be shorter) of one peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Arrival {
    /// Octets written to the buffer.
    pub len: usize,
    /// Octets of each datagram.
    pub segment: usize,
    /// The peer.
    pub from: SocketAddr,
    /// The socket it came to.
    pub port: PortId,
    /// Outer type of service or traffic class.
    pub tos: u8,
    /// Another node of the cluster sent it on: it is not sent on again.
    pub forwarded: bool,
    /// It has passed the gate of its socket ([`PacketIo::close_gate`]).
    pub gated: bool,
}

/// An ICMP message about a packet that was too big.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PathError {
    /// Octets written to the buffer.
    pub len: usize,
    /// Of ICMP for IPv4, not of ICMPv6.
    pub is_v4: bool,
}

/// Why a packet was not sent or written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// The queue is full; the next one may go.
    Full,
    /// This packet cannot go.
    Failed,
    /// It may not be fragmented, and does not fit the first link of the way.
    TooBig,
    /// The permission to carry packets is over.
    NotOwner,
}

impl Refused {
    /// The reason to count: that of a full queue, of a failure, or the lack of permission.
    pub(crate) fn reason(self, full: DropReason, failed: DropReason) -> DropReason {
        match self {
            Self::Full => full,
            Self::Failed => failed,
            Self::TooBig => DropReason::PathMtu,
            Self::NotOwner => DropReason::NotOwner,
        }
    }
}

/// What a class of packets has lost before it was received, since the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Lost {
    /// Datagrams, and bursts of them.
    pub bursts: u64,
    /// Packets, those of bursts one by one.
    pub packets: u64,
    /// Octets of UDP datagrams with their headers.
    pub octets: u64,
}

/// What the worker's loop needs of its surroundings. Nothing here blocks.
pub trait PacketIo {
    /// Fills `buffer` (at least 64 KiB) with what a peer sent; `None` when nothing waits.
    fn receive(&mut self, buffer: &mut [u8]) -> Option<Arrival>;
    /// Sends datagrams of `segment` octets each (the last may be shorter). [`Outer::dont_fragment`] is the DF bit of IPv4;
    /// over IPv6 packets without it may leave here in fragments.
    fn transmit(
        &mut self,
        port: PortId,
        data: &[u8],
        segment: usize,
        to: SocketAddr,
        outer: Outer,
    ) -> Result<(), Refused>;
    /// Sends ESP packets of `arrival` on to another node of the cluster, one by one; gives how many went.
    fn forward(&mut self, to: SocketAddr, arrival: &Arrival, data: &[u8]) -> Result<u64, Refused>;
    /// Whether packets may be carried at this moment. [`PacketIo::transmit`] and [`PacketIo::write_inner`] ask for
    /// themselves once more: the thread may have stood still between.
    fn may_carry(&mut self) -> bool;
    /// Fills `buffer` with a `virtio_net_hdr` and an inner packet or burst; gives its domain and the octets.
    fn read_inner(&mut self, buffer: &mut [u8]) -> Option<(u32, usize)>;
    /// Writes an inner packet or burst; the first part is its `virtio_net_hdr`.
    fn write_inner(&mut self, domain: u32, parts: &[IoSlice<'_>]) -> Result<(), Refused>;
    /// Gives a packet to the worker that owns its SA; false if its queue is full.
    fn hand_over(&mut self, worker: u8, parcel: Parcel<'_>) -> bool;
    /// Has the kernel give packets for these destinations of a domain to one of several workers each (a bit for each of
    /// them) by their flow, as the groups of workers do. It may have no such means: then they come to other workers.
    fn steer(&mut self, _domain: u32, _spread: &[(IpNet, u32)]) {}
    /// Fills `buffer` (at least 64 KiB) with an ICMP message that says that a packet was too big, its ICMP header first:
    /// of IPv6 one whose checksum is right. `None` when nothing waits.
    fn path_error(&mut self, _buffer: &mut [u8]) -> Option<PathError> {
        None
    }
    /// The MTU in octets of the first link towards a peer.
    fn link_mtu(&mut self, _peer: IpAddr) -> Option<u16> {
        None
    }
    /// Tells the control plane.
    fn event(&mut self, event: WorkerEvent);
    /// The socket with this local address and encapsulation.
    fn port(&self, local: SocketAddr, encap: Encap) -> Option<PortId>;
    /// Local address and encapsulation of a socket.
    fn describe(&self, port: PortId) -> Option<(SocketAddr, Encap)>;

    // What follows lets packets be dropped before they are received. Who cannot do that has nothing to do.

    /// From now on drops packets by their class. Nothing is dropped of a class before a chance is set.
    fn close_gate(&mut self) {}
    /// Lets everything through again.
    fn open_gate(&mut self) {}
    /// Puts an SPI into a class, 1 to 1023; false if there is no room for it. All others are in class 0.
    fn assign_class(&mut self, _spi: u32, _class: u16) -> bool {
        true
    }
    /// The SPI is gone.
    fn forget_class(&mut self, _spi: u32) {}
    /// Drops so many of 2^32 packets of a class.
    fn set_chance(&mut self, _class: u16, _chance: u64) {}
    /// What a class has lost at the gate.
    fn lost(&self, _class: u16) -> Lost {
        Lost::default()
    }
    /// How full the fullest receive queue is, 0 to 1; `None` if that cannot be known.
    fn backlog(&self) -> Option<f64> {
        None
    }
}
