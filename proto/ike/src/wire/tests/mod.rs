//! Tests of the messages, by theme.

mod clients;
mod generate;
mod malformed;
mod payloads;
mod proposals;
mod protection;
mod reassembly;
mod tables;
