//! ESP without I/O beside its cipher alone: runs the data plane's example and reads what it wrote.

use serde::Deserialize;

use super::Effort;
use super::plot::{Plot, Series};
use super::section::{Section, Table};
use crate::Result;
use crate::daemon::program;
use crate::net::Folder;
use crate::process::run as command;

const TOPOLOGY: &str = "one thread, packets in memory, no I/O: header, padding, sequence number or replay window, selectors and cipher, against the same \
    library's cipher alone on the same octets; one SA in batches of 32, and 1,000 SAs of which each packet has a random one";

/// One line of the example: nanoseconds a packet, sealing and opening.
#[derive(Debug, Deserialize)]
struct Row {
    provider: String,
    suite: String,
    octets: u32,
    aead: Option<[f64; 2]>,
    esp: [f64; 2],
    many: [f64; 2],
}

const WAYS: [&str; 2] = ["seal", "open"];

pub(super) fn run(effort: &Effort, only: &str) -> Result<Section> {
    let mut section = Section::new("transform", "ESP beside its cipher", TOPOLOGY, effort);
    section.begin_round();
    let folder = Folder::new("transform")?;
    let (file, runs) = (
        folder.join("rows.json").display().to_string(),
        effort.runs.to_string(),
    );
    let example = program("examples/transform")?.display().to_string();
    let mut words = vec![example.as_str(), "--runs", &runs, "--json", &file, "--only", only];
    if effort.seconds <= 1 {
        words.push("--quick");
    }
    eprintln!("{}", command(&words)?.trim_end());
    section.begin_round();
    let text = std::fs::read_to_string(folder.join("rows.json"))?;
    let rows: Vec<Row> = text
        .lines()
        .map(serde_json::from_str)
        .collect::<std::result::Result<_, _>>()?;
    anyhow::ensure!(!rows.is_empty(), "no row has the words {only:?}");
    section.tables.push(table(&rows));
    ratios(&mut section, &rows);
    plots(&mut section, &rows);
    if rows.iter().all(|row| row.provider != "ipsec-mb") {
        section.note("built without Intel's library (libipsec-mb-dev), which this machine has no package of");
    }
    Ok(section)
}

fn table(rows: &[Row]) -> Table {
    let mut table = Table::new(
        "nanoseconds a packet, seal / open",
        &[
            "library",
            "suite",
            "octets",
            "cipher alone",
            "ESP, 1 SA",
            "ESP, 1,000 SAs",
        ],
    );
    let pair = |cost: &[f64; 2]| format!("{:.0} / {:.0}", cost[0], cost[1]);
    for row in rows {
        table.row([
            row.provider.clone(),
            row.suite.clone(),
            row.octets.to_string(),
            row.aead.as_ref().map_or(String::new(), pair),
            pair(&row.esp),
            pair(&row.many),
        ]);
    }
    table
}

/// What is wanted is asked of the library that is fastest, which is the one that the daemon takes.
fn ratios(section: &mut Section, rows: &[Row]) {
    let mut suites: Vec<&str> = rows
        .iter()
        .filter(|row| row.aead.is_some())
        .map(|row| row.suite.as_str())
        .collect();
    suites.dedup();
    for suite in suites {
        for (octets, least) in [(1400, 0.9), (64, 0.75)] {
            let cost = |row: &&Row| row.esp[0] + row.esp[1];
            let fitting = rows
                .iter()
                .filter(|row| row.suite == suite && row.octets == octets && row.aead.is_some());
            let Some(row) = fitting.min_by(|a, b| cost(a).total_cmp(&cost(b))) else {
                continue;
            };
            for (way, name) in WAYS.iter().enumerate() {
                let (Some(aead), esp, many) = (
                    row.aead.and_then(|aead| aead.get(way).copied()),
                    row.esp,
                    row.many,
                ) else {
                    continue;
                };
                let at = |cost: [f64; 2]| cost.get(way).copied().unwrap_or(f64::NAN);
                let what = format!("{name}, {octets} octets, {suite} by {}", row.provider);
                section.ratio(
                    format!("rate of ESP over its cipher's: {what}"),
                    aead / at(esp),
                    Some(least),
                );
                if octets == 1400 {
                    let what = format!("rate with 1,000 SAs over that with one: {what}");
                    section.ratio(what, at(esp) / at(many), Some(0.8));
                }
            }
        }
    }
}

fn plots(section: &mut Section, rows: &[Row]) {
    let lines = |value: &dyn Fn(&Row) -> Option<f64>, wanted: &dyn Fn(&Row) -> bool| {
        let mut series: Vec<Series> = Vec::new();
        for row in rows.iter().filter(|row| wanted(row)) {
            let Some(value) = value(row) else { continue };
            let name = format!("{} {}", row.suite.replace("AES_", ""), row.provider);
            let point = (f64::from(row.octets), value);
            match series.iter_mut().find(|line| line.name == name) {
                Some(line) => line.points.push(point),
                None => series.push(Series {
                    name,
                    points: vec![point],
                }),
            }
        }
        series
    };
    let aead = |row: &Row| {
        row.aead
            .map(|aead| (aead[0] + aead[1]) / (row.esp[0] + row.esp[1]) * 100.0)
    };
    section.plots.push(Plot::Lines {
        title: "Rate of ESP, sealing and opening, in % of its cipher's alone".to_owned(),
        x: "octets of the inner packet".to_owned(),
        y: "%".to_owned(),
        log: true,
        series: lines(&aead, &|row| row.aead.is_some()),
    });
    let rate = |row: &Row| Some(f64::from(row.octets) * 16.0 / (row.esp[0] + row.esp[1]));
    section.plots.push(Plot::Lines {
        title: "ESP without I/O, one core, mean of sealing and opening".to_owned(),
        x: "octets of the inner packet".to_owned(),
        y: "Gbit/s".to_owned(),
        log: true,
        series: lines(&rate, &|_| true),
    });
}
