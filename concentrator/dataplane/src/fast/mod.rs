//! The fast path: ESP to and from peers by AF_XDP, in one worker's hands. It takes what it can, and leaves the rest to the
//! sockets.
//!
//! ```text
//!  in:  Port::take ─► frame::parse ─► the worker, as if a socket had given it
//!  out: Hops::way ─► frame::head ─► Port::put … Port::kick at the end of the worker's turn
//!            └─ not known, too long, many at once ─► socket
//! ```

pub(crate) mod frame;
mod hops;
pub(crate) mod open;

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use frame::{Around, HEAD};
use hops::Hops;

use crate::message::Encap;
use crate::sys::neighbours::Changes;
use crate::sys::netlink::Netlink;
use crate::sys::xdp::Port;

/// Packets of one burst from which on a segmented send by the socket costs less, where the kernel copies each packet
/// of the fast path. Without copying there is no such number.
const MANY: usize = 4;

/// What the fast path has done since it was last asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct FastCounters {
    /// ESP packets received.
    pub(crate) received: u64,
    /// ESP packets sent.
    pub(crate) sent: u64,
    /// ESP packets that the sockets sent in its place.
    pub(crate) left: u64,
    /// Packets that the kernel dropped because nobody read them in time.
    pub(crate) lost: u64,
    /// Packets whose outer header or checksum was wrong.
    pub(crate) malformed: u64,
    /// Packets taken back because the permission to carry them was over.
    pub(crate) withdrawn: u64,
}

/// One worker's part.
pub(crate) struct FastPath {
    worker: u8,
    /// For each device one port a queue.
    devices: Vec<Vec<Port>>,
    hops: Hops<Netlink>,
    changes: Changes,
    counters: FastCounters,
    /// Losses told so far.
    lost: u64,
}

/// A packet as a socket would have given it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Received {
    pub(crate) len: usize,
    pub(crate) from: SocketAddr,
    pub(crate) to: IpAddr,
    pub(crate) encap: Encap,
    pub(crate) tos: u8,
}

/// What became of a send.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Sent {
    /// It is in line.
    Yes,
    /// The socket is to do it.
    No,
    /// The line is full.
    Full,
}

impl FastPath {
    /// The ports with their number among all of this worker.
    pub(crate) fn ports(&self) -> impl Iterator<Item = (usize, &Port)> {
        self.devices.iter().flatten().enumerate()
    }

    /// Where changes of routes are told.
    pub(crate) fn changes(&self) -> &Changes {
        &self.changes
    }

    /// Takes note of such changes. Gives the devices that are gone, if this worker is the one to tell.
    pub(crate) fn follow_changes(&mut self) -> Vec<String> {
        let (hops, mut gone) = (&mut self.hops, Vec::new());
        self.changes.read(|change| gone.extend(hops.changed(change)));
        let names = gone.iter().filter_map(|at| {
            // Its ports stay, so that the numbers of the others do; the kernel has unbound them.
            hops.devices().get(*at).map(|device| device.name.clone())
        });
        names.filter(|_| self.worker == 0).collect()
    }

    /// Reads the next packet of a port to the start of `buffer`; `None` when nothing waits.
    pub(crate) fn receive(&mut self, number: usize, buffer: &mut [u8]) -> Option<Received> {
        let port = self.devices.iter_mut().flatten().nth(number)?;
        loop {
            let packet = port.take()?;
            let mut head = [0; HEAD];
            let known = packet.len.min(HEAD);
            let head = head.get_mut(..known).unwrap_or_default();
            let parsed = if port.read(&packet, 0, head) {
                frame::parse(head, packet.len)
            } else {
                None
            };
            let received = parsed.and_then(|parsed| {
                let room = buffer.get_mut(..parsed.len)?;
                (port.read(&packet, parsed.at, room) && parsed.is_sound(room)).then_some(Received {
                    len: parsed.len,
                    from: parsed.from,
                    to: parsed.to,
                    encap: parsed.encap,
                    tos: parsed.tos,
                })
            });
            port.give_back(packet);
            if received.is_some() {
                self.counters.received += 1;
                return received;
            }
            self.counters.malformed += 1;
        }
    }

    /// Puts packets of `segment` octets each (the last may be shorter) in line; they leave with [`FastPath::flush`].
    pub(crate) fn send(&mut self, outer: &Around, data: &[u8], segment: usize, now: Instant) -> Sent {
        let packets = data.len().div_ceil(segment.max(1));
        let sent = self.put(outer, data, segment, packets, now);
        match sent {
            Sent::Yes => self.counters.sent += packets as u64,
            Sent::No => self.counters.left += packets as u64,
            Sent::Full => {}
        }
        sent
    }

    fn put(&mut self, outer: &Around, data: &[u8], segment: usize, packets: usize, now: Instant) -> Sent {
        let count = u16::try_from(packets).unwrap_or(u16::MAX);
        let Some(way) = self.hops.way(outer.from.ip(), outer.to.ip(), count, now) else {
            return Sent::No;
        };
        let ports = self.devices.get_mut(way.device);
        // Every worker uses another queue, as far as there are so many.
        let port = ports.and_then(|ports| {
            let at = usize::from(self.worker) % ports.len().max(1);
            ports.get_mut(at)
        });
        let Some(port) = port else { return Sent::No };
        let is_many = packets >= MANY && !port.is_zero_copy();
        if is_many || segment.min(data.len()) + outer.overhead() > outer.in_one_piece(way.mtu) {
            return Sent::No;
        }
        for (offset, packet) in (0u16..).zip(data.chunks(segment.max(1))) {
            let identification = way.identification.wrapping_add(offset);
            let Some(head) = frame::head(&way.ethernet, outer, identification, packet) else {
                return Sent::No;
            };
            let head = head.octets();
            if !port.put(head, packet) {
                port.kick();
                if !port.put(head, packet) {
                    return Sent::Full;
                }
            }
        }
        Sent::Yes
    }

    /// Whether packets are in line.
    pub(crate) fn has_line(&self) -> bool {
        self.devices.iter().flatten().any(|port| port.in_line() > 0)
    }

    /// Sends what is in line, or takes it back without permission.
    pub(crate) fn flush(&mut self, may_carry: bool) {
        for port in self
            .devices
            .iter_mut()
            .flatten()
            .filter(|port| port.in_line() > 0)
        {
            if !may_carry {
                let packets = port.withdraw();
                self.counters.withdrawn += packets;
                self.counters.sent = self.counters.sent.saturating_sub(packets);
            } else {
                port.kick();
            }
        }
    }

    /// How full the fullest ring of received packets is, 0 to 1.
    pub(crate) fn fill(&self) -> f64 {
        self.devices.iter().flatten().map(Port::fill).fold(0.0, f64::max)
    }

    /// Gives the memory of what was read back to the kernel.
    pub(crate) fn settle(&mut self) {
        self.devices.iter_mut().flatten().for_each(Port::settle);
    }

    /// What was done since the last time.
    pub(crate) fn take_counters(&mut self) -> FastCounters {
        std::mem::take(&mut self.counters)
    }

    /// Counts what the kernel has dropped; some system calls.
    pub(crate) fn count_losses(&mut self) {
        let lost: u64 = self.devices.iter().flatten().map(Port::lost).sum();
        self.counters.lost += lost.saturating_sub(self.lost);
        self.lost = self.lost.max(lost);
    }
}

/// A worker's part in the holder's hands while the worker does not run.
#[derive(Clone, Default)]
pub(crate) struct Place(Arc<Mutex<Option<FastPath>>>);

impl Place {
    pub(crate) fn new(path: FastPath) -> Self {
        Self(Arc::new(Mutex::new(Some(path))))
    }

    /// Lends it to the worker.
    pub(crate) fn lend(&self) -> Option<Lent> {
        let path = self.0.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        Some(Lent {
            path: Some(path),
            place: self.clone(),
        })
    }
}

/// It goes back to its place when this is dropped, also if the worker panics.
pub(crate) struct Lent {
    path: Option<FastPath>,
    place: Place,
}

impl Lent {
    pub(crate) fn path(&mut self) -> Option<&mut FastPath> {
        self.path.as_mut()
    }

    /// The same, to be looked at.
    pub(crate) fn peek(&self) -> Option<&FastPath> {
        self.path.as_ref()
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(mut path) = self.path.take() {
            path.flush(false);
            path.settle();
            *self.place.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(path);
        }
    }
}
