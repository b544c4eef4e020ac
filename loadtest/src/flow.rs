//! Follows one flow of numbered packets that somebody echoes: what is lost, doubled, reordered, and every silence.
//! Performs no I/O and knows no clock: times are microseconds since the beginning of the run.
//!
//! ```
//! use loadtest::flow::{Flow, Verdict};
//! let mut flow = Flow::new(50_000, 60_000);
//! let first = flow.sent(0);
//! assert_eq!(flow.received(2_000, first), Verdict::Counted { round_trip: 2_000 });
//! let second = flow.sent(50_000);
//! assert_eq!(flow.received(352_000, second), Verdict::Counted { round_trip: 302_000 });
//! assert_eq!(flow.silences()[0].length(), 350_000);
//! ```
//! A packet without an answer after [`LATE`] is lost; an answer that comes later still is counted as late. Lists are
//! bounded; what does not fit is counted.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

/// Microseconds after which an unanswered packet is lost.
pub const LATE: u64 = 5_000_000;
/// Packets under way at once; more than that make the oldest lost.
const MAX_PENDING: usize = 65_536;
/// Silences that one flow keeps: the longest ones.
pub const MAX_SILENCES: usize = 2048;
/// Runs of lost packets that one flow keeps; later ones are joined to the last.
pub const MAX_LOSSES: usize = 2048;

/// A time without any answer, in microseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Silence {
    /// The last answer before it.
    pub from: u64,
    /// The first answer after it, or the end of the run.
    pub to: u64,
}

impl Silence {
    /// Its length in microseconds.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.to.saturating_sub(self.from)
    }
}

/// Lost packets that follow each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Loss {
    /// When the first was sent (microseconds).
    pub from: u64,
    /// When the last was sent.
    pub to: u64,
    /// How many.
    pub packets: u64,
}

/// What one flow has counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Tally {
    /// Packets sent, or that would have been had there been a tunnel.
    pub sent: u64,
    /// Of those: there was no tunnel for them.
    pub unsent: u64,
    /// Answered in time.
    pub received: u64,
    /// Not answered in time.
    pub lost: u64,
    /// Further answers to one packet.
    pub duplicated: u64,
    /// Answers that a later one had overtaken.
    pub reordered: u64,
    /// Answers after the packet was given up.
    pub late: u64,
    /// Packets that are no answer: changed, another user's, or something else.
    pub damaged: u64,
    /// Silences that were not kept, because longer ones filled the list.
    pub silences_dropped: u64,
}

/// What a received number was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// An answer that counts, after so many microseconds.
    Counted {
        /// From sending to receiving.
        round_trip: u64,
    },
    /// Had been answered.
    Duplicate,
    /// Had been given up.
    Late,
    /// Was never sent.
    Unknown,
}

#[derive(Clone, Copy, Debug)]
struct Pending {
    sent: u64,
    answered: bool,
}

/// One flow.
#[derive(Debug)]
pub struct Flow {
    interval: u64,
    threshold: u64,
    /// Packets `base..base + pending.len()`.
    pending: VecDeque<Pending>,
    base: u64,
    highest: Option<u64>,
    /// The last answer, or the first packet before any.
    last: Option<u64>,
    started: Option<u64>,
    stopped: Option<u64>,
    tally: Tally,
    silences: Vec<Silence>,
    losses: Vec<Loss>,
    /// Number of the last packet that was lost.
    last_lost: Option<u64>,
}

impl Flow {
    /// A flow with a packet each `interval` microseconds; longer times than `threshold` without an answer are silences.
    #[must_use]
    pub fn new(interval: u64, threshold: u64) -> Self {
        Self {
            interval,
            threshold: threshold.max(interval),
            pending: VecDeque::new(),
            base: 0,
            highest: None,
            last: None,
            started: None,
            stopped: None,
            tally: Tally::default(),
            silences: Vec::new(),
            losses: Vec::new(),
            last_lost: None,
        }
    }

    /// A packet leaves; gives its number.
    pub fn sent(&mut self, at: u64) -> u64 {
        self.settle(at);
        if self.pending.len() >= MAX_PENDING {
            self.give_up_oldest();
        }
        let number = self.base + self.pending.len() as u64;
        self.pending.push_back(Pending {
            sent: at,
            answered: false,
        });
        self.tally.sent += 1;
        self.started.get_or_insert(at);
        self.last.get_or_insert(at);
        number
    }

    /// The packet that was just counted as sent could not leave.
    pub fn unsent(&mut self) {
        self.tally.unsent += 1;
    }

    /// Something came that is no answer.
    pub fn damaged(&mut self) {
        self.tally.damaged += 1;
    }

    /// An answer came.
    pub fn received(&mut self, at: u64, number: u64) -> Verdict {
        let Some(place) = number.checked_sub(self.base) else {
            self.tally.late += 1;
            return Verdict::Late;
        };
        let place = usize::try_from(place).unwrap_or(usize::MAX);
        let Some(pending) = self.pending.get_mut(place) else {
            self.tally.damaged += 1;
            return Verdict::Unknown;
        };
        if pending.answered {
            self.tally.duplicated += 1;
            return Verdict::Duplicate;
        }
        pending.answered = true;
        let round_trip = at.saturating_sub(pending.sent);
        self.tally.received += 1;
        if self.highest.is_some_and(|highest| number < highest) {
            self.tally.reordered += 1;
        }
        self.highest = self.highest.max(Some(number));
        let silence = Silence {
            from: self.last.unwrap_or(at),
            to: at,
        };
        self.last = Some(at);
        self.note(silence);
        Verdict::Counted { round_trip }
    }

    /// No more packets are sent; a silence lasts until here at most.
    pub fn stop(&mut self, at: u64) {
        self.stopped.get_or_insert(at);
    }

    /// Gives up all that is unanswered, at the end of the run.
    pub fn close(&mut self, at: u64) {
        self.stop(at);
        if let Some(silence) = self.open_silence(at) {
            self.note(silence);
            self.last = self.last.max(self.stopped);
        }
        while !self.pending.is_empty() {
            self.give_up_oldest();
        }
    }

    /// Gives up what is unanswered for too long.
    pub fn settle(&mut self, at: u64) {
        while self
            .pending
            .front()
            .is_some_and(|oldest| oldest.sent.saturating_add(LATE) <= at)
        {
            self.give_up_oldest();
        }
    }

    /// The time since the last answer, whatever its length; None before the first packet and after the end.
    #[must_use]
    pub fn open_silence(&self, at: u64) -> Option<Silence> {
        let silence = Silence {
            from: self.last?,
            to: self.stopped.unwrap_or(at).min(at),
        };
        (silence.to > silence.from).then_some(silence)
    }

    /// What was counted.
    #[must_use]
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// The silences that have ended, oldest first unless the list had to make room.
    #[must_use]
    pub fn silences(&self) -> &[Silence] {
        &self.silences
    }

    /// The losses, oldest first.
    #[must_use]
    pub fn losses(&self) -> &[Loss] {
        &self.losses
    }

    /// When the first packet left, and when the last one might have.
    #[must_use]
    pub fn span(&self) -> Option<(u64, Option<u64>)> {
        Some((self.started?, self.stopped))
    }

    /// Microseconds from packet to packet.
    #[must_use]
    pub fn interval(&self) -> u64 {
        self.interval
    }

    /// Longer times without an answer are silences (microseconds).
    #[must_use]
    pub fn threshold(&self) -> u64 {
        self.threshold
    }

    /// The number that the next packet will have.
    #[must_use]
    pub fn next_number(&self) -> u64 {
        self.base + self.pending.len() as u64
    }

    fn note(&mut self, silence: Silence) {
        if silence.length() <= self.threshold {
            return;
        }
        if self.silences.len() < MAX_SILENCES {
            self.silences.push(silence);
            return;
        }
        self.tally.silences_dropped += 1;
        if let Some(shortest) = self.silences.iter_mut().min_by_key(|known| known.length())
            && shortest.length() < silence.length()
        {
            *shortest = silence;
        }
    }

    fn give_up_oldest(&mut self) {
        let Some(oldest) = self.pending.pop_front() else {
            return;
        };
        let number = self.base;
        self.base += 1;
        if oldest.answered {
            return;
        }
        self.tally.lost += 1;
        let adjacent = number > 0 && self.last_lost == Some(number - 1);
        let full = self.losses.len() >= MAX_LOSSES;
        self.last_lost = Some(number);
        match self.losses.last_mut().filter(|_| adjacent || full) {
            Some(run) => {
                run.to = oldest.sent;
                run.packets += 1;
            }
            None => self.losses.push(Loss {
                from: oldest.sent,
                to: oldest.sent,
                packets: 1,
            }),
        }
    }
}

#[cfg(test)]
#[path = "flow_tests.rs"]
mod tests;
