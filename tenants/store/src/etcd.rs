//! The back end of clusters: etcd, of which everything may fail at any moment.
//!
//! ```text
//!   get, range ─────────────────────────────┐
//!   txn ──► queue, batches ──► lanes ───────┼──► the present member; the next one when it fails
//!   watch ──► stream, checked ──────────────┤
//!   lease_keep_alive ──► stream ────────────┘
//! ```
//! - **Writes happen once.** A write is sent again until it is known what became of it; a marker that it compares and
//!   writes tells (`commit`). When the time is over the answer is [`StoreError::Unavailable`]: it did not happen, or
//!   [`StoreError::Indeterminate`]: it may have, and from the next conflicting write on will not any more.
//! - **Decide by transactions only.** Reads go through the leader and are refused when they are older than what
//!   was seen before; still they, watches and keep-alives are hints (see [`version_warning`]).
//! - **Limits.** [`Limits::QUEUE`] writes of [`QUEUE_OCTETS`] wait; watches fall behind by [`Limits::WATCH_BACKLOG`]
//!   events of [`BACKLOG_OCTETS`]; a transaction has [`EtcdSettings::max_txn_ops`] − 2 steps and
//!   [`EtcdSettings::max_request_octets`].
//! - **Leases** last whole seconds, at least one and a half election timeouts (2 s by default), and end late.
//!
//! Transactions that go together share a revision. Keys that are not UTF-8 are left out of lists and watches.

mod commit;
mod fault;
mod inspect;
mod lease;
mod members;
mod plan;
mod settings;
mod shared;
mod version;
mod watch;
mod writer;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use etcd_client::{GetOptions, KeyValue};

pub use inspect::MemberStatus;
pub use settings::{EtcdSettings, EtcdTls, EtcdUser};
pub use version::version_warning;
pub use watch::{BACKLOG_OCTETS, TRACKED};
pub use writer::QUEUE_OCTETS;

use crate::Store;
use crate::error::StoreError;
use crate::types::{Entry, LeaseId, Limits, Revision, Txn, TxnOutcome, WatchStream};
use commit::Committer;
use fault::{Class, Fault};
use lease::Leases;
use members::{Done, Members};
use plan::{octets_behind, signed};
use writer::Writer;

/// Octets of an answer: the members set no limit either, and lists are asked for in pages.
const MESSAGE_OCTETS: usize = 1 << 30;
/// Entries that are asked for at once.
const PAGE: usize = 500;
/// Names that are asked for at once.
const NAMES_PAGE: usize = 5_000;
/// How often a list is begun again that compaction overtook.
const LIST_TRIES: usize = 3;

/// A store in an etcd cluster. Dropping it ends its streams; writes that are under way may still happen.
pub struct Etcd {
    members: Arc<Members>,
    writer: Writer,
    leases: Leases,
    root: String,
    warnings: Vec<String>,
}

/// What has happened since a store was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct EtcdCounters {
    /// Attempts that failed, to be repeated or not.
    pub failures: u64,
    /// Changes to another member.
    pub moves: u64,
    /// Transactions of etcd's that were answered.
    pub commits: u64,
    /// Transactions of callers' that were in them.
    pub transactions: u64,
    /// Transactions that had been carried out although their answer was lost.
    pub recovered: u64,
    /// Transactions that were given up without knowing.
    pub indeterminate: u64,
    /// Watches that went on with another stream.
    pub watches_reopened: u64,
    /// Events that came again and were dropped.
    pub events_repeated: u64,
    /// Events that were found missing; each ended its watch.
    pub events_lost: u64,
    /// Keep-alive streams that broke.
    pub keep_alives_reopened: u64,
}

impl std::fmt::Debug for Etcd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Etcd")
            .field("member", &self.member())
            .field("counters", &self.counters())
            .finish_non_exhaustive()
    }
}

impl Etcd {
    /// Opens the store; has to be called in a tokio runtime. Asks every member for its version and health; one that
    /// answers is enough, but the cluster needs its quorum.
    ///
    /// # Errors
    /// [`StoreError::Refused`] when the settings are wrong or the cluster does not let us in;
    /// [`StoreError::Unavailable`] when it does not answer.
    pub async fn open(settings: EtcdSettings) -> Result<Self, StoreError> {
        settings.check()?;
        let root = format!("{}/", settings.namespace);
        let members = Arc::new(Members::new(settings));
        let warnings = inspect::at_start(&members).await;
        for warning in &warnings {
            tracing::warn!("{warning}");
        }
        // Where the cluster stands; this needs a quorum.
        let store = Self {
            writer: Writer::start(Committer::new(Arc::clone(&members))),
            leases: Leases::new(Arc::clone(&members)),
            root,
            warnings,
            members: Arc::clone(&members),
        };
        store.read("", GetOptions::new().with_count_only()).await?;
        tokio::spawn(async move { Committer::new(members).sweep().await });
        Ok(store)
    }

    /// What was found wrong with the members when the store was opened, in words.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Asks every member how it is, all at once; takes at most one attempt's time.
    pub async fn inspect(&self) -> Vec<MemberStatus> {
        inspect::all(&self.members).await
    }

    /// The endpoint of the member that is asked at present.
    pub fn member(&self) -> &str {
        self.members.endpoint(self.members.current())
    }

    /// The cluster's id: another one after a cluster has been made anew.
    pub fn cluster(&self) -> u64 {
        self.members.cluster()
    }

    /// How long the last transaction took that was answered, with its repetitions.
    pub fn write_latency(&self) -> Duration {
        Duration::from_micros(self.members.counters.last_commit_micros.load(Ordering::Relaxed))
    }

    /// The highest revision that any answer or event carried.
    pub fn highest_seen(&self) -> Revision {
        self.members.seen()
    }

    /// What has happened since the store was opened.
    pub fn counters(&self) -> EtcdCounters {
        let counters = &self.members.counters;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        EtcdCounters {
            failures: read(&counters.failures),
            moves: read(&counters.moves),
            commits: read(&counters.commits),
            transactions: read(&counters.transactions),
            recovered: read(&counters.recovered),
            indeterminate: read(&counters.indeterminate),
            watches_reopened: read(&counters.watches_reopened),
            events_repeated: read(&counters.events_repeated),
            events_lost: read(&counters.events_lost),
            keep_alives_reopened: read(&counters.keep_alives_reopened),
        }
    }

    /// One read below the root.
    async fn read(
        &self,
        key: &str,
        options: GetOptions,
    ) -> Result<Done<etcd_client::GetResponse>, StoreError> {
        self.read_path([self.root.as_bytes(), key.as_bytes()].concat(), options)
            .await
            .map_err(Fault::into_error)
    }

    async fn read_path(
        &self,
        path: Vec<u8>,
        options: GetOptions,
    ) -> Result<Done<etcd_client::GetResponse>, Fault> {
        self.members
            .call(self.members.deadline(), |client| {
                let (path, options) = (path.clone(), options.clone());
                async move {
                    let mut kv = client.kv_client().max_decoding_message_size(MESSAGE_OCTETS);
                    kv.get(path, Some(options)).await
                }
            })
            .await
    }

    /// A list, begun again as often as compaction overtakes it.
    async fn listed(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        names_only: bool,
    ) -> Result<(Vec<(String, Entry)>, Revision), StoreError> {
        let limit = limit.min(Limits::RANGE);
        for _ in 0..LIST_TRIES {
            if let Some(listed) = self.list(prefix, after, limit, names_only).await? {
                return Ok(listed);
            }
        }
        Err(StoreError::Unavailable {
            reason: "the history is compacted faster than it can be listed".to_owned(),
        })
    }

    /// A list in pages, all of the revision of the first; `None`: it was compacted meanwhile. With `names_only` the
    /// values are empty.
    async fn list(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
        names_only: bool,
    ) -> Result<Option<(Vec<(String, Entry)>, Revision)>, StoreError> {
        let root = self.root.as_bytes();
        let end = octets_behind(&[root, prefix.as_bytes()].concat());
        let mut begin = [root, prefix.as_bytes()].concat();
        if let Some(after) = after.filter(|after| *after >= prefix) {
            begin = [root, after.as_bytes(), &[0]].concat();
        }
        let (mut found, mut revision) = (Vec::new(), 0);
        loop {
            let page = if names_only { NAMES_PAGE } else { PAGE };
            let wanted = (limit - found.len()).clamp(1, page);
            if begin >= end {
                let present = self.read("", GetOptions::new().with_count_only()).await?;
                revision = present.answer.header().map_or(0, revision_of);
                break;
            }
            let mut options = GetOptions::new()
                .with_range(end.clone())
                .with_limit(signed(u64::try_from(wanted).unwrap_or(1)));
            if names_only {
                options = options.with_keys_only();
            }
            if revision > 0 {
                options = options.with_revision(signed(revision));
            }
            let done = match self.read_path(begin.clone(), options).await {
                Ok(done) => done,
                Err(fault) if fault.class == Class::Compacted => return Ok(None),
                Err(fault) => return Err(fault.into_error()),
            };
            if revision == 0 {
                revision = done.answer.header().map_or(0, revision_of);
            }
            let more = done.answer.more();
            for kv in done.answer.kvs() {
                begin = [kv.key(), &[0]].concat();
                if let Some(key) = kv
                    .key()
                    .strip_prefix(root)
                    .and_then(|key| std::str::from_utf8(key).ok())
                {
                    found.push((key.to_owned(), entry(kv)));
                }
            }
            if !more || found.len() >= limit {
                break;
            }
        }
        found.truncate(limit);
        Ok(Some((found, revision)))
    }
}

#[async_trait]
impl Store for Etcd {
    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        let done = self.read(key, GetOptions::new()).await?;
        Ok(done.answer.kvs().first().map(entry))
    }

    async fn range(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<(Vec<(String, Entry)>, Revision), StoreError> {
        self.listed(prefix, after, limit, false).await
    }

    async fn keys(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<(Vec<(String, Revision)>, Revision), StoreError> {
        let (entries, revision) = self.listed(prefix, after, limit, true).await?;
        let keys = entries.into_iter().map(|(key, entry)| (key, entry.revision));
        Ok((keys.collect(), revision))
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, StoreError> {
        txn.check()?;
        if plan::writes(&txn) {
            return self.writer.run(txn).await;
        }
        // Nothing to write: it can be asked any number of times.
        let done = self
            .members
            .call(self.members.deadline(), |mut client| {
                let request = etcd_client::Txn::new()
                    .when(plan::compares(&txn.compares, &txn.values, &self.root))
                    .or_else(plan::reads(&txn, &self.root));
                async move { client.txn(request).await }
            })
            .await
            .map_err(Fault::into_error)?;
        let revision = done.answer.header().map_or(0, revision_of);
        Ok(commit::outcome_of(&txn, &done.answer, revision))
    }

    async fn watch(&self, prefix: &str, from: Option<Revision>) -> Result<WatchStream, StoreError> {
        watch::watch(Arc::clone(&self.members), &self.root, prefix, from).await
    }

    async fn lease_grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.leases.grant(ttl).await
    }

    async fn lease_keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.leases.keep_alive(lease).await
    }

    async fn lease_revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.leases.revoke(lease).await
    }
}

fn revision_of(header: &etcd_client::ResponseHeader) -> Revision {
    header.revision().unsigned_abs()
}

fn entry(kv: &KeyValue) -> Entry {
    Entry {
        value: kv.value().to_vec(),
        revision: kv.mod_revision().unsigned_abs(),
    }
}
