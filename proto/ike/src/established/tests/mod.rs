//! Two cores with the same keys, a virtual clock, messages delivered by hand.
//!
//! Every side keeps what a data plane would have installed from the events alone; the tests compare that with the table of
//! the core and with the other side. Nonces can be forced, so that collisions go the way that a test wants.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::wildcard_enum_match_arm,
    reason = "tests"
)]

mod child_collisions;
mod child_rekey;
mod deletes;
mod failover;
mod ike_collisions;
mod ike_rekey;
mod lifetimes;
mod messages;
mod post;
mod random;
mod redirect;
mod resources;
mod snapshots;
mod sync;
mod takeover;

pub(super) use post::Setup;
use post::{Dice, Letter, Seen, Spis};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use crypto::{Cipher, Group, Integrity, Opener, Prf, Random, Sealer, Secret, SeededRandom, Suite};
use ip::Selector;

use super::children::State;
use super::link::{Fate, Link};
use super::{Core, CoreSnapshot, EstablishedParts};
use crate::keys::{IkeKeys, child_keymat};
use crate::types::{
    Activate, ChildEnd, ChildPolicy, ChildSa, CloseReason, Command, Context, Counters, Event, GatewayId,
    Identity, IkeSuite, Input, Lifetime, Mode, NatFindings, Output, RekeyPolicy, Resource, Role,
    SecurityProtocol, SpiAllocator, Timing,
};
use crate::wire::proposal::{ChildProposal, IkeProposal};
use crate::wire::protect::{Content, IvSource, open, seal};
use crate::wire::{
    ExchangeType, Header, NotifyType, Payload, Payloads, ProtocolId, Spi, decode_payloads, encode_payloads,
};

/// Where the virtual clock starts.
#[allow(
    clippy::disallowed_methods,
    reason = "an instant can only be had from the clock; tests add to it"
)]
pub(super) fn epoch() -> Instant {
    static EPOCH: OnceLock<Instant> = OnceLock::new();
    *EPOCH.get_or_init(Instant::now)
}

/// One end.
pub(super) struct Side {
    pub(super) core: Core,
    pub(super) out: VecDeque<Letter>,
    pub(super) spis: Arc<Spis>,
    pub(super) nonce: Arc<Mutex<Option<u8>>>,
    /// What a data plane would have, by inbound SPI.
    pub(super) installed: BTreeMap<u32, ChildSa>,
    /// SPI pairs that a dispatcher would send here.
    pub(super) dispatch: BTreeSet<(Spi, Spi)>,
    pub(super) ended: Vec<(u32, ChildEnd)>,
    pub(super) rekeyed: Vec<(u32, u32)>,
    pub(super) leaving: Vec<u32>,
    pub(super) ike_rekeyed: Vec<(Spi, Spi)>,
    pub(super) warnings: Vec<String>,
    pub(super) closed: Option<CloseReason>,
    pub(super) address: Option<SocketAddr>,
    pub(super) redirected: Option<GatewayId>,
    /// What a store holds: the state at the last durable message or change, and when that was.
    pub(super) record: Option<(CoreSnapshot, Instant)>,
    pub(super) writes: u32,
}

/// Two ends and the time.
pub(super) struct Pair {
    pub(super) a: Side,
    pub(super) b: Side,
    pub(super) now: Instant,
}

pub(super) fn net(text: &str) -> Selector {
    Selector::prefix(text.parse().unwrap())
}

fn suite() -> IkeSuite {
    IkeSuite {
        suite: Suite::new(Cipher::AesGcm16 { key_bits: 256 }, None).unwrap(),
        prf: Prf::HmacSha256,
        group: Group::Curve25519,
    }
}

/// A suite whose IVs do not come from a counter.
fn random_ivs() -> IkeSuite {
    let cipher = Cipher::AesCbc { key_bits: 256 };
    IkeSuite {
        suite: Suite::new(cipher, Some(Integrity::HmacSha256_128)).unwrap(),
        ..suite()
    }
}

fn child_proposal(groups: &[Group]) -> ChildProposal {
    ChildProposal {
        protocol: ProtocolId::ESP,
        ciphers: vec![Cipher::AesGcm16 { key_bits: 256 }],
        integrities: Vec::new(),
        groups: groups.to_vec(),
        esn: vec![true],
    }
}

fn ike_proposal(suite: IkeSuite, groups: &[Group]) -> IkeProposal {
    IkeProposal {
        ciphers: vec![suite.suite.cipher],
        integrities: suite.suite.integrity.into_iter().collect(),
        prfs: vec![Prf::HmacSha256],
        groups: groups.to_vec(),
    }
}

fn addresses() -> (SocketAddr, SocketAddr) {
    (
        "192.0.2.1:4500".parse().unwrap(),
        "198.51.100.2:4500".parse().unwrap(),
    )
}

impl Side {
    fn new(setup: &Setup, role: Role) -> Self {
        let initiator = role.is_initiator();
        let (mine, theirs) = if initiator { (1, 2) } else { (2, 1) };
        let (local, remote) = if initiator {
            addresses()
        } else {
            (addresses().1, addresses().0)
        };
        let spis = Arc::new(Spis {
            side: mine,
            ..Spis::default()
        });
        let nonce = Arc::new(Mutex::new(None));
        let ike = if setup.random_ivs { random_ivs() } else { suite() };
        let keys = IkeKeys::derive(
            &Secret::from(vec![9; 32]),
            ike,
            &[1; 32],
            &[2; 32],
            Spi(0x1111),
            Spi(0x2222),
        );
        let child_suite = suite().suite;
        let (keys_in, keys_out) =
            child_keymat(ike.prf, &keys.sk_d, None, &[1; 32], &[2; 32], child_suite).for_role(role);
        let first = |side: u8| u32::from(side) << 16 | 0x100;
        assert!(spis.claim_esp(first(mine)));
        let left = vec![net("10.1.0.0/24")];
        let right = vec![net("10.2.0.0/24")];
        let (ts_local, ts_remote) = if initiator { (left, right) } else { (right, left) };
        let pick = |pair: &(Vec<Group>, Vec<Group>)| if initiator { pair.0.clone() } else { pair.1.clone() };
        let nat = if initiator { setup.nat.0 } else { setup.nat.1 };
        let child = ChildSa {
            protocol: SecurityProtocol::Esp,
            mode: Mode::Tunnel,
            suite: child_suite,
            esn: true,
            spi_in: first(mine),
            spi_out: first(theirs),
            keys_in,
            keys_out,
            ts_local: ts_local.clone(),
            ts_remote: ts_remote.clone(),
            local,
            remote,
            encap: nat.encap(),
            activate: Activate::Now,
            lifetime: setup.child_life,
            replay_window: 64,
            initiator,
            resource: setup.first,
        };
        let parts = EstablishedParts {
            role,
            spi_i: Spi(0x1111),
            spi_r: Spi(0x2222),
            suite: ike,
            keys,
            ivs: IvSource::new(1),
            local,
            remote,
            nat,
            next_send_id: if initiator { 2 } else { 0 },
            next_recv_id: if initiator { 0 } else { 2 },
            last_response: None,
            fragment_size: setup.fragment_size,
            peer_id: Identity::fqdn("peer.example"),
            local_id: Identity::fqdn("self.example"),
            connection: "test".to_owned(),
            tenant: "acme".to_owned(),
            policy: ChildPolicy {
                proposals: vec![child_proposal(&pick(&setup.groups))],
                ts_local,
                ts_remote,
                lifetime: setup.child_life,
                replay_window: 64,
                worker: 0,
                resources: if initiator {
                    setup.resources.0.clone()
                } else {
                    setup.resources.1.clone()
                },
                rekey: setup.rekey,
                max_children: setup.max_children,
            },
            proposals: vec![ike_proposal(ike, &pick(&setup.ike_groups))],
            child: Some(child.clone()),
            ike_lifetime: setup.ike_life,
            liveness: setup.liveness,
            mobike: false,
            message_id_sync: setup.message_id_sync,
            redirect: true,
            counters: Counters::default(),
        };
        let context = Context {
            random: Box::new(Dice {
                seeded: SeededRandom::from_seed(setup.seed * 2 + u64::from(mine)),
                nonce: nonce.clone(),
            }),
            spis: spis.clone(),
            generation: 1,
            key_log: false,
            timing: setup.timing,
        };
        Self {
            core: Core::new(epoch(), context, parts).unwrap(),
            out: VecDeque::new(),
            spis,
            nonce,
            installed: BTreeMap::from([(child.spi_in, child)]),
            dispatch: BTreeSet::from([(Spi(0x1111), Spi(0x2222))]),
            ended: Vec::new(),
            rekeyed: Vec::new(),
            leaving: Vec::new(),
            ike_rekeyed: Vec::new(),
            warnings: Vec::new(),
            closed: None,
            address: None,
            redirected: None,
            record: None,
            writes: 0,
        }
    }

    /// Hands in an input and takes what comes of it.
    pub(super) fn handle(&mut self, now: Instant, input: Input) {
        self.core.handle(now, input);
        if self.drain() {
            self.record = self.core.snapshot(now).map(|record| (record, now));
            self.writes += 1;
        }
    }

    /// Says whether a record has to be written.
    fn drain(&mut self) -> bool {
        let mut write = false;
        while let Some(output) = self.core.poll() {
            match output {
                Output::Transmit(transmit) => {
                    let seen = self.sniff(&transmit.bytes);
                    write |= transmit.durable;
                    self.out.push_back(Letter {
                        bytes: transmit.bytes,
                        durable: transmit.durable,
                        from: transmit.local,
                        to: transmit.remote,
                        seen,
                    });
                }
                Output::Event(event) => {
                    write |= matches!(event, Event::StateChanged);
                    self.event(event);
                }
            }
        }
        write
    }

    fn event(&mut self, event: Event) {
        assert!(self.closed.is_none(), "event after the end: {event:?}");
        match event {
            Event::ChildUp(sa) => assert!(self.installed.insert(sa.spi_in, *sa).is_none()),
            Event::ChildRekeyed { old_spi_in, new } => {
                self.rekeyed.push((old_spi_in, new.spi_in));
                assert!(self.installed.insert(new.spi_in, *new).is_none());
            }
            Event::ChildLeaving { spi_in } => self.leaving.push(spi_in),
            Event::ChildDown { spi_in, reason } => {
                assert!(
                    self.installed.remove(&spi_in).is_some(),
                    "{spi_in:08x} went down twice"
                );
                self.ended.push((spi_in, reason));
            }
            Event::IkeRekeyed { new_spi_i, new_spi_r } => {
                self.dispatch.insert((new_spi_i, new_spi_r));
                self.ike_rekeyed.push((new_spi_i, new_spi_r));
            }
            Event::OldSpisGone { spi_i, spi_r } => assert!(self.dispatch.remove(&(spi_i, spi_r))),
            Event::Closed { reason } => {
                assert!(self.installed.is_empty());
                self.closed = Some(reason);
            }
            Event::PeerAddress { remote } => self.address = Some(remote),
            Event::Warning { detail } => self.warnings.push(detail),
            Event::Redirected { to } => self.redirected = Some(to),
            Event::Step { .. } | Event::StateChanged => {}
            other => panic!("unexpected event {other:?}"),
        }
    }

    /// Reads a message of this side with this side's own keys.
    fn sniff(&self, bytes: &[u8]) -> Option<Seen> {
        let (header, _) = Header::of_datagram(bytes).ok()?;
        let links = std::iter::once(&self.core.current).chain(&self.core.others);
        links
            .filter(|link| (link.id.0, link.id.1) == (header.spi_i, header.spi_r))
            .find_map(|link| {
                let (enc, integ) = link.keys.sent_by(link.role);
                let opener = Opener::new(link.suite.suite, enc.expose(), integ.expose()).unwrap();
                match open(bytes, &opener).ok()?.content {
                    Content::Whole { first, plaintext } => Some(Seen {
                        header,
                        payloads: decode_payloads(first, &plaintext).unwrap(),
                    }),
                    Content::Fragment(_) => None,
                }
            })
    }

    /// The same message of this side with other payloads.
    pub(super) fn reseal(&self, letter: &Letter, payloads: &[Payload]) -> Letter {
        let header = letter.seen.as_ref().unwrap().header;
        let links = std::iter::once(&self.core.current).chain(&self.core.others);
        let spis = (header.spi_i, header.spi_r);
        let link = links
            .into_iter()
            .find(|link| (link.id.0, link.id.1) == spis)
            .unwrap();
        let (enc, integ) = link.keys.sent_by(link.role);
        let sealer = Sealer::new(link.suite.suite, enc.expose(), integ.expose()).unwrap();
        let (first, plaintext) = encode_payloads(payloads).unwrap();
        let mut random = SeededRandom::from_seed(99);
        let mut ivs = IvSource::new(77);
        Letter {
            bytes: seal(&header, first, &plaintext, &sealer, &mut ivs, &mut random).unwrap(),
            seen: Some(Seen {
                header,
                payloads: payloads.to_vec(),
            }),
            ..letter.clone()
        }
    }

    pub(super) fn state(&self, spi_in: u32) -> Option<State> {
        self.core
            .children
            .iter()
            .find(|child| child.sa.spi_in == spi_in)
            .map(|child| child.state)
    }

    /// Inbound SPIs of children in use, without those on their way out.
    pub(super) fn in_use(&self) -> Vec<u32> {
        let used = |state| matches!(state, State::Installed | State::Rekeying);
        self.core
            .children
            .iter()
            .filter(|child| used(child.state))
            .map(|child| child.sa.spi_in)
            .collect()
    }

    /// The only child in use.
    pub(super) fn only(&self) -> u32 {
        let used = self.in_use();
        assert_eq!(used.len(), 1, "{used:x?}");
        used[0]
    }

    pub(super) fn current(&self) -> &Link {
        &self.core.current
    }

    /// SPIs of links besides the current one that are still there.
    pub(super) fn old_links(&self) -> usize {
        self.core
            .others
            .iter()
            .filter(|link| !matches!(link.fate, Fate::Answered(_)))
            .count()
    }

    pub(super) fn is_idle(&self) -> bool {
        self.core.current.window.pending.is_none() && self.core.queue.iter().next().is_none()
    }
}

impl Pair {
    pub(super) fn new() -> Self {
        Self::with(&Setup::default())
    }

    pub(super) fn with(setup: &Setup) -> Self {
        Self {
            a: Side::new(setup, Role::Initiator),
            b: Side::new(setup, Role::Responder),
            now: epoch(),
        }
    }

    /// Scenarios that either end may start: `swap` makes the IKE SA's responder the first of the two.
    pub(super) fn either(setup: &Setup, swap: bool) -> Self {
        let mut pair = Self::with(setup);
        if swap {
            std::mem::swap(&mut pair.a, &mut pair.b);
        }
        pair
    }

    /// The next nonces of both sides start with this octet.
    pub(super) fn nonce(&self, first: u8) {
        *self.a.nonce.lock().unwrap() = Some(first);
        *self.b.nonce.lock().unwrap() = Some(first);
    }

    /// Nonces are left to chance again.
    pub(super) fn any_nonce(&self) {
        *self.a.nonce.lock().unwrap() = None;
        *self.b.nonce.lock().unwrap() = None;
    }

    pub(super) fn command_a(&mut self, command: Command) {
        self.a.handle(self.now, Input::Command(command));
    }

    pub(super) fn command_b(&mut self, command: Command) {
        self.b.handle(self.now, Input::Command(command));
    }

    pub(super) fn rekey_a(&mut self) {
        let spi_in = self.a.only();
        self.command_a(Command::RekeyChild { spi_in, group: None });
    }

    pub(super) fn rekey_b(&mut self) {
        let spi_in = self.b.only();
        self.command_b(Command::RekeyChild { spi_in, group: None });
    }

    /// Delivers the oldest message of A to B; says what was in it.
    pub(super) fn reach_b(&mut self) -> Seen {
        let letter = self.a.out.pop_front().expect("A has sent nothing");
        self.give_b(&letter)
    }

    /// Delivers the oldest message of B to A; says what was in it.
    pub(super) fn reach_a(&mut self) -> Seen {
        let letter = self.b.out.pop_front().expect("B has sent nothing");
        self.give_a(&letter)
    }

    pub(super) fn give_b(&mut self, letter: &Letter) -> Seen {
        deliver(&mut self.b, self.now, letter);
        letter.seen.clone().expect("message can be read")
    }

    pub(super) fn give_a(&mut self, letter: &Letter) -> Seen {
        deliver(&mut self.a, self.now, letter);
        letter.seen.clone().expect("message can be read")
    }

    pub(super) fn hold_a(&mut self) -> Letter {
        self.a.out.pop_front().expect("A has sent nothing")
    }

    pub(super) fn hold_b(&mut self) -> Letter {
        self.b.out.pop_front().expect("B has sent nothing")
    }

    /// Delivers everything until nobody has anything to say.
    pub(super) fn settle(&mut self) {
        for _ in 0..10_000 {
            if let Some(letter) = self.a.out.pop_front() {
                deliver(&mut self.b, self.now, &letter);
            } else if let Some(letter) = self.b.out.pop_front() {
                deliver(&mut self.a, self.now, &letter);
            } else {
                return;
            }
        }
        panic!("the two never fall silent");
    }

    /// Lets time pass; timers fire and messages arrive at once.
    pub(super) fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        for _ in 0..100_000 {
            self.settle();
            let next = [&self.a, &self.b]
                .into_iter()
                .filter_map(|side| side.core.deadline())
                .min();
            let Some((at, _)) = next.filter(|(at, _)| *at <= end) else {
                self.now = end;
                return;
            };
            self.now = self.now.max(at);
            self.fire();
        }
        panic!(
            "timers never rest: {:?} {:?}",
            self.a.core.deadline(),
            self.b.core.deadline()
        );
    }

    /// Hands in timeouts that are due.
    pub(super) fn fire(&mut self) {
        for side in [&mut self.a, &mut self.b] {
            if side.core.deadline().is_some_and(|(at, _)| at <= self.now) {
                side.handle(self.now, Input::Timeout);
            }
        }
    }

    /// Long enough for lingering children to be gone.
    pub(super) fn linger(&mut self) {
        self.pass(Duration::from_secs(11));
    }

    /// Both sides have the same children and IKE SA, the data planes agree with the cores, and no SPI leaked.
    pub(super) fn check(&self) {
        for side in [&self.a, &self.b] {
            let table: BTreeSet<u32> = side.core.children().map(|sa| sa.spi_in).collect();
            let installed: BTreeSet<u32> = side.installed.keys().copied().collect();
            assert_eq!(table, installed, "events and table differ");
            assert_eq!(
                *side.spis.taken.lock().unwrap(),
                installed,
                "SPIs leaked or were lost"
            );
            let links: BTreeSet<(Spi, Spi)> = side.core.spis().collect();
            assert_eq!(links, side.dispatch, "dispatch and links differ");
        }
        assert_eq!(self.a.core.spi_i(), self.b.core.spi_i());
        assert_eq!(self.a.core.spi_r(), self.b.core.spi_r());
        assert_eq!(self.a.core.current.keys, self.b.core.current.keys);
        assert_ne!(self.a.core.role(), self.b.core.role());
        assert_eq!(self.a.installed.len(), self.b.installed.len());
        for sa in self.a.installed.values() {
            let other = self.b.installed.get(&sa.spi_out).expect("only A has a child");
            assert_eq!(other.spi_out, sa.spi_in);
            assert_eq!((&other.keys_in, &other.keys_out), (&sa.keys_out, &sa.keys_in));
            assert_eq!((&other.ts_local, &other.ts_remote), (&sa.ts_remote, &sa.ts_local));
            assert_eq!((other.suite, other.esn), (sa.suite, sa.esn));
        }
    }

    /// Everything has been said, one child is left, and it is one both sides have.
    pub(super) fn check_one_child(&mut self) {
        self.linger();
        self.check();
        assert_eq!(self.a.installed.len(), 1);
        assert!(self.a.is_idle() && self.b.is_idle());
        assert_eq!((self.a.old_links(), self.b.old_links()), (0, 0));
    }
}

fn deliver(side: &mut Side, now: Instant, letter: &Letter) {
    let (local, remote, bytes) = (letter.to, letter.from, letter.bytes.clone());
    side.handle(now, Input::Datagram { local, remote, bytes });
}
