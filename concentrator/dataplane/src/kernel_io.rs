//! [`PacketIo`] by system calls: the sockets and TUN queues of one worker, and the epoll set that watches them.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use rustc_hash::FxHashMap;

use crate::handover::{Batch, Parcel};
use crate::io::{Arrival, PacketIo, PortId, Refused};
use crate::message::{Encap, WorkerEvent};
use crate::shard::{Flow, Shard};
use crate::sys::event::Poller;
use crate::sys::socket::EspSocket;
use crate::worker::{Control, DomainQueue, Seat};

/// Commands obeyed between two turns.
const COMMANDS_A_TURN: usize = 64;
/// Batches of other workers taken between two turns.
const BATCHES_A_TURN: usize = 16;

/// Numbers of the sources in the epoll set.
const WAKER: u64 = u64::MAX;
const DOMAIN: u64 = 1 << 32;

/// [`PacketIo`] by system calls.
pub(crate) struct KernelIo<'e> {
    seat: Seat,
    poller: Poller,
    events: &'e dyn Fn(WorkerEvent),
    queues: FxHashMap<u32, DomainQueue>,
    /// Sources with something to read, the first to be read first.
    ready_ports: VecDeque<usize>,
    ready_queues: VecDeque<u32>,
    pub(crate) is_woken: bool,
    /// What is to be handed over, by worker.
    parcels: Vec<Batch>,
}

impl<'e> KernelIo<'e> {
    pub(crate) fn new(seat: Seat, poller: Poller, events: &'e dyn Fn(WorkerEvent)) -> io::Result<Self> {
        for (number, socket) in (0..).zip(&seat.ports.0) {
            poller.add(socket, number)?;
        }
        if let Some(mailbox) = seat.mailboxes.get(usize::from(seat.index)) {
            mailbox.clear();
            poller.add_waker(&mailbox.waker, WAKER)?;
        }
        let parcels = seat.mailboxes.iter().map(|_| Batch::default()).collect();
        Ok(Self {
            seat,
            poller,
            events,
            queues: FxHashMap::default(),
            ready_ports: VecDeque::new(),
            ready_queues: VecDeque::new(),
            // Commands may have come before the epoll set was there.
            is_woken: true,
            parcels,
        })
    }

    pub(crate) fn attach(&mut self, shard: &mut Shard, queue: DomainQueue) -> io::Result<()> {
        self.poller
            .add(&*queue.queue, DOMAIN + u64::from(queue.facts.id))?;
        shard.attach_domain(queue.facts.clone());
        self.queues.insert(queue.facts.id, queue);
        Ok(())
    }

    fn detach(&mut self, shard: &mut Shard, id: u32) -> io::Result<()> {
        shard.detach_domain(id);
        self.queues
            .remove(&id)
            .map_or(Ok(()), |queue| self.poller.remove(&*queue.queue))
    }

    /// Learns which sources have something; whether there is any.
    pub(crate) fn poll(&mut self, timeout: Duration) -> io::Result<bool> {
        self.ready_ports.clear();
        self.ready_queues.clear();
        let Self {
            poller,
            ready_ports,
            ready_queues,
            is_woken,
            ..
        } = self;
        poller.wait(timeout, |number| match number {
            WAKER => *is_woken = true,
            number if number >= DOMAIN => ready_queues.push_back((number - DOMAIN) as u32),
            number => ready_ports.push_back(number as usize),
        })?;
        Ok(self.is_woken || !self.ready_ports.is_empty() || !self.ready_queues.is_empty())
    }

    /// Commands and packets of other workers, up to a bound; the rest keeps the waker ringing.
    pub(crate) fn serve(
        &mut self,
        shard: &mut Shard,
        commands: &Receiver<Control>,
        now: Instant,
    ) -> io::Result<Flow> {
        let mailboxes = Arc::clone(&self.seat.mailboxes);
        let Some(mailbox) = mailboxes.get(usize::from(self.seat.index)) else {
            return Ok(Flow::Stop);
        };
        mailbox.waker.clear();
        self.is_woken = false;
        for _ in 0..COMMANDS_A_TURN {
            match commands.try_recv() {
                Ok(Control::Command(command)) => {
                    if shard.command(command, self, now) == Flow::Stop {
                        return Ok(Flow::Stop);
                    }
                }
                Ok(Control::Attach(queue)) => self.attach(shard, queue)?,
                Ok(Control::Detach(id)) => self.detach(shard, id)?,
                Err(_) => break,
            }
        }
        for _ in 0..BATCHES_A_TURN {
            let Some(batch) = mailbox.take() else {
                return Ok(Flow::Continue);
            };
            shard.accept(&batch, self, now);
        }
        self.is_woken = true;
        Ok(Flow::Continue)
    }

    /// Leaves the collected packets with their workers; gives the number lost because too many wait there.
    pub(crate) fn post_parcels(&mut self) -> u64 {
        let full = self
            .parcels
            .iter_mut()
            .zip(self.seat.mailboxes.iter())
            .filter(|(batch, _)| !batch.is_empty());
        full.map(|(batch, mailbox)| mailbox.post(std::mem::take(batch)))
            .sum()
    }

    /// Stops reading a device that is gone: somebody else deleted it. Its queue would be ready for ever.
    fn lose(&mut self, id: u32, error: &io::Error) {
        if error.raw_os_error() == Some(libc::EINTR) {
            return;
        }
        if let Some(queue) = self.queues.remove(&id) {
            // What fails here is being removed already.
            let _ = self.poller.remove(&*queue.queue);
            self.event(WorkerEvent::DeviceLost {
                domain: id,
                reason: error.to_string(),
            });
        }
    }
}

impl PacketIo for KernelIo<'_> {
    fn receive(&mut self, buffer: &mut [u8]) -> Option<Arrival> {
        while let Some(number) = self.ready_ports.front().copied() {
            let socket = self.seat.ports.0.get(number)?;
            // An error here is one of an earlier send (ICMP): the socket stays usable.
            let Ok(Some(mut received)) = socket.receive(buffer) else {
                self.ready_ports.pop_front();
                continue;
            };
            if socket.is_raw() && socket.local().is_ipv4() {
                let header = buffer
                    .first()
                    .map_or(0, |b| usize::from(b & 15) * 4)
                    .min(received.len);
                buffer.copy_within(header..received.len, 0);
                received.len -= header;
                received.segment = received.len;
            }
            let (from, tos) = (received.from, received.tos);
            return Some(Arrival {
                len: received.len,
                segment: received.segment,
                from,
                port: PortId(number as u16),
                tos,
            });
        }
        None
    }

    fn transmit(
        &mut self,
        port: PortId,
        data: &[u8],
        segment: usize,
        to: SocketAddr,
        tos: u8,
    ) -> Result<(), Refused> {
        let socket = self
            .seat
            .ports
            .0
            .get(usize::from(port.0))
            .ok_or(Refused::Failed)?;
        if data.len() > segment && socket.segments() {
            match socket.send(data, to, u16::try_from(segment).ok(), tos) {
                Ok(()) => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Err(Refused::Full),
                Err(e) => match e.raw_os_error() {
                    // The path takes no segments of this size whole, or the device cannot cut them.
                    Some(libc::EMSGSIZE | libc::EINVAL) => {}
                    Some(libc::EIO) => socket.refuse_segments(),
                    _ => return Err(Refused::Failed),
                },
            }
        }
        for datagram in data.chunks(segment.max(1)) {
            if let Err(e) = socket.send(datagram, to, None, tos) {
                let is_full = matches!(e.raw_os_error(), Some(libc::EAGAIN | libc::ENOBUFS));
                return Err(if is_full { Refused::Full } else { Refused::Failed });
            }
        }
        Ok(())
    }

    fn read_inner(&mut self, buffer: &mut [u8]) -> Option<(u32, usize)> {
        while let Some(id) = self.ready_queues.front().copied() {
            match self.queues.get(&id).map(|q| q.queue.read(buffer)) {
                Some(Ok(Some(len))) => return Some((id, len)),
                Some(Ok(None)) | None => {}
                Some(Err(e)) => self.lose(id, &e),
            }
            self.ready_queues.pop_front();
        }
        None
    }

    fn write_inner(&mut self, domain: u32, parts: &[IoSlice<'_>]) -> Result<(), Refused> {
        let queue = self.queues.get(&domain).ok_or(Refused::Failed)?;
        queue.queue.write(parts).map_err(|e| match e.raw_os_error() {
            Some(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM) => Refused::Full,
            _ => Refused::Failed,
        })
    }

    fn hand_over(&mut self, worker: u8, parcel: Parcel<'_>) -> bool {
        let place = (
            self.parcels.get_mut(usize::from(worker)),
            self.seat.mailboxes.get(usize::from(worker)),
        );
        let (Some(batch), Some(mailbox)) = place else {
            return false;
        };
        if batch.push(parcel) {
            return true;
        }
        // A full batch goes at once.
        mailbox.post(std::mem::take(batch)) == 0 && batch.push(parcel)
    }

    fn event(&mut self, event: WorkerEvent) {
        (self.events)(event);
    }

    fn port(&self, local: SocketAddr, encap: Encap) -> Option<PortId> {
        let is_it = |socket: &EspSocket| match encap {
            Encap::Raw => socket.is_raw() && socket.local().ip() == local.ip(),
            Encap::Udp => !socket.is_raw() && socket.local() == local,
        };
        self.seat
            .ports
            .0
            .iter()
            .position(is_it)
            .map(|at| PortId(at as u16))
    }

    fn describe(&self, port: PortId) -> Option<(SocketAddr, Encap)> {
        let socket = self.seat.ports.0.get(usize::from(port.0))?;
        Some((
            socket.local(),
            if socket.is_raw() { Encap::Raw } else { Encap::Udp },
        ))
    }
}
