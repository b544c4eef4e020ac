//! Planned hand-overs: everything is written, one transaction changes the owner, the old one serves until the new one
//! is ready.
//!
//! ```text
//!   owner:   Freeze ─ Frozen ─ txn(generation + 1, owner = target, bound to its lease) ─ … ESP goes on … ─ Drop
//!   target:                                                 told by the store: Serve{planned} ─ Ready ─ heartbeat ─┘
//! ```
//! The old owner's heartbeat tells of the new generation, too; the target takes that for a sign to wait for the store, which
//! alone says whose the slot is.
//! Until the transaction every failure ends with `Thaw`; after it, the target owns the slot, and when that is lost, the
//! slot is claimed like any other.

use store::{StoreError, Txn};

use crate::api::{Boot, Output};
use crate::core::{Core, Job};
use crate::event::Event;
use crate::fence::decimal;
use crate::heartbeat::Hold;
use crate::keys::{self, Process};
use crate::slot::{Phase, Slot};

/// Why a slot is put down at the end of a hand-over.
pub(crate) const HANDED_OVER: &str = "handed over";
/// How long the shell may take to freeze when the service link is down: nobody reaches us anyway.
const LINKLESS: Boot = Boot::from_millis(150);
/// A slot whose hand-over failed is not handed over again before.
const CALM: Boot = Boot::from_secs(1);
/// Hand-overs at once while draining.
const AT_ONCE: usize = 8;
/// The old owner waits for the new one so many times the setting.
const PATIENCE: u32 = 8;

impl Core {
    /// Begins hand-overs: those that were wished, and all when this node gives its slots away.
    pub(crate) fn give_away(&mut self) {
        let linkless = !self.service;
        let leaving = self.draining || self.leaving;
        let mut room = match linkless {
            true => usize::MAX,
            false => AT_ONCE.saturating_sub(self.handovers_under_way()),
        };
        for slot in self.slots.keys().copied().collect::<Vec<_>>() {
            self.press(slot);
            let Some(local) = self.slots.get(&slot) else {
                continue;
            };
            let Some(held) = local.held() else { continue };
            if held.phase != Phase::Normal || local.forced || self.view.epoch() != held.epoch {
                continue;
            }
            let (ready, calm) = (held.ready, local.calm_until);
            let wish = self
                .view
                .slots
                .get(&slot)
                .and_then(|seen| seen.wish.value.clone());
            if wish.as_ref() == Some(&self.settings.name) {
                self.wish_fulfilled(slot);
            }
            if !ready {
                if linkless && self.successor(slot).is_some() {
                    self.put_down(slot, "the service link is down");
                    if let Some(local) = self.slots.get_mut(&slot) {
                        local.release = true;
                    }
                }
                continue;
            }
            let to = match wish.filter(|wish| *wish != self.settings.name && self.is_peer_usable(wish)) {
                Some(wish) => Some(wish),
                None if linkless || leaving => self.successor(slot),
                None => None,
            };
            let Some(to) = to else { continue };
            if self.now < calm {
                self.wake_at(calm);
            } else if room > 0 && self.etcd_answers() {
                room -= 1;
                self.begin_handover(slot, to, None);
            }
        }
    }

    pub(crate) fn handovers_under_way(&self) -> usize {
        self.slots
            .values()
            .filter(|local| local.held().is_some_and(|held| held.phase != Phase::Normal))
            .count()
    }

    pub(crate) fn begin_handover(&mut self, slot: u8, to: String, order: Option<u64>) {
        let (now, forced) = (self.now, !self.service);
        let Some(held) = self.slots.get_mut(&slot).and_then(Slot::held_mut) else {
            return;
        };
        held.phase = Phase::Freezing {
            to: to.clone(),
            since: now,
            order,
            forced,
        };
        let generation = held.generation;
        self.counters.handovers += 1;
        self.put(Output::Freeze { slot, generation });
        self.tell(Event::HandoverBegun { slot, to });
        self.hurry();
    }

    /// Keeps the time of each step, and gives up when the target is gone.
    fn press(&mut self, slot: u8) {
        let Some(held) = self.slots.get(&slot).and_then(Slot::held) else {
            return;
        };
        let limit = self.settings.handover;
        match held.phase.clone() {
            Phase::Normal => {}
            Phase::Freezing {
                to, since, forced, ..
            } => {
                let forced = forced || !self.service;
                let end = since + if forced { LINKLESS.min(limit) } else { limit };
                if !self.is_peer_usable(&to) {
                    self.thaw(slot, "it cannot serve any more");
                } else if self.now < end {
                    self.wake_at(end);
                } else if forced {
                    self.hand(slot);
                } else {
                    self.thaw(slot, "writing everything took too long");
                }
            }
            Phase::Handing { to, since, .. } => {
                let end = since + limit;
                let busy = self.is_busy(slot);
                let doubtful = held.lease != self.lease.id || held.doubted.is_some();
                if busy || doubtful {
                    // What became of the transaction is not known yet.
                } else if self.now >= end || !self.is_peer_usable(&to) {
                    self.thaw(slot, "the store did not take it");
                } else {
                    let retry = self.slots.get(&slot).map_or(self.now, |local| local.retry);
                    match self.now >= retry {
                        true => self.hand(slot),
                        false => self.wake_at(retry),
                    }
                }
                self.wake_at(end);
            }
            Phase::Handed { to, since, .. } => {
                let end = since + limit * PATIENCE;
                let there = self.peers.get(&to).is_some_and(|peer| peer.is_alive());
                if !there {
                    self.put_down(slot, "the node that it was handed to is gone");
                } else if self.now >= end {
                    self.put_down(slot, "the node that it was handed to takes too long");
                } else {
                    self.wake_at(end);
                }
            }
        }
    }

    /// Gives a hand-over up before its transaction.
    pub(crate) fn thaw(&mut self, slot: u8, why: &'static str) {
        let calm = self.now + CALM;
        let Some(local) = self.slots.get_mut(&slot) else {
            return;
        };
        local.calm_until = calm;
        let Some(held) = local.held_mut() else { return };
        let (to, order) = match std::mem::replace(&mut held.phase, Phase::Normal) {
            Phase::Freezing { to, order, .. }
            | Phase::Handing { to, order, .. }
            | Phase::Handed { to, order, .. } => (to, order),
            Phase::Normal => return,
        };
        let generation = held.generation;
        self.counters.handovers_failed += 1;
        self.put(Output::Thaw { slot, generation });
        if let Some(id) = order {
            let result = Err(format!("slot {slot} was not handed to node {to}: {why}"));
            self.put(Output::Done { id, result });
        }
        self.tell(Event::HandoverFailed { slot, to, why });
        self.hurry();
    }

    pub(crate) fn frozen(&mut self, slot: u8, generation: u64) {
        let Some(held) = self.slots.get(&slot).and_then(Slot::held) else {
            return;
        };
        if held.generation == generation && matches!(held.phase, Phase::Freezing { .. }) {
            self.hand(slot);
        }
    }

    /// The transaction that changes the owner.
    fn hand(&mut self, slot: u8) {
        let Some(fence) = self.fence(slot) else { return };
        let now = self.now;
        let Some(held) = self.slots.get_mut(&slot).and_then(Slot::held_mut) else {
            return;
        };
        if let Phase::Freezing { to, order, .. } = held.phase.clone() {
            held.phase = Phase::Handing {
                to,
                since: now,
                order,
            };
        }
        let Phase::Handing { to, .. } = held.phase.clone() else {
            return;
        };
        let generation = held.generation;
        let card = self
            .view
            .cards
            .get(&to)
            .and_then(|known| known.value.clone().zip(known.raw.clone()));
        let heard = self.peers.get(&to).map_or(0, |peer| peer.replay.incarnation());
        let Some((card, raw)) = card.filter(|(card, _)| card.incarnation == heard) else {
            self.thaw(slot, "its card is not in the store");
            return;
        };
        let owner = Process {
            name: to.clone(),
            incarnation: card.incarnation,
        };
        let mut txn = fence
            .apply(Txn::new())
            .when_value(keys::node(&to), raw)
            .put(keys::generation(slot), decimal(generation + 1))
            .put_with_lease(keys::owner(slot), owner.to_string(), store::LeaseId(card.lease));
        let wish = self
            .view
            .slots
            .get(&slot)
            .and_then(|seen| seen.wish.value.clone());
        if wish == Some(to) {
            txn = txn.delete(keys::wish(slot));
        }
        self.send_txn(Job::Hand { slot, generation }, txn);
    }

    pub(crate) fn hand_done(&mut self, slot: u8, generation: u64, outcome: Result<bool, StoreError>) {
        let now = self.now;
        let Some(held) = self.slots.get_mut(&slot).and_then(Slot::held_mut) else {
            return;
        };
        if held.generation != generation {
            return;
        }
        let Phase::Handing { to, order, .. } = held.phase.clone() else {
            return;
        };
        match outcome {
            Ok(true) => self.handed(slot, to, order),
            // Refused or not known: written again under our name, that tells whether it is ours still.
            Ok(false) | Err(StoreError::Indeterminate { .. }) => {
                held.doubted = Some(held.doubted.unwrap_or(now));
                if outcome == Ok(false) {
                    self.backoff(slot, false);
                }
            }
            Err(StoreError::LeaseNotFound(_)) => self.thaw(slot, "its lease has ended"),
            Err(_) => self.backoff(slot, false),
        }
    }

    fn handed(&mut self, slot: u8, to: String, order: Option<u64>) {
        let since = self.now;
        let Some(held) = self.slots.get_mut(&slot).and_then(Slot::held_mut) else {
            return;
        };
        held.phase = Phase::Handed {
            to: to.clone(),
            since,
            order,
        };
        held.doubted = None;
        let generation = held.generation + 1;
        self.see_generation(slot, generation);
        self.counters.handed_over += 1;
        self.tell(Event::HandedOver { slot, to, generation });
        self.hurry();
    }

    /// The store says that another node owns the slot, with a later generation.
    pub(crate) fn given(&mut self, slot: u8, owner: &str) {
        let phase = self
            .slots
            .get(&slot)
            .and_then(Slot::held)
            .map(|held| held.phase.clone());
        match phase {
            Some(Phase::Handed { to, .. }) if to == owner => {}
            Some(Phase::Handing { to, order, .. }) if to == owner => self.handed(slot, to, order),
            _ => self.put_down(slot, "another node has taken it"),
        }
    }

    /// Another node says that it holds the slot with a later generation.
    pub(crate) fn overtaken(&mut self, slot: u8, other: &str, hold: Hold) {
        let phase = self
            .slots
            .get(&slot)
            .and_then(Slot::held)
            .map(|held| held.phase.clone());
        match phase {
            Some(Phase::Handed { to, .. }) if to == other => {
                if hold != Hold::Starting {
                    self.put_down(slot, HANDED_OVER);
                }
            }
            Some(Phase::Handing { to, order, .. }) if to == other => self.handed(slot, to, order),
            _ => self.put_down(slot, "another node serves it"),
        }
    }

    fn wish_fulfilled(&mut self, slot: u8) {
        if self.is_pending(|job| *job == Job::Wished { slot }) || !self.etcd_answers() {
            return;
        }
        let retry = self.slots.get(&slot).map_or(self.now, |local| local.retry);
        if self.now < retry {
            self.wake_at(retry);
            return;
        }
        let txn = Txn::new()
            .when_value(keys::wish(slot), self.settings.name.as_bytes())
            .delete(keys::wish(slot));
        self.send_txn(Job::Wished { slot }, txn);
    }

    pub(crate) fn service_link(&mut self, up: bool) {
        if self.service == up {
            return;
        }
        self.service = up;
        if up {
            // A flapping link does not count.
            self.service_from = self.now + Boot::from_secs(1);
            let from = self.service_from;
            self.wake_at(from);
        }
        self.tell(Event::ServiceLink { up });
        self.hurry();
    }
}
