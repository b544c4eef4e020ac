//! What operators ask for.

use std::collections::BTreeMap;

use store::{StoreError, Txn};

use crate::api::{Boot, Order, Output};
use crate::core::{Core, Job};
use crate::event::Event;
use crate::keys;
use crate::slot::{Phase, Slot, State};

/// Orders that wait.
const MOST: usize = 16;
/// How long all slots may take to go away.
const LONGEST: Boot = Boot::from_secs(120);
/// How long to look for a node that takes them.
const LOOKING: Boot = Boot::from_secs(5);

/// What waits until all slots are away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wait {
    Drain,
    Leave,
}

/// Orders that are not done.
#[derive(Debug, Default)]
pub(crate) struct Orders {
    waiting: BTreeMap<u64, (Wait, Boot)>,
    /// Since when no other node could take a slot.
    nobody: Option<Boot>,
    leave_retry: Boot,
}

impl Core {
    pub(crate) fn order(&mut self, id: u64, order: Order) {
        let result = match order {
            Order::Drain => self.wait(id, Wait::Drain),
            Order::Leave => self.wait(id, Wait::Leave),
            Order::Undrain => {
                if std::mem::take(&mut self.draining) {
                    self.tell(Event::Draining { on: false });
                    self.hurry();
                }
                self.cancel(Wait::Drain, "undrained");
                Some(Ok("this node takes slots".to_owned()))
            }
            Order::Join => {
                if self.leaving || self.left {
                    (self.leaving, self.left) = (false, false);
                    self.cancel(Wait::Leave, "joined again");
                    self.hurry();
                    let name = self.settings.name.clone();
                    self.tell(Event::Membership { name, member: true });
                }
                Some(Ok("this node is a member".to_owned()))
            }
            Order::Move { slot, to } => self.order_move(id, slot, to),
            Order::Forget { name } => self.order_forget(id, name),
            Order::ForceOwn { slot } => Some(self.force(slot)),
        };
        if let Some(result) = result {
            self.counters.orders_refused += u64::from(result.is_err());
            self.put(Output::Done { id, result });
        }
    }

    fn wait(&mut self, id: u64, what: Wait) -> Option<Result<String, String>> {
        if self.orders.waiting.len() >= MOST {
            return Some(Err("too many orders wait".to_owned()));
        }
        match what {
            Wait::Drain if !self.draining => {
                self.draining = true;
                self.tell(Event::Draining { on: true });
            }
            Wait::Leave if self.left => return Some(Ok("this node has left".to_owned())),
            Wait::Leave => self.leaving = true,
            Wait::Drain => {}
        }
        self.orders.nobody = None;
        self.orders.waiting.insert(id, (what, self.now));
        self.hurry();
        None
    }

    fn cancel(&mut self, what: Wait, why: &str) {
        let gone: Vec<u64> = self
            .orders
            .waiting
            .iter()
            .filter(|(_, (waiting, _))| *waiting == what)
            .map(|(id, _)| *id)
            .collect();
        for id in gone {
            self.orders.waiting.remove(&id);
            self.put(Output::Done {
                id,
                result: Err(why.to_owned()),
            });
        }
    }

    fn order_move(&mut self, id: u64, slot: u8, to: String) -> Option<Result<String, String>> {
        let Some(local) = self.slots.get(&slot) else {
            return Some(Err(format!("there is no slot {slot}")));
        };
        let known = to == self.settings.name || self.view.is_member(&to);
        if !known {
            return Some(Err(format!("no member is called {to:?}")));
        }
        if let Some(held) = local.held() {
            return match &held.phase {
                Phase::Normal if to == self.settings.name => Some(Ok(format!("slot {slot} is here"))),
                Phase::Normal if !held.ready => Some(Err(format!("slot {slot} is being started"))),
                Phase::Normal if !self.is_peer_usable(&to) => {
                    Some(Err(format!("node {to} cannot serve slot {slot} at present")))
                }
                Phase::Normal => {
                    self.begin_handover(slot, to, Some(id));
                    None
                }
                Phase::Freezing { .. } | Phase::Handing { .. } | Phase::Handed { .. } => {
                    Some(Err(format!("slot {slot} is being handed over")))
                }
            };
        }
        let owner = self
            .view
            .slots
            .get(&slot)
            .and_then(|seen| seen.owner.value.clone());
        let text = match owner {
            Some(owner) if owner.name == to => return Some(Ok(format!("slot {slot} is at node {to}"))),
            Some(owner) => format!("node {} was asked to hand slot {slot} to node {to}", owner.name),
            None => return Some(Err(format!("slot {slot} has no owner at present"))),
        };
        if self.too_many_orders() {
            return Some(Err("too many orders wait".to_owned()));
        }
        self.send_txn(
            Job::Order { id, text },
            Txn::new().put(keys::wish(slot), to.into_bytes()),
        );
        None
    }

    fn order_forget(&mut self, id: u64, name: String) -> Option<Result<String, String>> {
        if name == self.settings.name {
            return Some(Err("a node leaves by leave".to_owned()));
        }
        if self.peers.get(&name).is_some_and(|peer| peer.is_alive()) {
            return Some(Err(format!("node {name} is alive: let it leave")));
        }
        if self.too_many_orders() {
            return Some(Err("too many orders wait".to_owned()));
        }
        let text = format!("node {name} is a member no more");
        let txn = Txn::new()
            .when(keys::node(&name), store::Expect::Absent)
            .delete(keys::member(&name));
        self.peers.remove(&name);
        self.send_txn(Job::Order { id, text }, txn);
        None
    }

    fn too_many_orders(&self) -> bool {
        self.count_pending(|job| matches!(job, Job::Order { .. })) >= MOST
    }

    pub(crate) fn order_done(&mut self, id: u64, text: String, outcome: Result<bool, StoreError>) {
        let result = match outcome {
            Ok(true) => Ok(text),
            Ok(false) => Err("the store has not let go of it yet; try again in a few seconds".to_owned()),
            Err(error) => Err(error.to_string()),
        };
        self.put(Output::Done { id, result });
    }

    fn force(&mut self, slot: u8) -> Result<String, String> {
        let Some(local) = self.slots.get_mut(&slot) else {
            return Err(format!("there is no slot {slot}"));
        };
        match local.state {
            State::Held(_) => {
                local.forced = true;
                Ok(format!("slot {slot} is kept whatever others say"))
            }
            // Whatever generation it were served with, somebody has used it.
            State::Idle => Err(format!(
                "slot {slot} is not here: only what is held can be held on to"
            )),
            State::Stopping { .. } => Err(format!("slot {slot} is being put down")),
        }
    }

    /// Answers those who wait for all slots to be away.
    pub(crate) fn finish_orders(&mut self) {
        if self.orders.waiting.is_empty() {
            return;
        }
        let busy = self.slots.values().any(|local| match &local.state {
            State::Held(_) | State::Stopping { .. } => true,
            State::Idle => false,
        });
        let any = self.peers.keys().any(|name| self.is_peer_usable(name));
        let holds = self.slots.values().filter_map(Slot::held).count();
        if holds > 0 && !any {
            let since = *self.orders.nobody.get_or_insert(self.now);
            self.wake_at(since + LOOKING);
        } else {
            self.orders.nobody = None;
        }
        let nobody = self
            .orders
            .nobody
            .is_some_and(|since| self.now >= since + LOOKING);
        for (id, (what, since)) in self.orders.waiting.clone() {
            self.wake_at(since + LONGEST);
            let result = match what {
                _ if nobody => Err("no other node can take the slots".to_owned()),
                _ if self.now >= since + LONGEST => Err(format!("{holds} slots are still here")),
                _ if busy => continue,
                Wait::Drain => Ok("all slots are away".to_owned()),
                Wait::Leave => {
                    self.leave();
                    continue;
                }
            };
            self.orders.waiting.remove(&id);
            if result.is_err() {
                match what {
                    Wait::Drain => {
                        self.draining = false;
                        self.tell(Event::Draining { on: false });
                    }
                    Wait::Leave => self.leaving = false,
                }
                self.hurry();
            }
            self.put(Output::Done { id, result });
        }
    }

    /// The last step of leaving: membership and card are taken away.
    fn leave(&mut self) {
        if self.is_pending(|job| *job == Job::Left) {
            return;
        }
        if self.now < self.orders.leave_retry {
            let at = self.orders.leave_retry;
            self.wake_at(at);
            return;
        }
        self.orders.leave_retry = self.now + Boot::from_millis(500);
        let name = &self.settings.name;
        let txn = Txn::new().delete(keys::member(name)).delete(keys::node(name));
        self.send_txn(Job::Left, txn);
    }

    pub(crate) fn left_done(&mut self, outcome: Result<bool, StoreError>) {
        if outcome != Ok(true) || !self.leaving {
            return;
        }
        self.left = true;
        self.lease.id = None;
        self.put(Output::RevokeLease);
        let name = self.settings.name.clone();
        self.tell(Event::Membership { name, member: false });
        for (id, (what, _)) in std::mem::take(&mut self.orders.waiting) {
            let result = match what {
                Wait::Leave => Ok("this node has left".to_owned()),
                Wait::Drain => Ok("all slots are away".to_owned()),
            };
            self.put(Output::Done { id, result });
        }
        self.hurry();
    }
}
