//! Sending a client to another gateway out of a session, and being sent (RFC 5685 section 5).

use std::time::Instant;

use super::super::Core;
use super::{Request, Task};
use crate::types::{Event, GatewayId};
use crate::wire::{ExchangeType, Notify, Payload};

/// The INFORMATIONAL request with REDIRECT.
pub(super) fn build(core: &mut Core, to: &GatewayId) -> Request {
    core.step("redirect", format!("to {to}"));
    //= rfc5685#section-5
    //# The gateway MUST NOT include any nonce data in the REDIRECT payload, since it is a gateway- initiated redirect and is protected by the IKEv2 security association.
    Request {
        exchange: ExchangeType::INFORMATIONAL,
        payloads: vec![Payload::Notify(to.redirect(&[]))],
        task: Task::Redirect,
    }
}

/// The client knows. It has some time for the other gateway and for its DELETE.
pub(super) fn process(core: &mut Core, now: Instant) {
    //= rfc5685#section-5
    //# The gateway MAY also decide to delete the security associations without any signaling from the client, again by sending an INFORMATIONAL message with a DELETE payload; however, it should allow sufficient time for the client to set up the required security associations with the new security gateway.
    core.redirected_until = Some(now + core.context.timing.redirected);
}

/// Takes the gateway's REDIRECT.
pub(in crate::established) fn handle(core: &mut Core, notify: &Notify) {
    match GatewayId::of_redirect(notify) {
        Some((to, [])) if core.caller => core.event(Event::Redirected { to }),
        Some(_) | None => core.warn("a REDIRECT that this side does not follow".to_owned()),
    }
}
