//! News of the interfaces: an rtnetlink socket in the group of link changes.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType};

use super::netlink::{self, RTM_DELLINK, RTM_NEWLINK};

/// RTMGRP_LINK.
const GROUP_LINK: u32 = 1;
/// Octets of one read; a message of one link is about 1500.
const BUFFER: usize = 32 << 10;

/// What happened to an interface.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LinkEvent {
    /// It is so now. Also told when something else of the interface changed.
    Link {
        /// Name of the interface.
        interface: String,
        /// It is up and has a carrier.
        carrier: bool,
    },
    /// It was removed, or left for another network namespace.
    Gone {
        /// Name of the interface.
        interface: String,
    },
    /// Events were lost: ask for the carrier of each interface of interest.
    Overrun,
}

/// Where changes of interfaces can be read. Wait for its descriptor to be readable, then take events until there is none.
#[derive(Debug)]
pub struct LinkEvents {
    socket: OwnedFd,
    waiting: VecDeque<LinkEvent>,
}

impl LinkEvents {
    pub(crate) fn open() -> io::Result<Self> {
        let socket = rustix::net::socket_with(
            AddressFamily::NETLINK,
            SocketType::RAW,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )?;
        rustix::net::bind(&socket, &SocketAddrNetlink::new(0, GROUP_LINK))?;
        Ok(Self {
            socket,
            waiting: VecDeque::new(),
        })
    }

    /// The next event; `None` when nothing waits. Never blocks.
    ///
    /// # Errors
    /// The system's reason; the socket stays usable.
    pub fn take(&mut self) -> io::Result<Option<LinkEvent>> {
        let mut buffer = vec![0; BUFFER];
        while self.waiting.is_empty() {
            match rustix::net::recv(&self.socket, &mut buffer[..], RecvFlags::empty()) {
                Ok((len, _)) => self.read(buffer.get(..len).unwrap_or_default()),
                Err(rustix::io::Errno::AGAIN) => return Ok(None),
                Err(rustix::io::Errno::NOBUFS) => return Ok(Some(LinkEvent::Overrun)),
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Ok(self.waiting.pop_front())
    }

    /// The next event, waited for; `None` if none came within `timeout`.
    ///
    /// # Errors
    /// The system's reason.
    pub fn wait(&mut self, timeout: Duration) -> io::Result<Option<LinkEvent>> {
        if let Some(event) = self.take()? {
            return Ok(Some(event));
        }
        let timeout = Timespec::try_from(timeout).unwrap_or(Timespec {
            tv_sec: 1,
            tv_nsec: 0,
        });
        match poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => self.take(),
            Err(e) => Err(e.into()),
        }
    }

    fn read(&mut self, octets: &[u8]) {
        for (kind, _, body) in netlink::messages(octets) {
            let Some(link) = netlink::read_link(body) else {
                continue;
            };
            let (interface, carrier) = (link.name, link.carrier);
            match kind {
                RTM_NEWLINK => self.waiting.push_back(LinkEvent::Link { interface, carrier }),
                RTM_DELLINK => self.waiting.push_back(LinkEvent::Gone { interface }),
                _ => {}
            }
        }
    }
}

impl AsFd for LinkEvents {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
