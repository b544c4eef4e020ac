//! The one writer of a slot's records: takes what many actors have queued and commits it together.
//!
//! While one group is being committed the next one gathers; a record waits for at most one commit before its own.
//! Every commit carries the slot's fence. One that is refused because the fence does not hold means that the slot is
//! another node's, or that its owner key has gone with a lease, or that a new epoch has begun: the shell is told, and
//! what was refused waits until the slot is put down or its fence holds again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::{
    Actor, ActorContext as _, ActorFutureExt as _, AsyncContext as _, Context, Handler, Message,
    WrapFuture as _,
};
use store::{Op, Txn};

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

async fn pump(node: Arc<Node>, slot: Arc<Slot>) {
    let mut retry = RETRY_MIN;
    let most = match &node.config.cluster {
        Some(cluster) => (cluster.etcd_max_txn_ops as usize).saturating_sub(GROUP_OTHERS),
        None => GROUP_MAX,
    };
    loop {
        slot.records.wait().await;
        if slot.records.is_closed() {
            return;
        }
        // Before the fence is read: it does not change while the transaction runs.
        let turn = slot.turn().await;
        let group = slot.records.take_at_most(most);
        if group.is_empty() {
            continue;
        }
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
                    recovery::regain(&slot);
                }
                group.committed();
                retry = RETRY_MIN;
            }
            Ok(_) => {
                // The fence was set while the transaction ran: the shell knows better than the store's answer.
                drop(group);
                if slot.fence() == fence {
                    if !slot.is_lost() {
                        node.metrics.fenced();
                        tracing::warn!(
                            slot = slot.id,
                            records = count,
                            "the store says that the slot is not ours"
                        );
                        slot.lose();
                    }
                    tokio::time::sleep(REFUSED).await;
                }
            }
            Err(error) => {
                // Dropping the group queues its records again; answers that wait for them are not sent.
                drop(group);
                tracing::warn!(%error, records = count, "records could not be stored, trying again");
                tokio::time::sleep(retry).await;
                retry = (retry * 2).min(RETRY_MAX);
            }
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
