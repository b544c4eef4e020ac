//! What goes into the tunnel comes out of it: every octet, and in order within a flow, in both directions, with bursts
//! passed whole and with a cable that cuts and joins them as a NIC does. One worker, as reordering is promised for that.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::time::Duration;

use rig::daemon::{Settings, program};
use rig::gateway::{Gateway, secret};
use rig::net::{Folder, Host};
use rig::pki::Key;
use rig::process::{Process, wait_for};
use rig::world::{GATEWAY_V4, SERVER_V4, World};

const SCRIPT: &str = include_str!("payload.py");
const FLOWS: &str = "6";
const DATAGRAMS: &str = "20000";
const OCTETS: &str = "30000000";
/// What the busiest machine may lose of the datagrams: order and content are what counts.
const LEAST: u64 = 10_000;

/// The data plane of ours as a client, with the bursts that only it makes.
fn client(host: &Host, folder: &Folder) -> rig::Result<Process> {
    let program = program("loadtest")?.display().to_string();
    let key = secret("acme");
    let words = [
        &program,
        "tunnel",
        "--gateway",
        GATEWAY_V4,
        "--id",
        "payload@corp.example",
        "--remote-id",
        "acme.vpn.example",
        "--psk",
        &key,
        "--tun",
        "vpn1",
        "--ike",
        "aes256gcm16-prfsha384-ecp384",
    ];
    let mut process = host.start("loadtest", &words, &[], &folder.join("tunnel.log"))?;
    process.expect_output("tunnel up", Duration::from_secs(20))?;
    wait_for("an answer of the server", Duration::from_secs(20), || {
        Ok(host.ping(SERVER_V4, 1, "0.2")? == 1)
    })?;
    Ok(process)
}

/// The address that the gateway gave.
fn inner_address(host: &Host) -> rig::Result<String> {
    let text = host.run(&["ip", "-j", "-4", "address", "show", "dev", "vpn1"])?;
    let value: serde_json::Value = serde_json::from_str(&text)?;
    Ok(value[0]["addr_info"][0]["local"]
        .as_str()
        .expect("an address")
        .to_owned())
}

/// Cuts bursts before the cables and joins them behind, as NICs do.
fn model_nics(world: &World) -> rig::Result<()> {
    for (host, device) in [
        (&world.direct, "eth0"),
        (&world.inet, "to-direct"),
        (&world.inet, "to-gw"),
        (&world.gateway, "eth0"),
    ] {
        let words = ["tso", "off", "tx-udp-segmentation", "off", "gro", "on"];
        let mut command = vec!["ethtool", "-K", device];
        command.extend(words);
        host.run(&command)?;
    }
    Ok(())
}

/// Runs the script at both ends: what each said last.
fn both(
    from: &Host,
    to: &Host,
    address: &str,
    what: &str,
    words: &[&str],
    folder: &Folder,
) -> rig::Result<[serde_json::Value; 2]> {
    let (port, at, towards) = ("7007", format!("{what}-at"), format!("{what}-to"));
    let logs = [folder.join("at.log"), folder.join("to.log")];
    for log in &logs {
        std::fs::write(log, "")?;
    }
    let mut receiver = to.start("at", &["python3", "-c", SCRIPT, &at, port], &[], &logs[0])?;
    receiver.expect_output("ready", Duration::from_secs(20))?;
    let mut command = vec!["python3", "-c", SCRIPT, &towards, address, port];
    command.extend(words);
    let mut sender = from.start("to", &command, &[], &logs[1])?;
    let mut said = Vec::new();
    for process in [&mut receiver, &mut sender] {
        let status = process.wait(Duration::from_secs(90))?;
        let text = process.output();
        anyhow::ensure!(status.success(), "{what}: {status}\n{text}");
        said.push(serde_json::from_str(text.lines().last().unwrap_or_default())?);
    }
    let [at, to] = <[_; 2]>::try_from(said).expect("two");
    Ok([at, to])
}

#[test]
fn payloads_arrive_whole_and_in_order() -> rig::Result<()> {
    let settings = Settings {
        workers: 1,
        ..Settings::default()
    };
    let gateway = Gateway::start(Key::Ecdsa(256), settings)?;
    let folder = Folder::new("payload")?;
    let host = &gateway.world.direct;
    let server = &gateway.world.site("acme")?.server;
    let _client = client(host, &folder)?;
    let own = inner_address(host)?;
    for is_nic in [false, true] {
        if is_nic {
            model_nics(&gateway.world)?;
        }
        for (from, to, address) in [(host, server, SERVER_V4), (server, host, own.as_str())] {
            let [counts, sent] = both(from, to, address, "datagrams", &[FLOWS, DATAGRAMS], &folder)?;
            let of = |name: &str| counts[name].as_u64().expect("a count");
            let context = format!("NIC {is_nic}, to {address}: {counts} of {sent}");
            assert!(of("received") >= LEAST, "{context}");
            for fault in ["damaged", "reordered", "duplicated"] {
                assert_eq!(of(fault), 0, "{context}");
            }
            let [at, to] = both(from, to, address, "stream", &[OCTETS], &folder)?;
            assert_eq!(at, to, "NIC {is_nic}, to {address}");
        }
    }
    Ok(())
}
