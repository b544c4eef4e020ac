//! What coming and going costs those who stay: a worker carries the bursts of one SA while others are installed and removed
//! at a steady rate, beside the same worker left in peace; and the memory that a pair of SAs takes. No I/O.
//!
//! ```text
//! churn [PAIRS [PER_SECOND]]      defaults: 100,000 pairs installed, 5,000 in and 5,000 out a second
//! ```
//! AES-GCM is that of the last provider there is. The two take turns; medians are told.

#![allow(clippy::print_stdout, reason = "a program for the command line")]

mod memory;

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crypto::{Cipher, Provider, Suite};
use dataplane::{Owners, Shard, WorkerCommand};
use memory::{Memory, SEGMENTS, burst, pair};

const ROUNDS: usize = 7;
const ROUND: Duration = Duration::from_millis(400);
/// Bursts of a turn.
const BURSTS: usize = 4;

/// The process's resident memory in octets.
fn resident() -> Result<usize, Box<dyn Error>> {
    let text = std::fs::read_to_string("/proc/self/status")?;
    let line = text.lines().find(|line| line.starts_with("VmRSS:"));
    let kib: usize = line
        .and_then(|line| line.split_whitespace().nth(1))
        .ok_or("no VmRSS")?
        .parse()?;
    Ok(kib << 10)
}

/// Carries bursts for a round with so many pairs a second coming and going: packets a second.
fn carry(shard: &mut Shard, io: &mut Memory, suite: Suite, churn: u32, next: &mut u32, lifetime: u32) -> f64 {
    let now = Instant::now();
    let (mut packets, mut changed) = (0, 0_u32);
    while now.elapsed() < ROUND {
        let due = (now.elapsed().as_secs_f64() * f64::from(churn)) as u32;
        while changed < due {
            let command = WorkerCommand::Install(Box::new(pair(*next, true, suite)));
            shard.command(command, io, now);
            let oldest = next.saturating_sub(lifetime);
            let spi_in = pair(oldest, true, suite).inbound.spi;
            shard.command(WorkerCommand::Remove { spi_in }, io, now);
            *next += 1;
            changed += 1;
        }
        io.inner.extend([0; BURSTS]);
        shard.turn(io, now);
        let sent = io.outer.drain(..).map(|(data, _)| data);
        io.spare.extend(sent);
        packets += BURSTS * SEGMENTS;
    }
    packets as f64 / now.elapsed().as_secs_f64()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let pairs: u32 = arguments.next().map_or(Ok(100_000), |a| a.parse())?;
    let churn: u32 = arguments.next().map_or(Ok(5_000), |a| a.parse())?;
    let suite = Suite::new(Cipher::AesGcm16 { key_bits: 256 }, None)?;
    if let Some(provider) = Provider::ALL.last() {
        provider.prefer(suite.cipher);
        println!("{suite} by {provider}");
    }
    let now = Instant::now();
    let mut shard = Shard::new(0, 1, Arc::<Owners>::default(), now);
    let mut io = Memory {
        burst: burst(1358, SEGMENTS),
        ..Memory::default()
    };
    shard.attach_domain(memory::domain());
    let before = resident()?;
    for number in 0..pairs.max(1) {
        let command = WorkerCommand::Install(Box::new(pair(number, true, suite)));
        shard.command(command, &mut io, now);
    }
    let each = resident()?.saturating_sub(before) / pairs.max(1) as usize;
    println!("{pairs} pairs of SAs: {each} octets of memory each, tables and expanded keys included");
    let mut next = pairs;
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        alone.push(carry(&mut shard, &mut io, suite, 0, &mut next, pairs));
        beside.push(carry(&mut shard, &mut io, suite, churn, &mut next, pairs - 1));
    }
    let (alone, beside) = (median(alone), median(beside));
    println!(
        "one SA in bursts: {alone:.0} packets/s in peace, {beside:.0} with {churn} pairs in and {churn} out a second: {:.3}",
        beside / alone
    );
    Ok(())
}
