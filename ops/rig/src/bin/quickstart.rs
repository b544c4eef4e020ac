//! `ops/quickstart`: a real client logs in to a tenant, and its traffic flows, before your eyes.

#![allow(clippy::print_stdout, reason = "a program that talks to a person")]

use std::time::Duration;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use rig::capture::Capture;
use rig::daemon::{Settings, program};
use rig::gateway::{Gateway, Options};
use rig::net::Host;
use rig::pki::{Key, Validity};
use rig::process::Process;
use rig::swan::Swan;
use rig::world::{GATEWAY_V4, SERVER_V4, SERVER_V6};

/// A concentrator, a tenant and a real client, each in a network namespace of its own.
#[derive(Parser)]
#[command(name = "quickstart")]
struct Cli {
    /// End with status 0 once traffic has passed, instead of staying up.
    #[arg(long)]
    once: bool,
    #[command(subcommand)]
    command: Option<Part>,
}

#[derive(Subcommand)]
enum Part {
    /// The trace receiver (started by the quick start itself, in the gateway's namespace).
    #[command(hide = true)]
    Collector { address: std::net::SocketAddr },
}

fn main() -> rig::Result<()> {
    let cli = Cli::parse();
    if let Some(Part::Collector { address }) = cli.command {
        return tokio::runtime::Runtime::new()?.block_on(rig::collector::serve(address));
    }
    let result = show(cli.once);
    rig::cleanup::undo_all();
    result
}

fn step(text: &str) {
    println!("\n\x1b[1m▶ {text}\x1b[0m");
}

fn show(once: bool) -> rig::Result<()> {
    step(
        "The stage: network namespaces for the clients, a NAT, the Internet, the gateway and two tenants' networks",
    );
    println!(
        "  home 10.99.0.2 ── NAT 203.0.113.2 ── Internet ── gateway {GATEWAY_V4} ── TUN ── server {SERVER_V4}"
    );
    let settings = Settings {
        key_log: true,
        otlp: Some("http://127.0.0.1:4317".to_owned()),
        ..Settings::default()
    };
    let gateway = Gateway::start(Key::Ecdsa(256), settings)?;
    let mut collector = collector(&gateway)?;
    println!("  the concentrator serves; tenants acme and globex applied with: vpnctl apply -f");
    println!("{}", indent(&gateway.daemon.vpnctl(&["get", "connections"])?));

    step("alice logs in to acme with her certificate, from behind the NAT (strongSwan, unmodified)");
    let capture = Capture::start(&gateway.world.gateway, "eth0", &gateway.pki)?;
    let alice = gateway.user("alice", Key::Ecdsa(256), Validity::Valid)?;
    let home = &gateway.world.home;
    let client =
        gateway.certificate_client(home, "acme", &alice, "alice@corp.example", &Options::default())?;
    println!(
        "{}",
        indent(&client.initiate("net").with_context(|| gateway.daemon.log())?)
    );

    step("The login as the gateway saw it (its OpenTelemetry trace)");
    collector.expect_output("ike.setup", Duration::from_secs(20))?;
    std::thread::sleep(Duration::from_millis(300));
    println!("{}", indent(&collector.output()));

    step("Traffic: alice reaches acme's server by IPv4 and IPv6");
    for address in [SERVER_V4, SERVER_V6] {
        let answered = home.ping(address, 5, "0.2")?;
        println!("  ping {address}: {answered} of 5 answered");
        anyhow::ensure!(answered == 5, "packets were lost");
    }
    measure(&gateway, home)?;

    step("Somebody with a wrong key is refused, and the gateway says why");
    let wrong = Options {
        secret: Some("a guess".to_owned()),
        ..Options::direct()
    };
    let mallory = gateway.psk_client(&gateway.world.direct, "acme", "mallory@corp.example", &wrong)?;
    anyhow::ensure!(mallory.initiate("net").is_err(), "a wrong key was accepted");
    drop(mallory);
    println!("{}", indent(&gateway.daemon.vpnctl(&["attempts"])?));

    step("vpnctl sessions");
    println!("{}", indent(&gateway.daemon.vpnctl(&["sessions"])?));
    let file = capture.finish();
    if once {
        println!("\nTraffic has passed. All is taken down again.");
        return Ok(());
    }
    stay(&gateway, &client, &file)
}

fn collector(gateway: &Gateway) -> rig::Result<Process> {
    let own = std::env::current_exe()?.display().to_string();
    let log = gateway.pki.join("collector.log");
    gateway
        .world
        .gateway
        .start("collector", &[&own, "collector", "127.0.0.1:4317"], &[], &log)
}

fn measure(gateway: &Gateway, home: &Host) -> rig::Result<()> {
    let server = &gateway.world.site("acme")?.server;
    let log = gateway.pki.join("iperf3.log");
    let mut iperf = server.start(
        "iperf3",
        &["iperf3", "--forceflush", "-s", "-1", "-B", SERVER_V4],
        &[],
        &log,
    )?;
    iperf.expect_output("listening", Duration::from_secs(10))?;
    let text = home.run(&["iperf3", "-c", SERVER_V4, "-t", "3", "-J"])?;
    let value: serde_json::Value = serde_json::from_str(&text)?;
    let rate = value["end"]["sum_received"]["bits_per_second"]
        .as_f64()
        .context("no rate")?;
    println!(
        "  TCP through the tunnel for 3 s: {:.0} Mbit/s (the client's own user-space ESP is the limit here)",
        rate / 1e6
    );
    Ok(())
}

fn stay(gateway: &Gateway, client: &Swan, capture: &std::path::Path) -> rig::Result<()> {
    let vpnctl = program("vpnctl")?;
    let socket = gateway.daemon.folder().join("api.sock");
    let uri = format!("unix://{}", client.folder().join("vici").display());
    step("It stays up until Ctrl-C. To play with, in another terminal:");
    println!(
        "  alias v='{} --endpoint unix:{}'",
        vpnctl.display(),
        socket.display()
    );
    println!("  v sessions --watch    v attempts    v describe tenant acme    v disconnect ID");
    println!("  ip netns exec {} ping {SERVER_V4}", gateway.world.home.name());
    println!(
        "  ip netns exec {} swanctl --list-sas --uri {uri}",
        gateway.world.home.name()
    );
    println!(
        "  ip netns exec {} curl -s http://127.0.0.1:9464/metrics",
        gateway.world.gateway.name()
    );
    println!(
        "  the capture {} and tshark's key tables in {}",
        capture.display(),
        gateway.daemon.keys().display()
    );
    loop {
        std::thread::sleep(Duration::from_secs(3600));
    }
}

fn indent(text: &str) -> String {
    text.trim_end()
        .lines()
        .map(|l| format!("  {l}"))
        .collect::<Vec<_>>()
        .join("\n")
}
