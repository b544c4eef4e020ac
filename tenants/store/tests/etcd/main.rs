//! The store on real members of etcd: the contract, and every fault that a cluster has.
//!
//! `cargo test -p store --features etcd --test etcd` as root, with Debian's etcd-server, iproute2 and util-linux.
//! Every test runs in a network and process namespace of its own.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    unreachable_pub,
    reason = "tests"
)]

mod faults;
mod history;
mod proxy;
mod rig;
mod service;
