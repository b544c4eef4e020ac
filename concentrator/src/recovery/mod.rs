//! One recovery path for a panicked actor, a restarted process and a taken-over slot: record → snapshot → core → actor.

mod handover;
mod renew;
mod restore;
mod rewrite;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use ike::IkeSa;
use store::StoreError;
use tokio::sync::mpsc;

use crate::actors::Retire;
use crate::generation::GenerationError;
use crate::node::Node;
use crate::records::{Change, Priority};
use crate::sa_record::{self, CEILING_PREFIX, CHECKPOINT_PREFIX, RecordError, SA_PREFIX, SaRecord};
use crate::session::{Facts, Session};
use crate::slot::Slot;

pub(crate) use handover::regain;
pub use handover::{HALF_OPEN, freeze, put_down, serve, thaw};
pub use renew::{Pace, Times, renew};
pub use restore::{Ages, Report, Restore, read_slot, restore_slot};
pub(crate) use rewrite::Receipt;
pub use rewrite::{Unwritten, refence, rewrite};

/// Wait before a store that was out of reach is asked again for a session; doubles up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(20);
/// The longest wait between two tries.
const RETRY_MAX: Duration = Duration::from_secs(2);

/// Dropped by every actor that a restoration waits for when its SA is in place.
pub(crate) type Arrival = mpsc::Sender<()>;

/// A session whose core is alive again.
pub struct Revived {
    /// The session.
    pub session: Arc<Session>,
    /// Its core.
    pub sa: IkeSa,
}

/// Why a session cannot be carried on.
#[derive(Debug, thiserror::Error)]
pub enum RecoveryError {
    /// There is no record of it.
    #[error("there is no record")]
    NoRecord,
    /// The record cannot be used.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The core refuses it: of another version, for instance.
    #[error("the snapshot is refused: {0}")]
    Restore(#[from] ike::RestoreError),
    /// Its hard lifetime passed while nobody served it.
    #[error("its lifetime has passed")]
    Expired,
    /// So many owners have had it that its IVs could repeat.
    #[error("its keys are {age} generations old")]
    TooOld {
        /// How many.
        age: u64,
    },
    /// It belongs to a slot that this node has not.
    #[error("its slot is not here")]
    Elsewhere,
    /// The store refuses.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No generation could be taken.
    #[error(transparent)]
    Generation(#[from] GenerationError),
}

impl RecoveryError {
    /// Whether the same may succeed later: the record is good as far as is known, only out of reach.
    fn passes(&self) -> bool {
        match self {
            Self::Store(error) | Self::Generation(GenerationError::Store(error)) => {
                !matches!(error, StoreError::Corrupt { .. } | StoreError::TooLarge { .. })
            }
            // Until the slot is put down it may be this node's after all.
            Self::Generation(GenerationError::Mark { .. } | GenerationError::Lost) => true,
            Self::NoRecord
            | Self::Record(_)
            | Self::Restore(_)
            | Self::Expired
            | Self::TooOld { .. }
            | Self::Elsewhere
            | Self::Generation(GenerationError::Spent) => false,
        }
    }
}

/// Makes the core of one session again, after its actor panicked.
///
/// A new generation is taken first: the dead core may have sent messages that its record does not know of. While the
/// store is out of reach this goes on trying, for as long as the slot is here and the keys of the IKE SA live: the
/// child SAs carry packets meanwhile.
///
/// # Errors
/// No record, or one that cannot be used.
pub async fn load_one(node: Arc<Node>, id: u64) -> Result<Revived, RecoveryError> {
    let session = node.sessions.get(id).ok_or(RecoveryError::Elsewhere)?;
    let mut pause = RETRY_MIN;
    loop {
        match try_load(&node, &session).await {
            Err(error) if error.passes() && !node.stopping() => {
                if session.expired(SystemTime::now()) {
                    return Err(RecoveryError::Expired);
                }
                if pause == RETRY_MIN {
                    tracing::warn!(session = session.name(), %error, "a session waits for its record");
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(RETRY_MAX);
            }
            result => return result,
        }
    }
}

async fn try_load(node: &Arc<Node>, session: &Arc<Session>) -> Result<Revived, RecoveryError> {
    let slot = slot_of(node, &session.facts)
        .filter(|_| is_present(node, session))
        .ok_or(RecoveryError::Elsewhere)?;
    let id = session.facts.id;
    let name = SaRecord::name(&slot, id);
    // What waits in the queue is newer than the store.
    let queued = match slot.records.latest(&name) {
        Some(Change::Put(blob)) => Some(blob),
        Some(Change::Delete) => return Err(RecoveryError::NoRecord),
        None => None,
    };
    let stored = queued.is_none();
    let blob = match queued {
        Some(blob) => blob,
        None => {
            node.sa_store
                .get(&name)
                .await?
                .ok_or(RecoveryError::NoRecord)?
                .value
        }
    };
    let record = SaRecord::open(&slot, &name, &blob)?;
    slot.raise().await?;
    if !stored {
        // The new core repeats answers of its record at once: no earlier than that is durable.
        slot.records.flush().await.map_err(|_| RecoveryError::Elsewhere)?;
    }
    // The slot may have gone and come back meanwhile, and its sessions have cores again.
    if slot.records.is_closed() || !is_present(node, session) {
        return Err(RecoveryError::Elsewhere);
    }
    let elapsed = record.age(SystemTime::now());
    let context = ike::Context {
        spis: slot.reclaim(),
        ..node.ike_context(&slot)
    };
    let generation = context.generation;
    let mut sa = IkeSa::restore(Instant::now(), context, record.snapshot, elapsed, generation)?;
    sa.taken_over(Instant::now(), session.ids());
    Ok(Revived {
        session: Arc::clone(session),
        sa,
    })
}

/// Whether it is this very session that the node has, and not one that was restored after it.
pub(crate) fn is_present(node: &Node, session: &Arc<Session>) -> bool {
    node.sessions
        .get(session.facts.id)
        .is_some_and(|present| Arc::ptr_eq(&present, session))
}

/// The slot of a session, while this node has it.
#[must_use]
pub fn slot_of(node: &Node, facts: &Facts) -> Option<Arc<Slot>> {
    node.slots
        .get(facts.slot)
        .filter(|slot| !slot.records.is_closed())
}

/// Drops every record of a single node: after a wrap of the generations, or when the store went back in time.
///
/// # Errors
/// The store refuses.
pub async fn drop_all(store: &dyn store::Store) -> Result<(), StoreError> {
    let mut txn = store::Txn::new();
    for prefix in [SA_PREFIX, CEILING_PREFIX, CHECKPOINT_PREFIX] {
        txn.then.push(store::Op::DeletePrefix {
            prefix: prefix.to_owned(),
        });
    }
    store.txn(txn).await.map(|_| ())
}

/// Ends a session whose actor cannot be made again: its peer finds out by its own liveness checks.
pub fn abandon(node: &Arc<Node>, id: u64, reason: &str) {
    let Some(session) = node.sessions.get(id) else {
        return;
    };
    let slot = slot_of(node, &session.facts);
    for child in session.children() {
        if let Some(addr) = child.addr.load_full() {
            addr.do_send(Retire);
        }
        if let Some(slot) = &slot {
            sa_record::forget_child(slot, child.sa.spi_in, Some(&child));
            slot.spis().release_esp(child.sa.spi_in);
        }
    }
    if let Some(slot) = &slot {
        slot.actors.remove(&id);
        forget(node, slot, &session, reason);
    }
}

/// Removes a session from the directory, the store and its pools.
pub fn forget(node: &Arc<Node>, slot: &Slot, session: &Arc<Session>, reason: &str) {
    let facts = &session.facts;
    // Deletions are always taken.
    let name = SaRecord::name(slot, facts.id);
    let _ = slot.records.submit(name, Change::Delete, Priority::Delete, None);
    slot.sessions
        .remove_if(&facts.id, |_, present| Arc::ptr_eq(present, session));
    // What another one of its number holds, which was restored after it, is not its own.
    if node.sessions.remove_exactly(session, reason) {
        node.authenticator.give_back(node, facts.id);
        node.metrics.session(&facts.tenant, -1);
    }
}
