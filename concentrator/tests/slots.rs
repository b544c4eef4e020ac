//! Slots that come and go: two nodes in one process over one store, real logins to either service address.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod common;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use common::eventually;
use common::slots::{PORTS, SECOND, Shared, client, fence, provision, rekeys, stage};
use concentrator::actors::{Fault, Gone, Who};
use concentrator::recovery;
use concentrator::slot::{Standing, slot_of_session};

/// A second node in the same namespace has to be somewhere else: the client is told where, as the network would.
const OTHER_PORTS: (u16, u16) = (1500, 14_500);

/// One slot goes to another node, the other one stays: nobody logs in again, and nobody notices what is not his.
#[test]
fn a_slot_moves_to_another_node_and_its_sessions_live_on() {
    let Some((shared, runtime)) = stage("a_slot_moves_to_another_node_and_its_sessions_live_on") else {
        return;
    };
    let (first, _) = shared.serving(&runtime);
    let (moving, _) = runtime.block_on(shared.take(&first.node, 1));
    let mut alice = client(0, "127.0.0.2", "alice@acme.example");
    let mut bob = client(1, "127.0.0.3", "bob@acme.example");
    alice.login();
    bob.login();
    let session = first.node.sessions.of_user("acme", "bob@acme.example").remove(0);
    assert_eq!((session.facts.slot, slot_of_session(session.facts.id)), (1, 1));
    let child = session.children().remove(0).sa.clone();
    assert_eq!(dataplane::slot_of_spi(child.spi_in), 1);
    assert_eq!(bob.sa.spi_r().0.to_be_bytes()[0], 1);
    assert_eq!(
        session.facts.leases[0].address.to_string(),
        "10.77.0.128",
        "the block of slot 1"
    );
    // Signs of life move the message IDs, and no record says so: the checkpoint does.
    for _ in 0..3 {
        assert!(bob.alive(5 * SECOND));
    }
    runtime.block_on(async {
        eventually("the checkpoint", || session.unstored_ids().is_some());
        assert_eq!(shared.names(1, "sa/").await.len(), 1);
        recovery::freeze(&first.node, &moving, SECOND).await.unwrap();
        recovery::put_down(&first.node, &moving).await;
    });
    assert!(first.node.slots.get(1).is_none());
    assert!(first.node.sessions.of_user("acme", "bob@acme.example").is_empty());
    assert_eq!((first.node.sessions.len(), first.node.children.len()), (1, 1));
    assert!(!bob.alive(SECOND / 2), "nobody speaks for the slot");
    assert!(bob.closed.is_none());
    assert!(alice.alive(5 * SECOND));

    let second = shared.node("b", &[1], OTHER_PORTS);
    let (taken, report) = runtime.block_on(shared.take(&second.node, 1));
    assert_eq!(
        (report.restored, report.children, report.spent, report.dropped),
        (1, 1, 0, 0)
    );
    assert_eq!(taken.generation(), 2);
    bob.ports = OTHER_PORTS;
    assert!(
        bob.alive(5 * SECOND),
        "the same IKE SA answers from the other node"
    );
    let after = second.node.sessions.of_user("acme", "bob@acme.example").remove(0);
    assert_eq!(after.facts.id, session.facts.id);
    assert_eq!(after.facts.virtual_addresses, session.facts.virtual_addresses);
    assert_eq!(after.children()[0].sa.spi_in, child.spi_in);
    assert_eq!(
        after.children()[0].ceiling.load(Ordering::Acquire),
        concentrator::ceiling::FIRST + u64::from(second.node.config.limits.sequence_block),
        "its own block, right above the reserved numbers, without a write"
    );
    assert!(shared_is_empty(&runtime, &shared, "seq/"));
    assert!(rekeys(&mut bob, 5 * SECOND));
    assert!(rekeys(&mut alice, 5 * SECOND));

    // New users come in at both, each from the block of its slot.
    let mut carol = client(0, "127.0.0.4", "carol@acme.example");
    let mut dave = client(1, "127.0.0.5", "dave@acme.example");
    dave.ports = OTHER_PORTS;
    carol.login();
    dave.login();
    let given = second
        .node
        .sessions
        .of_user("acme", "dave@acme.example")
        .remove(0);
    assert_eq!(given.facts.leases[0].address.to_string(), "10.77.0.129");
    bob.command(ike::Command::Close);
    assert!(bob.run(5 * SECOND, |bob| bob.closed.is_some()));
    runtime.block_on(taken.records.flush()).unwrap();
    assert_eq!(runtime.block_on(shared.names(1, "sa/")).len(), 1, "dave's");
    second.drain();
    first.drain();
}

fn shared_is_empty(runtime: &tokio::runtime::Runtime, shared: &Shared, kind: &str) -> bool {
    runtime.block_on(shared.names(1, kind)).is_empty()
}

/// Another node has claimed the slot: what this one would answer never leaves, and it says so.
#[test]
fn a_refused_write_ends_the_slot_before_anything_is_sent() {
    let Some((shared, runtime)) = stage("a_refused_write_ends_the_slot_before_anything_is_sent") else {
        return;
    };
    let (node, lost) = shared.serving(&runtime);
    let (other, _) = runtime.block_on(shared.take(&node.node, 1));
    let mut alice = client(0, "127.0.0.2", "alice@acme.example");
    let mut bob = client(1, "127.0.0.3", "bob@acme.example");
    alice.login();
    bob.login();
    let before = runtime.block_on(shared.store_of(0));
    runtime.block_on(shared.claim(0));
    let received = alice.received;
    assert!(!rekeys(&mut alice, SECOND));
    assert_eq!(alice.received, received, "not one datagram after the claim");
    runtime
        .block_on(async { tokio::time::timeout(SECOND, lost.lost()).await })
        .expect("the slot is lost");
    assert!(!alice.alive(SECOND / 2));
    assert_eq!(
        runtime.block_on(shared.store_of(0)),
        before,
        "and nothing is stored"
    );
    assert!(bob.alive(5 * SECOND) && rekeys(&mut bob, 5 * SECOND));
    assert!(!other.is_lost());
    runtime.block_on(recovery::put_down(&node.node, &lost));
    assert_eq!(node.node.sessions.len(), 1);
    // It may come back.
    let (again, report) = runtime.block_on(shared.take(&node.node, 0));
    assert_eq!((again.generation(), report.restored), (3, 1));
    assert!(alice.run(10 * SECOND, |alice| alice.children.len() == 1
        && alice.received > received));
    assert!(alice.alive(5 * SECOND));
    node.drain();
}

/// The owner key was gone for a moment, or a new epoch began: what waited for the store is stored and answered then.
#[test]
fn a_slot_whose_fence_holds_again_goes_on() {
    let Some((shared, runtime)) = stage("a_slot_whose_fence_holds_again_goes_on") else {
        return;
    };
    let node = shared.node("a", &[0], PORTS);
    runtime.block_on(provision(&node));
    let (slot, _) = runtime.block_on(shared.take(&node.node, 0));
    let mut alice = client(0, "127.0.0.2", "alice@acme.example");
    alice.login();
    let old = alice.children[0].spi_in;
    runtime.block_on(shared.claim(0));
    assert!(!rekeys(&mut alice, SECOND), "nothing is answered");
    runtime
        .block_on(async { tokio::time::timeout(SECOND, slot.lost()).await })
        .expect("the slot is doubtful");
    assert!(!slot.serving());
    runtime.block_on(shared.put_back(0, slot.generation()));
    eventually("the slot is ours", || !slot.is_lost() && slot.serving());
    assert!(
        alice.run(10 * SECOND, |alice| alice
            .children
            .iter()
            .any(|child| child.spi_in != old)),
        "the rekeying that waited is finished"
    );
    assert!(alice.alive(5 * SECOND) && rekeys(&mut alice, 5 * SECOND));
    node.drain();
}

/// Frozen, a slot hears nothing and has everything in the store; thawed, it does what came due.
#[test]
fn a_frozen_slot_stands_still_and_goes_on_when_it_is_thawed() {
    let Some((shared, runtime)) = stage("a_frozen_slot_stands_still_and_goes_on_when_it_is_thawed") else {
        return;
    };
    let (node, slot) = shared.serving(&runtime);
    let mut alice = client(0, "127.0.0.2", "alice@acme.example");
    alice.login();
    assert!(alice.alive(5 * SECOND));
    runtime
        .block_on(recovery::freeze(&node.node, &slot, SECOND))
        .unwrap();
    assert!(slot.records.is_empty());
    assert_eq!(runtime.block_on(shared.names(0, "cp/")).len(), 1);
    let before = runtime.block_on(shared.store_of(0));
    assert!(!rekeys(&mut alice, SECOND));
    let session = node.node.sessions.page(None, 1).remove(0);
    let spi_in = session.children()[0].sa.spi_in;
    session
        .addr
        .load_full()
        .unwrap()
        .do_send(concentrator::actors::Order(ike::Command::RekeyChild {
            spi_in,
            group: None,
        }));
    assert_eq!(runtime.block_on(shared.store_of(0)), before);
    recovery::thaw(&slot);
    assert!(alice.run(10 * SECOND, |alice| !alice.children.is_empty()
        && alice.children.iter().all(|child| child.spi_out != spi_in)));
    assert!(alice.alive(5 * SECOND));
    node.drain();
}

/// Before a slot is frozen, those who are logging in may finish, and nobody new is heard; the wait for them has an end.
#[test]
fn logins_finish_before_a_slot_is_frozen() {
    let Some((shared, runtime)) = stage("logins_finish_before_a_slot_is_frozen") else {
        return;
    };
    let (node, slot) = shared.serving(&runtime);
    let freeze = |patience| {
        let (node, slot) = (Arc::clone(&node.node), Arc::clone(&slot));
        runtime.spawn(async move { recovery::freeze(&node, &slot, patience).await })
    };
    // The first message alone.
    let mut alice = client(0, "127.0.0.2", "alice@acme.example");
    assert!(!alice.run(Duration::ZERO, |_| false));
    eventually("a half-open IKE SA", || slot.half_open() == 1);
    let begun = Instant::now();
    let frozen = freeze(60 * SECOND);
    eventually("nobody new", || slot.standing() == Standing::Holding);
    let mut bob = client(0, "127.0.0.3", "bob@acme.example");
    assert!(!bob.run(SECOND / 5, |bob| bob.received > 0), "held back");
    alice.login();
    runtime.block_on(frozen).unwrap().unwrap();
    assert!(begun.elapsed() < 30 * SECOND, "it has waited for alice alone");
    assert_eq!((slot.standing(), slot.half_open()), (Standing::Frozen, 0));
    assert_eq!(runtime.block_on(shared.names(0, "sa/")).len(), 1, "alice's");
    assert!(!bob.run(SECOND / 5, |bob| bob.received > 0));
    recovery::thaw(&slot);
    assert!(alice.alive(5 * SECOND));
    bob.login();

    // Carol says no more.
    let mut carol = client(0, "127.0.0.4", "carol@acme.example");
    assert!(!carol.run(Duration::ZERO, |_| false));
    eventually("a half-open IKE SA", || slot.half_open() == 1);
    let begun = Instant::now();
    runtime.block_on(freeze(SECOND / 5)).unwrap().unwrap();
    assert!(begun.elapsed() >= SECOND / 5);
    assert!(!carol.run(SECOND / 5, |carol| carol.received > 1), "silence");
    recovery::thaw(&slot);
    carol.login();
    node.drain();
}

/// The store is out of reach: live sessions go on, new ones are refused with a reason, and all is stored afterwards.
#[test]
fn without_the_store_live_sessions_go_on_and_new_ones_wait() {
    let Some((shared, runtime)) = stage("without_the_store_live_sessions_go_on_and_new_ones_wait") else {
        return;
    };
    let (node, slot) = shared.serving(&runtime);
    let mut alice = client(0, "127.0.0.2", "alice@acme.example");
    alice.login();
    let before = runtime.block_on(shared.store_of(0));
    shared.store.gone.store(true, Ordering::Release);
    assert!(
        !rekeys(&mut alice, SECOND),
        "nothing that is not durable is answered"
    );
    assert!(slot.records.oldest_wait() > concentrator::records::WAIT_COOKIE);
    slot.records.set_static(true, slot.logins_without_store);
    assert!(alice.run(5 * SECOND, |alice| {
        alice
            .children
            .iter()
            .any(|child| node.node.children.contains_key(&child.spi_out))
            && alice.received > 0
    }));
    assert!(alice.alive(5 * SECOND));
    let mut bob = client(0, "127.0.0.3", "bob@acme.example");
    assert!(bob.run(10 * SECOND, |bob| bob.failed.is_some()));
    eventually("the attempt record", || {
        let attempts = node
            .node
            .attempts
            .list(&tenants::AttemptFilter::default(), None, 10);
        attempts.iter().any(|attempt| {
            let message = attempt.record.to_api(attempt.id);
            message.reason.contains("the store is out of reach")
        })
    });
    assert!(slot.records.unreplicated() > 0);
    assert_eq!(runtime.block_on(shared.store_of(0)), before);
    shared.store.gone.store(false, Ordering::Release);
    runtime.block_on(slot.records.flush()).unwrap();
    slot.records.set_static(false, false);
    assert_ne!(runtime.block_on(shared.store_of(0)), before);
    let mut again = client(0, "127.0.0.4", "bob@acme.example");
    again.login();
    node.drain();
}

/// An actor's successor takes a generation of the slot through the store, and the slot's writes go on under it.
#[test]
fn an_actor_that_is_made_again_raises_the_slots_generation() {
    let Some((shared, runtime)) = stage("an_actor_that_is_made_again_raises_the_slots_generation") else {
        return;
    };
    let (node, slot) = shared.serving(&runtime);
    let mut alice = client(0, "127.0.0.2", "alice@acme.example");
    alice.login();
    let session = node.node.sessions.page(None, 1).remove(0);
    let before = session.addr.load_full().unwrap();
    before.do_send(Fault);
    eventually("the panic", || !before.connected());
    // A panic is noticed in several ways, all of which ask for a new actor.
    for _ in 0..3 {
        let who = Who::IkeSa(session.facts.id);
        node.node.tell_tenant("acme", Gone { who, panicked: true });
    }
    eventually("a new actor", || {
        session
            .addr
            .load_full()
            .is_some_and(|addr| addr.connected() && *addr != *before)
    });
    assert_eq!(
        (slot.generation(), runtime.block_on(shared.generation(0))),
        (2, 2)
    );
    assert!(alice.alive(5 * SECOND) && rekeys(&mut alice, 5 * SECOND));
    assert_eq!(
        slot.generation(),
        2,
        "one actor, not one for each time that it was asked for"
    );
    // Everything again under a later generation: after the store was put back.
    runtime.block_on(async {
        let generation = shared.claim(0).await;
        let rewritten = recovery::refence(&slot, generation, Some(fence(0, generation)));
        assert_eq!(rewritten.await, Ok(1));
        slot.records.flush().await.unwrap();
    });
    assert!(!slot.is_lost());
    assert!(rekeys(&mut alice, 5 * SECOND));
    node.drain();
}
