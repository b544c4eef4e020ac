//! A worker allocates nothing for a packet once it runs: counted by the process's allocator, out and in, in long bursts of
//! one SA and in single packets of many.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

#[path = "../examples/memory/mod.rs"]
mod memory;

use std::alloc::System;
use std::sync::Arc;
use std::time::Instant;

use crypto::{Cipher, Integrity, Suite};
use dataplane::{Owners, Shard, WorkerCommand};
use memory::{Memory, SEGMENTS, burst, pair};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static GLOBAL: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Bursts of a round.
const BURSTS: u32 = 64;

/// Allocations of the quietest of several rounds, once everything has its size. The test runner's own thread may allocate
/// at any time; what the workers allocate for packets they would allocate in every round.
fn allocations(suite: Suite, sas: u32, segments: usize) -> usize {
    let now = Instant::now();
    let mut shards = [0, 1].map(|_| Shard::new(0, 1, Arc::<Owners>::default(), now));
    let (mut io, mut far) = (Memory::default(), Memory::default());
    for (shard, is_sender) in shards.iter_mut().zip([true, false]) {
        shard.attach_domain(memory::domain());
        for number in 0..sas {
            let command = WorkerCommand::Install(Box::new(pair(number, is_sender, suite)));
            shard.command(command, &mut io, now);
        }
    }
    io.burst = burst(1000, segments);
    let [sender, receiver] = &mut shards;
    let mut least = usize::MAX;
    let mut number = 0_u32;
    let mut sent = 0;
    for round in 0..8 {
        let region = Region::new(GLOBAL);
        for _ in 0..BURSTS {
            io.inner.push_back(number % sas);
            // Neighbours in time are no neighbours in the table.
            number = number.wrapping_add(7);
        }
        while !io.inner.is_empty() {
            sender.turn(&mut io, now);
            std::mem::swap(&mut io.outer, &mut far.outer);
            while receiver.turn(&mut far, now) > 0 {}
            std::mem::swap(&mut io.outer, &mut far.outer);
            io.spare.append(&mut far.spare);
        }
        let change = region.change();
        sent += u64::from(BURSTS) * segments as u64;
        // The first rounds fill tables and buffers.
        if round >= 3 {
            least = least.min(change.allocations + change.reallocations);
        }
    }
    assert_eq!(receiver.counters().inner_out, sent, "{:?}", receiver.counters());
    least
}

#[test]
fn a_worker_allocates_nothing_for_a_packet() {
    let gcm = Suite::new(Cipher::AesGcm16 { key_bits: 256 }, None).unwrap();
    let cbc = Suite::new(Cipher::AesCbc { key_bits: 256 }, Some(Integrity::HmacSha256_128)).unwrap();
    for suite in [gcm, cbc] {
        for (sas, segments) in [(1, SEGMENTS), (1, 1), (300, SEGMENTS), (300, 1)] {
            let count = allocations(suite, sas, segments);
            assert_eq!(count, 0, "{suite}, {sas} SAs, bursts of {segments}");
        }
    }
}
