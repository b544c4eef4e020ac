//! The IKE sockets: owned by the data plane's holder, read by the Listener, written by every IkeSaActor.
//!
//! The cores see canonical ports: 500 for plain IKE and 4500 for IKE with the non-ESP marker, whatever the sockets
//! are bound to (tests and unprivileged runs use others).

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ike::Transmit;

/// The largest datagram that is read: an IKE message is at most 64 KiB.
pub const RECEIVE_MAX: usize = 65_535;
/// RFC 7296 section 3.1: IKE on port 4500 is preceded by four octets of zero.
const MARKER: [u8; 4] = [0; 4];
/// RFC 3948 section 2.3.
const KEEPALIVE: &[u8] = &[0xff];
/// RFC 7296 section 2.
const IKE_PORT: u16 = 500;
/// RFC 7296 section 2.23.
pub const NAT_PORT: u16 = 4500;

/// One socket.
pub struct IkeSocket {
    socket: UdpSocket,
    local: SocketAddr,
    nat: bool,
}

impl IkeSocket {
    /// `nat` tells whether datagrams carry the non-ESP marker.
    ///
    /// # Errors
    /// The socket cannot be made non-blocking.
    pub fn new(socket: UdpSocket, local: SocketAddr, nat: bool) -> std::io::Result<Self> {
        socket.set_nonblocking(true)?;
        if nat {
            // The kernel asks any member of the port's group whether bursts may be joined: this one must not say no.
            dataplane::allow_bursts(&socket)?;
        }
        Ok(Self { socket, local, nat })
    }

    /// Where it is bound.
    #[must_use]
    pub const fn local(&self) -> SocketAddr {
        self.local
    }

    /// The address as the cores see it.
    #[must_use]
    pub fn canonical(&self) -> SocketAddr {
        SocketAddr::new(self.local.ip(), if self.nat { NAT_PORT } else { IKE_PORT })
    }

    /// A reader over the same socket.
    ///
    /// # Errors
    /// No descriptor is left, or there is no runtime on this thread.
    pub fn tokio(&self) -> std::io::Result<tokio::net::UdpSocket> {
        tokio::net::UdpSocket::from_std(self.socket.try_clone()?)
    }

    /// The IKE message in a datagram; `None` for NAT keep-alives and ESP that went astray.
    #[must_use]
    pub fn strip<'a>(&self, datagram: &'a [u8]) -> Option<&'a [u8]> {
        if self.nat {
            datagram.strip_prefix(&MARKER)
        } else {
            Some(datagram)
        }
    }

    fn send(&self, to: SocketAddr, message: &[u8]) -> std::io::Result<()> {
        // A NAT keep-alive is one octet without the marker (RFC 3948 section 2.3).
        if self.nat && message != KEEPALIVE {
            let mut datagram = Vec::with_capacity(MARKER.len() + message.len());
            datagram.extend_from_slice(&MARKER);
            datagram.extend_from_slice(message);
            self.socket.send_to(&datagram, to)?;
        } else {
            self.socket.send_to(message, to)?;
        }
        Ok(())
    }
}

/// All IKE sockets of the node.
pub struct Sockets {
    all: Vec<Arc<IkeSocket>>,
    by_canonical: HashMap<SocketAddr, usize>,
    by_address: HashMap<IpAddr, SocketAddr>,
    /// Nanoseconds since boot up to which a node of a cluster may speak; the workers heed the same.
    until: Option<Arc<AtomicU64>>,
}

impl Sockets {
    /// In the order in which they are given. Nothing is sent after `until`, in nanoseconds since boot.
    #[must_use]
    pub fn new(sockets: Vec<IkeSocket>, until: Option<Arc<AtomicU64>>) -> Self {
        let all: Vec<_> = sockets.into_iter().map(Arc::new).collect();
        let by_canonical = all
            .iter()
            .enumerate()
            .map(|(index, socket)| (socket.canonical(), index))
            .collect();
        let by_address = all
            .iter()
            .filter(|socket| socket.nat)
            .map(|socket| (socket.local.ip(), socket.local))
            .collect();
        Self {
            all,
            by_canonical,
            by_address,
            until,
        }
    }

    /// Every socket.
    #[must_use]
    pub fn all(&self) -> &[Arc<IkeSocket>] {
        &self.all
    }

    /// Sends what a core wants sent.
    pub fn send(&self, transmit: &Transmit) {
        self.answer(transmit.local, transmit.remote, &transmit.bytes);
    }

    /// Sends one message. What the kernel does not take is lost, as on any network: IKE sends again.
    pub fn answer(&self, local: SocketAddr, remote: SocketAddr, message: &[u8]) {
        if !self.may_speak() {
            return tracing::debug!("a message was not sent: this node's time is over");
        }
        let socket = self
            .by_canonical
            .get(&local)
            .and_then(|index| self.all.get(*index));
        match socket {
            Some(socket) => {
                if let Err(error) = socket.send(remote, message) {
                    tracing::debug!(%error, "a message could not be sent");
                }
            }
            None => tracing::debug!(%local, "there is no such socket"),
        }
    }

    /// A node that was stopped and goes on finds its time over, and others may speak for its slots already.
    fn may_speak(&self) -> bool {
        self.until.as_ref().is_none_or(|until| {
            let until = until.load(Ordering::Acquire);
            dataplane::boot_time() < Duration::from_nanos(until)
        })
    }

    /// Where ESP in UDP of a canonical local address is really bound.
    #[must_use]
    pub fn real_local(&self, local: SocketAddr) -> SocketAddr {
        self.by_address.get(&local.ip()).copied().unwrap_or(local)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
mod tests {
    use std::time::Duration;

    use super::*;

    fn socket(nat: bool) -> IkeSocket {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let local = socket.local_addr().unwrap();
        IkeSocket::new(socket, local, nat).unwrap()
    }

    #[test]
    fn port_4500_has_the_marker_and_port_500_has_not() {
        let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
        peer.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let sockets = Sockets::new(vec![socket(false), socket(true)], None);
        let mut buffer = [0; 64];
        for (port, expected) in [(500, &b"hello"[..]), (4500, &b"\0\0\0\0hello"[..])] {
            let local = SocketAddr::new("127.0.0.1".parse().unwrap(), port);
            sockets.answer(local, peer.local_addr().unwrap(), b"hello");
            let (length, _) = peer.recv_from(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], expected);
            sockets.answer(local, peer.local_addr().unwrap(), &[0xff]);
            let (length, _) = peer.recv_from(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], &[0xff]);
        }
        assert_eq!(sockets.all()[1].strip(b"\0\0\0\0x"), Some(&b"x"[..]));
        assert_eq!(sockets.all()[1].strip(b"\xff"), None);
        assert_eq!(sockets.all()[0].strip(b"\xff"), Some(&b"\xff"[..]));
        let canonical = sockets.all()[1].canonical();
        assert_eq!(sockets.real_local(canonical), sockets.all()[1].local());
    }
    #[test]
    fn nothing_is_said_after_the_nodes_time() {
        let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
        peer.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let until = Arc::new(AtomicU64::new(0));
        let sockets = Sockets::new(vec![socket(false)], Some(Arc::clone(&until)));
        let local = sockets.all()[0].canonical();
        sockets.answer(local, peer.local_addr().unwrap(), b"too late");
        until.store(u64::MAX, Ordering::Release);
        sockets.answer(local, peer.local_addr().unwrap(), b"in time");
        let mut buffer = [0; 64];
        let (length, _) = peer.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"in time");
    }
}
