//! IKEv2 messages as octets and as types (RFC 7296 section 3); performs no I/O and never panics on what it reads.
//!
//! ```text
//! datagram ── Message::decode ──► Message { header, payloads }            cleartext: IKE_SA_INIT
//! datagram ── protect::open ────► (first, plaintext) ── decode_payloads ──► payloads   everything after it
//! payloads ── table::check ─────► legal for this exchange and direction, or the notify that says why not
//! SA       ── proposal::select ─► what both ends accept, or the first difference in words
//! ```
//!
//! Numbers from IANA are open newtypes: unknown values survive a round trip and are judged by the layer that needs them.

mod codec;
mod config;
mod error;
mod header;
pub mod limits;
mod message;
mod notify;
mod numbers;
mod payload;
pub mod proposal;
pub mod protect;
mod reassemble;
mod sa;
mod simple;
pub mod table;
mod ts;

pub use codec::{LengthMark, Reader, Writer};
pub use config::{Attribute, Configuration};
pub use error::{DecodeError, EncodeError};
pub use header::{Flags, Header, VERSION};
pub use message::{Message, Payloads};
pub use notify::Notify;
pub use numbers::{
    AttributeType, AuthMethod, CertEncoding, CfgType, EncrId, EsnId, ExchangeType, IdType, IntegId, KeId,
    NotifyType, PayloadType, PrfId, ProtocolId, Spi, TransformType, TsType,
};
pub use payload::{
    EncryptedFragment, EncryptedPayload, GENERIC_HEADER_LEN, Payload, decode_payloads, encode_payloads,
};
pub use reassemble::{Ignored, Progress, REASSEMBLY_TIME, Reassembler};
pub use sa::{AttributeValue, Proposal, SaPayload, Transform, TransformAttribute};
pub use simple::{CertPayload, Identification, KeyExchange, NONCE_OCTETS};
pub use ts::TrafficSelector;

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    clippy::disallowed_methods,
    reason = "tests"
)]
mod tests;
