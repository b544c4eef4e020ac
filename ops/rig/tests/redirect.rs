//! A real strongSwan client is sent to another address (RFC 5685): before its login, and out of its session.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::time::Duration;

use rig::daemon::Settings;
use rig::gateway::{Gateway, Options};
use rig::net::Host;
use rig::pki::Key;
use rig::process::wait_for;
use rig::swan::Swan;
use rig::world::{GATEWAY_V4, GATEWAY_V6, SERVER_V4};

/// Where clients are sent: another address of the gateway stands for another gateway.
const ELSEWHERE: &str = "198.51.100.3";

/// The gateway of the tests, with one more address.
fn gateway() -> rig::Result<Gateway> {
    let gateway = Gateway::start_on(
        &[GATEWAY_V4, GATEWAY_V6, ELSEWHERE],
        Key::Ecdsa(256),
        Settings {
            extra: "[redirect]\ngrace_secs = 5\n".to_owned(),
            ..Settings::default()
        },
    )?;
    Ok(gateway)
}

/// Waits until the only session is that of a client at `address`, with traffic through it.
fn expect_at(gateway: &Gateway, host: &Host, client: &Swan, address: &str) -> rig::Result<()> {
    let arrived = wait_for("the client at its gateway", Duration::from_secs(20), || {
        let sessions = gateway.sessions()?;
        let at = |session: &serde_json::Value| {
            let local = session["local_address"].as_str().unwrap_or_default();
            local.starts_with(&format!("{address}:"))
        };
        Ok(sessions.len() == 1 && sessions.iter().all(at))
    });
    if let Err(error) = arrived {
        anyhow::bail!(
            "{error}\nclient:\n{}\ngateway:\n{}",
            client.log(),
            gateway.daemon.log()
        );
    }
    wait_for("traffic", Duration::from_secs(10), || {
        Ok(host.ping(SERVER_V4, 3, "0.05")? == 3)
    })
}

fn counter(gateway: &Gateway, name: &str) -> rig::Result<u64> {
    let status = gateway.daemon.query(&["status"])?;
    Ok(status["counters"][name].as_u64().unwrap_or_default())
}

#[test]
fn a_new_client_is_sent_to_another_address() -> rig::Result<()> {
    let gateway = gateway()?;
    gateway.daemon.vpnctl(&["redirect", ELSEWHERE])?;
    let home = &gateway.world.home;
    let client = gateway.psk_client(home, "acme", "alice@corp.example", &Options::default())?;
    client.initiate("net")?;
    expect_at(&gateway, home, &client, ELSEWHERE)?;
    assert_eq!(counter(&gateway, "redirected_at_init")?, 1, "{}", client.log());
    drop(client);
    // One that was told not to follow does not say that it would, and is served where it calls.
    let stubborn = Options {
        charon: "follow_redirects = no".to_owned(),
        ..Options::default()
    };
    let client = gateway.psk_client(home, "acme", "bob@corp.example", &stubborn)?;
    client.initiate("net")?;
    wait_for("bob's session", Duration::from_secs(10), || {
        let sessions = gateway.sessions()?;
        Ok(sessions.iter().any(|session| {
            let local = session["local_address"].as_str().unwrap_or_default();
            session["peer_id"] == "bob@corp.example" && local.starts_with(GATEWAY_V4)
        }))
    })?;
    assert_eq!(counter(&gateway, "redirected_at_init")?, 1);
    Ok(())
}

#[test]
fn a_client_with_a_session_is_sent_to_another_address() -> rig::Result<()> {
    let gateway = gateway()?;
    let home = &gateway.world.home;
    let client = gateway.psk_client(home, "acme", "alice@corp.example", &Options::default())?;
    client.initiate("net")?;
    expect_at(&gateway, home, &client, GATEWAY_V4)?;
    let answer = gateway
        .daemon
        .vpnctl(&["redirect", ELSEWHERE, "--sessions", "--per-sec", "10"])?;
    assert_eq!(
        answer.trim(),
        "1 clients were sent away, 0 of them are still here; 0 cannot be sent",
        "{}",
        client.log()
    );
    expect_at(&gateway, home, &client, ELSEWHERE)?;
    assert_eq!(counter(&gateway, "redirected_in_session")?, 1);
    assert_eq!(gateway.daemon.query(&["status"])?["state"], "redirecting");
    gateway.daemon.vpnctl(&["redirect", "--stop"])?;
    assert_eq!(gateway.daemon.query(&["status"])?["state"], "serving");
    Ok(())
}
