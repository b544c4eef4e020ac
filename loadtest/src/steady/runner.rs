//! The loop of `steady`: sockets, timers, orders.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result};
use rustix::event::{Timespec, epoll};

use super::{Seat, own_addresses, plans};
use crate::cli;
use crate::control::{Control, Order, Request};
use crate::monitor::Monitor;
use crate::plan;
use crate::record::{Record, UserRecord};
use crate::run::{OTHER_FILES, raise_file_limit};
use crate::user::{Port, User};

/// Late answers are awaited this long after the last packet.
const GRACE: Duration = Duration::from_secs(1);
/// How long logging out may take.
const LOGOUT: Duration = Duration::from_secs(3);
/// Time from one look at all users to the next.
const LOOK: Duration = Duration::from_millis(50);
/// Datagrams read from one socket before others get their turn.
const READ_BURST: usize = 64;
/// Sockets whose news are taken at once.
const EVENTS: usize = 256;
/// Names the orders among the sockets.
const ORDERS: u64 = u64::MAX;

/// A user with its socket.
struct Place {
    seat: Seat,
    socket: UdpSocket,
    gateway: [(Port, SocketAddr); 2],
    /// The timer that counts; others in the heap are stale.
    armed: Option<Instant>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Run,
    Grace { until: Instant },
    Close { until: Instant },
}

pub(super) struct Runner {
    places: Vec<Place>,
    timers: BinaryHeap<Reverse<(Instant, usize)>>,
    monitor: Monitor,
    control: Control,
    epoll: OwnedFd,
    duration: Option<Duration>,
    /// When the run ends by itself; known once everybody has tried to log in.
    until: Option<Instant>,
    unsettled: usize,
    /// When all users were last looked at together, which takes time.
    looked: Instant,
    phase: Phase,
    stay: bool,
    pub(super) asked_to_quit: Option<Request>,
    /// The users as they were before they logged out.
    users: Option<Vec<UserRecord>>,
    buffer: Vec<u8>,
}

impl Runner {
    pub(super) fn new(options: &cli::Steady, control: Control) -> Result<Self> {
        let plans = plans(options)?;
        raise_file_limit(u64::from(options.users) + OTHER_FILES)?;
        let watch = &options.watch;
        let gap = Duration::try_from_secs_f64(watch.gap_ms / 1000.0).context("--gap-ms")?;
        let interval = plan::interval(options.pps)?;
        let start = Instant::now();
        let mut monitor = Monitor::new(
            start,
            SystemTime::now(),
            &watch.name,
            interval,
            gap,
            watch.events.as_deref(),
        )?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).context("epoll")?;
        let orders = epoll::EventData::new_u64(ORDERS);
        epoll::add(&epoll, control.waker(), orders, epoll::EventFlags::IN).context("epoll")?;
        let mut own = Vec::new();
        for plan in &plans {
            own.push(own_addresses(options, plan.gateway)?);
        }
        let mut places = Vec::new();
        let mut timers = BinaryHeap::new();
        for index in 0..options.users {
            let turn = index as usize;
            let chosen = turn % plans.len().max(1);
            let (plan, own) = plans.get(chosen).zip(own.get(chosen)).context("no gateway")?;
            let local = own.get(turn / plans.len().max(1) % own.len().max(1));
            let local = *local.context("no own address")?;
            let number = options.first.saturating_add(index);
            // Every (users / sample)th one, so that all gateways and all times of login are in the sample.
            let sampled = u64::from(index) * u64::from(options.sample) % u64::from(options.users)
                < u64::from(options.sample);
            let flow = sampled.then(|| monitor.add_flow(format!("user-{number:05}"), number));
            let at = match options.rate > 0.0 {
                true => start + Duration::from_secs_f64(f64::from(index) / options.rate),
                false => start,
            };
            let socket = UdpSocket::bind((local, 0)).with_context(|| format!("socket at {local}"))?;
            socket.set_nonblocking(true)?;
            let data = epoll::EventData::new_u64(turn as u64);
            epoll::add(&epoll, &socket, data, epoll::EventFlags::IN).context("epoll")?;
            timers.push(Reverse((at, turn)));
            places.push(Place {
                seat: Seat::new(at, Arc::clone(plan), number, local, flow, User::system_random),
                socket,
                gateway: [
                    (Port::Ike, SocketAddr::new(plan.gateway, plan.ike_port)),
                    (Port::Nat, SocketAddr::new(plan.gateway, plan.nat_port)),
                ],
                armed: Some(at),
            });
        }
        let duration = watch.seconds.map(Duration::try_from_secs_f64).transpose();
        Ok(Self {
            unsettled: places.len(),
            looked: start,
            places,
            timers,
            monitor,
            control,
            epoll,
            duration: duration.context("--seconds")?,
            until: None,
            phase: Phase::Run,
            stay: options.stay,
            asked_to_quit: None,
            users: None,
            buffer: vec![0; 65_536],
        })
    }

    pub(super) fn run(&mut self) -> Result<Record> {
        let mut ready = Vec::with_capacity(EVENTS);
        while !self.advance() {
            let now = Instant::now();
            let due = self.next_timer();
            let wait = due.map(|at| at.saturating_duration_since(now));
            ready.clear();
            match epoll::wait(
                &self.epoll,
                rustix::buffer::spare_capacity(&mut ready),
                wait.map(round_up).as_ref(),
            ) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error).context("epoll"),
            }
            let woken = Instant::now();
            if let Some(due) = due.filter(|due| *due < woken) {
                self.monitor.lateness(due, woken);
            }
            for event in &ready {
                match event.data.u64() {
                    ORDERS => self.take_orders(),
                    index => self.read(index as usize)?,
                }
            }
            self.fire()?;
        }
        let now = Instant::now();
        self.monitor.close_flows(now);
        let users = self.users.take().unwrap_or_else(|| self.user_records());
        let mut record = self.monitor.record(now, users);
        record.drops = self.drops();
        Ok(record)
    }

    /// From phase to phase. True at the end.
    fn advance(&mut self) -> bool {
        let now = Instant::now();
        let look = now.saturating_duration_since(self.looked) >= LOOK;
        if look {
            self.looked = now;
        }
        if look && self.unsettled > 0 {
            self.unsettled = self.places.iter().filter(|place| !place.seat.settled()).count();
        }
        if self.unsettled == 0 && self.until.is_none() {
            self.until = self.duration.map(|duration| now + duration);
        }
        match self.phase {
            Phase::Run => {
                let over = self.until.is_some_and(|until| until <= now) && self.asked_to_quit.is_none();
                if over {
                    self.begin_grace(now);
                }
                false
            }
            Phase::Grace { until } if until <= now => {
                self.users = Some(self.user_records());
                if self.stay {
                    return true;
                }
                for index in 0..self.places.len() {
                    if let Some(place) = self.places.get_mut(index) {
                        place.seat.close(now);
                    }
                    self.settle(now, index);
                }
                self.phase = Phase::Close { until: now + LOGOUT };
                false
            }
            Phase::Grace { .. } => false,
            Phase::Close { until } => {
                until <= now || (look && self.places.iter().all(|place| place.seat.closed()))
            }
        }
    }

    fn begin_grace(&mut self, now: Instant) {
        if self.phase == Phase::Run {
            self.monitor.stop_flows(now);
            for place in &mut self.places {
                place.seat.stop();
            }
            self.phase = Phase::Grace { until: now + GRACE };
        }
    }

    fn next_timer(&self) -> Option<Instant> {
        let timer = self.timers.peek().map(|Reverse((at, _))| *at);
        let phase = match self.phase {
            Phase::Run => self.until,
            Phase::Grace { until } | Phase::Close { until } => Some(until),
        };
        let busy = self.unsettled > 0 || matches!(self.phase, Phase::Close { .. });
        let look = busy.then(|| self.looked + LOOK);
        timer.into_iter().chain(phase).chain(look).min()
    }

    /// Everybody whose time has come.
    fn fire(&mut self) -> Result<()> {
        let now = Instant::now();
        while let Some(Reverse((at, index))) =
            self.timers.peek().copied().filter(|Reverse((at, _))| *at <= now)
        {
            self.timers.pop();
            let Some(place) = self.places.get_mut(index).filter(|place| place.armed == Some(at)) else {
                continue;
            };
            place.armed = None;
            place.seat.turn(now, &mut self.monitor)?;
            self.settle(now, index);
        }
        Ok(())
    }

    /// Sends what a user has to send, and arms its timer.
    fn settle(&mut self, now: Instant, index: usize) {
        let Some(place) = self.places.get_mut(index) else {
            return;
        };
        while let Some(datagram) = place.seat.poll() {
            let to = place.gateway.iter().find(|(port, _)| *port == datagram.port);
            if let Some((_, to)) = to {
                // What the network refuses is lost, like what it loses.
                let _ = place.socket.send_to(&datagram.bytes, to);
            }
        }
        // A deadline in the past waits for the next turn of the loop, so that nobody keeps it for itself.
        if let Some(at) = place.seat.deadline().map(|at| at.max(now))
            && place.armed.is_none_or(|armed| at < armed)
        {
            place.armed = Some(at);
            self.timers.push(Reverse((at, index)));
        }
    }

    fn read(&mut self, index: usize) -> Result<()> {
        let Some(place) = self.places.get_mut(index) else {
            return Ok(());
        };
        let mut now = Instant::now();
        for _ in 0..READ_BURST {
            let Ok((len, from)) = place.socket.recv_from(&mut self.buffer) else {
                break;
            };
            now = Instant::now();
            let port = place.gateway.iter().find(|(_, address)| *address == from);
            if let (Some((port, _)), Some(bytes)) = (port, self.buffer.get(..len)) {
                place.seat.datagram(now, *port, bytes.to_vec(), &mut self.monitor);
            }
        }
        self.settle(now, index);
        Ok(())
    }

    fn take_orders(&mut self) {
        while let Some(request) = self.control.next() {
            let now = Instant::now();
            if request.order == Order::Quit {
                self.asked_to_quit = Some(request);
                self.begin_grace(now);
                continue;
            }
            let users = match request.order == Order::Status {
                true => self.user_records(),
                false => Vec::new(),
            };
            let answer = self.monitor.answer(now, &request.order, users);
            request.answer(&answer);
        }
    }

    fn user_records(&self) -> Vec<UserRecord> {
        self.places.iter().map(|place| place.seat.record()).collect()
    }

    fn drops(&self) -> BTreeMap<String, u64> {
        let mut all = BTreeMap::new();
        for place in &self.places {
            for (reason, packets) in place.seat.drops().iter().filter(|(_, packets)| *packets > 0) {
                *all.entry(reason.name().to_owned()).or_default() += packets;
            }
        }
        all
    }
}

/// Whole milliseconds: timers that lie close together fire in one turn.
fn round_up(wait: Duration) -> Timespec {
    let millis = wait.as_nanos().div_ceil(1_000_000).min(u128::from(u32::MAX));
    Timespec {
        tv_sec: (millis / 1000) as i64,
        tv_nsec: (millis % 1000 * 1_000_000) as i64,
    }
}
