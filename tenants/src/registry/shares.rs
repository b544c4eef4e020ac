//! What a registry does that has its store together with the other nodes of a cluster.

use std::sync::{Arc, Weak};
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use ipnet::IpNet;
use store::{Change, StoreError, Txn};

use super::Registry;
use crate::audit::AUDIT;
use crate::pool::{Pool, PoolError, Share};
use crate::range::AddressRange;

/// Pools whose leases are read at the same time.
const READERS: usize = 16;
/// The audit trail is listed again at least so often.
const TRAIL_RELIST: Duration = Duration::from_secs(600);

/// Before the trail is followed again.
const PAUSE: Duration = Duration::from_secs(1);

/// A share's part of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolBlock {
    /// The pool's tenant.
    pub tenant: String,
    /// The pool's name.
    pub pool: String,
    /// The addresses that are handed out.
    pub range: AddressRange,
    /// What to route to the share's owner.
    pub prefixes: Vec<IpNet>,
}

impl Registry {
    /// The share's part of every pool, in the order of tenants and pools. Pools that are too small for it are left out.
    pub fn blocks(&self, share: Share) -> Vec<PoolBlock> {
        let snapshot = self.snapshot.load();
        let pools = snapshot.states.values().flat_map(|state| state.pools.values());
        let block = |range: &AddressRange| Some((share.block(range)?, share.prefixes(range)));
        pools
            .filter_map(|(config, _)| {
                let (range, prefixes) = block(&config.range)?;
                Some(PoolBlock {
                    tenant: config.tenant.clone(),
                    pool: config.name.clone(),
                    range,
                    prefixes,
                })
            })
            .collect()
    }

    pub(super) fn all_pools(&self) -> Vec<Arc<Pool>> {
        self.pools.iter().map(|pool| Arc::clone(pool.value())).collect()
    }

    /// Forgets the leases of a share: to be called when the share is lost, and before the sessions of one that was
    /// taken over claim their addresses.
    pub fn forget_share(&self, share: Share) {
        for pool in self.all_pools() {
            pool.forget_share(share);
        }
    }

    /// Reads the leases of a share from the store: addresses that the former owner handed out or took back. Before
    /// that is done nothing is handed out of a pool's share; what is asked for meanwhile waits for its pool. Sessions
    /// may claim their addresses before, meanwhile and after. Returns how many leases there are.
    ///
    /// # Errors
    /// When the store cannot be read: to be tried again; each pool's leases are read at the latest when an address
    /// is asked for.
    pub async fn refresh_share(&self, share: Share) -> Result<usize, StoreError> {
        let reads = self
            .all_pools()
            .into_iter()
            .map(|pool| async move { pool.refresh(share).await });
        futures::stream::iter(reads)
            .buffer_unordered(READERS)
            .try_fold(0, |sum, count| async move { Ok(sum + count) })
            .await
    }

    /// Frees the addresses of a share that the former owner's sessions had and that no session has claimed: to be
    /// called once all sessions of the slot are restored and [`Registry::refresh_share`] has succeeded. Written only
    /// while the comparisons of the `fence` hold. Returns how many.
    ///
    /// # Errors
    /// When the store cannot write it down; they are free all the same.
    pub async fn sweep_share(&self, share: Share, fence: &Txn) -> Result<usize, PoolError> {
        let mut swept = 0;
        for pool in self.all_pools() {
            swept += pool.sweep_share(share, fence).await?;
        }
        Ok(swept)
    }
}

/// Takes in the audit records of other nodes until the registry is gone.
pub(super) fn follow_trail(registry: &Arc<Registry>) {
    tokio::spawn(run(Arc::downgrade(registry)));
}

async fn run(registry: Weak<Registry>) {
    while let Some(store) = registry.upgrade().map(|registry| Arc::clone(&registry.store)) {
        let mut changes = store::follow(store, AUDIT, Some(TRAIL_RELIST));
        while let Some(change) = changes.next().await {
            let Some(registry) = registry.upgrade() else {
                return;
            };
            if let Change::Event(event) = change {
                registry.trail.take_event(&event.key, event.value.as_deref());
            }
        }
        // The store went back in time: it is followed anew.
        tokio::time::sleep(PAUSE).await;
    }
}
