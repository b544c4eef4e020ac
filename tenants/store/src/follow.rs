//! A prefix followed for ever: a list, then what happens, and the difference to a new list whenever a watch ends.
//!
//! ```text
//!   list ─► Event(put)… ─► Synced ─► watch ─► Event… ─┐ watch ended, or `every` has passed
//!     ▲                                               │
//!     └── only what differs from what was told ◄──────┘
//! ```
//! A reader that applies the events to a map has, at every `Synced`, what the store had. Watches are hints only: a
//! back end may lose events (etcd before 3.5.28 and 3.6.9 does); the list every `every` bounds how long
//! that shows. Memory: every key under the prefix with its revision.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::types::{Limits, Revision, WatchEvent, WatchStream};
use crate::{Store, StoreError};

/// Changes that wait for the reader; when as many wait, following waits too.
const BACKLOG: usize = 1_024;
/// Between two tries to list.
const PAUSE: Duration = Duration::from_millis(200);

/// What a follower is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A write, or the difference that a list found. Revisions of one key rise; those of a list's differences may
    /// lie below others' that were told before.
    Event(WatchEvent),
    /// Everything up to this revision has been told.
    Synced(Revision),
    /// The store cannot be followed for now; what was told may be old. A `Synced` follows when it can again.
    Stale(StoreError),
}

/// Follows a prefix until the stream is dropped; ends only after a [`Change::Stale`] that says that the store went
/// back in time. `every`: how often to list although the watch is well; `None`: never.
///
/// Has to be called in a tokio runtime.
pub fn follow(
    store: Arc<dyn Store>,
    prefix: impl Into<String>,
    every: Option<Duration>,
) -> BoxStream<'static, Change> {
    let (sender, receiver) = mpsc::channel(BACKLOG);
    let follower = Follower {
        store,
        prefix: prefix.into(),
        every,
        told: BTreeMap::new(),
        sender,
    };
    tokio::spawn(follower.run());
    futures::stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|change| (change, receiver))
    })
    .boxed()
}

struct Follower {
    store: Arc<dyn Store>,
    prefix: String,
    every: Option<Duration>,
    /// The revision that was told of every key that is there.
    told: BTreeMap<String, Revision>,
    sender: mpsc::Sender<Change>,
}

/// Why following stops.
enum Stop {
    /// The reader has gone.
    Gone,
    /// The store could not be read or watched.
    Failed(StoreError),
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        Stop::Failed(error)
    }
}

impl Follower {
    async fn run(mut self) {
        loop {
            match self.round().await {
                Ok(()) => {}
                Err(Stop::Gone) => return,
                Err(Stop::Failed(error)) => {
                    let end = matches!(error, StoreError::WentBack { .. });
                    if self.sender.send(Change::Stale(error)).await.is_err() || end {
                        return;
                    }
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    /// One list, and its watch until that ends.
    async fn round(&mut self) -> Result<(), Stop> {
        let revision = self.list().await?;
        let mut watch = match self.store.watch(&self.prefix, Some(revision + 1)).await {
            Ok(watch) => watch,
            Err(error) if error.wants_list() => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        self.tell(Change::Synced(revision)).await?;
        let until = self.every.map(|every| Instant::now() + every);
        while let Some(event) = self.next(&mut watch, until).await? {
            self.apply(event).await?;
        }
        Ok(())
    }

    /// The next event; `None` when it is time to list again.
    async fn next(
        &self,
        watch: &mut WatchStream,
        until: Option<Instant>,
    ) -> Result<Option<WatchEvent>, Stop> {
        let due = async {
            match until {
                Some(until) => tokio::time::sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.sender.closed() => Err(Stop::Gone),
            () = due => Ok(None),
            event = watch.next() => match event {
                Some(Ok(event)) => Ok(Some(event)),
                None => Ok(None),
                Some(Err(error)) if error.wants_list() => {
                    tracing::info!(prefix = %self.prefix, %error, "a watch ended; listing again");
                    Ok(None)
                }
                Some(Err(error)) => Err(error.into()),
            },
        }
    }

    /// Lists and tells the difference. The pages may be of different revisions: a watch from behind the first
    /// one's brings what changed in between.
    async fn list(&mut self) -> Result<Revision, Stop> {
        let mut first = None;
        let mut after = None::<String>;
        let mut gone = self.told.clone();
        loop {
            let (page, revision) = self
                .store
                .range(&self.prefix, after.as_deref(), Limits::RANGE)
                .await?;
            first.get_or_insert(revision);
            let full = page.len() >= Limits::RANGE;
            after = page.last().map(|(key, _)| key.clone());
            for (key, entry) in page {
                gone.remove(&key);
                let event = WatchEvent {
                    revision: entry.revision,
                    key,
                    value: Some(entry.value),
                };
                self.apply(event).await?;
            }
            if !full {
                break;
            }
        }
        let revision = first.unwrap_or_default();
        for key in gone.into_keys() {
            self.apply(WatchEvent {
                revision,
                key,
                value: None,
            })
            .await?;
        }
        Ok(revision)
    }

    /// Tells an event unless its key's state is known to be as new.
    async fn apply(&mut self, event: WatchEvent) -> Result<(), Stop> {
        let known = self.told.get(&event.key).copied();
        let news = match (&event.value, known) {
            (Some(_), Some(known)) => event.revision > known,
            (Some(_), None) => true,
            // A list's deletion has the list's revision, which may be that of the key's last write's neighbour.
            (None, Some(known)) => event.revision >= known,
            (None, None) => false,
        };
        if !news {
            return Ok(());
        }
        match event.value {
            Some(_) => self.told.insert(event.key.clone(), event.revision),
            None => self.told.remove(&event.key),
        };
        self.tell(Change::Event(event)).await
    }

    async fn tell(&self, change: Change) -> Result<(), Stop> {
        self.sender.send(change).await.map_err(|_| Stop::Gone)
    }
}
