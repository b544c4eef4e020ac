//! A model of etcd: keys, leases, transactions, backups; and what the checks want to know of its history.

use std::collections::BTreeMap;
use std::time::Duration;

use store::{LeaseId, Op, Revision, StoreError, Txn, TxnOutcome, WatchEvent};

#[derive(Clone, Debug)]
pub struct Item {
    pub value: Vec<u8>,
    pub revision: Revision,
    pub lease: Option<u64>,
}

#[derive(Clone, Debug, Default)]
pub struct State {
    pub keys: BTreeMap<String, Item>,
    pub revision: Revision,
    /// Lease → (time to live, end).
    pub leases: BTreeMap<u64, (Duration, Duration)>,
}

#[derive(Debug, Default)]
pub struct Etcd {
    pub state: State,
    /// Which store this is: another one after a restore.
    pub identity: u64,
    next_lease: u64,
    /// Down until then.
    pub down_until: Duration,
    /// Leases that are confirmed although they have ended, until then.
    pub zombies: BTreeMap<u64, Duration>,
    pub backup: Option<State>,
    /// When it was restored.
    pub restored: Duration,
}

impl Etcd {
    pub fn is_up(&self, now: Duration) -> bool {
        now >= self.down_until
    }

    pub fn get(&self, key: &str) -> Option<&Item> {
        self.state.keys.get(key)
    }

    pub fn text(&self, key: &str) -> Option<String> {
        self.get(key)
            .map(|item| String::from_utf8_lossy(&item.value).into_owned())
    }

    pub fn number(&self, key: &str) -> u64 {
        self.text(key).and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    pub fn grant(&mut self, ttl: Duration, now: Duration) -> LeaseId {
        self.next_lease += 1;
        let id = self.identity * 1_000_000 + self.next_lease;
        self.state.leases.insert(id, (ttl, now + ttl));
        LeaseId(id)
    }

    /// Whether the lease is said to live.
    pub fn keep_alive(&mut self, lease: LeaseId, now: Duration) -> bool {
        if let Some((ttl, end)) = self.state.leases.get_mut(&lease.0) {
            *end = now + *ttl;
            return true;
        }
        self.zombies.get(&lease.0).is_some_and(|until| now < *until)
    }

    pub fn revoke(&mut self, lease: u64) -> Vec<WatchEvent> {
        self.state.leases.remove(&lease);
        let gone: Vec<String> = self
            .state
            .keys
            .iter()
            .filter(|(_, item)| item.lease == Some(lease))
            .map(|(key, _)| key.clone())
            .collect();
        if gone.is_empty() {
            return Vec::new();
        }
        self.state.revision += 1;
        gone.into_iter()
            .map(|key| {
                self.state.keys.remove(&key);
                WatchEvent {
                    revision: self.state.revision,
                    key,
                    value: None,
                }
            })
            .collect()
    }

    /// Ends leases, some a little late.
    pub fn expire(&mut self, now: Duration) -> Vec<WatchEvent> {
        let ended: Vec<u64> = self
            .state
            .leases
            .iter()
            .filter(|(_, (_, end))| now >= *end + Duration::from_millis(100))
            .map(|(lease, _)| *lease)
            .collect();
        ended.into_iter().flat_map(|lease| self.revoke(lease)).collect()
    }

    /// A new leader lets all leases live for their whole time again.
    pub fn renew_all(&mut self, now: Duration) {
        for (ttl, end) in self.state.leases.values_mut() {
            *end = now + *ttl;
        }
    }

    fn revision_of(&self, key: &str) -> Option<Revision> {
        self.get(key).map(|item| item.revision)
    }

    pub fn txn(&mut self, txn: &Txn) -> Result<(TxnOutcome, Vec<WatchEvent>), StoreError> {
        let mut committed = true;
        let mut found = None;
        for compare in &txn.compares {
            let present = self.revision_of(&compare.key);
            if !compare.expect.holds(present) && committed {
                (committed, found) = (false, present);
            }
        }
        for compare in &txn.values {
            let same = self
                .get(&compare.key)
                .is_some_and(|item| item.value == compare.value);
            if !same && committed {
                (committed, found) = (false, self.revision_of(&compare.key));
            }
        }
        let ops = if committed { &txn.then } else { &txn.otherwise };
        for op in ops {
            if let Op::Put {
                lease: Some(lease), ..
            } = op
                && !self.state.leases.contains_key(&lease.0)
            {
                return Err(StoreError::LeaseNotFound(*lease));
            }
        }
        let mut events = Vec::new();
        if !ops.is_empty() {
            self.state.revision += 1;
        }
        let revision = self.state.revision;
        for op in ops {
            match op {
                Op::Put { key, value, lease } => {
                    self.state.keys.insert(
                        key.clone(),
                        Item {
                            value: value.clone(),
                            revision,
                            lease: lease.map(|lease| lease.0),
                        },
                    );
                    events.push(WatchEvent {
                        revision,
                        key: key.clone(),
                        value: Some(value.clone()),
                    });
                }
                Op::Delete { key } => {
                    if self.state.keys.remove(key).is_some() {
                        events.push(WatchEvent {
                            revision,
                            key: key.clone(),
                            value: None,
                        });
                    }
                }
                Op::DeletePrefix { prefix } => {
                    let gone: Vec<String> = self
                        .state
                        .keys
                        .range(prefix.clone()..)
                        .take_while(|(key, _)| key.starts_with(prefix.as_str()))
                        .map(|(key, _)| key.clone())
                        .collect();
                    for key in gone {
                        self.state.keys.remove(&key);
                        events.push(WatchEvent {
                            revision,
                            key,
                            value: None,
                        });
                    }
                }
            }
        }
        Ok((
            TxnOutcome {
                committed,
                revision,
                found,
            },
            events,
        ))
    }

    /// Whether answers of before the restore may be under way.
    pub fn is_fresh(&self, now: Duration) -> bool {
        self.identity > 0 && now < self.restored + Duration::from_millis(10)
    }

    pub fn take_backup(&mut self) {
        self.backup = Some(self.state.clone());
    }

    /// Becomes what it was at the backup; `None`: nothing at all.
    pub fn restore(&mut self, backup: Option<State>, now: Duration) {
        self.state = backup.unwrap_or_default();
        self.identity += 1;
        self.restored = now;
        self.zombies.clear();
    }
}
