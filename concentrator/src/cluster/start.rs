//! Puts the node into its cluster: what has to be there before the node is made, and what is started when it serves.

use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use cluster::vault::{ClusterKeys, Root};
use cluster::{Core, Input, Order, Settings};
use crypto::{Random as _, SystemRandom};
use opentelemetry::metrics::Meter;
use store::Store;
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;

use super::addresses::{Addresses, OnLink};
use super::etcd::{self, Stores};
use super::forwards;
use super::hints::Hints;
use super::lease::Lease;
use super::marks::Marks;
use super::metrics::ClusterMetrics;
use super::pacemaker::{self, Pacemaker};
use super::router::{self, Router};
use super::secrets::{self, ConfigSealer, SecretsError};
use super::shared::{self, Shared};
use super::warden::Warden;
use super::witness::{Charge, Witness, to_hex};
use crate::config::{self, Config};
use crate::node::Node;

/// Room for heartbeats that wait, in octets.
const RECEIVE_BUFFER: usize = 4 << 20;

/// Between two measurements.
const MEASURE: Duration = Duration::from_secs(1);

/// What a node of a cluster needs before it is made.
pub struct Prepared {
    config: config::Cluster,
    keys: ClusterKeys,
    root: Arc<Root>,
    marks: Marks,
    addresses: Addresses,
    on_link: Arc<std::sync::OnceLock<OnLink>>,
    /// Up to when the workers may carry packets: nothing yet.
    pub until: Arc<AtomicU64>,
    /// The store.
    pub stores: Stores,
    /// Seals what all nodes share.
    pub sealer: Arc<ConfigSealer>,
    /// The secret of cookies, the same on every node.
    pub cookies: crypto::Secret,
}

impl Prepared {
    /// Where and how stray packets are exchanged with the other nodes.
    #[must_use]
    pub fn forward(&self) -> Option<dataplane::Forward> {
        self.config.forward.map(|listen| dataplane::Forward {
            listen,
            key: self.root.derive("forwarding"),
        })
    }
}

/// Reads the secrets, removes addresses of an earlier run, and waits until the store answers. Call it on the runtime.
///
/// # Errors
/// In words: which step failed and why.
pub async fn prepare(config: &Config, section: &config::Cluster) -> anyhow::Result<Prepared> {
    let until = Arc::new(AtomicU64::new(0));
    // Before anything else: a node that was killed must not answer where it owns nothing.
    let (addresses, on_link) = Addresses::start(&section.slots, Arc::clone(&until))?;
    let keys = secrets::read_keys(&section.key_file)?;
    let marks = Marks::read(&config.state_directory)?;
    let stores = etcd::open(section).await?;
    let root = etcd::patiently(
        || secrets::root(&*stores.control, &keys),
        |error| matches!(error, SecretsError::Store(error) if error.is_retryable()),
    )
    .await?;
    Ok(Prepared {
        config: section.clone(),
        sealer: Arc::new(ConfigSealer::new(&root)),
        cookies: root.derive("cookies"),
        root: Arc::new(root),
        keys,
        marks,
        addresses,
        on_link,
        until,
        stores,
    })
}

/// A node's part in its cluster, at work.
pub struct Cluster {
    /// What its tasks share.
    pub shared: Arc<Shared>,
    pacemaker: Pacemaker,
    tasks: Vec<JoinHandle<()>>,
}

impl Cluster {
    /// Starts the threads and tasks. `witness`: the program that is started as the witness.
    ///
    /// # Errors
    /// A heartbeat address that cannot be bound, or the system refuses a thread.
    pub fn start(
        prepared: Prepared,
        node: Arc<Node>,
        meter: &Meter,
        runtime: &Handle,
        witness: Option<PathBuf>,
    ) -> anyhow::Result<Self> {
        let incarnation = incarnation();
        let section = prepared.config.clone();
        let sockets = sockets(&section.listen)?;
        let key = prepared.root.derive("heartbeats");
        let settings = settings(&section, &node, incarnation, key.clone(), &prepared.marks);
        let now = dataplane::boot_time();
        let mut seed = [0; 8];
        SystemRandom.fill(&mut seed);
        let core = Core::new(now, settings, u64::from_ne_bytes(seed));
        let (witness, ticks) = match witness {
            Some(program) => {
                let charge = Charge {
                    pid: std::process::id(),
                    name: node.config.node_name.clone(),
                    incarnation,
                    key: to_hex(&key),
                    paths: section.listen.clone(),
                    addresses: section
                        .slots
                        .iter()
                        .flat_map(|slot| slot.addresses.clone())
                        .collect(),
                };
                let (witness, ticks) = Witness::start(program, charge).context("the witness")?;
                (Some(witness), Some(ticks))
            }
            None => (None, None),
        };
        let (outputs, receiver) = mpsc::unbounded_channel();
        let pacemaker = Pacemaker::start(pacemaker::Parts {
            core,
            sockets,
            until: prepared.until,
            outputs,
            addresses: prepared.addresses.clone(),
            ticks,
        })?;
        let shared = Shared::new(shared::Parts {
            node: Arc::clone(&node),
            config: section.clone(),
            incarnation,
            stores: prepared.stores,
            keys: prepared.keys,
            root: prepared.root,
            addresses: prepared.addresses,
            runtime: runtime.clone(),
            metrics: ClusterMetrics::new(meter),
            pacemaker: pacemaker.clone(),
        });
        let link = pacemaker.clone();
        let _ = prepared
            .on_link
            .set(Box::new(move |up| link.input(Input::Service { up })));
        let control = Arc::clone(&shared.stores.control) as Arc<dyn Store>;
        let again = Arc::new(Notify::new());
        let (marks, marked) = watch::channel(prepared.marks);
        let router = Router {
            lease: Lease::new(Arc::clone(&control), pacemaker.clone(), runtime.clone()),
            ways: section
                .slots
                .iter()
                .map(|table| {
                    shared.replica.follow(table.id);
                    (table.id, Warden::start(Arc::clone(&shared), table.clone()))
                })
                .collect(),
            again: Arc::clone(&again),
            marks,
            shared: Arc::clone(&shared),
        };
        let hints = Hints {
            store: control,
            pacemaker: pacemaker.clone(),
            slots: section.slots.iter().map(|slot| slot.id).collect(),
            again,
            shared: Arc::clone(&shared),
        };
        let mut tasks = vec![
            runtime.spawn(router.run(receiver)),
            runtime.spawn(hints.run()),
            runtime.spawn(router::keep_marks(marked, node.config.state_directory.clone())),
            runtime.spawn(measure(Arc::clone(&shared), pacemaker.clone(), witness)),
        ];
        if let Some(own) = section.forward {
            tasks.push(runtime.spawn(forwards::keep(Arc::clone(&node), pacemaker.clone(), own)));
        }
        tracing::info!(
            node = node.config.node_name,
            incarnation = format!("{incarnation:016x}"),
            slots = section.slots.len(),
            etcd = shared.stores.control.etcd().member(),
            "part of a cluster"
        );
        Ok(Self {
            shared,
            pacemaker,
            tasks,
        })
    }

    /// Hands every slot over, for at most `patience`. Returns how many are still here.
    pub async fn drain(&self, patience: Duration) -> usize {
        let handed = tokio::time::timeout(patience, async {
            if let Err(reason) = self.shared.order(Order::Drain).await {
                tracing::warn!(reason, "the slots are not handed over");
            }
            while !self.shared.node.slots.all().is_empty() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        let _ = handed.await;
        self.shared.node.slots.all().len()
    }

    /// Ends its threads and tasks; addresses go first.
    pub fn stop(self) {
        self.shared.addresses.stop();
        self.pacemaker.stop();
        for task in self.tasks {
            task.abort();
        }
    }
}

fn settings(
    section: &config::Cluster,
    node: &Node,
    incarnation: u64,
    key: crypto::Secret,
    marks: &Marks,
) -> Settings {
    Settings {
        name: node.config.node_name.clone(),
        incarnation,
        key,
        slots: section.slots.iter().map(|slot| slot.id).collect(),
        table: section.table(),
        addresses: section.listen.clone(),
        heartbeat: section.heartbeat(),
        missed: section.missed,
        lease_ttl: Duration::from_millis(section.lease_ttl_ms.into()),
        margin: Duration::from_millis(section.margin_ms.into()),
        damping: Duration::from_secs(section.damping_secs.into()),
        rebalance: section.rebalance,
        settle: Duration::from_millis(section.settle_ms.into()),
        seen_epoch: marks.epoch,
        seen_generations: marks.generations.clone(),
        ..Settings::default()
    }
}

/// Higher at every start, as long as the clock does not go back, and never the same twice.
fn incarnation() -> u64 {
    let mut low = [0; 2];
    SystemRandom.fill(&mut low);
    let millis = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(1, |since| u64::try_from(since.as_millis()).unwrap_or(1));
    millis << 16 | u64::from(u16::from_ne_bytes(low))
}

fn sockets(listen: &[SocketAddr]) -> anyhow::Result<Vec<(SocketAddr, UdpSocket)>> {
    listen
        .iter()
        .map(|address| {
            let socket = UdpSocket::bind(address).with_context(|| format!("cluster.listen {address}"))?;
            socket.set_nonblocking(true)?;
            // What the kernel allows; with less, a flood from strangers displaces heartbeats sooner.
            if let Err(error) = rustix::net::sockopt::set_socket_recv_buffer_size(&socket, RECEIVE_BUFFER) {
                tracing::warn!(%error, %address, "the heartbeats' receive buffer stays as it is");
            }
            Ok((*address, socket))
        })
        .collect()
}

/// Measures once a second, and sees that there is a witness.
async fn measure(shared: Arc<Shared>, pacemaker: Pacemaker, mut witness: Option<Witness>) {
    let mut every = tokio::time::interval(MEASURE);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut committed = [0, 0];
    loop {
        every.tick().await;
        match witness.as_mut().map(Witness::keep) {
            Some(Ok(Some(ticks))) => {
                tracing::warn!("the witness ended and was started again");
                pacemaker.ticks(ticks);
            }
            Some(Err(error)) => tracing::error!(%error, "there is no witness"),
            Some(Ok(None)) | None => {}
        }
        let late = pacemaker.pulse.late_micros.swap(0, Ordering::Relaxed);
        let status = pacemaker.status().await;
        if let Some(status) = &status {
            super::relief::look(&shared, status);
        }
        let slack = status
            .and_then(|status| status.until)
            .map(|until| until.saturating_sub(dataplane::boot_time()));
        let metrics = &shared.metrics;
        metrics.pulse(Duration::from_micros(late), slack);
        for (store, last) in [&shared.stores.control, &shared.stores.data]
            .into_iter()
            .zip(&mut committed)
        {
            let present = store.etcd().counters().commits;
            // One that was opened anew begins at 0.
            metrics.commits(present.checked_sub(*last).unwrap_or(present));
            *last = present;
        }
        let slots = shared.node.slots.all();
        metrics.slots(slots.len());
        let (mut oldest, mut unreplicated) = (Duration::ZERO, 0);
        for slot in &slots {
            metrics.generation(slot.id, slot.generation());
            oldest = oldest.max(slot.records.oldest_wait());
            unreplicated += slot.records.unreplicated();
        }
        metrics.records(oldest, unreplicated);
        metrics.replica(shared.replica.size());
    }
}
