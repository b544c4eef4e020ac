//! Initiator, second and third state: we sign, and send IKE_AUTH until it is answered.

use std::net::SocketAddr;
use std::time::Instant;

use super::auth_resp::AUTH_ID;
use super::channel::Received;
use super::child::{self, ChildPayloads, SpiGuard};
use super::keyed::{Keyed, authorities, certificates, certreq};
use super::resend::{Due, Resend};
use super::verdict::own_identity;
use super::{AwaitVerification, Base, Outbox, State, Step};
use crate::auth::{AuthPhase, AuthVerdict, LocalAuth, Rejection};
use crate::config::Assigned;
use crate::types::{Command, Event, FailureKind, Identity, InitiatorConfig, Input, Output, Stage};
use crate::wire::table::{self, Direction};
use crate::wire::{ExchangeType, Identification, Notify, NotifyType, Payload, Payloads};

/// The shell makes our signature.
pub(crate) struct AwaitSignature {
    base: Base,
    keyed: Keyed,
    config: InitiatorConfig,
    ticket: u64,
}

impl AwaitSignature {
    pub(crate) fn start(
        now: Instant,
        mut base: Base,
        keyed: Keyed,
        config: InitiatorConfig,
        out: &mut Outbox,
    ) -> State {
        base.until = now + base.ctx.timing.half_open;
        let expected = config.remote_id.clone().unwrap_or_else(Identity::none);
        let job = Box::new(keyed.job(&base, AuthPhase::Local, expected));
        let ticket = base.next_ticket();
        out.push_back(Output::Event(Event::Authenticate { ticket, job }));
        State::AwaitSignature(Box::new(Self {
            base,
            keyed,
            config,
            ticket,
        }))
    }

    fn verdict(self, now: Instant, verdict: AuthVerdict, out: &mut Outbox) -> State {
        match verdict {
            AuthVerdict::Signed(auth) => self.send(now, &auth, out),
            AuthVerdict::Reject(Rejection { reason, .. }) => {
                let failure = self
                    .base
                    .failure(Stage::Auth, FailureKind::Authentication, reason, None);
                self.base.fail(out, failure)
            }
            AuthVerdict::Accept(_) | AuthVerdict::Verified(_) => {
                let reason = "a verdict of another phase";
                let failure = self
                    .base
                    .failure(Stage::Auth, FailureKind::Internal, reason, None);
                self.base.fail(out, failure)
            }
        }
    }

    /// IDi, [CERT,] [N(INITIAL_CONTACT),] [CERTREQ,] [IDr,] AUTH, [CP,] SA, TSi, TSr.
    fn send(self, now: Instant, auth: &LocalAuth, out: &mut Outbox) -> State {
        let Self {
            mut base,
            mut keyed,
            config,
            ..
        } = self;
        let guard = SpiGuard::take(&base.ctx.spis, config.child.worker);
        let mut payloads = own_identity(auth, Payload::IdI);
        if config.initial_contact {
            payloads.push(Payload::Notify(Notify::new(NotifyType::INITIAL_CONTACT)));
        }
        if !config.certreq.is_empty() {
            payloads.push(certreq(&config.certreq));
        }
        payloads.extend(
            config
                .remote_id
                .as_ref()
                .map(|id| Payload::IdR(Identification::from(id))),
        );
        payloads.extend(
            config
                .config_request
                .as_ref()
                .map(|request| Payload::Cp(request.to_payload())),
        );
        payloads.extend(child::offer(&config.child, &guard));
        if !config.child.resources.is_empty() {
            payloads.push(child::group_notify());
        }
        if config.message_id_sync {
            payloads.push(Payload::Notify(Notify::new(
                NotifyType::IKEV2_MESSAGE_ID_SYNC_SUPPORTED,
            )));
        }
        base.step(out, "auth_request", format!("{} by {}", auth.id, auth.method));
        match keyed.seal(&mut base, ExchangeType::IKE_AUTH, AUTH_ID, &payloads) {
            Ok(datagrams) => {
                base.send_all(out, &datagrams, false);
                let resend = Resend::new(now, &base.ctx.timing, datagrams);
                let local_id = auth.id.clone();
                State::AuthSent(Box::new(AuthSent {
                    base,
                    keyed,
                    config,
                    local_id,
                    guard,
                    resend,
                }))
            }
            Err(error) => {
                let failure = base.failure(Stage::Auth, FailureKind::Internal, error.to_string(), None);
                base.fail(out, failure)
            }
        }
    }
}

impl Step for AwaitSignature {
    fn handle(mut self: Box<Self>, now: Instant, input: Input, out: &mut Outbox) -> State {
        match input {
            Input::AuthResult { ticket, verdict } if ticket == self.ticket => {
                self.verdict(now, *verdict, out)
            }
            Input::Datagram { .. } => {
                self.base.counters.datagrams_in += 1;
                self.base.counters.unexpected += 1;
                State::AwaitSignature(self)
            }
            Input::Timeout if now >= self.base.until => {
                self.base.expire(out, Stage::Auth, "signature of ours")
            }
            Input::Command(Command::Close) => self.base.abandon(out, Stage::Auth),
            Input::Timeout | Input::AuthResult { .. } | Input::Command(_) => State::AwaitSignature(self),
        }
    }

    fn deadline(&self) -> Option<(Instant, &'static str)> {
        Some((self.base.until, "signature"))
    }

    fn base(&self) -> &Base {
        &self.base
    }
}

/// IKE_AUTH is under way.
pub(crate) struct AuthSent {
    base: Base,
    keyed: Keyed,
    config: InitiatorConfig,
    local_id: Identity,
    guard: SpiGuard,
    resend: Resend,
}

/// What the gateway's answer says about the child.
pub(crate) struct Answered {
    pub(crate) child: Result<ChildPayloads, String>,
    pub(crate) assigned: Option<Assigned>,
    pub(crate) message_id_sync: bool,
    /// More child SAs with the same selectors may be made (RFC 9611).
    pub(crate) resources: bool,
}

impl AuthSent {
    fn datagram(
        mut self: Box<Self>,
        now: Instant,
        local: SocketAddr,
        remote: SocketAddr,
        bytes: &[u8],
        out: &mut Outbox,
    ) -> State {
        self.base.counters.datagrams_in += 1;
        if !self
            .keyed
            .expects(&self.base, bytes, ExchangeType::IKE_AUTH, AUTH_ID)
        {
            self.base.counters.unexpected += 1;
            return State::AuthSent(self);
        }
        let payloads = match self
            .keyed
            .channel
            .open(now, AUTH_ID, bytes, &mut self.base.counters)
        {
            Received::Dropped => return State::AuthSent(self),
            Received::Part => {
                self.base.heard(out, local, remote);
                return State::AuthSent(self);
            }
            Received::Message(payloads) => payloads,
        };
        self.base.heard(out, local, remote);
        let payloads = match payloads {
            Ok(payloads) => payloads,
            Err(error) => {
                self.base.counters.malformed += 1;
                return self.fail(
                    FailureKind::Protocol,
                    format!("malformed IKE_AUTH: {error}"),
                    None,
                    out,
                );
            }
        };
        if let Err(violation) = table::check(ExchangeType::IKE_AUTH, Direction::Response, &payloads) {
            return self.fail(FailureKind::Protocol, format!("IKE_AUTH: {violation}"), None, out);
        }
        self.answered(now, &payloads, out)
    }

    fn answered(self: Box<Self>, now: Instant, payloads: &[Payload], out: &mut Outbox) -> State {
        let view = Payloads(payloads);
        let error = view.error().map(|notify| notify.kind);
        let (Some((method, data)), Some(id)) = (view.auth(), view.id_r()) else {
            let (kind, reason) = match error {
                Some(kind) => (FailureKind::RefusedByPeer, format!("the gateway answers {kind}")),
                None if view.eap().is_some() => (
                    FailureKind::Authentication,
                    "the gateway wants EAP, which this side does not do".to_owned(),
                ),
                None => (
                    FailureKind::Protocol,
                    "the gateway's IKE_AUTH lacks IDr or AUTH".to_owned(),
                ),
            };
            return self.fail(kind, reason, error, out);
        };
        let Self {
            mut base,
            keyed,
            config,
            local_id,
            guard,
            ..
        } = *self;
        let peer_id = Identity::from(id);
        base.record.peer_id = Some(peer_id.clone());
        let mut job = keyed.job(&base, AuthPhase::Peer, peer_id);
        job.peer_certs = certificates(payloads);
        (job.cert_requested, job.cert_authorities) = authorities(payloads);
        job.peer_auth = Some((method, data.to_vec()));
        base.step(
            out,
            "auth_answer",
            format!(
                "{} by {method}, {} certificates",
                job.peer_id,
                job.peer_certs.len()
            ),
        );
        let child = match (ChildPayloads::read(view), error) {
            (Some(child), None) => Ok(child),
            (_, Some(kind)) => Err(format!("the gateway answers {kind}")),
            (None, None) => Err("the gateway's answer has no child SA".to_owned()),
        };
        let assigned = view.config().and_then(Assigned::from_payload);
        //= rfc6311#section-5
        //# Only a capability whose support was asserted by both parties can be used during the lifetime of the SA.
        let message_id_sync =
            config.message_id_sync && view.notify(NotifyType::IKEV2_MESSAGE_ID_SYNC_SUPPORTED).is_some();
        let answered = Answered {
            child,
            assigned,
            message_id_sync,
            resources: view.notify(NotifyType::SA_RESOURCE_INFO).is_some(),
        };
        AwaitVerification::start(now, base, keyed, config, local_id, guard, answered, job, out)
    }

    fn fail(self, kind: FailureKind, reason: String, notify: Option<NotifyType>, out: &mut Outbox) -> State {
        let failure = self.base.failure(Stage::Auth, kind, reason, notify);
        self.base.fail(out, failure)
    }
}

impl Step for AuthSent {
    fn handle(mut self: Box<Self>, now: Instant, input: Input, out: &mut Outbox) -> State {
        match input {
            Input::Datagram { local, remote, bytes } => self.datagram(now, local, remote, &bytes, out),
            Input::Timeout => match self.resend.poll(now, &self.base.ctx.timing) {
                Due::Nothing => State::AuthSent(self),
                Due::Again => {
                    self.base.counters.retransmits_out += 1;
                    self.base.send_all(out, &self.resend.datagrams, false);
                    State::AuthSent(self)
                }
                Due::GiveUp => self.base.expire(out, Stage::Auth, "answer from the gateway"),
            },
            Input::Command(Command::Close) => self.base.abandon(out, Stage::Auth),
            Input::AuthResult { .. } | Input::Command(_) => State::AuthSent(self),
        }
    }

    fn deadline(&self) -> Option<(Instant, &'static str)> {
        Some((self.resend.deadline(), "retransmit"))
    }

    fn base(&self) -> &Base {
        &self.base
    }
}
