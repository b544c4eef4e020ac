//! `ops/bench`: measurements beside a peer, in the same topology and the same run.

#![allow(clippy::print_stdout, reason = "a program that talks to a person")]

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use rig::bench::{Bench, Effort};

/// Benchmarks; every figure stands beside that of a peer, measured in the same run.
///
/// RIG_AEAD=ring (aws-lc, ipsec-mb) in the environment names the library of our AEAD; without it the fastest one is taken.
#[derive(Parser)]
#[command(name = "bench")]
struct Cli {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// ESP without I/O beside its cipher alone: every suite, 64 to 9,000 octets, 1 and 1,000 SAs.
    Transform {
        /// Effort of the measurement; --seconds 1 is a short look.
        #[command(flatten)]
        common: Common,
        /// Only rows with all of these words, such as "ipsec-mb 1400".
        #[arg(long, default_value = "")]
        only: String,
    },
    /// TCP through the tunnel: both ends ours, strongSwan's user-space ESP, boringtun, wireguard-go, ours without a
    /// cipher, and no tunnel; super-packets whole, and as a NIC has it.
    Esp(Common),
    /// The rate of an early and of a late client among thousands of tunnels, over that of a single one.
    Many {
        /// Effort of the measurement.
        #[command(flatten)]
        common: Common,
        /// Other tunnels.
        #[arg(long, value_delimiter = ',', default_value = "1000,10000")]
        others: Vec<u32>,
    },
    /// Many users, one packet at a time: packets for each CPU-second of the gateway, beside strongSwan's.
    Thin {
        /// Effort of the measurement.
        #[command(flatten)]
        common: Common,
        /// How many users.
        #[arg(long, default_value_t = 1000)]
        users: u32,
        /// Packets a second of each.
        #[arg(long, default_value_t = 20.0)]
        pps: f64,
    },
    /// Half to three times the peak is offered: goodput, logins meanwhile, and another tenant's share.
    Overload {
        /// Effort of the measurement.
        #[command(flatten)]
        common: Common,
        /// Octets of each datagram.
        #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u32).range(16..=1300))]
        size: u32,
        /// What the gateway has of its core in %, or the other core could not send three times what it carries.
        #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(5..=100))]
        share: u32,
    },
    /// Round trips with the gateway idle, and beside another client's bulk.
    Latency(Common),
    /// System calls of a worker for each packet of bulk traffic (strace -c).
    Syscalls(Common),
    /// One fat peer: its TCP through one worker, and through several by per-resource child SAs (RFC 9611).
    Fat {
        /// Effort of the measurement.
        #[command(flatten)]
        common: Common,
        /// Workers at each end.
        #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(2..=8))]
        workers: u8,
    },
    /// Everything above, and one HTML page of it with plots.
    Report {
        /// Effort of each measurement.
        #[command(flatten)]
        common: Common,
        /// A short look at everything: one run of a second each, fewer tunnels.
        #[arg(long)]
        quick: bool,
        /// Measure nothing: draw the page from what earlier commands have left in the folder.
        #[arg(long, conflicts_with = "quick")]
        draw: bool,
    },
    /// Simulated users logged in at once and passing traffic; the memory that each costs.
    Users {
        /// How many.
        #[arg(long, default_value_t = 2000)]
        users: u32,
        /// Seconds of traffic.
        #[arg(long, default_value_t = 20)]
        seconds: u32,
    },
    /// What a cluster writes to etcd, and its logins a second beside those of a single node.
    Cluster {
        /// Users whose writes are counted; 0: only logins are timed.
        #[arg(long, default_value_t = 100)]
        users: u32,
        /// Seconds of each measurement of an idle cluster.
        #[arg(long, default_value_t = 20)]
        seconds: u64,
        /// Users that log in at once, and how often each of the two is measured, in turn.
        #[arg(long, default_value_t = 1000)]
        logins: u32,
        /// Rounds of that.
        #[arg(long, default_value_t = 3)]
        runs: usize,
    },
}

/// How long, how often, and where to.
#[derive(Args)]
struct Common {
    /// Repetitions, in turn; medians are told.
    #[arg(long, default_value_t = 5)]
    runs: usize,
    /// Seconds of each.
    #[arg(long, default_value_t = 4)]
    seconds: u32,
    /// Folder for JSON, SVG and the page.
    #[arg(
        long,
        value_name = "FOLDER",
        env = "BENCH_OUT",
        default_value = "target/bench"
    )]
    out: PathBuf,
}

impl Common {
    fn effort(&self) -> Effort {
        Effort {
            runs: self.runs.max(1),
            seconds: self.seconds.max(1),
            out: self.out.clone(),
        }
    }
}

fn main() -> rig::Result<()> {
    let result = match Cli::parse().what {
        What::Transform { common, only } => one(&Bench::Transform { only }, &common.effort()),
        What::Esp(common) => one(&Bench::Esp, &common.effort()),
        What::Many { common, others } => one(&Bench::Many(others), &common.effort()),
        What::Thin { common, users, pps } => one(&Bench::Thin { users, pps }, &common.effort()),
        What::Overload { common, size, share } => one(&Bench::Overload { size, share }, &common.effort()),
        What::Latency(common) => one(&Bench::Latency, &common.effort()),
        What::Fat { common, workers } => one(&Bench::Fat(workers), &common.effort()),
        What::Syscalls(common) => one(&Bench::Syscalls, &common.effort()),
        What::Report { common, quick, draw } => report(&common, quick, draw),
        What::Users { users, seconds } => rig::load::users(users, seconds).map(|report| println!("{report}")),
        What::Cluster {
            users,
            seconds,
            logins,
            runs,
        } => cluster(users, seconds, logins, runs),
    };
    rig::cleanup::undo_all();
    result
}

/// Measures one thing and prints it.
fn one(bench: &Bench, effort: &Effort) -> rig::Result<()> {
    println!("{}", bench.run(effort)?);
    eprintln!(
        "written to {}",
        effort.out.join(bench.name()).with_extension("json").display()
    );
    Ok(())
}

/// Measures everything; what fails does not keep the rest from being measured.
fn report(common: &Common, quick: bool, draw: bool) -> rig::Result<()> {
    let mut effort = common.effort();
    if quick {
        (effort.runs, effort.seconds) = (1, 1);
    }
    let mut failed = Vec::new();
    for bench in Bench::all(quick).into_iter().filter(|_| !draw) {
        eprintln!("== {}", bench.name());
        if let Err(error) = one(&bench, &effort) {
            eprintln!("{} failed: {error:#}", bench.name());
            failed.push(bench.name());
        }
    }
    println!("{}", rig::bench::draw(&effort.out)?.display());
    anyhow::ensure!(
        failed.is_empty(),
        "not everything could be measured: {}",
        failed.join(", ")
    );
    Ok(())
}

fn cluster(users: u32, seconds: u64, logins: u32, runs: usize) -> rig::Result<()> {
    use rig::cluster::cost;
    let mut costs = match users {
        0 => cost::Costs::default(),
        users => cost::writes(users, seconds)?,
    };
    for run in 1..=runs {
        for placement in cost::Placement::ALL {
            let (embedded, etcd) = cost::login_rates(logins, placement)?;
            eprintln!("run {run}, {placement}: {embedded} / {etcd} (load {})", load());
            costs.rates.push((placement, embedded, etcd));
        }
    }
    println!("{costs}");
    anyhow::ensure!(
        costs.rates.is_empty() || costs.ratio(cost::Placement::Apart) >= 0.7,
        "logins of a node with a processor of its own are slower with etcd than 0.7 times those with the embedded store"
    );
    Ok(())
}

fn load() -> String {
    std::fs::read_to_string("/proc/loadavg")
        .unwrap_or_default()
        .split(' ')
        .next()
        .unwrap_or_default()
        .to_owned()
}
