//! A worker's thread: waits for packets and commands, and turns its [`Shard`]. A panic ends the thread, not the process.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::handover::{Batch, Mailbox, Parcel};
use crate::io::{Arrival, PacketIo, PortId, Refused};
use crate::message::{Encap, WorkerCommand, WorkerEvent};
use crate::routes::Owners;
use crate::shard::{DomainFacts, Flow, Shard};
use crate::sys::event::{self, Poller};
use crate::sys::socket::EspSocket;
use crate::sys::tun;

/// Commands that may wait for one worker.
const MAX_COMMANDS: usize = 4096;
/// Commands obeyed between two turns.
const COMMANDS_A_TURN: usize = 64;
/// Batches of other workers taken between two turns.
const BATCHES_A_TURN: usize = 16;
/// How long a worker under load waits awake for the next packet: less than a sleep and a wake-up cost.
const BUSY_WAIT: Duration = Duration::from_micros(50);
/// Packets handled since the last sleep that count as load.
const LOAD: usize = 256;

/// Numbers of the sources in the epoll set.
const WAKER: u64 = u64::MAX;
const DOMAIN: u64 = 1 << 32;

/// The sockets of one worker. Sockets at the same position are of the same address at every worker.
#[derive(Debug, Default)]
pub(crate) struct WorkerPorts(Vec<EspSocket>);

impl WorkerPorts {
    pub(crate) fn push(&mut self, socket: EspSocket) {
        self.0.push(socket);
    }
}

/// A worker's queue of a routing domain.
pub(crate) struct DomainQueue {
    pub(crate) facts: DomainFacts,
    pub(crate) queue: Arc<tun::Queue>,
}

/// What is said to a worker's thread.
pub(crate) enum Control {
    Command(WorkerCommand),
    Attach(DomainQueue),
    Detach(u32),
}

/// What a worker's thread is given.
pub(crate) struct Seat {
    pub(crate) index: u8,
    pub(crate) workers: u8,
    pub(crate) core: Option<usize>,
    pub(crate) ports: Arc<WorkerPorts>,
    pub(crate) mailboxes: Arc<[Mailbox]>,
    pub(crate) owners: Arc<Owners>,
}

/// A worker's thread as its holder sees it. Dropping it ends the thread and waits for it.
pub(crate) struct Running {
    handle: WorkerHandle,
    thread: Option<JoinHandle<()>>,
    /// Set when the thread is done with everything but its last event.
    ended: Arc<AtomicBool>,
}

/// The way to speak to a worker.
#[derive(Clone)]
pub struct WorkerHandle {
    index: u8,
    commands: SyncSender<Control>,
    mailboxes: Arc<[Mailbox]>,
}

/// Why a command was not accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SendError {
    /// Too many commands wait.
    #[error("the worker's queue of commands is full")]
    Full,
    /// The worker has ended.
    #[error("the worker has ended")]
    Gone,
}

impl WorkerHandle {
    /// Index of the worker.
    pub fn index(&self) -> u8 {
        self.index
    }

    /// Leaves a command for the worker and wakes it. Never blocks.
    ///
    /// # Errors
    /// [`SendError`]; the command is lost.
    pub fn send(&self, command: WorkerCommand) -> Result<(), SendError> {
        self.post(Control::Command(command))
    }

    fn post(&self, control: Control) -> Result<(), SendError> {
        let sent = self.commands.try_send(control).map_err(|e| match e {
            TrySendError::Full(_) => SendError::Full,
            TrySendError::Disconnected(_) => SendError::Gone,
        });
        if let Some(mailbox) = self.mailboxes.get(usize::from(self.index)) {
            mailbox.waker.wake();
        }
        sent
    }
}

impl Running {
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Says something that must not be lost: waits for room in the queue.
    pub(crate) fn control(&self, control: Option<Control>) {
        if let Some(control) = control {
            // Only fails if the thread has ended; its successor is given the domains anew.
            let _ = self.handle.commands.send(control);
            if let Some(mailbox) = self.handle.mailboxes.get(usize::from(self.handle.index)) {
                mailbox.waker.wake();
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.has_ended() {
            // It may be delivering its last event, and this may be the answer to it.
            return;
        }
        self.control(Some(Control::Command(WorkerCommand::Shutdown)));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Starts a worker's thread.
pub(crate) fn start(
    seat: Seat,
    queues: Vec<DomainQueue>,
    events: Box<dyn Fn(WorkerEvent) + Send>,
) -> io::Result<(Running, WorkerHandle)> {
    let (sender, commands) = sync_channel(MAX_COMMANDS);
    let handle = WorkerHandle {
        index: seat.index,
        commands: sender,
        mailboxes: Arc::clone(&seat.mailboxes),
    };
    let poller = Poller::new()?;
    let name = format!("esp-{}", seat.index);
    let ended = Arc::new(AtomicBool::new(false));
    let has_ended = Arc::clone(&ended);
    let thread = std::thread::Builder::new().name(name).spawn(move || {
        let index = seat.index;
        // Nothing of the loop is used after a panic: tables and buffers are dropped, and sockets have no state of ours.
        let outcome = catch_unwind(AssertUnwindSafe(|| run(seat, queues, commands, poller, &*events)));
        has_ended.store(true, Ordering::Release);
        let message = match outcome {
            Ok(Ok(())) => return,
            Ok(Err(e)) => e.to_string(),
            Err(panic) => panic_text(&*panic),
        };
        events(WorkerEvent::Died {
            worker: index,
            message,
        });
    })?;
    Ok((
        Running {
            handle: handle.clone(),
            thread: Some(thread),
            ended,
        },
        handle,
    ))
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or(panic.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("panic without a message").to_owned()
}

/// The loop: drain, wait awake for a moment if there was load, then sleep until something comes.
fn run(
    seat: Seat,
    queues: Vec<DomainQueue>,
    commands: Receiver<Control>,
    poller: Poller,
    events: &dyn Fn(WorkerEvent),
) -> io::Result<()> {
    if let Some(core) = seat.core {
        // A core that does not exist is no reason not to work.
        let _ = event::pin_to_core(core);
    }
    let mut shard = Shard::new(seat.index, seat.workers, Arc::clone(&seat.owners), Instant::now());
    let mut io = KernelIo::new(seat, poller, events)?;
    for queue in queues {
        io.attach(&mut shard, queue)?;
    }
    let (mut since_sleep, mut idle_since) = (0, None::<Instant>);
    loop {
        let now = Instant::now();
        let mut handled = io.poll(Duration::ZERO)?;
        if io.is_woken {
            handled = true;
            if io.serve(&mut shard, &commands, now)? == Flow::Stop {
                return Ok(());
            }
        }
        let packets = shard.turn(&mut io, now);
        io.post_parcels();
        since_sleep += packets;
        if packets > 0 || handled {
            idle_since = None;
            continue;
        }
        let idle = now.saturating_duration_since(*idle_since.get_or_insert(now));
        if since_sleep >= LOAD && idle < BUSY_WAIT {
            std::hint::spin_loop();
            continue;
        }
        (since_sleep, idle_since) = (0, None);
        io.poll(shard.deadline().saturating_duration_since(now))?;
    }
}

/// [`PacketIo`] by system calls.
struct KernelIo<'e> {
    seat: Seat,
    poller: Poller,
    events: &'e dyn Fn(WorkerEvent),
    queues: Vec<DomainQueue>,
    /// Sources with something to read, the first to be read first.
    ready_ports: VecDeque<usize>,
    ready_queues: VecDeque<u32>,
    is_woken: bool,
    /// What is to be handed over, by worker.
    parcels: Vec<Batch>,
}

impl<'e> KernelIo<'e> {
    fn new(seat: Seat, poller: Poller, events: &'e dyn Fn(WorkerEvent)) -> io::Result<Self> {
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
            queues: Vec::new(),
            ready_ports: VecDeque::new(),
            ready_queues: VecDeque::new(),
            // Commands may have come before the epoll set was there.
            is_woken: true,
            parcels,
        })
    }

    fn attach(&mut self, shard: &mut Shard, queue: DomainQueue) -> io::Result<()> {
        self.poller
            .add(&*queue.queue, DOMAIN + u64::from(queue.facts.id))?;
        shard.attach_domain(queue.facts.clone());
        self.queues.push(queue);
        Ok(())
    }

    fn detach(&mut self, shard: &mut Shard, id: u32) -> io::Result<()> {
        shard.detach_domain(id);
        for queue in self.queues.extract_if(.., |q| q.facts.id == id) {
            self.poller.remove(&*queue.queue)?;
        }
        Ok(())
    }

    /// Learns which sources have something; whether there is any.
    fn poll(&mut self, timeout: Duration) -> io::Result<bool> {
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
    fn serve(&mut self, shard: &mut Shard, commands: &Receiver<Control>, now: Instant) -> io::Result<Flow> {
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

    /// Leaves the collected packets with their workers.
    fn post_parcels(&mut self) {
        for (batch, mailbox) in self.parcels.iter_mut().zip(self.seat.mailboxes.iter()) {
            if !batch.is_empty() {
                mailbox.post(std::mem::take(batch));
            }
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
            let queue = self.queues.iter().find(|q| q.facts.id == id);
            if let Some(Ok(Some(len))) = queue.map(|q| q.queue.read(buffer)) {
                return Some((id, len));
            }
            self.ready_queues.pop_front();
        }
        None
    }

    fn write_inner(&mut self, domain: u32, parts: &[IoSlice<'_>]) -> Result<(), Refused> {
        let queue = self
            .queues
            .iter()
            .find(|q| q.facts.id == domain)
            .ok_or(Refused::Failed)?;
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
