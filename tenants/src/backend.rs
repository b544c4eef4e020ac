//! What the services ask of the daemon: sessions, the node, faults.

use api::v1;
use async_trait::async_trait;
use futures::stream::BoxStream;

/// Which sessions are meant. Empty fields do not restrict.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionFilter {
    /// Exactly this tenant.
    pub tenant: Option<String>,
    /// The peer identity contains this.
    pub identity: Option<String>,
    /// The outer or a virtual address is this.
    pub address: Option<std::net::IpAddr>,
}

impl SessionFilter {
    /// Whether a session is meant.
    pub fn matches(&self, session: &v1::Session) -> bool {
        self.tenant
            .as_ref()
            .is_none_or(|tenant| *tenant == session.tenant)
            && self
                .identity
                .as_ref()
                .is_none_or(|part| session.peer_id.contains(part.as_str()))
            && self.address.is_none_or(|address| {
                let outer = session
                    .remote_address
                    .parse::<std::net::SocketAddr>()
                    .map(|outer| outer.ip());
                outer == Ok(address)
                    || session
                        .virtual_addresses
                        .iter()
                        .any(|inner| inner.parse() == Ok(address))
            })
    }
}

/// The daemon could not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BackendError {
    /// There is no such thing.
    #[error("{0} not found")]
    NotFound(String),
    /// Not allowed by the daemon's configuration.
    #[error("{0}")]
    Refused(String),
    /// The request makes no sense to the daemon.
    #[error("{0}")]
    Invalid(String),
    /// Busy or stopping: may be tried again.
    #[error("{0}")]
    Unavailable(String),
}

/// The daemon, as the services see it.
#[async_trait]
pub trait SessionBackend: Send + Sync + 'static {
    /// Sessions that match, in ascending order of their ids, beginning after the id `after`, at most `limit`.
    ///
    /// # Errors
    /// When the daemon cannot answer.
    async fn list(
        &self,
        filter: &SessionFilter,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<v1::Session>, BackendError>;

    /// One session by id.
    ///
    /// # Errors
    /// [`BackendError::NotFound`] when it is not there.
    async fn get(&self, id: &str) -> Result<v1::Session, BackendError>;

    /// Every present session as ADDED, then changes as they happen, of all tenants.
    fn watch(&self) -> BoxStream<'static, v1::SessionEvent>;

    /// Ends sessions with a DELETE; returns the ids of those that were there.
    ///
    /// # Errors
    /// When the daemon cannot answer.
    async fn disconnect(&self, ids: &[String], reason: &str) -> Result<Vec<String>, BackendError>;

    /// Starts rekeys of a session: of its IKE SA, or of its child SAs (one, by inbound SPI, or all). Returns how many.
    ///
    /// # Errors
    /// [`BackendError::NotFound`] when the session or the child is not there.
    async fn rekey(&self, request: v1::RekeyRequest) -> Result<u32, BackendError> {
        Err(BackendError::Unavailable(format!(
            "session {} cannot be rekeyed by this daemon",
            request.id
        )))
    }

    /// How the node is.
    ///
    /// # Errors
    /// When the daemon cannot answer.
    async fn node_status(&self) -> Result<v1::NodeStatus, BackendError>;

    /// Reads the configuration file again; only checks it with `validate_only`.
    ///
    /// # Errors
    /// [`BackendError::Invalid`] when the file is wrong.
    async fn reload(&self, validate_only: bool) -> Result<v1::ReloadResponse, BackendError>;

    /// Sends clients to another gateway, or no longer.
    ///
    /// # Errors
    /// [`BackendError::Invalid`] for what names no gateway; [`BackendError::Unavailable`] when the wait runs out of time:
    /// the order stays in force.
    async fn redirect(&self, request: v1::RedirectRequest) -> Result<v1::RedirectResponse, BackendError>;

    /// Makes a part fail.
    ///
    /// # Errors
    /// [`BackendError::Refused`] unless `debug.fault_injection = true`.
    async fn inject_fault(
        &self,
        request: v1::InjectFaultRequest,
    ) -> Result<v1::InjectFaultResponse, BackendError>;
}
