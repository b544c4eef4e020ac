//! Leases: granted under numbers of our own, so that asking twice is harmless, and kept alive over one stream each.
//!
//! A stream belongs to one member; when it breaks or falls silent it is opened again with the next one. Callers get the
//! answer to a keep-alive that was sent after they asked, so the time at which they asked is a safe beginning of
//! the lease's time. That a lease lives is a hint: etcd before 3.5.28 and 3.6.9 can confirm one that is revoked.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use etcd_client::{LeaseGrantOptions, LeaseKeepAliveStream, LeaseKeeper};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};

use super::fault::{Class, Fault};
use super::members::{Counters, Members, random};
use super::plan::signed;
use crate::error::StoreError;
use crate::types::LeaseId;

/// A keeper that nobody has asked for so long closes its stream.
const IDLE: Duration = Duration::from_secs(60);
/// Callers that wait for one keeper.
const WAITING: usize = 64;
/// Between two tries to open a stream.
const PAUSE: Duration = Duration::from_millis(20);

type Reply = oneshot::Sender<Result<(), StoreError>>;

/// Grants, keeps and revokes.
pub(super) struct Leases {
    members: Arc<Members>,
    keepers: Mutex<HashMap<LeaseId, Keeper>>,
}

/// The callers' end of a keeper.
struct Keeper {
    sender: mpsc::Sender<Reply>,
    task: JoinHandle<()>,
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Leases {
    pub(super) fn new(members: Arc<Members>) -> Self {
        Self {
            members,
            keepers: Mutex::new(HashMap::new()),
        }
    }

    pub(super) async fn grant(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        // Whole seconds, rounded up; the members make it at least one and a half election timeouts.
        let seconds = ttl.as_secs() + u64::from(ttl.subsec_nanos() > 0);
        let lease = LeaseId((random() >> 1).max(1));
        let granted = self
            .members
            .call(self.members.deadline(), |mut client| async move {
                let options = LeaseGrantOptions::new().with_id(signed(lease.0));
                client.lease_grant(signed(seconds.max(1)), Some(options)).await
            })
            .await;
        match granted {
            Ok(_) => Ok(lease),
            // An earlier attempt was carried out: nobody else has this number.
            Err(fault) if fault.class == Class::LeaseExists && fault.ambiguous => Ok(lease),
            Err(fault) => Err(fault.into_error()),
        }
    }

    pub(super) async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        drop(self.keepers().remove(&lease));
        let revoked = self
            .members
            .call(self.members.deadline(), |mut client| async move {
                client.lease_revoke(signed(lease.0)).await
            })
            .await;
        match revoked {
            Ok(_) => Ok(()),
            Err(fault) if fault.class == Class::LeaseMissing && fault.ambiguous => Ok(()),
            Err(fault) if fault.class == Class::LeaseMissing => Err(StoreError::LeaseNotFound(lease)),
            Err(fault) => Err(fault.into_write_error()),
        }
    }

    pub(super) async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        let busy = |reason: &str| StoreError::Unavailable {
            reason: reason.to_owned(),
        };
        let deadline = self.members.deadline();
        loop {
            let (reply, answer) = oneshot::channel();
            let sender = self.keeper(lease);
            match sender.try_send(reply) {
                Ok(()) => {}
                Err(mpsc::error::TrySendError::Full(_)) => {
                    return Err(busy("too many callers keep the same lease alive"));
                }
                // It has just closed: a new one is there the next time.
                Err(mpsc::error::TrySendError::Closed(_)) => continue,
            }
            return match timeout_at(deadline, answer).await {
                Ok(Ok(outcome)) => {
                    if matches!(outcome, Err(StoreError::LeaseNotFound(_))) {
                        drop(self.keepers().remove(&lease));
                    }
                    outcome
                }
                // The keeper went idle in this very moment.
                Ok(Err(_)) if Instant::now() < deadline => continue,
                Ok(Err(_)) => Err(busy("the lease's keeper ended")),
                Err(_) => Err(busy("the lease was not confirmed in time")),
            };
        }
    }

    fn keepers(&self) -> std::sync::MutexGuard<'_, HashMap<LeaseId, Keeper>> {
        self.keepers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lease's keeper, begun when there is none.
    fn keeper(&self, lease: LeaseId) -> mpsc::Sender<Reply> {
        let mut keepers = self.keepers();
        keepers.retain(|_, keeper| !keeper.sender.is_closed());
        let keeper = keepers.entry(lease).or_insert_with(|| {
            let (sender, receiver) = mpsc::channel(WAITING);
            let task = tokio::spawn(keep(Arc::clone(&self.members), lease, receiver));
            Keeper { sender, task }
        });
        keeper.sender.clone()
    }
}

/// A stream to one member.
struct Stream {
    member: usize,
    keeper: LeaseKeeper,
    answers: LeaseKeepAliveStream,
}

/// Serves the callers of one lease until they have been silent for long.
async fn keep(members: Arc<Members>, lease: LeaseId, mut receiver: mpsc::Receiver<Reply>) {
    let mut stream = None;
    let mut waiting = Vec::new();
    while let Ok(Some(first)) = timeout(IDLE, receiver.recv()).await {
        waiting.push(first);
        // One keep-alive serves all that ask before it is sent.
        while let Ok(next) = receiver.try_recv() {
            waiting.push(next);
        }
        let outcome = confirm(&members, lease, &mut stream).await;
        for reply in waiting.drain(..) {
            let _ = reply.send(outcome.clone());
        }
    }
}

/// Sends a keep-alive until it is answered or the call's time is over.
async fn confirm(members: &Members, lease: LeaseId, stream: &mut Option<Stream>) -> Result<(), StoreError> {
    let deadline = members.deadline();
    loop {
        let until = deadline.min(Instant::now() + members.settings.attempt_timeout);
        let member = stream
            .as_ref()
            .map_or_else(|| members.current(), |stream| stream.member);
        let attempt = async {
            match stream.take() {
                None => open(members, member, lease).await.map(Some),
                Some(open) => again(open).await,
            }
        };
        let fault = match timeout_at(until, attempt).await {
            Ok(Ok(Some(open))) => {
                *stream = Some(open);
                return Ok(());
            }
            Ok(Ok(None)) => return Err(StoreError::LeaseNotFound(lease)),
            Ok(Err(fault)) if fault.class == Class::LeaseMissing => {
                return Err(StoreError::LeaseNotFound(lease));
            }
            Ok(Err(fault)) => fault,
            Err(_) => Fault::timeout(members.endpoint(member)),
        };
        Counters::count(&members.counters.keep_alives_reopened);
        members.leave(member);
        if !fault.is_transient() || Instant::now() + PAUSE >= deadline {
            return Err(fault.into_error());
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Opens a stream; that sends a first keep-alive and takes its answer.
async fn open(members: &Members, member: usize, lease: LeaseId) -> Result<Stream, Fault> {
    let mut client = members.client(member).await?;
    match client.lease_keep_alive(signed(lease.0)).await {
        Ok((keeper, answers)) => Ok(Stream {
            member,
            keeper,
            answers,
        }),
        Err(error) => {
            let fault = Fault::of(&error);
            if fault.class == Class::StaleToken {
                let _ = client.refresh_token().await;
            }
            Err(fault)
        }
    }
}

/// One more keep-alive on an open stream; `None`: the lease is gone.
async fn again(mut stream: Stream) -> Result<Option<Stream>, Fault> {
    let of = |error: etcd_client::Error| Fault::of(&error);
    stream.keeper.keep_alive().await.map_err(of)?;
    match stream.answers.message().await.map_err(of)? {
        Some(answer) if answer.ttl() > 0 => Ok(Some(stream)),
        Some(_) => Ok(None),
        None => Err(Fault::new(Class::Unavailable, false, "the stream was closed")),
    }
}
