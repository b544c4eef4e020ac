//! What the store holds of a session: everything that a successor needs, sealed.
//!
//! ```text
//! sa/<session>   the SA record: facts, the core's snapshot, the child SAs with their keys
//! seq/<spi_in>   sequence numbers below this are reserved (the ceiling)
//! win/<spi_in>   the highest sequence number received (the checkpoint)
//! ```
//!
//! The two numbers have names of their own, because each has its own writer and changes much more often.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ike::{ChildSa, Snapshot};
use serde::{Deserialize, Serialize};

use crate::records::{Change, Full, Records, Waiter};
use crate::seal::{SealError, Sealer};
use crate::session::{Child, Facts, Session, Standing, millis_since_1970};

/// Sequence numbers below this are reserved for every new SA by its SA record alone.
pub const FIRST_CEILING: u64 = 1 << 17;

/// The prefix of SA records.
pub const SA_PREFIX: &str = "sa/";
/// The prefix of ceilings.
pub const CEILING_PREFIX: &str = "seq/";
/// The prefix of checkpoints.
pub const CHECKPOINT_PREFIX: &str = "win/";

/// The layout; a record of another one is not read.
const VERSION: u8 = 2;

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
            },
            snapshot,
            children: session
                .children()
                .iter()
                .map(|child| ChildRecord {
                    sa: child.sa.clone(),
                    rekeys: child.rekeys,
                    made_millis: millis_since_1970(child.made),
                })
                .collect(),
        }
    }

    /// The name of a session's record.
    #[must_use]
    pub fn name(id: u64) -> String {
        format!("{SA_PREFIX}{id:016x}")
    }

    /// For the store.
    ///
    /// # Errors
    /// The cipher or the encoding refuses.
    pub fn seal(&self, sealer: &Sealer) -> Result<Vec<u8>, RecordError> {
        let mut octets = vec![VERSION];
        octets = postcard::to_extend(self, octets)?;
        let secret = crypto::Secret::from(octets);
        Ok(sealer.seal(&Self::name(self.facts.id), secret.expose())?)
    }

    /// From the store.
    ///
    /// # Errors
    /// Another key, another layout, damaged.
    pub fn open(sealer: &Sealer, name: &str, blob: &[u8]) -> Result<Self, RecordError> {
        let secret = sealer.open(name, blob)?;
        match secret.expose().split_first() {
            Some((&VERSION, rest)) => Ok(postcard::from_bytes(rest)?),
            Some((&found, _)) => Err(RecordError::Version { found }),
            None => Err(RecordError::Version { found: 0 }),
        }
    }

    /// Whether the hard lifetime of its IKE SA has passed.
    #[must_use]
    pub fn expired(&self, now: SystemTime) -> bool {
        let lifetime = Duration::from_secs(self.facts.ike_lifetime_secs);
        let keyed = SystemTime::UNIX_EPOCH + Duration::from_millis(self.standing.keyed_millis);
        !lifetime.is_zero() && keyed + lifetime <= now
    }

    /// How long ago it was written.
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
        }
    }
}

/// Queues a child's ceiling.
///
/// # Errors
/// The queue is full.
pub fn put_ceiling(records: &Arc<Records>, child: &Child, ceiling: u64, waiter: Waiter) -> Result<(), Full> {
    let name = format!("{CEILING_PREFIX}{:08x}", child.sa.spi_in);
    records.submit(name, Change::Put(ceiling.to_be_bytes().to_vec()), Some(waiter))
}

/// Queues a child's checkpoint.
///
/// # Errors
/// The queue is full.
pub fn put_checkpoint(records: &Arc<Records>, spi_in: u32, highest: u64) -> Result<(), Full> {
    let name = format!("{CHECKPOINT_PREFIX}{spi_in:08x}");
    records.submit(name, Change::Put(highest.to_be_bytes().to_vec()), None)
}

/// Removes what the store holds of a child beside its session's record.
pub fn forget_child(records: &Arc<Records>, spi_in: u32) {
    for prefix in [CEILING_PREFIX, CHECKPOINT_PREFIX] {
        // Deletions are always taken.
        let _ = records.submit(format!("{prefix}{spi_in:08x}"), Change::Delete, None);
    }
}

/// Reads a ceiling or a checkpoint: its SPI and its number.
#[must_use]
pub fn read_number(prefix: &str, name: &str, value: &[u8]) -> Option<(u32, u64)> {
    let spi_in = u32::from_str_radix(name.strip_prefix(prefix)?, 16).ok()?;
    Some((spi_in, u64::from_be_bytes(value.try_into().ok()?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_back_and_others_are_left() {
        let name = format!("{CEILING_PREFIX}{:08x}", 0x2000_0102_u32);
        assert_eq!(
            read_number(CEILING_PREFIX, &name, &7_u64.to_be_bytes()),
            Some((0x2000_0102, 7))
        );
        assert_eq!(read_number(CHECKPOINT_PREFIX, &name, &7_u64.to_be_bytes()), None);
        assert_eq!(read_number(CEILING_PREFIX, &name, &[1, 2]), None);
        assert_eq!(read_number(CEILING_PREFIX, "seq/zz", &[0; 8]), None);
    }
}
