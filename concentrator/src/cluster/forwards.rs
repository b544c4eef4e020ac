//! Behind a router that spreads packets over all nodes: tells the data plane which node has a slot, so that it sends on what
//! comes to this one.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use cluster::{NodeState, NodeStatus, Status};

use super::pacemaker::Pacemaker;
use crate::node::Node;

/// Between two looks at who owns what.
const EVERY: Duration = Duration::from_millis(100);

/// Keeps the data plane's view until the core ends. `own`: where this node takes what others send on.
pub async fn keep(node: Arc<Node>, pacemaker: Pacemaker, own: SocketAddr) {
    let mut every = tokio::time::interval(EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        let Some(status) = pacemaker.status().await else {
            return;
        };
        for slot in &status.slots {
            node.holder
                .forward_slot(slot.slot, target(&status, slot.owner.as_deref(), own));
        }
    }
}

/// Where the owner takes what is sent on: the port is the same at every node, the address that of its heartbeats which lies
/// nearest to ours. Nobody is sent anything who is known to be dead, or who is this node.
fn target(status: &Status, owner: Option<&str>, own: SocketAddr) -> Option<SocketAddr> {
    let owner = owner?;
    let is_owner = |node: &&NodeStatus| node.name == owner && !node.this && node.state != NodeState::Dead;
    let owner = status.nodes.iter().find(is_owner)?;
    let addresses = owner.paths.iter().map(|(address, _)| address.ip());
    let nearest = addresses
        .filter(|ip| ip.is_ipv4() == own.is_ipv4())
        .max_by_key(|ip| in_common(*ip, own.ip()))?;
    Some(SocketAddr::new(nearest, own.port()))
}

/// How many leading bits two addresses of one family have in common.
fn in_common(a: IpAddr, b: IpAddr) -> u32 {
    match (a, b) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
        (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
        _ => 0,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
mod tests {
    use cluster::{Core, Settings};

    use super::*;

    fn node(name: &str, addresses: &[&str]) -> NodeStatus {
        NodeStatus {
            name: name.to_owned(),
            incarnation: 7,
            this: false,
            state: NodeState::Alive,
            member: true,
            draining: false,
            leaving: false,
            service: true,
            etcd: true,
            fail_static: false,
            same_table: true,
            silent: None,
            paths: addresses
                .iter()
                .map(|address| (address.parse().unwrap(), Duration::ZERO))
                .collect(),
            suspected_by: Vec::new(),
        }
    }

    #[test]
    fn the_owner_is_reached_in_our_network_at_our_port_unless_it_is_dead_or_this_node() {
        let settings = Settings {
            name: "a".to_owned(),
            ..Settings::default()
        };
        let mut status = Core::new(Duration::ZERO, settings, 1).status(Duration::ZERO);
        let own = "10.98.0.1:4601".parse().unwrap();
        status.nodes = vec![
            node("b", &["192.0.2.2:4600", "10.98.0.2:4600", "[2001:db8::2]:4600"]),
            node("c", &["[2001:db8::3]:4600"]),
        ];
        let to = |status: &Status, owner| target(status, owner, own);
        assert_eq!(to(&status, Some("b")), Some("10.98.0.2:4601".parse().unwrap()));
        assert_eq!(to(&status, Some("c")), None, "no address of the family");
        assert_eq!(to(&status, Some("d")), None, "not known");
        assert_eq!(to(&status, None), None);
        status.nodes[0].state = NodeState::Suspected;
        assert!(to(&status, Some("b")).is_some(), "it may be alive");
        status.nodes[0].state = NodeState::Dead;
        assert_eq!(to(&status, Some("b")), None);
        status.nodes[0].state = NodeState::Alive;
        status.nodes[0].this = true;
        assert_eq!(to(&status, Some("b")), None);
    }
}
