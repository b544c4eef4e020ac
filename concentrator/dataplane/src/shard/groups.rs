//! This worker's part in the groups of [`crate::groups`]: what it can send by, and what the kernel is told of it.

use std::sync::Arc;
use std::time::Instant;

use ipnet::IpNet;

use super::Shard;
use super::pair::Place;
use crate::io::PacketIo;
use crate::routes::Membership;

/// What the kernel was told last: destinations that several workers serve, by domain.
pub(super) type Spread = Vec<(u32, IpNet, u32)>;

impl Shard {
    /// Tells the other workers whether this one can send by a pair of the group that this pair is in.
    pub(super) fn tell_group(&self, spi_in: u32) {
        let pair = self.by_spi.get(&spi_in);
        let pair = pair.and_then(|place| self.pairs.get(*place as usize)?.as_deref());
        if let Some((pair, membership)) = pair.and_then(|pair| Some((pair, pair.membership.as_ref()?))) {
            self.recount(pair.session, membership);
        }
    }

    /// The same for a group of a session.
    pub(super) fn recount(&self, session: u64, membership: &Membership) {
        let mut of_session = self.by_session.get(&session).into_iter().flatten();
        let can_send = of_session.any(|spi| {
            let place = self.by_spi.get(spi).copied().unwrap_or(Place::MAX);
            let pair = self.pairs.get(place as usize).and_then(Option::as_deref);
            pair.is_some_and(|pair| {
                let is_of = |own: &Membership| Arc::ptr_eq(&own.group, &membership.group);
                pair.can_send() && pair.membership.as_ref().is_some_and(is_of)
            })
        });
        membership.group.set(self.worker, can_send);
    }

    /// Once a second: pairs that are used up, or have waited long enough; and by one of the workers what the kernel knows.
    pub(super) fn review_groups(&mut self, io: &mut impl PacketIo, now: Instant) {
        let mut tired = Vec::new();
        for pair in self.pairs.iter_mut().flatten() {
            if pair.tire_of_waiting(now) {
                tired.push(pair.spi_in);
            }
        }
        for spi_in in tired {
            self.supersede(spi_in);
        }
        for pair in self.pairs.iter().flatten() {
            if let Some(membership) = &pair.membership {
                self.recount(pair.session, membership);
            }
        }
        if self.worker == 0 && self.workers > 1 {
            self.steer(io);
        }
    }

    /// Has the kernel give packets to the worker that a flow goes to. Until then, and for those that it does not know,
    /// they are handed over.
    fn steer(&mut self, io: &mut impl PacketIo) {
        let spread = self.owners.spread();
        if spread == self.spread {
            return;
        }
        let mut domains: Vec<u32> = spread
            .iter()
            .chain(&self.spread)
            .map(|(domain, ..)| *domain)
            .collect();
        domains.sort_unstable();
        domains.dedup();
        let of = |all: &Spread, domain: u32| -> Vec<(IpNet, u32)> {
            let own = all.iter().filter(|(other, ..)| *other == domain);
            own.map(|(_, net, workers)| (*net, *workers)).collect()
        };
        for domain in domains {
            let wanted = of(&spread, domain);
            if wanted != of(&self.spread, domain) {
                io.steer(domain, &wanted);
            }
        }
        self.spread = spread;
    }
}
