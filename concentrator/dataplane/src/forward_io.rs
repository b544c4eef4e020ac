//! The sockets by which the nodes of a cluster exchange packets that came to the wrong one.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};

use crate::config::Forward;
use crate::forward::{Envelope, Wrapper};
use crate::sys::bpf;
use crate::sys::socket::PlainSocket;

/// One worker's socket, and the cluster's key.
#[derive(Debug)]
pub(crate) struct ForwardPort {
    socket: PlainSocket,
    wrapper: Wrapper,
}

impl ForwardPort {
    /// Opens one for each worker; the kernel gives each what its worker serves.
    pub(crate) fn open_all(forward: &Forward, workers: u8, buffer: usize) -> io::Result<Vec<Self>> {
        let mut ports = Vec::new();
        let mut listen = forward.listen;
        for _ in 0..workers {
            let socket = PlainSocket::open(listen, buffer)?;
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

    /// Sends one packet with its envelope; `room` is scratch.
    pub(crate) fn send(
        &self,
        to: SocketAddr,
        envelope: &Envelope,
        packet: &[u8],
        room: &mut Vec<u8>,
    ) -> io::Result<()> {
        self.wrapper.wrap(envelope, packet, room);
        self.socket.send(room, to)
    }

    /// The next packet, moved to the start of the buffer, and its length; `Err` for what no node of ours sent, `None` when
    /// nothing waits.
    pub(crate) fn receive(&self, buffer: &mut [u8]) -> Option<Result<(Envelope, usize), ()>> {
        // An error here is one of an earlier send (ICMP): the socket stays usable.
        let len = self.socket.receive(buffer).ok().flatten()?;
        let unwrapped = self.wrapper.unwrap(buffer.get(..len).unwrap_or_default());
        Some(unwrapped.ok_or(()).map(|(envelope, range)| {
            let len = range.len();
            buffer.copy_within(range, 0);
            (envelope, len)
        }))
    }
}

impl AsFd for ForwardPort {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
