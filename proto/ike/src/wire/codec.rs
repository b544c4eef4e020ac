//! Bounded reading and writing of octets in network byte order.
//!
//! [`Reader`] never looks outside its slice and never panics; [`Writer`] grows a vector and patches length fields. Both are
//! the only way in which the payload files of this module touch octets.

use super::error::{DecodeError, EncodeError};

/// A cursor over received octets. Every read names what it reads, so that an error says where a message went wrong.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Starts at the first octet of `data`.
    pub fn new(data: &'a [u8]) -> Self {
        Self { rest: data }
    }

    /// Octets not read yet.
    pub fn left(&self) -> usize {
        self.rest.len()
    }

    /// True when every octet has been read.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Takes `count` octets.
    pub fn take(&mut self, count: usize, what: &'static str) -> Result<&'a [u8], DecodeError> {
        match self.rest.split_at_checked(count) {
            Some((head, tail)) => {
                self.rest = tail;
                Ok(head)
            }
            None => Err(DecodeError::Truncated {
                what,
                needed: count,
                left: self.rest.len(),
            }),
        }
    }

    /// Takes `N` octets as an array.
    pub fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], DecodeError> {
        match self.rest.split_first_chunk::<N>() {
            Some((head, tail)) => {
                self.rest = tail;
                Ok(*head)
            }
            None => Err(DecodeError::Truncated {
                what,
                needed: N,
                left: self.rest.len(),
            }),
        }
    }

    /// Takes one octet.
    pub fn u8(&mut self, what: &'static str) -> Result<u8, DecodeError> {
        self.array::<1>(what).map(|[octet]| octet)
    }

    /// Takes a 16-bit integer.
    pub fn u16(&mut self, what: &'static str) -> Result<u16, DecodeError> {
        self.array(what).map(u16::from_be_bytes)
    }

    /// Takes a 32-bit integer.
    pub fn u32(&mut self, what: &'static str) -> Result<u32, DecodeError> {
        self.array(what).map(u32::from_be_bytes)
    }

    /// Takes a 64-bit integer.
    pub fn u64(&mut self, what: &'static str) -> Result<u64, DecodeError> {
        self.array(what).map(u64::from_be_bytes)
    }

    /// Takes everything that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    /// Takes a part of `count` octets as a reader of its own.
    pub fn part(&mut self, count: usize, what: &'static str) -> Result<Reader<'a>, DecodeError> {
        self.take(count, what).map(Reader::new)
    }

    /// Fails when octets are left over.
    pub fn finish(self, what: &'static str) -> Result<(), DecodeError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(DecodeError::TrailingOctets {
                what,
                left: self.rest.len(),
            })
        }
    }
}

/// A growing buffer of octets to send.
#[derive(Clone, Default, Debug)]
pub struct Writer(Vec<u8>);

/// The place of a 16-bit length field that is filled in when its structure is complete.
#[derive(Debug)]
#[must_use = "a length field is only written by Writer::close"]
pub struct LengthMark {
    start: usize,
    field: usize,
}

impl Writer {
    /// An empty writer.
    pub fn new() -> Self {
        Self::default()
    }

    /// Octets written so far.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True when nothing was written.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Appends one octet.
    pub fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    /// Appends a 16-bit integer.
    pub fn u16(&mut self, value: u16) {
        self.0.extend_from_slice(&value.to_be_bytes());
    }

    /// Appends a 32-bit integer.
    pub fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_be_bytes());
    }

    /// Appends a 64-bit integer.
    pub fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_be_bytes());
    }

    /// Appends octets as they are.
    pub fn bytes(&mut self, value: &[u8]) {
        self.0.extend_from_slice(value);
    }

    /// Writes a 16-bit length field of a structure that began `before` octets ago.
    pub fn open(&mut self, before: usize) -> LengthMark {
        let field = self.0.len();
        self.u16(0);
        LengthMark {
            start: field.saturating_sub(before),
            field,
        }
    }

    /// Fills in the length field of a structure that ends here.
    pub fn close(&mut self, mark: LengthMark, what: &'static str) -> Result<(), EncodeError> {
        let length = self.0.len().saturating_sub(mark.start);
        let stated = u16::try_from(length).map_err(|_| EncodeError::TooLong { what, length })?;
        if let Some(field) = self.0.get_mut(mark.field..mark.field + 2) {
            field.copy_from_slice(&stated.to_be_bytes());
        }
        Ok(())
    }

    /// Overwrites a 32-bit integer that was written before at `offset`; outside the buffer it does nothing.
    pub fn patch_u32(&mut self, offset: usize, value: u32) {
        if let Some(field) = self.0.get_mut(offset..offset + 4) {
            field.copy_from_slice(&value.to_be_bytes());
        }
    }

    /// Overwrites one octet that was written before at `offset`; outside the buffer it does nothing.
    pub fn patch_u8(&mut self, offset: usize, value: u8) {
        if let Some(field) = self.0.get_mut(offset) {
            *field = value;
        }
    }

    /// The octets written.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// The octets written so far.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}
