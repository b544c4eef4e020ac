//! How to reach a cluster: its endpoints, secrets, times and limits.

use std::time::Duration;

use etcd_client::{Certificate, ConnectOptions, Identity, TlsOptions};

use crate::error::StoreError;

/// How to reach a cluster and what to ask of it.
#[derive(Clone, Debug)]
pub struct EtcdSettings {
    /// The members, `http://HOST:PORT` or `https://HOST:PORT`; the first is tried first.
    pub endpoints: Vec<String>,
    /// Under which name the keys lie: `NAME/KEY`, so that several installations can share a cluster. Markers of
    /// writers lie under `NAME.writer/`.
    pub namespace: String,
    /// Certificates; needed for `https`.
    pub tls: Option<EtcdTls>,
    /// Name and password, for clusters with authentication.
    pub user: Option<EtcdUser>,
    /// Longest time to open a connection.
    pub connect_timeout: Duration,
    /// Longest time that one member is given to answer before the next is asked.
    pub attempt_timeout: Duration,
    /// Longest time of a call with all its attempts. A write may in addition wait as long for its turn.
    pub call_timeout: Duration,
    /// Silence on a watch after which its member is asked whether it still lives.
    pub probe_interval: Duration,
    /// What the members' `--max-txn-ops` says: the steps of one transaction. etcd's default is 128; of those, 2 are
    /// used up here.
    pub max_txn_ops: usize,
    /// Octets of one request; has to lie below the members' `--max-request-bytes`.
    pub max_request_octets: usize,
    /// Transactions that are under way at the same time.
    pub lanes: usize,
}

impl EtcdSettings {
    /// Settings with the defaults for everything but the members.
    pub fn new<E: Into<String>>(endpoints: impl IntoIterator<Item = E>) -> Self {
        Self {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            namespace: "vpn".to_owned(),
            tls: None,
            user: None,
            connect_timeout: Duration::from_millis(500),
            attempt_timeout: Duration::from_secs(1),
            call_timeout: Duration::from_secs(5),
            probe_interval: Duration::from_secs(1),
            max_txn_ops: 128,
            max_request_octets: 1_500_000,
            lanes: 4,
        }
    }

    /// What is wrong with them, in words.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        let wrong = |reason: &str| {
            Err(StoreError::Refused {
                reason: reason.to_owned(),
            })
        };
        if self.endpoints.is_empty() {
            return wrong("no endpoint is given");
        }
        for endpoint in &self.endpoints {
            if !endpoint.starts_with("http://") && !endpoint.starts_with("https://") {
                return wrong(&format!(
                    "{endpoint} begins neither with http:// nor with https://"
                ));
            }
            if self.tls.is_some() != endpoint.starts_with("https://") {
                return wrong(&format!("{endpoint}: https and certificates go together"));
            }
        }
        if self.namespace.is_empty() || self.namespace.contains('/') {
            return wrong("the namespace has to be a word without a slash");
        }
        if self.lanes == 0 || self.max_txn_ops < 8 || self.max_request_octets < 4_096 {
            return wrong("lanes has to be at least 1, max_txn_ops 8, max_request_octets 4096");
        }
        Ok(())
    }

    /// Steps that a caller's transaction may have in each of its branches.
    pub(super) fn txn_steps(&self) -> usize {
        self.max_txn_ops - 2
    }

    /// The client's options.
    pub(super) fn options(&self) -> ConnectOptions {
        // Members close connections that ping more often than every 5 s (--grpc-keepalive-min-time).
        let mut options = ConnectOptions::new()
            .with_connect_timeout(self.connect_timeout)
            .with_keep_alive(Duration::from_secs(10), Duration::from_secs(3))
            .with_keep_alive_while_idle(true)
            // A member without a leader refuses at once and ends its watches.
            .with_require_leader(true);
        if let Some(user) = &self.user {
            options = options
                .with_user(&user.name, &user.password)
                .with_auto_token_refresh(true);
        }
        if let Some(tls) = &self.tls {
            options = options.with_tls(tls.options());
        }
        options
    }
}

/// Certificates, as PEM.
#[derive(Clone)]
pub struct EtcdTls {
    /// The authorities that the members' certificates have to come from.
    pub authorities: Vec<u8>,
    /// Our certificate with its chain, and its key.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
    /// The name in the members' certificates, when it is not the endpoint's host.
    pub server_name: Option<String>,
}

impl EtcdTls {
    fn options(&self) -> TlsOptions {
        let mut options = TlsOptions::new().ca_certificate(Certificate::from_pem(&self.authorities));
        if let Some((certificate, key)) = &self.identity {
            options = options.identity(Identity::from_pem(certificate, key));
        }
        if let Some(name) = &self.server_name {
            options = options.domain_name(name);
        }
        options
    }
}

impl std::fmt::Debug for EtcdTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EtcdTls")
            .field("identity", &self.identity.is_some())
            .field("server_name", &self.server_name)
            .finish_non_exhaustive()
    }
}

/// Name and password.
#[derive(Clone)]
pub struct EtcdUser {
    /// The name.
    pub name: String,
    /// The password.
    pub password: String,
}

impl std::fmt::Debug for EtcdUser {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EtcdUser")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}
