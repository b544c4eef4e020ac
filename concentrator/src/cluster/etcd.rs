//! The way to etcd: two connections, one for decisions and one for data, so that a claim never waits behind records.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use store::Etcd;
use store::etcd::{EtcdSettings, EtcdTls, EtcdUser};

use super::renewing::Renewing;
use crate::config;

/// How long a member may take to answer before the next is asked, for decisions.
const DECISION_ATTEMPT: Duration = Duration::from_millis(400);
/// How long a decision may take with all its attempts.
const DECISION: Duration = Duration::from_secs(3);
/// Pause between two tries to reach etcd at the start.
const PAUSE: Duration = Duration::from_millis(500);

/// Both connections.
pub struct Stores {
    /// Claims, leases, what is followed.
    pub control: Arc<Renewing>,
    /// Records, configuration, pools.
    pub data: Arc<Renewing>,
}

/// Opens both; waits until the cluster answers.
///
/// # Errors
/// A file that cannot be read, settings that are wrong, a cluster that does not let us in.
pub async fn open(config: &config::Cluster) -> anyhow::Result<Stores> {
    let settings = settings(config).await?;
    let decisions = EtcdSettings {
        attempt_timeout: DECISION_ATTEMPT,
        call_timeout: DECISION,
        ..settings.clone()
    };
    Ok(Stores {
        control: Arc::new(Renewing::new(connect(decisions.clone()).await?, decisions, false)),
        data: Arc::new(Renewing::new(connect(settings.clone()).await?, settings, true)),
    })
}

async fn connect(settings: EtcdSettings) -> anyhow::Result<Etcd> {
    let mut told = false;
    loop {
        match Etcd::open(settings.clone()).await {
            Ok(etcd) => return Ok(etcd),
            // It may be starting, as after a power cut of everything.
            Err(error) if error.is_retryable() => {
                if !told {
                    told = true;
                    tracing::warn!(%error, "etcd does not answer yet, waiting for it");
                }
                tokio::time::sleep(PAUSE).await;
            }
            Err(error) => return Err(error).context("cluster.etcd"),
        }
    }
}

async fn settings(config: &config::Cluster) -> anyhow::Result<EtcdSettings> {
    let read = async |name: &str, path: &std::path::Path| {
        tokio::fs::read(path)
            .await
            .with_context(|| format!("cluster.{name} {}", path.display()))
    };
    let user = match (&config.etcd_user, &config.etcd_password_file) {
        (Some(name), Some(path)) => {
            let password = read("etcd_password_file", path).await?;
            let password = String::from_utf8(password).context("cluster.etcd_password_file is not text")?;
            Some(EtcdUser {
                name: name.clone(),
                password: password.trim_end_matches(['\r', '\n']).to_owned(),
            })
        }
        _ => None,
    };
    let tls = match &config.etcd_ca {
        Some(path) => Some(EtcdTls {
            authorities: read("etcd_ca", path).await?,
            identity: match (&config.etcd_cert, &config.etcd_key) {
                (Some(certificate), Some(key)) => Some((
                    read("etcd_cert", certificate).await?,
                    read("etcd_key", key).await?,
                )),
                _ => None,
            },
            server_name: None,
        }),
        None => None,
    };
    Ok(EtcdSettings {
        namespace: config.namespace.clone(),
        user,
        tls,
        max_txn_ops: config.etcd_max_txn_ops as usize,
        ..EtcdSettings::new(config.etcd.iter().cloned())
    })
}
