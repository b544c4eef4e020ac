//! Requests to the store on their way: delays, cut links, lost answers, a store that stands still.

use std::time::Duration;

use cluster::Input;
use cluster::keys::{Path, Process};
use store::{Op, StoreError, Txn};

use crate::world::{Flight, Request, What, World};

/// How long a node waits for the store.
const PATIENCE: Duration = Duration::from_secs(2);

impl World {
    pub fn ask(&mut self, node: usize, request: Request) {
        let life = self.nodes[node].life;
        self.serial += 1;
        let id = self.serial;
        if matches!(request, Request::Txn { .. }) {
            self.nodes[node].asked += 1;
            let most = 16 + usize::from(self.options.slots) * 4 + self.options.clients * 2;
            if self.nodes[node].asked > most {
                self.checker.fail(
                    self.now,
                    format!("S14: n{node} has more than {most} requests under way"),
                );
            }
        }
        self.requests.insert(
            id,
            Flight {
                request: request.clone(),
                node,
                applied: false,
                queued: false,
                given_up: false,
            },
        );
        self.after(PATIENCE, What::GiveUp { node, life, id });
        if self.store_links[node] && !self.random.percent(self.noise) {
            let after = self.random.ms(0.3, 2.0);
            self.after(
                after,
                What::Arrive {
                    node,
                    life,
                    id,
                    request,
                },
            );
        }
    }

    pub fn arrive(&mut self, node: usize, life: u32, id: u64, request: Request) {
        if !self.store_links[node] {
            return;
        }
        if !self.etcd.is_up(self.now) {
            if let Some(flight) = self.requests.get_mut(&id) {
                flight.queued = true;
                let back = self.etcd.down_until + Duration::from_millis(5);
                self.at(
                    back,
                    What::Arrive {
                        node,
                        life,
                        id,
                        request,
                    },
                );
            }
            return;
        }
        let Some(flight) = self.requests.get_mut(&id) else {
            return;
        };
        flight.applied = true;
        let given_up = flight.given_up;
        let alive = self.nodes[node].life == life && self.nodes[node].core.is_some();
        let old = alive && self.nodes[node].identity != self.etcd.identity;
        if old {
            // The client sees at the first answer that the store is not what it was.
            self.nodes[node].identity = self.etcd.identity;
            self.nodes[node].follower = None;
            let after = self.random.ms(0.3, 3.0);
            self.after(
                after,
                What::Input {
                    node,
                    life,
                    input: Input::WentBack,
                },
            );
        }
        let lost = self.random.percent(self.noise);
        let after = self.random.ms(0.3, 3.0);
        match request {
            Request::Txn { from, txn } => {
                let outcome = match old {
                    true => Err(StoreError::WentBack {
                        reason: "another cluster".into(),
                    }),
                    false => self.commit(node, &txn),
                };
                if given_up {
                    self.requests.remove(&id);
                } else if !lost || self.random.percent(50) {
                    self.requests.remove(&id);
                    let done = What::TxnDone {
                        node,
                        life,
                        from,
                        txn,
                        outcome,
                    };
                    if lost {
                        let (identity, done) = (self.etcd.identity, Box::new(done));
                        let late = self.random.ms(50.0, 1_900.0);
                        self.after(late, What::FoundOut { node, identity, done });
                    } else {
                        self.after(after, done);
                    }
                }
            }
            Request::Grant { sent } => {
                let lease = self.etcd.grant(crate::world::TTL, self.now);
                self.requests.remove(&id);
                if self.nodes[node].life == life {
                    self.nodes[node].lease = Some(lease);
                    self.nodes[node].acked = Some(sent);
                    self.after(
                        after,
                        What::Input {
                            node,
                            life,
                            input: Input::LeaseGranted { lease, sent },
                        },
                    );
                }
            }
            Request::Keep { lease, sent } => {
                self.requests.remove(&id);
                let well = self.etcd.keep_alive(lease, self.now);
                if lost || self.nodes[node].lease != Some(lease) {
                    return;
                }
                let input = match well {
                    true => Input::LeaseAlive { sent },
                    false => Input::LeaseLost,
                };
                self.nodes[node].acked = self.nodes[node].acked.max(well.then_some(sent));
                self.after(after, What::Input { node, life, input });
            }
            Request::Revoke { lease } => {
                self.requests.remove(&id);
                let events = self.etcd.revoke(lease.0);
                self.publish(&events);
            }
            Request::List { slot, generation } => {
                self.requests.remove(&id);
                let prefix = cluster::keys::records(slot);
                let records = self
                    .etcd
                    .state
                    .keys
                    .range(prefix.clone()..)
                    .take_while(|(key, _)| key.starts_with(&prefix))
                    .map(|(_, item)| item.value.clone())
                    .collect();
                let records = Some(records);
                self.after(
                    after,
                    What::Listed {
                        node,
                        life,
                        slot,
                        generation,
                        records,
                    },
                );
            }
        }
    }

    /// No answer came in time.
    pub fn give_up(&mut self, node: usize, life: u32, id: u64) {
        let Some(flight) = self.requests.get_mut(&id) else {
            return;
        };
        flight.given_up = true;
        let (applied, queued) = (flight.applied, flight.queued);
        let request = flight.request.clone();
        // What waits in a store that stands still may happen later.
        let known_not = !applied && (!queued || self.random.percent(50));
        if known_not || applied {
            self.requests.remove(&id);
        }
        if self.nodes[node].life != life {
            return;
        }
        match request {
            Request::Txn { from, txn } => {
                let reason = "no answer".to_owned();
                let outcome = Err(match known_not {
                    true => StoreError::Unavailable { reason },
                    false => StoreError::Indeterminate { reason },
                });
                self.after(
                    Duration::ZERO,
                    What::TxnDone {
                        node,
                        life,
                        from,
                        txn,
                        outcome,
                    },
                );
            }
            Request::Grant { .. } => {
                self.requests.remove(&id);
                self.after(
                    Duration::ZERO,
                    What::Input {
                        node,
                        life,
                        input: Input::LeaseLost,
                    },
                );
            }
            Request::Keep { .. } | Request::Revoke { .. } => {
                self.requests.remove(&id);
            }
            Request::List { slot, generation } => {
                self.requests.remove(&id);
                self.after(
                    Duration::ZERO,
                    What::Listed {
                        node,
                        life,
                        slot,
                        generation,
                        records: None,
                    },
                );
            }
        }
    }

    fn commit(&mut self, node: usize, txn: &Txn) -> Result<store::TxnOutcome, StoreError> {
        // A write whose outcome was not known does not happen after a later one of the same node to the same keys.
        let keys: Vec<&String> = writes(txn).collect();
        self.requests.retain(|_, flight| match &flight.request {
            Request::Txn { txn: other, .. } => {
                !(flight.given_up && flight.node == node && writes(other).any(|key| keys.contains(&key)))
            }
            _ => true,
        });
        let (outcome, events) = self.etcd.txn(txn)?;
        if outcome.committed {
            self.check_commit(node, txn);
        }
        self.publish(&events);
        Ok(outcome)
    }

    fn check_commit(&mut self, node: usize, txn: &Txn) {
        let ops = txn.then.clone();
        for op in &ops {
            let Op::Put { key, value, .. } = op else { continue };
            if let Some(Path::Generation(slot)) = Path::parse(key) {
                let generation = String::from_utf8_lossy(value).parse().unwrap_or(0);
                self.checker.committed(self.now, slot, generation);
            } else if key.contains("/sa/") {
                self.check_record(node, key, value);
            }
        }
    }

    /// S4: whoever writes a record owns the slot, with the generation that it has; S7: an address has one session.
    fn check_record(&mut self, node: usize, key: &str, value: &[u8]) {
        let slot: u8 = key.get(5..8).and_then(|slot| slot.parse().ok()).unwrap_or(255);
        let owner = self.etcd.text(&cluster::keys::owner(slot)).unwrap_or_default();
        let process = Process::parse(&owner);
        if process.is_none_or(|process| process.name != self.nodes[node].name) {
            let name = self.nodes[node].name.clone();
            self.checker.fail(
                self.now,
                format!("S4: {name} wrote a record of slot {slot}, whose owner is {owner:?}"),
            );
        }
        let Some(written) = crate::client::Session::read(value) else {
            return;
        };
        let prefix = cluster::keys::records(slot);
        let taken = self
            .etcd
            .state
            .keys
            .range(prefix.clone()..)
            .take_while(|(other, _)| other.starts_with(&prefix))
            .filter(|(other, _)| *other != key)
            .filter_map(|(_, item)| crate::client::Session::read(&item.value))
            .any(|other| other.address == written.address);
        if taken {
            let address = written.address;
            self.checker.fail(
                self.now,
                format!("S7: address {address} of slot {slot} belongs to two sessions"),
            );
        }
    }

    /// Leases end, followers list again, those that lost the store find it.
    pub fn store_tick(&mut self) {
        self.after(Duration::from_millis(50), What::Store);
        if self.etcd.is_up(self.now) {
            let events = self.etcd.expire(self.now);
            self.publish(&events);
            let round = (self.now.as_millis() / 50) as usize;
            for node in 0..self.nodes.len() {
                if self.nodes[node].core.is_none() || !self.store_links[node] {
                    continue;
                }
                let same = self.nodes[node].identity == self.etcd.identity;
                if self.nodes[node].follower.is_none() {
                    if same && round % 4 == node % 4 {
                        self.follow(node);
                    }
                } else if !same {
                    if self.random.percent(10) {
                        let life = self.nodes[node].life;
                        self.nodes[node].follower = None;
                        self.nodes[node].identity = self.etcd.identity;
                        self.after(
                            Duration::ZERO,
                            What::Input {
                                node,
                                life,
                                input: Input::Stale,
                            },
                        );
                        self.after(
                            Duration::ZERO,
                            What::Input {
                                node,
                                life,
                                input: Input::WentBack,
                            },
                        );
                    }
                } else if round % 100 == node * 7 {
                    self.list(node);
                }
            }
        }
    }
}

fn writes(txn: &Txn) -> impl Iterator<Item = &String> {
    txn.then.iter().filter_map(|op| match op {
        Op::Put { key, .. } | Op::Delete { key } => Some(key),
        Op::DeletePrefix { .. } => None,
    })
}
