//! The supervisor of one worker thread: starts it, hands its news on, counts its traffic, starts it again.
//!
//! The thread carries the packets and knows nothing of actors; its sockets and queues stay with the holder while it
//! is started again.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use actix::{Actor, AsyncContext as _, Context, Handler, Message};
use dataplane::{SaStats, WorkerCommand, WorkerCounters, WorkerEvent};

use super::{ChildNews, Datagram, Fault, Forwarded, Gone, Reinstall, Who, fail, panicked};
use crate::node::Node;
use crate::session::{Totals, millis_since_1970};

/// How often the worker's own counters are read.
const COUNTERS_EVERY: Duration = Duration::from_secs(1);
/// Wait before a worker that did not start is started again.
const RETRY: Duration = Duration::from_millis(200);

/// Something that a worker thread says.
#[derive(Message, Debug, Clone)]
#[rtype(result = "()")]
pub struct News(pub WorkerEvent);

/// The worker's own counters.
#[derive(Message)]
#[rtype(result = "()")]
struct Counters(WorkerCounters);

/// Supervises one worker thread.
pub struct EspWorker {
    node: Arc<Node>,
    index: u8,
    last: WorkerCounters,
}

impl EspWorker {
    /// Supervised by Root.
    #[must_use]
    pub fn new(node: Arc<Node>, index: u8) -> Self {
        Self {
            node,
            index,
            last: WorkerCounters::default(),
        }
    }

    fn start_thread(&mut self, context: &mut Context<Self>) {
        match self.node.start_worker(self.index) {
            Ok(()) => {
                self.last = WorkerCounters::default();
                for child in self.node.children.iter() {
                    if self.node.serving_worker(*child.key()) == self.index
                        && let Some(addr) = child.addr.load_full()
                    {
                        // One for each SA of the worker: bounded by the limit of sessions.
                        addr.do_send(Reinstall);
                    }
                }
            }
            Err(error) => {
                tracing::error!(worker = self.index, %error, "a worker does not start, trying again");
                context.run_later(RETRY, Self::start_thread);
            }
        }
    }

    /// What a tenant's domain has lost since the last report.
    fn account_drops(&self, domain: u32, drops: &esp::DropCounters) {
        let last = self.last.domains.get(&domain);
        if last == Some(drops) {
            return;
        }
        let Some(tenant) = self.node.domains.tenant_of(domain) else {
            return;
        };
        let share = self.node.tenants.find(&tenant);
        for (reason, count) in drops.iter() {
            // A domain that is attached again counts from zero.
            let before = last.map_or(0, |last| last.get(reason));
            let growth = if count >= before { count - before } else { count };
            if growth > 0 {
                self.node.metrics.tenant_drop(&tenant, reason.name(), growth);
                if let Some(share) = &share {
                    share.dropped(reason.name(), growth);
                }
            }
        }
    }

    fn account(&self, stats: &SaStats, now: SystemTime) {
        let Some(child) = self
            .node
            .children
            .get(&stats.spi_in)
            .map(|child| Arc::clone(&child))
        else {
            return;
        };
        // A restarted worker counts from zero; the child's totals are what all of them have counted.
        let Totals {
            packets_in,
            octets_in,
            packets_out,
            octets_out,
            drops,
        } = &child.totals;
        let base = &child.base;
        let grown =
            |total: &std::sync::atomic::AtomicU64, base: &std::sync::atomic::AtomicU64, value: u64| {
                let last = base.swap(value, Ordering::AcqRel);
                let growth = if value >= last { value - last } else { value };
                total.fetch_add(growth, Ordering::AcqRel);
                growth
            };
        let received = (
            grown(octets_in, &base.octets_in, stats.octets_in),
            grown(packets_in, &base.packets_in, stats.packets_in),
        );
        let sent = (
            grown(octets_out, &base.octets_out, stats.octets_out),
            grown(packets_out, &base.packets_out, stats.packets_out),
        );
        for ((total, base), (_, value)) in drops.iter().zip(&base.drops).zip(stats.drops.named()) {
            grown(total, base, value);
        }
        self.node
            .metrics
            .traffic(&child.tenant, "in", received.0, received.1);
        self.node.metrics.traffic(&child.tenant, "out", sent.0, sent.1);
        if !child.counted.load(Ordering::Acquire)
            && let Some(numbers) = child.exposed(stats.highest_in_seq, stats.packets_in)
        {
            self.node.metrics.exposed(numbers);
        }
        let path = stats.path_mtu.zip(stats.inner_mtu);
        let path = path.map_or(0, |(outer, inner)| u32::from(outer) << 16 | u32::from(inner));
        child.path.store(path, Ordering::Relaxed);
        child.highest_in.fetch_max(stats.highest_in_seq, Ordering::AcqRel);
        if let Some(seen) = stats.last_in.and_then(|ago| now.checked_sub(ago)) {
            child
                .last_in_millis
                .fetch_max(millis_since_1970(seen), Ordering::AcqRel);
        }
    }
}

impl Actor for EspWorker {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        let slot = self.node.worker(self.index);
        // The successor of an actor that panicked finds the thread at work.
        if slot.is_none_or(|slot| !slot.runs()) {
            self.start_thread(context);
        }
        context.run_interval(COUNTERS_EVERY, |this, context| {
            let addr = context.address();
            this.node.command(
                this.index,
                WorkerCommand::ReadCounters(Box::new(move |counters| addr.do_send(Counters(counters)))),
            );
        });
    }

    fn stopped(&mut self, _: &mut Context<Self>) {
        self.node.tell_root(Gone {
            who: Who::EspWorker(self.index),
            panicked: panicked(),
        });
    }
}

impl Handler<News> for EspWorker {
    type Result = ();

    fn handle(&mut self, News(event): News, context: &mut Context<Self>) {
        match &event {
            WorkerEvent::CeilingNeeded { spi_in, .. }
            | WorkerEvent::FirstInbound { spi_in, .. }
            | WorkerEvent::PeerMoved { spi_in, .. }
            | WorkerEvent::SoftLimit { spi_in, .. }
            | WorkerEvent::HardLimit { spi_in, .. }
            | WorkerEvent::InstallFailed { spi_in, .. }
            | WorkerEvent::Idle { spi_in, .. } => {
                let addr = self
                    .node
                    .children
                    .get(spi_in)
                    .and_then(|child| child.addr.load_full());
                if addr.is_some_and(|addr| addr.try_send(ChildNews(event)).is_err()) {
                    self.node.metrics.refusal("child_sa");
                }
            }
            WorkerEvent::Died { worker, message } => {
                tracing::error!(worker, message, "a worker died and is started again");
                self.node.metrics.restart("worker_thread");
                if let Some(slot) = self.node.worker(self.index) {
                    slot.restarts.fetch_add(1, Ordering::Relaxed);
                }
                self.start_thread(context);
            }
            WorkerEvent::Stats(all) => {
                let now = SystemTime::now();
                for stats in all {
                    self.account(stats, now);
                }
            }
            WorkerEvent::StrayIke { local, remote, bytes }
            | WorkerEvent::ForwardedIke { local, remote, bytes } => {
                let datagram = Datagram {
                    local: *local,
                    remote: *remote,
                    bytes: bytes.clone(),
                };
                let is_forwarded = matches!(event, WorkerEvent::ForwardedIke { .. });
                let taken = self.node.listener.load_full().is_some_and(|addr| {
                    if is_forwarded {
                        addr.try_send(Forwarded(datagram)).is_ok()
                    } else {
                        addr.try_send(datagram).is_ok()
                    }
                });
                if !taken {
                    self.node.metrics.refusal("listener");
                }
            }
            WorkerEvent::OuterLost { interface } => {
                tracing::warn!(
                    interface,
                    "the interface of AF_XDP is gone: should it come back, its ESP goes by sockets until the next start"
                );
                for report in self.node.holder.outer() {
                    if report.interface == *interface {
                        self.node.metrics.outer_queues(interface, report.way.name(), 0);
                    }
                }
            }
            WorkerEvent::DeviceLost { domain, .. } => self.node.domains.lost(*domain),
            // Nobody is called for traffic without an SA: clients open their tunnels themselves.
            WorkerEvent::Acquire { .. } => {}
        }
    }
}

impl Handler<Counters> for EspWorker {
    type Result = ();

    fn handle(&mut self, Counters(counters): Counters, _: &mut Context<Self>) {
        for (reason, count) in counters.drops.iter() {
            let growth = count.saturating_sub(self.last.drops.get(reason));
            if growth > 0 {
                self.node.metrics.esp_drop(reason.name(), growth);
            }
        }
        for (what, now, before) in [
            ("in", counters.fast_in, self.last.fast_in),
            ("out", counters.fast_out, self.last.fast_out),
            ("left", counters.fast_left, self.last.fast_left),
            ("lost", counters.fast_lost, self.last.fast_lost),
        ] {
            let growth = now.saturating_sub(before);
            if growth > 0 {
                self.node.metrics.outer_packets(what, growth);
            }
        }
        for (event, count) in counters.paths.iter() {
            let growth = count.saturating_sub(self.last.paths.get(event));
            if growth > 0 {
                self.node.metrics.path_event(event.name(), growth);
                self.node.count_path(event, growth);
            }
        }
        for (domain, drops) in &counters.domains {
            self.account_drops(*domain, drops);
        }
        let overload = counters.overload_nanos.saturating_sub(self.last.overload_nanos);
        if overload > 0 {
            self.node.metrics.overload(self.index, overload as f64 / 1e9);
        }
        if let Some(slot) = self.node.worker(self.index) {
            slot.publish(&counters);
        }
        if self.index == 0 {
            self.node
                .metrics
                .half_open(self.node.half_open.load(Ordering::Relaxed).into());
        }
        self.last = counters;
    }
}

impl Handler<Fault> for EspWorker {
    type Result = ();

    fn handle(&mut self, _: Fault, _: &mut Context<Self>) {
        fail()
    }
}
