//! Scenarios from the first message to ESTABLISHED: two state machines, a virtual clock, messages delivered by hand.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    unreachable_pub,
    reason = "tests"
)]

mod clients;
mod cluster;
mod hostile;
mod login;
mod loss;
mod pair;
mod properties;
mod refusal;
mod script;
