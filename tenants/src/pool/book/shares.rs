//! What a book does with a share as a whole: taking it in from the store, and forgetting it.

use std::collections::HashSet;
use std::net::IpAddr;

use store::Revision;

use super::{Book, State};
use crate::pool::share::Share;
use crate::range::AddressRange;

/// A lease that the store has.
#[derive(Clone, Debug)]
pub(in crate::pool) struct Listed {
    pub(in crate::pool) address: IpAddr,
    pub(in crate::pool) owner: String,
    pub(in crate::pool) in_use: bool,
    /// In use by a session of the share's own slot.
    pub(in crate::pool) ours: bool,
    pub(in crate::pool) revision: Revision,
}

impl Book {
    /// Addresses of a share, or of the whole pool, that may be given out.
    pub(in crate::pool) fn capacity(&self, share: Option<Share>) -> u64 {
        let Some(share) = share else {
            return self.config.capacity();
        };
        let Some(block) = share.block(&self.config.range) else {
            return 0;
        };
        let excluded = |gap: &AddressRange| {
            let (start, end) = (gap.start().max(block.start()), gap.end().min(block.end()));
            AddressRange::new(start, end).map_or(0, |gap| gap.size())
        };
        let gaps: u128 = self.gaps.iter().map(excluded).sum();
        u64::try_from(block.size() - gaps).unwrap_or(u64::MAX)
    }

    /// Whether a share's leases have been read.
    pub(in crate::pool) fn is_loaded(&self, share: Share) -> bool {
        share.bits() == Some(self.bits) && self.lanes.get(&share.index).is_some_and(|lane| lane.loaded)
    }

    /// Forgets everything about a share.
    pub(in crate::pool) fn forget_share(&mut self, share: Share) {
        self.cut_for(share);
        if !self.lanes.contains_key(&share.index) {
            return;
        }
        let of_share: Vec<IpAddr> = self
            .leases
            .keys()
            .copied()
            .filter(|address| self.lane_of(*address) == share.index)
            .collect();
        for address in of_share {
            self.take_out(address);
        }
        self.lanes.remove(&share.index);
    }

    /// Takes in what the store has of a share: leases that are known better stay, leases in use that have not been
    /// claimed are left for the sweep if they are `ours`, and what the store has no record of goes.
    pub(in crate::pool) fn merge(&mut self, share: Share, listed: &[Listed], at: Revision) {
        self.cut_for(share);
        for stored in listed {
            if self.lane_of(stored.address) != share.index {
                continue;
            }
            match self.leases.get_mut(&stored.address) {
                // Being written, or of a session that was carried on.
                Some(lease) if lease.state == State::InUse && lease.revision.is_none() => {
                    if stored.in_use && lease.owner == stored.owner {
                        lease.revision = Some(stored.revision);
                    }
                }
                Some(lease) if lease.revision >= Some(stored.revision) => {}
                Some(_) | None => {
                    let state = match (stored.in_use, stored.ours) {
                        (true, true) => State::Unclaimed,
                        (true, false) => State::Foreign,
                        (false, _) => self.idle_state(),
                    };
                    self.set(stored.address, &stored.owner, state, stored.revision);
                }
            }
        }
        let there: HashSet<IpAddr> = listed.iter().map(|stored| stored.address).collect();
        let gone: Vec<IpAddr> = self
            .leases
            .iter()
            .filter(|(address, lease)| {
                lease.state != State::InUse
                    && lease.revision.is_none_or(|revision| revision <= at)
                    && !there.contains(address)
                    && self.lane_of(**address) == share.index
            })
            .map(|(address, _)| *address)
            .collect();
        for address in gone {
            self.forget(address);
        }
        self.lane(share.index).loaded = true;
    }

    /// Forgets every revision: leases in use stay, all others go, and every lane is read again before it is used.
    pub(in crate::pool) fn store_went_back(&mut self) {
        let unused: Vec<IpAddr> = self
            .leases
            .iter()
            .filter(|(_, lease)| lease.state != State::InUse)
            .map(|(address, _)| *address)
            .collect();
        for address in unused {
            self.take_out(address);
        }
        for lease in self.leases.values_mut() {
            lease.revision = None;
        }
        // Choices that are being written are of the store as it was.
        self.lanes.clear();
        self.lanes_for_leases();
    }
}
