//! The child SA that rides on IKE_AUTH: offer, answer, acceptance.

use std::sync::Arc;

use ip::Selector;

use super::Base;
use super::keyed::Keyed;
use crate::keys::child_keymat;
use crate::types::{Activate, ChildPolicy, ChildSa, Mode, Resource, Role, SecurityProtocol, SpiAllocator};
use crate::wire::proposal::{ChosenChild, KeRule, accept_child, offer_child, select_child};
use crate::wire::{Notify, NotifyType, Payload, Payloads, SaPayload, TrafficSelector};

/// SA, TSi and TSr of a message.
#[derive(Clone, Debug)]
pub(crate) struct ChildPayloads {
    pub(crate) sa: SaPayload,
    pub(crate) ts_i: Vec<TrafficSelector>,
    pub(crate) ts_r: Vec<TrafficSelector>,
}

impl ChildPayloads {
    pub(crate) fn read(payloads: Payloads<'_>) -> Option<Self> {
        Some(Self {
            sa: payloads.sa()?.clone(),
            ts_i: payloads.ts_i()?.to_vec(),
            ts_r: payloads.ts_r()?.to_vec(),
        })
    }

    fn into_payloads(self) -> [Payload; 3] {
        [
            Payload::Sa(self.sa),
            Payload::TsI(self.ts_i),
            Payload::TsR(self.ts_r),
        ]
    }
}

/// Why there is no child.
pub(crate) struct Refusal {
    pub(crate) notify: NotifyType,
    pub(crate) reason: String,
}

/// An inbound SPI that goes back unless it is used.
pub(crate) struct SpiGuard {
    spi: u32,
    spis: Option<Arc<dyn SpiAllocator>>,
}

impl SpiGuard {
    pub(crate) fn take(spis: &Arc<dyn SpiAllocator>, worker: u8) -> Self {
        Self {
            spi: spis.esp(worker),
            spis: Some(Arc::clone(spis)),
        }
    }

    pub(crate) fn spi(&self) -> u32 {
        self.spi
    }

    /// It is used: whoever owns the child gives it back.
    pub(crate) fn keep(mut self) -> u32 {
        self.spis = None;
        self.spi
    }
}

impl Drop for SpiGuard {
    fn drop(&mut self) {
        if let Some(spis) = &self.spis {
            spis.release_esp(self.spi);
        }
    }
}

/// Responder: the child that policy makes of an offer, and the payloads that say so.
pub(crate) fn answer(
    base: &Base,
    keyed: &Keyed,
    offer: &ChildPayloads,
    policy: &ChildPolicy,
    resource: Resource,
) -> Result<(ChildSa, [Payload; 3]), Refusal> {
    //= rfc7296#section-1.2
    //# Thus, the SA payloads in the IKE_AUTH exchange cannot contain
    //# Transform Type 4 (Diffie-Hellman group) with any value other than
    //# NONE.
    let chosen = select_child(&offer.sa, &policy.proposals, KeRule::Ignore).map_err(|mismatch| Refusal {
        notify: NotifyType::NO_PROPOSAL_CHOSEN,
        reason: format!("no proposal for the child SA fits: {mismatch}"),
    })?;
    let narrowed = |name: &str, offered: &[TrafficSelector], ours: &[Selector]| {
        let wanted = TrafficSelector::to_selectors(offered);
        let narrowed = ip::narrow(&wanted, ours);
        if narrowed.is_empty() {
            return Err(Refusal {
                notify: NotifyType::TS_UNACCEPTABLE,
                reason: format!(
                    "{name}: client wants {}; allowed is {}",
                    list(&wanted),
                    list(ours)
                ),
            });
        }
        Ok(narrowed)
    };
    let ts_remote = narrowed("client side", &offer.ts_i, &policy.ts_remote)?;
    let ts_local = narrowed("gateway side", &offer.ts_r, &policy.ts_local)?;
    let guard = SpiGuard::take(&base.ctx.spis, policy.worker);
    let payloads = ChildPayloads {
        sa: chosen.to_payload(guard.spi()),
        ts_i: TrafficSelector::from_selectors(&ts_remote),
        ts_r: TrafficSelector::from_selectors(&ts_local),
    };
    let child = make(
        base,
        keyed,
        policy,
        &chosen,
        guard.keep(),
        ts_local,
        ts_remote,
        resource,
    );
    Ok((child, payloads.into_payloads()))
}

/// Initiator: what is offered.
pub(crate) fn offer(policy: &ChildPolicy, guard: &SpiGuard) -> [Payload; 3] {
    ChildPayloads {
        sa: offer_child(&policy.proposals, guard.spi(), false),
        ts_i: TrafficSelector::from_selectors(&policy.ts_local),
        ts_r: TrafficSelector::from_selectors(&policy.ts_remote),
    }
    .into_payloads()
}

/// Initiator: the child that an answer makes.
pub(crate) fn accept(
    base: &Base,
    keyed: &Keyed,
    answer: &ChildPayloads,
    policy: &ChildPolicy,
    guard: SpiGuard,
    resource: Resource,
) -> Result<ChildSa, Refusal> {
    let chosen = accept_child(&answer.sa, &policy.proposals, KeRule::Ignore).map_err(|mismatch| Refusal {
        notify: NotifyType::NO_PROPOSAL_CHOSEN,
        reason: format!("the gateway's choice was not offered: {mismatch}"),
    })?;
    let within = |name: &str, answered: &[TrafficSelector], offered: &[Selector]| {
        let selectors = TrafficSelector::to_selectors(answered);
        let inside = |one: &Selector| offered.iter().any(|wide| wide.contains(one));
        if selectors.is_empty() || !selectors.iter().all(inside) {
            return Err(Refusal {
                notify: NotifyType::TS_UNACCEPTABLE,
                reason: format!(
                    "{name}: {} is more than was offered: {}",
                    list(&selectors),
                    list(offered)
                ),
            });
        }
        Ok(selectors)
    };
    let ts_local = within("our side", &answer.ts_i, &policy.ts_local)?;
    let ts_remote = within("gateway side", &answer.ts_r, &policy.ts_remote)?;
    Ok(make(
        base,
        keyed,
        policy,
        &chosen,
        guard.keep(),
        ts_local,
        ts_remote,
        resource,
    ))
}

/// The first of a group of child SAs with the same selectors (RFC 9611), if both sides say so.
pub(crate) fn first_of_group(policy: &ChildPolicy, peer_says_so: bool) -> Resource {
    if peer_says_so && !policy.resources.is_empty() {
        Resource::Fallback
    } else {
        Resource::None
    }
}

/// What says so.
pub(crate) fn group_notify() -> Payload {
    Payload::Notify(Notify::new(NotifyType::SA_RESOURCE_INFO))
}

#[allow(
    clippy::too_many_arguments,
    reason = "what an offer and its answer say, once each"
)]
fn make(
    base: &Base,
    keyed: &Keyed,
    policy: &ChildPolicy,
    chosen: &ChosenChild,
    spi_in: u32,
    ts_local: Vec<Selector>,
    ts_remote: Vec<Selector>,
    resource: Resource,
) -> ChildSa {
    let channel = &keyed.channel;
    let material = child_keymat(
        channel.suite.prf,
        &channel.keys.sk_d,
        None,
        &keyed.nonce_i,
        &keyed.nonce_r,
        chosen.suite,
    );
    let (keys_in, keys_out) = material.for_role(base.role);
    ChildSa {
        protocol: SecurityProtocol::Esp,
        mode: Mode::Tunnel,
        suite: chosen.suite,
        esn: chosen.esn,
        spi_in,
        spi_out: chosen.spi,
        keys_in,
        keys_out,
        ts_local,
        ts_remote,
        local: base.local,
        remote: base.remote,
        encap: keyed.nat.encap(),
        activate: Activate::Now,
        lifetime: policy.lifetime,
        replay_window: policy.replay_window,
        initiator: base.role == Role::Initiator,
        resource,
    }
}

/// Selectors in words.
pub(crate) fn list(selectors: &[Selector]) -> String {
    if selectors.is_empty() {
        return "nothing".to_owned();
    }
    let texts: Vec<String> = selectors.iter().map(ToString::to_string).collect();
    texts.join(", ")
}
