//! Responder, third state: the shell decides about the peer; then IKE_AUTH is answered.

use std::sync::Arc;
use std::time::Instant;

use super::auth_resp::{AUTH_ID, Asked, refuse};
use super::child::{self, Refusal};
use super::establish::{Outcome, announce, established, hand_over};
use super::keyed::Keyed;
use super::{Base, Outbox, State, Step};
use crate::auth::{AuthVerdict, Grant, LocalAuth, Rejection};
use crate::established::CachedResponse;
use crate::types::{ChildSa, Command, Event, FailureKind, InitPolicy, Input, Output, Stage};
use crate::wire::{CertEncoding, CertPayload, ExchangeType, Identification, Notify, NotifyType, Payload};

/// Waiting for the verdict on the peer.
pub(crate) struct AwaitVerdict {
    base: Base,
    keyed: Keyed,
    policy: Arc<InitPolicy>,
    ticket: u64,
    asked: Asked,
    /// The datagram that completed the request.
    request: Vec<u8>,
}

impl AwaitVerdict {
    pub(crate) fn new(
        base: Base,
        keyed: Keyed,
        policy: Arc<InitPolicy>,
        ticket: u64,
        asked: Asked,
        request: Vec<u8>,
    ) -> Self {
        Self {
            base,
            keyed,
            policy,
            ticket,
            asked,
            request,
        }
    }

    fn verdict(self, now: Instant, verdict: AuthVerdict, out: &mut Outbox) -> State {
        let Self {
            base, keyed, request, ..
        } = match verdict {
            AuthVerdict::Accept(grant) => return self.accept(now, *grant, out),
            AuthVerdict::Reject(Rejection { notify, reason }) => {
                self.base.step(out, "auth", format!("refused: {reason}"));
                let Self {
                    base, keyed, request, ..
                } = self;
                let kind = FailureKind::PeerRefused;
                return refuse(now, base, keyed, request, Notify::new(notify), kind, reason, out);
            }
            AuthVerdict::Signed(_) | AuthVerdict::Verified(_) => self,
        };
        let notify = Notify::new(NotifyType::AUTHENTICATION_FAILED);
        let reason = "a verdict for an initiator came to a responder".to_owned();
        refuse(
            now,
            base,
            keyed,
            request,
            notify,
            FailureKind::Internal,
            reason,
            out,
        )
    }

    /// The peer may come in: IDr, [CERT,] AUTH, [CP,] SA, TSi, TSr, or a reason why there is no child.
    fn accept(self, now: Instant, grant: Grant, out: &mut Outbox) -> State {
        let detail = format!(
            "accepted by connection {} of tenant {}",
            grant.connection, grant.tenant
        );
        self.base.step(out, "auth", detail);
        let mut payloads = own_identity(&grant.local_auth, Payload::IdR);
        let child = match self.child(&grant, out) {
            Ok(None) => None,
            Ok(Some((child, more))) => {
                payloads.extend(more);
                Some(child)
            }
            //= rfc7296#section-1.2
            //# If creating the Child SA during the IKE_AUTH exchange fails for some
            //# reason, the IKE SA is still created as usual.
            Err(refusal) => {
                payloads.push(Payload::Notify(Notify::new(refusal.notify)));
                out.push_back(Output::Event(Event::ChildFailed {
                    reason: refusal.reason,
                }));
                None
            }
        };
        let message_id_sync = self.asked.message_id_sync;
        if message_id_sync {
            //= rfc6311#section-5
            //# When negotiating these capabilities, the responder MUST NOT assert support of a capability unless such support was asserted by the initiator.
            payloads.push(Payload::Notify(Notify::new(
                NotifyType::IKEV2_MESSAGE_ID_SYNC_SUPPORTED,
            )));
        }
        let Self {
            mut base,
            mut keyed,
            policy,
            request,
            ..
        } = self;
        let response = match keyed.seal(&mut base, ExchangeType::IKE_AUTH, AUTH_ID, &payloads) {
            Ok(response) => response,
            Err(error) => {
                if let Some(child) = child {
                    base.ctx.spis.release_esp(child.spi_in);
                }
                let notify = Notify::new(NotifyType::TEMPORARY_FAILURE);
                let reason = format!("the answer cannot be sealed: {error}");
                return refuse(
                    now,
                    base,
                    keyed,
                    request,
                    notify,
                    FailureKind::Internal,
                    reason,
                    out,
                );
            }
        };
        let outcome = Outcome {
            next_send_id: 0,
            next_recv_id: AUTH_ID + 1,
            last_response: Some(CachedResponse {
                message_id: AUTH_ID,
                datagrams: response.clone(),
            }),
            peer_id: base.record.peer_id.clone().unwrap_or_else(crate::Identity::none),
            local_id: grant.local_auth.id,
            connection: grant.connection,
            tenant: grant.tenant,
            policy: grant.policy,
            proposals: policy.proposals.clone(),
            child,
            ike_lifetime: grant.ike_lifetime,
            liveness: grant.liveness,
            message_id_sync,
        };
        announce(&base, &keyed, &outcome, out);
        base.send_all(out, &response, true);
        established(hand_over(now, base, keyed, outcome), out)
    }

    /// The child with its payloads; `None` if none was asked for.
    fn child(&self, grant: &Grant, out: &mut Outbox) -> Result<Option<(ChildSa, Vec<Payload>)>, Refusal> {
        let Some(offer) = &self.asked.child else {
            return Ok(None);
        };
        if let Some(Rejection { notify, reason }) = &grant.child_refused {
            return Err(Refusal {
                notify: *notify,
                reason: reason.clone(),
            });
        }
        let resource = child::first_of_group(&grant.policy, self.asked.resources);
        let (child, payloads) = child::answer(&self.base, &self.keyed, offer, &grant.policy, resource)?;
        let mut all = Vec::with_capacity(4);
        if let Some(request) = &self.asked.config {
            let reply = grant.assigned.to_payload(request);
            if !reply.attributes.is_empty() {
                self.base.step(out, "config", describe(grant));
                all.push(Payload::Cp(reply));
            }
        }
        all.extend(payloads);
        if resource.is_shared() {
            all.push(child::group_notify());
        }
        let (local, remote) = (child::list(&child.ts_local), child::list(&child.ts_remote));
        self.base
            .step(out, "child", format!("{}: {local} === {remote}", child.suite));
        Ok(Some((child, all)))
    }
}

fn describe(grant: &Grant) -> String {
    let v4 = grant.assigned.v4.map(|a| a.to_string());
    let v6 = grant.assigned.v6.map(|(a, prefix)| format!("{a}/{prefix}"));
    let addresses: Vec<String> = v4.into_iter().chain(v6).collect();
    let (dns, subnets) = (grant.assigned.dns.len(), grant.assigned.subnets.len());
    format!("{}, {dns} DNS servers, {subnets} subnets", addresses.join(", "))
}

/// ID, certificates and AUTH of our own.
pub(crate) fn own_identity(auth: &LocalAuth, wrap: fn(Identification) -> Payload) -> Vec<Payload> {
    let mut payloads = vec![wrap(Identification::from(&auth.id))];
    payloads.extend(auth.certs.iter().map(|der| {
        Payload::Cert(CertPayload {
            encoding: CertEncoding::X509_SIGNATURE,
            data: der.clone(),
        })
    }));
    payloads.push(Payload::Auth {
        method: auth.method,
        data: auth.data.clone(),
    });
    payloads
}

impl Step for AwaitVerdict {
    fn handle(mut self: Box<Self>, now: Instant, input: Input, out: &mut Outbox) -> State {
        match input {
            // The request again, or something else: the answer comes with the verdict.
            Input::Datagram { bytes, .. } => {
                self.base.counters.datagrams_in += 1;
                if self
                    .keyed
                    .expects(&self.base, &bytes, ExchangeType::IKE_AUTH, AUTH_ID)
                {
                    self.base.counters.retransmits_in += 1;
                } else {
                    self.base.counters.unexpected += 1;
                }
                State::AwaitVerdict(self)
            }
            Input::AuthResult { ticket, verdict } if ticket == self.ticket => {
                self.verdict(now, *verdict, out)
            }
            Input::Timeout if now >= self.base.until => self.base.expire(out, Stage::Auth, "verdict"),
            Input::Command(Command::Close) => self.base.abandon(out, Stage::Auth),
            Input::Timeout | Input::AuthResult { .. } | Input::Command(_) => State::AwaitVerdict(self),
        }
    }

    fn deadline(&self) -> Option<(Instant, &'static str)> {
        Some((self.base.until, "half_open"))
    }

    fn base(&self) -> &Base {
        &self.base
    }
}
