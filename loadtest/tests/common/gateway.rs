//! The gateway's side of many users: `ike` as responder, a decision for everybody, an echo behind every tunnel.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Instant;

use crypto::Secret;
use esp::{InboundParams, InboundSa, OutboundParams, OutboundSa, tunnel};
use ike::auth::{self, AuthVerdict, Grant, LocalCredential, PeerCredential, Rejection};
use ike::config::Assigned;
use ike::wire::{NotifyType, Spi};
use ike::{
    Activate, ChildPolicy, ChildSa, Command, Context, Event, IkeSa, InitPolicy, Input, Lifetime, Output,
    RekeyPolicy, SpiAllocator, Timing,
};
use loadtest::inner;
use loadtest::user::{Datagram, Port, marker};

use super::{GATEWAY, seeded};

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
    /// SAs that are unknown now may still be used by the user.
    forgotten: bool,
}

/// How the gateway treats one user.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Treat {
    Well,
    WrongSecret,
    NoChild,
}

/// The gateway's side of many users, told apart by an index.
pub(crate) struct Gateway {
    served: Vec<Served>,
    treat: fn(u32) -> Treat,
    spis: Arc<Spis>,
    /// Failures that the gateway saw.
    pub(crate) failures: Vec<String>,
    /// How often each packet is answered.
    pub(crate) answers: usize,
}

impl Gateway {
    pub(crate) fn new(treat: fn(u32) -> Treat) -> Self {
        Self {
            served: Vec::new(),
            treat,
            spis: Arc::default(),
            failures: Vec::new(),
            answers: 1,
        }
    }

    fn grow(&mut self, i: usize) {
        while self.served.len() <= i {
            let (children, out, faults) = (Vec::new(), Vec::new(), Vec::new());
            self.served.push(Served {
                ike: None,
                children,
                out,
                answered: 0,
                faults,
                forgotten: false,
            });
        }
    }

    /// When user `i` needs a timeout.
    pub(crate) fn deadline(&self, i: usize) -> Option<Instant> {
        self.served.get(i)?.ike.as_ref()?.deadline().map(|(at, _)| at)
    }

    pub(crate) fn timeout(&mut self, now: Instant, i: usize) {
        self.served[i].ike.as_mut().unwrap().handle(now, Input::Timeout);
        self.drain(now, i);
    }

    /// What goes to user `i`.
    pub(crate) fn take(&mut self, i: usize) -> Vec<Datagram> {
        self.served
            .get_mut(i)
            .map(|served| std::mem::take(&mut served.out))
            .unwrap_or_default()
    }

    /// Loses all that it knows of user `i`, without a word; what comes for the old SAs is dropped, a new login is served.
    pub(crate) fn forget(&mut self, i: usize) {
        let served = &mut self.served[i];
        (served.ike, served.children, served.forgotten) = (None, Vec::new(), true);
    }

    /// An order to the IKE SA of user `i`, about its newest child.
    pub(crate) fn command(&mut self, now: Instant, i: usize, command: impl Fn(u32) -> Command) {
        let spi_in = self.served[i].children.last().map_or(0, |child| child.spi_in);
        self.served[i]
            .ike
            .as_mut()
            .unwrap()
            .handle(now, Input::Command(command(spi_in)));
        self.drain(now, i);
    }

    /// Packets that were answered, and what went wrong.
    pub(crate) fn counts(&self) -> (u64, Vec<String>) {
        let faults = self.served.iter().flat_map(|s| s.faults.clone()).collect();
        (self.served.iter().map(|s| s.answered).sum(), faults)
    }

    /// A datagram of user `i` arrived.
    pub(crate) fn arrive(&mut self, now: Instant, i: usize, remote: SocketAddr, datagram: Datagram) {
        self.grow(i);
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
        // A forgotten SA: only a message of a new one (its responder SPI is not known yet) begins anew.
        if self.served[i].forgotten && self.served[i].ike.is_none() && bytes[8..16] != [0; 8] {
            return;
        }
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
        self.drain(now, i);
    }

    fn arrive_esp(&mut self, i: usize, bytes: &mut [u8]) {
        let served = &mut self.served[i];
        let spi = u32::from_be_bytes(*bytes.first_chunk().unwrap());
        let Some(child) = served.children.iter_mut().find(|child| child.spi_in == spi) else {
            if served.forgotten {
                return;
            }
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
        if let Err(reason) = tunnel::check_inner(&inner, None, &child.ts_remote, &child.ts_local) {
            served.faults.push(reason.to_string());
            return;
        }
        let answer = inner::echo(&inner).unwrap();
        let mut buf = [&[0; esp::HEAD_ROOM][..], &answer, &[0; esp::TAIL_ROOM]].concat();
        let child = served
            .children
            .iter_mut()
            .rev()
            .find(|child| child.usable)
            .unwrap();
        for _ in 0..self.answers {
            buf[esp::HEAD_ROOM..esp::HEAD_ROOM + answer.len()].copy_from_slice(&answer);
            let range = esp::HEAD_ROOM..esp::HEAD_ROOM + answer.len();
            let esp = child.outbound.seal(&mut buf, range, 4).unwrap();
            served.answered += 1;
            served.out.push(Datagram {
                port: Port::Nat,
                bytes: buf[esp].to_vec(),
            });
        }
    }

    fn drain(&mut self, now: Instant, i: usize) {
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
                    let verdict = Box::new(self.decide(&job));
                    self.served[i]
                        .ike
                        .as_mut()
                        .unwrap()
                        .handle(now, Input::AuthResult { ticket, verdict });
                }
                Event::ChildUp(child) => self.install(i, &child),
                Event::ChildRekeyed { new, .. } => self.install(i, &new),
                Event::ChildDown { spi_in, .. } => self.served[i].children.retain(|c| c.spi_in != spi_in),
                Event::Failed(failure) => self.failures.push(failure.to_string()),
                _ => {}
            }
        }
    }

    fn decide(&self, job: &auth::AuthJob) -> AuthVerdict {
        let id = job.peer_id.to_string();
        let digits = id
            .strip_prefix("user-")
            .and_then(|rest| rest.strip_suffix("@load.example"));
        let number: u32 = digits.unwrap().parse().unwrap();
        let treat = (self.treat)(number);
        let secret = match treat {
            Treat::WrongSecret => Secret::from(&b"another"[..]),
            Treat::Well | Treat::NoChild => Secret::from(format!("secret of {number:05}").into_bytes()),
        };
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
                resources: Vec::new(),
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
