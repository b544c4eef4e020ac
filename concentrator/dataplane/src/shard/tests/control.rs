//! What the control plane orders and is told: choice of SAs, rekeying, limits, hand-over, reports.

use super::*;

#[test]
fn a_rekeyed_sa_is_used_when_its_inbound_half_was_or_the_old_one_is_gone() {
    let packet = udp("10.7.2.9", "10.7.1.9", 0, 10);
    for remove in [false, true] {
        let (mut left, mut right) = ends();
        left.install(pair(true, gcm(), 0x1101, 0x2102));
        right.install(SaPair {
            activate: Activate::OnFirstInbound,
            ..pair(false, gcm(), 0x2102, 0x1101)
        });
        right.send(&packet);
        assert_eq!(spi_of(&right.io.sent[0]), 0x1001, "the old one");
        if remove {
            right.command(WorkerCommand::Remove { spi_in: 0x2002 });
        } else {
            left.send(&udp("10.7.1.9", "10.7.2.9", 0, 10));
            assert_eq!(spi_of(&left.io.sent[0]), 0x2102);
            deliver(&mut left, &mut right);
            assert!(
                right
                    .io
                    .events
                    .iter()
                    .any(|e| matches!(e, WorkerEvent::FirstInbound { spi_in: 0x2102, .. }))
            );
        }
        right.send(&packet);
        assert_eq!(spi_of(&right.io.sent[1]), 0x1101, "the new one");
        // What the old one still receives is accepted while it is there.
        assert_eq!(right.by_spi(), if remove { 1 } else { 2 });
        right.command(WorkerCommand::Remove { spi_in: 0x2002 });
        right.command(WorkerCommand::Remove { spi_in: 0x2002 });
        right.send(&packet);
        assert_eq!(spi_of(&right.io.sent[2]), 0x1101, "removal keeps others");
    }
}

#[test]
fn a_superseded_sa_is_not_sent_by_again_whatever_arrives_on_it() {
    // We rekey the first to the second, then the peer the second to the third and deletes the second.
    let (mut left, mut right) = ends();
    right.install(pair(false, gcm(), 0x2102, 0x1101));
    right.install(SaPair {
        activate: Activate::OnFirstInbound,
        ..pair(false, gcm(), 0x2202, 0x1201)
    });
    let packet = udp("10.7.2.9", "10.7.1.9", 0, 10);
    let spi = |right: &mut End| {
        right.send(&packet);
        spi_of(&right.io.sent.pop().unwrap())
    };
    assert_eq!(spi(&mut right), 0x1101, "the newest active one");
    // A late packet on the first one, still there for what is on the way.
    left.send(&udp("10.7.1.9", "10.7.2.9", 0, 10));
    assert_eq!(deliver(&mut left, &mut right), 1);
    assert_eq!(right.written().len(), 1);
    assert_eq!(spi(&mut right), 0x1101);
    right.command(WorkerCommand::Remove { spi_in: 0x2102 });
    assert_eq!(
        spi(&mut right),
        0x1201,
        "not the first one, which the peer has deleted"
    );
    left.send(&udp("10.7.1.9", "10.7.2.9", 0, 10));
    deliver(&mut left, &mut right);
    assert_eq!(spi(&mut right), 0x1201);
    right.command(WorkerCommand::Remove { spi_in: 0x2202 });
    assert_eq!(spi(&mut right), 0x1001, "better than nothing");
}

#[test]
fn what_the_peer_has_deleted_is_not_sent_by_and_its_late_packets_are_taken() {
    // The peer rekeys the first to the second and deletes the first, before anything came on the second.
    let (mut left, mut right) = ends();
    right.install(SaPair {
        activate: Activate::OnFirstInbound,
        ..pair(false, gcm(), 0x2102, 0x1101)
    });
    let packet = udp("10.7.2.9", "10.7.1.9", 0, 10);
    let spi = |right: &mut End| {
        right.send(&packet);
        spi_of(&right.io.sent.pop().unwrap())
    };
    assert_eq!(spi(&mut right), 0x1001, "the peer may not have the second yet");
    right.command(WorkerCommand::StopSending { spi_in: 0x2002 });
    assert_eq!(spi(&mut right), 0x1101);
    left.send(&udp("10.7.1.9", "10.7.2.9", 0, 10));
    assert_eq!(deliver(&mut left, &mut right), 1);
    assert_eq!(right.written().len(), 1, "a late packet");
    assert_eq!(spi(&mut right), 0x1101);
}

#[test]
fn a_pair_supersedes_only_older_ones_of_its_session_and_traffic() {
    let (mut left, _) = ends();
    // Another session with the same destinations, as after a new login of the same user.
    left.install(SaPair {
        session: 10,
        ..pair(true, gcm(), 0x1101, 0x2102)
    });
    // The same session for other traffic.
    left.install(SaPair {
        session: 10,
        ts_remote: selectors(&["10.7.0.0/16"]),
        ..pair(true, gcm(), 0x1201, 0x2202)
    });
    let spi = |left: &mut End, dst: &str| {
        left.send(&udp("10.7.1.9", dst, 0, 10));
        spi_of(&left.io.sent.pop().unwrap())
    };
    assert_eq!(spi(&mut left, "10.7.2.9"), 0x2102);
    assert_eq!(spi(&mut left, "10.7.3.9"), 0x2202);
    left.command(WorkerCommand::Remove { spi_in: 0x1101 });
    assert_eq!(spi(&mut left, "10.7.2.9"), 0x2002, "of the session before");
    // One that is installed again is the newest.
    left.install(pair(true, gcm(), 0x1301, 0x2302));
    left.install(pair(true, gcm(), 0x1001, 0x2002));
    assert_eq!(spi(&mut left, "10.7.2.9"), 0x2002);
}

#[test]
fn the_most_specific_destination_and_matching_selectors_choose_the_sa() {
    let (mut left, _) = ends();
    let with = |spi: u32, remote: &[&str]| SaPair {
        ts_local: selectors(&["0.0.0.0/0"]),
        ts_remote: selectors(remote),
        ..pair(true, gcm(), 0x1000 + spi, 0x2000 + spi)
    };
    left.install(with(0x10, &["0.0.0.0/0"]));
    left.install(with(0x20, &["10.7.2.9"]));
    left.install(with(0x30, &["10.8.0.0/16[tcp/80]"]));
    for (dst, spi) in [
        ("10.7.2.9", 0x2020),
        ("10.7.2.8", 0x2002),
        ("10.8.0.1", 0x2010),
        ("1.1.1.1", 0x2010),
    ] {
        left.send(&udp("10.7.1.9", dst, 0, 10));
        assert_eq!(spi_of(left.io.sent.last().unwrap()), spi, "{dst}");
    }
}

#[test]
fn limits_are_reported_once_and_the_hard_one_ends_the_pair() {
    let (mut left, mut right) = ends();
    let limits = Limits {
        soft_packets: Some(3),
        hard_packets: Some(5),
        ..Limits::default()
    };
    left.install(SaPair {
        limits,
        ..pair(true, gcm(), 0x1001, 0x2002)
    });
    for _ in 0..8 {
        left.send(&udp("10.7.1.9", "10.7.2.9", 0, 10));
    }
    assert_eq!(deliver(&mut left, &mut right), 5);
    assert!(matches!(
        left.io.events[..],
        [WorkerEvent::SoftLimit { .. }, WorkerEvent::HardLimit { .. }]
    ));
    assert_eq!(left.drops(DropReason::Expired), 3);
    right.send(&udp("10.7.2.9", "10.7.1.9", 0, 10));
    deliver(&mut right, &mut left);
    assert_eq!(left.drops(DropReason::Expired), 4);
    let octets = Limits {
        hard_octets: Some(1),
        ..Limits::default()
    };
    left.install(SaPair {
        limits: octets,
        ..pair(true, gcm(), 0x1003, 0x2004)
    });
    left.send(&udp("10.7.1.9", "10.7.2.9", 0, 10));
    assert!(matches!(
        left.io.events.last(),
        Some(WorkerEvent::HardLimit { spi_in: 0x1003, .. })
    ));
}

#[test]
fn sequence_numbers_are_asked_for_at_half_of_the_block_and_never_exceed_it() {
    let (mut left, _) = ends();
    let mut limited = pair(true, gcm(), 0x1001, 0x2002);
    limited.outbound.ceiling = 10;
    left.install(limited);
    let packet = udp("10.7.1.9", "10.7.2.9", 0, 10);
    for sent in 1..=14u64 {
        left.send(&packet);
        let asked = left
            .io
            .events
            .iter()
            .filter(|e| matches!(e, WorkerEvent::CeilingNeeded { .. }))
            .count();
        assert_eq!(asked, usize::from(sent >= 4), "after {sent}");
    }
    assert_eq!(left.io.sent.len(), 10);
    assert_eq!(left.drops(DropReason::SequenceCeiling), 4);
    // Asked again while there is nothing left, once a second.
    left.now += REPORT_EVERY;
    left.turn();
    let asked = |e: &WorkerEvent| {
        matches!(
            e,
            WorkerEvent::CeilingNeeded {
                spi_in: 0x1001,
                used: 10,
                ..
            }
        )
    };
    assert!(left.io.events.iter().any(asked));
    left.command(WorkerCommand::RaiseCeiling {
        spi_in: 0x1001,
        ceiling: 12,
    });
    for _ in 0..3 {
        left.send(&packet);
    }
    assert_eq!(left.io.sent.len(), 12);
}

#[test]
fn workers_hand_over_what_is_not_theirs_and_only_once() {
    let owners: Arc<Owners> = Arc::default();
    let mut zero = End::new(LEFT, 0, 2, Arc::clone(&owners));
    let mut one = End::new(LEFT, 1, 2, owners);
    let mut right = End::new(RIGHT, 0, 1, Arc::default());
    one.install(pair(true, gcm(), 0x2000_1001, 0x2002));
    right.install(pair(false, gcm(), 0x2002, 0x2000_1001));
    // A default route at worker 0 is less specific than the prefix at worker 1.
    let mut default = pair(true, gcm(), 0x1003, 0x2003);
    default.ts_remote = selectors(&["0.0.0.0/0"]);
    zero.install(default);

    zero.send(&udp("10.7.1.9", "10.7.2.9", 0, 10));
    assert!(zero.io.sent.is_empty());
    let (to, batch) = zero.io.handed.remove(0);
    assert_eq!(to, 1);
    one.shard.accept(&batch, &mut one.io, one.now);
    deliver(&mut one, &mut right);
    assert_eq!(right.written().len(), 1);

    right.send(&udp("10.7.2.9", "10.7.1.9", 0, 10));
    deliver(&mut right, &mut zero);
    let (to, batch) = zero.io.handed.remove(0);
    assert_eq!(to, 1);
    one.shard.accept(&batch, &mut one.io, one.now);
    assert_eq!(one.written().len(), 1);

    // An SPI that its worker does not have either goes nowhere else.
    one.command(WorkerCommand::Remove { spi_in: 0x2000_1001 });
    one.shard.accept(&batch, &mut one.io, one.now);
    assert!(one.io.handed.is_empty());
    assert_eq!(one.drops(DropReason::UnknownSpi), 1);
    // And the default route is the most specific one left.
    zero.send(&udp("10.7.1.9", "10.7.2.9", 0, 10));
    assert_eq!(spi_of(&zero.io.sent[0]), 0x2003);
}

#[test]
fn what_cannot_be_installed_is_reported() {
    let mut left = End::new(LEFT, 0, 2, Arc::default());
    left.install(pair(true, gcm(), 0x1001, 0x2002));
    left.install(pair(true, gcm(), 0x2000_1001, 0x2002));
    left.install(pair(true, gcm(), 255, 0x2002));
    left.install(SaPair {
        local: RIGHT.parse().unwrap(),
        ..pair(true, gcm(), 0x1009, 0x2002)
    });
    let mut short = pair(true, gcm(), 0x100a, 0x2002);
    short.outbound.enc_key = Secret::from(vec![1; 3]);
    left.install(short);
    assert_eq!(left.io.events.len(), 4);
    assert!(
        left.io
            .events
            .iter()
            .all(|e| matches!(e, WorkerEvent::InstallFailed { session: 9, .. }))
    );
    assert_eq!(left.by_spi(), 1);
}

#[test]
fn statistics_and_idleness_come_once_a_second() {
    let (mut left, mut right) = ends();
    let limits = Limits {
        idle: Some(Duration::from_secs(5)),
        ..Limits::default()
    };
    right.install(SaPair {
        limits,
        ..pair(false, gcm(), 0x2002, 0x1001)
    });
    left.send(&udp("10.7.1.9", "10.7.2.9", 0, 100));
    deliver(&mut left, &mut right);
    right.io.events.clear();
    for _ in 0..12 {
        right.now += Duration::from_secs(1);
        right.turn();
    }
    let stats: Vec<_> = right
        .io
        .events
        .iter()
        .filter_map(|e| {
            if let WorkerEvent::Stats(s) = e {
                Some(s)
            } else {
                None
            }
        })
        .collect();
    assert_eq!(stats.len(), 1, "only what changed");
    let expected = SaStats {
        session: 9,
        spi_in: 0x2002,
        packets_in: 1,
        octets_in: 128,
        last_in: Some(Duration::from_secs(1)),
        highest_in_seq: 1,
        next_out_seq: 1,
        ..SaStats::default()
    };
    assert_eq!(stats[0][..], [expected]);
    let idle = right
        .io
        .events
        .iter()
        .filter(|e| matches!(e, WorkerEvent::Idle { spi_in: 0x2002, .. }))
        .count();
    assert_eq!(idle, 1);
}
