//! Users that stay while their gateway is killed and started again: what `loadtest steady` measures, and that it does.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "tests"
)]

use std::path::Path;
use std::time::Duration;

use rig::daemon::{Settings, program};
use rig::gateway::{Gateway, secret};
use rig::pki::Key;
use rig::process::{run, wait_for};
use rig::world::{GATEWAY_V4, SERVER_V4};

const USERS: usize = 200;
const SAMPLE: usize = 40;

fn ctl(socket: &Path, order: &str) -> rig::Result<serde_json::Value> {
    let program = program("loadtest")?.display().to_string();
    let socket = socket.display().to_string();
    Ok(serde_json::from_str(&run(&[&program, "ctl", &socket, order])?)?)
}

#[test]
fn users_keep_their_tunnels_while_the_gateway_is_killed_and_started_again() -> rig::Result<()> {
    let mut gateway = Gateway::start(Key::Ecdsa(256), Settings::default())?;
    gateway.daemon.apply(
        "load.yaml",
        &format!(
            "kind: AddressPool\ntenant: acme\nname: big\nrange: 10.64.0.0/16\n---\nkind: Connection\ntenant: acme\nname: load\n\
             local_id: acme.vpn.example\nremote_ids: [ \"*@load.example\" ]\nauth: psk\nlocal_ts: [ 10.20.0.0/24 ]\npools: [ big ]\n\
             ---\nkind: Credential\ntenant: acme\nname: load\ntype: psk\nids: [ \"*@load.example\" ]\nsecret: \"{}\"\n",
            secret("acme")
        ),
    )?;
    let program = program("loadtest")?.display().to_string();
    let folder = gateway.pki.path().to_owned();
    let file = |name: &str| folder.join(name);
    let listen = format!("{SERVER_V4}:7");
    let statistics = file("echo.json").display().to_string();
    let server = &gateway.world.site("acme")?.server;
    let mut echo = server.start(
        "echo",
        &[&program, "echo", "--listen", &listen, "--json", &statistics],
        &[],
        &file("echo.log"),
    )?;
    let socket = file("control");
    let [users, sample] = [USERS, SAMPLE].map(|count| count.to_string());
    let psk = secret("acme");
    let [control, json, html, events] = ["control", "steady.json", "steady.html", "steady.events"]
        .map(|name| file(name).display().to_string());
    #[rustfmt::skip]
    let command = [
        program.as_str(), "steady", "--gateway", GATEWAY_V4, "--remote-id", "acme.vpn.example", "--psk", &psk,
        "--users", &users, "--rate", "100", "--sample", &sample, "--target", SERVER_V4, "--liveness", "5",
        "--rekey-child", "8", "--rekey-ike", "20", "--control", &control, "--json", &json, "--html", &html, "--events", &events,
    ];
    let mut load = gateway
        .world
        .direct
        .start("steady", &command, &[], &file("steady.log"))?;
    wait_for("all users", Duration::from_secs(30), || {
        anyhow::ensure!(load.is_running(), "it has ended: {}", load.output());
        let Ok(status) = ctl(&socket, "status") else {
            return Ok(false);
        };
        Ok(status["up"] == USERS && status["receiving"] == SAMPLE)
    })?;
    std::thread::sleep(Duration::from_secs(10));

    ctl(&socket, "mark kill")?;
    gateway.daemon.kill();
    std::thread::sleep(Duration::from_millis(500));
    gateway.daemon.launch()?;
    std::thread::sleep(Duration::from_secs(15));
    let status = ctl(&socket, "status")?;
    let since = &ctl(&socket, "since kill")?["mark"];
    println!("{status}\n{}", since["silence_ms"]);
    ctl(&socket, "mark calm")?;
    std::thread::sleep(Duration::from_secs(10));
    let answer = ctl(&socket, "quit")?;
    load.wait(Duration::from_secs(10))?;
    println!("{}", load.output());
    echo.signal(rustix::process::Signal::TERM);
    echo.wait(Duration::from_secs(10))?;
    let statistics: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(statistics)?)?;

    assert_eq!((&status["up"], &status["new_logins"]), (&USERS.into(), &0.into()));
    assert_eq!(since["silent"], SAMPLE);
    // It was away for half a second at least; how long the start takes is another test's matter.
    assert!(since["silence_ms"]["min"].as_f64().unwrap() >= 500.0);
    let calm = &answer["marks"][2];
    assert_eq!(
        (&calm["name"], &calm["lost"], &calm["new_logins"]),
        (&"calm".into(), &0.into(), &0.into())
    );
    assert_eq!(statistics["senders"].as_array().unwrap().len(), SAMPLE);
    assert!(std::fs::read_to_string(html)?.contains("<svg "));
    Ok(())
}
