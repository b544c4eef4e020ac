//! Packets of a batch: each in a buffer of its own (or a slice of a common slab), sealed or opened in place.

use arrayvec::ArrayVec;
use crypto::aead::AeadJob;

use crate::DropReason;

/// Packets that go to the cipher together. Longer batches are cut into pieces of this size.
pub const BATCH: usize = 32;

/// One packet of a batch. Sealing and opening move `start` and `end` to the result, or leave a reason in `result`.
#[derive(Debug)]
pub struct PacketBuf<'a> {
    /// The packet with the room around it.
    pub data: &'a mut [u8],
    /// Where the packet starts in `data`.
    pub start: usize,
    /// Where it ends.
    pub end: usize,
    /// Sealing: the next header to announce (4 or 41). Opening: the one that was announced.
    pub next_header: u8,
    /// Why the packet must be dropped, after sealing or opening. The octets of a dropped packet are unspecified.
    pub result: Result<(), DropReason>,
}

impl<'a> PacketBuf<'a> {
    /// A packet to seal.
    pub fn outbound(data: &'a mut [u8], start: usize, end: usize, next_header: u8) -> Self {
        Self {
            data,
            start,
            end,
            next_header,
            result: Ok(()),
        }
    }

    /// A packet to open.
    pub fn inbound(data: &'a mut [u8], start: usize, end: usize) -> Self {
        Self {
            data,
            start,
            end,
            next_header: 0,
            result: Ok(()),
        }
    }

    /// The packet's octets; empty if the range does not lie in the buffer.
    #[must_use]
    pub fn packet(&self) -> &[u8] {
        self.data.get(self.start..self.end).unwrap_or_default()
    }
}

/// The cipher's jobs of a batch, on the stack.
pub(crate) type Jobs<'a> = ArrayVec<AeadJob<'a>, BATCH>;

/// Salt ‖ IV (RFC 4106 section 4, RFC 7634 section 2).
#[inline(always)]
pub(crate) fn nonce(salt: [u8; 4], iv: [u8; 8]) -> [u8; 12] {
    let [a, b, c, d] = salt;
    let [i0, i1, i2, i3, i4, i5, i6, i7] = iv;
    [a, b, c, d, i0, i1, i2, i3, i4, i5, i6, i7]
}
