//! Sans-IO IKEv2 (RFC 7296), both roles: no I/O, no clock, no threads, no async, no unsafe; deterministic and seedable.
//!
//! ```text
//!                    handle(now, Input)                          poll() -> Output
//!   Datagram ───────────┐                                  ┌──► Transmit       a datagram to send
//!   Timeout ────────────┤   ┌──────────────────────────┐   ├──► Authenticate   slow work, with a ticket
//!   AuthResult(ticket) ─┼──►│ IkeSa                    │───┼──► ChildUp, ChildRekeyed, ChildDown
//!   Command ────────────┘   │  handshake → established │   ├──► Established, Failed, Closed
//!                           └──────────────────────────┘   └──► Step, Warning, KeyLog: for people
//!                    deadline() -> when Timeout is due, and why
//! ```
//!
//! A shell owns sockets and clocks. It screens datagrams with [`gate::Gate`], finds the [`IkeSa`] by SPI, hands inputs in,
//! drains the outputs, and arms one timer:
//!
//! ```
//! use std::time::Instant;
//! # use std::sync::{Arc, atomic::{AtomicU32, Ordering}};
//! use ike::{Context, IkeSa, InitPolicy, Input, Output, Phase, Timing};
//! # struct Spis(AtomicU32);
//! # impl ike::SpiAllocator for Spis {
//! #     fn ike(&self) -> ike::wire::Spi { ike::wire::Spi(self.0.fetch_add(1, Ordering::Relaxed).into()) }
//! #     fn esp(&self, _worker: u8) -> u32 { self.0.fetch_add(1, Ordering::Relaxed) }
//! #     fn release_esp(&self, _spi: u32) {}
//! #     fn claim_esp(&self, _spi: u32) -> bool { true }
//! # }
//! # fn send(_: ike::Transmit) {}
//! let now = Instant::now();
//! let ctx = Context {
//!     random: Box::new(crypto::SystemRandom),
//!     spis: Arc::new(Spis(AtomicU32::new(1000))),
//!     generation: 1,
//!     key_log: false,
//!     timing: Timing::default(),
//! };
//! let (local, remote) = ("192.0.2.1:500".parse()?, "198.51.100.7:500".parse()?);
//! let policy = InitPolicy::new(vec!["aes256gcm16-prfsha384-ecp384".parse()?]);
//! let mut sa = IkeSa::respond(now, ctx, policy, local, remote);
//! sa.handle(now, Input::Datagram { local, remote, bytes: b"no IKE at all".to_vec() });
//! while let Some(output) = sa.poll() {
//!     match output {
//!         Output::Transmit(transmit) => send(transmit),
//!         Output::Event(event) => println!("{event:?}"),
//!     }
//! }
//! assert_eq!(sa.phase(), Phase::Closed);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Entry points: [`IkeSa`], [`auth::verify`] and [`auth::sign`] for the answer to [`Event::Authenticate`],
//! [`wire`] for messages and proposals, [`gate`] for floods.

#![deny(clippy::indexing_slicing)]
#![warn(missing_docs)]

pub mod auth;
pub mod config;
pub mod established;
pub mod gate;
mod handshake;
pub mod keylog;
pub mod keys;
pub mod nat;
mod sa;
mod snapshot;
mod types;
pub mod wire;

pub use sa::IkeSa;
pub use snapshot::{RestoreError, Snapshot};
pub use types::*;
