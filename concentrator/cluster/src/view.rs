//! What the store said: hints, kept in order by their revisions.
//!
//! Events may come late, twice or not at all, and may be old ones: of each key the highest revision counts. A listing
//! begins anew, since a store that was restored counts revisions from further below; what it does not tell is gone.

use std::collections::BTreeMap;

use store::{Op, Revision, WatchEvent};

use crate::api::Boot;
use crate::heartbeat::MAX_NODES;
use crate::keys::{MAX_NUMBER, NodeCard, Path, Process};

/// A key as far as it is known.
#[derive(Clone, Debug)]
pub(crate) struct Known<T> {
    /// The value; `None`: absent.
    pub(crate) value: Option<T>,
    /// The octets, for comparisons.
    pub(crate) raw: Option<Vec<u8>>,
    /// The revision of the last write or deletion; 0: never seen.
    pub(crate) revision: Revision,
    /// When the present value was first seen.
    pub(crate) changed: Boot,
    /// The listing that told it.
    era: u64,
}

impl<T> Default for Known<T> {
    fn default() -> Self {
        Self {
            value: None,
            raw: None,
            revision: 0,
            changed: Boot::ZERO,
            era: 0,
        }
    }
}

impl<T> Known<T> {
    /// Takes note of a write unless a later one is known. Returns whether the value changed.
    fn note(
        &mut self,
        era: u64,
        revision: Revision,
        raw: Option<&[u8]>,
        value: Option<T>,
        now: Boot,
    ) -> bool {
        let news = self.era != era
            || match raw {
                Some(_) => revision > self.revision,
                None => revision >= self.revision,
            };
        if !news {
            return false;
        }
        (self.era, self.revision) = (era, revision);
        if self.raw.as_deref() == raw {
            return false;
        }
        self.raw = raw.map(<[u8]>::to_vec);
        self.value = value;
        self.changed = now;
        true
    }

    /// Makes it absent unless the present listing told it.
    fn sweep(&mut self, era: u64, now: Boot) {
        if self.era != era {
            let there = self.raw.is_some();
            (self.era, self.revision, self.raw, self.value) = (era, 0, None, None);
            if there {
                self.changed = now;
            }
        }
    }
}

/// The keys of a slot.
#[derive(Clone, Debug, Default)]
pub(crate) struct SlotView {
    pub(crate) generation: Known<u64>,
    pub(crate) owner: Known<Process>,
    pub(crate) wish: Known<String>,
}

/// How long the other half of what was written together may take to be told.
pub(crate) const TORN: Boot = Boot::from_millis(100);

impl SlotView {
    /// Until when the owner that belongs to the generation may still be told.
    pub(crate) fn torn_until(&self) -> Option<Boot> {
        (!self.is_whole()).then_some(self.generation.changed + TORN)
    }

    /// Whether something stands there that is not understood: it is left alone.
    pub(crate) fn is_unreadable(&self) -> bool {
        self.owner.raw.is_some() != self.owner.value.is_some()
            || self.generation.raw.is_some() != self.generation.value.is_some()
    }

    /// Whether the owner is as new as the generation: both are written together, and only then say something together.
    /// The owner key alone is written again under another lease, or ends with its lease.
    pub(crate) fn is_whole(&self) -> bool {
        self.owner.revision >= self.generation.revision
    }

    /// Whether the owner was written with the present generation, and not since.
    pub(crate) fn is_of_one_write(&self) -> bool {
        self.owner.revision == self.generation.revision
    }

    pub(crate) fn generation(&self) -> u64 {
        self.generation.value.unwrap_or(0)
    }
}

/// Everything that is followed.
#[derive(Clone, Debug, Default)]
pub(crate) struct View {
    pub(crate) epoch: Known<u64>,
    pub(crate) cards: BTreeMap<String, Known<NodeCard>>,
    pub(crate) members: BTreeMap<String, Known<()>>,
    pub(crate) slots: BTreeMap<u8, SlotView>,
    /// Whether everything has been told, and is followed.
    pub(crate) synced: bool,
    /// When that became so.
    pub(crate) synced_since: Boot,
    /// How many listings have begun.
    pub(crate) era: u64,
    /// When everything was told for the first time.
    pub(crate) first: Option<Boot>,
}

impl View {
    pub(crate) fn new(slots: &[u8]) -> Self {
        Self {
            slots: slots.iter().map(|slot| (*slot, SlotView::default())).collect(),
            era: 1,
            ..Self::default()
        }
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.value.unwrap_or(0)
    }

    pub(crate) fn is_member(&self, name: &str) -> bool {
        self.members.get(name).is_some_and(|member| member.raw.is_some())
    }

    pub(crate) fn member_names(&self) -> impl Iterator<Item = &String> {
        self.members
            .iter()
            .filter(|(_, member)| member.raw.is_some())
            .map(|(name, _)| name)
    }

    pub(crate) fn card(&self, name: &str) -> Option<&NodeCard> {
        self.cards.get(name)?.value.as_ref()
    }

    /// Whether nobody has claimed or kept the slot since the present epoch began: its records are of before.
    pub(crate) fn is_unraised(&self, slot: &SlotView) -> bool {
        self.epoch.revision > 0
            && self.epoch.value.is_some()
            && slot.generation.revision <= self.epoch.revision
    }

    /// A listing begins.
    pub(crate) fn begin(&mut self) {
        self.era += 1;
        self.synced = false;
    }

    /// Everything has been told.
    pub(crate) fn finish(&mut self, now: Boot) {
        let era = self.era;
        if !self.synced {
            (self.synced, self.synced_since) = (true, now);
            self.first.get_or_insert(now);
        }
        self.epoch.sweep(era, now);
        for card in self.cards.values_mut() {
            card.sweep(era, now);
        }
        for member in self.members.values_mut() {
            member.sweep(era, now);
        }
        for slot in self.slots.values_mut() {
            slot.generation.sweep(era, now);
            slot.owner.sweep(era, now);
            slot.wish.sweep(era, now);
        }
        self.members.retain(|_, member| member.raw.is_some());
        self.cards.retain(|_, card| card.raw.is_some());
    }

    /// Takes note of an event.
    pub(crate) fn apply(&mut self, event: &WatchEvent, now: Boot) {
        self.note(&event.key, event.value.as_deref(), event.revision, now);
    }

    /// Takes note of what an own transaction wrote.
    pub(crate) fn wrote(&mut self, ops: &[Op], revision: Revision, now: Boot) {
        for op in ops {
            match op {
                Op::Put { key, value, .. } => self.note(key, Some(value), revision, now),
                Op::Delete { key } => self.note(key, None, revision, now),
                Op::DeletePrefix { .. } => {}
            }
        }
    }

    fn note(&mut self, key: &str, raw: Option<&[u8]>, revision: Revision, now: Boot) {
        let era = self.era;
        let text = raw.and_then(|raw| std::str::from_utf8(raw).ok());
        let number = || {
            text.and_then(|text| text.parse::<u64>().ok())
                .filter(|number| *number <= MAX_NUMBER)
        };
        match Path::parse(key) {
            Some(Path::Epoch) => {
                self.epoch.note(era, revision, raw, number(), now);
            }
            Some(Path::Node(name)) => {
                let card = raw.and_then(|raw| serde_json::from_slice(raw).ok());
                if let Some(known) = bounded(&mut self.cards, name, raw.is_some()) {
                    known.note(era, revision, raw, card, now);
                }
            }
            Some(Path::Member(name)) => {
                if let Some(known) = bounded(&mut self.members, name, raw.is_some()) {
                    known.note(era, revision, raw, raw.map(|_| ()), now);
                }
            }
            Some(Path::Generation(slot)) => {
                if let Some(slot) = self.slots.get_mut(&slot) {
                    slot.generation.note(era, revision, raw, number(), now);
                }
            }
            Some(Path::Owner(slot)) => {
                if let Some(slot) = self.slots.get_mut(&slot) {
                    slot.owner
                        .note(era, revision, raw, text.and_then(Process::parse), now);
                }
            }
            Some(Path::Wish(slot)) => {
                if let Some(slot) = self.slots.get_mut(&slot) {
                    slot.wish.note(era, revision, raw, text.map(str::to_owned), now);
                }
            }
            None => {}
        }
    }
}

/// The entry of a node, made unless there are too many; absent ones make room.
fn bounded<'a, T>(
    map: &'a mut BTreeMap<String, Known<T>>,
    name: &str,
    there: bool,
) -> Option<&'a mut Known<T>> {
    if !map.contains_key(name) {
        if map.len() >= 2 * MAX_NODES {
            let gone = map
                .iter()
                .find(|(_, known)| known.raw.is_none())
                .map(|(name, _)| name.clone())?;
            map.remove(&gone);
        }
        if there {
            map.insert(name.to_owned(), Known::default());
        }
    }
    map.get_mut(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(revision: Revision, key: &str, value: Option<&str>) -> WatchEvent {
        WatchEvent {
            revision,
            key: key.into(),
            value: value.map(|value| value.as_bytes().to_vec()),
        }
    }

    #[test]
    fn old_and_repeated_events_change_nothing() {
        let mut view = View::new(&[1]);
        let generation = |view: &View| view.slots.get(&1).map(SlotView::generation);
        view.apply(&event(5, "slot/001/gen", Some("3")), Boot::ZERO);
        view.apply(&event(4, "slot/001/gen", Some("2")), Boot::ZERO);
        view.apply(&event(5, "slot/001/gen", Some("9")), Boot::ZERO);
        assert_eq!(generation(&view), Some(3));
        view.apply(&event(4, "slot/001/gen", None), Boot::ZERO);
        assert_eq!(generation(&view), Some(3));
        view.apply(&event(6, "slot/001/gen", Some("4")), Boot::ZERO);
        assert_eq!(generation(&view), Some(4));
        view.apply(&event(7, "slot/002/gen", Some("4")), Boot::ZERO);
        assert_eq!(
            view.slots.len(),
            1,
            "slots that are not configured are not followed"
        );
    }

    #[test]
    fn a_listing_of_a_restored_store_counts_from_below() {
        let mut view = View::new(&[1]);
        view.apply(&event(50, "slot/001/gen", Some("3")), Boot::ZERO);
        view.apply(&event(51, "member/a", Some("{}")), Boot::ZERO);
        view.finish(Boot::ZERO);
        view.begin();
        view.apply(&event(7, "slot/001/gen", Some("1")), Boot::ZERO);
        assert!(view.is_member("a"));
        view.finish(Boot::ZERO);
        assert_eq!(view.slots.get(&1).map(SlotView::generation), Some(1));
        assert!(!view.is_member("a"), "what is not told is gone");
    }

    #[test]
    fn a_slot_is_raised_by_a_write_after_the_epoch() {
        let mut view = View::new(&[1]);
        view.apply(&event(5, "slot/001/gen", Some("3")), Boot::ZERO);
        let unraised = |view: &View| view.slots.get(&1).is_some_and(|slot| view.is_unraised(slot));
        assert!(!unraised(&view));
        view.apply(&event(6, "epoch", Some("1")), Boot::ZERO);
        assert!(unraised(&view));
        view.apply(&event(7, "slot/001/gen", Some("259")), Boot::ZERO);
        assert!(!unraised(&view));
    }

    #[test]
    fn nodes_are_bounded() {
        let mut view = View::new(&[]);
        for node in 0..1_000_u64 {
            view.apply(
                &event(node + 1, &format!("member/n{node}"), Some("{}")),
                Boot::ZERO,
            );
        }
        assert_eq!(view.members.len(), 2 * MAX_NODES);
    }
}
