//! A tenant's rate and a session's rate hold, cost another tenant nothing, and are told wherever an operator looks.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use std::time::Duration;

use rig::daemon::Settings;
use rig::gateway::{Gateway, Options};
use rig::net::{Folder, Host};
use rig::pki::Key;
use rig::process::{Process, wait_for};

/// Datagrams a second of each client, octets of each with its headers, and seconds.
const RATE: u64 = 800;
const SIZE: u64 = 1_028;
const SECONDS: u64 = 4;
/// What of them the limited tenant may send.
const LIMIT: u64 = 200;

#[test]
fn the_rates_of_a_tenant_hold_and_hurt_nobody_else() -> rig::Result<()> {
    let gateway = Gateway::start(Key::Ecdsa(256), Settings::default())?;
    let (home, direct) = (&gateway.world.home, &gateway.world.direct);
    let at_acme = gateway.psk_client(home, "acme", "alice@corp.example", &Options::default())?;
    let at_globex = gateway.psk_client(direct, "globex", "alice@corp.example", &Options::direct())?;
    at_acme.initiate("net")?;
    at_globex.initiate("net")?;
    gateway.expect_sessions(2)?;
    for tenant in ["acme", "globex"] {
        count_sunk(&gateway.world.site(tenant)?.server)?;
    }
    for limit in ["rate_in", "session_rate_in"] {
        let octets = LIMIT * SIZE;
        limit_acme(
            &gateway,
            &format!("{{ {limit}: {{ octets_per_sec: {octets} }} }}"),
        )?;
        let [acme, globex] = flood(&gateway)?;
        let (wanted, all) = (LIMIT * SECONDS, RATE * SECONDS);
        // 50 ms may be made up for, and the machine is not ours alone.
        assert!(
            acme > wanted * 8 / 10 && acme < wanted * 13 / 10,
            "{limit}: {acme} of {wanted}"
        );
        assert!(globex > all * 95 / 100, "{limit}: {globex} of {all}");
    }
    let reasons = ["tenant_rate", "session_rate"];
    wait_for("the counters", Duration::from_secs(10), || {
        let sessions = gateway.sessions()?;
        let acme = sessions.iter().find(|s| s["tenant"] == "acme").unwrap();
        let status = gateway.daemon.query(&["status"])?;
        let tenants = status["tenants"].as_array().unwrap();
        let tenant = tenants.iter().find(|t| t["tenant"] == "acme").unwrap();
        let metrics = gateway
            .world
            .gateway
            .run(&["curl", "-s", "http://127.0.0.1:9464/metrics"])?;
        Ok(reasons.iter().all(|reason| {
            let line = metrics.lines().find(|line| {
                line.starts_with("vpn_esp_tenant_drops") && line.contains(reason) && line.contains("acme")
            });
            line.is_some()
                && number(&acme["drops"][reason]) > 1_000
                && number(&tenant["drops"][reason]) > 1_000
        }))
    })?;
    let sessions = gateway.sessions()?;
    let globex = sessions.iter().find(|s| s["tenant"] == "globex").unwrap();
    assert!(reasons.iter().all(|reason| number(&globex["drops"][reason]) == 0));
    // Without a limit everything passes again.
    limit_acme(&gateway, "{}")?;
    let [acme, _] = flood(&gateway)?;
    assert!(acme > RATE * SECONDS * 95 / 100, "{acme}");
    Ok(())
}

/// Numbers of 64 bits may be written as texts.
fn number(value: &serde_json::Value) -> u64 {
    let text = value.as_str().and_then(|text| text.parse().ok());
    value.as_u64().or(text).unwrap_or(0)
}

fn limit_acme(gateway: &Gateway, limits: &str) -> rig::Result<()> {
    let netns = gateway.world.site("acme")?.domain.name();
    gateway.daemon.apply(
        "limits.yaml",
        &format!(
            "kind: Tenant\nname: acme\nrouting_domain: {{ netns: {netns}, device: vpn0, mtu: 1400 }}\n\
             gateway_ids: [ acme.vpn.example ]\ntrust_anchors: [ authority ]\nlimits: {limits}\n"
        ),
    )?;
    // The domains follow the registry within a moment.
    std::thread::sleep(Duration::from_secs(1));
    Ok(())
}

fn count_sunk(server: &Host) -> rig::Result<()> {
    let rules = "add table ip sink; add chain ip sink in { type filter hook prerouting priority -300 ; }; \
         add rule ip sink in udp dport 9 counter drop";
    server.run(&["nft", rules]).map(drop)
}

/// Octets that came for the sink.
fn sunk(server: &Host) -> rig::Result<u64> {
    let text = server.run(&["nft", "list", "chain", "ip", "sink", "in"])?;
    let mut words = text.split_whitespace().skip_while(|word| *word != "bytes");
    Ok(words.nth(1).unwrap().parse()?)
}

/// Both clients send; gives how many of each came through.
fn flood(gateway: &Gateway) -> rig::Result<[u64; 2]> {
    let servers = [
        &gateway.world.site("acme")?.server,
        &gateway.world.site("globex")?.server,
    ];
    let before = [sunk(servers[0])?, sunk(servers[1])?];
    let folder = Folder::new("rates")?;
    let script = format!(
        "import socket, time\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\ns.connect(('10.20.0.2', 9))\n\
         start = time.perf_counter()\nfor n in range({total}):\n while time.perf_counter() - start < n / {RATE}: time.sleep(0.001)\n s.send(bytes({payload}))\n",
        total = RATE * SECONDS,
        payload = SIZE - 28,
    );
    let path = folder.write("send.py", script)?.display().to_string();
    let mut senders: Vec<Process> = Vec::new();
    for (name, host) in [("home", &gateway.world.home), ("direct", &gateway.world.direct)] {
        let log = folder.join(name);
        senders.push(host.start("sender", &["/usr/bin/python3", &path], &[], &log)?);
    }
    for sender in &mut senders {
        let status = sender.wait(Duration::from_secs(30))?;
        assert!(status.success(), "{}", sender.output());
    }
    std::thread::sleep(Duration::from_millis(500));
    Ok([
        (sunk(servers[0])? - before[0]) / SIZE,
        (sunk(servers[1])? - before[1]) / SIZE,
    ])
}
