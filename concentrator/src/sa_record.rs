//! What the store holds of a session: everything that a successor needs, sealed.
//!
//! ```text
//! sa/<session>   the SA record: facts, the core's snapshot, the child SAs with their keys
//! seq/<spi_in>   the ceiling of a child's sequence numbers
//! cp/<chunk>     checkpoints of many: how far inbound windows and message IDs have come
//! ```
//!
//! Ceilings and checkpoints have names of their own, because each has its own writer and changes much more often. All
//! names begin with the prefix of the slot.

use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use ike::{ChildSa, Snapshot};
use serde::{Deserialize, Serialize};

use crate::ceiling::Ceiling;
use crate::records::{Change, Full, Priority, Waiter};
use crate::seal::SealError;
use crate::session::{Born, Child, Facts, Session, Standing, millis_since_1970};
use crate::slot::Slot;

/// What the names of SA records begin with.
pub const SA_PREFIX: &str = "sa/";
/// What the names of ceilings begin with.
pub const CEILING_PREFIX: &str = "seq/";
/// What the names of checkpoints begin with.
pub const CHECKPOINT_PREFIX: &str = "cp/";

/// The layout; a record of another one is not read.
const VERSION: u8 = 3;

/// A session at rest.
#[derive(Serialize, Deserialize)]
pub struct SaRecord {
    /// When it was written, milliseconds since 1970.
    pub saved_millis: u64,
    /// What does not change.
    pub facts: Facts,
    /// The standing, as far as the snapshot does not have it.
    pub standing: StandingRecord,
    /// The core.
    pub snapshot: Snapshot,
    /// The child SAs.
    pub children: Vec<ChildRecord>,
}

/// The part of a [`Standing`] that is kept.
#[derive(Clone, Serialize, Deserialize)]
pub struct StandingRecord {
    /// See [`Standing`].
    pub spi_i: String,
    /// See [`Standing`].
    pub spi_r: String,
    /// See [`Standing`].
    pub suite: String,
    /// See [`Standing`].
    pub local: std::net::SocketAddr,
    /// See [`Standing`].
    pub remote: std::net::SocketAddr,
    /// See [`Standing`].
    pub nat_local: bool,
    /// See [`Standing`].
    pub nat_remote: bool,
    /// When the keys of the IKE SA were made, milliseconds since 1970.
    pub keyed_millis: u64,
    /// The slot's generation then.
    pub born: u64,
}

/// A child SA at rest.
#[derive(Serialize, Deserialize)]
pub struct ChildRecord {
    /// The SA with its keys.
    pub sa: ChildSa,
    /// How many SAs it has replaced.
    pub rekeys: u32,
    /// When it was made, milliseconds since 1970.
    pub made_millis: u64,
    /// The same in generations.
    pub born: Born,
}

/// Why a record cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// It does not open.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// Its content is of another layout.
    #[error("the record is of layout {found}, this program reads {VERSION}")]
    Version {
        /// The layout's number.
        found: u8,
    },
    /// It cannot be written or read.
    #[error("the record cannot be encoded or decoded: {0}")]
    Codec(#[from] postcard::Error),
}

impl SaRecord {
    /// The session as it is.
    #[must_use]
    pub fn new(session: &Session, snapshot: Snapshot) -> Self {
        let standing = session.standing();
        Self {
            saved_millis: millis_since_1970(SystemTime::now()),
            facts: session.facts.clone(),
            standing: StandingRecord {
                spi_i: standing.spi_i,
                spi_r: standing.spi_r,
                suite: standing.suite,
                local: standing.local,
                remote: standing.remote,
                nat_local: standing.nat_local,
                nat_remote: standing.nat_remote,
                keyed_millis: millis_since_1970(standing.keyed),
                born: standing.born,
            },
            snapshot,
            children: session
                .children()
                .iter()
                .map(|child| ChildRecord {
                    sa: child.sa.clone(),
                    rekeys: child.rekeys,
                    made_millis: millis_since_1970(child.made),
                    born: child.born,
                })
                .collect(),
        }
    }

    /// The name of a session's record.
    #[must_use]
    pub fn name(slot: &Slot, id: u64) -> String {
        format!("{}{SA_PREFIX}{id:016x}", slot.prefix())
    }

    /// The session that a record is of, by its name; `None`: it is no SA record of this slot.
    #[must_use]
    pub fn session(slot: &Slot, name: &str) -> Option<u64> {
        let id = name.strip_prefix(slot.prefix())?.strip_prefix(SA_PREFIX)?;
        u64::from_str_radix(id, 16).ok()
    }

    /// For the store.
    ///
    /// # Errors
    /// The cipher or the encoding refuses.
    pub fn seal(&self, slot: &Slot) -> Result<Vec<u8>, RecordError> {
        let mut octets = vec![VERSION];
        octets = postcard::to_extend(self, octets)?;
        let secret = crypto::Secret::from(octets);
        Ok(slot.seal(&Self::name(slot, self.facts.id), secret.expose())?)
    }

    /// From the store.
    ///
    /// # Errors
    /// Another key, another layout, damaged.
    pub fn open(slot: &Slot, name: &str, blob: &[u8]) -> Result<Self, RecordError> {
        let secret = slot.open(name, blob)?;
        match secret.expose().split_first() {
            Some((&VERSION, rest)) => Ok(postcard::from_bytes(rest)?),
            Some((&found, _)) => Err(RecordError::Version { found }),
            None => Err(RecordError::Version { found: 0 }),
        }
    }

    /// How long ago it was written, as the wall clocks of its writer and its reader have it.
    #[must_use]
    pub fn age(&self, now: SystemTime) -> Duration {
        Duration::from_millis(millis_since_1970(now).saturating_sub(self.saved_millis))
    }
}

impl StandingRecord {
    /// The standing of a session that is carried on.
    #[must_use]
    pub fn restore(&self) -> Standing {
        Standing {
            spi_i: self.spi_i.clone(),
            spi_r: self.spi_r.clone(),
            suite: self.suite.clone(),
            local: self.local,
            remote: self.remote,
            nat_local: self.nat_local,
            nat_remote: self.nat_remote,
            state: "restored",
            keyed: SystemTime::UNIX_EPOCH + Duration::from_millis(self.keyed_millis),
            born: self.born,
        }
    }
}

/// The name of a child's ceiling.
fn ceiling_name(slot: &Slot, spi_in: u32) -> String {
    format!("{}{CEILING_PREFIX}{spi_in:08x}", slot.prefix())
}

/// Queues a child's ceiling.
///
/// # Errors
/// The queue is full.
pub fn put_ceiling(slot: &Slot, spi_in: u32, ceiling: Ceiling, waiter: Option<Waiter>) -> Result<(), Full> {
    let change = Change::Put(ceiling.encode());
    // As urgent as a rekey: traffic stops at the ceiling.
    slot.records
        .submit(ceiling_name(slot, spi_in), change, Priority::Rekey, waiter)
}

/// Removes what the store holds of a child beside its session's record, if there can be anything: a deletion of what was
/// never written costs the members as much as any other. `None` of a child that is not known.
pub fn forget_child(slot: &Slot, spi_in: u32, child: Option<&Child>) {
    if child.is_some_and(|child| !child.has_ceiling.load(Ordering::Acquire)) {
        return;
    }
    // Deletions are always taken.
    let _ = slot
        .records
        .submit(ceiling_name(slot, spi_in), Change::Delete, Priority::Delete, None);
}

/// Reads a ceiling: its SPI and its number.
#[must_use]
pub fn read_ceiling(slot: &Slot, name: &str, value: &[u8]) -> Option<(u32, Ceiling)> {
    let spi_in = name.strip_prefix(slot.prefix())?.strip_prefix(CEILING_PREFIX)?;
    Some((u32::from_str_radix(spi_in, 16).ok()?, Ceiling::decode(value)?))
}
