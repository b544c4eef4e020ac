//! A slot on this node: what is done with it, and what the shell says of it.
//!
//! ```text
//!             claim, or handed to us                       Frozen, committed
//!   Idle ──────────────────────────► Held: Normal ─► Freezing ─► Handing ─► Handed
//!     ▲                                 │ not ours any more, deadline, failed   │ the other is ready
//!     └───────── Stopped ◄── Stopping ◄─┴──────────────────────────────────────-┘
//! ```

use store::LeaseId;

use crate::api::{Boot, Broken, Output};
use crate::claim::Claimable;
use crate::core::Core;
use crate::event::Event;
use crate::heartbeat::{Hold, node_id};
use crate::lease::millis;

/// The shell is slow when something takes so long.
const SLOW: Boot = Boot::from_secs(30);
/// A slot that could not be served here is not tried again for so long, if others can serve it.
const FAILED: Boot = Boot::from_secs(30);
/// Longest pause between two tries to change a slot in the store.
const LONGEST: u64 = 500;

/// A slot on this node.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    pub(crate) state: State,
    /// The highest generation that was ever held here.
    pub(crate) floor: u64,
    /// Why it could be claimed, and since when.
    pub(crate) claimable: Option<Claimable>,
    /// Not tried again before.
    pub(crate) retry: Boot,
    pub(crate) attempts: u32,
    /// Expect the owner key to be absent where the view has it, and the other way round.
    pub(crate) alternate: bool,
    /// The generation of the last claim, and whether the records are good under it.
    pub(crate) claimed: Option<(u64, bool)>,
    /// When it last moved without a plan.
    pub(crate) moved: Option<Boot>,
    /// How often it moved so, lately.
    pub(crate) flaps: u32,
    /// What the view said last: to see moves.
    pub(crate) last_seen: (u64, Option<String>),
    pub(crate) damped_told: bool,
    /// It could not be served here: others first.
    pub(crate) failed_until: Boot,
    /// Not handed over again before.
    pub(crate) calm_until: Boot,
    /// Fault injection.
    pub(crate) forced: bool,
    /// The owner key still names us although we do not hold it and do not want it.
    pub(crate) release: bool,
}

/// What is done with it.
#[derive(Debug, Default)]
pub(crate) enum State {
    /// Nothing.
    #[default]
    Idle,
    /// It is ours.
    Held(Held),
    /// It is being put down.
    Stopping {
        generation: u64,
        since: Boot,
        told: bool,
    },
}

/// A slot that is ours.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) generation: u64,
    pub(crate) epoch: u64,
    pub(crate) since: Boot,
    pub(crate) ready: bool,
    pub(crate) phase: Phase,
    /// The lease that the owner key is bound to; `None`: not known.
    pub(crate) lease: Option<LeaseId>,
    /// The lease of a rebinding that is under way.
    pub(crate) binding: Option<LeaseId>,
    /// Since when the store has said that it is not ours.
    pub(crate) doubted: Option<Boot>,
    /// A batch of records was refused.
    pub(crate) fenced: bool,
    pub(crate) slow_told: bool,
}

/// How far a hand-over is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// None is under way.
    Normal,
    /// The shell writes everything.
    Freezing {
        to: String,
        since: Boot,
        order: Option<u64>,
        forced: bool,
    },
    /// The transaction is under way, or tried again.
    Handing {
        to: String,
        since: Boot,
        order: Option<u64>,
    },
    /// It belongs to the other node, which is not ready yet.
    Handed {
        to: String,
        since: Boot,
        order: Option<u64>,
    },
}

impl Slot {
    pub(crate) fn held(&self) -> Option<&Held> {
        match &self.state {
            State::Held(held) => Some(held),
            State::Idle | State::Stopping { .. } => None,
        }
    }

    pub(crate) fn held_mut(&mut self) -> Option<&mut Held> {
        match &mut self.state {
            State::Held(held) => Some(held),
            State::Idle | State::Stopping { .. } => None,
        }
    }
}

impl Held {
    /// As heartbeats tell it.
    pub(crate) fn hold(&self) -> Hold {
        match &self.phase {
            Phase::Handed { to, .. } => Hold::HandedTo(node_id(to)),
            Phase::Freezing { .. } | Phase::Handing { .. } => Hold::Freezing,
            Phase::Normal if self.ready => Hold::Serving,
            Phase::Normal => Hold::Starting,
        }
    }
}

impl Core {
    pub(crate) fn held_slots(&self) -> Vec<u8> {
        self.slots
            .iter()
            .filter(|(_, local)| local.held().is_some())
            .map(|(slot, _)| *slot)
            .collect()
    }

    pub(crate) fn holds_any(&self) -> bool {
        self.slots.values().any(|local| local.held().is_some())
    }

    /// Tries again after a while, longer each time; or at once, after success.
    pub(crate) fn backoff(&mut self, slot: u8, well: bool) {
        let attempts = self.slots.get(&slot).map_or(0, |local| local.attempts);
        let most = (10_u64 << attempts.min(6)).min(LONGEST);
        let pause = most / 2 + self.random(most / 2 + 1);
        let now = self.now;
        if let Some(local) = self.slots.get_mut(&slot) {
            match well {
                true => (local.retry, local.attempts, local.alternate) = (Boot::ZERO, 0, false),
                false => {
                    local.attempts = attempts.saturating_add(1);
                    local.retry = now + Boot::from_millis(pause);
                }
            }
        }
    }

    /// The slot is ours: tells the shell.
    pub(crate) fn take(&mut self, slot: u8, generation: u64, epoch: u64, keep_records: bool, planned: bool) {
        let (now, lease) = (self.now, self.lease.id);
        self.see_generation(slot, generation);
        let Some(local) = self.slots.get_mut(&slot) else {
            return;
        };
        local.floor = local.floor.max(generation);
        (local.claimable, local.release, local.forced) = (None, false, false);
        local.state = State::Held(Held {
            generation,
            epoch,
            since: now,
            ready: false,
            phase: Phase::Normal,
            lease,
            binding: None,
            doubted: None,
            fenced: false,
            slow_told: false,
        });
        self.put(Output::Serve {
            slot,
            generation,
            epoch,
            keep_records,
            planned,
        });
        self.tell(Event::Taking {
            slot,
            generation,
            planned,
            keep_records,
        });
        self.hurry();
    }

    /// The slot is put down.
    pub(crate) fn put_down(&mut self, slot: u8, why: &'static str) {
        let now = self.now;
        let Some(local) = self.slots.get_mut(&slot) else {
            return;
        };
        let Some(held) = local.held() else { return };
        let (generation, order) = (
            held.generation,
            match &held.phase {
                Phase::Normal => None,
                Phase::Freezing { to, order, .. }
                | Phase::Handing { to, order, .. }
                | Phase::Handed { to, order, .. } => order.map(|order| (order, to.clone())),
            },
        );
        local.state = State::Stopping {
            generation,
            since: now,
            told: false,
        };
        local.forced = false;
        local.claimable = None;
        self.counters.drops += 1;
        self.put(Output::Drop {
            slot,
            generation,
            why,
        });
        self.tell(Event::Dropped {
            slot,
            generation,
            why,
        });
        if let Some((id, to)) = order {
            let result = match why == crate::handover::HANDED_OVER {
                true => Ok(format!("slot {slot} is at node {to}")),
                false => Err(format!("slot {slot} was put down: {why}")),
            };
            self.put(Output::Done { id, result });
        }
        self.hurry();
    }

    pub(crate) fn ready(&mut self, slot: u8, generation: u64) {
        let now = self.now;
        let Some(held) = self.slots.get_mut(&slot).and_then(Slot::held_mut) else {
            return;
        };
        if held.generation == generation && !held.ready {
            held.ready = true;
            let after_ms = millis(now - held.since);
            self.tell(Event::Serving {
                slot,
                generation,
                after_ms,
            });
            self.hurry();
        }
    }

    pub(crate) fn stopped(&mut self, slot: u8, generation: u64) {
        let Some(local) = self.slots.get_mut(&slot) else {
            return;
        };
        if matches!(local.state, State::Stopping { generation: stopping, .. } if stopping <= generation) {
            local.state = State::Idle;
            self.hurry();
        }
    }

    pub(crate) fn failed(&mut self, slot: u8, generation: u64, reason: String) {
        let now = self.now;
        let Some(local) = self.slots.get_mut(&slot) else {
            return;
        };
        if local.held().is_none_or(|held| held.generation != generation) {
            return;
        }
        local.failed_until = now + FAILED;
        self.tell(Event::ServeFailed { slot, reason });
        self.put_down(slot, "it could not be served here");
        if let Some(local) = self.slots.get_mut(&slot) {
            local.release = true;
        }
    }

    pub(crate) fn raised(&mut self, slot: u8, generation: u64) {
        self.see_generation(slot, generation);
        let Some(local) = self.slots.get_mut(&slot) else {
            return;
        };
        let Some(held) = local.held_mut().filter(|held| held.generation < generation) else {
            return;
        };
        held.generation = generation;
        local.floor = local.floor.max(generation);
        self.hurry();
    }

    pub(crate) fn fenced(&mut self, slot: u8, generation: u64) {
        let Some(local) = self.slots.get_mut(&slot) else {
            return;
        };
        let forced = std::mem::take(&mut local.forced);
        if let Some(held) = local.held_mut().filter(|held| held.generation == generation) {
            held.fenced = true;
        }
        if forced {
            self.put_down(slot, "its records were refused");
        }
    }

    /// Compares every held slot with what is known.
    pub(crate) fn check_held(&mut self) {
        for slot in self.slots.keys().copied().collect::<Vec<_>>() {
            self.watch_shell(slot);
            self.check_slot(slot);
        }
    }

    fn check_slot(&mut self, slot: u8) {
        let Some(local) = self.slots.get(&slot) else {
            return;
        };
        let Some(held) = local.held() else { return };
        if local.forced || self.settings.broken == Broken::Stubborn {
            return;
        }
        let (generation, epoch) = (held.generation, held.epoch);
        // Another node holds it with a later generation.
        let other = self.peers.iter().find_map(|(name, peer)| {
            let beat = peer
                .holds(slot)
                .filter(|_| peer.is_alive() && peer.epoch() >= epoch)?;
            (beat.generation > generation).then(|| (name.clone(), beat.hold))
        });
        if let Some((name, hold)) = other {
            self.overtaken(slot, &name, hold);
            return;
        }
        let Some(seen) = self.view.slots.get(&slot) else {
            return;
        };
        let ours = seen.owner.value.as_ref() == Some(&self.process);
        let (unclaimed, whole) = (seen.owner.raw.is_none(), seen.is_whole());
        let owner = seen.owner.value.as_ref().map(|owner| owner.name.clone());
        let seen_generation = seen.generation();
        if self.view.synced && self.view.epoch() > epoch {
            if self.etcd_answers() && self.epoch_is_settled() {
                self.refence(slot);
            }
            return;
        }
        if seen_generation > generation && self.view.epoch() == epoch && !ours && whole {
            match owner {
                Some(owner) => self.given(slot, &owner),
                None => self.put_down(slot, "another node has taken it"),
            }
            return;
        }
        let Some(held) = self.slots.get(&slot).and_then(Slot::held) else {
            return;
        };
        let vanished = unclaimed && self.view.synced && seen_generation == generation;
        let rebind = match held.phase {
            Phase::Handed { .. } => false,
            Phase::Normal | Phase::Freezing { .. } | Phase::Handing { .. } => {
                held.lease != self.lease.id || held.fenced || held.doubted.is_some() || vanished
            }
        };
        if !self.epoch_is_settled() || self.settings.broken == Broken::NoRaise && self.view.epoch() != epoch {
            return;
        }
        if rebind && self.lease.id.is_some() {
            if let Some(held) = self.slots.get_mut(&slot).and_then(Slot::held_mut) {
                held.fenced = false;
                if held.lease == self.lease.id {
                    held.lease = None;
                }
            }
            self.rebind(slot);
        }
    }

    fn watch_shell(&mut self, slot: u8) {
        let (now, ttl) = (self.now, SLOW);
        let Some(local) = self.slots.get_mut(&slot) else {
            return;
        };
        let what = match &mut local.state {
            State::Held(held) if !held.ready && !held.slow_told && now >= held.since + ttl => {
                held.slow_told = true;
                "starting it"
            }
            State::Stopping { since, told, .. } if !*told && now >= *since + ttl => {
                *told = true;
                "putting it down"
            }
            State::Idle | State::Held(_) | State::Stopping { .. } => return,
        };
        self.tell(Event::Slow { slot, what });
    }
}
