//! One peer that is too fat for a worker: TCP through one worker at each end, and through several, with a child SA for each
//! (RFC 9611), in turn.

use super::Effort;
use super::path::{Kind, Path, Wire};
use super::section::{Section, Table};
use super::stats::{median, range};
use super::traffic::tcp_streams;
use crate::Result;
use crate::world::SERVER_V4;

/// TCP streams at once: flows are what is spread.
const STREAMS: u32 = 8;
const TOPOLOGY: &str = "client and server in namespaces of their own, joined by veth to the gateway's; both ends of the tunnel, \
    the streams' ends and the kernel's forwarding share the machine's cores. Eight TCP streams of one peer, AES-256-GCM";

pub(super) fn run(effort: &Effort, workers: u8) -> Result<Section> {
    let mut section = Section::new("fat", "One fat peer over several workers", TOPOLOGY, effort);
    let counts = [1, workers];
    let mut rates: Vec<(Wire, u8, Vec<f64>)> = [Wire::Whole, Wire::Nic]
        .into_iter()
        .flat_map(|wire| counts.map(|count| (wire, count, Vec::new())))
        .collect();
    for round in 1..=effort.runs {
        section.begin_round();
        for (wire, count, samples) in &mut rates {
            let path = Path::with_workers(Kind::Ours, *wire, 1, *count)?;
            let (client, server) = (path.client(0)?, path.server()?);
            let rate = tcp_streams(client, server, SERVER_V4, effort.seconds, path.folder(), STREAMS)?;
            eprintln!(
                "run {round}: {:<20} {count} workers {:>7.2} Gbit/s",
                wire.name(),
                rate / 1e9
            );
            samples.push(rate / 1e9);
        }
    }
    let mut table = Table::new(
        "Gbit/s received",
        &["workers at each end", "cables", "median", "least", "most"],
    );
    for (wire, count, samples) in &rates {
        let (least, most) = range(samples);
        table.row([
            count.to_string(),
            wire.name().to_owned(),
            format!("{:.2}", median(samples)),
            format!("{least:.2}"),
            format!("{most:.2}"),
        ]);
    }
    for pair in rates.chunks_exact(2) {
        if let [(wire, _, one), (_, count, several)] = pair {
            let what = format!("{count} workers over one, {}", wire.name());
            section.ratio(what, median(several) / median(one), None);
        }
    }
    section.tables.push(table);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    section.note(format!(
        "the machine has {cores} cores, which {} workers, iperf3 and the kernel share: no more than what one worker at each end \
         leaves idle can be won here",
        2 * u16::from(workers)
    ));
    Ok(section)
}
