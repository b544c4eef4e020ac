//! Virtual addresses: given out for good by one durable record each, sticky by owner, in constant time.
//!
//! ```text
//!            allocate                 release                    needed for another
//!   (none) ──────────► in use (owner) ───────► idle (owner) ──────────────────────► in use (other)
//!                            ▲                     │ the owner comes back
//!                            └─────────────────────┘
//! ```
//! **Invariant:** an address is in use by at most one owner: the choice is made under a lock, and the store's record
//! is compared when it is written. Idle records are remembered, at most [`MAX_IDLE`] in a pool.

mod book;

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use store::{Expect, Revision, Store, StoreError, Txn};

use crate::model::AddressPool;
use book::{Book, Lease};

pub use book::MAX_IDLE;

/// Everything under it is a lease: `pool/{tenant}/{address}`.
pub(crate) const LEASES: &str = "pool/";
/// How often a choice is made again when the store knows better.
const TRIES: usize = 8;
/// Leases of one transaction when unclaimed ones are swept.
const SWEEP: usize = 256;

/// No address could be had.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PoolError {
    /// Every address is in use.
    #[error("the address pool {tenant}/{pool} has no free address: all {capacity} are in use")]
    Exhausted {
        /// Its tenant.
        tenant: String,
        /// Its name.
        pool: String,
        /// Addresses it has.
        capacity: u64,
    },
    /// The address is another owner's, or not of the pool.
    #[error("{address} is not free for this owner")]
    Taken {
        /// The address.
        address: IpAddr,
    },
    /// The lease could not be made durable.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A lease, as stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) pool: String,
    pub(crate) owner: String,
    pub(crate) in_use: bool,
}

impl Record {
    fn encode(&self) -> Result<Vec<u8>, StoreError> {
        serde_json::to_vec(self).map_err(|error| StoreError::Unavailable {
            reason: error.to_string(),
        })
    }
}

/// The key of a lease.
fn key(tenant: &str, address: IpAddr) -> String {
    format!("{LEASES}{tenant}/{address}")
}

/// A pool at work. Shared; all methods can be called from any task.
pub struct Pool {
    tenant: String,
    name: String,
    store: Arc<dyn Store>,
    book: Mutex<Book>,
}

/// Takes an address back unless the lease became durable: also when the caller's future is dropped.
struct Undo<'a> {
    pool: &'a Pool,
    address: IpAddr,
    before: Option<Lease>,
    armed: bool,
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        if self.armed {
            self.pool.book().restore(self.address, self.before.take());
        }
    }
}

impl Pool {
    pub(crate) fn new(config: &Arc<AddressPool>, store: Arc<dyn Store>) -> Self {
        Self {
            tenant: config.tenant.clone(),
            name: config.name.clone(),
            store,
            book: Mutex::new(Book::new(Arc::clone(config))),
        }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a changed configuration over. Addresses in use stay so, even outside the new range.
    pub(crate) fn reconfigure(&self, config: &Arc<AddressPool>) {
        let mut book = self.book();
        if *book.config() != **config {
            book.reconfigure(Arc::clone(config));
        }
    }

    /// Takes a stored lease in, at start. One in use has to be claimed before the sweep.
    pub(crate) fn load(&self, address: IpAddr, record: &Record, revision: Revision) {
        self.book().load(address, &record.owner, record.in_use, revision);
    }

    /// The pool's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether its addresses are of IPv4.
    pub fn is_ipv4(&self) -> bool {
        self.book().config().range.is_ipv4()
    }

    /// Addresses in use.
    pub fn in_use(&self) -> u64 {
        self.book().in_use()
    }

    /// Gives an address to an owner (an identity, or what else a tenant's users are told apart by): `wanted` when
    /// it is the owner's own or nobody's, else the owner's last one, else one that nobody had, else the one that has
    /// been idle longest. The lease is durable when this returns. An owner may have several.
    ///
    /// # Errors
    /// [`PoolError::Exhausted`], or the store's trouble; nothing is taken then.
    pub async fn allocate(&self, owner: &str, wanted: Option<IpAddr>) -> Result<IpAddr, PoolError> {
        let mut last = StoreError::Unavailable {
            reason: "the pool's records keep changing".to_owned(),
        };
        for _ in 0..TRIES {
            let chosen = self.book().choose(owner, wanted);
            let Some((address, before)) = chosen else {
                let capacity = self.book().config().capacity();
                return Err(PoolError::Exhausted {
                    tenant: self.tenant.clone(),
                    pool: self.name.clone(),
                    capacity,
                });
            };
            match self.make_durable(owner, address, before).await {
                Ok(()) => return Ok(address),
                Err(error @ StoreError::Conflict { .. }) => last = error,
                Err(error) => return Err(error.into()),
            }
        }
        Err(last.into())
    }

    /// Takes exactly this address for an owner who has it already: for sessions that were restored.
    ///
    /// # Errors
    /// [`PoolError::Taken`] when it is in use by another, or not of the pool.
    pub async fn claim(&self, owner: &str, address: IpAddr) -> Result<(), PoolError> {
        let claimed = self.book().claim(owner, address);
        match claimed {
            book::Claim::Held => Ok(()),
            book::Claim::Taken => Err(PoolError::Taken { address }),
            book::Claim::Write(before) => Ok(self.make_durable(owner, address, before).await?),
        }
    }

    /// Writes a lease that has been chosen in the book.
    async fn make_durable(
        &self,
        owner: &str,
        address: IpAddr,
        before: Option<Lease>,
    ) -> Result<(), StoreError> {
        let expect = match before.as_ref().and_then(|lease| lease.revision) {
            Some(revision) => Expect::Revision(revision),
            None => Expect::Absent,
        };
        let mut undo = Undo {
            pool: self,
            address,
            before,
            armed: true,
        };
        let record = Record {
            pool: self.name.clone(),
            owner: owner.to_owned(),
            in_use: true,
        };
        let key = key(&self.tenant, address);
        match self.store.put_if(&key, record.encode()?, expect).await {
            Ok(revision) => {
                undo.armed = false;
                self.book().written(address, revision);
                Ok(())
            }
            Err(error) if error.is_conflict() => {
                drop(undo);
                self.learn(&key, address).await?;
                Err(error)
            }
            Err(error) => Err(error),
        }
    }

    /// Learns from the store what it knows about an address.
    async fn learn(&self, key: &str, address: IpAddr) -> Result<(), StoreError> {
        let entry = self.store.get(key).await?;
        let known = entry.and_then(|entry| {
            let record = serde_json::from_slice::<Record>(&entry.value).ok()?;
            Some((record, entry.revision))
        });
        let mut book = self.book();
        match known {
            // A record of a pool that is gone binds nobody.
            Some((record, revision)) => {
                book.learn(
                    address,
                    &record.owner,
                    record.in_use && record.pool == self.name,
                    revision,
                );
            }
            None => book.forget(address),
        }
        Ok(())
    }

    /// Gives an address back. It stays its owner's to come back to until it is needed.
    ///
    /// # Errors
    /// When the store cannot write it down: it is free all the same, and swept at the next start.
    pub async fn release(&self, owner: &str, address: IpAddr) -> Result<(), PoolError> {
        let Some(released) = self.book().release(owner, address) else {
            return Ok(());
        };
        let key_text = key(&self.tenant, address);
        let record = Record {
            pool: self.name.clone(),
            owner: owner.to_owned(),
            in_use: false,
        };
        let outcome = match released.revision {
            Some(revision) => {
                self.store
                    .put_if(&key_text, record.encode()?, Expect::Revision(revision))
                    .await
            }
            None => return Ok(()),
        };
        if let Ok(revision) = outcome {
            self.book().idle_written(address, owner, revision);
        }
        for (evicted, revision) in released.evicted {
            // What cannot be deleted now is found again at the next start.
            let _ = self
                .store
                .delete_if(&key(&self.tenant, evicted), Expect::Revision(revision))
                .await;
        }
        match outcome {
            Ok(_) => Ok(()),
            // Somebody else has it in the meantime.
            Err(error) if error.is_conflict() => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Frees every lease that was in use before the start and has not been claimed since. Returns how many.
    ///
    /// # Errors
    /// When the store cannot write them down: they are free all the same.
    pub async fn sweep_unclaimed(&self) -> Result<usize, PoolError> {
        let swept = self.book().sweep();
        let mut outcome = Ok(swept.len());
        for chunk in swept.chunks(SWEEP) {
            let mut txn = Txn::new();
            for (address, owner, revision) in chunk {
                let record = Record {
                    pool: self.name.clone(),
                    owner: owner.clone(),
                    in_use: false,
                };
                let key = key(&self.tenant, *address);
                txn = txn
                    .when(key.as_str(), Expect::Revision(*revision))
                    .put(key, record.encode()?);
            }
            match self.store.txn(txn).await {
                Ok(done) if done.committed => {
                    let mut book = self.book();
                    for (address, owner, _) in chunk {
                        book.idle_written(*address, owner, done.revision);
                    }
                }
                // A lease that changed meanwhile is learned when it is needed.
                Ok(_) => {}
                Err(error) => outcome = Err(error.into()),
            }
        }
        outcome
    }
}

#[cfg(test)]
mod tests;
