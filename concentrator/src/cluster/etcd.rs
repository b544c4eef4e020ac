//! The way to etcd: two connections, one for decisions and one for data, so that a claim never waits behind records.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use store::etcd::{EtcdSettings, EtcdTls, EtcdUser};
use store::{Etcd, StoreError};

use super::renewing::Renewing;
use crate::config;
use crate::writes::Writes;

/// How long a member may take to answer before the next is asked, for decisions.
const DECISION_ATTEMPT: Duration = Duration::from_millis(400);
/// How long a decision may take with all its attempts.
const DECISION: Duration = Duration::from_secs(3);
/// Pause between two tries to reach etcd at the start.
const PAUSE: Duration = Duration::from_millis(500);
/// How often it is said that etcd does not answer.
const TELL: Duration = Duration::from_secs(30);

/// Both connections.
pub struct Stores {
    /// Claims, leases, what is followed.
    pub control: Arc<Renewing>,
    /// Records, configuration, pools.
    pub data: Arc<Renewing>,
    /// What is written through both.
    pub writes: Arc<Writes>,
}

/// Opens both; waits until the cluster answers, however long it takes.
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
    let writes = Arc::new(Writes::default());
    let open = async |settings: EtcdSettings, careful| {
        let etcd = connect(settings.clone()).await?;
        anyhow::Ok(Arc::new(Renewing::new(
            etcd,
            settings,
            careful,
            Arc::clone(&writes),
        )))
    };
    Ok(Stores {
        control: open(decisions, false).await?,
        data: open(settings, true).await?,
        writes,
    })
}

async fn connect(settings: EtcdSettings) -> anyhow::Result<Etcd> {
    // It may be starting, as after a power cut of everything.
    patiently(
        async || Etcd::open(settings.clone()).await,
        StoreError::is_retryable,
    )
    .await
    .context("cluster.etcd")
}

/// Tries until it is done, or fails for a reason that waiting does not mend: a node whose etcd does not answer waits for it.
///
/// # Errors
/// What does not pass.
pub async fn patiently<T, E, F>(mut attempt: impl FnMut() -> F, passes: impl Fn(&E) -> bool) -> Result<T, E>
where
    E: std::fmt::Display,
    F: Future<Output = Result<T, E>>,
{
    let begun = Instant::now();
    let mut told: Option<Instant> = None;
    loop {
        match attempt().await {
            Err(error) if passes(&error) => {
                if told.is_none_or(|told| told.elapsed() >= TELL) {
                    told = Some(Instant::now());
                    tracing::warn!(
                        %error,
                        waited_secs = begun.elapsed().as_secs(),
                        "etcd does not answer yet: this node waits for it and serves nothing meanwhile"
                    );
                }
                tokio::time::sleep(PAUSE).await;
            }
            done => {
                if done.is_ok() && told.is_some() {
                    tracing::info!(waited_secs = begun.elapsed().as_secs(), "etcd answers");
                }
                return done;
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_passes_is_waited_for_and_the_rest_is_told() {
        let mut asked = 0;
        let done = patiently(
            || {
                asked += 1;
                std::future::ready(match asked {
                    1 => Err(StoreError::Unavailable {
                        reason: "nobody listens".to_owned(),
                    }),
                    _ => Ok(asked),
                })
            },
            StoreError::is_retryable,
        );
        assert_eq!(done.await, Ok(2), "asked again");
        let refused = patiently(
            || {
                std::future::ready(Err::<(), _>(StoreError::Refused {
                    reason: "the password".to_owned(),
                }))
            },
            StoreError::is_retryable,
        );
        assert!(refused.await.is_err());
    }
}
