//! What the shell of an IKE SA does for each event of its core.

use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use actix::{ActorContext as _, AsyncContext as _, Context};
use ike::wire::Spi;
use ike::{ChildSa, CloseReason, Event, IkeSummary};

use super::{IkeSaActor, Stage};
use crate::actors::{Admit, ChildSaActor, Follow, Order, Retire, SetPeer, StopSending};
use crate::authenticator::Granted;
use crate::recovery;
use crate::sa_record;
use crate::session::{Born, Child, Facts, Session, Standing};
use crate::slot::AGE_MAX;
use crate::telemetry::{Redacted, SetupTrace, Span};

impl IkeSaActor {
    /// Acts on one event; true when a record of the SA should be stored.
    pub(super) fn event(
        &mut self,
        event: Event,
        begun: (SystemTime, Instant),
        context: &mut Context<Self>,
    ) -> bool {
        match event {
            Event::Authenticate { ticket, job } => {
                self.node.authenticator.submit(
                    &self.node,
                    &self.slot,
                    (self.id, ticket),
                    job,
                    context.address(),
                );
                false
            }
            Event::Step { name, detail } => {
                if let ("max_queue", Some(session)) = (name, self.session()) {
                    self.node.metrics.resource(&session.facts.tenant, "refused");
                }
                self.step(Span {
                    name,
                    start: begun.0,
                    took: begun.1.elapsed(),
                    detail,
                    failed: false,
                });
                false
            }
            Event::Established { ike } => self.established(&ike, context),
            Event::ChildUp(child) => self.child_up(*child, 0, begun, context),
            Event::ChildRekeyed { old_spi_in, new } => {
                let rekeys = self
                    .session()
                    .and_then(|session| session.child(old_spi_in))
                    .map_or(0, |old| old.rekeys);
                self.rekeyed("child", begun);
                self.child_up(*new, rekeys + 1, begun, context)
            }
            Event::ChildLeaving { spi_in } => {
                if let Some(addr) = self.children.get(&spi_in) {
                    addr.do_send(StopSending);
                }
                true
            }
            Event::ChildDown { spi_in, reason } => {
                tracing::debug!(session = %format_args!("{:016x}", self.id), ?reason, "child SA down");
                self.child_down(spi_in);
                true
            }
            Event::ChildFailed { reason } => {
                if let Stage::Open {
                    login: Some(login), ..
                }
                | Stage::Opening { login, .. } = &mut self.stage
                {
                    login.child_failed(&reason);
                }
                false
            }
            Event::IkeRekeyed { new_spi_i, new_spi_r } => {
                // In a collision there are several new pairs; the last one that is told is the one that stays.
                for spi in self.sa.local_spis() {
                    self.enter(spi, context);
                }
                self.rekeyed("ike", begun);
                let born = self.slot.generation();
                self.update(|standing| {
                    standing.born = born;
                    standing.spi_i = new_spi_i.to_string();
                    standing.spi_r = new_spi_r.to_string();
                    standing.keyed = SystemTime::now();
                });
                true
            }
            Event::OldSpisGone { spi_i, spi_r } => {
                self.forget_spis(&[spi_i, spi_r], context);
                true
            }
            Event::PeerAddress { remote } => {
                self.update(|standing| standing.remote = remote);
                let local = self.sa.local();
                for child in self.children.values() {
                    child.do_send(SetPeer { local, remote });
                }
                true
            }
            Event::Failed(failure) => {
                if let Stage::Opening { login, granted, .. } = &mut self.stage {
                    login.failed(&self.node, &failure);
                    drop(granted.take());
                }
                false
            }
            Event::Closed { reason } => {
                if let (Stage::Opening { login, .. }, CloseReason::Redirected) = (&mut self.stage, &reason) {
                    login.redirected();
                    self.node.redirects.sent_at_init();
                    self.node.metrics.redirected("init");
                }
                self.close(&reason.to_string());
                false
            }
            Event::KeyLog(entry) => {
                if let Some(writer) = &self.node.key_log {
                    writer.write(&entry);
                }
                false
            }
            Event::Warning { detail } => {
                tracing::debug!(session = %format_args!("{:016x}", self.id), detail, "odd, and survived");
                false
            }
            Event::StateChanged => true,
            // Only initiators are told what they were given; and events of a later core need nothing here.
            Event::Configured(_) | _ => false,
        }
    }

    fn session(&self) -> Option<&Arc<Session>> {
        match &self.stage {
            Stage::Open { session, .. } => Some(session),
            Stage::Opening { .. } | Stage::Ended => None,
        }
    }

    fn step(&mut self, span: Span) {
        if let Stage::Opening { login, .. }
        | Stage::Open {
            login: Some(login), ..
        } = &mut self.stage
        {
            login.step(span);
        }
    }

    /// The peer is authenticated: from the pending supervisor to the tenant's.
    fn established(&mut self, ike: &IkeSummary, context: &mut Context<Self>) -> bool {
        if let Some(session) = self.session() {
            self.node.sessions.changed(session);
            return true;
        }
        let Stage::Opening {
            login,
            granted: Some(granted),
            ..
        } = std::mem::replace(&mut self.stage, Stage::Ended)
        else {
            self.closed = true;
            return false;
        };
        let Granted {
            counted,
            tenant,
            connection,
            virtual_addresses,
            worker,
            domain,
            ike_lifetime,
            ..
        } = *granted;
        let facts = Facts {
            id: self.id,
            slot: self.slot.id,
            tenant: tenant.name.clone(),
            connection,
            peer_id: ike.peer_id.to_string(),
            local_id: ike.local_id.to_string(),
            virtual_addresses,
            leases: self.node.authenticator.leases_of(self.id),
            worker,
            domain,
            established_secs: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |since| since.as_secs()),
            ike_lifetime_secs: ike_lifetime.map_or(0, |time| time.as_secs()),
        };
        tracing::info!(
            tenant = facts.tenant,
            connection = facts.connection,
            session = %format_args!("{:016x}", self.id),
            peer = %Redacted(&facts.peer_id),
            remote = %Redacted(ike.remote),
            suite = ike.suite,
            "established"
        );
        let session = Session::new(facts, standing(ike, "established", self.slot.generation()));
        session.addr.store(Some(Arc::new(context.address())));
        session.set_follows(self.sa.supports_redirect());
        self.node.metrics.session(&tenant.name, 1);
        self.slot.sessions.insert(self.id, Arc::clone(&session));
        self.node.sessions.add(Arc::clone(&session));
        self.node.tell_tenant(&tenant.name, Admit { id: self.id });
        self.stage = Stage::Open {
            session,
            login: Some(login),
            _counted: counted,
        };
        true
    }

    fn child_up(
        &mut self,
        sa: ChildSa,
        rekeys: u32,
        begun: (SystemTime, Instant),
        context: &mut Context<Self>,
    ) -> bool {
        let Some(session) = self.session().cloned() else {
            return false;
        };
        let spi_in = sa.spi_in;
        let born = Born {
            generation: self.slot.generation(),
            block: self.node.config.limits.sequence_block,
        };
        if rekeys == 0 && matches!(sa.resource, ike::Resource::Bound(_)) {
            self.node.metrics.resource(&session.facts.tenant, "made");
        }
        let child = Child::new(sa, &session.facts, rekeys, born);
        session.add(Arc::clone(&child));
        let addr = ChildSaActor::install(&self.node, &self.slot, context.address(), child);
        self.children.insert(spi_in, addr);
        self.step(Span {
            name: "install",
            start: begun.0,
            took: begun.1.elapsed(),
            detail: format!("worker {}", self.node.serving_worker(spi_in)),
            failed: false,
        });
        self.node.sessions.changed(&session);
        true
    }

    fn child_down(&mut self, spi_in: u32) {
        let child = self.session().and_then(|session| {
            let child = session.remove(spi_in);
            self.node.sessions.changed(session);
            child
        });
        if let Some(addr) = self.children.remove(&spi_in) {
            addr.do_send(Retire);
        }
        sa_record::forget_child(&self.slot, spi_in, child.as_deref());
    }

    fn rekeyed(&self, kind: &'static str, begun: (SystemTime, Instant)) {
        let Some(session) = self.session() else { return };
        self.node.metrics.rekey(&session.facts.tenant, kind);
        let name = if kind == "ike" { "ike.rekey" } else { "child.rekey" };
        let attributes = vec![
            opentelemetry::KeyValue::new("tenant", session.facts.tenant.clone()),
            opentelemetry::KeyValue::new("session", session.name()),
        ];
        let mut trace = SetupTrace::begin(&self.node.tracer, name, attributes);
        trace.child(&Span {
            name: "exchange",
            start: begun.0,
            took: begun.1.elapsed(),
            detail: String::new(),
            failed: false,
        });
        trace.end(None);
    }

    fn update(&self, change: impl FnOnce(&mut Standing)) {
        if let Some(session) = self.session() {
            session.update(change);
            self.node.sessions.changed(session);
        }
    }

    /// The end of the SA: everything that it held is given back.
    pub(super) fn close(&mut self, reason: &str) {
        self.closed = true;
        for (spi_in, addr) in std::mem::take(&mut self.children) {
            addr.do_send(Retire);
            let child = self.session().and_then(|session| session.child(spi_in));
            sa_record::forget_child(&self.slot, spi_in, child.as_deref());
            self.slot.spis().release_esp(spi_in);
        }
        match std::mem::replace(&mut self.stage, Stage::Ended) {
            Stage::Open { session, login, .. } => {
                tracing::info!(
                    tenant = session.facts.tenant,
                    session = %format_args!("{:016x}", self.id),
                    reason,
                    "closed"
                );
                if let Some(login) = login {
                    login.succeeded(&self.node, &session);
                }
                recovery::forget(&self.node, &self.slot, &session, reason);
            }
            opening @ Stage::Opening { .. } => self.stage = opening,
            Stage::Ended => {}
        }
    }

    /// Enters one of our SPIs, unless it leads here already.
    pub(super) fn enter(&mut self, spi: Spi, context: &mut Context<Self>) {
        if !self.spis.contains(&spi) {
            self.spis.push(spi);
            self.node.dispatch.enter(spi, context.address());
        }
    }

    fn forget_spis(&mut self, gone: &[Spi], context: &mut Context<Self>) {
        let current = self.sa.local_spi();
        self.spis.retain(|spi| {
            let stays = *spi == current || !gone.contains(spi);
            if !stays {
                self.node.dispatch.leave(*spi, &context.address());
            }
            stays
        });
        self.leave_opening(context);
    }

    fn leave_opening(&mut self, context: &mut Context<Self>) {
        if let Some(opening) = self.opening.take() {
            self.node.dispatch.leave_opening(&opening, &context.address());
        }
    }

    pub(super) fn leave(&mut self, context: &mut Context<Self>) {
        for spi in std::mem::take(&mut self.spis) {
            self.node.dispatch.leave(spi, &context.address());
        }
        self.leave_opening(context);
    }

    /// The successor of an actor, or of a process: takes the session and its children over.
    pub(super) fn take_over(&mut self, context: &mut Context<Self>) {
        let Some(session) = self.session().cloned() else {
            return;
        };
        session.addr.store(Some(Arc::new(context.address())));
        for spi in self.sa.local_spis() {
            self.enter(spi, context);
        }
        for child in session.children() {
            let spi_in = child.sa.spi_in;
            let living = child.addr.load_full().filter(|addr| addr.connected());
            let addr = match living {
                Some(addr) => {
                    addr.do_send(Follow {
                        parent: context.address(),
                    });
                    addr.as_ref().clone()
                }
                // A new process: the worker does not know this SA.
                None => ChildSaActor::restored(&self.node, &self.slot, context.address(), child),
            };
            self.children.insert(spi_in, addr);
        }
        self.arrival = None;
        self.node
            .tell_tenant(&session.facts.tenant, Admit { id: self.id });
        if self.sa.phase() == ike::Phase::Closed {
            context.stop();
        }
        let born = session.standing().born;
        if self.slot.generation().saturating_sub(born) > AGE_MAX {
            // Before the generation in its IVs comes round.
            context.notify(Order(ike::Command::RekeyIke));
        }
    }
}

/// What an [`IkeSummary`] says of a session's standing.
fn standing(ike: &IkeSummary, state: &'static str, born: u64) -> Standing {
    Standing {
        spi_i: ike.spi_i.to_string(),
        spi_r: ike.spi_r.to_string(),
        suite: ike.suite.clone(),
        local: ike.local,
        remote: ike.remote,
        nat_local: ike.nat.local,
        nat_remote: ike.nat.remote,
        state,
        keyed: SystemTime::now(),
        born,
    }
}
