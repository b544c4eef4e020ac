//! A link that misbehaves on purpose, for tests and load tests: delay, jitter, loss, duplication, reordering, a rate, a
//! queue and an MTU. Sans-IO: it is given the time and the packets, and gives packets back when they are due. The same
//! seed gives the same misbehaviour.
//!
//! ```
//! # use std::time::{Duration, Instant};
//! use netem::{Link, Profile};
//! let now = Instant::now();
//! let mut link = Link::new(Profile { delay: Duration::from_millis(20), ..Profile::default() }, 7)?;
//! link.send(now, 100, "packet");
//! assert_eq!(link.poll(now), None);
//! assert_eq!(link.deadline(), Some(now + Duration::from_millis(20)));
//! assert_eq!(link.poll(now + Duration::from_millis(20)), Some("packet"));
//! # Ok::<(), netem::ProfileError>(())
//! ```
#![deny(clippy::indexing_slicing, missing_docs)]

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

/// How a link behaves in one direction. The default is perfect.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Profile {
    /// Time that every packet takes.
    pub delay: Duration,
    /// Up to this much more, uniformly; packets keep their order.
    pub jitter: Duration,
    /// Probability that a packet is lost, 0..=1.
    pub loss: f64,
    /// Probability that a packet arrives twice.
    pub duplicate: f64,
    /// Probability that a packet is held back by `reorder_by`, so that later ones overtake it.
    pub reorder: f64,
    /// How long such a packet is held back.
    pub reorder_by: Duration,
    /// Octets a second; 0 for no limit.
    pub rate: u64,
    /// Packets under way at once; what comes on top is dropped.
    pub queue: usize,
    /// Largest packet in octets; larger ones are dropped.
    pub mtu: usize,
}

impl Default for Profile {
    fn default() -> Self {
        Self {
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            loss: 0.0,
            duplicate: 0.0,
            reorder: 0.0,
            reorder_by: Duration::from_millis(10),
            rate: 0,
            queue: 10_000,
            mtu: 65_535,
        }
    }
}

/// A profile that no link can have.
#[derive(Clone, Copy, PartialEq, Debug, thiserror::Error)]
pub enum ProfileError {
    /// Not between 0 and 1.
    #[error("{name} is {value}, not a probability")]
    Probability {
        /// Which field.
        name: &'static str,
        /// Its value.
        value: f64,
    },
}

/// What became of a packet that was sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// It will arrive.
    Queued,
    /// It will arrive twice.
    Duplicated,
    /// It was lost.
    Lost,
    /// It was larger than the MTU.
    TooLarge,
    /// The queue was full.
    QueueFull,
}

/// Packets counted by their fate.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Handed in.
    pub sent: u64,
    /// Handed out, duplicates included.
    pub delivered: u64,
    /// Lost by chance.
    pub lost: u64,
    /// Made twice.
    pub duplicated: u64,
    /// Held back.
    pub reordered: u64,
    /// Dropped for their size.
    pub too_large: u64,
    /// Dropped for want of room.
    pub queue_full: u64,
}

/// One direction of a link that carries packets of type `T`.
#[derive(Debug)]
pub struct Link<T> {
    profile: Profile,
    random: u64,
    under_way: BinaryHeap<Packet<T>>,
    sequence: u64,
    /// When the wire is free again (rate), and when the last packet in order arrives.
    free_at: Option<Instant>,
    last_due: Option<Instant>,
    counters: Counters,
}

#[derive(Debug)]
struct Packet<T> {
    due: Instant,
    sequence: u64,
    item: T,
}

impl<T> PartialEq for Packet<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl<T> Eq for Packet<T> {}

impl<T> PartialOrd for Packet<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Packet<T> {
    /// The heap gives its greatest first, which is to be the earliest.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.due, other.sequence).cmp(&(self.due, self.sequence))
    }
}

impl<T: Clone> Link<T> {
    /// A link with nothing under way.
    ///
    /// # Errors
    /// [`ProfileError`] if a probability is none.
    pub fn new(profile: Profile, seed: u64) -> Result<Self, ProfileError> {
        for (name, value) in [
            ("loss", profile.loss),
            ("duplicate", profile.duplicate),
            ("reorder", profile.reorder),
        ] {
            if !(0.0..=1.0).contains(&value) {
                return Err(ProfileError::Probability { name, value });
            }
        }
        Ok(Self {
            profile,
            random: seed,
            under_way: BinaryHeap::new(),
            sequence: 0,
            free_at: None,
            last_due: None,
            counters: Counters::default(),
        })
    }

    /// Hands in a packet of `octets` octets.
    pub fn send(&mut self, now: Instant, octets: usize, item: T) -> Fate {
        self.counters.sent += 1;
        if octets > self.profile.mtu {
            self.counters.too_large += 1;
            return Fate::TooLarge;
        }
        // One draw for each decision whatever the others were: a change of one probability leaves the others' draws.
        let (lost, twice, held) = (
            self.chance(self.profile.loss),
            self.chance(self.profile.duplicate),
            self.chance(self.profile.reorder),
        );
        let jitter = self.profile.jitter.mul_f64(self.uniform());
        if lost {
            self.counters.lost += 1;
            return Fate::Lost;
        }
        if self.under_way.len() >= self.profile.queue {
            self.counters.queue_full += 1;
            return Fate::QueueFull;
        }
        let on_wire = match self.profile.rate {
            0 => now,
            rate => {
                let time = Duration::from_secs_f64(octets as f64 / rate as f64);
                let done = self.free_at.map_or(now, |free| free.max(now)) + time;
                self.free_at = Some(done);
                done
            }
        };
        let mut due = on_wire + self.profile.delay + jitter;
        if held {
            self.counters.reordered += 1;
            due += self.profile.reorder_by;
        } else {
            due = self.last_due.map_or(due, |last| last.max(due));
            self.last_due = Some(due);
        }
        if twice {
            self.counters.duplicated += 1;
            self.push(due, item.clone());
        }
        self.push(due, item);
        if twice { Fate::Duplicated } else { Fate::Queued }
    }

    /// The next packet that is due.
    pub fn poll(&mut self, now: Instant) -> Option<T> {
        if self.under_way.peek()?.due > now {
            return None;
        }
        self.counters.delivered += 1;
        self.under_way.pop().map(|packet| packet.item)
    }

    /// When the next packet is due.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.under_way.peek().map(|packet| packet.due)
    }

    /// Packets under way.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.under_way.len()
    }

    /// What happened so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Changes the behaviour for packets yet to be sent.
    ///
    /// # Errors
    /// [`ProfileError`] if a probability is none; then nothing changes.
    pub fn set_profile(&mut self, profile: Profile) -> Result<(), ProfileError> {
        self.profile = Self::new(profile, 0)?.profile;
        Ok(())
    }

    fn push(&mut self, due: Instant, item: T) {
        self.sequence += 1;
        self.under_way.push(Packet {
            due,
            sequence: self.sequence,
            item,
        });
    }

    fn chance(&mut self, probability: f64) -> bool {
        self.uniform() < probability
    }

    /// SplitMix64: 53 bits of it as a number below 1.
    fn uniform(&mut self) -> f64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        (z >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
