//! Long runs of the simulated cluster: `cargo run --release -p cluster --example simulate -- FIRST LAST`.
//!
//! Prints every seed that fails with what was violated, and at the end what all the runs have shown together. The
//! exit status says whether one failed. `SIM_TRACE=1` prints everything that happens; of one seed that is useful.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    clippy::disallowed_methods,
    clippy::print_stdout,
    unreachable_pub,
    dead_code,
    reason = "a tool for developers that shares its modules with tests"
)]

#[path = "../tests/sim/check.rs"]
mod check;
#[path = "../tests/sim/client.rs"]
mod client;
#[path = "../tests/sim/etcd.rs"]
mod etcd;
#[path = "../tests/sim/exchange.rs"]
mod exchange;
#[path = "../tests/sim/faults.rs"]
mod faults;
#[path = "../tests/sim/follow.rs"]
mod follow;
#[path = "../tests/sim/link.rs"]
mod link;
#[path = "../tests/sim/random.rs"]
mod random;
#[path = "../tests/sim/run.rs"]
mod run;
#[path = "../tests/sim/shell.rs"]
mod shell;
#[path = "../tests/sim/what.rs"]
mod what;
#[path = "../tests/sim/world.rs"]
mod world;

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};

use check::Report;

fn main() -> ExitCode {
    let numbers: Vec<u64> = std::env::args()
        .skip(1)
        .filter_map(|text| text.parse().ok())
        .collect();
    let first = numbers.first().copied().unwrap_or(1);
    let last = numbers.get(1).copied().unwrap_or(first);
    let next = AtomicU64::new(first);
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let results: Vec<(u64, Vec<Report>)> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..workers)
            .map(|_| {
                scope.spawn(|| {
                    let (mut failed, mut reports) = (0, Vec::new());
                    loop {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if seed > last {
                            return (failed, reports);
                        }
                        let (options, faults) = run::options_of(seed);
                        match run::run(options, faults) {
                            Ok(report) => reports.push(report),
                            Err(failure) => {
                                failed += 1;
                                println!("{failure}");
                            }
                        }
                    }
                })
            })
            .collect();
        workers.into_iter().map(|worker| worker.join().unwrap()).collect()
    });
    let failed: u64 = results.iter().map(|(failed, _)| failed).sum();
    let reports: Vec<&Report> = results.iter().flat_map(|(_, reports)| reports).collect();
    let sum = |of: fn(&Report) -> u64| reports.iter().map(|report| of(report)).sum::<u64>();
    println!(
        "{} runs well, {failed} failed: {} inputs, {} serves, {} claims, {} handed over, {} thawed, {} refenced, \
         {} epochs, {} deadlines, {} static, {} damped, {} packets, {} exchanges, {} logins, {} lost tunnels; \
         healed after {:.2} s at most",
        reports.len(),
        sum(|r| r.inputs),
        sum(|r| r.serves),
        sum(|r| r.claims),
        sum(|r| r.handed_over),
        sum(|r| r.thaws),
        sum(|r| r.refences),
        sum(|r| r.epochs),
        sum(|r| r.deadlines),
        sum(|r| r.statics),
        sum(|r| r.damped),
        sum(|r| r.packets),
        sum(|r| r.exchanges),
        sum(|r| r.logins),
        sum(|r| r.relogins),
        reports
            .iter()
            .map(|r| r.healed_after.as_secs_f64())
            .fold(0.0, f64::max),
    );
    if failed > 0 {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}
