//! All cryptography of the project, and the only crate that names ring, openssl or aws-lc-rs. Performs no I/O and
//! reads no clock.
//!
//! ```text
//!  Random ──► dh::KeyPair ──► Secret ──► Prf::plus ──► Sealer / Opener ──► packets
//!                                                  └─► aead::batch     ──► batches of packets
//!  PEM, DER ──► sign::PrivateKey, cert::Certificate ──► sign, verify, verify_chain
//! ```
//!
//! Promises: everything secret is wiped when dropped and redacted by `Debug`; comparisons of secrets and of
//! integrity check values take constant time; malformed input is an error and never a panic.

#![deny(missing_docs, clippy::indexing_slicing)]

pub mod aead;
mod algorithm;
mod blob;
pub mod cert;
mod der;
pub mod dh;
mod mac;
mod packet;
pub mod pem;
mod provider;
mod random;
mod secret;
pub mod sign;
mod suite;

pub use algorithm::{Cipher, Group, HashAlgorithm, Integrity, Prf, UnknownGroup};
pub use blob::{BLOB_OVERHEAD, BlobError, open_blob, seal_blob};
pub use mac::{MacKey, digest, hmac};
pub use packet::{KeyError, OpenError, Opener, Packet, SealError, Sealer};
pub use provider::{Measurement, Provider};
pub use random::{Random, SeededRandom, SystemRandom};
pub use secret::{Secret, constant_time_eq};
pub use suite::{Suite, SuiteError};
