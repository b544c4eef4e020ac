//! Who may come in: takes the jobs of the cores, has them decided away from the arbiters, and sends the verdicts back.
//!
//! Jobs run as tasks; signatures and chains run on the blocking pool, at most `threads.blocking` at once. Every job
//! holds a unit of the node's limit, and of its tenant's as soon as the tenant is known: a tenant whose users all
//! log in at once waits for itself alone.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use actix::{Addr, Message};
use dashmap::DashMap;
use ike::auth::{AuthJob, AuthVerdict, Rejection};
use ike::wire::NotifyType;
use serde::{Deserialize, Serialize};
use tenants::FailureKind;
use tenants::attempt::CandidateNote;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use crate::actors::IkeSaActor;
use crate::config::Config;
use crate::decide;
use crate::node::Node;
use crate::slot::{Slot, slot_of_session};
use crate::telemetry::Span;
use crate::tenant::{Counted, TenantShare};

/// The verdict on one job.
#[derive(Message)]
#[rtype(result = "()")]
pub struct AuthDone {
    /// The core's number of the job.
    pub ticket: u64,
    /// For the core.
    pub verdict: Box<AuthVerdict>,
    /// For the shell, when the peer may come in.
    pub granted: Option<Box<Granted>>,
    /// For the attempt record and the trace.
    pub notes: Notes,
}

/// What the shell needs to make a session.
pub struct Granted {
    /// The tenant.
    pub tenant: Arc<TenantShare>,
    /// The session's unit of the tenant's limit.
    pub counted: Counted,
    /// The login's unit of the tenant's limit of logins.
    pub opening: Counted,
    /// The connection.
    pub connection: String,
    /// Virtual addresses.
    pub virtual_addresses: Vec<IpAddr>,
    /// The ESP worker.
    pub worker: u8,
    /// The routing domain.
    pub domain: u32,
    /// Hard lifetime of the IKE SA.
    pub ike_lifetime: Option<Duration>,
}

/// What is told to the operator.
#[derive(Clone, Debug, Default)]
pub struct Notes {
    /// Connections that were looked at.
    pub candidates: Vec<CandidateNote>,
    /// The tenant, once it is known.
    pub tenant: Option<String>,
    /// The connection that was chosen.
    pub connection: Option<String>,
    /// Who the peer says it is.
    pub peer_id: String,
    /// Whom it asked for.
    pub wanted_id: String,
    /// What is to be said of its certificate.
    pub certificate_verdict: String,
    /// NAT findings.
    pub nat: String,
    /// The kind of a failure.
    pub failure: Option<FailureKind>,
    /// What was done, and how long it took.
    pub spans: Vec<Span>,
}

/// An address that a session holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The pool.
    pub pool: String,
    /// The address.
    pub address: IpAddr,
    /// Whose it is: the user's identity.
    pub owner: String,
}

/// The queue of authentications.
pub struct Authenticator {
    runtime: Handle,
    running: Arc<AtomicU32>,
    most: u32,
    blocking: Arc<Semaphore>,
    /// Addresses by session, with the tenant whose pools they are from.
    leases: DashMap<u64, (String, Vec<Lease>)>,
}

impl Authenticator {
    /// `runtime` runs the tasks and has the blocking threads.
    #[must_use]
    pub fn new(runtime: Handle, config: &Config) -> Self {
        Self {
            runtime,
            running: Arc::default(),
            most: config.limits.authentications,
            blocking: Arc::new(Semaphore::new(usize::from(config.threads.blocking))),
            leases: DashMap::new(),
        }
    }

    /// Takes a job; the verdict goes to `reply`.
    pub fn submit(
        &self,
        node: &Arc<Node>,
        slot: &Arc<Slot>,
        (id, ticket): (u64, u64),
        job: Box<AuthJob>,
        reply: Addr<IkeSaActor>,
    ) {
        let Some(unit) = Counted::take(&self.running, self.most) else {
            reply.do_send(refusal(
                ticket,
                "the node's limit of authentications is reached",
                FailureKind::Limit,
            ));
            return;
        };
        let (node, slot) = (Arc::clone(node), Arc::clone(slot));
        self.runtime.spawn(async move {
            let decision = tokio::spawn(decide::decide(Arc::clone(&node), slot, id, ticket, job));
            let done = decision.await.unwrap_or_else(|panic| {
                tracing::error!(%panic, "an authentication panicked");
                refusal(ticket, "an authentication panicked", FailureKind::Internal)
            });
            let refused = done.granted.is_none();
            // One answer for one question of a bounded number.
            reply.do_send(done);
            if refused || !reply.connected() {
                node.authenticator.give_back(&node, id);
            }
            drop(unit);
        });
    }

    /// Whether so many authentications run that new peers should prove their address first.
    #[must_use]
    pub fn busy(&self) -> bool {
        self.running.load(Ordering::Relaxed) >= self.most / 2
    }

    /// Runs work on the blocking pool, at most `threads.blocking` at once.
    ///
    /// # Errors
    /// The work panicked, or the process ends.
    pub async fn block<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, String> {
        let permit = Arc::clone(&self.blocking)
            .acquire_owned()
            .await
            .map_err(|error| error.to_string())?;
        let result = self
            .runtime
            .spawn_blocking(work)
            .await
            .map_err(|error| error.to_string());
        drop(permit);
        result
    }

    /// Remembers an address of a session.
    pub fn lease(&self, id: u64, tenant: &str, lease: Lease) {
        self.leases
            .entry(id)
            .or_insert_with(|| (tenant.to_owned(), Vec::new()))
            .1
            .push(lease);
    }

    /// The addresses of a session that is carried on.
    pub fn adopt(&self, id: u64, tenant: &str, leases: Vec<Lease>) {
        if !leases.is_empty() {
            self.leases.insert(id, (tenant.to_owned(), leases));
        }
    }

    /// The addresses of a session.
    #[must_use]
    pub fn leases_of(&self, id: u64) -> Vec<Lease> {
        self.leases
            .get(&id)
            .map(|held| held.1.clone())
            .unwrap_or_default()
    }

    /// Gives the addresses of a session or of a failed login back, in the background.
    pub fn give_back(&self, node: &Arc<Node>, id: u64) {
        if let Some((_, held)) = self.leases.remove(&id) {
            self.runtime
                .spawn(release(Arc::clone(node), slot_of_session(id), held));
        }
    }

    /// Takes the addresses of a session away from it.
    #[must_use]
    pub fn take(&self, id: u64) -> Option<(String, Vec<Lease>)> {
        self.leases.remove(&id).map(|(_, held)| held)
    }
}

/// Gives addresses of a slot back to their pools; they are another node's to give back when the slot is.
pub async fn release(node: Arc<Node>, slot: u8, (tenant, leases): (String, Vec<Lease>)) {
    let Some(slot) = node.slots.get(slot) else { return };
    let fence = slot.fenced();
    for lease in leases {
        if let Some(pool) = node.registry.pool(&tenant, &lease.pool)
            && let Err(error) = pool
                .give_back_in(&lease.owner, lease.address, slot.share(), &fence)
                .await
        {
            tracing::warn!(%error, pool = lease.pool, "an address could not be given back");
        }
    }
}

/// A refusal that has nothing to do with who the peer is.
fn refusal(ticket: u64, reason: &str, kind: FailureKind) -> AuthDone {
    AuthDone {
        ticket,
        verdict: Box::new(AuthVerdict::Reject(Rejection {
            notify: NotifyType::TEMPORARY_FAILURE,
            reason: reason.to_owned(),
        })),
        granted: None,
        notes: Notes {
            failure: Some(kind),
            ..Notes::default()
        },
    }
}
