//! The queue of records: order, bounds, what comes back, what is told when.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

use actix::{Actor, Context, Handler};
use tokio::sync::mpsc;

use super::Priority::{Bookkeeping, Delete, Login, Rekey};
use super::*;

struct Probe(mpsc::UnboundedSender<u64>);
impl Actor for Probe {
    type Context = Context<Self>;
}
impl Handler<Stored> for Probe {
    type Result = ();
    fn handle(&mut self, stored: Stored, _: &mut Context<Self>) {
        self.0.send(stored.serial).unwrap();
    }
}

fn put(value: u8) -> Change {
    Change::Put(vec![value])
}

#[actix::test]
async fn a_newer_record_replaces_the_older_and_answers_for_both() {
    let (send, mut receive) = mpsc::unbounded_channel();
    let probe = Probe(send).start();
    let records = Records::new(8);
    let waiter = |serial| {
        Some(Waiter {
            who: probe.clone().recipient(),
            serial,
        })
    };
    records.submit("a".into(), put(1), Rekey, waiter(1)).unwrap();
    records.submit("a".into(), put(2), Rekey, waiter(2)).unwrap();
    records.submit("b".into(), put(3), Rekey, waiter(3)).unwrap();
    let group = records.take();
    let changes: Vec<_> = group
        .changes()
        .map(|(name, change)| (name.to_owned(), change.clone()))
        .collect();
    assert_eq!(changes, vec![("a".to_owned(), put(2)), ("b".to_owned(), put(3))]);
    assert_eq!(records.latest("a"), Some(put(2)), "in flight");
    group.committed();
    assert!(records.is_empty());
    for serial in 1..=3 {
        assert_eq!(receive.recv().await, Some(serial));
    }
}

#[actix::test]
async fn what_a_panicked_replicator_had_taken_comes_back_in_its_place_and_yields_to_newer_ones() {
    let (send, mut receive) = mpsc::unbounded_channel();
    let probe = Probe(send).start();
    let records = Records::new(8);
    let waiter = |serial| {
        Some(Waiter {
            who: probe.clone().recipient(),
            serial,
        })
    };
    records.submit("a".into(), put(1), Rekey, waiter(1)).unwrap();
    records.submit("b".into(), put(2), Rekey, waiter(2)).unwrap();
    let group = records.take();
    records.submit("c".into(), put(3), Rekey, None).unwrap();
    records.submit("b".into(), put(4), Rekey, waiter(4)).unwrap();
    drop(group);
    let group = records.take();
    let changes: Vec<_> = group
        .changes()
        .map(|(name, change)| (name.to_owned(), change.clone()))
        .collect();
    assert_eq!(
        changes,
        vec![("a".into(), put(1)), ("b".into(), put(4)), ("c".into(), put(3))]
    );
    group.committed();
    let mut told = vec![receive.recv().await.unwrap(), receive.recv().await.unwrap()];
    told.push(receive.recv().await.unwrap());
    told.sort_unstable();
    assert_eq!(told, vec![1, 2, 4]);
}

#[test]
fn the_queue_is_bounded_and_takes_deletions_and_replacements_still() {
    let records = Records::new(2);
    records.submit("a".into(), put(1), Rekey, None).unwrap();
    records.submit("b".into(), put(1), Rekey, None).unwrap();
    assert_eq!(records.submit("c".into(), put(1), Rekey, None), Err(Full));
    records.submit("a".into(), put(2), Rekey, None).unwrap();
    records.submit("d".into(), Change::Delete, Rekey, None).unwrap();
    assert_eq!(records.len(), 3);
}

#[test]
fn a_group_has_at_most_112_records_and_a_mebibyte() {
    let records = Records::new(1_000);
    for index in 0..200 {
        records.submit(index.to_string(), put(0), Rekey, None).unwrap();
    }
    let group = records.take();
    assert_eq!(group.len(), GROUP_MAX);
    group.committed();
    assert_eq!(records.len(), 88);
    let few = records.take_at_most(10);
    assert_eq!(few.len(), 10);
    few.committed();
    assert_eq!(records.take_at_most(0).len(), 1, "one in any case");
}

/// Tells what it was told.
fn probe() -> (impl Fn(u64) -> Option<Waiter>, mpsc::UnboundedReceiver<u64>) {
    let (send, receive) = mpsc::unbounded_channel();
    let probe = Probe(send).start();
    let waiter = move |serial| {
        Some(Waiter {
            who: probe.clone().recipient(),
            serial,
        })
    };
    (waiter, receive)
}

fn names(group: &Group) -> Vec<String> {
    group.changes().map(|(name, _)| name.to_owned()).collect()
}

#[test]
fn rekeys_go_before_deletions_before_logins_before_bookkeeping() {
    let records = Records::new(8);
    for (name, priority) in [("b", Bookkeeping), ("l", Login), ("d", Delete), ("r", Rekey)] {
        records.submit(name.into(), put(0), priority, None).unwrap();
    }
    // A login that is rekeyed before it is stored becomes as urgent as the rekey.
    records.submit("x".into(), put(0), Login, None).unwrap();
    records.submit("x".into(), put(1), Rekey, None).unwrap();
    assert_eq!(names(&records.take()), ["r", "x", "d", "l", "b"]);
    assert_eq!(records.len(), 5, "not committed: they are back");
    assert_eq!(
        names(&records.take()),
        ["r", "x", "d", "l", "b"],
        "in the same order"
    );
}

#[test]
fn under_a_flood_of_urgent_records_the_oldest_ones_still_go() {
    let records = Records::new(1_000);
    records.submit("old".into(), put(0), Bookkeeping, None).unwrap();
    for index in 0..200 {
        records.submit(format!("r{index}"), put(0), Rekey, None).unwrap();
    }
    let group = records.take();
    assert_eq!(group.len(), GROUP_MAX);
    assert!(names(&group).contains(&"old".to_owned()));
}

#[actix::test]
async fn groups_go_beside_each_other_but_a_name_is_in_one_of_them_only() {
    let (waiter, mut told) = probe();
    let records = Records::new(8);
    records.submit("a".into(), put(1), Login, waiter(1)).unwrap();
    let first = records.take();
    records.submit("a".into(), put(2), Rekey, waiter(2)).unwrap();
    records.submit("b".into(), put(1), Login, waiter(3)).unwrap();
    let second = records.take();
    assert_eq!(names(&second), ["b"]);
    assert!(records.take().is_empty());
    let waits = tokio::time::timeout(Duration::from_millis(5), records.wait(1));
    assert!(waits.await.is_err(), "nothing can be taken");
    second.committed();
    assert_eq!(told.recv().await, Some(3), "before the first");
    let queue = Arc::clone(&records);
    let waits = actix::spawn(async move { queue.wait(1).await });
    tokio::task::yield_now().await;
    first.committed();
    waits.await.unwrap();
    assert_eq!(told.recv().await, Some(1));
    let third = records.take();
    assert_eq!(third.changes().collect::<Vec<_>>(), [("a", &put(2))]);
    third.committed();
    assert_eq!(told.recv().await, Some(2));
    assert!(records.is_empty());
}

#[test]
fn what_did_not_land_goes_before_what_waited_for_it() {
    let records = Records::new(8);
    records.submit("a".into(), put(1), Login, None).unwrap();
    let first = records.take();
    records.submit("a".into(), put(2), Bookkeeping, None).unwrap();
    records.submit("b".into(), put(1), Login, None).unwrap();
    let second = records.take();
    drop(first);
    let again = records.take();
    assert_eq!(again.changes().collect::<Vec<_>>(), [("a", &put(2))], "the newer");
    again.committed();
    drop(second);
    assert_eq!(names(&records.take()), ["b"]);
}

#[test]
fn a_group_ends_at_its_octets_and_takes_one_record_of_any_size() {
    let records = Records::new(10);
    for name in ["a", "b", "c"] {
        let value = Change::Put(vec![0; GROUP_OCTETS / 2 + 1]);
        records.submit(name.into(), value, Bookkeeping, None).unwrap();
    }
    let group = records.take();
    assert_eq!(names(&group), ["a"]);
    group.committed();
    assert_eq!(records.len(), 2);
}

#[actix::test]
async fn static_mode_answers_at_once_and_keeps_the_records() {
    let (waiter, mut told) = probe();
    let records = Records::new(2);
    records.submit("a".into(), put(1), Rekey, waiter(1)).unwrap();
    records.submit("l".into(), put(1), Login, waiter(2)).unwrap();
    // A group that is under way when the store goes.
    let group = records.take();
    records.set_static(true, false);
    assert_eq!(told.recv().await, Some(1), "who waited already is told");
    drop(group);
    records.submit("a".into(), put(2), Rekey, waiter(3)).unwrap();
    records.submit("b".into(), put(1), Rekey, waiter(4)).unwrap();
    records
        .submit("c".into(), Change::Delete, Delete, waiter(5))
        .unwrap();
    for serial in [3, 4, 5] {
        assert_eq!(told.recv().await, Some(serial));
    }
    assert_eq!(records.submit("m".into(), put(1), Login, waiter(6)), Err(Full));
    assert_eq!(
        (records.len(), records.unreplicated()),
        (4, 4),
        "one record a name"
    );
    assert!(records.is_static());
    records.set_static(false, false);
    assert!(told.try_recv().is_err(), "the login still waits");
    records.take().committed();
    assert_eq!(told.recv().await, Some(2));
    assert!(told.try_recv().is_err(), "nobody is told twice");
}

#[actix::test]
async fn static_mode_lets_logins_through_when_the_operator_wants_it() {
    let (waiter, mut told) = probe();
    let records = Records::new(2);
    records.set_static(true, true);
    records.submit("l".into(), put(1), Login, waiter(1)).unwrap();
    assert_eq!(told.recv().await, Some(1));
}

#[actix::test]
async fn a_closed_queue_tells_nobody_and_keeps_nothing() {
    let (waiter, mut told) = probe();
    let records = Records::new(8);
    records.submit("a".into(), put(1), Rekey, waiter(1)).unwrap();
    let group = records.take();
    records.submit("b".into(), put(1), Rekey, waiter(2)).unwrap();
    records.close();
    drop(group);
    records.submit("c".into(), put(1), Rekey, waiter(3)).unwrap();
    assert!(records.is_empty() && records.is_closed());
    assert_eq!(records.flush().await, Err(Closed));
    records.set_static(true, true);
    actix::clock::sleep(Duration::from_millis(5)).await;
    assert!(told.try_recv().is_err());
}

#[actix::test]
async fn flush_waits_for_what_was_there_and_not_for_what_comes() {
    let records = Records::new(8);
    assert_eq!(records.flush().await, Ok(()));
    records.submit("a".into(), put(1), Rekey, None).unwrap();
    let group = records.take();
    let (queue, flushed) = (Arc::clone(&records), mpsc::unbounded_channel());
    let (send, mut receive) = flushed;
    actix::spawn(async move { send.send(queue.flush().await).unwrap() });
    actix::clock::sleep(Duration::from_millis(5)).await;
    assert!(receive.try_recv().is_err(), "in flight is not durable");
    records.submit("later".into(), put(1), Rekey, None).unwrap();
    group.committed();
    assert_eq!(receive.recv().await, Some(Ok(())));
    assert_eq!(records.len(), 1);
}

#[test]
fn the_oldest_wait_is_that_of_the_first_record_of_a_name_also_in_flight() {
    let records = Records::new(8);
    assert_eq!(records.oldest_wait(), Duration::ZERO);
    records.submit("a".into(), put(1), Rekey, None).unwrap();
    std::thread::sleep(Duration::from_millis(3));
    records.submit("a".into(), put(2), Rekey, None).unwrap();
    let group = records.take();
    assert!(records.oldest_wait() >= Duration::from_millis(3));
    group.committed();
    assert_eq!(records.oldest_wait(), Duration::ZERO);
}
