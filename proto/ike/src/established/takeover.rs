//! Message IDs after another node took the SA over.
//!
//! Signs of life are not written, so a record may know of fewer exchanges than there were. Whatever changed state is in it:
//! what is missing are empty INFORMATIONAL exchanges, and requests that nobody answered.
//!
//! ```text
//!  the peer's requests   gap: an ID ahead of ours is accepted, one behind never. What is replayed lies behind the next
//!                        genuine request, so the gap only ever closes from below, and a replay cannot shut the peer out
//!  our requests          RFC 6311 agreed:  Waiting ──► Syncing ──► Confirming ──► done
//!                        otherwise:        Waiting ──► Probing ──► done
//! ```
//!
//! *Syncing* tells the peer a message ID far above all that we may have used. Each attempt is another request, with a
//! higher one: the peer has to drop what it has seen. *Probing* sends signs of life under one ID after the other, from the
//! one that we believe in; the peer answers the ID that it expects, and from its cache the one before.

use std::time::{Duration, Instant};

use super::link::{Direction, LinkId};
use super::receive::Path;
use super::tasks::{Task, liveness};
use super::{Core, lifetimes};
use crate::types::{CloseReason, MessageIds};
use crate::wire::protect::Content;
use crate::wire::{
    DecodeError, ExchangeType, Header, Notify, NotifyType, Payload, Payloads, decode_payloads,
};

/// How far a synchronization goes beyond what we know to have used: more signs of life than a lost record can hide.
const STRIDE: u32 = 4096;

/// Doublings of the stride by attempts without an answer.
const STRIDES: u8 = 8;

/// Takeovers of many SAs at once are spread over this time.
const SPREAD: Duration = Duration::from_secs(2);

/// A peer that may still wait for our last answer is given this time to ask for it again: a synchronization makes it forget
/// its request.
const SETTLE: Duration = Duration::from_secs(10);

/// A record older than this holds an answer that the peer has, or does not wait for any longer.
const FRESH_RECORD: Duration = Duration::from_secs(60);

/// Message IDs that are tried.
const PROBES: u32 = 16;

/// Transmissions of each before the next one is tried.
const PROBE_TRANSMISSIONS: u32 = 2;

/// Times that all of them are tried.
const PROBE_ROUNDS: u32 = 2;

/// Wait between two probes at most.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// Transmissions of a request of the former owner, or of the first one after a synchronization, before it counts as sent
/// under the wrong message ID.
const PATIENCE: u8 = 3;

/// What is unsure about our requests.
#[derive(Debug)]
pub(super) struct Takeover {
    stage: Stage,
    /// Synchronizations sent.
    attempts: u8,
}

#[derive(Debug)]
enum Stage {
    /// Nothing is asked before then, nor before a request of the former owner is answered.
    Waiting { until: Instant },
    /// A synchronization is under way.
    Syncing {
        nonce: [u8; 4],
        /// What it says: our next message ID, and the peer's.
        send: u32,
        receive: u32,
        /// A request of the peer that lay ahead of what we said.
        ahead: Option<u32>,
        due: Instant,
    },
    /// The peer agreed; the first ordinary exchange will tell.
    Confirming,
    /// Signs of life are under way.
    Probing {
        first: u32,
        sent: Vec<Probe>,
        turn: u32,
        due: Instant,
    },
}

/// One message ID that was tried.
#[derive(Debug)]
struct Probe {
    id: u32,
    datagrams: Vec<Vec<u8>>,
}

/// A synchronization that the peer asks for.
#[derive(Clone, Copy, Debug)]
pub(super) enum SyncRequest {
    /// As it has to be.
    Fits(SyncData),
    /// To be dropped.
    Broken,
}

/// The data of IKEV2_MESSAGE_ID_SYNC (RFC 6311 section 6.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct SyncData {
    pub(super) nonce: [u8; 4],
    /// EXPECTED_SEND_REQ_MESSAGE_ID: of the sender's next request.
    pub(super) send: u32,
    /// EXPECTED_RECV_REQ_MESSAGE_ID: of the next request that it expects.
    pub(super) receive: u32,
}

impl SyncData {
    pub(super) fn of(notify: &Notify) -> Option<Self> {
        let (parts, []) = notify.data.as_chunks::<4>() else {
            return None;
        };
        let &[nonce, send, receive] = parts else {
            return None;
        };
        let (send, receive) = (u32::from_be_bytes(send), u32::from_be_bytes(receive));
        Some(Self { nonce, send, receive })
    }

    fn payload(self) -> Payload {
        let parts = [self.nonce, self.send.to_be_bytes(), self.receive.to_be_bytes()];
        Payload::Notify(Notify::with_data(
            NotifyType::IKEV2_MESSAGE_ID_SYNC,
            parts.concat(),
        ))
    }

    /// The only payload of a message, if that is what the message is about.
    fn read(content: &Result<Content, DecodeError>) -> Option<SyncRequest> {
        let Ok(Content::Whole { first, plaintext }) = content else {
            return None;
        };
        let payloads = decode_payloads(*first, plaintext).ok()?;
        let notify = Payloads(&payloads).notify(NotifyType::IKEV2_MESSAGE_ID_SYNC)?;
        //= rfc6311#section-5.1
        //# Both the request and the response MUST NOT contain any additional payloads, other than an optional IPSEC_REPLAY_COUNTER_SYNC notification in the request.
        // That one was not agreed upon: we never announce it.
        Some(match (payloads.len(), Self::of(notify)) {
            (1, Some(data)) => SyncRequest::Fits(data),
            _ => SyncRequest::Broken,
        })
    }
}

/// Names a pair of SPIs.
fn fold(id: LinkId) -> u32 {
    let LinkId(spi_i, spi_r) = id;
    let mixed = spi_i.0 ^ spi_r.0.rotate_left(32);
    let [a, b, c, d, e, f, g, h] = mixed.to_be_bytes();
    u32::from_be_bytes([a, b, c, d]) ^ u32::from_be_bytes([e, f, g, h])
}

impl Core {
    /// Where the message IDs of the current link are.
    #[must_use]
    pub fn message_ids(&self) -> MessageIds {
        MessageIds {
            send: self.current.window.next_send,
            receive: self.current.window.next_recv,
            link: fold(self.current.id),
        }
    }

    /// Somebody else served this SA since the record; see [`IkeSa::taken_over`](crate::IkeSa::taken_over).
    pub fn taken_over(&mut self, now: Instant, newer: Option<MessageIds>) {
        if self.closed {
            return;
        }
        for link in std::iter::once(&mut self.current).chain(&mut self.others) {
            link.window.gap = true;
        }
        let window = &mut self.current.window;
        let mut sent = Vec::new();
        let unimportant = |task: &Task| matches!(task, Task::Liveness | Task::Report);
        if let Some(pending) = window.pending.take_if(|pending| unimportant(&pending.task)) {
            window.next_send = pending.id;
            if matches!(pending.task, Task::Liveness) {
                let (id, datagrams) = (pending.id, pending.datagrams);
                sent.push(Probe { id, datagrams });
            }
        }
        if let Some(newer) = newer.filter(|newer| newer.link == fold(self.current.id)) {
            // The last exchange each way may not have left the former owner: it waited for a record that was never written.
            let receive = newer.receive.saturating_sub(1);
            window.next_recv = window.next_recv.max(receive);
            let send = newer.send.saturating_sub(1);
            if send > window.next_send {
                // What was under way by the record was answered long ago.
                window.next_send = send;
                sent.clear();
            }
        }
        let outdated = window
            .pending
            .as_ref()
            .is_some_and(|pending| window.next_send > pending.id.saturating_add(1));
        let settle = self.mid_sync && self.restored_age < FRESH_RECORD && window.answered.is_some();
        let wait = if settle { SETTLE } else { Duration::ZERO };
        let until = now + wait + lifetimes::jitter(SPREAD, &mut *self.context.random);
        let stage = if sent.is_empty() || self.mid_sync {
            Stage::Waiting { until }
        } else {
            let first = self.current.window.next_send;
            Stage::Probing {
                first,
                sent,
                turn: 0,
                due: until,
            }
        };
        self.takeover = Some(Takeover { stage, attempts: 0 });
        if outdated {
            self.abandon_pending(now);
        }
    }

    /// Whether requests of ours have to wait because the peer's window is not known.
    pub(super) fn is_unsure(&self) -> bool {
        self.takeover.is_some()
    }

    /// When [`expire_takeover`](Self::expire_takeover) has something to do.
    pub(super) fn takeover_at(&self) -> Option<Instant> {
        match &self.takeover.as_ref()?.stage {
            Stage::Waiting { until } => Some(*until).filter(|_| self.current.window.pending.is_none()),
            Stage::Syncing { due, .. } | Stage::Probing { due, .. } => Some(*due),
            Stage::Confirming => None,
        }
    }

    /// Does what is due.
    pub(super) fn expire_takeover(&mut self, now: Instant) {
        if self.closed || self.takeover_at().is_none_or(|at| at > now) {
            return;
        }
        match self.takeover.as_ref().map(|takeover| &takeover.stage) {
            Some(Stage::Waiting { .. }) if !self.mid_sync => {
                let first = self.current.window.next_send;
                self.set_stage(Stage::Probing {
                    first,
                    sent: Vec::new(),
                    turn: 0,
                    due: now,
                });
                self.probe(now);
            }
            Some(Stage::Waiting { .. } | Stage::Syncing { .. }) => self.synchronize(now),
            Some(Stage::Probing { .. }) => self.probe(now),
            Some(Stage::Confirming) | None => {}
        }
    }

    fn set_stage(&mut self, stage: Stage) {
        if let Some(takeover) = &mut self.takeover {
            takeover.stage = stage;
        }
    }

    // Our requests, by RFC 6311.

    /// Sends a synchronization: the first one, or the next after one that was not answered.
    fn synchronize(&mut self, now: Instant) {
        let Some(takeover) = &mut self.takeover else {
            return;
        };
        if takeover.attempts > self.context.timing.retransmit_tries {
            return self.takeover_failed();
        }
        let ahead = match &takeover.stage {
            Stage::Syncing { ahead, .. } => *ahead,
            Stage::Waiting { .. } | Stage::Confirming | Stage::Probing { .. } => None,
        };
        let stride = STRIDE << takeover.attempts.min(STRIDES);
        takeover.attempts = takeover.attempts.saturating_add(1);
        let due = now + self.context.timing.retransmit_after(takeover.attempts);
        let window = &mut self.current.window;
        //= rfc6311#section-5.1
        //# M1 MUST be chosen so that it is larger than any value known to have been used.
        //= rfc6311#section-5.1
        //# The peer MUST silently drop any received synchronization message if M1 is lower than or equal to the highest value it has seen from the cluster.
        // So a request that was not answered is not sent again: the next one goes further.
        window.next_send = window.next_send.saturating_add(stride);
        //= rfc6311#section-5.1
        //# P1 SHOULD be 1 more than the last Message ID value received from the peer, but may be any higher value.
        // The peer waits for an answer to what lies ahead, so that one is expected next.
        window.next_recv = window.next_recv.max(ahead.unwrap_or(0));
        let mut nonce = [0; 4];
        self.context.random.fill(&mut nonce);
        let data = SyncData {
            nonce,
            send: window.next_send,
            receive: window.next_recv,
        };
        takeover.stage = Stage::Syncing {
            nonce,
            send: data.send,
            receive: data.receive,
            ahead: None,
            due,
        };
        self.send_sync(now, self.local, self.remote, Direction::Request, data);
    }

    fn send_sync(
        &mut self,
        now: Instant,
        local: std::net::SocketAddr,
        remote: std::net::SocketAddr,
        direction: Direction,
        data: SyncData,
    ) {
        //= rfc6311#section-5.1
        //# The request and the response MUST both be sent with a Message ID value of zero.
        let sealed = self.current.seal_as(
            0,
            ExchangeType::INFORMATIONAL,
            direction,
            &[data.payload()],
            self.fragment_size,
            &mut *self.context.random,
        );
        let what = match direction {
            Direction::Request => "asked for",
            Direction::Response => "agreed",
        };
        let (send, receive) = (data.send, data.receive);
        self.step(
            "message_id_sync",
            format!("{what}: ours {send}, the peer's {receive}"),
        );
        match sealed {
            // An answer makes the window of a peer: it has to outlive us.
            Ok(datagrams) => self.transmit(now, local, remote, datagrams, direction == Direction::Response),
            Err(error) => self.close(CloseReason::Protocol(error.to_string())),
        }
    }

    /// Takes the response to a synchronization or to a probe; false if it is none.
    pub(super) fn takeover_response(
        &mut self,
        now: Instant,
        id: LinkId,
        header: &Header,
        content: &Result<Content, DecodeError>,
    ) -> bool {
        let Some(takeover) = self.takeover.as_ref().filter(|_| id == self.current.id) else {
            return false;
        };
        match &takeover.stage {
            Stage::Syncing {
                nonce, send, receive, ..
            } if header.message_id == 0 && header.exchange == ExchangeType::INFORMATIONAL => {
                let asked = SyncData {
                    nonce: *nonce,
                    send: *send,
                    receive: *receive,
                };
                self.synchronized(now, asked, SyncData::read(content));
                true
            }
            Stage::Probing { sent, .. } => {
                let known = sent.iter().any(|probe| probe.id == header.message_id);
                if known {
                    self.probed(now, header.message_id);
                }
                known
            }
            Stage::Waiting { .. } | Stage::Syncing { .. } | Stage::Confirming => false,
        }
    }

    fn synchronized(&mut self, now: Instant, asked: SyncData, answer: Option<SyncRequest>) {
        //= rfc6311#section-5.1
        //# A response MUST be silently dropped if the received nonce does not match the one that was sent.
        let fits = |answer: &SyncData| {
            answer.nonce == asked.nonce && answer.receive >= asked.send && answer.send >= asked.receive
        };
        let answer = match answer {
            Some(SyncRequest::Fits(answer)) if fits(&answer) => answer,
            Some(SyncRequest::Fits(_) | SyncRequest::Broken) | None => {
                self.counters.unexpected += 1;
                return;
            }
        };
        self.heard = now;
        self.counters.message_id_syncs += 1;
        let window = &mut self.current.window;
        window.next_send = window.next_send.max(answer.receive);
        window.next_recv = window.next_recv.max(answer.send);
        window.gap = false;
        self.current.requests.clear();
        self.step(
            "message_id_sync",
            format!("done: ours {}, the peer's {}", answer.receive, answer.send),
        );
        self.set_stage(Stage::Confirming);
        // A copy of our request that the network made moves some peers once more: an exchange at once tells.
        let request = liveness::build(self);
        self.send(now, self.current.id, request);
    }

    /// Whether a request that is about to be sent again has been sent often enough under its message ID.
    pub(super) fn is_in_vain(&self, id: LinkId) -> bool {
        let sent = self
            .current
            .window
            .pending
            .as_ref()
            .map_or(0, |pending| pending.sent);
        let waits = matches!(
            self.takeover.as_ref().map(|takeover| &takeover.stage),
            Some(Stage::Waiting { .. } | Stage::Confirming)
        );
        id == self.current.id && waits && sent > PATIENCE
    }

    /// Gives up a request that nobody answers, and finds out which message ID the peer expects.
    pub(super) fn withdraw(&mut self, now: Instant) {
        self.abandon_pending(now);
        self.set_stage(Stage::Waiting { until: now });
    }

    /// A request under way will not be answered any more: it is tried again later under another message ID.
    fn abandon_pending(&mut self, now: Instant) {
        let Some(pending) = self.current.window.pending.take() else {
            return;
        };
        self.current.responses.clear();
        if !matches!(pending.task, Task::Liveness | Task::Report) {
            self.changed = true;
            let refusal = [Payload::Notify(Notify::new(NotifyType::TEMPORARY_FAILURE))];
            pending
                .task
                .process(self, now, self.current.id, Payloads(&refusal));
        }
    }

    fn takeover_failed(&mut self) {
        let reason = self.closing.take().unwrap_or(CloseReason::PeerDead);
        self.close(reason);
    }

    // Our requests, by trying.

    /// Sends the next probe.
    fn probe(&mut self, now: Instant) {
        let interval = self.context.timing.retransmit_base.min(PROBE_INTERVAL);
        let Some(Takeover {
            stage:
                Stage::Probing {
                    first,
                    sent,
                    turn,
                    due,
                },
            ..
        }) = &mut self.takeover
        else {
            return;
        };
        if *turn >= PROBES * PROBE_TRANSMISSIONS * PROBE_ROUNDS {
            return self.takeover_failed();
        }
        let id = first.saturating_add(*turn / PROBE_TRANSMISSIONS % PROBES);
        *turn += 1;
        *due = now + interval.max(Duration::from_millis(1));
        let datagrams = match sent.iter().find(|probe| probe.id == id) {
            Some(probe) => probe.datagrams.clone(),
            None => {
                let sealed = self.current.seal_as(
                    id,
                    ExchangeType::INFORMATIONAL,
                    Direction::Request,
                    &[],
                    self.fragment_size,
                    &mut *self.context.random,
                );
                let datagrams = match sealed {
                    Ok(datagrams) => datagrams,
                    Err(error) => return self.close(CloseReason::Protocol(error.to_string())),
                };
                sent.push(Probe {
                    id,
                    datagrams: datagrams.clone(),
                });
                self.counters.message_id_probes += 1;
                self.counters.liveness_checks += 1;
                datagrams
            }
        };
        self.transmit(now, self.local, self.remote, datagrams, false);
    }

    /// The peer answered a probe: its window is beyond it, and may be beyond all that were sent.
    fn probed(&mut self, now: Instant, id: u32) {
        self.heard = now;
        let Some(Takeover {
            stage:
                Stage::Probing {
                    first,
                    sent,
                    turn,
                    due,
                },
            ..
        }) = &mut self.takeover
        else {
            return;
        };
        let next = id.saturating_add(1);
        self.current.window.next_send = self.current.window.next_send.max(next);
        sent.retain(|probe| probe.id > id);
        if sent.is_empty() {
            self.takeover = None;
        } else {
            (*first, *turn, *due) = (next, 0, now);
        }
    }

    // The peer's requests.

    /// Whether a request ahead of the window may be accepted.
    pub(super) fn takes_gap(&mut self, id: LinkId, message_id: u32) -> bool {
        if id == self.current.id
            && let Some(Takeover {
                stage: Stage::Syncing { ahead, .. },
                ..
            }) = &mut self.takeover
        {
            //= rfc6311#section-8.1
            //# After sending its "receive" counter, the cluster member MUST reject (silently drop) any incoming IKE messages that are outside its declared window.
            *ahead = Some(message_id.max(ahead.unwrap_or(0)));
            return false;
        }
        self.link(id).is_some_and(|link| link.window.gap)
    }

    /// Whether a request that is more than a sign of life has to wait: the peer forgets it when it is synchronized. If that
    /// does not come about, the peer may be waiting for this very answer.
    pub(super) fn holds_back(&self, id: LinkId) -> bool {
        let first =
            |takeover: &Takeover| matches!(takeover.stage, Stage::Syncing { .. }) && takeover.attempts == 1;
        id == self.current.id && self.takeover.as_ref().is_some_and(first)
    }

    /// Moves the window to a request that is being accepted. False while the request might be a replay, which must not move
    /// the peer's address.
    pub(super) fn jump(&mut self, id: LinkId, message_id: u32) -> bool {
        let Some(link) = self.link_mut(id) else {
            return false;
        };
        let sure = !link.window.gap;
        if message_id > link.window.next_recv {
            link.window.next_recv = message_id;
            self.counters.message_id_gaps += 1;
        }
        sure
    }

    /// The peer's synchronization, if a request is one and we agreed on it.
    pub(super) fn sync_request(
        &self,
        header: &Header,
        content: &Result<Content, DecodeError>,
    ) -> Option<SyncRequest> {
        let candidate =
            self.mid_sync && header.message_id == 0 && header.exchange == ExchangeType::INFORMATIONAL;
        if candidate { SyncData::read(content) } else { None }
    }

    /// Answers the peer's synchronization: it is a cluster, and another member has taken over.
    pub(super) fn answer_sync(&mut self, now: Instant, path: Path, id: LinkId, request: SyncRequest) {
        let window = &self.current.window;
        //= rfc6311#section-5.1
        //# This includes any previous received synchronization messages.
        let seen = |data: &SyncData| {
            data.send < window.next_recv || window.synced.is_some_and(|synced| data.send <= synced)
        };
        let data = match request {
            SyncRequest::Fits(data) if id == self.current.id && !seen(&data) => data,
            SyncRequest::Fits(_) | SyncRequest::Broken => {
                self.counters.unexpected += 1;
                return;
            }
        };
        self.heard = now;
        self.counters.message_id_syncs += 1;
        let probed = match self.takeover.as_ref().map(|takeover| &takeover.stage) {
            Some(Stage::Probing { sent, .. }) => sent.last().map(|probe| probe.id.saturating_add(1)),
            Some(_) | None => None,
        };
        let window = &mut self.current.window;
        //= rfc6311#section-5.1
        //# P2 MUST be the higher of the received P1 value, and one more than the highest sender value used by the peer.
        window.next_send = window.next_send.max(probed.unwrap_or(0)).max(data.receive);
        //= rfc6311#section-5.1
        //# M2 MUST be at least the higher of the received M1, and one more than the highest sender value received from the cluster.
        window.next_recv = window.next_recv.max(data.send);
        window.synced = Some(data.send);
        window.gap = false;
        //= rfc6311#section-5.1
        //# The request contains a Nonce field. This field MUST be returned in the response, unchanged.
        let answer = SyncData {
            nonce: data.nonce,
            send: window.next_send,
            receive: window.next_recv,
        };
        self.current.requests.clear();
        let syncing = |takeover: &Takeover| matches!(takeover.stage, Stage::Syncing { .. });
        if !self.takeover.as_ref().is_some_and(syncing) {
            self.takeover = None;
        }
        //= rfc6311#section-9
        //# The peer should not wait for any pending responses while responding with the new Message ID values.
        self.abandon_pending(now);
        if !self.closed {
            self.send_sync(now, path.local, path.remote, Direction::Response, answer);
        }
    }
}
