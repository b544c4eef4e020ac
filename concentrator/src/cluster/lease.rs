//! The node's lease: granted, kept alive and ended as the core says.
//!
//! **Invariant:** the time that is told with a lease was read before the call left: what the store counts began later.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cluster::Input;
use store::{LeaseId, Store, StoreError};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::pacemaker::Pacemaker;

/// How long a grant may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// Keep-alives under way at the same time; more are left out, as the next comes soon.
const ABREAST: usize = 8;

/// The lease as the shell knows it.
pub struct Lease {
    store: Arc<dyn Store>,
    pacemaker: Pacemaker,
    runtime: Handle,
    present: Arc<Mutex<Option<LeaseId>>>,
    turns: Arc<Semaphore>,
}

impl Lease {
    /// None yet.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, pacemaker: Pacemaker, runtime: Handle) -> Self {
        Self {
            store,
            pacemaker,
            runtime,
            present: Arc::default(),
            turns: Arc::new(Semaphore::new(ABREAST)),
        }
    }

    /// Asks for a lease; the one before is forgotten.
    pub fn grant(&self, ttl: Duration) {
        *self.present.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let (store, pacemaker) = (Arc::clone(&self.store), self.pacemaker.clone());
        let present = Arc::clone(&self.present);
        self.runtime.spawn(async move {
            let sent = dataplane::boot_time();
            match timeout(PATIENCE, store.lease_grant(ttl)).await {
                Ok(Ok(lease)) => {
                    *present.lock().unwrap_or_else(PoisonError::into_inner) = Some(lease);
                    pacemaker.input(Input::LeaseGranted { lease, sent });
                }
                Ok(Err(error)) => {
                    tracing::debug!(%error, "no lease");
                    pacemaker.input(Input::LeaseLost);
                }
                Err(_) => pacemaker.input(Input::LeaseLost),
            }
        });
    }

    /// Keeps it alive.
    pub fn keep_alive(&self) {
        let present = *self.present.lock().unwrap_or_else(PoisonError::into_inner);
        let (Some(lease), Ok(turn)) = (present, Arc::clone(&self.turns).try_acquire_owned()) else {
            return;
        };
        let (store, pacemaker) = (Arc::clone(&self.store), self.pacemaker.clone());
        let present = Arc::clone(&self.present);
        self.runtime.spawn(async move {
            let _turn = turn;
            let sent = dataplane::boot_time();
            match timeout(PATIENCE, store.lease_keep_alive(lease)).await {
                Ok(Ok(())) => {
                    let still = *present.lock().unwrap_or_else(PoisonError::into_inner) == Some(lease);
                    if still {
                        pacemaker.input(Input::LeaseAlive { sent });
                    }
                }
                Ok(Err(StoreError::LeaseNotFound(_))) => {
                    let mut present = present.lock().unwrap_or_else(PoisonError::into_inner);
                    if *present == Some(lease) {
                        *present = None;
                        drop(present);
                        pacemaker.input(Input::LeaseLost);
                    }
                }
                // The core counts the time that nothing came.
                Ok(Err(_)) | Err(_) => {}
            }
        });
    }

    /// Ends it.
    pub fn revoke(&self) {
        let lease = self.present.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(lease) = lease {
            let store = Arc::clone(&self.store);
            self.runtime.spawn(async move {
                if let Err(error) = timeout(PATIENCE, store.lease_revoke(lease))
                    .await
                    .unwrap_or(Ok(()))
                {
                    tracing::debug!(%error, "the lease was not ended");
                }
            });
        }
    }
}
