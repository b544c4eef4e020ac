//! Sockets that receive what routers say of packets of ours that were too big.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::{Mutex, PoisonError};

use socket2::{Domain, Protocol, Socket, Type};

use super::{bpf, socket};

/// IPV6_MTU and IP_MTU of linux/in6.h and linux/in.h: the MTU of the way to the peer of a connected socket.
const IP_MTU: libc::c_int = 14;
const IPV6_MTU: libc::c_int = 24;
/// Octets of messages that may wait: forged ones are not to take more.
const BUFFER: libc::c_int = 256 << 10;

/// A raw socket for ICMP or ICMPv6, which is given "fragmentation needed" or "packet too big" alone.
#[derive(Debug)]
pub(crate) struct IcmpSocket {
    socket: Socket,
    is_v4: bool,
}

impl IcmpSocket {
    pub(crate) fn open(is_v4: bool) -> io::Result<Self> {
        let (domain, protocol, filter) = if is_v4 {
            (Domain::IPV4, Protocol::ICMPV4, bpf::too_big_filter_v4())
        } else {
            (Domain::IPV6, Protocol::ICMPV6, bpf::too_big_filter_v6())
        };
        let opened = Socket::new(domain, Type::RAW, Some(protocol))?;
        opened.set_nonblocking(true)?;
        bpf::attach_filter(&opened, &filter)?;
        socket::set_int(&opened, libc::SOL_SOCKET, libc::SO_RCVBUF, BUFFER)?;
        Ok(Self {
            socket: opened,
            is_v4,
        })
    }

    /// Whether its messages are of ICMP for IPv4.
    pub(crate) fn is_v4(&self) -> bool {
        self.is_v4
    }

    /// Reads one message, its ICMP header first; gives its octets, `None` when nothing waits.
    pub(crate) fn receive(&self, buffer: &mut [u8]) -> Option<usize> {
        let len = rustix::io::read(&self.socket, &mut *buffer).ok()?;
        if !self.is_v4 {
            return Some(len);
        }
        let header = buffer.first().map_or(0, |b| usize::from(b & 15) * 4).min(len);
        buffer.copy_within(header..len, 0);
        Some(len - header)
    }
}

impl AsFd for IcmpSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Asks the kernel for the MTU of the first link towards an address.
#[derive(Debug)]
pub(crate) struct LinkProbe {
    v4: Option<Mutex<Socket>>,
    v6: Option<Mutex<Socket>>,
}

impl LinkProbe {
    pub(crate) fn open() -> Self {
        let open = |domain| {
            let socket = Socket::new(domain, Type::DGRAM, Some(Protocol::UDP)).ok()?;
            // The link's own MTU is wanted, not what the kernel believes of the way behind it.
            let (level, option, value) = if domain == Domain::IPV4 {
                (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_PROBE)
            } else {
                (
                    libc::IPPROTO_IPV6,
                    libc::IPV6_MTU_DISCOVER,
                    libc::IPV6_PMTUDISC_PROBE,
                )
            };
            socket::set_int(&socket, level, option, value).ok()?;
            Some(Mutex::new(socket))
        };
        Self {
            v4: open(Domain::IPV4),
            v6: open(Domain::IPV6),
        }
    }

    /// The MTU in octets; `None` where there is no route.
    pub(crate) fn mtu(&self, to: IpAddr) -> Option<u16> {
        let (socket, level, option) = if to.is_ipv4() {
            (&self.v4, libc::IPPROTO_IP, IP_MTU)
        } else {
            (&self.v6, libc::IPPROTO_IPV6, IPV6_MTU)
        };
        let socket = socket.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner);
        // Connecting a UDP socket sends nothing; the port means nothing.
        socket.connect(&SocketAddr::new(to, 9).into()).ok()?;
        let mut value: libc::c_int = 0;
        let mut len = size_of::<libc::c_int>() as libc::socklen_t;
        // SAFETY: the value is an int and its size is passed; both live across the call.
        let done = super::check(unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                level,
                option,
                (&raw mut value).cast(),
                &raw mut len,
            )
        });
        done.ok().and_then(|_| u16::try_from(value.min(65_535)).ok())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn the_mtu_of_the_loopback_is_the_largest() {
        let probe = LinkProbe::open();
        for _ in 0..2 {
            assert_eq!(probe.mtu([127, 0, 0, 1].into()), Some(65_535));
        }
    }
}
