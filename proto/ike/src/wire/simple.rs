//! Payloads of a few fixed octets and a body: KE, IDi and IDr, CERT, CERTREQ, AUTH, Nonce, EAP
//! (RFC 7296 sections 3.4 to 3.9 and 3.16).

use super::codec::{Reader, Writer};
use super::error::DecodeError;
use super::numbers::{AuthMethod, CertEncoding, IdType, KeId};

/// Legal octets of a nonce (RFC 7296 section 3.9).
pub const NONCE_OCTETS: std::ops::RangeInclusive<usize> = 16..=256;

/// Octets of the smallest EAP message: code, identifier and length.
const EAP_MIN: usize = 4;

/// A public value of a key exchange.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyExchange {
    /// The method that the value belongs to.
    pub group: KeId,
    /// The public value, whose length is not judged here.
    pub data: Vec<u8>,
}

/// Who the sender is, or whom it wants to talk to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identification {
    /// How to read the data.
    pub kind: IdType,
    /// The identity.
    pub data: Vec<u8>,
}

/// A certificate or something like it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CertPayload {
    /// How to read the data.
    pub encoding: CertEncoding,
    /// DER for [`CertEncoding::X509_SIGNATURE`].
    pub data: Vec<u8>,
}

impl KeyExchange {
    pub(super) fn read(mut reader: Reader<'_>) -> Result<Self, DecodeError> {
        let group = KeId(reader.u16("KE: group")?);
        reader.u16("KE: reserved")?;
        let data = reader.rest().to_vec();
        Ok(Self { group, data })
    }

    pub(super) fn write(&self, writer: &mut Writer) {
        writer.u16(self.group.0);
        writer.u16(0);
        writer.bytes(&self.data);
    }
}

impl Identification {
    /// The payload without its generic header, as the signed octets of AUTH use it (`RestOfInitIDPayload`, RFC 7296
    /// section 2.15).
    ///
    /// The three reserved octets are zero, which is what RFC 7296 section 3.5 makes every sender send.
    pub fn body(&self) -> Vec<u8> {
        let mut writer = Writer::new();
        self.write(&mut writer);
        writer.into_bytes()
    }

    pub(super) fn read(mut reader: Reader<'_>) -> Result<Self, DecodeError> {
        let kind = IdType(reader.u8("ID type")?);
        reader.take(3, "ID: reserved")?;
        let data = reader.rest().to_vec();
        Ok(Self { kind, data })
    }

    pub(super) fn write(&self, writer: &mut Writer) {
        writer.u8(self.kind.0);
        writer.bytes(&[0; 3]);
        writer.bytes(&self.data);
    }
}

/// CERT and CERTREQ have the same form.
pub(super) fn read_cert(mut reader: Reader<'_>) -> Result<(CertEncoding, Vec<u8>), DecodeError> {
    let encoding = CertEncoding(reader.u8("certificate encoding")?);
    Ok((encoding, reader.rest().to_vec()))
}

pub(super) fn write_cert(encoding: CertEncoding, data: &[u8], writer: &mut Writer) {
    writer.u8(encoding.0);
    writer.bytes(data);
}

pub(super) fn read_auth(mut reader: Reader<'_>) -> Result<(AuthMethod, Vec<u8>), DecodeError> {
    let method = AuthMethod(reader.u8("auth method")?);
    reader.take(3, "AUTH: reserved")?;
    Ok((method, reader.rest().to_vec()))
}

pub(super) fn write_auth(method: AuthMethod, data: &[u8], writer: &mut Writer) {
    writer.u8(method.0);
    writer.bytes(&[0; 3]);
    writer.bytes(data);
}

pub(super) fn read_nonce(mut reader: Reader<'_>) -> Result<Vec<u8>, DecodeError> {
    let nonce = reader.rest();
    //= rfc7296#section-3.9
    //# The size of the Nonce Data MUST be between 16 and 256 octets, inclusive.
    if NONCE_OCTETS.contains(&nonce.len()) {
        Ok(nonce.to_vec())
    } else {
        Err(DecodeError::Value {
            what: "octets of the nonce",
            value: u32::try_from(nonce.len()).unwrap_or(u32::MAX),
        })
    }
}

pub(super) fn read_eap(mut reader: Reader<'_>) -> Result<Vec<u8>, DecodeError> {
    let message = reader.rest();
    let mut head = Reader::new(message);
    head.u16("EAP code and identifier")?;
    let stated = head.u16("EAP length")?;
    //= rfc7296#section-3.16
    //# MUST be four less than the Payload Length of the encapsulating payload.
    if message.len() < EAP_MIN || usize::from(stated) != message.len() {
        return Err(DecodeError::Value {
            what: "EAP length",
            value: stated.into(),
        });
    }
    Ok(message.to_vec())
}
