//! Limits of time, and clients that do not take rekeys.

use super::*;

const LIFE: Lifetime = Lifetime {
    soft: Some(Duration::from_secs(1000)),
    hard: Some(Duration::from_secs(1200)),
    soft_octets: None,
    hard_octets: None,
};

#[test]
fn children_and_the_ike_sa_are_replaced_in_time_for_days() {
    let setup = Setup {
        child_life: LIFE,
        ike_life: Lifetime {
            soft: Some(Duration::from_secs(2900)),
            hard: Some(Duration::from_secs(3600)),
            ..Lifetime::default()
        },
        ..Setup::default()
    };
    for seed in 0..5 {
        let mut pair = Pair::with(&Setup {
            seed,
            ..setup.clone()
        });
        for _ in 0..48 {
            pair.pass(Duration::from_secs(3600));
            assert!(pair.a.closed.is_none() && pair.b.closed.is_none());
            assert_eq!(pair.a.in_use().len(), 1, "{:?}", pair.a.warnings);
        }
        assert!(pair.a.core.counters().ike_rekeys >= 48);
        assert!(pair.a.ended.len() >= 48 * 3);
        assert!(
            pair.a.ended.iter().all(|(_, end)| *end == ChildEnd::Rekeyed),
            "no child ever expired"
        );
    }
}

#[test]
fn both_limits_at_the_same_instant_still_leave_one_child() {
    let mut pair = Pair::new();
    for side in [&mut pair.a, &mut pair.b] {
        let child = side.core.children.iter_mut().next().unwrap();
        child.soft_at = Some(pair.now + Duration::from_secs(5));
    }
    pair.now += Duration::from_secs(5);
    pair.fire();
    assert_eq!((pair.a.out.len(), pair.b.out.len()), (1, 1));
    pair.check_one_child();
}

#[test]
fn a_client_that_takes_no_rekeys_gets_none_before_the_hard_limit() {
    let setup = Setup {
        child_life: LIFE,
        rekey: RekeyPolicy::BeforeHardLimit,
        ..Setup::default()
    };
    let mut pair = Pair::with(&setup);
    let spi_in = pair.a.only();
    // Not even the data plane's volume limit makes it start one.
    pair.command_a(Command::RekeyChild { spi_in, group: None });
    assert!(pair.a.out.is_empty());
    assert!(pair.a.warnings[0].contains("does not take rekeys"));
    pair.pass(Duration::from_secs(1079));
    assert!(pair.a.rekeyed.is_empty() && pair.b.rekeyed.is_empty());
    // Its own rekeys are answered as ever.
    pair.b.core.policy.rekey = RekeyPolicy::AtSoftLimit;
    pair.rekey_b();
    pair.check_one_child();
    assert_eq!(pair.a.rekeyed.len(), 1);
}

#[test]
fn a_child_that_nobody_rekeys_is_deleted_at_its_hard_limit() {
    let setup = Setup {
        child_life: LIFE,
        rekey: RekeyPolicy::Never,
        ..Setup::default()
    };
    let mut pair = Pair::with(&setup);
    pair.pass(Duration::from_secs(1199));
    assert_eq!(pair.a.installed.len(), 1);
    pair.pass(Duration::from_secs(2));
    pair.check();
    assert!(pair.a.installed.is_empty());
    assert!(pair.a.closed.is_none());
}

#[test]
fn an_ike_sa_that_nobody_rekeys_is_closed_at_its_hard_limit() {
    let setup = Setup {
        ike_life: LIFE,
        rekey: RekeyPolicy::Never,
        ..Setup::default()
    };
    let mut pair = Pair::with(&setup);
    pair.pass(Duration::from_secs(1199));
    assert!(pair.a.closed.is_none());
    pair.pass(Duration::from_secs(2));
    assert!(matches!(
        pair.a.closed,
        Some(CloseReason::Expired | CloseReason::DeletedByPeer)
    ));
    assert!(matches!(
        pair.b.closed,
        Some(CloseReason::Expired | CloseReason::DeletedByPeer)
    ));
}

#[test]
fn message_ids_that_run_out_make_the_ike_sa_rekey() {
    //= rfc7296#section-2.2
    //= type=test
    //# In the unlikely event that Message IDs grow too large to fit in 32 bits, the IKE SA MUST be closed or rekeyed.
    let mut pair = Pair::new();
    pair.a.core.current.window.next_send = u32::MAX - 10;
    pair.b.core.current.window.next_recv = u32::MAX - 10;
    pair.command_a(Command::CheckLiveness);
    pair.check_one_child();
    assert_eq!(pair.a.core.counters().ike_rekeys, 1);
}

#[test]
fn an_initiator_behind_nat_keeps_its_mapping_alive() {
    let behind = NatFindings {
        supported: true,
        local: true,
        remote: false,
    };
    let facing = NatFindings {
        supported: true,
        local: false,
        remote: true,
    };
    let setup = Setup {
        nat: (behind, facing),
        ..Setup::default()
    };
    let mut pair = Pair::with(&setup);
    assert_eq!(
        pair.a.core.deadline(),
        Some((pair.now + Duration::from_secs(20), "keepalive"))
    );
    assert_eq!(pair.b.core.deadline(), None);
    for _ in 0..3 {
        pair.now += Duration::from_secs(20);
        pair.fire();
        let letter = pair.hold_a();
        assert_eq!((letter.bytes.as_slice(), letter.durable), (&[0xff][..], false));
        assert!(pair.a.out.is_empty());
    }
    pair.command_a(Command::CheckLiveness);
    pair.settle();
    assert_eq!(
        pair.a.core.deadline().unwrap().0,
        pair.now + Duration::from_secs(20)
    );
    // Also after the gateway has rekeyed the IKE SA and become its initiator.
    pair.command_b(Command::RekeyIke);
    pair.settle();
    assert_eq!(pair.a.core.role(), Role::Responder);
    assert!(
        pair.a
            .core
            .deadline()
            .is_some_and(|(at, _)| at <= pair.now + Duration::from_secs(20))
    );
    pair.now += Duration::from_secs(20);
    pair.fire();
    assert!(pair.a.out.iter().any(|letter| letter.bytes == [0xff]));
}
