//! One login as it is told to the operator: a trace with its spans, and an attempt record with its steps.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use ike::{Failure, FailureKind as IkeFailure, Stage};
use opentelemetry::KeyValue;
use tenants::FailureKind;
use tenants::attempt::{AttemptRecord, Outcome, Step};

use crate::authenticator::AuthDone;
use crate::dispatch::Opening;
use crate::node::Node;
use crate::session::Session;
use crate::telemetry::{Redacted, SetupTrace, Span};

/// A login from its first message to its outcome.
pub struct Login {
    begun: Instant,
    trace: Option<SetupTrace>,
    record: AttemptRecord,
    /// What the authenticator found, for a failure that the core reports afterwards.
    verdict: Option<FailureKind>,
    child_failure: Option<String>,
    /// Messages after the first: a peer that never came back is a scan, not a login.
    heard: u32,
    submitted: Option<(SystemTime, Instant)>,
}

impl Login {
    /// The first message has arrived.
    #[must_use]
    pub fn begin(node: &Node, opening: &Opening, arrived: Instant) -> Self {
        let waited = arrived.elapsed();
        let time = SystemTime::now()
            .checked_sub(waited)
            .unwrap_or_else(SystemTime::now);
        let attributes = vec![
            KeyValue::new("spi_i", opening.spi_i.to_string()),
            KeyValue::new("remote", Redacted(opening.remote).to_string()),
            KeyValue::new("local", opening.local.to_string()),
        ];
        let mut record = AttemptRecord::new(time, opening.remote, opening.local);
        record.spi_i = opening.spi_i.to_string();
        let mut login = Self {
            begun: arrived,
            trace: Some(SetupTrace::begin(&node.tracer, "ike.setup", attributes)),
            record,
            verdict: None,
            child_failure: None,
            heard: 0,
            submitted: None,
        };
        login.step(Span {
            name: "queue",
            start: time,
            took: waited,
            detail: String::new(),
            failed: false,
        });
        login
    }

    /// Another message of the peer has arrived.
    pub fn heard(&mut self) {
        self.heard = self.heard.saturating_add(1);
    }

    /// A step is done.
    pub fn step(&mut self, span: Span) {
        if let Some(trace) = &mut self.trace {
            trace.child(&span);
        }
        if self.record.steps.len() < tenants::attempt::MAX_LIST {
            self.record.steps.push(Step {
                name: span.name,
                micros: u64::try_from(span.took.as_micros()).unwrap_or(u64::MAX),
                detail: span.detail,
            });
        }
    }

    /// The authenticator has decided.
    pub fn authenticated(&mut self, done: &AuthDone) {
        for span in &done.notes.spans {
            self.step(span.clone());
        }
        let notes = &done.notes;
        self.record.candidates.clone_from(&notes.candidates);
        self.record.tenant.clone_from(&notes.tenant);
        self.record.connection.clone_from(&notes.connection);
        self.record.peer_id.clone_from(&notes.peer_id);
        self.record.wanted_id.clone_from(&notes.wanted_id);
        self.record
            .certificate_verdict
            .clone_from(&notes.certificate_verdict);
        self.record.nat.clone_from(&notes.nat);
        self.verdict = notes.failure;
        if let Some(trace) = &self.trace {
            trace.attribute("tenant", notes.tenant.clone().unwrap_or_default());
            trace.attribute("connection", notes.connection.clone().unwrap_or_default());
        }
    }

    /// The IKE SA is up without its child.
    pub fn child_failed(&mut self, reason: &str) {
        self.child_failure = Some(reason.to_owned());
    }

    /// The record of the SA is on its way to the store.
    pub fn submitted(&mut self) {
        self.submitted.get_or_insert((SystemTime::now(), Instant::now()));
    }

    /// The record is stored, the last answer leaves.
    pub fn succeeded(mut self: Box<Self>, node: &Arc<Node>, session: &Session) {
        if let Some((start, begun)) = self.submitted.take() {
            let took = begun.elapsed();
            self.step(Span {
                name: "store write",
                start,
                took,
                detail: String::new(),
                failed: false,
            });
        }
        let standing = session.standing();
        self.record.tenant = Some(session.facts.tenant.clone());
        self.record.accepted = standing.suite;
        self.record.outcome = match self.child_failure.take() {
            None => Outcome::Established {
                session_id: session.name(),
            },
            Some(reason) => {
                let kind = if reason.contains("TS_UNACCEPTABLE") || reason.contains("selector") {
                    FailureKind::TrafficSelectors
                } else {
                    FailureKind::ChildProposal
                };
                Outcome::Failed {
                    kind,
                    reason,
                    notify: String::new(),
                }
            }
        };
        self.end(node, &session.facts.tenant);
    }

    /// The login has failed.
    pub fn failed(&mut self, node: &Arc<Node>, failure: &Failure) {
        let timed_out = matches!(failure.kind, IkeFailure::HalfOpen | IkeFailure::Timeout);
        if timed_out && self.heard == 0 {
            // Spoofed or a scan. Counted; a record would wash honest logins out of the list.
            node.metrics.gate_drop("never_returned");
            self.trace = None;
            return;
        }
        let record = &mut self.record;
        record.offered.clone_from(&failure.offered);
        record.accepted = failure.accepted.join(", ");
        record.difference = failure.difference.clone().unwrap_or_default();
        if let Some(id) = &failure.peer_id {
            record.peer_id = id.to_string();
        }
        if let Some(id) = &failure.wanted_id {
            record.wanted_id = id.to_string();
        }
        if let Some(nat) = &failure.nat {
            record.nat = nat.to_string();
        }
        record.outcome = Outcome::Failed {
            kind: self.verdict.unwrap_or_else(|| kind(failure)),
            reason: failure.reason.clone(),
            notify: failure
                .notify
                .map(|notify| notify.to_string())
                .unwrap_or_default(),
        };
        let tenant = record.tenant.clone().unwrap_or_default();
        self.end(node, &tenant);
    }

    /// The client was sent to another gateway. Counted; nothing is known of it that would be worth a record.
    pub fn redirected(&mut self) {
        if let Some(trace) = self.trace.take() {
            trace.attribute("outcome", "redirected");
            trace.end(None);
        }
    }

    /// The slot of its service address has gone to another node in the middle of it: the client begins anew there.
    pub fn cut_off(&mut self, node: &Arc<Node>, reason: &str) {
        if self.heard == 0 {
            // As in `failed`: not one that proved to be anybody.
            self.trace = None;
            return;
        }
        self.record.outcome = Outcome::Failed {
            kind: FailureKind::Internal,
            reason: reason.to_owned(),
            notify: String::new(),
        };
        let tenant = self.record.tenant.clone().unwrap_or_default();
        self.end(node, &tenant);
    }

    fn end(&mut self, node: &Arc<Node>, tenant: &str) {
        let Some(trace) = self.trace.take() else { return };
        let took: Duration = self.begun.elapsed();
        let (outcome, error) = match &self.record.outcome {
            Outcome::Established { .. } => ("established", None),
            Outcome::Failed { kind, reason, .. } => (kind.name(), Some(reason.clone())),
        };
        let label = if tenant.is_empty() { "unknown" } else { tenant };
        node.metrics.login(label, outcome, took.as_secs_f64());
        if let Some(reason) = &error {
            node.log_limit.run(|| {
                tracing::info!(
                    tenant,
                    remote = %Redacted(self.record.remote),
                    peer = %Redacted(&self.record.peer_id),
                    failure = outcome,
                    reason,
                    trace = trace.id(),
                    "login failed"
                );
            });
        }
        trace.attribute("outcome", outcome);
        trace.end(error.as_deref());
        node.attempts.record(self.record.clone());
    }
}

impl Drop for Login {
    fn drop(&mut self) {
        if let Some(trace) = self.trace.take() {
            trace.end(Some("abandoned"));
        }
    }
}

/// The word for a failure that the core found without the authenticator.
fn kind(failure: &Failure) -> FailureKind {
    match (failure.kind, failure.stage) {
        (IkeFailure::NoProposal, Stage::SaInit) => FailureKind::IkeProposal,
        (IkeFailure::NoProposal, Stage::Auth) => FailureKind::ChildProposal,
        (IkeFailure::KeyExchange | IkeFailure::Protocol, _) => FailureKind::Protocol,
        (IkeFailure::PeerRefused | IkeFailure::Authentication, _) => FailureKind::Signature,
        (IkeFailure::RefusedByPeer | IkeFailure::Closed, _) => FailureKind::PeerRefused,
        (IkeFailure::Timeout | IkeFailure::HalfOpen, _) => FailureKind::Timeout,
        (IkeFailure::Internal, _) => FailureKind::Internal,
    }
}
