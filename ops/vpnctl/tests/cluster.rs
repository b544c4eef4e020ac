//! `vpnctl cluster` against a real server with a cluster that is not there.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod server;

use std::os::unix::fs::PermissionsExt as _;
use std::process::Output;
use std::sync::Arc;

use serde_json::Value;
use server::Server;
use server::cluster::FakeCluster;

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn json(output: &Output) -> Value {
    assert!(output.status.success(), "{}", err(output));
    serde_json::from_slice(&output.stdout).unwrap()
}

async fn clustered() -> (Server, Arc<FakeCluster>) {
    let cluster = Arc::new(FakeCluster::default());
    (Server::with_cluster(cluster.clone()).await, cluster)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_single_node_says_that_it_is_in_no_cluster() {
    let server = Server::new().await;
    for command in ["status", "slots", "drain", "join", "events", "rotate-keys"] {
        let refused = server.vpnctl(&["cluster", command]).await;
        assert_eq!(refused.status.code(), Some(1), "{command}");
        assert!(
            err(&refused).contains("this node is not part of a cluster"),
            "{command}: {}",
            err(&refused)
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_slots_and_etcd_are_shown() {
    let (server, _) = clustered().await;
    let shown = server.vpnctl(&["cluster", "status"]).await;
    let text = out(&shown);
    let line = |word: &str| {
        text.lines()
            .find(|line| line.starts_with(word))
            .unwrap()
            .to_owned()
    };
    assert!(
        text.starts_with("node a: epoch 2, may forward for 1400 ms more"),
        "{text}"
    );
    assert!(
        line("b ").contains("suspected") && line("b ").contains("420 ms ago") && line("b ").contains("DOWN")
    );
    assert!(
        line("a ").contains("this node") && line("a ").contains("up"),
        "{text}"
    );
    assert!(
        line("1 ").contains("41") && line("1 ").contains("192.0.2.101"),
        "{text}"
    );
    assert!(
        line("http://").contains("leader") && line("http://").contains("3.0 MiB"),
        "{text}"
    );
    let warnings = err(&shown);
    assert_eq!(
        warnings.matches("plan an upgrade").count(),
        1,
        "said once: {warnings}"
    );
    assert!(warnings.contains("warning: node b is silent"), "{warnings}");

    let status = json(&server.vpnctl(&["cluster", "status", "-o", "json"]).await);
    assert_eq!(status["slots"][1]["owner"], "b");
    assert_eq!(status["slots"][1]["state"], "serving");
    assert_eq!(status["nodes"][1]["state"], "suspected");
    assert_eq!(status["nodes"][1]["drained"], false);
    assert_eq!(status["slots"][1]["sessions"], Value::Null);
    assert_eq!(status["replica_lag_ms"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn slots_are_shown_with_what_to_route_to_them() {
    let (server, _) = clustered().await;
    let text = out(&server.vpnctl(&["cluster", "slots"]).await);
    assert!(
        text.contains("acme/v4") && text.contains("10.9.128.0/25"),
        "{text}"
    );
    let of_b = json(
        &server
            .vpnctl(&["cluster", "slots", "--node", "b", "-o", "json"])
            .await,
    );
    assert_eq!(of_b.as_array().unwrap().len(), 1);
    let one = out(&server.vpnctl(&["cluster", "slots", "1"]).await);
    assert!(
        one.contains("192.0.2.101/24@eth0") && one.contains("generation: 41"),
        "{one}"
    );
    let none = server.vpnctl(&["cluster", "slots", "9"]).await;
    assert_eq!(none.status.code(), Some(1));
    assert!(err(&none).contains("there is no slot 9"));
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_are_given_and_refusals_explained() {
    let (server, cluster) = clustered().await;
    for (words, detail) in [
        (&["drain"][..], "drain wait=true 60 s"),
        (&["drain", "a", "--no-wait"], "drain wait=false 60 s"),
        (&["undrain"], "undrain"),
        (&["move", "1", "b", "--wait-secs", "5"], "move 1 to b"),
        (&["leave", "a"], "leave"),
        (&["join"], "join"),
    ] {
        let all: Vec<&str> = std::iter::once("cluster").chain(words.iter().copied()).collect();
        let done = server.vpnctl(&all).await;
        assert!(done.status.success(), "{words:?}: {}", err(&done));
        assert_eq!(out(&done).trim(), detail);
    }
    assert_eq!(cluster.orders.lock().unwrap().len(), 6);
    for (words, reason) in [
        (
            &["cluster", "drain", "b"][..],
            "this is node a: ask node b itself",
        ),
        (&["cluster", "move", "9", "b"], "slot 9 not found"),
        (&["cluster", "forget", "b"], "node b lives: stop it first"),
    ] {
        let refused = server.vpnctl(words).await;
        assert_eq!(refused.status.code(), Some(1), "{words:?}");
        assert!(err(&refused).contains(reason), "{words:?}: {}", err(&refused));
    }
    let answer = json(&server.vpnctl(&["cluster", "join", "-o", "json"]).await);
    assert_eq!(answer["detail"], "join");
    let rotated = out(&server.vpnctl(&["cluster", "rotate-keys", "--slot", "1"]).await);
    assert!(rotated.contains("DATA KEY") && rotated.contains('7'), "{rotated}");
    let events = out(&server.vpnctl(&["cluster", "events"]).await);
    assert_eq!(events.lines().count(), 2);
    assert!(
        events.contains("claimed") && events.contains("slot 1 is taken from b"),
        "{events}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_goes_into_a_file_and_back() {
    let (server, cluster) = clustered().await;
    let file = server.path("c.backup").display().to_string();
    let written = server.vpnctl(&["cluster", "backup", &file]).await;
    assert!(written.status.success(), "{}", err(&written));
    let octets = std::fs::read(&file).unwrap();
    assert_eq!(octets.len(), 600_000);
    let mode = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let refused = server.vpnctl(&["cluster", "backup", &file]).await;
    assert!(err(&refused).contains("--force replaces it"), "{}", err(&refused));
    assert!(
        server
            .vpnctl(&["cluster", "backup", &file, "--force"])
            .await
            .status
            .success()
    );
    let piped = server.vpnctl(&["cluster", "backup", "-"]).await;
    assert_eq!(piped.stdout, octets);

    let refused = server.vpnctl(&["cluster", "restore", &file]).await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(err(&refused).contains("has a configuration"), "{}", err(&refused));
    let tried = server
        .vpnctl(&["cluster", "restore", &file, "--replace", "--dry-run"])
        .await;
    assert!(err(&tried).contains("nothing was written"), "{}", err(&tried));
    assert!(cluster.restored.lock().unwrap().is_empty());
    let done = server.vpnctl(&["cluster", "restore", &file, "--replace"]).await;
    assert!(err(&done).contains("epoch 3 has begun"), "{}", err(&done));
    assert!(err(&done).contains("warning: restart every concentrator"));
    assert!(out(&done).contains("by node b: config 4"), "{}", out(&done));
    assert_eq!(*cluster.restored.lock().unwrap(), octets);
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_backup_is_none() {
    let cluster = Arc::new(FakeCluster {
        breaks: true,
        ..FakeCluster::default()
    });
    let server = Server::with_cluster(cluster).await;
    let file = server.path("c.backup");
    let failed = server
        .vpnctl(&["cluster", "backup", &file.display().to_string()])
        .await;
    assert_eq!(failed.status.code(), Some(1));
    assert!(
        err(&failed).contains("the store does not answer"),
        "{}",
        err(&failed)
    );
    assert!(!file.exists() && !server.path("c.backup.part").exists());
    std::fs::write(&file, b"half").unwrap();
    let refused = server
        .vpnctl(&["cluster", "restore", &file.display().to_string()])
        .await;
    assert!(err(&refused).contains("cut off"), "{}", err(&refused));
    let missing = server.vpnctl(&["cluster", "restore", "/nonexistent"]).await;
    assert!(
        err(&missing).contains("cannot read /nonexistent"),
        "{}",
        err(&missing)
    );
}
