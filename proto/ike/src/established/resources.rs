//! Several child SAs with the same selectors, each bound to a resource of its own (RFC 9611): a peer that is too fat for
//! one worker is served by several.
//!
//! ```text
//!   IKE_AUTH           SA, TSi, TSr, N(SA_RESOURCE_INFO)      both sides say it ⇒ the first of a group, bound to nothing
//!   CREATE_CHILD_SA    SA, Ni, TSi, TSr, N(SA_RESOURCE_INFO)  the same selectors again ⇒ bound to a free resource
//!                      N(TS_MAX_QUEUE)                        none is free
//! ```
//!
//! Each side binds its own end as it likes, and what the peer's notify says of its resources is for people alone. Rekeying
//! keeps the binding. What a peer may have is bounded by [`ChildPolicy::resources`](crate::ChildPolicy::resources), and
//! with everything else by `max_children`.

use std::time::Instant;

use ip::Selector;

use super::Core;
use super::children::{Child, State};
use super::queue::Work;
use super::tasks::Task;
use crate::types::{ChildSa, Resource};
use crate::wire::proposal::ChosenChild;
use crate::wire::{Notify, NotifyType, Payload, Payloads};

/// What tells the peer the place of a child SA, if it has one. The number is for whoever reads a trace.
pub(super) fn notify(resource: Resource) -> Option<Payload> {
    let data = match resource {
        Resource::None => return None,
        Resource::Fallback => Vec::new(),
        Resource::Bound(number) => u32::from(number).to_be_bytes().to_vec(),
    };
    let notify = Notify::with_data(NotifyType::SA_RESOURCE_INFO, data);
    Some(Payload::Notify(notify))
}

/// Whether a child SA is for this traffic, in whatever order the selectors stand.
fn is_for(sa: &ChildSa, ts_local: &[Selector], ts_remote: &[Selector]) -> bool {
    let same = |a: &[Selector], b: &[Selector]| a.len() == b.len() && a.iter().all(|one| b.contains(one));
    same(&sa.ts_local, ts_local) && same(&sa.ts_remote, ts_remote)
}

impl Core {
    /// The children in use for this traffic.
    fn used_for<'a>(
        &'a self,
        ts_local: &'a [Selector],
        ts_remote: &'a [Selector],
    ) -> impl Iterator<Item = &'a Child> {
        let used = |child: &&Child| matches!(child.state, State::Installed | State::Rekeying);
        let children = self.children.iter().filter(used);
        children.filter(move |child| is_for(&child.sa, ts_local, ts_remote))
    }

    /// The place of a child SA that we ask for by itself.
    pub(super) fn first_resource(&self) -> Resource {
        if self.caller && !self.policy.resources.is_empty() {
            Resource::Fallback
        } else {
            Resource::None
        }
    }

    /// The first of a group is there: as initiators we ask for all others at once.
    pub(super) fn spread(&mut self, now: Instant, sa: &ChildSa) {
        if sa.resource != Resource::Fallback || !sa.initiator {
            return;
        }
        for number in (0..=u8::MAX).take(self.policy.resources.len()) {
            self.want(
                now,
                Work::CreateChild {
                    ts_local: sa.ts_local.clone(),
                    ts_remote: sa.ts_remote.clone(),
                    group: None,
                    resource: Resource::Bound(number),
                },
            );
        }
    }

    /// Whether a wished child SA has still the place that it is wished for.
    pub(super) fn is_due(&self, ts_local: &[Selector], ts_remote: &[Selector], resource: Resource) -> bool {
        let Resource::Bound(_) = resource else {
            return true;
        };
        let mut has_first = false;
        for child in self.used_for(ts_local, ts_remote) {
            has_first |= child.sa.resource == Resource::Fallback;
            if child.sa.resource == resource {
                return false;
            }
        }
        has_first
    }

    /// Whether there is a first one of the group with the properties of this one.
    pub(super) fn has_fallback_like(&self, sa: &ChildSa) -> bool {
        self.used_for(&sa.ts_local, &sa.ts_remote)
            .any(|child| child.sa.resource == Resource::Fallback && child.sa.suite == sa.suite)
    }

    /// The place of a further child SA that the peer asks for, or the notify that refuses it.
    pub(super) fn place(
        &mut self,
        request: Payloads<'_>,
        ts_local: &[Selector],
        ts_remote: &[Selector],
        chosen: &ChosenChild,
    ) -> Result<Resource, Notify> {
        if request.notify(NotifyType::SA_RESOURCE_INFO).is_none() {
            return Ok(Resource::None);
        }
        if self.policy.resources.is_empty() {
            // The first one for this traffic is one like any other; a second one would take its place.
            let is_second = self.used_for(ts_local, ts_remote).next().is_some();
            return if is_second {
                Err(self.refuse_resource())
            } else {
                Ok(Resource::None)
            };
        }
        let first = self
            .used_for(ts_local, ts_remote)
            .find(|child| child.sa.resource == Resource::Fallback)
            .map(|child| (child.sa.suite, child.sa.esn));
        let Some(first) = first else {
            return Ok(Resource::Fallback);
        };
        if first != (chosen.suite, chosen.esn) {
            self.warn("child SA refused: its suite is not that of the others for its traffic".to_owned());
            return Err(Notify::new(NotifyType::NO_PROPOSAL_CHOSEN));
        }
        match self.free_resource(ts_local, ts_remote) {
            Some(number) => Ok(Resource::Bound(number)),
            None => Err(self.refuse_resource()),
        }
    }

    /// The first resource that no child SA for this traffic is bound to, nor the one that we are asking for.
    fn free_resource(&self, ts_local: &[Selector], ts_remote: &[Selector]) -> Option<u8> {
        let asked = match self.current.window.pending.as_ref().map(|pending| &pending.task) {
            Some(Task::CreateChild(task)) => task.resource(),
            Some(_) | None => Resource::None,
        };
        let mut numbers = (0..=u8::MAX).take(self.policy.resources.len());
        numbers.find(|number| {
            let resource = Resource::Bound(*number);
            let mut used = self.used_for(ts_local, ts_remote);
            asked != resource && used.all(|child| child.sa.resource != resource)
        })
    }

    /// The peer has as many as it may have.
    fn refuse_resource(&mut self) -> Notify {
        self.counters.resources_refused += 1;
        self.step(
            "max_queue",
            "no further child SA with the same selectors".to_owned(),
        );
        Notify::new(NotifyType::TS_MAX_QUEUE)
    }

    /// The peer wants no more of them: what it has is what there will be.
    pub(super) fn refused_resource(&mut self, kind: NotifyType, resource: Resource) {
        self.counters.resources_refused += 1;
        self.queue.retain(|work| {
            !matches!(
                work,
                Work::CreateChild {
                    resource: Resource::Bound(_),
                    ..
                }
            )
        });
        self.step(
            "max_queue",
            format!("peer answers {kind} for resource {resource}"),
        );
    }
}
