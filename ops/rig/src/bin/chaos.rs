//! `ops/chaos`: random faults over a cluster under traffic, every checker behind each of them.

#![allow(clippy::print_stdout, reason = "a program that talks to a person")]

use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Parser;
use rig::cluster::faults::{self, Fault, Random};
use rig::cluster::load::Users;
use rig::cluster::node::Options;
use rig::cluster::scene::Scene;
use rig::cluster::trial::{self, Trial};
use rig::cluster::world::Plan;
use rig::cluster::{coverage, inspect, report};

/// Breaks a cluster at random and checks that nobody minds. Ends with 1 if an invariant or a bar did not hold.
#[derive(Parser)]
#[command(name = "chaos")]
struct Cli {
    /// The same seed gives the same faults in the same order.
    #[arg(long)]
    seed: Option<u64>,
    /// How long; with --faults and without this: each fault once.
    #[arg(long)]
    minutes: Option<u64>,
    /// Only these, separated by commas, in this order.
    #[arg(long, value_delimiter = ',')]
    faults: Vec<String>,
    /// Name every fault and say where it is covered.
    #[arg(long)]
    list: bool,
    /// Simulated users with traffic, beside the real clients.
    #[arg(long, default_value_t = 60)]
    users: u32,
    /// Slots.
    #[arg(long, default_value_t = 6)]
    slots: u8,
    /// Let member i of etcd live on node i.
    #[arg(long)]
    together: bool,
    /// Seconds in which a slot moves at most once.
    #[arg(long, default_value_t = 10)]
    damping: u32,
    /// Where to write a page with the silences.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

fn main() -> rig::Result<()> {
    let cli = Cli::parse();
    if cli.list {
        print!("{}", coverage::list());
        return Ok(());
    }
    let result = chaos(&cli);
    rig::cleanup::undo_all();
    match result {
        Ok(true) => Ok(()),
        Ok(false) => std::process::exit(1),
        Err(error) => Err(error),
    }
}

fn chaos(cli: &Cli) -> rig::Result<bool> {
    let seed = cli
        .seed
        .unwrap_or_else(|| u64::from(std::process::id()) << 16 ^ seconds());
    let mut random = Random::new(seed);
    let list: Vec<Fault> = if cli.faults.is_empty() {
        faults::all().into_iter().filter(|f| !f.long).collect()
    } else {
        cli.faults
            .iter()
            .map(|name| faults::named(name))
            .collect::<rig::Result<_>>()?
    };
    println!("seed {seed}, {} faults", list.len());
    let mut scene = stage(cli)?;
    let watch = scene.folder.join("watch.log");
    let watching = scene.etcd.watch(scene.world.bystander(), &watch)?;
    let end = cli
        .minutes
        .map(|minutes| Instant::now() + Duration::from_secs(minutes * 60));
    let mut trials: Vec<Trial> = Vec::new();
    let mut deck: Vec<Fault> = Vec::new();
    let mut dealt = 0;
    let mut broken = 0;
    loop {
        let over = match end {
            Some(end) => Instant::now() >= end,
            None => dealt >= list.len(),
        };
        if over {
            break;
        }
        if deck.is_empty() {
            deck = list.clone();
            if cli.faults.is_empty() {
                for index in (1..deck.len()).rev() {
                    deck.swap(index, random.below(index + 1));
                }
            }
        }
        let fault = deck.remove(0);
        dealt += 1;
        match trial::run(&mut scene, &fault, &mut random) {
            Ok(trial) => {
                tell(dealt, &fault, &trial);
                trials.push(trial);
            }
            Err(error) => {
                println!(
                    "\n#{dealt} {}: cannot go on: {error:#}\n{}",
                    fault.name,
                    scene.logs()
                );
                broken = 1;
                break;
            }
        }
    }
    drop(watching);
    let rows = report::rows(&trials);
    println!("\n{}", report::table(&rows));
    let findings = inspect::run(&mut scene, &[watch])?;
    for wrong in &findings.wrong {
        println!("WRONG {wrong}");
    }
    for line in &findings.lines {
        println!("{line}");
    }
    if let Some(path) = &cli.html {
        std::fs::write(path, report::html(&rows, &trials, &format!("chaos, seed {seed}")))?;
    }
    let wrong = trials.iter().map(|t| t.wrong.len()).sum::<usize>() + findings.wrong.len() + broken;
    println!("seed {seed}: {} faults, {wrong} findings", trials.len());
    Ok(wrong == 0)
}

fn stage(cli: &Cli) -> rig::Result<Scene> {
    let plan = Plan {
        slots: cli.slots,
        together: cli.together,
        ..Plan::default()
    };
    let options = Options {
        key_log: true,
        otlp: true,
        damping_secs: cli.damping,
        ..Options::default()
    };
    let mut scene = Scene::start(&plan, &options)?;
    scene.capture(true)?;
    scene.usual_clients()?;
    if cli.users > 0 {
        scene.users(
            "user",
            &Users {
                users: cli.users,
                sample: cli.users,
                ..Users::default()
            },
        )?;
    }
    println!(
        "{} real clients and {} simulated users pass 20 packets a second each way",
        scene.clients.len(),
        cli.users
    );
    Ok(scene)
}

fn tell(number: usize, fault: &Fault, trial: &Trial) {
    println!("\n#{number} {}: {}", fault.name, fault.expected);
    println!("    {}", trial.note);
    println!(
        "    silence p50 {:.0}, p99 {:.0} ms over {} flows; others {:.0} ms; {} moves; two nodes {:.0} ms; new logins {}; machine late {:.0} ms",
        trial.percentile(50.0),
        trial.percentile(99.0),
        trial.hit.len(),
        trial.others,
        trial.moves,
        trial.double,
        trial.new_logins,
        trial.own_stall,
    );
    for wrong in &trial.wrong {
        println!("    \x1b[31mWRONG\x1b[0m {wrong}");
    }
}

fn seconds() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |d| d.as_secs())
}
