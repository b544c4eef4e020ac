//! The world: virtual time, the network, nodes, and the store behind its links.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use cluster::{Broken, Core, Input, Output, Settings};
use crypto::Secret;
use store::{LeaseId, StoreError};

use crate::check::{Checker, Report};
use crate::client::Client;
use crate::etcd::Etcd;
use crate::faults::Fault;
use crate::random::Random;
use crate::shell::Serving;
use crate::what::Event;
pub use crate::what::{Asker, Request, What};

pub const TTL: Duration = Duration::from_secs(2);

/// What a run is to be.
#[derive(Clone, Debug)]
pub struct Options {
    pub seed: u64,
    pub nodes: usize,
    pub slots: u8,
    pub clients: usize,
    pub broken: Broken,
    /// Loss, duplication and lost answers all the time.
    pub noise: bool,
    pub damping: Duration,
    pub trace: bool,
}

impl Options {
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            nodes: 3,
            slots: 6,
            clients: 9,
            broken: Broken::Nothing,
            noise: false,
            damping: Duration::from_secs(10),
            trace: std::env::var_os("SIM_TRACE").is_some(),
        }
    }
}

/// What a node was told of keys, and by which follower.
#[derive(Debug, Default)]
pub struct Follower {
    pub id: u64,
    pub told: BTreeMap<String, u64>,
    pub last: Duration,
}

/// A machine: its disk lasts, the process on it comes and goes.
pub struct Node {
    pub name: String,
    pub addresses: Vec<SocketAddr>,
    pub life: u32,
    pub incarnation: u64,
    pub core: Option<Core>,
    pub paused: Option<Duration>,
    pub waiting: Vec<What>,
    /// Boot time minus the world's.
    pub offset: Duration,
    pub lease: Option<LeaseId>,
    pub follower: Option<Follower>,
    pub until: Option<Duration>,
    pub is_static: bool,
    pub slots: BTreeMap<u8, Serving>,
    pub marks: (u64, BTreeMap<u8, u64>),
    pub identity: u64,
    pub acked: Option<Duration>,
    pub service: bool,
    pub asked: usize,
    pub clock: i64,
    pub slow: bool,
    pub done: Vec<Result<String, String>>,
    timer: Option<Duration>,
}

pub struct World {
    pub options: Options,
    pub now: Duration,
    pub random: Random,
    pub nodes: Vec<Node>,
    pub etcd: Etcd,
    pub clients: Vec<Client>,
    pub checker: Checker,
    pub report: Report,
    pub faults: Vec<Fault>,
    /// Percent of datagrams lost from node to node on a path.
    pub loss: BTreeMap<(usize, usize, usize), u64>,
    pub store_links: Vec<bool>,
    /// Watches lose, repeat and delay.
    pub bad_watches: bool,
    pub noise: u64,
    /// Who brought a slot's address up, the latest last.
    pub addresses: BTreeMap<u8, Vec<(usize, u64)>>,
    /// Requests under way: whether each was carried out.
    pub requests: BTreeMap<u64, Flight>,
    /// When a slot was told to be served, for measurements.
    pub serve_log: Vec<(Duration, usize, u8, u64)>,
    pub ready_log: Vec<(Duration, usize, u8, u64)>,
    pub freeze_log: Vec<(Duration, usize, u8)>,
    pub healing: bool,
    queue: BinaryHeap<Reverse<Event>>,
    order: u64,
    pub serial: u64,
}

/// A request to the store that is not answered.
#[derive(Debug)]
pub struct Flight {
    pub request: Request,
    pub node: usize,
    pub applied: bool,
    pub queued: bool,
    /// Its outcome was said not to be known.
    pub given_up: bool,
}

impl World {
    pub fn new(options: Options) -> Self {
        let mut random = Random::new(options.seed);
        let nodes = (0..options.nodes)
            .map(|index| Node {
                name: format!("n{index}"),
                addresses: (0..2)
                    .map(|path| SocketAddr::from(([10, 98, path, index as u8 + 1], 4600)))
                    .collect(),
                life: 0,
                incarnation: 0,
                core: None,
                paused: None,
                waiting: Vec::new(),
                offset: Duration::from_millis(random.between(1_000, 100_000_000)),
                lease: None,
                follower: None,
                until: None,
                is_static: false,
                slots: BTreeMap::new(),
                marks: (0, BTreeMap::new()),
                identity: 0,
                acked: None,
                service: true,
                asked: 0,
                clock: 1_000_000,
                slow: false,
                done: Vec::new(),
                timer: None,
            })
            .collect();
        let mut world = Self {
            store_links: vec![true; options.nodes],
            noise: if options.noise { 3 } else { 0 },
            now: Duration::ZERO,
            nodes,
            etcd: Etcd::default(),
            clients: Vec::new(),
            checker: Checker::default(),
            report: Report::default(),
            faults: Vec::new(),
            loss: BTreeMap::new(),
            bad_watches: false,
            addresses: BTreeMap::new(),
            requests: BTreeMap::new(),
            serve_log: Vec::new(),
            ready_log: Vec::new(),
            freeze_log: Vec::new(),
            healing: false,
            queue: BinaryHeap::new(),
            order: 0,
            serial: 0,
            random,
            options,
        };
        for node in 0..world.options.nodes {
            let after = world.random.ms(0.0, 500.0);
            world.at(after, What::Boot { node });
        }
        for client in 0..world.options.clients {
            let slot = (client % usize::from(world.options.slots.max(1))) as u8;
            world.clients.push(Client::new(slot));
            let after = world.random.ms(2_000.0, 3_000.0);
            world.at(after, What::Client(client));
        }
        world.at(Duration::from_millis(100), What::Packets);
        world.at(Duration::from_millis(50), What::Store);
        world
    }

    pub fn trace(&self, text: impl FnOnce() -> String) {
        if self.options.trace {
            eprintln!("{:10.4} {}", self.now.as_secs_f64(), text());
        }
    }

    pub fn at(&mut self, at: Duration, what: What) {
        self.order += 1;
        self.queue.push(Reverse(Event {
            at: at.max(self.now),
            order: self.order,
            what,
        }));
    }

    pub fn after(&mut self, after: Duration, what: What) {
        self.at(self.now + after, what);
    }

    /// Runs until then, or until something is wrong.
    pub fn run_until(&mut self, end: Duration) {
        while self.checker.violation.is_none() {
            match self.queue.peek() {
                Some(Reverse(event)) if event.at <= end => {}
                _ => break,
            }
            let Some(Reverse(event)) = self.queue.pop() else {
                break;
            };
            self.now = event.at;
            self.happen(event.what);
        }
        self.now = self.now.max(end);
    }

    fn happen(&mut self, what: What) {
        if let Some(node) = Self::of_node(&what)
            && self.nodes[node].paused.is_some()
        {
            if !matches!(what, What::Timer { .. }) {
                self.nodes[node].waiting.push(what);
            }
            return;
        }
        match what {
            What::Datagram { to, from, bytes } => {
                let bytes = bytes.as_ref().clone();
                self.input(to, Input::Datagram { from, bytes });
            }
            What::Timer { node } => {
                self.nodes[node].timer = None;
                let now = self.boot(node);
                let due = self.nodes[node]
                    .core
                    .as_ref()
                    .and_then(Core::deadline)
                    .is_some_and(|at| at <= now);
                if due {
                    self.input(node, Input::Timeout);
                } else {
                    self.arm(node);
                }
            }
            What::Input { node, life, input } => {
                if self.nodes[node].life == life {
                    self.input(node, input);
                }
            }
            What::Follow {
                node,
                life,
                follower,
                input,
            } => {
                let present = self.nodes[node].follower.as_ref().map(|follower| follower.id);
                if self.nodes[node].life == life && present == Some(follower) {
                    self.input(node, input);
                }
            }
            What::Arrive {
                node,
                life,
                id,
                request,
            } => self.arrive(node, life, id, request),
            What::GiveUp { node, life, id } => self.give_up(node, life, id),
            What::TxnDone {
                node,
                life,
                from,
                txn,
                outcome,
            } => {
                if self.nodes[node].life == life {
                    self.nodes[node].asked = self.nodes[node].asked.saturating_sub(1);
                    match from {
                        Asker::Core(ticket) => self.input(node, Input::TxnDone { ticket, outcome }),
                        Asker::Shell(job) => self.written(node, job, txn, outcome),
                    }
                }
            }
            What::FoundOut {
                node,
                identity,
                mut done,
            } => {
                if let What::TxnDone { outcome, .. } = done.as_mut()
                    && identity != self.etcd.identity
                {
                    let reason = "the store is another one".to_owned();
                    *outcome = Err(StoreError::WentBack { reason });
                }
                debug_assert_eq!(Self::of_node(&done), Some(node));
                self.after(Duration::ZERO, *done);
            }
            What::Listed {
                node,
                life,
                slot,
                generation,
                records,
            } => {
                if self.nodes[node].life == life {
                    self.listed(node, slot, generation, records);
                }
            }
            What::Up {
                node,
                life,
                slot,
                generation,
            } => {
                if self.nodes[node].life == life {
                    self.address_up(node, slot, generation);
                }
            }
            What::Client(client) => self.client(client),
            What::Answer {
                client,
                store,
                session,
                id,
                answer,
            } => self.answer(client, store, session, id, answer),
            What::Packets => self.packets(),
            What::Store => self.store_tick(),
            What::Fault(fault) => self.begin_fault(fault),
            What::Heal(fault) => self.end_fault(fault),
            What::Boot { node } => self.boot_node(node),
        }
    }

    /// Whom it has to wait for while that is paused.
    fn of_node(what: &What) -> Option<usize> {
        match what {
            What::Datagram { to: node, .. }
            | What::Timer { node }
            | What::Input { node, .. }
            | What::Follow { node, .. }
            | What::TxnDone { node, .. }
            | What::FoundOut { node, .. }
            | What::Listed { node, .. }
            | What::Up { node, .. } => Some(*node),
            _ => None,
        }
    }

    // ---- nodes -------------------------------------------------------------------------------------------------------

    pub fn boot(&self, node: usize) -> Duration {
        self.now + self.nodes[node].offset
    }

    pub fn process(&self, node: usize) -> String {
        format!("{}#{:016x}", self.nodes[node].name, self.nodes[node].incarnation)
    }

    pub fn boot_node(&mut self, index: usize) {
        if self.nodes[index].core.is_some() {
            return;
        }
        let now = self.boot(index);
        let wall = self.now.as_millis() as i64 + self.nodes[index].clock;
        let slots: Vec<u8> = (0..self.options.slots).collect();
        let (identity, broken, damping) = (self.etcd.identity, self.options.broken, self.options.damping);
        let node = &mut self.nodes[index];
        node.life += 1;
        // The wall clock may have gone back; two starts in one millisecond do not happen.
        node.incarnation = (wall.max(1) as u64) << 8 | u64::from(node.life & 0xff);
        node.paused = None;
        node.waiting.clear();
        (node.lease, node.follower, node.until, node.is_static, node.acked) = (None, None, None, false, None);
        node.slots.clear();
        node.asked = 0;
        node.identity = identity;
        let settings = Settings {
            name: node.name.clone(),
            incarnation: node.incarnation,
            key: Secret::from(&b"the key of the simulated cluster"[..]),
            slots,
            table: 7,
            addresses: node.addresses.clone(),
            lease_ttl: TTL,
            damping,
            settle: Duration::from_secs(3),
            seen_epoch: node.marks.0,
            seen_generations: node.marks.1.clone(),
            broken,
            ..Settings::default()
        };
        node.core = Some(Core::new(now, settings, self.options.seed ^ u64::from(node.life)));
        let (life, up) = (node.life, node.service);
        self.trace(|| format!("n{index} starts, life {life}"));
        self.follow(index);
        if !up {
            self.input(index, Input::Service { up: false });
        }
        self.input(index, Input::Timeout);
    }

    pub fn kill_node(&mut self, index: usize) {
        self.trace(|| format!("n{index} is killed"));
        let node = &mut self.nodes[index];
        node.core = None;
        node.life += 1;
        node.paused = None;
        node.waiting.clear();
        node.follower = None;
        node.slots.clear();
        node.timer = None;
        for holders in self.addresses.values_mut() {
            holders.retain(|(holder, _)| *holder != index);
        }
    }

    pub fn resume(&mut self, index: usize) {
        if self.nodes[index].paused.take().is_some() {
            let waiting = std::mem::take(&mut self.nodes[index].waiting);
            // Sockets hold so many; the rest is lost.
            let mut datagrams = 0;
            for what in waiting {
                datagrams += u64::from(matches!(what, What::Datagram { .. }));
                if datagrams > 500 && matches!(what, What::Datagram { .. }) {
                    continue;
                }
                self.after(Duration::from_micros(10), what);
            }
            self.nodes[index].timer = None;
            self.arm(index);
        }
    }

    /// Gives the core an input and carries out what comes out.
    pub fn input(&mut self, node: usize, input: Input) {
        let now = self.boot(node);
        self.report.inputs += 1;
        let Some(core) = self.nodes[node].core.as_mut() else {
            return;
        };
        core.handle(now, input);
        let mut outputs = Vec::new();
        while let Some(output) = core.poll() {
            outputs.push(output);
        }
        if outputs.len() > 64 + 8 * usize::from(self.options.slots) {
            let count = outputs.len();
            self.checker
                .fail(self.now, format!("S14: {count} outputs at once"));
        }
        for output in outputs {
            self.output(node, output);
        }
        self.check_deadline(node);
        self.arm(node);
    }

    fn arm(&mut self, node: usize) {
        let Some(at) = self.nodes[node].core.as_ref().and_then(Core::deadline) else {
            return;
        };
        let at = at.saturating_sub(self.nodes[node].offset).max(self.now);
        if self.nodes[node]
            .timer
            .is_some_and(|armed| armed <= at && armed >= self.now)
        {
            return;
        }
        let late = self.random.ms(0.0, 1.0);
        self.nodes[node].timer = Some(at);
        self.at(at + late, What::Timer { node });
    }

    fn output(&mut self, node: usize, output: Output) {
        match output {
            Output::Send { to, bytes } => self.send(node, to, bytes),
            Output::Txn { ticket, txn } => self.ask(
                node,
                Request::Txn {
                    from: Asker::Core(ticket),
                    txn,
                },
            ),
            Output::GrantLease { .. } => {
                self.nodes[node].lease = None;
                let sent = self.boot(node);
                self.ask(node, Request::Grant { sent });
            }
            Output::KeepAlive => {
                if let Some(lease) = self.nodes[node].lease {
                    let sent = self.boot(node);
                    self.ask(node, Request::Keep { lease, sent });
                }
            }
            Output::RevokeLease => {
                if let Some(lease) = self.nodes[node].lease.take() {
                    self.ask(node, Request::Revoke { lease });
                }
            }
            Output::Relist => {
                self.nodes[node].follower = None;
                self.follow(node);
            }
            Output::Until(until) => self.nodes[node].until = until,
            Output::Static(on) => self.nodes[node].is_static = on,
            Output::Marks { epoch, generations } => self.nodes[node].marks = (epoch, generations),
            Output::Done { id, result } => {
                self.trace(|| format!("n{node} order {id}: {result:?}"));
                self.nodes[node].done.push(result);
            }
            Output::Event(event) => self.trace(|| format!("n{node} {event}")),
            Output::Serve {
                slot,
                generation,
                epoch,
                keep_records,
                planned,
            } => self.serve(node, slot, generation, epoch, keep_records, planned),
            Output::Freeze { slot, generation } => self.freeze(node, slot, generation),
            Output::Thaw { slot, generation } => self.thaw(node, slot, generation),
            Output::Drop { slot, generation, .. } => self.drop_slot(node, slot, generation),
            Output::Refence {
                slot,
                generation,
                epoch,
            } => self.refence(node, slot, generation, epoch),
        }
    }

    /// A running node never holds slots past its deadline.
    fn check_deadline(&mut self, node: usize) {
        let now = self.boot(node);
        let state = &self.nodes[node];
        if !state.slots.is_empty()
            && state
                .until
                .is_none_or(|until| now > until + Duration::from_millis(5))
        {
            let name = state.name.clone();
            self.checker
                .fail(self.now, format!("deadline: {name} holds slots past it"));
        }
    }

    // ---- the network ---------------------------------------------------------------------------------------------------

    fn send(&mut self, from: usize, to: SocketAddr, bytes: Vec<u8>) {
        if bytes.len() > cluster::heartbeat::MAX_DATAGRAM {
            self.checker
                .fail(self.now, format!("S14: a datagram of {}", bytes.len()));
        }
        let place = self
            .nodes
            .iter()
            .enumerate()
            .find_map(|(node, state)| Some((node, state.addresses.iter().position(|own| *own == to)?)));
        let Some((node, path)) = place else { return };
        let source = self.nodes[from].addresses[path];
        self.carry(from, node, path, source, Rc::new(bytes));
    }

    pub fn carry(&mut self, from: usize, node: usize, path: usize, source: SocketAddr, bytes: Rc<Vec<u8>>) {
        let loss = self
            .loss
            .get(&(from, node, path))
            .copied()
            .unwrap_or(0)
            .max(self.noise);
        if self.random.percent(loss) {
            return;
        }
        let copies = if self.noise > 0 && self.random.percent(3) {
            2
        } else {
            1
        };
        for _ in 0..copies {
            let after = match self.noise > 0 && self.random.percent(3) {
                true => self.random.ms(1.0, 60.0),
                false => self.random.ms(0.1, 1.0),
            };
            self.after(
                after,
                What::Datagram {
                    to: node,
                    from: source,
                    bytes: Rc::clone(&bytes),
                },
            );
        }
    }
}
