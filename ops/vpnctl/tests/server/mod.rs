//! The management API in this process, over mutual TLS on the loopback, with an operator's certificate for the client.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    unreachable_pub,
    dead_code,
    reason = "tests, each of which uses a part"
)]

pub mod cluster;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use api::v1;
use async_trait::async_trait;
use crypto::Secret;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use store::{Durability, Embedded};
use tenants::attempt::{AttemptRecord, Outcome};
use tenants::proposal::SyntaxCheck;
use tenants::service::{Access, Services};
use tenants::{
    Attempts, BackendError, ClusterBackend, FailureKind, Registry, SealError, Sealer, SessionBackend,
    SessionFilter,
};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Certificate, Identity, ServerTlsConfig};

/// Seals nothing: what the store holds is not looked at here.
struct Open;

impl Sealer for Open {
    fn seal(&self, _: &str, plaintext: &[u8]) -> Result<Vec<u8>, SealError> {
        Ok(plaintext.to_vec())
    }

    fn open(&self, _: &str, sealed: &[u8]) -> Result<Secret, SealError> {
        Ok(Secret::from(sealed))
    }

    fn digest(&self, context: &str, secret: &[u8]) -> Vec<u8> {
        crypto::digest(crypto::HashAlgorithm::Sha256, &[context.as_bytes(), secret])
    }
}

/// Sessions in a map.
#[derive(Default)]
struct FakeDaemon {
    sessions: Mutex<BTreeMap<String, v1::Session>>,
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
        stream::empty().boxed()
    }

    async fn disconnect(&self, ids: &[String], _: &str) -> Result<Vec<String>, BackendError> {
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

    async fn reload(&self, _: bool) -> Result<v1::ReloadResponse, BackendError> {
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

/// The server, and what its clients need.
pub struct Server {
    directory: tempfile::TempDir,
    attempts: Arc<Attempts>,
    daemon: Arc<FakeDaemon>,
    port: u16,
}

impl Server {
    pub async fn new() -> Self {
        Self::of(None).await
    }

    /// The server of a node that is part of a cluster.
    pub async fn with_cluster(cluster: Arc<dyn ClusterBackend>) -> Self {
        Self::of(Some(cluster)).await
    }

    async fn of(cluster: Option<Arc<dyn ClusterBackend>>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Embedded::open(&directory.path().join("config.db"), Durability::Normal).unwrap();
        let registry = Registry::open(Arc::new(store), Arc::new(Open), Arc::new(SyntaxCheck))
            .await
            .unwrap();
        let (attempts, daemon) = (Arc::new(Attempts::new()), Arc::new(FakeDaemon::default()));
        let mut services = Services::new(registry, attempts.clone(), daemon.clone());
        if let Some(cluster) = cluster {
            services = services.with_cluster(cluster);
        }

        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let issue = |names: &[&str], unit: &str| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            let mut params = CertificateParams::new(names).unwrap();
            params
                .distinguished_name
                .push(DnType::OrganizationalUnitName, unit);
            let key = KeyPair::generate().unwrap();
            (
                params.signed_by(&key, &issuer).unwrap().pem(),
                key.serialize_pem(),
            )
        };
        let (certificate, key) = issue(&["127.0.0.1"], "gateway");
        let tls = ServerTlsConfig::new()
            .identity(Identity::from_pem(certificate, key))
            .client_ca_root(Certificate::from_pem(issuer.pem()));
        let (certificate, key) = issue(&[], "operator");
        for (name, pem) in [("ca.pem", issuer.pem()), ("jo.pem", certificate), ("jo.key", key)] {
            std::fs::write(directory.path().join(name), pem).unwrap();
        }

        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let routes = services.routes(Access::ClientCertificates).await.unwrap();
        let server = tonic::transport::Server::builder()
            .tls_config(tls)
            .unwrap()
            .add_routes(routes);
        tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        Self {
            directory,
            attempts,
            daemon,
            port,
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Arguments with those that reach the server.
    pub fn access(&self, arguments: &[&str]) -> Vec<String> {
        let file = |name: &str| self.path(name).display().to_string();
        let endpoint = format!("https://127.0.0.1:{}", self.port);
        let options = [
            ("--endpoint", endpoint),
            ("--ca", file("ca.pem")),
            ("--cert", file("jo.pem")),
            ("--key", file("jo.key")),
        ];
        let mut all: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        all.extend(
            options
                .into_iter()
                .flat_map(|(option, value)| [option.to_owned(), value]),
        );
        all
    }

    /// The binary with exactly these arguments.
    pub fn command<A: AsRef<str>>(&self, arguments: &[A]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vpnctl"));
        command
            .args(arguments.iter().map(AsRef::as_ref))
            .env_remove("VPNCTL_ENDPOINT")
            .kill_on_drop(true);
        command
    }

    /// Runs the binary against the server.
    pub async fn vpnctl(&self, arguments: &[&str]) -> std::process::Output {
        self.command(&self.access(arguments)).output().await.unwrap()
    }

    pub fn add_session(&self, id: &str, tenant: &str, peer_id: &str) {
        let session = v1::Session {
            id: id.into(),
            tenant: tenant.into(),
            peer_id: peer_id.into(),
            remote_address: "192.0.2.7:4500".into(),
            ..Default::default()
        };
        self.daemon.sessions.lock().unwrap().insert(id.into(), session);
    }

    pub fn sessions(&self) -> usize {
        self.daemon.sessions.lock().unwrap().len()
    }

    pub fn add_failed_attempt(&self, tenant: &str, peer_id: &str) {
        let (remote, local) = (
            "192.0.2.7:4500".parse().unwrap(),
            "198.51.100.1:4500".parse().unwrap(),
        );
        let mut record = AttemptRecord::new(SystemTime::now(), remote, local);
        record.tenant = Some(tenant.into());
        record.peer_id = peer_id.into();
        record.outcome = Outcome::Failed {
            kind: FailureKind::PskMismatch,
            reason: "the AUTH payload does not verify".into(),
            notify: "AUTHENTICATION_FAILED".into(),
        };
        self.attempts.record(record);
    }
}
