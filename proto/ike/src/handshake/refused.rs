//! Refused: the failure is reported, the protected error answer stays at hand for retransmitted requests.

use std::time::Instant;

use super::{Base, Outbox, State, Step};
use crate::types::{CloseReason, Command, Input};

/// After a refused IKE_AUTH.
pub(crate) struct Refused {
    base: Base,
    /// The datagram that completed the refused request.
    request: Vec<u8>,
    /// Our answer.
    response: Vec<Vec<u8>>,
    until: Instant,
}

impl Refused {
    pub(crate) fn new(now: Instant, base: Base, request: Vec<u8>, response: Vec<Vec<u8>>) -> Self {
        let until = now + base.ctx.timing.linger;
        Self {
            base,
            request,
            response,
            until,
        }
    }
}

impl Step for Refused {
    fn handle(mut self: Box<Self>, now: Instant, input: Input, out: &mut Outbox) -> State {
        match input {
            //= rfc7296#section-2.1
            //# In that event, the responder MUST ignore the retransmitted
            //# request except insofar as it causes a retransmission of the response.
            Input::Datagram { bytes, .. } if self.request == bytes => {
                self.base.counters.retransmits_in += 1;
                self.base.send_all(out, &self.response, false);
                State::Refused(self)
            }
            Input::Timeout if now >= self.until => self.base.close(out, CloseReason::SetupFailed),
            Input::Command(Command::Close) => self.base.close(out, CloseReason::SetupFailed),
            Input::Datagram { .. } | Input::Timeout | Input::AuthResult { .. } | Input::Command(_) => {
                State::Refused(self)
            }
        }
    }

    fn deadline(&self) -> Option<(Instant, &'static str)> {
        Some((self.until, "linger"))
    }

    fn base(&self) -> &Base {
        &self.base
    }
}
