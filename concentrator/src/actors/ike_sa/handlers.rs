//! The messages of an IKE SA's shell, one handler each.

use std::time::{Instant, SystemTime};

use actix::{AsyncContext as _, Context, Handler};
use ike::Input;

use super::{IkeSaActor, Stage};
use crate::actors::{ChildSaActor, Datagram, Fault, Gone, Order, Who, fail};
use crate::authenticator::AuthDone;
use crate::records::Stored;
use crate::wheel::Wake;

impl Handler<Datagram> for IkeSaActor {
    type Result = ();

    fn handle(&mut self, Datagram { local, remote, bytes }: Datagram, context: &mut Context<Self>) {
        if !self.acts() {
            return;
        }
        if let Stage::Opening { login, .. } = &mut self.stage {
            login.heard();
        }
        self.feed(Input::Datagram { local, remote, bytes }, context);
    }
}

impl Handler<Wake> for IkeSaActor {
    type Result = ();

    fn handle(&mut self, _: Wake, context: &mut Context<Self>) {
        self.armed = None;
        if !self.acts() {
            return;
        }
        let now = (SystemTime::now(), Instant::now());
        self.tell_inbound(now);
        if self.sa.deadline().is_some_and(|(at, _)| at <= now.1) {
            self.sa.handle(now.1, Input::Timeout);
        }
        self.drain(now, context);
    }
}

impl Handler<Order> for IkeSaActor {
    type Result = ();

    fn handle(&mut self, Order(command): Order, context: &mut Context<Self>) {
        if self.acts() {
            self.feed(Input::Command(command), context);
        } else {
            self.keep(command);
        }
    }
}

impl Handler<AuthDone> for IkeSaActor {
    type Result = ();

    fn handle(&mut self, done: AuthDone, context: &mut Context<Self>) {
        if !self.acts() {
            self.verdict = Some(Box::new(done));
            return;
        }
        let Stage::Opening { login, granted, .. } = &mut self.stage else {
            return;
        };
        login.authenticated(&done);
        *granted = done.granted;
        self.feed(
            Input::AuthResult {
                ticket: done.ticket,
                verdict: done.verdict,
            },
            context,
        );
    }
}

impl Handler<Stored> for IkeSaActor {
    type Result = ();

    fn handle(&mut self, stored: Stored, _: &mut Context<Self>) {
        while self
            .held
            .front()
            .is_some_and(|(serial, _)| *serial <= stored.serial)
        {
            if let Some((_, transmit)) = self.held.pop_front() {
                self.slot.send(&self.node.sockets, &transmit);
            }
        }
        if let Stage::Open { session, login, .. } = &mut self.stage
            && let Some(login) = login.take()
        {
            login.succeeded(&self.node, session);
        }
    }
}

impl Handler<Gone> for IkeSaActor {
    type Result = ();

    fn handle(&mut self, gone: Gone, context: &mut Context<Self>) {
        let (Who::ChildSa(spi_in), Stage::Open { session, .. }) = (gone.who, &self.stage) else {
            return;
        };
        self.children.remove(&spi_in);
        if let (true, Some(child)) = (gone.panicked, session.child(spi_in)) {
            // Its SA is with the worker still: only the actor is new.
            self.node.metrics.restart("child_sa");
            let addr = ChildSaActor::resume(&self.node, &self.slot, context.address(), child);
            self.children.insert(spi_in, addr);
        }
    }
}

impl Handler<Fault> for IkeSaActor {
    type Result = ();

    fn handle(&mut self, _: Fault, _: &mut Context<Self>) {
        fail()
    }
}
