//! The gRPC services of `vpn.v1`, with who may call what.
//!
//! The services are thin: the registry validates and writes, the daemon's [`SessionBackend`] knows the sessions. Every
//! call passes `guard` first, which finds the caller's role and compares it with one table (`roles`).

mod cluster;
mod error;
mod guard;
mod health;
mod live;
mod resources;
pub mod roles;

use std::sync::Arc;

use tonic::service::Routes;

use crate::{Attempts, ClusterBackend, Registry, SessionBackend};

pub use guard::Access;
pub use health::{HealthService, names};

/// Everything that the services need.
#[derive(Clone)]
pub struct Services {
    inner: Arc<Inner>,
    cluster: Option<Arc<dyn ClusterBackend>>,
    health: Option<HealthService>,
}

struct Inner {
    registry: Arc<Registry>,
    attempts: Arc<Attempts>,
    backend: Arc<dyn SessionBackend>,
}

/// The services cannot be set up.
#[derive(Debug, thiserror::Error)]
#[error("the reflection service cannot be built: {0}")]
pub struct ServicesError(#[from] tonic_reflection::server::Error);

impl Services {
    /// Services over the configuration, the attempts and the daemon.
    pub fn new(registry: Arc<Registry>, attempts: Arc<Attempts>, backend: Arc<dyn SessionBackend>) -> Self {
        Self {
            inner: Arc::new(Inner {
                registry,
                attempts,
                backend,
            }),
            cluster: None,
            health: None,
        }
    }

    /// With a health service that somebody keeps true; without one the API alone is told to be there.
    #[must_use]
    pub fn with_health(mut self, health: HealthService) -> Self {
        self.health = Some(health);
        self
    }

    /// With the cluster that the node is part of; without it the cluster's methods are refused.
    #[must_use]
    pub fn with_cluster(mut self, cluster: Arc<dyn ClusterBackend>) -> Self {
        self.cluster = Some(cluster);
        self
    }

    /// All services of `vpn.v1`, health and reflection, behind the check of roles for this way of access.
    ///
    /// # Errors
    /// When the descriptors cannot be served, which the build has made sure of.
    pub async fn routes(&self, access: Access) -> Result<Routes, ServicesError> {
        use api::v1::address_pool_service_server::AddressPoolServiceServer;
        use api::v1::apply_service_server::ApplyServiceServer;
        use api::v1::attempt_service_server::AttemptServiceServer;
        use api::v1::audit_service_server::AuditServiceServer;
        use api::v1::cluster_service_server::ClusterServiceServer;
        use api::v1::connection_service_server::ConnectionServiceServer;
        use api::v1::credential_service_server::CredentialServiceServer;
        use api::v1::node_service_server::NodeServiceServer;
        use api::v1::session_service_server::SessionServiceServer;
        use api::v1::tenant_service_server::TenantServiceServer;

        let health = match &self.health {
            Some(health) => health.clone(),
            None => {
                let health = HealthService::new();
                let there = tonic_health::ServingStatus::Serving;
                health.reporter().set_service_status("", there).await;
                health
            }
        };
        let routes = health
            .unguarded()?
            .add_service(TenantServiceServer::new(self.clone()))
            .add_service(ConnectionServiceServer::new(self.clone()))
            .add_service(AddressPoolServiceServer::new(self.clone()))
            .add_service(CredentialServiceServer::new(self.clone()))
            .add_service(SessionServiceServer::new(self.clone()))
            .add_service(AttemptServiceServer::new(self.clone()))
            .add_service(NodeServiceServer::new(self.clone()))
            .add_service(ApplyServiceServer::new(self.clone()))
            .add_service(AuditServiceServer::new(self.clone()))
            .add_service(ClusterServiceServer::new(self.clone()));
        Ok(guard::protect(routes, access))
    }
}
