//! The programs together, on loopback sockets: an echo server that goes away for a while, stamped traffic to it, orders,
//! reports.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use std::net::UdpSocket;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

const PROGRAM: &str = env!("CARGO_BIN_EXE_loadtest");

fn start(words: &[&str]) -> Child {
    let mut command = Command::new(PROGRAM);
    command.args(words).stdout(Stdio::piped()).spawn().unwrap()
}

fn ctl(socket: &Path, order: &str) -> Option<Value> {
    let words = ["ctl", socket.to_str().unwrap(), order];
    let done = Command::new(PROGRAM)
        .args(words)
        .stderr(Stdio::null())
        .output()
        .unwrap();
    serde_json::from_slice(&done.stdout).ok()
}

/// Ends a program and gives what it printed.
fn end(child: Child) -> String {
    let id = rustix::process::Pid::from_raw(i32::try_from(child.id()).unwrap()).unwrap();
    rustix::process::kill_process(id, rustix::process::Signal::TERM).unwrap();
    String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap()
}

fn wait_for(what: &str, mut ask: impl FnMut() -> bool) {
    let limit = Instant::now() + Duration::from_secs(20);
    while !ask() {
        assert!(Instant::now() < limit, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn an_echo_server_that_goes_away_is_missed_for_that_time() {
    let folder = tempfile::tempdir().unwrap();
    let [socket, json, html, svg, merged] =
        ["control", "run.json", "run.html", "run.svg", "merged.json"].map(|name| folder.path().join(name));
    let free = UdpSocket::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .to_string();
    let echo = start(&["echo", "--listen", &free]);
    #[rustfmt::skip]
    let stamp = start(&[
        "stamp", "--to", &free, "--rate", "50", "--name", "plain", "--max-silence-ms", "400",
        "--control", socket.to_str().unwrap(), "--json", json.to_str().unwrap(),
        "--html", html.to_str().unwrap(), "--svg", svg.to_str().unwrap(),
    ]);
    let receiving = || ctl(&socket, "status").is_some_and(|status| status["receiving"] == 1);
    wait_for("the first answer", receiving);
    assert_eq!(ctl(&socket, "since nothing").unwrap()["ok"], false);

    assert_eq!(ctl(&socket, "mark away").unwrap()["mark"], "away");
    let statistics: Value = serde_json::from_str(&end(echo)).unwrap();
    std::thread::sleep(Duration::from_millis(500));
    let open = ctl(&socket, "since away").unwrap();
    assert_eq!(
        (&open["mark"]["silent"], &open["mark"]["users"][0]["open"]),
        (&1.into(), &true.into()),
        "{open}"
    );
    let echo = start(&["echo", "--listen", &free]);
    wait_for("answers again", receiving);

    let answer = ctl(&socket, "quit").unwrap();
    let table = String::from_utf8(stamp.wait_with_output().unwrap().stdout).unwrap();
    drop(end(echo));
    let away = &answer["marks"][1];
    let silence = away["silence_ms"]["max"].as_f64().unwrap();
    assert!(silence >= 500.0, "{answer}");
    assert!(away["lost"].as_u64().unwrap() >= 20, "{answer}");
    assert_eq!(answer["success"], false);
    assert!(table.contains("away") && table.ends_with("FAILED\n"), "{table}");
    let sender = &statistics["senders"][0];
    assert!(
        sender["received"].as_u64().unwrap() > 0 && sender["missing"] == 0,
        "{statistics}"
    );
    assert!(std::fs::read_to_string(&svg).unwrap().starts_with("<svg "));
    assert!(std::fs::read_to_string(&html).unwrap().contains("<svg "));

    let files = [&json, &json].map(|path| path.to_str().unwrap());
    let words = [&["merge"][..], &files, &["--json", merged.to_str().unwrap()]].concat();
    assert!(
        Command::new(PROGRAM)
            .args(words)
            .stdout(Stdio::null())
            .status()
            .unwrap()
            .success()
    );
    let merged: Value = serde_json::from_str(&std::fs::read_to_string(merged).unwrap()).unwrap();
    assert_eq!(merged["flows"].as_array().unwrap().len(), 2);
    assert_eq!(merged["marks"].as_array().unwrap().len(), 1);
}
