//! Which other nodes clients can be sent to (RFC 5685), and whether one of them should relieve this one.

use std::collections::BTreeMap;
use std::net::IpAddr;

use cluster::{NodeState, Status};

use super::shared::Shared;
use crate::config;
use crate::redirect::Relief;

/// What another node serves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Other {
    addresses: Vec<IpAddr>,
    sessions: usize,
}

/// Looks at the cluster again.
pub(super) fn look(shared: &Shared, status: &Status) {
    // Counting takes a while; who does not balance does not count.
    let balances = shared.node.config.redirect.balance_percent > 0;
    let sessions = |slot| {
        balances
            .then(|| shared.replica.sessions(slot))
            .flatten()
            .unwrap_or(0)
    };
    let others = others(status, &shared.config, sessions);
    let addresses = others
        .values()
        .flat_map(|other| other.addresses.iter().copied())
        .collect();
    let node = &shared.node;
    let relief = relief(&node.config.redirect, node.sessions.len(), others.into_values());
    node.redirects.cluster(addresses, relief);
}

/// The nodes that could serve a client right away: alive, reached by clients, with a slot that they serve and keep.
fn others(
    status: &Status,
    config: &config::Cluster,
    sessions: impl Fn(u8) -> usize,
) -> BTreeMap<String, Other> {
    let mut others: BTreeMap<String, Other> = status
        .nodes
        .iter()
        .filter(|node| {
            !node.this
                && node.state == NodeState::Alive
                && node.member
                && node.service
                && !node.draining
                && !node.leaving
        })
        .map(|node| (node.name.clone(), Other::default()))
        .collect();
    for slot in &status.slots {
        let owner = slot.owner.as_ref().and_then(|owner| others.get_mut(owner));
        let table = config.slots.iter().find(|table| table.id == slot.slot);
        let (Some(other), Some(table)) = (owner, table) else {
            continue;
        };
        other.sessions += sessions(slot.slot);
        if slot.serving && slot.wish.is_none() {
            other.addresses.extend(table.service_addresses());
        }
    }
    others.retain(|_, other| !other.addresses.is_empty());
    others
}

/// The node with the fewest sessions, if it has so much less. It is sent half of the difference at most before the next
/// look: what it takes meanwhile is seen only then.
fn relief(config: &config::Redirect, sessions: usize, others: impl Iterator<Item = Other>) -> Option<Relief> {
    let percent = config.balance_percent as usize;
    if percent == 0 || sessions < config.balance_above_sessions as usize {
        return None;
    }
    let least = others.min_by_key(|other| other.sessions)?;
    let uneven = sessions.saturating_mul(100) > least.sessions.saturating_mul(percent + 100);
    let half = sessions.saturating_sub(least.sessions).div_ceil(2);
    uneven.then(|| Relief::new(least.addresses, u32::try_from(half).unwrap_or(u32::MAX)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
mod tests {
    use cluster::{NodeStatus, SlotState, SlotStatus};

    use super::*;

    fn node(name: &str) -> NodeStatus {
        NodeStatus {
            name: name.to_owned(),
            incarnation: 1,
            this: name == "a",
            state: NodeState::Alive,
            member: true,
            draining: false,
            leaving: false,
            service: true,
            etcd: true,
            fail_static: false,
            same_table: true,
            silent: None,
            paths: Vec::new(),
            suspected_by: Vec::new(),
        }
    }

    fn slot(slot: u8, owner: &str) -> SlotStatus {
        SlotStatus {
            slot,
            owner: Some(owner.to_owned()),
            generation: 1,
            state: SlotState::Elsewhere,
            serving: true,
            wish: None,
            moved: None,
            damped: None,
        }
    }

    fn status() -> Status {
        Status {
            name: "a".to_owned(),
            incarnation: 1,
            epoch: 1,
            etcd: true,
            etcd_age: None,
            synced: true,
            lease: None,
            until: None,
            fail_static: false,
            draining: false,
            leaving: false,
            service: true,
            nodes: ["a", "b", "c"].map(node).into(),
            slots: vec![slot(0, "a"), slot(1, "b"), slot(2, "c"), slot(3, "c")],
            counters: Default::default(),
        }
    }

    fn table() -> config::Cluster {
        let mut text = String::new();
        for id in 0..4 {
            text.push_str(&format!(
                "[[slots]]\nid = {id}\naddresses = [\"192.0.2.{id}/24@eth0\", \"10.97.0.{id}/24@eth1\"]\n"
            ));
        }
        toml::from_str(&text).unwrap()
    }

    #[test]
    fn clients_are_sent_to_nodes_that_serve_and_stay() {
        let sessions = |slot: u8| usize::from(slot) * 10;
        let addresses = |status: &Status| -> Vec<String> {
            others(status, &table(), sessions)
                .values()
                .flat_map(|other| other.addresses.iter().map(ToString::to_string))
                .collect()
        };
        let good = status();
        assert_eq!(addresses(&good), ["192.0.2.1", "192.0.2.2", "192.0.2.3"]);
        let found = others(&good, &table(), sessions);
        assert_eq!((found["b"].sessions, found["c"].sessions), (10, 50));
        let changes: [fn(&mut Status); 6] = [
            |status| status.nodes[1].draining = true,
            |status| status.nodes[1].leaving = true,
            |status| status.nodes[1].state = NodeState::Suspected,
            |status| status.nodes[1].service = false,
            |status| status.slots[1].serving = false,
            |status| status.slots[1].wish = Some("a".to_owned()),
        ];
        for change in changes {
            let mut status = status();
            change(&mut status);
            assert_eq!(addresses(&status), ["192.0.2.2", "192.0.2.3"]);
        }
    }

    #[test]
    fn the_node_with_the_fewest_sessions_relieves_one_with_many_more() {
        let config = config::Redirect {
            balance_percent: 20,
            balance_above_sessions: 100,
            ..config::Redirect::default()
        };
        let others = || {
            [("192.0.2.1", 200), ("192.0.2.2", 150)]
                .map(|(address, sessions)| Other {
                    addresses: vec![address.parse().unwrap()],
                    sessions,
                })
                .into_iter()
        };
        let found = relief(&config, 181, others()).unwrap();
        assert_eq!(found.to, ["192.0.2.2".parse::<IpAddr>().unwrap()]);
        assert!(
            relief(&config, 180, others()).is_none(),
            "20 percent more is not too much"
        );
        assert!(
            relief(&config, 99, [Other::default()].into_iter()).is_none(),
            "too few to care"
        );
        assert!(
            relief(&config, 1_000, std::iter::empty()).is_none(),
            "nobody is there"
        );
        let off = config::Redirect::default();
        assert!(relief(&off, 1_000, others()).is_none());
    }
}
