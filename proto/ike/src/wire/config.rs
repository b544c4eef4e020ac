//! The Configuration payload (RFC 7296 section 3.15).

use super::codec::{Reader, Writer};
use super::error::{DecodeError, EncodeError};
use super::limits;
use super::numbers::{AttributeType, CfgType};

/// The reserved bit in front of an attribute type, ignored on receipt.
const RESERVED_BIT: u16 = 0x8000;

/// A request for, or a reply with, addresses and other settings.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Configuration {
    /// Request, reply, set or acknowledgement.
    pub kind: CfgType,
    /// In the sender's order; a type may occur more than once.
    pub attributes: Vec<Attribute>,
}

/// One setting. An empty value in a request asks for it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attribute {
    /// What it is.
    pub kind: AttributeType,
    /// Its octets, whose length is not judged here.
    pub value: Vec<u8>,
}

impl Attribute {
    /// An attribute with a value, or an empty one to ask for it.
    pub fn new(kind: AttributeType, value: impl Into<Vec<u8>>) -> Self {
        Self {
            kind,
            value: value.into(),
        }
    }
}

impl Configuration {
    /// The attributes of one type.
    pub fn of_kind(&self, kind: AttributeType) -> impl Iterator<Item = &Attribute> {
        self.attributes.iter().filter(move |a| a.kind == kind)
    }

    pub(super) fn read(mut reader: Reader<'_>) -> Result<Self, DecodeError> {
        let kind = CfgType(reader.u8("CFG type")?);
        reader.take(3, "CP: reserved")?;
        let mut attributes = Vec::new();
        while !reader.is_empty() {
            if attributes.len() >= limits::ATTRIBUTES {
                return Err(DecodeError::TooMany {
                    what: "configuration attributes",
                    limit: limits::ATTRIBUTES,
                });
            }
            //= rfc7296#section-3.15.1
            //# This bit MUST be set to zero and MUST be ignored on receipt.
            let kind = AttributeType(reader.u16("attribute type")? & !RESERVED_BIT);
            let length = reader.u16("attribute length")?;
            let value = reader.take(length.into(), "attribute value")?.to_vec();
            attributes.push(Attribute { kind, value });
        }
        Ok(Self { kind, attributes })
    }

    pub(super) fn write(&self, writer: &mut Writer) -> Result<(), EncodeError> {
        writer.u8(self.kind.0);
        writer.bytes(&[0; 3]);
        for attribute in &self.attributes {
            writer.u16(attribute.kind.0 & !RESERVED_BIT);
            writer.u16(
                u16::try_from(attribute.value.len()).map_err(|_| EncodeError::TooLong {
                    what: "configuration attribute",
                    length: attribute.value.len(),
                })?,
            );
            writer.bytes(&attribute.value);
        }
        Ok(())
    }
}
