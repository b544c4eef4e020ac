//! An established IKE SA at rest: what survives a restart of an actor, of a process, of a node.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::established::CoreSnapshot;
pub use crate::established::RestoreError;

/// A live IKE SA as a record: keys, message IDs, cached responses, children, timers as what is left of them.
///
/// Serialize it, seal it (it holds keys), store it; [`IkeSa::restore`](crate::IkeSa::restore) goes on from it. The record
/// carries its version, and one of another version is refused.
#[derive(Clone, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Snapshot(CoreSnapshot);

impl Snapshot {
    pub(crate) const fn new(core: CoreSnapshot) -> Self {
        Self(core)
    }

    pub(crate) fn into_core(self) -> CoreSnapshot {
        self.0
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Snapshot(..)")
    }
}
