//! Single faults in an otherwise perfect world: how long each takes, and that every rule that is switched off is noticed.

use std::time::Duration;

use cluster::Broken;

use crate::faults::{Fault, Kind};
use crate::run::{options_of, run};
use crate::world::{Options, World};

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A cluster that has run for eight seconds.
fn settled(nodes: usize, seed: u64) -> World {
    let mut world = World::new(Options {
        nodes,
        slots: 12,
        ..Options::new(seed)
    });
    world.run_until(ms(12_000));
    assert_eq!(world.checker.violation, None);
    assert_eq!(world.unwell(), None, "seed {seed}");
    world
}

fn slots_of(world: &World, node: usize) -> Vec<u8> {
    world.nodes[node].slots.keys().copied().collect()
}

/// The longest time from `from` until a slot of these was told to be served elsewhere.
fn longest(world: &World, slots: &[u8], from: Duration) -> Duration {
    slots
        .iter()
        .map(|slot| {
            let serve = world
                .serve_log
                .iter()
                .find(|(at, _, served, _)| *at > from && served == slot);
            serve.map_or(Duration::MAX, |(at, ..)| *at - from)
        })
        .max()
        .unwrap_or(Duration::MAX)
}

#[test]
fn slots_are_spread_evenly() {
    for seed in 0..10 {
        let world = settled(3, seed);
        for node in 0..3 {
            let count = slots_of(&world, node).len();
            assert!(
                (3..=5).contains(&count),
                "seed {seed}: node {node} has {count} of 12 slots"
            );
        }
    }
}

#[test]
fn a_killed_node_is_replaced_within_450_ms() {
    for (nodes, seeds) in [(3, 0..30), (5, 0..10)] {
        for seed in seeds {
            let mut world = settled(nodes, seed);
            let at = world.now + ms(seed * 7);
            world.run_until(at);
            let slots = slots_of(&world, 0);
            world.kill(0, false);
            world.run_until(at + ms(2_000));
            let took = longest(&world, &slots, at);
            assert!(took <= ms(450), "{nodes} nodes, seed {seed}: {took:?}");
            assert_eq!(world.checker.violation, None);
        }
    }
}

#[test]
fn a_death_notice_replaces_a_node_within_50_ms() {
    for (nodes, seeds) in [(2, 0..10), (3, 0..30), (5, 0..10)] {
        for seed in seeds {
            let mut world = settled(nodes, seed);
            let at = world.now + ms(seed * 7);
            world.run_until(at);
            let slots = slots_of(&world, 0);
            world.kill(0, true);
            world.run_until(at + ms(2_000));
            let took = longest(&world, &slots, at);
            assert!(took <= ms(50), "{nodes} nodes, seed {seed}: {took:?}");
        }
    }
}

#[test]
fn the_last_of_two_asks_the_store_and_takes_everything_within_a_second() {
    for seed in 0..20 {
        let mut world = settled(2, seed);
        let at = world.now + ms(seed * 7);
        world.run_until(at);
        let slots = slots_of(&world, 0);
        world.kill(0, false);
        world.run_until(at + ms(3_000));
        let took = longest(&world, &slots, at);
        assert!(took <= ms(800), "seed {seed}: {took:?}");
    }
}

#[test]
fn two_nodes_that_do_not_hear_each_other_keep_what_they_have() {
    for seed in 0..20 {
        let mut world = settled(2, seed);
        let (at, before) = (world.now, world.serve_log.len());
        world.add_fault(Fault {
            kind: Kind::Isolated { node: 0 },
            at: at + ms(seed * 7),
            lasts: ms(5_000),
        });
        world.run_until(at + ms(8_000));
        assert_eq!(world.checker.violation, None);
        assert_eq!(world.serve_log.len(), before, "seed {seed}: a slot moved");
    }
}

#[test]
fn a_second_failure_within_a_second_is_survived() {
    for seed in 0..20 {
        let mut world = settled(3, seed);
        let at = world.now;
        let mut slots = slots_of(&world, 0);
        slots.extend(slots_of(&world, 1));
        world.kill(0, true);
        world.run_until(at + ms(seed * 45));
        world.kill(1, true);
        let second = world.now;
        world.run_until(second + ms(1_000));
        for slot in slots {
            assert!(
                world.nodes[2].slots.get(&slot).is_some_and(|serving| serving.up),
                "seed {seed}: slot {slot}"
            );
        }
    }
}

#[test]
fn a_drained_node_hands_over_everything_without_a_gap() {
    for seed in 0..20 {
        let mut world = settled(3, seed);
        let at = world.now;
        let slots = slots_of(&world, 0);
        world.order(0, cluster::Order::Drain);
        while world.now < at + ms(3_000) && world.checker.violation.is_none() {
            let next = world.now + ms(1);
            world.run_until(next);
            for slot in 0..world.options.slots {
                assert!(
                    world.node_at(slot).is_some(),
                    "seed {seed}: slot {slot} is nowhere"
                );
            }
        }
        assert_eq!(world.checker.violation, None);
        assert!(slots_of(&world, 0).is_empty());
        assert_eq!(world.nodes[0].done.len(), 1);
        assert!(world.nodes[0].done[0].is_ok());
        for slot in slots {
            let freeze = world
                .freeze_log
                .iter()
                .rev()
                .find(|(_, node, frozen)| *node == 0 && *frozen == slot);
            let ready = world
                .ready_log
                .iter()
                .rev()
                .find(|(_, _, ready, _)| *ready == slot);
            let (Some(freeze), Some(ready)) = (freeze, ready) else {
                panic!("slot {slot} was not handed over");
            };
            let took = ready.0 - freeze.0;
            assert!(
                took <= ms(100),
                "seed {seed}: IKE of slot {slot} stood still for {took:?}"
            );
        }
        assert_eq!(world.report.relogins, 0);
    }
}

#[test]
fn a_lost_service_link_gives_everything_away_at_once() {
    for seed in 0..20 {
        let mut world = settled(3, seed);
        let at = world.now;
        let slots = slots_of(&world, 1);
        world.add_fault(Fault {
            kind: Kind::ServiceLink { node: 1 },
            at,
            lasts: ms(20_000),
        });
        world.run_until(at + ms(1_500));
        let took = longest(&world, &slots, at);
        assert!(took <= ms(250), "seed {seed}: {took:?}");
    }
}

#[test]
fn a_store_that_is_gone_for_all_moves_nothing_and_stops_nothing() {
    for (nodes, seeds) in [(2, 0..5), (3, 0..10)] {
        for seed in seeds {
            let mut world = settled(nodes, seed);
            let (at, before) = (world.now, world.serve_log.len());
            world.add_fault(Fault {
                kind: Kind::StoreStall,
                at: at + ms(seed * 31),
                lasts: ms(30_000),
            });
            while world.now < at + ms(35_000) && world.checker.violation.is_none() {
                let next = world.now + ms(100);
                world.run_until(next);
                for (index, client) in world.clients.iter().enumerate() {
                    let silent = world.now.saturating_sub(client.received);
                    assert!(
                        silent < ms(400),
                        "seed {seed}: client {index} hears nothing for {silent:?}"
                    );
                }
            }
            assert_eq!(world.checker.violation, None);
            assert_eq!(world.serve_log.len(), before, "seed {seed}: a slot moved");
        }
    }
}

#[test]
fn a_node_that_alone_loses_the_store_stops_and_is_replaced() {
    for seed in 0..10 {
        let mut world = settled(3, seed);
        let at = world.now;
        let slots = slots_of(&world, 2);
        world.add_fault(Fault {
            kind: Kind::StoreLink { node: 2 },
            at,
            lasts: ms(20_000),
        });
        world.run_until(at + ms(1_501));
        assert!(slots_of(&world, 2).is_empty(), "seed {seed}: it goes on");
        world.run_until(at + ms(4_000));
        let took = longest(&world, &slots, at);
        assert!(took <= ms(3_000), "seed {seed}: {took:?}");
    }
}

#[test]
fn live_slots_are_kept_over_a_restored_and_a_wiped_store() {
    for (kind, seeds) in [(Kind::Restore, 0..10), (Kind::Wipe, 10..20)] {
        for seed in seeds {
            let mut world = settled(3, seed);
            world.etcd.take_backup();
            world.run_until(ms(16_000));
            let (at, before) = (world.now, world.serve_log.len());
            world.add_fault(Fault {
                kind: kind.clone(),
                at,
                lasts: ms(1_000),
            });
            world.run_until(at + ms(6_000));
            assert_eq!(world.checker.violation, None, "seed {seed}");
            assert_eq!(
                world.serve_log.len(),
                before,
                "seed {seed}: a slot was taken anew"
            );
            assert_eq!(world.report.refences, 12, "seed {seed}");
            assert_eq!(world.report.relogins, 0, "seed {seed}: a tunnel was lost");
            assert_eq!(world.unwell(), None, "seed {seed}");
        }
    }
}

#[test]
fn moves_can_be_asked_for_anywhere() {
    for seed in 0..10 {
        let mut world = settled(3, seed);
        let slot = slots_of(&world, 1)[0];
        // Asked at a node that does not own it, for another that does not, either.
        let to = world.nodes[2].name.clone();
        world.order(0, cluster::Order::Move { slot, to });
        let at = world.now;
        world.run_until(at + ms(1_000));
        assert!(world.nodes[2].slots.contains_key(&slot), "seed {seed}");
        let wish = cluster::keys::wish(slot);
        assert_eq!(world.etcd.text(&wish), None, "the wish is taken away");
    }
}

#[test]
fn a_node_that_leaves_is_no_member_and_can_join_again() {
    let mut world = settled(3, 1);
    world.order(0, cluster::Order::Leave);
    let at = world.now;
    world.run_until(at + ms(3_000));
    assert_eq!(world.etcd.text("member/n0"), None);
    assert_eq!(world.etcd.text("node/n0"), None);
    assert!(slots_of(&world, 0).is_empty());
    world.order(0, cluster::Order::Join);
    world.run_until(at + ms(16_000));
    assert!(world.etcd.text("member/n0").is_some());
    assert!(!slots_of(&world, 0).is_empty(), "slots are spread over it again");
    assert_eq!(world.checker.violation, None);
}

#[test]
fn a_silent_owner_is_damped_but_a_dead_one_is_not() {
    let mut world = settled(3, 3);
    let at = world.now;
    let slot = slots_of(&world, 0)[0];
    world.kill(0, false);
    world.run_until(at + ms(1_000));
    let holder = (0..3)
        .find(|node| world.nodes[*node].slots.contains_key(&slot))
        .unwrap();
    let again = world.now;
    world.add_fault(Fault {
        kind: Kind::Isolated { node: holder },
        at: again,
        lasts: ms(1_500),
    });
    world.run_until(again + ms(1_500));
    assert!(
        world.nodes[holder].slots.contains_key(&slot),
        "it moved again within 10 s"
    );
    let dead = world.now;
    world.boot_node(0);
    world.run_until(dead + ms(2_000));
    let dead = world.now;
    world.kill(holder, true);
    world.run_until(dead + ms(500));
    assert!(longest(&world, &[slot], dead) <= ms(50));
}

/// A checker that notices nothing proves nothing.
fn is_noticed(broken: Broken, with: &str) {
    let found = (1..=120).find_map(|seed| {
        let (mut options, faults) = options_of(seed);
        options.broken = broken;
        run(options, faults).err()
    });
    let found = found.unwrap_or_else(|| panic!("{broken:?} was not noticed"));
    assert!(found.contains(with), "{broken:?} was noticed as {found}");
}

#[test]
fn claims_that_compare_nothing_are_noticed() {
    is_noticed(Broken::BlindClaim, "S3");
}

#[test]
fn claims_that_keep_the_generation_are_noticed() {
    is_noticed(Broken::SameGeneration, "S3");
}

#[test]
fn generations_that_are_not_raised_after_a_restore_are_noticed() {
    is_noticed(Broken::NoRaise, "S");
}

#[test]
fn nodes_that_go_on_past_their_deadline_are_noticed() {
    is_noticed(Broken::NoDeadline, "deadline");
}

#[test]
fn owners_that_are_stubborn_are_noticed() {
    is_noticed(Broken::Stubborn, "S15");
}

#[test]
fn a_lone_suspicion_is_noticed() {
    // Not unsafe, but it moves slots of nodes that are well.
    let mut world = World::new(Options {
        broken: Broken::LoneSuspicion,
        ..Options::new(5)
    });
    world.run_until(ms(12_000));
    let (at, before) = (world.now, world.serve_log.len());
    for path in 0..2 {
        world.loss.insert((0, 1, path), 100);
    }
    world.run_until(at + ms(3_000));
    assert!(world.serve_log.len() > before, "the rule was not needed");
}
