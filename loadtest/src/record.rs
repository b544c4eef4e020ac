//! What a long run leaves: flows with their silences and losses, marks, users, new logins; and what follows from them for
//! each mark. The JSON file of a run is a [`Record`]; several can be merged.
//!
//! Times are microseconds since the record's epoch. A silence belongs to the interval between two marks in which most of
//! it lies, and to every interval that it fills altogether.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::flow::{Loss, Silence, Tally};
use crate::report::Quantiles;

/// Users listed for one mark.
const MAX_LISTED: usize = 1000;
/// Name of the time before the first mark.
pub const START: &str = "start";

/// The beginning of a named interval, which lasts until the next mark.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Mark {
    /// Its name.
    pub name: String,
    /// When.
    pub at: u64,
}

/// One flow.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FlowRecord {
    /// Its name.
    pub name: String,
    /// The user's number.
    pub user: u32,
    /// First packet.
    pub from: u64,
    /// End of sending, or of the record.
    pub to: u64,
    /// From packet to packet.
    pub interval: u64,
    /// Longer times without an answer are silences.
    pub threshold: u64,
    /// Counts.
    pub tally: Tally,
    /// Silences.
    pub silences: Vec<Silence>,
    /// A silence that had not ended.
    pub open: Option<Silence>,
    /// Losses.
    pub losses: Vec<Loss>,
}

/// One user.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct UserRecord {
    /// Its number.
    pub user: u32,
    /// Its gateway's address.
    pub gateway: String,
    /// Whether its tunnel was up at the end (before logging out).
    pub up: bool,
    /// Times it had to log in again.
    pub new_logins: u64,
    /// Logins that failed.
    pub failed_logins: u64,
    /// Child SAs replaced.
    pub child_rekeys: u64,
    /// IKE SAs replaced.
    pub ike_rekeys: u64,
    /// Rekeys that failed (each is tried again).
    pub rekey_failures: u64,
    /// Child SAs that the gateway deleted without a successor.
    pub deletes: u64,
    /// IKE requests sent again.
    pub retransmits: u64,
    /// Liveness checks.
    pub liveness_checks: u64,
}

/// A login that should not have been necessary.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Relogin {
    /// Whose.
    pub user: u32,
    /// When the connection was given up.
    pub at: u64,
    /// Why.
    pub reason: String,
}

/// A whole run.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Record {
    /// Its label.
    pub name: String,
    /// Wall clock at the epoch: microseconds since 1970.
    pub epoch_unix_us: u64,
    /// How long it has lasted (microseconds).
    pub length: u64,
    /// The marks, in order.
    pub marks: Vec<Mark>,
    /// The flows.
    pub flows: Vec<FlowRecord>,
    /// The users; none in a run of plain flows.
    pub users: Vec<UserRecord>,
    /// New logins.
    pub logins: Vec<Relogin>,
    /// New logins that are not listed for want of room.
    pub logins_unlisted: u64,
    /// Times at which the generator itself was late: what a silence may be due to.
    pub stalls: Vec<Silence>,
    /// Round trips.
    pub round_trip_ms: Quantiles,
    /// ESP packets that users dropped, by reason.
    #[serde(default)]
    pub drops: BTreeMap<String, u64>,
}

/// What happened between two marks.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct MarkReport {
    /// The mark's name.
    pub name: String,
    /// When it was set (ms).
    pub from_ms: f64,
    /// The next one, or the end.
    pub to_ms: f64,
    /// Flows that ran then.
    pub flows: usize,
    /// The longest silence of each flow; 0 for flows without any.
    pub silence_ms: Quantiles,
    /// Flows with a silence.
    pub silent: usize,
    /// The longest silence of each of those alone: whom the event of the interval did not concern does not soften it.
    pub affected_ms: Quantiles,
    /// Packets lost.
    pub lost: u64,
    /// New logins.
    pub new_logins: usize,
    /// The longest time that the generator itself was late.
    pub own_stall_ms: f64,
    /// Flows with a silence or a loss, longest silence first.
    pub users: Vec<FlowReport>,
}

/// One flow between two marks.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct FlowReport {
    /// The flow's name.
    pub flow: String,
    /// The user's number.
    pub user: u32,
    /// Its longest silence.
    pub silence_ms: f64,
    /// When that began (wall clock, ms since 1970).
    pub from_unix_ms: f64,
    /// When it ended.
    pub to_unix_ms: f64,
    /// Packets lost.
    pub lost: u64,
    /// The silence goes on.
    pub open: bool,
}

/// A part of the run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Span {
    /// First microsecond.
    pub from: u64,
    /// The one after the last.
    pub to: u64,
}

impl Span {
    fn overlap(self, silence: Silence) -> u64 {
        silence
            .to
            .min(self.to)
            .saturating_sub(silence.from.max(self.from))
    }

    /// Whether a silence belongs here, if the run is cut into `all`.
    #[must_use]
    pub fn owns(self, silence: Silence, all: &[Self]) -> bool {
        let here = self.overlap(silence);
        let fills = here == self.to.saturating_sub(self.from);
        let elsewhere = |other: &Self| (other.overlap(silence), other.from) > (here, self.from);
        here > 0 && (fills || !all.iter().any(elsewhere))
    }

    fn contains(self, at: u64) -> bool {
        self.from <= at && at < self.to
    }

    /// Packets of a run of losses that were sent here.
    fn lost(self, loss: &Loss) -> u64 {
        if loss.to < self.from || loss.from >= self.to {
            return 0;
        }
        let step = |n: u64| loss.from + (loss.to - loss.from) * n / (loss.packets.max(2) - 1);
        (0..loss.packets).filter(|n| self.contains(step(*n))).count() as u64
    }
}

fn ms(us: u64) -> f64 {
    us as f64 / 1000.0
}

impl Record {
    /// The intervals that the marks cut the run into, with their names. The time before the first mark is "start".
    #[must_use]
    pub fn spans(&self) -> Vec<(String, Span)> {
        let mut names = vec![(START.to_owned(), 0)];
        names.extend(self.marks.iter().map(|mark| (mark.name.clone(), mark.at)));
        let ends = names.iter().skip(1).map(|(_, at)| *at).chain([self.length]);
        let ends: Vec<u64> = ends.collect();
        names
            .into_iter()
            .zip(ends)
            .map(|((name, from), to)| {
                (
                    name,
                    Span {
                        from,
                        to: to.max(from),
                    },
                )
            })
            .collect()
    }

    /// Moves every time by `us` microseconds, as for an epoch that lies so much earlier.
    pub fn delay(&mut self, us: u64) {
        self.epoch_unix_us = self.epoch_unix_us.saturating_sub(us);
        let later = |at: &mut u64| *at = at.saturating_add(us);
        let silence = |silence: &mut Silence| {
            silence.from = silence.from.saturating_add(us);
            silence.to = silence.to.saturating_add(us);
        };
        later(&mut self.length);
        self.marks.iter_mut().for_each(|mark| later(&mut mark.at));
        self.logins.iter_mut().for_each(|login| later(&mut login.at));
        self.stalls.iter_mut().for_each(silence);
        for flow in &mut self.flows {
            later(&mut flow.from);
            later(&mut flow.to);
            flow.silences.iter_mut().chain(&mut flow.open).for_each(silence);
            for loss in &mut flow.losses {
                later(&mut loss.from);
                later(&mut loss.to);
            }
        }
    }

    /// One report for each mark, in order.
    #[must_use]
    pub fn reports(&self) -> Vec<MarkReport> {
        let spans = self.spans();
        let all: Vec<Span> = spans.iter().map(|(_, span)| *span).collect();
        spans
            .iter()
            .map(|(name, span)| self.report(name, *span, &all))
            .collect()
    }

    /// The newest interval of a name.
    #[must_use]
    pub fn report_of(&self, name: &str) -> Option<MarkReport> {
        let spans = self.spans();
        let all: Vec<Span> = spans.iter().map(|(_, span)| *span).collect();
        let (_, span) = spans.iter().rfind(|(known, _)| known == name)?;
        Some(self.report(name, *span, &all))
    }

    /// From the newest mark of a name to the end, whatever marks came later.
    #[must_use]
    pub fn report_since(&self, name: &str) -> Option<MarkReport> {
        let spans = self.spans();
        let (_, span) = spans.iter().rfind(|(known, _)| known == name)?;
        let (from, to) = (span.from, self.length);
        let all = [Span { from: 0, to: from }, Span { from, to }];
        Some(self.report(name, Span { from, to }, &all))
    }

    fn report(&self, name: &str, span: Span, all: &[Span]) -> MarkReport {
        let mut users = Vec::new();
        let mut longest = Vec::new();
        for flow in self
            .flows
            .iter()
            .filter(|flow| flow.from < span.to && flow.to >= span.from)
        {
            let open = flow.open.filter(|open| open.length() > flow.threshold);
            let silence = flow
                .silences
                .iter()
                .copied()
                .chain(open)
                .filter(|silence| span.owns(*silence, all))
                .max_by_key(Silence::length);
            let lost: u64 = flow.losses.iter().map(|loss| span.lost(loss)).sum();
            longest.push(silence.map_or(0.0, |silence| ms(silence.length())));
            if silence.is_none() && lost == 0 {
                continue;
            }
            let unix = |at: u64| ms(self.epoch_unix_us.saturating_add(at));
            users.push(FlowReport {
                flow: flow.name.clone(),
                user: flow.user,
                silence_ms: silence.map_or(0.0, |silence| ms(silence.length())),
                from_unix_ms: unix(silence.map_or(span.from, |silence| silence.from)),
                to_unix_ms: unix(silence.map_or(span.from, |silence| silence.to)),
                lost,
                open: silence.is_some() && silence == open,
            });
        }
        users.sort_by(|a, b| {
            (b.silence_ms, b.lost)
                .partial_cmp(&(a.silence_ms, a.lost))
                .unwrap_or(std::cmp::Ordering::Equal)
        });
        let lost = users.iter().map(|user| user.lost).sum();
        let silent = users.iter().filter(|user| user.silence_ms > 0.0).count();
        let mut affected: Vec<f64> = longest.iter().copied().filter(|ms| *ms > 0.0).collect();
        users.truncate(MAX_LISTED);
        let stall = self.stalls.iter().map(|stall| span.overlap(*stall)).max();
        MarkReport {
            name: name.to_owned(),
            from_ms: ms(span.from),
            to_ms: ms(span.to),
            flows: longest.len(),
            silence_ms: Quantiles::of_values(&mut longest),
            silent,
            affected_ms: Quantiles::of_values(&mut affected),
            lost,
            new_logins: self.logins.iter().filter(|login| span.contains(login.at)).count(),
            own_stall_ms: ms(stall.unwrap_or(0)),
            users,
        }
    }

    /// The longest silence of all (ms).
    #[must_use]
    pub fn longest_silence_ms(&self) -> f64 {
        let open = |flow: &FlowRecord| flow.open.filter(|open| open.length() > flow.threshold);
        let lengths = self
            .flows
            .iter()
            .flat_map(|flow| flow.silences.iter().copied().chain(open(flow)))
            .map(|silence| silence.length());
        ms(lengths.max().unwrap_or(0))
    }

    /// Whether every user kept its tunnel and no silence was longer than `max_silence_ms`.
    #[must_use]
    pub fn is_success(&self, max_silence_ms: Option<f64>) -> bool {
        self.logins.is_empty()
            && self.logins_unlisted == 0
            && self.users.iter().all(|user| user.up && user.failed_logins == 0)
            && self.flows.iter().all(|flow| flow.tally.received > 0)
            && max_silence_ms.is_none_or(|max| self.longest_silence_ms() <= max)
    }
}

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
