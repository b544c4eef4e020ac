//! Checkpoints: how far the inbound windows and the message IDs of a slot's SAs have come, packed into few records.
//!
//! What changes with every packet cannot be a record of its own. Every now and then all of a slot's marks are packed
//! into 1 to 128 chunks, by the low bits of their SPI or session, and the chunks that have changed are written. A mark
//! costs 8 to 21 octets, two of them (one of the window, one of the message IDs) about 25: 10,000 sessions with one
//! child each, all of them busy, make 16 chunks of 15 KB each time; what is idle costs nothing. Marks only grow, so that chunks of different age can be read together.

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use ike::MessageIds;
use serde::{Deserialize, Serialize};

use crate::records::{Change, Priority};
use crate::sa_record::{CHECKPOINT_PREFIX, RecordError};
use crate::slot::Slot;

/// The most chunks of a slot.
pub const CHUNKS_MAX: usize = 128;
/// Marks above which a slot has more chunks.
const MARKS: usize = 2_048;
/// The most marks of a chunk: 512 KiB at 21 octets each.
const MARKS_MAX: usize = 24_000;
/// A child SA is busy when its last packet came within this: longer than what its worker takes to report it and the
/// Replicator to write it.
const RECENT: Duration = Duration::from_secs(3);
/// The layout; a chunk of another one is not read.
const VERSION: u8 = 2;

/// How far the inbound window of a child SA has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Window {
    /// The highest sequence number received; 0: none is known.
    pub highest: u64,
    /// Packets have just come: more may have come before the next owner, and could be replayed to it.
    pub busy: bool,
}

/// All marks of a slot, as they are read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// Windows by inbound SPI.
    windows: HashMap<u32, Window>,
    /// Message IDs by session.
    ids: HashMap<u64, (Stamp, MessageIds)>,
}

/// A chunk as it is written.
#[derive(Default, Serialize, Deserialize)]
struct Chunk {
    windows: Vec<(u32, Window)>,
    ids: Vec<(u64, MessageIds)>,
}

/// When a chunk was written: the slot's generation, and the round in it.
type Stamp = (u64, u64);

impl Chunk {
    fn len(&self) -> usize {
        self.windows.len() + self.ids.len()
    }
}

/// Writes the checkpoints of one slot.
#[derive(Default)]
pub struct Checkpointer {
    /// What each chunk was when it was last queued; `None`: never.
    written: Vec<Option<u64>>,
    rounds: u64,
}

/// What a round has written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Round {
    /// Chunks that had changed.
    pub chunks: usize,
    /// Their octets.
    pub octets: usize,
    /// Marks that had no room.
    pub left_out: usize,
    /// Chunks that the queue had no room for: the next round tries again.
    pub refused: usize,
}

impl Checkpointer {
    /// Queues the chunks that have changed since the last round.
    pub fn round(&mut self, slot: &Slot) -> Round {
        let (chunks, left_out) = pack(&marks(slot));
        let stamp: Stamp = (slot.generation(), self.rounds);
        self.rounds += 1;
        let mut round = Round {
            left_out,
            ..Round::default()
        };
        let before = self.written.len().max(slot.chunks_found());
        self.written.resize(chunks.len(), None);
        for (index, (chunk, written)) in chunks.iter().zip(&mut self.written).enumerate() {
            let now = digest(chunk);
            let nothing_yet = written.is_none() && chunk.len() == 0 && index >= before;
            if *written == Some(now) || nothing_yet {
                continue;
            }
            let name = name(slot, index);
            let Ok(octets) = postcard::to_extend(&(stamp, chunk), vec![VERSION]) else {
                continue;
            };
            let Ok(blob) = slot.seal(&name, &octets) else {
                continue;
            };
            round.chunks += 1;
            round.octets += blob.len();
            let queued = slot
                .records
                .submit(name, Change::Put(blob), Priority::Bookkeeping, None);
            match queued {
                Ok(()) => *written = Some(now),
                Err(_) => round.refused += 1,
            }
        }
        for index in chunks.len()..before {
            // Deletions are always taken.
            let _ = slot
                .records
                .submit(name(slot, index), Change::Delete, Priority::Bookkeeping, None);
        }
        slot.set_chunks_found(0);
        round
    }

    /// Everything has to be written again: under another fence.
    pub fn forget(&mut self) {
        self.written.fill(None);
    }
}

fn name(slot: &Slot, index: usize) -> String {
    format!("{}{CHECKPOINT_PREFIX}{index:02}", slot.prefix())
}

fn digest(chunk: &Chunk) -> u64 {
    let mut hasher = DefaultHasher::new();
    chunk.windows.hash(&mut hasher);
    for (session, ids) in &chunk.ids {
        (session, ids.send, ids.receive, ids.link).hash(&mut hasher);
    }
    hasher.finish()
}

/// How far a slot's SAs have come.
fn marks(slot: &Slot) -> Marks {
    let mut marks = Marks::default();
    let now = SystemTime::now();
    for child in &slot.children {
        let highest = child.highest_in.load(Ordering::Acquire);
        if highest > 0 {
            let recent = child.silent_for(now).is_some_and(|silence| silence <= RECENT);
            // Until it is replaced, what the last takeover left open stays open.
            let busy = recent || child.restored.is_some_and(|window| window.busy);
            marks.windows.insert(*child.key(), Window { highest, busy });
        }
    }
    for session in &slot.sessions {
        // What the SA record says of them needs no mark.
        if let Some(ids) = session.unstored_ids() {
            marks.ids.insert(*session.key(), ((0, 0), ids));
        }
    }
    marks
}

/// Into chunks; and how many marks had no room.
fn pack(marks: &Marks) -> (Vec<Chunk>, usize) {
    let wanted = (marks.windows.len() + marks.ids.len()).div_ceil(MARKS);
    let count = wanted.next_power_of_two().clamp(1, CHUNKS_MAX);
    let mut chunks: Vec<Chunk> = std::iter::repeat_with(Chunk::default).take(count).collect();
    let mut left_out = 0;
    let mask = count as u64 - 1;
    let mut place = |low: u64, put: &mut dyn FnMut(&mut Chunk)| {
        let index = usize::try_from(low & mask).unwrap_or(0);
        match chunks.get_mut(index) {
            Some(chunk) if chunk.len() < MARKS_MAX => put(chunk),
            _ => left_out += 1,
        }
    };
    for (spi, window) in &marks.windows {
        place((*spi).into(), &mut |chunk| chunk.windows.push((*spi, *window)));
    }
    for (session, (_, ids)) in &marks.ids {
        place(*session, &mut |chunk| chunk.ids.push((*session, *ids)));
    }
    for chunk in &mut chunks {
        chunk.windows.sort_unstable_by_key(|(spi, _)| *spi);
        chunk.ids.sort_unstable_by_key(|(session, _)| *session);
    }
    (chunks, left_out)
}

impl Marks {
    /// The window of a child SA; that of one without packets when nothing is known.
    #[must_use]
    pub fn window(&self, spi_in: u32) -> Window {
        self.windows.get(&spi_in).copied().unwrap_or_default()
    }

    /// The message IDs of a session.
    #[must_use]
    pub fn ids(&self, session: u64) -> Option<MessageIds> {
        self.ids.get(&session).map(|(_, ids)| *ids)
    }

    /// Reads a record if it is a chunk of this slot; false when it is something else.
    ///
    /// # Errors
    /// It is one and cannot be read.
    pub fn read(&mut self, slot: &Slot, name: &str, blob: &[u8]) -> Result<bool, RecordError> {
        let index = name
            .strip_prefix(slot.prefix())
            .and_then(|name| name.strip_prefix(CHECKPOINT_PREFIX))
            .and_then(|index| index.parse::<usize>().ok());
        let Some(index) = index else { return Ok(false) };
        slot.set_chunks_found(slot.chunks_found().max(index + 1));
        let octets = slot.open(name, blob)?;
        let (stamp, chunk): (Stamp, Chunk) = match octets.expose().split_first() {
            Some((&VERSION, rest)) => postcard::from_bytes(rest)?,
            first => {
                let found = first.map_or(0, |(found, _)| *found);
                return Err(RecordError::Version { found });
            }
        };
        for (spi, window) in chunk.windows {
            let known = self.windows.entry(spi).or_default();
            known.highest = window.highest.max(known.highest);
            known.busy |= window.busy;
        }
        for (session, ids) in chunk.ids {
            // In two chunks only if their number changed and the older one is still there.
            let known = self.ids.entry(session).or_insert((stamp, ids));
            if known.0 < stamp {
                *known = (stamp, ids);
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::generation::NodeGenerations;
    use crate::seal::{KEY_LEN, Sealer};
    use crate::slot::{SlotStart, Slots};

    fn slot(directory: &std::path::Path) -> Arc<Slot> {
        let path = directory.join("configuration.db");
        let store = store::Embedded::open(&path, store::Durability::Normal).unwrap();
        Slots::single().begin(
            3,
            SlotStart {
                generation: 7,
                prefix: "slot/003/".to_owned(),
                fence: None,
                sealer: Arc::new(Sealer::with_key([1; KEY_LEN])),
                generations: Arc::new(NodeGenerations::new(Arc::new(store), directory)),
                numbered: true,
                share: None,
                checkpoint: Duration::from_secs(1),
                records_queued: 64,
                logins_without_store: false,
            },
        )
    }

    fn ids(send: u32, link: u32) -> MessageIds {
        MessageIds {
            send,
            receive: send + 1,
            link,
        }
    }

    fn marks(count: u32) -> Marks {
        let mut marks = Marks::default();
        for number in 0..count {
            // As SPIs are: spread in the low bits.
            let spi = number.wrapping_mul(0x9e37_79b9);
            let window = Window {
                highest: u64::from(number) + 1,
                busy: number % 2 == 0,
            };
            marks.windows.insert(spi, window);
            marks
                .ids
                .insert(3 << 56 | u64::from(number), ((0, 0), ids(number, 5)));
        }
        marks
    }

    fn sealed(slot: &Slot, index: usize, stamp: Stamp, chunk: &Chunk) -> (String, Vec<u8>) {
        let name = name(slot, index);
        let octets = postcard::to_extend(&(stamp, chunk), vec![VERSION]).unwrap();
        let blob = slot.seal(&name, &octets).unwrap();
        (name, blob)
    }

    #[test]
    fn marks_are_packed_into_few_chunks_and_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let slot = slot(directory.path());
        let written = marks(10_000);
        let (chunks, left_out) = pack(&written);
        assert_eq!((chunks.len(), left_out), (16, 0));
        let mut read = Marks::default();
        let mut octets = 0;
        for (index, chunk) in chunks.iter().enumerate() {
            let (name, blob) = sealed(&slot, index, (7, 0), chunk);
            octets += blob.len();
            assert!(read.read(&slot, &name, &blob).unwrap());
        }
        assert_eq!(read.windows, written.windows);
        assert_eq!(read.ids(3 << 56 | 99), Some(ids(99, 5)));
        assert_eq!(read.ids(99), None);
        assert_eq!(slot.chunks_found(), 16);
        assert!(octets < 20_000 * 20, "{octets}");
        assert!(!read.read(&slot, "slot/003/sa/1", b"x").unwrap());
        assert!(
            !read.read(&slot, "slot/004/cp/00", b"x").unwrap(),
            "of another slot"
        );
        let (_, blob) = sealed(&slot, 0, (7, 0), &chunks[0]);
        assert!(
            read.read(&slot, "slot/003/cp/01", &blob).is_err(),
            "under another name"
        );
    }

    #[test]
    fn a_chunk_has_a_most_and_what_has_no_room_is_counted() {
        let mut crowded = Marks::default();
        for number in 0..30_000_u32 {
            // All with the same low bits: the worst that an attacker who chose SPIs could do.
            crowded.windows.insert(number << 16, Window::default());
        }
        let (chunks, left_out) = pack(&crowded);
        assert_eq!(left_out, 30_000 - MARKS_MAX);
        let octets = postcard::to_extend(&((7_u64, 0_u64), &chunks[0]), Vec::new()).unwrap();
        assert!(octets.len() <= 512 << 10);
        assert_eq!(pack(&Marks::default()).0.len(), 1);
    }

    #[test]
    fn an_older_chunk_that_was_left_says_less_than_the_newer_one() {
        let directory = tempfile::tempdir().unwrap();
        let slot = slot(directory.path());
        let chunk = |highest, ids| Chunk {
            windows: vec![(
                9,
                Window {
                    highest,
                    busy: highest > 65,
                },
            )],
            ids: vec![(1, ids)],
        };
        let newer = sealed(&slot, 0, (8, 0), &chunk(70, ids(2, 6)));
        let older = sealed(&slot, 1, (7, 900), &chunk(60, ids(50, 5)));
        for order in [[&newer, &older], [&older, &newer]] {
            let mut read = Marks::default();
            for (name, blob) in order {
                assert!(read.read(&slot, name, blob).unwrap());
            }
            let window = Window {
                highest: 70,
                busy: true,
            };
            assert_eq!((read.window(9), read.ids(1)), (window, Some(ids(2, 6))));
        }
    }

    #[test]
    fn nothing_is_written_while_nothing_has_changed() {
        let directory = tempfile::tempdir().unwrap();
        let slot = slot(directory.path());
        let mut checkpointer = Checkpointer::default();
        assert_eq!(checkpointer.round(&slot), Round::default(), "nothing to say");
        assert!(slot.records.is_empty());
        // A chunk of the last owner is replaced or removed.
        slot.set_chunks_found(2);
        let mut checkpointer = Checkpointer::default();
        assert_eq!(checkpointer.round(&slot).chunks, 1);
        assert_eq!(slot.records.latest("slot/003/cp/01"), Some(Change::Delete));
        assert_eq!(checkpointer.round(&slot).chunks, 0);
        checkpointer.forget();
        assert_eq!(checkpointer.round(&slot).chunks, 1, "again under another fence");
    }
}
