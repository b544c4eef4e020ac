//! The bookkeeping of a pool: pure, every step in constant or logarithmic time.
//!
//! Leases lie in lanes, one for each share that is used here; a single node has one lane with the whole pool. What lies
//! in a lane is handed out within it, so that whoever owns a share never needs to know the others.

mod shares;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use store::Revision;

use super::share::{MAX_SHARES, Share, share_of};
use crate::model::AddressPool;
use crate::range::AddressRange;
use crate::validate::excluded_ranges;

pub(super) use shares::Listed;

/// Idle leases remembered in a pool, divided evenly between the shares; the longest idle one of its share is forgotten
/// when more come.
pub const MAX_IDLE: usize = 65_536;
/// The lane of what the configuration does not let be handed out.
const STRAY: u8 = MAX_SHARES;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    InUse,
    /// In use before the start, not claimed yet.
    Unclaimed,
    /// In use by somebody that this book knows from the store only.
    Foreign,
    /// With its place in the order of release.
    Idle(u64),
}

/// What is known of an address that somebody has or had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lease {
    owner: String,
    state: State,
    /// The store's revision of its record; `None` while it is being written, and when it has not been looked at.
    pub(super) revision: Option<Revision>,
}

/// An address that was chosen and is to be written.
#[derive(Debug)]
pub(super) struct Chosen {
    pub(super) address: IpAddr,
    /// What was known of it.
    pub(super) before: Option<Lease>,
    /// Its record still says that it is in use by who had it before: the number of that release.
    kept: Option<u64>,
    /// Of its lane.
    term: u64,
}

impl Chosen {
    /// Whether its record says already that this owner has it.
    pub(super) fn is_kept_for(&self, owner: &str) -> bool {
        self.kept.is_some() && self.before.as_ref().is_some_and(|before| before.owner == owner)
    }
}

/// What came of a claim.
pub(super) enum Claim {
    /// The owner has it, and the record says so.
    Held,
    /// Somebody else has it, or it is not of this pool.
    Taken,
    /// Taken in the book; the record is to be written.
    Write(Chosen),
}

/// A lease that has been given back.
pub(super) struct Released {
    pub(super) revision: Option<Revision>,
    /// Remembered as idle; otherwise its record goes.
    pub(super) stays: bool,
    /// Leases forgotten to make room.
    pub(super) evicted: Vec<(IpAddr, Revision)>,
}

/// The leases of a share.
#[derive(Debug, Default)]
struct Lane {
    /// Tells it from the one that was there before it.
    term: u64,
    /// What the store has of it is known.
    loaded: bool,
    /// Its addresses; `None`: it has none.
    block: Option<AddressRange>,
    /// Offset in the block of the first address that has never been looked at.
    fresh: u128,
    /// Addresses below it whose leases were forgotten.
    returned: VecDeque<IpAddr>,
    /// Idle leases in the order of their release.
    idle: BTreeMap<u64, IpAddr>,
}

pub(super) struct Book {
    config: Arc<AddressPool>,
    gaps: Vec<AddressRange>,
    leases: HashMap<IpAddr, Lease>,
    /// Idle ones whose records still say that they are in use, with the number of their last release.
    kept: HashMap<IpAddr, u64>,
    by_owner: HashMap<String, Vec<IpAddr>>,
    /// Into how many shares the pool is cut, as a binary logarithm.
    bits: u32,
    lanes: BTreeMap<u8, Lane>,
    /// Whether lanes have to be read from the store before they are used.
    shared: bool,
    terms: u64,
    next_idle: u64,
    in_use: u64,
}

impl Book {
    pub(super) fn new(config: Arc<AddressPool>, shared: bool) -> Self {
        Self {
            gaps: excluded_ranges(&config),
            config,
            leases: HashMap::new(),
            kept: HashMap::new(),
            by_owner: HashMap::new(),
            bits: 0,
            lanes: BTreeMap::new(),
            shared,
            terms: 0,
            next_idle: 0,
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
        self.make_lanes_anew();
    }

    /// Cuts the pool into as many shares as this one is of.
    pub(super) fn cut_for(&mut self, share: Share) {
        if let Some(bits) = share.bits()
            && bits != self.bits
        {
            self.bits = bits;
            self.make_lanes_anew();
        }
    }

    /// Addresses are looked at again: those with leases are passed over in the search. Idle leases that may not be
    /// given out any more are forgotten.
    fn make_lanes_anew(&mut self) {
        let old = std::mem::take(&mut self.lanes);
        let mut idle: Vec<(u64, IpAddr)> = old.into_values().flat_map(|lane| lane.idle).collect();
        idle.sort_unstable();
        for (order, address) in idle {
            if self.may_give(address) {
                let lane = self.lane_of(address);
                self.lane(lane).idle.insert(order, address);
            } else if let Some(lease) = self.leases.remove(&address) {
                self.not_owned(&lease.owner, address);
            }
        }
        self.lanes_for_leases();
    }

    /// Every lease has its lane: a lane that is not there has none.
    fn lanes_for_leases(&mut self) {
        let lanes: BTreeSet<u8> = self.leases.keys().map(|address| self.lane_of(*address)).collect();
        for lane in lanes {
            self.lane(lane);
        }
    }

    /// The lane of a share, made when it is not there.
    fn lane(&mut self, index: u8) -> &mut Lane {
        let (bits, range, shared) = (self.bits, &self.config.range, self.shared);
        let terms = &mut self.terms;
        self.lanes.entry(index).or_insert_with(|| {
            *terms += 1;
            let of = 1_u8.checked_shl(bits).unwrap_or(0);
            Lane {
                term: *terms,
                loaded: !shared,
                block: Share { index, of }.block(range),
                ..Lane::default()
            }
        })
    }

    fn lane_of(&self, address: IpAddr) -> u8 {
        if self.may_give(address) {
            share_of(&self.config.range, address, self.bits).unwrap_or(STRAY)
        } else {
            STRAY
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

    /// Chooses an address of a share, or of the whole pool, and marks it in use.
    pub(super) fn choose(
        &mut self,
        owner: &str,
        wanted: Option<IpAddr>,
        share: Option<Share>,
    ) -> Option<Chosen> {
        if let Some(share) = share {
            share.bits()?;
            self.cut_for(share);
            return self.choose_in(owner, wanted, share.index);
        }
        let last = (1_u16 << self.bits.min(7)) - 1;
        (0..=u8::try_from(last).unwrap_or(0)).find_map(|lane| self.choose_in(owner, wanted, lane))
    }

    fn choose_in(&mut self, owner: &str, wanted: Option<IpAddr>, lane: u8) -> Option<Chosen> {
        self.lane(lane);
        let address = self
            .wanted(owner, wanted, lane)
            .or_else(|| self.last_of(owner, lane))
            .or_else(|| self.returned(lane))
            .or_else(|| self.fresh(lane))
            .or_else(|| self.lane(lane).idle.values().next().copied())?;
        Some(self.replace(address, owner))
    }

    fn wanted(&self, owner: &str, wanted: Option<IpAddr>, lane: u8) -> Option<IpAddr> {
        let address = wanted.filter(|address| self.lane_of(*address) == lane)?;
        match self.leases.get(&address) {
            None => Some(address),
            Some(lease) => (matches!(lease.state, State::Idle(_)) && lease.owner == owner).then_some(address),
        }
    }

    /// The idle address that the owner had last.
    fn last_of(&self, owner: &str, lane: u8) -> Option<IpAddr> {
        if !self.config.sticky {
            return None;
        }
        let own = self.by_owner.get(owner)?;
        own.iter()
            .filter(|address| self.lane_of(**address) == lane)
            .filter_map(|address| match self.leases.get(address)?.state {
                State::Idle(order) => Some((order, *address)),
                State::InUse | State::Unclaimed | State::Foreign => None,
            })
            .max()
            .map(|(_, address)| address)
    }

    fn returned(&mut self, lane: u8) -> Option<IpAddr> {
        while let Some(address) = self.lane(lane).returned.pop_front() {
            if !self.leases.contains_key(&address) && self.lane_of(address) == lane {
                return Some(address);
            }
        }
        None
    }

    /// The next address that nobody had; each is looked at once, exclusions are jumped over.
    fn fresh(&mut self, lane: u8) -> Option<IpAddr> {
        loop {
            let (block, fresh) = (self.lane(lane).block?, self.lane(lane).fresh);
            let address = block.at(fresh)?;
            let gap = self.gap_of(address).map(AddressRange::end);
            let next = match gap {
                // A gap may go on behind the block.
                Some(end) if !block.contains(end) => block.size(),
                Some(end) => block.offset(end)?.checked_add(1)?,
                None => fresh.checked_add(1)?,
            };
            self.lane(lane).fresh = next;
            if gap.is_none() && !self.leases.contains_key(&address) {
                return Some(address);
            }
        }
    }

    /// Makes an address the owner's, in use, not written yet.
    fn replace(&mut self, address: IpAddr, owner: &str) -> Chosen {
        let kept = self.kept.get(&address).copied();
        let before = self.take_out(address);
        self.put_in(
            address,
            Lease {
                owner: owner.to_owned(),
                state: State::InUse,
                revision: None,
            },
        );
        let lane = self.lane_of(address);
        Chosen {
            address,
            before,
            kept,
            term: self.lane(lane).term,
        }
    }

    fn take_out(&mut self, address: IpAddr) -> Option<Lease> {
        let lease = self.leases.remove(&address)?;
        self.kept.remove(&address);
        match lease.state {
            State::Idle(order) => {
                let lane = self.lane_of(address);
                self.lane(lane).idle.remove(&order);
            }
            State::InUse | State::Unclaimed | State::Foreign => self.in_use -= 1,
        }
        self.not_owned(&lease.owner, address);
        Some(lease)
    }

    fn not_owned(&mut self, owner: &str, address: IpAddr) {
        if let Some(own) = self.by_owner.get_mut(owner) {
            own.retain(|other| *other != address);
            if own.is_empty() {
                self.by_owner.remove(owner);
            }
        }
    }

    fn put_in(&mut self, address: IpAddr, lease: Lease) {
        let index = self.lane_of(address);
        let lane = self.lane(index);
        match lease.state {
            State::Idle(order) => drop(lane.idle.insert(order, address)),
            State::InUse | State::Unclaimed | State::Foreign => self.in_use += 1,
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

    /// Whether a choice is still of the lane that it was made in.
    fn is_current(&self, chosen: &Chosen) -> bool {
        self.lanes
            .get(&self.lane_of(chosen.address))
            .is_some_and(|lane| lane.term == chosen.term)
    }

    /// Undoes a choice.
    pub(super) fn restore(&mut self, chosen: &mut Chosen) {
        if !self.is_current(chosen) {
            // Its lane is another one by now: only what was chosen goes, nothing comes back.
            let unwritten = |lease: &Lease| lease.state == State::InUse && lease.revision.is_none();
            if !self.shared && self.leases.get(&chosen.address).is_some_and(unwritten) {
                self.take_out(chosen.address);
            }
            return;
        }
        let lane = self.lane_of(chosen.address);
        self.take_out(chosen.address);
        match chosen.before.take() {
            Some(lease) => {
                self.put_in(chosen.address, lease);
                if let Some(release) = chosen.kept {
                    self.kept.insert(chosen.address, release);
                }
            }
            None => self.lane(lane).returned.push_front(chosen.address),
        }
    }

    /// The record of a lease in use is durable.
    pub(super) fn written(&mut self, chosen: &Chosen, revision: Revision) {
        let current = !self.shared || self.is_current(chosen);
        if let Some(lease) = self.leases.get_mut(&chosen.address).filter(|_| current) {
            lease.revision = Some(revision);
        }
    }

    /// The record of a lease that was kept is as it was.
    pub(super) fn still_written(&mut self, chosen: &Chosen) {
        if let Some(revision) = chosen.before.as_ref().and_then(|before| before.revision) {
            self.written(chosen, revision);
        }
    }

    /// The record of an idle lease goes on saying that it is in use. Returns the number of this release.
    pub(super) fn keep(&mut self, address: IpAddr) -> u64 {
        self.next_idle += 1;
        self.kept.insert(address, self.next_idle);
        self.next_idle
    }

    /// The record of an idle lease is about to say so; false when somebody has had the address since that release.
    pub(super) fn not_kept(&mut self, address: IpAddr, release: u64) -> bool {
        let still = self.kept.get(&address) == Some(&release);
        if still {
            self.kept.remove(&address);
        }
        still
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
        let shared = self.shared;
        match self.leases.get_mut(&address) {
            Some(lease) if lease.owner == owner && lease.state == State::Unclaimed => {
                lease.state = State::InUse;
                Claim::Held
            }
            Some(lease)
                if shared && lease.owner == owner && matches!(lease.state, State::InUse | State::Foreign) =>
            {
                lease.state = State::InUse;
                Claim::Held
            }
            Some(Lease {
                state: State::InUse | State::Unclaimed | State::Foreign,
                ..
            }) => Claim::Taken,
            Some(_) | None if shared => {
                self.replace(address, owner);
                Claim::Held
            }
            None if !may_give => Claim::Taken,
            Some(_) | None => Claim::Write(self.replace(address, owner)),
        }
    }

    /// Gives a lease back; `None` when the owner does not have it. What is outside the share, or may not be given out
    /// any more, is not remembered.
    pub(super) fn release(&mut self, owner: &str, address: IpAddr, share: Option<Share>) -> Option<Released> {
        let held = self.leases.get(&address)?;
        if held.owner != owner || matches!(held.state, State::Idle(_)) {
            return None;
        }
        let mut lease = self.take_out(address)?;
        let (revision, lane) = (lease.revision, self.lane_of(address));
        if lane == STRAY || share.is_some_and(|share| share.index != lane) {
            return Some(Released {
                revision,
                stays: false,
                evicted: Vec::new(),
            });
        }
        lease.state = self.idle_state();
        self.put_in(address, lease);
        let mut evicted = Vec::new();
        let most = (MAX_IDLE >> self.bits).max(1);
        while self.lane(lane).idle.len() > most {
            let Some((_, oldest)) = self.lane(lane).idle.pop_first() else {
                break;
            };
            if let Some(revision) = self.leases.get(&oldest).and_then(|lease| lease.revision) {
                evicted.push((oldest, revision));
            }
            self.take_out(oldest);
            self.lane(lane).returned.push_back(oldest);
        }
        Some(Released {
            revision,
            stays: true,
            evicted,
        })
    }

    pub(super) fn load(&mut self, address: IpAddr, owner: &str, in_use: bool, revision: Revision) {
        let state = if in_use {
            State::Unclaimed
        } else {
            self.idle_state()
        };
        self.set(address, owner, state, revision);
    }

    /// What the store says of an address that was thought to be different.
    pub(super) fn learn(&mut self, address: IpAddr, owner: &str, in_use: bool, revision: Revision) {
        let state = if in_use { State::Foreign } else { self.idle_state() };
        self.set(address, owner, state, revision);
    }

    fn set(&mut self, address: IpAddr, owner: &str, state: State, revision: Revision) {
        self.take_out(address);
        let lease = Lease {
            owner: owner.to_owned(),
            state,
            revision: Some(revision),
        };
        self.put_in(address, lease);
    }

    /// The store has no record of an address.
    pub(super) fn forget(&mut self, address: IpAddr) {
        self.take_out(address);
        let lane = self.lane_of(address);
        if lane != STRAY {
            self.lane(lane).returned.push_back(address);
        }
    }

    /// Makes unclaimed leases, of a share or all, idle; those with a record are to be written.
    pub(super) fn sweep(&mut self, share: Option<Share>) -> Vec<(IpAddr, String, Revision)> {
        let unclaimed: Vec<IpAddr> = self
            .leases
            .iter()
            .filter(|(address, lease)| {
                lease.state == State::Unclaimed
                    && share.is_none_or(|share| share.index == self.lane_of(**address))
            })
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
