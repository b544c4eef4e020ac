//! Retransmission of the one request that an initiator has under way (RFC 7296 sections 2.1 and 2.4).

use std::time::Instant;

use crate::types::Timing;

/// A request that is sent until it is answered.
pub(crate) struct Resend {
    pub(crate) datagrams: Vec<Vec<u8>>,
    sent: u8,
    due: Instant,
}

/// What is to be done now.
pub(crate) enum Due {
    /// Nothing yet.
    Nothing,
    /// Send the datagrams again.
    Again,
    /// Enough.
    GiveUp,
}

impl Resend {
    /// A request that goes out now.
    pub(crate) fn new(now: Instant, timing: &Timing, datagrams: Vec<Vec<u8>>) -> Self {
        Self {
            datagrams,
            sent: 1,
            due: now + timing.retransmit_after(1),
        }
    }

    pub(crate) fn deadline(&self) -> Instant {
        self.due
    }

    /// Counts a transmission if one is due.
    pub(crate) fn poll(&mut self, now: Instant, timing: &Timing) -> Due {
        if now < self.due {
            return Due::Nothing;
        }
        if self.sent > timing.retransmit_tries {
            return Due::GiveUp;
        }
        self.sent += 1;
        self.due = now + timing.retransmit_after(self.sent);
        Due::Again
    }
}
