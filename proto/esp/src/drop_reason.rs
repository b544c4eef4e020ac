//! Every reason for which a packet is dropped between the network and the inner networks, and their counters.
//!
//! A drop is counted and never logged per packet, so the name of a reason must tell an operator what to look for.

use std::fmt;

macro_rules! drop_reasons {
    ($($(#[$doc:meta])+ $variant:ident = $name:literal,)+) => {
        /// Why a packet was dropped. The workers of the data plane use the same list for their own reasons.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum DropReason { $($(#[$doc])+ $variant,)+ }

        impl DropReason {
            /// Every reason, in the order of [`DropReason::index`].
            pub const ALL: &'static [DropReason] = &[$(DropReason::$variant,)+];
            /// How many reasons there are.
            pub const COUNT: usize = Self::ALL.len();

            /// The reason's name in metrics: lower case, words joined by underscores.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(DropReason::$variant => $name,)+ }
            }
        }
    };
}

drop_reasons! {
    // Inbound, before the integrity check: anybody can cause these.
    /// Too short for an ESP packet of the SA's suite.
    TooShort = "too_short",
    /// The ciphertext is no multiple of the cipher's block, or of 4 octets.
    Misaligned = "misaligned",
    /// No SA has this SPI.
    UnknownSpi = "unknown_spi",
    /// Sequence number zero.
    SequenceZero = "sequence_zero",
    /// Older than the replay window.
    ReplayOld = "replay_old",
    /// Received before.
    ReplayDuplicate = "replay_duplicate",
    /// The integrity check failed.
    NotAuthentic = "not_authentic",
    // Inbound, after the integrity check: the peer caused these.
    /// The pad length exceeds the payload.
    PadLength = "pad_length",
    /// The padding is not 1, 2, 3, ....
    PadContent = "pad_content",
    /// A dummy packet (next header 59): no error.
    Dummy = "dummy",
    /// A next header that tunnel mode does not carry.
    NextHeader = "next_header",
    /// The payload is not the IP packet that the next header announces.
    InnerMalformed = "inner_malformed",
    /// The inner packet does not belong to the SA's selectors (RFC 4301 section 5.2).
    SelectorMismatch = "selector_mismatch",
    /// Congestion experienced on the way of a packet whose ends know no ECN (RFC 6040 section 4.2).
    EcnIllegal = "ecn_illegal",
    // Outbound.
    /// No octets are left before the packet for header and IV.
    HeadRoom = "head_room",
    /// No octets are left after the packet for padding and ICV.
    TailRoom = "tail_room",
    /// The packet exceeds what an IP datagram can carry.
    TooLong = "too_long",
    /// The durable reservation of sequence numbers is used up; more has been asked for.
    SequenceCeiling = "sequence_ceiling",
    /// The SA has no sequence numbers left.
    SequenceExhausted = "sequence_exhausted",
    /// The cipher refused the packet.
    Cipher = "cipher",
    // Data plane.
    /// No SA carries packets to this destination.
    NoSa = "no_sa",
    /// The SA's lifetime in octets or packets is over.
    Expired = "expired",
    /// A fragment of an inner packet that is malicious, or does not follow its first on an SA with ports (RFC 4301 section 7).
    Fragment = "fragment",
    /// Larger than the path and not to be fragmented.
    PathMtu = "path_mtu",
    /// A datagram of 0 or 1 octets that is no keep-alive, or another runt.
    Runt = "runt",
    /// A wrong checksum or length in the outer headers, where no socket looks at them.
    OuterMalformed = "outer_malformed",
    /// A queue between workers was full.
    QueueFull = "queue_full",
    /// The socket took no more.
    SocketFull = "socket_full",
    /// The system refused to send.
    SendFailed = "send_failed",
    /// The tunnel device took no more.
    DeviceFull = "device_full",
    /// The tunnel device refused the packet.
    DeviceFailed = "device_failed",
    /// An inner packet that is no IP packet, read from the tunnel device.
    NotIp = "not_ip",
    /// A packet of one SA's peer arrived on a worker or in a domain that is not the SA's.
    WrongOwner = "wrong_owner",
    /// The node's permission to carry packets is over: another node of the cluster may own the SA.
    NotOwner = "not_owner",
    /// Above the tenant's rate.
    TenantRate = "tenant_rate",
    /// Above the session's rate.
    SessionRate = "session_rate",
    /// More arrived than the worker can carry, and the tenant or the session asked for more than its share.
    Overload = "overload",
    /// A packet forwarded from another node of the cluster, malformed or with a wrong authenticator.
    BadForward = "bad_forward",
}

impl DropReason {
    /// Its position in [`DropReason::ALL`] and in [`DropCounters`].
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Whether the packet had passed the integrity check: its peer is alive and the window has moved.
    #[must_use]
    pub const fn is_authentic(self) -> bool {
        matches!(
            self,
            Self::PadLength
                | Self::PadContent
                | Self::Dummy
                | Self::NextHeader
                | Self::InnerMalformed
                | Self::SelectorMismatch
                | Self::EcnIllegal
        )
    }
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl std::error::Error for DropReason {}

/// A count for each [`DropReason`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DropCounters([u64; DropReason::COUNT]);

impl Default for DropCounters {
    fn default() -> Self {
        Self([0; DropReason::COUNT])
    }
}

impl DropCounters {
    /// Counts one packet.
    pub fn count(&mut self, reason: DropReason) {
        self.add(reason, 1);
    }

    /// Counts several packets.
    pub fn add(&mut self, reason: DropReason, packets: u64) {
        if let Some(counter) = self.0.get_mut(reason.index()) {
            *counter = counter.saturating_add(packets);
        }
    }

    /// Packets dropped for one reason.
    #[must_use]
    pub fn get(&self, reason: DropReason) -> u64 {
        self.0.get(reason.index()).copied().unwrap_or(0)
    }

    /// Packets dropped for any reason.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().fold(0, |sum, n| sum.saturating_add(*n))
    }

    /// Every reason with its count.
    pub fn iter(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        DropReason::ALL.iter().copied().zip(self.0.iter().copied())
    }

    /// Adds another table to this one.
    pub fn merge(&mut self, other: &Self) {
        for (reason, packets) in other.iter() {
            self.add(reason, packets);
        }
    }
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_reason_has_its_own_index_and_name() {
        let names: HashSet<&str> = DropReason::ALL.iter().map(|r| r.name()).collect();
        assert_eq!(names.len(), DropReason::COUNT);
        for (i, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(reason.index(), i);
            assert!(
                reason.name().chars().all(|c| c.is_ascii_lowercase() || c == '_'),
                "{reason}"
            );
        }
    }

    #[test]
    fn counters_add_up() {
        let mut a = DropCounters::default();
        for (i, reason) in DropReason::ALL.iter().enumerate() {
            a.add(*reason, i as u64);
        }
        let mut b = a.clone();
        b.merge(&a);
        b.count(DropReason::Dummy);
        let n = DropReason::COUNT as u64;
        assert_eq!(b.total(), n * (n - 1) + 1);
        assert_eq!(b.get(DropReason::Dummy), 2 * DropReason::Dummy.index() as u64 + 1);
        b.add(DropReason::Dummy, u64::MAX);
        assert_eq!((b.get(DropReason::Dummy), b.total()), (u64::MAX, u64::MAX));
    }
}
