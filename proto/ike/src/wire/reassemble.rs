//! Putting fragments together (RFC 7383 section 2.6).
//!
//! One [`Reassembler`] serves one direction of an IKE SA, whose window is one message. It is given only fragments whose
//! ICV was right, so nobody but the peer can fill it.

use std::time::{Duration, Instant};

use super::limits;
use super::numbers::PayloadType;
use super::protect::Fragment;

/// How long the fragments of a message are kept after the first of them.
pub const REASSEMBLY_TIME: Duration = Duration::from_secs(30);

/// Fragments of one message.
#[derive(Debug, Default)]
pub struct Reassembler {
    queue: Option<Queue>,
}

#[derive(Debug)]
struct Queue {
    message_id: u32,
    since: Instant,
    first: PayloadType,
    octets: usize,
    have: u16,
    parts: Vec<Option<Vec<u8>>>,
}

/// What a fragment did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Progress {
    /// More fragments are needed.
    Waiting {
        /// Fragments that are there.
        have: u16,
        /// Fragments of the message.
        total: u16,
    },
    /// The message is complete.
    Complete {
        /// Type of the first payload.
        first: PayloadType,
        /// The payloads, to be read by [`decode_payloads`](super::decode_payloads).
        plaintext: Vec<u8>,
    },
    /// The fragment was dropped.
    Ignored(Ignored),
}

/// Why a fragment was dropped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ignored {
    /// The same fragment is there already.
    Duplicate,
    /// The message has been split into more fragments since.
    OlderSet,
    /// Number or total are not legal.
    Number,
    /// The message would exceed [`limits::MESSAGE_OCTETS`]; everything of it is forgotten.
    TooLong,
}

impl Reassembler {
    /// An empty one.
    pub const fn new() -> Self {
        Self { queue: None }
    }

    /// When [`expire`](Self::expire) has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        self.queue.as_ref().map(|queue| queue.since + REASSEMBLY_TIME)
    }

    /// Forgets a message that was not completed in time; true if there was one.
    pub fn expire(&mut self, now: Instant) -> bool {
        let due = self.deadline().is_some_and(|deadline| deadline <= now);
        if due {
            self.queue = None;
        }
        due
    }

    /// Forgets whatever is there.
    pub fn clear(&mut self) {
        self.queue = None;
    }

    /// Octets held.
    pub fn octets(&self) -> usize {
        self.queue.as_ref().map_or(0, |queue| queue.octets)
    }

    /// Adds a fragment of the message `message_id`. A fragment of another message starts anew: the caller has checked
    /// that the message ID is the one it waits for.
    pub fn add(&mut self, now: Instant, message_id: u32, fragment: Fragment) -> Progress {
        self.expire(now);
        let Fragment {
            number,
            total,
            first,
            plaintext,
        } = fragment;
        if number == 0 || number > total || total > limits::FRAGMENTS {
            return Progress::Ignored(Ignored::Number);
        }
        let mut queue = match self.queue.take() {
            Some(queue) if queue.message_id == message_id => {
                let known = u16::try_from(queue.parts.len()).unwrap_or(u16::MAX);
                if total < known {
                    self.queue = Some(queue);
                    return Progress::Ignored(Ignored::OlderSet);
                }
                //= rfc7383#section-2.6
                //# If reassembling is not finished yet and the Total Fragments field in the received fragment is greater than the Total Fragments field in those fragments that are in the reassembling queue, the receiver MUST discard all received fragments and start the reassembly process over with just the received IKE Fragment message.
                if total > known {
                    Queue::new(now, message_id, total)
                } else {
                    queue
                }
            }
            _ => Queue::new(now, message_id, total),
        };
        let Some(slot) = queue
            .parts
            .get_mut(usize::from(number) - 1)
            .filter(|slot| slot.is_none())
        else {
            //= rfc7383#section-2.6
            //# If an IKE Fragment message with the same Message ID, Fragment Number, and Total Fragments fields is already present in the reassembling queue, this message is considered a replay and MUST be silently discarded.
            self.queue = Some(queue);
            return Progress::Ignored(Ignored::Duplicate);
        };
        let octets = queue.octets + plaintext.len();
        if octets > limits::MESSAGE_OCTETS {
            return Progress::Ignored(Ignored::TooLong);
        }
        *slot = Some(plaintext);
        queue.octets = octets;
        queue.have += 1;
        if number == 1 {
            queue.first = first;
        }
        if queue.have < total {
            let have = queue.have;
            self.queue = Some(queue);
            return Progress::Waiting { have, total };
        }
        let mut plaintext = Vec::with_capacity(octets);
        for part in queue.parts.into_iter().flatten() {
            plaintext.extend_from_slice(&part);
        }
        Progress::Complete {
            first: queue.first,
            plaintext,
        }
    }
}

impl Queue {
    fn new(since: Instant, message_id: u32, total: u16) -> Self {
        Self {
            message_id,
            since,
            first: PayloadType::NONE,
            octets: 0,
            have: 0,
            parts: vec![None; total.into()],
        }
    }
}
