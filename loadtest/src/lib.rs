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

mod children;
pub mod cli;
pub mod control;
pub mod credentials;
pub mod echo;
pub mod flow;
pub mod inner;
pub mod monitor;
pub mod output;
pub mod plain;
pub mod plan;
pub mod probe;
pub mod record;
pub mod report;
pub mod run;
pub mod steady;
pub mod tunnel;
pub mod user;
