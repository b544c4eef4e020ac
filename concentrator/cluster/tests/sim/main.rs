//! The core under a simulated cluster: virtual time, a network that loses, a store that may do everything that etcd may,
//! nodes that are killed, paused and cut off; and the invariants, checked all the time.
//!
//! A seed that fails can be run again: `SIM_SEED=17 SIM_TRACE=1 cargo test -p cluster --test sim one_seed -- --nocapture`.
//! Long runs: `cargo run --release -p cluster --example simulate -- 1 100000`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    clippy::disallowed_methods,
    unreachable_pub,
    reason = "tests"
)]

mod check;
mod client;
mod etcd;
mod exchange;
mod faults;
mod follow;
mod link;
mod random;
mod run;
mod scenes;
mod shell;
mod what;
mod world;

use run::{options_of, run};

#[test]
fn many_seeds_keep_every_invariant() {
    let failures: Vec<String> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..4)
            .map(|worker| {
                scope.spawn(move || {
                    (1..=300)
                        .filter(|seed| seed % 4 == worker)
                        .filter_map(|seed| {
                            let (options, faults) = options_of(seed);
                            run(options, faults).err()
                        })
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        workers
            .into_iter()
            .flat_map(|worker| worker.join().unwrap())
            .collect()
    });
    assert!(
        failures.is_empty(),
        "{} of 300 seeds fail; the first: {}",
        failures.len(),
        failures[0]
    );
}

#[test]
fn one_seed() {
    let seed = std::env::var("SIM_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or(1);
    let (options, faults) = options_of(seed);
    let first = run(options.clone(), faults);
    if let Err(failure) = &first {
        panic!("{failure}");
    }
    let again = run(options, faults).unwrap();
    let first = first.unwrap();
    assert_eq!(
        (first.inputs, first.packets, first.exchanges),
        (again.inputs, again.packets, again.exchanges),
        "the same seed gives the same run"
    );
}
