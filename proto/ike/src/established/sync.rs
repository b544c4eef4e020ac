//! Synchronizing message IDs with the peer (RFC 6311): as the member of a cluster that has just taken over, and as the peer
//! of a cluster.
//!
//! A request says which message IDs the sender will use and expects; the response says the higher ones of both sides. Both
//! have message ID zero, so replays are fended off by the values alone: what is not higher than all that was seen is
//! dropped, a request of ours that is not answered is followed by another with higher values, and only the response to the
//! latest counts. Replay counters of ESP are not synchronized: IPSEC_REPLAY_COUNTER_SYNC_SUPPORTED is never announced,
//! sequence numbers go on at a ceiling instead.

use std::net::SocketAddr;
use std::time::Instant;

use super::Core;
use super::link::{Direction, LinkId};
use super::receive::Path;
use super::takeover::{Stage, Takeover};
use super::tasks::liveness;
use crate::types::CloseReason;
use crate::wire::protect::Content;
use crate::wire::{
    DecodeError, ExchangeType, Header, Notify, NotifyType, Payload, Payloads, decode_payloads,
};

/// How far a synchronization goes beyond what we know to have used: more signs of life than a lost record can hide.
const STRIDE: u32 = 4096;

/// Doublings of the stride by attempts without an answer.
const STRIDES: u8 = 4;

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
    pub(super) fn read(content: &Result<Content, DecodeError>) -> Option<SyncRequest> {
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

impl Core {
    // The member that has taken over.

    /// Sends a synchronization: the first one, or the next after one that was not answered.
    pub(super) fn synchronize(&mut self, now: Instant) {
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
        local: SocketAddr,
        remote: SocketAddr,
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

    pub(super) fn synchronized(&mut self, now: Instant, asked: SyncData, answer: Option<SyncRequest>) {
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

    // The peer of a cluster.

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
