//! A real server in this process, on a Unix socket and on TLS, over a real store and a daemon that is not one.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    dead_code,
    unreachable_pub,
    reason = "tests, each of which uses a part"
)]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use api::v1;
use api::v1::resource::Resource;
use async_trait::async_trait;
use crypto::Secret;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use store::{Durability, Embedded};
use tenants::proposal::SyntaxCheck;
use tenants::service::{Access, Services};
use tenants::{
    Attempts, BackendError, ClusterBackend, Registry, SealError, Sealer, SessionBackend, SessionFilter,
};
use tokio::net::{TcpListener, UnixListener};
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity, Server, ServerTlsConfig};

struct TestSealer;

impl Sealer for TestSealer {
    fn seal(&self, context: &str, plaintext: &[u8]) -> Result<Vec<u8>, SealError> {
        let key = Secret::from([7_u8; 32]);
        Ok(crypto::seal_blob(&key, context.as_bytes(), plaintext, &mut crypto::SystemRandom).unwrap())
    }

    fn open(&self, context: &str, sealed: &[u8]) -> Result<Secret, SealError> {
        crypto::open_blob(&Secret::from([7_u8; 32]), context.as_bytes(), sealed).map_err(|_| {
            SealError::Open {
                context: context.to_owned(),
            }
        })
    }

    fn digest(&self, context: &str, secret: &[u8]) -> Vec<u8> {
        crypto::digest(
            crypto::HashAlgorithm::Sha256,
            &[b"test", context.as_bytes(), secret],
        )
    }
}

/// Sessions in a map.
#[derive(Default)]
pub struct FakeDaemon {
    pub sessions: Mutex<BTreeMap<String, v1::Session>>,
}

impl FakeDaemon {
    pub fn add(&self, id: &str, tenant: &str, peer_id: &str) {
        let session = v1::Session {
            id: id.into(),
            tenant: tenant.into(),
            peer_id: peer_id.into(),
            remote_address: "192.0.2.7:4500".into(),
            virtual_addresses: vec!["10.9.0.1".into()],
            ..Default::default()
        };
        self.sessions.lock().unwrap().insert(id.into(), session);
    }
}

#[async_trait]
impl SessionBackend for FakeDaemon {
    async fn list(
        &self,
        filter: &SessionFilter,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<v1::Session>, BackendError> {
        let sessions = self.sessions.lock().unwrap();
        let wanted = |session: &&v1::Session| {
            filter.matches(session) && after.is_none_or(|after| session.id.as_str() > after)
        };
        Ok(sessions.values().filter(wanted).take(limit).cloned().collect())
    }

    async fn get(&self, id: &str) -> Result<v1::Session, BackendError> {
        let found = self.sessions.lock().unwrap().get(id).cloned();
        found.ok_or_else(|| BackendError::NotFound(format!("session {id}")))
    }

    fn watch(&self) -> BoxStream<'static, v1::SessionEvent> {
        let events: Vec<_> = self
            .sessions
            .lock()
            .unwrap()
            .values()
            .map(|session| v1::SessionEvent {
                kind: v1::SessionEventKind::Added.into(),
                session: Some(session.clone()),
                reason: String::new(),
            })
            .collect();
        stream::iter(events).boxed()
    }

    async fn disconnect(&self, ids: &[String], _reason: &str) -> Result<Vec<String>, BackendError> {
        let mut sessions = self.sessions.lock().unwrap();
        Ok(ids
            .iter()
            .filter(|id| sessions.remove(*id).is_some())
            .cloned()
            .collect())
    }

    async fn node_status(&self) -> Result<v1::NodeStatus, BackendError> {
        Ok(v1::NodeStatus {
            node: "test".into(),
            ..Default::default()
        })
    }

    async fn reload(&self, _validate_only: bool) -> Result<v1::ReloadResponse, BackendError> {
        Ok(v1::ReloadResponse::default())
    }

    async fn redirect(&self, request: v1::RedirectRequest) -> Result<v1::RedirectResponse, BackendError> {
        if request.to.iter().any(|to| to.contains(' ')) {
            return Err(BackendError::Invalid("to: no gateway".into()));
        }
        Ok(v1::RedirectResponse {
            detail: format!(
                "to {:?} sessions={} per_sec={} wait={}",
                request.to, request.sessions, request.per_sec, request.wait
            ),
        })
    }

    async fn inject_fault(&self, _: v1::InjectFaultRequest) -> Result<v1::InjectFaultResponse, BackendError> {
        Err(BackendError::Refused("debug.fault_injection is off".into()))
    }
}

/// An authority for the API's own TLS.
pub struct Pki {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Pki {
    fn new() -> Self {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self {
            issuer: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap(),
        }
    }

    /// A certificate with its key, with subject attributes in order.
    pub fn issue(&self, names: &[&str], subject: &[(DnType, &str)]) -> Identity {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        for (kind, value) in subject {
            params.distinguished_name.push(kind.clone(), *value);
        }
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Identity::from_pem(certificate.pem(), key.serialize_pem())
    }
}

/// The server.
pub struct Rig {
    pub directory: tempfile::TempDir,
    pub registry: Arc<Registry>,
    pub attempts: Arc<Attempts>,
    pub daemon: Arc<FakeDaemon>,
    pub pki: Pki,
    port: u16,
}

impl Rig {
    pub async fn new() -> Self {
        Self::of(None).await
    }

    /// A server of a node that is part of a cluster.
    pub async fn with_cluster(cluster: Arc<dyn ClusterBackend>) -> Self {
        Self::of(Some(cluster)).await
    }

    async fn of(cluster: Option<Arc<dyn ClusterBackend>>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store =
            Arc::new(Embedded::open(&directory.path().join("config.db"), Durability::Normal).unwrap());
        let registry = Registry::open(store, Arc::new(TestSealer), Arc::new(SyntaxCheck))
            .await
            .unwrap();
        let (attempts, daemon) = (Arc::new(Attempts::new()), Arc::new(FakeDaemon::default()));
        let mut services = Services::new(registry.clone(), attempts.clone(), daemon.clone());
        if let Some(cluster) = cluster {
            services = services.with_cluster(cluster);
        }

        let socket = UnixListener::bind(directory.path().join("api.sock")).unwrap();
        let routes = services.routes(Access::UnixSocket).await.unwrap();
        tokio::spawn(
            Server::builder()
                .add_routes(routes)
                .serve_with_incoming(UnixListenerStream::new(socket)),
        );

        let pki = Pki::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let tls = ServerTlsConfig::new()
            .identity(pki.issue(&["localhost"], &[(DnType::CommonName, "gateway")]))
            .client_ca_root(Certificate::from_pem(pki.issuer.pem()))
            .client_auth_optional(true);
        let routes = services.routes(Access::ClientCertificates).await.unwrap();
        let server = Server::builder().tls_config(tls).unwrap().add_routes(routes);
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        Self {
            directory,
            registry,
            attempts,
            daemon,
            pki,
            port,
        }
    }

    /// Connects to the Unix socket.
    pub async fn socket(&self) -> Channel {
        let path: PathBuf = self.directory.path().join("api.sock");
        let connector = tower::service_fn(move |_| {
            let path = path.clone();
            async move {
                tokio::net::UnixStream::connect(path)
                    .await
                    .map(hyper_util::rt::TokioIo::new)
            }
        });
        Endpoint::from_static("http://localhost")
            .connect_with_connector(connector)
            .await
            .unwrap()
    }

    /// Connects by TLS, with a client certificate when one is given.
    pub async fn tls(&self, identity: Option<Identity>) -> Channel {
        let mut tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(self.pki.issuer.pem()))
            .domain_name("localhost");
        if let Some(identity) = identity {
            tls = tls.identity(identity);
        }
        let endpoint = Endpoint::from_shared(format!("https://127.0.0.1:{}", self.port)).unwrap();
        endpoint.tls_config(tls).unwrap().connect().await.unwrap()
    }

    /// Connects as an operator.
    pub async fn operator(&self) -> Channel {
        self.role("operator", None).await
    }

    /// Connects with a role in the certificate's subject.
    pub async fn role(&self, unit: &str, tenant: Option<&str>) -> Channel {
        let mut subject = vec![(DnType::CommonName, "jo"), (DnType::OrganizationalUnitName, unit)];
        subject.extend(tenant.map(|tenant| (DnType::OrganizationName, tenant)));
        self.tls(Some(self.pki.issue(&[], &subject))).await
    }
}

pub fn strings(list: &[&str]) -> Vec<String> {
    list.iter().map(|text| (*text).to_owned()).collect()
}

/// A tenant with a pool, a key and a connection.
pub fn site(name: &str) -> Vec<v1::Resource> {
    let resources = [
        Resource::Tenant(v1::Tenant {
            name: name.into(),
            routing_domain: Some(v1::RoutingDomain {
                netns: format!("ns-{name}"),
                ..Default::default()
            }),
            ..Default::default()
        }),
        Resource::AddressPool(v1::AddressPool {
            tenant: name.into(),
            name: "v4".into(),
            range: "10.9.0.0/24".into(),
            ..Default::default()
        }),
        Resource::Credential(v1::Credential {
            tenant: name.into(),
            name: "alice".into(),
            kind: v1::CredentialKind::Psk.into(),
            ids: strings(&["alice"]),
            secret: "s3cret".into(),
            ..Default::default()
        }),
        Resource::Connection(v1::Connection {
            tenant: name.into(),
            name: "users".into(),
            auth: v1::AuthMethod::Psk.into(),
            remote_ids: strings(&["*"]),
            local_ts: strings(&["10.0.0.0/8"]),
            pools: strings(&["v4"]),
            ..Default::default()
        }),
    ];
    resources
        .into_iter()
        .map(|resource| v1::Resource {
            resource: Some(resource),
        })
        .collect()
}
