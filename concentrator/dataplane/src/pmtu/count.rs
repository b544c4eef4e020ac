//! What happens to paths and fragments, counted by kind.

macro_rules! path_events {
    ($($(#[$doc:meta])+ $variant:ident = $name:literal,)+) => {
        /// Something that happened about the size of packets.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(u8)]
        pub enum PathEvent { $($(#[$doc])+ $variant,)+ }

        impl PathEvent {
            /// Every kind.
            pub const ALL: &'static [PathEvent] = &[$(PathEvent::$variant,)+];
            /// How many kinds there are.
            pub const COUNT: usize = Self::ALL.len();

            /// Its name in metrics.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(PathEvent::$variant => $name,)+ }
            }
        }
    };
}

path_events! {
    /// The MTU of a path was lowered by a message of a router, or by our own first link.
    Learned = "learned",
    /// A message said what was known.
    Confirmed = "confirmed",
    /// What was learned was forgotten after its time.
    Aged = "aged",
    /// A message that is none, or that quotes too little to tell which packet it is about.
    Malformed = "ignored_malformed",
    /// A message about a packet of no SA here.
    Unknown = "ignored_unknown_spi",
    /// A message that quotes the SPI of an SA, but not a packet as it is sent: forged, or altered on the way.
    Forged = "ignored_forged",
    /// A message about a packet that was not sent, or too long ago.
    Stale = "ignored_stale",
    /// A message that says that a packet was too big for a link that it fits.
    Absurd = "ignored_absurd",
    /// An ICMP error sent to the sender of an inner packet.
    Answered = "icmp_sent",
    /// One that was not sent, for there were too many.
    Limited = "icmp_limited",
    /// An inner packet cut before encryption.
    CutInside = "cut_inside",
    /// An inner packet sent whole although it does not fit: what carries it is fragmented.
    CutOutside = "cut_outside",
    /// A later fragment that was let through an SA with ports, for its first one had been.
    FragmentPassed = "fragment_passed",
    /// A fragment refused because it was made to slip past checks.
    FragmentMalicious = "fragment_refused_malicious",
    /// A later fragment refused because its first one was not seen.
    FragmentUnknown = "fragment_refused_unknown",
    /// A fragment refused because it overlaps another of its packet.
    FragmentOverlaps = "fragment_refused_overlap",
    /// An ICMP error let through an SA for the packet that it quotes.
    ErrorPassed = "icmp_passed_by_quote",
}

/// A count for each [`PathEvent`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PathCounters([u64; PathEvent::COUNT]);

impl Default for PathCounters {
    fn default() -> Self {
        Self([0; PathEvent::COUNT])
    }
}

impl PathCounters {
    pub(crate) fn count(&mut self, event: PathEvent) {
        self.add(event, 1);
    }

    pub(crate) fn add(&mut self, event: PathEvent, times: u64) {
        if let Some(counter) = self.0.get_mut(event as usize) {
            *counter += times;
        }
    }

    /// How often it happened.
    #[must_use]
    pub fn get(&self, event: PathEvent) -> u64 {
        self.0.get(event as usize).copied().unwrap_or(0)
    }

    /// Every kind with its count.
    pub fn iter(&self) -> impl Iterator<Item = (PathEvent, u64)> + '_ {
        PathEvent::ALL.iter().copied().zip(self.0.iter().copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_own_name_and_place() {
        let mut names: Vec<_> = PathEvent::ALL.iter().map(|event| event.name()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), PathEvent::COUNT);
        let mut counters = PathCounters::default();
        for (times, event) in (0..).zip(PathEvent::ALL) {
            counters.add(*event, times);
        }
        let counted: Vec<_> = counters.iter().map(|(_, times)| times).collect();
        assert_eq!(counted, (0..PathEvent::COUNT as u64).collect::<Vec<_>>());
        assert_eq!(counters.get(PathEvent::Aged), PathEvent::Aged as u64);
    }
}
