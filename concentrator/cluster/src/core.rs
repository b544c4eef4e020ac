//! The core: facts in, decisions out.

use std::collections::VecDeque;

use crate::api::{Boot, Input, Output, Settings};
use crate::event::Counters;
use crate::fence::Fence;
use crate::status::Status;

/// The decisions of one node. See the crate's documentation for the order of calls.
#[derive(Debug)]
pub struct Core {
    settings: Settings,
    counters: Counters,
    outputs: VecDeque<Output>,
}

impl Core {
    /// A node that has just started. `seed`: for what is spread at random; the same seed gives the same outputs.
    pub fn new(now: Boot, settings: Settings, seed: u64) -> Self {
        let _ = (now, seed);
        Self {
            settings,
            counters: Counters::default(),
            outputs: VecDeque::new(),
        }
    }

    /// Takes note of what happened and decides.
    pub fn handle(&mut self, now: Boot, input: Input) {
        let _ = (now, input);
    }

    /// What is to be done next; `None`: nothing.
    pub fn poll(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Input::Timeout`] is wanted at the latest.
    pub fn deadline(&self) -> Option<Boot> {
        None
    }

    /// Everything that is known.
    pub fn status(&self, now: Boot) -> Status {
        let _ = now;
        Status {
            name: self.settings.name.clone(),
            incarnation: self.settings.incarnation,
            epoch: 0,
            etcd: false,
            etcd_age: None,
            synced: false,
            lease: None,
            until: None,
            fail_static: false,
            draining: false,
            leaving: false,
            service: true,
            nodes: Vec::new(),
            slots: Vec::new(),
            counters: self.counters,
        }
    }

    /// What writes of a slot's records have to compare; `None` where this node does not own it.
    pub fn fence(&self, slot: u8) -> Option<Fence> {
        let _ = slot;
        None
    }
}
