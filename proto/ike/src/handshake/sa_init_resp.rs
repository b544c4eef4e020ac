//! Responder, first state: IKE_SA_INIT is awaited (RFC 7296 sections 1.2, 2.6, 2.7).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use crypto::dh::KeyPair;

use super::channel::Channel;
use super::keyed::{Hints, Keyed, certreq, follows_redirect, hashes_data};
use super::{Base, ExpectAuth, Outbox, State, Step};
use crate::auth::Negotiation;
use crate::keylog;
use crate::keys::{IkeKeys, skeyseed};
use crate::nat;
use crate::types::{
    CloseReason, Command, Event, FailureKind, GatewayId, IkeSuite, InitPolicy, Input, Output, Role, Stage,
};
use crate::wire::proposal::{offered, select_ike};
use crate::wire::table::{self, Direction};
use crate::wire::{
    ExchangeType, Flags, Header, KeyExchange, Message, Notify, NotifyType, Payload, Payloads, SaPayload, Spi,
};

/// Octets of our nonces: half the key of the longest PRF (RFC 7296 section 2.10).
pub(crate) const NONCE_LEN: usize = 32;
/// INVALID_KE_PAYLOAD answers before we give up on a peer that does not listen.
const MAX_REFUSED_GROUPS: u8 = 4;

/// Waiting for IKE_SA_INIT.
pub(crate) struct ExpectSaInit {
    base: Base,
    policy: Arc<InitPolicy>,
    /// The last request and its answer INVALID_KE_PAYLOAD.
    last: Option<(Vec<u8>, Vec<u8>)>,
    refused_groups: u8,
}

/// An error answer to IKE_SA_INIT.
struct Refusal {
    kind: FailureKind,
    notify: Notify,
    reason: String,
}

impl Refusal {
    fn syntax(notify: NotifyType, data: Vec<u8>, reason: String) -> Self {
        Self {
            kind: FailureKind::Protocol,
            notify: Notify::with_data(notify, data),
            reason,
        }
    }
}

/// What a request leads to.
enum Answer {
    /// Keys.
    Keys(Box<Keyed>),
    /// Another group, please.
    WrongGroup(Refusal),
    /// The end.
    Refused(Refusal),
    /// The end here: another gateway serves the client.
    Elsewhere { to: GatewayId, notify: Notify },
}

impl ExpectSaInit {
    pub(crate) fn new(base: Base, policy: Arc<InitPolicy>) -> Self {
        Self {
            base,
            policy,
            last: None,
            refused_groups: 0,
        }
    }

    fn datagram(
        mut self: Box<Self>,
        local: SocketAddr,
        remote: SocketAddr,
        bytes: Vec<u8>,
        out: &mut Outbox,
    ) -> State {
        self.base.counters.datagrams_in += 1;
        if let Some((request, response)) = &self.last
            && *request == bytes
        {
            let response = response.clone();
            self.base.counters.retransmits_in += 1;
            self.base.send(out, response);
            return State::ExpectSaInit(self);
        }
        let Ok((header, _)) = Header::of_datagram(&bytes) else {
            self.base.counters.malformed += 1;
            return self.ignore(out, "the datagram is no IKE message");
        };
        let fits = header.exchange == ExchangeType::IKE_SA_INIT
            && !header.flags.response
            && header.flags.initiator
            && header.message_id == 0
            && header.spi_r.is_zero()
            && !header.spi_i.is_zero()
            && (self.base.spi_i.is_zero() || self.base.spi_i == header.spi_i);
        if !fits {
            self.base.counters.unexpected += 1;
            return self.ignore(out, "the datagram is no IKE_SA_INIT request");
        }
        self.base.spi_i = header.spi_i;
        (self.base.local, self.base.remote) = (local, remote);
        match self.answer(&bytes, out) {
            Answer::Keys(keyed) => {
                self.base.send(out, keyed.message_r.clone());
                State::ExpectAuth(Box::new(ExpectAuth::new(self.base, *keyed, self.policy)))
            }
            Answer::WrongGroup(refusal) if self.refused_groups < MAX_REFUSED_GROUPS => {
                self.refused_groups += 1;
                let Some(response) = self.refusal(&refusal) else {
                    return State::ExpectSaInit(self);
                };
                self.base.step(out, "invalid_ke", refusal.reason);
                self.base.send(out, response.clone());
                self.last = Some((bytes, response));
                State::ExpectSaInit(self)
            }
            Answer::Elsewhere { to, notify } => {
                //= rfc5685#section-3
                //# Note that when the IKE_SA_INIT response includes the REDIRECT notification, the exchange does not result in the creation of an IKE_SA and the responder Security Parameter Index (SPI) will be zero.
                if let Some(response) = self.without_sa(notify) {
                    self.base.step(out, "redirect", format!("to {to}"));
                    self.base.send(out, response);
                }
                self.base.close(out, CloseReason::Redirected)
            }
            Answer::WrongGroup(refusal) | Answer::Refused(refusal) => {
                if let Some(response) = self.refusal(&refusal) {
                    self.base.send(out, response);
                }
                let Refusal { kind, notify, reason } = refusal;
                let failure = self.base.failure(Stage::SaInit, kind, reason, Some(notify.kind));
                self.base.fail(out, failure)
            }
        }
    }

    /// A first datagram that is nothing ends it all; later ones may be anybody's and are only counted.
    fn ignore(self: Box<Self>, out: &mut Outbox, reason: &str) -> State {
        if self.last.is_some() {
            return State::ExpectSaInit(self);
        }
        let failure = self
            .base
            .failure(Stage::SaInit, FailureKind::Protocol, reason, None);
        self.base.fail(out, failure)
    }

    fn refusal(&self, refusal: &Refusal) -> Option<Vec<u8>> {
        self.without_sa(refusal.notify.clone())
    }

    /// A response that makes no IKE SA.
    fn without_sa(&self, notify: Notify) -> Option<Vec<u8>> {
        //= rfc7296#section-2.6
        //# When the IKE_SA_INIT exchange does not result in the
        //# creation of an IKE SA due to INVALID_KE_PAYLOAD, NO_PROPOSAL_CHOSEN,
        //# or COOKIE, the responder's SPI will be zero also in the response
        //# message.
        let header = Header::new(
            self.base.spi_i,
            Spi::ZERO,
            ExchangeType::IKE_SA_INIT,
            Flags::response(false),
            0,
        );
        Message::new(header, vec![Payload::Notify(notify)]).encode().ok()
    }

    fn answer(&mut self, bytes: &[u8], out: &mut Outbox) -> Answer {
        let message = match Message::decode(bytes) {
            Ok(message) => message,
            Err(error) => {
                self.base.counters.malformed += 1;
                let reason = format!("malformed IKE_SA_INIT: {error}");
                return Answer::Refused(Refusal::syntax(error.notify(), error.notify_data(), reason));
            }
        };
        if let Err(violation) = table::check(ExchangeType::IKE_SA_INIT, Direction::Request, &message.payloads)
        {
            let reason = format!("IKE_SA_INIT: {violation}");
            return Answer::Refused(Refusal::syntax(
                violation.notify(),
                violation.notify_data(),
                reason,
            ));
        }
        let (Some(sa), Some(ke), Some(nonce)) = (message.sa(), message.ke(), message.nonce()) else {
            let reason = "IKE_SA_INIT lacks SA, KE or nonce".to_owned();
            return Answer::Refused(Refusal::syntax(NotifyType::INVALID_SYNTAX, Vec::new(), reason));
        };
        if let Some(to) = self.policy.redirect.as_ref().filter(|_| leads_on(message.view())) {
            //= rfc5685#section-3
            //# The notification includes information about the selected VPN gateway and the nonce data from the Ni payload in the IKE_SA_INIT request.
            let notify = to.redirect(nonce);
            return Answer::Elsewhere {
                to: to.clone(),
                notify,
            };
        }
        let suite = match self.choose(sa, ke) {
            Ok(suite) => suite,
            Err(answer) => return *answer,
        };
        match self.complete(&message, bytes, suite, ke, nonce, out) {
            Ok(keyed) => Answer::Keys(Box::new(keyed)),
            Err(refusal) => Answer::Refused(refusal),
        }
    }

    /// Chooses the algorithms; errors are the answers.
    fn choose(&mut self, sa: &SaPayload, ke: &KeyExchange) -> Result<(IkeSuite, SaPayload), Box<Answer>> {
        self.base.record.offered = offered(sa);
        let chosen = match select_ike(sa, &self.policy.proposals, Some(ke.group)) {
            Ok(chosen) => chosen,
            Err(mismatch) => {
                self.base.record.accepted = self.policy.proposals.iter().map(ToString::to_string).collect();
                self.base.record.difference = Some(mismatch.to_string());
                let hint = mismatch
                    .hint()
                    .map_or_else(String::new, |hint| format!("; {hint}"));
                return Err(Box::new(Answer::Refused(Refusal {
                    kind: FailureKind::NoProposal,
                    notify: Notify::new(NotifyType::NO_PROPOSAL_CHOSEN),
                    reason: format!("no IKE proposal fits{hint}"),
                })));
            }
        };
        let suite = IkeSuite {
            suite: chosen.suite,
            prf: chosen.prf,
            group: chosen.group,
        };
        self.base.record.accepted = vec![suite.to_string()];
        if ke.group.0 != chosen.group.id() {
            //= rfc7296#section-1.2
            //# If the
            //# initiator guesses wrong, the responder will respond with a Notify
            //# payload of type INVALID_KE_PAYLOAD indicating the selected group.
            let data = chosen.group.id().to_be_bytes().to_vec();
            return Err(Box::new(Answer::WrongGroup(Refusal {
                kind: FailureKind::KeyExchange,
                notify: Notify::with_data(NotifyType::INVALID_KE_PAYLOAD, data),
                reason: format!("key exchange came with {}, {} was chosen", ke.group, chosen.group),
            })));
        }
        Ok((suite, chosen.to_payload(None)))
    }

    /// Key exchange, keys, answer.
    fn complete(
        &mut self,
        message: &Message,
        bytes: &[u8],
        (suite, sa): (IkeSuite, SaPayload),
        ke: &KeyExchange,
        nonce_i: &[u8],
        out: &mut Outbox,
    ) -> Result<Keyed, Refusal> {
        let base = &mut self.base;
        let internal = |reason: String| Refusal {
            kind: FailureKind::Internal,
            notify: Notify::new(NotifyType::TEMPORARY_FAILURE),
            reason,
        };
        let pair =
            KeyPair::generate(suite.group, base.ctx.random.as_mut()).map_err(|e| internal(e.to_string()))?;
        let shared = pair.derive(&ke.data).map_err(|error| Refusal {
            kind: FailureKind::KeyExchange,
            notify: Notify::new(NotifyType::INVALID_SYNTAX),
            reason: format!("key exchange refused: {error}"),
        })?;
        let mut nonce_r = vec![0; NONCE_LEN];
        base.ctx.random.fill(&mut nonce_r);
        let seed = skeyseed(suite.prf, nonce_i, &nonce_r, &shared);
        let keys = IkeKeys::derive(&seed, suite, nonce_i, &nonce_r, base.spi_i, base.spi_r);
        base.step(out, "dh", suite.group.to_string());
        base.step(
            out,
            "sa_init",
            format!("{suite}; offered: {}", base.record.offered.join(" | ")),
        );

        let hints = Hints::read(&message.payloads);
        let found = nat::findings(
            message.view(),
            base.spi_i,
            Spi::ZERO,
            base.local,
            base.remote,
            self.policy.force_encap,
        );
        base.record.nat = Some(found);
        base.step(out, "nat", found.to_string());
        let mut payloads = vec![
            Payload::Sa(sa),
            Payload::Ke(KeyExchange {
                group: ke.group,
                data: pair.public().to_vec(),
            }),
        ];
        payloads.push(Payload::Nonce(nonce_r.clone()));
        if found.supported {
            let force = self
                .policy
                .force_encap
                .then(|| nat::false_source(base.ctx.random.as_mut()));
            let pair = nat::notifies(base.spi_i, base.spi_r, base.local, base.remote, force);
            payloads.extend(pair.map(Payload::Notify));
        }
        let fragmentation = self.policy.fragmentation && hints.fragmentation;
        if fragmentation {
            payloads.push(Payload::Notify(Notify::new(
                NotifyType::IKEV2_FRAGMENTATION_SUPPORTED,
            )));
        }
        if hints.hashes.is_some() && !self.policy.hashes.is_empty() {
            let data = hashes_data(&self.policy.hashes);
            payloads.push(Payload::Notify(Notify::with_data(
                NotifyType::SIGNATURE_HASH_ALGORITHMS,
                data,
            )));
        }
        if !self.policy.certreq.is_empty() {
            payloads.push(certreq(&self.policy.certreq));
        }
        let header = Header::new(
            base.spi_i,
            base.spi_r,
            ExchangeType::IKE_SA_INIT,
            Flags::response(false),
            0,
        );
        let response = Message::new(header, payloads)
            .encode()
            .map_err(|e| internal(e.to_string()))?;
        if base.ctx.key_log {
            let line = keylog::ike_line(base.spi_i, base.spi_r, suite, &keys);
            out.extend(line.map(|line| Output::Event(Event::KeyLog(line))));
        }
        let fragment_size = fragmentation.then_some(self.policy.fragment_size);
        let channel = Channel::new(Role::Responder, suite, keys, base.ctx.generation, fragment_size)
            .map_err(|e| internal(e.to_string()))?;
        Ok(Keyed {
            channel,
            message_i: bytes.to_vec(),
            message_r: response,
            nonce_i: nonce_i.to_vec(),
            nonce_r,
            nat: found,
            our_hashes: if hints.hashes.is_some() {
                self.policy.hashes.clone()
            } else {
                Vec::new()
            },
            hints,
            negotiation: Negotiation {
                offered: base.record.offered.clone(),
                chosen: suite,
            },
        })
    }
}

/// Whether a client may be sent on: it follows, and was not sent here. RFC 5685 section 3 lets it be sent on again, but
/// gateways that relieve each other would pass it around until it gives up (section 7).
fn leads_on(request: Payloads<'_>) -> bool {
    follows_redirect(request) && request.notify(NotifyType::REDIRECTED_FROM).is_none()
}

impl Step for ExpectSaInit {
    fn handle(self: Box<Self>, now: Instant, input: Input, out: &mut Outbox) -> State {
        match input {
            Input::Datagram { local, remote, bytes } => self.datagram(local, remote, bytes, out),
            Input::Timeout if now >= self.base.until => self.base.expire(out, Stage::SaInit, "IKE_SA_INIT"),
            Input::Command(Command::Close) => self.base.abandon(out, Stage::SaInit),
            Input::Timeout | Input::AuthResult { .. } | Input::Command(_) => State::ExpectSaInit(self),
        }
    }

    fn deadline(&self) -> Option<(Instant, &'static str)> {
        Some((self.base.until, "half_open"))
    }

    fn base(&self) -> &Base {
        &self.base
    }
}
