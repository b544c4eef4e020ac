//! Snapshots: what is stored is enough to go on, at any point, under a new generation.

use super::*;
use crate::established::RestoreError;

impl Side {
    /// Stores, drops and restores the core; the data plane and what is on the way survive.
    pub(super) fn restart(&mut self, now: Instant, generation: u16, timing: Timing) {
        let Some(snapshot) = self.core.snapshot(now) else {
            return;
        };
        self.spis.taken.lock().unwrap().clear();
        let context = Context {
            random: Box::new(Dice {
                seeded: SeededRandom::from_seed(u64::from(generation) * 1000 + u64::from(self.spis.side)),
                nonce: self.nonce.clone(),
            }),
            spis: self.spis.clone(),
            generation: 0,
            key_log: false,
            timing,
        };
        self.core = Core::restore(now, context, snapshot, Duration::ZERO, generation).unwrap();
        self.drain();
    }
}

#[test]
fn message_ids_and_the_last_answer_survive() {
    let mut pair = Pair::new();
    pair.rekey_a();
    let request = pair.hold_a();
    pair.give_b(&request);
    let answer = pair.hold_b();
    pair.b.restart(pair.now, 2, Timing::default());
    pair.give_b(&request);
    assert_eq!(pair.hold_b().bytes, answer.bytes);
    pair.give_a(&answer);
    pair.check_one_child();
}

#[test]
fn a_request_under_way_goes_out_again_octet_by_octet_and_its_answer_is_understood() {
    for groups in [Vec::new(), vec![Group::Ecp256]] {
        for command in [None, Some(Command::RekeyIke)] {
            let setup = Setup {
                groups: (groups.clone(), groups.clone()),
                ..Setup::default()
            };
            let mut pair = Pair::with(&setup);
            match command {
                None => pair.rekey_a(),
                Some(command) => pair.command_a(command),
            }
            let request = pair.hold_a();
            pair.a.restart(pair.now, 2, Timing::default());
            assert!(pair.a.out.is_empty());
            pair.fire();
            assert_eq!(pair.a.out[0].bytes, request.bytes);
            pair.check_one_child();
            assert_eq!(pair.a.rekeyed.len() + pair.a.ike_rekeyed.len(), 1);
        }
    }
}

#[test]
fn a_collision_survives_restarts_of_both_sides_at_every_step() {
    for (lowest, steps) in (0..4).flat_map(|lowest| (0..9).map(move |steps| (lowest, steps))) {
        for ike in [false, true] {
            let mut pair = Pair::new();
            let nonce = |pair: &Pair, n: usize| pair.nonce(if n == lowest { 0 } else { 0xff });
            for step in 0..9 {
                if step == steps {
                    pair.a.restart(pair.now, 2, Timing::default());
                    pair.b.restart(pair.now, 2, Timing::default());
                }
                match step {
                    0 => {
                        nonce(&pair, 0);
                        if ike {
                            pair.command_a(Command::RekeyIke)
                        } else {
                            pair.rekey_a()
                        }
                    }
                    1 => {
                        nonce(&pair, 1);
                        if ike {
                            pair.command_b(Command::RekeyIke)
                        } else {
                            pair.rekey_b()
                        }
                    }
                    2 => {
                        nonce(&pair, 2);
                        pair.reach_b();
                    }
                    3 => {
                        nonce(&pair, 3);
                        pair.reach_a();
                    }
                    4 | 6 | 8 => drop(pair.reach_a()),
                    _ => drop(pair.reach_b()),
                }
            }
            pair.check_one_child();
        }
    }
}

#[test]
fn no_iv_is_used_twice_across_a_restart() {
    let mut pair = Pair::new();
    pair.command_a(Command::CheckLiveness);
    pair.settle();
    assert_eq!(
        pair.a.current().ivs,
        IvSource {
            generation: 1,
            counter: 1
        }
    );
    pair.a.restart(pair.now, 7, Timing::default());
    assert_eq!(
        pair.a.current().ivs,
        IvSource {
            generation: 7,
            counter: 0
        }
    );
    pair.command_a(Command::CheckLiveness);
    // Header 28, SK header 4, then the IV.
    assert_eq!(pair.a.out[0].bytes[32..40], (7u64 << 48).to_be_bytes());
}

#[test]
fn lifetimes_go_on_where_they_were() {
    let setup = Setup {
        child_life: Lifetime {
            soft: None,
            hard: Some(Duration::from_secs(1000)),
            ..Lifetime::default()
        },
        rekey: RekeyPolicy::Never,
        ..Setup::default()
    };
    let mut pair = Pair::with(&setup);
    pair.now += Duration::from_secs(300);
    let snapshot = pair.a.core.snapshot(pair.now).unwrap();
    let context = |spis: Spis| Context {
        random: Box::new(SeededRandom::from_seed(5)),
        spis: Arc::new(spis),
        generation: 0,
        key_log: false,
        timing: Timing::default(),
    };
    // A day later by the wall clock, with an instant of another process.
    let later = epoch() + Duration::from_secs(77);
    let elapsed = Duration::from_secs(600);
    let core = Core::restore(later, context(Spis::default()), snapshot.clone(), elapsed, 2).unwrap();
    assert_eq!(
        core.deadline(),
        Some((later + Duration::from_secs(100), "expire-child"))
    );
    let expired = Core::restore(later, context(Spis::default()), snapshot.clone(), elapsed * 9, 2).unwrap();
    let last = Duration::from_secs(4);
    assert_eq!(
        expired.deadline(),
        Some((later + last, "expire-child")),
        "a wall clock may be wrong"
    );
    // What had less keeps what it had.
    pair.now += Duration::from_secs(698);
    let short = pair.a.core.snapshot(pair.now).unwrap();
    for elapsed in [Duration::from_secs(1), elapsed * 9] {
        let core = Core::restore(later, context(Spis::default()), short.clone(), elapsed, 2).unwrap();
        assert_eq!(
            core.deadline(),
            Some((later + Duration::from_secs(2), "expire-child"))
        );
    }
    // Somebody else has the SPI.
    let spis = Spis::default();
    assert!(spis.claim_esp(0x0001_0100));
    let taken = Core::restore(later, context(spis), snapshot, elapsed, 2).unwrap_err();
    assert_eq!(taken, RestoreError::SpiTaken(0x0001_0100));
}

#[test]
fn a_replaced_link_and_a_leaving_child_survive() {
    let mut pair = Pair::new();
    pair.command_a(Command::RekeyIke);
    pair.reach_b();
    pair.reach_a();
    pair.rekey_a();
    pair.reach_b();
    pair.a.restart(pair.now, 2, Timing::default());
    pair.b.restart(pair.now, 2, Timing::default());
    assert_eq!(pair.b.core.spis().count(), 2);
    pair.fire();
    pair.settle();
    pair.a.restart(pair.now, 3, Timing::default());
    assert_eq!(pair.a.core.children().count(), 2, "one of them is leaving");
    pair.check_one_child();
}

#[test]
fn the_record_survives_its_encoding() {
    let mut pair = Pair::new();
    pair.rekey_a();
    pair.command_b(Command::RekeyIke);
    for side in [&pair.a, &pair.b] {
        let snapshot = side.core.snapshot(pair.now).unwrap();
        let text = postcard::to_stdvec(&snapshot).unwrap();
        let back: crate::established::CoreSnapshot = postcard::from_bytes(&text).unwrap();
        assert_eq!(format!("{back:?}"), format!("{snapshot:?}"));
        assert!(text.len() < 4096, "{} octets", text.len());
    }
}
