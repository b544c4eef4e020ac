//! Attempt records in memory: a ring for each tenant, one for attempts whose tenant is not known, and a broadcast.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use tokio::sync::broadcast;

use crate::attempt::AttemptRecord;

/// Records kept of each tenant; the oldest goes when another comes.
pub const PER_TENANT: usize = 1_000;
/// Records kept of attempts whose tenant is not known.
pub const PENDING: usize = 10_000;
/// Tenants with a ring of their own; records of more go to the pending ring.
pub const MAX_TENANTS: usize = 10_000;
/// Records that a watch may fall behind.
const WATCH_BACKLOG: usize = 1_024;

/// A record with its number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Numbered {
    /// Rises by one with every record.
    pub id: u64,
    /// The record.
    pub record: AttemptRecord,
}

/// Which attempts are meant. Empty fields do not restrict.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AttemptFilter {
    /// Exactly this tenant.
    pub tenant: Option<String>,
    /// From this remote address.
    pub address: Option<std::net::IpAddr>,
    /// The claimed identity contains this (compared without case).
    pub identity: Option<String>,
    /// Not before.
    pub since: Option<SystemTime>,
    /// Before.
    pub until: Option<SystemTime>,
    /// Only failures.
    pub failed_only: bool,
}

impl AttemptFilter {
    /// Whether a record is meant.
    pub fn matches(&self, record: &AttemptRecord) -> bool {
        let identity = |part: &String| record.peer_id.to_lowercase().contains(&part.to_lowercase());
        self.tenant
            .as_ref()
            .is_none_or(|tenant| record.tenant.as_ref() == Some(tenant))
            && self.address.is_none_or(|address| record.remote.ip() == address)
            && self.identity.as_ref().is_none_or(identity)
            && self.since.is_none_or(|since| record.time >= since)
            && self.until.is_none_or(|until| record.time < until)
            && (!self.failed_only || record.is_failed())
    }
}

struct Rings {
    next_id: u64,
    pending: VecDeque<Arc<Numbered>>,
    tenants: BTreeMap<String, VecDeque<Arc<Numbered>>>,
}

/// The attempts of this node. Cheap to share; every method can be called from any thread and never blocks long.
pub struct Attempts {
    rings: Mutex<Rings>,
    publisher: broadcast::Sender<Arc<Numbered>>,
}

impl Default for Attempts {
    fn default() -> Self {
        Self::new()
    }
}

impl Attempts {
    /// Empty rings.
    pub fn new() -> Self {
        let rings = Rings {
            next_id: 1,
            pending: VecDeque::new(),
            tenants: BTreeMap::new(),
        };
        Self {
            rings: Mutex::new(rings),
            publisher: broadcast::channel(WATCH_BACKLOG).0,
        }
    }

    /// Keeps a record, cut to its limits, and tells the watches. Returns its number.
    pub fn record(&self, mut record: AttemptRecord) -> u64 {
        record.bound();
        let mut rings = self.rings.lock().unwrap_or_else(PoisonError::into_inner);
        let id = rings.next_id;
        rings.next_id += 1;
        let numbered = Arc::new(Numbered { id, record });
        let (ring, limit) = match &numbered.record.tenant {
            Some(tenant) if rings.tenants.contains_key(tenant) || rings.tenants.len() < MAX_TENANTS => {
                (rings.tenants.entry(tenant.clone()).or_default(), PER_TENANT)
            }
            _ => (&mut rings.pending, PENDING),
        };
        if ring.len() >= limit {
            ring.pop_front();
        }
        ring.push_back(Arc::clone(&numbered));
        drop(rings);
        // No watch is no error.
        let _ = self.publisher.send(numbered);
        id
    }

    /// Records that match, newest first, with numbers below `before`, at most `limit`.
    pub fn list(&self, filter: &AttemptFilter, before: Option<u64>, limit: usize) -> Vec<Arc<Numbered>> {
        let rings = self.rings.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = |entry: &&Arc<Numbered>| {
            before.is_none_or(|before| entry.id < before) && filter.matches(&entry.record)
        };
        let mut found: Vec<Arc<Numbered>> = match &filter.tenant {
            // Records of the tenant may have gone to the pending ring.
            Some(tenant) => {
                let own = rings.tenants.get(tenant).into_iter().flatten();
                own.chain(&rings.pending).filter(wanted).cloned().collect()
            }
            None => {
                let all = rings.tenants.values().flatten();
                all.chain(&rings.pending).filter(wanted).cloned().collect()
            }
        };
        drop(rings);
        found.sort_unstable_by_key(|entry| std::cmp::Reverse(entry.id));
        found.truncate(limit);
        found
    }

    /// Records from here on; a reader that falls too far behind loses the oldest.
    pub fn watch(&self) -> broadcast::Receiver<Arc<Numbered>> {
        self.publisher.subscribe()
    }

    /// Forgets a deleted tenant's records.
    pub fn forget_tenant(&self, tenant: &str) {
        self.rings
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .tenants
            .remove(tenant);
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        reason = "tests"
    )]

    use super::*;
    use crate::attempt::Outcome;
    use std::time::Duration;

    fn record(tenant: Option<&str>, second: u64, peer: &str) -> AttemptRecord {
        let mut record = AttemptRecord::new(
            SystemTime::UNIX_EPOCH + Duration::from_secs(second),
            "192.0.2.7:4500".parse().unwrap(),
            "198.51.100.1:500".parse().unwrap(),
        );
        record.tenant = tenant.map(str::to_owned);
        record.peer_id = peer.to_owned();
        record
    }

    #[test]
    fn rings_are_bounded_and_apart() {
        let attempts = Attempts::new();
        attempts.record(record(Some("quiet"), 0, "a"));
        for second in 0..PER_TENANT as u64 + 10 {
            attempts.record(record(Some("noisy"), second, "b"));
        }
        for second in 0..PENDING as u64 + 10 {
            attempts.record(record(None, second, "c"));
        }
        let of = |tenant: &str| {
            let filter = AttemptFilter {
                tenant: Some(tenant.to_owned()),
                ..Default::default()
            };
            attempts.list(&filter, None, usize::MAX).len()
        };
        assert_eq!((of("quiet"), of("noisy"), of("nobody")), (1, PER_TENANT, 0));
        assert_eq!(
            attempts.list(&AttemptFilter::default(), None, usize::MAX).len(),
            1 + PER_TENANT + PENDING
        );
    }

    #[test]
    fn lists_are_newest_first_and_paged() {
        let attempts = Attempts::new();
        for second in 0..10 {
            attempts.record(record(
                if second % 2 == 0 { Some("a") } else { None },
                second,
                "Alice@x",
            ));
        }
        let first = attempts.list(&AttemptFilter::default(), None, 4);
        assert_eq!(
            first.iter().map(|entry| entry.id).collect::<Vec<_>>(),
            [10, 9, 8, 7]
        );
        let second = attempts.list(&AttemptFilter::default(), Some(first[3].id), 100);
        assert_eq!(second.len(), 6);
    }

    #[test]
    fn filters_restrict() {
        let attempts = Attempts::new();
        let mut good = record(Some("a"), 5, "alice@acme");
        good.outcome = Outcome::Established {
            session_id: "1".into(),
        };
        attempts.record(good);
        attempts.record(record(Some("a"), 6, "bob@acme"));
        let count = |filter: AttemptFilter| attempts.list(&filter, None, 100).len();
        assert_eq!(
            count(AttemptFilter {
                failed_only: true,
                ..Default::default()
            }),
            1
        );
        assert_eq!(
            count(AttemptFilter {
                identity: Some("ALICE".into()),
                ..Default::default()
            }),
            1
        );
        assert_eq!(
            count(AttemptFilter {
                address: Some("192.0.2.8".parse().unwrap()),
                ..Default::default()
            }),
            0
        );
        let at = |second| Some(SystemTime::UNIX_EPOCH + Duration::from_secs(second));
        assert_eq!(
            count(AttemptFilter {
                since: at(6),
                ..Default::default()
            }),
            1
        );
        assert_eq!(
            count(AttemptFilter {
                until: at(6),
                ..Default::default()
            }),
            1
        );
    }

    #[test]
    fn watches_see_new_records() {
        let attempts = Attempts::new();
        attempts.record(record(None, 1, "before"));
        let mut watch = attempts.watch();
        attempts.record(record(None, 2, "after"));
        assert_eq!(watch.try_recv().unwrap().record.peer_id, "after");
        assert!(watch.try_recv().is_err());
    }
}
