//! The supervisor of IKE SAs whose tenant is not known: bounded, and nothing is carried on after a panic.

use std::sync::Arc;
use std::time::Instant;

use actix::{Actor, Addr, Context, Handler, Message};

use super::{Begin, Datagram, Fault, Gone, IkeSaActor, Who, fail, panicked};
use crate::dispatch::Opening;
use crate::node::Node;
use crate::slot::{Slot, Standing};
use crate::tenant::Counted;

/// Messages that wait for this supervisor: each is one new IKE SA.
const MAILBOX: usize = 4_096;

/// A first message that the gate let through.
#[derive(Message)]
#[rtype(result = "()")]
pub struct NewSa {
    /// Names the set-up.
    pub opening: Opening,
    /// The IKE_SA_INIT request.
    pub bytes: Vec<u8>,
    /// When it was read.
    pub arrived: Instant,
    /// Whose service address was called.
    pub slot: Arc<Slot>,
}

/// A set-up is over. It may have been so before it was entered: whoever makes actors enters them, and forgets them again.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Vacated {
    /// Names the set-up.
    pub(crate) opening: Opening,
    /// Whose it was.
    pub(crate) addr: Addr<IkeSaActor>,
}

/// Makes IkeSaActors and owns them until their tenant is known.
pub struct PendingSupervisor {
    node: Arc<Node>,
}

impl PendingSupervisor {
    /// Supervised by Root.
    #[must_use]
    pub fn new(node: Arc<Node>) -> Self {
        Self { node }
    }
}

impl Actor for PendingSupervisor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        context.set_mailbox_capacity(MAILBOX);
    }

    fn stopped(&mut self, _: &mut Context<Self>) {
        self.node.tell_root(Gone {
            who: Who::Pending,
            panicked: panicked(),
        });
    }
}

impl Handler<NewSa> for PendingSupervisor {
    type Result = ();

    fn handle(&mut self, new: NewSa, _: &mut Context<Self>) {
        let NewSa {
            opening,
            bytes,
            arrived,
            slot,
        } = new;
        let first = Datagram {
            local: opening.local,
            remote: opening.remote,
            bytes,
        };
        // A retransmission that overtook the making of the actor.
        if let Some(addr) = self
            .node
            .dispatch
            .opening(&opening)
            .filter(actix::Addr::connected)
        {
            if addr.try_send(first).is_err() {
                self.node.metrics.refusal("ike_sa");
            }
            return;
        }
        // Held back since the Listener let it through.
        if slot.standing() != Standing::Serving {
            self.node.metrics.unserved("holding");
            return;
        }
        let most = self.node.config.limits.half_open;
        let Some(half_open) = Counted::take(&self.node.half_open, most) else {
            self.node.metrics.gate_drop("half_open_limit");
            return;
        };
        let begin = Begin {
            id: slot.next_session_id(),
            half_open: [half_open, Counted::force(&slot.half_open)],
            slot,
            opening,
            first,
            arrived,
        };
        IkeSaActor::begin(&self.node, begin);
    }
}

impl Handler<Vacated> for PendingSupervisor {
    type Result = ();

    fn handle(&mut self, Vacated { opening, addr }: Vacated, _: &mut Context<Self>) {
        self.node.dispatch.leave_opening(&opening, &addr);
    }
}

impl Handler<Gone> for PendingSupervisor {
    type Result = ();

    fn handle(&mut self, gone: Gone, _: &mut Context<Self>) {
        if gone.panicked {
            if let Who::IkeSa(id) = gone.who {
                self.node.authenticator.give_back(&self.node, id);
            }
            // Nothing of it was durable: its client's retransmission begins anew.
            self.node.metrics.restart("ike_sa_pending");
            tracing::error!(who = ?gone.who, "an IKE SA that was being set up panicked");
        }
    }
}

impl Handler<Fault> for PendingSupervisor {
    type Result = ();

    fn handle(&mut self, _: Fault, _: &mut Context<Self>) {
        fail()
    }
}
