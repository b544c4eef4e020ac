//! The IKE header (RFC 7296 section 3.1).

use super::codec::{Reader, Writer};
use super::error::DecodeError;
use super::numbers::{ExchangeType, PayloadType, Spi};

/// Major version 2, minor version 0.
pub const VERSION: u8 = 0x20;

const FLAG_INITIATOR: u8 = 0x08;
const FLAG_VERSION: u8 = 0x10;
const FLAG_RESPONSE: u8 = 0x20;

/// Flags of the header; the bits that RFC 7296 reserves are ignored on receipt and sent as zero.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug)]
pub struct Flags {
    /// Sent by the original initiator of the IKE SA.
    pub initiator: bool,
    /// The sender can speak a higher major version.
    pub version: bool,
    /// A response.
    pub response: bool,
}

impl Flags {
    /// Flags of a request; `initiator` says whether the sender is the original initiator of the IKE SA.
    pub const fn request(initiator: bool) -> Self {
        Self {
            initiator,
            version: false,
            response: false,
        }
    }

    /// Flags of a response; `initiator` says whether the sender is the original initiator of the IKE SA.
    pub const fn response(initiator: bool) -> Self {
        Self {
            initiator,
            version: false,
            response: true,
        }
    }

    fn from_octet(octet: u8) -> Self {
        Self {
            initiator: octet & FLAG_INITIATOR != 0,
            version: octet & FLAG_VERSION != 0,
            response: octet & FLAG_RESPONSE != 0,
        }
    }

    fn to_octet(self) -> u8 {
        let mut octet = 0;
        if self.initiator {
            octet |= FLAG_INITIATOR;
        }
        if self.version {
            octet |= FLAG_VERSION;
        }
        if self.response {
            octet |= FLAG_RESPONSE;
        }
        octet
    }
}

/// The fixed header of every IKE message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// SPI of the original initiator.
    pub spi_i: Spi,
    /// SPI of the original responder; zero in the first message.
    pub spi_r: Spi,
    /// Type of the first payload. Filled in when a message is encoded.
    pub next_payload: PayloadType,
    /// Major version in the upper four bits, minor version in the lower four.
    pub version: u8,
    /// Exchange type.
    pub exchange: ExchangeType,
    /// Flags.
    pub flags: Flags,
    /// Message ID.
    pub message_id: u32,
    /// Octets of the whole message. Filled in when a message is encoded.
    pub length: u32,
}

impl Header {
    /// Octets of the header.
    pub const LEN: usize = 28;

    /// A header of version 2.0 whose first payload and length are filled in when the message is encoded.
    pub const fn new(spi_i: Spi, spi_r: Spi, exchange: ExchangeType, flags: Flags, message_id: u32) -> Self {
        Self {
            spi_i,
            spi_r,
            next_payload: PayloadType::NONE,
            version: VERSION,
            exchange,
            flags,
            message_id,
            length: 0,
        }
    }

    /// Major version.
    pub const fn major(&self) -> u8 {
        self.version >> 4
    }

    /// The header of the response to a request with this header.
    pub const fn answer(&self) -> Self {
        Self::new(
            self.spi_i,
            self.spi_r,
            self.exchange,
            Flags::response(!self.flags.initiator),
            self.message_id,
        )
    }

    /// Reads the 28 octets; no field is judged.
    pub fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Self {
            spi_i: Spi(reader.u64("initiator's SPI")?),
            spi_r: Spi(reader.u64("responder's SPI")?),
            next_payload: PayloadType(reader.u8("next payload")?),
            version: reader.u8("version")?,
            exchange: ExchangeType(reader.u8("exchange type")?),
            flags: Flags::from_octet(reader.u8("flags")?),
            message_id: reader.u32("message ID")?,
            length: reader.u32("message length")?,
        })
    }

    /// Reads the header of a whole datagram and checks what must hold before its payloads are looked at.
    pub fn of_datagram(datagram: &[u8]) -> Result<(Self, Reader<'_>), DecodeError> {
        if datagram.len() > super::limits::MESSAGE_OCTETS {
            return Err(DecodeError::MessageTooLong(datagram.len()));
        }
        let mut reader = Reader::new(datagram);
        let header = Self::read(&mut reader)?;
        //= rfc7296#section-3.1
        //# They MUST ignore the minor version number of received messages.
        if header.major() != 2 {
            return Err(DecodeError::MajorVersion(header.major()));
        }
        if header.length as usize != datagram.len() {
            return Err(DecodeError::MessageLength {
                stated: header.length,
                actual: datagram.len(),
            });
        }
        //= rfc7296#section-3.1
        //# This value MUST NOT be zero.
        if header.spi_i.is_zero() {
            return Err(DecodeError::ZeroInitiatorSpi);
        }
        Ok((header, reader))
    }

    /// Writes the 28 octets as they stand in the fields.
    pub fn write(&self, writer: &mut Writer) {
        writer.u64(self.spi_i.0);
        writer.u64(self.spi_r.0);
        writer.u8(self.next_payload.0);
        writer.u8(self.version);
        writer.u8(self.exchange.0);
        writer.u8(self.flags.to_octet());
        writer.u32(self.message_id);
        writer.u32(self.length);
    }
}
