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
//!
//! In a cluster several nodes have the same pools. Each hands out addresses of its slots' [`Share`]s only, and each
//! write compares the slot's generation and owner as well, so that a node that has lost a slot leases nothing more. What is
//! given back there is written down a while later ([`Pool::give_back_in`]): who comes back before costs no write, and the
//! record of the session, which is fenced like a lease, is what counts.

mod book;
mod returned;
mod share;
pub(crate) mod shared;

use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use store::{Expect, Revision, Store, StoreError, Txn};

use crate::model::AddressPool;
use crate::range::AddressRange;
use book::{Book, Chosen, Released};

pub use book::MAX_IDLE;
pub use share::{MAX_SHARES, Share};

/// Everything under it is a lease: `pool/{tenant}/{address}`.
pub(crate) const LEASES: &str = "pool/";
/// How often a choice is made again when the store knows better.
const TRIES: usize = 8;
/// Leases of one transaction when unclaimed ones are swept.
const SWEEP: usize = 64;

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
    /// The slot that the address is for is not this node's any more.
    #[error("the address pool {tenant}/{pool} may not be used: its share is another node's by now")]
    Fenced {
        /// Its tenant.
        tenant: String,
        /// Its name.
        pool: String,
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
    /// In a cluster: the slot of the session that has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) slot: Option<u8>,
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

/// A transaction with the comparisons of a fence added.
fn fenced(mut txn: Txn, fence: &Txn) -> Txn {
    txn.compares.extend_from_slice(&fence.compares);
    txn.values.extend_from_slice(&fence.values);
    txn
}

/// A pool at work. Shared; all methods can be called from any task.
pub struct Pool {
    tenant: String,
    name: String,
    store: Arc<dyn Store>,
    /// With other nodes: each hands out addresses of its slots' shares only.
    shared: bool,
    book: Mutex<Book>,
    /// One reading of leases at a time; when an exhausted share was read again last.
    loading: tokio::sync::Mutex<Option<tokio::time::Instant>>,
    returned: Mutex<returned::Queue>,
}

/// Takes an address back unless the lease became durable: also when the caller's future is dropped.
struct Undo<'a> {
    pool: &'a Pool,
    chosen: Chosen,
    armed: bool,
}

impl Drop for Undo<'_> {
    fn drop(&mut self) {
        if self.armed {
            self.pool.book().restore(&mut self.chosen);
        }
    }
}

/// Why a lease was not written.
enum Refused {
    /// The address is not as it was thought to be; it has been learned.
    Changed(StoreError),
    /// The address is as it was thought to be: it is the fence that does not hold.
    Fence,
    Store(StoreError),
}

impl Pool {
    pub(crate) fn new(config: &Arc<AddressPool>, store: Arc<dyn Store>, shared: bool) -> Self {
        Self {
            tenant: config.tenant.clone(),
            name: config.name.clone(),
            store,
            shared,
            book: Mutex::new(Book::new(Arc::clone(config), shared)),
            loading: tokio::sync::Mutex::new(None),
            returned: Mutex::default(),
        }
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn key(&self, address: IpAddr) -> String {
        if self.shared {
            shared::key(&self.tenant, address)
        } else {
            key(&self.tenant, address)
        }
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

    /// Addresses in use; in a cluster those that this node knows of.
    pub fn in_use(&self) -> u64 {
        self.book().in_use()
    }

    /// The addresses that a share hands out; `None`: the pool has fewer addresses than there are shares.
    pub fn block(&self, share: Share) -> Option<AddressRange> {
        share.block(&self.book().config().range)
    }

    /// What to route to the owner of a share: its block as prefixes.
    pub fn block_prefixes(&self, share: Share) -> Vec<IpNet> {
        share.prefixes(&self.book().config().range)
    }

    /// Gives an address to an owner (an identity, or what else a tenant's users are told apart by): `wanted` when
    /// it is the owner's own or nobody's, else the owner's last one, else one that nobody had, else the one that has
    /// been idle longest. The lease is durable when this returns. An owner may have several.
    ///
    /// # Errors
    /// [`PoolError::Exhausted`], or the store's trouble; nothing is taken then.
    pub async fn allocate(&self, owner: &str, wanted: Option<IpAddr>) -> Result<IpAddr, PoolError> {
        self.allocate_in(owner, wanted, None, &Txn::new()).await
    }

    /// Like [`Pool::allocate`] within a share (`None`: the whole pool), for a node of a cluster: the lease is
    /// written only while the values of the `fence` (the slot's generation and owner) hold. The first call reads the
    /// share's leases from the store, unless [`crate::Registry::refresh_share`] has.
    ///
    /// # Errors
    /// [`PoolError::Exhausted`], [`PoolError::Fenced`], or the store's trouble; nothing is taken then.
    pub async fn allocate_in(
        &self,
        owner: &str,
        wanted: Option<IpAddr>,
        share: Option<Share>,
        fence: &Txn,
    ) -> Result<IpAddr, PoolError> {
        let mut last = PoolError::Store(StoreError::Unavailable {
            reason: "the pool's records keep changing".to_owned(),
        });
        let (mut fenced, mut read_again) = (0, false);
        for _ in 0..TRIES {
            if let Some(share) = share.filter(|_| self.shared) {
                self.make_loaded(share).await?;
            }
            let chosen = self.book().choose(owner, wanted, share);
            let Some(chosen) = chosen else {
                // Addresses may have come back that another node's slot had here.
                if let Some(share) = share.filter(|_| self.shared && !read_again) {
                    read_again = true;
                    self.refresh_exhausted(share).await?;
                    continue;
                }
                return Err(self.exhausted(share));
            };
            let address = chosen.address;
            match self.make_durable(owner, chosen, share, fence).await {
                Ok(()) => return Ok(address),
                Err(Refused::Changed(error)) => last = error.into(),
                // What is read after a refusal may have changed back in between: once more.
                Err(Refused::Fence) if fenced == 0 => fenced += 1,
                Err(Refused::Fence) => return Err(self.fenced()),
                Err(Refused::Store(error)) => return Err(error.into()),
            }
        }
        Err(last)
    }

    fn exhausted(&self, share: Option<Share>) -> PoolError {
        PoolError::Exhausted {
            tenant: self.tenant.clone(),
            pool: self.name.clone(),
            capacity: self.book().capacity(share),
        }
    }

    fn fenced(&self) -> PoolError {
        PoolError::Fenced {
            tenant: self.tenant.clone(),
            pool: self.name.clone(),
        }
    }

    /// Takes exactly this address for an owner who has it already: for sessions that were restored. In a cluster
    /// nothing is read or written: the session's record, which is younger than the lease, is proof enough.
    ///
    /// # Errors
    /// [`PoolError::Taken`] when it is in use by another, or not of the pool.
    pub async fn claim(&self, owner: &str, address: IpAddr) -> Result<(), PoolError> {
        let claimed = self.book().claim(owner, address);
        match claimed {
            book::Claim::Held => Ok(()),
            book::Claim::Taken => Err(PoolError::Taken { address }),
            book::Claim::Write(chosen) => match self.make_durable(owner, chosen, None, &Txn::new()).await {
                Ok(()) => Ok(()),
                Err(Refused::Changed(error) | Refused::Store(error)) => Err(error.into()),
                Err(Refused::Fence) => Err(PoolError::Taken { address }),
            },
        }
    }

    fn record(&self, owner: &str, in_use: bool, share: Option<Share>) -> Record {
        Record {
            pool: self.name.clone(),
            owner: owner.to_owned(),
            in_use,
            slot: share.filter(|_| self.shared && in_use).map(|share| share.index),
        }
    }

    /// Writes a lease that has been chosen in the book.
    async fn make_durable(
        &self,
        owner: &str,
        chosen: Chosen,
        share: Option<Share>,
        fence: &Txn,
    ) -> Result<(), Refused> {
        let address = chosen.address;
        if chosen.is_kept_for(owner) {
            // Its record says all of that.
            self.book().still_written(&chosen);
            return Ok(());
        }
        let expect = match chosen.before.as_ref().and_then(|lease| lease.revision) {
            Some(revision) => Expect::Revision(revision),
            None => Expect::Absent,
        };
        let mut undo = Undo {
            pool: self,
            chosen,
            armed: true,
        };
        let key = self.key(address);
        let record = self.record(owner, true, share).encode().map_err(Refused::Store)?;
        let mut txn = Txn::new().when(key.as_str(), expect).put(key.as_str(), record);
        txn = fenced(txn, fence);
        let done = self.store.txn(txn).await.map_err(Refused::Store)?;
        if done.committed {
            undo.armed = false;
            self.book().written(&undo.chosen, done.revision);
            return Ok(());
        }
        drop(undo);
        let found = self.learn(&key, address).await.map_err(Refused::Store)?;
        if expect.holds(found) && !(fence.compares.is_empty() && fence.values.is_empty()) {
            Err(Refused::Fence)
        } else {
            Err(Refused::Changed(StoreError::Conflict { key, found }))
        }
    }

    /// Learns from the store what it knows about an address. Returns the record's revision.
    async fn learn(&self, key: &str, address: IpAddr) -> Result<Option<Revision>, StoreError> {
        let entry = self.store.get(key).await?;
        let found = entry.as_ref().map(|entry| entry.revision);
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
        Ok(found)
    }

    /// Gives an address back. It stays its owner's to come back to until it is needed.
    ///
    /// # Errors
    /// When the store cannot write it down: it is free all the same, and swept at the next start.
    pub async fn release(&self, owner: &str, address: IpAddr) -> Result<(), PoolError> {
        self.release_in(owner, address, None, &Txn::new()).await
    }

    /// Like [`Pool::release`] for a session of a slot: nothing is written unless the values of the `fence` hold,
    /// which is no error.
    ///
    /// # Errors
    /// When the store cannot write it down: it is free all the same, and swept by the share's next owner.
    pub async fn release_in(
        &self,
        owner: &str,
        address: IpAddr,
        share: Option<Share>,
        fence: &Txn,
    ) -> Result<(), PoolError> {
        let Some(released) = self.book().release(owner, address, share) else {
            return Ok(());
        };
        self.write_release(owner, address, fence, released).await
    }

    async fn write_release(
        &self,
        owner: &str,
        address: IpAddr,
        fence: &Txn,
        released: Released,
    ) -> Result<(), PoolError> {
        let key = self.key(address);
        let revision = match released.revision {
            None if self.shared => self.held_revision(&key, owner).await?,
            known => known,
        };
        let mut outcome = Ok(());
        if let Some(revision) = revision {
            let mut txn = Txn::new().when(key.as_str(), Expect::Revision(revision));
            txn = fenced(txn, fence);
            txn = if released.stays {
                txn.put(key, self.record(owner, false, None).encode()?)
            } else {
                txn.delete(key)
            };
            match self.store.txn(txn).await {
                Ok(done) if done.committed => self.book().idle_written(address, owner, done.revision),
                // Somebody else has it in the meantime, or the slot.
                Ok(_) => {}
                Err(error) => outcome = Err(error.into()),
            }
        }
        self.write_evicted(released.evicted, fence).await;
        outcome
    }

    async fn write_evicted(&self, evicted: Vec<(IpAddr, Revision)>, fence: &Txn) {
        for (evicted, revision) in evicted {
            let key = self.key(evicted);
            let mut txn = Txn::new()
                .when(key.as_str(), Expect::Revision(revision))
                .delete(key);
            txn = fenced(txn, fence);
            // What cannot be deleted now is found again at the next start.
            let _ = self.store.txn(txn).await;
        }
    }

    /// The revision of the record of an address that an owner has.
    async fn held_revision(&self, key: &str, owner: &str) -> Result<Option<Revision>, StoreError> {
        let entry = self.store.get(key).await?;
        Ok(entry.and_then(|entry| {
            let record = serde_json::from_slice::<Record>(&entry.value).ok()?;
            (record.in_use && record.owner == owner && record.pool == self.name).then_some(entry.revision)
        }))
    }

    /// Frees every lease that was in use before the start and has not been claimed since. Returns how many.
    ///
    /// # Errors
    /// When the store cannot write them down: they are free all the same.
    pub async fn sweep_unclaimed(&self) -> Result<usize, PoolError> {
        self.sweep(None, &Txn::new()).await
    }

    async fn sweep(&self, share: Option<Share>, fence: &Txn) -> Result<usize, PoolError> {
        let swept = self.book().sweep(share);
        let mut outcome = Ok(swept.len());
        for chunk in swept.chunks(SWEEP) {
            let mut txn = fenced(Txn::new(), fence);
            for (address, owner, revision) in chunk {
                let key = self.key(*address);
                txn = txn
                    .when(key.as_str(), Expect::Revision(*revision))
                    .put(key, self.record(owner, false, None).encode()?);
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
