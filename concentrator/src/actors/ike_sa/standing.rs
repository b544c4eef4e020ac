//! What the standing of its slot means for the shell of an IKE SA: when it acts, and how it goes without a word.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use actix::{ActorContext as _, AsyncContext as _, Context, Handler, Message};
use ike::Input;

use super::{IkeSaActor, Stage};
use crate::actors::{Order, Vanish};
use crate::authenticator::AuthDone;
use crate::recovery::Receipt;

/// Orders that are kept while the slot does not serve.
const ORDERS: usize = 16;

/// The slot serves (again): do what has come due meanwhile.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "()")]
pub(crate) struct Resume;

/// The slot is another node's: stop, tell nobody, delete nothing.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "()")]
pub(crate) struct PutDown {
    /// Why, for the operator.
    pub(crate) reason: &'static str,
}

/// Write the record again, under another fence or another key, and say so when it is queued.
#[derive(Message, Clone)]
#[rtype(result = "()")]
pub(crate) struct Resave(pub(crate) Arc<Receipt>);

impl IkeSaActor {
    /// Whether the slot serves.
    pub(super) fn acts(&self) -> bool {
        self.slot.serving()
    }

    /// Keeps an order for later.
    pub(super) fn keep(&mut self, command: ike::Command) {
        if self.orders.len() < ORDERS {
            self.orders.push(command);
        } else {
            self.node.metrics.refusal("ike_sa");
        }
    }
}

impl Handler<Resume> for IkeSaActor {
    type Result = ();

    fn handle(&mut self, _: Resume, context: &mut Context<Self>) {
        if !self.acts() {
            return;
        }
        let now = (SystemTime::now(), Instant::now());
        self.end_as_decided(context);
        if self.closed {
            return;
        }
        for command in std::mem::take(&mut self.orders) {
            Handler::<Order>::handle(self, Order(command), context);
        }
        if let Some(done) = self.verdict.take() {
            Handler::<AuthDone>::handle(self, *done, context);
        }
        self.tell_inbound(now);
        if self.sa.deadline().is_some_and(|(at, _)| at <= now.1) {
            self.sa.handle(now.1, Input::Timeout);
        }
        self.drain(now, context);
    }
}

impl Handler<Resave> for IkeSaActor {
    type Result = ();

    fn handle(&mut self, Resave(receipt): Resave, context: &mut Context<Self>) {
        receipt.expect(self.children.len());
        for child in self.children.values() {
            child.do_send(Resave(Arc::clone(&receipt)));
        }
        self.unsaved = true;
        self.receipt = Some(receipt);
        self.drain((SystemTime::now(), Instant::now()), context);
    }
}

impl Handler<PutDown> for IkeSaActor {
    type Result = ();

    fn handle(&mut self, PutDown { reason }: PutDown, context: &mut Context<Self>) {
        self.closed = true;
        self.held.clear();
        for (_, child) in std::mem::take(&mut self.children) {
            child.do_send(Vanish);
        }
        match std::mem::replace(&mut self.stage, Stage::Ended) {
            Stage::Open { session, login, .. } => {
                if let Some(mut login) = login {
                    login.cut_off(&self.node, reason);
                }
                self.slot
                    .sessions
                    .remove_if(&self.id, |_, present| Arc::ptr_eq(present, &session));
                // This may be late: then its place is another's, restored when the slot came back.
                if self.node.sessions.remove_exactly(&session, reason) {
                    // Its addresses stay leased in the store: whoever serves the session next has them.
                    let _ = self.node.authenticator.take(self.id);
                    self.node.metrics.session(&session.facts.tenant, -1);
                }
            }
            Stage::Opening { mut login, .. } => {
                let _ = self.node.authenticator.take(self.id);
                login.cut_off(&self.node, reason);
            }
            Stage::Ended => {}
        }
        self.leave(context);
        let own = context.address();
        self.slot.actors.remove_if(&self.id, |_, addr| *addr == own);
        context.stop();
    }
}
