//! Creating a further child SA (RFC 7296 section 1.3.1), for the same traffic on another resource if so agreed (RFC 9611).

use std::time::Instant;

use crypto::Group;
use ip::{Selector, narrow};
use serde::{Deserialize, Serialize};

use super::super::Core;
use super::super::children::State;
use super::super::queue::{Job, Work};
use super::offer::{self, Becomes, Offer, Unusable};
use super::{Answer, Request, Task};
use crate::types::Resource;
use crate::wire::{ExchangeType, Notify, NotifyType, Payloads};

/// A child SA that we asked for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(in crate::established) struct CreateChild {
    offer: Offer,
    work: Work,
    tries: u8,
}

/// Makes the request.
pub(super) fn build(
    core: &mut Core,
    job: &Job,
    ts_local: Vec<Selector>,
    ts_remote: Vec<Selector>,
    group: Option<Group>,
    resource: Resource,
) -> Option<Request> {
    if !core.is_due(&ts_local, &ts_remote, resource) {
        return None;
    }
    // Wishes are narrowed to the policy, so that no answer can lead outside of it.
    let ts_local = narrow(&ts_local, &core.policy.ts_local);
    let ts_remote = narrow(&ts_remote, &core.policy.ts_remote);
    if ts_local.is_empty() || ts_remote.is_empty() {
        core.warn("child SA not created: its traffic selectors are outside the policy".to_owned());
        return None;
    }
    let group = group.or_else(|| core.policy_group());
    match Offer::make(core, ts_local, ts_remote, group, resource) {
        Ok((offer, payloads)) => {
            let task = Task::CreateChild(Box::new(CreateChild {
                offer,
                work: job.work.clone(),
                tries: job.tries,
            }));
            let exchange = ExchangeType::CREATE_CHILD_SA;
            Some(Request {
                exchange,
                payloads,
                task,
            })
        }
        Err(error) => {
            core.warn(format!("child SA not created: {error}"));
            None
        }
    }
}

impl CreateChild {
    /// Our inbound SPI.
    pub(in crate::established) fn spi_in(&self) -> u32 {
        self.offer.spi_in
    }

    /// The place that it is to have.
    pub(in crate::established) fn resource(&self) -> Resource {
        self.offer.resource()
    }

    /// Takes the response.
    pub(super) fn process(self, core: &mut Core, now: Instant, response: Payloads<'_>) {
        if let Some(error) = response.error() {
            core.context.spis.release_esp(self.offer.spi_in);
            return self.refused(core, now, error);
        }
        let is_shared = response.notify(NotifyType::SA_RESOURCE_INFO).is_some();
        let accepted = self.offer.accept(core, response).and_then(|mut agreed| {
            match self.offer.resource() {
                // The peer takes it for one like any other, which makes the others of the group redundant.
                Resource::Bound(_) if !is_shared => return Err(Unusable::Lacks("SA_RESOURCE_INFO")),
                // The properties of the first one are those of all (RFC 9611 section 4).
                Resource::Bound(_) if !core.has_fallback_like(&agreed.sa) => {
                    return Err(Unusable::NotOffered(
                        "another suite than the first one's".to_owned(),
                    ));
                }
                Resource::Fallback if !is_shared => agreed.sa.resource = Resource::None,
                Resource::None | Resource::Fallback | Resource::Bound(_) => {}
            }
            Ok(agreed)
        });
        match accepted {
            Ok(agreed) if core.is_deleted_early(agreed.sa.spi_out) => {
                core.context.spis.release_esp(agreed.sa.spi_in);
            }
            Ok(agreed) => {
                offer::announce(core, &agreed.sa, None);
                core.spread(now, &agreed.sa);
                core.install(now, agreed.sa, Some(agreed.group), State::Installed);
            }
            Err(unusable) => {
                core.warn(format!("child SA not created: {unusable}"));
                core.want(
                    now,
                    Work::DeleteStray {
                        spi_in: self.offer.spi_in,
                    },
                );
            }
        }
    }

    fn refused(self, core: &mut Core, now: Instant, error: &Notify) {
        let Work::CreateChild {
            ts_local,
            ts_remote,
            resource,
            ..
        } = self.work
        else {
            return;
        };
        match error.kind {
            NotifyType::INVALID_KE_PAYLOAD => match core.acceptable_group(error, self.tries) {
                Some(group) => {
                    let group = Some(group);
                    let work = Work::CreateChild {
                        ts_local,
                        ts_remote,
                        group,
                        resource,
                    };
                    core.queue.push(Job {
                        tries: self.tries + 1,
                        ..Job::new(work, now)
                    });
                }
                None => core.warn("child SA not created: no key exchange group in common".to_owned()),
            },
            NotifyType::TEMPORARY_FAILURE => {
                let work = Work::CreateChild {
                    ts_local,
                    ts_remote,
                    group: None,
                    resource,
                };
                core.retry_later(now, work);
            }
            NotifyType::TS_MAX_QUEUE | NotifyType::NO_ADDITIONAL_SAS if resource.is_shared() => {
                core.refused_resource(error.kind, resource);
            }
            kind => core.warn(format!("child SA not created: peer answers {kind}")),
        }
    }
}

/// Answers the peer's request for a further child SA.
pub(in crate::established) fn handle(core: &mut Core, now: Instant, request: Payloads<'_>) -> Answer {
    if core.children.in_use() >= usize::from(core.policy.max_children) {
        //= rfc7296#section-1.3
        //# The responder sends a NO_ADDITIONAL_SAS notification to indicate that a CREATE_CHILD_SA request is unacceptable because the responder is unwilling to accept any more Child SAs on this IKE SA.
        return Answer::refuse(Notify::new(NotifyType::NO_ADDITIONAL_SAS));
    }
    let (local, remote) = (core.policy.ts_local.clone(), core.policy.ts_remote.clone());
    match offer::answer(core, request, &local, &remote, Becomes::New) {
        Ok((agreed, payloads)) => {
            offer::announce(core, &agreed.sa, None);
            core.install(now, agreed.sa, Some(agreed.group), State::Installed);
            Answer::of(payloads)
        }
        Err(notify) => Answer::refuse(notify),
    }
}
