//! Two IKE SAs, a virtual clock and a wire between them.

use std::collections::{HashSet, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crypto::cert::{Certificate, Purpose, TrustAnchors};
use crypto::sign::PrivateKey;
use crypto::{Random, Secret, SeededRandom};
use ike::auth::{
    AuthJob, AuthPhase, AuthVerdict, Grant, LocalCredential, PeerCredential, Rejection, sign, verify,
};
use ike::config::Assigned;
use ike::wire::Spi;
use ike::wire::proposal::{ChildProposal, IkeProposal, parse_child_list, parse_ike_list};
use ike::{
    ChildPolicy, ChildSa, Context, Event, Failure, Identity, IkeSa, InitPolicy, InitiatorConfig, Input,
    Lifetime, Output, RekeyPolicy, Role, SpiAllocator, Timing, Transmit,
};

pub const PSK: &[u8] = b"correct horse battery staple";
pub const CLIENT: &str = "198.51.100.7:500";
pub const GATEWAY: &str = "192.0.2.1:500";

/// SPIs in order, with a record of those in use.
pub struct Spis {
    next: AtomicU64,
    base: u64,
    pub taken: Mutex<HashSet<u32>>,
}

impl Spis {
    pub fn new(base: u64) -> Arc<Self> {
        Arc::new(Self {
            next: AtomicU64::new(1),
            base,
            taken: Mutex::default(),
        })
    }
}

impl SpiAllocator for Spis {
    fn ike(&self) -> Spi {
        Spi(self.base << 32 | self.next.fetch_add(1, Ordering::Relaxed))
    }
    fn esp(&self, worker: u8) -> u32 {
        let low = u32::try_from(self.next.fetch_add(1, Ordering::Relaxed)).unwrap();
        let spi = u32::from(worker) << 29 | 0x1000 | low;
        self.taken.lock().unwrap().insert(spi);
        spi
    }
    fn release_esp(&self, spi: u32) {
        assert!(self.taken.lock().unwrap().remove(&spi), "released twice: {spi:x}");
    }
    fn claim_esp(&self, spi: u32) -> bool {
        self.taken.lock().unwrap().insert(spi)
    }
}

/// What a side proves and wants proved.
#[derive(Clone)]
pub struct Proof {
    pub local: LocalCredential,
    pub peer: PeerCredential,
}

/// A shared key on both sides.
pub fn psk(id: &str) -> Proof {
    Proof {
        local: LocalCredential::psk(id.parse().unwrap(), Secret::from(PSK)),
        peer: PeerCredential::Psk(Secret::from(PSK)),
    }
}

pub fn pem(name: &str) -> Vec<u8> {
    let path = format!("{}/tests/pki/{name}.pem", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

pub fn certificate(name: &str) -> Certificate {
    Certificate::from_pem(&pem(name)).unwrap().remove(0)
}

pub fn chain(name: &str) -> Vec<Vec<u8>> {
    let mut chain = vec![certificate(name).der().to_vec()];
    if name == "rsa4096" {
        chain.push(certificate("rsa-inter").der().to_vec());
    }
    chain
}

/// A year after the test certificates were made.
pub fn in_validity() -> i64 {
    certificate("p256").not_before() + 365 * 86_400
}

/// A certificate of our own, and trust in the test authorities.
pub fn cert(id: &str, name: &str) -> Proof {
    let key = Arc::new(PrivateKey::from_pem(&pem(&format!("{name}.key"))).unwrap());
    let anchors = Arc::new(TrustAnchors::new(vec![
        certificate("root"),
        certificate("rsa-root"),
    ]));
    Proof {
        local: LocalCredential::certificate(id.parse().unwrap(), key, chain(name)),
        peer: PeerCredential::Certificates {
            anchors,
            now_unix: in_validity(),
            purpose: Purpose::Any,
        },
    }
}

pub fn ike(text: &str) -> Vec<IkeProposal> {
    parse_ike_list(text).unwrap()
}

pub fn esp(text: &str) -> Vec<ChildProposal> {
    parse_child_list(text).unwrap()
}

pub fn policy(local: &[&str], remote: &[&str]) -> ChildPolicy {
    let selectors = |list: &[&str]| list.iter().map(|text| text.parse().unwrap()).collect();
    ChildPolicy {
        proposals: esp("aes256gcm16,aes256-sha256"),
        ts_local: selectors(local),
        ts_remote: selectors(remote),
        lifetime: Lifetime::default(),
        replay_window: 64,
        worker: 3,
        resources: Vec::new(),
        rekey: RekeyPolicy::AtSoftLimit,
        max_children: 4,
    }
}

/// What a responder makes of a verified peer.
pub type Decide = Box<dyn FnMut(&AuthJob, Grant) -> AuthVerdict>;

/// One end.
pub struct Side {
    pub sa: IkeSa,
    pub events: Vec<Event>,
    pub jobs: Vec<AuthJob>,
    pub spis: Arc<Spis>,
    pub proof: Proof,
    pub grant: Decide,
    pub policy: ChildPolicy,
    pub assigned: Assigned,
    /// Every input, for replays.
    pub inputs: Vec<(Instant, Input)>,
    /// Everything that came out, in words.
    pub trace: Vec<String>,
    /// Every datagram sent.
    pub sent: Vec<Transmit>,
}

impl Side {
    pub fn new(sa: IkeSa, spis: Arc<Spis>, proof: Proof, policy: ChildPolicy) -> Self {
        Self {
            sa,
            events: Vec::new(),
            jobs: Vec::new(),
            spis,
            proof,
            grant: Box::new(|_, grant| AuthVerdict::Accept(Box::new(grant))),
            policy,
            assigned: Assigned::default(),
            inputs: Vec::new(),
            trace: Vec::new(),
            sent: Vec::new(),
        }
    }

    pub fn handle(&mut self, now: Instant, input: Input) -> Vec<Transmit> {
        self.inputs.push((now, input.clone()));
        self.sa.handle(now, input);
        self.drain(now)
    }

    pub fn drain(&mut self, now: Instant) -> Vec<Transmit> {
        let mut transmits = Vec::new();
        let mut verdicts = Vec::new();
        while let Some(output) = self.sa.poll() {
            self.trace.push(format!("{output:?}"));
            match output {
                Output::Transmit(transmit) => transmits.push(transmit),
                Output::Event(Event::Authenticate { ticket, job }) => {
                    verdicts.push((ticket, self.decide(&job)));
                    self.jobs.push(*job);
                }
                Output::Event(event) => self.events.push(event),
            }
        }
        self.sent.extend(transmits.iter().cloned());
        for (ticket, verdict) in verdicts {
            let verdict = Box::new(verdict);
            transmits.extend(self.handle(now, Input::AuthResult { ticket, verdict }));
        }
        transmits
    }

    /// What a shell's blocking pool does.
    fn decide(&mut self, job: &AuthJob) -> AuthVerdict {
        let reject = |failure: ike::auth::AuthFailure| {
            AuthVerdict::Reject(Rejection {
                notify: failure.notify(),
                reason: failure.to_string(),
            })
        };
        match job.phase {
            AuthPhase::Local => match sign(job, &self.proof.local) {
                Ok(auth) => AuthVerdict::Signed(auth),
                Err(failure) => reject(failure),
            },
            AuthPhase::Peer => match verify(job, &self.proof.peer) {
                Ok(peer) => AuthVerdict::Verified(peer),
                Err(failure) => reject(failure),
            },
            AuthPhase::Both => {
                if let Err(failure) = verify(job, &self.proof.peer) {
                    return reject(failure);
                }
                let local_auth = match sign(job, &self.proof.local) {
                    Ok(auth) => auth,
                    Err(failure) => return reject(failure),
                };
                let grant = Grant {
                    connection: "road".to_owned(),
                    tenant: "acme".to_owned(),
                    local_auth,
                    policy: self.policy.clone(),
                    assigned: self.assigned.clone(),
                    child_refused: None,
                    ike_lifetime: Lifetime::default(),
                    liveness: None,
                };
                (self.grant)(job, grant)
            }
        }
    }

    pub fn failure(&self) -> &Failure {
        let mut failures = self.events.iter().filter_map(|event| match event {
            Event::Failed(failure) => Some(failure),
            _ => None,
        });
        let failure = failures
            .next()
            .unwrap_or_else(|| panic!("no failure: {:#?}", self.events));
        assert!(failures.next().is_none(), "two failures");
        failure
    }

    pub fn has_failed(&self) -> bool {
        self.events.iter().any(|event| matches!(event, Event::Failed(_)))
    }

    pub fn is_established(&self) -> bool {
        self.events
            .iter()
            .any(|event| matches!(event, Event::Established { .. }))
    }

    pub fn child(&self) -> &ChildSa {
        let child = self.events.iter().find_map(|event| match event {
            Event::ChildUp(child) => Some(child),
            _ => None,
        });
        child.unwrap_or_else(|| panic!("no child: {:#?}", self.events))
    }

    pub fn child_failed(&self) -> &str {
        let reason = self.events.iter().find_map(|event| match event {
            Event::ChildFailed { reason } => Some(reason),
            _ => None,
        });
        reason.unwrap_or_else(|| panic!("child did not fail: {:#?}", self.events))
    }

    pub fn steps(&self) -> Vec<&'static str> {
        self.events
            .iter()
            .filter_map(|event| match event {
                Event::Step { name, .. } => Some(*name),
                _ => None,
            })
            .collect()
    }
}

/// What the wire does with a datagram.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    Deliver,
    Drop,
    Twice,
    /// After everything that is on its way.
    Late,
}

/// Both ends and the wire.
pub struct Pair {
    pub now: Instant,
    pub initiator: Side,
    pub responder: Side,
    pub wire: VecDeque<(Role, Transmit)>,
    /// Asked for every datagram, with its sender and number.
    pub fate: Box<dyn FnMut(Role, usize) -> Fate>,
    /// The initiator's address as the responder sees it, with a port for each of the initiator's.
    pub nat: Option<std::net::IpAddr>,
    pub count: usize,
}

/// Ingredients, to be changed before [`Setup::pair`].
pub struct Setup {
    pub init: InitPolicy,
    pub config: InitiatorConfig,
    pub client: Proof,
    pub gateway: Proof,
    pub gateway_policy: ChildPolicy,
    pub assigned: Assigned,
    pub seed: u64,
    pub key_log: bool,
    pub addresses: (SocketAddr, SocketAddr),
    pub timing: Timing,
    pub now: Instant,
}

impl Setup {
    pub fn new(client: Proof, gateway: Proof) -> Self {
        let proposals = ike("aes256gcm16-prfsha256-x25519");
        Self {
            init: InitPolicy::new(proposals.clone()),
            config: InitiatorConfig::new(proposals, policy(&["10.9.0.0/16"], &["0.0.0.0/0"])),
            client,
            gateway,
            gateway_policy: policy(&["10.0.0.0/8"], &["10.9.0.0/16"]),
            assigned: Assigned::default(),
            seed: 1,
            key_log: false,
            addresses: (CLIENT.parse().unwrap(), GATEWAY.parse().unwrap()),
            timing: Timing::default(),
            now: epoch(),
        }
    }

    pub fn psk() -> Self {
        Self::new(psk("alice@example.org"), psk("gw.example.org"))
    }

    pub fn context(&self, spis: &Arc<Spis>, seed: u64) -> Context {
        Context {
            random: Box::new(SeededRandom::from_seed(seed)) as Box<dyn Random>,
            spis: Arc::clone(spis) as Arc<dyn SpiAllocator>,
            generation: 7,
            key_log: self.key_log,
            timing: self.timing,
        }
    }

    pub fn pair(self) -> Pair {
        let now = self.now;
        let (client, gateway) = self.addresses;
        let (spis_i, spis_r) = (Spis::new(0xaaaa), Spis::new(0xbbbb));
        let initiator = IkeSa::initiate(
            now,
            self.context(&spis_i, self.seed),
            self.config.clone(),
            client,
            gateway,
        );
        let responder = IkeSa::respond(
            now,
            self.context(&spis_r, self.seed + 1000),
            self.init.clone(),
            gateway,
            client,
        );
        let mut pair = Pair {
            now,
            initiator: Side::new(initiator, spis_i, self.client, self.config.child),
            responder: Side::new(responder, spis_r, self.gateway, self.gateway_policy),
            wire: VecDeque::new(),
            fate: Box::new(|_, _| Fate::Deliver),
            nat: None,
            count: 0,
        };
        pair.responder.assigned = self.assigned;
        pair
    }

    /// Runs until nothing moves.
    pub fn run(self) -> Pair {
        let mut pair = self.pair();
        pair.run();
        pair
    }
}

impl Pair {
    pub fn side(&mut self, role: Role) -> &mut Side {
        match role {
            Role::Initiator => &mut self.initiator,
            Role::Responder => &mut self.responder,
        }
    }

    pub fn post(&mut self, from: Role, transmits: Vec<Transmit>) {
        for transmit in transmits {
            let number = self.count;
            self.count += 1;
            match (self.fate)(from, number) {
                Fate::Deliver => self.wire.push_back((from, transmit)),
                Fate::Drop => {}
                Fate::Twice => {
                    self.wire.push_back((from, transmit.clone()));
                    self.wire.push_back((from, transmit));
                }
                Fate::Late => {
                    let at = self.wire.len().min(1);
                    self.wire.push_front((from, transmit));
                    self.wire.rotate_left(at);
                }
            }
        }
    }

    /// Delivers one datagram; false if the wire is empty.
    pub fn deliver(&mut self) -> bool {
        let Some((from, transmit)) = self.wire.pop_front() else {
            return false;
        };
        let to = from.peer();
        let (mut local, mut remote) = (transmit.remote, transmit.local);
        if let Some(address) = self.nat {
            match from {
                Role::Initiator => remote = SocketAddr::new(address, remote.port() + 10_000),
                Role::Responder => {
                    assert_eq!(local.ip(), address, "sent past the NAT");
                    local = SocketAddr::new(self.initiator.sa.local().ip(), local.port() - 10_000);
                }
            }
        }
        let now = self.now;
        let sent = self.side(to).handle(
            now,
            Input::Datagram {
                local,
                remote,
                bytes: transmit.bytes,
            },
        );
        self.post(to, sent);
        true
    }

    pub fn start(&mut self) {
        let now = self.now;
        for role in [Role::Initiator, Role::Responder] {
            let sent = self.side(role).drain(now);
            self.post(role, sent);
        }
    }

    pub fn run(&mut self) {
        self.start();
        let mut left = 10_000;
        while self.deliver() {
            left -= 1;
            assert!(left > 0, "they never stop talking");
        }
    }

    /// Moves the clock to the next deadline, and runs. False if there is none.
    pub fn tick(&mut self) -> bool {
        let due = |side: &Side| side.sa.deadline().map(|(at, _)| at);
        let next = [due(&self.initiator), due(&self.responder)]
            .into_iter()
            .flatten()
            .min();
        let Some(next) = next else { return false };
        self.now = self.now.max(next);
        for role in [Role::Initiator, Role::Responder] {
            let now = self.now;
            if self.side(role).sa.deadline().is_some_and(|(at, _)| at <= now) {
                let sent = self.side(role).handle(now, Input::Timeout);
                self.post(role, sent);
            }
        }
        self.run();
        true
    }

    /// Ticks until `until` has passed on the virtual clock.
    pub fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while [&self.initiator, &self.responder]
            .iter()
            .any(|side| side.sa.deadline().is_some_and(|(at, _)| at <= until))
        {
            self.tick();
        }
        self.now = until;
    }

    /// Both ends are up, with one child that fits crosswise.
    pub fn assert_up(&self) {
        assert!(
            self.initiator.is_established(),
            "initiator: {:#?}",
            self.initiator.events
        );
        assert!(
            self.responder.is_established(),
            "responder: {:#?}",
            self.responder.events
        );
        let (i, r) = (self.initiator.child(), self.responder.child());
        assert_eq!((i.spi_in, i.spi_out), (r.spi_out, r.spi_in));
        assert_eq!((&i.keys_in, &i.keys_out), (&r.keys_out, &r.keys_in));
        assert_eq!((&i.ts_local, &i.ts_remote), (&r.ts_remote, &r.ts_local));
        assert_eq!((i.suite, i.esn, i.encap), (r.suite, r.esn, r.encap));
        assert!(i.initiator && !r.initiator);
        assert_eq!(i.spi_in >> 29, 3);
        assert_eq!(self.initiator.sa.spi_r(), self.responder.sa.spi_r());
    }
}

pub fn id(text: &str) -> Identity {
    text.parse().unwrap()
}

#[allow(
    clippy::disallowed_methods,
    reason = "the virtual clock has to start somewhere"
)]
pub fn epoch() -> Instant {
    Instant::now()
}
