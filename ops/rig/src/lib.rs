//! The test rig: real clients, real servers and the concentrator, each in a network namespace of its own.
//!
//! Everything that a rig makes (namespaces, processes, folders) is entered in [`cleanup`] before it is made, and taken
//! away when its owner is dropped, when the process is interrupted, and, should it have been killed outright, by the next
//! rig that starts. Nothing outside those namespaces is touched. Processes are ended by their id only.
//!
//! ```text
//!   home ──┐ 10.99.0.0/24                                     ┌── srv-acme   10.20.0.2
//!          nat ── 203.0.113.0/24 ──┐                  acme ───┘
//!                                 inet ── 198.51.100.0/24 ── gw ── TUN of each tenant's routing domain
//!   direct ── 192.0.2.0/24 ────────┘                  globex ─┐
//!                                                             └── srv-globex 10.20.0.2
//! ```

pub mod bench;
pub mod capture;
pub mod cleanup;
pub mod cluster;
pub mod collector;
pub mod daemon;
pub mod gateway;
pub mod load;
pub mod net;
pub mod pki;
pub mod process;
pub mod swan;
pub mod world;

/// What a step of the rig returns: errors are for people to read.
pub type Result<T> = anyhow::Result<T>;
