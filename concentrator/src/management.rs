//! The management API's listeners: gRPC on a Unix socket for root, and on TCP with client certificates and roles.
//!
//! The services are those of `tenants`; here are the sockets, health, reflection, and what SIGHUP does.

use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use tenants::SessionBackend as _;
use tenants::service::{Access, Services};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};

use crate::backend::Backend;
use crate::config::ApiTcp;
use crate::node::Node;

/// Calls that one connection may have open.
const STREAMS_MAX: u32 = 128;

/// The listeners at work.
pub struct Servers {
    backend: Arc<Backend>,
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

/// Opens every configured listener.
///
/// # Errors
/// A path, an address or a certificate that cannot be used.
pub async fn serve(
    node: Arc<Node>,
    backend: Arc<Backend>,
    cluster: Option<Arc<crate::cluster::Shared>>,
) -> anyhow::Result<Servers> {
    let mut services = Services::new(
        Arc::clone(&node.registry),
        Arc::clone(&node.attempts),
        Arc::clone(&backend) as Arc<dyn tenants::SessionBackend>,
    );
    if let Some(shared) = cluster {
        services = services.with_cluster(Arc::new(crate::cluster::backend::Backend::new(shared)));
    }
    let (stop, stopped) = watch::channel(false);
    let mut tasks = Vec::new();
    let path = &node.config.api.socket;
    if !path.as_os_str().is_empty() {
        let listener = bind_unix(path).with_context(|| format!("api.socket {}", path.display()))?;
        let routes = services.routes(Access::UnixSocket).await?;
        let server = builder().add_routes(routes);
        let mut stopped = stopped.clone();
        tasks.push(tokio::spawn(async move {
            let end = async move {
                let _ = stopped.wait_for(|stop| *stop).await;
            };
            let incoming = UnixListenerStream::new(listener);
            if let Err(error) = server.serve_with_incoming_shutdown(incoming, end).await {
                tracing::error!(%error, "the management API on the Unix socket ended");
            }
        }));
    }
    if let Some(tcp) = &node.config.api.tcp {
        let tls = tls(tcp).await?;
        let listener = TcpListener::bind(tcp.listen)
            .await
            .with_context(|| format!("api.tcp.listen {}", tcp.listen))?;
        let routes = services.routes(Access::ClientCertificates).await?;
        let server = builder().tls_config(tls).context("api.tcp")?.add_routes(routes);
        let mut stopped = stopped.clone();
        tasks.push(tokio::spawn(async move {
            let end = async move {
                let _ = stopped.wait_for(|stop| *stop).await;
            };
            let incoming = TcpListenerStream::new(listener);
            if let Err(error) = server.serve_with_incoming_shutdown(incoming, end).await {
                tracing::error!(%error, "the management API on TCP ended");
            }
        }));
    }
    Ok(Servers { backend, stop, tasks })
}

impl Servers {
    /// What SIGHUP does: reads the file again and says what came of it.
    pub async fn reload(&self) {
        match self.backend.reload(false).await {
            Ok(response) => tracing::info!(
                changes = ?response.changes,
                needs_restart = ?response.needs_restart,
                "reloaded"
            ),
            Err(error) => tracing::error!(%error, "the configuration was not reloaded"),
        }
    }

    /// Ends the listeners; calls that watch are cut.
    pub async fn stop(self) {
        let _ = self.stop.send(true);
        for mut task in self.tasks {
            let patience = std::time::Duration::from_millis(500);
            if tokio::time::timeout(patience, &mut task).await.is_err() {
                task.abort();
            }
        }
    }
}

fn builder() -> Server {
    Server::builder()
        .max_concurrent_streams(STREAMS_MAX)
        .concurrency_limit_per_connection(STREAMS_MAX as usize)
        .http2_keepalive_interval(Some(std::time::Duration::from_secs(30)))
}

/// Binds the socket with mode 0600, over one that a dead process has left.
fn bind_unix(path: &Path) -> std::io::Result<UnixListener> {
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(parent)?;
    }
    match std::os::unix::net::UnixStream::connect(path) {
        Ok(_) => {
            return Err(std::io::Error::new(
                std::io::ErrorKind::AddrInUse,
                "another process serves on it",
            ));
        }
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => std::fs::remove_file(path)?,
        Err(_) => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

async fn tls(tcp: &ApiTcp) -> anyhow::Result<ServerTlsConfig> {
    let read = async |name: &str, path: &Path| {
        tokio::fs::read(path)
            .await
            .with_context(|| format!("api.tcp.{name} {}", path.display()))
    };
    let certificate = read("certificate", &tcp.certificate).await?;
    let key = read("key", &tcp.key).await?;
    let authorities = read("client_authorities", &tcp.client_authorities).await?;
    Ok(ServerTlsConfig::new()
        .identity(Identity::from_pem(certificate, key))
        .client_ca_root(Certificate::from_pem(authorities)))
}
