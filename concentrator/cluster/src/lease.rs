//! The node's lease, its card, the deadline of its workers, and fail-static.
//!
//! ```text
//!   sent ──────── acknowledged ───────────────► sent + TTL − margin: workers stop (Until)    sent + TTL: lease ends
//! ```
//! With the store gone for everybody that is heard, and these with this node being the majority of the members, the
//! deadline moves on: nobody can take anything. With the store gone for this node alone, it does not.

use store::{LeaseId, StoreError, Txn};

use crate::api::{Boot, Broken, Output};
use crate::core::{Core, Job};
use crate::event::Event;
use crate::heartbeat::Flags;
use crate::keys::{self, Member, NodeCard};

/// Between two tries to get a lease, or to write the card.
const RETRY: Boot = Boot::from_millis(200);
/// How long fail-static lasts while a node that fell silent may have the store.
const DOUBTFUL: Boot = Boot::from_secs(10);
/// How long the store may say that a slot is not ours before that is believed.
const DOUBT: Boot = Boot::from_millis(250);
/// Changes of the deadline smaller than this are not told.
const GRAIN: Boot = Boot::from_millis(50);

/// The lease and what hangs on it.
#[derive(Debug, Default)]
pub(crate) struct Lease {
    pub(crate) id: Option<LeaseId>,
    asked: bool,
    ask_at: Boot,
    next_keep: Boot,
    /// Send time of the last keep-alive that was acknowledged, or of the grant.
    pub(crate) acked: Option<Boot>,
    /// Send time of the last request that the store answered.
    answered: Option<Boot>,
    answers: bool,
    /// When fail-static held last.
    static_at: Option<Boot>,
    pub(crate) is_static: bool,
    /// As told to the workers.
    pub(crate) until: Option<Boot>,
    card_at: Boot,
    pub(crate) probe: u64,
    pub(crate) probed: Option<Boot>,
    /// Since when a probe has been wanted.
    pub(crate) want_probe: Option<Boot>,
}

impl Lease {
    pub(crate) fn answered(&mut self, sent: Boot) {
        self.answered = Some(self.answered.map_or(sent, |last| last.max(sent)));
    }

    pub(crate) fn card_done(&mut self, well: bool, now: Boot) {
        if !well {
            self.card_at = now + RETRY;
        }
    }
}

impl Core {
    pub(crate) fn lease_granted(&mut self, lease: LeaseId, sent: Boot) {
        self.lease.asked = false;
        self.lease.id = Some(lease);
        self.lease.acked = Some(self.lease.acked.map_or(sent, |last| last.max(sent)));
        self.lease.answered(sent);
        self.lease.next_keep = sent + self.settings.lease_ttl / 8;
        self.lease.card_at = Boot::ZERO;
    }

    pub(crate) fn lease_alive(&mut self, sent: Boot) {
        if self.lease.id.is_none() {
            return;
        }
        self.lease.acked = Some(self.lease.acked.map_or(sent, |last| last.max(sent)));
        self.lease.answered(sent);
    }

    pub(crate) fn lease_lost(&mut self) {
        let had = self.lease.id.take().is_some();
        self.lease.asked = false;
        self.lease.ask_at = if had { self.now } else { self.now + RETRY };
        if had {
            self.counters.leases_lost += 1;
            self.tell(Event::LeaseLost);
        }
    }

    /// Whether the store answers this node.
    pub(crate) fn etcd_answers(&self) -> bool {
        self.lease
            .answered
            .is_some_and(|sent| self.now < sent + self.settings.lease_ttl * 3 / 8)
    }

    /// Whether the node could take slots, if it wanted.
    pub(crate) fn is_able(&self) -> bool {
        self.view.synced
            && self.lease.id.is_some()
            && !self.left
            && self.own_card_is_there()
            && self.view.is_member(&self.settings.name)
    }

    fn own_card_is_there(&self) -> bool {
        self.view.card(&self.settings.name).is_some_and(|card| {
            card.incarnation == self.settings.incarnation
                && Some(LeaseId(card.lease)) == self.lease.id
                && card.table == self.settings.table
        })
    }

    /// Whether the workers may forward.
    pub(crate) fn may_forward(&self) -> bool {
        self.lease.until.is_some_and(|until| self.now < until)
    }

    /// Puts everything down when the deadline has passed.
    pub(crate) fn expire(&mut self) {
        let Some(until) = self.lease.until.filter(|until| self.now >= *until) else {
            return;
        };
        if self.settings.broken == Broken::NoDeadline {
            return;
        }
        let mut held = self.held_slots();
        held.retain(|slot| self.slots.get(slot).is_some_and(|local| !local.forced));
        if !held.is_empty() {
            self.counters.deadlines += 1;
            for slot in held {
                self.put_down(slot, "the node's deadline passed");
            }
            let late_ms = millis(self.now - until);
            self.tell(Event::DeadlinePassed { late_ms });
        }
        if self.is_forced() {
            return;
        }
        self.lease.until = None;
        self.put(Output::Until(None));
    }

    /// Asks for the lease, keeps it, writes the card, moves the deadline.
    pub(crate) fn keep_lease(&mut self) {
        let now = self.now;
        let answers = self.etcd_answers();
        if answers != self.lease.answers {
            self.lease.answers = answers;
            self.tell(Event::Store { reachable: answers });
            self.hurry();
        }
        if let Some(sent) = self.lease.answered.filter(|_| answers) {
            self.wake_at(sent + self.settings.lease_ttl * 3 / 8);
        }
        if self.left {
            return;
        }
        match self.lease.id {
            None if !self.lease.asked => {
                if now >= self.lease.ask_at {
                    self.lease.asked = true;
                    self.put(Output::GrantLease {
                        ttl: self.settings.lease_ttl,
                    });
                } else {
                    self.wake_at(self.lease.ask_at);
                }
            }
            None => {}
            Some(lease) => {
                if now >= self.lease.next_keep {
                    self.lease.next_keep = now + self.settings.lease_ttl / 8;
                    self.put(Output::KeepAlive);
                }
                self.wake_at(self.lease.next_keep);
                self.write_card(lease);
                self.write_member();
            }
        }
        self.judge_static(answers);
        self.move_deadline();
    }

    /// The deadline: by the lease, or by fail-static.
    fn move_deadline(&mut self) {
        let now = self.now;
        let term = self.settings.lease_ttl.saturating_sub(self.settings.margin);
        let forced = self.is_forced().then_some(now);
        let until = self
            .lease
            .acked
            .max(self.lease.static_at)
            .max(forced)
            .map(|from| from + term)
            .filter(|until| *until > now);
        let moved = match (self.lease.until, until) {
            // Whoever stopped first brings everything down: workers may still have what is being put down.
            (None, Some(_)) => !self.is_stopping(),
            (Some(told), Some(until)) => until >= told + GRAIN,
            (_, None) => false,
        };
        if moved {
            self.lease.until = until;
            self.put(Output::Until(until));
        }
        if let Some(until) = self.lease.until {
            self.wake_at(until);
        }
    }

    /// Whether a fault is injected: a node that goes on whatever its deadline says.
    fn is_forced(&self) -> bool {
        self.slots.values().any(|local| local.forced)
    }

    fn is_stopping(&self) -> bool {
        self.slots
            .values()
            .any(|local| matches!(local.state, crate::slot::State::Stopping { .. }))
    }

    fn judge_static(&mut self, answers: bool) {
        let members = self
            .view
            .member_names()
            .filter(|name| **name != self.settings.name)
            .count()
            + 1;
        let (mut heard, mut all) = (1, true);
        // One that fell silent while it had the store may have it still, and take what is ours; or it died with the
        // store's leader, and the store is back soon.
        let patient = self.lease.answered.is_some_and(|sent| self.now < sent + DOUBTFUL);
        for (name, peer) in &self.peers {
            if self.view.is_member(name) && !peer.is_dead() && peer.suspected.is_some() {
                let silent_since = peer.heard.unwrap_or(peer.known_since);
                let had =
                    peer.flag(Flags::ETCD) && self.lease.answered.is_some_and(|sent| silent_since >= sent);
                all &= patient || !had;
            }
            if peer.is_alive() {
                all &= !peer.flag(Flags::ETCD);
                heard += usize::from(self.view.is_member(name));
            }
        }
        let on = !answers
            && all
            && heard > members / 2
            && self.view.first.is_some()
            && self.holds_any()
            && self.may_forward();
        if on {
            self.lease.static_at = Some(self.now);
        }
        if on != self.lease.is_static {
            self.lease.is_static = on;
            self.counters.statics += u64::from(on);
            self.put(Output::Static(on));
            self.tell(Event::Static { on });
            self.hurry();
        }
    }

    /// Writes the card when the store has none of this lease, or when a probe is wanted.
    fn write_card(&mut self, lease: LeaseId) {
        let now = self.now;
        let period = self.settings.lease_ttl / 2;
        let mut probe_due = false;
        if let Some(since) = self.lease.want_probe {
            let next = self.lease.probed.filter(|at| *at >= since).map(|at| at + period);
            probe_due = next.is_none_or(|next| now >= next);
            if let Some(next) = next {
                self.wake_at(next);
            }
        }
        if self.own_card_is_there() && !probe_due || self.is_pending(|job| *job == Job::Card) {
            return;
        }
        if now < self.lease.card_at {
            self.wake_at(self.lease.card_at);
            return;
        }
        if probe_due {
            self.lease.probe += 1;
            self.lease.probed = Some(now);
        }
        let card = NodeCard {
            incarnation: self.settings.incarnation,
            lease: lease.0,
            addresses: self.settings.addresses.clone(),
            table: self.settings.table,
            probe: self.lease.probe,
        };
        let Ok(json) = serde_json::to_vec(&card) else {
            return;
        };
        self.lease.card_at = now + RETRY;
        let key = keys::node(&self.settings.name);
        self.send_txn(Job::Card, Txn::new().put_with_lease(key, json, lease));
    }

    fn write_member(&mut self) {
        let name = &self.settings.name;
        if !self.view.synced || self.view.is_member(name) || self.leaving {
            return;
        }
        let again = self.member_asked.map(|at| at + RETRY);
        if again.is_some_and(|again| self.now < again) || self.is_pending(|job| *job == Job::Member) {
            if let Some(again) = again {
                self.wake_at(again);
            }
            return;
        }
        let member = Member {
            joined: self.settings.incarnation,
        };
        let Ok(json) = serde_json::to_vec(&member) else {
            return;
        };
        let key = keys::member(name);
        self.member_asked = Some(self.now);
        self.send_txn(Job::Member, Txn::new().put(key, json));
    }

    /// Writes the owner key of a held slot again: under a new lease, or to learn whether it is still ours.
    pub(crate) fn rebind(&mut self, slot: u8) {
        let Some(lease) = self.lease.id else { return };
        let absent = self
            .view
            .slots
            .get(&slot)
            .is_some_and(|seen| seen.owner.raw.is_none());
        let Some(local) = self.slots.get(&slot) else {
            return;
        };
        let retry = local.retry;
        let busy = self.is_busy(slot);
        if busy {
            return;
        }
        if self.now < retry {
            self.wake_at(retry);
            return;
        }
        let Some(fence) = self.fence(slot) else { return };
        let generation = fence.generation;
        let alternate = local.alternate;
        let txn = match absent != alternate {
            true => crate::fence::when_epoch(Txn::new(), fence.epoch)
                .when_value(keys::generation(slot), crate::fence::decimal(generation))
                .when(keys::owner(slot), store::Expect::Absent),
            false => fence.apply(Txn::new()),
        };
        let txn = txn.put_with_lease(keys::owner(slot), fence.owner, lease);
        if let Some(held) = self.slots.get_mut(&slot).and_then(|local| local.held_mut()) {
            held.binding = Some(lease);
        }
        self.send_txn(Job::Rebind { slot, generation }, txn);
    }

    pub(crate) fn rebind_done(&mut self, slot: u8, generation: u64, outcome: Result<bool, StoreError>) {
        let (now, present, settled) = (self.now, self.view.epoch(), self.epoch_is_settled());
        let Some(local) = self.slots.get_mut(&slot) else {
            return;
        };
        let (alternate, attempts) = (local.alternate, local.attempts);
        let Some(held) = local.held_mut().filter(|held| held.generation == generation) else {
            return;
        };
        match outcome {
            Ok(true) => {
                held.lease = held.binding;
                held.doubted = None;
                (local.alternate, local.attempts) = (false, 0);
            }
            // The other variant at once: the key may have ended with its lease, or may not.
            Ok(false) if attempts == 0 => (local.alternate, local.attempts) = (!alternate, 1),
            Ok(false) => {
                // Neither ours nor nobody's. A new epoch that has not been told yet would say the same, and there it
                // may be kept.
                let since = *held.doubted.get_or_insert(now);
                let same = held.epoch == present && settled;
                (local.alternate, local.attempts) = (false, 0);
                if same && now >= since + DOUBT {
                    self.put_down(slot, "the store says that it is not ours");
                } else {
                    self.backoff(slot, false);
                    if let Some(local) = self.slots.get_mut(&slot) {
                        local.attempts = 0;
                    }
                }
            }
            Err(_) => self.backoff(slot, false),
        }
    }
}

/// Whole milliseconds.
pub(crate) fn millis(time: Boot) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
