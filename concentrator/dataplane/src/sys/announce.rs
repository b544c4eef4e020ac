//! Gratuitous ARP and unsolicited neighbour advertisements, written to an interface as whole Ethernet frames.

use std::cell::RefCell;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::vnet::{fold, sum};

const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ARP_REQUEST: u16 = 1;
const ARP_REPLY: u16 = 2;
const BROADCAST: Mac = [0xff; 6];
/// ff02::1 and its Ethernet address (RFC 2464 section 7).
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ALL_NODES_MAC: Mac = [0x33, 0x33, 0, 0, 0, 1];
const ICMPV6: u8 = 58;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
/// Of a neighbour advertisement (RFC 4861 section 4.4).
const FLAG_ROUTER: u8 = 0x80;
const FLAG_OVERRIDE: u8 = 0x20;
const OPTION_TARGET_LINK_LAYER: u8 = 2;

/// An Ethernet address.
pub(crate) type Mac = [u8; 6];

thread_local! {
    /// The packet socket of this thread and the network namespace that it is of. Kept, because the kernel takes
    /// milliseconds to close one.
    static SOCKET: RefCell<Option<(Namespace, OwnedFd)>> = const { RefCell::new(None) };
}

/// Device and inode number of a network namespace.
type Namespace = (u64, u64);

/// Says on the interface with this index and Ethernet address that `ip` is here. Never waits.
pub(crate) fn announce(index: u32, interface: &str, mac: Mac, ip: IpAddr) -> io::Result<()> {
    let index = i32::try_from(index).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let frames = match ip {
        IpAddr::V4(ip) => vec![arp(ARP_REQUEST, mac, ip), arp(ARP_REPLY, mac, ip)],
        IpAddr::V6(ip) => vec![advertisement(mac, ip, is_router(interface))],
    };
    SOCKET.with_borrow_mut(|kept| {
        let stat = rustix::fs::stat("/proc/thread-self/ns/net")?;
        let namespace = (stat.st_dev, stat.st_ino);
        let socket = match kept {
            Some((of, socket)) if *of == namespace => socket,
            _ => &mut kept.insert((namespace, open()?)).1,
        };
        frames.iter().try_for_each(|frame| send(socket, index, frame))
    })
}

fn open() -> io::Result<OwnedFd> {
    Ok(rustix::net::socket_with(
        AddressFamily::PACKET,
        SocketType::RAW,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        // Protocol 0: nothing is received.
        None,
    )?)
}

/// Sends a whole frame, its Ethernet header included.
fn send(socket: &OwnedFd, index: i32, frame: &[u8]) -> io::Result<()> {
    // SAFETY: a sockaddr_ll is plain data, for which all zeros is a valid value.
    let mut name: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    name.sll_family = libc::AF_PACKET as u16;
    name.sll_ifindex = index;
    // In network byte order, as it stands in the frame.
    let ethertype = frame.get(12..14).and_then(|e| e.first_chunk::<2>());
    name.sll_protocol = u16::from_ne_bytes(ethertype.copied().unwrap_or_default());
    // SAFETY: the frame and the name are of the stated lengths and live across the call, which only reads them.
    super::check_len(unsafe {
        libc::sendto(
            socket.as_fd().as_raw_fd(),
            frame.as_ptr().cast(),
            frame.len(),
            libc::MSG_DONTWAIT,
            (&raw const name).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    })?;
    Ok(())
}

/// The kernel's own advertisements say "router" where it forwards; one that says otherwise makes hosts drop their default
/// route through the interface.
fn is_router(interface: &str) -> bool {
    let path = format!("/proc/sys/net/ipv6/conf/{interface}/forwarding");
    std::fs::read_to_string(path).map_or(true, |text| text.trim() != "0")
}

fn ethernet(to: Mac, from: Mac, ethertype: u16) -> Vec<u8> {
    [&to[..], &from, &ethertype.to_be_bytes()].concat()
}

/// An ARP packet whose sender and target are both `ip` (RFC 5227 section 2.3).
fn arp(operation: u16, mac: Mac, ip: Ipv4Addr) -> Vec<u8> {
    const ETHERNET_IPV4: [u8; 6] = [0, 1, 8, 0, 6, 4];
    let target = if operation == ARP_REPLY { mac } else { [0; 6] };
    let mut frame = ethernet(BROADCAST, mac, ETHERTYPE_ARP);
    for part in [
        &ETHERNET_IPV4[..],
        &operation.to_be_bytes(),
        &mac,
        &ip.octets(),
        &target,
        &ip.octets(),
    ] {
        frame.extend_from_slice(part);
    }
    frame
}

/// A neighbour advertisement of `ip` from `ip` to all nodes.
fn advertisement(mac: Mac, ip: Ipv6Addr, is_router: bool) -> Vec<u8> {
    // The target is the address, the option its new Ethernet address (RFC 4861 section 7.2.6).
    let flags = FLAG_OVERRIDE | if is_router { FLAG_ROUTER } else { 0 };
    let mut message = vec![NEIGHBOUR_ADVERTISEMENT, 0, 0, 0, flags, 0, 0, 0];
    message.extend_from_slice(&ip.octets());
    message.extend_from_slice(&[OPTION_TARGET_LINK_LAYER, 1]);
    message.extend_from_slice(&mac);
    let len = message.len() as u16;
    let pseudo = [
        &ip.octets()[..],
        &ALL_NODES.octets(),
        &u32::from(len).to_be_bytes(),
        &[0, 0, 0, ICMPV6],
    ]
    .concat();
    let checksum = (!fold(sum(&pseudo) + sum(&message))).to_be_bytes();
    for (octet, value) in message.iter_mut().skip(2).zip(checksum) {
        *octet = value;
    }
    let mut frame = ethernet(ALL_NODES_MAC, mac, ETHERTYPE_IPV6);
    frame.extend_from_slice(&[0x60, 0, 0, 0]);
    frame.extend_from_slice(&len.to_be_bytes());
    frame.extend_from_slice(&[ICMPV6, 255]);
    frame.extend_from_slice(&ip.octets());
    frame.extend_from_slice(&ALL_NODES.octets());
    frame.extend_from_slice(&message);
    frame
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;

    const MAC: Mac = [2, 0, 0, 0, 0, 9];

    #[test]
    fn arp_names_the_address_as_sender_and_target() {
        let ip = Ipv4Addr::new(192, 0, 2, 100);
        for (operation, target) in [(ARP_REQUEST, [0; 6]), (ARP_REPLY, MAC)] {
            let frame = arp(operation, MAC, ip);
            assert_eq!(frame.len(), 42);
            assert_eq!(
                frame[..14],
                [255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 9, 8, 6]
            );
            assert_eq!(frame[14..22], [0, 1, 8, 0, 6, 4, 0, operation as u8]);
            assert_eq!((&frame[22..28], &frame[28..32]), (&MAC[..], &ip.octets()[..]));
            assert_eq!((&frame[32..38], &frame[38..42]), (&target[..], &ip.octets()[..]));
        }
    }

    #[test]
    fn an_advertisement_overrides_and_has_a_right_checksum() {
        let ip: Ipv6Addr = "2001:db8:2::100".parse().unwrap();
        for is_router in [false, true] {
            let frame = advertisement(MAC, ip, is_router);
            assert_eq!(frame.len(), 14 + 40 + 32);
            assert_eq!(frame[..6], ALL_NODES_MAC);
            assert_eq!(frame[21], 255, "hop limit");
            let message = &frame[54..];
            assert_eq!(message[0], 136);
            assert_eq!(message[4], if is_router { 0xa0 } else { 0x20 });
            assert_eq!(message[8..24], ip.octets());
            assert_eq!(message[24..], [2, 1, 2, 0, 0, 0, 0, 9]);
            let pseudo = [&frame[22..54], &[0, 0, 0, 32, 0, 0, 0, 58]].concat();
            assert_eq!(fold(sum(&pseudo) + sum(message)), 0xffff);
        }
    }
}
