//! What it costs a worker to take over a slot while it carries the packets of others: pairs installed and removed by the
//! thousands between bursts, without any I/O.
//!
//! ```text
//! takeover [PAIRS]      default: 100000
//! ```

#![allow(clippy::print_stdout, reason = "a program for the command line")]

mod memory;

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crypto::{Cipher, Suite};
use dataplane::{Owners, SaPair, Shard, WorkerCommand};
use memory::{Memory, SEGMENTS, burst, pair};

/// Bursts that wait at each turn.
const BURSTS: usize = 4;
const SLOT: u8 = 3;

/// Turns of the worker with traffic until it has nothing else to do: how long, and how long the longest between two.
fn run(shard: &mut Shard, io: &mut Memory, packets: &mut usize) -> (Duration, Duration) {
    let (start, mut longest) = (Instant::now(), Duration::ZERO);
    while shard.is_busy() {
        io.inner.extend([0; BURSTS]);
        let work = Instant::now();
        shard.work_off(io, work);
        longest = longest.max(work.elapsed());
        shard.turn(io, work);
        let sent = io.outer.drain(..).map(|(data, _)| data);
        io.spare.extend(sent);
        *packets += BURSTS * SEGMENTS;
    }
    (start.elapsed(), longest)
}

fn main() -> Result<(), Box<dyn Error>> {
    let pairs: u32 = std::env::args().nth(1).map_or(Ok(100_000), |a| a.parse())?;
    let suite = Suite::new(Cipher::AesGcm16 { key_bits: 256 }, None)?;
    let now = Instant::now();
    let mut shard = Shard::new(0, 1, Arc::<Owners>::default(), now);
    let mut io = Memory {
        burst: burst(1358, SEGMENTS),
        ..Memory::default()
    };
    shard.attach_domain(memory::domain());
    shard.command(
        WorkerCommand::Install(Box::new(pair(0, true, suite))),
        &mut io,
        now,
    );
    for round in 1..=2 {
        let slot: Vec<SaPair> = (1..=pairs)
            .map(|number| SaPair {
                slot: SLOT,
                ..pair(number, true, suite)
            })
            .collect();
        let mut packets = 0;
        let start = Instant::now();
        shard.command(WorkerCommand::InstallMany(slot), &mut io, now);
        let first = start.elapsed();
        let (took, longest) = run(&mut shard, &mut io, &mut packets);
        println!(
            "round {round}: {pairs} pairs in with {packets} packets of others in {:.1} ms: {:.0} pairs/s; longest pause {:.2} ms",
            (first + took).as_secs_f64() * 1e3,
            f64::from(pairs) / (first + took).as_secs_f64(),
            longest.max(first).as_secs_f64() * 1e3,
        );
        let mut packets = 0;
        let start = Instant::now();
        shard.command(WorkerCommand::RemoveSlot { slot: SLOT }, &mut io, now);
        let first = start.elapsed();
        let (took, longest) = run(&mut shard, &mut io, &mut packets);
        println!(
            "round {round}: slot out in {:.2} ms, forgotten with {packets} packets of others in {:.1} ms; longest pause {:.2} ms",
            first.as_secs_f64() * 1e3,
            (first + took).as_secs_f64() * 1e3,
            longest.as_secs_f64() * 1e3,
        );
    }
    let others = shard.counters();
    if others.outer_out != others.inner_in {
        return Err(format!("lost packets: {others:?}").into());
    }
    Ok(())
}
