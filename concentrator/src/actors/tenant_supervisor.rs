//! One supervisor for each tenant: owns its IkeSaActors, makes new ones of those that panicked, within a budget.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use actix::{Actor, ActorFutureExt as _, AsyncContext as _, Context, Handler, Message, WrapFuture as _};

use super::{Fault, Gone, IkeSaActor, Who, fail, panicked};
use crate::budget::Budget;
use crate::node::Node;
use crate::recovery;
use crate::session::Session;
use crate::tenant::TenantShare;

/// Restarts of one session within the window; beyond it the session is what is broken, and it ends.
const RESTARTS_OF_ONE: u32 = 3;

/// An IKE SA of this tenant has been authenticated (or restored).
#[derive(Message, Debug, Clone, Copy)]
#[rtype(result = "()")]
pub struct Admit {
    /// The number of its session.
    pub id: u64,
}

/// Supervises the IKE SAs of one tenant.
pub struct TenantSupervisor {
    node: Arc<Node>,
    share: Arc<TenantShare>,
    budget: Budget,
    /// Budgets of sessions that have panicked; forgotten when the session ends.
    suspects: HashMap<u64, Budget>,
}

impl TenantSupervisor {
    /// Supervised by Root.
    #[must_use]
    pub fn new(node: Arc<Node>, share: Arc<TenantShare>) -> Self {
        let limits = &node.config.limits;
        let budget = Budget::new(
            limits.restarts,
            Duration::from_secs(limits.restart_window_secs.into()),
        );
        Self {
            node,
            share,
            budget,
            suspects: HashMap::new(),
        }
    }

    /// Makes a new actor of a session whose actor panicked. That is noticed in several ways, and done once.
    fn revive(&mut self, session: &Arc<Session>, context: &mut Context<Self>) {
        let Some(fallen) = session.raise() else { return };
        let id = session.facts.id;
        let window = Duration::from_secs(self.node.config.limits.restart_window_secs.into());
        let now = Instant::now();
        let one = self
            .suspects
            .entry(id)
            .or_insert_with(|| Budget::new(RESTARTS_OF_ONE, window))
            .spend(now);
        if !one || !self.budget.spend(now) {
            tracing::error!(
                tenant = self.share.name,
                session = %format_args!("{id:016x}"),
                "restart budget is spent, the session ends"
            );
            fallen.done();
            recovery::abandon(&self.node, id, "its actor panicked too often");
            self.suspects.remove(&id);
            return;
        }
        self.share.restarts.fetch_add(1, Ordering::Relaxed);
        self.node.metrics.restart("ike_sa");
        let node = Arc::clone(&self.node);
        context.spawn(recovery::load_one(node, id).into_actor(self).map(
            move |loaded, this, _| match loaded {
                Ok(revived) => {
                    if !recovery::is_present(&this.node, &revived.session) {
                        return;
                    }
                    let Some(slot) = recovery::slot_of(&this.node, &revived.session.facts) else {
                        return;
                    };
                    IkeSaActor::revive(&this.node, &slot, revived);
                    fallen.done();
                    tracing::warn!(
                        tenant = this.share.name,
                        session = %format_args!("{id:016x}"),
                        "an IKE SA was restarted from its record"
                    );
                }
                // Its slot has gone: whoever has it now carries the session on.
                Err(recovery::RecoveryError::Elsewhere) => {}
                Err(error) => {
                    tracing::error!(session = %format_args!("{id:016x}"), %error, "cannot be restarted");
                    recovery::abandon(&this.node, id, "its actor panicked and its record is not usable");
                }
            },
        ));
    }
}

impl Actor for TenantSupervisor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        // Whoever panics from here on tells this one.
        self.share.supervisor.store(Some(Arc::new(context.address())));
        // The first one, or the successor of one that panicked: look for children that went unnoticed meanwhile.
        for session in self.node.sessions.of_tenant(&self.share.name) {
            self.revive(&session, context);
        }
    }

    fn stopped(&mut self, _: &mut Context<Self>) {
        let who = Who::Tenant(self.share.name.clone());
        self.node.tell_root(Gone {
            who,
            panicked: panicked(),
        });
    }
}

impl Handler<Admit> for TenantSupervisor {
    type Result = ();

    fn handle(&mut self, admit: Admit, context: &mut Context<Self>) {
        // It may have panicked between being admitted and this message.
        if let Some(session) = self.node.sessions.get(admit.id) {
            self.revive(&session, context);
        }
    }
}

impl Handler<Gone> for TenantSupervisor {
    type Result = ();

    fn handle(&mut self, gone: Gone, context: &mut Context<Self>) {
        let Who::IkeSa(id) = gone.who else { return };
        match self.node.sessions.get(id) {
            Some(session) if gone.panicked => self.revive(&session, context),
            _ => drop(self.suspects.remove(&id)),
        }
    }
}

impl Handler<Fault> for TenantSupervisor {
    type Result = ();

    fn handle(&mut self, _: Fault, _: &mut Context<Self>) {
        fail()
    }
}
