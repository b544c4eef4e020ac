//! A user that stays: logs in, keeps its tunnel, and logs in again when it has lost it, which is counted. Performs no I/O.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use crypto::Random;
use esp::DropCounters;
use serde_json::json;

use crate::inner::{self, Stamp};
use crate::monitor::Monitor;
use crate::plan::Plan;
use crate::record::UserRecord;
use crate::user::{Datagram, News, Port, State, User};

/// Wait before the first new login, and the most of all; doubled at each failure.
const RETRY: Duration = Duration::from_millis(500);
const MAX_RETRY: Duration = Duration::from_secs(16);
/// An IKE SA without a child SA is given up after this.
const CHILDLESS: Duration = Duration::from_secs(10);
/// A sender that is later than so many packets leaves them out.
const CATCH_UP: u32 = 2;

/// The packets of a user that is in the sample.
#[derive(Clone, Copy, Debug)]
struct Sample {
    flow: usize,
    /// When the next packet is due; none before the first login and after the end.
    next_at: Option<Instant>,
}

/// One user.
pub struct Seat {
    number: u32,
    plan: Arc<Plan>,
    local: IpAddr,
    random: fn(u32) -> Box<dyn Random>,
    user: Option<User>,
    /// When to log in next.
    login_at: Option<Instant>,
    /// Failures since the last time that it was up.
    failures: u32,
    /// Whether the present connection has been up.
    up: bool,
    /// Whether there was an outcome of the first login.
    settled: bool,
    closing: bool,
    childless_since: Option<Instant>,
    sample: Option<Sample>,
    /// Of earlier connections, and what the present one told.
    record: UserRecord,
    drops: DropCounters,
}

impl Seat {
    /// A user that logs in at `at` from the address `local`; with a flow, it sends packets from then on.
    #[must_use]
    pub fn new(
        at: Instant,
        plan: Arc<Plan>,
        number: u32,
        local: IpAddr,
        flow: Option<usize>,
        random: fn(u32) -> Box<dyn Random>,
    ) -> Self {
        let record = UserRecord {
            user: number,
            gateway: plan.gateway.to_string(),
            ..UserRecord::default()
        };
        Self {
            number,
            plan,
            local,
            random,
            user: None,
            login_at: Some(at),
            failures: 0,
            up: false,
            settled: false,
            closing: false,
            childless_since: None,
            sample: flow.map(|flow| Sample { flow, next_at: None }),
            record,
            drops: DropCounters::default(),
        }
    }

    /// Whether the first login has succeeded or failed.
    #[must_use]
    pub fn settled(&self) -> bool {
        self.settled
    }

    /// Whether nothing is left to do after [`Seat::close`].
    #[must_use]
    pub fn closed(&self) -> bool {
        self.user
            .as_ref()
            .is_none_or(|user| !matches!(user.state(), State::Connecting | State::Up))
    }

    /// What there is to tell.
    #[must_use]
    pub fn record(&self) -> UserRecord {
        let mut record = self.record.clone();
        record.up = self.up;
        if let Some(user) = &self.user {
            add_counters(&mut record, &user.counters());
        }
        record
    }

    /// ESP packets that were dropped.
    #[must_use]
    pub fn drops(&self) -> DropCounters {
        let mut drops = self.drops.clone();
        if let Some(user) = &self.user {
            drops.merge(user.drops());
        }
        drops
    }

    /// When [`Seat::turn`] wants to be called.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        let packet = self.sample.and_then(|sample| sample.next_at);
        let childless = self.childless_since.map(|since| since + CHILDLESS);
        [
            self.login_at,
            self.user.as_ref().and_then(User::deadline),
            packet,
            childless,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// The next datagram to send.
    pub fn poll(&mut self) -> Option<Datagram> {
        self.user.as_mut()?.poll()
    }

    /// A datagram came from a port of the gateway.
    pub fn datagram(&mut self, now: Instant, port: Port, bytes: Vec<u8>, monitor: &mut Monitor) {
        if let Some(user) = &mut self.user {
            user.datagram(now, port, bytes);
        }
        self.look(now, monitor);
    }

    /// Does whatever is due.
    ///
    /// # Errors
    /// An identity or a credential that cannot be made.
    pub fn turn(&mut self, now: Instant, monitor: &mut Monitor) -> Result<()> {
        if self.login_at.take_if(|at| *at <= now).is_some() {
            self.put_away();
            let mut user = User::start(now, &self.plan, self.number, self.local, self.random)?;
            if self.sample.is_some() {
                user.keep_inner();
            }
            self.user = Some(user);
        }
        if let Some(user) = &mut self.user
            && user.deadline().is_some_and(|at| at <= now)
        {
            user.timeout(now);
        }
        self.send_packets(now, monitor);
        self.look(now, monitor);
        Ok(())
    }

    /// Sends no more packets.
    pub fn stop(&mut self) {
        if let Some(sample) = &mut self.sample {
            sample.next_at = None;
        }
        self.login_at = None;
        self.closing = true;
    }

    /// Logs out.
    pub fn close(&mut self, now: Instant) {
        self.stop();
        if let Some(user) = &mut self.user {
            user.close(now);
        }
    }

    fn send_packets(&mut self, now: Instant, monitor: &mut Monitor) {
        let Some(traffic) = self.plan.traffic else { return };
        let Some(sample) = &mut self.sample else { return };
        let Some(due) = sample.next_at.filter(|due| *due <= now) else {
            return;
        };
        let late = now.saturating_duration_since(due);
        // Left-out packets are not sent later in a burst: an application would not do that either.
        let steps = match late > traffic.interval * CATCH_UP {
            true => (late.as_nanos() / traffic.interval.as_nanos().max(1)).min(u32::MAX.into()) as u32,
            false => 0,
        };
        sample.next_at = Some(due + traffic.interval * steps.saturating_add(1));
        let at = monitor.micros(now);
        let Some(flow) = monitor.flow(sample.flow) else {
            return;
        };
        let stamp = Stamp {
            user: self.number,
            number: flow.sent(at),
            sent_at: at,
        };
        let sent = match (&mut self.user, self.up) {
            (Some(user), true) => user.source().is_some_and(|source| {
                user.send_inner(now, traffic.size, |packet| {
                    inner::write_request(packet, &traffic, source, stamp);
                    Some(packet.len())
                })
            }),
            (_, false) | (None, _) => false,
        };
        if !sent {
            flow.unsent();
        }
    }

    /// Takes in what the user has to say.
    fn look(&mut self, now: Instant, monitor: &mut Monitor) {
        self.take_packets(now, monitor);
        self.take_news(now, monitor);
        let Some(user) = &self.user else { return };
        match (user.state().clone(), self.up) {
            (State::Up, false) => self.came_up(now, monitor),
            (State::Up, true) => self.check_child(now, monitor),
            (State::Failed(fault), _) if !self.closing => {
                self.settled = true;
                self.record.failed_logins += 1;
                monitor.event(
                    now,
                    "login_failed",
                    Some(self.number),
                    &json!({ "kind": fault.kind, "detail": fault.detail }),
                );
                self.put_away();
                self.try_again(now);
            }
            (State::Lost(fault), _) if !self.closing => {
                self.lose(now, monitor, &format!("{}: {}", fault.kind, fault.detail));
            }
            (State::Connecting | State::Closed | State::Failed(_) | State::Lost(_), _) => {}
        }
    }

    fn came_up(&mut self, now: Instant, monitor: &mut Monitor) {
        (self.up, self.settled, self.failures) = (true, true, 0);
        let took = self.user.as_ref().and_then(User::login_time).unwrap_or_default();
        monitor.event(
            now,
            "up",
            Some(self.number),
            &json!({ "login_ms": took.as_secs_f64() * 1000.0 }),
        );
        if let (Some(sample), Some(traffic), false) = (&mut self.sample, self.plan.traffic, self.closing) {
            // Spread over the interval, so that users do not send in step.
            let place = f64::from(self.number.wrapping_mul(0x9e37_79b1)) / f64::from(u32::MAX);
            sample
                .next_at
                .get_or_insert(now + traffic.interval.mul_f64(place));
        }
    }

    fn check_child(&mut self, now: Instant, monitor: &mut Monitor) {
        if self.user.as_ref().is_none_or(User::has_child) {
            self.childless_since = None;
            return;
        }
        let since = *self.childless_since.get_or_insert(now);
        if now.saturating_duration_since(since) >= CHILDLESS && !self.closing {
            self.lose(now, monitor, "no_child: none was made in time");
        }
    }

    fn lose(&mut self, now: Instant, monitor: &mut Monitor, reason: &str) {
        self.record.new_logins += 1;
        monitor.relogin(now, self.number, reason);
        (self.up, self.settled) = (false, true);
        self.childless_since = None;
        self.put_away();
        self.try_again(now);
    }

    fn try_again(&mut self, now: Instant) {
        let wait = (RETRY * 2u32.saturating_pow(self.failures.min(10))).min(MAX_RETRY);
        self.failures += 1;
        let share = f64::from((self.random)(self.number).u32()) / f64::from(u32::MAX);
        self.login_at = Some(now + wait.mul_f64(0.5 + share));
    }

    /// Adds up what an ended connection has counted.
    fn put_away(&mut self) {
        if let Some(user) = self.user.take() {
            add_counters(&mut self.record, &user.counters());
            self.drops.merge(user.drops());
        }
    }

    fn take_packets(&mut self, now: Instant, monitor: &mut Monitor) {
        let (Some(user), Some(sample), Some(traffic)) = (&mut self.user, self.sample, self.plan.traffic)
        else {
            return;
        };
        let source = user.source();
        while let Some(packet) = user.take_inner() {
            let stamp = source.and_then(|source| inner::read_answer(&packet, &traffic, source));
            let number = stamp
                .filter(|stamp| stamp.user == self.number)
                .map(|stamp| stamp.number);
            monitor.received(now, sample.flow, number);
        }
    }

    fn take_news(&mut self, now: Instant, monitor: &mut Monitor) {
        while let Some(news) = self.user.as_mut().and_then(User::take_news) {
            let (kind, detail) = match news {
                News::ChildRekeyed => ("child_rekeyed", None),
                News::IkeRekeyed => ("ike_rekeyed", None),
                News::RekeyFailed(detail) => {
                    self.record.rekey_failures += 1;
                    ("rekey_failed", Some(detail))
                }
                News::ChildDeleted => {
                    self.record.deletes += 1;
                    ("child_deleted", None)
                }
                News::Odd(detail) => ("odd", Some(detail)),
            };
            let more = detail.map_or(json!({}), |detail| json!({ "detail": detail }));
            monitor.event(now, kind, Some(self.number), &more);
        }
    }
}

fn add_counters(record: &mut UserRecord, counters: &ike::Counters) {
    record.child_rekeys += counters.child_rekeys;
    record.ike_rekeys += counters.ike_rekeys;
    record.retransmits += counters.retransmits_out;
    record.liveness_checks += counters.liveness_checks;
}
