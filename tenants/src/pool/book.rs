//! The bookkeeping of a pool: pure, every step in constant or logarithmic time.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use store::Revision;

use crate::model::AddressPool;
use crate::range::AddressRange;
use crate::validate::excluded_ranges;

/// Idle leases remembered in a pool; the longest idle one is forgotten when more come.
pub const MAX_IDLE: usize = 65_536;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    InUse,
    /// In use before the start, not claimed yet.
    Unclaimed,
    /// With its place in the order of release.
    Idle(u64),
}

/// What is known of an address that somebody has or had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lease {
    owner: String,
    state: State,
    /// The store's revision of its record; `None` while it is being written.
    pub(super) revision: Option<Revision>,
}

/// What came of a claim.
pub(super) enum Claim {
    /// The owner has it, and the record says so.
    Held,
    /// Somebody else has it, or it is not of this pool.
    Taken,
    /// Taken in the book; the record is to be written.
    Write(Option<Lease>),
}

/// A lease that has become idle.
pub(super) struct Released {
    pub(super) revision: Option<Revision>,
    /// Leases forgotten to make room.
    pub(super) evicted: Vec<(IpAddr, Revision)>,
}

pub(super) struct Book {
    config: Arc<AddressPool>,
    gaps: Vec<AddressRange>,
    leases: HashMap<IpAddr, Lease>,
    by_owner: HashMap<String, Vec<IpAddr>>,
    /// Idle leases in the order of their release.
    idle: BTreeMap<u64, IpAddr>,
    next_idle: u64,
    /// Offset of the first address that has never been looked at.
    fresh: u128,
    /// Addresses below it whose leases were forgotten.
    returned: VecDeque<IpAddr>,
    in_use: u64,
}

impl Book {
    pub(super) fn new(config: Arc<AddressPool>) -> Self {
        Self {
            gaps: excluded_ranges(&config),
            config,
            leases: HashMap::new(),
            by_owner: HashMap::new(),
            idle: BTreeMap::new(),
            next_idle: 0,
            fresh: 0,
            returned: VecDeque::new(),
            in_use: 0,
        }
    }

    pub(super) fn config(&self) -> &AddressPool {
        &self.config
    }

    pub(super) fn in_use(&self) -> u64 {
        self.in_use
    }

    pub(super) fn reconfigure(&mut self, config: Arc<AddressPool>) {
        self.gaps = excluded_ranges(&config);
        self.config = config;
        // Addresses are looked at again: those with leases are passed over in the search.
        self.fresh = 0;
        self.returned.clear();
        let outside: Vec<IpAddr> = self
            .idle
            .values()
            .copied()
            .filter(|idle| !self.may_give(*idle))
            .collect();
        for address in outside {
            self.forget(address);
        }
    }

    /// Whether the configuration lets an address be given out.
    fn may_give(&self, address: IpAddr) -> bool {
        self.config.range.contains(address) && self.gap_of(address).is_none()
    }

    /// The exclusion that an address lies in.
    fn gap_of(&self, address: IpAddr) -> Option<&AddressRange> {
        let index = self.gaps.partition_point(|gap| gap.end() < address);
        self.gaps.get(index).filter(|gap| gap.contains(address))
    }

    /// Chooses an address and marks it in use; with what was known of it before.
    pub(super) fn choose(&mut self, owner: &str, wanted: Option<IpAddr>) -> Option<(IpAddr, Option<Lease>)> {
        let address = self
            .wanted(owner, wanted)
            .or_else(|| self.last_of(owner))
            .or_else(|| self.returned())
            .or_else(|| self.fresh())
            .or_else(|| self.idle.values().next().copied())?;
        let before = self.replace(address, owner);
        Some((address, before))
    }

    fn wanted(&self, owner: &str, wanted: Option<IpAddr>) -> Option<IpAddr> {
        let address = wanted.filter(|address| self.may_give(*address))?;
        match self.leases.get(&address) {
            None => Some(address),
            Some(lease) => (matches!(lease.state, State::Idle(_)) && lease.owner == owner).then_some(address),
        }
    }

    /// The idle address that the owner had last.
    fn last_of(&self, owner: &str) -> Option<IpAddr> {
        if !self.config.sticky {
            return None;
        }
        let own = self.by_owner.get(owner)?;
        own.iter()
            .filter_map(|address| match self.leases.get(address)?.state {
                State::Idle(order) => Some((order, *address)),
                State::InUse | State::Unclaimed => None,
            })
            .max()
            .map(|(_, address)| address)
    }

    fn returned(&mut self) -> Option<IpAddr> {
        while let Some(address) = self.returned.pop_front() {
            if !self.leases.contains_key(&address) && self.may_give(address) {
                return Some(address);
            }
        }
        None
    }

    /// The next address that nobody had; each is looked at once, exclusions are jumped over.
    fn fresh(&mut self) -> Option<IpAddr> {
        loop {
            let address = self.config.range.at(self.fresh)?;
            if let Some(gap) = self.gap_of(address) {
                self.fresh = self.config.range.offset(gap.end())?.checked_add(1)?;
                continue;
            }
            self.fresh = self.fresh.checked_add(1)?;
            if !self.leases.contains_key(&address) {
                return Some(address);
            }
        }
    }

    /// Makes an address the owner's, in use, not written yet.
    fn replace(&mut self, address: IpAddr, owner: &str) -> Option<Lease> {
        let before = self.take_out(address);
        self.put_in(
            address,
            Lease {
                owner: owner.to_owned(),
                state: State::InUse,
                revision: None,
            },
        );
        before
    }

    fn take_out(&mut self, address: IpAddr) -> Option<Lease> {
        let lease = self.leases.remove(&address)?;
        match lease.state {
            State::Idle(order) => drop(self.idle.remove(&order)),
            State::InUse | State::Unclaimed => self.in_use -= 1,
        }
        if let Some(own) = self.by_owner.get_mut(&lease.owner) {
            own.retain(|other| *other != address);
            if own.is_empty() {
                self.by_owner.remove(&lease.owner);
            }
        }
        Some(lease)
    }

    fn put_in(&mut self, address: IpAddr, lease: Lease) {
        match lease.state {
            State::Idle(order) => drop(self.idle.insert(order, address)),
            State::InUse | State::Unclaimed => self.in_use += 1,
        }
        self.by_owner
            .entry(lease.owner.clone())
            .or_default()
            .push(address);
        self.leases.insert(address, lease);
    }

    fn idle_state(&mut self) -> State {
        self.next_idle += 1;
        State::Idle(self.next_idle)
    }

    /// Undoes a choice.
    pub(super) fn restore(&mut self, address: IpAddr, before: Option<Lease>) {
        self.take_out(address);
        match before {
            Some(lease) => self.put_in(address, lease),
            None => self.returned.push_front(address),
        }
    }

    /// The record of a lease in use is durable.
    pub(super) fn written(&mut self, address: IpAddr, revision: Revision) {
        if let Some(lease) = self.leases.get_mut(&address) {
            lease.revision = Some(revision);
        }
    }

    /// The record of an idle lease is durable, if it is still that one.
    pub(super) fn idle_written(&mut self, address: IpAddr, owner: &str, revision: Revision) {
        if let Some(lease) = self.leases.get_mut(&address)
            && lease.owner == owner
            && matches!(lease.state, State::Idle(_))
        {
            lease.revision = Some(revision);
        }
    }

    pub(super) fn claim(&mut self, owner: &str, address: IpAddr) -> Claim {
        let may_give = self.may_give(address);
        match self.leases.get_mut(&address) {
            Some(lease) if lease.owner == owner && lease.state == State::Unclaimed => {
                lease.state = State::InUse;
                Claim::Held
            }
            Some(Lease {
                state: State::InUse | State::Unclaimed,
                ..
            }) => Claim::Taken,
            None if !may_give => Claim::Taken,
            Some(_) | None => Claim::Write(self.replace(address, owner)),
        }
    }

    /// Makes a lease idle; `None` when the owner does not have it.
    pub(super) fn release(&mut self, owner: &str, address: IpAddr) -> Option<Released> {
        let held = self.leases.get(&address)?;
        if held.owner != owner || matches!(held.state, State::Idle(_)) {
            return None;
        }
        let mut lease = self.take_out(address)?;
        let revision = lease.revision;
        if !self.may_give(address) {
            // No longer of the pool: the record goes.
            let evicted = revision.map(|revision| (address, revision)).into_iter().collect();
            return Some(Released {
                revision: None,
                evicted,
            });
        }
        lease.state = self.idle_state();
        self.put_in(address, lease);
        let mut evicted = Vec::new();
        while self.idle.len() > MAX_IDLE {
            let Some((_, oldest)) = self.idle.pop_first() else {
                break;
            };
            if let Some(revision) = self.leases.get(&oldest).and_then(|lease| lease.revision) {
                evicted.push((oldest, revision));
            }
            self.take_out(oldest);
            self.returned.push_back(oldest);
        }
        Some(Released { revision, evicted })
    }

    pub(super) fn load(&mut self, address: IpAddr, owner: &str, in_use: bool, revision: Revision) {
        self.take_out(address);
        let state = if in_use {
            State::Unclaimed
        } else {
            self.idle_state()
        };
        self.put_in(
            address,
            Lease {
                owner: owner.to_owned(),
                state,
                revision: Some(revision),
            },
        );
    }

    /// What the store says of an address that was thought to be different.
    pub(super) fn learn(&mut self, address: IpAddr, owner: &str, in_use: bool, revision: Revision) {
        self.take_out(address);
        let state = if in_use { State::InUse } else { self.idle_state() };
        self.put_in(
            address,
            Lease {
                owner: owner.to_owned(),
                state,
                revision: Some(revision),
            },
        );
    }

    /// The store has no record of an address.
    pub(super) fn forget(&mut self, address: IpAddr) {
        self.take_out(address);
        if self.may_give(address) {
            self.returned.push_back(address);
        }
    }

    /// Makes unclaimed leases idle; those with a record are to be written.
    pub(super) fn sweep(&mut self) -> Vec<(IpAddr, String, Revision)> {
        let unclaimed: Vec<IpAddr> = self
            .leases
            .iter()
            .filter(|(_, lease)| lease.state == State::Unclaimed)
            .map(|(address, _)| *address)
            .collect();
        let mut swept = Vec::with_capacity(unclaimed.len());
        for address in unclaimed {
            let Some(mut lease) = self.take_out(address) else {
                continue;
            };
            lease.state = self.idle_state();
            if let Some(revision) = lease.revision {
                swept.push((address, lease.owner.clone(), revision));
            }
            self.put_in(address, lease);
        }
        swept
    }
}
