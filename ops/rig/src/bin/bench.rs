//! `ops/bench`: measurements beside a peer, in the same topology and the same run.

#![allow(clippy::print_stdout, reason = "a program that talks to a person")]

use std::time::Duration;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use rig::daemon::{Settings, program};
use rig::gateway::{Gateway, secret};
use rig::net::{Folder, Host};
use rig::pki::Key;
use rig::process::wait_for;
use rig::swan::Swan;
use rig::world::{GATEWAY_V4, SERVER_V4, World};

/// Benchmarks; every figure stands beside that of a peer, measured in the same run.
#[derive(Parser)]
#[command(name = "bench")]
struct Cli {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// TCP through the tunnel: both ends ours, both ends strongSwan's user-space ESP, and no tunnel at all.
    Esp {
        /// Repetitions, in turn; the medians are compared.
        #[arg(long, default_value_t = 5)]
        runs: usize,
        /// Seconds of each.
        #[arg(long, default_value_t = 4)]
        seconds: u32,
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
        /// Users.
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

fn main() -> rig::Result<()> {
    let result = match Cli::parse().what {
        What::Esp { runs, seconds } => esp(runs.max(1), seconds.max(1)),
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

fn cluster(users: u32, seconds: u64, logins: u32, runs: usize) -> rig::Result<()> {
    use rig::cluster::cost;
    let mut costs = cost::writes(users, seconds)?;
    for run in 1..=runs {
        let rates = cost::login_rates(logins)?;
        eprintln!(
            "run {run}: {:.0} / {:.0} logins a second (load {})",
            rates.0,
            rates.1,
            load()
        );
        costs.rates.push(rates);
    }
    println!("{costs}");
    anyhow::ensure!(
        costs.rates.is_empty() || costs.ratio() >= 0.7,
        "logins with etcd are slower than 0.7 times those with the embedded store"
    );
    Ok(())
}

/// One TCP stream from `client` to `server`, in bits per second received.
fn tcp(client: &Host, server: &Host, address: &str, seconds: u32, folder: &Folder) -> rig::Result<f64> {
    let log = folder.join("iperf3.log");
    std::fs::write(&log, "")?;
    let mut iperf = server.start(
        "iperf3",
        &["iperf3", "--forceflush", "-s", "-1", "-B", address],
        &[],
        &log,
    )?;
    iperf.expect_output("listening", Duration::from_secs(10))?;
    let text = client.run(&[
        "iperf3",
        "-c",
        address,
        "-t",
        &seconds.to_string(),
        "-O",
        "1",
        "-J",
    ])?;
    let value: serde_json::Value = serde_json::from_str(&text)?;
    value["end"]["sum_received"]["bits_per_second"]
        .as_f64()
        .context("iperf3 gave no rate")
}

fn esp(runs: usize, seconds: u32) -> rig::Result<()> {
    let mut rates: [Vec<f64>; 3] = Default::default();
    let names = ["this concentrator", "strongSwan kernel-libipsec", "no tunnel"];
    let [ours, theirs, bare] = &mut rates;
    for run in 1..=runs {
        let folder = Folder::new("bench")?;
        ours.push(our_rate(seconds, &folder)?);
        theirs.push(their_rate(seconds, &folder)?);
        let world = World::new(&["acme"])?;
        bare.push(tcp(&world.direct, &world.gateway, GATEWAY_V4, seconds, &folder)?);
        let line: Vec<_> = [&*ours, &*theirs, &*bare]
            .map(|r| format!("{:.2}", r.last().copied().unwrap_or(0.0) / 1e9))
            .to_vec();
        eprintln!("run {run}: {} Gbit/s (load {})", line.join(" / "), load());
    }
    println!("TCP through the tunnel, AES-256-GCM, one stream, {runs} runs of {seconds} s, medians");
    let reference = median(&rates[1]);
    for (name, rates) in names.iter().zip(&rates) {
        let m = median(rates);
        println!(
            "  {name:<28} {:>7.2} Gbit/s   {:>6.1} x strongSwan",
            m / 1e9,
            m / reference
        );
    }
    Ok(())
}

fn median(rates: &[f64]) -> f64 {
    let mut sorted = rates.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

fn load() -> String {
    std::fs::read_to_string("/proc/loadavg")
        .unwrap_or_default()
        .split(' ')
        .next()
        .unwrap_or_default()
        .to_owned()
}

/// The concentrator as gateway; as client the same data plane behind the same IKE code.
fn our_rate(seconds: u32, folder: &Folder) -> rig::Result<f64> {
    let gateway = Gateway::start(
        Key::Ecdsa(256),
        Settings {
            workers: 1,
            ..Settings::default()
        },
    )?;
    let direct = &gateway.world.direct;
    let secret = secret("acme");
    let program = program("loadtest")?.display().to_string();
    let log = folder.join("tunnel.log");
    std::fs::write(&log, "")?;
    let mut command = vec![
        program.as_str(),
        "tunnel",
        "--gateway",
        GATEWAY_V4,
        "--id",
        "dave@corp.example",
    ];
    command.extend([
        "--remote-id",
        "acme.vpn.example",
        "--psk",
        &secret,
        "--tun",
        "vpn1",
    ]);
    command.extend(["--ike", "aes256gcm16-prfsha384-ecp384"]);
    let mut client = direct.start("loadtest", &command, &[], &log)?;
    wait_for("the tunnel", Duration::from_secs(15), || {
        anyhow::ensure!(client.is_running(), "it has ended: {}", client.output());
        Ok(direct.ping(SERVER_V4, 1, "0.2")? == 1)
    })
    .with_context(|| format!("{}\n{}", client.output(), gateway.daemon.log()))?;
    tcp(
        direct,
        &gateway.world.site("acme")?.server,
        SERVER_V4,
        seconds,
        folder,
    )
}

/// The same world with strongSwan at both ends.
fn their_rate(seconds: u32, folder: &Folder) -> rig::Result<f64> {
    let world = World::new(&[])?;
    // Its server is one hop behind the gateway, as ours is.
    let server = Host::new("server")?;
    world.gateway.forward()?;
    world.gateway.link("lan", &server, "eth0")?;
    world.gateway.address("lan", "10.20.0.1/24")?;
    server.address("eth0", "10.20.0.2/24")?;
    server.route("default", "10.20.0.1")?;
    let quiet = "filelog { log { default = -1\n ike = -1\n cfg = -1\n } }";
    let secrets = "secrets { ike-1 { secret = \"correct horse\" } }";
    let gateway = Swan::start(&world.gateway, quiet)?;
    gateway.load(&format!(
        "connections {{ c {{ pools = p\n local {{ auth = psk\n id = gw.example }}\n remote {{ auth = psk }}\n children {{ n {{ \
         local_ts = 10.20.0.0/24\n esp_proposals = aes256gcm16 }} }} }} }}\n pools {{ p {{ addrs = 10.30.0.0/24 }} }}\n {secrets}"
    ))?;
    let client = Swan::start(&world.direct, quiet)?;
    client.load(&format!(
        "connections {{ c {{ remote_addrs = {GATEWAY_V4}\n encap = yes\n vips = 0.0.0.0\n local {{ auth = psk\n id = dave }}\n \
         remote {{ auth = psk\n id = gw.example }}\n children {{ n {{ remote_ts = 10.20.0.0/24\n esp_proposals = aes256gcm16 }} }} }} }}\n {secrets}"
    ))?;
    client.initiate("n")?;
    tcp(&world.direct, &server, SERVER_V4, seconds, folder)
}
