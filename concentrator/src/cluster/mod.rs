//! The node in a cluster: the shell around the pure decisions of the crate `cluster`.
//!
//! ```text
//!                     ┌── heartbeats ──► other nodes            witness: a second process
//!  etcd ── hints ──► Pacemaker: thread of real-time priority, cluster::Core ──ticks──┘
//!    ▲                │ until ─► workers     │ down ─► Addresses: a thread over the interfaces
//!    │                ▼                      ▼
//!    └──────────── Router ──► Warden (one task a slot) ──► records, SAs, pools, addresses, hook
//!                     └─► Lease, transactions, marks, events
//! ```
//! **Invariant:** nothing here decides who owns a slot. What is read, watched or measured goes to the core; what the
//! core wants is carried out.

pub mod addresses;
pub mod backend;
pub mod etcd;
pub mod events;
pub mod fences;
pub mod forwards;
pub mod hints;
pub mod hook;
pub mod lease;
pub mod marks;
pub mod metrics;
pub mod pacemaker;
mod relief;
pub mod renewing;
pub mod replica;
pub mod rotation;
pub mod router;
pub mod secrets;
pub mod shared;
pub mod start;
pub mod warden;
pub mod witness;

pub use etcd::patiently;
pub use shared::Shared;
pub use start::{Cluster, Prepared, prepare};
