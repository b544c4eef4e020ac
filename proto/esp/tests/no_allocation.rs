//! Sealing and opening allocate nothing: counted by the process's allocator.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod common;

use std::alloc::System;

use common::*;
use esp::{Burst, PacketBuf};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static GLOBAL: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// The allocator counts the whole process, and the test runner's own thread may allocate at any time: what the hot path
/// allocates it would allocate in every round, so one round without is the proof.
#[test]
fn the_hot_path_allocates_nothing() {
    for suite in suites() {
        let (mut tx, mut rx) = pair(suite, true);
        let stride = tx.sealed_len(1000);
        let mut slab = vec![0u8; stride * 44];
        let packet = inner(4, 1000, 1);
        let (head, mut slots) = (tx.layout().head(), vec![vec![0u8; 1200]; 44]);
        let mut least = usize::MAX;
        for _ in 0..5 {
            for slot in slab.chunks_mut(stride) {
                slot[head..head + 1000].copy_from_slice(&packet);
            }
            for slot in &mut slots {
                slot[64..1064].copy_from_slice(&packet);
            }
            let mut batch: Vec<PacketBuf<'_>> = slots
                .iter_mut()
                .map(|s| PacketBuf::outbound(s, 64, 1064, 4))
                .collect();
            let region = Region::new(GLOBAL);
            let burst = Burst {
                offset: 0,
                segments: 44,
                inner_len: 1000,
                last_len: 1000,
            };
            let sent = tx.seal_burst(&mut slab, burst, 4).unwrap();
            let mut opened = 0;
            rx.open_burst(&mut slab, sent, stride, |_, result| {
                opened += usize::from(result.is_ok())
            });
            tx.seal_batch(&mut batch);
            rx.open_batch(&mut batch);
            let one = tx.seal(&mut slab, head..head + 1000, 4).unwrap();
            let single = rx.open(&mut slab, one);
            let change = region.change();
            assert_eq!(opened, 44);
            assert!(single.is_ok() && batch.iter().all(|p| p.result.is_ok()));
            least = least.min(change.allocations + change.reallocations);
        }
        assert_eq!(least, 0, "{suite}");
    }
}
