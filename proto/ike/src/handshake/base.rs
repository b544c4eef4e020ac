//! What every state before ESTABLISHED has: context, addresses, SPIs, counters, and the record of what happened.

use std::net::SocketAddr;
use std::time::Instant;

use super::{Outbox, State};
use crate::types::{
    CloseReason, Context, Counters, Event, Failure, FailureKind, Identity, NatFindings, Output, Role, Stage,
    Transmit,
};
use crate::wire::{NotifyType, Spi};

/// The common part of the states of a handshake.
pub(crate) struct Base {
    pub(crate) ctx: Context,
    pub(crate) role: Role,
    pub(crate) spi_i: Spi,
    pub(crate) spi_r: Spi,
    pub(crate) local: SocketAddr,
    pub(crate) remote: SocketAddr,
    pub(crate) counters: Counters,
    pub(crate) record: Record,
    /// The whole handshake must be over by then.
    pub(crate) until: Instant,
    /// Ticket of the next authentication job.
    pub(crate) ticket: u64,
}

/// What an attempt record will want to know.
#[derive(Default)]
pub(crate) struct Record {
    pub(crate) offered: Vec<String>,
    pub(crate) accepted: Vec<String>,
    pub(crate) difference: Option<String>,
    pub(crate) peer_id: Option<Identity>,
    pub(crate) wanted_id: Option<Identity>,
    pub(crate) nat: Option<NatFindings>,
}

impl Base {
    pub(crate) fn new(now: Instant, ctx: Context, role: Role, local: SocketAddr, remote: SocketAddr) -> Self {
        let own = ctx.spis.ike();
        let (spi_i, spi_r) = match role {
            Role::Initiator => (own, Spi::ZERO),
            Role::Responder => (Spi::ZERO, own),
        };
        let until = now + ctx.timing.half_open;
        Self {
            ctx,
            role,
            spi_i,
            spi_r,
            local,
            remote,
            counters: Counters::default(),
            record: Record::default(),
            until,
            ticket: 0,
        }
    }

    pub(crate) fn step(&self, out: &mut Outbox, name: &'static str, detail: impl Into<String>) {
        out.push_back(Output::Event(Event::Step {
            name,
            detail: detail.into(),
        }));
    }

    pub(crate) fn warn(&self, out: &mut Outbox, detail: impl Into<String>) {
        out.push_back(Output::Event(Event::Warning {
            detail: detail.into(),
        }));
    }

    /// Sends to the peer's present address from ours.
    pub(crate) fn send(&mut self, out: &mut Outbox, bytes: Vec<u8>) {
        self.send_all(out, std::slice::from_ref(&bytes), false);
    }

    pub(crate) fn send_all(&mut self, out: &mut Outbox, datagrams: &[Vec<u8>], durable: bool) {
        for bytes in datagrams {
            self.counters.datagrams_out += 1;
            let (local, remote) = (self.local, self.remote);
            out.push_back(Output::Transmit(Transmit {
                local,
                remote,
                bytes: bytes.clone(),
                durable,
            }));
        }
    }

    /// The peer was heard, authentically, from these addresses: answers go there.
    //= rfc7296#section-2.23
    //# they MUST be accepted coming from any port and responses
    //# MUST be sent to the port from whence they came.
    pub(crate) fn heard(&mut self, out: &mut Outbox, local: SocketAddr, remote: SocketAddr) {
        self.local = local;
        if self.remote != remote {
            self.remote = remote;
            out.push_back(Output::Event(Event::PeerAddress { remote }));
        }
    }

    /// A failure with what is known so far.
    pub(crate) fn failure(
        &self,
        stage: Stage,
        kind: FailureKind,
        reason: impl Into<String>,
        notify: Option<NotifyType>,
    ) -> Failure {
        Failure {
            stage,
            kind,
            reason: reason.into(),
            notify,
            offered: self.record.offered.clone(),
            accepted: self.record.accepted.clone(),
            difference: self.record.difference.clone(),
            peer_id: self.record.peer_id.clone(),
            wanted_id: self.record.wanted_id.clone(),
            nat: self.record.nat,
        }
    }

    /// Reports a failure and ends.
    pub(crate) fn fail(self, out: &mut Outbox, failure: Failure) -> State {
        out.push_back(Output::Event(Event::Failed(Box::new(failure))));
        self.close(out, CloseReason::SetupFailed)
    }

    /// Ends.
    pub(crate) fn close(self, out: &mut Outbox, reason: CloseReason) -> State {
        out.push_back(Output::Event(Event::Closed { reason }));
        State::Closed(Box::new(self))
    }

    /// The time for the whole handshake is over.
    pub(crate) fn expire(self, out: &mut Outbox, stage: Stage, waiting_for: &str) -> State {
        let kind = match self.role {
            Role::Initiator => FailureKind::Timeout,
            Role::Responder => FailureKind::HalfOpen,
        };
        let failure = self.failure(stage, kind, format!("no {waiting_for} in time"), None);
        self.fail(out, failure)
    }

    /// Our side gave up.
    pub(crate) fn abandon(self, out: &mut Outbox, stage: Stage) -> State {
        let failure = self.failure(
            stage,
            FailureKind::Closed,
            "closed by this side before it was up",
            None,
        );
        out.push_back(Output::Event(Event::Failed(Box::new(failure))));
        self.close(out, CloseReason::Requested)
    }

    pub(crate) fn next_ticket(&mut self) -> u64 {
        self.ticket += 1;
        self.ticket
    }
}
