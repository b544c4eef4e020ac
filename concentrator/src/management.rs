//! The management API's listeners: gRPC on a Unix socket for root, and on TCP with client certificates and roles.
//!
//! The services are those of `tenants`; here are the sockets and what SIGHUP does. A node that waits for its cluster's store
//! is [`Early`]: it answers the questions for health alone.

use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use tenants::SessionBackend as _;
use tenants::service::{Access, HealthService, Services};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tonic::service::Routes;
use tonic::transport::{Certificate, Identity, Server, ServerTlsConfig};

use crate::backend::Backend;
use crate::config::{Api, ApiTcp};
use crate::health::Health;
use crate::node::Node;

/// Calls that one connection may have open.
const STREAMS_MAX: u32 = 128;
/// What a node that is not complete says to all but questions for health.
const STARTING: &str = "the node is starting: it waits for the store of its cluster";

/// The addresses of the API, bound: they stay while what answers on them changes.
pub struct Listeners {
    unix: Option<std::os::unix::net::UnixListener>,
    tcp: Option<(std::net::TcpListener, ServerTlsConfig)>,
}

impl Listeners {
    /// Binds every configured address.
    ///
    /// # Errors
    /// A path, an address or a certificate that cannot be used.
    pub async fn open(config: &Api) -> anyhow::Result<Self> {
        let path = &config.socket;
        let unix = if path.as_os_str().is_empty() {
            None
        } else {
            Some(bind_unix(path).with_context(|| format!("api.socket {}", path.display()))?)
        };
        let tcp = match &config.tcp {
            Some(tcp) => {
                let tls = tls(tcp).await?;
                let listener = std::net::TcpListener::bind(tcp.listen)
                    .with_context(|| format!("api.tcp.listen {}", tcp.listen))?;
                Some((listener, tls))
            }
            None => None,
        };
        Ok(Self { unix, tcp })
    }

    /// Answers on the Unix socket and on TCP, with the routes for each. Call it on the runtime.
    ///
    /// # Errors
    /// The system refuses another descriptor, or the certificates are not right.
    pub fn serve(&self, unix_routes: Routes, tcp_routes: Routes) -> anyhow::Result<Answering> {
        let (stop, stopped) = watch::channel(false);
        let mut tasks = Vec::new();
        if let Some(unix) = &self.unix {
            let incoming = UnixListenerStream::new(UnixListener::from_std(unix.try_clone()?)?);
            let server = builder().add_routes(unix_routes);
            let end = ended(stopped.clone());
            tasks.push(tokio::spawn(async move {
                if let Err(error) = server.serve_with_incoming_shutdown(incoming, end).await {
                    tracing::error!(%error, "the management API on the Unix socket ended");
                }
            }));
        }
        if let Some((tcp, tls)) = &self.tcp {
            let listener = tcp.try_clone()?;
            listener.set_nonblocking(true)?;
            let incoming = TcpListenerStream::new(TcpListener::from_std(listener)?);
            let server = builder()
                .tls_config(tls.clone())
                .context("api.tcp")?
                .add_routes(tcp_routes);
            let end = ended(stopped);
            tasks.push(tokio::spawn(async move {
                if let Err(error) = server.serve_with_incoming_shutdown(incoming, end).await {
                    tracing::error!(%error, "the management API on TCP ended");
                }
            }));
        }
        Ok(Answering { stop, tasks })
    }
}

/// Answers until it is dropped or stopped.
pub struct Answering {
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Answering {
    /// Ends; calls that watch are cut.
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

async fn ended(mut stopped: watch::Receiver<bool>) {
    let _ = stopped.wait_for(|stop| *stop).await;
}

/// The API of a node that is not complete yet: it says that nothing serves.
pub struct Early {
    listeners: Listeners,
    answering: Answering,
}

impl Early {
    /// Binds what is configured, and answers the questions for health.
    ///
    /// # Errors
    /// See [`Listeners::open`].
    pub async fn open(config: &Api, health: HealthService) -> anyhow::Result<Self> {
        let listeners = Listeners::open(config).await?;
        let answering = listeners.serve(
            health.routes(Access::UnixSocket, STARTING)?,
            health.routes(Access::ClientCertificates, STARTING)?,
        )?;
        Ok(Self { listeners, answering })
    }
}

/// The listeners at work.
pub struct Servers {
    backend: Arc<Backend>,
    health: Health,
    answering: Answering,
    follows: JoinHandle<()>,
    _listeners: Listeners,
}

/// What the API of a complete node needs.
pub struct Whole {
    /// What it tells of.
    pub node: Arc<Node>,
    /// The node's part of its services.
    pub backend: Arc<Backend>,
    /// The cluster that it is part of.
    pub cluster: Option<Arc<crate::cluster::Shared>>,
    /// How it is.
    pub health: HealthService,
    /// What has answered so far.
    pub early: Option<Early>,
}

/// Opens every configured listener, or takes over those that are open.
///
/// # Errors
/// A path, an address or a certificate that cannot be used.
pub async fn serve(whole: Whole) -> anyhow::Result<Servers> {
    let Whole {
        node,
        backend,
        cluster,
        health,
        early,
    } = whole;
    let mut services = Services::new(
        Arc::clone(&node.registry),
        Arc::clone(&node.attempts),
        Arc::clone(&backend) as Arc<dyn tenants::SessionBackend>,
    )
    .with_health(health.clone());
    if let Some(shared) = &cluster {
        let backend = crate::cluster::backend::Backend::new(Arc::clone(shared));
        services = services.with_cluster(Arc::new(backend));
    }
    let health = Health::new(health).await;
    let listeners = match early {
        Some(Early { listeners, answering }) => {
            // Who connects meanwhile waits in the queue of the socket.
            answering.stop().await;
            listeners
        }
        None => Listeners::open(&node.config.api).await?,
    };
    let answering = listeners.serve(
        services.routes(Access::UnixSocket).await?,
        services.routes(Access::ClientCertificates).await?,
    )?;
    let follows = tokio::spawn(health.clone().follow(node, cluster));
    Ok(Servers {
        backend,
        health,
        answering,
        follows,
        _listeners: listeners,
    })
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

    /// Ends the listeners; calls that watch are told that nothing serves any more, and cut.
    pub async fn stop(self) {
        self.follows.abort();
        self.health.end().await;
        self.answering.stop().await;
    }
}

fn builder() -> Server {
    Server::builder()
        .max_concurrent_streams(STREAMS_MAX)
        .concurrency_limit_per_connection(STREAMS_MAX as usize)
        .http2_keepalive_interval(Some(std::time::Duration::from_secs(30)))
}

/// Binds the socket with mode 0600, over one that a dead process has left.
fn bind_unix(path: &Path) -> std::io::Result<std::os::unix::net::UnixListener> {
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
    let listener = std::os::unix::net::UnixListener::bind(path)?;
    listener.set_nonblocking(true)?;
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
