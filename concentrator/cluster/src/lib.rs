//! Who owns which slot: the decisions of a cluster's node. Performs no I/O, reads no clock, starts no thread and is not
//! asynchronous: what happened comes in, what is to be done goes out.
//!
//! ```text
//!   heartbeats, death notices ──►┌──────────┐──► heartbeats, transactions, leases
//!   the store's keys (hints) ───►│   Core   │──► Serve, Freeze, Thaw, Drop, Refence ──► the daemon's slots
//!   answers to transactions ────►│          │──► Until (how long workers may forward), Static
//!   Ready, Frozen, Stopped ─────►└──────────┘──► events, marks for the disk
//! ```
//! The shell calls [`Core::handle`] with every input and at [`Core::deadline`] with [`Input::Timeout`], and carries out
//! what [`Core::poll`] gives, in order, until it gives nothing. The same inputs with the same seed give the same outputs.
//!
//! **Decisions are transactions.** A slot changes hands only by a transaction that compares the epoch, the slot's
//! generation and its owner. What is read, watched or heard only says what to try.

#![deny(missing_docs)]

mod api;
pub mod backup;
mod balance;
mod claim;
mod core;
mod detect;
mod epoch;
mod event;
mod fence;
mod handover;
pub mod heartbeat;
pub mod keys;
mod lease;
mod member;
mod order;
mod report;
mod slot;
mod status;
pub mod vault;
mod view;

pub use api::{Boot, Broken, Input, Order, Output, Settings};
pub use core::Core;
pub use event::{Cause, Counters, Event};
pub use fence::Fence;
pub use heartbeat::death_notice;
pub use status::{NodeState, NodeStatus, SlotState, SlotStatus, Status};
pub use vault::{ClusterKeyId, ClusterKeys, KeyFileError, Root, Vault, VaultError};
