//! The service of the cluster: thin over [`ClusterBackend`], with an audit record for every order.

use std::sync::Arc;

use api::v1;
use api::v1::cluster_service_server::ClusterService;
use api::v1::restore_request::Part;
use futures::StreamExt as _;
use futures::stream::BoxStream;
use tonic::{Request, Response, Status, Streaming};

use super::Services;
use super::error::of_backend;
use super::guard::Caller;
use crate::cluster_backend::Pieces;
use crate::{BackendError, ClusterBackend};

/// Most octets of one piece of a backup.
const MAX_PIECE: usize = 1 << 20;
/// Most octets of a backup that is written back.
const MAX_BACKUP: usize = 1 << 30;
/// The kind of the audit records.
const KIND: &str = "Cluster";

impl Services {
    fn cluster(&self) -> Result<&Arc<dyn ClusterBackend>, Status> {
        self.cluster
            .as_ref()
            .ok_or_else(|| Status::failed_precondition("this node is not part of a cluster"))
    }

    /// The cluster, for an operator's order.
    fn ordered<T>(&self, request: &Request<T>) -> Result<(Caller, &Arc<dyn ClusterBackend>), Status> {
        let caller = Caller::of(request)?;
        caller.is_operator()?;
        Ok((caller, self.cluster()?))
    }

    /// The answer to an order, noted in the audit trail when it was taken. One that ran out of time is in force.
    async fn order(
        &self,
        caller: &Caller,
        name: &str,
        detail: &str,
        outcome: Result<v1::ClusterOrderResponse, BackendError>,
    ) -> Result<Response<v1::ClusterOrderResponse>, Status> {
        if matches!(outcome, Ok(_) | Err(BackendError::Unavailable(_))) {
            self.note(caller, KIND, "", name, detail).await;
        }
        outcome.map(Response::new).map_err(|e| of_backend(&e))
    }
}

/// The name of a node in an audit record.
fn named(node: &str) -> &str {
    if node.is_empty() { "this node" } else { node }
}

#[tonic::async_trait]
impl ClusterService for Services {
    async fn status(
        &self,
        request: Request<v1::ClusterStatusRequest>,
    ) -> Result<Response<v1::ClusterStatus>, Status> {
        Caller::of(&request)?;
        let status = self.cluster()?.status().await;
        status.map(Response::new).map_err(|e| of_backend(&e))
    }

    async fn drain(
        &self,
        request: Request<v1::DrainRequest>,
    ) -> Result<Response<v1::ClusterOrderResponse>, Status> {
        let (caller, cluster) = self.ordered(&request)?;
        let request = request.into_inner();
        let node = request.node.clone();
        let detail = match request.redirect.as_slice() {
            [] => "drain".to_owned(),
            to => format!("drain, redirect to {}", to.join(", ")),
        };
        let outcome = cluster.drain(request).await;
        self.order(&caller, named(&node), &detail, outcome).await
    }

    async fn undrain(
        &self,
        request: Request<v1::UndrainRequest>,
    ) -> Result<Response<v1::ClusterOrderResponse>, Status> {
        let (caller, cluster) = self.ordered(&request)?;
        let request = request.into_inner();
        let node = request.node.clone();
        let outcome = cluster.undrain(request).await;
        self.order(&caller, named(&node), "undrain", outcome).await
    }

    async fn r#move(
        &self,
        request: Request<v1::MoveRequest>,
    ) -> Result<Response<v1::ClusterOrderResponse>, Status> {
        let (caller, cluster) = self.ordered(&request)?;
        let request = request.into_inner();
        if request.to.is_empty() {
            return Err(Status::invalid_argument("to: the name of a node"));
        }
        let (name, detail) = (
            format!("slot {}", request.slot),
            format!("move to {}", request.to),
        );
        let outcome = cluster.move_slot(request).await;
        self.order(&caller, &name, &detail, outcome).await
    }

    async fn leave(
        &self,
        request: Request<v1::LeaveRequest>,
    ) -> Result<Response<v1::ClusterOrderResponse>, Status> {
        let (caller, cluster) = self.ordered(&request)?;
        let request = request.into_inner();
        let node = request.node.clone();
        let outcome = cluster.leave(request).await;
        self.order(&caller, named(&node), "leave", outcome).await
    }

    async fn join(
        &self,
        request: Request<v1::JoinRequest>,
    ) -> Result<Response<v1::ClusterOrderResponse>, Status> {
        let (caller, cluster) = self.ordered(&request)?;
        let request = request.into_inner();
        let node = request.node.clone();
        let outcome = cluster.join(request).await;
        self.order(&caller, named(&node), "join", outcome).await
    }

    async fn forget(
        &self,
        request: Request<v1::ForgetRequest>,
    ) -> Result<Response<v1::ClusterOrderResponse>, Status> {
        let (caller, cluster) = self.ordered(&request)?;
        let request = request.into_inner();
        if request.node.is_empty() {
            return Err(Status::invalid_argument("node: the name of the node to forget"));
        }
        let node = request.node.clone();
        let outcome = cluster.forget(request).await;
        self.order(&caller, &node, "forget", outcome).await
    }

    type BackupStream = BoxStream<'static, Result<v1::BackupChunk, Status>>;

    async fn backup(
        &self,
        request: Request<v1::BackupRequest>,
    ) -> Result<Response<Self::BackupStream>, Status> {
        let (caller, cluster) = self.ordered(&request)?;
        let pieces = cluster.backup().await.map_err(|e| of_backend(&e))?;
        self.note(&caller, KIND, "", "cluster", "backup").await;
        let chunks = pieces.map(|piece| match piece {
            Ok(data) => Ok(v1::BackupChunk { data }),
            Err(error) => Err(of_backend(&error)),
        });
        Ok(Response::new(chunks.boxed()))
    }

    async fn restore(
        &self,
        request: Request<Streaming<v1::RestoreRequest>>,
    ) -> Result<Response<v1::RestoreResponse>, Status> {
        let (caller, cluster) = self.ordered(&request)?;
        let mut stream = request.into_inner();
        let Some(Part::Options(options)) = stream.message().await?.and_then(|first| first.part) else {
            return Err(Status::invalid_argument("the first message has the options"));
        };
        let outcome = cluster.restore(options, pieces(stream)).await;
        let answer = outcome.map_err(|e| of_backend(&e))?;
        if !options.validate_only {
            self.note(&caller, KIND, "", "cluster", "restore").await;
        }
        Ok(Response::new(answer))
    }

    async fn rotate_keys(
        &self,
        request: Request<v1::RotateKeysRequest>,
    ) -> Result<Response<v1::RotateKeysResponse>, Status> {
        let (caller, cluster) = self.ordered(&request)?;
        let request = request.into_inner();
        let name = match request.slots.as_slice() {
            [] => "all slots of this node".to_owned(),
            [one] => format!("slot {one}"),
            many => format!("{} slots", many.len()),
        };
        let outcome = cluster.rotate_keys(request).await;
        let answer = outcome.map_err(|e| of_backend(&e))?;
        self.note(&caller, KIND, "", &name, "rotate keys").await;
        Ok(Response::new(answer))
    }

    type WatchEventsStream = BoxStream<'static, Result<v1::ClusterEvent, Status>>;

    async fn watch_events(
        &self,
        request: Request<v1::WatchClusterEventsRequest>,
    ) -> Result<Response<Self::WatchEventsStream>, Status> {
        Caller::of(&request)?;
        Ok(Response::new(self.cluster()?.watch_events().map(Ok).boxed()))
    }
}

/// The data of a restore, held to the limits; ends after an error.
fn pieces(stream: Streaming<v1::RestoreRequest>) -> Pieces {
    let read = futures::stream::unfold((Some(stream), 0_usize), |(stream, total)| async move {
        let mut stream = stream?;
        let data = match stream.message().await {
            Ok(None) => return None,
            Ok(Some(v1::RestoreRequest {
                part: Some(Part::Data(data)),
            })) => data,
            Ok(Some(_)) => return Some((invalid("only data may follow the options"), (None, total))),
            Err(status) => {
                let error = BackendError::Unavailable(format!("the upload broke: {}", status.message()));
                return Some((Err(error), (None, total)));
            }
        };
        let total = total.saturating_add(data.len());
        if data.len() > MAX_PIECE {
            return Some((invalid("a piece is larger than 1 MiB"), (None, total)));
        }
        if total > MAX_BACKUP {
            return Some((invalid("the backup is larger than 1 GiB"), (None, total)));
        }
        Some((Ok(data), (Some(stream), total)))
    });
    read.boxed()
}

fn invalid(reason: &str) -> Result<Vec<u8>, BackendError> {
    Err(BackendError::Invalid(reason.to_owned()))
}
