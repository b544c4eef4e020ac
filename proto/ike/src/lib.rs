//! Sans-IO IKEv2 (RFC 7296): both roles, no I/O, no clock, no threads.

#![deny(clippy::indexing_slicing)]
#![warn(missing_docs)]

pub mod auth;
pub mod config;
pub mod established;
pub mod gate;
pub mod keys;
mod types;
pub mod wire;

pub use types::*;
