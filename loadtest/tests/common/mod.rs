//! Many users against gateways in the same process: the same state machines on both sides, links between them that can
//! misbehave, and a clock that only this file moves.
#![allow(dead_code, reason = "each test file uses a part")]

mod gateway;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crypto::{Random, SeededRandom};
use ike::config::ConfigRequest;
use ike::{Command, Lifetime, Timing};
use loadtest::credentials::Credentials;
use loadtest::inner::Service;
use loadtest::plan::{Plan, Traffic};
use loadtest::user::{Datagram, State, Summary, User};
use netem::{Link, Profile};

pub(crate) use gateway::{Gateway, Treat};

pub(crate) const GATEWAY: &str = "192.0.2.1";
pub(crate) const SECOND: Duration = Duration::from_secs(1);

pub(crate) fn seeded(number: u32) -> Box<dyn Random> {
    Box::new(SeededRandom::from_seed(u64::from(number) + 1))
}

pub(crate) fn plan(traffic: bool) -> Plan {
    Plan {
        gateway: GATEWAY.parse().unwrap(),
        ike_port: 500,
        nat_port: 4500,
        id: "user-{user}@{domain}".to_owned(),
        domain: "load.example".to_owned(),
        remote_id: Some("gw.example".parse().unwrap()),
        credentials: Credentials::psk("secret of {user}"),
        ike: vec!["aes256gcm16-prfsha256-curve25519".parse().unwrap()],
        esp: vec!["aes256gcm16-noesn".parse().unwrap()],
        remote_ts: vec!["0.0.0.0/0".parse().unwrap()],
        request: ConfigRequest::ipv4(),
        timing: Timing::default(),
        liveness: None,
        ike_lifetime: Lifetime::default(),
        child_lifetime: Lifetime::default(),
        traffic: traffic.then(|| Traffic {
            target: "10.20.0.1".parse().unwrap(),
            service: Service::Icmp,
            size: 200,
            interval: SECOND / 10,
        }),
    }
}

/// Users, gateways, links, time.
pub(crate) struct World {
    pub(crate) now: Instant,
    pub(crate) users: Vec<User>,
    pub(crate) gateway: Gateway,
    up: Vec<Link<Datagram>>,
    down: Vec<Link<Datagram>>,
}

impl World {
    pub(crate) fn new(count: u32, plan: Plan, profile: Profile, treat: fn(u32) -> Treat) -> Self {
        let now = Instant::now();
        let plan = Arc::new(plan);
        let local: IpAddr = "198.51.100.7".parse().unwrap();
        let link = |n: u32| Link::new(profile, u64::from(n)).unwrap();
        Self {
            now,
            users: (0..count)
                .map(|n| User::start(now, &plan, n, local, seeded).unwrap())
                .collect(),
            gateway: Gateway::new(treat),
            up: (0..count).map(|n| link(n * 2)).collect(),
            down: (0..count).map(|n| link(n * 2 + 1)).collect(),
        }
    }

    /// Lets everything happen that is due within `time`.
    pub(crate) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            self.settle();
            let next = (0..self.users.len())
                .flat_map(|i| {
                    let gateway = self.gateway.deadline(i);
                    [
                        self.users[i].deadline(),
                        gateway,
                        self.up[i].deadline(),
                        self.down[i].deadline(),
                    ]
                })
                .flatten()
                .min();
            match next {
                Some(at) if at <= end => self.now = self.now.max(at),
                _ => break,
            }
        }
        self.now = end;
    }

    /// Everything that is due at this moment, until nothing is.
    fn settle(&mut self) {
        for i in 0..self.users.len() {
            for _ in 0..10_000 {
                if !self.step(i) {
                    break;
                }
            }
        }
    }

    fn step(&mut self, i: usize) -> bool {
        let now = self.now;
        let mut busy = false;
        if self.users[i].deadline().is_some_and(|at| at <= now) {
            self.users[i].timeout(now);
            busy = true;
        }
        while let Some(datagram) = self.users[i].poll() {
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
            self.users[i].datagram(now, datagram.port, datagram.bytes);
            busy = true;
        }
        busy
    }

    /// An order to the gateway's IKE SA of a user.
    pub(crate) fn command(&mut self, i: usize, command: impl Fn(u32) -> Command) {
        self.gateway.command(self.now, i, command);
    }

    pub(crate) fn start_traffic(&mut self, time: Duration) {
        for user in &mut self.users {
            user.start_traffic(self.now, self.now + time);
        }
    }

    pub(crate) fn close(&mut self) {
        for user in &mut self.users {
            user.close(self.now);
        }
    }

    pub(crate) fn count(&self, wanted: impl Fn(&State) -> bool) -> usize {
        self.users.iter().filter(|user| wanted(user.state())).count()
    }

    pub(crate) fn finish(self) -> Vec<Summary> {
        let now = self.now;
        self.users.into_iter().map(|user| user.finish(now)).collect()
    }
}
