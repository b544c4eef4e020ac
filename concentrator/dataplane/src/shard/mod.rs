//! The body of a worker's loop: everything it does with packets, and nothing of where they come from. Performs no I/O of
//! its own and reads no clock: packets come and go by [`PacketIo`], the time is passed in.
//!
//! ```text
//!  PacketIo::receive ─► segments by SPI ─► open_burst ─► selectors, ECN, MSS ─► Coalescer ─► PacketIo::write_inner
//!  PacketIo::transmit ◄─ Outbox: seal_burst of equal slots ◄─ MTU, MSS ◄─ Routes ◄─ Burst ◄─ PacketIo::read_inner
//! ```

mod exceptions;
mod groups;
mod inbound;
mod outbound;
mod pair;
mod path;
mod table;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use rustc_hash::FxHashMap;

use crate::coalesce::Coalescer;
use crate::config::{MAX_SLOTS, MssClamp, Offloads};
use crate::fair::{Fair, SharedRates};
use crate::handover::{Batch, Origin};
use crate::io::PacketIo;
use crate::message::{SaPair, SaStats, WorkerCommand, WorkerCounters, WorkerEvent};
use crate::pmtu::{PathEvent, Paths};
use crate::routes::{Owners, Routes};
use crate::segment::Burst;
use crate::vnet::{self, VnetHeader};
use outbound::Outbox;
pub(crate) use pair::Place;
use pair::{Allowance, Pair};

/// Octets of the buffer for received bursts: a few of the largest.
const ARENA: usize = 256 << 10;
/// Octets that one receive or read may fill.
const LARGEST: usize = 66 << 10;
/// Receives in one turn.
const MAX_RECEIVES: usize = 64;
/// Reads of inner packets or bursts in one turn.
const MAX_READS: usize = 32;
/// How often counters are reported.
const REPORT_EVERY: Duration = Duration::from_secs(1);
/// Acquire events in a second.
const ACQUIRES: u32 = 64;

/// What the worker needs to know of a routing domain.
#[derive(Clone, Debug)]
pub struct DomainFacts {
    /// Its number.
    pub id: u32,
    /// Largest inner packet in octets.
    pub mtu: u16,
    /// What may be written to its device.
    pub offloads: Offloads,
    /// TCP MSS clamping.
    pub mss_clamp: MssClamp,
    /// Addresses of the device: ICMP errors come from them.
    pub addresses: Vec<IpNet>,
    /// How much may pass in a second; the same for all workers.
    pub rates: Arc<SharedRates>,
}

/// One worker's SAs and tables.
pub struct Shard {
    worker: u8,
    workers: u8,
    /// Boxed: the table may grow while packets wait.
    pairs: Vec<Option<Box<Pair>>>,
    free: Vec<Place>,
    by_spi: FxHashMap<u32, Place>,
    /// Inbound SPIs of each session, the newest last.
    by_session: FxHashMap<u64, Vec<u32>>,
    /// Pairs that wait to be installed.
    backlog: VecDeque<SaPair>,
    /// Pairs of removed slots with their places, which are not free yet.
    removed: VecDeque<(Place, Box<Pair>)>,
    /// Where packets of the slots of other nodes are sent on to.
    forwards: [Option<SocketAddr>; MAX_SLOTS as usize],
    domains: FxHashMap<u32, DomainFacts>,
    routes: FxHashMap<u32, Routes<Place>>,
    owners: Arc<Owners>,
    counters: WorkerCounters,
    arena: Vec<u8>,
    inner: Vec<u8>,
    coalescer: Coalescer,
    opened: Vec<Result<esp::Opened, esp::DropReason>>,
    outbox: Outbox,
    /// What worker 0 has told the kernel.
    spread: groups::Spread,
    acquires: Allowance,
    paths: Paths,
    fair: Fair,
    report_at: Instant,
}

/// What [`Shard::command`] asks of its caller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flow {
    /// Go on.
    Continue,
    /// End the loop.
    Stop,
}

impl Shard {
    /// An empty worker. Forgets what its predecessor owned.
    pub fn new(worker: u8, workers: u8, owners: Arc<Owners>, now: Instant) -> Self {
        owners.forget(worker);
        Self {
            worker,
            workers: workers.max(1),
            pairs: Vec::new(),
            free: Vec::new(),
            by_spi: FxHashMap::default(),
            by_session: FxHashMap::default(),
            backlog: VecDeque::new(),
            removed: VecDeque::new(),
            forwards: [None; MAX_SLOTS as usize],
            domains: FxHashMap::default(),
            routes: FxHashMap::default(),
            owners,
            counters: WorkerCounters::default(),
            arena: vec![0; ARENA],
            inner: vec![0; LARGEST],
            coalescer: Coalescer::new(),
            opened: Vec::with_capacity(64),
            outbox: Outbox::new(),
            spread: Vec::new(),
            acquires: Allowance::new(ACQUIRES, now),
            paths: Paths::new(now),
            fair: Fair::new(now),
            report_at: now + REPORT_EVERY,
        }
    }

    /// Does what waits, within bounds: receives, reads, and once a second reports. Returns the packets handled; 0 means
    /// that nothing waited. Without permission to carry packets, what waits is dropped.
    pub fn turn(&mut self, io: &mut impl PacketIo, now: Instant) -> usize {
        let handled = if io.may_carry() {
            self.learn(io, now) + self.receive(io, now) + self.read(io, now)
        } else {
            self.fair.ran_dry();
            self.discard(io)
        };
        self.fair.tick(io, &mut self.counters, now);
        if now >= self.report_at {
            self.report_at = now + REPORT_EVERY;
            self.report(io, now);
        }
        handled
    }

    /// Drops what waits, so that nothing old is left when the permission comes back.
    fn discard(&mut self, io: &mut impl PacketIo) -> usize {
        let mut handled = 0;
        for _ in 0..MAX_RECEIVES {
            let Some(arrival) = io.receive(&mut self.arena) else {
                break;
            };
            let packets = arrival.len.div_ceil(arrival.segment.max(1)).max(1);
            self.counters.outer_in += packets as u64;
            self.counters.drops.add(esp::DropReason::NotOwner, packets as u64);
            handled += packets;
        }
        for _ in 0..MAX_READS {
            let Some((_, len)) = io.read_inner(&mut self.inner) else {
                break;
            };
            let packets = inner_packets(self.inner.get(..len).unwrap_or_default());
            self.counters.inner_in += packets;
            self.counters.drops.add(esp::DropReason::NotOwner, packets);
            handled += 1;
        }
        handled
    }

    /// When [`Shard::turn`] is to be called even if no packet comes.
    pub fn deadline(&self) -> Instant {
        self.report_at
    }

    /// The counters since the start.
    pub fn counters(&self) -> &WorkerCounters {
        &self.counters
    }

    /// Packets that were to be handed over and found no room.
    pub fn count_lost(&mut self, packets: u64) {
        self.counters.drops.add(esp::DropReason::QueueFull, packets);
    }

    /// Packets said to come from another node that were refused.
    pub fn count_bad_forwards(&mut self, packets: u64) {
        self.counters.drops.add(esp::DropReason::BadForward, packets);
    }

    /// What AF_XDP has done since the last time.
    pub(crate) fn count_fast(&mut self, fast: crate::fast::FastCounters) {
        let counters = &mut self.counters;
        counters.fast_in += fast.received;
        counters.fast_out += fast.sent;
        counters.fast_left += fast.left;
        counters.fast_lost += fast.lost;
        counters.outer_out = counters.outer_out.saturating_sub(fast.withdrawn);
        counters
            .drops
            .add(esp::DropReason::OuterMalformed, fast.malformed);
        counters.drops.add(esp::DropReason::NotOwner, fast.withdrawn);
    }

    /// Packets from other workers.
    pub fn accept(&mut self, batch: &Batch, io: &mut impl PacketIo, now: Instant) {
        for parcel in batch.parcels() {
            match parcel.origin {
                Origin::Inner { domain } => self.send_inner(domain, parcel.data, true, io, now),
                Origin::PathError { is_v4 } => self.weigh(parcel.data, is_v4, io, now),
                Origin::Outer {
                    from,
                    port,
                    segment,
                    tos,
                    forwarded,
                } => {
                    if let Some(room) = self.arena.get_mut(..parcel.data.len()) {
                        room.copy_from_slice(parcel.data);
                        let arrival = crate::io::Arrival {
                            len: parcel.data.len(),
                            segment,
                            from,
                            port,
                            tos,
                            forwarded,
                            gated: false,
                        };
                        self.open_arrival(0, &arrival, true, io, now);
                        self.flush_inner(io);
                    }
                }
            }
        }
        self.flush_outbox(io, now);
    }

    /// Makes a domain known or changes what is known of it.
    pub fn attach_domain(&mut self, facts: DomainFacts) {
        // The device may be another one, which knows nothing.
        self.spread.retain(|(domain, ..)| *domain != facts.id);
        self.domains.insert(facts.id, facts);
    }

    /// Forgets a domain; its pairs stay until they are removed, and carry nothing.
    pub fn detach_domain(&mut self, id: u32) {
        self.domains.remove(&id);
        self.counters.domains.remove(&id);
        self.fair.forget_domain(id);
    }

    /// Obeys the control plane.
    pub fn command(&mut self, command: WorkerCommand, io: &mut impl PacketIo, now: Instant) -> Flow {
        match command {
            WorkerCommand::Install(pair) => self.install(*pair, io, now),
            WorkerCommand::InstallMany(pairs) => {
                if self.backlog.is_empty() {
                    // Without a copy, which takes milliseconds.
                    self.backlog = pairs.into();
                } else {
                    self.backlog.extend(pairs);
                }
                self.work_off(io, now);
            }
            WorkerCommand::Remove { spi_in } => self.remove(spi_in),
            WorkerCommand::StopSending { spi_in } => {
                if let Some(pair) = self
                    .by_spi
                    .get(&spi_in)
                    .and_then(|s| self.pairs.get_mut(*s as usize)?.as_deref_mut())
                {
                    pair.superseded = true;
                }
                self.tell_group(spi_in);
            }
            WorkerCommand::RemoveSlot { slot } => self.remove_slot(slot),
            WorkerCommand::Forward { slot, to } => {
                if let Some(place) = self.forwards.get_mut(usize::from(slot)) {
                    *place = to;
                }
            }
            WorkerCommand::UpdatePeer {
                spi_in,
                remote,
                local,
            } => {
                if let Some(pair) = self
                    .by_spi
                    .get(&spi_in)
                    .and_then(|s| self.pairs.get_mut(*s as usize)?.as_deref_mut())
                {
                    pair.move_to(remote, now);
                    let port = local
                        .zip(io.describe(pair.port))
                        .and_then(|(local, (_, encap))| io.port(local, encap));
                    pair.port = port.unwrap_or(pair.port);
                    if let Some((_, encap)) = io.describe(pair.port) {
                        pair.path.reroute(pair::encapsulation(encap, remote));
                    }
                }
            }
            WorkerCommand::RaiseCeiling { spi_in, ceiling } => {
                if let Some(pair) = self
                    .by_spi
                    .get(&spi_in)
                    .and_then(|s| self.pairs.get_mut(*s as usize)?.as_deref_mut())
                {
                    pair.raise_ceiling(ceiling);
                }
            }
            WorkerCommand::ReadStats(reply) => reply(self.stats(now)),
            WorkerCommand::Checkpoint(reply) => {
                // Bounded: what keeps arriving meanwhile may wait for the next one.
                for _ in 0..64 {
                    if self.turn(io, now) == 0 {
                        break;
                    }
                }
                reply(self.stats(now));
            }
            WorkerCommand::ReadCounters(reply) => reply(self.counters.clone()),
            WorkerCommand::Panic => {
                #[allow(clippy::panic, reason = "this is what was asked for: fault injection")]
                {
                    panic!("panic requested by fault injection")
                }
            }
            WorkerCommand::Shutdown => return Flow::Stop,
        }
        Flow::Continue
    }

    fn stats(&self, now: Instant) -> Vec<SaStats> {
        self.pairs.iter().flatten().map(|pair| pair.stats(now)).collect()
    }

    fn report(&mut self, io: &mut impl PacketIo, now: Instant) {
        self.review_groups(io, now);
        let (age, paths) = (self.paths.config.age, &mut self.counters.paths);
        let stats: Vec<SaStats> = self
            .pairs
            .iter_mut()
            .flatten()
            .filter_map(|pair| {
                paths.add(PathEvent::Aged, pair.grow_old(age, now).into());
                pair.tick(now, io)
            })
            .collect();
        if !stats.is_empty() {
            io.event(WorkerEvent::Stats(stats));
        }
    }
}

/// How many packets a `virtio_net_hdr` and what follows it are.
fn inner_packets(data: &[u8]) -> u64 {
    let burst = VnetHeader::read(data)
        .zip(data.get(vnet::LEN..))
        .and_then(|(header, packet)| Burst::new(&header, packet).ok().map(|burst| burst.count()));
    burst.unwrap_or(1) as u64
}
