//! Fairness: rates, and what is done when more comes than can be carried.
//!
//! ```text
//!  inbound   kernel: gate by class ─► socket queues ─► Drr over sockets ─► SPI ─► Admission, rates ─► decrypt
//!  outbound  kernel: a TUN queue for each tenant ─► Drr over tenants ─► route ─► rates ─► seal
//! ```
//! Where packets come one by one, each receive is a system call, a good part of what carrying the packet costs; and the
//! socket's queue is one for all tenants. So the worker cannot look at everything that comes and choose: at a few times the
//! peak the looking alone would take its time. Nor may it take what comes first, since then everybody loses the same part,
//! whoever floods. The choice has to be made in front of the queue, where the kernel
//! handles the packet anyway, and that is where [`admission`] makes it. To the peers, each tenant has a queue of its own
//! in front of the worker; there it is enough to read them in fair turns ([`drr`]).

pub(crate) mod admission;
pub(crate) mod bucket;
pub(crate) mod drr;
pub(crate) mod rates;
pub(crate) mod shares;
#[cfg(test)]
mod tests;

use std::time::Instant;

use esp::DropReason;
use rustc_hash::FxHashMap;

use crate::io::PacketIo;
use crate::message::WorkerCounters;
use crate::shard::DomainFacts;
pub(crate) use admission::{Run, Standing};
pub(crate) use rates::Direction;
pub use rates::{Rate, Rates, SharedRates};

/// What is kept with each pair.
#[derive(Debug, Default)]
pub(crate) struct PairState {
    standing: Standing,
    meter: Option<Box<rates::Meter>>,
}

/// One worker's fairness.
#[derive(Debug)]
pub(crate) struct Fair {
    epoch: Instant,
    admission: admission::Admission,
    /// Of limited tenants.
    leases: FxHashMap<u32, rates::Leases>,
}

impl Fair {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            epoch: now,
            admission: admission::Admission::new(),
            leases: FxHashMap::default(),
        }
    }

    /// Nothing waits in the sockets.
    pub(crate) fn ran_dry(&mut self) {
        self.admission.ran_dry();
    }

    /// Once a turn.
    pub(crate) fn tick(&mut self, io: &mut impl PacketIo, counters: &mut WorkerCounters, now: Instant) {
        let now = now.saturating_duration_since(self.epoch).as_nanos() as u64;
        self.admission.tick(now, io, counters);
    }

    /// Whether packets from a peer are let in; asked before anything is done with them.
    pub(crate) fn admit_in(
        &mut self,
        facts: &DomainFacts,
        session: u64,
        run: Run,
        state: &mut PairState,
        io: &mut impl PacketIo,
        now: Instant,
    ) -> Result<(), DropReason> {
        self.admission.admit(run, &mut state.standing, io)?;
        self.measure(Direction::In, facts, session, state, now)
    }

    /// Whether packets of no SA are looked at.
    pub(crate) fn admit_stranger(&mut self, octets: usize, is_gated: bool) -> Result<(), DropReason> {
        self.admission.admit_stranger(octets as u64, is_gated)
    }

    /// Whether packets to a peer may pass; they are charged at once.
    pub(crate) fn admit_out(
        &mut self,
        facts: &DomainFacts,
        session: u64,
        state: &mut PairState,
        units: [u64; 2],
        now: Instant,
    ) -> Result<(), DropReason> {
        self.measure(Direction::Out, facts, session, state, now)?;
        self.charge(Direction::Out, facts, state, units);
        Ok(())
    }

    fn measure(
        &mut self,
        direction: Direction,
        facts: &DomainFacts,
        session: u64,
        state: &mut PairState,
        now: Instant,
    ) -> Result<(), DropReason> {
        if !facts.rates.is_limited() {
            return Ok(());
        }
        let leases = self.leases.entry(facts.id).or_default();
        facts
            .rates
            .admit(direction, leases, session, &mut state.meter, now)
    }

    /// Counts octets and packets that passed towards the rates.
    pub(crate) fn charge(
        &mut self,
        direction: Direction,
        facts: &DomainFacts,
        state: &mut PairState,
        units: [u64; 2],
    ) {
        if facts.rates.is_limited() {
            let leases = self.leases.entry(facts.id).or_default();
            facts
                .rates
                .charge(direction, leases, state.meter.as_deref_mut(), units);
        }
    }

    /// A pair is gone.
    pub(crate) fn forget(&mut self, spi: u32, state: &PairState) {
        self.admission.forget(spi, state.standing);
    }

    /// A domain is gone.
    pub(crate) fn forget_domain(&mut self, id: u32) {
        self.leases.remove(&id);
        self.admission.forget_domain(id);
    }
}
