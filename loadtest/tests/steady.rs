//! Users that stay, against gateways in the same process and a clock of the test: silences, losses, new logins.
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

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use common::*;
use crypto::{Random, SeededRandom};
use ike::{Command, Lifetime, Timing};
use loadtest::control::Order;
use loadtest::monitor::Monitor;
use loadtest::plan::{Plan, Traffic};
use loadtest::record::Record;
use loadtest::steady::Seat;
use loadtest::user::Datagram;
use netem::{Link, Profile};
use serde_json::Value;

const MS: Duration = Duration::from_millis(1);
const USERS: u32 = 5;

/// Randomness that no two connections share, although it is the same in every run of one test.
fn fresh(_number: u32) -> Box<dyn Random> {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    Box::new(SeededRandom::from_seed(NEXT.fetch_add(1, Ordering::Relaxed)))
}

fn steady_plan() -> Plan {
    let mut plan = plan(true);
    plan.traffic = plan.traffic.map(|traffic| Traffic {
        interval: MS * 50,
        ..traffic
    });
    plan.timing = Timing {
        retransmit_base: MS * 500,
        retransmit_factor: 2.0,
        retransmit_tries: 6,
        ..Timing::default()
    };
    plan.liveness = Some(SECOND * 20);
    plan
}

/// Seats, their gateways, the links between them, time. Connections of one seat are told apart by the gateway.
struct World {
    now: Instant,
    seats: Vec<Seat>,
    gateway: Gateway,
    monitor: Monitor,
    up: Vec<Link<Datagram>>,
    down: Vec<Link<Datagram>>,
    profile: Profile,
    /// ESP nonces that seats have sent: SPI and IV.
    nonces: BTreeSet<Vec<u8>>,
}

impl World {
    fn new(plan: Plan, profile: Profile) -> Self {
        let now = Instant::now();
        let plan = Arc::new(plan);
        let local: IpAddr = "198.51.100.7".parse().unwrap();
        let mut monitor = Monitor::new(now, SystemTime::now(), "test", MS * 50, MS * 60, None).unwrap();
        let mut seat = |number: u32| {
            // The last user sends nothing.
            let flow = (number + 1 < USERS).then(|| monitor.add_flow(format!("user-{number}"), number));
            Seat::new(
                now + MS * 10 * number,
                Arc::clone(&plan),
                number,
                local,
                flow,
                fresh,
            )
        };
        let link = |n: u32| Link::new(profile, u64::from(n)).unwrap();
        Self {
            now,
            seats: (0..USERS).map(&mut seat).collect(),
            gateway: Gateway::new(|_| Treat::Well),
            monitor,
            up: (0..USERS).map(|n| link(n * 2)).collect(),
            down: (0..USERS).map(|n| link(n * 2 + 1)).collect(),
            profile,
            nonces: BTreeSet::new(),
        }
    }

    fn links(&mut self, users: std::ops::Range<usize>, profile: Profile) {
        for link in self.up[users.clone()].iter_mut().chain(&mut self.down[users]) {
            link.set_profile(profile).unwrap();
        }
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            for i in 0..self.seats.len() {
                while self.step(i) {}
            }
            let deadlines = (0..self.seats.len()).flat_map(|i| {
                [
                    self.seats[i].deadline(),
                    self.gateway.deadline(i),
                    self.up[i].deadline(),
                    self.down[i].deadline(),
                ]
            });
            match deadlines.flatten().min() {
                Some(at) if at <= end => self.now = self.now.max(at),
                _ => break,
            }
        }
        self.now = end;
    }

    fn step(&mut self, i: usize) -> bool {
        let now = self.now;
        let mut busy = false;
        if self.seats[i].deadline().is_some_and(|at| at <= now) {
            self.seats[i].turn(now, &mut self.monitor).unwrap();
            busy = true;
        }
        while let Some(datagram) = self.seats[i].poll() {
            if datagram.bytes.len() > 16 && datagram.bytes[..4] != [0; 4] && datagram.bytes[0] != 0xff {
                let nonce = [&datagram.bytes[..4], &datagram.bytes[8..16]].concat();
                let ike = datagram.port == loadtest::user::Port::Ike;
                assert!(ike || self.nonces.insert(nonce), "an IV was used twice");
            }
            self.up[i].send(now, datagram.bytes.len(), datagram);
            busy = true;
        }
        if self.gateway.deadline(i).is_some_and(|at| at <= now) {
            self.gateway.timeout(now, i);
            busy = true;
        }
        while let Some(datagram) = self.up[i].poll(now) {
            let remote = SocketAddr::new("198.51.100.7".parse().unwrap(), 30_000 + i as u16);
            self.gateway.arrive(now, i, remote, datagram);
            busy = true;
        }
        for datagram in self.gateway.take(i) {
            self.down[i].send(now, datagram.bytes.len(), datagram);
            busy = true;
        }
        while let Some(datagram) = self.down[i].poll(now) {
            self.seats[i].datagram(now, datagram.port, datagram.bytes, &mut self.monitor);
            busy = true;
        }
        busy
    }

    fn order(&mut self, line: &str) -> Value {
        let users = self.seats.iter().map(Seat::record).collect();
        let answer = self.monitor.answer(self.now, &Order::parse(line).unwrap(), users);
        assert_eq!(answer["ok"], true, "{answer}");
        answer
    }

    fn finish(&mut self) -> Record {
        self.monitor.stop_flows(self.now);
        for seat in &mut self.seats {
            seat.stop();
        }
        self.run(SECOND);
        self.monitor.close_flows(self.now);
        self.monitor
            .record(self.now, self.seats.iter().map(Seat::record).collect())
    }
}

fn near() -> Profile {
    Profile {
        delay: MS * 2,
        ..Profile::default()
    }
}

fn dead() -> Profile {
    Profile {
        loss: 1.0,
        ..Profile::default()
    }
}

#[test]
fn three_hundred_milliseconds_without_a_packet_are_measured_as_such() {
    let mut world = World::new(steady_plan(), near());
    world.run(SECOND * 10);
    let status = world.order("status");
    assert_eq!(
        (status["up"].as_u64(), status["receiving"].as_u64()),
        (Some(5), Some(4)),
        "{status}"
    );
    world.order("mark kill a #1");
    world.links(0..2, dead());
    world.run(MS * 300);
    world.links(0..2, world.profile);
    world.run(SECOND * 10);
    world.order("mark calm");
    world.run(SECOND * 10);

    let since = &world.order("since kill a #1")["mark"];
    assert_eq!(since["users"].as_array().unwrap().len(), 2, "{since}");
    let record = world.finish();
    let reports = record.reports();
    assert_eq!([0, 1, 2].map(|i| reports[i].silent), [0, 2, 0], "{reports:?}");
    let kill = &reports[1];
    for user in &kill.users {
        // Up to one interval more at either end.
        assert!((300.0..=400.0).contains(&user.silence_ms), "{user:?}");
        assert!((5..=7).contains(&user.lost), "{user:?}");
    }
    assert_eq!((kill.flows, kill.silence_ms.min, kill.new_logins), (4, 0.0, 0));
    assert!(record.is_success(Some(400.0)) && !record.is_success(Some(290.0)));
    for flow in &record.flows {
        let tally = flow.tally;
        assert_eq!(tally.sent, tally.received + tally.lost, "{flow:?}");
        assert_eq!(
            (tally.duplicated, tally.reordered, tally.damaged, tally.unsent),
            (0, 0, 0, 0)
        );
    }
    assert!(record.users.iter().all(|user| user.liveness_checks >= 1));
}

#[test]
fn what_the_network_does_to_order_shows_and_what_it_doubles_is_stopped() {
    let profile = Profile {
        duplicate: 0.1,
        reorder: 0.1,
        reorder_by: MS * 120,
        ..near()
    };
    let mut world = World::new(steady_plan(), near());
    world.run(SECOND);
    world.links(0..USERS as usize, profile);
    world.run(SECOND * 20);
    world.links(0..USERS as usize, near());
    // An echo that answers twice sends two packets with different ESP numbers.
    world.run(SECOND);
    world.gateway.answers = 2;
    world.run(SECOND * 5);
    world.gateway.answers = 1;
    let record = world.finish();
    for flow in &record.flows {
        let tally = flow.tally;
        assert_eq!((tally.lost, tally.late, tally.damaged), (0, 0, 0), "{tally:?}");
        assert!(tally.reordered > 20, "{tally:?}");
        assert!((98..=102).contains(&tally.duplicated), "{tally:?}");
    }
    assert_eq!(record.logins, []);
}

#[test]
fn a_user_whose_gateway_has_forgotten_it_logs_in_again_and_is_counted() {
    let mut world = World::new(steady_plan(), near());
    world.run(SECOND * 5);
    world.order("mark loss");
    // The gateway lost the SAs of users 1 and 4, and answers nothing about them.
    world.gateway.forget(1);
    world.gateway.forget(4);
    world.run(SECOND * 60);
    // Retransmissions go on for 0.5 + 1 + 2 + ... + 32 s after the liveness check.
    assert_eq!(world.order("status")["new_logins"], 0);
    world.run(SECOND * 60);
    let status = world.order("status");
    assert_eq!(
        (status["new_logins"].as_u64(), status["up"].as_u64()),
        (Some(2), Some(5)),
        "{status}"
    );
    assert_eq!(status["receiving"], 4);
    let record = world.finish();
    let users: BTreeSet<u32> = record.logins.iter().map(|login| login.user).collect();
    assert_eq!(users, BTreeSet::from([1, 4]));
    assert!(
        record.logins[0].reason.contains("the peer does not answer"),
        "{:?}",
        record.logins
    );
    let report = record.report_of("loss").unwrap();
    assert_eq!((report.new_logins, report.silent), (2, 1));
    // Liveness after at most 20 s, then 63.5 s of retransmissions, then a new login.
    assert!(
        (63_000.0..90_000.0).contains(&report.silence_ms.max),
        "{report:?}"
    );
    assert!(!record.is_success(None));
    let user = &record.users[1];
    assert!(
        user.retransmits >= 6 && user.up && user.new_logins == 1,
        "{user:?}"
    );
}

#[test]
fn rekeys_and_deletes_are_counted_and_cost_no_packet() {
    let mut plan = steady_plan();
    let every = |secs| Lifetime {
        soft: Some(SECOND * secs),
        ..Lifetime::default()
    };
    (plan.child_lifetime, plan.ike_lifetime) = (every(5), every(12));
    let mut world = World::new(plan, near());
    // The gateway rekeys too: what a user has just made, while the predecessor of that still lingers.
    for _ in 0..5 {
        let count = |world: &World| world.seats[3].record().child_rekeys;
        let before = count(&world);
        while count(&world) == before {
            world.run(MS * 100);
        }
        world.run(SECOND);
        world
            .gateway
            .command(world.now, 3, |spi_in| Command::RekeyChild { spi_in, group: None });
        world.run(MS * 100);
        assert_eq!(count(&world), before + 2);
    }
    world.run(SECOND * 5);
    assert_eq!(world.order("status")["new_logins"], 0);
    let before = world.monitor.record(world.now, Vec::new());
    for flow in &before.flows {
        assert_eq!(
            (flow.tally.lost, &flow.silences[..], &flow.losses[..]),
            (0, &[][..], &[][..])
        );
    }
    // The gateway ends one connection.
    world.gateway.command(world.now, 2, |_| Command::Close);
    world.run(MS * 100);
    world.gateway.forget(2);
    world.run(SECOND * 5);
    let record = world.finish();
    for user in &record.users {
        let most = if user.user == 3 { 20 } else { 10 };
        assert!(
            (6..=most).contains(&user.child_rekeys) && (2..=4).contains(&user.ike_rekeys),
            "{user:?}"
        );
        assert_eq!(user.new_logins, u64::from(user.user == 2), "{user:?}");
        assert_eq!(user.rekey_failures, 0);
    }
    assert!(
        record.logins[0].reason.contains("deleted by the peer"),
        "{:?}",
        record.logins
    );
}
