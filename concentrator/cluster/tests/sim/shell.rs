//! A model of the shell around a core: it restores, serves, freezes and puts down slots, writes before it answers, and
//! sends packets below durable ceilings.

use std::collections::BTreeMap;

use cluster::{Fence, Input, keys};
use store::Txn;

use crate::client::Session;
use crate::world::{Asker, Request, What, World};

/// Numbers that are reserved at once.
pub const BLOCK: u64 = 64;

/// A write of the shell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Job {
    /// A session after a request; the answer leaves when it is durable.
    Session {
        slot: u8,
        generation: u64,
        round: u64,
        session: Session,
        reply: bool,
        replaces: Vec<u64>,
    },
    /// All records of before are deleted.
    Clean { slot: u8, generation: u64 },
    /// All records are written again.
    Rewrite { slot: u8, generation: u64 },
    /// The owner's own new generation.
    Raise { slot: u8, generation: u64 },
}

/// A session that is served.
#[derive(Clone, Debug)]
pub struct Live {
    pub session: Session,
    /// The generation in its IVs.
    pub iv_generation: u64,
    pub counter: u64,
    pub limit: u64,
    /// A write is under way.
    pub busy: bool,
}

/// A slot that is served.
#[derive(Clone, Debug)]
pub struct Serving {
    pub generation: u64,
    pub fence: Option<Fence>,
    pub up: bool,
    pub frozen: bool,
    pub asked_to_freeze: bool,
    /// All records are being written again: nothing else is.
    pub rewriting: bool,
    /// Answers to writes of before, or of an earlier tenure, do not count.
    pub round: u64,
    pub sessions: BTreeMap<u64, Live>,
}

impl World {
    pub fn serve(&mut self, node: usize, slot: u8, generation: u64, epoch: u64, keep: bool, _planned: bool) {
        let process = self.process(node);
        self.trace(|| format!("{process} serves slot {slot} generation {generation} epoch {epoch}"));
        self.checker.served(self.now, &process, slot, generation);
        self.report.serves += 1;
        self.serve_log.push((self.now, node, slot, generation));
        if self.nodes[node].slots.contains_key(&slot) {
            self.checker
                .fail(self.now, format!("order: {process} serves slot {slot} twice"));
        }
        let fence = self.fence(node, slot);
        self.serial += 1;
        let round = self.serial;
        self.nodes[node].slots.insert(
            slot,
            Serving {
                generation,
                fence: fence.clone(),
                up: false,
                frozen: false,
                asked_to_freeze: false,
                rewriting: false,
                round,
                sessions: BTreeMap::new(),
            },
        );
        if keep {
            self.ask(node, Request::List { slot, generation });
        } else if let Some(fence) = fence {
            let txn = fence.apply(Txn::new());
            let txn = Txn {
                then: vec![store::Op::DeletePrefix {
                    prefix: keys::records(slot),
                }],
                ..txn
            };
            self.write(node, Job::Clean { slot, generation }, txn);
        }
    }

    pub fn fence(&self, node: usize, slot: u8) -> Option<Fence> {
        self.nodes[node].core.as_ref()?.fence(slot)
    }

    pub fn write(&mut self, node: usize, job: Job, txn: Txn) {
        self.ask(
            node,
            Request::Txn {
                from: Asker::Shell(job),
                txn,
            },
        );
    }

    pub fn serving(&mut self, node: usize, slot: u8, generation: u64) -> Option<&mut Serving> {
        self.nodes[node]
            .slots
            .get_mut(&slot)
            .filter(|serving| serving.generation == generation)
    }

    pub fn listed(&mut self, node: usize, slot: u8, generation: u64, records: Option<Vec<Vec<u8>>>) {
        if self.serving(node, slot, generation).is_none() {
            return;
        }
        let Some(records) = records else {
            self.ask(node, Request::List { slot, generation });
            return;
        };
        for record in records {
            let Some(session) = Session::read(&record) else {
                continue;
            };
            // Those of owners between, who may have gone on by a block each without having written.
            let skipped = generation
                .saturating_sub(session.ceiling_generation)
                .saturating_sub(1);
            let counter = session.ceiling + 1 + skipped.min(1 << 20) * BLOCK;
            let live = Live {
                iv_generation: generation,
                counter,
                limit: counter + BLOCK - 1,
                busy: false,
                session,
            };
            if let Some(serving) = self.serving(node, slot, generation) {
                serving.sessions.insert(live.session.id, live);
            }
        }
        let (from, to) = if self.nodes[node].slow {
            (500.0, 3_000.0)
        } else {
            (3.0, 40.0)
        };
        let after = self.random.ms(from, to);
        let life = self.nodes[node].life;
        self.after(
            after,
            What::Up {
                node,
                life,
                slot,
                generation,
            },
        );
    }

    pub fn address_up(&mut self, node: usize, slot: u8, generation: u64) {
        let now = self.now;
        let Some(serving) = self.serving(node, slot, generation) else {
            return;
        };
        serving.up = true;
        let fails = self.nodes[node].slow && self.random.percent(20);
        if fails {
            let reason = "simulated".to_owned();
            self.input(
                node,
                Input::Failed {
                    slot,
                    generation,
                    reason,
                },
            );
            return;
        }
        self.ready_log.push((now, node, slot, generation));
        let holders = self.addresses.entry(slot).or_default();
        holders.retain(|(holder, _)| *holder != node);
        holders.push((node, generation));
        self.input(node, Input::Ready { slot, generation });
    }

    pub fn freeze(&mut self, node: usize, slot: u8, generation: u64) {
        self.freeze_log.push((self.now, node, slot));
        if let Some(serving) = self.serving(node, slot, generation) {
            (serving.frozen, serving.asked_to_freeze) = (true, true);
            self.maybe_frozen(node, slot);
        }
    }

    /// Says that everything is written once it is.
    pub fn maybe_frozen(&mut self, node: usize, slot: u8) {
        let Some(serving) = self.nodes[node].slots.get_mut(&slot) else {
            return;
        };
        if serving.asked_to_freeze && serving.sessions.values().all(|live| !live.busy) {
            serving.asked_to_freeze = false;
            let generation = serving.generation;
            let (life, after) = (self.nodes[node].life, self.random.ms(0.5, 8.0));
            self.after(
                after,
                What::Input {
                    node,
                    life,
                    input: Input::Frozen { slot, generation },
                },
            );
        }
    }

    pub fn thaw(&mut self, node: usize, slot: u8, generation: u64) {
        self.report.thaws += 1;
        if let Some(serving) = self.serving(node, slot, generation) {
            (serving.frozen, serving.asked_to_freeze) = (false, false);
        }
    }

    pub fn drop_slot(&mut self, node: usize, slot: u8, generation: u64) {
        let known = self.serving(node, slot, generation).is_some();
        if !known {
            let name = self.nodes[node].name.clone();
            self.checker.fail(
                self.now,
                format!("order: {name} drops slot {slot} generation {generation}, not served"),
            );
        }
        let process = self.process(node);
        self.checker.dropped(&process, slot, generation);
        self.nodes[node].slots.remove(&slot);
        self.addresses
            .entry(slot)
            .or_default()
            .retain(|(holder, _)| *holder != node);
        let (life, after) = (self.nodes[node].life, self.random.ms(0.2, 20.0));
        self.after(
            after,
            What::Input {
                node,
                life,
                input: Input::Stopped { slot, generation },
            },
        );
    }

    pub fn refence(&mut self, node: usize, slot: u8, generation: u64, epoch: u64) {
        self.report.refences += 1;
        let process = self.process(node);
        self.trace(|| format!("{process} keeps slot {slot} with generation {generation} epoch {epoch}"));
        self.checker.served(self.now, &process, slot, generation);
        let fence = self.fence(node, slot);
        let Some(serving) = self.nodes[node].slots.get_mut(&slot) else {
            return;
        };
        (serving.generation, serving.fence) = (generation, fence.clone());
        for holders in self.addresses.get_mut(&slot).into_iter().flatten() {
            if holders.0 == node {
                holders.1 = generation;
            }
        }
        let Some(fence) = fence else { return };
        self.rewrite(node, slot, generation, &fence);
    }

    fn rewrite(&mut self, node: usize, slot: u8, generation: u64, fence: &Fence) {
        self.serial += 1;
        let round = self.serial;
        let stale: Vec<String> = {
            let prefix = keys::records(slot);
            self.etcd
                .state
                .keys
                .range(prefix.clone()..)
                .take_while(|(key, _)| key.starts_with(&prefix))
                .map(|(key, _)| key.clone())
                .collect()
        };
        let Some(serving) = self.nodes[node].slots.get_mut(&slot) else {
            return;
        };
        serving.rewriting = true;
        serving.round = round;
        let mut txn = fence.apply(Txn::new());
        for live in serving.sessions.values_mut() {
            // What may be used is what was ever reserved.
            live.session.ceiling = live.limit + BLOCK;
            live.session.ceiling_generation = generation;
            live.busy = true;
            txn = txn.put(keys::record(slot, live.session.id), live.session.write());
        }
        for key in stale {
            let kept = txn
                .then
                .iter()
                .any(|op| matches!(op, store::Op::Put { key: put, .. } if *put == key));
            if !kept {
                txn = txn.delete(key);
            }
        }
        self.write(node, Job::Rewrite { slot, generation }, txn);
    }
}
