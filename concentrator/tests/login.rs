//! Logins over real sockets: the daemon in a network namespace of its own, the `ike` crate as the user.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod common;

use std::time::Duration;

use api::v1;
use common::{Client, Collector, Daemon, block_on, eventually, in_namespace};

const SECOND: Duration = Duration::from_secs(1);

fn inject(daemon: &Daemon, target: &str, selector: &str) {
    block_on(async {
        v1::node_service_client::NodeServiceClient::new(daemon.api().await)
            .inject_fault(v1::InjectFaultRequest {
                target: target.to_owned(),
                selector: selector.to_owned(),
                fault: "panic".to_owned(),
            })
            .await
            .unwrap();
    });
}

/// A user with the right key comes in, gets an address of the pool, shows up in the directory, and leaves.
#[test]
fn a_user_logs_in_and_out() {
    if !in_namespace("a_user_logs_in_and_out") {
        return;
    }
    let state = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(state.path(), |_| {});
    block_on(daemon.provision("acme", "10.77.0.0/24", &[("alice@acme.example", "one")]));
    let mut alice = Client::new("127.0.0.2", "alice@acme.example", "acme.gw.example", "one");
    alice.login();

    let sessions = daemon.node.sessions.page(None, 10);
    assert_eq!(sessions.len(), 1);
    let message = sessions[0].message("test");
    assert_eq!(message.peer_id, "alice@acme.example");
    assert_eq!(message.tenant, "acme");
    assert_eq!(message.children.len(), 1);
    let address: std::net::Ipv4Addr = message.virtual_addresses[0].parse().unwrap();
    assert_eq!(address.octets()[..3], [10, 77, 0]);
    assert_eq!(message.children[0].remote_ts, vec![format!("{address}/32")]);

    eventually("the attempt record", || {
        let attempts = daemon
            .node
            .attempts
            .list(&tenants::AttemptFilter::default(), None, 10);
        attempts.len() == 1 && !attempts[0].record.is_failed()
    });
    assert!(alice.alive(5 * SECOND));
    alice.command(ike::Command::Close);
    assert!(alice.run(5 * SECOND, |alice| alice.closed.is_some()));
    eventually("the session's end", || daemon.node.sessions.is_empty());
    eventually("the records' end", || daemon.node.slots.records_waiting() == 0);
    assert_eq!(daemon.node.children.len(), 0);
    daemon.drain();
}

/// The node says that it serves while it does; that it takes nobody when it drains; and that it carries nothing without its
/// workers.
#[test]
fn health_says_what_the_node_can_do() {
    if !in_namespace("health_says_what_the_node_can_do") {
        return;
    }
    let state = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(state.path(), |_| {});
    let is = |wanted: &[(&str, bool)]| {
        for (service, serves) in wanted {
            eventually(service, || {
                block_on(async { common::serves(daemon.api().await, service).await }) == Some(*serves)
            });
        }
    };
    let all = [
        "",
        "vpn.tunnels",
        "vpn.store",
        "vpn.logins",
        "vpn.v1.SessionService",
    ];
    is(&all.map(|service| (service, true)));
    daemon
        .node
        .draining
        .store(true, std::sync::atomic::Ordering::Relaxed);
    is(&[
        ("", false),
        ("vpn.logins", false),
        ("vpn.tunnels", true),
        ("vpn.store", true),
    ]);
    daemon
        .node
        .draining
        .store(false, std::sync::atomic::Ordering::Relaxed);
    is(&all.map(|service| (service, true)));
    daemon.node.stop_workers();
    is(&[
        ("", false),
        ("vpn.tunnels", false),
        ("vpn.store", true),
        ("vpn.v1.SessionService", true),
    ]);
    daemon.abandon();
}

/// A user whose key is taken away is out at once, also one that does not answer; the others stay.
#[test]
fn a_user_without_a_key_is_ended() {
    if !in_namespace("a_user_without_a_key_is_ended") {
        return;
    }
    let state = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(state.path(), |_| {});
    let users = [
        ("alice@acme.example", "one"),
        ("bob@acme.example", "two"),
        ("carol@acme.example", "three"),
    ];
    block_on(daemon.provision("acme", "10.77.0.0/24", &users));
    let mut alice = Client::new("127.0.0.2", "alice@acme.example", "acme.gw.example", "one");
    let mut bob = Client::new("127.0.0.3", "bob@acme.example", "acme.gw.example", "two");
    let mut carol = Client::new("127.0.0.4", "carol@acme.example", "acme.gw.example", "three");
    alice.login();
    bob.login();
    carol.login();
    let revoke = |name: &str| {
        block_on(async {
            v1::credential_service_client::CredentialServiceClient::new(daemon.api().await)
                .delete(v1::DeleteCredentialRequest {
                    tenant: "acme".to_owned(),
                    name: name.to_owned(),
                    ..Default::default()
                })
                .await
                .unwrap();
        });
    };
    // Nobody runs carol from here on: she is silent.
    revoke("carol");
    let revoked = std::time::Instant::now();
    eventually("the end of a silent user", || daemon.node.sessions.len() == 2);
    assert!(revoked.elapsed() < std::time::Duration::from_secs(2));
    revoke("alice");
    assert!(
        alice.run(2 * SECOND, |alice| alice.closed.is_some()),
        "within 2 s"
    );
    eventually("the session's end", || daemon.node.sessions.len() == 1);
    assert!(bob.alive(5 * SECOND));
    daemon.drain();
}

/// A session that an operator ends is over soon, also if its user says nothing.
#[test]
fn an_operator_does_not_wait_for_a_user_who_is_gone() {
    if !in_namespace("an_operator_does_not_wait_for_a_user_who_is_gone") {
        return;
    }
    let state = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(state.path(), |_| {});
    block_on(daemon.provision("acme", "10.77.0.0/24", &[("alice@acme.example", "one")]));
    let mut alice = Client::new("127.0.0.2", "alice@acme.example", "acme.gw.example", "one");
    alice.login();
    // Nobody runs alice from here on: she is silent.
    let begun = std::time::Instant::now();
    block_on(async {
        let ended = v1::session_service_client::SessionServiceClient::new(daemon.api().await)
            .disconnect(v1::DisconnectRequest {
                identity: "alice@acme.example".to_owned(),
                ..Default::default()
            })
            .await
            .unwrap();
        assert_eq!(ended.into_inner().ids.len(), 1);
    });
    eventually("the session's end", || daemon.node.sessions.is_empty());
    assert!(begun.elapsed() < 2 * SECOND, "{:?}", begun.elapsed());
    eventually("the end of its child SA", || daemon.node.children.is_empty());
    daemon.drain();
}

/// Wrong key and unknown user: refused alike towards the peer, told apart towards the operator.
#[test]
fn refusals_look_alike_outside_and_are_explained_inside() {
    if !in_namespace("refusals_look_alike_outside_and_are_explained_inside") {
        return;
    }
    let state = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(state.path(), |_| {});
    block_on(daemon.provision("acme", "10.77.0.0/24", &[("alice@acme.example", "one")]));
    let mut outside = Vec::new();
    for (id, key) in [
        ("alice@acme.example", "battery staple"),
        ("mallory@acme.example", "one"),
    ] {
        let mut client = Client::new("127.0.0.2", id, "acme.gw.example", key);
        assert!(client.run(10 * SECOND, |client| client.failed.is_some()));
        outside.push(client.failed.unwrap());
    }
    assert_eq!(outside[0], outside[1]);
    assert!(outside[0].contains("AUTHENTICATION_FAILED"), "{}", outside[0]);
    eventually("two attempt records", || {
        daemon
            .node
            .attempts
            .list(&tenants::AttemptFilter::default(), None, 10)
            .len()
            == 2
    });
    let kinds: Vec<String> = daemon
        .node
        .attempts
        .list(&tenants::AttemptFilter::default(), None, 10)
        .iter()
        .map(|attempt| attempt.record.to_api(attempt.id).failure)
        .collect();
    assert_eq!(kinds, ["unknown_identity", "psk_mismatch"]);
    assert!(daemon.node.sessions.is_empty());
    daemon.drain();
}

/// Every kind of actor is made to panic while two tenants are connected: all tunnels go on, each is back in a second.
#[test]
fn a_panic_in_any_actor_touches_nothing_else() {
    if !in_namespace("a_panic_in_any_actor_touches_nothing_else") {
        return;
    }
    let state = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(state.path(), |_| {});
    block_on(daemon.provision("acme", "10.77.0.0/24", &[("alice@acme.example", "one")]));
    block_on(daemon.provision("bolt", "10.78.0.0/24", &[("bob@bolt.example", "two")]));
    let mut alice = Client::new("127.0.0.2", "alice@acme.example", "acme.gw.example", "one");
    let mut bob = Client::new("127.0.0.3", "bob@bolt.example", "bolt.gw.example", "two");
    alice.login();
    bob.login();
    let session = daemon.node.sessions.of_tenant("acme").remove(0);
    let other = daemon.node.sessions.of_tenant("bolt").remove(0);
    let id = session.name();

    let before = session.addr.load_full().unwrap();
    let bobs = other.addr.load_full().unwrap();
    inject(&daemon, "ike_sa", &id);
    let took = eventually("a new IkeSaActor", || {
        session
            .addr
            .load_full()
            .is_some_and(|addr| addr.connected() && *addr != *before)
    });
    assert!(took < SECOND, "{took:?}");
    assert!(
        alice.alive(2 * SECOND),
        "the restarted IKE SA answers under its old keys"
    );
    assert!(
        bobs.connected() && *other.addr.load_full().unwrap() == *bobs,
        "the sibling is the same actor"
    );

    let child = session.children().remove(0);
    let before = child.addr.load_full().unwrap();
    inject(&daemon, "child_sa", &id);
    let took = eventually("a new ChildSaActor", || {
        child
            .addr
            .load_full()
            .is_some_and(|addr| addr.connected() && *addr != *before)
    });
    assert!(took < SECOND, "{took:?}");

    let share = daemon.node.tenants.find("acme").unwrap();
    let before = share.supervisor.load_full().unwrap();
    inject(&daemon, "tenant", "acme");
    let took = eventually("a new TenantSupervisor", || {
        share
            .supervisor
            .load_full()
            .is_some_and(|addr| addr.connected() && *addr != *before)
    });
    assert!(took < SECOND, "{took:?}");
    // The new supervisor supervises: its children are restarted too.
    let before = session.addr.load_full().unwrap();
    inject(&daemon, "ike_sa", &id);
    eventually("a new IkeSaActor under the new supervisor", || {
        session
            .addr
            .load_full()
            .is_some_and(|addr| addr.connected() && *addr != *before)
    });

    for worker in ["0", "1"] {
        let slot = daemon.node.worker(worker.parse().unwrap()).unwrap();
        let restarts = slot.restarts.load(std::sync::atomic::Ordering::Relaxed);
        inject(&daemon, "worker", worker);
        let took = eventually("a new worker", || {
            slot.restarts.load(std::sync::atomic::Ordering::Relaxed) > restarts && slot.runs()
        });
        assert!(took < SECOND, "{took:?}");
        let before = slot.actor.load_full().unwrap();
        inject(&daemon, "worker_actor", worker);
        eventually("a new EspWorker", || {
            slot.actor
                .load_full()
                .is_some_and(|addr| addr.connected() && *addr != *before)
        });
    }
    inject(&daemon, "listener", "");
    inject(&daemon, "replicator", "");
    inject(&daemon, "pending", "");
    assert!(alice.alive(5 * SECOND));
    assert!(bob.alive(5 * SECOND));
    // And new users still come in: all of it works.
    let mut again = Client::new("127.0.0.4", "alice@acme.example", "acme.gw.example", "one");
    again.login();
    daemon.drain();
}

/// One tenant is flooded with wrong logins, and has little room: the other's users come in as always.
#[test]
fn a_flooded_tenant_costs_the_others_nothing() {
    if !in_namespace("a_flooded_tenant_costs_the_others_nothing") {
        return;
    }
    let state = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(state.path(), |config| {
        config.limits.authentications_per_tenant = 1;
        config.limits.cookie_threshold = 8;
    });
    block_on(daemon.provision("acme", "10.77.0.0/24", &[("alice@acme.example", "one")]));
    block_on(daemon.provision("bolt", "10.78.0.0/24", &[("bob@bolt.example", "two")]));
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let flood: Vec<_> = (10..14)
        .map(|host| {
            let stop = std::sync::Arc::clone(&stop);
            std::thread::spawn(move || {
                let mut refused = 0;
                let address = format!("127.0.1.{host}");
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let mut client = Client::new(&address, "bob@bolt.example", "bolt.gw.example", "wrong");
                    client.run(2 * SECOND, |client| client.failed.is_some());
                    refused += u32::from(client.failed.is_some());
                }
                refused
            })
        })
        .collect();
    for host in 1..=10 {
        let begun = std::time::Instant::now();
        let address = format!("127.0.2.{host}");
        let mut alice = Client::new(&address, "alice@acme.example", "acme.gw.example", "one");
        alice.login();
        let took = begun.elapsed();
        assert!(took < 2 * SECOND, "login {host} took {took:?}");
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let refused: u32 = flood.into_iter().map(|thread| thread.join().unwrap()).sum();
    assert!(refused > 10, "there was a flood: {refused}");
    assert_eq!(
        daemon.node.sessions.of_tenant("acme").len(),
        1,
        "one session a user"
    );
    assert!(daemon.node.sessions.of_tenant("bolt").is_empty());
    eventually("half-open SAs go", || {
        daemon.node.half_open.load(std::sync::atomic::Ordering::Relaxed) == 0
    });
    daemon.drain();
}

/// The daemon dies without a word and starts again: the user's IKE SA answers as if nothing had been.
#[test]
fn a_killed_daemon_carries_its_sessions_on() {
    if !in_namespace("a_killed_daemon_carries_its_sessions_on") {
        return;
    }
    let state = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(state.path(), |_| {});
    block_on(daemon.provision("acme", "10.77.0.0/24", &[("alice@acme.example", "one")]));
    let mut alice = Client::new("127.0.0.2", "alice@acme.example", "acme.gw.example", "one");
    alice.login();
    let before = daemon.node.sessions.page(None, 10).remove(0).message("test");
    let generation = daemon.node.start.generation;
    daemon.abandon();

    let daemon = Daemon::start(state.path(), |_| {});
    assert!(daemon.node.start.generation > generation);
    let after = daemon.node.sessions.page(None, 10).remove(0).message("test");
    assert_eq!(after.state, "restored");
    assert_eq!(
        (&after.id, &after.spi_i, &after.spi_r),
        (&before.id, &before.spi_i, &before.spi_r)
    );
    assert_eq!(after.virtual_addresses, before.virtual_addresses);
    assert_eq!(after.children[0].spi_in, before.children[0].spi_in);
    assert!(alice.alive(5 * SECOND), "no new IKE_SA_INIT is needed");
    // The address is still taken: another user gets another one.
    block_on(async {
        v1::node_service_client::NodeServiceClient::new(daemon.api().await)
            .status(v1::NodeStatusRequest {})
            .await
            .unwrap();
    });
    alice.command(ike::Command::Close);
    assert!(alice.run(5 * SECOND, |alice| alice.closed.is_some()));
    eventually("the session's end", || daemon.node.sessions.is_empty());
    daemon.drain();
}

/// A real OTLP receiver sees the spans of a real login, the metrics and the log.
#[test]
fn a_login_is_one_trace_with_its_steps() {
    if !in_namespace("a_login_is_one_trace_with_its_steps") {
        return;
    }
    let state = tempfile::tempdir().unwrap();
    let (collector, address) = Collector::start();
    let daemon = Daemon::start(state.path(), |config| {
        config.telemetry.otlp_endpoint = Some(format!("http://{address}"));
        config.telemetry.metrics_interval_ms = 100;
    });
    block_on(daemon.provision("acme", "10.77.0.0/24", &[("alice@acme.example", "one")]));
    let mut alice = Client::new("127.0.0.2", "alice@acme.example", "acme.gw.example", "one");
    alice.login();
    eventually("the root span", || collector.span_names().contains("ike.setup"));
    let wanted = [
        "ike.setup",
        "sa_init",
        "dh",
        "auth verify",
        "signature",
        "address assignment",
        "install",
        "store write",
    ];
    let names = collector.span_names();
    for name in wanted {
        assert!(names.contains(name), "{name} is missing in {names:?}");
    }
    let spans = collector.spans.lock().unwrap().clone();
    let root = spans.iter().find(|span| span.name == "ike.setup").unwrap();
    for span in &spans {
        if wanted[1..].contains(&span.name.as_str()) {
            assert_eq!(span.trace_id, root.trace_id, "{} belongs to the login", span.name);
            assert_eq!(span.parent_span_id, root.span_id);
            assert!(span.end_time_unix_nano >= span.start_time_unix_nano);
        }
    }
    let tenant = root
        .attributes
        .iter()
        .find(|attribute| attribute.key == "tenant")
        .unwrap();
    assert!(format!("{tenant:?}").contains("acme"));
    eventually("the metrics", || {
        let metrics = collector.metrics.lock().unwrap();
        ["vpn.sessions", "vpn.logins", "vpn.store.commit.duration"]
            .iter()
            .all(|name| metrics.contains(*name))
    });
    daemon.drain();
}
