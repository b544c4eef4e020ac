//! Claims: who takes a slot that nobody serves, and when.
//!
//! A slot can be claimed when its owner key is gone, when the owner's process is known to have ended, when the owner is
//! silent, or when it says itself that it does not serve it. Silence needs the word of most of the nodes that hear each
//! other (two of three). A node that hears nobody else asks the store: a node that loses others, or hears that it is lost, writes
//! a probe into its card; the claim compares the card, so that it succeeds only if the store has not heard the owner.
//!
//! The living nodes that could serve a slot stand in the order of rendezvous hashing; each waits its turn. A claim
//! compares the epoch, the generation and the owner that it saw; where it is refused, the next one
//! goes by what is known then.

use std::cmp::Reverse;

use store::{StoreError, Txn};

use crate::api::{Boot, Broken};
use crate::core::{Core, Job, scramble};
use crate::event::{Cause, Event};
use crate::fence::{decimal, when_epoch};
use crate::heartbeat::{Flags, node_id};
use crate::keys::{self, Process};
use crate::slot::{Slot, State};
use crate::view::TORN;

/// How long a node waits for each one that stands before it.
const TURN: Boot = Boot::from_millis(150);
/// How long an owner may not hold what it owns before others take it.
const DISOWNED: Boot = Boot::from_millis(600);
/// How long a slot without an owner is left to a node that serves it and may write its owner key again.
const REBINDING: Boot = Boot::from_secs(3);
/// The damping grows to this many times its setting.
const MOST_DAMPING: u32 = 4;

/// Why a slot can be claimed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claimable {
    pub(crate) cause: Cause,
    pub(crate) owner: Option<Process>,
    pub(crate) generation: u64,
    pub(crate) since: Boot,
}

impl Core {
    // ---- who -----------------------------------------------------------------------------------------------------------

    /// Whether the service link counts as up.
    pub(crate) fn serves_link(&self) -> bool {
        self.service && self.now >= self.service_from
    }

    /// Whether this node may take slots.
    pub(crate) fn is_usable(&self) -> bool {
        self.is_able()
            && self.etcd_answers()
            && !self.draining
            && !self.leaving
            && self.serves_link()
            && self.may_forward()
    }

    /// Whether another node may be given slots.
    pub(crate) fn is_peer_usable(&self, name: &str) -> bool {
        self.peer_serves(name)
            && self
                .peers
                .get(name)
                .is_some_and(|peer| !peer.flag(Flags::DRAINING))
    }

    /// The same, but it may be draining.
    fn peer_serves(&self, name: &str) -> bool {
        let wanted = Flags::ETCD.with(Flags::SERVICE, true).with(Flags::ABLE, true);
        self.view.is_member(name)
            && self.peers.get(name).is_some_and(|peer| {
                peer.is_alive()
                    && peer.flag(wanted)
                    && !peer.flag(Flags::LEAVING)
                    && peer
                        .beat
                        .as_ref()
                        .is_some_and(|beat| beat.table == self.settings.table)
            })
    }

    /// How many of those that could serve the slot come before this node; `None`: it could not.
    fn turn(&self, slot: u8) -> Option<u32> {
        let failed = self
            .slots
            .get(&slot)
            .is_some_and(|local| self.now < local.failed_until);
        let any = self.peers.keys().any(|name| self.is_peer_usable(name));
        let reserve = !any && self.draining && self.is_able() && self.etcd_answers() && self.may_forward();
        if !(self.is_usable() || reserve) || failed && any {
            return None;
        }
        let mine = Reverse(score(slot, &self.settings.name));
        let before = self
            .peers
            .keys()
            .filter(|name| self.is_peer_usable(name) && Reverse(score(slot, name)) < mine)
            .count();
        u32::try_from(before).ok()
    }

    /// The node that should be given a slot: the first in rendezvous order that is usable.
    pub(crate) fn successor(&self, slot: u8) -> Option<String> {
        self.peers
            .keys()
            .filter(|name| self.is_peer_usable(name))
            .max_by_key(|name| score(slot, name))
            .cloned()
    }

    // ---- when ----------------------------------------------------------------------------------------------------------

    pub(crate) fn claim_slots(&mut self) {
        let ready = self.view.synced
            && self.epoch_is_settled()
            && self.lease.id.is_some()
            && !self.left
            && self.has_listened();
        for slot in self.slots.keys().copied().collect::<Vec<_>>() {
            self.note_moves(slot);
            let idle = self
                .slots
                .get(&slot)
                .is_some_and(|local| matches!(local.state, State::Idle));
            if ready && idle && !self.is_behind(slot) {
                self.consider(slot);
            }
        }
    }

    /// Whether all other members have been heard, or have had the time for it. After a start nothing is claimed before:
    /// where the store was restored meanwhile, they alone know generations that were used since the backup.
    fn has_listened(&mut self) -> bool {
        let Some(first) = self.view.first else {
            return false;
        };
        let at = first + self.settings.heartbeat * (self.settings.missed.max(1) + 1);
        let others = |name: &&String| **name != self.settings.name;
        let heard = |name: &String| self.peers.get(name).is_some_and(|peer| peer.heard.is_some());
        if self.now >= at || self.view.member_names().filter(others).all(heard) {
            return true;
        }
        self.wake_at(at);
        false
    }

    /// Takes note of moves that were not planned, for the damping.
    fn note_moves(&mut self, slot: u8) {
        let (now, damping) = (self.now, self.settings.damping);
        let Some(seen) = self.view.slots.get(&slot) else {
            return;
        };
        let owner = seen.owner.value.as_ref().map(|owner| owner.name.clone());
        let present = (seen.generation(), owner);
        let Some(local) = self.slots.get_mut(&slot) else {
            return;
        };
        if present == local.last_seen {
            return;
        }
        let moved = present.0 > local.last_seen.0
            && present.1.is_some()
            && local.last_seen.1.is_some()
            && present.1 != local.last_seen.1;
        if moved {
            let unplanned = local.claimable.as_ref().map(|claimable| claimable.cause);
            if matches!(unplanned, Some(Cause::Silent | Cause::GivenUp)) {
                let lately = local
                    .moved
                    .is_some_and(|at| now < at + damping * (2 << local.flaps.min(MOST_DAMPING)));
                local.flaps = if lately { local.flaps.saturating_add(1) } else { 0 };
                local.moved = Some(now);
                local.damped_told = false;
            }
            local.claimable = None;
        }
        if present.1.is_some() || present.0 != local.last_seen.0 {
            local.last_seen = present;
        }
    }

    /// When claims by suspicion are not damped any more.
    pub(crate) fn damped_until(&self, slot: u8) -> Option<Boot> {
        let local = self.slots.get(&slot)?;
        let at = local.moved? + self.settings.damping * (1 << local.flaps.min(MOST_DAMPING));
        (at > self.now).then_some(at)
    }

    fn consider(&mut self, slot: u8) {
        let busy = self.is_busy(slot);
        let Some(seen) = self.view.slots.get(&slot) else {
            return;
        };
        let (generation, owner) = (seen.generation(), seen.owner.value.clone());
        let unreadable = seen.is_unreadable();
        let floor = self.slots.get(&slot).map_or(0, |local| local.floor);
        if unreadable {
            return;
        }
        if let Some(until) = seen.torn_until().filter(|until| self.now < *until) {
            // Whose generation this is, is still to be told.
            self.wake_at(until);
            return;
        }
        if owner.as_ref() == Some(&self.process) {
            if self.slots.get(&slot).is_some_and(|local| local.release) {
                if !busy {
                    self.release(slot);
                }
                return;
            }
            let (unraised, one, since) = (
                self.view.is_unraised(seen),
                seen.is_of_one_write(),
                seen.owner.changed,
            );
            if generation > floor && !unraised && one {
                // Also when the answer to the claim is still under way.
                self.assigned(slot, generation);
                return;
            }
            if busy {
                return;
            }
            if !one && self.now < since + TORN {
                // The generation that belongs to it is still to be told.
                self.wake_at(since + TORN);
                return;
            }
        } else if busy {
            return;
        }
        let Some((cause, card)) = self.why(slot, owner.as_ref(), generation) else {
            if let Some(local) = self.slots.get_mut(&slot) {
                local.claimable = None;
            }
            return;
        };
        let now = self.now;
        let Some(local) = self.slots.get_mut(&slot) else {
            return;
        };
        local.release = false;
        let known = local
            .claimable
            .take()
            .filter(|known| known.generation == generation && known.owner == owner);
        let since = known
            .filter(|known| known.cause == cause)
            .map_or(now, |known| known.since);
        local.claimable = Some(Claimable {
            cause,
            owner: owner.clone(),
            generation,
            since,
        });
        let retry = local.retry;
        if cause == Cause::Silent
            && let Some(until) = self.damped_until(slot)
        {
            self.wake_at(until);
            if let Some(local) = self.slots.get_mut(&slot).filter(|local| !local.damped_told) {
                local.damped_told = true;
                self.counters.damped += 1;
                let for_ms = crate::lease::millis(until - self.now);
                self.tell(Event::Damped { slot, for_ms });
            }
            return;
        }
        let Some(turn) = self.turn(slot) else { return };
        let own = owner
            .as_ref()
            .is_some_and(|owner| owner.name == self.settings.name);
        let turn = if own && owner.as_ref() == Some(&self.process) {
            0
        } else {
            turn
        };
        let at = (since + TURN * turn).max(retry);
        if self.now < at {
            self.wake_at(at);
            return;
        }
        self.claim(slot, owner, cause, card);
    }

    /// Why the slot can be claimed; with whether the owner's card has to be compared.
    fn why(&mut self, slot: u8, owner: Option<&Process>, generation: u64) -> Option<(Cause, bool)> {
        let Some(owner) = owner else {
            return self.unowned(slot, generation);
        };
        if *owner == self.process {
            // Put down here, and nobody has taken it since; or a claim of ours whose answer was lost.
            return Some((Cause::OwnEarlierStart, false));
        }
        if let Some(lost) = self.is_lost(owner) {
            return Some(lost);
        }
        let now = self.now;
        let changed = self.view.slots.get(&slot).map_or(now, |seen| seen.owner.changed);
        let peer = self.peers.get_mut(&owner.name).filter(|peer| peer.is_alive())?;
        let linkless = peer.linkless_since.filter(|_| !peer.flag(Flags::SERVICE));
        let holds = peer.holds(slot).is_some_and(|beat| beat.generation >= generation);
        let since = match holds {
            true => {
                peer.disowned.remove(&slot);
                None
            }
            false => Some((*peer.disowned.entry(slot).or_insert(now)).max(changed)),
        };
        let since = [linkless, since].into_iter().flatten().min()?;
        let at = since + DISOWNED;
        if now < at {
            self.wake_at(at);
            return None;
        }
        Some((Cause::GivenUp, false))
    }

    fn unowned(&mut self, slot: u8, generation: u64) -> Option<(Cause, bool)> {
        let epoch = self.view.epoch();
        let held = self.peers.values().any(|peer| {
            // In a new epoch its heartbeats are behind what it has written.
            peer.is_alive()
                && peer
                    .holds(slot)
                    .is_some_and(|beat| beat.generation >= generation || peer.epoch() < epoch)
        });
        let changed = self
            .view
            .slots
            .get(&slot)
            .map_or(self.now, |seen| seen.owner.changed);
        let fresh = self.started + self.settings.patience;
        let at = if held {
            fresh.max(changed.max(self.view.synced_since) + REBINDING)
        } else {
            fresh
        };
        if self.now < at {
            self.wake_at(at);
            return None;
        }
        Some((Cause::Unowned, false))
    }

    // ---- how -----------------------------------------------------------------------------------------------------------

    fn claim(&mut self, slot: u8, owner: Option<Process>, cause: Cause, card: bool) {
        let (Some(lease), Some(seen)) = (self.lease.id, self.view.slots.get(&slot)) else {
            return;
        };
        let (mut generation, keep) = self.next_generation(slot);
        let epoch = self.view.epoch();
        let mut txn = Txn::new();
        if self.settings.broken != Broken::BlindClaim {
            txn = when_epoch(txn, epoch);
            txn = crate::epoch::when_raw(txn, keys::generation(slot), seen.generation.raw.clone());
            let alternate = self.slots.get(&slot).is_some_and(|local| local.alternate);
            // Where the owner's lease may have ended without our being told, its key may be gone.
            let owner_raw = seen.owner.raw.clone().filter(|_| !alternate);
            txn = crate::epoch::when_raw(txn, keys::owner(slot), owner_raw);
        }
        if self.settings.broken == Broken::SameGeneration {
            generation = seen.generation().max(1);
        }
        if let Some(owner) = owner.as_ref().filter(|_| card) {
            let raw = self.view.cards.get(&owner.name).and_then(|card| card.raw.clone());
            txn = crate::epoch::when_raw(txn, keys::node(&owner.name), raw);
        }
        if !keep {
            // In the same transaction: nobody may ever find them under a generation of this epoch.
            for prefix in keys::of_sessions(slot) {
                txn = crate::epoch::delete_prefix(txn, prefix);
            }
        }
        txn = txn
            .put(keys::generation(slot), decimal(generation))
            .put_with_lease(keys::owner(slot), self.process.to_string(), lease);
        if let Some(local) = self.slots.get_mut(&slot) {
            local.claimed = Some((generation, keep));
        }
        self.counters.claims += 1;
        self.tell(Event::Claiming {
            slot,
            generation,
            cause,
        });
        self.send_txn(
            Job::Claim {
                slot,
                generation,
                epoch,
                keep,
            },
            txn,
        );
    }

    pub(crate) fn claim_done(
        &mut self,
        slot: u8,
        generation: u64,
        epoch: u64,
        keep: bool,
        outcome: Result<bool, StoreError>,
    ) {
        match outcome {
            Ok(true) => {
                self.backoff(slot, true);
                self.counters.claims_won += 1;
                self.note_moves(slot);
                // Past the deadline it is not taken: the view says that it is ours, which is looked at again. Nor is what was
                // taken when the view said so, and put down again before this answer came: its generation is spent.
                let floor = self.slots.get(&slot).map_or(0, |local| local.floor);
                if generation > floor && self.may_forward() && self.is_idle(slot) {
                    self.take(slot, generation, epoch, keep, false);
                } else {
                    self.see_generation(slot, generation);
                }
            }
            Ok(false) => {
                self.counters.claims_lost += 1;
                self.tell(Event::ClaimLost { slot });
                self.backoff(slot, false);
                if let Some(local) = self.slots.get_mut(&slot) {
                    local.alternate = !local.alternate;
                }
            }
            Err(_) => self.backoff(slot, false),
        }
    }

    fn is_idle(&self, slot: u8) -> bool {
        self.slots
            .get(&slot)
            .is_some_and(|local| matches!(local.state, State::Idle))
    }

    /// The store says that the slot is ours: it was handed to us, or the answer to a claim was lost.
    fn assigned(&mut self, slot: u8, generation: u64) {
        if !self.may_forward() || !self.etcd_answers() {
            return;
        }
        let keep = self
            .slots
            .get(&slot)
            .and_then(|local| local.claimed)
            .filter(|(claimed, _)| *claimed == generation)
            .is_none_or(|(_, keep)| keep);
        let planned = self
            .peers
            .values()
            .any(|peer| peer.is_alive() && peer.holds(slot).is_some_and(|beat| beat.generation < generation));
        self.take(slot, generation, self.view.epoch(), keep, planned);
        if !planned && let Some(held) = self.slots.get_mut(&slot).and_then(Slot::held_mut) {
            // Which lease the lost answer's claim was bound to is not known: written again.
            held.lease = None;
        }
    }

    /// Gives a slot that is not held to nobody, so that others may take it at once.
    fn release(&mut self, slot: u8) {
        let Some(seen) = self.view.slots.get(&slot) else {
            return;
        };
        let Some(local) = self.slots.get(&slot) else {
            return;
        };
        if self.now < local.retry {
            let at = local.retry;
            self.wake_at(at);
            return;
        }
        let txn = when_epoch(Txn::new(), self.view.epoch())
            .when_value(keys::generation(slot), decimal(seen.generation()))
            .when_value(keys::owner(slot), self.process.to_string())
            .delete(keys::owner(slot));
        self.send_txn(Job::Release { slot }, txn);
    }

    pub(crate) fn release_done(&mut self, slot: u8, outcome: Result<bool, StoreError>) {
        self.backoff(slot, outcome == Ok(true));
        if outcome == Ok(true)
            && let Some(local) = self.slots.get_mut(&slot)
        {
            local.release = false;
        }
    }
}

/// Rendezvous hashing: of the nodes that could serve a slot, the one with the highest score does.
pub(crate) fn score(slot: u8, name: &str) -> u64 {
    scramble(node_id(name) ^ scramble(u64::from(slot) + 1))
}
