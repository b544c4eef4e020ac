//! One simulated user: an initiator's IKE SA, the ESP SAs that it makes, the traffic through them. Performs no I/O.
//!
//! The gateway sees one client behind a NAT: its socket has some port, to which the core is told that it is 500 or 4500,
//! and everything after IKE_SA_INIT goes to the gateway's port 4500.

mod types;

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use crypto::{Random, SystemRandom};
use esp::{DropCounters, DropReason};
use ike::config::Assigned;
use ike::{ChildEnd, ChildSa, Command, Context, Event, IkeSa, Input, Output};

use crate::children::Children;
use crate::credentials::Credential;
use crate::plan::Plan;
use crate::probe::Probe;

pub use self::types::{Datagram, Fault, News, Port, State, Summary, marker};
use self::types::{NON_ESP_MARKER, Spis};

/// Silence towards the gateway after which a NAT keep-alive is sent (RFC 3948 section 4).
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// Requests that are sent at one time to catch up with a late start.
const CATCH_UP: usize = 32;

/// Inner packets and news that wait to be taken; older ones make room, and count.
const INBOX: usize = 256;

/// A simulated user.
pub struct User {
    plan: Arc<Plan>,
    number: u32,
    local: IpAddr,
    ike: IkeSa,
    credential: Credential,
    state: State,
    closing: bool,
    started: Instant,
    login: Option<Duration>,
    assigned: Assigned,
    source: Option<IpAddr>,
    children: Children,
    probe: Option<Probe>,
    /// Present if inner packets are kept for the caller.
    inbox: Option<VecDeque<Vec<u8>>>,
    news: VecDeque<News>,
    missed: u64,
    round_trips: Vec<Duration>,
    out: VecDeque<Datagram>,
    last_sent: Instant,
    rekeys: u64,
}

impl User {
    /// Starts to log in from the address `local`.
    ///
    /// # Errors
    /// An identity or a credential that cannot be made.
    pub fn start(
        now: Instant,
        plan: &Arc<Plan>,
        number: u32,
        local: IpAddr,
        random: fn(u32) -> Box<dyn Random>,
    ) -> Result<Self> {
        let credential = plan.credentials.of(number, plan.identity(number)?)?;
        let context = Context {
            random: random(number),
            spis: Arc::new(Spis::new(random(!number))),
            generation: 0,
            key_log: false,
            timing: plan.timing,
        };
        let (here, there) = (SocketAddr::new(local, 500), SocketAddr::new(plan.gateway, 500));
        let mut user = Self {
            plan: Arc::clone(plan),
            number,
            local,
            ike: IkeSa::initiate(now, context, plan.initiator(), here, there),
            credential,
            state: State::Connecting,
            closing: false,
            started: now,
            login: None,
            assigned: Assigned::default(),
            source: None,
            children: Children::default(),
            probe: None,
            inbox: None,
            news: VecDeque::new(),
            missed: 0,
            round_trips: Vec::new(),
            out: VecDeque::new(),
            last_sent: now,
            rekeys: 0,
        };
        user.drain(now);
        Ok(user)
    }

    /// The system's randomness for every user.
    #[must_use]
    pub fn system_random(_number: u32) -> Box<dyn Random> {
        Box::new(SystemRandom)
    }

    /// How far it has come.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// How long the login took, once it is done.
    #[must_use]
    pub fn login_time(&self) -> Option<Duration> {
        self.login
    }

    /// The inner address that the gateway gave it.
    #[must_use]
    pub fn source(&self) -> Option<IpAddr> {
        self.source
    }

    /// When [`User::timeout`] wants to be called.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let ike = self.ike.deadline().map(|(at, _)| at);
        let probe = self.probe.as_ref().and_then(Probe::deadline);
        let alive = matches!(self.state, State::Up).then(|| self.last_sent + KEEP_ALIVE);
        [ike, probe, alive].into_iter().flatten().min()
    }

    /// The next datagram to send.
    pub fn poll(&mut self) -> Option<Datagram> {
        self.out.pop_front()
    }

    /// Round-trip times since the last call.
    pub fn take_round_trips(&mut self) -> Vec<Duration> {
        std::mem::take(&mut self.round_trips)
    }

    /// A datagram came from a port of the gateway.
    pub fn datagram(&mut self, now: Instant, port: Port, mut bytes: Vec<u8>) {
        match port {
            Port::Nat if bytes.len() < 4 => return,
            Port::Nat => {
                if bytes.first_chunk() != Some(&NON_ESP_MARKER) {
                    self.receive_esp(now, &mut bytes);
                    return;
                }
                bytes.drain(..NON_ESP_MARKER.len());
            }
            Port::Ike => {}
        }
        let number = match port {
            Port::Ike => 500,
            Port::Nat => 4500,
        };
        let local = SocketAddr::new(self.local, number);
        let remote = SocketAddr::new(self.plan.gateway, number);
        self.ike.handle(now, Input::Datagram { local, remote, bytes });
        self.drain(now);
    }

    /// The deadline has come.
    pub fn timeout(&mut self, now: Instant) {
        if self.ike.deadline().is_some_and(|(at, _)| at <= now) {
            self.ike.handle(now, Input::Timeout);
            self.drain(now);
        }
        self.send_requests(now);
        if matches!(self.state, State::Up) && self.last_sent + KEEP_ALIVE <= now {
            self.send(
                now,
                Datagram {
                    port: Port::Nat,
                    bytes: vec![0xff],
                },
            );
        }
    }

    /// Sends echo requests until `until`, if the plan has any and the user is logged in. Called again, it moves the end.
    pub fn start_traffic(&mut self, now: Instant, until: Instant) {
        if let Some(probe) = &mut self.probe {
            probe.set_end(until);
            return;
        }
        if let (Some(traffic), Some(source), State::Up) = (self.plan.traffic, self.source, &self.state)
            && source.is_ipv4() == traffic.target.is_ipv4()
        {
            self.probe = Some(Probe::new(now, until, traffic, source, self.number));
        }
    }

    /// From here on inner packets wait for [`User::take_inner`]: at most 256, then the oldest is dropped.
    pub fn keep_inner(&mut self) {
        self.inbox.get_or_insert_default();
    }

    /// The next inner packet that came through the tunnel.
    pub fn take_inner(&mut self) -> Option<Vec<u8>> {
        self.inbox.as_mut()?.pop_front()
    }

    /// Sends an inner packet of at most `size` octets that `write` puts down and tells the length of. False if there is no
    /// SA for it.
    pub fn send_inner(
        &mut self,
        now: Instant,
        size: usize,
        write: impl FnOnce(&mut [u8]) -> Option<usize>,
    ) -> bool {
        let sealed = self.children.seal(size, write);
        self.send_esp(now, sealed)
    }

    /// The next thing that happened after the login: at most 256 wait, then the oldest is dropped.
    pub fn take_news(&mut self) -> Option<News> {
        self.news.pop_front()
    }

    /// Inner packets and news that were not taken in time.
    #[must_use]
    pub fn missed(&self) -> u64 {
        self.missed
    }

    /// Whether there is a child SA.
    #[must_use]
    pub fn has_child(&self) -> bool {
        !self.children.is_empty()
    }

    /// ESP packets that it dropped.
    #[must_use]
    pub fn drops(&self) -> &DropCounters {
        &self.children.drops
    }

    /// What the core has counted.
    #[must_use]
    pub fn counters(&self) -> ike::Counters {
        self.ike.counters()
    }

    /// Logs out.
    pub fn close(&mut self, now: Instant) {
        if matches!(self.state, State::Connecting | State::Up) {
            self.closing = true;
            self.ike.handle(now, Input::Command(Command::Close));
            self.drain(now);
        }
    }

    /// Ends it whatever its state: what happened, and how.
    #[must_use]
    pub fn finish(self, now: Instant) -> Summary {
        let mut state = self.state;
        if state == State::Connecting {
            state = State::Failed(Fault {
                kind: "interrupted",
                detail: "not logged in at the end".to_owned(),
            });
        }
        Summary {
            number: self.number,
            state,
            login: self.login,
            counts: self.probe.map(|probe| probe.counts(now)),
            drops: self.children.drops,
            rekeys: self.rekeys,
            retransmits: self.ike.counters().retransmits_out,
        }
    }

    fn send(&mut self, now: Instant, datagram: Datagram) {
        self.last_sent = now;
        self.out.push_back(datagram);
    }

    fn drain(&mut self, now: Instant) {
        while let Some(output) = self.ike.poll() {
            match output {
                Output::Transmit(transmit) if transmit.remote.port() == 4500 => {
                    let bytes = [marker(&transmit.bytes), &transmit.bytes].concat();
                    self.send(
                        now,
                        Datagram {
                            port: Port::Nat,
                            bytes,
                        },
                    );
                }
                Output::Transmit(transmit) => self.send(
                    now,
                    Datagram {
                        port: Port::Ike,
                        bytes: transmit.bytes,
                    },
                ),
                Output::Event(event) => self.event(now, event),
            }
        }
    }

    #[allow(
        clippy::wildcard_enum_match_arm,
        reason = "a user needs few of the events, and their list may grow"
    )]
    fn event(&mut self, now: Instant, event: Event) {
        match event {
            Event::Authenticate { ticket, job } => {
                let verdict = Box::new(self.credential.answer(&job));
                self.ike.handle(now, Input::AuthResult { ticket, verdict });
            }
            Event::Configured(assigned) => self.assigned = *assigned,
            Event::ChildUp(child) => self.child_up(now, &child),
            Event::ChildRekeyed { new, .. } => {
                self.rekeys += 1;
                self.tell(News::ChildRekeyed);
                self.install(&new);
            }
            Event::IkeRekeyed { .. } => self.tell(News::IkeRekeyed),
            Event::Warning { detail } if detail.contains("not rekeyed") => {
                self.tell(News::RekeyFailed(detail))
            }
            Event::Warning { detail } => self.tell(News::Odd(detail)),
            Event::ChildDown { spi_in, reason } => {
                self.children.remove(spi_in);
                if reason == ChildEnd::DeletedByPeer {
                    self.tell(News::ChildDeleted);
                }
                // One that failed is made again by the core; one that went with its IKE SA is told of by that.
                let alone = !matches!(reason, ChildEnd::Failed | ChildEnd::IkeGone);
                if self.children.is_empty() && alone {
                    self.lose("child_gone", format!("the child SA ended: {reason:?}"));
                }
            }
            Event::ChildFailed { reason } => self.lose("no_child", reason),
            Event::Failed(failure) => self.lose(failure.kind.name(), failure.to_string()),
            Event::Closed { reason } => {
                self.lose("closed", reason.to_string());
                if self.closing {
                    self.state = State::Closed;
                }
            }
            _ => {}
        }
    }

    fn lose(&mut self, kind: &'static str, detail: String) {
        if self.closing {
            return;
        }
        let fault = Fault { kind, detail };
        match self.state {
            State::Connecting => self.state = State::Failed(fault),
            State::Up => self.state = State::Lost(fault),
            State::Failed(_) | State::Lost(_) | State::Closed => {}
        }
    }

    fn child_up(&mut self, now: Instant, child: &ChildSa) {
        if !child.encap {
            self.lose("raw_esp", "the gateway chose ESP without UDP".to_owned());
            return;
        }
        let v4 = self.plan.traffic.is_none_or(|traffic| traffic.target.is_ipv4());
        if self.install(child) && matches!(self.state, State::Connecting) {
            self.source = match v4 {
                true => self.assigned.v4.map(IpAddr::V4),
                false => self.assigned.v6.map(|(address, _)| IpAddr::V6(address)),
            };
            self.login = Some(now.saturating_duration_since(self.started));
            self.state = State::Up;
            if self.source.is_none() && self.plan.traffic.is_some() {
                self.lose(
                    "no_address",
                    format!("none that can reach the target: {:?}", self.assigned),
                );
            }
        }
    }

    fn install(&mut self, child: &ChildSa) -> bool {
        match self.children.install(child) {
            Ok(()) => true,
            Err(error) => {
                self.lose("keys", error.to_string());
                false
            }
        }
    }

    fn tell(&mut self, news: News) {
        push(&mut self.news, news, &mut self.missed);
    }

    fn receive_esp(&mut self, now: Instant, bytes: &mut [u8]) {
        let Some(inner) = self.children.open(bytes) else {
            return;
        };
        match (&mut self.inbox, &mut self.probe) {
            (Some(inbox), _) => push(inbox, inner.to_vec(), &mut self.missed),
            (None, Some(probe)) => self.round_trips.extend(probe.answer(now, inner)),
            (None, None) => self.children.drops.count(DropReason::NoSa),
        }
    }

    fn send_requests(&mut self, now: Instant) {
        for _ in 0..CATCH_UP {
            let Some(traffic) = self.plan.traffic else { return };
            let Some(probe) = &mut self.probe else { return };
            if probe.deadline().is_none_or(|at| at > now) {
                return;
            }
            let sealed = self.children.seal(traffic.size, |buf| probe.poll(now, buf));
            self.send_esp(now, sealed);
        }
    }

    fn send_esp(&mut self, now: Instant, sealed: Option<Vec<u8>>) -> bool {
        let Some(bytes) = sealed else { return false };
        let port = Port::Nat;
        self.send(now, Datagram { port, bytes });
        true
    }
}

/// Puts something into a queue of bounded length; the oldest makes room.
fn push<T>(queue: &mut VecDeque<T>, item: T, missed: &mut u64) {
    if queue.len() >= INBOX {
        queue.pop_front();
        *missed += 1;
    }
    queue.push_back(item);
}
