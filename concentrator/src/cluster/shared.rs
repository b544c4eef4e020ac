//! What the parts of the cluster's shell share.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use cluster::vault::{ClusterKeys, Root};
use cluster::{Event, Fence, Input};
use dashmap::DashMap;
use tokio::runtime::Handle;
use tokio::sync::{broadcast, oneshot};

use super::addresses::Addresses;
use super::etcd::Stores;
use super::fences::Fences;
use super::metrics::ClusterMetrics;
use super::pacemaker::Pacemaker;
use super::replica::Replica;
use super::secrets::SlotSealer;
use crate::config;
use crate::node::Node;
use crate::recovery::Pace;

/// Orders of operators that wait for their answer.
const ORDERS_MAX: usize = 256;

type Answer = oneshot::Sender<Result<String, String>>;

/// Everything that the tasks share.
pub struct Shared {
    /// The node.
    pub node: Arc<Node>,
    /// `[cluster]`.
    pub config: config::Cluster,
    /// This start of the node.
    pub incarnation: u64,
    /// The store.
    pub stores: Stores,
    /// The cluster's keys, as the key file has them.
    pub keys: ArcSwap<ClusterKeys>,
    /// The root of what all nodes share.
    pub root: Arc<Root>,
    /// Seals the slots that are here.
    pub sealers: DashMap<u8, Arc<SlotSealer>>,
    /// What the slots that are here are written under.
    pub fences: Arc<Fences>,
    /// The slots' addresses.
    pub addresses: Addresses,
    /// How fast child SAs are replaced after takeovers; `None`: not at all.
    pub pace: Option<Arc<Pace>>,
    /// Other nodes' records.
    pub replica: Replica,
    /// Where tasks run.
    pub runtime: Handle,
    /// The instruments.
    pub metrics: ClusterMetrics,
    /// What happens.
    pub events: broadcast::Sender<Arc<Event>>,
    /// Slots are held without a store.
    pub fail_static: AtomicBool,
    pacemaker: Pacemaker,
    orders: Mutex<BTreeMap<u64, Answer>>,
    next_order: AtomicU64,
}

/// What [`Shared`] is made of.
pub struct Parts {
    /// See [`Shared`].
    pub node: Arc<Node>,
    /// See [`Shared`].
    pub config: config::Cluster,
    /// See [`Shared`].
    pub incarnation: u64,
    /// See [`Shared`].
    pub stores: Stores,
    /// See [`Shared`].
    pub keys: ClusterKeys,
    /// See [`Shared`].
    pub root: Arc<Root>,
    /// See [`Shared`].
    pub addresses: Addresses,
    /// See [`Shared`].
    pub runtime: Handle,
    /// See [`Shared`].
    pub metrics: ClusterMetrics,
    /// The way to the core.
    pub pacemaker: Pacemaker,
}

impl Shared {
    /// Puts the parts together.
    #[must_use]
    pub fn new(parts: Parts) -> Arc<Self> {
        let store = Arc::clone(&parts.stores.control) as Arc<dyn store::Store>;
        let most = parts.config.replica_mib as usize * (1 << 20);
        Arc::new(Self {
            pace: Pace::new(parts.config.takeover_rekeys_per_sec),
            replica: Replica::new(store, parts.runtime.clone(), most),
            node: parts.node,
            config: parts.config,
            incarnation: parts.incarnation,
            stores: parts.stores,
            keys: ArcSwap::from_pointee(parts.keys),
            root: parts.root,
            sealers: DashMap::new(),
            fences: Arc::default(),
            addresses: parts.addresses,
            runtime: parts.runtime,
            metrics: parts.metrics,
            events: broadcast::channel(1_024).0,
            fail_static: AtomicBool::new(false),
            pacemaker: parts.pacemaker,
            orders: Mutex::default(),
            next_order: AtomicU64::new(1),
        })
    }

    /// The way to the core.
    #[must_use]
    pub fn pacemaker(&self) -> &Pacemaker {
        &self.pacemaker
    }

    /// What a slot is written under.
    #[must_use]
    pub fn fence(&self, slot: u8, generation: u64, epoch: u64) -> Fence {
        Fence {
            slot,
            generation,
            epoch,
            owner: cluster::keys::Process {
                name: self.node.config.node_name.clone(),
                incarnation: self.incarnation,
            }
            .to_string(),
        }
    }

    /// A slot's blocks of all pools, as prefixes.
    #[must_use]
    pub fn blocks(&self, slot: u8) -> Vec<String> {
        let share = tenants::Share::of_slot(slot, self.config.highest_slot());
        share
            .map(|share| self.node.registry.blocks(share))
            .unwrap_or_default()
            .into_iter()
            .flat_map(|block| block.prefixes)
            .map(|prefix| prefix.to_string())
            .collect()
    }

    /// Tells the log, the counters and those who watch.
    pub fn happened(&self, event: Event) {
        super::events::log(&event);
        self.metrics.event(&event);
        let _ = self.events.send(Arc::new(event));
    }

    /// Asks the core for something and waits for its answer.
    ///
    /// # Errors
    /// What the core answers, or that too many wait.
    pub async fn order(&self, order: cluster::Order) -> Result<String, String> {
        let id = self.next_order.fetch_add(1, Ordering::Relaxed);
        let (reply, answer) = oneshot::channel();
        {
            let mut orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
            orders.retain(|_, waiting| !waiting.is_closed());
            if orders.len() >= ORDERS_MAX {
                return Err("too many orders wait".to_owned());
            }
            orders.insert(id, reply);
        }
        self.pacemaker().input(Input::Order { id, order });
        answer
            .await
            .unwrap_or_else(|_| Err("the node is ending".to_owned()))
    }

    /// Answers an order.
    pub fn done(&self, id: u64, result: Result<String, String>) {
        let waiting = self
            .orders
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&id);
        if let Some(reply) = waiting {
            let _ = reply.send(result);
        }
    }
}
