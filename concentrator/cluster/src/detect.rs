//! Failure detection: who is silent, whose word that takes, and what the store says where nobody else can be asked.

use crate::api::{Boot, Broken};
use crate::core::Core;
use crate::event::{Cause, Event};
use crate::keys::Process;

impl Core {
    /// Notices who has been silent too long.
    pub(crate) fn suspect(&mut self) {
        let (now, listening) = (self.now, self.listening);
        for name in self.view.cards.keys().cloned().collect::<Vec<_>>() {
            if name != self.settings.name {
                self.peer(&name);
            }
        }
        let silence = self.settings.heartbeat * self.settings.missed.max(1) + self.settings.heartbeat / 4;
        let mut events = Vec::new();
        let mut wakes = Vec::new();
        for (name, peer) in &mut self.peers {
            if peer.suspected.is_some() {
                continue;
            }
            let patience = peer.patience(listening, silence);
            if now < patience {
                wakes.push(patience);
                continue;
            }
            peer.suspected = Some(now);
            peer.usable_since = None;
            peer.disowned.clear();
            if !peer.is_dead() && peer.heard.is_some() {
                let silent = now - peer.heard.unwrap_or(now);
                events.push((name.clone(), crate::lease::millis(silent)));
            }
        }
        for at in wakes {
            self.wake_at(at);
        }
        for (name, silent_ms) in events {
            self.counters.suspicions += 1;
            self.tell(Event::NodeSuspected { name, silent_ms });
            self.hurry();
        }
        self.lease.want_probe = self.wants_probe();
    }

    /// Since when others may want to see whether the store hears this node; the latest reason.
    fn wants_probe(&mut self) -> Option<Boot> {
        let (now, id, incarnation) = (self.now, self.id, self.settings.incarnation);
        let mut since = None;
        for (name, peer) in &mut self.peers {
            match peer.suspects(id, incarnation) {
                true => {
                    peer.doubts_us.get_or_insert(now);
                }
                false => peer.doubts_us = None,
            }
            let lost = peer
                .suspected
                .filter(|_| !peer.is_dead() && self.view.card(name).is_some());
            since = since.max(lost).max(peer.doubts_us);
        }
        since
    }

    /// Whether a process has to be taken for lost. The second value: its card has to be unchanged.
    pub(crate) fn is_lost(&mut self, process: &Process) -> Option<(Cause, bool)> {
        if process.name == self.settings.name {
            let earlier = process.incarnation != self.settings.incarnation;
            return earlier.then_some((Cause::OwnEarlierStart, false));
        }
        let peer = self.peers.get(&process.name)?;
        if peer.has_ended(process.incarnation) {
            return Some((Cause::ProcessEnded, false));
        }
        let suspected = peer.suspected?;
        let heard = peer.heard.unwrap_or(peer.known_since);
        if self.settings.broken == Broken::LoneSuspicion {
            return Some((Cause::Silent, false));
        }
        let (mut others, mut votes) = (0_usize, 0_usize);
        for (name, witness) in &self.peers {
            if *name != process.name && witness.is_alive() && self.view.is_member(name) {
                others += 1;
                votes += usize::from(witness.suspects(peer.id, process.incarnation));
            }
        }
        if others > 0 {
            // Of all that hear each other, this node too.
            return (votes + 1 > others.div_ceil(2)).then_some((Cause::Silent, false));
        }
        // Nobody else is heard. If the store heard it since it fell silent, its card has changed.
        let probed = self
            .view
            .cards
            .get(&process.name)
            .filter(|card| card.raw.is_some() && card.changed > heard)
            .map(|card| card.changed + self.settings.lease_ttl);
        let at = (suspected + self.settings.heartbeat * 2).max(probed.unwrap_or_default());
        if self.now < at {
            self.wake_at(at);
            return None;
        }
        Some((Cause::Silent, true))
    }
}
