//! Round trips of one client: with the gateway idle, and while another client loads it.

use super::Effort;
use super::path::{Kind, Path, Wire};
use super::plot::{Bar, Plot};
use super::section::{Section, Table};
use super::stats::{at, median};
use super::traffic::{Stream, round_trips};
use crate::Result;
use crate::world::SERVER_V4;

const KINDS: [Kind; 5] = [
    Kind::Ours,
    Kind::StrongSwan,
    Kind::BoringTun,
    Kind::WireGuardGo,
    Kind::Plain,
];
const TOPOLOGY: &str = "two clients with a tunnel and a cable each, one gateway with one worker, one server; the first sends echo requests, 200 a \
    second, while the second is silent, then while it has one TCP stream at full rate to the same server; all on the same \
    cores, super-packets whole";
const PER_SECOND: u32 = 200;

#[derive(Default)]
struct Samples {
    /// Medians and 99 % of each run, unloaded, in milliseconds.
    idle: [Vec<f64>; 2],
    /// The same under load.
    busy: [Vec<f64>; 2],
    /// Gbit/s meanwhile.
    rate: Vec<f64>,
    lost: u32,
}

pub(super) fn run(effort: &Effort) -> Result<Section> {
    let mut section = Section::new("latency", "Round trips, idle and beside bulk", TOPOLOGY, effort);
    let mut all = Vec::new();
    for kind in KINDS {
        match kind.obstacle() {
            None => all.push((kind, Samples::default())),
            Some(why) => section.note(format!("{} was not measured: {why}", kind.name())),
        }
    }
    for round in 1..=effort.runs {
        section.begin_round();
        for (kind, samples) in &mut all {
            measure(*kind, effort.seconds, samples)?;
            let last = |list: &[f64]| list.last().copied().unwrap_or(f64::NAN);
            eprintln!(
                "run {round}: {:<28} {:.3} ms idle, {:.3} ms beside {:.2} Gbit/s",
                kind.name(),
                last(&samples.idle[0]),
                last(&samples.busy[0]),
                last(&samples.rate)
            );
        }
    }
    let mut table = Table::new(
        "round trips in ms, medians of the runs",
        &[
            "",
            "idle p50",
            "idle p99",
            "busy p50",
            "busy p99",
            "Gbit/s beside",
            "lost",
        ],
    );
    let mut bars = Vec::new();
    for (group, (kind, samples)) in all.iter().enumerate() {
        let cells = samples.idle.iter().chain(&samples.busy);
        let mut row = vec![kind.name().to_owned()];
        row.extend(cells.map(|list| format!("{:.3}", median(list))));
        row.push(format!("{:.2}", median(&samples.rate)));
        row.push(samples.lost.to_string());
        table.row(row);
        for (words, list) in [("idle", &samples.idle[1]), ("busy", &samples.busy[1])] {
            bars.push(Bar {
                name: format!("{}, {words}", kind.name()),
                group,
                samples: list.clone(),
            });
        }
    }
    let of = |wanted: Kind| all.iter().find(|entry| entry.0 == wanted).map(|entry| &entry.1);
    if let Some(ours) = of(Kind::Ours) {
        for other in [Kind::StrongSwan, Kind::WireGuardGo, Kind::Plain] {
            if let Some(theirs) = of(other) {
                let what = |state: &str| format!("median round trip, {state}: {} over ours", other.name());
                section.ratio(
                    what("idle"),
                    median(&theirs.idle[0]) / median(&ours.idle[0]),
                    None,
                );
                section.ratio(
                    what("busy"),
                    median(&theirs.busy[0]) / median(&ours.busy[0]),
                    None,
                );
            }
        }
    }
    section.tables.push(table);
    section.plots.push(Plot::Bars {
        title: "Round trips, 99 % are shorter than (ms)".to_owned(),
        bars,
    });
    Ok(section)
}

fn measure(kind: Kind, seconds: u32, samples: &mut Samples) -> Result<()> {
    let path = Path::up(kind, Wire::Whole, 2)?;
    let (quiet, loud) = (path.client(0)?, path.client(1)?);
    let mut note = |list: &mut [Vec<f64>; 2], (times, lost): (Vec<f64>, u32)| {
        let values = [at(&times, 0.5), at(&times, 0.99)];
        list.iter_mut()
            .zip(values)
            .for_each(|(list, value)| list.push(value));
        samples.lost += lost;
    };
    note(
        &mut samples.idle,
        round_trips(quiet, SERVER_V4, PER_SECOND, seconds)?,
    );
    let mut stream = Stream::begin(loud, path.server()?, SERVER_V4, seconds + 1, path.folder())?;
    std::thread::sleep(std::time::Duration::from_secs(1));
    note(
        &mut samples.busy,
        round_trips(quiet, SERVER_V4, PER_SECOND, seconds)?,
    );
    samples.rate.push(stream.finish()? / 1e9);
    Ok(())
}
