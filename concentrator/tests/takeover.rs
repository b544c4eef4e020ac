//! What comes with taking a slot over: sessions that wait for the store, workers that die meanwhile, records that are
//! written again, and child SAs that are replaced.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod common;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use common::eventually;
use common::slots::{PORTS, SECOND, client, logged_in, rekeys, stage};
use concentrator::actors::Fault;
use concentrator::recovery;

/// The store is out of reach when an actor panics: its session waits for it, and goes on.
#[test]
fn a_session_waits_for_its_record() {
    let Some((shared, runtime)) = stage("a_session_waits_for_its_record") else {
        return;
    };
    let (node, slot) = shared.serving(&runtime);
    let mut alice = client(0, "127.0.0.2", "alice@acme.example");
    alice.login();
    let session = node.node.sessions.page(None, 1).remove(0);
    let before = session.addr.load_full().unwrap();
    shared.store.gone.store(true, Ordering::Release);
    before.do_send(Fault);
    eventually("the actor is gone", || !before.connected());
    assert!(!alice.alive(SECOND / 2), "nobody speaks for it");
    assert_eq!((node.node.sessions.len(), node.node.children.len()), (1, 1));
    assert_eq!(slot.generation(), 1);
    shared.store.gone.store(false, Ordering::Release);
    eventually("a new actor", || {
        session.addr.load_full().is_some_and(|addr| addr.connected())
    });
    assert_eq!(slot.generation(), 2);
    assert!(alice.alive(5 * SECOND) && rekeys(&mut alice, 5 * SECOND));
    node.drain();
}

/// Worker threads that die while a slot is restored lose no SA: not those whose actors come later, either.
#[test]
fn workers_that_die_during_a_restoration_get_every_sa_again() {
    let Some((shared, runtime)) = stage("workers_that_die_during_a_restoration_get_every_sa_again") else {
        return;
    };
    let (node, mut slot) = shared.serving(&runtime);
    drop(logged_in(&["alice", "bob", "carol", "dave"]));
    let installed = || {
        let mut installed = 0;
        for worker in 0..2 {
            let (reply, answer) = std::sync::mpsc::channel();
            let reply = Box::new(move |stats: Vec<dataplane::SaStats>| {
                let _ = reply.send(stats.len());
            });
            node.node
                .command(worker, dataplane::WorkerCommand::ReadStats(reply));
            installed += answer.recv_timeout(SECOND).unwrap_or(0);
        }
        installed
    };
    for round in 0..6 {
        runtime.block_on(recovery::put_down(&node.node, &slot));
        assert_eq!(installed(), 0);
        for worker in 0..2 {
            // What is behind it in the queue is lost.
            node.node.command(worker, dataplane::WorkerCommand::Panic);
        }
        let report;
        (slot, report) = runtime.block_on(shared.take(&node.node, 0));
        assert_eq!(report.children, 4);
        eventually(&format!("every SA in round {round}"), || installed() == 4);
    }
    node.drain();
}

/// Every record is written again, also that of a session whose actor has just panicked: nothing is left under the old key.
#[test]
fn everything_is_queued_when_a_slot_has_been_rewritten() {
    let Some((shared, runtime)) = stage("everything_is_queued_when_a_slot_has_been_rewritten") else {
        return;
    };
    let (node, slot) = shared.serving(&runtime);
    let mut clients = logged_in(&["alice", "bob", "carol"]);
    runtime.block_on(slot.records.flush()).unwrap();
    let records = || {
        let mut all = runtime.block_on(shared.store_of(0));
        // Ceilings of children that are older than the generation come in addition.
        all.retain(|(name, _)| name.contains("/sa/"));
        all
    };
    for _ in 0..3 {
        let before = records();
        let session = node.node.sessions.of_user("acme", "bob@acme.example").remove(0);
        session.addr.load_full().unwrap().do_send(Fault);
        runtime.block_on(async {
            assert_eq!(recovery::rewrite(&slot).await, Ok(3));
            slot.records.flush().await.unwrap();
        });
        let after = records();
        assert_eq!(after.len(), 3);
        for ((name, old), (same, new)) in before.iter().zip(&after) {
            assert_eq!(name, same);
            assert!(new.revision > old.revision, "{name} is as it was");
        }
    }
    for client in &mut clients {
        assert!(client.alive(5 * SECOND));
    }
    runtime.block_on(recovery::put_down(&node.node, &slot));
    assert!(runtime.block_on(recovery::rewrite(&slot)).is_err());
    node.drain();
}

/// After a takeover the child SAs that carried packets are replaced, the others stay.
#[test]
fn busy_child_sas_are_replaced_after_a_takeover() {
    let Some((shared, runtime)) = stage("busy_child_sas_are_replaced_after_a_takeover") else {
        return;
    };
    let (node, slot) = shared.serving(&runtime);
    let mut clients = logged_in(&["alice", "bob", "carol"]);
    let child = |user: &str| {
        let user = format!("{user}@acme.example");
        let session = node.node.sessions.of_user("acme", &user).remove(0);
        session.children().remove(0)
    };
    let packet = |child: &concentrator::session::Child, highest| {
        let now = concentrator::session::millis_since_1970(SystemTime::now());
        child.last_in_millis.store(now, Ordering::Release);
        child.highest_in.store(highest, Ordering::Release);
    };
    let pace = concentrator::recovery::Pace::new(1_000).unwrap();
    let times = concentrator::recovery::Times {
        look: Duration::ZERO,
        spread: SECOND / 10,
    };
    // None of them was taken over.
    packet(&child("alice"), 40);
    let renewal =
        |slot: &Arc<_>| recovery::renew(Arc::clone(&node.node), Arc::clone(slot), Arc::clone(&pace), times);
    assert_eq!(runtime.block_on(renewal(&slot)), 0);
    runtime.block_on(async {
        recovery::freeze(&node.node, &slot, SECOND).await.unwrap();
        recovery::put_down(&node.node, &slot).await;
    });
    let (slot, report) = runtime.block_on(shared.take(&node.node, 0));
    assert_eq!(report.children, 3);
    let restored = child("alice").restored.unwrap();
    assert_eq!(
        (restored.highest, restored.busy),
        (40, true),
        "the checkpoint says so"
    );
    assert!(!child("bob").restored.unwrap().busy);
    // Bob carries packets now; carol is silent. 9 numbers between 0 and 12 were not seen.
    packet(&child("bob"), 12);
    assert_eq!(child("bob").exposed(12, 3), Some(9));
    assert_eq!(child("bob").exposed(12, 3), None, "once");
    let before: Vec<u32> = clients.iter().map(|client| client.children[0].spi_out).collect();
    assert_eq!(runtime.block_on(renewal(&slot)), 2);
    for (client, old) in clients.iter_mut().zip(before).take(2) {
        assert!(client.run(10 * SECOND, |client| {
            client.children[0].spi_out != old && !node.node.children.contains_key(&old)
        }));
    }
    assert!(child("carol").restored.is_some());
    assert_eq!(runtime.block_on(renewal(&slot)), 0, "nothing is left to do");
    node.drain();
}

/// A node dies while logins are under way: one that has its answer to IKE_SA_INIT, one whose user is verified and whose
/// answer no store has made durable. Both users come in by their own next try at the node that takes the slot, and nothing of what
/// was begun is left.
#[test]
fn logins_that_die_with_their_node_are_begun_anew_and_leave_nothing() {
    let test = "logins_that_die_with_their_node_are_begun_anew_and_leave_nothing";
    let Some((shared, runtime)) = stage(test) else {
        return;
    };
    let (first, slot) = shared.serving(&runtime);
    // Alice's first message is answered; she does not look yet.
    let mut alice = client(0, "127.0.0.2", "alice@acme.example");
    assert!(!alice.run(Duration::ZERO, |_| false));
    eventually("a half-open IKE SA", || slot.half_open() == 1);
    // The store stands still, and bob cannot come in.
    shared.store.gone.store(true, Ordering::Release);
    let mut bob = client(0, "127.0.0.3", "bob@acme.example");
    assert!(!bob.run(2 * SECOND, |bob| bob.established));
    first.abandon();
    shared.store.gone.store(false, Ordering::Release);
    assert_eq!(runtime.block_on(shared.names(0, "sa/")).len(), 0);

    let second = shared.node("b", &[0, 1], PORTS);
    let (slot, report) = runtime.block_on(shared.take(&second.node, 0));
    assert_eq!((report.restored, report.dropped), (0, 0));
    // Their messages belong to IKE SAs that nobody knows: they are not answered with an end that anybody could forge.
    for user in [&mut alice, &mut bob] {
        assert!(!user.run(SECOND, |user| user.established));
    }
    assert_eq!((&alice.failed, &alice.closed), (&None, &None));
    assert_eq!(slot.half_open(), 0);
    drop((alice, bob));
    let mut alice = client(0, "127.0.0.2", "alice@acme.example");
    let mut bob = client(0, "127.0.0.3", "bob@acme.example");
    alice.login();
    bob.login();
    assert!(alice.alive(5 * SECOND) && bob.alive(5 * SECOND));
    assert_eq!((second.node.sessions.len(), second.node.children.len()), (2, 2));
    assert_eq!(slot.half_open(), 0);
    runtime.block_on(slot.records.flush()).unwrap();
    assert_eq!(runtime.block_on(shared.names(0, "sa/")).len(), 2);
    let mut addresses: Vec<_> = second
        .node
        .sessions
        .page(None, 9)
        .iter()
        .flat_map(|session| session.facts.virtual_addresses.clone())
        .collect();
    addresses.sort();
    addresses.dedup();
    assert_eq!(
        addresses.len(),
        2,
        "each has an address, and no address is lost to a login that died"
    );
    second.drain();
}

/// The wall clock of the node that takes a slot is a year ahead: nobody is thrown out for it.
#[test]
fn a_node_whose_clock_is_far_ahead_carries_sessions_on() {
    let test = "a_node_whose_clock_is_far_ahead_carries_sessions_on";
    let Some((shared, runtime)) = stage(test) else {
        return;
    };
    let (first, slot) = shared.serving(&runtime);
    let mut alice = client(0, "127.0.0.2", "alice@acme.example");
    alice.login();
    runtime.block_on(slot.records.flush()).unwrap();
    runtime.block_on(shared.age(&slot, 365 * 24 * 3_600 * SECOND));
    first.abandon();
    let second = shared.node("b", &[0, 1], PORTS);
    let (_, report) = runtime.block_on(shared.take(&second.node, 0));
    assert_eq!((report.restored, report.dropped), (1, 0));
    // Its keys look spent: they are replaced within the seconds that are left.
    let spi = alice.children[0].spi_in;
    assert!(alice.run(20 * SECOND, |alice| {
        alice.rekeyed > 0 && alice.children.iter().any(|child| child.spi_in != spi)
    }));
    assert!(!alice.run(5 * SECOND, |alice| alice.closed.is_some()));
    assert!(alice.alive(5 * SECOND));
    assert_eq!(second.node.sessions.len(), 1);
    second.drain();
}
