//! Responder, second state: keys exist, IKE_AUTH is awaited (RFC 7296 section 1.2).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use super::channel::Received;
use super::child::ChildPayloads;
use super::keyed::{Keyed, authorities, certificates};
use super::{AwaitVerdict, Base, Outbox, Refused, State, Step};
use crate::auth::{AuthJob, AuthPhase};
use crate::config::ConfigRequest;
use crate::types::{Command, Event, FailureKind, Identity, InitPolicy, Input, Output, Stage};
use crate::wire::table::{self, Direction};
use crate::wire::{ExchangeType, Notify, NotifyType, Payload, Payloads};

/// Message ID of IKE_AUTH.
pub(crate) const AUTH_ID: u32 = 1;
/// Octets of an identity that are accepted.
const MAX_IDENTITY: usize = 4096;

/// Waiting for IKE_AUTH.
pub(crate) struct ExpectAuth {
    base: Base,
    keyed: Keyed,
    policy: Arc<InitPolicy>,
}

/// What IKE_AUTH asks for, besides what the job holds.
pub(crate) struct Asked {
    pub(crate) child: Option<ChildPayloads>,
    pub(crate) config: Option<ConfigRequest>,
    pub(crate) message_id_sync: bool,
    /// More child SAs with the same selectors are wanted (RFC 9611).
    pub(crate) resources: bool,
}

/// A request that is answered with an error, whatever it is about.
struct Fault {
    notify: NotifyType,
    data: Vec<u8>,
    reason: String,
}

impl ExpectAuth {
    pub(crate) fn new(base: Base, keyed: Keyed, policy: Arc<InitPolicy>) -> Self {
        Self { base, keyed, policy }
    }

    fn datagram(
        mut self: Box<Self>,
        now: Instant,
        local: SocketAddr,
        remote: SocketAddr,
        bytes: Vec<u8>,
        out: &mut Outbox,
    ) -> State {
        self.base.counters.datagrams_in += 1;
        //= rfc7296#section-2.1
        //# The responder MUST remember each response
        //# until it receives a request whose sequence number is larger than or
        //# equal to the sequence number in the response plus its window size
        if bytes == self.keyed.message_i {
            self.base.counters.retransmits_in += 1;
            let response = self.keyed.message_r.clone();
            self.base.send(out, response);
            return State::ExpectAuth(self);
        }
        if !self
            .keyed
            .expects(&self.base, &bytes, ExchangeType::IKE_AUTH, AUTH_ID)
        {
            self.base.counters.unexpected += 1;
            return State::ExpectAuth(self);
        }
        let payloads = match self
            .keyed
            .channel
            .open(now, AUTH_ID, &bytes, &mut self.base.counters)
        {
            Received::Dropped => return State::ExpectAuth(self),
            Received::Part => {
                self.base.heard(out, local, remote);
                return State::ExpectAuth(self);
            }
            Received::Message(payloads) => payloads,
        };
        self.base.heard(out, local, remote);
        let request = match payloads {
            Ok(payloads) => self.read(&payloads),
            Err(error) => {
                self.base.counters.malformed += 1;
                let reason = format!("malformed IKE_AUTH: {error}");
                Err(Fault {
                    notify: error.notify(),
                    data: error.notify_data(),
                    reason,
                })
            }
        };
        match request {
            Ok((job, asked)) => self.authenticate(job, asked, bytes, out),
            Err(fault) => {
                let notify = Notify::with_data(fault.notify, fault.data);
                refuse(
                    now,
                    self.base,
                    self.keyed,
                    bytes,
                    notify,
                    FailureKind::Protocol,
                    fault.reason,
                    out,
                )
            }
        }
    }

    fn authenticate(mut self, job: AuthJob, asked: Asked, request: Vec<u8>, out: &mut Outbox) -> State {
        let method = job
            .peer_auth
            .as_ref()
            .map_or_else(|| "EAP wanted".to_owned(), |(m, _)| m.to_string());
        let wanted = job
            .wanted_local_id
            .as_ref()
            .map_or_else(|| "anyone".to_owned(), ToString::to_string);
        let detail = format!(
            "{} to {wanted} by {method}, {} certificates",
            job.peer_id,
            job.peer_certs.len()
        );
        self.base.step(out, "auth_request", detail);
        let ticket = self.base.next_ticket();
        out.push_back(Output::Event(Event::Authenticate {
            ticket,
            job: Box::new(job),
        }));
        let Self { base, keyed, policy } = self;
        State::AwaitVerdict(Box::new(AwaitVerdict::new(
            base, keyed, policy, ticket, asked, request,
        )))
    }

    /// Reads the request; nothing of it is verified.
    fn read(&mut self, payloads: &[Payload]) -> Result<(AuthJob, Asked), Fault> {
        let syntax = |reason: &str| Fault {
            notify: NotifyType::INVALID_SYNTAX,
            data: Vec::new(),
            reason: format!("IKE_AUTH: {reason}"),
        };
        table::check(ExchangeType::IKE_AUTH, Direction::Request, payloads).map_err(|violation| Fault {
            notify: violation.notify(),
            data: violation.notify_data(),
            reason: format!("IKE_AUTH: {violation}"),
        })?;
        let view = Payloads(payloads);
        let peer_id = view.id_i().map(Identity::from).ok_or_else(|| syntax("no IDi"))?;
        let wanted = view.id_r().map(Identity::from);
        if [Some(&peer_id), wanted.as_ref()]
            .into_iter()
            .flatten()
            .any(|id| id.data.len() > MAX_IDENTITY)
        {
            return Err(syntax("an identity is too long"));
        }
        if view.eap().is_some() {
            return Err(syntax("EAP before it was started"));
        }
        self.base.record.peer_id = Some(peer_id.clone());
        self.base.record.wanted_id.clone_from(&wanted);
        let child = ChildPayloads::read(view);
        let config = view.config().and_then(ConfigRequest::from_payload);
        let mut job = self.keyed.job(&self.base, AuthPhase::Both, peer_id);
        job.wanted_local_id = wanted;
        job.peer_certs = certificates(payloads);
        (job.cert_requested, job.cert_authorities) = authorities(payloads);
        job.peer_auth = view.auth().map(|(method, data)| (method, data.to_vec()));
        job.initial_contact = view.notify(NotifyType::INITIAL_CONTACT).is_some();
        job.mobike = view.notify(NotifyType::MOBIKE_SUPPORTED).is_some();
        job.config_request.clone_from(&config);
        if let Some(child) = &child {
            job.child_offer = Some(child.sa.clone());
            job.ts_i.clone_from(&child.ts_i);
            job.ts_r.clone_from(&child.ts_r);
        }
        let message_id_sync = view.notify(NotifyType::IKEV2_MESSAGE_ID_SYNC_SUPPORTED).is_some();
        let asked = Asked {
            child,
            config,
            message_id_sync,
            resources: view.notify(NotifyType::SA_RESOURCE_INFO).is_some(),
        };
        Ok((job, asked))
    }
}

/// Answers IKE_AUTH with one error, reports the failure, and stays to answer the request again.
//= rfc7296#section-2.21.2
//# If the error occurred on the responder, the
//# notification is returned in the protected response, and is usually
//# the only payload in that response.
#[allow(clippy::too_many_arguments, reason = "the pieces of two states that end here")]
pub(crate) fn refuse(
    now: Instant,
    mut base: Base,
    mut keyed: Keyed,
    request: Vec<u8>,
    notify: Notify,
    kind: FailureKind,
    reason: String,
    out: &mut Outbox,
) -> State {
    let failure = base.failure(Stage::Auth, kind, reason, Some(notify.kind));
    let Ok(response) = keyed.seal(
        &mut base,
        ExchangeType::IKE_AUTH,
        AUTH_ID,
        &[Payload::Notify(notify)],
    ) else {
        return base.fail(out, failure);
    };
    base.send_all(out, &response, false);
    out.push_back(Output::Event(Event::Failed(Box::new(failure))));
    State::Refused(Box::new(Refused::new(now, base, request, response)))
}

impl Step for ExpectAuth {
    fn handle(self: Box<Self>, now: Instant, input: Input, out: &mut Outbox) -> State {
        match input {
            Input::Datagram { local, remote, bytes } => self.datagram(now, local, remote, bytes, out),
            Input::Timeout if now >= self.base.until => self.base.expire(out, Stage::Auth, "IKE_AUTH"),
            Input::Command(Command::Close) => self.base.abandon(out, Stage::Auth),
            Input::Timeout | Input::AuthResult { .. } | Input::Command(_) => State::ExpectAuth(self),
        }
    }

    fn deadline(&self) -> Option<(Instant, &'static str)> {
        Some((self.base.until, "half_open"))
    }

    fn base(&self) -> &Base {
        &self.base
    }
}
