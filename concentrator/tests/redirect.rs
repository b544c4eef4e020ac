//! Clients are sent to another gateway (RFC 5685): two daemons in a network namespace, the `ike` crate as the user.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod common;

use std::net::IpAddr;
use std::time::Duration;

use api::v1;
use common::{Client, Daemon, block_on, eventually, in_namespace};

const SECOND: Duration = Duration::from_secs(1);
const FIRST: &str = "127.0.0.1";
const SECOND_GATEWAY: &str = "127.0.0.9";
const USERS: [(&str, &str); 3] = [
    ("alice@acme.example", "one"),
    ("bob@acme.example", "two"),
    ("carol@acme.example", "three"),
];

/// Tells a daemon where to send its clients.
async fn redirect(daemon: &Daemon, to: &[&str], sessions: bool) -> Result<String, tonic::Status> {
    let request = v1::RedirectRequest {
        to: to.iter().map(|to| (*to).to_owned()).collect(),
        sessions,
        per_sec: 100,
        wait: true,
        timeout_secs: 20,
    };
    v1::node_service_client::NodeServiceClient::new(daemon.api().await)
        .redirect(request)
        .await
        .map(|answer| answer.into_inner().detail)
}

async fn status(daemon: &Daemon) -> v1::NodeStatus {
    v1::node_service_client::NodeServiceClient::new(daemon.api().await)
        .status(v1::NodeStatusRequest {})
        .await
        .unwrap()
        .into_inner()
}

/// A user who follows a gateway's word, maybe sent by one.
fn follower(gateway: &str, host: &str, user: usize, from: Option<&str>) -> Client {
    let (id, key) = USERS[user];
    Client::configured(gateway, host, id, "acme.gw.example", key, |config| {
        config.redirect = true;
        config.redirected_from = from.map(|from| from.parse::<IpAddr>().unwrap());
    })
}

/// The gateway that a client was sent to instead of being let in.
fn sent(client: &mut Client) -> Option<String> {
    assert!(client.run(10 * SECOND, |client| {
        client.redirected.is_some() || client.established || client.failed.is_some()
    }));
    client.redirected.as_ref().map(ToString::to_string)
}

fn two_gateways(state: &std::path::Path) -> [Daemon; 2] {
    [FIRST, SECOND_GATEWAY].map(|address| {
        let directory = state.join(address);
        std::fs::create_dir_all(&directory).unwrap();
        let daemon = Daemon::start(&directory, |config| {
            config.listen.addresses = vec![address.parse().unwrap()];
        });
        block_on(daemon.provision("acme", "10.77.0.0/24", &USERS));
        daemon
    })
}

#[test]
fn new_clients_are_sent_to_another_gateway_and_not_back() {
    if !in_namespace("new_clients_are_sent_to_another_gateway_and_not_back") {
        return;
    }
    let state = tempfile::tempdir().unwrap();
    let [first, second] = two_gateways(state.path());
    for wrong in [&["no gateway"][..], &["cluster"], &["192.0.2.7"; 17]] {
        assert!(block_on(redirect(&first, wrong, false)).is_err(), "{wrong:?}");
    }
    assert_eq!(block_on(status(&first)).state, "serving");
    // Each of them thinks that the other should have it.
    block_on(redirect(&first, &[SECOND_GATEWAY], false)).unwrap();
    block_on(redirect(&second, &[FIRST], false)).unwrap();
    assert_eq!(block_on(status(&first)).state, "redirecting");
    let mut alice = follower(FIRST, "127.0.0.2", 0, None);
    assert_eq!(sent(&mut alice).unwrap(), SECOND_GATEWAY);
    eventually("nothing is left of it", || {
        first.node.dispatch.is_empty() && first.node.half_open.load(std::sync::atomic::Ordering::Relaxed) == 0
    });
    drop(alice);
    //= rfc5685#section-3
    //= type=test
    //# The presence of the REDIRECT_FROM payload in the IKE_SA_INIT exchange with the new gateway indicates to the new gateway that the client supports the redirect mechanism.
    let mut alice = follower(SECOND_GATEWAY, "127.0.0.2", 0, Some(FIRST));
    alice.login();
    assert!(second.node.sessions.page(None, 1)[0].follows());
    // Who does not follow is served.
    let (id, key) = USERS[1];
    let mut bob = Client::new("127.0.0.3", id, "acme.gw.example", key);
    bob.login();
    assert!(!first.node.sessions.page(None, 1)[0].follows());
    let counters = block_on(status(&first)).counters;
    assert_eq!(
        (counters["redirected_at_init"], counters["redirected_in_session"]),
        (1, 0)
    );
    assert_eq!(block_on(status(&second)).counters["redirected_at_init"], 0);
    // Nobody any more.
    block_on(redirect(&first, &[], false)).unwrap();
    assert_eq!(block_on(status(&first)).state, "serving");
    let mut carol = follower(FIRST, "127.0.0.4", 2, None);
    carol.login();
    first.drain();
    second.drain();
}

#[test]
fn clients_with_sessions_are_sent_and_the_others_stay() {
    if !in_namespace("clients_with_sessions_are_sent_and_the_others_stay") {
        return;
    }
    let state = tempfile::tempdir().unwrap();
    let [first, second] = two_gateways(state.path());
    let mut alice = follower(FIRST, "127.0.0.2", 0, None);
    let (id, key) = USERS[1];
    let mut bob = Client::new("127.0.0.3", id, "acme.gw.example", key);
    alice.login();
    bob.login();
    let outcome = std::thread::scope(|scope| {
        let ordered = scope.spawn(|| block_on(redirect(&first, &[SECOND_GATEWAY], true)));
        assert!(alice.run(10 * SECOND, |alice| alice.redirected.is_some()));
        assert_eq!(alice.redirected.as_ref().unwrap().to_string(), SECOND_GATEWAY);
        // As RFC 5685 section 5 asks of it.
        alice.command(ike::Command::Close);
        assert!(alice.run(10 * SECOND, |alice| alice.closed.is_some()));
        ordered.join().unwrap().unwrap()
    });
    assert_eq!(
        outcome,
        "1 clients were sent away, 0 of them are still here; 1 cannot be sent"
    );
    assert!(bob.alive(5 * SECOND) && bob.redirected.is_none());
    assert_eq!(block_on(status(&first)).counters["redirected_in_session"], 1);
    drop(alice);
    let mut alice = follower(SECOND_GATEWAY, "127.0.0.2", 0, Some(FIRST));
    alice.login();
    first.drain();
    second.drain();
}

#[test]
fn a_node_with_too_many_sessions_sends_new_clients_on() {
    if !in_namespace("a_node_with_too_many_sessions_sends_new_clients_on") {
        return;
    }
    let state = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(state.path(), |config| {
        config.redirect.above_sessions = 1;
        config.redirect.to = vec!["vpn2.example.org".parse().unwrap()];
    });
    block_on(daemon.provision("acme", "10.77.0.0/24", &USERS));
    let mut alice = follower(FIRST, "127.0.0.2", 0, None);
    alice.login();
    let mut bob = follower(FIRST, "127.0.0.3", 1, None);
    assert_eq!(sent(&mut bob).unwrap(), "vpn2.example.org");
    alice.command(ike::Command::Close);
    assert!(alice.run(10 * SECOND, |alice| alice.closed.is_some()));
    eventually("the session's end", || daemon.node.sessions.is_empty());
    drop(bob);
    let mut bob = follower(FIRST, "127.0.0.3", 1, None);
    bob.login();
    daemon.drain();
}
