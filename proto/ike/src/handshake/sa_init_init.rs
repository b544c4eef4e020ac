//! Initiator, first state: IKE_SA_INIT is sent until it is answered (RFC 7296 sections 1.2, 2.6, 2.7, 2.21.1).

use std::net::SocketAddr;
use std::time::Instant;

use crypto::Group;
use crypto::dh::KeyPair;

use super::channel::Channel;
use super::keyed::{Hints, Keyed, hashes_data};
use super::resend::{Due, Resend};
use super::sa_init_resp::NONCE_LEN;
use super::{AwaitSignature, Base, Outbox, State, Step};
use crate::auth::Negotiation;
use crate::keylog;
use crate::keys::{IkeKeys, skeyseed};
use crate::nat;
use crate::types::{
    CloseReason, Command, Event, Failure, FailureKind, GatewayId, IkeSuite, InitiatorConfig, Input, Output,
    Role, Stage,
};
use crate::wire::proposal::{accept_ike, offer_ike, offered};
use crate::wire::table::{self, Direction};
use crate::wire::{ExchangeType, Flags, Header, KeyExchange, Message, Notify, NotifyType, Payload, Spi};

/// COOKIE and INVALID_KE_PAYLOAD answers that are followed.
const MAX_ROUNDS: u8 = 8;
/// Octets of a cookie.
const COOKIE_OCTETS: std::ops::RangeInclusive<usize> = 1..=64;

/// IKE_SA_INIT is under way.
pub(crate) struct SaInitSent {
    base: Base,
    config: InitiatorConfig,
    pair: KeyPair,
    nonce: Vec<u8>,
    cookie: Option<Vec<u8>>,
    /// Claims a NAT in front of us.
    false_source: Option<[u8; 20]>,
    /// Groups that were tried: a gateway is not followed in circles.
    tried: Vec<Group>,
    rounds: u8,
    resend: Resend,
    /// A refusal that anybody may have forged: it counts if nothing better has come by then.
    doubt: Option<(Instant, Box<Failure>)>,
}

impl SaInitSent {
    /// Sends the first request.
    pub(crate) fn start(now: Instant, mut base: Base, config: InitiatorConfig, out: &mut Outbox) -> State {
        base.record.offered = offered(&offer_ike(&config.proposals, None));
        let first = config
            .proposals
            .first()
            .and_then(|proposal| proposal.groups.first().copied());
        let Some(group) = config.first_group.or(first) else {
            let failure = base.failure(
                Stage::SaInit,
                FailureKind::Internal,
                "no proposal with a group",
                None,
            );
            return base.fail(out, failure);
        };
        let pair = match KeyPair::generate(group, base.ctx.random.as_mut()) {
            Ok(pair) => pair,
            Err(error) => {
                let failure = base.failure(Stage::SaInit, FailureKind::Internal, error.to_string(), None);
                return base.fail(out, failure);
            }
        };
        let mut nonce = vec![0; NONCE_LEN];
        base.ctx.random.fill(&mut nonce);
        let false_source = config
            .force_encap
            .then(|| nat::false_source(base.ctx.random.as_mut()));
        let resend = Resend::new(now, &base.ctx.timing, Vec::new());
        let tried = vec![group];
        let state = Self {
            base,
            config,
            pair,
            nonce,
            cookie: None,
            false_source,
            tried,
            rounds: 0,
            resend,
            doubt: None,
        };
        Box::new(state).transmit(now, out)
    }

    /// Builds the request as things are, and sends it.
    fn transmit(mut self: Box<Self>, now: Instant, out: &mut Outbox) -> State {
        match self.request() {
            Ok(bytes) => {
                self.base.send(out, bytes.clone());
                self.resend = Resend::new(now, &self.base.ctx.timing, vec![bytes]);
                State::SaInitSent(self)
            }
            Err(error) => {
                let failure =
                    self.base
                        .failure(Stage::SaInit, FailureKind::Internal, error.to_string(), None);
                self.base.fail(out, failure)
            }
        }
    }

    fn request(&self) -> Result<Vec<u8>, crate::wire::EncodeError> {
        let base = &self.base;
        let mut payloads = Vec::new();
        //= rfc7296#section-2.6
        //# If the IKE_SA_INIT response
        //# includes the COOKIE notification, the initiator MUST then retry the
        //# IKE_SA_INIT request, and include the COOKIE notification containing
        //# the received data as the first payload, and all other payloads
        //# unchanged.
        if let Some(cookie) = &self.cookie {
            payloads.push(Payload::Notify(Notify::with_data(
                NotifyType::COOKIE,
                cookie.clone(),
            )));
        }
        //= rfc7296#section-1.2
        //# The initiator MUST again propose its
        //# full set of acceptable cryptographic suites because the rejection
        //# message was unauthenticated
        payloads.push(Payload::Sa(offer_ike(&self.config.proposals, None)));
        let group = crate::wire::KeId(self.pair.group().id());
        payloads.push(Payload::Ke(KeyExchange {
            group,
            data: self.pair.public().to_vec(),
        }));
        payloads.push(Payload::Nonce(self.nonce.clone()));
        let notifies = nat::notifies(base.spi_i, Spi::ZERO, base.local, base.remote, self.false_source);
        payloads.extend(notifies.map(Payload::Notify));
        if self.config.fragmentation {
            payloads.push(Payload::Notify(Notify::new(
                NotifyType::IKEV2_FRAGMENTATION_SUPPORTED,
            )));
        }
        if !self.config.hashes.is_empty() {
            let data = hashes_data(&self.config.hashes);
            payloads.push(Payload::Notify(Notify::with_data(
                NotifyType::SIGNATURE_HASH_ALGORITHMS,
                data,
            )));
        }
        if let Some(from) = self.config.redirected_from {
            //= rfc5685#section-3
            //# In the IKE_SA_INIT exchange with the new VPN gateway, the client MUST include the REDIRECTED_FROM payload (see Section 9.3).
            payloads.push(Payload::Notify(GatewayId::redirected_from(from)));
        } else if self.config.redirect {
            //= rfc5685#section-3
            //# The VPN client indicates support for the IKEv2 redirect mechanism and its willingness to be redirected by including a REDIRECT_SUPPORTED notification message in the initial IKE_SA_INIT request (see Section 9.1).
            payloads.push(Payload::Notify(Notify::new(NotifyType::REDIRECT_SUPPORTED)));
        }
        let header = Header::new(
            base.spi_i,
            Spi::ZERO,
            ExchangeType::IKE_SA_INIT,
            Flags::request(true),
            0,
        );
        Message::new(header, payloads).encode()
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
        let Ok(message) = Message::decode(&bytes) else {
            self.base.counters.malformed += 1;
            return State::SaInitSent(self);
        };
        let header = message.header;
        let fits = header.exchange == ExchangeType::IKE_SA_INIT
            && header.flags.response
            && !header.flags.initiator
            && header.message_id == 0
            && header.spi_i == self.base.spi_i
            && remote == self.base.remote;
        if !fits {
            self.base.counters.unexpected += 1;
            return State::SaInitSent(self);
        }
        if table::check(ExchangeType::IKE_SA_INIT, Direction::Response, &message.payloads).is_err() {
            self.base.counters.malformed += 1;
            return State::SaInitSent(self);
        }
        if let Some(cookie) = message
            .notify(NotifyType::COOKIE)
            .filter(|_| message.sa().is_none())
        {
            return self.cookie(now, cookie.data.clone(), out);
        }
        if let Some(notify) = message.notify(NotifyType::INVALID_KE_PAYLOAD) {
            return self.other_group(now, notify.data_u16(), out);
        }
        if let Some(notify) = message.notify(NotifyType::REDIRECT) {
            return self.elsewhere(notify, out);
        }
        if let Some(error) = message.error() {
            let mut failure = self.base.failure(
                Stage::SaInit,
                if error.kind == NotifyType::NO_PROPOSAL_CHOSEN {
                    FailureKind::NoProposal
                } else {
                    FailureKind::RefusedByPeer
                },
                format!("the gateway answers {}", error.kind),
                Some(error.kind),
            );
            failure.accepted = Vec::new();
            return self.doubt(now, failure, out);
        }
        match self.complete(local, &message, bytes, out) {
            Ok(keyed) => {
                let Self { base, config, .. } = *self;
                AwaitSignature::start(now, base, keyed, config, out)
            }
            Err(failure) => self.doubt(now, *failure, out),
        }
    }

    fn cookie(mut self: Box<Self>, now: Instant, cookie: Vec<u8>, out: &mut Outbox) -> State {
        if !COOKIE_OCTETS.contains(&cookie.len()) || self.cookie.as_ref() == Some(&cookie) {
            self.base.counters.unexpected += 1;
            return State::SaInitSent(self);
        }
        //= rfc7296#section-2.6
        //# The initiator should limit the number of cookie exchanges it
        //# tries before giving up
        if self.rounds >= MAX_ROUNDS {
            self.base.counters.unexpected += 1;
            return State::SaInitSent(self);
        }
        self.rounds += 1;
        self.base.step(out, "cookie", format!("{} octets", cookie.len()));
        self.cookie = Some(cookie);
        self.transmit(now, out)
    }

    /// The gateway sends us to another one.
    fn elsewhere(mut self: Box<Self>, notify: &Notify, out: &mut Outbox) -> State {
        let follows = self.config.redirect || self.config.redirected_from.is_some();
        //= rfc5685#section-3
        //# If the values do not match, the client MUST silently discard the response (and keep waiting for another response).
        match GatewayId::of_redirect(notify) {
            Some((to, nonce)) if follows && nonce == self.nonce => {
                out.push_back(Output::Event(Event::Redirected { to }));
                self.base.close(out, CloseReason::Redirected)
            }
            Some(_) | None => {
                self.base.counters.unexpected += 1;
                State::SaInitSent(self)
            }
        }
    }

    fn other_group(mut self: Box<Self>, now: Instant, told: Option<u16>, out: &mut Outbox) -> State {
        let group = told.and_then(|id| Group::try_from(id).ok());
        let ours = |group: &Group| {
            self.config
                .proposals
                .iter()
                .any(|proposal| proposal.groups.contains(group))
        };
        let Some(group) = group.filter(ours) else {
            let reason = format!(
                "the gateway wants key exchange {}, which was not offered",
                told.unwrap_or(0)
            );
            let kind = NotifyType::INVALID_KE_PAYLOAD;
            let failure = self
                .base
                .failure(Stage::SaInit, FailureKind::KeyExchange, reason, Some(kind));
            return self.doubt(now, failure, out);
        };
        if self.tried.contains(&group) || self.rounds >= MAX_ROUNDS {
            if group == self.pair.group() {
                // An answer to an earlier request that came late or twice.
                self.base.counters.unexpected += 1;
                return State::SaInitSent(self);
            }
            let reason = format!("the gateway asks for {group} again, after {}", self.pair.group());
            let kind = NotifyType::INVALID_KE_PAYLOAD;
            let failure = self
                .base
                .failure(Stage::SaInit, FailureKind::KeyExchange, reason, Some(kind));
            return self.doubt(now, failure, out);
        }
        self.rounds += 1;
        self.tried.push(group);
        self.base
            .step(out, "invalid_ke", format!("the gateway wants {group}"));
        match KeyPair::generate(group, self.base.ctx.random.as_mut()) {
            Ok(pair) => {
                self.pair = pair;
                self.transmit(now, out)
            }
            Err(error) => {
                let failure =
                    self.base
                        .failure(Stage::SaInit, FailureKind::Internal, error.to_string(), None);
                self.base.fail(out, failure)
            }
        }
    }

    /// Remembers a refusal that is not protected, and waits for something better.
    //= rfc7296#section-2.21.1
    //# Because all error notifications are completely
    //# unauthenticated, the recipient should continue trying for some time
    //# before giving up.
    fn doubt(mut self: Box<Self>, now: Instant, failure: Failure, out: &mut Outbox) -> State {
        if self.doubt.is_none() {
            self.base
                .warn(out, format!("{failure}; waiting for a better answer"));
            let patience = self.base.ctx.timing.retransmit_after(1) * 2;
            self.doubt = Some((now + patience, Box::new(failure)));
        }
        State::SaInitSent(self)
    }

    /// Key exchange and keys.
    fn complete(
        &mut self,
        local: SocketAddr,
        message: &Message,
        bytes: Vec<u8>,
        out: &mut Outbox,
    ) -> Result<Keyed, Box<Failure>> {
        let base = &self.base;
        let failure = |kind, reason: String| Box::new(base.failure(Stage::SaInit, kind, reason, None));
        let (Some(sa), Some(ke), Some(nonce_r)) = (message.sa(), message.ke(), message.nonce()) else {
            return Err(failure(
                FailureKind::Protocol,
                "the gateway's answer lacks SA, KE or nonce".to_owned(),
            ));
        };
        let spi_r = message.header.spi_r;
        if spi_r.is_zero() {
            return Err(failure(
                FailureKind::Protocol,
                "the gateway's answer has no SPI".to_owned(),
            ));
        }
        let ours = crate::wire::KeId(self.pair.group().id());
        let chosen = accept_ike(sa, &self.config.proposals, Some(ours)).map_err(|mismatch| {
            let mut failure = failure(
                FailureKind::NoProposal,
                "the gateway chose what was not offered".to_owned(),
            );
            failure.difference = Some(mismatch.to_string());
            failure
        })?;
        if chosen.group != self.pair.group() || ke.group != ours {
            let reason = format!(
                "the gateway answers with key exchange {}, {ours} was sent",
                ke.group
            );
            return Err(failure(FailureKind::KeyExchange, reason));
        }
        let shared = self
            .pair
            .derive(&ke.data)
            .map_err(|error| failure(FailureKind::KeyExchange, format!("key exchange refused: {error}")))?;
        let suite = IkeSuite {
            suite: chosen.suite,
            prf: chosen.prf,
            group: chosen.group,
        };
        let seed = skeyseed(suite.prf, &self.nonce, nonce_r, &shared);
        let keys = IkeKeys::derive(&seed, suite, &self.nonce, nonce_r, base.spi_i, spi_r);

        let hints = Hints::read(&message.payloads);
        let forced = self.config.force_encap;
        let found = nat::findings(message.view(), base.spi_i, spi_r, local, base.remote, forced);
        let fragment_size =
            (self.config.fragmentation && hints.fragmentation).then_some(self.config.fragment_size);
        let channel = Channel::new(Role::Initiator, suite, keys, base.ctx.generation, fragment_size)
            .map_err(|error| failure(FailureKind::Internal, error.to_string()))?;
        self.base.spi_r = spi_r;
        let base = &mut self.base;
        base.record.accepted = vec![suite.to_string()];
        base.record.nat = Some(found);
        base.step(out, "dh", suite.group.to_string());
        base.step(out, "sa_init", suite.to_string());
        base.step(out, "nat", found.to_string());
        if base.ctx.key_log {
            let line = keylog::ike_line(base.spi_i, base.spi_r, suite, &channel.keys);
            out.extend(line.map(|line| Output::Event(Event::KeyLog(line))));
        }
        //= rfc7296#section-2.23
        //# The IKE initiator MUST check the NAT_DETECTION_SOURCE_IP or
        //# NAT_DETECTION_DESTINATION_IP payloads if present, and if they do
        //# not match the addresses in the outer packet, MUST tunnel all
        //# future IKE and ESP packets associated with this IKE SA over UDP
        //# port 4500.
        if found.encap() {
            let (local, remote) = (nat::floated(local), nat::floated(base.remote));
            base.heard(out, local, remote);
        } else {
            base.local = local;
        }
        Ok(Keyed {
            channel,
            message_i: self.resend.datagrams.first().cloned().unwrap_or_default(),
            message_r: bytes,
            nonce_i: self.nonce.clone(),
            nonce_r: nonce_r.to_vec(),
            nat: found,
            our_hashes: self.config.hashes.clone(),
            hints,
            negotiation: Negotiation {
                offered: base.record.offered.clone(),
                chosen: suite,
            },
        })
    }

    fn timeout(mut self: Box<Self>, now: Instant, out: &mut Outbox) -> State {
        if let Some((due, _)) = &self.doubt
            && now >= *due
            && let Some((_, failure)) = self.doubt.take()
        {
            return self.base.fail(out, *failure);
        }
        match self.resend.poll(now, &self.base.ctx.timing) {
            Due::Nothing => State::SaInitSent(self),
            Due::Again => {
                self.base.counters.retransmits_out += 1;
                self.base.send_all(out, &self.resend.datagrams, false);
                State::SaInitSent(self)
            }
            Due::GiveUp => self.base.expire(out, Stage::SaInit, "answer from the gateway"),
        }
    }
}

impl Step for SaInitSent {
    fn handle(self: Box<Self>, now: Instant, input: Input, out: &mut Outbox) -> State {
        match input {
            Input::Datagram { local, remote, bytes } => self.datagram(now, local, remote, bytes, out),
            Input::Timeout => self.timeout(now, out),
            Input::Command(Command::Close) => self.base.abandon(out, Stage::SaInit),
            Input::AuthResult { .. } | Input::Command(_) => State::SaInitSent(self),
        }
    }

    fn deadline(&self) -> Option<(Instant, &'static str)> {
        let resend = (self.resend.deadline(), "retransmit");
        match &self.doubt {
            Some((due, _)) if *due < resend.0 => Some((*due, "doubt")),
            _ => Some(resend),
        }
    }

    fn base(&self) -> &Base {
        &self.base
    }
}
