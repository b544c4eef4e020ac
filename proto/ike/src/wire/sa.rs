//! The Security Association payload: proposals, transforms and their attributes (RFC 7296 section 3.3).
//!
//! The reader checks structure only. Whether a proposal makes sense is the business of [`super::proposal`], so that one
//! bad transform makes itself unacceptable and nothing else.

use super::codec::{Reader, Writer};
use super::error::{DecodeError, EncodeError};
use super::limits;
use super::numbers::{ProtocolId, TransformType};

const LAST: u8 = 0;
const MORE_PROPOSALS: u8 = 2;
const MORE_TRANSFORMS: u8 = 3;
const ATTRIBUTE_TV: u16 = 0x8000;
const ATTRIBUTE_KEY_LENGTH: u16 = 14;

/// Everything offered, or the one proposal chosen.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SaPayload {
    /// Most preferred first.
    pub proposals: Vec<Proposal>,
}

/// One way to protect traffic, with alternatives for each kind of transform.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Proposal {
    /// Number that an answer repeats. RFC 7296 starts at 1; macOS 14 starts rekeys elsewhere, so any start is read.
    pub number: u8,
    /// IKE, ESP or AH.
    pub protocol: ProtocolId,
    /// SPI of the sender: absent for IKE in IKE_SA_INIT, 8 octets for an IKE rekey, 4 octets for ESP and AH.
    pub spi: Vec<u8>,
    /// Alternatives, in the sender's order.
    pub transforms: Vec<Transform>,
}

/// One algorithm.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Transform {
    /// What it is for.
    pub kind: TransformType,
    /// The algorithm within its type.
    pub id: u16,
    /// Key Length attribute, in bits.
    pub key_bits: Option<u16>,
    /// Every other attribute. A transform that has one is not understood and never chosen.
    pub unknown_attributes: Vec<TransformAttribute>,
}

/// An attribute other than Key Length.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TransformAttribute {
    /// Attribute type, 15 bits.
    pub kind: u16,
    /// Its value in the form in which it came.
    pub value: AttributeValue,
}

/// The two forms of an attribute value.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AttributeValue {
    /// Type/value: two octets.
    Short(u16),
    /// Type/length/value.
    Long(Vec<u8>),
}

impl Transform {
    /// A transform without a key length.
    pub const fn new(kind: TransformType, id: u16) -> Self {
        Self {
            kind,
            id,
            key_bits: None,
            unknown_attributes: Vec::new(),
        }
    }

    /// A transform with a key length in bits.
    pub const fn with_key(kind: TransformType, id: u16, key_bits: u16) -> Self {
        Self {
            kind,
            id,
            key_bits: Some(key_bits),
            unknown_attributes: Vec::new(),
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<(Self, bool), DecodeError> {
        let more = substructure(reader, MORE_TRANSFORMS, "transform: last")?;
        let length = reader.u16("transform length")?;
        let mut body = sub_part(reader, length, "transform")?;
        let kind = TransformType(body.u8("transform type")?);
        body.u8("transform: reserved")?;
        let mut transform = Self::new(kind, body.u16("transform ID")?);
        while !body.is_empty() {
            transform.read_attribute(&mut body)?;
        }
        Ok((transform, more))
    }

    fn read_attribute(&mut self, body: &mut Reader<'_>) -> Result<(), DecodeError> {
        let head = body.u16("attribute type")?;
        let kind = head & !ATTRIBUTE_TV;
        let value = if head & ATTRIBUTE_TV != 0 {
            let short = body.u16("attribute value")?;
            if kind == ATTRIBUTE_KEY_LENGTH && self.key_bits.is_none() {
                self.key_bits = Some(short);
                return Ok(());
            }
            AttributeValue::Short(short)
        } else {
            let length = body.u16("attribute length")?;
            AttributeValue::Long(body.take(length.into(), "attribute value")?.to_vec())
        };
        if self.unknown_attributes.len() >= limits::TRANSFORM_ATTRIBUTES {
            return Err(DecodeError::TooMany {
                what: "transform attributes",
                limit: limits::TRANSFORM_ATTRIBUTES,
            });
        }
        self.unknown_attributes.push(TransformAttribute { kind, value });
        Ok(())
    }

    fn write(&self, writer: &mut Writer, more: bool) -> Result<(), EncodeError> {
        writer.u8(if more { MORE_TRANSFORMS } else { LAST });
        writer.u8(0);
        let mark = writer.open(2);
        writer.u8(self.kind.0);
        writer.u8(0);
        writer.u16(self.id);
        if let Some(bits) = self.key_bits {
            writer.u16(ATTRIBUTE_TV | ATTRIBUTE_KEY_LENGTH);
            writer.u16(bits);
        }
        for attribute in &self.unknown_attributes {
            match &attribute.value {
                AttributeValue::Short(value) => {
                    writer.u16(ATTRIBUTE_TV | attribute.kind);
                    writer.u16(*value);
                }
                AttributeValue::Long(value) => {
                    writer.u16(attribute.kind & !ATTRIBUTE_TV);
                    let length = u16::try_from(value.len()).map_err(|_| EncodeError::TooLong {
                        what: "transform attribute",
                        length: value.len(),
                    })?;
                    writer.u16(length);
                    writer.bytes(value);
                }
            }
        }
        writer.close(mark, "transform")
    }
}

impl Proposal {
    /// The SPI as an ESP or AH SPI; `None` unless it has four octets.
    pub fn spi_u32(&self) -> Option<u32> {
        <[u8; 4]>::try_from(self.spi.as_slice())
            .ok()
            .map(u32::from_be_bytes)
    }

    /// The SPI as an IKE SPI; `None` unless it has eight octets.
    pub fn spi_ike(&self) -> Option<super::numbers::Spi> {
        <[u8; 8]>::try_from(self.spi.as_slice())
            .ok()
            .map(|octets| super::numbers::Spi(u64::from_be_bytes(octets)))
    }

    /// The transforms of one type, in the sender's order.
    pub fn of_kind(&self, kind: TransformType) -> impl Iterator<Item = &Transform> {
        self.transforms.iter().filter(move |t| t.kind == kind)
    }

    fn read(reader: &mut Reader<'_>) -> Result<(Self, bool), DecodeError> {
        let more = substructure(reader, MORE_PROPOSALS, "proposal: last")?;
        let length = reader.u16("proposal length")?;
        let mut body = sub_part(reader, length, "proposal")?;
        let number = body.u8("proposal number")?;
        let protocol = ProtocolId(body.u8("proposal: protocol")?);
        let spi_size = body.u8("proposal: SPI size")?;
        let count = usize::from(body.u8("proposal: number of transforms")?);
        let spi = body.take(spi_size.into(), "proposal: SPI")?.to_vec();
        if count > limits::TRANSFORMS {
            return Err(DecodeError::TooMany {
                what: "transforms",
                limit: limits::TRANSFORMS,
            });
        }
        let mut transforms = Vec::with_capacity(count);
        let mut expect_more = count > 0;
        while expect_more {
            if transforms.len() >= count {
                return Err(DecodeError::Count {
                    what: "transforms",
                    stated: count,
                    found: count + 1,
                });
            }
            let (transform, more) = Transform::read(&mut body)?;
            transforms.push(transform);
            expect_more = more;
        }
        if transforms.len() != count {
            return Err(DecodeError::Count {
                what: "transforms",
                stated: count,
                found: transforms.len(),
            });
        }
        body.finish("proposal")?;
        let proposal = Self {
            number,
            protocol,
            spi,
            transforms,
        };
        Ok((proposal, more))
    }

    fn write(&self, writer: &mut Writer, more: bool) -> Result<(), EncodeError> {
        writer.u8(if more { MORE_PROPOSALS } else { LAST });
        writer.u8(0);
        let mark = writer.open(2);
        writer.u8(self.number);
        writer.u8(self.protocol.0);
        writer.u8(u8::try_from(self.spi.len()).map_err(|_| EncodeError::TooLong {
            what: "proposal SPI",
            length: self.spi.len(),
        })?);
        writer
            .u8(u8::try_from(self.transforms.len())
                .map_err(|_| EncodeError::TooMany { what: "transforms" })?);
        writer.bytes(&self.spi);
        for (index, transform) in self.transforms.iter().enumerate() {
            transform.write(writer, index + 1 < self.transforms.len())?;
        }
        writer.close(mark, "proposal")
    }
}

impl SaPayload {
    pub(super) fn read(mut reader: Reader<'_>) -> Result<Self, DecodeError> {
        let mut proposals = Vec::new();
        loop {
            if proposals.len() >= limits::PROPOSALS {
                return Err(DecodeError::TooMany {
                    what: "proposals",
                    limit: limits::PROPOSALS,
                });
            }
            let (proposal, more) = Proposal::read(&mut reader)?;
            proposals.push(proposal);
            if !more {
                break;
            }
        }
        //= rfc7296#section-3.3
        //# When parsing an SA, an implementation MUST check that the total Payload Length is consistent with the payload's internal lengths and counts.
        reader.finish("SA payload")?;
        Ok(Self { proposals })
    }

    pub(super) fn write(&self, writer: &mut Writer) -> Result<(), EncodeError> {
        for (index, proposal) in self.proposals.iter().enumerate() {
            proposal.write(writer, index + 1 < self.proposals.len())?;
        }
        Ok(())
    }
}

/// Reads the "last substructure" octet and the reserved one; true when another structure follows.
fn substructure(reader: &mut Reader<'_>, more: u8, what: &'static str) -> Result<bool, DecodeError> {
    let last = reader.u8(what)?;
    reader.u8("reserved")?;
    match last {
        LAST => Ok(false),
        value if value == more => Ok(true),
        value => Err(DecodeError::Value {
            what,
            value: value.into(),
        }),
    }
}

/// The rest of a substructure whose length counts the four octets read before.
fn sub_part<'a>(reader: &mut Reader<'a>, length: u16, what: &'static str) -> Result<Reader<'a>, DecodeError> {
    match usize::from(length).checked_sub(4) {
        Some(rest) => reader.part(rest, what),
        None => Err(DecodeError::Value {
            what,
            value: length.into(),
        }),
    }
}
