//! Notify and Delete payloads (RFC 7296 sections 3.10 and 3.11).

use super::codec::{Reader, Writer};
use super::error::{DecodeError, EncodeError};
use super::limits;
use super::numbers::{NotifyType, ProtocolId};

/// An error or a status.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Notify {
    /// The protocol of the SPI; meaningless without one.
    pub protocol: ProtocolId,
    /// The SA that it is about, or empty.
    pub spi: Vec<u8>,
    /// What is said.
    pub kind: NotifyType,
    /// Data by the type.
    pub data: Vec<u8>,
}

impl Notify {
    /// A notify about the exchange itself, without SPI and data.
    pub const fn new(kind: NotifyType) -> Self {
        Self {
            protocol: ProtocolId::NONE,
            spi: Vec::new(),
            kind,
            data: Vec::new(),
        }
    }

    /// A notify with data and no SPI.
    pub const fn with_data(kind: NotifyType, data: Vec<u8>) -> Self {
        Self {
            protocol: ProtocolId::NONE,
            spi: Vec::new(),
            kind,
            data,
        }
    }

    /// A notify about a child SA, such as REKEY_SA.
    pub fn about_child(kind: NotifyType, protocol: ProtocolId, spi: u32) -> Self {
        Self {
            protocol,
            spi: spi.to_be_bytes().to_vec(),
            kind,
            data: Vec::new(),
        }
    }

    /// The SPI of the child SA that it is about; `None` unless it has four octets.
    pub fn spi_u32(&self) -> Option<u32> {
        <[u8; 4]>::try_from(self.spi.as_slice())
            .ok()
            .map(u32::from_be_bytes)
    }

    /// The data as a 16-bit integer, as INVALID_KE_PAYLOAD carries the accepted group.
    pub fn data_u16(&self) -> Option<u16> {
        <[u8; 2]>::try_from(self.data.as_slice())
            .ok()
            .map(u16::from_be_bytes)
    }

    pub(super) fn read(mut reader: Reader<'_>) -> Result<Self, DecodeError> {
        let protocol = ProtocolId(reader.u8("notify: protocol")?);
        let spi_size = reader.u8("notify: SPI size")?;
        let kind = NotifyType(reader.u16("notify type")?);
        let spi = reader.take(spi_size.into(), "notify: SPI")?.to_vec();
        let data = reader.rest().to_vec();
        Ok(Self {
            protocol,
            spi,
            kind,
            data,
        })
    }

    pub(super) fn write(&self, writer: &mut Writer) -> Result<(), EncodeError> {
        writer.u8(self.protocol.0);
        writer.u8(u8::try_from(self.spi.len()).map_err(|_| EncodeError::TooLong {
            what: "notify SPI",
            length: self.spi.len(),
        })?);
        writer.u16(self.kind.0);
        writer.bytes(&self.spi);
        writer.bytes(&self.data);
        Ok(())
    }
}

pub(super) fn read_delete(mut reader: Reader<'_>) -> Result<(ProtocolId, Vec<u32>), DecodeError> {
    let protocol = ProtocolId(reader.u8("delete: protocol")?);
    let size = reader.u8("delete: SPI size")?;
    let count = usize::from(reader.u16("delete: number of SPIs")?);
    //= rfc7296#section-3.11
    //# It MUST be zero for IKE (SPI is in message header) or four for AH and ESP.
    let wanted = match protocol {
        ProtocolId::IKE => 0,
        ProtocolId::AH | ProtocolId::ESP => 4,
        _ => {
            return Err(DecodeError::Value {
                what: "delete: protocol",
                value: protocol.0.into(),
            });
        }
    };
    if size != wanted {
        return Err(DecodeError::SpiSize { protocol, size });
    }
    if protocol == ProtocolId::IKE {
        if count != 0 {
            return Err(DecodeError::Count {
                what: "deleted SPIs",
                stated: count,
                found: 0,
            });
        }
        reader.finish("delete payload")?;
        return Ok((protocol, Vec::new()));
    }
    if count > limits::DELETE_SPIS {
        return Err(DecodeError::TooMany {
            what: "deleted SPIs",
            limit: limits::DELETE_SPIS,
        });
    }
    let mut spis = Vec::with_capacity(count);
    for _ in 0..count {
        spis.push(reader.u32("delete: SPI")?);
    }
    reader.finish("delete payload")?;
    Ok((protocol, spis))
}

pub(super) fn write_delete(
    protocol: ProtocolId,
    spis: &[u32],
    writer: &mut Writer,
) -> Result<(), EncodeError> {
    writer.u8(protocol.0);
    writer.u8(if protocol == ProtocolId::IKE { 0 } else { 4 });
    let listed = if protocol == ProtocolId::IKE { &[] } else { spis };
    writer.u16(u16::try_from(listed.len()).map_err(|_| EncodeError::TooMany { what: "deleted SPIs" })?);
    for spi in listed {
        writer.u32(*spi);
    }
    Ok(())
}
