//! Under which generation this node writes each slot, and how that generation is raised while the slot stays here.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use cluster::{Fence, Input, keys};
use store::{Store, Txn};

use super::pacemaker::Pacemaker;
use crate::generation::{GenerationError, Generations, Raised};
use crate::slot;

/// The fences of the slots that this node has.
#[derive(Default)]
pub struct Fences {
    present: Mutex<BTreeMap<u8, Fence>>,
}

impl Fences {
    /// A slot is written under `fence` from here on.
    pub fn set(&self, fence: Fence) {
        self.lock().insert(fence.slot, fence);
    }

    /// A slot is not written any more, unless its generation has risen above `generation`.
    pub fn clear(&self, slot: u8, generation: u64) {
        let mut present = self.lock();
        if present
            .get(&slot)
            .is_some_and(|fence| fence.generation <= generation)
        {
            present.remove(&slot);
        }
    }

    /// What a slot is written under.
    #[must_use]
    pub fn get(&self, slot: u8) -> Option<Fence> {
        self.lock().get(&slot).cloned()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<u8, Fence>> {
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The comparisons of a fence alone.
#[must_use]
pub fn comparisons(fence: &Fence) -> slot::Fence {
    slot::Fence::from(fence.apply(Txn::new()))
}

/// Takes further generations of a slot from the store, by a fenced write.
pub struct ClusterGenerations {
    /// The store.
    pub store: Arc<dyn Store>,
    /// What this node writes under.
    pub fences: Arc<Fences>,
    /// Who is told.
    pub pacemaker: Pacemaker,
}

#[async_trait]
impl Generations for ClusterGenerations {
    async fn next(&self, slot: u8) -> Result<Raised, GenerationError> {
        let fence = self.fences.get(slot).ok_or(GenerationError::Lost)?;
        let generation = fence.generation + 1;
        let txn = fence
            .apply(Txn::new())
            .put(keys::generation(slot), generation.to_string().into_bytes());
        if !self.store.txn(txn).await?.committed {
            self.pacemaker.input(Input::Fenced {
                slot,
                generation: fence.generation,
            });
            return Err(GenerationError::Lost);
        }
        let fence = Fence { generation, ..fence };
        let comparisons = comparisons(&fence);
        self.fences.set(fence);
        self.pacemaker.input(Input::Raised { slot, generation });
        Ok(Raised {
            generation,
            fence: Some(comparisons),
        })
    }
}
