//! The daemon: actix actors around the pure cores of `proto/`, and everything that they need from the system.
//!
//! ```text
//! sockets ─► Listener ─► dispatch by SPI ─► IkeSaActor (shell of ike::IkeSa) ─► ChildSaActor ─► EspWorker
//!                            pending | TenantSupervisor ┘   │ Authenticate          │ records
//!                                                           ▼                       ▼
//!                                                      blocking pool            Replicator ─► store
//! ```
//!
//! An actor makes no decision of a protocol: it feeds inputs to its core, drains the outputs and keeps one deadline.

pub mod actors;
pub mod aead;
pub mod arbiters;
pub mod authenticator;
pub mod backend;
pub mod backup;
pub mod budget;
pub mod ceiling;
pub mod checkpoint;
pub mod cluster;
pub mod config;
pub mod daemon;
mod decide;
pub mod directory;
pub mod dispatch;
pub mod domains;
pub mod exclusive;
pub mod generation;
pub mod health;
mod install;
pub mod keylog;
mod log_limit;
pub mod login;
pub mod management;
pub mod node;
pub mod policy;
pub mod records;
pub mod recovery;
pub mod redirect;
pub mod revocation;
pub mod sa_record;
pub mod seal;
pub mod session;
pub mod slot;
pub mod sockets;
pub mod spis;
pub mod telemetry;
pub mod tenant;
pub mod wheel;
pub mod writes;
