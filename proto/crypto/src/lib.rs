//! All cryptography of the project, and the only crate that names ring, openssl or aws-lc-rs. Performs no I/O and
//! reads no clock.
//!
//! ```text
//!  Random ──► dh::KeyPair ──► Secret ──► Prf::plus ──► Sealer / Opener ──► packets
//!                                                  └─► aead::batch     ──► batches of packets
//!  PEM, DER ──► sign::PrivateKey, cert::Certificate ──► sign, verify, verify_chain
//! ```
//!
//! ```
//! use crypto::{Cipher, Group, Opener, Packet, Prf, Sealer, Suite, SystemRandom, dh::KeyPair};
//! let ours = KeyPair::generate(Group::Curve25519, &mut SystemRandom)?;
//! let theirs = KeyPair::generate(Group::Curve25519, &mut SystemRandom)?;
//! let secret = ours.derive(theirs.public())?;
//! assert_eq!(secret, theirs.derive(ours.public())?);
//!
//! let suite = Suite::new(Cipher::AesGcm16 { key_bits: 256 }, None)?;
//! let key = Prf::HmacSha256.plus(secret.expose(), b"nonces", suite.enc_key_len());
//! let (mut iv, mut body, mut icv) = ([0; 8], *b"a packet", [0; 16]);
//! let packet = Packet { aad: b"header", mac_head: &[], mac_tail: &[], iv: &mut iv, body: &mut body, icv: &mut icv };
//! Sealer::new(suite, key.expose(), &[])?.seal(packet)?;
//! let packet = Packet { aad: b"header", mac_head: &[], mac_tail: &[], iv: &mut iv, body: &mut body, icv: &mut icv };
//! Opener::new(suite, key.expose(), &[])?.open(packet)?;
//! assert_eq!(&body, b"a packet");
//! # Ok::<(), Box<dyn std::error::Error>>(())
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
#[cfg(feature = "ipsec-mb")]
mod multi_buffer;
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
