//! Addresses that were given back in a cluster: written down a while later, many in one transaction.
//!
//! ```text
//!   in use ──give back──► idle, its record still says in use ──[KEEP]──► idle, and the record says so
//!      ▲                         │ the same owner comes back: nothing is written at all
//!      └─────────────────────────┘
//! ```
//! Users who lose their connection come back, after a mishap all at once. What a node could not write down before its
//! slot went to another one is found by that one like the addresses of any session that has not been carried on, and
//! swept. Until it is written nobody outside the share gets the address, as if the session were there.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use store::{Expect, Revision, Txn};
use tokio::time::Instant;

use super::book::Released;
use super::{Pool, PoolError, Share, fenced};

/// How long an address is kept for who had it before that is written down.
const KEEP: Duration = Duration::from_secs(10);
/// Between two looks for what is due.
const TICK: Duration = Duration::from_secs(1);
/// Addresses of one transaction.
const TOGETHER: usize = 48;
/// Addresses that wait, at most; what comes on top is written at once.
const WAITING: usize = 8_192;

/// An address that was given back.
#[derive(Debug)]
struct Given {
    address: IpAddr,
    owner: String,
    /// Of its record.
    revision: Revision,
    /// The number of its release.
    release: u64,
    since: Instant,
    fence: Txn,
}

/// Addresses whose records still say that they are in use, oldest first.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiting: VecDeque<Given>,
    /// Somebody looks after them.
    kept: bool,
}

impl Pool {
    /// Like [`Pool::release_in`], but the record is written a while later; nothing is written when the owner is back
    /// before. Call it on the runtime.
    ///
    /// # Errors
    /// When the store cannot write down what does not wait: the address is free all the same.
    pub async fn give_back_in(
        self: &Arc<Self>,
        owner: &str,
        address: IpAddr,
        share: Option<Share>,
        fence: &Txn,
    ) -> Result<(), PoolError> {
        let Some((released, waits)) = self.give_back(owner, address, share, fence) else {
            return Ok(());
        };
        if waits {
            self.write_evicted(released.evicted, fence).await;
            return Ok(());
        }
        self.write_release(owner, address, fence, released).await
    }

    /// Gives an address back in the book; and whether its record waits. `None`: the owner does not have it.
    fn give_back(
        self: &Arc<Self>,
        owner: &str,
        address: IpAddr,
        share: Option<Share>,
        fence: &Txn,
    ) -> Option<(Released, bool)> {
        let mut book = self.book();
        let released = book.release(owner, address, share)?;
        let may_wait = self.shared && share.is_some() && released.stays;
        let Some(revision) = released.revision.filter(|_| may_wait) else {
            return Some((released, false));
        };
        let release = book.keep(address);
        let waits = self.wait(Given {
            address,
            owner: owner.to_owned(),
            revision,
            release,
            since: Instant::now(),
            fence: fence.clone(),
        });
        if !waits {
            book.not_kept(address, release);
        }
        Some((released, waits))
    }

    /// Puts an address into the queue; false when it is full.
    fn wait(self: &Arc<Self>, given: Given) -> bool {
        let mut queue = self.returned.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.waiting.len() >= WAITING {
            return false;
        }
        queue.waiting.push_back(given);
        if !std::mem::replace(&mut queue.kept, true) {
            let pool = Arc::downgrade(self);
            tokio::spawn(async move {
                loop {
                    tokio::time::sleep(TICK).await;
                    let Some(pool) = pool.upgrade() else { return };
                    pool.write_returned(KEEP).await;
                    let mut queue = pool.returned.lock().unwrap_or_else(PoisonError::into_inner);
                    if queue.waiting.is_empty() {
                        queue.kept = false;
                        return;
                    }
                }
            });
        }
        true
    }

    /// Writes down what has been given back for as long, unless it is in use again.
    pub(crate) async fn write_returned(&self, age: Duration) {
        loop {
            let mut due = self.due(age);
            let Some(fence) = due.first().map(|first| first.fence.clone()) else {
                return;
            };
            {
                // From here on who wants one of them has to write, and finds out if this was quicker.
                let mut book = self.book();
                due.retain(|given| book.not_kept(given.address, given.release));
            }
            if !self.write_idle(&due, &fence).await && due.len() > 1 {
                // One of them is not as it was thought to be: the others need not wait for the sweep.
                for given in &due {
                    self.write_idle(std::slice::from_ref(given), &fence).await;
                }
            }
        }
    }

    /// Takes the oldest that are due, of one fence.
    fn due(&self, age: Duration) -> Vec<Given> {
        let mut queue = self.returned.lock().unwrap_or_else(PoisonError::into_inner);
        let mut due: Vec<Given> = Vec::new();
        while due.len() < TOGETHER
            && queue.waiting.front().is_some_and(|given| {
                given.since.elapsed() >= age && due.first().is_none_or(|first| first.fence == given.fence)
            })
        {
            due.extend(queue.waiting.pop_front());
        }
        due
    }

    /// Writes addresses down as idle in one transaction; false when that was refused.
    async fn write_idle(&self, given: &[Given], fence: &Txn) -> bool {
        let mut txn = fenced(Txn::new(), fence);
        for given in given {
            let key = self.key(given.address);
            let Ok(record) = self.record(&given.owner, false, None).encode() else {
                continue;
            };
            txn = txn
                .when(key.as_str(), Expect::Revision(given.revision))
                .put(key, record);
        }
        if txn.then.is_empty() {
            return true;
        }
        match self.store.txn(txn).await {
            Ok(done) if done.committed => {
                let mut book = self.book();
                for given in given {
                    book.idle_written(given.address, &given.owner, done.revision);
                }
                true
            }
            Ok(_) => false,
            Err(error) => {
                tracing::debug!(%error, pool = self.name, "addresses that were given back are left for the sweep");
                true
            }
        }
    }
}
