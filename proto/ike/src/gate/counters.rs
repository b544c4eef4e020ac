//! What the gate counts.

/// Why a datagram was dropped.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum GateDrop {
    /// A source that cannot be answered, or our own address.
    Source,
    /// A NAT keep-alive of one octet (RFC 3948 section 2.3).
    Keepalive,
    /// Shorter than an IKE header.
    Short,
    /// IKEv1, which is not spoken here.
    IkeV1,
    /// Another major version that is not 2, and that got no answer.
    Version,
    /// The length in the header is not that of the datagram, or it is over the limit.
    Length,
    /// An SPI that is zero or not zero where it must not be.
    Spi,
    /// Flags that contradict the message.
    Flags,
    /// A message ID that cannot be.
    MessageId,
    /// A message after IKE_SA_INIT without an Encrypted payload.
    Unprotected,
    /// An IKE_SA_INIT request whose payloads cannot be read or are not enough.
    Malformed,
    /// Too many new IKE SAs from one address.
    SourceRate,
    /// An IKE SA that nobody knows, and that got no answer.
    UnknownSpi,
}

impl GateDrop {
    /// Every reason.
    pub const ALL: [Self; 13] = [
        Self::Source,
        Self::Keepalive,
        Self::Short,
        Self::IkeV1,
        Self::Version,
        Self::Length,
        Self::Spi,
        Self::Flags,
        Self::MessageId,
        Self::Unprotected,
        Self::Malformed,
        Self::SourceRate,
        Self::UnknownSpi,
    ];

    /// Number of reasons.
    pub const COUNT: usize = Self::ALL.len();

    /// Place in [`ALL`](Self::ALL) and in the counters.
    pub const fn index(self) -> usize {
        self as usize
    }

    /// The name that metrics use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Keepalive => "keepalive",
            Self::Short => "short",
            Self::IkeV1 => "ikev1",
            Self::Version => "version",
            Self::Length => "length",
            Self::Spi => "spi",
            Self::Flags => "flags",
            Self::MessageId => "message_id",
            Self::Unprotected => "unprotected",
            Self::Malformed => "malformed",
            Self::SourceRate => "source_rate",
            Self::UnknownSpi => "unknown_spi",
        }
    }
}

/// Totals since the gate was made.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct GateCounters {
    drops: [u64; GateDrop::COUNT],
    /// Datagrams for existing IKE SAs.
    pub existing: u64,
    /// Well-formed IKE_SA_INIT requests let through.
    pub initial: u64,
    /// Answers sent, cookies among them.
    pub replies: u64,
    /// Error answers not sent because too many were.
    pub replies_withheld: u64,
    /// Cookies sent.
    pub cookies_sent: u64,
    /// Requests with a right cookie.
    pub cookies_good: u64,
    /// Requests with a wrong or outdated cookie.
    pub cookies_bad: u64,
}

impl GateCounters {
    pub(super) fn drop(&mut self, reason: GateDrop) {
        if let Some(count) = self.drops.get_mut(reason.index()) {
            *count += 1;
        }
    }

    /// Datagrams dropped for a reason.
    pub fn dropped(&self, reason: GateDrop) -> u64 {
        self.drops.get(reason.index()).copied().unwrap_or(0)
    }

    /// Every reason with its count.
    pub fn drops(&self) -> impl Iterator<Item = (GateDrop, u64)> + '_ {
        GateDrop::ALL.into_iter().zip(self.drops.iter().copied())
    }
}
