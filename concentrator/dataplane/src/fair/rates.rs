//! The rates of a tenant and of each of its sessions, as the control plane sets them and all workers share them.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;

use esp::DropReason;
use rustc_hash::FxHashMap;

use super::bucket::{Bucket, Lease};

/// How much a second, of inner packets; 0 is unlimited.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Rate {
    /// Octets.
    pub octets: u64,
    /// Packets, those of bursts one by one.
    pub packets: u64,
}

/// Rates of a routing domain: of all its sessions together, and of each one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Rates {
    /// All sessions, from the peers.
    pub tenant_in: Rate,
    /// All sessions, to the peers.
    pub tenant_out: Rate,
    /// Each session, from its peer.
    pub session_in: Rate,
    /// Each session, to its peer.
    pub session_out: Rate,
}

/// A packet's way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Direction {
    In,
    Out,
}

/// Buckets of both directions, for octets and packets.
#[derive(Debug, Default)]
pub(crate) struct Buckets([[Bucket; 2]; 2]);

/// A worker's leases from them.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Leases([[Lease; 2]; 2]);

/// What a session has drawn, while its tenant limits sessions.
#[derive(Debug)]
pub(crate) struct Meter {
    buckets: Arc<Buckets>,
    leases: Leases,
}

/// The rates of one routing domain, shared by all workers; may be changed at any time.
#[derive(Debug)]
pub struct SharedRates {
    /// Zero of the buckets' time.
    epoch: Instant,
    /// Of the tenant in and out, of a session in and out: octets and packets.
    rates: [[AtomicU64; 2]; 4],
    is_limited: AtomicU64,
    tenant: Buckets,
    /// Sessions that have been metered: their SAs, which may be several and at several workers, share buckets.
    sessions: Mutex<FxHashMap<u64, Weak<Buckets>>>,
}

impl Default for SharedRates {
    fn default() -> Self {
        Self::new(Rates::default())
    }
}

impl SharedRates {
    /// Rates to begin with.
    #[must_use]
    pub fn new(rates: Rates) -> Self {
        let shared = Self {
            epoch: Instant::now(),
            rates: Default::default(),
            is_limited: AtomicU64::new(0),
            tenant: Buckets::default(),
            sessions: Mutex::default(),
        };
        shared.set(rates);
        shared
    }

    /// Sets other rates; packets from here on are measured by them.
    pub fn set(&self, rates: Rates) {
        let Rates {
            tenant_in,
            tenant_out,
            session_in,
            session_out,
        } = rates;
        for (cells, rate) in self
            .rates
            .iter()
            .zip([tenant_in, tenant_out, session_in, session_out])
        {
            let [octets, packets] = cells;
            octets.store(rate.octets, Ordering::Relaxed);
            packets.store(rate.packets, Ordering::Relaxed);
        }
        self.is_limited
            .store(u64::from(rates != Rates::default()), Ordering::Relaxed);
    }

    /// Whether there is any limit.
    pub(crate) fn is_limited(&self) -> bool {
        self.is_limited.load(Ordering::Relaxed) != 0
    }

    /// Octets and packets a second.
    fn rate(&self, of_session: bool, direction: Direction) -> [u64; 2] {
        let at = usize::from(of_session) * 2 + usize::from(direction == Direction::Out);
        self.rates.get(at).map_or([0; 2], |cells| {
            cells.each_ref().map(|cell| cell.load(Ordering::Relaxed))
        })
    }

    /// Whether packets of a session may pass now. The first one of a metered session makes its meter.
    pub(crate) fn admit(
        &self,
        direction: Direction,
        tenant: &mut Leases,
        session: u64,
        meter: &mut Option<Box<Meter>>,
        now: Instant,
    ) -> Result<(), DropReason> {
        let now = now.saturating_duration_since(self.epoch).as_nanos() as u64 + START;
        let rate = self.rate(true, direction);
        if rate != [0; 2] {
            let meter = meter.get_or_insert_with(|| Box::new(self.meter(session)));
            if !meter.leases.admit(&meter.buckets, direction, rate, now) {
                return Err(DropReason::SessionRate);
            }
        }
        if !tenant.admit(&self.tenant, direction, self.rate(false, direction), now) {
            return Err(DropReason::TenantRate);
        }
        Ok(())
    }

    /// What has passed.
    pub(crate) fn charge(
        &self,
        direction: Direction,
        tenant: &mut Leases,
        meter: Option<&mut Meter>,
        units: [u64; 2],
    ) {
        if let Some(meter) = meter {
            meter.leases.charge(direction, self.rate(true, direction), units);
        }
        tenant.charge(direction, self.rate(false, direction), units);
    }

    fn meter(&self, session: u64) -> Meter {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        let known = sessions.get(&session).and_then(Weak::upgrade);
        let buckets = known.unwrap_or_else(|| {
            // Those that have ended go when the table would grow.
            if sessions.len() == sessions.capacity() {
                sessions.retain(|_, buckets| buckets.strong_count() > 0);
            }
            let buckets = Arc::<Buckets>::default();
            sessions.insert(session, Arc::downgrade(&buckets));
            buckets
        });
        Meter {
            buckets,
            leases: Leases::default(),
        }
    }
}

/// Buckets begin full: the time that they see first is beyond their depth.
const START: u64 = 1_000_000_000;

impl Leases {
    fn admit(&mut self, buckets: &Buckets, direction: Direction, rate: [u64; 2], now: u64) -> bool {
        let at = usize::from(direction == Direction::Out);
        let (Some(leases), Some(buckets)) = (self.0.get_mut(at), buckets.0.get(at)) else {
            return true;
        };
        leases
            .iter_mut()
            .zip(buckets)
            .zip(rate)
            .all(|((lease, bucket), rate)| lease.admits(bucket, rate, now))
    }

    fn charge(&mut self, direction: Direction, rate: [u64; 2], units: [u64; 2]) {
        let at = usize::from(direction == Direction::Out);
        for ((lease, rate), units) in self.0.iter_mut().skip(at).take(1).flatten().zip(rate).zip(units) {
            lease.charge(rate, units);
        }
    }
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// One worker's part in two sessions.
    #[derive(Default)]
    struct Worker {
        tenant: Leases,
        meters: [Option<Box<Meter>>; 2],
        passed: [u64; 2],
        refused: [u64; 2],
    }

    /// Each session offers a packet of `size` octets a millisecond at each worker, for four seconds after one of warming.
    fn run(rates: Rates, direction: Direction, workers: usize, size: u64) -> (SharedRates, Vec<Worker>) {
        let shared = SharedRates::new(rates);
        let mut all: Vec<Worker> = (0..workers).map(|_| Worker::default()).collect();
        for ms in 0..5_000 {
            let now = shared.epoch + Duration::from_millis(ms);
            for worker in &mut all {
                for session in 0..2 {
                    let meter = &mut worker.meters[session];
                    match shared.admit(direction, &mut worker.tenant, session as u64, meter, now) {
                        Ok(()) => {
                            shared.charge(direction, &mut worker.tenant, meter.as_deref_mut(), [size, 1]);
                            worker.passed[session] += u64::from(ms >= 1_000);
                        }
                        Err(DropReason::SessionRate) => worker.refused[0] += 1,
                        Err(DropReason::TenantRate) => worker.refused[1] += 1,
                        Err(other) => panic!("{other}"),
                    }
                }
            }
        }
        (shared, all)
    }

    fn near(value: u64, wanted: u64) {
        assert!(value.abs_diff(wanted) <= wanted / 50 + 4, "{value}, not {wanted}");
    }

    #[test]
    fn without_rates_nothing_is_limited_or_kept() {
        let (shared, workers) = run(Rates::default(), Direction::In, 2, 1_000);
        assert!(!shared.is_limited() && shared.sessions.lock().unwrap().is_empty());
        assert!(
            workers
                .iter()
                .all(|w| w.passed == [4_000; 2] && w.meters.iter().all(Option::is_none))
        );
    }

    #[test]
    fn a_tenants_rate_is_one_over_all_workers_and_in_its_direction_only() {
        let rates = Rates {
            tenant_out: Rate {
                octets: 1_000_000,
                packets: 0,
            },
            ..Rates::default()
        };
        for workers in [1, 4] {
            let (shared, all) = run(rates, Direction::Out, workers, 1_000);
            assert!(shared.is_limited());
            near(all.iter().flat_map(|w| w.passed).sum(), 4_000);
            assert!(all.iter().all(|w| w.refused[0] == 0 && w.refused[1] > 0));
            let (_, free) = run(rates, Direction::In, workers, 1_000);
            assert!(free.iter().all(|w| w.passed == [4_000; 2]));
        }
    }

    #[test]
    fn a_sessions_rate_is_its_own_over_all_its_workers() {
        let rates = Rates {
            session_in: Rate {
                octets: 0,
                packets: 250,
            },
            ..Rates::default()
        };
        let (shared, all) = run(rates, Direction::In, 3, 1_000);
        for session in 0..2 {
            near(all.iter().map(|w| w.passed[session]).sum(), 1_000);
        }
        assert!(all.iter().all(|w| w.refused[0] > 0 && w.refused[1] == 0));
        assert_eq!(shared.sessions.lock().unwrap().len(), 2);
        drop(all);
        // What has ended is forgotten when there is no room for another.
        for session in 2..100 {
            drop(shared.meter(session));
        }
        assert!(shared.sessions.lock().unwrap().len() < 30);
    }

    #[test]
    fn rates_may_change_while_packets_pass() {
        let (shared, mut all) = run(
            Rates {
                tenant_in: Rate {
                    octets: 1_000,
                    packets: 10,
                },
                ..Rates::default()
            },
            Direction::In,
            1,
            100,
        );
        let later = shared.epoch + Duration::from_secs(5);
        let worker = &mut all[0];
        let mut none = None;
        let refused = (0..50).any(|_| {
            let result = shared.admit(Direction::In, &mut worker.tenant, 9, &mut none, later);
            shared.charge(Direction::In, &mut worker.tenant, None, [100, 1]);
            result.is_err()
        });
        assert!(refused);
        shared.set(Rates::default());
        assert_eq!(
            shared.admit(Direction::In, &mut worker.tenant, 9, &mut none, later),
            Ok(())
        );
    }
}
