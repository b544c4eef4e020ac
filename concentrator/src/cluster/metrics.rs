//! The instruments of the cluster.

use std::time::Duration;

use cluster::Event;
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Gauge, Histogram, Meter};
use store::{StoreError, TxnOutcome};

use super::events;

/// Every instrument of the cluster. Cheap to clone.
#[derive(Clone)]
pub struct ClusterMetrics {
    takeover: Histogram<f64>,
    decisions: Histogram<f64>,
    events: Counter<u64>,
    fenced: Counter<u64>,
    late: Histogram<f64>,
    slack: Gauge<f64>,
    slots: Gauge<u64>,
    generation: Gauge<u64>,
    replica_octets: Gauge<u64>,
    replica_records: Gauge<u64>,
    replica_stale: Gauge<f64>,
    waiting: Gauge<f64>,
    unreplicated: Gauge<u64>,
    commits: Counter<u64>,
}

impl ClusterMetrics {
    /// Registers the instruments with `meter`.
    #[must_use]
    pub fn new(meter: &Meter) -> Self {
        let seconds = |name, text, bounds: &[f64]| {
            meter
                .f64_histogram(name)
                .with_unit("s")
                .with_description(text)
                .with_boundaries(bounds.to_vec())
                .build()
        };
        let gauge = |name, unit, text| {
            meter
                .f64_gauge(name)
                .with_unit(unit)
                .with_description(text)
                .build()
        };
        let count = |name, text| meter.u64_gauge(name).with_description(text).build();
        Self {
            takeover: seconds(
                "vpn.cluster.takeover.duration",
                "From the decision to take a slot to each step: records listed, sessions restored, served",
                &[0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0],
            ),
            decisions: seconds(
                "vpn.cluster.decision.duration",
                "Transactions that decide who owns what, by outcome",
                &[0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0],
            ),
            events: meter
                .u64_counter("vpn.cluster.events")
                .with_description("What happened in the cluster, by kind")
                .build(),
            fenced: meter
                .u64_counter("vpn.cluster.fenced")
                .with_description("Slots whose records were refused because another node owns them")
                .build(),
            late: seconds(
                "vpn.cluster.heartbeat.late",
                "How late the thread of the heartbeats was at worst in a second",
                &[0.000_1, 0.000_5, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5],
            ),
            slack: gauge(
                "vpn.cluster.deadline.slack",
                "s",
                "How long packets may be carried without another word from the store",
            ),
            slots: count("vpn.cluster.slots", "Slots that this node serves"),
            generation: count(
                "vpn.cluster.generation",
                "Generation of a slot that this node serves",
            ),
            replica_octets: count(
                "vpn.cluster.replica.octets",
                "Octets of other nodes' records in memory",
            ),
            replica_records: count("vpn.cluster.replica.records", "Other nodes' records in memory"),
            replica_stale: gauge(
                "vpn.cluster.replica.stale",
                "s",
                "How long other nodes' records could not be followed",
            ),
            waiting: gauge(
                "vpn.cluster.records.oldest_wait",
                "s",
                "Age of the oldest record that is not durable",
            ),
            unreplicated: count(
                "vpn.cluster.unreplicated",
                "Answers that were given before their record was durable",
            ),
            commits: meter
                .u64_counter("vpn.cluster.etcd.commits")
                .with_description(
                    "Transactions that etcd carried out for this node; several writes share one",
                )
                .build(),
        }
    }

    /// A slot was taken: time since the decision at the end of each step.
    pub fn takeover(&self, planned: bool, listed: Duration, restored: Duration, ready: Duration) {
        let how = if planned { "planned" } else { "claimed" };
        for (step, time) in [("listed", listed), ("restored", restored), ("ready", ready)] {
            self.takeover.record(
                time.as_secs_f64(),
                &[KeyValue::new("step", step), KeyValue::new("how", how)],
            );
        }
    }

    /// A transaction of the core was answered.
    pub fn decision(&self, took: Duration, outcome: &Result<TxnOutcome, StoreError>) {
        let outcome = match outcome {
            Ok(TxnOutcome { committed: true, .. }) => "committed",
            Ok(_) => "refused",
            Err(_) => "failed",
        };
        self.decisions
            .record(took.as_secs_f64(), &[KeyValue::new("outcome", outcome)]);
    }

    /// Something happened.
    pub fn event(&self, event: &Event) {
        self.events
            .add(1, &[KeyValue::new("kind", events::facts(event).kind)]);
    }

    /// A slot's records were refused.
    pub fn fenced(&self) {
        self.fenced.add(1, &[]);
    }

    /// What is measured once a second.
    pub fn pulse(&self, late: Duration, slack: Option<Duration>) {
        self.late.record(late.as_secs_f64(), &[]);
        self.slack.record(slack.unwrap_or_default().as_secs_f64(), &[]);
    }

    /// How many slots are served.
    pub fn slots(&self, count: usize) {
        self.slots.record(count as u64, &[]);
    }

    /// The generation of a slot that is served.
    pub fn generation(&self, slot: u8, generation: u64) {
        self.generation
            .record(generation, &[KeyValue::new("slot", i64::from(slot))]);
    }

    /// What the replica holds.
    pub fn replica(&self, size: super::replica::Size) {
        self.replica_octets.record(size.octets as u64, &[]);
        self.replica_records.record(size.records as u64, &[]);
        self.replica_stale.record(size.stale.as_secs_f64(), &[]);
    }

    /// Transactions of etcd's since the last measurement.
    pub fn commits(&self, count: u64) {
        self.commits.add(count, &[]);
    }

    /// The oldest record of all slots that is not durable, and answers that did not wait for theirs.
    pub fn records(&self, oldest: Duration, unreplicated: u64) {
        self.waiting.record(oldest.as_secs_f64(), &[]);
        self.unreplicated.record(unreplicated, &[]);
    }
}
