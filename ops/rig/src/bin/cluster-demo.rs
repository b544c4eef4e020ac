//! `ops/cluster-demo`: three nodes, three members of etcd, real clients and many users; kill what you like.

#![allow(clippy::print_stdout, reason = "a program that talks to a person")]

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use rig::cluster::faults::{self, Fault, Random};
use rig::cluster::load::Users;
use rig::cluster::node::Options;
use rig::cluster::scene::Scene;
use rig::cluster::trial::{self, Trial};
use rig::cluster::world::{Net, Plan, World, member_address, node_name, service_address};
use rig::cluster::{inspect, report};

/// Three concentrators that carry each other's tunnels on, before your eyes.
#[derive(Parser)]
#[command(name = "cluster-demo")]
struct Cli {
    /// Let a fixed list of faults happen, print the silences, and end: with 1 if a bar was missed or anybody logged in anew.
    #[arg(long)]
    once: bool,
    /// How often each fault of the list happens.
    #[arg(long, default_value_t = 1)]
    repeats: usize,
    /// The list.
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "kill,service-down,host-death,host-with-leader,move,drain,rolling-restart"
    )]
    faults: Vec<String>,
    /// Simulated users.
    #[arg(long, default_value_t = 1000)]
    users: u32,
    /// How many of them pass 20 packets a second each way.
    #[arg(long, default_value_t = 200)]
    sample: u32,
    /// Slots.
    #[arg(long, default_value_t = 6)]
    slots: u8,
    /// Let each node have its member of etcd on the same machine.
    #[arg(long)]
    together: bool,
    /// Seconds in which a slot moves at most once, unless its owner's process is known dead.
    #[arg(long, default_value_t = 10)]
    damping: u32,
    /// Where the page and the picture go; they are called `cluster-demo.html` and `cluster-demo.svg`.
    #[arg(long, default_value = ".", value_name = "FOLDER")]
    out: PathBuf,
    /// Capture everything, and look at the captures at the end (S1, S9).
    #[arg(long)]
    capture: bool,
}

fn main() -> rig::Result<()> {
    let cli = Cli::parse();
    let result = demo(&cli);
    rig::cleanup::undo_all();
    match result {
        Ok(true) => Ok(()),
        Ok(false) => std::process::exit(1),
        Err(error) => Err(error),
    }
}

fn step(text: &str) {
    println!("\n\x1b[1m▶ {text}\x1b[0m");
}

fn demo(cli: &Cli) -> rig::Result<bool> {
    let list: Vec<Fault> = cli
        .faults
        .iter()
        .map(|name| faults::named(name))
        .collect::<rig::Result<_>>()?;
    step(
        "The stage: nodes a, b, c; etcd e0, e1, e2; clients; a server inside; each in a network namespace of its own",
    );
    let plan = Plan {
        slots: cli.slots,
        together: cli.together,
        ..Plan::default()
    };
    let options = Options {
        damping_secs: cli.damping,
        ..Options::default()
    };
    let mut scene = Scene::start(&plan, &options)?;
    if cli.capture {
        scene.capture(false)?;
    }
    println!(
        "  slots {} to {}, each with an address that clients call and a share of every pool",
        service_address(0),
        service_address(cli.slots.saturating_sub(1))
    );
    owners(&scene);
    step(
        "Clients log in: real strongSwan ones (certificates and pre-shared keys, two behind a NAT), then simulated users",
    );
    scene.usual_clients()?;
    if cli.users > 0 {
        scene.users(
            "user",
            &Users {
                users: cli.users,
                sample: cli.sample.min(cli.users),
                rate: 150,
                ..Users::default()
            },
        )?;
    }
    println!(
        "  {} strongSwan clients and {} users are in; {} flows of 20 packets a second each way",
        scene.clients.len(),
        cli.users,
        scene.clients.len() + usize::try_from(cli.sample.min(cli.users))?
    );
    if cli.once || cli.repeats > 1 {
        script(cli, &mut scene, &list)
    } else {
        live(&mut scene)
    }
}

fn owners(scene: &Scene) {
    for node in 0..scene.nodes.len() {
        println!(
            "  node {} serves slots {:?}",
            node_name(node),
            scene.slots_of(node)
        );
    }
}

fn script(cli: &Cli, scene: &mut Scene, list: &[Fault]) -> rig::Result<bool> {
    let mut random = Random::new(1);
    let mut trials: Vec<Trial> = Vec::new();
    for round in 0..cli.repeats.max(1) {
        for fault in list {
            if cli.repeats <= 1 {
                step(&format!("{}: {}", fault.name, fault.expected));
            }
            // A slot that has just moved stays for a while unless its owner dies: each fault is to meet a calm cluster.
            std::thread::sleep(Duration::from_secs(u64::from(cli.damping)));
            let trial = trial::run(scene, fault, &mut random)?;
            println!(
                "  {:>3} {:<18} p50 {:>5.0} ms, p99 {:>5.0} ms, others {:>4.0} ms, new logins {}   {}",
                round + 1,
                fault.name,
                trial.percentile(50.0),
                trial.percentile(99.0),
                trial.others,
                trial.new_logins,
                trial.note
            );
            for wrong in &trial.wrong {
                println!("      \x1b[31mWRONG\x1b[0m {wrong}");
            }
            trials.push(trial);
        }
    }
    step("The longest silence of each client");
    let rows = report::rows(&trials);
    println!("{}", report::table(&rows));
    let title = format!(
        "{} clients, {} nodes, {} slots: the longest silence of each client",
        scene.clients.len() + usize::try_from(cli.sample.min(cli.users))?,
        scene.nodes.len(),
        cli.slots
    );
    let (page, picture) = (
        cli.out.join("cluster-demo.html"),
        cli.out.join("cluster-demo.svg"),
    );
    std::fs::write(&page, report::html(&rows, &trials, &title))?;
    std::fs::write(&picture, report::svg(&rows, &title))?;
    println!("  written: {} and {}", page.display(), picture.display());
    let mut good = rows.iter().all(report::Row::holds);
    good &= trials.iter().all(|t| t.new_logins == 0);
    // With repeats the bar is that of all runs together; a single run is held to everything that it saw.
    good &= cli.repeats > 1 || trials.iter().all(|t| t.wrong.is_empty());
    if cli.capture {
        let findings = inspect::run(scene, &[])?;
        for line in &findings.lines {
            println!("  {line}");
        }
        good &= findings.wrong.is_empty();
    }
    println!(
        "\n{}",
        if good {
            "Every bar holds; nobody logged in again."
        } else {
            "A bar was missed."
        }
    );
    Ok(good)
}

fn live(scene: &mut Scene) -> rig::Result<bool> {
    step("Break something, in another terminal:");
    for (index, daemon) in scene.nodes.iter().enumerate() {
        println!(
            "  kill -9 {:<26} # node {}; started again by itself after 10 s",
            daemon.id().unwrap_or(0),
            node_name(index)
        );
    }
    let switch = scene.world.switch.name();
    println!(
        "  ip -n {switch} link set {} down       # a's cable to the clients; `up` plugs it in",
        World::port(Net::Service, 0)
    );
    println!(
        "  ip -n {switch} link set {} down       # a's cable to the others and to etcd",
        World::port(Net::Cluster, 0)
    );
    println!(
        "  ip netns exec {switch} nft add rule bridge rig forward ip saddr {} drop   # `nft flush chain bridge rig forward` mends",
        member_address(0)
    );
    if let (Ok(vpnctl), Some(first)) = (rig::daemon::program("vpnctl"), scene.nodes.first()) {
        println!(
            "  alias v='{} --endpoint unix:{}'",
            vpnctl.display(),
            first.folder().join("api.sock").display()
        );
        println!("  v cluster status    v cluster drain    v cluster undrain    v cluster move 0 b");
    }
    println!("  Ctrl-C ends it and takes everything away.\n");
    let mut dead = vec![0; scene.nodes.len()];
    scene.mark("live")?;
    loop {
        std::thread::sleep(Duration::from_secs(1));
        let silences = scene.since("live")?;
        let all: Vec<u8> = (0..scene.world.plan.slots).collect();
        let millis = silences.of(&all);
        let open = silences.list.iter().filter(|s| s.open).count();
        let holders = scene.world.eyes().all_holders();
        let slots: Vec<String> = holders
            .iter()
            .map(|nodes| nodes.iter().map(|&n| node_name(n)).collect::<Vec<_>>().join("+"))
            .map(|names| if names.is_empty() { "-".to_owned() } else { names })
            .collect();
        print!(
            "\r\x1b[K  slots {}   silent now {open:>4}   longest so far: max {:.0} ms, p99 {:.0} ms, p50 {:.0} ms   new logins {}",
            slots.join(" "),
            millis.first().copied().unwrap_or(0.0),
            trial::percentile(&millis, 99.0),
            trial::percentile(&millis, 50.0),
            silences.new_logins
        );
        std::io::stdout().flush()?;
        for (index, count) in dead.iter_mut().enumerate() {
            let daemon = scene.node(index)?;
            *count = if daemon.is_running() { 0 } else { *count + 1 };
            if *count == 10 {
                daemon.launch()?;
                println!(
                    "\n  node {} is back as process {}",
                    node_name(index),
                    daemon.id().unwrap_or(0)
                );
                scene.mark("live")?;
            }
        }
    }
}
