//! A store that outlives its etcd: when the cluster is wiped or restored from a backup, it is opened anew.
//!
//! An [`Etcd`] that has seen the cluster go back refuses everything from then on. Here it is replaced, after everybody
//! who asked has been told once. Until the core has begun a new epoch, writes that are fenced with the old one are held
//! back: they would be refused, and a refusal means that a slot is another node's, which it is not.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use futures::StreamExt as _;
use store::etcd::EtcdSettings;
use store::{Entry, Etcd, Expect, LeaseId, Revision, Store, StoreError, Txn, TxnOutcome, WatchStream};
use tokio::sync::Mutex;

use cluster::keys::EPOCH;

use crate::writes::{Asked, Writes};

/// No epoch is barred.
const NONE: u64 = u64::MAX;

/// A store over an etcd that can be replaced.
pub struct Renewing {
    settings: EtcdSettings,
    present: ArcSwap<Etcd>,
    opening: Mutex<()>,
    /// Whether fenced writes are held back after the store went back.
    careful: bool,
    /// The highest epoch that the present etcd has taken a write of.
    epoch: AtomicU64,
    /// Writes fenced with this epoch or an earlier one are held back.
    barred: AtomicU64,
    renewed: AtomicU64,
    writes: Arc<Writes>,
}

impl Renewing {
    /// Over an etcd that is open; `careful`: hold fenced writes back until there is a new epoch. What is written is
    /// counted in `writes`.
    #[must_use]
    pub fn new(etcd: Etcd, settings: EtcdSettings, careful: bool, writes: Arc<Writes>) -> Self {
        Self {
            settings,
            present: ArcSwap::from_pointee(etcd),
            opening: Mutex::new(()),
            careful,
            epoch: AtomicU64::new(0),
            barred: AtomicU64::new(NONE),
            renewed: AtomicU64::new(0),
            writes,
        }
    }

    /// The etcd at present.
    #[must_use]
    pub fn etcd(&self) -> Arc<Etcd> {
        self.present.load_full()
    }

    /// How often it was opened anew.
    #[must_use]
    pub fn renewed(&self) -> u64 {
        self.renewed.load(Ordering::Relaxed)
    }

    /// Opens the etcd anew after `old` saw it go back; the answer is passed on in any case.
    async fn seen<T>(&self, old: &Arc<Etcd>, answer: Result<T, StoreError>) -> Result<T, StoreError> {
        if let Err(StoreError::WentBack { reason }) = &answer {
            self.renew(old, reason).await;
        }
        answer
    }

    async fn renew(&self, old: &Arc<Etcd>, reason: &str) {
        let _one = self.opening.lock().await;
        if !Arc::ptr_eq(&self.present.load(), old) {
            return;
        }
        tracing::error!(reason, "the store is not what it was, it is opened anew");
        if self.careful {
            self.barred
                .store(self.epoch.load(Ordering::Acquire), Ordering::Release);
        }
        match Etcd::open(self.settings.clone()).await {
            Ok(etcd) => {
                self.present.store(Arc::new(etcd));
                self.renewed.fetch_add(1, Ordering::Relaxed);
            }
            // The next one who asks tries again.
            Err(error) => tracing::warn!(%error, "the store cannot be opened anew"),
        }
    }

    /// Refuses for now what is fenced with an epoch from before the store went back.
    fn admit(&self, txn: &Txn) -> Result<(), StoreError> {
        let Some(epoch) = epoch_of(txn) else { return Ok(()) };
        let barred = self.barred.load(Ordering::Acquire);
        if barred != NONE && epoch <= barred {
            return Err(StoreError::Unavailable {
                reason: "the store went back: a new epoch has to begin first".to_owned(),
            });
        }
        Ok(())
    }
}

/// The epoch that a transaction is fenced with.
fn epoch_of(txn: &Txn) -> Option<u64> {
    let absent = txn
        .compares
        .iter()
        .any(|compare| compare.key == EPOCH && compare.expect == Expect::Absent);
    if absent {
        return Some(0);
    }
    let value = txn.values.iter().find(|compare| compare.key == EPOCH)?;
    std::str::from_utf8(&value.value).ok()?.parse().ok()
}

#[async_trait]
impl Store for Renewing {
    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        let etcd = self.etcd();
        let answer = etcd.get(key).await;
        self.seen(&etcd, answer).await
    }

    async fn range(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<(Vec<(String, Entry)>, Revision), StoreError> {
        let etcd = self.etcd();
        let answer = etcd.range(prefix, after, limit).await;
        self.seen(&etcd, answer).await
    }

    async fn keys(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<(Vec<(String, Revision)>, Revision), StoreError> {
        let etcd = self.etcd();
        let answer = etcd.keys(prefix, after, limit).await;
        self.seen(&etcd, answer).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, StoreError> {
        if self.careful {
            self.admit(&txn)?;
        }
        let etcd = self.etcd();
        let epoch = epoch_of(&txn);
        let asked = Asked::of(&txn);
        let answer = etcd.txn(txn).await;
        if let Ok(outcome) = &answer {
            self.writes.transaction(&asked, outcome.committed);
        }
        if let (Ok(outcome), Some(epoch)) = (&answer, epoch)
            && outcome.committed
        {
            // Only what was taken: the first write of a new epoch may be what finds out that this etcd is the old one.
            self.epoch.fetch_max(epoch, Ordering::AcqRel);
        }
        self.seen(&etcd, answer).await
    }

    async fn watch(&self, prefix: &str, from: Option<Revision>) -> Result<WatchStream, StoreError> {
        let etcd = self.etcd();
        let answer = etcd.watch(prefix, from).await;
        let stream = self.seen(&etcd, answer).await?;
        // The stream lives on the etcd that opened it.
        Ok(stream
            .map(move |event| {
                let _alive = &etcd;
                event
            })
            .boxed())
    }

    async fn lease_grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        let etcd = self.etcd();
        let answer = etcd.lease_grant(ttl).await;
        self.seen(&etcd, answer).await
    }

    async fn lease_keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        let etcd = self.etcd();
        let answer = etcd.lease_keep_alive(lease).await;
        if answer.is_ok() {
            self.writes.kept_alive();
        }
        self.seen(&etcd, answer).await
    }

    async fn lease_revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        let etcd = self.etcd();
        let answer = etcd.lease_revoke(lease).await;
        self.seen(&etcd, answer).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_epoch_of_a_fence_is_found() {
        let fence = |epoch| cluster::Fence {
            slot: 1,
            generation: 2,
            epoch,
            owner: "a#0000000000000001".to_owned(),
        };
        assert_eq!(epoch_of(&fence(0).apply(Txn::new())), Some(0));
        assert_eq!(epoch_of(&fence(7).apply(Txn::new())), Some(7));
        assert_eq!(epoch_of(&Txn::new().put("config/x", "")), None);
    }
}
