//! Backup and restore of what a cluster keeps in its store: configuration, address leases, audit trail, generations,
//! the root secret. Live sessions are no part of it: they go on where their nodes live, and their records are written
//! again in the new epoch.
//!
//! A restore reads and checks everything first. Then it writes, so that nothing that runs sees less than it needs: new
//! and changed resources before deletions, tenants before what they own, leases only where there are none,
//! the epoch last. It can be run again at any point.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use api::v1;
use cluster::backup::{BackupError, Header, Part, Reader, Writer, belongs};
use cluster::keys;
use cluster::vault::{ClusterKeys, Root};
use crypto::SystemRandom;
use futures::{StreamExt as _, TryStreamExt as _};
use store::{Expect, Limits, Revision, Store, StoreError, Txn};
use tenants::BackendError;
use tenants::cluster_backend::Pieces;
use tenants::object::{CONFIG, FENCE, Id, Kind};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

const LEASES: &str = "pool/";
const AUDIT: &str = "audit/";
/// Pieces that wait for a slow reader.
const AHEAD: usize = 4;
/// Entries asked for at once.
const PAGE: usize = 1_000;
/// Steps and octets of one transaction, below the defaults of etcd's limits.
const STEPS: usize = 40;
const OCTETS: usize = 400 << 10;
/// How often the epoch is raised again when another node raises it at the same time.
const TRIES: usize = 8;

type Entries = BTreeMap<String, Vec<u8>>;
/// A key with its new value; `None`: it goes.
type Change<'a> = (&'a str, Option<&'a [u8]>);

/// A backup, in pieces; to be called in a tokio runtime. An error ends it.
pub fn backup(store: Arc<dyn Store>, keys: Arc<ClusterKeys>, node: &str) -> Pieces {
    let (sender, receiver) = mpsc::channel(AHEAD);
    let header = Header {
        time: SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| since.as_secs()),
        node: node.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    tokio::spawn(async move {
        let outcome = write(&*store, &keys, &header, &sender).await;
        if let Err(Stop::Failed(error)) = outcome {
            // A reader that has left need not be told.
            let _ = sender.send(Err(error)).await;
        }
    });
    ReceiverStream::new(receiver).boxed()
}

/// Why a backup ends early.
enum Stop {
    /// Nobody reads it any more.
    Left,
    Failed(BackendError),
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        Stop::Failed(of_store(&error))
    }
}

impl From<BackupError> for Stop {
    fn from(error: BackupError) -> Self {
        Stop::Failed(of_file(&error))
    }
}

fn of_store(error: &StoreError) -> BackendError {
    BackendError::Unavailable(format!("the store: {error}"))
}

fn of_file(error: &BackupError) -> BackendError {
    BackendError::Invalid(error.to_string())
}

async fn write(
    store: &dyn Store,
    cluster_keys: &ClusterKeys,
    header: &Header,
    sender: &mpsc::Sender<Result<Vec<u8>, BackendError>>,
) -> Result<(), Stop> {
    let send = async |piece: Vec<u8>| sender.send(Ok(piece)).await.map_err(|_| Stop::Left);
    let (mut writer, begin) = Writer::begin(cluster_keys, header, &mut SystemRandom)?;
    send(begin).await?;
    let fence = revision(store, FENCE).await?;
    for prefix in [CONFIG, AUDIT, LEASES] {
        let mut after = None::<String>;
        loop {
            let (page, _) = store.range(prefix, after.as_deref(), PAGE).await?;
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
            for (key, entry) in page.iter().filter(|(key, _)| key != FENCE) {
                if let Some(piece) = writer.push(key, &entry.value)? {
                    send(piece).await?;
                }
            }
        }
        if prefix == CONFIG && revision(store, FENCE).await? != fence {
            return Err(Stop::Failed(BackendError::Unavailable(
                "the configuration was changed while it was read; try again".to_owned(),
            )));
        }
    }
    let slots = (0..=keys::MAX_SLOT).map(keys::generation);
    for key in slots.chain([keys::EPOCH.to_owned(), keys::ROOT.to_owned()]) {
        if let Some(entry) = store.get(&key).await?
            && let Some(piece) = writer.push(&key, &entry.value)?
        {
            send(piece).await?;
        }
    }
    send(writer.finish()?).await
}

async fn revision(store: &dyn Store, key: &str) -> Result<Option<Revision>, StoreError> {
    Ok(store.get(key).await?.map(|entry| entry.revision))
}

/// Writes a backup back.
///
/// # Errors
/// As [`tenants::ClusterBackend::restore`] says.
pub async fn restore(
    store: &dyn Store,
    cluster_keys: &ClusterKeys,
    options: v1::RestoreOptions,
    pieces: Pieces,
) -> Result<v1::RestoreResponse, BackendError> {
    let (header, entries) = read(cluster_keys, pieces).await?;
    let mut counts: BTreeMap<String, u64> = BTreeMap::new();
    for key in entries.keys() {
        let word = key.split('/').next().unwrap_or_default();
        *counts.entry(word.to_owned()).or_default() += 1;
    }
    let mut answer = v1::RestoreResponse {
        backup_time: Some(api::time::timestamp(
            SystemTime::UNIX_EPOCH + Duration::from_secs(header.time),
        )),
        backup_node: header.node,
        epoch: 0,
        keys: counts,
        warnings: Vec::new(),
    };
    let work = Work {
        store,
        cluster_keys,
        entries: &entries,
        replace: options.replace,
        validate_only: options.validate_only,
    };
    answer.epoch = work.carry_out(&mut answer.warnings).await?;
    Ok(answer)
}

/// Reads the whole backup.
async fn read(cluster_keys: &ClusterKeys, mut pieces: Pieces) -> Result<(Header, Entries), BackendError> {
    let mut reader = Reader::new(cluster_keys);
    let (mut header, mut entries) = (Header::default(), Entries::new());
    while let Some(piece) = pieces.try_next().await? {
        reader.feed(&piece);
        while let Some(part) = reader.part().map_err(|error| of_file(&error))? {
            match part {
                Part::Header(read) => header = read,
                Part::Entries(read) => entries.extend(read.into_iter().filter(|(key, _)| belongs(key))),
                Part::End => {}
            }
        }
    }
    reader.finish().map_err(|error| of_file(&error))?;
    Ok((header, entries))
}

/// A restore at work.
struct Work<'a> {
    store: &'a dyn Store,
    cluster_keys: &'a ClusterKeys,
    entries: &'a Entries,
    replace: bool,
    validate_only: bool,
}

impl Work<'_> {
    /// Returns the epoch that has begun; 0 when only checking.
    async fn carry_out(&self, warnings: &mut Vec<String>) -> Result<u64, BackendError> {
        let failed = |error: StoreError| of_store(&error);
        let present = self.config().await.map_err(failed)?;
        if !present.resources.is_empty() && !self.replace {
            return Err(BackendError::Refused(format!(
                "the cluster has a configuration of {} resources; say that it is to be replaced",
                present.resources.len()
            )));
        }
        let root = self.root(warnings).await?;
        if self.validate_only {
            return Ok(0);
        }
        if let Some((wrapped, expect)) = root {
            let put = self.store.put_if(keys::ROOT, wrapped, expect).await;
            put.map_err(failed)?;
        }
        self.write_config(present).await?;
        self.write_missing(LEASES, idle).await.map_err(failed)?;
        self.write_missing(AUDIT, |value| Some(value.to_vec()))
            .await
            .map_err(failed)?;
        self.raise_generations().await.map_err(failed)?;
        self.raise_epoch().await
    }

    /// What has to be written as the root secret, when it is another one.
    async fn root(&self, warnings: &mut Vec<String>) -> Result<Option<(Vec<u8>, Expect)>, BackendError> {
        let of_vault = |error: cluster::vault::VaultError| BackendError::Invalid(error.to_string());
        let Some(wrapped) = self.entries.get(keys::ROOT) else {
            return Err(BackendError::Invalid("the backup has no root secret".to_owned()));
        };
        let root = Root::unwrap(self.cluster_keys, wrapped).map_err(of_vault)?;
        let Some(entry) = self
            .store
            .get(keys::ROOT)
            .await
            .map_err(|error| of_store(&error))?
        else {
            return Ok(Some((wrapped.clone(), Expect::Absent)));
        };
        let present = Root::unwrap(self.cluster_keys, &entry.value).map_err(of_vault)?;
        if present.derive("comparison").expose() == root.derive("comparison").expose() {
            return Ok(None);
        }
        warnings.push(
            "the backup is of a cluster with another root secret: restart every concentrator, all at once"
                .to_owned(),
        );
        Ok(Some((wrapped.clone(), Expect::Revision(entry.revision))))
    }

    async fn config(&self) -> Result<Present, StoreError> {
        let (mut resources, mut after) = (Entries::new(), None::<String>);
        let fence = revision(self.store, FENCE).await?;
        loop {
            let (page, _) = self.store.range(CONFIG, after.as_deref(), PAGE).await?;
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
            let found = page.into_iter().filter(|(key, _)| key != FENCE);
            resources.extend(found.map(|(key, entry)| (key, entry.value)));
        }
        Ok(Present {
            fence: fence.map_or(Expect::Absent, Expect::Revision),
            resources,
        })
    }

    async fn write_config(&self, present: Present) -> Result<(), BackendError> {
        let mut wanted: Vec<(&String, &Vec<u8>)> = self
            .entries
            .iter()
            .filter(|(key, value)| key.starts_with(CONFIG) && present.resources.get(*key) != Some(value))
            .filter(|(key, _)| *key != FENCE)
            .collect();
        wanted.sort_by_key(|(key, _)| rank(key));
        let mut gone: Vec<&String> = present
            .resources
            .keys()
            .filter(|key| !self.entries.contains_key(*key))
            .collect();
        gone.sort_by_key(|key| std::cmp::Reverse(rank(key)));
        let puts = wanted
            .into_iter()
            .map(|(key, value)| (key.as_str(), Some(value.as_slice())));
        let deletes = gone.into_iter().map(|key| (key.as_str(), None));
        let changes: Vec<Change<'_>> = puts.chain(deletes).collect();
        let mut fence = present.fence;
        let groups = chunks(&changes);
        for (index, chunk) in groups.iter().enumerate() {
            let mut txn = Txn::new().when(FENCE, fence);
            for (key, value) in *chunk {
                txn = match value {
                    Some(value) => txn.put(*key, *value),
                    None => txn.delete(*key),
                };
            }
            // Who has seen the fence has seen what it was written with; without one there is no configuration yet.
            let complete = fence != Expect::Absent || index + 1 == groups.len();
            if complete {
                txn = txn.put(FENCE, "");
            }
            let done = self.store.txn(txn).await.map_err(|error| of_store(&error))?;
            if !done.committed {
                return Err(BackendError::Unavailable(
                    "the configuration was changed by somebody else meanwhile: run the restore again"
                        .to_owned(),
                ));
            }
            if complete {
                fence = Expect::Revision(done.revision);
            }
        }
        Ok(())
    }

    /// Writes what the store does not have of a prefix; what it has is younger.
    async fn write_missing(
        &self,
        prefix: &str,
        change: impl Fn(&[u8]) -> Option<Vec<u8>>,
    ) -> Result<(), StoreError> {
        let (mut known, mut after) = (BTreeSet::new(), None::<String>);
        loop {
            let (page, _) = self.store.keys(prefix, after.as_deref(), Limits::RANGE).await?;
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
            known.extend(page.into_iter().map(|(key, _)| key));
        }
        let missing = self
            .entries
            .iter()
            .filter(|(key, _)| key.starts_with(prefix) && !known.contains(*key));
        let missing: Vec<(&str, Vec<u8>)> = missing
            .filter_map(|(key, value)| Some((key.as_str(), change(value)?)))
            .collect();
        let writes: Vec<Change<'_>> = missing
            .iter()
            .map(|(key, value)| (*key, Some(value.as_slice())))
            .collect();
        for chunk in chunks(&writes) {
            let txn = |entries: &[Change<'_>]| {
                entries.iter().fold(Txn::new(), |txn, (key, value)| {
                    txn.when(*key, Expect::Absent)
                        .put(*key, value.unwrap_or_default())
                })
            };
            if self.store.txn(txn(chunk)).await?.committed {
                continue;
            }
            // One of them has come meanwhile: the others by themselves.
            for entry in chunk {
                self.store.txn(txn(std::slice::from_ref(entry))).await?;
            }
        }
        Ok(())
    }

    /// No generation falls behind what it was when the backup was made.
    async fn raise_generations(&self) -> Result<(), StoreError> {
        for key in (0..=keys::MAX_SLOT).map(keys::generation) {
            let Some(then) = self.entries.get(&key).and_then(|value| number(value)) else {
                continue;
            };
            let entry = self.store.get(&key).await?;
            let present = entry.as_ref().and_then(|entry| number(&entry.value));
            if present.is_none_or(|present| present < then) {
                let expect = entry.map_or(Expect::Absent, |entry| Expect::Revision(entry.revision));
                let put = self
                    .store
                    .put_if(&key, then.to_string().into_bytes(), expect)
                    .await;
                // Somebody raised it meanwhile; the new epoch raises it past both.
                put.map(drop)
                    .or_else(|error| if error.is_conflict() { Ok(()) } else { Err(error) })?;
            }
        }
        Ok(())
    }

    async fn raise_epoch(&self) -> Result<u64, BackendError> {
        let then = self.entries.get(keys::EPOCH).and_then(|value| number(value));
        for _ in 0..TRIES {
            let entry = self.store.get(keys::EPOCH).await;
            let entry = entry.map_err(|error| of_store(&error))?;
            let present = entry.as_ref().and_then(|entry| number(&entry.value));
            let epoch = present.max(then).unwrap_or(0) + 1;
            let expect = entry.map_or(Expect::Absent, |entry| Expect::Revision(entry.revision));
            let value = epoch.to_string().into_bytes();
            match self.store.put_if(keys::EPOCH, value, expect).await {
                Ok(_) => return Ok(epoch),
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(of_store(&error)),
            }
        }
        Err(BackendError::Unavailable(
            "the epoch keeps changing: run the restore again".to_owned(),
        ))
    }
}

/// The configuration that is there.
struct Present {
    fence: Expect,
    resources: Entries,
}

/// The order of writing: what others refer to comes first.
fn rank(key: &str) -> Option<Kind> {
    Id::from_key(key).map(|id| id.kind)
}

/// Changes in groups of one transaction each.
fn chunks<'a>(changes: &'a [Change<'a>]) -> Vec<&'a [Change<'a>]> {
    let (mut groups, mut rest) = (Vec::new(), changes);
    while !rest.is_empty() {
        let mut octets = 0;
        let fitting = rest.iter().take(STEPS).take_while(|(key, value)| {
            octets += key.len() + value.map_or(0, <[u8]>::len);
            octets <= OCTETS
        });
        let count = fitting.count().max(1);
        let (group, after) = rest.split_at_checked(count).unwrap_or((rest, &[]));
        groups.push(group);
        rest = after;
    }
    groups
}

/// A lease as a memory of who had the address last: its session is not there any more.
fn idle(value: &[u8]) -> Option<Vec<u8>> {
    let mut lease: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(value).ok()?;
    lease.insert("in_use".to_owned(), false.into());
    lease.remove("slot");
    serde_json::to_vec(&lease).ok()
}

fn number(value: &[u8]) -> Option<u64> {
    std::str::from_utf8(value).ok()?.parse().ok()
}

#[cfg(test)]
mod tests;
