//! More than the gateway can carry: how much of it comes through, whether users still get in, and whether another tenant
//! notices.

use std::time::{Duration, Instant};

use super::Effort;
use super::many::{admit, users};
use super::path::{Kind, Path, Wire};
use super::plot::{Plot, Series};
use super::section::{Section, Table};
use super::stats::median;
use super::traffic::{Blast, cpu_time, device_counter, make_sink, sleep_until, sunk};
use crate::Result;
use crate::net::Host;
use crate::process::{Process, run as command, wait_for};
use crate::world::SERVER_V4;

const TOPOLOGY: &str = "two clients of two tenants, with a tunnel and a cable each, and a third host whose users log in; one gateway with one worker, \
    alone on the part of the first core that a real-time thread leaves it in each millisecond; everything else on the others, the work \
    of the kernel for what comes over the cables too. The first client's datagrams are sent in bursts, cut before the \
    cable, and arrive at the gateway one by one. Offered is what comes over the two cables, goodput what the servers behind the \
    gateway have counted (and thrown away), both between two moments while the flow goes on";
/// Offered, in parts of the peak that the round has found first.
const FACTORS: [f64; 8] = [0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 2.5, 3.0];
/// Takes a part of the gateway's core away: a whole core carries more than the other one can send.
const BURN: &str = include_str!("burn.py");
/// What the other tenant offers, in the same unit.
const OTHER: f64 = 0.1;
/// Seconds of a flow before and after the time that counts.
const MARGIN: f64 = 0.4;
/// Where the search for the peak begins, in datagrams a second, and by what it grows from step to step.
const SEARCH: (f64, f64) = (20_000.0, 1.4);
/// Steps of that search.
const STEPS: usize = 16;
/// Above this part of what was wanted or offered, the generator or the gateway still keeps pace.
const PACE: f64 = 0.9;
/// How long a queue may go on draining after a flow.
const DRAIN: Duration = Duration::from_secs(20);
/// Users that log in during each measurement, those of the peak too: a login takes a good part of a small share of a core.
const LOGINS: u32 = 5;

/// A measurement at one offered rate, in datagrams a second of both tenants.
#[derive(Debug, Clone, Copy)]
struct Sample {
    offered: f64,
    goodput: f64,
    /// The most that came through in this round. Others work on the machine: rounds are compared by parts of it.
    peak: f64,
    /// What came through of what the other tenant had offered.
    other: f64,
    logins: u64,
    login_ms: f64,
    /// Microseconds of a processor that the gateway had for each datagram that came through.
    cost: f64,
    /// The part of the gateway's core that went into interrupts: what is done there for the cables.
    interrupts: f64,
}

struct World {
    path: Path,
    /// Host of the logins.
    visitor: usize,
    size: u32,
    seconds: f64,
    cores: String,
    /// Process of the gateway.
    process: u32,
    /// Takes the rest of the gateway's core.
    _burner: Option<Process>,
}

/// Datagrams of `size` octets; the gateway has `share` % of a core.
pub(super) fn run(effort: &Effort, size: u32, share: u32) -> Result<Section> {
    let title = format!("More than a gateway with {share} % of a core can carry, datagrams of {size} octets");
    let mut section = Section::new("overload", &title, TOPOLOGY, effort);
    let mut samples: Vec<Vec<Sample>> = vec![Vec::new(); FACTORS.len()];
    for round in 1..=effort.runs {
        section.begin_round();
        let world = World::new(effort, size, share)?;
        let mut best = world.find_peak()?;
        let unit = best;
        for (factor, list) in FACTORS.iter().zip(&mut samples) {
            let sample = world.measure(unit * factor, unit * OTHER)?;
            world.settle()?;
            eprintln!(
                "run {round}: offered {:>8.0}/s, through {:>8.0}/s; other tenant {:.0} %; {} of {LOGINS} logins, {:.0} ms; \
                 {:.1} CPU-µs each",
                sample.offered,
                sample.goodput,
                sample.other * 100.0,
                sample.logins,
                sample.login_ms,
                sample.cost
            );
            best = best.max(sample.goodput);
            list.push(sample);
        }
        for sample in samples.iter_mut().filter_map(|list| list.last_mut()) {
            sample.peak = best;
        }
    }
    tell(&mut section, &samples);
    Ok(section)
}

fn tell(section: &mut Section, samples: &[Vec<Sample>]) {
    let of = |list: &[Sample], field: fn(&Sample) -> f64| median(&list.iter().map(field).collect::<Vec<_>>());
    let mut table = Table::new(
        "datagrams a second, medians",
        &[
            "wanted",
            "offered",
            "of the peak",
            "goodput",
            "of the peak",
            "other tenant",
            "logins",
            "ms a login",
            "CPU-µs each",
            "interrupts",
        ],
    );
    let (mut goodput, mut ideal, mut other) = (Vec::new(), Vec::new(), Vec::new());
    for (factor, list) in FACTORS.iter().zip(samples) {
        let (offered, through) = (of(list, |s| s.offered), of(list, |s| s.goodput));
        let (wanted, reached) = (of(list, |s| s.offered / s.peak), of(list, |s| s.goodput / s.peak));
        let share = of(list, |s| s.other);
        let logins: u64 = list.iter().map(|s| s.logins).sum();
        table.row([
            format!("{factor}"),
            format!("{offered:.0}"),
            format!("{wanted:.2}"),
            format!("{through:.0}"),
            format!("{reached:.2}"),
            format!("{:.1} %", share * 100.0),
            format!("{logins} of {}", LOGINS as usize * list.len()),
            format!("{:.0}", of(list, |s| s.login_ms)),
            format!("{:.1}", of(list, |s| s.cost)),
            format!("{:.0} %", of(list, |s| s.interrupts) * 100.0),
        ]);
        goodput.push((wanted, reached));
        ideal.push((wanted, wanted.min(1.0)));
        other.push((wanted, share));
    }
    section.tables.push(table);
    for factor in [1.0, 2.0, 3.0] {
        let at = FACTORS
            .iter()
            .position(|f| (f - factor).abs() < 1e-9)
            .and_then(|at| samples.get(at));
        if let Some(list) = at {
            let offered = of(list, |s| s.offered / s.peak);
            section.ratio(
                format!("goodput over the peak with {factor} times the peak wanted, {offered:.1} offered"),
                of(list, |s| s.goodput / s.peak),
                (factor > 1.0).then_some(0.9),
            );
        }
    }
    let far = samples
        .iter()
        .max_by(|a, b| of(a, |s| s.offered / s.peak).total_cmp(&of(b, |s| s.offered / s.peak)));
    if let Some(far) = far {
        let reached = of(far, |s| s.offered / s.peak);
        let words = format!("when {reached:.1} times the peak is offered");
        section.ratio(
            format!("goodput over the peak {words}"),
            of(far, |s| s.goodput / s.peak),
            Some(0.9),
        );
        section.ratio(
            format!("another tenant's share {words}"),
            of(far, |s| s.other),
            Some(0.95),
        );
        let logins: u64 = far.iter().map(|s| s.logins).sum();
        let part = logins as f64 / (f64::from(LOGINS) * far.len() as f64);
        section.ratio(format!("logins that succeed {words}"), part, Some(1.0));
        if reached < 2.9 {
            section.note(format!(
                "the generator and the client on the other cores made {reached:.1} times the peak and no more"
            ));
        }
    }
    let line = |name: &str, mut points: Vec<(f64, f64)>| {
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        Series {
            name: name.to_owned(),
            points,
        }
    };
    section.plots.push(Plot::Lines {
        title: "Goodput by what is offered, in parts of the peak".to_owned(),
        x: "offered / peak".to_owned(),
        y: "goodput / peak".to_owned(),
        log: false,
        series: vec![
            line("goodput", goodput),
            line("if nothing were lost", ideal),
            line("other tenant's share", other),
        ],
    });
}

impl World {
    fn new(effort: &Effort, size: u32, share: u32) -> Result<Self> {
        let mut path = Path::up(Kind::Ours, Wire::Single, 1)?;
        let second = path.add_host()?;
        path.connect(second, "globex")?;
        let visitor = path.add_host()?;
        admit(path.ours()?)?;
        for tenant in ["acme", "globex"] {
            make_sink(&path.ours()?.world.site(tenant)?.server)?;
        }
        let last = std::thread::available_parallelism().map_or(1, usize::from) - 1;
        let cores = match last {
            0 => "0".to_owned(),
            _ => format!("1-{last}"),
        };
        let process = path.gateway_process()?;
        command(&["taskset", "-apc", "0", &process.to_string()])?;
        for host in [path.client(0)?, path.client(second)?] {
            for id in command(&["ip", "netns", "pids", host.name()])?.split_whitespace() {
                command(&["taskset", "-apc", &cores, id])?;
            }
        }
        let burner = (share < 100).then(|| {
            let part = f64::from(100 - share) / 100.0;
            let log = path.folder().join("burn.log");
            std::fs::write(&log, "")?;
            let command = ["python3", "-c", BURN, &part.to_string()];
            path.client(visitor)?.start("burn", &command, &[], &log)
        });
        Ok(Self {
            _burner: burner.transpose()?,
            path,
            visitor,
            size,
            seconds: f64::from(effort.seconds),
            cores,
            process,
        })
    }

    /// Offers more and more until it does not come through any more: the most that did.
    fn find_peak(&self) -> Result<f64> {
        let (mut rate, growth) = SEARCH;
        let (mut best, mut misses) = (0.0_f64, 0);
        for _ in 0..STEPS {
            let sample = self.measure(rate, rate * OTHER)?;
            self.settle()?;
            best = best.max(sample.goodput);
            // Once may be somebody else's work on this machine.
            if sample.goodput < sample.offered * PACE || sample.offered < rate * PACE {
                misses += 1;
                if misses == 2 {
                    break;
                }
            }
            rate *= growth;
        }
        anyhow::ensure!(best > 0.0, "nothing came through");
        Ok(best)
    }

    /// Waits until no queue drains any more, so that the next flow does not pay for this one.
    fn settle(&self) -> Result<()> {
        let mut last = [f64::NAN; 2];
        wait_for("the queues to drain", DRAIN, || {
            std::thread::sleep(Duration::from_millis(100));
            let server = &self.path.ours()?.world.site("acme")?.server;
            let now = [
                device_counter(self.path.gateway(), "cable0", "rx_packets")?,
                sunk(server, self.size)?,
            ];
            // Liveness may pass at any time.
            let quiet = now.iter().zip(&last).all(|(now, last)| now - last < 20.0);
            last = now;
            Ok(quiet)
        })
    }

    fn blast(&self, host: &Host, rate: f64, burst: u32, log: &str) -> Result<Process> {
        let blast = Blast {
            rate,
            size: self.size,
            seconds: self.seconds + 2.0 * MARGIN + 0.3,
            burst,
        };
        blast.begin(
            host,
            &["taskset", "-c", &self.cores],
            SERVER_V4,
            &self.path.folder().join(log),
        )
    }

    fn measure(&self, rate: f64, other: f64) -> Result<Sample> {
        let gateway = self.path.gateway();
        let (first, second) = (self.path.client(0)?, self.path.client(1)?);
        let world = &self.path.ours()?.world;
        let servers = [&world.site("acme")?.server, &world.site("globex")?.server];
        let mut flood = self.blast(first, rate, (30_000 / self.size).clamp(1, 60), "flood.log")?;
        let mut beside = self.blast(second, other, 1, "beside.log")?;
        let begin = Instant::now();
        sleep_until(begin, 0.3 + MARGIN);
        let count = || -> Result<[f64; 4]> {
            Ok([
                device_counter(gateway, "cable0", "rx_packets")?,
                device_counter(gateway, "cable1", "rx_packets")?,
                sunk(servers[0], self.size)?,
                sunk(servers[1], self.size)?,
            ])
        };
        let (start, before) = (Instant::now(), count()?);
        let (cpu, ticks) = (cpu_time(self.process)?, interrupt_ticks()?);
        let logins = self.log_in()?;
        sleep_until(start, self.seconds);
        let (time, after) = (start.elapsed().as_secs_f64(), count()?);
        let cpu = cpu_time(self.process)?.saturating_sub(cpu).as_secs_f64();
        let ticks = interrupt_ticks()? - ticks;
        for process in [&mut flood, &mut beside] {
            process.wait(Duration::from_secs(20))?;
        }
        let (logins, login_ms) = finish_logins(logins)?;
        let [offered, beside, through, share] = [0, 1, 2, 3].map(|i: usize| {
            let at = |counts: &[f64; 4]| counts.get(i).copied().unwrap_or(f64::NAN);
            at(&after) - at(&before)
        });
        Ok(Sample {
            offered: (offered + beside) / time,
            goodput: (through + share) / time,
            peak: f64::NAN,
            other: share / beside,
            logins,
            login_ms,
            cost: cpu * 1e6 / (through + share).max(1.0),
            interrupts: ticks / 100.0 / time,
        })
    }

    fn log_in(&self) -> Result<Process> {
        let mut words = users(LOGINS, 50)?;
        words.extend(["--output", "json", "--first", "70000"].map(str::to_owned));
        let pinned = ["taskset", "-c", &self.cores];
        let words: Vec<&str> = pinned
            .into_iter()
            .chain(words.iter().map(String::as_str))
            .collect();
        let log = self.path.folder().join("logins.json");
        std::fs::write(&log, "")?;
        self.path
            .client(self.visitor)?
            .start("loadtest", &words, &[], &log)
    }
}

/// What the first core has spent in interrupts, in hundredths of a second.
fn interrupt_ticks() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/stat")?;
    let line = text.lines().find(|line| line.starts_with("cpu0 "));
    let cells = line.into_iter().flat_map(str::split_whitespace).skip(6).take(2);
    Ok(cells.filter_map(|cell| cell.parse::<f64>().ok()).sum())
}

/// Users that got in, and the median of the time it took.
fn finish_logins(mut process: Process) -> Result<(u64, f64)> {
    process.wait(Duration::from_secs(60))?;
    let text = process.output();
    let json = text.find('{').and_then(|at| text.get(at..)).unwrap_or_default();
    let value: serde_json::Value = serde_json::from_str(json)?;
    let logged_in = value["logged_in"].as_u64().unwrap_or(0);
    Ok((logged_in, value["login_ms"]["p50"].as_f64().unwrap_or(f64::NAN)))
}
