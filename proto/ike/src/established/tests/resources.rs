//! Several child SAs with the same selectors on different resources (RFC 9611).

use super::*;

/// Both ends want a group; what each binds to which of its workers.
fn setup(initiator: &[u8], responder: &[u8]) -> Setup {
    Setup {
        resources: (initiator.to_vec(), responder.to_vec()),
        first: Resource::Fallback,
        max_children: 16,
        ..Setup::default()
    }
}

/// Resources of the children in use, and the workers that their SPIs name, oldest first.
fn places(side: &Side) -> Vec<(Resource, u32)> {
    let used = side.in_use();
    side.core
        .children()
        .filter(|sa| used.contains(&sa.spi_in))
        .map(|sa| (sa.resource, sa.spi_in >> 29))
        .collect()
}

fn up(setup: &Setup) -> Pair {
    let mut pair = Pair::with(setup);
    pair.pass(Duration::from_secs(1));
    pair
}

const FALLBACK: (Resource, u32) = (Resource::Fallback, 0);

fn bound(number: u8, worker: u32) -> (Resource, u32) {
    (Resource::Bound(number), worker)
}

#[test]
fn the_initiator_asks_for_one_child_on_each_resource_and_each_end_binds_its_own() {
    let pair = up(&setup(&[1, 2], &[5, 6, 7]));
    assert_eq!(places(&pair.a), [FALLBACK, bound(0, 1), bound(1, 2)]);
    assert_eq!(places(&pair.b), [FALLBACK, bound(0, 5), bound(1, 6)]);
    pair.check();
    let (a, b) = (&pair.a.installed, &pair.b.installed);
    let selectors = |map: &BTreeMap<u32, ChildSa>| {
        let mut all: Vec<_> = map
            .values()
            .map(|sa| (sa.ts_local.clone(), sa.ts_remote.clone()))
            .collect();
        all.dedup();
        all.len()
    };
    assert_eq!((selectors(a), selectors(b)), (1, 1), "all for the same traffic");
    let mut keys: Vec<_> = a.values().map(|sa| sa.keys_out.enc.expose().to_vec()).collect();
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), 3, "each with keys of its own");
    // Whoever answers waits for the first packet, as nothing is lost by that.
    for sa in b.values() {
        let waits = sa.activate == Activate::OnFirstInbound;
        assert_eq!(waits, sa.resource != Resource::Fallback);
    }
    assert!(a.values().all(|sa| sa.activate == Activate::Now));
}

#[test]
fn requests_and_answers_carry_the_notify() {
    let mut pair = Pair::with(&setup(&[1], &[1]));
    pair.fire();
    let request = pair.reach_b();
    assert!(request.has_notify(NotifyType::SA_RESOURCE_INFO));
    assert!(!request.has_notify(NotifyType::REKEY_SA));
    let notify = Payloads(&request.payloads)
        .notify(NotifyType::SA_RESOURCE_INFO)
        .unwrap();
    assert_eq!((notify.protocol, notify.spi.len()), (ProtocolId::NONE, 0));
    assert!(pair.reach_a().has_notify(NotifyType::SA_RESOURCE_INFO));
}

#[test]
fn a_peer_that_wants_more_than_there_are_is_refused_and_asks_no_more() {
    let mut pair = up(&setup(&[1, 2, 3, 4], &[7]));
    assert_eq!(places(&pair.b), [FALLBACK, bound(0, 7)]);
    assert_eq!(places(&pair.a), [FALLBACK, bound(0, 1)]);
    assert_eq!(
        pair.a.core.counters().resources_refused,
        1,
        "three waited, one asked"
    );
    assert_eq!(pair.b.core.counters().resources_refused, 1);
    pair.pass(Duration::from_secs(600));
    assert_eq!(pair.b.core.counters().resources_refused, 1);
    assert!(pair.a.is_idle());
    pair.check();
}

#[test]
fn max_children_holds_for_them_too() {
    let limits = Setup {
        max_children: 3,
        ..setup(&[1, 2, 3], &[1, 2, 3])
    };
    let pair = up(&limits);
    assert_eq!(pair.b.in_use().len(), 3);
    assert_eq!(pair.a.core.counters().resources_refused, 1);
    pair.check();
}

#[test]
fn one_who_does_not_want_groups_answers_a_second_request_with_the_notify() {
    let off = Setup {
        first: Resource::Fallback,
        ..setup(&[1], &[])
    };
    let mut pair = Pair::with(&off);
    pair.fire();
    pair.reach_b();
    let answer = pair.reach_a();
    assert!(answer.has_notify(NotifyType::TS_MAX_QUEUE));
    assert_eq!((pair.a.in_use().len(), pair.b.in_use().len()), (1, 1));
    pair.check();
}

#[test]
fn without_the_notify_a_second_child_is_one_like_any_other() {
    let mut pair = Pair::with(&setup(&[], &[1, 2]));
    pair.command_a(Command::CreateChild {
        ts_local: vec![net("10.1.0.0/24")],
        ts_remote: vec![net("10.2.0.0/24")],
    });
    pair.settle();
    assert_eq!(places(&pair.b), [FALLBACK, (Resource::None, 0)]);
    pair.check();
}

#[test]
fn other_selectors_are_another_group() {
    let mut pair = up(&setup(&[1], &[1]));
    pair.command_a(Command::CreateChild {
        ts_local: vec![net("10.1.0.0/25")],
        ts_remote: vec![net("10.2.0.0/24")],
    });
    pair.pass(Duration::from_secs(1));
    let both = [FALLBACK, bound(0, 1), FALLBACK, bound(0, 1)];
    assert_eq!(places(&pair.b), both);
    assert_eq!(places(&pair.a), both);
    pair.check();
}

#[test]
fn a_rekey_keeps_the_resource_whoever_starts_it() {
    for swap in [false, true] {
        let mut pair = up(&setup(&[1, 2], &[5, 6]));
        let before = (places(&pair.a), places(&pair.b));
        let side = if swap { &pair.b } else { &pair.a };
        for spi_in in side.in_use() {
            let command = Command::RekeyChild { spi_in, group: None };
            if swap {
                pair.command_b(command);
            } else {
                pair.command_a(command);
            }
            pair.pass(Duration::from_secs(15));
        }
        let sorted = |mut places: Vec<(Resource, u32)>| {
            places.sort_by_key(|(resource, worker)| (resource.to_string(), *worker));
            places
        };
        assert_eq!(sorted(places(&pair.a)), sorted(before.0));
        assert_eq!(sorted(places(&pair.b)), sorted(before.1));
        assert_eq!((pair.a.rekeyed.len(), pair.b.rekeyed.len()), (3, 3));
        pair.check();
    }
}

#[test]
fn rekeys_of_both_ends_at_once_leave_one_successor_on_the_same_resource() {
    let mut pair = up(&setup(&[1], &[5]));
    let (a, b) = (pair.a.in_use()[1], pair.b.in_use()[1]);
    pair.command_a(Command::RekeyChild {
        spi_in: a,
        group: None,
    });
    pair.command_b(Command::RekeyChild {
        spi_in: b,
        group: None,
    });
    pair.pass(Duration::from_secs(15));
    assert_eq!(places(&pair.a), [FALLBACK, bound(0, 1)]);
    assert_eq!(places(&pair.b), [FALLBACK, bound(0, 5)]);
    assert_ne!(pair.a.in_use()[1], a);
    pair.check();
}

#[test]
fn a_deleted_one_leaves_the_others_and_its_resource_is_free_again() {
    let mut pair = up(&setup(&[1, 2], &[5, 6]));
    let first = pair.b.in_use()[1];
    pair.command_b(Command::DeleteChild { spi_in: first });
    pair.pass(Duration::from_secs(15));
    assert_eq!(places(&pair.b), [FALLBACK, bound(1, 6)]);
    assert_eq!(places(&pair.a), [FALLBACK, bound(1, 2)]);
    pair.check();
    // A peer that makes another one gets the free resource.
    let work = super::super::queue::Work::CreateChild {
        ts_local: vec![net("10.1.0.0/24")],
        ts_remote: vec![net("10.2.0.0/24")],
        group: None,
        resource: Resource::Bound(0),
    };
    pair.a.core.want(pair.now, work);
    pair.pass(Duration::from_secs(1));
    assert_eq!(places(&pair.b), [FALLBACK, bound(1, 6), bound(0, 5)]);
    pair.check();
}

#[test]
fn requests_of_both_ends_at_once_do_not_meet_on_one_resource() {
    let mut pair = up(&setup(&[], &[5, 6]));
    // The responder may ask as well; both messages cross.
    for side in [&mut pair.a, &mut pair.b] {
        side.core.policy.resources = vec![1, 2];
    }
    let work = |local: &str, remote: &str| super::super::queue::Work::CreateChild {
        ts_local: vec![net(local)],
        ts_remote: vec![net(remote)],
        group: None,
        resource: Resource::Bound(0),
    };
    pair.a.core.want(pair.now, work("10.1.0.0/24", "10.2.0.0/24"));
    pair.b.core.want(pair.now, work("10.2.0.0/24", "10.1.0.0/24"));
    pair.fire();
    pair.pass(Duration::from_secs(1));
    for side in [&pair.a, &pair.b] {
        let mut bound: Vec<_> = places(side).into_iter().skip(1).collect();
        bound.sort_by_key(|place| place.1);
        assert_eq!(bound, [(Resource::Bound(0), 1), (Resource::Bound(1), 2)]);
    }
    pair.check();
}

#[test]
fn the_ike_sa_is_rekeyed_and_carried_on_with_all_of_them() {
    let mut pair = up(&setup(&[1], &[5]));
    pair.command_a(Command::RekeyIke);
    pair.pass(Duration::from_secs(60));
    pair.check();
    let timing = Timing::default();
    pair.a.restart(pair.now, 2, timing);
    pair.b.restart(pair.now, 2, timing);
    assert_eq!(places(&pair.b), [FALLBACK, bound(0, 5)]);
    let spi_in = pair.b.in_use()[1];
    pair.command_b(Command::RekeyChild { spi_in, group: None });
    pair.pass(Duration::from_secs(15));
    assert_eq!(places(&pair.b), [FALLBACK, bound(0, 5)]);
    pair.check();
}

#[test]
fn an_answer_without_the_notify_makes_none() {
    let mut pair = Pair::with(&setup(&[1], &[1]));
    pair.fire();
    pair.reach_b();
    let answer = pair.hold_b();
    let mut payloads = answer.seen.clone().unwrap().payloads;
    let is_info =
        |payload: &Payload| matches!(payload, Payload::Notify(n) if n.kind == NotifyType::SA_RESOURCE_INFO);
    payloads.retain(|payload| !is_info(payload));
    let letter = pair.b.reseal(&answer, &payloads);
    pair.give_a(&letter);
    pair.pass(Duration::from_secs(15));
    assert_eq!(
        (places(&pair.a), places(&pair.b)),
        (vec![FALLBACK], vec![FALLBACK])
    );
    assert!(
        pair.a
            .warnings
            .iter()
            .any(|text| text.contains("SA_RESOURCE_INFO"))
    );
    pair.check();
}

#[test]
fn a_peer_that_does_not_have_one_any_more_gets_it_anew() {
    let mut pair = up(&setup(&[1], &[5]));
    let spi = pair.b.in_use()[1];
    // B lost it without a word.
    pair.b.core.drop_child(spi, ChildEnd::Failed);
    pair.b.drain();
    let spi_in = pair.a.in_use()[1];
    pair.command_a(Command::RekeyChild { spi_in, group: None });
    pair.pass(Duration::from_secs(15));
    assert_eq!(places(&pair.a), [FALLBACK, bound(0, 1)]);
    assert_eq!(places(&pair.b), [FALLBACK, bound(0, 5)]);
    pair.check();
}
