//! Epochs: how a store that was restored from a backup, or wiped, is noticed and got over.
//!
//! Signs that the store went back: it says so; its epoch is lower than one that was seen; a slot's generation is lower
//! than one that was seen, here, in a heartbeat or before the start. Reads may be old, so a sign is
//! believed only when it lasts and when the transaction that raises the epoch finds it in the store.
//!
//! A new epoch makes every fence of before worthless. A slot whose generation was not written since the epoch was is
//! *unraised*: whoever takes or keeps it jumps by [`JUMP`] past everything that was seen, in the same transaction.

use std::collections::BTreeMap;

use store::{StoreError, Txn};

use crate::api::{Boot, Broken, Output};
use crate::core::{Core, Job};
use crate::event::Event;
use crate::fence::{decimal, when_epoch, when_number};
use crate::keys;
use crate::slot::{Phase, State};

/// How far generations jump in a new epoch.
pub(crate) const JUMP: u64 = 256;
/// How long a sign has to last before the keys are listed again, and then before it is believed.
const LASTING: Boot = Boot::from_secs(1);
/// A store that went back and says so again within this time has not gone back again.
const ECHO: Boot = Boot::from_secs(2);

/// What is known of epochs.
#[derive(Debug, Default)]
pub(crate) struct Epochs {
    /// The highest that was seen.
    seen: u64,
    generations: BTreeMap<u8, u64>,
    dirty: bool,
    /// The store went back: an epoch above this one is needed.
    need_above: Option<u64>,
    settled_at: Option<Boot>,
    /// Since when the keys have shown a sign, and whether they were listed again since.
    sign: Option<(Boot, bool)>,
    retry: Boot,
}

impl Epochs {
    pub(crate) fn new(seen: u64, generations: BTreeMap<u8, u64>) -> Self {
        Self {
            seen,
            generations,
            ..Self::default()
        }
    }

    pub(crate) fn see_epoch(&mut self, epoch: u64) {
        if epoch > self.seen {
            (self.seen, self.dirty) = (epoch, true);
        }
    }

    pub(crate) fn see_generation(&mut self, slot: u8, generation: u64) {
        let seen = self.generations.entry(slot).or_default();
        if generation > *seen {
            *seen = generation;
            self.dirty = true;
        }
    }

    /// The highest generation of a slot that was seen anywhere.
    pub(crate) fn generation(&self, slot: u8) -> u64 {
        self.generations.get(&slot).copied().unwrap_or(0)
    }

    pub(crate) fn take_marks(&mut self) -> Option<(u64, BTreeMap<u8, u64>)> {
        std::mem::take(&mut self.dirty).then(|| (self.seen, self.generations.clone()))
    }

    pub(crate) fn listed(&mut self) {
        if let Some((_, listed)) = &mut self.sign {
            *listed = true;
        }
    }
}

impl Core {
    pub(crate) fn went_back(&mut self) {
        let echo = self.epochs.settled_at.is_some_and(|at| self.now < at + ECHO);
        if self.epochs.need_above.is_some() || echo {
            return;
        }
        self.epochs.need_above = Some(self.view.epoch());
        self.view.synced = false;
        self.tell(Event::StoreWentBack { sign: "it says so" });
        self.put(Output::Relist);
    }

    /// Whether fences of the present epoch can be trusted.
    pub(crate) fn epoch_is_settled(&self) -> bool {
        self.epochs.need_above.is_none() && self.view.epoch() >= self.epochs.seen
    }

    /// Whether a slot's generation in the store is lower than one that was seen in this epoch.
    pub(crate) fn is_behind(&self, slot: u8) -> bool {
        self.view.slots.get(&slot).is_some_and(|seen| {
            seen.generation() < self.epochs.generation(slot) && !self.view.is_unraised(seen)
        })
    }

    /// The next generation of a slot, and whether its records are good.
    pub(crate) fn next_generation(&self, slot: u8) -> (u64, bool) {
        let Some(seen) = self.view.slots.get(&slot) else {
            return (0, false);
        };
        if self.settings.broken == Broken::NoRaise {
            return (seen.generation() + 1, true);
        }
        let highest = seen.generation().max(self.epochs.generation(slot));
        match self.view.is_unraised(seen) {
            true => (highest + JUMP, false),
            false => (highest + 1, true),
        }
    }

    /// Looks for signs, and begins a new epoch where it is needed.
    pub(crate) fn judge_epoch(&mut self) {
        if self
            .epochs
            .need_above
            .is_some_and(|above| self.view.synced && self.view.epoch() > above)
        {
            (self.epochs.need_above, self.epochs.settled_at) = (None, Some(self.now));
        }
        if !self.view.synced || self.settings.broken == Broken::NoRaise {
            return;
        }
        let behind = self.slots.keys().copied().find(|slot| self.is_behind(*slot));
        let lower = self.view.epoch() < self.epochs.seen;
        if self.epochs.need_above.is_none() && !lower && behind.is_none() {
            self.epochs.sign = None;
            return;
        }
        if self.epochs.need_above.is_none() {
            let (since, listed) = *self.epochs.sign.get_or_insert((self.now, false));
            if !listed {
                self.wake_at(since + LASTING);
                if self.now >= since + LASTING {
                    // Not known to be listed before `Synced` comes; until then this sign begins again and again.
                    self.epochs.sign = Some((self.now, false));
                    self.put(Output::Relist);
                }
                return;
            }
            if self.now < since + LASTING {
                self.wake_at(since + LASTING);
                return;
            }
        }
        if self.now < self.epochs.retry {
            self.wake_at(self.epochs.retry);
            return;
        }
        if !self.etcd_answers() || self.is_pending(|job| matches!(job, Job::Epoch { .. })) {
            return;
        }
        if self.epochs.need_above.is_none() {
            let sign = if lower {
                "its epoch is lower"
            } else {
                "a generation is lower"
            };
            self.tell(Event::StoreWentBack { sign });
        }
        let present = self.view.epoch();
        let epoch = present.max(self.epochs.seen) + 1;
        let mut txn = when_epoch(Txn::new(), present).put(keys::EPOCH, decimal(epoch));
        if let Some(slot) = behind.filter(|_| !lower && self.epochs.need_above.is_none()) {
            let found = self.view.slots.get(&slot).map_or(0, |seen| seen.generation());
            txn = when_number(txn, keys::generation(slot), found);
        }
        let jitter = self.random(100);
        self.epochs.retry = self.now + Boot::from_millis(200 + jitter);
        self.send_txn(Job::Epoch { epoch }, txn);
    }

    pub(crate) fn epoch_done(&mut self, epoch: u64, outcome: Result<bool, StoreError>) {
        if outcome == Ok(true) {
            self.counters.epochs_raised += 1;
            self.tell(Event::NewEpoch { epoch });
            self.hurry();
        }
    }

    /// Keeps a held slot over a new epoch, or puts it down where somebody has taken it.
    pub(crate) fn refence(&mut self, slot: u8) {
        let Some(seen) = self.view.slots.get(&slot) else {
            return;
        };
        let (one, ours, raised) = (
            seen.is_of_one_write(),
            seen.owner.value.as_ref() == Some(&self.process),
            seen.generation(),
        );
        if !self.view.is_unraised(seen) && ours {
            // Done, and its answer is still under way, or lost. Half of it told says nothing yet.
            if one {
                self.kept(slot, raised, self.view.epoch());
            }
            return;
        }
        if !self.view.is_unraised(seen) && seen.is_whole() && !self.is_busy(slot) {
            self.put_down(slot, "another node took it in the new epoch");
            return;
        }
        let (generation_seen, owner_seen) = (seen.generation.raw.clone(), seen.owner.raw.clone());
        let epoch = self.view.epoch();
        let next = self.next_generation(slot).0;
        let Some(lease) = self.lease.id else { return };
        let busy = self.is_busy(slot);
        let Some(State::Held(held)) = self.slots.get_mut(&slot).map(|local| &mut local.state) else {
            return;
        };
        if busy {
            return;
        }
        if !held.ready {
            // Its restore may have read records of before.
            self.put_down(slot, "a new epoch began while it was started");
            return;
        }
        match held.phase {
            Phase::Normal => {}
            Phase::Freezing { .. } => {
                self.thaw(slot, "a new epoch began");
            }
            Phase::Handing { .. } | Phase::Handed { .. } => {
                self.put_down(slot, "a new epoch began while it was handed over");
                return;
            }
        }
        let Some(local) = self.slots.get(&slot) else {
            return;
        };
        let Some(held) = local.held() else { return };
        if self.now < local.retry {
            let at = local.retry;
            self.wake_at(at);
            return;
        }
        let generation = next.max(held.generation + JUMP);
        let mut txn = when_epoch(Txn::new(), epoch);
        txn = when_raw(txn, keys::generation(slot), generation_seen);
        txn = when_raw(txn, keys::owner(slot), owner_seen);
        for prefix in keys::of_sessions(slot) {
            txn = delete_prefix(txn, prefix);
        }
        txn = txn
            .put(keys::generation(slot), decimal(generation))
            .put_with_lease(keys::owner(slot), self.process.to_string(), lease);
        self.send_txn(
            Job::Refence {
                slot,
                generation,
                epoch,
            },
            txn,
        );
    }

    pub(crate) fn refence_done(
        &mut self,
        slot: u8,
        generation: u64,
        epoch: u64,
        outcome: Result<bool, StoreError>,
    ) {
        self.backoff(slot, outcome == Ok(true));
        if outcome == Ok(true) {
            self.kept(slot, generation, epoch);
        }
    }

    /// The slot is ours in the new epoch, too: tells the shell.
    fn kept(&mut self, slot: u8, generation: u64, epoch: u64) {
        let lease = self.lease.id;
        self.see_generation(slot, generation);
        let Some(local) = self.slots.get_mut(&slot) else {
            return;
        };
        local.floor = local.floor.max(generation);
        let Some(held) = local.held_mut().filter(|held| held.generation < generation) else {
            return;
        };
        (held.generation, held.epoch, held.lease) = (generation, epoch, lease);
        self.counters.refences += 1;
        self.put(Output::Refence {
            slot,
            generation,
            epoch,
        });
        self.tell(Event::Refenced {
            slot,
            generation,
            epoch,
        });
        self.hurry();
    }
}

/// Deletes everything under a prefix.
pub(crate) fn delete_prefix(mut txn: Txn, prefix: String) -> Txn {
    txn.then.push(store::Op::DeletePrefix { prefix });
    txn
}

/// Compares a key with what was seen of it.
pub(crate) fn when_raw(txn: Txn, key: String, raw: Option<Vec<u8>>) -> Txn {
    match raw {
        Some(raw) => txn.when_value(key, raw),
        None => txn.when(key, store::Expect::Absent),
    }
}
