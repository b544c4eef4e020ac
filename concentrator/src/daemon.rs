//! Start-up, signals and shut-down: puts the node together and takes it apart.
//!
//! ```text
//! stores ─► generation ─► registry ─► sockets ─► workers ─► routing domains ─► recovered SAs ─► Listener ─► API
//! ```
//!
//! Nothing is read from a socket before every SA of the last run is back.

mod foundation;

use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use actix::{Actor as _, System};
use anyhow::Context as _;
use dataplane::Holder;

use tenants::Attempts;
use tenants::service::HealthService;
use tokio::runtime::{Handle, Runtime};
use tokio::signal::unix::{SignalKind, signal};

use crate::actors::{Order, Root, Serve, Stop};
use crate::arbiters::Arbiters;
use crate::backend::Backend;
use crate::cluster::{Cluster, Prepared};
use crate::config::Config;
use crate::exclusive::{self, StateLock};
use crate::health::Health;
use crate::keylog::KeyLogWriter;
use crate::management::{self, Early, Servers, Whole};
use crate::node::{Node, Parts};
use crate::recovery;
use crate::revocation;
use crate::sockets::{IkeSocket, Sockets};
use crate::telemetry::{Telemetry, serve_prometheus};

pub use foundation::Foundation;

/// Wait before routing domains that could not be attached are tried again.
const DOMAIN_RETRY: Duration = Duration::from_secs(5);

/// A daemon that serves.
pub struct Running {
    /// What its parts share.
    pub node: Arc<Node>,
    telemetry: Arc<Telemetry>,
    servers: Servers,
    cluster: Option<Cluster>,
    runtime: Handle,
    _lock: StateLock,
}

/// Runs the daemon until it is told to stop. Blocks.
///
/// # Errors
/// It cannot start: the message says which step failed and why.
pub fn run(config: Config, config_path: Option<PathBuf>) -> anyhow::Result<()> {
    let runtime = Runtime::new().context("the asynchronous runtime")?;
    let handle = runtime.handle().clone();
    let result = System::new().block_on(async move {
        let (telemetry, lock) = begin(&config, &handle).await?;
        let (health, early) = early(&config, &handle).await?;
        let foundation = Foundation::lay(&config, &handle).await?;
        let witness = match config.cluster {
            Some(_) => Some(std::env::current_exe().context("the path of this program")?),
            None => None,
        };
        let base = Base {
            telemetry,
            lock,
            foundation,
            witness,
            health,
            early,
        };
        let running = assemble(config, config_path, handle, base).await?;
        running.until_stopped().await;
        running.stop().await;
        Ok(())
    });
    runtime.shutdown_timeout(Duration::from_secs(1));
    result
}

/// Starts everything. Call it within an actix system; `runtime` runs what is no actor.
///
/// # Errors
/// See [`run`].
pub async fn launch(
    config: Config,
    config_path: Option<PathBuf>,
    runtime: Handle,
) -> anyhow::Result<Running> {
    let (telemetry, lock) = begin(&config, &runtime).await?;
    let (health, early) = early(&config, &runtime).await?;
    let foundation = Foundation::lay(&config, &runtime).await?;
    let base = Base {
        telemetry,
        lock,
        foundation,
        witness: None,
        health,
        early,
    };
    assemble(config, config_path, runtime, base).await
}

/// Like [`launch`], on stores that are there already.
///
/// # Errors
/// See [`run`].
pub async fn launch_on(
    foundation: Foundation,
    config: Config,
    config_path: Option<PathBuf>,
    runtime: Handle,
) -> anyhow::Result<Running> {
    let (telemetry, lock) = begin(&config, &runtime).await?;
    let base = Base {
        telemetry,
        lock,
        foundation,
        witness: None,
        health: HealthService::new(),
        early: None,
    };
    assemble(config, config_path, runtime, base).await
}

/// The state directory, its lock and the log.
async fn begin(config: &Config, runtime: &Handle) -> anyhow::Result<(Arc<Telemetry>, StateLock)> {
    make_directory(&config.state_directory)?;
    let telemetry = {
        let _within = runtime.enter();
        Arc::new(Telemetry::start(config)?)
    };
    telemetry.install_log(config)?;
    warn_of_debug(config);
    crate::aead::choose(&config.threads.aead);
    let lock = exclusive::lock_state(&config.state_directory).await?;
    Ok((telemetry, lock))
}

/// The API of a cluster's node, which may have to wait for etcd: from its start it says that it does not serve.
async fn early(config: &Config, runtime: &Handle) -> anyhow::Result<(HealthService, Option<Early>)> {
    let health = HealthService::new();
    Health::new(health.clone()).await;
    let early = match config.cluster {
        Some(_) => {
            let (api, health) = (config.api.clone(), health.clone());
            Some(
                runtime
                    .spawn(async move { Early::open(&api, health).await })
                    .await??,
            )
        }
        None => None,
    };
    Ok((health, early))
}

/// What is there before the node is put together.
struct Base {
    telemetry: Arc<Telemetry>,
    lock: StateLock,
    foundation: Foundation,
    /// The program that watches over the daemon of a cluster's node.
    witness: Option<PathBuf>,
    health: HealthService,
    /// What answers until the node is complete.
    early: Option<Early>,
}

async fn assemble(
    config: Config,
    config_path: Option<PathBuf>,
    runtime: Handle,
    base: Base,
) -> anyhow::Result<Running> {
    let Base {
        telemetry,
        lock,
        foundation,
        witness,
        health,
        early,
    } = base;
    let Foundation {
        start,
        registry,
        sa_store,
        writes,
        slots,
        cluster: prepared,
    } = foundation;
    writes.show(&telemetry.meter());
    let attempts = Arc::new(Attempts::new());

    let ports = [config.listen.ike_port, config.listen.nat_port];
    exclusive::wait_for_ports(&config.listen_addresses(), &ports).await?;
    let holder = Holder::open(plane(&config, prepared.as_ref())).context("sockets")?;
    if let Some(error) = holder.path_mtu_trouble() {
        tracing::warn!(%error, "path MTUs are not learned: no socket for ICMP");
    }
    let sockets: std::io::Result<Vec<IkeSocket>> = holder
        .ike_sockets()?
        .into_iter()
        .map(|found| IkeSocket::new(found.socket, found.local, found.nat))
        .collect();
    let metrics = telemetry.metrics(config.limits.tenant_labels);
    tell_outer(&holder, &metrics);
    let arbiters = Arbiters::start(config.threads.control, &metrics);
    let key_log = match &config.debug.key_log {
        Some(directory) => Some(KeyLogWriter::open(directory).context("debug.key_log")?),
        None => None,
    };
    let node = Node::new(Parts {
        start,
        metrics,
        tracer: telemetry.tracer(),
        registry,
        attempts,
        sa_store,
        writes,
        slots,
        arbiters,
        holder,
        sockets: Sockets::new(
            sockets?,
            prepared.as_ref().map(|prepared| Arc::clone(&prepared.until)),
        ),
        runtime: runtime.clone(),
        key_log,
        cookies: prepared.as_ref().map(|prepared| prepared.cookies.clone()),
        config,
    });
    let root = Root::new(Arc::clone(&node)).start();

    let complete = reconcile(&node).await;
    let report = carry_on(&node).await?;
    root.send(Serve).await.context("the supervisor")?;
    let cluster = match prepared {
        Some(prepared) => {
            let _within = runtime.enter();
            let meter = telemetry.meter();
            Some(Cluster::start(
                prepared,
                Arc::clone(&node),
                &meter,
                &runtime,
                witness,
            )?)
        }
        None => None,
    };
    let shared = cluster.as_ref().map(|cluster| Arc::clone(&cluster.shared));
    let backend = Arc::new(Backend::new(Arc::clone(&node), config_path, shared.clone()));
    let whole = Whole {
        node: Arc::clone(&node),
        backend,
        cluster: shared,
        health,
        early,
    };
    let servers = runtime.spawn(management::serve(whole)).await??;
    if let Some(listen) = node.config.telemetry.prometheus_listen {
        let registry = telemetry.registry();
        let (bound, server) = runtime
            .spawn(serve_prometheus(listen, registry))
            .await?
            .context("telemetry.prometheus_listen")?;
        tracing::info!(%bound, "prometheus");
        runtime.spawn(server);
    }
    runtime.spawn(follow_registry(Arc::clone(&node), complete));
    tracing::info!(
        generation = node.start.generation,
        restored = report.restored,
        dropped = report.dropped,
        "ready"
    );
    Ok(Running {
        node,
        telemetry,
        servers,
        cluster,
        runtime,
        _lock: lock,
    })
}

impl Running {
    /// Waits for SIGTERM, SIGINT or a reason of the node's own. SIGHUP reloads.
    pub async fn until_stopped(&self) {
        let signals = (
            signal(SignalKind::terminate()),
            signal(SignalKind::interrupt()),
            signal(SignalKind::hangup()),
        );
        let (Ok(mut terminate), Ok(mut interrupt), Ok(mut hangup)) = signals else {
            self.node.stop.notified().await;
            return;
        };
        loop {
            tokio::select! {
                _ = terminate.recv() => return,
                _ = interrupt.recv() => return,
                () = self.node.stop.notified() => return,
                _ = hangup.recv() => self.servers.reload().await,
            }
        }
    }

    /// Stops taking logins, finishes what runs, stores what is queued, closes everything. SAs stay restorable.
    pub async fn stop(self) {
        let node = &self.node;
        node.draining.store(true, Ordering::Relaxed);
        let shutdown = &node.config.shutdown;
        let until = Instant::now() + Duration::from_secs(shutdown.drain_secs.into());
        tracing::info!(sessions = node.sessions.len(), "draining");
        if let Some(cluster) = &self.cluster {
            let patience = until.saturating_duration_since(Instant::now());
            let left = cluster.drain(patience).await;
            if left > 0 {
                tracing::warn!(slots = left, "slots could not be handed over in time");
            }
        }
        if shutdown.send_deletes && self.cluster.is_none() {
            for session in node.sessions.page(None, usize::MAX) {
                if let Some(addr) = session.addr.load_full() {
                    addr.do_send(Order(ike::Command::Close));
                }
            }
        }
        while Instant::now() < until && !self.drained() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        if node.slots.records_waiting() > 0 {
            tracing::warn!(
                records = node.slots.records_waiting(),
                "records could not be stored in time"
            );
        }
        if let Some(cluster) = self.cluster {
            cluster.stop();
        }
        node.stop_workers();
        if let Some(root) = node.root.load_full() {
            let _ = root.send(Stop).await;
        }
        node.arbiters.stop();
        self.servers.stop().await;
        tracing::info!("stopped");
        let telemetry = Arc::clone(&self.telemetry);
        let _ = self.runtime.spawn_blocking(move || telemetry.shutdown()).await;
    }

    /// Ends at once, as a killed process does: nothing is drained, told or stored. For tests.
    pub async fn abandon(self) {
        self.node.stop_workers();
        if let Some(root) = self.node.root.load_full() {
            let _ = root.send(Stop).await;
        }
        self.node.arbiters.stop();
        self.servers.stop().await;
    }

    fn drained(&self) -> bool {
        let node = &self.node;
        let deletes = node.config.shutdown.send_deletes && self.cluster.is_none();
        let deleted = !deletes || node.sessions.is_empty();
        node.slots.records_waiting() == 0 && deleted && node.half_open.load(Ordering::Relaxed) == 0
    }

    /// Sends buffered telemetry: for tests.
    pub async fn flush_telemetry(&self) {
        let telemetry = Arc::clone(&self.telemetry);
        let _ = self.runtime.spawn_blocking(move || telemetry.flush()).await;
    }
}

fn make_directory(path: &Path) -> anyhow::Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| format!("state_directory {}", path.display()))
}

fn warn_of_debug(config: &Config) {
    if let Some(directory) = &config.debug.key_log {
        tracing::warn!(
            directory = %directory.display(),
            "debug.key_log is on: the keys of every session are written to disk"
        );
    }
    if config.debug.fault_injection {
        tracing::warn!("debug.fault_injection is on: the management API can make parts of this node panic");
    }
}

fn plane(config: &Config, cluster: Option<&Prepared>) -> dataplane::Config {
    dataplane::Config {
        until: cluster.map(|prepared| Arc::clone(&prepared.until)),
        forward: cluster.and_then(Prepared::forward),
        listen: config.listen_addresses(),
        ike_port: config.listen.ike_port,
        nat_port: config.listen.nat_port,
        workers: config.threads.workers,
        cores: match (config.threads.pin_workers, config.threads.cores.as_slice()) {
            (false, _) => Vec::new(),
            (true, []) => (0..usize::from(config.threads.workers)).collect(),
            (true, cores) => cores.iter().copied().map(usize::from).collect(),
        },
        busy_wait: Duration::from_micros(u64::from(config.threads.busy_wait_micros)),
        raw_esp: config.listen.raw_esp,
        outer: (&config.dataplane).into(),
        path_mtu: config.path_mtu.plane(),
        ..dataplane::Config::default()
    }
}

/// Says by what ESP comes and goes on each interface for which anything but sockets was asked for.
fn tell_outer(holder: &Holder, metrics: &crate::telemetry::Metrics) {
    for report in holder.outer() {
        let (interface, way) = (&report.interface, report.way.name());
        metrics.outer_queues(interface, way, report.queues.into());
        match &report.reason {
            None => tracing::info!(interface, way, queues = report.queues, "ESP by AF_XDP"),
            Some(reason) => tracing::warn!(interface, way, reason, "ESP by sockets instead of AF_XDP"),
        }
    }
}

/// Carries on the sessions of the last run, and serves.
async fn carry_on(node: &Arc<Node>) -> anyhow::Result<recovery::Report> {
    let mut report = recovery::Report::default();
    if node.slots.all().is_empty() {
        // They come later, one by one.
        return Ok(report);
    }
    for slot in node.slots.all() {
        let records = recovery::read_slot(node, &slot).await?;
        report = recovery::restore_slot(node, &slot, records).await;
        recovery::serve(&slot);
    }
    // Addresses of sessions that were not carried on are free again.
    if let Err(error) = node.registry.sweep_unclaimed().await {
        tracing::warn!(%error, "addresses of lost sessions could not be freed");
    }
    Ok(report)
}

/// Attaches and detaches routing domains; true when all are as configured.
async fn reconcile(node: &Arc<Node>) -> bool {
    let owned = Arc::clone(node);
    let work = move || owned.domains.reconcile(&owned.registry, &owned.holder);
    node.authenticator.block(work).await.unwrap_or(false)
}

/// Follows the registry: routing domains, and sessions of tenants and connections that are gone.
async fn follow_registry(node: Arc<Node>, mut complete: bool) {
    let mut changes = node.registry.changes();
    loop {
        let retry = async {
            if complete {
                std::future::pending().await
            } else {
                tokio::time::sleep(DOMAIN_RETRY).await
            }
        };
        let changed = tokio::select! {
            changed = changes.recv() => changed.map(|_| ()),
            () = node.domains.wanted_again() => Ok(()),
            () = retry => Ok(()),
        };
        if matches!(changed, Err(tokio::sync::broadcast::error::RecvError::Closed)) {
            return;
        }
        // Many changes come together (an apply): look once for all of them.
        while changes.try_recv().is_ok() {}
        node.policies.forget();
        revocation::look(&node);
        complete = reconcile(&node).await;
    }
}
