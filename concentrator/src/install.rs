//! From a negotiated child SA to what a worker installs.

use dataplane::{Activate, Encap, Limits, Resource, SaPair};
use esp::tunnel::DfRule;
use esp::{InboundParams, OutboundParams};

use crate::node::Node;
use crate::policy;
use crate::session::Child;
use crate::slot::Slot;

/// The pair of SAs for the worker. Sends from `first_seq` on, at most up to `ceiling`.
#[must_use]
pub(crate) fn pair(node: &Node, slot: &Slot, child: &Child, first_seq: u64, ceiling: u64) -> SaPair {
    let sa = &child.sa;
    let outer = child.outer();
    let carried_on = first_seq > 1;
    SaPair {
        session: child.session,
        slot: slot.id,
        domain: child.domain,
        inbound: InboundParams {
            spi: sa.spi_in,
            suite: sa.suite,
            enc_key: sa.keys_in.enc.clone(),
            integ_key: sa.keys_in.integ.clone(),
            esn: sa.esn,
            window: sa.replay_window,
            checkpoint: child.highest_in.load(std::sync::atomic::Ordering::Acquire),
        },
        outbound: OutboundParams {
            spi: sa.spi_out,
            suite: sa.suite,
            enc_key: sa.keys_out.enc.clone(),
            integ_key: sa.keys_out.integ.clone(),
            esn: sa.esn,
            generation: slot.iv_generation(),
            first_seq,
            ceiling,
            tfc_pad_to: 0,
        },
        ts_local: sa.ts_local.clone(),
        ts_remote: sa.ts_remote.clone(),
        peer: outer.remote,
        local: if sa.encap {
            node.sockets.real_local(outer.local)
        } else {
            outer.local
        },
        encap: if sa.encap { Encap::Udp } else { Encap::Raw },
        activate: match sa.activate {
            // The peer has had the SA since before the restart.
            ike::Activate::OnFirstInbound if !carried_on => Activate::OnFirstInbound,
            ike::Activate::OnFirstInbound | ike::Activate::Now => Activate::Now,
        },
        limits: Limits {
            soft_octets: sa.lifetime.soft_octets,
            hard_octets: sa.lifetime.hard_octets,
            ..Limits::default()
        },
        resource: match sa.resource {
            ike::Resource::None => Resource::None,
            ike::Resource::Fallback => Resource::Fallback,
            ike::Resource::Bound(number) => Resource::Bound(number),
        },
        path_mtu: None,
        fragments_too: false,
        df: node.sessions.get(child.session).map_or(DfRule::Clear, |session| {
            let facts = &session.facts;
            policy::df(&node.registry, &facts.tenant, &facts.connection)
        }),
    }
}
