//! The child SAs of one IKE SA.
//!
//! ```text
//!                 our rekey under way            answered, deletion is ours
//!   Installed ──────────► Rekeying ──────────────────────► Deleting ──► Leaving ──► gone
//!       │  ▲                 │  (refused: back)                ▲
//!       │  └─────────────────┘                                 │
//!       ├──── replaced by the peer ──► Replaced ── peer's DELETE ──► Leaving ──► gone
//!       └──── our DELETE ──────────────────────────────────────┘
//! ```

use std::time::{Duration, Instant};

use crypto::Group;
use serde::{Deserialize, Serialize};

use super::Core;
use super::lifetimes::Clock;
use super::queue::Work;
use super::tasks::Task;
use super::tasks::delete::{LEAVING, MAX_EARLY_DELETES};
use super::tasks::rekey_child::RekeyChild;
use crate::types::{ChildEnd, ChildSa, Event};

/// How long we wait for the peer to delete what it replaced.
pub(super) const PATIENCE: Duration = Duration::from_secs(300);

/// What a child is going through.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) enum State {
    /// In use.
    Installed,
    /// In use; our request to rekey it is under way.
    Rekeying,
    /// A successor exists, or it lost a collision: the peer is to delete it.
    Replaced,
    /// Our DELETE is under way.
    Deleting,
    /// Deleted on both sides; kept a moment for packets that are still on the way.
    Leaving,
}

/// One child SA.
#[derive(Clone, Debug)]
pub(super) struct Child {
    pub(super) sa: ChildSa,
    pub(super) state: State,
    /// Group of the child's own key exchange. The outer `None`: made by IKE_AUTH, which has none.
    pub(super) group: Option<Option<Group>>,
    /// When to rekey it.
    pub(super) soft_at: Option<Instant>,
    /// When it ends.
    pub(super) hard_at: Option<Instant>,
    /// Replaced: patience with the peer. Leaving: when it is gone.
    pub(super) until: Option<Instant>,
    /// Replaced: inbound SPI of what the peer's rekey put in its place.
    pub(super) successor: Option<u32>,
}

impl Child {
    /// Why it is said to have ended when its end was nobody's wish: a child with a successor was rekeyed.
    pub(super) fn end(&self, otherwise: ChildEnd) -> ChildEnd {
        match self.state {
            State::Replaced | State::Leaving => ChildEnd::Rekeyed,
            State::Installed | State::Rekeying | State::Deleting => otherwise,
        }
    }
}

/// The table. At most a handful of entries, so searches are linear.
#[derive(Debug, Default)]
pub(super) struct Children(Vec<Child>);

impl Children {
    /// All of them, leaving ones included.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Child> {
        self.0.iter()
    }

    /// Those that both sides have.
    pub(super) fn live(&self) -> impl Iterator<Item = &Child> {
        self.0.iter().filter(|child| child.state != State::Leaving)
    }

    /// All of them.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Child> {
        self.0.iter_mut()
    }

    /// By our inbound SPI.
    pub(super) fn by_in(&self, spi_in: u32) -> Option<&Child> {
        self.live().find(|child| child.sa.spi_in == spi_in)
    }

    /// By our inbound SPI.
    pub(super) fn by_in_mut(&mut self, spi_in: u32) -> Option<&mut Child> {
        self.0
            .iter_mut()
            .find(|child| child.sa.spi_in == spi_in && child.state != State::Leaving)
    }

    /// By the SPI that the peer names it by.
    pub(super) fn by_out(&self, spi_out: u32) -> Option<&Child> {
        self.live().find(|child| child.sa.spi_out == spi_out)
    }

    /// Adds one.
    pub(super) fn insert(&mut self, child: Child) {
        self.0.push(child);
    }

    /// Takes one out, in whatever state.
    pub(super) fn remove(&mut self, spi_in: u32) -> Option<Child> {
        let index = self.0.iter().position(|child| child.sa.spi_in == spi_in)?;
        Some(self.0.remove(index))
    }

    /// Takes all out.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Child> {
        self.0.drain(..)
    }

    /// How many there are, whatever they are going through.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// How many are kept for late packets.
    pub(super) fn leaving(&self) -> usize {
        self.0.len() - self.live().count()
    }

    /// How many are in use, not counting those that have a successor or are on their way out.
    pub(super) fn in_use(&self) -> usize {
        let used = |child: &&Child| matches!(child.state, State::Installed | State::Rekeying);
        self.0.iter().filter(used).count()
    }
}

impl Core {
    /// Adds a child that both sides have agreed on.
    pub(super) fn install(&mut self, now: Instant, sa: ChildSa, group: Option<Option<Group>>, state: State) {
        let clock = Clock::start(now, &sa.lifetime, self.policy.rekey, &mut *self.context.random);
        self.changed = true;
        self.children.insert(Child {
            sa,
            state,
            group,
            soft_at: clock.soft_at,
            hard_at: clock.hard_at,
            until: None,
            successor: None,
        });
    }

    /// Removes a child, whatever its state, and says so.
    pub(super) fn drop_child(&mut self, spi_in: u32, reason: ChildEnd) {
        self.queue.retain(|work| work.child() != Some(spi_in));
        if self.children.remove(spi_in).is_some() {
            self.changed = true;
            self.context.spis.release_esp(spi_in);
            self.event(Event::ChildDown { spi_in, reason });
        }
    }

    /// The peer has deleted a child that it had replaced: nothing is sent by it any more, late packets are taken for a
    /// moment.
    pub(super) fn leave_child(&mut self, now: Instant, spi_in: u32) {
        self.queue.retain(|work| work.child() != Some(spi_in));
        if let Some(child) = self.children.by_in_mut(spi_in) {
            child.state = State::Leaving;
            child.soft_at = None;
            child.until = Some(now + LEAVING);
            self.changed = true;
            self.event(Event::ChildLeaving { spi_in });
        }
    }

    /// A child has a successor, or is redundant, and the peer is to delete it.
    pub(super) fn mark_replaced(&mut self, now: Instant, spi_in: u32) {
        self.queue
            .retain(|work| !matches!(work, Work::RekeyChild { spi_in: other, .. } if *other == spi_in));
        let child = self.children.by_in_mut(spi_in);
        if let Some(child) = child.filter(|child| child.state != State::Deleting) {
            child.state = State::Replaced;
            child.soft_at = None;
            child.until = Some(now + PATIENCE);
        }
    }

    /// Our rekey of a child, if it is under way.
    pub(super) fn rekey_under_way(&mut self, spi_in: u32) -> Option<&mut RekeyChild> {
        if let Task::RekeyChild(task) = &mut self.current.window.pending.as_mut()?.task {
            (task.old == spi_in).then_some(task)
        } else {
            None
        }
    }

    /// Why a child ends whose DELETE is under way.
    pub(super) fn end_of_delete(&self, spi_in: u32) -> Option<ChildEnd> {
        if let Task::DeleteChildren(task) = &self.current.window.pending.as_ref()?.task {
            task.end_of(spi_in)
        } else {
            None
        }
    }

    /// Whether a DELETE for a child waits for the window.
    pub(super) fn is_delete_wanted(&self, spi_in: u32) -> bool {
        let end = ChildEnd::DeletedByUs;
        self.queue.contains(&Work::DeleteChild { spi_in, end })
    }

    /// Whether the response under way may bring a child that the peer has already.
    pub(super) fn is_making_child(&self) -> bool {
        let pending = self.current.window.pending.as_ref();
        pending.is_some_and(|pending| matches!(pending.task, Task::CreateChild(_) | Task::RekeyChild(_)))
    }

    /// Remembers a DELETE for a child that the response under way may turn out to make.
    pub(super) fn note_early_delete(&mut self, spi_out: u32) {
        let making = self.is_making_child();
        let known = self.early_deletes.contains(&spi_out);
        if making && !known && self.early_deletes.len() < MAX_EARLY_DELETES {
            self.early_deletes.push(spi_out);
        }
    }

    /// Whether the peer has deleted this child already.
    pub(super) fn is_deleted_early(&self, spi_out: u32) -> bool {
        self.early_deletes.contains(&spi_out)
    }
}
