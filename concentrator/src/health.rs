//! Whether the node can do what it is there for, told by the standard health service of gRPC under bounded names.
//!
//! ```text
//!  workers, deadline ───────────────► vpn.tunnels ─┐
//!  records, etcd, rules ────────────► vpn.store   ─┼─► "" and every vpn.v1.* service
//!  listener, draining, both above ──► vpn.logins   │
//!  starting, draining, left, ending ───────────────┘
//! ```
//! - `vpn.tunnels`: packets of live sessions are carried.
//! - `vpn.store`: what sessions change becomes durable, within [`WAIT_CLOSED`].
//! - `vpn.logins`: new users are let in.
//! - the empty name: the node as a whole. With etcd gone for everybody a node that holds its slots goes on serving, as the
//!   rules allow; new users may have to wait then, which `vpn.logins` says.
//! - `vpn.v1.NodeService` and its like: the API itself answers.
//!
//! [`Facts`] are gathered twice a second and judged by a pure function.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tenants::service::HealthService;
use tonic_health::ServingStatus;

use crate::cluster::Shared;
use crate::config::LoginsWithoutStore;
use crate::node::Node;
use crate::records::WAIT_CLOSED;

/// Between two looks.
const EVERY: Duration = Duration::from_millis(500);

/// The name of what carries packets.
pub const TUNNELS: &str = "vpn.tunnels";
/// The name of what makes changes durable.
pub const STORE: &str = "vpn.store";
/// The name of what lets new users in.
pub const LOGINS: &str = "vpn.logins";

/// What is known of the node at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Workers whose thread runs.
    pub workers: usize,
    /// Whether somebody reads the IKE sockets.
    pub listener: bool,
    /// It gives away what it has, or is ending.
    pub draining: bool,
    /// Age of the oldest record that is not durable.
    pub oldest: Duration,
    /// What only nodes of a cluster have.
    pub cluster: Option<ClusterFacts>,
}

/// What is known of a node's part in its cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClusterFacts {
    /// etcd answers this node.
    pub etcd: bool,
    /// etcd is gone for everybody, and the slots are held all the same.
    pub fail_static: bool,
    /// Users may come in even then.
    pub logins_without_store: bool,
    /// The workers may carry packets at this moment.
    pub in_time: bool,
    /// It is no member any more, or is about to be none.
    pub left: bool,
}

/// What can be relied on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// The node as a whole.
    pub node: bool,
    /// See [`TUNNELS`].
    pub tunnels: bool,
    /// See [`STORE`].
    pub store: bool,
    /// See [`LOGINS`].
    pub logins: bool,
}

impl Facts {
    /// Judges.
    #[must_use]
    pub fn judge(&self) -> Verdict {
        let prompt = self.oldest < WAIT_CLOSED;
        let (store, static_, admits, in_time, left) = match self.cluster {
            None => (prompt, false, true, true, false),
            Some(cluster) => (
                prompt && cluster.etcd && !cluster.fail_static,
                cluster.fail_static,
                cluster.logins_without_store,
                cluster.in_time,
                cluster.left,
            ),
        };
        let tunnels = self.workers > 0 && in_time;
        // Without a store the rules allow tunnels and rekeys to go on.
        let node = tunnels && (store || static_) && self.listener && !self.draining && !left;
        Verdict {
            node,
            tunnels,
            store,
            logins: node && (store || static_ && admits),
        }
    }

    /// Looks at the node.
    async fn of(node: &Node, shared: Option<&Shared>) -> Self {
        let slots = node.slots.all();
        let workers = node.workers().iter().filter(|worker| worker.runs());
        let mut facts = Self {
            // At the end they are told to stop, which is no death.
            workers: if node.stopping() { 0 } else { workers.count() },
            listener: node
                .listener
                .load()
                .as_ref()
                .is_some_and(|listener| listener.connected()),
            draining: node.draining.load(Ordering::Relaxed) || node.stopping(),
            oldest: slots
                .iter()
                .map(|slot| slot.records.oldest_wait())
                .max()
                .unwrap_or_default(),
            cluster: None,
        };
        if let Some(shared) = shared {
            let status = shared.pacemaker().status().await;
            facts.draining |= status.as_ref().is_none_or(|status| status.draining);
            facts.cluster = Some(ClusterFacts {
                etcd: status.as_ref().is_some_and(|status| status.etcd),
                fail_static: status.as_ref().is_some_and(|status| status.fail_static),
                logins_without_store: shared.config.logins_without_store == LoginsWithoutStore::Admit,
                in_time: status
                    .as_ref()
                    .and_then(|status| status.until)
                    .is_some_and(|until| until > dataplane::boot_time()),
                left: status.as_ref().is_none_or(|status| status.leaving),
            });
        }
        facts
    }
}

/// Says how the node is. Cheap to clone.
#[derive(Clone)]
pub struct Health {
    service: HealthService,
}

impl Health {
    /// Nothing serves yet. `service` is that of the API's listeners.
    pub async fn new(service: HealthService) -> Self {
        let health = Self { service };
        health.tell(Verdict::default(), false).await;
        health
    }

    /// Says what can be relied on; `api`: whether the services of the API answer.
    async fn tell(&self, verdict: Verdict, api: bool) {
        let own = [
            ("", verdict.node),
            (TUNNELS, verdict.tunnels),
            (STORE, verdict.store),
            (LOGINS, verdict.logins),
        ];
        let services = tenants::service::names().map(|name| (name, api));
        for (name, serves) in own.into_iter().chain(services) {
            let status = if serves {
                ServingStatus::Serving
            } else {
                ServingStatus::NotServing
            };
            self.service.reporter().set_service_status(name, status).await;
        }
    }

    /// Looks and tells until the node ends.
    pub async fn follow(self, node: Arc<Node>, shared: Option<Arc<Shared>>) {
        let mut last = None;
        let mut every = tokio::time::interval(EVERY);
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            every.tick().await;
            let facts = Facts::of(&node, shared.as_deref()).await;
            let verdict = facts.judge();
            if last != Some(verdict) {
                last = Some(verdict);
                tracing::info!(
                    node = verdict.node,
                    tunnels = verdict.tunnels,
                    store = verdict.store,
                    logins = verdict.logins,
                    ?facts,
                    "health"
                );
                self.tell(verdict, true).await;
            }
        }
    }

    /// The node is ending: nothing is to be expected of it.
    pub async fn end(&self) {
        self.tell(Verdict::default(), false).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALONE: Facts = Facts {
        workers: 2,
        listener: true,
        draining: false,
        oldest: Duration::ZERO,
        cluster: None,
    };
    const MEMBER: ClusterFacts = ClusterFacts {
        etcd: true,
        fail_static: false,
        logins_without_store: false,
        in_time: true,
        left: false,
    };
    const ALL: Verdict = Verdict {
        node: true,
        tunnels: true,
        store: true,
        logins: true,
    };

    fn member(cluster: ClusterFacts) -> Verdict {
        Facts {
            cluster: Some(cluster),
            ..ALONE
        }
        .judge()
    }

    #[test]
    fn a_sound_node_serves() {
        assert_eq!(ALONE.judge(), ALL);
        assert_eq!(member(MEMBER), ALL);
    }

    #[test]
    fn a_node_without_workers_or_listener_does_not() {
        let deaf = Facts {
            listener: false,
            ..ALONE
        };
        assert_eq!(
            deaf.judge(),
            Verdict {
                node: false,
                logins: false,
                ..ALL
            }
        );
        let verdict = Facts { workers: 0, ..ALONE }.judge();
        assert!(!verdict.node && !verdict.tunnels && !verdict.logins && verdict.store);
    }

    #[test]
    fn a_draining_node_carries_packets_and_takes_nobody() {
        let draining = Facts {
            draining: true,
            ..ALONE
        };
        let expected = Verdict {
            node: false,
            logins: false,
            ..ALL
        };
        assert_eq!(draining.judge(), expected);
        let left = ClusterFacts { left: true, ..MEMBER };
        assert_eq!(member(left), expected);
    }

    #[test]
    fn a_store_that_takes_nothing_shows() {
        let stuck = Facts {
            oldest: WAIT_CLOSED,
            ..ALONE
        };
        let expected = Verdict {
            node: false,
            tunnels: true,
            store: false,
            logins: false,
        };
        assert_eq!(stuck.judge(), expected);
        let cut_off = ClusterFacts {
            etcd: false,
            ..MEMBER
        };
        assert_eq!(member(cut_off), expected);
        let late = ClusterFacts {
            in_time: false,
            ..cut_off
        };
        assert_eq!(member(late), Verdict::default());
    }

    #[test]
    fn without_etcd_for_anybody_only_logins_wait() {
        let held = ClusterFacts {
            etcd: false,
            fail_static: true,
            ..MEMBER
        };
        let expected = Verdict {
            store: false,
            logins: false,
            ..ALL
        };
        assert_eq!(member(held), expected);
        let admitted = ClusterFacts {
            logins_without_store: true,
            ..held
        };
        assert_eq!(
            member(admitted),
            Verdict {
                logins: true,
                ..expected
            }
        );
    }
}
