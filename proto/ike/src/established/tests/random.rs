//! Random orders, losses, duplicates and restarts: whatever happens, after quiet both sides agree.

use super::*;

/// A link that loses, doubles and reorders.
pub(super) struct Weather {
    pub(super) dice: SeededRandom,
    pub(super) loss: u32,
    pub(super) double: u32,
    pub(super) disorder: u32,
}

impl Weather {
    pub(super) fn chance(&mut self, percent: u32) -> bool {
        self.dice.u32() % 100 < percent
    }
}

/// What happens in one step.
pub(super) fn disturb(pair: &mut Pair, dice: &mut SeededRandom, may_close: bool) {
    let first = dice.u32().is_multiple_of(2);
    let now = pair.now;
    let side = if first { &mut pair.a } else { &mut pair.b };
    let used = side.in_use();
    let some = used.get(dice.u32() as usize % used.len().max(1)).copied();
    let command = match (dice.u32() % 20, some) {
        (0..=6, Some(spi_in)) => Command::RekeyChild { spi_in, group: None },
        (7..=9, _) => Command::RekeyIke,
        (10, Some(spi_in)) if used.len() > 1 => Command::DeleteChild { spi_in },
        (11..=12, _) if used.len() < 4 => Command::CreateChild {
            ts_local: side.core.policy.ts_local.clone(),
            ts_remote: side.core.policy.ts_remote.clone(),
        },
        (13, _) if may_close => Command::Close,
        _ => Command::CheckLiveness,
    };
    side.handle(now, Input::Command(command));
}

/// Moves what is on the way, in whatever order, to whatever end.
fn blow(pair: &mut Pair, weather: &mut Weather) {
    let now = pair.now;
    for from_a in [true, false] {
        let count = if from_a {
            pair.a.out.len()
        } else {
            pair.b.out.len()
        };
        for _ in 0..count {
            let out = if from_a { &mut pair.a.out } else { &mut pair.b.out };
            let Some(mut letter) = out.pop_front() else { break };
            if weather.chance(weather.disorder) {
                // It stays on the way and comes later than what follows.
                out.push_back(letter);
                continue;
            }
            if weather.chance(weather.loss) {
                continue;
            }
            if weather.chance(weather.double) {
                out.push_back(letter.clone());
            }
            letter.durable = false;
            deliver(if from_a { &mut pair.b } else { &mut pair.a }, now, &letter);
        }
    }
}

/// Lets the time go to the next deadline, or a little.
pub(super) fn tick(pair: &mut Pair, weather: &mut Weather) {
    let next = [&pair.a, &pair.b]
        .into_iter()
        .filter_map(|side| side.core.deadline())
        .map(|(at, _)| at)
        .min();
    let step = pair.now + Duration::from_millis(u64::from(weather.dice.u32() % 900));
    pair.now = next.map_or(step, |at| at.min(step)).max(pair.now);
    pair.fire();
}

fn run(seed: u64, loss: u32, may_close: bool, restarts: bool) -> Pair {
    let timing = Timing {
        // Patience enough that loss alone never looks like death.
        retransmit_base: Duration::from_millis(500),
        retransmit_factor: 1.1,
        retransmit_tries: 60,
        ..Timing::default()
    };
    let groups = vec![Group::Curve25519];
    let setup = Setup {
        seed,
        timing,
        groups: if seed.is_multiple_of(2) {
            (groups.clone(), groups)
        } else {
            (Vec::new(), Vec::new())
        },
        ..Setup::default()
    };
    let mut pair = Pair::with(&setup);
    let mut weather = Weather {
        dice: SeededRandom::from_seed(seed),
        loss,
        double: 10,
        disorder: 30,
    };
    let mut generation = 2;
    for step in 0..400 {
        if step % 5 == 0 && step < 300 {
            let mut dice = SeededRandom::from_seed(seed << 16 | step);
            disturb(&mut pair, &mut dice, may_close && step > 200);
        }
        if restarts && weather.chance(5) {
            let now = pair.now;
            let first = weather.chance(50);
            let side = if first { &mut pair.a } else { &mut pair.b };
            side.restart(now, generation, timing);
            generation += 1;
        }
        blow(&mut pair, &mut weather);
        tick(&mut pair, &mut weather);
    }
    // Quiet: everything arrives, nothing new is asked for, and what is asked in vain is given up in the end.
    pair.pass(Duration::from_secs(10_000));
    pair
}

/// Both sides have the same, or both have ended; nothing leaked; and it still works.
pub(super) fn check_settled(pair: &mut Pair, seed: u64) {
    if pair.a.closed.is_some() && pair.b.closed.is_some() {
        for side in [&pair.a, &pair.b] {
            assert!(side.spis.taken.lock().unwrap().is_empty(), "seed {seed}");
        }
        return;
    }
    assert_eq!((&pair.a.closed, &pair.b.closed), (&None, &None), "seed {seed}");
    pair.check();
    assert!(pair.a.is_idle() && pair.b.is_idle(), "seed {seed}");
    assert_eq!((pair.a.old_links(), pair.b.old_links()), (0, 0), "seed {seed}");
    let before = pair.a.in_use();
    assert_eq!(before.len(), pair.a.installed.len(), "seed {seed}");
    if let Some(spi_in) = before.first().copied() {
        pair.command_a(Command::RekeyChild { spi_in, group: None });
        pair.linger();
        pair.check();
        assert_eq!(pair.a.installed.len(), before.len(), "seed {seed}");
    }
}

#[test]
fn in_any_weather_both_sides_end_up_with_the_same_sas() {
    for seed in 0..200 {
        check_settled(&mut run(seed, seed as u32 % 50, false, false), seed);
    }
}

#[test]
fn an_end_in_bad_weather_is_an_end_for_both() {
    let mut ends = 0;
    for seed in 1000..1100 {
        let mut pair = run(seed, seed as u32 % 40, true, false);
        ends += u32::from(pair.a.closed.is_some());
        if pair.a.closed.is_some() != pair.b.closed.is_some() {
            // The answer to the DELETE was lost for good, and silence ends the other side as well.
            let side = if pair.a.closed.is_some() { &pair.b } else { &pair.a };
            assert!(
                !side.is_idle(),
                "seed {seed}: {:?} {:?}",
                pair.a.closed,
                pair.b.closed
            );
        } else {
            check_settled(&mut pair, seed);
        }
    }
    assert!(ends > 10);
}

#[test]
fn restarts_at_any_point_lose_nothing() {
    for seed in 2000..2150 {
        check_settled(&mut run(seed, seed as u32 % 30, false, true), seed);
    }
}

/// A stored record may be older than what was sent since, but never older than what was marked durable: everything but
/// signs of life and repetitions.
#[test]
fn everything_that_changes_state_is_durable_and_nothing_else_is() {
    let mut signs = 0;
    for seed in 3000..3010 {
        let timing = Timing::default();
        let mut pair = Pair::with(&Setup {
            seed,
            timing,
            ..Setup::default()
        });
        let mut dice = SeededRandom::from_seed(seed);
        for _ in 0..60 {
            disturb(&mut pair, &mut dice, false);
            let mut sent = BTreeSet::new();
            let mut requests = BTreeSet::new();
            while let Some(letter) = pair.a.out.pop_front().or_else(|| pair.b.out.pop_front()) {
                let first = sent.insert(letter.bytes.clone());
                let seen = letter.seen.as_ref().unwrap();
                let header = seen.header;
                // A response is empty as well if it answers a DELETE.
                let liveness = if header.flags.response {
                    !requests.contains(&(
                        header.spi_i,
                        header.spi_r,
                        header.message_id,
                        !header.flags.initiator,
                    ))
                } else {
                    seen.is_empty() && header.exchange == ExchangeType::INFORMATIONAL
                };
                if !header.flags.response && !liveness {
                    requests.insert((
                        header.spi_i,
                        header.spi_r,
                        header.message_id,
                        header.flags.initiator,
                    ));
                }
                signs += u32::from(liveness);
                assert_eq!(letter.durable, first && !liveness, "seed {seed}");
                let to_b = letter.to == pair.b.core.local();
                deliver(if to_b { &mut pair.b } else { &mut pair.a }, pair.now, &letter);
            }
            pair.pass(Duration::from_secs(4));
        }
    }
    assert!(signs > 100);
}
