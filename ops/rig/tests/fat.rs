//! One peer over several workers (RFC 9611): both ends ours, since no packaged peer has it yet.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use std::time::Duration;

use rig::daemon::{Settings, program};
use rig::gateway::{Gateway, secret};
use rig::pki::Key;
use rig::process::{Process, wait_for};
use rig::world::{GATEWAY_V4, SERVER_V4};

/// A peer with so many workers, logged in.
fn peer(gateway: &Gateway, workers: &str) -> rig::Result<Process> {
    let program = program("loadtest")?.display().to_string();
    let psk = secret("acme");
    let log = gateway.pki.path().join("peer.log");
    #[rustfmt::skip]
    let command = [
        program.as_str(), "tunnel", "--gateway", GATEWAY_V4, "--id", "site@corp.example", "--remote-id", "acme.vpn.example",
        "--psk", &psk, "--tun", "vpn1", "--ike", "aes256gcm16-prfsha384-ecp384", "--workers", workers,
    ];
    let mut peer = gateway.world.direct.start("peer", &command, &[], &log)?;
    peer.expect_output("tunnel up", Duration::from_secs(20))?;
    Ok(peer)
}

/// Place, worker, packets in and out of each child SA of the only session, sorted.
fn children(gateway: &Gateway) -> rig::Result<Vec<(String, u64, u64, u64)>> {
    let sessions = gateway.sessions()?;
    assert_eq!(sessions.len(), 1);
    // 64-bit numbers are strings in JSON.
    let number = |value: &serde_json::Value| -> u64 {
        let text = value.as_str().map(|text| text.parse().unwrap());
        text.or_else(|| value.as_u64()).unwrap_or(0)
    };
    let mut all: Vec<_> = sessions[0]["children"]
        .as_array()
        .unwrap()
        .iter()
        .map(|child| {
            (
                child["resource"].as_str().unwrap().to_owned(),
                number(&child["worker"]),
                number(&child["packets_in"]),
                number(&child["packets_out"]),
            )
        })
        .collect();
    all.sort();
    Ok(all)
}

fn places(gateway: &Gateway) -> rig::Result<Vec<(String, u64)>> {
    let all = children(gateway)?.into_iter();
    Ok(all.map(|(resource, worker, ..)| (resource, worker)).collect())
}

fn expect_places(gateway: &Gateway, peer: &Process, count: usize) -> rig::Result<Vec<(String, u64)>> {
    wait_for(&format!("{count} child SAs"), Duration::from_secs(20), || {
        Ok(gateway.sessions()?.len() == 1 && places(gateway)?.len() == count)
    })
    .map_err(|error| error.context(peer.output()).context(gateway.daemon.log()))?;
    places(gateway)
}

/// Eight streams in one direction; every one of them is served.
fn streams(gateway: &Gateway, reverse: bool) -> rig::Result<()> {
    let folder = gateway.pki.path();
    let server = &gateway.world.site("acme")?.server;
    let log = folder.join("iperf3-server.log");
    std::fs::write(&log, "")?;
    let mut listener = server.start(
        "iperf3",
        &["iperf3", "--forceflush", "-s", "-1", "-B", SERVER_V4],
        &[],
        &log,
    )?;
    listener.expect_output("listening", Duration::from_secs(10))?;
    let mut command = vec!["iperf3", "-c", SERVER_V4, "-t", "2", "-P", "8", "-J"];
    command.extend(reverse.then_some("-R"));
    let text = gateway.world.direct.run(&command)?;
    let report: serde_json::Value = serde_json::from_str(&text)?;
    for stream in report["end"]["streams"].as_array().unwrap() {
        assert!(stream["receiver"]["bytes"].as_f64().unwrap() > 0.0, "{report}");
    }
    Ok(())
}

#[test]
fn a_fat_peer_is_served_by_two_workers_through_rekeys_and_a_restart() -> rig::Result<()> {
    let settings = Settings {
        workers: 2,
        ..Settings::default()
    };
    let mut gateway = Gateway::start(Key::Ecdsa(256), settings)?;
    let mut site = peer(&gateway, "2")?;
    let up = expect_places(&gateway, &site, 2)?;
    assert_eq!(up[0].0, "0");
    assert_eq!(up[1].0, "fallback");
    assert_ne!(up[0].1, up[1].1, "each at a worker of its own");
    assert!(gateway.world.direct.ping(SERVER_V4, 3, "0.2")? > 0);

    for reverse in [false, true] {
        let before = children(&gateway)?;
        streams(&gateway, reverse)?;
        wait_for("traffic on both child SAs", Duration::from_secs(5), || {
            let after = children(&gateway)?;
            let moved = before
                .iter()
                .zip(&after)
                .all(|(old, new)| new.2 > old.2 + 10 && new.3 > old.3 + 10);
            Ok(moved)
        })
        .map_err(|error| error.context(format!("{before:?} {:?}", children(&gateway))))?;
    }

    // Every child SA gets a successor with the same place.
    let id = gateway.sessions()?[0]["id"].as_str().unwrap().to_owned();
    gateway.daemon.vpnctl(&["rekey", &id])?;
    wait_for("rekeys", Duration::from_secs(20), || {
        let sessions = gateway.sessions()?;
        let all = sessions[0]["children"].as_array().unwrap();
        let rekeyed = |child: &serde_json::Value| child["rekeys"].as_u64().is_some_and(|rekeys| rekeys > 0);
        Ok(all.len() == 2 && all.iter().all(rekeyed))
    })?;
    assert_eq!(places(&gateway)?, up);
    streams(&gateway, false)?;

    // And the records keep them.
    gateway.daemon.kill();
    gateway.daemon.launch()?;
    assert_eq!(expect_places(&gateway, &site, 2)?, up);
    wait_for("an answer", Duration::from_secs(10), || {
        Ok(gateway.world.direct.ping(SERVER_V4, 1, "0.2")? == 1)
    })?;
    let before = children(&gateway)?;
    streams(&gateway, true)?;
    wait_for("traffic on both again", Duration::from_secs(5), || {
        let after = children(&gateway)?;
        Ok(before.iter().zip(&after).all(|(old, new)| new.3 > old.3 + 10))
    })?;
    site.stop(Duration::from_secs(5));
    Ok(())
}

#[test]
fn a_peer_with_more_workers_gets_as_many_as_the_gateway_has_and_goes_on() -> rig::Result<()> {
    let settings = Settings {
        workers: 2,
        ..Settings::default()
    };
    let gateway = Gateway::start(Key::Ecdsa(256), settings)?;
    let mut site = peer(&gateway, "4")?;
    let up = expect_places(&gateway, &site, 3)?;
    let names: Vec<&str> = up.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["0", "1", "fallback"]);
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(places(&gateway)?, up, "the one refused asks no more");
    streams(&gateway, false)?;
    site.stop(Duration::from_secs(5));
    Ok(())
}
