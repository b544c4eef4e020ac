//! Two established IKE SAs that belong together, the datagrams between them, and an attacker who has every key.
//!
//! The attacker stands for a peer that authenticated and then misbehaves: it writes requests and responses with any
//! exchange type and any payloads inside, and changes what the honest peer sends. Keys and message IDs it takes from a
//! snapshot of its victim.

use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crypto::{Cipher, Group, Opener, Prf, Sealer, Secret, SeededRandom, Suite};
use ike::established::{Core, EstablishedParts};
use ike::keys::IkeKeys;
use ike::wire::proposal::{parse_child_list, parse_ike_list};
use ike::wire::protect::{self, Content, IvSource};
use ike::wire::{ExchangeType, Flags, Header, PayloadType, Spi};
use ike::{
    Activate, ChildKeys, ChildPolicy, ChildSa, Command, Context, Counters, Event, Identity, IkeSuite, Input,
    Lifetime, Mode, NatFindings, Output, RekeyPolicy, Role, SecurityProtocol, SpiAllocator, Timing,
};
use ip::Selector;
use serde::Deserialize;

use crate::Input as Script;

/// Largest IKE message of the two.
const FRAGMENT: usize = 600;
/// Outputs that one input may cause.
const MAX_OUTPUTS: usize = 2_000;
/// Child SAs that an IKE SA may have, those that are being replaced included.
const MAX_CHILDREN: usize = 64;

/// SPIs of one end: counted, and taken once.
struct Spis {
    next: AtomicU32,
    taken: Mutex<BTreeSet<u32>>,
}

impl SpiAllocator for Spis {
    fn ike(&self) -> Spi {
        Spi(u64::from(self.next.fetch_add(1, Ordering::Relaxed)) << 8 | 1)
    }

    fn esp(&self, worker: u8) -> u32 {
        let spi = u32::from(worker) << 29 | self.next.fetch_add(1, Ordering::Relaxed);
        self.claim_esp(spi);
        spi
    }

    fn release_esp(&self, spi: u32) {
        self.taken.lock().expect("one thread").remove(&spi);
    }

    fn claim_esp(&self, spi: u32) -> bool {
        self.taken.lock().expect("one thread").insert(spi)
    }
}

/// What the attacker reads from a snapshot.
#[derive(Deserialize)]
struct Stolen {
    current: StolenLink,
    others: Vec<StolenLink>,
}

#[derive(Deserialize)]
struct StolenLink {
    id: (Spi, Spi),
    role: Role,
    suite: IkeSuite,
    keys: IkeKeys,
    next_recv: u32,
    pending: Option<StolenRequest>,
}

#[derive(Deserialize)]
struct StolenRequest {
    id: u32,
    exchange: ExchangeType,
}

/// Both ends and what lies between them.
pub struct World {
    now: Instant,
    seed: u64,
    cores: [Core; 2],
    spis: [Arc<Spis>; 2],
    /// Datagrams on their way to each end.
    flight: [VecDeque<Vec<u8>>; 2],
    ivs: IvSource,
}

fn address(end: usize) -> SocketAddr {
    match end {
        0 => ([198, 51, 100, 1], 4500).into(),
        _ => ([192, 0, 2, 7], 4500).into(),
    }
}

fn selector(text: &str) -> Selector {
    text.parse().expect("a selector")
}

fn policy(end: usize) -> ChildPolicy {
    // The gateway protects a network; the client has one address, and would like to reach everything.
    let (network, client) = (selector("10.0.0.0/8"), selector("10.99.0.7"));
    let (ts_local, ts_remote) = match end {
        0 => (vec![network], vec![client]),
        _ => (vec![client], vec![Selector::ANY_V4]),
    };
    ChildPolicy {
        proposals: parse_child_list("aes256gcm16-curve25519-ecp256,aes128-sha256").expect("proposals"),
        ts_local,
        ts_remote,
        lifetime: Lifetime {
            soft: Some(Duration::from_secs(3000)),
            hard: Some(Duration::from_secs(3600)),
            ..Lifetime::default()
        },
        replay_window: 64,
        worker: 1,
        resources: vec![2, 1],
        rekey: RekeyPolicy::AtSoftLimit,
        max_children: 4,
    }
}

fn context(end: usize, seed: u64, spis: &Arc<Spis>) -> Context {
    Context {
        random: Box::new(SeededRandom::from_seed(seed * 2 + end as u64)),
        spis: spis.clone(),
        generation: 1,
        key_log: false,
        timing: Timing::default(),
    }
}

fn parts(end: usize) -> EstablishedParts {
    let suite = Suite::new(Cipher::AesGcm16 { key_bits: 128 }, None).expect("a suite");
    let ike = IkeSuite {
        suite,
        prf: Prf::HmacSha256,
        group: Group::Curve25519,
    };
    let (spi_i, spi_r) = (Spi(0xa1), Spi(0xb2));
    let keys = IkeKeys::derive(&Secret::from(vec![7; 32]), ike, &[1; 32], &[2; 32], spi_i, spi_r);
    let spis = [0x2000_0100, 0x2000_0200];
    let policy = policy(end);
    let key = |of: usize| ChildKeys {
        enc: Secret::from(vec![of as u8; suite.enc_key_len()]),
        integ: Secret::from(Vec::new()),
    };
    let (local, remote) = (address(end), address(1 - end));
    let child = ChildSa {
        protocol: SecurityProtocol::Esp,
        mode: Mode::Tunnel,
        suite,
        esn: false,
        spi_in: spis[end],
        spi_out: spis[1 - end],
        keys_in: key(1 - end),
        keys_out: key(end),
        ts_local: vec![selector(["10.0.0.0/8", "10.99.0.7"][end])],
        ts_remote: vec![selector(["10.99.0.7", "10.0.0.0/8"][end])],
        local,
        remote,
        encap: true,
        activate: Activate::Now,
        lifetime: policy.lifetime,
        replay_window: 64,
        initiator: end == 1,
        resource: ike::Resource::None,
    };
    EstablishedParts {
        role: [Role::Responder, Role::Initiator][end],
        spi_i,
        spi_r,
        suite: ike,
        keys,
        ivs: IvSource::new(1),
        local,
        remote,
        nat: NatFindings {
            supported: true,
            local: false,
            remote: true,
        },
        next_send_id: if end == 0 { 0 } else { 2 },
        next_recv_id: if end == 0 { 2 } else { 0 },
        last_response: None,
        fragment_size: Some(FRAGMENT),
        peer_id: Identity::fqdn("peer"),
        local_id: Identity::fqdn("self"),
        connection: "c".to_owned(),
        tenant: "t".to_owned(),
        policy,
        proposals: parse_ike_list("aes128gcm16-prfsha256-curve25519-ecp256").expect("proposals"),
        child: Some(child),
        ike_lifetime: Lifetime {
            soft: Some(Duration::from_secs(10_000)),
            hard: Some(Duration::from_secs(12_000)),
            ..Lifetime::default()
        },
        liveness: Some(Duration::from_secs(120)),
        mobike: false,
        message_id_sync: true,
        redirect: true,
        counters: Counters::default(),
    }
}

impl World {
    /// Two ends with one child SA between them.
    pub fn new(seed: u64) -> Self {
        let now = Instant::now();
        let spis = [0x1_0000, 0x2_0000].map(|next| {
            Arc::new(Spis {
                next: AtomicU32::new(next),
                taken: Mutex::new(BTreeSet::new()),
            })
        });
        let core = |end: usize| {
            let parts = parts(end);
            let spi = parts.child.as_ref().map_or(0, |child| child.spi_in);
            spis[end].claim_esp(spi);
            Core::new(now, context(end, seed, &spis[end]), parts).expect("keys that fit")
        };
        let cores = [core(0), core(1)];
        Self {
            now,
            seed,
            cores,
            spis,
            flight: [VecDeque::new(), VecDeque::new()],
            ivs: IvSource::new(0xffff),
        }
    }

    /// Plays one step of the script.
    pub fn step(&mut self, script: &mut Script<'_>) {
        let op = script.u8();
        let end = usize::from(op & 1);
        match (op >> 1) % 12 {
            0 => self.command(end, script),
            1..=3 => {
                if let Some(datagram) = self.flight[end].pop_front() {
                    self.deliver(end, datagram);
                }
            }
            4 => {
                // Lost, repeated, or overtaken.
                match script.u8() % 3 {
                    0 => drop(self.flight[end].pop_front()),
                    1 => self.flight[end].extend(self.flight[end].front().cloned()),
                    _ => self.flight[end].rotate_left(usize::from(!self.flight[end].is_empty())),
                }
            }
            5 => self.wait(Duration::from_millis(u64::from(script.u16()) * 16)),
            6 => self.to_deadline(end),
            7 => self.restart(end),
            8 | 9 => self.attack(end, script),
            10 => self.tamper(end, script),
            _ => {
                let noise = script.part().to_vec();
                self.deliver(end, noise);
            }
        }
        self.check();
    }

    fn command(&mut self, end: usize, script: &mut Script<'_>) {
        let what = script.u8();
        let children: Vec<u32> = self.cores[end].children().map(|child| child.spi_in).collect();
        let spi_in = children
            .get(usize::from(what >> 4) % children.len().max(1))
            .copied()
            .unwrap_or(5);
        let command = match what % 10 {
            0 | 1 => Command::RekeyChild { spi_in, group: None },
            2 => Command::RekeyChild {
                spi_in,
                group: Some(Group::Ecp256),
            },
            3 | 4 => Command::RekeyIke,
            5 => Command::CreateChild {
                ts_local: policy(end).ts_local,
                ts_remote: policy(end).ts_remote,
            },
            6 => Command::DeleteChild { spi_in },
            7 => Command::CheckLiveness,
            8 if what == 0xf8 => Command::Close,
            8 => Command::InboundSeen { at: self.now },
            _ => Command::PeerMoved {
                remote: ([203, 0, 113, what], 4500).into(),
            },
        };
        self.input(end, Input::Command(command));
    }

    fn deliver(&mut self, end: usize, bytes: Vec<u8>) {
        let (local, remote) = (address(end), address(1 - end));
        self.input(end, Input::Datagram { local, remote, bytes });
    }

    fn input(&mut self, end: usize, input: Input) {
        let was_closed = self.cores[end].is_closed();
        self.cores[end].handle(self.now, input);
        let mut closed = was_closed;
        let mut outputs = 0;
        while let Some(output) = self.cores[end].poll() {
            outputs += 1;
            assert!(outputs < MAX_OUTPUTS, "a flood of outputs");
            match output {
                Output::Transmit(transmit) => {
                    assert!(!was_closed, "a closed IKE SA speaks");
                    assert!(transmit.bytes.len() <= FRAGMENT, "longer than the path allows");
                    let (header, _) = Header::of_datagram(&transmit.bytes).expect("a message");
                    let sealed = matches!(header.next_payload, PayloadType::SK | PayloadType::SKF);
                    assert!(sealed, "an unprotected message");
                    if self.flight[1 - end].len() < 64 {
                        self.flight[1 - end].push_back(transmit.bytes);
                    }
                }
                Output::Event(event) => {
                    assert!(!closed, "an event after the end: {event:?}");
                    closed |= matches!(event, Event::Closed { .. });
                    if let Event::ChildUp(child) | Event::ChildRekeyed { new: child, .. } = &event {
                        within_policy(end, child);
                    }
                }
            }
        }
        assert_eq!(
            closed,
            self.cores[end].is_closed(),
            "an end that nobody was told of"
        );
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
        for end in 0..2 {
            self.timeouts(end);
        }
    }

    fn to_deadline(&mut self, end: usize) {
        if let Some((at, _)) = self.cores[end].deadline() {
            self.now = self.now.max(at);
            self.timeouts(end);
        }
    }

    /// Hands in timeouts until none is due.
    fn timeouts(&mut self, end: usize) {
        for _ in 0..1000 {
            match self.cores[end].deadline() {
                Some((at, _)) if at <= self.now => self.input(end, Input::Timeout),
                _ => return,
            }
        }
        panic!("always due: {:?}", self.cores[end].deadline());
    }

    /// Stops an end and starts it again from its record.
    fn restart(&mut self, end: usize) {
        let Some(snapshot) = self.cores[end].snapshot(self.now) else {
            return;
        };
        let text = serde_json::to_vec(&snapshot).expect("a record");
        let snapshot = serde_json::from_slice(&text).expect("the same record");
        let children: Vec<ChildSa> = self.cores[end].children().cloned().collect();
        self.spis[end].taken.lock().expect("one thread").clear();
        self.seed = self.seed.wrapping_mul(31).wrapping_add(1) & 0xffff;
        let context = context(end, self.seed, &self.spis[end]);
        let restored = Core::restore(self.now, context, snapshot, Duration::from_secs(1), 2);
        let restored = restored.expect("our own record");
        let again: Vec<ChildSa> = restored.children().cloned().collect();
        assert_eq!(again, children);
        self.cores[end] = restored;
        self.timeouts(end);
    }

    fn steal(&self, end: usize) -> Option<Stolen> {
        let snapshot = self.cores[end].snapshot(self.now)?;
        let text = serde_json::to_vec(&snapshot).expect("a record");
        Some(serde_json::from_slice(&text).expect("what is needed of it"))
    }

    /// A message of the attacker's own, right in everything that the script does not make wrong.
    fn attack(&mut self, end: usize, script: &mut Script<'_>) {
        let how = script.u8();
        let exchange = script.u8();
        let first = PayloadType(script.u8());
        let interior = script.part();
        let Some(stolen) = self.steal(end) else {
            return;
        };
        let mut links: Vec<&StolenLink> = std::iter::once(&stolen.current).chain(&stolen.others).collect();
        links.rotate_left(usize::from(how & 7) % stolen.others.len().saturating_add(1));
        let link = links[0];
        let sender = link.role.peer();
        let response = how & 8 != 0;
        let pending = link.pending.as_ref().filter(|_| response);
        let (message_id, usual) = match pending {
            Some(request) => (request.id, request.exchange),
            None => (link.next_recv, ExchangeType(34 + exchange % 12)),
        };
        let exchange = if how & 16 == 0 {
            usual
        } else {
            ExchangeType(exchange)
        };
        let message_id = match how >> 6 {
            0..=2 => message_id,
            _ => message_id.wrapping_add(u32::from(how >> 5 & 1)).wrapping_sub(1),
        };
        let flags = match response {
            true => Flags::response(sender.is_initiator()),
            false => Flags::request(sender.is_initiator()),
        };
        let header = Header::new(link.id.0, link.id.1, exchange, flags, message_id);
        let (enc, integ) = link.keys.sent_by(sender);
        let sealer = Sealer::new(link.suite.suite, enc.expose(), integ.expose()).expect("keys that fit");
        self.seal_and_deliver(end, &header, first, interior, &sealer);
    }

    /// A datagram of the honest peer with some octets inside changed.
    fn tamper(&mut self, end: usize, script: &mut Script<'_>) {
        let edits: Vec<(u16, u8)> = (0..1 + script.u8() % 4)
            .map(|_| (script.u16(), script.u8()))
            .collect();
        let (Some(datagram), Some(stolen)) = (self.flight[end].pop_front(), self.steal(end)) else {
            return;
        };
        for link in std::iter::once(&stolen.current).chain(&stolen.others) {
            let (enc, integ) = link.keys.sent_by(link.role.peer());
            let opener = Opener::new(link.suite.suite, enc.expose(), integ.expose()).expect("keys that fit");
            let Ok(opened) = protect::open(&datagram, &opener) else {
                continue;
            };
            let Content::Whole { first, mut plaintext } = opened.content else {
                break;
            };
            for (place, value) in &edits {
                let place = usize::from(*place) % plaintext.len().max(1);
                if let Some(octet) = plaintext.get_mut(place) {
                    *octet = *value;
                }
            }
            let sealer = Sealer::new(link.suite.suite, enc.expose(), integ.expose()).expect("keys that fit");
            return self.seal_and_deliver(end, &opened.header, first, &plaintext, &sealer);
        }
        self.deliver(end, datagram);
    }

    fn seal_and_deliver(
        &mut self,
        end: usize,
        header: &Header,
        first: PayloadType,
        interior: &[u8],
        sealer: &Sealer,
    ) {
        let mut random = SeededRandom::from_seed(9);
        let sealed =
            protect::seal_fragmented(header, first, interior, sealer, &mut self.ivs, &mut random, 1400);
        for datagram in sealed.unwrap_or_default() {
            self.deliver(end, datagram);
        }
    }

    /// What must hold after every step.
    fn check(&self) {
        for (end, core) in self.cores.iter().enumerate() {
            let mut spis = BTreeSet::new();
            for child in core.children() {
                within_policy(end, child);
                assert!(spis.insert(child.spi_in), "two children under one SPI");
            }
            assert!(spis.len() <= MAX_CHILDREN, "too many children");
            assert!(core.spis().count() <= 16, "too many IKE SAs");
            assert!(!core.is_closed() || core.deadline().is_none());
        }
    }
}

/// Nothing that the peer says gives it more than its policy has.
fn within_policy(end: usize, child: &ChildSa) {
    let policy = policy(end);
    let inside = |list: &[Selector], allowed: &[Selector]| {
        !list.is_empty() && list.iter().all(|one| allowed.iter().any(|all| all.contains(one)))
    };
    assert!(inside(&child.ts_local, &policy.ts_local), "{:?}", child.ts_local);
    assert!(
        inside(&child.ts_remote, &policy.ts_remote),
        "{:?}",
        child.ts_remote
    );
    assert!(child.spi_in >= 256 && child.spi_out >= 256);
}
