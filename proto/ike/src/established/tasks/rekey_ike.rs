//! Rekeying the IKE SA (RFC 7296 sections 1.3.2, 2.8, 2.8.2 and 2.18).
//!
//! The IKE SA object goes on under new SPIs and keys, and its children with it; the old link is kept until it has been
//! deleted. When both sides rekey at once there are two new links for a while, and the nonces tell which one stays.

use std::time::Instant;

use crypto::{Group, Secret};
use serde::{Deserialize, Serialize};

use super::super::Core;
use super::super::collision::{Nonces, Redundant, redundant};
use super::super::keyex::Exchange;
use super::super::link::{Fate, Link, LinkId};
use super::super::queue::{Job, Work};
use super::super::window::Window;
use super::offer::{invalid_ke, nonce};
use super::{Answer, Request, Task};
use crate::keys::{IkeKeys, rekey_skeyseed};
use crate::types::{CloseReason, Event, IkeSuite, Role};
use crate::wire::proposal::{ChosenIke, accept_ike, offer_ike, select_ike};
use crate::wire::protect::IvSource;
use crate::wire::{ExchangeType, KeId, KeyExchange, Notify, NotifyType, Payload, Payloads, Spi};

/// Replaced links kept at once; a peer that rekeys faster than it deletes has to wait.
const MAX_LINKS: usize = 8;

/// A rekey of ours under way.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in crate::established) struct RekeyIke {
    spi: Spi,
    nonce: Vec<u8>,
    exchange: Exchange,
    tries: u8,
    /// The link that the peer's own rekey made, once we have answered it, and its nonces.
    pub(in crate::established) theirs: Option<(LinkId, Nonces)>,
}

/// Makes the request.
pub(super) fn build(core: &mut Core, job: &Job, group: Option<Group>) -> Option<Request> {
    let group = group.or_else(|| core.ike_group())?;
    let nonce = nonce(core);
    let (exchange, data) = match Exchange::start(group, &mut *core.context.random) {
        Ok(started) => started,
        Err(error) => {
            core.warn(format!("IKE SA not rekeyed: {error}"));
            return None;
        }
    };
    let spi = core.context.spis.ike();
    core.step(
        "rekey_ike",
        format!("replacing IKE SA {}/{}", core.current.id.0, core.current.id.1),
    );
    //= rfc7296#section-1.3.2
    //# The KEi payload MUST be included.
    let payloads = vec![
        Payload::Sa(offer_ike(&core.proposals, Some(spi))),
        Payload::Nonce(nonce.clone()),
        Payload::Ke(KeyExchange {
            group: KeId(group.id()),
            data,
        }),
    ];
    Some(Request {
        exchange: ExchangeType::CREATE_CHILD_SA,
        payloads,
        task: Task::RekeyIke(Box::new(RekeyIke {
            spi,
            nonce,
            exchange,
            tries: job.tries,
            theirs: None,
        })),
    })
}

/// What a new link is made from.
struct Terms<'a> {
    role: Role,
    id: LinkId,
    chosen: &'a ChosenIke,
    shared: &'a Secret,
    nonces: &'a Nonces,
    fate: Fate,
}

impl Terms<'_> {
    /// Derives the keys from those of `parent`, the link that carried the exchange.
    fn link(&self, core: &mut Core, parent: LinkId) -> Option<Link> {
        let suite = IkeSuite {
            suite: self.chosen.suite,
            prf: self.chosen.prf,
            group: self.chosen.group,
        };
        let generation = core.context.generation;
        let old = core.link(parent)?;
        //= rfc7296#section-2.18
        //# Because the rekeying exchange belongs to the old IKE SA, it is the old IKE SA's PRF that is used to generate SKEYSEED.
        let skeyseed = rekey_skeyseed(
            old.suite.prf,
            &old.keys.sk_d,
            self.shared,
            &self.nonces.initiator,
            &self.nonces.responder,
        );
        let keys = IkeKeys::derive(
            &skeyseed,
            suite,
            &self.nonces.initiator,
            &self.nonces.responder,
            self.id.0,
            self.id.1,
        );
        //= rfc7296#section-2.18
        //# The new IKE SA MUST reset its message counters to 0.
        let window = Window::new(0, 0, None);
        let ivs = IvSource::new(generation);
        match Link::new(self.id, self.role, suite, keys, ivs, window, self.fate) {
            Ok(link) => {
                core.log_ike_keys(&link);
                Some(link)
            }
            Err(error) => {
                core.warn(format!("IKE SA not rekeyed: {error}"));
                None
            }
        }
    }
}

impl RekeyIke {
    /// Takes the response, which arrived on the link that is being replaced.
    pub(super) fn process(mut self, core: &mut Core, now: Instant, old: LinkId, response: Payloads<'_>) {
        if let Some(error) = response.error() {
            return self.refused(core, now, old, error);
        }
        let (nonces, link) = match self.accept(core, old, response) {
            Ok(made) => made,
            Err(why) => {
                // The peer has moved to keys that we do not have.
                core.warn(format!("IKE SA not rekeyed: {why}"));
                core.start_close(now, CloseReason::Protocol(why));
                return;
            }
        };
        let ours = link.id;
        let Some((theirs, their_nonces)) = self.theirs.take() else {
            core.add_link(link);
            core.promote(now, ours);
            //= rfc7296#section-2.8
            //# After the new equivalent IKE SA is created, the initiator deletes the old IKE SA, and the Delete payload to delete itself MUST be the last request sent over the old IKE SA.
            return core.delete_link(now, old);
        };
        core.counters.collisions += 1;
        core.add_link(link);
        match redundant(&nonces, &their_nonces) {
            Redundant::Theirs => {
                core.step(
                    "collision",
                    "our new IKE SA stays, the peer deletes its own".to_owned(),
                );
                core.retire(now, theirs);
                core.promote(now, ours);
                core.delete_link(now, old);
            }
            //= rfc7296#section-2.8.2
            //# The new IKE SA containing the lowest nonce SHOULD be deleted by the node that created it, and the other surviving new IKE SA MUST inherit all the Child SAs.
            Redundant::Ours => {
                core.step(
                    "collision",
                    "the peer's new IKE SA stays, we delete ours".to_owned(),
                );
                core.event(Event::IkeRekeyed {
                    new_spi_i: ours.0,
                    new_spi_r: ours.1,
                });
                core.delete_link(now, ours);
                core.adopt(now, theirs);
            }
        }
    }

    /// Reads the acceptance and makes the new link of it.
    fn accept(&self, core: &mut Core, old: LinkId, response: Payloads<'_>) -> Result<(Nonces, Link), String> {
        let lacks = |what: &str| format!("answer lacks {what}");
        let answer = response.sa().ok_or_else(|| lacks("SA"))?;
        let nonce = response.nonce().ok_or_else(|| lacks("Nr"))?;
        let ke = response.ke().ok_or_else(|| lacks("KEr"))?;
        let group = self.exchange.group();
        let chosen =
            accept_ike(answer, &core.proposals, Some(KeId(group.id()))).map_err(|e| e.to_string())?;
        let spi = chosen.spi.ok_or_else(|| lacks("SPI"))?;
        if chosen.group != group || ke.group.0 != group.id() {
            return Err(format!("answer chooses group {}", chosen.group));
        }
        let shared = self
            .exchange
            .finish(&ke.data)
            .map_err(|error| error.to_string())?;
        let nonces = Nonces {
            initiator: self.nonce.clone(),
            responder: nonce.to_vec(),
        };
        let terms = Terms {
            role: Role::Initiator,
            id: LinkId(self.spi, spi),
            chosen: &chosen,
            shared: &shared,
            nonces: &nonces,
            fate: Fate::Candidate,
        };
        let link = terms.link(core, old).ok_or("keys cannot be used")?;
        Ok((nonces, link))
    }

    /// The peer did not make a new link.
    fn refused(self, core: &mut Core, now: Instant, old: LinkId, error: &Notify) {
        if let Some((theirs, _)) = self.theirs {
            // The peer had finished its own rekey before it saw our request.
            core.counters.collisions += 1;
            return core.adopt(now, theirs);
        }
        if old != core.current.id {
            return;
        }
        match error.kind {
            NotifyType::INVALID_KE_PAYLOAD => match core.acceptable_ike_group(error, self.tries) {
                Some(group) => {
                    let group = Some(group);
                    core.queue.push(Job {
                        tries: self.tries + 1,
                        ..Job::new(Work::RekeyIke { group }, now)
                    });
                }
                None => {
                    core.warn("IKE SA not rekeyed: no key exchange group in common".to_owned());
                    core.retry_failed(now, Work::RekeyIke { group: None });
                }
            },
            NotifyType::TEMPORARY_FAILURE => {
                let group = Some(self.exchange.group());
                core.retry_later(now, Work::RekeyIke { group });
            }
            kind => {
                core.warn(format!("IKE SA not rekeyed: peer answers {kind}"));
                core.retry_failed(now, Work::RekeyIke { group: None });
            }
        }
    }
}

/// Answers the peer's request to rekey the current link.
pub(in crate::established) fn handle(core: &mut Core, now: Instant, request: Payloads<'_>) -> Answer {
    let busy = match core.current.window.pending.as_ref().map(|pending| &pending.task) {
        //= rfc7296#section-2.25.1
        //# If a peer receives a request to rekey the IKE SA, and it is currently creating, rekeying, or closing a Child SA of that IKE SA, it SHOULD reply with TEMPORARY_FAILURE.
        Some(task) if task.concerns_children() => true,
        Some(Task::RekeyIke(task)) => task.theirs.is_some(),
        Some(_) | None => false,
    };
    if busy || core.others.len() >= MAX_LINKS {
        return Answer::refuse(Notify::new(NotifyType::TEMPORARY_FAILURE));
    }
    match accept_request(core, request) {
        Ok((nonces, link, payloads)) => {
            let new = link.id;
            core.add_link(link);
            //= rfc7296#section-2.25.2
            //# If a peer receives a request to rekey an IKE SA that it is currently rekeying, it SHOULD reply as usual, and SHOULD prepare to close redundant SAs and move inherited Child SAs later based on the nonces (see Section 2.8.2).
            match core
                .current
                .window
                .pending
                .as_mut()
                .map(|pending| &mut pending.task)
            {
                Some(Task::RekeyIke(ours)) => {
                    ours.theirs = Some((new, nonces));
                    core.event(Event::IkeRekeyed {
                        new_spi_i: new.0,
                        new_spi_r: new.1,
                    });
                }
                _ => core.adopt(now, new),
            }
            Answer::of(payloads)
        }
        Err(notify) => Answer::refuse(notify),
    }
}

/// Chooses from the peer's offer and makes the new link: `SA, Nr, KEr`.
fn accept_request(core: &mut Core, request: Payloads<'_>) -> Result<(Nonces, Link, Vec<Payload>), Notify> {
    let syntax = || Notify::new(NotifyType::INVALID_SYNTAX);
    let no_proposal = || Notify::new(NotifyType::NO_PROPOSAL_CHOSEN);
    let offer = request.sa().ok_or_else(syntax)?;
    let their_nonce = request.nonce().ok_or_else(syntax)?;
    //= rfc7296#section-2.18
    //# Therefore, implementations MUST perform a new Diffie-Hellman exchange when rekeying the IKE SA.
    let ke = request.ke().ok_or_else(syntax)?;
    let chosen = select_ike(offer, &core.proposals, Some(ke.group)).map_err(|mismatch| {
        core.warn(format!("IKE rekey refused: {mismatch}"));
        no_proposal()
    })?;
    let their_spi = chosen.spi.ok_or_else(syntax)?;
    if chosen.group.id() != ke.group.0 {
        return Err(invalid_ke(chosen.group));
    }
    let our_nonce = nonce(core);
    let made = Exchange::start(chosen.group, &mut *core.context.random)
        .and_then(|(exchange, data)| Ok((exchange.finish(&ke.data)?, data)));
    let (shared, data) = made.map_err(|error| {
        core.warn(format!("IKE rekey refused: {error}"));
        no_proposal()
    })?;
    let our_spi = core.context.spis.ike();
    let nonces = Nonces {
        initiator: their_nonce.to_vec(),
        responder: our_nonce.clone(),
    };
    //= rfc7296#section-1.3.2
    //# The new IKE SA also has its window size reset to 1, and the initiator in this rekey exchange is the new "original initiator" of the new IKE SA.
    let terms = Terms {
        role: Role::Responder,
        id: LinkId(their_spi, our_spi),
        chosen: &chosen,
        shared: &shared,
        nonces: &nonces,
        fate: Fate::Candidate,
    };
    let parent = core.current.id;
    let link = terms.link(core, parent).ok_or_else(no_proposal)?;
    let payloads = vec![
        Payload::Sa(chosen.to_payload(Some(our_spi))),
        Payload::Nonce(our_nonce),
        Payload::Ke(KeyExchange {
            group: KeId(chosen.group.id()),
            data,
        }),
    ];
    Ok((nonces, link, payloads))
}
