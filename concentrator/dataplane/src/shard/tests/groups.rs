//! One peer served by two workers (RFC 9611): flows spread, kept in order, moved when they have to.

use super::*;
use crate::message::Resource;

const FALLBACK: (u32, u32) = (0x1001, 0x2002);
const BOUND: (u32, u32) = (0x2000_1003, 0x2004);

/// Two workers of the left gateway and the peer, which has both pairs at its only worker.
struct Fat {
    zero: End,
    one: End,
    right: End,
}

fn place(mut pair: SaPair, resource: Resource, hosts: bool) -> SaPair {
    pair.resource = resource;
    if hosts {
        pair.ts_remote = selectors(&["10.7.2.9"]);
    }
    pair
}

impl Fat {
    /// Selectors of hosts are found by hash, others by prefix.
    fn new(hosts: bool) -> Self {
        let owners: Arc<Owners> = Arc::default();
        let mut fat = Self {
            zero: End::new(LEFT, 0, 2, Arc::clone(&owners)),
            one: End::new(LEFT, 1, 2, owners),
            right: End::new(RIGHT, 0, 1, Arc::default()),
        };
        for ((here, there), resource) in [(FALLBACK, Resource::Fallback), (BOUND, Resource::Bound(0))] {
            let left = place(pair(true, gcm(), here, there), resource, hosts);
            if resource == Resource::Fallback {
                fat.zero.install(left);
            } else {
                fat.one.install(left);
            }
            fat.right
                .install(place(pair(false, gcm(), there, here), resource, false));
        }
        fat
    }

    /// What one worker has handed to the other arrives there.
    fn exchange(&mut self) -> usize {
        let mut count = 0;
        for (from, to) in [(true, 1), (false, 0)] {
            let (a, b) = if from {
                (&mut self.zero, &mut self.one)
            } else {
                (&mut self.one, &mut self.zero)
            };
            for (worker, batch) in std::mem::take(&mut a.io.handed) {
                assert_eq!(worker, to);
                b.shard.accept(&batch, &mut b.io, b.now);
                count += 1;
            }
        }
        count
    }

    /// The SPIs by which a packet of a flow leaves, whichever worker the kernel gives it to.
    fn route(&mut self, flow: u16) -> Vec<u32> {
        let mut spis = Vec::new();
        for at_one in [false, true] {
            let end = if at_one { &mut self.one } else { &mut self.zero };
            end.send(&numbered(flow, 0));
            self.exchange();
            for end in [&mut self.zero, &mut self.one] {
                spis.extend(end.io.sent.iter().map(spi_of));
                deliver(end, &mut self.right);
            }
        }
        spis
    }

    fn routes(&mut self) -> Vec<u32> {
        (0..64)
            .map(|flow| {
                let spis = self.route(flow);
                assert_eq!(spis.len(), 2, "nothing is lost");
                assert_eq!(spis[0], spis[1], "a flow has one pair, wherever it comes from");
                spis[0]
            })
            .collect()
    }
}

/// A packet of a flow, told apart by its source port, with a number in its payload.
fn numbered(flow: u16, number: u16) -> Vec<u8> {
    let mut packet = udp("10.7.1.9", "10.7.2.9", 0, 10);
    packet[20..22].copy_from_slice(&(2_000 + flow).to_be_bytes());
    packet[28..30].copy_from_slice(&number.to_be_bytes());
    packet
}

#[test]
fn flows_are_spread_over_both_workers_and_each_has_one_pair() {
    for hosts in [true, false] {
        let mut fat = Fat::new(hosts);
        let first = fat.routes();
        let bound = first.iter().filter(|spi| **spi == BOUND.1).count();
        assert!((16..=48).contains(&bound), "{bound} of 64");
        assert!(first.iter().all(|spi| [FALLBACK.1, BOUND.1].contains(spi)));
        assert_eq!(fat.routes(), first);
        let drops = [&fat.zero, &fat.one, &fat.right].map(|end| end.shard.counters().drops.total());
        assert_eq!(drops, [0; 3]);
    }
}

#[test]
fn a_pair_that_goes_leaves_its_flows_to_the_others_and_gets_them_back() {
    for hosts in [true, false] {
        let mut fat = Fat::new(hosts);
        let before = fat.routes();
        fat.one.command(WorkerCommand::StopSending { spi_in: BOUND.0 });
        assert!(fat.routes().iter().all(|spi| *spi == FALLBACK.1));
        fat.one.command(WorkerCommand::Remove { spi_in: BOUND.0 });
        assert!(fat.routes().iter().all(|spi| *spi == FALLBACK.1));
        let again = place(pair(true, gcm(), BOUND.0, BOUND.1), Resource::Bound(0), hosts);
        fat.one.install(again);
        fat.right.install(pair(false, gcm(), BOUND.1, BOUND.0));
        assert_eq!(fat.routes(), before, "the same flows as before");
        // The first one may go as well.
        fat.zero.command(WorkerCommand::Remove { spi_in: FALLBACK.0 });
        assert!(fat.routes().iter().all(|spi| *spi == BOUND.1));
        assert_eq!(
            fat.zero.drops(DropReason::NoSa) + fat.one.drops(DropReason::NoSa),
            0
        );
    }
}

#[test]
fn a_change_reorders_what_was_under_way_at_most_and_loses_nothing() {
    let mut fat = Fat::new(true);
    let flow = (0..64).find(|flow| fat.route(*flow)[0] == BOUND.1).unwrap();
    fat.right.io.written.clear();
    for number in 0..5 {
        fat.zero.send(&numbered(flow, number));
    }
    assert_eq!(fat.zero.io.handed.len(), 5, "on their way to the other worker");
    fat.one.command(WorkerCommand::Remove { spi_in: BOUND.0 });
    for number in 5..10 {
        fat.zero.send(&numbered(flow, number));
    }
    deliver(&mut fat.zero, &mut fat.right);
    assert_eq!(fat.exchange(), 10, "there, and back because the pair is gone");
    assert_eq!(fat.one.drops(DropReason::NoSa), 0);
    deliver(&mut fat.zero, &mut fat.right);
    let numbers: Vec<u16> = fat
        .right
        .written()
        .iter()
        .map(|packet| u16::from_be_bytes([packet[28], packet[29]]))
        .collect();
    assert_eq!(numbers, [5, 6, 7, 8, 9, 0, 1, 2, 3, 4], "each part in its order");
    for number in 10..13 {
        fat.zero.send(&numbered(flow, number));
    }
    deliver(&mut fat.zero, &mut fat.right);
    assert_eq!(fat.right.written().len(), 3);
}

#[test]
fn a_pair_that_waits_for_the_peer_is_used_after_its_first_packet_or_ten_seconds() {
    for packet in [true, false] {
        let mut fat = Fat::new(true);
        fat.one.command(WorkerCommand::Remove { spi_in: BOUND.0 });
        let mut waiting = place(pair(true, gcm(), BOUND.0, BOUND.1), Resource::Bound(0), true);
        waiting.activate = Activate::OnFirstInbound;
        fat.one.install(waiting);
        fat.right.install(pair(false, gcm(), BOUND.1, BOUND.0));
        assert!(fat.routes().iter().all(|spi| *spi == FALLBACK.1));
        if packet {
            let mut peer = End::new(RIGHT, 0, 1, Arc::default());
            peer.install(pair(false, gcm(), BOUND.1, BOUND.0));
            peer.send(&udp("10.7.2.9", "10.7.1.9", 0, 10));
            deliver(&mut peer, &mut fat.one);
        } else {
            fat.one.now += Duration::from_secs(9);
            fat.one.turn();
            assert!(fat.routes().iter().all(|spi| *spi == FALLBACK.1));
            fat.one.now += Duration::from_secs(2);
            fat.one.turn();
        }
        let used = fat.routes().iter().filter(|spi| **spi == BOUND.1).count();
        assert!((16..=48).contains(&used), "{used}");
    }
}

#[test]
fn at_one_worker_a_bound_pair_goes_before_the_first_one_and_a_rekey_of_either_stays_apart() {
    let owners: Arc<Owners> = Arc::default();
    let mut left = End::new(LEFT, 0, 1, owners);
    let of = |spi: (u32, u32), resource| place(pair(true, gcm(), spi.0, spi.1), resource, true);
    left.install(of((0x1001, 0x2001), Resource::Fallback));
    left.install(of((0x1002, 0x2002), Resource::Bound(0)));
    left.install(of((0x1003, 0x2003), Resource::Bound(1)));
    let spread = |left: &mut End| {
        for flow in 0..64 {
            left.send(&numbered(flow, 0));
        }
        let mut spis: Vec<u32> = left.io.sent.drain(..).map(|sent| spi_of(&sent)).collect();
        spis.sort_unstable();
        spis.dedup();
        spis
    };
    assert_eq!(spread(&mut left), [0x2002, 0x2003], "both bound ones have flows");
    // Successors of the first one and of a bound one.
    left.install(of((0x1004, 0x2004), Resource::Fallback));
    left.install(of((0x1005, 0x2005), Resource::Bound(0)));
    assert_eq!(spread(&mut left), [0x2003, 0x2005]);
    for spi_in in [0x1001, 0x1002, 0x1003, 0x1005] {
        left.command(WorkerCommand::Remove { spi_in });
    }
    assert_eq!(spread(&mut left), [0x2004]);
}

#[test]
fn a_worker_that_dies_leaves_its_flows_to_the_others() {
    let owners: Arc<Owners> = Arc::default();
    let mut fat = Fat::new(true);
    fat.zero = End::new(LEFT, 0, 2, Arc::clone(&owners));
    fat.one = End::new(LEFT, 1, 2, Arc::clone(&owners));
    for (end, spi, resource) in [
        (&mut fat.zero, FALLBACK, Resource::Fallback),
        (&mut fat.one, BOUND, Resource::Bound(0)),
    ] {
        end.install(place(pair(true, gcm(), spi.0, spi.1), resource, true));
    }
    assert!(fat.routes().contains(&BOUND.1));
    fat.one = End::new(LEFT, 1, 2, owners);
    assert!(fat.routes().iter().all(|spi| *spi == FALLBACK.1));
}

#[test]
fn the_slot_of_a_fat_peer_goes_with_all_its_pairs() {
    let mut fat = Fat::new(false);
    fat.one.command(WorkerCommand::RemoveSlot { slot: 0 });
    assert!(fat.routes().iter().all(|spi| *spi == FALLBACK.1));
}

#[test]
fn the_kernel_is_told_which_workers_a_peer_has_once_a_second_and_when_it_changes() {
    let mut fat = Fat::new(false);
    let second = |fat: &mut Fat| {
        for end in [&mut fat.zero, &mut fat.one] {
            end.now += Duration::from_secs(1);
            end.turn();
        }
        assert!(fat.one.io.steered.is_empty(), "one of them is enough");
        std::mem::take(&mut fat.zero.io.steered)
    };
    let nets = |workers: u32| {
        let nets = NET_RIGHT.iter().map(|net| (net.parse().unwrap(), workers));
        vec![(1, nets.collect::<Vec<(IpNet, u32)>>())]
    };
    assert_eq!(second(&mut fat), nets(0b11));
    assert!(second(&mut fat).is_empty());
    fat.one.command(WorkerCommand::Remove { spi_in: BOUND.0 });
    assert_eq!(second(&mut fat), nets(0b01));
    // Another device knows nothing yet.
    let facts = fat.zero.shard.domains[&1].clone();
    fat.zero.shard.attach_domain(facts);
    assert_eq!(second(&mut fat), nets(0b01));
    fat.zero.command(WorkerCommand::Remove { spi_in: FALLBACK.0 });
    assert_eq!(second(&mut fat), [(1, vec![])]);
}

#[test]
fn late_packets_do_not_move_a_peer_back_that_another_worker_saw_move() {
    let mut fat = Fat::new(true);
    let (old, new): (SocketAddr, SocketAddr) = (RIGHT.parse().unwrap(), "192.0.2.77:1024".parse().unwrap());
    let mut peer = End::new(RIGHT, 0, 1, Arc::default());
    peer.install(pair(false, gcm(), BOUND.1, BOUND.0));
    fat.one.command(WorkerCommand::UpdatePeer {
        spi_in: BOUND.0,
        remote: new,
        local: None,
    });
    let moves = |end: &End| {
        let moved = |event: &&WorkerEvent| matches!(event, WorkerEvent::PeerMoved { .. });
        end.io.events.iter().filter(moved).count()
    };
    peer.send(&udp("10.7.2.9", "10.7.1.9", 0, 10));
    deliver_from(&mut peer, &mut fat.one, old);
    assert_eq!(fat.one.written().len(), 1, "it is taken nevertheless");
    assert_eq!(moves(&fat.one), 0);
    // Somewhere else it may be at once, and back again after a moment.
    let third: SocketAddr = "192.0.2.78:1024".parse().unwrap();
    peer.send(&udp("10.7.2.9", "10.7.1.9", 0, 10));
    deliver_from(&mut peer, &mut fat.one, third);
    assert_eq!(moves(&fat.one), 1);
    fat.one.command(WorkerCommand::UpdatePeer {
        spi_in: BOUND.0,
        remote: old,
        local: None,
    });
    fat.one.now += Duration::from_millis(1_100);
    peer.send(&udp("10.7.2.9", "10.7.1.9", 0, 10));
    deliver_from(&mut peer, &mut fat.one, third);
    assert_eq!(moves(&fat.one), 2);
}
