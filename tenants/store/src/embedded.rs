//! The embedded back end: SQLite in WAL mode, owned by one thread that commits requests in groups.
//!
//! ```text
//!   callers ──► queue ──► thread: BEGIN, up to 64 requests or 2 ms of them, COMMIT ──► events, then answers
//! ```
//! No request waits for others to arrive: a group is what came in while the last commit ran. Answers, of reads too,
//! leave after the commit, so that nobody sees what a power cut could undo. The file is locked: a
//! second process is refused.

mod group;
mod schema;
mod worker;

use std::path::Path;
use std::sync::mpsc;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast, oneshot};

use crate::Store;
use crate::error::StoreError;
use crate::types::{Entry, LeaseId, Limits, Revision, Txn, TxnOutcome, WatchEvent, WatchStream};

/// How durable an acknowledged write is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Survives a power cut (synchronous = FULL).
    Full,
    /// Survives the process; a power cut may take the last writes, never the order of them (synchronous = NORMAL).
    Normal,
}

/// Tells the time; tests hand in one that they move.
pub type Clock = Arc<dyn Fn() -> Instant + Send + Sync>;

/// Writes of one commit, in order.
type Events = Arc<[WatchEvent]>;
type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// What callers ask of the thread.
enum Request {
    Get {
        key: String,
        reply: Reply<Option<Entry>>,
    },
    Range {
        prefix: String,
        after: Option<String>,
        limit: usize,
        reply: Reply<(Vec<(String, Entry)>, Revision)>,
    },
    Keys {
        prefix: String,
        after: Option<String>,
        limit: usize,
        reply: Reply<(Vec<(String, Revision)>, Revision)>,
    },
    Txn {
        txn: Txn,
        reply: Reply<TxnOutcome>,
    },
    Watch {
        prefix: String,
        from: Option<Revision>,
        reply: Reply<(Vec<WatchEvent>, broadcast::Receiver<Events>)>,
    },
    Grant {
        ttl: Duration,
        reply: Reply<LeaseId>,
    },
    KeepAlive {
        lease: LeaseId,
        reply: Reply<()>,
    },
    Revoke {
        lease: LeaseId,
        reply: Reply<()>,
    },
}

/// A request with its place in the queue.
type Queued = (Request, OwnedSemaphorePermit);

/// A store in one SQLite file. Dropping it commits what is queued, closes the file and ends its thread.
pub struct Embedded {
    sender: Option<mpsc::Sender<Queued>>,
    room: Arc<Semaphore>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl std::fmt::Debug for Embedded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Embedded")
            .field("room", &self.room.available_permits())
            .finish()
    }
}

impl Embedded {
    /// Opens or makes the file. Its directory has to be there.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] when the file is damaged, of another program or of a newer version;
    /// [`StoreError::Unavailable`] when another process has it; [`StoreError::Io`] when it cannot be written.
    pub fn open(path: &Path, durability: Durability) -> Result<Self, StoreError> {
        Self::open_with_clock(path, durability, Arc::new(Instant::now))
    }

    /// Like [`Embedded::open`] with a clock of the caller's for leases. Leases are looked at whenever a
    /// request comes in, and when the system's clock says that the next one is due.
    ///
    /// # Errors
    /// As for [`Embedded::open`].
    pub fn open_with_clock(path: &Path, durability: Durability, clock: Clock) -> Result<Self, StoreError> {
        let database = schema::open(path, durability)?;
        let worker = worker::Worker::new(database, path, clock)?;
        let (sender, receiver) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || worker.run(&receiver))
            .map_err(|error| StoreError::Unavailable {
                reason: error.to_string(),
            })?;
        Ok(Self {
            sender: Some(sender),
            room: Arc::new(Semaphore::new(Limits::QUEUE)),
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Queues a request, waiting for room, and waits for its answer.
    async fn ask<T>(&self, make: impl FnOnce(Reply<T>) -> Request) -> Result<T, StoreError> {
        let gone = || StoreError::Unavailable {
            reason: "the store has stopped".to_owned(),
        };
        let permit = Arc::clone(&self.room).acquire_owned().await.map_err(|_| gone())?;
        let (reply, answer) = oneshot::channel();
        let sender = self.sender.as_ref().ok_or_else(gone)?;
        sender.send((make(reply), permit)).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        drop(self.sender.take());
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("the store's thread panicked");
        }
    }
}

#[async_trait]
impl Store for Embedded {
    async fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        self.ask(|reply| Request::Get {
            key: key.to_owned(),
            reply,
        })
        .await
    }

    async fn range(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<(Vec<(String, Entry)>, Revision), StoreError> {
        let (prefix, after) = (prefix.to_owned(), after.map(str::to_owned));
        self.ask(|reply| Request::Range {
            prefix,
            after,
            limit: limit.min(Limits::RANGE),
            reply,
        })
        .await
    }

    async fn keys(
        &self,
        prefix: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<(Vec<(String, Revision)>, Revision), StoreError> {
        let (prefix, after) = (prefix.to_owned(), after.map(str::to_owned));
        self.ask(|reply| Request::Keys {
            prefix,
            after,
            limit: limit.min(Limits::RANGE),
            reply,
        })
        .await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, StoreError> {
        txn.check()?;
        self.ask(|reply| Request::Txn { txn, reply }).await
    }

    async fn watch(&self, prefix: &str, from: Option<Revision>) -> Result<WatchStream, StoreError> {
        let prefix = prefix.to_owned();
        let (past, receiver) = self
            .ask(|reply| Request::Watch {
                prefix: prefix.clone(),
                from,
                reply,
            })
            .await?;
        // `from` may lie in the future: earlier events are left out.
        Ok(watch_stream(prefix, from.unwrap_or(0), past, receiver))
    }

    async fn lease_grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.ask(|reply| Request::Grant { ttl, reply }).await
    }

    async fn lease_keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.ask(|reply| Request::KeepAlive { lease, reply }).await
    }

    async fn lease_revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.ask(|reply| Request::Revoke { lease, reply }).await
    }
}

/// Past events, then those of the broadcast that lie under the prefix; ends after a lag and with the store.
fn watch_stream(
    prefix: String,
    from: Revision,
    past: Vec<WatchEvent>,
    receiver: broadcast::Receiver<Events>,
) -> WatchStream {
    let live = stream::unfold(Some(receiver), |receiver| async move {
        let mut receiver = receiver?;
        match receiver.recv().await {
            Ok(events) => Some((Ok(events), Some(receiver))),
            Err(broadcast::error::RecvError::Lagged(missed)) => {
                Some((Err(StoreError::Lagged { missed }), None))
            }
            Err(broadcast::error::RecvError::Closed) => None,
        }
    });
    let live = live.flat_map(move |batch| {
        let events: Vec<Result<WatchEvent, StoreError>> = match batch {
            Ok(events) => events
                .iter()
                .filter(|event| event.revision >= from && event.key.starts_with(&prefix))
                .cloned()
                .map(Ok)
                .collect(),
            Err(error) => vec![Err(error)],
        };
        stream::iter(events)
    });
    stream::iter(past.into_iter().map(Ok)).chain(live).boxed()
}

#[cfg(test)]
mod tests;
