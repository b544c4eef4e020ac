//! The connection to the daemon.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use crate::cli::Connection;

/// The daemon cannot be reached.
#[derive(Debug)]
pub(crate) struct Unreachable {
    endpoint: String,
    reason: String,
}

impl fmt::Display for Unreachable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "cannot reach the concentrator at {}: {}",
            self.endpoint, self.reason
        )
    }
}

impl std::error::Error for Unreachable {}

/// Connects as the options say.
pub(crate) async fn connect(options: &Connection) -> Result<Channel> {
    let timeout = Duration::from_secs(options.timeout_secs);
    let unreachable = |reason: String| Unreachable {
        endpoint: options.endpoint.clone(),
        reason,
    };
    if let Some(path) = options.endpoint.strip_prefix("unix:") {
        let path = PathBuf::from(path.strip_prefix("//").unwrap_or(path));
        // The authority is not used on a Unix socket, but HTTP/2 must have one.
        let endpoint = Endpoint::from_static("http://localhost")
            .timeout(timeout)
            .connect_timeout(timeout);
        let connector = tower::service_fn(move |_| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        return Ok(endpoint
            .connect_with_connector(connector)
            .await
            .map_err(|e| unreachable(root(&e)))?);
    }
    if !options.endpoint.starts_with("https://") {
        bail!("the endpoint must be unix:PATH or https://HOST:PORT; the API is never served in clear");
    }
    let mut tls = ClientTlsConfig::new();
    let ca = options
        .ca
        .as_ref()
        .context("--ca is needed with https: whom to trust")?;
    tls = tls.ca_certificate(Certificate::from_pem(read(ca)?));
    if let (Some(cert), Some(key)) = (&options.cert, &options.key) {
        tls = tls.identity(Identity::from_pem(read(cert)?, read(key)?));
    } else {
        bail!("--cert and --key are needed with https: who you are");
    }
    let endpoint = Endpoint::from_shared(options.endpoint.clone())?
        .timeout(timeout)
        .connect_timeout(timeout)
        .tls_config(tls)?;
    Ok(endpoint.connect().await.map_err(|e| unreachable(root(&e)))?)
}

fn read(path: &PathBuf) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

fn root(error: &dyn std::error::Error) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    last.to_string()
}

/// An error in one sentence for a person.
pub(crate) fn explain(error: &anyhow::Error) -> String {
    match error.downcast_ref::<tonic::Status>() {
        Some(status) if status.message().is_empty() => format!("{:?}", status.code()),
        Some(status) => status.message().to_owned(),
        None => format!("{error:#}"),
    }
}
