//! Later fragments and selectors with ports: stateful checking (RFC 4301 section 7.3), bounded in memory.
//!
//! A later fragment shows no ports. SAs whose selectors have none take it by its addresses (section 7.1); the others only
//! after the first fragment of the same packet, whose ports matched. Fragments of one packet must not overlap: the ports
//! that were checked could be overwritten behind us (RFC 1858, RFC 5722). Nothing is put together or held back here, so a
//! later fragment that overtakes its first is lost.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use ip::fragment::Piece;
use rustc_hash::FxHashMap;

use crate::shard::Place;

/// Packets whose fragments are under way, of all SAs and of one.
const PACKETS: usize = 4096;
const PACKETS_OF_ONE: u16 = 64;
/// Ranges of one packet that do not touch each other.
const RANGES: usize = 16;
/// How long fragments of a packet may follow its first: what hosts wait for the rest (RFC 8200 section 4.5).
const PATIENCE: Duration = Duration::from_secs(60);

/// The direction of a packet, as seen from here.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Way {
    In,
    Out,
}

/// What tells the packets that are in fragments apart.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Key {
    place: Place,
    way: Way,
    src: IpAddr,
    dst: IpAddr,
    protocol: u8,
    id: u32,
}

/// What of a packet has passed.
#[derive(Debug)]
struct Seen {
    since: Instant,
    /// Ranges of its payload, in order, none of which touches the next.
    ranges: Vec<(usize, usize)>,
    /// Where it ends, once that is known.
    last: Option<usize>,
}

/// The answer for a fragment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Pass {
    /// It may pass.
    Yes,
    /// Its first fragment has not passed, or too long ago.
    Unknown,
    /// It overlaps one that has passed, or leaves too many gaps. Nothing more of its packet passes.
    Overlaps,
}

/// Packets whose first fragment has passed an SA with ports.
#[derive(Debug)]
pub(crate) struct Fragments {
    packets: FxHashMap<Key, Seen>,
    /// In the order in which they began; of some nothing is left.
    order: VecDeque<(Instant, Key)>,
    of_place: FxHashMap<Place, u16>,
}

impl Fragments {
    pub(crate) fn new() -> Self {
        Self {
            packets: FxHashMap::default(),
            order: VecDeque::new(),
            of_place: FxHashMap::default(),
        }
    }

    /// A first fragment has passed the selectors of an SA with ports. Beyond the bound of the SA it passes alone.
    pub(crate) fn first(&mut self, place: Place, way: Way, piece: &Piece, now: Instant) {
        self.expire(now);
        let key = key(place, way, piece);
        // The same number again: a copy, or another packet. Its ports have been checked as well.
        self.drop_packet(&key);
        if self.packets.len() >= PACKETS {
            self.drop_oldest();
        }
        let count = self.of_place.entry(place).or_default();
        if *count < PACKETS_OF_ONE {
            *count += 1;
            let ranges = vec![(piece.start, piece.end)];
            let seen = Seen {
                since: now,
                ranges,
                last: None,
            };
            self.packets.insert(key, seen);
            self.order.push_back((now, key));
        }
    }

    /// Whether the first fragment of a packet has passed there.
    pub(crate) fn knows(&self, place: Place, way: Way, piece: &Piece) -> bool {
        self.packets.contains_key(&key(place, way, piece))
    }

    /// Whether a later fragment may follow.
    //= rfc4301#section-7.3
    //# Also, the receiver MUST discard non-initial fragments that do not comply with the security policy applied to the
    //# overall packet.
    pub(crate) fn later(&mut self, place: Place, way: Way, piece: &Piece, now: Instant) -> Pass {
        self.expire(now);
        let key = key(place, way, piece);
        let Some(seen) = self.packets.get_mut(&key) else {
            return Pass::Unknown;
        };
        let passes = seen.add(piece.start, piece.end);
        if !piece.more {
            seen.last = Some(piece.end);
        }
        let is_whole = matches!((&seen.ranges[..], seen.last), ([(0, end)], Some(last)) if *end == last);
        if !passes || is_whole {
            self.drop_packet(&key);
        }
        if passes { Pass::Yes } else { Pass::Overlaps }
    }

    fn expire(&mut self, now: Instant) {
        while let Some((since, _)) = self.order.front() {
            // Entries of packets that were dropped go when they are first, and as many as may be kept.
            if now.saturating_duration_since(*since) < PATIENCE && self.order.len() < 2 * PACKETS {
                break;
            }
            self.drop_oldest();
        }
    }

    fn drop_oldest(&mut self) {
        while let Some((since, key)) = self.order.pop_front() {
            if self.packets.get(&key).is_some_and(|seen| seen.since == since) {
                self.drop_packet(&key);
                return;
            }
        }
    }

    fn drop_packet(&mut self, key: &Key) {
        if self.packets.remove(key).is_some()
            && let Some(count) = self.of_place.get_mut(&key.place)
        {
            *count -= 1;
            if *count == 0 {
                self.of_place.remove(&key.place);
            }
        }
    }
}

fn key(place: Place, way: Way, piece: &Piece) -> Key {
    Key {
        place,
        way,
        src: piece.src,
        dst: piece.dst,
        protocol: piece.protocol,
        id: piece.id,
    }
}

impl Seen {
    /// Adds a range; false if it overlaps one, or there are too many.
    fn add(&mut self, start: usize, end: usize) -> bool {
        let at = self.ranges.partition_point(|(from, _)| *from < start);
        let before = at.checked_sub(1).and_then(|at| self.ranges.get(at)).copied();
        let behind = self.ranges.get(at).copied();
        let overlaps = before.is_some_and(|(_, to)| to > start) || behind.is_some_and(|(from, _)| from < end);
        if overlaps || start >= end {
            return false;
        }
        let joins_before = before.is_some_and(|(_, to)| to == start);
        let joins_behind = behind.is_some_and(|(from, _)| from == end);
        match (joins_before, joins_behind) {
            (false, false) if self.ranges.len() >= RANGES => return false,
            (false, false) => self.ranges.insert(at, (start, end)),
            (true, false) => self.change(at - 1, |range| range.1 = end),
            (false, true) => self.change(at, |range| range.0 = start),
            (true, true) => {
                let (_, last) = self.ranges.remove(at);
                self.change(at - 1, |range| range.1 = last);
            }
        }
        true
    }

    fn change(&mut self, at: usize, change: impl FnOnce(&mut (usize, usize))) {
        if let Some(range) = self.ranges.get_mut(at) {
            change(range);
        }
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
