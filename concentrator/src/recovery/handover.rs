//! A slot comes and goes while the node runs: it serves, is frozen for its next owner, and is put down.

use std::sync::Arc;
use std::time::Duration;

use actix::ArbiterHandle;
use dataplane::WorkerCommand;
use futures::future::join_all;
use tokio::sync::oneshot;

use super::restore::workers_obeyed;
use crate::actors::{CheckpointNow, PutDown, Resume, Vanish};
use crate::node::Node;
use crate::records::Closed;
use crate::slot::{Slot, Standing};

/// How long a hand-over waits for those who are logging in: most logins take two round trips.
pub const HALF_OPEN: Duration = Duration::from_millis(500);
/// How long the workers may take to say how far their windows have come.
const WINDOWS: Duration = Duration::from_millis(100);
/// How long the actors of a slot may take to go: they only have to be heard.
const GONE: Duration = Duration::from_secs(2);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(1);
/// What watchers are told of sessions that go with their slot.
const MOVED: &str = "served by another node";

/// The slot serves from here on: what came due while its sessions were restored, or while it was frozen, is done.
pub fn serve(slot: &Slot) {
    slot.set_standing(Standing::Serving);
    resume(slot);
}

/// The slot is this node's after all: its IKE SAs go on if it serves.
pub(crate) fn regain(slot: &Slot) {
    slot.regain();
    if slot.serving() {
        resume(slot);
    }
}

fn resume(slot: &Slot) {
    for actor in &slot.actors {
        // One for each SA.
        actor.value().do_send(Resume);
    }
}

/// A hand-over that was begun with [`freeze`] does not happen.
pub fn thaw(slot: &Slot) {
    if matches!(slot.standing(), Standing::Holding | Standing::Frozen) {
        serve(slot);
    }
}

/// Before a planned hand-over: no IKE message is processed any more, every record and a last checkpoint are durable when
/// this returns. ESP goes on. [`thaw`] takes it back.
///
/// First those who are logging in may finish, for at most `half_open`, while nobody new is heard: a client repeats its
/// first message soon, and the next owner answers; one that has lost its half-open IKE SA knows only after all its
/// repetitions.
///
/// # Errors
/// [`Closed`]: the slot was lost meanwhile.
pub async fn freeze(node: &Arc<Node>, slot: &Arc<Slot>, half_open: Duration) -> Result<(), Closed> {
    slot.set_standing(Standing::Holding);
    // What was let in before has been counted when the front has done something else.
    passed(&node.arbiters.front()).await;
    let begun = tokio::time::Instant::now();
    while slot.half_open() > 0 && slot.standing() == Standing::Holding && begun.elapsed() < half_open {
        tokio::time::sleep(PAUSE).await;
    }
    node.metrics.cut_off(slot.half_open());
    slot.set_standing(Standing::Frozen);
    // What an actor is in the middle of is done when its arbiter has done something else.
    join_all(node.arbiters.control().iter().map(passed)).await;
    // Answers that wait for their record leave while the queue empties.
    slot.records.flush().await?;
    let _ = tokio::time::timeout(WINDOWS, windows(node, slot)).await;
    if let Some(replicator) = slot.replicator.load_full() {
        let _ = replicator.send(CheckpointNow { again: false }).await;
    }
    slot.records.flush().await
}

/// Waits until an arbiter has done what it is at.
async fn passed(arbiter: &ArbiterHandle) {
    let (send, receive) = oneshot::channel::<()>();
    if arbiter.spawn_fn(move || drop(send)) {
        let _ = receive.await;
    }
}

/// Asks the workers how far the windows of a slot have come.
async fn windows(node: &Arc<Node>, slot: &Arc<Slot>) {
    let mut answers = Vec::new();
    for (index, _) in (0_u8..).zip(node.workers()) {
        let (send, receive) = oneshot::channel();
        node.command(
            index,
            WorkerCommand::Checkpoint(Box::new(move |stats| {
                let _ = send.send(stats);
            })),
        );
        answers.push(receive);
    }
    for stats in join_all(answers).await.into_iter().flatten().flatten() {
        if let Some(child) = slot.children.get(&stats.spi_in) {
            child
                .highest_in
                .fetch_max(stats.highest_in_seq, std::sync::atomic::Ordering::AcqRel);
        }
    }
}

/// Stops everything of a slot that is, or will be, another node's: no peer is told, nothing is deleted from the store,
/// addresses stay leased there. Its SAs are out of the workers and of the directory when this returns. The slot ends.
pub async fn put_down(node: &Arc<Node>, slot: &Arc<Slot>) {
    slot.set_standing(Standing::Down);
    slot.records.close();
    for (index, _) in (0_u8..).zip(node.workers()) {
        node.command(index, WorkerCommand::RemoveSlot { slot: slot.id });
    }
    let begun = tokio::time::Instant::now();
    loop {
        for actor in &slot.actors {
            // Bounded by the SAs of the slot; a second one finds nobody.
            actor.value().do_send(PutDown { reason: MOVED });
        }
        join_all(node.arbiters.control().iter().map(passed)).await;
        tokio::time::sleep(PAUSE).await;
        slot.actors.retain(|_, addr| addr.connected());
        if slot.actors.is_empty() || begun.elapsed() > GONE {
            break;
        }
    }
    // Those whose actor had just panicked.
    let left: Vec<_> = slot.sessions.iter().map(|session| Arc::clone(&session)).collect();
    for session in left {
        let id = session.facts.id;
        slot.sessions.remove(&id);
        if node.sessions.remove_exactly(&session, MOVED) {
            let _ = node.authenticator.take(id);
            node.metrics.session(&session.facts.tenant, -1);
        }
    }
    let orphans: Vec<_> = slot.children.iter().map(|child| Arc::clone(&child)).collect();
    for child in orphans {
        let spi_in = child.sa.spi_in;
        slot.children.remove(&spi_in);
        node.children
            .remove_if(&spi_in, |_, found| Arc::ptr_eq(found, &child));
        if let Some(addr) = child.addr.load_full() {
            addr.do_send(Vanish);
        }
    }
    workers_obeyed(node).await;
    if node
        .slots
        .get(slot.id)
        .is_some_and(|present| Arc::ptr_eq(&present, slot))
    {
        node.slots.end(slot.id);
    }
}
