//! What the tests of the daemon share: a network namespace of their own, the daemon in it, an initiator made of the
//! `ike` crate on real sockets, and an OTLP receiver.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    dead_code,
    unused_imports,
    unreachable_pub,
    reason = "tests"
)]

mod client;
pub mod nodes;
mod otlp;
pub mod slots;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use actix::System;
use api::v1;
use concentrator::config::Config;
use concentrator::daemon;
use concentrator::node::Node;

pub use client::Client;
#[allow(unused_imports, reason = "not every test wants one")]
pub use otlp::Collector;

/// Runs the rest of the test in a network namespace of its own: the test binary calls itself.
///
/// Returns true in the namespace, where the test goes on, and false in the caller, where it has been done.
pub fn in_namespace(test: &str) -> bool {
    let Some(mut again) = unshared() else { return true };
    let output = again
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .output()
        .expect("unshare (util-linux)");
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "in the namespace:\n{text}");
    assert!(
        text.contains("1 passed"),
        "the test {test} did not run in the namespace:\n{text}"
    );
    false
}

/// This program again in a network namespace of its own; `None` there.
pub fn unshared() -> Option<Command> {
    const MARK: &str = "CONCENTRATOR_TEST_NAMESPACE";
    if std::env::var_os(MARK).is_some() {
        for command in ["link set lo up", "addr add 127.0.0.2/8 dev lo"] {
            let _ = Command::new("ip").args(command.split(' ')).status();
        }
        return None;
    }
    let mut again = Command::new("unshare");
    again
        .args(["--net", "--"])
        .arg(std::env::current_exe().unwrap())
        .env(MARK, "1");
    Some(again)
}

/// Runs a future on this thread.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(future)
}

/// A daemon on a thread of its own.
pub struct Daemon {
    pub node: Arc<Node>,
    stop: Option<tokio::sync::oneshot::Sender<End>>,
    thread: Option<std::thread::JoinHandle<()>>,
    pub api_socket: PathBuf,
}

type Launched = std::pin::Pin<Box<dyn Future<Output = anyhow::Result<daemon::Running>>>>;

enum End {
    /// As SIGTERM.
    Drain,
    /// As near to `kill -9` as it gets within one process: nothing is drained or told.
    Abandon,
}

impl Daemon {
    /// Starts it over `state` and waits until it serves.
    pub fn start(state: &Path, change: impl FnOnce(&mut Config)) -> Self {
        Self::launch(state, change, |config, runtime| {
            Box::pin(daemon::launch(config, None, runtime))
        })
    }

    /// Starts it over `state` on what `ground` makes.
    pub fn start_on<F>(
        state: &Path,
        change: impl FnOnce(&mut Config),
        ground: impl FnOnce(tokio::runtime::Handle) -> F + Send + 'static,
    ) -> Self
    where
        F: Future<Output = daemon::Foundation> + Send + 'static,
    {
        Self::launch(state, change, |config, runtime| {
            Box::pin(async move {
                // What follows the store does so on the runtime.
                let ground = runtime.spawn(ground(runtime.clone())).await?;
                daemon::launch_on(ground, config, None, runtime).await
            })
        })
    }

    fn launch(
        state: &Path,
        change: impl FnOnce(&mut Config),
        launch: impl FnOnce(Config, tokio::runtime::Handle) -> Launched + Send + 'static,
    ) -> Self {
        let mut config = Config {
            state_directory: state.join("state"),
            ..Config::default()
        };
        config.node_name = "test".to_owned();
        config.listen.addresses = vec!["127.0.0.1".parse().unwrap()];
        config.listen.raw_esp = false;
        config.threads.workers = 2;
        config.threads.control = 2;
        config.api.socket = state.join("api.sock");
        config.log.redact = false;
        config.log.filter = std::env::var("TEST_LOG").unwrap_or_else(|_| "warn".to_owned());
        config.debug.fault_injection = true;
        change(&mut config);
        assert_eq!(config.problems(), Vec::<String>::new());
        let api_socket = config.api.socket.clone();
        let (ready, started) = mpsc::channel();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            let handle = runtime.handle().clone();
            System::new().block_on(async move {
                let running = launch(config, handle).await.expect("the daemon starts");
                ready.send(Arc::clone(&running.node)).unwrap();
                match stopped.await {
                    Ok(End::Drain) | Err(_) => running.stop().await,
                    Ok(End::Abandon) => running.abandon().await,
                }
            });
            runtime.shutdown_timeout(Duration::from_secs(1));
        });
        let node = started
            .recv_timeout(Duration::from_secs(30))
            .expect("the daemon serves");
        Self {
            node,
            stop: Some(stop),
            thread: Some(thread),
            api_socket,
        }
    }

    fn end(&mut self, how: End) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(how);
        }
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }

    pub fn drain(mut self) {
        self.end(End::Drain);
    }

    pub fn abandon(mut self) {
        self.end(End::Abandon);
    }

    /// Its management API, over the Unix socket as `vpnctl` uses it.
    pub async fn api(&self) -> tonic::transport::Channel {
        connect(self.api_socket.clone()).await.expect("the API answers")
    }

    /// A tenant with one connection for PSK users, a pool, and a key for each of `users`.
    pub async fn provision(&self, tenant: &str, pool: &str, users: &[(&str, &str)]) {
        provision(self.api().await, tenant, pool, users).await;
    }
}

/// The management API at a Unix socket, as `vpnctl` uses it.
pub async fn connect(path: PathBuf) -> Result<tonic::transport::Channel, tonic::transport::Error> {
    tonic::transport::Endpoint::from_static("http://concentrator")
        .connect_with_connector(tower::service_fn(move |_| {
            let path = path.clone();
            async move {
                let stream = tokio::net::UnixStream::connect(path).await?;
                Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(stream))
            }
        }))
        .await
}

/// Whether a service of the node at `channel` says that it serves; `None`: it says nothing.
pub async fn serves(channel: tonic::transport::Channel, service: &str) -> Option<bool> {
    use tonic_health::pb::HealthCheckRequest;
    use tonic_health::pb::health_check_response::ServingStatus;
    let asked = HealthCheckRequest {
        service: service.to_owned(),
    };
    let answer = tonic_health::pb::health_client::HealthClient::new(channel)
        .check(asked)
        .await
        .ok()?;
    Some(answer.into_inner().status() == ServingStatus::Serving)
}

/// A tenant with one connection for PSK users, a pool, and a key for each of `users`.
pub async fn provision(channel: tonic::transport::Channel, tenant: &str, pool: &str, users: &[(&str, &str)]) {
    v1::tenant_service_client::TenantServiceClient::new(channel.clone())
        .create(v1::CreateTenantRequest {
            tenant: Some(v1::Tenant {
                name: tenant.to_owned(),
                ..Default::default()
            }),
            ..Default::default()
        })
        .await
        .expect("tenant");
    v1::address_pool_service_client::AddressPoolServiceClient::new(channel.clone())
        .create(v1::CreateAddressPoolRequest {
            address_pool: Some(v1::AddressPool {
                tenant: tenant.to_owned(),
                name: "users".to_owned(),
                range: pool.to_owned(),
                ..Default::default()
            }),
            ..Default::default()
        })
        .await
        .expect("pool");
    for (user, key) in users {
        v1::credential_service_client::CredentialServiceClient::new(channel.clone())
            .create(v1::CreateCredentialRequest {
                credential: Some(psk(tenant, user, key)),
                ..Default::default()
            })
            .await
            .expect("credential");
    }
    v1::connection_service_client::ConnectionServiceClient::new(channel)
        .create(v1::CreateConnectionRequest {
            connection: Some(v1::Connection {
                tenant: tenant.to_owned(),
                name: "users".to_owned(),
                local_id: format!("{tenant}.gw.example"),
                remote_ids: vec![format!("*@{tenant}.example")],
                auth: v1::AuthMethod::Psk.into(),
                local_ts: vec!["10.0.0.0/8".to_owned()],
                pools: vec!["users".to_owned()],
                ..Default::default()
            }),
            ..Default::default()
        })
        .await
        .expect("connection");
}

fn psk(tenant: &str, user: &str, key: &str) -> v1::Credential {
    v1::Credential {
        tenant: tenant.to_owned(),
        name: user.split('@').next().unwrap().to_owned(),
        kind: v1::CredentialKind::Psk.into(),
        ids: vec![user.to_owned()],
        secret: key.to_owned(),
        ..Default::default()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.end(End::Drain);
    }
}

/// Waits until `done` says so.
pub fn eventually(what: &str, mut done: impl FnMut() -> bool) -> Duration {
    let begun = Instant::now();
    while !done() {
        assert!(
            begun.elapsed() < Duration::from_secs(20),
            "{what}: not within 20 s"
        );
        std::thread::sleep(Duration::from_millis(2));
    }
    begun.elapsed()
}
