//! Who is let in when more arrives than the worker can carry.
//!
//! As long as the sockets run dry now and then, nothing is done but adding up. When they have not for a while and a queue
//! is filling, the gate is closed: what each tenant asks for is compared with its max-min fair share of what the worker
//! has been able to do, and of what is beyond a share, a part chosen by chance is dropped. The gate stands before the
//! sockets' queues, in the kernel, where a drop costs the worker nothing; without the privilege for that, and for raw
//! sockets, the worker drops the same before it decrypts.
//!
//! ```text
//!   arrivals by class ─► demand ─┐
//!   done while never idle ─► capacity ─► × (1 + gain · (target − fill of the queue)) ─► fair shares ─► chances of a drop
//! ```
//! A queue that is never quite empty keeps the worker busy, one that is never full drops nothing by accident. Work is
//! counted in octets plus a constant for each packet and each read: a share is a share of the worker's time.
//!
//! Packets are let in and dropped in runs, so that those let in can still be joined to bursts.
//!
//! Inside a tenant sessions are equals in the same way: those that ask for much more than their part get a class of their
//! own, [`HEAVY`] of them at most; the others of a tenant share one chance.

use esp::DropReason;
use rustc_hash::FxHashMap;

use super::shares::{Claim, divide};
use crate::io::PacketIo;
use crate::message::WorkerCounters;
use crate::sys::gate::RUN;

/// How often shares are computed, in nanoseconds.
const INTERVAL: u64 = 10_000_000;
/// Intervals in which no socket ran dry, before the gate is closed.
const PATIENCE: u32 = 2;
/// How full the fullest socket must be for that.
const FILLING: f64 = 0.4;
/// How full it is kept.
const TARGET: f64 = 0.2;
/// By which part of the capacity what is let in differs from it, for a queue that is all empty or full beyond the target.
const GAIN: f64 = 0.5;
/// Intervals in which everybody asked for less than there is, before the gate is opened.
const RELAXED: u32 = 50;
/// The weight of the newest interval in averages.
const NEWEST: f64 = 0.25;
/// Octets that handling a packet, and reading a datagram or burst, take as long as.
const PACKET: u64 = 256;
const READ: u64 = 2048;
/// Time for reading what is dropped then, as a part of that for what is carried.
const LOOKING: f64 = 0.2;
/// SPIs put into classes in one interval.
const ASSIGNMENTS: u32 = 256;
/// Work in a second that any worker can do.
const LEAST: f64 = 1e7;
/// Classes of single sessions, behind those of tenants; and intervals after which one that asks for little loses its own.
const HEAVY: u16 = 64;
const HEAVY_QUIET: u32 = 100;
/// Classes of tenants, from 1 on: more tenants share them.
const TENANTS: u16 = 896;
/// The class of SPIs that are not known, or not yet. It weighs a quarter of a tenant.
const STRANGERS: u16 = 0;
const STRANGERS_WEIGHT: f64 = 0.25;
/// All of 2^32.
const CERTAIN: f64 = 4_294_967_296.0;

/// What the admission keeps with each pair.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Standing {
    /// 0: none yet.
    class: u16,
    /// The interval that `work` is of.
    interval: u32,
    work: u64,
}

impl Standing {
    /// Whether the gate may know the pair's SPI.
    pub(crate) fn is_known(self) -> bool {
        self.class != STRANGERS
    }
}

/// What arrived: one run of packets of one SA.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    pub(crate) spi: u32,
    pub(crate) domain: u32,
    pub(crate) packets: u64,
    pub(crate) octets: u64,
    /// It has passed the gate in the kernel.
    pub(crate) is_gated: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Class {
    domain: u32,
    /// Of a single session.
    spi: u32,
    /// Work let in and refused in this interval.
    admitted: u64,
    refused: u64,
    /// Work asked for in a second, on average.
    demand: f64,
    chance: u64,
    /// Packets that were put to the chance by the worker, and what was drawn for the present run of them.
    came: u64,
    drawn: u32,
    lost: crate::io::Lost,
    /// Sessions that were let in during this interval, and the last.
    active: u32,
    sessions: u32,
    /// Work in an interval that makes a session of it heavy.
    heavy_at: u64,
    quiet: u32,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Gate {
    Open,
    Closed { relaxed: u32 },
}

/// The admission of one worker.
#[derive(Debug)]
pub(crate) struct Admission {
    gate: Gate,
    since: u64,
    interval: u32,
    is_dry: bool,
    behind: u32,
    /// Work done in this interval, with the gate open.
    done: u64,
    /// Work in a second that the worker can do: the most it has done lately, while the gate is open.
    capacity: f64,
    /// Index 0: strangers; then tenants; then heavy sessions.
    classes: Vec<Class>,
    tenants: FxHashMap<u32, u16>,
    next_tenant: u16,
    assignments: u32,
    /// SPIs whose pairs are gone.
    gone: Vec<u32>,
    claims: Vec<(u16, Claim)>,
    scratch: Vec<Claim>,
    random: u64,
    /// Work in this interval that had not passed the kernel's gate, and what reading it took.
    ungated: u64,
    looks: u64,
}

impl Admission {
    pub(crate) fn new() -> Self {
        Self {
            gate: Gate::Open,
            since: 0,
            interval: 0,
            is_dry: false,
            behind: 0,
            done: 0,
            capacity: 0.0,
            classes: Vec::new(),
            tenants: FxHashMap::default(),
            next_tenant: 0,
            assignments: 0,
            gone: Vec::new(),
            claims: Vec::new(),
            scratch: Vec::new(),
            random: 0x9e37_79b9_7f4a_7c15,
            ungated: 0,
            looks: 0,
        }
    }

    /// Nothing waits in the sockets.
    pub(crate) fn ran_dry(&mut self) {
        self.is_dry = true;
    }

    /// A pair whose SPI may have a class is gone.
    pub(crate) fn forget(&mut self, spi: u32, standing: Standing) {
        if standing.is_known() {
            self.gone.push(spi);
        }
    }

    /// A tenant is gone. Its class is another's when all have been given once.
    pub(crate) fn forget_domain(&mut self, domain: u32) {
        self.tenants.remove(&domain);
    }

    /// Whether packets of a pair are let in, before anything is done with them. Adding up is all it takes with the gate
    /// open.
    pub(crate) fn admit(
        &mut self,
        run: Run,
        standing: &mut Standing,
        io: &mut impl PacketIo,
    ) -> Result<(), DropReason> {
        let work = run.octets + run.packets * PACKET + READ;
        if self.gate == Gate::Open {
            self.done += work;
            return Ok(());
        }
        self.classify(run, standing, work, io);
        self.pass(standing.class, work, run.packets, run.is_gated)
    }

    /// Whether packets of no SA here are looked at.
    pub(crate) fn admit_stranger(&mut self, octets: u64, is_gated: bool) -> Result<(), DropReason> {
        let work = octets.min(READ) + READ;
        if self.gate == Gate::Open {
            self.done += work;
            return Ok(());
        }
        self.pass(STRANGERS, work, 1, is_gated)
    }

    fn pass(&mut self, class: u16, work: u64, packets: u64, is_gated: bool) -> Result<(), DropReason> {
        if !is_gated {
            self.ungated += work;
            self.looks += READ;
        }
        let drawn = self.draw();
        let class = self.class(class);
        if !is_gated && class.chance > 0 {
            let before = class.came / RUN;
            class.came += packets;
            if class.came / RUN != before {
                class.drawn = drawn;
            }
        }
        let is_unlucky = !is_gated && u64::from(class.drawn) < class.chance;
        if is_unlucky {
            class.refused += work;
            return Err(DropReason::Overload);
        }
        class.admitted += work;
        Ok(())
    }

    /// Finds the class of a pair, and tells the kernel when it is a new one.
    fn classify(&mut self, run: Run, standing: &mut Standing, work: u64, io: &mut impl PacketIo) {
        let is_heavy = standing.class > TENANTS;
        if is_heavy && self.class(standing.class).spi != run.spi {
            // Its class has been given up.
            standing.class = self.tenant(run.domain);
        }
        if !standing.is_known() {
            if self.assignments == 0 {
                return;
            }
            self.assignments -= 1;
            let class = self.tenant(run.domain);
            if io.assign_class(run.spi, class) {
                standing.class = class;
            }
        }
        let interval = self.interval;
        if standing.interval != interval {
            (standing.interval, standing.work) = (interval, 0);
            let class = self.class(standing.class);
            class.active = class.active.saturating_add(1);
        }
        standing.work += work;
        if standing.class <= TENANTS && standing.work > self.class(standing.class).heavy_at {
            self.single_out(run, standing, io);
        }
    }

    /// Gives a session its own class, if one is free.
    fn single_out(&mut self, run: Run, standing: &mut Standing, io: &mut impl PacketIo) {
        let free = (TENANTS + 1..=TENANTS + HEAVY).find(|number| self.class(*number).spi == 0);
        let Some(number) = free else { return };
        if !io.assign_class(run.spi, number) {
            return;
        }
        let old = *self.class(standing.class);
        let lost = io.lost(number);
        *self.class(number) = Class {
            domain: run.domain,
            spi: run.spi,
            chance: old.chance,
            lost,
            active: 1,
            heavy_at: u64::MAX,
            ..Class::default()
        };
        io.set_chance(number, old.chance);
        standing.class = number;
    }

    fn class(&mut self, number: u16) -> &mut Class {
        let index = usize::from(number);
        if index >= self.classes.len() {
            self.classes.resize(
                index + 1,
                Class {
                    heavy_at: u64::MAX,
                    ..Class::default()
                },
            );
        }
        // The table has just been made large enough; the first class stands for what cannot be.
        let index = if index < self.classes.len() { index } else { 0 };
        #[allow(clippy::indexing_slicing, reason = "checked above")]
        &mut self.classes[index]
    }

    fn tenant(&mut self, domain: u32) -> u16 {
        if let Some(class) = self.tenants.get(&domain) {
            return *class;
        }
        let class = self.next_tenant % TENANTS + 1;
        self.next_tenant = self.next_tenant.wrapping_add(1);
        self.tenants.insert(domain, class);
        self.class(class).domain = domain;
        class
    }

    /// xorshift64*: for chances, not for secrets.
    fn draw(&mut self) -> u32 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        (self.random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as u32
    }

    /// Called in each turn; computes once an interval. `now` in nanoseconds.
    pub(crate) fn tick(&mut self, now: u64, io: &mut impl PacketIo, counters: &mut WorkerCounters) {
        let time = now.saturating_sub(self.since);
        if time < INTERVAL {
            return;
        }
        self.since = now;
        for spi in self.gone.drain(..) {
            io.forget_class(spi);
        }
        let seconds = time as f64 / 1e9;
        let is_dry = std::mem::take(&mut self.is_dry) || time > 20 * INTERVAL;
        self.behind = if is_dry { 0 } else { self.behind + 1 };
        match self.gate {
            Gate::Open => {
                let done = std::mem::take(&mut self.done) as f64 / seconds;
                self.capacity = done.max(self.capacity * 0.99);
                if self.behind >= PATIENCE && io.backlog().is_none_or(|fill| fill >= FILLING) {
                    self.close(io);
                }
            }
            Gate::Closed { relaxed } => {
                counters.overload_nanos += time;
                let relaxed = match self.compute(seconds, is_dry, io, counters) {
                    true => relaxed + 1,
                    false => 0,
                };
                if relaxed >= RELAXED {
                    self.open(io);
                } else {
                    self.gate = Gate::Closed { relaxed };
                }
            }
        }
    }

    fn close(&mut self, io: &mut impl PacketIo) {
        self.gate = Gate::Closed { relaxed: 0 };
        self.begin_interval();
        for (number, class) in (0..).zip(&mut self.classes) {
            class.lost = io.lost(number);
            (class.demand, class.chance) = (0.0, 0);
        }
        io.close_gate();
    }

    fn open(&mut self, io: &mut impl PacketIo) {
        io.open_gate();
        self.gate = Gate::Open;
        self.behind = 0;
        for (number, class) in (0..).zip(&mut self.classes) {
            if class.chance > 0 {
                class.chance = 0;
                io.set_chance(number, 0);
            }
        }
        for number in TENANTS + 1..=TENANTS + HEAVY {
            self.give_up(number, io);
        }
    }

    /// A heavy session is one of its tenant's again.
    fn give_up(&mut self, number: u16, io: &mut impl PacketIo) {
        if usize::from(number) >= self.classes.len() {
            return;
        }
        let class = *self.class(number);
        if class.spi != 0 {
            let of_tenant = self.tenant(class.domain);
            // Fails if the map is full, which it is not: the SPI is in it.
            let _ = io.assign_class(class.spi, of_tenant);
            self.class(number).spi = 0;
        }
    }

    fn begin_interval(&mut self) {
        self.interval = self.interval.wrapping_add(1);
        self.assignments = ASSIGNMENTS;
        (self.ungated, self.looks) = (0, 0);
        for class in &mut self.classes {
            class.sessions = std::mem::take(&mut class.active);
            (class.admitted, class.refused) = (0, 0);
        }
    }

    /// Compares what was asked for with what there is, and sets the chances. Whether there was enough for all.
    fn compute(
        &mut self,
        seconds: f64,
        is_dry: bool,
        io: &mut impl PacketIo,
        counters: &mut WorkerCounters,
    ) -> bool {
        let (mut done, mut wanted) = (0.0, 0.0);
        for (number, class) in (0_u16..).zip(&mut self.classes) {
            let lost = io.lost(number);
            let [bursts, packets, octets] = [
                lost.bursts.wrapping_sub(class.lost.bursts),
                lost.packets.wrapping_sub(class.lost.packets),
                lost.octets.wrapping_sub(class.lost.octets),
            ];
            class.lost = lost;
            if packets > 0 {
                let domain = (number != STRANGERS).then_some(class.domain);
                counters.dropped(domain, DropReason::Overload, packets);
                let work = if number == STRANGERS {
                    octets.min(bursts * READ) + bursts * READ
                } else {
                    octets + packets * PACKET + bursts * READ
                };
                class.refused += work;
            }
            done += class.admitted as f64;
            let now = (class.admitted + class.refused) as f64 / seconds;
            class.demand += (now - class.demand) * if class.demand == 0.0 { 1.0 } else { NEWEST };
            wanted += class.demand;
        }
        let fill = io.backlog().unwrap_or(if is_dry { 0.0 } else { 2.0 * TARGET });
        let rate = done / seconds;
        if !is_dry {
            self.capacity += (rate - self.capacity) * NEWEST;
        } else if rate > self.capacity {
            self.capacity = rate;
        } else if wanted > self.capacity {
            // Nothing is known but that there is more than was let in.
            self.capacity = self.capacity.max(LEAST) * 1.05;
        }
        let total = self.capacity * (1.0 + GAIN * (TARGET - fill));
        // What the worker reads in order to drop it takes time from what it carries: of single packets it may drop few, or
        // it would do nothing else; of bursts, nearly all.
        let affordable = LOOKING * done * self.ungated as f64 / self.looks.max(1) as f64;
        let total = total.max((self.ungated as f64 - affordable) / seconds);
        self.share_out(total, io);
        self.begin_interval();
        wanted < 0.9 * self.capacity && fill < TARGET
    }

    /// Shares of tenants, and inside each of its heavy sessions and the rest.
    fn share_out(&mut self, total: f64, io: &mut impl PacketIo) {
        let mut claims = std::mem::take(&mut self.claims);
        let mut scratch = std::mem::take(&mut self.scratch);
        claims.clear();
        let first_heavy = usize::from(TENANTS) + 1;
        for (number, class) in (0_u16..).zip(self.classes.iter().take(first_heavy)) {
            let weight = if number == STRANGERS {
                STRANGERS_WEIGHT
            } else {
                1.0
            };
            if class.demand > 0.0 {
                claims.push((number, Claim::new(class.demand, weight)));
            }
        }
        let heavy: Vec<(u16, u16, f64)> = (first_heavy as u16..)
            .zip(self.classes.iter().skip(first_heavy))
            .filter(|(_, class)| class.spi != 0)
            .map(|(number, class)| {
                let tenant = self.tenants.get(&class.domain).copied();
                (number, tenant.unwrap_or(STRANGERS), class.demand)
            })
            .collect();
        for (_, tenant, demand) in &heavy {
            match claims.iter_mut().find(|(number, _)| number == tenant) {
                Some((_, claim)) => claim.demand += demand,
                None => claims.push((*tenant, Claim::new(*demand, 1.0))),
            }
        }
        scratch.clear();
        scratch.extend(claims.iter().map(|(_, claim)| *claim));
        divide(total, &mut scratch);
        for ((_, claim), divided) in claims.iter_mut().zip(&scratch) {
            claim.share = divided.share;
        }
        for (number, claim) in &claims {
            let class = *self.class(*number);
            let own = |heavy: &&(u16, u16, f64)| heavy.1 == *number;
            scratch.clear();
            let sessions = f64::from(class.sessions.max(class.active).max(1));
            scratch.push(Claim::new(class.demand, sessions));
            scratch.extend(
                heavy
                    .iter()
                    .filter(own)
                    .map(|(_, _, demand)| Claim::new(*demand, 1.0)),
            );
            divide(claim.share, &mut scratch);
            let [rest, singles @ ..] = scratch.as_slice() else {
                continue;
            };
            self.apply(*number, rest.share, io);
            for ((single, _, _), claim) in heavy.iter().filter(own).zip(singles) {
                self.apply(*single, claim.share, io);
                let is_quiet = claim.demand < rest.share / sessions;
                let class = self.class(*single);
                class.quiet = if is_quiet { class.quiet + 1 } else { 0 };
                if class.quiet > HEAVY_QUIET {
                    self.give_up(*single, io);
                }
            }
            // Twice the part of one of them; alone there is nobody to be protected from.
            let of_one = class.admitted as f64 / sessions;
            self.class(*number).heavy_at = if class.chance > 0 && sessions > 1.0 {
                (2.0 * of_one) as u64
            } else {
                u64::MAX
            };
        }
        (self.claims, self.scratch) = (claims, scratch);
    }

    fn apply(&mut self, number: u16, share: f64, io: &mut impl PacketIo) {
        let class = self.class(number);
        let kept = if class.demand > share {
            share / class.demand
        } else {
            1.0
        };
        let chance = ((1.0 - kept.clamp(0.0, 1.0)) * CERTAIN) as u64;
        if chance != class.chance {
            class.chance = chance;
            io.set_chance(number, chance);
        }
    }
}
