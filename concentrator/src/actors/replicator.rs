//! The one writer of records: takes what many actors have queued and commits it together.
//!
//! While one group is being committed the next one gathers; a record waits for at most one commit before its own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::{Actor, AsyncContext as _, Context, Handler, WrapFuture as _};
use store::{Op, Txn};

use super::{Fault, Gone, Who, fail, panicked};
use crate::node::Node;
use crate::records::{Change, Group};

/// Wait before a commit that failed is tried again; doubles up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_millis(10);
/// The longest wait between two tries.
const RETRY_MAX: Duration = Duration::from_secs(2);

/// Writes records.
pub struct Replicator {
    node: Arc<Node>,
}

impl Replicator {
    /// Supervised by Root.
    #[must_use]
    pub fn new(node: Arc<Node>) -> Self {
        Self { node }
    }
}

impl Actor for Replicator {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        context.spawn(pump(Arc::clone(&self.node)).into_actor(self));
    }

    fn stopped(&mut self, _: &mut Context<Self>) {
        self.node.tell_root(Gone {
            who: Who::Replicator,
            panicked: panicked(),
        });
    }
}

impl Handler<Fault> for Replicator {
    type Result = ();

    fn handle(&mut self, _: Fault, _: &mut Context<Self>) {
        fail()
    }
}

async fn pump(node: Arc<Node>) {
    let mut retry = RETRY_MIN;
    loop {
        node.records.wait().await;
        let group = node.records.take();
        if group.is_empty() {
            continue;
        }
        let (begun, count) = (Instant::now(), group.len());
        match node.sa_store.txn(transaction(&group)).await {
            Ok(_) => {
                node.metrics.commit(begun.elapsed().as_secs_f64(), count as u64);
                group.committed();
                retry = RETRY_MIN;
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

fn transaction(group: &Group) -> Txn {
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
    txn
}
