//! An initiator that shares no code with strongSwan or with us.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use rig::daemon::Settings;
use rig::gateway::{Gateway, secret};
use rig::pki::Key;
use rig::world::{GATEWAY_V4, SERVER_V4};

fn log_in(extra: &[&str]) -> rig::Result<()> {
    let gateway = Gateway::start(Key::Ecdsa(256), Settings::default())?;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/peers/initiator.py");
    let secret = secret("acme");
    let mut command = vec![
        "/usr/bin/python3",
        script,
        "--gateway",
        GATEWAY_V4,
        "--local",
        "192.0.2.2",
    ];
    command.extend([
        "--id",
        "carol@corp.example",
        "--remote-id",
        "acme.vpn.example",
        "--psk",
        &secret,
    ]);
    command.extend(["--target", SERVER_V4]);
    command.extend(extra);
    let text = gateway
        .world
        .direct
        .run(&command)
        .map_err(|e| e.context(gateway.daemon.log()))?;
    for line in ["IKE_AUTH done", "echo 5 of 5", "liveness answered", "deleted"] {
        assert!(text.contains(line), "{text}");
    }
    gateway.expect_sessions(0)?;
    Ok(())
}

#[test]
fn python_and_scapy_by_raw_esp_with_cbc() -> rig::Result<()> {
    log_in(&[])
}

#[test]
fn python_and_scapy_by_raw_esp_with_gcm() -> rig::Result<()> {
    log_in(&["--esp", "aes-gcm"])
}

#[test]
fn python_and_scapy_by_udp() -> rig::Result<()> {
    log_in(&["--udp"])
}
