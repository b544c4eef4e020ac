//! [`PacketIo`] by system calls: the sockets and TUN queues of one worker, and the epoll set that watches them.

mod fast;

use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use esp::tunnel::Outer;
use ipnet::IpNet;
use rustc_hash::FxHashMap;

use crate::fair::drr::{self, Drr};
use crate::fast::{FastPath, Lent};
use crate::forward::{Envelope, Kind};
use crate::forward_io::{Parcelled, Taken};
use crate::handover::{Batch, Parcel};
use crate::io::{Arrival, Lost, PacketIo, PathError, PortId, Refused};
use crate::message::{Encap, WorkerEvent};
use crate::shard::{Flow, Shard};
use crate::sys::event::Poller;
use crate::sys::gate::Gate;
use crate::sys::socket::EspSocket;
use crate::worker::{Commands, Control, DomainQueue, Seat};

/// Commands obeyed between two turns.
const COMMANDS_A_TURN: usize = 64;
/// Batches of other workers taken between two turns.
const BATCHES_A_TURN: usize = 16;

/// Numbers of the sources in the epoll set.
const WAKER: u64 = u64::MAX;
const DOMAIN: u64 = 1 << 32;
/// Of the socket for forwarded packets, among those of the other sockets.
const FORWARD: usize = u16::MAX as usize;
/// Of the first port of AF_XDP, behind those of the sockets, and of the news of routes.
const FAST: usize = 1 << 16;
const ROUTES: u64 = (1 << 32) - 1;
/// Of the first socket for ICMP errors, before that one.
const ERRORS: usize = FORWARD - 2;

/// [`PacketIo`] by system calls.
pub(crate) struct KernelIo<'e> {
    seat: Seat,
    poller: Poller,
    events: &'e dyn Fn(WorkerEvent),
    queues: FxHashMap<u32, DomainQueue>,
    /// Sources with something to read.
    ready_ports: Drr<usize>,
    ready_queues: Drr<u32>,
    pub(crate) is_woken: bool,
    /// What is to be handed over, by worker.
    parcels: Vec<Batch>,
    /// Room to wrap a packet for another node.
    wrapped: Vec<u8>,
    /// What other nodes sent on and is not taken yet.
    parcelled: Parcelled,
    bad_forwards: u64,
    /// When the sources were asked last.
    now: Instant,
    are_routes_changed: bool,
    losses_at: Instant,
    /// Sockets for ICMP with something to read.
    ready_errors: Vec<usize>,
    gate: Gated,
}

/// The gate before the UDP sockets, from the first overload on.
#[derive(Debug, Default)]
struct Gated {
    gate: Option<Gate>,
    is_closed: bool,
    /// The kernel has refused it: the worker drops by itself.
    is_refused: bool,
}

impl<'e> KernelIo<'e> {
    pub(crate) fn new(mut seat: Seat, poller: Poller, events: &'e dyn Fn(WorkerEvent)) -> io::Result<Self> {
        for (number, socket) in (0..).zip(&seat.ports.0) {
            poller.add(socket, number)?;
        }
        if let Some(forward) = &seat.forward {
            poller.add(&**forward, FORWARD as u64)?;
        }
        if let Some(fast) = seat.fast.as_mut().and_then(Lent::path) {
            for (number, port) in fast.ports() {
                poller.add(port, (FAST + number) as u64)?;
            }
            poller.add(fast.changes(), ROUTES)?;
        }
        let now = Instant::now();
        for (number, socket) in (ERRORS as u64..FORWARD as u64).zip(&*seat.errors) {
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
            ready_ports: Drr::new(),
            ready_queues: Drr::new(),
            // Commands may have come before the epoll set was there.
            is_woken: true,
            parcels,
            wrapped: Vec::new(),
            parcelled: Parcelled::new(),
            bad_forwards: 0,
            now,
            are_routes_changed: false,
            losses_at: now,
            ready_errors: Vec::new(),
            gate: Gated::default(),
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

    /// Learns which sources have something, after waiting for one for at most `timeout`.
    pub(crate) fn poll(&mut self, timeout: Duration) -> io::Result<()> {
        self.ready_ports.clear();
        self.ready_queues.clear();
        self.ready_errors.clear();
        let Self {
            poller,
            ready_ports,
            ready_queues,
            ready_errors,
            is_woken,
            are_routes_changed,
            ..
        } = self;
        poller.wait(timeout, |number| match number {
            WAKER => *is_woken = true,
            ROUTES => *are_routes_changed = true,
            number if number >= DOMAIN => ready_queues.push((number - DOMAIN) as u32),
            number if (ERRORS..FORWARD).contains(&(number as usize)) => {
                ready_errors.push(number as usize - ERRORS);
            }
            number => ready_ports.push(number as usize),
        })?;
        ready_ports.begin();
        ready_queues.begin();
        self.now = Instant::now();
        if std::mem::take(&mut self.are_routes_changed)
            && let Some(fast) = self.seat.fast.as_mut().and_then(Lent::path)
        {
            for interface in fast.follow_changes() {
                self.event(WorkerEvent::OuterLost { interface });
            }
        }
        Ok(())
    }

    /// Commands and packets of other workers, up to a bound.
    pub(crate) fn serve(&mut self, shard: &mut Shard, commands: &Commands, now: Instant) -> io::Result<Flow> {
        let mailboxes = Arc::clone(&self.seat.mailboxes);
        let Some(mailbox) = mailboxes.get(usize::from(self.seat.index)) else {
            return Ok(Flow::Stop);
        };
        mailbox.waker.clear();
        let mut is_done = false;
        shard.work_off(self, now);
        for _ in 0..COMMANDS_A_TURN {
            if shard.is_installing() {
                break;
            }
            match commands.take() {
                Some(Control::Command(command)) => {
                    if shard.command(command, self, now) == Flow::Stop {
                        return Ok(Flow::Stop);
                    }
                }
                Some(Control::End) => return Ok(Flow::Stop),
                Some(Control::Attach(queue)) => self.attach(shard, queue)?,
                Some(Control::Detach { domain, done }) => {
                    self.detach(shard, domain)?;
                    drop(done);
                }
                None => {
                    is_done = true;
                    break;
                }
            }
        }
        // What comes from here on rings the waker again; what is left over does not, so it stays rung.
        self.is_woken = !is_done || shard.is_busy();
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

    /// Forwarded packets that were refused since the last time.
    pub(crate) fn take_bad_forwards(&mut self) -> u64 {
        std::mem::take(&mut self.bad_forwards)
    }

    /// The next packets that another node sent on, of the burst that is being taken apart; `None` at its end.
    fn take_forwarded(&mut self, buffer: &mut [u8]) -> Option<Arrival> {
        let forward = self.seat.forward.clone()?;
        loop {
            match self.parcelled.take(&forward, buffer)? {
                Taken::Bad => self.bad_forwards += 1,
                Taken::Packets {
                    envelope,
                    len,
                    segment,
                } => match envelope.kind {
                    Kind::Ike => self.event(WorkerEvent::ForwardedIke {
                        local: envelope.destination,
                        remote: envelope.source,
                        bytes: buffer.get(..len).unwrap_or_default().to_vec(),
                    }),
                    Kind::Esp(encap) => {
                        let Some(port) = self.port(envelope.destination, encap) else {
                            self.bad_forwards += len.div_ceil(segment) as u64;
                            continue;
                        };
                        return Some(Arrival {
                            len,
                            segment,
                            from: envelope.source,
                            port,
                            tos: envelope.tos,
                            forwarded: true,
                            gated: false,
                        });
                    }
                },
            }
        }
    }

    /// The socket of an address of ours, whatever its port.
    fn port_at(&self, local: IpAddr, encap: Encap) -> Option<PortId> {
        let mut ports = self.seat.ports.0.iter();
        let is_it =
            |socket: &EspSocket| socket.local().ip() == local && socket.is_raw() == (encap == Encap::Raw);
        ports.position(is_it).map(|at| PortId(at as u16))
    }

    fn remove_gate(&self) {
        for socket in self.seat.ports.0.iter().filter(|socket| !socket.is_raw()) {
            // One that has none is as it should be.
            let _ = Gate::open(socket);
        }
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
        if !self.parcelled.is_empty() {
            let forwarded = self.take_forwarded(buffer);
            if forwarded.is_some() {
                return forwarded;
            }
        }
        while let Some(number) = self.ready_ports.next() {
            if number == FORWARD {
                let forward = self.seat.forward.clone()?;
                if !self.parcelled.receive(&forward) {
                    self.ready_ports.exhausted();
                    continue;
                }
                // Nodes send on what came to them: bursts of a few packets.
                self.ready_ports.charge(drr::cost(0));
                match self.take_forwarded(buffer) {
                    None => continue,
                    arrival => return arrival,
                }
            }
            if let Some(number) = number.checked_sub(FAST) {
                let fast = self.seat.fast.as_mut().and_then(Lent::path);
                let Some(received) = fast.and_then(|fast| fast.receive(number, buffer)) else {
                    self.ready_ports.exhausted();
                    continue;
                };
                // The costs of a call are shared by many.
                self.ready_ports.charge(received.len as i64);
                let Some(port) = self.port_at(received.to, received.encap) else {
                    continue;
                };
                return Some(Arrival {
                    len: received.len,
                    segment: received.len,
                    from: received.from,
                    port,
                    tos: received.tos,
                    forwarded: false,
                    gated: false,
                });
            }
            let socket = self.seat.ports.0.get(number)?;
            // An error here is one of an earlier send (ICMP): the socket stays usable.
            let Ok(Some(mut received)) = socket.receive(buffer) else {
                self.ready_ports.exhausted();
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
            self.ready_ports.charge(drr::cost(received.len));
            let gated = self.gate.is_closed && !socket.is_raw();
            let (from, tos) = (received.from, received.tos);
            return Some(Arrival {
                len: received.len,
                segment: received.segment,
                from,
                port: PortId(number as u16),
                tos,
                forwarded: false,
                gated,
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
        outer: Outer,
    ) -> Result<(), Refused> {
        if !self.seat.may_carry() {
            return Err(Refused::NotOwner);
        }
        if self.seat.fast.is_some()
            && let Some(result) = self.transmit_fast(port, data, segment, to, outer)
        {
            return result;
        }
        let socket = self
            .seat
            .ports
            .0
            .get(usize::from(port.0))
            .ok_or(Refused::Failed)?;
        socket.send_burst(data, segment, to, outer.traffic_class, outer.dont_fragment)
    }

    fn forward(&mut self, to: SocketAddr, arrival: &Arrival, data: &[u8]) -> Result<u64, Refused> {
        let (destination, encap) = self.describe(arrival.port).ok_or(Refused::Failed)?;
        let forward = self.seat.forward.as_ref().ok_or(Refused::Failed)?;
        let envelope = Envelope {
            kind: Kind::Esp(encap),
            tos: arrival.tos,
            source: arrival.from,
            destination,
        };
        if !self.seat.may_carry() {
            return Err(Refused::NotOwner);
        }
        forward.send_burst(to, &envelope, data, arrival.segment, &mut self.wrapped)
    }

    fn may_carry(&mut self) -> bool {
        self.seat.may_carry()
    }

    fn read_inner(&mut self, buffer: &mut [u8]) -> Option<(u32, usize)> {
        while let Some(id) = self.ready_queues.next() {
            match self.queues.get(&id).map(|q| q.queue.read(buffer)) {
                Some(Ok(Some(len))) => {
                    self.ready_queues.charge(drr::cost(len));
                    return Some((id, len));
                }
                Some(Ok(None)) | None => {}
                Some(Err(e)) => self.lose(id, &e),
            }
            self.ready_queues.exhausted();
        }
        None
    }

    fn write_inner(&mut self, domain: u32, parts: &[IoSlice<'_>]) -> Result<(), Refused> {
        let queue = self.queues.get(&domain).ok_or(Refused::Failed)?;
        if !self.seat.may_carry() {
            return Err(Refused::NotOwner);
        }
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

    fn steer(&mut self, domain: u32, spread: &[(IpNet, u32)]) {
        if let Some(queue) = self.queues.get(&domain) {
            // A kernel that refuses has refused the first program too, and the domain's report says so.
            let _ = queue.queue.steer(self.seat.workers, spread);
        }
    }

    fn path_error(&mut self, buffer: &mut [u8]) -> Option<PathError> {
        while let Some(number) = self.ready_errors.last() {
            let socket = self.seat.errors.get(*number)?;
            if let Some(len) = socket.receive(buffer) {
                let is_v4 = socket.is_v4();
                return Some(PathError { len, is_v4 });
            }
            self.ready_errors.pop();
        }
        None
    }

    fn link_mtu(&mut self, peer: IpAddr) -> Option<u16> {
        self.seat.link_probe.mtu(peer)
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

    fn close_gate(&mut self) {
        if self.gate.is_refused {
            return;
        }
        if self.gate.gate.is_none() {
            self.gate.gate = Gate::new().ok();
        }
        let mut sockets = self.seat.ports.0.iter().filter(|socket| !socket.is_raw());
        let gate = self.gate.gate.as_ref();
        self.gate.is_closed = gate.is_some_and(|gate| sockets.all(|socket| gate.close(socket).is_ok()));
        if !self.gate.is_closed {
            self.remove_gate();
            self.gate = Gated {
                is_refused: true,
                ..Gated::default()
            };
        }
    }

    fn open_gate(&mut self) {
        if std::mem::take(&mut self.gate.is_closed) {
            self.remove_gate();
        }
    }

    fn assign_class(&mut self, spi: u32, class: u16) -> bool {
        self.gate
            .gate
            .as_ref()
            .is_none_or(|gate| gate.assign(spi, class).is_ok())
    }

    fn forget_class(&mut self, spi: u32) {
        if let Some(gate) = &self.gate.gate {
            gate.forget(spi);
        }
    }

    fn set_chance(&mut self, class: u16, chance: u64) {
        if let Some(gate) = &self.gate.gate {
            gate.set(class, chance);
        }
    }

    fn lost(&self, class: u16) -> Lost {
        self.gate
            .gate
            .as_ref()
            .map_or(Lost::default(), |gate| gate.lost(class))
    }

    fn backlog(&self) -> Option<f64> {
        let fills = self.seat.ports.0.iter().filter_map(|socket| socket.fill().ok());
        let rings = self.seat.fast.as_ref().and_then(Lent::peek);
        fills.chain(rings.map(FastPath::fill)).reduce(f64::max)
    }
}

impl Drop for KernelIo<'_> {
    /// The sockets outlive the worker; its choices do not.
    fn drop(&mut self) {
        self.open_gate();
    }
}
