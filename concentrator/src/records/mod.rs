//! Records on their way to the store: the queue that actors fill and the Replicator empties in groups.
//!
//! The queue outlives the Replicator: what a panicked one had taken is put back. A record that waits is replaced by a
//! newer one of the same name, and everybody who waited for the older one is told when the newer is stored. Rekeys and
//! deletions go before logins, but the oldest ones have room in every group, whatever they are.
//!
//! While nobody can reach the store (fail-static) the queue is the place where rekeys and deletions wait, one record a
//! name; those who wait for them are told at once, and what was told before it was durable is counted.

mod group;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use actix::{Message, Recipient};
use tokio::sync::Notify;

pub use group::Group;

/// The most records in one commit: with the comparisons of a fence and what the etcd back end adds for itself they
/// stay below the 128 operations that etcd allows by default.
pub const GROUP_MAX: usize = 112;
/// Operations of a commit that are none of records'.
pub const GROUP_OTHERS: usize = 16;
/// The most octets in one commit: etcd refuses requests above 1.5 MiB. A single record may be larger.
pub const GROUP_OCTETS: usize = 1 << 20;
/// Places of a group for the oldest records, so that nothing waits for ever.
const FOR_THE_OLDEST: usize = 7;

/// When the oldest record has waited for longer, strangers have to prove their address first.
pub const WAIT_COOKIE: Duration = Duration::from_millis(250);
/// When it has waited for longer, nobody new is let in.
pub const WAIT_CLOSED: Duration = Duration::from_secs(2);

/// Told to an actor: every record that it had queued up to `serial` is stored.
#[derive(Message, Clone, Copy, Debug, PartialEq, Eq)]
#[rtype(result = "()")]
pub struct Stored {
    /// The number that the actor gave with the record.
    pub serial: u64,
}

/// Who wants to know that a record is stored.
pub struct Waiter {
    /// The actor.
    pub who: Recipient<Stored>,
    /// The actor's own number.
    pub serial: u64,
}

impl Waiter {
    fn tell(self) {
        // One message for each record that an actor queued: bounded by the queue.
        self.who.do_send(Stored { serial: self.serial });
    }
}

/// What goes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// A live session depends on it: rekeys, moves, reserved sequence numbers.
    Rekey,
    /// An end.
    Delete,
    /// A new session.
    Login,
    /// Nobody waits for it.
    Bookkeeping,
}

/// What is to happen under a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Store this (sealed already).
    Put(Vec<u8>),
    /// Remove it.
    Delete,
}

impl Change {
    fn octets(&self) -> usize {
        match self {
            Self::Put(value) => value.len(),
            Self::Delete => 0,
        }
    }
}

/// The queue is full: the record was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the queue of records is full")]
pub struct Full;

/// The queue was closed: its records are another node's to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the records are not this node's to write any more")]
pub struct Closed;

struct Pending {
    change: Arc<Change>,
    waiters: Vec<Waiter>,
    priority: Priority,
    /// The order of arrival; that of the oldest record it has replaced.
    serial: u64,
    since: Instant,
}

/// How the queue answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Mode {
    /// When a record is durable.
    #[default]
    Durable,
    /// At once, as the store is out of reach; logins too if the operator wants it.
    Static { logins: bool },
    /// Never again.
    Closed,
}

impl Mode {
    fn answers_at_once(self, priority: Priority) -> bool {
        match self {
            Self::Durable | Self::Closed => false,
            Self::Static { logins } => logins || priority != Priority::Login,
        }
    }
}

#[derive(Default)]
struct Inner {
    pending: HashMap<String, Pending>,
    /// Names of those pending that may be taken, most urgent first: not those of which an older record is in flight.
    order: BTreeMap<(Priority, u64), String>,
    /// The same, oldest first.
    ages: BTreeMap<u64, String>,
    in_flight: HashMap<String, Pending>,
    next: u64,
    mode: Mode,
}

impl Inner {
    fn insert(&mut self, name: String, pending: Pending) {
        if !self.in_flight.contains_key(&name) {
            self.order
                .insert((pending.priority, pending.serial), name.clone());
            self.ages.insert(pending.serial, name.clone());
        }
        self.pending.insert(name, pending);
    }

    /// Ends the flight of a record; the next one of its name may go.
    fn land(&mut self, name: &str) -> Option<Pending> {
        let landed = self.in_flight.remove(name)?;
        if let Some((name, next)) = self.pending.remove_entry(name) {
            self.insert(name, next);
        }
        Some(landed)
    }

    fn remove(&mut self, name: &str) -> Option<Pending> {
        let pending = self.pending.remove(name)?;
        self.order.remove(&(pending.priority, pending.serial));
        self.ages.remove(&pending.serial);
        Some(pending)
    }

    /// The order of arrival of the oldest record that is not stored. One that may not be taken yet is younger than
    /// what it waits for.
    fn oldest(&self) -> Option<u64> {
        let waiting = self.ages.keys().next().copied();
        let flying = self.in_flight.values().map(|pending| pending.serial).min();
        waiting.into_iter().chain(flying).min()
    }
}

/// The queue. Shared by everybody who writes records of a slot.
pub struct Records {
    inner: Mutex<Inner>,
    filled: Notify,
    emptied: Notify,
    unreplicated: AtomicU64,
    most: usize,
}

impl Records {
    /// A queue of at most `most` records.
    #[must_use]
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self {
            inner: Mutex::default(),
            filled: Notify::new(),
            emptied: Notify::new(),
            unreplicated: AtomicU64::new(0),
            most,
        })
    }

    /// Queues a change under `name`; `waiter` is told when it is stored, or at once in static mode. A closed queue
    /// takes everything and tells nobody: what waits for it never leaves.
    ///
    /// # Errors
    /// [`Full`], unless an older record of that name waits and is replaced.
    pub fn submit(
        &self,
        name: String,
        change: Change,
        priority: Priority,
        waiter: Option<Waiter>,
    ) -> Result<(), Full> {
        let mut inner = self.lock();
        if inner.mode == Mode::Closed {
            return Ok(());
        }
        let older = inner.remove(&name);
        // Deletions are always taken: they make room in the store, and their number is bounded by what is in it. So is
        // in static mode what live sessions write: at most a few names each.
        let room = inner.pending.len() < self.most
            || change == Change::Delete
            || inner.mode.answers_at_once(priority) && priority != Priority::Login;
        if older.is_none() && !room {
            return Err(Full);
        }
        let mut waiters: Vec<Waiter> = waiter.into_iter().collect();
        let (mut priority, mut serial, mut since) = (priority, inner.next, Instant::now());
        inner.next += 1;
        if let Some(older) = older {
            priority = priority.min(older.priority);
            serial = older.serial;
            since = older.since;
            waiters.splice(0..0, older.waiters);
        }
        let at_once = inner.mode.answers_at_once(priority);
        let told = if at_once {
            std::mem::take(&mut waiters)
        } else {
            Vec::new()
        };
        inner.insert(
            name,
            Pending {
                change: Arc::new(change),
                waiters,
                priority,
                serial,
                since,
            },
        );
        drop(inner);
        self.filled.notify_one();
        self.tell_early(told);
        Ok(())
    }

    /// The store is out of reach for everybody (true): those who wait for rekeys, deletions and bookkeeping are told
    /// at once from here on, those who wait already as well; the records stay queued. With `logins` new sessions, too.
    pub fn set_static(&self, on: bool, logins: bool) {
        let mut inner = self.lock();
        if inner.mode == Mode::Closed {
            return;
        }
        let mode = if on {
            Mode::Static { logins }
        } else {
            Mode::Durable
        };
        inner.mode = mode;
        let mut told = Vec::new();
        let Inner {
            pending, in_flight, ..
        } = &mut *inner;
        for waits in pending.values_mut().chain(in_flight.values_mut()) {
            if mode.answers_at_once(waits.priority) {
                told.append(&mut waits.waiters);
            }
        }
        drop(inner);
        self.tell_early(told);
    }

    /// Whether answers are given before their records are durable.
    #[must_use]
    pub fn is_static(&self) -> bool {
        matches!(self.lock().mode, Mode::Static { .. })
    }

    /// How often somebody was told of a record that was not durable.
    #[must_use]
    pub fn unreplicated(&self) -> u64 {
        self.unreplicated.load(Ordering::Relaxed)
    }

    fn tell_early(&self, waiters: Vec<Waiter>) {
        self.unreplicated
            .fetch_add(waiters.len() as u64, Ordering::Relaxed);
        for waiter in waiters {
            waiter.tell();
        }
    }

    /// Drops everything, for good: what waits is not told, what comes is not taken.
    pub fn close(&self) {
        let mut inner = self.lock();
        *inner = Inner {
            mode: Mode::Closed,
            ..Inner::default()
        };
        drop(inner);
        self.filled.notify_one();
        self.emptied.notify_waiters();
    }

    /// Whether it was closed.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.lock().mode == Mode::Closed
    }

    /// What will be stored under `name` when the queue is empty; `None` when nothing waits.
    #[must_use]
    pub fn latest(&self, name: &str) -> Option<Change> {
        let inner = self.lock();
        inner
            .pending
            .get(name)
            .or_else(|| inner.in_flight.get(name))
            .map(|pending| pending.change.as_ref().clone())
    }

    /// How many records wait.
    #[must_use]
    pub fn len(&self) -> usize {
        let inner = self.lock();
        inner.pending.len() + inner.in_flight.len()
    }

    /// Whether everything is stored.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How long the oldest record has waited, those being committed included; zero when everything is stored.
    #[must_use]
    pub fn oldest_wait(&self) -> Duration {
        let inner = self.lock();
        let oldest = inner
            .ages
            .values()
            .next()
            .and_then(|name| inner.pending.get(name));
        oldest
            .into_iter()
            .chain(inner.in_flight.values())
            .map(|pending| pending.since.elapsed())
            .max()
            .unwrap_or_default()
    }

    /// Waits until `least` records can be taken, or the queue is closed. For one caller.
    pub async fn wait(&self, least: usize) {
        loop {
            {
                let inner = self.lock();
                if inner.order.len() >= least || inner.mode == Mode::Closed {
                    return;
                }
            }
            self.filled.notified().await;
        }
    }

    /// Waits until everything that is queued now is durable.
    ///
    /// # Errors
    /// [`Closed`]: it never will be.
    pub async fn flush(&self) -> Result<(), Closed> {
        let mark = self.lock().next;
        loop {
            let emptied = self.emptied.notified();
            tokio::pin!(emptied);
            // Registered before the look: what is stored in between is noticed.
            emptied.as_mut().enable();
            {
                let inner = self.lock();
                if inner.mode == Mode::Closed {
                    return Err(Closed);
                }
                if inner.oldest().is_none_or(|oldest| oldest >= mark) {
                    return Ok(());
                }
            }
            emptied.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
