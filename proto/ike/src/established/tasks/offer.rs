//! What creating and rekeying a child SA have in common: the offer, its acceptance, and the answer to the peer's.

use crypto::dh::DhError;
use crypto::{Group, Prf, Secret};
use ip::{Selector, narrow};
use serde::{Deserialize, Serialize};

use super::super::Core;
use super::super::collision::Nonces;
use super::super::keyex::Exchange;
use super::super::resources;
use crate::keys::child_keymat;
use crate::types::{Activate, ChildSa, Event, Mode, Resource, Role, SecurityProtocol};
use crate::wire::proposal::{ChildProposal, ChosenChild, KeRule, accept_child, offer_child, select_child};
use crate::wire::{KeId, KeyExchange, Notify, NotifyType, Payload, Payloads, ProtocolId, TrafficSelector};

/// Octets of our nonces: at least half the key of every PRF.
//= rfc7296#section-2.10
//# Nonces used in IKEv2 MUST be randomly chosen, MUST be at least 128 bits in size, and MUST be at least half the key size of the negotiated pseudorandom function (PRF).
pub(super) const NONCE_LEN: usize = 32;

/// A child SA that we asked for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in crate::established) struct Offer {
    /// Our inbound SPI.
    pub(super) spi_in: u32,
    nonce: Vec<u8>,
    exchange: Option<Exchange>,
    ts_local: Vec<Selector>,
    ts_remote: Vec<Selector>,
    resource: Resource,
}

/// What the child SA is that the peer asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Becomes {
    /// A further one.
    New,
    /// The successor of one with that place.
    Successor(Resource),
}

/// A child SA that both sides have agreed on.
pub(super) struct Agreed {
    pub(super) sa: ChildSa,
    pub(super) nonces: Nonces,
    pub(super) group: Option<Group>,
}

/// An answer that cannot be used, in words. The peer has the child SA nevertheless.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum Unusable {
    #[error("answer lacks {0}")]
    Lacks(&'static str),
    #[error("answer chooses what was not offered: {0}")]
    NotOffered(String),
    #[error("answer widens the traffic selectors")]
    Selectors,
    #[error("key exchange: {0}")]
    KeyExchange(#[from] DhError),
}

/// A nonce of ours.
pub(super) fn nonce(core: &mut Core) -> Vec<u8> {
    let mut nonce = vec![0; NONCE_LEN];
    core.context.random.fill(&mut nonce);
    nonce
}

/// The policy's proposals, with groups exactly if there is a key exchange.
fn proposals(core: &Core, group: Option<Group>) -> Vec<ChildProposal> {
    let mut proposals = core.policy.proposals.clone();
    for proposal in &mut proposals {
        match group {
            None => proposal.groups.clear(),
            //= rfc7296#section-1.3
            //# If a CREATE_CHILD_SA exchange includes a KEi payload, at least one of the SA offers MUST include the Diffie-Hellman group of the KEi.
            Some(group) if proposal.groups.is_empty() => proposal.groups.push(group),
            Some(_) => {}
        }
    }
    proposals
}

impl Offer {
    /// Makes an offer and its payloads: `SA, Ni, [KEi,] TSi, TSr`.
    pub(super) fn make(
        core: &mut Core,
        ts_local: Vec<Selector>,
        ts_remote: Vec<Selector>,
        group: Option<Group>,
        resource: Resource,
    ) -> Result<(Self, Vec<Payload>), DhError> {
        let mut ke = None;
        let mut exchange = None;
        let nonce = nonce(core);
        if let Some(group) = group {
            let (started, data) = Exchange::start(group, &mut *core.context.random)?;
            exchange = Some(started);
            let group = KeId(group.id());
            ke = Some(Payload::Ke(KeyExchange { group, data }));
        }
        let spi_in = core.context.spis.esp(core.policy.worker_of(resource));
        let mut payloads = vec![
            Payload::Sa(offer_child(&proposals(core, group), spi_in, group.is_some())),
            Payload::Nonce(nonce.clone()),
        ];
        payloads.extend(ke);
        payloads.push(Payload::TsI(TrafficSelector::from_selectors(&ts_local)));
        payloads.push(Payload::TsR(TrafficSelector::from_selectors(&ts_remote)));
        payloads.extend(resources::notify(resource));
        let offer = Self {
            spi_in,
            nonce,
            exchange,
            ts_local,
            ts_remote,
            resource,
        };
        Ok((offer, payloads))
    }

    /// The place that was asked for.
    pub(super) fn resource(&self) -> Resource {
        self.resource
    }

    /// Reads the peer's acceptance.
    pub(super) fn accept(&self, core: &Core, response: Payloads<'_>) -> Result<Agreed, Unusable> {
        let answer = response.sa().ok_or(Unusable::Lacks("SA"))?;
        let nonce = response.nonce().ok_or(Unusable::Lacks("Nr"))?;
        let ts_i = response.ts_i().ok_or(Unusable::Lacks("TSi"))?;
        let ts_r = response.ts_r().ok_or(Unusable::Lacks("TSr"))?;
        let group = self.exchange.as_ref().map(Exchange::group);
        let rule = KeRule::Mirror(group.map(|group| KeId(group.id())));
        let chosen = accept_child(answer, &proposals(core, group), rule)
            .map_err(|mismatch| Unusable::NotOffered(mismatch.to_string()))?;
        let shared = match (chosen.group, &self.exchange) {
            (None, _) => None,
            (Some(chosen), Some(exchange)) if chosen == exchange.group() => {
                let ke = response.ke().ok_or(Unusable::Lacks("KEr"))?;
                if ke.group.0 != chosen.id() {
                    return Err(Unusable::NotOffered(format!("KE payload of group {}", ke.group)));
                }
                Some(exchange.finish(&ke.data)?)
            }
            (Some(chosen), _) => return Err(Unusable::NotOffered(format!("group {chosen}"))),
        };
        let within = |given: &[Selector], offered: &[Selector]| {
            !given.is_empty()
                && given
                    .iter()
                    .all(|one| offered.iter().any(|all| all.contains(one)))
        };
        let (ts_local, ts_remote) = (
            TrafficSelector::to_selectors(ts_i),
            TrafficSelector::to_selectors(ts_r),
        );
        if !within(&ts_local, &self.ts_local) || !within(&ts_remote, &self.ts_remote) {
            return Err(Unusable::Selectors);
        }
        // One of a group is for the traffic of the others, not for less.
        let is_bound = matches!(self.resource, Resource::Bound(_));
        if is_bound && !(within(&self.ts_local, &ts_local) && within(&self.ts_remote, &ts_remote)) {
            return Err(Unusable::Selectors);
        }
        let nonces = Nonces {
            initiator: self.nonce.clone(),
            responder: nonce.to_vec(),
        };
        let group = chosen.group;
        let terms = Terms {
            role: Role::Initiator,
            chosen: &chosen,
            spi_in: self.spi_in,
            shared: shared.as_ref(),
            nonces: &nonces,
            activate: Activate::Now,
            resource: self.resource,
        };
        let sa = terms.child(core, ts_local, ts_remote);
        Ok(Agreed { sa, nonces, group })
    }
}

/// Answers the peer's offer: the child SA and the payloads `SA, Nr, [KEr,] TSi, TSr`, or the notify that refuses it.
///
/// What the peer may have is limited by `local` and `remote`: the policy for a new child, the old child for a rekey.
pub(super) fn answer(
    core: &mut Core,
    request: Payloads<'_>,
    local: &[Selector],
    remote: &[Selector],
    becomes: Becomes,
) -> Result<(Agreed, Vec<Payload>), Notify> {
    let syntax = || Notify::new(NotifyType::INVALID_SYNTAX);
    let offer = request.sa().ok_or_else(syntax)?;
    let their_nonce = request.nonce().ok_or_else(syntax)?;
    let (ts_i, ts_r) = request.ts_i().zip(request.ts_r()).ok_or_else(syntax)?;
    let ke = request.ke();
    let rule = KeRule::Mirror(ke.map(|ke| ke.group));
    let chosen = select_child(offer, &core.policy.proposals, rule).map_err(|mismatch| {
        core.warn(format!("child SA refused: {mismatch}"));
        Notify::new(NotifyType::NO_PROPOSAL_CHOSEN)
    })?;
    let mut group = None;
    if let Some(chosen) = chosen.group {
        //= rfc7296#section-1.3
        //# If the responder selects a proposal using a different Diffie-Hellman group (other than NONE), the responder MUST reject the request and indicate its preferred Diffie-Hellman group in the INVALID_KE_PAYLOAD Notify payload.
        let theirs = ke.filter(|ke| ke.group.0 == chosen.id());
        group = Some((chosen, theirs.ok_or_else(|| invalid_ke(chosen))?));
    }
    //= rfc7296#section-2.9
    //# If the responder's policy does not allow it to accept any part of the proposed Traffic Selectors, it responds with a TS_UNACCEPTABLE Notify message.
    //= rfc7296#section-2.9
    //# If the type of Traffic Selector proposed is unknown, the responder ignores that Traffic Selector, so that the unknown type is not returned in the narrowed set.
    let ts_remote = narrow(&TrafficSelector::to_selectors(ts_i), remote);
    let ts_local = narrow(&TrafficSelector::to_selectors(ts_r), local);
    if ts_remote.is_empty() || ts_local.is_empty() {
        core.warn("child SA refused: no traffic selector is acceptable".to_owned());
        return Err(Notify::new(NotifyType::TS_UNACCEPTABLE));
    }
    let resource = match becomes {
        Becomes::New => core.place(request, &ts_local, &ts_remote, &chosen)?,
        Becomes::Successor(resource) => resource,
    };
    // What is sent before the peer has the SA is lost, so it waits where there is another one to send by.
    let activate = match (becomes, resource) {
        (Becomes::New, Resource::None | Resource::Fallback) => Activate::Now,
        (Becomes::New, Resource::Bound(_)) | (Becomes::Successor(_), _) => Activate::OnFirstInbound,
    };
    let our_nonce = nonce(core);
    let mut ke_payload = None;
    let mut shared = None;
    if let Some((group, theirs)) = group {
        let made = Exchange::start(group, &mut *core.context.random)
            .and_then(|(exchange, data)| Ok((exchange.finish(&theirs.data)?, data)));
        let (secret, data) = made.map_err(|error| {
            core.warn(format!("child SA refused: {error}"));
            Notify::new(NotifyType::NO_PROPOSAL_CHOSEN)
        })?;
        shared = Some(secret);
        let group = KeId(group.id());
        ke_payload = Some(Payload::Ke(KeyExchange { group, data }));
    }
    let spi_in = core.context.spis.esp(core.policy.worker_of(resource));
    let nonces = Nonces {
        initiator: their_nonce.to_vec(),
        responder: our_nonce.clone(),
    };
    let mut payloads = vec![Payload::Sa(chosen.to_payload(spi_in)), Payload::Nonce(our_nonce)];
    payloads.extend(ke_payload);
    payloads.push(Payload::TsI(TrafficSelector::from_selectors(&ts_remote)));
    payloads.push(Payload::TsR(TrafficSelector::from_selectors(&ts_local)));
    payloads.extend(resources::notify(resource));
    let terms = Terms {
        role: Role::Responder,
        chosen: &chosen,
        spi_in,
        shared: shared.as_ref(),
        nonces: &nonces,
        activate,
        resource,
    };
    let sa = terms.child(core, ts_local, ts_remote);
    let group = chosen.group;
    Ok((Agreed { sa, nonces, group }, payloads))
}

/// INVALID_KE_PAYLOAD with the group that will do.
pub(super) fn invalid_ke(group: Group) -> Notify {
    //= rfc7296#section-1.3
    //# There are two octets of data associated with this notification: the accepted Diffie-Hellman group number in big endian order.
    Notify::with_data(NotifyType::INVALID_KE_PAYLOAD, group.id().to_be_bytes().to_vec())
}

/// The group that an INVALID_KE_PAYLOAD asks for.
pub(in crate::established) fn wanted_group(notify: &Notify) -> Option<Group> {
    Group::try_from(notify.data_u16()?).ok()
}

/// What a child SA is made from.
struct Terms<'a> {
    role: Role,
    chosen: &'a ChosenChild,
    spi_in: u32,
    shared: Option<&'a Secret>,
    nonces: &'a Nonces,
    activate: Activate,
    resource: Resource,
}

impl Terms<'_> {
    fn child(&self, core: &Core, ts_local: Vec<Selector>, ts_remote: Vec<Selector>) -> ChildSa {
        let prf: Prf = core.current.suite.prf;
        let (keys_in, keys_out) = child_keymat(
            prf,
            &core.current.keys.sk_d,
            self.shared,
            &self.nonces.initiator,
            &self.nonces.responder,
            self.chosen.suite,
        )
        .for_role(self.role);
        ChildSa {
            protocol: SecurityProtocol::Esp,
            mode: Mode::Tunnel,
            suite: self.chosen.suite,
            esn: self.chosen.esn,
            spi_in: self.spi_in,
            spi_out: self.chosen.spi,
            keys_in,
            keys_out,
            ts_local,
            ts_remote,
            local: core.local,
            remote: core.remote,
            encap: core.nat.encap(),
            activate: self.activate,
            lifetime: core.policy.lifetime,
            replay_window: core.policy.replay_window,
            initiator: self.role.is_initiator(),
            resource: self.resource,
        }
    }
}

/// The notify that names a child SA.
pub(super) fn about(kind: NotifyType, spi: u32) -> Notify {
    Notify::about_child(kind, ProtocolId::ESP, spi)
}

/// Events of a new child SA, or of a successor.
pub(super) fn announce(core: &mut Core, sa: &ChildSa, replaces: Option<u32>) {
    core.log_child_keys(sa);
    let new = Box::new(sa.clone());
    core.event(match replaces {
        Some(old_spi_in) => Event::ChildRekeyed { old_spi_in, new },
        None => Event::ChildUp(new),
    });
}
