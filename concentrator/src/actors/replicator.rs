//! The one writer of a slot's records: takes what many actors have queued and commits it together.
//!
//! While one group is being committed the next one gathers; a record waits for at most one commit before its own. In a
//! cluster groups that are full need not wait for each other; records of the same name always do.
//!
//! Every commit carries the slot's fence. One that is refused because the fence does not hold means that the slot is
//! another node's, or that its owner key has gone with a lease, or that a new epoch has begun: the shell is told, and
//! what was refused waits until the slot is put down or its fence holds again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::{
    Actor, ActorContext as _, ActorFutureExt as _, AsyncContext as _, Context, Handler, Message,
    WrapFuture as _,
};
use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use store::{Op, Txn};
use tokio::sync::RwLockReadGuard;

use super::{Fault, Gone, Who, fail, panicked};
use crate::checkpoint::Checkpointer;
use crate::node::Node;
use crate::records::{Change, GROUP_MAX, GROUP_OTHERS, Group};
use crate::recovery;
use crate::slot::{Fence, Slot, Standing};

/// Wait before a commit that failed is tried again; doubles up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(10);
/// The longest wait between two tries.
const RETRY_MAX: Duration = Duration::from_secs(2);

/// Groups under way at the same time in a cluster, where a commit is mostly waiting for members and their disks.
const ABREAST: usize = 4;

/// Wait before a commit that was refused is tried again.
const REFUSED: Duration = Duration::from_millis(50);

/// Writes records.
pub struct Replicator {
    node: Arc<Node>,
    slot: Arc<Slot>,
    checkpointer: Checkpointer,
}

/// Write a checkpoint now; everything again if the fence is another one. Answered by whether all of it is queued.
#[derive(Message, Clone, Copy, Debug)]
#[rtype(result = "bool")]
pub(crate) struct CheckpointNow {
    pub(crate) again: bool,
}

impl Replicator {
    /// Supervised by Root.
    #[must_use]
    pub fn new(node: Arc<Node>, slot: Arc<Slot>) -> Self {
        Self {
            node,
            slot,
            checkpointer: Checkpointer::default(),
        }
    }
}

impl Replicator {
    /// True when all of it is queued.
    fn checkpoint(&mut self) -> bool {
        // What is restored still says what the last owner said.
        if matches!(
            self.slot.standing(),
            Standing::Serving | Standing::Holding | Standing::Frozen
        ) {
            let round = self.checkpointer.round(&self.slot);
            self.node.metrics.checkpoint(round);
            return round.refused == 0;
        }
        false
    }
}

impl Actor for Replicator {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        let pump = pump(Arc::clone(&self.node), Arc::clone(&self.slot));
        context.run_interval(self.slot.checkpoint_every, |this, _| {
            this.checkpoint();
        });
        // It ends with the slot.
        context.spawn(pump.into_actor(self).map(|(), _, context| context.stop()));
    }

    fn stopped(&mut self, _: &mut Context<Self>) {
        self.node.tell_root(Gone {
            who: Who::Replicator(self.slot.id),
            panicked: panicked(),
        });
    }
}

impl Handler<CheckpointNow> for Replicator {
    type Result = bool;

    fn handle(&mut self, CheckpointNow { again }: CheckpointNow, _: &mut Context<Self>) -> bool {
        if again {
            self.checkpointer.forget();
        }
        self.checkpoint()
    }
}

impl Handler<Fault> for Replicator {
    type Result = ();

    fn handle(&mut self, _: Fault, _: &mut Context<Self>) {
        fail()
    }
}

/// What became of a group.
enum Outcome {
    Stored,
    /// The fence that it was sent with did not hold.
    Refused(Option<Arc<Fence>>),
    Failed,
}

async fn pump(node: Arc<Node>, slot: Arc<Slot>) {
    let mut retry = RETRY_MIN;
    let most = match &node.config.cluster {
        Some(cluster) => (cluster.etcd_max_txn_ops as usize).saturating_sub(GROUP_OTHERS),
        None => GROUP_MAX,
    };
    let abreast = if node.config.cluster.is_some() { ABREAST } else { 1 };
    let mut under_way = FuturesUnordered::new();
    // Nothing is sent before.
    let mut paused = None::<tokio::time::Instant>;
    loop {
        let is_closed = slot.records.is_closed();
        if is_closed && under_way.is_empty() {
            return;
        }
        // One more beside others when it is worth its while.
        let least = if under_way.is_empty() {
            1
        } else {
            most.clamp(1, GROUP_MAX)
        };
        let room = under_way.len() < abreast && !is_closed;
        let ready = async {
            if let Some(until) = paused {
                tokio::time::sleep_until(until).await;
            }
            slot.records.wait(least).await;
            // Before the fence is read: it does not change while the transaction runs.
            slot.turn().await
        };
        let outcome = tokio::select! {
            biased;
            Some(outcome) = under_way.next(), if !under_way.is_empty() => outcome,
            turn = ready, if room => {
                paused = None;
                let group = slot.records.take_at_most(most);
                if !group.is_empty() {
                    under_way.push(commit(&node, &slot, group, turn));
                }
                continue;
            }
        };
        let pause = match outcome {
            Outcome::Stored => {
                retry = RETRY_MIN;
                continue;
            }
            // Set while the transaction ran: the shell knows better than the store's answer.
            Outcome::Refused(fence) if slot.fence() != fence => continue,
            Outcome::Refused(_) => {
                if !slot.is_lost() {
                    node.metrics.fenced();
                    tracing::warn!(slot = slot.id, "the store says that the slot is not ours");
                    slot.lose();
                }
                REFUSED
            }
            Outcome::Failed => {
                let pause = retry;
                retry = (retry * 2).min(RETRY_MAX);
                pause
            }
        };
        paused = Some(tokio::time::Instant::now() + pause);
    }
}

/// Stores a group. One that is not stored is queued again; answers that wait for its records are not sent.
async fn commit(node: &Node, slot: &Slot, group: Group, turn: RwLockReadGuard<'_, ()>) -> Outcome {
    let fence = slot.fence();
    let (begun, count) = (Instant::now(), group.len());
    let outcome = node.sa_store.txn(transaction(&group, fence.as_deref())).await;
    drop(turn);
    match outcome {
        Ok(outcome) if outcome.committed => {
            node.metrics.commit(begun.elapsed().as_secs_f64(), count as u64);
            node.writes.group(&group, slot.prefix());
            if slot.is_lost() {
                tracing::info!(slot = slot.id, "records of the slot are taken again");
                recovery::regain(slot);
            }
            group.committed();
            Outcome::Stored
        }
        Ok(_) => Outcome::Refused(fence),
        Err(error) => {
            tracing::warn!(%error, records = count, "records could not be stored, trying again");
            Outcome::Failed
        }
    }
}

fn transaction(group: &Group, fence: Option<&Fence>) -> Txn {
    let mut txn = Txn::new();
    for (name, change) in group.changes() {
        txn.then.push(match change {
            Change::Put(value) => Op::Put {
                key: name.to_owned(),
                value: value.clone(),
                lease: None,
            },
            Change::Delete => Op::Delete { key: name.to_owned() },
        });
    }
    match fence {
        Some(fence) => fence.apply(txn),
        None => txn,
    }
}
