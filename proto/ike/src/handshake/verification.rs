//! Initiator, last state: the shell verifies the gateway.

use std::time::Instant;

use super::auth_init::Answered;
use super::auth_resp::AUTH_ID;
use super::child::{self, SpiGuard};
use super::establish::{Outcome, announce, established, hand_over};
use super::keyed::Keyed;
use super::{Base, Outbox, State, Step};
use crate::auth::{AuthJob, AuthVerdict, Rejection, VerifiedPeer};
use crate::types::{Command, Event, FailureKind, Identity, InitiatorConfig, Input, Output, Stage};
use crate::wire::{ExchangeType, Notify, NotifyType, Payload};

/// Waiting for the verdict on the gateway.
pub(crate) struct AwaitVerification {
    base: Base,
    keyed: Keyed,
    config: InitiatorConfig,
    local_id: Identity,
    guard: SpiGuard,
    answered: Answered,
    ticket: u64,
}

impl AwaitVerification {
    #[allow(clippy::too_many_arguments, reason = "the pieces of the state before")]
    pub(crate) fn start(
        now: Instant,
        mut base: Base,
        keyed: Keyed,
        config: InitiatorConfig,
        local_id: Identity,
        guard: SpiGuard,
        answered: Answered,
        job: AuthJob,
        out: &mut Outbox,
    ) -> State {
        if let Some(wanted) = config.remote_id.as_ref().filter(|_| config.require_remote_id)
            && !wanted.same(&job.peer_id)
        {
            let reason = format!("the gateway is {}, {wanted} was asked for", job.peer_id);
            return refuse(base, keyed, reason, out);
        }
        base.until = now + base.ctx.timing.half_open;
        let ticket = base.next_ticket();
        out.push_back(Output::Event(Event::Authenticate {
            ticket,
            job: Box::new(job),
        }));
        State::AwaitVerification(Box::new(Self {
            base,
            keyed,
            config,
            local_id,
            guard,
            answered,
            ticket,
        }))
    }

    fn verdict(self, now: Instant, verdict: AuthVerdict, out: &mut Outbox) -> State {
        match verdict {
            AuthVerdict::Verified(peer) => self.establish(now, peer, out),
            AuthVerdict::Reject(Rejection { reason, .. }) => refuse(self.base, self.keyed, reason, out),
            AuthVerdict::Accept(_) | AuthVerdict::Signed(_) => refuse(
                self.base,
                self.keyed,
                "a verdict of another phase".to_owned(),
                out,
            ),
        }
    }

    fn establish(self, now: Instant, peer: VerifiedPeer, out: &mut Outbox) -> State {
        let Self {
            base,
            keyed,
            config,
            local_id,
            guard,
            answered,
            ..
        } = self;
        base.step(out, "auth", format!("{} by {}", peer.id, peer.how));
        if let Some(assigned) = answered.assigned {
            out.push_back(Output::Event(Event::Configured(Box::new(assigned))));
        }
        let mut orphaned = false;
        let resource = child::first_of_group(&config.child, answered.resources);
        let child = match answered.child {
            Ok(answer) => {
                child::accept(&base, &keyed, &answer, &config.child, guard, resource).map_err(|refusal| {
                    orphaned = true;
                    refusal.reason
                })
            }
            //= rfc7296#section-2.21.2
            //# the initiator MUST NOT fail the authentication because of
            //# this.
            Err(reason) => Err(reason),
        };
        let child = child
            .map_err(|reason| out.push_back(Output::Event(Event::ChildFailed { reason })))
            .ok();
        let outcome = Outcome {
            next_send_id: AUTH_ID + 1,
            next_recv_id: 0,
            last_response: None,
            peer_id: peer.id,
            local_id,
            connection: String::new(),
            tenant: String::new(),
            policy: config.child,
            proposals: config.proposals,
            child,
            ike_lifetime: config.ike_lifetime,
            liveness: config.liveness,
            message_id_sync: answered.message_id_sync,
        };
        announce(&base, &keyed, &outcome, out);
        let mut core = hand_over(now, base, keyed, outcome);
        if orphaned && let Ok(core) = &mut core {
            // The gateway holds a child that we cannot accept and cannot name: end it all.
            core.handle(now, Input::Command(Command::Close));
        }
        established(core, out)
    }
}

/// Tells the gateway, once and without waiting, and ends.
//= rfc7296#section-2.21.2
//# If the error occurs on the initiator, the notification MAY be
//# returned in a separate INFORMATIONAL exchange, usually with no other
//# payloads.
fn refuse(mut base: Base, mut keyed: Keyed, reason: String, out: &mut Outbox) -> State {
    let notify = NotifyType::AUTHENTICATION_FAILED;
    let payloads = [Payload::Notify(Notify::new(notify))];
    if let Ok(datagrams) = keyed.seal(&mut base, ExchangeType::INFORMATIONAL, AUTH_ID + 1, &payloads) {
        base.send_all(out, &datagrams, false);
    }
    let failure = base.failure(Stage::Auth, FailureKind::Authentication, reason, Some(notify));
    base.fail(out, failure)
}

impl Step for AwaitVerification {
    fn handle(mut self: Box<Self>, now: Instant, input: Input, out: &mut Outbox) -> State {
        match input {
            Input::AuthResult { ticket, verdict } if ticket == self.ticket => {
                self.verdict(now, *verdict, out)
            }
            Input::Datagram { .. } => {
                self.base.counters.datagrams_in += 1;
                self.base.counters.unexpected += 1;
                State::AwaitVerification(self)
            }
            Input::Timeout if now >= self.base.until => self.base.expire(out, Stage::Auth, "verdict"),
            Input::Command(Command::Close) => self.base.abandon(out, Stage::Auth),
            Input::Timeout | Input::AuthResult { .. } | Input::Command(_) => State::AwaitVerification(self),
        }
    }

    fn deadline(&self) -> Option<(Instant, &'static str)> {
        Some((self.base.until, "verdict"))
    }

    fn base(&self) -> &Base {
        &self.base
    }
}
