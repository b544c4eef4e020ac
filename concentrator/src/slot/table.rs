//! The slots that this node has, by number and by local address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use actix::Addr;
use arc_swap::{ArcSwap, ArcSwapOption};

use super::{Slot, SlotStart};
use crate::actors::{EnsureReplicator, Root};

/// Which slot answers where.
enum Addresses {
    /// One slot, wherever it is called.
    Everywhere,
    /// By service address.
    Of(HashMap<IpAddr, u8>),
}

/// The slots of a node.
pub struct Slots {
    addresses: Addresses,
    present: ArcSwap<Vec<Arc<Slot>>>,
    changing: Mutex<()>,
    root: ArcSwapOption<Addr<Root>>,
}

impl Slots {
    /// Of a single node: slot 0 answers at every address, as soon as it has begun.
    #[must_use]
    pub fn single() -> Self {
        Self::with(Addresses::Everywhere)
    }

    /// Of a node of a cluster: every service address and the slot that it belongs to.
    #[must_use]
    pub fn cluster(addresses: impl IntoIterator<Item = (IpAddr, u8)>) -> Self {
        Self::with(Addresses::Of(addresses.into_iter().collect()))
    }

    fn with(addresses: Addresses) -> Self {
        Self {
            addresses,
            present: ArcSwap::default(),
            changing: Mutex::new(()),
            root: ArcSwapOption::empty(),
        }
    }

    /// The slot that answers at a local address, if this node has it.
    #[must_use]
    pub fn of_address(&self, local: IpAddr) -> Option<Arc<Slot>> {
        match &self.addresses {
            Addresses::Everywhere => self.present.load().first().cloned(),
            Addresses::Of(slots) => self.get(*slots.get(&local)?),
        }
    }

    /// The number of the slot of a service address of the cluster, whichever node has it.
    #[must_use]
    pub fn number_of_address(&self, local: IpAddr) -> Option<u8> {
        match &self.addresses {
            Addresses::Everywhere => None,
            Addresses::Of(slots) => slots.get(&local).copied(),
        }
    }

    /// The slot of a number, if this node has it.
    #[must_use]
    pub fn get(&self, id: u8) -> Option<Arc<Slot>> {
        self.present.load().iter().find(|slot| slot.id == id).cloned()
    }

    /// Every slot of this node, by number.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Slot>> {
        self.present.load().to_vec()
    }

    /// Begins with a slot. Nothing is heard for it before it serves. An earlier one of the same number ends.
    pub fn begin(&self, id: u8, start: SlotStart) -> Arc<Slot> {
        let slot = Slot::begin(id, start);
        self.replace(id, Some(Arc::clone(&slot)));
        if let Some(root) = self.root.load_full() {
            root.do_send(EnsureReplicator(id));
        }
        slot
    }

    /// Ends with a slot: what waits for the store is dropped, nothing is sent any more. Its SAs are taken away before
    /// by [`put_down`](crate::recovery::put_down).
    pub fn end(&self, id: u8) {
        self.replace(id, None);
    }

    fn replace(&self, id: u8, new: Option<Arc<Slot>>) {
        let _alone = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let present = self.present.load();
        let mut next: Vec<Arc<Slot>> = present.iter().filter(|slot| slot.id != id).cloned().collect();
        next.extend(new);
        next.sort_by_key(|slot| slot.id);
        let old = present.iter().find(|slot| slot.id == id).cloned();
        drop(present);
        self.present.store(Arc::new(next));
        if let Some(old) = old {
            old.end();
        }
    }

    /// Who makes the writers of records, from here on.
    pub(crate) fn supervised_by(&self, root: Addr<Root>) {
        self.root.store(Some(Arc::new(root)));
    }

    /// Records that wait for the store, over all slots.
    #[must_use]
    pub fn records_waiting(&self) -> usize {
        self.present.load().iter().map(|slot| slot.records.len()).sum()
    }
}
