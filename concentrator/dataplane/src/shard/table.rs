//! The table of pairs: installed one by one or by the thousands, removed one by one or by the slot.

use std::collections::hash_map::Entry;
use std::time::Instant;

use rustc_hash::FxHashMap;

use super::Shard;
use super::pair::{Pair, Place};
use crate::io::PacketIo;
use crate::message::{Resource, SaPair, WorkerEvent};
use crate::routes::GroupKey;

/// Pairs that are installed between two turns.
const INSTALLS_A_TURN: usize = 64;
/// Pairs that are forgotten between two turns.
const REMOVALS_A_TURN: usize = 64;

impl Shard {
    /// Whether pairs of [`crate::WorkerCommand::InstallMany`] are still to be installed: no other command may come before.
    pub fn is_installing(&self) -> bool {
        !self.backlog.is_empty()
    }

    /// Whether [`Shard::work_off`] has something left to do.
    pub fn is_busy(&self) -> bool {
        !self.backlog.is_empty() || !self.removed.is_empty()
    }

    /// Installs a share of the pairs that wait, and forgets a share of those of removed slots.
    pub fn work_off(&mut self, io: &mut impl PacketIo, now: Instant) {
        for _ in 0..REMOVALS_A_TURN {
            let Some((place, pair)) = self.removed.pop_front() else {
                break;
            };
            self.bury(place, pair);
        }
        for _ in 0..INSTALLS_A_TURN {
            let Some(pair) = self.backlog.pop_front() else {
                break;
            };
            self.install(pair, io, now);
        }
    }

    pub(super) fn install(&mut self, pair: SaPair, io: &mut impl PacketIo, now: Instant) {
        let (session, spi_in) = (pair.session, pair.inbound.spi);
        let refuse = |io: &mut dyn FnMut(WorkerEvent), reason: String| {
            io(WorkerEvent::InstallFailed {
                session,
                spi_in,
                reason,
            });
        };
        if crate::serving_worker(spi_in, self.workers) != self.worker || spi_in < 256 {
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
        let mut pair = match Pair::new(pair, port, now) {
            Ok(pair) => pair,
            Err(e) => return refuse(&mut |e| io.event(e), e.to_string()),
        };
        self.remove(spi_in);
        self.inherit_path(&mut pair);
        let place = self.free.pop().unwrap_or_else(|| {
            self.pairs.push(None);
            (self.pairs.len() - 1) as Place
        });
        self.by_spi.insert(spi_in, place);
        self.paths.by_outbound.add(pair.outbound.spi(), place);
        if pair.resource != Resource::None {
            pair.membership = Some(self.owners.join(GroupKey {
                session,
                domain: pair.domain,
                ts_local: pair.ts_local.clone(),
                ts_remote: pair.ts_remote.clone(),
            }));
        }
        let membership = pair.membership.as_ref();
        self.owners
            .add(pair.domain, &pair.ts_remote, self.worker, membership);
        self.routes
            .entry(pair.domain)
            .or_default()
            .insert(&pair.ts_remote, place);
        if let Some(room) = self.pairs.get_mut(place as usize) {
            let is_active = pair.active;
            *room = Some(Box::new(pair));
            self.by_session.entry(session).or_default().push(spi_in);
            if is_active {
                self.supersede(spi_in);
                self.tell_group(spi_in);
            }
        }
    }

    /// A pair has become active: no older one of its session for the same traffic is sent by again. A late packet on an old
    /// one says nothing about what the peer still has.
    pub(super) fn supersede(&mut self, spi_in: u32) {
        let pair_of = |spi: &u32| {
            let place = self.by_spi.get(spi)?;
            self.pairs.get(*place as usize)?.as_deref()
        };
        let Some(newer) = pair_of(&spi_in) else { return };
        let of_session = self.by_session.get(&newer.session).map_or(&[][..], Vec::as_slice);
        let older = of_session.iter().take_while(|spi| **spi != spi_in);
        let older: Vec<u32> = older
            .filter(|spi| pair_of(spi).is_some_and(|pair| newer.is_sibling(pair)))
            .copied()
            .collect();
        for spi in older {
            let place = self.by_spi.get(&spi).copied().unwrap_or(Place::MAX);
            if let Some(pair) = self.pairs.get_mut(place as usize).and_then(Option::as_deref_mut) {
                pair.superseded = true;
            }
        }
    }

    /// Forgets that a session has the pair.
    fn leave_session(by_session: &mut FxHashMap<u64, Vec<u32>>, pair: &Pair) {
        if let Entry::Occupied(mut of_session) = by_session.entry(pair.session) {
            of_session.get_mut().retain(|spi| *spi != pair.spi_in);
            if of_session.get().is_empty() {
                of_session.remove();
            }
        }
    }

    pub(super) fn remove(&mut self, spi_in: u32) {
        let Some(place) = self.by_spi.remove(&spi_in) else {
            return;
        };
        if let Some(pair) = self.pairs.get_mut(place as usize).and_then(Option::take) {
            Self::leave_session(&mut self.by_session, &pair);
            if let Some(membership) = &pair.membership {
                self.recount(pair.session, membership);
            }
            self.bury(place, pair);
        }
    }

    /// Takes every pair of a slot out of the table: none of them carries anything from here on. Their entries in the
    /// routes, which lead to empty places, and their keys go a share in each turn.
    pub(super) fn remove_slot(&mut self, slot: u8) {
        for (place, room) in (0..).zip(&mut self.pairs) {
            if let Some(pair) = room.take_if(|pair| pair.slot == slot) {
                if let Some(membership) = &pair.membership {
                    membership.group.set(self.worker, false);
                }
                self.by_spi.remove(&pair.spi_in);
                Self::leave_session(&mut self.by_session, &pair);
                self.removed.push_back((place, pair));
            }
        }
    }

    /// Forgets the way to a place whose pair is gone, which may be taken again then.
    fn bury(&mut self, place: Place, mut pair: Box<Pair>) {
        self.paths.by_outbound.remove(pair.outbound.spi(), place);
        self.fair.forget(pair.spi_in, &pair.fair);
        let membership = pair.membership.take();
        self.owners
            .remove(pair.domain, &pair.ts_remote, self.worker, membership.as_ref());
        if let Some(membership) = membership {
            self.owners.leave(membership);
        }
        if let Some(routes) = self.routes.get_mut(&pair.domain) {
            routes.remove(&pair.ts_remote, place);
        }
        self.free.push(place);
    }
}
