//! The standard health service of gRPC, on its own for a node that is not complete yet, and among the others.

use std::collections::BTreeSet;

use tonic::service::Routes;
use tonic_health::server::HealthReporter;

use super::{Access, ServicesError, guard, roles};

/// The health service, whose clones all say the same.
#[derive(Clone)]
pub struct HealthService {
    reporter: HealthReporter,
    routes: Routes,
}

impl Default for HealthService {
    fn default() -> Self {
        Self::new()
    }
}

impl HealthService {
    /// Says of nothing but the empty name, which serves until it is told otherwise.
    pub fn new() -> Self {
        let (reporter, service) = tonic_health::server::health_reporter();
        Self {
            reporter,
            routes: Routes::new(service),
        }
    }

    /// Where it is told how things are.
    pub fn reporter(&self) -> &HealthReporter {
        &self.reporter
    }

    /// Health and reflection alone, behind the check of roles; whoever calls anything else is told that it is not
    /// available, for the reason given.
    ///
    /// # Errors
    /// When the descriptors cannot be served, which the build has made sure of.
    pub fn routes(&self, access: Access, reason: &'static str) -> Result<Routes, ServicesError> {
        let rest = async move || tonic::Status::unavailable(reason).into_http::<axum::body::Body>();
        let router = self.unguarded()?.into_axum_router().fallback(rest);
        Ok(guard::protect(router.into(), access))
    }

    pub(super) fn unguarded(&self) -> Result<Routes, ServicesError> {
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(api::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .build_v1()?;
        Ok(self.routes.clone().add_service(reflection))
    }
}

/// The names of the services of `vpn.v1`, in order.
pub fn names() -> impl Iterator<Item = &'static str> {
    let names: BTreeSet<&str> = roles::methods()
        .filter_map(|method| method.split_once('/'))
        .map(|(service, _)| service)
        .filter(|service| service.starts_with("vpn.v1."))
        .collect();
    names.into_iter()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_service_has_its_name() {
        let names: Vec<&str> = names().collect();
        assert_eq!(names.len(), 10);
        assert!(names.contains(&"vpn.v1.ClusterService") && names.contains(&"vpn.v1.NodeService"));
    }
}
