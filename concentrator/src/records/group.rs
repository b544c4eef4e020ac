//! Records that are being committed together.

use std::sync::Arc;

use super::{Change, FOR_THE_OLDEST, GROUP_MAX, GROUP_OCTETS, Inner, Priority, Records};

/// Records that are being committed. Dropped without [`Group::committed`], they go back to the queue.
pub struct Group {
    queue: Arc<Records>,
    members: Vec<Member>,
}

/// A name, what is to happen under it, and how urgent it is.
type Member = (String, Arc<Change>, Priority);

impl Records {
    /// Takes the most urgent records and the oldest ones, at most [`GROUP_MAX`] and about [`GROUP_OCTETS`] octets. Of a name
    /// that is in another group nothing is taken before that one has ended: what is stored last is the newest.
    #[must_use]
    pub fn take(self: &Arc<Self>) -> Group {
        self.take_at_most(GROUP_MAX)
    }

    /// The same, of at most `most` records, if that is less; of one in any case.
    #[must_use]
    pub fn take_at_most(self: &Arc<Self>, most: usize) -> Group {
        let most = most.clamp(1, GROUP_MAX);
        let mut inner = self.lock();
        let mut taken = Taken::default();
        while taken.members.len() < most.saturating_sub(FOR_THE_OLDEST) {
            let Some(name) = inner.order.values().next().cloned() else {
                break;
            };
            if !taken.take(&mut inner, name) {
                break;
            }
        }
        while taken.members.len() < most {
            let Some(name) = inner.ages.values().next().cloned() else {
                break;
            };
            if !taken.take(&mut inner, name) {
                break;
            }
        }
        drop(inner);
        Group {
            queue: Arc::clone(self),
            members: taken.members,
        }
    }
}

#[derive(Default)]
struct Taken {
    members: Vec<Member>,
    octets: usize,
}

impl Taken {
    /// Moves one record into the group; false when it has no room there.
    fn take(&mut self, inner: &mut Inner, name: String) -> bool {
        let Some(pending) = inner.pending.get(&name) else {
            return false;
        };
        let octets = self.octets + pending.change.octets() + name.len();
        if octets > GROUP_OCTETS && !self.members.is_empty() {
            return false;
        }
        if let Some(pending) = inner.remove(&name) {
            self.octets = octets;
            self.members
                .push((name.clone(), Arc::clone(&pending.change), pending.priority));
            inner.in_flight.insert(name, pending);
        }
        true
    }
}

impl Group {
    /// The changes, most urgent first.
    pub fn changes(&self) -> impl Iterator<Item = (&str, &Change)> {
        self.members
            .iter()
            .map(|(name, change, _)| (name.as_str(), change.as_ref()))
    }

    /// The same, each with its urgency.
    pub fn written(&self) -> impl Iterator<Item = (&str, &Change, Priority)> {
        self.members
            .iter()
            .map(|(name, change, priority)| (name.as_str(), change.as_ref(), *priority))
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there is nothing to commit.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// They are durable: tells everybody who waits.
    pub fn committed(mut self) {
        let members = std::mem::take(&mut self.members);
        let mut waiters = Vec::new();
        let mut inner = self.queue.lock();
        for (name, ..) in &members {
            if let Some(pending) = inner.land(name) {
                waiters.extend(pending.waiters);
            }
        }
        drop(inner);
        self.queue.filled.notify_one();
        self.queue.emptied.notify_waiters();
        for waiter in waiters {
            waiter.tell();
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if self.members.is_empty() {
            return;
        }
        let mut inner = self.queue.lock();
        for (name, ..) in std::mem::take(&mut self.members) {
            let Some(mut old) = inner.land(&name) else {
                continue;
            };
            // A newer record may have come meanwhile: it stands for the older one too, and has waited as long.
            if let Some(newer) = inner.remove(&name) {
                old.change = newer.change;
                old.priority = old.priority.min(newer.priority);
                old.waiters.extend(newer.waiters);
            }
            inner.insert(name, old);
        }
        drop(inner);
        self.queue.filled.notify_one();
    }
}
