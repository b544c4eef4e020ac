//! What a worker's loop costs a packet, without any I/O: bursts from one worker to another through memory, once in long
//! bursts and once in single packets.
//!
//! ```text
//! shard_cost [SAS [SEGMENT]]      defaults: 1 and 1000 SAs, 1358 octets of payload a segment
//! ```
//! AES-GCM is that of the last provider there is: Intel's library where it is built in.
//! Compare ratios within one run on a quiet machine; absolute figures are the processor's.

#![allow(clippy::print_stdout, reason = "a program for the command line")]

mod memory;

use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crypto::{Cipher, Provider, Suite};
use dataplane::{Owners, Shard, WorkerCommand};
use memory::{Memory, SEGMENTS, burst, pair};

const BURSTS: usize = 32;

fn measure(sas: u32, size: usize, segments: usize, suite: Suite) -> Result<(), Box<dyn Error>> {
    let now = Instant::now();
    let mut shards = [0, 1].map(|_| Shard::new(0, 1, Arc::<Owners>::default(), now));
    let (mut io, mut far) = (Memory::default(), Memory::default());
    for (shard, is_sender) in shards.iter_mut().zip([true, false]) {
        shard.attach_domain(memory::domain());
        for number in 0..sas {
            shard.command(
                WorkerCommand::Install(Box::new(pair(number, is_sender, suite))),
                &mut io,
                now,
            );
        }
    }
    io.burst = burst(size, segments);
    let [sender, receiver] = &mut shards;
    // Of each turn: the median does not mind being interrupted.
    let (mut seal, mut open, mut packets) = (Vec::new(), Vec::new(), 0);
    let mut number = 0;
    while packets < 1_000_000 {
        for _ in 0..BURSTS {
            io.inner.push_back(number % sas);
            number = number.wrapping_add(1);
        }
        let start = Instant::now();
        // One turn reads them all; a second one would receive what the first sent.
        sender.turn(&mut io, now);
        seal.push(start.elapsed());
        std::mem::swap(&mut io.outer, &mut far.outer);
        let start = Instant::now();
        while receiver.turn(&mut far, now) > 0 {}
        open.push(start.elapsed());
        io.spare.append(&mut far.spare);
        packets += BURSTS * segments;
    }
    if receiver.counters().inner_out != packets as u64 {
        return Err(format!("lost packets: {:?}", receiver.counters()).into());
    }
    let each = |mut turns: Vec<Duration>| {
        turns.sort_unstable();
        let median = turns.get(turns.len() / 2).map_or(0, Duration::as_nanos);
        median as f64 / (BURSTS * segments) as f64
    };
    println!(
        "{suite}, {sas} SAs, bursts of {segments} times {size} octets: out {:.0} ns, in {:.0} ns a packet",
        each(seal),
        each(open)
    );
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let sas: Option<u32> = arguments.next().map(|a| a.parse()).transpose()?;
    let size: usize = arguments.next().map_or(Ok(1358), |a| a.parse())?;
    let suite = Suite::new(Cipher::AesGcm16 { key_bits: 128 }, None)?;
    if let Some(provider) = Provider::ALL.last() {
        provider.prefer(suite.cipher);
        println!("AEAD by {provider}");
    }
    for segments in [SEGMENTS, 1] {
        for sas in sas.map_or(vec![1, 1000], |sas| vec![sas.max(1)]) {
            measure(sas, size, segments, suite)?;
        }
    }
    Ok(())
}
