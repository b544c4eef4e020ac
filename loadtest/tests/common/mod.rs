//! Many users against gateways in the same process: the same state machines on both sides, links between them that can
//! misbehave, and a clock that only this file moves.
#![allow(dead_code, reason = "each test file uses a part")]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crypto::{Random, Secret, SeededRandom};
use esp::{InboundParams, InboundSa, OutboundParams, OutboundSa, tunnel};
use ike::auth::{self, AuthVerdict, Grant, LocalCredential, PeerCredential, Rejection};
use ike::config::{Assigned, ConfigRequest};
use ike::wire::NotifyType;
use ike::wire::Spi;
use ike::{
    Activate, ChildPolicy, ChildSa, Command, Context, Event, Identity, IkeSa, InitPolicy, Input, Lifetime,
    Output, RekeyPolicy, SpiAllocator, Timing,
};
use loadtest::credentials::Credentials;
use loadtest::plan::{Plan, Traffic};
use loadtest::probe::{self, Service};
use loadtest::user::{Datagram, Port, State, Summary, User, marker};
use netem::{Link, Profile};

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
        traffic: traffic.then(|| Traffic {
            target: "10.20.0.1".parse().unwrap(),
            service: Service::Icmp,
            size: 200,
            interval: SECOND / 10,
        }),
    }
}

/// SPIs of all gateways of a test: the counter makes them unique, as a real allocator does.
#[derive(Default)]
struct Spis {
    ike: AtomicU64,
    esp: AtomicU32,
}

impl SpiAllocator for Spis {
    fn ike(&self) -> Spi {
        Spi(0xfeed_0000_0000_0001 + self.ike.fetch_add(1, Ordering::Relaxed))
    }

    fn esp(&self, _worker: u8) -> u32 {
        0x100 + self.esp.fetch_add(1, Ordering::Relaxed)
    }

    fn release_esp(&self, _spi: u32) {}

    fn claim_esp(&self, _spi: u32) -> bool {
        true
    }
}

struct Child {
    spi_in: u32,
    ts_local: Vec<ip::Selector>,
    ts_remote: Vec<ip::Selector>,
    inbound: InboundSa,
    outbound: OutboundSa,
    usable: bool,
}

/// The gateway's side of one user.
struct Served {
    ike: Option<IkeSa>,
    children: Vec<Child>,
    out: Vec<Datagram>,
    /// Packets from inside the tunnel that were answered.
    answered: u64,
    faults: Vec<String>,
}

/// How the gateway treats one user.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Treat {
    Well,
    WrongSecret,
    NoChild,
}

/// Users, gateways, links, time.
pub(crate) struct World {
    pub(crate) now: Instant,
    pub(crate) users: Vec<User>,
    served: Vec<Served>,
    up: Vec<Link<Datagram>>,
    down: Vec<Link<Datagram>>,
    treat: fn(u32) -> Treat,
    spis: Arc<Spis>,
    pub(crate) seen: Mutex<Vec<String>>,
}

impl World {
    pub(crate) fn new(count: u32, plan: Plan, profile: Profile, treat: fn(u32) -> Treat) -> Self {
        let now = Instant::now();
        let plan = Arc::new(plan);
        let local: IpAddr = "198.51.100.7".parse().unwrap();
        let link = |n: u32| Link::new(profile, u64::from(n)).unwrap();
        let fresh = || Served {
            ike: None,
            children: Vec::new(),
            out: Vec::new(),
            answered: 0,
            faults: Vec::new(),
        };
        Self {
            now,
            users: (0..count)
                .map(|n| User::start(now, &plan, n, local, seeded).unwrap())
                .collect(),
            served: (0..count).map(|_| fresh()).collect(),
            up: (0..count).map(|n| link(n * 2)).collect(),
            down: (0..count).map(|n| link(n * 2 + 1)).collect(),
            treat,
            spis: Arc::default(),
            seen: Mutex::default(),
        }
    }

    /// Lets everything happen that is due within `time`.
    pub(crate) fn run(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            self.settle();
            let next = (0..self.users.len())
                .flat_map(|i| {
                    let gateway = self.served[i]
                        .ike
                        .as_ref()
                        .and_then(IkeSa::deadline)
                        .map(|(at, _)| at);
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
        if self.served[i]
            .ike
            .as_ref()
            .and_then(IkeSa::deadline)
            .is_some_and(|(at, _)| at <= now)
        {
            self.served[i].ike.as_mut().unwrap().handle(now, Input::Timeout);
            self.drain(i);
            busy = true;
        }
        while let Some(datagram) = self.up[i].poll(now) {
            self.arrive(i, datagram);
            busy = true;
        }
        for datagram in std::mem::take(&mut self.served[i].out) {
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
        let spi_in = self.served[i].children.last().map_or(0, |child| child.spi_in);
        self.served[i]
            .ike
            .as_mut()
            .unwrap()
            .handle(self.now, Input::Command(command(spi_in)));
        self.drain(i);
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

    /// Packets that the gateway answered, and what went wrong there.
    pub(crate) fn gateway_counts(&self) -> (u64, Vec<String>) {
        let faults = self.served.iter().flat_map(|s| s.faults.clone()).collect();
        (self.served.iter().map(|s| s.answered).sum(), faults)
    }

    pub(crate) fn finish(self) -> Vec<Summary> {
        let now = self.now;
        self.users.into_iter().map(|user| user.finish(now)).collect()
    }

    fn arrive(&mut self, i: usize, datagram: Datagram) {
        let Datagram { port, mut bytes } = datagram;
        if port == Port::Nat {
            if bytes.len() < 4 {
                return;
            }
            if bytes[..4] != [0; 4] {
                self.arrive_esp(i, &mut bytes);
                return;
            }
            bytes.drain(..4);
        }
        let gateway: IpAddr = GATEWAY.parse().unwrap();
        let local = SocketAddr::new(gateway, if port == Port::Nat { 4500 } else { 500 });
        let remote = SocketAddr::new("198.51.100.7".parse().unwrap(), 30_000 + i as u16);
        let now = self.now;
        let spis = Arc::clone(&self.spis);
        let ike = self.served[i].ike.get_or_insert_with(|| {
            let policy = InitPolicy::new(vec!["aes256gcm16-prfsha256-curve25519".parse().unwrap()]);
            let context = Context {
                random: seeded(1_000_000 + i as u32),
                spis,
                generation: 1,
                key_log: false,
                timing: Timing::default(),
            };
            IkeSa::respond(now, context, policy, local, remote)
        });
        ike.handle(now, Input::Datagram { local, remote, bytes });
        self.drain(i);
    }

    fn arrive_esp(&mut self, i: usize, bytes: &mut [u8]) {
        let served = &mut self.served[i];
        let spi = u32::from_be_bytes(*bytes.first_chunk().unwrap());
        let Some(child) = served.children.iter_mut().find(|child| child.spi_in == spi) else {
            served.faults.push(format!("unknown SPI {spi:08x}"));
            return;
        };
        let end = bytes.len();
        let inner = match child.inbound.open(bytes, 0..end) {
            Ok(opened) => bytes[opened.inner].to_vec(),
            Err(reason) => {
                served.faults.push(reason.to_string());
                return;
            }
        };
        child.usable = true;
        if let Err(reason) = tunnel::check_inner(&inner, &child.ts_remote, &child.ts_local) {
            served.faults.push(reason.to_string());
            return;
        }
        let answer = probe::echo(&inner).unwrap();
        let mut buf = [&[0; esp::HEAD_ROOM][..], &answer, &[0; esp::TAIL_ROOM]].concat();
        let child = served
            .children
            .iter_mut()
            .rev()
            .find(|child| child.usable)
            .unwrap();
        let range = esp::HEAD_ROOM..esp::HEAD_ROOM + answer.len();
        let esp = child.outbound.seal(&mut buf, range, 4).unwrap();
        served.answered += 1;
        served.out.push(Datagram {
            port: Port::Nat,
            bytes: buf[esp].to_vec(),
        });
    }

    fn drain(&mut self, i: usize) {
        while let Some(output) = self.served[i].ike.as_mut().and_then(IkeSa::poll) {
            let event = match output {
                Output::Transmit(transmit) => {
                    let (port, marker): (_, &[u8]) = if transmit.local.port() == 4500 {
                        (Port::Nat, marker(&transmit.bytes))
                    } else {
                        (Port::Ike, &[])
                    };
                    let bytes = [marker, &transmit.bytes].concat();
                    self.served[i].out.push(Datagram { port, bytes });
                    continue;
                }
                Output::Event(event) => event,
            };
            match event {
                Event::Authenticate { ticket, job } => {
                    let verdict = Box::new(self.decide(i as u32, &job));
                    let now = self.now;
                    self.served[i]
                        .ike
                        .as_mut()
                        .unwrap()
                        .handle(now, Input::AuthResult { ticket, verdict });
                }
                Event::ChildUp(child) => self.install(i, &child),
                Event::ChildRekeyed { new, .. } => self.install(i, &new),
                Event::ChildDown { spi_in, .. } => self.served[i].children.retain(|c| c.spi_in != spi_in),
                Event::Failed(failure) => self.seen.lock().unwrap().push(failure.to_string()),
                _ => {}
            }
        }
    }

    fn decide(&self, number: u32, job: &auth::AuthJob) -> AuthVerdict {
        let treat = (self.treat)(number);
        let secret = match treat {
            Treat::WrongSecret => Secret::from(&b"another"[..]),
            Treat::Well | Treat::NoChild => Secret::from(format!("secret of {number:05}").into_bytes()),
        };
        let expected: Identity = format!("user-{number:05}@load.example").parse().unwrap();
        assert_eq!(job.peer_id, expected);
        if let Err(failure) = auth::verify(job, &PeerCredential::Psk(secret.clone())) {
            return AuthVerdict::Reject(Rejection {
                notify: failure.notify(),
                reason: failure.to_string(),
            });
        }
        let own = LocalCredential::psk("gw.example".parse().unwrap(), secret);
        let address = Ipv4Addr::new(10, 9, (number >> 8) as u8, number as u8);
        let lifetime = Lifetime::default();
        AuthVerdict::Accept(Box::new(Grant {
            connection: "load".to_owned(),
            tenant: "acme".to_owned(),
            local_auth: auth::sign(job, &own).unwrap(),
            policy: ChildPolicy {
                proposals: vec!["aes256gcm16-noesn".parse().unwrap()],
                ts_local: vec!["10.20.0.0/24".parse().unwrap()],
                ts_remote: vec![ip::Selector::host(address.into())],
                lifetime,
                replay_window: 64,
                worker: 0,
                rekey: RekeyPolicy::AtSoftLimit,
                max_children: 4,
            },
            assigned: Assigned {
                v4: Some(address),
                ..Assigned::default()
            },
            child_refused: (treat == Treat::NoChild).then(|| Rejection {
                notify: NotifyType::INTERNAL_ADDRESS_FAILURE,
                reason: "no address is free".to_owned(),
            }),
            ike_lifetime: lifetime,
            liveness: None,
        }))
    }

    fn install(&mut self, i: usize, child: &ChildSa) {
        let inbound = InboundSa::new(&InboundParams {
            spi: child.spi_in,
            suite: child.suite,
            enc_key: child.keys_in.enc.clone(),
            integ_key: child.keys_in.integ.clone(),
            esn: child.esn,
            window: child.replay_window,
            checkpoint: 0,
        });
        let outbound = OutboundSa::new(&OutboundParams {
            spi: child.spi_out,
            suite: child.suite,
            enc_key: child.keys_out.enc.clone(),
            integ_key: child.keys_out.integ.clone(),
            esn: child.esn,
            generation: 1,
            first_seq: 1,
            ceiling: u64::MAX,
            tfc_pad_to: 0,
        });
        self.served[i].children.push(Child {
            spi_in: child.spi_in,
            ts_local: child.ts_local.clone(),
            ts_remote: child.ts_remote.clone(),
            inbound: inbound.unwrap(),
            outbound: outbound.unwrap(),
            usable: child.activate == Activate::Now,
        });
    }
}
