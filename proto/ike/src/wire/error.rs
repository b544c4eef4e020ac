//! What can be wrong with the octets of a message, each kind named, each knowing the notify that answers it.

use super::numbers::{NotifyType, PayloadType, ProtocolId};

/// Octets that are not a valid IKEv2 message.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DecodeError {
    /// A field reaches beyond the end of what contains it.
    #[error("{what}: {needed} octets needed, {left} left")]
    Truncated {
        /// The field.
        what: &'static str,
        /// Octets the field takes.
        needed: usize,
        /// Octets that were there.
        left: usize,
    },
    /// Octets remain after the last field of a structure.
    #[error("{what}: {left} octets too many")]
    TrailingOctets {
        /// The structure.
        what: &'static str,
        /// Octets left over.
        left: usize,
    },
    /// The length in the header is not that of the datagram.
    #[error("header says {stated} octets, the datagram has {actual}")]
    MessageLength {
        /// Octets by the header.
        stated: u32,
        /// Octets of the datagram.
        actual: usize,
    },
    /// More octets than [`limits::MESSAGE_OCTETS`](super::limits::MESSAGE_OCTETS).
    #[error("message of {0} octets is too long")]
    MessageTooLong(usize),
    /// The major version is not 2.
    #[error("major version {0}")]
    MajorVersion(u8),
    /// The initiator's SPI is zero.
    #[error("the initiator's SPI is zero")]
    ZeroInitiatorSpi,
    /// A payload length smaller than the generic payload header.
    #[error("{kind} payload of length {length}")]
    PayloadLength {
        /// The payload.
        kind: PayloadType,
        /// Its stated length in octets.
        length: u16,
    },
    /// More entries than the limit that this crate states for them.
    #[error("more than {limit} {what}")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
    /// A list that needs at least one entry has none.
    #[error("no {what}")]
    Empty {
        /// What is missing.
        what: &'static str,
    },
    /// A count field disagrees with the entries that follow.
    #[error("{what}: {stated} stated, {found} found")]
    Count {
        /// What is counted.
        what: &'static str,
        /// The count by the field.
        stated: usize,
        /// Entries found.
        found: usize,
    },
    /// A field has a value that its structure does not allow.
    #[error("{what}: value {value} is not allowed")]
    Value {
        /// The field.
        what: &'static str,
        /// The value found.
        value: u32,
    },
    /// An SPI of the wrong size for its protocol.
    #[error("SPI of {size} octets for {protocol}")]
    SpiSize {
        /// The protocol.
        protocol: ProtocolId,
        /// Octets of the SPI.
        size: u8,
    },
    /// An Encrypted payload is not the last one, or stands inside another.
    #[error("{0} payload at a place where none is allowed")]
    MisplacedEncrypted(PayloadType),
    /// A message that must be protected carries no Encrypted payload.
    #[error("no Encrypted payload")]
    NotEncrypted,
    /// A payload of unknown type with the critical bit set.
    #[error("unknown critical payload of type {}", .0.0)]
    UnknownCritical(PayloadType),
}

impl DecodeError {
    /// The notify that answers a request with this error, where an answer is due at all.
    pub fn notify(&self) -> NotifyType {
        match self {
            Self::UnknownCritical(_) => NotifyType::UNSUPPORTED_CRITICAL_PAYLOAD,
            Self::MajorVersion(_) => NotifyType::INVALID_MAJOR_VERSION,
            Self::Truncated { .. }
            | Self::TrailingOctets { .. }
            | Self::MessageLength { .. }
            | Self::MessageTooLong(_)
            | Self::ZeroInitiatorSpi
            | Self::PayloadLength { .. }
            | Self::TooMany { .. }
            | Self::Empty { .. }
            | Self::Count { .. }
            | Self::Value { .. }
            | Self::SpiSize { .. }
            | Self::MisplacedEncrypted(_)
            | Self::NotEncrypted => NotifyType::INVALID_SYNTAX,
        }
    }

    /// The data of the notify that [`notify`](Self::notify) names.
    pub fn notify_data(&self) -> Vec<u8> {
        if let Self::UnknownCritical(kind) = self {
            vec![kind.0]
        } else {
            Vec::new()
        }
    }
}

/// A message of ours that does not fit its length fields.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum EncodeError {
    /// A structure longer than its length field can say, or than the limit of a message.
    #[error("{what} of {length} octets is too long")]
    TooLong {
        /// The structure.
        what: &'static str,
        /// Its octets.
        length: usize,
    },
    /// More entries than the count field can say.
    #[error("too many {what}")]
    TooMany {
        /// What there is too much of.
        what: &'static str,
    },
    /// An Encrypted payload that is not the last payload.
    #[error("an Encrypted payload must be the last")]
    MisplacedEncrypted,
}
