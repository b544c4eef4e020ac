//! The sockets towards the peers: UDP with segmentation offloads, and raw ESP.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::bpf;
use crate::io::Refused;

/// IP protocol number of ESP.
const PROTOCOL_ESP: i32 = 50;
/// UDP_SEGMENT and UDP_GRO of linux/udp.h.
const UDP_SEGMENT: libc::c_int = 103;
const UDP_GRO: libc::c_int = 104;

/// One received datagram, or a burst of datagrams of equal size (the last may be shorter) from one peer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Received {
    /// Octets filled.
    pub len: usize,
    /// Octets of each datagram of the burst.
    pub segment: usize,
    /// The peer.
    pub from: SocketAddr,
    /// Outer type of service or traffic class, where asked for.
    pub tos: u8,
}

/// Lets the kernel deliver bursts to an IKE socket of the port with NAT traversal, from now on to be read with
/// [`receive_burst`].
///
/// Worth it for the ESP beside it: before a packet is steered by its SPI, the kernel decides whether to join it with its
/// neighbours by asking any one member of the group, chosen by hash, whether it takes bursts. If IKE's does not, the ESP
/// of every second peer of a one-worker gateway arrives packet by packet.
///
/// # Errors
/// If the kernel has no UDP_GRO.
pub fn allow_bursts(socket: &impl AsFd) -> io::Result<()> {
    set_int(socket, libc::SOL_UDP, UDP_GRO, 1)
}

/// Reads one datagram, or a burst of datagrams of [`Received::segment`] octets each.
///
/// # Errors
/// `WouldBlock` when nothing waits; others tell of earlier sends.
pub fn receive_burst(socket: &impl AsFd, buffer: &mut [u8]) -> io::Result<Received> {
    receive_message(socket, buffer)
}

/// A socket that carries ESP for one worker at one local address.
#[derive(Debug)]
pub(crate) struct EspSocket {
    socket: Socket,
    local: SocketAddr,
    raw: bool,
    /// Cleared when the kernel refuses segmentation on the way out (a device without checksum offload, for one).
    gso: AtomicBool,
    /// Whether what is sent over IPv4 has the DF bit. An option of the socket, which one thread sends by: changed when a
    /// packet wants the other.
    dont_fragment: AtomicBool,
}

/// Opens a member of the SO_REUSEPORT group of a UDP port. The order of the calls is the order of the members.
pub(crate) fn open_udp(local: SocketAddr, reuse_port: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(local), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    if local.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if reuse_port {
        socket.set_reuse_port(true)?;
    }
    freebind(&socket, local)?;
    // RFC 4301 section 8.1 lets the tunnel header's DF bit be clear: packets too big for a link are then fragmented on
    // the way rather than lost where ICMP is filtered.
    fragment_when_needed(&socket, local)?;
    socket.bind(&local.into())?;
    Ok(socket)
}

impl EspSocket {
    /// A further member of the port 4500 group, with receive offload.
    pub(crate) fn udp(local: SocketAddr, buffer: usize) -> io::Result<Self> {
        let socket = open_udp(local, true)?;
        // A kernel without UDP_GRO delivers datagrams one by one: slower, not wrong.
        let _ = set_int(&socket, libc::SOL_UDP, UDP_GRO, 1);
        receive_tos(&socket, local)?;
        set_buffers(&socket, buffer);
        let local = bound(&socket, local)?;
        Ok(Self {
            socket,
            local,
            raw: false,
            gso: AtomicBool::new(true),
            dont_fragment: AtomicBool::new(local.is_ipv6()),
        })
    }

    /// A raw socket for IP protocol 50 that is given only the SPIs that `worker` of so many serves.
    pub(crate) fn raw(local: IpAddr, worker: u8, workers: u8, buffer: usize) -> io::Result<Self> {
        let local = SocketAddr::new(local, 0);
        let protocol = Some(Protocol::from(PROTOCOL_ESP));
        let socket = Socket::new(Domain::for_address(local), Type::RAW, protocol)?;
        socket.set_nonblocking(true)?;
        let filter = if local.is_ipv4() {
            bpf::raw_filter_v4(worker, workers)
        } else {
            bpf::raw_filter_v6(worker, workers)
        };
        bpf::attach_filter(&socket, &filter)?;
        freebind(&socket, local)?;
        fragment_when_needed(&socket, local)?;
        receive_tos(&socket, local)?;
        set_buffers(&socket, buffer);
        socket.bind(&local.into())?;
        Ok(Self {
            socket,
            local,
            raw: true,
            gso: AtomicBool::new(false),
            dont_fragment: AtomicBool::new(local.is_ipv6()),
        })
    }

    /// Where it is bound; the port of a raw socket is zero.
    pub(crate) fn local(&self) -> SocketAddr {
        self.local
    }

    /// Whether it carries ESP without UDP.
    pub(crate) fn is_raw(&self) -> bool {
        self.raw
    }

    /// Sends datagrams of `segment` octets each (the last may be shorter) with one call where that is possible. With
    /// `dont_fragment` they have the DF bit over IPv4; over IPv6 the kernel fragments what it knows not to fit.
    pub(crate) fn send_burst(
        &self,
        data: &[u8],
        segment: usize,
        to: SocketAddr,
        tos: u8,
        dont_fragment: bool,
    ) -> Result<(), Refused> {
        self.set_fragmenting(dont_fragment);
        if data.len() > segment && self.gso.load(Ordering::Relaxed) {
            match self.send(data, to, u16::try_from(segment).ok(), tos) {
                Ok(()) => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Err(Refused::Full),
                Err(e) => match e.raw_os_error() {
                    // The path takes no segments of this size whole, or the device cannot cut them.
                    Some(libc::EMSGSIZE | libc::EINVAL) => {}
                    Some(libc::EIO) => self.gso.store(false, Ordering::Relaxed),
                    _ => return Err(Refused::Failed),
                },
            }
        }
        for datagram in data.chunks(segment.max(1)) {
            if let Err(e) = self.send(datagram, to, None, tos) {
                return Err(match e.raw_os_error() {
                    Some(libc::EAGAIN | libc::ENOBUFS) => Refused::Full,
                    Some(libc::EMSGSIZE) => Refused::TooBig,
                    _ => Refused::Failed,
                });
            }
        }
        Ok(())
    }

    /// Makes what is sent from here on have the DF bit or not. Where the kernel refuses, packets go as those before.
    fn set_fragmenting(&self, dont_fragment: bool) {
        if self.local.is_ipv6() || self.dont_fragment.load(Ordering::Relaxed) == dont_fragment {
            return;
        }
        let value = if dont_fragment {
            libc::IP_PMTUDISC_PROBE
        } else {
            libc::IP_PMTUDISC_OMIT
        };
        if set_int(&self.socket, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, value).is_ok() {
            self.dont_fragment.store(dont_fragment, Ordering::Relaxed);
        }
    }

    /// How full its receive queue is, 0 to 1.
    pub(crate) fn fill(&self) -> io::Result<f64> {
        /// SO_MEMINFO of asm-generic/socket.h; of its words octets queued and their limit come first.
        const SO_MEMINFO: libc::c_int = 55;
        const WORDS: usize = 9;
        let mut words = [0u32; WORDS];
        let mut len = size_of::<[u32; WORDS]>() as libc::socklen_t;
        // SAFETY: the kernel writes at most `len` octets at the pointer, which is to that many; both live across the call.
        super::check(unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_SOCKET,
                SO_MEMINFO,
                (&raw mut words).cast(),
                &raw mut len,
            )
        })?;
        let [queued, limit, ..] = words;
        Ok(f64::from(queued) / f64::from(limit.max(1)))
    }

    /// Reads one datagram or burst; `None` when nothing waits. Over raw IPv4 the octets begin with the outer IP header.
    pub(crate) fn receive(&self, buffer: &mut [u8]) -> io::Result<Option<Received>> {
        match receive_message(&self.socket, buffer) {
            Ok(received) => Ok(Some(received)),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Sends `data` as datagrams of `segment` octets each (the last may be shorter) with outer type of service `tos`.
    pub(crate) fn send(&self, data: &[u8], to: SocketAddr, segment: Option<u16>, tos: u8) -> io::Result<()> {
        // A raw IPv6 socket takes a port for a protocol number: leave it out.
        let to = if self.raw { SocketAddr::new(to.ip(), 0) } else { to };
        send_message(&self.socket, data, to, segment, tos)
    }
}

impl AsFd for EspSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A non-blocking socket for the standard library and tokio.
pub(crate) fn into_std(socket: Socket) -> UdpSocket {
    UdpSocket::from(OwnedFd::from(socket))
}

/// The address that a socket is bound to.
pub(crate) fn bound(socket: &Socket, asked: SocketAddr) -> io::Result<SocketAddr> {
    Ok(socket.local_addr()?.as_socket().unwrap_or(asked))
}

fn freebind(socket: &Socket, local: SocketAddr) -> io::Result<()> {
    if local.is_ipv4() {
        socket.set_freebind_v4(true)
    } else {
        socket.set_freebind_v6(true)
    }
}

/// DF clear, and over IPv4 nothing believed of ICMP messages that say that a packet was too big: the kernel does not check
/// more of them than addresses and ports, which anybody may know. Over IPv6 only the sender fragments, and the kernel does
/// it only to an MTU that it has learned itself: there it may, down to 1280.
fn fragment_when_needed(socket: &Socket, local: SocketAddr) -> io::Result<()> {
    if local.is_ipv4() {
        set_int(
            socket,
            libc::IPPROTO_IP,
            libc::IP_MTU_DISCOVER,
            libc::IP_PMTUDISC_OMIT,
        )
    } else {
        set_int(
            socket,
            libc::IPPROTO_IPV6,
            libc::IPV6_MTU_DISCOVER,
            libc::IPV6_PMTUDISC_DONT,
        )
    }
}

fn receive_tos(socket: &Socket, local: SocketAddr) -> io::Result<()> {
    if local.is_ipv4() {
        set_int(socket, libc::IPPROTO_IP, libc::IP_RECVTOS, 1)
    } else {
        set_int(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVTCLASS, 1)
    }
}

/// Asks for buffers beyond net.core.rmem_max where we may, within it where we may not.
pub(crate) fn set_buffers(socket: &Socket, octets: usize) {
    set_buffer(socket, libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, octets);
    set_send_buffer(socket, octets);
}

/// The same for the way out alone.
pub(crate) fn set_send_buffer(socket: &impl AsFd, octets: usize) {
    set_buffer(socket, libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, octets);
}

fn set_buffer(socket: &impl AsFd, force: i32, plain: i32, octets: usize) {
    let wanted = i32::try_from(octets).unwrap_or(i32::MAX / 2);
    if set_int(socket, libc::SOL_SOCKET, force, wanted).is_err() {
        let _ = set_int(socket, libc::SOL_SOCKET, plain, wanted);
    }
}

pub(crate) fn set_int(socket: &impl AsFd, level: i32, option: i32, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the option value is an int that lives across the call, and its size is passed.
    super::check(unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    })?;
    Ok(())
}

/// Room for the control messages used here, aligned as the kernel wants it.
#[repr(C, align(8))]
struct Control([u8; 128]);

fn receive_message(socket: &impl AsFd, buffer: &mut [u8]) -> io::Result<Received> {
    let mut name: libc::sockaddr_in6 = zeroed_address();
    let mut control = Control([0; 128]);
    let mut part = libc::iovec {
        iov_base: buffer.as_mut_ptr().cast(),
        iov_len: buffer.len(),
    };
    let mut message = empty_message();
    message.msg_name = (&raw mut name).cast();
    message.msg_namelen = size_of::<libc::sockaddr_in6>() as libc::socklen_t;
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = control.0.len();
    // SAFETY: every pointer in `message` is to memory of the stated length that lives and is exclusively ours until
    // the call returns; `sockaddr_in6` is the larger of the two address families these sockets have.
    let len = super::check_len(unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &raw mut message, 0) })?;
    let mut received = Received {
        len,
        segment: len,
        from: address(&name),
        tos: 0,
    };
    // SAFETY: `message` is as the kernel left it, with its control buffer alive.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    while !next.is_null() {
        // SAFETY: CMSG_FIRSTHDR and CMSG_NXTHDR give null or a header that lies whole in the control buffer.
        let header = unsafe { next.read_unaligned() };
        // SAFETY: the data of a control message follows its header, within the control buffer.
        let data = unsafe { libc::CMSG_DATA(next) };
        match (header.cmsg_level, header.cmsg_type) {
            (libc::SOL_UDP, UDP_GRO) => {
                // SAFETY: the kernel wrote an int there.
                let size = unsafe { data.cast::<libc::c_int>().read_unaligned() };
                received.segment = usize::try_from(size).unwrap_or(len).max(1);
            }
            (libc::IPPROTO_IP, libc::IP_TOS) => {
                // SAFETY: the kernel wrote one octet there.
                received.tos = unsafe { data.read() };
            }
            (libc::IPPROTO_IPV6, libc::IPV6_TCLASS) => {
                // SAFETY: the kernel wrote an int there.
                let class = unsafe { data.cast::<libc::c_int>().read_unaligned() };
                received.tos = (class & 0xff) as u8;
            }
            _ => {}
        }
        // SAFETY: as for CMSG_FIRSTHDR, and `next` is a header of this message.
        next = unsafe { libc::CMSG_NXTHDR(&raw const message, next) };
    }
    Ok(received)
}

fn send_message(
    socket: &Socket,
    data: &[u8],
    to: SocketAddr,
    segment: Option<u16>,
    tos: u8,
) -> io::Result<()> {
    let name = SockAddr::from(to);
    let mut control = Control([0; 128]);
    let mut used = 0;
    if let Some(segment) = segment {
        used += put_control(
            &mut control,
            used,
            libc::SOL_UDP,
            UDP_SEGMENT,
            &segment.to_ne_bytes(),
        );
    }
    if tos != 0 {
        let (level, kind) = if to.is_ipv4() {
            (libc::IPPROTO_IP, libc::IP_TOS)
        } else {
            (libc::IPPROTO_IPV6, libc::IPV6_TCLASS)
        };
        used += put_control(
            &mut control,
            used,
            level,
            kind,
            &libc::c_int::from(tos).to_ne_bytes(),
        );
    }
    let mut part = libc::iovec {
        iov_base: data.as_ptr().cast_mut().cast(),
        iov_len: data.len(),
    };
    let mut message = empty_message();
    message.msg_name = name.as_ptr().cast_mut().cast();
    message.msg_namelen = name.len();
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    if used > 0 {
        message.msg_control = control.0.as_mut_ptr().cast();
        message.msg_controllen = used;
    }
    // SAFETY: every pointer in `message` is to memory of the stated length that lives until the call returns, and
    // sendmsg only reads.
    super::check_len(unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, 0) })?;
    Ok(())
}

/// Writes one control message at octet `at`; returns the octets used, 0 if there is no room.
fn put_control(control: &mut Control, at: usize, level: i32, kind: i32, value: &[u8]) -> usize {
    const HEADER: usize = size_of::<libc::cmsghdr>();
    let align = |n: usize| n.next_multiple_of(size_of::<usize>());
    let (len, space) = (HEADER + value.len(), align(HEADER) + align(value.len()));
    let Some(room) = control.0.get_mut(at..at + space) else {
        return 0;
    };
    let fields = [
        &len.to_ne_bytes()[..],
        &level.to_ne_bytes()[..],
        &kind.to_ne_bytes()[..],
        value,
    ];
    for (octet, from) in room.iter_mut().zip(fields.into_iter().flatten()) {
        *octet = *from;
    }
    space
}

fn empty_message() -> libc::msghdr {
    // SAFETY: a msghdr is plain data, for which all zeros (null pointers, zero lengths) is a valid value.
    unsafe { std::mem::zeroed() }
}

fn zeroed_address() -> libc::sockaddr_in6 {
    // SAFETY: a sockaddr_in6 is plain data, for which all zeros is a valid value.
    unsafe { std::mem::zeroed() }
}

/// The address in a `sockaddr` of either family; an unknown family gives the unspecified address.
fn address(name: &libc::sockaddr_in6) -> SocketAddr {
    if i32::from(name.sin6_family) == libc::AF_INET {
        // SAFETY: a sockaddr_in is smaller than a sockaddr_in6 and not more strictly aligned, and both are plain data.
        let v4 = unsafe { (&raw const *name).cast::<libc::sockaddr_in>().read() };
        let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
        SocketAddr::V4(SocketAddrV4::new(ip, u16::from_be(v4.sin_port)))
    } else {
        let ip = Ipv6Addr::from(name.sin6_addr.s6_addr);
        SocketAddr::V6(SocketAddrV6::new(
            ip,
            u16::from_be(name.sin6_port),
            0,
            name.sin6_scope_id,
        ))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
    use super::*;

    fn group(ip: IpAddr, workers: u8) -> (Socket, Vec<EspSocket>, SocketAddr) {
        let ike = open_udp(SocketAddr::new(ip, 0), true).unwrap();
        let local = bound(&ike, SocketAddr::new(ip, 0)).unwrap();
        bpf::attach_steering(&ike, &bpf::steering_program(workers)).unwrap();
        let esp = (0..workers)
            .map(|_| EspSocket::udp(local, 1 << 20).unwrap())
            .collect();
        (ike, esp, local)
    }

    fn receive(socket: &EspSocket, buffer: &mut [u8]) -> Option<Received> {
        socket.receive(buffer).unwrap()
    }

    #[test]
    fn the_kernel_steers_by_spi_and_gives_ike_the_rest() {
        for ip in [IpAddr::from([127, 0, 0, 1]), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
            let (ike, esp, local) = group(ip, 3);
            let client = UdpSocket::bind((ip, 0)).unwrap();
            let mut buffer = vec![0; 65536];
            for spi_top in 0..8u8 {
                let packet = [spi_top << 5 | 1, 0, 0, 9, 0, 0, 0, 1, 7];
                client.send_to(&packet, local).unwrap();
                let serving = usize::from(spi_top % 3);
                for (worker, socket) in esp.iter().enumerate() {
                    let got = receive(socket, &mut buffer);
                    assert_eq!(
                        got.is_some(),
                        worker == serving,
                        "top bits {spi_top}, worker {worker}"
                    );
                    if let Some(got) = got {
                        assert_eq!((got.len, got.segment), (9, 9));
                        assert_eq!(got.from, client.local_addr().unwrap());
                    }
                }
            }
            for odd in [&[][..], &[0xff], &[1, 2, 3], &[0, 0, 0, 0, 5, 5, 5, 5]] {
                client.send_to(odd, local).unwrap();
                assert_eq!(rustix::io::read(&ike, &mut buffer).unwrap(), odd.len());
            }
        }
    }

    #[test]
    fn a_segmented_send_arrives_as_one_burst_with_its_traffic_class() {
        for ip in [IpAddr::from([127, 0, 0, 1]), IpAddr::V6(Ipv6Addr::LOCALHOST)] {
            let (_ike, esp, local) = group(ip, 1);
            let sender = EspSocket::udp(SocketAddr::new(ip, 0), 1 << 20).unwrap();
            let mut data = vec![0u8; 1000 * 5 + 300];
            for chunk in data.chunks_mut(1000) {
                chunk[0] = 1;
            }
            sender.send(&data, local, Some(1000), 0xb8 | 2).unwrap();
            let mut buffer = vec![0; 65536];
            let got = receive(&esp[0], &mut buffer).unwrap();
            assert_eq!((got.len, got.segment, got.tos), (5300, 1000, 0xb8 | 2));
            assert_eq!(&buffer[..5300], &data[..]);
            sender.send(&data[..10], local, None, 0).unwrap();
            let got = receive(&esp[0], &mut buffer).unwrap();
            assert_eq!(
                (got.len, got.segment, got.tos, got.from),
                (10, 10, 0, sender.local())
            );
        }
    }
}
