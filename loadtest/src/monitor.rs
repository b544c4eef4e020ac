//! What a long run sees as it goes: flows, marks, new logins, its own lateness, and the file of events. Answers orders, and
//! becomes a [`Record`] at any moment.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result};
use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};

use crate::control::Order;
use crate::flow::{Flow, Silence, Verdict};
use crate::record::{FlowRecord, Mark, Record, Relogin, UserRecord};
use crate::report::{self, Quantiles};

/// Marks of one run.
const MAX_MARKS: usize = 10_000;
/// New logins that are listed; more are counted.
const MAX_LOGINS: usize = 100_000;
/// Own delays that are listed: the first ones, and then only longer ones.
const MAX_STALLS: usize = 4096;
/// Lateness of the generator that counts as a delay (microseconds).
const STALL: u64 = 20_000;
/// Events are on disk after this time at the latest, if anything happens.
const FLUSH: Duration = Duration::from_secs(1);

struct Watched {
    name: String,
    user: u32,
    flow: Flow,
}

/// The observer of one run.
pub struct Monitor {
    name: String,
    epoch: Instant,
    epoch_unix_us: u64,
    interval: u64,
    threshold: u64,
    marks: Vec<Mark>,
    flows: Vec<Watched>,
    logins: Vec<Relogin>,
    logins_unlisted: u64,
    stalls: Vec<Silence>,
    round_trips: Histogram<u64>,
    events: Option<BufWriter<File>>,
    flushed: Instant,
}

fn us(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

fn ms(us: u64) -> f64 {
    us as f64 / 1000.0
}

impl Monitor {
    /// Begins at `now`, which is `unix` on the wall clock. Flows send a packet each `interval`, and longer times than `gap`
    /// without an answer are silences.
    ///
    /// # Errors
    /// If the file of events cannot be made.
    pub fn new(
        now: Instant,
        unix: SystemTime,
        name: &str,
        interval: Duration,
        gap: Duration,
        events: Option<&Path>,
    ) -> Result<Self> {
        let events = match events {
            Some(path) => {
                let file = File::create(path).with_context(|| format!("events {}", path.display()))?;
                Some(BufWriter::new(file))
            }
            None => None,
        };
        Ok(Self {
            name: name.to_owned(),
            epoch: now,
            epoch_unix_us: us(unix.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()),
            interval: us(interval).max(1),
            threshold: us(gap),
            marks: Vec::new(),
            flows: Vec::new(),
            logins: Vec::new(),
            logins_unlisted: 0,
            stalls: Vec::new(),
            round_trips: report::histogram()?,
            events,
            flushed: now,
        })
    }

    /// Microseconds since the beginning.
    #[must_use]
    pub fn micros(&self, now: Instant) -> u64 {
        us(now.saturating_duration_since(self.epoch))
    }

    /// A further flow; gives its index.
    pub fn add_flow(&mut self, name: String, user: u32) -> usize {
        let flow = Flow::new(self.interval, self.threshold);
        self.flows.push(Watched { name, user, flow });
        self.flows.len() - 1
    }

    /// A flow.
    pub fn flow(&mut self, index: usize) -> Option<&mut Flow> {
        self.flows.get_mut(index).map(|watched| &mut watched.flow)
    }

    /// Something came for a flow: the number of a packet, or nothing that is an answer.
    pub fn received(&mut self, now: Instant, index: usize, number: Option<u64>) {
        let at = self.micros(now);
        let Some(Watched { flow, user, .. }) = self.flows.get_mut(index) else {
            return;
        };
        let Some(number) = number else {
            return flow.damaged();
        };
        let silence = flow.open_silence(at);
        let verdict = flow.received(at, number);
        let (user, threshold) = (*user, flow.threshold());
        if let Verdict::Counted { round_trip } = verdict {
            self.round_trips.saturating_record(round_trip.max(1));
            if let Some(silence) = silence.filter(|silence| silence.length() > threshold) {
                self.event(
                    now,
                    "silence",
                    Some(user),
                    &json!({ "from_ms": ms(silence.from), "ms": ms(silence.length()) }),
                );
            }
        }
    }

    /// Packets stop; what is under way is still counted.
    pub fn stop_flows(&mut self, now: Instant) {
        let at = self.micros(now);
        for watched in &mut self.flows {
            watched.flow.stop(at);
        }
    }

    /// What is under way is lost.
    pub fn close_flows(&mut self, now: Instant) {
        let at = self.micros(now);
        for watched in &mut self.flows {
            watched.flow.close(at);
        }
    }

    /// A user has to log in again.
    pub fn relogin(&mut self, now: Instant, user: u32, reason: &str) {
        self.event(now, "new_login", Some(user), &json!({ "reason": reason }));
        if self.logins.len() >= MAX_LOGINS {
            self.logins_unlisted += 1;
            return;
        }
        self.logins.push(Relogin {
            user,
            at: self.micros(now),
            reason: reason.to_owned(),
        });
    }

    /// The generator wanted to act at `due`, and does so only now.
    pub fn lateness(&mut self, due: Instant, now: Instant) {
        let stall = Silence {
            from: self.micros(due),
            to: self.micros(now),
        };
        if stall.length() < STALL {
            return;
        }
        if self.stalls.len() < MAX_STALLS {
            self.stalls.push(stall);
        } else if let Some(shortest) = self.stalls.iter_mut().min_by_key(|known| known.length())
            && shortest.length() < stall.length()
        {
            *shortest = stall;
        }
        self.event(now, "own_stall", None, &json!({ "ms": ms(stall.length()) }));
    }

    /// Writes an event; the fields of `more` (an object) go beside the usual ones.
    pub fn event(&mut self, now: Instant, kind: &str, user: Option<u32>, more: &Value) {
        let at = self.micros(now);
        let Some(events) = &mut self.events else {
            return;
        };
        let mut line = Map::new();
        line.insert("at_ms".to_owned(), ms(at).into());
        line.insert(
            "unix_ms".to_owned(),
            ms(self.epoch_unix_us.saturating_add(at)).into(),
        );
        line.insert("event".to_owned(), kind.into());
        if let Some(user) = user {
            line.insert("user".to_owned(), user.into());
        }
        if let Value::Object(more) = more {
            line.extend(more.iter().map(|(key, value)| (key.clone(), value.clone())));
        }
        // A full disk costs events, not the run.
        let _ = writeln!(events, "{}", Value::Object(line));
        if now.saturating_duration_since(self.flushed) >= FLUSH {
            self.flushed = now;
            let _ = events.flush();
        }
    }

    /// Answers every order but [`Order::Quit`], whose answer is that of [`Order::Report`].
    pub fn answer(&mut self, now: Instant, order: &Order, users: Vec<UserRecord>) -> Value {
        match order {
            Order::Mark(name) => self.mark(now, name),
            Order::Status => self.status(now, &users),
            Order::Report(None) | Order::Quit => {
                json!({ "ok": true, "marks": self.record(now, users).reports() })
            }
            Order::Report(Some(name)) => found(name, self.record(now, users).report_of(name)),
            Order::Since(name) => found(name, self.record(now, users).report_since(name)),
        }
    }

    fn mark(&mut self, now: Instant, name: &str) -> Value {
        if self.marks.len() >= MAX_MARKS {
            return json!({ "ok": false, "error": format!("there are {MAX_MARKS} marks") });
        }
        let at = self.micros(now);
        self.event(now, "mark", None, &json!({ "name": name }));
        self.marks.push(Mark {
            name: name.to_owned(),
            at,
        });
        let unix = ms(self.epoch_unix_us.saturating_add(at));
        json!({ "ok": true, "mark": name, "at_ms": ms(at), "unix_ms": unix })
    }

    fn status(&self, now: Instant, users: &[UserRecord]) -> Value {
        let at = self.micros(now);
        let sum = |count: fn(&UserRecord) -> u64| users.iter().map(count).sum::<u64>();
        let up = users.iter().filter(|user| user.up).count();
        let fresh = |watched: &&Watched| {
            let flow = &watched.flow;
            let patience = (3 * flow.interval()).max(200_000);
            flow.tally().received > 0
                && flow
                    .open_silence(at)
                    .is_none_or(|silence| silence.length() <= patience)
        };
        let open = self
            .flows
            .iter()
            .filter_map(|watched| watched.flow.open_silence(at));
        json!({
            "ok": true,
            "at_ms": ms(at),
            "users": users.len(),
            "up": up,
            "connecting": users.len() - up,
            "flows": self.flows.len(),
            "receiving": self.flows.iter().filter(fresh).count(),
            "new_logins": sum(|user| user.new_logins),
            "failed_logins": sum(|user| user.failed_logins),
            "rekeys": sum(|user| user.child_rekeys + user.ike_rekeys),
            "rekey_failures": sum(|user| user.rekey_failures),
            "deletes": sum(|user| user.deletes),
            "open_silence_ms": ms(open.map(|silence| silence.length()).max().unwrap_or(0)),
        })
    }

    /// All that was seen until `now`.
    #[must_use]
    pub fn record(&self, now: Instant, users: Vec<UserRecord>) -> Record {
        let at = self.micros(now);
        let flows = self.flows.iter().filter_map(|Watched { name, user, flow }| {
            let (from, stopped) = flow.span()?;
            let to = stopped.unwrap_or(at);
            Some(FlowRecord {
                name: name.clone(),
                user: *user,
                from,
                to,
                interval: flow.interval(),
                threshold: flow.threshold(),
                tally: flow.tally(),
                silences: flow.silences().to_vec(),
                open: flow.open_silence(at),
                losses: flow.losses().to_vec(),
            })
        });
        Record {
            name: self.name.clone(),
            epoch_unix_us: self.epoch_unix_us,
            length: at,
            marks: self.marks.clone(),
            flows: flows.collect(),
            users,
            logins: self.logins.clone(),
            logins_unlisted: self.logins_unlisted,
            stalls: self.stalls.clone(),
            round_trip_ms: Quantiles::of(&self.round_trips),
            drops: BTreeMap::new(),
        }
    }
}

fn found<T: serde::Serialize>(name: &str, report: Option<T>) -> Value {
    match report {
        Some(report) => json!({ "ok": true, "mark": report }),
        None => json!({ "ok": false, "error": format!("no mark {name}") }),
    }
}
