//! What the core follows in the store: told from the beginning, then as it changes, and compared with a list again and
//! again, since watches may lose what they should tell.
//!
//! ```text
//!  watches opened ─► Listing ─► everything ─► Synced ─► changes… ─┬─► every 3 s or after a watch ended: the difference
//!                       ▲                                         │
//!                       └── Relist, or the store went back ◄──────┘
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use cluster::keys::Path;
use cluster::{Input, keys};
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use store::{Limits, Revision, Store, StoreError, WatchEvent};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::pacemaker::Pacemaker;
use super::secrets;
use super::shared::Shared;

/// Between two lists while all is well.
const EVERY: Duration = Duration::from_secs(3);
/// Between two tries when it is not.
const PAUSE: Duration = Duration::from_millis(200);
/// Keys asked for at the same time.
const ABREAST: usize = 32;

/// What is followed.
pub struct Hints {
    /// The store.
    pub store: Arc<dyn Store>,
    /// Who is told.
    pub pacemaker: Pacemaker,
    /// The slots of the table.
    pub slots: Vec<u8>,
    /// Rung when everything is to be told again.
    pub again: Arc<Notify>,
    /// What all share.
    pub shared: Arc<Shared>,
}

/// Why a round ends.
enum Stop {
    /// The core wants everything again.
    Relist,
    /// The store is older than it was.
    WentBack,
}

impl Hints {
    /// Follows for ever.
    pub async fn run(self) {
        loop {
            match self.follow().await {
                Stop::Relist => {}
                Stop::WentBack => {
                    self.pacemaker.input(Input::WentBack);
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    async fn follow(&self) -> Stop {
        let mut told = Told::default();
        let mut begun = false;
        let mut stale = false;
        loop {
            // Watches first, so that nothing falls between them and the list.
            let watches = match self.watches().await {
                Ok(watches) => watches,
                Err(error) => {
                    if let Some(stop) = self.failed(&error, &mut stale) {
                        return stop;
                    }
                    if self.pause().await {
                        return Stop::Relist;
                    }
                    continue;
                }
            };
            let mut watches = watches;
            loop {
                match self.list().await {
                    Ok((found, revision)) => {
                        if !begun {
                            begun = true;
                            self.keep_root().await;
                            self.pacemaker.input(Input::Listing);
                        }
                        stale = false;
                        self.difference(found, revision, &mut told);
                        self.pacemaker.input(Input::Synced(revision));
                    }
                    Err(error) => {
                        if let Some(stop) = self.failed(&error, &mut stale) {
                            return stop;
                        }
                        if self.pause().await {
                            return Stop::Relist;
                        }
                        continue;
                    }
                }
                let until = Instant::now() + EVERY;
                let ended = loop {
                    tokio::select! {
                        () = self.again.notified() => return Stop::Relist,
                        () = tokio::time::sleep_until(until) => break false,
                        event = watches.next() => match event {
                            Some(Ok(event)) => {
                                self.apply(event, &mut told);
                                self.confirm(&mut told).await;
                            }
                            Some(Err(StoreError::WentBack { .. })) => return Stop::WentBack,
                            Some(Err(error)) => {
                                tracing::info!(%error, "a watch ended, listing again");
                                break true;
                            }
                            None => break true,
                        },
                    }
                };
                if ended {
                    break;
                }
            }
        }
    }

    /// Says so when the store cannot be followed.
    fn failed(&self, error: &StoreError, stale: &mut bool) -> Option<Stop> {
        if matches!(error, StoreError::WentBack { .. }) {
            return Some(Stop::WentBack);
        }
        if !*stale {
            *stale = true;
            self.pacemaker.input(Input::Stale);
        }
        None
    }

    /// A store that was wiped has lost the root secret as well, without which no node can start.
    async fn keep_root(&self) {
        let keys = self.shared.keys.load_full();
        if let Err(error) = secrets::keep_root(&*self.store, &self.shared.root, &keys).await {
            tracing::warn!(%error, "the root secret cannot be kept in the store");
        }
    }

    /// True when everything is wanted again meanwhile.
    async fn pause(&self) -> bool {
        tokio::select! {
            () = self.again.notified() => true,
            () = tokio::time::sleep(PAUSE) => false,
        }
    }

    /// The single keys of the slots: in the order in which they have to be read. A generation that is read after an
    /// owner is not older than it.
    fn single(&self) -> [Vec<String>; 2] {
        let owners = self
            .slots
            .iter()
            .flat_map(|slot| [keys::owner(*slot), keys::wish(*slot)])
            .chain([keys::EPOCH.to_owned()]);
        let generations = self.slots.iter().map(|slot| keys::generation(*slot));
        [owners.collect(), generations.collect()]
    }

    async fn watches(&self) -> Result<BoxStream<'static, Result<WatchEvent, StoreError>>, StoreError> {
        let prefixes: Vec<String> = self
            .single()
            .into_iter()
            .flatten()
            .chain([keys::NODES.to_owned(), keys::MEMBERS.to_owned()])
            .collect();
        let opened = stream::iter(prefixes.into_iter().map(|prefix| {
            let store = Arc::clone(&self.store);
            async move {
                let watch = store.watch(&prefix, None).await?;
                // An ended watch has to show.
                let end = stream::once(async { Err(StoreError::Lagged { missed: 0 }) });
                Ok::<_, StoreError>(watch.chain(end).boxed())
            }
        }))
        .buffer_unordered(ABREAST)
        .collect::<Vec<_>>()
        .await;
        let watches: Result<Vec<_>, _> = opened.into_iter().collect();
        Ok(stream::select_all(watches?).boxed())
    }

    /// Everything that is followed, and a revision up to which that is true.
    async fn list(&self) -> Result<(BTreeMap<String, (Revision, Vec<u8>)>, Revision), StoreError> {
        let mut found = BTreeMap::new();
        let mut first: Option<Revision> = None;
        for prefix in [keys::NODES, keys::MEMBERS] {
            let (page, revision) = self.store.range(prefix, None, Limits::RANGE).await?;
            first.get_or_insert(revision);
            found.extend(
                page.into_iter()
                    .map(|(key, entry)| (key, (entry.revision, entry.value))),
            );
        }
        for stage in self.single() {
            let mut entries = stream::iter(stage.into_iter().map(|key| {
                let store = Arc::clone(&self.store);
                async move { store.get(&key).await.map(|entry| (key, entry)) }
            }))
            .buffer_unordered(ABREAST);
            while let Some(entry) = entries.next().await {
                if let (key, Some(entry)) = entry? {
                    found.insert(key, (entry.revision, entry.value));
                }
            }
        }
        Ok((found, first.unwrap_or_default()))
    }

    /// Tells what a list has that was not told yet, and what is gone.
    fn difference(&self, found: BTreeMap<String, (Revision, Vec<u8>)>, revision: Revision, told: &mut Told) {
        let gone: Vec<String> = told
            .revisions
            .iter()
            // What a watch told after the list was begun is newer than the list.
            .filter(|(key, at)| !found.contains_key(*key) && **at <= revision)
            .map(|(key, _)| key.clone())
            .collect();
        for key in gone {
            self.apply(
                WatchEvent {
                    revision: revision.max(told.revisions.get(&key).copied().unwrap_or_default() + 1),
                    key,
                    value: None,
                },
                told,
            );
        }
        // Generations come before owners in the order of the keys, and are not older.
        told.owners.clear();
        for (key, (revision, value)) in found {
            let event = WatchEvent {
                revision,
                key,
                value: Some(value),
            };
            self.tell(event, told);
        }
    }

    /// Reads the generations of the owners that are held back, and tells both. What cannot be read waits for the list.
    async fn confirm(&self, told: &mut Told) {
        for (slot, owner) in std::mem::take(&mut told.owners) {
            let key = keys::generation(slot);
            match self.store.get(&key).await {
                Ok(entry) => {
                    if let Some(entry) = entry {
                        let event = WatchEvent {
                            revision: entry.revision,
                            key,
                            value: Some(entry.value),
                        };
                        self.tell(event, told);
                    }
                    self.tell(owner, told);
                }
                Err(_) => {
                    told.owners.insert(slot, owner);
                }
            }
        }
    }

    /// Tells an event of a watch. Who becomes a slot's owner writes its generation in the same transaction: an owner is
    /// told after that, whichever watch is quicker. One that only binds its key to another lease writes no generation.
    fn apply(&self, event: WatchEvent, told: &mut Told) {
        if let Some(Path::Owner(slot)) = Path::parse(&event.key) {
            told.owners.remove(&slot);
            let generation = told.revisions.get(&keys::generation(slot)).copied();
            if event.value.is_some() && generation.unwrap_or_default() < event.revision {
                told.owners.insert(slot, event);
                return;
            }
        }
        self.tell(event, told);
    }

    /// Tells an event unless as much is known of its key.
    fn tell(&self, event: WatchEvent, told: &mut Told) {
        let known = told.revisions.get(&event.key).copied();
        if known.is_some_and(|known| known >= event.revision) {
            return;
        }
        if event.value.is_some() {
            told.revisions.insert(event.key.clone(), event.revision);
        } else {
            told.revisions.remove(&event.key);
        }
        self.pacemaker.input(Input::Changed(event));
    }
}

/// What was told.
#[derive(Default)]
struct Told {
    /// By key: the revision of its last write.
    revisions: BTreeMap<String, Revision>,
    /// By slot: owners whose generation has to be read first.
    owners: BTreeMap<u8, WatchEvent>,
}
