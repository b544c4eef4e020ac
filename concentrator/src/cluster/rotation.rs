//! Rotation of keys: new data keys for slots, and the same keys wrapped by another cluster key.
//!
//! ```text
//!  new data key beside the old ─► wrapped, durable ─► every record written again ─► old key retired, wrapped, durable
//! ```
//! A node that takes the slot in between finds both keys.

use std::sync::Arc;
use std::time::Duration;

use api::v1;
use cluster::Fence;
use cluster::vault::ClusterKeys;
use crypto::SystemRandom;
use store::{Store as _, Txn};
use tenants::BackendError;

use super::secrets::{self, SlotSealer};
use super::shared::Shared;
use crate::recovery;
use crate::slot::Slot;

/// How long the records of a slot may take to be written again.
const PATIENCE: Duration = Duration::from_secs(60);

/// Carries a request out.
///
/// # Errors
/// A key file that is wrong, a slot of another node, a store that refuses.
pub async fn rotate(
    shared: &Arc<Shared>,
    request: &v1::RotateKeysRequest,
) -> Result<v1::RotateKeysResponse, BackendError> {
    let keys = read_again(shared).await?;
    let newest = keys.ids().next().map(|id| id.to_string()).unwrap_or_default();
    wrap_root(shared, &keys).await?;
    let slots = wanted(shared, &request.slots)?;
    let mut rotated = Vec::new();
    for slot in slots {
        let Some(sealer) = shared.sealers.get(&slot.id).map(|sealer| Arc::clone(&sealer)) else {
            continue;
        };
        let records = if request.wrap_only {
            write(shared, &keys, slot.id, &sealer).await?;
            0
        } else {
            renew(shared, &keys, &slot, &sealer).await?
        };
        rotated.push(v1::RotatedKey {
            slot: slot.id.into(),
            data_key: sealer.with(cluster::vault::Vault::newest),
            records,
        });
    }
    Ok(v1::RotateKeysResponse {
        slots: rotated,
        cluster_key: newest,
    })
}

/// Reads the key file again: what is wrapped from here on is wrapped by its newest key.
///
/// # Errors
/// The file is wrong; the keys stay as they were.
pub async fn read_again(shared: &Shared) -> Result<Arc<ClusterKeys>, BackendError> {
    let path = shared.config.key_file.clone();
    let read = tokio::task::spawn_blocking(move || secrets::read_keys(&path))
        .await
        .map_err(|error| BackendError::Unavailable(error.to_string()))?;
    let keys = Arc::new(read.map_err(|error| BackendError::Invalid(error.to_string()))?);
    shared.keys.store(Arc::clone(&keys));
    Ok(keys)
}

/// The slots that are meant: those of this node, or the named ones, which have to be here.
fn wanted(shared: &Shared, ids: &[u32]) -> Result<Vec<Arc<Slot>>, BackendError> {
    if ids.is_empty() {
        return Ok(shared.node.slots.all());
    }
    ids.iter()
        .map(|id| {
            u8::try_from(*id)
                .ok()
                .and_then(|id| shared.node.slots.get(id))
                .ok_or_else(|| BackendError::Invalid(format!("slot {id} is not served by this node")))
        })
        .collect()
}

/// Wraps the root secret by the newest cluster key, unless it is.
async fn wrap_root(shared: &Shared, keys: &ClusterKeys) -> Result<(), BackendError> {
    let store = &shared.stores.control;
    let stored = store.get(cluster::keys::ROOT).await.map_err(unavailable)?;
    if stored.is_some_and(|entry| keys.is_current(&entry.value)) {
        return Ok(());
    }
    let wrapped = shared.root.wrap(keys).map_err(unavailable)?;
    store
        .txn(Txn::new().put(cluster::keys::ROOT, wrapped))
        .await
        .map_err(unavailable)?;
    Ok(())
}

/// A new data key, every record under it, then the old ones away. Returns how many sessions were written.
async fn renew(
    shared: &Shared,
    keys: &ClusterKeys,
    slot: &Arc<Slot>,
    sealer: &SlotSealer,
) -> Result<u64, BackendError> {
    // Nothing is sealed under the new key before it is durable.
    let (next, wrapped) = sealer
        .with(|vault| {
            let mut next = cluster::vault::Vault::unwrap(keys, &vault.wrap(keys)?, slot.id)?;
            next.rotate(&mut SystemRandom)?;
            let wrapped = next.wrap(keys)?;
            Ok::<_, cluster::vault::VaultError>((next, wrapped))
        })
        .map_err(unavailable)?;
    put(shared, slot.id, wrapped).await?;
    sealer.change(|vault| *vault = next);
    // Otherwise the old keys stay, and the order can be given again.
    let sessions = recovery::rewrite(slot).await.map_err(unavailable)? as u64;
    tokio::time::timeout(PATIENCE, slot.records.flush())
        .await
        .map_err(|_| BackendError::Unavailable("the records are not written in time".to_owned()))?
        .map_err(unavailable)?;
    sealer.change(cluster::vault::Vault::retire_old);
    write(shared, keys, slot.id, sealer).await?;
    Ok(sessions)
}

async fn write(
    shared: &Shared,
    keys: &ClusterKeys,
    slot: u8,
    sealer: &SlotSealer,
) -> Result<(), BackendError> {
    let wrapped = sealer.with(|vault| vault.wrap(keys)).map_err(unavailable)?;
    put(shared, slot, wrapped).await
}

async fn put(shared: &Shared, slot: u8, wrapped: Vec<u8>) -> Result<(), BackendError> {
    let lost = || BackendError::Unavailable(format!("slot {slot} is another node's"));
    let fence: Fence = shared.fences.get(slot).ok_or_else(lost)?;
    let txn = fence
        .apply(Txn::new())
        .put(cluster::keys::data_keys(slot), wrapped);
    let written = shared.stores.control.txn(txn).await.map_err(unavailable)?;
    if written.committed { Ok(()) } else { Err(lost()) }
}

fn unavailable(error: impl std::fmt::Display) -> BackendError {
    BackendError::Unavailable(error.to_string())
}
