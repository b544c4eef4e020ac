//! The core: facts in, decisions out.
//!
//! An input changes facts only. After each, everything is compared with what it should be (`evaluate`), and what is
//! missing is begun; so the order in which facts come does not matter, and nothing is forgotten when one is lost.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

use store::{StoreError, Txn, TxnOutcome};

use crate::api::{Boot, Input, Output, Settings};
use crate::epoch::Epochs;
use crate::event::{Counters, Event};
use crate::fence::Fence;
use crate::heartbeat::{self, Flags, Heartbeat, Hold, MAX_NODES, Message, SlotBeat, Suspect, node_id};
use crate::keys::{MAX_ADDRESSES, Process};
use crate::lease::Lease;
use crate::member::{Heard, Peer};
use crate::order::Orders;
use crate::slot::{Slot, State};
use crate::view::View;

/// Between two heartbeats that are sent because something has changed.
const HURRY: Boot = Boot::from_millis(5);
/// A node that is no member and has no card is forgotten after such a silence.
const FORGOTTEN: Boot = Boot::from_secs(600);

/// Why a transaction was sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Job {
    /// The own card.
    Card,
    /// The own membership.
    Member,
    /// A claim.
    Claim {
        slot: u8,
        generation: u64,
        epoch: u64,
        keep: bool,
    },
    /// The owner key of a held slot is written again.
    Rebind { slot: u8, generation: u64 },
    /// A slot is given to another node.
    Hand { slot: u8, generation: u64 },
    /// A slot is given to nobody.
    Release { slot: u8 },
    /// A slot is kept over a new epoch.
    Refence { slot: u8, generation: u64, epoch: u64 },
    /// A wish that is fulfilled is taken away.
    Wished { slot: u8 },
    /// A new epoch.
    Epoch { epoch: u64 },
    /// An operator's order.
    Order { id: u64, text: String },
    /// The last step of leaving.
    Left,
}

impl Job {
    fn slot(&self) -> Option<u8> {
        match self {
            Job::Claim { slot, .. }
            | Job::Rebind { slot, .. }
            | Job::Hand { slot, .. }
            | Job::Release { slot }
            | Job::Refence { slot, .. }
            | Job::Wished { slot } => Some(*slot),
            Job::Card | Job::Member | Job::Epoch { .. } | Job::Order { .. } | Job::Left => None,
        }
    }
}

/// A transaction that waits for its answer.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) job: Job,
    sent: Boot,
    era: u64,
    txn: Txn,
}

/// The decisions of one node. See the crate's documentation for the order of calls.
#[derive(Debug)]
pub struct Core {
    pub(crate) settings: Settings,
    pub(crate) id: u64,
    pub(crate) process: Process,
    pub(crate) now: Boot,
    pub(crate) started: Boot,
    /// From when on silence counts: later than the start after a pause of our own.
    pub(crate) listening: Boot,
    pub(crate) view: View,
    pub(crate) peers: BTreeMap<String, Peer>,
    pub(crate) lease: Lease,
    pub(crate) epochs: Epochs,
    pub(crate) slots: BTreeMap<u8, Slot>,
    pub(crate) orders: Orders,
    pub(crate) service: bool,
    /// From when on the service link counts as up.
    pub(crate) service_from: Boot,
    pub(crate) draining: bool,
    pub(crate) leaving: bool,
    pub(crate) left: bool,
    pub(crate) member_asked: Option<Boot>,
    pub(crate) balance: crate::balance::Balance,
    pending: BTreeMap<u64, Pending>,
    ticket: u64,
    seq: u64,
    next_beat: Boot,
    last_beat: Boot,
    hurry: bool,
    random: u64,
    wake: Option<Boot>,
    name_taken: Option<Boot>,
    pub(crate) counters: Counters,
    outputs: VecDeque<Output>,
}

impl Core {
    /// A node that has just started. `seed`: for what is spread at random; the same seed gives the same outputs.
    pub fn new(now: Boot, settings: Settings, seed: u64) -> Self {
        let mut core = Self {
            id: node_id(&settings.name),
            process: Process {
                name: settings.name.clone(),
                incarnation: settings.incarnation,
            },
            now,
            started: now,
            listening: now,
            view: View::new(&settings.slots),
            peers: BTreeMap::new(),
            lease: Lease::default(),
            epochs: Epochs::new(settings.seen_epoch, settings.seen_generations.clone()),
            slots: settings
                .slots
                .iter()
                .map(|slot| (*slot, Slot::default()))
                .collect(),
            orders: Orders::default(),
            service: true,
            service_from: Boot::ZERO,
            draining: false,
            leaving: false,
            left: false,
            member_asked: None,
            balance: crate::balance::Balance::default(),
            pending: BTreeMap::new(),
            ticket: 0,
            seq: 0,
            next_beat: now,
            last_beat: now,
            hurry: false,
            random: seed,
            wake: Some(now),
            name_taken: None,
            counters: Counters::default(),
            outputs: VecDeque::new(),
            settings,
        };
        core.settings.addresses.truncate(MAX_ADDRESSES);
        core
    }

    /// Takes note of what happened and decides.
    pub fn handle(&mut self, now: Boot, input: Input) {
        let last = self.now;
        self.now = now.max(last);
        if self.now > last + self.settings.heartbeat * 2 && last > self.started {
            // We were paused: others were not silent, we did not listen.
            self.listening = self.now;
        }
        // Whatever woke us: nothing is done with a right that has run out meanwhile.
        self.expire();
        match input {
            Input::Datagram { from, bytes } => {
                // What is not authentic or not new changes nothing, and costs no more than its check.
                if !self.datagram(from, &bytes) {
                    return;
                }
            }
            Input::Timeout => {}
            Input::Listing => self.view.begin(),
            Input::Changed(event) => self.view.apply(&event, self.now),
            Input::Synced(_) => {
                self.view.finish(self.now);
                self.epochs.listed();
            }
            Input::Stale => self.view.synced = false,
            Input::TxnDone { ticket, outcome } => self.txn_done(ticket, outcome),
            Input::LeaseGranted { lease, sent } => self.lease_granted(lease, sent),
            Input::LeaseAlive { sent } => self.lease_alive(sent),
            Input::LeaseLost => self.lease_lost(),
            Input::Fenced { slot, generation } => self.fenced(slot, generation),
            Input::WentBack => self.went_back(),
            Input::Ready { slot, generation } => self.ready(slot, generation),
            Input::Frozen { slot, generation } => self.frozen(slot, generation),
            Input::Stopped { slot, generation } => self.stopped(slot, generation),
            Input::Failed {
                slot,
                generation,
                reason,
            } => self.failed(slot, generation, reason),
            Input::Raised { slot, generation } => self.raised(slot, generation),
            Input::Service { up } => self.service_link(up),
            Input::Order { id, order } => self.order(id, order),
        }
        self.evaluate();
    }

    /// What is to be done next; `None`: nothing.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Input::Timeout`] is wanted at the latest.
    pub fn deadline(&self) -> Option<Boot> {
        Some(self.wake.map_or(self.next_beat, |wake| wake.min(self.next_beat)))
    }

    /// What writes of a slot's records have to compare; `None` where this node does not own it.
    pub fn fence(&self, slot: u8) -> Option<Fence> {
        let held = self.slots.get(&slot)?.held()?;
        Some(Fence {
            slot,
            generation: held.generation,
            epoch: held.epoch,
            owner: self.process.to_string(),
        })
    }

    fn evaluate(&mut self) {
        self.wake = None;
        self.suspect();
        self.keep_lease();
        self.judge_epoch();
        self.check_held();
        self.claim_slots();
        self.give_away();
        self.rebalance();
        self.finish_orders();
        self.marks();
        self.beat();
    }

    /// Makes sure that everything is looked at again at `at`.
    pub(crate) fn wake_at(&mut self, at: Boot) {
        if at > self.now {
            self.wake = Some(self.wake.map_or(at, |wake| wake.min(at)));
        }
    }

    pub(crate) fn put(&mut self, output: Output) {
        self.outputs.push_back(output);
    }

    pub(crate) fn tell(&mut self, event: Event) {
        self.put(Output::Event(event));
    }

    /// Sends a heartbeat at once: something has changed that others wait for.
    pub(crate) fn hurry(&mut self) {
        self.hurry = true;
    }

    /// A number below `below`, at random.
    pub(crate) fn random(&mut self, below: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        scramble(self.random).checked_rem(below).unwrap_or_default()
    }

    // ---- transactions ------------------------------------------------------------------------------------------------

    pub(crate) fn send_txn(&mut self, job: Job, txn: Txn) {
        self.ticket += 1;
        let ticket = self.ticket;
        self.pending.insert(
            ticket,
            Pending {
                job,
                sent: self.now,
                era: self.view.era,
                txn: txn.clone(),
            },
        );
        self.put(Output::Txn { ticket, txn });
    }

    pub(crate) fn is_pending(&self, wanted: impl Fn(&Job) -> bool) -> bool {
        self.pending.values().any(|pending| wanted(&pending.job))
    }

    /// Whether the answer to a transaction about the slot has not come yet.
    pub(crate) fn is_busy(&self, slot: u8) -> bool {
        self.is_pending(|job| job.slot() == Some(slot))
    }

    pub(crate) fn count_pending(&self, wanted: impl Fn(&Job) -> bool) -> usize {
        self.pending
            .values()
            .filter(|pending| wanted(&pending.job))
            .count()
    }

    fn txn_done(&mut self, ticket: u64, outcome: Result<TxnOutcome, StoreError>) {
        let Some(pending) = self.pending.remove(&ticket) else {
            self.counters.stray_answers += 1;
            return;
        };
        match &outcome {
            Ok(done) => {
                self.lease.answered(pending.sent);
                if done.committed && pending.era == self.view.era {
                    self.view.wrote(&pending.txn.then, done.revision, self.now);
                }
            }
            Err(StoreError::WentBack { .. }) => self.went_back(),
            Err(StoreError::LeaseNotFound(lease)) if Some(*lease) == self.lease.id => self.lease_lost(),
            Err(StoreError::Indeterminate { .. }) => self.counters.indeterminate += 1,
            Err(_) => {}
        }
        let outcome = outcome.map(|done| done.committed);
        match pending.job {
            Job::Card => self.lease.card_done(outcome.is_ok(), self.now),
            Job::Member => {}
            Job::Claim {
                slot,
                generation,
                epoch,
                keep,
            } => self.claim_done(slot, generation, epoch, keep, outcome),
            Job::Rebind { slot, generation } => self.rebind_done(slot, generation, outcome),
            Job::Hand { slot, generation } => self.hand_done(slot, generation, outcome),
            Job::Release { slot } => self.release_done(slot, outcome),
            Job::Refence {
                slot,
                generation,
                epoch,
            } => self.refence_done(slot, generation, epoch, outcome),
            Job::Wished { slot } => self.backoff(slot, outcome == Ok(true)),
            Job::Epoch { epoch } => self.epoch_done(epoch, outcome),
            Job::Order { id, text } => self.order_done(id, text, outcome),
            Job::Left => self.left_done(outcome),
        }
    }

    // ---- heartbeats --------------------------------------------------------------------------------------------------

    /// Returns whether it changed anything.
    fn datagram(&mut self, from: SocketAddr, bytes: &[u8]) -> bool {
        match heartbeat::open(&self.settings.key, bytes) {
            Ok(Message::Heartbeat(beat)) => self.heard(from, beat),
            Ok(Message::Death(notice)) => {
                notice.name != self.settings.name && self.died(&notice.name, notice.incarnation)
            }
            Err(_) => {
                self.counters.refused += 1;
                false
            }
        }
    }

    fn heard(&mut self, from: SocketAddr, beat: Heartbeat) -> bool {
        if beat.name == self.settings.name {
            self.heard_own_name(beat.incarnation);
            return false;
        }
        let name = beat.name.clone();
        let told = self.view.card(&name).map(|card| card.incarnation);
        let (now, table) = (self.now, self.settings.table);
        let Some(peer) = self.peer(&name) else {
            self.counters.strangers += 1;
            return false;
        };
        let (differs, differed) = (
            beat.table != table,
            peer.beat.as_ref().is_some_and(|beat| beat.table != table),
        );
        let (generations, epoch, suspects) = (beat.slots.clone(), beat.epoch, beat.suspects.clone());
        match peer.hear(beat, from, told, now) {
            Heard::New { first } => {
                self.counters.heard += 1;
                if first {
                    self.tell(Event::NodeUp { name: name.clone() });
                    self.hurry();
                }
            }
            Heard::NotDead => {
                self.counters.heard += 1;
                self.tell(Event::NodeNotDead { name: name.clone() });
            }
            Heard::Copy | Heard::Old => {
                self.counters.repeated += 1;
                return false;
            }
        }
        if differs && !differed {
            self.tell(Event::TableDiffers { name });
        }
        if !differs {
            self.epochs.see_epoch(epoch);
            for beat in &generations {
                let given = u64::from(matches!(beat.hold, Hold::HandedTo(_)));
                self.see_generation(beat.slot, beat.generation + given);
            }
        }
        for suspect in suspects.iter().filter(|suspect| suspect.dead) {
            let dead = self.peers.iter().find(|(_, peer)| peer.id == suspect.node);
            if let Some(name) = dead.map(|(name, _)| name.clone()) {
                self.died(&name, suspect.incarnation);
            }
        }
        true
    }

    pub(crate) fn see_generation(&mut self, slot: u8, generation: u64) {
        if self.slots.contains_key(&slot) {
            self.epochs.see_generation(slot, generation);
        }
    }

    fn heard_own_name(&mut self, incarnation: u64) {
        let lately = self
            .name_taken
            .is_some_and(|at| self.now < at + Boot::from_secs(10));
        if incarnation > self.settings.incarnation && !lately {
            self.name_taken = Some(self.now);
            self.tell(Event::NameTaken { incarnation });
        }
    }

    /// Returns whether that is news.
    fn died(&mut self, name: &str, incarnation: u64) -> bool {
        let now = self.now;
        let Some(peer) = self.peer(name) else {
            return false;
        };
        let news = peer.end(incarnation, now);
        if news {
            let present = peer.is_dead();
            self.counters.deaths += 1;
            if present {
                self.tell(Event::NodeDied {
                    name: name.to_owned(),
                });
            }
            self.hurry();
        }
        news
    }

    /// The peer of this name, made unless there are too many.
    pub(crate) fn peer(&mut self, name: &str) -> Option<&mut Peer> {
        if !self.peers.contains_key(name) {
            if self.peers.len() >= MAX_NODES - 1 {
                let (now, view) = (self.now, &self.view);
                let gone = self.peers.iter().find(|(name, peer)| {
                    view.card(name).is_none()
                        && !view.is_member(name)
                        && peer.heard.unwrap_or(peer.known_since) + FORGOTTEN < now
                });
                let gone = gone.map(|(name, _)| name.clone())?;
                self.peers.remove(&gone);
            }
            self.peers.insert(name.to_owned(), Peer::new(name, self.now));
        }
        self.peers.get_mut(name)
    }

    fn flags(&self) -> Flags {
        Flags::default()
            .with(Flags::ETCD, self.etcd_answers())
            .with(Flags::DRAINING, self.draining)
            .with(Flags::LEAVING, self.leaving)
            .with(Flags::SERVICE, self.serves_link())
            .with(Flags::STATIC, self.lease.is_static)
            .with(Flags::ABLE, self.is_able())
    }

    /// Sends a heartbeat when it is time, or when something has changed that others wait for.
    fn beat(&mut self) {
        let due = self.now >= self.next_beat;
        let hurried = self.hurry && self.now >= self.last_beat + HURRY;
        if !due && !hurried {
            if self.hurry {
                self.wake_at(self.last_beat + HURRY);
            }
            return;
        }
        self.hurry = false;
        self.last_beat = self.now;
        if due {
            // Pauses are not caught up on.
            self.next_beat =
                (self.next_beat + self.settings.heartbeat).max(self.now + self.settings.heartbeat / 2);
        }
        self.seq += 1;
        let beat = Heartbeat {
            name: self.settings.name.clone(),
            incarnation: self.settings.incarnation,
            seq: self.seq,
            flags: self.flags(),
            epoch: self.view.epoch(),
            table: self.settings.table,
            addresses: self.settings.addresses.clone(),
            slots: self.slot_beats(),
            suspects: self.suspects(),
        };
        let bytes = beat.encode(&self.settings.key);
        let mut to: Vec<SocketAddr> = Vec::new();
        for (name, peer) in &self.peers {
            let told = self.view.card(name).map(|card| card.addresses.as_slice());
            let said = peer.beat.as_ref().map(|beat| beat.addresses.as_slice());
            for address in told
                .into_iter()
                .chain(said)
                .flat_map(|list| list.iter().take(MAX_ADDRESSES))
            {
                if !to.contains(address) {
                    to.push(*address);
                }
            }
        }
        for to in to {
            self.counters.sent += 1;
            self.put(Output::Send {
                to,
                bytes: bytes.clone(),
            });
        }
    }

    fn slot_beats(&self) -> Vec<SlotBeat> {
        self.slots
            .iter()
            .filter_map(|(slot, local)| {
                let (generation, hold) = match &local.state {
                    State::Held(held) => (held.generation, held.hold()),
                    State::Stopping { generation, .. } => (*generation, Hold::Stopping),
                    State::Idle => (self.epochs.generation(*slot), Hold::Seen),
                };
                (generation > 0).then_some(SlotBeat {
                    slot: *slot,
                    generation,
                    hold,
                })
            })
            .collect()
    }

    fn suspects(&self) -> Vec<Suspect> {
        self.peers
            .iter()
            .filter(|(_, peer)| peer.suspected.is_some() || peer.is_dead())
            .map(|(name, peer)| Suspect {
                node: peer.id,
                incarnation: self.incarnation_of(name, peer),
                dead: peer.is_dead(),
            })
            .take(MAX_NODES)
            .collect()
    }

    /// The start of a node that it would be heard with.
    pub(crate) fn incarnation_of(&self, name: &str, peer: &Peer) -> u64 {
        match peer.replay.incarnation() {
            0 => self.view.card(name).map_or(0, |card| card.incarnation),
            heard => heard,
        }
    }

    fn marks(&mut self) {
        let view = &self.view;
        self.epochs.see_epoch(view.epoch());
        for (slot, seen) in &view.slots {
            self.epochs.see_generation(*slot, seen.generation());
        }
        if let Some((epoch, generations)) = self.epochs.take_marks() {
            self.put(Output::Marks { epoch, generations });
        }
    }
}

/// A number that looks random (the finalizer of SplitMix64).
pub(crate) fn scramble(mut number: u64) -> u64 {
    number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}
