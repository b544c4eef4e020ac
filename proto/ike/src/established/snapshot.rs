//! An established IKE SA as a record, and back.
//!
//! Everything that the peer could notice is in it: keys, message IDs, the last response and the request under way, octet
//! by octet, with the task that takes its response. Times are kept as what is left of them. IVs of counter-mode ciphers go
//! on under the generation of whoever restores, so no nonce repeats even if the former owner still sends.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crypto::{Group, KeyError};
use serde::{Deserialize, Serialize};

use super::children::{Child, Children, State};
use super::lifetimes::Clock;
use super::link::{Fate, Link, LinkId};
use super::parts::CachedResponse;
use super::queue::{Job, Queue, Work};
use super::tasks::Task;
use super::window::{Pending, Window};
use super::{Core, Names};
use crate::keys::IkeKeys;
use crate::types::{
    ChildPolicy, ChildSa, CloseReason, Context, Counters, IkeSuite, Lifetime, NatFindings, Role,
};
use crate::wire::ExchangeType;
use crate::wire::proposal::IkeProposal;
use crate::wire::protect::IvSource;

/// What is left at least, after a restoration, of what had as much: time to replace keys, less than the 5 s by which no SA
/// may outlive its hard limit.
const LAST_SECONDS: Duration = Duration::from_secs(4);

/// A record of an established IKE SA. Holds every key: seal it before it goes anywhere.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CoreSnapshot {
    current: LinkRecord,
    others: Vec<LinkRecord>,
    children: Vec<ChildRecord>,
    queue: Vec<JobRecord>,
    local: SocketAddr,
    remote: SocketAddr,
    nat: NatFindings,
    fragment_size: Option<usize>,
    proposals: Vec<IkeProposal>,
    policy: ChildPolicy,
    ike_lifetime: Lifetime,
    soft: Option<Duration>,
    hard: Option<Duration>,
    liveness: Option<Duration>,
    mobike: bool,
    mid_sync: bool,
    redirectable: bool,
    redirected: Option<Duration>,
    caller: bool,
    names: Names,
    refused_for: Option<Duration>,
    early_deletes: Vec<u32>,
    closing: Option<CloseReason>,
    counters: Counters,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct LinkRecord {
    id: LinkId,
    role: Role,
    suite: IkeSuite,
    keys: IkeKeys,
    ivs: IvSource,
    next_send: u32,
    next_recv: u32,
    answered: Option<CachedResponse>,
    synced: Option<u32>,
    pending: Option<PendingRecord>,
    fate: FateRecord,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct PendingRecord {
    id: u32,
    exchange: ExchangeType,
    datagrams: Vec<Vec<u8>>,
    task: Task,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum FateRecord {
    Current,
    Candidate,
    Replaced(Duration),
    Closing,
    Answered(Duration),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct ChildRecord {
    sa: ChildSa,
    state: State,
    group: Option<Option<Group>>,
    soft: Option<Duration>,
    hard: Option<Duration>,
    until: Option<Duration>,
    successor: Option<u32>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct JobRecord {
    work: Work,
    wait: Duration,
    tries: u8,
}

/// A record that cannot be restored.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RestoreError {
    /// Written by another version of this software.
    #[error("the record has version {0}, this software reads version {expected}", expected = crate::snapshot::VERSION)]
    Version(u16),
    /// Keys that do not fit their algorithms.
    #[error(transparent)]
    Keys(#[from] KeyError),
    /// Somebody else has the SPI of a child SA.
    #[error("inbound SPI {0:08x} is taken")]
    SpiTaken(u32),
}

impl Core {
    /// A record of the state as it is now; `None` once it has ended.
    #[must_use]
    pub fn snapshot(&self, now: Instant) -> Option<CoreSnapshot> {
        if self.closed {
            return None;
        }
        let left = |at: Option<Instant>| at.map(|at| at.saturating_duration_since(now));
        let child = |child: &Child| ChildRecord {
            sa: child.sa.clone(),
            state: child.state,
            group: child.group,
            soft: left(child.soft_at),
            hard: left(child.hard_at),
            until: left(child.until),
            successor: child.successor,
        };
        let job = |job: &Job| JobRecord {
            work: job.work.clone(),
            wait: job.at.saturating_duration_since(now),
            tries: job.tries,
        };
        Some(CoreSnapshot {
            current: LinkRecord::of(&self.current, now),
            others: self.others.iter().map(|link| LinkRecord::of(link, now)).collect(),
            children: self.children.iter().map(child).collect(),
            queue: self.queue.iter().map(job).collect(),
            local: self.local,
            remote: self.remote,
            nat: self.nat,
            fragment_size: self.fragment_size,
            proposals: self.proposals.clone(),
            policy: self.policy.clone(),
            ike_lifetime: self.ike_lifetime,
            soft: left(self.clock.soft_at),
            hard: left(self.clock.hard_at),
            liveness: self.liveness,
            mobike: self.mobike,
            mid_sync: self.mid_sync,
            redirectable: self.redirectable,
            redirected: left(self.redirected_until),
            caller: self.caller,
            names: self.names.clone(),
            refused_for: self
                .refused_since
                .map(|since| now.saturating_duration_since(since)),
            early_deletes: self.early_deletes.clone(),
            closing: self.closing.clone(),
            counters: self.counters,
        })
    }

    /// Goes on from a record that is `elapsed` old, under a `generation` that nobody has used with these keys.
    ///
    /// Whatever has a hard limit lives on for some seconds at least, unless it had less when the record was made: a peer that
    /// is there can replace what is over by `elapsed`, and one that is not is told of the end.
    ///
    /// Emits nothing. What should be installed is told by [`children`](Self::children), and a request that was under way is
    /// sent again at the first [`deadline`](Self::deadline).
    ///
    /// # Errors
    /// A record of another version, keys that do not fit, inbound SPIs that are taken.
    pub fn restore(
        now: Instant,
        mut context: Context,
        snapshot: CoreSnapshot,
        elapsed: Duration,
        generation: u16,
    ) -> Result<Self, RestoreError> {
        context.generation = generation;
        let at = |left: Option<Duration>| left.map(|left| now + left.saturating_sub(elapsed));
        // `elapsed` may come of a wall clock that is wrong: nothing ends before its keys could be replaced.
        let end = |left: Option<Duration>| {
            left.map(|left| now + left.saturating_sub(elapsed).max(left.min(LAST_SECONDS)))
        };
        let claimed = claim(&context, &snapshot)?;
        let link = |record: LinkRecord| record.into_link(now, elapsed, generation);
        let links = link(snapshot.current).and_then(|current| {
            Ok((
                current,
                snapshot.others.into_iter().map(link).collect::<Result<_, _>>()?,
            ))
        });
        let (current, others) = links.inspect_err(|_| {
            for spi in &claimed {
                context.spis.release_esp(*spi);
            }
        })?;
        let mut children = Children::default();
        for record in snapshot.children {
            children.insert(Child {
                sa: record.sa,
                state: record.state,
                group: record.group,
                soft_at: at(record.soft),
                hard_at: end(record.hard),
                until: at(record.until),
                successor: record.successor,
            });
        }
        let mut queue = Queue::default();
        for record in snapshot.queue {
            queue.push(Job {
                tries: record.tries,
                ..Job::new(record.work, now + record.wait.saturating_sub(elapsed))
            });
        }
        Ok(Self {
            context,
            current,
            others,
            children,
            queue,
            outputs: VecDeque::new(),
            local: snapshot.local,
            remote: snapshot.remote,
            nat: snapshot.nat,
            fragment_size: snapshot.fragment_size,
            proposals: snapshot.proposals,
            policy: snapshot.policy,
            ike_lifetime: snapshot.ike_lifetime,
            clock: Clock {
                soft_at: at(snapshot.soft),
                hard_at: end(snapshot.hard),
            },
            liveness: snapshot.liveness,
            mobike: snapshot.mobike,
            mid_sync: snapshot.mid_sync,
            redirectable: snapshot.redirectable,
            takeover: None,
            restored_age: elapsed,
            redirected_until: at(snapshot.redirected),
            caller: snapshot.caller,
            names: snapshot.names,
            heard: now,
            spoke: now,
            refused_since: snapshot.refused_for.map(|_| now),
            reported: None,
            early_deletes: snapshot.early_deletes,
            closing: snapshot.closing,
            closed: false,
            changed: false,
            counters: snapshot.counters,
        })
    }
}

/// Takes every inbound SPI of a record, or none.
fn claim(context: &Context, snapshot: &CoreSnapshot) -> Result<Vec<u32>, RestoreError> {
    let links = std::iter::once(&snapshot.current).chain(&snapshot.others);
    let offered = links.filter_map(|link| link.pending.as_ref()?.task.offered());
    let installed = snapshot.children.iter().map(|child| child.sa.spi_in);
    let mut claimed = Vec::new();
    for spi in installed.chain(offered) {
        if !context.spis.claim_esp(spi) {
            for spi in claimed {
                context.spis.release_esp(spi);
            }
            return Err(RestoreError::SpiTaken(spi));
        }
        claimed.push(spi);
    }
    Ok(claimed)
}

impl LinkRecord {
    fn of(link: &Link, now: Instant) -> Self {
        let left = |at: Instant| at.saturating_duration_since(now);
        Self {
            id: link.id,
            role: link.role,
            suite: link.suite,
            keys: link.keys.clone(),
            ivs: link.ivs,
            next_send: link.window.next_send,
            next_recv: link.window.next_recv,
            answered: link.window.answered.clone(),
            synced: link.window.synced,
            pending: link.window.pending.as_ref().map(|pending| PendingRecord {
                id: pending.id,
                exchange: pending.exchange,
                datagrams: pending.datagrams.clone(),
                task: pending.task.clone(),
            }),
            fate: match link.fate {
                Fate::Current => FateRecord::Current,
                Fate::Candidate => FateRecord::Candidate,
                Fate::Replaced(at) => FateRecord::Replaced(left(at)),
                Fate::Closing => FateRecord::Closing,
                Fate::Answered(at) => FateRecord::Answered(left(at)),
            },
        }
    }

    fn into_link(self, now: Instant, elapsed: Duration, generation: u16) -> Result<Link, KeyError> {
        let at = |left: Duration| now + left.saturating_sub(elapsed);
        let mut window = Window::new(self.next_send, self.next_recv, self.answered);
        window.synced = self.synced;
        window.pending = self.pending.map(|record| Pending {
            id: record.id,
            exchange: record.exchange,
            datagrams: record.datagrams,
            sent: 0,
            due: now,
            task: record.task,
        });
        let fate = match self.fate {
            FateRecord::Current => Fate::Current,
            FateRecord::Candidate => Fate::Candidate,
            FateRecord::Replaced(left) => Fate::Replaced(at(left)),
            FateRecord::Closing => Fate::Closing,
            FateRecord::Answered(left) => Fate::Answered(at(left)),
        };
        let ivs = IvSource {
            generation,
            counter: if generation == self.ivs.generation {
                self.ivs.counter
            } else {
                0
            },
        };
        Link::new(self.id, self.role, self.suite, self.keys, ivs, window, fate)
    }
}
