//! All records of a slot once more: under another fence, or sealed under another key.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::actors::{CheckpointNow, Resave};
use crate::slot::{Fence, Slot};

/// How long it may take until everything is queued: a full queue has to be written first.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks for sessions whose actor is being made again.
const PAUSE: Duration = Duration::from_millis(20);

/// Not everything is queued: the slot is not here any more, or the store is too slow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{missing} sessions have not queued their records again, or the checkpoint is not queued")]
pub struct Unwritten {
    /// Sessions without a new record.
    pub missing: usize,
}

/// Asks for what is queued of one session: the SA record, and a ceiling for each child.
pub(crate) struct Receipt {
    session: u64,
    parts: AtomicUsize,
    sender: mpsc::UnboundedSender<u64>,
}

impl Receipt {
    fn new(session: u64, sender: mpsc::UnboundedSender<u64>) -> Arc<Self> {
        Arc::new(Self {
            session,
            parts: AtomicUsize::new(1),
            sender,
        })
    }

    /// There are more parts to come.
    pub(crate) fn expect(&self, parts: usize) {
        self.parts.fetch_add(parts, Ordering::AcqRel);
    }

    /// One part is queued.
    pub(crate) fn queued(&self) {
        if self.parts.fetch_sub(1, Ordering::AcqRel) == 1 {
            // Whoever asked may have given up.
            let _ = self.sender.send(self.session);
        }
    }
}

/// Goes on with a later generation under another fence, at once, and writes everything again while the returned future
/// runs: the store was put back to an older state. It is durable when `slot.records.flush()` returns after that.
///
/// # Errors
/// See [`rewrite`].
#[must_use = "nothing is written again unless this is awaited"]
pub fn refence(
    slot: &Arc<Slot>,
    generation: u64,
    fence: Option<Fence>,
) -> impl Future<Output = Result<usize, Unwritten>> + Send + use<> {
    slot.set_generation(generation);
    slot.set_fence(fence);
    let slot = Arc::clone(slot);
    async move { rewrite(&slot).await }
}

/// Queues every record of a live session, every ceiling and the checkpoint again: sealed under the newest key. All of it
/// is queued when this returns, and durable when `slot.records.flush()` returns after that. Gives the number of sessions.
///
/// A session whose actor is being made again is waited for, like one that finds the queue full.
///
/// # Errors
/// [`Unwritten`] after a minute, or when the slot has ended.
pub async fn rewrite(slot: &Arc<Slot>) -> Result<usize, Unwritten> {
    let end = Instant::now() + PATIENCE;
    let mut done: HashSet<u64> = HashSet::new();
    loop {
        let (sender, mut receiver) = mpsc::unbounded_channel();
        let mut missing = 0;
        for session in &slot.sessions {
            if done.contains(session.key()) {
                continue;
            }
            missing += 1;
            if let Some(addr) = session.addr.load_full() {
                // One for each session: those who do not answer have died, and are asked again.
                addr.do_send(Resave(Receipt::new(*session.key(), sender.clone())));
            }
        }
        drop(sender);
        if missing == 0 {
            break;
        }
        while let Ok(Some(session)) = tokio::time::timeout_at(end, receiver.recv()).await {
            missing -= usize::from(done.insert(session));
        }
        if missing > 0 {
            give_up(slot, end, missing)?;
            tokio::time::sleep(PAUSE).await;
        }
    }
    let mut again = true;
    while let Some(replicator) = slot.replicator.load_full() {
        if replicator.send(CheckpointNow { again }).await == Ok(true) {
            break;
        }
        again = false;
        give_up(slot, end, 0)?;
        tokio::time::sleep(PAUSE).await;
    }
    Ok(done.len())
}

fn give_up(slot: &Slot, end: Instant, missing: usize) -> Result<(), Unwritten> {
    if slot.records.is_closed() || Instant::now() >= end {
        return Err(Unwritten { missing });
    }
    Ok(())
}
