//! What a cluster asks of a worker: nothing carried past the permission, slots that go in one go, thousands of pairs that
//! come without stopping the others, packets that came to the wrong node.

use super::*;

const OWNER: &str = "10.98.0.2:4600";

/// Many pairs of one slot at the left end, none of which carries what `ends` has.
fn strangers(slot: u8, count: u32) -> Vec<SaPair> {
    let stranger = |n: u32| SaPair {
        slot,
        session: u64::from(n),
        ts_remote: selectors(&[&format!("10.8.{}.{}/32", n / 256, n % 256)]),
        ..pair(true, gcm(), u32::from(slot) << 22 | (0x8000 + n), 0x20_0000 + n)
    };
    (0..count).map(stranger).collect()
}

#[test]
fn without_permission_nothing_is_carried_either_way_and_all_is_counted() {
    let (mut left, mut right) = ends();
    left.io.not_owner = Some(0);
    left.send(&udp("10.7.1.9", "10.7.2.9", 0, 10));
    let (header, packet) = transport("10.7.1.9", "10.7.2.9", 0, 6, 0x10, 3000, 1000);
    left.send_burst(&header, &packet);
    assert_eq!(left.drops(DropReason::NotOwner), 4);
    for _ in 0..3 {
        right.send(&udp("10.7.2.9", "10.7.1.9", 0, 10));
    }
    deliver(&mut right, &mut left);
    assert!(left.io.sent.is_empty() && left.written().is_empty());
    assert_eq!(left.drops(DropReason::NotOwner), 7);
    assert_eq!(
        left.drops(DropReason::NotOwner),
        left.shard.counters().drops.total()
    );

    // What comes after the permission is back is carried, and what came before is not.
    left.io.not_owner = None;
    left.turn();
    left.send(&udp("10.7.1.9", "10.7.2.9", 0, 11));
    assert_eq!(deliver(&mut left, &mut right), 1);
    assert_eq!(right.written().len(), 1);
}

#[test]
fn a_worker_that_stood_still_after_it_began_a_turn_sends_and_delivers_nothing() {
    // The permission is there when the turn begins, and over at the next question, which is right before the send.
    let (mut left, mut right) = ends();
    right.send(&udp("10.7.2.9", "10.7.1.9", 0, 10));
    for is_outbound in [true, false] {
        if is_outbound {
            let packet = udp("10.7.1.9", "10.7.2.9", 0, 10);
            let whole = [&VnetHeader::default().octets()[..], &packet].concat();
            left.io.inner.push_back((1, whole));
        } else {
            let Sent { data, segment, .. } = right.io.sent.remove(0);
            left.io
                .arrivals
                .push_back((data, segment, RIGHT.parse().unwrap(), UDP_PORT, 0));
        }
        left.io.not_owner = Some(1);
        left.turn();
    }
    assert!(left.io.sent.is_empty() && left.written().is_empty());
    assert_eq!(left.drops(DropReason::NotOwner), 2);
}

#[test]
fn a_slot_goes_in_one_go_and_the_others_stay() {
    let (mut left, mut right) = ends();
    for slot in [3, 4] {
        for pair in strangers(slot, 50) {
            left.install(pair);
        }
    }
    // A pair of the slot for the same destinations as one of another slot.
    left.install(SaPair {
        slot: 3,
        ..pair(true, gcm(), 0x1101, 0x2102)
    });
    left.send(&udp("10.7.1.9", "10.7.2.9", 0, 10));
    assert_eq!(spi_of(&left.io.sent.remove(0)), 0x2102, "the newest");
    left.command(WorkerCommand::RemoveSlot { slot: 3 });
    left.command(WorkerCommand::RemoveSlot { slot: 9 });
    assert_eq!(left.by_spi(), 51);
    left.send(&udp("10.7.1.9", "10.7.2.9", 0, 10));
    assert_eq!(deliver(&mut left, &mut right), 1);
    assert_eq!(right.written().len(), 1, "over the one that is left");
    left.send(&udp("10.7.1.9", "10.8.0.7", 0, 10));
    assert_eq!(spi_of(&left.io.sent[0]), 0x20_0007, "of slot 4");
    left.command(WorkerCommand::RemoveSlot { slot: 4 });
    left.send(&udp("10.7.1.9", "10.8.0.7", 0, 10));
    assert_eq!(left.drops(DropReason::NoSa), 1);
    // It comes back, in the places that were left.
    for pair in strangers(3, 50) {
        left.install(pair);
    }
    assert_eq!(left.by_spi(), 51);
}

#[test]
fn the_owners_of_destinations_forget_a_slot_too() {
    let owners: Arc<Owners> = Arc::default();
    let mut zero = End::new(LEFT, 0, 2, Arc::clone(&owners));
    let mut one = End::new(LEFT, 1, 2, owners);
    one.install(SaPair {
        slot: 3,
        ..pair(true, gcm(), 0x2000_1001, 0x2002)
    });
    zero.send(&udp("10.7.1.9", "10.7.2.9", 0, 10));
    assert_eq!(zero.io.handed.len(), 1);
    one.command(WorkerCommand::RemoveSlot { slot: 3 });
    assert!(one.shard.is_busy());
    one.shard.work_off(&mut one.io, one.now);
    assert!(!one.shard.is_busy());
    zero.send(&udp("10.7.1.9", "10.7.2.9", 0, 10));
    assert_eq!((zero.io.handed.len(), zero.drops(DropReason::NoSa)), (1, 1));
}

#[test]
fn thousands_of_pairs_come_a_share_at_a_time_with_packets_between() {
    let (mut left, mut right) = ends();
    left.command(WorkerCommand::InstallMany(strangers(3, 1000)));
    let mut turns = 0;
    while left.shard.is_installing() {
        let before = left.by_spi();
        left.send(&udp("10.7.1.9", "10.7.2.9", 0, 10));
        left.shard.work_off(&mut left.io, left.now);
        assert!(left.by_spi() - before <= 64, "bounded");
        turns += 1;
    }
    assert_eq!(deliver(&mut left, &mut right), turns);
    assert!(turns >= 10);
    assert_eq!(left.by_spi(), 1001);
    left.send(&udp("10.7.1.9", "10.8.3.231", 0, 10));
    assert_eq!(spi_of(&left.io.sent[0]), 0x20_0000 + 999, "the last of them");
}

#[test]
fn what_came_to_the_wrong_node_is_sent_on_once() {
    let spi = 5 << 22 | 0x1234;
    let mut left = End::new(LEFT, 0, 1, Arc::default());
    let mut right = End::new(RIGHT, 0, 1, Arc::default());
    right.install(pair(false, gcm(), 0x2002, spi));
    let mut stray = |left: &mut End, count| {
        for _ in 0..count {
            right.send(&udp("10.7.2.9", "10.7.1.9", 0, 10));
        }
        deliver(&mut right, left);
    };
    stray(&mut left, 2);
    assert_eq!(left.drops(DropReason::UnknownSpi), 2, "nobody to send it to");
    let forward = |slot, to: Option<&str>| WorkerCommand::Forward {
        slot,
        to: to.map(|to| to.parse().unwrap()),
    };
    left.command(forward(6, Some("10.98.0.3:4600")));
    left.command(forward(5, Some(OWNER)));
    left.command(forward(200, Some(OWNER)));
    stray(&mut left, 3);
    assert_eq!(left.shard.counters().forwarded_out, 3);
    for (to, arrival, data) in &left.io.sent_on {
        assert_eq!(
            (to.to_string(), arrival.from.to_string()),
            (OWNER.into(), RIGHT.into())
        );
        assert_eq!(data[..4], u32::to_be_bytes(spi));
    }
    // The owner has it; one that does not sends it nowhere else.
    let mut owner = End::new(LEFT, 0, 1, Arc::default());
    owner.command(forward(5, Some("10.98.0.1:4600")));
    owner.io.forwarded = true;
    let again = |left: &End, owner: &mut End| {
        for (_, arrival, data) in &left.io.sent_on {
            let arrival = (
                data.clone(),
                arrival.segment,
                arrival.from,
                arrival.port,
                arrival.tos,
            );
            owner.io.arrivals.push_back(arrival);
        }
        owner.turn();
    };
    again(&left, &mut owner);
    assert_eq!(owner.drops(DropReason::UnknownSpi), 3);
    assert!(owner.io.sent_on.is_empty());
    owner.install(SaPair {
        slot: 5,
        ..pair(true, gcm(), spi, 0x2002)
    });
    again(&left, &mut owner);
    assert_eq!(owner.shard.counters().inner_out, 3);
    assert_eq!(owner.shard.counters().forwarded_in, 6);
    // What cannot be sent on is counted; an order to stop is obeyed.
    left.io.refuse = Some(Refused::Full);
    stray(&mut left, 1);
    assert_eq!(left.drops(DropReason::SocketFull), 1);
    left.command(forward(5, None));
    stray(&mut left, 1);
    assert_eq!(left.drops(DropReason::UnknownSpi), 3);
}

#[test]
fn a_node_with_fewer_workers_serves_the_spis_of_one_with_more() {
    let owners: Arc<Owners> = Arc::default();
    let mut one = End::new(LEFT, 1, 2, owners);
    let mut right = End::new(RIGHT, 0, 1, Arc::default());
    let spi = 7 << 29 | 0x1234;
    one.install(pair(true, gcm(), spi, 0x2002));
    right.install(pair(false, gcm(), 0x2002, spi));
    right.send(&udp("10.7.2.9", "10.7.1.9", 0, 10));
    deliver(&mut right, &mut one);
    assert_eq!(one.written().len(), 1);
    assert!(
        one.io
            .events
            .iter()
            .all(|e| !matches!(e, WorkerEvent::InstallFailed { .. }))
    );
}
