//! Message IDs after another node took the SA over.
//!
//! Signs of life are not written, so a record may know of fewer exchanges than there were. Whatever changed state is in it:
//! what is missing are empty INFORMATIONAL exchanges, and requests that nobody answered.
//!
//! ```text
//!  the peer's requests   gap: an ID ahead of ours is accepted, one behind never. What is replayed lies behind the next
//!                        genuine request, so the gap only ever closes from below, and a replay cannot shut the peer out
//!  our requests          RFC 6311 agreed, and IVs at random:  Waiting ──► Syncing ──► Confirming ──► done
//!                        otherwise:                           Waiting ──► Probing ──► done
//! ```
//!
//! *Syncing* (`sync`) tells the peer a message ID far above all that we may have used. Each attempt is another request, with a
//! higher one: the peer has to drop what it has seen. *Probing* sends signs of life under one ID after the other, from the
//! one that we believe in; the peer answers the ID that it expects, and from its cache the one before.

use std::time::{Duration, Instant};

use super::link::{Direction, LinkId};
use super::sync::SyncData;
use super::tasks::Task;
use super::{Core, lifetimes};
use crate::types::{CloseReason, MessageIds};
use crate::wire::protect::Content;
use crate::wire::{DecodeError, ExchangeType, Header, Notify, NotifyType, Payload, Payloads};

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
    pub(super) stage: Stage,
    /// Synchronizations sent.
    pub(super) attempts: u8,
}

#[derive(Debug)]
pub(super) enum Stage {
    /// Nothing is asked before then, nor before a request of the former owner is answered. Requests of the peer may put it
    /// off until `latest`.
    Waiting { until: Instant, latest: Instant },
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
pub(super) struct Probe {
    pub(super) id: u32,
    datagrams: Vec<Vec<u8>>,
}

/// Names a pair of SPIs.
fn fold(id: LinkId) -> u32 {
    let LinkId(spi_i, spi_r) = id;
    let mixed = spi_i
        .0
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .rotate_left(31)
        .wrapping_add(spi_r.0)
        .wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let [a, b, c, d, ..] = mixed.to_be_bytes();
    u32::from_be_bytes([a, b, c, d])
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
        let synchronizes = self.synchronizes();
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
        let settle = synchronizes && self.restored_age < FRESH_RECORD && window.answered.is_some();
        let wait = if settle { SETTLE } else { Duration::ZERO };
        let until = now + wait + lifetimes::jitter(SPREAD, &mut *self.context.random);
        let stage = if sent.is_empty() || synchronizes {
            Stage::Waiting {
                until,
                latest: until + SETTLE * 2,
            }
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

    /// Whether we synchronize after a takeover: agreed, and not with a counter-mode cipher. strongSwan makes its IVs from the
    /// message ID there, and its answer with message ID zero has none left as soon as it has used two of them out of order:
    /// it then drops the IKE SA without a word. Trying costs a peer nothing, since a checkpoint lags by a second.
    fn synchronizes(&self) -> bool {
        self.mid_sync && !self.current.suite.suite.is_counter_mode()
    }

    /// The peer gets the answer to a request of its own before it is synchronized, which would make it forget the request.
    pub(super) fn let_settle(&mut self, now: Instant, id: LinkId) {
        let applies = self.synchronizes() && id == self.current.id;
        if applies
            && let Some(Takeover {
                stage: Stage::Waiting { until, latest },
                ..
            }) = &mut self.takeover
        {
            *until = (*until).max((now + SETTLE).min(*latest));
        }
    }

    /// Whether requests of ours have to wait because the peer's window is not known.
    pub(super) fn is_unsure(&self) -> bool {
        self.takeover.is_some()
    }

    /// When [`expire_takeover`](Self::expire_takeover) has something to do.
    pub(super) fn takeover_at(&self) -> Option<Instant> {
        match &self.takeover.as_ref()?.stage {
            Stage::Waiting { until, .. } => Some(*until).filter(|_| self.current.window.pending.is_none()),
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
            Some(Stage::Waiting { .. }) if !self.synchronizes() => {
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

    pub(super) fn set_stage(&mut self, stage: Stage) {
        if let Some(takeover) = &mut self.takeover {
            takeover.stage = stage;
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

    /// Whether a request that is about to be sent again has been sent often enough under its message ID.
    pub(super) fn is_in_vain(&self, id: LinkId) -> bool {
        // A rekey of the IKE SA is not given up lightly: if the peer has executed it, it is gone from here.
        let sent = match self.current.window.pending.as_ref() {
            Some(pending) if !matches!(pending.task, Task::RekeyIke(_)) => pending.sent,
            Some(_) | None => 0,
        };
        let waits = matches!(
            self.takeover.as_ref().map(|takeover| &takeover.stage),
            Some(Stage::Waiting { .. } | Stage::Confirming)
        );
        id == self.current.id && waits && sent > PATIENCE
    }

    /// Gives up a request that nobody answers, and finds out which message ID the peer expects.
    pub(super) fn withdraw(&mut self, now: Instant) {
        self.abandon_pending(now);
        self.set_stage(Stage::Waiting {
            until: now,
            latest: now,
        });
    }

    /// A request under way will not be answered any more: it is tried again later under another message ID.
    pub(super) fn abandon_pending(&mut self, now: Instant) {
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

    pub(super) fn takeover_failed(&mut self) {
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
}
