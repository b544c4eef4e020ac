//! Which handler answers a request, given what else is going on (RFC 7296 section 2.25).

use std::time::Instant;

use super::Core;
use super::link::{Fate, LinkId};
use super::tasks::{Answer, Task, Then, create_child, delete, redirect, rekey_child, rekey_ike};
use crate::types::CloseReason;
use crate::wire::{ExchangeType, Notify, NotifyType, Payload, Payloads, ProtocolId};

impl Core {
    /// Answers a fresh, legal request that arrived on a link.
    pub(super) fn respond(
        &mut self,
        now: Instant,
        id: LinkId,
        exchange: ExchangeType,
        request: Payloads<'_>,
    ) -> Answer {
        let ends_link = deletes(request).any(|(protocol, _)| protocol == ProtocolId::IKE);
        if self.link(id).is_some_and(|link| link.fate == Fate::Candidate) && !ends_link {
            // The peer uses its new link: for the peer the collision is over, if it ever saw one.
            self.adopt(now, id);
        }
        if exchange == ExchangeType::CREATE_CHILD_SA {
            self.revive_forgotten(now, id);
            self.respond_create(now, id, request)
        } else {
            self.respond_informational(now, id, request)
        }
    }

    fn respond_create(&mut self, now: Instant, id: LinkId, request: Payloads<'_>) -> Answer {
        let temporary = || Answer::refuse(Notify::new(NotifyType::TEMPORARY_FAILURE));
        //= rfc7296#section-2.25.2
        //# If a peer receives a request to rekey an IKE SA that it is currently trying to close, it SHOULD reply with TEMPORARY_FAILURE.
        if id != self.current.id || self.closing.is_some() {
            return temporary();
        }
        let is_ike = request.sa().is_some_and(|sa| {
            let mut proposals = sa.proposals.iter();
            proposals.all(|proposal| proposal.protocol == ProtocolId::IKE)
        });
        if is_ike && request.ts_i().is_none() {
            return rekey_ike::handle(self, now, request);
        }
        let pending = self.current.window.pending.as_ref().map(|pending| &pending.task);
        //= rfc7296#section-2.25.2
        //# If a peer receives a request to create or rekey a Child SA when it is currently rekeying the IKE SA, it SHOULD reply with TEMPORARY_FAILURE.
        if matches!(pending, Some(Task::RekeyIke(_))) {
            return temporary();
        }
        match request.notify(NotifyType::REKEY_SA) {
            Some(rekey) => rekey_child::handle(self, now, request, rekey),
            None => create_child::handle(self, now, request),
        }
    }

    //= rfc7296#section-1.4
    //# The recipient of an INFORMATIONAL exchange request MUST send some response; otherwise, the sender will assume the message was lost in the network and will retransmit it.
    fn respond_informational(&mut self, now: Instant, id: LinkId, request: Payloads<'_>) -> Answer {
        let mut payloads = Vec::new();
        for notify in request.notifies() {
            match notify.kind {
                NotifyType::AUTHENTICATION_FAILED => {
                    let reason = CloseReason::RefusedByPeer(notify.kind.to_string());
                    let then = Then::Close(reason);
                    return Answer { payloads, then };
                }
                NotifyType::COOKIE2 if self.mobike => payloads.push(Payload::Notify(notify.clone())),
                NotifyType::REDIRECT => redirect::handle(self, notify),
                NotifyType::MICROSOFT_STATUS => {
                    let code = <[u8; 4]>::try_from(notify.data.as_slice()).map(u32::from_be_bytes);
                    self.warn(format!(
                        "the client reports Windows error {}",
                        code.unwrap_or_default()
                    ));
                }
                //= rfc7296#section-2.21.4
                //# The recipient MUST NOT change the state of any SAs as a result, but may wish to audit the event to aid in diagnosing malfunctions.
                kind if kind.is_error() => self.warn(format!("the peer reports {kind}")),
                _ => {}
            }
        }
        if deletes(request).any(|(protocol, _)| protocol == ProtocolId::IKE) {
            return self.respond_delete_ike(now, id);
        }
        let mut ours = Vec::new();
        for (protocol, spis) in deletes(request) {
            if protocol == ProtocolId::ESP {
                //= rfc7296#section-2.25.2
                //# If a peer receives a request to delete a Child SA when it is currently rekeying the IKE SA, it SHOULD reply as usual, with a Delete payload.
                ours.extend(delete::handle(self, now, spis));
            }
        }
        if !ours.is_empty() {
            payloads.push(Payload::Delete {
                protocol: ProtocolId::ESP,
                spis: ours,
            });
        }
        Answer::of(payloads)
    }

    /// The peer deletes the link that its request came on.
    fn respond_delete_ike(&mut self, now: Instant, id: LinkId) -> Answer {
        //= rfc7296#section-1.4.1
        //# The response to a request that deletes the IKE SA is an empty INFORMATIONAL response.
        let gone = Fate::Answered(now + self.context.timing.linger);
        if id == self.current.id {
            let candidate = match self.current.window.pending.as_ref().map(|pending| &pending.task) {
                Some(Task::RekeyIke(task)) => task.theirs.as_ref().map(|(candidate, _)| *candidate),
                Some(_) | None => None,
            };
            let alive = |candidate: &LinkId| self.link(*candidate).is_some_and(|l| l.fate == Fate::Candidate);
            let Some(candidate) = candidate.filter(alive) else {
                let then = Then::Close(CloseReason::DeletedByPeer);
                let payloads = Vec::new();
                return Answer { payloads, then };
            };
            //= rfc7296#section-2.8.2
            //# If the peer that did notice the simultaneous rekey gets the delete request from the other peer for the old IKE SA, it knows that the other peer did not detect the simultaneous rekey, and the first peer can forget its own rekey attempt.
            self.counters.collisions += 1;
            self.adopt(now, candidate);
        }
        if let Some(link) = self.link_mut(id) {
            link.fate = gone;
            link.window.pending = None;
        }
        Answer::of(Vec::new())
    }
}

/// The Delete payloads of a message.
fn deletes<'a>(request: Payloads<'a>) -> impl Iterator<Item = (ProtocolId, &'a [u32])> {
    request.0.iter().filter_map(|payload| {
        if let Payload::Delete { protocol, spis } = payload {
            Some((*protocol, spis.as_slice()))
        } else {
            None
        }
    })
}
