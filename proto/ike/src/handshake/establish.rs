//! The last step of both roles: events, and the hand-over to the established core.

use std::time::{Duration, Instant};

use crypto::KeyError;

use super::keyed::Keyed;
use super::{Base, Outbox, State};
use crate::established::{CachedResponse, Core, EstablishedParts};
use crate::keylog;
use crate::types::{ChildPolicy, ChildSa, CloseReason, Event, Identity, IkeSummary, Lifetime, Output};
use crate::wire::proposal::IkeProposal;

/// What the two roles know when both sides are authenticated.
pub(crate) struct Outcome {
    pub(crate) next_send_id: u32,
    pub(crate) next_recv_id: u32,
    pub(crate) last_response: Option<CachedResponse>,
    pub(crate) peer_id: Identity,
    pub(crate) local_id: Identity,
    pub(crate) connection: String,
    pub(crate) tenant: String,
    pub(crate) policy: ChildPolicy,
    pub(crate) proposals: Vec<IkeProposal>,
    pub(crate) child: Option<ChildSa>,
    pub(crate) ike_lifetime: Lifetime,
    pub(crate) liveness: Option<Duration>,
    pub(crate) message_id_sync: bool,
}

/// Announces the IKE SA and its child.
pub(crate) fn announce(base: &Base, keyed: &Keyed, outcome: &Outcome, out: &mut Outbox) {
    let mut event = |event| out.push_back(Output::Event(event));
    event(Event::Established {
        ike: Box::new(IkeSummary {
            spi_i: base.spi_i,
            spi_r: base.spi_r,
            suite: keyed.channel.suite.to_string(),
            peer_id: outcome.peer_id.clone(),
            local_id: outcome.local_id.clone(),
            nat: keyed.nat,
            local: base.local,
            remote: base.remote,
            rekeyed_from: None,
        }),
    });
    if let Some(child) = &outcome.child {
        if base.ctx.key_log {
            keylog::esp_lines(child)
                .into_iter()
                .map(Event::KeyLog)
                .for_each(&mut event);
        }
        event(Event::ChildUp(Box::new(child.clone())));
    }
    event(Event::StateChanged);
}

/// The established core. It fails only if keys that were in use a moment ago no longer fit their algorithms.
pub(crate) fn hand_over(
    now: Instant,
    base: Base,
    keyed: Keyed,
    outcome: Outcome,
) -> Result<Box<Core>, KeyError> {
    let parts = EstablishedParts {
        role: base.role,
        spi_i: base.spi_i,
        spi_r: base.spi_r,
        suite: keyed.channel.suite,
        keys: keyed.channel.keys,
        ivs: keyed.channel.ivs,
        local: base.local,
        remote: base.remote,
        nat: keyed.nat,
        next_send_id: outcome.next_send_id,
        next_recv_id: outcome.next_recv_id,
        last_response: outcome.last_response,
        fragment_size: keyed.channel.fragment_size,
        peer_id: outcome.peer_id,
        local_id: outcome.local_id,
        connection: outcome.connection,
        tenant: outcome.tenant,
        policy: outcome.policy,
        proposals: outcome.proposals,
        child: outcome.child,
        ike_lifetime: outcome.ike_lifetime,
        liveness: outcome.liveness,
        mobike: false,
        message_id_sync: outcome.message_id_sync,
        redirect: keyed.hints.redirect,
        counters: base.counters,
    };
    Core::new(now, base.ctx, parts).map(Box::new)
}

/// The state that follows, with the end reported if there is no core.
pub(crate) fn established(core: Result<Box<Core>, KeyError>, out: &mut Outbox) -> State {
    match core {
        Ok(core) => State::Established(core),
        Err(error) => {
            let reason = CloseReason::Protocol(error.to_string());
            out.push_back(Output::Event(Event::Closed { reason }));
            State::Moved
        }
    }
}
