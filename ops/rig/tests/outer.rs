//! AF_XDP towards the peers: real clients over a veth pair, behind a NAT and direct, and what is left when it is not there.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use rig::daemon::Settings;
use rig::gateway::{Gateway, Options, secret};
use rig::net::Host;
use rig::pki::Key;
use rig::process::wait_for;
use rig::world::{GATEWAY_V4, SERVER_V4, SERVER_V6};
use std::time::Duration;

/// A gateway whose ESP is to go by AF_XDP on the interface with its addresses.
fn gateway(mode: &str) -> rig::Result<Gateway> {
    let settings = Settings {
        workers: 2,
        extra: format!("[dataplane]\nouter = \"{mode}\"\n"),
        ..Settings::default()
    };
    Gateway::start(Key::Ecdsa(256), settings)
}

/// Whether a program is attached to the gateway's interface.
fn is_attached(gateway: &Gateway) -> rig::Result<bool> {
    let text = gateway.world.gateway.run(&["ip", "-d", "link", "show", "eth0"])?;
    Ok(text.contains("xdp"))
}

/// ESP packets of AF_XDP, by what became of them.
fn packets(gateway: &Gateway, what: &str) -> rig::Result<u64> {
    let script = "import urllib.request; print(urllib.request.urlopen('http://127.0.0.1:9464/metrics', timeout=3).read().decode())";
    let text = gateway.world.gateway.run(&["/usr/bin/python3", "-c", script])?;
    let label = format!("what=\"{what}\"");
    let line = text
        .lines()
        .find(|l| l.starts_with("vpn_outer_xdp_packets") && l.contains(&label));
    let number = line.and_then(|l| l.rsplit(' ').next()).unwrap_or("0");
    Ok(number.parse::<f64>()? as u64)
}

/// The counters are read once a second.
fn expect_packets(gateway: &Gateway, what: &str, least: u64) -> rig::Result<()> {
    wait_for(
        &format!("{least} packets {what}"),
        Duration::from_secs(10),
        || Ok(packets(gateway, what)? >= least),
    )
}

fn pings(gateway: &Gateway, host: &Host) -> rig::Result<()> {
    for server in [SERVER_V4, SERVER_V6] {
        assert_eq!(
            host.ping(server, 10, "0.05")?,
            10,
            "{server}\n{}",
            gateway.daemon.log()
        );
    }
    Ok(())
}

#[test]
fn strongswan_behind_the_nat_and_direct_and_after_a_crash() -> rig::Result<()> {
    let mut gateway = gateway("xdp")?;
    let status = gateway.daemon.query(&["status"])?;
    let queues = status["counters"]["outer_eth0_xdp_copy_queues"].to_string();
    assert_eq!(queues.trim_matches('"'), "1", "{status}");
    assert!(gateway.daemon.log().contains("ESP by AF_XDP"));
    let home = gateway.psk_client(
        &gateway.world.home,
        "acme",
        "alice@corp.example",
        &Options::default(),
    )?;
    let direct = gateway.psk_client(
        &gateway.world.direct,
        "acme",
        "bob@corp.example",
        &Options::direct(),
    )?;
    for client in [&home, &direct] {
        client
            .initiate("net")
            .map_err(|e| e.context(gateway.daemon.log()))?;
    }
    gateway.expect_sessions(2)?;
    for host in [&gateway.world.home, &gateway.world.direct] {
        pings(&gateway, host)?;
    }
    expect_packets(&gateway, "in", 40)?;
    expect_packets(&gateway, "out", 30)?;
    assert_eq!(packets(&gateway, "lost")?, 0);

    // Nobody is left to take the program away; the kernel does.
    gateway.daemon.kill();
    wait_for("the program to go", Duration::from_secs(5), || {
        Ok(!is_attached(&gateway)?)
    })?;
    gateway.daemon.launch()?;
    assert!(is_attached(&gateway)?);
    for host in [&gateway.world.home, &gateway.world.direct] {
        pings(&gateway, host)?;
    }
    expect_packets(&gateway, "in", 40)?;
    for client in [&home, &direct] {
        client.control(&["--terminate", "--ike", "vpn"])?;
    }
    gateway.expect_sessions(0)?;
    Ok(())
}

#[test]
fn python_and_scapy_by_raw_esp_and_by_udp() -> rig::Result<()> {
    let gateway = gateway("xdp")?;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/peers/initiator.py");
    let secret = secret("acme");
    for extra in [&[][..], &["--esp", "aes-gcm"], &["--udp"]] {
        let mut command = vec![
            "/usr/bin/python3",
            script,
            "--gateway",
            GATEWAY_V4,
            "--local",
            "192.0.2.2",
        ];
        command.extend(["--id", "carol@corp.example", "--remote-id", "acme.vpn.example"]);
        command.extend(["--psk", &secret, "--target", SERVER_V4]);
        command.extend(extra);
        let ran = gateway.world.direct.run(&command);
        let text = ran.map_err(|e| e.context(gateway.daemon.log()))?;
        for line in ["IKE_AUTH done", "echo 5 of 5", "liveness answered", "deleted"] {
            assert!(text.contains(line), "{text}");
        }
        gateway.expect_sessions(0)?;
    }
    expect_packets(&gateway, "in", 15)
}

#[test]
fn a_driver_that_copies_is_left_to_the_sockets_where_that_is_not_wanted() -> rig::Result<()> {
    let gateway = gateway("auto")?;
    assert!(!is_attached(&gateway)?);
    let status = gateway.daemon.query(&["status"])?;
    let warnings = status["warnings"].to_string();
    assert!(warnings.contains("the driver has no zero-copy"), "{status}");
    assert!(gateway.daemon.log().contains("ESP by sockets instead of AF_XDP"));
    let direct = &gateway.world.direct;
    let client = gateway.psk_client(direct, "acme", "alice@corp.example", &Options::direct())?;
    client
        .initiate("net")
        .map_err(|e| e.context(gateway.daemon.log()))?;
    pings(&gateway, direct)?;
    assert_eq!(packets(&gateway, "in")?, 0);
    Ok(())
}
