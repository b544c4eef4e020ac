//! A warm replica: other nodes' sealed records in memory, so that a takeover fetches only what differs.
//!
//! The replica is a hint. What a slot has is decided after the claim by a list of its names and revisions; a record whose
//! revision is the listed one is taken from here, every other is read from the store. Nothing in it can be opened
//! without the slot's data key. Its size is bounded; records beyond the bound are read when they are needed.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use cluster::keys;
use futures::StreamExt as _;
use futures::stream;
use store::{Change, Limits, Revision, Store, StoreError, follow};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// Records that are read at the same time when few differ.
const ABREAST: usize = 64;
/// When more than this are missing, whole pages are read.
const SINGLY_MAX: usize = 512;
/// Between two lists although the watch is well.
const EVERY: Duration = Duration::from_secs(120);
/// A record that a watch lost is told so late at most: by the next list, if that is quick.
pub const LOST_MAX: Duration = Duration::from_secs(150);

/// A record.
struct Held {
    /// What wrote it.
    revision: Revision,
    value: Vec<u8>,
    /// When it was told, if it was told as it was written: how old it was at the first list, nobody says.
    written: Option<Instant>,
}

/// Other nodes' records.
pub struct Replica {
    store: Arc<dyn Store>,
    runtime: Handle,
    slots: Mutex<BTreeMap<u8, Followed>>,
    octets: Arc<AtomicUsize>,
    most: usize,
    /// Records that were left out because the bound was reached.
    pub left_out: Arc<AtomicU64>,
}

/// One slot that is followed.
struct Followed {
    records: Arc<Mutex<Records>>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Records {
    held: BTreeMap<String, Held>,
    octets: usize,
    /// Since when what is here may be old.
    stale: Option<Instant>,
}

/// What is held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    /// Records of all slots.
    pub records: usize,
    /// Their octets.
    pub octets: usize,
    /// For how long the store could not be followed, at worst.
    pub stale: Duration,
}

/// How a slot's records were read.
#[derive(Clone, Debug, Default)]
pub struct Read {
    /// Every record by its name.
    pub records: Vec<(String, Vec<u8>)>,
    /// How many of them had to be fetched.
    pub fetched: usize,
    /// By name, how old those are that this node saw being written, by its own clock since its start. One that a watch lost
    /// can be older, by [`LOST_MAX`] at most.
    pub ages: HashMap<String, Duration>,
}

impl Replica {
    /// Follows nothing yet; keeps at most `most` octets.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, runtime: Handle, most: usize) -> Self {
        Self {
            store,
            runtime,
            slots: Mutex::default(),
            octets: Arc::default(),
            most,
            left_out: Arc::default(),
        }
    }

    /// Begins to follow a slot that another node has.
    pub fn follow(&self, slot: u8) {
        let mut slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        if self.most == 0 || slots.contains_key(&slot) {
            return;
        }
        let records = Arc::new(Mutex::new(Records {
            stale: Some(Instant::now()),
            ..Records::default()
        }));
        let keeper = Keeper {
            prefix: keys::slot(slot),
            records: Arc::clone(&records),
            octets: Arc::clone(&self.octets),
            most: self.most,
            left_out: Arc::clone(&self.left_out),
        };
        let store = Arc::clone(&self.store);
        let task = self.runtime.spawn(async move { keeper.run(store).await });
        slots.insert(slot, Followed { records, task });
    }

    /// Ends following a slot and hands out what is known of it.
    fn take(&self, slot: u8) -> BTreeMap<String, Held> {
        let followed = self
            .slots
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&slot);
        let Some(followed) = followed else {
            return BTreeMap::new();
        };
        followed.task.abort();
        let mut records = followed.records.lock().unwrap_or_else(PoisonError::into_inner);
        self.octets.fetch_sub(records.octets, Ordering::Relaxed);
        records.octets = 0;
        std::mem::take(&mut records.held)
    }

    /// What is held of all slots.
    #[must_use]
    pub fn size(&self) -> Size {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let mut size = Size::default();
        for followed in slots.values() {
            let records = followed.records.lock().unwrap_or_else(PoisonError::into_inner);
            size.records += records.held.len();
            size.octets += records.octets;
            let stale = records.stale.map_or(Duration::ZERO, |since| since.elapsed());
            size.stale = size.stale.max(stale);
        }
        size
    }

    /// How many records of a slot are known here; `None` when it is not followed.
    #[must_use]
    pub fn known(&self, slot: u8) -> Option<usize> {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let followed = slots.get(&slot)?;
        let records = followed.records.lock().unwrap_or_else(PoisonError::into_inner);
        Some(records.held.len())
    }

    /// How many of the records are of sessions.
    #[must_use]
    pub fn sessions(&self, slot: u8) -> Option<usize> {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let followed = slots.get(&slot)?;
        let records = followed.records.lock().unwrap_or_else(PoisonError::into_inner);
        let prefix = format!("{}{}", keys::slot(slot), crate::sa_record::SA_PREFIX);
        let of_sessions = records.held.range(prefix.clone()..);
        Some(
            of_sessions
                .take_while(|(name, _)| name.starts_with(&prefix))
                .count(),
        )
    }

    /// Reads every record of a slot that this node has claimed; what is known here is not read again. Following
    /// the slot ends.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn read(&self, slot: u8) -> Result<Read, StoreError> {
        let prefix = keys::slot(slot);
        let listed = self.list(&prefix).await?;
        let mut held = self.take(slot);
        let mut read = Read::default();
        let mut missing = Vec::new();
        for (name, revision) in listed {
            match held.remove(&name) {
                Some(held) if held.revision == revision => {
                    if let Some(written) = held.written {
                        read.ages.insert(name.clone(), written.elapsed());
                    }
                    read.records.push((name, held.value));
                }
                _ => missing.push(name),
            }
        }
        read.fetched = missing.len();
        if missing.len() > SINGLY_MAX {
            // Whoever wants many gets all.
            read.records = self.pages(&prefix).await?;
            return Ok(read);
        }
        let mut values = stream::iter(missing.into_iter().map(|name| {
            let store = Arc::clone(&self.store);
            async move { store.get(&name).await.map(|entry| (name, entry)) }
        }))
        .buffer_unordered(ABREAST);
        while let Some(value) = values.next().await {
            if let (name, Some(entry)) = value? {
                read.records.push((name, entry.value));
            }
        }
        Ok(read)
    }

    async fn list(&self, prefix: &str) -> Result<Vec<(String, Revision)>, StoreError> {
        let mut names = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let (page, _) = self.store.keys(prefix, after.as_deref(), Limits::RANGE).await?;
            let full = page.len() >= Limits::RANGE;
            after = page.last().map(|(name, _)| name.clone());
            names.extend(page.into_iter().filter(|(name, _)| is_record(prefix, name)));
            if !full {
                return Ok(names);
            }
        }
    }

    async fn pages(&self, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
        let mut records = Vec::new();
        let mut after: Option<String> = None;
        loop {
            let (page, _) = self
                .store
                .range(prefix, after.as_deref(), Limits::RANGE / 4)
                .await?;
            let full = page.len() >= Limits::RANGE / 4;
            after = page.last().map(|(name, _)| name.clone());
            let wanted = page.into_iter().filter(|(name, _)| is_record(prefix, name));
            records.extend(wanted.map(|(name, entry)| (name, entry.value)));
            if !full {
                return Ok(records);
            }
        }
    }
}

/// Whether a key of a slot is of its records: not its generation, owner, wish or data keys.
fn is_record(prefix: &str, key: &str) -> bool {
    key.strip_prefix(prefix).is_some_and(|name| name.contains('/'))
}

/// Keeps one slot's records up to date.
struct Keeper {
    prefix: String,
    records: Arc<Mutex<Records>>,
    octets: Arc<AtomicUsize>,
    most: usize,
    left_out: Arc<AtomicU64>,
}

impl Keeper {
    async fn run(self, store: Arc<dyn Store>) {
        let mut changes = follow(store, self.prefix.clone(), Some(EVERY));
        while let Some(change) = changes.next().await {
            let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
            match change {
                Change::Event(event) => {
                    if is_record(&self.prefix, &event.key) {
                        self.apply(&mut records, event.key, event.revision, event.value);
                    }
                }
                Change::Synced(_) => records.stale = None,
                Change::Stale(_) => {
                    records.stale.get_or_insert_with(Instant::now);
                }
            }
        }
    }

    fn apply(&self, records: &mut Records, key: String, revision: Revision, value: Option<Vec<u8>>) {
        if let Some(old) = records.held.remove(&key) {
            let size = key.len() + old.value.len();
            records.octets = records.octets.saturating_sub(size);
            self.octets.fetch_sub(size, Ordering::Relaxed);
        }
        let Some(value) = value else { return };
        let size = key.len() + value.len();
        if self.octets.load(Ordering::Relaxed) + size > self.most {
            self.left_out.fetch_add(1, Ordering::Relaxed);
            return;
        }
        records.octets += size;
        self.octets.fetch_add(size, Ordering::Relaxed);
        let held = Held {
            revision,
            value,
            written: records.stale.is_none().then(Instant::now),
        };
        records.held.insert(key, held);
    }
}
