//! The cluster as the management services see it: status, orders, events.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use api::v1;
use async_trait::async_trait;
use cluster::{NodeState, Order, SlotState, Status};
use futures::StreamExt as _;
use futures::stream::{self, BoxStream};
use tenants::cluster_backend::Pieces;
use tenants::{BackendError, ClusterBackend, Share};
use tokio::sync::broadcast::error::RecvError;

use super::shared::Shared;
use super::{events, rotation};
use crate::backup;
use crate::redirect::Redirects;
use crate::redirect::orders::{self, patience};
use crate::session::timestamp;

/// How long an order that is not waited for has to be refused.
const REFUSAL: Duration = Duration::from_millis(250);

/// Between two looks at what was ordered.
const LOOK: Duration = Duration::from_millis(10);

/// Answers the cluster's service.
pub struct Backend {
    shared: Arc<Shared>,
}

impl Backend {
    /// Over a cluster at work.
    #[must_use]
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Only this node is told what concerns it.
    fn is_this(&self, name: &str) -> Result<(), BackendError> {
        let own = &self.shared.node.config.node_name;
        if name.is_empty() || name == own {
            Ok(())
        } else {
            Err(BackendError::Invalid(format!(
                "this is node {own}: ask node {name} itself"
            )))
        }
    }

    /// Gives an order; waits for its end, or only for a refusal.
    async fn order(
        &self,
        order: Order,
        wait: bool,
        timeout_secs: u32,
        under_way: &str,
    ) -> Result<v1::ClusterOrderResponse, BackendError> {
        let shared = Arc::clone(&self.shared);
        self.carry_out(
            async move { shared.order(order).await },
            wait,
            timeout_secs,
            under_way,
        )
        .await
    }

    /// Lets an order take its steps; waits for their end, or only for a refusal.
    async fn carry_out(
        &self,
        steps: impl Future<Output = Result<String, String>> + Send + 'static,
        wait: bool,
        timeout_secs: u32,
        under_way: &str,
    ) -> Result<v1::ClusterOrderResponse, BackendError> {
        let patience = match (wait, timeout_secs) {
            (false, _) => REFUSAL,
            (true, seconds) => patience(seconds),
        };
        // It goes on when nobody waits for it any more.
        let mut asked = self.shared.runtime.spawn(steps);
        let detail = match tokio::time::timeout(patience, &mut asked).await {
            Ok(Ok(Ok(detail))) => detail,
            Ok(Ok(Err(reason))) => return Err(BackendError::Refused(reason)),
            Ok(Err(error)) => return Err(BackendError::Unavailable(error.to_string())),
            Err(_) if !wait => under_way.to_owned(),
            Err(_) => {
                let left = self.shared.node.slots.all().len();
                return Err(BackendError::Unavailable(format!(
                    "not done within {} s, it goes on; {left} slots are still served here",
                    patience.as_secs()
                )));
            }
        };
        Ok(v1::ClusterOrderResponse { detail })
    }

    /// Waits until a slot is served where it was moved to: the node that was asked may be neither of the two.
    async fn arrived(&self, slot: u8, to: &str, patience: Duration) -> Result<(), BackendError> {
        let seen = async {
            loop {
                let status = self.shared.pacemaker().status().await?;
                let there = status
                    .slots
                    .iter()
                    .any(|seen| seen.slot == slot && seen.owner.as_deref() == Some(to) && seen.serving);
                if there {
                    return Some(());
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        match tokio::time::timeout(patience, seen).await {
            Ok(Some(())) => Ok(()),
            Ok(None) => Err(BackendError::Unavailable("the node is ending".to_owned())),
            Err(_) => Err(BackendError::Unavailable(format!(
                "slot {slot} is not served by node {to} yet, its move goes on"
            ))),
        }
    }

    fn node(&self, status: &Status, node: &cluster::NodeStatus) -> v1::ClusterNode {
        let state = match node.state {
            _ if node.leaving && !node.member => v1::ClusterNodeState::Left,
            NodeState::Alive if node.draining || node.leaving => v1::ClusterNodeState::Draining,
            NodeState::Alive => v1::ClusterNodeState::Alive,
            NodeState::Suspected => v1::ClusterNodeState::Suspected,
            NodeState::Dead | NodeState::Unknown => v1::ClusterNodeState::Dead,
        };
        let own = &self.shared.node;
        v1::ClusterNode {
            name: node.name.clone(),
            incarnation: match node.incarnation {
                0 => String::new(),
                incarnation => format!("{incarnation:016x}"),
            },
            version: if node.this {
                env!("CARGO_PKG_VERSION").to_owned()
            } else {
                String::new()
            },
            state: state.into(),
            drained: node.draining
                && !status
                    .slots
                    .iter()
                    .any(|slot| slot.owner.as_ref() == Some(&node.name)),
            last_heard_ms: if node.this { None } else { node.silent.map(millis) },
            paths: node
                .paths
                .iter()
                .map(|(address, silent)| v1::ClusterPath {
                    address: address.to_string(),
                    last_heard_ms: Some(millis(*silent)),
                })
                .collect(),
            etcd_reachable: if node.this { status.etcd } else { node.etcd },
            service_link_up: if node.this { status.service } else { node.service },
            slots: status
                .slots
                .iter()
                .filter(|slot| slot.owner.as_ref() == Some(&node.name))
                .map(|slot| slot.slot.into())
                .collect(),
            member: node.member,
            same_slot_table: node.same_table,
            start_time: if node.this {
                Some(timestamp(own.started))
            } else {
                None
            },
        }
    }

    fn slot(&self, status: &Status, slot: &cluster::SlotStatus) -> v1::ClusterSlot {
        let shared = &self.shared;
        let table = shared.config.slots.iter().find(|table| table.id == slot.slot);
        let present = shared.node.slots.get(slot.slot);
        let state = match slot.state {
            SlotState::Claiming | SlotState::Starting => v1::ClusterSlotState::TakingOver,
            SlotState::Freezing | SlotState::HandedOver => v1::ClusterSlotState::HandingOver,
            SlotState::Serving => v1::ClusterSlotState::Serving,
            SlotState::Elsewhere | SlotState::Stopping => match &slot.owner {
                None => v1::ClusterSlotState::Unowned,
                Some(_) if slot.serving => v1::ClusterSlotState::Serving,
                Some(_) => v1::ClusterSlotState::TakingOver,
            },
        };
        let share = Share::of_slot(slot.slot, shared.config.highest_slot());
        v1::ClusterSlot {
            id: slot.slot.into(),
            owner: slot.owner.clone().unwrap_or_default(),
            generation: slot.generation,
            state: state.into(),
            addresses: table
                .map(|table| table.addresses.iter().map(ToString::to_string).collect())
                .unwrap_or_default(),
            service_addresses: table
                .map(|table| {
                    table
                        .service_addresses()
                        .iter()
                        .map(ToString::to_string)
                        .collect()
                })
                .unwrap_or_default(),
            pool_blocks: share
                .map(|share| shared.node.registry.blocks(share))
                .unwrap_or_default()
                .into_iter()
                .map(|block| v1::ClusterPoolBlock {
                    tenant: block.tenant,
                    pool: block.pool,
                    prefixes: block.prefixes.iter().map(ToString::to_string).collect(),
                })
                .collect(),
            sessions: present.as_ref().map(|present| present.sessions.len() as u64),
            records: match &present {
                Some(present) => Some(present.sessions.len() as u64),
                None => shared.replica.known(slot.slot).map(|known| known as u64),
            },
            since_time: slot
                .moved
                .and_then(|moved| SystemTime::now().checked_sub(moved))
                .map(timestamp),
            wish: slot.wish.clone().unwrap_or_default(),
            replica_lag_ms: present
                .as_ref()
                .map(|present| millis(present.records.oldest_wait())),
            data_key: shared
                .sealers
                .get(&slot.slot)
                .filter(|_| status.etcd)
                .map(|sealer| sealer.with(cluster::vault::Vault::newest)),
        }
    }

    async fn etcd(&self, status: &Status) -> v1::ClusterEtcd {
        let etcd = self.shared.stores.control.etcd();
        let counters = etcd.counters();
        let members = etcd.inspect().await;
        v1::ClusterEtcd {
            reachable: status.etcd,
            cluster_id: format!("{:016x}", etcd.cluster()),
            revision: etcd.highest_seen(),
            write_latency_us: u64::try_from(self.shared.stores.data.etcd().write_latency().as_micros())
                .unwrap_or(u64::MAX),
            members: members
                .into_iter()
                .map(|member| v1::ClusterEtcdMember {
                    reachable: member.version.is_some(),
                    version: member.version.unwrap_or_default(),
                    endpoint: member.endpoint,
                    leader: member.leader,
                    database_octets: member.database_octets,
                    latency_us: u64::try_from(member.latency.as_micros()).unwrap_or(u64::MAX),
                    warnings: member.warnings,
                })
                .collect(),
            counters: [
                ("failures", counters.failures),
                ("moves", counters.moves),
                ("commits", counters.commits),
                ("transactions", counters.transactions),
                ("recovered", counters.recovered),
                ("indeterminate", counters.indeterminate),
                ("watches_reopened", counters.watches_reopened),
                ("events_lost", counters.events_lost),
                ("keep_alives_reopened", counters.keep_alives_reopened),
            ]
            .map(|(name, value)| (name.to_owned(), value))
            .into(),
        }
    }
}

/// Things an operator should know, in words.
#[must_use]
pub fn warnings(shared: &Shared, status: &Status) -> Vec<String> {
    let mut warnings: Vec<String> = shared.stores.control.etcd().warnings().to_vec();
    if !status.etcd {
        warnings.push("etcd does not answer this node".to_owned());
    }
    if status.fail_static {
        warnings.push(
            "no node reaches etcd: tunnels go on where they are, changes are not replicated".to_owned(),
        );
    }
    if !status.service {
        warnings.push("the link of the service addresses is down".to_owned());
    }
    for slot in status.slots.iter().filter(|slot| slot.owner.is_none()) {
        warnings.push(format!("slot {} has no owner", slot.slot));
    }
    for node in &status.nodes {
        match node.state {
            NodeState::Suspected => warnings.push(format!("node {} is silent", node.name)),
            NodeState::Dead => warnings.push(format!("node {} has ended", node.name)),
            NodeState::Alive | NodeState::Unknown => {}
        }
        if node.state == NodeState::Alive && !node.same_table {
            warnings.push(format!("node {} has other slots configured", node.name));
        }
    }
    let left_out = shared.replica.left_out.load(std::sync::atomic::Ordering::Relaxed);
    if left_out > 0 {
        warnings.push(format!(
            "{left_out} records did not fit into cluster.replica_mib: takeovers read them from etcd"
        ));
    }
    warnings
}

#[async_trait]
impl ClusterBackend for Backend {
    async fn status(&self) -> Result<v1::ClusterStatus, BackendError> {
        let shared = &self.shared;
        let status = shared
            .pacemaker()
            .status()
            .await
            .ok_or_else(|| BackendError::Unavailable("the node is ending".to_owned()))?;
        let now = dataplane::boot_time();
        let slack = status.until.map_or(-1, |until| {
            let ahead = i64::try_from(until.saturating_sub(now).as_millis()).unwrap_or(i64::MAX);
            let behind = i64::try_from(now.saturating_sub(until).as_millis()).unwrap_or(i64::MAX);
            ahead - behind
        });
        let oldest = shared
            .node
            .slots
            .all()
            .iter()
            .map(|slot| slot.records.oldest_wait())
            .max()
            .unwrap_or_default();
        Ok(v1::ClusterStatus {
            node: status.name.clone(),
            time: Some(timestamp(SystemTime::now())),
            epoch: status.epoch,
            lease_slack_ms: slack,
            fail_static: status.fail_static,
            nodes: status.nodes.iter().map(|node| self.node(&status, node)).collect(),
            slots: status.slots.iter().map(|slot| self.slot(&status, slot)).collect(),
            etcd: Some(self.etcd(&status).await),
            replica_lag_ms: millis(oldest),
            warnings: warnings(shared, &status),
        })
    }

    async fn drain(&self, request: v1::DrainRequest) -> Result<v1::ClusterOrderResponse, BackendError> {
        self.is_this(&request.node)?;
        let shared = Arc::clone(&self.shared);
        if request.redirect.is_empty() {
            return self
                .carry_out(
                    async move { shared.order(Order::Drain).await },
                    request.wait,
                    request.timeout_secs,
                    "the slots are being handed over",
                )
                .await;
        }
        let node = Arc::clone(&shared.node);
        let order = orders::begin(&node, Some(&shared), &request.redirect, Some(0))?;
        let under_way = format!(
            "clients that follow are sent to {}, then the slots are handed over",
            order.places()
        );
        let steps = async move {
            let sent = Redirects::sessions(&node, &order).await;
            if !node.redirects.in_force(&order) {
                return Err("another order came: the slots stay".to_owned());
            }
            let handed = shared.order(Order::Drain).await?;
            Ok(format!("{sent}; {handed}"))
        };
        self.carry_out(steps, request.wait, request.timeout_secs, &under_way)
            .await
    }

    async fn undrain(&self, request: v1::UndrainRequest) -> Result<v1::ClusterOrderResponse, BackendError> {
        self.is_this(&request.node)?;
        orders::stop(&self.shared.node, Some(&self.shared));
        self.order(Order::Undrain, true, 0, "").await
    }

    async fn move_slot(&self, request: v1::MoveRequest) -> Result<v1::ClusterOrderResponse, BackendError> {
        let slot = u8::try_from(request.slot)
            .ok()
            .filter(|slot| self.shared.config.slots.iter().any(|table| table.id == *slot))
            .ok_or_else(|| BackendError::NotFound(format!("slot {}", request.slot)))?;
        let order = Order::Move {
            slot,
            to: request.to.clone(),
        };
        let begun = Instant::now();
        let done = self
            .order(
                order,
                request.wait,
                request.timeout_secs,
                "the slot is being handed over",
            )
            .await?;
        if request.wait {
            let patience = patience(request.timeout_secs).saturating_sub(begun.elapsed());
            self.arrived(slot, &request.to, patience).await?;
        }
        Ok(done)
    }

    async fn leave(&self, request: v1::LeaveRequest) -> Result<v1::ClusterOrderResponse, BackendError> {
        self.is_this(&request.node)?;
        self.order(
            Order::Leave,
            request.wait,
            request.timeout_secs,
            "the slots are being handed over",
        )
        .await
    }

    async fn join(&self, request: v1::JoinRequest) -> Result<v1::ClusterOrderResponse, BackendError> {
        self.is_this(&request.node)?;
        self.order(Order::Join, true, 0, "").await
    }

    async fn forget(&self, request: v1::ForgetRequest) -> Result<v1::ClusterOrderResponse, BackendError> {
        let order = Order::Forget { name: request.node };
        self.order(order, true, 0, "").await
    }

    async fn backup(&self) -> Result<Pieces, BackendError> {
        let store = Arc::clone(&self.shared.stores.data) as Arc<dyn store::Store>;
        let keys = self.shared.keys.load_full();
        Ok(backup::backup(store, keys, &self.shared.node.config.node_name))
    }

    async fn restore(
        &self,
        options: v1::RestoreOptions,
        pieces: Pieces,
    ) -> Result<v1::RestoreResponse, BackendError> {
        let keys = self.shared.keys.load_full();
        backup::restore(&*self.shared.stores.data, &keys, options, pieces).await
    }

    async fn rotate_keys(
        &self,
        request: v1::RotateKeysRequest,
    ) -> Result<v1::RotateKeysResponse, BackendError> {
        rotation::rotate(&self.shared, &request).await
    }

    fn watch_events(&self) -> BoxStream<'static, v1::ClusterEvent> {
        let name = self.shared.node.config.node_name.clone();
        let events = self.shared.events.subscribe();
        stream::unfold(events, |mut events| async move {
            loop {
                match events.recv().await {
                    Ok(event) => return Some((event, events)),
                    Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return None,
                }
            }
        })
        .map(move |event| {
            let facts = events::facts(&event);
            v1::ClusterEvent {
                time: Some(timestamp(SystemTime::now())),
                node: name.clone(),
                kind: facts.kind.to_owned(),
                slot: facts.slot.map(Into::into),
                generation: facts.generation,
                about: facts.about.to_owned(),
                text: event.to_string(),
            }
        })
        .boxed()
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
