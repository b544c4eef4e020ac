//! What a node stands on: its stores, its keys and its slots, which are its own or its cluster's.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use store::{Durability, Embedded, Store, StoreError};
use tenants::Registry;
use tokio::runtime::Handle;

use crate::cluster::{self, Prepared};
use crate::config::{self, Config};
use crate::generation::{self, NodeGenerations, Records, Start};
use crate::policy::Proposals;
use crate::recovery;
use crate::seal::Sealer;
use crate::slot::{SlotStart, Slots};
use crate::writes::{Counting, Writes};

/// What a node is built on.
pub struct Foundation {
    /// This start.
    pub start: Start,
    /// Who may connect.
    pub registry: Arc<Registry>,
    /// SA records.
    pub sa_store: Arc<dyn Store>,
    /// What is written to the stores.
    pub writes: Arc<Writes>,
    /// The slots; those that are there already are carried on before anything is heard.
    pub slots: Slots,
    /// The cluster that the node is to be part of.
    pub cluster: Option<Prepared>,
}

impl Foundation {
    /// Opens the stores and takes what has to be taken before the first packet. In a cluster that is when etcd answers,
    /// however long it takes.
    ///
    /// # Errors
    /// In words: which step failed and why.
    pub async fn lay(config: &Config, runtime: &Handle) -> anyhow::Result<Self> {
        match config.cluster.clone() {
            Some(section) => shared(config.clone(), section, runtime).await,
            None => alone(config, runtime).await,
        }
    }
}

async fn alone(config: &Config, runtime: &Handle) -> anyhow::Result<Foundation> {
    let sealer = Sealer::open_or_create(&config.seal_key_file())?;
    let writes = Arc::new(Writes::default());
    let open = |path: &Path, durability| -> Result<Arc<dyn Store>, StoreError> {
        let store = Arc::new(Embedded::open(path, durability)?);
        Ok(Counting::over(store, &writes))
    };
    let configuration = open(&config.configuration_store(), Durability::Full)?;
    let sa_store = open(&config.sa_store(), Durability::Normal)?;
    let start = generation::start(configuration.as_ref(), &config.state_directory).await?;
    if start.records != Records::Keep {
        tracing::warn!(why = ?start.records, "SA records of earlier starts are dropped");
        recovery::drop_all(sa_store.as_ref()).await?;
    }
    // It follows the store with a task: on the runtime, not on an arbiter.
    let open = Registry::open(
        Arc::clone(&configuration),
        Arc::new(sealer.clone()),
        Arc::new(Proposals),
    );
    let registry = runtime.spawn(open).await??;
    let slots = Slots::single();
    slots.begin(
        0,
        SlotStart {
            generation: start.count,
            prefix: String::new(),
            fence: None,
            sealer: Arc::new(sealer),
            generations: Arc::new(NodeGenerations::new(configuration, &config.state_directory)),
            numbered: false,
            share: None,
            checkpoint: Duration::from_secs(config.limits.checkpoint_secs.into()),
            records_queued: config.limits.records_queued as usize,
            logins_without_store: false,
        },
    );
    Ok(Foundation {
        start,
        registry,
        sa_store,
        writes,
        slots,
        cluster: None,
    })
}

async fn shared(config: Config, section: config::Cluster, runtime: &Handle) -> anyhow::Result<Foundation> {
    let addresses: Vec<_> = section
        .slots
        .iter()
        .flat_map(|slot| {
            slot.service_addresses()
                .into_iter()
                .map(|address| (address, slot.id))
        })
        .collect();
    // Everything of the store's works on the runtime.
    let preparing = runtime.spawn(async move {
        let prepared = cluster::prepare(&config, &section).await?;
        let open = || {
            Registry::open_shared(
                Arc::clone(&prepared.stores.data) as Arc<dyn Store>,
                Arc::clone(&prepared.sealer) as Arc<dyn tenants::Sealer>,
                Arc::new(Proposals),
            )
        };
        let registry = cluster::patiently(open, StoreError::is_retryable).await?;
        anyhow::Ok((prepared, registry))
    });
    let (prepared, registry) = preparing.await??;
    Ok(Foundation {
        // The generations of a cluster belong to its slots.
        start: Start {
            count: 0,
            generation: 0,
            records: Records::Keep,
        },
        registry,
        sa_store: Arc::clone(&prepared.stores.data) as Arc<dyn Store>,
        writes: Arc::clone(&prepared.stores.writes),
        slots: Slots::cluster(addresses),
        cluster: Some(prepared),
    })
}
