//! One recovery path for a panicked actor and for a restarted process: record → snapshot → core → actor.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use ike::IkeSa;
use store::StoreError;

use crate::actors::{IkeSaActor, Retire};
use crate::generation::GenerationError;
use crate::node::Node;
use crate::records::Change;
use crate::sa_record::{
    self, CEILING_PREFIX, CHECKPOINT_PREFIX, FIRST_CEILING, RecordError, SA_PREFIX, SaRecord,
};
use crate::session::{Child, Facts, Outer, Session};
use crate::spis::Reclaim;

/// Records read from the store at a time.
const PAGE: usize = 1_000;

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
    /// The store refuses.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No generation could be taken.
    #[error(transparent)]
    Generation(#[from] GenerationError),
}

/// Makes the core of one session again, after its actor panicked.
///
/// A new generation is taken first: the dead core may have sent messages that its record does not know of.
///
/// # Errors
/// No record, or one that cannot be used.
pub async fn load_one(node: Arc<Node>, id: u64) -> Result<Revived, RecoveryError> {
    let session = node.sessions.get(id).ok_or(RecoveryError::NoRecord)?;
    let name = SaRecord::name(id);
    let blob = match node.records.latest(&name) {
        Some(Change::Put(blob)) => blob,
        Some(Change::Delete) => return Err(RecoveryError::NoRecord),
        None => {
            node.sa_store
                .get(&name)
                .await?
                .ok_or(RecoveryError::NoRecord)?
                .value
        }
    };
    let record = SaRecord::open(&node.sealer, &name, &blob)?;
    let generation = node.generations.next().await?;
    let elapsed = record.age(SystemTime::now());
    let reclaim = Arc::new(Reclaim(Arc::clone(&node.spis)));
    let context = ike::Context {
        spis: reclaim,
        ..node.ike_context(generation)
    };
    let mut sa = IkeSa::restore(Instant::now(), context, record.snapshot, elapsed, generation)?;
    sa.taken_over(Instant::now(), None);
    Ok(Revived { session, sa })
}

/// What a start has carried on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Sessions that are up again.
    pub restored: usize,
    /// Records that were dropped: expired, damaged, of another key.
    pub dropped: usize,
}

/// Carries on every session of the store. Called before the sockets are read.
///
/// # Errors
/// The store cannot be read. A record that cannot be used is dropped and counted.
pub async fn load_all(node: &Arc<Node>) -> Result<Report, StoreError> {
    let numbers = |prefix: &'static str| async move {
        let mut found = HashMap::new();
        for (name, value) in all(node, prefix).await? {
            found.extend(sa_record::read_number(prefix, &name, &value));
        }
        Ok::<_, StoreError>(found)
    };
    let ceilings = numbers(CEILING_PREFIX).await?;
    let checkpoints = numbers(CHECKPOINT_PREFIX).await?;
    let mut report = Report::default();
    for (name, blob) in all(node, SA_PREFIX).await? {
        match restore(node, &name, &blob, &ceilings, &checkpoints) {
            Ok(revived) => {
                let facts = &revived.session.facts;
                keep_addresses(node, facts).await;
                node.metrics.session(&facts.tenant, 1);
                node.ensure_tenant(&facts.tenant);
                node.sessions.add(Arc::clone(&revived.session));
                IkeSaActor::revive(node, revived);
                report.restored += 1;
            }
            Err(error) => {
                tracing::warn!(record = name, %error, "a session is not carried on");
                let _ = node.records.submit(name, Change::Delete, None);
                report.dropped += 1;
            }
        }
    }
    // Addresses of sessions that were not carried on are free again.
    if let Err(error) = node.registry.sweep_unclaimed().await {
        tracing::warn!(%error, "addresses of lost sessions could not be freed");
    }
    Ok(report)
}

/// The session's addresses stay its own.
async fn keep_addresses(node: &Node, facts: &Facts) {
    for lease in &facts.leases {
        if let Some(pool) = node.registry.pool(&facts.tenant, &lease.pool)
            && let Err(error) = pool.claim(&lease.owner, lease.address).await
        {
            tracing::warn!(tenant = facts.tenant, %error, "a carried-on session's address is not its own any more");
        }
    }
}

/// Drops every record: after a wrap of the generations, or when the store went back in time.
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

async fn all(node: &Node, prefix: &str) -> Result<Vec<(String, Vec<u8>)>, StoreError> {
    let mut found = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let (page, _) = node.sa_store.range(prefix, after.as_deref(), PAGE).await?;
        let full = page.len() >= PAGE;
        found.extend(page.into_iter().map(|(name, entry)| (name, entry.value)));
        if !full {
            return Ok(found);
        }
        after = found.last().map(|(name, _)| name.clone());
    }
}

fn restore(
    node: &Arc<Node>,
    name: &str,
    blob: &[u8],
    ceilings: &HashMap<u32, u64>,
    checkpoints: &HashMap<u32, u64>,
) -> Result<Revived, RecoveryError> {
    let record = SaRecord::open(&node.sealer, name, blob)?;
    let generation = node.generation();
    let now = SystemTime::now();
    if record.expired(now) {
        return Err(RecoveryError::Expired);
    }
    let elapsed = record.age(now);
    let context = node.ike_context(generation);
    let mut sa = IkeSa::restore(Instant::now(), context, record.snapshot, elapsed, generation)?;
    sa.taken_over(Instant::now(), None);
    // The numbers of routing domains belong to one run of the process.
    let domain = node.domains.id(&record.facts.tenant);
    let session = Session::new(
        Facts {
            domain,
            ..record.facts
        },
        record.standing.restore(),
    );
    let facts = &session.facts;
    node.authenticator
        .adopt(facts.id, &facts.tenant, facts.leases.clone());
    for child in record.children {
        let spi_in = child.sa.spi_in;
        let ceiling = ceilings.get(&spi_in).copied().unwrap_or(FIRST_CEILING);
        let checkpoint = checkpoints.get(&spi_in).copied().unwrap_or(0);
        let made = SystemTime::UNIX_EPOCH + Duration::from_millis(child.made_millis);
        let child = Child::made_at(made, child.sa, &session.facts, child.rekeys, ceiling, checkpoint);
        // The peer may have moved since the child was made.
        child.move_to(Outer {
            local: sa.local(),
            remote: sa.remote(),
        });
        session.add(child);
    }
    Ok(Revived { session, sa })
}

/// Ends a session whose actor cannot be made again: its peer finds out by its own liveness checks.
pub fn abandon(node: &Arc<Node>, id: u64, reason: &str) {
    let Some(session) = node.sessions.get(id) else {
        return;
    };
    for child in session.children() {
        if let Some(addr) = child.addr.load_full() {
            addr.do_send(Retire);
        }
        sa_record::forget_child(&node.records, child.sa.spi_in);
        ike::SpiAllocator::release_esp(node.spis.as_ref(), child.sa.spi_in);
    }
    forget(node, &session.facts, reason);
}

/// Removes a session from the directory, the store and its pools.
pub fn forget(node: &Arc<Node>, facts: &Facts, reason: &str) {
    // Deletions are always taken.
    let _ = node
        .records
        .submit(SaRecord::name(facts.id), Change::Delete, None);
    node.authenticator.give_back(node, facts.id);
    if node.sessions.remove(facts.id, reason).is_some() {
        node.metrics.session(&facts.tenant, -1);
    }
}
