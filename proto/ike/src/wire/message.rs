//! A whole message: header and payloads, with the look-ups that handlers need.

use super::codec::Writer;
use super::config::Configuration;
use super::error::{DecodeError, EncodeError};
use super::header::Header;
use super::limits;
use super::notify::Notify;
use super::numbers::{AuthMethod, NotifyType};
use super::payload::{Payload, Place, read_chain, write_chain};
use super::sa::SaPayload;
use super::simple::{CertPayload, Identification, KeyExchange};
use super::ts::TrafficSelector;

/// A message whose payloads are known: a cleartext one, or a protected one with what its Encrypted payload held.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Message {
    /// The header. When encoding, first payload and length are filled in.
    pub header: Header,
    /// Payloads in their order on the wire.
    pub payloads: Vec<Payload>,
}

impl Message {
    /// A message to be encoded, or one put together from a header and decrypted payloads.
    pub const fn new(header: Header, payloads: Vec<Payload>) -> Self {
        Self { header, payloads }
    }

    /// Reads a whole datagram. Encrypted payloads are kept as they are.
    pub fn decode(datagram: &[u8]) -> Result<Self, DecodeError> {
        let (header, reader) = Header::of_datagram(datagram)?;
        let payloads = read_chain(header.next_payload, reader, Place::Message)?;
        Ok(Self { header, payloads })
    }

    /// Writes the message with the right first payload and length.
    pub fn encode(&self) -> Result<Vec<u8>, EncodeError> {
        let mut writer = Writer::new();
        self.header.write(&mut writer);
        let first = write_chain(&self.payloads, &mut writer)?;
        let length = writer.len();
        if length > limits::MESSAGE_OCTETS {
            return Err(EncodeError::TooLong {
                what: "message",
                length,
            });
        }
        writer.patch_u8(16, first.0);
        writer.patch_u32(24, u32::try_from(length).unwrap_or(u32::MAX));
        Ok(writer.into_bytes())
    }

    /// The look-ups on the payloads.
    pub fn view(&self) -> Payloads<'_> {
        Payloads(&self.payloads)
    }

    /// The first notify of a type.
    pub fn notify(&self, kind: NotifyType) -> Option<&Notify> {
        self.view().notify(kind)
    }

    /// Every notify, in order.
    pub fn notifies(&self) -> impl Iterator<Item = &Notify> {
        self.view().notifies()
    }

    /// The first notify of an error type.
    pub fn error(&self) -> Option<&Notify> {
        self.view().error()
    }

    /// The SA payload.
    pub fn sa(&self) -> Option<&SaPayload> {
        self.view().sa()
    }

    /// The KE payload.
    pub fn ke(&self) -> Option<&KeyExchange> {
        self.view().ke()
    }

    /// The nonce.
    pub fn nonce(&self) -> Option<&[u8]> {
        self.view().nonce()
    }

    /// IDi.
    pub fn id_i(&self) -> Option<&Identification> {
        self.view().id_i()
    }

    /// IDr.
    pub fn id_r(&self) -> Option<&Identification> {
        self.view().id_r()
    }

    /// Method and data of AUTH.
    pub fn auth(&self) -> Option<(AuthMethod, &[u8])> {
        self.view().auth()
    }

    /// Certificates in order.
    pub fn certs(&self) -> impl Iterator<Item = &CertPayload> {
        self.view().certs()
    }

    /// TSi.
    pub fn ts_i(&self) -> Option<&[TrafficSelector]> {
        self.view().ts_i()
    }

    /// TSr.
    pub fn ts_r(&self) -> Option<&[TrafficSelector]> {
        self.view().ts_r()
    }

    /// CP.
    pub fn config(&self) -> Option<&Configuration> {
        self.view().config()
    }

    /// The EAP message.
    pub fn eap(&self) -> Option<&[u8]> {
        self.view().eap()
    }
}

/// Look-ups on a list of payloads. Where a type occurs more than once, the first counts; [`super::table`] refuses
/// repetitions that are not legal.
#[derive(Clone, Copy, Debug)]
pub struct Payloads<'a>(pub &'a [Payload]);

macro_rules! first {
    ($(#[$meta:meta])* $name:ident, $pattern:pat => $value:expr, $type:ty) => {
        $(#[$meta])*
        pub fn $name(&self) -> Option<$type> {
            self.0.iter().find_map(|payload| if let $pattern = payload { Some($value) } else { None })
        }
    };
}

impl<'a> Payloads<'a> {
    first!(/// The SA payload.
        sa, Payload::Sa(sa) => sa, &'a SaPayload);
    first!(/// The KE payload.
        ke, Payload::Ke(ke) => ke, &'a KeyExchange);
    first!(/// The nonce.
        nonce, Payload::Nonce(nonce) => nonce.as_slice(), &'a [u8]);
    first!(/// IDi.
        id_i, Payload::IdI(id) => id, &'a Identification);
    first!(/// IDr.
        id_r, Payload::IdR(id) => id, &'a Identification);
    first!(/// Method and data of AUTH.
        auth, Payload::Auth { method, data } => (*method, data.as_slice()), (AuthMethod, &'a [u8]));
    first!(/// TSi.
        ts_i, Payload::TsI(ts) => ts.as_slice(), &'a [TrafficSelector]);
    first!(/// TSr.
        ts_r, Payload::TsR(ts) => ts.as_slice(), &'a [TrafficSelector]);
    first!(/// CP.
        config, Payload::Cp(config) => config, &'a Configuration);
    first!(/// The EAP message.
        eap, Payload::Eap(eap) => eap.as_slice(), &'a [u8]);

    /// Every notify, in order.
    pub fn notifies(&self) -> impl Iterator<Item = &'a Notify> + use<'a> {
        self.0.iter().filter_map(|payload| {
            if let Payload::Notify(notify) = payload {
                Some(notify)
            } else {
                None
            }
        })
    }

    /// The first notify of a type.
    pub fn notify(&self, kind: NotifyType) -> Option<&'a Notify> {
        self.notifies().find(|notify| notify.kind == kind)
    }

    /// The first notify of an error type.
    pub fn error(&self) -> Option<&'a Notify> {
        self.notifies().find(|notify| notify.kind.is_error())
    }

    /// Certificates in order.
    pub fn certs(&self) -> impl Iterator<Item = &'a CertPayload> + use<'a> {
        self.0.iter().filter_map(|payload| {
            if let Payload::Cert(cert) = payload {
                Some(cert)
            } else {
                None
            }
        })
    }
}
