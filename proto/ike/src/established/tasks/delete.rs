//! Deleting child SAs and IKE SAs (RFC 7296 section 1.4.1).

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::super::Core;
use super::super::children::State;
use super::super::link::LinkId;
use super::{Request, Task};
use crate::types::{ChildEnd, CloseReason};
use crate::wire::{ExchangeType, Payload, ProtocolId};

/// How long a replaced child still takes packets after both sides deleted it: those that are on the way.
pub(in crate::established) const LEAVING: Duration = Duration::from_secs(3);

/// Children that may take late packets at the same time, where it is the peer who deletes: one that rekeys without
/// end waits for none.
const MAX_LEAVING: usize = 4;

/// Deletes remembered for children that we do not know yet.
pub(in crate::established) const MAX_EARLY_DELETES: usize = 32;

/// A DELETE for a child SA under way.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(in crate::established) struct DeleteChildren {
    spi_in: u32,
    end: ChildEnd,
    /// Only the peer has it.
    stray: bool,
}

fn request(protocol: ProtocolId, spis: Vec<u32>, task: Task) -> Request {
    Request {
        exchange: ExchangeType::INFORMATIONAL,
        payloads: vec![Payload::Delete { protocol, spis }],
        task,
    }
}

/// The DELETE for a child that is still there.
pub(super) fn build_child(core: &mut Core, _now: Instant, spi_in: u32, end: ChildEnd) -> Option<Request> {
    let child = core.children.by_in_mut(spi_in)?;
    if child.state == State::Deleting {
        return None;
    }
    child.state = State::Deleting;
    let stray = false;
    let task = Task::DeleteChildren(DeleteChildren { spi_in, end, stray });
    //= rfc7296#section-1.4.1
    //# To delete an SA, an INFORMATIONAL exchange with one or more Delete payloads is sent listing the SPIs (as they would be expected in the headers of inbound packets) of the SAs to be deleted.
    Some(request(ProtocolId::ESP, vec![spi_in], task))
}

/// The DELETE for a child that only the peer has.
pub(super) fn build_stray(spi_in: u32) -> Request {
    let task = Task::DeleteChildren(DeleteChildren {
        spi_in,
        end: ChildEnd::Failed,
        stray: true,
    });
    request(ProtocolId::ESP, vec![spi_in], task)
}

/// The DELETE for the IKE SA that carries it.
pub(in crate::established) fn build_ike() -> Request {
    request(ProtocolId::IKE, Vec::new(), Task::DeleteIke)
}

impl DeleteChildren {
    /// Takes the response: whatever it lists, our side of the child closes.
    pub(super) fn process(self, core: &mut Core, now: Instant) {
        if self.stray {
            return core.context.spis.release_esp(self.spi_in);
        }
        let Some(child) = core.children.by_in_mut(self.spi_in) else {
            return;
        };
        if self.end == ChildEnd::Rekeyed {
            child.state = State::Leaving;
            child.until = Some(now + LEAVING);
        } else {
            core.drop_child(self.spi_in, self.end);
        }
    }
}

/// Takes the response to the DELETE of a link.
pub(super) fn process_ike(core: &mut Core, _now: Instant, link: LinkId) {
    if link == core.current.id {
        let reason = core.closing.clone().unwrap_or(CloseReason::Requested);
        core.close(reason);
    } else {
        core.drop_link(link);
    }
}

/// Answers the peer's DELETE for child SAs: returns the inbound SPIs that go into the response.
pub(in crate::established) fn handle(core: &mut Core, now: Instant, spis: &[u32]) -> Vec<u32> {
    let mut ours = Vec::new();
    for spi_out in spis {
        let Some(child) = core.children.by_out(*spi_out) else {
            // Unknown, deleted before, or made by the response that we are waiting for.
            core.note_early_delete(*spi_out);
            continue;
        };
        let (spi_in, state) = (child.sa.spi_in, child.state);
        let end = child.end(core.end_of_delete(spi_in).unwrap_or(ChildEnd::DeletedByPeer));
        //= rfc7296#section-2.25.1
        //# If a peer receives a request to close a Child SA that it is currently trying to close, it SHOULD reply without a Delete payload (see Section 1.4.1).
        if state != State::Deleting {
            //= rfc7296#section-1.4.1
            //# Normally, the response in the INFORMATIONAL exchange will contain Delete payloads for the paired SAs going in the other direction.
            ours.push(spi_in);
        }
        //= rfc7296#section-1.4.1
        //# The recipient MUST close the designated SAs.
        if state == State::Replaced && core.children.leaving() < MAX_LEAVING {
            // What we send is closed; what the peer had sent before is still on its way.
            core.leave_child(now, spi_in);
        } else {
            core.drop_child(spi_in, end);
        }
    }
    ours
}

impl DeleteChildren {
    /// Why the child ends, if this is its DELETE.
    pub(in crate::established) fn end_of(&self, spi_in: u32) -> Option<ChildEnd> {
        (self.spi_in == spi_in && !self.stray).then_some(self.end)
    }
}
