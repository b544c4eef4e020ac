//! Many users with one packet at a time: packets for each second of the processor that the gateway takes.

use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::Effort;
use super::many::{admit, users};
use super::path::{Kind, Path, SWAN_ID, SWAN_SECRET, Wire};
use super::plot::{Bar, Plot};
use super::section::{Section, Table};
use super::stats::median;
use super::traffic::{cpu_time, device_counter, sleep_until};
use crate::Result;
use crate::process::wait_for;
use crate::world::SERVER_V4;

const TOPOLOGY: &str = "simulated users in one namespace, joined by veth to the gateway's; each sends echo requests of 100 octets at its own \
    pace, the server answers, so that hardly two packets of a user are ever under way together. Packets are counted on the \
    gateway's TUN device in both directions, the time of the processor is that of the gateway's process";

/// Who is measured, in this order.
const RIVALS: [Rival; 3] = [
    Rival {
        kind: Kind::Ours,
        xdp: false,
    },
    Rival {
        kind: Kind::Ours,
        xdp: true,
    },
    Rival {
        kind: Kind::StrongSwan,
        xdp: false,
    },
];

#[derive(Clone, Copy)]
struct Rival {
    kind: Kind,
    /// ESP by AF_XDP, copied by the kernel: veth pairs have nothing better.
    xdp: bool,
}

impl Rival {
    fn name(self) -> &'static str {
        if self.xdp {
            "this concentrator, AF_XDP"
        } else {
            self.kind.name()
        }
    }
}

struct Sample {
    packets: f64,
    cpu: f64,
    seconds: f64,
}

pub(super) fn run(effort: &Effort, number: u32, pps: f64) -> Result<Section> {
    let title = format!("{number} users, {pps} packets a second each");
    let mut section = Section::new("thin", &title, TOPOLOGY, effort);
    let mut rates: [Vec<f64>; 3] = Default::default();
    let mut table = Table::new("each run", &["", "packets/s", "CPU", "packets per CPU-second"]);
    for round in 1..=effort.runs {
        section.begin_round();
        for (samples, rival) in rates.iter_mut().zip(RIVALS) {
            let sample = measure(rival, number, pps, effort.seconds)?;
            let each = sample.packets / sample.cpu;
            eprintln!(
                "run {round}: {:<28} {each:>9.0} packets per CPU-second",
                rival.name()
            );
            table.row([
                rival.name().to_owned(),
                format!("{:.0}", sample.packets / sample.seconds),
                format!("{:.1} %", sample.cpu / sample.seconds * 100.0),
                format!("{each:.0}"),
            ]);
            samples.push(each);
        }
    }
    let [ours, fast, theirs] = rates.each_ref().map(|samples| median(samples));
    section.ratio(
        "packets per CPU-second, this concentrator over strongSwan kernel-libipsec (UDP sockets)",
        ours / theirs,
        Some(4.0),
    );
    section.ratio(
        "packets per CPU-second, this concentrator over strongSwan kernel-libipsec (AF_XDP)",
        fast / theirs,
        None,
    );
    section.ratio(
        "packets per CPU-second, AF_XDP over UDP sockets of this concentrator",
        fast / ours,
        None,
    );
    section.tables.push(table);
    let bars = RIVALS.into_iter().zip(rates);
    section.plots.push(Plot::Bars {
        title: format!("{number} thin users, packets per second of the gateway's processor time"),
        bars: bars
            .enumerate()
            .map(|(group, (rival, samples))| Bar {
                name: rival.name().to_owned(),
                group,
                samples,
            })
            .collect(),
    });
    section.note("a gateway that cannot keep pace shows fewer packets a second than were offered; the ratio is by its processor time");
    Ok(section)
}

fn measure(rival: Rival, number: u32, pps: f64, seconds: u32) -> Result<Sample> {
    let kind = rival.kind;
    let mut path = Path::up(kind, Wire::Whole, 0)?;
    if rival.xdp {
        use_xdp(&mut path)?;
    }
    let mut command = users(number, 200)?;
    if kind == Kind::StrongSwan {
        for (option, value) in [("--remote-id", SWAN_ID), ("--psk", SWAN_SECRET)] {
            let place = command
                .iter()
                .position(|word| word == option)
                .context("an option")?;
            *command.get_mut(place + 1).context("its value")? = value.to_owned();
        }
    } else {
        admit(path.ours()?)?;
    }
    let duration = (seconds + 2).to_string();
    let pace = pps.to_string();
    let words = [
        "--traffic",
        &duration,
        "--pps",
        &pace,
        "--target",
        SERVER_V4,
        "--output",
        "json",
    ];
    command.extend(words.map(str::to_owned));
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    let log = path.folder().join("users.log");
    let mut load = path.client(0)?.start("loadtest", &command, &[], &log)?;
    let gateway = path.gateway_process()?;
    let (host, device) = path.device()?;
    let packets = || -> Result<f64> {
        Ok(device_counter(host, device, "rx_packets")? + device_counter(host, device, "tx_packets")?)
    };
    // The device may be made by the first login; traffic begins when everybody is in.
    let limit = Duration::from_secs(60 + u64::from(number / 20));
    wait_for("traffic of all users", limit, || {
        anyhow::ensure!(load.is_running(), "the load generator has ended");
        Ok(packets()? > f64::from(number) * pps * 0.2)
    })
    .with_context(|| load.output())?;
    let (start, cpu, before) = (Instant::now(), cpu_time(gateway)?, packets()?);
    sleep_until(start, f64::from(seconds));
    let (after, time, end) = (packets()?, start.elapsed(), cpu_time(gateway)?);
    anyhow::ensure!(
        load.is_running(),
        "traffic ended before its time: {}",
        load.output()
    );
    Ok(Sample {
        packets: after - before,
        cpu: (end - cpu).as_secs_f64(),
        seconds: time.as_secs_f64(),
    })
}

/// Starts the gateway again, with AF_XDP on the cable that was not there the first time.
fn use_xdp(path: &mut Path) -> Result<()> {
    let daemon = &mut path.ours_mut()?.daemon;
    let file = daemon.folder().join("concentrator.toml");
    let text = std::fs::read_to_string(&file)?;
    daemon.stop()?;
    let more = "[dataplane]\nouter = \"xdp\"\ninterfaces = [\"cable0\"]\n";
    std::fs::write(&file, text + more)?;
    daemon.launch()?;
    let status = daemon.query(&["status"])?;
    let queues = status["counters"]["outer_cable0_xdp_copy_queues"].to_string();
    anyhow::ensure!(
        queues.trim_matches('"') == "1",
        "no AF_XDP: {}",
        status["warnings"]
    );
    Ok(())
}
