//! Simulated users: each logs in with the same `ike` crate that the gateway runs, as initiator, and passes ESP through its
//! tunnel.
//!
//! ```text
//!            Plan (who, where, what)
//!              │
//!   run ──► User 0..N          one UDP socket and one task each, on few threads
//!              ├─ ike::IkeSa   login, rekeys, liveness        (sans-IO)
//!              ├─ esp SAs      seal, open
//!              └─ Probe        echo requests with stamps, answers checked
//!              │
//!              ▼
//!            Report            table or JSON; failed users decide the exit code
//! ```
//! [`user::User`] performs no I/O itself, so that the tests run it against gateways in the same process.

pub mod cli;
pub mod credentials;
pub mod plan;
pub mod probe;
pub mod report;
pub mod run;
pub mod tunnel;
pub mod user;
