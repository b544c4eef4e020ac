//! The directory of live sessions: what the management API shows, and what an actor's successor needs to find.
//!
//! A [`Session`] outlives the actors that serve it: when an IkeSaActor panics, its children's [`Child`] entries, the
//! counters and the address of the session stay here until the next one has taken over.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use actix::Addr;
use arc_swap::ArcSwapOption;
use ike::{ChildSa, MessageIds};
use serde::{Deserialize, Serialize};

use crate::actors::{ChildSaActor, IkeSaActor};
use crate::authenticator::Lease;
use crate::ceiling::{self, Numbers};
use crate::checkpoint::Window;

/// What is known of a session for its whole life; part of its record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// Names the session over rekeys, restarts and actors.
    pub id: u64,
    /// The slot that it belongs to.
    #[serde(default)]
    pub slot: u8,
    /// The tenant it was admitted to.
    pub tenant: String,
    /// The connection that was chosen.
    pub connection: String,
    /// The identity that the peer proved, as text.
    pub peer_id: String,
    /// The identity that we proved, as text.
    pub local_id: String,
    /// Virtual addresses.
    pub virtual_addresses: Vec<IpAddr>,
    /// Those of them that came from pools.
    pub leases: Vec<Lease>,
    /// The ESP worker of the peer.
    pub worker: u8,
    /// The routing domain's number.
    pub domain: u32,
    /// When it was established, seconds since 1970.
    pub established_secs: u64,
    /// When its IKE SA is rekeyed or ends, seconds after it was established.
    pub ike_lifetime_secs: u64,
}

/// What changes during the life of a session.
#[derive(Clone, Debug)]
pub struct Standing {
    /// The initiator's IKE SPI, 16 hexadecimal digits.
    pub spi_i: String,
    /// The responder's.
    pub spi_r: String,
    /// Algorithms of the IKE SA.
    pub suite: String,
    /// Our outer address.
    pub local: SocketAddr,
    /// The peer's outer address.
    pub remote: SocketAddr,
    /// We are behind a NAT.
    pub nat_local: bool,
    /// The peer is.
    pub nat_remote: bool,
    /// `established`, `closing` or `restored`.
    pub state: &'static str,
    /// When the keys of the IKE SA were made.
    pub keyed: SystemTime,
    /// The slot's generation then.
    pub born: u64,
}

/// A live session.
pub struct Session {
    /// What does not change.
    pub facts: Facts,
    /// The actor that serves it; replaced when that one panicked.
    pub addr: ArcSwapOption<Addr<IkeSaActor>>,
    standing: Mutex<Standing>,
    children: Mutex<BTreeMap<u32, Arc<Child>>>,
    gone: Totals,
    ids: Mutex<Ids>,
    follows: AtomicBool,
    /// Its actor panicked, and nobody makes the next one yet.
    fallen: AtomicBool,
}

/// The task of making the next actor of a session whose actor panicked. There is one for each panic: unless it is
/// [done](Fallen::done), somebody else can take it once this is dropped.
pub struct Fallen(Option<Arc<Session>>);

impl Fallen {
    /// There is a next actor, which is reported by itself if it panics.
    pub fn done(mut self) {
        self.0 = None;
    }
}

impl Drop for Fallen {
    fn drop(&mut self) {
        if let Some(session) = &self.0 {
            session.fell();
        }
    }
}

/// Where the message IDs of an IKE SA are, and where its record says that they are.
#[derive(Clone, Copy, Debug, Default)]
struct Ids {
    now: MessageIds,
    in_record: MessageIds,
}

/// Packets and octets of inner packets, both ways.
#[derive(Debug, Default)]
pub struct Totals {
    /// Packets that came from the peer.
    pub packets_in: AtomicU64,
    /// Their octets.
    pub octets_in: AtomicU64,
    /// Packets to the peer.
    pub packets_out: AtomicU64,
    /// Their octets.
    pub octets_out: AtomicU64,
    /// Dropped packets, in the order of [`dataplane::SaDrops::named`].
    pub drops: [AtomicU64; 6],
}

impl Totals {
    fn add(&self, other: &Self) {
        for (mine, theirs) in [
            (&self.packets_in, &other.packets_in),
            (&self.octets_in, &other.octets_in),
            (&self.packets_out, &other.packets_out),
            (&self.octets_out, &other.octets_out),
        ] {
            mine.fetch_add(theirs.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        for (mine, theirs) in self.drops.iter().zip(&other.drops) {
            mine.fetch_add(theirs.load(Ordering::Relaxed), Ordering::Relaxed);
        }
    }

    /// Dropped packets by reason, without those that there were none of.
    #[must_use]
    pub fn drops(&self) -> BTreeMap<String, u64> {
        let names = dataplane::SaDrops::default().named();
        let counts = self.drops.iter().map(|count| count.load(Ordering::Relaxed));
        let named = names.into_iter().zip(counts);
        named
            .filter(|(_, count)| *count > 0)
            .map(|((name, _), count)| (name.to_owned(), count))
            .collect()
    }

    /// Packets in, octets in, packets out, octets out.
    #[must_use]
    pub fn read(&self) -> [u64; 4] {
        [
            self.packets_in.load(Ordering::Relaxed),
            self.octets_in.load(Ordering::Relaxed),
            self.packets_out.load(Ordering::Relaxed),
            self.octets_out.load(Ordering::Relaxed),
        ]
    }
}

/// The two outer addresses of a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outer {
    /// Ours, with the canonical port.
    pub local: SocketAddr,
    /// The peer's.
    pub remote: SocketAddr,
}

/// One child SA, as its actor, its worker's statistics and the management API share it.
pub struct Child {
    /// The SA with its keys.
    pub sa: ChildSa,
    /// The session it belongs to.
    pub session: u64,
    /// The slot it belongs to.
    pub slot: u8,
    /// The slot's generation when its keys were made, and the block that later generations may use of its numbers.
    pub born: Born,
    /// The tenant, for metrics.
    pub tenant: String,
    /// The routing domain.
    pub domain: u32,
    /// When it was made.
    pub made: SystemTime,
    /// How many SAs it has replaced, one after the other.
    pub rekeys: u32,
    /// The actor that serves it.
    pub addr: ArcSwapOption<Addr<ChildSaActor>>,
    /// Traffic.
    pub totals: Totals,
    /// What the worker had counted at its last report: it counts from zero when it is started again.
    pub base: Totals,
    /// When the last authentic packet came, milliseconds since 1970; 0: none yet.
    pub last_in_millis: AtomicU64,
    /// The highest sequence number received.
    pub highest_in: AtomicU64,
    /// Where its inbound window was when it was carried on; `None`: it was made here.
    pub restored: Option<Window>,
    /// Whether what could be replayed after that has been counted.
    pub counted: AtomicBool,
    /// Which start of its worker's thread it was given to, when it was carried on.
    pub given: AtomicU32,
    /// Outbound sequence numbers up to this one are reserved.
    pub ceiling: AtomicU64,
    /// Whether the store may hold a ceiling of it: most children end within what their session's record reserves.
    pub has_ceiling: AtomicBool,
    outer: Mutex<Outer>,
    /// What the worker has learned of the way: the MTU in its upper half, the largest inner packet in its lower; 0: nothing.
    pub path: AtomicU32,
}

/// When a child SA's keys were made, as generations see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Born {
    /// The slot's generation.
    pub generation: u64,
    /// The numbers that each later generation may use.
    pub block: u32,
}

impl Child {
    /// A child that has carried nothing.
    #[must_use]
    pub fn new(sa: ChildSa, facts: &Facts, rekeys: u32, born: Born) -> Arc<Self> {
        let numbers = Numbers {
            first: 1,
            last: ceiling::FIRST,
        };
        Self::made_at(SystemTime::now(), sa, facts, rekeys, born, Some(numbers), None)
    }

    /// A child that was made earlier: one that is carried on. `numbers` may be sent with; `None`: it has to be replaced.
    #[must_use]
    pub fn made_at(
        made: SystemTime,
        sa: ChildSa,
        facts: &Facts,
        rekeys: u32,
        born: Born,
        numbers: Option<Numbers>,
        restored: Option<Window>,
    ) -> Arc<Self> {
        let outer = Outer {
            local: sa.local,
            remote: sa.remote,
        };
        Arc::new(Self {
            sa,
            session: facts.id,
            slot: facts.slot,
            born,
            tenant: facts.tenant.clone(),
            domain: facts.domain,
            made,
            rekeys,
            addr: ArcSwapOption::empty(),
            totals: Totals::default(),
            base: Totals::default(),
            last_in_millis: AtomicU64::new(0),
            highest_in: AtomicU64::new(restored.map_or(0, |window| window.highest)),
            restored,
            counted: AtomicBool::new(false),
            given: AtomicU32::new(0),
            ceiling: AtomicU64::new(numbers.map_or(0, |numbers| numbers.last)),
            // An owner before may have written one.
            has_ceiling: AtomicBool::new(restored.is_some()),
            outer: Mutex::new(outer),
            path: AtomicU32::new(0),
        })
    }

    /// How many sequence numbers between the checkpoint and the takeover this owner has not seen: each of them may be one
    /// that the last owner has accepted, and then could be replayed until the window is past it. `highest` of `packets`
    /// packets has come. Told once.
    #[must_use]
    pub fn exposed(&self, highest: u64, packets: u64) -> Option<u64> {
        let window = self.restored.filter(|_| packets > 0)?;
        if self.counted.swap(true, Ordering::AcqRel) {
            return None;
        }
        Some(highest.saturating_sub(window.highest).saturating_sub(packets))
    }

    /// Whether it may send no more: its numbers are used up, or its keys are too old.
    #[must_use]
    pub fn is_spent(&self) -> bool {
        self.ceiling.load(Ordering::Acquire) == 0
    }

    /// Where its outer packets go between.
    #[must_use]
    pub fn outer(&self) -> Outer {
        *lock(&self.outer)
    }

    /// The peer is elsewhere, or is reached from another address.
    pub fn move_to(&self, outer: Outer) {
        *lock(&self.outer) = outer;
    }

    /// How long ago the last authentic packet came.
    #[must_use]
    pub fn silent_for(&self, now: SystemTime) -> Option<Duration> {
        match self.last_in_millis.load(Ordering::Relaxed) {
            0 => None,
            millis => Some(Duration::from_millis(
                millis_since_1970(now).saturating_sub(millis),
            )),
        }
    }

    /// As the management API shows it.
    #[must_use]
    pub fn message(&self) -> api::v1::ChildSa {
        let [packets_in, octets_in, packets_out, octets_out] = self.totals.read();
        let last = self.last_in_millis.load(Ordering::Relaxed);
        let path = self.path.load(Ordering::Relaxed);
        api::v1::ChildSa {
            spi_in: format!("{:08x}", self.sa.spi_in),
            spi_out: format!("{:08x}", self.sa.spi_out),
            suite: self.sa.suite.to_string(),
            local_ts: self.sa.ts_local.iter().map(ToString::to_string).collect(),
            remote_ts: self.sa.ts_remote.iter().map(ToString::to_string).collect(),
            encapsulation: if self.sa.encap { "udp" } else { "raw" }.to_owned(),
            established_time: Some(timestamp(self.made)),
            rekey_time: self.sa.lifetime.soft.map(|soft| timestamp(self.made + soft)),
            packets_in,
            octets_in,
            packets_out,
            octets_out,
            last_in_time: (last > 0).then(|| timestamp(UNIX_EPOCH + Duration::from_millis(last))),
            rekeys: self.rekeys,
            esn: self.sa.esn,
            resource: self.sa.resource.to_string(),
            worker: u32::from(dataplane::worker_of_spi(self.sa.spi_in)),
            path_mtu: path >> 16,
            inner_mtu: path & 0xffff,
        }
    }
}

impl Session {
    /// A session without children.
    #[must_use]
    pub fn new(facts: Facts, standing: Standing) -> Arc<Self> {
        Arc::new(Self {
            facts,
            addr: ArcSwapOption::empty(),
            standing: Mutex::new(standing),
            children: Mutex::default(),
            gone: Totals::default(),
            ids: Mutex::default(),
            follows: AtomicBool::new(false),
            fallen: AtomicBool::new(false),
        })
    }

    /// Its identifier in the management API.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{:016x}", self.facts.id)
    }

    /// Whether the hard lifetime of its IKE SA's keys has passed.
    #[must_use]
    pub fn expired(&self, now: SystemTime) -> bool {
        let lifetime = Duration::from_secs(self.facts.ike_lifetime_secs);
        !lifetime.is_zero() && lock(&self.standing).keyed + lifetime <= now
    }

    /// Its actor has panicked: a next one is wanted.
    pub fn fell(&self) {
        self.fallen.store(true, Ordering::Release);
    }

    /// Takes the task of making its next actor; `None`: it has one, or somebody is at it.
    #[must_use]
    pub fn raise(self: &Arc<Self>) -> Option<Fallen> {
        let fallen = self.fallen.swap(false, Ordering::AcqRel);
        fallen.then(|| Fallen(Some(Arc::clone(self))))
    }

    /// Whether its client can be sent to another gateway.
    #[must_use]
    pub fn follows(&self) -> bool {
        self.follows.load(Ordering::Relaxed)
    }

    /// Notes what its core says of that.
    pub fn set_follows(&self, follows: bool) {
        self.follows.store(follows, Ordering::Relaxed);
    }

    /// Changes what changes.
    pub fn update(&self, change: impl FnOnce(&mut Standing)) {
        change(&mut lock(&self.standing));
    }

    /// What it is.
    #[must_use]
    pub fn standing(&self) -> Standing {
        lock(&self.standing).clone()
    }

    /// Where the message IDs of its IKE SA are; `in_record`: its record says so too.
    pub fn note_ids(&self, now: MessageIds, in_record: bool) {
        let mut ids = lock(&self.ids);
        ids.now = now;
        if in_record {
            ids.in_record = now;
        }
    }

    /// Where the message IDs are; `None` when nothing is known.
    #[must_use]
    pub fn ids(&self) -> Option<MessageIds> {
        Some(lock(&self.ids).now).filter(|now| *now != MessageIds::default())
    }

    /// Where the message IDs are, unless its record says so.
    #[must_use]
    pub fn unstored_ids(&self) -> Option<MessageIds> {
        let ids = lock(&self.ids);
        (ids.now != ids.in_record).then_some(ids.now)
    }

    /// Its children.
    #[must_use]
    pub fn children(&self) -> Vec<Arc<Child>> {
        lock(&self.children).values().cloned().collect()
    }

    /// One of its children.
    #[must_use]
    pub fn child(&self, spi_in: u32) -> Option<Arc<Child>> {
        lock(&self.children).get(&spi_in).cloned()
    }

    /// Adds a child.
    pub fn add(&self, child: Arc<Child>) {
        lock(&self.children).insert(child.sa.spi_in, child);
    }

    /// Takes a child away; its traffic stays in the sum.
    pub fn remove(&self, spi_in: u32) -> Option<Arc<Child>> {
        let child = lock(&self.children).remove(&spi_in)?;
        self.gone.add(&child.totals);
        Some(child)
    }

    /// As the management API shows it.
    #[must_use]
    pub fn message(&self, node: &str) -> api::v1::Session {
        let standing = self.standing();
        let children = self.children();
        let sum = Totals::default();
        sum.add(&self.gone);
        for child in &children {
            sum.add(&child.totals);
        }
        let [packets_in, octets_in, packets_out, octets_out] = sum.read();
        let facts = &self.facts;
        api::v1::Session {
            id: self.name(),
            tenant: facts.tenant.clone(),
            connection: facts.connection.clone(),
            peer_id: facts.peer_id.clone(),
            local_id: facts.local_id.clone(),
            local_address: standing.local.to_string(),
            remote_address: standing.remote.to_string(),
            virtual_addresses: facts.virtual_addresses.iter().map(ToString::to_string).collect(),
            spi_i: standing.spi_i,
            spi_r: standing.spi_r,
            ike_suite: standing.suite,
            established_time: Some(timestamp(
                UNIX_EPOCH + Duration::from_secs(facts.established_secs),
            )),
            ike_rekey_time: (facts.ike_lifetime_secs > 0)
                .then(|| timestamp(standing.keyed + Duration::from_secs(facts.ike_lifetime_secs))),
            nat_local: standing.nat_local,
            nat_remote: standing.nat_remote,
            children: children.iter().map(|child| child.message()).collect(),
            node: node.to_owned(),
            state: standing.state.to_owned(),
            drops: sum.drops(),
            octets_in,
            octets_out,
            packets_in,
            packets_out,
            worker: u32::from(facts.worker),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What these mutexes protect is whole after every statement: a panic elsewhere does not spoil it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A time as the management API writes it.
#[must_use]
pub fn timestamp(time: SystemTime) -> prost_types::Timestamp {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    prost_types::Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(since.subsec_nanos()).unwrap_or(0),
    }
}

/// Milliseconds since 1970.
#[must_use]
pub fn millis_since_1970(time: SystemTime) -> u64 {
    u64::try_from(time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}
