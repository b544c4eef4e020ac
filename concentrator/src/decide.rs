//! One authentication from the job to the verdict: resolve, verify, admit, sign, assign.
//!
//! Whatever is wrong with the peer, it is told AUTHENTICATION_FAILED, and the work done for an unknown user is that
//! done for a wrong key.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ike::Identity;
use ike::auth::{AuthJob, AuthVerdict, Grant, LocalCredential, PeerCredential, Rejection};
use ike::config::Assigned;
use ike::wire::{AuthMethod, NotifyType};
use tenants::model::{Auth, Connection, UserLimit};
use tenants::resolve::{Method, Query, Resolution};
use tenants::{FailureKind, PeerIdentity};

use crate::actors::Evict;
use crate::authenticator::{self, AuthDone, Granted, Lease, Notes};
use crate::node::Node;
use crate::policy;
use crate::slot::Slot;
use crate::telemetry::Span;
use crate::tenant::Counted;

/// How long a login waits for a session that it replaces to go.
const EVICTION: Duration = Duration::from_secs(1);

/// Why the peer may not come in.
struct Refusal {
    notify: NotifyType,
    kind: FailureKind,
    reason: String,
}

impl Refusal {
    fn authentication(kind: FailureKind, reason: impl Into<String>) -> Self {
        Self {
            notify: NotifyType::AUTHENTICATION_FAILED,
            kind,
            reason: reason.into(),
        }
    }

    fn local(kind: FailureKind, reason: impl Into<String>) -> Self {
        Self {
            notify: NotifyType::TEMPORARY_FAILURE,
            kind,
            reason: reason.into(),
        }
    }
}

/// Decides on one job.
pub(crate) async fn decide(
    node: Arc<Node>,
    slot: Arc<Slot>,
    id: u64,
    ticket: u64,
    job: Box<AuthJob>,
) -> AuthDone {
    let mut notes = Notes {
        peer_id: job.peer_id.to_string(),
        wanted_id: job
            .wanted_local_id
            .as_ref()
            .map(ToString::to_string)
            .unwrap_or_default(),
        nat: job.nat.to_string(),
        ..Notes::default()
    };
    match admit(&node, &slot, id, job, &mut notes).await {
        Ok((grant, granted)) => AuthDone {
            ticket,
            verdict: Box::new(AuthVerdict::Accept(Box::new(grant))),
            granted: Some(Box::new(granted)),
            notes,
        },
        Err(Refusal { notify, kind, reason }) => {
            notes.failure = Some(kind);
            let verdict = Box::new(AuthVerdict::Reject(Rejection { notify, reason }));
            AuthDone {
                ticket,
                verdict,
                granted: None,
                notes,
            }
        }
    }
}

async fn admit(
    node: &Arc<Node>,
    slot: &Arc<Slot>,
    id: u64,
    job: Box<AuthJob>,
    notes: &mut Notes,
) -> Result<(Grant, Granted), Refusal> {
    if slot.records.is_static() && !slot.logins_without_store {
        return Err(Refusal::local(
            FailureKind::Internal,
            "the store is out of reach: live sessions go on, new ones cannot be recorded",
        ));
    }
    let job = Arc::new(*job);
    let resolution = Span::measure("resolve", &mut notes.spans, || resolve(node, &job));
    notes.candidates = resolution.candidates;
    let Some(connection) = resolution.chosen else {
        spend_like_a_wrong_key(node, &job, notes).await;
        let kind = resolution.failure.unwrap_or(FailureKind::NoConnection);
        return Err(Refusal::authentication(kind, "no connection fits this peer"));
    };
    notes.tenant = Some(connection.tenant.clone());
    notes.connection = Some(connection.name.clone());
    let tenant = node
        .registry
        .tenant(&connection.tenant)
        .ok_or_else(|| Refusal::local(FailureKind::Internal, "the tenant is being removed"))?;
    let share = node.tenants.share(&tenant.name);
    node.ensure_tenant(&tenant.name);
    let opening = Counted::take(&share.opening, tenant.limits.max_half_open).ok_or_else(|| {
        Refusal::local(
            FailureKind::Limit,
            "the tenant's limit of logins at once is reached",
        )
    })?;
    // The tenant's own queue: its logins wait for each other, not for those of others.
    let _turn = Arc::clone(&share.authentications)
        .acquire_owned()
        .await
        .map_err(|_| Refusal::local(FailureKind::Internal, "the node is stopping"))?;

    verify(node, &job, &connection, notes).await?;
    let local_auth = sign(node, &job, &connection, notes).await?;
    make_room(node, &job, &tenant, notes).await?;
    if node.sessions.len() >= node.config.limits.sessions as usize {
        return Err(Refusal::local(
            FailureKind::Limit,
            "the node's limit of sessions is reached",
        ));
    }
    let counted = Counted::take(&share.sessions, tenant.limits.max_sessions).ok_or_else(|| {
        Refusal::local(
            FailureKind::Limit,
            format!(
                "the tenant's limit of {} sessions is reached",
                tenant.limits.max_sessions
            ),
        )
    })?;
    let (assigned, child_refused) = assign(node, slot, id, &job, &connection, notes).await;
    let addresses: Vec<IpAddr> = assigned
        .v4
        .map(IpAddr::V4)
        .into_iter()
        .chain(assigned.v6.map(|(v6, _)| IpAddr::V6(v6)))
        .collect();
    let worker = policy::worker(
        &connection,
        &addresses,
        job.remote.ip(),
        node.config.threads.workers,
    );
    let ike_lifetime = policy::ike_lifetime(&connection);
    let granted = Granted {
        domain: node.domains.id(&tenant.name),
        tenant: share,
        counted,
        opening,
        connection: connection.name.clone(),
        virtual_addresses: addresses.clone(),
        worker,
        ike_lifetime: ike_lifetime.hard,
    };
    let grant = Grant {
        connection: connection.name.clone(),
        tenant: tenant.name.clone(),
        local_auth,
        policy: policy::child(
            &connection,
            &tenant,
            &addresses,
            job.remote.ip(),
            (worker, node.config.threads.workers),
        ),
        assigned,
        child_refused,
        ike_lifetime,
        liveness: connection.dpd_secs.map(|secs| Duration::from_secs(secs.into())),
    };
    Ok((grant, granted))
}

pub(crate) fn identity(id: &Identity) -> PeerIdentity {
    PeerIdentity {
        kind: id.kind.0,
        data: id.data.clone(),
        text: id.to_string(),
    }
}

fn resolve(node: &Node, job: &AuthJob) -> Resolution {
    let peer_id = identity(&job.peer_id);
    let wanted = job.wanted_local_id.as_ref().map(identity);
    let authorities: Vec<Vec<u8>> = job.cert_authorities.iter().map(|hash| hash.to_vec()).collect();
    let issuers: Vec<Vec<u8>> = job
        .peer_certs
        .iter()
        .filter_map(|der| crypto::cert::Certificate::from_der(der).ok())
        .map(|certificate| certificate.issuer_dn_der().to_vec())
        .collect();
    node.registry.resolve(&Query {
        local_addr: job.local.ip(),
        remote_addr: job.remote.ip(),
        peer_id: &peer_id,
        wanted_id: wanted.as_ref(),
        cert_authorities: &authorities,
        peer_issuers: &issuers,
        method: method(job),
    })
}

fn method(job: &AuthJob) -> Option<Method> {
    job.peer_auth.as_ref().map(|(method, _)| {
        if *method == AuthMethod::SHARED_KEY {
            Method::Psk
        } else {
            Method::Certificate
        }
    })
}

/// An unknown user takes as long as one with a wrong key.
async fn spend_like_a_wrong_key(node: &Arc<Node>, job: &Arc<AuthJob>, notes: &mut Notes) {
    if method(job) != Some(Method::Psk) {
        return;
    }
    let credential = PeerCredential::Psk(node.registry.decoy_psk(&identity(&job.peer_id)));
    let job = Arc::clone(job);
    let begun = (SystemTime::now(), Instant::now());
    let _ = node
        .authenticator
        .block(move || ike::auth::verify(&job, &credential).is_ok())
        .await;
    notes.spans.push(Span {
        name: "auth verify",
        start: begun.0,
        took: begun.1.elapsed(),
        detail: "no connection".to_owned(),
        failed: true,
    });
}

/// Is the peer who it says it is?
async fn verify(
    node: &Arc<Node>,
    job: &Arc<AuthJob>,
    connection: &Arc<Connection>,
    notes: &mut Notes,
) -> Result<(), Refusal> {
    let peer_id = identity(&job.peer_id);
    let mut unknown = false;
    let credential = match &connection.auth {
        Auth::Psk { .. } => {
            PeerCredential::Psk(node.registry.psk(connection, &peer_id).unwrap_or_else(|| {
                unknown = true;
                node.registry.decoy_psk(&peer_id)
            }))
        }
        Auth::Certificate { .. } => PeerCredential::Certificates {
            anchors: node.registry.anchors(connection),
            now_unix: unix_now(),
            purpose: crypto::cert::Purpose::Client,
        },
    };
    let is_certificate = matches!(credential, PeerCredential::Certificates { .. });
    let begun = (SystemTime::now(), Instant::now());
    let owned = Arc::clone(job);
    let result = node
        .authenticator
        .block(move || ike::auth::verify(&owned, &credential))
        .await
        .map_err(|reason| Refusal::local(FailureKind::Internal, reason))?;
    let failed = result.is_err() || unknown;
    let detail = match &result {
        Ok(peer) => peer.how.clone(),
        Err(failure) => failure.to_string(),
    };
    if is_certificate {
        notes.certificate_verdict.clone_from(&detail);
        notes.spans.push(Span {
            name: "chain validation",
            start: begun.0,
            took: begun.1.elapsed(),
            detail: String::new(),
            failed,
        });
    }
    notes.spans.push(Span {
        name: "auth verify",
        start: begun.0,
        took: begun.1.elapsed(),
        detail,
        failed,
    });
    match result {
        _ if unknown => Err(Refusal::authentication(
            FailureKind::UnknownIdentity,
            "no pre-shared key is for this identity",
        )),
        Ok(_) => Ok(()),
        Err(failure) => Err(Refusal::authentication(
            policy::failure_kind(&failure),
            failure.to_string(),
        )),
    }
}

/// Our own proof.
async fn sign(
    node: &Arc<Node>,
    job: &Arc<AuthJob>,
    connection: &Arc<Connection>,
    notes: &mut Notes,
) -> Result<ike::auth::LocalAuth, Refusal> {
    let trouble = |reason: String| Refusal::local(FailureKind::LocalCredential, reason);
    let credential = match &connection.auth {
        Auth::Psk { .. } => {
            let key = node
                .registry
                .psk(connection, &identity(&job.peer_id))
                .ok_or_else(|| trouble("the pre-shared key was removed meanwhile".to_owned()))?;
            LocalCredential::psk(policy::local_id(connection, job, None), key)
        }
        Auth::Certificate { .. } => {
            let material = node
                .registry
                .local_key(connection)
                .map_err(|error| trouble(error.to_string()))?;
            let id = policy::local_id(connection, job, material.chain.first().map(Vec::as_slice));
            LocalCredential::certificate(id, Arc::clone(&material.key), material.chain.clone())
        }
    };
    let begun = (SystemTime::now(), Instant::now());
    let owned = Arc::clone(job);
    let result = node
        .authenticator
        .block(move || ike::auth::sign(&owned, &credential))
        .await
        .map_err(|reason| Refusal::local(FailureKind::Internal, reason))?;
    let detail = match &result {
        Ok(signed) => format!("{} as {}", signed.method, signed.id),
        Err(failure) => failure.to_string(),
    };
    let failed = result.is_err();
    notes.spans.push(Span {
        name: "signature",
        start: begun.0,
        took: begun.1.elapsed(),
        detail,
        failed,
    });
    result.map_err(|failure| trouble(failure.to_string()))
}

/// Sessions of the same user, as the tenant's policy has it.
async fn make_room(
    node: &Arc<Node>,
    job: &AuthJob,
    tenant: &tenants::Tenant,
    notes: &mut Notes,
) -> Result<(), Refusal> {
    let present = node.sessions.of_user(&tenant.name, &notes.peer_id);
    let most = tenant.limits.max_sessions_per_user as usize;
    let surplus = match tenant.limits.user_limit {
        UserLimit::Keep => 0,
        //= rfc7296#section-2.4
        //# The INITIAL_CONTACT notification asserts that this IKE SA is the only IKE SA currently active between the authenticated identities.
        UserLimit::Refuse | UserLimit::ReplaceOldest if job.initial_contact => present.len(),
        UserLimit::ReplaceOldest => (present.len() + 1).saturating_sub(most),
        UserLimit::Refuse if present.len() >= most => {
            return Err(Refusal::authentication(
                FailureKind::Limit,
                format!("the user has {} sessions, the limit is {most}", present.len()),
            ));
        }
        UserLimit::Refuse => 0,
    };
    for session in present.into_iter().take(surplus) {
        let held = node.authenticator.take(session.facts.id);
        if let Some(addr) = session.addr.load_full() {
            let evict = Evict {
                reason: "replaced by a new login of the same user".to_owned(),
            };
            let _ = tokio::time::timeout(EVICTION, addr.send(evict)).await;
        }
        // After the old session's SAs are gone, so that the same address may be given again.
        if let Some(held) = held {
            authenticator::release(Arc::clone(node), session.facts.slot, held).await;
        }
    }
    Ok(())
}

/// Virtual addresses and what goes with them.
async fn assign(
    node: &Arc<Node>,
    slot: &Slot,
    id: u64,
    job: &AuthJob,
    connection: &Connection,
    notes: &mut Notes,
) -> (Assigned, Option<Rejection>) {
    let Some(request) = &job.config_request else {
        return (Assigned::default(), None);
    };
    let begun = (SystemTime::now(), Instant::now());
    let mut assigned = Assigned {
        dns: connection.dns.clone(),
        subnets: connection.split_subnets.clone(),
        ..Assigned::default()
    };
    let mut trouble = Vec::new();
    let wishes = [
        request.v4.map(|wish| (true, wish.map(IpAddr::V4))),
        request.v6.map(|wish| (false, wish.map(IpAddr::V6))),
    ];
    for (is_v4, wish) in wishes.into_iter().flatten() {
        match allocate(node, slot, id, connection, (&notes.peer_id, is_v4, wish)).await {
            Ok(Some(IpAddr::V4(v4))) => assigned.v4 = Some(v4),
            Ok(Some(IpAddr::V6(v6))) => assigned.v6 = Some((v6, 128)),
            Ok(None) => {}
            Err(reason) => trouble.push(reason),
        }
    }
    let nothing = request.wants_address() && !assigned.has_address() && !connection.pools.is_empty();
    let detail = match (assigned.v4, assigned.v6) {
        (None, None) => "none".to_owned(),
        _ => format!(
            "{} of {}",
            if assigned.v4.is_some() && assigned.v6.is_some() {
                "two"
            } else {
                "one"
            },
            "two families"
        ),
    };
    notes.spans.push(Span {
        name: "address assignment",
        start: begun.0,
        took: begun.1.elapsed(),
        detail,
        failed: nothing,
    });
    let refused = nothing.then(|| {
        notes.failure = Some(FailureKind::PoolExhausted);
        Rejection {
            notify: NotifyType::INTERNAL_ADDRESS_FAILURE,
            reason: trouble.join("; "),
        }
    });
    (assigned, refused)
}

async fn allocate(
    node: &Arc<Node>,
    slot: &Slot,
    id: u64,
    connection: &Connection,
    (owner, is_v4, wish): (&str, bool, Option<IpAddr>),
) -> Result<Option<IpAddr>, String> {
    let mut trouble = None;
    for name in &connection.pools {
        let Some(pool) = node
            .registry
            .pool(&connection.tenant, name)
            .filter(|pool| pool.is_ipv4() == is_v4)
        else {
            continue;
        };
        let fence = slot.fenced();
        match pool.allocate_in(owner, wish, slot.share(), &fence).await {
            Ok(address) => {
                let lease = Lease {
                    pool: name.clone(),
                    address,
                    owner: owner.to_owned(),
                };
                node.authenticator.lease(id, &connection.tenant, lease);
                return Ok(Some(address));
            }
            Err(error) => trouble = Some(error.to_string()),
        }
    }
    trouble.map_or(Ok(None), Err)
}

fn unix_now() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(i64::MAX))
}
