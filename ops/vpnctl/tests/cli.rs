//! The binary against a real server in this process: the real services and store, and a daemon that is not one.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod server;

use std::process::{Output, Stdio};

use serde_json::Value;
use server::Server;
use tokio::io::AsyncWriteExt as _;

/// Standard output as text.
fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Standard error as text.
fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn json(output: &Output) -> Value {
    assert!(output.status.success(), "{}", err(output));
    serde_json::from_slice(&output.stdout).unwrap()
}

const SITE: &str = "
kind: Connection
tenant: acme
name: users
auth: psk
remote_ids: [\"*@acme.example\"]
local_ts: [10.0.0.0/8]
pools: [v4]
---
kind: Tenant
name: acme
---
kind: AddressPool
tenant: acme
name: v4
range: 10.9.0.0/24
---
kind: Credential
tenant: acme
name: alice
type: psk
ids: [alice@acme.example]
secret_file: alice.psk
";

/// The set in a file, with the key beside it.
fn write_site(server: &Server) -> String {
    std::fs::write(server.path("alice.psk"), "s3cret\n").unwrap();
    let file = server.path("site.yaml");
    std::fs::write(&file, SITE).unwrap();
    file.display().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_set_is_tried_applied_and_applied_again() {
    let server = Server::new().await;
    let file = write_site(&server);
    let tried = server.vpnctl(&["apply", "-f", &file, "--dry-run"]).await;
    assert!(tried.status.success(), "{}", err(&tried));
    assert!(out(&tried).contains("+ Connection acme/users"), "{}", out(&tried));
    assert!(
        err(&tried).contains("4 created (dry run: nothing was written)"),
        "{}",
        err(&tried)
    );
    assert!(out(&server.vpnctl(&["list", "tenant", "-o", "json"]).await).trim() == "[]");

    assert!(err(&server.vpnctl(&["apply", "-f", &file]).await).contains("4 created"));
    let again = server.vpnctl(&["apply", "-f", &file]).await;
    assert!(err(&again).contains("4 unchanged"), "{}", err(&again));

    let changed = SITE.replace("10.9.0.0/24", "10.9.0.0/16");
    std::fs::write(server.path("site.yaml"), changed).unwrap();
    std::fs::write(server.path("alice.psk"), "other\n").unwrap();
    let update = server.vpnctl(&["apply", "-f", &file]).await;
    let text = out(&update);
    assert!(
        text.contains("range: \"10.9.0.0/24\" → \"10.9.0.0/16\""),
        "{text}"
    );
    assert!(
        text.contains("secret: (secret) → (secret)") && !text.contains("other"),
        "{text}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_said_on_standard_error_with_status_1() {
    let server = Server::new().await;
    let file = server.path("bad.yaml");
    std::fs::write(&file, SITE.replace("range: 10.9.0.0/24", "range: 10.9.0.1/24")).unwrap();
    std::fs::write(server.path("alice.psk"), "x").unwrap();
    let refused = server.vpnctl(&["apply", "-f", &file.display().to_string()]).await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(refused.stdout.is_empty());
    assert!(
        err(&refused).contains("AddressPool acme/v4: range \"10.9.0.1/24\" has host bits set"),
        "{}",
        err(&refused)
    );

    let missing = server.vpnctl(&["describe", "tenant", "nobody"]).await;
    assert_eq!(missing.status.code(), Some(1));
    assert!(err(&missing).contains("nobody"), "{}", err(&missing));
    assert_eq!(
        server.vpnctl(&["describe"]).await.status.code(),
        Some(2),
        "wrong usage"
    );
    let nowhere = server
        .command(&["--endpoint", "unix:/nonexistent/api.sock", "status"])
        .output()
        .await
        .unwrap();
    assert_eq!(nowhere.status.code(), Some(3), "{}", err(&nowhere));
}

#[tokio::test(flavor = "multi_thread")]
async fn resources_are_listed_described_and_deleted() {
    let server = Server::new().await;
    let file = write_site(&server);
    server.vpnctl(&["apply", "-f", &file]).await;
    let pools = json(
        &server
            .vpnctl(&["list", "pool", "--tenant", "acme", "-o", "json"])
            .await,
    );
    assert_eq!(pools[0]["capacity"], 254);
    let credentials = server
        .vpnctl(&["get", "credential", "-t", "acme", "-o", "json"])
        .await;
    assert_eq!(json(&credentials)[0]["ids"][0], "alice@acme.example");
    assert!(!out(&credentials).contains("s3cret"), "secrets never come out");
    let table = out(&server.vpnctl(&["list", "connection"]).await);
    assert!(table.contains("users") && table.contains("acme"), "{table}");

    let refused = server.vpnctl(&["delete", "pool", "v4", "-t", "acme"]).await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        err(&refused).contains("Connection acme/users"),
        "{}",
        err(&refused)
    );
    assert!(
        server
            .vpnctl(&["delete", "tenant", "acme", "--cascade", "--dry-run"])
            .await
            .status
            .success()
    );
    assert!(
        server
            .vpnctl(&["describe", "tenant", "acme"])
            .await
            .status
            .success()
    );
    assert!(
        server
            .vpnctl(&["delete", "tenant", "acme", "--cascade"])
            .await
            .status
            .success()
    );
    let records = json(&server.vpnctl(&["audit", "-o", "json"]).await);
    assert_eq!(records[0]["change"]["action"], "delete");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_shown_as_yaml_can_be_applied_again() {
    let server = Server::new().await;
    let file = write_site(&server);
    server.vpnctl(&["apply", "-f", &file]).await;
    for kind in ["tenant", "pool", "connection", "credential"] {
        let shown = server.vpnctl(&["get", kind, "-o", "yaml"]).await;
        let file = server.path("again.yaml");
        std::fs::write(&file, &shown.stdout).unwrap();
        let again = server.vpnctl(&["apply", "-f", &file.display().to_string()]).await;
        assert!(
            err(&again).contains("1 unchanged"),
            "{kind}: {}\n{}",
            err(&again),
            out(&shown)
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_shown_and_ended() {
    let server = Server::new().await;
    server.add_session("00000000000000a1", "acme", "alice@acme.example");
    server.add_session("00000000000000b2", "globex", "bob@globex.example");
    let all = json(&server.vpnctl(&["sessions", "-o", "json"]).await);
    assert_eq!(all.as_array().unwrap().len(), 2);
    let table = out(&server.vpnctl(&["sessions", "--tenant", "acme"]).await);
    assert!(
        table.contains("alice@acme.example") && !table.contains("bob"),
        "{table}"
    );
    let tried = server
        .vpnctl(&["disconnect", "--identity", "bob@globex.example", "--dry-run"])
        .await;
    assert!(out(&tried).contains("00000000000000b2"), "{}", out(&tried));
    assert_eq!(server.sessions(), 2);
    assert!(
        server
            .vpnctl(&["disconnect", "00000000000000b2"])
            .await
            .status
            .success()
    );
    assert_eq!(server.sessions(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn attempts_say_why_and_what_to_do() {
    let server = Server::new().await;
    server.add_failed_attempt("acme", "alice@acme.example");
    let text = out(&server.vpnctl(&["attempts", "--failed", "--tenant", "acme"]).await);
    assert!(
        text.contains("alice@acme.example") && text.contains("the AUTH payload does not verify"),
        "{text}"
    );
    assert!(
        text.contains("set the same on both sides"),
        "the likely fix: {text}"
    );
    let found = json(
        &server
            .vpnctl(&["attempts", "--address", "192.0.2.7", "-o", "json"])
            .await,
    );
    assert_eq!(found[0]["failure"], "psk_mismatch");
    let none = json(
        &server
            .vpnctl(&["attempts", "--identity", "nobody", "-o", "json"])
            .await,
    );
    assert_eq!(none, Value::Array(vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_node_is_shown_and_reloaded() {
    let server = Server::new().await;
    let status = json(&server.vpnctl(&["status", "-o", "json"]).await);
    assert_eq!(status["node"], "test");
    assert!(server.vpnctl(&["reload"]).await.status.success());
    let fault = server.vpnctl(&["fault", "worker", "0"]).await;
    assert_eq!(fault.status.code(), Some(1));
    assert!(err(&fault).contains("fault_injection"), "{}", err(&fault));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_leaves_is_no_failure() {
    let server = Server::new().await;
    for index in 0..2_000_u32 {
        server.add_session(
            &format!("{index:016x}"),
            "acme",
            "somebody with a long identity@acme.example",
        );
    }
    let mut command = server.command(&server.access(&["sessions", "-o", "json"]));
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // Closed before anything was read: far more follows than a pipe holds.
    drop(child.stdout.take());
    let ended = child.wait_with_output().await.unwrap();
    assert!(ended.status.success(), "{:?}: {}", ended.status, err(&ended));
    assert!(err(&ended).is_empty(), "{}", err(&ended));
}

#[tokio::test(flavor = "multi_thread")]
async fn standard_input_is_a_file_too() {
    let server = Server::new().await;
    let mut command = server.command(&server.access(&["apply", "-f", "-"]));
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"kind: Tenant\nname: acme\n").await.unwrap();
    drop(stdin);
    let done = child.wait_with_output().await.unwrap();
    assert!(
        done.status.success() && out(&done).contains("+ Tenant acme"),
        "{} {}",
        out(&done),
        err(&done)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn completions_need_no_server() {
    let server = Server::new().await;
    for shell in ["bash", "zsh", "fish"] {
        let script = server.command(&["completions", shell]).output().await.unwrap();
        assert!(
            script.status.success() && out(&script).contains("vpnctl"),
            "{shell}"
        );
    }
}
