//! The thread that keeps the cluster's time: heartbeats in and out, the core, its deadline. It runs at real-time
//! priority and waits for nothing but its sockets, its inputs and the clock.
//!
//! ```text
//!  heartbeat sockets ──┐                     ┌─► heartbeat sockets
//!  inputs + eventfd ───┼─► cluster::Core ────┼─► until (workers), addresses down, ticks of the witness
//!  the core's deadline ┘                     └─► everything else: the router, on the runtime
//! ```
//! What has to happen at once is done here; whatever can wait for a disk or for etcd leaves by the router.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use cluster::{Core, Input, Output, Status};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use tokio::sync::{mpsc, oneshot};

use super::addresses::Addresses;
use super::witness::Ticks;

/// Between two ticks of the witness and two looks at the clock.
const TICK: Duration = Duration::from_millis(50);
/// Datagrams read from one socket before the others have their turn.
const BURST: usize = 64;
/// The largest datagram that is a heartbeat.
const DATAGRAM_MAX: usize = 2_048;
/// SCHED_FIFO priority.
const PRIORITY: u8 = 40;
/// A gap between two turns of the loop after which the witness may have taken the addresses.
const STALL: Duration = Duration::from_millis(200);

/// What the thread is asked.
enum Message {
    Input(Input),
    Status(oneshot::Sender<Status>),
    Ticks(Ticks),
    Stop,
}

/// What the thread measures, read by the metrics.
#[derive(Default)]
pub struct Pulse {
    /// How late the last deadlines were served at worst since it was last read, in microseconds.
    pub late_micros: AtomicU64,
    /// Datagrams that could not be sent.
    pub unsent: AtomicU64,
    /// Gaps that only a stopped process has.
    pub stalls: AtomicU64,
}

/// The way to the thread. Cheap to clone.
#[derive(Clone)]
pub struct Pacemaker {
    sender: Sender<Message>,
    wake: Arc<OwnedFd>,
    /// What it measures.
    pub pulse: Arc<Pulse>,
}

/// What the thread works with.
pub struct Parts {
    /// The decisions.
    pub core: Core,
    /// One socket for each path, bound and non-blocking.
    pub sockets: Vec<(SocketAddr, UdpSocket)>,
    /// Nanoseconds since boot up to which the workers may carry packets.
    pub until: Arc<AtomicU64>,
    /// Everything that can wait.
    pub outputs: mpsc::UnboundedSender<Output>,
    /// Addresses of the slots.
    pub addresses: Addresses,
    /// Ticks of the witness.
    pub ticks: Option<Ticks>,
}

impl Pacemaker {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system refuses a thread or a descriptor.
    pub fn start(parts: Parts) -> std::io::Result<Self> {
        let wake = Arc::new(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?);
        let (sender, receiver) = channel();
        let pulse = Arc::new(Pulse::default());
        let beat = Beat {
            receiver,
            wake: Arc::clone(&wake),
            pulse: Arc::clone(&pulse),
            routes: HashMap::new(),
            last: dataplane::boot_time(),
            ticked: Duration::ZERO,
            parts,
        };
        std::thread::Builder::new()
            .name("cluster".to_owned())
            .spawn(move || beat.run())?;
        Ok(Self { sender, wake, pulse })
    }

    /// Gives the core an input. What comes after the end is lost.
    pub fn input(&self, input: Input) {
        self.send(Message::Input(input));
    }

    /// What the core knows; `None` after the end.
    pub async fn status(&self) -> Option<Status> {
        let (reply, answer) = oneshot::channel();
        self.send(Message::Status(reply));
        answer.await.ok()
    }

    /// Another witness is to be told.
    pub fn ticks(&self, ticks: Ticks) {
        self.send(Message::Ticks(ticks));
    }

    /// Ends the thread.
    pub fn stop(&self) {
        self.send(Message::Stop);
    }

    fn send(&self, message: Message) {
        if self.sender.send(message).is_ok() {
            // A full counter wakes as well.
            let _ = rustix::io::write(self.wake.as_fd(), &1_u64.to_ne_bytes());
        }
    }
}

/// The thread's own.
struct Beat {
    receiver: Receiver<Message>,
    wake: Arc<OwnedFd>,
    pulse: Arc<Pulse>,
    /// Which socket reaches whom.
    routes: HashMap<SocketAddr, usize>,
    last: Duration,
    ticked: Duration,
    parts: Parts,
}

impl Beat {
    fn run(mut self) {
        if let Err(error) = dataplane::realtime(PRIORITY) {
            tracing::warn!(%error, "no real-time priority: heartbeats can be late under load (CAP_SYS_NICE is missing)");
        }
        self.drain();
        loop {
            self.wait();
            let now = dataplane::boot_time();
            if now.saturating_sub(self.last) > TICK + STALL {
                self.pulse.stalls.fetch_add(1, Ordering::Relaxed);
                // Before anything else: what is over is over.
                self.parts.core.handle(now, Input::Timeout);
                self.drain();
                // The witness may have taken the addresses meanwhile.
                self.parts.addresses.check();
            }
            self.last = now;
            if !self.messages() {
                return;
            }
            self.datagrams();
            let now = dataplane::boot_time();
            if let Some(due) = self.parts.core.deadline()
                && due <= now
            {
                let late = u64::try_from((now - due).as_micros()).unwrap_or(u64::MAX);
                self.pulse.late_micros.fetch_max(late, Ordering::Relaxed);
                self.parts.core.handle(now, Input::Timeout);
            }
            self.drain();
            if now.saturating_sub(self.ticked) >= TICK {
                self.ticked = now;
                if let Some(ticks) = &mut self.parts.ticks {
                    ticks.tick();
                }
            }
        }
    }

    /// Waits for a datagram, an input, the core's deadline or the next tick.
    fn wait(&self) {
        let now = dataplane::boot_time();
        let tick = (self.ticked + TICK).saturating_sub(now);
        let wait = match self.parts.core.deadline() {
            Some(due) => tick.min(due.saturating_sub(now)),
            None => tick,
        };
        let timeout = Timespec {
            tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: wait.subsec_nanos().into(),
        };
        let mut descriptors: Vec<PollFd<'_>> = vec![PollFd::new(&self.wake, PollFlags::IN)];
        descriptors.extend(
            self.parts
                .sockets
                .iter()
                .map(|(_, socket)| PollFd::new(socket, PollFlags::IN)),
        );
        // An interrupted wait is a short one.
        let _ = poll(&mut descriptors, Some(&timeout));
    }

    /// Takes what was asked; false when the thread is to end.
    fn messages(&mut self) -> bool {
        let _ = rustix::io::read(self.wake.as_fd(), &mut [0_u8; 8]);
        while let Ok(message) = self.receiver.try_recv() {
            let now = dataplane::boot_time();
            match message {
                Message::Input(input) => {
                    self.parts.core.handle(now, input);
                    self.drain();
                }
                Message::Status(reply) => {
                    let _ = reply.send(self.parts.core.status(now));
                }
                Message::Ticks(ticks) => {
                    self.parts.ticks = Some(ticks);
                    // It knows no peer yet.
                    self.routes.clear();
                }
                Message::Stop => {
                    self.parts.until.store(0, Ordering::Release);
                    return false;
                }
            }
        }
        true
    }

    fn datagrams(&mut self) {
        let mut buffer = [0; DATAGRAM_MAX];
        for index in 0..self.parts.sockets.len() {
            for _ in 0..BURST {
                let Some((_, socket)) = self.parts.sockets.get(index) else {
                    break;
                };
                let Ok((length, from)) = socket.recv_from(&mut buffer) else {
                    break;
                };
                let bytes = buffer.get(..length).unwrap_or_default().to_vec();
                let now = dataplane::boot_time();
                self.parts.core.handle(now, Input::Datagram { from, bytes });
            }
        }
    }

    /// Carries the core's decisions out, or hands them on.
    fn drain(&mut self) {
        while let Some(output) = self.parts.core.poll() {
            match output {
                Output::Send { to, bytes } => self.transmit(to, &bytes),
                Output::Until(until) => {
                    let nanos = until.map_or(0, |until| u64::try_from(until.as_nanos()).unwrap_or(u64::MAX));
                    self.parts.until.store(nanos, Ordering::Release);
                }
                output @ (Output::Txn { .. }
                | Output::GrantLease { .. }
                | Output::KeepAlive
                | Output::RevokeLease
                | Output::Relist
                | Output::Serve { .. }
                | Output::Freeze { .. }
                | Output::Thaw { .. }
                | Output::Drop { .. }
                | Output::Refence { .. }
                | Output::Static(_)
                | Output::Marks { .. }
                | Output::Done { .. }
                | Output::Event(_)) => {
                    if let Output::Drop { slot, generation, .. } = &output {
                        self.parts.addresses.down(*slot, *generation);
                    }
                    // Bounded by the core: a few for each slot, a lease and a transaction at a time.
                    let _ = self.parts.outputs.send(output);
                }
            }
        }
    }

    fn transmit(&mut self, to: SocketAddr, bytes: &[u8]) {
        let sockets = &self.parts.sockets;
        if !self.routes.contains_key(&to)
            && let Some(ticks) = &mut self.parts.ticks
        {
            ticks.peer(to);
        }
        let index = *self.routes.entry(to).or_insert_with(|| nearest(sockets, to));
        if let Some((_, socket)) = sockets.get(index)
            && socket.send_to(bytes, to).is_err()
        {
            self.pulse.unsent.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The path whose own address has the most leading bits in common with `to`.
fn nearest(sockets: &[(SocketAddr, UdpSocket)], to: SocketAddr) -> usize {
    let common = |own: IpAddr| match (own, to.ip()) {
        (IpAddr::V4(own), IpAddr::V4(to)) => (own.to_bits() ^ to.to_bits()).leading_zeros() + 1,
        (IpAddr::V6(own), IpAddr::V6(to)) => (own.to_bits() ^ to.to_bits()).leading_zeros() + 1,
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => 0,
    };
    sockets
        .iter()
        .enumerate()
        .max_by_key(|(_, (own, _))| common(own.ip()))
        .map_or(0, |(index, _)| index)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn heartbeats_leave_by_the_nearest_path() {
        let socket = || UdpSocket::bind("127.0.0.1:0").unwrap();
        let sockets: Vec<(SocketAddr, UdpSocket)> =
            ["192.0.2.1:4600", "10.98.0.1:4600", "[2001:db8::1]:4600"]
                .iter()
                .map(|address| (address.parse().unwrap(), socket()))
                .collect();
        assert_eq!(nearest(&sockets, "10.98.0.3:4600".parse().unwrap()), 1);
        assert_eq!(nearest(&sockets, "192.0.2.3:4600".parse().unwrap()), 0);
        assert_eq!(nearest(&sockets, "[2001:db8::3]:4600".parse().unwrap()), 2);
    }
}
