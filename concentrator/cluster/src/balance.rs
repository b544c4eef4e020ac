//! Slots are spread evenly after nodes came or went: one at a time, by planned hand-overs, and never because of what an
//! operator did by hand.

use std::collections::BTreeMap;

use crate::api::Boot;
use crate::claim::score;
use crate::core::Core;
use crate::heartbeat::{Flags, Hold};
use crate::slot::Phase;

/// Between two moves.
const STEP: Boot = Boot::from_secs(1);

/// Whether slots are being spread.
#[derive(Debug, Default)]
pub(crate) struct Balance {
    /// The nodes that were usable and settled, this one too.
    settled: Vec<String>,
    /// They changed, and slots are not spread evenly over them yet.
    active: bool,
    next: Boot,
    usable_since: Option<Boot>,
}

impl Core {
    pub(crate) fn rebalance(&mut self) {
        self.note_usable();
        let usable = self.is_usable();
        self.balance.usable_since = usable.then(|| self.balance.usable_since.unwrap_or(self.now));
        if !self.settings.rebalance {
            return;
        }
        let settle = self.settings.settle;
        let since = self
            .peers
            .iter()
            .map(|(name, peer)| (name, peer.usable_since))
            .chain(std::iter::once((&self.settings.name, self.balance.usable_since)));
        let (mut settled, mut wakes) = (Vec::new(), Vec::new());
        for (name, since) in since {
            match since {
                Some(since) if self.now >= since + settle => settled.push(name.clone()),
                Some(since) => wakes.push(since + settle),
                None => {}
            }
        }
        settled.sort_unstable();
        for at in wakes {
            self.wake_at(at);
        }
        if settled != self.balance.settled {
            self.balance.settled = settled;
            self.balance.active = true;
        }
        if !self.balance.active || !usable {
            return;
        }
        if self.now < self.balance.next {
            let next = self.balance.next;
            self.wake_at(next);
            return;
        }
        self.spread();
    }

    /// Hands over one slot, if it is this node that has most.
    fn spread(&mut self) {
        let names = self.balance.settled.clone();
        let me = self.settings.name.clone();
        if !names.contains(&me) || names.len() < 2 {
            return;
        }
        let mut load: BTreeMap<&str, usize> = names.iter().map(|name| (name.as_str(), 0)).collect();
        let mut elsewhere = 0;
        for seen in self.view.slots.values() {
            match seen
                .owner
                .value
                .as_ref()
                .and_then(|owner| load.get_mut(owner.name.as_str()))
            {
                Some(count) => *count += 1,
                None => elsewhere += 1,
            }
        }
        let least = load
            .iter()
            .min_by_key(|(name, count)| (**count, **name))
            .map(|(n, c)| (*n, *c));
        let most = load
            .iter()
            .max_by_key(|(name, count)| (**count, **name))
            .map(|(n, c)| (*n, *c));
        let (Some((least, fewest)), Some((most, largest))) = (least, most) else {
            return;
        };
        if largest < fewest + 2 {
            self.balance.active = elsewhere > 0;
            return;
        }
        let moving = self.handovers_under_way() > 0
            || self
                .slots
                .values()
                .any(|local| local.held().is_some_and(|held| !held.ready))
            || self.peers.values().any(|peer| {
                peer.is_alive()
                    && peer.beat.as_ref().is_some_and(|beat| {
                        beat.slots.iter().any(|beat| {
                            matches!(beat.hold, Hold::Starting | Hold::Freezing | Hold::HandedTo(_))
                        })
                    })
            });
        if most != me || moving || elsewhere > 0 || !self.is_peer_usable(least) {
            return;
        }
        let best = self
            .slots
            .iter()
            .filter(|(_, local)| {
                !local.forced
                    && self.now >= local.calm_until
                    && local.held().is_some_and(|held| held.phase == Phase::Normal)
            })
            .max_by_key(|(slot, _)| score(**slot, least))
            .map(|(slot, _)| *slot);
        let least = least.to_owned();
        if let Some(slot) = best {
            self.balance.next = self.now + STEP;
            self.begin_handover(slot, least, None);
        }
    }

    /// Since when a node could be given slots without a break; for the balance.
    pub(crate) fn note_usable(&mut self) {
        let now = self.now;
        for name in self.peers.keys().cloned().collect::<Vec<_>>() {
            let usable = self.is_peer_usable(&name);
            if let Some(peer) = self.peers.get_mut(&name) {
                let usable = usable && peer.flag(Flags::ABLE);
                peer.usable_since = usable.then(|| peer.usable_since.unwrap_or(now));
            }
        }
    }
}
