//! A whole slot from its records: at the start of a single node, and when a node takes a slot over.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use dataplane::{SaPair, WorkerCommand};
use futures::future::join_all;
use ike::IkeSa;
use store::StoreError;
use tenants::PoolError;
use tokio::sync::{mpsc, oneshot};

use super::{Arrival, RecoveryError, Revived};
use crate::actors::IkeSaActor;
use crate::ceiling::{self, Ceiling, Numbers, Spent};
use crate::checkpoint::Marks;
use crate::install;
use crate::node::{Node, WorkerSlot};
use crate::records::{Change, Priority};
use crate::sa_record::{self, CEILING_PREFIX, ChildRecord, SaRecord};
use crate::session::{Child, Facts, Outer, Session};
use crate::slot::{AGE_MAX, Slot};

/// Records read from the store at a time.
const PAGE: usize = 1_000;
/// Sessions that an arbiter restores before its other actors have their turn.
const TURN: usize = 16;
/// Sessions whose SAs the workers get with one command each.
const BATCH: usize = 256;
/// How long the workers may take to obey.
const OBEYED: Duration = Duration::from_secs(2);
/// Generations before the 16 bits come round at which keys are not used any more, not even to replace them.
const AGE_END: u64 = (1 << 16) - 256;

/// The records of a slot, as the store has them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Restore {
    /// Names and values, with the slot's prefix.
    pub records: Vec<(String, Vec<u8>)>,
    /// Timers go on by the time that has passed since a record was written, as the wall clocks of both writers say.
    /// Otherwise as if it had been written now.
    pub elapsed_from_records: bool,
    /// What this node has seen of them.
    pub ages: Ages,
}

/// How old records are by this node's own clock, which nobody sets: wall clocks can be wrong by years.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ages {
    /// By name, since this node saw that it was written.
    pub seen: HashMap<String, Duration>,
    /// How late it can have seen it.
    pub most_later: Duration,
}

impl Ages {
    /// The age of a record whose writer's wall clock and ours differ by `wall`.
    fn of(&self, name: &str, wall: Duration) -> Duration {
        match self.seen.get(name) {
            Some(&seen) => wall.clamp(seen, seen.saturating_add(self.most_later)),
            None => wall,
        }
    }
}

/// What a restoration has carried on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Sessions that are up again.
    pub restored: usize,
    /// Their child SAs.
    pub children: usize,
    /// Child SAs that have to be replaced before they can send again.
    pub spent: usize,
    /// Records that were dropped: expired, damaged, of another key.
    pub dropped: usize,
}

impl Report {
    fn add(&mut self, other: Self) {
        self.restored += other.restored;
        self.children += other.children;
        self.spent += other.spent;
        self.dropped += other.dropped;
    }
}

/// Child SAs that may send, and the numbers they may use.
type Sending = Vec<(Arc<Child>, Numbers)>;

/// What the store says of a slot's SAs beside their records.
struct Beside {
    ceilings: HashMap<u32, Ceiling>,
    marks: Marks,
    elapsed_from_records: bool,
    ages: Ages,
}

/// Reads the records of a slot.
///
/// # Errors
/// The store cannot be read.
pub async fn read_slot(node: &Node, slot: &Slot) -> Result<Restore, StoreError> {
    let mut records = Vec::new();
    for prefix in [sa_record::SA_PREFIX, CEILING_PREFIX, sa_record::CHECKPOINT_PREFIX] {
        let prefix = format!("{}{prefix}", slot.prefix());
        let mut after: Option<String> = None;
        loop {
            let (page, _) = node.sa_store.range(&prefix, after.as_deref(), PAGE).await?;
            let full = page.len() >= PAGE;
            after = page.last().map(|(name, _)| name.clone());
            records.extend(page.into_iter().map(|(name, entry)| (name, entry.value)));
            if !full {
                break;
            }
        }
    }
    Ok(Restore {
        records,
        elapsed_from_records: true,
        ages: Ages::default(),
    })
}

/// Carries on every session of a slot from its records: cores, actors, and child SAs at their workers, spread over the
/// control arbiters; all of it is in place when this returns. Nothing is written or waited for but addresses whose
/// leases are not known here; nothing is sent before [`serve`](super::serve). A record that cannot be used is dropped and
/// counted.
pub async fn restore_slot(node: &Arc<Node>, slot: &Arc<Slot>, restore: Restore) -> Report {
    let mut report = Report::default();
    let mut beside = Beside {
        ceilings: HashMap::new(),
        marks: Marks::default(),
        elapsed_from_records: restore.elapsed_from_records,
        ages: restore.ages,
    };
    let control = node.arbiters.control();
    let mut shares: Vec<Vec<(u64, String, Vec<u8>)>> = vec![Vec::new(); control.len()];
    for (name, value) in restore.records {
        if let Some(id) = SaRecord::session(slot, &name) {
            let index = usize::try_from(id % control.len().max(1) as u64).unwrap_or(0);
            if let Some(share) = shares.get_mut(index) {
                share.push((id, name, value));
            }
        } else if let Some((spi_in, ceiling)) = sa_record::read_ceiling(slot, &name, &value) {
            beside.ceilings.insert(spi_in, ceiling);
        } else {
            match beside.marks.read(slot, &name, &value) {
                Ok(true) => {}
                Ok(false) => tracing::warn!(record = name, "a record of another kind is left"),
                Err(error) => tracing::warn!(record = name, %error, "a checkpoint is not read"),
            }
        }
    }
    let beside = Arc::new(beside);
    let (arrival, mut arrived) = mpsc::channel(1);
    let mut running = Vec::new();
    for (arbiter, share) in control.iter().zip(shares) {
        let (send, receive) = oneshot::channel();
        let (node, slot) = (Arc::clone(node), Arc::clone(slot));
        let (beside, arrival) = (Arc::clone(&beside), arrival.clone());
        arbiter.spawn(async move {
            let _ = send.send(restore_share(&node, &slot, share, &beside, arrival).await);
        });
        running.push(receive);
    }
    drop(arrival);
    for receive in running {
        match receive.await {
            Ok(part) => report.add(part),
            Err(_) => tracing::error!("a part of the sessions could not be restored: it panicked"),
        }
    }
    // Nobody sends: it ends when the last session can be reached.
    while arrived.recv().await.is_some() {}
    workers_obeyed(node).await;
    report
}

/// The sessions of one arbiter, on it.
async fn restore_share(
    node: &Arc<Node>,
    slot: &Arc<Slot>,
    share: Vec<(u64, String, Vec<u8>)>,
    beside: &Beside,
    arrival: Arrival,
) -> Report {
    let mut report = Report::default();
    let mut batch = Batch::default();
    for (count, (id, name, blob)) in share.into_iter().enumerate() {
        if count % TURN == TURN - 1 {
            tokio::task::yield_now().await;
        }
        if slot.records.is_closed() {
            // Lost in the middle of it.
            break;
        }
        match restore_one(node, slot, &name, &blob, beside) {
            Ok((revived, numbers)) => {
                let session = Arc::clone(&revived.session);
                if !keep_addresses(node, &session.facts).await && slot.share().is_some() {
                    tracing::warn!(
                        record = name,
                        "another session has its address, it is not carried on"
                    );
                    let _ = node.authenticator.take(id);
                    // Deletions are always taken.
                    let _ = slot.records.submit(name, Change::Delete, Priority::Delete, None);
                    report.dropped += 1;
                    continue;
                }
                let children = session.children();
                report.restored += 1;
                report.children += children.len();
                report.spent += children.iter().filter(|child| child.is_spent()).count();
                for (child, numbers) in numbers {
                    batch.add(node, slot, child, numbers);
                }
                node.metrics.session(&session.facts.tenant, 1);
                node.ensure_tenant(&session.facts.tenant);
                slot.sessions.insert(id, Arc::clone(&session));
                node.sessions.add(session);
                batch.revived.push(revived);
                if batch.revived.len() >= BATCH {
                    batch.send(node, slot, &arrival);
                }
            }
            Err(error) => {
                tracing::warn!(record = name, %error, "a session is not carried on");
                // Deletions are always taken.
                let _ = slot.records.submit(name, Change::Delete, Priority::Delete, None);
                report.dropped += 1;
            }
        }
    }
    batch.send(node, slot, &arrival);
    report
}

/// Sessions and their pairs for the workers, many at a time: the workers' queues are made for commands, not for SAs.
#[derive(Default)]
struct Batch {
    pairs: BTreeMap<u8, Vec<SaPair>>,
    children: Vec<(u8, Arc<Child>)>,
    revived: Vec<Revived>,
}

impl Batch {
    fn add(&mut self, node: &Node, slot: &Slot, child: Arc<Child>, numbers: Numbers) {
        let pair = install::pair(node, slot, &child, numbers.first, numbers.last);
        let worker = node.serving_worker(pair.inbound.spi);
        self.pairs.entry(worker).or_default().push(pair);
        self.children.push((worker, child));
    }

    /// First the pairs, then the actors: an actor that finds its worker started anew has the SA installed again, and
    /// that has to come after this.
    fn send(&mut self, node: &Arc<Node>, slot: &Arc<Slot>, arrival: &Arrival) {
        for (worker, child) in self.children.drain(..) {
            let starts = node.worker(worker).map_or(0, WorkerSlot::starts);
            child.given.store(starts, Ordering::Release);
        }
        for (worker, pairs) in std::mem::take(&mut self.pairs) {
            node.command(worker, WorkerCommand::InstallMany(pairs));
        }
        for revived in self.revived.drain(..) {
            IkeSaActor::revive_here(node, slot, revived, arrival.clone());
        }
    }
}

/// Waits until every worker has done what it was told before.
pub(super) async fn workers_obeyed(node: &Node) {
    let mut answers = Vec::new();
    for (index, _) in (0_u8..).zip(node.workers()) {
        let (send, receive) = oneshot::channel::<()>();
        node.command(index, WorkerCommand::ReadCounters(Box::new(move |_| drop(send))));
        answers.push(receive);
    }
    // A worker that dies meanwhile drops the question; its successor gets its SAs again by their actors.
    let _ = tokio::time::timeout(OBEYED, join_all(answers)).await;
}

/// The session's addresses stay its own; false when one of them is another's.
async fn keep_addresses(node: &Node, facts: &Facts) -> bool {
    let mut own = true;
    for lease in &facts.leases {
        if let Some(pool) = node.registry.pool(&facts.tenant, &lease.pool)
            && let Err(error) = pool.claim(&lease.owner, lease.address).await
        {
            own &= !matches!(error, PoolError::Taken { .. });
            tracing::warn!(tenant = facts.tenant, %error, "a carried-on session's address is not its own any more");
        }
    }
    own
}

fn restore_one(
    node: &Arc<Node>,
    slot: &Arc<Slot>,
    name: &str,
    blob: &[u8],
    beside: &Beside,
) -> Result<(Revived, Sending), RecoveryError> {
    let record = SaRecord::open(slot, name, blob)?;
    // One whose lifetime has passed is not judged by a wall clock that may be wrong: it is restored with its last few
    // seconds, in which its keys are replaced if its peer is there.
    let age = slot.generation().saturating_sub(record.standing.born);
    if age >= AGE_END {
        return Err(RecoveryError::TooOld { age });
    }
    let elapsed = if beside.elapsed_from_records {
        beside.ages.of(name, record.age(SystemTime::now()))
    } else {
        Duration::ZERO
    };
    let context = node.ike_context(slot);
    let generation = context.generation;
    let mut sa = IkeSa::restore(Instant::now(), context, record.snapshot, elapsed, generation)?;
    let newer = beside.marks.ids(record.facts.id);
    sa.taken_over(Instant::now(), newer);
    // The numbers of routing domains belong to one run of the process.
    let domain = node.domains.id(&record.facts.tenant);
    let session = Session::new(
        Facts {
            domain,
            slot: slot.id,
            ..record.facts
        },
        record.standing.restore(),
    );
    let facts = &session.facts;
    node.authenticator
        .adopt(facts.id, &facts.tenant, facts.leases.clone());
    let mut sending = Vec::new();
    let mut children = record.children;
    // The last one that a worker gets is the one that it sends by.
    children.sort_by_key(|child| child.made_millis);
    for child in children {
        let spi_in = child.sa.spi_in;
        let numbers = match numbers(slot, &child, beside.ceilings.get(&spi_in)) {
            Ok(numbers) => Some(numbers),
            Err(error) => {
                tracing::info!(spi_in = %format_args!("{spi_in:08x}"), %error, "a child SA may not send any more");
                None
            }
        };
        let made = SystemTime::UNIX_EPOCH + Duration::from_millis(child.made_millis);
        let mark = beside.marks.window(spi_in);
        let child = Child::made_at(
            made,
            child.sa,
            facts,
            child.rekeys,
            child.born,
            numbers,
            Some(mark),
        );
        // The peer may have moved since the child was made.
        child.move_to(Outer {
            local: sa.local(),
            remote: sa.remote(),
        });
        sending.extend(numbers.map(|numbers| (Arc::clone(&child), numbers)));
        session.add(child);
    }
    Ok((Revived { session, sa }, sending))
}

/// The outbound sequence numbers that this generation may use for a child SA.
fn numbers(slot: &Slot, child: &ChildRecord, stored: Option<&Ceiling>) -> Result<Numbers, Spent> {
    let generation = slot.generation();
    if generation.saturating_sub(child.born.generation) > AGE_MAX {
        return Err(Spent::Generations);
    }
    let first = Ceiling::first(child.born.generation, child.born.block);
    let ceiling = stored.copied().unwrap_or(first);
    ceiling.numbers(generation, ceiling::last_number(child.sa.esn))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wall_clock_that_is_wrong_does_not_age_what_was_seen() {
        let secs = Duration::from_secs;
        let ages = Ages {
            seen: HashMap::from([("sa/1".to_owned(), secs(600))]),
            most_later: secs(150),
        };
        assert_eq!(ages.of("sa/1", secs(601)), secs(601), "both agree");
        assert_eq!(ages.of("sa/1", secs(700)), secs(700), "the watch had lost it");
        assert_eq!(ages.of("sa/1", secs(86_400)), secs(750), "a day ahead");
        assert_eq!(ages.of("sa/1", Duration::ZERO), secs(600), "behind");
        assert_eq!(
            ages.of("sa/2", secs(86_400)),
            secs(86_400),
            "nothing else is known"
        );
    }
}
