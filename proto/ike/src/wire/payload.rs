//! One payload of a message, and the chain of generic payload headers that ties them together (RFC 7296 section 3.2).

use super::codec::{Reader, Writer};
use super::config::Configuration;
use super::error::{DecodeError, EncodeError};
use super::limits;
use super::notify::{self, Notify};
use super::numbers::{AuthMethod, CertEncoding, PayloadType, ProtocolId};
use super::sa::SaPayload;
use super::simple::{self, CertPayload, Identification, KeyExchange};
use super::ts::{self, TrafficSelector};

const CRITICAL: u8 = 0x80;
/// Octets of the generic payload header.
pub const GENERIC_HEADER_LEN: usize = 4;

/// The body of an Encrypted payload as received: IV, ciphertext and ICV.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EncryptedPayload {
    /// Type of the first payload inside.
    pub first: PayloadType,
    /// IV, ciphertext and ICV.
    pub body: Vec<u8>,
}

/// The body of an Encrypted Fragment payload as received (RFC 7383 section 2.5).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EncryptedFragment {
    /// Type of the first payload inside in the first fragment, none in the others.
    pub first: PayloadType,
    /// Number of this fragment, from 1.
    pub number: u16,
    /// Number of fragments.
    pub total: u16,
    /// IV, ciphertext and ICV.
    pub body: Vec<u8>,
}

/// A payload of any type.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Payload {
    /// Security Association.
    Sa(SaPayload),
    /// Key Exchange.
    Ke(KeyExchange),
    /// Identification of the initiator of the exchange.
    IdI(Identification),
    /// Identification of its responder.
    IdR(Identification),
    /// Certificate.
    Cert(CertPayload),
    /// Certificate Request.
    CertReq {
        /// What is wanted.
        encoding: CertEncoding,
        /// For X.509: SHA-1 hashes of the public keys of accepted authorities, 20 octets each.
        data: Vec<u8>,
    },
    /// Authentication.
    Auth {
        /// How the data was made.
        method: AuthMethod,
        /// The signature or MIC.
        data: Vec<u8>,
    },
    /// Nonce of 16 to 256 octets.
    Nonce(Vec<u8>),
    /// Notify.
    Notify(Notify),
    /// Delete. For IKE no SPI is listed.
    Delete {
        /// Protocol of every SPI listed.
        protocol: ProtocolId,
        /// SPIs of the sender's inbound SAs.
        spis: Vec<u32>,
    },
    /// Vendor ID.
    VendorId(Vec<u8>),
    /// Traffic selectors of the initiator of the exchange.
    TsI(Vec<TrafficSelector>),
    /// Traffic selectors of its responder.
    TsR(Vec<TrafficSelector>),
    /// Encrypted and Authenticated, not opened.
    Sk(EncryptedPayload),
    /// Encrypted and Authenticated Fragment, not opened.
    Skf(EncryptedFragment),
    /// Configuration.
    Cp(Configuration),
    /// A whole EAP message, whose length field has been checked.
    Eap(Vec<u8>),
    /// A payload of a type that is not known here.
    Unknown {
        /// The type.
        kind: PayloadType,
        /// Whether the sender wants the message rejected if the type is not known.
        critical: bool,
        /// The octets behind the generic header.
        data: Vec<u8>,
    },
}

impl Payload {
    /// The type that the previous payload's Next Payload field names.
    pub fn kind(&self) -> PayloadType {
        match self {
            Self::Sa(_) => PayloadType::SA,
            Self::Ke(_) => PayloadType::KE,
            Self::IdI(_) => PayloadType::IDI,
            Self::IdR(_) => PayloadType::IDR,
            Self::Cert(_) => PayloadType::CERT,
            Self::CertReq { .. } => PayloadType::CERTREQ,
            Self::Auth { .. } => PayloadType::AUTH,
            Self::Nonce(_) => PayloadType::NONCE,
            Self::Notify(_) => PayloadType::NOTIFY,
            Self::Delete { .. } => PayloadType::DELETE,
            Self::VendorId(_) => PayloadType::VENDOR_ID,
            Self::TsI(_) => PayloadType::TSI,
            Self::TsR(_) => PayloadType::TSR,
            Self::Sk(_) => PayloadType::SK,
            Self::Skf(_) => PayloadType::SKF,
            Self::Cp(_) => PayloadType::CP,
            Self::Eap(_) => PayloadType::EAP,
            Self::Unknown { kind, .. } => *kind,
        }
    }

    /// Reads the body of a payload. `next` is the Next Payload field of its generic header.
    fn read(
        kind: PayloadType,
        critical: bool,
        next: PayloadType,
        mut body: Reader<'_>,
    ) -> Result<Self, DecodeError> {
        Ok(match kind {
            PayloadType::SA => Self::Sa(SaPayload::read(body)?),
            PayloadType::KE => Self::Ke(KeyExchange::read(body)?),
            PayloadType::IDI => Self::IdI(Identification::read(body)?),
            PayloadType::IDR => Self::IdR(Identification::read(body)?),
            PayloadType::CERT => {
                let (encoding, data) = simple::read_cert(body)?;
                Self::Cert(CertPayload { encoding, data })
            }
            PayloadType::CERTREQ => {
                let (encoding, data) = simple::read_cert(body)?;
                Self::CertReq { encoding, data }
            }
            PayloadType::AUTH => {
                let (method, data) = simple::read_auth(body)?;
                Self::Auth { method, data }
            }
            PayloadType::NONCE => Self::Nonce(simple::read_nonce(body)?),
            PayloadType::NOTIFY => Self::Notify(Notify::read(body)?),
            PayloadType::DELETE => {
                let (protocol, spis) = notify::read_delete(body)?;
                Self::Delete { protocol, spis }
            }
            PayloadType::VENDOR_ID => Self::VendorId(body.rest().to_vec()),
            PayloadType::TSI => Self::TsI(ts::read(body)?),
            PayloadType::TSR => Self::TsR(ts::read(body)?),
            PayloadType::SK => Self::Sk(EncryptedPayload {
                first: next,
                body: body.rest().to_vec(),
            }),
            PayloadType::SKF => {
                let number = body.u16("fragment number")?;
                let total = body.u16("total fragments")?;
                Self::Skf(EncryptedFragment {
                    first: next,
                    number,
                    total,
                    body: body.rest().to_vec(),
                })
            }
            PayloadType::CP => Self::Cp(Configuration::read(body)?),
            PayloadType::EAP => Self::Eap(simple::read_eap(body)?),
            kind => Self::Unknown {
                kind,
                critical,
                data: body.rest().to_vec(),
            },
        })
    }

    fn write(&self, next: PayloadType, writer: &mut Writer) -> Result<(), EncodeError> {
        let next = match self {
            Self::Sk(sk) => sk.first,
            Self::Skf(skf) => skf.first,
            Self::Sa(_)
            | Self::Ke(_)
            | Self::IdI(_)
            | Self::IdR(_)
            | Self::Cert(_)
            | Self::CertReq { .. }
            | Self::Auth { .. }
            | Self::Nonce(_)
            | Self::Notify(_)
            | Self::Delete { .. }
            | Self::VendorId(_)
            | Self::TsI(_)
            | Self::TsR(_)
            | Self::Cp(_)
            | Self::Eap(_)
            | Self::Unknown { .. } => next,
        };
        writer.u8(next.0);
        //= rfc7296#section-3.2
        //# MUST be set to zero for payload types defined in this document.
        let critical = matches!(self, Self::Unknown { critical: true, .. });
        writer.u8(if critical { CRITICAL } else { 0 });
        let mark = writer.open(2);
        match self {
            Self::Sa(sa) => sa.write(writer)?,
            Self::Ke(ke) => ke.write(writer),
            Self::IdI(id) | Self::IdR(id) => id.write(writer),
            Self::Cert(cert) => simple::write_cert(cert.encoding, &cert.data, writer),
            Self::CertReq { encoding, data } => simple::write_cert(*encoding, data, writer),
            Self::Auth { method, data } => simple::write_auth(*method, data, writer),
            Self::Notify(notify) => notify.write(writer)?,
            Self::Delete { protocol, spis } => notify::write_delete(*protocol, spis, writer)?,
            Self::TsI(selectors) | Self::TsR(selectors) => ts::write(selectors, writer)?,
            Self::Sk(sk) => writer.bytes(&sk.body),
            Self::Skf(skf) => {
                writer.u16(skf.number);
                writer.u16(skf.total);
                writer.bytes(&skf.body);
            }
            Self::Cp(config) => config.write(writer)?,
            Self::Nonce(data) | Self::VendorId(data) | Self::Eap(data) | Self::Unknown { data, .. } => {
                writer.bytes(data)
            }
        }
        writer.close(mark, "payload")
    }
}

/// True for the payload types of [`Payload`] other than [`Payload::Unknown`].
pub(super) fn is_known(kind: PayloadType) -> bool {
    kind != PayloadType::NONE && kind.name().is_some()
}

/// The generic header of one payload and the octets behind it.
pub(super) struct Generic<'a> {
    pub(super) next: PayloadType,
    pub(super) critical: bool,
    pub(super) body: Reader<'a>,
}

/// Reads one generic payload header of a payload of type `kind`, and cuts out its body.
pub(super) fn read_generic<'a>(
    kind: PayloadType,
    reader: &mut Reader<'a>,
) -> Result<Generic<'a>, DecodeError> {
    let next = PayloadType(reader.u8("next payload")?);
    //= rfc7296#section-3.2
    //# MUST be sent as zero; MUST be ignored on receipt.
    let critical = reader.u8("critical bit")? & CRITICAL != 0;
    let length = reader.u16("payload length")?;
    let rest = usize::from(length)
        .checked_sub(GENERIC_HEADER_LEN)
        .ok_or(DecodeError::PayloadLength { kind, length })?;
    let body = reader.part(rest, "payload")?;
    Ok(Generic { next, critical, body })
}

/// Where a chain of payloads stands, which decides about Encrypted payloads.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Message,
    InsideEncrypted,
}

/// Reads a chain of payloads up to the end of `reader`.
pub(super) fn read_chain(
    first: PayloadType,
    mut reader: Reader<'_>,
    place: Place,
) -> Result<Vec<Payload>, DecodeError> {
    let mut payloads = Vec::new();
    let mut kind = first;
    while kind != PayloadType::NONE {
        if payloads.len() >= limits::PAYLOADS {
            return Err(DecodeError::TooMany {
                what: "payloads",
                limit: limits::PAYLOADS,
            });
        }
        let encrypted = matches!(kind, PayloadType::SK | PayloadType::SKF);
        //= rfc7296#section-3.1
        //# An Encrypted payload MUST be the last payload in a packet and an Encrypted payload MUST NOT contain another Encrypted payload.
        if encrypted && place == Place::InsideEncrypted {
            return Err(DecodeError::MisplacedEncrypted(kind));
        }
        let generic = read_generic(kind, &mut reader)?;
        if encrypted && !reader.is_empty() {
            return Err(DecodeError::MisplacedEncrypted(kind));
        }
        payloads.push(Payload::read(kind, generic.critical, generic.next, generic.body)?);
        kind = if encrypted {
            PayloadType::NONE
        } else {
            generic.next
        };
    }
    reader.finish("message")?;
    Ok(payloads)
}

/// Reads the payloads inside an Encrypted payload, whose padding has been removed.
pub fn decode_payloads(first: PayloadType, plaintext: &[u8]) -> Result<Vec<Payload>, DecodeError> {
    if plaintext.len() > limits::MESSAGE_OCTETS {
        return Err(DecodeError::MessageTooLong(plaintext.len()));
    }
    read_chain(first, Reader::new(plaintext), Place::InsideEncrypted)
}

/// Writes a chain of payloads; returns the type of the first one and the octets.
pub fn encode_payloads(payloads: &[Payload]) -> Result<(PayloadType, Vec<u8>), EncodeError> {
    let mut writer = Writer::new();
    let first = write_chain(payloads, &mut writer)?;
    Ok((first, writer.into_bytes()))
}

/// Appends a chain of payloads and returns the type of the first one.
pub(super) fn write_chain(payloads: &[Payload], writer: &mut Writer) -> Result<PayloadType, EncodeError> {
    let kind_of = |payload: Option<&Payload>| payload.map_or(PayloadType::NONE, Payload::kind);
    for (index, payload) in payloads.iter().enumerate() {
        let following = payloads.get(index + 1);
        if following.is_some() && matches!(payload, Payload::Sk(_) | Payload::Skf(_)) {
            return Err(EncodeError::MisplacedEncrypted);
        }
        payload.write(kind_of(following), writer)?;
    }
    Ok(kind_of(payloads.first()))
}
