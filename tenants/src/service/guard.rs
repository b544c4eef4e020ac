//! The check in front of every call: who is it, and may they.

use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use crypto::cert::Certificate;
use tonic::Status;
use tonic::service::Routes;
use tonic::transport::server::{TcpConnectInfo, TlsConnectInfo, UdsConnectInfo};

use super::roles::{Role, allows, need, of_certificate};
use crate::audit::Actor;

/// How the callers of a listener are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// By the credentials of a Unix socket: root is an operator, nobody else is let in.
    UnixSocket,
    /// By their TLS client certificates.
    ClientCertificates,
}

/// Who calls, for the services.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    /// For the audit trail.
    pub(crate) actor: Actor,
    role: Role,
}

impl Caller {
    /// The caller of a request that has passed the guard.
    pub(crate) fn of<T>(request: &tonic::Request<T>) -> Result<Self, Status> {
        request
            .extensions()
            .get::<Self>()
            .cloned()
            .ok_or_else(|| Status::internal("a call that passed no check of roles"))
    }

    /// The tenant that a question is restricted to: the asked one, or a tenant administrator's own.
    pub(crate) fn scope(&self, asked: &str) -> Result<Option<String>, Status> {
        match &self.role {
            Role::TenantAdmin(own) if asked.is_empty() || asked == own => Ok(Some(own.clone())),
            Role::TenantAdmin(_) => Err(self.not_theirs(asked)),
            Role::Operator | Role::Auditor if asked.is_empty() => Ok(None),
            Role::Operator | Role::Auditor => Ok(Some(asked.to_owned())),
        }
    }

    /// The one tenant that the caller may see; `None`: all.
    pub(crate) fn only_tenant(&self) -> Option<&str> {
        match &self.role {
            Role::TenantAdmin(own) => Some(own),
            Role::Operator | Role::Auditor => None,
        }
    }

    /// Refuses what belongs to another tenant.
    pub(crate) fn owns(&self, tenant: &str) -> Result<(), Status> {
        match &self.role {
            Role::TenantAdmin(own) if own != tenant => Err(self.not_theirs(tenant)),
            Role::TenantAdmin(_) | Role::Operator | Role::Auditor => Ok(()),
        }
    }

    /// Refuses all but operators.
    pub(crate) fn is_operator(&self) -> Result<(), Status> {
        match self.role {
            Role::Operator => Ok(()),
            Role::TenantAdmin(_) | Role::Auditor => {
                Err(Status::permission_denied("this needs the role operator"))
            }
        }
    }

    fn not_theirs(&self, tenant: &str) -> Status {
        Status::permission_denied(format!(
            "{} does not administrate tenant {tenant:?}",
            self.actor.name
        ))
    }
}

/// Puts the guard before all routes.
pub(super) fn protect(routes: Routes, access: Access) -> Routes {
    routes
        .into_axum_router()
        .layer(from_fn_with_state(access, check))
        .into()
}

async fn check(State(access): State<Access>, mut request: Request, next: Next) -> Response {
    let method = request.uri().path().trim_start_matches('/').to_owned();
    let caller = match identify(access, &request) {
        Ok((name, role)) => Caller {
            actor: Actor {
                name,
                role: role.name().to_owned(),
                method: method.clone(),
            },
            role,
        },
        Err(status) => return refused(&method, "", &status),
    };
    let Some(need) = need(&method) else {
        return Status::unimplemented(format!("there is no method {method}")).into_http();
    };
    if !allows(&caller.role, need) {
        let status =
            Status::permission_denied(format!("the role {} may not call {method}", caller.role.name()));
        return refused(&method, &caller.actor.name, &status);
    }
    request.extensions_mut().insert(caller);
    next.run(request).await
}

fn refused(method: &str, caller: &str, status: &Status) -> Response {
    tracing::info!(
        method,
        caller,
        reason = status.message(),
        "a call of the management API was refused"
    );
    status.clone().into_http()
}

fn identify(access: Access, request: &Request) -> Result<(String, Role), Status> {
    match access {
        Access::UnixSocket => {
            let info = request.extensions().get::<UdsConnectInfo>();
            let uid = info
                .and_then(|info| info.peer_cred)
                .map(|credentials| credentials.uid());
            of_uid(uid)
        }
        Access::ClientCertificates => {
            let info = request.extensions().get::<TlsConnectInfo<TcpConnectInfo>>();
            let certificates = info.and_then(TlsConnectInfo::peer_certs);
            let leaf = certificates.as_ref().and_then(|list| list.first());
            let leaf = leaf.ok_or_else(|| Status::unauthenticated("no client certificate was shown"))?;
            let leaf = Certificate::from_der(leaf.as_ref())
                .map_err(|_| Status::unauthenticated("the client certificate cannot be read"))?;
            let role = of_certificate(&leaf).ok_or_else(|| {
                Status::permission_denied(
                    "the client certificate gives no role: its subject needs OU=operator, OU=auditor, or OU=tenant-admin with O=TENANT",
                )
            })?;
            Ok((leaf.subject_text(), role))
        }
    }
}

fn of_uid(uid: Option<u32>) -> Result<(String, Role), Status> {
    match uid {
        Some(0) => Ok(("unix:uid=0".to_owned(), Role::Operator)),
        Some(uid) => Err(Status::permission_denied(format!(
            "uid {uid} may not use this socket; root may"
        ))),
        None => Err(Status::unauthenticated(
            "the kernel does not say who is at the other end of the socket",
        )),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]

    use super::*;

    fn caller(role: Role) -> Caller {
        Caller {
            actor: Actor {
                name: "x".into(),
                role: role.name().into(),
                method: String::new(),
            },
            role,
        }
    }

    #[test]
    fn only_root_is_let_in_by_the_socket() {
        assert_eq!(of_uid(Some(0)).unwrap().1, Role::Operator);
        assert_eq!(
            of_uid(Some(1000)).unwrap_err().code(),
            tonic::Code::PermissionDenied
        );
        assert_eq!(of_uid(None).unwrap_err().code(), tonic::Code::Unauthenticated);
    }

    #[test]
    fn a_tenants_administrator_stays_in_the_tenant() {
        let admin = caller(Role::TenantAdmin("acme".into()));
        assert_eq!(admin.scope("").unwrap().as_deref(), Some("acme"));
        assert_eq!(admin.scope("acme").unwrap().as_deref(), Some("acme"));
        assert!(admin.scope("globex").is_err());
        assert!(admin.owns("globex").is_err());
        assert!(admin.is_operator().is_err());
        let operator = caller(Role::Operator);
        assert_eq!(operator.scope("").unwrap(), None);
        assert_eq!(operator.scope("globex").unwrap().as_deref(), Some("globex"));
        assert!(operator.owns("globex").is_ok());
    }
}
