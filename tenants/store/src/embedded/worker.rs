//! The thread that owns the database: takes requests in groups, commits them, publishes events, answers.

use std::collections::{HashMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use rusqlite::{Connection, TransactionBehavior};
use tokio::sync::broadcast;

use super::group::Group;
use super::{Clock, Events, Queued, Request, schema};
use crate::error::StoreError;
use crate::types::{LeaseId, Limits, Revision, WatchEvent};

/// Longest time that requests are gathered for one commit.
const GROUP_TIME: Duration = Duration::from_millis(2);
/// Commits that a watch may fall behind before it has to list again.
const BROADCAST_COMMITS: usize = 4_096;
/// Octets of past events kept for watches that resume.
const HISTORY_OCTETS: usize = 64 << 20;

/// A lease in memory. After a restart every lease has its whole time again.
pub(super) struct Lease {
    pub(super) ttl: Duration,
    pub(super) deadline: Instant,
}

/// Past commits, as far as they are kept.
struct History {
    commits: VecDeque<Events>,
    events: usize,
    octets: usize,
    /// Every event with at least this revision is here.
    oldest: Revision,
}

pub(super) struct Worker {
    database: Connection,
    path: PathBuf,
    clock: Clock,
    revision: Revision,
    leases: HashMap<LeaseId, Lease>,
    history: History,
    publisher: broadcast::Sender<Events>,
}

impl Worker {
    pub(super) fn new(database: Connection, path: &Path, clock: Clock) -> Result<Self, StoreError> {
        let (revision, leases) =
            load(&database, clock()).map_err(|error| schema::from_sqlite(&error, path))?;
        let history = History {
            commits: VecDeque::new(),
            events: 0,
            octets: 0,
            oldest: revision + 1,
        };
        let (publisher, _) = broadcast::channel(BROADCAST_COMMITS);
        Ok(Self {
            database,
            path: path.to_owned(),
            clock,
            revision,
            leases,
            history,
            publisher,
        })
    }

    /// Serves until every sender is gone.
    pub(super) fn run(mut self, receiver: &Receiver<Queued>) {
        let mut requests = Vec::with_capacity(Limits::GROUP);
        loop {
            match self.next(receiver) {
                Ok(first) => requests.push(first),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            let begun = Instant::now();
            while !requests.is_empty() && requests.len() < Limits::GROUP && begun.elapsed() < GROUP_TIME {
                let Ok(next) = receiver.try_recv() else { break };
                requests.push(next);
            }
            self.serve(&mut requests);
        }
        if let Err((_, error)) = self.database.close() {
            tracing::warn!(%error, "closing the store failed");
        }
    }

    /// The next request, or a timeout when a lease is due.
    fn next(&self, receiver: &Receiver<Queued>) -> Result<Queued, RecvTimeoutError> {
        let Some(deadline) = self.leases.values().map(|lease| lease.deadline).min() else {
            return receiver.recv().map_err(|_| RecvTimeoutError::Disconnected);
        };
        // At least a millisecond: with a clock of the caller's this thread must not spin.
        let wait = deadline
            .saturating_duration_since((self.clock)())
            .max(Duration::from_millis(1));
        receiver.recv_timeout(wait)
    }

    /// Runs the requests in one transaction and answers them.
    fn serve(&mut self, requests: &mut Vec<Queued>) {
        let now = (self.clock)();
        let expired: Vec<LeaseId> = self
            .leases
            .iter()
            .filter(|(_, lease)| lease.deadline <= now)
            .map(|(id, _)| *id)
            .collect();
        if requests.is_empty() && expired.is_empty() {
            return;
        }
        let mut group = Group::new(self.revision);
        match self.commit(&mut group, requests, &expired) {
            Ok(watches) => {
                self.revision = group.revision;
                for lease in group.ended.drain(..) {
                    self.leases.remove(&lease);
                }
                for (lease, ttl) in group.granted.drain(..) {
                    self.leases.insert(
                        lease,
                        Lease {
                            ttl,
                            deadline: now + ttl,
                        },
                    );
                }
                for lease in group.kept.drain(..) {
                    if let Some(lease) = self.leases.get_mut(&lease) {
                        lease.deadline = now + lease.ttl;
                    }
                }
                if !group.events.is_empty() {
                    let events: Events = std::mem::take(&mut group.events).into();
                    self.history.push(&events);
                    // No watch is no error.
                    let _ = self.publisher.send(events);
                }
                for watch in watches {
                    self.start_watch(watch);
                }
                group.answer();
            }
            Err(error) => {
                let error = schema::from_sqlite(&error, &self.path);
                tracing::warn!(%error, requests = group.len(), "a group of store requests failed");
                group.fail(&error);
            }
        }
    }

    /// Runs expired leases and requests in one transaction; hands watches back, which begin after the commit.
    fn commit(
        &mut self,
        group: &mut Group,
        requests: &mut Vec<Queued>,
        expired: &[LeaseId],
    ) -> Result<Vec<Request>, rusqlite::Error> {
        let mut watches = Vec::new();
        let transaction = match self
            .database
            .transaction_with_behavior(TransactionBehavior::Immediate)
        {
            Ok(transaction) => transaction,
            Err(error) => {
                requests
                    .drain(..)
                    .for_each(|(request, permit)| group.refuse(request, permit));
                return Err(error);
            }
        };
        let mut outcome = expired
            .iter()
            .try_for_each(|lease| group.end_lease(&transaction, *lease));
        for (request, permit) in requests.drain(..) {
            if outcome.is_err() {
                group.refuse(request, permit);
            } else if matches!(request, Request::Watch { .. }) {
                watches.push(request);
            } else {
                outcome = group.run(&transaction, &self.leases, request, permit);
            }
        }
        outcome
            .and_then(|()| group.finish(&transaction))
            .and_then(|()| transaction.commit())?;
        Ok(watches)
    }

    fn start_watch(&self, request: Request) {
        let Request::Watch { prefix, from, reply } = request else {
            return;
        };
        let answer = match from {
            None => Ok(Vec::new()),
            Some(from) => self.history.since(from, &prefix),
        };
        let _ = reply.send(answer.map(|past| (past, self.publisher.subscribe())));
    }
}

impl History {
    fn push(&mut self, events: &Events) {
        self.events += events.len();
        self.octets += octets(events);
        self.commits.push_back(Arc::clone(events));
        while self.events > Limits::WATCH_BACKLOG || self.octets > HISTORY_OCTETS {
            let Some(gone) = self.commits.pop_front() else {
                break;
            };
            self.events -= gone.len();
            self.octets -= octets(&gone);
            self.oldest = gone.last().map_or(self.oldest, |event| event.revision + 1);
        }
    }

    /// Events of a prefix from a revision on.
    fn since(&self, from: Revision, prefix: &str) -> Result<Vec<WatchEvent>, StoreError> {
        if from < self.oldest {
            return Err(StoreError::Compacted { oldest: self.oldest });
        }
        let wanted = |event: &&WatchEvent| event.revision >= from && event.key.starts_with(prefix);
        Ok(self
            .commits
            .iter()
            .flat_map(|events| events.iter())
            .filter(wanted)
            .cloned()
            .collect())
    }
}

fn octets(events: &Events) -> usize {
    events
        .iter()
        .map(|event| event.key.len() + event.value.as_ref().map_or(0, Vec::len))
        .sum()
}

/// Revision and leases of the file.
fn load(database: &Connection, now: Instant) -> Result<(Revision, HashMap<LeaseId, Lease>), rusqlite::Error> {
    let revision: i64 =
        database.query_row("SELECT value FROM counter WHERE name = 'revision'", [], |row| {
            row.get(0)
        })?;
    let mut statement = database.prepare("SELECT id, ttl_millis FROM lease")?;
    let leases = statement
        .query_map([], |row| {
            let ttl = Duration::from_millis(row.get::<_, i64>(1)?.unsigned_abs());
            Ok((
                LeaseId(row.get::<_, i64>(0)?.unsigned_abs()),
                Lease {
                    ttl,
                    deadline: now + ttl,
                },
            ))
        })?
        .collect::<Result<_, _>>()?;
    Ok((revision.unsigned_abs(), leases))
}
