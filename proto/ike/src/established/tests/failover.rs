//! Random takeovers in any weather: the gateway goes on from its last record while signs of life, requests and answers are on
//! the way. Watched all the time: no IV twice under a key (also by the node that is not yet quite dead), and no request
//! that changes state answered in two ways.

use super::random::{Weather, check_settled, disturb, tick};
use super::*;
use crate::types::MessageIds;

type Iv = (Spi, Spi, bool, [u8; 8]);

/// What an eavesdropper with all keys has seen.
#[derive(Default)]
struct Watch {
    ivs: BTreeMap<Iv, Vec<u8>>,
    /// Requests that change state, and their answers.
    answers: BTreeMap<Vec<u8>, Vec<u8>>,
    repeated: u32,
}

impl Watch {
    /// S1: what has the same key and IV is the same.
    fn sent(&mut self, letter: &Letter) {
        let (header, _) = Header::of_datagram(&letter.bytes).unwrap();
        let iv = letter.bytes[32..40].try_into().unwrap();
        let place = (header.spi_i, header.spi_r, header.flags.initiator, iv);
        let before = self.ivs.entry(place).or_insert_with(|| letter.bytes.clone());
        assert_eq!(*before, letter.bytes, "an IV was used twice");
    }

    /// S5: a request that changes state has one answer.
    fn answered(&mut self, request: &Letter, answers: &[Letter]) {
        let seen = request.seen.as_ref().unwrap();
        let sync = seen.has_notify(NotifyType::IKEV2_MESSAGE_ID_SYNC);
        if seen.header.flags.response || seen.is_empty() || sync {
            return;
        }
        let ours = |letter: &&Letter| {
            let (header, _) = Header::of_datagram(&letter.bytes).unwrap();
            header.flags.response && header.message_id == seen.header.message_id
        };
        if let Some(answer) = answers.iter().find(ours) {
            match self.answers.get(&request.bytes) {
                Some(before) => {
                    assert_eq!(*before, answer.bytes, "answered in two ways");
                    self.repeated += 1;
                }
                None => drop(self.answers.insert(request.bytes.clone(), answer.bytes.clone())),
            }
        }
    }
}

/// Moves what is on the way.
fn blow(pair: &mut Pair, weather: &mut Weather, watch: &mut Watch) {
    let now = pair.now;
    for from_a in [true, false] {
        let (from, to) = if from_a {
            (&mut pair.a, &mut pair.b)
        } else {
            (&mut pair.b, &mut pair.a)
        };
        for _ in 0..from.out.len() {
            let Some(letter) = from.out.pop_front() else { break };
            watch.sent(&letter);
            if weather.chance(weather.disorder) {
                from.out.push_back(letter);
                continue;
            }
            if weather.chance(weather.loss) {
                continue;
            }
            if weather.chance(weather.double) {
                from.out.push_back(letter.clone());
            }
            let before = to.out.len();
            deliver(to, now, &letter);
            let answers: Vec<Letter> = to.out.iter().skip(before).cloned().collect();
            watch.answered(&letter, &answers);
        }
    }
}

/// A paused node that does not know yet that another one has taken over.
fn zombie(side: &mut Side, now: Instant, watch: &mut Watch) {
    let before = side.out.len();
    for _ in 0..3 {
        side.core.handle(now, Input::Command(Command::CheckLiveness));
        side.drain();
        side.core.current.window.pending = None;
    }
    for letter in side.out.drain(before..) {
        watch.sent(&letter);
    }
}

struct Plan {
    seed: u64,
    loss: u32,
    sync: bool,
    both: bool,
}

struct Outcome {
    pair: Pair,
    watch: Watch,
    takeovers: u32,
}

fn run(plan: &Plan) -> Outcome {
    let timing = Timing {
        retransmit_base: Duration::from_millis(500),
        retransmit_factor: 1.1,
        retransmit_tries: 60,
        ..Timing::default()
    };
    let setup = Setup {
        seed: plan.seed,
        timing,
        message_id_sync: plan.sync,
        random_ivs: plan.sync,
        max_children: 40,
        ..Setup::default()
    };
    let mut pair = Pair::with(&setup);
    for side in [&mut pair.a, &mut pair.b] {
        side.record = side.core.snapshot(epoch()).map(|record| (record, epoch()));
    }
    let mut weather = Weather {
        dice: SeededRandom::from_seed(plan.seed),
        loss: plan.loss,
        double: 10,
        disorder: 30,
    };
    let mut watch = Watch::default();
    let mut generation = 2;
    let mut takeovers = 0;
    let mut checkpoints: [Option<MessageIds>; 2] = [None; 2];
    for step in 0..400 {
        if step % 5 == 0 && step < 300 {
            let mut dice = SeededRandom::from_seed(plan.seed << 16 | step);
            disturb(&mut pair, &mut dice, false);
        }
        if step % 7 == 0 {
            checkpoints = [Some(pair.a.core.message_ids()), Some(pair.b.core.message_ids())];
        }
        if step < 350 && weather.chance(3) {
            let now = pair.now;
            let first = plan.both && weather.chance(50);
            let newer = checkpoints[usize::from(!first)];
            let side = if first { &mut pair.a } else { &mut pair.b };
            if let Some(record) = side.record.clone() {
                // What the dead node had sent is still on the way.
                zombie(side, now, &mut watch);
                side.take_over(now, record, newer, generation, timing);
                generation += 1;
                takeovers += 1;
            }
        }
        blow(&mut pair, &mut weather, &mut watch);
        tick(&mut pair, &mut weather);
    }
    pair.pass(Duration::from_secs(10_000));
    Outcome {
        pair,
        watch,
        takeovers,
    }
}

#[test]
fn takeovers_at_any_point_lose_nothing_without_synchronization() {
    let (mut takeovers, mut repeated, mut gaps, mut probes) = (0, 0, 0, 0);
    for seed in 5000..5150 {
        let plan = Plan {
            seed,
            loss: seed as u32 % 30,
            sync: false,
            both: seed.is_multiple_of(3),
        };
        let mut outcome = run(&plan);
        check_settled(&mut outcome.pair, seed);
        takeovers += outcome.takeovers;
        repeated += outcome.watch.repeated;
        gaps += outcome.pair.b.core.counters().message_id_gaps;
        probes += outcome.pair.b.core.counters().message_id_probes;
    }
    assert!(takeovers > 500 && repeated > 500, "{takeovers} {repeated}");
    assert!(gaps > 10 && probes > 100, "{gaps} {probes}");
}

#[test]
fn takeovers_at_any_point_leave_both_ways_open_with_synchronization() {
    let (mut takeovers, mut repeated, mut syncs, mut whole) = (0, 0, 0, 0);
    for seed in 6000..6150 {
        let plan = Plan {
            seed,
            loss: seed as u32 % 30,
            sync: true,
            both: false,
        };
        let Outcome {
            mut pair,
            watch,
            takeovers: times,
        } = run(&plan);
        assert_eq!((&pair.a.closed, &pair.b.closed), (&None, &None), "seed {seed}");
        assert_eq!(
            (pair.a.core.spi_i(), pair.a.core.spi_r()),
            (pair.b.core.spi_i(), pair.b.core.spi_r())
        );
        takeovers += times;
        repeated += watch.repeated;
        syncs += pair.b.core.counters().message_id_syncs;
        // RFC 6311 section 8.3: a request that a synchronization made the peer forget may have been executed.
        let spis = |side: &Side, out: bool| -> BTreeSet<u32> {
            let spi = |sa: &ChildSa| if out { sa.spi_out } else { sa.spi_in };
            side.core.children().map(spi).collect()
        };
        whole += u32::from(spis(&pair.a, false) == spis(&pair.b, true));
        for _ in 0..2 {
            let ts = (
                pair.a.core.policy.ts_local.clone(),
                pair.a.core.policy.ts_remote.clone(),
            );
            let before = (pair.a.installed.len(), pair.b.installed.len());
            pair.command_a(Command::CreateChild {
                ts_local: ts.0.clone(),
                ts_remote: ts.1.clone(),
            });
            pair.settle();
            pair.command_b(Command::CreateChild {
                ts_local: ts.1,
                ts_remote: ts.0,
            });
            pair.settle();
            let after = (pair.a.installed.len(), pair.b.installed.len());
            assert_eq!(after, (before.0 + 2, before.1 + 2), "seed {seed}");
        }
    }
    assert!(
        takeovers > 500 && repeated > 200 && syncs > 300,
        "{takeovers} {repeated} {syncs}"
    );
    assert!(whole >= 145, "{whole} of 150 have the same child SAs");
}
