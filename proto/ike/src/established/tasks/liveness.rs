//! Signs of life, and word of requests that do not fit the window: INFORMATIONAL requests whose responses need no handling.

use super::super::Core;
use super::{Request, Task};
use crate::wire::{ExchangeType, Notify, NotifyType, Payload};

/// An empty INFORMATIONAL request.
pub(in crate::established) fn build(core: &mut Core) -> Request {
    core.counters.liveness_checks += 1;
    //= rfc7296#section-2.4
    //# To check whether the other side is alive, IKE specifies an empty INFORMATIONAL request that (like all IKE requests) requires an acknowledgement (note that within the context of an IKE SA, an "empty" message consists of an IKE header followed by an Encrypted payload that contains no payloads).
    Request {
        exchange: ExchangeType::INFORMATIONAL,
        payloads: Vec::new(),
        task: Task::Liveness,
    }
}

/// INVALID_MESSAGE_ID about a request that we did not answer.
pub(super) fn build_report(message_id: u32) -> Request {
    //= rfc7296#section-2.3
    //# Instead, inform the other side by initiating an INFORMATIONAL exchange with Notification Data containing the four-octet invalid Message ID.
    let data = message_id.to_be_bytes().to_vec();
    Request {
        exchange: ExchangeType::INFORMATIONAL,
        payloads: vec![Payload::Notify(Notify::with_data(
            NotifyType::INVALID_MESSAGE_ID,
            data,
        ))],
        task: Task::Report,
    }
}
