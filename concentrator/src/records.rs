//! Records on their way to the store: the queue that actors fill and the Replicator empties in groups.
//!
//! The queue outlives the Replicator: what a panicked one had taken is put back. A record that waits is replaced by a
//! newer one of the same name, and everybody who waited for the older one is told when the newer is stored.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use actix::{Message, Recipient};
use tokio::sync::Notify;

/// The most records in one commit.
pub const GROUP_MAX: usize = 64;

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

/// What is to happen under a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Store this (sealed already).
    Put(Vec<u8>),
    /// Remove it.
    Delete,
}

/// The queue is full: the record was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the queue of records is full")]
pub struct Full;

struct Pending {
    change: Change,
    waiters: Vec<Waiter>,
}

#[derive(Default)]
struct Inner {
    order: VecDeque<String>,
    pending: HashMap<String, Pending>,
    in_flight: HashMap<String, Change>,
}

/// The queue. Shared by everybody who writes records.
pub struct Records {
    inner: Mutex<Inner>,
    filled: Notify,
    most: usize,
}

impl Records {
    /// A queue of at most `most` records.
    #[must_use]
    pub fn new(most: usize) -> Arc<Self> {
        Arc::new(Self {
            inner: Mutex::default(),
            filled: Notify::new(),
            most,
        })
    }

    /// Queues a change under `name`; `waiter` is told when it is stored.
    ///
    /// # Errors
    /// [`Full`], unless an older record of that name waits and is replaced.
    pub fn submit(&self, name: String, change: Change, waiter: Option<Waiter>) -> Result<(), Full> {
        let mut inner = self.lock();
        match inner.pending.get_mut(&name) {
            Some(pending) => {
                pending.change = change;
                pending.waiters.extend(waiter);
            }
            None => {
                // Deletions are always taken: they make room in the store, and their number is bounded by what is in it.
                if inner.pending.len() >= self.most && change != Change::Delete {
                    return Err(Full);
                }
                inner.order.push_back(name.clone());
                inner.pending.insert(
                    name,
                    Pending {
                        change,
                        waiters: waiter.into_iter().collect(),
                    },
                );
            }
        }
        drop(inner);
        self.filled.notify_one();
        Ok(())
    }

    /// What will be stored under `name` when the queue is empty; `None` when nothing waits.
    #[must_use]
    pub fn latest(&self, name: &str) -> Option<Change> {
        let inner = self.lock();
        inner
            .pending
            .get(name)
            .map(|pending| pending.change.clone())
            .or_else(|| inner.in_flight.get(name).cloned())
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

    /// Waits until there is something to take.
    pub async fn wait(&self) {
        while self.lock().pending.is_empty() {
            self.filled.notified().await;
        }
    }

    /// Takes the oldest records, at most [`GROUP_MAX`].
    #[must_use]
    pub fn take(self: &Arc<Self>) -> Group {
        let mut inner = self.lock();
        let mut members = Vec::new();
        while members.len() < GROUP_MAX {
            let Some(name) = inner.order.pop_front() else {
                break;
            };
            if let Some(pending) = inner.pending.remove(&name) {
                inner.in_flight.insert(name.clone(), pending.change.clone());
                members.push((name, pending));
            }
        }
        drop(inner);
        Group {
            queue: Arc::clone(self),
            members,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Records that are being committed. Dropped without [`Group::committed`], they go back to the queue.
pub struct Group {
    queue: Arc<Records>,
    members: Vec<(String, Pending)>,
}

impl Group {
    /// The changes, oldest first.
    pub fn changes(&self) -> impl Iterator<Item = (&str, &Change)> {
        self.members
            .iter()
            .map(|(name, pending)| (name.as_str(), &pending.change))
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there is nothing to commit.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// They are durable: tells everybody who waits.
    pub fn committed(mut self) {
        let members = std::mem::take(&mut self.members);
        let mut inner = self.queue.lock();
        for (name, _) in &members {
            inner.in_flight.remove(name);
        }
        drop(inner);
        for (_, pending) in members {
            for waiter in pending.waiters {
                // One message for each record that an actor queued: bounded by the queue.
                waiter.who.do_send(Stored {
                    serial: waiter.serial,
                });
            }
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if self.members.is_empty() {
            return;
        }
        let mut inner = self.queue.lock();
        for (name, mut old) in std::mem::take(&mut self.members).into_iter().rev() {
            inner.in_flight.remove(&name);
            match inner.pending.get_mut(&name) {
                // A newer record came meanwhile: it stands for the older one too.
                Some(newer) => newer.waiters.append(&mut old.waiters),
                None => {
                    inner.order.push_front(name.clone());
                    inner.pending.insert(name, old);
                }
            }
        }
        drop(inner);
        self.queue.filled.notify_one();
    }
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]
mod tests {
    use actix::{Actor, Context, Handler};
    use tokio::sync::mpsc;

    use super::*;

    struct Probe(mpsc::UnboundedSender<u64>);
    impl Actor for Probe {
        type Context = Context<Self>;
    }
    impl Handler<Stored> for Probe {
        type Result = ();
        fn handle(&mut self, stored: Stored, _: &mut Context<Self>) {
            self.0.send(stored.serial).unwrap();
        }
    }

    fn put(value: u8) -> Change {
        Change::Put(vec![value])
    }

    #[actix::test]
    async fn a_newer_record_replaces_the_older_and_answers_for_both() {
        let (send, mut receive) = mpsc::unbounded_channel();
        let probe = Probe(send).start();
        let records = Records::new(8);
        let waiter = |serial| {
            Some(Waiter {
                who: probe.clone().recipient(),
                serial,
            })
        };
        records.submit("a".into(), put(1), waiter(1)).unwrap();
        records.submit("a".into(), put(2), waiter(2)).unwrap();
        records.submit("b".into(), put(3), waiter(3)).unwrap();
        let group = records.take();
        let changes: Vec<_> = group
            .changes()
            .map(|(name, change)| (name.to_owned(), change.clone()))
            .collect();
        assert_eq!(changes, vec![("a".to_owned(), put(2)), ("b".to_owned(), put(3))]);
        assert_eq!(records.latest("a"), Some(put(2)), "in flight");
        group.committed();
        assert!(records.is_empty());
        for serial in 1..=3 {
            assert_eq!(receive.recv().await, Some(serial));
        }
    }

    #[actix::test]
    async fn what_a_panicked_replicator_had_taken_comes_back_first_and_yields_to_newer_ones() {
        let (send, mut receive) = mpsc::unbounded_channel();
        let probe = Probe(send).start();
        let records = Records::new(8);
        let waiter = |serial| {
            Some(Waiter {
                who: probe.clone().recipient(),
                serial,
            })
        };
        records.submit("a".into(), put(1), waiter(1)).unwrap();
        records.submit("b".into(), put(2), waiter(2)).unwrap();
        let group = records.take();
        records.submit("c".into(), put(3), None).unwrap();
        records.submit("b".into(), put(4), waiter(4)).unwrap();
        drop(group);
        let group = records.take();
        let changes: Vec<_> = group
            .changes()
            .map(|(name, change)| (name.to_owned(), change.clone()))
            .collect();
        assert_eq!(
            changes,
            vec![("a".into(), put(1)), ("c".into(), put(3)), ("b".into(), put(4))]
        );
        group.committed();
        let mut told = vec![receive.recv().await.unwrap(), receive.recv().await.unwrap()];
        told.push(receive.recv().await.unwrap());
        told.sort_unstable();
        assert_eq!(told, vec![1, 2, 4]);
    }

    #[test]
    fn the_queue_is_bounded_and_takes_deletions_and_replacements_still() {
        let records = Records::new(2);
        records.submit("a".into(), put(1), None).unwrap();
        records.submit("b".into(), put(1), None).unwrap();
        assert_eq!(records.submit("c".into(), put(1), None), Err(Full));
        records.submit("a".into(), put(2), None).unwrap();
        records.submit("d".into(), Change::Delete, None).unwrap();
        assert_eq!(records.len(), 3);
    }

    #[test]
    fn a_group_has_at_most_64_records() {
        let records = Records::new(1_000);
        for index in 0..100 {
            records.submit(index.to_string(), put(0), None).unwrap();
        }
        let group = records.take();
        assert_eq!(group.len(), GROUP_MAX);
        group.committed();
        assert_eq!(records.len(), 36);
    }
}
