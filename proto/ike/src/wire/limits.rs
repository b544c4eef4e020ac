//! Limits of what is read. Beyond them a message is refused with [`DecodeError::TooMany`](super::DecodeError::TooMany) or
//! [`DecodeError::MessageTooLong`](super::DecodeError::MessageTooLong).

/// Octets of a message, and of what fragments are put together to: more than a UDP datagram holds.
pub const MESSAGE_OCTETS: usize = 65_536;
/// Payloads of a message, or of the inside of an Encrypted payload.
pub const PAYLOADS: usize = 64;
/// Proposals of an SA payload.
pub const PROPOSALS: usize = 32;
/// Transforms of a proposal. strongSwan's widest default has about 50.
pub const TRANSFORMS: usize = 128;
/// Attributes of a transform other than its key length.
pub const TRANSFORM_ATTRIBUTES: usize = 8;
/// Traffic selectors of a payload: all that its count field can say.
pub const TRAFFIC_SELECTORS: usize = 255;
/// Attributes of a Configuration payload.
pub const ATTRIBUTES: usize = 256;
/// SPIs of a Delete payload.
pub const DELETE_SPIS: usize = 1024;
/// Fragments of a message (RFC 7383).
pub const FRAGMENTS: u16 = 64;
