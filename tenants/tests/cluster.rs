//! The cluster's service through a real server: who may, what is noted, how backups travel, what a single node says.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod support;

use std::sync::{Arc, Mutex};

use api::v1;
use api::v1::audit_service_client::AuditServiceClient;
use api::v1::cluster_service_client::ClusterServiceClient;
use api::v1::restore_request::Part;
use async_trait::async_trait;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use support::Rig;
use tenants::cluster_backend::Pieces;
use tenants::{BackendError, ClusterBackend};
use tonic::transport::Channel;
use tonic::{Code, Status};

type Client = ClusterServiceClient<Channel>;
type Order = Result<v1::ClusterOrderResponse, BackendError>;

/// Two nodes and two slots that are not there.
#[derive(Default)]
struct FakeCluster {
    orders: Mutex<Vec<String>>,
    restored: Mutex<Vec<u8>>,
}

impl FakeCluster {
    fn took(&self, order: String) -> Order {
        self.orders.lock().unwrap().push(order.clone());
        Ok(v1::ClusterOrderResponse { detail: order })
    }
}

#[async_trait]
impl ClusterBackend for FakeCluster {
    async fn status(&self) -> Result<v1::ClusterStatus, BackendError> {
        Ok(v1::ClusterStatus {
            node: "a".into(),
            ..Default::default()
        })
    }

    async fn drain(&self, request: v1::DrainRequest) -> Order {
        match request.node.as_str() {
            "" | "a" => self.took(format!("drain wait={}", request.wait)),
            other => Err(BackendError::Invalid(format!("this is node a, not {other}"))),
        }
    }

    async fn undrain(&self, _: v1::UndrainRequest) -> Order {
        self.took("undrain".into())
    }

    async fn move_slot(&self, request: v1::MoveRequest) -> Order {
        match request.slot {
            0 => self.took(format!("move 0 {}", request.to)),
            1 => Err(BackendError::Unavailable("slot 1 is still handing over".into())),
            other => Err(BackendError::NotFound(format!("slot {other}"))),
        }
    }

    async fn leave(&self, _: v1::LeaveRequest) -> Order {
        self.took("leave".into())
    }

    async fn join(&self, _: v1::JoinRequest) -> Order {
        self.took("join".into())
    }

    async fn forget(&self, request: v1::ForgetRequest) -> Order {
        match request.node.as_str() {
            "b" => Err(BackendError::Refused("node b lives".into())),
            other => self.took(format!("forget {other}")),
        }
    }

    async fn backup(&self) -> Result<Pieces, BackendError> {
        let pieces = [Ok(b"one".to_vec()), Ok(b"two".to_vec())];
        Ok(stream::iter(pieces).boxed())
    }

    async fn restore(
        &self,
        options: v1::RestoreOptions,
        mut pieces: Pieces,
    ) -> Result<v1::RestoreResponse, BackendError> {
        let mut all = Vec::new();
        while let Some(piece) = pieces.try_next().await? {
            all.extend(piece);
        }
        *self.restored.lock().unwrap() = all;
        Ok(v1::RestoreResponse {
            epoch: u64::from(!options.validate_only),
            ..Default::default()
        })
    }

    async fn rotate_keys(
        &self,
        request: v1::RotateKeysRequest,
    ) -> Result<v1::RotateKeysResponse, BackendError> {
        let of = |slot| v1::RotatedKey {
            slot,
            ..Default::default()
        };
        Ok(v1::RotateKeysResponse {
            slots: request.slots.into_iter().map(of).collect(),
            ..Default::default()
        })
    }

    fn watch_events(&self) -> BoxStream<'static, v1::ClusterEvent> {
        let event = v1::ClusterEvent {
            kind: "claimed".into(),
            slot: Some(0),
            ..Default::default()
        };
        stream::iter([event]).boxed()
    }
}

fn code<T>(answer: Result<T, Status>) -> Option<Code> {
    answer.err().map(|status| status.code())
}

/// What came of every order that changes something, with the method's name.
async fn all_orders(client: &mut Client) -> Vec<(&'static str, Option<Code>)> {
    let forget = v1::ForgetRequest { node: "c".into() };
    let to_b = v1::MoveRequest {
        to: "b".into(),
        ..Default::default()
    };
    vec![
        ("Drain", code(client.drain(v1::DrainRequest::default()).await)),
        (
            "Undrain",
            code(client.undrain(v1::UndrainRequest::default()).await),
        ),
        ("Move", code(client.r#move(to_b).await)),
        ("Leave", code(client.leave(v1::LeaveRequest::default()).await)),
        ("Join", code(client.join(v1::JoinRequest::default()).await)),
        ("Forget", code(client.forget(forget).await)),
        ("Backup", code(client.backup(v1::BackupRequest {}).await)),
        ("Restore", code(restore(client, vec![options(false)]).await)),
        (
            "RotateKeys",
            code(client.rotate_keys(v1::RotateKeysRequest::default()).await),
        ),
    ]
}

async fn restore(client: &mut Client, parts: Vec<Part>) -> Result<v1::RestoreResponse, Status> {
    let requests: Vec<_> = parts
        .into_iter()
        .map(|part| v1::RestoreRequest { part: Some(part) })
        .collect();
    client
        .restore(stream::iter(requests))
        .await
        .map(tonic::Response::into_inner)
}

fn options(validate_only: bool) -> Part {
    Part::Options(v1::RestoreOptions {
        validate_only,
        ..Default::default()
    })
}

#[tokio::test]
async fn a_single_node_says_that_it_is_in_no_cluster() {
    let rig = Rig::new().await;
    let mut client = ClusterServiceClient::new(rig.operator().await);
    let status = client.status(v1::ClusterStatusRequest {}).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert_eq!(status.message(), "this node is not part of a cluster");
    let events = client.watch_events(v1::WatchClusterEventsRequest {}).await;
    assert_eq!(code(events), Some(Code::FailedPrecondition));
    for (method, outcome) in all_orders(&mut client).await {
        assert_eq!(outcome, Some(Code::FailedPrecondition), "{method}");
    }
}

#[tokio::test]
async fn auditors_look_operators_order_and_tenants_see_nothing() {
    let cluster = Arc::new(FakeCluster::default());
    let rig = Rig::with_cluster(cluster.clone()).await;
    let mut operator = ClusterServiceClient::new(rig.operator().await);
    let mut auditor = ClusterServiceClient::new(rig.role("auditor", None).await);
    let mut tenant = ClusterServiceClient::new(rig.role("tenant-admin", Some("acme")).await);
    for client in [&mut operator, &mut auditor] {
        let status = client.status(v1::ClusterStatusRequest {}).await.unwrap();
        assert_eq!(status.into_inner().node, "a");
        let events = client
            .watch_events(v1::WatchClusterEventsRequest {})
            .await
            .unwrap();
        let events: Vec<_> = events.into_inner().try_collect().await.unwrap();
        assert_eq!(events.len(), 1);
    }
    let denied = Some(Code::PermissionDenied);
    assert_eq!(code(tenant.status(v1::ClusterStatusRequest {}).await), denied);
    assert_eq!(
        code(tenant.watch_events(v1::WatchClusterEventsRequest {}).await),
        denied
    );
    for client in [&mut auditor, &mut tenant] {
        for (method, outcome) in all_orders(client).await {
            assert_eq!(outcome, denied, "{method}");
        }
    }
    assert!(
        cluster.orders.lock().unwrap().is_empty(),
        "nothing reached the cluster"
    );
    for (method, outcome) in all_orders(&mut operator).await {
        assert_eq!(outcome, None, "{method}");
    }
}

#[tokio::test]
async fn orders_that_were_taken_are_noted_and_refused_ones_are_not() {
    let rig = Rig::with_cluster(Arc::new(FakeCluster::default())).await;
    let mut client = ClusterServiceClient::new(rig.operator().await);
    for (method, outcome) in all_orders(&mut client).await {
        assert_eq!(outcome, None, "{method}");
    }
    let to = |slot, to: &str| v1::MoveRequest {
        slot,
        to: to.into(),
        ..Default::default()
    };
    assert_eq!(code(client.r#move(to(0, "")).await), Some(Code::InvalidArgument));
    assert_eq!(code(client.r#move(to(9, "b")).await), Some(Code::NotFound));
    // Still in force: it is noted.
    assert_eq!(code(client.r#move(to(1, "b")).await), Some(Code::Unavailable));
    let other = v1::DrainRequest {
        node: "b".into(),
        ..Default::default()
    };
    assert_eq!(code(client.drain(other).await), Some(Code::InvalidArgument));
    for (node, expected) in [("b", Code::FailedPrecondition), ("", Code::InvalidArgument)] {
        let request = v1::ForgetRequest { node: node.into() };
        assert_eq!(code(client.forget(request).await), Some(expected), "{node:?}");
    }
    let only_check = restore(&mut client, vec![options(true)]).await.unwrap();
    assert_eq!(only_check.epoch, 0);

    let records = AuditServiceClient::new(rig.operator().await)
        .list(v1::ListAuditRequest {
            kind: "Cluster".into(),
            ..Default::default()
        })
        .await
        .unwrap()
        .into_inner()
        .records;
    let noted: Vec<(String, String)> = records
        .iter()
        .rev()
        .map(|record| {
            let change = record.change.clone().unwrap();
            (change.name, change.fields[0].path.clone())
        })
        .collect();
    let expected = [
        ("this node", "drain"),
        ("this node", "undrain"),
        ("slot 0", "move to b"),
        ("this node", "leave"),
        ("this node", "join"),
        ("c", "forget"),
        ("cluster", "backup"),
        ("cluster", "restore"),
        ("all slots of this node", "rotate keys"),
        ("slot 1", "move to b"),
    ];
    assert_eq!(
        noted,
        expected.map(|(name, detail)| (name.to_owned(), detail.to_owned()))
    );
}

#[tokio::test]
async fn a_backup_travels_in_pieces_both_ways() {
    let cluster = Arc::new(FakeCluster::default());
    let rig = Rig::with_cluster(cluster.clone()).await;
    let mut client = ClusterServiceClient::new(rig.operator().await);
    let chunks = client.backup(v1::BackupRequest {}).await.unwrap();
    let chunks: Vec<v1::BackupChunk> = chunks.into_inner().try_collect().await.unwrap();
    let parts: Vec<Part> = std::iter::once(options(false))
        .chain(chunks.into_iter().map(|chunk| Part::Data(chunk.data)))
        .collect();
    assert_eq!(restore(&mut client, parts).await.unwrap().epoch, 1);
    assert_eq!(*cluster.restored.lock().unwrap(), b"onetwo");
}

#[tokio::test]
async fn a_restore_out_of_order_or_out_of_bounds_is_refused() {
    let cluster = Arc::new(FakeCluster::default());
    let rig = Rig::with_cluster(cluster.clone()).await;
    let mut client = ClusterServiceClient::new(rig.operator().await);
    let data = |size: usize| Part::Data(vec![0; size]);
    for parts in [
        vec![],
        vec![data(3)],
        vec![options(false), data(3), options(false)],
        vec![options(false), data((1 << 20) + 1)],
    ] {
        let outcome = restore(&mut client, parts).await;
        assert_eq!(code(outcome), Some(Code::InvalidArgument));
    }
    let empty = client
        .restore(stream::iter([v1::RestoreRequest { part: None }]))
        .await;
    assert_eq!(code(empty), Some(Code::InvalidArgument));
    assert!(cluster.restored.lock().unwrap().is_empty());
}
