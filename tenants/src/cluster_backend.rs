//! What the services ask of the daemon's cluster.

use api::v1;
use async_trait::async_trait;
use futures::stream::BoxStream;

use crate::BackendError;

/// Pieces of a backup, in order.
pub type Pieces = BoxStream<'static, Result<Vec<u8>, BackendError>>;

/// The daemon's part in the cluster, as the services see it. The callers have been checked, and orders that succeed
/// are written into the audit trail by the service.
///
/// Orders return when they are under way, or done where the request says `wait`; a wait that runs out of time is
/// [`BackendError::Unavailable`] saying what is still to be done, and the order stays in force.
#[async_trait]
pub trait ClusterBackend: Send + Sync + 'static {
    /// What this node knows of the cluster.
    ///
    /// # Errors
    /// When the daemon cannot answer.
    async fn status(&self) -> Result<v1::ClusterStatus, BackendError>;

    /// Gives every slot of this node away and takes none until [`ClusterBackend::undrain`].
    ///
    /// # Errors
    /// [`BackendError::Invalid`] for another node's name; [`BackendError::Refused`] when nobody could take the slots.
    async fn drain(&self, request: v1::DrainRequest) -> Result<v1::ClusterOrderResponse, BackendError>;

    /// Takes slots again.
    ///
    /// # Errors
    /// [`BackendError::Invalid`] for another node's name.
    async fn undrain(&self, request: v1::UndrainRequest) -> Result<v1::ClusterOrderResponse, BackendError>;

    /// Moves a slot, whoever owns it.
    ///
    /// # Errors
    /// [`BackendError::NotFound`] for a slot or node that is not there; [`BackendError::Refused`] when the node
    /// cannot take it.
    async fn move_slot(&self, request: v1::MoveRequest) -> Result<v1::ClusterOrderResponse, BackendError>;

    /// Drains this node and takes it out of the membership, until [`ClusterBackend::join`] or its next start.
    ///
    /// # Errors
    /// As for [`ClusterBackend::drain`].
    async fn leave(&self, request: v1::LeaveRequest) -> Result<v1::ClusterOrderResponse, BackendError>;

    /// Takes this node into the membership again.
    ///
    /// # Errors
    /// [`BackendError::Invalid`] for another node's name.
    async fn join(&self, request: v1::JoinRequest) -> Result<v1::ClusterOrderResponse, BackendError>;

    /// Removes what is kept of a node that is gone.
    ///
    /// # Errors
    /// [`BackendError::NotFound`] when nothing is; [`BackendError::Refused`] while it lives.
    async fn forget(&self, request: v1::ForgetRequest) -> Result<v1::ClusterOrderResponse, BackendError>;

    /// A backup, in pieces of at most 2 MiB; an error ends it and makes it worthless.
    ///
    /// # Errors
    /// When the store cannot be read.
    async fn backup(&self) -> Result<Pieces, BackendError>;

    /// Writes a backup back, after having checked all of it.
    ///
    /// # Errors
    /// [`BackendError::Invalid`] when it is damaged, incomplete or of another cluster key; [`BackendError::Refused`]
    /// when the store has a configuration and `replace` is not set; an error of `pieces`.
    async fn restore(
        &self,
        options: v1::RestoreOptions,
        pieces: Pieces,
    ) -> Result<v1::RestoreResponse, BackendError>;

    /// New data keys for slots of this node, after reading the key file again.
    ///
    /// # Errors
    /// [`BackendError::Invalid`] for a slot of another node and a key file that is wrong.
    async fn rotate_keys(
        &self,
        request: v1::RotateKeysRequest,
    ) -> Result<v1::RotateKeysResponse, BackendError>;

    /// What happens from here on. A reader that falls behind loses the oldest.
    fn watch_events(&self) -> BoxStream<'static, v1::ClusterEvent>;
}
