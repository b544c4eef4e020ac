//! A bad wire: lost, duplicated, reordered messages; cookies; wrong guesses of the group.

use std::time::Duration;

use crypto::Random as _;
use crypto::SeededRandom;
use ike::gate::{Gate, GateConfig, Load, Verdict};
use ike::wire::{ExchangeType, Flags, Header, Message, Notify, NotifyType, Payload, Spi};
use ike::{Event, FailureKind, IkeSa, Input, Role, Transmit};

use crate::pair::{Fate, Pair, Setup, cert, ike};

fn notify_from_gateway(pair: &Pair, notify: Notify) -> Input {
    let header = Header::new(
        pair.initiator.sa.spi_i(),
        Spi::ZERO,
        ExchangeType::IKE_SA_INIT,
        Flags::response(false),
        0,
    );
    let bytes = Message::new(header, vec![Payload::Notify(notify)])
        .encode()
        .unwrap();
    let (local, remote) = (pair.initiator.sa.local(), pair.initiator.sa.remote());
    Input::Datagram { local, remote, bytes }
}

/// Any single datagram may be lost: a retransmission makes up for it.
#[test]
fn any_datagram_may_be_lost_once() {
    for lost in 0..4 {
        let mut pair = Setup::psk().pair();
        pair.fate = Box::new(move |_, number| if number == lost { Fate::Drop } else { Fate::Deliver });
        pair.run();
        while !(pair.initiator.is_established() && pair.responder.is_established()) {
            assert!(pair.tick(), "stuck after losing {lost}");
        }
        pair.assert_up();
        assert_eq!(pair.initiator.sa.counters().retransmits_out, 1);
    }
}

/// A lost fragment is made up for by the whole set.
#[test]
fn any_fragment_may_be_lost_once() {
    for lost in 2..10 {
        let mut setup = Setup::new(
            cert("alice@example.org", "rsa4096"),
            cert("gw.example.org", "rsa4096"),
        );
        setup.init.fragment_size = 1000;
        setup.config.fragment_size = 1000;
        let mut pair = setup.pair();
        pair.fate = Box::new(move |_, number| if number == lost { Fate::Drop } else { Fate::Deliver });
        pair.run();
        while !(pair.initiator.is_established() && pair.responder.is_established()) {
            assert!(pair.tick(), "stuck after losing {lost}");
        }
        pair.assert_up();
    }
}

#[test]
fn lost_doubled_and_reordered_at_random() {
    for seed in 0..200 {
        let mut setup = Setup::psk();
        setup.seed = seed;
        setup.config.fragment_size = 200;
        setup.init.fragment_size = 200;
        let mut pair = setup.pair();
        let mut random = SeededRandom::from_seed(seed);
        pair.fate = Box::new(move |_, _| match random.u32() % 10 {
            0 => Fate::Drop,
            1 | 2 => Fate::Twice,
            3 | 4 => Fate::Late,
            _ => Fate::Deliver,
        });
        pair.run();
        while !(pair.initiator.is_established() && pair.responder.is_established()) {
            assert!(
                !pair.initiator.has_failed(),
                "seed {seed}: {:#?}",
                pair.initiator.events
            );
            assert!(pair.tick(), "seed {seed}: stuck");
        }
        pair.assert_up();
        assert_eq!(pair.responder.jobs.len(), 1, "seed {seed}: authenticated twice");
    }
}

//= rfc7296#section-2.1
//= type=test
//# In that event, the responder MUST ignore the retransmitted
//# request except insofar as it causes a retransmission of the response.
#[test]
fn a_request_again_is_answered_octet_by_octet() {
    let mut pair = Setup::psk().pair();
    pair.fate = Box::new(|_, _| Fate::Twice);
    pair.run();
    pair.assert_up();
    let first = &pair.responder.sent[0].bytes;
    assert!(
        pair.responder.sent[1..]
            .iter()
            .any(|transmit| transmit.bytes == *first)
    );
    let auth: Vec<_> = pair.responder.sent.iter().filter(|t| t.bytes[18] == 35).collect();
    assert!(auth.len() >= 2);
    assert!(auth.iter().all(|t| t.bytes == auth[0].bytes));
}

#[test]
fn a_silent_gateway_is_given_up() {
    let mut pair = Setup::psk().pair();
    pair.fate = Box::new(|_, _| Fate::Drop);
    pair.run();
    let start = pair.now;
    while pair.initiator.sa.deadline().is_some() {
        pair.tick();
    }
    assert_eq!(pair.initiator.failure().kind, FailureKind::Timeout);
    assert_eq!(pair.initiator.sent.len(), 6);
    // 2 s × (1 + 1.8 + 1.8² + …), six terms.
    let waited = pair.now - start;
    assert!(
        (Duration::from_secs(80)..Duration::from_secs(84)).contains(&waited),
        "{waited:?}"
    );
    assert!(pair.initiator.spis.taken.lock().unwrap().is_empty());
}

/// Nothing is left of a peer that goes silent after IKE_SA_INIT.
#[test]
fn half_open_is_bounded_in_time() {
    let mut pair = Setup::psk().pair();
    pair.fate = Box::new(|from, number| {
        if from == Role::Initiator && number > 0 {
            Fate::Drop
        } else {
            Fate::Deliver
        }
    });
    pair.run();
    assert_eq!(pair.responder.sa.deadline().unwrap().1, "half_open");
    pair.pass(Duration::from_secs(31));
    assert_eq!(pair.responder.failure().kind, FailureKind::HalfOpen);
    assert!(matches!(pair.responder.events.last(), Some(Event::Closed { .. })));
}

//= rfc7296#section-2.6
//= type=test
//# include the COOKIE notification containing
//# the received data as the first payload, and all other payloads
//# unchanged.
#[test]
fn a_cookie_is_returned_in_front_of_an_unchanged_request() {
    let mut setup = Setup::psk();
    setup.config.force_encap = true;
    let mut pair = setup.pair();
    pair.fate = Box::new(|_, number| if number == 0 { Fate::Drop } else { Fate::Deliver });
    pair.start();
    let cookie = Notify::with_data(NotifyType::COOKIE, vec![7; 24]);
    let input = notify_from_gateway(&pair, cookie.clone());
    let sent = pair.initiator.handle(pair.now, input.clone());
    let first = Message::decode(&pair.initiator.sent[0].bytes).unwrap();
    let second = Message::decode(&sent[0].bytes).unwrap();
    assert_eq!(second.payloads[0], Payload::Notify(cookie));
    assert_eq!(second.payloads[1..], first.payloads[..]);
    // The same cookie again is a duplicate.
    assert!(pair.initiator.handle(pair.now, input).is_empty());
    pair.post(Role::Initiator, sent);
    pair.run();
    pair.assert_up();
}

/// The gate asks for a cookie, the initiator brings it, and the gate lets it through.
#[test]
fn a_cookie_from_the_gate() {
    let mut pair = Setup::psk().pair();
    let config = GateConfig {
        cookie_threshold: 0,
        ..GateConfig::default()
    };
    let mut gate = Gate::new(pair.now, config, Box::new(SeededRandom::from_seed(3)));
    let load = Load {
        half_open: 1,
        busy: false,
    };
    pair.start();
    let first = pair.wire.pop_front().unwrap().1;
    let Verdict::Reply(bytes) = gate.screen(pair.now, first.local, first.remote, &first.bytes, load) else {
        panic!("no cookie was asked for");
    };
    let (local, remote) = (first.local, first.remote);
    let sent = pair
        .initiator
        .handle(pair.now, Input::Datagram { local, remote, bytes });
    let verdict = gate.screen(pair.now, local, remote, &sent[0].bytes, load);
    assert!(
        matches!(verdict, Verdict::Initial { verified: true, .. }),
        "{verdict:?}"
    );
    pair.post(Role::Initiator, sent);
    pair.run();
    pair.assert_up();
}

/// Somebody who floods the initiator with cookies does not make it send for ever.
#[test]
fn cookies_are_followed_a_few_times_only() {
    let mut pair = Setup::psk().pair();
    pair.fate = Box::new(|_, _| Fate::Drop);
    pair.run();
    let mut sent = 0;
    for number in 0..100 {
        let input = notify_from_gateway(&pair, Notify::with_data(NotifyType::COOKIE, vec![number; 8]));
        sent += pair.initiator.handle(pair.now, input).len();
    }
    assert_eq!(sent, 8);
    for odd in [vec![], vec![0; 65]] {
        let input = notify_from_gateway(&pair, Notify::with_data(NotifyType::COOKIE, odd));
        assert!(pair.initiator.handle(pair.now, input).is_empty());
    }
    assert!(!pair.initiator.has_failed());
}

//= rfc7296#section-1.2
//= type=test
//# In
//# this case, the initiator MUST retry the IKE_SA_INIT with the
//# corrected Diffie-Hellman group.
#[test]
fn a_wrong_guess_of_the_group_costs_a_round_trip() {
    let mut setup = Setup::psk();
    setup.config.proposals = ike("aes256gcm16-prfsha256-modp4096-x25519-ecp256");
    setup.init.proposals = ike("aes256gcm16-prfsha256-ecp256");
    let pair = setup.run();
    pair.assert_up();
    assert!(pair.initiator.steps().contains(&"invalid_ke"));
    assert_eq!(pair.count, 6);
    let (first, second) = (&pair.initiator.sent[0].bytes, &pair.initiator.sent[1].bytes);
    let (first, second) = (Message::decode(first).unwrap(), Message::decode(second).unwrap());
    assert_eq!(first.sa(), second.sa());
    assert_eq!(second.ke().unwrap().group.0, 19);
}

/// Forged INVALID_KE_PAYLOAD answers lead to each group once, to no group that was not offered, and to no end.
#[test]
fn no_ping_pong_between_groups() {
    let mut setup = Setup::psk();
    setup.config.proposals = ike("aes256gcm16-prfsha256-x25519-ecp256");
    let mut pair = setup.pair();
    pair.fate = Box::new(|_, _| Fate::Drop);
    pair.run();
    let mut sent = 0;
    for round in 0..50u16 {
        let group = if round % 2 == 0 { 19u16 } else { 31 };
        let notify = Notify::with_data(NotifyType::INVALID_KE_PAYLOAD, group.to_be_bytes().to_vec());
        let input = notify_from_gateway(&pair, notify);
        sent += pair.initiator.handle(pair.now, input).len();
    }
    assert_eq!(sent, 1);
    for data in [vec![0, 2], vec![0xff, 0xff], vec![], vec![1]] {
        let input = notify_from_gateway(&pair, Notify::with_data(NotifyType::INVALID_KE_PAYLOAD, data));
        assert!(pair.initiator.handle(pair.now, input).is_empty());
    }
    assert!(!pair.initiator.has_failed());
}

//= rfc7296#section-2.21.1
//= type=test
//# Because all error notifications are completely
//# unauthenticated, the recipient should continue trying for some time
//# before giving up.
#[test]
fn a_forged_refusal_does_not_kill_a_login() {
    for kind in [
        NotifyType::NO_PROPOSAL_CHOSEN,
        NotifyType::INVALID_SYNTAX,
        NotifyType::AUTHENTICATION_FAILED,
    ] {
        let mut pair = Setup::psk().pair();
        pair.start();
        let input = notify_from_gateway(&pair, Notify::new(kind));
        assert!(pair.initiator.handle(pair.now, input).is_empty());
        pair.run();
        pair.assert_up();
    }
    // Without a better answer it counts in the end.
    let mut pair = Setup::psk().pair();
    pair.fate = Box::new(|_, _| Fate::Drop);
    pair.run();
    let input = notify_from_gateway(&pair, Notify::new(NotifyType::NO_PROPOSAL_CHOSEN));
    pair.initiator.handle(pair.now, input);
    pair.pass(Duration::from_secs(5));
    assert_eq!(
        pair.initiator.failure().notify,
        Some(NotifyType::NO_PROPOSAL_CHOSEN)
    );
}

#[test]
fn recorded_inputs_give_the_same_outputs() {
    let mut setup = Setup::psk();
    setup.config.proposals = ike("aes256gcm16-prfsha256-modp2048-x25519");
    let again = Setup {
        config: setup.config.clone(),
        now: setup.now,
        ..Setup::psk()
    };
    let mut pair = setup.pair();
    pair.fate = Box::new(|_, number| if number % 3 == 1 { Fate::Drop } else { Fate::Twice });
    pair.run();
    while !(pair.initiator.is_established() && pair.responder.is_established()) {
        assert!(pair.tick());
    }
    let mut fresh = again.pair();
    let (client, gateway) = (pair.initiator.inputs.clone(), pair.responder.inputs.clone());
    let replay = |sa: &mut IkeSa, inputs: &[(std::time::Instant, Input)]| {
        let mut trace = Vec::new();
        let mut drain = |sa: &mut IkeSa| {
            while let Some(output) = sa.poll() {
                trace.push(format!("{output:?}"));
            }
        };
        drain(sa);
        for (now, input) in inputs {
            sa.handle(*now, input.clone());
            drain(sa);
        }
        trace
    };
    assert_eq!(replay(&mut fresh.initiator.sa, &client), pair.initiator.trace);
    assert_eq!(replay(&mut fresh.responder.sa, &gateway), pair.responder.trace);
    assert!(pair.initiator.trace.len() > 6);
}

#[test]
fn an_answer_from_another_address_is_nobodys() {
    let mut pair = Setup::psk().pair();
    pair.start();
    let Some((
        _,
        Transmit {
            local, remote, bytes, ..
        },
    )) = pair.wire.pop_front()
    else {
        panic!("nothing sent")
    };
    let now = pair.now;
    let answers = pair.responder.handle(
        now,
        Input::Datagram {
            local: remote,
            remote: local,
            bytes,
        },
    );
    let stranger = "203.0.113.66:500".parse().unwrap();
    let bytes = answers[0].bytes.clone();
    let sent = pair.initiator.handle(
        now,
        Input::Datagram {
            local,
            remote: stranger,
            bytes,
        },
    );
    assert!(sent.is_empty());
    assert_eq!(pair.initiator.sa.counters().unexpected, 1);
}
