//! Rekeys from either side while traffic runs: nothing is lost.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use std::time::Duration;

use rig::daemon::Settings;
use rig::gateway::{Gateway, Options};
use rig::net::{Folder, Host, received};
use rig::pki::Key;
use rig::process::Process;
use rig::world::SERVER_V4;

/// Echo requests every 10 ms for as long as it lives.
struct Traffic {
    process: Process,
}

impl Traffic {
    fn start(host: &Host, folder: &Folder) -> rig::Result<Self> {
        let command = ["ping", "-n", "-i", "0.01", "-W", "3", SERVER_V4];
        let mut process = host.start("ping", &command, &[], &folder.join("ping.log"))?;
        process.expect_output("icmp_seq=5", Duration::from_secs(10))?;
        Ok(Self { process })
    }

    /// Ends it; every request has had its answer, each once.
    fn nothing_lost(mut self) -> rig::Result<()> {
        std::thread::sleep(Duration::from_millis(300));
        self.process.signal(rustix::process::Signal::INT);
        self.process.wait(Duration::from_secs(10))?;
        let text = self.process.output();
        let sent: u32 = text
            .lines()
            .find(|l| l.contains("packets transmitted"))
            .and_then(|l| l.split_whitespace().next()?.parse().ok())
            .expect("ping's summary");
        // The last one may still have been under way when ping was told to end.
        let back = received(&text).expect("ping's summary");
        assert!(sent > 20 && back + 1 >= sent, "{back} of {sent} came back");
        assert!(!text.contains("DUP!"), "duplicates");
        let missing = (1..sent)
            .filter(|n| !text.contains(&format!("icmp_seq={n} ")))
            .count();
        assert_eq!(missing, 0, "missing answers");
        Ok(())
    }
}

fn spis(gateway: &Gateway) -> rig::Result<(String, String, usize)> {
    let sessions = gateway.expect_sessions(1)?;
    let session = sessions.first().expect("one session");
    let children = session["children"].as_array().cloned().unwrap_or_default();
    let child = children
        .last()
        .map(|c| c["spi_in"].to_string())
        .unwrap_or_default();
    Ok((session["spi_i"].to_string(), child, children.len()))
}

fn rekeys(esp: &str) -> rig::Result<()> {
    let gateway = Gateway::start(Key::Ecdsa(256), Settings::default())?;
    let folder = Folder::new("rekey")?;
    let home = &gateway.world.home;
    let options = Options {
        esp_proposals: esp.to_owned(),
        ..Options::default()
    };
    let client = gateway.psk_client(home, "acme", "alice@corp.example", &options)?;
    client.initiate("net")?;
    let session = gateway.expect_sessions(1)?[0]["id"]
        .as_str()
        .expect("an id")
        .to_owned();
    let traffic = Traffic::start(home, &folder)?;
    for (what, command) in [
        ("child by the client", Err(["--rekey", "--child", "net"])),
        ("child by the gateway", Ok(vec!["rekey", session.as_str()])),
        ("IKE by the client", Err(["--rekey", "--ike", "vpn"])),
        ("IKE by the gateway", Ok(vec!["rekey", session.as_str(), "--ike"])),
        ("child by the client, again", Err(["--rekey", "--child", "net"])),
    ] {
        let before = spis(&gateway)?;
        match command {
            Err(swan) => client.control(&swan)?,
            Ok(ours) => gateway.daemon.vpnctl(&ours)?,
        };
        let is_ike = what.starts_with("IKE");
        rig::process::wait_for(what, Duration::from_secs(10), || {
            let after = spis(&gateway)?;
            Ok(after.2 == 1
                && if is_ike {
                    after.0 != before.0
                } else {
                    after.1 != before.1
                })
        })
        .map_err(|e| e.context(format!("{}\n{}", client.log(), gateway.daemon.log())))?;
        std::thread::sleep(Duration::from_millis(500));
    }
    traffic.nothing_lost()?;
    assert_eq!(gateway.expect_sessions(1)?.len(), 1);
    assert_eq!(client.sas()?.matches("INSTALLED").count(), 1, "{}", client.sas()?);
    Ok(())
}

#[test]
fn without_perfect_forward_secrecy() -> rig::Result<()> {
    rekeys("aes256gcm16")
}

#[test]
fn with_perfect_forward_secrecy() -> rig::Result<()> {
    rekeys("aes256gcm16-ecp384")
}

#[test]
fn liveness_is_asked_and_answered() -> rig::Result<()> {
    let gateway = Gateway::start(Key::Ecdsa(256), Settings::default())?;
    let home = &gateway.world.home;
    let options = Options {
        extra: "dpd_delay = 2s".to_owned(),
        ..Options::default()
    };
    let client = gateway.psk_client(home, "acme", "alice@corp.example", &options)?;
    client.initiate("net")?;
    rig::process::wait_for(
        "an answer to the client's question",
        Duration::from_secs(10),
        || Ok(client.log().contains("parsed INFORMATIONAL response")),
    )?;
    drop(client);
    let client = gateway.psk_client(home, "acme", "alice@corp.example", &Options::default())?;
    client.initiate("net")?;
    rig::process::wait_for("the gateway's question", Duration::from_secs(20), || {
        Ok(client.log().contains("parsed INFORMATIONAL request"))
    })?;
    Ok(())
}

#[test]
fn the_gateway_takes_a_session_down() -> rig::Result<()> {
    let gateway = Gateway::start(Key::Ecdsa(256), Settings::default())?;
    let client = gateway.psk_client(
        &gateway.world.home,
        "acme",
        "alice@corp.example",
        &Options::default(),
    )?;
    client.initiate("net")?;
    let session = gateway.expect_sessions(1)?[0]["id"]
        .as_str()
        .expect("an id")
        .to_owned();
    gateway.daemon.vpnctl(&["disconnect", &session])?;
    gateway.expect_sessions(0)?;
    rig::process::wait_for("the client to notice", Duration::from_secs(10), || {
        Ok(client.sas()?.trim().is_empty())
    })?;
    assert!(
        client.log().contains("received DELETE for IKE_SA"),
        "{}",
        client.log()
    );
    Ok(())
}
