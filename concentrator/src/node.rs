//! What every actor of this node shares: addresses of the others, directories, limits, and the outside world.
//!
//! Nothing here waits: maps, counters and queues only. What is slow has an actor or a task of its own.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use actix::Addr;
use arc_swap::ArcSwapOption;
use crypto::SystemRandom;
use dashmap::DashMap;
use dataplane::{Holder, WorkerCommand, WorkerHandle};
use ike::gate::{Gate, GateConfig};
use ike::{Context, InitPolicy, Timing};
use opentelemetry_sdk::trace::SdkTracer;
use store::Store;
use tenants::{Attempts, Registry};
use tokio::sync::Notify;

use crate::actors::{EnsureTenant, EspWorker, Gone, Listener, News, PendingSupervisor, Root};
use crate::arbiters::Arbiters;
use crate::authenticator::Authenticator;
use crate::config::Config;
use crate::directory::Directory;
use crate::dispatch::Dispatch;
use crate::domains::Domains;
use crate::generation::Start;
use crate::keylog::KeyLogWriter;
use crate::log_limit::LogLimit;
use crate::policy::Policies;
use crate::redirect::Redirects;
use crate::session::Child;
use crate::slot::{Slot, Slots};
use crate::sockets::Sockets;
use crate::telemetry::Metrics;
use crate::tenant::Tenants;
use crate::writes::Writes;

/// One worker thread as the node sees it.
pub struct WorkerSlot {
    /// Its supervisor; replaced when that one panicked.
    pub actor: ArcSwapOption<Addr<EspWorker>>,
    /// The thread.
    handle: Mutex<Option<WorkerHandle>>,
    running: AtomicBool,
    /// How often the thread was started, the first time included.
    starts: AtomicU32,
    /// How often the thread was started again.
    pub restarts: AtomicU32,
    /// Packets in, packets out, drops as last read.
    pub counted: [AtomicU64; 3],
}

impl WorkerSlot {
    fn new() -> Self {
        Self {
            actor: ArcSwapOption::empty(),
            handle: Mutex::new(None),
            running: AtomicBool::new(false),
            starts: AtomicU32::new(0),
            restarts: AtomicU32::new(0),
            counted: Default::default(),
        }
    }

    /// Whether the thread is at work.
    #[must_use]
    pub fn runs(&self) -> bool {
        self.running.load(Ordering::Acquire)
    }

    /// How often the thread was started. Who sees the same number before a command and when its child SA can be found has
    /// told the thread that runs now, or is told to install it again.
    #[must_use]
    pub fn starts(&self) -> u32 {
        self.starts.load(Ordering::Acquire)
    }

    /// Keeps what the management API shows of the counters.
    pub fn publish(&self, counters: &dataplane::WorkerCounters) {
        for (cell, value) in
            self.counted
                .iter()
                .zip([counters.outer_in, counters.outer_out, counters.drops.total()])
        {
            cell.store(value, Ordering::Relaxed);
        }
    }
}

/// Everything that the parts of the node share.
pub struct Node {
    /// What happened about path MTUs and fragments since the start, by kind.
    paths: [AtomicU64; dataplane::PathEvent::COUNT],
    /// The file that the daemon was started with.
    pub config: Config,
    /// This start.
    pub start: Start,
    /// When it was.
    pub started: SystemTime,
    /// The instruments.
    pub metrics: Metrics,
    /// Makes spans.
    pub tracer: SdkTracer,
    /// Who may connect.
    pub registry: Arc<Registry>,
    /// What came of every login.
    pub attempts: Arc<Attempts>,
    /// SA records.
    pub sa_store: Arc<dyn Store>,
    /// What was written.
    pub writes: Arc<Writes>,
    /// What this node owns of them.
    pub slots: Slots,
    /// Threads of the actors.
    pub arbiters: Arbiters,
    /// Sockets and TUN queues.
    pub holder: Arc<Holder>,
    /// The IKE sockets of it.
    pub sockets: Sockets,
    /// Routing domains of the tenants.
    pub domains: Domains,
    /// What is accepted from peers that are not known.
    pub policies: Policies,
    /// Decides who may come in.
    pub authenticator: Authenticator,
    /// From SPIs to actors.
    pub dispatch: Dispatch,
    /// Live sessions.
    pub sessions: Directory,
    /// Live child SAs by inbound SPI.
    pub children: DashMap<u32, Arc<Child>>,
    /// Tenants at run time.
    pub tenants: Tenants,
    /// IKE SAs that are not authenticated.
    pub half_open: Arc<AtomicU32>,
    /// Key tables for tshark.
    pub key_log: Option<KeyLogWriter>,
    /// Bounds log lines that strangers can cause.
    pub log_limit: LogLimit,
    /// The secret of cookies that all nodes of a cluster share; none: every gate has its own.
    cookies: Option<crypto::Secret>,
    /// Who is sent to another gateway.
    pub redirects: Redirects,
    /// No new logins.
    pub draining: AtomicBool,
    /// The process is to end.
    pub stop: Notify,
    /// See [`Root`].
    pub root: ArcSwapOption<Addr<Root>>,
    /// See [`Listener`].
    pub listener: ArcSwapOption<Addr<Listener>>,
    /// See [`PendingSupervisor`].
    pub pending: ArcSwapOption<Addr<PendingSupervisor>>,
    workers: Vec<WorkerSlot>,
    stopping: AtomicBool,
}

/// What a node is made of.
pub struct Parts {
    /// See [`Node`].
    pub config: Config,
    /// See [`Node`].
    pub start: Start,
    /// See [`Node`].
    pub metrics: Metrics,
    /// See [`Node`].
    pub tracer: SdkTracer,
    /// See [`Node`].
    pub registry: Arc<Registry>,
    /// See [`Node`].
    pub attempts: Arc<Attempts>,
    /// See [`Node`].
    pub sa_store: Arc<dyn Store>,
    /// See [`Node`].
    pub writes: Arc<Writes>,
    /// See [`Node`].
    pub slots: Slots,
    /// See [`Node`].
    pub arbiters: Arbiters,
    /// See [`Node`].
    pub holder: Holder,
    /// See [`Node`].
    pub sockets: Sockets,
    /// The runtime of everything that is not an actor.
    pub runtime: tokio::runtime::Handle,
    /// See [`Node`].
    pub key_log: Option<KeyLogWriter>,
    /// See [`Node`].
    pub cookies: Option<crypto::Secret>,
}

impl Node {
    /// Puts the parts together.
    #[must_use]
    pub fn new(parts: Parts) -> Arc<Self> {
        let config = parts.config;
        Arc::new(Self {
            paths: [const { AtomicU64::new(0) }; dataplane::PathEvent::COUNT],
            start: parts.start,
            started: SystemTime::now(),
            metrics: parts.metrics,
            tracer: parts.tracer,
            registry: parts.registry,
            attempts: parts.attempts,
            sa_store: parts.sa_store,
            writes: parts.writes,
            slots: parts.slots,
            arbiters: parts.arbiters,
            holder: Arc::new(parts.holder),
            sockets: parts.sockets,
            domains: Domains::new(),
            policies: Policies::default(),
            authenticator: Authenticator::new(parts.runtime, &config),
            dispatch: Dispatch::default(),
            sessions: Directory::new(),
            children: DashMap::new(),
            tenants: Tenants::new(config.limits.authentications_per_tenant),
            half_open: Arc::default(),
            key_log: parts.key_log,
            log_limit: LogLimit::new(50),
            cookies: parts.cookies,
            redirects: Redirects::new(config.redirect.clone()),
            draining: AtomicBool::new(false),
            stop: Notify::new(),
            root: ArcSwapOption::empty(),
            listener: ArcSwapOption::empty(),
            pending: ArcSwapOption::empty(),
            workers: (0..config.threads.workers).map(|_| WorkerSlot::new()).collect(),
            stopping: AtomicBool::new(false),
            config,
        })
    }

    /// What a core of a slot needs from outside.
    #[must_use]
    pub fn ike_context(&self, slot: &Slot) -> Context {
        Context {
            random: Box::new(SystemRandom),
            spis: slot.spis(),
            generation: slot.iv_generation(),
            key_log: self.key_log.is_some(),
            timing: Timing {
                half_open: self.config.half_open_time(),
                redirected: self.config.redirect.grace(),
                ..Timing::default()
            },
        }
    }

    /// What is accepted from a peer that called `local`, before it is known.
    #[must_use]
    pub fn init_policy(&self, local: SocketAddr) -> Arc<InitPolicy> {
        let policy = self.policies.at(&self.registry, local.ip());
        match self.redirects.at_init(local.ip(), self.sessions.len()) {
            None => policy,
            to => Arc::new(InitPolicy {
                redirect: to,
                ..InitPolicy::clone(&policy)
            }),
        }
    }

    /// A gate with secrets of its own, or with those of the cluster.
    #[must_use]
    pub fn gate(&self) -> Gate {
        let config = GateConfig {
            cookie_threshold: self.config.limits.cookie_threshold as usize,
            secret: self.cookies.clone(),
            ..GateConfig::default()
        };
        let mut gate = Gate::new(Instant::now(), config, Box::new(SystemRandom));
        gate.set_clock(Instant::now(), since_1970());
        gate
    }

    /// Tells the supervisor of supervisors. Bounded: once in the life of an actor.
    pub fn tell_root(&self, gone: Gone) {
        if let Some(root) = self.root.load_full() {
            root.do_send(gone);
        }
    }

    /// Tells the supervisor of SAs without a tenant. Bounded: twice in the life of an actor.
    pub fn tell_pending<M>(&self, message: M)
    where
        M: actix::Message<Result = ()> + Send + 'static,
        PendingSupervisor: actix::Handler<M>,
    {
        if let Some(pending) = self.pending.load_full() {
            pending.do_send(message);
        }
    }

    /// Tells a tenant's supervisor. Bounded: once for each session, once for each panic.
    pub fn tell_tenant<M>(&self, tenant: &str, message: M)
    where
        M: actix::Message<Result = ()> + Send + 'static,
        crate::actors::TenantSupervisor: actix::Handler<M>,
    {
        match self.tenants.share(tenant).supervisor.load_full() {
            Some(supervisor) => supervisor.do_send(message),
            // It is being made: when it starts it looks at every session of its tenant.
            None => self.ensure_tenant(tenant),
        }
    }

    /// Makes sure that a tenant has a supervisor.
    pub fn ensure_tenant(&self, tenant: &str) {
        let share = self.tenants.share(tenant);
        if share
            .supervisor
            .load()
            .as_ref()
            .is_none_or(|addr| !addr.connected())
            && let Some(root) = self.root.load_full()
        {
            root.do_send(EnsureTenant(tenant.to_owned()));
        }
    }

    /// One worker.
    #[must_use]
    pub fn worker(&self, index: u8) -> Option<&WorkerSlot> {
        self.workers.get(usize::from(index))
    }

    /// All workers, by index.
    #[must_use]
    pub fn workers(&self) -> &[WorkerSlot] {
        &self.workers
    }

    /// The worker that serves an inbound ESP SPI on this node, whose number of workers may not be that of the node which
    /// chose the SPI.
    #[must_use]
    pub fn serving_worker(&self, spi: u32) -> u8 {
        let workers = u8::try_from(self.workers.len()).unwrap_or(u8::MAX);
        dataplane::serving_worker(spi, workers)
    }

    /// Starts a worker's thread, again or for the first time.
    ///
    /// # Errors
    /// The holder refuses.
    pub fn start_worker(self: &Arc<Self>, index: u8) -> Result<(), dataplane::StartError> {
        let Some(slot) = self.worker(index) else {
            return Ok(());
        };
        let node = Arc::downgrade(self);
        let handle = self.holder.start_worker(
            index,
            Box::new(move |event| {
                let Some(node) = node.upgrade() else { return };
                let Some(slot) = node.worker(index) else { return };
                if matches!(event, dataplane::WorkerEvent::Died { .. }) {
                    slot.running.store(false, Ordering::Release);
                }
                if let Some(actor) = slot.actor.load_full() {
                    // Bounded: a worker says each thing about an SA once, and counts once a second.
                    actor.do_send(News(event));
                }
            }),
        )?;
        slot.running.store(true, Ordering::Release);
        *slot.handle.lock().unwrap_or_else(PoisonError::into_inner) = Some(handle);
        // After the handle: a command that was told before may have gone to the thread that died.
        slot.starts.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    /// Something happened about path MTUs or fragments, so many times since a worker's last report.
    pub fn count_path(&self, event: dataplane::PathEvent, times: u64) {
        if let Some(counter) = self.paths.get(event as usize) {
            counter.fetch_add(times, Ordering::Relaxed);
        }
    }

    /// What happened about path MTUs and fragments since the start, by name.
    pub fn path_counters(&self) -> impl Iterator<Item = (String, u64)> + '_ {
        dataplane::PathEvent::ALL
            .iter()
            .zip(&self.paths)
            .map(|(event, counter)| {
                let name = format!("path_{}", event.name());
                (name, counter.load(Ordering::Relaxed))
            })
    }

    /// Tells a worker's thread something. What a dead one misses is made good by installing again.
    pub fn command(&self, index: u8, command: WorkerCommand) {
        let Some(slot) = self.worker(index) else { return };
        let handle = slot.handle.lock().unwrap_or_else(PoisonError::into_inner);
        let sent = handle.as_ref().map(|handle| handle.send(command));
        drop(handle);
        if sent == Some(Err(dataplane::SendError::Full)) {
            self.metrics.refusal("esp_worker");
        }
    }

    /// Whether the process is ending.
    #[must_use]
    pub fn stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Ends the workers and waits for them: their sockets close with the holder.
    pub fn stop_workers(&self) {
        self.stopping.store(true, Ordering::Release);
        for index in 0..self.config.threads.workers {
            self.holder.stop_worker(index);
        }
    }

    /// How long the node has been up.
    #[must_use]
    pub fn uptime(&self) -> Duration {
        self.started.elapsed().unwrap_or_default()
    }
}

/// What the wall clock shows.
#[must_use]
pub fn since_1970() -> Duration {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default()
}
