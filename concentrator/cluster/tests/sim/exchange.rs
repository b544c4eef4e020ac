//! What a served slot does: it writes before it answers, and sends packets below durable ceilings.

use std::time::Duration;

use cluster::{Fence, Input, keys};
use store::{StoreError, Txn, TxnOutcome};

use crate::client::Session;
use crate::shell::{BLOCK, Job, Live};
use crate::world::{What, World};

impl World {
    pub fn request(&mut self, node: usize, slot: u8, client: usize, session: u64, request: u64) {
        let boot = self.boot(node);
        let state = &mut self.nodes[node];
        let may = state.until.is_some_and(|until| boot < until);
        let Some(serving) = state.slots.get_mut(&slot) else {
            return;
        };
        if !may || !serving.up || serving.frozen || serving.rewriting {
            return;
        }
        let (generation, fence) = (serving.generation, serving.fence.clone());
        let Some(fence) = fence else { return };
        let fresh = self.random.next();
        let Some(serving) = self.nodes[node].slots.get_mut(&slot) else {
            return;
        };
        let mut replaces = Vec::new();
        let next = match serving.sessions.get_mut(&session) {
            Some(live) if live.busy => return,
            Some(live) if live.session.request == request => {
                let (answer, store) = (live.session.answer, self.etcd.identity);
                let after = self.random.ms(0.2, 2.0);
                self.after(
                    after,
                    What::Answer {
                        client,
                        store,
                        session,
                        id: request,
                        answer,
                    },
                );
                return;
            }
            Some(live) if live.session.request + 1 == request => {
                live.busy = true;
                // Every fourth request is a rekey.
                let (key, ceiling) = match request % 4 {
                    0 => (fresh ^ 0x55, BLOCK),
                    _ => (live.session.key, live.session.ceiling),
                };
                Session {
                    request,
                    answer: fresh,
                    key,
                    ceiling,
                    ..live.session.clone()
                }
            }
            Some(_) => return,
            None if request == 0 => {
                let before: Vec<&Live> = serving
                    .sessions
                    .values()
                    .filter(|live| live.session.client == client)
                    .collect();
                if before.iter().any(|live| live.busy) {
                    return;
                }
                replaces = before.iter().map(|live| live.session.id).collect();
                let used: Vec<u64> = serving
                    .sessions
                    .values()
                    .filter(|live| live.session.client != client)
                    .map(|live| live.session.address)
                    .collect();
                let address = (1..).find(|address| !used.contains(address)).unwrap_or(0);
                let new = Session {
                    id: session,
                    client,
                    request,
                    answer: fresh,
                    key: fresh ^ 0xaa,
                    address,
                    ceiling: BLOCK,
                    ceiling_generation: generation,
                };
                // Nothing is written of those that it replaces while it is.
                for id in &replaces {
                    if let Some(live) = serving.sessions.get_mut(id) {
                        live.busy = true;
                    }
                }
                // Its address is taken from here on.
                serving.sessions.insert(
                    session,
                    Live {
                        session: Session {
                            key: 0,
                            ..new.clone()
                        },
                        iv_generation: generation,
                        counter: 0,
                        limit: 0,
                        busy: true,
                    },
                );
                new
            }
            None => return,
        };
        self.write_session(node, slot, generation, &fence, next, true, replaces);
    }

    #[allow(clippy::too_many_arguments, reason = "what a write is made of")]
    fn write_session(
        &mut self,
        node: usize,
        slot: u8,
        generation: u64,
        fence: &Fence,
        session: Session,
        reply: bool,
        replaces: Vec<u64>,
    ) {
        self.trace(|| format!("n{node} slot {slot} {generation} writes {session:x?}"));
        let mut txn = fence
            .apply(Txn::new())
            .put(keys::record(slot, session.id), session.write());
        for id in &replaces {
            txn = txn.delete(keys::record(slot, *id));
        }
        let round = self.nodes[node]
            .slots
            .get(&slot)
            .map_or(0, |serving| serving.round);
        self.write(
            node,
            Job::Session {
                round,
                slot,
                generation,
                session,
                reply,
                replaces,
            },
            txn,
        );
    }

    /// A write of the shell was answered.
    pub fn written(&mut self, node: usize, job: Job, txn: Txn, outcome: Result<TxnOutcome, StoreError>) {
        self.trace(|| format!("n{node} {job:x?}: {outcome:?}"));
        let (slot, generation) = match &job {
            Job::Session { slot, generation, .. }
            | Job::Clean { slot, generation }
            | Job::Rewrite { slot, generation }
            | Job::Raise { slot, generation } => (*slot, *generation),
        };
        let committed = match outcome {
            Ok(outcome) => outcome.committed,
            Err(StoreError::WentBack { .. }) => false,
            Err(_) => {
                // Tried again until it is known, as long as the slot is ours.
                if self.serving(node, slot, generation).is_some() {
                    self.write(node, job, txn);
                    return;
                }
                // It has another generation by now: what its fence was for is asked for again.
                false
            }
        };
        match job {
            Job::Session {
                session,
                reply,
                replaces,
                round,
                ..
            } => {
                if self.nodes[node]
                    .slots
                    .get(&slot)
                    .is_some_and(|serving| serving.round != round)
                {
                    return;
                }
                if committed && reply {
                    let after = self.random.ms(0.2, 2.0);
                    let (client, id, answer) = (session.client, session.request, session.answer);
                    let store = self.etcd.identity - u64::from(self.etcd.is_fresh(self.now));
                    let record = self
                        .etcd
                        .get(&keys::record(slot, session.id))
                        .map(|item| item.value.clone());
                    let durable = record.as_deref().and_then(Session::read);
                    let same = self.etcd.is_fresh(self.now)
                        || durable.is_none_or(|durable| durable.request > id || durable.answer == answer);
                    if !same {
                        self.checker.fail(
                            self.now,
                            format!("S6: an answer to client {client} is not durable"),
                        );
                    }
                    let session = session.id;
                    self.after(
                        after,
                        What::Answer {
                            client,
                            store,
                            session,
                            id,
                            answer,
                        },
                    );
                }
                // The slot may have got another generation meanwhile, with its sessions.
                let Some(serving) = self.nodes[node].slots.get_mut(&slot) else {
                    return;
                };
                let present = serving.generation;
                if committed {
                    for id in replaces {
                        serving.sessions.remove(&id);
                    }
                    if let Some(live) = serving.sessions.get_mut(&session.id) {
                        live.busy = false;
                        if live.session.key != session.key {
                            (live.counter, live.iv_generation) = (1, present);
                            live.limit = BLOCK - 1;
                        }
                        if !reply {
                            live.limit = live.limit.max(session.ceiling - 1);
                        }
                        live.session = session;
                    }
                } else {
                    for id in replaces {
                        if let Some(live) = serving.sessions.get_mut(&id) {
                            live.busy = false;
                        }
                    }
                    match serving.sessions.get_mut(&session.id) {
                        Some(live) if live.session.key == 0 => {
                            serving.sessions.remove(&session.id);
                        }
                        Some(live) => live.busy = false,
                        None => {}
                    }
                    self.input(node, Input::Fenced { slot, generation });
                }
                self.maybe_frozen(node, slot);
            }
            Job::Clean { .. } => {
                if committed {
                    self.listed(node, slot, generation, Some(Vec::new()));
                } else {
                    self.input(node, Input::Fenced { slot, generation });
                }
            }
            Job::Rewrite { .. } => {
                if let Some(serving) = self.serving(node, slot, generation) {
                    serving.rewriting = false;
                    for live in serving.sessions.values_mut() {
                        live.busy = false;
                        if committed && live.session.key == 0 {
                            live.limit = 0;
                        }
                    }
                    serving.sessions.retain(|_, live| live.session.key != 0);
                }
                if !committed {
                    self.input(node, Input::Fenced { slot, generation });
                }
                self.maybe_frozen(node, slot);
            }
            Job::Raise { .. } => {
                let owner = self.etcd.text(&keys::owner(slot));
                let raised = self.etcd.number(&keys::generation(slot)) == generation + 1
                    && owner == Some(self.process(node));
                if (committed || raised)
                    && let Some(serving) = self.serving(node, slot, generation)
                {
                    serving.generation = generation + 1;
                    for live in serving.sessions.values_mut() {
                        live.iv_generation = generation + 1;
                    }
                    let process = self.process(node);
                    self.checker.served(self.now, &process, slot, generation + 1);
                    self.input(
                        node,
                        Input::Raised {
                            slot,
                            generation: generation + 1,
                        },
                    );
                    let fence = self.fence(node, slot);
                    if let Some(serving) = self.nodes[node].slots.get_mut(&slot) {
                        serving.fence = fence;
                    }
                }
            }
        }
    }

    /// An actor of the slot is restarted: the owner raises its own generation.
    pub fn raise(&mut self, node: usize, slot: u8) {
        let Some(serving) = self.nodes[node].slots.get(&slot) else {
            return;
        };
        let idle = serving.up && !serving.frozen && serving.sessions.values().all(|live| !live.busy);
        let (generation, fence) = (serving.generation, serving.fence.clone());
        if let Some(fence) = fence.filter(|_| idle) {
            let txn = fence
                .apply(Txn::new())
                .put(keys::generation(slot), (generation + 1).to_string());
            self.write(node, Job::Raise { slot, generation }, txn);
        }
    }

    // ---- packets -------------------------------------------------------------------------------------------------------

    /// Every node sends what it may.
    pub fn packets(&mut self) {
        self.after(Duration::from_millis(100), What::Packets);
        for node in 0..self.nodes.len() {
            let boot = self.boot(node);
            let state = &self.nodes[node];
            let may = state.until.is_some_and(|until| boot < until);
            if state.core.is_none() || state.paused.is_some() || !may {
                continue;
            }
            for slot in state.slots.keys().copied().collect::<Vec<_>>() {
                self.slot_packets(node, slot);
            }
        }
    }

    fn slot_packets(&mut self, node: usize, slot: u8) {
        let (reached, is_static) = (self.node_at(slot) == Some(node), self.nodes[node].is_static);
        let name = self.nodes[node].name.clone();
        let Some(serving) = self.nodes[node].slots.get_mut(&slot).filter(|serving| serving.up) else {
            return;
        };
        let (generation, fence, frozen) = (serving.generation, serving.fence.clone(), serving.frozen);
        let rewriting = serving.rewriting;
        let (mut sent, mut reserve) = (Vec::new(), Vec::new());
        for live in serving.sessions.values_mut().filter(|live| live.session.key != 0) {
            if is_static && live.counter + 2 > live.limit {
                // Ceilings are for the next owner's sake; nobody takes anything now.
                live.limit += BLOCK;
            }
            for _ in 0..2 {
                if live.counter <= live.limit && live.limit > 0 {
                    sent.push((
                        live.session.client,
                        live.session.key,
                        live.iv_generation,
                        live.counter,
                    ));
                    live.counter += 1;
                }
            }
            if live.counter + BLOCK / 2 > live.limit && !live.busy && !frozen && !rewriting {
                live.busy = true;
                reserve.push(Session {
                    ceiling: live.limit + 1 + BLOCK,
                    ceiling_generation: generation,
                    ..live.session.clone()
                });
            }
        }
        for (client, key, iv, counter) in sent {
            self.report.packets += 1;
            self.checker.packet(self.now, &name, key, iv, counter);
            if reached {
                self.clients[client].received = self.now;
            }
        }
        if let Some(fence) = fence {
            for session in reserve {
                self.write_session(node, slot, generation, &fence, session, false, Vec::new());
            }
        }
    }
}
