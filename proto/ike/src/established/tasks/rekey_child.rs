//! Rekeying a child SA (RFC 7296 sections 1.3.3, 2.8 and 2.8.1).
//!
//! Whoever starts the rekey whose child SA survives deletes the replaced one. When both start one, each answers the other
//! as usual, and the nonces tell which successor is redundant.

use std::time::Instant;

use crypto::Group;
use serde::{Deserialize, Serialize};

use super::super::Core;
use super::super::children::{Child, State};
use super::super::collision::{Nonces, Redundant, redundant};
use super::super::queue::{Job, Work};
use super::offer::{self, Agreed, Becomes, Offer};
use super::{Answer, Request, Task};
use crate::types::{Activate, ChildEnd};
use crate::wire::{ExchangeType, Notify, NotifyType, Payload, Payloads, ProtocolId};

/// A rekey of ours under way.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in crate::established) struct RekeyChild {
    /// Inbound SPI of the child that is being replaced.
    pub(in crate::established) old: u32,
    offer: Offer,
    group: Option<Group>,
    tries: u8,
    /// Nonces of the peer's own rekey of the same child, once we have answered it.
    theirs: Option<(u32, Nonces)>,
}

/// Makes the request, unless the child is gone or has a successor.
pub(super) fn build(core: &mut Core, job: &Job, spi_in: u32, group: Option<Group>) -> Option<Request> {
    let child = core
        .children
        .by_in(spi_in)
        .filter(|child| child.state == State::Installed)?;
    let (spi_out, known) = (child.sa.spi_out, child.group);
    let (ts_local, ts_remote) = (child.sa.ts_local.clone(), child.sa.ts_remote.clone());
    // A successor is bound to what it replaces was bound to (RFC 9611 section 4).
    let resource = child.sa.resource;
    // What the last exchange about this child did is what the peer is known to accept.
    let group = group.or_else(|| known.unwrap_or_else(|| core.policy_group()));
    let (offer, mut payloads) = match Offer::make(core, ts_local, ts_remote, group, resource) {
        Ok(made) => made,
        Err(error) => {
            core.warn(format!("child SA not rekeyed: {error}"));
            return None;
        }
    };
    core.children.by_in_mut(spi_in)?.state = State::Rekeying;
    //= rfc7296#section-1.3.3
    //# The REKEY_SA notification MUST be included in a CREATE_CHILD_SA exchange if the purpose of the exchange is to replace an existing ESP or AH SA.
    //= rfc7296#section-1.3.3
    //# The SA being rekeyed is identified by the SPI field in the Notify payload; this is the SPI the exchange initiator would expect in inbound ESP or AH packets.
    payloads.insert(0, Payload::Notify(offer::about(NotifyType::REKEY_SA, spi_in)));
    core.step(
        "rekey_child",
        format!("replacing child SA {spi_in:08x}/{spi_out:08x}"),
    );
    Some(Request {
        exchange: ExchangeType::CREATE_CHILD_SA,
        payloads,
        task: Task::RekeyChild(Box::new(RekeyChild {
            old: spi_in,
            offer,
            group,
            tries: job.tries,
            theirs: None,
        })),
    })
}

impl RekeyChild {
    /// Our inbound SPI of the new child.
    pub(in crate::established) fn spi_in(&self) -> u32 {
        self.offer.spi_in
    }

    /// Notes that the peer's own rekey of the same child was answered; false if one was before.
    fn note(&mut self, spi_in: u32, nonces: &Nonces) {
        self.theirs = Some((spi_in, nonces.clone()));
    }

    /// Takes the response.
    pub(super) fn process(mut self, core: &mut Core, now: Instant, response: Payloads<'_>) {
        if let Some(error) = response.error() {
            core.context.spis.release_esp(self.offer.spi_in);
            return self.refused(core, now, error);
        }
        match self.offer.accept(core, response) {
            Ok(agreed) => match self.theirs.take() {
                None => self.succeeded(core, now, agreed),
                Some((spi_in, theirs)) => self.collided(core, now, agreed, spi_in, &theirs),
            },
            Err(unusable) => {
                core.warn(format!("child SA not rekeyed: {unusable}"));
                core.want(
                    now,
                    Work::DeleteStray {
                        spi_in: self.offer.spi_in,
                    },
                );
                // The peer takes the old child for replaced: it has to go as well, and a new one to come.
                if self.theirs.is_none() {
                    self.start_over(core, now);
                }
            }
        }
    }

    /// Our successor is the one that stays.
    fn succeeded(self, core: &mut Core, now: Instant, agreed: Agreed) {
        core.counters.child_rekeys += 1;
        if core.is_deleted_early(agreed.sa.spi_out) {
            // The peer deleted the successor before we knew of it; the old child is still ours to delete.
            core.context.spis.release_esp(agreed.sa.spi_in);
        } else {
            offer::announce(core, &agreed.sa, Some(self.old));
            core.install(now, agreed.sa, Some(agreed.group), State::Installed);
        }
        //= rfc7296#section-2.8.1
        //# The node that initiated the surviving rekeyed SA should delete the replaced SA after the new one is established.
        core.want_delete(now, self.old, ChildEnd::Rekeyed);
    }

    /// There are two successors; `their_spi_in` is our inbound SPI of the peer's.
    fn collided(self, core: &mut Core, now: Instant, mut agreed: Agreed, their_spi_in: u32, theirs: &Nonces) {
        core.counters.collisions += 1;
        match redundant(&agreed.nonces, theirs) {
            Redundant::Theirs => {
                core.step(
                    "collision",
                    "our new child SA stays, the peer deletes its own".to_owned(),
                );
                core.mark_replaced(now, their_spi_in);
                self.succeeded(core, now, agreed);
            }
            Redundant::Ours => {
                core.step(
                    "collision",
                    "the peer's new child SA stays, we delete ours".to_owned(),
                );
                core.mark_replaced(now, self.old);
                if core.is_deleted_early(agreed.sa.spi_out) {
                    core.context.spis.release_esp(agreed.sa.spi_in);
                    return;
                }
                //= rfc7296#section-2.8.1
                //# When there are two SAs eligible to receive packets, a node MUST accept incoming packets through either SA.
                agreed.sa.activate = Activate::OnFirstInbound;
                let spi_in = agreed.sa.spi_in;
                offer::announce(core, &agreed.sa, Some(self.old));
                core.install(now, agreed.sa, Some(agreed.group), State::Installed);
                core.want_delete(now, spi_in, ChildEnd::Rekeyed);
            }
        }
    }

    /// The peer did not make a successor.
    fn refused(self, core: &mut Core, now: Instant, error: &Notify) {
        if self.theirs.is_some() {
            //= rfc7296#section-2.8.1
            //# When A receives this error, it already knows there was simultaneous rekeying, so it can ignore the error message.
            core.counters.collisions += 1;
            return core.mark_replaced(now, self.old);
        }
        let Some(child) = core.children.by_in_mut(self.old) else {
            // The peer deleted the child while our request was under way.
            return;
        };
        if child.state == State::Rekeying {
            child.state = State::Installed;
        }
        let spi_in = self.old;
        match error.kind {
            NotifyType::CHILD_SA_NOT_FOUND => self.start_over(core, now),
            NotifyType::INVALID_KE_PAYLOAD => match core.acceptable_group(error, self.tries) {
                Some(group) => {
                    let group = Some(group);
                    core.queue.push(Job {
                        tries: self.tries + 1,
                        ..Job::new(Work::RekeyChild { spi_in, group }, now)
                    });
                }
                None => {
                    core.warn("child SA not rekeyed: no key exchange group in common".to_owned());
                    core.retry_failed(now, Work::RekeyChild { spi_in, group: None });
                }
            },
            NotifyType::TEMPORARY_FAILURE => {
                let group = self.group;
                core.retry_later(now, Work::RekeyChild { spi_in, group });
            }
            kind => {
                core.warn(format!("child SA not rekeyed: peer answers {kind}"));
                core.retry_failed(now, Work::RekeyChild { spi_in, group: None });
            }
        }
    }

    /// The two sides disagree about the child: it goes, and one like it is made from scratch.
    fn start_over(&self, core: &mut Core, now: Instant) {
        let Some(child) = core.children.by_in(self.old) else {
            return;
        };
        //= rfc7296#section-2.25
        //# A peer that receives a CHILD_SA_NOT_FOUND notification SHOULD silently delete the Child SA (if it still exists) and send a request to create a new Child SA from scratch (if the Child SA does not yet exist).
        let work = Work::CreateChild {
            ts_local: child.sa.ts_local.clone(),
            ts_remote: child.sa.ts_remote.clone(),
            group: None,
            resource: child.sa.resource,
        };
        core.drop_child(self.old, ChildEnd::Failed);
        core.want(now, work);
    }
}

/// Answers the peer's request to rekey the child that `rekey` names.
pub(in crate::established) fn handle(
    core: &mut Core,
    now: Instant,
    request: Payloads<'_>,
    rekey: &Notify,
) -> Answer {
    let Some(spi_out) = rekey.spi_u32() else {
        return Answer::refuse(Notify::new(NotifyType::INVALID_SYNTAX));
    };
    let found = core
        .children
        .by_out(spi_out)
        .filter(|_| rekey.protocol == ProtocolId::ESP);
    let Some(child) = found else {
        if core.is_making_child() {
            // It may be the child of the answer that we are waiting for.
            return Answer::refuse(Notify::new(NotifyType::TEMPORARY_FAILURE));
        }
        //= rfc7296#section-2.25.1
        //# If a peer receives a request to rekey a Child SA that does not exist, it SHOULD reply with CHILD_SA_NOT_FOUND.
        return Answer::refuse(Notify {
            kind: NotifyType::CHILD_SA_NOT_FOUND,
            data: Vec::new(),
            ..rekey.clone()
        });
    };
    let (old, resource) = (child.sa.spi_in, child.sa.resource);
    let ended = matches!(child.state, State::Deleting | State::Replaced | State::Leaving);
    // What some clients widen in a rekey is narrowed again to what the child had.
    let (local, remote) = (child.sa.ts_local.clone(), child.sa.ts_remote.clone());
    let again = core
        .rekey_under_way(old)
        .is_some_and(|task| task.theirs.is_some());
    // A synchronization of message IDs made the peer forget its rekey (RFC 6311 section 8.3): it does not have the successor.
    let forgotten = forgotten_successor(core, old);
    if (ended && forgotten.is_none()) || again || core.is_delete_wanted(old) {
        //= rfc7296#section-2.25.1
        //# If a peer receives a request to rekey a Child SA that it is currently trying to close, it SHOULD reply with TEMPORARY_FAILURE.
        return Answer::refuse(Notify::new(NotifyType::TEMPORARY_FAILURE));
    }
    if core.children.len()
        >= usize::from(core.policy.max_children)
            .saturating_mul(3)
            .saturating_add(8)
    {
        // The peer rekeys and never deletes.
        return Answer::refuse(Notify::new(NotifyType::NO_ADDITIONAL_SAS));
    }
    match offer::answer(core, request, &local, &remote, Becomes::Successor(resource)) {
        Ok((agreed, payloads)) => {
            core.counters.child_rekeys += 1;
            offer::announce(core, &agreed.sa, Some(old));
            //= rfc7296#section-2.25.1
            //# If a peer receives a request to rekey a Child SA that it is currently rekeying, it SHOULD reply as usual, and SHOULD prepare to close redundant SAs later based on the nonces (see Section 2.8.1).
            match core.rekey_under_way(old) {
                Some(ours) => ours.note(agreed.sa.spi_in, &agreed.nonces),
                None => {
                    core.mark_replaced(now, old);
                    if let Some(child) = core.children.by_in_mut(old) {
                        child.successor = Some(agreed.sa.spi_in);
                    }
                }
            }
            core.install(now, agreed.sa, Some(agreed.group), State::Installed);
            if let Some(orphan) = forgotten.flatten() {
                core.want_delete(now, orphan, ChildEnd::Failed);
            }
            Answer::of(payloads)
        }
        Err(notify) => Answer::refuse(notify),
    }
}

/// Whether the peer rekeys again what its earlier rekey replaced: it cannot know of that one. The inner value is the
/// successor, if we still have it.
fn forgotten_successor(core: &Core, old: u32) -> Option<Option<u32>> {
    let replaced = |child: &&Child| core.mid_sync && child.state == State::Replaced;
    let successor = core.children.by_in(old).filter(replaced)?.successor?;
    let there = core.children.by_in(successor);
    Some(
        there
            .filter(|child| child.state == State::Installed)
            .map(|_| successor),
    )
}
