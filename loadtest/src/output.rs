//! Reports of long runs: a table for people, files for everything else; and the joining of several runs.

mod page;
mod plot;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

use crate::cli;
use crate::record::{Mark, Record};

/// Marks of one name that lie closer together than this are one, in a merged record (microseconds).
const SAME_MARK: u64 = 2_000_000;

/// Prints the table and writes the files that were asked for.
///
/// # Errors
/// If a file cannot be written.
pub fn write(record: &Record, watch: &cli::Watch, success: bool) -> Result<()> {
    files(record, &watch.json, &watch.html, &watch.svg)?;
    print(record, success);
    Ok(())
}

fn files(
    record: &Record,
    json: &Option<PathBuf>,
    html: &Option<PathBuf>,
    svg: &Option<PathBuf>,
) -> Result<()> {
    let put = |path: &Path, text: String| {
        std::fs::write(path, text).with_context(|| format!("report {}", path.display()))
    };
    if let Some(path) = json {
        put(path, serde_json::to_string(record)?)?;
    }
    if let Some(path) = html {
        put(path, page::html(record))?;
    }
    if let Some(path) = svg {
        put(path, plot::svg(record))?;
    }
    Ok(())
}

fn print(record: &Record, success: bool) {
    let text = format!(
        "{}{}\n",
        table(record),
        if success { "success" } else { "FAILED" }
    );
    // A reader that went away (`| head`) is no failure of the run.
    drop(std::io::stdout().write_all(text.as_bytes()));
}

/// `loadtest merge`: one record of several. False if one of them was no success.
///
/// # Errors
/// If a file cannot be read or written.
pub fn merge(options: &cli::Merge) -> Result<bool> {
    let mut records = Vec::new();
    for path in &options.from {
        let text = std::fs::read_to_string(path).with_context(|| format!("record {}", path.display()))?;
        let record = serde_json::from_str(&text).with_context(|| format!("record {}", path.display()))?;
        records.push(record);
    }
    let record = join(&options.name, records);
    let success = record.is_success(options.max_silence_ms);
    files(&record, &options.json, &options.html, &options.svg)?;
    print(&record, success);
    Ok(success)
}

/// One record of several, by their wall clocks. Marks that are in several of them become one.
#[must_use]
pub fn join(name: &str, records: Vec<Record>) -> Record {
    let epoch = records
        .iter()
        .map(|record| record.epoch_unix_us)
        .min()
        .unwrap_or(0);
    let mut whole = Record {
        name: name.to_owned(),
        epoch_unix_us: epoch,
        ..Record::default()
    };
    let several = records.len() > 1;
    for mut record in records {
        record.delay(record.epoch_unix_us - epoch);
        if whole.name.is_empty() {
            whole.name.clone_from(&record.name);
        }
        whole.length = whole.length.max(record.length);
        for flow in &mut record.flows {
            if several && !record.name.is_empty() {
                flow.name = format!("{} {}", record.name, flow.name);
            }
        }
        whole.flows.append(&mut record.flows);
        whole.users.append(&mut record.users);
        whole.logins.append(&mut record.logins);
        whole.logins_unlisted += record.logins_unlisted;
        whole.stalls.append(&mut record.stalls);
        for (reason, packets) in record.drops {
            *whole.drops.entry(reason).or_default() += packets;
        }
        // Quantiles do not add up: the worse of the two is on the safe side.
        if record.round_trip_ms.p99 > whole.round_trip_ms.p99 {
            whole.round_trip_ms = record.round_trip_ms;
        }
        for mark in record.marks {
            let known = |other: &&mut Mark| other.name == mark.name && other.at.abs_diff(mark.at) < SAME_MARK;
            match whole.marks.iter_mut().find(known) {
                Some(other) => other.at = other.at.min(mark.at),
                None => whole.marks.push(mark),
            }
        }
    }
    whole.marks.sort_by_key(|mark| mark.at);
    whole.logins.sort_by_key(|login| login.at);
    whole.stalls.sort_by_key(|stall| stall.from);
    whole
}

/// The table for people. Its quantiles are those of the flows with a silence.
#[must_use]
pub fn table(record: &Record) -> String {
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = write_table(&mut text, record);
    text
}

fn write_table(text: &mut String, record: &Record) -> std::fmt::Result {
    let reports = record.reports();
    let width = reports
        .iter()
        .map(|report| report.name.chars().count())
        .max()
        .unwrap_or(0)
        .max(8);
    writeln!(
        text,
        "{:width$}  {:>8} {:>6} {:>6}  {:>8} {:>8} {:>8} {:>8}  {:>7} {:>7} {:>7}",
        "interval", "from, s", "flows", "silent", "p50, ms", "p90", "p99", "max", "lost", "logins", "own, ms"
    )?;
    for report in &reports {
        let silence = &report.affected_ms;
        writeln!(
            text,
            "{:width$}  {:>8.1} {:>6} {:>6}  {:>8.0} {:>8.0} {:>8.0} {:>8.0}  {:>7} {:>7} {:>7.0}",
            report.name,
            report.from_ms / 1000.0,
            report.flows,
            report.silent,
            silence.p50,
            silence.p90,
            silence.p99,
            silence.max,
            report.lost,
            report.new_logins,
            report.own_stall_ms
        )?;
    }
    let tally = |count: fn(&crate::flow::Tally) -> u64| {
        record.flows.iter().map(|flow| count(&flow.tally)).sum::<u64>()
    };
    writeln!(
        text,
        "packets   {} sent ({} without a tunnel), {} answered, {} lost, {} duplicated, {} reordered, {} late, {} damaged",
        tally(|t| t.sent),
        tally(|t| t.unsent),
        tally(|t| t.received),
        tally(|t| t.lost),
        tally(|t| t.duplicated),
        tally(|t| t.reordered),
        tally(|t| t.late),
        tally(|t| t.damaged)
    )?;
    writeln!(text, "round trip, ms  {}", record.round_trip_ms)?;
    if !record.users.is_empty() {
        let users = &record.users;
        let sum = |count: fn(&crate::record::UserRecord) -> u64| users.iter().map(count).sum::<u64>();
        writeln!(
            text,
            "users     {}: {} up at the end, {} new logins, {} failed logins, {} deletes received",
            users.len(),
            users.iter().filter(|user| user.up).count(),
            sum(|user| user.new_logins),
            sum(|user| user.failed_logins),
            sum(|user| user.deletes)
        )?;
        writeln!(
            text,
            "IKE       {} child rekeys, {} IKE rekeys, {} rekeys failed, {} liveness checks, {} retransmits",
            sum(|user| user.child_rekeys),
            sum(|user| user.ike_rekeys),
            sum(|user| user.rekey_failures),
            sum(|user| user.liveness_checks),
            sum(|user| user.retransmits)
        )?;
    }
    let mut reasons: BTreeMap<&str, (u64, u32)> = BTreeMap::new();
    for login in &record.logins {
        reasons.entry(&login.reason).or_insert((0, login.user)).0 += 1;
    }
    for (reason, (count, user)) in reasons.iter().take(20) {
        writeln!(text, "new login {count} because {reason}, e.g. user {user:05}")?;
    }
    for (reason, packets) in &record.drops {
        writeln!(text, "dropped   {packets} ESP packets: {reason}")?;
    }
    Ok(())
}

#[cfg(test)]
#[path = "output/tests.rs"]
mod tests;
