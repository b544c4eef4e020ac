//! Carries the core's decisions out as far as they can wait for a disk or for etcd: one task, nothing in it waits.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use cluster::{Input, Output};
use store::{Store as _, StoreError};
use tokio::sync::{Notify, mpsc, watch};

use super::lease::Lease;
use super::marks::Marks;
use super::shared::Shared;
use super::warden::{Task, Way};

/// The task's own.
pub struct Router {
    /// What all share.
    pub shared: Arc<Shared>,
    /// The node's lease.
    pub lease: Lease,
    /// The slots' tasks.
    pub ways: BTreeMap<u8, Way>,
    /// Rung when what is followed is to be told again.
    pub again: Arc<Notify>,
    /// The marks for the disk.
    pub marks: watch::Sender<Marks>,
}

impl Router {
    /// Carries decisions out until the core ends.
    pub async fn run(self, mut outputs: mpsc::UnboundedReceiver<Output>) {
        while let Some(output) = outputs.recv().await {
            self.carry_out(output);
        }
    }

    fn carry_out(&self, output: Output) {
        match output {
            // Done where they were made.
            Output::Send { .. } | Output::Until(_) => {}
            Output::Txn { ticket, txn } => self.transaction(ticket, txn),
            Output::GrantLease { ttl } => self.lease.grant(ttl),
            Output::KeepAlive => self.lease.keep_alive(),
            Output::RevokeLease => self.lease.revoke(),
            Output::Relist => self.again.notify_one(),
            Output::Serve {
                slot,
                generation,
                epoch,
                keep_records,
                planned,
            } => self.tell(
                slot,
                Task::Serve {
                    generation,
                    epoch,
                    keep_records,
                    planned,
                    since: Instant::now(),
                },
            ),
            Output::Freeze { slot, generation } => self.tell(slot, Task::Freeze(generation)),
            Output::Thaw { slot, generation } => self.tell(slot, Task::Thaw(generation)),
            Output::Drop { slot, generation, .. } => self.tell(slot, Task::Drop(generation)),
            Output::Refence {
                slot,
                generation,
                epoch,
            } => self.tell(slot, Task::Refence { generation, epoch }),
            Output::Static(on) => self.fail_static(on),
            Output::Marks { epoch, generations } => {
                self.marks.send_replace(Marks { epoch, generations });
            }
            Output::Done { id, result } => self.shared.done(id, result),
            Output::Event(event) => self.shared.happened(event),
        }
    }

    fn tell(&self, slot: u8, task: Task) {
        match self.ways.get(&slot) {
            Some(way) => way.tell(task),
            None => tracing::error!(slot, ?task, "the slot is not in the table"),
        }
    }

    fn transaction(&self, ticket: u64, txn: store::Txn) {
        let shared = Arc::clone(&self.shared);
        self.shared.runtime.spawn(async move {
            let begun = Instant::now();
            let outcome = shared.stores.control.txn(txn).await;
            shared.metrics.decision(begun.elapsed(), &outcome);
            if let Err(error @ StoreError::WentBack { .. }) = &outcome {
                tracing::error!(%error, "the store is not what it was");
            }
            shared.pacemaker().input(Input::TxnDone { ticket, outcome });
        });
    }

    fn fail_static(&self, on: bool) {
        self.shared.fail_static.store(on, Ordering::Release);
        for slot in self.shared.node.slots.all() {
            slot.records.set_static(on, slot.logins_without_store);
        }
    }
}

/// Writes marks to the disk as they come; what comes meanwhile is written next.
pub async fn keep_marks(mut marks: watch::Receiver<Marks>, state_directory: std::path::PathBuf) {
    while marks.changed().await.is_ok() {
        let now = marks.borrow_and_update().clone();
        let directory = state_directory.clone();
        let written = tokio::task::spawn_blocking(move || now.write(&directory)).await;
        match written {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!(%error, "an older store could go unnoticed"),
            Err(error) => tracing::error!(%error, "an older store could go unnoticed"),
        }
    }
}
