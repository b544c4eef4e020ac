//! Twenty users against gateways in the same process, without a network: logins, traffic, rekeys, faults.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]
#![allow(
    clippy::wildcard_enum_match_arm,
    reason = "tests look at the events they know"
)]

mod common;

use common::*;
use ike::Command;
use loadtest::report::Collector;
use loadtest::user::State;
use netem::Profile;
use std::time::Duration;

const USERS: u32 = 20;
const MS: Duration = Duration::from_millis(1);

fn well(_number: u32) -> Treat {
    Treat::Well
}

#[test]
fn everybody_logs_in_is_answered_and_logs_out() {
    let profile = Profile {
        delay: MS * 15,
        ..Profile::default()
    };
    let mut world = World::new(USERS, plan(true), profile, well);
    world.run(SECOND);
    assert_eq!(
        world.count(|state| *state == State::Up),
        20,
        "{:?}",
        world.gateway.failures
    );
    let addresses: std::collections::HashSet<_> =
        world.users.iter().map(|user| user.source().unwrap()).collect();
    assert_eq!(addresses.len(), 20);
    world.start_traffic(SECOND * 10);
    world.run(SECOND * 11);
    assert_eq!(world.gateway.counts(), (2000, Vec::new()));
    world.close();
    world.run(SECOND);
    assert_eq!(world.count(|state| *state == State::Closed), 20);

    let mut collector = Collector::new().unwrap();
    for user in &mut world.users {
        collector.round_trips(&user.take_round_trips());
        collector.login(user.login_time().unwrap());
    }
    for summary in world.finish() {
        collector.user(&summary);
    }
    let report = collector.finish(SECOND);
    assert!(report.is_success(0.0), "{report}");
    assert_eq!((report.users, report.logged_in, report.failed), (20, 20, 0));
    // Two exchanges of two times 15 ms.
    assert!((59.0..62.0).contains(&report.login_ms.p50), "{report}");
    let traffic = report.traffic.as_ref().unwrap();
    assert_eq!(
        (
            traffic.sent,
            traffic.received,
            traffic.duplicated,
            traffic.foreign
        ),
        (2000, 2000, 0, 0)
    );
    assert!((29.0..32.0).contains(&traffic.round_trip_ms.p99), "{report}");
    assert!(traffic.longest_silence_ms.max < 150.0, "{report}");
    assert!(report.drops.is_empty());
}

#[test]
fn a_bad_network_delays_logins_and_loses_only_what_it_loses() {
    let profile = Profile {
        delay: MS * 30,
        jitter: MS * 20,
        loss: 0.1,
        duplicate: 0.05,
        reorder: 0.05,
        reorder_by: MS * 250,
        ..Profile::default()
    };
    let mut world = World::new(USERS, plan(true), profile, well);
    world.run(SECOND * 60);
    assert_eq!(
        world.count(|state| *state == State::Up),
        20,
        "{:?}",
        world.gateway.failures
    );
    world.start_traffic(SECOND * 30);
    world.run(SECOND * 32);
    let mut collector = Collector::new().unwrap();
    for summary in world.finish() {
        collector.user(&summary);
    }
    let report = collector.finish(SECOND);
    assert_eq!(report.failed, 0, "{report}");
    assert!(report.ike_retransmits > 0);
    let traffic = report.traffic.as_ref().unwrap();
    assert_eq!(traffic.sent, 6000);
    // Each way loses a tenth: 19 % in sum.
    assert!((17.0..21.0).contains(&traffic.loss_percent), "{report}");
    // What the network doubles, the replay windows stop.
    assert_eq!((traffic.duplicated, traffic.foreign), (0, 0));
    assert!(
        report.drops["replay_duplicate"] > 0 && traffic.reordered > 0,
        "{report}"
    );
}

#[test]
fn one_user_s_fault_is_that_user_s_alone() {
    fn treat(number: u32) -> Treat {
        match number {
            3 => Treat::WrongSecret,
            5 => Treat::NoChild,
            _ => Treat::Well,
        }
    }
    let mut world = World::new(USERS, plan(false), Profile::default(), treat);
    world.run(SECOND * 5);
    assert_eq!(world.count(|state| *state == State::Up), 18);
    let mut collector = Collector::new().unwrap();
    for summary in world.finish() {
        let failed = matches!(summary.state, State::Failed(_));
        assert_eq!(failed, [3, 5].contains(&summary.number), "{:?}", summary.state);
        collector.user(&summary);
    }
    let report = collector.finish(SECOND);
    assert_eq!((report.failed, report.logged_in), (2, 18), "{report}");
    assert_eq!(report.faults["refused_by_peer"].first_user, 3, "{report}");
    assert_eq!(report.faults["no_child"].first_user, 5, "{report}");
}

#[test]
fn a_gateway_with_another_name_is_refused() {
    let mut plan = plan(false);
    plan.remote_id = Some("other.example".parse().unwrap());
    let mut world = World::new(2, plan, Profile::default(), well);
    world.run(SECOND * 5);
    assert_eq!(world.count(|state| matches!(state, State::Failed(_))), 2);
}

#[test]
fn no_answer_ends_in_a_timeout() {
    let mut world = World::new(
        2,
        plan(false),
        Profile {
            loss: 1.0,
            ..Profile::default()
        },
        well,
    );
    world.run(SECOND * 200);
    for user in &world.users {
        assert!(
            matches!(user.state(), State::Failed(fault) if fault.kind == "timeout"),
            "{:?}",
            user.state()
        );
    }
}

#[test]
fn rekeys_under_traffic_lose_nothing() {
    let profile = Profile {
        delay: MS * 15,
        jitter: MS * 3,
        ..Profile::default()
    };
    let mut world = World::new(USERS, plan(true), profile, well);
    world.run(SECOND);
    world.start_traffic(SECOND * 20);
    for round in 0..4 {
        world.run(SECOND * 4);
        for i in 0..USERS as usize {
            match round {
                0 | 2 => world.command(i, |spi_in| Command::RekeyChild { spi_in, group: None }),
                1 => world.command(i, |_| Command::RekeyIke),
                _ => world.command(i, |_| Command::CheckLiveness),
            }
        }
    }
    world.run(SECOND * 8);
    assert_eq!(world.gateway.counts(), (4000, Vec::new()));
    let mut rekeys = 0;
    for summary in world.finish() {
        let counts = summary.counts.unwrap();
        assert_eq!(
            (counts.sent, counts.received, summary.drops.total()),
            (200, 200, 0),
            "{:?}",
            summary.state
        );
        rekeys += summary.rekeys;
    }
    assert_eq!(rekeys, 40);
}
