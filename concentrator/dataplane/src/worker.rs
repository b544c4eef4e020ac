//! A worker's thread: waits for packets and commands, and turns its [`Shard`]. A panic ends the thread, not the process.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::fast::Lent;
use crate::forward_io::ForwardPort;
use crate::handover::Mailbox;
use crate::kernel_io::KernelIo;
use crate::message::{WorkerCommand, WorkerEvent};
use crate::pmtu::PathMtu;
use crate::routes::Owners;
use crate::shard::{DomainFacts, Flow, Shard};
use crate::sys::event::{self, Poller};
use crate::sys::icmp::{IcmpSocket, LinkProbe};
use crate::sys::socket::EspSocket;
use crate::sys::tun;

/// Commands that may wait for one worker: a few for each of the SAs of a large node at once, as after a takeover or when a
/// worker starts again. They take room only while they wait.
pub(crate) const MAX_COMMANDS: usize = 1 << 18;
/// Packets handled since the last sleep that count as load.
const LOAD: usize = 256;

/// The sockets of one worker. Sockets at the same position are of the same address at every worker.
#[derive(Debug, Default)]
pub(crate) struct WorkerPorts(pub(crate) Vec<EspSocket>);

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
    /// From the holder, after which the thread is waited for.
    End,
    Attach(DomainQueue),
    /// `done` is dropped when the worker has let go of the domain's queue.
    Detach {
        domain: u32,
        done: Sender<()>,
    },
}

/// What a worker's thread is given.
pub(crate) struct Seat {
    pub(crate) index: u8,
    pub(crate) workers: u8,
    pub(crate) core: Option<usize>,
    /// See [`crate::Config::busy_wait`].
    pub(crate) busy_wait: Duration,
    pub(crate) ports: Arc<WorkerPorts>,
    pub(crate) forward: Option<Arc<ForwardPort>>,
    pub(crate) until: Option<Arc<AtomicU64>>,
    /// Sockets for ICMP errors; the first worker alone has any.
    pub(crate) errors: Arc<[IcmpSocket]>,
    pub(crate) link_probe: Arc<LinkProbe>,
    pub(crate) path_mtu: PathMtu,
    pub(crate) mailboxes: Arc<[Mailbox]>,
    pub(crate) owners: Arc<Owners>,
    /// AF_XDP, where it is used.
    pub(crate) fast: Option<Lent>,
}

impl Seat {
    /// Whether packets may be carried now. The limit is read before the clock: who stood still between them finds the
    /// clock past the limit it read.
    pub(crate) fn may_carry(&self) -> bool {
        let Some(until) = &self.until else {
            return true;
        };
        let until = until.load(Ordering::Acquire);
        until == u64::MAX || crate::sys::process::boot_nanos() < until
    }
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
    commands: Sender<Control>,
    /// Commands sent and not yet taken.
    waiting: Arc<AtomicUsize>,
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
        let is_full = self.waiting.fetch_add(1, Ordering::Relaxed) >= MAX_COMMANDS;
        if is_full && matches!(control, Control::Command(_)) {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            return Err(SendError::Full);
        }
        let sent = self.commands.send(control).map_err(|_| SendError::Gone);
        if sent.is_err() {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
        }
        if let Some(mailbox) = self.mailboxes.get(usize::from(self.index)) {
            mailbox.waker.wake();
        }
        sent
    }
}

/// The worker's end of its commands.
pub(crate) struct Commands {
    receiver: Receiver<Control>,
    waiting: Arc<AtomicUsize>,
}

impl Commands {
    /// The oldest command.
    pub(crate) fn take(&self) -> Option<Control> {
        let control = self.receiver.try_recv().ok()?;
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        Some(control)
    }
}

impl Running {
    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Says something that must not be lost, however many commands wait.
    pub(crate) fn control(&self, control: Option<Control>) {
        if let Some(control) = control {
            // Only fails if the thread has ended; its successor is given the domains anew.
            let _ = self.handle.post(control);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.has_ended() {
            // It may be delivering its last event, and this may be the answer to it.
            return;
        }
        self.control(Some(Control::End));
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
    let (sender, receiver) = channel();
    let waiting = Arc::<AtomicUsize>::default();
    let commands = Commands {
        receiver,
        waiting: Arc::clone(&waiting),
    };
    let handle = WorkerHandle {
        index: seat.index,
        commands: sender,
        waiting,
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
    commands: Commands,
    poller: Poller,
    events: &dyn Fn(WorkerEvent),
) -> io::Result<()> {
    if let Some(core) = seat.core {
        // A core that does not exist is no reason not to work.
        let _ = event::pin_to_core(core);
    }
    let busy_wait = seat.busy_wait;
    let mut shard = Shard::new(seat.index, seat.workers, Arc::clone(&seat.owners), Instant::now());
    shard.set_path_mtu(seat.path_mtu);
    let mut io = KernelIo::new(seat, poller, events)?;
    for queue in queues {
        io.attach(&mut shard, queue)?;
    }
    let (mut since_sleep, mut idle_since, mut timeout) = (0, None::<Instant>, Duration::ZERO);
    loop {
        io.poll(timeout)?;
        let now = Instant::now();
        let is_woken = io.is_woken;
        if is_woken && io.serve(&mut shard, &commands, now)? == Flow::Stop {
            return Ok(());
        }
        let packets = shard.turn(&mut io, now);
        shard.count_lost(io.post_parcels());
        shard.count_bad_forwards(io.take_bad_forwards());
        shard.count_fast(io.end_turn());
        since_sleep += packets;
        timeout = Duration::ZERO;
        if packets > 0 || is_woken {
            idle_since = None;
            continue;
        }
        let idle = now.saturating_duration_since(*idle_since.get_or_insert(now));
        if since_sleep >= LOAD && idle < busy_wait {
            std::hint::spin_loop();
            continue;
        }
        (since_sleep, idle_since) = (0, None);
        timeout = shard.deadline().saturating_duration_since(now);
    }
}
