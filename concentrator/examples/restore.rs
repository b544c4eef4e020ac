//! How long a slot with many sessions takes to go and to come back, on this machine.
//!
//! ```console
//! # cargo run --release -p concentrator --example restore -- 2000
//! 2000 sessions: down in … ms, up in … ms: … IKE SAs/s with a child SA each; …
//! ```
//! One node in a network namespace of its own, the embedded store, real logins first. Needs root.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a measurement"
)]

#[path = "../tests/common/mod.rs"]
mod common;

use std::time::{Duration, Instant};

use common::slots::{PORTS, Shared, client, runtime};
use concentrator::recovery;

/// Logins unless the command line says otherwise.
const USERS: usize = 2_000;
/// Times that the slot goes and comes.
const ROUNDS: usize = 3;

fn main() {
    let argument = std::env::args().nth(1);
    let count = argument.map_or(USERS, |text| text.parse().expect("how many sessions"));
    if let Some(mut again) = common::unshared() {
        let status = again
            .arg(count.to_string())
            .status()
            .expect("unshare (util-linux)");
        std::process::exit(status.code().unwrap_or(1));
    }
    let shared = Shared::new();
    let runtime = runtime();
    let node = shared.node("a", &[0, 1], PORTS);
    let users: Vec<String> = (0..count).map(|user| format!("u{user}@acme.example")).collect();
    let users: Vec<_> = users.iter().map(|user| (user.as_str(), "one")).collect();
    runtime.block_on(node.provision("acme", "10.77.0.0/16", &users));
    let (mut slot, _) = runtime.block_on(shared.take(&node.node, 0));
    for (number, (user, _)) in users.iter().enumerate() {
        let host = format!("127.1.{}.{}", number / 200, number % 200 + 1);
        client(0, &host, user).login();
    }
    for _ in 0..ROUNDS {
        slot = runtime.block_on(async {
            recovery::freeze(&node.node, &slot, Duration::from_secs(1))
                .await
                .unwrap();
            let begun = Instant::now();
            recovery::put_down(&node.node, &slot).await;
            let down = begun.elapsed();
            let begun = Instant::now();
            let (taken, report) = shared.take(&node.node, 0).await;
            let up = begun.elapsed();
            assert_eq!((report.restored, report.children), (count, count));
            let octets: usize = shared.sizes(0, "sa/").await.iter().sum();
            println!(
                "{count} sessions: down in {} ms, up in {} ms: {:.0} IKE SAs/s with a child SA each; a record has {} octets, \
                 the checkpoints {:?}",
                down.as_millis(),
                up.as_millis(),
                count as f64 / up.as_secs_f64(),
                octets / count.max(1),
                shared.sizes(0, "cp/").await
            );
            taken
        });
    }
    node.drain();
}
