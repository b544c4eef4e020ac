//! A cluster of three with real clients and users: it loses nodes, links and the leader of its store, is drained, moved and
//! restarted; no client logs in again, and what was on the wires and on the disks is looked at afterwards.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "tests"
)]

use rig::cluster::faults::{Random, named};
use rig::cluster::load::Users;
use rig::cluster::node::Options;
use rig::cluster::scene::Scene;
use rig::cluster::world::Plan;
use rig::cluster::{inspect, report, trial};

/// Lets faults happen in turn and holds each to its bar and to its invariants.
fn survive(plan: &Plan, faults: &[&str], users: u32) -> rig::Result<()> {
    let options = Options {
        key_log: true,
        otlp: true,
        // A slot may move again as soon as it has moved: the tests do not wait.
        damping_secs: 1,
        extra: "settle_ms = 1000\n".to_owned(),
        ..Options::default()
    };
    let mut scene = Scene::start(plan, &options)?;
    scene.capture(true)?;
    let watch = scene.folder.join("watch.log");
    let watching = scene.etcd.watch(scene.world.bystander(), &watch)?;
    scene.usual_clients()?;
    if users > 0 {
        let users = Users {
            users,
            sample: users,
            ..Users::default()
        };
        scene.users("user", &users)?;
    }
    let mut random = Random::new(7);
    let mut trials = Vec::new();
    for name in faults {
        let trial =
            trial::run(&mut scene, &named(name)?, &mut random).map_err(|e| e.context(scene.logs()))?;
        println!("{name}: {}", trial.note);
        let wrong: Vec<String> = trial
            .wrong
            .iter()
            .filter(|w| !excused(&trial, w))
            .cloned()
            .collect();
        trials.push(trial);
        assert!(
            wrong.is_empty(),
            "{name}: {wrong:#?}\n{}\n{}",
            report::table(&report::rows(&trials)),
            scene.logs()
        );
    }
    println!("{}", report::table(&report::rows(&trials)));
    drop(watching);
    let findings = inspect::run(&mut scene, &[watch])?;
    println!("{}", findings.lines.join("\n"));
    assert!(findings.wrong.is_empty(), "{:#?}", findings.wrong);
    Ok(())
}

/// Tests share their machine: here a silence may be twice as long as its bar. `ops/cluster-demo` measures without mercy.
fn excused(trial: &trial::Trial, wrong: &str) -> bool {
    let twice = trial.class.bar_ms().map(|bar| 2.0 * bar.max(250.0));
    (wrong.starts_with("silence of") && twice.is_some_and(|t| trial.percentile(99.0) <= t + trial.own_stall))
        || (wrong.starts_with("others were silent") && trial.others <= 1000.0)
}

#[test]
fn what_an_operator_does() -> rig::Result<()> {
    let faults = ["move", "drain", "rotate-keys", "rolling-restart"];
    survive(&Plan::default(), &faults, 60)
}

#[test]
fn what_dies() -> rig::Result<()> {
    let faults = [
        "kill",
        "service-down",
        "cluster-down",
        "stop-5s",
        "two-failovers",
        "panic-ike-sa",
    ];
    survive(&Plan::default(), &faults, 60)
}

#[test]
fn what_happens_to_etcd() -> rig::Result<()> {
    let faults = [
        "etcd-leader-killed",
        "watch-compacted",
        "lease-revoked",
        "quorum-lost-15s",
    ];
    survive(&Plan::default(), &faults, 30)
}

#[test]
fn a_machine_with_the_leader_of_etcd_and_then_all_of_them() -> rig::Result<()> {
    let plan = Plan {
        together: true,
        ..Plan::default()
    };
    survive(&plan, &["host-with-leader", "power-cut"], 30)
}

#[test]
fn replayed_traffic() -> rig::Result<()> {
    survive(&Plan::default(), &["replay", "duplicates"], 0)
}
