//! The way of a datagram: which link, which side of the window, whole or in fragments, which payloads.
//!
//! Nothing changes before the integrity check has passed. What fails it, and what does not fit the window, is counted and
//! dropped.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::Core;
use super::link::{Direction, Fate, LinkId};
use super::queue::Work;
use super::tasks::{Answer, Task, Then};
use super::window::Place;
use crate::types::{CloseReason, Event};
use crate::wire::protect::{Content, ProtectError};
use crate::wire::table::{self, Direction as Side};
use crate::wire::{
    DecodeError, ExchangeType, Header, Notify, NotifyType, Payload, PayloadType, Payloads, Progress,
    decode_payloads,
};

/// The least time between two complaints about message IDs.
//= rfc7296#section-2.3
//# Sending this notification is OPTIONAL, and notifications of this type MUST be rate limited.
const REPORT_INTERVAL: Duration = Duration::from_secs(60);

/// The message of a datagram, or of the fragments that it completed.
type Message = Result<(PayloadType, Vec<u8>), DecodeError>;

impl Core {
    /// Takes a datagram that arrived at `local` from `remote`.
    pub(super) fn datagram(&mut self, now: Instant, local: SocketAddr, remote: SocketAddr, bytes: &[u8]) {
        self.counters.datagrams_in += 1;
        let Ok((header, _)) = Header::of_datagram(bytes) else {
            self.counters.malformed += 1;
            return;
        };
        let id = LinkId(header.spi_i, header.spi_r);
        let Some(link) = self.link(id).filter(|link| link.is_from_peer(&header)) else {
            self.counters.unexpected += 1;
            return;
        };
        //= rfc7296#section-2.4
        //# Since IKE is designed to operate in spite of DoS attacks from the network, an endpoint MUST NOT conclude that the other endpoint has failed based on any routing information (e.g., ICMP messages) or IKE messages that arrive without cryptographic protection (e.g., Notify messages complaining about unknown SPIs).
        let content = match link.open(bytes) {
            Ok(opened) => Ok(opened.content),
            // Known only once the integrity check has passed.
            Err(ProtectError::Decode(error @ DecodeError::UnknownCritical(_))) => Err(error),
            Err(ProtectError::NotAuthentic | ProtectError::TextLength(_)) => {
                self.counters.integrity_failures += 1;
                return;
            }
            Err(_) => {
                self.counters.malformed += 1;
                return;
            }
        };
        let path = Path { local, remote };
        if header.flags.response {
            self.response(now, &header, content);
        } else {
            self.request(now, path, &header, content);
        }
    }

    fn request(&mut self, now: Instant, path: Path, header: &Header, content: Result<Content, DecodeError>) {
        let id = LinkId(header.spi_i, header.spi_r);
        if let Some(sync) = self.sync_request(header, &content) {
            return self.answer_sync(now, path, id, sync);
        }
        let Some(place) = self.link(id).map(|link| link.window.place(header.message_id)) else {
            return;
        };
        match place {
            Place::Fresh => {}
            Place::Again => return self.repeat(now, path, id, header.message_id, &content),
            Place::Old => {
                //= rfc7296#section-2.1
                //# If the responder receives a retransmitted request for which it has already forgotten the response, it MUST ignore the request (and not, for example, attempt constructing a new response).
                self.counters.unexpected += 1;
                return;
            }
            Place::Ahead if self.takes_gap(id, header.message_id) => {}
            Place::Ahead => {
                self.counters.unexpected += 1;
                return self.report(now, header.message_id);
            }
        }
        let Some(message) = self.assemble(now, id, Direction::Request, header.message_id, content) else {
            return;
        };
        if self
            .link(id)
            .is_none_or(|link| matches!(link.fate, Fate::Answered(_)))
        {
            self.counters.unexpected += 1;
            return;
        }
        //= rfc7296#section-2.4
        //# (note that within the context of an IKE SA, an "empty" message consists of an IKE header followed by an Encrypted payload that contains no payloads)
        let empty =
            matches!(&message, Ok((first, plaintext)) if *first == PayloadType::NONE && plaintext.is_empty());
        let liveness = empty && header.exchange == ExchangeType::INFORMATIONAL;
        if !liveness && self.holds_back(id) {
            self.counters.unexpected += 1;
            return;
        }
        self.heard = now;
        if self.jump(id, header.message_id) {
            self.peer_at(path.remote);
        }
        let answer = self.judge(now, id, header.exchange, message);
        self.answer(now, path, id, header.exchange, answer, liveness);
    }

    /// Answers a request that was answered before: the same octets, to where it came from this time.
    fn repeat(
        &mut self,
        now: Instant,
        path: Path,
        id: LinkId,
        message_id: u32,
        content: &Result<Content, DecodeError>,
    ) {
        //= rfc7383#section-2.6.1
        //# If the responder receives a retransmitted fragment of a request when it has already processed that request and has sent back a response, that event MUST only trigger a retransmission of the response message (fragmented or not) if the Fragment Number field in the received fragment is set to 1; otherwise, it MUST be ignored.
        if matches!(content, Ok(Content::Fragment(fragment)) if fragment.number != 1) {
            return;
        }
        let Some(cached) = self.link(id).and_then(|link| link.window.repeat(message_id)) else {
            self.counters.unexpected += 1;
            return;
        };
        let datagrams = cached.datagrams.clone();
        self.counters.retransmits_in += 1;
        self.transmit(now, path.local, path.remote, datagrams, false);
    }

    /// Tells the peer, now and then, that its message IDs do not fit.
    fn report(&mut self, now: Instant, message_id: u32) {
        let quiet = |last: Instant| now.saturating_duration_since(last) < REPORT_INTERVAL;
        if self.closing.is_none() && !self.reported.is_some_and(quiet) {
            self.reported = Some(now);
            self.want(now, Work::Report { message_id });
        }
    }

    fn response(&mut self, now: Instant, header: &Header, content: Result<Content, DecodeError>) {
        let id = LinkId(header.spi_i, header.spi_r);
        let (message_id, exchange) = (header.message_id, header.exchange);
        if self.takeover_response(now, id, header, &content) {
            return;
        }
        if !self
            .link(id)
            .is_some_and(|link| link.window.expects(message_id, exchange))
        {
            self.counters.unexpected += 1;
            return;
        }
        let Some(message) = self.assemble(now, id, Direction::Response, message_id, content) else {
            return;
        };
        self.heard = now;
        let payloads = message
            .and_then(|(first, plaintext)| decode_payloads(first, &plaintext))
            .map_err(|error| error.to_string());
        let payloads = payloads.and_then(|payloads| {
            table::check(exchange, Side::Response, &payloads).map_err(|violation| violation.to_string())?;
            Ok(payloads)
        });
        let pending = self.link_mut(id).and_then(|link| link.window.pending.take());
        let Some(pending) = pending else {
            return;
        };
        if !matches!(pending.task, Task::Liveness) {
            self.changed = true;
        }
        if id == self.current.id {
            // The peer answers under the message ID that we believed in.
            self.takeover = None;
        }
        let makes_sa = exchange == ExchangeType::CREATE_CHILD_SA;
        match payloads {
            Ok(payloads) => {
                let response = Payloads(&payloads);
                if makes_sa && response.notify(NotifyType::TEMPORARY_FAILURE).is_none() {
                    self.refused_since = None;
                }
                pending.task.process(self, now, id, response);
            }
            Err(why) => self.unreadable(now, id, pending.task, why),
        }
        if makes_sa {
            self.early_deletes.clear();
        }
    }

    /// A response that cannot be read: what it did to the peer's state is unknown.
    fn unreadable(&mut self, now: Instant, id: LinkId, task: Task, why: String) {
        self.counters.malformed += 1;
        self.release_offer(&task);
        match task {
            Task::Liveness | Task::Report | Task::Redirect => {}
            Task::DeleteIke => task.process(self, now, id, Payloads(&[])),
            //= rfc7296#section-2.21
            //# Such errors in parsing or processing response packets should still cause the recipient to clean up the IKE state (for example, by sending a Delete for a bad SA).
            Task::CreateChild(_) | Task::RekeyChild(_) | Task::RekeyIke(_) | Task::DeleteChildren(_) => {
                self.start_close(now, CloseReason::Protocol(format!("unreadable response: {why}")));
            }
        }
    }

    /// The message that a datagram is, or that it completes.
    fn assemble(
        &mut self,
        now: Instant,
        id: LinkId,
        direction: Direction,
        message_id: u32,
        content: Result<Content, DecodeError>,
    ) -> Option<Message> {
        let fragment = match content {
            Ok(Content::Whole { first, plaintext }) => return Some(Ok((first, plaintext))),
            Err(error) => return Some(Err(error)),
            Ok(Content::Fragment(fragment)) => fragment,
        };
        self.counters.fragments_in += 1;
        if self.fragment_size.is_none() {
            self.counters.fragments_dropped += 1;
            return None;
        }
        let link = self.link_mut(id)?;
        let reassembler = match direction {
            Direction::Request => &mut link.requests,
            Direction::Response => &mut link.responses,
        };
        match reassembler.add(now, message_id, fragment) {
            Progress::Waiting { .. } => None,
            Progress::Complete { first, plaintext } => Some(Ok((first, plaintext))),
            Progress::Ignored(_) => {
                self.counters.fragments_dropped += 1;
                None
            }
        }
    }

    /// Reads a fresh request and has it handled; what is wrong with it as a message is answered here.
    fn judge(&mut self, now: Instant, id: LinkId, exchange: ExchangeType, message: Message) -> Answer {
        let payloads = match message.and_then(|(first, plaintext)| decode_payloads(first, &plaintext)) {
            Ok(payloads) => payloads,
            Err(error) => {
                self.counters.malformed += 1;
                let notify = Notify::with_data(error.notify(), error.notify_data());
                return faulty(notify, error.to_string());
            }
        };
        let known = matches!(
            exchange,
            ExchangeType::CREATE_CHILD_SA | ExchangeType::INFORMATIONAL
        );
        if !known {
            self.counters.unexpected += 1;
            let why = format!("{exchange} on an established IKE SA");
            return faulty(Notify::new(NotifyType::INVALID_SYNTAX), why);
        }
        if let Err(violation) = table::check(exchange, Side::Request, &payloads) {
            self.counters.malformed += 1;
            let notify = Notify::with_data(violation.notify(), violation.notify_data());
            return faulty(notify, violation.to_string());
        }
        self.respond(now, id, exchange, Payloads(&payloads))
    }

    /// Seals, keeps and sends the answer, and does what follows.
    ///
    /// A sign of life that changed nothing is not worth a record.
    fn answer(
        &mut self,
        now: Instant,
        path: Path,
        id: LinkId,
        exchange: ExchangeType,
        answer: Answer,
        liveness: bool,
    ) {
        if self.closed {
            return;
        }
        let durable = !liveness || self.changed || answer.then != Then::Continue;
        let limit = self.fragment_size;
        let Some(link) = super::link::find(&mut self.current, &mut self.others, id) else {
            return;
        };
        let random = &mut *self.context.random;
        match link.seal(exchange, Direction::Response, &answer.payloads, limit, random) {
            Ok(datagrams) => {
                link.window.answer(datagrams.clone());
                link.requests.clear();
                if !liveness {
                    self.let_settle(now, id);
                }
                //= rfc7296#section-2.11
                //# An implementation MUST accept incoming requests even if the source port is not 500 or 4500, and MUST respond to the address and port from which the request was received.
                self.transmit(now, path.local, path.remote, datagrams, durable);
            }
            Err(error) => return self.close(CloseReason::Protocol(error.to_string())),
        }
        match answer.then {
            Then::Continue => {}
            Then::Close(reason) if id == self.current.id => {
                let reason = self.closing.take().unwrap_or(reason);
                self.close(reason);
            }
            Then::Close(_) => self.drop_link(id),
        }
    }

    /// The peer was heard from this address.
    pub(super) fn peer_at(&mut self, remote: SocketAddr) {
        // Only a peer behind a NAT may change its address without MOBIKE.
        if remote == self.remote || !self.nat.remote {
            return;
        }
        self.remote = remote;
        for child in self.children.iter_mut() {
            child.sa.remote = remote;
        }
        self.changed = true;
        self.event(Event::PeerAddress { remote });
    }
}

/// Where a datagram came from and arrived; its answer goes the way back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Path {
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
}

/// The answer to a message that is broken as such. INVALID_SYNTAX ends the IKE SA on both sides.
fn faulty(notify: Notify, why: String) -> Answer {
    //= rfc7296#section-2.21.3
    //# If a peer parsing a request notices that it is badly formatted (after it has passed the message authentication code checks and window checks) and it returns an INVALID_SYNTAX notification, then this error notification is considered fatal in both peers, meaning that the IKE SA is deleted without needing an explicit Delete payload.
    let then = if notify.kind == NotifyType::INVALID_SYNTAX {
        Then::Close(CloseReason::Protocol(why))
    } else {
        Then::Continue
    };
    Answer {
        payloads: vec![Payload::Notify(notify)],
        then,
    }
}
