//! The supervisor of supervisors: the Listener, the Replicator, the workers' actors, the tenants' supervisors.
//!
//! Its handlers do nothing that can fail. Should it stop nevertheless, the process ends and the next one carries the
//! tunnels on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::{Actor, ActorContext as _, AsyncContext as _, Context, Handler, Message};

use super::{EspWorker, Gone, Listener, PendingSupervisor, Replicator, TenantSupervisor, Who};
use crate::budget::Budget;
use crate::node::Node;
use crate::slot::Slot;

/// Restarts of one kind within [`WINDOW`] without a pause; beyond it each waits for [`PAUSE`].
const RESTARTS: u32 = 20;
/// The window.
const WINDOW: Duration = Duration::from_secs(10);
/// The pause.
const PAUSE: Duration = Duration::from_secs(1);

/// Makes sure that a tenant has a supervisor.
#[derive(Message, Debug, Clone)]
#[rtype(result = "()")]
pub struct EnsureTenant(pub String);

/// Supervises everything that is not a session.
pub struct Root {
    node: Arc<Node>,
    budget: Budget,
}

impl Root {
    /// The only one of the process.
    #[must_use]
    pub fn new(node: Arc<Node>) -> Self {
        Self {
            node,
            budget: Budget::new(RESTARTS, WINDOW),
        }
    }

    fn ensure_replicator(&self, id: u8) {
        let absent = |slot: Arc<Slot>| {
            slot.replicator
                .load()
                .as_ref()
                .is_none_or(|addr| !addr.connected())
        };
        if self.node.slots.get(id).is_some_and(absent) {
            self.make(&Who::Replicator(id));
        }
    }

    /// Makes an actor and enters its address, so that nobody makes it twice.
    fn make(&self, who: &Who) {
        let node = Arc::clone(&self.node);
        let arbiters = &self.node.arbiters;
        match who {
            Who::Listener => {
                let addr = Listener::start_in_arbiter(&arbiters.front(), |_| Listener::new(node));
                self.node.listener.store(Some(Arc::new(addr)));
            }
            Who::Replicator(id) => {
                // A writer that ended with its slot is not made again.
                if let Some(slot) = self.node.slots.get(*id).filter(|slot| !slot.records.is_closed()) {
                    let owned = Arc::clone(&slot);
                    let addr =
                        Replicator::start_in_arbiter(&arbiters.back(), |_| Replicator::new(node, owned));
                    slot.replicator.store(Some(Arc::new(addr)));
                }
            }
            Who::Pending => {
                let addr =
                    PendingSupervisor::start_in_arbiter(&arbiters.front(), |_| PendingSupervisor::new(node));
                self.node.pending.store(Some(Arc::new(addr)));
            }
            Who::EspWorker(index) => {
                let index = *index;
                let addr =
                    EspWorker::start_in_arbiter(&arbiters.back(), move |_| EspWorker::new(node, index));
                if let Some(slot) = self.node.worker(index) {
                    slot.actor.store(Some(Arc::new(addr)));
                }
            }
            Who::Tenant(name) => {
                let share = self.node.tenants.share(name);
                let arbiter = arbiters.of(self.node.domains.id(name).into());
                let owned = Arc::clone(&share);
                let addr =
                    TenantSupervisor::start_in_arbiter(&arbiter, |_| TenantSupervisor::new(node, owned));
                share.supervisor.store(Some(Arc::new(addr)));
            }
            Who::IkeSa(_) | Who::ChildSa(_) => {}
        }
    }
}

impl Actor for Root {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        self.node.root.store(Some(Arc::new(context.address())));
        self.node.slots.supervised_by(context.address());
        for slot in self.node.slots.all() {
            self.ensure_replicator(slot.id);
        }
        for index in 0..self.node.config.threads.workers {
            self.make(&Who::EspWorker(index));
        }
        self.make(&Who::Pending);
    }

    fn stopped(&mut self, _: &mut Context<Self>) {
        self.node.stop.notify_waiters();
        self.node.stop.notify_one();
    }
}

/// Begin to serve: the records are carried on, the sockets may be read.
#[derive(Message, Debug, Clone, Copy)]
#[rtype(result = "()")]
pub(crate) struct Serve;

impl Handler<Serve> for Root {
    type Result = ();

    fn handle(&mut self, _: Serve, _: &mut Context<Self>) {
        self.make(&Who::Listener);
    }
}

impl Handler<Gone> for Root {
    type Result = ();

    fn handle(&mut self, gone: Gone, context: &mut Context<Self>) {
        // A writer whose slot is over has done its work.
        let over = matches!(gone.who, Who::Replicator(id) if !gone.panicked
            && self.node.slots.get(id).is_none_or(|slot| slot.records.is_closed()));
        if self.node.stopping() || over {
            return;
        }
        self.node.metrics.restart(gone.who.kind());
        tracing::error!(who = ?gone.who, panicked = gone.panicked, "an actor stopped and is made again");
        if self.budget.spend(Instant::now()) {
            self.make(&gone.who);
        } else {
            context.run_later(PAUSE, move |this, _| this.make(&gone.who));
        }
    }
}

impl Handler<EnsureTenant> for Root {
    type Result = ();

    fn handle(&mut self, EnsureTenant(name): EnsureTenant, _: &mut Context<Self>) {
        let present = self
            .node
            .tenants
            .share(&name)
            .supervisor
            .load()
            .as_ref()
            .is_some_and(|addr| addr.connected());
        if !present {
            self.make(&Who::Tenant(name));
        }
    }
}

/// Makes sure that a slot has a writer of records.
#[derive(Message, Debug, Clone, Copy)]
#[rtype(result = "()")]
pub struct EnsureReplicator(pub u8);

impl Handler<EnsureReplicator> for Root {
    type Result = ();

    fn handle(&mut self, EnsureReplicator(id): EnsureReplicator, _: &mut Context<Self>) {
        self.ensure_replicator(id);
    }
}

/// Stops the supervisor at the end of the process.
#[derive(Message, Debug, Clone, Copy)]
#[rtype(result = "()")]
pub(crate) struct Stop;

impl Handler<Stop> for Root {
    type Result = ();

    fn handle(&mut self, _: Stop, context: &mut Context<Self>) {
        context.stop();
    }
}
