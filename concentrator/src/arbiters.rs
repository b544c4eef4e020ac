//! Threads of the actors: control arbiters for IKE SAs and their children, one for the front, one for the back.
//!
//! An IKE SA and its children live on one arbiter, chosen by the session's number: messages between them stay on one
//! thread. The front reads the sockets; the back writes records and supervises workers, so that a busy front never
//! delays a commit.

use actix::{Arbiter, ArbiterHandle};

use crate::telemetry::Metrics;
use crate::wheel::Wheel;

/// The arbiters of the node.
pub struct Arbiters {
    control: Vec<ArbiterHandle>,
    front: ArbiterHandle,
    back: ArbiterHandle,
}

impl Arbiters {
    /// Starts `control` arbiters and the two others. Call it within the actix system.
    #[must_use]
    pub fn start(control: u8, metrics: &Metrics) -> Self {
        let launch = || {
            let arbiter = Arbiter::new().handle();
            let metrics = metrics.clone();
            arbiter.spawn_fn(move || Wheel::here().measure(metrics));
            arbiter
        };
        Self {
            control: (0..control.max(1)).map(|_| launch()).collect(),
            front: launch(),
            back: launch(),
        }
    }

    /// The arbiter of a session.
    #[must_use]
    pub fn of(&self, session: u64) -> ArbiterHandle {
        let count = self.control.len().max(1) as u64;
        let index = usize::try_from(session % count).unwrap_or(0);
        self.control.get(index).unwrap_or(&self.front).clone()
    }

    /// Those of all sessions: a session's is number `session % count`.
    #[must_use]
    pub fn control(&self) -> &[ArbiterHandle] {
        &self.control
    }

    /// The arbiter that reads the sockets.
    #[must_use]
    pub fn front(&self) -> ArbiterHandle {
        self.front.clone()
    }

    /// The arbiter of the Replicator and of the workers' supervisors.
    #[must_use]
    pub fn back(&self) -> ArbiterHandle {
        self.back.clone()
    }

    /// Stops them all.
    pub fn stop(&self) {
        for arbiter in self.control.iter().chain([&self.front, &self.back]) {
            arbiter.stop();
        }
    }
}
