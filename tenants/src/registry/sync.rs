//! Reading the store, following it, and publishing what is new.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use futures::StreamExt;
use store::{Limits, Revision, Store, StoreError, WatchEvent, WatchStream};

use super::{ConfigChange, Registry};
use crate::object::{CONFIG, FENCE, Id, Stored, decode};
use crate::pool::{LEASES, Pool, Record};
use crate::snapshot::{Snapshot, States, set};

/// Time between tries to read the store again.
const RETRY: Duration = Duration::from_secs(1);
/// How long a change waits for the changes before it.
const CATCH_UP: Duration = Duration::from_secs(2);

/// The states, the revision that they hold at least, and the fence's.
pub(super) async fn load(store: &dyn Store) -> Result<(States, Revision, Option<Revision>), StoreError> {
    let (mut states, mut fence) = (States::new(), None);
    let (mut after, mut first) = (None::<String>, None);
    loop {
        let (page, revision) = store.range(CONFIG, after.as_deref(), Limits::RANGE).await?;
        // Later pages may hold newer entries: their events come again and change nothing.
        first.get_or_insert(revision);
        let Some((last, _)) = page.last() else { break };
        after = Some(last.clone());
        for (key, entry) in &page {
            if key == FENCE {
                fence = Some(entry.revision);
            } else if let Some(stored) = read(key, &entry.value, entry.revision) {
                set(&mut states, &stored.object.id(), Some(stored));
            }
        }
    }
    Ok((states, first.unwrap_or(0), fence))
}

/// A stored resource; `None`, with an error in the log, when it cannot be read.
fn read(key: &str, value: &[u8], revision: Revision) -> Option<Stored> {
    let Some(id) = Id::from_key(key) else {
        tracing::error!(
            key,
            "a key of the configuration is not known: was it written by a newer version?"
        );
        return None;
    };
    decode(&id, value, revision)
        .map_err(|error| tracing::error!(%error, "a resource is left out"))
        .ok()
}

/// Follows the store until the registry is gone.
pub(super) async fn follow(registry: &Arc<Registry>) -> Result<(), StoreError> {
    let next = registry.snapshot.load().revision + 1;
    let stream = registry.store.watch(CONFIG, Some(next)).await?;
    tokio::spawn(run(Arc::downgrade(registry), stream));
    Ok(())
}

async fn run(registry: Weak<Registry>, mut stream: WatchStream) {
    loop {
        match stream.next().await {
            Some(Ok(event)) => {
                let Some(registry) = registry.upgrade() else {
                    return;
                };
                registry.take_event(event);
            }
            Some(Err(error)) => tracing::info!(%error, "the configuration is read again"),
            None => {
                let Some(again) = reload(&registry).await else {
                    return;
                };
                stream = again;
            }
        }
    }
}

/// Reads everything again and watches from there; tries until it succeeds. `None` when the registry is gone.
async fn reload(registry: &Weak<Registry>) -> Option<WatchStream> {
    loop {
        let registry = registry.upgrade()?;
        match reload_once(&registry).await {
            Ok(stream) => return Some(stream),
            Err(error) => tracing::warn!(%error, "the configuration cannot be read, it stays as it was"),
        }
        drop(registry);
        tokio::time::sleep(RETRY).await;
    }
}

async fn reload_once(registry: &Registry) -> Result<WatchStream, StoreError> {
    // What is listed from here on holds at least what is known already.
    let known = registry.snapshot.load_full();
    let (states, revision, fence) = load(&*registry.store).await?;
    if registry.shared && (fence < known.fence || revision < known.revision) {
        // A change of ours that is on its way belongs to the store as it was.
        let _writing = registry.writing.lock().await;
        registry.store_went_back(states, revision, fence).await?;
    } else {
        registry.replace(states, revision, fence);
    }
    registry.store.watch(CONFIG, Some(revision + 1)).await
}

impl Registry {
    /// Waits until the last stored change, whoever made it, is known here; at most [`CATCH_UP`], for the watch may be
    /// interrupted.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(super) async fn catch_up(&self) -> Result<(), StoreError> {
        let stored = self.store.get(FENCE).await?.map(|entry| entry.revision);
        let known = async {
            loop {
                let mut installed = pin!(self.installed.notified());
                // From here on no notification is missed.
                installed.as_mut().enable();
                if self.snapshot.load().fence >= stored {
                    return;
                }
                installed.await;
            }
        };
        if tokio::time::timeout(CATCH_UP, known).await.is_err() {
            tracing::warn!("changes made by others are late");
        }
        Ok(())
    }

    /// Takes one event in, unless it is known already.
    fn take_event(&self, event: WatchEvent) {
        let fence = (event.key == FENCE).then_some(event.revision);
        let mut changed = Vec::new();
        if fence.is_none() {
            let Some(id) = Id::from_key(&event.key) else {
                return;
            };
            let stored = match &event.value {
                None => None,
                Some(value) => match read(&event.key, value, event.revision) {
                    Some(stored) => Some(stored),
                    None => return,
                },
            };
            changed.push((id, stored));
        }
        self.publish(changed, event.revision, fence, false);
    }

    /// Publishes changes of one revision. `ours`: written by us, with everything before it known.
    pub(super) fn publish(
        &self,
        changed: Vec<(Id, Option<Stored>)>,
        revision: Revision,
        fence: Option<Revision>,
        ours: bool,
    ) {
        let _one = self.publishing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.snapshot.load_full();
        // The events of one revision come one by one, in no order that a store has to keep: one that is known already
        // changes nothing.
        if revision < before.revision {
            return;
        }
        let known = changed
            .iter()
            .all(|(id, stored)| crate::snapshot::get(&before.states, id) == *stored);
        if known && revision == before.revision && before.fence == Some(revision) {
            return;
        }
        let mut states = before.states.clone();
        for (id, stored) in &changed {
            set(&mut states, id, stored.clone());
        }
        let complete = ours || fence.is_some();
        let ids: Vec<Id> = changed.into_iter().map(|(id, _)| id).collect();
        let reached = if complete { revision } else { before.revision };
        self.install(
            Snapshot::new(
                states,
                reached,
                fence.or(before.fence),
                Some(&before),
                &*self.sealer,
            ),
            ids,
        );
    }

    /// Publishes a whole new state, unless a newer one is known.
    fn replace(&self, states: States, revision: Revision, fence: Option<Revision>) {
        let _one = self.publishing.lock().unwrap_or_else(PoisonError::into_inner);
        if revision >= self.snapshot.load().revision {
            self.install_all(states, revision, fence);
        }
    }

    /// Publishes a whole new state although what is known has a higher revision: of a store that went back.
    pub(super) fn replace_for_good(&self, states: States, revision: Revision, fence: Option<Revision>) {
        let _one = self.publishing.lock().unwrap_or_else(PoisonError::into_inner);
        self.install_all(states, revision, fence);
    }

    fn install_all(&self, states: States, revision: Revision, fence: Option<Revision>) {
        let before = self.snapshot.load_full();
        let names: BTreeSet<&String> = before.states.keys().chain(states.keys()).collect();
        let mut ids = Vec::new();
        let mut merged = states.clone();
        for name in names {
            let (old, new) = (before.states.get(name), states.get(name));
            if old == new {
                // The same object: views are taken over.
                if let Some(old) = old {
                    merged.insert(name.clone(), Arc::clone(old));
                }
            } else {
                ids.push(Id::new(crate::object::Kind::Tenant, name, name));
                ids.extend(old.into_iter().chain(new).flat_map(|state| state.ids()));
            }
        }
        ids.sort();
        ids.dedup();
        self.install(
            Snapshot::new(merged, revision, fence, Some(&before), &*self.sealer),
            ids,
        );
    }

    fn install(&self, snapshot: Snapshot, ids: Vec<Id>) {
        let revision = snapshot.revision;
        self.update_pools(&snapshot);
        self.snapshot.store(Arc::new(snapshot));
        self.installed.notify_waiters();
        if !ids.is_empty() {
            // No reader is no error.
            let _ = self.changes.send(Arc::new(ConfigChange { revision, ids }));
        }
    }

    /// Makes the pools be those of a snapshot.
    pub(super) fn update_pools(&self, snapshot: &Snapshot) {
        self.pools.retain(|(tenant, name), _| {
            snapshot
                .states
                .get(tenant)
                .is_some_and(|state| state.pools.contains_key(name))
        });
        for state in snapshot.states.values() {
            for (config, _) in state.pools.values() {
                let key = (config.tenant.clone(), config.name.clone());
                match self.pools.get(&key) {
                    Some(pool) => pool.reconfigure(config),
                    None => {
                        self.pools.insert(
                            key,
                            Arc::new(Pool::new(config, Arc::clone(&self.store), self.shared)),
                        );
                    }
                }
            }
        }
    }

    /// Gives the stored leases to their pools.
    pub(super) async fn load_leases(&self) -> Result<(), StoreError> {
        let mut after = None::<String>;
        loop {
            let (page, _) = self.store.range(LEASES, after.as_deref(), Limits::RANGE).await?;
            let Some((last, _)) = page.last() else {
                return Ok(());
            };
            after = Some(last.clone());
            for (key, entry) in &page {
                let address = key.strip_prefix(LEASES).and_then(|rest| rest.split_once('/'));
                let address = address.and_then(|(tenant, ip)| Some((tenant, ip.parse::<IpAddr>().ok()?)));
                let record = serde_json::from_slice::<Record>(&entry.value);
                match (address, record) {
                    (Some((tenant, address)), Ok(record)) => {
                        // A lease of a pool that is gone is learned when its address is needed.
                        if let Some(pool) = self.pool(tenant, &record.pool) {
                            pool.load(address, &record, entry.revision);
                        }
                    }
                    _ => tracing::warn!(key, "an address lease cannot be read"),
                }
            }
        }
    }
}
