//! What everybody knows of a tenant at run time: its supervisor's address, its counts, its share of the slow work.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use actix::Addr;
use arc_swap::ArcSwapOption;
use dashmap::DashMap;
use tokio::sync::Semaphore;

use crate::actors::TenantSupervisor;

/// The run-time side of a tenant.
pub struct TenantShare {
    /// Its name.
    pub name: String,
    /// Its supervisor; replaced when that one panicked.
    pub supervisor: ArcSwapOption<Addr<TenantSupervisor>>,
    /// Sessions that are up.
    pub sessions: Arc<AtomicU32>,
    /// Logins whose tenant is known and that are not up.
    pub opening: Arc<AtomicU32>,
    /// Actors made again after a panic.
    pub restarts: AtomicU32,
    /// Its share of the authentications.
    pub authentications: Arc<Semaphore>,
    /// Packets dropped by reason: as many entries as there are reasons, at most.
    drops: Mutex<BTreeMap<&'static str, u64>>,
}

impl TenantShare {
    /// Counts packets that a worker dropped.
    pub fn dropped(&self, reason: &'static str, packets: u64) {
        let mut drops = self.drops.lock().unwrap_or_else(PoisonError::into_inner);
        *drops.entry(reason).or_default() += packets;
    }

    /// Packets that workers dropped, by reason.
    #[must_use]
    pub fn drops(&self) -> BTreeMap<&'static str, u64> {
        self.drops.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// One unit of a counter, given back when it is dropped: also when an actor panics.
#[derive(Debug)]
pub struct Counted(Arc<AtomicU32>);

impl Counted {
    /// Takes one unit; `None` when `most` are taken.
    #[must_use]
    pub fn take(counter: &Arc<AtomicU32>, most: u32) -> Option<Self> {
        counter
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |count| {
                (count < most).then_some(count + 1)
            })
            .ok()
            .map(|_| Self(Arc::clone(counter)))
    }

    /// Takes one unit whatever the count is: for what exists already.
    #[must_use]
    pub fn force(counter: &Arc<AtomicU32>) -> Self {
        counter.fetch_add(1, Ordering::AcqRel);
        Self(Arc::clone(counter))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// All tenants that have been seen since the start. Bounded by the tenants that are configured.
pub struct Tenants {
    shares: DashMap<String, Arc<TenantShare>>,
    authentications: usize,
}

impl Tenants {
    /// `authentications` is the share of one tenant.
    #[must_use]
    pub fn new(authentications: u32) -> Self {
        Self {
            shares: DashMap::new(),
            authentications: authentications as usize,
        }
    }

    /// The tenant's share, made when it is new.
    #[must_use]
    pub fn share(&self, name: &str) -> Arc<TenantShare> {
        if let Some(found) = self.shares.get(name) {
            return Arc::clone(&found);
        }
        Arc::clone(&self.shares.entry(name.to_owned()).or_insert_with(|| {
            Arc::new(TenantShare {
                name: name.to_owned(),
                supervisor: ArcSwapOption::empty(),
                sessions: Arc::default(),
                opening: Arc::default(),
                restarts: AtomicU32::new(0),
                authentications: Arc::new(Semaphore::new(self.authentications)),
                drops: Mutex::default(),
            })
        }))
    }

    /// The tenant's share, if it has one.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<Arc<TenantShare>> {
        self.shares.get(name).map(|found| Arc::clone(&found))
    }

    /// Every share, by name.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<TenantShare>> {
        let mut all: Vec<_> = self.shares.iter().map(|share| Arc::clone(&share)).collect();
        all.sort_by(|one, other| one.name.cmp(&other.name));
        all
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn units_come_back_when_dropped_even_by_a_panic() {
        let counter = Arc::new(AtomicU32::new(0));
        let first = Counted::take(&counter, 1).unwrap();
        assert!(Counted::take(&counter, 1).is_none());
        let forced = Counted::force(&counter);
        drop(first);
        assert!(Counted::take(&counter, 1).is_none(), "the forced unit counts");
        drop(forced);
        let inner = Arc::clone(&counter);
        let _ = std::thread::spawn(move || {
            let _unit = Counted::take(&inner, 1).unwrap();
            std::panic::panic_any("test");
        })
        .join();
        assert_eq!(counter.load(Ordering::Acquire), 0);
    }

    #[test]
    fn one_share_for_one_tenant() {
        let tenants = Tenants::new(3);
        assert!(tenants.find("a").is_none());
        let one = tenants.share("a");
        assert!(Arc::ptr_eq(&one, &tenants.share("a")));
        assert_eq!(tenants.all().len(), 1);
        assert_eq!(one.authentications.available_permits(), 3);
    }
}
