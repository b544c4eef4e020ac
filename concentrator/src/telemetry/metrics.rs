//! The instruments, and the bound on how many tenants get labels of their own.

use std::sync::Arc;

use dashmap::DashSet;
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Gauge, Histogram, Meter, UpDownCounter};

use crate::checkpoint::Round;

/// The label of all tenants beyond the bound.
const OTHER: &str = "other";

/// Decides which tenants get a label: the first N that are seen; the rest is summed under `other`.
#[derive(Clone)]
pub struct TenantLabels {
    seen: Arc<DashSet<String>>,
    most: usize,
}

impl TenantLabels {
    /// At most `most` tenants with labels of their own.
    #[must_use]
    pub fn new(most: u32) -> Self {
        Self {
            seen: Arc::new(DashSet::new()),
            most: most as usize,
        }
    }

    /// The label for `tenant`.
    #[must_use]
    pub fn label(&self, tenant: &str) -> KeyValue {
        if !self.seen.contains(tenant) {
            if self.seen.len() >= self.most {
                return KeyValue::new("tenant", OTHER);
            }
            self.seen.insert(tenant.to_owned());
        }
        KeyValue::new("tenant", tenant.to_owned())
    }
}

/// Every instrument of the daemon. Cheap to clone.
#[derive(Clone)]
pub struct Metrics {
    tenants: TenantLabels,
    sessions: UpDownCounter<i64>,
    logins: Counter<u64>,
    rekeys: Counter<u64>,
    resources: Counter<u64>,
    octets: Counter<u64>,
    packets: Counter<u64>,
    esp_drops: Counter<u64>,
    path_events: Counter<u64>,
    tenant_drops: Counter<u64>,
    overload: Counter<f64>,
    gate_drops: Counter<u64>,
    refusals: Counter<u64>,
    restarts: Counter<u64>,
    half_open: Gauge<u64>,
    outer_queues: Gauge<u64>,
    outer_packets: Counter<u64>,
    setup_time: Histogram<f64>,
    commit_time: Histogram<f64>,
    commit_records: Histogram<u64>,
    fenced: Counter<u64>,
    checkpoint_octets: Counter<u64>,
    checkpoint_left_out: Counter<u64>,
    spent: Counter<u64>,
    unserved: Counter<u64>,
    cut_off: Counter<u64>,
    redirects: Counter<u64>,
    renewed: Counter<u64>,
    exposed: Counter<u64>,
    timer_lag: Histogram<f64>,
}

impl Metrics {
    /// Registers the instruments with `meter`.
    #[must_use]
    pub fn new(meter: &Meter, tenants: TenantLabels) -> Self {
        let seconds = |name, text, bounds: &[f64]| {
            meter
                .f64_histogram(name)
                .with_unit("s")
                .with_description(text)
                .with_boundaries(bounds.to_vec())
                .build()
        };
        Self {
            tenants,
            sessions: meter
                .i64_up_down_counter("vpn.sessions")
                .with_description("Established IKE SAs")
                .build(),
            logins: meter
                .u64_counter("vpn.logins")
                .with_description("Login attempts by outcome")
                .build(),
            rekeys: meter
                .u64_counter("vpn.rekeys")
                .with_description("Rekeys by kind")
                .build(),
            resources: meter
                .u64_counter("vpn.child.resources")
                .with_description(
                    "Child SAs beside others with the same selectors (RFC 9611), by what became of them",
                )
                .build(),
            octets: meter
                .u64_counter("vpn.esp.octets")
                .with_unit("By")
                .with_description("Octets of inner packets by direction")
                .build(),
            packets: meter
                .u64_counter("vpn.esp.packets")
                .with_description("Inner packets by direction")
                .build(),
            esp_drops: meter
                .u64_counter("vpn.esp.drops")
                .with_description("ESP packets by reason")
                .build(),
            path_events: meter
                .u64_counter("vpn.path.events")
                .with_description("Path MTUs learned, messages about them ignored, packets cut, fragments refused: by kind")
                .build(),
            tenant_drops: meter
                .u64_counter("vpn.esp.tenant_drops")
                .with_description("ESP packets of a tenant's SAs, and inner packets for them, by reason")
                .build(),
            overload: meter
                .f64_counter("vpn.esp.overload")
                .with_unit("s")
                .with_description("Time in which more ESP arrived than a worker could carry, by worker")
                .build(),
            gate_drops: meter
                .u64_counter("vpn.ike.gate_drops")
                .with_description("IKE datagrams dropped before any allocation, by reason")
                .build(),
            refusals: meter
                .u64_counter("vpn.mailbox_refusals")
                .with_description("Messages that a full mailbox refused, by actor")
                .build(),
            restarts: meter
                .u64_counter("vpn.actor_restarts")
                .with_description("Actors made again after a panic, by kind")
                .build(),
            outer_queues: meter
                .u64_gauge("vpn.outer.queues")
                .with_description("Queues of an interface served by AF_XDP, by the way that ESP goes; 0: sockets do it")
                .build(),
            outer_packets: meter
                .u64_counter("vpn.outer.xdp_packets")
                .with_description(
                    "ESP packets of AF_XDP: in, out, left to the sockets, lost because its ring was full",
                )
                .build(),
            half_open: meter
                .u64_gauge("vpn.ike.half_open")
                .with_description("IKE SAs that are not authenticated")
                .build(),
            setup_time: seconds(
                "vpn.login.duration",
                "From the first IKE_SA_INIT request to the CHILD SA",
                &[
                    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
                ],
            ),
            commit_time: seconds(
                "vpn.store.commit.duration",
                "One group commit of SA records",
                &[
                    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0,
                ],
            ),
            commit_records: meter
                .u64_histogram("vpn.store.commit.records")
                .with_description("Records in one group commit")
                .with_boundaries(vec![1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0])
                .build(),
            checkpoint_octets: meter
                .u64_counter("vpn.store.checkpoint.octets")
                .with_unit("By")
                .with_description("Octets of checkpoints that were queued for the store")
                .build(),
            checkpoint_left_out: meter
                .u64_counter("vpn.store.checkpoint.left_out")
                .with_description("Marks of SAs that had no room in a checkpoint")
                .build(),
            fenced: meter
                .u64_counter("vpn.store.fenced")
                .with_description("Group commits that were refused because another node owns the records")
                .build(),
            spent: meter
                .u64_counter("vpn.esp.spent")
                .with_description("Child SAs that had to be replaced before they could send again, by reason")
                .build(),
            unserved: meter
                .u64_counter("vpn.ike.unserved")
                .with_description(
                    "IKE datagrams dropped because their service address is not served, by standing",
                )
                .build(),
            cut_off: meter
                .u64_counter("vpn.login.cut_off")
                .with_description("Half-open IKE SAs that did not finish before their slot was handed over")
                .build(),
            redirects: meter
                .u64_counter("vpn.ike.redirects")
                .with_description("Clients that were sent to another gateway: at IKE_SA_INIT (init) or out of a session")
                .build(),
            renewed: meter
                .u64_counter("vpn.esp.renewed")
                .with_description("Child SAs that are replaced because they carried packets when their slot was taken over")
                .build(),
            exposed: meter
                .u64_counter("vpn.esp.replay_exposed")
                .with_description(
                    "Sequence numbers between a checkpoint and a takeover that could have been replayed once, at most",
                )
                .build(),
            timer_lag: seconds(
                "vpn.timer.lag",
                "How late deadlines of IKE SAs are delivered",
                &[0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0],
            ),
        }
    }

    /// A session of `tenant` came up (+1) or went down (-1).
    pub fn session(&self, tenant: &str, change: i64) {
        self.sessions.add(change, &[self.tenants.label(tenant)]);
    }

    /// A login attempt ended. `outcome` is one of a small fixed set.
    pub fn login(&self, tenant: &str, outcome: &'static str, seconds: f64) {
        let labels = [self.tenants.label(tenant), KeyValue::new("outcome", outcome)];
        self.logins.add(1, &labels);
        self.setup_time.record(seconds, &labels);
    }

    /// An SA was rekeyed: `ike` or `child`.
    pub fn rekey(&self, tenant: &str, kind: &'static str) {
        self.rekeys
            .add(1, &[self.tenants.label(tenant), KeyValue::new("kind", kind)]);
    }

    /// A child SA beside others with the same selectors was `made` or `refused`.
    pub fn resource(&self, tenant: &str, what: &'static str) {
        self.resources
            .add(1, &[self.tenants.label(tenant), KeyValue::new("what", what)]);
    }

    /// Traffic of one SA since the last report: octets and packets of inner packets.
    pub fn traffic(&self, tenant: &str, direction: &'static str, octets: u64, packets: u64) {
        let labels = [self.tenants.label(tenant), KeyValue::new("direction", direction)];
        self.octets.add(octets, &labels);
        self.packets.add(packets, &labels);
    }

    /// ESP packets that a worker dropped since its last report.
    pub fn esp_drop(&self, reason: &'static str, count: u64) {
        self.esp_drops.add(count, &[KeyValue::new("reason", reason)]);
    }

    /// How many queues of an interface AF_XDP serves, and how.
    pub fn outer_queues(&self, interface: &str, way: &'static str, queues: u64) {
        let labels = [
            KeyValue::new("interface", interface.to_owned()),
            KeyValue::new("way", way),
        ];
        self.outer_queues.record(queues, &labels);
    }

    /// ESP packets of AF_XDP since the last report.
    pub fn outer_packets(&self, what: &'static str, count: u64) {
        self.outer_packets.add(count, &[KeyValue::new("what", what)]);
    }

    /// What happened about path MTUs and fragments since a worker's last report.
    pub fn path_event(&self, kind: &'static str, count: u64) {
        self.path_events.add(count, &[KeyValue::new("kind", kind)]);
    }

    /// Packets of a tenant that a worker dropped since its last report. As many series as tenants have labels, times reasons.
    pub fn tenant_drop(&self, tenant: &str, reason: &'static str, count: u64) {
        let labels = [self.tenants.label(tenant), KeyValue::new("reason", reason)];
        self.tenant_drops.add(count, &labels);
    }

    /// Time in which a worker was overloaded since its last report.
    pub fn overload(&self, worker: u8, seconds: f64) {
        self.overload
            .add(seconds, &[KeyValue::new("worker", i64::from(worker))]);
    }

    /// An IKE datagram that the gate dropped.
    pub fn gate_drop(&self, reason: &'static str) {
        self.gate_drops.add(1, &[KeyValue::new("reason", reason)]);
    }

    /// A message that a full mailbox refused.
    pub fn refusal(&self, actor: &'static str) {
        self.refusals.add(1, &[KeyValue::new("actor", actor)]);
    }

    /// An actor that was made again after a panic.
    pub fn restart(&self, actor: &'static str) {
        self.restarts.add(1, &[KeyValue::new("actor", actor)]);
    }

    /// How many IKE SAs are not authenticated.
    pub fn half_open(&self, count: u64) {
        self.half_open.record(count, &[]);
    }

    /// One group commit.
    pub fn commit(&self, seconds: f64, records: u64) {
        self.commit_time.record(seconds, &[]);
        self.commit_records.record(records, &[]);
    }

    /// A checkpoint was queued.
    pub fn checkpoint(&self, round: Round) {
        if round != Round::default() {
            self.checkpoint_octets.add(round.octets as u64, &[]);
            self.checkpoint_left_out.add(round.left_out as u64, &[]);
        }
    }

    /// A group commit was refused: another node owns the records.
    pub fn fenced(&self) {
        self.fenced.add(1, &[]);
    }

    /// A child SA had to be replaced before it could send again: `restored` or `numbers`.
    pub fn spent(&self, reason: &'static str) {
        self.spent.add(1, &[KeyValue::new("reason", reason)]);
    }

    /// An IKE datagram came to a service address that is not served here.
    pub fn unserved(&self, standing: &'static str) {
        self.unserved.add(1, &[KeyValue::new("standing", standing)]);
    }

    /// A child SA is being replaced because it was busy when its slot was taken over.
    pub fn renewed(&self) {
        self.renewed.add(1, &[]);
    }

    /// What the last owner of a child SA may have accepted and this one has not seen.
    pub fn exposed(&self, numbers: u64) {
        self.exposed.add(numbers, &[]);
    }

    /// Logins that did not finish before their slot was handed over.
    pub fn cut_off(&self, count: u32) {
        self.cut_off.add(count.into(), &[]);
    }

    /// A client was sent to another gateway: `init` or `session`.
    pub fn redirected(&self, stage: &'static str) {
        self.redirects.add(1, &[KeyValue::new("stage", stage)]);
    }

    /// How late a deadline was delivered.
    pub fn timer_lag(&self, seconds: f64) {
        self.timer_lag.record(seconds, &[]);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn tenants_beyond_the_bound_share_one_label() {
        let labels = TenantLabels::new(2);
        let text = |tenant| labels.label(tenant).value.as_str().into_owned();
        assert_eq!(text("a"), "a");
        assert_eq!(text("b"), "b");
        assert_eq!(text("c"), "other");
        assert_eq!(text("a"), "a", "the first ones keep theirs");
    }
}
