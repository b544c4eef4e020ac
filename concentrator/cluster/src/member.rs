//! Other nodes: who is heard, who is suspected, whose process has ended.
//!
//! ```text
//!             heartbeat                   silent on all paths
//!   Unknown ─────────────► Alive ◄────────────────────────────► Suspected
//!                            │  death notice of this start
//!                            └──────────────────────────► Dead ──(another start is heard)──► Alive
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

use crate::api::Boot;
use crate::heartbeat::{Flags, Freshness, Heartbeat, Hold, Replay, SlotBeat, node_id};
use crate::keys::MAX_ADDRESSES;
use crate::status::NodeState;

/// Ended starts of a node that are remembered.
const ENDED: usize = 8;
/// Sender addresses of a node that are remembered.
const PATHS: usize = 2 * MAX_ADDRESSES;
/// A node that speaks so long after its death notice is not dead.
const UNDEAD: Boot = Boot::from_secs(5);

/// What is known of another node.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) id: u64,
    pub(crate) replay: Replay,
    /// Its newest heartbeat.
    pub(crate) beat: Option<Heartbeat>,
    /// When the newest heartbeat came.
    pub(crate) heard: Option<Boot>,
    /// Since when it has been known.
    pub(crate) known_since: Boot,
    /// Since when it has been silent too long.
    pub(crate) suspected: Option<Boot>,
    /// Since when it could have served without a break.
    pub(crate) usable_since: Option<Boot>,
    /// Since when its service link has been down.
    pub(crate) linkless_since: Option<Boot>,
    /// Since when it has said that it does not hear this node.
    pub(crate) doubts_us: Option<Boot>,
    /// By the sender's address: when it was last heard there.
    pub(crate) paths: BTreeMap<SocketAddr, Boot>,
    /// Starts that are known to have ended, and when that was told.
    ended: VecDeque<(u64, Boot)>,
    /// By slot: since when it has owned it, as the store says, and not held it, as it says itself.
    pub(crate) disowned: BTreeMap<u8, Boot>,
}

/// What a heartbeat was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// It counts.
    New { first: bool },
    /// It is known already, on another path.
    Copy,
    /// It is old, or of a process that has ended.
    Old,
    /// It counts, although the process was said to have ended.
    NotDead,
}

impl Peer {
    pub(crate) fn new(name: &str, now: Boot) -> Self {
        Self {
            id: node_id(name),
            replay: Replay::default(),
            beat: None,
            heard: None,
            known_since: now,
            suspected: None,
            usable_since: None,
            linkless_since: None,
            doubts_us: None,
            paths: BTreeMap::new(),
            ended: VecDeque::new(),
            disowned: BTreeMap::new(),
        }
    }

    /// Takes note of a heartbeat. `told`: the incarnation in the node's card.
    pub(crate) fn hear(&mut self, beat: Heartbeat, from: SocketAddr, told: Option<u64>, now: Boot) -> Heard {
        let dead = self.ended_at(beat.incarnation);
        if dead.is_some_and(|at| now < at + UNDEAD) {
            return Heard::Old;
        }
        let first = match self.replay.note(beat.incarnation, beat.seq, told) {
            Freshness::Old => return Heard::Old,
            Freshness::Copy => {
                self.note_path(from, now);
                return Heard::Copy;
            }
            Freshness::New => self.suspected.is_some() || self.heard.is_none(),
            Freshness::NewStart => {
                self.usable_since = None;
                self.disowned.clear();
                true
            }
        };
        self.note_path(from, now);
        self.ended
            .retain(|(incarnation, _)| *incarnation != beat.incarnation);
        (self.heard, self.suspected) = (Some(now), None);
        match beat.flags.has(Flags::SERVICE) {
            true => self.linkless_since = None,
            false => {
                self.linkless_since.get_or_insert(now);
            }
        }
        self.beat = Some(beat);
        match dead {
            Some(_) => Heard::NotDead,
            None => Heard::New { first },
        }
    }

    fn note_path(&mut self, from: SocketAddr, now: Boot) {
        if self.paths.len() >= PATHS && !self.paths.contains_key(&from) {
            let oldest = self
                .paths
                .iter()
                .min_by_key(|(_, at)| **at)
                .map(|(from, _)| *from);
            if let Some(oldest) = oldest {
                self.paths.remove(&oldest);
            }
        }
        self.paths.insert(from, now);
    }

    fn ended_at(&self, incarnation: u64) -> Option<Boot> {
        self.ended
            .iter()
            .find(|(ended, _)| *ended == incarnation)
            .map(|(_, at)| *at)
    }

    /// Whether a start of the node is known to have ended: told so, or another start is heard.
    pub(crate) fn has_ended(&self, incarnation: u64) -> bool {
        self.ended_at(incarnation).is_some()
            || (self.heard.is_some() && self.suspected.is_none() && self.replay.incarnation() != incarnation)
    }

    /// Takes note that a start has ended. Returns whether that is news.
    pub(crate) fn end(&mut self, incarnation: u64, now: Boot) -> bool {
        if self.ended_at(incarnation).is_some() {
            return false;
        }
        self.ended.push_back((incarnation, now));
        if self.ended.len() > ENDED {
            self.ended.pop_front();
        }
        if self.replay.incarnation() == incarnation {
            self.usable_since = None;
        }
        true
    }

    /// Whether the start that is listened to has ended.
    pub(crate) fn is_dead(&self) -> bool {
        self.ended_at(self.replay.incarnation()).is_some()
    }

    pub(crate) fn is_alive(&self) -> bool {
        self.heard.is_some() && self.suspected.is_none() && !self.is_dead()
    }

    /// When it becomes suspected unless it is heard before. `since`: from when on this node has been listening.
    pub(crate) fn patience(&self, since: Boot, silence: Boot) -> Boot {
        self.heard.unwrap_or(self.known_since).max(since) + silence
    }

    pub(crate) fn state(&self) -> NodeState {
        match () {
            () if self.is_dead() => NodeState::Dead,
            () if self.suspected.is_some() => NodeState::Suspected,
            () if self.heard.is_some() => NodeState::Alive,
            () => NodeState::Unknown,
        }
    }

    pub(crate) fn flag(&self, flag: Flags) -> bool {
        self.beat.as_ref().is_some_and(|beat| beat.flags.has(flag))
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.beat.as_ref().map_or(0, |beat| beat.epoch)
    }

    /// What its newest heartbeat says of a slot.
    pub(crate) fn slot(&self, slot: u8) -> Option<SlotBeat> {
        self.beat
            .as_ref()?
            .slots
            .iter()
            .find(|beat| beat.slot == slot)
            .copied()
    }

    /// The slot as it holds it: owned and started, not merely seen.
    pub(crate) fn holds(&self, slot: u8) -> Option<SlotBeat> {
        self.slot(slot).filter(|beat| match beat.hold {
            Hold::Starting | Hold::Serving | Hold::Freezing | Hold::HandedTo(_) => true,
            Hold::Seen | Hold::Stopping => false,
        })
    }

    /// Whether its newest heartbeat says that it does not hear a start of a node.
    pub(crate) fn suspects(&self, node: u64, incarnation: u64) -> bool {
        self.is_alive()
            && self.beat.as_ref().is_some_and(|beat| {
                beat.suspects
                    .iter()
                    .any(|suspect| suspect.node == node && suspect.incarnation == incarnation)
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beat(incarnation: u64, seq: u64) -> Heartbeat {
        Heartbeat {
            name: "b".into(),
            incarnation,
            seq,
            flags: Flags::default(),
            epoch: 0,
            table: 0,
            addresses: Vec::new(),
            slots: Vec::new(),
            suspects: Vec::new(),
        }
    }

    fn from() -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 2], 4600))
    }

    #[test]
    fn a_dead_start_is_not_heard_until_it_insists() {
        let mut peer = Peer::new("b", Boot::ZERO);
        let at = Boot::from_millis;
        assert_eq!(
            peer.hear(beat(1, 1), from(), None, at(0)),
            Heard::New { first: true }
        );
        assert!(peer.end(1, at(10)) && !peer.end(1, at(11)));
        assert!(peer.is_dead() && !peer.is_alive());
        assert_eq!(peer.hear(beat(1, 2), from(), None, at(20)), Heard::Old);
        assert!(peer.is_dead());
        assert_eq!(peer.hear(beat(1, 90), from(), None, at(6_000)), Heard::NotDead);
        assert!(peer.is_alive());
    }

    #[test]
    fn another_start_ends_the_one_before() {
        let mut peer = Peer::new("b", Boot::ZERO);
        peer.hear(beat(1, 1), from(), None, Boot::ZERO);
        peer.end(1, Boot::ZERO);
        assert_eq!(
            peer.hear(beat(2, 1), from(), None, Boot::ZERO),
            Heard::New { first: true }
        );
        assert!(peer.is_alive() && peer.has_ended(1) && !peer.has_ended(2));
    }

    #[test]
    fn paths_are_bounded() {
        let mut peer = Peer::new("b", Boot::ZERO);
        for port in 1..100 {
            let from = SocketAddr::from(([10, 0, 0, 2], port));
            peer.hear(
                beat(1, u64::from(port)),
                from,
                None,
                Boot::from_millis(u64::from(port)),
            );
        }
        assert_eq!(peer.paths.len(), PATHS);
    }
}
