//! The state for operators.

use crate::api::Boot;
use crate::core::Core;
use crate::heartbeat::{Flags, Hold};
use crate::member::Peer;
use crate::slot::{Phase, Slot, State};
use crate::status::{NodeState, NodeStatus, SlotState, SlotStatus, Status};

impl Core {
    /// Everything that is known.
    pub fn status(&self, now: Boot) -> Status {
        let mut nodes: Vec<NodeStatus> = self
            .peers
            .iter()
            .map(|(name, peer)| self.node(name, peer, now))
            .collect();
        nodes.push(self.this_node());
        let absent: Vec<NodeStatus> = self
            .view
            .member_names()
            .filter(|name| !nodes.iter().any(|node| node.name == **name))
            .map(|name| self.node(name, &Peer::new(name, now), now))
            .collect();
        nodes.extend(absent);
        nodes.sort_by(|a, b| a.name.cmp(&b.name));
        Status {
            name: self.settings.name.clone(),
            incarnation: self.settings.incarnation,
            epoch: self.view.epoch(),
            etcd: self.etcd_answers(),
            etcd_age: self.lease.acked.map(|sent| now.saturating_sub(sent)),
            synced: self.view.synced,
            lease: self.lease.id,
            until: self.lease.until,
            fail_static: self.lease.is_static,
            draining: self.draining,
            leaving: self.leaving,
            service: self.service,
            nodes,
            slots: self
                .slots
                .iter()
                .map(|(slot, local)| self.slot_status(*slot, local, now))
                .collect(),
            counters: self.counters,
        }
    }

    fn this_node(&self) -> NodeStatus {
        NodeStatus {
            name: self.settings.name.clone(),
            incarnation: self.settings.incarnation,
            this: true,
            state: NodeState::Alive,
            member: self.view.is_member(&self.settings.name),
            draining: self.draining,
            leaving: self.leaving,
            service: self.service,
            etcd: self.etcd_answers(),
            fail_static: self.lease.is_static,
            same_table: true,
            silent: Some(Boot::ZERO),
            paths: Vec::new(),
            suspected_by: self.suspected_by(self.id, self.settings.incarnation),
        }
    }

    fn suspected_by(&self, id: u64, incarnation: u64) -> Vec<String> {
        self.peers
            .iter()
            .filter(|(_, peer)| peer.suspects(id, incarnation))
            .map(|(name, _)| name.clone())
            .collect()
    }

    fn node(&self, name: &str, peer: &Peer, now: Boot) -> NodeStatus {
        let incarnation = self.incarnation_of(name, peer);
        NodeStatus {
            name: name.to_owned(),
            incarnation,
            this: false,
            state: peer.state(),
            member: self.view.is_member(name),
            draining: peer.flag(Flags::DRAINING),
            leaving: peer.flag(Flags::LEAVING),
            service: peer.flag(Flags::SERVICE),
            etcd: peer.flag(Flags::ETCD),
            fail_static: peer.flag(Flags::STATIC),
            same_table: peer
                .beat
                .as_ref()
                .is_none_or(|beat| beat.table == self.settings.table),
            silent: peer.heard.map(|heard| now.saturating_sub(heard)),
            paths: peer
                .paths
                .iter()
                .map(|(from, heard)| (*from, now.saturating_sub(*heard)))
                .collect(),
            suspected_by: self.suspected_by(peer.id, incarnation),
        }
    }

    fn slot_status(&self, slot: u8, local: &Slot, now: Boot) -> SlotStatus {
        let seen = self.view.slots.get(&slot);
        let owner = seen.and_then(|seen| seen.owner.value.as_ref());
        let claiming = self
            .is_pending(|job| matches!(job, crate::core::Job::Claim { slot: other, .. } if *other == slot));
        let state = match &local.state {
            State::Held(held) => match held.phase {
                Phase::Normal if held.ready => SlotState::Serving,
                Phase::Normal => SlotState::Starting,
                Phase::Freezing { .. } | Phase::Handing { .. } => SlotState::Freezing,
                Phase::Handed { .. } => SlotState::HandedOver,
            },
            State::Stopping { .. } => SlotState::Stopping,
            State::Idle if claiming => SlotState::Claiming,
            State::Idle => SlotState::Elsewhere,
        };
        let (generation, serving) = match local.held() {
            Some(held) => (held.generation, held.ready),
            None => (
                seen.map_or(0, |seen| seen.generation()),
                owner
                    .and_then(|owner| self.peers.get(&owner.name))
                    .filter(|peer| peer.is_alive())
                    .and_then(|peer| peer.holds(slot))
                    .is_some_and(|beat| beat.hold != Hold::Starting),
            ),
        };
        SlotStatus {
            slot,
            owner: owner.map(|owner| owner.name.clone()),
            generation,
            state,
            serving,
            wish: seen.and_then(|seen| seen.wish.value.clone()),
            moved: seen
                .filter(|seen| seen.generation.raw.is_some())
                .map(|seen| now.saturating_sub(seen.generation.changed)),
            damped: self.damped_until(slot).map(|until| until.saturating_sub(now)),
        }
    }
}
