//! System calls of a worker for each packet, in bulk, as `strace -c` counts them.

use std::time::Duration;

use anyhow::Context as _;

use super::Effort;
use super::path::{Kind, Path, Wire};
use super::plot::{Bar, Plot};
use super::section::{Section, Table};
use super::stats::median;
use super::traffic::tcp;
use crate::Result;
use crate::process::Process;
use crate::world::SERVER_V4;

const TOPOLOGY: &str = "client, gateway with one worker, server, all in namespaces joined by veth; one TCP stream from client to server, \
    and strace attached to the thread of the worker. Packets are those of 1,400 octets that the stream makes, without the \
    acknowledgements";
/// Octets of TCP payload in a packet of 1,400 octets, with time stamps.
const SEGMENT: f64 = 1348.0;

pub(super) fn run(effort: &Effort) -> Result<Section> {
    let mut section = Section::new("syscalls", "System calls of a worker in bulk", TOPOLOGY, effort);
    let mut table = Table::new(
        "each run",
        &["cables", "packets", "calls", "calls a packet", "which"],
    );
    let mut bars = Vec::new();
    for (group, wire) in [Wire::Whole, Wire::Nic].into_iter().enumerate() {
        let mut samples = Vec::new();
        for _ in 0..effort.runs {
            section.begin_round();
            let (packets, calls) = measure(wire, effort.seconds)?;
            let total: f64 = calls.iter().map(|call| call.1).sum();
            eprintln!("{}: {:.4} calls a packet", wire.name(), total / packets);
            let mut names: Vec<_> = calls.clone();
            names.sort_by(|a, b| b.1.total_cmp(&a.1));
            let names = names
                .iter()
                .take(6)
                .map(|(name, count)| format!("{name} {count}"));
            table.row([
                wire.name().to_owned(),
                format!("{packets:.0}"),
                format!("{total:.0}"),
                format!("{:.4}", total / packets),
                names.collect::<Vec<_>>().join(", "),
            ]);
            samples.push(total / packets);
        }
        section.ratio(
            format!("packets for each system call, {}", wire.name()),
            1.0 / median(&samples),
            Some(1.0),
        );
        bars.push(Bar {
            name: wire.name().to_owned(),
            group,
            samples,
        });
    }
    section.tables.push(table);
    section.plots.push(Plot::Bars {
        title: "System calls of a worker for each packet in bulk".to_owned(),
        bars,
    });
    section.note("strace slows every call down, which makes bursts longer than they would be without it");
    Ok(section)
}

/// The thread of the first worker.
fn worker_thread(process: u32) -> Result<String> {
    for thread in std::fs::read_dir(format!("/proc/{process}/task"))? {
        let path = thread?.path();
        let name = std::fs::read_to_string(path.join("comm")).unwrap_or_default();
        if name.starts_with("esp-") {
            let id = path.file_name().context("a thread id")?;
            return Ok(id.to_string_lossy().into_owned());
        }
    }
    anyhow::bail!("no thread of {process} is a worker")
}

fn measure(wire: Wire, seconds: u32) -> Result<(f64, Vec<(String, f64)>)> {
    let mut path = Path::up(Kind::Ours, wire, 1)?;
    let thread = worker_thread(path.gateway_process()?)?;
    let (log, counts) = (path.folder().join("strace.log"), path.folder().join("calls"));
    let output = counts.display().to_string();
    let command = ["strace", "-c", "-p", &thread, "-o", &output].map(str::to_owned);
    let mut tracer = Process::start("strace", &command, &[], &log)?;
    tracer.expect_output("attached", Duration::from_secs(10))?;
    // The second that iperf3 leaves out has its calls too.
    let rate = tcp(path.client(0)?, path.server()?, SERVER_V4, seconds, path.folder())?;
    tracer.signal(rustix::process::Signal::INT);
    tracer.wait(Duration::from_secs(10))?;
    let packets = rate * f64::from(seconds + 1) / 8.0 / SEGMENT;
    let text = std::fs::read_to_string(&counts)?;
    let calls = read_counts(&text);
    anyhow::ensure!(!calls.is_empty(), "strace counted nothing:\n{text}");
    Ok((packets, calls))
}

/// Calls and how often, from the table of `strace -c`.
fn read_counts(text: &str) -> Vec<(String, f64)> {
    text.lines()
        .filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let count = words.get(3)?.parse().ok()?;
            let name = words.last().filter(|name| **name != "total")?;
            words.first()?.parse::<f64>().ok()?;
            Some(((*name).to_owned(), count))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_table_of_strace_is_read() {
        let text = "% time     seconds  usecs/call     calls    errors syscall\n\
                    ------ ----------- ----------- --------- --------- ----------------\n \
                    61.20    0.012000          12      1000           sendmsg\n \
                    38.80    0.008000          10       800       200 recvmsg\n\
                    ------ ----------- ----------- --------- --------- ----------------\n\
                    100.00    0.020000          11      1800       200 total\n";
        let counts = super::read_counts(text);
        assert_eq!(
            counts,
            [("sendmsg".to_owned(), 1000.0), ("recvmsg".to_owned(), 800.0)]
        );
    }
}
