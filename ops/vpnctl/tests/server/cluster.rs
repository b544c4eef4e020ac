//! A cluster of two nodes that is not there.

use std::sync::Mutex;

use api::v1;
use async_trait::async_trait;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use tenants::cluster_backend::Pieces;
use tenants::{BackendError, ClusterBackend};

type Order = Result<v1::ClusterOrderResponse, BackendError>;

/// What it was told, and what was restored.
#[derive(Default)]
pub struct FakeCluster {
    pub orders: Mutex<Vec<String>>,
    pub restored: Mutex<Vec<u8>>,
    /// The backup breaks in the middle.
    pub breaks: bool,
}

impl FakeCluster {
    fn took(&self, order: String) -> Order {
        self.orders.lock().unwrap().push(order.clone());
        Ok(v1::ClusterOrderResponse { detail: order })
    }

    fn is_this(&self, node: &str) -> Result<(), BackendError> {
        match node {
            "" | "a" => Ok(()),
            other => Err(BackendError::Invalid(format!(
                "this is node a: ask node {other} itself"
            ))),
        }
    }
}

fn slot(id: u32, owner: &str) -> v1::ClusterSlot {
    v1::ClusterSlot {
        id,
        owner: owner.into(),
        generation: 40 + u64::from(id),
        state: v1::ClusterSlotState::Serving.into(),
        addresses: vec![format!("192.0.2.{}/24@eth0", 100 + id)],
        service_addresses: vec![format!("192.0.2.{}", 100 + id)],
        pool_blocks: vec![v1::ClusterPoolBlock {
            tenant: "acme".into(),
            pool: "v4".into(),
            prefixes: vec![format!("10.9.{}.0/25", id * 128)],
        }],
        sessions: (owner == "a").then_some(7),
        records: Some(7),
        ..Default::default()
    }
}

#[async_trait]
impl ClusterBackend for FakeCluster {
    async fn status(&self) -> Result<v1::ClusterStatus, BackendError> {
        let node = |name: &str, state: v1::ClusterNodeState, slots: Vec<u32>| v1::ClusterNode {
            name: name.into(),
            incarnation: "00000000000000ab".into(),
            state: state.into(),
            last_heard_ms: (name != "a").then_some(420),
            etcd_reachable: true,
            service_link_up: name == "a",
            slots,
            member: true,
            same_slot_table: true,
            ..Default::default()
        };
        let endpoint = "http://10.98.0.11:2379";
        Ok(v1::ClusterStatus {
            node: "a".into(),
            epoch: 2,
            lease_slack_ms: 1_400,
            nodes: vec![
                node("a", v1::ClusterNodeState::Alive, vec![0]),
                node("b", v1::ClusterNodeState::Suspected, vec![1]),
            ],
            slots: vec![slot(0, "a"), slot(1, "b")],
            etcd: Some(v1::ClusterEtcd {
                reachable: true,
                revision: 1_234,
                write_latency_us: 2_500,
                members: vec![v1::ClusterEtcdMember {
                    endpoint: endpoint.into(),
                    version: "3.4.23".into(),
                    reachable: true,
                    leader: true,
                    database_octets: 3 << 20,
                    warnings: vec!["etcd 3.4.23: plan an upgrade".into()],
                    ..Default::default()
                }],
                ..Default::default()
            }),
            warnings: vec![
                format!("{endpoint}: etcd 3.4.23: plan an upgrade"),
                "node b is silent".into(),
            ],
            ..Default::default()
        })
    }

    async fn drain(&self, request: v1::DrainRequest) -> Order {
        self.is_this(&request.node)?;
        let redirect = match request.redirect.as_slice() {
            [] => String::new(),
            to => format!(" redirect {}", to.join(",")),
        };
        self.took(format!(
            "drain wait={} {} s{redirect}",
            request.wait, request.timeout_secs
        ))
    }

    async fn undrain(&self, request: v1::UndrainRequest) -> Order {
        self.is_this(&request.node)?;
        self.took("undrain".into())
    }

    async fn move_slot(&self, request: v1::MoveRequest) -> Order {
        match request.slot {
            0 | 1 => self.took(format!("move {} to {}", request.slot, request.to)),
            other => Err(BackendError::NotFound(format!("slot {other}"))),
        }
    }

    async fn leave(&self, request: v1::LeaveRequest) -> Order {
        self.is_this(&request.node)?;
        self.took("leave".into())
    }

    async fn join(&self, request: v1::JoinRequest) -> Order {
        self.is_this(&request.node)?;
        self.took("join".into())
    }

    async fn forget(&self, request: v1::ForgetRequest) -> Order {
        Err(BackendError::Refused(format!(
            "node {} lives: stop it first",
            request.node
        )))
    }

    async fn backup(&self) -> Result<Pieces, BackendError> {
        let last = if self.breaks {
            Err(BackendError::Unavailable("the store does not answer".into()))
        } else {
            Ok(vec![b'z'; 300_000])
        };
        Ok(stream::iter([Ok(vec![b'a'; 300_000]), last]).boxed())
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
        if !all.ends_with(b"z") {
            return Err(BackendError::Invalid("the backup is cut off".into()));
        }
        if !options.replace {
            return Err(BackendError::Refused("the cluster has a configuration".into()));
        }
        if !options.validate_only {
            *self.restored.lock().unwrap() = all;
        }
        Ok(v1::RestoreResponse {
            backup_node: "b".into(),
            epoch: if options.validate_only { 0 } else { 3 },
            keys: [("config".to_owned(), 4)].into(),
            warnings: vec!["restart every concentrator".into()],
            ..Default::default()
        })
    }

    async fn rotate_keys(
        &self,
        request: v1::RotateKeysRequest,
    ) -> Result<v1::RotateKeysResponse, BackendError> {
        let rotated = |slot| v1::RotatedKey {
            slot,
            data_key: 2,
            records: 7,
        };
        Ok(v1::RotateKeysResponse {
            slots: request.slots.into_iter().map(rotated).collect(),
            cluster_key: "0123456789abcdef".into(),
        })
    }

    fn watch_events(&self) -> BoxStream<'static, v1::ClusterEvent> {
        let event = |kind: &str, text: &str| v1::ClusterEvent {
            node: "a".into(),
            kind: kind.into(),
            slot: Some(1),
            text: text.into(),
            ..Default::default()
        };
        let events = [
            event("suspected", "node b is silent on all paths"),
            event("claimed", "slot 1 is taken from b"),
        ];
        stream::iter(events).boxed()
    }
}
