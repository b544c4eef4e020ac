//! The queue of writes: what goes together, what has to wait, and how much may wait.
//!
//! ```text
//!   callers ──► queue ──► up to 63 that do not conflict ──► a free lane ──► one etcd transaction
//! ```
//! With nothing under way a write leaves at once. Otherwise it waits for 64 steps, for the end of what is under way, or
//! for as long as the last transaction took (2 to 10 ms), whichever is first: members that are busy are spared small
//! transactions. Writes that conflict keep the order in which they were asked for.
//!
//! At most [`Limits::QUEUE`] writes of together [`QUEUE_OCTETS`] wait; callers beyond that wait for room. Who has
//! not got his turn within the time of a call is told that the store is not available.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::{Id, JoinHandle, JoinSet};
use tokio::time::{Instant, timeout_at};

use super::commit::{Committer, Lane, Work};
use super::plan::{self, Footprint, Footprints};
use super::settings::EtcdSettings;
use crate::error::StoreError;
use crate::types::{Limits, Txn, TxnOutcome};

/// Octets of writes that may wait.
pub const QUEUE_OCTETS: usize = 64 << 20;
/// Writes that are gathered into one transaction, and steps that need no further gathering.
const BATCH: usize = 64;
/// Steps of a transaction that is made of several writes.
const BATCH_STEPS: usize = 256;
/// Octets of one.
const BATCH_OCTETS: usize = 512 << 10;
/// How long writes are gathered at least while something is under way.
const GATHER_LEAST: Duration = Duration::from_millis(2);
/// And at most.
const GATHER_MOST: Duration = Duration::from_millis(10);
/// How far into the queue one that does not conflict is looked for.
const SCAN: usize = 256;
/// How often those who have left are looked for while nothing moves.
const TICK: Duration = Duration::from_millis(100);

/// A write that waits.
struct Request {
    work: Work,
    footprint: Footprint,
    /// Of its longest list, which the members limit.
    steps: usize,
    /// What it puts and deletes.
    weight: usize,
    octets: usize,
    /// Goes with no other.
    alone: bool,
    /// Set by whoever is first: the dispatcher taking it, or the caller leaving.
    taken: Arc<AtomicBool>,
    since: Instant,
    _room: (OwnedSemaphorePermit, OwnedSemaphorePermit),
}

/// The callers' end.
pub(super) struct Writer {
    sender: mpsc::UnboundedSender<Request>,
    room: Arc<Semaphore>,
    octets: Arc<Semaphore>,
    call_timeout: Duration,
    limits: (usize, usize, usize),
    dispatcher: JoinHandle<()>,
}

impl Writer {
    pub(super) fn start(committer: Committer) -> Self {
        let settings = &committer.members.settings;
        let (sender, receiver) = mpsc::unbounded_channel();
        let limits = limits(settings);
        let call_timeout = settings.call_timeout;
        let lanes = (0..settings.lanes)
            .map(|_| Lane::new(&committer.members))
            .collect();
        let dispatcher = Dispatcher {
            committer: Arc::new(committer),
            receiver,
            queue: VecDeque::new(),
            lanes,
            tasks: JoinSet::new(),
            footprints: HashMap::new(),
            under_way: Footprints::default(),
            weight: 0,
            next: Instant::now(),
        };
        Self {
            sender,
            room: Arc::new(Semaphore::new(Limits::QUEUE)),
            octets: Arc::new(Semaphore::new(QUEUE_OCTETS)),
            call_timeout,
            limits,
            dispatcher: tokio::spawn(dispatcher.run()),
        }
    }

    /// Queues a transaction and waits for its outcome.
    pub(super) async fn run(&self, txn: Txn) -> Result<TxnOutcome, StoreError> {
        let gone = || StoreError::Unavailable {
            reason: "the store has stopped".to_owned(),
        };
        let full = || StoreError::Unavailable {
            reason: "too many writes wait for etcd".to_owned(),
        };
        let octets = plan::octets(&txn);
        let steps = plan::steps(&txn);
        too_large(
            "transaction, for the members' --max-txn-ops",
            steps,
            self.limits.0,
        )?;
        too_large("request", octets, self.limits.1)?;
        let deadline = Instant::now() + self.call_timeout;
        let many = u32::try_from(octets.min(QUEUE_OCTETS)).unwrap_or(u32::MAX);
        let place = timeout_at(deadline, Arc::clone(&self.room).acquire_owned())
            .await
            .map_err(|_| full())?
            .map_err(|_| gone())?;
        let space = timeout_at(deadline, Arc::clone(&self.octets).acquire_many_owned(many))
            .await
            .map_err(|_| full())?
            .map_err(|_| gone())?;
        let (reply, mut answer) = oneshot::channel();
        let taken = Arc::new(AtomicBool::new(false));
        let request = Request {
            footprint: Footprint::of(&txn),
            steps,
            weight: txn.then.len().max(txn.otherwise.len()),
            octets,
            alone: plan::names_lease(&txn) || steps > self.limits.2,
            taken: Arc::clone(&taken),
            since: Instant::now(),
            work: Work { txn, reply },
            _room: (place, space),
        };
        self.sender.send(request).map_err(|_| gone())?;
        let lost = || StoreError::Indeterminate {
            reason: "the store stopped while the write was under way".to_owned(),
        };
        match timeout_at(deadline, &mut answer).await {
            Ok(outcome) => outcome.map_err(|_| lost())?,
            Err(_) if !taken.swap(true, Ordering::AcqRel) => Err(StoreError::Unavailable {
                reason: "the write did not get its turn: etcd does not answer".to_owned(),
            }),
            // It is under way, and its lane answers within the time of a call.
            Err(_) => answer.await.map_err(|_| lost())?,
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.dispatcher.abort();
    }
}

/// Steps of a transaction, octets of a request, and both the number of parts of a transaction of several and the steps
/// of each: the members grant a part what the transaction that it stands in leaves of their limit.
fn limits(settings: &EtcdSettings) -> (usize, usize, usize) {
    let together = BATCH.min(settings.max_txn_ops / 2 - 1);
    (settings.txn_steps(), settings.max_request_octets, together)
}

fn too_large(what: &'static str, size: usize, limit: usize) -> Result<(), StoreError> {
    if size > limit {
        return Err(StoreError::TooLarge { what, size, limit });
    }
    Ok(())
}

struct Dispatcher {
    committer: Arc<Committer>,
    receiver: mpsc::UnboundedReceiver<Request>,
    queue: VecDeque<Request>,
    lanes: Vec<Lane>,
    tasks: JoinSet<Lane>,
    /// What the tasks touch.
    footprints: HashMap<Id, Vec<Footprint>>,
    under_way: Footprints,
    /// Of all that wait.
    weight: usize,
    /// Not before: another look for something to send while something is under way.
    next: Instant,
}

impl Dispatcher {
    async fn run(mut self) {
        loop {
            let due = if self.queue.is_empty() {
                None
            } else if self.lanes.is_empty() {
                Some(Instant::now() + TICK)
            } else {
                Some(self.next)
            };
            let wait = async {
                match due {
                    Some(due) => tokio::time::sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                done = self.tasks.join_next_with_id(), if !self.tasks.is_empty() => {
                    if let Some(done) = done {
                        self.finished(done);
                    }
                    // A lane is free, and perhaps what others waited for is done.
                    self.next = Instant::now();
                }
                request = self.receiver.recv() => match request {
                    Some(request) => self.push(request),
                    None => return,
                },
                () = wait => {}
            }
            while let Ok(request) = self.receiver.try_recv() {
                self.push(request);
            }
            self.dispatch();
        }
    }

    fn push(&mut self, request: Request) {
        if self.queue.is_empty() {
            self.next = request.since + self.gathering();
        }
        self.weight += request.weight;
        self.queue.push_back(request);
    }

    /// How long writes are gathered: no longer than the last transaction took.
    fn gathering(&self) -> Duration {
        let micros = self
            .committer
            .members
            .counters
            .last_commit_micros
            .load(Ordering::Relaxed);
        Duration::from_micros(micros).clamp(GATHER_LEAST, GATHER_MOST)
    }

    fn finished(&mut self, done: Result<(Id, Lane), tokio::task::JoinError>) {
        let (id, lane) = match done {
            Ok((id, lane)) => (id, lane),
            Err(error) => {
                tracing::error!(%error, "a writer to etcd ended");
                (error.id(), Lane::new(&self.committer.members))
            }
        };
        self.lanes.push(lane);
        for footprint in self.footprints.remove(&id).unwrap_or_default() {
            self.under_way.remove(&footprint);
        }
    }

    /// Sends what may go, as long as there is a lane for it.
    fn dispatch(&mut self) {
        let weight = &mut self.weight;
        self.queue.retain(|request| {
            let stays = !request.taken.load(Ordering::Acquire);
            if !stays {
                *weight -= request.weight;
            }
            stays
        });
        while !self.queue.is_empty() {
            let idle = self.tasks.is_empty();
            let now = Instant::now();
            if !idle && self.weight < BATCH && now < self.next {
                return;
            }
            let Some(lane) = self.lanes.pop() else { return };
            let batch = self.gather();
            if batch.is_empty() {
                // All of it conflicts with what is under way.
                self.lanes.push(lane);
                self.next = now + GATHER_LEAST;
                return;
            }
            self.start(lane, batch);
            self.next = now + self.gathering();
        }
    }

    /// Takes from the queue what can go together, without letting anything overtake what it conflicts with.
    fn gather(&mut self) -> Vec<Request> {
        let together = limits(&self.committer.members.settings).2;
        let (mut batch, mut passed) = (Vec::<Request>::new(), Footprints::default());
        let (mut steps, mut octets, mut looked_at, mut place) = (0, 0, 0, 0);
        while looked_at < SCAN && batch.len() < together && steps < BATCH_STEPS {
            let Some(request) = self.queue.get(place) else {
                break;
            };
            looked_at += 1;
            let fits = batch.is_empty()
                || (!request.alone
                    && steps + request.steps <= BATCH_STEPS
                    && octets + request.octets <= BATCH_OCTETS);
            let free = !self.under_way.conflict(&request.footprint) && !passed.conflict(&request.footprint);
            // What goes together must not conflict either: `passed` knows the batch too.
            passed.add(&request.footprint);
            if !(fits && free) || request.taken.swap(true, Ordering::AcqRel) {
                place += 1;
                continue;
            }
            let Some(request) = self.queue.remove(place) else {
                break;
            };
            self.weight -= request.weight;
            steps += request.steps;
            octets += request.octets;
            let alone = request.alone;
            batch.push(request);
            if alone {
                break;
            }
        }
        batch
    }

    fn start(&mut self, mut lane: Lane, batch: Vec<Request>) {
        let committer = Arc::clone(&self.committer);
        let mut footprints = Vec::with_capacity(batch.len());
        let (mut work, mut room) = (Vec::with_capacity(batch.len()), Vec::with_capacity(batch.len()));
        for request in batch {
            self.under_way.add(&request.footprint);
            footprints.push(request.footprint);
            work.push(request.work);
            room.push(request._room);
        }
        let task = self.tasks.spawn(async move {
            committer.commit(&mut lane, work).await;
            drop(room);
            lane
        });
        self.footprints.insert(task.id(), footprints);
    }
}
