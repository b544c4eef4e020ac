//! The sockets by which the nodes of a cluster exchange packets that came to the wrong one, in bursts both ways.

use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd};

use crate::config::Forward;
use crate::forward::{Envelope, Kind, Wrapper};
use crate::io::Refused;
use crate::sys::bpf;
use crate::sys::socket::EspSocket;

/// UDP_MAX_SEGMENTS of older kernels; newer ones allow 128.
const MAX_SEGMENTS: usize = 64;
/// The largest UDP payload over IPv4.
const MAX_DATAGRAM: usize = 65_507;
/// Octets of the largest burst.
const BURST: usize = 66 << 10;

/// One worker's socket, and the cluster's key.
#[derive(Debug)]
pub(crate) struct ForwardPort {
    socket: EspSocket,
    wrapper: Wrapper,
}

impl ForwardPort {
    /// Opens one for each worker; the kernel gives each what its worker serves.
    pub(crate) fn open_all(forward: &Forward, workers: u8, buffer: usize) -> io::Result<Vec<Self>> {
        let mut ports = Vec::new();
        let mut listen = forward.listen;
        for _ in 0..workers {
            let socket = EspSocket::udp(listen, buffer)?;
            listen = socket.local();
            ports.push(Self {
                socket,
                wrapper: Wrapper::new(&forward.key),
            });
        }
        if let Some(first) = ports.first() {
            bpf::attach_steering(&first.socket, &bpf::forward_program(workers))?;
        }
        Ok(ports)
    }

    /// Sends one packet with its envelope.
    pub(crate) fn send(&self, to: SocketAddr, envelope: &Envelope, packet: &[u8]) -> io::Result<()> {
        let mut room = Vec::new();
        self.wrapper.wrap(envelope, packet, &mut room);
        self.socket.send(&room, to, None, 0)
    }

    /// Sends packets of `segment` octets each (the last may be shorter), all with one envelope; gives how many went before
    /// the socket took no more. `room` is scratch.
    pub(crate) fn send_burst(
        &self,
        to: SocketAddr,
        envelope: &Envelope,
        packets: &[u8],
        segment: usize,
        room: &mut Vec<u8>,
    ) -> Result<u64, Refused> {
        let segment = segment.max(1);
        let mut sent = 0;
        let mut rest = packets.chunks(segment).peekable();
        while let Some(first) = rest.next() {
            room.clear();
            self.wrapper.wrap(envelope, first, room);
            let (stride, mut count) = (room.len(), 1);
            while count < MAX_SEGMENTS && room.len() + stride <= MAX_DATAGRAM {
                let Some(packet) = rest.next() else { break };
                self.wrapper.wrap(envelope, packet, room);
                count += 1;
            }
            match self.socket.send_burst(room, stride, to, 0, to.is_ipv6()) {
                Ok(()) => sent += count as u64,
                Err(_) if sent > 0 => break,
                Err(refused) => return Err(refused),
            }
        }
        Ok(sent)
    }
}

impl AsFd for ForwardPort {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A burst of forwarded packets that is taken apart: the kernel joins what several nodes' peers sent.
#[derive(Debug)]
pub(crate) struct Parcelled {
    burst: Vec<u8>,
    rest: Range<usize>,
    segment: usize,
}

/// What [`Parcelled::take`] found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Taken {
    /// Packets of `segment` octets each (the last may be shorter), with one envelope.
    Packets {
        envelope: Envelope,
        len: usize,
        segment: usize,
    },
    /// A datagram that no node of ours sent.
    Bad,
}

impl Parcelled {
    pub(crate) fn new() -> Self {
        Self {
            burst: Vec::new(),
            rest: 0..0,
            segment: 1,
        }
    }

    /// Whether everything of the burst is taken.
    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Reads the next burst; false when nothing waits. What was left of the one before is lost, so take it first.
    pub(crate) fn receive(&mut self, port: &ForwardPort) -> bool {
        self.burst.resize(BURST, 0);
        // An error here is one of an earlier send (ICMP): the socket stays usable.
        let Ok(Some(received)) = port.socket.receive(&mut self.burst) else {
            return false;
        };
        // An empty datagram is a bad one too.
        (self.rest, self.segment) = (0..received.len.max(1), received.segment.max(1));
        true
    }

    /// Moves the next packets that have an envelope in common to `buffer`.
    pub(crate) fn take(&mut self, port: &ForwardPort, buffer: &mut [u8]) -> Option<Taken> {
        let mut taken: Option<(Envelope, usize, usize)> = None;
        while !self.rest.is_empty() {
            let end = (self.rest.start + self.segment).min(self.rest.end);
            let datagram = self.burst.get(self.rest.start..end).unwrap_or_default();
            let unwrapped = port.wrapper.unwrap(datagram);
            let packet = unwrapped
                .as_ref()
                .and_then(|(_, range)| datagram.get(range.clone()));
            let (Some((envelope, _)), Some(packet)) = (unwrapped, packet) else {
                if taken.is_some() {
                    break;
                }
                self.rest.start = end;
                return Some(Taken::Bad);
            };
            let (len, segment) = match taken {
                None => (0, packet.len()),
                // A shorter one ends a burst, and IKE messages come one by one.
                Some((of, len, segment))
                    if of == envelope
                        && envelope.kind != Kind::Ike
                        && packet.len() <= segment
                        && len % segment == 0 =>
                {
                    (len, segment)
                }
                Some(_) => break,
            };
            let Some(room) = buffer.get_mut(len..len + packet.len()) else {
                break;
            };
            room.copy_from_slice(packet);
            taken = Some((envelope, len + packet.len(), segment.max(1)));
            self.rest.start = end;
        }
        taken.map(|(envelope, len, segment)| Taken::Packets {
            envelope,
            len,
            segment,
        })
    }
}
