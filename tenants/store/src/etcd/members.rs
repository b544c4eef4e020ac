//! The members of the cluster: which one is asked, when the next one is, and whether an answer can be true.
//!
//! All calls go to one member until it fails; then to the next. Answers carry the cluster's id and revision: one
//! that is older than what an earlier answer said comes from a stale member or from a restored cluster, and is refused.

use std::future::Future;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use etcd_client::{
    Client, Error, GetResponse, LeaseGrantResponse, LeaseRevokeResponse, LeaseTimeToLiveResponse,
    ResponseHeader, StatusResponse, TxnResponse,
};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout_at};

use super::fault::{Class, Fault};
use super::settings::EtcdSettings;

/// First pause between two attempts; doubles.
const PAUSE_FIRST: Duration = Duration::from_millis(5);
/// Longest pause between two attempts.
const PAUSE_LONGEST: Duration = Duration::from_millis(160);

/// What has happened since the store was opened.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) failures: AtomicU64,
    pub(super) moves: AtomicU64,
    pub(super) commits: AtomicU64,
    pub(super) transactions: AtomicU64,
    pub(super) recovered: AtomicU64,
    pub(super) indeterminate: AtomicU64,
    pub(super) watches_reopened: AtomicU64,
    pub(super) events_repeated: AtomicU64,
    pub(super) events_lost: AtomicU64,
    pub(super) keep_alives_reopened: AtomicU64,
    /// Duration of the last commit that was answered, in microseconds.
    pub(super) last_commit_micros: AtomicU64,
}

impl Counters {
    pub(super) fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// Answers that say where the cluster stands.
pub(super) trait Answer {
    /// Its header. `None`: nothing to check.
    fn header(&self) -> Option<&ResponseHeader>;
}

impl Answer for GetResponse {
    fn header(&self) -> Option<&ResponseHeader> {
        GetResponse::header(self)
    }
}

impl Answer for TxnResponse {
    fn header(&self) -> Option<&ResponseHeader> {
        TxnResponse::header(self)
    }
}

// The rest does not go through the log, or says nothing of it.
macro_rules! unchecked {
    ($($answer:ty),*) => {
        $(impl Answer for $answer {
            fn header(&self) -> Option<&ResponseHeader> {
                None
            }
        })*
    };
}
unchecked!(
    LeaseGrantResponse,
    LeaseRevokeResponse,
    LeaseTimeToLiveResponse,
    StatusResponse
);

struct Member {
    endpoint: String,
    client: Mutex<Option<Client>>,
}

pub(super) struct Members {
    pub(super) settings: EtcdSettings,
    pub(super) counters: Counters,
    members: Vec<Member>,
    current: AtomicUsize,
    /// The highest revision that an answer carried.
    seen: AtomicU64,
    /// The cluster's id; 0: not known.
    cluster: AtomicU64,
}

/// An answer, and whether an attempt before it may have been carried out too.
pub(super) struct Done<T> {
    pub(super) answer: T,
    pub(super) repeated: bool,
}

impl Members {
    pub(super) fn new(settings: EtcdSettings) -> Self {
        let members = settings
            .endpoints
            .iter()
            .map(|endpoint| Member {
                endpoint: endpoint.clone(),
                client: Mutex::new(None),
            })
            .collect();
        Self {
            settings,
            counters: Counters::default(),
            members,
            current: AtomicUsize::new(0),
            seen: AtomicU64::new(0),
            cluster: AtomicU64::new(0),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.members.len()
    }

    /// The member that is asked at present.
    pub(super) fn current(&self) -> usize {
        self.current.load(Ordering::Acquire) % self.members.len().max(1)
    }

    pub(super) fn endpoint(&self, index: usize) -> &str {
        self.members
            .get(index)
            .map_or("", |member| member.endpoint.as_str())
    }

    pub(super) fn cluster(&self) -> u64 {
        self.cluster.load(Ordering::Acquire)
    }

    pub(super) fn seen(&self) -> u64 {
        self.seen.load(Ordering::Acquire)
    }

    /// Asks the next member from now on, unless somebody has moved on from this one already.
    pub(super) fn leave(&self, index: usize) {
        let next = (index + 1) % self.members.len().max(1);
        if next != index
            && self
                .current
                .compare_exchange(index, next, Ordering::AcqRel, Ordering::Acquire)
                .is_ok()
        {
            Counters::count(&self.counters.moves);
            tracing::debug!(
                from = self.endpoint(index),
                to = self.endpoint(next),
                "changing the etcd member"
            );
        }
    }

    /// The connection to a member; made when there is none. It connects when it is used, and again when it broke.
    pub(super) async fn client(&self, index: usize) -> Result<Client, Fault> {
        let Some(member) = self.members.get(index) else {
            return Err(Fault::new(Class::Refused, false, "no such member"));
        };
        let mut slot = member.client.lock().await;
        if let Some(client) = &*slot {
            return Ok(client.clone());
        }
        let client = Client::connect([member.endpoint.as_str()], Some(self.settings.options()))
            .await
            .map_err(|error| Fault::of(&error))?;
        *slot = Some(client.clone());
        Ok(client)
    }

    /// One attempt with one member, within a time.
    pub(super) async fn attempt<T, A, F>(
        &self,
        index: usize,
        deadline: Instant,
        attempt: &mut A,
    ) -> Result<T, Fault>
    where
        A: FnMut(Client) -> F + Send,
        F: Future<Output = Result<T, Error>> + Send,
    {
        let until = deadline.min(Instant::now() + self.settings.attempt_timeout);
        // Logging in is not the request: nothing has been sent when it fails.
        let client = match timeout_at(until, self.client(index)).await {
            Ok(client) => client.map_err(|fault| Fault {
                ambiguous: false,
                ..fault
            })?,
            Err(_) => {
                return Err(Fault {
                    ambiguous: false,
                    ..Fault::timeout(self.endpoint(index))
                });
            }
        };
        match timeout_at(until, attempt(client.clone())).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => {
                let mut fault = Fault::of(&error);
                if fault.class == Class::StaleToken {
                    let fresh = timeout_at(until, client.refresh_token()).await;
                    if let Ok(Err(error)) = fresh {
                        fault = Fault::of(&error);
                    }
                }
                Err(fault)
            }
            Err(_) => Err(Fault::timeout(self.endpoint(index))),
        }
    }

    /// Asks, again and elsewhere while it fails in a way that may pass, until the deadline.
    pub(super) async fn call<T, A, F>(&self, deadline: Instant, mut attempt: A) -> Result<Done<T>, Fault>
    where
        T: Answer,
        A: FnMut(Client) -> F + Send,
        F: Future<Output = Result<T, Error>> + Send,
    {
        let (mut repeated, mut backward, mut pause) = (false, 0, PAUSE_FIRST);
        let mut tries = 0;
        loop {
            let index = self.current();
            let seen = self.seen();
            let outcome = match self.attempt(index, deadline, &mut attempt).await {
                Ok(answer) => self.check(seen, answer.header()).map(|()| answer),
                Err(fault) => Err(fault),
            };
            tries += 1;
            let mut fault = match outcome {
                Ok(answer) => return Ok(Done { answer, repeated }),
                Err(fault) => fault,
            };
            Counters::count(&self.counters.failures);
            repeated |= fault.ambiguous;
            fault.ambiguous = repeated;
            if fault.class == Class::WentBack {
                // A stale member is one of several; a restored cluster is all of them.
                backward += 1;
                if backward >= self.len() {
                    return Err(fault);
                }
            } else if !fault.is_transient() {
                return Err(fault);
            }
            if fault.class != Class::StaleToken {
                self.leave(index);
            }
            tracing::debug!(endpoint = self.endpoint(index), reason = %fault.reason, "an etcd call failed");
            // The others are asked at once; then it pays to wait.
            if tries >= self.len() {
                let now = Instant::now();
                if now + pause >= deadline {
                    return Err(fault);
                }
                tokio::time::sleep(jitter(pause)).await;
                pause = (pause * 2).min(PAUSE_LONGEST);
            }
        }
    }

    /// Whether the answer can be true, given the revision that was known before the question.
    fn check(&self, seen: u64, header: Option<&ResponseHeader>) -> Result<(), Fault> {
        let Some(header) = header else { return Ok(()) };
        let (cluster, revision) = (header.cluster_id(), header.revision().unsigned_abs());
        let known = self
            .cluster
            .compare_exchange(0, cluster, Ordering::AcqRel, Ordering::Acquire)
            .unwrap_or_else(|known| known);
        if known != 0 && known != cluster {
            let reason = format!("cluster {cluster:016x} answered where {known:016x} did before");
            return Err(Fault::new(Class::WentBack, true, reason));
        }
        if revision < seen {
            let reason = format!("it answered at revision {revision}, after {seen} had been seen");
            return Err(Fault::new(Class::WentBack, true, reason));
        }
        self.note(revision);
        Ok(())
    }

    /// Remembers a revision that an answer or an event carried.
    pub(super) fn note(&self, revision: u64) {
        self.seen.fetch_max(revision, Ordering::AcqRel);
    }

    /// The end of a call that begins now.
    pub(super) fn deadline(&self) -> Instant {
        Instant::now() + self.settings.call_timeout
    }
}

/// Between half a pause and all of it, so that many callers do not ask at the same moment.
fn jitter(pause: Duration) -> Duration {
    let share = u32::try_from(random() % 512).unwrap_or_default();
    pause.mul_f64(0.5 + f64::from(share) / 1024.0)
}

/// A number that nobody else has: the standard library seeds its hashers from the system.
pub(super) fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}
