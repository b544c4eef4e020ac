//! The registry: the whole configuration in memory over the store, and the daemon's questions answered from it.
//!
//! **Invariant:** what [`Registry`] answers is what the store had at one revision, with every change before it. A
//! change goes to the store first, compared with the fence that every change writes, and is then published; changes of
//! other writers come by a watch.

mod back;
mod change;
mod shares;
mod sync;

use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use crypto::Secret;
use crypto::cert::TrustAnchors;
use dashmap::DashMap;
use store::{Store, StoreError};
use tokio::sync::{Notify, broadcast};

pub use change::{Action, Mutation, Outcome, RegistryError};
pub use shares::PoolBlock;

use crate::audit::{self, Trail};
use crate::identity::PeerIdentity;
use crate::material::{LocalKey, Material, MaterialError};
use crate::model::{Auth, Connection, Tenant};
use crate::object::{Id, Kind, Stored};
use crate::pool::Pool;
use crate::proposal::ProposalCheck;
use crate::resolve::{Query, Resolution, resolve};
use crate::seal::Sealer;
use crate::snapshot::{self, Snapshot, TenantState};

/// Changes that a reader of [`Registry::changes`] may fall behind.
const CHANGES_BACKLOG: usize = 256;

/// What a change touched. A reader that lags looks at everything again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigChange {
    /// The store's revision of the change.
    pub revision: u64,
    /// Resources written or deleted.
    pub ids: Vec<Id>,
}

/// The configuration, the pools and the audit trail of an installation.
pub struct Registry {
    store: Arc<dyn Store>,
    sealer: Arc<dyn Sealer>,
    proposals: Arc<dyn ProposalCheck>,
    snapshot: ArcSwap<Snapshot>,
    /// One change of ours at a time.
    writing: tokio::sync::Mutex<()>,
    /// One publication at a time.
    publishing: Mutex<()>,
    /// A snapshot has been published.
    installed: Notify,
    pools: DashMap<(String, String), Arc<Pool>>,
    /// With the nodes of a cluster.
    shared: bool,
    trail: Trail,
    changes: broadcast::Sender<Arc<ConfigChange>>,
}

impl Registry {
    /// Reads everything from the store and follows it from there with a task on the present tokio runtime.
    ///
    /// # Errors
    /// When the store cannot be read. A single resource that cannot be read is left out, with an error in the log.
    pub async fn open(
        store: Arc<dyn Store>,
        sealer: Arc<dyn Sealer>,
        proposals: Arc<dyn ProposalCheck>,
    ) -> Result<Arc<Self>, StoreError> {
        Self::open_as(store, sealer, proposals, false).await
    }

    /// Like [`Registry::open`] for a node of a cluster: several have the same store. Address leases are read share by
    /// share ([`Registry::refresh_share`]), and the audit trail is that of all nodes. The sealer has to be the same on
    /// every node.
    ///
    /// # Errors
    /// As for [`Registry::open`].
    pub async fn open_shared(
        store: Arc<dyn Store>,
        sealer: Arc<dyn Sealer>,
        proposals: Arc<dyn ProposalCheck>,
    ) -> Result<Arc<Self>, StoreError> {
        Self::open_as(store, sealer, proposals, true).await
    }

    async fn open_as(
        store: Arc<dyn Store>,
        sealer: Arc<dyn Sealer>,
        proposals: Arc<dyn ProposalCheck>,
        shared: bool,
    ) -> Result<Arc<Self>, StoreError> {
        let (states, revision, fence) = sync::load(&*store).await?;
        let trail = Trail::load(&*store).await?;
        let snapshot = Snapshot::new(states, revision, fence, None, &*sealer);
        let registry = Arc::new(Self {
            snapshot: ArcSwap::from_pointee(snapshot),
            store,
            sealer,
            proposals,
            writing: tokio::sync::Mutex::new(()),
            publishing: Mutex::new(()),
            installed: Notify::new(),
            pools: DashMap::new(),
            shared,
            trail,
            changes: broadcast::channel(CHANGES_BACKLOG).0,
        });
        registry.update_pools(&registry.snapshot.load());
        if shared {
            shares::follow_trail(&registry);
        } else {
            registry.load_leases().await?;
        }
        sync::follow(&registry).await?;
        Ok(registry)
    }

    /// Finds the connection of a login.
    pub fn resolve(&self, query: &Query<'_>) -> Resolution {
        resolve(&self.snapshot.load(), query)
    }

    /// A tenant.
    pub fn tenant(&self, name: &str) -> Option<Arc<Tenant>> {
        self.snapshot
            .load()
            .views
            .get(name)
            .map(|view| Arc::clone(&view.tenant))
    }

    /// Every tenant, in the order of the names.
    pub fn tenants(&self) -> Vec<Arc<Tenant>> {
        let snapshot = self.snapshot.load();
        snapshot
            .states
            .values()
            .filter_map(|state| state.tenant.as_ref())
            .map(|(tenant, _)| Arc::clone(tenant))
            .collect()
    }

    /// A tenant with everything in it, as stored.
    pub fn tenant_state(&self, name: &str) -> Option<Arc<TenantState>> {
        self.snapshot.load().states.get(name).cloned()
    }

    /// A connection.
    pub fn connection(&self, tenant: &str, name: &str) -> Option<Arc<Connection>> {
        let snapshot = self.snapshot.load();
        snapshot
            .states
            .get(tenant)?
            .connections
            .get(name)
            .map(|(connection, _)| Arc::clone(connection))
    }

    /// A resource with its times and revision.
    pub fn get(&self, id: &Id) -> Option<Stored> {
        snapshot::get(&self.snapshot.load().states, id)
    }

    /// Names of all resources of a kind, of one tenant or of all, in order, beginning after `after`.
    pub fn list(&self, kind: Kind, tenant: Option<&str>, after: Option<&Id>) -> Vec<Id> {
        let snapshot = self.snapshot.load();
        let of = |state: &TenantState, name: &str| -> Vec<Id> {
            match kind {
                Kind::Tenant => state.tenant.iter().map(|_| Id::new(kind, name, name)).collect(),
                Kind::Connection => state
                    .connections
                    .keys()
                    .map(|key| Id::new(kind, name, key))
                    .collect(),
                Kind::AddressPool => state.pools.keys().map(|key| Id::new(kind, name, key)).collect(),
                Kind::Credential => state
                    .credentials
                    .keys()
                    .map(|key| Id::new(kind, name, key))
                    .collect(),
            }
        };
        snapshot
            .states
            .iter()
            .filter(|(name, _)| tenant.is_none_or(|tenant| tenant == name.as_str()))
            .filter(|(name, _)| after.is_none_or(|after| **name >= after.tenant))
            .flat_map(|(name, state)| of(state, name))
            .filter(|id| after.is_none_or(|after| id > after))
            .collect()
    }

    /// The pre-shared key of an identity for a connection. When there is none, verify with
    /// [`Registry::decoy_psk`]: to the peer an unknown identity has to look like a wrong key.
    pub fn psk(&self, connection: &Connection, peer: &PeerIdentity) -> Option<Secret> {
        let Auth::Psk { credentials } = &connection.auth else {
            return None;
        };
        let snapshot = self.snapshot.load();
        snapshot
            .views
            .get(&connection.tenant)?
            .psks
            .find(peer, credentials)
            .cloned()
    }

    /// A key that nobody has, always the same for an identity: a peer that is not known fails with it as
    /// one with a wrong key does.
    pub fn decoy_psk(&self, peer: &PeerIdentity) -> Secret {
        Secret::from(self.sealer.digest("decoy", &peer.data))
    }

    /// The key and chain that the gateway signs with for a connection.
    ///
    /// # Errors
    /// When the credential is missing or cannot be used.
    pub fn local_key(&self, connection: &Connection) -> Result<Arc<LocalKey>, MaterialError> {
        let name = match &connection.auth {
            Auth::Certificate { certificate, .. } => certificate.clone(),
            Auth::Psk { .. } => String::new(),
        };
        let tenant = connection.tenant.clone();
        let snapshot = self.snapshot.load();
        match snapshot
            .views
            .get(&tenant)
            .and_then(|view| view.materials.get(&name))
            .map(|material| &**material)
        {
            Some(Material::Key(key)) => Ok(Arc::clone(key)),
            Some(Material::Unusable(reason)) => Err(MaterialError::Unusable {
                tenant,
                name,
                reason: reason.clone(),
            }),
            Some(Material::Psk { .. } | Material::Authorities(_)) | None => {
                Err(MaterialError::Missing { tenant, name })
            }
        }
    }

    /// The authorities that peers of a connection have to come from; empty for pre-shared keys.
    pub fn anchors(&self, connection: &Connection) -> Arc<TrustAnchors> {
        let snapshot = self.snapshot.load();
        let view = snapshot.views.get(&connection.tenant);
        view.and_then(|view| view.anchors.get(&connection.name))
            .cloned()
            .unwrap_or_default()
    }

    /// A pool.
    pub fn pool(&self, tenant: &str, name: &str) -> Option<Arc<Pool>> {
        self.pools
            .get(&(tenant.to_owned(), name.to_owned()))
            .map(|pool| Arc::clone(&pool))
    }

    /// The pool of a tenant that an address lies in.
    pub fn pool_of(&self, tenant: &str, address: IpAddr) -> Option<Arc<Pool>> {
        let state = self.tenant_state(tenant)?;
        let (pool, _) = state
            .pools
            .values()
            .find(|(pool, _)| pool.range.contains(address))?;
        self.pool(tenant, &pool.name)
    }

    /// Frees addresses that were in use before the start and that no restored session has claimed. To be called once,
    /// after the sessions are restored. Returns how many.
    ///
    /// # Errors
    /// When the store cannot write it down; they are free all the same.
    pub async fn sweep_unclaimed(&self) -> Result<usize, crate::pool::PoolError> {
        let pools: Vec<Arc<Pool>> = self.pools.iter().map(|pool| Arc::clone(pool.value())).collect();
        let mut swept = 0;
        for pool in pools {
            swept += pool.sweep_unclaimed().await?;
        }
        Ok(swept)
    }

    /// What changes from here on.
    pub fn changes(&self) -> broadcast::Receiver<Arc<ConfigChange>> {
        self.changes.subscribe()
    }

    /// Audit records that `wanted` takes, newest first, with numbers below `before`, at most `limit`.
    pub fn audit(
        &self,
        before: Option<u64>,
        limit: usize,
        wanted: impl Fn(&audit::Record) -> bool,
    ) -> Vec<Arc<audit::Record>> {
        self.trail.list(before, limit, wanted)
    }
}

#[cfg(test)]
mod tests;
