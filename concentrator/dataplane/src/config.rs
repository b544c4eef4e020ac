//! What the data plane is told when it starts, and what a routing domain is.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use crypto::Secret;
use ipnet::IpNet;

use crate::fair::Rates;
use crate::pmtu::PathMtu;

/// How many of the top bits of every inbound ESP SPI name the worker that owns the SA.
pub const WORKER_BITS: u32 = 3;
/// The most workers that [`WORKER_BITS`] can tell apart.
pub const MAX_WORKERS: u8 = 1 << WORKER_BITS;

/// The worker named by the top [`WORKER_BITS`] bits of an inbound ESP SPI.
pub const fn worker_of_spi(spi: u32) -> u8 {
    (spi >> (u32::BITS - WORKER_BITS)) as u8
}

/// How many bits behind the worker's name the slot of an SA in a cluster; a single node leaves them to chance.
pub const SLOT_BITS: u32 = 7;
/// The most slots that [`SLOT_BITS`] can tell apart.
pub const MAX_SLOTS: u8 = 1 << SLOT_BITS;

/// The slot named by the [`SLOT_BITS`] bits of an inbound ESP SPI that follow the worker's.
pub const fn slot_of_spi(spi: u32) -> u8 {
    (spi << WORKER_BITS >> (u32::BITS - SLOT_BITS)) as u8
}

/// The worker that serves an inbound ESP SPI on a node with `workers` workers. An SPI may name a worker that this node
/// does not have: it was chosen by a node with more of them.
pub const fn serving_worker(spi: u32, workers: u8) -> u8 {
    worker_of_spi(spi) % if workers == 0 { 1 } else { workers }
}

/// The worker at which an inner destination address arrives: its last 32 bits modulo `workers`.
///
/// The program that the kernel runs to choose a TUN queue computes the same, so an SA whose peer was given `addr` and
/// whose inbound SPI carries this worker is served by one thread in both directions, with nothing handed over.
pub fn worker_for(addr: IpAddr, workers: u8) -> u8 {
    let low = match addr {
        IpAddr::V4(v4) => v4.to_bits(),
        IpAddr::V6(v6) => (v6.to_bits() & u128::from(u32::MAX)) as u32,
    };
    (low % u32::from(workers.max(1))) as u8
}

/// The sockets and threads of one node's data plane.
#[derive(Clone, Debug)]
pub struct Config {
    /// Local addresses to serve, each one specific: an answer leaves from the address its question came to. They may be
    /// configured on an interface later (a floating address), the sockets do not mind.
    pub listen: Vec<IpAddr>,
    /// UDP port for IKE without NAT traversal, 500 by default. Zero lets the kernel choose (tests).
    pub ike_port: u16,
    /// UDP port for IKE and ESP with NAT traversal, 4500 by default. Zero lets the kernel choose (tests).
    pub nat_port: u16,
    /// Threads that carry packets, 1 to [`MAX_WORKERS`].
    pub workers: u8,
    /// CPU of each worker, by index; a worker without an entry runs where the scheduler likes.
    pub cores: Vec<usize>,
    /// How long a worker under load waits awake for the next packet before it sleeps; zero lets it sleep at once. A sleep
    /// and a wake-up cost a packet several times what a busy moment costs it; without load a worker never waits awake.
    pub busy_wait: Duration,
    /// Whether ESP without UDP (IP protocol 50) is served; it needs CAP_NET_RAW.
    pub raw_esp: bool,
    /// Network namespace of the sockets (a name under /var/run/netns); the process's own when `None`.
    pub netns: Option<String>,
    /// Receive and send buffer of each ESP socket in octets.
    pub socket_buffer: usize,
    /// Until when packets may be carried, as [`crate::boot_time`] in nanoseconds: a node's permission in a cluster. Past
    /// it nothing is sent or delivered in either direction, and what arrives is read and dropped
    /// ([`esp::DropReason::NotOwner`]). Compared before each send and each write, which carry a batch: what is left is the
    /// way of one such call into the kernel. 0 carries nothing; `None` and `u64::MAX` carry for ever.
    pub until: Option<Arc<AtomicU64>>,
    /// Where packets that came to the wrong node of a cluster are exchanged.
    pub forward: Option<Forward>,
    /// How ESP is exchanged with the peers.
    pub outer: Outer,
    /// What is believed of the way to a peer.
    pub path_mtu: PathMtu,
}

/// How ESP is exchanged with the peers.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Outer {
    /// By what.
    pub mode: OuterMode,
    /// The interfaces that AF_XDP is to be used on; those that have one of the addresses to serve when empty.
    pub interfaces: Vec<String>,
}

/// What carries ESP to and from the peers. The sockets are there in any case: they take what AF_XDP leaves.
///
/// AF_XDP needs CAP_NET_ADMIN, CAP_NET_RAW, CAP_BPF, CAP_IPC_LOCK (or enough RLIMIT_MEMLOCK) and an Ethernet device whose
/// driver has XDP. What it takes passes neither the packet filter nor connection tracking nor captures of the system. It
/// has 16 MiB of memory a queue, of up to 16 queues of an interface: room for 4,096 packets in and as many out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OuterMode {
    /// Sockets alone: the best for few peers with much traffic, since the kernel joins their packets.
    #[default]
    Socket,
    /// AF_XDP, without copying where the driver can: the best for many peers with little traffic each.
    Xdp,
    /// AF_XDP where the driver can do it without copying, else sockets.
    Auto,
}

/// What an interface's ESP goes by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OuterWay {
    /// Sockets.
    Socket,
    /// AF_XDP, the kernel copying each packet.
    XdpCopy,
    /// AF_XDP, the device writing to our memory.
    XdpZeroCopy,
}

impl OuterWay {
    /// Its name in metrics and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Socket => "socket",
            Self::XdpCopy => "xdp_copy",
            Self::XdpZeroCopy => "xdp_zero_copy",
        }
    }
}

/// What became of AF_XDP on one interface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OuterReport {
    /// Its name; empty if there is none to use.
    pub interface: String,
    /// What is used.
    pub way: OuterWay,
    /// Queues that are served.
    pub queues: u32,
    /// Why it is not what was asked for, in words.
    pub reason: Option<String>,
}

/// How the nodes of a cluster hand each other packets that came to the wrong one, as equal-cost routes let them.
///
/// Each packet travels in one datagram with its addresses and an authenticator in front. It is sent on once: a node that
/// does not own it either drops it.
#[derive(Clone, Debug)]
pub struct Forward {
    /// Address and UDP port of this node, where the others send to.
    pub listen: SocketAddr,
    /// The key of the authenticator, the same at every node.
    pub key: Secret,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: Vec::new(),
            ike_port: 500,
            nat_port: 4500,
            workers: 1,
            cores: Vec::new(),
            busy_wait: Duration::from_micros(50),
            raw_esp: true,
            netns: None,
            socket_buffer: 8 << 20,
            until: None,
            forward: None,
            outer: Outer::default(),
            path_mtu: PathMtu::default(),
        }
    }
}

/// What is done to the MSS option of TCP segments with SYN, in both directions.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum MssClamp {
    /// Left as it is.
    Off,
    /// At most what fits the domain's MTU.
    #[default]
    ToMtu,
    /// At most this many octets.
    To(u16),
}

/// A routing domain: one TUN device in one network namespace. Domains may have overlapping inner prefixes.
#[derive(Clone, Debug)]
pub struct Domain {
    /// The number that SAs name it by.
    pub id: u32,
    /// Its name, for reports.
    pub name: String,
    /// The network namespace of the device (a name under /var/run/netns); the process's own when `None`.
    pub netns: Option<String>,
    /// Name of the TUN device, at most 15 octets.
    pub device: String,
    /// MTU of the TUN device in octets: the largest inner packet.
    pub mtu: u16,
    /// Addresses of the device.
    pub addresses: Vec<IpNet>,
    /// Routes towards the device.
    pub routes: Vec<IpNet>,
    /// TCP MSS clamping.
    pub mss_clamp: MssClamp,
    /// How much may pass in a second.
    pub rates: Rates,
}

impl Domain {
    /// A domain with an MTU of 1400 octets, no addresses and no routes, in the process's own namespace.
    pub fn new(id: u32, name: impl Into<String>, device: impl Into<String>) -> Self {
        Self {
            id,
            name: name.into(),
            netns: None,
            device: device.into(),
            mtu: 1400,
            addresses: Vec::new(),
            routes: Vec::new(),
            mss_clamp: MssClamp::default(),
            rates: Rates::default(),
        }
    }
}

/// What the kernel granted a routing domain.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DomainReport {
    /// Name of the TUN device.
    pub device: String,
    /// Offloads of the TUN device.
    pub offloads: Offloads,
    /// Whether the kernel chooses the queue by inner destination; if not, packets are handed over between workers.
    pub steering: bool,
    /// In words, what was asked for and refused, with the kernel's reason.
    pub notes: Vec<String>,
}

/// Segmentation and checksum offloads of a TUN device.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Offloads {
    /// Transport checksums may be left to us.
    pub checksum: bool,
    /// TCP over IPv4 and IPv6 in bursts of up to 64 KiB.
    pub tcp: bool,
    /// UDP in bursts of up to 64 KiB.
    pub udp: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worker_of_spi_is_its_top_three_bits() {
        assert_eq!(worker_of_spi(0x1fff_ffff), 0);
        assert_eq!(worker_of_spi(0x2000_0000), 1);
        assert_eq!(worker_of_spi(u32::MAX), 7);
    }

    #[test]
    fn slots_follow_the_worker_and_leave_22_bits() {
        for slot in [0, 1, 77, MAX_SLOTS - 1] {
            let spi = 5 << 29 | u32::from(slot) << 22 | 0x3f_ffff;
            assert_eq!((slot_of_spi(spi), worker_of_spi(spi)), (slot, 5));
            assert_eq!(slot_of_spi(spi & !0x3f_ffff), slot);
        }
    }

    #[test]
    fn every_spi_has_a_worker_on_a_node_with_fewer_of_them() {
        for workers in 0..=MAX_WORKERS {
            for worker in 0..MAX_WORKERS {
                let serving = serving_worker(u32::from(worker) << 29, workers);
                assert!(serving < workers.max(1));
                assert!(worker >= workers || serving == worker);
            }
        }
    }

    #[test]
    fn worker_for_spreads_neighbours_and_never_leaves_the_range() {
        assert_eq!(worker_for(IpAddr::from([10, 0, 0, 4]), 4), 0);
        assert_eq!(worker_for(IpAddr::from([10, 0, 0, 5]), 4), 1);
        assert_eq!(worker_for(IpAddr::from([0xfd, 0, 0, 0, 0, 0, 0, 7]), 4), 3);
        assert_eq!(worker_for(IpAddr::from([10, 0, 0, 5]), 0), 0);
    }
}
