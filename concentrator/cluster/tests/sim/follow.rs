//! What nodes follow of the store: lists, and watches that are bad at times.

use std::collections::BTreeMap;

use cluster::Input;
use cluster::keys::Path;
use store::WatchEvent;

use crate::world::{Follower, What, World};

impl World {
    /// Begins to follow anew, if the store can be reached.
    pub fn follow(&mut self, node: usize) {
        if !self.store_links[node] || !self.etcd.is_up(self.now) || self.nodes[node].core.is_none() {
            return;
        }
        self.serial += 1;
        self.nodes[node].follower = Some(Follower {
            id: self.serial,
            told: BTreeMap::new(),
            last: self.now,
        });
        self.nodes[node].identity = self.etcd.identity;
        self.tell(node, Input::Listing);
        self.list(node);
    }

    /// Tells what differs from what was told.
    pub fn list(&mut self, node: usize) {
        let Some(follower) = self.nodes[node].follower.as_ref() else {
            return;
        };
        let told = follower.told.clone();
        let mut events = Vec::new();
        for (key, item) in &self.etcd.state.keys {
            if Path::parse(key).is_some() && told.get(key).is_none_or(|known| item.revision > *known) {
                events.push(WatchEvent {
                    revision: item.revision,
                    key: key.clone(),
                    value: Some(item.value.clone()),
                });
            }
        }
        let revision = self.etcd.state.revision;
        for key in told.keys().filter(|key| !self.etcd.state.keys.contains_key(*key)) {
            events.push(WatchEvent {
                revision,
                key: key.clone(),
                value: None,
            });
        }
        for event in events {
            self.tell_event(node, event);
        }
        self.tell(node, Input::Synced(revision));
    }

    fn tell_event(&mut self, node: usize, event: WatchEvent) {
        if let Some(follower) = self.nodes[node].follower.as_mut() {
            match event.value {
                Some(_) => {
                    follower.told.insert(event.key.clone(), event.revision);
                }
                None => {
                    follower.told.remove(&event.key);
                }
            }
        }
        self.tell(node, Input::Changed(event));
    }

    fn tell(&mut self, node: usize, input: Input) {
        let delay = self.random.ms(0.5, 4.0);
        let now = self.now;
        let life = self.nodes[node].life;
        let Some(follower) = self.nodes[node].follower.as_mut() else {
            return;
        };
        follower.last = follower.last.max(now + delay);
        let (at, follower) = (follower.last, follower.id);
        self.at(
            at,
            What::Follow {
                node,
                life,
                follower,
                input,
            },
        );
    }

    /// Tells all that follow; badly, at times.
    pub fn publish(&mut self, events: &[WatchEvent]) {
        for event in events.iter().filter(|event| Path::parse(&event.key).is_some()) {
            for node in 0..self.nodes.len() {
                if !self.store_links[node] {
                    continue;
                }
                if self.bad_watches {
                    let life = self.nodes[node].life;
                    let Some(follower) = self.nodes[node].follower.as_ref().map(|follower| follower.id)
                    else {
                        continue;
                    };
                    let copies = match self.random.below(10) {
                        0 => 0,
                        1 | 2 => 2,
                        _ => 1,
                    };
                    for _ in 0..copies {
                        let after = match self.random.percent(30) {
                            true => self.random.ms(1.0, 1_500.0),
                            false => self.random.ms(0.5, 10.0),
                        };
                        let input = Input::Changed(event.clone());
                        self.after(
                            after,
                            What::Follow {
                                node,
                                life,
                                follower,
                                input,
                            },
                        );
                    }
                } else {
                    self.tell_event(node, event.clone());
                }
            }
        }
    }
}
