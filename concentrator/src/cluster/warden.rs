//! One task a slot: takes it, freezes it, puts it down, as the core says, one thing after the other.
//!
//! ```text
//!  Serve ─► data keys, list, what differs ─► restore, pools ─► addresses ─► Ready        (Failed at any step)
//!  Freeze ─► IKE stands still, all records durable ─► Frozen
//!  Drop ─► addresses (gone already), SAs ─► Stopped
//! ```
//! What is being taken when a drop arrives is given up at its next step: the drop is known before its turn comes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cluster::{Fence, Input};
use store::{Op, Store as _, Txn};
use tokio::sync::mpsc;

use super::fences::{ClusterGenerations, comparisons};
use super::hook::Call;
use super::replica;
use super::secrets::{SlotSealer, slot_vault};
use super::shared::Shared;
use crate::config::SlotTable;
use crate::recovery::{self, Ages, Restore, Times};
use crate::slot::{Slot, SlotStart};

/// Between two checkpoints: what can be replayed after a takeover lies within one.
const CHECKPOINT: Duration = Duration::from_secs(1);

/// Between two reports that writes of a slot are refused.
const DOUBTED: Duration = Duration::from_millis(250);
/// How long it is tried to write a slot into a store that was put back.
const REFENCED: Duration = Duration::from_secs(30);
/// When it is looked whether sessions that were taken over may still be: what was configured while they had no owner is
/// known here by then.
const SETTLED: Duration = Duration::from_secs(1);
/// Between two tries to read the leases of addresses; doubles.
const RETRY_MIN: Duration = Duration::from_millis(100);
/// The longest.
const RETRY_MAX: Duration = Duration::from_secs(5);

/// What a slot's task is told.
#[derive(Debug)]
pub enum Task {
    /// Take it.
    Serve {
        /// Its generation.
        generation: u64,
        /// The epoch.
        epoch: u64,
        /// Whether the records in the store are good.
        keep_records: bool,
        /// Whether it is handed over.
        planned: bool,
        /// When the core decided.
        since: Instant,
    },
    /// Let its IKE stand still.
    Freeze(u64),
    /// Let its IKE go on.
    Thaw(u64),
    /// Put it down.
    Drop(u64),
    /// Go on under another fence, and write everything again.
    Refence {
        /// Its new generation.
        generation: u64,
        /// The new epoch.
        epoch: u64,
    },
}

/// A slot's task.
pub struct Warden {
    shared: Arc<Shared>,
    table: SlotTable,
    /// Generations up to this are over.
    over: Arc<AtomicU64>,
    /// Its data keys while it is here.
    sealer: Option<Arc<SlotSealer>>,
}

/// The way to a slot's task.
pub struct Way {
    sender: mpsc::UnboundedSender<Task>,
    over: Arc<AtomicU64>,
}

impl Way {
    /// Tells the task. Bounded by the core, which waits for the answer to each.
    pub fn tell(&self, task: Task) {
        if let Task::Drop(generation) = task {
            self.over.fetch_max(generation, Ordering::AcqRel);
        }
        let _ = self.sender.send(task);
    }
}

impl Warden {
    /// Starts the task of a slot.
    pub fn start(shared: Arc<Shared>, table: SlotTable) -> Way {
        let (sender, mut receiver) = mpsc::unbounded_channel();
        let over = Arc::new(AtomicU64::new(0));
        let mut warden = Self {
            shared: Arc::clone(&shared),
            table,
            over: Arc::clone(&over),
            sealer: None,
        };
        shared.runtime.spawn(async move {
            let mut next = None;
            loop {
                let task = match next.take() {
                    Some(task) => Some(task),
                    None => receiver.recv().await,
                };
                match task {
                    // It waits for the store, which may not answer for long: what the core wants then comes first.
                    Some(Task::Freeze(generation)) => {
                        tokio::select! {
                            () = warden.freeze(generation) => {}
                            task = receiver.recv() => match task {
                                Some(task) => next = Some(task),
                                None => return,
                            },
                        }
                    }
                    Some(task) => warden.carry_out(task).await,
                    None => return,
                }
            }
        });
        Way { sender, over }
    }

    async fn carry_out(&mut self, task: Task) {
        let slot = self.table.id;
        match task {
            Task::Serve {
                generation,
                epoch,
                keep_records,
                planned,
                since,
            } => {
                let fence = self.shared.fence(slot, generation, epoch);
                match self.serve(&fence, keep_records, planned, since).await {
                    Ok(()) => self.tell(Input::Ready { slot, generation }),
                    Err(_) if self.is_over(generation) => {}
                    Err(error) => {
                        self.shared.addresses.down(slot, generation);
                        self.put_down(generation).await;
                        let reason = format!("{error:#}");
                        tracing::error!(slot, generation, reason, "the slot cannot be served");
                        self.tell(Input::Failed {
                            slot,
                            generation,
                            reason,
                        });
                    }
                }
            }
            Task::Freeze(generation) => self.freeze(generation).await,
            Task::Thaw(_) => {
                if let Some(present) = self.present() {
                    recovery::thaw(&present);
                }
            }
            Task::Drop(generation) => {
                // The thread of the core has ordered the addresses down; here is only waited for it.
                self.shared.addresses.done().await;
                self.put_down(generation).await;
                self.call_hook("release", generation);
                self.shared.replica.follow(slot);
                self.tell(Input::Stopped { slot, generation });
            }
            Task::Refence { generation, epoch } => {
                let fence = self.shared.fence(slot, generation, epoch);
                let begun = Instant::now();
                while let Err(error) = self.refence(&fence).await {
                    if self.is_over(generation) {
                        break;
                    }
                    let reason = format!("{error:#}");
                    if begun.elapsed() > REFENCED {
                        self.tell(Input::Failed {
                            slot,
                            generation,
                            reason,
                        });
                        break;
                    }
                    // The store has nothing of its sessions any more: what is live here is all that there is of them.
                    tracing::warn!(
                        slot,
                        generation,
                        reason,
                        "the slot is not in the store yet, trying again"
                    );
                    tokio::time::sleep(DOUBTED).await;
                }
            }
        }
    }

    /// Takes the slot, in the order in which nothing can go wrong twice: keys, records, SAs, pools, addresses.
    async fn serve(
        &mut self,
        fence: &Fence,
        keep_records: bool,
        planned: bool,
        since: Instant,
    ) -> anyhow::Result<()> {
        let shared = Arc::clone(&self.shared);
        let (node, slot) = (&shared.node, self.table.id);
        let generation = fence.generation;
        if let Some(old) = self.present() {
            // An earlier generation of our own that was not put down: it must not meet its successor.
            recovery::put_down(node, &old).await;
        }
        if !keep_records {
            self.delete_records(fence).await?;
        }
        let keys = shared.keys.load_full();
        let (vault, read) = tokio::try_join!(
            async {
                slot_vault(&*shared.stores.control, &keys, slot, fence)
                    .await
                    .map_err(anyhow::Error::from)
            },
            async { shared.replica.read(slot).await.map_err(anyhow::Error::from) },
        )?;
        self.check(generation)?;
        let listed = since.elapsed();
        let sealer = SlotSealer::new(vault);
        self.sealer = Some(Arc::clone(&sealer));
        shared.sealers.insert(slot, Arc::clone(&sealer));
        shared.fences.set(fence.clone());
        let cluster = &shared.config;
        let share = tenants::Share::of_slot(slot, cluster.highest_slot());
        if let Some(share) = share {
            // What this node knew of its leases is of an earlier time.
            node.registry.forget_share(share);
        }
        let present = node.slots.begin(
            slot,
            SlotStart {
                generation,
                prefix: cluster::keys::slot(slot),
                fence: Some(comparisons(fence)),
                sealer,
                generations: Arc::new(ClusterGenerations {
                    store: Arc::clone(&shared.stores.control) as Arc<dyn store::Store>,
                    fences: Arc::clone(&shared.fences),
                    pacemaker: shared.pacemaker().clone(),
                }),
                numbered: true,
                share,
                checkpoint: CHECKPOINT,
                records_queued: node.config.limits.records_queued as usize,
                logins_without_store: cluster.logins_without_store
                    == crate::config::LoginsWithoutStore::Admit,
            },
        );
        self.watch_fence(&present, generation);
        let (fetched, total) = (read.fetched, read.records.len());
        let ages = Ages {
            seen: read.ages,
            most_later: replica::LOST_MAX,
        };
        let report = recovery::restore_slot(
            node,
            &present,
            Restore {
                records: read.records,
                elapsed_from_records: true,
                ages,
            },
        )
        .await;
        self.check(generation)?;
        let restored = since.elapsed();
        present.records.set_static(
            shared.fail_static.load(Ordering::Acquire),
            present.logins_without_store,
        );
        recovery::serve(&present);
        shared
            .addresses
            .up(slot, generation)
            .await
            .map_err(anyhow::Error::msg)?;
        let ready = since.elapsed();
        self.call_hook("acquire", generation);
        self.read_leases(&present);
        self.end_orphans(&present);
        if let Some(pace) = shared.pace.clone() {
            let renewal = recovery::renew(Arc::clone(node), Arc::clone(&present), pace, Times::default());
            shared.runtime.spawn(renewal);
        }
        shared.metrics.takeover(planned, listed, restored, ready);
        tracing::info!(
            slot,
            generation,
            planned,
            records = total,
            fetched,
            restored = report.restored,
            dropped = report.dropped,
            listed_ms = millis(listed),
            restored_ms = millis(restored),
            ready_ms = millis(ready),
            "the slot is served"
        );
        Ok(())
    }

    /// Reads the leases of the slot's share in the background: logins wait for their pool's by themselves.
    fn read_leases(&self, present: &Arc<Slot>) {
        let (present, node) = (Arc::clone(present), Arc::clone(&self.shared.node));
        self.shared.runtime.spawn(async move {
            let Some(share) = present.share() else { return };
            let mut pause = RETRY_MIN;
            while !present.is_ended() {
                let read = match node.registry.refresh_share(share).await {
                    // What no restored session has is free again.
                    Ok(_) => node
                        .registry
                        .sweep_share(share, &present.fenced())
                        .await
                        .map(|_| ())
                        .map_err(|error| error.to_string()),
                    Err(error) => Err(error.to_string()),
                };
                let Err(error) = read else { return };
                tracing::warn!(
                    slot = present.id,
                    error,
                    "leases of addresses cannot be read, trying again"
                );
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(RETRY_MAX);
            }
        });
    }

    /// Ends sessions whose tenant or connection was deleted or disabled while they were on their way here.
    fn end_orphans(&self, present: &Arc<Slot>) {
        let (present, node) = (Arc::clone(present), Arc::clone(&self.shared.node));
        self.shared.runtime.spawn(async move {
            tokio::time::sleep(SETTLED).await;
            if !present.is_ended() {
                crate::revocation::look_at(&node, &present);
            }
        });
    }

    /// Says so when a write of the slot is refused.
    fn watch_fence(&self, present: &Arc<Slot>, generation: u64) {
        let (present, shared) = (Arc::clone(present), Arc::clone(&self.shared));
        let slot = self.table.id;
        let fences = Arc::clone(&self.shared.fences);
        self.shared.runtime.spawn(async move {
            loop {
                tokio::select! {
                    () = present.lost() => {
                        shared.metrics.fenced();
                        let generation = fences.get(slot).map_or(generation, |fence| fence.generation);
                        shared.pacemaker().input(Input::Fenced { slot, generation });
                    }
                    () = ended(&present) => return,
                }
                // The core finds out whose it is; as long as writes are refused it is asked to.
                tokio::time::sleep(DOUBTED).await;
            }
        });
    }

    async fn freeze(&self, generation: u64) {
        let slot = self.table.id;
        let Some(present) = self.present() else {
            return self.tell(Input::Failed {
                slot,
                generation,
                reason: "it is not here".to_owned(),
            });
        };
        // Behind a dead link nobody can finish a login.
        let half_open = match self.shared.addresses.linked() {
            true => recovery::HALF_OPEN,
            false => Duration::ZERO,
        };
        match recovery::freeze(&self.shared.node, &present, half_open).await {
            Ok(()) => self.tell(Input::Frozen { slot, generation }),
            // The core gives the hand-over up when nothing comes.
            Err(error) => tracing::warn!(slot, generation, %error, "the slot cannot be handed over"),
        }
    }

    async fn refence(&self, fence: &Fence) -> anyhow::Result<()> {
        let slot = self.table.id;
        let present = self.present().ok_or_else(|| anyhow::anyhow!("it is not here"))?;
        self.delete_records(fence).await?;
        self.shared.fences.set(fence.clone());
        let keys = self.shared.keys.load_full();
        super::secrets::keep_root(&*self.shared.stores.control, &self.shared.root, &keys).await?;
        if let Some(sealer) = &self.sealer {
            // The store may be another one: it gets the data keys that the records are sealed with.
            let wrapped = sealer.with(|vault| vault.wrap(&keys))?;
            let txn = fence
                .apply(Txn::new())
                .put(cluster::keys::data_keys(slot), wrapped);
            let written = self.shared.stores.control.txn(txn).await?;
            anyhow::ensure!(written.committed, "the slot is another node's");
        }
        let rewritten = recovery::refence(&present, fence.generation, Some(comparisons(fence)));
        // A drop must not wait for it.
        self.shared.runtime.spawn(async move {
            match rewritten.await {
                Ok(sessions) => tracing::info!(slot, sessions, "everything is written again"),
                Err(error) => tracing::warn!(slot, %error, "not everything is written again"),
            }
        });
        Ok(())
    }

    async fn delete_records(&self, fence: &Fence) -> anyhow::Result<()> {
        let slot = self.table.id;
        let mut txn = fence.apply(Txn::new());
        for prefix in [
            cluster::keys::records(slot),
            cluster::keys::ceilings(slot),
            cluster::keys::checkpoints(slot),
        ] {
            txn.then.push(Op::DeletePrefix { prefix });
        }
        let deleted = self.shared.stores.control.txn(txn).await?;
        anyhow::ensure!(deleted.committed, "the slot is another node's");
        Ok(())
    }

    async fn put_down(&mut self, generation: u64) {
        let slot = self.table.id;
        self.shared.fences.clear(slot, generation);
        self.shared.sealers.remove(&slot);
        self.sealer = None;
        if let Some(present) = self.present() {
            recovery::put_down(&self.shared.node, &present).await;
            if let Some(share) = present.share() {
                self.shared.node.registry.forget_share(share);
            }
        }
    }

    fn present(&self) -> Option<Arc<Slot>> {
        self.shared.node.slots.get(self.table.id)
    }

    fn is_over(&self, generation: u64) -> bool {
        self.over.load(Ordering::Acquire) >= generation
    }

    fn check(&self, generation: u64) -> anyhow::Result<()> {
        anyhow::ensure!(!self.is_over(generation), "it was dropped meanwhile");
        Ok(())
    }

    fn tell(&self, input: Input) {
        self.shared.pacemaker().input(input);
    }

    fn call_hook(&self, action: &'static str, generation: u64) {
        let Some(program) = self.shared.config.hook.clone() else {
            return;
        };
        let addresses: Vec<String> = self.table.addresses.iter().map(ToString::to_string).collect();
        let call = Call {
            program,
            action,
            slot: self.table.id,
            generation,
            addresses: addresses.join(" "),
            pools: self.shared.blocks(self.table.id).join(" "),
            node: self.shared.node.config.node_name.clone(),
        };
        self.shared.runtime.spawn(call.run());
    }
}

async fn ended(slot: &Slot) {
    while !slot.is_ended() {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
