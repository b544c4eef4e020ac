//! One etcd transaction for several of our own, carried out exactly once although it may be sent many times.
//!
//! Every lane has a marker key. A transaction compares the marker's revision with that of the lane's last one and
//! writes it anew:
//! ```text
//!   if mod(marker) = last, shared:  [ if compares₁ then₁ else otherwise₁ ] … ; put marker = number, time
//!   else:                           get marker
//! ```
//! What all of its parts compare (the fence of a slot's writes) is compared once, for all of them: `shared`. Parts that
//! write nothing unless they hold are sent without any nesting, which members have far less work with:
//! ```text
//!   if mod(marker) = last, compares₁, compares₂ …:  then₁; then₂ …; put marker = number, time
//!   else:                                           get marker
//! ```
//! If one of these does not hold, which the marker as it was last tells, every part is sent with all that it compares.
//!
//! Sent again after an answer was lost, it finds the marker written by itself, and what its parts compared is read as
//! it was one revision before. A lane that has to give up writes its marker alone, so that nothing
//! that is still on its way can happen later; until that is done, nothing that would conflict is let through.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use etcd_client::{
    Compare, CompareOp, DeleteOptions, GetOptions, KeyValue, Txn as EtcdTxn, TxnOp, TxnOpResponse,
    TxnResponse,
};
use tokio::sync::oneshot;

use super::fault::{Class, Fault};
use super::members::{Counters, Members, random};
use super::plan::{self, Effect, octets_behind, signed};
use super::shared::{Shape, Shared};
use crate::error::StoreError;
use crate::types::{Revision, Txn, TxnOutcome};

/// Markers of writers that have been silent for so long are removed.
const MARKER_AGE_SECS: u64 = 7 * 86_400;
/// Between two tries to settle a lane.
const SETTLE_PAUSE: Duration = Duration::from_millis(200);

/// A transaction that is to be committed, and who waits for it.
pub(super) struct Work {
    pub(super) txn: Txn,
    pub(super) reply: oneshot::Sender<Result<TxnOutcome, StoreError>>,
}

/// A marker and what is known of it.
pub(super) struct Lane {
    marker: String,
    /// The marker's last revision; 0: it is not there.
    last: u64,
}

impl Lane {
    pub(super) fn new(members: &Members) -> Self {
        let marker = format!(
            "{}{:016x}{:016x}",
            markers(&members.settings.namespace),
            random(),
            random()
        );
        Self { marker, last: 0 }
    }
}

/// What all lanes share.
pub(super) struct Committer {
    pub(super) members: Arc<Members>,
    root: String,
    numbers: AtomicU64,
}

/// What became of a transaction of etcd's.
enum Verdict {
    Done(Vec<Result<TxnOutcome, StoreError>>),
    Failed(Fault),
}

impl Committer {
    pub(super) fn new(members: Arc<Members>) -> Self {
        let root = format!("{}/", members.settings.namespace);
        Self {
            members,
            root,
            numbers: AtomicU64::new(1),
        }
    }

    /// Commits together, answers everybody, and returns when the lane is settled.
    pub(super) async fn commit(&self, lane: &mut Lane, work: Vec<Work>) {
        let counters = &self.members.counters;
        counters
            .transactions
            .fetch_add(u64::try_from(work.len()).unwrap_or(0), Ordering::Relaxed);
        let (txns, replies): (Vec<_>, Vec<_>) = work.into_iter().map(|work| (work.txn, work.reply)).unzip();
        let sent = Instant::now();
        let fault = match self.send(lane, &txns).await {
            Verdict::Done(outcomes) => {
                let micros = u64::try_from(sent.elapsed().as_micros()).unwrap_or(u64::MAX);
                counters.last_commit_micros.store(micros, Ordering::Relaxed);
                answer(replies, outcomes);
                return;
            }
            Verdict::Failed(fault) => fault,
        };
        let alone = matches!(
            fault.class,
            Class::TooLarge | Class::TooManySteps | Class::LeaseMissing | Class::Refused
        );
        if alone && !fault.ambiguous && txns.len() > 1 {
            // One of them is at fault, and nothing has happened.
            for (txn, reply) in txns.into_iter().zip(replies) {
                let outcome = self.alone(lane, txn).await;
                let _ = reply.send(outcome);
            }
            return;
        }
        let unsettled = fault.ambiguous;
        if unsettled {
            Counters::count(&counters.indeterminate);
        }
        for (txn, reply) in txns.into_iter().zip(replies) {
            let _ = reply.send(Err(self.explain(&txn, fault.clone()).await));
        }
        if unsettled {
            self.settle(lane).await;
        }
    }

    async fn alone(&self, lane: &mut Lane, txn: Txn) -> Result<TxnOutcome, StoreError> {
        let unknown = || StoreError::Indeterminate {
            reason: "etcd's answer was not understood".to_owned(),
        };
        match self.send(lane, std::slice::from_ref(&txn)).await {
            Verdict::Done(outcomes) => outcomes.into_iter().next().unwrap_or_else(|| Err(unknown())),
            Verdict::Failed(fault) => {
                let unsettled = fault.ambiguous;
                let error = self.explain(&txn, fault).await;
                if unsettled {
                    self.settle(lane).await;
                }
                Err(error)
            }
        }
    }

    /// Sends until it is known what happened, or the call's time is over.
    async fn send(&self, lane: &mut Lane, txns: &[Txn]) -> Verdict {
        let deadline = self.members.deadline();
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let mut repeated = false;
        let mut shape = Shape::of(txns, self.members.settings.txn_steps());
        loop {
            // Made again for another attempt, which is rare, instead of copied for every one.
            let sent = self
                .members
                .call(deadline, |mut client| {
                    let request = self.request(lane, txns, &shape, number);
                    async move { client.txn(request).await }
                })
                .await;
            let response = match sent {
                Ok(done) => {
                    repeated |= done.repeated;
                    done.answer
                }
                Err(mut fault) => {
                    fault.ambiguous |= repeated;
                    return Verdict::Failed(fault);
                }
            };
            let revision = response
                .header()
                .map_or(0, |header| header.revision().unsigned_abs());
            Counters::count(&self.members.counters.commits);
            if response.succeeded() {
                lane.last = revision;
                if let Shape::Flat(_) = shape {
                    let done = TxnOutcome {
                        committed: true,
                        revision,
                        found: None,
                    };
                    return Verdict::Done(txns.iter().map(|_| Ok(done)).collect());
                }
                let answers = response.op_responses();
                return Verdict::Done(
                    txns.iter()
                        .zip(&answers)
                        .map(|(txn, answer)| outcome(txn, answer, revision))
                        .collect(),
                );
            }
            match marker_of(&response) {
                Some((written, by)) if by == number => {
                    lane.last = written;
                    Counters::count(&self.members.counters.recovered);
                    return Verdict::Done(self.recover(txns, written).await);
                }
                // The marker is as it was: what did not hold is compared by every part.
                found if shape.compares() && found.map_or(0, |(written, _)| written) == lane.last => {
                    shape = Shape::Parts(Shared::default());
                }
                // The lane alone writes its marker, one transaction after another: ours has not happened.
                Some((written, _)) => lane.last = written,
                None if repeated => {
                    let reason = "the writer's marker was removed while its transaction was under way";
                    return Verdict::Failed(Fault::new(Class::Unavailable, true, reason));
                }
                None => lane.last = 0,
            }
        }
    }

    fn request(&self, lane: &Lane, txns: &[Txn], shape: &Shape, number: u64) -> EtcdTxn {
        let (shared, mut ops) = match shape {
            Shape::Flat(all) => (
                all,
                txns.iter()
                    .flat_map(|txn| Effect::of(&txn.then).ops(&self.root))
                    .collect::<Vec<_>>(),
            ),
            Shape::Parts(shared) => {
                let parts = txns.iter().map(|txn| TxnOp::txn(self.part(txn, shared)));
                (shared, parts.collect())
            }
        };
        ops.push(TxnOp::put(lane.marker.as_str(), marker_value(number), None));
        guarded(
            lane,
            plan::compares(&shared.compares, &shared.values, &self.root),
            ops,
        )
    }

    /// One of ours as a part of etcd's, which has compared what is shared.
    fn part(&self, txn: &Txn, shared: &Shared) -> EtcdTxn {
        let then = Effect::of(&txn.then).ops(&self.root);
        let own = shared.rest_of(txn);
        if own.is_empty() {
            return EtcdTxn::new().and_then(then);
        }
        let mut otherwise = plan::reads(txn, &self.root);
        otherwise.extend(Effect::of(&txn.otherwise).ops(&self.root));
        EtcdTxn::new()
            .when(plan::compares(&own.compares, &own.values, &self.root))
            .and_then(then)
            .or_else(otherwise)
    }

    /// The outcomes of a transaction whose answer was lost: its comparisons, with the state one revision before it.
    async fn recover(&self, txns: &[Txn], revision: Revision) -> Vec<Result<TxnOutcome, StoreError>> {
        let mut states = HashMap::<String, Option<(Revision, Vec<u8>)>>::new();
        let mut outcomes = Vec::with_capacity(txns.len());
        for txn in txns {
            outcomes.push(self.recover_one(txn, revision, &mut states).await);
        }
        outcomes
    }

    async fn recover_one(
        &self,
        txn: &Txn,
        revision: Revision,
        states: &mut HashMap<String, Option<(Revision, Vec<u8>)>>,
    ) -> Result<TxnOutcome, StoreError> {
        let compared = txn.compares.iter().map(|compare| &compare.key);
        for key in compared.chain(txn.values.iter().map(|compare| &compare.key)) {
            if states.contains_key(key) {
                continue;
            }
            let path = format!("{}{key}", self.root);
            let before = GetOptions::new().with_revision(signed(revision) - 1);
            let got = self
                .members
                .call(self.members.deadline(), |mut client| {
                    let (path, before) = (path.clone(), before.clone());
                    async move { client.get(path, Some(before)).await }
                })
                .await
                .map_err(|fault| StoreError::Indeterminate {
                    reason: format!("it was done, with an outcome that is lost: {}", fault.reason),
                })?;
            let state = got.answer.kvs().first().map(state);
            states.insert(key.clone(), state);
        }
        let found = |key: &String| states.get(key).and_then(Option::as_ref);
        let failed = first_failing(txn, found);
        Ok(TxnOutcome {
            committed: failed.is_none(),
            revision,
            found: failed.flatten(),
        })
    }

    /// What the caller is told of a fault that is its transaction's own.
    async fn explain(&self, txn: &Txn, fault: Fault) -> StoreError {
        let too_large = |what, size, limit| StoreError::TooLarge { what, size, limit };
        match fault.class {
            // The members do not say what they allow: etcd's defaults are as good as any.
            Class::TooLarge if !fault.ambiguous => {
                return too_large(
                    "request, for the members' --max-request-bytes",
                    plan::octets(txn),
                    3 << 19,
                );
            }
            Class::TooManySteps if !fault.ambiguous => {
                return too_large(
                    "transaction, for the members' --max-txn-ops",
                    plan::steps(txn),
                    128,
                );
            }
            Class::LeaseMissing => {}
            Class::Unavailable
            | Class::NoSpace
            | Class::TooLarge
            | Class::TooManySteps
            | Class::Compacted
            | Class::LeaseExists
            | Class::StaleToken
            | Class::Refused
            | Class::Corrupt
            | Class::WentBack => return fault.into_write_error(),
        }
        let mut leases = txn.then.iter().chain(&txn.otherwise).filter_map(|op| match op {
            crate::types::Op::Put { lease, .. } => *lease,
            crate::types::Op::Delete { .. } | crate::types::Op::DeletePrefix { .. } => None,
        });
        let Some(first) = leases.next() else {
            return fault.into_write_error();
        };
        for lease in std::iter::once(first).chain(leases) {
            let asked = self
                .members
                .call(self.members.deadline(), |mut client| async move {
                    client.lease_time_to_live(signed(lease.0), None).await
                })
                .await;
            if asked.is_ok_and(|done| done.answer.ttl() <= 0) {
                return StoreError::LeaseNotFound(lease);
            }
        }
        StoreError::LeaseNotFound(first)
    }

    /// Writes the marker alone, for as long as it takes: what was sent before can then no longer happen.
    async fn settle(&self, lane: &mut Lane) {
        loop {
            let number = self.numbers.fetch_add(1, Ordering::Relaxed);
            let bump = TxnOp::put(lane.marker.as_str(), marker_value(number), None);
            let request = guarded(lane, Vec::new(), vec![bump]);
            let sent = self
                .members
                .call(self.members.deadline(), |mut client| {
                    let request = request.clone();
                    async move { client.txn(request).await }
                })
                .await;
            match sent {
                Ok(done) if done.answer.succeeded() => {
                    lane.last = done
                        .answer
                        .header()
                        .map_or(0, |header| header.revision().unsigned_abs());
                    return;
                }
                // The marker has moved on: the comparison of what was sent no longer holds.
                Ok(done) => {
                    match marker_of(&done.answer) {
                        Some((written, _)) => lane.last = written,
                        None => *lane = Lane::new(&self.members),
                    }
                    return;
                }
                // Nothing of a store that went back can be settled; a new marker is as good as any.
                Err(fault) if fault.class == Class::WentBack => {
                    *lane = Lane::new(&self.members);
                    return;
                }
                Err(fault) => tracing::warn!(reason = %fault.reason, "a write to etcd is not settled yet"),
            }
            tokio::time::sleep(SETTLE_PAUSE).await;
        }
    }

    /// Removes markers of writers that are long gone.
    pub(super) async fn sweep(&self) {
        let root = markers(&self.members.settings.namespace);
        let page = GetOptions::new()
            .with_range(octets_behind(root.as_bytes()))
            .with_limit(1_000);
        let listed = self
            .members
            .call(self.members.deadline(), |mut client| {
                let (root, page) = (root.clone(), page.clone());
                async move { client.get(root, Some(page)).await }
            })
            .await;
        let Ok(listed) = listed else { return };
        let now = unix_secs();
        for marker in listed.answer.kvs() {
            let written = marker
                .value()
                .get(8..16)
                .and_then(|octets| octets.try_into().ok());
            if written.is_some_and(|at| u64::from_be_bytes(at).saturating_add(MARKER_AGE_SECS) > now) {
                continue;
            }
            let (key, revision) = (marker.key().to_vec(), marker.mod_revision());
            let request = EtcdTxn::new()
                .when(vec![Compare::mod_revision(
                    key.clone(),
                    CompareOp::Equal,
                    revision,
                )])
                .and_then(vec![TxnOp::delete(key, None::<DeleteOptions>)]);
            let removed = self
                .members
                .call(self.members.deadline(), |mut client| {
                    let request = request.clone();
                    async move { client.txn(request).await }
                })
                .await;
            if removed.is_err() {
                return;
            }
        }
    }
}

/// Where the markers lie.
fn markers(namespace: &str) -> String {
    format!("{namespace}.writer/")
}

/// What happens only if the marker is as the lane left it and the rest holds; else the marker is read.
fn guarded(lane: &Lane, mut compares: Vec<Compare>, ops: Vec<TxnOp>) -> EtcdTxn {
    compares.push(Compare::mod_revision(
        lane.marker.as_str(),
        CompareOp::Equal,
        signed(lane.last),
    ));
    EtcdTxn::new()
        .when(compares)
        .and_then(ops)
        .or_else(vec![TxnOp::get(lane.marker.as_str(), None)])
}

/// A marker's value: the transaction's number, and the time for the sweep.
fn marker_value(number: u64) -> Vec<u8> {
    [number.to_be_bytes(), unix_secs().to_be_bytes()].concat()
}

fn unix_secs() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// Revision and number of the marker that a refused transaction read.
fn marker_of(response: &TxnResponse) -> Option<(Revision, u64)> {
    let answers = response.op_responses();
    let Some(TxnOpResponse::Get(got)) = answers.first() else {
        return None;
    };
    let marker = got.kvs().first()?;
    let number = marker.value().get(..8)?.try_into().ok()?;
    Some((marker.mod_revision().unsigned_abs(), u64::from_be_bytes(number)))
}

fn state(found: &KeyValue) -> (Revision, Vec<u8>) {
    (found.mod_revision().unsigned_abs(), found.value().to_vec())
}

/// The revision found at the first comparison that does not hold.
fn first_failing<'a>(
    txn: &Txn,
    found: impl Fn(&String) -> Option<&'a (Revision, Vec<u8>)>,
) -> Option<Option<Revision>> {
    for compare in &txn.compares {
        let revision = found(&compare.key).map(|(revision, _)| *revision);
        if !compare.expect.holds(revision) {
            return Some(revision);
        }
    }
    for compare in &txn.values {
        let state = found(&compare.key);
        if state.is_none_or(|(_, value)| *value != compare.value) {
            return Some(state.map(|(revision, _)| *revision));
        }
    }
    None
}

/// The outcome of one of ours from etcd's answer to its part.
fn outcome(txn: &Txn, answer: &TxnOpResponse, revision: Revision) -> Result<TxnOutcome, StoreError> {
    let TxnOpResponse::Txn(part) = answer else {
        return Err(StoreError::Indeterminate {
            reason: "etcd's answer was not understood".to_owned(),
        });
    };
    Ok(outcome_of(txn, part, revision))
}

/// The outcome of a transaction, or a part, from its answer.
pub(super) fn outcome_of(txn: &Txn, part: &TxnResponse, revision: Revision) -> TxnOutcome {
    if part.succeeded() {
        return TxnOutcome {
            committed: true,
            revision,
            found: None,
        };
    }
    let keys = txn.compares.iter().map(|compare| &compare.key);
    let keys = keys.chain(txn.values.iter().map(|compare| &compare.key));
    let mut states = HashMap::new();
    for (key, answer) in keys.zip(part.op_responses()) {
        if let TxnOpResponse::Get(got) = answer
            && let Some(found) = got.kvs().first()
        {
            // A read of the revision alone must not hide one of the value.
            let entry = states.entry(key).or_insert_with(|| state(found));
            if entry.1.is_empty() {
                *entry = state(found);
            }
        }
    }
    TxnOutcome {
        committed: false,
        revision,
        found: first_failing(txn, |key| states.get(key)).flatten(),
    }
}

fn answer(
    replies: Vec<oneshot::Sender<Result<TxnOutcome, StoreError>>>,
    outcomes: Vec<Result<TxnOutcome, StoreError>>,
) {
    // Too few outcomes drop their senders, which the callers see.
    for (reply, outcome) in replies.into_iter().zip(outcomes) {
        let _ = reply.send(outcome);
    }
}
