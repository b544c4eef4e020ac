//! The services of what lives: sessions, attempts, the node, the audit trail.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::SystemTime;

use api::time::system_time;
use api::v1;
use api::v1::attempt_service_server::AttemptService;
use api::v1::audit_service_server::AuditService;
use api::v1::node_service_server::NodeService;
use api::v1::session_service_server::SessionService;
use futures::stream::BoxStream;
use futures::{StreamExt as _, future};
use tokio_stream::wrappers::BroadcastStream;
use tonic::{Request, Response, Status};

use super::Services;
use super::error::of_backend;
use super::guard::Caller;
use super::resources::page_size;
use crate::attempts::Numbered;
use crate::{AttemptFilter, BackendError, SessionFilter};

/// Sessions that one call may end.
const MAX_DISCONNECT: usize = 100_000;

fn some(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

fn address(text: &str) -> Result<Option<std::net::IpAddr>, Status> {
    match text {
        "" => Ok(None),
        text => text
            .parse()
            .map(Some)
            .map_err(|_| Status::invalid_argument(format!("address: {text:?} is no IP address"))),
    }
}

/// The number in a page token.
fn before(token: &str) -> Result<Option<u64>, Status> {
    match token {
        "" => Ok(None),
        text => text
            .parse()
            .map(Some)
            .map_err(|_| Status::invalid_argument("page_token: not one that this service gave")),
    }
}

impl Services {
    /// Writes a command into the audit trail; a store that is away does not hold the command back.
    pub(super) async fn note(&self, caller: &Caller, kind: &str, tenant: &str, name: &str, detail: &str) {
        let change = v1::Change {
            kind: kind.to_owned(),
            tenant: tenant.to_owned(),
            name: name.to_owned(),
            action: v1::ChangeAction::Update.into(),
            fields: vec![v1::FieldChange {
                path: detail.to_owned(),
                ..v1::FieldChange::default()
            }],
        };
        if let Err(error) = self.inner.registry.record_command(&caller.actor, change).await {
            tracing::error!(%error, "a command is missing in the audit trail");
        }
    }

    async fn session(&self, caller: &Caller, id: &str) -> Result<v1::Session, Status> {
        let session = self.inner.backend.get(id).await.map_err(|e| of_backend(&e))?;
        // What belongs to another tenant looks as if it were not there.
        caller
            .owns(&session.tenant)
            .map_err(|_| Status::not_found(format!("session {id} not found")))?;
        Ok(session)
    }

    async fn chosen(
        &self,
        caller: &Caller,
        request: &v1::DisconnectRequest,
    ) -> Result<Vec<v1::Session>, Status> {
        if !request.ids.is_empty() {
            let mut sessions = Vec::new();
            for id in request.ids.iter().take(MAX_DISCONNECT) {
                match self.session(caller, id).await {
                    Ok(session) => sessions.push(session),
                    Err(status) if status.code() == tonic::Code::NotFound => {}
                    Err(status) => return Err(status),
                }
            }
            return Ok(sessions);
        }
        let whole_tenant = request.all && !request.tenant.is_empty();
        if request.identity.is_empty() && !whole_tenant {
            return Err(Status::invalid_argument("one of: ids; identity; all with tenant"));
        }
        let filter = SessionFilter {
            tenant: caller.scope(&request.tenant)?,
            identity: some(&request.identity),
            address: None,
        };
        let found = self
            .inner
            .backend
            .list(&filter, None, MAX_DISCONNECT)
            .await
            .map_err(|e| of_backend(&e))?;
        let exact = |s: &v1::Session| request.identity.is_empty() || s.peer_id == request.identity;
        Ok(found.into_iter().filter(exact).collect())
    }
}

#[tonic::async_trait]
impl SessionService for Services {
    async fn get(&self, request: Request<v1::GetSessionRequest>) -> Result<Response<v1::Session>, Status> {
        let caller = Caller::of(&request)?;
        Ok(Response::new(
            self.session(&caller, &request.into_inner().id).await?,
        ))
    }

    async fn list(
        &self,
        request: Request<v1::ListSessionsRequest>,
    ) -> Result<Response<v1::ListSessionsResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let filter = SessionFilter {
            tenant: caller.scope(&request.tenant)?,
            identity: some(&request.identity),
            address: address(&request.address)?,
        };
        let size = page_size(request.page_size);
        let after = some(&request.page_token);
        let found = self.inner.backend.list(&filter, after.as_deref(), size + 1).await;
        let mut sessions = found.map_err(|e| of_backend(&e))?;
        let more = sessions.len() > size;
        sessions.truncate(size);
        let next_page_token = sessions
            .last()
            .filter(|_| more)
            .map(|s| s.id.clone())
            .unwrap_or_default();
        Ok(Response::new(v1::ListSessionsResponse {
            sessions,
            next_page_token,
        }))
    }

    type WatchStream = BoxStream<'static, Result<v1::SessionEvent, Status>>;

    async fn watch(
        &self,
        request: Request<v1::WatchSessionsRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let caller = Caller::of(&request)?;
        let tenant = caller.scope(&request.into_inner().tenant)?;
        let wanted = move |event: &v1::SessionEvent| {
            let of = event.session.as_ref().map(|session| session.tenant.as_str());
            future::ready(tenant.is_none() || of == tenant.as_deref())
        };
        Ok(Response::new(
            self.inner.backend.watch().filter(wanted).map(Ok).boxed(),
        ))
    }

    async fn disconnect(
        &self,
        request: Request<v1::DisconnectRequest>,
    ) -> Result<Response<v1::DisconnectResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let sessions = self.chosen(&caller, &request).await?;
        let mut ids: Vec<String> = sessions.iter().map(|session| session.id.clone()).collect();
        if !request.validate_only && !ids.is_empty() {
            let reason = format!("disconnected by {}", caller.actor.name);
            ids = self
                .inner
                .backend
                .disconnect(&ids, &reason)
                .await
                .map_err(|e| of_backend(&e))?;
            let gone: BTreeSet<&str> = ids.iter().map(String::as_str).collect();
            // A record for each tenant, so that each sees its own.
            let mut ended: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
            for session in sessions
                .iter()
                .filter(|session| gone.contains(session.id.as_str()))
            {
                ended.entry(&session.tenant).or_default().push(&session.id);
            }
            for (tenant, ids) in ended {
                let what = match ids.as_slice() {
                    [one] => (*one).to_owned(),
                    many => format!("{} sessions", many.len()),
                };
                self.note(&caller, "Session", tenant, &what, "disconnect").await;
            }
        }
        Ok(Response::new(v1::DisconnectResponse { ids }))
    }

    async fn rekey(&self, request: Request<v1::RekeyRequest>) -> Result<Response<v1::RekeyResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let session = self.session(&caller, &request.id).await?;
        let started = self
            .inner
            .backend
            .rekey(request)
            .await
            .map_err(|e| of_backend(&e))?;
        self.note(&caller, "Session", &session.tenant, &session.id, "rekey")
            .await;
        Ok(Response::new(v1::RekeyResponse { started }))
    }
}

#[tonic::async_trait]
impl AttemptService for Services {
    async fn list(
        &self,
        request: Request<v1::ListAttemptsRequest>,
    ) -> Result<Response<v1::ListAttemptsResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let filter = AttemptFilter {
            tenant: caller.scope(&request.tenant)?,
            address: address(&request.address)?,
            identity: some(&request.identity),
            since: request.since.as_ref().map(system_time),
            until: request.until.as_ref().map(system_time),
            failed_only: request.failed_only,
        };
        let size = page_size(request.page_size);
        let mut found = self
            .inner
            .attempts
            .list(&filter, before(&request.page_token)?, size + 1);
        let more = found.len() > size;
        found.truncate(size);
        let next_page_token = found
            .last()
            .filter(|_| more)
            .map(|last| last.id.to_string())
            .unwrap_or_default();
        let attempts = found
            .iter()
            .map(|entry| entry.record.to_api_within(entry.id, caller.only_tenant()))
            .collect();
        Ok(Response::new(v1::ListAttemptsResponse {
            attempts,
            next_page_token,
        }))
    }

    type WatchStream = BoxStream<'static, Result<v1::Attempt, Status>>;

    async fn watch(
        &self,
        request: Request<v1::WatchAttemptsRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let filter = AttemptFilter {
            tenant: caller.scope(&request.tenant)?,
            failed_only: request.failed_only,
            ..AttemptFilter::default()
        };
        let only = caller.only_tenant().map(str::to_owned);
        // A reader that falls behind loses the oldest; the rest still comes.
        let stream = BroadcastStream::new(self.inner.attempts.watch()).filter_map(move |entry| {
            let wanted = entry.ok().filter(|entry| filter.matches(&entry.record));
            let shown = |entry: Arc<Numbered>| Ok(entry.record.to_api_within(entry.id, only.as_deref()));
            future::ready(wanted.map(shown))
        });
        Ok(Response::new(stream.boxed()))
    }
}

#[tonic::async_trait]
impl NodeService for Services {
    async fn status(
        &self,
        request: Request<v1::NodeStatusRequest>,
    ) -> Result<Response<v1::NodeStatus>, Status> {
        Caller::of(&request)?;
        self.inner
            .backend
            .node_status()
            .await
            .map(Response::new)
            .map_err(|e| of_backend(&e))
    }

    async fn reload(
        &self,
        request: Request<v1::ReloadRequest>,
    ) -> Result<Response<v1::ReloadResponse>, Status> {
        let caller = Caller::of(&request)?;
        caller.is_operator()?;
        let only_check = request.into_inner().validate_only;
        let answer = self
            .inner
            .backend
            .reload(only_check)
            .await
            .map_err(|e| of_backend(&e))?;
        if !only_check {
            self.note(&caller, "Node", "", "node", "reload").await;
        }
        Ok(Response::new(answer))
    }

    async fn redirect(
        &self,
        request: Request<v1::RedirectRequest>,
    ) -> Result<Response<v1::RedirectResponse>, Status> {
        let caller = Caller::of(&request)?;
        caller.is_operator()?;
        let request = request.into_inner();
        let what = match request.to.as_slice() {
            [] => "nowhere".to_owned(),
            to => to.join(", "),
        };
        let outcome = self.inner.backend.redirect(request).await;
        // One that ran out of time is in force.
        if matches!(outcome, Ok(_) | Err(BackendError::Unavailable(_))) {
            self.note(&caller, "Node", "", &what, "redirect").await;
        }
        outcome.map(Response::new).map_err(|e| of_backend(&e))
    }

    async fn inject_fault(
        &self,
        request: Request<v1::InjectFaultRequest>,
    ) -> Result<Response<v1::InjectFaultResponse>, Status> {
        let caller = Caller::of(&request)?;
        caller.is_operator()?;
        let request = request.into_inner();
        let what = format!("{} {}", request.target, request.selector);
        let answer = self
            .inner
            .backend
            .inject_fault(request)
            .await
            .map_err(|e| of_backend(&e))?;
        self.note(&caller, "Node", "", &what, "inject_fault").await;
        Ok(Response::new(answer))
    }
}

#[tonic::async_trait]
impl AuditService for Services {
    async fn list(
        &self,
        request: Request<v1::ListAuditRequest>,
    ) -> Result<Response<v1::ListAuditResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let tenant = caller.scope(&request.tenant)?;
        let since = request
            .since
            .as_ref()
            .map(system_time)
            .unwrap_or(SystemTime::UNIX_EPOCH);
        let since = since
            .duration_since(SystemTime::UNIX_EPOCH)
            .map(|d| d.as_millis())
            .unwrap_or(0);
        let size = page_size(request.page_size);
        let mut found = self
            .inner
            .registry
            .audit(before(&request.page_token)?, size + 1, |record| {
                let change = &record.change;
                u128::from(record.millis) >= since
                    && tenant.as_ref().is_none_or(|tenant| *tenant == change.tenant)
                    && (request.kind.is_empty() || request.kind == change.kind)
                    && (request.name.is_empty() || request.name == change.name)
            });
        let more = found.len() > size;
        found.truncate(size);
        let next_page_token = found
            .last()
            .filter(|_| more)
            .map(|last| last.id.to_string())
            .unwrap_or_default();
        let records = found.iter().map(|record| record.to_api()).collect();
        Ok(Response::new(v1::ListAuditResponse {
            records,
            next_page_token,
        }))
    }
}
