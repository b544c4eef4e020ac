//! The little of rtnetlink that TUN devices and service addresses need: link settings, addresses, routes.

use std::ffi::CString;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Mutex;

use ipnet::IpNet;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use super::announce::Mac;

pub(crate) const RTM_NEWLINK: u16 = 16;
pub(crate) const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_GETADDR: u16 = 22;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;
const NLM_F_DUMP: u16 = 0x300;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_TXQLEN: u16 = 13;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_GSO_MAX_SIZE: u16 = 41;
const IFLA_INET6_ADDR_GEN_MODE: u16 = 8;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_CACHEINFO: u16 = 6;
const IFLA_INET_CONF: u16 = 1;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// A routing socket; it stays in the network namespace it was opened in, whichever thread uses it.
#[derive(Debug)]
pub(crate) struct Netlink {
    socket: OwnedFd,
    sequence: Mutex<u32>,
}

/// One message under construction. Attributes are aligned to 4 octets.
pub(super) struct Message(Vec<u8>);

impl Message {
    pub(super) fn new(kind: u16, flags: u16) -> Self {
        let mut octets = vec![0; 4];
        octets.extend_from_slice(&kind.to_ne_bytes());
        octets.extend_from_slice(&(flags | NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes());
        octets.extend_from_slice(&[0; 8]);
        Self(octets)
    }

    pub(super) fn raw(mut self, octets: &[u8]) -> Self {
        self.0.extend_from_slice(octets);
        self
    }

    pub(super) fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        self.0
            .extend_from_slice(&((value.len() + 4) as u16).to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    fn finish(mut self, sequence: u32) -> Vec<u8> {
        let len = (self.0.len() as u32).to_ne_bytes();
        let fields = len
            .into_iter()
            .enumerate()
            .chain((8..).zip(sequence.to_ne_bytes()));
        for (at, octet) in fields {
            if let Some(slot) = self.0.get_mut(at) {
                *slot = octet;
            }
        }
        self.0
    }
}

pub(super) fn octets(addr: IpAddr) -> Vec<u8> {
    match addr {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

pub(super) fn family(addr: IpAddr) -> u8 {
    if addr.is_ipv4() { AF_INET } else { AF_INET6 }
}

/// `struct ifinfomsg`.
fn link_header(family: u8, index: u32, flags: u32, change: u32) -> Vec<u8> {
    let mut header = vec![family, 0, 0, 0];
    for word in [index, flags, change] {
        header.extend_from_slice(&word.to_ne_bytes());
    }
    header
}

impl Netlink {
    /// Opens a routing socket in the calling thread's network namespace.
    pub(crate) fn open() -> io::Result<Self> {
        let socket = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC,
            // Protocol 0: NETLINK_ROUTE.
            None,
        )?;
        let patience = std::time::Duration::from_secs(5);
        rustix::net::sockopt::set_socket_timeout(
            &socket,
            rustix::net::sockopt::Timeout::Recv,
            Some(patience),
        )?;
        // Older kernels list the addresses of every device instead of those of the one asked for.
        let _ = super::socket::set_int(&socket, libc::SOL_NETLINK, libc::NETLINK_GET_STRICT_CHK, 1);
        Ok(Self {
            socket,
            sequence: Mutex::new(0),
        })
    }

    /// Sets up a TUN device: MTU, a long queue, bursts that still fit one segmented UDP send with ESP added, and no
    /// IPv6 address of the kernel's own making; then brings it up.
    pub(crate) fn set_up(&self, index: u32, mtu: u16) -> io::Result<Vec<String>> {
        const QUEUE_LEN: u32 = 5000;
        const GSO_MAX_SIZE: u32 = 59_000;
        let link = || link_header(0, index, 0, 0);
        let mut notes = Vec::new();
        self.request(
            "set MTU",
            |m| m.raw(&link()).attribute(IFLA_MTU, &u32::from(mtu).to_ne_bytes()),
            RTM_NEWLINK,
            0,
        )?;
        let optional = [
            (
                "transmit queue length",
                IFLA_TXQLEN,
                QUEUE_LEN.to_ne_bytes().to_vec(),
            ),
            (
                "maximum burst",
                IFLA_GSO_MAX_SIZE,
                GSO_MAX_SIZE.to_ne_bytes().to_vec(),
            ),
            ("no own IPv6 address", IFLA_AF_SPEC, {
                // A nest of AF_INET6 holding the mode "none" (1).
                let mut nest = vec![
                    12,
                    0,
                    AF_INET6,
                    0,
                    5,
                    0,
                    IFLA_INET6_ADDR_GEN_MODE as u8,
                    0,
                    1,
                    0,
                    0,
                    0,
                ];
                nest.truncate(12);
                nest
            }),
        ];
        for (what, kind, value) in optional {
            if let Err(e) = self.request(what, |m| m.raw(&link()).attribute(kind, &value), RTM_NEWLINK, 0) {
                notes.push(e.to_string());
            }
        }
        let up = libc::IFF_UP as u32;
        self.request(
            "bring up",
            |m| m.raw(&link_header(0, index, up, up)),
            RTM_NEWLINK,
            0,
        )?;
        Ok(notes)
    }

    /// Adds an address to a device.
    pub(crate) fn add_address(&self, index: u32, net: IpNet) -> io::Result<()> {
        self.address("add address", index, net, None, RTM_NEWADDR)
    }

    /// Adds an address that comes and goes: over IPv6 it is deprecated, so that connections which name no source do not
    /// choose it.
    pub(crate) fn add_floating_address(&self, index: u32, net: IpNet) -> io::Result<()> {
        // `struct ifa_cacheinfo`: preferred for 0 seconds, valid for ever; two times that the kernel fills.
        let lifetime = [0, u32::MAX, 0, 0].map(u32::to_ne_bytes).concat();
        let lifetime = net.addr().is_ipv6().then_some(lifetime);
        self.address("add address", index, net, lifetime, RTM_NEWADDR)
    }

    /// Removes an address; fails with `AddrNotAvailable` if it is not there.
    pub(crate) fn del_address(&self, index: u32, net: IpNet) -> io::Result<()> {
        self.address("remove address", index, net, None, RTM_DELADDR)
    }

    fn address(
        &self,
        what: &str,
        index: u32,
        net: IpNet,
        lifetime: Option<Vec<u8>>,
        kind: u16,
    ) -> io::Result<()> {
        const IFA_F_NODAD: u8 = 2;
        let addr = net.addr();
        let ifa_flags = if addr.is_ipv6() { IFA_F_NODAD } else { 0 };
        let mut header = vec![family(addr), net.prefix_len(), ifa_flags, 0];
        header.extend_from_slice(&index.to_ne_bytes());
        let flags = if kind == RTM_NEWADDR {
            NLM_F_CREATE | NLM_F_EXCL
        } else {
            0
        };
        self.request(
            &format!("{what} {net}"),
            |m| {
                let m = m
                    .raw(&header)
                    .attribute(IFA_LOCAL, &octets(addr))
                    .attribute(IFA_ADDRESS, &octets(addr));
                match &lifetime {
                    Some(lifetime) => m.attribute(IFA_CACHEINFO, lifetime),
                    None => m,
                }
            },
            kind,
            flags,
        )
    }

    /// Whether a device has the address with this prefix length.
    pub(crate) fn has_address(&self, index: u32, net: IpNet) -> io::Result<bool> {
        let (addr, wanted) = (net.addr(), octets(net.addr()));
        let mut header = vec![family(addr), 0, 0, 0];
        header.extend_from_slice(&index.to_ne_bytes());
        let mut found = false;
        self.query(
            "list addresses",
            Message::new(RTM_GETADDR, NLM_F_DUMP).raw(&header),
            |kind, body| {
                let Some((head, rest)) = body.split_first_chunk::<8>() else {
                    return;
                };
                let [of, len, _, _, i0, i1, i2, i3] = *head;
                // Over IPv6 the address itself has the number of the peer's attribute.
                let is_it = attributes(rest)
                    .any(|(name, value)| matches!(name, IFA_LOCAL | IFA_ADDRESS) && value == wanted);
                found |= kind == RTM_NEWADDR
                    && of == family(addr)
                    && len == net.prefix_len()
                    && u32::from_ne_bytes([i0, i1, i2, i3]) == index
                    && is_it;
            },
        )?;
        Ok(found)
    }

    /// What a device is at this moment.
    pub(crate) fn link(&self, index: u32) -> io::Result<Link> {
        let mut link = None;
        let message = Message::new(RTM_GETLINK, 0).raw(&link_header(0, index, 0, 0));
        self.query("ask for the link", message, |kind, body| {
            if kind == RTM_NEWLINK {
                link = read_link(body);
            }
        })?;
        link.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
    }

    /// Lets the other IPv4 addresses of a prefix stay on a device when the one that came first is removed.
    pub(crate) fn promote_secondaries(&self, index: u32) -> io::Result<()> {
        const PROMOTE_SECONDARIES: u16 = 20;
        // AF_SPEC { AF_INET { CONF { setting: 1 } } }, each nest of one attribute.
        let nest = |kind: u16, value: &[u8]| {
            let len = (value.len() as u16 + 4).to_ne_bytes();
            [&len[..], &kind.to_ne_bytes(), value].concat()
        };
        let setting = nest(PROMOTE_SECONDARIES, &1u32.to_ne_bytes());
        let inet = nest(u16::from(AF_INET), &nest(IFLA_INET_CONF, &setting));
        self.request(
            "promote secondary addresses",
            |m| m.raw(&link_header(0, index, 0, 0)).attribute(IFLA_AF_SPEC, &inet),
            RTM_NEWLINK,
            0,
        )
    }

    /// Adds a route towards a device; fails with `AlreadyExists` if there is one for the same prefix.
    pub(crate) fn add_route(&self, index: u32, net: IpNet) -> io::Result<()> {
        self.route("add route", index, net, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL)
    }

    /// Removes a route towards a device.
    pub(crate) fn del_route(&self, index: u32, net: IpNet) -> io::Result<()> {
        self.route("remove route", index, net, RTM_DELROUTE, 0)
    }

    fn route(&self, what: &str, index: u32, net: IpNet, kind: u16, flags: u16) -> io::Result<()> {
        const TABLE_MAIN: u8 = 254;
        const PROTOCOL_STATIC: u8 = 4;
        const SCOPE_LINK: u8 = 253;
        const UNICAST: u8 = 1;
        let net = net.trunc();
        let scope = if net.addr().is_ipv4() { SCOPE_LINK } else { 0 };
        let header = [
            [family(net.addr()), net.prefix_len(), 0, 0],
            [TABLE_MAIN, PROTOCOL_STATIC, scope, UNICAST],
            [0; 4],
        ]
        .concat();
        self.request(
            &format!("{what} {net}"),
            |m| {
                let m = m.raw(&header);
                let m = if net.prefix_len() > 0 {
                    m.attribute(RTA_DST, &octets(net.addr()))
                } else {
                    m
                };
                m.attribute(RTA_OIF, &index.to_ne_bytes())
            },
            kind,
            flags,
        )
    }

    /// Sends one question and hands every message of the answer to `each`: its kind and its body.
    pub(super) fn query(
        &self,
        what: &str,
        message: Message,
        mut each: impl FnMut(u16, &[u8]),
    ) -> io::Result<()> {
        /// Reads of one answer; each holds dozens of addresses.
        const MAX_READS: usize = 100_000;
        let context = |e: io::Error| io::Error::new(e.kind(), format!("{what}: {e}"));
        let mut sequence = self
            .sequence
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        *sequence = sequence.wrapping_add(1);
        let message = message.finish(*sequence);
        rustix::net::send(&self.socket, &message, SendFlags::empty()).map_err(|e| context(e.into()))?;
        let mut buffer = vec![0u8; 32 << 10];
        for _ in 0..MAX_READS {
            let (len, _) = rustix::net::recv(self.socket.as_fd(), &mut buffer[..], RecvFlags::empty())
                .map_err(|e| context(e.into()))?;
            let octets = buffer.get(..len).unwrap_or_default();
            for (kind, _, body) in messages(octets).filter(|(_, number, _)| *number == *sequence) {
                match kind {
                    NLMSG_DONE => return Ok(()),
                    NLMSG_ERROR => {
                        let code = body.first_chunk::<4>().map_or(0, |c| i32::from_ne_bytes(*c));
                        return match code {
                            0 => Ok(()),
                            code => Err(context(io::Error::from_raw_os_error(code.wrapping_neg()))),
                        };
                    }
                    _ => each(kind, body),
                }
            }
        }
        Err(context(io::Error::from(io::ErrorKind::TimedOut)))
    }

    /// Sends one request and waits for its acknowledgement.
    fn request(
        &self,
        what: &str,
        build: impl FnOnce(Message) -> Message,
        kind: u16,
        flags: u16,
    ) -> io::Result<()> {
        let mut sequence = self
            .sequence
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        *sequence = sequence.wrapping_add(1);
        let message = build(Message::new(kind, flags)).finish(*sequence);
        let context = |e: io::Error| io::Error::new(e.kind(), format!("{what}: {e}"));
        rustix::net::send(&self.socket, &message, SendFlags::empty()).map_err(|e| context(e.into()))?;
        let mut buffer = [0u8; 4096];
        for _ in 0..64 {
            let (len, _) = rustix::net::recv(self.socket.as_fd(), &mut buffer[..], RecvFlags::empty())
                .map_err(|e| context(e.into()))?;
            match acknowledgement(buffer.get(..len).unwrap_or_default(), *sequence) {
                Some(0) => return Ok(()),
                Some(errno) => return Err(context(io::Error::from_raw_os_error(errno))),
                None => {}
            }
        }
        Err(context(io::Error::from(io::ErrorKind::TimedOut)))
    }
}

/// The errno (0: done) of an NLMSG_ERROR that answers `sequence`.
fn acknowledgement(octets: &[u8], sequence: u32) -> Option<i32> {
    let mut errors = messages(octets).filter(|(kind, number, _)| *kind == NLMSG_ERROR && *number == sequence);
    let (_, _, body) = errors.next()?;
    Some(i32::from_ne_bytes(*body.first_chunk::<4>()?).wrapping_neg())
}

/// The messages of one read: kind, sequence number and what follows the header.
pub(crate) fn messages(octets: &[u8]) -> impl Iterator<Item = (u16, u32, &[u8])> {
    const HEADER: usize = 16;
    let mut rest = octets;
    std::iter::from_fn(move || {
        let [l0, l1, l2, l3, k0, k1, _, _, s0, s1, s2, s3, ..] = *rest.first_chunk::<HEADER>()?;
        let len = (u32::from_ne_bytes([l0, l1, l2, l3]) as usize).max(HEADER);
        let body = rest.get(HEADER..len.min(rest.len()))?;
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        let sequence = u32::from_ne_bytes([s0, s1, s2, s3]);
        Some((u16::from_ne_bytes([k0, k1]), sequence, body))
    })
}

/// The attributes of a message: kind and value.
pub(super) fn attributes(octets: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    const HEADER: usize = 4;
    const KIND: u16 = 0x3fff;
    let mut rest = octets;
    std::iter::from_fn(move || {
        let [l0, l1, k0, k1] = *rest.first_chunk::<HEADER>()?;
        let len = usize::from(u16::from_ne_bytes([l0, l1])).max(HEADER);
        let value = rest.get(HEADER..len)?;
        rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_ne_bytes([k0, k1]) & KIND, value))
    })
}

/// What is used of a message about a link.
pub(crate) struct Link {
    pub(crate) name: String,
    pub(crate) index: u32,
    /// Octets of its largest IP packet.
    pub(crate) mtu: u32,
    /// It is up and has a carrier.
    pub(crate) carrier: bool,
    /// Its Ethernet address, if it has one.
    pub(crate) mac: Option<Mac>,
}

/// Reads the body of RTM_NEWLINK or RTM_DELLINK.
pub(crate) fn read_link(body: &[u8]) -> Option<Link> {
    const UP_AND_CARRIER: u32 = (libc::IFF_UP | libc::IFF_LOWER_UP) as u32;
    let (head, rest) = body.split_first_chunk::<16>()?;
    let [_, _, t0, t1, i0, i1, i2, i3, f0, f1, f2, f3, ..] = *head;
    let flags = u32::from_ne_bytes([f0, f1, f2, f3]);
    let (_, name) = attributes(rest).find(|(kind, _)| *kind == IFLA_IFNAME)?;
    let name = name.split(|b| *b == 0).next().unwrap_or_default();
    let is_ethernet = matches!(
        u16::from_ne_bytes([t0, t1]),
        libc::ARPHRD_ETHER | libc::ARPHRD_LOOPBACK
    );
    let mac = attributes(rest).find(|(kind, _)| *kind == IFLA_ADDRESS);
    let mac = mac.and_then(|(_, mac)| Mac::try_from(mac).ok());
    let mtu = attributes(rest).find(|(kind, _)| *kind == IFLA_MTU);
    let mtu = mtu.and_then(|(_, mtu)| mtu.try_into().ok());
    Some(Link {
        index: u32::from_ne_bytes([i0, i1, i2, i3]),
        mtu: mtu.map_or(0, u32::from_ne_bytes),
        mac: mac.filter(|_| is_ethernet),
        name: String::from_utf8_lossy(name).into_owned(),
        carrier: flags & UP_AND_CARRIER == UP_AND_CARRIER,
    })
}

/// The index of a device in the calling thread's network namespace.
pub(crate) fn device_index(name: &str) -> io::Result<u32> {
    let name = CString::new(name).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // SAFETY: `name` is a C string that lives across the call.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()),
        index => Ok(index),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_carry_their_length_and_aligned_attributes() {
        let message = Message::new(RTM_NEWLINK, 0)
            .raw(&[0; 16])
            .attribute(3, b"abcde")
            .finish(7);
        assert_eq!(message.len(), 16 + 16 + 12);
        assert_eq!(message.get(..4), Some(&44u32.to_ne_bytes()[..]));
        assert_eq!(message.get(8..12), Some(&7u32.to_ne_bytes()[..]));
        assert_eq!(message.get(32..34), Some(&9u16.to_ne_bytes()[..]));
    }

    #[test]
    fn an_acknowledgement_is_found_behind_other_messages() {
        let mut answer = vec![];
        for (sequence, code) in [(1u32, 0i32), (2, -17)] {
            answer.extend_from_slice(&36u32.to_ne_bytes());
            answer.extend_from_slice(&NLMSG_ERROR.to_ne_bytes());
            answer.extend_from_slice(&[0; 2]);
            answer.extend_from_slice(&sequence.to_ne_bytes());
            answer.extend_from_slice(&[0; 4]);
            answer.extend_from_slice(&code.to_ne_bytes());
            answer.extend_from_slice(&[0; 16]);
        }
        assert_eq!(acknowledgement(&answer, 1), Some(0));
        assert_eq!(acknowledgement(&answer, 2), Some(17));
        assert_eq!(acknowledgement(&answer, 3), None);
        assert_eq!(acknowledgement(&[1, 0, 0], 3), None);
    }
}
