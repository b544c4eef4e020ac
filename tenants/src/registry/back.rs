//! A shared store that went back in time: restored from a backup, or wiped.
//!
//! What it has is taken, although its revisions are lower than those that are known. A store without any configuration
//! is written again from what is in memory, so that a wiped etcd costs nobody a tunnel: whichever node is first
//! writes all of it, and the fence last, so that half of a configuration is nobody's.

use std::collections::BTreeMap;

use store::{Expect, Revision, StoreError, Txn};

use super::Registry;
use crate::object::{FENCE, Id, Kind, encode};
use crate::snapshot::{States, get};

/// Resources and octets of one transaction, below the defaults of etcd's limits.
const STEPS: usize = 40;
const OCTETS: usize = 400 << 10;

impl Registry {
    /// Takes a store over whose revisions begin again. `writing` has to be held.
    ///
    /// # Errors
    /// When there was no configuration and it could not be written, or has just been: it is to be read again.
    pub(super) async fn store_went_back(
        &self,
        states: States,
        revision: Revision,
        fence: Option<Revision>,
    ) -> Result<(), StoreError> {
        let known = self.snapshot.load_full();
        if fence.is_some() || known.fence.is_none() {
            tracing::warn!("the store went back in time: its configuration is taken as it is now");
            for pool in self.all_pools() {
                pool.store_went_back();
            }
            self.replace_for_good(states, revision, fence);
            return Ok(());
        }
        tracing::error!(
            "the store has lost the configuration: it is written again from what this node knows"
        );
        self.write_all(&known.states).await?;
        Err(StoreError::Unavailable {
            reason: "the configuration has been written again".to_owned(),
        })
    }

    /// Writes every resource into a store that has no fence, and the fence in the end.
    async fn write_all(&self, states: &States) -> Result<(), StoreError> {
        let failed = |error: serde_json::Error| StoreError::Unavailable {
            reason: error.to_string(),
        };
        let mut wanted = BTreeMap::new();
        let tenants = states.keys().map(|name| Id::new(Kind::Tenant, name, name));
        let owned = states.values().flat_map(|state| state.ids());
        for id in tenants.chain(owned) {
            if let Some(stored) = get(states, &id) {
                let value = encode(&stored.object, stored.meta.created, stored.meta.updated);
                wanted.insert(id.key(), value.map_err(failed)?);
            }
        }
        let mut txn = Txn::new().when(FENCE, Expect::Absent);
        let mut octets = 0;
        for (key, value) in wanted {
            octets += key.len() + value.len();
            if txn.then.len() >= STEPS || (octets > OCTETS && !txn.then.is_empty()) {
                octets = key.len() + value.len();
                let full = std::mem::replace(&mut txn, Txn::new().when(FENCE, Expect::Absent));
                if !self.store.txn(full).await?.committed {
                    // Another node was faster, or somebody restored a backup.
                    return Ok(());
                }
            }
            txn = txn.put(key, value);
        }
        self.store.txn(txn.put(FENCE, "")).await.map(drop)
    }
}

#[cfg(test)]
mod tests;
