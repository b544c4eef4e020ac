//! What the unit tests share: a sealer that binds to its context, and a registry in a temporary directory.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::sync::Arc;

use api::v1;
use api::v1::resource::Resource;
use crypto::{Secret, open_blob, seal_blob};
use store::{Durability, Embedded};

use crate::audit::Actor;
use crate::proposal::SyntaxCheck;
use crate::registry::{Mutation, Outcome, Registry, RegistryError};
use crate::seal::{SealError, Sealer};

/// Seals as the daemon does, under a fixed key.
pub(crate) struct TestSealer;

impl TestSealer {
    fn key() -> Secret {
        Secret::from([7_u8; 32])
    }
}

impl Sealer for TestSealer {
    fn seal(&self, context: &str, plaintext: &[u8]) -> Result<Vec<u8>, SealError> {
        let sealed = seal_blob(
            &Self::key(),
            context.as_bytes(),
            plaintext,
            &mut crypto::SystemRandom,
        );
        sealed.map_err(|error| SealError::Seal {
            context: context.to_owned(),
            reason: error.to_string(),
        })
    }

    fn open(&self, context: &str, sealed: &[u8]) -> Result<Secret, SealError> {
        open_blob(&Self::key(), context.as_bytes(), sealed).map_err(|_| SealError::Open {
            context: context.to_owned(),
        })
    }

    fn digest(&self, context: &str, secret: &[u8]) -> Vec<u8> {
        crypto::digest(
            crypto::HashAlgorithm::Sha256,
            &[b"test key", context.as_bytes(), secret],
        )
    }
}

/// A registry over a store in a temporary directory.
pub(crate) struct World {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) store: Arc<Embedded>,
    pub(crate) registry: Arc<Registry>,
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::in_directory(tempfile::tempdir().unwrap()).await
    }

    pub(crate) async fn in_directory(directory: tempfile::TempDir) -> Self {
        let path = directory.path().join("config.db");
        let store = Arc::new(Embedded::open(&path, Durability::Normal).unwrap());
        let registry = Registry::open(store.clone(), Arc::new(TestSealer), Arc::new(SyntaxCheck))
            .await
            .unwrap();
        Self {
            directory,
            store,
            registry,
        }
    }

    /// The same store, opened again.
    pub(crate) async fn restart(self) -> Self {
        let Self {
            directory,
            store,
            registry,
        } = self;
        drop(registry);
        // The task that follows the store lets go of it when its watch does.
        let mut store = store;
        let store = loop {
            match Arc::try_unwrap(store) {
                Ok(store) => break store,
                Err(shared) => store = shared,
            }
            tokio::task::yield_now().await;
        };
        drop(store);
        Self::in_directory(directory).await
    }

    pub(crate) async fn apply(&self, resources: Vec<Resource>) -> Result<Vec<Outcome>, RegistryError> {
        change(&self.registry, resources).await
    }
}

/// Makes resources be so.
pub(crate) async fn change(
    registry: &Registry,
    resources: Vec<Resource>,
) -> Result<Vec<Outcome>, RegistryError> {
    let mutations = resources
        .into_iter()
        .map(|resource| Mutation::Apply(Box::new(resource)))
        .collect();
    registry.change(&actor(), mutations, false).await
}

pub(crate) fn actor() -> Actor {
    Actor {
        name: "unix:uid=0".into(),
        role: "operator".into(),
        method: "vpn.v1.ApplyService/Apply".into(),
    }
}

pub(crate) fn strings(list: &[&str]) -> Vec<String> {
    list.iter().map(|text| (*text).to_owned()).collect()
}

/// A tenant in a namespace of its own.
pub(crate) fn tenant(name: &str) -> v1::Tenant {
    v1::Tenant {
        name: name.into(),
        routing_domain: Some(v1::RoutingDomain {
            netns: format!("ns-{name}"),
            ..Default::default()
        }),
        ..Default::default()
    }
}

pub(crate) fn pool(tenant: &str, range: &str) -> v1::AddressPool {
    v1::AddressPool {
        tenant: tenant.into(),
        name: "v4".into(),
        range: range.into(),
        ..Default::default()
    }
}

pub(crate) fn psk(tenant: &str, name: &str, ids: &[&str], secret: &str) -> v1::Credential {
    v1::Credential {
        tenant: tenant.into(),
        name: name.into(),
        kind: v1::CredentialKind::Psk.into(),
        ids: strings(ids),
        secret: secret.into(),
        ..Default::default()
    }
}

pub(crate) fn connection(tenant: &str, name: &str, remote_ids: &[&str]) -> v1::Connection {
    v1::Connection {
        tenant: tenant.into(),
        name: name.into(),
        auth: v1::AuthMethod::Psk.into(),
        remote_ids: strings(remote_ids),
        local_ts: strings(&["10.0.0.0/8"]),
        pools: strings(&["v4"]),
        ..Default::default()
    }
}

/// A tenant with a pool, a key for `alice@acme.example` and a connection for the domain.
pub(crate) fn site(name: &str, secret: &str) -> Vec<Resource> {
    vec![
        Resource::Connection(connection(name, "users", &["*@acme.example"])),
        Resource::Tenant(tenant(name)),
        Resource::AddressPool(pool(name, "10.9.0.0/24")),
        Resource::Credential(psk(name, "alice", &["alice@acme.example"], secret)),
    ]
}
