//! The body of a worker's loop: everything it does with packets, and nothing of where they come from. Performs no I/O of
//! its own and reads no clock: packets come and go by [`PacketIo`], the time is passed in.
//!
//! ```text
//!  PacketIo::receive ─► segments by SPI ─► open_burst ─► selectors, ECN, MSS ─► Coalescer ─► PacketIo::write_inner
//!  PacketIo::transmit ◄─ Outbox: seal_burst of equal slots ◄─ MTU, MSS ◄─ Routes ◄─ Burst ◄─ PacketIo::read_inner
//! ```

mod inbound;
mod outbound;
mod pair;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use rustc_hash::FxHashMap;

use crate::coalesce::Coalescer;
use crate::config::{MssClamp, Offloads};
use crate::handover::{Batch, Origin};
use crate::io::PacketIo;
use crate::message::{SaPair, SaStats, WorkerCommand, WorkerCounters, WorkerEvent};
use crate::routes::{Owners, Routes};
use outbound::Outbox;
use pair::{Allowance, Pair, Slot};

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
/// Acquire events and ICMP errors in a second.
const ACQUIRES: u32 = 64;
const ICMP_ERRORS: u32 = 100;

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
}

/// One worker's SAs and tables.
pub struct Shard {
    worker: u8,
    workers: u8,
    pairs: Vec<Option<Pair>>,
    free: Vec<Slot>,
    by_spi: FxHashMap<u32, Slot>,
    domains: FxHashMap<u32, DomainFacts>,
    routes: FxHashMap<u32, Routes<Slot>>,
    owners: Arc<Owners>,
    counters: WorkerCounters,
    arena: Vec<u8>,
    inner: Vec<u8>,
    coalescer: Coalescer,
    opened: Vec<Result<esp::Opened, esp::DropReason>>,
    outbox: Outbox,
    acquires: Allowance,
    icmp_errors: Allowance,
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
            domains: FxHashMap::default(),
            routes: FxHashMap::default(),
            owners,
            counters: WorkerCounters::default(),
            arena: vec![0; ARENA],
            inner: vec![0; LARGEST],
            coalescer: Coalescer::new(),
            opened: Vec::with_capacity(64),
            outbox: Outbox::new(),
            acquires: Allowance::new(ACQUIRES, now),
            icmp_errors: Allowance::new(ICMP_ERRORS, now),
            report_at: now + REPORT_EVERY,
        }
    }

    /// Does what waits, within bounds: receives, reads, and once a second reports. Returns the packets handled; 0 means
    /// that nothing waited.
    pub fn turn(&mut self, io: &mut impl PacketIo, now: Instant) -> usize {
        let handled = self.receive(io, now) + self.read(io, now);
        if now >= self.report_at {
            self.report_at = now + REPORT_EVERY;
            self.report(io, now);
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

    /// Packets from other workers.
    pub fn accept(&mut self, batch: &Batch, io: &mut impl PacketIo, now: Instant) {
        for parcel in batch.parcels() {
            match parcel.origin {
                Origin::Inner { domain } => self.send_inner(domain, parcel.data, true, io, now),
                Origin::Outer {
                    from,
                    port,
                    segment,
                    tos,
                } => {
                    if let Some(room) = self.arena.get_mut(..parcel.data.len()) {
                        room.copy_from_slice(parcel.data);
                        let arrival = crate::io::Arrival {
                            len: parcel.data.len(),
                            segment,
                            from,
                            port,
                            tos,
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
        self.domains.insert(facts.id, facts);
    }

    /// Forgets a domain; its pairs stay until they are removed, and carry nothing.
    pub fn detach_domain(&mut self, id: u32) {
        self.domains.remove(&id);
    }

    /// Obeys the control plane.
    pub fn command(&mut self, command: WorkerCommand, io: &mut impl PacketIo, now: Instant) -> Flow {
        match command {
            WorkerCommand::Install(pair) => self.install(*pair, io, now),
            WorkerCommand::Remove { spi_in } => self.remove(spi_in),
            WorkerCommand::UpdatePeer {
                spi_in,
                remote,
                local,
            } => {
                if let Some(pair) = self
                    .by_spi
                    .get(&spi_in)
                    .and_then(|s| self.pairs.get_mut(*s as usize)?.as_mut())
                {
                    pair.peer = remote;
                    let port = local
                        .zip(io.describe(pair.port))
                        .and_then(|(local, (_, encap))| io.port(local, encap));
                    pair.port = port.unwrap_or(pair.port);
                }
            }
            WorkerCommand::RaiseCeiling { spi_in, ceiling } => {
                if let Some(pair) = self
                    .by_spi
                    .get(&spi_in)
                    .and_then(|s| self.pairs.get_mut(*s as usize)?.as_mut())
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

    fn install(&mut self, pair: SaPair, io: &mut impl PacketIo, now: Instant) {
        let (session, spi_in) = (pair.session, pair.inbound.spi);
        let refuse = |io: &mut dyn FnMut(WorkerEvent), reason: String| {
            io(WorkerEvent::InstallFailed {
                session,
                spi_in,
                reason,
            });
        };
        if crate::worker_of_spi(spi_in) != self.worker || spi_in < 256 {
            refuse(
                &mut |e| io.event(e),
                format!("inbound SPI {spi_in:08x} is not one of worker {}", self.worker),
            );
            return;
        }
        let Some(port) = io.port(pair.local, pair.encap) else {
            refuse(
                &mut |e| io.event(e),
                format!("no {:?} socket has the address {}", pair.encap, pair.local),
            );
            return;
        };
        let pair = match Pair::new(pair, port, now) {
            Ok(pair) => pair,
            Err(e) => return refuse(&mut |e| io.event(e), e.to_string()),
        };
        self.remove(spi_in);
        let slot = self.free.pop().unwrap_or_else(|| {
            self.pairs.push(None);
            (self.pairs.len() - 1) as Slot
        });
        self.by_spi.insert(spi_in, slot);
        self.owners.add(pair.domain, &pair.ts_remote, self.worker);
        self.routes
            .entry(pair.domain)
            .or_default()
            .insert(&pair.ts_remote, slot);
        if let Some(place) = self.pairs.get_mut(slot as usize) {
            *place = Some(pair);
        }
    }

    fn remove(&mut self, spi_in: u32) {
        let Some(slot) = self.by_spi.remove(&spi_in) else {
            return;
        };
        let Some(pair) = self.pairs.get_mut(slot as usize).and_then(Option::take) else {
            return;
        };
        self.owners.remove(pair.domain, &pair.ts_remote, self.worker);
        if let Some(routes) = self.routes.get_mut(&pair.domain) {
            routes.remove(&pair.ts_remote, slot);
        }
        self.free.push(slot);
    }

    fn stats(&self, now: Instant) -> Vec<SaStats> {
        self.pairs.iter().flatten().map(|pair| pair.stats(now)).collect()
    }

    fn report(&mut self, io: &mut impl PacketIo, now: Instant) {
        let stats: Vec<SaStats> = self
            .pairs
            .iter_mut()
            .flatten()
            .filter_map(|pair| pair.tick(now, io))
            .collect();
        if !stats.is_empty() {
            io.event(WorkerEvent::Stats(stats));
        }
    }
}
