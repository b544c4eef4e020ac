//! Message IDs and retransmission of one IKE SA: a window of one request each way (RFC 7296 sections 2.1 to 2.3).
//!
//! ```text
//!  sending:    next_send ──► request (id) ── due ──► same octets again … ──► given up
//!                               └── response (id) ──► next request may go
//!  receiving:  id == next_recv      fresh: answered, answer kept, next_recv + 1
//!              id == next_recv - 1  again: the kept answer, octet by octet
//!              anything else        outside the window
//! ```

use std::time::{Duration, Instant};

use super::parts::CachedResponse;
use super::tasks::Task;
use crate::types::Timing;
use crate::wire::ExchangeType;

/// Message IDs above this make the IKE SA rekey (RFC 7296 section 2.2).
pub(super) const LAST_COMFORTABLE_ID: u32 = u32::MAX - 0xffff;

/// A request that waits for its response.
#[derive(Debug)]
pub(super) struct Pending {
    pub(super) id: u32,
    pub(super) exchange: ExchangeType,
    /// The same octets for every transmission.
    pub(super) datagrams: Vec<Vec<u8>>,
    /// Transmissions so far.
    pub(super) sent: u8,
    /// When to send again, or to give up.
    pub(super) due: Instant,
    /// What the response is for.
    pub(super) task: Task,
}

/// Where a request's message ID lies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Place {
    /// The next one.
    Fresh,
    /// The one that was answered last.
    Again,
    /// Older than that; its answer is forgotten.
    Old,
    /// Ahead of the window.
    Ahead,
}

/// What a request's deadline brings.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Send these again.
    Again(Vec<Vec<u8>>),
    /// The peer does not answer.
    GivenUp,
}

/// The state of both directions.
#[derive(Debug)]
pub(super) struct Window {
    pub(super) next_send: u32,
    pub(super) next_recv: u32,
    pub(super) pending: Option<Pending>,
    pub(super) answered: Option<CachedResponse>,
    /// Taken over from a node that may have answered more than we know: requests may be ahead of `next_recv`.
    pub(super) gap: bool,
    /// The highest EXPECTED_SEND_REQ_MESSAGE_ID of the peer's synchronizations (RFC 6311).
    pub(super) synced: Option<u32>,
}

impl Window {
    /// A window that goes on at these message IDs.
    pub(super) fn new(next_send: u32, next_recv: u32, answered: Option<CachedResponse>) -> Self {
        Self {
            next_send,
            next_recv,
            pending: None,
            answered,
            gap: false,
            synced: None,
        }
    }

    /// Judges the message ID of a request.
    pub(super) fn place(&self, id: u32) -> Place {
        if id == self.next_recv {
            Place::Fresh
        } else if id.checked_add(1) == Some(self.next_recv) {
            Place::Again
        } else if id < self.next_recv {
            Place::Old
        } else {
            Place::Ahead
        }
    }

    /// Keeps the answer to the request that was fresh; gives it back for sending.
    pub(super) fn answer(&mut self, datagrams: Vec<Vec<u8>>) {
        //= rfc7296#section-2.1
        //# The responder MUST remember each response until it receives a request whose sequence number is larger than or equal to the sequence number in the response plus its window size (see Section 2.3).
        self.answered = Some(CachedResponse {
            message_id: self.next_recv,
            datagrams,
        });
        self.next_recv = self.next_recv.saturating_add(1);
    }

    /// The kept answer to a request that came again.
    pub(super) fn repeat(&self, id: u32) -> Option<&CachedResponse> {
        self.answered
            .as_ref()
            .filter(|answered| answered.message_id == id)
    }

    /// Takes note of a request that is being sent for the first time, with the message ID `next_send`.
    pub(super) fn request(
        &mut self,
        now: Instant,
        timing: &Timing,
        exchange: ExchangeType,
        datagrams: Vec<Vec<u8>>,
        task: Task,
    ) {
        self.pending = Some(Pending {
            id: self.next_send,
            exchange,
            datagrams,
            sent: 1,
            due: now + timing.retransmit_after(1),
            task,
        });
        self.next_send = self.next_send.saturating_add(1);
    }

    /// Whether a response belongs to the request that waits.
    pub(super) fn expects(&self, id: u32, exchange: ExchangeType) -> bool {
        self.pending
            .as_ref()
            .is_some_and(|p| p.id == id && p.exchange == exchange)
    }

    /// What the deadline of the waiting request brings, if it has come.
    pub(super) fn expire(&mut self, now: Instant, timing: &Timing) -> Option<Due> {
        let pending = self.pending.as_mut().filter(|pending| pending.due <= now)?;
        if pending.sent > timing.retransmit_tries {
            return Some(Due::GivenUp);
        }
        //= rfc7296#section-2.4
        //# To be a good network citizen, retransmission times MUST increase exponentially to avoid flooding the network and making an existing congestion situation worse.
        pending.sent = pending.sent.saturating_add(1);
        pending.due = now
            + timing
                .retransmit_after(pending.sent)
                .max(Duration::from_millis(1));
        //= rfc7296#section-2.1
        //# A retransmission from the initiator MUST be bitwise identical to the original request.
        Some(Due::Again(pending.datagrams.clone()))
    }

    /// When [`expire`](Self::expire) has something to do.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.pending.as_ref().map(|pending| pending.due)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic, reason = "tests")]
mod tests {
    use super::*;

    fn waiting(now: Instant, timing: &Timing) -> Window {
        let mut window = Window::new(5, 9, None);
        window.request(
            now,
            timing,
            ExchangeType::INFORMATIONAL,
            vec![vec![1, 2]],
            Task::Liveness,
        );
        window
    }

    #[test]
    fn a_request_is_repeated_octet_by_octet_with_growing_waits_and_then_given_up() {
        //= rfc7296#section-2.1
        //= type=test
        //# A retransmission from the initiator MUST be bitwise identical to the original request.
        //= rfc7296#section-2.4
        //= type=test
        //# To be a good network citizen, retransmission times MUST increase exponentially to avoid flooding the network and making an existing congestion situation worse.
        let timing = Timing::default();
        let start = crate::established::tests::epoch();
        let mut window = waiting(start, &timing);
        let mut last = start;
        let mut wait = Duration::ZERO;
        for _ in 0..timing.retransmit_tries {
            let due = window.deadline().unwrap();
            assert!(due - last > wait);
            assert_eq!(window.expire(due - Duration::from_millis(1), &timing), None);
            assert_eq!(window.expire(due, &timing), Some(Due::Again(vec![vec![1, 2]])));
            (wait, last) = (due - last, due);
        }
        assert_eq!(
            window.expire(window.deadline().unwrap(), &timing),
            Some(Due::GivenUp)
        );
    }

    #[test]
    fn only_the_last_answer_is_kept_and_only_the_next_id_is_fresh() {
        //= rfc7296#section-2.1
        //= type=test
        //# The responder MUST remember each response until it receives a request whose sequence number is larger than or equal to the sequence number in the response plus its window size (see Section 2.3).
        let mut window = Window::new(0, 9, None);
        assert_eq!(window.place(9), Place::Fresh);
        assert_eq!(window.place(10), Place::Ahead);
        assert_eq!(window.place(8), Place::Again);
        assert_eq!(window.place(7), Place::Old);
        assert_eq!(window.repeat(8), None);
        window.answer(vec![vec![9]]);
        assert_eq!(window.repeat(9).unwrap().datagrams, vec![vec![9]]);
        window.answer(vec![vec![10]]);
        assert_eq!(window.repeat(9), None);
        assert_eq!(window.place(9), Place::Old);
    }

    #[test]
    fn a_response_belongs_to_its_request_by_id_and_exchange() {
        let timing = Timing::default();
        let window = waiting(crate::established::tests::epoch(), &timing);
        assert!(window.expects(5, ExchangeType::INFORMATIONAL));
        assert!(!window.expects(5, ExchangeType::CREATE_CHILD_SA));
        assert!(!window.expects(6, ExchangeType::INFORMATIONAL));
    }
}
