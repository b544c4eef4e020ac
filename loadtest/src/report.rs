//! What a test found: counted, and as table or JSON.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use hdrhistogram::{CreationError, Histogram};
use serde::{Deserialize, Serialize};

use crate::user::{State, Summary};

/// Kinds of faults that are told apart; further ones are counted together.
const MAX_FAULTS: usize = 32;
/// Largest time that a histogram holds, in microseconds: ten minutes.
const MAX_MICROS: u64 = 600_000_000;

/// Collects while the test runs.
#[derive(Debug)]
pub struct Collector {
    login: Histogram<u64>,
    round_trip: Histogram<u64>,
    silence: Histogram<u64>,
    report: Report,
}

/// The result of a test.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Users that were to log in.
    pub users: u32,
    /// Users that were logged in, at least for some time.
    pub logged_in: u32,
    /// Users that did not get in, lost their connection, or had traffic and not one answer.
    pub failed: u32,
    /// Seconds from the first message to the last login.
    pub login_secs: f64,
    /// Logins per second over that time.
    pub logins_per_sec: f64,
    /// Latency of a login in milliseconds.
    pub login_ms: Quantiles,
    /// IKE requests that had to be sent again.
    pub ike_retransmits: u64,
    /// Child SAs that were replaced.
    pub rekeys: u64,
    /// Traffic; absent if there was none.
    pub traffic: Option<TrafficReport>,
    /// Why users failed: kind, count, and the words of one of them.
    pub faults: BTreeMap<String, FaultReport>,
    /// ESP packets that users dropped, by reason.
    pub drops: BTreeMap<&'static str, u64>,
}

/// Users that failed in one way.
#[derive(Clone, Debug, Default, Serialize)]
pub struct FaultReport {
    /// How many.
    pub users: u32,
    /// One of them.
    pub first_user: u32,
    /// Its reason in full.
    pub example: String,
}

/// Quantiles of a time; in the unit that the field's name says.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Quantiles {
    /// Smallest.
    pub min: f64,
    /// Median.
    pub p50: f64,
    /// 90 % are at most this.
    pub p90: f64,
    /// 95 % are at most this.
    pub p95: f64,
    /// 99 % are at most this.
    pub p99: f64,
    /// Largest.
    pub max: f64,
    /// Mean.
    pub mean: f64,
}

/// What became of the echo requests of all users.
#[derive(Clone, Debug, Default, Serialize)]
pub struct TrafficReport {
    /// Requests sent.
    pub sent: u64,
    /// Answered.
    pub received: u64,
    /// Not answered.
    pub lost: u64,
    /// The same in percent.
    pub loss_percent: f64,
    /// Answered more than once.
    pub duplicated: u64,
    /// Answered out of order.
    pub reordered: u64,
    /// Packets that were no answer to the user that received them.
    pub foreign: u64,
    /// Users with at least one loss.
    pub users_with_loss: u32,
    /// Users without any answer.
    pub users_without_answer: u32,
    /// Round trip in milliseconds.
    pub round_trip_ms: Quantiles,
    /// Longest time without an answer, over the users, in milliseconds.
    pub longest_silence_ms: Quantiles,
}

pub(crate) fn histogram() -> Result<Histogram<u64>, CreationError> {
    Histogram::new_with_bounds(1, MAX_MICROS, 3)
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros())
        .unwrap_or(u64::MAX)
        .clamp(1, MAX_MICROS)
}

impl Collector {
    /// An empty one.
    ///
    /// # Errors
    /// If the library refuses the histograms' bounds.
    pub fn new() -> Result<Self, CreationError> {
        let (login, round_trip, silence) = (histogram()?, histogram()?, histogram()?);
        Ok(Self {
            login,
            round_trip,
            silence,
            report: Report::default(),
        })
    }

    /// Counts a login.
    pub fn login(&mut self, latency: Duration) {
        self.login.saturating_record(micros(latency));
    }

    /// Counts round trips.
    pub fn round_trips(&mut self, times: &[Duration]) {
        for time in times {
            self.round_trip.saturating_record(micros(*time));
        }
    }

    /// Counts a user that has ended.
    pub fn user(&mut self, summary: &Summary) {
        let report = &mut self.report;
        report.users += 1;
        report.logged_in += u32::from(summary.login.is_some());
        report.rekeys += summary.rekeys;
        report.ike_retransmits += summary.retransmits;
        for (reason, packets) in summary.drops.iter().filter(|(_, packets)| *packets > 0) {
            *report.drops.entry(reason.name()).or_default() += packets;
        }
        let mut fault = match &summary.state {
            State::Failed(fault) | State::Lost(fault) => Some((fault.kind, fault.detail.clone())),
            State::Connecting | State::Up | State::Closed => None,
        };
        if let Some(counts) = &summary.counts {
            let traffic = report.traffic.get_or_insert_default();
            traffic.sent += counts.sent;
            traffic.received += counts.received;
            traffic.duplicated += counts.duplicated;
            traffic.reordered += counts.reordered;
            traffic.foreign += counts.foreign;
            traffic.users_with_loss += u32::from(counts.received < counts.sent);
            if counts.sent > 0 {
                self.silence.saturating_record(micros(counts.longest_silence));
                if counts.received == 0 {
                    traffic.users_without_answer += 1;
                    fault = fault.or(Some((
                        "no_answer",
                        format!("{} requests, no answer", counts.sent),
                    )));
                }
            }
        }
        if let Some((kind, detail)) = fault {
            report.failed += 1;
            let known = report.faults.len() < MAX_FAULTS || report.faults.contains_key(kind);
            let entry = report
                .faults
                .entry(if known { kind } else { "other" }.to_owned())
                .or_default();
            if entry.users == 0 {
                (entry.first_user, entry.example) = (summary.number, detail);
            }
            entry.users += 1;
        }
    }

    /// The report, once every user has been counted. `login_time` is that from the first message to the last login.
    #[must_use]
    pub fn finish(mut self, login_time: Duration) -> Report {
        let report = &mut self.report;
        report.login_ms = Quantiles::of(&self.login);
        report.login_secs = login_time.as_secs_f64();
        if report.login_secs > 0.0 {
            report.logins_per_sec = f64::from(report.logged_in) / report.login_secs;
        }
        if let Some(traffic) = &mut report.traffic {
            traffic.lost = traffic.sent.saturating_sub(traffic.received);
            if traffic.sent > 0 {
                traffic.loss_percent = 100.0 * traffic.lost as f64 / traffic.sent as f64;
            }
            traffic.round_trip_ms = Quantiles::of(&self.round_trip);
            traffic.longest_silence_ms = Quantiles::of(&self.silence);
        }
        self.report
    }
}

impl Quantiles {
    /// Of exact values, which are sorted by that. All 0 if there are none.
    #[must_use]
    pub fn of_values(values: &mut [f64]) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |quantile: f64| {
            let rank = (quantile * values.len() as f64).ceil() as usize;
            values.get(rank.saturating_sub(1)).copied().unwrap_or_default()
        };
        Self {
            min: at(0.0),
            p50: at(0.5),
            p90: at(0.9),
            p95: at(0.95),
            p99: at(0.99),
            max: at(1.0),
            mean: values.iter().sum::<f64>() / values.len().max(1) as f64,
        }
    }

    pub(crate) fn of(histogram: &Histogram<u64>) -> Self {
        if histogram.is_empty() {
            return Self::default();
        }
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1000.0;
        Self {
            min: histogram.min() as f64 / 1000.0,
            p50: at(0.5),
            p90: at(0.9),
            p95: at(0.95),
            p99: at(0.99),
            max: histogram.max() as f64 / 1000.0,
            mean: histogram.mean() / 1000.0,
        }
    }
}

impl Report {
    /// Whether every user was served, and no more lost than `max_loss` percent.
    #[must_use]
    pub fn is_success(&self, max_loss: f64) -> bool {
        self.failed == 0
            && self
                .traffic
                .as_ref()
                .is_none_or(|traffic| traffic.loss_percent <= max_loss)
    }
}

impl fmt::Display for Quantiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "min {:.1}  p50 {:.1}  p90 {:.1}  p95 {:.1}  p99 {:.1}  max {:.1}",
            self.min, self.p50, self.p90, self.p95, self.p99, self.max
        )
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "users               {} ({} logged in, {} failed)",
            self.users, self.logged_in, self.failed
        )?;
        writeln!(
            f,
            "logins              {:.1} per second over {:.2} s",
            self.logins_per_sec, self.login_secs
        )?;
        writeln!(f, "login, ms           {}", self.login_ms)?;
        writeln!(f, "IKE retransmits     {}", self.ike_retransmits)?;
        writeln!(f, "rekeys              {}", self.rekeys)?;
        if let Some(traffic) = &self.traffic {
            writeln!(
                f,
                "echo requests       {} sent, {} answered, {} lost ({:.3} %)",
                traffic.sent, traffic.received, traffic.lost, traffic.loss_percent
            )?;
            writeln!(
                f,
                "oddities            {} duplicated, {} reordered, {} foreign",
                traffic.duplicated, traffic.reordered, traffic.foreign
            )?;
            writeln!(
                f,
                "users               {} with losses, {} without any answer",
                traffic.users_with_loss, traffic.users_without_answer
            )?;
            writeln!(f, "round trip, ms      {}", traffic.round_trip_ms)?;
            writeln!(f, "longest silence, ms {}", traffic.longest_silence_ms)?;
        }
        for (reason, packets) in &self.drops {
            writeln!(f, "dropped             {packets} {reason}")?;
        }
        for (kind, fault) in &self.faults {
            writeln!(
                f,
                "failed              {} {kind}, e.g. user {:05}: {}",
                fault.users, fault.first_user, fault.example
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]
mod tests {
    use super::*;
    use crate::probe::Counts;
    use crate::user::Fault;
    use esp::{DropCounters, DropReason};

    fn summary(number: u32, state: State, counts: Option<Counts>) -> Summary {
        let login = (!matches!(state, State::Failed(_))).then_some(Duration::from_millis(u64::from(number)));
        let mut drops = DropCounters::default();
        drops.add(DropReason::Dummy, 2);
        Summary {
            number,
            state,
            login,
            counts,
            drops,
            rekeys: 1,
            retransmits: 3,
        }
    }

    #[test]
    fn users_add_up() {
        let counts = |sent, received| Counts {
            sent,
            received,
            ..Counts::default()
        };
        let fault = || Fault {
            kind: "timeout",
            detail: "no answer".to_owned(),
        };
        let mut collector = Collector::new().unwrap();
        collector.user(&summary(1, State::Closed, Some(counts(10, 10))));
        collector.user(&summary(2, State::Up, Some(counts(10, 9))));
        collector.user(&summary(3, State::Up, Some(counts(10, 0))));
        collector.user(&summary(4, State::Failed(fault()), None));
        collector.user(&summary(5, State::Failed(fault()), None));
        collector.user(&summary(6, State::Lost(fault()), Some(counts(10, 5))));
        collector.login(Duration::from_millis(20));
        let report = collector.finish(Duration::from_secs(2));
        assert_eq!((report.users, report.logged_in, report.failed), (6, 4, 4));
        assert_eq!(
            (report.rekeys, report.ike_retransmits, report.drops["dummy"]),
            (6, 18, 12)
        );
        assert_eq!(
            (
                report.faults["timeout"].users,
                report.faults["timeout"].first_user
            ),
            (3, 4)
        );
        assert_eq!(report.faults["no_answer"].users, 1);
        assert!((report.logins_per_sec - 2.0).abs() < 1e-9);
        let traffic = report.traffic.clone().unwrap();
        assert_eq!((traffic.sent, traffic.received, traffic.lost), (40, 24, 16));
        assert_eq!((traffic.users_with_loss, traffic.users_without_answer), (3, 1));
        assert!((traffic.loss_percent - 40.0).abs() < 1e-9);
        assert!(!report.is_success(100.0));
        // Both forms can be printed, and the JSON has what scripts look for.
        assert!(report.to_string().contains("4 failed"));
        let json = serde_json::to_value(&report).unwrap();
        assert_eq!(json["traffic"]["lost"], 16);
        assert_eq!(json["failed"], 4);
    }

    #[test]
    fn quantiles_of_exact_values_are_some_of_them() {
        let mut values: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        let quantiles = Quantiles::of_values(&mut values);
        assert_eq!((quantiles.min, quantiles.p50, quantiles.p90), (1.0, 100.0, 180.0));
        assert_eq!(
            (quantiles.p99, quantiles.max, quantiles.mean),
            (198.0, 200.0, 100.5)
        );
        assert_eq!(Quantiles::of_values(&mut []), Quantiles::default());
    }

    #[test]
    fn losses_decide_only_above_the_limit() {
        let mut collector = Collector::new().unwrap();
        collector.user(&summary(
            1,
            State::Closed,
            Some(Counts {
                sent: 100,
                received: 99,
                ..Counts::default()
            }),
        ));
        let report = collector.finish(Duration::from_secs(1));
        assert!(report.is_success(100.0) && report.is_success(1.0) && !report.is_success(0.5));
    }
}
