//! The audit trail: every change and command, who made it, kept in the store and bounded.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use api::time::timestamp;
use api::v1;
use serde::{Deserialize, Serialize};
use store::{Expect, Limits, Store, StoreError, Txn};

use crate::object::{from_millis, to_millis};

/// Everything under it is a record.
pub(crate) const AUDIT: &str = "audit/";
/// Old records deleted with one change.
const MAX_TRIMMED: usize = 32;
/// Records kept; the oldest go when more come.
pub const MAX_RECORDS: usize = 10_000;

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    /// `unix:uid=0`, or the subject of a client certificate.
    pub name: String,
    /// The role that allows it.
    pub role: String,
    /// The method, like `vpn.v1.ConnectionService/Update`.
    pub method: String,
}

impl Actor {
    /// The role of those who see one tenant only.
    pub const TENANT_ADMIN: &str = "tenant-admin";

    /// The daemon itself, for what it does without being asked.
    pub fn daemon(method: &str) -> Self {
        Self {
            name: "daemon".to_owned(),
            role: "operator".to_owned(),
            method: method.to_owned(),
        }
    }
}

/// A record, as stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Microseconds since 1970, made to rise.
    pub id: u64,
    /// When, in milliseconds since 1970.
    pub millis: u64,
    /// Who.
    pub actor: String,
    /// By which role.
    pub role: String,
    /// By which method.
    pub method: String,
    /// What changed.
    pub change: v1::Change,
}

impl Record {
    /// The external form.
    pub fn to_api(&self) -> v1::AuditRecord {
        v1::AuditRecord {
            id: self.id,
            time: Some(timestamp(from_millis(self.millis))),
            actor: self.actor.clone(),
            role: self.role.clone(),
            method: self.method.clone(),
            change: Some(self.change.clone()),
        }
    }

    fn key(&self) -> String {
        format!("{AUDIT}{:020}", self.id)
    }
}

/// The trail in memory, in ascending order; written with the changes that it is about.
pub(crate) struct Trail {
    records: Mutex<VecDeque<Arc<Record>>>,
}

impl Trail {
    /// Reads the trail. A record that cannot be read is left out.
    pub(crate) async fn load(store: &dyn Store) -> Result<Self, StoreError> {
        let (mut records, mut after) = (VecDeque::new(), None::<String>);
        loop {
            let (page, _) = store.range(AUDIT, after.as_deref(), Limits::RANGE).await?;
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
            for (key, entry) in &page {
                match serde_json::from_slice::<Record>(&entry.value) {
                    Ok(record) => records.push_back(Arc::new(record)),
                    Err(error) => tracing::warn!(key, %error, "an audit record cannot be read"),
                }
            }
        }
        Ok(Self {
            records: Mutex::new(records),
        })
    }

    /// Records for changes, with numbers above all before and above `above`, in a transaction that is refused when
    /// another node takes a number at the same time; the oldest go where there are too many.
    pub(crate) fn prepare(
        &self,
        mut txn: Txn,
        actor: &Actor,
        now: SystemTime,
        above: u64,
        changes: Vec<v1::Change>,
    ) -> Result<(Txn, Vec<Arc<Record>>), serde_json::Error> {
        let records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        let last = records.back().map_or(0, |record| record.id);
        let first = last.max(to_micros(now)).max(above) + 1;
        let mut made = Vec::with_capacity(changes.len());
        for (id, change) in (first..).zip(changes) {
            let record = Record {
                id,
                millis: to_millis(now),
                actor: actor.name.clone(),
                role: actor.role.clone(),
                method: actor.method.clone(),
                change,
            };
            txn = txn
                .when(record.key(), Expect::Absent)
                .put(record.key(), serde_json::to_vec(&record)?);
            made.push(Arc::new(record));
        }
        let excess = (records.len() + made.len()).saturating_sub(MAX_RECORDS);
        for gone in records.iter().take(excess.min(MAX_TRIMMED)) {
            txn = txn.delete(gone.key());
        }
        Ok((txn, made))
    }

    /// Takes written records in.
    pub(crate) fn commit(&self, made: Vec<Arc<Record>>) {
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        for record in made {
            let place = records.partition_point(|other| other.id < record.id);
            // A watch may have been faster.
            if records.get(place).is_none_or(|other| other.id != record.id) {
                records.insert(place, record);
            }
        }
        while records.len() > MAX_RECORDS {
            records.pop_front();
        }
    }

    /// Takes in what another node wrote or deleted.
    pub(crate) fn take_event(&self, key: &str, value: Option<&[u8]>) {
        let id = key.strip_prefix(AUDIT).and_then(|id| id.parse::<u64>().ok());
        let Some(id) = id else { return };
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        let place = records.partition_point(|record| record.id < id);
        let known = records.get(place).is_some_and(|record| record.id == id);
        match value {
            None if known => drop(records.remove(place)),
            None => {}
            Some(_) if known => {}
            Some(value) => match serde_json::from_slice::<Record>(value) {
                Ok(record) if record.id == id => records.insert(place, Arc::new(record)),
                Ok(_) => tracing::warn!(key, "an audit record has another number than its key"),
                Err(error) => tracing::warn!(key, %error, "an audit record cannot be read"),
            },
        }
        while records.len() > MAX_RECORDS {
            records.pop_front();
        }
    }

    /// Records that `wanted` takes, newest first, with numbers below `before`, at most `limit`.
    pub(crate) fn list(
        &self,
        before: Option<u64>,
        limit: usize,
        wanted: impl Fn(&Record) -> bool,
    ) -> Vec<Arc<Record>> {
        let records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        let mut found = Vec::new();
        for record in records.iter().rev() {
            if found.len() >= limit {
                break;
            }
            if before.is_none_or(|before| record.id < before) && wanted(record) {
                found.push(Arc::clone(record));
            }
        }
        found
    }
}

/// Microseconds since 1970.
fn to_micros(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
}
