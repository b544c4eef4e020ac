//! What the kernel knows of the way to a peer: routes, Ethernet addresses of neighbours, and news of both.

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType};

use super::announce::Mac;
use super::netlink::{self, Message, Netlink, RTM_DELLINK, RTM_NEWLINK, attributes};

const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const RTM_GETROUTE: u16 = 26;
const RTM_NEWNEIGH: u16 = 28;
const RTM_DELNEIGH: u16 = 29;
const RTM_GETNEIGH: u16 = 30;
const RTM_NEWRULE: u16 = 32;
const RTM_DELRULE: u16 = 33;
const RTA_DST: u16 = 1;
const RTA_SRC: u16 = 2;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_METRICS: u16 = 8;
const RTA_VIA: u16 = 18;
const RTAX_MTU: u16 = 2;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const UNICAST: u8 = 1;
/// States of a neighbour (linux/neighbour.h): known to answer now, and those in which the address may be used.
const NUD_REACHABLE: u16 = 0x02;
const NUD_NOARP: u16 = 0x40;
const NUD_PERMANENT: u16 = 0x80;
const NUD_CONFIRMED: u16 = NUD_REACHABLE | NUD_NOARP | NUD_PERMANENT;
/// STALE, DELAY and PROBE too.
const NUD_VALID: u16 = NUD_CONFIRMED | 0x04 | 0x08 | 0x10;
/// Links, neighbours, routes and rules of both families.
const GROUPS: u32 = 1 | 4 | 0x40 | 0x80 | 0x400 | 1 << 18;
/// Octets of one read of news.
const BUFFER: usize = 32 << 10;
/// Reads of news at a time.
const MAX_READS: usize = 16;

/// The way to a destination.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Route {
    /// The device that it leaves by.
    pub(crate) device: u32,
    /// The router; `None` for a neighbour.
    pub(crate) gateway: Option<IpAddr>,
    /// The path MTU where one is known.
    pub(crate) mtu: Option<u32>,
}

/// A neighbour whose Ethernet address is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Neighbour {
    pub(crate) mac: Mac,
    /// It answered lately, or the address is fixed. If not, something has to be sent by the kernel for it to ask.
    pub(crate) confirmed: bool,
}

/// Who knows routes and neighbours.
pub(crate) trait Kernel {
    /// The way of a packet between two addresses; `None` if there is none, or none that leads out.
    fn route(&self, from: IpAddr, to: IpAddr) -> Option<Route>;
    /// The neighbour behind a device.
    fn neighbour(&self, device: u32, address: IpAddr) -> Option<Neighbour>;
}

impl Kernel for Netlink {
    fn route(&self, from: IpAddr, to: IpAddr) -> Option<Route> {
        let bits = if to.is_ipv4() { 32 } else { 128 };
        let header = [netlink::family(to), bits, bits, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let message = Message::new(RTM_GETROUTE, 0)
            .raw(&header)
            .attribute(RTA_DST, &netlink::octets(to))
            .attribute(RTA_SRC, &netlink::octets(from));
        let mut route = None;
        let asked = self.query("ask for the route", message, |kind, body| {
            if kind == RTM_NEWROUTE {
                route = read_route(body);
            }
        });
        asked.ok().and(route)
    }

    fn neighbour(&self, device: u32, address: IpAddr) -> Option<Neighbour> {
        let [i0, i1, i2, i3] = device.to_ne_bytes();
        let header = [netlink::family(address), 0, 0, 0, i0, i1, i2, i3, 0, 0, 0, 0];
        let message = Message::new(RTM_GETNEIGH, 0)
            .raw(&header)
            .attribute(NDA_DST, &netlink::octets(address));
        let mut neighbour = None;
        let asked = self.query("ask for the neighbour", message, |kind, body| {
            if kind == RTM_NEWNEIGH {
                neighbour = read_neighbour(body).and_then(|(_, _, found)| found);
            }
        });
        asked.ok().and(neighbour)
    }
}

fn word(octets: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(octets.try_into().ok()?))
}

fn address(octets: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(octets).map(IpAddr::from);
    v4.or_else(|_| <[u8; 16]>::try_from(octets).map(IpAddr::from))
        .ok()
}

fn read_route(body: &[u8]) -> Option<Route> {
    let (head, rest) = body.split_first_chunk::<12>()?;
    let [.., kind, _, _, _, _] = *head;
    let find = |wanted| attributes(rest).find(|(name, _)| *name == wanted).map(|(_, v)| v);
    let via = find(RTA_VIA).and_then(|via| via.get(2..)).and_then(address);
    let metrics = find(RTA_METRICS).unwrap_or_default();
    let mtu = attributes(metrics).find(|(name, _)| *name == RTAX_MTU);
    (kind == UNICAST).then_some(Route {
        device: word(find(RTA_OIF)?)?,
        gateway: find(RTA_GATEWAY).and_then(address).or(via),
        mtu: mtu.and_then(|(_, mtu)| word(mtu)).filter(|mtu| *mtu > 0),
    })
}

fn read_neighbour(body: &[u8]) -> Option<(u32, IpAddr, Option<Neighbour>)> {
    let (head, rest) = body.split_first_chunk::<12>()?;
    let [_, _, _, _, i0, i1, i2, i3, s0, s1, _, _] = *head;
    let (device, state) = (u32::from_ne_bytes([i0, i1, i2, i3]), u16::from_ne_bytes([s0, s1]));
    let find = |wanted| attributes(rest).find(|(name, _)| *name == wanted).map(|(_, v)| v);
    let mac = find(NDA_LLADDR).and_then(|mac| Mac::try_from(mac).ok());
    let neighbour = mac.filter(|_| state & NUD_VALID != 0).map(|mac| Neighbour {
        mac,
        confirmed: state & NUD_CONFIRMED != 0,
    });
    Some((device, address(find(NDA_DST)?)?, neighbour))
}

/// Something is not what it was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Change {
    /// Routes or rules; also told when news were lost.
    Routes,
    /// A neighbour's address is this now, or not known any more.
    Neighbour {
        device: u32,
        address: IpAddr,
        mac: Option<Mac>,
    },
    /// Something of a device is different; its MTU is this now.
    Device { device: u32, mtu: u32 },
    /// A device was removed, or left for another network namespace.
    Gone { device: u32 },
}

/// Where changes are told.
#[derive(Debug)]
pub(crate) struct Changes {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

impl Changes {
    /// Of the calling thread's network namespace.
    pub(crate) fn open() -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
        rustix::net::bind(&socket, &SocketAddrNetlink::new(0, GROUPS))?;
        Ok(Self {
            socket,
            buffer: vec![0; BUFFER],
        })
    }

    /// Tells what has changed. Never blocks, and ends after so many reads.
    pub(crate) fn read(&mut self, mut each: impl FnMut(Change)) {
        for _ in 0..MAX_READS {
            match rustix::net::recv(&self.socket, &mut self.buffer[..], RecvFlags::empty()) {
                Ok((len, _)) => {
                    let octets = self.buffer.get(..len).unwrap_or_default();
                    for (kind, _, body) in netlink::messages(octets) {
                        if let Some(change) = change(kind, body) {
                            each(change);
                        }
                    }
                }
                Err(rustix::io::Errno::NOBUFS) => each(Change::Routes),
                Err(_) => return,
            }
        }
    }
}

impl AsFd for Changes {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn change(kind: u16, body: &[u8]) -> Option<Change> {
    match kind {
        RTM_NEWROUTE | RTM_DELROUTE | RTM_NEWRULE | RTM_DELRULE => Some(Change::Routes),
        RTM_NEWNEIGH | RTM_DELNEIGH => {
            let (device, address, neighbour) = read_neighbour(body)?;
            let mac = neighbour.filter(|_| kind == RTM_NEWNEIGH).map(|n| n.mac);
            Some(Change::Neighbour { device, address, mac })
        }
        RTM_NEWLINK => {
            let link = netlink::read_link(body)?;
            Some(Change::Device {
                device: link.index,
                mtu: link.mtu,
            })
        }
        RTM_DELLINK => Some(Change::Gone {
            device: netlink::read_link(body)?.index,
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let mut octets = (value.len() as u16 + 4).to_ne_bytes().to_vec();
        octets.extend_from_slice(&kind.to_ne_bytes());
        octets.extend_from_slice(value);
        octets.resize(octets.len().next_multiple_of(4), 0);
        octets
    }

    fn route(kind: u8, attributes: &[Vec<u8>]) -> Vec<u8> {
        let mut octets = vec![2, 32, 32, 0, 254, 0, 0, kind, 0, 0, 0, 0];
        octets.extend(attributes.concat());
        octets
    }

    #[test]
    fn a_route_has_its_device_router_and_path_mtu() {
        let device = attribute(RTA_OIF, &7u32.to_ne_bytes());
        let mtu = attribute(RTA_METRICS, &attribute(RTAX_MTU, &1300u32.to_ne_bytes()));
        let router = attribute(RTA_GATEWAY, &[192, 0, 2, 1]);
        let read = read_route(&route(UNICAST, &[device.clone(), router, mtu])).unwrap();
        let expected = Route {
            device: 7,
            gateway: Some([192, 0, 2, 1].into()),
            mtu: Some(1300),
        };
        assert_eq!(read, expected);
        // IPv4 by a router of IPv6 (RFC 8950).
        let six: std::net::Ipv6Addr = "fe80::1".parse().unwrap();
        let via = attribute(RTA_VIA, &[&10u16.to_ne_bytes()[..], &six.octets()].concat());
        let read = read_route(&route(UNICAST, &[device.clone(), via])).unwrap();
        assert_eq!((read.gateway, read.mtu), (Some(six.into()), None));
        // To ourselves, or nowhere.
        for kind in [2, 6, 7] {
            assert_eq!(read_route(&route(kind, std::slice::from_ref(&device))), None);
        }
        assert_eq!(read_route(&route(UNICAST, &[])), None);
    }

    #[test]
    fn a_neighbour_counts_only_with_an_address_that_may_be_used() {
        let message = |state: u16| {
            let mut octets = vec![2, 0, 0, 0];
            octets.extend_from_slice(&9u32.to_ne_bytes());
            octets.extend_from_slice(&state.to_ne_bytes());
            octets.extend_from_slice(&[0; 2]);
            octets.extend(attribute(NDA_DST, &[192, 0, 2, 7]));
            octets.extend(attribute(NDA_LLADDR, &[2, 0, 0, 0, 0, 5]));
            octets
        };
        for (state, expected) in [
            (NUD_REACHABLE, Some(true)),
            (NUD_PERMANENT, Some(true)),
            (0x04, Some(false)),
            (0x10, Some(false)),
            (0x01, None),
            (0x20, None),
        ] {
            let (device, address, neighbour) = read_neighbour(&message(state)).unwrap();
            assert_eq!((device, address), (9, [192, 0, 2, 7].into()));
            assert_eq!(neighbour.map(|n| n.confirmed), expected, "{state:#x}");
        }
        let gone = change(RTM_DELNEIGH, &message(NUD_REACHABLE));
        let expected = Change::Neighbour {
            device: 9,
            address: [192, 0, 2, 7].into(),
            mac: None,
        };
        assert_eq!(gone, Some(expected));
        assert_eq!(change(RTM_NEWROUTE, &[]), Some(Change::Routes));
    }
}
