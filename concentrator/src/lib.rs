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

pub mod budget;
pub mod config;
pub mod records;
pub mod seal;
pub mod telemetry;
pub mod wheel;
