//! Heartbeats and death notices: small authenticated datagrams.
//!
//! ```text
//!   version (1) │ Message, postcard │ HMAC-SHA256 over label, version and message (32)
//! ```
//! Never more than [`MAX_DATAGRAM`] octets: of a heartbeat that would be larger, generations that were merely seen are
//! left out, others each time. What is received is bounded before it is read. Replays are refused by [`Replay`]: the
//! sequence number of an incarnation rises, and incarnations rise too.

use std::collections::VecDeque;
use std::net::SocketAddr;

use crypto::{HashAlgorithm, Secret, constant_time_eq, hmac};
use serde::{Deserialize, Serialize};

use crate::keys::{MAX_ADDRESSES, MAX_NUMBER, MAX_SLOT, is_name};

/// Octets of a datagram.
pub const MAX_DATAGRAM: usize = 1_200;
/// Nodes of a cluster, this one too.
pub const MAX_NODES: usize = 16;
const VERSION: u8 = 1;
const MAC: usize = 32;
const LABEL: &[u8] = b"cluster heartbeat";

/// What a node says of itself as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flags(u8);

impl Flags {
    /// The store answers it.
    pub const ETCD: Self = Self(1);
    /// It gives its slots away.
    pub const DRAINING: Self = Self(2);
    /// It leaves or has left.
    pub const LEAVING: Self = Self(4);
    /// Its service link is up.
    pub const SERVICE: Self = Self(8);
    /// It holds its slots without a store.
    pub const STATIC: Self = Self(16);
    /// It has read what stands in the store, and could take slots.
    pub const ABLE: Self = Self(32);

    /// Whether these are set.
    pub fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// With these, if so.
    #[must_use]
    pub fn with(self, other: Self, so: bool) -> Self {
        if so { Self(self.0 | other.0) } else { self }
    }
}

/// What a node says of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Hold {
    /// It has seen this generation, and does not hold the slot.
    Seen,
    /// It owns the slot and installs its SAs.
    Starting,
    /// It owns and serves it.
    Serving,
    /// It owns and serves it and is about to hand it over.
    Freezing,
    /// It has given it with the next generation to the node of this [`node_id`], and serves until that is ready.
    HandedTo(u64),
    /// It puts it down.
    Stopping,
}

/// A slot in a heartbeat.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotBeat {
    /// The slot.
    pub slot: u8,
    /// The generation held; the highest seen where it is not held.
    pub generation: u64,
    /// How it is held.
    pub hold: Hold,
}

/// A node that the sender does not hear.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suspect {
    /// Its [`node_id`].
    pub node: u64,
    /// The incarnation that it does not hear.
    pub incarnation: u64,
    /// Whether its process is known to have ended.
    pub dead: bool,
}

/// What a node says ten times a second.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// The sender.
    pub name: String,
    /// Its start.
    pub incarnation: u64,
    /// Rises with every heartbeat; the copies on several paths have the same.
    pub seq: u64,
    /// How it is.
    pub flags: Flags,
    /// The epoch it knows.
    pub epoch: u64,
    /// Hash of its slot table.
    pub table: u64,
    /// Where it receives heartbeats.
    pub addresses: Vec<SocketAddr>,
    /// Its slots, and the generations of others.
    pub slots: Vec<SlotBeat>,
    /// Whom it does not hear.
    pub suspects: Vec<Suspect>,
}

/// What a witness says of a process that has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeathNotice {
    /// The node.
    pub name: String,
    /// The start that ended.
    pub incarnation: u64,
    /// Rises with the witness's repetitions.
    pub seq: u64,
}

/// A datagram.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// A heartbeat.
    Heartbeat(Heartbeat),
    /// A death notice.
    Death(DeathNotice),
}

/// Why a datagram was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DatagramError {
    /// Too long or too short.
    #[error("the datagram has a wrong length")]
    Length,
    /// Of another version.
    #[error("the datagram is of version {0}")]
    Version(u8),
    /// Not made with our key.
    #[error("the datagram is not authentic")]
    Mac,
    /// Not understood, or past a limit.
    #[error("the datagram is malformed")]
    Malformed,
}

/// A number for a node's name: the first eight octets of its SHA-256.
pub fn node_id(name: &str) -> u64 {
    let digest = crypto::digest(HashAlgorithm::Sha256, &[b"node", name.as_bytes()]);
    digest
        .iter()
        .take(8)
        .fold(0, |number, octet| number << 8 | u64::from(*octet))
}

/// What the witness of a process sends when that has ended, several times with rising `seq`.
pub fn death_notice(key: &Secret, name: &str, incarnation: u64, seq: u64) -> Vec<u8> {
    seal(
        key,
        &Message::Death(DeathNotice {
            name: name.to_owned(),
            incarnation,
            seq,
        }),
    )
}

impl Heartbeat {
    /// The datagram. Leaves out what was merely seen as far as it would be too large; which, changes with `seq`.
    pub fn encode(&self, key: &Secret) -> Vec<u8> {
        let whole = seal(key, &Message::Heartbeat(self.clone()));
        if whole.len() <= MAX_DATAGRAM {
            return whole;
        }
        let mut fitting = self.clone();
        let (seen, held): (Vec<SlotBeat>, Vec<SlotBeat>) = self
            .slots
            .iter()
            .copied()
            .partition(|beat| beat.hold == Hold::Seen);
        let turn = usize::try_from(self.seq).unwrap_or_default() * 16;
        let mut room = seen.len();
        loop {
            room = room.saturating_sub(8);
            fitting.slots.clone_from(&held);
            let start = turn.checked_rem(seen.len()).unwrap_or_default();
            fitting
                .slots
                .extend(seen.iter().cycle().skip(start).take(room).copied());
            let datagram = seal(key, &Message::Heartbeat(fitting.clone()));
            if datagram.len() <= MAX_DATAGRAM || room == 0 {
                return datagram;
            }
        }
    }

    fn is_bounded(&self) -> bool {
        is_name(&self.name)
            && self.addresses.len() <= MAX_ADDRESSES
            && self.slots.len() <= usize::from(MAX_SLOT) + 1
            && self.epoch <= MAX_NUMBER
            && self
                .slots
                .iter()
                .all(|beat| beat.slot <= MAX_SLOT && beat.generation <= MAX_NUMBER)
            && self.suspects.len() <= MAX_NODES
    }
}

fn seal(key: &Secret, message: &Message) -> Vec<u8> {
    let mut datagram = vec![VERSION];
    datagram.extend(postcard::to_stdvec(message).unwrap_or_default());
    let mac = hmac(HashAlgorithm::Sha256, key.expose(), &[LABEL, &datagram]).unwrap_or_default();
    datagram.extend(mac);
    datagram
}

/// Reads a datagram.
///
/// # Errors
/// When it is not one of ours; nothing of it is to be believed then.
pub fn open(key: &Secret, datagram: &[u8]) -> Result<Message, DatagramError> {
    if datagram.len() > MAX_DATAGRAM || datagram.len() <= MAC + 1 {
        return Err(DatagramError::Length);
    }
    let (body, mac) = datagram
        .split_at_checked(datagram.len() - MAC)
        .ok_or(DatagramError::Length)?;
    let expected = hmac(HashAlgorithm::Sha256, key.expose(), &[LABEL, body]).ok_or(DatagramError::Mac)?;
    if !constant_time_eq(&expected, mac) {
        return Err(DatagramError::Mac);
    }
    let (version, message) = body.split_first().ok_or(DatagramError::Length)?;
    if *version != VERSION {
        return Err(DatagramError::Version(*version));
    }
    let (message, rest) =
        postcard::take_from_bytes::<Message>(message).map_err(|_| DatagramError::Malformed)?;
    let bounded = match &message {
        Message::Heartbeat(beat) => beat.is_bounded(),
        Message::Death(notice) => is_name(&notice.name),
    };
    if bounded && rest.is_empty() {
        Ok(message)
    } else {
        Err(DatagramError::Malformed)
    }
}

/// What a heartbeat is to those that came before it from the same node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Freshness {
    /// The newest.
    New,
    /// The newest, of another start of the node.
    NewStart,
    /// Came before, on another path.
    Copy,
    /// Older than what is known: nothing of it counts.
    Old,
}

/// Replay protection for one node: (incarnation, sequence number) rises.
#[derive(Clone, Debug, Default)]
pub struct Replay {
    incarnation: u64,
    seq: u64,
    /// Starts that are over.
    over: VecDeque<u64>,
}

/// Earlier starts that are remembered for each node.
const REMEMBERED: usize = 8;

impl Replay {
    /// The incarnation that is listened to; 0: none yet.
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    /// Takes note of a heartbeat. `told`: the incarnation that the store tells of; it is believed even if it is lower
    /// than the present one, in case the node's clock went back.
    pub fn note(&mut self, incarnation: u64, seq: u64, told: Option<u64>) -> Freshness {
        if incarnation == self.incarnation {
            return match seq.cmp(&self.seq) {
                std::cmp::Ordering::Greater => {
                    self.seq = seq;
                    Freshness::New
                }
                std::cmp::Ordering::Equal => Freshness::Copy,
                std::cmp::Ordering::Less => Freshness::Old,
            };
        }
        let believed = incarnation > self.incarnation
            || (told == Some(incarnation) && !self.over.contains(&incarnation));
        if !believed {
            return Freshness::Old;
        }
        if self.incarnation != 0 {
            self.over.push_back(self.incarnation);
            if self.over.len() > REMEMBERED {
                self.over.pop_front();
            }
        }
        (self.incarnation, self.seq) = (incarnation, seq);
        Freshness::NewStart
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::indexing_slicing,
        clippy::panic,
        reason = "tests"
    )]

    use super::*;
    use proptest::prelude::*;

    fn key() -> Secret {
        Secret::from(&b"0123456789abcdef0123456789abcdef"[..])
    }

    fn beat(slots: Vec<SlotBeat>) -> Heartbeat {
        Heartbeat {
            name: "n".repeat(32),
            incarnation: u64::MAX,
            seq: u64::MAX / 2,
            flags: Flags::ETCD.with(Flags::SERVICE, true),
            epoch: 3,
            table: u64::MAX,
            addresses: vec!["[2001:db8::1]:4600".parse().unwrap(); 4],
            slots,
            suspects: (0..15)
                .map(|node| Suspect {
                    node: u64::MAX - node,
                    incarnation: u64::MAX,
                    dead: true,
                })
                .collect(),
        }
    }

    #[test]
    fn heartbeats_are_read_back() {
        let sent = beat(vec![SlotBeat {
            slot: 3,
            generation: 1 << 40,
            hold: Hold::HandedTo(7),
        }]);
        let datagram = sent.encode(&key());
        assert_eq!(open(&key(), &datagram), Ok(Message::Heartbeat(sent)));
    }

    #[test]
    fn the_largest_heartbeat_fits_and_keeps_what_is_held() {
        let slots: Vec<SlotBeat> = (0..=127)
            .map(|slot| SlotBeat {
                slot,
                generation: 1 << 20,
                hold: if slot < 64 { Hold::Serving } else { Hold::Seen },
            })
            .collect();
        let datagram = beat(slots).encode(&key());
        assert!(datagram.len() <= MAX_DATAGRAM, "{}", datagram.len());
        let Ok(Message::Heartbeat(read)) = open(&key(), &datagram) else {
            panic!("not a heartbeat");
        };
        assert_eq!(read.slots.iter().filter(|b| b.hold == Hold::Serving).count(), 64);
    }

    #[test]
    fn what_is_not_ours_is_refused() {
        let datagram = beat(Vec::new()).encode(&key());
        assert_eq!(
            open(&Secret::from(&b"another key"[..]), &datagram),
            Err(DatagramError::Mac)
        );
        for at in [0, 1, datagram.len() / 2, datagram.len() - 1] {
            let mut bent = datagram.clone();
            bent[at] ^= 1;
            assert_eq!(open(&key(), &bent), Err(DatagramError::Mac));
        }
        assert_eq!(open(&key(), &vec![0; 2_000]), Err(DatagramError::Length));
        assert_eq!(open(&key(), &[]), Err(DatagramError::Length));
        let mut wrong = beat(Vec::new());
        wrong.name = "not a name".into();
        assert_eq!(open(&key(), &wrong.encode(&key())), Err(DatagramError::Malformed));
    }

    #[test]
    fn replays_are_old() {
        let mut replay = Replay::default();
        assert_eq!(replay.note(5, 1, None), Freshness::NewStart);
        assert_eq!(replay.note(5, 2, None), Freshness::New);
        assert_eq!(replay.note(5, 2, None), Freshness::Copy);
        assert_eq!(replay.note(5, 1, None), Freshness::Old);
        assert_eq!(replay.note(4, 9, None), Freshness::Old);
        assert_eq!(replay.note(4, 9, Some(4)), Freshness::NewStart);
        assert_eq!(replay.note(6, 1, None), Freshness::NewStart);
        assert_eq!(replay.note(4, 10, Some(4)), Freshness::Old);
    }

    proptest! {
        #[test]
        fn any_octets_are_survived(octets in proptest::collection::vec(any::<u8>(), 0..300)) {
            prop_assert!(open(&key(), &octets).is_err());
        }

        #[test]
        fn any_authentic_octets_are_survived(octets in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut datagram = vec![VERSION];
            datagram.extend(octets);
            let mac = hmac(HashAlgorithm::Sha256, key().expose(), &[LABEL, &datagram]).unwrap();
            datagram.extend(mac);
            let _ = open(&key(), &datagram);
        }
    }
}
